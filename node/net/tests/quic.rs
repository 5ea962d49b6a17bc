//! TCP and QUIC on loopback sockets, one of them blocked, and neither round the emulator.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Node, rehearse, within};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wayfare_net::{
    CancellationToken, Connection, Connector, DirectConnector, Net, NetConfig, NetError, Protocol, Verdict,
};

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

async fn listening(seed: u8, listen: &[&str]) -> Node {
    let listen = listen.iter().map(ToString::to_string).collect();
    Node::start(NetConfig { listen, ..NetConfig::local([seed; 32]) }).await
}

/// What the connection is that streams and probes go over.
fn over(from: &Node, to: &Node) -> &'static str {
    match from.net.routes(to.host()).first() {
        Some(route) if route.contains("/quic-v1") => "quic",
        Some(route) if route.contains("/tcp/") => "tcp",
        other => unreachable!("{other:?}"),
    }
}

/// A stream carries bytes there and back.
async fn converse(a: &Node, b: &Node) {
    let mut incoming = b.net.accept(Protocol::Migrate).unwrap();
    let addresses = b.addresses();
    let mut stream = within("a stream", a.net.open(b.host(), &addresses, Protocol::Migrate)).await.unwrap();
    stream.write_all(b"there").await.unwrap();
    stream.flush().await.unwrap();
    let (from, mut accepted) = within("a stream", incoming.recv()).await.unwrap();
    assert_eq!(from, a.host(), "authenticated");
    let mut bytes = [0; 5];
    within("bytes", accepted.read_exact(&mut bytes)).await.unwrap();
    accepted.write_all(&bytes).await.unwrap();
    accepted.shutdown().await.unwrap();
    let mut back = Vec::new();
    within("the end", stream.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"there");
}

#[tokio::test]
async fn a_peer_that_only_speaks_quic_is_a_peer_like_others() {
    let (a, b) = (listening(1, &[TCP]).await, listening(2, &[QUIC]).await);
    converse(&a, &b).await;
    assert_eq!((over(&a, &b), over(&b, &a)), ("quic", "quic"));
    for _ in 0..5 {
        let rtt = within("a probe", a.net.probe(b.host(), &b.addresses())).await.unwrap();
        assert!(rtt > Duration::ZERO && rtt < Duration::from_millis(500), "{rtt:?}");
    }
    within("a probe back", b.net.probe(a.host(), &[])).await.unwrap();
    assert_eq!((a.net.routes(b.host()).len(), a.net.connected()), (1, 1));
}

#[tokio::test]
async fn gossip_passes_through_a_hub_from_tcp_to_quic() {
    let mut hub = listening(1, &[TCP, QUIC]).await;
    let by = |kind: &str| hub.addresses().into_iter().filter(|address| address.contains(kind)).collect::<Vec<_>>();
    let (tcp, quic) = (by("/tcp/"), by("/quic-v1"));
    let join = async |seed, bootstrap| Node::start(NetConfig { bootstrap, ..NetConfig::local([seed; 32]) }).await;
    let mut nodes = [join(2, tcp).await, join(3, quic).await];
    hub.until_connected(2).await;
    assert_eq!((over(&nodes[0], &hub), over(&nodes[1], &hub)), ("tcp", "quic"));
    rehearse(&mut hub, &mut nodes).await;
    nodes[1].publish(b"by quic").await;
    let (id, bytes) = hub.advert().await;
    hub.net.judge(id, Verdict::Accept);
    assert_eq!(bytes, b"by quic");
    assert_eq!(nodes[0].advert().await.1, b"by quic");
}

#[tokio::test]
async fn tcp_is_taken_where_both_work() {
    let (a, b) = (listening(1, &[TCP]).await, listening(2, &[QUIC, TCP]).await);
    assert_eq!(b.addresses().len(), 2);
    converse(&a, &b).await;
    within("a probe", a.net.probe(b.host(), &b.addresses())).await.unwrap();
    assert_eq!((over(&a, &b), a.net.routes(b.host()).len()), ("tcp", 1));
}

/// A port on which datagrams arrive, and nobody answers.
fn swallowing() -> (std::net::UdpSocket, String) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", socket.local_addr().unwrap().port());
    (socket, address)
}

