//! A whole move in memory: one Registry, a home, two clouds and a gateway, all production machines, with instant links
//! and a journal that syncs at once. The "guest" counts its calls, so that executing twice or losing state shows.

use std::collections::{BTreeMap, VecDeque};

use rand_core::{TryRng, utils};
use wayfare_protocol::{
    advert::Gossip,
    gateway::{
        self, Gateway, GatewayConfig, Ticket,
        messages::{ClientFrame, LatencyReport, Open},
    },
    host::{Base, CaptureJob, Effect, Entry, Host, HostConfig, Identity, ImageId, ReceiveJob, Restored, hosted::Stay},
    ids::{Digest, HostId, MigrationId, OwnerKey, ServiceId},
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, STEP_TIMEOUT},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::{messages::*, trace::Ending},
    placement::{PlacementConfig, Policy},
    registry::{self, Registry, RegistryConfig},
    reject::{Reject, Strict},
    suite::{Dalek, Secret, Suite, fresh_secret},
    time::{Instant, Micros, Now, Timestamp},
    transfer::{Opener, RecordKind, SealedRecord, Sealer, state_digest},
    trust::{Receiver, Role, Signed, TrustBundle},
    wire::Frame,
};

/// A repeatable source of bytes.
struct Seeded(u64);

impl TryRng for Seeded {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        utils::fill_bytes_via_next_word(bytes, || self.try_next_u64())
    }
}

const CAPACITY: Resources =
    Resources { cpu_millicores: 4000, memory_bytes: 1 << 30, storage_bytes: 1 << 30, bandwidth_bps: 1 << 30 };
const CODE: Digest = Digest([7; 32]);

/// The guest's state.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Counter(u64);

impl Counter {
    fn call(&mut self) -> Vec<u8> {
        self.0 += 1;
        format!("HTTP/1.1 200 OK\r\n\r\n{}", self.0).into_bytes()
    }

    fn digest(self, salt: &Digest) -> Digest {
        wayfare_protocol::suite::digest("guest", &[&salt.0, &self.0.to_le_bytes()])
    }
}

enum Message {
    Registry { from: HostId, to: HostId, frame: RegistryFrame },
    Migrate { from: HostId, to: HostId, frame: MigrateFrame },
    Client { from: HostId, to: HostId, bytes: Vec<u8> },
    State { mig: MigrationId, to: HostId, records: Vec<SealedRecord> },
    Gossip { bytes: Vec<u8> },
}

struct Node {
    host: Host,
    /// What a new machine is made of after a crash.
    parts: (Identity, HostConfig),
    running: BTreeMap<Stay, Counter>,
    landing: BTreeMap<MigrationId, (Option<ReceiveJob>, Option<Counter>)>,
    journal: Vec<(u64, Entry)>,
    images: BTreeMap<ImageId, (Counter, Vec<u8>)>,
    /// The journal takes entries, but they do not reach the disk.
    slow_disk: bool,
}

struct World {
    now: Now,
    rng: Seeded,
    bundle: TrustBundle,
    /// Of the next deployment.
    durability: Durability,
    registry: Registry<Dalek, Strict>,
    nodes: BTreeMap<HostId, Node>,
    gateway: Gateway<Dalek, Strict>,
    gateway_id: HostId,
    wires: VecDeque<Message>,
    answers: BTreeMap<Ticket, String>,
    /// Drops what it says yes to.
    loses: Box<dyn Fn(&Message) -> bool>,
}

