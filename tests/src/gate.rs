//! A network that stands still: bytes on their way wait, in both directions, and nobody is told.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use wayfare_net::{Connection, Connector, DirectConnector};

/// Open at first. Clones are one gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    closed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    /// From now on nothing passes.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    /// What waits goes on.
    pub fn open(&self) {
        self.0.closed.store(false, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if !self.is_closed() {
            return Poll::Ready(());
        }
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(context.waker().clone());
        // It may have been opened before the waker was there.
        if self.is_closed() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Returns when it is open.
    pub async fn passed(&self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }
}

/// A connection through a gate.
struct Gated<T> {
    inner: T,
    gate: Gate,
}

impl<T: AsyncRead + Unpin> AsyncRead for Gated<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.gate.poll(context) {
            Poll::Ready(()) => Pin::new(&mut self.inner).poll_read(context, into),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gated<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.gate.poll(context) {
            Poll::Ready(()) => Pin::new(&mut self.inner).poll_write(context, bytes),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Dials through a gate.
#[derive(Debug)]
pub struct GatedConnector {
    gate: Gate,
}

impl GatedConnector {
    /// All that is dialled passes `gate`.
    pub const fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

impl Connector for GatedConnector {
    fn dial(&self, target: SocketAddr) -> futures::future::BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let gate = self.gate.clone();
        Box::pin(async move {
            gate.passed().await;
            let inner = DirectConnector.dial(target).await?;
            Ok(Box::new(Gated { inner, gate }) as Box<dyn Connection>)
        })
    }
}

/// Stands in front of a process, which may come and go, at an address of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    gate: Gate,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Between whoever connects to `address` and `behind`.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start(address: SocketAddr, behind: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let gate = Gate::default();
        let (address, passing) = (listener.local_addr()?, gate.clone());
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(pass(client, behind, passing.clone()))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Self { address, gate, task })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What everything passes.
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until one end closes; the other learns of it at once, unless the gate is closed.
async fn pass(client: TcpStream, behind: SocketAddr, gate: Gate) {
    gate.passed().await;
    let Ok(server) = TcpStream::connect(behind).await else { return };
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let mut client = Gated { inner: client, gate: gate.clone() };
    let mut server = Gated { inner: server, gate: gate.clone() };
    // How it ended is the ends' business.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    gate.passed().await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_waits_at_a_closed_gate_arrives_when_it_opens() {
        let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), behind.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut server, _) = behind.accept().await.unwrap();
        let mut byte = [0];
        client.write_all(b"a").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        proxy.gate().close();
        client.write_all(b"b").await.unwrap();
        server.write_all(b"c").await.unwrap();
        let pause = Duration::from_millis(50);
        assert!(tokio::time::timeout(pause, server.read_exact(&mut byte)).await.is_err());
        assert!(tokio::time::timeout(pause, client.read_exact(&mut byte)).await.is_err());
        proxy.gate().open();
        server.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"c");
    }
}
