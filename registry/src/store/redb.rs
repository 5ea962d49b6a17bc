//! The store of earlier versions: one redb file, one redb table for each table. Its commits take almost three syncs each,
//! and a migration waits for three of them.

use std::path::Path;

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
};
use wayfare_protocol::registry::{StoreOp, Table};

use super::{Row, Store, StoreError};

/// Bytes of the file that redb keeps in memory. All records are in the machine's memory anyway.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Keeps records in a redb file.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
}

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed(Box::new(error.into()))
}

impl RedbStore {
    /// Opens the file, or makes it. Checks every page of it: a damaged file is an error here and now.
    ///
    /// # Errors
    /// [`StoreError::InUse`] or [`StoreError::Open`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path);
        match opened {
            Ok(database) => Ok(Self { database }),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(StoreError::InUse { path: path.to_owned() }),
            Err(error) => Err(StoreError::Open { path: path.to_owned(), source: Box::new(error) }),
        }
    }
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Vec<Row>, StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let mut rows = Vec::new();
        for table in Table::ALL {
            let stored = match transaction.open_table(definition(table)) {
                Ok(stored) => stored,
                Err(TableError::TableDoesNotExist(_)) => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in stored.iter().map_err(failed)? {
                let (key, value) = entry.map_err(failed)?;
                rows.push((table, key.value().to_vec(), value.value().to_vec()));
            }
        }
        Ok(rows)
    }

    fn commit(&mut self, changes: &[StoreOp]) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        for table in Table::ALL {
            let mut ours = changes.iter().filter(|change| change.table == table).peekable();
            if ours.peek().is_none() {
                continue;
            }
            let mut stored = transaction.open_table(definition(table)).map_err(failed)?;
            for change in ours {
                match &change.value {
                    Some(value) => drop(stored.insert(&change.key[..], &value[..]).map_err(failed)?),
                    None => drop(stored.remove(&change.key[..]).map_err(failed)?),
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_use_or_of_another_kind_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.redb");
        let first = RedbStore::open(&path).unwrap();
        let second = RedbStore::open(&path).unwrap_err();
        assert!(matches!(second, StoreError::InUse { .. }), "{second}");
        drop(first);
        std::fs::write(&path, vec![0x5a; 8192]).unwrap();
        let other = RedbStore::open(&path).unwrap_err();
        assert!(other.to_string().contains("backup"), "{other}");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.redb");
        let change = |n: u8| StoreOp { table: Table::Hosts, key: vec![n], value: Some(vec![n; 3000]) };
        let mut store = RedbStore::open(&path).unwrap();
        store.commit(&(0..=255).map(change).collect::<Vec<_>>()).unwrap();
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        for at in (8192..bytes.len()).step_by(4096) {
            bytes[at + 100] ^= 0xff;
        }
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(RedbStore::open(&path), Err(StoreError::Open { .. })));
    }
}
