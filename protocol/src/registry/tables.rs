//! The Registry's tables in memory. Every change also becomes a [`StoreOp`], so that memory and disk cannot drift apart.

use std::collections::BTreeMap;

use super::{
    records::{
        HostRecord, ManifestRecord, MigrationRecord, MigrationState, OrderRecord, Record, RestoreError, RestoredRecord,
        RevokedCloud, ServiceRecord, StoreOp, SuspendedRecord, Table, TokenRecord, TombstoneRecord,
    },
    stats::CloudStats,
};
use crate::{
    ids::{Epoch, MigrationId, ServiceId},
    limits::{FINISHED_MAX, REGISTERED_MAX, TOMBSTONES_MAX},
};

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rows<R: Record>(BTreeMap<R::Key, R>);

impl<R: Record> Default for Rows<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R: Record> Rows<R> {
    pub(super) fn get(&self, key: R::Key) -> Option<&R> {
        self.0.get(&key)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &R> {
        self.0.values()
    }
}

/// All tables, what is derived from them, and the changes not yet handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tables {
    pub(super) tokens: Rows<TokenRecord>,
    pub(super) hosts: Rows<HostRecord>,
    pub(super) revoked: Rows<RevokedCloud>,
    pub(super) manifests: Rows<ManifestRecord>,
    pub(super) services: Rows<ServiceRecord>,
    pub(super) migrations: Rows<MigrationRecord>,
    pub(super) stats: Rows<CloudStats>,
    pub(super) restored: Rows<RestoredRecord>,
    pub(super) suspended: Rows<SuspendedRecord>,
    pub(super) orders: Rows<OrderRecord>,
    pub(super) tombstones: Rows<TombstoneRecord>,
    /// Services by name.
    names: BTreeMap<String, ServiceId>,
    /// Which migration ended an epoch.
    won: BTreeMap<(ServiceId, Epoch), MigrationId>,
    /// Finished migrations by serial: those that nobody waits for, and the won ones whose source has not sent 12.
    settled: BTreeMap<u64, MigrationId>,
    unreleased: BTreeMap<u64, MigrationId>,
    next_serial: u64,
    batch: Vec<StoreOp>,
}

macro_rules! plain_tables {
    ($($put:ident $(/ $remove:ident)? $rows:ident: $record:ty,)*) => {
        $(
            pub(super) fn $put(&mut self, row: $record) {
                self.batch.push(row.put());
                self.$rows.0.insert(row.key(), row);
            }

            $(
                pub(super) fn $remove(&mut self, key: <$record as Record>::Key) -> Option<$record> {
                    self.batch.push(<$record>::remove(key));
                    self.$rows.0.remove(&key)
                }
            )?
        )*
    };
}

impl Tables {
    plain_tables! {
        put_token / remove_token tokens: TokenRecord,
        put_host hosts: HostRecord,
        put_revoked revoked: RevokedCloud,
        put_service / remove_service services: ServiceRecord,
        put_stats stats: CloudStats,
        put_restored restored: RestoredRecord,
        put_suspended / remove_suspended suspended: SuspendedRecord,
        put_order / remove_order orders: OrderRecord,
        put_tombstone / remove_tombstone tombstones: TombstoneRecord,
    }

    /// Stores a manifest under its service and its name.
    pub(super) fn put_manifest(&mut self, row: ManifestRecord) {
        self.batch.push(row.put());
        self.names.insert(row.name.clone(), row.service);
        self.manifests.0.insert(row.service, row);
    }

    /// A removed service: its tombstone takes the place of its records. The oldest one beyond the limit is forgotten.
    pub(super) fn bury(&mut self, row: TombstoneRecord) {
        let service = row.service;
        if self.services.get(service).is_some() {
            self.remove_service(service);
        }
        if self.orders.get(service).is_some() {
            self.remove_order(service);
        }
        if let Some(manifest) = self.manifests.0.remove(&service) {
            self.batch.push(ManifestRecord::remove(service));
            if self.names.get(&manifest.name) == Some(&service) {
                self.names.remove(&manifest.name);
            }
        }
        self.put_tombstone(row);
        if self.tombstones.len() > TOMBSTONES_MAX {
            let oldest =
                self.tombstones.iter().min_by_key(|row| (row.tombstone.at, row.service)).map(|row| row.service);
            oldest.and_then(|service| self.remove_tombstone(service));
        }
    }

