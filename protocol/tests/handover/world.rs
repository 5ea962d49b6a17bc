//! One Registry, a home, two clouds and a gateway in memory, and how their effects are carried out.

use std::collections::{BTreeMap, VecDeque};

use wayfare_protocol::{
    advert::Gossip,
    gateway::{self, Gateway, GatewayConfig, Ticket},
    host::{
        Base, CaptureJob, Effect, Entry, Host, HostConfig, Identity, ImageId, ReceiveJob, Restored, UpdateJob,
        hosted::Stay,
    },
    ids::{Digest, HostId, MigrationId, OwnerKey, ServiceId},
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, STEP_TIMEOUT},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::*,
    order::{Action, Order, OrderFrame, OrderState},
    placement::{PlacementConfig, Policy},
    registry::{self, Registry, RegistryConfig},
    reject::{Reject, Strict},
    suite::{Dalek, Secret, Suite, fresh_secret},
    time::{Instant, Micros, Now, Timestamp},
    transfer::{Opener, RecordKind, SealedRecord, Sealer, state_digest},
    trust::{Receiver, Role, Signed, TrustBundle},
    wire::Frame,
};

use crate::seeded::Seeded;

pub(crate) const CAPACITY: Resources =
    Resources { cpu_millicores: 4000, memory_bytes: 1 << 30, storage_bytes: 1 << 30, bandwidth_bps: 1 << 30 };
pub(crate) const CODE: Digest = Digest([7; 32]);
/// A module that no node has.
pub(crate) const MISSING: Digest = Digest([8; 32]);
/// A module that takes for ever.
pub(crate) const HANGS: Digest = Digest([10; 32]);
/// A module that does not take what another has saved.
pub(crate) const REFUSES: Digest = Digest([9; 32]);
/// The owner's key.
pub(crate) static OWNER: Secret = Secret::new([9; 32]);

/// The guest's state.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Counter(pub(crate) u64);

impl Counter {
    fn call(&mut self) -> Vec<u8> {
        self.0 += 1;
        format!("HTTP/1.1 200 OK\r\n\r\n{}", self.0).into_bytes()
    }

    fn digest(self, salt: &Digest) -> Digest {
        wayfare_protocol::suite::digest("guest", &[&salt.0, &self.0.to_le_bytes()])
    }
}

#[derive(Debug)]
pub(crate) enum Message {
    Registry { from: HostId, to: HostId, frame: RegistryFrame },
    Migrate { from: HostId, to: HostId, frame: MigrateFrame },
    Client { from: HostId, to: HostId, bytes: Vec<u8> },
    State { mig: MigrationId, to: HostId, records: Vec<SealedRecord> },
    Gossip { bytes: Vec<u8> },
}

pub(crate) struct Node {
    pub(crate) host: Host,
    /// What a new machine is made of after a crash.
    pub(crate) parts: (Identity, HostConfig),
    pub(crate) running: BTreeMap<Stay, Counter>,
    /// An update whose driver does not answer.
    pub(crate) hanging: Option<UpdateJob>,
    /// The modules of what was restored.
    pub(crate) restored: Vec<Digest>,
    /// Made by an update, and not switched to yet.
    pub(crate) updating: BTreeMap<Stay, Counter>,
    pub(crate) landing: BTreeMap<MigrationId, (Option<ReceiveJob>, Option<Counter>)>,
    pub(crate) journal: Vec<(u64, Entry)>,
    pub(crate) images: BTreeMap<ImageId, (Counter, Vec<u8>)>,
    /// The journal takes entries, but they do not reach the disk.
    pub(crate) slow_disk: bool,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) rng: Seeded,
    pub(crate) bundle: TrustBundle,
    /// Of the next deployment.
    pub(crate) durability: Durability,
    /// Of the next deployment's manifest.
    pub(crate) version: u32,
    /// What the Registry said of orders.
    pub(crate) states: Vec<OrderState>,
    pub(crate) registry: Registry<Dalek, Strict>,
    pub(crate) nodes: BTreeMap<HostId, Node>,
    pub(crate) gateway: Gateway<Dalek, Strict>,
    pub(crate) gateway_id: HostId,
    pub(crate) wires: VecDeque<Message>,
    pub(crate) answers: BTreeMap<Ticket, String>,
    /// Drops what it says yes to.
    pub(crate) loses: Box<dyn Fn(&Message) -> bool>,
}

