//! What the Registry keeps on disk: one record type per table, and the operations that change them.
//!
//! A stored value is `version: u8 ‖ canonical encoding`; a stored key is the canonical encoding of [`Record::key`].
//! Everything durable is here; leases and addresses are not, and come back by themselves after a restart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CloudId, Digest, HostId, MigrationId, MigrationIds, Nonce, PlacementKey, ServiceId},
    manifest::Manifest,
    migration::messages::{Decision, Granted, NoCloud, Placement, YesCloud, YesService},
    order::{Action, OrderFrame, Outcome as OrderOutcome, Tombstone},
    reject::Reject,
    time::{Micros, Timestamp},
    trust::{Certificate, Role, Signed},
    wire::{self, Wire},
};

/// The version in front of every stored value.
pub const RECORD_VERSION: u8 = 1;

/// A table of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// [`TokenRecord`] by hash of the secret.
    Tokens,
    /// [`HostRecord`] by host.
    Hosts,
    /// [`RevokedCloud`] by provider.
    RevokedClouds,
    /// [`ManifestRecord`] by service.
    Manifests,
    /// [`ServiceRecord`] by service.
    Services,
    /// [`MigrationRecord`] by migration.
    Migrations,
    /// [`CloudStats`](super::CloudStats) by provider.
    Stats,
    /// [`RestoredRecord`], one at most.
    Restored,
    /// [`SuspendedRecord`] by service.
    Suspended,
    /// [`OrderRecord`] by service.
    Orders,
    /// [`TombstoneRecord`] by service.
    Tombstones,
    /// What the driver keeps of the audit log, for itself: the machine neither writes nor reads it.
    Audit,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 12] = [
        Self::Tokens,
        Self::Hosts,
        Self::RevokedClouds,
        Self::Manifests,
        Self::Services,
        Self::Migrations,
        Self::Stats,
        Self::Restored,
        Self::Suspended,
        Self::Orders,
        Self::Tombstones,
        Self::Audit,
    ];

    /// The table's name in a store: stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Hosts => "hosts",
            Self::RevokedClouds => "revoked_clouds",
            Self::Manifests => "manifests",
            Self::Services => "services",
            Self::Migrations => "migrations",
            Self::Stats => "stats",
            Self::Restored => "restored",
            Self::Suspended => "suspended",
            Self::Orders => "orders",
            Self::Tombstones => "tombstones",
            Self::Audit => "audit",
        }
    }
}

/// One change of the store. The changes of one batch take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreOp {
    /// Where.
    pub table: Table,
    /// Of what.
    pub key: Vec<u8>,
    /// The new value; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// All that a store holds. Also the simplest store: see [`StoreOp::apply`].
pub type StoreImage = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

impl StoreOp {
    /// Makes the change in `image`.
    pub fn apply(&self, image: &mut StoreImage) {
        let key = (self.table, self.key.clone());
        match &self.value {
            Some(value) => image.insert(key, value.clone()),
            None => image.remove(&key),
        };
    }
}

/// A stored value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version of this program.
    #[error("table {} holds a record of version {found}, this program reads {RECORD_VERSION}: use the version that wrote it", table.name())]
    Version {
        /// Where.
        table: Table,
        /// Its version.
        found: u8,
    },
    /// Not what was written.
    #[error("table {} holds a damaged record: restore the state directory from a backup", table.name())]
    Damaged {
        /// Where.
        table: Table,
    },
    /// A backup of another Registry.
    #[error(
        "this is a backup of another registry: its services are not this one's; use the directory with that registry's key"
    )]
    OtherRegistry,
}

/// A row of a table.
pub trait Record: Wire + Clone {
    /// The table.
    const TABLE: Table;
    /// What rows are found by: part of the row.
    type Key: Ord + Copy + Serialize;

    /// This row's key.
    fn key(&self) -> Self::Key;

    /// The change that stores this row.
    fn put(&self) -> StoreOp {
        let mut value = vec![RECORD_VERSION];
        value.append(&mut wire::encode(self));
        StoreOp { table: Self::TABLE, key: wire::encode(&self.key()), value: Some(value) }
    }

