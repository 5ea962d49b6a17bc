//! Who has the service: 10 → 11, RECLAIM, CANCEL, 12. The compare-and-swap on (epoch, migration) is [`Registry::win`];
//! whatever comes first decides, and everybody hears the same decision ever after (PROTOCOL 4).

use super::{
    AbortCause, Call, CloudStats, Event, Refusal, Registry,
    records::{MigrationRecord, MigrationState, Pinned, ServiceRecord, UNSEEN},
};
use crate::{
    ids::{Digest, MigrationId, MigrationIds, Nonce},
    migration::{
        messages::{
            Aborted, Answer, Cancel, CompleteFrame, Decision, Granted, Mode, Placement, Reclaim, RegistryFrame,
            Released, TransferComplete,
        },
        source::check_ids,
    },
    reject::{Guards, Reject, Rule, ensure},
    suite::Suite,
    trust::{Message, Receiver, Signed, Verified},
};

/// What RECLAIM and CANCEL have in common: the source wants its service back.
pub(super) trait GiveBack: Message {
    const CAUSE: AbortCause;

    fn ids(&self) -> MigrationIds;
    fn nonce(&self) -> Nonce;
}

impl GiveBack for Reclaim {
    const CAUSE: AbortCause = AbortCause::Reclaimed;

    fn ids(&self) -> MigrationIds {
        self.ids
    }

    fn nonce(&self) -> Nonce {
        self.nonce
    }
}

impl GiveBack for Cancel {
    const CAUSE: AbortCause = AbortCause::Cancelled;

    fn ids(&self) -> MigrationIds {
        self.ids
    }

    fn nonce(&self) -> Nonce {
        self.nonce
    }
}

impl<S: Suite, G: Guards> Registry<S, G> {
    /// 10: both parties' proof that the state is at B.
    pub(super) fn complete(&mut self, call: &Call<'_>, frame: &CompleteFrame) -> Result<(), Refusal> {
        let claim = frame.complete.unverified()?;
        ensure::<G>(claim.ids.service.registry == self.id(), Reject::UnknownRegistry)?;
        ensure::<G>(claim.ids.host == call.peer, Reject::WrongPeer)?;
        let Some(record) = self.tables.migrations.get(claim.ids.mig).cloned() else {
            return self.complete_forgotten(call, frame, &claim);
        };
        check_ids::<G>(&claim.ids, &record.ids)?;
        let pinned = record.pinned.clone().ok_or(Reject::UnexpectedMessage)?;
        let complete = frame.complete.verify::<S, G>(&pinned.key.0, record.ids.host, self.id(), self.me())?;
        match &record.state {
            MigrationState::Won { complete: first, .. } => {
                ensure::<G>(*first == UNSEEN || *first == frame.complete.hash(), Reject::Reused)?;
                self.tell_winner(call, record.ids, frame.complete.hash())?;
                Ok(())
            }
            MigrationState::Aborted { .. } if G::keeps(Rule::SingleUseMig) => {
                let answer = self.outcome(call.peer, record.ids, frame.complete.hash(), Decision::Aborted)?;
                self.reply(call.peer, answer);
                Ok(())
            }
            MigrationState::Live | MigrationState::Aborted { .. } => {
                self.check_complete(frame, &complete, &record, &pinned)?;
                self.decide(call, frame, &complete, record, &pinned)
            }
        }
    }

