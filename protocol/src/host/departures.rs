//! Moving a service away: decisions, the source's side of the handover, and its end.

use super::{
    Effect, Entry, Event, Host,
    effect::CaptureJob,
    hosted::{Attempt, Hosted, LeaseClock, Retry, Run, Stay},
    orders::Ordered,
    took,
};
use crate::{
    advert::store as advert,
    gateway::messages::ClientFrame,
    ids::{Digest, HostId, MigrationId, MigrationIds, ServiceId},
    limits::{RECLAIM_AFTER, TRANSFER_MAX},
    migration::{
        messages::{
            Granted, MigrateFrame, MigrationRef, Placement, RecordsAcked, RegistryFrame, ResponseFrame, TransferAck,
            VerifyCloudFrame,
        },
        source::{Source, SourceParty, Verdict},
        trace::{Ending, Side, Trace},
    },
    placement::{Candidate, Explanation, Memory},
    reject::{Guards, Reject, Rule},
    session::Sessions,
    suite::Suite,
    time::{Instant, Now, Timestamp},
    trust::Signed,
    wire,
};

/// What travels in the `sessions` record beside the memory: captured after the freeze.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Belongings {
    pub(super) sessions: Vec<u8>,
    /// What the placer learnt of the users.
    pub(super) memory: Memory,
    /// The last order that was carried out.
    pub(super) ordered: Ordered,
    /// Whether the owner has stopped the service.
    pub(super) stopped: bool,
}

/// [`Belongings`] of a service of which nothing was ever ordered: as they were before there were orders.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Unordered {
    pub(super) sessions: Vec<u8>,
    pub(super) memory: Memory,
}

impl wire::Wire for Unordered {
    const LIMIT: usize = Belongings::LIMIT;
}

/// [`Belongings`] that were read.
pub(super) struct Unpacked {
    pub(super) sessions: Sessions,
    pub(super) memory: Memory,
    pub(super) ordered: Ordered,
    pub(super) stopped: bool,
}

impl wire::Wire for Belongings {
    const LIMIT: usize = 96 * 1024 * 1024;
}

