//! One long-lived stream per peer, kept for many frames (PROTOCOL 2), whichever side opened it.
//!
//! Both sides may open one at the same time, and a peer that restarts leaves one behind: [`STREAMS_PER_PEER_MAX`] are
//! read, and the newest is written. What a stream brought before it was ended here may still be queued:
//! [`Pool::is_live`] tells.
//!
//! [`Pool::send`] never waits: a frame for a peer without a stream starts one, a frame for a peer that does not keep up
//! ends its stream. What happens on the streams comes out as [`PoolEvent`]s; reading never waits for writing, so symmetric
//! back-pressure cannot stall a stream.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wayfare_protocol::ids::HostId;

use crate::{FrameError, FrameReader, FrameWriter, Incoming, Net, Protocol, Stream};

/// Frames that wait for one peer. More: the stream is ended.
const QUEUED_FRAMES_MAX: usize = 1024;
/// Events that wait for the owner. More: reading from peers waits.
const EVENTS_MAX: usize = 1024;
/// Peers with streams in one pool. More: the peer's is dropped.
const PEERS_MAX: usize = 1024;
/// Streams of one peer. More: the oldest is ended.
const STREAMS_PER_PEER_MAX: usize = 2;
/// A peer that takes no byte for so long has lost its stream.
const WRITE_STALL: Duration = Duration::from_secs(10);
/// Frames, and about how many bytes, that are written before a flush.
const BATCH_FRAMES_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// What happened on the streams of a [`Pool`].
#[derive(Debug)]
pub enum PoolEvent {
    /// A stream of this peer is ready.
    Opened {
        /// The other end, authenticated.
        peer: HostId,
        /// Which of its streams; see [`Pool::handle_closed`].
        id: u64,
    },
    /// A frame arrived.
    Frame {
        /// The other end, authenticated.
        peer: HostId,
        /// Which of its streams.
        id: u64,
        /// The frame's content.
        bytes: Bytes,
    },
    /// A stream ended, or could not be opened.
    Closed {
        /// The other end.
        peer: HostId,
        /// Which of its streams.
        id: u64,
        /// Why, for people; a frame that was too large says so.
        reason: String,
        /// Whether the peer sent a frame beyond the cap.
        too_large: bool,
    },
}

/// A stream, from its opening until its end has been reported, or it was ended here for good.
struct Link {
    id: u64,
    frames: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
    cap: watch::Sender<usize>,
}

impl Link {
    /// Whether frames that are queued now can still go out.
    fn is_writable(&self) -> bool {
        !self.frames.is_closed() && !self.cancel.is_cancelled()
    }
}

