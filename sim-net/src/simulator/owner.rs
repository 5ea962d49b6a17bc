//! Owners: they stop, start, update and remove their services through whatever node is at hand, and deploy them again. An order is
//! sent again, in the same bytes, until its end is known: that is what `wayfare stop` does.

use wayfare_protocol::{
    gateway::{Failure, Refuse},
    ids::{Digest, Epoch, ServiceId},
    manifest::Manifest,
    migration::messages::RegistryFrame,
    order::{Action, Order, OrderDone, OrderFrame, Outcome},
    reject::{Guards, Reject},
    suite::Secret,
    time::Micros,
    trust::{Receiver, Signed},
    wire::Frame as _,
};

use super::{
    clock::Clock,
    event::Event,
    faults::Strike,
    memo::Memo,
    network::Kind,
    node::{Disk, Machine},
    setup::OWNER,
    world::World,
};

/// How long an owner waits, on average, before it asks again what became of an order, µs.
const ASK_AGAIN_US: u64 = 1_000_000;

/// How long an order is good: longer than any run.
const ORDER_LIFETIME: Micros = Micros::from_secs(1800);

/// How an owner wants its service to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Runs,
    Stopped,
    Removed,
}

/// The owner of one service.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) wish: Wish,
    /// Of the last manifest that it signed.
    pub(super) version: u32,
    /// How often it has deployed it.
    deployments: u32,
    /// The order whose end is not known.
    out: Option<Signed<Order>>,
    /// The manifest of the last update.
    update: Option<Signed<Manifest>>,
    /// What the last order said.
    action: Action,
    /// Whether the last order was refused: another one is given.
    again: bool,
    sequence: u64,
    /// The removals of the last deployment: a Registry that forgot may be told them again.
    removals: Vec<Signed<Order>>,
    /// The Registry knows no such service: nothing is left to remove, as far as it can tell.
    unknown: bool,
    /// It wants nothing else any more.
    content: bool,
}

impl Owner {
    pub(super) const fn new() -> Self {
        Self {
            wish: Wish::Runs,
            version: 1,
            deployments: 1,
            out: None,
            update: None,
            action: Action::Start,
            again: false,
            sequence: 0,
            removals: Vec::new(),
            unknown: false,
            content: false,
        }
    }

    /// Whether a client may be told so, of a service as its owner wants it.
    pub(super) const fn explains(&self, failure: &Failure) -> bool {
        match self.wish {
            // The same of one that is deployed again: a gateway may follow the one before until it asks.
            Wish::Runs => self.deployments > 1 && matches!(failure, Failure::Refused(Refuse::OutcomeUnknown)),
            // What was sent twice may yet be executed, should the second copy come after a start. What was asked while much was
            // wrong may wait for its time.
            Wish::Stopped => matches!(failure, Failure::Stopped | Failure::SessionLost | Failure::Timeout),
            // Under a key it was sent to whoever had the service, perhaps: then nobody can tell any more.
            Wish::Removed => {
                matches!(failure, Failure::NoSuchService | Failure::Timeout | Failure::Refused(Refuse::OutcomeUnknown))
            }
        }
    }

    /// Whether it has ever ordered this.
    pub(super) const fn has_removed(&self) -> bool {
        self.deployments > 1 || !self.removals.is_empty()
    }

    fn waits_for(&self, order: Digest) -> bool {
        self.out.as_ref().is_some_and(|out| out.hash() == order)
    }
}

impl<G: Guards> World<G> {
    pub(super) fn handle_owner(&mut self, at: usize) {
        let waits = self.owners[at].out.is_some() || self.owners[at].again || self.calm;
        let Some(mean) = self.plan.order_us.map(|mean| if waits { ASK_AGAIN_US } else { mean }) else { return };
        let next = self.rng.wait(mean);
        self.queue.push(self.time + next, Event::Owner { service: at });
        if self.owners[at].out.is_none() {
            self.want(at);
        }
        self.submit(at);
    }

