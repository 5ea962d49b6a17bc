//! Keeping placements alive: registration of new services, renewal of leases, what a Registry answers to both.

use std::collections::VecDeque;

use super::{
    Effect, Entry, Event, Host,
    effect::ImageId,
    hosted::{Disk, Hosted, LeaseClock, Renewal, Retry, Run, Stay},
    orders::Ordered,
};
use crate::{
    gateway::messages::ClientFrame,
    ids::{Digest, Epoch, Nonce, PlacementKey, ServiceId},
    limits::SERVICES_MAX,
    manifest::{Durability, Manifest},
    migration::messages::{Answer, Decision, Granted, Placement, Register, RegisterFrame, RegistryFrame, Renew},
    migration::trace::Ending,
    placement::Placer,
    reject::{Guards, Reject, Rule, ensure},
    session::Sessions,
    suite::{Secret, Suite, fresh_secret, fresh16},
    time::{Instant, Now, Timestamp},
    trust::{Receiver, Signed, Verified},
};

/// A new service whose registration is out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Registering {
    pub(super) frame: RegisterFrame,
    pub(super) manifest: Verified<Manifest>,
    pub(super) secret: Secret,
    pub(super) first_sent: Instant,
    pub(super) retry: Retry,
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// Registers a new service and starts it here. Its module must be at hand.
    ///
    /// # Errors
    /// A named rejection; nothing was sent.
    pub fn deploy(
        &mut self,
        now: Now,
        manifest: &Signed<Manifest>,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<ServiceId, Reject> {
        let registry = self.identity.registry;
        let owner = manifest.unverified()?.owner;
        let manifest = manifest.verify::<S, G>(&owner.0, registry, Receiver::Anyone)?;
        manifest.check()?;
        let service = manifest.service;
        if service.registry != registry {
            return Err(Reject::UnknownRegistry);
        }
        if !self.modules.contains(&manifest.code) {
            return Err(Reject::WrongCode);
        }
        if !manifest.permits(&self.identity.certificate) {
            return Err(Reject::PolicyForbids);
        }
        if self.draining.is_some() {
            return Err(Reject::Cordoned);
        }
        if self.full || !self.free().cover(&manifest.required) {
            return Err(Reject::NoResources);
        }
        if self.services.len() + self.registering.len() >= SERVICES_MAX {
            return Err(Reject::Full);
        }
        if self.current(service).is_some() || self.registering.contains_key(&service) {
            return Err(Reject::Conflict);
        }
        let secret = fresh_secret(rng);
        let register = Register {
            service,
            manifest: manifest.hash(),
            key: PlacementKey(S::public_key(&secret)),
            host: self.me(),
            nonce: Nonce(fresh16(rng)),
        };
        let register = Signed::sign::<S>(&secret, registry, Receiver::Registry(registry), &register);
        let frame = RegisterFrame { register, manifest: manifest.signed().clone(), addresses: self.addresses.clone() };
        let entry = Entry::Registering { frame: frame.clone(), secret: secret.clone() };
        self.outbox.persist(|seq| Effect::Persist { seq, entry });
        self.outbox.promise(Effect::ToRegistry(registry, RegistryFrame::Register(frame.clone())));
        let retry = Retry::from(now.mono);
        self.registering.insert(service, Registering { frame, manifest, secret, first_sent: now.mono, retry });
        Ok(service)
    }

    pub(super) fn repeat_registrations(&mut self, now: Now) {
        for (service, pending) in &mut self.registering {
            if pending.retry.at <= now.mono {
                pending.retry.again(now.mono);
                let frame = RegistryFrame::Register(pending.frame.clone());
                self.outbox.now(Effect::ToRegistry(service.registry, frame));
            }
        }
    }

    pub(super) fn renew_if_due(&mut self, stay: Stay, now: Now, rng: &mut dyn rand_core::Rng) {
        let Some(hosted) = self.services.get_mut(&stay).filter(|hosted| hosted.keeps_lease()) else { return };
        let registry = stay.0.registry;
        if now.mono >= hosted.lease.until && !hosted.lease.reported {
            hosted.lease.reported = true;
            self.outbox.now(Effect::Event(Event::LeaseEnded(stay.0)));
        }
        let renewal = match &mut hosted.lease.renewal {
            Some(renewal) if renewal.retry.at <= now.mono => {
                renewal.retry.again(now.mono);
                renewal
            }
            None if hosted.lease.renew_at <= now.mono => {
                let renew = Renew { ids: hosted.placement.ids(), nonce: Nonce(fresh16(rng)) };
                let signed = Signed::sign::<S>(&hosted.secret, registry, Receiver::Registry(registry), &renew);
                let retry = Retry::from(now.mono);
                hosted.lease.renewal.insert(Renewal { signed, first_sent: now.mono, retry })
            }
            Some(_) | None => return,
        };
        self.outbox.now(Effect::ToRegistry(registry, RegistryFrame::Renew(renewal.signed.clone())));
    }

    /// When a lease wants attention.
    pub(super) fn lease_timeout(hosted: &Hosted) -> Instant {
        if !hosted.keeps_lease() {
            return Instant(u64::MAX);
        }
        let ask = hosted.lease.renewal.as_ref().map_or(hosted.lease.renew_at, |renewal| renewal.retry.at);
        if hosted.lease.reported { ask } else { ask.min(hosted.lease.until) }
    }

    /// R's answer to a REGISTER or RENEW that is out, or news that a placement was superseded.
    pub(super) fn handle_lease(&mut self, now: Now, granted: &Granted) -> Result<(), Reject> {
        let claim = granted.placement.unverified()?;
        let placement =
            self.bundle.verify::<S, G, Placement>(&granted.placement, claim.service.registry, Receiver::Anyone)?;
        let (answers, named, decision) = match &granted.answer {
            Answer::Lease(signed) => {
                let lease = self.registry_says(signed, claim.service)?;
                (lease.answers, lease.placement, None)
            }
            Answer::Aborted(signed) => {
                let aborted = self.registry_says(signed, claim.service)?;
                (aborted.answers, aborted.placement, Some(Decision::Aborted))
            }
            Answer::Outcome(signed) => {
                let outcome = self.registry_says(signed, claim.service)?;
                (outcome.answers, outcome.placement, Some(outcome.decision))
            }
        };
        ensure::<G>(named == placement.hash(), Reject::WrongHash)?;
        match decision {
            None if self.registering.contains_key(&claim.service) => self.registered(now, &placement, answers),
            None => self.renewed(now, placement, answers),
            Some(Decision::Won) => {
                self.superseded(&placement, answers);
                Ok(())
            }
            // The answer to a CANCEL whose attempt is already forgotten: the service was never stopped.
            Some(Decision::Aborted) => Ok(()),
        }
    }

    fn registry_says<T: crate::trust::Message>(
        &self,
        signed: &Signed<T>,
        service: ServiceId,
    ) -> Result<Verified<T>, Reject> {
        self.bundle.verify::<S, G, T>(signed, service.registry, Receiver::Host(self.me()))
    }

    fn registered(&mut self, now: Now, placement: &Verified<Placement>, answers: Digest) -> Result<(), Reject> {
        let me = self.me();
        let Some(pending) = self.registering.get(&placement.service) else { return Err(Reject::UnexpectedMessage) };
        ensure::<G>(answers == pending.frame.register.hash(), Reject::WrongHash)?;
        let here = placement.host == me && placement.cloud == self.identity.certificate.cloud;
        ensure::<G>(here && placement.previous == me, Reject::WrongCloud)?;
        ensure::<G>(placement.key.0 == S::public_key(&pending.secret), Reject::WrongPlacementKey)?;
        ensure::<G>(placement.manifest == pending.manifest.hash(), Reject::WrongManifest)?;
        let Some(pending) = self.registering.remove(&placement.service) else { return Ok(()) };
        let lease = LeaseClock::granted(pending.first_sent, placement.lease);
        let manifest = &pending.manifest;
        let placer = Placer::new(self.config.placement, manifest.required, manifest.max_rtt);
        let sessions = Sessions::default();
        self.place(placement.clone(), pending.manifest, pending.secret, lease, sessions, placer, false, now.wall);
        let (service, epoch) = (placement.service, placement.epoch);
        if let Some(hosted) = self.services.get(&(service, epoch)) {
            let (code, memory_bytes) = (hosted.manifest.code, hosted.manifest.required.memory_bytes);
            self.outbox.promise(Effect::Start { service, epoch, code, memory_bytes });
        }
        Ok(())
    }

    /// Takes a placement over: journaled before anything is served under it.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the new entry, none has a default")]
    pub(super) fn place(
        &mut self,
        placement: Verified<Placement>,
        manifest: Verified<Manifest>,
        secret: Secret,
        lease: LeaseClock,
        sessions: Sessions,
        placer: Placer,
        received: bool,
        since: Timestamp,
    ) {
        let entry = Entry::Placed {
            placement: placement.signed().clone(),
            manifest: manifest.signed().clone(),
            secret: secret.clone(),
            received,
        };
        self.outbox.persist(|seq| Effect::Persist { seq, entry });
        self.returns(placement.service);
        let image = received.then_some(ImageId::Held(placement.mig));
        let durable = manifest.durability == Durability::Log;
        let disk = durable.then(|| Disk::new(image, self.config.image_log_bytes));
        let hosted = Hosted {
            placement,
            manifest,
            secret,
            run: Run::Starting,
            lease,
            sessions,
            placer,
            running: None,
            queue: VecDeque::new(),
            served: None,
            held: VecDeque::new(),
            attempt: None,
            counter: 0,
            since,
            disk,
            stopped: false,
            ordered: Ordered::default(),
            order: None,
            arriving_since: None,
        };
        self.services.insert(hosted.stay(), hosted);
        // What is free has changed.
        self.advertise_at = Instant::default();
    }

    fn renewed(&mut self, now: Now, placement: Verified<Placement>, answers: Digest) -> Result<(), Reject> {
        let stay = (placement.service, placement.epoch);
        let hosted = self.services.get_mut(&stay).ok_or(Reject::UnknownService)?;
        let Some(renewal) = &hosted.lease.renewal else { return Ok(()) };
        ensure::<G>(answers == renewal.signed.hash(), Reject::WrongHash)?;
        ensure::<G>(placement.ids() == hosted.placement.ids(), Reject::WrongMigration)?;
        ensure::<G>(placement.key == hosted.placement.key, Reject::WrongPlacementKey)?;
        ensure::<G>(placement.previous == hosted.placement.previous, Reject::WrongCloud)?;
        // The record follows an update once R has heard of it, and does not go back.
        let follows = placement.manifest == hosted.placement.manifest || placement.manifest == hosted.manifest.hash();
        ensure::<G>(follows, Reject::WrongManifest)?;
        hosted.lease = LeaseClock::granted(renewal.first_sent, placement.lease);
        let signed = placement.signed().clone();
        hosted.placement = placement;
        hosted.ask_soon_unless_confirmed(now);
        if hosted.keeps_lease() {
            for (gateway, link) in &self.links {
                if hosted.sessions.is_open(link.client) {
                    self.outbox.now(Effect::ToGateway(*gateway, ClientFrame::Placement(signed.clone())));
                }
            }
        }
        self.pump(stay, now);
        Ok(())
    }

    /// Rule 6 of PROTOCOL 4: superseded without consent. The state is kept, sealed; only people decide what becomes of it.
    fn superseded(&mut self, placement: &Verified<Placement>, answers: Digest) {
        let asked =
            |hosted: &Hosted| hosted.lease.renewal.as_ref().is_some_and(|renewal| renewal.signed.hash() == answers);
        let older = |stay: &Stay| stay.0 == placement.service && stay.1 < placement.epoch;
        let Some((stay, _)) =
            self.services.iter().find(|(stay, hosted)| older(stay) && hosted.keeps_lease() && asked(hosted))
        else {
            return;
        };
        let stay = *stay;
        self.seal(stay, placement);
    }

    /// Stops serving, keeps the state, tells people.
    pub(super) fn seal(&mut self, stay: Stay, placement: &Verified<Placement>) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let (service, epoch) = stay;
        hosted.run = Run::Sealed;
        hosted.lease.renewal = None;
        hosted.queue.clear();
        hosted.held.clear();
        if let Some(mut attempt) = hosted.attempt.take() {
            attempt.trace.ending = Ending::Failed("superseded without consent".to_owned());
            match attempt.source.mig() {
                Some(mig) => self.finish(mig, attempt.trace),
                None => self.remember(attempt.trace),
            }
        }
        let by = placement.signed().clone();
        self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Sealed { service, epoch, by } });
        self.outbox.now(Effect::Event(Event::Superseded(service, epoch)));
        self.departs(service, placement.signed().clone());
        if !G::keeps(Rule::SealSuperseded) {
            self.services.remove(&stay);
            self.outbox.promise(Effect::DiscardInstance { service, epoch });
        }
        self.tell_moved(placement);
    }

    /// R refused something by hash. Nothing changed there; what waited for it ends or goes on waiting.
    pub(super) fn handle_refused(&mut self, now: Now, about: Digest, reason: &str, rng: &mut dyn rand_core::Rng) {
        let refused = self.registering.iter().find(|(_, pending)| pending.frame.register.hash() == about);
        if let Some(service) = refused.map(|(service, _)| *service) {
            self.registering.remove(&service);
            let entry = Entry::Forgotten { service, epoch: Epoch::FIRST };
            self.outbox.persist(|seq| Effect::Persist { seq, entry });
            self.outbox.now(Effect::Event(Event::DeployFailed(service, reason.to_owned())));
            return;
        }
        let asked = |hosted: &Hosted| hosted.attempt.as_ref().is_some_and(|attempt| attempt.asked == about);
        if let Some(stay) = self.services.iter().find(|(_, hosted)| asked(hosted)).map(|(stay, _)| *stay) {
            self.give_up(stay, now, &format!("registry refused: {reason}"), rng);
        }
    }

    /// Why a registration is not decided yet, by service.
    pub fn registering(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.registering.keys().copied()
    }
}
