//! The task that owns the swarm.

use std::sync::Arc;

use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, TransportError, connection_limits, gossipsub, identify, mdns};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wayfare_protocol::advert::Verdict;

use crate::bootstrap::Bootstrap;
use crate::counters::Counters;
use crate::discovery::{self, Seeker};
use crate::door::Door;
use crate::error::NetError;
use crate::gossip::{self, GossipId};
use crate::gossip_gate::Gate;
use crate::identity::host_id;
use crate::limits::{
    CONNECTIONS_PENDING_MAX, IDLE_CONNECTION_TIME, LISTEN_TIME, MDNS_RECORDS_MAX, NEGOTIATING_PER_CONNECTION_MAX,
    NetLimits, PEERS_REMEMBERED_MAX,
};
use crate::net::NetEvent;
use crate::news::PeerNews;
use crate::peers::Peers;
use crate::substreams::{self, Call};
use crate::target::{FORMS, Target, is_quic};

/// The name by which identify reports what we speak.
const IDENTIFY_PROTOCOL: &str = "/wayfare/1";

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    gossip: Toggle<Gate>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    substreams: substreams::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(
        keypair: &Keypair,
        limits: &NetLimits,
        gossip: bool,
        mdns: bool,
        substreams: substreams::Behaviour,
        (door, counters): (Arc<Door>, Arc<Counters>),
    ) -> Result<Self, NetError> {
        let connections = connection_limits::ConnectionLimits::default()
            .with_max_pending_outgoing(Some(CONNECTIONS_PENDING_MAX))
            .with_max_established_incoming(Some(limits.connections_max - limits.connections_max / 4))
            .with_max_established(Some(limits.connections_max))
            .with_max_established_per_peer(Some(limits.connections_per_peer_max));
        let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
            .with_agent_version(concat!("wayfare/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_cache_size(PEERS_REMEMBERED_MAX);
        Ok(Self {
            limits: connection_limits::Behaviour::new(connections),
            identify: identify::Behaviour::new(identify),
            gossip: Toggle::from(if gossip { Some(gossip::build(door, counters)?) } else { None }),
            mdns: Toggle::from(if mdns { Some(discovery::build(keypair)?) } else { None }),
            substreams,
        })
    }
}

/// What the owner of a `Net` asks of the swarm.
pub(crate) enum Command {
    Call { peer: PeerId, addresses: Vec<Multiaddr>, call: Call },
    Publish { bytes: Vec<u8>, reply: oneshot::Sender<Result<(), NetError>> },
}

/// Where commands come from and where news goes to.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) verdicts: mpsc::Receiver<(GossipId, Verdict)>,
    pub(crate) events: mpsc::Sender<NetEvent>,
    pub(crate) listen: watch::Sender<Vec<String>>,
    pub(crate) connected: watch::Sender<usize>,
}

pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    ends: Ends,
    bootstrap: Bootstrap,
    news: PeerNews,
    peers: Arc<Peers>,
    seeker: Seeker,
    counters: Arc<Counters>,
}

/// The swarm's settings; its connections' tasks are spawned through `tracker`.
pub(crate) fn swarm_config(tracker: &TaskTracker) -> libp2p::swarm::Config {
    let tracker = tracker.clone();
    libp2p::swarm::Config::with_executor(move |task| drop(tracker.spawn(task)))
        .with_idle_connection_timeout(IDLE_CONNECTION_TIME)
        .with_max_negotiating_inbound_streams(NEGOTIATING_PER_CONNECTION_MAX)
}

