//! A cloud or home node: one task owns the host's machine and executes its effects.
//!
//! [`start`] brings it up, as its journal remembers it, and returns a [`HostHandle`]. Open next: `owner` for the loop and the
//! effects, `worker` for the thread of each service, `bulk` for the state streams, `fetch` and `update` for new code, `images` and `restore` for what outlives
//! the process.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, warn};
use wayfare_journal::{Disk, Journal, JournalError, JournalWriter, Opened, Space};
use wayfare_net::{Net, NetEvent, Witness};
use wayfare_protocol::{
    host::{Event, Host, HostConfig, Identity, ImageId, Restored, figures::Figures, hosted::Stay},
    ids::{ClientId, Digest, HostId, MigrationId, ServiceId},
    manifest::Manifest,
    migration::messages::RegistryFrame,
    reject::{Reject, RejectCounters},
    time::{Micros, Now},
    trust::{Signed, TrustBundle},
};
use wayfare_telemetry::Spans;

use crate::{
    clock::Entropy,
    metrics::{host::HostMetrics, journal::JournalMetrics},
    questions::{ANSWER_TIME, Question, Told},
    runtime::{Driver, Instance, LogTail, Prepared},
    words::describe,
};

mod beginning;
mod bulk;
mod fetch;
mod images;
pub mod modules;
mod owner;
mod recovery;
mod restore;
#[cfg(test)]
mod tests;
mod update;
mod worker;

/// Commands that wait for the owner. More: the caller waits.
const COMMANDS_MAX: usize = 64;
/// Reports of workers and streams that wait for the owner. More: they wait.
const HAPPENED_MAX: usize = 256;

