//! The records of a Registry that runs: the store, and the audit log of what is decided.

use std::path::Path;

use wayfare_protocol::{
    registry::{
        StoreOp,
        audit::{Head, Noted},
    },
    suite::Secret,
};

use crate::{
    audit::AuditLog,
    clock,
    store::{Row, Store, StoreError},
};

/// What one call of the machine decided: changes of the records, and what of it an auditor has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes, in order.
    pub changes: Vec<StoreOp>,
    /// The entries, in order.
    pub audit: Vec<Noted>,
}

impl Batch {
    /// Adds what was decided later.
    pub fn append(&mut self, mut later: Self) {
        self.changes.append(&mut later.changes);
        self.audit.append(&mut later.audit);
    }
}

/// A store with its audit log: both get a commit, or neither.
pub struct Records {
    store: Box<dyn Store>,
    audit: Option<AuditLog>,
}

impl Records {
    /// Records without a log: of a simulation, which nobody audits.
    pub const fn unaudited(store: Box<dyn Store>) -> Self {
        Self { store, audit: None }
    }

    /// Records that hold these `rows`, with their log in `dir`, signed by `secret`. The log has an entry by then that says
    /// how it goes on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn audited(store: Box<dyn Store>, rows: &[Row], dir: &Path, secret: Secret) -> Result<Self, StoreError> {
        let (audit, acts) = AuditLog::open(dir, secret, rows)?;
        let mut records = Self { store, audit: Some(audit) };
        let at = clock::now().wall;
        let audit = acts.into_iter().map(|act| Noted { at, act }).collect();
        records.commit(Batch { changes: Vec::new(), audit })?;
        Ok(records)
    }

    /// The last entry of the log that is on disk, if there is a log.
    pub fn audited_to(&self) -> Option<Head> {
        self.audit.as_ref().map(AuditLog::head)
    }

    /// Makes all changes, whole and durable, with the entries that tell of them. Returns how many changes of records it were.
    ///
    /// # Errors
    /// [`StoreError`]: whether the changes are stored is unknown, and the records must not be used again.
    pub fn commit(&mut self, batch: Batch) -> Result<usize, StoreError> {
        let Batch { mut changes, audit } = batch;
        let count = changes.len();
        let Some(log) = &mut self.audit else {
            return self.store.commit(&changes).map(|()| count);
        };
        changes.append(&mut log.seal(clock::now().wall, audit));
        self.store.commit(&changes)?;
        log.committed()?;
        Ok(count)
    }
}
