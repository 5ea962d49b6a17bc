//! The source's side of one attempt: `Offering → Transferring → Frozen → Released` (PROTOCOL 3 and 4).
//!
//! A [`Source`] judges messages and makes the next ones; the [`Host`](crate::host::Host) that owns it journals, sends and
//! freezes. Whatever a peer sends, a refused message leaves the attempt as it was.

use super::messages::{
    Aborted, Answer, Cancel, Decision, Granted, Mode, NoCloud, NoReason, Outcome, Placement, Reclaim, Released,
    Request, RequestFrame, Response, ResponseFrame, SuiteId, Transfer, TransferAck, VerifyCloud, YesCloud, YesService,
};
use crate::{
    advert::Advert,
    ids::{Digest, HostId, MigrationId, MigrationIds, Nonce, PlacementKey, RegistryId},
    limits::CLOCK_SKEW,
    manifest::{Manifest, ServiceType},
    reject::{Guards, Reject, ensure},
    suite::{Secret, Suite, digest, fresh_secret, fresh16},
    time::{Instant, Micros, Now},
    trust::{CoSigned, Receiver, Signed, TrustBundle, Verified},
};

/// What the source's host is and holds: borrowed for the length of one call.
#[derive(Clone, Copy, Debug)]
pub struct SourceParty<'a> {
    /// This host.
    pub me: HostId,
    /// This host's signing secret.
    pub host_secret: &'a Secret,
    /// Who may speak for which registry.
    pub bundle: &'a TrustBundle,
    /// The placement that is to move.
    pub placement: &'a Placement,
    /// vkS's secret.
    pub placement_secret: &'a Secret,
    /// The owner's word.
    pub manifest: &'a Verified<Manifest>,
}

impl SourceParty<'_> {
    const fn registry(&self) -> RegistryId {
        self.placement.service.registry
    }

    fn sign_to_registry<S: Suite, T: crate::trust::Message>(&self, message: &T) -> Signed<T> {
        let registry = self.registry();
        Signed::sign::<S>(self.placement_secret, registry, Receiver::Registry(registry), message)
    }

    /// A certified answer of this service's own Registry to this host.
    fn registry_says<S: Suite, G: Guards, T: crate::trust::Message>(
        &self,
        signed: &Signed<T>,
    ) -> Result<Verified<T>, Reject> {
        self.bundle.verify::<S, G, T>(signed, self.registry(), Receiver::Host(self.me))
    }
}

/// What 7 agreed on: the key of the records and what they are bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    /// K.
    pub key: Secret,
    /// th, the hash of 4 and 7.
    pub transcript: Digest,
    /// vkNew.
    pub new_key: PlacementKey,
    /// N_B.
    pub nonce_b: Nonce,
    /// Whether the module must be sent too.
    pub send_module: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// 2 is out, 3 is awaited.
    Verifying { request: VerifyCloud },
    /// 4 is out, 7 is awaited.
    Offering { ids: MigrationIds, share: Secret, nonce_a: Nonce, request: Signed<Request>, sent: Instant },
    /// 7 is in: records are sent. No promise was made yet.
    Transferring { ids: MigrationIds, nonce_a: Nonce, agreement: Agreement, since: Instant },
    /// Consent was given: only R decides now.
    Frozen { ids: MigrationIds, consented: Consented, acked: bool, since: Instant },
}

/// What must survive a crash of a source that has consented.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Consented {
    /// The consent itself, to be sent again.
    pub consent: CoSigned<Transfer>,
    /// vkNew: the only key that PLACEMENT may name.
    pub new_key: PlacementKey,
    /// th.
    pub transcript: Digest,
    /// h(state).
    pub state: Digest,
    /// N_A, which 9 repeats.
    pub nonce_a: Nonce,
}

/// How R decided, with the placement that now stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The target has it: delete.
    Won(Verified<Placement>),
    /// It is ours, under a fresh lease: serve.
    Ours(Verified<Placement>),
    /// This attempt was aborted, and yet the record is elsewhere: without consent of ours. Stop, keep the state.
    Superseded(Verified<Placement>),
}

/// One attempt to move one service away from here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    target: HostId,
    addresses: Vec<String>,
    phase: Phase,
    /// RECLAIM or CANCEL as sent: repeats are the same bytes.
    reclaim: Option<Signed<Reclaim>>,
    cancel: Option<Signed<Cancel>>,
    durations: (Micros, Micros),
}

