//! The libp2p transport: dials through the [`Connector`], listens through libp2p-tcp; noise and yamux above it.

use std::io;
use std::net::{IpAddr, SocketAddr};
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
use libp2p::multiaddr::Protocol as Part;
use libp2p::{Multiaddr, PeerId, noise, tcp, yamux};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::connector::{Connection, Connector, tune};
use crate::error::NetError;
use crate::limits::STREAMS_PER_CONNECTION_MAX;

/// The transport of the swarm: authenticated by noise, multiplexed by yamux, each handshake within `timeout`.
pub(crate) fn build(
    keypair: &Keypair,
    connector: Arc<dyn Connector>,
    timeout: Duration,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let noise = noise::Config::new(keypair).map_err(|error| NetError::Setup(error.to_string()))?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    let wire = WireTransport { listener: tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)), connector };
    Ok(wire.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux).timeout(timeout).boxed())
}

/// Fails if another socket listens on `address`. libp2p-tcp sets `SO_REUSEPORT`, with which two processes of one user
/// would share the port in silence and each get half of the connections.
pub(crate) fn check_free(address: &Multiaddr) -> io::Result<()> {
    match Target::of(address) {
        Some(Target::Socket(socket)) if socket.port() != 0 => std::net::TcpListener::bind(socket).map(drop),
        _ => Ok(()),
    }
}

/// What a multiaddr says to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Socket(SocketAddr),
    Name { name: String, port: u16, family: Family },
}

/// The addresses of a name that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

impl Target {
    /// Understands `/ip4|ip6|dns|dns4|dns6/…/tcp/PORT`, with or without `/p2p/…`, and nothing else.
    pub(crate) fn of(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let host = parts.next()?;
        let Some(Part::Tcp(port)) = parts.next() else { return None };
        match parts.next() {
            None => {}
            Some(Part::P2p(_)) if parts.next().is_none() => {}
            Some(_) => return None,
        }
        let name = |name: &str, family| Some(Self::Name { name: name.to_owned(), port, family });
        match host {
            Part::Ip4(ip) => Some(Self::Socket(SocketAddr::new(IpAddr::V4(ip), port))),
            Part::Ip6(ip) => Some(Self::Socket(SocketAddr::new(IpAddr::V6(ip), port))),
            Part::Dns(text) => name(&text, Family::Any),
            Part::Dns4(text) => name(&text, Family::V4),
            Part::Dns6(text) => name(&text, Family::V6),
            _ => None,
        }
    }

    async fn dial(self, connector: Arc<dyn Connector>) -> io::Result<Box<dyn Connection>> {
        let (name, port, family) = match self {
            Self::Socket(target) => return connector.dial(target).await,
            Self::Name { name, port, family } => (name, port, family),
        };
        let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("no address for {name}"));
        for target in tokio::net::lookup_host((name.as_str(), port)).await? {
            let fits = match family {
                Family::Any => true,
                Family::V4 => target.is_ipv4(),
                Family::V6 => target.is_ipv6(),
            };
            if !fits {
                continue;
            }
            match connector.dial(target).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// A raw connection in either direction, in the traits that libp2p wants.
type Wire = Compat<Box<dyn Connection>>;

struct WireTransport {
    listener: tcp::tokio::Transport,
    connector: Arc<dyn Connector>,
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
            Some(Target::Socket(socket)) if socket.port() == 0 || socket.ip().is_unspecified() => None,
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
            event.map_upgrade(|accepted| {
                async move {
                    let tcp::tokio::TcpStream(stream) = accepted.await?;
                    tune(&stream)?;
                    Ok((Box::new(stream) as Box<dyn Connection>).compat())
                }
                .boxed()
            })
        })
    }
}