#[tokio::test]
async fn where_udp_is_blocked_tcp_is_taken_at_once() {
    let (a, b) = (listening(1, &[TCP]).await, listening(2, &[TCP]).await);
    let (socket, blocked) = swallowing();
    let addresses = [vec![blocked], b.addresses()].concat();
    within("a probe", a.net.probe(b.host(), &addresses)).await.unwrap();
    assert_eq!(over(&a, &b), "tcp");
    // TCP has answered within its head start: not one datagram was sent.
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 2000]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// TCP that never answers: packets are dropped on the way.
struct BlackHole;

impl Connector for BlackHole {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        std::future::pending().boxed()
    }

    fn allows_quic(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn where_tcp_is_blocked_quic_is_taken_soon() {
    let b = listening(2, &[TCP, QUIC]).await;
    let a = Node::start(NetConfig { connector: Arc::new(BlackHole), ..NetConfig::local([1; 32]) }).await;
    let start = Instant::now();
    within("a probe", a.net.probe(b.host(), &b.addresses())).await.unwrap();
    assert_eq!(over(&a, &b), "quic");
    assert!(start.elapsed() < Duration::from_secs(5), "no dial had to time out");
}

#[tokio::test]
async fn where_tcp_is_refused_quic_is_taken() {
    let b = listening(2, &[QUIC]).await;
    let a = listening(1, &[TCP]).await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let addresses = [vec![format!("/ip4/127.0.0.1/tcp/{dead}")], b.addresses()].concat();
    within("a probe", a.net.probe(b.host(), &addresses)).await.unwrap();
    assert_eq!(over(&a, &b), "quic");
}

/// Stands for an emulator: it says nothing of QUIC, as any that knows TCP only.
struct Emulating;

impl Connector for Emulating {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        DirectConnector.dial(target)
    }
}

#[tokio::test]
async fn there_is_no_way_round_an_emulating_connector() {
    let config = |listen: &[&str]| {
        let listen = listen.iter().map(ToString::to_string).collect();
        NetConfig { connector: Arc::new(Emulating), listen, ..NetConfig::local([1; 32]) }
    };
    let refused = Net::start(config(&[TCP, QUIC]), CancellationToken::new()).await;
    let error = refused.unwrap_err();
    assert!(matches!(&error, NetError::BadAddress { address, .. } if address == QUIC), "{error:?}");
    assert!(error.to_string().contains("carries TCP only"), "{error}");

    let (a, only_quic, both) =
        (Node::start(config(&[TCP])).await, listening(2, &[QUIC]).await, listening(3, &[QUIC, TCP]).await);
    let error = a.net.probe(only_quic.host(), &only_quic.addresses()).await.unwrap_err();
    assert!(error.to_string().contains("/quic-v1"), "{error}");
    within("a probe", a.net.probe(both.host(), &both.addresses())).await.unwrap();
    assert_eq!(over(&a, &both), "tcp");
}

#[tokio::test]
async fn a_udp_port_in_use_is_named() {
    let a = listening(1, &[QUIC]).await;
    let listen = a.addresses();
    let refused = Net::start(NetConfig { listen, ..NetConfig::local([2; 32]) }, CancellationToken::new()).await;
    let error = refused.unwrap_err();
    assert!(matches!(&error, NetError::AddressInUse { address } if *address == a.addresses()[0]), "{error:?}");
}

#[tokio::test]
async fn a_probe_by_quic_survives_a_restart_of_the_peer() {
    let (a, b) = (listening(1, &[TCP]).await, listening(2, &[QUIC]).await);
    let (host, addresses) = (b.host(), b.addresses());
    within("a probe", a.net.probe(host, &addresses)).await.unwrap();
    b.stop.cancel();
    within("the end", b.net.stopped()).await;
    within("news of it", a.net.watch_connected().wait_for(|count| *count == 0)).await.unwrap();
    let again = async {
        loop {
            let config = NetConfig { listen: addresses.clone(), ..NetConfig::local([2; 32]) };
            match Net::start(config, CancellationToken::new()).await {
                Ok(started) => return started,
                Err(NetError::AddressInUse { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => unreachable!("{error}"),
            }
        }
    };
    let _again = within("the port", again).await;
    within("a probe", a.net.probe(host, &addresses)).await.unwrap();
}
