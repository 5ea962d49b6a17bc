//! What can happen, and to whom.

use wayfare_protocol::{
    host::{FetchJob, HeldJob, hosted::Stay},
    ids::{HostId, MigrationId},
    reject::Guards,
};

use super::{
    faults::Strike,
    host::{ImageFor, Task},
    network::Frame,
    world::World,
};

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Event {
    /// A frame reaches this end of a stream.
    Frame { conn: usize, end: usize, frame: Frame },
    /// A dial reaches the other side, whose answer takes `back` µs.
    Accept { conn: usize, back: u64 },
    /// Whoever dialled learns that the stream is open.
    Opened { conn: usize },
    /// This end learns that the stream is over.
    Closed { conn: usize, end: usize, reason: &'static str },
    /// A gossiped message arrives.
    Gossip { to: usize, frame: Frame },
    /// A timer, set for this time.
    Timer { node: usize, life: u32 },
    /// The disk has finished a sync.
    Synced { node: usize, life: u32 },
    /// The node hears that it has.
    Told { node: usize, life: u32, seq: u64 },
    /// An instance comes to its next task.
    Work { node: usize, life: u32, stay: Stay, instance: u64, task: Task },
    /// An image is on disk.
    Saved { node: usize, life: u32, image: ImageFor },
    /// Every record has left for the target.
    Sent { node: usize, life: u32, mig: MigrationId, conn: usize },
    /// A held state is ready again.
    HeldAgain { node: usize, life: u32, job: HeldJob },
    /// The module of an update has come, or cannot.
    Fetched { node: usize, life: u32, job: Box<FetchJob> },
    /// A gateway measures round trips.
    Probe { node: usize, life: u32 },
    /// One of them is measured.
    Measured { node: usize, life: u32, host: HostId, rtt: u64 },
    /// A client wants something.
    Ask { client: usize },
    /// Somebody wants a service elsewhere.
    Move { service: usize },
    /// An owner wants something of its service, or waits to hear of it.
    Owner { service: usize },
    /// A fault.
    Strike(Strike),
    /// A node that is down comes up.
    Restart { node: usize },
    /// A node that hung goes on.
    Wake { node: usize },
}

impl<G: Guards> World<G> {
    /// Which node's process an event is for.
    pub(super) fn concerns(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Frame { conn, end, .. } | Event::Closed { conn, end, .. } => Some(self.conns[*conn].ends[*end]),
            Event::Opened { conn } => Some(self.conns[*conn].ends[0]),
            Event::Gossip { to, .. } => Some(*to),
            Event::Timer { node, .. }
            | Event::Told { node, .. }
            | Event::Work { node, .. }
            | Event::Saved { node, .. }
            | Event::Sent { node, .. }
            | Event::HeldAgain { node, .. }
            | Event::Fetched { node, .. }
            | Event::Probe { node, .. }
            | Event::Measured { node, .. }
            | Event::Wake { node } => Some(*node),
            Event::Ask { client } => Some(self.clients[*client].gateway),
            Event::Accept { .. }
            | Event::Synced { .. }
            | Event::Move { .. }
            | Event::Owner { .. }
            | Event::Strike(_)
            | Event::Restart { .. } => None,
        }
    }
}

/// What the trace hash, the coverage and people know an event by.
pub(super) fn label(event: &Event) -> (&'static str, &[u8]) {
    match event {
        Event::Frame { frame, .. } | Event::Gossip { frame, .. } => (frame.name, &frame.bytes),
        Event::Accept { .. } => ("accept", &[]),
        Event::Opened { .. } => ("opened", &[]),
        Event::Closed { .. } => ("closed", &[]),
        Event::Timer { .. } => ("timer", &[]),
        Event::Synced { .. } => ("disk", &[]),
        Event::Told { .. } => ("synced", &[]),
        Event::Work { task, .. } => (task.name(), &[]),
        Event::Saved { .. } => ("saved", &[]),
        Event::Sent { .. } => ("sent", &[]),
        Event::HeldAgain { .. } => ("held again", &[]),
        Event::Fetched { .. } => ("fetched", &[]),
        Event::Probe { .. } => ("probe", &[]),
        Event::Measured { .. } => ("measured", &[]),
        Event::Ask { .. } => ("asked", &[]),
        Event::Move { .. } => ("move", &[]),
        Event::Owner { .. } => ("owner", &[]),
        Event::Strike(strike) => (strike.name(), &[]),
        Event::Restart { .. } => ("restart", &[]),
        Event::Wake { .. } => ("wake", &[]),
    }
}
