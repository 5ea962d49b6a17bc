//! The handle of a node on the mesh.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::Swarm;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wayfare_protocol::advert::Verdict;
use wayfare_protocol::ids::HostId;
use wayfare_protocol::wire::VERSIONS;

use crate::bootstrap::Bootstrap;
use crate::connector::{Connector, DirectConnector};
use crate::counters::{Counters, NetCounters};
use crate::discovery::Seeker;
use crate::door::Door;
use crate::driver::{Behaviour, Command, Driver, Ends, swarm_config};
use crate::error::NetError;
use crate::gossip::GossipId;
use crate::identity::{host_id, keypair, parse_address};
use crate::inbound::{Inbound, Incoming};
use crate::limits::{BOOTSTRAP_MAX, COMMANDS_MAX, EVENTS_MAX, NetLimits, VERDICTS_MAX};
use crate::opener::Opener;
use crate::peers::{Incompatible, Peers};
use crate::probe::{self, Probes};
use crate::stream::{Protocol, Stream};
use crate::{substreams, transport};

/// What a node on the mesh is started with.
pub struct NetConfig {
    /// The ed25519 secret; its public key is the node's `HostId`.
    pub seed: [u8; 32],
    /// Where to listen: multiaddrs such as `/ip4/127.0.0.1/tcp/0` or `/ip4/127.0.0.1/udp/0/quic-v1`. Empty for a node that
    /// only dials.
    pub listen: Vec<String>,
    /// Whom to stay connected to: multiaddrs (`/ip4`, `/ip6` or `/dns`, then `/tcp`; or an IP address, `/udp` and
    /// `/quic-v1`), with a `/p2p/` suffix (then the key at the other end must fit, and addresses that name the same peer are
    /// ways to one connection) or without. The node's own address is recognised and left out.
    pub bootstrap: Vec<String>,
    /// Whether to take part in the gossip of adverts. Registries do not.
    pub gossip: bool,
    /// Whether to find peers on the LAN by mDNS, and to be found: it announces this node there.
    pub mdns: bool,
    /// Whom to connect to whenever mDNS finds them: this node's Registries.
    pub seek: Vec<HostId>,
    /// The versions of the protocol that this node speaks, newest first: [`VERSIONS`], except where a test wants a node
    /// of another time. On each stream, the highest that both ends speak is spoken.
    pub versions: Vec<u8>,
    /// Makes every outgoing connection.
    pub connector: Arc<dyn Connector>,
    /// Limits of connections and of time.
    pub limits: NetLimits,
}

impl NetConfig {
    /// A node that listens on a free port of 127.0.0.1, gossips, dials directly and knows nobody.
    pub fn local(seed: [u8; 32]) -> Self {
        Self {
            seed,
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            bootstrap: Vec::new(),
            gossip: true,
            mdns: false,
            seek: Vec::new(),
            versions: VERSIONS.to_vec(),
            connector: Arc::new(DirectConnector),
            limits: NetLimits::default(),
        }
    }
}

impl fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetConfig")
            .field("seed", &"(secret)")
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .field("gossip", &self.gossip)
            .field("mdns", &self.mdns)
            .field("versions", &self.versions)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What the mesh tells its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// An advert, not verified. Answer with [`Net::judge`] within ten seconds; until then it is not forwarded.
    Gossip {
        /// What to judge.
        id: GossipId,
        /// Who forwarded it to us; not its author.
        from: HostId,
        /// The bytes as published.
        bytes: Vec<u8>,
    },
    /// The first connection with a peer was made. A peer that comes and goes while the receiver is full is not
    /// reported; nor is one that goes and comes back.
    PeerConnected(HostId),
    /// The last connection with a peer ended.
    PeerDisconnected(HostId),
    /// A peer speaks no version of the protocol that this node speaks: no stream is opened with it. Told once for each
    /// program that the peer runs.
    Incompatible(Incompatible),
}

/// A node on the mesh: a cheap handle. The node stops when its cancellation token is cancelled or when the last handle
/// is dropped.
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
}

struct Shared {
    host: HostId,
    opener: Opener,
    verdicts: mpsc::Sender<(GossipId, Verdict)>,
    inbound: Arc<Inbound>,
    peers: Arc<Peers>,
    probes: Probes,
    listen: watch::Receiver<Vec<String>>,
    connected: watch::Receiver<usize>,
    counters: Arc<Counters>,
    door: Arc<Door>,
    connector: Arc<dyn Connector>,
    tracker: TaskTracker,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Net").field(&self.shared.host).finish()
    }
}

