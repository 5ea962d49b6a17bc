//! The store on disk: a journal of changes, one sync for each commit.
//!
//! A commit is one entry, or several if it is large: the first and the last of them say so, and without its last a commit
//! has not happened. Everything that is stored is in memory too; when the journal has grown to twice as much, it is
//! written anew from there. What [`LogStore::create`] and such a rewriting have written is either whole or
//! refused: only a commit after them can be torn by a crash, and then it was never acknowledged.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use wayfare_journal::{Journal, JournalError, Opened, limits::ENTRY_BYTES_MAX};
use wayfare_protocol::{
    registry::{StoreImage, StoreOp, Table},
    wire::{self, Wire},
};

use super::{RedbStore, Row, Store, StoreError};

/// How much goes into one entry, and how large a journal may be.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Bytes of changes in one entry, unless a single change is larger.
    piece: usize,
    /// Bytes of a journal that are never worth a rewriting.
    rewrite_min: u64,
}

const SIZES: Sizes = Sizes { piece: 1024 * 1024, rewrite_min: 8 * 1024 * 1024 };
/// What a change takes beside its key and its value, about.
const CHANGE_OVERHEAD_BYTES: usize = 48;

/// Keeps records in a journal.
#[derive(Debug)]
pub struct LogStore {
    journal: Journal,
    image: StoreImage,
    sizes: Sizes,
    /// The journal is looked at when it is larger.
    rewrite_at: u64,
    /// Whether the disk had no space to reserve when last asked.
    full: bool,
}

/// The content of an entry: all of a commit's changes, or some.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    first: bool,
    last: bool,
    changes: Vec<Change>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    table: String,
    #[serde(with = "wire::bytes")]
    key: Vec<u8>,
    /// `None` deletes.
    value: Option<Value>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Value(#[serde(with = "wire::bytes")] Vec<u8>);

impl Wire for Piece {
    const LIMIT: usize = ENTRY_BYTES_MAX;
}

impl From<&StoreOp> for Change {
    fn from(op: &StoreOp) -> Self {
        Self { table: op.table.name().to_owned(), key: op.key.clone(), value: op.value.clone().map(Value) }
    }
}

impl Change {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.0.len()) + CHANGE_OVERHEAD_BYTES
    }

    /// `None` for a table that this program does not know.
    fn into_op(self) -> Option<StoreOp> {
        let table = Table::ALL.into_iter().find(|table| table.name() == self.table)?;
        Some(StoreOp { table, key: self.key, value: self.value.map(|value| value.0) })
    }
}

/// A commit's entries, in order.
fn entries(piece_bytes: usize, changes: impl Iterator<Item = Change>) -> Vec<Vec<u8>> {
    let mut pieces = vec![Piece { first: true, last: false, changes: Vec::new() }];
    let mut bytes = 0;
    for change in changes {
        if bytes > 0 && bytes + change.bytes() > piece_bytes {
            pieces.push(Piece { first: false, last: false, changes: Vec::new() });
            bytes = 0;
        }
        bytes += change.bytes();
        if let Some(piece) = pieces.last_mut() {
            piece.changes.push(change);
        }
    }
    if let Some(piece) = pieces.last_mut() {
        piece.last = true;
    }
    pieces.iter().map(wire::encode).collect()
}

/// What the entries of a journal add up to.
fn replay(entries: Vec<(u64, Vec<u8>)>) -> Result<StoreImage, String> {
    let mut image = StoreImage::new();
    // Of the commit whose last entry has not come yet. One that a crash cut short never comes to it.
    let mut begun: Option<Vec<StoreOp>> = None;
    for (seq, bytes) in entries {
        let piece: Piece = wire::decode(&bytes).map_err(|error| format!("entry {seq}: {error}"))?;
        if piece.first {
            begun = Some(Vec::new());
        }
        let changes = begun.as_mut().ok_or_else(|| format!("entry {seq} has no beginning"))?;
        for change in piece.changes {
            let table = change.table.clone();
            changes.push(change.into_op().ok_or_else(|| format!("entry {seq} is about an unknown table, {table}"))?);
        }
        if piece.last {
            begun.take().unwrap_or_default().iter().for_each(|op| op.apply(&mut image));
        }
    }
    Ok(image)
}

