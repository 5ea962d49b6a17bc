//! The target's side of one attempt: `Reserved → Receiving → Held → Serving` (PROTOCOL 3 and 4).
//!
//! A [`Target`] judges messages and makes the next ones; the [`Host`](crate::host::Host) that owns it journals, sends,
//! reserves and receives. No guest code runs for it before 11 is in the journal.

use super::{
    messages::{
        Answer, CompleteFrame, Decision, Granted, Mode, NoReason, NoService, Outcome, Placement, Request, RequestFrame,
        Response, ResponseFrame, SuiteId, Transfer, TransferAck, TransferComplete, VerifyService, YesCloud, YesService,
    },
    source::{Agreement, check_ids, transcript},
};
use crate::{
    ids::{Digest, HostId, MigrationIds, Nonce, PlacementKey, RegistryId},
    limits::{CLOCK_SKEW, SUITES_MAX},
    manifest::{Manifest, Resources, ServiceType},
    reject::{Guards, Reject, ensure},
    suite::{Secret, Suite, fresh_secret, fresh16},
    time::{Now, Timestamp},
    trust::{Certificate, CoSigned, Receiver, Signed, TrustBundle, Verified},
};

/// What the target's host is: borrowed for the length of one call.
#[derive(Clone, Copy, Debug)]
pub struct TargetParty<'a> {
    /// This host.
    pub me: HostId,
    /// This host's signing secret.
    pub host_secret: &'a Secret,
    /// This host's certificate.
    pub certificate: &'a Certificate,
    /// Who may speak for which registry.
    pub bundle: &'a TrustBundle,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "a few dozen attempts at most exist at a time")]
enum Phase {
    /// 5 is out, 6 is awaited.
    Checking { request: Signed<Request>, asked: Request, verify: VerifyService },
    /// 7 is out: records and consent are awaited, in any order.
    Receiving {
        asked: Request,
        agreement: Agreement,
        answered: Timestamp,
        response: ResponseFrame,
        consent: Option<(CoSigned<Transfer>, Transfer)>,
        received: Option<Digest>,
    },
    /// 9 and 10 are out: only R decides now.
    Held { held: Held },
}

/// What must survive a crash of a target that holds the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// 9, to be sent again.
    pub ack: Signed<TransferAck>,
    /// 10 with the consent, to be sent again.
    pub complete: CompleteFrame,
    /// h(state) under the migration's salt.
    pub state: Digest,
}

/// How R decided.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it is consumed where it is made")]
pub enum Verdict {
    /// Serve under this placement.
    Won(Verified<Placement>),
    /// Delete.
    Aborted,
}

/// One attempt to bring one service here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    ids: MigrationIds,
    source: HostId,
    manifest: Verified<Manifest>,
    new_secret: Secret,
    new_key: PlacementKey,
    /// `None` after a restart.
    request_hash: Option<Digest>,
    phase: Phase,
}

