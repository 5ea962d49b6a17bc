//! What must hold after every event. Each check names its invariant in words: that is what a failure prints.
//!
//! The [`Checker`] is an observer outside the world: it knows what was acknowledged to whom, what the Registry decided and
//! until when leases run in true time, and compares machines with that, never with themselves.

use std::collections::{BTreeMap, BTreeSet};

use wayfare_protocol::{
    advert::Gossip,
    gateway::Ticket,
    host::{Entry, ImageId, hosted::Stay},
    ids::{Digest, Epoch, HostId, MigrationId, ServiceId},
    limits::{DEPARTED_MAX, FINISHED_MAX, HALF_OPEN_MAX, QUEUED_REQUESTS_MAX, SERVICES_MAX},
    manifest::{Durability, Resources},
    migration::messages::{MigrateFrame, RegistryFrame},
    registry::Registry,
    reject::Guards,
    time::Micros,
};

use super::{
    guest::{Guest, Name, Response},
    memo::Memo,
    node::Machine,
    world::World,
};

/// Events to come, frames in flight and timers together. More: something feeds itself.
const QUEUE_MAX: usize = 100_000;

/// A broken promise.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) invariant: &'static str,
    pub(super) detail: String,
}

/// Where the Registry says a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whereabouts {
    pub(super) host: HostId,
    pub(super) previous: HostId,
    pub(super) epoch: Epoch,
    pub(super) mig: MigrationId,
    /// Until when the Registry counts the holder's lease, in true time.
    pub(super) leased_until: u64,
}

/// A service, as somebody outside knows it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) id: ServiceId,
    pub(super) name: String,
    pub(super) durability: Durability,
    pub(super) required: Resources,
    pub(super) record: Option<Whereabouts>,
    /// The highest epoch that anybody was told.
    told: Epoch,
    /// Acknowledged calls by their place in the one history there is.
    pub(super) acked: BTreeMap<u64, (Name, Digest)>,
    /// It was in memory only, and a crash took it.
    pub(super) excused: bool,
    /// Its host has said that it is stopped, and its owner has ordered nothing else since.
    pub(super) stopped: bool,
    /// Its owner was told that its removal is over, and has not deployed it again.
    pub(super) gone: bool,
    /// The last epoch of those that the Registry has ended by a removal.
    pub(super) buried: Option<Epoch>,
    /// Under which epoch a new instance started, by what it read as it did.
    births: BTreeMap<u64, Epoch>,
    /// Hashes of the modules that its owner signed manifests for, oldest first, and from which on one may run.
    pub(super) codes: Vec<Digest>,
    pub(super) code_floor: usize,
}

impl Service {
    pub(super) fn new(id: ServiceId, name: String, durability: Durability, required: Resources) -> Self {
        let told = Epoch { era: 0, hop: 0 };
        let (acked, births) = (BTreeMap::new(), BTreeMap::new());
        let (record, buried) = (None, None);
        let (excused, stopped, gone) = (false, false, false);
        let (codes, code_floor) = (Vec::new(), 0);
        Self {
            id,
            name,
            durability,
            required,
            record,
            told,
            acked,
            excused,
            stopped,
            gone,
            buried,
            births,
            codes,
            code_floor,
        }
    }

    /// Its owner was told that it is removed.
    pub(super) fn ends(&mut self) {
        (self.record, self.excused, self.stopped, self.gone) = (None, false, false, true);
    }

    /// Its owner deploys another one under its name.
    pub(super) fn begins_again(&mut self) {
        self.gone = false;
        self.acked.clear();
    }

    /// Whether this epoch ended with a removal.
    pub(super) fn is_buried(&self, epoch: Epoch) -> bool {
        self.buried.is_some_and(|buried| epoch <= buried)
    }
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    /// The gateway said that it was not executed.
    Refused,
    Unknown,
}

