//! After a restore from a backup (PROTOCOL 4, rule 7): nothing is decided about a service until its hosts have shown what
//! they know, and never before the longest lease that may have been forgotten has ended.
//!
//! **Why this is safe.** Whatever was decided after the backup was signed by this Registry, and whoever acts on it holds
//! the signature. A placement beyond the newest one known needs the consent of that one's host: as long as this host says
//! that it holds the service and has consented to nothing, there is none. If it has consented, only the target of that
//! consent can have won: it has the later placement, or heard of a still later one, or it holds the state undecided, or has
//! nothing. In the last two cases nobody serves by the lost decision, if there was one, so it may be made anew. All other
//! migrations count as aborted, as unknown ones always do.
//!
//! **What is lost**: revocations, statistics and join tokens since the backup (outstanding tokens are void: they may have
//! been used); and if a PLACEMENT reached gateways by lookup but neither host, its epoch is given again: such a gateway
//! follows the service again only after its next move. A host that lies, or lost its disk, can give an old placement
//! life again while the newer one's host is silent: [`Event::Contradicted`].

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Call, Effect, Event, LeaseState, Refusal, Registry,
    records::{
        HostRecord, ManifestRecord, MigrationRecord, MigrationState, Pinned, Record as _, RestoreError, RestoredRecord,
        ServiceRecord, StoreOp, SuspendedRecord, Table, TokenRecord, UNSEEN,
    },
    tables::Tables,
};
use crate::{
    advert::{Advert, AdvertStore, verify_advert},
    ids::{Digest, Epoch, HostId, MigrationId, MigrationIds, Nonce, PlacementKey, RegistryId, ServiceId},
    limits::{
        ADDRESSES_MAX, HOSTS_MAX, REGISTERED_MAX, SHOW_INTERVAL, SHOW_INTERVAL_LATER, SHOWN_PARTS_MAX, recovery_window,
    },
    manifest::Manifest,
    migration::messages::{Placement, Recovering, RegistryFrame, Shown, ShownFrame},
    order::{Action, Tombstone},
    reject::{Guards, Reject, Rule, ensure},
    suite::{Suite, fresh16},
    time::{Instant, Micros, Now, Timestamp},
    trust::{Certificate, Receiver, Role, Signed, Verified, certificate::text_fits},
};

/// Hosts asked at one go. The others are asked next time.
const ASKED_MAX: usize = 256;

/// What turns the rows of a backup into those of a restored Registry, to be committed together: the mark under which
/// [`Registry::restore`] begins to recover. Join tokens are void: they may have been used since the backup.
///
/// # Errors
/// [`RestoreError`] for rows that this program, or this Registry, did not write.
pub fn mark_restored(
    id: RegistryId,
    rows: impl IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>,
    at: Timestamp,
) -> Result<Vec<StoreOp>, RestoreError> {
    let mut tables = Tables::default();
    for (table, key, value) in rows {
        tables.load(table, &key, &value)?;
    }
    let foreign = |service: &ServiceId| service.registry != id;
    if tables.services.iter().map(|row| row.placement.service).any(|service| foreign(&service)) {
        return Err(RestoreError::OtherRegistry);
    }
    let tokens = tables.tokens.iter().map(|row| TokenRecord::remove(row.hash));
    let suspended = tables.suspended.iter().map(|row| SuspendedRecord::remove(row.service));
    Ok(tokens.chain(suspended).chain([RestoredRecord { at, collecting: true }.put()]).collect())
}

/// What one host showed of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Evidence {
    stays: BTreeMap<Epoch, Stayed>,
    held: BTreeSet<MigrationId>,
}

/// A placement that its host still has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stayed {
    mig: MigrationId,
    key: PlacementKey,
    consent: Option<MigrationIds>,
}

/// How far one host has shown what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Told {
    /// When it was last asked of ourselves, and when in answer to something.
    asked: Option<Instant>,
    answered: Option<Instant>,
    /// The next part, and what the parts before it said.
    building: Option<(u32, BTreeMap<ServiceId, Evidence>)>,
    /// What the last whole showing said of services that are suspended; `None`: there was none.
    shown: Option<BTreeMap<ServiceId, Evidence>>,
}

