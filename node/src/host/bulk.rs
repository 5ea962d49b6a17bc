//! State streams: one-way, source to target, one for each migration.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use wayfare_net::{CancellationToken, FrameError, FrameReader, FrameWriter, Net, NetError, Protocol, Stream};
use wayfare_protocol::{
    host::{Host, ImageId, ReceiveJob},
    ids::{HostId, MigrationId},
    limits::{MODULE_BYTES_MAX, STATE_FRAME_BYTES_MAX},
    migration::messages::MigrationRef,
    reject::{Reject, Strict},
    suite::Dalek,
    transfer::{Opener, RecordKind, SealedRecord, StateFrame, state_digest},
    wire::Frame,
};

use super::{
    Arrived, Happened,
    beginning::Turn,
    images::{ImageWriter, Images},
    modules,
};
use crate::{
    runtime::{
        Driver, Incoming, Launch, Limits, LogTail, Prepared, Salt, Sink, StartError,
        state::{KIND_GLOBALS, KIND_PAGE},
    },
    words::describe,
};

/// Sealed records on their way to the stream. More: capturing waits.
pub(super) const RECORDS_QUEUED_MAX: usize = 8;
/// The first frame of a state stream at most: what it is for.
const BEGIN_BYTES_MAX: usize = 64;
/// A state stream that moves no byte for so long has failed.
const STALL: Duration = Duration::from_secs(10);
/// How long a stream that was opened ahead is of use: well below what a target waits for its first word.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// The target acknowledges each so many records,
const ACK_EVERY: u64 = 64;
/// and records that took so long: over a slow link, too, both sides see that it goes on before they give up.
const ACK_AFTER: Duration = Duration::from_millis(500);
/// Bytes of the client table at most; more is no table this host could keep.
pub(super) const SESSIONS_BYTES_MAX: usize = 96 * 1024 * 1024;

/// A stream that is opened while the target still asks the Registry, so that a frozen service waits for no opening. What it
/// is for is said only once there are records.
pub(super) struct Ahead {
    since: Instant,
    stream: AbortOnDropHandle<Result<Stream, NetError>>,
}

impl Ahead {
    /// Begins to open a stream to `host`.
    pub(super) fn open(net: Net, host: HostId, addresses: Vec<String>) -> Self {
        let opening = tokio::spawn(async move { net.open(host, &addresses, Protocol::State).await });
        Self { since: Instant::now(), stream: AbortOnDropHandle::new(opening) }
    }

    /// Whether the target still waits for what it is for.
    pub(super) fn is_fresh(&self) -> bool {
        self.since.elapsed() < AHEAD_MAX
    }
}

/// Sends the records of one migration, on the stream that was opened ahead if there is one. Returns when the target's side
/// has them all.
pub(super) async fn send(
    ahead: Option<Ahead>,
    net: Net,
    host: HostId,
    addresses: Vec<String>,
    mig: MigrationId,
    mut records: mpsc::Receiver<SealedRecord>,
    given_up: CancellationToken,
) -> Result<(), String> {
    // Dropping the receiver lets the capturing thread go.
    tokio::select! {
        biased;
        () = given_up.cancelled() => Err("given up".to_owned()),
        result = send_all(ahead, net, host, addresses, mig, &mut records) => result,
    }
}

async fn send_all(
    ahead: Option<Ahead>,
    net: Net,
    host: HostId,
    addresses: Vec<String>,
    mig: MigrationId,
    records: &mut mpsc::Receiver<SealedRecord>,
) -> Result<(), String> {
    let opened = match ahead.filter(Ahead::is_fresh) {
        Some(ahead) => ahead.stream.await.ok().and_then(Result::ok),
        None => None,
    };
    let stream = match opened {
        Some(stream) => stream,
        None => net.open(host, &addresses, Protocol::State).await.map_err(|error| describe(&error))?,
    };
    let mut writer = FrameWriter::new(stream, STATE_FRAME_BYTES_MAX);
    let stalled = |_| "the target takes no bytes".to_owned();
    let begin = StateFrame::Begin(MigrationRef { mig }).to_bytes();
    writer.feed(&begin).await.map_err(|error| describe(&error))?;
    while let Some(record) = records.recv().await {
        let bytes = StateFrame::Record(record).to_bytes();
        let fed = tokio::time::timeout(STALL, writer.feed(&bytes)).await.map_err(stalled)?;
        fed.map_err(|error| describe(&error))?;
    }
    let finished = tokio::time::timeout(STALL, writer.finish()).await.map_err(stalled)?;
    finished.map_err(|error| describe(&error))
}

/// An instance that is opened for a state while its source freezes the service; `Err` if it cannot be.
pub(super) type Opening = JoinHandle<Result<Box<dyn Incoming>, StartError>>;

