//! Every bound of this crate, and what happens when it is reached.

use std::time::Duration;

use wayfare_protocol::quota::{Rate, Shares};

/// Events waiting for the owner of a `Net`. When full, gossip is dropped and counted (the sender's mesh will offer it
/// again, and adverts repeat); changes of peers wait and may be merged.
pub const EVENTS_MAX: usize = 256;

/// Commands (open, connect, publish) waiting for the swarm task. When full, callers wait.
pub(crate) const COMMANDS_MAX: usize = 64;

/// Verdicts on gossip waiting for the swarm task. When full, a verdict is dropped and counted, which equals `Ignore`.
pub(crate) const VERDICTS_MAX: usize = 2 * EVENTS_MAX;

/// Streams of one protocol that peers have opened and nobody has taken yet. When full, a stream is reset and counted.
pub const INBOUND_STREAMS_MAX: usize = 64;

/// Calls waiting for a connection, over all peers. When full, a call fails with `Busy`.
pub(crate) const CALLS_WAITING_MAX: usize = 1024;

/// Streams waiting to be negotiated on one connection. When full, a call fails with `Busy`.
pub(crate) const OPENS_PER_CONNECTION_MAX: usize = 128;

/// Streams that a peer may have open on one connection; yamux resets what exceeds it. Of each, 256 KiB may have arrived without
/// being read; more (up to 1 GiB for a connection) only where they are read as fast as they come.
pub(crate) const STREAMS_PER_CONNECTION_MAX: usize = 128;

/// Inbound streams of one connection under negotiation; libp2p drops what exceeds it.
pub(crate) const NEGOTIATING_PER_CONNECTION_MAX: usize = 32;

/// Addresses tried for one peer; the rest is ignored.
pub const ADDRESSES_PER_PEER_MAX: usize = 8;

/// Bootstrap addresses; more are refused at start.
pub const BOOTSTRAP_MAX: usize = 64;

/// Handshakes under way with peers behind one address; more are refused.
pub const HANDSHAKES_PER_SOURCE_MAX: usize = 64;

/// Handshakes under way that others have begun, over all addresses; more are refused. One that is not done within
/// `dial_timeout` has failed.
pub const HANDSHAKES_MAX: usize = 256;

/// Handshakes that others begin. One costs about half a millisecond; beyond this a connection is closed as it is accepted.
pub const HANDSHAKE_SHARES: Shares = Shares {
    own: Rate::new(16, 64),
    spare: Rate::new(128, 512),
    ceiling: Some(Rate::new(512, 1024)),
    parties_max: PARTIES_MAX,
};

/// Bytes that strangers bring by TCP, before they are decrypted; beyond this their sockets are read later.
pub const STRANGER_BYTE_SHARES: Shares = Shares {
    own: Rate::new(256 * 1024, 2 * 1024 * 1024),
    spare: Rate::new(1024 * 1024, 4 * 1024 * 1024),
    ceiling: Some(Rate::new(8 * 1024 * 1024, 16 * 1024 * 1024)),
    parties_max: PARTIES_MAX,
};

/// Streams that peers open; beyond this the connection is closed.
pub const STREAM_SHARES: Shares =
    Shares { own: Rate::new(256, 1024), spare: Rate::new(512, 1024), ceiling: None, parties_max: PARTIES_MAX };

/// Weight of frames (about one signature each, see `wayfare_protocol::quota`) that peers send over streams of one protocol;
/// beyond this they wait unread.
pub const FRAME_SHARES: Shares =
    Shares { own: Rate::new(500, 1000), spare: Rate::new(2000, 2000), ceiling: None, parties_max: PARTIES_MAX };

/// Gossiped messages by the peer that passes them on, copies included: a node hears each advert from a few peers, and clouds
/// advertise every ten seconds. Beyond this they are refused before gossipsub keeps them, and held against the peer.
pub const GOSSIP_SHARES: Shares = Shares {
    own: Rate::new(200, 800),
    spare: Rate::new(400, 800),
    ceiling: Some(Rate::new(4000, 8000)),
    parties_max: PARTIES_MAX,
};

