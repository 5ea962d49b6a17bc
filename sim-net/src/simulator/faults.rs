//! What goes wrong, as the seed decides: [`Plan`] is the whole configuration of a run, [`Strike`] one fault.
//!
//! Each kind of fault is on in some seeds and off in others, at a rate of the seed's choice, so that rare kinds are not
//! drowned by common ones. Crashes and hangs also strike between any two effects of a machine: between journaling and
//! sending, between sending to one and to the other.

use wayfare_protocol::{manifest::Resources, reject::Guards, time::Micros};

use super::{
    clock::Clock,
    coverage::Fault,
    event::Event,
    node::{Disk, Machine},
    rng::Rng,
    world::World,
};

/// Everything that the seed chooses.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) homes: usize,
    pub(super) clouds: usize,
    /// Which node lies.
    pub(super) rogue: Option<usize>,
    pub(super) gateways: usize,
    pub(super) clients_per_gateway: usize,
    pub(super) services: usize,
    pub(super) capacity: Resources,
    /// How long things go wrong, µs.
    pub(super) storm_us: u64,
    /// Mean times, µs: between moves of a service, between a client's questions, of a call, of a sync.
    pub(super) move_us: u64,
    pub(super) think_us: u64,
    pub(super) call_us: u64,
    pub(super) sync_us: u64,
    /// Of a million syncs, so many take a hundred times as long.
    pub(super) disk_slow_ppm: u64,
    /// Of a million moves, so many go back to where the service came from.
    pub(super) back_ppm: u64,
    /// Of a million effects, so many are followed by a crash, or a hang, of their node.
    crash_ppm: u64,
    hang_ppm: u64,
    /// How long a node stays down, or hangs, on average.
    pub(super) down_us: u64,
    hang_us: u64,
    /// Mean times between strikes, by kind.
    every: Vec<(Strike, u64)>,
    pub(super) loose_clocks: bool,
    pub(super) step_timeout: Micros,
    pub(super) request_timeout: Micros,
    pub(super) image_log_bytes: u64,
    pub(super) compact_journal_bytes: u64,
    /// How much longer a gateway's journal is made out to be.
    pub(super) gateway_journal_scale: u64,
    /// Which services are in memory only, by their number.
    pub(super) memory_ppm: u64,
    /// Which policy moves services by itself.
    pub(super) policy: wayfare_protocol::placement::Policy,
    /// Mean time between the orders of a service's owner, µs. `None`: it gives none.
    pub(super) order_us: Option<u64>,
    /// Whether they order updates, too.
    pub(super) updates: bool,
    /// Which host an operator drains when nothing goes wrong any more: it must end empty.
    pub(super) drained: Option<usize>,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    /// A node crashes, and restarts later.
    Crash,
    /// A node processes nothing for a while.
    Hang,
    /// The Registry is down for long: leases end.
    Outage,
    /// A stream breaks.
    Break,
    /// Nothing gets through in one direction for a while.
    Partition,
    /// Everything takes long in one direction for a while.
    Clog,
    /// A frame of the past comes again.
    Replay,
    /// A host's disk is copied.
    BackUp,
    /// A host gets back such a copy.
    RollBack,
    /// The Registry's store is copied.
    StoreBackUp,
    /// The Registry starts again from that copy.
    StoreRestore,
    /// A wall clock is set.
    Clock,
    /// A cloud takes nothing in for a while.
    Cordon,
    /// It does again.
    Uncordon(usize),
    /// An operator has every service leave a host, and waits for it to be empty; or not.
    Drain,
    /// An owner deploys a service, again if it did not work.
    Deploy(usize),
    /// Everything is well from now on.
    Calm,
}

impl Strike {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Hang => "hang",
            Self::Outage => "outage",
            Self::Break => "break",
            Self::Partition => "partition",
            Self::Clog => "clog",
            Self::Replay => "replay",
            Self::BackUp => "back up",
            Self::RollBack => "roll back",
            Self::StoreBackUp => "store back up",
            Self::StoreRestore => "store restore",
            Self::Clock => "clock",
            Self::Cordon => "cordon",
            Self::Uncordon(_) => "uncordon",
            Self::Drain => "drain",
            Self::Deploy(_) => "deploy",
            Self::Calm => "calm",
        }
    }
}