    /// Stores a migration, and forgets the oldest finished ones beyond the limit.
    pub(super) fn put_migration(&mut self, row: MigrationRecord) {
        self.batch.push(row.put());
        self.index_migration(row);
        let settled = self.settled.len().saturating_sub(FINISHED_MAX);
        let unreleased = self.unreleased.len().saturating_sub(REGISTERED_MAX);
        let forgotten: Vec<MigrationId> =
            self.settled.values().take(settled).chain(self.unreleased.values().take(unreleased)).copied().collect();
        for mig in forgotten {
            self.unindex_migration(mig);
            self.batch.push(MigrationRecord::remove(mig));
        }
    }

    fn index_migration(&mut self, row: MigrationRecord) {
        let mig = row.ids.mig;
        self.unindex_migration(mig);
        let serial = match row.state {
            MigrationState::Live => None,
            MigrationState::Won { serial, released, .. } => {
                self.won.insert((row.ids.service, row.ids.epoch), mig);
                let queue = if released.is_some() { &mut self.settled } else { &mut self.unreleased };
                queue.insert(serial, mig);
                Some(serial)
            }
            MigrationState::Aborted { serial, .. } => {
                self.settled.insert(serial, mig);
                Some(serial)
            }
        };
        if let Some(serial) = serial {
            self.next_serial = self.next_serial.max(serial.saturating_add(1));
        }
        self.migrations.0.insert(mig, row);
    }

    fn unindex_migration(&mut self, mig: MigrationId) {
        let Some(row) = self.migrations.0.remove(&mig) else { return };
        match row.state {
            MigrationState::Live => {}
            MigrationState::Won { serial, .. } => {
                self.won.remove(&(row.ids.service, row.ids.epoch));
                self.settled.remove(&serial);
                self.unreleased.remove(&serial);
            }
            MigrationState::Aborted { serial, .. } => {
                self.settled.remove(&serial);
            }
        }
    }

    /// Forgets a migration as if it had never been: unknown ones count as aborted.
    pub(super) fn forget_migration(&mut self, mig: MigrationId) {
        if self.migrations.get(mig).is_some() {
            self.unindex_migration(mig);
            self.batch.push(MigrationRecord::remove(mig));
        }
    }

    /// Every row, as it is stored.
    pub(super) fn rows(&self) -> impl Iterator<Item = StoreOp> {
        fn ops<R: Record>(rows: &Rows<R>) -> impl Iterator<Item = StoreOp> {
            rows.iter().map(Record::put)
        }
        ops(&self.tokens)
            .chain(ops(&self.hosts))
            .chain(ops(&self.revoked))
            .chain(ops(&self.manifests))
            .chain(ops(&self.services))
            .chain(ops(&self.migrations))
            .chain(ops(&self.stats))
            .chain(ops(&self.restored))
            .chain(ops(&self.suspended))
            .chain(ops(&self.orders))
            .chain(ops(&self.tombstones))
    }

    /// The serial of the next migration to finish.
    pub(super) const fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// The service of this name.
    pub(super) fn named(&self, name: &str) -> Option<ServiceId> {
        self.names.get(name).copied()
    }

    /// The migration that ended this epoch of this service.
    pub(super) fn winner(&self, service: ServiceId, epoch: Epoch) -> Option<&MigrationRecord> {
        self.migrations.get(*self.won.get(&(service, epoch))?)
    }

    /// The changes since the last call.
    pub(super) fn take_batch(&mut self) -> Vec<StoreOp> {
        std::mem::take(&mut self.batch)
    }

    /// Reads one stored row back.
    pub(super) fn load(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        match table {
            Table::Tokens => self.put_token(TokenRecord::read(key, value)?),
            Table::Hosts => self.put_host(HostRecord::read(key, value)?),
            Table::RevokedClouds => self.put_revoked(RevokedCloud::read(key, value)?),
            Table::Manifests => self.put_manifest(ManifestRecord::read(key, value)?),
            Table::Services => self.put_service(ServiceRecord::read(key, value)?),
            Table::Migrations => self.index_migration(MigrationRecord::read(key, value)?),
            Table::Stats => self.put_stats(CloudStats::read(key, value)?),
            Table::Restored => self.put_restored(RestoredRecord::read(key, value)?),
            Table::Suspended => self.put_suspended(SuspendedRecord::read(key, value)?),
            Table::Orders => self.put_order(OrderRecord::read(key, value)?),
            Table::Tombstones => self.put_tombstone(TombstoneRecord::read(key, value)?),
            Table::Audit => {}
        }
        self.batch.clear();
        Ok(())
    }
}
