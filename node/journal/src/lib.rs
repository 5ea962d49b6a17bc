//! The memory of promises, of a node or a registry: an append-only, checksummed log in one file.
//!
//! [`Journal`] is the file: it opens, checks, appends and compacts, and does each of these completely or says why not.
//! [`JournalWriter`] owns one on a thread of its own and syncs whatever has queued up at once (group commit). An entry
//! counts only when its sequence number, or a higher one, has come back as synced: journal first, send second.
//!
//! What a crash may leave unfinished at the end of the file was never acknowledged, and is cut off at the next open.
//! Damage that is followed by intact entries is something else, a disk or a person, and is not opened.
//!
//! A full disk must not stop anybody from writing down what is to be decided: some space is reserved behind the end of the
//! file, and [`Synced::full`] says, long before it is used up, that it cannot be renewed.
//!
//! Read next: `format` for the bytes, `file` for [`Journal`], `writer` for the thread.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod examine;
mod file;
mod format;
mod space;
mod writer;

use std::io;
use std::path::PathBuf;

pub use examine::{check, parse, read};
pub use file::{Journal, Opened, Torn};
pub use space::{Disk, Space};
pub use writer::{JournalWriter, Keep, Observer, Synced, WriterClosed};

/// Every bound of the journal.
pub mod limits {
    /// Bytes of one entry: a larger one is refused.
    pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;
    /// Bytes of a journal: an append beyond fails. Compact long before.
    pub const JOURNAL_BYTES_MAX: u64 = 1024 * 1024 * 1024;
    /// Bytes of a journal from which on it counts as a full disk: only what must be decided is to be appended.
    pub const JOURNAL_BYTES_HIGH: u64 = JOURNAL_BYTES_MAX / 4 * 3;
    /// Bytes of disk space that are reserved behind the end.
    pub const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
    /// The reserve is renewed when less is left. More than the largest entry; if it cannot be, the disk counts as full.
    pub const RESERVE_LEFT_MIN: u64 = 12 * 1024 * 1024;
    /// Entries that wait for the writer: more wait outside.
    pub const QUEUE_ENTRIES_MAX: usize = 1024;
    /// Bytes of entries that wait for the writer: more wait outside. More than the largest entry.
    pub const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
    /// Bytes that are written and synced at once: what else is queued takes the next turn.
    pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
}

/// One entry: its sequence number and what was written.
pub type Entry = (u64, Vec<u8>);

/// Why the journal did not do what it was asked. Each variant says whether the file has changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be opened, read or made. Nothing changed.
    #[error("the journal {path} cannot be opened", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or write it. Nothing changed.
    #[error(
        "the journal {path} is open to others (mode {mode:o}): run `chmod 600 {path}`, and think about who may have copied it",
        path = path.display()
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another process has it open. Nothing changed.
    #[error("the journal {path} is in use by another process: stop that one first", path = path.display())]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// Another kind of file. Nothing changed.
    #[error("{path} is not a journal: give another data folder", path = path.display())]
    NotAJournal {
        /// Which.
        path: PathBuf,
    },
    /// Made by another version of this program. Nothing changed.
    #[error("the journal {path} has format {found}, this program reads {supported}: run the version that wrote it", path = path.display())]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// Damaged in the middle, or in its head. Nothing changed.
    #[error(
        "the journal {path} is damaged at byte {at}{}: it holds promises that must not be forgotten, so do not edit it; \
         restore it from a copy that is no older, or move it aside: then what it alone knows is lost",
        next.map_or(String::new(), |next| format!(" and goes on at byte {next}")), path = path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// The first byte that is wrong.
        at: u64,
        /// Where intact entries go on.
        next: Option<u64>,
    },
    /// Larger than [`limits::JOURNAL_BYTES_MAX`], or would be. Nothing changed.
    #[error("the journal {path} would have {bytes} bytes, more than {max}: restart, which compacts it", path = path.display(), max = limits::JOURNAL_BYTES_MAX)]
    Full {
        /// Which.
        path: PathBuf,
        /// How large.
        bytes: u64,
    },
    /// Nothing changed.
    #[error("an entry of {bytes} bytes, and {max} are the most", max = limits::ENTRY_BYTES_MAX)]
    EntryTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Sequence numbers rise. Nothing changed.
    #[error("entry {seq} after entry {last}")]
    OutOfOrder {
        /// The number given.
        seq: u64,
        /// The last one before.
        last: u64,
    },
    /// The smaller file could not be made. Nothing changed.
    #[error("the journal {path} cannot be compacted and goes on as it is: free its disk", path = path.display())]
    Compact {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing or syncing failed, so nobody knows what of it is on disk: the journal takes nothing more.
    #[error("the journal {path} cannot be written: free its disk or replace it, then restart", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An earlier write failed. Nothing changed.
    #[error("the journal {path} takes nothing more after a failed write: restart", path = path.display())]
    Failed {
        /// Which.
        path: PathBuf,
    },
}

/// An error with its causes, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