impl Target {
    /// 4 with 3 and the manifest: makes 5. `adverts` are this host's current ones, by hash.
    ///
    /// # Errors
    /// A named rejection; nothing was reserved.
    pub fn start<S: Suite, G: Guards>(
        party: &TargetParty<'_>,
        now: Now,
        peer: HostId,
        frame: &RequestFrame,
        is_current_advert: impl Fn(&Digest) -> bool,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(Self, Signed<VerifyService>), Reject> {
        let registry = frame.request.unverified()?.ids.service.registry;
        // 3 was addressed to the peer of this stream: a verdict given to another host proves nothing of this one.
        let verdict = party.bundle.verify::<S, G, YesCloud>(&frame.verdict, registry, Receiver::Host(peer))?;
        let asked = &verdict.request;
        ensure::<G>(asked.service.registry == registry, Reject::WrongService)?;
        ensure::<G>(asked.host == party.me && asked.cloud == party.certificate.cloud, Reject::WrongCloud)?;
        ensure::<G>(now.wall < verdict.expiry + CLOCK_SKEW, Reject::Expired)?;
        ensure::<G>(is_current_advert(&asked.advert), Reject::UnknownAdvert)?;
        let request = frame.request.verify::<S, G>(&asked.key.0, registry, Receiver::Host(party.me))?;
        let ids = MigrationIds {
            service: asked.service,
            cloud: asked.cloud,
            host: asked.host,
            mig: verdict.mig,
            epoch: asked.epoch,
        };
        check_ids::<G>(&request.ids, &ids)?;
        ensure::<G>(request.key == asked.key, Reject::WrongPlacementKey)?;
        ensure::<G>(request.verdict == verdict.hash(), Reject::WrongHash)?;
        ensure::<G>(request.asked <= now.wall + CLOCK_SKEW, Reject::NotYetValid)?;
        ensure::<G>(
            request.suites.len() <= SUITES_MAX && request.suites.contains(&SuiteId::X25519ChaCha20Poly1305),
            Reject::WrongSuite,
        )?;
        let owner = frame.manifest.unverified()?.owner;
        let manifest = frame.manifest.verify::<S, G>(&owner.0, registry, Receiver::Anyone)?;
        manifest.check()?;
        ensure::<G>(manifest.service == asked.service, Reject::WrongService)?;
        ensure::<G>(verdict.manifest == manifest.hash() && request.manifest == manifest.hash(), Reject::WrongManifest)?;
        ensure::<G>(request.tos == manifest.tos, Reject::WrongTos)?;
        ensure::<G>(request.required == manifest.required, Reject::BadResources)?;
        ensure::<G>(verdict.resources.cover(&manifest.required), Reject::NoResources)?;
        ensure::<G>(manifest.permits(party.certificate), Reject::PolicyForbids)?;

        let new_secret = fresh_secret(rng);
        let new_key = PlacementKey(S::public_key(&new_secret));
        let request_hash = request.hash();
        let verify = VerifyService { ids, key: asked.key, nonce: Nonce(fresh16(rng)), request: request_hash, new_key };
        let signed = Signed::sign::<S>(party.host_secret, registry, Receiver::Registry(registry), &verify);
        let phase = Phase::Checking { request: frame.request.clone(), asked: (*request).clone(), verify };
        let request_hash = Some(request_hash);
        Ok((Self { ids, source: peer, manifest, new_secret, new_key, request_hash, phase }, signed))
    }

    /// An attempt whose state was held when the host went down: only R decides.
    pub fn restore<S: Suite>(
        ids: MigrationIds,
        source: HostId,
        manifest: Verified<Manifest>,
        new_secret: Secret,
        held: Held,
    ) -> Self {
        let new_key = PlacementKey(S::public_key(&new_secret));
        Self { ids, source, manifest, new_secret, new_key, request_hash: None, phase: Phase::Held { held } }
    }

    /// The attempt.
    pub const fn ids(&self) -> MigrationIds {
        self.ids
    }

    /// Whom the service comes from.
    pub const fn source(&self) -> HostId {
        self.source
    }

    /// The owner's word.
    pub const fn manifest(&self) -> &Verified<Manifest> {
        &self.manifest
    }

    /// vkNew and its secret.
    pub const fn new_key(&self) -> (PlacementKey, &Secret) {
        (self.new_key, &self.new_secret)
    }

    /// h(4): tells a repeat from a rival. Not known any more after a restart.
    pub const fn request_hash(&self) -> Option<Digest> {
        self.request_hash
    }

    /// Whether only R can decide any more.
    pub const fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held { .. })
    }

    const fn registry(&self) -> RegistryId {
        self.ids.service.registry
    }

    fn registry_says<S: Suite, G: Guards, T: crate::trust::Message>(
        &self,
        party: &TargetParty<'_>,
        signed: &Signed<T>,
    ) -> Result<Verified<T>, Reject> {
        party.bundle.verify::<S, G, T>(signed, self.registry(), Receiver::Host(party.me))
    }

    /// 6, yes: makes 7. The host has reserved `granted`.
    ///
    /// # Errors
    /// A named rejection; the attempt goes on waiting.
    pub fn handle_yes<S: Suite, G: Guards>(
        &mut self,
        party: &TargetParty<'_>,
        now: Now,
        signed: &Signed<YesService>,
        granted: Resources,
        needs_module: bool,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<(ResponseFrame, Agreement), Reject> {
        let Phase::Checking { request, asked, verify } = &self.phase else { return Err(Reject::UnexpectedMessage) };
        let verdict = self.registry_says::<S, G, _>(party, signed)?;
        check_ids::<G>(&verdict.request.ids, &self.ids)?;
        ensure::<G>(verdict.request.nonce == verify.nonce, Reject::WrongNonce)?;
        ensure::<G>(verdict.request == *verify, Reject::WrongVerdict)?;
        ensure::<G>(verdict.manifest == self.manifest.hash(), Reject::WrongManifest)?;
        ensure::<G>(verdict.tos == self.manifest.tos, Reject::WrongTos)?;
        ensure::<G>(now.wall < verdict.expiry + CLOCK_SKEW, Reject::Expired)?;
        let (share, nonce_b) = (fresh_secret(rng), Nonce(fresh16(rng)));
        let message = Response {
            ids: self.ids,
            tos: ServiceType::Cloud,
            nonce_a: asked.nonce,
            nonce_b,
            share_a: asked.share,
            share_b: S::dh_public(&share),
            request: request.hash(),
            new_key: self.new_key,
            suite: SuiteId::X25519ChaCha20Poly1305,
            answered: now.wall,
            granted,
            needs_module,
        };
        let response = Signed::sign::<S>(party.host_secret, self.registry(), Receiver::Host(self.source), &message);
        let transcript = transcript(request, &response);
        let key = S::agree(&share, &asked.share, &transcript).ok_or(Reject::WeakDhShare)?;
        let agreement = Agreement { key, transcript, new_key: self.new_key, nonce_b, send_module: needs_module };
        let frame = ResponseFrame { response, verdict: signed.clone() };
        self.phase = Phase::Receiving {
            asked: asked.clone(),
            agreement: agreement.clone(),
            answered: now.wall,
            response: frame.clone(),
            consent: None,
            received: None,
        };
        Ok((frame, agreement))
    }

    /// 6, no: the attempt is over.
    ///
    /// # Errors
    /// A named rejection; the attempt goes on waiting.
    pub fn handle_no<S: Suite, G: Guards>(
        &self,
        party: &TargetParty<'_>,
        signed: &Signed<NoService>,
    ) -> Result<NoReason, Reject> {
        let Phase::Checking { verify, .. } = &self.phase else { return Err(Reject::UnexpectedMessage) };
        let verdict = self.registry_says::<S, G, _>(party, signed)?;
        ensure::<G>(verdict.request == *verify, Reject::WrongVerdict)?;
        Ok(verdict.reason)
    }

    /// The same 4 again: 7 again, if it was made.
    pub fn repeat_response(&self) -> Option<ResponseFrame> {
        match &self.phase {
            Phase::Receiving { response, .. } => Some(response.clone()),
            Phase::Checking { .. } | Phase::Held { .. } => None,
        }
    }

    /// The same consent again: 9 again, if it was made.
    pub fn repeat_ack(&self) -> Option<Signed<TransferAck>> {
        match &self.phase {
            Phase::Held { held } => Some(held.ack.clone()),
            Phase::Checking { .. } | Phase::Receiving { .. } => None,
        }
    }

    /// The consent, the last of 8.
    ///
    /// # Errors
    /// A named rejection; nothing changes. Different bytes after a first consent are [`Reject::Reused`].
    pub fn handle_consent<S: Suite, G: Guards>(
        &mut self,
        party: &TargetParty<'_>,
        signed: &CoSigned<Transfer>,
    ) -> Result<(), Reject> {
        let (registry, source, ids, new_key) = (self.registry(), self.source, self.ids, self.new_key);
        let Phase::Receiving { asked, agreement, consent, .. } = &mut self.phase else {
            return Err(Reject::UnexpectedMessage);
        };
        let transfer = signed.verify::<S, G>(&asked.key.0, source, registry, Receiver::Host(party.me))?;
        check_ids::<G>(&transfer.ids, &ids)?;
        ensure::<G>(transfer.new_key == new_key, Reject::WrongPlacementKey)?;
        ensure::<G>(transfer.transcript == agreement.transcript, Reject::WrongHash)?;
        ensure::<G>(transfer.nonce_b == agreement.nonce_b, Reject::WrongNonce)?;
        ensure::<G>(transfer.mode == Mode::Registry, Reject::WrongMode)?;
        ensure::<G>(consent.as_ref().is_none_or(|(first, _)| first == signed), Reject::Reused)?;
        *consent = Some((signed.clone(), (*transfer).clone()));
        Ok(())
    }

    /// All records are in and hash to `state`.
    ///
    /// # Errors
    /// [`Reject::UnexpectedMessage`] if none were awaited.
    pub fn handle_received(&mut self, state: Digest) -> Result<(), Reject> {
        let Phase::Receiving { received, .. } = &mut self.phase else { return Err(Reject::UnexpectedMessage) };
        *received = Some(state);
        Ok(())
    }

    /// Records and consent are both here: makes 9 and 10. The host journals [`Held`], then sends both. `None`: not yet.
    ///
    /// # Errors
    /// [`Reject::WrongState`] if the records are not what was consented to: the attempt can only be dropped.
    pub fn hold<S: Suite, G: Guards>(&mut self, party: &TargetParty<'_>, now: Now) -> Result<Option<Held>, Reject> {
        let Phase::Receiving {
            asked,
            agreement,
            answered,
            consent: Some((consent, transfer)),
            received: Some(state),
            ..
        } = &self.phase
        else {
            return Ok(None);
        };
        ensure::<G>(transfer.state == *state, Reject::WrongState)?;
        let registry = self.registry();
        let ack = TransferAck {
            ids: self.ids,
            transcript: agreement.transcript,
            nonce_a: asked.nonce,
            state: *state,
            consent: consent.hash(),
            completed: now.wall,
        };
        let ack = Signed::sign::<S>(party.host_secret, registry, Receiver::Host(self.source), &ack);
        let complete = TransferComplete {
            ids: self.ids,
            tos: self.manifest.tos,
            new_key: self.new_key,
            transcript: agreement.transcript,
            state: *state,
            consent: consent.hash(),
            asked: asked.asked,
            answered: *answered,
            completed: now.wall,
        };
        let complete =
            CoSigned::sign::<S>(&self.new_secret, party.host_secret, registry, Receiver::Registry(registry), &complete);
        let held = Held { ack, complete: CompleteFrame { complete, consent: consent.clone() }, state: *state };
        self.phase = Phase::Held { held: held.clone() };
        Ok(Some(held))
    }

    /// What is held, if it is.
    pub const fn held(&self) -> Option<&Held> {
        match &self.phase {
            Phase::Held { held } => Some(held),
            Phase::Checking { .. } | Phase::Receiving { .. } => None,
        }
    }

    /// 10, to be sent again.
    pub fn complete(&self) -> Option<&CompleteFrame> {
        match &self.phase {
            Phase::Held { held } => Some(&held.complete),
            Phase::Checking { .. } | Phase::Receiving { .. } => None,
        }
    }

    /// 11 for this attempt.
    ///
    /// # Errors
    /// A named rejection; the state stays held.
    pub fn handle_placement<S: Suite, G: Guards>(
        &self,
        party: &TargetParty<'_>,
        signed: &Signed<Placement>,
    ) -> Result<Verified<Placement>, Reject> {
        let Phase::Held { .. } = &self.phase else { return Err(Reject::UnexpectedMessage) };
        let placement = party.bundle.verify::<S, G, Placement>(signed, self.registry(), Receiver::Anyone)?;
        ensure::<G>(placement.service == self.ids.service, Reject::WrongService)?;
        ensure::<G>(placement.mig == self.ids.mig, Reject::WrongMigration)?;
        ensure::<G>(placement.epoch == self.ids.epoch.next_era(), Reject::WrongEpoch)?;
        ensure::<G>(placement.host == party.me && placement.cloud == self.ids.cloud, Reject::WrongCloud)?;
        ensure::<G>(placement.previous == self.source, Reject::WrongCloud)?;
        ensure::<G>(placement.key == self.new_key, Reject::WrongPlacementKey)?;
        ensure::<G>(placement.manifest == self.manifest.hash(), Reject::WrongManifest)?;
        Ok(placement)
    }

    /// R's OUTCOME in answer to 10.
    ///
    /// # Errors
    /// A named rejection; the state stays held.
    pub fn handle_granted<S: Suite, G: Guards>(
        &self,
        party: &TargetParty<'_>,
        granted: &Granted,
    ) -> Result<Verdict, Reject> {
        let Phase::Held { held } = &self.phase else { return Err(Reject::UnexpectedMessage) };
        let Answer::Outcome(signed) = &granted.answer else { return Err(Reject::UnexpectedMessage) };
        let Outcome { ids, answers, decision, placement } = (*self.registry_says::<S, G, _>(party, signed)?).clone();
        check_ids::<G>(&ids, &self.ids)?;
        ensure::<G>(answers == held.complete.complete.hash(), Reject::WrongHash)?;
        ensure::<G>(placement == granted.placement.hash(), Reject::WrongHash)?;
        match decision {
            Decision::Won => Ok(Verdict::Won(self.handle_placement::<S, G>(party, &granted.placement)?)),
            Decision::Aborted => Ok(Verdict::Aborted),
        }
    }
}
