//! Emulated distance: connections over loopback TCP that take as long as the matrix says.
//!
//! An [`Emulator`] knows the matrix, the row on which each node stands now ([`Emulator::set_row`] moves it, connections
//! that are open included) and the addresses at which each listens. A node dials through its
//! [`Emulator::connector_for`]. The dial takes one round trip; then every piece of data takes half the round trip between
//! the two rows of that moment, in each direction, in order, clean and unclean ends included. Since each connection is
//! dialled by one end, both directions of every link are delayed exactly once, and no other code knows of it.
//!
//! Two nodes on the same row are [`LOCAL_RTT_US`](crate::matrix::LOCAL_RTT_US) apart, or as
//! [`LatencyMatrix::with_local_rtt_us`] says. What loopback itself takes (0.1 to 0.3 ms a round trip) comes on top.
//!
//! `stream` holds the connection, `lane` its queues and their bounds, `timer` the clock, `connector` the adapter to
//! `wayfare-net`.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::matrix::LatencyMatrix;

mod connector;
mod lane;
mod stream;
mod timer;

pub use lane::LANE_BYTES_MAX;
pub use stream::Delayed;
pub use timer::{Sleep, Timer};

/// The most nodes in one emulator.
pub const NODES_MAX: usize = 4096;

/// A node that an [`Emulator`] knows. Of another emulator it means nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct NodeId(usize);

/// The distances between the nodes of one run. Clones share everything.
#[derive(Clone, Debug)]
pub struct Emulator(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    matrix: Arc<LatencyMatrix>,
    timer: Timer,
    nodes: RwLock<Nodes>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Debug, Default)]
struct Nodes {
    rows: Vec<Arc<AtomicUsize>>,
    listening: BTreeMap<SocketAddr, NodeId>,
}

/// Why the emulator refused. Nothing has changed then.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says what its fields say")]
pub enum EmulatorError {
    #[error("there is no row {row}, the matrix has {rows} rows: name one from 0 to {}", rows.saturating_sub(1))]
    NoSuchRow { row: usize, rows: usize },
    #[error("an emulator holds {NODES_MAX} nodes at most: run fewer")]
    TooManyNodes,
    #[error("node {0:?} was not added to this emulator: add it first")]
    NoSuchNode(NodeId),
}

impl Emulator {
    /// An emulator without nodes. It starts the timer thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn new(matrix: Arc<LatencyMatrix>) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            matrix,
            timer: Timer::start()?,
            nodes: RwLock::default(),
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        })))
    }

    /// The clock by which data is delivered, for whoever needs its precision as well.
    pub fn timer(&self) -> &Timer {
        &self.0.timer
    }

    /// The matrix.
    pub fn matrix(&self) -> &LatencyMatrix {
        &self.0.matrix
    }

    /// Adds a node that stands on this row.
    ///
    /// # Errors
    /// There is no such row, or there are [`NODES_MAX`] nodes.
    pub fn add_node(&self, row: usize) -> Result<NodeId, EmulatorError> {
        self.check_row(row)?;
        let mut nodes = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if nodes.rows.len() >= NODES_MAX {
            return Err(EmulatorError::TooManyNodes);
        }
        nodes.rows.push(Arc::new(AtomicUsize::new(row)));
        Ok(NodeId(nodes.rows.len() - 1))
    }

    /// Says that the node listens at this address, which others may dial from then on. An address that is registered
    /// again belongs to the later node.
    ///
    /// # Errors
    /// The node is not of this emulator.
    pub fn register(&self, node: NodeId, listening: SocketAddr) -> Result<(), EmulatorError> {
        self.row_of(node).ok_or(EmulatorError::NoSuchNode(node))?;
        let mut nodes = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.listening.insert(listening, node);
        Ok(())
    }

    /// Moves the node. Data already on its way keeps the time at which it arrives; all that follows takes the new delay,
    /// but does not overtake. A row from which an open connection's other end cannot be reached breaks that connection.
    ///
    /// # Errors
    /// There is no such row, or the node is not of this emulator.
    pub fn set_row(&self, node: NodeId, row: usize) -> Result<(), EmulatorError> {
        self.check_row(row)?;
        self.row_of(node).ok_or(EmulatorError::NoSuchNode(node))?.store(row, Ordering::Relaxed);
        Ok(())
    }

    /// Where the node stands now.
    pub fn row(&self, node: NodeId) -> Option<usize> {
        Some(self.row_of(node)?.load(Ordering::Relaxed))
    }

    /// The round trip between two nodes as they stand now, in microseconds, if it is known.
    pub fn rtt_us(&self, from: NodeId, to: NodeId) -> Option<u32> {
        self.0.matrix.rtt_us(self.row(from)?, self.row(to)?)
    }

    /// Dials a registered address from a node. Nothing happens before the first poll; dropping the future stops it.
    ///
    /// # Errors
    /// The target is not registered, the matrix does not know the link, or the connection fails; a refusal, too, takes a
    /// round trip.
    pub fn dial(&self, from: NodeId, target: SocketAddr) -> impl Future<Output = io::Result<Delayed>> + Send + 'static {
        let shared = Arc::clone(&self.0);
        async move {
            let link = shared.link(from, target)?;
            shared.timer.sleep_until(Instant::now() + link.one_way()?).await;
            let connected = TcpStream::connect(target).await.and_then(|tcp| {
                tcp.set_nodelay(true)?;
                Ok(Delayed::spawn(tcp, link.clone(), shared.timer.clone(), &shared.tracker, &shared.shutdown))
            });
            shared.timer.sleep_until(Instant::now() + link.one_way()?).await;
            connected
        }
    }

    /// Stops all connections, what is on its way included, and waits until their tasks are gone.
    pub async fn shutdown(&self) {
        self.0.shutdown.cancel();
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    fn check_row(&self, row: usize) -> Result<(), EmulatorError> {
        let rows = self.0.matrix.rows();
        if row < rows { Ok(()) } else { Err(EmulatorError::NoSuchRow { row, rows }) }
    }

    fn row_of(&self, node: NodeId) -> Option<Arc<AtomicUsize>> {
        self.0.nodes.read().unwrap_or_else(PoisonError::into_inner).rows.get(node.0).cloned()
    }
}

impl Shared {
    fn link(&self, from: NodeId, target: SocketAddr) -> io::Result<Link> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let Some(to) = nodes.listening.get(&target).and_then(|to| nodes.rows.get(to.0)) else {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("no node is registered at {target}: register its address before it is dialled"),
            ));
        };
        let Some(from) = nodes.rows.get(from.0) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, EmulatorError::NoSuchNode(from)));
        };
        Ok(Link { matrix: Arc::clone(&self.matrix), from: Arc::clone(from), to: Arc::clone(to) })
    }
}

/// The two ends of a connection, wherever they stand.
#[derive(Clone, Debug)]
struct Link {
    matrix: Arc<LatencyMatrix>,
    from: Arc<AtomicUsize>,
    to: Arc<AtomicUsize>,
}

impl Link {
    /// Half the round trip between the rows of this moment.
    fn one_way(&self) -> io::Result<Duration> {
        let rtt_us = self.matrix.require(self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed));
        let rtt_us = rtt_us.map_err(|e| io::Error::new(io::ErrorKind::NetworkUnreachable, e))?;
        Ok(Duration::from_nanos(u64::from(rtt_us) * 500))
    }
}

#[cfg(test)]
mod tests;
