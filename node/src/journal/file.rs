//! A journal's file: opened by one process, appended to, synced, and replaced as a whole when it is compacted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};

use super::format::{BadHead, ENTRY_HEAD_BYTES, HEAD_BYTES, Head, VERSION, scan};
use super::limits::{ENTRY_BYTES_MAX, JOURNAL_BYTES_MAX};
use super::{Entry, JournalError};

/// How often opening starts over because another process has just replaced or made the file.
const OPEN_ATTEMPTS_MAX: usize = 8;

/// An open journal. The file is locked while this lives.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    head: Head,
    /// Where the next entry goes.
    end: u64,
    last_seq: u64,
    failed: bool,
}

/// What was in a journal.
#[derive(Debug)]
pub struct Opened {
    /// The journal, ready for more.
    pub journal: Journal,
    /// All entries, oldest first.
    pub entries: Vec<Entry>,
    /// What was cut off at the end, if anything was.
    pub torn: Option<Torn>,
}

/// An unfinished write at the end of a journal: it was never acknowledged, and was cut off. (If the last entry of all was
/// damaged later, it looks the same: then this is all that tells.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where it began.
    pub at: u64,
    /// How long it was.
    pub bytes: u64,
}

impl Journal {
    /// Opens the journal at `path`, or makes an empty one there, for this user only. Its folder must exist.
    ///
    /// # Errors
    /// [`JournalError`]; nothing has changed then.
    pub fn open(path: &Path) -> Result<Opened, JournalError> {
        let failed = |source| JournalError::Open { path: path.to_owned(), source };
        let mut file = open_locked(path)?;
        let length = file.metadata().map_err(failed)?.len();
        if length > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { path: path.to_owned(), bytes: length });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let damaged = |at: usize, next: Option<usize>| JournalError::Damaged {
            path: path.to_owned(),
            at: at as u64,
            next: next.map(|next| next as u64),
        };
        let head = Head::decode(&bytes).map_err(|bad| match bad {
            BadHead::NotAJournal => JournalError::NotAJournal { path: path.to_owned() },
            BadHead::Version(found) => JournalError::Version { path: path.to_owned(), found, supported: VERSION },
            // The head was synced before the file got its name, so nothing but damage can be wrong with it.
            BadHead::Damaged => damaged(0, None),
        })?;
        let found = scan(&head, &bytes);
        if found.next.is_some() {
            return Err(damaged(found.end, found.next));
        }
        let torn =
            (found.end < bytes.len()).then(|| Torn { at: found.end as u64, bytes: (bytes.len() - found.end) as u64 });
        if torn.is_some() {
            file.set_len(found.end as u64).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let last_seq = found.entries.last().map_or(0, |(seq, _)| *seq).max(head.base);
        let entries = found.entries.into_iter().map(|(seq, payload)| (seq, bytes[payload].to_vec())).collect();
        let journal = Self { path: path.to_owned(), file, head, end: found.end as u64, last_seq, failed: false };
        Ok(Opened { journal, entries, torn })
    }

    /// The highest sequence number ever written here, compacted away or not; 0 if none was. The next is higher.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Bytes of the file: when they are many times what is live, compact.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Appends entries with rising numbers and syncs them: after `Ok` they are on disk.
    ///
    /// # Errors
    /// [`JournalError`]; only after [`JournalError::Write`] it is unknown what is on disk.
    pub fn append<'a>(&mut self, entries: impl IntoIterator<Item = (u64, &'a [u8])>) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        let mut bytes = Vec::new();
        let mut last_seq = self.last_seq;
        for (seq, payload) in entries {
            encode(&self.head, &mut last_seq, seq, payload, &mut bytes)?;
        }
        let end = self.end + bytes.len() as u64;
        if end > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { path: self.path.clone(), bytes: end });
        }
        let written = self.file.write_all_at(&bytes, self.end).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // After a failed sync the kernel may call pages clean that never reached the disk: trying again would lie.
            self.failed = true;
            return Err(JournalError::Write { path: self.path.clone(), source });
        }
        (self.end, self.last_seq) = (end, last_seq);
        Ok(())
    }

    /// Replaces all entries by `live` ones, with rising numbers, at once: after a crash there are either the old or the
    /// new. [`last_seq`](Self::last_seq) stays.
    ///
    /// # Errors
    /// [`JournalError`]; only after [`JournalError::Write`] it is unknown which of both are on disk.
    pub fn rewrite<'a>(&mut self, live: impl IntoIterator<Item = (u64, &'a [u8])>) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        let open = |source| JournalError::Open { path: self.path.clone(), source };
        let head = Head { salt: salt().map_err(open)?, base: self.last_seq };
        let mut bytes = head.encode().to_vec();
        let mut last_seq = 0;
        for (seq, payload) in live {
            encode(&head, &mut last_seq, seq, payload, &mut bytes)?;
        }
        if last_seq > self.last_seq {
            return Err(JournalError::OutOfOrder { seq: last_seq, last: self.last_seq });
        }
        let end = bytes.len() as u64;
        if end > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { path: self.path.clone(), bytes: end });
        }
        let file = Partial::write(&self.path, &bytes).and_then(|partial| partial.replace(&self.path)).map_err(open)?;
        // It has the name, but a crash could still bring the old one back: then what follows would be lost.
        if let Err(source) = sync_folder(&self.path) {
            self.failed = true;
            return Err(JournalError::Write { path: self.path.clone(), source });
        }
        (self.file, self.head, self.end) = (file, head, end);
        Ok(())
    }
}