impl Source {
    /// Begins with 2: asks R about the cloud behind `advert`. `counter` rises per (service, epoch).
    pub fn start<S: Suite>(
        party: &SourceParty<'_>,
        advert: &Verified<Advert>,
        counter: u64,
        rng: &mut dyn rand_core::Rng,
    ) -> (Self, Signed<VerifyCloud>) {
        let request = VerifyCloud {
            service: party.placement.service,
            epoch: party.placement.epoch,
            key: party.placement.key,
            cloud: advert.cloud,
            host: advert.host,
            advert: advert.hash(),
            counter,
            nonce: Nonce(fresh16(rng)),
        };
        let signed = party.sign_to_registry::<S, _>(&request);
        let source = Self {
            target: advert.host,
            addresses: advert.addresses.clone(),
            phase: Phase::Verifying { request },
            reclaim: None,
            cancel: None,
            durations: (Micros::ZERO, Micros::ZERO),
        };
        (source, signed)
    }

    /// An attempt whose consent was in the journal when the host went down: only R decides.
    pub fn restore(ids: MigrationIds, consented: Consented, addresses: Vec<String>, now: Instant) -> Self {
        Self {
            target: ids.host,
            addresses,
            phase: Phase::Frozen { ids, consented, acked: false, since: now },
            reclaim: None,
            cancel: None,
            durations: (Micros::ZERO, Micros::ZERO),
        }
    }

    /// The host that the service is to move to.
    pub const fn target(&self) -> HostId {
        self.target
    }

    /// Where that host is reached.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The attempt's identifiers, known from 3 on.
    pub const fn ids(&self) -> Option<MigrationIds> {
        match &self.phase {
            Phase::Verifying { .. } => None,
            Phase::Offering { ids, .. } | Phase::Transferring { ids, .. } | Phase::Frozen { ids, .. } => Some(*ids),
        }
    }

    /// Whether only R can decide any more.
    pub const fn has_consented(&self) -> bool {
        matches!(self.phase, Phase::Frozen { .. })
    }

    /// Whether records are on their way (from 7 to the decision).
    pub const fn is_transferring(&self) -> bool {
        matches!(self.phase, Phase::Transferring { .. } | Phase::Frozen { .. })
    }

    /// From sending 4 to receiving 7, and from 7 to 9 or 11, by this host's clock.
    pub const fn durations(&self) -> (Micros, Micros) {
        self.durations
    }

    /// 3, yes: makes 4.
    ///
    /// # Errors
    /// A named rejection; the attempt goes on waiting.
    pub fn handle_yes<S: Suite, G: Guards>(
        &mut self,
        party: &SourceParty<'_>,
        now: Now,
        signed: &Signed<YesCloud>,
        rng: &mut dyn rand_core::Rng,
    ) -> Result<RequestFrame, Reject> {
        let Phase::Verifying { request } = &self.phase else { return Err(Reject::UnexpectedMessage) };
        let verdict = party.registry_says::<S, G, _>(signed)?;
        ensure::<G>(verdict.request.service == request.service, Reject::WrongService)?;
        ensure::<G>(verdict.request.nonce == request.nonce, Reject::WrongNonce)?;
        ensure::<G>(verdict.request == *request, Reject::WrongVerdict)?;
        ensure::<G>(now.wall < verdict.expiry + CLOCK_SKEW, Reject::Expired)?;
        ensure::<G>(verdict.manifest == party.manifest.hash(), Reject::WrongManifest)?;
        ensure::<G>(verdict.resources.cover(&party.manifest.required), Reject::NoResources)?;
        let ids = MigrationIds {
            service: request.service,
            cloud: request.cloud,
            host: request.host,
            mig: verdict.mig,
            epoch: request.epoch,
        };
        let (share, nonce_a) = (fresh_secret(rng), Nonce(fresh16(rng)));
        let message = Request {
            ids,
            key: request.key,
            tos: party.manifest.tos,
            nonce: nonce_a,
            share: S::dh_public(&share),
            verdict: verdict.hash(),
            asked: now.wall,
            required: party.manifest.required,
            manifest: party.manifest.hash(),
            suites: vec![SuiteId::X25519ChaCha20Poly1305],
        };
        let request =
            Signed::sign::<S>(party.placement_secret, party.registry(), Receiver::Host(self.target), &message);
        self.phase = Phase::Offering { ids, share, nonce_a, request: request.clone(), sent: now.mono };
        Ok(RequestFrame { request, verdict: signed.clone(), manifest: party.manifest.signed().clone() })
    }

