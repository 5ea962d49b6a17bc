//! Checking a log, by whoever has the Registry's public key: its files, together with what the records know if they are at
//! hand. Nothing is written or locked, so the log of a Registry that runs can be checked, too.

use std::{
    io,
    path::{Path, PathBuf},
};

use wayfare_protocol::{
    registry::audit::{Block, Flaw, Head, Walk},
    suite::{Dalek, PublicKey},
    time::Timestamp,
    trust::certificate::registry_id,
};

use super::{
    Known,
    limits::FLAWS_MAX,
    segment::{self, FileHead, HEAD_BYTES},
};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The chain itself.
    #[error("{}: {flaw}", path.display())]
    Chain {
        /// The file.
        path: PathBuf,
        /// What.
        flaw: Flaw,
    },
    /// Bytes that are no block.
    #[error("{}: what follows entry {after}, from byte {at} on, is no block of a log: damaged, cut off or added", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The byte.
        at: usize,
        /// The last entry before it.
        after: u64,
    },
    /// No head, or that of another log.
    #[error("{}: is no file of this registry's log, or its head is damaged", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The last entry before it.
        after: u64,
    },
    /// One file does not begin where the one before ends.
    #[error("{}: entries {from} to {to} are missing before it: files or the end of one are gone", path.display())]
    Gap {
        /// The later file.
        path: PathBuf,
        /// The first one missing.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// One file begins before the one before ends.
    #[error("{}: begins at entry {from} again, or follows another entry {from} than the log has: it is of another log", path.display())]
    Fork {
        /// The later file.
        path: PathBuf,
        /// Its first entry.
        from: u64,
    },
    /// The records name a later entry.
    #[error(
        "the log ends with entry {last}, and the registry's records name entry {known}: its end was cut off, or its files \
        are an old copy"
    )]
    Cut {
        /// The last entry that there is.
        last: u64,
        /// What the records say.
        known: u64,
    },
    /// The records name an earlier entry.
    #[error(
        "the log goes on to entry {last}, and the registry's records name entry {known}: the records are older than the log"
    )]
    RecordsOld {
        /// The last entry that there is.
        last: u64,
        /// What the records say.
        known: u64,
    },
    /// The records name another entry of the same number.
    #[error("entry {at} is not the one that the registry's records name: this is another log")]
    Other {
        /// Its number.
        at: u64,
    },
    /// A line of an export.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The entry that must come there.
        entry: u64,
        /// What is wrong with it.
        reason: String,
    },
}

impl Fault {
    /// The first entry that cannot be relied on.
    pub(crate) const fn first(&self) -> u64 {
        match self {
            Self::Chain { flaw, .. } => flaw.first(),
            Self::Broken { after, .. } | Self::Foreign { after, .. } => after.saturating_add(1),
            Self::Gap { from, .. } | Self::Fork { from, .. } => *from,
            Self::Cut { last, .. } => last.saturating_add(1),
            Self::RecordsOld { known, .. } => known.saturating_add(1),
            Self::Other { at } => *at,
            Self::Line { entry, .. } => *entry,
        }
    }
}

/// What a look at a log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Entries that are whole and signed.
    pub(crate) entries: u64,
    /// Of those, the ones that only their hashes are left of.
    pub(crate) omitted: u64,
    /// What the first of them follows: [`Head::NONE`] if the log is here from its beginning.
    pub(crate) after: Head,
    /// The last one.
    pub(crate) last: Head,
    /// When the first was decided, and when the last was signed.
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
    /// From here on to the last one, nothing is wrong.
    pub(crate) unbroken_after: Head,
    /// In the order of the log; the first [`FLAWS_MAX`].
    pub(crate) flaws: Vec<Fault>,
}

impl Report {
    pub(crate) fn begin(after: Head) -> Self {
        let flaws = Vec::new();
        Self { entries: 0, omitted: 0, after, last: after, from: None, to: None, unbroken_after: after, flaws }
    }
}

/// A walk over files, and what it finds.
struct Look<'a> {
    key: PublicKey,
    walk: Option<Walk>,
    report: Report,
    each: &'a mut dyn FnMut(&Block) -> io::Result<()>,
}

