//! Pools over real streams between nodes on loopback sockets.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Node, within};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use wayfare_net::{FrameError, FrameReader, FrameWriter, Incoming, Pool, PoolEvent, PoolEvents, Protocol, Stream};
use wayfare_protocol::reject::Reject;

const CAP: usize = 1_000_000;

/// A node with a pool, to which others open streams.
struct Server {
    node: Node,
    pool: Pool,
    events: PoolEvents,
    incoming: mpsc::Receiver<Incoming>,
}

impl Server {
    async fn start(seed: u8) -> Self {
        let node = Node::local(seed).await;
        let (pool, events) =
            Pool::new(node.net.clone(), Protocol::Request, CAP, TaskTracker::new(), node.stop.child_token());
        let incoming = node.net.accept(Protocol::Request).expect("nobody else accepts");
        Self { node, pool, events, incoming }
    }

    async fn event(&mut self) -> PoolEvent {
        within("an event", self.events.recv()).await.expect("the pool lives")
    }

    /// Lets `peer` open a stream; its end there, and the number here.
    async fn opened_by(&mut self, peer: &Node) -> (Stream, u64) {
        let addresses = self.node.addresses();
        let opening = peer.net.open(self.node.host(), &addresses, Protocol::Request);
        let (stream, incoming) = tokio::join!(within("a stream", opening), within("a stream", self.incoming.recv()));
        self.pool.accept(incoming.expect("the node runs"));
        match self.event().await {
            PoolEvent::Opened { id, .. } => (stream.expect("the peer is reachable"), id),
            other => unreachable!("{other:?}"),
        }
    }

    /// The next frame's stream and length.
    async fn frame(&mut self) -> (u64, usize) {
        match self.event().await {
            PoolEvent::Frame { id, bytes, .. } => (id, bytes.len()),
            other => unreachable!("{other:?}"),
        }
    }

    async fn closed(&mut self) -> (u64, Option<Reject>) {
        match self.event().await {
            PoolEvent::Closed { id, reject, .. } => (id, reject),
            other => unreachable!("{other:?}"),
        }
    }
}