/// The observer.
#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) services: Vec<Service>,
    pub(super) violation: Option<Violation>,
    open: BTreeMap<(usize, Ticket), (Name, usize, usize)>,
    pub(super) refused: BTreeSet<(usize, Name)>,
    /// Won or aborted, once that is on the Registry's disk.
    decided: BTreeMap<MigrationId, bool>,
    /// Who consented to leave: the host, the stay, the attempt.
    consented: BTreeSet<(usize, Stay, MigrationId)>,
    /// Who promised to hold what.
    held: BTreeMap<(usize, MigrationId), Stay>,
    captured: BTreeMap<MigrationId, Guest>,
    /// What each cloud last said it has free.
    pub(super) free: BTreeMap<usize, Resources>,
    /// Hosts that have a disk which is older than what they did, and the stays that they may keep, sealed.
    pub(super) old_disks: BTreeSet<usize>,
    pub(super) sealed: BTreeSet<(usize, Stay)>,
    /// The Registry was restored from a backup: what only a gateway was told may be forgotten.
    was_restored: bool,
    /// It has not heard from all hosts yet, and does not decide.
    recovers: bool,
    /// Questions that failed at the very end.
    late: Vec<Name>,
    pub(super) last_questions: bool,
    /// The epoch that each gateway follows.
    followed: BTreeMap<(usize, ServiceId), Epoch>,
}

impl Checker {
    pub(super) fn asked(&mut self, gateway: usize, ticket: Ticket, name: Name, service: usize, client: usize) {
        self.open.insert((gateway, ticket), (name, service, client));
        // Under a key, it may be asked again.
        self.refused.remove(&(service, name));
    }

    /// How a question ended; `explained`: not answered, and rightly so.
    pub(super) fn close(
        &mut self,
        gateway: usize,
        ticket: Ticket,
        end: End,
        explained: bool,
    ) -> Option<(Name, usize, usize)> {
        let (name, service, client) = self.open.remove(&(gateway, ticket))?;
        if end == End::Refused {
            self.refused.insert((service, name));
        }
        if end != End::Answered && !explained && self.last_questions && !self.services[service].excused {
            self.late.push(name);
        }
        Some((name, service, client))
    }

    pub(super) fn hung_up(&mut self, gateway: usize) {
        self.open.retain(|(at, _), _| *at != gateway);
        self.followed.retain(|(at, _), _| *at != gateway);
    }

    /// Everything that this host consented to.
    pub(super) fn consents_of(&self, node: usize) -> Vec<(Stay, MigrationId)> {
        self.consented.iter().filter(|(at, ..)| *at == node).map(|(_, stay, mig)| (*stay, *mig)).collect()
    }

    /// The host's disk is an older one: it knows nothing of what it consented to since.
    pub(super) fn rolled_back(&mut self, node: usize, stays: &[Stay], consented: &[(Stay, MigrationId)]) {
        self.consented.retain(|(at, ..)| *at != node);
        self.consented.extend(consented.iter().map(|(stay, mig)| (node, *stay, *mig)));
        self.old_disks.insert(node);
        self.sealed.extend(stays.iter().map(|stay| (node, *stay)));
    }

    /// The Registry begins again with an older store.
    pub(super) fn restored(&mut self) {
        self.was_restored = true;
        self.recovers = true;
    }

    /// Whether a move may never end: its target's state was in memory, and a restored Registry cannot know what became of it.
    pub(super) fn waits_for_owner(&self) -> bool {
        self.was_restored && self.services.iter().any(|service| service.excused)
    }

    /// Whether any service is at this host, or on its way there, for all that is known.
    pub(super) fn expects_something_of(&self, host: HostId) -> bool {
        self.services.iter().any(|service| service.record.is_none_or(|record| record.host == host))
    }

    /// Questions that wait for an answer: to services that were not lost, of those that `fits` says, by service and client.
    pub(super) fn waiting_for(&self, fits: impl Fn(usize, usize) -> bool) -> usize {
        let served = |service: usize| !self.services[service].excused;
        self.open.values().filter(|(_, service, client)| served(*service) && fits(*service, *client)).count()
    }

