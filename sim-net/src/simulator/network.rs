//! Streams and gossip as the real stack has them: reliable and in order until they break, at any time, at one end before
//! the other; and, in unruly seeds, not even that.
//!
//! [`Conn`] is one stream. What a node has open, by kind and peer, is its pool, with the rules of `node/net/src/pool.rs`:
//! two streams of a peer at most, the newest is written, the peer is lost with the last one.

use std::{collections::BTreeMap, rc::Rc};

use wayfare_protocol::reject::Guards;

use super::{coverage::Fault, event::Event, world::World};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Registry,
    Migrate,
    Request,
    State,
}

/// One stream. End 0 opened it.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) kind: Kind,
    pub(super) ends: [usize; 2],
    open: [bool; 2],
    /// The next frame to this end arrives after this.
    front: [u64; 2],
    /// What would arrive at this end later than this is lost.
    cut: [u64; 2],
}

impl Conn {
    /// The other node.
    pub(super) const fn peer(&self, end: usize) -> usize {
        self.ends[1 - end]
    }
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) name: &'static str,
    pub(super) bytes: Rc<[u8]>,
    /// What befell it.
    pub(super) fault: Fault,
}

/// Streams of one peer in one pool.
const STREAMS_PER_PEER_MAX: usize = 2;
/// Longer than this without an acknowledgement, and the transport gives a connection up.
const UNACKNOWLEDGED_US: u64 = 12_000_000;
/// How long a dial without an answer takes to fail.
const DIAL_US: u64 = 5_000_000;
/// Frames remembered for replays.
const REMEMBERED_MAX: usize = 400;

/// How far nodes are from each other, and what is in the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    /// One-way times, µs: `latency[from][to]`.
    pub(super) latency: Vec<Vec<u64>>,
    pub(super) jitter_us: u64,
    /// Nothing gets through in this direction before then.
    pub(super) blocked: BTreeMap<(usize, usize), u64>,
    /// Everything takes so much longer in this direction until then.
    pub(super) clogged: BTreeMap<(usize, usize), (u64, u64)>,
    /// Of a million stream frames, in unruly seeds.
    pub(super) lost_ppm: u64,
    pub(super) doubled_ppm: u64,
    pub(super) late_ppm: u64,
    /// Of a million gossiped messages.
    pub(super) gossip_lost_ppm: u64,
    pub(super) gossip_doubled_ppm: u64,
    /// Frames of the past, for replays: from, to, kind.
    past: Vec<(usize, usize, Kind, Frame)>,
}

impl Links {
    /// Everything is as it should be from now on.
    pub(super) fn heal(&mut self) {
        self.blocked.clear();
        self.clogged.clear();
        (self.lost_ppm, self.doubled_ppm, self.late_ppm) = (0, 0, 0);
        (self.gossip_lost_ppm, self.gossip_doubled_ppm) = (0, 0);
    }
}

impl<G: Guards> World<G> {
    /// How long a message from `from` to `to` takes now; `None` while nothing gets through.
    fn transit(&mut self, from: usize, to: usize) -> Option<u64> {
        if self.links.blocked.get(&(from, to)).is_some_and(|until| *until > self.time) {
            return None;
        }
        let clogged = self.links.clogged.get(&(from, to)).filter(|(until, _)| *until > self.time);
        let extra = clogged.map_or(0, |(_, extra)| *extra);
        let jitter = self.rng.below(self.links.jitter_us + 1);
        Some(self.links.latency[from][to] + jitter + extra)
    }

    /// The round trip that a probe measures, if it succeeds.
    pub(super) fn round_trip(&mut self, from: usize, to: usize) -> Option<u64> {
        Some(self.transit(from, to)? + self.transit(to, from)?)
    }

    /// Queues a frame for `peer`, on the newest stream to it; without one, opens one if `dial`.
    pub(super) fn send(
        &mut self,
        node: usize,
        kind: Kind,
        peer: usize,
        dial: bool,
        name: &'static str,
        bytes: Vec<u8>,
    ) {
        let conn = match self.newest(node, kind, peer) {
            Some(conn) => conn,
            None if dial => self.dial(node, kind, peer),
            None => return,
        };
        let end = usize::from(self.conns[conn].ends[0] != node);
        self.send_on(conn, end, Frame { name, bytes: bytes.into(), fault: Fault::None });
    }

