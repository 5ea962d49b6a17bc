//! Taking a service in: the target's side of the handover, and the dispatch of both peers' and the Registry's frames.

use super::{
    Effect, Entry, Event, Host,
    departures::Belongings,
    effect::{ImageId, ReceiveJob},
    hosted::{LeaseClock, Retry, Run},
    took,
};
use crate::{
    advert::Gossip,
    ids::{Digest, HostId, MigrationId, RegistryId},
    limits::{HALF_OPEN_MAX, HALF_OPEN_PER_PEER_MAX, SERVICES_MAX, TRANSFER_MAX},
    manifest::Durability,
    migration::{
        messages::{
            Granted, MigrateFrame, MigrateRefused, NoService, Placement, RecordsAcked, RegistryFrame, RequestFrame,
            Transfer, YesService,
        },
        target::{Target, TargetParty, Verdict},
        trace::{Ending, Side, Trace},
    },
    placement::Placer,
    reject::{Guards, Reject, Rule},
    suite::Suite,
    time::{Instant, Now},
    trust::{CoSigned, Signed},
    wire::Frame,
};

/// A service on its way here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Arrival {
    pub(super) target: Target,
    pub(super) trace: Trace,
    /// Before Held: when to drop it.
    pub(super) deadline: Instant,
    /// From Held on: when 10 was first sent, and its next repeat.
    pub(super) completing: Option<(Instant, Retry)>,
    /// The client table and placement history as received.
    pub(super) belongings: Option<Vec<u8>>,
    /// When 7 left.
    pub(super) answered: Option<Instant>,
}

impl Arrival {
    pub(super) fn timeout(&self) -> Instant {
        self.completing.map_or(self.deadline, |(_, retry)| retry.at)
    }
}

/// Refusals that an honest source can meet: it is told, and its stream stays open.
const fn is_honest(reject: Reject) -> bool {
    matches!(
        reject,
        Reject::Cordoned
            | Reject::NoResources
            | Reject::TooManyHalfOpen
            | Reject::Full
            | Reject::PolicyForbids
            | Reject::UnknownAdvert
            | Reject::Expired
            | Reject::Finished
            | Reject::Conflict
    )
}

