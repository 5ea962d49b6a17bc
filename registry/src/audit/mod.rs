//! The audit log on disk: what the Registry decided, for others to check ([`wayfare_protocol::registry::audit`]).
//!
//! What it guarantees: no decision leaves without its entry. The entries of a commit are sealed into a block, with one
//! signature, and the block is stored *with* the decisions, by the same sync. From there it is copied into the log's files,
//! which are synced now and then; only then do the records forget it. So after a crash the files lack nothing, and a log
//! whose end was cut, or whose files are older than the records, is found out: the records name the last entry.
//!
//! A damaged log stops nobody from deciding, and is not passed over either: the damaged file stays as it is, the chain goes on
//! in a new file from the entry that the records name, with an entry that says so.
//!
//! `log` (this file) writes; `segment` is the files' format, `walk` checks them, `line` is what people read.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wayfare_protocol::{
    ids::{HostId, RegistryId},
    limits::AUDIT_BLOCK_BYTES_MAX,
    registry::{
        StoreOp, Table,
        audit::{Act, Block, Cause, Chain, Head, Noted, Walk},
    },
    suite::{Dalek, PublicKey, Secret, Suite as _},
    time::Timestamp,
    trust::certificate::registry_id,
    wire::{self, Wire},
};

use crate::store::{Row, StoreError};

pub(crate) mod limits;
pub(crate) mod line;
pub(crate) mod segment;
#[cfg(test)]
mod tests;
pub(crate) mod walk;

use limits::{PENDING_BYTES, PENDING_BYTES_MAX, SEGMENT_BYTES};
use segment::{FileHead, HEAD_BYTES, Segment};

/// The directory of the log that belongs to the records at `path`.
pub fn beside(path: &Path) -> PathBuf {
    path.with_extension("audit")
}

/// Under which key the state is stored; blocks are under the number of their first entry.
const STATE_KEY: &[u8] = b"";

/// What the records know of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The last entry.
    pub(crate) head: Head,
    /// The files had everything up to this entry on disk.
    pub(crate) synced: u64,
    /// If the records were restored from a backup and no Registry has run on them yet: the last entry by the backup.
    pub(crate) restored: Option<Head>,
}

impl Wire for State {
    const LIMIT: usize = 128;
}

impl State {
    pub(crate) fn put(&self) -> StoreOp {
        StoreOp { table: Table::Audit, key: STATE_KEY.to_vec(), value: Some(wire::encode(self)) }
    }
}

/// What the records hold of the log: its state, and the blocks that its files may lack, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) state: Option<State>,
    pub(crate) pending: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Known {
    /// What of the rows of a store is about the log. A row that cannot be read counts as none: then the files tell.
    pub(crate) fn of(rows: &[Row]) -> Self {
        let mine = rows.iter().filter(|(table, ..)| *table == Table::Audit);
        let mut known = Self::default();
        for (_, key, value) in mine {
            if key == STATE_KEY {
                known.state = wire::decode(value).ok();
            } else {
                known.pending.push((key.clone(), value.clone()));
            }
        }
        known.pending.sort();
        known
    }

    /// The blocks, those that can be read.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Block> {
        self.pending.iter().filter_map(|(_, value)| wire::decode::<Block>(value).ok())
    }

    /// The changes by which restored records know the log that was kept here until now, which goes further than that of the
    /// backup; both as found in the records. Also: that they were restored.
    pub(crate) fn restored(backup: &Self, replaced: &Self) -> Vec<StoreOp> {
        let head = |known: &Self| known.state.map_or(Head::NONE, |state| state.head);
        let newer = if head(replaced).sequence >= head(backup).sequence { replaced } else { backup };
        let mut ops: Vec<StoreOp> = backup.pending.iter().map(|(key, _)| remove(key.clone())).collect();
        let synced = newer.state.map_or(0, |state| state.synced);
        ops.extend(newer.pending.iter().map(|(key, value)| StoreOp {
            table: Table::Audit,
            key: key.clone(),
            value: Some(value.clone()),
        }));
        ops.push(State { head: head(newer), synced, restored: Some(head(backup)) }.put());
        ops
    }
}

