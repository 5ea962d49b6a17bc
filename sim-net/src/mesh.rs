//! A mesh of real nodes in one process: real Registry, real libp2p over loopback TCP, real runtime. Only distance is
//! emulated, at each node's [`Connector`](wayfare_net::Connector).

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use wayfare_net::{CancellationToken, Connector, DirectConnector};
use wayfare_node::{
    config::{CarriedService, Config},
    host::HostHandle,
    host::modules::module_digest,
    node::{self, NodeOptions, RunningNode},
    runtime::{Driver, wasm::WasmDriver},
    state::StateDir,
};
use wayfare_protocol::{
    host::Event,
    ids::{HostId, OwnerKey, ServiceId},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::trace::Trace,
    placement::Policy,
    suite::{Dalek, Secret, Suite, fresh_secret},
    time::Micros,
    trust::{Receiver, Role, Signed},
};
use wayfare_registry::{RunningRegistry, StoreChoice, store::MemoryStore};

use crate::{
    emulator::{Emulator, NodeId},
    moves::{self, Move},
};

/// How long a join token of a mesh holds.
const JOIN_TTL: Duration = Duration::from_secs(600);
/// How long a deployment may take, over links of any emulated length.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(30);
/// Memory of a demo's service, bytes.
const SERVICE_MEMORY: u64 = 64 << 20;

/// The memory that a mesh's registry keeps its records in, or the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Nothing outlives the process.
    Memory,
    /// As in production: every answer waits for the disk.
    Disk,
}

/// A node of the mesh.
#[derive(Debug)]
pub struct Member {
    /// Its provider's name.
    pub name: String,
    /// Where it stands; it does not matter without emulation.
    pub row: usize,
    /// The node itself.
    pub node: RunningNode,
    at: Option<NodeId>,
}

impl Member {
    /// Its key.
    pub fn host_id(&self) -> HostId {
        self.node.net.host_id()
    }

    /// Its host's part.
    ///
    /// # Errors
    /// If it is a gateway.
    pub fn host(&self) -> anyhow::Result<&HostHandle> {
        self.node.host.as_ref().with_context(|| format!("{} hosts nothing", self.name))
    }

    /// Where clients reach the only service that it carries.
    pub fn ingress(&self) -> Option<SocketAddr> {
        self.node.gateway.as_ref()?.listening().first().map(|(_, address)| *address)
    }
}

/// How a member differs from the default.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its provider's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where it stands.
    pub row: usize,
    /// When services on it move.
    pub policy: Policy,
    /// The service that it carries, and where, if it is a gateway.
    pub carries: Option<(String, SocketAddr)>,
    /// Others that it carries.
    pub also_carries: Vec<(String, SocketAddr)>,
    /// How often it measures round trips, if it is a gateway.
    pub probe_interval: Duration,
    /// Memory that it has for services, MiB.
    pub memory_mib: u64,
}

impl Joining {
    /// A member with the defaults.
    pub fn new(name: impl Into<String>, role: Role, row: usize) -> Self {
        let probe_interval = Duration::from_millis(500);
        let memory_mib = Config::default().capacity.memory_mib;
        Self {
            name: name.into(),
            role,
            row,
            policy: Policy::Sardis,
            carries: None,
            also_carries: Vec::new(),
            probe_interval,
            memory_mib,
        }
    }
}

/// The mesh.
#[derive(Debug)]
pub struct Mesh {
    registry: RunningRegistry,
    emulator: Option<Emulator>,
    driver: SharedDriver,
    owner: Secret,
    dir: TempDir,
    shutdown: CancellationToken,
}

#[derive(Clone)]
struct SharedDriver(Arc<dyn Driver>);

impl std::fmt::Debug for SharedDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedDriver")
    }
}

