//! Hand-made peers round one Registry, whose store is compared with its memory after every call.

use std::convert::Infallible;

use crate::{
    advert::Advert,
    ids::{Digest, Epoch, HostId, MigrationIds, Nonce, OwnerKey, PlacementKey, ServiceId},
    latency::Coordinate,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{
        Answer, Cancel, CompleteFrame, Enrol, Granted, Mode, Placement, Reclaim, Register, RegisterFrame,
        RegistryFrame, Released, Renew, Transfer, TransferComplete, VerifyCloud, VerifyCloudFrame, VerifyService,
        YesCloud, YesService,
    },
    registry::{Effect, Event, Registry, RegistryConfig, StoreImage, audit::Act},
    reject::{Reject, Strict},
    suite::{Dalek, Secret, Suite},
    time::{Instant, Micros, Now, Timestamp},
    trust::{CoSigned, Message, Receiver, Role, Signed, certificate::cloud_id},
    wire::Frame,
};

pub(super) type R = Registry<Dalek, Strict>;

/// Counts up, so that every test is the same each time.
#[derive(Clone, Debug)]
pub(super) struct Counting(u64);

impl rand_core::TryRng for Counting {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 += 1;
        Ok(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let next = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) secret: Secret,
    pub(super) host: HostId,
    pub(super) name: &'static str,
}

impl Node {
    pub(super) fn new(seed: u8, name: &'static str) -> Self {
        let secret = Secret::new([seed; 32]);
        Self { host: HostId(Dalek::public_key(&secret)), secret, name }
    }
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) registry: R,
    pub(super) image: StoreImage,
    pub(super) now: Now,
    pub(super) rng: Counting,
    pub(super) events: Vec<Event>,
    /// What went into the audit log and was not let out as an event yet.
    noted: Vec<Act>,
    nonces: u64,
}

pub(super) type Sent = Vec<(HostId, RegistryFrame)>;

pub(super) const START: Now = Now { mono: Instant(1_000_000), wall: Timestamp(1_700_000_000_000_000) };

pub(super) fn config() -> RegistryConfig {
    RegistryConfig::new::<Dalek>(Secret::new([250; 32]), vec!["/ip4/127.0.0.1/tcp/4001".to_owned()])
}

impl World {
    pub(super) fn new() -> Self {
        let registry = Registry::new(config());
        Self {
            registry,
            image: StoreImage::new(),
            now: START,
            rng: Counting(0),
            events: Vec::new(),
            noted: Vec::new(),
            nonces: 0,
        }
    }

    pub(super) fn pass(&mut self, length: Micros) {
        self.now.mono = self.now.mono + length;
        self.now.wall = self.now.wall + length;
    }

