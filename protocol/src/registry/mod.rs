//! The Registry's machine: the trust anchor and the arbiter of every move (PROTOCOL 1, 3 and 4).
//!
//! What it guarantees: a service's record moves only by a compare-and-swap on (epoch, migration) with both parties'
//! proof; whatever is decided is stored and synced before anybody hears of it; the same bytes get the same answer.
//!
//! [`Registry`] is the machine, [`Effect`] what it wants done. Next to read: `verdict` (2 → 3, 5 → 6) and `arbitrate`
//! (10 → 11, RECLAIM, CANCEL, 12); then `service` (REGISTER, RENEW, lookups), `enrol` (join tokens, certificates,
//! revocation), `orders` (what owners want), `records` and `tables` (what is on disk), `audit` (what others can check
//! afterwards), `stats`; `recovery` after a restore from a backup.

use std::{collections::BTreeMap, marker::PhantomData};

use crate::{
    ids::{Digest, HostId, MigrationId, MigrationIds, RegistryId, ServiceId},
    limits::{LEASE, lease_counted},
    manifest::Manifest,
    migration::messages::{Answer, Decision, Granted, Outcome, Placement, Refused, RegistryFrame},
    outbox::Outbox,
    reject::{Guards, Reject, RejectCounters, Rule, ensure},
    suite::{Secret, Suite},
    time::{Instant, Micros, Now},
    trust::{Anchor, Message, Receiver, Signed, TrustBundle, certificate::registry_id},
    wire::Frame,
};

mod arbitrate;
pub mod audit;
mod effect;
mod enrol;
mod orders;
mod records;
mod recovery;
mod refusal;
mod service;
mod stats;
mod tables;
#[cfg(test)]
mod tests;
mod verdict;

pub use effect::{AbortCause, Effect, Event};
pub use enrol::{CommandError, Enrolment, RevokeTarget};
pub use orders::OrderView;
pub use records::{
    CloudVerdict, HostRecord, LastVerdict, ManifestRecord, MigrationRecord, MigrationState, OrderRecord, Pinned,
    RECORD_VERSION, Record, RestoreError, RestoredRecord, RevokedCloud, ServiceRecord, StoreImage, StoreOp,
    SuspendedRecord, Table, TokenRecord, TombstoneRecord,
};
pub use recovery::{RecoveryView, mark_restored};
pub use refusal::{is_violation, lookup_hash, unknown_hash};
pub use service::{PlacementView, Suspension};
pub use stats::{CloudStats, Distribution};

use audit::{Act, Noted};
use recovery::Recovery;
use refusal::{Refusal, about};
use tables::Tables;

/// Who this Registry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryConfig {
    /// Its name.
    pub id: RegistryId,
    /// Its signing secret, which is also its key on the mesh.
    pub secret: Secret,
    /// Where it is reached, for join tokens: multiaddrs.
    pub addresses: Vec<String>,
    /// How long a certificate holds.
    pub certificate_lifetime: Micros,
    /// How long a placement may be served without renewal; [`LEASE`]. After a restart every lease counts as given just now,
    /// so a shorter one may be configured only once the longest that was given has ended.
    pub lease: Micros,
}

impl RegistryConfig {
    /// The configuration of a Registry that still has its first key, and gives certificates for a year.
    pub fn new<S: Suite>(secret: Secret, addresses: Vec<String>) -> Self {
        let id = registry_id(&S::public_key(&secret));
        Self { id, secret, addresses, certificate_lifetime: Micros::from_secs(365 * 24 * 3600), lease: LEASE }
    }
}

/// What is known of a placement's lease. Not stored: after a restart every lease counts as just given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LeaseState {
    /// The holder may serve until then at the latest.
    until: Instant,
    /// The placement as last issued.
    issued: Signed<Placement>,
    /// The last RENEW by hash, and its answer.
    renewed: Option<(Digest, Granted)>,
}

/// What every handler is told.
struct Call<'a> {
    now: Now,
    rng: &'a mut dyn rand_core::Rng,
    peer: HostId,
}

