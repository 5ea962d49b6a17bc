//! A store that forgets everything when the process ends: for simulations and tests.

use std::sync::{Arc, Mutex, PoisonError};

use wayfare_protocol::registry::{StoreImage, StoreOp};

use super::{Row, Store, StoreError};

/// Keeps records in memory. Clones share them, so that a registry can be restarted on the same records.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<StoreImage>>);

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Vec<Row>, StoreError> {
        let image = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, changes: &[StoreOp]) -> Result<(), StoreError> {
        let mut image = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.iter().for_each(|change| change.apply(&mut image));
        Ok(())
    }
}