fn failed(error: JournalError) -> StoreError {
    StoreError::Failed(error.into())
}

fn unusable(path: &Path, error: impl Into<super::Cause>) -> StoreError {
    StoreError::Open { path: path.to_owned(), source: error.into() }
}

/// The redb file in which earlier versions of this program kept the records that are at `path` now, if it is there.
fn earlier(path: &Path) -> Option<PathBuf> {
    let old = path.with_extension("redb");
    (path.extension()? == "journal" && old.exists()).then_some(old)
}

impl LogStore {
    /// Whether there are records at `path`, of this version of the program or of an earlier one.
    pub fn exists(path: &Path) -> bool {
        path.exists() || earlier(path).is_some()
    }

    /// Opens the records at `path`, or makes an empty store there. What an earlier version of this program left beside it
    /// is converted; the old file then ends in `.converted`.
    ///
    /// # Errors
    /// [`StoreError::InUse`] or [`StoreError::Open`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        match earlier(path) {
            Some(old) if path.exists() => {
                warn!(file = %old.display(), "not used: the records are in {}", path.display());
            }
            Some(old) => convert(&old, path)?,
            None => {}
        }
        let Opened { journal, entries, torn } = Journal::open(path).map_err(|error| match error {
            JournalError::Locked { path } => StoreError::InUse { path },
            error => unusable(path, error),
        })?;
        if let Some(torn) = torn {
            warn!(at = torn.at, bytes = torn.bytes, "the records' end was cut by a crash: nothing promised was lost");
        }
        let image = replay(entries).map_err(|reason| unusable(path, reason))?;
        let mut store = Self { journal, image, sizes: SIZES, rewrite_at: SIZES.rewrite_min, full: false };
        store.reserve();
        Ok(store)
    }

    /// What is stored at `path`, which is not touched: a Registry may be running on it.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub fn peek(path: &Path) -> Result<Vec<Row>, StoreError> {
        let entries = wayfare_journal::read(path).map_err(|error| unusable(path, error))?;
        let image = replay(entries).map_err(|reason| unusable(path, reason))?;
        Ok(image.into_iter().map(|((table, key), value)| (table, key, value)).collect())
    }

    /// Makes a store of these rows at `path`, where nothing is.
    ///
    /// # Errors
    /// [`StoreError`]; what is at `path` then is of no use.
    pub fn create(path: &Path, rows: impl IntoIterator<Item = Row>) -> Result<Self, StoreError> {
        let Opened { journal, .. } = Journal::open(path).map_err(|error| unusable(path, error))?;
        let image = rows.into_iter().map(|(table, key, value)| ((table, key), value)).collect();
        let mut store = Self { journal, image, sizes: SIZES, rewrite_at: SIZES.rewrite_min, full: false };
        store.rewrite().map_err(failed)?;
        Ok(store)
    }

    /// Writes the journal anew: one commit of all there is.
    fn rewrite(&mut self) -> Result<(), JournalError> {
        let rows = self.image.iter().map(|((table, key), value)| Change {
            table: table.name().to_owned(),
            key: key.clone(),
            value: Some(Value(value.clone())),
        });
        let last = self.journal.last_seq();
        self.journal.replace((last + 1..).zip(entries(self.sizes.piece, rows)))
    }

    /// Rewrites the journal if that makes it much smaller.
    fn tidy(&mut self) -> Result<(), StoreError> {
        if self.journal.bytes() <= self.rewrite_at {
            return Ok(());
        }
        let bytes = |(key, value): (&(Table, Vec<u8>), &Vec<u8>)| key.1.len() + value.len() + CHANGE_OVERHEAD_BYTES;
        let live = self.image.iter().map(bytes).sum::<usize>() as u64;
        if self.journal.bytes() >= 2 * live {
            match self.rewrite() {
                Ok(()) => {}
                // Nothing changed: the old one goes on.
                Err(error @ (JournalError::Compact { .. } | JournalError::Full { .. })) => {
                    warn!(%error, "the records' journal goes on growing");
                    self.rewrite_at = self.journal.bytes() + self.sizes.rewrite_min;
                    return Ok(());
                }
                Err(error) => return Err(failed(error)),
            }
        }
        self.rewrite_at = (2 * live).max(self.sizes.rewrite_min);
        Ok(())
    }

    /// Keeps space behind the journal's end, and says once when there is none.
    fn reserve(&mut self) {
        let full = !self.journal.reserve();
        if full && !self.full {
            tracing::error!("the disk is full: free it, for the registry stops when it can write nothing more");
        }
        self.full = full;
    }
}

