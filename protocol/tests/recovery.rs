//! A Registry that is restored from a backup (PROTOCOL 4, rule 7), with production machines all round: whatever happened
//! after the backup, no acknowledged write is lost and no service is served twice.

#![allow(clippy::panic, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::{TryRng, utils};
use wayfare_protocol::{
    advert::Gossip,
    host::{Base, Effect, Entry, Host, HostConfig, Identity, ImageId, ReceiveJob, Restored, hosted::Stay},
    ids::{Digest, HostId, MigrationId, Nonce, OwnerKey, ServiceId},
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, RECOVERY_WINDOW, STEP_TIMEOUT},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::*,
    placement::{PlacementConfig, Policy},
    registry::{self, Registry, RegistryConfig, StoreImage, StoreOp, mark_restored},
    reject::{Guards, Reject, Rule, Strict},
    suite::{Dalek, Secret, Suite, fresh_secret},
    time::{Instant, Micros, Now, Timestamp},
    transfer::{Opener, RecordKind, SealedRecord, Sealer, state_digest},
    trust::{Receiver, Role, Signed, TrustBundle},
    wire::Frame,
};

/// Every guard but the suspension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Unsuspended;

impl Guards for Unsuspended {
    fn enforces(_: Reject) -> bool {
        true
    }

    fn keeps(rule: Rule) -> bool {
        rule != Rule::SuspendRestored
    }
}

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
const SECOND: Micros = Micros::from_secs(1);

/// How many writes were made to an instance.
type Counter = u64;

enum Message {
    ToRegistry { from: HostId, frame: RegistryFrame },
    FromRegistry { to: HostId, frame: RegistryFrame },
    Migrate { from: HostId, to: HostId, frame: MigrateFrame },
    State { mig: MigrationId, to: HostId, records: Vec<SealedRecord> },
    Gossip { bytes: Vec<u8> },
}

struct Node {
    host: Host,
    identity: Identity,
    config: HostConfig,
    /// What a restart brings back: the journal, images, and the instances, as their logs would.
    journal: Vec<(u64, Entry)>,
    images: BTreeMap<ImageId, (Counter, Vec<u8>)>,
    running: BTreeMap<Stay, Counter>,
    landing: BTreeMap<MigrationId, (Option<ReceiveJob>, Option<Counter>)>,
}

/// Drops what it says yes to.
type Loses = Box<dyn Fn(&Message) -> bool>;

struct World<G: Guards> {
    now: Now,
    rng: Seeded,
    config: RegistryConfig,
    registry: Registry<Dalek, G>,
    nodes: BTreeMap<HostId, Node>,
    names: BTreeMap<&'static str, HostId>,
    wires: VecDeque<Message>,
    loses: Loses,
    /// Whether a host was: then it need not know every message.
    restarted: bool,
    /// Out of the Registry's reach.
    silent: BTreeSet<HostId>,
    events: Vec<registry::Event>,
    /// The records as they were after the last 3 and 6.
    backups: BTreeMap<u8, Vec<StoreOp>>,
    /// Writes that clients were told of, by service.
    acknowledged: BTreeMap<ServiceId, u64>,
}

type W = World<Strict>;