/// What a host is started with.
pub struct HostParts {
    /// Who it is.
    pub identity: Identity,
    /// How it behaves.
    pub config: HostConfig,
    /// Whom it trusts.
    pub bundle: TrustBundle,
    /// Its place on the mesh.
    pub net: Net,
    /// What the mesh tells it.
    pub net_events: mpsc::Receiver<NetEvent>,
    /// The mesh addresses it advertises; empty: those it listens on.
    pub advertised: Vec<String>,
    /// Where its journal, images and modules are.
    pub dir: PathBuf,
    /// Runs its services.
    pub driver: Arc<dyn Driver>,
    /// Give up services whose state an earlier run had in memory only.
    pub forget_lost: bool,
    /// Who watches its messages and its journal.
    pub witness: Option<Arc<dyn Witness>>,
    /// Where the spans of its migrations go.
    pub spans: Spans,
}

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The journal cannot be used.
    #[error("the journal in {} cannot be used", dir.display())]
    Journal {
        /// The node's directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: JournalError,
    },
    /// An entry of the journal is intact, but of another program.
    #[error("entry {seq} of the journal in {} cannot be read ({source}): run the version that wrote it", dir.display())]
    Entry {
        /// The node's directory.
        dir: PathBuf,
        /// The entry's number.
        seq: u64,
        /// Why.
        source: Reject,
    },
    /// The journal says what this node cannot have written down.
    #[error(
        "the journal in {} is not this node's ({source}): put the key and trust.json back with which it was written",
        dir.display()
    )]
    Foreign {
        /// The node's directory.
        dir: PathBuf,
        /// Why.
        source: Reject,
    },
    /// A host without its journal would delete the images that only the journal explains.
    #[error(
        "{} holds images of services, but its journal is missing or empty: put the journal back, or move the folder \
         `images` away to go on without those services",
        dir.display()
    )]
    NoJournal {
        /// The node's directory.
        dir: PathBuf,
    },
    /// The folder of images cannot be used.
    #[error("the image directory in {} cannot be used: see that it belongs to this user, and that the disk has space", dir.display())]
    Images {
        /// The node's directory.
        dir: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The module directory cannot be used.
    #[error("the module directory in {} cannot be used: see that it belongs to this user, and that the disk has space", dir.display())]
    Modules {
        /// The node's directory.
        dir: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The system has no thread left for the journal.
    #[error("the journal's thread cannot be started: raise the limit of processes (ulimit -u), or free memory")]
    Thread(#[source] std::io::Error),
    /// The mesh refused.
    #[error("the mesh cannot be used")]
    Net(#[from] wayfare_net::NetError),
}

impl HostError {
    /// Whether the operator has to put something right first: a file, its owner, the disk.
    pub const fn is_setup(&self) -> bool {
        match self {
            Self::Journal { .. }
            | Self::Entry { .. }
            | Self::Foreign { .. }
            | Self::NoJournal { .. }
            | Self::Images { .. }
            | Self::Modules { .. } => true,
            Self::Thread(_) | Self::Net(_) => false,
        }
    }
}

/// What workers and streams report to the owner.
enum Happened {
    /// What `_initialize` read of the outside; nothing if it did not run.
    Started {
        stay: Stay,
        result: Result<Vec<u8>, String>,
    },
    Executed {
        stay: Stay,
        client: ClientId,
        sequence: u64,
        response: Vec<u8>,
        inputs: Vec<u8>,
    },
    Restored {
        stay: Stay,
        result: Result<Restored, String>,
    },
    HeldRestored {
        mig: MigrationId,
        result: Result<Vec<u8>, String>,
    },
    Saved {
        stay: Stay,
        upto: u64,
        result: Result<u64, String>,
    },
    /// The code of an update, and the module if it was not at hand before; both are on disk.
    Fetched {
        stay: Stay,
        order: Digest,
        result: Result<(Vec<u8>, Prepared), String>,
    },
    /// An instance of other code was made and saved.
    Updated {
        stay: Stay,
        order: Digest,
        image: Option<ImageId>,
        result: Result<u64, String>,
    },
    /// Code that was just compiled.
    Prepared(Prepared),
    Captured {
        mig: MigrationId,
        result: Result<(Digest, u64), String>,
    },
    Sent {
        mig: MigrationId,
        result: Result<(), String>,
    },
    StateStream {
        peer: HostId,
        mig: MigrationId,
        reply: oneshot::Sender<bulk::Receiving>,
    },
    StreamRejected(Reject),
    /// A measured round trip; `None`: the host did not answer.
    Rtt {
        host: HostId,
        rtt: Option<Micros>,
    },
    Records {
        mig: MigrationId,
        next: u64,
    },
    Received {
        mig: MigrationId,
        result: Result<Arrived, Reject>,
    },
}

/// A state that is complete and verified against its records' key, but does not run yet.
struct Arrived {
    /// Ready, but nothing of it has run.
    instance: Box<dyn Instance>,
    /// `h(state)`.
    state: Digest,
    bytes: u64,
    sessions: Vec<u8>,
    /// The module, if it came along; it is on disk.
    module: Option<Vec<u8>>,
    /// Its code, so that the next move needs no compiler.
    prepared: Prepared,
}

type Query = Box<dyn FnOnce(&mut Host, Now, &mut Entropy) + Send>;

/// A host's numbers at one moment, for its metrics.
pub(crate) struct Numbers {
    pub(crate) figures: Figures,
    pub(crate) rejects: RejectCounters,
    /// Streams of each pool: migrate, request, registry.
    pub(crate) streams: [usize; 3],
}

enum Command {
    /// Runs on the machine, between events.
    With(Query),
    Deploy {
        manifest: Signed<Manifest>,
        module: Vec<u8>,
        prepared: Prepared,
        reply: oneshot::Sender<Result<ServiceId, DeployError>>,
    },
    /// Asks the node's Registry.
    Ask(Question),
    /// Numbers for gauges.
    Numbers { reply: oneshot::Sender<Numbers> },
    /// Subscribes to what happens.
    Events { reply: oneshot::Sender<tokio::sync::broadcast::Receiver<Event>> },
}

/// Why a service cannot be deployed. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The module cannot be a service.
    #[error("{0}")]
    Module(String),
    /// It cannot be kept.
    #[error("the module cannot be written")]
    Write(#[from] std::io::Error),
    /// The host refuses.
    #[error("the host refuses: {0}")]
    Refused(#[from] Reject),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// A cheap handle to a running host.
#[derive(Clone)]
pub struct HostHandle {
    commands: mpsc::Sender<Command>,
    driver: Arc<dyn Driver>,
    modules: PathBuf,
    logs: Logs,
    metrics: Arc<HostMetrics>,
}

impl std::fmt::Debug for HostHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostHandle")
    }
}

/// What services print, by service.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<BTreeMap<ServiceId, LogTail>>>);

impl Logs {
    fn of(&self, service: ServiceId) -> LogTail {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(service).or_default().clone()
    }
}

impl HostHandle {
    /// Runs `query` on the machine. `None` if the node is stopping.
    pub async fn with<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Host, Now, &mut Entropy) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let query: Query = Box::new(move |host, now, rng| {
            // A caller that has gone needs no answer.
            let _ = reply.send(query(host, now, rng));
        });
        self.commands.send(Command::With(query)).await.ok()?;
        answer.await.ok()
    }

    /// Checks and keeps a module, registers the service and starts it. Returns when the registration is under way: watch
    /// [`events`](Self::events) for the outcome.
    ///
    /// # Errors
    /// [`DeployError`].
    pub async fn deploy(&self, manifest: Signed<Manifest>, module: Vec<u8>) -> Result<ServiceId, DeployError> {
        let memory_bytes = manifest.unverified()?.required.memory_bytes;
        let (driver, modules) = (Arc::clone(&self.driver), self.modules.clone());
        // Compiling takes its time, and so does the disk: not on the owner's task.
        let checked = tokio::task::spawn_blocking(move || {
            let prepared = driver.prepare(&module, memory_bytes);
            let prepared = prepared.map_err(|error| DeployError::Module(describe(&error)))?;
            modules::store(&modules, &module)?;
            Ok::<_, DeployError>((module, prepared))
        });
        let (module, prepared) = checked.await.map_err(|_| DeployError::Stopping)??;
        let (reply, answer) = oneshot::channel();
        let command = Command::Deploy { manifest, module, prepared, reply };
        self.commands.send(command).await.map_err(|_| DeployError::Stopping)?;
        answer.await.unwrap_or(Err(DeployError::Stopping))
    }

    /// Checks a module, and keeps it for the host that an update will have fetch it.
    ///
    /// # Errors
    /// [`DeployError`].
    pub async fn keep_module(&self, module: Vec<u8>, memory_bytes: u64) -> Result<(), DeployError> {
        let (driver, modules) = (Arc::clone(&self.driver), self.modules.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let prepared = driver.prepare(&module, memory_bytes);
            prepared.map_err(|error| DeployError::Module(describe(&error)))?;
            Ok(modules::store(&modules, &module)?)
        });
        kept.await.map_err(|_| DeployError::Stopping)?
    }

    /// Asks this node's Registry. `None` if it does not answer in time.
    pub(crate) async fn ask(&self, frame: RegistryFrame) -> Option<Told> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ask(Question { frame, reply })).await.ok()?;
        tokio::time::timeout(ANSWER_TIME, answer).await.ok()?.ok()
    }

    /// What happens on this host from now on. A reader that falls far behind misses some.
    pub async fn events(&self) -> Option<tokio::sync::broadcast::Receiver<Event>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Events { reply }).await.ok()?;
        answer.await.ok()
    }

    pub(crate) fn metrics(&self) -> &HostMetrics {
        &self.metrics
    }

    /// `None` if the node is stopping.
    pub(crate) async fn numbers(&self) -> Option<Numbers> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Numbers { reply }).await.ok()?;
        answer.await.ok()
    }

    /// What a service printed here.
    pub fn log(&self, service: ServiceId) -> LogTail {
        self.logs.of(service)
    }
}

