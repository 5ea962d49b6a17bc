//! The log on disk: crashes at any byte, damage, old copies, restored backups.

use std::fs;

use wayfare_protocol::registry::audit::Flaw;

use super::*;
use crate::{
    audit::walk::{Report, check_dir},
    records::{Batch, Records},
    store::{MemoryStore, Store as _},
};

const SECRET: [u8; 32] = [1; 32];

fn key() -> PublicKey {
    Dalek::public_key(&Secret::new(SECRET))
}

fn noted(n: u64) -> Noted {
    Noted { at: Timestamp(n), act: Act::CloudRevoked { name: format!("cloud-{n}") } }
}

/// Records and their log, small enough that files and syncs come often.
struct World {
    root: tempfile::TempDir,
    store: MemoryStore,
}

impl World {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), store: MemoryStore::default() }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("registry.audit")
    }

    fn rows(&mut self) -> Vec<Row> {
        self.store.load().unwrap()
    }

    /// What was decided is in the records, and the files are what they are.
    fn open(&mut self) -> (AuditLog, Vec<Act>) {
        let rows = self.rows();
        let (mut log, acts) = AuditLog::open(&self.dir(), Secret::new(SECRET), &rows).unwrap();
        (log.segment_bytes, log.pending_bytes) = (700, 500);
        self.decide(&mut log, acts.iter().cloned().map(|act| Noted { at: Timestamp(0), act }).collect());
        (log, acts)
    }

    fn decide(&mut self, log: &mut AuditLog, noted: Vec<Noted>) {
        let ops = log.seal(Timestamp(7), noted);
        self.store.commit(&ops).unwrap();
        log.committed().unwrap();
    }

    /// Decided and stored; the process ends before it is in the files.
    fn decide_and_die(&mut self, mut log: AuditLog, n: u64) {
        let ops = log.seal(Timestamp(7), vec![noted(n)]);
        self.store.commit(&ops).unwrap();
    }

    fn known(&mut self) -> Known {
        Known::of(&self.rows())
    }

    fn report(&mut self) -> Report {
        let known = self.known();
        check_dir(&self.dir(), key(), Some(&known)).unwrap()
    }

    /// All is well: this many entries.
    fn entries(&mut self) -> u64 {
        let report = self.report();
        assert!(report.flaws.is_empty(), "{:?}", report.flaws);
        assert_eq!(report.last.sequence, self.known().state.unwrap().head.sequence);
        report.entries
    }

    fn files(&self) -> Vec<PathBuf> {
        segment::list(&self.dir()).unwrap()
    }

    fn flaws(&mut self) -> String {
        let flaws: Vec<String> = self.report().flaws.iter().map(ToString::to_string).collect();
        assert!(!flaws.is_empty());
        flaws.join("\n")
    }
}

fn started(acts: &[Act]) -> bool {
    matches!(acts, [Act::Started { .. }])
}

fn continued(acts: &[Act]) -> Option<(Cause, u64)> {
    match acts {
        [Act::Continued { cause, records }, Act::Started { .. }] => Some((*cause, records.sequence)),
        _ => None,
    }
}

#[test]
fn it_goes_on_after_each_start_over_many_files_and_the_records_keep_little() {
    let mut world = World::new();
    let (_, acts) = world.open();
    assert!(matches!(&acts[..], [Act::Begun { key: began }, Act::Started { .. }] if began.0 == key()), "{acts:?}");
    for start in 0..4_u64 {
        let (mut log, acts) = world.open();
        assert!(started(&acts), "{acts:?}");
        for n in 0..10 {
            world.decide(&mut log, vec![noted(n), noted(n + 100)]);
        }
        assert_eq!(world.entries(), 2 + (start + 1) * 21);
        assert!(world.known().pending.len() < 6, "{}", world.known().pending.len());
    }
    assert!(world.files().len() > 10, "{}", world.files().len());
    let (log, _) = world.open();
    assert_eq!(log.head().sequence, 87);
}