/// Calls of gossipsub, of which each carries messages or control; beyond this the connection is closed.
pub const CALL_SHARES: Shares =
    Shares { own: Rate::new(500, 2000), spare: Rate::new(1000, 2000), ceiling: None, parties_max: PARTIES_MAX };

/// Parties whose use is remembered; more share what is spare.
const PARTIES_MAX: usize = 4096;

/// Peers that are known as members; the one vouched for first is a stranger again.
pub(crate) const MEMBERS_KNOWN_MAX: usize = 8192;

/// Frames and news of one stream that wait for its owner. More: reading from it waits.
pub(crate) const STREAM_EVENTS_MAX: usize = 64;

/// Bytes of frames of one stream that wait for its owner, unless one frame alone may have more.
pub(crate) const STREAM_QUEUED_BYTES: usize = 256 * 1024;

/// Connections that are accepted and refused before the swarm's task does something else.
pub(crate) const REFUSED_IN_A_ROW_MAX: usize = 32;

/// Connections that this node has begun; more are refused.
pub(crate) const CONNECTIONS_PENDING_MAX: u32 = 64;

/// Peers whose addresses identify remembers; the least recently used goes first.
pub(crate) const PEERS_REMEMBERED_MAX: usize = 256;

/// An advert on the wire; a longer one is refused by `publish`, and by every peer.
pub const GOSSIP_BYTES_MAX: usize = 4096;

/// What gossipsub adds to an advert: the topic's name and the tags and lengths of protobuf.
pub(crate) const GOSSIP_ENVELOPE_BYTES: usize = 64;

/// What gossipsub reads of a stream before it decodes. It compares *everything that has arrived* with this, read in
/// steps of 8 KiB, so that a bound near the length of one advert would end streams on which two arrive together.
pub(crate) const GOSSIP_RPC_BYTES_MAX: usize = 32 * 1024;

/// Control messages of gossipsub in one remote procedure call.
pub(crate) const GOSSIP_CONTROL_MAX: usize = 256;

/// Messages queued to one peer; gossipsub drops what exceeds it and lowers the peer's score.
pub(crate) const GOSSIP_QUEUE_MAX: usize = 256;

/// How long a message id is remembered: above the lifetime of an advert (60 s), so that none is forwarded twice.
pub(crate) const GOSSIP_DUPLICATE_TIME: Duration = Duration::from_secs(120);

/// The heartbeat of gossipsub: how soon a new peer joins the mesh.
pub(crate) const GOSSIP_HEARTBEAT: Duration = Duration::from_millis(500);

/// Heartbeats for which a message is kept; a verdict that comes later than this does nothing.
pub(crate) const GOSSIP_HISTORY: usize = 20;

/// Heartbeats for which a kept message is offered to peers outside the mesh.
pub(crate) const GOSSIP_HISTORY_OFFERED: usize = 6;

/// Connected peers whose description is kept: the limit of connections. What exceeds it is treated as compatible.
pub(crate) const PEERS_DESCRIBED_MAX: usize = 1024;

/// Incompatible peers that are listed for people; the oldest makes room.
pub(crate) const INCOMPATIBLE_MAX: usize = 64;

/// Characters of what a peer says that its program is; it is cut.
pub(crate) const AGENT_CHARS_MAX: usize = 48;

/// Versions of a peer that are listed; the oldest are left out.
pub(crate) const VERSIONS_SHOWN_MAX: usize = 8;

/// How long a refused stream waits for the peer to say what it speaks: a round trip after the connection, usually.
pub(crate) const IDENTIFY_TIME: Duration = Duration::from_secs(1);

