//! What strangers may cost a node, over real sockets: whoever floods from one address, or with one key, keeps nobody else out.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Node, within};
use futures::future::BoxFuture;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;
use wayfare_net::{
    Connection, Connector, FrameWriter, NetConfig, Pool, PoolEvent, Protocol,
    limits::{FRAME_SHARES, HANDSHAKE_SHARES, HANDSHAKES_PER_SOURCE_MAX, STRANGER_BYTE_SHARES},
};

/// Where the attacker's connections come from: all of 127.0.0.0/8 is the loopback.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn port(node: &Node) -> SocketAddr {
    let address = node.addresses().remove(0);
    let port = address.rsplit('/').next().unwrap().parse().unwrap();
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A socket that connects from `from`.
fn socket(from: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket
}

/// A connection from `from` that never says anything.
fn silent(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = socket(from);
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Dials from another address.
struct From(Ipv4Addr);

impl Connector for From {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, std::io::Result<Box<dyn Connection>>> {
        let from = self.0;
        Box::pin(async move {
            let stream = tokio::task::spawn_blocking(move || silent(from, target)).await?;
            stream.set_nonblocking(true)?;
            Ok(Box::new(tokio::net::TcpStream::from_std(stream)?) as Box<dyn Connection>)
        })
    }
}

async fn from_elsewhere(seed: u8) -> Node {
    let connector = std::sync::Arc::new(From(ELSEWHERE));
    let listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    Node::start(NetConfig { connector, listen, ..NetConfig::local([seed; 32]) }).await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_never_done_keep_nobody_from_another_address_out() {
    let (node, honest) = (Node::local(1).await, Node::local(2).await);
    let to = port(&node);
    let many = 4 * HANDSHAKES_PER_SOURCE_MAX;
    let held: Vec<TcpStream> = (0..many).map(|_| silent(ELSEWHERE, to)).collect();
    let refused = (many - HANDSHAKES_PER_SOURCE_MAX) as u64;
    until("the rest to be refused", || node.net.counters().handshakes_refused >= refused).await;
    within("a connection", honest.net.connect(node.host(), &node.addresses())).await.unwrap();
    assert_eq!(node.net.counters().handshakes_refused, refused, "those of one address only");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_connects_again_and_again_is_not_shaken_hands_with() {
    let (node, honest) = (Node::local(1).await, Node::local(2).await);
    let to = port(&node);
    let share = (HANDSHAKE_SHARES.own.burst + HANDSHAKE_SHARES.spare.burst) as usize;
    let begun = Instant::now();
    for _ in 0..3 * share {
        drop(silent(ELSEWHERE, to));
    }
    until("refusals", || node.net.counters().handshakes_refused > 0).await;
    let earned = begun.elapsed().as_secs_f64() * f64::from(HANDSHAKE_SHARES.own.per_s + HANDSHAKE_SHARES.spare.per_s);
    until("an end", || {
        let counters = node.net.counters();
        counters.handshakes_refused + counters.inbound_failed >= 3 * share as u64
    })
    .await;
    let begun = node.net.counters().inbound_failed as f64;
    assert!(begun <= share as f64 + earned + 50.0, "{begun} handshakes were begun");
    // Its own share is nobody else's.
    within("a connection", honest.net.connect(node.host(), &node.addresses())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_read_slowly_and_a_member_is_not() {
    let (node, peer) = (Node::local(1).await, from_elsewhere(2).await);
    let mut incoming = node.net.accept(Protocol::State).unwrap();
    let share = (STRANGER_BYTE_SHARES.own.burst + STRANGER_BYTE_SHARES.spare.burst) as usize;
    let rate = (STRANGER_BYTE_SHARES.own.per_s + STRANGER_BYTE_SHARES.spare.per_s) as usize;
    let mut stream = within("a stream", peer.net.open(node.host(), &node.addresses(), Protocol::State)).await.unwrap();
    let (_, mut theirs) = within("a stream", incoming.recv()).await.unwrap();
    let writing = tokio::spawn(async move {
        let block = vec![7; 1 << 20];
        while stream.write_all(&block).await.is_ok() {}
    });
    let mut block = vec![0; 1 << 20];
    let (begun, mut got) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(4) {
        if let Ok(Ok(read)) = tokio::time::timeout(Duration::from_millis(100), theirs.read(&mut block)).await {
            got += read;
        }
    }
    let allowed = share + rate * (begun.elapsed().as_secs_f64() * 1.2 + 1.0) as usize;
    assert!(got <= allowed && node.net.counters().reads_delayed > 0, "{got} bytes of {allowed}");
    node.net.vouch(peer.host());
    let rest = async {
        let mut more = 0;
        while more < 4 * allowed {
            more += theirs.read(&mut block).await.unwrap();
        }
    };
    within("a member's bytes", rest).await;
    writing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_streams_without_end_is_disconnected() {
    let (node, peer, honest) = (Node::local(1).await, from_elsewhere(2).await, Node::local(3).await);
    let mut incoming = node.net.accept(Protocol::Module).unwrap();
    tokio::spawn(async move { while incoming.recv().await.is_some() {} });
    let addresses = node.addresses();
    let flood = async {
        while node.net.counters().streams_excess == 0 {
            let opening = (0..64).map(|_| peer.net.open(node.host(), &addresses, Protocol::Module));
            drop(futures::future::join_all(opening).await);
        }
    };
    within("the end of a flood", flood).await;
    within("a stream", honest.net.open(node.host(), &addresses, Protocol::Module)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_beyond_its_share_waits_and_the_others_do_not() {
    let (node, flood, honest) = (Node::local(1).await, from_elsewhere(2).await, Node::local(3).await);
    let tracker = TaskTracker::new();
    let (mut pool, mut events) =
        Pool::new(node.net.clone(), Protocol::Registry, 1000, tracker.clone(), node.stop.child_token());
    pool.set_weight(|_| 100);
    let mut incoming = node.net.accept(Protocol::Registry).unwrap();
    let mut writers = Vec::new();
    for peer in [&flood, &honest] {
        let addresses = node.addresses();
        let opened = peer.net.open(node.host(), &addresses, Protocol::Registry);
        let (stream, theirs) = tokio::join!(within("a stream", opened), within("a stream", incoming.recv()));
        pool.accept(theirs.unwrap());
        writers.push(FrameWriter::new(stream.unwrap(), 1000));
    }
    let (mut honest_writer, mut flood_writer) = (writers.pop().unwrap(), writers.pop().unwrap());
    let flooding = tokio::spawn(async move { while flood_writer.send(&[1; 500]).await.is_ok() {} });
    let share = (FRAME_SHARES.own.burst + FRAME_SHARES.spare.burst) / 100;
    let mut counts = [0_u32; 2];
    let begun = Instant::now();
    // Whoever floods gets its share, and what it earns meanwhile; its own is untouched for the other.
    for _ in 0..FRAME_SHARES.own.burst / 100 {
        let sent = async {
            honest_writer.send(&[2; 10]).await.unwrap();
            loop {
                match events.recv().await.unwrap() {
                    PoolEvent::Frame { bytes, .. } if bytes == Bytes::from_static(&[2; 10]) => break,
                    PoolEvent::Frame { .. } => counts[0] += 1,
                    _ => {}
                }
            }
        };
        within("an honest frame", sent).await;
        counts[1] += 1;
    }
    let rate = f64::from(FRAME_SHARES.own.per_s + FRAME_SHARES.spare.per_s) / 100.0;
    let earned = (begun.elapsed().as_secs_f64() * rate) as u32;
    assert!(counts[0] <= share + earned + 5, "{counts:?}");
    until("the flood to wait", || node.net.counters().frames_delayed > 0).await;
    flooding.abort();
}
