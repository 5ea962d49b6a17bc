//! A host's machine: everything a cloud or home node decides.
//!
//! Open next: [`effect`] for what it asks of its driver, [`hosted`] for what it knows of a service; `departures` and
//! `arrivals` drive the two sides of a move, `leases` keeps placements alive, `clients` serves requests, `durable` keeps what
//! must survive a crash and takes it up again, `orders` and `update` do what owners want, `drain` empties the host, `adverts` speaks to the mesh. A driver calls `handle_*` with what happens, executes [`Host::poll_effect`], and sleeps until
//! [`Host::poll_timeout`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    advert::{AdvertStore, Pace},
    ids::{ClientId, Digest, HostId, MigrationId, RegistryId, ServiceId},
    latency::{Measurements, Vivaldi},
    limits::FINISHED_MAX,
    manifest::Resources,
    migration::trace::Trace,
    order::Tombstone,
    outbox::Outbox,
    placement::PlacementConfig,
    reject::{Guards, Reject, RejectCounters, Rule, Strict},
    session::SESSION_SWEEP,
    suite::{Dalek, Secret, Suite},
    time::{Instant, Micros, Now, Timestamp},
    trust::{Certificate, Role, Signed, TrustBundle, Verified},
};

mod adverts;
mod arrivals;
mod clients;
mod departures;
mod drain;
mod durable;
pub mod effect;
pub mod figures;
mod flat;
pub mod hosted;
mod leases;
pub mod orders;
mod queue;
mod show;
mod update;
pub mod view;

use arrivals::Arrival;
pub use drain::{DrainView, Left, LeftView};
use durable::Departed;
pub use effect::{
    Base, CaptureJob, Effect, Entry, Event, FetchJob, HeldJob, ImageId, Logged, ReceiveJob, RestoreJob, Restored,
    UpdateJob,
};
use hosted::{Hosted, Run, Stay};
use leases::Registering;

/// Who this host is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its key's secret.
    pub secret: Secret,
    /// The Registry that enrolled it.
    pub registry: RegistryId,
    /// What that Registry says of it.
    pub certificate: Verified<Certificate>,
}

impl Identity {
    /// This host.
    pub fn me(&self) -> HostId {
        self.certificate.host
    }
}

/// How this host behaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostConfig {
    /// What it has to offer, in all.
    pub capacity: Resources,
    /// Its price, as advertised.
    pub price_micros: u64,
    /// How services on it choose where to be.
    pub placement: PlacementConfig,
    /// How long it waits for the other side's next message before consent; [`STEP_TIMEOUT`](crate::limits::STEP_TIMEOUT).
    pub step_timeout: Micros,
    /// How long a service's log grows before an image replaces it; [`IMAGE_LOG_BYTES_MIN`](crate::limits::IMAGE_LOG_BYTES_MIN).
    pub image_log_bytes: u64,
    /// How long the journal grows before it is compacted;
    /// [`COMPACT_JOURNAL_BYTES_MIN`](crate::limits::COMPACT_JOURNAL_BYTES_MIN).
    pub compact_journal_bytes: u64,
}

/// A gateway's open request stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Link {
    client: ClientId,
    registry: RegistryId,
}

/// A host's machine. Pure: time and randomness are arguments, effects are polled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<S: Suite = Dalek, G: Guards = Strict> {
    identity: Identity,
    config: HostConfig,
    bundle: TrustBundle,
    adverts: AdvertStore,
    /// How often each host was heard of by gossip.
    pace: Pace,
    vivaldi: Vivaldi,
    /// Of other clouds.
    measurements: Measurements,
    /// Hashes of this host's own adverts, with their expiry: 3 may rest on any of them.
    own_adverts: VecDeque<(Digest, Timestamp)>,
    addresses: Vec<String>,
    advertise_at: Instant,
    sweep_at: Instant,
    cordoned: bool,
    /// Every service is to leave; when to look next which of them can.
    draining: Option<Instant>,
    /// The mesh was told that this host leaves it: it advertises no more.
    gone: bool,
    modules: BTreeSet<Digest>,
    services: BTreeMap<Stay, Hosted>,
    registering: BTreeMap<ServiceId, Registering>,
    arrivals: BTreeMap<MigrationId, Arrival>,
    departed: VecDeque<Departed>,
    removed: VecDeque<(ServiceId, Signed<Tombstone>)>,
    finished: VecDeque<MigrationId>,
    links: BTreeMap<HostId, Link>,
    history: VecDeque<Trace>,
    rejects: RejectCounters,
    /// Calls that met a frozen service, since the start.
    held_total: u64,
    /// The disk is nearly full.
    full: bool,
    /// The snapshot that replaces the journal, by its number, until it is on disk.
    compacting: Option<u64>,
    /// When to rid the journal of the logs of services that have left.
    purge_at: Option<Instant>,
    outbox: Outbox<Effect>,
    kinds: std::marker::PhantomData<fn() -> (S, G)>,
}

