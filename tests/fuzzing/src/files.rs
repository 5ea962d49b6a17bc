//! Files that a crash, a disk or a person may have left in any state.

use std::path::Path;

use wayfare_journal::{JournalError, Torn, parse};
use wayfare_protocol::suite::digest;

use crate::{decoders::measured, input::Input};

const HEAD_BYTES: usize = 32;

/// A journal's head, as `node/journal/src/format.rs` describes it.
fn head(salt: [u8; 8], base: u64) -> Vec<u8> {
    let mut head = [&b"WFJOURNL"[..], &1u32.to_le_bytes(), &salt, &base.to_le_bytes()].concat();
    head.extend(crc32c::crc32c(&head).to_le_bytes());
    head
}

fn entry(salt: [u8; 8], seq: u64, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let parts = [&length[..], &seq.to_le_bytes(), payload];
    let sum = parts.iter().fold(crc32c::crc32c(&salt), |sum, part| crc32c::crc32c_append(sum, part));
    [parts[0], parts[1], &sum.to_le_bytes(), parts[2]].concat()
}

/// An entry's number, its payload, and where it ends in the file.
pub type Written = (u64, Vec<u8>, usize);

/// A journal with the entries that `input` asks for. Who chooses payloads does not know the salt.
pub fn journal(input: &mut Input<'_>) -> (Vec<u8>, Vec<Written>) {
    let salt = *digest("salt", &[input.clone().rest()]).0.first_chunk().unwrap();
    let base = u64::from(input.byte() % 4);
    let (mut bytes, mut entries, mut seq) = (head(salt, base), Vec::new(), 0);
    for _ in 0..input.byte() % 16 {
        seq += 1 + u64::from(input.byte() % 3);
        let payload = input.some(96);
        bytes.extend(entry(salt, seq, payload));
        entries.push((seq, payload.to_vec(), bytes.len()));
    }
    (bytes, entries)
}

/// Any bytes at all as a journal; then a journal that was cut off, written over or gone on in.
pub fn journal_file(bytes: &[u8]) {
    any(bytes);
    let mut input = Input::new(bytes);
    let (whole, entries) = journal(&mut input);
    let base = u64::from_le_bytes(*whole[20..].first_chunk().unwrap());
    let mut file = whole.clone();
    let keep = (usize::from(input.byte()) << 8 | usize::from(input.byte())).checked_rem(file.len() + 1).unwrap_or(0);
    match input.byte() % 3 {
        0 => {
            file.truncate(keep);
            cut(&file, &entries, base);
        }
        1 if keep < file.len() => file[keep] ^= input.byte().max(1),
        _ => file.extend_from_slice(input.some(255)),
    }
    any(&file);
    any(&whole);
}

/// Whatever is read is there: the same bytes follow from it.
fn any(bytes: &[u8]) {
    match measured(bytes, |bytes| parse(Path::new("journal"), bytes)) {
        Ok((entries, torn)) => {
            let salt = *bytes[12..].first_chunk().unwrap();
            let mut again = bytes[..HEAD_BYTES].to_vec();
            entries.iter().for_each(|(seq, payload)| again.extend(entry(salt, *seq, payload)));
            assert!(bytes.starts_with(&again));
            let rest = (bytes.len() - again.len()) as u64;
            assert_eq!(torn, (rest > 0).then_some(Torn { at: again.len() as u64, bytes: rest }));
            assert!(entries.is_sorted_by(|one, next| one.0 < next.0));
        }
        Err(JournalError::NotAJournal { .. } | JournalError::Version { .. }) => {
            assert!(bytes.len() < 12 || bytes[..12] != *b"WFJOURNL\x01\0\0\0");
        }
        Err(JournalError::Damaged { at, next, .. }) => {
            assert!(at as usize <= bytes.len() && next.is_none_or(|next| next > at && (next as usize) < bytes.len()));
        }
        Err(other) => panic!("{other:?} without a file"),
    }
}

/// A crash cuts a journal off: what was whole is there, unless a compaction had written more than that.
fn cut(file: &[u8], entries: &[Written], base: u64) {
    let whole: Vec<_> = entries.iter().filter(|(_, _, end)| *end <= file.len()).collect();
    let last = whole.last().map_or(0, |(seq, ..)| *seq);
    match parse(Path::new("journal"), file) {
        Ok((read, _)) => {
            assert!(file.len() == HEAD_BYTES || last >= base, "a compaction's entries are never torn");
            let expected = whole.iter().map(|(seq, payload, _)| (*seq, &payload[..]));
            assert!(read.iter().copied().eq(expected));
        }
        Err(_) => assert!(file.len() < HEAD_BYTES || last < base),
    }
}
