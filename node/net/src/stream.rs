//! The protocols of the mesh, and the byte stream that each of them runs over.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

/// What a stream is for (ARCHITECTURE 1, "Streams").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Messages between a host and a Registry.
    Registry,
    /// Messages between two hosts; frames carry `mig`.
    Migrate,
    /// One-way bulk transfer of state records.
    State,
    /// Client requests from a gateway to a host.
    Request,
    /// Measures the round-trip time; answered by this crate.
    Probe,
}

impl Protocol {
    /// The name that peers negotiate.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registry => "/wayfare/registry/1",
            Self::Migrate => "/wayfare/migrate/1",
            Self::State => "/wayfare/state/1",
            Self::Request => "/wayfare/request/1",
            Self::Probe => "/wayfare/probe/1",
        }
    }
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A substream to an authenticated peer: ordered, reliable, flow-controlled, encrypted. Split it with
/// [`tokio::io::split`]. It keeps its connection alive.
///
/// Call `shutdown` after the last byte: a stream that is dropped while open is *reset*, and the peer may then not see
/// what was written last. Put a timeout on writes: with symmetric back-pressure (both ends write and neither reads) a
/// stream can stall for ever.
pub struct Stream(Compat<libp2p::Stream>);

impl Stream {
    pub(crate) fn new(stream: libp2p::Stream) -> Self {
        Self(stream.compat())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