/// Notes that an attempt took a step, and has people told.
fn took(outbox: &mut Outbox<Effect>, trace: &mut Trace, step: u8, at: Timestamp) {
    trace.step(step, at);
    outbox.now(Effect::Event(Event::Progress(trace.service)));
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// A host with nothing on it. `last_seq` is the number of the journal's last entry.
    pub fn new(identity: Identity, config: HostConfig, bundle: TrustBundle, last_seq: u64) -> Self {
        Self {
            vivaldi: Vivaldi::new(identity.me()),
            measurements: Measurements::default(),
            identity,
            config,
            bundle,
            adverts: AdvertStore::default(),
            pace: Pace::default(),
            own_adverts: VecDeque::new(),
            addresses: Vec::new(),
            advertise_at: Instant::default(),
            sweep_at: Instant::default(),
            cordoned: false,
            draining: None,
            gone: false,
            modules: BTreeSet::new(),
            services: BTreeMap::new(),
            registering: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            departed: VecDeque::new(),
            removed: VecDeque::new(),
            finished: VecDeque::new(),
            links: BTreeMap::new(),
            history: VecDeque::new(),
            rejects: RejectCounters::default(),
            held_total: 0,
            full: false,
            compacting: None,
            purge_at: None,
            outbox: Outbox::starting_at(last_seq, G::keeps(Rule::SyncGate)),
            kinds: std::marker::PhantomData,
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.outbox.poll()
    }

    /// Journal entries up to number `seq` are on disk.
    pub fn handle_synced(&mut self, seq: u64) {
        self.outbox.handle_synced(seq);
        self.compacting.take_if(|snapshot| *snapshot <= seq);
    }

    /// When [`Host::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Instant {
        let services = self.services.values().map(|hosted| self.service_timeout(hosted));
        let arrivals = self.arrivals.values().map(Arrival::timeout);
        let registering = self.registering.values().map(|pending| pending.retry.at);
        let others = registering.chain(self.advert_timeout()).chain(self.purge_at).chain(self.drain_timeout());
        services.chain(arrivals).chain(others).min().unwrap_or(Instant(u64::MAX))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut dyn rand_core::Rng) {
        self.advertise_if_due(now);
        self.adverts.expire(now.wall);
        self.repeat_registrations(now);
        let stays: Vec<Stay> = self.services.keys().copied().collect();
        for stay in stays {
            self.renew_if_due(stay, now, rng);
            self.attempt_timeout(stay, now, rng);
            self.place_if_due(stay, now, rng);
        }
        self.drain_if_due(now, rng);
        self.arrival_timeouts(now);
        self.purge_if_due(now);
        self.sweep_if_due(now);
    }

    /// Evicts the sessions of clients that have gone.
    fn sweep_if_due(&mut self, now: Now) {
        if now.mono < self.sweep_at {
            return;
        }
        self.sweep_at = now.mono + SESSION_SWEEP;
        for hosted in self.services.values_mut().filter(|hosted| hosted.run == Run::Serving) {
            self.links.values().for_each(|link| hosted.sessions.touch(link.client));
            hosted.sessions.sweep();
        }
    }

    /// This host.
    pub fn me(&self) -> HostId {
        self.identity.me()
    }

    /// What this host may do.
    pub fn role(&self) -> Role {
        self.identity.certificate.role
    }

    /// How often each rejection happened here.
    pub const fn rejects(&self) -> &RejectCounters {
        &self.rejects
    }

    /// Stops (or starts again) taking services, over restarts, and says so to the mesh. Starting again ends a drain.
    pub fn set_cordoned(&mut self, cordoned: bool) {
        if std::mem::replace(&mut self.cordoned, cordoned) != cordoned {
            self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Cordoned { cordoned } });
        }
        if !cordoned {
            self.draining = None;
        }
        self.advertise_at = Instant::default();
    }

    /// Whether it takes no services now, because an operator said so.
    pub const fn is_cordoned(&self) -> bool {
        self.cordoned
    }

    /// The module with this hash is at hand.
    pub fn handle_module(&mut self, code: Digest) {
        self.modules.insert(code);
    }

    /// The stay of `service` that is, or is about to be, served here.
    fn current(&self, service: ServiceId) -> Option<Stay> {
        let sealed = |stay: &Stay| self.services.get(stay).is_none_or(|hosted| hosted.run == Run::Sealed);
        let of = |stay: &&Stay| stay.0 == service;
        self.services.keys().rev().filter(of).find(|stay| !sealed(stay)).copied()
    }

    /// What is left of the capacity.
    fn free(&self) -> Resources {
        self.free_without(None)
    }

    /// What would be left if this service took nothing.
    fn free_without(&self, stay: Option<Stay>) -> Resources {
        let others = self.services.iter().filter(|(other, _)| Some(**other) != stay);
        let taken = others.map(|(_, hosted)| &hosted.manifest);
        let reserved = self.arrivals.values().map(|arrival| arrival.target.manifest());
        taken
            .chain(reserved)
            .fold(self.config.capacity, |free, manifest| free.minus(&manifest.required).unwrap_or_default())
    }

    fn finish(&mut self, mig: MigrationId, trace: Trace) {
        if self.finished.len() >= FINISHED_MAX {
            self.finished.pop_front();
        }
        self.finished.push_back(mig);
        self.remember(trace);
    }

    fn remember(&mut self, trace: Trace) {
        self.outbox.now(Effect::Event(Event::Progress(trace.service)));
        self.outbox.now(Effect::Event(Event::AttemptEnded(Box::new(trace.clone()))));
        if self.history.len() >= crate::limits::HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(trace);
    }

    /// Counts what a driver refused before the machine saw it: a frame beyond the cap, an unexpected stream.
    pub fn count_reject(&mut self, reject: Reject) {
        self.rejects.count(reject);
    }

    /// Forgets how often each host was heard of by gossip.
    pub fn forget_pace(&mut self) {
        self.pace = Pace::default();
    }

    /// Forgets what is only for people to see (counters, histories), and repeats of what waits to be sent: a search
    /// through all states need not tell hosts apart by that.
    pub fn forget_figures(&mut self) {
        self.rejects = RejectCounters::default();
        self.history.clear();
        self.held_total = 0;
        self.forget_pace();
        self.outbox.forget_repeats();
    }

    /// Counts a rejection on its way to the driver.
    fn counted<T>(&mut self, result: Result<T, Reject>) -> Result<T, Reject> {
        if let Err(reject) = &result {
            self.rejects.count(*reject);
        }
        result
    }
}
