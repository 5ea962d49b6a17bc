//! The gateway's machine: what arrives, and what it leads to.

use std::{
    collections::{BTreeMap, VecDeque},
    marker::PhantomData,
};

use super::{
    effect::{Effect, Entry, Refuse, Ticket},
    keys::{IdempotencyKey, Keyed, Keys, Restored, State},
    links::Links,
    messages::{ClientFrame, Hello, client_id},
    probe::Probe,
    route::{Asking, Route},
};
use crate::{
    advert::{AdvertStore, Pace},
    ids::{ClientId, Digest, Epoch, HostId, RegistryId, ServiceId},
    limits::{PENDING_REQUESTS_MAX, REQUEST_BYTES_MAX, REQUEST_TIMEOUT, SERVICES_MAX, TEXT_BYTES_MAX},
    migration::messages::{Lookup, Placement},
    outbox::Outbox,
    reject::{Guards, Reject, RejectCounters, Rule},
    suite::Suite,
    time::{Instant, Micros, Now},
    trust::{Certificate, Signed, TrustBundle},
};

/// Who a gateway is and whom it trusts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayConfig {
    /// Its key.
    pub host: HostId,
    /// Its certificate, shown to hosts.
    pub certificate: Signed<Certificate>,
    /// The Registries it trusts, each for its own services.
    pub bundle: TrustBundle,
    /// The Registry that is asked for services by name.
    pub registry: RegistryId,
    /// How often it reports round trips to the hosting host.
    pub report_interval: Micros,
    /// How long it holds a request before it answers 504.
    pub request_timeout: Micros,
}

impl GatewayConfig {
    /// With the default times: a report each second, [`REQUEST_TIMEOUT`].
    pub const fn new(
        host: HostId,
        certificate: Signed<Certificate>,
        bundle: TrustBundle,
        registry: RegistryId,
    ) -> Self {
        let (report_interval, request_timeout) = (Micros::from_secs(1), REQUEST_TIMEOUT);
        Self { host, certificate, bundle, registry, report_interval, request_timeout }
    }
}

/// A request for a service whose identifier is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) request: Vec<u8>,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) deadline: Instant,
}

/// A service that was added by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) service: Option<ServiceId>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) asking: Asking,
}

/// The gateway. See the [module](super).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway<S: Suite, G: Guards> {
    pub(super) config: GatewayConfig,
    pub(super) incarnation: u64,
    /// The journal entry that says so, until it is on disk: before, nobody is greeted, and nothing sent.
    incarnation_gate: Option<u64>,
    /// The client that it was before it last became another: hosts may still speak to it.
    pub(super) former: Option<ClientId>,
    /// When the incarnation was last renewed at a host's word.
    pub(super) renewed: Option<Instant>,
    next_ticket: u64,
    pub(super) names: BTreeMap<String, Name>,
    pub(super) routes: BTreeMap<ServiceId, Route>,
    /// Of services not added (yet), from the journal: numbers used, epochs seen.
    pub(super) remembered: BTreeMap<ServiceId, (u64, Option<Epoch>)>,
    pub(super) keys: Keys,
    /// Whether the keys from the journal have not been looked at yet.
    pub(super) restarted: bool,
    /// How large the journal was when it was last to be compacted.
    pub(super) compacted_at: Option<u64>,
    pub(super) full: bool,
    pub(super) links: Links,
    pub(super) outbox: Outbox<Effect>,
    pub(super) adverts: AdvertStore,
    /// How often each host was heard of by gossip.
    pub(super) pace: Pace,
    pub(super) probe: Probe,
    pub(super) rejects: RejectCounters,
    of: PhantomData<(S, G)>,
}