/// The Registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registry<S, G> {
    config: RegistryConfig,
    host: HostId,
    bundle: TrustBundle,
    tables: Tables,
    leases: BTreeMap<ServiceId, LeaseState>,
    /// If the records were restored from a backup.
    recovery: Option<Recovery>,
    /// Answers of the present call; they go out behind what the call changed.
    staged: Vec<Effect>,
    /// What the present call has decided, for the audit log.
    acts: Vec<Act>,
    outbox: Outbox<Effect>,
    rejects: RejectCounters,
    of: PhantomData<fn() -> (S, G)>,
}

impl<S: Suite, G: Guards> Registry<S, G> {
    /// A Registry that knows nobody yet.
    pub fn new(config: RegistryConfig) -> Self {
        let host = HostId(S::public_key(&config.secret));
        let anchor = Anchor { id: config.id, key: host.0, addresses: Vec::new() };
        Self {
            config,
            host,
            bundle: TrustBundle::new(vec![anchor]),
            tables: Tables::default(),
            leases: BTreeMap::new(),
            recovery: None,
            staged: Vec::new(),
            acts: Vec::new(),
            outbox: Outbox::starting_at(0, G::keeps(Rule::SyncGate)),
            rejects: RejectCounters::default(),
            of: PhantomData,
        }
    }

    /// A Registry as the store remembers it: table, key and value of every row, in any order. Every lease counts as
    /// given just now, the longest that it can be. Records that were restored from a backup ([`mark_restored`]) suspend
    /// their services: the driver has to call [`handle_timeout`](Self::handle_timeout).
    ///
    /// # Errors
    /// [`RestoreError`] for a row that this program did not write.
    pub fn restore(
        config: RegistryConfig,
        now: Now,
        rows: impl IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, RestoreError> {
        let mut registry = Self::new(config);
        for (table, key, value) in rows {
            registry.tables.load(table, &key, &value)?;
        }
        for record in registry.tables.services.iter() {
            let until = now.mono + lease_counted(registry.config.lease);
            let lease = LeaseState { until, issued: record.signed.clone(), renewed: None };
            registry.leases.insert(record.placement.service, lease);
        }
        for row in registry.tables.tombstones.iter().filter(|row| !row.reported) {
            let Some(placement) = &row.placement else { continue };
            if registry.tables.services.get(row.service).is_none() {
                let until = now.mono + lease_counted(registry.config.lease);
                let issued = registry.sign(Receiver::Anyone, placement);
                registry.leases.insert(row.service, LeaseState { until, issued, renewed: None });
            }
        }
        registry.begin_recovery(now);
        Ok(registry)
    }

    /// A frame from `peer`, as authenticated by the transport.
    ///
    /// # Errors
    /// The named rejection, which has been counted. An honest peer's mistake ([`is_violation`] is false) is answered as
    /// well, by NO_CLOUD, NO_SERVICE, GRANTED or REFUSED; after a violation the driver closes the stream. A refused
    /// message changes nothing but the counter of a refused 2, and the state of a migration whose target is revoked; and after
    /// a restore, a service is taken up again whose host repeats its first REGISTER, whatever else is wrong with the frame.
    pub fn handle_frame(
        &mut self,
        now: Now,
        rng: &mut dyn rand_core::Rng,
        peer: HostId,
        bytes: &[u8],
    ) -> Result<(), Reject> {
        self.end_window_if_due(now);
        let result = self.handle(&mut Call { now, rng, peer }, bytes);
        if let Err(reject) = result {
            self.rejects.count(reject);
        }
        self.commit(now);
        result
    }

    fn handle(&mut self, call: &mut Call<'_>, bytes: &[u8]) -> Result<(), Reject> {
        let frame = match RegistryFrame::from_bytes(bytes) {
            Err(reject) if reject.is_of_newer_peer() => {
                let refused = Refused { about: unknown_hash(bytes), reason: reject.name().to_owned() };
                self.reply(call.peer, RegistryFrame::Refused(refused));
                return Err(reject);
            }
            frame => frame?,
        };
        let result = self.dispatch(call, &frame);
        self.ask_back(call, &frame, result.as_ref().err().map(|refusal| refusal.reject));
        let Err(Refusal { reject, answer }) = result else { return Ok(()) };
        if let Some(answer) = answer {
            self.reply(call.peer, *answer);
        } else if !is_violation(reject) {
            let refused = Refused { about: about(&frame), reason: reject.name().to_owned() };
            self.reply(call.peer, RegistryFrame::Refused(refused));
        }
        Err(reject)
    }

    fn dispatch(&mut self, call: &mut Call<'_>, frame: &RegistryFrame) -> Result<(), Refusal> {
        if let RegistryFrame::Enrol(enrol) = frame {
            return self.enrol(call, enrol);
        }
        // Who enrolled after the backup proves it by this.
        if let RegistryFrame::Shown(frame) = frame {
            return self.shown(call, frame);
        }
        ensure::<G>(self.tables.hosts.get(call.peer).is_some(), Reject::NotEnrolled)?;
        self.resume_unplaced(call, frame);
        self.check_suspended(frame)?;
        self.check_removed(frame)?;
        match frame {
            RegistryFrame::VerifyCloud(frame) => self.verify_cloud(call, frame),
            RegistryFrame::VerifyService(signed) => self.verify_service(call, signed),
            RegistryFrame::Complete(frame) => self.complete(call, frame),
            RegistryFrame::Released(signed) => self.released(call, signed),
            RegistryFrame::Register(frame) => self.register(call, frame),
            RegistryFrame::Renew(signed) => self.renew(call, signed),
            RegistryFrame::Reclaim(signed) => self.give_back(call, signed),
            RegistryFrame::Cancel(signed) => self.give_back(call, signed),
            RegistryFrame::Lookup(lookup) => self.lookup(call, lookup),
            RegistryFrame::Order(frame) => self.order(call, frame),
            RegistryFrame::OrderDone(signed) => self.order_done(call, signed),
            RegistryFrame::Removed(signed) => self.removed(signed),
            RegistryFrame::Enrol(_)
            | RegistryFrame::YesCloud(_)
            | RegistryFrame::NoCloud(_)
            | RegistryFrame::YesService(_)
            | RegistryFrame::NoService(_)
            | RegistryFrame::Placement(_)
            | RegistryFrame::Granted(_)
            | RegistryFrame::Refused(_)
            | RegistryFrame::Enrolled(_)
            | RegistryFrame::Found(_)
            | RegistryFrame::Recovering(_)
            | RegistryFrame::OrderState(_)
            | RegistryFrame::Shown(_) => Err(Reject::UnexpectedMessage.into()),
        }
    }

    /// Batch `seq` and all before it are on disk.
    pub fn handle_synced(&mut self, seq: u64) {
        self.outbox.handle_synced(seq);
    }

    /// The next effect to execute.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.outbox.poll()
    }

