//! What a [`Gateway`](super::Gateway) asks its driver to do, and what it journals.

use serde::{Deserialize, Serialize};

use std::collections::BTreeSet;

use super::{keys::IdempotencyKey, messages::ClientFrame};
use crate::{
    ids::{Digest, Epoch, HostId, RegistryId, ServiceId},
    limits::CLIENT_FRAME_BYTES_MAX,
    migration::messages::Lookup,
    time::Timestamp,
    wire::Wire,
};

/// Names a request between a gateway and its driver. Not reused while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One thing to do. The driver executes effects in the order in which it polls them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Append `entry` under number `seq`, sync, then call `handle_synced`.
    Persist {
        /// Number of the entry, without gaps.
        seq: u64,
        /// What must survive a restart.
        entry: Entry,
    },
    /// Replace the journal's content, at once, by its entries whose numbers are in `keep`, with these numbers, and then
    /// `entry` under number `seq`. If that cannot be done, the old ones stay, and say the same. Then `handle_synced`.
    Compact {
        /// Number of the new entry.
        seq: u64,
        /// The old entries that count. Those not in the journal yet come later, and are not meant.
        keep: BTreeSet<u64>,
        /// What the others said: an [`Entry::Snapshot`].
        entry: Entry,
    },
    /// Open a request stream to `host`; then `handle_connected`, or `handle_disconnected` if that fails.
    Connect {
        /// Whom to reach.
        host: HostId,
        /// Multiaddrs; empty: where the mesh knows it to be.
        addresses: Vec<String>,
    },
    /// Close the request stream to `host`; no `handle_disconnected` is due.
    Disconnect {
        /// Whom the gateway has no business with any longer.
        host: HostId,
    },
    /// Send on the open request stream to `host`, in order; dropped if that is gone.
    Send {
        /// The other side.
        host: HostId,
        /// What to say.
        frame: ClientFrame,
    },
    /// Ask this Registry; then `handle_found`. Dropped if it cannot be reached: the machine asks again.
    Lookup {
        /// Whose word counts for the service.
        registry: RegistryId,
        /// The question.
        lookup: Lookup,
    },
    /// Hand the response to the client.
    Answer {
        /// Which request.
        ticket: Ticket,
        /// An HTTP/1.1 message.
        response: Vec<u8>,
    },
    /// Tell the client that there is no response.
    Fail {
        /// Which request.
        ticket: Ticket,
        /// Why.
        reason: Failure,
    },
}

/// Why a held request gets no response of the service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// It was held for as long as allowed; whether it was executed is not known.
    #[error("no response in time; whether the request was executed is not known")]
    Timeout,
    /// The host refused it, by this [`Reject::name`](crate::reject::Reject::name).
    #[error("the service's host refused the request: {0}")]
    NotExecuted(String),
    /// Its owner has stopped the service: it was not executed.
    #[error("the service is stopped by its owner")]
    Stopped,
    /// The Registry knows no such service.
    #[error("no such service is registered")]
    NoSuchService,
    /// The session it was sent in is gone; whether it was executed is not known.
    #[error("the session with the service ended; whether the request was executed is not known")]
    SessionLost,
    /// It has a key, and is tried on without this client.
    #[error("no response yet: the gateway goes on trying, so ask again under the same idempotency key")]
    StillTrying,
    /// It is not taken after all.
    #[error("{0}")]
    Refused(Refuse),
}

impl Failure {
    /// The HTTP status that says so.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Timeout | Self::StillTrying => 504,
            Self::NotExecuted(_) | Self::SessionLost => 502,
            Self::NoSuchService => 404,
            Self::Stopped => 503,
            Self::Refused(refuse) => refuse.status(),
        }
    }
}

/// Why a request, or a service, is not taken at all. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refuse {
    /// This gateway was not told to carry requests for that service.
    #[error("this gateway does not carry requests for that service")]
    UnknownService,
    /// As many requests, or services, as a gateway holds.
    #[error("the gateway holds as many as it can; try again later")]
    Full,
    /// The request is longer than allowed.
    #[error("the request is longer than allowed")]
    TooLarge,
    /// Its key came with other bytes before.
    #[error("the idempotency key was used for another request: a repeated request must be the same, headers included")]
    KeyReused,
    /// A request under its key may have been executed.
    #[error(
        "it is not known whether the request under this idempotency key was executed: see what the service says, and use a \
         new key to send it once more"
    )]
    OutcomeUnknown,
}

impl Refuse {
    /// The HTTP status that says so.
    pub const fn status(self) -> u16 {
        match self {
            Self::UnknownService => 404,
            Self::Full => 503,
            Self::TooLarge => 413,
            Self::KeyReused => 422,
            Self::OutcomeUnknown => 409,
        }
    }
}

/// What a gateway journals. A restarted one is made from these, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Entry {
    /// The incarnation from now on; reservations before this are void.
    Incarnation(u64),
    /// Numbers below this may have been used for requests to this service.
    Reserved {
        /// The service.
        service: ServiceId,
        /// The first number that was certainly not used.
        below: u64,
    },
    /// The highest epoch seen of a service: an older placement is refused after a restart too.
    Seen {
        /// The service.
        service: ServiceId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A request under a key that is to be executed once. Of a key's entries, the last counts.
    Keyed {
        /// The service.
        service: ServiceId,
        /// The client's word for it.
        key: IdempotencyKey,
        /// [`request_hash`](super::messages::request_hash) of the request.
        hash: Digest,
        /// Its number, under the incarnation of this place in the journal.
        sequence: u64,
        /// When it first came.
        at: Timestamp,
        /// An HTTP/1.1 message.
        #[serde(with = "crate::wire::bytes")]
        request: Vec<u8>,
    },
    /// The response to the request under a key.
    Answered {
        /// The service.
        service: ServiceId,
        /// The client's word for it.
        key: IdempotencyKey,
        /// Of the request.
        hash: Digest,
        /// An HTTP/1.1 message.
        #[serde(with = "crate::wire::bytes")]
        response: Vec<u8>,
    },
    /// Nobody will know whether the request under a key was executed.
    Unknown {
        /// The service.
        service: ServiceId,
        /// The client's word for it.
        key: IdempotencyKey,
        /// Of the request.
        hash: Digest,
    },
    /// The request under a key was certainly not executed: the key is free.
    Freed {
        /// The service.
        service: ServiceId,
        /// The client's word for it.
        key: IdempotencyKey,
    },
    /// What all entries before say, but for those about keys, which stand.
    Snapshot {
        /// The incarnation. Not a new one: what is before stays valid.
        incarnation: u64,
        /// Each service, its [`Entry::Reserved`] and its [`Entry::Seen`].
        services: Vec<(ServiceId, u64, Option<Epoch>)>,
    },
}

impl Entry {
    /// The entry's name, for whoever watches a gateway at work.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Incarnation(_) => "Incarnation",
            Self::Reserved { .. } => "Reserved",
            Self::Seen { .. } => "Seen",
            Self::Keyed { .. } => "Keyed",
            Self::Answered { .. } => "Answered",
            Self::Unknown { .. } => "Unknown",
            Self::Freed { .. } => "Freed",
            Self::Snapshot { .. } => "Snapshot",
        }
    }
}

impl Wire for Entry {
    const LIMIT: usize = CLIENT_FRAME_BYTES_MAX + 1024;
}
