//! The journal's thread: takes entries from a bounded queue, appends all that have queued up, and syncs once.

use std::sync::Arc;
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::limits::{ENTRY_BYTES_MAX, GROUP_BYTES_MAX, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX};
use super::{Entry, Journal, JournalError};

/// What the queue's bytes are counted in, so that their number fits a semaphore.
const UNIT_BYTES: usize = 1024;

const _: () = assert!(ENTRY_BYTES_MAX < QUEUE_BYTES_MAX);

/// How far the journal is.
#[derive(Clone, Debug)]
pub struct Synced {
    /// All entries up to this one are on disk.
    pub seq: u64,
    /// Bytes of the file. Compact long before [`JOURNAL_BYTES_MAX`](super::limits::JOURNAL_BYTES_MAX), at which it fails.
    pub bytes: u64,
    /// Why nothing more will be. The host must stop making promises.
    pub failed: Option<Arc<JournalError>>,
}

/// The writer has stopped: [`Synced::failed`] says why, unless it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal takes nothing more")]
pub struct WriterClosed;

/// A handle to the thread that owns a journal. Clones share it; the thread ends when the last one is gone and the queue
/// is written.
#[derive(Clone, Debug)]
pub struct JournalWriter {
    queue: mpsc::Sender<Command>,
    bytes: Arc<Semaphore>,
    synced: watch::Receiver<Synced>,
}

#[derive(Debug)]
enum Command {
    /// The permit gives its bytes back to the queue once the entry is on disk.
    Append {
        seq: u64,
        payload: Vec<u8>,
        room: OwnedSemaphorePermit,
    },
    Rewrite {
        live: Vec<Entry>,
        done: oneshot::Sender<Result<(), Arc<JournalError>>>,
    },
    Close {
        done: oneshot::Sender<Journal>,
    },
}

impl JournalWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(journal: Journal) -> std::io::Result<Self> {
        let (queue, commands) = mpsc::channel(QUEUE_ENTRIES_MAX);
        let (report, synced) = watch::channel(Synced { seq: journal.last_seq(), bytes: journal.bytes(), failed: None });
        let thread = thread::Builder::new().name("wayfare-journal".into());
        thread.spawn(move || Worker { journal, commands, report }.run())?;
        Ok(Self { queue, bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX / UNIT_BYTES)), synced })
    }

    /// Queues an entry; waits while the queue is full. It is on disk once [`synced`](Self::synced) reaches `seq`, and only
    /// then. Numbers must rise in the order of the calls, so one task makes them.
    ///
    /// Cancel safe: if dropped before it is done, the entry is not queued.
    ///
    /// # Errors
    /// [`WriterClosed`]; the entry is not queued.
    pub async fn append(&self, seq: u64, payload: Vec<u8>) -> Result<(), WriterClosed> {
        // More than an entry may have would wait for ever for room; the journal refuses it by name.
        let units = (payload.len().min(ENTRY_BYTES_MAX) / UNIT_BYTES + 1) as u32;
        let room = Arc::clone(&self.bytes).acquire_many_owned(units).await.map_err(|_| WriterClosed)?;
        self.queue.send(Command::Append { seq, payload, room }).await.map_err(|_| WriterClosed)
    }

    /// Replaces all entries by `live` ones (see [`Journal::rewrite`]) after everything that was queued before. What was
    /// queued before and is not in `live` is forgotten, so make `live` after the last `append`, in the same task.
    ///
    /// # Errors
    /// As of [`Journal::rewrite`], or if the writer has stopped. A failure to make the new file leaves the writer running.
    pub async fn rewrite(&self, live: Vec<Entry>) -> Result<Result<(), Arc<JournalError>>, WriterClosed> {
        let (done, finished) = oneshot::channel();
        self.queue.send(Command::Rewrite { live, done }).await.map_err(|_| WriterClosed)?;
        finished.await.map_err(|_| WriterClosed)
    }

    /// The highest number that is on disk, and whether it can rise any more.
    pub fn synced(&self) -> watch::Receiver<Synced> {
        self.synced.clone()
    }

    /// Writes what is queued, ends the thread and returns the journal. Other handles get [`WriterClosed`] from then on.
    ///
    /// # Errors
    /// [`WriterClosed`] if it had stopped already.
    pub async fn close(self) -> Result<Journal, WriterClosed> {
        let (done, finished) = oneshot::channel();
        self.queue.send(Command::Close { done }).await.map_err(|_| WriterClosed)?;
        finished.await.map_err(|_| WriterClosed)
    }
}

struct Worker {
    journal: Journal,
    commands: mpsc::Receiver<Command>,
    report: watch::Sender<Synced>,
}

impl Worker {
    /// Ends when told to, when nobody is left who could, or when the journal has failed: then the queue is dropped, and
    /// with it all who wait for room in it learn that the writer has stopped.
    fn run(mut self) {
        let mut next = self.commands.blocking_recv();
        while let Some(command) = next.take() {
            let outcome = match command {
                Command::Append { seq, payload, room } => self.append(seq, payload, room, &mut next),
                Command::Rewrite { live, done } => self.rewrite(&live, done),
                Command::Close { done } => {
                    // Whoever still has a handle learns of the end no later than the caller.
                    self.commands.close();
                    // If the caller has gone away, the journal is closed by being dropped.
                    let _ = done.send(self.journal);
                    return;
                }
            };
            if let Err(error) = outcome {
                tracing::error!(%error, "the journal has failed: this host makes no more promises");
                self.report.send_modify(|synced| synced.failed = Some(error));
                return;
            }
            if next.is_none() {
                next = self.commands.blocking_recv();
            }
        }
    }

    /// Appends an entry and all that are queued behind it, up to a group's size. What ends the group is left in `next`.
    fn append(
        &mut self,
        seq: u64,
        payload: Vec<u8>,
        room: OwnedSemaphorePermit,
        next: &mut Option<Command>,
    ) -> Result<(), Arc<JournalError>> {
        let mut bytes = payload.len();
        let mut group = vec![(seq, payload, room)];
        while bytes < GROUP_BYTES_MAX {
            match self.commands.try_recv() {
                Ok(Command::Append { seq, payload, room }) => {
                    bytes += payload.len();
                    group.push((seq, payload, room));
                }
                Ok(other) => {
                    *next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.journal.append(group.iter().map(|(seq, payload, _)| (*seq, payload.as_slice())))?;
        self.report_progress();
        Ok(())
    }

    fn rewrite(
        &mut self,
        live: &[Entry],
        done: oneshot::Sender<Result<(), Arc<JournalError>>>,
    ) -> Result<(), Arc<JournalError>> {
        let result = self.journal.rewrite(live.iter().map(|(seq, payload)| (*seq, payload.as_slice())));
        let result = result.map_err(Arc::new);
        // Only a failed write leaves the journal in doubt; with any other error it goes on as it was.
        let fatal = result.as_ref().err().filter(|error| matches!(***error, JournalError::Write { .. })).cloned();
        self.report_progress();
        // Whoever asked may have gone away.
        let _ = done.send(result);
        fatal.map_or(Ok(()), Err)
    }

    fn report_progress(&self) {
        self.report.send_modify(|synced| (synced.seq, synced.bytes) = (self.journal.last_seq(), self.journal.bytes()));
    }
}