macro_rules! party {
    ($host:ident) => {
        TargetParty {
            me: $host.identity.certificate.host,
            host_secret: &$host.identity.secret,
            certificate: &$host.identity.certificate,
            bundle: &$host.bundle,
        }
    };
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// A frame on the migrate stream of `peer`, whom the transport has authenticated.
    ///
    /// # Errors
    /// A named rejection, counted: the driver closes the stream. Nothing else changed.
    pub fn handle_migrate_frame(
        &mut self,
        now: Now,
        peer: HostId,
        bytes: &[u8],
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        let result = MigrateFrame::from_bytes(bytes).and_then(|frame| self.migrate_frame(now, peer, frame, rng));
        self.counted(result)
    }

    fn migrate_frame(
        &mut self,
        now: Now,
        peer: HostId,
        frame: MigrateFrame,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        match frame {
            MigrateFrame::Request(frame) => match self.handle_request(now, peer, &frame, rng) {
                Err(reject) if is_honest(reject) => {
                    self.rejects.count(reject);
                    let mig = frame.request.unverified()?.ids.mig;
                    self.refuse(peer, mig, reject);
                    Ok(())
                }
                result => result,
            },
            MigrateFrame::Response(frame) => self.handle_response(now, peer, &frame),
            MigrateFrame::Transfer(consent) => self.handle_consent(now, peer, &consent),
            MigrateFrame::TransferAck(ack) => self.handle_ack(now, peer, &ack),
            MigrateFrame::Refused(refused) => {
                let Some(stay) = self.departing(refused.mig) else { return Ok(()) };
                let theirs = self.services.get(&stay).and_then(|hosted| hosted.attempt.as_ref());
                if theirs.is_none_or(|attempt| attempt.source.target() != peer) {
                    return Err(Reject::WrongPeer);
                }
                self.target_failed(stay, now, &format!("the target refused: {}", refused.reason), rng);
                Ok(())
            }
            MigrateFrame::Abandon(about) => {
                let Some(arrival) = self.arrivals.get(&about.mig) else { return Ok(()) };
                if arrival.target.source() != peer {
                    return Err(Reject::WrongPeer);
                }
                if !arrival.target.is_held() {
                    self.drop_arrival(about.mig, now, "the source gave up");
                }
                Ok(())
            }
            MigrateFrame::RecordsAcked(acked) => self.handle_records_acked(now, peer, &acked),
        }
    }

    /// Whether a service is on its way here from `peer`: it has shown the Registry's word for it.
    pub fn receives_from(&self, peer: HostId) -> bool {
        self.arrivals.values().any(|arrival| arrival.target.source() == peer)
    }

    /// A frame of the Registry.
    ///
    /// # Errors
    /// A named rejection, counted. The stream stays: leases depend on it, and the Registry is trusted for its own services.
    pub fn handle_registry_frame(
        &mut self,
        now: Now,
        registry: RegistryId,
        bytes: &[u8],
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        let result = RegistryFrame::from_bytes(bytes).and_then(|frame| self.registry_frame(now, registry, frame, rng));
        self.counted(result)
    }

    fn registry_frame(
        &mut self,
        now: Now,
        registry: RegistryId,
        frame: RegistryFrame,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        self.bundle.anchor(registry)?;
        match frame {
            RegistryFrame::YesCloud(_) | RegistryFrame::NoCloud(_) => self.handle_cloud_verdict(now, &frame, rng),
            RegistryFrame::YesService(verdict) => self.handle_service_yes(now, &verdict, rng),
            RegistryFrame::NoService(verdict) => self.handle_service_no(now, &verdict),
            RegistryFrame::Placement(placement) => self.handle_placement(now, &placement),
            RegistryFrame::Granted(granted) => self.handle_granted(now, &granted),
            RegistryFrame::Recovering(recovering) => {
                self.handle_recovering(registry, &recovering);
                Ok(())
            }
            RegistryFrame::Refused(refused) if refused.reason == Reject::Recovering.name() => {
                self.handle_recovers(now, &refused, rng);
                Ok(())
            }
            RegistryFrame::Refused(refused) => {
                self.handle_refused(now, refused.about, &refused.reason, rng);
                Ok(())
            }
            RegistryFrame::Order(frame) => self.handle_order(now, &frame),
            RegistryFrame::Removed(tombstone) => self.handle_removed(now, &tombstone),
            RegistryFrame::VerifyCloud(_)
            | RegistryFrame::VerifyService(_)
            | RegistryFrame::Complete(_)
            | RegistryFrame::Released(_)
            | RegistryFrame::Register(_)
            | RegistryFrame::Renew(_)
            | RegistryFrame::Reclaim(_)
            | RegistryFrame::Cancel(_)
            | RegistryFrame::Enrol(_)
            | RegistryFrame::Enrolled(_)
            | RegistryFrame::Lookup(_)
            | RegistryFrame::Found(_)
            | RegistryFrame::OrderDone(_)
            | RegistryFrame::OrderState(_)
            | RegistryFrame::Shown(_) => Err(Reject::UnexpectedMessage),
        }
    }

    /// 4, from A.
    fn handle_request(
        &mut self,
        now: Now,
        peer: HostId,
        frame: &RequestFrame,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        let ids = frame.request.unverified()?.ids;
        if let Some(arrival) = self.arrivals.get(&ids.mig) {
            // What 4 said is forgotten over a restart; what came of it is not.
            let first = arrival.target.request_hash().ok_or(Reject::Finished)?;
            if arrival.target.source() != peer || first != frame.request.hash() {
                return Err(Reject::Reused);
            }
            if let Some(response) = arrival.target.repeat_response() {
                self.say(peer, MigrateFrame::Response(response));
            }
            return Ok(());
        }
        if self.finished.contains(&ids.mig) {
            return Err(Reject::Finished);
        }
        if self.role() != crate::trust::Role::Cloud {
            return Err(Reject::WrongRole);
        }
        let from_peer = self.arrivals.values().filter(|arrival| arrival.target.source() == peer).count();
        if from_peer >= HALF_OPEN_PER_PEER_MAX || self.arrivals.len() >= HALF_OPEN_MAX {
            return Err(Reject::TooManyHalfOpen);
        }
        if self.services.len() + self.arrivals.len() >= SERVICES_MAX {
            return Err(Reject::Full);
        }
        if self.cordoned {
            return Err(Reject::Cordoned);
        }
        if self.full {
            return Err(Reject::NoResources);
        }
        let is_own = |hash: &Digest| self.is_own_advert(now, hash);
        let (target, verify) = Target::start::<S, G>(&party!(self), now, peer, frame, is_own, rng)?;
        if !self.free().cover(&target.manifest().required) {
            return Err(Reject::NoResources);
        }
        let mut trace =
            Trace::new(ids.service, target.manifest().name.clone(), ids.epoch, peer, Side::Target, String::new());
        trace.mig = Some(ids.mig);
        took(&mut self.outbox, &mut trace, 4, now.wall);
        took(&mut self.outbox, &mut trace, 5, now.wall);
        let (_, secret) = target.new_key();
        let entry = Entry::KeyMade { ids: target.ids(), secret: secret.clone() };
        self.outbox.persist(|seq| Effect::Persist { seq, entry });
        self.outbox.promise(Effect::ToRegistry(ids.service.registry, RegistryFrame::VerifyService(verify)));
        let deadline = now.mono + self.config.step_timeout;
        let arrival = Arrival { target, trace, deadline, completing: None, belongings: None, answered: None };
        self.arrivals.insert(ids.mig, arrival);
        Ok(())
    }

    fn handle_service_yes(
        &mut self,
        now: Now,
        signed: &Signed<YesService>,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        let mig = signed.unverified()?.request.ids.mig;
        let arrival = self.arrivals.get_mut(&mig).ok_or(Reject::UnknownMigration)?;
        let manifest = arrival.target.manifest();
        let (code, required) = (manifest.code, manifest.required);
        let durable = manifest.durability == Durability::Log;
        let needs_module = !self.modules.contains(&code);
        let (frame, agreement) =
            arrival.target.handle_yes::<S, G>(&party!(self), now, signed, required, needs_module, rng)?;
        took(&mut self.outbox, &mut arrival.trace, 6, now.wall);
        took(&mut self.outbox, &mut arrival.trace, 7, now.wall);
        arrival.answered = Some(now.mono);
        arrival.deadline = now.mono + self.config.step_timeout;
        let job = ReceiveJob {
            ids: arrival.target.ids(),
            from: arrival.target.source(),
            key: agreement.key,
            transcript: agreement.transcript,
            code,
            needs_module,
            memory_bytes: required.memory_bytes,
            durable,
        };
        let source = job.from;
        self.outbox.now(Effect::Receive(job));
        self.say(source, MigrateFrame::Response(frame));
        Ok(())
    }

    fn handle_service_no(&mut self, now: Now, signed: &Signed<NoService>) -> Result<(), Reject> {
        let mig = signed.unverified()?.request.ids.mig;
        let arrival = self.arrivals.get(&mig).ok_or(Reject::UnknownMigration)?;
        let reason = arrival.target.handle_no::<S, G>(&party!(self), signed)?;
        let source = arrival.target.source();
        self.refuse(source, mig, Reject::NotHostOfRecord);
        self.drop_arrival(mig, now, &format!("the registry says no: {reason:?}"));
        Ok(())
    }

    /// Records up to and without `next` are applied.
    pub fn handle_records(&mut self, now: Now, mig: MigrationId, next: u64) {
        let Some(arrival) = self.arrivals.get_mut(&mig) else { return };
        let end = arrival.answered.map_or(arrival.deadline, |answered| answered + TRANSFER_MAX);
        arrival.deadline = arrival.deadline.max((now.mono + self.config.step_timeout).min(end));
        let source = arrival.target.source();
        self.say(source, MigrateFrame::RecordsAcked(RecordsAcked { mig, next }));
    }

    /// All records are applied: the state's hash, its size, and what came beside the memory.
    pub fn handle_received(&mut self, now: Now, mig: MigrationId, state: Digest, bytes: u64, belongings: Vec<u8>) {
        let Some(arrival) = self.arrivals.get_mut(&mig) else { return };
        if arrival.target.handle_received(state).is_err() {
            return;
        }
        arrival.belongings = Some(belongings);
        arrival.trace.bytes = bytes;
        let result = self.hold_if_complete(now, mig);
        if let Err(reject) = self.counted(result) {
            self.fail_arrival(now, mig, reject);
        }
    }

    /// What came on the state stream is no state of this service.
    pub fn handle_receive_failed(&mut self, now: Now, mig: MigrationId, reject: Reject) {
        self.rejects.count(reject);
        self.fail_arrival(now, mig, reject);
    }

    /// The attempt cannot succeed any more; if A has consented, it will ask R, which finds no completion and aborts.
    fn fail_arrival(&mut self, now: Now, mig: MigrationId, reject: Reject) {
        let Some(arrival) = self.arrivals.get(&mig).filter(|arrival| !arrival.target.is_held()) else { return };
        let source = arrival.target.source();
        self.refuse(source, mig, reject);
        self.drop_arrival(mig, now, &reject.to_string());
    }

    /// The last of 8, from A.
    fn handle_consent(&mut self, now: Now, peer: HostId, consent: &CoSigned<Transfer>) -> Result<(), Reject> {
        let mig = consent.unverified()?.ids.mig;
        // A's consent may cross B's giving up: A then asks R, which finds no completion and aborts.
        let Some(arrival) = self.arrivals.get_mut(&mig) else { return self.settled(mig) };
        if arrival.target.source() != peer {
            return Err(Reject::WrongPeer);
        }
        if let Some(ack) = arrival.target.repeat_ack() {
            if arrival.target.complete().is_some_and(|complete| complete.consent == *consent) {
                self.say(peer, MigrateFrame::TransferAck(ack));
                return Ok(());
            }
            return Err(Reject::Reused);
        }
        arrival.target.handle_consent::<S, G>(&party!(self), consent)?;
        took(&mut self.outbox, &mut arrival.trace, 8, now.wall);
        match self.hold_if_complete(now, mig) {
            // The records do not match the consent: it is the attempt that fails, not only the message.
            Err(reject) => {
                self.fail_arrival(now, mig, reject);
                Err(reject)
            }
            Ok(()) => Ok(()),
        }
    }

    fn hold_if_complete(&mut self, now: Now, mig: MigrationId) -> Result<(), Reject> {
        let Some(arrival) = self.arrivals.get_mut(&mig) else { return Ok(()) };
        let Some(held) = arrival.target.hold::<S, G>(&party!(self), now)? else { return Ok(()) };
        took(&mut self.outbox, &mut arrival.trace, 9, now.wall);
        took(&mut self.outbox, &mut arrival.trace, 10, now.wall);
        arrival.completing = Some((now.mono, Retry::from(now.mono)));
        let (ids, from) = (arrival.target.ids(), arrival.target.source());
        let (complete, ack) = (held.complete.clone(), held.ack.clone());
        let manifest = arrival.target.manifest().signed().clone();
        self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Held { ids, from, held, manifest } });
        self.outbox.promise(Effect::ToRegistry(ids.service.registry, RegistryFrame::Complete(complete)));
        let ack = MigrateFrame::TransferAck(ack);
        self.outbox.promise(Effect::ToPeer { host: from, addresses: Vec::new(), frame: ack });
        Ok(())
    }

    /// 11, from R: for an arrival or a departure.
    fn handle_placement(&mut self, now: Now, signed: &Signed<Placement>) -> Result<(), Reject> {
        let claim = signed.unverified()?;
        if self.arrivals.contains_key(&claim.mig) {
            return self.handle_arrived(now, claim.mig, signed);
        }
        if let Some(stay) = self.departing(claim.mig) {
            return self.handle_departed(now, stay, signed);
        }
        // A repeat of what is settled is no news; R says nothing of attempts that were never ours.
        if self.finished.contains(&claim.mig) { Ok(()) } else { Err(Reject::UnknownMigration) }
    }

    fn handle_granted(&mut self, now: Now, granted: &Granted) -> Result<(), Reject> {
        let about = match &granted.answer {
            crate::migration::messages::Answer::Lease(_) => None,
            crate::migration::messages::Answer::Aborted(signed) => Some(signed.unverified()?.ids.mig),
            crate::migration::messages::Answer::Outcome(signed) => Some(signed.unverified()?.ids.mig),
        };
        if let Some(mig) = about {
            if let Some(arrival) = self.arrivals.get(&mig) {
                return match arrival.target.handle_granted::<S, G>(&party!(self), granted)? {
                    Verdict::Won(placement) => {
                        let signed = placement.signed().clone();
                        self.handle_arrived(now, mig, &signed)
                    }
                    Verdict::Aborted => {
                        let entry = Entry::Aborted { ids: arrival.target.ids() };
                        self.outbox.persist(|seq| Effect::Persist { seq, entry });
                        self.drop_arrival(mig, now, "the registry aborted the migration");
                        Ok(())
                    }
                };
            }
            if let Some(stay) = self.departing(mig) {
                return self.handle_decision(now, stay, granted);
            }
        }
        self.handle_lease(now, granted)
    }

    /// 11 for an arrival: journal it, then serve.
    fn handle_arrived(&mut self, now: Now, mig: MigrationId, signed: &Signed<Placement>) -> Result<(), Reject> {
        let arrival = self.arrivals.get(&mig).ok_or(Reject::UnknownMigration)?;
        let placement = arrival.target.handle_placement::<S, G>(&party!(self), signed)?;
        let (belongings, placer) = self.unpack(now, arrival)?;
        let super::departures::Unpacked { sessions, ordered, stopped, .. } = belongings;
        let Some(mut arrival) = self.arrivals.remove(&mig) else { return Ok(()) };
        // R answered after 10 was first sent, so a lease counted from there ends no later than R's.
        let asked = arrival.completing.map_or(now.mono, |(first_sent, _)| first_sent);
        let lease = LeaseClock::granted(asked, placement.lease);
        let (service, epoch) = (placement.service, placement.epoch);
        let (_, secret) = arrival.target.new_key();
        let (secret, manifest) = (secret.clone(), arrival.target.manifest().clone());
        self.place(placement, manifest, secret, lease, sessions, placer, true, now.wall);
        if let Some(hosted) = self.services.get_mut(&(service, epoch)) {
            hosted.arriving_since = arrival.answered;
            (hosted.ordered, hosted.stopped) = (ordered, stopped);
        }
        self.outbox.promise(Effect::Activate { mig, service, epoch });
        self.outbox.promise(Effect::Gossip(Gossip::Placement(signed.clone())));
        took(&mut self.outbox, &mut arrival.trace, 11, now.wall);
        arrival.trace.ending = Ending::Moved;
        self.finish(mig, arrival.trace);
        Ok(())
    }

    fn unpack(&self, now: Now, arrival: &Arrival) -> Result<(super::departures::Unpacked, Placer), Reject> {
        let bytes = arrival.belongings.as_deref().ok_or(Reject::UnexpectedMessage)?;
        let belongings = Belongings::unpack(bytes)?;
        let manifest = arrival.target.manifest();
        let placer = Placer::new(self.config.placement, manifest.required, manifest.max_rtt)
            .with_memory(now, &belongings.memory);
        Ok((belongings, placer))
    }

    /// Whether `bytes` can be this service's client table: checked before 9 promises to hold it.
    pub fn check_belongings(bytes: &[u8]) -> Result<(), Reject> {
        Belongings::unpack(bytes).map(|_| ())
    }

    /// The driver has started, activated or resumed an instance, and what `_initialize` read of the outside if it ran; or
    /// could not.
    pub fn handle_started(
        &mut self,
        now: Now,
        stay: super::hosted::Stay,
        result: Result<Vec<u8>, String>,
        rng: &mut dyn rand_core::Rng,
    ) {
        let (service, epoch) = stay;
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        match result {
            Ok(inputs) => {
                let started = hosted.run == Run::Starting;
                if matches!(hosted.run, Run::Starting | Run::Resuming | Run::Updating) {
                    hosted.run = Run::Serving;
                }
                if let Some(since) = hosted.arriving_since.take() {
                    hosted.placer.record_downtime(now.mono.since(since));
                }
                let mig = hosted.placement.mig;
                let arrived = |trace: &&mut Trace| trace.mig == Some(mig) && trace.side == Side::Target;
                if let Some(trace) = self.history.iter_mut().rev().find(arrived) {
                    trace.switched.get_or_insert(now.wall);
                }
                if started {
                    self.log_start(stay, inputs);
                }
                self.outbox.now(Effect::Event(Event::Serving(service, epoch)));
                self.drain_on();
                self.admit_held(stay, now);
            }
            Err(reason) => {
                self.break_down(stay, now, &reason, rng);
            }
        }
    }

    /// The instance cannot run (any more): nothing is answered from it, its lease is let go, and people are told.
    pub(super) fn break_down(
        &mut self,
        stay: super::hosted::Stay,
        now: Now,
        reason: &str,
        rng: &mut dyn rand_core::Rng,
    ) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let (service, _) = stay;
        hosted.running = None;
        // A source that has consented needs its instance no more; R decides what becomes of the service.
        let consented = hosted.attempt.as_ref().is_some_and(|attempt| attempt.source.has_consented());
        if !consented {
            hosted.run = Run::Broken;
            let waiting: Vec<_> = hosted.queue.drain(..).map(|waiting| (waiting.client, waiting.sequence)).collect();
            let held: Vec<_> = hosted.held.drain(..).map(|(_, call)| (call.client, call.sequence)).collect();
            for (client, sequence) in waiting.into_iter().chain(held) {
                self.refuse_call(service, client, sequence, Reject::Broken);
            }
            self.give_up(stay, now, reason, rng);
        }
        self.outbox.now(Effect::Event(Event::Broken(service, reason.to_owned())));
        self.carry_out(stay, now);
    }

    pub(super) fn arrival_timeouts(&mut self, now: Now) {
        let due: Vec<MigrationId> =
            self.arrivals.iter().filter(|(_, arrival)| arrival.timeout() <= now.mono).map(|(mig, _)| *mig).collect();
        for mig in due {
            let Some(arrival) = self.arrivals.get_mut(&mig) else { continue };
            // Held: neither a timeout nor a peer ends it, only R.
            let ended = arrival.completing.is_some_and(|(since, _)| since + self.config.step_timeout <= now.mono);
            if ended && !G::keeps(Rule::HeldUntilDecided) {
                self.drop_arrival(mig, now, "the registry did not answer in time");
                continue;
            }
            if let (Some((_, retry)), Some(complete)) = (&mut arrival.completing, arrival.target.complete()) {
                retry.again(now.mono);
                let frame = RegistryFrame::Complete(complete.clone());
                let registry = arrival.target.ids().service.registry;
                self.outbox.promise(Effect::ToRegistry(registry, frame));
                continue;
            }
            let source = arrival.target.source();
            self.refuse(source, mig, Reject::Expired);
            self.drop_arrival(mig, now, "the other side did not answer in time");
        }
    }

    fn drop_arrival(&mut self, mig: MigrationId, _now: Now, reason: &str) {
        let Some(mut arrival) = self.arrivals.remove(&mig) else { return };
        if !G::keeps(Rule::FreeResources) {
            arrival.deadline = Instant(u64::MAX);
            arrival.completing = None;
            self.arrivals.insert(mig, arrival);
            return;
        }
        if !arrival.target.is_held() {
            let entry = Entry::Dropped { ids: arrival.target.ids() };
            self.outbox.persist(|seq| Effect::Persist { seq, entry });
        }
        self.outbox.promise(Effect::DiscardIncoming { mig });
        if arrival.target.manifest().durability == Durability::Log {
            self.outbox.promise(Effect::DropImage(ImageId::Held(mig)));
        }
        arrival.trace.ending = Ending::Failed(reason.to_owned());
        self.finish(mig, arrival.trace);
    }

    fn refuse(&mut self, peer: HostId, mig: MigrationId, reject: Reject) {
        self.say(peer, MigrateFrame::Refused(MigrateRefused { mig, reason: reject.name().to_owned() }));
    }

    fn say(&mut self, host: HostId, frame: MigrateFrame) {
        self.outbox.now(Effect::ToPeer { host, addresses: Vec::new(), frame });
    }
}