    /// The change that removes a row.
    fn remove(key: Self::Key) -> StoreOp {
        StoreOp { table: Self::TABLE, key: wire::encode(&key), value: None }
    }

    /// Reads a stored row.
    ///
    /// # Errors
    /// [`RestoreError`].
    fn read(key: &[u8], value: &[u8]) -> Result<Self, RestoreError> {
        let damaged = RestoreError::Damaged { table: Self::TABLE };
        let (version, body) = value.split_first().ok_or_else(|| damaged.clone())?;
        if *version != RECORD_VERSION {
            return Err(RestoreError::Version { table: Self::TABLE, found: *version });
        }
        let row: Self = wire::decode(body).map_err(|_| damaged.clone())?;
        if wire::encode(&row.key()) == key { Ok(row) } else { Err(damaged) }
    }
}

macro_rules! records {
    ($($name:ident in $table:ident by $key:ty = $field:expr,)*) => {
        $(
            impl Wire for $name {}

            impl Record for $name {
                const TABLE: Table = Table::$table;
                type Key = $key;

                fn key(&self) -> $key {
                    let field: fn(&Self) -> $key = $field;
                    field(self)
                }
            }
        )*
    };
}

records! {
    TokenRecord in Tokens by Digest = |row| row.hash,
    HostRecord in Hosts by HostId = |row| row.certificate.host,
    RevokedCloud in RevokedClouds by CloudId = |row| row.cloud,
    ManifestRecord in Manifests by ServiceId = |row| row.service,
    ServiceRecord in Services by ServiceId = |row| row.placement.service,
    MigrationRecord in Migrations by MigrationId = |row| row.ids.mig,
    RestoredRecord in Restored by () = |_| (),
    SuspendedRecord in Suspended by ServiceId = |row| row.service,
    OrderRecord in Orders by ServiceId = |row| row.service,
    TombstoneRecord in Tombstones by ServiceId = |row| row.service,
}

/// An outstanding join token. Deleted when used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Hash of its secret.
    pub hash: Digest,
    /// The provider's name.
    pub name: String,
    /// The role it allows.
    pub role: Role,
    /// End of validity.
    pub expiry: Timestamp,
}

/// An enrolled host. Kept when revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostRecord {
    /// What the certificate says.
    pub certificate: Certificate,
    /// The certificate, as given to the host.
    pub signed: Signed<Certificate>,
    /// Hash of the ENROL that it answers: the same bytes get the same answer.
    pub request: Digest,
    /// That ENROL's nonce.
    pub nonce: Nonce,
    /// Since when the host is revoked.
    pub revoked: Option<Timestamp>,
    /// Where it is reached, as it said itself: in the newest advert that came with a 2, or with a REGISTER.
    pub addresses: Vec<String>,
    /// The serial of that advert.
    pub serial: u64,
}

/// A provider that is revoked with all its hosts, present and future.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RevokedCloud {
    /// The provider.
    pub cloud: CloudId,
    /// Its name.
    pub name: String,
    /// Since when.
    pub at: Timestamp,
}

/// An owner's word on a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ManifestRecord {
    /// The service.
    pub service: ServiceId,
    /// Its name.
    pub name: String,
    /// The manifest.
    pub signed: Signed<Manifest>,
}

impl ManifestRecord {
    /// What the manifest says.
    ///
    /// # Errors
    /// None: it was decoded before it was stored.
    pub fn manifest(&self) -> Result<Manifest, Reject> {
        self.signed.unverified()
    }
}

/// The answer to 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CloudVerdict {
    /// Under a new migration.
    Yes(Signed<YesCloud>),
    /// With the reason.
    No(Signed<NoCloud>),
}

/// The last 2 of a placement, with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LastVerdict {
    /// Its counter: the next one is higher.
    pub counter: u64,
    /// Its nonce.
    pub nonce: Nonce,
    /// Its hash.
    pub request: Digest,
    /// What was answered.
    pub answer: CloudVerdict,
}