    /// 3, no: the attempt is over.
    ///
    /// # Errors
    /// A named rejection; the attempt goes on waiting.
    pub fn handle_no<S: Suite, G: Guards>(
        &self,
        party: &SourceParty<'_>,
        signed: &Signed<NoCloud>,
    ) -> Result<NoReason, Reject> {
        let Phase::Verifying { request } = &self.phase else { return Err(Reject::UnexpectedMessage) };
        let verdict = party.registry_says::<S, G, _>(signed)?;
        ensure::<G>(verdict.request == *request, Reject::WrongVerdict)?;
        Ok(verdict.reason)
    }

    /// 7 with 6: agrees on the key. The host now freezes the service and sends the records.
    ///
    /// # Errors
    /// A named rejection; the attempt goes on waiting.
    pub fn handle_response<S: Suite, G: Guards>(
        &mut self,
        party: &SourceParty<'_>,
        now: Now,
        frame: &ResponseFrame,
    ) -> Result<Agreement, Reject> {
        let Phase::Offering { ids, share, nonce_a, request, sent } = &self.phase else {
            return Err(Reject::UnexpectedMessage);
        };
        let registry = party.registry();
        let response = frame.response.verify::<S, G>(&self.target.0, registry, Receiver::Host(party.me))?;
        check_ids::<G>(&response.ids, ids)?;
        ensure::<G>(response.tos == ServiceType::Cloud, Reject::WrongTos)?;
        ensure::<G>(response.nonce_a == *nonce_a, Reject::WrongNonce)?;
        ensure::<G>(response.share_a == S::dh_public(share), Reject::WrongDhShare)?;
        ensure::<G>(response.request == request.hash(), Reject::WrongHash)?;
        ensure::<G>(response.suite == SuiteId::X25519ChaCha20Poly1305, Reject::WrongSuite)?;
        ensure::<G>(response.granted.cover(&party.manifest.required), Reject::NoResources)?;
        // 6 was addressed to B: it is verified under B's name.
        let verdict = party.bundle.verify::<S, G, YesService>(&frame.verdict, registry, Receiver::Host(self.target))?;
        check_ids::<G>(&verdict.request.ids, ids)?;
        ensure::<G>(verdict.request.key == party.placement.key, Reject::WrongPlacementKey)?;
        ensure::<G>(verdict.request.request == request.hash(), Reject::WrongHash)?;
        ensure::<G>(verdict.request.new_key == response.new_key, Reject::WrongPlacementKey)?;
        ensure::<G>(verdict.manifest == party.manifest.hash(), Reject::WrongManifest)?;
        ensure::<G>(verdict.tos == party.manifest.tos, Reject::WrongTos)?;
        ensure::<G>(now.wall < verdict.expiry + CLOCK_SKEW, Reject::Expired)?;
        let transcript = transcript(request, &frame.response);
        let key = S::agree(share, &response.share_b, &transcript).ok_or(Reject::WeakDhShare)?;
        let agreement = Agreement {
            key,
            transcript,
            new_key: response.new_key,
            nonce_b: response.nonce_b,
            send_module: response.needs_module,
        };
        let (ids, nonce_a, took) = (*ids, *nonce_a, now.mono.since(*sent));
        self.durations.0 = took;
        self.phase = Phase::Transferring { ids, nonce_a, agreement: agreement.clone(), since: now.mono };
        Ok(agreement)
    }