impl World {
    pub(crate) fn new() -> Self {
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
            let (updating, restored, hanging, slow_disk) = (BTreeMap::new(), Vec::new(), None, false);
            let node = Node { host, parts, running, updating, hanging, restored, landing, journal, images, slow_disk };
            nodes.insert(me, node);
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
            version: 1,
            states: Vec::new(),
            registry,
            nodes,
            gateway,
            gateway_id,
            wires,
            answers,
            loses,
        }
    }

    pub(crate) fn named(&self, name: &str) -> HostId {
        let is = |node: &&Node| node.host.host_name(self.now, node.host.me()) == name;
        self.nodes.values().find(is).expect("a node of this name").host.me()
    }

    pub(crate) fn node(&mut self, host: HostId) -> &mut Node {
        self.nodes.get_mut(&host).expect("a node")
    }

    /// Lets time pass in steps, and everything happen that it leads to.
    pub(crate) fn pass(&mut self, length: Micros) {
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

    pub(crate) fn settle(&mut self) {
        loop {
            self.drain();
            let Some(message) = self.wires.pop_front() else { return };
            if !(self.loses)(&message) {
                self.deliver(message);
            }
        }
    }

    pub(crate) fn deliver(&mut self, message: Message) {
        let (now, registry) = (self.now, self.registry.host());
        match message {
            Message::Registry { from, to, frame } if to == registry => {
                let result = self.registry.handle_frame(now, &mut self.rng, from, &frame.to_bytes());
                // Whoever asks about a removed service is shown so.
                assert!(matches!(result, Ok(()) | Err(Reject::Removed)), "{result:?} {frame:?}");
            }
            Message::Registry { to, frame, .. } if to == self.gateway_id => {
                let RegistryFrame::Found(found) = frame else { unreachable!("{frame:?}") };
                let id = self.registry.id();
                self.gateway.handle_found(now, id, &found).expect("an honest answer");
            }
            Message::Registry { frame: RegistryFrame::OrderState(state), .. } => self.states.push(state),
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

    pub(crate) fn land(&mut self, mig: MigrationId, to: HostId, records: &[SealedRecord]) {
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
        let state = state_digest(&salt, &job.code, &counter.digest(&salt), &sessions);
        node.host.handle_received(now, mig, state, 8, sessions);
    }

    pub(crate) fn drain(&mut self) {
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

    pub(crate) fn execute(&mut self, from: HostId, effect: Effect) {
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
                node.restored.push(job.code);
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
            Effect::Fetch(job) => {
                let node = self.node(from);
                let stay = (job.service, job.epoch);
                let result = if job.code == MISSING { Err("no_module: gone".to_owned()) } else { Ok(()) };
                node.host.handle_module(job.code);
                node.host.handle_fetched(now, stay, job.order, result);
            }
            Effect::Update(job) => {
                let node = self.node(from);
                let stay = (job.service, job.epoch);
                if job.code == HANGS {
                    node.hanging = Some(job);
                } else if job.code == REFUSES {
                    let result = Err("state_refused: 1".to_owned());
                    node.host.handle_updated(now, stay, job.order, job.image, result);
                } else {
                    let counter = if job.keep { node.running[&stay] } else { Counter(0) };
                    if let Some(image) = job.image {
                        node.images.insert(image, (counter, job.belongings));
                    }
                    node.updating.insert(stay, counter);
                    node.host.handle_updated(now, stay, job.order, job.image, Ok(8));
                }
            }
            Effect::Switch { service, epoch } => {
                let node = self.nodes.get_mut(&from).expect("a node");
                let counter = node.updating.remove(&(service, epoch)).expect("it was made");
                node.running.insert((service, epoch), counter);
                node.host.handle_started(now, (service, epoch), Ok(Vec::new()), &mut self.rng);
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

    pub(crate) fn capture(&mut self, from: HostId, job: &CaptureJob) {
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

    /// The service that everything here is about.
    pub(crate) fn manifest(&self) -> Signed<Manifest> {
        let key = OwnerKey(Dalek::public_key(&OWNER));
        let registry = self.registry.id();
        let service = service_id(registry, key, "counter");
        let manifest = Manifest {
            service,
            name: "counter".to_owned(),
            owner: key,
            version: self.version,
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
        Signed::sign::<Dalek>(&OWNER, registry, Receiver::Anyone, &manifest)
    }

    pub(crate) fn deploy(&mut self) -> ServiceId {
        let signed = self.manifest();
        let service = signed.unverified().expect("well-formed").service;
        let (now, home) = (self.now, self.named("home"));
        let node = self.nodes.get_mut(&home).expect("home");
        node.host.handle_module(CODE);
        node.host.deploy(now, &signed, &mut self.rng).expect("deployable");
        self.gateway.add_service(now, &Lookup::Name("counter".to_owned())).expect("there is room");
        self.pass(Micros::from_secs(1));
        service
    }

    /// An order of the owner, signed now.
    #[allow(dead_code, reason = "only the tests of orders use it")]
    pub(crate) fn order(&self, service: ServiceId, action: Action) -> OrderFrame {
        let (sequence, expiry) = (self.now.wall.0, self.now.wall + Micros::from_secs(600));
        let (id, receiver) = (service.registry, Receiver::Registry(service.registry));
        let order = Signed::sign::<Dalek>(&OWNER, id, receiver, &Order { service, action, sequence, expiry });
        OrderFrame { order, manifest: None, addresses: Vec::new() }
    }

    /// Hands `frame` to a node, which passes it on.
    #[allow(dead_code, reason = "only the tests of orders use it")]
    pub(crate) fn submit(&mut self, frame: &OrderFrame) {
        let (from, to) = (self.named("beta"), self.registry.host());
        self.wires.push_back(Message::Registry { from, to, frame: RegistryFrame::Order(frame.clone()) });
        self.settle();
    }

    /// The last that the Registry said of `frame`.
    #[allow(dead_code, reason = "only the tests of orders use it")]
    pub(crate) fn said(&self, frame: &OrderFrame) -> Option<&OrderState> {
        self.states.iter().rev().find(|state| state.order == frame.order.hash())
    }

    pub(crate) fn ask(&mut self) -> Ticket {
        let lookup = Lookup::Name("counter".to_owned());
        let request = b"POST /count HTTP/1.1\r\n\r\n".to_vec();
        self.gateway.handle_request(self.now, &lookup, request, None).expect("there is room")
    }

    pub(crate) fn count(&mut self) -> String {
        let ticket = self.ask();
        self.pass(Micros::from_millis(100));
        self.answers.get(&ticket).cloned().unwrap_or_else(|| "no answer".to_owned())
    }

    pub(crate) fn begin_move(&mut self, service: ServiceId, from: HostId, to: HostId) {
        let now = self.now;
        let node = self.nodes.get_mut(&from).expect("a node");
        node.host.begin_move(now, service, to, "asked", &mut self.rng).expect("a move can begin");
    }

    /// The power fails, and comes back: what is not on disk is gone.
    pub(crate) fn crash(&mut self, host: HostId) {
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
        node.updating.clear();
        node.landing.clear();
        node.host = Host::restore(identity, config, bundle, now, last, node.journal.clone()).expect("a good journal");
        node.host.handle_module(CODE);
        node.host.set_addresses(vec![format!("/{host}")]);
        self.gateway.handle_disconnected(now, host);
    }

    /// Where instances exist: at most one may be served, ever.
    pub(crate) fn instances(&self) -> Vec<HostId> {
        self.nodes.iter().flat_map(|(host, node)| node.running.keys().map(|_| *host)).collect()
    }
}