/// The location record of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Where the service is: epoch, host, key.
    pub placement: Placement,
    /// The same as signed when it was decided. Renewals are signed anew and not stored.
    pub signed: Signed<Placement>,
    /// The one undecided migration of this epoch.
    pub live: Option<MigrationId>,
    /// The last 2 of this epoch.
    pub verdict: Option<LastVerdict>,
    /// The REGISTER by hash, and its answer, until the first move.
    pub registered: Option<(Digest, Granted)>,
}

/// That these records were restored from a backup: what was decided after it, only the hosts know (PROTOCOL 4, rule 7).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RestoredRecord {
    /// When they were restored.
    pub at: Timestamp,
    /// Whether the window is not over yet: all services are suspended, and a restart begins the window anew. Afterwards the
    /// row stays, for hosts that show up later.
    pub collecting: bool,
}

/// A service of which nothing is decided until its hosts have shown what they have: written when the window is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SuspendedRecord {
    /// The service.
    pub service: ServiceId,
}

/// The newest order of a service's owner, but for REMOVE, which leaves a [`TombstoneRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OrderRecord {
    /// The service.
    pub service: ServiceId,
    /// As it came: this is what the host of record gets.
    pub frame: OrderFrame,
    /// Its sequence: the next one's is higher.
    pub sequence: u64,
    /// What the host of record reported.
    pub outcome: Option<OrderOutcome>,
    /// Whether the service is stopped, as far as was reported.
    pub stopped: bool,
}

impl OrderRecord {
    /// What is ordered.
    ///
    /// # Errors
    /// None: it was decoded before it was stored.
    pub fn action(&self) -> Result<Action, Reject> {
        Ok(self.frame.order.unverified()?.action)
    }
}

/// A service that its owner has removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TombstoneRecord {
    /// The service.
    pub service: ServiceId,
    /// What those are shown who still have something of it.
    pub signed: Signed<Tombstone>,
    /// The same.
    pub tombstone: Tombstone,
    /// The name that it had; empty if the records were lost with which it was given.
    pub name: String,
    /// The sequence of the REMOVE: orders for a later service under the same name are above it.
    pub sequence: u64,
    /// The last placement, if it is known.
    pub placement: Option<Placement>,
    /// Whether the name is free before the last lease has ended: its holder has deleted the service.
    pub reported: bool,
}

/// In place of the hash of a 10 that was lost with the records: only its consequences are known.
pub(super) const UNSEEN: Digest = Digest([0; 32]);

/// What 6 pinned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pinned {
    /// vkNew.
    pub key: PlacementKey,
    /// Hash of the 5 that proposed it.
    pub request: Digest,
    /// 6. Forgotten once the migration has ended.
    pub answer: Option<Signed<YesService>>,
}

/// How far a migration is decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MigrationState {
    /// Not at all.
    Live,
    /// The record moved.
    Won {
        /// Orders what is forgotten first.
        serial: u64,
        /// Hash of the 10 that did it; zeros if it was lost with the records before a restore.
        complete: Digest,
        /// T_B − T_A by that 10.
        response: Micros,
        /// T_comp − T_B by that 10.
        transfer: Micros,
        /// Hash of 12, once the source has deleted its copy.
        released: Option<Digest>,
    },
    /// It never will.
    Aborted {
        /// Orders what is forgotten first.
        serial: u64,
        /// The last RECLAIM or CANCEL by hash and nonce, and its answer.
        answer: Option<(Digest, Nonce, Granted)>,
    },
}

/// One attempt to move one service, from 3 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its identifiers.
    pub ids: MigrationIds,
    /// The host of record when it began (A).
    pub source: HostId,
    /// The placement key then (vkS).
    pub key: PlacementKey,
    /// End of validity of 3.
    pub expiry: Timestamp,
    /// What 6 pinned, if it was given.
    pub pinned: Option<Pinned>,
    /// The decision.
    pub state: MigrationState,
}

impl MigrationRecord {
    /// The decision, once there is one.
    pub const fn decision(&self) -> Option<Decision> {
        match self.state {
            MigrationState::Live => None,
            MigrationState::Won { .. } => Some(Decision::Won),
            MigrationState::Aborted { .. } => Some(Decision::Aborted),
        }
    }
}
