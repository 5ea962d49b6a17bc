//! What owners order: taken, kept as the service's standing order until its host has carried it out, or refused by name.
//!
//! **Why a removal is safe.** The tombstone takes the place of the record in one commit: from then on nobody gets a lease
//! or a decision for an epoch up to its own, only the tombstone. The name is free when the last lease has ended, or its
//! holder has said that the service is deleted; what is registered then begins behind the last epoch.

use super::{
    AbortCause, Call, Event, LeaseState, Refusal, Registry,
    records::{ManifestRecord, OrderRecord, ServiceRecord, TombstoneRecord},
};
use crate::{
    ids::{Digest, Epoch, HostId, ServiceId},
    limits::{CLOCK_SKEW, ORDER_LIFETIME_MAX, REMOVED_ERA_GAP},
    manifest::Manifest,
    migration::{
        messages::{Placement, RegistryFrame},
        source::check_ids,
    },
    order::{Action, Order, OrderDone, OrderFrame, OrderState, Outcome, Tombstone},
    reject::{Guards, Reject, Rule, ensure},
    suite::Suite,
    time::{Now, Timestamp},
    trust::{Receiver, Signed, Verified},
};

/// A standing order, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderView {
    /// Whether the service is stopped, as far as its host has reported.
    pub stopped: bool,
    /// The word for the action that is not carried out yet, if there is one.
    pub standing: Option<&'static str>,
}

impl<S: Suite, G: Guards> Registry<S, G> {
    /// ORDER, from the owner by way of any node; or the question, in the same bytes, what became of it.
    pub(super) fn order(&mut self, call: &Call<'_>, frame: &OrderFrame) -> Result<(), Refusal> {
        ensure::<G>(frame.fits(), Reject::FieldTooLong)?;
        let claim = frame.order.unverified()?;
        let (service, hash) = (claim.service, frame.order.hash());
        ensure::<G>(service.registry == self.id(), Reject::UnknownRegistry)?;
        ensure::<G>(!self.is_revoked(call.peer), Reject::Revoked)?;
        if let Some(outcome) = self.outcome_of(call.now, service, hash) {
            self.reply(call.peer, RegistryFrame::OrderState(OrderState { order: hash, outcome }));
            return Ok(());
        }
        let buried = self.tables.tombstones.get(service).is_some();
        let Some(record) = self.tables.services.get(service).cloned() else {
            return Err(if buried { Reject::Removed } else { Reject::UnknownService }.into());
        };
        let manifest = self.manifest(service)?;
        let order = frame.order.verify::<S, G>(&manifest.owner.0, self.id(), self.me());
        // The owner's mistake, and not that of the node that passes it on.
        let order = order.map_err(|reject| if reject == Reject::BadSignature { Reject::WrongOwner } else { reject })?;
        self.check_order(call.now, &order)?;
        match order.action {
            Action::Remove => self.remove(call.now, record, &order, manifest.version)?,
            Action::Stop | Action::Start => self.stand(frame, &order),
            Action::Update { manifest: digest, .. } => {
                self.check_update(&record, &manifest, frame, digest)?;
                self.stand(frame, &order);
            }
        }
        self.event(Event::Ordered { service, action: order.action.name(), by: call.peer });
        let outcome = self.outcome_of(call.now, service, hash).flatten();
        self.reply(call.peer, RegistryFrame::OrderState(OrderState { order: hash, outcome }));
        self.tell_order(service);
        Ok(())
    }

    /// What became of the order with this hash, if it is the newest.
    fn outcome_of(&self, now: Now, service: ServiceId, hash: Digest) -> Option<Option<Outcome>> {
        if let Some(row) = self.tables.orders.get(service).filter(|row| row.frame.order.hash() == hash) {
            return Some(row.outcome.clone());
        }
        let row = self.tables.tombstones.get(service).filter(|row| row.tombstone.order == hash)?;
        Some(self.is_over(now, row).then_some(Outcome::Done))
    }

    fn check_order(&self, now: Now, order: &Verified<Order>) -> Result<(), Reject> {
        ensure::<G>(now.wall <= order.expiry + CLOCK_SKEW, Reject::Expired)?;
        ensure::<G>(order.expiry <= now.wall + ORDER_LIFETIME_MAX + CLOCK_SKEW, Reject::NotYetValid)?;
        let standing = self.tables.orders.get(order.service);
        let buried = self.tables.tombstones.get(order.service).map(|row| row.sequence);
        let last = standing.map(|row| row.sequence).max(buried);
        ensure::<G>(last.is_none_or(|last| order.sequence > last), Reject::OldCounter)?;
        // What the host makes of an update must be known before anything else is asked of it: it changes the record.
        let updating =
            standing.is_some_and(|row| row.outcome.is_none() && matches!(row.action(), Ok(Action::Update { .. })));
        ensure::<G>(!updating || order.action == Action::Remove, Reject::Conflict)
    }

