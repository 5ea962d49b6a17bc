//! A journal's file: opened by one process, appended to, synced, and replaced as a whole when it is compacted.
//!
//! Disk space is reserved behind its end, so that a disk which others fill does not stop anybody from writing down what
//! is to be decided.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::examine::examine;
use super::format::{ENTRY_HEAD_BYTES, HEAD_BYTES, Head, entry_len};
use super::limits::{ENTRY_BYTES_MAX, JOURNAL_BYTES_MAX, RESERVE_BYTES, RESERVE_LEFT_MIN};
use super::{Disk, Entry, JournalError, Space};

/// How often opening starts over because another process has just replaced or made the file.
const OPEN_ATTEMPTS_MAX: usize = 8;
/// How long a lock may be held by a process that is being started.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that compaction reads and writes at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Random bytes in the name of a file that is being made.
const PARTIAL_NAME_BYTES: usize = 8;

/// An open journal. The file is locked while this lives.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    head: Head,
    /// Where the next entry goes.
    end: u64,
    last_seq: u64,
    /// Up to where the disk's space is this file's already, whatever others write.
    reserved_until: u64,
    space: Box<dyn Space>,
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
        Self::open_on(path, Box::new(Disk))
    }

    /// As [`open`](Self::open), with its space from `space`.
    ///
    /// # Errors
    /// [`JournalError`]; nothing has changed then.
    pub fn open_on(path: &Path, space: Box<dyn Space>) -> Result<Opened, JournalError> {
        let failed = |source| JournalError::Open { path: path.to_owned(), source };
        let mut file = open_locked(path)?;
        remove_leftovers(path);
        let length = file.metadata().map_err(failed)?.len();
        if length > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { path: path.to_owned(), bytes: length });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (head, found) = examine(path, &bytes)?;
        let last = found.entries.last().map_or(0, |(seq, _)| *seq);
        let torn =
            (found.end < bytes.len()).then(|| Torn { at: found.end as u64, bytes: (bytes.len() - found.end) as u64 });
        if torn.is_some() {
            file.set_len(found.end as u64).map_err(failed)?;
        }
        // A process that was killed may have left entries in the page cache only: what is acted upon must be on disk.
        file.sync_all().map_err(failed)?;
        let last_seq = last.max(head.base);
        let entries = found.entries.into_iter().map(|(seq, payload)| (seq, bytes[payload].to_vec())).collect();
        let journal = Self {
            path: path.to_owned(),
            file,
            head,
            end: found.end as u64,
            last_seq,
            reserved_until: 0,
            space,
            failed: false,
        };
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

    /// Replaces all entries, at once, by those that `keep` wants, with their numbers, and then entry `seq`, which is higher
    /// than any before it: after a crash there are either the old ones or the new.
    ///
    /// # Errors
    /// [`JournalError::Compact`]: nothing changed. [`JournalError::Damaged`]: an old entry is not what was written, and
    /// nothing changed. Only after [`JournalError::Write`] it is unknown which of both are on disk.
    pub fn compact(&mut self, keep: &dyn Fn(u64, &[u8]) -> bool, seq: u64, payload: &[u8]) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        if seq <= self.last_seq {
            return Err(JournalError::OutOfOrder { seq, last: self.last_seq });
        }
        let undone = |source| JournalError::Compact { path: self.path.clone(), source };
        let head = Head { salt: salt().map_err(undone)?, base: seq };
        let partial = Partial::begin(&self.path).map_err(undone)?;
        let end = self.copy(&head, &partial.file, keep, (seq, payload))?;
        if end > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { path: self.path.clone(), bytes: end });
        }
        self.take_over(partial, head, end)
    }

    /// Replaces all entries, at once, by these, whose numbers are higher than any before: after a crash there are either
    /// the old ones or the new.
    ///
    /// # Errors
    /// As for [`compact`](Self::compact); [`JournalError::OutOfOrder`], [`JournalError::EntryTooLarge`] or
    /// [`JournalError::Full`]: nothing changed.
    pub fn replace(&mut self, entries: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        let undone = |source| JournalError::Compact { path: self.path.clone(), source };
        let mut head = Head { salt: salt().map_err(undone)?, base: 0 };
        let partial = Partial::begin(&self.path).map_err(undone)?;
        let mut new = BufWriter::with_capacity(BUFFER_BYTES, &partial.file);
        new.write_all(&head.encode()).map_err(undone)?;
        let (mut end, mut last_seq, mut out) = (HEAD_BYTES as u64, self.last_seq, Vec::new());
        for (seq, payload) in entries {
            out.clear();
            encode(&head, &mut last_seq, seq, &payload, &mut out)?;
            new.write_all(&out).map_err(undone)?;
            end += out.len() as u64;
        }
        new.flush().map_err(undone)?;
        drop(new);
        if end > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { path: self.path.clone(), bytes: end });
        }
        head.base = last_seq;
        partial.file.write_all_at(&head.encode(), 0).map_err(undone)?;
        self.take_over(partial, head, end)
    }

    /// Syncs a new file, gives it the old one's name and goes on in it.
    fn take_over(&mut self, partial: Partial, head: Head, end: u64) -> Result<(), JournalError> {
        let undone = |source| JournalError::Compact { path: self.path.clone(), source };
        let file = partial.file.sync_all().and_then(|()| partial.replace(&self.path)).map_err(undone)?;
        // It has the name, but a crash could still bring the old one back: then what follows would be lost.
        if let Err(source) = sync_folder(&self.path) {
            self.failed = true;
            return Err(JournalError::Write { path: self.path.clone(), source });
        }
        (self.file, self.head, self.end, self.reserved_until) = (file, head, end, 0);
        self.last_seq = head.base;
        Ok(())
    }

    /// Writes a compacted journal to `to`; returns its length.
    fn copy(
        &self,
        head: &Head,
        to: &File,
        keep: &dyn Fn(u64, &[u8]) -> bool,
        last: (u64, &[u8]),
    ) -> Result<u64, JournalError> {
        let undone = |source| JournalError::Compact { path: self.path.clone(), source };
        let mut old = BufReader::with_capacity(BUFFER_BYTES, &self.file);
        old.seek(SeekFrom::Start(HEAD_BYTES as u64)).map_err(undone)?;
        let mut new = BufWriter::with_capacity(BUFFER_BYTES, to);
        new.write_all(&head.encode()).map_err(undone)?;
        let (mut end, mut at, mut seq_old, mut seq_new) = (HEAD_BYTES as u64, HEAD_BYTES as u64, 0, 0);
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        while at < self.end {
            let damaged = || JournalError::Damaged { path: self.path.clone(), at, next: None };
            bytes.resize(ENTRY_HEAD_BYTES, 0);
            old.read_exact(&mut bytes).map_err(undone)?;
            bytes.resize(entry_len(&bytes).ok_or_else(damaged)?, 0);
            old.read_exact(&mut bytes[ENTRY_HEAD_BYTES..]).map_err(undone)?;
            let (seq, payload) = self.head.entry(&bytes, 0, seq_old, self.last_seq).ok_or_else(damaged)?;
            let payload = &bytes[payload];
            if keep(seq, payload) {
                out.clear();
                encode(head, &mut seq_new, seq, payload, &mut out)?;
                new.write_all(&out).map_err(undone)?;
                end += out.len() as u64;
            }
            seq_old = seq;
            at += bytes.len() as u64;
        }
        out.clear();
        encode(head, &mut seq_new, last.0, last.1, &mut out)?;
        new.write_all(&out).and_then(|()| new.flush()).map_err(undone)?;
        Ok(end + out.len() as u64)
    }

    /// Sees to it that [`RESERVE_LEFT_MIN`] bytes can still be appended, however full the disk gets. False if the disk has
    /// no space to give: what was reserved before is still there.
    pub fn reserve(&mut self) -> bool {
        if self.reserved_until >= self.end + RESERVE_LEFT_MIN {
            return true;
        }
        match self.space.reserve(&self.path, &self.file, self.end) {
            Ok(reserved) => {
                self.reserved_until = if reserved { self.end + RESERVE_BYTES } else { 0 };
                true
            }
            Err(error) => {
                tracing::debug!(%error, "no space can be reserved for the journal");
                false
            }
        }
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
        // It holds keys, and what clients asked.
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(JournalError::Exposed { path: path.to_owned(), mode });
        }
        if !lock(&file).map_err(failed)? {
            return Err(JournalError::Locked { path: path.to_owned() });
        }
        // Who held the lock may have replaced the file just now: then this one has no name any more.
        let (mine, named) = (file.metadata().map_err(failed)?, std::fs::metadata(path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (mine.dev(), mine.ino())) {
            return Ok(file);
        }
    }
    Err(JournalError::Locked { path: path.to_owned() })
}

