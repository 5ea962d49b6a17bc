//! The attacker, a process of its own on a core of its own. It is told by lines of JSON on its stdin what to throw and when, and
//! answers with one line each: see [`Order`] and [`Said`].

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use wayfare_net::{CancellationToken, Connection, Connector, Net, NetConfig, NetEvent, Protocol};
use wayfare_protocol::{
    ids::HostId,
    suite::{Secret, fresh_secret},
    trust::{JoinToken, TrustBundle},
};

use super::weapons::{Insider, Line, advert_of};

/// What is thrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// 2 of a registered service of its own, at the Registry.
    Verdicts,
    /// Connections that begin a handshake and never end it, at a cloud.
    Handshakes,
    /// Requests for the service that moves, at the clouds that have it in turn, through a gateway of its own.
    Calls,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Verdicts, Self::Calls, Self::Handshakes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Verdicts => "verdicts",
            Self::Handshakes => "handshakes",
            Self::Calls => "calls",
        }
    }

    /// What the attacker has to be enrolled as, if anything.
    pub(super) const fn role(self) -> &'static str {
        match self {
            Self::Calls => "gateway",
            Self::Verdicts | Self::Handshakes => "home",
        }
    }
}

/// Where a node is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Victim {
    pub(crate) host: String,
    pub(crate) addresses: Vec<String>,
}

/// What the attacker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Get everything ready.
    Prepare { kind: Kind, token: String, victims: Vec<Victim>, service: String },
    /// Throw as much as the victim takes, within what it lets anybody have at once: how much that is.
    Measure,
    /// Throw so many a second, until [`Order::Stop`].
    Flood { per_s: f64 },
    /// Enough.
    Stop,
}

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    Ready,
    /// Done by the victim each second, when it does nothing else.
    Capacity {
        per_s: f64,
    },
    /// Thrown, and of these let in by the victim (the rest found its socket, its backlog or its window full).
    Flooded {
        offered: u64,
        taken: u64,
        seconds: f64,
    },
}

/// How many 2 are made ahead: more than a Registry takes of one host in any flood here.
const QUESTIONS: u64 = 30_000;
const CALLS: u64 = 400_000;
/// Operations that a capacity is measured by: within what any peer may have at once.
const SAMPLE: usize = 300;
/// At a time, while a capacity is measured that needs a round trip for each.
const AT_A_TIME: usize = 16;
/// Frames that wait for a lane's socket.
const LANE: usize = 256;
/// How often the generator throws.
const TICK: Duration = Duration::from_millis(2);
/// Addresses from which handshakes come.
const SOURCES: u8 = 200;
/// Connections that are held open.
const HELD: usize = 600;

/// Where the attacker's streams come from.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 6);

/// Dials from [`FROM`].
struct From;

impl Connector for From {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, std::io::Result<Box<dyn Connection>>> {
        async move {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((FROM, 0)))?;
            let stream = socket.connect(target).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    }
}

/// Obeys until its stdin ends.
///
/// # Errors
/// What cannot be prepared.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let mut orders = super::lines_of(std::io::stdin());
    let mut armed: Option<Armed> = None;
    let mut flood: Option<(CancellationToken, tokio::task::JoinHandle<anyhow::Result<Said>>)> = None;
    while let Some(line) = orders.recv().await {
        match serde_json::from_str(&line)? {
            Order::Prepare { kind, token, victims, service } => {
                armed = Some(Armed::prepare(kind, &token, &victims, &service).await?);
                say(&Said::Ready)?;
            }
            Order::Measure => {
                let armed = armed.as_mut().context("nothing is prepared")?;
                say(&Said::Capacity { per_s: armed.capacity().await? })?;
            }
            Order::Flood { per_s } => {
                let (armed, stop) = (armed.take().context("nothing is prepared")?, CancellationToken::new());
                flood = Some((stop.clone(), tokio::spawn(armed.flood(per_s, stop))));
            }
            Order::Stop => {
                let (stop, flooding) = flood.take().context("nothing is thrown")?;
                stop.cancel();
                say(&flooding.await??)?;
            }
        }
    }
    Ok(())
}