fn remove(key: Vec<u8>) -> StoreOp {
    StoreOp { table: Table::Audit, key, value: None }
}

/// A block that the files may not have on disk yet.
#[derive(Debug)]
struct Pending {
    key: Vec<u8>,
    framed: Vec<u8>,
    after: Head,
    last: u64,
}

impl Pending {
    fn of(block: &Block) -> Self {
        let bytes = wire::encode(block);
        let last = block.entries.last().map_or(block.after.sequence, |entry| entry.sequence);
        let key = block.after.sequence.saturating_add(1).to_be_bytes().to_vec();
        Self { key, framed: segment::framed(&bytes), after: block.after, last }
    }

    fn put(&self) -> StoreOp {
        let value = self.framed.get(4..).unwrap_or_default().to_vec();
        StoreOp { table: Table::Audit, key: self.key.clone(), value: Some(value) }
    }
}

/// The log of a Registry that runs. One thread has it: that of the store.
#[derive(Debug)]
pub struct AuditLog {
    dir: PathBuf,
    secret: Secret,
    registry: RegistryId,
    key: PublicKey,
    chain: Chain,
    segment: Option<Segment>,
    /// Blocks in the records: the first `written` of them are in the files, too.
    pending: VecDeque<Pending>,
    written: usize,
    /// Keys of blocks in the records that are of no use any more.
    stale: Vec<Vec<u8>>,
    /// The files have everything up to this entry on disk.
    synced: u64,
    segment_bytes: u64,
    pending_bytes: usize,
    failing: bool,
}

impl AuditLog {
    /// Opens the log in `dir` as records with these `rows` know it, made if it is not there; its first entries say how it goes
    /// on. They are to be committed before anything else: [`seal`](Self::seal).
    ///
    /// # Errors
    /// [`StoreError::Open`]: the files cannot be read or written.
    pub fn open(dir: &Path, secret: Secret, rows: &[Row]) -> Result<(Self, Vec<Act>), StoreError> {
        let unusable = |source: std::io::Error| StoreError::Open { path: dir.to_owned(), source: source.into() };
        let key = Dalek::public_key(&secret);
        let registry = registry_id(&key);
        let known = Known::of(rows);
        let files = Files::look(dir, registry, key).map_err(unusable)?;
        let plan = plan(&known, &files, key);
        for act in &plan.acts {
            if let Act::Continued { cause, records } = act {
                tell(dir, *cause, *records, files.head);
            }
        }
        let segment = match &files.last {
            Some(path) if plan.in_file => {
                if files.broken {
                    tracing::warn!(
                        file = %path.display(), at = files.end,
                        "the end of the audit log was cut by a crash, or damaged: it is completed from the records, nothing is lost"
                    );
                }
                Some(Segment::go_on(path, files.end).map_err(unusable)?)
            }
            _ => None,
        };
        let pending: VecDeque<Pending> = plan.pending.iter().map(Pending::of).collect();
        let stale = known.pending.into_iter().map(|(key, _)| key);
        let stale = stale.filter(|key| pending.iter().all(|block| block.key != *key)).collect();
        let mut log = Self {
            dir: dir.to_owned(),
            secret,
            registry,
            key,
            chain: Chain::new(registry, plan.head),
            segment,
            written: pending.iter().take_while(|block| plan.in_file && block.last <= files.head.sequence).count(),
            pending,
            stale,
            synced: files.head.sequence,
            segment_bytes: SEGMENT_BYTES,
            pending_bytes: PENDING_BYTES,
            failing: false,
        };
        log.append();
        Ok((log, plan.acts))
    }

