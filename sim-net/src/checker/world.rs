//! What does not change in a scope: who there is, whom they trust, which service they have; and how it begins.

use std::{collections::VecDeque, sync::Arc};

use rand_core::Rng;
use wayfare_protocol::{
    advert::{Advert, Gossip},
    gateway::messages::{Call, ClientFrame, Hello, Open, client_id, request_hash},
    host::{Effect, Host, HostConfig, Identity},
    ids::{CloudId, Digest, HostId, Nonce, OwnerKey, ServiceId},
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, STEP_TIMEOUT},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{Enrol, RegistryFrame},
    placement::{PlacementConfig, Policy},
    registry::{self, Registry, RegistryConfig},
    suite::{Secret, Suite, digest, fresh_secret},
    time::{Instant, Micros, Now, Timestamp},
    trust::{Certificate, Receiver, Role, Signed, TrustBundle},
    wire::Frame as _,
};

use super::{
    attacker::Knowledge,
    guards::{Lifted, Off},
    message::{Envelope, Note, Party, REGISTRY},
    party::{Draws, HostDisk, HostParty, Input, Node, Output, RegistryParty, Store},
    scopes::{Attacker, Scope},
    symbolic::Symbolic,
};

/// The service's module.
pub(super) const CODE: Digest = Digest([7; 32]);
/// How long a restart takes: nobody makes two different messages at one time.
pub(super) const RESTART: Micros = Micros::from_secs(1);
/// The clients' incarnation of the gateway.
const INCARNATION: u64 = 1;
/// When everything begins.
const START: Now = Now { mono: Instant(1_000_000_000), wall: Timestamp(1_800_000_000_000_000) };
/// Messages that the way to the first state takes, at most.
const SETUP_MAX: usize = 200;
/// What each cloud has, many times of what the service needs.
const CAPACITY: Resources =
    Resources { cpu_millicores: 4000, memory_bytes: 1 << 30, storage_bytes: 1 << 30, bandwidth_bps: 1 << 30 };
const REQUIRED: Resources =
    Resources { cpu_millicores: 100, memory_bytes: 1 << 20, storage_bytes: 0, bandwidth_bps: 0 };

/// Names of parties, by number.
pub(super) const NAMES: [&str; 5] = ["registry", "alpha", "beta", "gamma", "rogue"];

/// Who a cloud is.
#[derive(Clone, Debug)]
struct Member {
    secret: Secret,
    host: HostId,
    certificate: Signed<Certificate>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct World {
    pub(super) scope: Scope,
    pub(super) off: Off,
    pub(super) registry_config: RegistryConfig,
    pub(super) bundle: TrustBundle,
    pub(super) service: ServiceId,
    pub(super) gateway: HostId,
    pub(super) gateway_certificate: Signed<Certificate>,
    /// What the attacker has, if there is one.
    pub(super) attacker: Option<Knowledge>,
    members: Vec<(Party, Member)>,
    adverts: Vec<Vec<u8>>,
}

/// How it begins.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) nodes: Vec<Node>,
    pub(super) sent: Vec<Envelope>,
    pub(super) notes: Vec<Note>,
}

