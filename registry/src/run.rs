//! Starts a Registry in this process.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;
use wayfare_net::{Connector, Net, NetConfig, NetError, NetLimits, Pool, Protocol, Watched, Witness, furthest_first};
use wayfare_protocol::{
    limits::{ADDRESSES_MAX, FRAME_BYTES_MAX},
    registry::{Registry, RegistryConfig, RestoreError},
    suite::Dalek,
    trust::{Anchor, TrustBundle},
};
use wayfare_telemetry::{Endpoint, Exporter, ListenError, OtlpError, Spans, logs::node_span};

use crate::{
    api, audit, clock,
    config::{Config, ConfigError, StoreChoice, write_trust},
    driver::{Driver, StoreThread},
    handle::{COMMANDS_MAX, Handle, Machine},
    metrics::{self, RegistryMetrics},
    reach::{self, Greeter},
    records::Records,
    relay,
    store::{LogStore, Row, Store as _, StoreError},
};

/// Why a Registry did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The records cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records cannot be understood.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It cannot listen.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The control socket cannot be made.
    #[error("cannot make the control socket {}: check that the directory is yours", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port for metrics cannot be had.
    #[error(transparent)]
    Metrics(#[from] ListenError),
    /// Traces cannot be sent.
    #[error("telemetry.otlp: {0}")]
    Telemetry(#[from] OtlpError),
    /// The trust bundle cannot be written.
    #[error(transparent)]
    Trust(#[from] ConfigError),
}

/// A Registry that runs. Dropping it does not stop it; [`stop`](Self::stop) or the token given to [`run`] does.
#[derive(Debug)]
pub struct RunningRegistry {
    handle: Handle,
    anchor: Anchor,
    metrics: Option<SocketAddr>,
    net: Net,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    failure: oneshot::Receiver<StoreError>,
}

/// Starts a Registry: opens the records, listens, answers. Every dial, to hosts that should know where it is now, goes
/// through `connector`.
///
/// # Errors
/// [`RunError`]; then nothing runs.
pub async fn run(
    config: Config,
    connector: Arc<dyn Connector>,
    shutdown: CancellationToken,
) -> Result<RunningRegistry, RunError> {
    run_watched(config, connector, None, shutdown).await
}

/// As [`run`], watched by `witness`.
///
/// # Errors
/// [`RunError`]; then nothing runs.
pub async fn run_watched(
    config: Config,
    connector: Arc<dyn Connector>,
    witness: Option<Arc<dyn Witness>>,
    shutdown: CancellationToken,
) -> Result<RunningRegistry, RunError> {
    // A registry that fails stops itself, not whoever else listens to the caller's token.
    let shutdown = shutdown.child_token();
    let started = start(config, connector, Watched::by(witness), shutdown.clone()).await;
    if started.is_err() {
        shutdown.cancel();
    }
    started
}

async fn start(
    config: Config,
    connector: Arc<dyn Connector>,
    watched: Watched,
    shutdown: CancellationToken,
) -> Result<RunningRegistry, RunError> {
    let registry = RegistryConfig {
        certificate_lifetime: config.certificate_lifetime,
        lease: config.lease,
        ..RegistryConfig::new::<Dalek>(config.secret.clone(), Vec::new())
    };
    let endpoint = match config.metrics.listen {
        Some(address) => Some(Endpoint::bind(address).await?),
        None => None,
    };
    let (records, mut machine) = open(config.store, registry).await?;
    let net_config = NetConfig {
        seed: *config.secret.expose(),
        listen: config.listen,
        bootstrap: config.bootstrap,
        gossip: true,
        mdns: config.mdns,
        seek: Vec::new(),
        versions: config.versions,
        connector,
        limits: NetLimits::default(),
    };
    let (net, mesh_events) = Net::start(net_config, shutdown.clone()).await?;
    let mut addresses = config.announce;
    if addresses.is_empty() {
        addresses = furthest_first(net.listen_addresses());
        addresses.truncate(ADDRESSES_MAX);
    }
    machine.set_addresses(addresses);
    let anchor = machine.anchor();
    if let Some(path) = &config.trust {
        write_trust(path, &anchor)?;
    }

    let tracker = TaskTracker::new();
    let incoming = net.accept(Protocol::Registry)?;
    let (pool, events) = Pool::new(net.clone(), Protocol::Registry, FRAME_BYTES_MAX, tracker.clone(), shutdown.clone());
    let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
    let (failure_sender, failure) = oneshot::channel();
    let exporter = Exporter {
        program: "wayfare-registry",
        version: env!("CARGO_PKG_VERSION"),
        instance: anchor.host().to_string(),
        name: config.name.clone(),
        role: "registry",
    };
    let spans = Spans::start(config.telemetry.otlp.as_deref(), &exporter, &tracker, shutdown.clone())?;
    let counted = Arc::new(RegistryMetrics::new(spans.clone()));
    let (store, audited) = StoreThread::start(records, &tracker, failure_sender, &counted);
    let handle = Handle { commands, audited, net: net.clone() };
    let bundle = TrustBundle::new(vec![anchor.clone()]);
    let greeter = Greeter::new(net.clone(), tracker.clone());
    tracker.spawn(relay::run(net.clone(), bundle, handle.clone(), greeter, mesh_events));
    tracker.spawn(reach::run(net.clone(), handle.clone(), shutdown.clone()));
    if let Some(path) = config.socket {
        let listener = api::bind(&path).map_err(|source| RunError::Socket { path: path.clone(), source })?;
        let status = api::Status::new(&config.name, &anchor);
        tracker.spawn(api::serve(listener, path, handle.clone(), status, shutdown.clone()));
    }
    let node_name = config.name;
    let driver = Driver::new(machine, net.clone(), pool, store, watched, Arc::clone(&counted), spans);
    let span = node_span(&node_name, "registry");
    tracker.spawn(driver.run(incoming, events, command_queue, shutdown.clone()).instrument(span));
    let metrics = endpoint.as_ref().map(Endpoint::address);
    if let Some(endpoint) = endpoint {
        metrics::serve(endpoint, counted, handle.clone(), net.clone(), &tracker, shutdown.clone());
    }
    tracker.close();
    Ok(RunningRegistry { handle, anchor, metrics, net, shutdown, tracker, failure })
}

/// Opening and checking a store takes as long as its disk does: not on a thread that others wait for.
async fn open(choice: StoreChoice, config: RegistryConfig) -> Result<(Records, Machine), RunError> {
    let opening = tokio::task::spawn_blocking(move || {
        let secret = config.secret.clone();
        let restore = |rows: Vec<Row>| Registry::restore(config, clock::now(), rows);
        let opened = match choice {
            StoreChoice::Memory(mut store) => {
                let machine = restore(store.load()?)?;
                (Records::unaudited(Box::new(store)), machine)
            }
            StoreChoice::Disk(path) => {
                let mut store = LogStore::open(&path)?;
                let rows = store.load()?;
                let machine = restore(rows.clone())?;
                (Records::audited(Box::new(store), &rows, &audit::beside(&path), secret)?, machine)
            }
        };
        Ok(opened)
    });
    opening.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

impl RunningRegistry {
    /// Where it can be reached: multiaddrs with real ports.
    pub fn addresses(&self) -> &[String] {
        &self.anchor.addresses
    }

    /// Where its metrics are served, if anywhere: the real port.
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// What nodes need in order to trust and to reach it.
    pub const fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// For commands.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Begins to stop: what was promised is on disk, what is under way is not answered.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Returns once it has stopped, and every port, file and socket is free again.
    ///
    /// # Errors
    /// [`RunError::Store`] if it stopped because the store failed.
    pub async fn stopped(mut self) -> Result<(), RunError> {
        self.tracker.wait().await;
        self.net.stopped().await;
        match self.failure.try_recv() {
            Ok(error) => Err(RunError::Store(error)),
            Err(_) => Ok(()),
        }
    }
}