const SECOND: u64 = 1_000_000;

impl Plan {
    pub(super) fn new(rng: &mut Rng, updates: bool) -> Self {
        use wayfare_protocol::placement::Policy;
        let mut every = Vec::new();
        let kinds = [
            (Strike::Crash, 2 * SECOND, 30 * SECOND),
            (Strike::Hang, 2 * SECOND, 30 * SECOND),
            (Strike::Outage, 20 * SECOND, 90 * SECOND),
            (Strike::Break, SECOND / 2, 20 * SECOND),
            (Strike::Partition, 2 * SECOND, 30 * SECOND),
            (Strike::Clog, 2 * SECOND, 30 * SECOND),
            (Strike::Replay, SECOND / 20, 5 * SECOND),
            (Strike::Clock, 2 * SECOND, 30 * SECOND),
            (Strike::Cordon, 5 * SECOND, 60 * SECOND),
        ];
        for (kind, often, seldom) in kinds {
            if rng.one_in(2) {
                every.push((kind, rng.magnitude(often, seldom)));
            }
        }
        if rng.one_in(3) {
            every.push((Strike::BackUp, rng.magnitude(SECOND / 2, 5 * SECOND)));
            every.push((Strike::RollBack, rng.magnitude(SECOND / 2, 5 * SECOND)));
        }
        if rng.one_in(4) {
            every.push((Strike::StoreBackUp, rng.magnitude(2 * SECOND, 30 * SECOND)));
            every.push((Strike::StoreRestore, rng.magnitude(15 * SECOND, 60 * SECOND)));
        }
        // Of a generator of their own: the other choices of a seed are what they are without drains.
        let mut drains = rng.clone();
        if drains.one_in(3) {
            every.push((Strike::Drain, drains.magnitude(5 * SECOND, 40 * SECOND)));
        }
        let mut orders = Rng::new(rng.clone().next() ^ 0x6f72_6465_7273);
        let sometimes = |rng: &mut Rng, low, high| if rng.one_in(2) { rng.magnitude(low, high) } else { 0 };
        let (homes, clouds) = (rng.range(1, 2) as usize, rng.range(2, 4) as usize);
        Self {
            homes,
            clouds,
            // The registry is node 0, then come homes and clouds.
            rogue: rng.one_in(4).then(|| 1 + homes + rng.index(clouds)),
            gateways: rng.range(1, 2) as usize,
            clients_per_gateway: rng.range(1, 3) as usize,
            services: rng.range(1, 3) as usize,
            capacity: Resources {
                cpu_millicores: 4000,
                memory_bytes: 1 << 30,
                storage_bytes: 1 << 30,
                bandwidth_bps: 1 << 30,
            },
            storm_us: rng.range(20, 90) * SECOND,
            move_us: rng.magnitude(SECOND / 2, 8 * SECOND),
            think_us: rng.magnitude(SECOND / 10, 2 * SECOND),
            call_us: rng.magnitude(200, 50_000),
            sync_us: rng.magnitude(100, 100_000),
            disk_slow_ppm: sometimes(rng, 1_000, 50_000),
            back_ppm: rng.below(800_000),
            crash_ppm: sometimes(rng, 200, 8_000),
            hang_ppm: sometimes(rng, 200, 5_000),
            down_us: rng.magnitude(SECOND / 20, 8 * SECOND),
            hang_us: rng.magnitude(SECOND / 20, 20 * SECOND),
            every,
            loose_clocks: !rng.one_in(4),
            step_timeout: Micros::from_secs(rng.range(2, 10)),
            request_timeout: Micros::from_secs(rng.range(30, 60)),
            image_log_bytes: rng.magnitude(1_000, 60_000),
            compact_journal_bytes: rng.magnitude(4_000, 200_000),
            gateway_journal_scale: rng.magnitude(1, 1 << 18),
            memory_ppm: if rng.one_in(3) { 500_000 } else { 0 },
            policy: if rng.one_in(4) { Policy::Nearest } else { Policy::Never },
            order_us: orders.one_in(3).then(|| orders.magnitude(SECOND, 15 * SECOND)),
            updates,
            drained: drains.one_in(2).then(|| 1 + drains.index(homes + clouds)),
        }
    }
}

