//! One long-lived stream per peer, kept for many frames (PROTOCOL 2), whichever side opened it.
//!
//! [`Pool::send`] never waits: a frame for a peer without a stream starts one, a frame for a peer that does not keep up
//! ends its stream. What happens on the streams comes out as [`PoolEvent`]s; reading never waits for writing, so symmetric
//! back-pressure cannot stall a stream.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wayfare_protocol::ids::HostId;

use crate::{FrameError, FrameReader, FrameWriter, Incoming, Net, Protocol, Stream};

/// Frames that wait for one peer. More: the stream is ended.
const QUEUED_FRAMES_MAX: usize = 1024;
/// Events that wait for the owner. More: reading from peers waits.
const EVENTS_MAX: usize = 1024;
/// Streams in one pool. More: the peer's is dropped.
const STREAMS_MAX: usize = 1024;
/// A peer that takes no byte for so long has lost its stream.
const WRITE_STALL: Duration = Duration::from_secs(10);

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

struct Link {
    id: u64,
    frames: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
}

/// The streams of one protocol. Owned by one task, which also reads the events.
pub struct Pool {
    net: Net,
    protocol: Protocol,
    cap: usize,
    links: HashMap<HostId, Link>,
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
        let pool = Self { net, protocol, cap, links: HashMap::new(), next_id: 0, events, tracker, shutdown };
        (pool, queue)
    }

    /// Takes over a stream that a peer opened: from now on it is the peer's stream.
    pub fn accept(&mut self, incoming: Incoming) {
        if self.links.len() >= STREAMS_MAX && !self.links.contains_key(&incoming.0) {
            return;
        }
        let (peer, stream) = incoming;
        let (task, frames) = self.link(peer);
        drop(self.tracker.spawn(task.run(stream, frames)));
    }

    /// Queues a frame for `peer`; without a stream, opens one to `addresses` first. With no addresses and no stream, the
    /// frame is dropped: the peer is to open one.
    pub fn send(&mut self, peer: HostId, addresses: &[String], bytes: Bytes) {
        if let Some(link) = self.links.get(&peer).filter(|link| !link.frames.is_closed()) {
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
        if let Some(link) = self.links.get(&peer) {
            // The queue is new: there is room.
            let _ = link.frames.try_send(bytes);
        }
    }

    /// Opens a stream to `peer` if there is none: [`PoolEvent::Opened`] or [`PoolEvent::Closed`] says how it went.
    pub fn connect(&mut self, peer: HostId, addresses: &[String]) {
        if self.has(peer) {
            return;
        }
        let (task, frames) = self.link(peer);
        let (net, addresses, protocol) = (self.net.clone(), addresses.to_vec(), self.protocol);
        self.tracker.spawn(async move {
            let opened = tokio::select! {
                biased;
                () = task.cancel.cancelled() => return,
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
        self.links.get(&peer).is_some_and(|link| !link.frames.is_closed())
    }

    /// Ends the peer's stream: it broke the rules.
    pub fn close(&mut self, peer: HostId) {
        if let Some(link) = self.links.remove(&peer) {
            link.cancel.cancel();
        }
    }

    /// The owner has read [`PoolEvent::Closed`]. True if that was the peer's only stream: the peer is lost.
    pub fn handle_closed(&mut self, peer: HostId, id: u64) -> bool {
        let last = self.links.get(&peer).is_some_and(|link| link.id == id);
        if last {
            self.links.remove(&peer);
        }
        last
    }

    fn link(&mut self, peer: HostId) -> (StreamTask, mpsc::Receiver<Bytes>) {
        self.next_id += 1;
        let (frames, queue) = mpsc::channel(QUEUED_FRAMES_MAX);
        let cancel = self.shutdown.child_token();
        let link = Link { id: self.next_id, frames, cancel: cancel.clone() };
        // An older stream of the same peer is read to its end, but not written any more.
        self.links.insert(peer, link);
        let task = StreamTask { peer, id: self.next_id, cap: self.cap, events: self.events.clone(), cancel };
        (task, queue)
    }
}

struct StreamTask {
    peer: HostId,
    id: u64,
    cap: usize,
    events: mpsc::Sender<PoolEvent>,
    cancel: CancellationToken,
}

impl StreamTask {
    async fn run(self, stream: Stream, mut frames: mpsc::Receiver<Bytes>) {
        if self.events.send(PoolEvent::Opened { peer: self.peer, id: self.id }).await.is_err() {
            return;
        }
        let (read_half, write_half) = tokio::io::split(stream);
        let mut writer = FrameWriter::new(write_half, self.cap);
        let write = async {
            while let Some(bytes) = frames.recv().await {
                let batch = async {
                    writer.feed(&bytes).await?;
                    while let Ok(bytes) = frames.try_recv() {
                        writer.feed(&bytes).await?;
                    }
                    writer.flush().await
                };
                match tokio::time::timeout(WRITE_STALL, batch).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return "the peer takes no bytes".to_owned(),
                }
            }
            // A newer stream of this peer took over: this one is only read.
            std::future::pending().await
        };
        let mut reader = FrameReader::new(read_half, self.cap);
        let read = async {
            loop {
                match reader.read().await {
                    Ok(bytes) => {
                        let event = PoolEvent::Frame { peer: self.peer, id: self.id, bytes };
                        if self.events.send(event).await.is_err() {
                            return ("the node is stopping".to_owned(), false);
                        }
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
