//! The world: nodes, streams and the one queue of what happens; each event goes to a machine, whose effects are carried out,
//! and then everything that must always hold is looked at ([`check`](super::check)).

use std::collections::BTreeMap;

use wayfare_protocol::{
    ids::{HostId, MigrationIds},
    registry::StoreImage,
    reject::Guards,
    time::{Instant, Now},
    trust::TrustBundle,
};

use super::{
    check::Checker,
    client::Client,
    coverage::{Coverage, Fault},
    event::{Event, label},
    faults::Plan,
    network::{Conn, Frame, Kind, Links},
    node::{Disk, Machine, Node},
    owner::Owner,
    queue::Queue,
    rng::Rng,
    rogue::Backup,
    story::Story,
};

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) events: u64,
    pub(super) completed: u64,
    pub(super) aborted: u64,
    pub(super) crashes: u64,
    pub(super) partitions: u64,
    pub(super) requests: u64,
}

/// Everything there is in one run.
pub(super) struct World<G: Guards> {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) time: u64,
    pub(super) queue: Queue<Event>,
    pub(super) nodes: Vec<Node<G>>,
    /// Which node the Registry is.
    pub(super) registry: usize,
    pub(super) by_host: BTreeMap<HostId, usize>,
    pub(super) bundle: TrustBundle,
    pub(super) conns: Vec<Conn>,
    pub(super) links: Links,
    pub(super) clients: Vec<Client>,
    /// By service.
    pub(super) owners: Vec<Owner>,
    pub(super) check: Checker,
    pub(super) story: Story,
    pub(super) coverage: Coverage,
    pub(super) tally: Tally,
    /// Numbers instances, so that tasks of a former one do not reach its successor.
    pub(super) instances: u64,
    /// What the liar knows: an attempt and the placement key's secret.
    pub(super) loot: Option<(MigrationIds, [u8; 32])>,
    /// Copies of hosts' disks.
    pub(super) backups: BTreeMap<usize, Backup>,
    /// An older state of the Registry's store.
    pub(super) store_backup: Option<StoreImage>,
    /// No more faults, no more moves.
    pub(super) calm: bool,
    hash: blake3::Hasher,
    /// How many events happened at the present time.
    at_once: u32,
}

/// More events than this without time passing: something goes round in circles.
const AT_ONCE_MAX: u32 = 20_000;

impl<G: Guards> World<G> {
    pub(super) fn empty(plan: Plan, rng: Rng, story: Story) -> Self {
        Self {
            plan,
            rng,
            time: 0,
            queue: Queue::new(),
            nodes: Vec::new(),
            registry: 0,
            by_host: BTreeMap::new(),
            bundle: TrustBundle::new(Vec::new()),
            conns: Vec::new(),
            links: Links::default(),
            clients: Vec::new(),
            owners: Vec::new(),
            check: Checker::default(),
            story,
            coverage: Coverage::default(),
            tally: Tally::default(),
            instances: 0,
            store_backup: None,
            loot: None,
            backups: BTreeMap::new(),
            calm: false,
            hash: blake3::Hasher::new(),
            at_once: 0,
        }
    }

    /// What this node's clocks show.
    pub(super) fn now(&self, node: usize) -> Now {
        self.nodes[node].clock.now(self.time)
    }

    pub(super) fn tell(&mut self, node: usize, what: impl FnOnce(&Self) -> String) {
        if self.story.is_told() {
            let text = what(self);
            self.story.tell(self.time, &self.nodes[node].name, &text);
        }
    }

    /// The hash of everything that has happened.
    pub(super) fn trace_hash(&self) -> [u8; 32] {
        *self.hash.finalize().as_bytes()
    }

    /// The next event, and all that it leads to. False if nothing will ever happen again.
    pub(super) fn step(&mut self) -> bool {
        let Some((at, event)) = self.queue.pop() else { return false };
        self.at_once = if at > self.time { 0 } else { self.at_once + 1 };
        self.time = self.time.max(at);
        if self.at_once > AT_ONCE_MAX {
            self.violate("time passes", || "the same moment goes on for ever".to_owned());
            return false;
        }
        let node = self.concerns(&event);
        if let Some(node) = node
            && self.nodes[node].is_up()
            && self.nodes[node].busy_until > self.time
        {
            if !matches!(event, Event::Wake { .. }) {
                self.nodes[node].deferred.push(event);
            }
            return true;
        }
        self.tally.events += 1;
        let (label, bytes) = label(&event);
        self.hash.update(&self.time.to_le_bytes());
        self.hash.update(&[node.map_or(255, |node| node as u8)]);
        self.hash.update(label.as_bytes());
        self.hash.update(bytes);
        if let Some(node) = node {
            self.nodes[node].last = label;
            if !matches!(event, Event::Wake { .. }) {
                self.nodes[node].called_at = self.time;
            }
        }
        self.handle(event);
        if let Some(node) = node {
            self.settle(node);
        }
        self.check_all(node);
        true
    }

