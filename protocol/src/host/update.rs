//! UPDATE: a service goes on under a new manifest, most often with new code.
//!
//! The module is fetched and compiled while the service goes on. Between two requests it then freezes, the old code writes
//! its state out, the new code takes it (or begins with none, if the owner said so), and the new instance is saved. Only
//! [`Entry::Updated`] on disk is the switch: before it, whatever fails is refused by name, and the old code goes on with
//! nothing lost; after it the new code runs, also after a crash. The client table stays in every case, so a request runs at
//! most once over an update. R's record follows: ORDER_DONE is repeated until it does, and no move begins before.

use super::{
    Effect, Entry, Event, Host,
    departures::Belongings,
    effect::{FetchJob, ImageId, UpdateJob},
    hosted::{Hosted, Run, Stay},
    orders::{Ordered, Standing},
};
use crate::{
    ids::Digest,
    limits::CONFIRM_AFTER,
    manifest::Manifest,
    order::{Action, Outcome},
    placement::Placer,
    reject::{Guards, Reject, ensure},
    suite::Suite,
    time::Now,
    trust::{Receiver, Verified},
};

/// How far an update is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// R has told of it; nothing was done.
    Told,
    /// The driver has the module come.
    Fetching(Verified<Manifest>),
    /// The code is at hand, compiled: as soon as the instance stands between two requests.
    Ready(Verified<Manifest>),
    /// The driver makes the new instance.
    HandingOver(Verified<Manifest>),
}

impl Hosted {
    /// Whether the instance gets no request because it is updated next.
    pub(super) fn is_about_to_update(&self) -> bool {
        let ready = self.order.as_ref().is_some_and(|standing| matches!(standing.stage, Stage::Ready(_)));
        let saving = self.disk.as_ref().is_some_and(|disk| disk.saving.is_some());
        ready && self.attempt.is_none() && !saving
    }

    /// The record does not follow an update yet: R is asked for it soon, and tells the order again until it has heard.
    pub(super) fn ask_soon_unless_confirmed(&mut self, now: Now) {
        if !self.is_confirmed() {
            self.lease.renew_at = self.lease.renew_at.min(now.mono + CONFIRM_AFTER);
        }
    }

    fn is_at(&self, order: Digest, at: impl Fn(&Stage) -> bool) -> bool {
        self.order.as_ref().is_some_and(|standing| standing.order.hash() == order && at(&standing.stage))
    }
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// The next step of an update of a service that serves.
    pub(super) fn update(&mut self, stay: Stay, now: Now) {
        let Some(standing) = self.services.get(&stay).and_then(|hosted| hosted.order.as_ref()) else { return };
        match &standing.stage {
            Stage::Told => match self.successor(stay, standing) {
                Ok(manifest) => self.fetch(stay, manifest),
                Err(reject) => self.refuse_order(stay, reject.name().to_owned()),
            },
            Stage::Ready(_) => self.hand_over(stay, now),
            Stage::Fetching(_) | Stage::HandingOver(_) => {}
        }
    }

    /// The new manifest, if this host may run it. What R has checked is checked here, too.
    fn successor(&self, stay: Stay, standing: &Standing) -> Result<Verified<Manifest>, Reject> {
        let hosted = self.services.get(&stay).ok_or(Reject::UnknownService)?;
        let Action::Update { manifest: digest, .. } = standing.action() else { return Err(Reject::UnexpectedMessage) };
        let (before, signed) = (&hosted.manifest, standing.frame.manifest.as_ref().ok_or(Reject::WrongManifest)?);
        ensure::<G>(signed.hash() == digest, Reject::WrongManifest)?;
        let after = signed.verify::<S, G>(&before.owner.0, stay.0.registry, Receiver::Anyone)?;
        after.check_successor::<G>(before)?;
        ensure::<G>(after.permits(&self.identity.certificate), Reject::PolicyForbids)?;
        ensure::<G>(self.free_without(Some(stay)).cover(&after.required), Reject::NoResources)?;
        Ok(after)
    }

    fn fetch(&mut self, stay: Stay, manifest: Verified<Manifest>) {
        let Some(standing) = self.services.get_mut(&stay).and_then(|hosted| hosted.order.as_mut()) else { return };
        let Action::Update { from, .. } = standing.action() else { return };
        let job = FetchJob {
            service: stay.0,
            epoch: stay.1,
            order: standing.order.hash(),
            code: manifest.code,
            memory_bytes: manifest.required.memory_bytes,
            from,
            addresses: standing.frame.addresses.clone(),
        };
        standing.stage = Stage::Fetching(manifest);
        self.outbox.now(Effect::Fetch(job));
    }