impl<G: Guards> World<G> {
    /// The first strike of each kind, and the end of all.
    pub(super) fn schedule_strikes(&mut self) {
        for (strike, mean) in self.plan.every.clone() {
            let at = self.rng.wait(mean);
            self.queue.push(self.time + at, Event::Strike(strike));
        }
        self.queue.push(self.time + self.plan.storm_us, Event::Strike(Strike::Calm));
    }

    pub(super) fn handle_strike(&mut self, strike: Strike) {
        if let Strike::Deploy(service) = strike {
            self.deploy(service);
            return;
        }
        if self.calm {
            return;
        }
        if let Some((_, mean)) = self.plan.every.iter().find(|(kind, _)| *kind == strike) {
            let mean = *mean;
            let at = self.time + self.rng.wait(mean);
            self.queue.push(at, Event::Strike(strike));
        }
        let node = self.rng.index(self.nodes.len());
        match strike {
            Strike::Crash => self.crash(node, self.plan.down_us),
            Strike::Outage => self.crash(self.registry, 40 * SECOND),
            Strike::Hang => self.hang(node, self.plan.hang_us),
            Strike::Break => {
                let open = self.open_conns(None);
                if let Some(conn) = self.rng.pick(&open).copied() {
                    self.tell(node, |world| format!("fault: the stream {:?} breaks", world.conns[conn]));
                    self.give_up(conn);
                }
            }
            Strike::Partition => self.partition(node),
            Strike::Clog => {
                let other = self.rng.index(self.nodes.len());
                let until = self.time + self.rng.wait(10 * SECOND);
                let extra = self.rng.magnitude(SECOND / 10, 8 * SECOND);
                self.tell(node, |world| format!("fault: slow to {} for a while", world.nodes[other].name));
                self.links.clogged.insert((node, other), (until, extra));
            }
            Strike::Replay => self.replay(),
            Strike::StoreBackUp => self.back_up_store(),
            Strike::StoreRestore => self.restore_store(),
            Strike::BackUp => self.back_up(node),
            Strike::RollBack => self.roll_back(node, self.plan.down_us),
            Strike::Clock => {
                let Self { nodes, rng, .. } = self;
                if self.plan.loose_clocks {
                    nodes[node].clock.step(rng);
                }
            }
            Strike::Cordon => self.cordon(node, true),
            Strike::Drain => self.begin_drain(node),
            Strike::Uncordon(node) => self.cordon(node, false),
            Strike::Calm => self.calm_down(),
            Strike::Deploy(_) => {}
        }
        self.settle(node);
    }

    fn partition(&mut self, node: usize) {
        self.tally.partitions += 1;
        let until = self.time + self.rng.wait(8 * SECOND);
        let all = self.rng.one_in(4);
        let other = self.rng.index(self.nodes.len());
        for to in 0..self.nodes.len() {
            if all || to == other {
                self.links.blocked.insert((node, to), until);
                if self.rng.one_in(3) {
                    self.links.blocked.insert((to, node), until);
                }
            }
        }
        self.tell(node, |world| {
            let whom = if all { "everybody" } else { world.nodes[other].name.as_str() };
            format!("fault: cut off from {whom} for a while")
        });
    }

    /// For some time; then the host takes services again, whether it was emptied or not.
    fn begin_drain(&mut self, node: usize) {
        let Machine::Host(host) = &mut self.nodes[node].machine else { return };
        host.host.start_drain();
        self.tell(node, |_| "is being drained".to_owned());
        let until = self.time + self.rng.wait(10 * SECOND);
        self.queue.push(until, Event::Strike(Strike::Uncordon(node)));
        self.settle(node);
    }

    /// What an operator does with a host when nothing goes wrong any more: it takes services again, or is drained.
    fn put_in_order(&mut self, node: usize) {
        let drained = self.plan.drained == Some(node);
        let Machine::Host(host) = &mut self.nodes[node].machine else { return };
        if drained {
            host.host.start_drain();
        } else {
            host.host.set_cordoned(false);
        }
    }