/// What a receiver is given by the host's owner.
pub(super) struct Receiving {
    pub(super) job: ReceiveJob,
    /// The instance that the state is for, if this host has the code.
    pub(super) opening: Option<Opening>,
    /// The code, if this host has it.
    pub(super) prepared: Option<Prepared>,
    /// The module, if this host has it.
    pub(super) module: Option<Arc<[u8]>>,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) log: LogTail,
    /// Where a state that must survive a crash is kept.
    pub(super) images: Images,
    /// Where a module is kept.
    pub(super) modules: PathBuf,
}

/// Reads one state stream from `peer`: asks the owner what it is for, applies the records, reports.
pub(super) async fn receive(turn: Turn, stream: Stream, happened: mpsc::Sender<Happened>) {
    let mut reader = FrameReader::new(stream, BEGIN_BYTES_MAX);
    let first = match tokio::time::timeout(STALL, reader.read()).await {
        Ok(Ok(first)) => StateFrame::from_bytes(&first),
        Ok(Err(FrameError::TooLarge { .. })) => Err(Reject::FrameTooLarge),
        Ok(Err(_)) | Err(_) => return,
    };
    let mig = match first {
        Ok(StateFrame::Begin(MigrationRef { mig })) => mig,
        Ok(StateFrame::Record(_)) => {
            let _ = happened.send(Happened::StreamRejected(Reject::UnexpectedMessage)).await;
            return;
        }
        Err(reject) => {
            let _ = happened.send(Happened::StreamRejected(reject)).await;
            return;
        }
    };
    let peer = turn.peer();
    let (reply, answer) = oneshot::channel();
    if happened.send(Happened::StateStream { peer, mig, reply }).await.is_err() {
        return;
    }
    // Not expected, or from another peer: the owner has counted it.
    let Ok(mut receiving) = answer.await else { return };
    drop(turn);
    reader.set_cap(STATE_FRAME_BYTES_MAX);
    let opened = match receiving.opening.take() {
        Some(opening) => opening.await.ok(),
        None => None,
    };
    // The blocking side opens and applies while this side reads on.
    let (records, queue) = mpsc::channel(RECORDS_QUEUED_MAX);
    let reports = happened.clone();
    let applying = tokio::task::spawn_blocking(move || apply(receiving, opened, queue, &reports));
    let read = async {
        loop {
            let bytes = match tokio::time::timeout(STALL, reader.read()).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(FrameError::Closed)) => return Ok(()),
                Ok(Err(FrameError::TooLarge { .. })) => return Err(Reject::FrameTooLarge),
                Ok(Err(_)) | Err(_) => return Err(Reject::Expired),
            };
            match StateFrame::from_bytes(&bytes)? {
                StateFrame::Record(record) => {
                    let last = record.kind == RecordKind::End;
                    if records.send(record).await.is_err() || last {
                        return Ok(());
                    }
                }
                StateFrame::Begin(_) => return Err(Reject::UnexpectedMessage),
            }
        }
    };
    let read = read.await;
    drop(records);
    let applied = match applying.await {
        Ok(applied) => applied,
        Err(_) => Err(Reject::RecordInvalid),
    };
    let result = match (read, applied) {
        (Err(reject), _) | (Ok(()), Err(reject)) => Err(reject),
        (Ok(()), Ok(arrived)) => Ok(arrived),
    };
    let _ = happened.send(Happened::Received { mig, result }).await;
}

/// Begins to open an instance for the state of `job`. Runs none of its code.
pub(super) fn open(job: &ReceiveJob, driver: Arc<dyn Driver>, prepared: Prepared, log: LogTail) -> Opening {
    let salt = Salt(Opener::new(job.key.clone(), job.transcript).salt().0);
    let launch = launch(job.memory_bytes, log);
    tokio::task::spawn_blocking(move || driver.receive(&prepared, launch, salt))
}