    /// Seals what a commit decides: the changes by which the same commit stores it. Nothing if there is nothing to tell.
    pub fn seal(&mut self, now: Timestamp, noted: Vec<Noted>) -> Vec<StoreOp> {
        if noted.is_empty() {
            return Vec::new();
        }
        let mut ops = self.forget();
        for block in self.chain.seal::<Dalek>(&self.secret, now, noted) {
            let pending = Pending::of(&block);
            ops.push(pending.put());
            self.pending.push_back(pending);
        }
        ops.push(State { head: self.chain.head(), synced: self.synced, restored: None }.put());
        ops
    }

    /// What was sealed is in the records, on disk: it goes into the files.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the files could not be written for so long that the records hold too much.
    pub fn committed(&mut self) -> Result<(), StoreError> {
        self.append();
        let bytes: usize = self.pending.iter().map(|block| block.framed.len()).sum();
        if bytes <= PENDING_BYTES_MAX {
            return Ok(());
        }
        Err(StoreError::Failed(format!("the audit log in {} cannot be written", self.dir.display()).into()))
    }

    /// The last entry.
    pub const fn head(&self) -> Head {
        self.chain.head()
    }

    /// What of the records' blocks the files have on disk by now.
    fn forget(&mut self) -> Vec<StoreOp> {
        let done = self.pending.iter().take(self.written).take_while(|block| block.last <= self.synced).count();
        self.written -= done;
        let done = self.pending.drain(..done).map(|block| block.key);
        self.stale.drain(..).chain(done).map(remove).collect()
    }

    /// Copies into the files what they lack. If that fails it is tried again with the next commit: the records have it.
    fn append(&mut self) {
        match self.try_append() {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(dir = %self.dir.display(), "the audit log's files are written again");
            }
            Ok(()) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, dir = %self.dir.display(), "the audit log's files cannot be written: free the disk, \
                        or see to its rights; until then the records keep what they lack");
                }
            }
        }
    }

    fn try_append(&mut self) -> std::io::Result<()> {
        let mut unsynced: usize = self.pending.iter().take(self.written).map(|block| block.framed.len()).sum();
        while let Some(block) = self.pending.get(self.written) {
            let segment = match &mut self.segment {
                Some(segment) => segment,
                none => none.insert(Segment::begin(
                    &self.dir,
                    &FileHead { registry: self.registry, key: self.key, after: block.after },
                )?),
            };
            segment.append(&block.framed)?;
            unsynced += block.framed.len();
            self.written += 1;
            let full = segment.bytes() >= self.segment_bytes;
            if full || unsynced >= self.pending_bytes {
                let last = block.last;
                segment.sync()?;
                (self.synced, unsynced) = (last, 0);
            }
            if full {
                self.segment = None;
            }
        }
        Ok(())
    }
}

/// What the files have to say.
#[derive(Debug)]
struct Files {
    /// The last entry that is whole and signed.
    head: Head,
    /// The last file, and where its last good block ends.
    last: Option<PathBuf>,
    end: usize,
    /// Whether something is behind that.
    broken: bool,
}

impl Files {
    /// Looks at the last file: what is before it, only an auditor needs.
    fn look(dir: &Path, registry: RegistryId, key: PublicKey) -> std::io::Result<Self> {
        let mut files = segment::list(dir)?;
        while let Some(path) = files.pop() {
            let bytes = segment::read(&path)?;
            if bytes.len() < HEAD_BYTES {
                // Its head was not on disk when the process ended, so nothing else was.
                std::fs::remove_file(&path)?;
                continue;
            }
            let head = FileHead::decode(&bytes).filter(|head| (head.registry, head.key) == (registry, key));
            let Some(head) = head else {
                return Ok(Self { head: Head::NONE, last: Some(path), end: HEAD_BYTES, broken: true });
            };
            // A process that was killed may have left it in the page cache only.
            std::fs::File::open(&path)?.sync_all()?;
            let mut walk = Walk::new(registry, key, head.after);
            let mut end = HEAD_BYTES;
            for (block, upto) in segment::blocks(&bytes) {
                if walk.block::<Dalek>(&block).is_err() {
                    break;
                }
                end = upto;
            }
            return Ok(Self { head: walk.head(), last: Some(path), end, broken: end < bytes.len() });
        }
        Ok(Self { head: Head::NONE, last: None, end: 0, broken: false })
    }
}