    /// All records are out and hash to `state`: makes the consent. The host journals it, then sends it.
    ///
    /// # Errors
    /// [`Reject::UnexpectedMessage`] if no transfer is under way.
    pub fn consent<S: Suite>(&mut self, party: &SourceParty<'_>, state: Digest) -> Result<Consented, Reject> {
        let Phase::Transferring { ids, nonce_a, agreement, since } = &self.phase else {
            return Err(Reject::UnexpectedMessage);
        };
        let transfer = Transfer {
            ids: *ids,
            new_key: agreement.new_key,
            transcript: agreement.transcript,
            nonce_b: agreement.nonce_b,
            state,
            mode: Mode::Registry,
        };
        let consent = CoSigned::sign::<S>(
            party.placement_secret,
            party.host_secret,
            party.registry(),
            Receiver::Host(self.target),
            &transfer,
        );
        let consented = Consented {
            consent,
            new_key: agreement.new_key,
            transcript: agreement.transcript,
            state,
            nonce_a: *nonce_a,
        };
        self.phase = Phase::Frozen { ids: *ids, consented: consented.clone(), acked: false, since: *since };
        Ok(consented)
    }

    /// 9: B holds exactly this state.
    ///
    /// # Errors
    /// A named rejection; nothing changes.
    pub fn handle_ack<S: Suite, G: Guards>(
        &mut self,
        party: &SourceParty<'_>,
        now: Now,
        signed: &Signed<TransferAck>,
    ) -> Result<(), Reject> {
        let Phase::Frozen { ids, consented, acked, since } = &mut self.phase else {
            return Err(Reject::UnexpectedMessage);
        };
        let ack = signed.verify::<S, G>(&self.target.0, party.registry(), Receiver::Host(party.me))?;
        check_ids::<G>(&ack.ids, ids)?;
        ensure::<G>(ack.transcript == consented.transcript, Reject::WrongHash)?;
        ensure::<G>(ack.nonce_a == consented.nonce_a, Reject::WrongNonce)?;
        ensure::<G>(ack.state == consented.state, Reject::WrongState)?;
        ensure::<G>(ack.consent == consented.consent.hash(), Reject::WrongConsent)?;
        if !*acked {
            *acked = true;
            self.durations.1 = now.mono.since(*since);
        }
        Ok(())
    }

    /// 11 for this attempt: the target has the service.
    ///
    /// # Errors
    /// A named rejection; the source stays frozen. A later epoch alone is no answer.
    pub fn handle_placement<S: Suite, G: Guards>(
        &mut self,
        party: &SourceParty<'_>,
        now: Now,
        signed: &Signed<Placement>,
    ) -> Result<Verified<Placement>, Reject> {
        let Phase::Frozen { ids, consented, acked, since } = &self.phase else {
            return Err(Reject::UnexpectedMessage);
        };
        let placement = party.bundle.verify::<S, G, Placement>(signed, party.registry(), Receiver::Anyone)?;
        ensure::<G>(placement.service == ids.service, Reject::WrongService)?;
        ensure::<G>(placement.mig == ids.mig, Reject::WrongMigration)?;
        ensure::<G>(placement.epoch == ids.epoch.next_era(), Reject::WrongEpoch)?;
        ensure::<G>(placement.host == ids.host && placement.cloud == ids.cloud, Reject::WrongCloud)?;
        ensure::<G>(placement.previous == party.me, Reject::WrongCloud)?;
        ensure::<G>(placement.key == consented.new_key, Reject::WrongPlacementKey)?;
        ensure::<G>(placement.manifest == party.manifest.hash(), Reject::WrongManifest)?;
        if !*acked {
            self.durations.1 = now.mono.since(*since);
        }
        Ok(placement)
    }

