//! What every [`Store`] has to do, run against each of them.

use std::collections::BTreeSet;

use wayfare_protocol::registry::{StoreOp, Table};

use super::{LogStore, MemoryStore, RedbStore, Row, Store};

fn put(table: Table, key: &[u8], value: &[u8]) -> StoreOp {
    StoreOp { table, key: key.to_vec(), value: Some(value.to_vec()) }
}

fn remove(table: Table, key: &[u8]) -> StoreOp {
    StoreOp { table, key: key.to_vec(), value: None }
}

fn rows(store: &mut dyn Store) -> BTreeSet<Row> {
    let rows = store.load().unwrap();
    let distinct: BTreeSet<Row> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), distinct.len(), "a row came twice");
    distinct
}

fn row(table: Table, key: &[u8], value: &[u8]) -> Row {
    (table, key.to_vec(), value.to_vec())
}

/// `open` opens the same store each time; the one before is closed by then.
fn suite(mut open: impl FnMut() -> Box<dyn Store>) {
    let mut store = open();
    assert!(rows(&mut *store).is_empty(), "a new store is empty");
    store.commit(&[]).unwrap();
    assert!(rows(&mut *store).is_empty());

    // One key in every table: tables do not see each other.
    let all: Vec<StoreOp> = Table::ALL.iter().map(|table| put(*table, b"k", table.name().as_bytes())).collect();
    store.commit(&all).unwrap();
    let mut expected: BTreeSet<Row> =
        Table::ALL.iter().map(|table| row(*table, b"k", table.name().as_bytes())).collect();
    assert_eq!(rows(&mut *store), expected);
    drop(store);

    // What was committed is there when the store is opened again.
    let mut store = open();
    assert_eq!(rows(&mut *store), expected);

    // Changes of one commit count in their order; removing what is not there changes nothing.
    store
        .commit(&[
            put(Table::Hosts, b"a", b"1"),
            put(Table::Hosts, b"a", b"2"),
            put(Table::Hosts, b"b", b"1"),
            remove(Table::Hosts, b"b"),
            remove(Table::Hosts, b"k"),
            put(Table::Hosts, b"k", b"back"),
            remove(Table::Stats, b"k"),
            remove(Table::Stats, b"never"),
        ])
        .unwrap();
    expected.remove(&row(Table::Hosts, b"k", b"hosts"));
    expected.remove(&row(Table::Stats, b"k", b"stats"));
    expected.insert(row(Table::Hosts, b"a", b"2"));
    expected.insert(row(Table::Hosts, b"k", b"back"));
    assert_eq!(rows(&mut *store), expected);
    drop(store);

    // Empty and large values, and many of them.
    let mut store = open();
    let large = vec![7; 64 * 1024];
    store.commit(&[put(Table::Manifests, b"", b""), put(Table::Manifests, b"large", &large)]).unwrap();
    let many: Vec<StoreOp> = (0_u32..500).map(|n| put(Table::Migrations, &n.to_le_bytes(), &n.to_be_bytes())).collect();
    store.commit(&many).unwrap();
    expected.insert(row(Table::Manifests, b"", b""));
    expected.insert(row(Table::Manifests, b"large", &large));
    expected.extend((0_u32..500).map(|n| row(Table::Migrations, &n.to_le_bytes(), &n.to_be_bytes())));
    drop(store);
    assert_eq!(rows(&mut *open()), expected);
}

#[test]
fn memory() {
    let store = MemoryStore::default();
    suite(|| Box::new(store.clone()));
}

#[test]
fn log() {
    let dir = tempfile::tempdir().unwrap();
    suite(|| Box::new(LogStore::open(&dir.path().join("registry.journal")).unwrap()));
}

#[test]
fn redb() {
    let dir = tempfile::tempdir().unwrap();
    suite(|| Box::new(RedbStore::open(&dir.path().join("registry.redb")).unwrap()));
}
