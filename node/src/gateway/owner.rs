//! The task that owns the gateway's machine: feeds it what happens, executes what it asks for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};
use wayfare_journal::{JournalWriter, Keep, Synced};
use wayfare_net::{Net, NetEvent, Pool, PoolEvent, PoolEvents, Protocol, Watched};
use wayfare_protocol::{
    advert::{Gossip, Verdict},
    gateway::{Effect, Ticket, effect::Entry},
    ids::{HostId, RegistryId},
    limits::{CLIENT_FRAME_BYTES_MAX, FRAME_BYTES_MAX},
    migration::messages::RegistryFrame,
    reject::Reject,
    time::Micros,
    trust::TrustBundle,
    wire::{self, Frame},
};

use super::{Answer, Command, GatewayError, GatewayParts, Machine, Numbers, name};
use crate::{
    clock::{entropy, now},
    mesh::{meet, newer, unsent, vouch},
    metrics::gateway::GatewayMetrics,
    questions::Questions,
};

/// The longest sleep.
const NEVER: Duration = Duration::from_secs(3600);
/// Measured round trips that wait for the owner. More: the probe's task waits.
const RTTS_MAX: usize = 64;

/// What a gateway begins with: its journal and what is in it, and what is counted.
pub(super) struct Kept {
    pub(super) journal: JournalWriter,
    pub(super) last_seq: u64,
    pub(super) entries: Vec<(u64, Entry)>,
    pub(super) metrics: Arc<GatewayMetrics>,
}