/// Borrows, field by field, what a [`Source`] needs to know of its host.
macro_rules! party {
    ($host:ident, $hosted:ident) => {
        SourceParty {
            me: $host.identity.certificate.host,
            host_secret: &$host.identity.secret,
            bundle: &$host.bundle,
            placement: &$hosted.placement,
            placement_secret: &$hosted.secret,
            manifest: &$hosted.manifest,
        }
    };
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// Where `service` would go now and why, without going.
    ///
    /// # Errors
    /// [`Reject::UnknownService`] if it is not here.
    pub fn explain(&self, now: Now, service: ServiceId) -> Result<Explanation, Reject> {
        let stay = self.current(service).ok_or(Reject::UnknownService)?;
        let hosted = self.services.get(&stay).ok_or(Reject::UnknownService)?;
        Ok(hosted.placer.explain(now, self.me(), &self.candidates(now, hosted)))
    }

    pub(super) fn candidates(&self, now: Now, hosted: &Hosted) -> Vec<Candidate> {
        let candidate = |known: &advert::Entry| Candidate {
            host: known.advert.host,
            cloud: known.certificate.name.clone(),
            free: known.advert.resources,
            price_micros: known.advert.price_micros,
            permitted: hosted.manifest.permits(&known.certificate),
            cordoned: known.advert.cordoned,
        };
        self.adverts.live(now.wall).map(candidate).collect()
    }

    pub(super) fn place_if_due(&mut self, stay: Stay, now: Now, rng: &mut dyn rand_core::Rng) {
        let me = self.me();
        let Some(hosted) = self.services.get(&stay) else { return };
        // A stopped service has no users to be near to.
        let serves = hosted.may_serve::<G>(now.mono) && !hosted.stopped;
        let decides = self.draining.is_none() && hosted.attempt.is_none() && serves;
        if !decides || !hosted.placer.is_due(now.mono) {
            return;
        }
        let candidates = self.candidates(now, hosted);
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let explanation = hosted.placer.decide(now, me, &candidates);
        if let Some(to) = explanation.chosen() {
            // A refusal here only means that the next decision comes a slot later.
            let _ = self.begin_move(now, stay.0, to, &explanation.reason(), rng);
        }
    }

    /// Begins an attempt to move `service` to `to` (2).
    ///
    /// # Errors
    /// A named rejection; nothing was sent.
    pub fn begin_move(
        &mut self,
        now: Now,
        service: ServiceId,
        to: HostId,
        reason: &str,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        let stay = self.current(service).ok_or(Reject::UnknownService)?;
        if to == self.me() {
            return Err(Reject::SelfMove);
        }
        let known = self.adverts.get(now.wall, to).ok_or(Reject::UnknownAdvert)?;
        let hosted = self.services.get_mut(&stay).ok_or(Reject::UnknownService)?;
        if hosted.attempt.is_some() || hosted.run != Run::Serving || !hosted.is_confirmed() {
            return Err(Reject::Conflict);
        }
        hosted.counter = now.wall.0.max(hosted.counter.saturating_add(1));
        let (source, request) = Source::start::<S>(&party!(self, hosted), &known.advert, hosted.counter, rng);
        let mut trace = Trace::new(service, hosted.manifest.name.clone(), stay.1, to, Side::Source, reason.to_owned());
        // An advert's serial is when it was made, as its cloud says.
        took(&mut self.outbox, &mut trace, 1, Timestamp(known.advert.serial).min(now.wall));
        took(&mut self.outbox, &mut trace, 2, now.wall);
        let frame = VerifyCloudFrame { request, advert: known.advert.signed().clone() };
        hosted.attempt = Some(Attempt {
            source,
            asked: frame.request.hash(),
            agreement: None,
            trace,
            deadline: now.mono + self.config.step_timeout,
            acked: 0,
            reclaiming: None,
            frozen_at: None,
        });
        self.outbox.now(Effect::Event(Event::MoveStarted(service, to, reason.to_owned())));
        self.outbox.now(Effect::ToRegistry(service.registry, RegistryFrame::VerifyCloud(frame)));
        Ok(())
    }

    /// The stay whose attempt fits `matches`.
    fn stay_where(&self, matches: impl Fn(&Attempt) -> bool) -> Option<Stay> {
        let fits = |hosted: &Hosted| hosted.attempt.as_ref().is_some_and(&matches);
        self.services.iter().find(|(_, hosted)| fits(hosted)).map(|(stay, _)| *stay)
    }

    pub(super) fn departing(&self, mig: MigrationId) -> Option<Stay> {
        self.stay_where(|attempt| attempt.source.mig() == Some(mig))
    }

    /// 3, from R.
    pub(super) fn handle_cloud_verdict(
        &mut self,
        now: Now,
        verdict: &RegistryFrame,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(), Reject> {
        let request = match verdict {
            RegistryFrame::YesCloud(signed) => signed.unverified()?.request,
            RegistryFrame::NoCloud(signed) => signed.unverified()?.request,
            _ => return Err(Reject::UnexpectedMessage),
        };
        let stay = (request.service, request.epoch);
        let hosted = self.services.get_mut(&stay).ok_or(Reject::UnknownService)?;
        let Some(attempt) = &mut hosted.attempt else { return Err(Reject::UnexpectedMessage) };
        let party = party!(self, hosted);
        match verdict {
            RegistryFrame::YesCloud(signed) => {
                let frame = attempt.source.handle_yes::<S, G>(&party, now, signed, rng)?;
                attempt.deadline = now.mono + self.config.step_timeout;
                attempt.trace.mig = attempt.source.mig();
                took(&mut self.outbox, &mut attempt.trace, 3, now.wall);
                took(&mut self.outbox, &mut attempt.trace, 4, now.wall);
                let (host, addresses) = (attempt.source.target(), attempt.source.addresses().to_vec());
                self.outbox.now(Effect::ToPeer { host, addresses, frame: MigrateFrame::Request(frame) });
            }
            RegistryFrame::NoCloud(signed) => {
                let reason = attempt.source.handle_no::<S, G>(&party, signed)?;
                self.give_up(stay, now, &format!("the registry says no: {reason:?}"), rng);
            }
            _ => {}
        }
        Ok(())
    }

    /// 7, from B: freeze.
    pub(super) fn handle_response(&mut self, now: Now, peer: HostId, frame: &ResponseFrame) -> Result<(), Reject> {
        let mig = frame.response.unverified()?.ids.mig;
        let Some(stay) = self.departing(mig) else { return self.settled(mig) };
        let Some(hosted) = self.services.get_mut(&stay) else { return Err(Reject::UnknownMigration) };
        let Some(attempt) = &mut hosted.attempt else { return Err(Reject::UnexpectedMessage) };
        if attempt.source.target() != peer {
            return Err(Reject::WrongPeer);
        }
        let agreement = attempt.source.handle_response::<S, G>(&party!(self, hosted), now, frame)?;
        took(&mut self.outbox, &mut attempt.trace, 7, now.wall);
        attempt.trace.switched = Some(now.wall);
        attempt.deadline = now.mono + self.config.step_timeout;
        attempt.agreement = Some(agreement);
        attempt.frozen_at = Some(now.mono);
        hosted.run = Run::Freezing;
        self.capture_if_idle(stay, now);
        Ok(())
    }

    /// The last request is done: the client table is final, the instance can be captured.
    pub(super) fn capture_if_idle(&mut self, stay: Stay, now: Now) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        if hosted.run != Run::Freezing || hosted.running.is_some() {
            return;
        }
        let belongings = Belongings::pack(hosted, now);
        let Some(attempt) = &mut hosted.attempt else { return };
        let (Some(agreement), Some(ids)) = (attempt.agreement.take(), attempt.source.ids()) else { return };
        hosted.run = Run::Frozen;
        self.outbox.now(Effect::Capture(CaptureJob {
            ids,
            addresses: attempt.source.addresses().to_vec(),
            key: agreement.key,
            transcript: agreement.transcript,
            code: hosted.manifest.code,
            send_module: agreement.send_module,
            sessions: belongings,
        }));
    }

    /// The driver has captured and sent everything; or could not.
    pub fn handle_captured(
        &mut self,
        now: Now,
        mig: MigrationId,
        captured: Result<(Digest, u64), String>,
        rng: &mut dyn rand_core::Rng,
    ) {
        let Some(stay) = self.departing(mig) else { return };
        let (state, bytes) = match captured {
            Ok(captured) => captured,
            Err(reason) => {
                self.give_up(stay, now, &reason, rng);
                return;
            }
        };
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(attempt) = &mut hosted.attempt else { return };
        let Ok(consented) = attempt.source.consent::<S>(&party!(self, hosted), state) else { return };
        let Some(ids) = attempt.source.ids() else { return };
        attempt.trace.bytes = bytes;
        took(&mut self.outbox, &mut attempt.trace, 8, now.wall);
        attempt.deadline = now.mono + RECLAIM_AFTER;
        let (host, addresses) = (attempt.source.target(), attempt.source.addresses().to_vec());
        let frame = MigrateFrame::Transfer(consented.consent.clone());
        let dial = addresses.clone();
        self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Consented { ids, consented, addresses } });
        self.outbox.promise(Effect::ToPeer { host, addresses: dial, frame });
    }

    /// B has records up to here. Only progress counts, and only for so long.
    pub(super) fn handle_records_acked(&mut self, now: Now, peer: HostId, acked: &RecordsAcked) -> Result<(), Reject> {
        let Some(stay) = self.departing(acked.mig) else { return self.overtaken(acked.mig) };
        let Some(attempt) = self.services.get_mut(&stay).and_then(|hosted| hosted.attempt.as_mut()) else {
            return Err(Reject::UnknownMigration);
        };
        if attempt.source.target() != peer {
            return Err(Reject::WrongPeer);
        }
        let Some(frozen_at) = attempt.frozen_at else { return Err(Reject::UnexpectedMessage) };
        if attempt.reclaiming.is_none() && acked.next > attempt.acked {
            attempt.acked = acked.next;
            let wait = if attempt.source.has_consented() { RECLAIM_AFTER } else { self.config.step_timeout };
            attempt.deadline = attempt.deadline.max((now.mono + wait).min(frozen_at + TRANSFER_MAX));
        }
        Ok(())
    }

    /// A message about an attempt that is over: no fault of the peer's if it was one that both knew.
    pub(super) fn settled(&mut self, mig: MigrationId) -> Result<(), Reject> {
        self.overtaken(mig)?;
        self.rejects.count(Reject::Finished);
        Ok(())
    }

    /// An acknowledgement that R's decision has overtaken, as it may: nothing to count.
    fn overtaken(&self, mig: MigrationId) -> Result<(), Reject> {
        if self.finished.contains(&mig) { Ok(()) } else { Err(Reject::UnknownMigration) }
    }

    /// 9, from B.
    pub(super) fn handle_ack(&mut self, now: Now, peer: HostId, signed: &Signed<TransferAck>) -> Result<(), Reject> {
        let mig = signed.unverified()?.ids.mig;
        // 11 may overtake 9: then the attempt is over, and well.
        let Some(stay) = self.departing(mig) else { return self.overtaken(mig) };
        let Some(hosted) = self.services.get_mut(&stay) else { return Err(Reject::UnknownMigration) };
        let Some(attempt) = &mut hosted.attempt else { return Err(Reject::UnexpectedMessage) };
        if attempt.source.target() != peer {
            return Err(Reject::WrongPeer);
        }
        attempt.source.handle_ack::<S, G>(&party!(self, hosted), now, signed)?;
        took(&mut self.outbox, &mut attempt.trace, 9, now.wall);
        Ok(())
    }

    /// 11, from R, for an attempt of ours.
    pub(super) fn handle_departed(&mut self, now: Now, stay: Stay, signed: &Signed<Placement>) -> Result<(), Reject> {
        let hosted = self.services.get_mut(&stay).ok_or(Reject::UnknownService)?;
        let Some(attempt) = &mut hosted.attempt else { return Err(Reject::UnexpectedMessage) };
        attempt.source.handle_placement::<S, G>(&party!(self, hosted), now, signed)?;
        self.leave(stay, now, signed);
        Ok(())
    }

    /// R's answer to a RECLAIM or CANCEL of ours.
    pub(super) fn handle_decision(&mut self, now: Now, stay: Stay, granted: &Granted) -> Result<(), Reject> {
        let hosted = self.services.get_mut(&stay).ok_or(Reject::UnknownService)?;
        let Some(attempt) = &mut hosted.attempt else { return Err(Reject::UnexpectedMessage) };
        match attempt.source.handle_granted::<S, G>(&party!(self, hosted), granted)? {
            Verdict::Won(placement) => {
                let signed = placement.signed().clone();
                self.leave(stay, now, &signed);
            }
            Verdict::Ours(placement) => {
                let asked = attempt.reclaiming.map_or(now.mono, |(first_sent, _)| first_sent);
                hosted.lease = LeaseClock::granted(asked, placement.lease);
                hosted.placement = placement;
                if let Some(ids) = attempt.source.ids() {
                    self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Aborted { ids } });
                }
                self.end_attempt(stay, now, "the registry aborted the migration");
            }
            Verdict::Superseded(placement) => self.seal(stay, &placement),
        }
        Ok(())
    }

    /// The service is elsewhere: delete it, say so to R and to every gateway.
    fn leave(&mut self, stay: Stay, now: Now, placement: &Signed<Placement>) {
        let Some(mut hosted) = self.services.remove(&stay) else { return };
        let Some(mut attempt) = hosted.attempt.take() else { return };
        let (service, epoch) = stay;
        let Some(ids) = attempt.source.ids() else { return };
        let party = party!(self, hosted);
        let released = attempt.source.released::<S>(&party, ids);
        let to = attempt.source.target();
        let entry = Entry::Released { ids, placement: placement.clone() };
        self.outbox.persist(|seq| Effect::Persist { seq, entry });
        self.outbox.promise(Effect::DiscardInstance { service, epoch });
        if let Some(disk) = &hosted.disk {
            if let Some(image) = disk.image {
                self.outbox.promise(Effect::DropImage(image));
            }
            self.purge(now);
        }
        if !G::keeps(Rule::DeleteByMigration) {
            self.discard_all_of(service);
        }
        self.outbox.promise(Effect::ToRegistry(service.registry, RegistryFrame::Released(released)));
        self.departs(service, placement.clone());
        let gone = Effect::Event(Event::MovedAway(service, to));
        self.tell_moved_to(&hosted, placement);
        self.outbox.now(gone);
        took(&mut self.outbox, &mut attempt.trace, 11, now.wall);
        took(&mut self.outbox, &mut attempt.trace, 12, now.wall);
        attempt.trace.downtime = attempt.frozen_at.map(|frozen| now.mono.since(frozen));
        attempt.trace.ending = Ending::Moved;
        self.finish(ids.mig, attempt.trace);
        self.advertise_at = Instant::default();
        self.drain_on();
    }

    /// What a host must never do: an older or newer stay of the same service is another matter.
    fn discard_all_of(&mut self, service: ServiceId) {
        let stays: Vec<Stay> = self.services.keys().filter(|stay| stay.0 == service).copied().collect();
        for (service, epoch) in stays {
            self.services.remove(&(service, epoch));
            self.outbox.promise(Effect::DiscardInstance { service, epoch });
        }
        let arriving = |arrival: &&super::Arrival| arrival.target.ids().service == service;
        let migs: Vec<_> = self.arrivals.values().filter(arriving).map(|arrival| arrival.target.ids().mig).collect();
        for mig in migs {
            self.arrivals.remove(&mig);
            self.outbox.promise(Effect::DiscardIncoming { mig });
        }
    }

    fn tell_moved_to(&mut self, hosted: &Hosted, placement: &Signed<Placement>) {
        for (gateway, link) in &self.links {
            if hosted.sessions.is_open(link.client) {
                self.outbox.now(Effect::ToGateway(*gateway, ClientFrame::Moved(placement.clone())));
            }
        }
    }

    /// Every gateway hears of a newer placement of a service that was here.
    pub(super) fn tell_moved(&mut self, placement: &crate::trust::Verified<Placement>) {
        for gateway in self.links.keys() {
            self.outbox.now(Effect::ToGateway(*gateway, ClientFrame::Moved(placement.signed().clone())));
        }
    }

    /// Before consent: the attempt is off, the service goes on.
    pub(super) fn give_up(&mut self, stay: Stay, now: Now, reason: &str, rng: &mut dyn rand_core::Rng) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(attempt) = &mut hosted.attempt else { return };
        if attempt.source.has_consented() {
            return;
        }
        if let Some(cancel) = attempt.source.cancel::<S>(&party!(self, hosted), rng) {
            self.outbox.now(Effect::ToRegistry(stay.0.registry, RegistryFrame::Cancel(cancel)));
        }
        if let Some(mig) = attempt.source.mig() {
            let (host, frame) = (attempt.source.target(), MigrateFrame::Abandon(MigrationRef { mig }));
            self.outbox.now(Effect::ToPeer { host, addresses: Vec::new(), frame });
        }
        self.end_attempt(stay, now, reason);
    }

    /// The attempt is over and the service is still ours.
    fn end_attempt(&mut self, stay: Stay, now: Now, reason: &str) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(mut attempt) = hosted.attempt.take() else { return };
        let (service, epoch) = stay;
        let to = attempt.source.target();
        hosted.placer.handle_failed(now, to);
        match hosted.run {
            Run::Freezing => hosted.run = Run::Serving,
            Run::Frozen => {
                hosted.run = Run::Resuming;
                self.outbox.promise(Effect::Resume { service, epoch });
            }
            Run::Starting
            | Run::Serving
            | Run::Resuming
            | Run::Restoring
            | Run::Updating
            | Run::Sealed
            | Run::Lost
            | Run::Broken => {}
        }
        self.outbox.now(Effect::Event(Event::MoveFailed(service, to, reason.to_owned())));
        attempt.trace.downtime = attempt.frozen_at.map(|frozen| now.mono.since(frozen));
        attempt.trace.ending = Ending::Failed(reason.to_owned());
        match attempt.source.mig() {
            Some(mig) => self.finish(mig, attempt.trace),
            None => self.remember(attempt.trace),
        }
        self.drain_on();
        self.admit_held(stay, now);
    }

    /// B refused, or is gone: before consent that is the end, after it only R's word counts.
    pub(super) fn target_failed(&mut self, stay: Stay, now: Now, reason: &str, rng: &mut dyn rand_core::Rng) {
        let Some(attempt) = self.services.get_mut(&stay).and_then(|hosted| hosted.attempt.as_mut()) else { return };
        if attempt.source.has_consented() {
            attempt.deadline = attempt.deadline.min(now.mono);
        } else {
            self.give_up(stay, now, reason, rng);
        }
    }

    /// The migrate stream to `peer` could not be opened, or has ended.
    pub fn handle_peer_lost(&mut self, now: Now, peer: HostId, reason: &str, rng: &mut dyn rand_core::Rng) {
        let talking = |attempt: &Attempt| attempt.source.target() == peer && attempt.source.mig().is_some();
        while let Some(stay) = self.stay_where(|attempt| talking(attempt) && !attempt.source.has_consented()) {
            self.give_up(stay, now, reason, rng);
        }
        if let Some(stay) = self.stay_where(talking) {
            self.target_failed(stay, now, reason, rng);
        }
    }

    pub(super) fn service_timeout(&self, hosted: &Hosted) -> Instant {
        let lease = Self::lease_timeout(hosted);
        let attempt = hosted.attempt.as_ref().map(|attempt| match attempt.reclaiming {
            Some((_, retry)) => retry.at,
            None => attempt.deadline,
        });
        let serves = hosted.run == Run::Serving && !hosted.stopped && !hosted.lease.reported;
        let decides = hosted.attempt.is_none() && serves && self.draining.is_none();
        let place = if decides { hosted.placer.due_at() } else { Instant(u64::MAX) };
        lease.min(attempt.unwrap_or(Instant(u64::MAX))).min(place)
    }

    pub(super) fn attempt_timeout(&mut self, stay: Stay, now: Now, rng: &mut dyn rand_core::Rng) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(attempt) = &mut hosted.attempt else { return };
        let due = attempt.reclaiming.map_or(attempt.deadline, |(_, retry)| retry.at) <= now.mono;
        if !due {
            return;
        }
        if !attempt.source.has_consented() {
            self.give_up(stay, now, "the other side did not answer in time", rng);
            return;
        }
        if !G::keeps(Rule::ThawWhenAborted) {
            self.end_attempt(stay, now, "the registry did not answer in time");
            return;
        }
        match &mut attempt.reclaiming {
            Some((_, retry)) => retry.again(now.mono),
            None => {
                attempt.reclaiming = Some((now.mono, Retry::from(now.mono)));
                if let Some(mig) = attempt.source.mig() {
                    self.outbox.now(Effect::Event(Event::Undecided(stay.0, mig)));
                }
            }
        }
        if let Some(reclaim) = attempt.source.reclaim::<S>(&party!(self, hosted), rng) {
            self.outbox.now(Effect::ToRegistry(stay.0.registry, RegistryFrame::Reclaim(reclaim)));
        }
    }

    /// The identifiers of the attempt to move `service` away, if R has made one.
    pub fn attempt_of(&self, service: ServiceId) -> Option<MigrationIds> {
        self.services.iter().rev().find(|(stay, _)| stay.0 == service).and_then(|(_, hosted)| hosted.attempt_ids())
    }
}
