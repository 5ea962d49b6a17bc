//! Round-trip times on demand: an 8-byte token is echoed on one long-lived stream for each peer.
//!
//! libp2p's ping has a fixed interval only. A probe counts neither the dial nor the opening of the stream.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wayfare_protocol::ids::HostId;

use crate::counters::Counters;
use crate::error::NetError;
use crate::inbound::Incoming;
use crate::limits::{PROBE_ANSWERS_MAX, PROBE_ANSWERS_PER_PEER_MAX, PROBE_IDLE_TIME, PROBE_QUEUE_MAX, PROBES_MAX};
use crate::opener::Opener;
use crate::stream::{Protocol, Stream};

/// Bytes of a token.
const TOKEN_BYTES: usize = 8;

struct Request {
    addresses: Vec<String>,
    reply: oneshot::Sender<Result<Duration, NetError>>,
}

/// The asking side: one task for each probed peer, which owns the stream and ends when it is idle.
pub(crate) struct Probes {
    opener: Opener,
    probe_timeout: Duration,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    probers: Mutex<Probers>,
}

#[derive(Default)]
struct Probers {
    by_peer: HashMap<HostId, (mpsc::Sender<Request>, u64)>,
    /// Counts the uses, to find the least recently used.
    uses: u64,
}

impl Probes {
    pub(crate) fn new(
        opener: Opener,
        probe_timeout: Duration,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self { opener, probe_timeout, tracker, shutdown, probers: Mutex::default() }
    }

    pub(crate) async fn probe(&self, peer: HostId, addresses: &[String]) -> Result<Duration, NetError> {
        // A prober that was about to end may take the first request with it; its successor is new.
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            let request = Request { addresses: addresses.to_vec(), reply };
            if self.prober(peer).send(request).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
        }
        Err(NetError::Stopped)
    }

    /// The peer's prober, a new one if it has none that runs; the least recently used makes room.
    fn prober(&self, peer: HostId) -> mpsc::Sender<Request> {
        let mut probers = self.probers.lock().unwrap_or_else(PoisonError::into_inner);
        probers.uses += 1;
        let now = probers.uses;
        if let Some((sender, used)) = probers.by_peer.get_mut(&peer)
            && !sender.is_closed()
        {
            *used = now;
            return sender.clone();
        }
        probers.by_peer.retain(|_, (sender, _)| !sender.is_closed());
        if probers.by_peer.len() >= PROBES_MAX
            && let Some(oldest) = probers.by_peer.iter().min_by_key(|(_, (_, used))| *used).map(|(peer, _)| *peer)
        {
            probers.by_peer.remove(&oldest);
        }
        let (sender, requests) = mpsc::channel(PROBE_QUEUE_MAX);
        probers.by_peer.insert(peer, (sender.clone(), now));
        let prober = Prober {
            peer,
            opener: self.opener.clone(),
            probe_timeout: self.probe_timeout,
            stream: None,
            tokens: RandomState::new(),
            asked: 0,
        };
        self.tracker.spawn(prober.run(requests, self.shutdown.clone()));
        sender
    }
}

struct Prober {
    peer: HostId,
    opener: Opener,
    probe_timeout: Duration,
    stream: Option<Stream>,
    /// Keyed at random, so that a peer cannot send the answer before the question to look nearer.
    tokens: RandomState,
    asked: u64,
}

impl Prober {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, shutdown: CancellationToken) {
        loop {
            let request = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                request = timeout(PROBE_IDLE_TIME, requests.recv()) => request,
            };
            let Ok(Some(request)) = request else { return };
            if request.reply.is_closed() {
                continue;
            }
            let result = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                result = self.measure(&request.addresses) => result,
            };
            let _ = request.reply.send(result);
        }
    }

    async fn measure(&mut self, addresses: &[String]) -> Result<Duration, NetError> {
        if let Some(stream) = self.stream.take() {
            match self.ask(stream).await {
                // The old stream's connection has gone (the peer restarted, or closed what was idle): open a new one.
                Err(NetError::Unreachable { .. }) => {}
                result => return result,
            }
        }
        let stream = self.opener.open(self.peer, addresses, Protocol::Probe).await?;
        self.ask(stream).await
    }

    /// Keeps the stream only if it answered rightly and in time.
    async fn ask(&mut self, mut stream: Stream) -> Result<Duration, NetError> {
        let peer = self.peer;
        self.asked += 1;
        let token = self.tokens.hash_one(self.asked).to_le_bytes();
        let mut echo = [0; TOKEN_BYTES];
        let start = Instant::now();
        let round = async {
            stream.write_all(&token).await?;
            stream.flush().await?;
            stream.read_exact(&mut echo).await
        };
        let round = timeout(self.probe_timeout, round).await;
        let rtt = start.elapsed();
        match round {
            Err(_) => Err(NetError::Timeout { peer, what: "answer to a probe" }),
            Ok(Err(error)) => Err(NetError::Unreachable { peer, reason: error.to_string() }),
            Ok(Ok(_)) if echo != token => Err(NetError::BadProbe { peer }),
            Ok(Ok(_)) => {
                self.stream = Some(stream);
                Ok(rtt)
            }
        }
    }
}

/// The answering side: echoes tokens on each probe stream, within the limits.
pub(crate) async fn answer(
    mut incoming: mpsc::Receiver<Incoming>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
) {
    let mut served = JoinSet::new();
    let mut by_peer: HashMap<HostId, usize> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(done) = served.join_next() => {
                if let Ok(peer) = done
                    && let Some(count) = by_peer.get_mut(&peer)
                {
                    *count -= 1;
                    if *count == 0 {
                        by_peer.remove(&peer);
                    }
                }
            }
            stream = incoming.recv() => {
                let Some((peer, stream)) = stream else { return };
                let count = by_peer.get(&peer).copied().unwrap_or(0);
                if served.len() >= PROBE_ANSWERS_MAX || count >= PROBE_ANSWERS_PER_PEER_MAX {
                    counters.probes_refused.add_one();
                    continue;
                }
                by_peer.insert(peer, count + 1);
                served.spawn(async move {
                    echo(stream).await;
                    peer
                });
            }
        }
    }
}

/// Echoes tokens until the peer ends the stream, breaks it, or is silent for too long.
async fn echo(mut stream: Stream) {
    let mut token = [0; TOKEN_BYTES];
    while let Ok(Ok(_)) = timeout(PROBE_IDLE_TIME, stream.read_exact(&mut token)).await {
        let answered = async {
            stream.write_all(&token).await?;
            stream.flush().await
        };
        if !matches!(timeout(PROBE_IDLE_TIME, answered).await, Ok(Ok(()))) {
            return;
        }
    }
}