impl World {
    fn new() -> Self {
        let mut rng = Seeded(1);
        let now = Now { mono: Instant(1_000_000), wall: Timestamp(1_800_000_000_000_000) };
        let mut registry = Registry::new(RegistryConfig::new::<Dalek>(fresh_secret(&mut rng), vec!["/r".to_owned()]));
        let bundle = TrustBundle::new(vec![registry.anchor()]);
        let mut enrol = |rng: &mut Seeded, name: &str, role: Role| {
            let secret = fresh_secret(rng);
            let me = HostId(Dalek::public_key(&secret));
            let token = registry.create_join_token(now, rng, name, role, Micros::from_secs(60)).expect("there is room");
            let enrol = Enrol {
                host: me,
                role,
                region: "lab".to_owned(),
                token: token.secret.hash(),
                nonce: wayfare_protocol::ids::Nonce([0; 16]),
            };
            let signed = Signed::sign::<Dalek>(&secret, registry.id(), Receiver::Registry(registry.id()), &enrol);
            registry.handle_frame(now, rng, me, &RegistryFrame::Enrol(signed).to_bytes()).expect("an honest enrolment");
            let mut certificate = None;
            while let Some(effect) = registry.poll_effect() {
                match effect {
                    registry::Effect::Persist { seq, .. } => registry.handle_synced(seq),
                    registry::Effect::Reply { frame: RegistryFrame::Enrolled(enrolled), .. } => {
                        certificate = Some(enrolled.certificate);
                    }
                    _ => {}
                }
            }
            (secret, me, certificate.expect("enrolled"))
        };
        let mut nodes = BTreeMap::new();
        for (name, role) in [("home", Role::Home), ("alpha", Role::Cloud), ("beta", Role::Cloud)] {
            let (secret, me, certificate) = enrol(&mut rng, name, role);
            let (id, certificate) =
                bundle.verify_certificate::<Dalek, Strict>(&certificate, me, &[role], now.wall).expect("genuine");
            let identity = Identity { secret, registry: id, certificate };
            let placement = PlacementConfig { policy: Policy::Never, ..PlacementConfig::default() };
            let config = HostConfig {
                capacity: CAPACITY,
                price_micros: 0,
                placement,
                step_timeout: STEP_TIMEOUT,
                image_log_bytes: IMAGE_LOG_BYTES_MIN,
                compact_journal_bytes: COMPACT_JOURNAL_BYTES_MIN,
            };
            let mut host = Host::new(identity.clone(), config.clone(), bundle.clone(), 0);
            host.set_addresses(vec![format!("/{name}")]);
            let (running, landing, images) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let (parts, journal) = ((identity, config), Vec::new());
            nodes.insert(me, Node { host, parts, running, landing, journal, images, slow_disk: false });
        }
        let (_, gateway_id, certificate) = enrol(&mut rng, "user", Role::Gateway);
        let config = GatewayConfig::new(gateway_id, certificate, bundle.clone(), registry.id());
        let gateway = Gateway::new(config, &[], 0, &mut rng);
        let loses = Box::new(|_: &Message| false);
        let (wires, answers) = (VecDeque::new(), BTreeMap::new());
        Self {
            now,
            rng,
            bundle,
            durability: Durability::Memory,
            registry,
            nodes,
            gateway,
            gateway_id,
            wires,
            answers,
            loses,
        }
    }

    fn named(&self, name: &str) -> HostId {
        let is = |node: &&Node| node.host.host_name(self.now, node.host.me()) == name;
        self.nodes.values().find(is).expect("a node of this name").host.me()
    }

    fn node(&mut self, host: HostId) -> &mut Node {
        self.nodes.get_mut(&host).expect("a node")
    }

