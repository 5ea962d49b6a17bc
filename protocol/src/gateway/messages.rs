//! What a gateway and a host say to each other about clients' requests (`/wayfare/request/1`).

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClientId, Digest, HostId, ServiceId},
    limits::{CLIENT_FRAME_BYTES_MAX, REPORT_ENTRIES_MAX},
    migration::messages::Placement,
    suite::digest,
    time::Micros,
    trust::{Certificate, Signed},
    wire::{bodies, frames},
};

/// The identity of a client: the gateway's key and its incarnation.
pub fn client_id(gateway: HostId, incarnation: u64) -> ClientId {
    ClientId(digest("wayfare/1 client id", &[&gateway.0, &incarnation.to_le_bytes()]).0)
}

/// The hash that tells two requests under one number apart.
pub fn request_hash(request: &[u8]) -> Digest {
    digest("wayfare/1 client request", &[request])
}

/// First frame of a stream, gateway to host: who speaks. The host derives the [`ClientId`] from the stream's peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// The gateway's certificate.
    pub certificate: Signed<Certificate>,
    /// Fresh for a gateway that lost its state.
    pub incarnation: u64,
}

/// Gateway to host: open a session. Opening an open one changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Open {
    /// The service.
    pub service: ServiceId,
    /// The client.
    pub client: ClientId,
}

/// Host to gateway: the session is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Opened {
    /// The service.
    pub service: ServiceId,
    /// The client.
    pub client: ClientId,
}

/// Gateway to host: one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    /// The service.
    pub service: ServiceId,
    /// The client.
    pub client: ClientId,
    /// Its number, from 0, each used once.
    pub sequence: u64,
    /// [`request_hash`] of the request.
    pub hash: Digest,
    /// All below this have been answered to the client: the host may forget them.
    pub acked_below: u64,
    /// An HTTP/1.1 message.
    #[serde(with = "crate::wire::bytes")]
    pub request: Vec<u8>,
}

/// Host to gateway: the response, the same however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reply {
    /// The service.
    pub service: ServiceId,
    /// The client.
    pub client: ClientId,
    /// The request's number.
    pub sequence: u64,
    /// An HTTP/1.1 message.
    #[serde(with = "crate::wire::bytes")]
    pub response: Vec<u8>,
}

/// Host to gateway: this request was not executed; `reason` says whether to come again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NotExecuted {
    /// The service.
    pub service: ServiceId,
    /// The client.
    pub client: ClientId,
    /// The request's number; 0 for an [`Open`].
    pub sequence: u64,
    /// [`Reject::name`](crate::reject::Reject::name). `full` and `no_session` are worth another try.
    pub reason: String,
}

/// Gateway to host, once a second: round trips as this gateway measured them, and which responses it has. What the client
/// weighs, the host has seen itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LatencyReport {
    /// The service.
    pub service: ServiceId,
    /// The client.
    pub client: ClientId,
    /// All below this have been answered to the client: the host may forget them, though no call follows.
    pub acked_below: u64,
    /// Filtered round trips to the hosting cloud and to candidates, each with how long ago it was last measured; empty if
    /// nothing fresh is known.
    pub entries: Vec<(HostId, Micros, Micros)>,
}

impl LatencyReport {
    /// Whether the report is short enough.
    pub fn fits(&self) -> bool {
        self.entries.len() <= REPORT_ENTRIES_MAX
    }
}

/// Host to gateway: not here, and no newer placement is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gone {
    /// The service.
    pub service: ServiceId,
}

bodies! {
    Hello 2048,
    Open 256,
    Opened 256,
    Call CLIENT_FRAME_BYTES_MAX,
    Reply CLIENT_FRAME_BYTES_MAX,
    NotExecuted 512,
    LatencyReport 8192,
    Gone 128,
}

frames! {
    /// `/wayfare/request/1`, both directions.
    ClientFrame, max CLIENT_FRAME_BYTES_MAX, {
        60 Hello(Hello),
        61 Open(Open),
        62 Opened(Opened),
        63 Call(Call),
        64 Reply(Reply),
        65 NotExecuted(NotExecuted),
        /// The service has moved: resend there.
        66 Moved(Signed<Placement>),
        /// The placement, renewed.
        67 Placement(Signed<Placement>),
        68 LatencyReport(LatencyReport),
        69 Gone(Gone),
    }
}
