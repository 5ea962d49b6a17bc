//! A whole node: mesh, membership, and a cloud's, home's or gateway's part, started and stopped as one.
//!
//! [`start`] serves the `wayfare` binary and programs that run many nodes in one process alike: everything comes in as a
//! value. [`NodeOptions::from_dir`] reads the values from a state directory, [`NodeOptions::joining`] makes a new node's.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;
use wayfare_net::{
    Connector, Net, NetConfig, NetError, NetEvent, NetLimits, Witness, limits::BOOTSTRAP_MAX, with_host,
};
use wayfare_protocol::{
    host::Identity,
    ids::RegistryId,
    migration::messages::Lookup,
    reject::Strict,
    suite::{Dalek, Secret, fresh_secret},
    trust::{Certificate, JoinToken, Role, Signed, TrustBundle, Verified},
    wire::VERSIONS,
};

use crate::{
    api::{self, ApiParts},
    clock::{entropy, now},
    config::Config,
    enrol::Candidate,
    gateway::{self, GatewayHandle, GatewayParts},
    host::{self, HostHandle, HostParts},
    runtime::{Driver, wasm::WasmDriver},
    shutdown,
    state::{DirLock, Membership, StateDir, StateError},
};

mod error;
#[cfg(test)]
mod tests;

pub use error::NodeError;

const ROLES: [Role; 3] = [Role::Cloud, Role::Home, Role::Gateway];
/// The last days of a certificate, of which people are warned.
const EXPIRY_WARNING_DAYS: u64 = 14;
const MICROS_A_DAY: u64 = 24 * 3600 * 1_000_000;

/// All that a node is started with.
pub struct NodeOptions {
    /// Where it keeps its journal, images, modules and certificate.
    pub dir: StateDir,
    /// Its key.
    pub secret: Secret,
    /// The Registries that it trusts.
    pub bundle: TrustBundle,
    /// Its certificate, or its permission to get one.
    pub membership: Membership,
    /// The role that it must have; `None`: whichever it joined as.
    pub role: Option<Role>,
    /// How it behaves.
    pub config: Config,
    /// Runs its services; `None`: a WebAssembly driver that keeps compiled code in `dir`. Nodes in one process may share one.
    pub driver: Option<Arc<dyn Driver>>,
    /// Where its control API listens, if anywhere.
    pub api: Option<PathBuf>,
    /// Give up services whose state an earlier run had in memory only.
    pub forget_lost: bool,
    /// The versions of the protocol that it speaks: see [`NetConfig::versions`].
    pub versions: Vec<u8>,
    /// Keeps other processes out of `dir` while the node runs.
    pub lock: Option<DirLock>,
    /// Who watches its messages and its journal, if anybody does.
    pub witness: Option<Arc<dyn Witness>>,
}

impl NodeOptions {
    /// The node of a state directory, with its control API at `api.sock`. Locks the directory.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn from_dir(dir: &StateDir) -> Result<Self, StateError> {
        let config = Config::load(&dir.config_file())?;
        let lock = dir.lock()?;
        Ok(Self {
            secret: dir.key()?,
            bundle: dir.trust()?,
            membership: dir.membership()?,
            role: None,
            config,
            driver: None,
            api: Some(dir.socket()),
            forget_lost: false,
            versions: VERSIONS.to_vec(),
            lock: Some(lock),
            witness: None,
            dir: dir.clone(),
        })
    }

    /// A new node with a fresh key that joins by `token` at its start, without a control API.
    pub fn joining(dir: StateDir, token: JoinToken, config: Config) -> Self {
        Self {
            dir,
            secret: fresh_secret(&mut entropy()),
            bundle: TrustBundle::new(vec![token.anchor.clone()]),
            membership: Membership::Join(token),
            role: None,
            config,
            driver: None,
            api: None,
            forget_lost: false,
            versions: VERSIONS.to_vec(),
            lock: None,
            witness: None,
        }
    }
}

/// A node that runs.
#[derive(Debug)]
pub struct RunningNode {
    /// The part of a cloud or home node.
    pub host: Option<HostHandle>,
    /// The part of a gateway.
    pub gateway: Option<GatewayHandle>,
    /// Its place on the mesh.
    pub net: Net,
    /// What its Registry says of it.
    pub certificate: Verified<Certificate>,
    /// That Registry.
    pub registry: RegistryId,
    advertised: Vec<String>,
    leaving: CancellationToken,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    _lock: Option<DirLock>,
}

