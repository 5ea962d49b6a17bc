//! A node of the mesh that speaks its streams by hand.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{ReadHalf, WriteHalf},
    sync::mpsc,
};
use wayfare_net::{
    CancellationToken, FrameError, FrameReader, FrameWriter, Incoming, Net, NetConfig, NetEvent, Protocol, Stream,
};
use wayfare_protocol::{
    ids::HostId,
    limits::{CLIENT_FRAME_BYTES_MAX, FRAME_BYTES_MAX, STATE_FRAME_BYTES_MAX},
    suite::{Dalek, Secret, Suite},
    wire::Frame,
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Fails, saying what was waited for, rather than hanging.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Asks until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
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
    /// A node that does not gossip.
    pub async fn start(seed: u8) -> Self {
        Self::with(NetConfig { gossip: false, ..NetConfig::local([seed; 32]) }).await
    }

    /// A node of this configuration.
    pub async fn with(config: NetConfig) -> Self {
        let secret = Secret::new(config.seed);
        let stop = CancellationToken::new();
        let (net, events) = Net::start(config, stop.clone()).await.unwrap();
        Self { host: HostId(Dalek::public_key(&secret)), secret, net, events, stop }
    }

    /// Where it is.
    pub fn whereabouts(&self) -> Whereabouts {
        Whereabouts { host: self.host, addresses: self.net.listen_addresses() }
    }

    /// Opens a stream.
    pub async fn line(&self, to: &Whereabouts, protocol: Protocol) -> Line {
        let stream = within("a stream", self.net.open(to.host, &to.addresses, protocol)).await;
        Line::new(stream.unwrap(), protocol)
    }

    /// Takes the streams that peers open for `protocol`.
    pub fn accept(&self, protocol: Protocol) -> Doorstep {
        Doorstep { protocol, incoming: self.net.accept(protocol).unwrap() }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Where streams of one protocol arrive.
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
    pub async fn line(&mut self, from: HostId) -> Line {
        let next = async {
            loop {
                let (host, line) = self.next().await.unwrap();
                if host == from {
                    return line;
                }
            }
        };
        within("a stream from a peer", next).await
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
    pub async fn send(&mut self, bytes: &[u8]) {
        drop(within("room for a frame", self.writer.send(bytes)).await);
    }

    /// Sends a frame.
    pub async fn say(&mut self, frame: &impl Frame) {
        self.send(&frame.to_bytes()).await;
    }

    /// Ends the stream.
    pub async fn finish(mut self) {
        drop(within("the end of a stream", self.writer.finish()).await);
        drop(self.reader.read().await);
    }

    /// The next frame's content, or how the stream ended.
    pub async fn receive(&mut self) -> Result<Bytes, FrameError> {
        within("a frame", self.reader.read()).await
    }

    /// The next frame.
    pub async fn hear<F: Frame>(&mut self) -> F {
        F::from_bytes(&self.receive().await.unwrap()).unwrap()
    }

    /// The next frame for which `want` has an answer; others are dropped.
    pub async fn wait_for<F: Frame, T>(&mut self, want: impl Fn(F) -> Option<T>) -> T {
        loop {
            if let Some(found) = want(self.hear().await) {
                return found;
            }
        }
    }
}