/// What is known while services are suspended. Not stored: after a crash the hosts show again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Recovery {
    /// When the last lease given before the restore has ended.
    leases_end: Instant,
    /// Whether that time has not come yet.
    collecting: bool,
    ask_at: Instant,
    nonce: Option<Nonce>,
    suspended: BTreeSet<ServiceId>,
    told: BTreeMap<HostId, Told>,
    /// Which suspended services wait for this host: known once the window is over.
    waiting: BTreeMap<HostId, BTreeSet<ServiceId>>,
    /// Who showed something of a service that is not settled.
    claims: BTreeMap<ServiceId, BTreeSet<HostId>>,
    /// The newest placements of services whose manifest nobody has shown yet.
    heard: BTreeMap<ServiceId, Verified<Placement>>,
    /// Services whose first host never heard that it has them.
    unplaced: BTreeSet<ServiceId>,
    /// Where hosts say that they are reached, in adverts heard since the restore: the records may be older than that.
    reached: AdvertStore,
}

/// How far recovery has come, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryView {
    /// When the records were restored.
    pub restored: Timestamp,
    /// What is left of the time in which nothing is decided at all.
    pub window_left: Micros,
    /// Services known.
    pub services: usize,
    /// Those that are decided about again.
    pub resumed: usize,
    /// Those that wait for a host, or for the end of the window.
    pub suspended: usize,
}

/// Whether a suspended service may be decided about.
enum Standing {
    Ready,
    /// Not before this host has shown what it has.
    Waits(HostId),
}

/// What of a part has been checked.
struct Checked {
    certificate: Option<Verified<Certificate>>,
    placements: Vec<Verified<Placement>>,
    manifests: BTreeMap<Digest, Verified<Manifest>>,
    evidence: BTreeMap<ServiceId, Evidence>,
}

impl Recovery {
    fn evidence(&self, host: HostId, service: ServiceId) -> Option<&Evidence> {
        self.told.get(&host)?.shown.as_ref()?.get(&service)
    }

    fn recovering(&mut self, rng: &mut dyn rand_core::Rng) -> RegistryFrame {
        RegistryFrame::Recovering(Recovering { nonce: *self.nonce.get_or_insert_with(|| Nonce(fresh16(rng))) })
    }

    fn has_shown(&self, host: HostId) -> bool {
        self.told.get(&host).is_some_and(|told| told.shown.is_some())
    }
}

impl<S: Suite, G: Guards> Registry<S, G> {
    /// Begins, or goes on, to recover if the records say so.
    pub(super) fn begin_recovery(&mut self, now: Now) {
        let Some(mark) = self.tables.restored.get(()).cloned() else { return };
        if !G::keeps(Rule::SuspendRestored) {
            return;
        }
        let suspended = if mark.collecting {
            self.tables.services.iter().map(|record| record.placement.service).collect()
        } else {
            self.tables.suspended.iter().map(|row| row.service).collect()
        };
        let leases_end = if mark.collecting { now.mono + recovery_window(self.config.lease) } else { now.mono };
        self.recovery = Some(Recovery {
            leases_end,
            collecting: mark.collecting,
            ask_at: now.mono,
            nonce: None,
            suspended,
            told: BTreeMap::new(),
            waiting: BTreeMap::new(),
            claims: BTreeMap::new(),
            heard: BTreeMap::new(),
            unplaced: BTreeSet::new(),
            reached: AdvertStore::default(),
        });
        if !mark.collecting {
            self.judge_all();
        }
    }

    /// How far recovery has come; `None` if these records were never restored from a backup.
    pub fn recovery(&self, now: Now) -> Option<RecoveryView> {
        let (mark, recovery) = (self.tables.restored.get(())?, self.recovery.as_ref()?);
        let (services, suspended) = (self.tables.services.len(), recovery.suspended.len());
        let window_left = if recovery.collecting { recovery.leases_end.since(now.mono) } else { Micros::ZERO };
        let resumed = services.saturating_sub(suspended);
        Some(RecoveryView { restored: mark.at, window_left, services, resumed, suspended })
    }

