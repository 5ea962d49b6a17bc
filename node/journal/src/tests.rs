//! Crashes and damage, tried at every byte.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::format::{ENTRY_HEAD_BYTES, HEAD_BYTES};
use super::limits::{ENTRY_BYTES_MAX, JOURNAL_BYTES_MAX, RESERVE_BYTES};
use super::*;

/// A disk that others fill and empty.
#[derive(Clone, Debug, Default)]
struct Crowded(Arc<AtomicBool>);

impl Crowded {
    fn fill(&self, full: bool) {
        self.0.store(full, Ordering::SeqCst);
    }
}

impl Space for Crowded {
    fn reserve(&self, path: &Path, file: &fs::File, end: u64) -> io::Result<bool> {
        if self.0.load(Ordering::SeqCst) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Disk.reserve(path, file, end)
        }
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("journal")
    }
    fn names(&self) -> usize {
        fs::read_dir(self.0.path()).expect("a folder").count()
    }
    /// A closed journal with these entries, and where each of them begins and the last one ends.
    fn with(entries: &[Entry]) -> (Self, Vec<usize>) {
        let place = Self::new();
        let mut journal = Journal::open(&place.path()).expect("it opens").journal;
        let mut ends = vec![HEAD_BYTES];
        for (seq, payload) in entries {
            journal.append([(*seq, payload.as_slice())]).expect("appended");
            ends.push(usize::try_from(journal.bytes()).expect("small"));
        }
        (place, ends)
    }
}

/// Writes a file for its owner only, as journals are.
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its owner's");
}

fn open(path: &Path) -> Opened {
    Journal::open(path).expect("it opens")
}

fn entry(seq: u64, text: &str) -> Entry {
    (seq, text.as_bytes().to_vec())
}

fn refs(entries: &[Entry]) -> impl Iterator<Item = (u64, &[u8])> {
    entries.iter().map(|(seq, payload)| (*seq, payload.as_slice()))
}

#[test]
fn entries_come_back_after_closing() {
    let place = Place::new();
    let Opened { mut journal, entries, torn } = open(&place.path());
    assert_eq!((entries.len(), torn, journal.last_seq()), (0, None, 0));
    let written = [entry(1, "one"), entry(2, ""), entry(9, "nine")];
    journal.append(refs(&written)).expect("appended");
    drop(journal);
    let Opened { journal, entries, torn } = open(&place.path());
    assert_eq!((entries.as_slice(), torn, journal.last_seq()), (written.as_slice(), None, 9));
    assert_eq!(place.names(), 1);
    let mode = fs::metadata(place.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_second_opener_is_told() {
    let place = Place::new();
    let first = open(&place.path());
    let error = Journal::open(&place.path()).expect_err("locked");
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    let mut journal = first.journal;
    journal.compact(&|_, _| false, 1, b"all").expect("compacted");
    assert!(matches!(Journal::open(&place.path()), Err(JournalError::Locked { .. })), "also after a compaction");
    drop(journal);
    open(&place.path());
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let place = Place::new();
    for (bytes, expected) in [
        (b"".to_vec(), "is not a journal"),
        (b"some text".to_vec(), "is not a journal"),
        (vec![0; 100], "is not a journal"),
        (b"WFJO".to_vec(), "is damaged at byte 0"),
        ([b"WFJOURNL\x02\0\0\0".as_slice(), &[0; 20]].concat(), "format 2, this program reads 1"),
        ([b"WFJOURNL\x01\0\0\0".as_slice(), &[0; 20]].concat(), "is damaged at byte 0"),
    ] {
        write(&place.path(), &bytes);
        let error = Journal::open(&place.path()).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read(place.path()).expect("readable"), bytes);
    }
}

#[test]
fn a_journal_that_others_can_read_or_write_is_refused() {
    let place = Place::new();
    drop(open(&place.path()));
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).expect("set");
        assert!(
            matches!(Journal::open(&place.path()), Err(JournalError::Exposed { mode: found, .. }) if found == mode)
        );
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o600)).expect("set");
    open(&place.path());
}