    /// Lets time pass in steps, and everything happen that it leads to.
    fn pass(&mut self, length: Micros) {
        let step = Micros::from_millis(100);
        for _ in 0..(length.0 / step.0).max(1) {
            self.now.mono = self.now.mono + step;
            self.now.wall = self.now.wall + step;
            for node in self.nodes.values_mut() {
                if node.host.poll_timeout() <= self.now.mono {
                    node.host.handle_timeout(self.now, &mut self.rng);
                }
            }
            if self.gateway.poll_timeout().is_some_and(|at| at <= self.now.mono) {
                self.gateway.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        loop {
            self.drain();
            let Some(message) = self.wires.pop_front() else { return };
            if !(self.loses)(&message) {
                self.deliver(message);
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let (now, registry) = (self.now, self.registry.host());
        match message {
            Message::Registry { from, to, frame } if to == registry => {
                let result = self.registry.handle_frame(now, &mut self.rng, from, &frame.to_bytes());
                assert_eq!(result, Ok(()), "{frame:?}");
            }
            Message::Registry { to, frame, .. } if to == self.gateway_id => {
                let RegistryFrame::Found(found) = frame else { unreachable!("{frame:?}") };
                let id = self.registry.id();
                self.gateway.handle_found(now, id, &found).expect("an honest answer");
            }
            Message::Registry { to, frame, .. } => {
                let id = self.registry.id();
                let node = self.nodes.get_mut(&to).expect("a node");
                let result = node.host.handle_registry_frame(now, id, &frame.to_bytes(), &mut self.rng);
                assert_eq!(result, Ok(()), "{frame:?}");
            }
            Message::Migrate { from, to, frame } => {
                let node = self.nodes.get_mut(&to).expect("a node");
                let result = node.host.handle_migrate_frame(now, from, &frame.to_bytes(), &mut self.rng);
                assert_eq!(result, Ok(()), "{frame:?}");
            }
            Message::Client { to, from, bytes } if to == self.gateway_id => {
                self.gateway.handle_frame(now, from, &bytes).expect("an honest host");
            }
            Message::Client { to, from, bytes } => {
                self.node(to).host.handle_client_frame(now, from, &bytes).expect("an honest gateway");
            }
            Message::State { mig, to, records } => self.land(mig, to, &records),
            Message::Gossip { bytes } => {
                for node in self.nodes.values_mut() {
                    node.host.handle_gossip(now, &bytes).expect("honest gossip");
                }
                match Gossip::from_bytes(&bytes).expect("gossip") {
                    Gossip::Advert(advert) => {
                        self.gateway.handle_gossip_advert(now, &advert).expect("honest");
                    }
                    Gossip::Placement(placement) => {
                        let _ = self.gateway.handle_gossip_placement(now, &placement);
                    }
                }
            }
        }
    }

    fn land(&mut self, mig: MigrationId, to: HostId, records: &[SealedRecord]) {
        let now = self.now;
        let node = self.node(to);
        let (job, landed) = node.landing.get_mut(&mig).expect("expected records");
        let job = job.clone().expect("nothing was received before");
        let mut opener = Opener::new(job.key.clone(), job.transcript);
        let (mut counter, mut sessions) = (Counter(0), Vec::new());
        for record in records {
            let plaintext = opener.open::<Dalek, Strict>(record).expect("honest records");
            match record.kind {
                RecordKind::Page => counter = Counter(u64::from_le_bytes(plaintext.try_into().expect("8 bytes"))),
                RecordKind::Sessions => sessions = plaintext,
                _ => {}
            }
        }
        let salt = opener.salt();
        *landed = Some(counter);
        if job.durable {
            node.images.insert(ImageId::Held(mig), (counter, sessions.clone()));
        }
        let state = state_digest(&salt, &CODE, &counter.digest(&salt), &sessions);
        node.host.handle_received(now, mig, state, 8, sessions);
    }

    fn drain(&mut self) {
        let now = self.now;
        let registry = self.registry.host();
        while let Some(effect) = self.registry.poll_effect() {
            match effect {
                registry::Effect::Persist { seq, .. } => self.registry.handle_synced(seq),
                registry::Effect::Reply { to, frame } | registry::Effect::Ask { to, frame, .. } => {
                    self.wires.push_back(Message::Registry { from: registry, to, frame });
                }
                registry::Effect::Event(_) => {}
            }
        }
        let hosts: Vec<HostId> = self.nodes.keys().copied().collect();
        for from in hosts {
            while let Some(effect) = self.node(from).host.poll_effect() {
                self.execute(from, effect);
            }
        }
        while let Some(effect) = self.gateway.poll_effect() {
            let from = self.gateway_id;
            match effect {
                gateway::Effect::Persist { seq, .. } | gateway::Effect::Compact { seq, .. } => {
                    self.gateway.handle_synced(now, seq);
                }
                gateway::Effect::Connect { host, .. } => self.gateway.handle_connected(now, host),
                gateway::Effect::Disconnect { host } => self.node(host).host.handle_gateway_lost(from),
                gateway::Effect::Send { host, frame } => {
                    self.wires.push_back(Message::Client { from, to: host, bytes: frame.to_bytes() });
                }
                gateway::Effect::Lookup { lookup, .. } => {
                    let frame = RegistryFrame::Lookup(lookup);
                    self.wires.push_back(Message::Registry { from, to: registry, frame });
                }
                gateway::Effect::Answer { ticket, response } => {
                    let text = String::from_utf8(response).expect("text");
                    let body = text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
                    assert_eq!(self.answers.insert(ticket, body), None, "answered twice");
                }
                gateway::Effect::Fail { ticket, reason } => {
                    self.answers.insert(ticket, format!("failed: {reason}"));
                }
            }
        }
    }

    fn execute(&mut self, from: HostId, effect: Effect) {
        let (now, registry) = (self.now, self.registry.host());
        match effect {
            Effect::Persist { seq, entry } => {
                let node = self.node(from);
                if !node.slow_disk {
                    let entry = Entry::from_bytes(&entry.to_bytes()).expect("it is read back");
                    node.journal.push((seq, entry));
                    node.host.handle_synced(seq);
                }
            }
            Effect::Compact { seq, snapshot, keep_after } => {
                let node = self.node(from);
                node.journal.retain(|(seq, entry)| entry.survives(*seq, &keep_after));
                let snapshot = Entry::from_bytes(&snapshot.to_bytes()).expect("it is read back");
                node.journal.push((seq, snapshot));
                node.host.handle_synced(seq);
            }
            Effect::KeepImages(keep) => self.node(from).images.retain(|image, _| keep.contains(image)),
            Effect::DropImage(image) => drop(self.node(from).images.remove(&image)),
            Effect::SaveImage { service, epoch, upto, belongings } => {
                let node = self.node(from);
                let counter = node.running[&(service, epoch)];
                node.images.insert(ImageId::Taken { service, epoch, upto }, (counter, belongings));
                node.host.handle_saved(now, (service, epoch), upto, Ok(8));
            }
            Effect::Restore(job) => {
                let node = self.nodes.get_mut(&from).expect("a node");
                let (mut counter, belongings) = match job.base {
                    Base::Fresh { inputs } => {
                        assert_eq!(inputs, b"init");
                        (Counter(0), None)
                    }
                    Base::Image(image) => {
                        let (counter, belongings) = node.images[&image].clone();
                        (counter, Some(belongings))
                    }
                };
                let responses = job.log.iter().map(|logged| {
                    assert_eq!(logged.inputs, b"inputs");
                    counter.call()
                });
                let restored = Restored { belongings, responses: responses.collect(), image_bytes: 8 };
                let stay = (job.service, job.epoch);
                node.running.insert(stay, counter);
                node.host.handle_restored(now, stay, Ok(restored), &mut self.rng);
            }
            Effect::RestoreHeld(job) => {
                let node = self.node(from);
                let (counter, belongings) = node.images[&ImageId::Held(job.mig)].clone();
                node.landing.insert(job.mig, (None, Some(counter)));
                node.host.handle_held_restored(now, job.mig, Ok(belongings));
            }
            Effect::ToRegistry(_, frame) => self.wires.push_back(Message::Registry { from, to: registry, frame }),
            Effect::ToPeer { host, frame, .. } => self.wires.push_back(Message::Migrate { from, to: host, frame }),
            Effect::ToGateway(to, frame) => {
                self.wires.push_back(Message::Client { from, to, bytes: frame.to_bytes() });
            }
            Effect::Gossip(gossip) => self.wires.push_back(Message::Gossip { bytes: gossip.to_bytes() }),
            Effect::Start { service, epoch, .. } => {
                let node = self.nodes.get_mut(&from).expect("a node");
                node.running.insert((service, epoch), Counter(0));
                node.host.handle_started(now, (service, epoch), Ok(b"init".to_vec()), &mut self.rng);
            }
            Effect::Execute { service, epoch, client, sequence, .. } => {
                let node = self.node(from);
                let response = node.running.get_mut(&(service, epoch)).expect("it runs here").call();
                node.host.handle_executed(now, (service, epoch), client, sequence, response, b"inputs".to_vec());
            }
            Effect::Capture(job) => self.capture(from, &job),
            Effect::Resume { service, epoch } => {
                let node = self.nodes.get_mut(&from).expect("a node");
                node.host.handle_started(now, (service, epoch), Ok(Vec::new()), &mut self.rng);
            }
            Effect::Receive(job) => {
                self.node(from).landing.insert(job.ids.mig, (Some(job), None));
            }
            Effect::Activate { mig, service, epoch } => {
                let node = self.nodes.get_mut(&from).expect("a node");
                let (_, counter) = node.landing.remove(&mig).expect("it was received");
                node.running.insert((service, epoch), counter.expect("it was received whole"));
                node.host.handle_started(now, (service, epoch), Ok(Vec::new()), &mut self.rng);
            }
            Effect::DiscardInstance { service, epoch } => {
                self.node(from).running.remove(&(service, epoch)).expect("it was here");
            }
            Effect::DiscardIncoming { mig } => {
                self.node(from).landing.remove(&mig);
            }
            Effect::Event(_) => {}
        }
    }

    fn capture(&mut self, from: HostId, job: &CaptureJob) {
        let counter = self.node(from).running[&(job.ids.service, job.ids.epoch)];
        let mut sealer = Sealer::new(job.key.clone(), job.transcript);
        let salt = sealer.salt();
        let records = [
            sealer.seal::<Dalek>(RecordKind::Page, &counter.0.to_le_bytes()),
            sealer.seal::<Dalek>(RecordKind::Sessions, &job.sessions),
            sealer.seal::<Dalek>(RecordKind::End, &[]),
        ];
        let records = records.map(|record| record.expect("short")).to_vec();
        let state = state_digest(&salt, &job.code, &counter.digest(&salt), &job.sessions);
        let (now, mig) = (self.now, job.ids.mig);
        self.wires.push_back(Message::State { mig, to: job.ids.host, records });
        let node = self.nodes.get_mut(&from).expect("a node");
        node.host.handle_captured(now, mig, Ok((state, 8)), &mut self.rng);
    }

    fn deploy(&mut self) -> ServiceId {
        let owner = Secret::new([9; 32]);
        let key = OwnerKey(Dalek::public_key(&owner));
        let registry = self.registry.id();
        let service = service_id(registry, key, "counter");
        let manifest = Manifest {
            service,
            name: "counter".to_owned(),
            owner: key,
            version: 1,
            code: CODE,
            tos: ServiceType::Request,
            required: Resources { cpu_millicores: 100, memory_bytes: 1 << 20, storage_bytes: 0, bandwidth_bps: 0 },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: self.durability,
            token_policy: TokenPolicy::Refuse,
        };
        let signed = Signed::sign::<Dalek>(&owner, registry, Receiver::Anyone, &manifest);
        let (now, home) = (self.now, self.named("home"));
        let node = self.nodes.get_mut(&home).expect("home");
        node.host.handle_module(CODE);
        node.host.deploy(now, &signed, &mut self.rng).expect("deployable");
        self.gateway.add_service(now, &Lookup::Name("counter".to_owned())).expect("there is room");
        self.pass(Micros::from_secs(1));
        service
    }

    fn ask(&mut self) -> Ticket {
        let lookup = Lookup::Name("counter".to_owned());
        let request = b"POST /count HTTP/1.1\r\n\r\n".to_vec();
        self.gateway.handle_request(self.now, &lookup, request, None).expect("there is room")
    }

    fn count(&mut self) -> String {
        let ticket = self.ask();
        self.pass(Micros::from_millis(100));
        self.answers.get(&ticket).cloned().unwrap_or_else(|| "no answer".to_owned())
    }

    fn begin_move(&mut self, service: ServiceId, from: HostId, to: HostId) {
        let now = self.now;
        let node = self.nodes.get_mut(&from).expect("a node");
        node.host.begin_move(now, service, to, "asked", &mut self.rng).expect("a move can begin");
    }

    /// The power fails, and comes back: what is not on disk is gone.
    fn crash(&mut self, host: HostId) {
        let now = self.now;
        self.wires.retain(|message| match message {
            Message::Registry { from, to, .. }
            | Message::Migrate { from, to, .. }
            | Message::Client { from, to, .. } => *from != host && *to != host,
            Message::State { to, .. } => *to != host,
            Message::Gossip { .. } => true,
        });
        let bundle = self.bundle.clone();
        let node = self.node(host);
        let (identity, config) = node.parts.clone();
        let last = node.journal.last().map_or(0, |(seq, _)| *seq);
        node.slow_disk = false;
        node.running.clear();
        node.landing.clear();
        node.host = Host::restore(identity, config, bundle, now, last, node.journal.clone()).expect("a good journal");
        node.host.handle_module(CODE);
        node.host.set_addresses(vec![format!("/{host}")]);
        self.gateway.handle_disconnected(now, host);
    }

    /// Where instances exist: at most one may be served, ever.
    fn instances(&self) -> Vec<HostId> {
        self.nodes.iter().flat_map(|(host, node)| node.running.keys().map(|_| *host)).collect()
    }
}

#[test]
fn a_service_moves_with_its_state_and_no_request_fails() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha, beta) = (world.named("home"), world.named("alpha"), world.named("beta"));
    assert_eq!(world.count(), "1");
    for (from, to, expected) in [(home, alpha, "2"), (alpha, beta, "3"), (beta, alpha, "4")] {
        world.begin_move(service, from, to);
        world.pass(Micros::from_millis(100));
        assert_eq!(world.instances(), [to]);
        assert_eq!(world.count(), expected);
        let last = world.nodes[&from].host.history().last().expect("a trace");
        assert_eq!(last.ending, Ending::Moved);
        let mut steps: Vec<u8> = last.steps.iter().map(|(step, _)| *step).collect();
        let target = world.nodes[&to].host.history().find(|trace| trace.mig == last.mig).expect("the other side");
        steps.extend(target.steps.iter().map(|(step, _)| *step));
        steps.sort_unstable();
        steps.dedup();
        assert_eq!(steps, (1..=12).collect::<Vec<u8>>());
    }
    let placement = world.registry.placement(service).expect("registered");
    assert_eq!((placement.host, placement.epoch.era), (alpha, 4));
}

#[test]
fn requests_that_meet_a_frozen_service_are_answered_after_the_move() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    // 10 is lost, so that the service stays frozen for a while.
    world.loses = Box::new(|message| matches!(message, Message::Registry { frame: RegistryFrame::Complete(_), .. }));
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    let tickets = [world.ask(), world.ask()];
    world.pass(Micros::from_millis(100));
    assert!(world.answers.is_empty());
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(2));
    assert_eq!(tickets.map(|ticket| world.answers[&ticket].clone()), ["1", "2"]);
    assert_eq!(world.instances(), [alpha]);
}