impl RunningNode {
    /// Where other nodes reach it: multiaddrs that also name its key.
    pub fn addresses(&self) -> Vec<String> {
        addresses(&self.net, &self.advertised)
    }

    /// Returns once the node is stopping, because it was told to or because it must.
    pub async fn stopping(&self) {
        self.shutdown.cancelled().await;
    }

    /// Returns once the node has been drained, and is to be stopped: it has taken leave of the mesh.
    pub async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    /// Stops the node, waits for its tasks for [`shutdown::GRACE`] at most, and says whether they all ended. Services that
    /// are still on a host are lost unless their durability says otherwise.
    pub async fn stop(self) -> bool {
        self.shutdown.cancel();
        let ended = shutdown::finish(&self.tracker).await;
        tokio::time::timeout(shutdown::GRACE, self.net.stopped()).await.is_ok() && ended
    }
}

/// Where other nodes reach a node, as it is now.
pub(crate) fn addresses(net: &Net, advertised: &[String]) -> Vec<String> {
    let addresses = if advertised.is_empty() { net.listen_addresses() } else { advertised.to_vec() };
    let host = net.host_id();
    addresses.iter().map(|text| if text.contains("/p2p/") { text.clone() } else { with_host(text, &host) }).collect()
}

/// Starts a node: mesh, then enrolment if need be (for as long as the Registry takes), then its part, then its API. Ends
/// with `shutdown`, or by [`RunningNode::stop`].
///
/// # Errors
/// [`NodeError`]; nothing runs then.
pub async fn start(
    options: NodeOptions,
    connector: Arc<dyn Connector>,
    shutdown: CancellationToken,
) -> Result<RunningNode, NodeError> {
    options.config.check(&options.dir.config_file())?;
    let shutdown = shutdown.child_token();
    let (net, events) = join_mesh(&options, connector, shutdown.clone()).await?;
    let tracker = TaskTracker::new();
    let started = bring_up(options, net.clone(), events, &tracker, &shutdown).await;
    if started.is_err() {
        shutdown.cancel();
        shutdown::finish(&tracker).await;
        net.stopped().await;
    }
    started
}

async fn join_mesh(
    options: &NodeOptions,
    connector: Arc<dyn Connector>,
    shutdown: CancellationToken,
) -> Result<(Net, mpsc::Receiver<NetEvent>), NodeError> {
    let settings = &options.config.node;
    // A Registry takes part in gossip: whoever knows it finds the mesh.
    let registries = options.bundle.anchors().iter();
    let registries = registries.flat_map(|anchor| anchor.addresses.iter().map(|text| with_host(text, &anchor.host())));
    let config = NetConfig {
        seed: *options.secret.expose(),
        listen: settings.listen.clone(),
        bootstrap: settings.bootstrap.iter().cloned().chain(registries).take(BOOTSTRAP_MAX).collect(),
        gossip: true,
        mdns: settings.mdns,
        seek: options.bundle.anchors().iter().map(|anchor| anchor.host()).collect(),
        versions: options.versions.clone(),
        connector,
        limits: NetLimits::default(),
    };
    Net::start(config, shutdown).await.map_err(|error| {
        let address = match &error {
            NetError::BadAddress { address, .. } | NetError::AddressInUse { address } => address,
            NetError::Listen { address, .. } => address,
            _ => return NodeError::Net(Box::new(error)),
        };
        let (file, key) = match settings.key_of(address) {
            Some(key) => (options.dir.config_file(), key),
            None => (options.dir.trust_file(), "registries"),
        };
        NodeError::Address { file, key, source: Box::new(error) }
    })
}

