//! One long-lived stream per peer, kept for many frames (PROTOCOL 2), whichever side opened it.
//!
//! Both sides may open one at the same time, and a peer that restarts leaves one behind: [`STREAMS_PER_PEER_MAX`] are
//! read, and the newest is written. What a stream brought before it was ended here may still be queued:
//! [`Pool::is_live`] tells.
//!
//! [`Pool::send`] never waits: a frame for a peer without a stream starts one, a frame for a peer that does not keep up
//! ends its stream. What happens on the streams comes out as [`PoolEvent`]s; reading never waits for writing, so symmetric
//! back-pressure cannot stall a stream.
//!
//! Each stream has the version of the protocol on which both ends agreed. The first byte of a frame is the version that it
//! needs: neither end lets a later one pass.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wayfare_protocol::{ids::HostId, quota::Quota, reject::Reject};

use crate::door::Party;
use crate::inbox::{Inlet, Outlet, PoolEvents, inbox};
use crate::limits::FRAME_SHARES;
use crate::{FrameError, FrameReader, FrameWriter, Incoming, Net, Protocol, Stream};

/// Frames that wait for one peer. More: the stream is ended.
const QUEUED_FRAMES_MAX: usize = 1024;
/// Bytes of frames that wait for one peer, unless it is one frame. More: the stream is ended. (By their number alone, a peer that
/// asks for much and does not read would take gigabytes.)
const QUEUED_BYTES_MAX: usize = 32 * 1024 * 1024;
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
        /// Why, for people; a frame that was refused says so.
        reason: String,
        /// What the peer did that ended it: a frame beyond the cap, or of a later version than the stream's.
        reject: Option<Reject>,
    },
    /// A frame was not sent: it is of a later version than the stream's, so this peer would not understand it. The stream
    /// goes on.
    Unsent {
        /// The other end, authenticated.
        peer: HostId,
        /// The version of the stream.
        version: u8,
        /// The version that the frame needs.
        needs: u8,
    },
}

/// A stream, from its opening until its end has been reported, or it was ended here for good.
struct Link {
    id: u64,
    frames: mpsc::Sender<Bytes>,
    queued: Arc<Backlog>,
    cancel: CancellationToken,
    cap: watch::Sender<usize>,
}

/// What waits to be written on one stream.
#[derive(Debug, Default)]
struct Backlog {
    bytes: AtomicUsize,
    /// Some of it was written.
    shrunk: Notify,
}

impl Backlog {
    fn written(&self, len: usize) {
        self.bytes.fetch_sub(len, Ordering::AcqRel);
        self.shrunk.notify_one();
    }

    /// Waits until no more than `max` bytes wait. For one task at a time.
    async fn at_most(&self, max: usize) {
        while self.bytes.load(Ordering::Acquire) > max {
            self.shrunk.notified().await;
        }
    }
}

impl Link {
    /// Whether frames that are queued now can still go out.
    fn is_writable(&self) -> bool {
        !self.frames.is_closed() && !self.cancel.is_cancelled()
    }

    /// Queues a frame; `false` if there is no room. Only the pool's owner adds, so there is no race for the last place.
    fn queue(&self, bytes: Bytes) -> bool {
        let (waiting, len) = (self.queued.bytes.load(Ordering::Acquire), bytes.len());
        if waiting > 0 && waiting + len > QUEUED_BYTES_MAX {
            return false;
        }
        self.queued.bytes.fetch_add(len, Ordering::AcqRel);
        self.frames.try_send(bytes).is_ok()
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
    events: Inlet,
    /// What a frame of a peer weighs, and what is left to whom; `None` where whoever sends is trusted.
    meter: Option<FrameMeter>,
    /// A peer is not read while more than this waits for it.
    backlog_max: usize,
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
    ) -> (Self, PoolEvents) {
        let (events, queue) = inbox(PEERS_MAX * STREAMS_PER_PEER_MAX);
        let (links, meter) = (HashMap::new(), None);
        let pool = Self {
            net,
            protocol,
            cap,
            first_cap: cap,
            links,
            next_id: 0,
            events,
            meter,
            backlog_max: usize::MAX,
            tracker,
            shutdown,
        };
        (pool, queue)
    }

