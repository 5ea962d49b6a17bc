//! Whether a journal's bytes are whole.

use std::{fs, io::Read, path::Path};

use super::{
    Entry, JournalError, Torn,
    format::{BadHead, HEAD_BYTES, Head, Scan, VERSION, scan},
    limits::JOURNAL_BYTES_MAX,
};

/// What is in a journal's bytes.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn examine(path: &Path, bytes: &[u8]) -> Result<(Head, Scan), JournalError> {
    let damaged = |at: usize, next: Option<usize>| JournalError::Damaged {
        path: path.to_owned(),
        at: at as u64,
        next: next.map(|next| next as u64),
    };
    let head = Head::decode(bytes).map_err(|bad| match bad {
        BadHead::NotAJournal => JournalError::NotAJournal { path: path.to_owned() },
        BadHead::Version(found) => JournalError::Version { path: path.to_owned(), found, supported: VERSION },
        // The head was synced before the file got its name, so nothing but damage can be wrong with it.
        BadHead::Damaged => damaged(0, None),
    })?;
    let found = scan(&head, bytes);
    let last = found.entries.last().map_or(0, |(seq, _)| *seq);
    // What a compaction wrote was synced before the file got its name: no crash can have torn it.
    let incomplete = last < head.base && bytes.len() > HEAD_BYTES;
    if found.next.is_some() || incomplete {
        return Err(damaged(found.end, found.next));
    }
    Ok((head, found))
}

/// Looks at a journal without touching it, even while a node writes it: how many entries there are, and what is unfinished at
/// the end.
///
/// # Errors
/// As of [`Journal::open`](super::Journal::open); [`JournalError::Open`] if there is none.
pub fn check(path: &Path) -> Result<(usize, Option<Torn>), JournalError> {
    let bytes = bytes(path)?;
    let (entries, torn) = parse(path, &bytes)?;
    Ok((entries.len(), torn))
}

/// The entries of a journal, oldest first, without what is unfinished. It is not touched, so it may be in use.
///
/// # Errors
/// As of [`check`].
pub fn read(path: &Path) -> Result<Vec<Entry>, JournalError> {
    let bytes = bytes(path)?;
    let (entries, _) = parse(path, &bytes)?;
    Ok(entries.into_iter().map(|(seq, payload)| (seq, payload.to_vec())).collect())
}

/// An entry's number, and what was written.
type Payload<'a> = (u64, &'a [u8]);

/// A journal's entries, oldest first, and what is unfinished at the end: of the `bytes` of a whole file. `path` is what errors
/// name.
///
/// # Errors
/// As of [`Journal::open`](super::Journal::open), but for those of the file system.
pub fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Vec<Payload<'a>>, Option<Torn>), JournalError> {
    let (_, found) = examine(path, bytes)?;
    let rest = (bytes.len() - found.end) as u64;
    let entries = found.entries.into_iter().filter_map(|(seq, payload)| Some((seq, bytes.get(payload)?))).collect();
    Ok((entries, (rest > 0).then_some(Torn { at: found.end as u64, bytes: rest })))
}

fn bytes(path: &Path) -> Result<Vec<u8>, JournalError> {
    let failed = |source| JournalError::Open { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let read = file.take(JOURNAL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)? as u64;
    if read > JOURNAL_BYTES_MAX {
        return Err(JournalError::Full { path: path.to_owned(), bytes: read });
    }
    Ok(bytes)
}
