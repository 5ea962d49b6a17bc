//! Streams, dials and probes between real nodes on loopback sockets.

mod common;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use common::{Node, within};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Sleep, sleep};
use wayfare_net::{
    CancellationToken, Connection, Connector, DirectConnector, FrameError, FrameReader, FrameWriter, Net, NetConfig,
    NetError, NetEvent, NetLimits, Protocol, named_host, with_host,
};
use wayfare_protocol::ids::HostId;

/// Holds back what arrives on each connection that it dials: that delays every round trip by `delay`, or, while it is
/// `cut`, for ever.
#[derive(Clone, Default)]
struct SlowConnector {
    delay: Duration,
    cut: Arc<AtomicBool>,
}

impl Connector for SlowConnector {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let connector = self.clone();
        async move {
            let inner = DirectConnector.dial(target).await?;
            Ok(Box::new(Slow { inner, connector, held: None }) as Box<dyn Connection>)
        }
        .boxed()
    }
}

struct Slow {
    inner: Box<dyn Connection>,
    connector: SlowConnector,
    held: Option<(Pin<Box<Sleep>>, Vec<u8>)>,
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.held.is_none() {
            let mut bytes = vec![0; buffer.remaining()];
            let mut arrived = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut arrived))?;
            let arrived = arrived.filled().to_vec();
            this.held = Some((Box::pin(sleep(this.connector.delay)), arrived));
        }
        if this.connector.cut.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if let Some((until, bytes)) = &mut this.held {
            ready!(until.as_mut().poll(context));
            buffer.put_slice(bytes);
            this.held = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// An address on which nobody listens.
fn dead_address() -> Vec<String> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    vec![format!("/ip4/127.0.0.1/tcp/{}", socket.local_addr().expect("bound").port())]
}

#[tokio::test]
async fn two_nodes_exchange_frames() {
    let (a, b) = (Node::local(1).await, Node::local(2).await);
    let mut incoming = b.net.accept(Protocol::Migrate).unwrap();
    let answering = tokio::spawn(async move {
        let (from, stream) = incoming.recv().await.unwrap();
        let (reader, writer) = tokio::io::split(stream);
        let (mut reader, mut writer) = (FrameReader::new(reader, 100), FrameWriter::new(writer, 100));
        while let Ok(frame) = reader.read().await {
            writer.send(&[b"re: ", &frame[..]].concat()).await.unwrap();
        }
        writer.finish().await.unwrap();
        from
    });
    let stream = within("a stream", a.net.open(b.host(), &b.addresses(), Protocol::Migrate)).await.unwrap();
    let (reader, writer) = tokio::io::split(stream);
    let (mut reader, mut writer) = (FrameReader::new(reader, 100), FrameWriter::new(writer, 100));
    for text in ["one", "two", ""] {
        writer.send(text.as_bytes()).await.unwrap();
        assert_eq!(within("an answer", reader.read()).await.unwrap(), format!("re: {text}").as_bytes());
    }
    writer.finish().await.unwrap();
    assert!(matches!(within("the end", reader.read()).await, Err(FrameError::Closed)));
    assert_eq!(within("the peer", answering).await.unwrap(), a.host());
    assert_eq!((a.net.connected(), b.net.connected()), (1, 1));
    // Connected now, so no address is needed.
    within("a probe", a.net.probe(b.host(), &[])).await.unwrap();
}