    /// The number of the last batch let out: who waits for it to be synced knows that a command is on disk.
    pub const fn last_appended(&self) -> u64 {
        self.outbox.last_appended()
    }

    /// Its name.
    pub const fn id(&self) -> RegistryId {
        self.config.id
    }

    /// Its key on the mesh.
    pub const fn host(&self) -> HostId {
        self.host
    }

    /// What others need in order to trust and to reach it.
    pub fn anchor(&self) -> Anchor {
        Anchor { id: self.config.id, key: self.host.0, addresses: self.config.addresses.clone() }
    }

    /// Where it is reached from now on.
    pub fn set_addresses(&mut self, addresses: Vec<String>) {
        self.config.addresses = addresses;
    }

    /// Counts a frame that the driver refused before the machine saw it.
    pub fn count_reject(&mut self, reject: Reject) {
        self.rejects.count(reject);
    }

    /// How often each rejection happened since the start.
    pub const fn rejects(&self) -> &RejectCounters {
        &self.rejects
    }

    /// Forgets what is only for people to see (counters; the stored figures of clouds stay), and repeats of what waits to be sent: a search
    /// through all states need not tell Registries apart by that.
    pub fn forget_figures(&mut self, commits: &[u64]) {
        self.rejects = RejectCounters::default();
        self.outbox.renumber(commits);
        self.outbox.forget_repeats();
    }