#[test]
fn a_target_that_is_lost_after_consent_gives_the_service_back() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    let lost = alpha;
    world.loses = Box::new(move |message| match message {
        Message::Migrate { to, frame: MigrateFrame::Transfer(_), .. } => *to == lost,
        Message::Migrate { frame: MigrateFrame::Refused(_), .. } => true,
        _ => false,
    });
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    let ticket = world.ask();
    world.pass(Micros::from_secs(1));
    assert!(!world.answers.contains_key(&ticket), "frozen: only the registry decides");
    world.pass(Micros::from_secs(8));
    assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"));
    assert_eq!(world.instances(), [home]);
    assert_eq!(world.registry.placement(service).expect("registered").host, home);
    // Later, honest: it moves.
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(15));
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    assert_eq!(world.count(), "3");
    assert_eq!(world.instances(), [alpha]);
}

#[test]
fn whatever_single_message_is_lost_nothing_is_lost_or_run_twice() {
    // One run for each message of the handshake, which is lost the first time it is sent.
    let names = [
        "VerifyCloud",
        "YesCloud",
        "Request",
        "VerifyService",
        "YesService",
        "Response",
        "Transfer",
        "TransferAck",
        "Complete",
        "Placement",
        "Released",
    ];
    for lost in names {
        let mut world = World::new();
        let service = world.deploy();
        let (home, alpha) = (world.named("home"), world.named("alpha"));
        assert_eq!(world.count(), "1");
        let once = std::cell::Cell::new(false);
        world.loses = Box::new(move |message| {
            let name = match message {
                Message::Registry { frame, .. } => frame.name(),
                Message::Migrate { frame, .. } => frame.name(),
                Message::Client { .. } | Message::State { .. } | Message::Gossip { .. } => return false,
            };
            name == lost && !once.replace(true)
        });
        world.begin_move(service, home, alpha);
        let ticket = world.ask();
        world.pass(Micros::from_secs(25));
        assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "{lost} lost");
        assert_eq!(world.count(), "3", "{lost} lost");
        let record = world.registry.placement(service).expect("registered").host;
        assert_eq!(world.instances(), [record], "{lost} lost");
    }
}

