//! What the Registry's machine wants done, and what it tells an auditor.

use serde::{Deserialize, Serialize};

use super::{audit::Noted, records::StoreOp};
use crate::{
    ids::{Epoch, HostId, MigrationIds, ServiceId},
    migration::messages::{NoReason, Placement, RegistryFrame},
    order::Outcome,
    time::Timestamp,
    trust::{Role, Signed},
};

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Store `batch` whole, sync, then call [`handle_synced`](super::Registry::handle_synced) with `seq`. Several may be
    /// stored by one commit, in order.
    Persist {
        /// The number of this batch.
        seq: u64,
        /// Its changes.
        batch: Vec<StoreOp>,
        /// What of it goes into the audit log, in the same commit. There may be something to tell where nothing changed.
        audit: Vec<Noted>,
    },
    /// Send `frame` on `to`'s stream; drop it if there is none: the peer asks again.
    Reply {
        /// The peer.
        to: HostId,
        /// What to send.
        frame: RegistryFrame,
    },
    /// Send `frame` on `to`'s stream, dialling `addresses` if there is none; drop it if that fails: it is sent again.
    Ask {
        /// The peer.
        to: HostId,
        /// Where to dial; empty: only an open stream will do.
        addresses: Vec<String>,
        /// What to send.
        frame: RegistryFrame,
    },
    /// Something an auditor wants to know. On disk before it is let out, like every answer.
    Event(Event),
}

/// Why a migration ended without a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AbortCause {
    /// The source asked about another move.
    Superseded,
    /// CANCEL.
    Cancelled,
    /// RECLAIM.
    Reclaimed,
    /// The target lost its enrolment before it had the service.
    Revoked,
    /// Nobody has gone on with it for so long that nobody can any more.
    Abandoned,
    /// Its owner has removed the service.
    Removed,
}

impl AbortCause {
    /// Every cause.
    pub const ALL: [Self; 6] =
        [Self::Superseded, Self::Cancelled, Self::Reclaimed, Self::Revoked, Self::Abandoned, Self::Removed];

    /// The word for logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Reclaimed => "reclaimed",
            Self::Revoked => "revoked",
            Self::Abandoned => "abandoned",
            Self::Removed => "removed",
        }
    }
}

impl Event {
    /// The decision's name, for whoever watches a Registry at work.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TokenCreated { .. } => "TokenCreated",
            Self::Enrolled { .. } => "Enrolled",
            Self::HostRevoked { .. } => "HostRevoked",
            Self::CloudRevoked { .. } => "CloudRevoked",
            Self::Registered { .. } => "Registered",
            Self::Allowed { .. } => "Allowed",
            Self::Denied { .. } => "Denied",
            Self::Pinned { .. } => "Pinned",
            Self::NotPinned { .. } => "NotPinned",
            Self::Placed { .. } => "Placed",
            Self::Aborted { .. } => "Aborted",
            Self::Released { .. } => "Released",
            Self::Adopted { .. } => "Adopted",
            Self::Resumed { .. } => "Resumed",
            Self::WindowOver { .. } => "WindowOver",
            Self::Contradicted { .. } => "Contradicted",
            Self::Ordered { .. } => "Ordered",
            Self::CarriedOut { .. } => "CarriedOut",
            Self::Removed { .. } => "Removed",
        }
    }
}

/// A decision, for logs and counters; the audit log has it as an [`Act`](super::audit::Act).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
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
    /// 3, yes.
    Allowed {
        /// The new migration.
        ids: MigrationIds,
        /// Where the service is.
        source: HostId,
        /// When it was decided.
        at: Timestamp,
    },
    /// 3, no.
    Denied {
        /// The service.
        service: ServiceId,
        /// Its epoch.
        epoch: Epoch,
        /// The host asked about.
        host: HostId,
        /// Who asked.
        by: HostId,
        /// Why.
        reason: NoReason,
    },
    /// 6, yes.
    Pinned {
        /// The migration.
        ids: MigrationIds,
        /// When it was decided.
        at: Timestamp,
    },
    /// 6, no.
    NotPinned {
        /// The migration, as the asker named it.
        ids: MigrationIds,
        /// Who asked.
        by: HostId,
        /// Why.
        reason: NoReason,
    },
    /// 11: the record moved, or was made. To be gossiped.
    Placed {
        /// The new placement.
        placement: Signed<Placement>,
    },
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
    /// A host showed a placement that was decided after the backup, or a service that was registered after it.
    Adopted {
        /// The placement, of this Registry's own signature.
        placement: Signed<Placement>,
    },
    /// A suspended service's hosts have shown enough: it is decided about again.
    Resumed {
        /// The service.
        service: ServiceId,
        /// Its epoch.
        epoch: Epoch,
        /// Its host.
        host: HostId,
    },
    /// The window after a restore is over.
    WindowOver {
        /// Services known now.
        services: usize,
        /// Those that wait for a host.
        waiting: usize,
    },
    /// A host showed a genuine placement that contradicts the record of a service that is decided about again: a host that
    /// lost its disk or lied was believed. The record stays; an operator must look.
    Contradicted {
        /// What was shown.
        placement: Signed<Placement>,
        /// By whom.
        by: HostId,
    },
    /// An owner's order was taken.
    Ordered {
        /// The service.
        service: ServiceId,
        /// The word for what is to be done.
        action: &'static str,
        /// The node that passed it on.
        by: HostId,
    },
    /// A host reported what became of an order.
    CarriedOut {
        /// The service.
        service: ServiceId,
        /// The word for what was to be done.
        action: &'static str,
        /// What became of it.
        outcome: Outcome,
    },
    /// A service is no more: its owner has removed it.
    Removed {
        /// The service.
        service: ServiceId,
        /// Where it was, if that is known.
        host: Option<HostId>,
    },
}