    pub(super) fn nonce(&mut self) -> Nonce {
        self.nonces += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonces.to_le_bytes());
        Nonce(nonce)
    }

    /// Carries out effects as a driver does: stores, then says so. Nothing may come out before what it rests on.
    pub(super) fn drain(&mut self) -> Sent {
        let mut sent = Vec::new();
        while let Some(effect) = self.registry.poll_effect() {
            match effect {
                Effect::Persist { seq, batch, audit } => {
                    assert!(!batch.is_empty() || !audit.is_empty());
                    self.noted.extend(audit.into_iter().map(|noted| noted.act));
                    assert_eq!(self.registry.clone().poll_effect(), None, "an answer left before its batch was synced");
                    batch.iter().for_each(|op| op.apply(&mut self.image));
                    self.registry.handle_synced(seq);
                }
                Effect::Reply { to, frame } | Effect::Ask { to, frame, .. } => sent.push((to, frame)),
                Effect::Event(event) => {
                    let noted = if self.noted.is_empty() { None } else { Some(self.noted.remove(0)) };
                    assert_eq!(noted, Act::of(&event), "a decision without its entry in the audit log");
                    self.events.push(event);
                }
            }
        }
        self.check_restore();
        sent
    }

    fn check_restore(&self) {
        let restored = self.restored();
        assert_eq!(restored.tables, self.registry.tables, "the store and the memory differ");
    }

    pub(super) fn restored(&self) -> R {
        let rows = self.image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        Registry::restore(config(), self.now, rows).unwrap()
    }

    /// The Registry crashes and comes back with what is on disk.
    pub(super) fn restart(&mut self) {
        self.registry = self.restored();
    }

    pub(super) fn send(&mut self, peer: HostId, frame: &RegistryFrame) -> (Result<(), Reject>, Sent) {
        let result = self.registry.handle_frame(self.now, &mut self.rng, peer, &frame.to_bytes());
        (result, self.drain())
    }

    /// Sends what must be accepted; returns the answers.
    pub(super) fn ok(&mut self, peer: &Node, frame: &RegistryFrame) -> Sent {
        let (result, sent) = self.send(peer.host, frame);
        assert_eq!(result, Ok(()), "{frame:?}");
        sent
    }

    /// Sends what must be accepted, and has one answer for the sender.
    pub(super) fn ask(&mut self, peer: &Node, frame: &RegistryFrame) -> RegistryFrame {
        let mut sent = self.ok(peer, frame);
        assert_eq!(sent.len(), 1, "{sent:?}");
        let (to, answer) = sent.remove(0);
        assert_eq!(to, peer.host);
        answer
    }

    /// Sends what must be refused under this name, counted, and leave every placement alone.
    pub(super) fn refused(&mut self, peer: &Node, frame: &RegistryFrame, reject: Reject) -> Sent {
        let before = (self.registry.rejects().get(reject), self.registry.tables.services.len());
        let placements: Vec<Placement> =
            self.registry.placements(self.now).map(|view| view.placement.clone()).collect();
        let (result, sent) = self.send(peer.host, frame);
        assert_eq!(result, Err(reject), "{frame:?}");
        assert_eq!(self.registry.rejects().get(reject), before.0 + 1);
        let after: Vec<Placement> = self.registry.placements(self.now).map(|view| view.placement.clone()).collect();
        assert_eq!(placements, after);
        if super::super::is_violation(reject) {
            assert!(sent.iter().all(|(_, frame)| !matches!(frame, RegistryFrame::Refused(_))));
        } else {
            assert!(!sent.is_empty(), "an honest peer is told why: {reject:?}");
        }
        sent
    }

    pub(super) fn sign<T: Message>(&self, secret: &Secret, receiver: Receiver, message: &T) -> Signed<T> {
        Signed::sign::<Dalek>(secret, self.registry.id(), receiver, message)
    }

    pub(super) fn to_registry<T: Message>(&self, secret: &Secret, message: &T) -> Signed<T> {
        self.sign(secret, Receiver::Registry(self.registry.id()), message)
    }

    /// What R signed, checked as `host` checks it.
    pub(super) fn believe<T: Message + Clone>(&self, host: HostId, signed: &Signed<T>) -> T {
        let key = self.registry.host().0;
        (*signed.verify::<Dalek, Strict>(&key, self.registry.id(), Receiver::Host(host)).unwrap()).clone()
    }

    pub(super) fn believe_placement(&self, signed: &Signed<Placement>) -> Placement {
        let key = self.registry.host().0;
        (*signed.verify::<Dalek, Strict>(&key, self.registry.id(), Receiver::Anyone).unwrap()).clone()
    }

    pub(super) fn token(&mut self, name: &str, role: Role) -> Digest {
        let lifetime = Micros::from_secs(3600);
        let token = self.registry.create_join_token(self.now, &mut self.rng, name, role, lifetime).unwrap();
        self.drain();
        token.secret.hash()
    }

    pub(super) fn enrol_frame(&mut self, node: &Node, role: Role, token: Digest) -> RegistryFrame {
        let enrol = Enrol { host: node.host, role, region: "eu-north".to_owned(), token, nonce: self.nonce() };
        RegistryFrame::Enrol(self.to_registry(&node.secret, &enrol))
    }

    pub(super) fn enrol(&mut self, seed: u8, name: &'static str, role: Role) -> Node {
        let node = Node::new(seed, name);
        let token = self.token(name, role);
        let frame = self.enrol_frame(&node, role, token);
        assert!(matches!(self.ask(&node, &frame), RegistryFrame::Enrolled(_)));
        node
    }

    pub(super) fn advert(&self, node: &Node, edit: impl FnOnce(&mut Advert)) -> Signed<Advert> {
        let certificate = self.registry.tables.hosts.get(node.host).unwrap().signed.clone();
        let mut advert = Advert {
            registry: self.registry.id(),
            cloud: cloud_id(self.registry.id(), node.name),
            host: node.host,
            tos: ServiceType::Cloud,
            resources: Resources {
                cpu_millicores: 4000,
                memory_bytes: 1 << 32,
                storage_bytes: 1 << 33,
                bandwidth_bps: 0,
            },
            price_micros: 1,
            addresses: vec![format!("/dns/{}/tcp/1", node.name)],
            coordinate: Coordinate::default(),
            certificate,
            cordoned: false,
            serial: 1,
            expiry: self.now.wall + Micros::from_secs(30),
        };
        edit(&mut advert);
        self.sign(&node.secret, Receiver::Anyone, &advert)
    }
}

