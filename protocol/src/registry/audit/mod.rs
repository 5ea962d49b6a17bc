//! The Registry's audit log: what it decided, one [`Entry`] a decision, chained by hashes and signed by its key.
//!
//! What it guarantees, to whoever has the log and the Registry's public key: no entry was altered, left out, put in or moved
//! since it was signed. An entry's hash covers the entry before it, and every [`Block`] ends with a [`Checkpoint`], the signed
//! hash of its last entry. It says nothing about what never got into the log: the Registry's driver sees to that by
//! committing an entry with the decision that it tells of.
//!
//! ```text
//! content hash = h("wayfare/1 audit entry", sequence ‖ at ‖ act)
//! hash         = h("wayfare/1 audit link", hash of the entry before, content hash)
//! ```
//!
//! Since the hash is made of the content's hash, an entry may be withheld from somebody and the chain still be checked: see
//! [`Link::Omitted`]. Who can guess all of a withheld entry can confirm it.
//!
//! [`Act`] says what there is to tell; `chain` (sealing, checking) comes next.

use serde::{Deserialize, Serialize};

use super::effect::{AbortCause, Event};
use crate::{
    ids::{Digest, Epoch, HostId, MigrationId, MigrationIds, ServiceId},
    limits::AUDIT_BLOCK_BYTES_MAX,
    migration::messages::{NoReason, Placement},
    order::Outcome,
    suite::digest,
    time::Timestamp,
    trust::{Message, Role, Signed},
    wire::{self, Wire},
};

mod chain;

pub use chain::{Chain, Flaw, Link, Walk};

/// A point of the chain: an entry's number, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Head {
    /// The entry's number. The first has 1.
    pub sequence: u64,
    /// Its hash, which covers all entries before it.
    pub hash: Digest,
}

impl Head {
    /// What the first entry follows.
    pub const NONE: Self = Self { sequence: 0, hash: Digest([0; 32]) };
}

impl Wire for Head {
    const LIMIT: usize = 40;
}

/// A placement, as far as an auditor cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Placed {
    /// The service.
    pub service: ServiceId,
    /// Its epoch there.
    pub epoch: Epoch,
    /// The migration that led there.
    pub mig: MigrationId,
    /// Where it is.
    pub host: HostId,
    /// Where it was before; the same host if it was registered.
    pub previous: HostId,
}

impl Placed {
    /// `None` only for bytes that this Registry did not sign.
    fn of(placement: &Signed<Placement>) -> Option<Self> {
        let Placement { service, epoch, mig, host, previous, .. } = placement.unverified().ok()?;
        Some(Self { service, epoch, mig, host, previous })
    }
}

/// Why a chain does not simply go on where the records say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The records were restored from a backup.
    Restored,
    /// The log's files lack entries that the records name, or are damaged; they were put aside.
    FilesDamaged,
    /// The log goes further than the records: somebody has put an old copy of the records in place.
    RecordsOld,
}

impl Cause {
    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::FilesDamaged => "files_damaged",
            Self::RecordsOld => "records_old",
        }
    }
}

/// What was decided, or happened. The order of the variants is part of the format.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Act {
    /// The log begins: this is the key that signs it.
    Begun {
        /// The Registry's public key.
        key: HostId,
    },
    /// The Registry was started.
    Started {
        /// The program's version.
        version: String,
    },
    /// The log goes on from somewhere else than the records say.
    Continued {
        /// Why.
        cause: Cause,
        /// What the records named as the last entry.
        records: Head,
    },
    /// An operator allowed one node to join.
    TokenCreated {
        /// The provider's name.
        name: String,
        /// The role allowed.
        role: Role,
    },
    /// A host joined.
    Enrolled {
        /// The host.
        host: HostId,
        /// The provider's name.
        name: String,
        /// Its role.
        role: Role,
    },
    /// An operator revoked a host.
    HostRevoked {
        /// The host.
        host: HostId,
    },
    /// An operator revoked a provider.
    CloudRevoked {
        /// Its name.
        name: String,
    },
    /// A service was registered.
    Registered {
        /// The service.
        service: ServiceId,
        /// Its name.
        name: String,
        /// Where it starts.
        host: HostId,
    },
    /// 3, yes: the service may move there.
    CloudAllowed {
        /// The new migration.
        ids: MigrationIds,
        /// Where the service is.
        source: HostId,
    },
    /// 3, no.
    CloudDenied {
        /// The service.
        service: ServiceId,
        /// The epoch asked about.
        epoch: Epoch,
        /// The host asked about.
        host: HostId,
        /// Who asked.
        by: HostId,
        /// Why not.
        reason: NoReason,
    },
    /// 6, yes: the move to the asker is authorised.
    ServiceAllowed {
        /// The migration.
        ids: MigrationIds,
    },
    /// 6, no.
    ServiceDenied {
        /// The migration, as the asker named it.
        ids: MigrationIds,
        /// Who asked.
        by: HostId,
        /// Why not.
        reason: NoReason,
    },
    /// 11: the record moved, or was made.
    Placed(Placed),
    /// A migration ended without a placement.
    Aborted {
        /// The migration.
        ids: MigrationIds,
        /// Why.
        cause: AbortCause,
    },
    /// 12: the source has deleted its copy.
    Released {
        /// The migration.
        ids: MigrationIds,
    },
    /// After a restore: a host showed a placement that was decided after the backup.
    Adopted(Placed),
    /// After a restore: the service is decided about again.
    Resumed {
        /// The service.
        service: ServiceId,
        /// Its epoch.
        epoch: Epoch,
        /// Its host.
        host: HostId,
    },
    /// After a restore: the longest lease has ended.
    WindowOver {
        /// Services known.
        services: u64,
        /// Those that wait for a host.
        waiting: u64,
    },
    /// After a restore: a host showed a genuine placement that contradicts the record.
    Contradicted {
        /// What was shown.
        shown: Placed,
        /// By whom.
        by: HostId,
    },
    /// An owner's order was taken.
    Ordered {
        /// The service.
        service: ServiceId,
        /// What is to be done.
        action: String,
        /// The node that passed it on.
        by: HostId,
    },
    /// A host reported what became of an order.
    CarriedOut {
        /// The service.
        service: ServiceId,
        /// What was to be done.
        action: String,
        /// What became of it.
        outcome: Outcome,
    },
    /// A service was removed by its owner.
    Removed {
        /// The service.
        service: ServiceId,
        /// Where it was, if that is known.
        host: Option<HostId>,
    },
}