impl Look<'_> {
    fn new_walk(&self, after: Head) -> Walk {
        Walk::new(registry_id(&self.key), self.key, after)
    }

    fn last(&self) -> Head {
        self.walk.as_ref().map_or(Head::NONE, Walk::head)
    }

    fn found(&mut self, fault: Fault) {
        if self.report.flaws.len() < FLAWS_MAX {
            self.report.flaws.push(fault);
        }
        self.report.unbroken_after = self.last();
    }

    /// The walk that goes on with what follows `after`.
    fn at(&mut self, path: &Path, after: Head) {
        let last = match &self.walk {
            None => {
                self.report = Report { after, last: after, unbroken_after: after, ..self.report.clone() };
                after
            }
            Some(walk) => walk.head(),
        };
        if after != last {
            let path = path.to_owned();
            let fault = if after.sequence > last.sequence {
                Fault::Gap { path, from: last.sequence.saturating_add(1), to: after.sequence }
            } else {
                Fault::Fork { path, from: after.sequence.saturating_add(1) }
            };
            self.found(fault);
            self.report.unbroken_after = after;
        }
        if after != last || self.walk.is_none() {
            self.walk = Some(self.new_walk(after));
        }
    }

    fn block(&mut self, block: &Block) -> io::Result<Result<(), Flaw>> {
        let Some(walk) = &mut self.walk else { return Ok(Ok(())) };
        if let Err(flaw) = walk.block::<Dalek>(block) {
            return Ok(Err(flaw));
        }
        self.report.entries += block.entries.len() as u64;
        self.report.last = walk.head();
        self.report.from = self.report.from.or_else(|| block.entries.first().map(|entry| entry.at));
        self.report.to = walk.signed().map(|checkpoint| checkpoint.at);
        (self.each)(block)?;
        Ok(Ok(()))
    }

    /// One file. `more` says whether the records have what comes next, so that it may just be on its way into the file.
    fn file(&mut self, path: &Path, more: &dyn Fn(Head) -> bool) -> io::Result<()> {
        self.bytes(path, &segment::read(path)?, more)
    }

    fn bytes(&mut self, path: &Path, bytes: &[u8], more: &dyn Fn(Head) -> bool) -> io::Result<()> {
        let after = self.last();
        if bytes.len() < HEAD_BYTES && more(after) {
            return Ok(());
        }
        let registry = registry_id(&self.key);
        let head = FileHead::decode(bytes).filter(|head| (head.registry, head.key) == (registry, self.key));
        let Some(head) = head else {
            self.found(Fault::Foreign { path: path.to_owned(), after: after.sequence });
            return Ok(());
        };
        self.at(path, head.after);
        let mut end = HEAD_BYTES;
        for (block, upto) in segment::blocks(bytes) {
            if let Err(flaw) = self.block(&block)? {
                self.found(Fault::Chain { path: path.to_owned(), flaw });
                return Ok(());
            }
            end = upto;
        }
        let last = self.last();
        if end < bytes.len() && !more(last) {
            self.found(Fault::Broken { path: path.to_owned(), at: end, after: last.sequence });
        }
        Ok(())
    }
}

/// What the records know of the log: before its files are read, and how to find out again afterwards.
pub(crate) type KnownTwice<'a> = (&'a Known, &'a dyn Fn() -> io::Result<Known>);

/// Checks these files, one after the other, and compares them with what the records know; `each` gets the blocks that are as
/// they must be.
pub(crate) fn check_files(
    files: &[PathBuf],
    key: PublicKey,
    known: Option<KnownTwice<'_>>,
    each: &mut dyn FnMut(&Block) -> io::Result<()>,
) -> io::Result<Report> {
    let mut look = Look { key, walk: None, report: Report::begin(Head::NONE), each };
    // All but the last are complete.
    let (last, complete) = match files.split_last() {
        Some((last, complete)) => (Some(last), complete),
        None => (None, files),
    };
    for path in complete {
        look.file(path, &|_| false)?;
    }
    let Some((before, again)) = known else {
        last.map_or(Ok(()), |path| look.file(path, &|_| false))?;
        return Ok(look.report);
    };
    // A block is in the records before it is in a file, so what is just being written can be found there afterwards.
    let bytes = last.map(|path| segment::read(path)).transpose()?;
    let after = again()?;
    let mut pending: Vec<Block> = before.blocks().chain(after.blocks()).collect();
    pending.sort_by_key(|block| block.after);
    if let (Some(path), Some(bytes)) = (last, bytes) {
        look.bytes(path, &bytes, &|last| pending.iter().any(|block| block.after == last))?;
    }
    if look.walk.is_none() {
        let first = pending.first().map(|block| block.after).or_else(|| before.state.map(|state| state.head));
        look.at(Path::new(""), first.unwrap_or(Head::NONE));
    }
    for block in &pending {
        // What is wrong in the records shows as a cut end.
        if block.after == look.last() {
            let _ = look.block(block)?;
        }
    }
    let head = |known: &Known| known.state.map_or(Head::NONE, |state| state.head);
    let (last, before, after) = (look.last(), head(before), head(&after));
    if last.sequence < before.sequence {
        look.found(Fault::Cut { last: last.sequence, known: before.sequence });
    } else if last.sequence > after.sequence {
        look.found(Fault::RecordsOld { last: last.sequence, known: after.sequence });
    } else if [before, after].iter().any(|known| known.sequence == last.sequence && *known != last) {
        look.found(Fault::Other { at: last.sequence });
    }
    Ok(look.report)
}

/// Checks all files in `dir`: see [`check_files`].
#[cfg(test)]
pub(crate) fn check_dir(dir: &Path, key: PublicKey, known: Option<&Known>) -> io::Result<Report> {
    let again = || Ok(known.cloned().unwrap_or_default());
    let twice: Option<KnownTwice<'_>> = match known {
        Some(known) => Some((known, &again)),
        None => None,
    };
    check_files(&segment::list(dir)?, key, twice, &mut |_| Ok(()))
}