impl<S: Suite, G: Guards> Gateway<S, G> {
    /// A gateway with what its journal says: its entries with their numbers, in order; `last_entry` is the highest number
    /// ever used, compacted away or not. Without a journal it is a new client, whose incarnation is drawn from `rng`; with
    /// one, it skips to fresh numbers, and tries on what has a key and no outcome.
    pub fn new(config: GatewayConfig, journal: &[(u64, Entry)], last_entry: u64, rng: &mut dyn rand_core::Rng) -> Self {
        let mut told = Told::default();
        for (number, entry) in journal {
            told.replay(*number, entry);
        }
        let Told { incarnation, remembered, keys } = told;
        let mut gateway = Self {
            incarnation: incarnation.unwrap_or_else(|| rng.next_u64()),
            incarnation_gate: None,
            former: None,
            renewed: None,
            next_ticket: 0,
            names: BTreeMap::new(),
            routes: BTreeMap::new(),
            remembered,
            restarted: keys.len() > 0,
            keys,
            compacted_at: None,
            full: false,
            links: Links::default(),
            outbox: Outbox::starting_at(last_entry, G::keeps(Rule::SyncGate)),
            adverts: AdvertStore::default(),
            pace: Pace::default(),
            probe: Probe::new(config.host),
            rejects: RejectCounters::default(),
            config,
            of: PhantomData,
        };
        if incarnation.is_none() {
            gateway.persist_incarnation();
        }
        gateway
    }

    /// Journals an entry; returns its number.
    pub(super) fn persist(&mut self, entry: Entry) -> u64 {
        self.outbox.persist(|seq| Effect::Persist { seq, entry });
        self.outbox.last_appended()
    }

    pub(super) fn persist_incarnation(&mut self) {
        let entry = self.persist(Entry::Incarnation(self.incarnation));
        self.incarnation_gate = self.gate(entry);
    }

    /// What this gateway is to the hosts of services.
    pub fn client(&self) -> ClientId {
        client_id(self.config.host, self.incarnation)
    }

    /// The newest placement known of a service, expired or not.
    pub fn placement(&self, service: ServiceId) -> Option<&Placement> {
        self.routes.get(&service)?.placement.as_deref()
    }

    /// The identifier of a service that was added, once it is known.
    pub fn resolve(&self, lookup: &Lookup) -> Option<ServiceId> {
        match lookup {
            Lookup::Id(service) => self.routes.contains_key(service).then_some(*service),
            Lookup::Name(name) => self.names.get(name)?.service,
        }
    }

    /// The services that requests may be for.
    pub fn services(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.routes.keys().copied()
    }

    /// The adverts known.
    pub const fn adverts(&self) -> &AdvertStore {
        &self.adverts
    }

    /// Requests without a response, those that wait for a service to be found included.
    pub fn pending(&self) -> usize {
        let waiting = self.names.values().map(|name| name.waiting.len()).sum::<usize>();
        self.routes.values().map(|route| route.pending.len()).sum::<usize>() + waiting
    }

    /// Forgets how often each host was heard of by gossip.
    pub fn forget_pace(&mut self) {
        self.pace = Pace::default();
    }

    /// How often each rejection happened.
    pub const fn rejects(&self) -> &RejectCounters {
        &self.rejects
    }

