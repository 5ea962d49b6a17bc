//! The one door through which every dial leaves, so that an emulator can stand behind it.

use std::io;
use std::net::SocketAddr;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::limits::{TCP_KEEPALIVE_INTERVAL, TCP_KEEPALIVE_PROBES, TCP_KEEPALIVE_TIME, TCP_UNACKNOWLEDGED_TIME};

/// A dialled byte stream.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Makes every outgoing TCP connection: those of libp2p, and those that a node makes beside it (the bulk pipe). A test bed
/// puts an implementation here that delays both directions of what it dials; since each connection is dialled by one
/// end, both directions of every link are covered once.
pub trait Connector: Send + Sync + 'static {
    /// Dials `target`. Must do nothing before the future is polled, and stop when it is dropped. An implementation
    /// delivers bytes in order.
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;

    /// Whether QUIC may be spoken beside it. Datagrams do not pass through here, so whoever delays, counts or cuts connections
    /// says no, as is the default: then QUIC addresses are neither listened on nor dialled, and refused by name.
    fn allows_quic(&self) -> bool {
        false
    }
}

/// Plain TCP without delay of small segments (`TCP_NODELAY`), which notices within seconds that the other end has vanished.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectConnector;

impl Connector for DirectConnector {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        async move {
            let stream = TcpStream::connect(target).await?;
            tune(&stream)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    }

    fn allows_quic(&self) -> bool {
        true
    }
}

/// What every socket of the mesh is set to, dialled or accepted: small segments leave at once, and a peer that has
/// vanished without a word (no FIN, no RST) ends the connection within seconds, whether bytes are under way to it
/// (RFC 5482) or not (RFC 9293, 3.8.4).
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE_TIME)
        .with_interval(TCP_KEEPALIVE_INTERVAL)
        .with_retries(TCP_KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED_TIME))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_vanished_peer_is_noticed_within_seconds() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_UNACKNOWLEDGED_TIME));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), TCP_KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), TCP_KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), TCP_KEEPALIVE_PROBES);
    }
}
