//! A gateway node: any HTTP client on a plain local port reaches a service wherever it is.
//!
//! [`start`] brings it up. Open next: `owner` for the task that owns the gateway's machine, `ingress` for the HTTP side,
//! `http` for the translation between HTTP and the bytes that a service is called with.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;
use wayfare_journal::{Journal, JournalError, JournalWriter};
use wayfare_net::{Net, NetEvent, Witness};
use wayfare_protocol::{
    gateway::{Failure, Gateway, GatewayConfig, IdempotencyKey, Refuse, figures::Figures},
    migration::messages::{Lookup, RegistryFrame},
    reject::{RejectCounters, Strict},
    suite::Dalek,
    time::Now,
};

use crate::{
    metrics::{gateway::GatewayMetrics, journal::JournalMetrics},
    questions::{ANSWER_TIME, Question, Told},
};

mod http;
mod ingress;
mod owner;
#[cfg(test)]
mod tests;

/// Requests and queries that wait for the owner. More: the client's connection waits.
const COMMANDS_MAX: usize = 1024;

/// The production machine.
pub type Machine = Gateway<Dalek, Strict>;

/// What a gateway is started with.
pub struct GatewayParts {
    /// Who it is and whom it trusts.
    pub config: GatewayConfig,
    /// Its place on the mesh.
    pub net: Net,
    /// What the mesh tells it.
    pub net_events: mpsc::Receiver<NetEvent>,
    /// Which services it carries requests for, each on its own port.
    pub services: Vec<(Lookup, SocketAddr)>,
    /// How often it measures round trips.
    pub probe_interval: Duration,
    /// Where its journal is.
    pub dir: PathBuf,
    /// Who watches its messages and its journal.
    pub witness: Option<Arc<dyn Witness>>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The journal cannot be used.
    #[error("the journal in {} cannot be used", dir.display())]
    Journal {
        /// The node's directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: JournalError,
    },
    /// The journal is of another version.
    #[error("entry {seq} of the journal in {} cannot be read: move the journal away to begin afresh", dir.display())]
    Entry {
        /// The node's directory.
        dir: PathBuf,
        /// The entry's number.
        seq: u64,
    },
    /// The system has no thread left for the journal.
    #[error("the journal's thread cannot be started: raise the limit of processes (ulimit -u), or free memory")]
    Thread(#[source] std::io::Error),
    /// A port cannot be had.
    #[error("cannot listen on {address} for `{service}`: choose another port, or stop what uses it")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For which service.
        service: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A service cannot be carried.
    #[error("`{service}` cannot be carried: {source}")]
    Service {
        /// Which.
        service: String,
        /// Why.
        source: Refuse,
    },
}

type Query = Box<dyn FnOnce(&mut Machine, Now) + Send>;

/// The end of a client's request.
enum Answer {
    Response(Vec<u8>),
    Failed(Failure),
    Refused(Refuse),
}

enum Command {
    /// `room` is what the body takes up, until the answer.
    Request {
        service: Lookup,
        request: Vec<u8>,
        key: Option<IdempotencyKey>,
        reply: oneshot::Sender<Answer>,
        room: OwnedSemaphorePermit,
    },
    With(Query),
    /// Asks the gateway's Registry.
    Ask(Question),
    Numbers {
        reply: oneshot::Sender<Numbers>,
    },
}

/// A gateway's numbers at one moment, for its metrics.
pub(crate) struct Numbers {
    pub(crate) figures: Figures,
    pub(crate) rejects: RejectCounters,
    /// Streams of each pool: request, registry.
    pub(crate) streams: [usize; 2],
}

/// A cheap handle to a running gateway.
#[derive(Clone)]
pub struct GatewayHandle {
    commands: mpsc::Sender<Command>,
    listening: Vec<(Lookup, SocketAddr)>,
    metrics: Arc<GatewayMetrics>,
}

impl std::fmt::Debug for GatewayHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayHandle").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl GatewayHandle {
    /// Runs `query` on the machine. `None` if the node is stopping.
    pub async fn with<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Machine, Now) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let query: Query = Box::new(move |gateway, now| {
            // A caller that has gone needs no answer.
            let _ = reply.send(query(gateway, now));
        });
        self.commands.send(Command::With(query)).await.ok()?;
        answer.await.ok()
    }

    /// Asks this gateway's Registry. `None` if it does not answer in time.
    pub(crate) async fn ask(&self, frame: RegistryFrame) -> Option<Told> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ask(Question { frame, reply })).await.ok()?;
        tokio::time::timeout(ANSWER_TIME, answer).await.ok()?.ok()
    }

    pub(crate) fn metrics(&self) -> &GatewayMetrics {
        &self.metrics
    }

    /// `None` if the node is stopping.
    pub(crate) async fn numbers(&self) -> Option<Numbers> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Numbers { reply }).await.ok()?;
        answer.await.ok()
    }

    /// Where clients reach which service: real ports.
    pub fn listening(&self) -> &[(Lookup, SocketAddr)] {
        &self.listening
    }
}

fn name(service: &Lookup) -> String {
    match service {
        Lookup::Id(id) => id.to_string(),
        Lookup::Name(name) => name.clone(),
    }
}

/// Starts a gateway: listens on every port, or fails.
///
/// # Errors
/// [`GatewayError`]; then nothing runs.
pub async fn start(
    parts: GatewayParts,
    tracker: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<GatewayHandle, GatewayError> {
    let dir = parts.dir.clone();
    let opened =
        Journal::open(&dir.join("journal")).map_err(|source| GatewayError::Journal { dir: dir.clone(), source })?;
    let mut entries = Vec::with_capacity(opened.entries.len());
    for (seq, payload) in &opened.entries {
        let decoded = wayfare_protocol::wire::decode(payload);
        entries.push((*seq, decoded.map_err(|_| GatewayError::Entry { dir: dir.clone(), seq: *seq })?));
    }
    let last_seq = opened.journal.last_seq();
    let counted = JournalMetrics::default();
    let observer = Some(Arc::new(counted.clone()) as _);
    let journal = JournalWriter::start_observed(opened.journal, observer).map_err(GatewayError::Thread)?;
    let mut listeners = Vec::new();
    for (service, address) in &parts.services {
        let failed = |source| GatewayError::Listen { address: *address, service: name(service), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        listeners.push((service.clone(), bound, listener));
    }
    let (commands, queue) = mpsc::channel(COMMANDS_MAX);
    let metrics = Arc::new(GatewayMetrics::new(counted));
    let listening = listeners.iter().map(|(service, bound, _)| (service.clone(), *bound)).collect();
    let kept = owner::Kept { journal, last_seq, entries, metrics: Arc::clone(&metrics) };
    let owner = owner::Owner::new(parts, kept, tracker.clone(), shutdown.clone())?;
    tracker.spawn(owner.run(queue).in_current_span());
    for (service, _, listener) in listeners {
        let ingress = ingress::Ingress::new(service, commands.clone(), Arc::clone(&metrics));
        tracker.spawn(ingress.serve(listener, tracker.clone(), shutdown.clone()));
    }
    Ok(GatewayHandle { commands, listening, metrics })
}
