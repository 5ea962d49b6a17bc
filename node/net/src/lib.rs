//! Wayfare's mesh: the only user of libp2p, shared by node and registry.
//!
//! [`Net`] is a node on the mesh. It gossips signed adverts (bytes to this crate), opens and accepts streams to peers
//! that the transport has authenticated, and measures round-trip times. [`Stream`]s carry [frames]. Every dial
//! goes through a [`Connector`], where a test bed may put delay. What the bytes mean is decided elsewhere: see
//! `wayfare-protocol`.
//!
//! Read `net.rs` first, then `driver.rs` (the task that owns the swarm) and `substreams.rs` (streams and dials).
#![forbid(unsafe_code)]

mod bootstrap;
mod connector;
mod counters;
mod discovery;
mod door;
mod driver;
mod error;
pub mod frames;
mod gossip;
mod gossip_gate;
mod handler;
mod identity;
mod inbound;
mod inbox;
pub mod limits;
mod metered;
mod net;
mod news;
mod opener;
mod peers;
mod pool;
mod probe;
mod race;
mod stream;
mod substreams;
mod target;
mod transport;
mod witness;

pub use connector::{Connection, Connector, DirectConnector};
pub use counters::NetCounters;
pub use error::NetError;
pub use frames::{FrameError, FrameReader, FrameWriter};
pub use gossip::GossipId;
pub use identity::{named_host, with_host};
pub use inbound::Incoming;
pub use inbox::PoolEvents;
pub use limits::NetLimits;
pub use net::{Net, NetConfig, NetEvent};
pub use peers::Incompatible;
pub use pool::{Pool, PoolEvent};
pub use stream::{Protocol, Stream};
pub use target::{furthest_first, with_quic};
pub use tokio_util::sync::CancellationToken;
pub use wayfare_protocol::advert::Verdict;
pub use witness::{Watched, Witness};