/// How the log goes on.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// What the next entry follows.
    head: Head,
    /// Whether the last file goes on, and not a new one.
    in_file: bool,
    /// Blocks of the records that lead to `head`.
    pending: Vec<Block>,
    acts: Vec<Act>,
}

fn plan(known: &Known, files: &Files, key: PublicKey) -> Plan {
    let started = Act::Started { version: env!("CARGO_PKG_VERSION").to_owned() };
    let acts = |cause: Option<(Cause, Head)>| {
        let first = cause.map(|(cause, records)| Act::Continued { cause, records });
        first.into_iter().chain([started.clone()]).collect()
    };
    let behind_files = |cause| Plan {
        head: files.head,
        // A file with something at its end that does not belong there stays as it is.
        in_file: files.last.is_some() && !files.broken,
        pending: Vec::new(),
        acts: acts(Some(cause)),
    };
    let Some(state) = known.state else {
        if files.last.is_some() {
            return behind_files((Cause::RecordsOld, Head::NONE));
        }
        let acts = vec![Act::Begun { key: HostId(key) }, started];
        return Plan { head: Head::NONE, in_file: false, pending: Vec::new(), acts };
    };
    let restored = state.restored.map(|records| (Cause::Restored, records));
    if files.head.sequence > state.head.sequence {
        return behind_files(restored.unwrap_or((Cause::RecordsOld, state.head)));
    }
    let mut pending = leading_to(known, state.head);
    // The files have all, or the records have what they lack. What a crash left unfinished behind that is cut off.
    let whole = match files.head == state.head {
        true => !files.broken,
        false => pending.iter().any(|block| block.after == files.head),
    };
    if whole {
        return Plan { head: state.head, in_file: files.last.is_some(), pending, acts: acts(restored) };
    }
    // Restored somewhere else, a Registry has none of the files.
    if files.head == state.head {
        // Nothing is missing, but something was added.
        pending.clear();
    }
    let cause = restored.filter(|_| files.last.is_none()).unwrap_or((Cause::FilesDamaged, state.head));
    Plan { head: state.head, in_file: false, pending, acts: acts(Some(cause)) }
}

/// The last of the records' blocks that lead to `head` without a gap.
fn leading_to(known: &Known, head: Head) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for block in known.blocks() {
        if blocks.last().is_some_and(|last| end_of(last) != Some(block.after)) {
            blocks.clear();
        }
        blocks.push(block);
    }
    if blocks.last().and_then(end_of) != Some(head) {
        blocks.clear();
    }
    blocks
}

fn end_of(block: &Block) -> Option<Head> {
    block.checkpoint.unverified().ok().map(|checkpoint| checkpoint.head)
}

fn tell(dir: &Path, cause: Cause, records: Head, files: Head) {
    let (dir, records, files) = (dir.display(), records.sequence, files.sequence);
    match cause {
        Cause::Restored => tracing::info!(%dir, records, files, "the audit log goes on after the restore"),
        Cause::FilesDamaged => tracing::error!(
            %dir, records, files,
            "the audit log is damaged, or its end is missing: it goes on in a new file from the entry that the records name; \
             keep the files as they are, and see `wayfare-registry audit verify`"
        ),
        Cause::RecordsOld => tracing::error!(
            %dir, records, files,
            "the audit log goes further than the records: an old copy of the records was put in place; if it was not you, \
             somebody undid decisions. `wayfare-registry restore` is the way to put a backup in place"
        ),
    }
}

const _: () = assert!(AUDIT_BLOCK_BYTES_MAX < PENDING_BYTES_MAX && (AUDIT_BLOCK_BYTES_MAX as u64) < SEGMENT_BYTES);