    /// Whether 10 says what was agreed, and A consented to exactly that.
    fn check_complete(
        &self,
        frame: &CompleteFrame,
        complete: &TransferComplete,
        record: &MigrationRecord,
        pinned: &Pinned,
    ) -> Result<(), Reject> {
        let manifest = self.manifest(record.ids.service)?;
        ensure::<G>(complete.tos == manifest.tos, Reject::WrongTos)?;
        ensure::<G>(complete.new_key == pinned.key, Reject::WrongPlacementKey)?;
        ensure::<G>(complete.consent == frame.consent.hash(), Reject::WrongConsent)?;
        // The consent was addressed to B: it is verified under B's name.
        let receiver = Receiver::Host(record.ids.host);
        let consent = frame.consent.verify::<S, G>(&record.key.0, record.source, self.id(), receiver)?;
        check_ids::<G>(&consent.ids, &record.ids)?;
        ensure::<G>(consent.new_key == pinned.key, Reject::WrongPlacementKey)?;
        ensure::<G>(consent.transcript == complete.transcript, Reject::WrongHash)?;
        ensure::<G>(consent.state == complete.state, Reject::WrongState)?;
        ensure::<G>(consent.mode == Mode::Registry, Reject::WrongMode)
    }

    fn decide(
        &mut self,
        call: &Call<'_>,
        frame: &CompleteFrame,
        complete: &Verified<TransferComplete>,
        record: MigrationRecord,
        pinned: &Pinned,
    ) -> Result<(), Refusal> {
        let ids = record.ids;
        let service = self.service(ids.service)?.clone();
        ensure::<G>(service.placement.epoch == ids.epoch, Reject::WrongEpoch)?;
        let decided = service.live != Some(ids.mig) && G::keeps(Rule::SingleUseMig);
        ensure::<G>(!decided, Reject::Finished)?;
        if let Err(reject) = self.in_good_standing(call.peer).map(|_| ()) {
            self.abort(ids.mig, AbortCause::Revoked);
            self.tables.put_service(ServiceRecord { live: None, ..service });
            let answer = self.outcome(call.peer, ids, frame.complete.hash(), Decision::Aborted)?;
            return Err(Refusal::answered(reject, answer));
        }
        self.win(call, frame.complete.hash(), complete, record, service, pinned);
        Ok(())
    }

    /// The compare-and-swap: the record moves, vkS is no longer of record, both sides are told.
    fn win(
        &mut self,
        call: &Call<'_>,
        complete_hash: Digest,
        complete: &TransferComplete,
        record: MigrationRecord,
        service: ServiceRecord,
        pinned: &Pinned,
    ) {
        let ids = record.ids;
        let placement = Placement {
            service: ids.service,
            epoch: service.placement.epoch.next_era(),
            cloud: ids.cloud,
            host: ids.host,
            key: pinned.key,
            mig: ids.mig,
            previous: service.placement.host,
            manifest: service.placement.manifest,
            issued: call.now.wall,
            lease: self.config.lease,
        };
        let signed = self.sign(Receiver::Anyone, &placement);
        let response = complete.answered.since(complete.asked);
        let transfer = complete.completed.since(complete.answered);
        let source = record.source;
        let state = MigrationState::Won {
            serial: self.tables.next_serial(),
            complete: complete_hash,
            response,
            transfer,
            released: None,
        };
        let pinned = Some(Pinned { answer: None, ..pinned.clone() });
        self.tables.put_migration(MigrationRecord { pinned, state, ..record });
        self.place(call.now, placement, &signed, None);
        self.change_stats(ids, |stats| stats.completed(response, transfer));
        self.event(Event::Placed { placement: signed.clone() });
        self.reply(ids.host, RegistryFrame::Placement(signed.clone()));
        self.reply(source, RegistryFrame::Placement(signed));
        self.tell_order(ids.service);
    }

    /// 10 again, after it won: the placement as it was decided, or what came of it since.
    fn tell_winner(&mut self, call: &Call<'_>, ids: MigrationIds, complete: Digest) -> Result<(), Reject> {
        let service = self.service(ids.service)?;
        let answer = if service.placement.mig == ids.mig {
            RegistryFrame::Placement(service.signed.clone())
        } else {
            self.outcome(call.peer, ids, complete, Decision::Won)?
        };
        self.prolong(call.now, ids.service);
        self.reply(call.peer, answer);
        Ok(())
    }