    /// From here on, a question that is not answered is a broken promise.
    pub(super) fn last_unanswered_is_wrong(&mut self) {
        if let Some(name) = self.late.first() {
            let detail = format!("{name} failed though nothing was wrong");
            self.violation = Some(Violation { invariant: "every client is answered", detail });
        }
    }

    pub(super) fn decided(&mut self, mig: MigrationId, won: bool) {
        self.decided.insert(mig, won);
    }

    pub(super) fn captured(&mut self, mig: MigrationId, guest: Guest) {
        self.captured.insert(mig, guest);
    }

    /// A new instance starts.
    pub(super) fn born(&mut self, guest: &Guest, stay: Stay) {
        for known in self.services.iter_mut().filter(|known| known.id == stay.0) {
            known.births.insert(guest.birth(), stay.1);
        }
    }

    /// The Registry has these on its disk: what is to be deleted.
    pub(super) fn note_buried<G: Guards>(&mut self, registry: &Registry<Memo, G>) {
        for known in &mut self.services {
            known.buried = known.buried.max(registry.tombstone(known.id).map(|tombstone| tombstone.epoch));
        }
    }

    pub(super) fn which(&self, gateway: usize, ticket: Ticket) -> Option<(usize, usize)> {
        self.open.get(&(gateway, ticket)).map(|(_, service, client)| (*service, *client))
    }

    /// This service may be lost: that was its owner's choice.
    pub(super) fn excuse(&mut self, service: ServiceId) {
        for service in self.services.iter_mut().filter(|known| known.id == service && !known.gone) {
            service.excused |= service.durability == Durability::Memory;
        }
    }

    pub(super) fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.iter().find(|service| service.id == id)
    }
}

impl<G: Guards> World<G> {
    /// Notes the first broken promise.
    pub(super) fn violate(&mut self, invariant: &'static str, detail: impl FnOnce() -> String) {
        if self.check.violation.is_none() {
            let detail = detail();
            self.tell(self.registry, |_| format!("VIOLATED: {invariant}: {detail}"));
            self.check.violation = Some(Violation { invariant, detail });
        }
    }

    pub(super) fn note_entry(&mut self, node: usize, entry: &Entry) {
        match entry {
            Entry::Consented { ids, .. } => {
                self.nodes[node].phases[0] = "frozen";
                self.check.consented.insert((node, (ids.service, ids.epoch), ids.mig));
            }
            Entry::KeyMade { .. } => self.nodes[node].phases[1] = "checking",
            Entry::Held { ids, .. } => {
                self.nodes[node].phases[1] = "held";
                self.check.held.insert((node, ids.mig), (ids.service, ids.epoch));
                self.check_held(node, ids.mig);
            }
            Entry::Sealed { service, epoch, .. } => self.note_sealed(node, (*service, *epoch)),
            Entry::Placed { placement, .. } => {
                self.nodes[node].phases[1] = "placed";
                let Ok(placement) = placement.unverified() else { return };
                self.heard(placement.service, placement.epoch);
            }
            _ => {}
        }
    }

    /// Nobody is superseded without consent, unless the Registry or the host has forgotten something.
    fn note_sealed(&mut self, node: usize, stay: Stay) {
        if !self.check.was_restored && !self.check.sealed.contains(&(node, stay)) {
            let name = self.nodes[node].name.clone();
            self.violate("nobody is superseded without consent", || format!("{name} seals {} of {}", stay.0, stay.1));
        }
        self.check.sealed.insert((node, stay));
        self.check.old_disks.insert(node);
    }

    /// Somebody believes in this epoch: the Registry must never name an older one.
    fn heard(&mut self, service: ServiceId, epoch: Epoch) {
        for known in self.check.services.iter_mut().filter(|known| known.id == service) {
            known.told = known.told.max(epoch);
        }
    }