/// A service and the two hosts that it moves between.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) id: ServiceId,
    pub(super) owner: Secret,
    pub(super) key: Secret,
    pub(super) epoch: Epoch,
    pub(super) counter: u64,
}

pub(super) fn required() -> Resources {
    Resources { cpu_millicores: 100, memory_bytes: 1 << 26, storage_bytes: 0, bandwidth_bps: 0 }
}

impl World {
    pub(super) fn manifest(&self, owner: &Secret, name: &str) -> Manifest {
        let key = OwnerKey(Dalek::public_key(owner));
        Manifest {
            service: service_id(self.registry.id(), key, name),
            name: name.to_owned(),
            owner: key,
            version: 1,
            code: Digest([7; 32]),
            tos: ServiceType::Request,
            required: required(),
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: Vec::new(),
            allowed_regions: Vec::new(),
            allowed_domains: Vec::new(),
            durability: Durability::Log,
            token_policy: TokenPolicy::Refuse,
        }
    }

    pub(super) fn register_frame(
        &mut self,
        host: &Node,
        owner: &Secret,
        key: &Secret,
        manifest: &Manifest,
        edit: impl FnOnce(&mut Register),
    ) -> RegistryFrame {
        let manifest_signed = self.sign(owner, Receiver::Anyone, manifest);
        let mut register = Register {
            service: manifest.service,
            manifest: manifest_signed.hash(),
            key: PlacementKey(Dalek::public_key(key)),
            host: host.host,
            nonce: self.nonce(),
        };
        edit(&mut register);
        let register = self.to_registry(key, &register);
        let addresses = vec![format!("/dns/{}/tcp/1", host.name)];
        RegistryFrame::Register(RegisterFrame { register, manifest: manifest_signed, addresses })
    }

    pub(super) fn register(&mut self, host: &Node, name: &str, edit: impl FnOnce(&mut Manifest)) -> Service {
        let (owner, key) = (Secret::new([200; 32]), Secret::new([201; 32]));
        let mut manifest = self.manifest(&owner, name);
        edit(&mut manifest);
        let frame = self.register_frame(host, &owner, &key, &manifest, |_| ());
        let RegistryFrame::Granted(granted) = self.ask(host, &frame) else { panic!("not granted") };
        assert!(matches!(granted.answer, Answer::Lease(_)));
        Service { id: manifest.service, owner, key, epoch: Epoch::FIRST, counter: 0 }
    }

    pub(super) fn two(
        &mut self,
        service: &mut Service,
        to: &Node,
        edit: impl FnOnce(&mut VerifyCloud),
    ) -> RegistryFrame {
        let advert = self.advert(to, |_| ());
        self.two_with(service, to, advert, edit)
    }