    /// 10 for a migration that this Registry no longer remembers, or never made. If it had won, the record would name
    /// it, or B would have moved the service on; so an honest B may drop what it holds.
    fn complete_forgotten(
        &mut self,
        call: &Call<'_>,
        frame: &CompleteFrame,
        claim: &TransferComplete,
    ) -> Result<(), Refusal> {
        frame.complete.verify::<S, G>(&claim.new_key.0, call.peer, self.id(), self.me())?;
        let placement = &self.service(claim.ids.service)?.placement;
        if placement.ids().mig == claim.ids.mig {
            ensure::<G>(call.peer == placement.host, Reject::NotHostOfRecord)?;
            self.tell_winner(call, claim.ids, frame.complete.hash())?;
            return Ok(());
        }
        ensure::<G>(claim.ids.epoch <= placement.epoch, Reject::WrongEpoch)?;
        let answer = self.outcome(call.peer, claim.ids, frame.complete.hash(), Decision::Aborted)?;
        Err(Refusal::answered(Reject::UnknownMigration, answer))
    }

    /// RECLAIM or CANCEL: aborts what is undecided; says how the rest was decided.
    pub(super) fn give_back<T: GiveBack>(&mut self, call: &Call<'_>, signed: &Signed<T>) -> Result<(), Refusal> {
        let ids = signed.unverified()?.ids();
        ensure::<G>(ids.service.registry == self.id(), Reject::UnknownRegistry)?;
        let Some(record) = self.tables.migrations.get(ids.mig).cloned() else {
            return self.give_back_forgotten(call, signed);
        };
        ensure::<G>(call.peer == record.source, Reject::NotHostOfRecord)?;
        let message = signed.verify::<S, G>(&record.key.0, self.id(), self.me())?;
        check_ids::<G>(&ids, &record.ids)?;
        let service = self.service(ids.service)?.clone();
        let answer = match &record.state {
            MigrationState::Won { .. } => self.outcome(call.peer, ids, signed.hash(), Decision::Won)?,
            MigrationState::Aborted { .. } if service.placement.epoch != ids.epoch => {
                self.outcome(call.peer, ids, signed.hash(), Decision::Aborted)?
            }
            MigrationState::Aborted { answer: Some((request, _, granted)), .. } if *request == signed.hash() => {
                self.prolong(call.now, ids.service);
                RegistryFrame::Granted(granted.clone())
            }
            MigrationState::Aborted { answer, .. } => {
                let reused = answer.as_ref().is_some_and(|(_, nonce, _)| *nonce == message.nonce());
                ensure::<G>(!reused, Reject::Reused)?;
                self.give(call, &service, ids, signed.hash(), message.nonce())
            }
            MigrationState::Live => {
                self.abort(ids.mig, T::CAUSE);
                let service = ServiceRecord { live: service.live.filter(|live| *live != ids.mig), ..service };
                self.tables.put_service(service.clone());
                self.give(call, &service, ids, signed.hash(), message.nonce())
            }
        };
        self.reply(call.peer, answer);
        Ok(())
    }

    /// ABORTED with a fresh lease, and its record.
    fn give(
        &mut self,
        call: &Call<'_>,
        service: &ServiceRecord,
        ids: MigrationIds,
        request: Digest,
        nonce: Nonce,
    ) -> RegistryFrame {
        let granted = self.aborted(call, service, ids, request);
        if let Some(record) = self.tables.migrations.get(ids.mig).cloned()
            && let MigrationState::Aborted { serial, .. } = record.state
        {
            let state = MigrationState::Aborted { serial, answer: Some((request, nonce, granted.clone())) };
            self.tables.put_migration(MigrationRecord { state, ..record });
        }
        RegistryFrame::Granted(granted)
    }