    /// The next effect to execute.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.outbox.poll()
    }

    /// Carries requests for this service from now on, and follows it. Adding it again changes nothing.
    ///
    /// # Errors
    /// [`Refuse::Full`] at [`SERVICES_MAX`]; [`Refuse::UnknownService`] if its Registry is not trusted, or the name is
    /// longer than any.
    pub fn add_service(&mut self, now: Now, lookup: &Lookup) -> Result<(), Refuse> {
        self.take_up(now);
        match lookup {
            Lookup::Id(service) => {
                if self.config.bundle.anchor(service.registry).is_err() {
                    return Err(Refuse::UnknownService);
                }
                self.route(now.mono, *service).ok_or(Refuse::Full)?;
            }
            Lookup::Name(name) if name.len() > TEXT_BYTES_MAX => return Err(Refuse::UnknownService),
            Lookup::Name(name) if !self.names.contains_key(name) => {
                if self.names.len() >= SERVICES_MAX {
                    return Err(Refuse::Full);
                }
                let mut new = Name::default();
                new.asking.want(now.mono);
                self.names.insert(name.clone(), new);
            }
            Lookup::Name(_) => {}
        }
        self.ask(now.mono);
        Ok(())
    }

    /// The route of `service`, made if there is room: the only place where a numbering begins.
    pub(super) fn route(&mut self, now: Instant, service: ServiceId) -> Option<&mut Route> {
        if !self.routes.contains_key(&service) {
            if self.routes.len() >= SERVICES_MAX {
                return None;
            }
            let (below, highest) = self.remembered.remove(&service).unwrap_or_default();
            let mut route = Route::new(service, below, highest);
            route.reserve(&mut self.outbox, G::keeps(Rule::SyncGate));
            route.asking.want(now);
            self.routes.insert(service, route);
        }
        self.routes.get_mut(&service)
    }

    /// Takes a client's request: an HTTP/1.1 message. Its end is [`Effect::Answer`] or [`Effect::Fail`]. With a `key`, the
    /// same request is executed once and answered with the same bytes however often it comes, even if this gateway is
    /// restarted in between, within the limits of [`keys`](super::keys).
    ///
    /// # Errors
    /// [`Refuse`]: nothing was sent.
    pub fn handle_request(
        &mut self,
        now: Now,
        service: &Lookup,
        request: Vec<u8>,
        key: Option<IdempotencyKey>,
    ) -> Result<Ticket, Refuse> {
        self.take_up(now);
        if request.len() > REQUEST_BYTES_MAX {
            return Err(Refuse::TooLarge);
        }
        let (ticket, deadline) = (Ticket(self.next_ticket), now.mono + self.config.request_timeout);
        let id = match service {
            Lookup::Id(id) => *id,
            Lookup::Name(name) => {
                let name = self.names.get_mut(name).ok_or(Refuse::UnknownService)?;
                match name.service {
                    Some(id) => id,
                    None if name.waiting.len() >= PENDING_REQUESTS_MAX => return Err(Refuse::Full),
                    None => {
                        self.next_ticket += 1;
                        name.waiting.push_back(Waiting { ticket, request, key, deadline });
                        name.asking.want(now.mono);
                        self.ask(now.mono);
                        return Ok(ticket);
                    }
                }
            }
        };
        self.take(now, id, ticket, deadline, request, key)?;
        self.next_ticket += 1;
        let route = self.routes.get_mut(&id).ok_or(Refuse::UnknownService)?;
        route.reserve(&mut self.outbox, G::keeps(Rule::SyncGate));
        if route.host(now.mono).is_none() {
            route.asking.want(now.mono);
            self.ask(now.mono);
        }
        self.flush(now.mono, id);
        Ok(ticket)
    }

    /// Journal entries up to number `seq` are on disk.
    pub fn handle_synced(&mut self, now: Now, seq: u64) {
        self.outbox.handle_synced(seq);
        let greet = self.incarnation_gate.take_if(|entry| *entry <= seq).is_some();
        if greet {
            self.greet_all();
        }
        let freed: Vec<ServiceId> = self
            .routes
            .values_mut()
            .filter_map(|route| (route.handle_synced(seq) || greet).then_some(route.service))
            .collect();
        for service in freed {
            self.flush(now.mono, service);
        }
    }

    /// Sends what can be sent to the service's host, if its stream is open.
    pub(super) fn flush(&mut self, now: Instant, service: ServiceId) {
        let client = self.client();
        if self.incarnation_gate.is_none()
            && let Some(route) = self.routes.get_mut(&service)
            && route.host(now).is_some_and(|host| self.links.is_connected(host))
        {
            route.flush(now, client, &mut self.outbox);
        }
    }

    /// The request stream to `host` is open.
    pub fn handle_connected(&mut self, now: Now, host: HostId) {
        if !self.links.handle_connected(host) {
            return;
        }
        self.greet(host);
        self.restart_routes_at(host);
        for service in self.routes_at(host) {
            self.flush(now.mono, service);
        }
    }

    /// Greets whoever is connected, under a new incarnation.
    pub(super) fn greet_all(&mut self) {
        let hosts: Vec<HostId> = self.links.connected().collect();
        hosts.into_iter().for_each(|host| self.greet(host));
    }

    fn greet(&mut self, host: HostId) {
        // As soon as the incarnation is on disk: else a gateway that lost it could come back with another, and what was
        // sent under this one would be nobody's.
        if self.incarnation_gate.is_some() {
            return;
        }
        let hello = Hello { certificate: self.config.certificate.clone(), incarnation: self.incarnation };
        self.outbox.now(Effect::Send { host, frame: ClientFrame::Hello(hello) });
    }

    /// The request stream to `host` has ended, or could not be opened. The service may have moved, or its host may have
    /// gone: the Registry is asked, and the stream is tried again.
    pub fn handle_disconnected(&mut self, now: Now, host: HostId) {
        if self.links.handle_disconnected(now.mono, host) {
            self.restart_routes_at(host);
            for service in self.routes_at(host) {
                if let Some(route) = self.routes.get_mut(&service) {
                    route.asking.want(now.mono);
                }
            }
            self.ask(now.mono);
        }
    }

    fn routes_at(&self, host: HostId) -> Vec<ServiceId> {
        let there = |route: &&Route| route.last_host() == Some(host);
        self.routes.values().filter(there).map(|route| route.service).collect()
    }

    fn restart_routes_at(&mut self, host: HostId) {
        for route in self.routes.values_mut().filter(|route| route.last_host() == Some(host)) {
            route.restart();
        }
    }

    /// Counts what a driver refused before the machine saw it.
    pub fn count_reject(&mut self, reject: Reject) {
        self.rejects.count(reject);
    }

    pub(super) fn counted<T>(&mut self, result: Result<T, Reject>) -> Result<T, Reject> {
        result.inspect_err(|reject| self.rejects.count(*reject))
    }
}

