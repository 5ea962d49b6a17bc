//! The messages that an attacker makes, each with the secrets that it has. Where it lacks one, it signs with another.

use wayfare_protocol::{
    ids::{Digest, HostId, MigrationIds, Nonce, PlacementKey, RegistryId},
    manifest::{Resources, ServiceType},
    migration::messages::{
        Aborted, Answer, Cancel, CompleteFrame, Decision, Granted, MigrateFrame, MigrateRefused, MigrationRef, Mode,
        Outcome, Placement, Reclaim, RegistryFrame, Released, Renew, Request, RequestFrame, Response, ResponseFrame,
        SuiteId, Transfer, TransferAck, TransferComplete, VerifyCloud, VerifyCloudFrame, VerifyService,
    },
    suite::{Secret, Suite, digest},
    time::Micros,
    trust::{CoSigned, Message, Receiver, Signed},
    wire::Frame as _,
};

use super::{
    attacker::{Heard, Knowledge, of},
    message::{Body, Envelope, Party, REGISTRY},
    symbolic::Symbolic,
    world::World,
};

/// A hash of nothing that exists.
const NOTHING: Digest = Digest([0xee; 32]);
/// A counter and a nonce of its own.
const COUNTER: u64 = 1_800_000_000_500_000;
const NONCE: Nonce = Nonce([0xee; 16]);

/// Makes messages.
pub(super) struct Forger<'a> {
    world: &'a World,
    knows: &'a Knowledge,
    heard: &'a Heard,
    pub(super) made: Vec<Envelope>,
}

fn key(secret: &Secret) -> PlacementKey {
    PlacementKey(Symbolic::public_key(secret))
}

impl<'a> Forger<'a> {
    pub(super) const fn new(world: &'a World, knows: &'a Knowledge, heard: &'a Heard) -> Self {
        Self { world, knows, heard, made: Vec::new() }
    }

    fn registry(&self) -> RegistryId {
        self.world.service.registry
    }

    fn say(&mut self, to: Party, body: Body) {
        self.made.push(Envelope { from: self.knows.party, to, body });
    }

    fn say_to_peer(&mut self, to: Party, frame: &MigrateFrame) {
        self.say(to, Body::Migrate(frame.to_bytes()));
    }

    fn ask(&mut self, frame: &RegistryFrame) {
        self.say(REGISTRY, Body::Registry(frame.to_bytes()));
    }

    /// Signed with `secret` for the Registry.
    fn hears<T: Message>(&self, secret: &Secret, message: &T) -> Signed<T> {
        Signed::sign::<Symbolic>(secret, self.registry(), Receiver::Registry(self.registry()), message)
    }

    /// The placement key that it says is the service's, and its best guess at the secret.
    fn placement_secret(&self) -> Secret {
        self.knows.stolen.clone().unwrap_or_else(|| self.knows.own.clone())
    }

    /// What it says to the Registry, as itself.
    pub(super) fn tell_registry(&mut self) {
        let secret = self.placement_secret();
        let placements: Vec<Placement> = self.heard.placements.iter().map(|(placement, _)| placement.clone()).collect();
        for placement in &placements {
            let renew = self.hears(&secret, &Renew { ids: placement.ids(), nonce: NONCE });
            self.ask(&RegistryFrame::Renew(renew));
            self.verify_cloud(placement, &secret);
        }
        for ids in self.heard.ids.clone() {
            let reclaim = self.hears(&secret, &Reclaim { ids, nonce: NONCE });
            self.ask(&RegistryFrame::Reclaim(reclaim));
            let cancel = self.hears(&secret, &Cancel { ids, nonce: Nonce([0xef; 16]) });
            self.ask(&RegistryFrame::Cancel(cancel));
            let released = Released { ids, response: Micros::ZERO, transfer: Micros::ZERO };
            let released = self.hears(&self.knows.secret, &released);
            self.ask(&RegistryFrame::Released(released));
            self.verify_service(ids);
            self.complete(ids);
        }
    }