impl Store for LogStore {
    fn load(&mut self) -> Result<Vec<Row>, StoreError> {
        Ok(self.image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, changes: &[StoreOp]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let entries = entries(self.sizes.piece, changes.iter().map(Change::from));
        let first = self.journal.last_seq() + 1;
        self.journal.append((first..).zip(entries.iter().map(Vec::as_slice))).map_err(failed)?;
        changes.iter().for_each(|change| change.apply(&mut self.image));
        self.reserve();
        self.tidy()
    }
}

/// Makes the journal at `path` of the redb file `old`. A crash leaves the one or the other.
fn convert(old: &Path, path: &Path) -> Result<(), StoreError> {
    // Held until the end: whoever runs on it is not disturbed, and nobody else converts it.
    let mut held = RedbStore::open(old)?;
    let partial = path.with_extension("converting");
    let cannot = |error: io::Error| unusable(path, error);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        Ok(()) | Err(_) => {}
    }
    let rows = held.load()?;
    let count = rows.len();
    drop(LogStore::create(&partial, rows)?);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let sync = || fs::File::open(folder).and_then(|folder| folder.sync_all());
    fs::rename(&partial, path).and_then(|()| sync()).map_err(cannot)?;
    fs::rename(old, path.with_extension("redb.converted")).map_err(cannot)?;
    info!(records = count, "converted the records of an earlier version: they are in {} now", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn put(n: u8, bytes: usize) -> StoreOp {
        StoreOp { table: Table::Hosts, key: vec![n], value: Some(vec![n; bytes]) }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.journal");
        (dir, path)
    }

    fn keys(path: &Path) -> Vec<u8> {
        LogStore::open(path).unwrap().load().unwrap().into_iter().map(|(_, key, _)| key[0]).collect()
    }

    #[test]
    fn cut_at_any_byte_it_has_exactly_the_commits_that_were_whole() {
        let (_dir, path) = place();
        let mut store = LogStore::create(&path, [(Table::Hosts, vec![0], vec![0; 10])]).unwrap();
        store.sizes.piece = 1000;
        let mut ends = vec![store.journal.bytes()];
        // The second takes several entries.
        for changes in [vec![put(1, 40), put(2, 3)], vec![put(3, 600); 3], vec![put(4, 7)]] {
            store.commit(&changes).unwrap();
            ends.push(store.journal.bytes());
        }
        drop(store);
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, ends[3]);
        for length in ends[0]..=ends[3] {
            fs::write(&path, &whole[..length as usize]).unwrap();
            let kept = ends.iter().filter(|end| **end <= length).count();
            let expected: &[u8] = match kept {
                1 => &[0],
                2 => &[0, 1, 2],
                3 => &[0, 1, 2, 3],
                _ => &[0, 1, 2, 3, 4],
            };
            assert_eq!(keys(&path), expected, "{length}");
            // It goes on from there, whatever was left of the commit that was cut.
            LogStore::open(&path).unwrap().commit(&[put(9, 1)]).unwrap();
            assert_eq!(keys(&path), [expected, &[9]].concat(), "{length}");
        }
        // What was made as a whole is never taken for less.
        for length in [ends[0] - 1, ends[0] / 2, 33] {
            fs::write(&path, &whole[..length as usize]).unwrap();
            assert!(matches!(LogStore::open(&path), Err(StoreError::Open { .. })), "{length}");
        }
    }