fn apply(
    receiving: Receiving,
    opened: Option<Result<Box<dyn Incoming>, StartError>>,
    mut records: mpsc::Receiver<SealedRecord>,
    happened: &mpsc::Sender<Happened>,
) -> Result<Arrived, Reject> {
    let Receiving { job, prepared, module, driver, log, images, modules, opening: _ } = receiving;
    let mut opener = Opener::new(job.key.clone(), job.transcript);
    let salt = opener.salt();
    let held = ImageId::Held(job.ids.mig);
    let begin = || images.begin(&held, &Salt(salt.0), &job.code).map_err(|error| no_room(&error));
    // Written while it arrives, so that there is little left to wait for at the end.
    let mut image: Option<ImageWriter> = job.durable.then(begin).transpose()?;
    let mut loading =
        Loading { job: &job, driver, log, salt: Salt(salt.0), prepared, module: Vec::new(), sent_module: None };
    let mut incoming = match (opened, &module) {
        (Some(opened), _) => Some(opened.map_err(|error| no_room(&error))?),
        (None, Some(module)) => Some(loading.open(module)?),
        (None, None) => None,
    };
    // A page may come again in a later round; whoever sends more than that keeps this host busy for nothing.
    let bytes_max = MODULE_BYTES_MAX + 2 * job.memory_bytes + SESSIONS_BYTES_MAX as u64;
    let (mut bytes, mut sessions, mut acknowledged) = (0_u64, Vec::new(), Instant::now());
    while let Some(record) = records.blocking_recv() {
        let kind = record.kind;
        let plaintext = opener.open::<Dalek, Strict>(&record)?;
        bytes += plaintext.len() as u64;
        if bytes > bytes_max {
            return Err(Reject::RecordInvalid);
        }
        match kind {
            RecordKind::Module if incoming.is_none() => loading.module_piece(&plaintext)?,
            RecordKind::Page | RecordKind::Globals => {
                if incoming.is_none() {
                    incoming = Some(loading.open_sent()?);
                }
                let kind = if kind == RecordKind::Page { KIND_PAGE } else { KIND_GLOBALS };
                let applied = incoming.as_mut().map(|incoming| incoming.apply(kind, &plaintext));
                applied.transpose().map_err(|_| Reject::RecordInvalid)?;
                if let Some(image) = &mut image
                    && image.record(kind, &plaintext).is_err()
                {
                    return Err(image.failure().map_or(Reject::NoResources, |error| no_room(&error)));
                }
            }
            RecordKind::Sessions if sessions.len() + plaintext.len() <= SESSIONS_BYTES_MAX => {
                sessions.extend_from_slice(&plaintext);
            }
            RecordKind::End => {
                let incoming = incoming.ok_or(Reject::RecordInvalid)?;
                let digest = incoming.digest().map_err(|_| Reject::RecordInvalid)?;
                Host::<Dalek>::check_belongings(&sessions)?;
                // Made ready before 9 promises to hold it: after 11 nothing can fail any more. None of its code runs yet.
                let instance = incoming.activate(digest).map_err(|_| Reject::NoResources)?;
                let prepared = loading.prepared.take().ok_or(Reject::RecordInvalid)?;
                // And on disk, if that is what 9 promises: the state, and the code without which it is nothing.
                if let Some(module) = &loading.sent_module {
                    modules::store(&modules, module).map_err(|error| no_room(&error))?;
                }
                if let Some(mut image) = image.take() {
                    image.belongings(&sessions);
                    image.finish(&digest).map_err(|error| no_room(&error))?;
                }
                let state = state_digest(&salt, &job.code, &digest, &sessions);
                let module = loading.sent_module.take();
                return Ok(Arrived { instance, state, bytes, sessions, module, prepared });
            }
            RecordKind::Module | RecordKind::Sessions | RecordKind::Log => return Err(Reject::RecordInvalid),
        }
        if opener.next().is_multiple_of(ACK_EVERY) || acknowledged.elapsed() >= ACK_AFTER {
            acknowledged = Instant::now();
            let event = Happened::Records { mig: job.ids.mig, next: opener.next() };
            happened.blocking_send(event).map_err(|_| Reject::Finished)?;
        }
    }
    // The stream ended before the end record.
    Err(Reject::RecordOutOfOrder)
}

/// What cannot be written down cannot be taken in.
fn no_room(error: &dyn std::error::Error) -> Reject {
    warn!(error = describe(error), "a service cannot be taken in");
    Reject::NoResources
}

/// Makes the [`Incoming`] once the code is known.
struct Loading<'a> {
    job: &'a ReceiveJob,
    driver: Arc<dyn Driver>,
    log: LogTail,
    salt: Salt,
    prepared: Option<Prepared>,
    module: Vec<u8>,
    sent_module: Option<Vec<u8>>,
}

impl Loading<'_> {
    fn module_piece(&mut self, piece: &[u8]) -> Result<(), Reject> {
        if (self.module.len() + piece.len()) as u64 > MODULE_BYTES_MAX {
            return Err(Reject::RecordInvalid);
        }
        self.module.extend_from_slice(piece);
        Ok(())
    }

    fn open_sent(&mut self) -> Result<Box<dyn Incoming>, Reject> {
        let module = std::mem::take(&mut self.module);
        // The owner's manifest names the code: whatever else a source sends is never compiled.
        if modules::module_digest(&module) != self.job.code {
            return Err(Reject::WrongCode);
        }
        let incoming = self.open(&module)?;
        self.sent_module = Some(module);
        Ok(incoming)
    }

    fn open(&mut self, module: &[u8]) -> Result<Box<dyn Incoming>, Reject> {
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => self.driver.prepare(module, self.job.memory_bytes).map_err(|_| Reject::WrongCode)?,
        };
        let launch = launch(self.job.memory_bytes, self.log.clone());
        let opened = self.driver.receive(&prepared, launch, self.salt.clone()).map_err(|_| Reject::NoResources)?;
        self.prepared = Some(prepared);
        Ok(opened)
    }
}

/// What every instance is started with.
pub(super) fn launch(memory_bytes: u64, log: LogTail) -> Launch {
    Launch { limits: Limits { memory_bytes_max: memory_bytes, ..Limits::default() }, log, ..Launch::default() }
}
