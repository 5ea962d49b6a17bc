//! The two verdicts: 2 → 3 (may this service move to this cloud?) and 5 → 6 (did you authorise this move to me?).

use super::{
    AbortCause, Call, Event, Refusal, Registry, is_violation,
    records::{CloudVerdict, LastVerdict, MigrationRecord, MigrationState, Pinned, ServiceRecord},
};
use crate::{
    advert::{Advert, verify_advert},
    ids::{MigrationId, MigrationIds},
    limits::VERDICT_LIFETIME,
    migration::{
        messages::{
            NoCloud, NoReason, NoService, RegistryFrame, VerifyCloud, VerifyCloudFrame, VerifyService, YesCloud,
            YesService,
        },
        source::check_ids,
    },
    reject::{Guards, Reject, ensure},
    suite::{Suite, fresh16},
    time::Timestamp,
    trust::{Receiver, Role, Signed, Verified},
};

/// Why a verdict is no: the signed reason for the asker, the named rejection for the counter. Without a reason, the asker
/// broke the protocol and gets no answer.
type Denial = (Option<NoReason>, Reject);

fn denied(reason: NoReason) -> impl Fn(Reject) -> Denial {
    move |reject| (Some(reason), reject)
}

/// An advert that its asker could have seen to be false is the asker's fault; one that is late is not.
fn bad_advert(reject: Reject) -> Denial {
    ((!is_violation(reject)).then_some(NoReason::BadAdvert), reject)
}

impl<S: Suite, G: Guards> Registry<S, G> {
    /// 2: answers 3, under a new migration if it is yes.
    pub(super) fn verify_cloud(&mut self, call: &mut Call<'_>, frame: &VerifyCloudFrame) -> Result<(), Refusal> {
        let claim = frame.request.unverified()?;
        ensure::<G>(claim.service.registry == self.id(), Reject::UnknownRegistry)?;
        let request = frame.request.verify::<S, G>(&claim.key.0, self.id(), self.me())?;
        let record = self.service(request.service)?.clone();
        // Both keys are needed (PROTOCOL 2): vkS by signature, the host of record as the peer of the stream.
        if let Err(reject) = self.check_of_record(call, &request, &record) {
            let answer = self.say_no(call, &request, NoReason::NotOfRecord);
            return Err(Refusal::answered(reject, RegistryFrame::NoCloud(answer)));
        }
        if let Some(last) = &record.verdict {
            if last.request == request.hash() {
                let answer = verdict_frame(&last.answer);
                self.reply(call.peer, answer);
                return Ok(());
            }
            ensure::<G>(request.counter != last.counter && request.nonce != last.nonce, Reject::Reused)?;
            ensure::<G>(request.counter > last.counter, Reject::OldCounter)?;
        }
        match self.judge_cloud(call.now.wall, &record, &request, &frame.advert) {
            Ok(advert) => {
                let answer = self.allow(call, record, &request, &advert);
                self.reply(call.peer, answer);
                Ok(())
            }
            Err((Some(reason), reject)) => Err(Refusal::answered(reject, self.deny(call, record, &request, reason))),
            Err((None, reject)) => Err(reject.into()),
        }
    }

    fn check_of_record(&self, call: &Call<'_>, request: &VerifyCloud, record: &ServiceRecord) -> Result<(), Reject> {
        ensure::<G>(call.peer == record.placement.host, Reject::NotHostOfRecord)?;
        ensure::<G>(request.epoch == record.placement.epoch, Reject::WrongEpoch)?;
        ensure::<G>(request.key == record.placement.key, Reject::WrongPlacementKey)
    }