    /// 2: to its own cloud, with a placement key that it has.
    fn verify_cloud(&mut self, placement: &Placement, secret: &Secret) {
        let Some((advert, cloud)) = self.world.advert(self.knows.party) else { return };
        let (service, epoch, host) = (placement.service, placement.epoch, self.knows.host);
        let (counter, nonce, advert_hash) = (COUNTER, NONCE, advert.hash());
        let two = VerifyCloud { service, epoch, key: key(secret), cloud, host, advert: advert_hash, counter, nonce };
        let request = self.hears(secret, &two);
        self.ask(&RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert }));
    }

    /// 5: for an attempt of its own as it should be, for any other with its own key.
    fn verify_service(&mut self, ids: MigrationIds) {
        let request = of(&self.heard.requests, ids).next().map(|frame| frame.request.clone());
        let hash = request.as_ref().map_or(NOTHING, Signed::hash);
        let of_record = request.and_then(|request| request.unverified().ok()).map(|request| request.key);
        let key_now = of_record.unwrap_or_else(|| key(&self.placement_secret()));
        let five = VerifyService { ids, key: key_now, nonce: NONCE, request: hash, new_key: key(&self.knows.own) };
        let signed = self.hears(&self.knows.secret, &five);
        self.ask(&RegistryFrame::VerifyService(signed));
    }

    /// A consent that it makes itself: the placement key's half perhaps rightly, the host's half never.
    fn consent(&self, ids: MigrationIds) -> CoSigned<Transfer> {
        let new_key = key(&self.knows.own);
        let transfer =
            Transfer { ids, new_key, transcript: NOTHING, nonce_b: NONCE, state: NOTHING, mode: Mode::Registry };
        let (placement, receiver) = (self.placement_secret(), Receiver::Host(ids.host));
        CoSigned::sign::<Symbolic>(&placement, &self.knows.secret, self.registry(), receiver, &transfer)
    }

    /// 10: with every consent that it has heard, of this attempt or another, and with its own.
    fn complete(&mut self, ids: MigrationIds) {
        let mut consents: Vec<CoSigned<Transfer>> =
            self.heard.consents.iter().map(|(_, consent)| consent.clone()).collect();
        consents.push(self.consent(ids));
        for consent in consents {
            let Ok(transfer) = consent.unverified() else { continue };
            let now = self.world.wall();
            let complete = TransferComplete {
                ids,
                tos: ServiceType::Request,
                new_key: key(&self.knows.own),
                transcript: transfer.transcript,
                state: transfer.state,
                consent: consent.hash(),
                asked: now,
                answered: now,
                completed: now,
            };
            let receiver = Receiver::Registry(self.registry());
            let (own, host) = (&self.knows.own, &self.knows.secret);
            let complete = CoSigned::sign::<Symbolic>(own, host, self.registry(), receiver, &complete);
            self.ask(&RegistryFrame::Complete(CompleteFrame { complete, consent }));
        }
    }

    /// What it says to a cloud, as itself.
    pub(super) fn tell_host(&mut self, to: Party) {
        let Some(host) = self.world.host(to) else { return };
        for ids in self.heard.ids.clone() {
            self.request(to, host, ids);
            self.response(to, host, ids);
            self.transfer(to, host, ids);
            self.ack(to, host, ids);
            let refused = MigrateRefused { mig: ids.mig, reason: "expired".to_owned() };
            self.say_to_peer(to, &MigrateFrame::Refused(refused));
            self.say_to_peer(to, &MigrateFrame::Abandon(MigrationRef { mig: ids.mig }));
        }
    }

    /// 4: with a verdict that was another's, and its own share.
    fn request(&mut self, to: Party, host: HostId, ids: MigrationIds) {
        let secret = self.placement_secret();
        let verdicts: Vec<_> = of(&self.heard.verdicts, ids).cloned().collect();
        let manifest = self.world.manifest();
        for verdict in verdicts {
            let request = Request {
                ids,
                key: key(&secret),
                tos: ServiceType::Request,
                nonce: NONCE,
                share: Symbolic::dh_public(&self.knows.own),
                verdict: verdict.hash(),
                asked: self.world.wall(),
                required: self.world.required(),
                manifest: manifest.hash(),
                suites: vec![SuiteId::X25519ChaCha20Poly1305],
            };
            let request = Signed::sign::<Symbolic>(&secret, self.registry(), Receiver::Host(host), &request);
            let frame = RequestFrame { request, verdict, manifest: manifest.clone() };
            self.say_to_peer(to, &MigrateFrame::Request(frame));
        }
    }

    /// 7: with the 6 that it has heard, and its own key and share.
    fn response(&mut self, to: Party, host: HostId, ids: MigrationIds) {
        let requests: Vec<_> = of(&self.heard.requests, ids).cloned().collect();
        let pins: Vec<_> = of(&self.heard.pins, ids).cloned().collect();
        for (frame, verdict) in requests.into_iter().zip(pins) {
            let Ok(request) = frame.request.unverified() else { continue };
            let response = Response {
                ids,
                tos: ServiceType::Cloud,
                nonce_a: request.nonce,
                nonce_b: NONCE,
                share_a: request.share,
                share_b: Symbolic::dh_public(&self.knows.own),
                request: frame.request.hash(),
                new_key: key(&self.knows.own),
                suite: SuiteId::X25519ChaCha20Poly1305,
                answered: self.world.wall(),
                granted: Resources { cpu_millicores: u32::MAX, ..self.world.required() },
                needs_module: false,
            };
            let (registry, receiver) = (self.registry(), Receiver::Host(host));
            let response = Signed::sign::<Symbolic>(&self.knows.secret, registry, receiver, &response);
            self.say_to_peer(to, &MigrateFrame::Response(ResponseFrame { response, verdict }));
        }
    }

    /// 8: a consent that names what was agreed between others.
    fn transfer(&mut self, to: Party, host: HostId, ids: MigrationIds) {
        let requests: Vec<_> = of(&self.heard.requests, ids).cloned().collect();
        let responses: Vec<_> = of(&self.heard.responses, ids).cloned().collect();
        for (request, frame) in requests.into_iter().zip(responses) {
            let Ok(response) = frame.response.unverified() else { continue };
            let transcript = digest("wayfare/1 transcript", &[&request.request.hash().0, &frame.response.hash().0]);
            let (new_key, nonce_b) = (response.new_key, response.nonce_b);
            let transfer = Transfer { ids, new_key, transcript, nonce_b, state: NOTHING, mode: Mode::Registry };
            let (secret, own) = (self.placement_secret(), &self.knows.secret);
            let receiver = Receiver::Host(host);
            let consent = CoSigned::sign::<Symbolic>(&secret, own, self.registry(), receiver, &transfer);
            self.say_to_peer(to, &MigrateFrame::Transfer(consent));
        }
    }

    /// 9: for a consent that it has heard.
    fn ack(&mut self, to: Party, host: HostId, ids: MigrationIds) {
        let requests: Vec<_> = of(&self.heard.requests, ids).cloned().collect();
        let consents: Vec<_> = of(&self.heard.consents, ids).cloned().collect();
        for (frame, consent) in requests.into_iter().zip(consents) {
            let (Ok(request), Ok(transfer)) = (frame.request.unverified(), consent.unverified()) else { continue };
            let ack = TransferAck {
                ids,
                transcript: transfer.transcript,
                nonce_a: request.nonce,
                state: transfer.state,
                consent: consent.hash(),
                completed: self.world.wall(),
            };
            let ack = Signed::sign::<Symbolic>(&self.knows.secret, self.registry(), Receiver::Host(host), &ack);
            self.say_to_peer(to, &MigrateFrame::TransferAck(ack));
        }
    }

    /// What it says to a cloud in the Registry's name: decisions signed by itself, and what was said to others.
    pub(super) fn in_the_registrys_name(&mut self, to: Party) {
        let Some(host) = self.world.host(to) else { return };
        for (_, bytes) in self.heard.told.iter().filter(|(other, _)| *other != to) {
            self.made.push(Envelope { from: self.knows.party, to, body: Body::Registry(bytes.clone()) });
        }
        for ids in self.heard.ids.clone() {
            let Some((now, signed_now)) =
                self.heard.placements.iter().rev().find(|(placement, _)| placement.epoch == ids.epoch).cloned()
            else {
                continue;
            };
            let pinned = of(&self.heard.pins, ids).next().and_then(|pin| pin.unverified().ok());
            let new_key = pinned.map_or_else(|| key(&self.knows.own), |pin| pin.request.new_key);
            let moved = Placement {
                epoch: ids.epoch.next_era(),
                cloud: ids.cloud,
                host: ids.host,
                key: new_key,
                mig: ids.mig,
                previous: now.host,
                ..now
            };
            let moved = Signed::sign::<Symbolic>(&self.knows.secret, self.registry(), Receiver::Anyone, &moved);
            self.say(to, Body::Registry(RegistryFrame::Placement(moved.clone()).to_bytes()));
            for answers in self.heard.asked.clone() {
                self.decide(to, host, ids, answers, &moved, &signed_now);
            }
        }
    }

    /// OUTCOME and ABORTED.
    fn decide(
        &mut self,
        to: Party,
        host: HostId,
        ids: MigrationIds,
        answers: Digest,
        moved: &Signed<Placement>,
        now: &Signed<Placement>,
    ) {
        let (secret, registry, receiver) = (&self.knows.secret, self.registry(), Receiver::Host(host));
        let won = Outcome { ids, answers, decision: Decision::Won, placement: moved.hash() };
        let won = Signed::sign::<Symbolic>(secret, registry, receiver, &won);
        let aborted = Aborted { ids, answers, placement: now.hash() };
        let aborted = Signed::sign::<Symbolic>(secret, registry, receiver, &aborted);
        let dropped = Outcome { ids, answers, decision: Decision::Aborted, placement: now.hash() };
        let dropped = Signed::sign::<Symbolic>(secret, registry, receiver, &dropped);
        let granted = [
            Granted { answer: Answer::Outcome(won), placement: moved.clone() },
            Granted { answer: Answer::Aborted(aborted), placement: now.clone() },
            Granted { answer: Answer::Outcome(dropped), placement: now.clone() },
        ];
        for granted in granted {
            self.say(to, Body::Registry(RegistryFrame::Granted(granted).to_bytes()));
        }
    }
}