#[test]
fn without_the_registry_a_service_stops_when_its_lease_ends() {
    let mut world = World::new();
    world.deploy();
    assert_eq!(world.count(), "1");
    world.loses = Box::new(|message| matches!(message, Message::Registry { .. }));
    world.pass(Micros::from_secs(15));
    assert_eq!(world.count(), "2", "a running service goes on");
    world.pass(Micros::from_secs(20));
    assert_eq!(world.count(), "no answer", "its lease has ended");
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(20));
    assert_eq!(world.count(), "4", "it goes on where it was, the held request first");
}

#[test]
fn a_target_that_only_acknowledges_keeps_nobody_frozen() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    // It takes the consent, and never completes.
    world.loses = Box::new(|message| {
        matches!(
            message,
            Message::Registry { frame: RegistryFrame::Complete(_), .. }
                | Message::Migrate { frame: MigrateFrame::TransferAck(_), .. }
        )
    });
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    let mig = world.nodes[&home].host.attempt_of(service).expect("under way").mig;
    let ticket = world.ask();
    for _ in 0..20 {
        let frame = MigrateFrame::RecordsAcked(RecordsAcked { mig, next: 3 });
        world.wires.push_back(Message::Migrate { from: alpha, to: home, frame });
        world.pass(Micros::from_secs(1));
    }
    assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "the registry was asked, and gave it back");
    assert_eq!(world.instances(), [home]);
}