    /// What the owner wants next.
    fn want(&mut self, at: usize) {
        let known = &self.check.services[at];
        let (gone, there, lost) = (known.gone, known.record.is_some(), known.excused);
        let Owner { wish, action, again, content, .. } = self.owners[at];
        if again {
            // What was lost cannot be stopped or started.
            if action == Action::Remove || !lost {
                self.order(at, action);
            } else {
                (self.owners[at].again, self.owners[at].wish) = (false, Wish::Runs);
            }
            return;
        }
        if content || (!there && !gone) {
            return;
        }
        self.owners[at].content = self.calm;
        let changes = !self.calm || self.rng.one_in(2);
        match wish {
            // A home that is drained in the end takes nothing new.
            Wish::Removed if gone && changes && self.plan.drained != self.home_of(at) => self.deploy_again(at),
            Wish::Removed if gone => {}
            Wish::Removed => self.order(at, Action::Remove),
            Wish::Stopped if self.calm && changes => self.order(at, Action::Start),
            Wish::Runs | Wish::Stopped if self.calm => {}
            Wish::Runs | Wish::Stopped => {
                let same = if wish == Wish::Runs { Action::Start } else { Action::Stop };
                let other = if wish == Wish::Runs { Action::Stop } else { Action::Start };
                match self.rng.below(10) {
                    0..4 => self.order(at, other),
                    4..6 => self.order(at, Action::Remove),
                    6..9 if self.plan.updates => self.update_code(at),
                    _ => self.order(at, same),
                }
            }
        }
    }

    /// Other code, which some host has.
    fn update_code(&mut self, at: usize) {
        let hosts: Vec<usize> =
            (0..self.nodes.len()).filter(|node| matches!(self.nodes[*node].disk, Disk::Host(_))).collect();
        let Some(from) = self.rng.pick(&hosts).copied() else { return };
        self.owners[at].version += 1;
        let manifest = self.publish(at, from);
        let action = Action::Update { manifest: manifest.hash(), keep: true, from: self.nodes[from].host };
        self.owners[at].update = Some(manifest);
        self.order(at, action);
    }

    fn order(&mut self, at: usize, action: Action) {
        // A person's clock is right.
        let wall = Clock::exact().now(self.time).wall;
        let service = self.check.services[at].id;
        let owner = &mut self.owners[at];
        owner.sequence = wall.0.max(owner.sequence + 1);
        let order = Order { service, action, sequence: owner.sequence, expiry: wall + ORDER_LIFETIME };
        let receiver = Receiver::Registry(service.registry);
        let signed = Signed::sign::<Memo>(&Secret::new(OWNER), service.registry, receiver, &order);
        (owner.action, owner.again, owner.unknown) = (action, false, false);
        owner.wish = match action {
            Action::Stop => Wish::Stopped,
            Action::Start => Wish::Runs,
            Action::Remove => Wish::Removed,
            Action::Update { .. } => owner.wish,
        };
        if action == Action::Remove {
            owner.removals.push(signed.clone());
        }
        owner.out = Some(signed);
        self.check.services[at].stopped &= action != Action::Start && action != Action::Remove;
        self.tell(self.registry, |world| format!("the owner of {} orders: {}", world.name_of(at), action.name()));
    }

    fn name_of(&self, at: usize) -> &str {
        &self.check.services[at].name
    }

    /// The owner hands its order to some node, which passes it on.
    fn submit(&mut self, at: usize) {
        let Some(order) = self.owners[at].out.clone() else { return };
        let node = self.rng.index(self.nodes.len());
        if node == self.registry || !self.nodes[node].is_up() || self.nodes[node].busy_until > self.time {
            return;
        }
        let manifest =
            self.owners[at].update.clone().filter(|_| matches!(self.owners[at].action, Action::Update { .. }));
        let addresses = manifest.iter().map(|_| "/module".to_owned()).collect();
        let frame = RegistryFrame::Order(OrderFrame { order, manifest, addresses });
        let registry = self.registry;
        self.send(node, Kind::Registry, registry, true, frame.name(), frame.to_bytes());
    }

    /// The owner deploys its service under the same name again: a new one.
    fn deploy_again(&mut self, at: usize) {
        let owner = &mut self.owners[at];
        (owner.wish, owner.version, owner.deployments) = (Wish::Runs, owner.version + 1, owner.deployments + 1);
        owner.removals.clear();
        self.check.services[at].begins_again();
        self.tell(self.registry, |world| format!("{} is deployed again", world.name_of(at)));
        self.queue.push(self.time, Event::Strike(Strike::Deploy(at)));
    }

    /// The deployment was refused. A Registry that was restored may believe in the one before.
    pub(super) fn deployment_failed(&mut self, service: ServiceId) {
        for at in 0..self.owners.len() {
            if self.check.services[at].id == service && self.owners[at].deployments > 1 {
                self.order(at, Action::Remove);
            }
        }
    }