impl Net {
    /// Starts a node: listens on every address (and fails if one cannot be had), answers probes, dials the bootstrap
    /// addresses in the background. Call it within a tokio runtime. Read the events: while nobody does, gossip is
    /// dropped.
    ///
    /// # Errors
    /// `BadAddress`, `AddressInUse`, `Listen` (each names the address) or `Setup`; then nothing runs.
    pub async fn start(
        mut config: NetConfig,
        shutdown: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        let keypair = keypair(&mut config.seed)?;
        let peer = keypair.public().to_peer_id();
        let host = host_id(&peer).ok_or_else(|| NetError::Setup("the key is not ed25519".to_owned()))?;
        if config.bootstrap.len() > BOOTSTRAP_MAX {
            return Err(NetError::Setup(format!("more than {BOOTSTRAP_MAX} bootstrap addresses")));
        }
        let bootstrap = config.bootstrap.iter().map(|text| parse_address(text)).collect::<Result<Vec<_>, _>>()?;
        let listen = config.listen.iter().map(|text| parse_address(text)).collect::<Result<Vec<_>, _>>()?;

        let counters = Arc::new(Counters::default());
        let inbound = Arc::new(Inbound::new(config.versions.clone()));
        let peers = Arc::new(Peers::new(config.versions));
        let tracker = TaskTracker::new();
        let limits = &config.limits;
        let door = Arc::new(Door::new(limits.connections_max, Arc::clone(&counters)));
        let substreams = substreams::Behaviour::new(
            Arc::clone(&inbound),
            Arc::clone(&counters),
            Arc::clone(&door),
            limits.open_timeout / 2,
        );
        let gates = (Arc::clone(&door), Arc::clone(&counters));
        let behaviour = Behaviour::new(&keypair, limits, config.gossip, config.mdns, substreams, gates)?;
        let connector = Arc::clone(&config.connector);
        let transport = transport::build(&keypair, connector, limits.dial_timeout, Arc::clone(&door))?;
        let swarm = Swarm::new(transport, behaviour, peer, swarm_config(&tracker));

        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (verdicts, verdict_queue) = mpsc::channel(VERDICTS_MAX);
        let (events, event_queue) = mpsc::channel(EVENTS_MAX);
        let (listen_sender, listen_receiver) = watch::channel(Vec::new());
        let (connected_sender, connected_receiver) = watch::channel(0);
        let ends = Ends {
            commands: command_queue,
            verdicts: verdict_queue,
            events,
            listen: listen_sender,
            connected: connected_sender,
        };
        let mut driver = Driver::new(swarm, ends, Seeker::new(&config.seek), Arc::clone(&peers), Arc::clone(&counters));
        driver.listen(listen.into_iter().map(|(address, _)| address).collect()).await?;

        let probes = inbound.accept(Protocol::Probe)?;
        tracker.spawn(probe::answer(probes, Arc::clone(&counters), shutdown.clone()));
        tracker.spawn(driver.run(Bootstrap::new(bootstrap, Instant::now()), shutdown.clone()));
        tracker.close();
        let opener = Opener {
            commands,
            open_timeout: limits.open_timeout,
            peers: Arc::clone(&peers),
            counters: Arc::clone(&counters),
        };
        let shared = Shared {
            host,
            probes: Probes::new(opener.clone(), limits.probe_timeout, tracker.clone(), shutdown),
            opener,
            verdicts,
            inbound,
            peers,
            listen: listen_receiver,
            connected: connected_receiver,
            counters,
            door,
            connector: config.connector,
            tracker,
        };
        Ok((Self { shared: Arc::new(shared) }, event_queue))
    }

    /// This node's name.
    pub fn host_id(&self) -> HostId {
        self.shared.host
    }

    /// The addresses that peers can dial, with real ports and without `/p2p/`. A wildcard address (`/ip4/0.0.0.0/…`)
    /// yields one for each interface, and they follow the interfaces.
    pub fn listen_addresses(&self) -> Vec<String> {
        self.shared.listen.borrow().clone()
    }

    /// What makes this node's outgoing connections, for those made beside libp2p.
    pub fn connector(&self) -> Arc<dyn Connector> {
        Arc::clone(&self.shared.connector)
    }