    #[test]
    fn a_damaged_file_or_one_of_another_kind_is_refused_with_what_to_do() {
        let (_dir, path) = place();
        let mut store = LogStore::open(&path).unwrap();
        assert!(matches!(LogStore::open(&path), Err(StoreError::InUse { .. })));
        for n in 0..3 {
            store.commit(&[put(n, 100)]).unwrap();
        }
        drop(store);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"?", 100).unwrap();
        let damaged = LogStore::open(&path).unwrap_err();
        assert!(matches!(damaged, StoreError::Open { .. }) && damaged.to_string().contains("backup"), "{damaged}");
        fs::write(&path, vec![0x5a; 8192]).unwrap();
        assert!(matches!(LogStore::open(&path), Err(StoreError::Open { .. })));
        // A journal of something else.
        fs::remove_file(&path).unwrap();
        Journal::open(&path).unwrap().journal.append([(1, b"a host's".as_slice())]).unwrap();
        assert!(matches!(LogStore::open(&path), Err(StoreError::Open { .. })));
    }

    #[test]
    fn it_grows_no_larger_than_twice_what_it_holds() {
        let (_dir, path) = place();
        let mut store = LogStore::open(&path).unwrap();
        (store.sizes.rewrite_min, store.rewrite_at) = (20_000, 20_000);
        let mut largest = 0;
        for n in 0..60 {
            store.commit(&[put(n % 4, 2000)]).unwrap();
            largest = largest.max(store.journal.bytes());
        }
        assert!((15_000..=20_000).contains(&largest), "{largest}");
        drop(store);
        assert_eq!(keys(&path), [0, 1, 2, 3]);
        // More than the least is live: then twice as much.
        let mut store = LogStore::open(&path).unwrap();
        (store.sizes.rewrite_min, store.rewrite_at) = (1000, 1000);
        for n in 0..60 {
            store.commit(&[put(n % 4, 2000)]).unwrap();
            assert!(store.journal.bytes() < 2 * 4 * 2200 + 2200, "{}", store.journal.bytes());
        }
    }

    #[test]
    fn what_cannot_be_written_is_a_failed_commit() {
        let (_dir, path) = place();
        let mut store = LogStore::open(&path).unwrap();
        store.commit(&[put(1, 1)]).unwrap();
        // No entry holds it.
        assert!(matches!(store.commit(&[put(2, ENTRY_BYTES_MAX)]), Err(StoreError::Failed(_))));
        drop(store);
        assert_eq!(keys(&path), [1]);
    }

    #[test]
    fn the_records_of_an_earlier_version_are_converted_once() {
        let (dir, path) = place();
        let old = dir.path().join("registry.redb");
        let mut redb = RedbStore::open(&old).unwrap();
        redb.commit(&[put(1, 10), put(2, 20)]).unwrap();
        assert!(matches!(LogStore::open(&path), Err(StoreError::InUse { .. })));
        drop(redb);
        // What a crash in the middle has left is in nobody's way.
        fs::write(path.with_extension("converting"), b"half").unwrap();
        assert_eq!(keys(&path), [1, 2]);
        assert!(!old.exists() && dir.path().join("registry.redb.converted").exists());
        LogStore::open(&path).unwrap().commit(&[put(3, 1)]).unwrap();
        // Should an old file come back, the journal counts.
        fs::rename(dir.path().join("registry.redb.converted"), &old).unwrap();
        assert_eq!(keys(&path), [1, 2, 3]);
        assert!(LogStore::exists(&path));
    }
}