    /// Sends from this end.
    pub(super) fn send_on(&mut self, conn: usize, end: usize, mut frame: Frame) {
        let to_end = 1 - end;
        let (from, to, kind) = (self.conns[conn].ends[end], self.conns[conn].ends[to_end], self.conns[conn].kind);
        if !self.conns[conn].open[end] {
            return;
        }
        self.remember(from, to, kind, &frame);
        let at = match self.transit(from, to) {
            Some(delay) => self.time + delay,
            None => {
                frame.fault = Fault::Partition;
                let until = self.links.blocked.get(&(from, to)).copied().unwrap_or(self.time);
                if until - self.time > UNACKNOWLEDGED_US {
                    self.cover_frame(to, frame.name, Fault::Partition);
                    self.give_up(conn);
                    return;
                }
                until + self.links.latency[from][to]
            }
        };
        if self.rng.chance(self.links.lost_ppm) {
            self.cover_frame(to, frame.name, Fault::Loss);
            self.tell(from, |world| format!("{} to {} is lost", frame.name, world.nodes[to].name));
            return;
        }
        if self.rng.chance(self.links.doubled_ppm) {
            // A state stream is over soon.
            let span = if kind == Kind::State { 2_000 } else { 1_000_000 };
            let later = at + self.rng.wait(span);
            let copy = Frame { fault: Fault::Dup, ..frame.clone() };
            self.queue.push(later, Event::Frame { conn, end: to_end, frame: copy });
        }
        let at = if self.rng.chance(self.links.late_ppm) {
            at + self.rng.wait(500_000)
        } else {
            let at = at.max(self.conns[conn].front[to_end] + 1);
            self.conns[conn].front[to_end] = at;
            at
        };
        self.queue.push(at, Event::Frame { conn, end: to_end, frame });
    }

    /// When what was sent to this end so far will have arrived.
    pub(super) fn flushed_at(&self, conn: usize, end: usize) -> u64 {
        self.conns[conn].front[1 - end].max(self.time)
    }

    fn remember(&mut self, from: usize, to: usize, kind: Kind, frame: &Frame) {
        let entry = (from, to, kind, Frame { fault: Fault::Dup, ..frame.clone() });
        if self.links.past.len() < REMEMBERED_MAX {
            self.links.past.push(entry);
        } else if self.rng.one_in(4) {
            let at = self.rng.index(REMEMBERED_MAX);
            self.links.past[at] = entry;
        }
    }

    /// Some frame of the past comes once more, from whom it came then, on the stream that is open now.
    pub(super) fn replay(&mut self) {
        let count = self.links.past.len();
        for _ in 0..count.min(20) {
            let at = self.rng.index(count);
            let (from, to, kind, frame) = self.links.past[at].clone();
            let Some(conn) = self.any_open(from, kind, to) else { continue };
            let end = usize::from(self.conns[conn].ends[1] == to);
            let arrives = self.time + self.rng.wait(50_000);
            self.tell(to, |_| format!("fault: {} of the past comes again", frame.name));
            self.queue.push(arrives, Event::Frame { conn, end, frame });
            return;
        }
    }

    fn any_open(&self, from: usize, kind: Kind, to: usize) -> Option<usize> {
        if kind == Kind::State {
            let open = |conn: &Conn| conn.kind == kind && conn.ends == [from, to] && conn.open[1];
            return self.conns.iter().rposition(open);
        }
        self.newest(from, kind, to).filter(|conn| self.conns[*conn].open == [true, true])
    }

    fn newest(&self, node: usize, kind: Kind, peer: usize) -> Option<usize> {
        self.nodes[node].pools.get(&(kind, peer)).and_then(|conns| conns.last().copied())
    }

    /// Opens a stream to `peer` if there is none.
    pub(super) fn connect(&mut self, node: usize, kind: Kind, peer: usize) {
        if self.newest(node, kind, peer).is_none() {
            self.dial(node, kind, peer);
        }
    }

    /// Opens a stream. Frames may be queued at once.
    pub(super) fn dial(&mut self, from: usize, kind: Kind, to: usize) -> usize {
        let conn = self.conns.len();
        let never = u64::MAX;
        let new = Conn { kind, ends: [from, to], open: [true, false], front: [0, 0], cut: [never, never] };
        self.conns.push(new);
        self.link(from, conn, kind, to);
        match (self.transit(from, to), self.transit(to, from)) {
            (Some(there), Some(back)) => {
                self.conns[conn].front = [self.time + there + back, self.time + 2 * there + back];
                self.queue.push(self.time + there, Event::Accept { conn, back });
            }
            _ => {
                let reason = "it cannot be reached";
                self.queue.push(self.time + DIAL_US, Event::Closed { conn, end: 0, reason });
            }
        }
        conn
    }

    /// The dial has reached the other side.
    pub(super) fn handle_accept(&mut self, conn: usize, back: u64) {
        let Conn { kind, ends: [from, to], open: [wanted, _], .. } = self.conns[conn];
        if !wanted {
            return;
        }
        if !self.nodes[to].is_up() {
            self.queue.push(self.time + back, Event::Closed { conn, end: 0, reason: "nobody listens there" });
            return;
        }
        self.conns[conn].open[1] = true;
        self.link(to, conn, kind, from);
        self.queue.push(self.time + back, Event::Opened { conn });
    }

    fn link(&mut self, node: usize, conn: usize, kind: Kind, peer: usize) {
        if kind == Kind::State {
            return;
        }
        let links = self.nodes[node].pools.entry((kind, peer)).or_default();
        links.push(conn);
        if links.len() > STREAMS_PER_PEER_MAX {
            let oldest = links.remove(0);
            self.end(oldest, node);
        }
    }

    /// Ends all streams of `peer`: it broke the rules, or is not needed.
    pub(super) fn close(&mut self, node: usize, kind: Kind, peer: usize) {
        for conn in self.nodes[node].pools.remove(&(kind, peer)).into_iter().flatten() {
            self.end(conn, node);
        }
    }