    /// Gossips `advert_bytes` to the mesh. Bytes once published or received are not published again within two minutes.
    ///
    /// # Errors
    /// `NoGossipPeers` until a peer has subscribed (shortly after it is connected): try again later. `TooLarge`,
    /// `AlreadyPublished`, `GossipOff`, `Busy`, `Stopped`.
    pub async fn publish(&self, advert_bytes: Vec<u8>) -> Result<(), NetError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Publish { bytes: advert_bytes, reply };
        self.shared.opener.commands.send(command).await.map_err(|_| NetError::Stopped)?;
        answer.await.unwrap_or(Err(NetError::Stopped))
    }

    /// Decides what becomes of a received advert; the first verdict counts. Never waits: when the swarm is far behind,
    /// the verdict is dropped and counted, which equals `Ignore`.
    pub fn judge(&self, id: GossipId, verdict: Verdict) {
        if self.shared.verdicts.try_send((id, verdict)).is_err() {
            self.shared.counters.verdicts_dropped.add_one();
        }
    }

    /// Opens a stream to `peer`, dialling `addresses` (and those that the peer itself has told us) if it is not
    /// connected. Addresses that we cannot use, or that name another peer, are left out. The key at the other end is
    /// `peer`, or this fails.
    ///
    /// # Errors
    /// `Unreachable`, `WrongPeer`, `Unsupported`, `NoCommonVersion`, `Timeout`, `Busy`, `Stopped`.
    pub async fn open(&self, peer: HostId, addresses: &[String], protocol: Protocol) -> Result<Stream, NetError> {
        self.shared.opener.open(peer, addresses, protocol).await
    }

    /// Connects to `peer`, if it is not connected, and opens no stream: so a node joins the gossip of peers that it
    /// has learnt of.
    ///
    /// # Errors
    /// As for [`open`](Self::open), without `Unsupported`.
    pub async fn connect(&self, peer: HostId, addresses: &[String]) -> Result<(), NetError> {
        self.shared.opener.connect(peer, addresses).await
    }

    /// Accepts the streams that peers open for `protocol`, until the receiver is dropped. Read it promptly: beyond a
    /// few dozen waiting streams, more are reset.
    ///
    /// # Errors
    /// `AlreadyAccepted`; always so for `Probe`, which this crate answers.
    pub fn accept(&self, protocol: Protocol) -> Result<mpsc::Receiver<Incoming>, NetError> {
        self.shared.inbound.accept(protocol)
    }

    /// Measures the round-trip time to `peer` once, on a stream that is kept for the next time. Neither dial nor
    /// opening is counted. Probes of one peer take turns.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and `BadProbe`.
    pub async fn probe(&self, peer: HostId, addresses: &[String]) -> Result<Duration, NetError> {
        self.shared.probes.probe(peer, addresses).await
    }

    /// Peers connected now.
    pub fn connected(&self) -> usize {
        *self.shared.connected.borrow()
    }

    /// Peers that speak no version of the protocol that this node speaks, oldest first: the last few that were met.
    pub fn incompatible(&self) -> Vec<Incompatible> {
        self.shared.peers.refused()
    }

    /// Where the connections with `host` lead: multiaddrs, oldest first. Streams and probes go over the oldest.
    pub fn routes(&self, host: HostId) -> Vec<String> {
        self.shared.peers.routes(host)
    }

    /// Follows [`listen_addresses`](Self::listen_addresses): interfaces come and go.
    pub fn watch_addresses(&self) -> watch::Receiver<Vec<String>> {
        self.shared.listen.clone()
    }

    /// What the peers connected now say that their programs are, such as `wayfare/0.1.0`.
    pub fn agents(&self) -> Vec<(HostId, String)> {
        self.shared.peers.agents()
    }

    /// Counts a message that the version agreed on with its receiver does not have.
    pub(crate) fn count_unsent(&self) {
        self.shared.counters.frames_unsent.add_one();
    }

    /// `host` belongs to the mesh: a certificate of it was verified. What it does is charged to itself from now on, and no
    /// more to all strangers behind its address, and its connections make room for no stranger's.
    pub fn vouch(&self, host: HostId) {
        self.shared.door.vouch(host);
    }

    /// Who knows members from strangers.
    pub(crate) fn door(&self) -> &Door {
        &self.shared.door
    }

    /// Counts a frame that waited.
    pub(crate) fn count_delayed(&self) {
        self.shared.counters.frames_delayed.add_one();
    }

    /// Follows [`connected`](Self::connected).
    pub fn watch_connected(&self) -> watch::Receiver<usize> {
        self.shared.connected.clone()
    }

    /// What was dropped or refused since the start.
    pub fn counters(&self) -> NetCounters {
        self.shared.counters.read()
    }

    /// Returns once the node has stopped after its cancellation: every task has ended and every port is free.
    pub async fn stopped(&self) {
        self.shared.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_the_seed() {
        let text = format!("{:?}", NetConfig::local([0xab; 32]));
        assert!(text.contains("(secret)") && !text.contains("171") && !text.contains("ab, "), "{text}");
    }
}
