//! One seed from its beginning to its end.

use wayfare_protocol::{reject::Guards, time::Micros};

use super::{
    check::Violation, coverage::Coverage, fuzz::Terms, memo, node::Machine, owner::Wish, story::Story, world::World,
};

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub(super) seed: u64,
    pub(super) events: u64,
    pub(super) completed: u64,
    pub(super) aborted: u64,
    pub(super) crashes: u64,
    pub(super) partitions: u64,
    pub(super) requests: u64,
    pub(super) hash: [u8; 32],
    pub(super) coverage: Coverage,
    pub(super) violation: Option<Violation>,
    pub(super) last: Vec<String>,
    /// Virtual time, µs.
    pub(super) time: u64,
}

/// How long everything may take to come right, µs.
const HEAL_US: u64 = 240_000_000;
/// How long the last questions may take.
const ANSWER_US: u64 = 60_000_000;
/// How long what is left over may last.
const TIDY_US: u64 = 60_000_000;
const SECOND: u64 = 1_000_000;

/// Runs one seed.
pub(super) fn run_seed<G: Guards>(seed: u64, terms: Terms, story: Story) -> Outcome {
    memo::forget();
    let mut world = World::<G>::new(seed, terms.updates, story);
    world.storm(terms.events_max);
    world.heal();
    let tally = world.tally;
    Outcome {
        seed,
        events: tally.events,
        completed: tally.completed,
        aborted: tally.aborted,
        crashes: tally.crashes,
        partitions: tally.partitions,
        requests: tally.requests,
        hash: world.trace_hash(),
        last: world.story.last(),
        coverage: world.coverage,
        violation: world.check.violation,
        time: world.time,
    }
}

impl Outcome {
    /// A run that ended in a panic.
    pub(super) fn panicked(seed: u64, violation: Violation) -> Self {
        Self {
            seed,
            events: 0,
            completed: 0,
            aborted: 0,
            crashes: 0,
            partitions: 0,
            requests: 0,
            hash: [0; 32],
            coverage: Coverage::default(),
            violation: Some(violation),
            last: Vec::new(),
            time: 0,
        }
    }

    /// The promise that was broken, and how.
    pub fn violated(&self) -> Option<(&'static str, &str)> {
        self.violation.as_ref().map(|violation| (violation.invariant, violation.detail.as_str()))
    }

    /// The hash of everything that happened: equal for equal runs.
    pub fn trace_hash(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Completed migrations and events.
    pub const fn counts(&self) -> (u64, u64) {
        (self.completed, self.events)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, events, completed, aborted, crashes, partitions, requests, time, .. } = self;
        let seconds = time / SECOND;
        write!(
            f,
            "seed {seed}: {events} events in {seconds} virtual seconds, {completed} migrations completed, {aborted} aborted, "
        )?;
        write!(f, "{crashes} crashes, {partitions} partitions, {requests} requests; trace {}", &self.trace_hash()[..16])
    }
}

impl<G: Guards> World<G> {
    fn fine(&self) -> bool {
        self.check.violation.is_none()
    }

    /// Until nothing goes wrong any more.
    fn storm(&mut self, events_max: u64) {
        while !self.calm && self.fine() && self.step() {
            if self.tally.events >= events_max && !self.calm {
                self.calm_down();
            }
        }
    }

    /// Runs until `done`, or until `limit` has passed. Whether it was done.
    fn run_until(&mut self, limit: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.time + limit;
        let mut look = self.time;
        while self.fine() && self.time < end {
            if self.time >= look {
                if done(self) {
                    return true;
                }
                look = self.time + SECOND;
            }
            if !self.step() {
                break;
            }
        }
        done(self)
    }

    /// Everything must come right now: moves end, services serve, clients are answered, nothing is left over.
    fn heal(&mut self) {
        if !self.fine() {
            return;
        }
        if !self.run_until(HEAL_US, |world| world.unsettled().is_none()) {
            let what = self.unsettled().unwrap_or_default();
            self.violate("everything comes right once nothing goes wrong", || what);
            return;
        }
        self.check.last_questions = true;
        let gateways: Vec<usize> = (0..self.clients.len())
            .filter(|client| *client == 0 || self.clients[*client].gateway != self.clients[*client - 1].gateway)
            .collect();
        for client in gateways {
            for service in 0..self.check.services.len() {
                if !self.check.services[service].excused && !self.ask(client, service) {
                    self.violate("a gateway takes questions", || format!("client {client}"));
                }
                let gateway = self.clients[client].gateway;
                self.settle(gateway);
            }
        }
        if self.fine() && !self.run_until(ANSWER_US, |world| world.last_waiting() == 0) {
            let waiting = self.last_waiting();
            self.violate("every client is answered", || format!("{waiting} last questions are not"));
        }
        if self.fine() {
            self.check.last_unanswered_is_wrong();
        }
        // Services that move by themselves go on doing so: some time there is a moment without a move.
        if self.fine() && !self.run_until(TIDY_US, |world| world.unsettled().is_none() && world.leftovers().is_none()) {
            let what = self.leftovers().or_else(|| self.unsettled()).unwrap_or_default();
            self.violate("nothing is kept for a dead migration", || what);
        }
        if self.fine() {
            self.check_end();
        }
    }

    /// Questions that are to be answered in the end. Those under keys to services that are stopped come again and again.
    fn last_waiting(&self) -> usize {
        self.check
            .waiting_for(|service, client| self.owners[service].wish == Wish::Runs || !self.clients[client].is_keyed())
    }

    /// What is still on the host that an operator drains, though there is room elsewhere: every other cloud has some.
    fn not_drained(&self) -> Option<String> {
        let node = self.plan.drained?;
        let host = self.nodes[node].as_host()?;
        let view = host.host.drain_view(self.now(node));
        // What waits for its owner waits here.
        if view.left.is_empty() || self.check.waits_for_owner() {
            return None;
        }
        Some(format!("{} is being drained, and has {:?}", self.nodes[node].name, view.left))
    }

    /// What is not as it should be yet.
    fn unsettled(&self) -> Option<String> {
        if let Machine::Registry(registry) = &self.nodes[self.registry].machine
            && let Some(view) = registry.recovery(self.now(self.registry))
            && (view.window_left > Micros::ZERO || (view.suspended > 0 && !self.check.waits_for_owner()))
        {
            return Some(format!("{} services wait for the registry's recovery", view.suspended));
        }
        for node in &self.nodes {
            let Machine::Host(host) = &node.machine else {
                if node.is_up() {
                    continue;
                }
                return Some(format!("{} is down", node.name));
            };
            if host.host.is_moving() && !self.check.waits_for_owner() {
                return Some(format!("a migration goes on at {}", node.name));
            }
        }
        if let Some(left) = self.not_drained() {
            return Some(left);
        }
        if let Some(lacks) = (0..self.owners.len()).find_map(|at| self.unsatisfied(at)) {
            return Some(lacks);
        }
        // Others come again and again.
        let runs = |service: usize, _| self.owners[service].wish == Wish::Runs;
        let waiting = self.check.waiting_for(runs) + self.unfinished();
        if waiting > 0 {
            return Some(format!("{waiting} questions are not answered"));
        }
        None
    }
}