impl<G: Guards> World<G> {
    fn new() -> Self {
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

    fn enrol(&mut self, name: &'static str, role: Role) -> HostId {
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
    fn restart(&mut self, host: HostId) {
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

    fn node(&mut self, host: HostId) -> &mut Node {
        self.nodes.get_mut(&host).expect("a node")
    }

    fn pass(&mut self, length: Micros) {
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

    fn deploy(&mut self, name: &str) -> ServiceId {
        let service = self.deploy_only(name);
        self.acknowledged.insert(service, 0);
        self.pass(SECOND);
        service
    }

    fn deploy_only(&mut self, name: &str) -> ServiceId {
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
    fn serving(&self, service: ServiceId) -> Vec<(HostId, Stay)> {
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
    fn write(&mut self, service: ServiceId) -> HostId {
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

    fn begin(&mut self, service: ServiceId, to: &str) {
        let [(from, _)] = self.serving(service)[..] else { panic!("not served") };
        let (now, to) = (self.now, self.names[to]);
        let node = self.nodes.get_mut(&from).expect("a node");
        node.host.begin_move(now, service, to, "asked", &mut self.rng).expect("a move can begin");
        self.pass(SECOND);
    }

    /// A whole move, and a write after it.
    fn go(&mut self, service: ServiceId, to: &str) {
        self.begin(service, to);
        assert_eq!(self.write(service), self.names[to]);
    }

    fn backup(&self) -> Vec<StoreOp> {
        self.registry.records()
    }

    /// The Registry loses its disk; an operator restores `backup`.
    fn restore(&mut self, backup: &[StoreOp]) {
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

    fn record(&self, service: ServiceId) -> (HostId, u64) {
        let placement = self.registry.placement(service).expect("registered");
        (placement.host, placement.epoch.era)
    }

    fn suspended(&self) -> usize {
        self.registry.recovery(self.now).expect("restored").suspended
    }

    /// Long enough for everybody to be heard and every retry to have come.
    fn recover(&mut self) {
        self.pass(RECOVERY_WINDOW);
        self.pass(Micros::from_secs(20));
    }

    fn instances(&self) -> usize {
        self.nodes.values().map(|node| node.running.len()).sum()
    }
}

fn digest(counter: Counter, salt: &Digest) -> Digest {
    wayfare_protocol::suite::digest("guest", &[&salt.0, &counter.to_le_bytes()])
}

fn is(frame: &RegistryFrame, name: &str) -> bool {
    frame.name() == name
}

/// A world with a service at home, which has seen one write.
fn deployed<G: Guards>() -> (World<G>, ServiceId) {
    let mut world = World::new();
    let service = world.deploy("counter");
    world.write(service);
    (world, service)
}

#[test]
fn moves_after_the_backup_are_learnt_from_their_hosts() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    world.go(service, "alpha");
    world.go(service, "beta");
    world.restore(&backup);
    assert_eq!((world.record(service), world.suspended()), ((world.names["home"], 1), 1));
    world.pass(Micros::from_secs(12));
    // Known by now, but not decided about: the window is not over. The lease of before goes on meanwhile.
    assert_eq!((world.record(service), world.suspended()), ((world.names["beta"], 3), 1));
    world.write(service);
    world.recover();
    assert_eq!(world.suspended(), 0);
    assert_eq!(world.write(service), world.names["beta"]);
    world.go(service, "alpha");
    assert_eq!(world.record(service), (world.names["alpha"], 4));
    assert_eq!(world.instances(), 1);
}

#[test]
fn nothing_is_decided_within_the_window() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    world.restore(&backup);
    let (now, alpha) = (world.now, world.names["alpha"]);
    let home = world.names["home"];
    let node = world.nodes.get_mut(&home).expect("home");
    node.host.begin_move(now, service, alpha, "asked", &mut world.rng).expect("a move can begin");
    world.pass(SECOND);
    // 2 was refused: the attempt is over, the service goes on.
    assert_eq!(world.registry.rejects().get(Reject::Recovering), 1);
    assert_eq!(world.write(service), home);
    world.pass(Micros::from_secs(31));
    assert!(world.serving(service).is_empty(), "no lease is given");
    assert!(world.registry.rejects().get(Reject::Recovering) > 2);
    world.pass(Micros::from_secs(25));
    assert_eq!(world.write(service), home);
    world.go(service, "alpha");
}

#[test]
fn a_new_service_and_its_hosts_are_learnt_too() {
    let (mut world, old): (W, _) = deployed();
    let backup = world.backup();
    world.enrol("gamma", Role::Cloud);
    world.pass(SECOND);
    let new = world.deploy("new");
    world.write(new);
    world.go(new, "gamma");
    world.go(old, "gamma");
    world.restore(&backup);
    world.recover();
    let gamma = world.names["gamma"];
    assert_eq!((world.record(new), world.record(old)), ((gamma, 2), (gamma, 2)));
    assert_eq!((world.write(new), world.write(old)), (gamma, gamma));
    world.go(new, "beta");
}

#[test]
fn hosts_that_restart_show_what_their_journals_say() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let (home, alpha, beta) = (world.names["home"], world.names["alpha"], world.names["beta"]);
    world.go(service, "alpha");
    world.loses = Box::new(|message| matches!(message, Message::FromRegistry { frame, .. } if is(frame, "Placement")));
    world.begin(service, "beta");
    world.restore(&backup);
    for host in [home, alpha, beta] {
        world.restart(host);
    }
    world.recover();
    assert_eq!(world.instances(), 1);
    let now_at = world.write(service);
    assert_eq!(world.record(service).0, now_at);
    assert!(now_at == alpha || now_at == beta);
}

#[test]
fn a_registration_waits_for_the_window_and_is_not_lost() {
    let (mut world, _): (W, _) = deployed();
    let backup = world.backup();
    world.restore(&backup);
    let new = world.deploy("new");
    assert!(world.serving(new).is_empty());
    world.recover();
    assert_eq!(world.write(new), world.names["home"]);
}

/// B has won and serves; A has not heard of it and is still frozen.
#[test]
fn a_frozen_source_hears_that_its_target_won() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let home = world.names["home"];
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    assert_eq!(world.instances(), 2);
    world.restore(&backup);
    world.recover();
    assert_eq!(world.instances(), 1, "home has deleted its copy");
    assert_eq!(world.write(service), world.names["alpha"]);
}

/// A has heard of the decision and deleted its copy; B has not.
#[test]
fn a_target_hears_that_it_won_from_what_its_source_shows() {
    let (mut world, service): (W, _) = deployed();
    let other = world.deploy("other");
    let backup = world.backup();
    let alpha = world.names["alpha"];
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == alpha && is(frame, "Placement")),
    );
    world.begin(service, "alpha");
    world.restore(&backup);
    world.recover();
    assert_eq!(world.write(service), alpha);
    world.write(other);
    assert_eq!(world.instances(), 2);
}

/// Neither has heard that the target won: it is decided anew, once, whatever the backup knew of the migration.
#[test]
fn a_decision_that_nobody_heard_is_made_anew() {
    for step in [2, 3, 6] {
        let (mut world, service): (W, _) = deployed();
        world.backups.insert(2, world.backup());
        world.loses =
            Box::new(|message| matches!(message, Message::FromRegistry { frame, .. } if is(frame, "Placement")));
        world.begin(service, "alpha");
        assert_eq!(world.record(service).0, world.names["alpha"]);
        assert_eq!((world.instances(), world.serving(service).len()), (1, 0), "frozen at home");
        let backup = world.backups[&step].clone();
        world.restore(&backup);
        world.recover();
        assert_eq!(world.instances(), 1, "backup after {step}");
        world.write(service);
        world.recover();
        let landing: usize = world.nodes.values().map(|node| node.landing.len()).sum();
        assert_eq!(landing, 0, "backup after {step}: held for ever");
        world.go(service, "beta");
    }
}

#[test]
fn a_service_whose_host_is_silent_waits_for_it() {
    let (mut world, service): (W, _) = deployed();
    let other = world.deploy("other");
    let backup = world.backup();
    world.go(service, "alpha");
    let alpha = world.names["alpha"];
    world.silent.insert(alpha);
    world.restore(&backup);
    world.recover();
    // Its former host knows where it went.
    assert_eq!((world.record(service), world.suspended()), ((alpha, 2), 1));
    assert!(world.serving(service).is_empty());
    assert_eq!(world.write(other), world.names["home"], "the others go on");
    let waits: Vec<_> = world.registry.placements(world.now).filter_map(|view| view.suspended).collect();
    assert_eq!(waits, [registry::Suspension { window: false, waits_for: Some(alpha) }]);
    world.silent.clear();
    world.pass(Micros::from_secs(40));
    assert_eq!((world.write(service), world.suspended()), (alpha, 0));
    world.go(service, "beta");
}

#[test]
fn a_frozen_service_waits_for_its_silent_target() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let (home, alpha) = (world.names["home"], world.names["alpha"]);
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    world.silent.insert(alpha);
    world.restore(&backup);
    world.recover();
    world.pass(Micros::from_secs(120));
    assert_eq!(world.suspended(), 1);
    assert!(world.serving(service).is_empty(), "home asks for it in vain: alpha may have served");
    world.silent.clear();
    world.pass(Micros::from_secs(40));
    assert_eq!(world.write(service), alpha);
    assert_eq!(world.instances(), 1);
}

/// The target refused, and has nothing: it would not come by itself, so it is asked.
#[test]
fn a_target_that_has_nothing_is_asked() {
    let (mut world, service): (W, _) = deployed();
    let (home, alpha) = (world.names["home"], world.names["alpha"]);
    world.loses = Box::new(move |message| match message {
        Message::Migrate { to, frame, .. } => {
            (*to == alpha && frame.name() == "Transfer") || (*to == home && frame.name() == "Refused")
        }
        Message::ToRegistry { frame, .. } => is(frame, "Reclaim"),
        _ => false,
    });
    world.begin(service, "alpha");
    let backup = world.backup();
    world.pass(Micros::from_secs(30));
    world.restore(&backup);
    world.recover();
    assert_eq!(world.write(service), home);
    assert_eq!(world.instances(), 1);
}

#[test]
fn a_crash_in_recovery_begins_it_again_and_one_after_it_does_not() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    world.go(service, "alpha");
    world.restore(&backup);
    world.pass(Micros::from_secs(30));
    let crash = |world: &mut W| {
        let mut image = StoreImage::new();
        world.registry.records().iter().for_each(|op| op.apply(&mut image));
        let rows = image.into_iter().map(|((table, key), value)| (table, key, value));
        world.registry = Registry::restore(world.config.clone(), world.now, rows).expect("our own rows");
    };
    crash(&mut world);
    world.pass(Micros::from_secs(10));
    assert_eq!(world.suspended(), 1);
    assert!(world.registry.recovery(world.now).expect("restored").window_left > Micros::from_secs(20));
    world.recover();
    assert_eq!((world.write(service), world.suspended()), (world.names["alpha"], 0));
    crash(&mut world);
    assert_eq!(world.suspended(), 0);
    world.pass(Micros::from_secs(20));
    world.go(service, "beta");
}

