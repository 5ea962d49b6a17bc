//! Tells the owner of a `Net` which peers came and went, when there is room to tell.
//!
//! Invariant: a peer is in `untold` exactly if what was told of it differs from what holds; so the sets are bounded by
//! the peers connected now and those told of before.

use std::collections::BTreeSet;

use wayfare_protocol::ids::HostId;

use crate::net::NetEvent;

#[derive(Debug, Default)]
pub(crate) struct PeerNews {
    connected: BTreeSet<HostId>,
    told: BTreeSet<HostId>,
    untold: BTreeSet<HostId>,
}

impl PeerNews {
    pub(crate) fn connected(&mut self, host: HostId) {
        self.connected.insert(host);
        self.compare(host);
    }

    pub(crate) fn disconnected(&mut self, host: HostId) {
        self.connected.remove(&host);
        self.compare(host);
    }

    pub(crate) fn count(&self) -> usize {
        self.connected.len()
    }

    pub(crate) fn is_pending(&self) -> bool {
        !self.untold.is_empty()
    }

    /// The next change, which counts as told.
    pub(crate) fn next(&mut self) -> Option<NetEvent> {
        let host = self.untold.pop_first()?;
        if self.connected.contains(&host) {
            self.told.insert(host);
            Some(NetEvent::PeerConnected(host))
        } else {
            self.told.remove(&host);
            Some(NetEvent::PeerDisconnected(host))
        }
    }

    fn compare(&mut self, host: HostId) {
        if self.connected.contains(&host) == self.told.contains(&host) {
            self.untold.remove(&host);
        } else {
            self.untold.insert(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_cancel_out_before_they_are_told_are_not_told() {
        let host = HostId([1; 32]);
        let mut news = PeerNews::default();
        news.connected(host);
        news.disconnected(host);
        assert!(!news.is_pending());
        news.connected(host);
        assert!(matches!(news.next(), Some(NetEvent::PeerConnected(told)) if told == host));
        news.disconnected(host);
        assert!(matches!(news.next(), Some(NetEvent::PeerDisconnected(told)) if told == host));
        assert!(news.next().is_none() && news.told.is_empty());
    }
}