    fn check_held(&mut self, node: usize, mig: MigrationId) {
        let Some(host) = self.nodes[node].as_host() else { return };
        let here = host.landing.get(&mig).and_then(|landing| landing.ready.as_ref()).map(|ready| &ready.guest);
        if here.is_none() || here != self.check.captured.get(&mig) {
            self.violate("the state at the target is the state at the source", || format!("{mig}"));
        }
    }

    pub(super) fn note_gossip(&mut self, node: usize, gossip: &Gossip) {
        if let Gossip::Advert(advert) = gossip
            && let Ok(advert) = advert.unverified()
        {
            self.check.free.insert(node, advert.resources);
        }
    }

    pub(super) fn note_to_registry(&mut self, node: usize, frame: &RegistryFrame) {
        match frame {
            RegistryFrame::Reclaim(_) => self.nodes[node].phases[0] = "undecided",
            RegistryFrame::OrderDone(signed) => self.note_order_done(signed),
            _ => {}
        }
    }

    pub(super) fn note_to_peer(&mut self, node: usize, frame: &MigrateFrame) {
        if matches!(frame, MigrateFrame::Request(_)) {
            self.nodes[node].phases[0] = "offering";
        }
    }

    /// An instance is deleted only when its host consented and the Registry moved the service, or its owner removed it.
    pub(super) fn check_discard(&mut self, node: usize, stay: Stay) {
        let consented = |(at, of, mig): &(usize, Stay, MigrationId)| {
            *at == node && *of == stay && self.check.decided.get(mig) == Some(&true)
        };
        let removed = self.check.service(stay.0).is_some_and(|known| known.is_buried(stay.1));
        if !removed && !self.check.consented.iter().any(consented) {
            let name = self.nodes[node].name.clone();
            self.violate("a state is deleted only when its host consented and the Registry moved it", || {
                format!("{name} deletes {} of epoch {}", stay.0, stay.1)
            });
        }
    }

    /// What was promised to be held is deleted only when the Registry aborted the attempt, or the owner removed the service.
    pub(super) fn check_discard_incoming(&mut self, node: usize, mig: MigrationId) {
        // A restored Registry aborts what it does not know without a word.
        let aborted = self.check.was_restored || self.check.decided.get(&mig) == Some(&false);
        let held = self.check.held.get(&(node, mig)).copied();
        let kept = held.is_some_and(|(id, epoch)| self.check.service(id).is_none_or(|known| !known.is_buried(epoch)));
        if kept && !aborted {
            let name = self.nodes[node].name.clone();
            self.violate("a held state ends by the Registry's decision only", || format!("{name} deletes {mig}"));
        }
    }

    /// The machine lets a guest execute: under a lease that the Registry still counts. What takes longer than the lease, or
    /// waits for its turn, is executed all the same, and answered under a later one.
    pub(super) fn check_execute(&mut self, node: usize, stay: Stay) {
        let at = self.nodes[node].called_at;
        self.check_leased(node, stay.0, Some(stay.1), "executes", at);
    }

    /// Just before a guest executes: on top of everything acknowledged, and nothing twice.
    pub(super) fn check_call(&mut self, node: usize, stay: Stay, request: &[u8]) {
        self.check_not_stopped(node, stay.0, stay.1);
        self.check_code(node, stay);
        let Some(service) = self.check.service(stay.0) else { return };
        let instance = self.nodes[node].as_host().and_then(|host| host.instances.get(&stay));
        let Some(guest) = instance.and_then(|instance| instance.guest.as_ref()) else { return };
        let lacks = service
            .acked
            .last_key_value()
            .filter(|(index, (_, chain))| guest.list().get(**index as usize).is_none_or(|done| done.chain != *chain));
        if let Some((index, (name, _))) = lacks {
            let (index, name, has) = (*index, *name, guest.list().len());
            self.violate("no acknowledged write is lost", || format!("{name}, number {index}, is not among {has}"));
            return;
        }
        if let Some(name) = request.first_chunk::<8>().map(|name| Name(u64::from_le_bytes(*name)))
            && guest.has(name)
        {
            self.violate("no request is executed twice", || format!("{name}"));
        }
    }