#[test]
fn join_tokens_of_a_backup_are_void() {
    let (mut world, _): (W, _) = deployed();
    let (now, lifetime) = (world.now, Micros::from_secs(3600));
    world.registry.create_join_token(now, &mut world.rng, "later", Role::Cloud, lifetime).expect("there is room");
    let backup = world.backup();
    world.restore(&backup);
    assert_eq!(world.registry.tokens().count(), 0);
}

/// The source was out of reach for two moves: the end of its own migration is known to nobody any more, so it keeps its
/// state, sealed.
#[test]
fn a_source_that_missed_two_moves_keeps_its_state_sealed() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let home = world.names["home"];
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    world.silent.insert(home);
    world.loses = Box::new(|_| false);
    world.go(service, "beta");
    world.restore(&backup);
    world.recover();
    assert_eq!(world.write(service), world.names["beta"]);
    world.silent.clear();
    world.pass(Micros::from_secs(40));
    let states: Vec<String> =
        world.nodes[&home].host.services(world.now).into_iter().map(|service| service.state).collect();
    assert_eq!(states, ["sealed"]);
    assert_eq!(world.write(service), world.names["beta"]);
}

#[test]
fn a_host_with_many_services_shows_them_in_parts() {
    let (mut world, _): (W, _) = deployed();
    let backup = world.backup();
    let services: Vec<ServiceId> = (0..80).map(|number| world.deploy_only(&format!("service-{number}"))).collect();
    world.pass(SECOND);
    world.restore(&backup);
    let parts = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = std::rc::Rc::clone(&parts);
    world.loses = Box::new(move |message| {
        if let Message::ToRegistry { frame: RegistryFrame::Shown(frame), .. } = message {
            seen.set(frame.shown.unverified().expect("readable").parts);
        }
        false
    });
    world.recover();
    assert_eq!((world.suspended(), parts.get()), (0, 2));
    for service in services {
        world.acknowledged.insert(service, 0);
        world.write(service);
    }
}

