//! What survives a crash: the request log, its images, and taking everything up again at start (PROTOCOL 4.4 and 5).
//!
//! One journal carries the protocol's entries and every service's log, so one group commit covers all, and the sync gate
//! orders them: a response waits for its request's entry, consent for every entry before it. [`Host::restore`] reads the
//! journal; the driver then rebuilds instances from their images and logs and reports with `handle_restored`.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Arrival, Effect, Entry, Event, Host, HostConfig, Identity,
    departures::{Belongings, Unordered, Unpacked},
    effect::{Base, HeldJob, ImageId, Logged, RestoreJob, Restored},
    hosted::{Attempt, Disk, Hosted, LeaseClock, Retry, Run, Stay, Waiting},
    leases::Registering,
    orders::Ordered,
};
use crate::{
    ids::{Digest, Epoch, HostId, MigrationId, MigrationIds, ServiceId},
    limits::{DEPARTED_MAX, FINISHED_MAX, HOST_LOG_BYTES_MAX, PURGE_AFTER},
    manifest::{Durability, Manifest},
    migration::{
        messages::{Placement, RegisterFrame, RegistryFrame},
        source::{Consented, Source},
        target::{Held, Target},
        trace::{Side, Trace},
    },
    order::Tombstone,
    placement::Placer,
    reject::{Guards, Reject},
    session::Sessions,
    suite::{Secret, Suite},
    time::{Instant, Now},
    trust::{Receiver, Signed, TrustBundle, Verified},
    wire,
};

/// Where a service went that was here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Departed {
    pub(super) service: ServiceId,
    pub(super) placement: Signed<Placement>,
}

/// A service in the journal.
struct Remembered {
    placement: Signed<Placement>,
    manifest: Signed<Manifest>,
    secret: Secret,
    /// From what its log goes on.
    image: Option<ImageId>,
    /// The last entry that the image covers.
    covered: u64,
    consented: Option<(MigrationIds, Consented, Vec<String>)>,
    sealed: bool,
    ordered: Ordered,
    stopped: bool,
}

/// A state in the journal that was promised to be held.
struct RememberedHeld {
    ids: MigrationIds,
    from: HostId,
    held: Held,
    manifest: Signed<Manifest>,
}

/// What the journal says, entry by entry.
#[derive(Default)]
struct Memory {
    services: BTreeMap<Stay, Remembered>,
    registering: BTreeMap<ServiceId, (RegisterFrame, Secret)>,
    keys: BTreeMap<MigrationId, (MigrationIds, Secret)>,
    held: BTreeMap<MigrationId, RememberedHeld>,
    departed: Vec<Signed<Placement>>,
    removed: Vec<Signed<Tombstone>>,
    finished: VecDeque<MigrationId>,
    cordoned: bool,
    started: BTreeMap<Stay, Vec<u8>>,
    logs: BTreeMap<Stay, Vec<(u64, Logged)>>,
}