    /// Every frame that a peer sends costs it `weight` of its share ([`FRAME_SHARES`]), before it is looked at. Who has used up
    /// its share waits: its streams are not read meanwhile.
    pub fn set_weight(&mut self, weight: fn(&[u8]) -> u32) {
        self.meter = Some(FrameMeter { weight, quota: Arc::new(Mutex::new(Quota::new(FRAME_SHARES))) });
    }

    /// Streams that are open, or being opened.
    pub fn streams(&self) -> usize {
        self.links.values().map(Vec::len).sum()
    }

    /// From now on new streams are not read while more than `bytes` wait to be written on them: who asks for much and does not read
    /// the answers is not asked what else it wants. Only for one end of a protocol, lest both wait for each other.
    pub const fn set_backlog_max(&mut self, bytes: usize) {
        self.backlog_max = bytes;
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
        let Some((task, frames)) = self.link(peer, self.first_cap) else { return };
        drop(self.tracker.spawn(task.run(stream, frames)));
    }

    /// Queues a frame for `peer`; without a stream, opens one to `addresses` first. With no addresses and no stream, the
    /// frame is dropped: the peer is to open one.
    pub fn send(&mut self, peer: HostId, addresses: &[String], bytes: Bytes) {
        if let Some(link) = self.newest(peer) {
            if !link.queue(bytes) {
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
            let _ = link.queue(bytes);
        }
    }

    /// Opens a stream to `peer` if there is none: [`PoolEvent::Opened`] or [`PoolEvent::Closed`] says how it went.
    pub fn connect(&mut self, peer: HostId, addresses: &[String]) {
        if self.has(peer) {
            return;
        }
        let Some((task, frames)) = self.link(peer, self.cap) else { return };
        let (net, addresses, protocol) = (self.net.clone(), addresses.to_vec(), self.protocol);
        self.tracker.spawn(async move {
            let opened = tokio::select! {
                biased;
                () = task.cancel.cancelled() => return task.closed("closed here".to_owned(), None).await,
                opened = net.open(peer, &addresses, protocol) => opened,
            };
            match opened {
                Ok(stream) => task.run(stream, frames).await,
                Err(error) => task.closed(error.to_string(), None).await,
            }
        });
    }

    /// Whether this stream's first frame was accepted, or needed not be: see [`set_first_cap`](Self::set_first_cap).
    pub fn is_known(&self, peer: HostId, id: u64) -> bool {
        let mut links = self.links.get(&peer).into_iter().flatten();
        links.any(|link| link.id == id && *link.cap.borrow() >= self.cap)
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

    /// A new stream of `peer`; `None` if more streams are new than can be.
    fn link(&mut self, peer: HostId, cap: usize) -> Option<(StreamTask, mpsc::Receiver<Bytes>)> {
        let events = self.events.outlet(self.cap)?;
        self.next_id += 1;
        let id = self.next_id;
        let (frames, queue) = mpsc::channel(QUEUED_FRAMES_MAX);
        let cancel = self.shutdown.child_token();
        let (raise, raised) = watch::channel(cap);
        let links = self.links.entry(peer).or_default();
        if links.len() >= STREAMS_PER_PEER_MAX {
            links.remove(0).cancel.cancel();
        }
        let queued: Arc<Backlog> = Arc::default();
        links.push(Link { id, frames, queued: Arc::clone(&queued), cancel: cancel.clone(), cap: raise });
        let (net, cap, meter, backlog_max) = (self.net.clone(), self.cap, self.meter.clone(), self.backlog_max);
        Some((StreamTask { net, peer, id, cap, raised, queued, backlog_max, events, meter, cancel }, queue))
    }
}

struct StreamTask {
    net: Net,
    peer: HostId,
    id: u64,
    /// Of what is written; and, once it is raised to this, of what is read.
    cap: usize,
    raised: watch::Receiver<usize>,
    queued: Arc<Backlog>,
    backlog_max: usize,
    events: Outlet,
    meter: Option<FrameMeter>,
    cancel: CancellationToken,
}

/// What frames cost, and what is left to whom. Shared by all streams of a pool, so that a new stream is no new share.
#[derive(Clone)]
struct FrameMeter {
    weight: fn(&[u8]) -> u32,
    quota: Arc<Mutex<Quota<Party>>>,
}

impl FrameMeter {
    /// How long `frame` of `peer` has to wait.
    fn charge(&self, net: &Net, peer: HostId, frame: &[u8]) -> Duration {
        let weight = (self.weight)(frame);
        if weight == 0 {
            return Duration::ZERO;
        }
        let (now, party) = (net.door().now(), net.door().party(peer));
        let mut quota = self.quota.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_micros(quota.charge(now, &party, weight).since(now).0)
    }
}

impl StreamTask {
    async fn run(mut self, stream: Stream, mut frames: mpsc::Receiver<Bytes>) {
        if !self.events.send(PoolEvent::Opened { peer: self.peer, id: self.id }).await {
            return;
        }
        let version = stream.version();
        let (read_half, write_half) = tokio::io::split(stream);
        let mut writer = FrameWriter::new(write_half, self.cap).with_stall(WRITE_STALL);
        let (net, peer, id, events, queued) = (&self.net, self.peer, self.id, &self.events, &self.queued);
        let write = async {
            while let Some(bytes) = frames.recv().await {
                match write_batch(&mut writer, version, bytes, &mut frames, queued).await {
                    Ok(None) => {}
                    Ok(Some(needs)) => {
                        net.count_unsent();
                        // Without a reader the owner has gone, and needs no news.
                        let _ = events.send(PoolEvent::Unsent { peer, version, needs }).await;
                    }
                    Err(error) => return error.to_string(),
                }
            }
            // The pool has let go of this stream: its token, or the end of the peer's bytes, ends it.
            std::future::pending().await
        };
        let mut reader = FrameReader::new(read_half, *self.raised.borrow());
        let (raised, full, meter, backlog_max) = (&mut self.raised, self.cap, &self.meter, self.backlog_max);
        let read = async {
            loop {
                queued.at_most(backlog_max).await;
                match reader.read().await {
                    Ok(bytes) => {
                        if let Some(later) = needed(&bytes).filter(|needed| *needed > version) {
                            let reason = format!("it sent a frame of version {later} on a stream of version {version}");
                            return (reason, Some(Reject::WrongVersion));
                        }
                        let wait = meter.as_ref().map_or(Duration::ZERO, |meter| meter.charge(net, peer, &bytes));
                        if !wait.is_zero() {
                            net.count_delayed();
                            tokio::time::sleep(wait).await;
                        }
                        if !events.send(PoolEvent::Frame { peer, id, bytes }).await {
                            return ("the node is stopping".to_owned(), None);
                        }
                        if raised.wait_for(|cap| *cap >= full).await.is_err() {
                            return ("closed here".to_owned(), None);
                        }
                        reader.set_cap(full);
                    }
                    Err(error) => {
                        let too_large = matches!(error, FrameError::TooLarge { .. });
                        return (error.to_string(), too_large.then_some(Reject::FrameTooLarge));
                    }
                }
            }
        };
        let (reason, reject) = tokio::select! {
            biased;
            () = self.cancel.cancelled() => ("closed here".to_owned(), None),
            reason = write => (reason, None),
            end = read => end,
        };
        self.closed(reason, reject).await;
    }

    async fn closed(&self, reason: String, reject: Option<Reject>) {
        let event = PoolEvent::Closed { peer: self.peer, id: self.id, reason, reject };
        // Without a reader the owner has gone, and needs no news.
        let _ = self.events.send(event).await;
    }
}

/// The version that a frame needs.
fn needed(frame: &[u8]) -> Option<u8> {
    frame.first().copied()
}

/// Writes `first` and what else waits, as far as one batch goes, and flushes; not what `version` does not have. The batch
/// ends there: the version that the frame needs.
async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    version: u8,
    first: Bytes,
    frames: &mut mpsc::Receiver<Bytes>,
    queued: &Backlog,
) -> Result<Option<u8>, FrameError> {
    let (mut bytes, mut size, mut count) = (first, 0, 0);
    let unsent = loop {
        if let Some(later) = needed(&bytes).filter(|needed| *needed > version) {
            queued.written(bytes.len());
            break Some(later);
        }
        size += bytes.len();
        count += 1;
        writer.feed(&bytes).await?;
        queued.written(bytes.len());
        if size >= BATCH_BYTES_MAX || count >= BATCH_FRAMES_MAX {
            break None;
        }
        match frames.try_recv() {
            Ok(next) => bytes = next,
            Err(_) => break None,
        }
    };
    writer.flush().await?;
    Ok(unsent)
}
