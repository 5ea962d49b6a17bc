//! What a multiaddr says to dial or to listen on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;

use crate::connector::{Connection, Connector};

/// The forms of address that this crate understands, for people.
pub(crate) const FORMS: &str = "/ip4|ip6|dns/HOST/tcp/PORT or /ip4|ip6/IP/udp/PORT/quic-v1";

/// Whether an address is one of QUIC's, well formed or not.
pub(crate) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Part::Udp(_) | Part::QuicV1 | Part::Quic))
}

/// `/ip4|ip6/IP/tcp/PORT`, and beside it the address of QUIC at the same port; any other address alone.
pub fn with_quic(address: &str) -> Vec<String> {
    let beside = address.parse().ok().and_then(|parsed: Multiaddr| match Target::of(&parsed)? {
        Target::Tcp(socket) if !address.contains("/p2p/") => {
            let family = if socket.is_ipv4() { "ip4" } else { "ip6" };
            Some(format!("/{family}/{}/udp/{}/quic-v1", socket.ip(), socket.port()))
        }
        _ => None,
    });
    std::iter::once(address.to_owned()).chain(beside).collect()
}

/// Addresses in the order of their use to others: those of the loopback last, TCP before QUIC.
pub fn furthest_first(mut addresses: Vec<String>) -> Vec<String> {
    let is_local = |text: &String| text.starts_with("/ip4/127.") || text.starts_with("/ip6/::1/");
    addresses.sort_by_key(|text| (is_local(text), !text.contains("/tcp/")));
    addresses
}

/// What a multiaddr says to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    /// By TCP.
    Name {
        name: String,
        port: u16,
        family: Family,
    },
    Quic(SocketAddr),
}

/// The addresses of a name that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

impl Target {
    /// Understands [`FORMS`], with or without `/p2p/…`, and nothing else.
    pub(crate) fn of(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let host = parts.next()?;
        let (port, quic) = match parts.next()? {
            Part::Tcp(port) => (port, false),
            Part::Udp(port) if parts.next() == Some(Part::QuicV1) => (port, true),
            _ => return None,
        };
        match parts.next() {
            None => {}
            Some(Part::P2p(_)) if parts.next().is_none() => {}
            Some(_) => return None,
        }
        let ip = match host {
            Part::Ip4(ip) => Some(IpAddr::V4(ip)),
            Part::Ip6(ip) => Some(IpAddr::V6(ip)),
            _ => None,
        };
        let name = |name: &str, family| Some(Self::Name { name: name.to_owned(), port, family });
        match (host, ip) {
            (_, Some(ip)) if quic => Some(Self::Quic(SocketAddr::new(ip, port))),
            (_, Some(ip)) => Some(Self::Tcp(SocketAddr::new(ip, port))),
            _ if quic => None,
            (Part::Dns(text), _) => name(&text, Family::Any),
            (Part::Dns4(text), _) => name(&text, Family::V4),
            (Part::Dns6(text), _) => name(&text, Family::V6),
            _ => None,
        }
    }

    /// Fails if another socket has the address. libp2p sets `SO_REUSEPORT`, with which two processes of one user would
    /// share the port in silence and each get half of the connections.
    pub(crate) fn check_free(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) if socket.port() != 0 => std::net::TcpListener::bind(socket).map(drop),
            Self::Quic(socket) if socket.port() != 0 => std::net::UdpSocket::bind(socket).map(drop),
            Self::Tcp(_) | Self::Quic(_) | Self::Name { .. } => Ok(()),
        }
    }

    /// Dials by TCP.
    pub(crate) async fn dial(self, connector: Arc<dyn Connector>) -> io::Result<Box<dyn Connection>> {
        let (name, port, family) = match self {
            Self::Tcp(target) => return connector.dial(target).await,
            Self::Name { name, port, family } => (name, port, family),
            Self::Quic(target) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{target} is dialled by QUIC")));
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_stands_beside_tcp() {
        assert_eq!(with_quic("/ip4/0.0.0.0/tcp/4740"), ["/ip4/0.0.0.0/tcp/4740", "/ip4/0.0.0.0/udp/4740/quic-v1"]);
        assert_eq!(with_quic("/ip6/::1/tcp/1")[1], "/ip6/::1/udp/1/quic-v1");
        for alone in ["/dns/a.example/tcp/1", "/ip4/192.0.2.7/udp/1/quic-v1", "nonsense"] {
            assert_eq!(with_quic(alone), [alone]);
        }
    }

    #[test]
    fn an_address_says_how_to_dial() {
        let of = |text: &str| Target::of(&text.parse().unwrap());
        let socket = "192.0.2.7:4740".parse().unwrap();
        assert_eq!(of("/ip4/192.0.2.7/tcp/4740"), Some(Target::Tcp(socket)));
        assert_eq!(of("/ip4/192.0.2.7/udp/4740/quic-v1"), Some(Target::Quic(socket)));
        let name = Target::Name { name: "a.example".to_owned(), port: 1, family: Family::V6 };
        assert_eq!(of("/dns6/a.example/tcp/1"), Some(name));
        for text in ["/ip4/192.0.2.7/udp/1", "/dns/a.example/udp/1/quic-v1", "/ip4/192.0.2.7/udp/1/quic-v1/quic-v1"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
