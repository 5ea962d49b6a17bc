//! The libp2p transports. TCP dials through the [`Connector`], and listens through libp2p-tcp; noise and yamux are above it.
//! QUIC is libp2p's own; there is none where the connector would not see it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, noise, quic, tcp, yamux};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::connector::{Connection, Connector, tune};
use crate::door::{Door, socket_of};
use crate::error::NetError;
use crate::limits::{STREAMS_PER_CONNECTION_MAX, TCP_KEEPALIVE_TIME, TCP_UNACKNOWLEDGED_TIME};
use crate::metered::Metered;
use crate::race::{self, Race};
use crate::target::Target;

/// The transport of the swarm, each handshake within `timeout`: TCP, authenticated by noise, multiplexed by yamux; beside it
/// QUIC, unless the connector carries TCP only.
pub(crate) fn build(
    keypair: &Keypair,
    connector: Arc<dyn Connector>,
    timeout: Duration,
    door: Arc<Door>,
) -> Result<Boxed<race::Output>, NetError> {
    let noise = noise::Config::new(keypair).map_err(|error| NetError::Setup(error.to_string()))?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    let quic = connector.allows_quic().then(|| quic_transport(keypair, timeout));
    let listener = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let wire = WireTransport { listener, connector, door: Arc::clone(&door) };
    let tcp = wire.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux).timeout(timeout).boxed();
    Ok(Race::new(tcp, quic, door).boxed())
}

/// QUIC (TLS 1.3 with the node's key): notices a peer that has vanished within seconds, as [`tune`] has TCP do.
fn quic_transport(keypair: &Keypair, timeout: Duration) -> Boxed<race::Output> {
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = timeout;
    config.max_idle_timeout = u32::try_from(TCP_UNACKNOWLEDGED_TIME.as_millis()).unwrap_or(u32::MAX);
    config.keep_alive_interval = TCP_KEEPALIVE_TIME;
    config.max_concurrent_stream_limit = u32::try_from(STREAMS_PER_CONNECTION_MAX).unwrap_or(u32::MAX);
    quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
}

/// A raw connection in either direction, in the traits that libp2p wants.
type Wire = Compat<Box<dyn Connection>>;

struct WireTransport {
    listener: tcp::tokio::Transport,
    connector: Arc<dyn Connector>,
    door: Arc<Door>,
}

impl Transport for WireTransport {
    type Output = Wire;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Wire>>;
    type Dial = BoxFuture<'static, io::Result<Wire>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.listener.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.listener.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let target = match Target::of(&address) {
            Some(Target::Tcp(socket)) if socket.port() == 0 || socket.ip().is_unspecified() => None,
            Some(Target::Quic(_)) => None,
            target => target,
        };
        let target = target.ok_or(TransportError::MultiaddrNotSupported(address))?;
        let connector = Arc::clone(&self.connector);
        Ok(async move { Ok(target.dial(connector).await?.compat()) }.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.listener).poll(context).map(|event| {
            let from = match &event {
                TransportEvent::Incoming { send_back_addr, .. } => socket_of(send_back_addr),
                _ => None,
            };
            let door = Arc::clone(&self.door);
            event.map_upgrade(move |accepted| {
                async move {
                    let tcp::tokio::TcpStream(stream) = accepted.await?;
                    tune(&stream)?;
                    let stream: Box<dyn Connection> = match from {
                        Some(from) => Box::new(Metered::new(stream, door.meter(from))),
                        None => Box::new(stream),
                    };
                    Ok(stream.compat())
                }
                .boxed()
            })
        })
    }
}