    /// `node` ends its side. The other learns of it, with luck after all that was sent before.
    pub(super) fn end(&mut self, conn: usize, node: usize) {
        let end = usize::from(self.conns[conn].ends[0] != node);
        self.conns[conn].open[end] = false;
        let (other, peer) = (1 - end, self.conns[conn].peer(end));
        let delay = self.links.latency[node][peer];
        let at = match self.links.blocked.get(&(node, peer)).copied().filter(|until| *until > self.time) {
            Some(until) => (until + delay).min(self.time + UNACKNOWLEDGED_US),
            None => self.time + delay,
        };
        // Whether what is in flight arrives first.
        let at = if self.rng.one_in(2) { at.max(self.conns[conn].front[other] + 1) } else { at };
        self.conns[conn].cut[other] = self.conns[conn].cut[other].min(at);
        self.queue.push(at, Event::Closed { conn, end: other, reason: "the other side ended it" });
    }

    /// The network loses a stream: each end learns of it some time later, and what is in flight ends somewhere.
    pub(super) fn give_up(&mut self, conn: usize) {
        for end in [0, 1] {
            let span = self.conns[conn].front[end].saturating_sub(self.time) + 1;
            let cut = self.time + self.rng.below(span);
            self.conns[conn].cut[end] = self.conns[conn].cut[end].min(cut);
            let late = if self.rng.one_in(3) { self.rng.below(UNACKNOWLEDGED_US) } else { self.rng.below(200_000) };
            self.queue.push(cut + late, Event::Closed { conn, end, reason: "the connection broke" });
        }
    }

    /// Streams of which at least one end is open, between these two nodes or between any.
    pub(super) fn open_conns(&self, between: Option<(usize, usize)>) -> Vec<usize> {
        let fits = |conn: &Conn| {
            between.is_none_or(|(a, b)| conn.ends == [a, b] || conn.ends == [b, a]) && conn.open.contains(&true)
        };
        (0..self.conns.len()).filter(|at| fits(&self.conns[*at])).collect()
    }

    /// Whether a frame that has come this far still reaches its end.
    pub(super) fn reaches(&self, conn: usize, end: usize) -> bool {
        self.conns[conn].open[end] && self.time <= self.conns[conn].cut[end]
    }

    /// This end hears that the stream is over. True if that was news, and for a pooled stream if it was the peer's last.
    pub(super) fn handle_end(&mut self, conn: usize, end: usize) -> bool {
        if !std::mem::replace(&mut self.conns[conn].open[end], false) {
            return false;
        }
        let Conn { kind, ends, .. } = self.conns[conn];
        // A dial that failed, or a half that is still open at the other side.
        self.conns[conn].cut[1 - end] = self.conns[conn].cut[1 - end].min(self.time);
        if kind == Kind::State {
            return true;
        }
        let (node, peer) = (ends[end], ends[1 - end]);
        let Some(links) = self.nodes[node].pools.get_mut(&(kind, peer)) else { return false };
        links.retain(|link| *link != conn);
        let last = links.is_empty();
        if last {
            self.nodes[node].pools.remove(&(kind, peer));
        }
        last
    }

    /// `node` is gone from one moment to the next: its streams break, and the others find out sooner or later.
    pub(super) fn drop_streams(&mut self, node: usize) {
        self.nodes[node].pools.clear();
        let silent = self.rng.one_in(4);
        for conn in self.open_conns(None) {
            for end in [0, 1] {
                if self.conns[conn].ends[end] != node || !self.conns[conn].open[end] {
                    continue;
                }
                self.conns[conn].open[end] = false;
                let peer = self.conns[conn].peer(end);
                let wait = if silent { self.rng.below(UNACKNOWLEDGED_US) } else { 0 };
                let at = self.time + self.links.latency[node][peer] + wait;
                self.queue.push(at, Event::Closed { conn, end: 1 - end, reason: "the other side is gone" });
            }
        }
    }

    /// Tells everybody: a datagram to each, which may be lost, come twice, late or out of order.
    pub(super) fn gossip(&mut self, from: usize, name: &'static str, bytes: Vec<u8>) {
        let bytes: Rc<[u8]> = bytes.into();
        for to in 0..self.nodes.len() {
            if to == from {
                continue;
            }
            let Some(delay) = self.transit(from, to) else {
                self.cover_frame(to, name, Fault::Partition);
                continue;
            };
            // Through a mesh: up to two hops more.
            let hops = self.rng.below(2 * delay + 1);
            if self.rng.chance(self.links.gossip_lost_ppm) {
                self.cover_frame(to, name, Fault::Loss);
                continue;
            }
            let frame = Frame { name, bytes: bytes.clone(), fault: Fault::None };
            if self.rng.chance(self.links.gossip_doubled_ppm) {
                let later = self.time + delay + self.rng.wait(5_000_000);
                self.queue.push(later, Event::Gossip { to, frame: Frame { fault: Fault::Dup, ..frame.clone() } });
            }
            self.queue.push(self.time + delay + hops, Event::Gossip { to, frame });
        }
    }
}
