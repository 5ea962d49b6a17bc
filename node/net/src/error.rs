//! What can go wrong in this crate.

use std::io;

use wayfare_protocol::ids::HostId;

use crate::peers::Incompatible;
use crate::stream::Protocol;

/// Why an operation on the mesh failed. None of them changes anything that a caller has to undo; after `Timeout` and
/// `Unreachable` a connection may exist or come to exist.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// An address of the configuration is unusable.
    #[error("bad address `{address}`: {reason}")]
    BadAddress {
        /// The text that was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another socket has the port.
    #[error("{address} is already in use: stop the other process or choose another port")]
    AddressInUse {
        /// The multiaddr that was to be listened on.
        address: String,
    },
    /// The operating system refused to listen.
    #[error("cannot listen on {address}")]
    Listen {
        /// The multiaddr that was to be listened on.
        address: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The configuration contradicts itself or libp2p.
    #[error("cannot set up the mesh: {0}")]
    Setup(String),
    /// No connection could be made, or it broke before the stream was open.
    #[error("cannot reach {peer:#}: {reason}")]
    Unreachable {
        /// Whom we wanted.
        peer: HostId,
        /// What each address answered.
        reason: String,
    },
    /// Somebody else is at that address: the key at the other end is not the one that was asked for.
    #[error("{address} belongs to {found:#}, not to {peer:#}")]
    WrongPeer {
        /// Whom we wanted.
        peer: HostId,
        /// Who answered.
        found: HostId,
        /// Where.
        address: String,
    },
    /// The peer does not accept streams of this protocol.
    #[error("{peer:#} does not speak {protocol}")]
    Unsupported {
        /// The peer.
        peer: HostId,
        /// The protocol.
        protocol: Protocol,
    },
    /// The peer is of another time: it speaks no version of the protocol that this node speaks.
    #[error("{peer}")]
    NoCommonVersion {
        /// The peer, and what it speaks.
        peer: Incompatible,
    },
    /// The peer did not answer in time.
    #[error("{peer:#} did not answer in time ({what})")]
    Timeout {
        /// The peer.
        peer: HostId,
        /// What was waited for.
        what: &'static str,
    },
    /// The peer answered a probe with other bytes than were sent.
    #[error("{peer:#} answered a probe wrongly")]
    BadProbe {
        /// The peer.
        peer: HostId,
    },
    /// The protocol has an accepter already.
    #[error("streams of {0} are accepted elsewhere already")]
    AlreadyAccepted(Protocol),
    /// This node was started without gossip.
    #[error("this node does not gossip")]
    GossipOff,
    /// Nobody is subscribed yet; publish again once a peer is connected.
    #[error("no peer takes part in gossip yet")]
    NoGossipPeers,
    /// These very bytes were published or received already.
    #[error("these bytes were published already")]
    AlreadyPublished,
    /// The bytes exceed a limit.
    #[error("{len} bytes exceed the limit of {cap}")]
    TooLarge {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        cap: usize,
    },
    /// A queue is full; try again later.
    #[error("too much is under way: {0}")]
    Busy(&'static str),
    /// The node has been shut down.
    #[error("the mesh has been shut down")]
    Stopped,
}
