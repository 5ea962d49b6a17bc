//! How a mesh begins: everybody enrols.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wayfare_protocol::{
    gateway::{Gateway, GatewayConfig},
    host::{HostConfig, Identity},
    ids::{HostId, Nonce, OwnerKey, ServiceId},
    limits::STEP_TIMEOUT,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{Enrol, Lookup, RegistryFrame},
    order::{Action, Order, OrderFrame},
    placement::{PlacementConfig, Policy},
    registry::{self, Registry, RegistryConfig, StoreImage},
    reject::Strict,
    suite::{Secret, Suite, fresh_secret},
    time::{Instant, Micros, Now, Timestamp},
    trust::{Certificate, Receiver, Role, Signed, TrustBundle},
    wire::Frame,
};

use super::{Attacker, CODES, Content, Entrance, Node, Seeded, Stream, World};

const CAPACITY: Resources =
    Resources { cpu_millicores: 4000, memory_bytes: 1 << 30, storage_bytes: 1 << 30, bandwidth_bps: 1 << 30 };

/// The services that are deployed: their names, whether the attacker is their owner, and whether they have a log.
const SERVICES: [(&str, bool, Durability); 3] =
    [("kv", false, Durability::Log), ("cache", false, Durability::Memory), ("trap", true, Durability::Log)];

fn enrol<S: Suite>(
    registry: &mut Registry<S, Strict>,
    store: &mut StoreImage,
    now: Now,
    rng: &mut Seeded,
    (name, role): (&str, Role),
) -> (Secret, HostId, Signed<Certificate>) {
    let secret = fresh_secret(rng);
    let me = HostId(S::public_key(&secret));
    let token = registry.create_join_token(now, rng, name, role, Micros::from_secs(60)).expect("there is room");
    let (region, token) = ("lab".to_owned(), token.secret.hash());
    let enrol = Enrol { host: me, role, region, token, nonce: Nonce([0; 16]) };
    let signed = Signed::sign::<S>(&secret, registry.id(), Receiver::Registry(registry.id()), &enrol);
    registry.handle_frame(now, rng, me, &RegistryFrame::Enrol(signed).to_bytes()).expect("an honest enrolment");
    let mut certificate = None;
    while let Some(effect) = registry.poll_effect() {
        match effect {
            registry::Effect::Persist { seq, batch, .. } => {
                batch.iter().for_each(|op| op.apply(store));
                registry.handle_synced(seq);
            }
            registry::Effect::Reply { frame: RegistryFrame::Enrolled(enrolled), .. } => {
                certificate = Some(enrolled.certificate);
            }
            _ => {}
        }
    }
    (secret, me, certificate.expect("enrolled"))
}

impl<S: Suite> World<S> {
    /// Everybody has enrolled; there are no services yet.
    pub fn new() -> Self {
        let mut rng = Seeded(1);
        let now = Now { mono: Instant(1_000_000), wall: Timestamp(1_800_000_000_000_000) };
        let config = RegistryConfig::new::<S>(fresh_secret(&mut rng), vec!["/r".to_owned()]);
        let rogue = RegistryConfig::new::<S>(fresh_secret(&mut rng), vec!["/m".to_owned()]);
        let mut registry = Registry::<S, Strict>::new(config.clone());
        let anchors = [registry.anchor(), Registry::<S, Strict>::new(rogue.clone()).anchor()];
        let bundle = TrustBundle::new(anchors.to_vec());
        let (mut store, mut nodes, mut hosts) = (StoreImage::new(), BTreeMap::new(), Vec::new());
        let mut mallory = None;
        for (name, role) in
            [("home", Role::Home), ("alpha", Role::Cloud), ("beta", Role::Cloud), ("mallory", Role::Cloud)]
        {
            let (secret, me, certificate) = enrol(&mut registry, &mut store, now, &mut rng, (name, role));
            if name == "mallory" {
                mallory = Some(secret.clone());
            }
            let (id, certificate) =
                bundle.verify_certificate::<S, Strict>(&certificate, me, &[role], now.wall).expect("genuine");
            let identity = Identity { secret, registry: id, certificate };
            let placement = PlacementConfig { policy: Policy::Never, ..PlacementConfig::default() };
            let config = HostConfig {
                capacity: CAPACITY,
                price_micros: 0,
                placement,
                step_timeout: STEP_TIMEOUT,
                // So that images are made, and journals compacted, in a short story.
                image_log_bytes: 1500,
                compact_journal_bytes: 0,
            };
            nodes.insert(me, Node::new(identity, config, bundle.clone(), format!("/{name}")));
            hosts.push(me);
        }
        let (_, gateway, certificate) = enrol(&mut registry, &mut store, now, &mut rng, ("users", Role::Gateway));
        let config_of_gateway = GatewayConfig::new(gateway, certificate, bundle.clone(), registry.id());
        let machine = Gateway::new(config_of_gateway.clone(), &[], 0, &mut rng);
        let (key, his_gateway, gateway_certificate) =
            enrol(&mut registry, &mut store, now, &mut rng, ("thieves", Role::Gateway));
        let owner = fresh_secret(&mut rng);
        let attacker = Attacker {
            host: *hosts.last().expect("four enrolled"),
            gateway: his_gateway,
            gateway_certificate,
            keys: vec![mallory.expect("he enrolled"), key, owner.clone(), rogue.secret.clone()],
            registry: rogue,
            owner,
        };
        let mut world = Self {
            now,
            owner: fresh_secret(&mut rng),
            rng,
            registry,
            config,
            backup: store.clone(),
            store,
            nodes,
            hosts,
            entrance: Entrance { machine, config: config_of_gateway, journal: Vec::new() },
            gateway,
            attacker,
            wires: VecDeque::new(),
            past: VecDeque::new(),
            words: Vec::new(),
            told: BTreeMap::new(),
            asked: 0,
            asked_of: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            tainted: BTreeSet::new(),
            clients: BTreeSet::new(),
            consents: BTreeSet::new(),
            removed: BTreeSet::new(),
            placed: BTreeMap::new(),
            versions: 1,
        };
        let known: Vec<HostId> = world.hosts.iter().copied().chain([world.gateway, his_gateway]).collect();
        known.iter().for_each(|host| world.learn(&host.0));
        world.learn(&world.registry.id().0.clone());
        world.carry_services();
        world.pass(Micros::from_secs(1));
        world.settle(64);
        world
    }

