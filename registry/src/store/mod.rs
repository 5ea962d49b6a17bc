//! Where decisions are kept. A [`Store`] takes changes and has them on disk when it says so; every implementation
//! passes the one suite in `conformance.rs`. [`LogStore`] is what a Registry runs on; [`RedbStore`] reads the records and
//! backups of earlier versions.

#[cfg(test)]
mod conformance;
mod log;
mod memory;
mod redb;

pub use self::{log::LogStore, memory::MemoryStore, redb::RedbStore};

use std::path::PathBuf;

use wayfare_protocol::registry::{StoreOp, Table};

/// A stored value: table, key, value.
pub type Row = (Table, Vec<u8>, Vec<u8>);

/// What keeps the Registry's records. Used by one thread at a time.
pub trait Store: Send + 'static {
    /// Everything that is stored, in any order.
    ///
    /// # Errors
    /// [`StoreError`]; nothing changed.
    fn load(&mut self) -> Result<Vec<Row>, StoreError>;

    /// Makes all changes, in order, whole, and durable: after a crash either all of them are there or none.
    ///
    /// # Errors
    /// [`StoreError`]: whether the changes are stored is unknown, and the store must not be used again.
    fn commit(&mut self, changes: &[StoreOp]) -> Result<(), StoreError>;
}

/// What is behind a [`StoreError`].
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it.
    #[error("{} is in use: a registry is running on it already; stop that one first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("cannot open {}: check that the disk works and the file is yours, or restore it from a backup", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Cause,
    },
    /// It cannot be read or written.
    #[error("the store failed: check the disk's space and health; the registry stops, so that it promises nothing")]
    Failed(#[source] Cause),
}