#[test]
fn whatever_a_crash_leaves_of_what_was_not_synced_nothing_is_lost() {
    let mut world = World::new();
    let (mut log, _) = world.open();
    (log.segment_bytes, log.pending_bytes) = (SEGMENT_BYTES, PENDING_BYTES);
    (0..4).for_each(|n| world.decide(&mut log, vec![noted(n)]));
    world.decide_and_die(log, 4);
    assert_eq!(world.entries(), 7, "what the records have counts before it is in the files");
    let path = world.files().remove(0);
    let (whole, rows) = (fs::read(&path).unwrap(), world.store.clone());
    // Each cut within a file's head and its last block, and some between.
    let lengths = (0..whole.len()).filter(|at| at % 29 == 0 || at % 29 == 11).chain([
        112,
        113,
        115,
        116,
        whole.len() - 1,
        whole.len(),
    ]);
    for length in lengths {
        // Records of their own each time: the start itself is an entry.
        world.store = MemoryStore::default();
        let image: Vec<StoreOp> = rows
            .clone()
            .load()
            .unwrap()
            .into_iter()
            .map(|(table, key, value)| StoreOp { table, key, value: Some(value) })
            .collect();
        world.store.commit(&image).unwrap();
        fs::remove_dir_all(world.dir()).unwrap();
        fs::create_dir(world.dir()).unwrap();
        fs::write(&path, &whole[..length]).unwrap();
        let (mut log, acts) = world.open();
        // Without a whole head there is no file, and the records have all that there was.
        assert!(started(&acts), "{length}: {acts:?}");
        world.decide(&mut log, vec![noted(9)]);
        assert_eq!(world.entries(), 9, "{length}");
    }
}

#[test]
fn a_cut_end_is_noticed_and_the_log_goes_on_in_a_new_file() {
    let mut world = World::new();
    let (mut log, _) = world.open();
    (0..20).for_each(|n| world.decide(&mut log, vec![noted(n)]));
    let head = log.head().sequence;
    drop(log);
    // Far more than what the records keep.
    for path in world.files().drain(3..) {
        fs::remove_file(path).unwrap();
    }
    let known = world.known();
    let cut = check_dir(&world.dir(), key(), None).unwrap();
    assert!(cut.flaws.is_empty(), "without the records nobody can tell: {:?}", cut.flaws);
    let flaws = world.flaws();
    assert!(flaws.contains("cut off") && flaws.contains(&format!("{head}")), "{flaws}");
    let (mut log, acts) = world.open();
    assert_eq!(continued(&acts), Some((Cause::FilesDamaged, head)));
    world.decide(&mut log, vec![noted(1)]);
    // The gap stays in sight for ever, and what is behind it is good.
    let report = world.report();
    assert!(matches!(report.flaws[..], [walk::Fault::Gap { .. }]), "{:?}", report.flaws);
    assert_eq!(report.last.sequence, head + 3);
    assert_eq!(world.known().state.unwrap().head, report.last);
    assert!(known.state.unwrap().head.sequence == head);
    // The next start finds nothing new.
    assert!(started(&world.open().1));
}

#[test]
fn an_old_copy_of_the_files_is_noticed() {
    let mut world = World::new();
    let (mut log, _) = world.open();
    (0..5).for_each(|n| world.decide(&mut log, vec![noted(n)]));
    let copies: Vec<(PathBuf, Vec<u8>)> =
        world.files().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    (5..20).for_each(|n| world.decide(&mut log, vec![noted(n)]));
    drop(log);
    fs::remove_dir_all(world.dir()).unwrap();
    fs::create_dir(world.dir()).unwrap();
    copies.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    assert!(world.flaws().contains("cut off"));
    assert!(matches!(continued(&world.open().1), Some((Cause::FilesDamaged, _))));
}

#[test]
fn an_old_copy_of_the_records_is_noticed() {
    let mut world = World::new();
    let (mut log, _) = world.open();
    let old = world.rows();
    (0..20).for_each(|n| world.decide(&mut log, vec![noted(n)]));
    let head = log.head().sequence;
    drop(log);
    world.store = MemoryStore::default();
    let put = |(table, key, value): Row| StoreOp { table, key, value: Some(value) };
    world.store.commit(&old.into_iter().map(put).collect::<Vec<_>>()).unwrap();
    assert!(world.flaws().contains("older than the log"));
    let (log, acts) = world.open();
    assert_eq!(continued(&acts), Some((Cause::RecordsOld, 2)));
    assert_eq!(log.head().sequence, head + 2, "nothing that was logged is given again");
    assert_eq!(world.entries(), head + 2);
    // Records that know of no log at all.
    drop(log);
    world.store = MemoryStore::default();
    assert_eq!(continued(&world.open().1), Some((Cause::RecordsOld, 0)));
}