/// The streams of one protocol. Owned by one task, which also reads the events.
pub struct Pool {
    net: Net,
    protocol: Protocol,
    cap: usize,
    /// The cap of streams that peers open, until [`Pool::raise_cap`].
    first_cap: usize,
    /// Each peer's streams, oldest first; never none.
    links: HashMap<HostId, Vec<Link>>,
    next_id: u64,
    events: mpsc::Sender<PoolEvent>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("protocol", &self.protocol)
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `protocol`'s streams with frames of at most `cap` bytes.
    pub fn new(
        net: Net,
        protocol: Protocol,
        cap: usize,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> (Self, mpsc::Receiver<PoolEvent>) {
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        let pool =
            Self { net, protocol, cap, first_cap: cap, links: HashMap::new(), next_id: 0, events, tracker, shutdown };
        (pool, queue)
    }

    /// Streams that are open, or being opened.
    pub fn streams(&self) -> usize {
        self.links.values().map(Vec::len).sum()
    }

    /// From now on, a stream that a peer opens may bring one frame of at most `cap` bytes, and is not read any further
    /// until the owner knows who it is: see [`raise_cap`](Self::raise_cap).
    pub fn set_first_cap(&mut self, cap: usize) {
        self.first_cap = cap.min(self.cap);
    }

    /// The owner has accepted the stream's first frame: the stream is read on, with the pool's cap.
    pub fn raise_cap(&self, peer: HostId, id: u64) {
        if let Some(link) = self.links.get(&peer).into_iter().flatten().find(|link| link.id == id) {
            link.cap.send_if_modified(|cap| std::mem::replace(cap, self.cap) < self.cap);
        }
    }

    /// Takes over a stream that a peer opened: from now on it is the peer's stream.
    pub fn accept(&mut self, incoming: Incoming) {
        if self.links.len() >= PEERS_MAX && !self.links.contains_key(&incoming.0) {
            return;
        }
        let (peer, stream) = incoming;
        let (task, frames) = self.link(peer, self.first_cap);
        drop(self.tracker.spawn(task.run(stream, frames)));
    }

    /// Queues a frame for `peer`; without a stream, opens one to `addresses` first. With no addresses and no stream, the
    /// frame is dropped: the peer is to open one.
    pub fn send(&mut self, peer: HostId, addresses: &[String], bytes: Bytes) {
        if let Some(link) = self.newest(peer) {
            if link.frames.try_send(bytes).is_err() {
                // It does not keep up: what matters will be asked for again, on a new stream.
                link.cancel.cancel();
            }
            return;
        }
        if addresses.is_empty() {
            return;
        }
        self.connect(peer, addresses);
        if let Some(link) = self.newest(peer) {
            // The queue is new: there is room.
            let _ = link.frames.try_send(bytes);
        }
    }

    /// Opens a stream to `peer` if there is none: [`PoolEvent::Opened`] or [`PoolEvent::Closed`] says how it went.
    pub fn connect(&mut self, peer: HostId, addresses: &[String]) {
        if self.has(peer) {
            return;
        }
        let (task, frames) = self.link(peer, self.cap);
        let (net, addresses, protocol) = (self.net.clone(), addresses.to_vec(), self.protocol);
        self.tracker.spawn(async move {
            let opened = tokio::select! {
                biased;
                () = task.cancel.cancelled() => return task.closed("closed here".to_owned(), false).await,
                opened = net.open(peer, &addresses, protocol) => opened,
            };
            match opened {
                Ok(stream) => task.run(stream, frames).await,
                Err(error) => task.closed(error.to_string(), false).await,
            }
        });
    }

    /// Whether `peer` has a stream, or one is being opened.
    pub fn has(&self, peer: HostId) -> bool {
        self.newest(peer).is_some()
    }

    /// Whether this stream was not ended here: else what it brought, and is still queued, is not to be looked at.
    pub fn is_live(&self, peer: HostId, id: u64) -> bool {
        let mut links = self.links.get(&peer).into_iter().flatten();
        links.any(|link| link.id == id && !link.cancel.is_cancelled())
    }

    /// Ends all streams of the peer: it broke the rules.
    pub fn close(&mut self, peer: HostId) {
        for link in self.links.remove(&peer).into_iter().flatten() {
            link.cancel.cancel();
        }
    }

    /// The owner has read [`PoolEvent::Closed`]. True if that was the last live stream of the peer: the peer is lost.
    /// False if the owner has closed the peer itself.
    pub fn handle_closed(&mut self, peer: HostId, id: u64) -> bool {
        let Some(links) = self.links.get_mut(&peer) else { return false };
        links.retain(|link| link.id != id);
        let last = links.is_empty();
        if last {
            self.links.remove(&peer);
        }
        last
    }

    /// The stream to write to. An older one is read to its end, and written again should the newer end before it.
    fn newest(&self, peer: HostId) -> Option<&Link> {
        self.links.get(&peer)?.iter().rev().find(|link| link.is_writable())
    }

    fn link(&mut self, peer: HostId, cap: usize) -> (StreamTask, mpsc::Receiver<Bytes>) {
        self.next_id += 1;
        let id = self.next_id;
        let (frames, queue) = mpsc::channel(QUEUED_FRAMES_MAX);
        let cancel = self.shutdown.child_token();
        let (raise, raised) = watch::channel(cap);
        let links = self.links.entry(peer).or_default();
        if links.len() >= STREAMS_PER_PEER_MAX {
            links.remove(0).cancel.cancel();
        }
        links.push(Link { id, frames, cancel: cancel.clone(), cap: raise });
        let (cap, events) = (self.cap, self.events.clone());
        (StreamTask { peer, id, cap, raised, events, cancel }, queue)
    }
}

struct StreamTask {
    peer: HostId,
    id: u64,
    /// Of what is written; and, once it is raised to this, of what is read.
    cap: usize,
    raised: watch::Receiver<usize>,
    events: mpsc::Sender<PoolEvent>,
    cancel: CancellationToken,
}

impl StreamTask {
    async fn run(mut self, stream: Stream, mut frames: mpsc::Receiver<Bytes>) {
        if self.events.send(PoolEvent::Opened { peer: self.peer, id: self.id }).await.is_err() {
            return;
        }
        let (read_half, write_half) = tokio::io::split(stream);
        let mut writer = FrameWriter::new(write_half, self.cap).with_stall(WRITE_STALL);
        let write = async {
            while let Some(bytes) = frames.recv().await {
                if let Err(error) = write_batch(&mut writer, bytes, &mut frames).await {
                    return error.to_string();
                }
            }
            // The pool has let go of this stream: its token, or the end of the peer's bytes, ends it.
            std::future::pending().await
        };
        let mut reader = FrameReader::new(read_half, *self.raised.borrow());
        let (raised, full) = (&mut self.raised, self.cap);
        let read = async {
            loop {
                match reader.read().await {
                    Ok(bytes) => {
                        let event = PoolEvent::Frame { peer: self.peer, id: self.id, bytes };
                        if self.events.send(event).await.is_err() {
                            return ("the node is stopping".to_owned(), false);
                        }
                        if raised.wait_for(|cap| *cap >= full).await.is_err() {
                            return ("closed here".to_owned(), false);
                        }
                        reader.set_cap(full);
                    }
                    Err(error) => return (error.to_string(), matches!(error, FrameError::TooLarge { .. })),
                }
            }
        };
        let (reason, too_large) = tokio::select! {
            biased;
            () = self.cancel.cancelled() => ("closed here".to_owned(), false),
            reason = write => (reason, false),
            end = read => end,
        };
        self.closed(reason, too_large).await;
    }

    async fn closed(&self, reason: String, too_large: bool) {
        let event = PoolEvent::Closed { peer: self.peer, id: self.id, reason, too_large };
        // Without a reader the owner has gone, and needs no news.
        let _ = self.events.send(event).await;
    }
}

/// Writes `first` and what else waits, as far as one batch goes, and flushes.
async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    first: Bytes,
    frames: &mut mpsc::Receiver<Bytes>,
) -> Result<(), FrameError> {
    let mut size = first.len();
    writer.feed(&first).await?;
    for _ in 1..BATCH_FRAMES_MAX {
        if size >= BATCH_BYTES_MAX {
            break;
        }
        let Ok(bytes) = frames.try_recv() else { break };
        size += bytes.len();
        writer.feed(&bytes).await?;
    }
    writer.flush().await
}