/// One run: moves, writes, lost messages and silent hosts round a backup and a restore; then all heals.
fn run(seed: u64) {
    let mut dice = Seeded(seed);
    let mut roll = move |sides: u64| dice.try_next_u64().expect("infallible") % sides;
    let (mut world, service): (W, _) = deployed();
    let names = ["home", "alpha", "beta", "gamma"];
    let hosts: Vec<HostId> = world.names.values().copied().collect();
    let lossy = |roll: &mut dyn FnMut(u64) -> u64| -> Loses {
        let (per_cent, state) = (roll(3) * 15, std::cell::Cell::new(roll(u64::MAX)));
        // One host hears nothing of decisions.
        let (deaf, kind) = (hosts.get(roll(6) as usize).copied(), ["Placement", "Granted"][roll(2) as usize]);
        Box::new(move |message| {
            if let Message::FromRegistry { to, frame } = message
                && deaf == Some(*to)
                && is(frame, kind)
            {
                return true;
            }
            let mut next = Seeded(state.get());
            let drawn = next.try_next_u64().expect("infallible");
            state.set(drawn);
            // Adverts are repeated, and gossip is no stream.
            !matches!(message, Message::Gossip { .. } | Message::State { .. }) && drawn % 100 < per_cent
        })
    };
    let mut backup = world.backup();
    let backed_up_at = roll(4);
    for turn in 0..8 {
        if turn == backed_up_at {
            backup = world.backup();
        }
        if turn == backed_up_at + 2 && roll(2) == 0 {
            world.enrol("gamma", Role::Cloud);
        }
        world.loses = lossy(&mut roll);
        world.silent.clear();
        if roll(6) == 0 {
            world.restart(hosts[roll(3) as usize]);
        }
        if roll(4) == 0 {
            let index = roll(3) as usize;
            world.silent.insert(world.names[names[index]]);
        }
        if let [(from, _)] = world.serving(service)[..] {
            let index = roll(4) as usize;
            let (now, to) = (world.now, world.names.get(names[index]).copied().unwrap_or(from));
            let node = world.nodes.get_mut(&from).expect("a node");
            // A refusal is as good a turn as any.
            let _ = node.host.begin_move(now, service, to, "asked", &mut world.rng);
        }
        for _ in 0..=roll(3) {
            let longest = [300_000, 2_000_000, 8_000_000, 20_000_000][roll(4) as usize];
            world.pass(Micros(roll(longest)));
            if world.serving(service).len() == 1 {
                world.write(service);
            }
        }
    }
    world.restore(&backup);
    for _ in 0..4 {
        world.loses = lossy(&mut roll);
        world.silent =
            names.iter().filter_map(|name| world.names.get(name)).copied().filter(|_| roll(3) == 0).collect();
        world.pass(Micros(roll(30_000_000)));
        if roll(3) == 0 {
            world.restart(hosts[roll(3) as usize]);
        }
        if world.serving(service).len() == 1 {
            world.write(service);
        }
    }
    world.loses = Box::new(|_| false);
    world.silent.clear();
    world.pass(Micros::from_secs(120));
    assert_eq!(world.suspended(), 0, "seed {seed}");
    assert_eq!(world.serving(service).len(), 1, "seed {seed}");
    world.write(service);
    let record = world.record(service).0;
    for (me, node) in &world.nodes {
        let states: Vec<String> = node.host.services(world.now).into_iter().map(|view| view.state).collect();
        let fits = if *me == record { states.contains(&"serving".to_owned()) } else { true };
        let others = states.iter().filter(|state| *state != "sealed").count();
        assert!(fits && others <= usize::from(*me == record), "seed {seed}: {states:?}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "who runs the test says how long")]
fn whatever_happens_round_a_restore_no_write_is_lost() {
    let runs = std::env::var("WAYFARE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(25);
    for seed in 0..runs {
        run(seed);
    }
}

/// The source has not heard that its target won, and the target is out of reach of a Registry that acts on a backup from
/// before the move, `later` after the last renewal.
fn without_the_suspension(later: Micros) {
    let (mut world, service): (World<Unsuspended>, _) = deployed();
    let backup = world.backup();
    let (home, alpha) = (world.names["home"], world.names["alpha"]);
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    world.silent.extend([home, alpha]);
    world.pass(later);
    world.restore(&backup);
    world.silent.remove(&home);
    world.pass(Micros::from_secs(20));
    world.write(service);
}

#[test]
#[should_panic(expected = "served twice")]
fn without_the_suspension_a_service_is_served_twice() {
    without_the_suspension(Micros::ZERO);
}

#[test]
#[should_panic(expected = "an acknowledged write was lost")]
fn without_the_suspension_an_acknowledged_write_is_lost() {
    without_the_suspension(Micros::from_secs(60));
}