#[test]
fn what_cannot_be_appended_changes_nothing() {
    let place = Place::new();
    let mut journal = open(&place.path()).journal;
    journal.append([(5, b"five".as_slice())]).expect("appended");
    let huge = vec![0; ENTRY_BYTES_MAX + 1];
    assert!(matches!(journal.append([(6, b"".as_slice()), (7, &huge)]), Err(JournalError::EntryTooLarge { .. })));
    assert!(matches!(journal.append([(5, b"".as_slice())]), Err(JournalError::OutOfOrder { seq: 5, last: 5 })));
    assert!(matches!(
        journal.append([(7, b"".as_slice()), (6, b"")]),
        Err(JournalError::OutOfOrder { seq: 6, last: 7 })
    ));
    assert!(matches!(journal.compact(&|_, _| true, 5, b""), Err(JournalError::OutOfOrder { seq: 5, last: 5 })));
    assert!(matches!(journal.compact(&|_, _| true, 6, &huge), Err(JournalError::EntryTooLarge { .. })));
    assert_eq!(place.names(), 1);
    journal.append([(6, b"six".as_slice())]).expect("appended");
    drop(journal);
    assert_eq!(open(&place.path()).entries, [entry(5, "five"), entry(6, "six")]);
    let file = OpenOptions::new().write(true).open(place.path()).expect("a file");
    file.set_len(JOURNAL_BYTES_MAX + 1).expect("sparse");
    assert!(matches!(Journal::open(&place.path()), Err(JournalError::Full { .. })));
}

#[test]
fn compaction_keeps_the_live_and_the_last_number() {
    let place = Place::new();
    let mut journal = open(&place.path()).journal;
    let all: Vec<_> = (1..=100).map(|seq| entry(seq, &"x".repeat(100))).collect();
    journal.append(refs(&all)).expect("appended");
    let live = [entry(10, &"x".repeat(100)), entry(90, &"x".repeat(100)), entry(103, "snapshot")];
    journal
        .compact(&|seq, payload| payload.len() == 100 && (seq == 10 || seq == 90), 103, b"snapshot")
        .expect("compacted");
    assert!(journal.bytes() < 400);
    assert!(matches!(journal.append([(103, b"".as_slice())]), Err(JournalError::OutOfOrder { seq: 103, last: 103 })));
    drop(journal);
    let Opened { mut journal, entries, .. } = open(&place.path());
    assert_eq!((entries.as_slice(), journal.last_seq()), (live.as_slice(), 103));
    journal.append([(104, b"next".as_slice())]).expect("appended");
    journal.compact(&|seq, _| seq == 104, 105, b"").expect("compacted");
    drop(journal);
    let opened = open(&place.path());
    assert_eq!((opened.entries, opened.journal.last_seq()), (vec![entry(104, "next"), entry(105, "")], 105));
    assert_eq!(place.names(), 1);
}

#[test]
fn what_a_compaction_wrote_is_never_taken_for_a_torn_write() {
    let (place, _) = Place::with(&[entry(1, "one"), entry(2, "two")]);
    let mut journal = open(&place.path()).journal;
    assert!(matches!(journal.compact(&|_, _| true, 2, b""), Err(JournalError::OutOfOrder { seq: 2, last: 2 })));
    journal.compact(&|seq, _| seq == 2, 3, b"all").expect("compacted");
    let compacted = usize::try_from(journal.bytes()).expect("small");
    journal.append([(4, b"four".as_slice())]).expect("appended");
    drop(journal);
    let whole = fs::read(place.path()).expect("readable");
    for length in HEAD_BYTES + 1..whole.len() {
        fs::write(place.path(), &whole[..length]).expect("written");
        match Journal::open(&place.path()) {
            Ok(opened) => {
                assert!(length >= compacted, "{length}");
                assert_eq!(opened.entries, [entry(2, "two"), entry(3, "all")]);
            }
            Err(error) => {
                assert!(length < compacted && matches!(error, JournalError::Damaged { .. }), "{length}: {error}");
            }
        }
    }
}