    fn aborted(&mut self, call: &Call<'_>, service: &ServiceRecord, ids: MigrationIds, answers: Digest) -> Granted {
        let placement = self.reissue(call.now, &service.placement);
        let aborted = Aborted { ids, answers, placement: placement.hash() };
        Granted { answer: Answer::Aborted(self.sign(Receiver::Host(call.peer), &aborted)), placement }
    }

    /// RECLAIM or CANCEL of a migration that this Registry no longer remembers, or never made. While the epoch stands, it
    /// has not won, and never will: unknown migrations cannot complete. Once the epoch has ended, there is no answer.
    fn give_back_forgotten<T: GiveBack>(&mut self, call: &Call<'_>, signed: &Signed<T>) -> Result<(), Refusal> {
        let ids = signed.unverified()?.ids();
        let service = self.service(ids.service)?.clone();
        ensure::<G>(call.peer == service.placement.host, Reject::NotHostOfRecord)?;
        ensure::<G>(ids.epoch == service.placement.epoch, Reject::WrongEpoch)?;
        signed.verify::<S, G>(&service.placement.key.0, self.id(), self.me())?;
        let granted = self.aborted(call, &service, ids, signed.hash());
        Err(Refusal::answered(Reject::UnknownMigration, RegistryFrame::Granted(granted)))
    }

    /// 12: A has deleted its copy; the details of the migration may be forgotten.
    pub(super) fn released(&mut self, call: &Call<'_>, signed: &Signed<Released>) -> Result<(), Refusal> {
        let released = signed.verify::<S, G>(&call.peer.0, self.id(), self.me())?;
        let record = self.tables.migrations.get(released.ids.mig).ok_or(Reject::UnknownMigration)?.clone();
        ensure::<G>(call.peer == record.source, Reject::NotHostOfRecord)?;
        check_ids::<G>(&released.ids, &record.ids)?;
        let MigrationState::Won { complete, response, transfer, released: before, .. } = record.state else {
            return Err(Reject::UnexpectedMessage.into());
        };
        if let Some(before) = before {
            ensure::<G>(before == signed.hash(), Reject::Reused)?;
            return Ok(());
        }
        let serial = self.tables.next_serial();
        let state = MigrationState::Won { serial, complete, response, transfer, released: Some(signed.hash()) };
        self.tables.put_migration(MigrationRecord { state, ..record });
        let by_source = (released.response, released.transfer);
        // Without the target's figures there is nothing to compare with.
        if complete != UNSEEN {
            self.change_stats(released.ids, |stats| stats.reported((response, transfer), by_source));
        }
        self.event(Event::Released { ids: released.ids });
        Ok(())
    }

    /// Ends an undecided migration. The caller takes it out of its service's record.
    pub(super) fn abort(&mut self, mig: MigrationId, cause: AbortCause) {
        let Some(record) = self.tables.migrations.get(mig).cloned() else { return };
        let ids = record.ids;
        // A verdict that was asked for ahead of need and never used says nothing of the cloud.
        let unused = record.pinned.is_none() && cause == AbortCause::Superseded;
        let pinned = record.pinned.clone().map(|pinned| Pinned { answer: None, ..pinned });
        let state = MigrationState::Aborted { serial: self.tables.next_serial(), answer: None };
        self.tables.put_migration(MigrationRecord { pinned, state, ..record });
        if !unused {
            self.change_stats(ids, |stats| stats.failures = stats.failures.saturating_add(1));
        }
        self.event(Event::Aborted { ids, cause });
    }

    fn change_stats(&mut self, ids: MigrationIds, change: impl FnOnce(&mut CloudStats)) {
        let stats = self.tables.stats.get(ids.cloud).cloned();
        let mut stats = stats.unwrap_or_else(|| {
            let name = self.tables.hosts.get(ids.host).map(|host| host.certificate.name.clone());
            CloudStats::new(ids.cloud, name.unwrap_or_default())
        });
        change(&mut stats);
        self.tables.put_stats(stats);
    }
}