    /// The driver has the module of the update that `order` asked for, compiled and on disk; or cannot have it.
    pub fn handle_fetched(&mut self, now: Now, stay: Stay, order: Digest, result: Result<(), String>) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        if !hosted.is_at(order, |stage| matches!(stage, Stage::Fetching(_))) {
            return;
        }
        if let Err(reason) = result {
            self.refuse_order(stay, reason);
            return;
        }
        if let Some(standing) = &mut hosted.order
            && let Stage::Fetching(manifest) = &standing.stage
        {
            standing.stage = Stage::Ready(manifest.clone());
        }
        self.carry_out(stay, now);
    }

    /// Freezes the service between two requests, and has the new instance made.
    fn hand_over(&mut self, stay: Stay, now: Now) {
        let (service, epoch) = stay;
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        if hosted.running.is_some() || !hosted.is_about_to_update() {
            return;
        }
        let belongings = Belongings::pack(hosted, now);
        let Some(standing) = &mut hosted.order else { return };
        let (Action::Update { keep, .. }, Stage::Ready(manifest)) = (standing.order.action, &standing.stage) else {
            return;
        };
        let image = ImageId::Updated { service, epoch, sequence: standing.order.sequence };
        let job = UpdateJob {
            service,
            epoch,
            order: standing.order.hash(),
            code: manifest.code,
            memory_bytes: manifest.required.memory_bytes,
            keep,
            image: hosted.disk.is_some().then_some(image),
            belongings,
        };
        standing.stage = Stage::HandingOver(manifest.clone());
        hosted.run = Run::Updating;
        self.outbox.now(Effect::Update(job));
    }

    /// The driver has made the instance that `order` asked for, and saved it as `image` of so many bytes; or could not.
    pub fn handle_updated(
        &mut self,
        now: Now,
        stay: Stay,
        order: Digest,
        image: Option<ImageId>,
        result: Result<u64, String>,
    ) {
        let Some(hosted) = self.services.get_mut(&stay).filter(|hosted| {
            hosted.run == Run::Updating && hosted.is_at(order, |stage| matches!(stage, Stage::HandingOver(_)))
        }) else {
            // It has been removed or superseded meanwhile.
            image.into_iter().for_each(|image| self.outbox.now(Effect::DropImage(image)));
            return;
        };
        match result {
            Ok(bytes) => self.switch(stay, now, image, bytes),
            Err(reason) => {
                hosted.run = Run::Serving;
                self.refuse_order(stay, reason);
                self.drain_on();
                self.admit_held(stay, now);
            }
        }
    }

    /// The switch: behind the entry, the new instance is the service.
    fn switch(&mut self, stay: Stay, now: Now, image: Option<ImageId>, image_bytes: u64) {
        let (service, epoch) = stay;
        let min = self.config.image_log_bytes;
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Some(Standing { order, stage: Stage::HandingOver(manifest), .. }) = hosted.order.take() else { return };
        let memory = hosted.placer.memory(now);
        hosted.placer =
            Placer::new(self.config.placement, manifest.required, manifest.max_rtt).with_memory(now, &memory);
        // What travelled here with the service may be all that says so, and belongs to the image that is replaced.
        let stopped =
            hosted.stopped.then_some(Entry::Ordered { service, epoch, ordered: hosted.ordered, stopped: true });
        hosted.ordered = Ordered { sequence: order.sequence, order: order.hash() };
        hosted.manifest = manifest;
        let mut before = None;
        if let Some(disk) = &mut hosted.disk {
            before = disk.image.take();
            (disk.image, disk.covered, disk.log_bytes) = (image, disk.last, 0);
            disk.next_image_at = min.max(image_bytes);
        }
        let entry = Entry::Updated {
            service,
            epoch,
            manifest: hosted.manifest.signed().clone(),
            ordered: hosted.ordered,
            image: image.map(|_| order.sequence),
            upto: hosted.disk.as_ref().map_or(0, |disk| disk.last),
        };
        hosted.ask_soon_unless_confirmed(now);
        if let Some(entry) = stopped {
            self.outbox.persist(|seq| Effect::Persist { seq, entry });
        }
        self.outbox.persist(|seq| Effect::Persist { seq, entry });
        self.outbox.promise(Effect::Switch { service, epoch });
        if let Some(before) = before {
            self.outbox.promise(Effect::DropImage(before));
        }
        self.outbox.now(Effect::Event(Event::Ordered(service, order.action)));
        self.report(stay, order.hash(), Outcome::Done);
        // What is free has changed.
        self.advertise_at = crate::time::Instant::default();
    }
}