async fn until_ended(stream: &mut Stream) {
    // A stream that is dropped at the other end is reset, or ends.
    let _ = within("the end", stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn closing_a_peer_ends_all_its_streams() {
    let (mut server, peer) = (Server::start(1).await, Node::local(2).await);
    let (mut one, first) = server.opened_by(&peer).await;
    let (mut two, second) = server.opened_by(&peer).await;
    FrameWriter::new(&mut one, CAP).send(b"\x01queued").await.unwrap();
    let host = peer.host();
    let PoolEvent::Frame { id, .. } = server.event().await else { unreachable!() };
    assert!(id == first && server.pool.is_live(host, first) && server.pool.is_live(host, second));
    server.pool.close(host);
    assert!(!server.pool.is_live(host, first) && !server.pool.is_live(host, second) && !server.pool.has(host));
    until_ended(&mut one).await;
    until_ended(&mut two).await;
    for _ in 0..2 {
        let (id, _) = server.closed().await;
        assert!(!server.pool.handle_closed(host, id), "the owner closed it, and knows");
    }
}

#[tokio::test]
async fn a_third_stream_ends_the_oldest_only() {
    let (mut server, peer) = (Server::start(1).await, Node::local(2).await);
    let host = peer.host();
    let (mut one, first) = server.opened_by(&peer).await;
    let (mut two, second) = server.opened_by(&peer).await;
    let opening = peer.net.open(server.node.host(), &[], Protocol::Request);
    let three = within("a stream", opening).await.unwrap();
    let incoming = within("a stream", server.incoming.recv()).await.unwrap();
    server.pool.accept(incoming);
    assert!(!server.pool.is_live(host, first) && server.pool.is_live(host, second));
    until_ended(&mut one).await;
    let mut third = 0;
    for _ in 0..2 {
        match server.event().await {
            PoolEvent::Opened { id, .. } => third = id,
            PoolEvent::Closed { id, .. } => assert!(id == first && !server.pool.handle_closed(host, id)),
            other => unreachable!("{other:?}"),
        }
    }
    // When the newest ends, the older is written again; with it, the peer is lost.
    drop(three);
    assert_eq!(server.closed().await.0, third);
    assert!(!server.pool.handle_closed(host, third));
    server.pool.send(host, &[], Bytes::from_static(b"\x01back"));
    assert_eq!(within("a frame", FrameReader::new(&mut two, CAP).read()).await.unwrap(), "\x01back");
    drop(two);
    assert_eq!(server.closed().await.0, second);
    assert!(server.pool.handle_closed(host, second));
}

#[tokio::test]
async fn a_stranger_brings_one_small_frame_until_it_is_known() {
    let (mut server, peer) = (Server::start(1).await, Node::local(2).await);
    server.pool.set_first_cap(100);
    let (mut stream, id) = server.opened_by(&peer).await;
    let mut writer = FrameWriter::new(&mut stream, CAP);
    writer.feed(&[1; 100]).await.unwrap();
    writer.feed(&[2; 5000]).await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(server.frame().await, (id, 100));
    let early = tokio::time::timeout(Duration::from_millis(50), server.events.recv()).await;
    assert!(early.is_err(), "read on without leave: {early:?}");
    server.pool.raise_cap(peer.host(), id);
    assert_eq!(server.frame().await, (id, 5000));
    // Each stream is a stranger's at first.
    let (mut stream, id) = server.opened_by(&peer).await;
    FrameWriter::new(&mut stream, CAP).send(&[1; 101]).await.unwrap();
    assert_eq!(server.closed().await, (id, Some(Reject::FrameTooLarge)));
}

#[tokio::test]
async fn many_queued_frames_all_arrive_in_order() {
    let (mut server, peer) = (Server::start(1).await, Node::local(2).await);
    let (stream, _) = server.opened_by(&peer).await;
    for n in 0..300_u32 {
        let mut frame = [&[1][..], &n.to_le_bytes()].concat();
        frame.resize(if n % 50 == 0 { 300_000 } else { 10 }, 0);
        server.pool.send(peer.host(), &[], frame.into());
    }
    let mut reader = FrameReader::new(stream, CAP);
    for n in 0..300_u32 {
        let frame: Result<Bytes, FrameError> = within("a frame", reader.read()).await;
        assert_eq!(frame.unwrap()[1..5], n.to_le_bytes());
    }
}

/// Without the bound, a peer that asks for much and does not read would have this node keep all of it.
#[tokio::test]
async fn what_waits_for_a_peer_is_bounded_in_bytes() {
    const FRAME: usize = 900_000;
    let (mut server, peer) = (Server::start(21).await, Node::local(22).await);
    let (stream, _) = server.opened_by(&peer).await;
    let (host, frame) = (peer.host(), Bytes::from(vec![1; FRAME]));
    let mut queued = 0;
    // Nothing is written meanwhile: this test has one thread, and does not wait.
    while server.pool.has(host) && queued < 1000 {
        server.pool.send(host, &[], frame.clone());
        queued += 1;
    }
    assert_eq!(queued, 32 * 1024 * 1024 / FRAME + 1, "the one that does not fit ends the stream");
    assert_eq!(server.closed().await.1, None);
    drop(stream);
    // One that reads gets all, however much that is.
    let (stream, _) = server.opened_by(&peer).await;
    let mut reader = FrameReader::new(stream, CAP);
    for _ in 0..queued * 2 {
        server.pool.send(host, &[], frame.clone());
        assert_eq!(within("a frame", reader.read()).await.unwrap().len(), FRAME);
    }
    assert!(server.pool.has(host));
}

/// Without the pause, a peer that repeats a short question has this node make long answers that nobody reads.
#[tokio::test]
async fn who_does_not_read_the_answers_is_not_asked_what_else_it_wants() {
    const ANSWER: usize = 900_000;
    let (mut server, peer) = (Server::start(23).await, Node::local(24).await);
    server.pool.set_backlog_max(2 * ANSWER);
    let (mut stream, _) = server.opened_by(&peer).await;
    let (host, answer) = (peer.host(), Bytes::from(vec![1; ANSWER]));
    // More answers than the connection takes unread.
    for _ in 0..20 {
        server.pool.send(host, &[], answer.clone());
    }
    let mut writer = FrameWriter::new(&mut stream, CAP);
    for _ in 0..2 {
        writer.send(&[1; 64]).await.unwrap();
    }
    // It was waiting for the first one when the answers came.
    within("the first question", server.frame()).await;
    let second = tokio::time::timeout(Duration::from_millis(500), server.frame()).await;
    assert!(second.is_err(), "it was read");
    let mut reader = FrameReader::new(stream, CAP);
    for _ in 0..20 {
        within("an answer", reader.read()).await.unwrap();
    }
    within("the second question", server.frame()).await;
}