#[test]
fn a_restored_registry_goes_on_where_its_files_or_its_backup_end() {
    let mut world = World::new();
    let (mut log, _) = world.open();
    let backup = world.known();
    (0..6).for_each(|n| world.decide(&mut log, vec![noted(n)]));
    let head = log.head().sequence;
    world.decide_and_die(log, 7);
    // In the same place: nothing of what came after the backup is lost, also what was not in the files yet.
    let replaced = world.known();
    world.store = MemoryStore::default();
    world.store.commit(&Known::restored(&backup, &replaced)).unwrap();
    let (_, acts) = world.open();
    assert_eq!(continued(&acts), Some((Cause::Restored, 2)));
    assert_eq!(world.entries(), head + 3);
    assert!(started(&world.open().1), "once");
    // Somewhere else, without the files.
    fs::remove_dir_all(world.dir()).unwrap();
    world.store = MemoryStore::default();
    world.store.commit(&Known::restored(&backup, &Known::default())).unwrap();
    let (_, acts) = world.open();
    assert_eq!(continued(&acts), Some((Cause::Restored, 2)));
    let report = world.report();
    assert!(report.flaws.is_empty(), "{:?}", report.flaws);
    assert_eq!((report.after.sequence + 1, report.last.sequence), (1, 4), "the backup brought its two entries along");
}

#[test]
fn a_damaged_or_a_foreign_file_stops_nobody_and_stays() {
    for damage in [damage_block as fn(&Path), add_garbage, make_foreign] {
        let mut world = World::new();
        let (mut log, _) = world.open();
        (log.segment_bytes, log.pending_bytes) = (SEGMENT_BYTES, 1);
        (0..6).for_each(|n| world.decide(&mut log, vec![noted(n)]));
        let head = log.head().sequence;
        drop(log);
        let path = world.files().remove(0);
        damage(&path);
        let bytes = fs::read(&path).unwrap();
        world.flaws();
        let (mut log, acts) = world.open();
        assert_eq!(continued(&acts), Some((Cause::FilesDamaged, head)));
        world.decide(&mut log, vec![noted(1)]);
        world.flaws();
        assert_eq!(world.report().last.sequence, head + 3);
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is evidence");
        assert!(started(&world.open().1));
    }
}

fn damage_block(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn add_garbage(path: &Path) {
    fs::write(path, [fs::read(path).unwrap(), vec![7; 99]].concat()).unwrap();
}

fn make_foreign(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[50] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn files_that_cannot_be_written_are_caught_up_with() {
    let mut world = World::new();
    let (mut log, _) = world.open();
    world.decide(&mut log, vec![noted(1)]);
    // Nothing can be made in what is no directory.
    (log.segment, log.failing) = (None, false);
    let (dir, aside) = (world.dir(), world.root.path().join("aside"));
    fs::rename(&dir, &aside).unwrap();
    fs::write(&dir, b"").unwrap();
    (2..5).for_each(|n| world.decide(&mut log, vec![noted(n)]));
    assert!(log.failing);
    fs::remove_file(&dir).unwrap();
    fs::rename(&aside, &dir).unwrap();
    world.decide(&mut log, vec![noted(5)]);
    assert!(!log.failing);
    assert_eq!(world.entries(), 7);
}

#[test]
fn a_commit_has_its_entries_or_is_none() {
    let mut world = World::new();
    let rows = world.rows();
    let mut records =
        Records::audited(Box::new(world.store.clone()), &rows, &world.dir(), Secret::new(SECRET)).unwrap();
    let change = StoreOp { table: Table::Hosts, key: vec![1], value: Some(vec![2]) };
    assert_eq!(records.commit(Batch { changes: vec![change], audit: vec![noted(1)] }).unwrap(), 1);
    assert_eq!(world.entries(), 3);
    assert_eq!(world.report().flaws.len(), 0);
    assert_eq!(Flaw::Unsigned { from: 1 }.first(), 1);
}