    /// All records as they are, some perhaps not yet on disk: for a backup, once [`last_appended`](Self::last_appended) is.
    pub fn records(&self) -> Vec<StoreOp> {
        self.tables.rows().collect()
    }

    /// The migration of this identifier, if it is remembered.
    pub fn migration(&self, mig: MigrationId) -> Option<&MigrationRecord> {
        self.tables.migrations.get(mig)
    }

    /// Migrations remembered, finished ones included.
    pub fn migrations(&self) -> impl Iterator<Item = &MigrationRecord> {
        self.tables.migrations.iter()
    }

    /// Each cloud's record as a target.
    pub fn stats(&self) -> impl Iterator<Item = &CloudStats> {
        self.tables.stats.iter()
    }

    // What follows is for the handlers in the other files.

    const fn me(&self) -> Receiver {
        Receiver::Registry(self.config.id)
    }

    fn sign<T: Message>(&self, receiver: Receiver, message: &T) -> Signed<T> {
        Signed::sign::<S>(&self.config.secret, self.config.id, receiver, message)
    }

    fn reply(&mut self, to: HostId, frame: RegistryFrame) {
        self.staged.push(Effect::Reply { to, frame });
    }

    fn event(&mut self, event: Event) {
        self.acts.extend(Act::of(&event));
        self.staged.push(Effect::Event(event));
    }

    /// Hands out the call's changes, and behind them its answers. *Every* answer waits for all that was decided before
    /// it: even a lookup may show a placement that is not on disk yet.
    fn commit(&mut self, now: Now) {
        let batch = self.tables.take_batch();
        let audit: Vec<Noted> = self.acts.drain(..).map(|act| Noted { at: now.wall, act }).collect();
        if !batch.is_empty() || !audit.is_empty() {
            self.outbox.persist(|seq| Effect::Persist { seq, batch, audit });
        }
        for effect in self.staged.drain(..) {
            self.outbox.promise(effect);
        }
    }

    fn service(&self, service: ServiceId) -> Result<&ServiceRecord, Reject> {
        self.tables.services.get(service).ok_or(Reject::UnknownService)
    }

    fn manifest(&self, service: ServiceId) -> Result<Manifest, Reject> {
        self.tables.manifests.get(service).ok_or(Reject::UnknownService)?.manifest()
    }

    /// Issues the placement of record anew, under a lease that counts from now.
    fn reissue(&mut self, now: Now, placement: &Placement) -> Signed<Placement> {
        // A revoked host gets no time to serve in: its services may still leave it.
        let lease = if self.is_revoked(placement.host) { Micros::ZERO } else { self.config.lease };
        let signed = self.sign(Receiver::Anyone, &Placement { issued: now.wall, lease, ..placement.clone() });
        let renewed = self.leases.get(&placement.service).and_then(|lease| lease.renewed.clone());
        let until = now.mono + lease_counted(self.config.lease);
        self.leases.insert(placement.service, LeaseState { until, issued: signed.clone(), renewed });
        signed
    }

    /// A stored grant goes out once more: whoever gets it may count its lease from now.
    fn prolong(&mut self, now: Now, service: ServiceId) {
        let until = now.mono + lease_counted(self.config.lease);
        if let Some(lease) = self.leases.get_mut(&service) {
            lease.until = lease.until.max(until);
        }
    }

    /// The placement of record as last issued.
    fn issued(&self, record: &ServiceRecord) -> Signed<Placement> {
        self.leases.get(&record.placement.service).map_or_else(|| record.signed.clone(), |lease| lease.issued.clone())
    }

    /// OUTCOME for `to`, with the placement of record.
    fn outcome(
        &self,
        to: HostId,
        ids: MigrationIds,
        answers: Digest,
        decision: Decision,
    ) -> Result<RegistryFrame, Reject> {
        let placement = self.issued(self.service(ids.service)?);
        let outcome = Outcome { ids, answers, decision, placement: placement.hash() };
        let answer = Answer::Outcome(self.sign(Receiver::Host(to), &outcome));
        Ok(RegistryFrame::Granted(Granted { answer, placement }))
    }
}