    /// Just before a response leaves.
    pub(super) fn check_reply(&mut self, node: usize, service: ServiceId) {
        self.check_leased(node, service, None, "answers", self.time);
    }

    fn check_leased(&mut self, node: usize, service: ServiceId, epoch: Option<Epoch>, does: &'static str, time: u64) {
        let host = self.nodes[node].host;
        let Some(known) = self.check.service(service) else { return };
        let leased = known.record.is_some_and(|record| {
            record.host == host && epoch.is_none_or(|epoch| record.epoch == epoch) && record.leased_until >= time
        });
        if !leased {
            let (name, record) = (self.nodes[node].name.clone(), known.record);
            self.violate("nothing is executed or answered without a lease", || {
                format!("{name} {does} {service} at {time}; the record: {record:?}")
            });
        }
    }

    /// A client has its answer: it must fit into one history with all others.
    pub(super) fn acknowledged(&mut self, service: usize, name: Name, response: Response) {
        if response.name != name {
            self.violate("a response is that of its request", || format!("{name} got {}", response.name));
            return;
        }
        let known = &mut self.check.services[service];
        if known.births.get(&response.birth).is_none_or(|epoch| known.is_buried(*epoch)) {
            // Of a service that was removed since. What is deployed under its name begins without it.
            return;
        }
        let acked = &mut known.acked;
        let before = acked.insert(response.index, (name, response.chain));
        if before.is_some_and(|before| before != (name, response.chain)) {
            self.violate("all responses are of one history", || {
                format!("{name} and {} are both number {}", before.map_or(name, |before| before.0), response.index)
            });
        }
    }

    /// Everything that must hold between any two events.
    pub(super) fn check_all(&mut self, touched: Option<usize>) {
        if touched.is_none_or(|node| node == self.registry) {
            self.check_records();
        }
        if let Some(node) = touched
            && matches!(self.nodes[node].machine, Machine::Gateway(_))
        {
            self.check_gateway(node);
        }
        if let Some(node) = touched {
            self.check_sizes(node);
        }
        let waiting = self.queue.len();
        if waiting > QUEUE_MAX {
            self.violate("queues keep their limits", || format!("{waiting} events are to come"));
        }
        for at in 0..self.check.services.len() {
            self.check_holder(at);
            self.check_single(at);
        }
    }

    fn check_sizes(&mut self, node: usize) {
        let Machine::Host(host) = &self.nodes[node].machine else { return };
        let sizes = host.host.sizes();
        let fits = sizes.services <= 2 * SERVICES_MAX
            && sizes.arrivals <= HALF_OPEN_MAX
            && sizes.waiting <= QUEUED_REQUESTS_MAX
            && sizes.departed <= DEPARTED_MAX
            && sizes.finished <= FINISHED_MAX + HALF_OPEN_MAX;
        if !fits {
            self.violate("queues keep their limits", || format!("{sizes:?}"));
        }
    }