impl Driver {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        ends: Ends,
        seeker: Seeker,
        peers: Arc<Peers>,
        counters: Arc<Counters>,
    ) -> Self {
        let bootstrap = Bootstrap::new(Vec::new(), Instant::now());
        Self { swarm, ends, bootstrap, news: PeerNews::default(), seeker, peers, counters }
    }

    /// Listens on `addresses` and returns once each has a real address.
    pub(crate) async fn listen(&mut self, addresses: Vec<Multiaddr>) -> Result<(), NetError> {
        for address in addresses {
            let target = Target::of(&address);
            target.map_or(Ok(()), |target| target.check_free()).map_err(|error| listen_error(&address, error))?;
            let listener = self.swarm.listen_on(address.clone()).map_err(|error| match error {
                TransportError::Other(error) => listen_error(&address, unwrapped(error)),
                TransportError::MultiaddrNotSupported(_) => NetError::BadAddress {
                    address: address.to_string(),
                    reason: if is_quic(&address) {
                        "this node's connections go through a connector that carries TCP only, and QUIC would go round \
                         it: remove the address"
                            .to_owned()
                    } else {
                        format!("cannot be listened on: expected {FORMS}, with an IP address")
                    },
                },
            })?;
            let ready = tokio::time::timeout(LISTEN_TIME, self.until_listening(listener)).await;
            ready
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
                .map_err(|error| listen_error(&address, error))?;
        }
        Ok(())
    }

    async fn until_listening(&mut self, wanted: ListenerId) -> std::io::Result<()> {
        loop {
            let event = self.swarm.select_next_some().await;
            let outcome = match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } if *listener_id == wanted => Some(Ok(())),
                SwarmEvent::ListenerClosed { listener_id, reason, .. } if *listener_id == wanted => {
                    let text = reason.as_ref().err().map_or("the listener closed".to_owned(), ToString::to_string);
                    Some(Err(std::io::Error::other(text)))
                }
                _ => None,
            };
            self.on_event(event);
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    /// Runs until `shutdown`, or until every handle is gone. Dropping the swarm ends every connection.
    pub(crate) async fn run(mut self, bootstrap: Bootstrap, shutdown: CancellationToken) {
        self.bootstrap = bootstrap;
        let events = self.ends.events.clone();
        loop {
            let due = self.bootstrap.next_due();
            let at_due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Every branch is cancel safe: each either has taken nothing, or yields what it took.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                permit = events.reserve(), if self.news.is_pending() => {
                    // Without a receiver there is nobody to tell, and news counts as told.
                    let event = self.news.next();
                    if let (Ok(permit), Some(event)) = (permit, event) {
                        permit.send(event);
                    }
                }
                command = self.ends.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                Some((id, verdict)) = self.ends.verdicts.recv() => self.on_verdict(&id, verdict),
                () = at_due => self.dial_bootstrap(),
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let behaviour = self.swarm.behaviour_mut();
        match command {
            Command::Call { peer, addresses, call } => behaviour.substreams.call(peer, addresses, call),
            Command::Publish { bytes, reply } => {
                let result = match behaviour.gossip.as_mut() {
                    Some(gossip) => gossip::publish(gossip.inner(), bytes),
                    None => Err(NetError::GossipOff),
                };
                let _ = reply.send(result);
            }
        }
    }

    fn on_verdict(&mut self, id: &GossipId, verdict: Verdict) {
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.inner().report_message_validation_result(&id.message, &id.from, gossip::acceptance(verdict));
        }
    }

    fn dial_bootstrap(&mut self) {
        let swarm = &self.swarm;
        for opts in self.bootstrap.dials(Instant::now(), |peer| swarm.is_connected(peer)) {
            let id = opts.connection_id();
            if let Err(error) = self.swarm.dial(opts) {
                tracing::debug!(%error, "bootstrap dial refused");
                self.bootstrap.on_dial_failed(id, &error, Instant::now());
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => self.on_discovered(found),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.on_identified(&peer_id, &info);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, num_established, endpoint, .. } => {
                self.bootstrap.on_connected(peer_id, connection_id);
                if let Some(host) = host_id(&peer_id) {
                    self.peers.opened(host, connection_id, endpoint.get_remote_address());
                }
                if let (1, Some(host)) = (num_established.get(), host_id(&peer_id)) {
                    tracing::debug!(%host, "connected");
                    self.news.connected(host);
                    self.ends.connected.send_replace(self.news.count());
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                let Some(host) = host_id(&peer_id) else { return };
                self.peers.closed(host, connection_id);
                if num_established == 0 {
                    self.bootstrap.on_disconnected(peer_id, Instant::now());
                    tracing::debug!(%host, ?cause, "disconnected");
                    self.news.disconnected(host);
                    self.ends.connected.send_replace(self.news.count());
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, peer_id } => {
                self.counters.dials_failed.add_one();
                tracing::debug!(?peer_id, %error, "dial failed");
                self.bootstrap.on_dial_failed(connection_id, &error, Instant::now());
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                self.counters.inbound_failed.add_one();
                tracing::debug!(from = %send_back_addr, %error, "inbound connection failed");
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.publish_addresses(),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "a listener has ended; peers can no longer dial it");
                self.publish_addresses();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed to accept"),
            _ => {}
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message { propagation_source, message_id, message } = event else { return };
        let id = GossipId { message: message_id, from: propagation_source };
        let Some(from) = host_id(&propagation_source) else { return };
        if self.ends.events.try_send(NetEvent::Gossip { id: id.clone(), from, bytes: message.data }).is_err() {
            self.counters.gossip_dropped.add_one();
            self.on_verdict(&id, Verdict::Ignore);
        }
    }

    /// What was found is an address to try, nothing more: whoever answers there must hold the key.
    fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let records = self.swarm.behaviour().mdns.as_ref().map_or(0, |mdns| mdns.discovered_nodes().len());
        if records > MDNS_RECORDS_MAX {
            tracing::warn!(records, "too many mDNS records: somebody floods the LAN; mDNS is off until the next start");
            self.swarm.behaviour_mut().mdns = Toggle::from(None);
            return;
        }
        let swarm = &self.swarm;
        for dial in self.seeker.dials(found, self.news.count(), |peer| swarm.is_connected(peer)) {
            if let Err(error) = self.swarm.dial(dial) {
                tracing::debug!(%error, "not dialled");
            }
        }
    }

    fn on_identified(&mut self, peer: &PeerId, info: &identify::Info) {
        let Some(host) = host_id(peer) else { return };
        let protocols = info.protocols.iter().map(AsRef::as_ref);
        let Some(incompatible) = self.peers.identified(host, &info.agent_version, protocols) else { return };
        tracing::warn!("{incompatible}; until then it is refused");
        // Whoever does not hear of it finds it in the list.
        let _ = self.ends.events.try_send(NetEvent::Incompatible(incompatible));
    }

    fn publish_addresses(&self) {
        let addresses = self.swarm.listeners().map(ToString::to_string).collect();
        self.ends.listen.send_replace(addresses);
    }
}

fn listen_error(address: &Multiaddr, source: std::io::Error) -> NetError {
    let address = address.to_string();
    match source.kind() {
        std::io::ErrorKind::AddrInUse => NetError::AddressInUse { address },
        _ => NetError::Listen { address, source },
    }
}

/// libp2p's boxed transport wraps the operating system's error in another of kind `Other`.
fn unwrapped(error: std::io::Error) -> std::io::Error {
    let mut cause = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if let Some(code) = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return std::io::Error::from_raw_os_error(code);
        }
        cause = inner.source();
    }
    error
}