    fn check_update(
        &self,
        record: &ServiceRecord,
        before: &Manifest,
        frame: &OrderFrame,
        digest: Digest,
    ) -> Result<(), Reject> {
        let signed = frame.manifest.as_ref().ok_or(Reject::WrongManifest)?;
        ensure::<G>(signed.hash() == digest, Reject::WrongManifest)?;
        let manifest = signed.verify::<S, G>(&before.owner.0, self.id(), Receiver::Anyone);
        let manifest = manifest.map_err(|_| Reject::WrongManifest)?;
        self.check_successor(record.placement.host, before, &manifest)
    }

    /// Whether `after` may take the place of `before` on `host`.
    fn check_successor(&self, host: HostId, before: &Manifest, after: &Manifest) -> Result<(), Reject> {
        after.check_successor::<G>(before)?;
        let certificate = &self.tables.hosts.get(host).ok_or(Reject::NotEnrolled)?.certificate;
        ensure::<G>(after.permits(certificate), Reject::PolicyForbids)
    }

    /// Makes it the service's standing order.
    fn stand(&mut self, frame: &OrderFrame, order: &Verified<Order>) {
        let (service, sequence) = (order.service, order.sequence);
        let stopped = self.tables.orders.get(service).is_some_and(|row| row.stopped);
        self.tables.put_order(OrderRecord { service, frame: frame.clone(), sequence, outcome: None, stopped });
    }

    /// Tells the host of record the standing order, unless it has reported what became of it.
    pub(super) fn tell_order(&mut self, service: ServiceId) {
        let Some(row) = self.tables.orders.get(service).filter(|row| row.outcome.is_none()) else { return };
        let frame = RegistryFrame::Order(row.frame.clone());
        if let Some(host) = self.tables.services.get(service).map(|record| record.placement.host) {
            self.reply(host, frame);
        }
    }

    fn remove(&mut self, now: Now, record: ServiceRecord, order: &Verified<Order>, version: u32) -> Result<(), Reject> {
        let placement = record.placement;
        let (service, mut epoch) = (placement.service, placement.epoch);
        // How often it has moved since the backup nobody knows. Its leases have ended: see `check_suspended`.
        let unknown = self.is_suspended(service);
        if unknown {
            epoch = Epoch { era: epoch.era.saturating_add(REMOVED_ERA_GAP), hop: 0 };
        }
        let tombstone = Tombstone { service, epoch, version, order: order.hash(), at: now.wall };
        let target = record.live.and_then(|mig| self.tables.migrations.get(mig)).map(|migration| migration.ids.host);
        if let Some(live) = record.live {
            self.abort(live, AbortCause::Removed);
        }
        let host = placement.host;
        let signed = self.sign(Receiver::Anyone, &tombstone);
        self.bury(signed.clone(), tombstone, Some(placement), order.sequence, unknown)?;
        for to in [Some(host), target].into_iter().flatten() {
            self.reply(to, RegistryFrame::Removed(signed.clone()));
        }
        Ok(())
    }

    pub(super) fn bury(
        &mut self,
        signed: Signed<Tombstone>,
        tombstone: Tombstone,
        placement: Option<Placement>,
        sequence: u64,
        reported: bool,
    ) -> Result<(), Reject> {
        let service = tombstone.service;
        let name = self.tables.manifests.get(service).map(|row| row.name.clone()).unwrap_or_default();
        let host = placement.as_ref().map(|placement| placement.host);
        self.tables.bury(TombstoneRecord { service, signed, tombstone, name, sequence, placement, reported });
        if reported {
            self.leases.remove(&service);
        }
        self.forget_suspended(service);
        self.event(Event::Removed { service, host });
        Ok(())
    }

    /// Whether nobody can serve a removed service any more: its name is free.
    pub(super) fn is_over(&self, now: Now, row: &TombstoneRecord) -> bool {
        // What was registered since has a lease of its own.
        let ours = self.tables.services.get(row.service).is_none();
        let until = self.leases.get(&row.service).filter(|_| ours).map(|lease| lease.until);
        row.reported || until.is_none_or(|until| until <= now.mono) || !G::keeps(Rule::LeaseBeforeName)
    }