/// What a journal tells.
#[derive(Default)]
struct Told {
    incarnation: Option<u64>,
    remembered: BTreeMap<ServiceId, (u64, Option<Epoch>)>,
    keys: Keys,
}

impl Told {
    fn replay(&mut self, number: u64, entry: &Entry) {
        match entry {
            Entry::Incarnation(new) => {
                self.incarnation = Some(*new);
                self.remembered.values_mut().for_each(|(below, _)| *below = 0);
                self.keys.void();
            }
            Entry::Reserved { service, below } => self.used(*service, *below),
            Entry::Seen { service, epoch } => self.seen(*service, Some(*epoch)),
            Entry::Keyed { service, key, hash, sequence, at, request } => {
                self.used(*service, sequence.saturating_add(1));
                let (sequence, at, request) = (*sequence, *at, request.clone());
                let restored = Restored { sequence, at, request, void: false };
                self.put(number, *service, key, *hash, State::Restored(restored));
            }
            Entry::Answered { service, key, hash, response } => {
                self.put(number, *service, key, *hash, State::Answered(response.clone()));
            }
            Entry::Unknown { service, key, hash } => self.put(number, *service, key, *hash, State::Unknown),
            Entry::Freed { service, key } => drop(self.keys.remove(*service, key)),
            Entry::Snapshot { incarnation, services } => {
                self.incarnation = Some(*incarnation);
                for (service, below, highest) in services {
                    self.used(*service, *below);
                    self.seen(*service, *highest);
                }
            }
        }
    }

    fn used(&mut self, service: ServiceId, below: u64) {
        let known = self.remembered.entry(service).or_default();
        known.0 = known.0.max(below);
    }

    fn seen(&mut self, service: ServiceId, epoch: Option<Epoch>) {
        let known = self.remembered.entry(service).or_default();
        known.1 = known.1.max(epoch);
    }

    fn put(&mut self, entry: u64, service: ServiceId, key: &IdempotencyKey, hash: Digest, state: State) {
        self.keys.put(service, key.clone(), Keyed { hash, entry, state }, None);
    }
}