    /// Whether the service may go there: the cloud's standing, its own word on itself, the owner's policy.
    fn judge_cloud(
        &self,
        now: Timestamp,
        record: &ServiceRecord,
        request: &VerifyCloud,
        advert: &Signed<Advert>,
    ) -> Result<Verified<Advert>, Denial> {
        ensure::<G>(request.advert == advert.hash(), Reject::WrongHash).map_err(bad_advert)?;
        let certificate = self.in_good_standing(request.host).map_err(|reject| {
            let reason = if reject == Reject::Revoked { NoReason::Revoked } else { NoReason::NotEnrolled };
            (Some(reason), reject)
        })?;
        ensure::<G>(certificate.role == Role::Cloud, Reject::WrongRole).map_err(denied(NoReason::NotEnrolled))?;
        let (advert, _) = verify_advert::<S, G>(advert, &self.bundle, now).map_err(bad_advert)?;
        let same = advert.host == request.host && advert.cloud == request.cloud && certificate.cloud == request.cloud;
        ensure::<G>(same, Reject::WrongCloud).map_err(bad_advert)?;
        ensure::<G>(request.host != record.placement.host, Reject::SelfMove)
            .map_err(denied(NoReason::PolicyForbids))?;
        let manifest = self.manifest(request.service).map_err(denied(NoReason::NotOfRecord))?;
        ensure::<G>(manifest.permits(certificate), Reject::PolicyForbids).map_err(denied(NoReason::PolicyForbids))?;
        ensure::<G>(!advert.cordoned, Reject::Cordoned).map_err(denied(NoReason::NoResources))?;
        ensure::<G>(advert.resources.cover(&manifest.required), Reject::NoResources)
            .map_err(denied(NoReason::NoResources))?;
        Ok(advert)
    }

    /// Yes: a new migration, which ends any older undecided one of this epoch.
    fn allow(
        &mut self,
        call: &mut Call<'_>,
        mut record: ServiceRecord,
        request: &Verified<VerifyCloud>,
        advert: &Verified<Advert>,
    ) -> RegistryFrame {
        if let Some(older) = record.live.take() {
            self.abort(older, AbortCause::Superseded);
        }
        self.learn_addresses(advert.host, &advert.addresses, advert.serial);
        let mig = self.fresh_mig(call);
        let expiry = call.now.wall + VERDICT_LIFETIME;
        let verdict = YesCloud {
            request: (**request).clone(),
            resources: advert.resources,
            manifest: record.placement.manifest,
            mig,
            expiry,
        };
        let signed = self.sign(Receiver::Host(call.peer), &verdict);
        let ids = MigrationIds {
            service: request.service,
            cloud: request.cloud,
            host: request.host,
            mig,
            epoch: request.epoch,
        };
        self.tables.put_migration(MigrationRecord {
            ids,
            source: call.peer,
            key: request.key,
            expiry,
            pinned: None,
            state: MigrationState::Live,
        });
        self.event(Event::Allowed { ids, source: call.peer, at: call.now.wall });
        self.remember(ServiceRecord { live: Some(mig), ..record }, request, CloudVerdict::Yes(signed))
    }

    /// No: the older migration, if any, is over all the same: its source asked about another move.
    fn deny(
        &mut self,
        call: &Call<'_>,
        mut record: ServiceRecord,
        request: &Verified<VerifyCloud>,
        reason: NoReason,
    ) -> RegistryFrame {
        if let Some(older) = record.live.take() {
            self.abort(older, AbortCause::Superseded);
        }
        let signed = self.say_no(call, request, reason);
        self.remember(record, request, CloudVerdict::No(signed))
    }

    fn say_no(&mut self, call: &Call<'_>, request: &Verified<VerifyCloud>, reason: NoReason) -> Signed<NoCloud> {
        let VerifyCloud { service, epoch, host, .. } = **request;
        self.event(Event::Denied { service, epoch, host, by: call.peer, reason });
        self.sign(Receiver::Host(call.peer), &NoCloud { request: (**request).clone(), reason })
    }