    /// Tells the gateway which services to carry.
    pub(super) fn carry_services(&mut self) {
        for (name, ..) in SERVICES {
            self.entrance.machine.add_service(self.now, &Lookup::Name(name.to_owned())).expect("there is room");
        }
    }

    /// Which of [`SERVICES`] it is, by its identifier.
    fn id(&self, number: usize) -> (ServiceId, &Secret, &'static str, Durability) {
        let (name, his, durability) = SERVICES[number % SERVICES.len()];
        let owner = if his { &self.attacker.owner } else { &self.owner };
        let id = service_id(self.registry.id(), OwnerKey(S::public_key(owner)), name);
        (id, owner, name, durability)
    }

    /// The identifier of the service of this number.
    pub fn service(&self, number: usize) -> ServiceId {
        self.id(number).0
    }

    /// Whether this service is somebody's who is not the attacker.
    pub fn is_honest(&self, service: ServiceId) -> bool {
        (0..SERVICES.len()).any(|number| !SERVICES[number].1 && self.service(number) == service)
    }

    /// Whether acknowledged requests of it must survive.
    pub(super) fn is_logged(&self, service: ServiceId) -> bool {
        (0..SERVICES.len()).any(|number| SERVICES[number].2 == Durability::Log && self.service(number) == service)
    }

    fn manifest(&self, number: usize, code: usize) -> Signed<Manifest> {
        let (service, owner, name, durability) = self.id(number);
        let manifest = Manifest {
            service,
            name: name.to_owned(),
            owner: OwnerKey(S::public_key(owner)),
            version: self.versions,
            code: CODES[code % CODES.len()],
            tos: ServiceType::Request,
            required: Resources { cpu_millicores: 100, memory_bytes: 1 << 20, storage_bytes: 0, bandwidth_bps: 0 },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability,
            token_policy: TokenPolicy::Refuse,
        };
        Signed::sign::<S>(owner, service.registry, Receiver::Anyone, &manifest)
    }

    /// An owner deploys a service: an honest one at home, the attacker on his cloud.
    pub fn deploy(&mut self, number: usize) {
        let (host, now) =
            (if SERVICES[number % SERVICES.len()].1 { self.attacker.host } else { self.hosts[0] }, self.now);
        // What was removed must be newer to come back.
        self.versions += 1;
        let (manifest, service) = (self.manifest(number, 0), self.service(number));
        let Some(node) = self.nodes.get_mut(&host) else { return };
        if node.host.deploy(now, &manifest, &mut self.rng).is_ok() {
            self.acknowledged.remove(&service);
        }
        self.run();
    }

    /// An owner's order, passed on by a node.
    pub fn order(&mut self, number: usize, what: u8) {
        self.versions += 1;
        let (service, ..) = self.id(number);
        let manifest = self.manifest(number, usize::from(what >> 4));
        let action = match what % 5 {
            0 => Action::Stop,
            1 => Action::Start,
            2 => Action::Remove,
            keep => Action::Update { manifest: manifest.hash(), keep: keep == 3, from: self.hosts[0] },
        };
        match action {
            Action::Remove => drop(self.removed.insert(service)),
            // Its owner lets go of its state.
            Action::Update { keep: false, .. } => drop(self.tainted.insert(service)),
            Action::Stop | Action::Start | Action::Update { .. } => {}
        }
        let (sequence, expiry) = (self.now.wall.0, self.now.wall + Micros::from_secs(600));
        let order = Order { service, action, sequence, expiry };
        let receiver = Receiver::Registry(service.registry);
        let order = Signed::sign::<S>(self.id(number).1, service.registry, receiver, &order);
        let manifest = matches!(action, Action::Update { .. }).then_some(manifest);
        let frame = RegistryFrame::Order(OrderFrame { order, manifest, addresses: Vec::new() });
        let (from, to) = (self.hosts[2], self.registry.host());
        self.send(from, to, Content::Frame(Stream::Registry, frame.to_bytes()));
    }

    /// A user asks a service for something. Every request has a number of its own.
    pub fn ask(&mut self, number: usize, keyed: bool) {
        self.asked += 1;
        let (service, _, name, _) = self.id(number);
        let (asked, lookup) = (self.asked, Lookup::Name(name.to_owned()));
        let key = keyed.then(|| format!("key-{asked}").try_into().expect("it is one"));
        let request = format!("POST /{asked}").into_bytes();
        if let Ok(ticket) = self.entrance.machine.handle_request(self.now, &lookup, request, key) {
            self.asked_of.insert(ticket, (service, asked));
        }
        self.run();
    }

    /// An operator has a service move.
    pub fn begin_move(&mut self, number: usize, to: usize) {
        let (service, now) = (self.service(number), self.now);
        let to = self.hosts[to % self.hosts.len()];
        let Some((host, _)) = self.placed.get(&service).copied() else { return };
        if let Some(node) = self.nodes.get_mut(&host) {
            let _ = node.host.begin_move(now, service, to, "asked", &mut self.rng);
        }
        self.run();
    }
}

impl<S: Suite> Default for World<S> {
    fn default() -> Self {
        Self::new()
    }
}
