//! [`sim_net::attack::peer`] for tests, which end where something goes wrong.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use sim_net::attack::peer;
pub use sim_net::attack::peer::{PATIENCE, Reader, Whereabouts, Writer};
use wayfare_net::{FrameError, NetConfig, Protocol, Stream};
use wayfare_protocol::{ids::HostId, wire::Frame};

/// Fails, saying what was waited for, rather than hanging.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    peer::within(what, future).await.unwrap()
}

/// Asks until there is an answer.
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    peer::until(what, ask).await.unwrap()
}

/// Lets a type be used like what is in it.
macro_rules! inside {
    ($outer:ty, $inner:ty) => {
        impl Deref for $outer {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl DerefMut for $outer {
            fn deref_mut(&mut self) -> &mut $inner {
                &mut self.0
            }
        }
    };
}

/// A node with a key and nothing else.
#[derive(Debug)]
pub struct Peer(pub(crate) peer::Peer);

inside!(Peer, peer::Peer);

impl Peer {
    /// A node that does not gossip.
    pub async fn start(seed: u8) -> Self {
        Self::with(NetConfig { gossip: false, ..NetConfig::local([seed; 32]) }).await
    }

    /// A node of this configuration.
    pub async fn with(config: NetConfig) -> Self {
        Self(peer::Peer::with(config).await.unwrap())
    }

    /// Opens a stream.
    pub async fn line(&self, to: &Whereabouts, protocol: Protocol) -> Line {
        Line::open(&self.0, to, protocol).await
    }

    /// Takes the streams that peers open for `protocol`.
    pub fn accept(&self, protocol: Protocol) -> Doorstep {
        Doorstep(self.0.accept(protocol).unwrap())
    }
}

/// Where streams of one protocol arrive.
#[derive(Debug)]
pub struct Doorstep(peer::Doorstep);

impl Doorstep {
    /// The next stream, and who opened it; `None` once the node has stopped.
    pub async fn next(&mut self) -> Option<(HostId, Line)> {
        self.0.next().await.map(|(host, line)| (host, Line(line)))
    }

    /// The next stream that `from` opens; others' are dropped.
    pub async fn line(&mut self, from: HostId) -> Line {
        Line(self.0.line(from).await.unwrap())
    }
}

/// An open stream of frames.
#[derive(Debug)]
pub struct Line(pub(crate) peer::Line);

impl Line {
    /// A stream that `from` opens.
    pub async fn open(from: &peer::Peer, to: &Whereabouts, protocol: Protocol) -> Self {
        Self(from.line(to, protocol).await.unwrap())
    }

    /// Frames on `stream`.
    pub fn new(stream: Stream, protocol: Protocol) -> Self {
        Self(peer::Line::new(stream, protocol))
    }

    /// Both halves.
    pub fn split(self) -> (Reader, Writer) {
        self.0.split()
    }

    /// Sends a frame's content. A receiver that has closed the stream meanwhile is no failure here.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.send(bytes).await.unwrap();
    }

    /// Sends a frame.
    pub async fn say(&mut self, frame: &impl Frame) {
        self.0.say(frame).await.unwrap();
    }

    /// Ends the stream.
    pub async fn finish(self) {
        self.0.finish().await.unwrap();
    }

    /// The next frame's content, or how the stream ended.
    pub async fn receive(&mut self) -> Result<Bytes, FrameError> {
        self.0.receive().await.unwrap()
    }

    /// The next frame.
    pub async fn hear<F: Frame>(&mut self) -> F {
        self.0.hear().await.unwrap()
    }

    /// The next frame for which `want` has an answer; others are dropped.
    pub async fn wait_for<F: Frame, T>(&mut self, want: impl Fn(F) -> Option<T>) -> T {
        self.0.wait_for(want).await.unwrap()
    }
}