/// Locks the file, unless somebody else keeps it locked. A process that this one, having had it open before, is just starting
/// has it too, until it has become another program: that is over in a moment.
fn lock(file: &File) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_PATIENCE / 20),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn make_empty(path: &Path) -> io::Result<()> {
    let head = Head { salt: salt()?, base: 0 }.encode();
    let partial = Partial::begin(path)?;
    partial.file.write_all_at(&head, 0)?;
    partial.file.sync_all()?;
    match partial.name(path) {
        // Another process was first: its file is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(path),
    }
}

/// Removes what a crash left of files that never got their name. They are in nobody's way, so errors do not matter.
fn remove_leftovers(path: &Path) {
    let (Some(folder), Some(name)) = (folder(path), path.file_name()) else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    for found in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let found_name = found.file_name();
        let random = found_name.to_str().and_then(|name| name.strip_prefix(&prefix)).unwrap_or_default();
        let is_partial = random.len() == 2 * PARTIAL_NAME_BYTES && random.bytes().all(|byte| byte.is_ascii_hexdigit());
        // One that is locked is being made just now.
        if is_partial
            && let Ok(file) = File::open(found.path())
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = std::fs::remove_file(found.path());
        }
    }
}

fn salt() -> io::Result<[u8; 8]> {
    let mut salt = [0; 8];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    Ok(salt)
}

/// A bare file name has the empty path as its folder.
fn folder(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path).unwrap_or(Path::new(".")))?.sync_all()
}

/// A file that is written and synced, and has not got its name yet. Removed if it never gets it.
struct Partial {
    path: PathBuf,
    file: File,
    named: bool,
}

impl Partial {
    fn begin(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        let random: [u8; PARTIAL_NAME_BYTES] = salt()?;
        name.push(format!(".{}", data_encoding::HEXLOWER.encode(&random)));
        let path = path.with_file_name(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let partial = Self { path, file, named: false };
        // The lock first: it must be held from the moment that the file has its name.
        rustix::fs::flock(&partial.file, FlockOperation::NonBlockingLockExclusive)?;
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