/// How long a dial by QUIC waits for one by TCP to the same peer: a handshake over TCP takes four round trips at most, of
/// which the longest on earth is about this. Only where TCP's packets vanish does anybody wait for so long.
pub(crate) const HEAD_START: Duration = Duration::from_millis(800);

/// mDNS records that are kept. More come only from a hostile LAN: then mDNS is switched off until the node starts again.
pub(crate) const MDNS_RECORDS_MAX: usize = 512;

/// Peers found by mDNS that a node connects to by itself; those that it looks for (its Registries) always.
pub(crate) const MDNS_PEERS_WANTED: usize = 8;

/// How often mDNS asks who is there; at first more often.
pub(crate) const MDNS_INTERVAL: Duration = Duration::from_secs(15);

/// The first wait before a bootstrap address is dialled again; it doubles up to `REDIAL_MAX`.
pub(crate) const REDIAL_MIN: Duration = Duration::from_millis(200);

/// The longest wait before a bootstrap address is dialled again.
pub(crate) const REDIAL_MAX: Duration = Duration::from_secs(5);

/// How long a connection without any stream is kept.
pub(crate) const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(600);

/// How long `start` waits for the operating system to report a listener's addresses.
pub(crate) const LISTEN_TIME: Duration = Duration::from_secs(5);

/// Peers with a probe stream that we opened; the least recently probed is closed for a new one.
pub const PROBES_MAX: usize = 128;

/// Probes of one peer waiting for their turn. When full, callers wait.
pub(crate) const PROBE_QUEUE_MAX: usize = 8;

/// Probe streams that we answer, over all peers; more are reset.
pub(crate) const PROBE_ANSWERS_MAX: usize = 256;

/// Probe streams that we answer for one peer; more are reset. Above one, since a peer that restarts leaves one behind.
pub(crate) const PROBE_ANSWERS_PER_PEER_MAX: usize = 4;

/// A probe stream, on either side, that was silent for so long is closed.
pub(crate) const PROBE_IDLE_TIME: Duration = Duration::from_secs(300);

/// What a frame reader reserves at first; longer frames grow as their bytes arrive, so that a length alone costs nothing.
pub(crate) const FRAME_RESERVE_BYTES: usize = 256 * 1024;

/// Bytes that a peer's system does not acknowledge for so long end the connection. (Otherwise a vanished host is noticed
/// after a quarter of an hour, and what was sent to it, a renewal say, is neither lost nor delivered.)
pub(crate) const TCP_UNACKNOWLEDGED_TIME: Duration = Duration::from_secs(10);

/// A connection that was idle for so long is probed.
pub(crate) const TCP_KEEPALIVE_TIME: Duration = Duration::from_secs(5);

/// Between two probes of an idle connection.
pub(crate) const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Probes without an answer that end a connection.
pub(crate) const TCP_KEEPALIVE_PROBES: u32 = 3;

/// What a frame writer collects before it writes on its own.
pub(crate) const FRAME_COLLECT_BYTES: usize = 64 * 1024;

/// Characters of an error's reason; peers influence it, so it is cut.
pub(crate) const REASON_CHARS_MAX: usize = 400;

/// The limits that a deployment may need to change. `Default` fits a node in a mesh of a few hundred.
#[derive(Clone, Debug)]
pub struct NetLimits {
    /// Established connections in all; three quarters of them may be inbound, so that strangers cannot take every slot.
    pub connections_max: u32,
    /// Established connections with one peer. At least 2, since both ends may dial at the same time.
    pub connections_per_peer_max: u32,
    /// How long one dial may take, with its handshake.
    pub dial_timeout: Duration,
    /// How long `open` and `connect` may take, with the dial where one is needed. A connection on which the
    /// negotiation of a stream takes half of this is taken for dead and closed.
    pub open_timeout: Duration,
    /// How long the answer to a probe may take, once its stream is open.
    pub probe_timeout: Duration,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_per_peer_max: 4,
            dial_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(8),
            probe_timeout: Duration::from_secs(3),
        }
    }
}