async fn bring_up(
    options: NodeOptions,
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<RunningNode, NodeError> {
    let signed = certificate(&options, &net, shutdown).await?;
    let (registry, certificate) = verify(&options, &net, &signed)?;
    options.config.check_role(&options.dir.config_file(), certificate.role)?;
    let mut node = RunningNode {
        host: None,
        gateway: None,
        net,
        certificate,
        registry,
        advertised: options.config.node.advertise.clone(),
        leaving: CancellationToken::new(),
        tracker: tracker.clone(),
        shutdown: shutdown.clone(),
        _lock: None,
    };
    match node.certificate.role {
        Role::Cloud | Role::Home => node.host = Some(start_host(&options, &node, events)?),
        Role::Gateway => node.gateway = Some(start_gateway(&options, &node, events).await?),
    }
    if let Some(socket) = &options.api {
        let parts = ApiParts {
            host: node.host.clone(),
            gateway: node.gateway.clone(),
            net: node.net.clone(),
            certificate: node.certificate.clone(),
            registry,
            advertised: node.advertised.clone(),
            leaving: node.leaving.clone(),
        };
        api::serve(socket, parts, tracker, shutdown.clone())?;
    }
    node._lock = options.lock;
    Ok(node)
}

async fn certificate(
    options: &NodeOptions,
    net: &Net,
    shutdown: &CancellationToken,
) -> Result<Signed<Certificate>, NodeError> {
    let token = match &options.membership {
        Membership::Enrolled(certificate) => return Ok(certificate.clone()),
        Membership::Join(token) => token,
    };
    // Before the token is used up for a role that is not meant.
    check_role(options.role, token.role)?;
    options.config.check_role(&options.dir.config_file(), token.role)?;
    let candidate = Candidate {
        dir: &options.dir,
        net,
        secret: &options.secret,
        region: &options.config.node.region,
        bundle: &options.bundle,
    };
    Ok(candidate.join(token, shutdown).await?)
}

fn check_role(asked: Option<Role>, joined: Role) -> Result<(), NodeError> {
    match asked.filter(|asked| *asked != joined) {
        Some(asked) => Err(NodeError::Role { asked: asked.name(), joined: joined.name() }),
        None => Ok(()),
    }
}

fn verify(
    options: &NodeOptions,
    net: &Net,
    signed: &Signed<Certificate>,
) -> Result<(RegistryId, Verified<Certificate>), NodeError> {
    let wall = now().wall;
    let verified = options.bundle.verify_certificate::<Dalek, Strict>(signed, net.host_id(), &ROLES, wall);
    let (registry, certificate) =
        verified.map_err(|source| NodeError::Certificate { dir: options.dir.path().to_owned(), source })?;
    check_role(options.role, certificate.role)?;
    let days = certificate.expiry.since(wall).0 / MICROS_A_DAY;
    if days < EXPIRY_WARNING_DAYS {
        warn!(days, "the certificate expires soon: put a new join token into join.token and start this node again");
    }
    Ok((registry, certificate))
}

fn start_host(
    options: &NodeOptions,
    node: &RunningNode,
    net_events: mpsc::Receiver<NetEvent>,
) -> Result<HostHandle, NodeError> {
    let dir = options.dir.path().to_owned();
    let driver: Arc<dyn Driver> = match &options.driver {
        Some(driver) => Arc::clone(driver),
        None => {
            let code = dir.join("code");
            let made = WasmDriver::with_cache(&code);
            Arc::new(made.map_err(|source| NodeError::CodeCache { dir: code, source })?)
        }
    };
    driver.probe()?;
    let parts = HostParts {
        identity: Identity {
            secret: options.secret.clone(),
            registry: node.registry,
            certificate: node.certificate.clone(),
        },
        config: options.config.host(),
        bundle: options.bundle.clone(),
        net: node.net.clone(),
        net_events,
        advertised: node.advertised.clone(),
        dir,
        driver,
        forget_lost: options.forget_lost,
        witness: options.witness.clone(),
    };
    Ok(host::start(parts, &node.tracker, node.shutdown.clone())?)
}

async fn start_gateway(
    options: &NodeOptions,
    node: &RunningNode,
    net_events: mpsc::Receiver<NetEvent>,
) -> Result<GatewayHandle, NodeError> {
    let settings = &options.config.gateway;
    let carried = settings.services.iter().map(|service| (Lookup::Name(service.name.clone()), service.listen));
    let certificate = node.certificate.signed().clone();
    let parts = GatewayParts {
        config: options.config.gateway(node.net.host_id(), certificate, options.bundle.clone(), node.registry),
        net: node.net.clone(),
        net_events,
        services: carried.collect(),
        probe_interval: settings.probe_interval(),
        dir: options.dir.path().to_owned(),
        witness: options.witness.clone(),
    };
    Ok(gateway::start(parts, &node.tracker, node.shutdown.clone()).await?)
}