    /// The node got this from the Registry: perhaps an answer to an owner.
    pub(super) fn note_answer(&mut self, bytes: &[u8]) {
        if self.plan.order_us.is_none() {
            return;
        }
        let (order, outcome) = match RegistryFrame::from_bytes(bytes) {
            Ok(RegistryFrame::OrderState(state)) => (state.order, state.outcome),
            Ok(RegistryFrame::Refused(refused)) => (refused.about, Some(Outcome::Refused(refused.reason))),
            _ => return,
        };
        let Some(at) = self.owners.iter().position(|owner| owner.waits_for(order)) else { return };
        match outcome {
            None => {}
            Some(Outcome::Done) => self.order_done(at),
            Some(Outcome::Refused(reason)) => self.order_refused(at, &reason),
        }
    }

    fn order_done(&mut self, at: usize) {
        let owner = &mut self.owners[at];
        (owner.out, owner.unknown) = (None, false);
        let action = owner.action;
        if action == Action::Remove {
            self.check.services[at].ends();
        }
        self.tell(self.registry, |world| format!("the owner of {} hears: {} done", world.name_of(at), action.name()));
    }

    fn order_refused(&mut self, at: usize, reason: &str) {
        self.tell(self.registry, |world| format!("the owner of {} hears: {reason}", world.name_of(at)));
        let Self { owners, rng, .. } = self;
        let owner = &mut owners[at];
        match Reject::ALL.iter().find(|reject| reject.name() == reason) {
            Some(Reject::Recovering) => {}
            // It may have been one of the orders before.
            Some(Reject::UnknownService | Reject::Removed) if owner.action == Action::Remove => {
                owner.unknown = true;
                owner.out = rng.pick(&owner.removals).cloned();
            }
            // It may be tried again, with the next version.
            _ if matches!(owner.action, Action::Update { .. }) => owner.out = None,
            _ => (owner.out, owner.again) = (None, true),
        }
    }

    /// The Registry begins again with an older store: owners of removed services see to it that they are.
    pub(super) fn remind_owners(&mut self) {
        for (owner, known) in self.owners.iter_mut().zip(&mut self.check.services) {
            known.gone = false;
            if owner.wish == Wish::Removed && owner.out.is_none() {
                owner.out = owner.removals.last().cloned();
            }
        }
    }

    /// What is not as its owner wants it.
    pub(super) fn unsatisfied(&self, at: usize) -> Option<String> {
        let (owner, known) = (&self.owners[at], &self.check.services[at]);
        let name = &known.name;
        if owner.wish == Wish::Removed {
            let removed = (known.gone && owner.content) || owner.unknown;
            return (!removed).then(|| format!("{name} is not removed"));
        }
        if known.excused {
            return None;
        }
        if self.plan.order_us.is_some() && !owner.content {
            return Some(format!("the owner of {name} may want something else"));
        }
        if owner.out.is_some() || owner.again {
            return Some(format!("the owner of {name} does not know what became of its order"));
        }
        let Some(record) = known.record else { return Some(format!("{name} is not registered")) };
        let node = self.by_host.get(&record.host).copied().unwrap_or(0);
        let host = self.nodes[node].as_host()?;
        let runs = host.instances.get(&(known.id, record.epoch)).is_some_and(|instance| instance.guest.is_some());
        if !runs || !host.host.may_answer(self.now(node), known.id) {
            return Some(format!("{name} does not serve on {}", self.nodes[node].name));
        }
        let stopped = host.host.is_stopped(known.id);
        (stopped != (owner.wish == Wish::Stopped)).then(|| format!("{name} is wanted {:?}", owner.wish))
    }

    /// A host reports what became of an order: from here on nobody executes anything for who was stopped.
    pub(super) fn note_order_done(&mut self, signed: &Signed<OrderDone>) {
        let Ok(done) = signed.unverified() else { return };
        for (owner, known) in self.owners.iter().zip(&mut self.check.services) {
            if known.id != done.ids.service || !owner.waits_for(done.order) || done.outcome != Outcome::Done {
                continue;
            }
            known.stopped |= owner.action == Action::Stop;
            if matches!(owner.action, Action::Update { .. }) {
                known.code_floor = known.codes.len().saturating_sub(1);
            }
        }
    }

    /// The Registry says that a removal is on its disk.
    pub(super) fn look_at_tombstones(&mut self) {
        let Self { nodes, check, registry, .. } = self;
        if let Machine::Registry(registry) = &nodes[*registry].machine {
            check.note_buried(registry);
        }
    }

    /// A stopped service executes nothing.
    pub(super) fn check_not_stopped(&mut self, node: usize, service: ServiceId, epoch: Epoch) {
        if self.check.service(service).is_some_and(|known| known.stopped) {
            let name = self.nodes[node].name.clone();
            self.violate("a stopped service executes nothing", || format!("{service} of epoch {epoch} on {name}"));
        }
    }
}
