//! What the owner of a service ordered, carried out: STOP, START, REMOVE; UPDATE in `update`.
//!
//! The Registry tells the standing order until it hears what became of it, so nothing is repeated here: an order that comes
//! again is answered again. Whether the service is stopped, and which order was carried out last, is part of what travels
//! with it. A removal comes as a [`Tombstone`], and ends whatever is here of the service up to its epoch.

use serde::{Deserialize, Serialize};

use super::{
    Effect, Entry, Event, Host,
    effect::ImageId,
    hosted::{Hosted, Run, Stay},
    update::Stage,
};
use crate::{
    gateway::messages::{ClientFrame, Gone},
    ids::{Digest, MigrationId, ServiceId},
    limits::REMOVED_MAX,
    manifest::Durability,
    migration::{messages::RegistryFrame, trace::Ending},
    order::{Action, Order, OrderDone, OrderFrame, Outcome, Tombstone},
    reject::{Guards, Reject, Rule},
    suite::Suite,
    time::Now,
    trust::{Receiver, Signed, Verified},
};

/// The last order that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ordered {
    /// Its sequence: an order that is not above is not carried out.
    pub sequence: u64,
    /// Its hash.
    pub order: Digest,
}

impl Default for Ordered {
    fn default() -> Self {
        Self { sequence: 0, order: Digest([0; 32]) }
    }
}

/// An order that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    pub(super) frame: OrderFrame,
    pub(super) order: Verified<Order>,
    /// How far an update is.
    pub(super) stage: Stage,
}

impl Standing {
    /// What is to be done.
    pub fn action(&self) -> Action {
        self.order.action
    }
}

impl Hosted {
    /// Whether no request is taken on any more: those taken on before are answered, then the service is stopped.
    pub fn is_closed<G: Guards>(&self) -> bool {
        let stops = self.order.as_ref().is_some_and(|standing| standing.action() == Action::Stop);
        (self.stopped || stops) && G::keeps(Rule::StoppedIsStill)
    }
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// ORDER, from R: the owner's signature is checked here, too.
    pub(super) fn handle_order(&mut self, now: Now, frame: &OrderFrame) -> Result<(), Reject> {
        let claim = frame.order.unverified()?;
        let (service, hash) = (claim.service, frame.order.hash());
        let stay = self.current(service).ok_or(Reject::UnknownService)?;
        let hosted = self.services.get_mut(&stay).ok_or(Reject::UnknownService)?;
        let receiver = Receiver::Registry(service.registry);
        let order = frame.order.verify::<S, G>(&hosted.manifest.owner.0, service.registry, receiver)?;
        if hosted.ordered.order == hash {
            self.report(stay, hash, Outcome::Done);
        } else if order.sequence <= hosted.ordered.sequence {
            // A Registry that was restored from a backup does not know what came after it.
            self.report(stay, hash, Outcome::refused(Reject::OldCounter.name().to_owned()));
        } else if hosted.run != Run::Updating
            && hosted.order.as_ref().is_none_or(|standing| standing.order.hash() != hash)
        {
            hosted.order = Some(Standing { frame: frame.clone(), order, stage: Stage::Told });
            self.carry_out(stay, now);
        }
        Ok(())
    }