fn encode(head: &Head, last: &mut u64, seq: u64, payload: &[u8], bytes: &mut Vec<u8>) -> Result<(), JournalError> {
    if payload.len() > ENTRY_BYTES_MAX {
        return Err(JournalError::EntryTooLarge { bytes: payload.len() });
    }
    if seq <= *last {
        return Err(JournalError::OutOfOrder { seq, last: *last });
    }
    bytes.reserve(ENTRY_HEAD_BYTES + payload.len());
    head.encode_entry(seq, payload, bytes);
    *last = seq;
    Ok(())
}

/// Opens the file, made if it is not there, and locks it.
fn open_locked(path: &Path) -> Result<File, JournalError> {
    let failed = |source| JournalError::Open { path: path.to_owned(), source };
    for _ in 0..OPEN_ATTEMPTS_MAX {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_empty(path).map_err(failed)?;
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::Locked { path: path.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
        // Who held the lock may have replaced the file just now: then this one has no name any more.
        let (mine, named) = (file.metadata().map_err(failed)?, std::fs::metadata(path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (mine.dev(), mine.ino())) {
            return Ok(file);
        }
    }
    Err(JournalError::Locked { path: path.to_owned() })
}

fn make_empty(path: &Path) -> io::Result<()> {
    let head = Head { salt: salt()?, base: 0 }.encode();
    match Partial::write(path, &head)?.name(path) {
        // Another process was first: its file is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(path),
    }
}

fn salt() -> io::Result<[u8; 8]> {
    let mut salt = [0; 8];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    Ok(salt)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    // A bare file name has the empty path as its folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// A file that is written and synced, and has not got its name yet. Removed if it never gets it.
struct Partial {
    path: PathBuf,
    file: File,
    named: bool,
}

impl Partial {
    fn write(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", data_encoding::HEXLOWER.encode(&salt()?)));
        let path = path.with_file_name(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let partial = Self { path, file, named: false };
        // The lock first: it must be held from the moment that the file has its name.
        rustix::fs::flock(&partial.file, FlockOperation::NonBlockingLockExclusive)?;
        partial.file.write_all_at(bytes, 0)?;
        partial.file.sync_all()?;
        Ok(partial)
    }

    /// Gives it `path` as name, in place of what has it.
    fn replace(mut self, path: &Path) -> io::Result<File> {
        std::fs::rename(&self.path, path)?;
        self.named = true;
        self.file.try_clone()
    }

    /// Gives it `path` as name, which nothing may have.
    fn name(mut self, path: &Path) -> io::Result<()> {
        rustix::fs::renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE)?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.named {
            // It is of no use to anybody; if it stays, it is only in the way.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

const _: () = assert!(HEAD_BYTES + ENTRY_HEAD_BYTES + ENTRY_BYTES_MAX < JOURNAL_BYTES_MAX as usize);

#[cfg(test)]
impl Journal {
    /// Writes go to `file` from now on: a test's failing disk.
    pub(super) fn redirect(&mut self, file: File) {
        self.file = file;
    }
}