impl Mesh {
    /// Starts the Registry, on `row` if distance is emulated.
    ///
    /// # Errors
    /// What the Registry, the disk or the emulator reports.
    pub async fn start(emulator: Option<Emulator>, row: usize, records: Records) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("wayfare-").tempdir().context("no temporary directory")?;
        let shutdown = CancellationToken::new();
        let at = emulator.as_ref().map(|emulator| emulator.add_node(row)).transpose()?;
        let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
        let store = match records {
            Records::Memory => StoreChoice::Memory(MemoryStore::default()),
            Records::Disk => StoreChoice::Disk(dir.path().join("registry.journal")),
        };
        let config = wayfare_registry::Config {
            certificate_lifetime: Micros::from_secs(24 * 3600),
            store,
            ..wayfare_registry::Config::in_process(fresh_secret(&mut rng))
        };
        let connector = connector(emulator.as_ref(), at);
        let registry = wayfare_registry::run(config, connector, shutdown.clone()).await?;
        if let (Some(emulator), Some(at)) = (&emulator, at) {
            place(emulator, at, registry.addresses())?;
        }
        let driver = SharedDriver(Arc::new(WasmDriver::new()));
        Ok(Self { registry, emulator, driver, owner: fresh_secret(&mut rng), dir, shutdown })
    }

    /// The Registry.
    pub const fn registry(&self) -> &RunningRegistry {
        &self.registry
    }

    /// Where the nodes keep their journals.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Enrols and starts a node.
    ///
    /// # Errors
    /// What the node or the Registry reports.
    pub async fn join(&self, joining: Joining) -> anyhow::Result<Member> {
        let Joining { name, role, row, policy, carries, also_carries, probe_interval, memory_mib } = joining;
        let token = self.registry.handle().join_token(&name, role, JOIN_TTL).await?;
        let at = self.emulator.as_ref().map(|emulator| emulator.add_node(row)).transpose()?;
        let mut config = Config::default();
        config.node.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
        config.node.region = format!("row {row}");
        config.capacity.memory_mib = memory_mib;
        config.placement.policy = policy;
        // Room for more services than any demo or test has.
        config.capacity.cpu_millicores = 100_000;
        config.capacity.memory_mib = 64 * 1024;
        let carried = |(name, listen)| CarriedService { name, listen };
        config.gateway.services = carries.into_iter().chain(also_carries).map(carried).collect();
        if role == Role::Gateway {
            config.gateway.probe_interval_ms = u64::try_from(probe_interval.as_millis()).unwrap_or(u64::MAX);
            config.gateway.report_interval_ms = config.gateway.probe_interval_ms;
        }
        // A directory as `wayfare init` makes it, so that a member can be stopped and started again.
        let dir = StateDir::new(self.dir.path().join(&name));
        dir.init(&token, &config)?;
        let mut options = NodeOptions::from_dir(&dir)?;
        options.api = None;
        options.driver = Some(Arc::clone(&self.driver.0));
        let connector = connector(self.emulator.as_ref(), at);
        let node = node::start(options, connector, self.shutdown.clone()).await;
        let node = node.with_context(|| format!("{name} does not start"))?;
        if let (Some(emulator), Some(at)) = (&self.emulator, at) {
            place(emulator, at, &node.net.listen_addresses())?;
        }
        Ok(Member { name, row, node, at })
    }

    /// Moves a member to another row, its open connections included.
    ///
    /// # Errors
    /// If distance is not emulated, or there is no such row.
    pub fn relocate(&self, member: &mut Member, row: usize) -> anyhow::Result<()> {
        let (Some(emulator), Some(at)) = (&self.emulator, member.at) else { bail!("distance is not emulated") };
        emulator.set_row(at, row)?;
        member.row = row;
        Ok(())
    }

    /// Deploys a module on `home`, and waits until it serves.
    ///
    /// # Errors
    /// Why it cannot be deployed.
    pub async fn deploy(
        &self,
        home: &Member,
        name: &str,
        module: Vec<u8>,
        durability: Durability,
    ) -> anyhow::Result<ServiceId> {
        self.deploy_with(home, name, module, durability, SERVICE_MEMORY).await
    }

    /// As [`deploy`](Self::deploy), with so many bytes of memory.
    ///
    /// # Errors
    /// Why it cannot be deployed.
    pub async fn deploy_with(
        &self,
        home: &Member,
        name: &str,
        module: Vec<u8>,
        durability: Durability,
        memory_bytes: u64,
    ) -> anyhow::Result<ServiceId> {
        let registry = self.registry.anchor().id;
        let owner = OwnerKey(Dalek::public_key(&self.owner));
        let manifest = Manifest {
            service: service_id(registry, owner, name),
            name: name.to_owned(),
            owner,
            version: 1,
            code: module_digest(&module),
            tos: ServiceType::Request,
            required: Resources { cpu_millicores: 100, memory_bytes, storage_bytes: 0, bandwidth_bps: 0 },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: Vec::new(),
            allowed_regions: Vec::new(),
            allowed_domains: Vec::new(),
            durability,
            token_policy: TokenPolicy::Refuse,
        };
        let signed = Signed::sign::<Dalek>(&self.owner, registry, Receiver::Anyone, &manifest);
        let host = home.host()?;
        let mut events = host.events().await.context("the home node is stopping")?;
        let service = host.deploy(signed, module).await?;
        let outcome = async {
            loop {
                match events.recv().await? {
                    Event::Serving(served, _) if served == service => return Ok(service),
                    Event::DeployFailed(failed, reason) if failed == service => {
                        bail!("`{name}` is not deployed: {reason}")
                    }
                    Event::Broken(broken, reason) if broken == service => bail!("`{name}` does not start: {reason}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEPLOY_TIMEOUT, outcome).await.context("the registry did not answer in time")?
    }

    /// Stops everything, and waits for it.
    pub async fn stop(self, members: Vec<Member>) {
        self.shutdown.cancel();
        for member in members {
            member.node.stop().await;
        }
        // A store in memory, or in a directory that is about to go, has nothing to report.
        let _ = self.registry.stopped().await;
        if let Some(emulator) = self.emulator {
            emulator.shutdown().await;
        }
    }
}

/// Every migration that the members took part in, oldest first.
///
/// # Errors
/// If a member is stopping.
pub async fn migrations(members: &[Member]) -> anyhow::Result<Vec<Move>> {
    let mut traces: Vec<(HostId, Trace)> = Vec::new();
    for member in members {
        if let Some(host) = &member.node.host {
            let history = host.with(|host, _, _| host.history().cloned().collect::<Vec<_>>()).await;
            let history = history.with_context(|| format!("{} is stopping", member.name))?;
            traces.extend(history.into_iter().map(|trace| (member.host_id(), trace)));
        }
    }
    let name = |host: HostId| {
        let known = members.iter().find(|member| member.host_id() == host);
        known.map_or_else(|| format!("{host:#}"), |member| member.name.clone())
    };
    Ok(moves::collect(&traces, name))
}

fn connector(emulator: Option<&Emulator>, at: Option<NodeId>) -> Arc<dyn Connector> {
    match (emulator, at) {
        (Some(emulator), Some(at)) => emulator.connector_for(at),
        _ => Arc::new(DirectConnector),
    }
}

/// Tells the emulator where a node listens.
fn place(emulator: &Emulator, at: NodeId, addresses: &[String]) -> anyhow::Result<()> {
    for address in addresses {
        let socket = socket_address(address).with_context(|| format!("{address} is no TCP address"))?;
        emulator.register(at, socket)?;
    }
    Ok(())
}

/// `/ip4/…/tcp/…` and what follows it.
fn socket_address(multiaddr: &str) -> Option<SocketAddr> {
    let mut parts = multiaddr.split('/').skip(1);
    let (Some("ip4" | "ip6"), Some(ip), Some("tcp"), Some(port)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.parse().ok()?))
}
