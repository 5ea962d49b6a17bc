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
    pub(crate) gossip_refused: Counter,
    pub(crate) verdicts_dropped: Counter,
    pub(crate) streams_refused: Counter,
    pub(crate) streams_excess: Counter,
    pub(crate) frames_delayed: Counter,
    pub(crate) reads_delayed: Counter,
    pub(crate) handshakes_refused: Counter,
    pub(crate) strangers_closed: Counter,
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
    /// Gossiped messages, and calls of gossipsub, refused unread: beyond the peer's share, or of another topic.
    pub gossip_refused: u64,
    /// Verdicts dropped, since the swarm task was behind.
    pub verdicts_dropped: u64,
    /// Streams of peers that were reset, since nobody took them in time.
    pub streams_refused: u64,
    /// Connections closed, since the peer opened more streams than its share.
    pub streams_excess: u64,
    /// Frames that waited, since the peer had used up its share.
    pub frames_delayed: u64,
    /// Times that a stranger's socket was not read for a while, since strangers at its address had used up their share.
    pub reads_delayed: u64,
    /// Inbound connections closed before their handshake: beyond the share of their address, or of all.
    pub handshakes_refused: u64,
    /// Strangers' connections closed to make room for others.
    pub strangers_closed: u64,
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

impl NetCounters {
    /// Each with its name: lower case, stable.
    pub fn by_name(self) -> [(&'static str, u64); 14] {
        let Self {
            gossip_dropped,
            gossip_refused,
            verdicts_dropped,
            streams_refused,
            streams_excess,
            frames_delayed,
            reads_delayed,
            handshakes_refused,
            strangers_closed,
            probes_refused,
            inbound_failed,
            dials_failed,
            versions_refused,
            frames_unsent,
        } = self;
        [
            ("gossip_dropped", gossip_dropped),
            ("gossip_refused", gossip_refused),
            ("verdicts_dropped", verdicts_dropped),
            ("streams_refused", streams_refused),
            ("streams_excess", streams_excess),
            ("frames_delayed", frames_delayed),
            ("reads_delayed", reads_delayed),
            ("handshakes_refused", handshakes_refused),
            ("strangers_closed", strangers_closed),
            ("probes_refused", probes_refused),
            ("inbound_failed", inbound_failed),
            ("dials_failed", dials_failed),
            ("versions_refused", versions_refused),
            ("frames_unsent", frames_unsent),
        ]
    }
}

impl Counters {
    pub(crate) fn read(&self) -> NetCounters {
        NetCounters {
            gossip_dropped: self.gossip_dropped.get(),
            gossip_refused: self.gossip_refused.get(),
            verdicts_dropped: self.verdicts_dropped.get(),
            streams_refused: self.streams_refused.get(),
            streams_excess: self.streams_excess.get(),
            frames_delayed: self.frames_delayed.get(),
            reads_delayed: self.reads_delayed.get(),
            handshakes_refused: self.handshakes_refused.get(),
            strangers_closed: self.strangers_closed.get(),
            probes_refused: self.probes_refused.get(),
            inbound_failed: self.inbound_failed.get(),
            dials_failed: self.dials_failed.get(),
            versions_refused: self.versions_refused.get(),
            frames_unsent: self.frames_unsent.get(),
        }
    }
}