#[tokio::test]
async fn streams_that_are_opened_together_all_arrive() {
    let (a, b) = (Node::local(1).await, Node::local(2).await);
    let mut incoming = b.net.accept(Protocol::Request).unwrap();
    let (host, addresses) = (b.host(), b.addresses());
    let opened = futures::future::join_all((0..30_u8).map(|n| {
        let (net, addresses) = (a.net.clone(), addresses.clone());
        async move {
            let mut stream = net.open(host, &addresses, Protocol::Request).await.unwrap();
            stream.write_all(&[n]).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        }
    }));
    let streams = within("thirty streams", opened).await;
    let mut seen = Vec::new();
    for _ in 0..streams.len() {
        let (_, mut stream) = within("a stream", incoming.recv()).await.unwrap();
        seen.push(within("its byte", stream.read_u8()).await.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
    assert_eq!(b.net.counters().streams_refused, 0);
}

#[tokio::test]
async fn a_protocol_is_offered_while_its_receiver_lives() {
    let (a, b) = (Node::local(1).await, Node::local(2).await);
    let open = async || within("an answer", a.net.open(b.host(), &b.addresses(), Protocol::State)).await;
    assert!(matches!(open().await, Err(NetError::Unsupported { protocol: Protocol::State, .. })));
    let receiver = b.net.accept(Protocol::State).unwrap();
    assert!(matches!(b.net.accept(Protocol::State), Err(NetError::AlreadyAccepted(Protocol::State))));
    assert!(open().await.is_ok());
    drop(receiver);
    assert!(matches!(open().await, Err(NetError::Unsupported { .. })));
    assert!(matches!(b.net.accept(Protocol::Probe), Err(NetError::AlreadyAccepted(Protocol::Probe))));
}

#[tokio::test]
async fn a_probe_measures_the_round_trip_and_not_the_dial() {
    let (a, b) = (Node::local(1).await, Node::local(2).await);
    for _ in 0..20 {
        let rtt = within("a probe", a.net.probe(b.host(), &b.addresses())).await.unwrap();
        assert!(rtt > Duration::ZERO && rtt < Duration::from_millis(500), "{rtt:?}");
    }
    assert_eq!(b.net.counters().probes_refused, 0);
}

#[tokio::test]
async fn a_delaying_connector_adds_its_delay_to_a_probe() {
    let delay = Duration::from_millis(30);
    let b = Node::local(2).await;
    let config =
        NetConfig { connector: Arc::new(SlowConnector { delay, ..Default::default() }), ..NetConfig::local([1; 32]) };
    let a = Node::start(config).await;
    let mut rtt_min = Duration::MAX;
    for _ in 0..5 {
        rtt_min = rtt_min.min(within("a probe", a.net.probe(b.host(), &b.addresses())).await.unwrap());
    }
    assert!(rtt_min >= delay && rtt_min < delay * 4, "{rtt_min:?}");
    // The same connection in the other direction.
    let back = within("a probe", b.net.probe(a.host(), &[])).await.unwrap();
    assert!(back >= delay, "{back:?}");
}

#[tokio::test]
async fn a_probe_survives_a_restart_of_the_peer() {
    let a = Node::local(1).await;
    let b = Node::local(2).await;
    let (host, addresses) = (b.host(), b.addresses());
    within("a probe", a.net.probe(host, &addresses)).await.unwrap();
    b.stop.cancel();
    within("the end", b.net.stopped()).await;
    let gone = a.net.watch_connected().wait_for(|count| *count == 0).await.map(|_| ());
    gone.unwrap();
    assert!(matches!(a.net.probe(host, &addresses).await, Err(NetError::Unreachable { .. })));
    let _again = Node::start(NetConfig { listen: addresses.clone(), ..NetConfig::local([2; 32]) }).await;
    within("a probe", a.net.probe(host, &addresses)).await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let a = Node::local(1).await;
    let listen = a.addresses();
    let refused = Net::start(NetConfig { listen, ..NetConfig::local([2; 32]) }, CancellationToken::new()).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, NetError::AddressInUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&a.addresses()[0]), "{error}");
    let listen = vec!["/ip4/203.0.113.1/tcp/4001".to_owned()];
    let refused = Net::start(NetConfig { listen, ..NetConfig::local([2; 32]) }, CancellationToken::new()).await;
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("/ip4/203.0.113.1/tcp/4001"), "{error}");
}

#[tokio::test]
async fn a_wildcard_yields_real_addresses() {
    let listen = vec!["/ip4/0.0.0.0/tcp/0".to_owned()];
    let a = Node::start(NetConfig { listen, ..NetConfig::local([1; 32]) }).await;
    let addresses = a.addresses();
    assert!(!addresses.is_empty());
    assert!(addresses.iter().all(|text| !text.contains("0.0.0.0") && !text.ends_with("/tcp/0")), "{addresses:?}");
}

#[tokio::test]
async fn a_dead_peer_is_unreachable_in_time() {
    let a = Node::local(1).await;
    let start = Instant::now();
    let dead = dead_address();
    let error = a.net.open(HostId([5; 32]), &dead, Protocol::Migrate).await.unwrap_err();
    assert!(matches!(&error, NetError::Unreachable { reason, .. } if reason.contains("refused")), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let error = a.net.open(HostId([5; 32]), &[], Protocol::Migrate).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error:?}");
}