#[test]
fn a_crash_while_compacting_leaves_the_old_journal_or_the_new() {
    let all = [entry(1, "one"), entry(2, "two"), entry(3, "three")];
    let (place, _) = Place::with(&all);
    let (other, _) = Place::with(&all);
    open(&other.path()).journal.compact(&|seq, _| seq == 2, 4, b"snapshot").expect("compacted");
    let new = fs::read(other.path()).expect("readable");
    let leftover = place.0.path().join("journal.00112233445566ff");
    let strangers = ["journal.bak", "journal.00112233445566gg", "journal.0011"].map(|name| place.0.path().join(name));
    strangers.iter().for_each(|path| fs::write(path, b"mine").expect("written"));
    // Before the rename: however much of the new file is there, the old one counts, and the new one goes.
    for length in 0..=new.len() {
        write(&leftover, &new[..length]);
        assert_eq!(open(&place.path()).entries, all);
        assert!(!leftover.exists());
    }
    // One that another process is just making is left to it.
    write(&leftover, &new);
    let making = fs::File::open(&leftover).expect("readable");
    rustix::fs::flock(&making, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    assert_eq!(open(&place.path()).entries, all);
    assert!(leftover.exists());
    // After it: the new one.
    fs::rename(&leftover, place.path()).expect("renamed");
    drop(making);
    assert_eq!(open(&place.path()).entries, [entry(2, "two"), entry(4, "snapshot")]);
    assert!(strangers.iter().all(|path| path.exists()));
}

#[test]
fn damage_that_compaction_meets_is_not_made_good() {
    let (place, ends) = Place::with(&[entry(1, "one"), entry(2, "two"), entry(3, "three")]);
    let mut journal = open(&place.path()).journal;
    let file = OpenOptions::new().write(true).open(place.path()).expect("a file");
    file.write_all_at(b"?", (ends[1] + ENTRY_HEAD_BYTES) as u64).expect("written");
    let error = journal.compact(&|_, _| true, 4, b"all").expect_err("damaged");
    assert!(matches!(error, JournalError::Damaged { at, .. } if at == ends[1] as u64), "{error}");
    assert_eq!(place.names(), 1);
}

#[test]
fn a_payload_cannot_pass_for_entries() {
    // A client sends the bytes of another journal, and the host crashes while it writes them down.
    let (other, _) = Place::with(&[entry(1, "a"), entry(2, "b"), entry(3, "c")]);
    let hostile = fs::read(other.path()).expect("readable");
    let (place, ends) = Place::with(&[entry(1, "kept"), (2, hostile)]);
    let file = OpenOptions::new().write(true).open(place.path()).expect("a file");
    file.set_len(ends[2] as u64 - 1).expect("cut");
    let opened = open(&place.path());
    assert_eq!(opened.entries, [entry(1, "kept")]);
    assert!(opened.torn.is_some());
}

#[test]
fn zeros_behind_the_end_are_a_torn_write() {
    let (place, ends) = Place::with(&[entry(1, "one")]);
    let file = OpenOptions::new().write(true).open(place.path()).expect("a file");
    file.set_len(ends[1] as u64 + 5000).expect("extended");
    assert_eq!(open(&place.path()).torn, Some(Torn { at: ends[1] as u64, bytes: 5000 }));
    assert_eq!(open(&place.path()).torn, None, "it was cut");
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec((1u64..4, prop::collection::vec(any::<u8>(), 0..60)), 1..8).prop_map(|steps| {
        let mut seq = 0;
        let mut number = |step| {
            seq += step;
            seq
        };
        steps.into_iter().map(|(step, payload)| (number(step), payload)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn cut_at_any_byte_it_has_exactly_the_entries_that_were_whole(entries in entries()) {
        let (place, ends) = Place::with(&entries);
        let whole = fs::read(place.path()).expect("readable");
        for length in HEAD_BYTES..=whole.len() {
            fs::write(place.path(), &whole[..length]).expect("written");
            let opened = open(&place.path());
            let kept = ends.iter().rposition(|end| *end <= length).expect("the head");
            prop_assert_eq!(&opened.entries, &entries[..kept]);
            prop_assert_eq!(opened.torn.map(|torn| torn.bytes), (length > ends[kept]).then(|| (length - ends[kept]) as u64));
            // And it goes on from there.
            let mut journal = opened.journal;
            journal.append([(1000, b"more".as_slice())]).expect("appended");
            drop(journal);
            prop_assert_eq!(open(&place.path()).entries.len(), kept + 1);
        }
        for length in 0..HEAD_BYTES {
            fs::write(place.path(), &whole[..length]).expect("written");
            prop_assert!(Journal::open(&place.path()).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is(entries in entries(), bit in 0u8..8) {
        let (place, ends) = Place::with(&entries);
        let whole = fs::read(place.path()).expect("readable");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            fs::write(place.path(), &bytes).expect("written");
            let hit = ends.iter().rposition(|end| *end <= at);
            match (hit, Journal::open(&place.path())) {
                (None, opened) => prop_assert!(opened.is_err(), "a bad head"),
                // The last entry: like a torn write, which it cannot be told from.
                (Some(last), Ok(opened)) => {
                    prop_assert_eq!(last, entries.len() - 1);
                    prop_assert_eq!(&opened.entries, &entries[..last]);
                    prop_assert!(opened.torn.is_some());
                }
                (Some(hit), Err(error)) => {
                    prop_assert!(hit < entries.len() - 1);
                    let expected = (ends[hit] as u64, Some(ends[hit + 1] as u64));
                    let JournalError::Damaged { at, next, .. } = error else { panic!("{error}") };
                    prop_assert_eq!((at, next), expected);
                    prop_assert_eq!(&fs::read(place.path()).expect("readable"), &bytes, "nothing changed");
                }
            }
        }
    }
}

async fn reached(writer: &JournalWriter, seq: u64) -> Synced {
    let mut synced = writer.synced();
    synced.wait_for(|synced| synced.seq >= seq || synced.failed.is_some()).await.expect("a writer").clone()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

#[test]
fn the_writer_syncs_what_it_takes_and_gives_the_journal_back() {
    let place = Place::new();
    block_on(async {
        let writer = JournalWriter::start(open(&place.path()).journal).expect("a thread");
        for seq in 1..=500 {
            writer.append(seq, vec![1; 100]).await.expect("taken");
        }
        let synced = reached(&writer, 500).await;
        assert_eq!((synced.seq, synced.bytes, synced.failed.is_none()), (500, 32 + 500 * 116, true));
        writer.append(501, b"live".to_vec()).await.expect("taken");
        writer.compact(Box::new(|seq, _| seq == 501), 502, b"all".to_vec()).await.expect("taken");
        let synced = reached(&writer, 502).await;
        assert_eq!((synced.seq, synced.bytes, synced.compactions_failed), (502, 32 + 20 + 19, 0));
        let other = writer.clone();
        let mut journal = writer.close().await.expect("running");
        assert_eq!(other.append(503, vec![]).await, Err(WriterClosed));
        journal.append([(503, b"after".as_slice())]).expect("appended");
    });
    assert_eq!(open(&place.path()).entries, [entry(501, "live"), entry(502, "all"), entry(503, "after")]);
}

#[test]
fn larger_entries_than_the_queue_holds_take_turns() {
    let place = Place::new();
    block_on(async {
        let writer = JournalWriter::start(open(&place.path()).journal).expect("a thread");
        for seq in 1..=6 {
            writer.append(seq, vec![0; ENTRY_BYTES_MAX]).await.expect("taken");
        }
        assert_eq!(reached(&writer, 6).await.seq, 6);
    });
}

#[test]
fn nothing_is_acknowledged_after_a_failure() {
    let place = Place::new();
    block_on(async {
        let writer = JournalWriter::start(open(&place.path()).journal).expect("a thread");
        writer.append(1, b"one".to_vec()).await.expect("taken");
        assert_eq!(reached(&writer, 1).await.seq, 1);
        writer.append(1, b"again".to_vec()).await.expect("taken");
        let synced = reached(&writer, 2).await;
        assert_eq!(synced.seq, 1);
        let failed = synced.failed.expect("a failure");
        assert!(matches!(*failed, JournalError::OutOfOrder { .. }), "{failed}");
        while writer.append(2, b"two".to_vec()).await.is_ok() {}
        assert_eq!(reached(&writer, 2).await.seq, 1);
    });
    assert_eq!(open(&place.path()).entries, [entry(1, "one")]);
}

#[test]
fn a_full_disk_is_a_failed_write_and_stays_one() {
    // /dev/full accepts to be opened, and has no room: as a disk that fills up.
    let place = Place::new();
    let mut journal = open(&place.path()).journal;
    journal.append([(1, b"one".as_slice())]).expect("appended");
    journal.redirect(OpenOptions::new().read(true).write(true).open("/dev/full").expect("a device"));
    let error = journal.append([(2, b"two".as_slice())]).expect_err("full");
    assert!(
        matches!(&error, JournalError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error:?}"
    );
    assert!(matches!(journal.append([(2, b"two".as_slice())]), Err(JournalError::Failed { .. })));
    assert!(matches!(journal.compact(&|_, _| true, 2, b""), Err(JournalError::Failed { .. })));
    drop(journal);
    assert_eq!(open(&place.path()).entries, [entry(1, "one")]);
}

#[test]
fn a_torn_entry_is_overwritten_by_the_next() {
    let (place, ends) = Place::with(&[entry(1, "one"), entry(2, "two")]);
    let file = OpenOptions::new().write(true).open(place.path()).expect("a file");
    file.write_all_at(b"?", (ends[1] + ENTRY_HEAD_BYTES) as u64).expect("written");
    let mut opened = open(&place.path());
    opened.journal.append([(2, b"again".as_slice())]).expect("appended");
    drop(opened);
    assert_eq!(open(&place.path()).entries, [entry(1, "one"), entry(2, "again")]);
}

/// Blocks of 512 bytes that a file has, whatever its length.
fn blocks(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).expect("a file"))
}

#[test]
fn space_is_reserved_behind_the_end_and_is_no_part_of_the_journal() {
    let place = Place::new();
    let mut journal = open(&place.path()).journal;
    assert!(journal.reserve());
    journal.append([(1, b"one".as_slice())]).expect("appended");
    // Some file systems cannot; there, free space is all that counts.
    assert!(blocks(&place.path()) * 512 >= RESERVE_BYTES || !may_reserve(&place));
    drop(journal);
    assert_eq!(fs::metadata(place.path()).expect("a file").len(), 32 + 19);
    let opened = open(&place.path());
    assert_eq!((opened.entries, opened.torn), (vec![entry(1, "one")], None));
}

fn may_reserve(place: &Place) -> bool {
    let file = fs::File::create(place.0.path().join("probe")).expect("a file");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 4096).is_ok()
}

#[test]
fn a_disk_that_fills_up_is_told_of_while_what_must_be_is_still_written() {
    let place = Place::new();
    let disk = Crowded::default();
    let mut journal = Journal::open_on(&place.path(), Box::new(disk.clone())).expect("it opens").journal;
    assert!(journal.reserve());
    disk.fill(true);
    block_on(async {
        let writer = JournalWriter::start(journal).expect("a thread");
        let mib = 1024 * 1024;
        // 16 MiB were reserved: as long as 12 are left, nothing is amiss.
        for seq in 1..=3 {
            writer.append(seq, vec![7; mib]).await.expect("taken");
            assert!(!reached(&writer, seq).await.full);
        }
        for seq in 4..=15 {
            writer.append(seq, vec![7; mib]).await.expect("taken");
            let synced = reached(&writer, seq).await;
            assert!(synced.full && synced.failed.is_none());
        }
        // Space that is back is seen when asked for.
        disk.fill(false);
        assert!(writer.synced().borrow().full);
        writer.check_space();
        writer.synced().wait_for(|synced| !synced.full).await.expect("a writer");
        writer.close().await.expect("running");
    });
    assert_eq!(open(&place.path()).entries.len(), 15);
}

#[test]
fn what_cannot_be_compacted_stays_and_counts() {
    let place = Place::new();
    let journal = open(&place.path()).journal;
    let hidden = place.0.path().with_extension("hidden");
    block_on(async {
        let writer = JournalWriter::start(journal).expect("a thread");
        writer.append(1, b"one".to_vec()).await.expect("taken");
        reached(&writer, 1).await;
        // Without its folder no new file can be made.
        fs::rename(place.0.path(), &hidden).expect("renamed");
        writer.compact(Box::new(|_, _| false), 2, b"all".to_vec()).await.expect("taken");
        let synced = reached(&writer, 2).await;
        assert_eq!((synced.seq, synced.compactions_failed, synced.failed.is_none()), (2, 1, true));
        fs::rename(&hidden, place.0.path()).expect("renamed");
        writer.append(3, b"three".to_vec()).await.expect("taken");
        writer.close().await.expect("running");
    });
    assert_eq!(open(&place.path()).entries, [entry(1, "one"), entry(3, "three")]);
}

#[test]
#[ignore = "needs a small disk: mount -t tmpfs -o size=64m tmpfs DIR, and set WAYFARE_SMALL_DISK=DIR"]
fn on_a_disk_that_really_fills_up_nothing_acknowledged_is_lost() {
    let disk = PathBuf::from(std::env::var_os("WAYFARE_SMALL_DISK").expect("WAYFARE_SMALL_DISK"));
    let (path, ballast) = (disk.join("journal"), disk.join("ballast"));
    let mib = 1 << 20;
    let writer = JournalWriter::start(open(&path).journal).expect("a thread");
    // Others take all that is left.
    let others = fs::File::create(&ballast).expect("a file");
    let mut taken = 0;
    while others.write_all_at(&[7; 4096], taken).is_ok() {
        taken += 4096;
    }
    drop(others);
    let acknowledged = block_on(async {
        let mut seq = 0;
        loop {
            if writer.append(seq + 1, vec![7; mib]).await.is_err() {
                return seq;
            }
            let synced = reached(&writer, seq + 1).await;
            if synced.failed.is_some() {
                return synced.seq;
            }
            seq += 1;
            assert_eq!(synced.full, seq >= 4, "after {seq} MiB");
        }
    });
    assert!((15..=16).contains(&acknowledged), "16 MiB were reserved, and not {acknowledged}");
    drop(writer);
    let opened = loop {
        match Journal::open(&path) {
            Err(JournalError::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.expect("it opens"),
        }
    };
    assert_eq!(opened.entries.len() as u64, acknowledged);
    block_on(async {
        let writer = JournalWriter::start(opened.journal).expect("a thread");
        assert!(writer.synced().borrow().full);
        // It cannot be made smaller either, and stays as it is.
        writer.compact(Box::new(|_, _| true), 17, b"all".to_vec()).await.expect("taken");
        assert_eq!(reached(&writer, 17).await.compactions_failed, 1);
        fs::remove_file(&ballast).expect("removed");
        writer.check_space();
        writer.synced().wait_for(|synced| !synced.full).await.expect("a writer");
        writer.compact(Box::new(|_, _| false), 18, b"all".to_vec()).await.expect("taken");
        assert_eq!(reached(&writer, 18).await.compactions_failed, 1);
        writer.close().await.expect("running");
    });
    assert_eq!(open(&path).entries, [entry(18, "all")]);
    fs::remove_file(&path).expect("removed");
}