    pub(super) fn two_with(
        &mut self,
        service: &mut Service,
        to: &Node,
        advert: Signed<Advert>,
        edit: impl FnOnce(&mut VerifyCloud),
    ) -> RegistryFrame {
        service.counter += 1;
        let mut request = VerifyCloud {
            service: service.id,
            epoch: service.epoch,
            key: PlacementKey(Dalek::public_key(&service.key)),
            cloud: cloud_id(self.registry.id(), to.name),
            host: to.host,
            advert: advert.hash(),
            counter: service.counter,
            nonce: self.nonce(),
        };
        edit(&mut request);
        let request = self.to_registry(&service.key, &request);
        RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert })
    }

    /// 2 and 3.
    pub(super) fn allowed(&mut self, service: &mut Service, from: &Node, to: &Node) -> (Attempt, YesCloud) {
        let frame = self.two(service, to, |_| ());
        let RegistryFrame::YesCloud(signed) = self.ask(from, &frame) else { panic!("no") };
        let yes = self.believe(from.host, &signed);
        let ids = MigrationIds {
            service: service.id,
            cloud: yes.request.cloud,
            host: to.host,
            mig: yes.mig,
            epoch: service.epoch,
        };
        let new_key = crate::suite::fresh_secret(&mut self.rng);
        let attempt = Attempt { ids, from: from.clone(), to: to.clone(), key: service.key.clone(), new_key };
        (attempt, yes)
    }

    /// A 2 that must be accepted, without the comparison of store and memory: for tests that need thousands.
    pub(super) fn quick_two(&mut self, service: &mut Service, from: &Node, to: &Node) {
        let frame = self.two(service, to, |_| ());
        self.registry.handle_frame(self.now, &mut self.rng, from.host, &frame.to_bytes()).unwrap();
        while let Some(effect) = self.registry.poll_effect() {
            if let Effect::Persist { seq, batch, .. } = effect {
                batch.iter().for_each(|op| op.apply(&mut self.image));
                self.registry.handle_synced(seq);
            }
        }
    }

    /// 2 to 6.
    pub(super) fn pinned(&mut self, service: &mut Service, from: &Node, to: &Node) -> Attempt {
        let (attempt, _) = self.allowed(service, from, to);
        let frame = self.five(&attempt, |_| ());
        let RegistryFrame::YesService(signed) = self.ask(to, &frame) else { panic!("no") };
        let yes: YesService = self.believe(to.host, &signed);
        assert_eq!(yes.request.ids, attempt.ids);
        attempt
    }

    /// 2 to 11: the service is at `to`.
    pub(super) fn moved(&mut self, service: &mut Service, from: &Node, to: &Node) -> (Attempt, RegistryFrame) {
        let attempt = self.pinned(service, from, to);
        let frame = self.ten(&attempt, |_| (), |_| ());
        let sent = self.ok(to, &frame);
        assert_eq!(sent.len(), 2);
        service.key = attempt.new_key.clone();
        service.epoch = service.epoch.next_era();
        service.counter = 0;
        (attempt, frame)
    }

    pub(super) fn five(&self, attempt: &Attempt, edit: impl FnOnce(&mut VerifyService)) -> RegistryFrame {
        let mut request = VerifyService {
            ids: attempt.ids,
            key: PlacementKey(Dalek::public_key(&attempt.key)),
            nonce: Nonce([77; 16]),
            request: Digest([4; 32]),
            new_key: PlacementKey(Dalek::public_key(&attempt.new_key)),
        };
        edit(&mut request);
        RegistryFrame::VerifyService(self.to_registry(&attempt.to.secret, &request))
    }

    pub(super) fn consent(&self, attempt: &Attempt, edit: impl FnOnce(&mut Transfer)) -> CoSigned<Transfer> {
        let mut transfer = Transfer {
            ids: attempt.ids,
            new_key: PlacementKey(Dalek::public_key(&attempt.new_key)),
            transcript: Digest([5; 32]),
            nonce_b: Nonce([6; 16]),
            state: Digest([7; 32]),
            mode: Mode::Registry,
        };
        edit(&mut transfer);
        let (key, host) = (&attempt.key, &attempt.from.secret);
        CoSigned::sign::<Dalek>(key, host, self.registry.id(), Receiver::Host(attempt.to.host), &transfer)
    }

    pub(super) fn ten(
        &self,
        attempt: &Attempt,
        edit_consent: impl FnOnce(&mut Transfer),
        edit: impl FnOnce(&mut TransferComplete),
    ) -> RegistryFrame {
        let consent = self.consent(attempt, edit_consent);
        self.ten_with(attempt, consent, edit)
    }

    pub(super) fn ten_with(
        &self,
        attempt: &Attempt,
        consent: CoSigned<Transfer>,
        edit: impl FnOnce(&mut TransferComplete),
    ) -> RegistryFrame {
        let mut complete = TransferComplete {
            ids: attempt.ids,
            tos: ServiceType::Request,
            new_key: PlacementKey(Dalek::public_key(&attempt.new_key)),
            transcript: Digest([5; 32]),
            state: Digest([7; 32]),
            consent: consent.hash(),
            asked: START.wall,
            answered: START.wall + Micros::from_millis(40),
            completed: START.wall + Micros::from_millis(100),
        };
        edit(&mut complete);
        let (id, receiver) = (self.registry.id(), Receiver::Registry(self.registry.id()));
        let complete = CoSigned::sign::<Dalek>(&attempt.new_key, &attempt.to.secret, id, receiver, &complete);
        RegistryFrame::Complete(CompleteFrame { complete, consent })
    }

    pub(super) fn twelve(&self, attempt: &Attempt, edit: impl FnOnce(&mut Released)) -> RegistryFrame {
        let mut released =
            Released { ids: attempt.ids, response: Micros::from_millis(60), transfer: Micros::from_millis(62) };
        edit(&mut released);
        RegistryFrame::Released(self.to_registry(&attempt.from.secret, &released))
    }

    pub(super) fn reclaim(&mut self, attempt: &Attempt) -> RegistryFrame {
        let reclaim = Reclaim { ids: attempt.ids, nonce: self.nonce() };
        RegistryFrame::Reclaim(self.to_registry(&attempt.key, &reclaim))
    }

    pub(super) fn cancel(&mut self, attempt: &Attempt) -> RegistryFrame {
        let cancel = Cancel { ids: attempt.ids, nonce: self.nonce() };
        RegistryFrame::Cancel(self.to_registry(&attempt.key, &cancel))
    }

    pub(super) fn renew(&mut self, service: &Service, edit: impl FnOnce(&mut Renew)) -> RegistryFrame {
        let ids = self.registry.placement(service.id).unwrap().ids();
        let mut renew = Renew { ids, nonce: self.nonce() };
        edit(&mut renew);
        RegistryFrame::Renew(self.to_registry(&service.key, &renew))
    }
}

/// One migration under way.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) ids: MigrationIds,
    pub(super) from: Node,
    pub(super) to: Node,
    pub(super) key: Secret,
    pub(super) new_key: Secret,
}

pub(super) fn granted(frame: RegistryFrame) -> Granted {
    match frame {
        RegistryFrame::Granted(granted) => granted,
        other => panic!("not granted: {other:?}"),
    }
}

/// A home, two clouds and a service that starts at home.
pub(super) fn world() -> (World, Service, Node, Node, Node) {
    let mut world = World::new();
    let home = world.enrol(1, "home", Role::Home);
    let fjord = world.enrol(2, "fjord", Role::Cloud);
    let delta = world.enrol(3, "delta", Role::Cloud);
    let service = world.register(&home, "kv", |_| ());
    (world, service, home, fjord, delta)
}