fn say(said: &Said) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(said)?)?;
    Ok(stdout.flush()?)
}

/// Everything that is thrown, made.
struct Armed {
    kind: Kind,
    net: Net,
    victims: Vec<(HostId, Vec<String>)>,
    /// What each stream begins with.
    preamble: Vec<Vec<u8>>,
    /// Thrown in this order; each once, or again from the beginning where that makes no difference.
    frames: VecDeque<Vec<u8>>,
    _events: mpsc::Receiver<NetEvent>,
}

fn victim(victim: &Victim) -> anyhow::Result<(HostId, Vec<String>)> {
    Ok((HostId::parse(&victim.host).context("no host")?, victim.addresses.clone()))
}

impl Armed {
    async fn prepare(kind: Kind, token: &str, victims: &[Victim], service: &str) -> anyhow::Result<Self> {
        let token = JoinToken::parse(token)?;
        let secret: Secret = fresh_secret(&mut rand_core::UnwrapErr(getrandom::SysRng));
        let gossip = kind == Kind::Verdicts;
        let victims = victims.iter().map(victim).collect::<anyhow::Result<Vec<_>>>()?;
        let bootstrap = match kind {
            Kind::Verdicts => token.anchor.addresses.clone(),
            Kind::Calls | Kind::Handshakes => Vec::new(),
        };
        let config = NetConfig {
            listen: Vec::new(),
            bootstrap,
            gossip,
            connector: Arc::new(From),
            ..NetConfig::local(*secret.expose())
        };
        let (net, mut events) = Net::start(config, CancellationToken::new()).await?;
        let (mut preamble, mut frames) = (Vec::new(), Vec::new());
        match kind {
            Kind::Verdicts => {
                let insider = Insider::join(net.clone(), &secret, &token).await?;
                let bundle = TrustBundle::new(vec![token.anchor.clone()]);
                let (cloud, _) = victims.last().context("no cloud to ask about")?;
                let advert = advert_of(*cloud, &net, &bundle, &mut events).await?;
                frames = insider.questions(&advert, QUESTIONS).await?;
            }
            Kind::Calls => {
                let insider = Insider::join(net.clone(), &secret, &token).await?;
                (preamble, frames) = insider.calls(service, CALLS).await?;
            }
            Kind::Handshakes => {}
        }
        Ok(Self { kind, net, victims, preamble, frames: frames.into(), _events: events })
    }

    fn first(&self) -> anyhow::Result<(HostId, &[String])> {
        let (host, addresses) = self.victims.first().context("no victim")?;
        Ok((*host, addresses))
    }

    const fn protocol(&self) -> Protocol {
        match self.kind {
            Kind::Verdicts => Protocol::Registry,
            Kind::Calls | Kind::Handshakes => Protocol::Request,
        }
    }

    async fn line(&self, number: usize) -> anyhow::Result<Line> {
        let (host, addresses) = self.victims.get(number % self.victims.len()).context("no victim")?;
        let mut line = Line::open(&self.net, *host, addresses, self.protocol()).await?;
        for frame in &self.preamble {
            line.send(frame).await?;
        }
        Ok(line)
    }

    /// Operations a second that the first victim does.
    async fn capacity(&mut self) -> anyhow::Result<f64> {
        match self.kind {
            Kind::Verdicts => self.answered_per_s().await,
            Kind::Calls => self.calls_per_s().await,
            Kind::Handshakes => self.handshakes_per_s().await,
        }
    }

    /// One after the other into one stream, until all are answered.
    async fn answered_per_s(&mut self) -> anyhow::Result<f64> {
        let (mut reader, mut writer) = self.line(0).await?.split();
        let frames: Vec<Vec<u8>> = self.frames.drain(..SAMPLE).collect();
        let begun = Instant::now();
        let write = async {
            for frame in &frames {
                writer.feed(frame).await?;
            }
            writer.flush().await?;
            anyhow::Ok(())
        };
        let read = async {
            for _ in 0..SAMPLE {
                reader.read().await?;
            }
            anyhow::Ok(())
        };
        let (written, answered) = tokio::join!(write, read);
        written?;
        answered?;
        Ok(SAMPLE as f64 / begun.elapsed().as_secs_f64())
    }