/// Why a scope could not begin: a mistake in the checker.
#[derive(Debug, thiserror::Error)]
#[error("the scope cannot begin: {0}")]
pub(super) struct CannotBegin(&'static str);

impl World {
    /// The world of `scope`, without the guards of `off` from its first state on.
    ///
    /// # Errors
    /// [`CannotBegin`].
    pub(super) fn new(scope: Scope, off: Off) -> Result<(Arc<Self>, Beginning), CannotBegin> {
        let mut draws = Draws { party: u8::MAX, drawn: 0 };
        let secret = Secret::new(digest("registry secret", &[]).0);
        let mut registry_config = RegistryConfig::new::<Symbolic>(secret, vec!["/registry".to_owned()]);
        registry_config.lease = scope.lease;
        let mut machine: Registry<Symbolic, Lifted> = Registry::new(registry_config.clone());
        let mut members = Vec::new();
        for party in scope.parties() {
            let name = NAMES.get(usize::from(party)).ok_or(CannotBegin("a party without a name"))?;
            members.push((party, enrol(&mut machine, &mut draws, name, Role::Cloud)?));
        }
        let gateway = enrol(&mut machine, &mut draws, "gateway", Role::Gateway)?;
        let owner = OwnerKey(Symbolic::public_key(&owner_secret()));
        let mut world = Self {
            service: service_id(machine.id(), owner, "counter"),
            bundle: TrustBundle::new(vec![machine.anchor()]),
            gateway: gateway.host,
            gateway_certificate: gateway.certificate,
            attacker: None,
            adverts: Vec::new(),
            members,
            registry_config,
            off,
            scope,
        };
        let beginning = world.begin(machine)?;
        Ok((Arc::new(world), beginning))
    }

    /// The host of a party.
    pub(super) fn host(&self, party: Party) -> Option<HostId> {
        if party == REGISTRY {
            return Some(HostId(Symbolic::public_key(&self.registry_config.secret)));
        }
        self.members.iter().find(|(member, _)| *member == party).map(|(_, member)| member.host)
    }

    /// The party of a host.
    pub(super) fn party(&self, host: HostId) -> Option<Party> {
        let member = self.members.iter().find(|(_, member)| member.host == host);
        member.map(|(party, _)| *party).or_else(|| (self.host(REGISTRY) == Some(host)).then_some(REGISTRY))
    }

    /// The party that the attacker owns.
    pub(super) fn attacking(&self) -> Option<Party> {
        self.attacker.as_ref().map(|knowledge| knowledge.party)
    }

    /// What a cloud's machine is made of.
    pub(super) fn parts(&self, party: Party) -> Option<(Identity, HostConfig)> {
        let (_, member) = self.members.iter().find(|(other, _)| *other == party)?;
        let verified = self.bundle.verify_certificate::<Symbolic, Lifted>(
            &member.certificate,
            member.host,
            &[Role::Cloud],
            START.wall,
        );
        let (registry, certificate) = verified.ok()?;
        let identity = Identity { secret: member.secret.clone(), registry, certificate };
        let config = HostConfig {
            capacity: CAPACITY,
            price_micros: 0,
            placement: PlacementConfig { policy: Policy::Never, ..PlacementConfig::default() },
            step_timeout: STEP_TIMEOUT,
            image_log_bytes: IMAGE_LOG_BYTES_MIN,
            compact_journal_bytes: COMPACT_JOURNAL_BYTES_MIN,
        };
        Some((identity, config))
    }

    /// What a machine that has just started is told: its module, the mesh's adverts, the gateway's stream. It advertises
    /// once, and then never again: adverts live for ever here.
    pub(super) fn introduce(&self, machine: &mut Host<Symbolic, Lifted>, now: Now, draws: &mut Draws) {
        machine.handle_module(CODE);
        machine.set_addresses(vec!["/cloud".to_owned()]);
        machine.handle_timeout(Now { wall: START.wall, ..now }, draws);
        machine.set_addresses(Vec::new());
        for advert in &self.adverts {
            let _ = machine.handle_gossip(now, advert);
        }
        let hello = Hello { certificate: self.gateway_certificate.clone(), incarnation: INCARNATION };
        let _ = machine.handle_client_frame(now, self.gateway, &ClientFrame::Hello(hello).to_bytes());
    }

    /// A client's request.
    pub(super) fn call(&self, sequence: u64, acked_below: u64) -> Call {
        let request = format!("request {sequence}").into_bytes();
        let (service, client) = (self.service, client_id(self.gateway, INCARNATION));
        Call { service, client, sequence, hash: request_hash(&request), acked_below, request }
    }

    /// A party's advert, and its cloud.
    pub(super) fn advert(&self, party: Party) -> Option<(Signed<Advert>, CloudId)> {
        self.adverts.iter().find_map(|bytes| {
            let Ok(Gossip::Advert(signed)) = Gossip::from_bytes(bytes) else { return None };
            let advert = signed.unverified().ok()?;
            (Some(advert.host) == self.host(party)).then_some((signed, advert.cloud))
        })
    }

    /// What clocks on walls show.
    pub(super) const fn wall(&self) -> Timestamp {
        START.wall
    }

    /// What the service needs.
    pub(super) const fn required(&self) -> Resources {
        REQUIRED
    }

    /// The owner's word on the service.
    pub(super) fn manifest(&self) -> Signed<Manifest> {
        let owner = owner_secret();
        let manifest = Manifest {
            service: self.service,
            name: "counter".to_owned(),
            owner: OwnerKey(Symbolic::public_key(&owner)),
            version: 1,
            code: CODE,
            tos: ServiceType::Request,
            required: REQUIRED,
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: if self.scope.crashes > 0 { Durability::Log } else { Durability::Memory },
            token_policy: TokenPolicy::Refuse,
        };
        Signed::sign::<Symbolic>(&owner, self.service.registry, Receiver::Anyone, &manifest)
    }

    fn begin(&mut self, machine: Registry<Symbolic, Lifted>) -> Result<Beginning, CannotBegin> {
        let disks = self.scope.crashes > 0;
        let image = machine.records().iter().fold(Default::default(), |mut image, op| {
            op.apply(&mut image);
            image
        });
        let disk = disks.then_some(Store { image, unsynced: Vec::new() });
        let draws = Draws { party: REGISTRY, drawn: 0 };
        let mut nodes = vec![Node::Registry(Box::new(RegistryParty { machine, now: START, draws, disk }))];
        self.adverts = self.all_adverts()?;
        let parties: Vec<Party> = self.scope.parties().collect();
        for party in 1..=parties.iter().copied().max().unwrap_or_default() {
            nodes.push(if parties.contains(&party) { self.cloud(party, disks)? } else { Node::Attacker });
        }
        let mut beginning = Beginning { nodes, sent: Vec::new(), notes: Vec::new() };
        let first = self.deploy(&mut beginning)?;
        if self.scope.moved_before {
            let beta = self.host(2).ok_or(CannotBegin("there is no beta"))?;
            self.settle(&mut beginning, 1, Input::Move(beta))?;
        }
        self.hand_over(&mut beginning, first);
        Ok(beginning)
    }

    fn all_adverts(&self) -> Result<Vec<Vec<u8>>, CannotBegin> {
        let mut adverts = Vec::new();
        for party in self.scope.parties() {
            let (identity, config) = self.parts(party).ok_or(CannotBegin("a certificate is not genuine"))?;
            let mut machine: Host<Symbolic, Lifted> = Host::new(identity, config, self.bundle.clone(), 0);
            self.introduce(&mut machine, START, &mut Draws { party, drawn: 0 });
            while let Some(effect) = machine.poll_effect() {
                if let Effect::Gossip(gossip) = effect {
                    adverts.push(gossip.to_bytes());
                }
            }
        }
        Ok(adverts)
    }

    fn cloud(&self, party: Party, disks: bool) -> Result<Node, CannotBegin> {
        let (identity, config) = self.parts(party).ok_or(CannotBegin("a certificate is not genuine"))?;
        let mut machine = Host::new(identity, config, self.bundle.clone(), 0);
        let mut draws = Draws { party, drawn: 0 };
        self.introduce(&mut machine, START, &mut draws);
        while machine.poll_effect().is_some() {}
        let (running, incoming) = Default::default();
        let disk = disks.then(HostDisk::default);
        Ok(Node::Host(Box::new(HostParty { machine, now: START, draws, running, incoming, disk })))
    }

    /// The service starts at alpha, and the client opens its session. Returns the secret of its placement key there.
    fn deploy(&self, beginning: &mut Beginning) -> Result<Secret, CannotBegin> {
        let Some(Node::Host(host)) = beginning.nodes.get_mut(1) else { return Err(CannotBegin("there is no alpha")) };
        let manifest = self.manifest();
        // What the machine is about to draw first is the placement key's secret.
        let secret = fresh_secret(&mut host.draws.clone());
        host.machine.deploy(START, &manifest, &mut host.draws).map_err(|_| CannotBegin("the deployment is refused"))?;
        self.settle(beginning, 1, Input::Pass(Micros::ZERO))?;
        let Some(Node::Host(host)) = beginning.nodes.get_mut(1) else { return Err(CannotBegin("there is no alpha")) };
        let open = Open { service: self.service, client: client_id(self.gateway, INCARNATION) };
        let opened = host.machine.handle_client_frame(START, self.gateway, &ClientFrame::Open(open).to_bytes());
        opened.map_err(|_| CannotBegin("the session is refused"))?;
        while host.machine.poll_effect().is_some() {}
        let Some(Node::Registry(registry)) = beginning.nodes.first() else {
            return Err(CannotBegin("there is no registry"));
        };
        let placed = registry.machine.placement(self.service).map(|placement| placement.key.0);
        if placed != Some(Symbolic::public_key(&secret)) {
            return Err(CannotBegin("the service is not placed under alpha's first key"));
        }
        Ok(secret)
    }

    /// Everything that follows from `input`, in order and without a fault.
    fn settle(&self, beginning: &mut Beginning, party: Party, input: Input) -> Result<(), CannotBegin> {
        let mut queue = VecDeque::from([(party, input)]);
        for _ in 0..SETUP_MAX {
            let Some((party, input)) = queue.pop_front() else { return Ok(()) };
            let Some(node) = beginning.nodes.get_mut(usize::from(party)) else { continue };
            let mut output = Output::default();
            for input in [&input, &Input::Sync] {
                if let Some((next, more)) = node.step(self, party, input) {
                    *node = next;
                    output.sent.extend(more.sent);
                    output.notes.extend(more.notes);
                }
            }
            beginning.notes.extend(output.notes);
            for envelope in output.sent {
                queue.push_back((envelope.to, Input::Deliver(envelope.clone())));
                if !beginning.sent.contains(&envelope) {
                    beginning.sent.push(envelope);
                }
            }
        }
        Err(CannotBegin("it does not come to rest"))
    }

    /// Gives the attacker what its scope says.
    fn hand_over(&mut self, beginning: &mut Beginning, first: Secret) {
        let Some(attacker) = self.scope.attacker else { return };
        let party = attacker.party();
        let stolen = match attacker {
            // It is the old one if the service has moved since.
            Attacker::OldHost | Attacker::StolenKey => Some(first),
            Attacker::Target => None,
        };
        if let Some(node) = beginning.nodes.get_mut(usize::from(party)) {
            *node = Node::Attacker;
        }
        let member = self.members.iter().find(|(member, _)| *member == party).map(|(_, member)| member.clone());
        self.attacker = member.map(|member| Knowledge::new(party, member.secret, member.host, stolen));
    }
}

fn owner_secret() -> Secret {
    Secret::new(digest("owner secret", &[]).0)
}

fn enrol(
    registry: &mut Registry<Symbolic, Lifted>,
    draws: &mut Draws,
    name: &str,
    role: Role,
) -> Result<Member, CannotBegin> {
    let mut bytes = [0; 32];
    draws.fill_bytes(&mut bytes);
    let secret = Secret::new(bytes);
    let host = HostId(Symbolic::public_key(&secret));
    let token = registry.create_join_token(START, draws, name, role, Micros::from_secs(60));
    let token = token.map_err(|_| CannotBegin("there is no join token"))?;
    let enrol = Enrol { host, role, region: "lab".to_owned(), token: token.secret.hash(), nonce: Nonce([0; 16]) };
    let signed = Signed::sign::<Symbolic>(&secret, registry.id(), Receiver::Registry(registry.id()), &enrol);
    let frame = RegistryFrame::Enrol(signed).to_bytes();
    registry.handle_frame(START, draws, host, &frame).map_err(|_| CannotBegin("an enrolment is refused"))?;
    let mut certificate = None;
    while let Some(effect) = registry.poll_effect() {
        match effect {
            registry::Effect::Persist { seq, .. } => registry.handle_synced(seq),
            registry::Effect::Reply { frame: RegistryFrame::Enrolled(enrolled), .. } => {
                certificate = Some(enrolled.certificate);
            }
            registry::Effect::Reply { .. } | registry::Effect::Ask { .. } | registry::Effect::Event(_) => {}
        }
    }
    let certificate = certificate.ok_or(CannotBegin("an enrolment is not answered"))?;
    Ok(Member { secret, host, certificate })
}
