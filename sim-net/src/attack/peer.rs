//! A node of the mesh that speaks its streams by hand.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::{
    io::{ReadHalf, WriteHalf},
    sync::mpsc,
};
use wayfare_net::{
    CancellationToken, FrameError, FrameReader, FrameWriter, Incoming, Net, NetConfig, NetError, NetEvent, Protocol,
    Stream,
};
use wayfare_protocol::{
    ids::HostId,
    limits::{CLIENT_FRAME_BYTES_MAX, FRAME_BYTES_MAX, STATE_FRAME_BYTES_MAX},
    suite::{Dalek, Secret, Suite},
    wire::Frame,
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Fails, saying what was waited for, rather than hanging.
///
/// # Errors
/// It took too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("waited too long for {what}"))
}

/// Asks until there is an answer.
///
/// # Errors
/// It took too long.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    within(what, asking).await
}

/// Where a node is.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    /// Who.
    pub host: HostId,
    /// Multiaddrs.
    pub addresses: Vec<String>,
}

/// A node with a key and nothing else.
#[derive(Debug)]
pub struct Peer {
    /// Its key.
    pub secret: Secret,
    /// Its name on the mesh.
    pub host: HostId,
    /// Its place on the mesh.
    pub net: Net,
    /// What the mesh tells it.
    pub events: mpsc::Receiver<NetEvent>,
    stop: CancellationToken,
}

impl Peer {
    /// A node of this configuration.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn with(config: NetConfig) -> Result<Self, NetError> {
        let secret = Secret::new(config.seed);
        let stop = CancellationToken::new();
        let (net, events) = Net::start(config, stop.clone()).await?;
        Ok(Self { host: HostId(Dalek::public_key(&secret)), secret, net, events, stop })
    }

    /// Where it is.
    pub fn whereabouts(&self) -> Whereabouts {
        Whereabouts { host: self.host, addresses: self.net.listen_addresses() }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// Nobody is there, or not in time.
    pub async fn line(&self, to: &Whereabouts, protocol: Protocol) -> anyhow::Result<Line> {
        let stream = within("a stream", self.net.open(to.host, &to.addresses, protocol)).await??;
        Ok(Line::new(stream, protocol))
    }

    /// Takes the streams that peers open for `protocol`.
    ///
    /// # Errors
    /// Somebody takes them already.
    pub fn accept(&self, protocol: Protocol) -> Result<Doorstep, NetError> {
        Ok(Doorstep { protocol, incoming: self.net.accept(protocol)? })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Where streams of one protocol arrive.
#[derive(Debug)]
pub struct Doorstep {
    protocol: Protocol,
    incoming: mpsc::Receiver<Incoming>,
}

impl Doorstep {
    /// The next stream, and who opened it; `None` once the node has stopped.
    pub async fn next(&mut self) -> Option<(HostId, Line)> {
        let (host, stream) = self.incoming.recv().await?;
        Some((host, Line::new(stream, self.protocol)))
    }

    /// The next stream that `from` opens; others' are dropped.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn line(&mut self, from: HostId) -> anyhow::Result<Line> {
        let next = async {
            loop {
                let (host, line) = self.next().await?;
                if host == from {
                    return Some(line);
                }
            }
        };
        within("a stream from a peer", next).await?.context("this node has stopped")
    }
}

const fn cap(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Registry | Protocol::Migrate | Protocol::Module | Protocol::Probe => FRAME_BYTES_MAX,
        Protocol::State => STATE_FRAME_BYTES_MAX,
        Protocol::Request => CLIENT_FRAME_BYTES_MAX,
    }
}

/// Where frames come in.
pub type Reader = FrameReader<ReadHalf<Stream>>;
/// Where frames go out.
pub type Writer = FrameWriter<WriteHalf<Stream>>;

/// An open stream of frames.
#[derive(Debug)]
pub struct Line {
    reader: Reader,
    writer: Writer,
}

impl Line {
    /// Frames on `stream`. The writer allows what the receiver's cap does not.
    pub fn new(stream: Stream, protocol: Protocol) -> Self {
        let (read, write) = tokio::io::split(stream);
        let reader = FrameReader::new(read, cap(protocol));
        Self { reader, writer: FrameWriter::new(write, cap(protocol) + 1) }
    }

    /// Both halves.
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// Sends a frame's content. A receiver that has closed the stream meanwhile is no failure here.
    ///
    /// # Errors
    /// It takes no bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        // What became of it shows at the receiver.
        let _ = within("room for a frame", self.writer.send(bytes)).await?;
        Ok(())
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn say(&mut self, frame: &impl Frame) -> anyhow::Result<()> {
        self.send(&frame.to_bytes()).await
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// It takes no bytes.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let _ = within("the end of a stream", self.writer.finish()).await?;
        drop(self.reader.read().await);
        Ok(())
    }

    /// The next frame's content, or how the stream ended.
    ///
    /// # Errors
    /// Neither comes in time.
    pub async fn receive(&mut self) -> anyhow::Result<Result<Bytes, FrameError>> {
        within("a frame", self.reader.read()).await
    }

    /// The next frame.
    ///
    /// # Errors
    /// There is none, or it is none of these.
    pub async fn hear<F: Frame>(&mut self) -> anyhow::Result<F> {
        Ok(F::from_bytes(&self.receive().await??)?)
    }

    /// The next frame for which `want` has an answer; others are dropped.
    ///
    /// # Errors
    /// As [`hear`](Self::hear).
    pub async fn wait_for<F: Frame, T>(&mut self, want: impl Fn(F) -> Option<T>) -> anyhow::Result<T> {
        loop {
            if let Some(found) = want(self.hear().await?) {
                return Ok(found);
            }
        }
    }
}