impl Act {
    /// What of an event goes into the log; `None` only for a placement that cannot be read, which the Registry never makes.
    pub fn of(event: &Event) -> Option<Self> {
        let act = match event.clone() {
            Event::TokenCreated { name, role } => Self::TokenCreated { name, role },
            Event::Enrolled { host, name, role } => Self::Enrolled { host, name, role },
            Event::HostRevoked { host } => Self::HostRevoked { host },
            Event::CloudRevoked { name } => Self::CloudRevoked { name },
            Event::Registered { service, name, host } => Self::Registered { service, name, host },
            Event::Allowed { ids, source, .. } => Self::CloudAllowed { ids, source },
            Event::Denied { service, epoch, host, by, reason } => {
                Self::CloudDenied { service, epoch, host, by, reason }
            }
            Event::Pinned { ids, .. } => Self::ServiceAllowed { ids },
            Event::NotPinned { ids, by, reason } => Self::ServiceDenied { ids, by, reason },
            Event::Placed { placement } => Self::Placed(Placed::of(&placement)?),
            Event::Aborted { ids, cause } => Self::Aborted { ids, cause },
            Event::Released { ids } => Self::Released { ids },
            Event::Adopted { placement } => Self::Adopted(Placed::of(&placement)?),
            Event::Resumed { service, epoch, host } => Self::Resumed { service, epoch, host },
            Event::WindowOver { services, waiting } => {
                Self::WindowOver { services: services as u64, waiting: waiting as u64 }
            }
            Event::Contradicted { placement, by } => Self::Contradicted { shown: Placed::of(&placement)?, by },
            Event::Ordered { service, action, by } => Self::Ordered { service, action: action.to_owned(), by },
            Event::CarriedOut { service, action, outcome } => {
                Self::CarriedOut { service, action: action.to_owned(), outcome }
            }
            Event::Removed { service, host } => Self::Removed { service, host },
        };
        Some(act)
    }

    /// Its kind: lower case, stable.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Begun { .. } => "begun",
            Self::Started { .. } => "started",
            Self::Continued { .. } => "continued",
            Self::TokenCreated { .. } => "token_created",
            Self::Enrolled { .. } => "enrolled",
            Self::HostRevoked { .. } => "host_revoked",
            Self::CloudRevoked { .. } => "cloud_revoked",
            Self::Registered { .. } => "registered",
            Self::CloudAllowed { .. } => "cloud_allowed",
            Self::CloudDenied { .. } => "cloud_denied",
            Self::ServiceAllowed { .. } => "service_allowed",
            Self::ServiceDenied { .. } => "service_denied",
            Self::Placed { .. } => "placed",
            Self::Aborted { .. } => "aborted",
            Self::Released { .. } => "released",
            Self::Adopted { .. } => "adopted",
            Self::Resumed { .. } => "resumed",
            Self::WindowOver { .. } => "window_over",
            Self::Contradicted { .. } => "contradicted",
            Self::Ordered { .. } => "ordered",
            Self::CarriedOut { .. } => "carried_out",
            Self::Removed { .. } => "removed",
        }
    }

    /// Every kind, in the order of the format.
    pub const KINDS: [&'static str; 22] = [
        "begun",
        "started",
        "continued",
        "token_created",
        "enrolled",
        "host_revoked",
        "cloud_revoked",
        "registered",
        "cloud_allowed",
        "cloud_denied",
        "service_allowed",
        "service_denied",
        "placed",
        "aborted",
        "released",
        "adopted",
        "resumed",
        "window_over",
        "contradicted",
        "ordered",
        "carried_out",
        "removed",
    ];
}

/// One decision in the log, without its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Noted {
    /// When it was made, by the Registry's clock.
    pub at: Timestamp,
    /// What it was.
    pub act: Act,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Its number: from 1, one more than the one before.
    pub sequence: u64,
    /// When it was decided, by the Registry's clock, which may have been set back since the entry before.
    pub at: Timestamp,
    /// What.
    pub act: Act,
}

impl Entry {
    /// The hash of its content: what stands for it where it is withheld.
    pub fn content(&self) -> Digest {
        digest("wayfare/1 audit entry", &[&wire::encode(self)])
    }
}

impl Wire for Entry {
    const LIMIT: usize = 1024;
}

/// The Registry's word that the chain led here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last entry.
    pub head: Head,
    /// When it was signed.
    pub at: Timestamp,
}

impl Wire for Checkpoint {
    const LIMIT: usize = 64;
}

impl Message for Checkpoint {
    const LABEL: &'static str = "wayfare/1 AUDIT CHECKPOINT";
}

/// What one commit of the Registry added to the log: one signature for all of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Block {
    /// What the first entry follows.
    pub after: Head,
    /// One at least.
    pub entries: Vec<Entry>,
    /// Signed for everyone, at the last entry.
    pub checkpoint: Signed<Checkpoint>,
}

impl Wire for Block {
    const LIMIT: usize = AUDIT_BLOCK_BYTES_MAX;
}

#[cfg(test)]
mod tests;