    /// Stores the answer, so that the same bytes get it again.
    fn remember(
        &mut self,
        record: ServiceRecord,
        request: &Verified<VerifyCloud>,
        answer: CloudVerdict,
    ) -> RegistryFrame {
        let frame = verdict_frame(&answer);
        let (counter, nonce) = (request.counter, request.nonce);
        let verdict = Some(LastVerdict { counter, nonce, request: request.hash(), answer });
        self.tables.put_service(ServiceRecord { verdict, ..record });
        frame
    }

    fn fresh_mig(&self, call: &mut Call<'_>) -> MigrationId {
        loop {
            let mig = MigrationId(fresh16(call.rng));
            if self.tables.migrations.get(mig).is_none() {
                return mig;
            }
        }
    }

    /// 5: answers 6, and pins vkNew if it is yes.
    pub(super) fn verify_service(&mut self, call: &Call<'_>, signed: &Signed<VerifyService>) -> Result<(), Refusal> {
        let request = signed.verify::<S, G>(&call.peer.0, self.id(), self.me())?;
        ensure::<G>(request.ids.host == call.peer, Reject::WrongPeer)?;
        let result = self.judge_service(call, &request);
        match result {
            Ok(answer) => {
                self.reply(call.peer, RegistryFrame::YesService(answer));
                Ok(())
            }
            Err((Some(reason), reject)) => {
                self.event(Event::NotPinned { ids: request.ids, by: call.peer, reason });
                let no = NoService { request: (*request).clone(), reason };
                let answer = RegistryFrame::NoService(self.sign(Receiver::Host(call.peer), &no));
                Err(Refusal::answered(reject, answer))
            }
            Err((None, reject)) => Err(reject.into()),
        }
    }

    fn judge_service(
        &mut self,
        call: &Call<'_>,
        request: &Verified<VerifyService>,
    ) -> Result<Signed<YesService>, Denial> {
        let not_of_record = denied(NoReason::NotOfRecord);
        let violation = |reject| (None, reject);
        let record = self.tables.migrations.get(request.ids.mig);
        let record = record.ok_or_else(|| not_of_record(Reject::UnknownMigration))?.clone();
        check_ids::<G>(&request.ids, &record.ids).map_err(violation)?;
        ensure::<G>(request.key == record.key, Reject::WrongPlacementKey).map_err(violation)?;
        ensure::<G>(record.state == MigrationState::Live, Reject::Finished).map_err(&not_of_record)?;
        if let Some(pinned) = &record.pinned {
            // One session and one vkNew for a migration: any other 5 would make a second target of it.
            ensure::<G>(pinned.request == request.hash(), Reject::Reused).map_err(violation)?;
            if let Some(answer) = &pinned.answer {
                return Ok(answer.clone());
            }
        }
        ensure::<G>(call.now.wall < record.expiry, Reject::Expired).map_err(&not_of_record)?;
        // A placement key serves one epoch.
        ensure::<G>(request.new_key != record.key, Reject::Reused).map_err(violation)?;
        self.in_good_standing(call.peer).map_err(denied(NoReason::Revoked))?;
        let service = self.service(record.ids.service).map_err(&not_of_record)?;
        let manifest = self.manifest(record.ids.service).map_err(&not_of_record)?;
        let verdict = YesService {
            request: (**request).clone(),
            manifest: service.placement.manifest,
            tos: manifest.tos,
            expiry: call.now.wall + VERDICT_LIFETIME,
        };
        let answer = self.sign(Receiver::Host(call.peer), &verdict);
        let pinned = Pinned { key: request.new_key, request: request.hash(), answer: Some(answer.clone()) };
        self.event(Event::Pinned { ids: record.ids, at: call.now.wall });
        self.tables.put_migration(MigrationRecord { pinned: Some(pinned), ..record });
        Ok(answer)
    }
}

fn verdict_frame(verdict: &CloudVerdict) -> RegistryFrame {
    match verdict {
        CloudVerdict::Yes(signed) => RegistryFrame::YesCloud(signed.clone()),
        CloudVerdict::No(signed) => RegistryFrame::NoCloud(signed.clone()),
    }
}