    /// Requests on the stream to the host that has the service, until all are answered.
    async fn calls_per_s(&mut self) -> anyhow::Result<f64> {
        const CALLS_SAMPLE: usize = 4000;
        for number in 0..self.victims.len() {
            let mut line = self.line(number).await?;
            // OPENED, MOVED or GONE.
            let opened = line.receive().await?.get(1) == Some(&62);
            if !opened {
                continue;
            }
            let calls: Vec<Vec<u8>> = self.frames.drain(..CALLS_SAMPLE).collect();
            let (mut reader, mut writer) = line.split();
            let begun = Instant::now();
            let (mut answered, mut asked) = (0, 0);
            while answered < CALLS_SAMPLE {
                while asked < CALLS_SAMPLE && asked - answered < AT_A_TIME * 4 {
                    writer.feed(&calls[asked]).await?;
                    asked += 1;
                }
                writer.flush().await?;
                reader.read().await?;
                answered += 1;
            }
            return Ok(CALLS_SAMPLE as f64 / begun.elapsed().as_secs_f64());
        }
        bail!("no victim has the service")
    }

    /// Handshakes up to the victim's answer, which is all the work it has with them; from many addresses, some at the same time.
    async fn handshakes_per_s(&self) -> anyhow::Result<f64> {
        let (_, addresses) = self.first()?;
        let to = socket(addresses).context("no TCP address")?;
        let begun = Instant::now();
        let threads: Vec<_> = (0..AT_A_TIME)
            .map(|thread| tokio::task::spawn_blocking(move || answered(to, thread * (SAMPLE / AT_A_TIME))))
            .collect();
        for thread in threads {
            thread.await??;
        }
        Ok((SAMPLE / AT_A_TIME * AT_A_TIME) as f64 / begun.elapsed().as_secs_f64())
    }

    async fn flood(self, per_s: f64, stop: CancellationToken) -> anyhow::Result<Said> {
        let begun = Instant::now();
        let (offered, taken) = match self.kind {
            Kind::Handshakes => {
                let (_, addresses) = self.first()?;
                let to = socket(addresses).context("no TCP address")?;
                tokio::task::spawn_blocking(move || connect(to, per_s, &stop)).await??
            }
            Kind::Verdicts | Kind::Calls => self.stream(per_s, &stop).await,
        };
        Ok(Said::Flooded { offered, taken, seconds: begun.elapsed().as_secs_f64() })
    }

    /// Frames into a stream to each victim, as fast as they are due or as the stream takes them.
    async fn stream(self, per_s: f64, stop: &CancellationToken) -> (u64, u64) {
        let (armed, taken) = (Arc::new(self), Arc::new(AtomicU64::new(0)));
        // Of the Registry one is asked, of the clouds all.
        let count = if armed.kind == Kind::Calls { armed.victims.len() } else { 1 };
        let lanes: Vec<mpsc::Sender<Vec<u8>>> = (0..count)
            .map(|number| {
                let (sender, frames) = mpsc::channel(LANE);
                tokio::spawn(Arc::clone(&armed).lane(number, frames, Arc::clone(&taken), stop.clone()));
                sender
            })
            .collect();
        let (mut offered, mut next, mut due) = (0_u64, 0, Due::new(per_s));
        while !stop.is_cancelled() {
            for turn in 0..due.now().await {
                offered += 1;
                // What finds no room is offered, and not taken; only what is taken is used up.
                let room = lanes.get(turn as usize % lanes.len()).and_then(|lane| lane.try_reserve().ok());
                let frame = armed.frames.get(next);
                if let (Some(room), Some(frame)) = (room, frame) {
                    room.send(frame.clone());
                    next += 1;
                }
            }
        }
        (offered, taken.load(Ordering::Relaxed))
    }

