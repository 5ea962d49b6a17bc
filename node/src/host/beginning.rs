//! Streams that a peer has opened and not yet said, or not yet proved, what for: a few for each peer, so that whoever opens many
//! and says nothing keeps nobody else from being heard.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wayfare_protocol::{ids::HostId, limits::HALF_OPEN_PER_PEER_MAX};

/// Of one peer: a migration may have been tried again while the last stream for it is still here. More: the stream is dropped.
const PER_PEER_MAX: usize = 2 * HALF_OPEN_PER_PEER_MAX;
/// Of all. More: the stream is dropped.
const ALL_MAX: usize = 512;

/// How many there are of each peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Beginning(Arc<Mutex<BTreeMap<HostId, usize>>>);

/// One of them. Dropped, it has begun or ended.
#[derive(Debug)]
pub(super) struct Turn {
    of: Beginning,
    peer: HostId,
}

impl Beginning {
    /// Another stream of `peer`; `None`: it has too many.
    pub(super) fn enter(&self, peer: HostId) -> Option<Turn> {
        let mut counts = self.lock();
        if counts.values().sum::<usize>() >= ALL_MAX || counts.get(&peer).is_some_and(|count| *count >= PER_PEER_MAX) {
            return None;
        }
        *counts.entry(peer).or_default() += 1;
        Some(Turn { of: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whose stream it is.
    pub(super) const fn peer(&self) -> HostId {
        self.peer
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_opens_many_and_says_nothing_is_refused_and_others_are_not() {
        let (beginning, flood, honest) = (Beginning::default(), HostId([1; 32]), HostId([2; 32]));
        let mut turns: Vec<Turn> = (0..100).filter_map(|_| beginning.enter(flood)).collect();
        assert_eq!(turns.len(), PER_PEER_MAX);
        assert!(beginning.enter(honest).is_some());
        turns.pop();
        assert!(beginning.enter(flood).is_some());
        drop(turns);
        assert!(beginning.lock().is_empty());
        let many: Vec<Turn> = (0..=255).flat_map(|n| [n; 4]).filter_map(|n| beginning.enter(HostId([n; 32]))).collect();
        assert_eq!(many.len(), ALL_MAX);
    }
}