impl Memory {
    fn apply(&mut self, seq: u64, entry: Entry) -> Result<(), Reject> {
        match entry {
            Entry::Placed { placement, manifest, secret, received } => {
                let claim = placement.unverified()?;
                self.registering.remove(&claim.service);
                self.end(claim.mig);
                let service = Remembered {
                    placement,
                    manifest,
                    secret,
                    image: received.then_some(ImageId::Held(claim.mig)),
                    covered: 0,
                    consented: None,
                    sealed: false,
                    ordered: Ordered::default(),
                    stopped: false,
                };
                self.services.insert((claim.service, claim.epoch), service);
            }
            Entry::Registering { frame, secret } => {
                self.registering.insert(frame.register.unverified()?.service, (frame, secret));
            }
            Entry::KeyMade { ids, secret } => {
                self.keys.insert(ids.mig, (ids, secret));
            }
            Entry::Consented { ids, consented, addresses } => {
                if let Some(service) = self.services.get_mut(&(ids.service, ids.epoch)) {
                    service.consented = Some((ids, consented, addresses));
                }
            }
            Entry::Held { ids, from, held, manifest } => {
                self.held.insert(ids.mig, RememberedHeld { ids, from, held, manifest });
            }
            Entry::Released { ids, placement } => {
                self.forget((ids.service, ids.epoch));
                self.departed.push(placement);
                self.end(ids.mig);
            }
            Entry::Aborted { ids } => {
                if let Some(service) = self.services.get_mut(&(ids.service, ids.epoch)) {
                    service.consented.take_if(|(consented, ..)| consented.mig == ids.mig);
                }
                self.end(ids.mig);
            }
            Entry::Dropped { ids } => self.end(ids.mig),
            Entry::Sealed { service, epoch, by } => {
                if let Some(service) = self.services.get_mut(&(service, epoch)) {
                    service.sealed = true;
                    service.consented = None;
                }
                if by.unverified()?.epoch > epoch {
                    self.departed.push(by);
                }
            }
            Entry::Started { service, epoch, inputs } => {
                self.started.insert((service, epoch), inputs);
            }
            Entry::Executed { service, epoch, logged } => {
                self.logs.entry((service, epoch)).or_default().push((seq, logged));
            }
            Entry::Imaged { service: id, epoch, upto } => {
                if let Some(service) = self.services.get_mut(&(id, epoch)) {
                    service.image = Some(ImageId::Taken { service: id, epoch, upto });
                    service.covered = upto;
                }
            }
            Entry::Forgotten { service, epoch } => {
                if epoch == Epoch::FIRST {
                    self.registering.remove(&service);
                }
                self.forget((service, epoch));
            }
            Entry::Ordered { service, epoch, ordered, stopped } => {
                if let Some(service) = self.services.get_mut(&(service, epoch)) {
                    (service.ordered, service.stopped) = (ordered, stopped);
                }
            }
            Entry::Updated { service: id, epoch, manifest, ordered, image, upto } => {
                if let Some(service) = self.services.get_mut(&(id, epoch)) {
                    (service.manifest, service.ordered, service.covered) = (manifest, ordered, upto);
                    service.image = image.map(|sequence| ImageId::Updated { service: id, epoch, sequence });
                }
            }
            Entry::Removed { tombstone } => self.remove(tombstone)?,
            Entry::Departed { placement } => self.departed.push(placement),
            Entry::Finished { migs } => self.finished.extend(migs),
            Entry::Cordoned { cordoned } => self.cordoned = cordoned,
            Entry::Snapshot(entries) => {
                let (started, logs) = (std::mem::take(&mut self.started), std::mem::take(&mut self.logs));
                *self = Self { started, logs, ..Self::default() };
                for entry in entries {
                    self.apply(seq, entry)?;
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, signed: Signed<Tombstone>) -> Result<(), Reject> {
        let Tombstone { service, epoch, .. } = signed.unverified()?;
        let stays: Vec<Stay> =
            self.services.keys().filter(|stay| stay.0 == service && stay.1 <= epoch).copied().collect();
        stays.into_iter().for_each(|stay| self.forget(stay));
        let ended = |ids: &MigrationIds| ids.service == service && ids.epoch <= epoch;
        let keys = self.keys.values().map(|(ids, _)| ids).chain(self.held.values().map(|held| &held.ids));
        let migs: Vec<MigrationId> = keys.filter(|ids| ended(ids)).map(|ids| ids.mig).collect();
        migs.into_iter().for_each(|mig| self.end(mig));
        self.removed.push(signed);
        Ok(())
    }

    fn forget(&mut self, stay: Stay) {
        self.services.remove(&stay);
        self.started.remove(&stay);
        self.logs.remove(&stay);
    }

    fn end(&mut self, mig: MigrationId) {
        self.keys.remove(&mig);
        self.held.remove(&mig);
        // A snapshot tells of it already: said twice, it would take another's place.
        if self.finished.contains(&mig) {
            return;
        }
        if self.finished.len() >= FINISHED_MAX {
            self.finished.pop_front();
        }
        self.finished.push_back(mig);
    }
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// A host as its journal remembers it: entries with their numbers, oldest first; `last_seq` is the highest number ever
    /// written. Leases count as ended, what was half done as given up; the effects say what there is to rebuild.
    ///
    /// # Errors
    /// The rejection of an entry whose signatures do not verify, or that contains no entry.
    pub fn restore(
        identity: Identity,
        config: HostConfig,
        bundle: TrustBundle,
        now: Now,
        last_seq: u64,
        entries: impl IntoIterator<Item = (u64, Entry)>,
    ) -> Result<Self, Reject> {
        let mut memory = Memory::default();
        for (seq, entry) in entries {
            memory.apply(seq, entry)?;
        }
        let mut host = Self::new(identity, config, bundle, last_seq);
        host.finished = memory.finished;
        host.cordoned = memory.cordoned;
        for placement in memory.departed {
            host.departs(placement.unverified()?.service, placement);
        }
        for signed in memory.removed {
            host.remember_removed(&signed.unverified()?, signed);
        }
        let mut images = Vec::new();
        let (mut jobs, mut dropped) = (Vec::new(), Vec::new());
        for (service, (frame, secret)) in memory.registering {
            host.restore_registration(now, service, frame, secret)?;
        }
        for (stay, remembered) in memory.services {
            let log = memory.logs.remove(&stay).unwrap_or_default();
            let started = memory.started.remove(&stay);
            jobs.extend(host.restore_service(now, stay, remembered, started, log, &mut images)?);
        }
        for (mig, held) in memory.held {
            let Some((_, secret)) = memory.keys.get(&mig) else { continue };
            let job = host.restore_held(held, secret.clone(), &mut images)?;
            if let Some(job) = job {
                memory.keys.remove(&mig);
                jobs.push(job);
            }
        }
        dropped.extend(memory.keys.into_values().map(|(ids, _)| ids));
        host.outbox.now(Effect::KeepImages(images));
        for ids in dropped {
            host.finished.push_back(ids.mig);
            host.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Dropped { ids } });
        }
        jobs.into_iter().for_each(|job| host.outbox.now(job));
        Ok(host)
    }

    fn manifest_of(&self, signed: &Signed<Manifest>, service: ServiceId) -> Result<Verified<Manifest>, Reject> {
        let owner = signed.unverified()?.owner;
        signed.verify::<S, G>(&owner.0, service.registry, Receiver::Anyone)
    }

    fn restore_registration(
        &mut self,
        now: Now,
        service: ServiceId,
        frame: RegisterFrame,
        secret: Secret,
    ) -> Result<(), Reject> {
        let manifest = self.manifest_of(&frame.manifest, service)?;
        let retry = Retry::at_once(now.mono);
        let pending = Registering { frame, manifest, secret, first_sent: now.mono, retry };
        self.registering.insert(service, pending);
        Ok(())
    }

    fn restore_service(
        &mut self,
        now: Now,
        stay: Stay,
        remembered: Remembered,
        started: Option<Vec<u8>>,
        log: Vec<(u64, Logged)>,
        images: &mut Vec<ImageId>,
    ) -> Result<Option<Effect>, Reject> {
        let (service, epoch) = stay;
        let Remembered { placement, manifest, secret, image, covered, consented, sealed, ordered, stopped } =
            remembered;
        let placement = self.bundle.verify::<S, G, Placement>(&placement, service.registry, Receiver::Anyone)?;
        let manifest = self.manifest_of(&manifest, service)?;
        let log: Vec<(u64, Logged)> = log.into_iter().filter(|(seq, _)| *seq > covered).collect();
        let (code, memory_bytes) = (manifest.code, manifest.required.memory_bytes);
        let durable = manifest.durability == Durability::Log;
        let mut disk = Disk::new(image, self.config.image_log_bytes);
        disk.covered = covered;
        disk.last = log.last().map_or(covered, |(seq, _)| *seq);
        disk.log_bytes = log.iter().map(|(_, logged)| logged.cost()).sum();
        disk.next_image_at = disk.log_bytes + self.config.image_log_bytes;
        disk.replaying = log.iter().map(|(_, logged)| logged.executed()).collect();
        let replays = log.len();
        let log = log.into_iter().map(|(_, logged)| logged).collect();
        let base = image.map(Base::Image).or(started.map(|inputs| Base::Fresh { inputs }));
        let (run, job) = match base {
            _ if sealed => (Run::Sealed, None),
            _ if !durable => (Run::Lost, None),
            Some(base) => {
                let job = RestoreJob { service, epoch, code, memory_bytes, base, log };
                (Run::Restoring, Some(Effect::Restore(job)))
            }
            // Nothing of it was ever acknowledged.
            None => (Run::Starting, Some(Effect::Start { service, epoch, code, memory_bytes })),
        };
        if durable {
            images.extend(image);
        }
        if run == Run::Restoring {
            self.outbox.now(Effect::Event(Event::Restoring(service, epoch, replays)));
        }
        if run == Run::Lost {
            self.outbox.now(Effect::Event(Event::Lost(service, epoch)));
        }
        let placer = Placer::new(self.config.placement, manifest.required, manifest.max_rtt);
        let attempt = consented.map(|(ids, consented, addresses)| {
            let mut trace = Trace::new(
                service,
                manifest.name.clone(),
                epoch,
                ids.host,
                Side::Source,
                "resumed after a restart".to_owned(),
            );
            trace.mig = Some(ids.mig);
            Attempt {
                source: Source::restore(ids, consented, addresses, now.mono),
                asked: Digest([0; 32]),
                agreement: None,
                trace,
                deadline: now.mono,
                acked: 0,
                reclaiming: None,
                frozen_at: Some(now.mono),
            }
        });
        // The clock that the lease was counted on is gone: it is asked for anew before anything is served.
        let lease = LeaseClock { until: Instant::default(), renew_at: now.mono, renewal: None, reported: true };
        let hosted = Hosted {
            placement,
            manifest,
            secret,
            run,
            lease,
            sessions: Sessions::default(),
            placer,
            running: None,
            queue: VecDeque::new(),
            served: None,
            held: VecDeque::new(),
            attempt,
            counter: 0,
            since: now.wall,
            disk: durable.then_some(disk),
            stopped,
            ordered,
            order: None,
            arriving_since: None,
        };
        self.services.insert(stay, hosted);
        Ok(job)
    }

    /// What was held goes on being held; if it was in memory only, it is not: A gets its service back from R.
    fn restore_held(
        &mut self,
        remembered: RememberedHeld,
        secret: Secret,
        images: &mut Vec<ImageId>,
    ) -> Result<Option<Effect>, Reject> {
        let RememberedHeld { ids, from, held, manifest } = remembered;
        let manifest = self.manifest_of(&manifest, ids.service)?;
        let (service, mig, epoch) = (ids.service, ids.mig, ids.epoch.next_era());
        if manifest.durability == Durability::Memory {
            self.outbox.now(Effect::Event(Event::Lost(service, epoch)));
            return Ok(None);
        }
        images.push(ImageId::Held(mig));
        let job = HeldJob { mig, service, epoch, code: manifest.code, memory_bytes: manifest.required.memory_bytes };
        let mut trace = Trace::new(
            service,
            manifest.name.clone(),
            ids.epoch,
            from,
            Side::Target,
            "resumed after a restart".to_owned(),
        );
        trace.mig = Some(mig);
        let target = Target::restore::<S>(ids, from, manifest, secret, held);
        // Nothing is due before the image is back.
        let deadline = Instant(u64::MAX);
        let arrival = Arrival { target, trace, deadline, completing: None, belongings: None, answered: None };
        self.arrivals.insert(mig, arrival);
        Ok(Some(Effect::RestoreHeld(job)))
    }

    /// The driver has rebuilt an instance; or could not.
    pub fn handle_restored(
        &mut self,
        now: Now,
        stay: Stay,
        result: Result<Restored, String>,
        rng: &mut dyn rand_core::Rng,
    ) {
        let Some(hosted) = self.services.get_mut(&stay).filter(|hosted| hosted.run == Run::Restoring) else { return };
        let restored = result.and_then(|restored| {
            let belongings = restored.belongings.as_deref().map(Belongings::unpack).transpose();
            belongings.map(|belongings| (restored, belongings)).map_err(|reject| reject.to_string())
        });
        let (restored, belongings) = match restored {
            Ok(restored) => restored,
            Err(reason) => {
                hosted.run = Run::Broken;
                self.break_down(stay, now, &reason, rng);
                return;
            }
        };
        if let Some(Unpacked { sessions, memory, ordered, stopped }) = belongings {
            hosted.sessions = sessions;
            if ordered.sequence > hosted.ordered.sequence {
                (hosted.ordered, hosted.stopped) = (ordered, stopped);
            }
            hosted.placer = Placer::new(self.config.placement, hosted.manifest.required, hosted.manifest.max_rtt)
                .with_memory(now, &memory);
        }
        if let Some(disk) = &mut hosted.disk {
            for (executed, response) in std::mem::take(&mut disk.replaying).into_iter().zip(restored.responses) {
                hosted.sessions.replay(executed, super::clients::bounded(response));
            }
            disk.next_image_at = self.config.image_log_bytes.max(restored.image_bytes);
        }
        let frozen = hosted.attempt.as_ref().is_some_and(|attempt| attempt.source.has_consented());
        hosted.run = if frozen { Run::Frozen } else { Run::Serving };
        self.outbox.now(Effect::Event(Event::Restored(stay.0, stay.1)));
        self.drain_on();
        self.admit_held(stay, now);
    }

    /// The driver has made a held state ready again; or could not: then 10 is not repeated, and A gets its service back.
    pub fn handle_held_restored(&mut self, now: Now, mig: MigrationId, result: Result<Vec<u8>, String>) {
        let Some(arrival) = self.arrivals.get_mut(&mig) else { return };
        let service = arrival.target.ids().service;
        match result {
            Ok(belongings) => {
                arrival.belongings = Some(belongings);
                arrival.completing = Some((now.mono, Retry::from(now.mono)));
                if let Some(complete) = arrival.target.complete() {
                    let frame = RegistryFrame::Complete(complete.clone());
                    self.outbox.promise(Effect::ToRegistry(service.registry, frame));
                }
            }
            Err(reason) => self.outbox.now(Effect::Event(Event::Broken(service, reason))),
        }
    }

    /// Puts an executed request into its service's log. Whether its response must wait for the log.
    pub(super) fn log(&mut self, stay: Stay, done: Waiting, inputs: Vec<u8>) -> bool {
        let Some(hosted) = self.services.get_mut(&stay) else { return false };
        let Some(disk) = &mut hosted.disk else { return false };
        let Waiting { client, gateway, sequence, hash, acked_below, request } = done;
        let logged = Logged { client, gateway, sequence, hash, acked_below, request, inputs };
        disk.log_bytes += logged.cost();
        let (service, epoch) = stay;
        self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Executed { service, epoch, logged } });
        disk.last = self.outbox.last_appended();
        true
    }

    /// A new instance runs: what `_initialize` read comes before the first request of the log.
    pub(super) fn log_start(&mut self, stay: Stay, inputs: Vec<u8>) {
        let Some(disk) = self.services.get_mut(&stay).and_then(|hosted| hosted.disk.as_mut()) else { return };
        if disk.image.is_some() {
            return;
        }
        let (service, epoch) = stay;
        self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Started { service, epoch, inputs } });
        disk.last = self.outbox.last_appended();
    }

    /// Has an image taken, between two requests, when the log has grown as long as that is worth.
    pub(super) fn image_if_due(&mut self, stay: Stay, now: Now) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let idle = hosted.run == Run::Serving && hosted.running.is_none() && hosted.attempt.is_none();
        let idle = idle && !hosted.is_about_to_update();
        let belongings = Belongings::pack(hosted, now);
        let Some(disk) = hosted.disk.as_mut().filter(|disk| idle && disk.saving.is_none()) else { return };
        if disk.log_bytes < disk.next_image_at {
            return;
        }
        let (service, epoch) = stay;
        disk.saving = Some((disk.last, disk.log_bytes));
        let upto = disk.last;
        self.outbox.now(Effect::SaveImage { service, epoch, upto, belongings });
    }

    /// The driver has saved and synced an image, of so many bytes; or could not.
    pub fn handle_saved(&mut self, now: Now, stay: Stay, upto: u64, result: Result<u64, String>) {
        let (service, epoch) = stay;
        let image = ImageId::Taken { service, epoch, upto };
        let min = self.config.image_log_bytes;
        let disk = self.services.get_mut(&stay).and_then(|hosted| hosted.disk.as_mut());
        let Some(disk) = disk.filter(|disk| disk.saving.is_some_and(|(saved, _)| saved == upto)) else {
            // It has left meanwhile.
            self.outbox.now(Effect::DropImage(image));
            return;
        };
        let (_, bytes_then) = disk.saving.take().unwrap_or_default();
        match result {
            Ok(bytes) => {
                let before = disk.image.replace(image);
                disk.covered = upto;
                disk.log_bytes -= bytes_then.min(disk.log_bytes);
                disk.next_image_at = min.max(bytes);
                let entry = Entry::Imaged { service, epoch, upto };
                self.outbox.persist(|seq| Effect::Persist { seq, entry });
                if let Some(before) = before.filter(|before| *before != image) {
                    self.outbox.promise(Effect::DropImage(before));
                }
            }
            Err(reason) => {
                disk.next_image_at = disk.log_bytes + min;
                self.outbox.now(Effect::Event(Event::NotSaved(service, reason)));
            }
        }
        // An update may have waited for it.
        self.carry_out(stay, now);
    }

    /// The disk is nearly full, or has room again. When full, nothing new is taken on; what was promised is kept.
    pub fn set_full(&mut self, full: bool) {
        if std::mem::replace(&mut self.full, full) != full {
            // It is advertised: services need not ask in vain.
            self.advertise_at = Instant::default();
        }
    }

    /// Whether the disk is nearly full.
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// The journal has this size: compacts it when most of it is of no use any more.
    pub fn compact_if(&mut self, now: Now, journal_bytes: u64) {
        let live: u64 =
            self.services.values().filter_map(|hosted| hosted.disk.as_ref()).map(|disk| disk.log_bytes).sum();
        if live > HOST_LOG_BYTES_MAX {
            self.image_longest(now);
        }
        if journal_bytes >= self.config.compact_journal_bytes + 2 * live {
            self.compact();
        }
    }

    /// Compacts the journal if a service's log is to go, for good, by now.
    pub(super) fn purge_if_due(&mut self, now: Now) {
        if self.purge_at.take_if(|at| *at <= now.mono).is_some() {
            self.compact();
        }
    }

    /// The log of a service that has left is of no use here, and none of this host's business: the journal is rid of it soon.
    pub(super) fn purge(&mut self, now: Now) {
        self.purge_at.get_or_insert(now.mono + PURGE_AFTER);
    }

    fn compact(&mut self) {
        if self.compacting.is_some() {
            return;
        }
        let keep_after = self.services.iter().filter_map(|(stay, hosted)| Some((*stay, hosted.disk.as_ref()?.covered)));
        let keep_after = keep_after.collect();
        let snapshot = Entry::Snapshot(self.snapshot());
        self.outbox.persist(|seq| Effect::Compact { seq, snapshot, keep_after });
        self.compacting = Some(self.outbox.last_appended());
    }

    /// Together the logs are too long: the longest is to be replaced by an image as soon as may be.
    fn image_longest(&mut self, now: Now) {
        let imageable = |hosted: &&mut Hosted| {
            hosted.run == Run::Serving && hosted.disk.as_ref().is_some_and(|disk| disk.saving.is_none())
        };
        let log = |hosted: &&mut Hosted| hosted.disk.as_ref().map_or(0, |disk| disk.log_bytes);
        let Some(hosted) = self.services.values_mut().filter(imageable).max_by_key(log) else { return };
        if let Some(disk) = &mut hosted.disk {
            disk.next_image_at = 0;
        }
        let stay = hosted.stay();
        self.image_if_due(stay, now);
    }

    /// Entries that say what all entries say, but for the logs.
    fn snapshot(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::Finished { migs: self.finished.iter().copied().collect() }];
        if self.cordoned {
            entries.push(Entry::Cordoned { cordoned: true });
        }
        for (_, tombstone) in &self.removed {
            entries.push(Entry::Removed { tombstone: tombstone.clone() });
        }
        for departed in &self.departed {
            entries.push(Entry::Departed { placement: departed.placement.clone() });
        }
        for pending in self.registering.values() {
            entries.push(Entry::Registering { frame: pending.frame.clone(), secret: pending.secret.clone() });
        }
        for ((service, epoch), hosted) in &self.services {
            let (service, epoch) = (*service, *epoch);
            let disk = hosted.disk.as_ref();
            let received = matches!(disk.and_then(|disk| disk.image), Some(ImageId::Held(_)));
            entries.push(Entry::Placed {
                placement: hosted.placement.signed().clone(),
                manifest: hosted.manifest.signed().clone(),
                secret: hosted.secret.clone(),
                received,
            });
            match disk.and_then(|disk| disk.image.zip(Some(disk.covered))) {
                Some((ImageId::Taken { upto, .. }, _)) => entries.push(Entry::Imaged { service, epoch, upto }),
                Some((ImageId::Updated { sequence, .. }, upto)) => {
                    let (manifest, ordered) = (hosted.manifest.signed().clone(), hosted.ordered);
                    entries.push(Entry::Updated { service, epoch, manifest, ordered, image: Some(sequence), upto });
                }
                Some((ImageId::Held(_), _)) | None => {}
            }
            if hosted.ordered != Ordered::default() {
                let (ordered, stopped) = (hosted.ordered, hosted.stopped);
                entries.push(Entry::Ordered { service, epoch, ordered, stopped });
            }
            if let Some(attempt) = &hosted.attempt
                && let (Some(ids), Some(consented)) = (attempt.source.ids(), attempt.source.consented())
            {
                let (consented, addresses) = (consented.clone(), attempt.source.addresses().to_vec());
                entries.push(Entry::Consented { ids, consented, addresses });
            }
            if hosted.run == Run::Sealed {
                // Whoever superseded it may be forgotten: that it was is not.
                let by = self.departed_to(service).unwrap_or(hosted.placement.signed()).clone();
                entries.push(Entry::Sealed { service, epoch, by });
            }
        }
        for arrival in self.arrivals.values() {
            let (ids, from) = (arrival.target.ids(), arrival.target.source());
            let (_, secret) = arrival.target.new_key();
            entries.push(Entry::KeyMade { ids, secret: secret.clone() });
            if let Some(held) = arrival.target.held() {
                let manifest = arrival.target.manifest().signed().clone();
                entries.push(Entry::Held { ids, from, held: held.clone(), manifest });
            }
        }
        entries
    }

    /// Gives up the services whose state a restart has lost.
    pub fn forget_lost(&mut self) {
        let lost: Vec<Stay> =
            self.services.iter().filter(|(_, hosted)| hosted.run == Run::Lost).map(|(stay, _)| *stay).collect();
        for (service, epoch) in lost {
            self.services.remove(&(service, epoch));
            self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Forgotten { service, epoch } });
        }
    }

    /// Remembers where a service went, instead of the one that went first if there are too many.
    pub(super) fn departs(&mut self, service: ServiceId, placement: Signed<Placement>) {
        self.returns(service);
        if self.departed.len() >= DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back(Departed { service, placement });
    }

    /// Forgets where a service went: it is here again.
    pub(super) fn returns(&mut self, service: ServiceId) {
        self.departed.retain(|departed| departed.service != service);
    }

    /// Where a service went that was here.
    pub(super) fn departed_to(&self, service: ServiceId) -> Option<&Signed<Placement>> {
        self.departed.iter().find(|departed| departed.service == service).map(|departed| &departed.placement)
    }
}

impl Belongings {
    pub(super) fn pack(hosted: &Hosted, now: Now) -> Vec<u8> {
        let (sessions, memory) = (hosted.sessions.to_bytes(), hosted.placer.memory(now));
        // Without an order, as it was before there were any: also for a host that knows of none.
        if hosted.ordered == Ordered::default() {
            return wire::encode(&Unordered { sessions, memory });
        }
        wire::encode(&Self { sessions, memory, ordered: hosted.ordered, stopped: hosted.stopped })
    }

    pub(super) fn unpack(bytes: &[u8]) -> Result<Unpacked, Reject> {
        let Self { sessions, memory, ordered, stopped } = match wire::decode(bytes) {
            Ok(belongings) => belongings,
            // Nothing was ever ordered.
            Err(reject) => {
                let Ok(Unordered { sessions, memory }) = wire::decode(bytes) else { return Err(reject) };
                Self { sessions, memory, ordered: Ordered::default(), stopped: false }
            }
        };
        Ok(Unpacked { sessions: Sessions::from_bytes(&sessions)?, memory, ordered, stopped })
    }
}