    /// Whether `service` may be registered under this name: nobody serves one that had it, and the manifest is newer than
    /// that of a service which it follows. Returns the epoch that it begins with.
    pub(super) fn check_name(&self, now: Now, manifest: &Manifest) -> Result<Epoch, Reject> {
        ensure::<G>(self.tables.named(&manifest.name).is_none(), Reject::NameTaken)?;
        let mut named = self.tables.tombstones.iter().filter(|row| row.name == manifest.name);
        ensure::<G>(named.all(|row| self.is_over(now, row)), Reject::NotFree)?;
        let Some(before) = self.tables.tombstones.get(manifest.service) else { return Ok(Epoch::FIRST) };
        ensure::<G>(self.is_over(now, before), Reject::NotFree)?;
        ensure::<G>(manifest.version > before.tombstone.version, Reject::Removed)?;
        Ok(before.tombstone.epoch.next_era())
    }

    /// A message about an epoch that ended with the service: its sender is shown the tombstone.
    pub(super) fn check_removed(&self, frame: &RegistryFrame) -> Result<(), Refusal> {
        let (service, epoch) = match frame {
            RegistryFrame::VerifyCloud(frame) => {
                let request = frame.request.unverified()?;
                (request.service, request.epoch)
            }
            RegistryFrame::VerifyService(signed) => of(signed.unverified()?.ids),
            RegistryFrame::Complete(frame) => of(frame.complete.unverified()?.ids),
            RegistryFrame::Renew(signed) => of(signed.unverified()?.ids),
            RegistryFrame::Reclaim(signed) => of(signed.unverified()?.ids),
            RegistryFrame::Cancel(signed) => of(signed.unverified()?.ids),
            _ => return Ok(()),
        };
        let buried = self.tables.tombstones.get(service).filter(|row| epoch <= row.tombstone.epoch);
        match buried {
            Some(row) => Err(Refusal::answered(Reject::Removed, RegistryFrame::Removed(row.signed.clone()))),
            None => Ok(()),
        }
    }

    /// What became of the standing order, by the host of record.
    pub(super) fn order_done(&mut self, call: &Call<'_>, signed: &Signed<OrderDone>) -> Result<(), Refusal> {
        let claim = signed.unverified()?;
        let service = claim.ids.service;
        ensure::<G>(service.registry == self.id(), Reject::UnknownRegistry)?;
        ensure::<G>(claim.outcome.fits(), Reject::FieldTooLong)?;
        let buried = self.tables.tombstones.get(service).filter(|row| claim.ids.epoch <= row.tombstone.epoch);
        if let Some(row) = buried.cloned() {
            return self.removal_done(call, signed, row);
        }
        let record = self.service(service)?.clone();
        let done = self.of_record(call, signed, &record.placement)?;
        let row = self.tables.orders.get(service).filter(|row| row.frame.order.hash() == done.order);
        let row = row.cloned().ok_or(Reject::Conflict)?;
        // A host that crashed may have tried again, and succeeded: what it serves by now is what counts.
        if row.outcome.is_some() && (row.outcome == Some(Outcome::Done) || done.outcome != Outcome::Done) {
            return Ok(());
        }
        let action = row.action()?;
        let mut stopped = row.stopped;
        if done.outcome == Outcome::Done {
            match action {
                Action::Stop => stopped = true,
                Action::Start => stopped = false,
                Action::Update { .. } => self.adopt_manifest(call.now, record, row.frame.manifest.as_ref())?,
                Action::Remove => {}
            }
        }
        let outcome = Some(done.outcome.clone());
        self.tables.put_order(OrderRecord { outcome, stopped, ..row });
        self.event(Event::CarriedOut { service, action: action.name(), outcome: done.outcome.clone() });
        Ok(())
    }

    fn of_record(
        &self,
        call: &Call<'_>,
        signed: &Signed<OrderDone>,
        placement: &Placement,
    ) -> Result<Verified<OrderDone>, Reject> {
        let claim = signed.unverified()?;
        ensure::<G>(claim.ids.epoch == placement.epoch, Reject::WrongEpoch)?;
        ensure::<G>(call.peer == placement.host, Reject::NotHostOfRecord)?;
        let done = signed.verify::<S, G>(&placement.key.0, self.id(), self.me())?;
        check_ids::<G>(&done.ids, &placement.ids())?;
        Ok(done)
    }

