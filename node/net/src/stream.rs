//! The protocols of the mesh, and the byte stream that each of them runs over.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
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
    /// Modules on their way to a host that updates a service.
    Module,
    /// Measures the round-trip time; answered by this crate.
    Probe,
}

impl Protocol {
    /// Every protocol.
    pub(crate) const ALL: [Self; 6] =
        [Self::Registry, Self::Migrate, Self::State, Self::Request, Self::Module, Self::Probe];

    /// The name without a version.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registry => "/wayfare/registry",
            Self::Migrate => "/wayfare/migrate",
            Self::State => "/wayfare/state",
            Self::Request => "/wayfare/request",
            Self::Module => "/wayfare/module",
            Self::Probe => "/wayfare/probe",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A protocol at a version, as peers negotiate it: `/wayfare/migrate/2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spoken {
    pub(crate) protocol: Protocol,
    pub(crate) version: u8,
    name: Arc<str>,
}

impl Spoken {
    pub(crate) fn new(protocol: Protocol, version: u8) -> Self {
        Self { protocol, version, name: format!("{}/{version}", protocol.name()).into() }
    }

    /// The version of which a peer says that it speaks it; `None` for what is not Wayfare's.
    pub(crate) fn version_in(name: &str) -> Option<u8> {
        let (protocol, version) = name.rsplit_once('/')?;
        Protocol::ALL.iter().find(|known| known.name() == protocol)?;
        version.parse().ok()
    }
}

impl AsRef<str> for Spoken {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

/// A substream to an authenticated peer: ordered, reliable, flow-controlled, encrypted. Split it with
/// [`tokio::io::split`]. It keeps its connection alive.
///
/// Call `shutdown` after the last byte: a stream that is dropped while open is *reset*, and the peer may then not see
/// what was written last. Put a timeout on writes: with symmetric back-pressure (both ends write and neither reads) a
/// stream can stall for ever.
pub struct Stream {
    inner: Compat<libp2p::Stream>,
    version: u8,
}

impl Stream {
    pub(crate) fn new(stream: libp2p::Stream, version: u8) -> Self {
        Self { inner: stream.compat(), version }
    }

    /// The version of the protocol on which both ends agreed: only frames of this version and below go over it.
    pub fn version(&self) -> u8 {
        self.version
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("version", &self.version).finish_non_exhaustive()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
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
