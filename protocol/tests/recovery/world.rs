//! Hosts and a Registry, all production machines, in memory, with links that lose what a test says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wayfare_protocol::{
    advert::Gossip,
    host::{Base, Effect, Entry, Host, HostConfig, Identity, ImageId, ReceiveJob, Restored, hosted::Stay},
    ids::{Digest, HostId, MigrationId, Nonce, OwnerKey, ServiceId},
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, RECOVERY_WINDOW, STEP_TIMEOUT},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::*,
    placement::{PlacementConfig, Policy},
    registry::{self, Registry, RegistryConfig, StoreImage, StoreOp, mark_restored},
    reject::{Guards, Reject, Strict},
    suite::{Dalek, Secret, Suite, fresh_secret},
    time::{Instant, Micros, Now, Timestamp},
    transfer::{Opener, RecordKind, SealedRecord, Sealer, state_digest},
    trust::{Receiver, Role, Signed, TrustBundle},
    wire::Frame,
};

use crate::seeded::Seeded;

const CAPACITY: Resources =
    Resources { cpu_millicores: 4000, memory_bytes: 1 << 30, storage_bytes: 1 << 30, bandwidth_bps: 1 << 30 };
const CODE: Digest = Digest([7; 32]);
pub(super) const SECOND: Micros = Micros::from_secs(1);

/// How many writes were made to an instance.
type Counter = u64;

pub(super) enum Message {
    ToRegistry { from: HostId, frame: RegistryFrame },
    FromRegistry { to: HostId, frame: RegistryFrame },
    Migrate { from: HostId, to: HostId, frame: MigrateFrame },
    State { mig: MigrationId, to: HostId, records: Vec<SealedRecord> },
    Gossip { bytes: Vec<u8> },
}

pub(super) struct Node {
    pub(super) host: Host,
    identity: Identity,
    pub(super) config: HostConfig,
    /// What a restart brings back: the journal, images, and the instances, as their logs would.
    journal: Vec<(u64, Entry)>,
    images: BTreeMap<ImageId, (Counter, Vec<u8>)>,
    running: BTreeMap<Stay, Counter>,
    pub(super) landing: BTreeMap<MigrationId, (Option<ReceiveJob>, Option<Counter>)>,
}

/// Drops what it says yes to.
pub(super) type Loses = Box<dyn Fn(&Message) -> bool>;

pub(super) struct World<G: Guards> {
    pub(super) now: Now,
    pub(super) rng: Seeded,
    pub(super) config: RegistryConfig,
    pub(super) registry: Registry<Dalek, G>,
    pub(super) nodes: BTreeMap<HostId, Node>,
    pub(super) names: BTreeMap<&'static str, HostId>,
    wires: VecDeque<Message>,
    pub(super) loses: Loses,
    /// Whether a host was: then it need not know every message.
    restarted: bool,
    /// Out of the Registry's reach.
    pub(super) silent: BTreeSet<HostId>,
    events: Vec<registry::Event>,
    /// The records as they were after the last 3 and 6.
    pub(super) backups: BTreeMap<u8, Vec<StoreOp>>,
    /// Writes that clients were told of, by service.
    pub(super) acknowledged: BTreeMap<ServiceId, u64>,
}

pub(super) type W = World<Strict>;

impl<G: Guards> World<G> {
    pub(super) fn new() -> Self {
        let mut rng = Seeded(1);
        let now = Now { mono: Instant(1_000_000), wall: Timestamp(1_800_000_000_000_000) };
        let config = RegistryConfig::new::<Dalek>(fresh_secret(&mut rng), vec!["/r".to_owned()]);
        let mut world = Self {
            now,
            rng,
            registry: Registry::new(config.clone()),
            config,
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            wires: VecDeque::new(),
            loses: Box::new(|_| false),
            restarted: false,
            silent: BTreeSet::new(),
            events: Vec::new(),
            backups: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        };
        for (name, role) in [("home", Role::Home), ("alpha", Role::Cloud), ("beta", Role::Cloud)] {
            world.enrol(name, role);
        }
        world.pass(SECOND);
        world
    }