    /// The last holder has deleted the service: its name is free.
    fn removal_done(
        &mut self,
        call: &Call<'_>,
        signed: &Signed<OrderDone>,
        row: TombstoneRecord,
    ) -> Result<(), Refusal> {
        let placement = row.placement.clone().ok_or(Reject::UnknownService)?;
        let done = self.of_record(call, signed, &placement)?;
        ensure::<G>(done.order == row.tombstone.order, Reject::Conflict)?;
        let (service, ours) = (row.service, self.tables.services.get(row.service).is_none());
        if !row.reported {
            self.tables.put_tombstone(TombstoneRecord { reported: true, ..row });
            if ours {
                self.leases.remove(&service);
            }
            let outcome = Outcome::Done;
            self.event(Event::CarriedOut { service, action: Action::Remove.name(), outcome });
        }
        Ok(())
    }

    /// The host of record serves under this manifest: the record follows, under the same epoch. A migration that is not
    /// decided was asked for under the old one, and has no consent: a host that had given it would not have updated.
    pub(super) fn adopt_manifest(
        &mut self,
        now: Now,
        record: ServiceRecord,
        manifest: Option<&Signed<Manifest>>,
    ) -> Result<(), Reject> {
        let signed = manifest.ok_or(Reject::WrongManifest)?.clone();
        let service = record.placement.service;
        if let Some(live) = record.live {
            self.abort(live, AbortCause::Superseded);
        }
        let (name, digest) = (signed.unverified()?.name, signed.hash());
        self.tables.put_manifest(ManifestRecord { service, name, signed });
        let placement = Placement { manifest: digest, ..record.placement };
        let signed = self.reissue(now, &placement);
        if let Some(lease) = self.leases.get_mut(&service) {
            lease.renewed = None;
        }
        let placement = signed.unverified()?;
        self.tables.put_service(ServiceRecord { placement, signed, live: None, registered: None, ..record });
        Ok(())
    }

    /// What a host showed a restored Registry under this placement: an update that was ordered after the backup.
    pub(super) fn learn_update(&mut self, now: Now, by: HostId, manifest: &Verified<Manifest>) {
        let service = manifest.service;
        let Some(record) = self.tables.services.get(service).filter(|record| record.placement.host == by) else {
            return;
        };
        let Some(before) = self.tables.manifests.get(service).and_then(|row| row.manifest().ok()) else { return };
        // Either R has said so itself, or it would if the order came now.
        let said = record.placement.manifest == manifest.hash() && before != **manifest;
        if said || self.check_successor(by, &before, manifest).is_ok() {
            let record = record.clone();
            // It was decoded before it was verified.
            let _ = self.adopt_manifest(now, record, Some(manifest.signed()));
        }
    }

    /// What a host showed a restored Registry: a service that was removed after the backup.
    pub(super) fn learn_removed(&mut self, shown: &Verified<Tombstone>, leases_end: crate::time::Instant) {
        let service = shown.service;
        let known = self.tables.tombstones.get(service).is_some_and(|row| row.tombstone.epoch >= shown.epoch);
        let record = self.tables.services.get(service).map(|record| record.placement.clone());
        let later = record.as_ref().is_some_and(|placement| placement.epoch > shown.epoch);
        if known || later {
            return;
        }
        if let Some(live) = self.tables.services.get(service).and_then(|record| record.live) {
            self.abort(live, AbortCause::Removed);
        }
        if let Some(placement) = &record {
            let issued = self.sign(Receiver::Anyone, placement);
            self.leases.insert(service, LeaseState { until: leases_end, issued, renewed: None });
        }
        // The REMOVE itself is lost. It was given before it was taken.
        let Timestamp(sequence) = shown.at;
        let _ = self.bury(shown.signed().clone(), (**shown).clone(), record, sequence, false);
    }

    /// The standing order of a service, for people.
    pub(super) fn order_view(&self, service: ServiceId) -> OrderView {
        let Some(row) = self.tables.orders.get(service) else { return OrderView { stopped: false, standing: None } };
        let standing = if row.outcome.is_none() { row.action().ok().map(Action::name) } else { None };
        OrderView { stopped: row.stopped, standing }
    }
}

fn of(ids: crate::ids::MigrationIds) -> (ServiceId, Epoch) {
    (ids.service, ids.epoch)
}
