//! How a run begins: the seed's nodes enrol, their processes start, and owners deploy their services at home.

use wayfare_protocol::{
    gateway::{Gateway, GatewayConfig, effect},
    host::{Entry, Host, HostConfig, Identity, hosted::Stay},
    ids::{HostId, Nonce, OwnerKey},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{Enrol, Lookup, RegistryFrame},
    placement::PlacementConfig,
    registry::{self, MigrationState, Registry, RegistryConfig},
    reject::{Guards, Strict},
    suite::{Secret, Suite, fresh_secret},
    time::Micros,
    trust::{Certificate, Receiver, Role, Signed, TrustBundle},
    wire::{self, Frame as _},
};

use super::{
    check::Service,
    client::{Client, Manner},
    clock::Clock,
    disk::{Journal, Store},
    event::Event,
    faults::{Plan, Strike},
    host::{HostDisk, HostNode},
    memo::Memo,
    node::{Disk, Machine, Node},
    owner::{Owner, Wish},
    rng::Rng,
    story::Story,
    transfer::module_digest,
    world::World,
};
use crate::matrix::LatencyMatrix;

/// The owner of all services.
pub(super) const OWNER: [u8; 32] = [9; 32];
/// Bytes of the code that services share two by two.
const MODULE_BYTES: usize = 900;

fn module(service: usize, version: u32) -> Vec<u8> {
    let mut module = vec![service as u8 / 2 + 1; MODULE_BYTES];
    module[..4].copy_from_slice(&version.to_le_bytes());
    module
}

/// A node that has been enrolled.
struct Member {
    name: String,
    role: Role,
    secret: Secret,
    certificate: Signed<Certificate>,
}

fn members(plan: &Plan) -> Vec<(String, Role)> {
    let named = |role, word: &'static str, count| (0..count).map(move |n| (format!("{word}-{n}"), role));
    named(Role::Home, "home", plan.homes)
        .chain(named(Role::Cloud, "cloud", plan.clouds))
        .chain(named(Role::Gateway, "gateway", plan.gateways))
        .collect()
}

