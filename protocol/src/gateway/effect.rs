//! What a [`Gateway`](super::Gateway) asks its driver to do, and what it journals.

use serde::{Deserialize, Serialize};

use super::messages::ClientFrame;
use crate::{
    ids::{Epoch, HostId, RegistryId, ServiceId},
    migration::messages::Lookup,
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
    /// The Registry knows no such service.
    #[error("no such service is registered")]
    NoSuchService,
    /// The session it was sent in is gone; whether it was executed is not known.
    #[error("the session with the service ended; whether the request was executed is not known")]
    SessionLost,
}

impl Failure {
    /// The HTTP status that says so.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Timeout => 504,
            Self::NotExecuted(_) | Self::SessionLost => 502,
            Self::NoSuchService => 404,
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
}

impl Refuse {
    /// The HTTP status that says so.
    pub const fn status(self) -> u16 {
        match self {
            Self::UnknownService => 404,
            Self::Full => 503,
            Self::TooLarge => 413,
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
}

impl Entry {
    /// The entry's name, for whoever watches a gateway at work.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Incarnation(_) => "Incarnation",
            Self::Reserved { .. } => "Reserved",
            Self::Seen { .. } => "Seen",
        }
    }
}

impl Wire for Entry {
    const LIMIT: usize = 256;
}