    /// Does what is ordered, as soon as the instance stands between two requests and is not on its way elsewhere: who has
    /// it next is told by R.
    pub(super) fn carry_out(&mut self, stay: Stay, now: Now) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(standing) = &hosted.order else { return };
        match hosted.run {
            Run::Serving => {}
            Run::Broken | Run::Lost => {
                self.refuse_order(stay, Reject::Broken.name().to_owned());
                return;
            }
            Run::Starting
            | Run::Freezing
            | Run::Frozen
            | Run::Resuming
            | Run::Restoring
            | Run::Updating
            | Run::Sealed => return,
        }
        match standing.action() {
            Action::Stop if hosted.running.is_some() || !hosted.queue.is_empty() => {}
            Action::Stop => self.set_stopped(stay, true),
            Action::Start => self.set_stopped(stay, false),
            // A removal comes as a tombstone.
            Action::Remove => hosted.order = None,
            Action::Update { .. } => self.update(stay, now),
        }
    }

    /// The standing order cannot be carried out: nothing has changed, and R hears why.
    pub(super) fn refuse_order(&mut self, stay: Stay, reason: String) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(Standing { order, .. }) = hosted.order.take() else { return };
        self.outbox.now(Effect::Event(Event::OrderRefused(stay.0, order.action, reason.clone())));
        self.report(stay, order.hash(), Outcome::refused(reason));
    }

    fn set_stopped(&mut self, stay: Stay, stopped: bool) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(Standing { order, .. }) = hosted.order.take() else { return };
        hosted.stopped = stopped;
        hosted.ordered = Ordered { sequence: order.sequence, order: order.hash() };
        let ((service, epoch), ordered) = (stay, hosted.ordered);
        self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Ordered { service, epoch, ordered, stopped } });
        self.outbox.now(Effect::Event(Event::Ordered(service, order.action)));
        self.report(stay, ordered.order, Outcome::Done);
    }

    /// ORDER_DONE, behind what it promises.
    pub(super) fn report(&mut self, stay: Stay, order: Digest, outcome: Outcome) {
        let Some(hosted) = self.services.get(&stay) else { return };
        let done = Self::done(hosted, order, outcome);
        self.outbox.promise(Effect::ToRegistry(stay.0.registry, RegistryFrame::OrderDone(done)));
    }

    fn done(hosted: &Hosted, order: Digest, outcome: Outcome) -> Signed<OrderDone> {
        let registry = hosted.placement.service.registry;
        let done = OrderDone { ids: hosted.placement.ids(), order, outcome };
        Signed::sign::<S>(&hosted.secret, registry, Receiver::Registry(registry), &done)
    }

    /// The owner has removed a service, says R: all that is here of it up to that epoch goes.
    pub(super) fn handle_removed(&mut self, now: Now, signed: &Signed<Tombstone>) -> Result<(), Reject> {
        let service = signed.unverified()?.service;
        let tombstone = self.bundle.verify::<S, G, Tombstone>(signed, service.registry, Receiver::Anyone)?;
        let stays: Vec<Stay> =
            self.services.keys().filter(|stay| stay.0 == service && stay.1 <= tombstone.epoch).copied().collect();
        let ended = |ids: crate::ids::MigrationIds| ids.service == service && ids.epoch <= tombstone.epoch;
        let migs: Vec<MigrationId> =
            self.arrivals.iter().filter(|(_, arrival)| ended(arrival.target.ids())).map(|(mig, _)| *mig).collect();
        if stays.is_empty() && migs.is_empty() {
            return Ok(());
        }
        self.outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Removed { tombstone: signed.clone() } });
        for mig in migs {
            self.remove_arrival(mig);
        }
        for stay in stays {
            self.remove_stay(stay, now, tombstone.order);
        }
        self.remember_removed(&tombstone, signed.clone());
        self.outbox.now(Effect::Event(Event::Removed(service)));
        self.advertise_at = crate::time::Instant::default();
        Ok(())
    }

    fn remove_stay(&mut self, stay: Stay, now: Now, order: Digest) {
        let Some(mut hosted) = self.services.remove(&stay) else { return };
        let (service, epoch) = stay;
        self.outbox.promise(Effect::DiscardInstance { service, epoch });
        if let Some(disk) = &hosted.disk {
            if let Some(image) = disk.image {
                self.outbox.promise(Effect::DropImage(image));
            }
            self.purge(now);
        }
        let done = Self::done(&hosted, order, Outcome::Done);
        self.outbox.promise(Effect::ToRegistry(service.registry, RegistryFrame::OrderDone(done)));
        if let Some(mut attempt) = hosted.attempt.take() {
            attempt.trace.ending = Ending::Failed("its owner removed the service".to_owned());
            match attempt.source.mig() {
                Some(mig) => self.finish(mig, attempt.trace),
                None => self.remember(attempt.trace),
            }
        }
        // They ask R, which knows no such service any more.
        for (gateway, link) in &self.links {
            if hosted.sessions.is_open(link.client) {
                self.outbox.promise(Effect::ToGateway(*gateway, ClientFrame::Gone(Gone { service })));
            }
        }
    }

    fn remove_arrival(&mut self, mig: MigrationId) {
        let Some(mut arrival) = self.arrivals.remove(&mig) else { return };
        self.outbox.promise(Effect::DiscardIncoming { mig });
        if arrival.target.manifest().durability == Durability::Log {
            self.outbox.promise(Effect::DropImage(ImageId::Held(mig)));
        }
        arrival.trace.ending = Ending::Failed("its owner removed the service".to_owned());
        self.finish(mig, arrival.trace);
    }

    /// Remembers it instead of the one that was removed first if there are too many.
    pub(super) fn remember_removed(&mut self, tombstone: &Tombstone, signed: Signed<Tombstone>) {
        let (service, epoch) = (tombstone.service, tombstone.epoch);
        let left = |placement: &Signed<crate::migration::messages::Placement>| {
            placement.unverified().is_ok_and(|placement| placement.epoch <= epoch)
        };
        self.departed.retain(|departed| departed.service != service || !left(&departed.placement));
        self.removed.retain(|(removed, _)| *removed != service);
        if self.removed.len() >= REMOVED_MAX {
            self.removed.pop_front();
        }
        self.removed.push_back((service, signed));
    }

    /// Whether a service that is here is stopped by its owner.
    pub fn is_stopped(&self, service: ServiceId) -> bool {
        self.current(service).and_then(|stay| self.services.get(&stay)).is_some_and(|hosted| hosted.stopped)
    }
}
