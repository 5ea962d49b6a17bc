//! The bytes of a journal. All numbers are little endian.
//!
//! | Head | 32 bytes |
//! |---|---|
//! | magic | `WFJOURNL` |
//! | version | u32 |
//! | salt | 8 random bytes, others after each compaction |
//! | base | u64: the number of the last entry that a compaction wrote here, 0 if none did; up to it, nothing can be torn |
//! | checksum | u32: CRC-32C of the head before it |
//!
//! | Entry | 16 bytes and the payload |
//! |---|---|
//! | length | u32: of the payload |
//! | sequence | u64: from 1, higher than the one before |
//! | checksum | u32: CRC-32C of salt, length, sequence and payload |
//! | payload | |
//!
//! The salt is in every checksum so that a payload cannot pass for entries: clients choose much of what is logged, and a
//! torn entry is searched for intact ones behind it.

use std::ops::Range;

use super::limits::ENTRY_BYTES_MAX;

const MAGIC: [u8; 8] = *b"WFJOURNL";
pub(super) const VERSION: u32 = 1;
pub(super) const HEAD_BYTES: usize = 32;
pub(super) const ENTRY_HEAD_BYTES: usize = 16;

/// How far ahead a sequence number may be for bytes to be looked at as an entry, when searching behind damage.
const SEQ_AHEAD_MAX: u64 = 1 << 32;

/// The head of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) salt: [u8; 8],
    pub(super) base: u64,
}

/// Why a head is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    NotAJournal,
    Version(u32),
    Damaged,
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..20].copy_from_slice(&self.salt);
        head[20..28].copy_from_slice(&self.base.to_le_bytes());
        let checksum = crc32c::crc32c(&head[..28]);
        head[28..].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHead> {
        let magic = MAGIC.len().min(bytes.len());
        if bytes.is_empty() || bytes[..magic] != MAGIC[..magic] {
            return Err(BadHead::NotAJournal);
        }
        let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Err(BadHead::Damaged) };
        let mut at = &head[8..];
        let version = u32::from_le_bytes(take(&mut at).ok_or(BadHead::Damaged)?);
        if version != VERSION {
            return Err(BadHead::Version(version));
        }
        let salt = take(&mut at).ok_or(BadHead::Damaged)?;
        let base = u64::from_le_bytes(take(&mut at).ok_or(BadHead::Damaged)?);
        let decoded = Self { salt, base };
        if decoded.encode() == *head { Ok(decoded) } else { Err(BadHead::Damaged) }
    }

    fn checksum(&self, len: [u8; 4], seq: [u8; 8], payload: &[u8]) -> u32 {
        let mut crc = crc32c::crc32c(&self.salt);
        for part in [&len[..], &seq, payload] {
            crc = crc32c::crc32c_append(crc, part);
        }
        crc
    }

    /// Appends an entry to `out`. The payload is at most [`ENTRY_BYTES_MAX`] long.
    pub(super) fn encode_entry(&self, seq: u64, payload: &[u8], out: &mut Vec<u8>) {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        let seq = seq.to_le_bytes();
        out.extend(len);
        out.extend(seq);
        out.extend(self.checksum(len, seq, payload).to_le_bytes());
        out.extend_from_slice(payload);
    }

    /// The entry at `at`, if it is intact and its number is above `last` and at most `seq_max`: its number and where its
    /// payload is.
    pub(super) fn entry(&self, bytes: &[u8], at: usize, last: u64, seq_max: u64) -> Option<(u64, Range<usize>)> {
        let mut rest = bytes.get(at..)?;
        let (len, seq, checksum): ([u8; 4], [u8; 8], [u8; 4]) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
        let payload_len = u32::from_le_bytes(len) as usize;
        let number = u64::from_le_bytes(seq);
        if payload_len > ENTRY_BYTES_MAX || number <= last || number > seq_max {
            return None;
        }
        let payload = rest.get(..payload_len)?;
        let begin = at + ENTRY_HEAD_BYTES;
        let intact = self.checksum(len, seq, payload) == u32::from_le_bytes(checksum);
        intact.then_some((number, begin..begin + payload_len))
    }
}

/// The length of the entry that begins with `bytes`, if it may be as long as it says.
pub(super) fn entry_len(bytes: &[u8]) -> Option<usize> {
    let payload_len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (payload_len <= ENTRY_BYTES_MAX).then_some(ENTRY_HEAD_BYTES + payload_len)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// What is in a file after its head.
pub(super) struct Scan {
    /// Numbers and payloads' places of the entries up to the first that is not intact.
    pub(super) entries: Vec<(u64, Range<usize>)>,
    /// Where the last of them ends.
    pub(super) end: usize,
    /// Where an intact entry follows behind that, if one does.
    pub(super) next: Option<usize>,
}

/// Reads the entries of a whole file.
pub(super) fn scan(head: &Head, bytes: &[u8]) -> Scan {
    let mut found = Scan { entries: Vec::new(), end: HEAD_BYTES, next: None };
    let mut last = 0;
    while let Some((seq, payload)) = head.entry(bytes, found.end, last, u64::MAX) {
        (last, found.end) = (seq, payload.end);
        found.entries.push((seq, payload));
    }
    let seq_max = last.max(head.base).saturating_add(SEQ_AHEAD_MAX);
    found.next = (found.end + 1..bytes.len()).find(|&at| head.entry(bytes, at, last, seq_max).is_some());
    found
}