#[test]
fn an_instance_that_breaks_down_is_answered_for_and_not_renewed() {
    let mut world = World::new();
    let service = world.deploy();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    let epoch = world.registry.placement(service).expect("registered").epoch;
    let node = world.nodes.get_mut(&home).expect("home");
    node.host.handle_started(world.now, (service, epoch), Err("out of memory".to_owned()), &mut world.rng);
    assert!(world.count().contains("broken"), "clients are told");
    let until = world.registry.lease_until(service);
    world.pass(Micros::from_secs(30));
    assert_eq!(world.registry.lease_until(service), until, "the lease is let go");
}

#[test]
fn a_report_needs_a_session_and_its_lack_is_counted_but_no_error() {
    let mut world = World::new();
    world.loses = Box::new(|message| match message {
        Message::Client { bytes, .. } => matches!(ClientFrame::from_bytes(bytes), Ok(ClientFrame::Open(_))),
        _ => false,
    });
    let service = world.deploy();
    let (now, home, gateway, client) = (world.now, world.named("home"), world.gateway_id, world.gateway.client());
    let host = &mut world.nodes.get_mut(&home).expect("home").host;
    let entries = vec![(home, Micros::from_millis(5), Micros::ZERO)];
    let report = ClientFrame::LatencyReport(LatencyReport { service, client, acked_below: 0, entries }).to_bytes();
    let before = host.rejects().get(Reject::NoSession);
    assert_eq!(host.handle_client_frame(now, gateway, &report), Ok(()));
    assert_eq!(host.rejects().get(Reject::NoSession), before + 1);
    assert!(host.rtts(now).is_empty());
    let open = ClientFrame::Open(Open { service, client }).to_bytes();
    assert_eq!(host.handle_client_frame(now, gateway, &open), Ok(()));
    assert_eq!(host.handle_client_frame(now, gateway, &report), Ok(()));
    assert_eq!((host.rejects().get(Reject::NoSession), host.rtts(now).len()), (before + 1, 1));
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged() {
    let mut world = World::new();
    world.durability = Durability::Log;
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    world.crash(home);
    world.pass(Micros::from_secs(2));
    assert_eq!(world.count(), "2", "replayed from a fresh instance");
    // Clouds advertise again.
    world.pass(Micros::from_secs(12));
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(200));
    assert_eq!(world.count(), "3");
    world.crash(alpha);
    world.pass(Micros::from_secs(2));
    assert_eq!(world.count(), "4", "replayed from what was received");
    assert_eq!(world.instances(), [alpha]);
    assert!(world.nodes[&home].images.is_empty());
}

