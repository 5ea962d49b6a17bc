//! The journal's thread: takes entries from a bounded queue, appends all that have queued up, and syncs once.

use std::sync::Arc;
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::limits::{ENTRY_BYTES_MAX, GROUP_BYTES_MAX, JOURNAL_BYTES_HIGH, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX};
use super::{Journal, JournalError, describe};

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
    /// The disk has no space to reserve, or the file is near its largest size. What is appended now uses up a reserve that
    /// is for decisions; when that has gone, the journal fails. [`JournalWriter::check_space`] looks again.
    pub full: bool,
    /// Compactions that could not be done, for want of space most likely.
    pub compactions_failed: u64,
    /// Why nothing more will be. Stop making promises.
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

/// Which entries stay when a journal is compacted, by number and payload.
pub type Keep = Box<dyn Fn(u64, &[u8]) -> bool + Send>;

enum Command {
    /// The permit gives its bytes back to the queue once the entry is on disk.
    Append {
        seq: u64,
        payload: Vec<u8>,
        room: OwnedSemaphorePermit,
    },
    Compact {
        keep: Keep,
        seq: u64,
        payload: Vec<u8>,
        room: OwnedSemaphorePermit,
    },
    CheckSpace,
    Close {
        done: oneshot::Sender<Journal>,
    },
}

impl JournalWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(mut journal: Journal) -> std::io::Result<Self> {
        let (queue, commands) = mpsc::channel(QUEUE_ENTRIES_MAX);
        let (report, synced) = watch::channel(Synced {
            seq: journal.last_seq(),
            bytes: journal.bytes(),
            full: !journal.reserve() || journal.bytes() > JOURNAL_BYTES_HIGH,
            compactions_failed: 0,
            failed: None,
        });
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
        let room = self.room(&payload).await?;
        self.queue.send(Command::Append { seq, payload, room }).await.map_err(|_| WriterClosed)
    }

    /// More than an entry may have would wait for ever for room; the journal refuses it by name.
    async fn room(&self, payload: &[u8]) -> Result<OwnedSemaphorePermit, WriterClosed> {
        let units = (payload.len().min(ENTRY_BYTES_MAX) / UNIT_BYTES + 1) as u32;
        Arc::clone(&self.bytes).acquire_many_owned(units).await.map_err(|_| WriterClosed)
    }

    /// Queues a compaction (see [`Journal::compact`]) behind what was queued before. Entry `seq` must say no more than the
    /// entries that are not kept: if the smaller file cannot be made, the old entries stay instead and count for it. So
    /// [`synced`](Self::synced) reaches `seq` in both cases.
    ///
    /// Cancel safe: if dropped before it is done, nothing is queued.
    ///
    /// # Errors
    /// [`WriterClosed`]; nothing is queued.
    pub async fn compact(&self, keep: Keep, seq: u64, payload: Vec<u8>) -> Result<(), WriterClosed> {
        let room = self.room(&payload).await?;
        self.queue.send(Command::Compact { keep, seq, payload, room }).await.map_err(|_| WriterClosed)
    }

    /// Looks again whether the disk is [full](Synced::full), if the writer is idle enough to be asked.
    pub fn check_space(&self) {
        let _ = self.queue.try_send(Command::CheckSpace);
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
                Command::Compact { keep, seq, payload, room } => self.compact(&keep, seq, &payload, room),
                Command::CheckSpace => {
                    self.report_progress();
                    Ok(())
                }
                Command::Close { done } => {
                    // Whoever still has a handle learns of the end no later than the caller.
                    self.commands.close();
                    // If the caller has gone away, the journal is closed by being dropped.
                    let _ = done.send(self.journal);
                    return;
                }
            };
            if let Err(error) = outcome {
                tracing::error!(error = describe(&*error), "the journal has failed: no more promises are made");
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

    fn compact(
        &mut self,
        keep: &Keep,
        seq: u64,
        payload: &[u8],
        _room: OwnedSemaphorePermit,
    ) -> Result<(), Arc<JournalError>> {
        match self.journal.compact(keep, seq, payload) {
            Ok(()) => {}
            Err(
                error @ (JournalError::Compact { .. } | JournalError::Full { .. } | JournalError::EntryTooLarge { .. }),
            ) => {
                tracing::warn!(error = describe(&error), "the journal goes on growing");
                self.report.send_modify(|synced| synced.compactions_failed += 1);
            }
            Err(error) => return Err(error.into()),
        }
        self.report_progress();
        // The old entries are on disk, and say the same.
        self.report.send_modify(|synced| synced.seq = synced.seq.max(seq));
        Ok(())
    }

    fn report_progress(&mut self) {
        let (seq, bytes) = (self.journal.last_seq(), self.journal.bytes());
        let full = !self.journal.reserve() || bytes > JOURNAL_BYTES_HIGH;
        self.report.send_if_modified(|synced| {
            let changed = synced.seq < seq || synced.bytes != bytes || synced.full != full;
            (synced.seq, synced.bytes, synced.full) = (synced.seq.max(seq), bytes, full);
            changed
        });
    }
}