    /// Whether this process is still the one that runs.
    fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].is_up()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frame { conn, end, frame } => {
                let node = self.conns[conn].ends[end];
                if self.reaches(conn, end) && self.nodes[node].is_up() {
                    self.cover_frame(node, frame.name, frame.fault);
                    self.handle_frame(node, conn, frame);
                } else {
                    self.cover_frame(node, frame.name, Fault::Loss);
                }
            }
            Event::Accept { conn, back } => self.handle_accept(conn, back),
            Event::Opened { conn } => self.handle_opened(conn),
            Event::Closed { conn, end, reason } => self.handle_closed(conn, end, reason),
            Event::Gossip { to, frame } if self.nodes[to].is_up() => {
                self.cover_frame(to, frame.name, frame.fault);
                self.handle_gossip(to, &frame);
            }
            Event::Timer { node, life } if self.lives(node, life) => self.handle_timer(node),
            Event::Synced { node, life } if self.nodes[node].life == life => {
                if let Some(seq) = self.finish_sync(node) {
                    self.queue.push(self.time, Event::Told { node, life, seq });
                }
            }
            Event::Told { node, life, seq } if self.lives(node, life) => {
                self.cover(node, "synced", Fault::None);
                self.handle_synced(node, seq);
            }
            Event::Work { node, life, stay, instance, task } if self.lives(node, life) => {
                self.handle_work(node, stay, instance, task);
            }
            Event::Saved { node, life, image } if self.lives(node, life) => self.handle_saved(node, image),
            Event::Sent { node, life, mig, conn } if self.lives(node, life) => self.handle_sent(node, mig, conn),
            Event::HeldAgain { node, life, job } if self.lives(node, life) => self.handle_held_again(node, &job),
            Event::Fetched { node, life, job } if self.lives(node, life) => self.handle_fetched(node, &job),
            Event::Probe { node, life } if self.lives(node, life) => self.handle_probe(node),
            Event::Measured { node, life, host, rtt } if self.lives(node, life) => {
                self.handle_measured(node, host, rtt);
            }
            Event::Ask { client } => self.handle_ask(client),
            Event::Move { service } => self.handle_move(service),
            Event::Owner { service } => self.handle_owner(service),
            Event::Strike(strike) => self.handle_strike(strike),
            Event::Restart { node } => self.restart(node),
            Event::Wake { node } => self.catch_up(node),
            Event::Gossip { .. }
            | Event::Timer { .. }
            | Event::Synced { .. }
            | Event::Told { .. }
            | Event::Work { .. }
            | Event::Saved { .. }
            | Event::Sent { .. }
            | Event::HeldAgain { .. }
            | Event::Fetched { .. }
            | Event::Probe { .. }
            | Event::Measured { .. } => {}
        }
    }

    fn handle_frame(&mut self, node: usize, conn: usize, frame: Frame) {
        let kind = self.conns[conn].kind;
        let from = self.conns[conn].ends[usize::from(self.conns[conn].ends[0] == node)];
        if self.story.is_told() {
            let (fault, from) = (frame.fault, self.nodes[from].name.clone());
            let note = if fault == Fault::None { String::new() } else { format!(" ({fault:?})") };
            self.tell(node, |_| format!("gets {} from {from}{note}", frame.name));
        }
        match (&self.nodes[node].machine, kind) {
            (Machine::Registry(_), _) => self.registry_frame(node, from, &frame.bytes),
            (Machine::Host(_), Kind::State) => self.state_frame(node, conn, from, &frame.bytes),
            (Machine::Host(_), _) => self.host_frame(node, kind, from, &frame.bytes),
            (Machine::Gateway(_), _) => self.gateway_frame(node, kind, from, &frame.bytes),
            (Machine::Down, _) => {}
        }
    }

    fn handle_opened(&mut self, conn: usize) {
        let Conn { kind, ends: [node, peer], .. } = self.conns[conn];
        if !self.reaches(conn, 0) {
            return;
        }
        match (&self.nodes[node].machine, kind) {
            (Machine::Host(_), Kind::State) => self.state_opened(node, conn),
            (Machine::Gateway(_), Kind::Request) => self.gateway_connected(node, peer),
            _ => {}
        }
    }

    fn handle_closed(&mut self, conn: usize, end: usize, reason: &'static str) {
        let (node, peer, kind) = (self.conns[conn].ends[end], self.conns[conn].peer(end), self.conns[conn].kind);
        if !self.handle_end(conn, end) || !self.nodes[node].is_up() {
            return;
        }
        self.cover(node, "closed", Fault::None);
        self.tell(node, |world| format!("the {kind:?} stream with {} ended: {reason}", world.nodes[peer].name));
        match (&self.nodes[node].machine, kind) {
            (Machine::Host(_), Kind::State) => self.state_closed(node, conn, reason),
            (Machine::Host(_), _) => self.host_peer_lost(node, kind, peer, reason),
            (Machine::Gateway(_), Kind::Request) => self.gateway_disconnected(node, peer),
            _ => {}
        }
    }

    fn handle_gossip(&mut self, to: usize, frame: &Frame) {
        match &self.nodes[to].machine {
            Machine::Host(_) => self.host_gossip(to, &frame.bytes),
            Machine::Gateway(_) => self.gateway_gossip(to, &frame.bytes),
            Machine::Registry(_) => self.registry_gossip(to, &frame.bytes),
            Machine::Down => {}
        }
    }

    fn handle_timer(&mut self, node: usize) {
        if self.nodes[node].timer > self.time {
            return;
        }
        self.nodes[node].timer = u64::MAX;
        self.cover(node, "timer", Fault::None);
        let now = self.now(node);
        let Self { nodes, rng, .. } = self;
        match &mut nodes[node].machine {
            Machine::Host(host) if host.host.poll_timeout() <= now.mono => host.host.handle_timeout(now, rng),
            Machine::Gateway(gateway) if gateway.poll_timeout().is_some_and(|at| at <= now.mono) => {
                gateway.handle_timeout(now);
            }
            Machine::Registry(registry) if registry.poll_timeout().is_some_and(|at| at <= now.mono) => {
                registry.handle_timeout(now, rng);
            }
            _ => {}
        }
    }

    fn finish_sync(&mut self, node: usize) -> Option<u64> {
        let seq = match &mut self.nodes[node].disk {
            Disk::Registry(store) => store.finish_sync(),
            Disk::Host(disk) => disk.journal.finish_sync(),
            Disk::Gateway(journal) => journal.finish_sync(),
        };
        self.sync(node);
        seq
    }

    /// Begins to sync what was written, if the disk is idle.
    pub(super) fn sync(&mut self, node: usize) {
        let begins = match &mut self.nodes[node].disk {
            Disk::Registry(store) => store.begin_sync(),
            Disk::Host(disk) => disk.journal.begin_sync(),
            Disk::Gateway(journal) => journal.begin_sync(),
        };
        if begins {
            let life = self.nodes[node].life;
            let at = self.time + self.disk_delay();
            self.queue.push(at, Event::Synced { node, life });
        }
    }

    /// How long the disk takes for what it does now.
    pub(super) fn disk_delay(&mut self) -> u64 {
        let slow = if self.calm { 0 } else { self.plan.disk_slow_ppm };
        let mean = if self.rng.chance(slow) { self.plan.sync_us * 100 } else { self.plan.sync_us };
        self.rng.wait(mean)
    }

    fn handle_synced(&mut self, node: usize, seq: u64) {
        let now = self.now(node);
        match &mut self.nodes[node].machine {
            Machine::Registry(registry) => registry.handle_synced(seq),
            Machine::Gateway(gateway) => {
                gateway.handle_synced(now, seq);
                // As if the entries were long: a gateway's journal is compacted only when it is.
                let journal = if let Disk::Gateway(journal) = &self.nodes[node].disk { journal.bytes() } else { 0 };
                if let Machine::Gateway(gateway) = &mut self.nodes[node].machine {
                    gateway.compact_if(journal * self.plan.gateway_journal_scale);
                }
            }
            Machine::Host(_) => self.host_synced(node, seq),
            Machine::Down => {}
        }
    }

    /// Carries out what the machine wants, unless the node crashes or hangs in the middle of it, and sets its timer.
    pub(super) fn settle(&mut self, node: usize) {
        while self.nodes[node].is_up() && self.nodes[node].busy_until <= self.time {
            if self.strikes_between(node) {
                break;
            }
            let done = match &self.nodes[node].machine {
                Machine::Registry(_) => self.registry_effect(node),
                Machine::Host(_) => self.host_effect(node),
                Machine::Gateway(_) => self.gateway_effect(node),
                Machine::Down => true,
            };
            if done {
                break;
            }
        }
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: usize) {
        let due = match &self.nodes[node].machine {
            Machine::Host(host) => Some(host.host.poll_timeout()),
            Machine::Gateway(gateway) => gateway.poll_timeout(),
            Machine::Registry(registry) => registry.poll_timeout(),
            Machine::Down => None,
        };
        let Some(due) = due.filter(|due| *due < Instant(u64::MAX / 2)) else { return };
        let at = self.nodes[node].clock.true_time(due).max(self.time);
        if at < self.nodes[node].timer {
            self.nodes[node].timer = at;
            let life = self.nodes[node].life;
            self.queue.push(at, Event::Timer { node, life });
        }
    }

    /// What came while the node hung comes now.
    pub(super) fn catch_up(&mut self, node: usize) {
        let deferred = std::mem::take(&mut self.nodes[node].deferred);
        self.tell(node, |_| format!("goes on; {} events have waited", deferred.len()));
        deferred.into_iter().for_each(|event| self.queue.push(self.time, event));
    }

    /// A new process on this node has no timer yet.
    pub(super) fn reset_timer(&mut self, node: usize) {
        self.nodes[node].timer = u64::MAX;
    }
}