/// A host that takes the connection and never speaks.
#[tokio::test]
async fn a_silent_peer_times_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = vec![format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port())];
    let limits = NetLimits {
        dial_timeout: Duration::from_millis(200),
        open_timeout: Duration::from_millis(800),
        ..NetLimits::default()
    };
    let a = Node::start(NetConfig { limits, ..NetConfig::local([1; 32]) }).await;
    let start = Instant::now();
    let error = a.net.open(HostId([5; 32]), &address, Protocol::Migrate).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. } | NetError::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// A peer whose host or link vanishes without a word: TCP would not notice for minutes.
#[tokio::test]
async fn a_connection_on_which_nothing_comes_back_is_closed() {
    let (connector, b) = (SlowConnector::default(), Node::local(2).await);
    let limits = NetLimits { open_timeout: Duration::from_millis(600), ..NetLimits::default() };
    let config = NetConfig { connector: Arc::new(connector.clone()), limits, ..NetConfig::local([1; 32]) };
    let mut a = Node::start(config).await;
    a.net.connect(b.host(), &b.addresses()).await.unwrap();
    assert_eq!(a.event().await, NetEvent::PeerConnected(b.host()));
    connector.cut.store(true, Ordering::Relaxed);
    let error = a.net.open(b.host(), &[], Protocol::Probe).await.unwrap_err();
    assert!(matches!(error, NetError::Timeout { .. }), "{error:?}");
    assert_eq!(a.event().await, NetEvent::PeerDisconnected(b.host()));
    connector.cut.store(false, Ordering::Relaxed);
    within("a new connection", a.net.open(b.host(), &b.addresses(), Protocol::Probe)).await.unwrap();
}

#[tokio::test]
async fn the_wrong_key_at_the_other_end_is_refused() {
    let (a, b) = (Node::local(1).await, Node::local(2).await);
    let wanted = HostId([5; 32]);
    let error = a.net.open(wanted, &b.addresses(), Protocol::Probe).await.unwrap_err();
    assert!(
        matches!(error, NetError::WrongPeer { peer, found, .. } if peer == wanted && found == b.host()),
        "{error:?}"
    );
    let error = a.net.open(a.host(), &a.addresses(), Protocol::Probe).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error:?}");
    // An address that names another peer than the one wanted is not dialled at all.
    let named = with_host(&b.addresses()[0], &b.host());
    assert_eq!(named_host(&named), Some(b.host()));
    let error = a.net.open(wanted, &[named], Protocol::Probe).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn bootstrap_dials_until_the_peer_is_there_and_again_after_it_restarts() {
    let reserved = dead_address();
    let bootstrap = vec![with_host(&reserved[0], &Node::local(2).await.host())];
    let mut a = Node::start(NetConfig { bootstrap, ..NetConfig::local([1; 32]) }).await;
    let redialled = async {
        while a.net.counters().dials_failed < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within("two dials in vain", redialled).await;
    for _ in 0..2 {
        let b = Node::start(NetConfig { listen: reserved.clone(), ..NetConfig::local([2; 32]) }).await;
        assert_eq!(a.event().await, NetEvent::PeerConnected(b.host()));
        b.stop.cancel();
        within("the end", b.net.stopped()).await;
        assert_eq!(a.event().await, NetEvent::PeerDisconnected(b.host()));
    }
}

#[tokio::test]
async fn after_shutdown_everything_ends_and_says_so() {
    let (a, b) = (Node::local(1).await, Node::local(2).await);
    b.net.connect(a.host(), &a.addresses()).await.unwrap();
    let mut stream = b.net.open(a.host(), &[], Protocol::Probe).await.unwrap();
    a.stop.cancel();
    within("the end", a.net.stopped()).await;
    assert!(within("an error", stream.read_u8()).await.is_err());
    assert!(matches!(a.net.publish(vec![1]).await, Err(NetError::Stopped)));
    assert!(matches!(a.net.connect(b.host(), &[]).await, Err(NetError::Stopped)));
    assert!(matches!(a.net.probe(b.host(), &[]).await, Err(NetError::Stopped)));
    let mut read = std::pin::pin!(b.net.stopped());
    assert!(poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_pending())).await);
}