#[test]
fn a_response_waits_for_its_request_to_be_on_disk() {
    let mut world = World::new();
    world.durability = Durability::Log;
    world.deploy();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    world.node(home).slow_disk = true;
    let ticket = world.ask();
    world.pass(Micros::from_millis(300));
    assert!(!world.answers.contains_key(&ticket), "it is not in the log yet");
    world.crash(home);
    world.pass(Micros::from_secs(4));
    assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "executed once, as far as anybody knows");
}

#[test]
fn images_shorten_the_log_and_the_journal_is_compacted() {
    let mut world = World::new();
    world.durability = Durability::Log;
    for node in world.nodes.values_mut() {
        node.parts.1.image_log_bytes = 2000;
        let (identity, config) = node.parts.clone();
        node.host = Host::new(identity, config, world.bundle.clone(), 0);
        node.host.set_addresses(vec!["/x".to_owned()]);
    }
    world.pass(Micros::from_secs(1));
    world.deploy();
    let home = world.named("home");
    for number in 1..=30 {
        assert_eq!(world.count(), number.to_string());
    }
    let (before, images) = (world.nodes[&home].journal.len(), world.nodes[&home].images.len());
    assert_eq!(images, 1, "older images are dropped");
    let now = world.now;
    world.node(home).host.compact_if(now, 1 << 30);
    world.pass(Micros::from_millis(100));
    let after = world.nodes[&home].journal.len();
    assert!(after < before / 2 && after > 1, "{after} of {before} entries");
    world.crash(home);
    world.pass(Micros::from_secs(2));
    assert_eq!(world.count(), "31");
    let sequence_kept = world.answers.len();
    assert_eq!(sequence_kept, 31);
}