    /// Whether the window after a restore is not over.
    pub(super) fn is_collecting(&self) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.collecting)
    }

    pub(super) fn is_suspended(&self, service: ServiceId) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.suspended.contains(&service))
    }

    /// The host that a suspended service waits for, beside the end of the window.
    pub(super) fn waits_for(&self, service: ServiceId) -> Option<HostId> {
        let recovery = self.recovery.as_ref()?;
        let record = self.tables.services.get(service)?;
        match standing(recovery, record) {
            Standing::Waits(host) => Some(host),
            Standing::Ready => None,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next. Only a restored Registry has timers.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let recovery = self.recovery.as_ref()?;
        if recovery.collecting {
            return Some(recovery.leases_end.min(recovery.ask_at));
        }
        (!recovery.suspended.is_empty()).then_some(recovery.ask_at)
    }

    /// Ends the window if it is time, and asks the hosts that services wait for.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut dyn rand_core::Rng) {
        self.end_window_if_due(now);
        self.ask_if_due(now, rng);
        self.commit(now);
    }

    /// Refuses what must not be decided yet.
    /// A host that repeats the very REGISTER of a suspended service never heard that it was placed there: nothing can have
    /// come of it since, and the same answer is due again.
    pub(super) fn resume_unplaced(&mut self, call: &Call<'_>, frame: &RegistryFrame) {
        let RegistryFrame::Register(frame) = frame else { return };
        let Ok(service) = frame.register.unverified().map(|register| register.service) else { return };
        let Some(recovery) = self.recovery.as_mut().filter(|recovery| !recovery.collecting) else { return };
        let Some(record) = self.tables.services.get(service) else { return };
        let same = record.registered.as_ref().is_some_and(|(request, _)| *request == frame.register.hash());
        if same && record.placement.host == call.peer && recovery.suspended.contains(&service) {
            recovery.unplaced.insert(service);
            self.resume_if_ready(service);
        }
    }

    pub(super) fn check_suspended(&self, frame: &RegistryFrame) -> Result<(), Reject> {
        if self.recovery.is_none() {
            return Ok(());
        }
        let service = match frame {
            RegistryFrame::VerifyCloud(frame) => frame.request.unverified()?.service,
            RegistryFrame::VerifyService(signed) => signed.unverified()?.ids.service,
            RegistryFrame::Complete(frame) => frame.complete.unverified()?.ids.service,
            RegistryFrame::Register(frame) => frame.register.unverified()?.service,
            RegistryFrame::Renew(signed) => signed.unverified()?.ids.service,
            RegistryFrame::Reclaim(signed) => signed.unverified()?.ids.service,
            RegistryFrame::Cancel(signed) => signed.unverified()?.ids.service,
            RegistryFrame::OrderDone(signed) => signed.unverified()?.ids.service,
            RegistryFrame::Order(frame) => {
                let order = frame.order.unverified()?;
                // Every lease has ended, and no more are given: a service whose host is gone for ever can be given up.
                if order.action == Action::Remove && !self.is_collecting() {
                    return Ok(());
                }
                order.service
            }
            // 12 decides nothing. A lookup tells what is known, as old as it is: nothing is signed anew.
            RegistryFrame::Released(_)
            | RegistryFrame::Lookup(_)
            | RegistryFrame::Enrol(_)
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
            | RegistryFrame::Removed(_)
            | RegistryFrame::Shown(_) => return Ok(()),
        };
        // A service that the records do not know may have been registered after the backup, and so may a name.
        let unknown = self.tables.services.get(service).is_none();
        let ours = service.registry == self.id();
        let suspended = self.is_suspended(service) || (ours && unknown && self.is_collecting());
        ensure::<G>(!suspended, Reject::Recovering)
    }

    /// A tombstone of our own signature, from a host: a service that was removed after the backup.
    pub(super) fn removed(&mut self, signed: &Signed<Tombstone>) -> Result<(), Refusal> {
        let tombstone = signed.verify::<S, G>(&self.host.0, self.id(), Receiver::Anyone)?;
        ensure::<G>(tombstone.service.registry == self.id(), Reject::UnknownRegistry)?;
        let recovery = self.recovery.as_ref().ok_or(Reject::UnexpectedMessage)?;
        self.learn_removed(&tombstone, recovery.leases_end);
        Ok(())
    }

    /// It was removed: there is nothing left to decide about.
    pub(super) fn forget_suspended(&mut self, service: ServiceId) {
        let Some(recovery) = &mut self.recovery else { return };
        recovery.claims.remove(&service);
        recovery.heard.remove(&service);
        recovery.unplaced.remove(&service);
        for services in recovery.waiting.values_mut() {
            services.remove(&service);
        }
        if recovery.suspended.remove(&service) && self.tables.suspended.get(service).is_some() {
            self.tables.remove_suspended(service);
        }
    }

    /// Asks `peer` to show what it has, if the records do not explain what it said, or if it has not shown anything yet.
    pub(super) fn ask_back(&mut self, call: &mut Call<'_>, frame: &RegistryFrame, reject: Option<Reject>) {
        let Some(recovery) = &self.recovery else { return };
        let puzzled = matches!(
            reject,
            Some(
                Reject::Recovering
                    | Reject::NotEnrolled
                    | Reject::NotHostOfRecord
                    | Reject::WrongEpoch
                    | Reject::UnknownService
                    | Reject::UnknownMigration
            )
        );
        let unheard = recovery.collecting && reject.is_none() && !recovery.has_shown(call.peer);
        let hosts = self.tables.hosts.get(call.peer).is_none_or(|host| host.certificate.role != Role::Gateway);
        let says = matches!(frame, RegistryFrame::Enrol(_) | RegistryFrame::Shown(_) | RegistryFrame::Lookup(_));
        if (puzzled || unheard) && hosts && !says {
            let peer = call.peer;
            if let Some(frame) = self.question(call.now, call.rng, peer) {
                self.reply(peer, frame);
            }
        }
    }

    /// RECOVERING for `host`, which has come by itself, unless it was answered that just now.
    fn question(&mut self, now: Now, rng: &mut dyn rand_core::Rng, host: HostId) -> Option<RegistryFrame> {
        let recovery = self.recovery.as_mut()?;
        // Nothing is kept of strangers until they show a certificate.
        if self.tables.hosts.get(host).is_some() {
            let told = recovery.told.entry(host).or_default();
            if told.answered.is_some_and(|answered| now.mono < answered + SHOW_INTERVAL) {
                return None;
            }
            told.answered = Some(now.mono);
        }
        Some(recovery.recovering(rng))
    }

    /// Asks the hosts that services wait for, wherever they are: one that has nothing to say would not come by itself.
    fn ask_if_due(&mut self, now: Now, rng: &mut dyn rand_core::Rng) {
        let Some(recovery) = self.recovery.as_mut().filter(|recovery| recovery.ask_at <= now.mono) else { return };
        recovery.ask_at = now.mono + if recovery.collecting { SHOW_INTERVAL } else { SHOW_INTERVAL_LATER };
        let recovery = &*recovery;
        let silent: BTreeSet<(Option<Instant>, HostId)> = recovery
            .suspended
            .iter()
            .filter_map(|service| match standing(recovery, self.tables.services.get(*service)?) {
                Standing::Waits(host) => Some((recovery.told.get(&host).and_then(|told| told.asked), host)),
                Standing::Ready => None,
            })
            .collect();
        for (_, to) in silent.into_iter().take(ASKED_MAX) {
            let Some(recovery) = &mut self.recovery else { return };
            recovery.told.entry(to).or_default().asked = Some(now.mono);
            let frame = recovery.recovering(rng);
            let recorded = || self.tables.hosts.get(to).map(|host| host.addresses.clone()).unwrap_or_default();
            let advertised = self.recovery.as_ref().and_then(|recovery| recovery.reached.get(now.wall, to));
            let addresses = advertised.map_or_else(recorded, |known| known.advert.addresses.clone());
            self.staged.push(Effect::Ask { to, addresses, frame });
        }
    }

    /// SHOWN: a part of what a host has. Believed of placements is only this Registry's own signature, of the rest what a host
    /// says of itself.
    pub(super) fn shown(&mut self, call: &Call<'_>, frame: &ShownFrame) -> Result<(), Refusal> {
        let recovery = self.recovery.as_ref().ok_or(Reject::UnexpectedMessage)?;
        let shown = frame.shown.verify::<S, G>(&call.peer.0, self.id(), self.me())?;
        ensure::<G>(Some(shown.nonce) == recovery.nonce, Reject::WrongNonce)?;
        ensure::<G>(shown.part < shown.parts && shown.parts <= SHOWN_PARTS_MAX, Reject::FieldTooLong)?;
        let building = recovery.told.get(&call.peer).and_then(|told| told.building.clone());
        let (next, before) = match building {
            Some(building) if shown.part > 0 => building,
            _ => (0, BTreeMap::new()),
        };
        ensure::<G>(shown.part == next, Reject::UnexpectedMessage)?;
        let Checked { certificate, placements, manifests, evidence } = self.check_shown(call, frame, &shown)?;

        // From here on nothing is refused.
        if let Some(certificate) = certificate {
            self.readmit(&certificate);
        }
        if let Some(host) = self.tables.hosts.get(call.peer) {
            self.learn_addresses(call.peer, &frame.addresses, host.serial);
        }
        let mut adopted = Vec::new();
        for placement in placements {
            let (service, manifest) = (placement.service, manifests.get(&placement.manifest));
            if self.learn(placement, manifest, call.peer) {
                adopted.push(service);
            }
        }
        for manifest in manifests.values().filter(|manifest| evidence.contains_key(&manifest.service)) {
            self.learn_update(call.now, call.peer, manifest);
        }
        let mut building = before;
        for (service, more) in evidence {
            let known = building.entry(service).or_default();
            known.stays.extend(more.stays);
            known.held.extend(more.held);
        }
        if shown.part + 1 == shown.parts {
            self.believe(call.peer, building);
        } else if let Some(recovery) = &mut self.recovery {
            recovery.told.entry(call.peer).or_default().building = Some((next + 1, building));
        }
        for service in adopted {
            self.resume_if_ready(service);
        }
        Ok(())
    }

    fn check_shown(&self, call: &Call<'_>, frame: &ShownFrame, shown: &Shown) -> Result<Checked, Reject> {
        let fits = frame.addresses.len() <= ADDRESSES_MAX && frame.addresses.iter().all(|text| text_fits(text));
        ensure::<G>(fits, Reject::FieldTooLong)?;
        let certificate = if self.tables.hosts.get(call.peer).is_none() {
            let roles = [Role::Cloud, Role::Home, Role::Gateway];
            let bundle = &self.bundle;
            let (_, certificate) =
                bundle.verify_certificate::<S, G>(&frame.certificate, call.peer, &roles, call.now.wall)?;
            ensure::<G>(self.tables.revoked.get(certificate.cloud).is_none(), Reject::Revoked)?;
            ensure::<G>(self.tables.hosts.len() < HOSTS_MAX, Reject::Full)?;
            Some(certificate)
        } else {
            None
        };
        let mine = |signed: &Signed<Placement>| {
            let placement = signed.verify::<S, G>(&self.host.0, self.id(), Receiver::Anyone)?;
            ensure::<G>(placement.service.registry == self.id(), Reject::UnknownRegistry)?;
            Ok::<_, Reject>(placement)
        };
        let mut evidence: BTreeMap<ServiceId, Evidence> = BTreeMap::new();
        let mut placements = Vec::new();
        for stay in &shown.stays {
            let placement = mine(&stay.placement)?;
            ensure::<G>(placement.host == call.peer, Reject::WrongPeer)?;
            if let Some(consent) = &stay.consent {
                ensure::<G>(consent.service == placement.service, Reject::WrongService)?;
                ensure::<G>(consent.epoch == placement.epoch, Reject::WrongEpoch)?;
            }
            let stayed = Stayed { mig: placement.mig, key: placement.key, consent: stay.consent };
            evidence.entry(placement.service).or_default().stays.insert(placement.epoch, stayed);
            placements.push(placement);
        }
        for ids in &shown.held {
            ensure::<G>(ids.service.registry == self.id(), Reject::UnknownRegistry)?;
            ensure::<G>(ids.host == call.peer, Reject::WrongPeer)?;
            evidence.entry(ids.service).or_default().held.insert(ids.mig);
        }
        for signed in &shown.elsewhere {
            placements.push(mine(signed)?);
        }
        let mut manifests = BTreeMap::new();
        for signed in &frame.manifests {
            let claim = signed.unverified()?;
            let manifest = signed.verify::<S, G>(&claim.owner.0, self.id(), Receiver::Anyone)?;
            manifest.check()?;
            manifests.insert(manifest.hash(), manifest);
        }
        Ok(Checked { certificate, placements, manifests, evidence })
    }

    /// A host that enrolled after the backup: its certificate is this Registry's own word.
    fn readmit(&mut self, certificate: &Verified<Certificate>) {
        self.event(Event::Enrolled { host: certificate.host, name: certificate.name.clone(), role: certificate.role });
        self.tables.put_host(HostRecord {
            certificate: (**certificate).clone(),
            signed: certificate.signed().clone(),
            request: UNSEEN,
            nonce: Nonce([0; 16]),
            revoked: None,
            addresses: Vec::new(),
            serial: 0,
        });
    }

    /// A placement of our own signature: adopted (`true`) if it is newer than the record of a suspended service.
    fn learn(&mut self, placement: Verified<Placement>, manifest: Option<&Verified<Manifest>>, by: HostId) -> bool {
        let service = placement.service;
        let buried = self.tables.tombstones.get(service);
        if buried.is_some_and(|row| placement.epoch <= row.tombstone.epoch) {
            return false;
        }
        let Some(record) = self.tables.services.get(service) else { return self.learn_service(placement, manifest) };
        let known = &record.placement;
        let suspended = self.is_suspended(service);
        if placement.epoch > known.epoch && suspended {
            self.adopt(&placement);
            return true;
        }
        if placement.epoch > known.epoch || (placement.epoch == known.epoch && placement.ids() != known.ids()) {
            self.event(Event::Contradicted { placement: placement.signed().clone(), by });
        }
        false
    }

    /// A service that was registered after the backup: known once its manifest is.
    fn learn_service(&mut self, placement: Verified<Placement>, manifest: Option<&Verified<Manifest>>) -> bool {
        let service = placement.service;
        let Some(recovery) = &mut self.recovery else { return false };
        let newest = match recovery.heard.remove(&service) {
            Some(heard) if heard.epoch >= placement.epoch => heard,
            Some(_) | None => placement,
        };
        let Some(manifest) = manifest.filter(|manifest| manifest.service == service) else {
            if recovery.heard.len() < REGISTERED_MAX {
                recovery.heard.insert(service, newest);
            }
            return false;
        };
        // Its name may have been given away since: then its host keeps it, and its owner has to see to it.
        let taken = self.tables.named(&manifest.name).is_some();
        if taken || newest.manifest != manifest.hash() || self.tables.services.len() >= REGISTERED_MAX {
            return false;
        }
        recovery.suspended.insert(service);
        let collecting = recovery.collecting;
        self.tables.put_manifest(ManifestRecord {
            service,
            name: manifest.name.clone(),
            signed: manifest.signed().clone(),
        });
        if !collecting {
            self.tables.put_suspended(SuspendedRecord { service });
        }
        self.adopt(&newest);
        true
    }

    /// Makes `placement` the record. What the backup knew of moves from the older one is out of date.
    fn adopt(&mut self, placement: &Verified<Placement>) {
        let service = placement.service;
        if let Some(live) = self.tables.services.get(service).and_then(|record| record.live) {
            self.tables.forget_migration(live);
        }
        let signed = placement.signed().clone();
        let placement = (**placement).clone();
        self.event(Event::Adopted { placement: signed.clone() });
        if let Some(recovery) = &self.recovery {
            let lease = LeaseState { until: recovery.leases_end, issued: signed.clone(), renewed: None };
            self.leases.insert(service, lease);
        }
        self.tables.put_service(ServiceRecord { placement, signed, live: None, verdict: None, registered: None });
    }

    /// The whole of what `host` has is known.
    fn believe(&mut self, host: HostId, evidence: BTreeMap<ServiceId, Evidence>) {
        let services: BTreeSet<ServiceId> = evidence.keys().copied().collect();
        let Some(recovery) = &mut self.recovery else { return };
        let told = recovery.told.entry(host).or_default();
        told.building = None;
        told.shown = Some(evidence);
        for service in &services {
            recovery.claims.entry(*service).or_default().insert(host);
        }
        let waited = recovery.waiting.remove(&host).unwrap_or_default();
        for service in services.union(&waited) {
            if self.is_suspended(*service) {
                self.resume_if_ready(*service);
            } else {
                self.settle_lost(*service, host);
            }
        }
    }

    /// An advert, as gossiped: a Registry that was restored may have to find a host that its records do not know how to
    /// reach, or do not know at all, as it joined after the backup. Otherwise it is of no use here.
    ///
    /// # Errors
    /// Those of [`verify_advert`] and [`AdvertStore::insert`]: it is no such advert.
    pub fn handle_advert(&mut self, now: Now, advert: &Signed<Advert>) -> Result<(), Reject> {
        if self.recovery.is_none() {
            return Ok(());
        }
        let (advert, certificate) = verify_advert::<S, G>(advert, &self.bundle, now.wall)?;
        let is_new = self.tables.hosts.get(advert.host).is_none() && self.tables.hosts.len() < HOSTS_MAX;
        if is_new && self.tables.revoked.get(certificate.cloud).is_none() {
            self.readmit(&certificate);
            self.commit(now);
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.reached.insert::<G>(now.wall, advert, certificate)?;
        }
        Ok(())
    }

    pub(super) fn end_window_if_due(&mut self, now: Now) {
        let due = |recovery: &&mut Recovery| recovery.collecting && recovery.leases_end <= now.mono;
        let Some(recovery) = self.recovery.as_mut().filter(due) else { return };
        recovery.collecting = false;
        recovery.ask_at = now.mono;
        if let Some(mark) = self.tables.restored.get(()).cloned() {
            self.tables.put_restored(RestoredRecord { collecting: false, ..mark });
        }
        // One batch: all that is still suspended, and the end of the time in which everything is.
        let suspended: Vec<ServiceId> =
            self.recovery.iter().flat_map(|recovery| recovery.suspended.iter().copied()).collect();
        for service in suspended {
            self.tables.put_suspended(SuspendedRecord { service });
        }
        self.judge_all();
        let waiting = self.recovery.as_ref().map_or(0, |recovery| recovery.suspended.len());
        self.event(Event::WindowOver { services: self.tables.services.len(), waiting });
    }

    fn judge_all(&mut self) {
        let suspended: Vec<ServiceId> =
            self.recovery.iter().flat_map(|recovery| recovery.suspended.iter().copied()).collect();
        for service in suspended {
            self.resume_if_ready(service);
        }
    }

    fn resume_if_ready(&mut self, service: ServiceId) {
        let Some(recovery) = &mut self.recovery else { return };
        let Some(record) = self.tables.services.get(service).filter(|_| !recovery.collecting) else { return };
        if let Standing::Waits(host) = standing(recovery, record) {
            recovery.waiting.entry(host).or_default().insert(service);
            return;
        }
        let placement = record.placement.clone();
        let consent = recovery
            .evidence(placement.host, service)
            .and_then(|evidence| evidence.stays.get(&placement.epoch))
            .and_then(|stayed| stayed.consent);
        recovery.suspended.remove(&service);
        let hosts = recovery.claims.remove(&service).unwrap_or_default();
        self.tables.remove_suspended(service);
        self.keep_live(service, consent);
        for host in hosts {
            self.settle_lost(service, host);
        }
        self.event(Event::Resumed { service, epoch: placement.epoch, host: placement.host });
    }

    /// Of the backup's undecided migration, only what A has consented to and B can complete goes on; anything else is
    /// forgotten, and so counts as aborted.
    fn keep_live(&mut self, service: ServiceId, consent: Option<MigrationIds>) {
        let Some(record) = self.tables.services.get(service) else { return };
        let Some(live) = record.live else { return };
        let kept = self
            .tables
            .migrations
            .get(live)
            .is_some_and(|migration| consent.as_ref() == Some(&migration.ids) && migration.pinned.is_some());
        if !kept {
            let record = ServiceRecord { live: None, ..record.clone() };
            self.tables.forget_migration(live);
            self.tables.put_service(record);
        }
    }

    /// `host` waits for the decision of a move away from an older placement, and the records do not know that move. It won if
    /// it led to the placement of record; if not, the host keeps its state sealed (PROTOCOL 4, rules 2 and 6).
    fn settle_lost(&mut self, service: ServiceId, host: HostId) {
        let Some(evidence) = self.recovery.as_ref().and_then(|recovery| recovery.evidence(host, service)) else {
            return;
        };
        let Some(record) = self.tables.services.get(service).map(|record| record.placement.clone()) else { return };
        let older: Vec<(MigrationIds, PlacementKey)> = evidence
            .stays
            .range(..record.epoch)
            .filter_map(|(_, stayed)| stayed.consent.map(|consent| (consent, stayed.key)))
            .filter(|(consent, _)| self.tables.migrations.get(consent.mig).is_none())
            .collect();
        for (ids, key) in older {
            let serial = self.tables.next_serial();
            let won = ids.mig == record.mig && ids.host == record.host && record.previous == host;
            let (pinned, state) = if won && ids.epoch.next_era() == record.epoch {
                let pinned = Pinned { key: record.key, request: UNSEEN, answer: None };
                let (response, transfer) = (Micros::ZERO, Micros::ZERO);
                (Some(pinned), MigrationState::Won { serial, complete: UNSEEN, response, transfer, released: None })
            } else {
                (None, MigrationState::Aborted { serial, answer: None })
            };
            self.tables.put_migration(MigrationRecord { ids, source: host, key, expiry: Timestamp(0), pinned, state });
        }
        if let Some(recovery) = &mut self.recovery
            && let Some(shown) = recovery.told.get_mut(&host).and_then(|told| told.shown.as_mut())
        {
            shown.remove(&service);
        }
    }
}

fn standing(recovery: &Recovery, record: &ServiceRecord) -> Standing {
    let placement = &record.placement;
    if record.registered.is_some() && recovery.unplaced.contains(&placement.service) {
        return Standing::Ready;
    }
    let Some(evidence) = recovery.evidence(placement.host, placement.service) else {
        return Standing::Waits(placement.host);
    };
    match evidence.stays.get(&placement.epoch).filter(|stayed| stayed.mig == placement.mig) {
        Some(Stayed { consent: Some(consent), .. }) if !recovery.has_shown(consent.host) => {
            Standing::Waits(consent.host)
        }
        Some(_) => Standing::Ready,
        // It won without hearing of it: it repeats 10 and is told.
        None if evidence.held.contains(&placement.mig) => Standing::Ready,
        None => Standing::Waits(placement.host),
    }
}
