//! The one door through which every dial leaves, so that an emulator can stand behind it.

use std::io;
use std::net::SocketAddr;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A dialled byte stream.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Makes every outgoing connection: those of libp2p, and those that a node makes beside it (the bulk pipe). A test bed
/// puts an implementation here that delays both directions of what it dials; since each connection is dialled by one
/// end, both directions of every link are covered once.
pub trait Connector: Send + Sync + 'static {
    /// Dials `target`. Must do nothing before the future is polled, and stop when it is dropped. An implementation
    /// delivers bytes in order.
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// Plain TCP without delay of small segments (`TCP_NODELAY`).
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectConnector;

impl Connector for DirectConnector {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        async move {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    }
}