impl<G: Guards> World<G> {
    /// The world of this seed, at its beginning.
    pub(super) fn new(seed: u64, updates: bool, story: Story) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng, updates);
        let mut world = Self::empty(plan, rng, story);
        world.enrol();
        world.place();
        for node in 0..world.nodes.len() {
            let loose = world.plan.loose_clocks;
            world.nodes[node].clock = Clock::boot(&mut world.rng, 0, loose);
            world.boot(node);
        }
        (0..world.nodes.len()).for_each(|node| world.settle(node));
        world.found();
        world.schedule_strikes();
        world
    }

    fn enrol(&mut self) {
        let secret = fresh_secret(&mut self.rng);
        let config = RegistryConfig::new::<Memo>(secret.clone(), vec!["/registry".to_owned()]);
        let mut registry: Registry<Memo, G> = Registry::new(config);
        self.bundle = TrustBundle::new(vec![registry.anchor()]);
        let mut store = Store::default();
        let mut enrolled = Vec::new();
        for (name, role) in members(&self.plan) {
            if let Some(member) = self.enrol_one(&mut registry, &mut store, name, role) {
                enrolled.push(member);
            }
        }
        let host = registry.host();
        self.nodes.push(Node::new("registry".to_owned(), host, secret, None, Disk::Registry(store)));
        for Member { name, role, secret, certificate } in enrolled {
            let disk = match role {
                Role::Gateway => Disk::Gateway(Journal::new(|seq, _, keep| keep.contains(&seq))),
                Role::Cloud | Role::Home => Disk::Host(Box::new(HostDisk::new())),
            };
            let host = HostId(Memo::public_key(&secret));
            let mut node = Node::new(name, host, secret, Some(role), disk);
            node.certificate = Some(certificate);
            self.nodes.push(node);
        }
        self.by_host = self.nodes.iter().enumerate().map(|(at, node)| (node.host, at)).collect();
    }

    fn enrol_one(
        &mut self,
        registry: &mut Registry<Memo, G>,
        store: &mut Store,
        name: String,
        role: Role,
    ) -> Option<Member> {
        let now = Clock::exact().now(0);
        let secret = fresh_secret(&mut self.rng);
        let me = HostId(Memo::public_key(&secret));
        let token = registry.create_join_token(now, &mut self.rng, &name, role, Micros::from_secs(60)).ok()?;
        let nonce = Nonce([0; 16]);
        let enrol = Enrol { host: me, role, region: "lab".to_owned(), token: token.secret.hash(), nonce };
        let signed = Signed::sign::<Memo>(&secret, registry.id(), Receiver::Registry(registry.id()), &enrol);
        registry.handle_frame(now, &mut self.rng, me, &RegistryFrame::Enrol(signed).to_bytes()).ok()?;
        let mut certificate = None;
        while let Some(effect) = registry.poll_effect() {
            match effect {
                registry::Effect::Persist { seq, batch, .. } => {
                    store.change(seq, batch);
                    store.begin_sync();
                    store.finish_sync();
                    registry.handle_synced(seq);
                }
                registry::Effect::Reply { frame: RegistryFrame::Enrolled(enrolled), .. } => {
                    certificate = Some(enrolled.certificate);
                }
                registry::Effect::Reply { .. } | registry::Effect::Ask { .. } | registry::Effect::Event(_) => {}
            }
        }
        Some(Member { name, role, secret, certificate: certificate? })
    }

    /// Who is how far from whom.
    fn place(&mut self) {
        let (count, rng) = (self.nodes.len(), &mut self.rng);
        let matrix = LatencyMatrix::bundled().ok().filter(|_| rng.one_in(2));
        let rows: Vec<usize> = (0..count).map(|_| rng.index(matrix.as_ref().map_or(1, LatencyMatrix::rows))).collect();
        let near = rng.magnitude(200, 100_000);
        self.links.latency = (0..count)
            .map(|from| {
                let one_way = |to: usize| match &matrix {
                    Some(matrix) => u64::from(matrix.rtt_us(rows[from], rows[to]).unwrap_or(1_000)) / 2,
                    None => near,
                };
                (0..count).map(|to| if matrix.is_some() { one_way(to) } else { rng.range(100, one_way(to)) }).collect()
            })
            .collect();
        self.links.jitter_us = rng.magnitude(1, 20_000);
        if rng.one_in(2) {
            self.links.gossip_lost_ppm = rng.below(300_000);
            self.links.gossip_doubled_ppm = rng.below(300_000);
        }
        if rng.one_in(3) {
            self.links.lost_ppm = rng.magnitude(500, 30_000);
        }
        if rng.one_in(3) {
            self.links.doubled_ppm = rng.magnitude(1_000, 100_000);
        }
        if rng.one_in(3) {
            self.links.late_ppm = rng.magnitude(1_000, 100_000);
        }
    }

    /// Services, clients, and when they begin.
    fn found(&mut self) {
        let owner = Secret::new(OWNER);
        let key = OwnerKey(Memo::public_key(&owner));
        let registry = self.bundle.anchors()[0].id;
        for at in 0..self.plan.services {
            let name = format!("service-{at}");
            let id = service_id(registry, key, &name);
            let memory = self.rng.chance(self.plan.memory_ppm);
            let durability = if memory { Durability::Memory } else { Durability::Log };
            let required = Resources { cpu_millicores: 100, memory_bytes: 1 << 20, storage_bytes: 0, bandwidth_bps: 0 };
            self.check.services.push(Service::new(id, name, durability, required));
            self.owners.push(Owner::new());
            self.queue.push(self.time + 1000 * at as u64, Event::Strike(Strike::Deploy(at)));
            let first = 2_000_000 + self.rng.wait(self.plan.move_us);
            self.queue.push(first, Event::Move { service: at });
            if let Some(mean) = self.plan.order_us {
                let first = 2_000_000 + self.rng.wait(mean);
                self.queue.push(first, Event::Owner { service: at });
            }
        }
        for gateway in 0..self.nodes.len() {
            if self.nodes[gateway].role != Some(Role::Gateway) {
                continue;
            }
            for _ in 0..self.plan.clients_per_gateway {
                let manners = [Manner::Patient, Manner::Eager, Manner::Keyed];
                let manner = manners[self.rng.index(manners.len())];
                let client = self.clients.len();
                self.clients.push(Client::new(gateway, manner));
                let first = self.rng.wait(self.plan.think_us);
                self.queue.push(first, Event::Ask { client });
            }
        }
    }

    /// Where a service is deployed.
    pub(super) fn home_of(&self, at: usize) -> Option<usize> {
        let homes: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].role == Some(Role::Home)).collect();
        homes.get(at % homes.len().max(1)).copied()
    }

    /// The owner deploys a service at its home, and again until the Registry knows it.
    pub(super) fn deploy(&mut self, at: usize) {
        if self.check.services[at].record.is_some() || self.owners[at].wish == Wish::Removed {
            return;
        }
        self.queue.push(self.time + 1_000_000, Event::Strike(Strike::Deploy(at)));
        let Some(node) = self.home_of(at) else { return };
        let signed = self.sign_manifest(at);
        let Ok(manifest) = signed.unverified() else { return };
        if let Disk::Host(disk) = &mut self.nodes[node].disk {
            disk.modules.insert(manifest.code, module(at, manifest.version));
        }
        let now = self.now(node);
        let Self { nodes, rng, .. } = self;
        let Machine::Host(host) = &mut nodes[node].machine else { return };
        host.host.handle_module(manifest.code);
        // It may be on its way already.
        let _ = host.host.deploy(now, &signed, rng);
        self.settle(node);
    }

    /// The owner has the code of its newest version at a node, from where it can be fetched. The manifest that names it.
    pub(super) fn publish(&mut self, at: usize, node: usize) -> Signed<Manifest> {
        let signed = self.sign_manifest(at);
        let module = module(at, self.owners[at].version);
        if let Disk::Host(disk) = &mut self.nodes[node].disk {
            disk.modules.insert(module_digest(&module), module);
        }
        signed
    }

    /// The owner's manifest of its newest version.
    fn sign_manifest(&mut self, at: usize) -> Signed<Manifest> {
        let (owner, version, service) = (Secret::new(OWNER), self.owners[at].version, &mut self.check.services[at]);
        let code = module_digest(&module(at, version));
        if !service.codes.contains(&code) {
            service.codes.push(code);
        }
        let manifest = Manifest {
            service: service.id,
            name: service.name.clone(),
            owner: OwnerKey(Memo::public_key(&owner)),
            version,
            code,
            tos: ServiceType::Request,
            required: service.required,
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: service.durability,
            token_policy: TokenPolicy::Refuse,
        };
        Signed::sign::<Memo>(&owner, service.id.registry, Receiver::Anyone, &manifest)
    }

    /// A node's process, from what is on its disk.
    pub(super) fn boot(&mut self, node: usize) {
        let machine = match self.nodes[node].role {
            None => self.boot_registry(node),
            Some(Role::Gateway) => self.boot_gateway(node),
            Some(Role::Cloud | Role::Home) => self.boot_host(node),
        };
        match machine {
            Some(machine) => self.nodes[node].machine = machine,
            None => {
                let name = self.nodes[node].name.clone();
                self.violate("what was journaled can be read", || name);
            }
        }
    }

    fn boot_registry(&mut self, node: usize) -> Option<Machine<G>> {
        let config = RegistryConfig::new::<Memo>(self.nodes[node].secret.clone(), vec!["/registry".to_owned()]);
        let Disk::Registry(store) = &self.nodes[node].disk else { return None };
        let rows = store.durable().iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let registry = Registry::restore(config, self.now(node), rows).ok()?;
        // It may have crashed between deciding and saying so.
        self.check.note_buried(&registry);
        for record in registry.migrations() {
            match record.state {
                MigrationState::Live => {}
                MigrationState::Won { .. } => self.check.decided(record.ids.mig, true),
                MigrationState::Aborted { .. } => self.check.decided(record.ids.mig, false),
            }
        }
        Some(Machine::Registry(Box::new(registry)))
    }

    fn boot_gateway(&mut self, node: usize) -> Option<Machine<G>> {
        let now = self.now(node);
        let registry = self.bundle.anchors()[0].id;
        let Node { host, certificate, disk, .. } = &self.nodes[node];
        let mut config = GatewayConfig::new(*host, certificate.clone()?, self.bundle.clone(), registry);
        config.request_timeout = self.plan.request_timeout;
        let Disk::Gateway(journal) = disk else { return None };
        let last = journal.durable().last().map_or(0, |(seq, _)| *seq);
        let entries: Result<Vec<(u64, effect::Entry)>, wayfare_protocol::reject::Reject> =
            journal.durable().iter().map(|(seq, bytes)| Ok((*seq, wire::decode(bytes)?))).collect();
        let mut gateway = Gateway::new(config, &entries.ok()?, last, &mut self.rng);
        for service in 0..self.plan.services {
            gateway.add_service(now, &Lookup::Name(format!("service-{service}"))).ok()?;
        }
        let life = self.nodes[node].life;
        self.queue.push(self.time + 500_000, Event::Probe { node, life });
        Some(Machine::Gateway(Box::new(gateway)))
    }

    fn boot_host(&self, node: usize) -> Option<Machine<G>> {
        let now = self.now(node);
        let Node { secret, certificate, role, host, disk, name, .. } = &self.nodes[node];
        let verified =
            self.bundle.verify_certificate::<Memo, Strict>(certificate.as_ref()?, *host, &[(*role)?], now.wall);
        let (registry, certificate) = verified.ok()?;
        let identity = Identity { secret: secret.clone(), registry, certificate };
        let placement = PlacementConfig { policy: self.plan.policy, ..PlacementConfig::default() };
        let config = HostConfig {
            capacity: self.plan.capacity,
            price_micros: 0,
            placement,
            step_timeout: self.plan.step_timeout,
            image_log_bytes: self.plan.image_log_bytes,
            compact_journal_bytes: self.plan.compact_journal_bytes,
        };
        let Disk::Host(disk) = disk else { return None };
        let last = disk.journal.durable().last().map_or(0, |(seq, _)| *seq);
        let entries: Result<Vec<(u64, Entry)>, _> =
            disk.journal.durable().iter().map(|(seq, bytes)| Ok((*seq, Entry::from_bytes(bytes)?))).collect();
        let entries = entries.map_err(|_: wayfare_protocol::reject::Reject| ()).ok()?;
        let mut host = Host::restore(identity, config, self.bundle.clone(), now, last, entries).ok()?;
        disk.modules.keys().for_each(|code| host.handle_module(*code));
        host.set_addresses(vec![format!("/{name}")]);
        host.forget_lost();
        let instances: std::collections::BTreeMap<Stay, _> = std::collections::BTreeMap::new();
        let (leaving, landing) = (Default::default(), Default::default());
        Some(Machine::Host(Box::new(HostNode { host, instances, leaving, landing })))
    }
}