#[test]
fn a_host_that_crashes_at_any_step_of_a_move_ends_it_well() {
    let steps =
        ["VerifyCloud", "Request", "VerifyService", "Response", "Transfer", "TransferAck", "Complete", "Released"];
    for who in ["home", "alpha"] {
        for step in steps {
            let mut world = World::new();
            world.durability = Durability::Log;
            let service = world.deploy();
            let (home, alpha) = (world.named("home"), world.named("alpha"));
            assert_eq!(world.count(), "1");
            let seen = std::rc::Rc::new(std::cell::Cell::new(false));
            let sees = std::rc::Rc::clone(&seen);
            world.loses = Box::new(move |message| {
                let name = match message {
                    Message::Registry { frame, .. } => frame.name(),
                    Message::Migrate { frame, .. } => frame.name(),
                    Message::Client { .. } | Message::State { .. } | Message::Gossip { .. } => return false,
                };
                // From this step on nothing arrives, until the crash.
                sees.set(sees.get() || name == step);
                sees.get()
            });
            world.begin_move(service, home, alpha);
            let ticket = world.ask();
            world.pass(Micros::from_millis(100));
            assert!(seen.get(), "{step} is never sent");
            let crashes = world.named(who);
            world.crash(crashes);
            world.loses = Box::new(|_| false);
            world.pass(Micros::from_secs(40));
            assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "{who} crashed at {step}");
            assert_eq!(world.count(), "3", "{who} crashed at {step}");
            let record = world.registry.placement(service).expect("registered").host;
            assert_eq!(world.instances(), [record], "{who} crashed at {step}");
            let images: Vec<_> = world.nodes.values().flat_map(|node| node.images.keys()).collect();
            assert!(images.len() <= 1, "{who} crashed at {step}: {images:?}");
        }
    }
}
