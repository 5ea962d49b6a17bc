//! What this node dropped or refused, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) gossip_dropped: Counter,
    pub(crate) verdicts_dropped: Counter,
    pub(crate) streams_refused: Counter,
    pub(crate) probes_refused: Counter,
    pub(crate) inbound_failed: Counter,
    pub(crate) dials_failed: Counter,
    pub(crate) versions_refused: Counter,
    pub(crate) frames_unsent: Counter,
}

/// A reading of the node's counters since its start, for its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Adverts dropped, since the events' receiver was full or gone.
    pub gossip_dropped: u64,
    /// Verdicts dropped, since the swarm task was behind.
    pub verdicts_dropped: u64,
    /// Streams of peers that were reset, since nobody took them in time.
    pub streams_refused: u64,
    /// Probe streams of peers that were reset, since too many are open.
    pub probes_refused: u64,
    /// Inbound connections that failed their handshake or exceeded a limit.
    pub inbound_failed: u64,
    /// Dials that failed at every address.
    pub dials_failed: u64,
    /// Streams that were not opened, since the peer speaks no version of the protocol that this node speaks.
    pub versions_refused: u64,
    /// Messages that were not sent, since the version agreed on with the peer does not have them.
    pub frames_unsent: u64,
}

impl Counters {
    pub(crate) fn read(&self) -> NetCounters {
        NetCounters {
            gossip_dropped: self.gossip_dropped.get(),
            verdicts_dropped: self.verdicts_dropped.get(),
            streams_refused: self.streams_refused.get(),
            probes_refused: self.probes_refused.get(),
            inbound_failed: self.inbound_failed.get(),
            dials_failed: self.dials_failed.get(),
            versions_refused: self.versions_refused.get(),
            frames_unsent: self.frames_unsent.get(),
        }
    }
}