    fn check_records(&mut self) {
        let Machine::Registry(registry) = &self.nodes[self.registry].machine else { return };
        let clock = self.nodes[self.registry].clock;
        let view = registry.recovery(clock.now(self.time));
        let recovers = view.is_some_and(|view| view.suspended > 0);
        let listens = view.is_some_and(|view| view.window_left > Micros::ZERO);
        let (mut fell, mut rose) = (None, None);
        let was_restored = self.check.was_restored;
        self.check.recovers = recovers;
        for service in &mut self.check.services {
            let Some(placement) = registry.placement(service.id) else { continue };
            if recovers && (listens || placement.epoch < service.told) {
                // Nothing is decided by it: the holder of the newer one has yet to show it.
                continue;
            }
            if placement.epoch < service.told {
                fell = Some((service.id, placement.epoch, service.told));
            }
            if service.is_buried(placement.epoch) && registry.tombstone(service.id).is_some() && !was_restored {
                rose = Some((service.id, placement.epoch));
            }
            let until = registry.lease_until(service.id).unwrap_or_default();
            service.record = Some(Whereabouts {
                host: placement.host,
                previous: placement.previous,
                epoch: placement.epoch,
                mig: placement.mig,
                leased_until: clock.true_time(until),
            });
        }
        if let Some((service, epoch)) = rose {
            self.violate("a name is given again behind the last epoch", || format!("{service} again of epoch {epoch}"));
        }
        if let Some((service, now, before)) = fell {
            self.violate("epochs only rise", || format!("{service}: {before} was known, the record says {now}"));
        }
    }

    fn check_gateway(&mut self, node: usize) {
        let Machine::Gateway(gateway) = &self.nodes[node].machine else { return };
        let mut fell = None;
        for service in &mut self.check.services {
            let Some(placement) = gateway.placement(service.id) else { continue };
            let epoch = placement.epoch;
            let before = self.check.followed.insert((node, service.id), epoch);
            if !self.check.was_restored {
                service.told = service.told.max(epoch);
            }
            if before.is_some_and(|before| epoch < before) {
                fell = Some((service.id, epoch));
            }
        }
        let pending = gateway.pending();
        if let Some((service, epoch)) = fell {
            self.violate("epochs only rise", || format!("a gateway follows {service} back to {epoch}"));
        }
        if pending > 2 * wayfare_protocol::limits::PENDING_REQUESTS_MAX {
            self.violate("queues keep their limits", || format!("{pending} requests wait at a gateway"));
        }
    }

    /// The host of record has the state: running, frozen, held, or on its disk while it is down.
    fn check_holder(&mut self, at: usize) {
        let service = &self.check.services[at];
        let Some(record) = service.record.filter(|_| !service.excused && !self.check.recovers) else { return };
        if service.is_buried(record.epoch) {
            return;
        }
        let Some(node) = self.by_host.get(&record.host).copied() else { return };
        let stay = (service.id, record.epoch);
        let here = self.nodes[node].as_host().is_some_and(|host| {
            host.instances.contains_key(&stay)
                || host.landing.get(&record.mig).is_some_and(|landing| landing.ready.is_some())
        });
        // A new one may not have started yet.
        if here || record.previous == record.host {
            return;
        }
        let super::node::Disk::Host(disk) = &self.nodes[node].disk else { return };
        let of = |image: &ImageId| match image {
            ImageId::Held(mig) => *mig == record.mig,
            ImageId::Taken { service, epoch, .. } | ImageId::Updated { service, epoch, .. } => {
                (*service, *epoch) == stay
            }
        };
        if !disk.images.keys().any(of) {
            let (name, id) = (self.nodes[node].name.clone(), service.id);
            self.violate("the record names a host that has the state", || format!("{id} is not on {name}"));
        }
    }

    /// At most one host would execute or answer now.
    fn check_single(&mut self, at: usize) {
        let (id, gone) = (self.check.services[at].id, self.check.services[at].gone);
        let mut serving = None;
        for node in 0..self.nodes.len() {
            let Machine::Host(host) = &self.nodes[node].machine else { continue };
            if !host.host.may_answer(self.now(node), id) {
                continue;
            }
            if gone {
                let name = self.nodes[node].name.clone();
                self.violate("a removed service is served nowhere", || format!("{id} on {name}"));
                return;
            }
            if let Some(other) = serving.replace(node) {
                let names = [other, node].map(|node: usize| self.nodes[node].name.clone());
                self.violate("at most one instance serves", || format!("{id} on {}", names.join(" and ")));
                return;
            }
        }
    }
}