/// Starts a host's owner task.
///
/// # Errors
/// [`HostError`]; then nothing runs.
pub fn start(parts: HostParts, tracker: &TaskTracker, shutdown: CancellationToken) -> Result<HostHandle, HostError> {
    start_on(Box::new(Disk), parts, tracker, shutdown)
}

/// As [`start`], with the journal's space from `space`.
fn start_on(
    space: Box<dyn Space>,
    parts: HostParts,
    tracker: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<HostHandle, HostError> {
    let dir = parts.dir.clone();
    let journal_error = |source| HostError::Journal { dir: dir.clone(), source };
    let Opened { journal, entries, torn } = Journal::open_on(&dir.join("journal"), space).map_err(journal_error)?;
    if let Some(torn) = torn {
        warn!(at = torn.at, bytes = torn.bytes, "the journal's end was cut by a crash: nothing promised was lost");
    }
    let modules = modules::Modules::open(&dir.join("modules"))
        .map_err(|source| HostError::Modules { dir: dir.clone(), source })?;
    let images_error = |source| HostError::Images { dir: dir.clone(), source };
    let images = images::Images::open(&dir.join("images")).map_err(images_error)?;
    if entries.is_empty() && !images.is_empty().map_err(images_error)? {
        return Err(HostError::NoJournal { dir: dir.clone() });
    }
    let host = recovery::machine(&parts, entries, journal.last_seq())?;
    let counted = JournalMetrics::default();
    let observer = Some(Arc::new(counted.clone()) as _);
    let journal = JournalWriter::start_observed(journal, observer).map_err(HostError::Thread)?;
    let (commands, queue) = mpsc::channel(COMMANDS_MAX);
    let handle = HostHandle {
        commands,
        driver: Arc::clone(&parts.driver),
        modules: modules.dir().to_owned(),
        logs: Logs::default(),
        metrics: Arc::new(HostMetrics::new(counted, parts.spans.clone())),
    };
    let kept =
        owner::Kept { journal, modules, images, logs: handle.logs.clone(), metrics: Arc::clone(&handle.metrics) };
    let owner = owner::Owner::new(parts, host, kept, tracker.clone(), shutdown)?;
    tracker.spawn(owner.run(queue).in_current_span());
    Ok(handle)
}