    async fn lane(
        self: Arc<Self>,
        number: usize,
        mut frames: mpsc::Receiver<Vec<u8>>,
        taken: Arc<AtomicU64>,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let Ok(line) = self.line(number).await else {
                tokio::time::sleep(TICK).await;
                continue;
            };
            let (mut reader, mut writer) = line.split();
            // Answers are read and thrown away: who does not read is disconnected.
            let reading = async { while reader.read().await.is_ok() {} };
            let writing = async {
                while let Some(frame) = frames.recv().await {
                    let mut next = Some(frame);
                    while let Some(frame) = next {
                        if writer.feed(&frame).await.is_err() {
                            return;
                        }
                        taken.fetch_add(1, Ordering::Relaxed);
                        next = frames.try_recv().ok();
                    }
                    if writer.flush().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = reading => {}
                () = writing => {}
            }
        }
    }
}

/// How many are due since the last time.
struct Due {
    per_s: f64,
    begun: Instant,
    thrown: u64,
}

impl Due {
    fn new(per_s: f64) -> Self {
        Self { per_s, begun: Instant::now(), thrown: 0 }
    }

    fn count(&mut self) -> u64 {
        let all = (self.begun.elapsed().as_secs_f64() * self.per_s) as u64;
        let due = all.saturating_sub(self.thrown);
        self.thrown = all;
        due
    }

    async fn now(&mut self) -> u64 {
        tokio::time::sleep(TICK).await;
        self.count()
    }
}

/// What a node says first on a connection, up to its ephemeral key: the other end then makes two key agreements to answer.
fn first_words() -> Vec<u8> {
    let mut words = Vec::new();
    for line in ["/multistream/1.0.0\n", "/noise\n"] {
        words.push(line.len() as u8);
        words.extend_from_slice(line.as_bytes());
    }
    words.extend_from_slice(&32_u16.to_be_bytes());
    // Any 32 bytes are a key.
    words.extend_from_slice(&[9; 32]);
    words
}

/// Connections to `to` from many addresses, each of which says its first words and no more; the oldest are let go.
fn connect(to: SocketAddr, per_s: f64, stop: &CancellationToken) -> anyhow::Result<(u64, u64)> {
    let (words, mut due) = (first_words(), Due::new(per_s));
    let (mut held, mut offered, mut taken) = (VecDeque::with_capacity(HELD), 0_u64, 0_u64);
    while !stop.is_cancelled() {
        for _ in 0..due.count() {
            offered += 1;
            let from = Ipv4Addr::new(127, 0, 68, 1 + (offered % u64::from(SOURCES)) as u8);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.set_linger(Some(Duration::ZERO))?;
            socket.bind(&SocketAddr::from((from, 0)).into())?;
            // In progress: the backlog is full.
            let connected =
                socket.connect(&to.into()).is_ok() || socket.take_error().is_ok_and(|error| error.is_none());
            if connected && socket.send(&words).is_ok() {
                taken += 1;
            }
            if held.len() >= HELD {
                held.pop_front();
            }
            held.push_back(socket);
            if stop.is_cancelled() {
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok((offered, taken))
}

/// A share of the sample, one handshake after the other.
fn answered(to: SocketAddr, first: usize) -> anyhow::Result<()> {
    let words = first_words();
    for number in first..first + SAMPLE / AT_A_TIME {
        let from = Ipv4Addr::new(127, 0, 67, 1 + (number % usize::from(SOURCES)) as u8);
        let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.connect(&to.into())?;
        socket.write_all(&words)?;
        // Its words, and then its key, its identity and its signature.
        socket.read_exact(&mut [0; 128])?;
    }
    Ok(())
}

fn socket(addresses: &[String]) -> Option<SocketAddr> {
    addresses.iter().find_map(|address| {
        let mut parts = address.split('/').skip(1);
        match (parts.next()?, parts.next()?, parts.next()?, parts.next()?) {
            ("ip4", ip, "tcp", port) => format!("{ip}:{port}").parse().ok(),
            _ => None,
        }
    })
}