    pub(super) fn enrol(&mut self, name: &'static str, role: Role) -> HostId {
        let (now, secret) = (self.now, fresh_secret(&mut self.rng));
        let me = HostId(Dalek::public_key(&secret));
        let lifetime = Micros::from_secs(60);
        let token = self.registry.create_join_token(now, &mut self.rng, name, role, lifetime).expect("there is room");
        let (region, nonce) = ("lab".to_owned(), Nonce([0; 16]));
        let enrol = Enrol { host: me, role, region, token: token.secret.hash(), nonce };
        let id = self.registry.id();
        let signed = Signed::sign::<Dalek>(&secret, id, Receiver::Registry(id), &enrol);
        let frame = RegistryFrame::Enrol(signed).to_bytes();
        self.registry.handle_frame(now, &mut self.rng, me, &frame).expect("an honest enrolment");
        let mut certificate = None;
        while let Some(effect) = self.registry.poll_effect() {
            match effect {
                registry::Effect::Persist { seq, .. } => self.registry.handle_synced(seq),
                registry::Effect::Reply { frame: RegistryFrame::Enrolled(enrolled), .. } => {
                    certificate = Some(enrolled.certificate);
                }
                _ => {}
            }
        }
        let bundle = TrustBundle::new(vec![self.registry.anchor()]);
        let certificate = certificate.expect("enrolled");
        let (registry, certificate) =
            bundle.verify_certificate::<Dalek, Strict>(&certificate, me, &[role], now.wall).expect("genuine");
        let placement = PlacementConfig { policy: Policy::Never, ..PlacementConfig::default() };
        let config = HostConfig {
            capacity: CAPACITY,
            price_micros: 0,
            placement,
            step_timeout: STEP_TIMEOUT,
            image_log_bytes: IMAGE_LOG_BYTES_MIN,
            compact_journal_bytes: COMPACT_JOURNAL_BYTES_MIN,
        };
        let identity = Identity { secret, registry, certificate };
        let mut host = Host::new(identity.clone(), config.clone(), bundle, 0);
        host.set_addresses(vec![format!("/{name}")]);
        host.handle_module(CODE);
        let (journal, images) = (Vec::new(), BTreeMap::new());
        let (running, landing) = (BTreeMap::new(), BTreeMap::new());
        self.nodes.insert(me, Node { host, identity, config, journal, images, running, landing });
        self.names.insert(name, me);
        me
    }

    /// The host crashes and comes back with what is on its disk.
    pub(super) fn restart(&mut self, host: HostId) {
        let (now, bundle) = (self.now, TrustBundle::new(vec![self.registry.anchor()]));
        self.restarted = true;
        let node = self.node(host);
        let last = node.journal.last().map_or(0, |(seq, _)| *seq);
        let (identity, config) = (node.identity.clone(), node.config.clone());
        let restored = Host::restore(identity, config, bundle, now, last, node.journal.clone());
        node.host = restored.expect("its own journal");
        node.host.set_addresses(vec!["/again".to_owned()]);
        node.host.handle_module(CODE);
        node.landing.clear();
    }

    pub(super) fn node(&mut self, host: HostId) -> &mut Node {
        self.nodes.get_mut(&host).expect("a node")
    }