    /// R's answer to RECLAIM or CANCEL.
    ///
    /// # Errors
    /// A named rejection; the attempt stays as it was.
    pub fn handle_granted<S: Suite, G: Guards>(
        &mut self,
        party: &SourceParty<'_>,
        granted: &Granted,
    ) -> Result<Verdict, Reject> {
        let ids = self.ids().ok_or(Reject::UnexpectedMessage)?;
        let reclaim = self.reclaim.as_ref().map(Signed::hash);
        let cancel = self.cancel.as_ref().map(Signed::hash);
        let placement =
            party.bundle.verify::<S, G, Placement>(&granted.placement, party.registry(), Receiver::Anyone)?;
        ensure::<G>(placement.service == ids.service, Reject::WrongService)?;
        let (about, answers, named, decision) = match &granted.answer {
            Answer::Lease(_) => return Err(Reject::UnexpectedMessage),
            Answer::Aborted(signed) => {
                let Aborted { ids, answers, placement } = (*party.registry_says::<S, G, _>(signed)?).clone();
                (ids, answers, placement, Decision::Aborted)
            }
            Answer::Outcome(signed) => {
                let Outcome { ids, answers, decision, placement } = (*party.registry_says::<S, G, _>(signed)?).clone();
                (ids, answers, placement, decision)
            }
        };
        check_ids::<G>(&about, &ids)?;
        ensure::<G>(Some(answers) == reclaim || Some(answers) == cancel, Reject::WrongHash)?;
        ensure::<G>(named == placement.hash(), Reject::WrongHash)?;
        match decision {
            Decision::Won => {
                ensure::<G>(self.has_consented(), Reject::UnexpectedMessage)?;
                ensure::<G>(placement.epoch > ids.epoch, Reject::WrongEpoch)?;
                Ok(Verdict::Won(placement))
            }
            Decision::Aborted if placement.epoch > ids.epoch => Ok(Verdict::Superseded(placement)),
            Decision::Aborted => {
                ensure::<G>(placement.epoch == ids.epoch, Reject::WrongEpoch)?;
                // The lease is new, all else is the placement that we have.
                let ours = party.placement;
                let here = placement.host == party.me && placement.cloud == ours.cloud;
                ensure::<G>(here && placement.previous == ours.previous, Reject::WrongCloud)?;
                ensure::<G>(placement.mig == ours.mig, Reject::WrongMigration)?;
                ensure::<G>(placement.key == ours.key, Reject::WrongPlacementKey)?;
                ensure::<G>(placement.manifest == ours.manifest, Reject::WrongManifest)?;
                Ok(Verdict::Ours(placement))
            }
        }
    }

    /// RECLAIM: the same bytes each time. `None` before 3 came.
    pub fn reclaim<S: Suite>(
        &mut self,
        party: &SourceParty<'_>,
        rng: &mut dyn rand_core::Rng,
    ) -> Option<Signed<Reclaim>> {
        let ids = self.ids()?;
        let made = self
            .reclaim
            .get_or_insert_with(|| party.sign_to_registry::<S, _>(&Reclaim { ids, nonce: Nonce(fresh16(rng)) }));
        Some(made.clone())
    }

    /// CANCEL, before consent. `None` before 3 came: there is nothing to cancel.
    pub fn cancel<S: Suite>(
        &mut self,
        party: &SourceParty<'_>,
        rng: &mut dyn rand_core::Rng,
    ) -> Option<Signed<Cancel>> {
        let ids = self.ids()?;
        let made = self
            .cancel
            .get_or_insert_with(|| party.sign_to_registry::<S, _>(&Cancel { ids, nonce: Nonce(fresh16(rng)) }));
        Some(made.clone())
    }

    /// 12: the copy here is deleted.
    pub fn released<S: Suite>(&self, party: &SourceParty<'_>, ids: MigrationIds) -> Signed<Released> {
        let registry = party.registry();
        let released = Released { ids, response: self.durations.0, transfer: self.durations.1 };
        Signed::sign::<S>(party.host_secret, registry, Receiver::Registry(registry), &released)
    }

    /// The attempt's `mig`, if R has made one.
    pub fn mig(&self) -> Option<MigrationId> {
        self.ids().map(|ids| ids.mig)
    }

    /// The consent, if it was given.
    pub const fn consented(&self) -> Option<&Consented> {
        match &self.phase {
            Phase::Frozen { consented, .. } => Some(consented),
            Phase::Verifying { .. } | Phase::Offering { .. } | Phase::Transferring { .. } => None,
        }
    }
}

/// th: binds the key to both sides' shares, nonces and the verdicts behind them.
pub(super) fn transcript(request: &Signed<Request>, response: &Signed<Response>) -> Digest {
    digest("wayfare/1 transcript", &[&request.hash().0, &response.hash().0])
}

/// Each identifier separately, so that the rejection says which one differs.
pub(crate) fn check_ids<G: Guards>(got: &MigrationIds, expected: &MigrationIds) -> Result<(), Reject> {
    ensure::<G>(got.service == expected.service, Reject::WrongService)?;
    ensure::<G>(got.mig == expected.mig, Reject::WrongMigration)?;
    ensure::<G>(got.epoch == expected.epoch, Reject::WrongEpoch)?;
    ensure::<G>(got.cloud == expected.cloud && got.host == expected.host, Reject::WrongCloud)
}