    fn cordon(&mut self, node: usize, cordoned: bool) {
        let Machine::Host(host) = &mut self.nodes[node].machine else {
            // A cordon outlives a restart: who ends it tries again.
            if !cordoned && !self.nodes[node].is_up() {
                let again = self.time + self.rng.wait(SECOND);
                self.queue.push(again, Event::Strike(Strike::Uncordon(node)));
            }
            return;
        };
        host.host.set_cordoned(cordoned);
        if cordoned {
            let until = self.time + self.rng.wait(5 * SECOND);
            self.queue.push(until, Event::Strike(Strike::Uncordon(node)));
        }
        self.settle(node);
    }

    /// Whether a crash or a hang comes before the next effect.
    pub(super) fn strikes_between(&mut self, node: usize) -> bool {
        if self.calm {
            return false;
        }
        if self.rng.chance(self.plan.crash_ppm) {
            self.crash(node, self.plan.down_us);
            return true;
        }
        if self.rng.chance(self.plan.hang_ppm) {
            self.hang(node, self.plan.hang_us / 4);
            return true;
        }
        false
    }

    fn hang(&mut self, node: usize, mean: u64) {
        if !self.nodes[node].is_up() {
            return;
        }
        let until = self.time + self.rng.wait(mean);
        self.tell(node, |world| format!("fault: hangs for {} ms", (until - world.time) / 1000));
        self.nodes[node].busy_until = self.nodes[node].busy_until.max(until);
        self.queue.push(until, Event::Wake { node });
    }

    /// The node's process ends, from one moment to the next, and its disk keeps what it has.
    pub(super) fn crash(&mut self, node: usize, down: u64) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.tally.crashes += 1;
        let last = self.nodes[node].last;
        self.cover(node, last, Fault::Crash);
        self.lose_memory(node);
        let Self { nodes, rng, .. } = self;
        let lost = match &mut nodes[node].disk {
            Disk::Registry(store) => store.crash(rng),
            Disk::Gateway(journal) => journal.crash(rng),
            Disk::Host(disk) => {
                disk.images.crash();
                disk.journal.crash(rng)
            }
        };
        self.tell(node, |_| format!("fault: crashes; {lost} journal entries were not on disk"));
        self.drop_streams(node);
        self.nodes[node].machine = Machine::Down;
        self.nodes[node].life += 1;
        self.nodes[node].busy_until = 0;
        self.catch_up(node);
        self.nodes[node].phases = ["idle", "none"];
        self.hung_up(node);
        let at = self.time + self.rng.wait(down);
        self.queue.push(at, Event::Restart { node });
    }

    /// What was in this node's memory only is gone, as the owners chose.
    fn lose_memory(&mut self, node: usize) {
        let Some(host) = self.nodes[node].as_host() else { return };
        let running = host.instances.keys().map(|stay| stay.0);
        let arriving = host.landing.values().filter_map(super::transfer::Landing::service);
        let services: Vec<_> = running.chain(arriving).collect();
        services.into_iter().for_each(|service| self.check.excuse(service));
    }

    /// The node's process starts, from what is on its disk.
    pub(super) fn restart(&mut self, node: usize) {
        if self.nodes[node].is_up() {
            return;
        }
        let loose = self.plan.loose_clocks;
        if self.rng.one_in(2) {
            let Self { nodes, rng, time, .. } = self;
            nodes[node].clock = Clock::boot(rng, *time, loose);
        }
        self.reset_timer(node);
        self.boot(node);
        if self.calm {
            self.put_in_order(node);
        }
        self.tell(node, |_| "is up".to_owned());
        self.settle(node);
        self.check_all(Some(node));
    }

    /// From now on nothing goes wrong, and everything must come right.
    pub(super) fn calm_down(&mut self) {
        self.tell(self.registry, |_| "--- nothing goes wrong from here on ---".to_owned());
        self.calm = true;
        self.links.heal();
        for node in 0..self.nodes.len() {
            if self.nodes[node].busy_until > self.time {
                self.nodes[node].busy_until = self.time;
                self.queue.push(self.time, Event::Wake { node });
            }
            let at = self.time + self.rng.wait(SECOND);
            self.queue.push(at, Event::Restart { node });
            self.put_in_order(node);
            self.settle(node);
        }
    }
}