    pub(super) fn pass(&mut self, length: Micros) {
        let step = Micros::from_millis(100);
        for _ in 0..(length.0 / step.0).max(1) {
            self.now.mono = self.now.mono + step;
            self.now.wall = self.now.wall + step;
            let now = self.now;
            for node in self.nodes.values_mut() {
                if node.host.poll_timeout() <= now.mono {
                    node.host.handle_timeout(now, &mut self.rng);
                }
            }
            if self.registry.poll_timeout().is_some_and(|at| at <= now.mono) {
                self.registry.handle_timeout(now, &mut self.rng);
            }
            loop {
                self.drain();
                let Some(message) = self.wires.pop_front() else { break };
                if !(self.loses)(&message) {
                    self.deliver(message);
                }
            }
            let services: Vec<ServiceId> = self.acknowledged.keys().copied().collect();
            for service in services {
                assert!(self.serving(service).len() <= 1, "served twice");
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let (now, id) = (self.now, self.registry.id());
        match message {
            Message::ToRegistry { from, frame } => {
                if !self.silent.contains(&from) {
                    let result = self.registry.handle_frame(now, &mut self.rng, from, &frame.to_bytes());
                    let violation = result.is_err_and(registry::is_violation);
                    assert!(!violation, "{result:?} to {frame:?}");
                }
            }
            Message::FromRegistry { to, frame } => {
                if !self.silent.contains(&to) {
                    let node = self.nodes.get_mut(&to).expect("a node");
                    let result = node.host.handle_registry_frame(now, id, &frame.to_bytes(), &mut self.rng);
                    assert!(self.restarted || result == Ok(()), "{result:?}: {frame:?}");
                }
            }
            Message::Migrate { from, to, frame } => {
                let node = self.nodes.get_mut(&to).expect("a node");
                let result = node.host.handle_migrate_frame(now, from, &frame.to_bytes(), &mut self.rng);
                assert!(self.restarted || result == Ok(()), "{result:?}: {frame:?}");
            }
            Message::State { mig, to, records } => self.land(mig, to, &records),
            Message::Gossip { bytes } => {
                for node in self.nodes.values_mut() {
                    let result = node.host.handle_gossip(now, &bytes);
                    // A placement that its host was told of late.
                    assert!(matches!(result, Ok(()) | Err(Reject::Expired)), "{result:?}");
                }
                assert!(matches!(Gossip::from_bytes(&bytes), Ok(Gossip::Advert(_) | Gossip::Placement(_))));
            }
        }
    }

    fn drain(&mut self) {
        while let Some(effect) = self.registry.poll_effect() {
            match effect {
                registry::Effect::Persist { seq, .. } => self.registry.handle_synced(seq),
                registry::Effect::Reply { to, frame } | registry::Effect::Ask { to, frame, .. } => {
                    self.wires.push_back(Message::FromRegistry { to, frame });
                }
                registry::Effect::Event(event) => {
                    match event {
                        registry::Event::Allowed { .. } => self.backups.insert(3, self.registry.records()),
                        registry::Event::Pinned { .. } => self.backups.insert(6, self.registry.records()),
                        _ => None,
                    };
                    self.events.push(event);
                }
            }
        }
        let hosts: Vec<HostId> = self.nodes.keys().copied().collect();
        for from in hosts {
            while let Some(effect) = self.node(from).host.poll_effect() {
                self.execute(from, effect);
            }
        }
    }

    fn execute(&mut self, from: HostId, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Persist { seq, entry } => {
                let node = self.node(from);
                node.journal.push((seq, entry));
                node.host.handle_synced(seq);
            }
            Effect::ToRegistry(_, frame) => self.wires.push_back(Message::ToRegistry { from, frame }),
            Effect::ToPeer { host, frame, .. } => self.wires.push_back(Message::Migrate { from, to: host, frame }),
            Effect::Gossip(gossip) => self.wires.push_back(Message::Gossip { bytes: gossip.to_bytes() }),
            Effect::Start { service, epoch, .. } => {
                self.node(from).running.insert((service, epoch), 0);
                self.started(from, (service, epoch));
            }
            Effect::Resume { service, epoch } => self.started(from, (service, epoch)),
            Effect::Activate { mig, service, epoch } => {
                let node = self.node(from);
                let (_, counter) = node.landing.remove(&mig).expect("it was received");
                node.running.insert((service, epoch), counter.expect("it was received whole"));
                self.started(from, (service, epoch));
            }
            Effect::Capture(job) => {
                let counter = self.node(from).running[&(job.ids.service, job.ids.epoch)];
                let mut sealer = Sealer::new(job.key.clone(), job.transcript);
                let salt = sealer.salt();
                let records = [
                    sealer.seal::<Dalek>(RecordKind::Page, &counter.to_le_bytes()),
                    sealer.seal::<Dalek>(RecordKind::Sessions, &job.sessions),
                    sealer.seal::<Dalek>(RecordKind::End, &[]),
                ];
                let records = records.map(|record| record.expect("short")).to_vec();
                let state = state_digest(&salt, &job.code, &digest(counter, &salt), &job.sessions);
                self.wires.push_back(Message::State { mig: job.ids.mig, to: job.ids.host, records });
                let node = self.nodes.get_mut(&from).expect("a node");
                node.host.handle_captured(now, job.ids.mig, Ok((state, 8)), &mut self.rng);
            }
            Effect::Receive(job) => {
                self.node(from).landing.insert(job.ids.mig, (Some(job), None));
            }
            Effect::DiscardInstance { service, epoch } => {
                self.node(from).running.remove(&(service, epoch)).expect("it was here");
            }
            Effect::DiscardIncoming { mig } => {
                self.node(from).landing.remove(&mig);
            }
            Effect::Execute { .. } | Effect::ToGateway(..) => unreachable!("there are no clients"),
            Effect::SaveImage { .. } => unreachable!("nothing is logged"),
            Effect::Fetch(_) | Effect::Update(_) | Effect::Switch { .. } => unreachable!("nothing is ordered"),
            Effect::Compact { seq, snapshot, keep_after } => {
                let node = self.node(from);
                node.journal.retain(|(seq, entry)| entry.survives(*seq, &keep_after));
                node.journal.push((seq, snapshot));
                node.host.handle_synced(seq);
            }
            Effect::DropImage(_) => {}
            Effect::KeepImages(keep) => self.node(from).images.retain(|image, _| keep.contains(image)),
            Effect::Restore(job) => {
                let node = self.nodes.get_mut(&from).expect("a node");
                let belongings = match job.base {
                    Base::Fresh { .. } => None,
                    Base::Image(image) => Some(node.images[&image].1.clone()),
                };
                let stay = (job.service, job.epoch);
                assert!(node.running.contains_key(&stay), "it never ran here");
                let restored = Restored { belongings, responses: Vec::new(), image_bytes: 8 };
                node.host.handle_restored(now, stay, Ok(restored), &mut self.rng);
            }
            Effect::RestoreHeld(job) => {
                let node = self.node(from);
                let (counter, belongings) = node.images[&ImageId::Held(job.mig)].clone();
                node.landing.insert(job.mig, (None, Some(counter)));
                node.host.handle_held_restored(now, job.mig, Ok(belongings));
            }
            Effect::Event(_) => {}
        }
    }

    fn started(&mut self, host: HostId, stay: Stay) {
        let node = self.nodes.get_mut(&host).expect("a node");
        node.host.handle_started(self.now, stay, Ok(Vec::new()), &mut self.rng);
    }

    fn land(&mut self, mig: MigrationId, to: HostId, records: &[SealedRecord]) {
        let now = self.now;
        let node = self.node(to);
        let Some((Some(job), landed)) = node.landing.get_mut(&mig) else { return };
        let mut opener = Opener::new(job.key.clone(), job.transcript);
        let (mut counter, mut sessions) = (0, Vec::new());
        for record in records {
            let plaintext = opener.open::<Dalek, Strict>(record).expect("honest records");
            match record.kind {
                RecordKind::Page => counter = u64::from_le_bytes(plaintext.try_into().expect("8 bytes")),
                RecordKind::Sessions => sessions = plaintext,
                _ => {}
            }
        }
        let salt = opener.salt();
        *landed = Some(counter);
        node.images.insert(ImageId::Held(mig), (counter, sessions.clone()));
        let state = state_digest(&salt, &CODE, &digest(counter, &salt), &sessions);
        node.host.handle_received(now, mig, state, 8, sessions);
    }

    pub(super) fn deploy(&mut self, name: &str) -> ServiceId {
        let service = self.deploy_only(name);
        self.acknowledged.insert(service, 0);
        self.pass(SECOND);
        service
    }

    pub(super) fn deploy_only(&mut self, name: &str) -> ServiceId {
        let owner = Secret::new([9; 32]);
        let key = OwnerKey(Dalek::public_key(&owner));
        let registry = self.registry.id();
        let service = service_id(registry, key, name);
        let manifest = Manifest {
            service,
            name: name.to_owned(),
            owner: key,
            version: 1,
            code: CODE,
            tos: ServiceType::Request,
            required: Resources { cpu_millicores: 10, memory_bytes: 1 << 20, storage_bytes: 0, bandwidth_bps: 0 },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: Durability::Log,
            token_policy: TokenPolicy::Refuse,
        };
        let signed = Signed::sign::<Dalek>(&owner, registry, Receiver::Anyone, &manifest);
        let (now, home) = (self.now, self.names["home"]);
        let node = self.nodes.get_mut(&home).expect("home");
        node.host.deploy(now, &signed, &mut self.rng).expect("deployable");
        service
    }

    /// Where a request would be answered now.
    pub(super) fn serving(&self, service: ServiceId) -> Vec<(HostId, Stay)> {
        let id = service.to_string();
        let serves = |host: &Host| {
            let views = host.services(self.now);
            views.iter().any(|view| view.service == id && view.state == "serving" && view.lease_s > 0.0)
        };
        let nodes = self.nodes.iter().filter(|(_, node)| serves(&node.host));
        nodes
            .map(|(me, node)| {
                let stays = node.running.keys().filter(|stay| stay.0 == service);
                (*me, *stays.max().expect("what is served runs"))
            })
            .collect()
    }

    /// One write by a client, acknowledged; and none before it is lost.
    pub(super) fn write(&mut self, service: ServiceId) -> HostId {
        let serving = self.serving(service);
        let [(host, stay)] = serving[..] else { panic!("served by {} hosts", serving.len()) };
        let counter = self.node(host).running.get_mut(&stay).expect("it runs");
        *counter += 1;
        let counter = *counter;
        let acknowledged = self.acknowledged.get_mut(&service).expect("deployed");
        *acknowledged += 1;
        assert_eq!(counter, *acknowledged, "an acknowledged write was lost");
        host
    }

    pub(super) fn begin(&mut self, service: ServiceId, to: &str) {
        let [(from, _)] = self.serving(service)[..] else { panic!("not served") };
        let (now, to) = (self.now, self.names[to]);
        let node = self.nodes.get_mut(&from).expect("a node");
        node.host.begin_move(now, service, to, "asked", &mut self.rng).expect("a move can begin");
        self.pass(SECOND);
    }

    /// A whole move, and a write after it.
    pub(super) fn go(&mut self, service: ServiceId, to: &str) {
        self.begin(service, to);
        assert_eq!(self.write(service), self.names[to]);
    }

    pub(super) fn backup(&self) -> Vec<StoreOp> {
        self.registry.records()
    }

    /// The Registry loses its disk; an operator restores `backup`.
    pub(super) fn restore(&mut self, backup: &[StoreOp]) {
        let mut image = StoreImage::new();
        backup.iter().for_each(|op| op.apply(&mut image));
        let rows = || image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let marks = mark_restored(self.registry.id(), rows(), self.now.wall).expect("our own rows");
        marks.iter().for_each(|op| op.apply(&mut image));
        let rows = image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        self.registry = Registry::restore(self.config.clone(), self.now, rows).expect("our own rows");
        self.wires.retain(|message| !matches!(message, Message::ToRegistry { .. } | Message::FromRegistry { .. }));
        self.loses = Box::new(|_| false);
    }

    pub(super) fn record(&self, service: ServiceId) -> (HostId, u64) {
        let placement = self.registry.placement(service).expect("registered");
        (placement.host, placement.epoch.era)
    }

    pub(super) fn suspended(&self) -> usize {
        self.registry.recovery(self.now).expect("restored").suspended
    }

    /// Long enough for everybody to be heard and every retry to have come.
    pub(super) fn recover(&mut self) {
        self.pass(RECOVERY_WINDOW);
        self.pass(Micros::from_secs(20));
    }

    pub(super) fn instances(&self) -> usize {
        self.nodes.values().map(|node| node.running.len()).sum()
    }
}

fn digest(counter: Counter, salt: &Digest) -> Digest {
    wayfare_protocol::suite::digest("guest", &[&salt.0, &counter.to_le_bytes()])
}

pub(super) fn is(frame: &RegistryFrame, name: &str) -> bool {
    frame.name() == name
}