pub(super) struct Owner {
    machine: Machine,
    /// Whose word this gateway lives by.
    home: RegistryId,
    questions: Questions,
    bundle: TrustBundle,
    net: Net,
    net_events: mpsc::Receiver<NetEvent>,
    requests: Pool,
    request_events: PoolEvents,
    registry: Pool,
    registry_events: PoolEvents,
    journal: JournalWriter,
    synced: watch::Receiver<Synced>,
    /// Who waits for an answer, and the room that the request takes up in the machine, also after the client has hung up.
    clients: HashMap<Ticket, (oneshot::Sender<Answer>, OwnedSemaphorePermit)>,
    probing: HashSet<HostId>,
    rtts: mpsc::Sender<(HostId, Option<Micros>)>,
    measured: mpsc::Receiver<(HostId, Option<Micros>)>,
    probe_interval: Duration,
    watched: Watched,
    metrics: Arc<GatewayMetrics>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Owner {
    pub(super) fn new(
        parts: GatewayParts,
        kept: Kept,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let Kept { journal, last_seq, entries, metrics } = kept;
        let bundle = parts.config.bundle.clone();
        let home = parts.config.registry;
        let mut machine = Machine::new(parts.config, &entries, last_seq, &mut entropy());
        {
            let synced = journal.synced();
            let synced = synced.borrow();
            machine.set_full(synced.full);
            machine.compact_if(synced.bytes);
        }
        for (service, _) in &parts.services {
            machine
                .add_service(now(), service)
                .map_err(|source| GatewayError::Service { service: name(service), source })?;
        }
        let pool = |protocol, cap| Pool::new(parts.net.clone(), protocol, cap, tracker.clone(), shutdown.child_token());
        let (requests, request_events) = pool(Protocol::Request, CLIENT_FRAME_BYTES_MAX);
        let (registry, registry_events) = pool(Protocol::Registry, FRAME_BYTES_MAX);
        let (rtts, measured) = mpsc::channel(RTTS_MAX);
        Ok(Self {
            machine,
            home,
            questions: Questions::default(),
            bundle,
            net: parts.net,
            net_events: parts.net_events,
            requests,
            request_events,
            registry,
            registry_events,
            synced: journal.synced(),
            journal,
            clients: HashMap::new(),
            probing: HashSet::new(),
            rtts,
            measured,
            probe_interval: parts.probe_interval,
            watched: Watched::by(parts.witness),
            metrics,
            tracker,
            shutdown,
        })
    }

    /// Until shutdown; then the journal is closed, and another gateway may open it.
    pub(super) async fn run(mut self, commands: mpsc::Receiver<Command>) {
        self.until_shutdown(commands).await;
        // It had stopped already: it has said why.
        let _ = self.journal.close().await;
    }

    /// Cancel safe at every await of the loop: what was not received stays in its channel.
    async fn until_shutdown(&mut self, mut commands: mpsc::Receiver<Command>) {
        let mut probes = tokio::time::interval(self.probe_interval);
        probes.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            if self.shutdown.is_cancelled() {
                return;
            }
            // Before the events: however many come, deadlines are kept.
            let at = now();
            if self.machine.poll_timeout().is_some_and(|due| due <= at.mono) {
                self.machine.handle_timeout(at);
            }
            self.execute_effects().await;
            let sleep = self.machine.poll_timeout().map_or(NEVER, |at| Duration::from_micros(at.since(now().mono).0));
            // Not biased: who floods one queue must not keep the others from their turn.
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                changed = self.synced.changed() => {
                    if changed.is_err() {
                        error!("the journal's thread has ended: this gateway stops");
                        self.shutdown.cancel();
                        return;
                    }
                    let Synced { seq, bytes, full, failed, .. } = self.synced.borrow_and_update().clone();
                    self.watched.synced(seq);
                    self.machine.handle_synced(now(), seq);
                    self.machine.set_full(full);
                    self.machine.compact_if(bytes);
                    if let Some(error) = failed {
                        error!(%error, "this gateway stops: a number could be used twice");
                        self.shutdown.cancel();
                        return;
                    }
                }
                Some(event) = self.request_events.recv() => self.handle_request_event(event),
                Some(event) = self.registry_events.recv() => self.handle_registry_event(event),
                Some(command) = commands.recv() => self.handle_command(command),
                Some((host, rtt)) = self.measured.recv() => {
                    self.probing.remove(&host);
                    match rtt {
                        Some(rtt) => self.machine.record_rtt(now(), host, rtt),
                        None => self.machine.record_loss(now(), host),
                    }
                }
                Some(event) = self.net_events.recv() => self.handle_net_event(event),
                _ = probes.tick() => {
                    self.probe();
                    if self.synced.borrow().full {
                        self.journal.check_space();
                    }
                }
                // The top of the loop sees to what is due.
                () = tokio::time::sleep(sleep.min(NEVER)) => {}
            }
        }
    }

    async fn execute_effects(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Persist { seq, entry } => {
                    if self.journal.append(seq, wire::encode(&entry)).await.is_err() {
                        error!("the journal takes no more entries: this gateway stops");
                        self.shutdown.cancel();
                    }
                    self.watched.appended(seq, entry.name());
                }
                Effect::Compact { seq, keep, entry } => {
                    let keep: Keep = Box::new(move |number, _| keep.contains(&number));
                    if self.journal.compact(keep, seq, wire::encode(&entry)).await.is_err() {
                        error!("the journal takes no more entries: this gateway stops");
                        self.shutdown.cancel();
                    }
                }
                Effect::Connect { host, addresses } => self.requests.connect(host, &addresses),
                Effect::Disconnect { host } => self.requests.close(host),
                Effect::Send { host, frame } => {
                    self.watched.send(frame.name(), || self.requests.send(host, &[], frame.to_bytes().into()));
                }
                Effect::Lookup { registry, lookup } => {
                    self.tell_registry(registry, &RegistryFrame::Lookup(lookup));
                }
                Effect::Answer { ticket, response } => self.answer(ticket, Answer::Response(response)),
                Effect::Fail { ticket, reason } => self.answer(ticket, Answer::Failed(reason)),
            }
        }
    }

    fn tell_registry(&mut self, registry: RegistryId, frame: &RegistryFrame) {
        if let Ok(anchor) = self.bundle.anchor(registry) {
            let send = || self.registry.send(anchor.host(), &anchor.addresses, frame.to_bytes().into());
            self.watched.send(frame.name(), send);
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if let Some((client, _room)) = self.clients.remove(&ticket) {
            // A client that has hung up needs no answer.
            self.watched.send("Answer", || drop(client.send(answer)));
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::With(query) => query(&mut self.machine, now()),
            Command::Numbers { reply } => {
                let streams = [&self.requests, &self.registry].map(Pool::streams);
                let figures = self.machine.figures(now());
                // Who asked may have given up.
                let _ = reply.send(Numbers { figures, rejects: self.machine.rejects().clone(), streams });
            }
            Command::Ask(question) => {
                if let Some(frame) = self.questions.ask(question) {
                    self.tell_registry(self.home, &frame);
                }
            }
            Command::Request { service, request, key, reply, room } => {
                match self.machine.handle_request(now(), &service, request, key) {
                    Ok(ticket) => drop(self.clients.insert(ticket, (reply, room))),
                    Err(refuse) => drop(reply.send(Answer::Refused(refuse))),
                }
            }
        }
    }

    fn handle_request_event(&mut self, event: PoolEvent) {
        match event {
            PoolEvent::Opened { peer, id } => {
                if self.requests.is_live(peer, id) {
                    self.machine.handle_connected(now(), peer);
                }
            }
            PoolEvent::Unsent { peer, version, needs } => unsent(peer, version, needs),
            PoolEvent::Frame { peer, id, bytes } => {
                if !self.requests.is_live(peer, id) {
                    return;
                }
                if let Err(reject) = self.machine.handle_frame(now(), peer, &bytes).or_else(newer) {
                    warn!(host = %format!("{peer:#}"), %reject, "a host broke the request protocol");
                    self.requests.close(peer);
                    self.machine.handle_disconnected(now(), peer);
                }
            }
            PoolEvent::Closed { peer, id, reason, reject } => {
                if let Some(reject) = reject {
                    self.machine.count_reject(reject);
                }
                if self.requests.handle_closed(peer, id) {
                    debug!(host = %format!("{peer:#}"), reason, "request stream ended");
                    self.machine.handle_disconnected(now(), peer);
                }
            }
        }
    }

    fn handle_registry_event(&mut self, event: PoolEvent) {
        match event {
            PoolEvent::Opened { .. } => {}
            PoolEvent::Unsent { peer, version, needs } => unsent(peer, version, needs),
            PoolEvent::Frame { peer, id, bytes } => {
                if !self.registry.is_live(peer, id) {
                    return;
                }
                if let Err(reject) = self.registry_frame(peer, &bytes) {
                    warn!(%reject, "the registry sent something unusable");
                }
            }
            PoolEvent::Closed { peer, id, reason, reject } => {
                if let Some(reject) = reject {
                    self.machine.count_reject(reject);
                }
                if self.registry.handle_closed(peer, id) {
                    warn!(reason, "the stream to the registry ended");
                }
            }
        }
    }

    fn registry_frame(&mut self, peer: HostId, bytes: &[u8]) -> Result<(), Reject> {
        let anchors = self.bundle.anchors();
        let registry: RegistryId =
            anchors.iter().find(|anchor| anchor.host() == peer).map(|anchor| anchor.id).ok_or(Reject::WrongPeer)?;
        // What the machine sees, it counts itself.
        let unseen = match RegistryFrame::from_bytes(bytes) {
            Ok(frame) if self.questions.answered(&frame) => return Ok(()),
            Ok(RegistryFrame::Found(found)) => return self.machine.handle_found(now(), registry, &found),
            Ok(RegistryFrame::Refused(refused)) if refused.reason == Reject::NotEnrolled.name() => {
                warn!("the registry does not know this gateway: make it join again, with a new token");
                return Ok(());
            }
            // It recovers: it is asked again.
            Ok(RegistryFrame::Refused(_)) => return Ok(()),
            Ok(_) => Reject::UnexpectedMessage,
            Err(reject) => reject,
        };
        self.machine.count_reject(unseen);
        Err(unseen)
    }

    fn handle_net_event(&mut self, event: NetEvent) {
        let (id, bytes) = match event {
            NetEvent::Gossip { id, bytes, .. } => (id, bytes),
            NetEvent::Incompatible(_) => return self.machine.count_reject(Reject::NoCommonVersion),
            NetEvent::PeerConnected(_) | NetEvent::PeerDisconnected(_) => return,
        };
        let verdict = match Gossip::from_bytes(&bytes) {
            Ok(Gossip::Advert(advert)) => {
                let result = self.machine.handle_gossip_advert(now(), &advert);
                if result.is_ok() {
                    self.metrics.mesh.heard_advert();
                    vouch(&self.net, &advert);
                    meet(&self.net, &self.tracker, &advert);
                }
                Verdict::on(&result)
            }
            Ok(Gossip::Placement(placement)) => Verdict::on(&self.machine.handle_gossip_placement(now(), &placement)),
            Err(reject) => {
                self.machine.count_reject(reject);
                Verdict::on::<()>(&Err(reject))
            }
        };
        self.metrics.mesh.judged(verdict);
        self.net.judge(id, verdict);
    }

    fn probe(&mut self) {
        for (host, addresses) in self.machine.probe_targets(now()) {
            if !self.probing.insert(host) {
                continue;
            }
            let (net, rtts, metrics) = (self.net.clone(), self.rtts.clone(), Arc::clone(&self.metrics));
            metrics.mesh.probing();
            self.tracker.spawn(async move {
                let rtt = net.probe(host, &addresses).await.ok();
                metrics.mesh.probed(rtt);
                let rtt = rtt.map(|rtt| Micros(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)));
                let _ = rtts.send((host, rtt)).await;
            });
        }
    }
}
