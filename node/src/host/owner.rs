//! The task that owns the machine: feeds it what happens, executes what it asks for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};
use wayfare_journal::{JournalWriter, Synced};
use wayfare_net::{Incoming as IncomingStream, Net, NetEvent, Pool, PoolEvent, PoolEvents, Protocol, Stream, Watched};
use wayfare_protocol::{
    advert::{Gossip, Verdict},
    gateway::messages::ClientFrame,
    host::{
        CaptureJob, Effect, Entry, Event, FetchJob, HeldJob, Host, ImageId, ReceiveJob, RestoreJob, UpdateJob,
        hosted::Stay,
    },
    ids::{Digest, HostId, MigrationId, RegistryId, ServiceId},
    limits::{CLIENT_FRAME_BYTES_MAX, FRAME_BYTES_MAX, SERVICES_MAX},
    migration::{
        messages::{MigrateFrame, RegistryFrame, RequestFrame},
        trace::{Ending, Trace},
    },
    quota::{Complaints, client_weight, migrate_weight},
    reject::Reject,
    time::Micros,
    trust::{Certificate, Signed, TrustBundle},
    wire::Frame,
};
use wayfare_telemetry::{Spans, migration};

use super::{
    Arrived, Command, DeployError, HAPPENED_MAX, Happened, HostError, HostParts, Logs, Numbers,
    beginning::Beginning,
    bulk, fetch,
    images::Images,
    modules::Modules,
    restore::Code,
    worker::{Task, Worker},
};
use crate::{
    clock::{Entropy, entropy, now},
    mesh::{advertisable, meet, newer, unsent, vouch},
    metrics::host::HostMetrics,
    questions::Questions,
    runtime::{Driver, Prepared},
    words::describe,
};

/// The first frame of a request stream at most.
const HELLO_BYTES_MAX: usize = 4096;
/// Bytes of answers that wait for one gateway. More: it is not read until it has read them.
const ANSWERS_WAITING_MAX: usize = CLIENT_FRAME_BYTES_MAX;
/// Events that a slow reader may fall behind.
const EVENTS_MAX: usize = 1024;
/// What a witness knows the state's records by.
const RECORDS: &str = "Records";
/// What a witness knows the fetching of an update's module by.
const MODULE: &str = "Module";
/// The longest sleep.
const NEVER: Duration = Duration::from_secs(3600);
/// How often a round trip to another cloud is measured.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How often a full disk is looked at.
const SPACE_CHECK: Duration = Duration::from_secs(1);
/// How long after a compaction that could not be done the next is tried.
const COMPACT_AGAIN: Duration = Duration::from_secs(30);

/// A capture under way: `h(state)` and size, whether the stream took everything.
struct Leaving {
    stay: Stay,
    given_up: CancellationToken,
    captured: Option<(Digest, u64)>,
    sent: bool,
}

/// What a target keeps of an arrival while its state comes in.
struct Landing {
    job: ReceiveJob,
    /// The instance that it is for, if the code is here.
    opening: Option<bulk::Opening>,
    /// A state stream is being read: no second one is.
    receiving: bool,
}

/// What outlives the owner's machine: the disk's part, and what people read.
pub(super) struct Kept {
    pub(super) journal: JournalWriter,
    pub(super) modules: Modules,
    pub(super) images: Images,
    pub(super) logs: Logs,
    pub(super) metrics: Arc<HostMetrics>,
}

pub(super) struct Owner {
    host: Host,
    /// Whose word this node lives by.
    home: RegistryId,
    certificate: Signed<Certificate>,
    questions: Questions,
    rng: Entropy,
    bundle: TrustBundle,
    net: Net,
    net_events: mpsc::Receiver<NetEvent>,
    addresses: Option<watch::Receiver<Vec<String>>>,
    migrate: Pool,
    requests: Pool,
    registry: Pool,
    pool_events: [PoolEvents; 3],
    incoming: [mpsc::Receiver<IncomingStream>; 5],
    /// Modules that are being sent.
    serving: Arc<Semaphore>,
    journal: JournalWriter,
    synced: watch::Receiver<Synced>,
    /// Compactions that could not be done, and until when none is tried.
    compactions_failed: u64,
    compact_after: Instant,
    check_space_at: Instant,
    driver: Arc<dyn Driver>,
    modules: Modules,
    images: Images,
    /// Compiled code of the modules that were run or received here.
    prepared: BTreeMap<Digest, Prepared>,
    workers: BTreeMap<Stay, Worker>,
    /// State streams that are opened while targets ask the Registry.
    ahead: HashMap<MigrationId, bulk::Ahead>,
    leaving: HashMap<MigrationId, Leaving>,
    landing: HashMap<MigrationId, Landing>,
    /// Instances that are ready, and run nothing before their attempt is decided.
    arrived: HashMap<MigrationId, Worker>,
    happened: mpsc::Sender<Happened>,
    happenings: mpsc::Receiver<Happened>,
    events: broadcast::Sender<Event>,
    logs: Logs,
    metrics: Arc<HostMetrics>,
    spans: Spans,
    watched: Watched,
    complaints: Complaints,
    /// State streams of which nobody knows yet what they are for.
    beginning: Beginning,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Owner {
    pub(super) fn new(
        parts: HostParts,
        mut host: Host,
        kept: Kept,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, HostError> {
        let home = parts.identity.registry;
        let certificate = parts.identity.certificate.signed().clone();
        let HostParts { bundle, net, net_events, advertised, driver, witness, spans, .. } = parts;
        let Kept { journal, modules, images, logs, metrics } = kept;
        // Configured addresses stay; others follow the interfaces.
        let addresses = advertised.is_empty().then(|| net.watch_addresses());
        host.set_addresses(if advertised.is_empty() { advertisable(net.listen_addresses()) } else { advertised });
        modules.digests().for_each(|digest| host.handle_module(digest));
        let pool = |protocol, cap| Pool::new(net.clone(), protocol, cap, tracker.clone(), shutdown.child_token());
        let (mut migrate, migrate_events) = pool(Protocol::Migrate, FRAME_BYTES_MAX);
        migrate.set_weight(migrate_weight);
        let (mut requests, request_events) = pool(Protocol::Request, CLIENT_FRAME_BYTES_MAX);
        // A stranger may say hello, nothing larger.
        requests.set_first_cap(HELLO_BYTES_MAX);
        requests.set_backlog_max(ANSWERS_WAITING_MAX);
        requests.set_weight(client_weight);
        let (registry, registry_events) = pool(Protocol::Registry, FRAME_BYTES_MAX);
        let incoming = [
            net.accept(Protocol::Migrate)?,
            net.accept(Protocol::Request)?,
            net.accept(Protocol::State)?,
            net.accept(Protocol::Registry)?,
            net.accept(Protocol::Module)?,
        ];
        bundle.anchors().iter().for_each(|anchor| net.vouch(anchor.host()));
        let (happened, happenings) = mpsc::channel(HAPPENED_MAX);
        let mut synced = journal.synced();
        synced.mark_changed();
        Ok(Self {
            host,
            home,
            certificate,
            questions: Questions::default(),
            rng: entropy(),
            bundle,
            net,
            net_events,
            addresses,
            migrate,
            requests,
            registry,
            pool_events: [migrate_events, request_events, registry_events],
            incoming,
            serving: Arc::new(Semaphore::new(fetch::SERVED_MAX)),
            journal,
            synced,
            compactions_failed: 0,
            compact_after: Instant::now(),
            check_space_at: Instant::now(),
            driver,
            modules,
            images,
            prepared: BTreeMap::new(),
            workers: BTreeMap::new(),
            ahead: HashMap::new(),
            leaving: HashMap::new(),
            landing: HashMap::new(),
            arrived: HashMap::new(),
            happened,
            happenings,
            events: broadcast::channel(EVENTS_MAX).0,
            logs,
            metrics,
            spans,
            watched: Watched::by(witness),
            complaints: Complaints::default(),
            beginning: Beginning::default(),
            tracker,
            shutdown,
        })
    }

    /// Until shutdown; then the journal is closed, so that another may open it.
    pub(super) async fn run(mut self, commands: mpsc::Receiver<Command>) {
        self.turns(commands).await;
        // If the writer has stopped before, the file is closed too.
        let _ = self.journal.clone().close().await;
    }

    /// Cancel safe at every await of the loop: what was not received stays in its channel.
    async fn turns(&mut self, mut commands: mpsc::Receiver<Command>) {
        let mut probes = tokio::time::interval(PROBE_EVERY);
        probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !self.shutdown.is_cancelled() {
            // Before anything that others can flood: leases and deadlines never wait.
            if self.host.poll_timeout() <= now().mono {
                self.host.handle_timeout(now(), &mut self.rng);
            }
            self.execute_effects().await;
            let sleep = self.host.poll_timeout().since(now().mono).0;
            let sleep = Duration::from_micros(sleep).min(NEVER);
            let [migrate_events, request_events, registry_events] = &mut self.pool_events;
            let [migrate, requests, states, registries, modules] = &mut self.incoming;
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                changed = self.synced.changed() => {
                    if changed.is_err() {
                        error!("the journal's thread has ended: this node stops");
                        self.shutdown.cancel();
                        return;
                    }
                    let synced = self.synced.borrow_and_update().clone();
                    self.handle_synced(&synced);
                }
                () = tokio::time::sleep_until(self.check_space_at), if self.host.is_full() => {
                    self.check_space_at = Instant::now() + SPACE_CHECK;
                    self.journal.check_space();
                }
                Some(happened) = self.happenings.recv() => self.handle_happened(happened),
                Some(command) = commands.recv() => self.handle_command(command),
                Some(event) = registry_events.recv() => self.handle_registry_event(event),
                Some(event) = migrate_events.recv() => self.handle_migrate_event(event),
                Some(event) = request_events.recv() => self.handle_request_event(event),
                Some(stream) = migrate.recv() => self.migrate.accept(stream),
                Some(stream) = requests.recv() => self.requests.accept(stream),
                // A Registry that recovers asks; nobody else opens such a stream to a host.
                Some((peer, stream)) = registries.recv() => {
                    if self.bundle.anchors().iter().any(|anchor| anchor.host() == peer) {
                        self.registry.accept((peer, stream));
                    } else {
                        self.host.count_reject(Reject::WrongPeer);
                    }
                }
                Some((peer, stream)) = states.recv() => {
                    match self.beginning.enter(peer) {
                        Some(turn) => drop(self.tracker.spawn(bulk::receive(turn, stream, self.happened.clone()))),
                        None => self.host.count_reject(Reject::TooManyHalfOpen),
                    }
                }
                Some((peer, stream)) = modules.recv() => self.send_module(peer, stream),
                Some(event) = self.net_events.recv() => self.handle_net_event(event),
                Some(addresses) = changed(&mut self.addresses) => {
                    info!(?addresses, "this node's addresses have changed");
                    self.host.set_addresses(advertisable(addresses));
                }
                _ = probes.tick() => {
                    self.ahead.retain(|_, ahead| ahead.is_fresh());
                    self.probe();
                }
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn handle_synced(&mut self, synced: &Synced) {
        let Synced { seq, bytes, full, compactions_failed, failed } = synced;
        self.watched.synced(*seq);
        self.host.handle_synced(*seq);
        if let Some(error) = failed {
            error!(error = describe(&**error), "this node stops, and serves nothing it could not keep");
            self.shutdown.cancel();
            return;
        }
        if *full != self.host.is_full() {
            self.host.set_full(*full);
            if *full {
                self.check_space_at = Instant::now() + SPACE_CHECK;
                error!(
                    "the disk is full: nothing new is taken on, and requests of services with a log are refused, until \
                     there is space; services can still be moved away"
                );
            } else {
                info!("the disk has space again");
            }
        }
        if *compactions_failed != self.compactions_failed {
            self.compactions_failed = *compactions_failed;
            self.compact_after = Instant::now() + COMPACT_AGAIN;
        }
        if Instant::now() >= self.compact_after {
            self.host.compact_if(now(), *bytes);
        }
    }

    async fn execute_effects(&mut self) {
        while let Some(effect) = self.host.poll_effect() {
            self.metrics.effect(&effect);
            match effect {
                Effect::Persist { seq, entry } => self.persist(seq, &entry).await,
                Effect::ToRegistry(registry, frame) => self.tell_registry(registry, &frame),
                Effect::ToPeer { host, addresses, frame } => {
                    debug!(peer = %format!("{host:#}"), message = frame.name(), "send");
                    if let MigrateFrame::Request(request) = &frame {
                        self.open_ahead(request, host, &addresses);
                    }
                    self.watched.send(frame.name(), || self.migrate.send(host, &addresses, frame.to_bytes().into()));
                }
                Effect::ToGateway(gateway, frame) => self.answer_gateway(gateway, &frame),
                Effect::Gossip(gossip) => self.gossip(gossip.to_bytes()),
                Effect::Start { service, epoch, code, memory_bytes } => {
                    self.start_instance((service, epoch), code, memory_bytes);
                }
                Effect::Execute { service, epoch, client, sequence, request } => {
                    let task = Task::Call { client, sequence, request };
                    self.task((service, epoch), task);
                }
                Effect::Capture(job) => self.capture(job),
                Effect::Resume { service, epoch } => {
                    self.stop_sending((service, epoch));
                    self.task((service, epoch), Task::Resume);
                }
                Effect::Fetch(job) => self.fetch(job),
                Effect::Update(job) => self.update(job),
                Effect::Switch { service, epoch } => self.task((service, epoch), Task::Switch),
                Effect::Receive(job) => self.receive(job),
                Effect::Activate { mig, service, epoch } => self.activate(mig, (service, epoch)),
                Effect::DiscardInstance { service, epoch } => {
                    self.stop_sending((service, epoch));
                    self.workers.remove(&(service, epoch));
                }
                Effect::DiscardIncoming { mig } => {
                    self.landing.remove(&mig);
                    self.arrived.remove(&mig);
                }
                Effect::KeepImages(ids) => self.keep_images(&ids),
                Effect::Restore(job) => self.restore(job),
                Effect::RestoreHeld(job) => self.restore_held(&job),
                Effect::SaveImage { service, epoch, upto, belongings } => {
                    self.save((service, epoch), upto, belongings);
                }
                Effect::DropImage(id) => self.images.drop_image(&id),
                Effect::Compact { seq, snapshot, keep_after } => {
                    let keep = move |seq, bytes: &[u8]| {
                        Entry::from_bytes(bytes).is_ok_and(|entry| entry.survives(seq, &keep_after))
                    };
                    if self.journal.compact(Box::new(keep), seq, snapshot.to_bytes()).await.is_err() {
                        self.journal_gone();
                    }
                }
                Effect::Event(event) => self.tell(event),
            }
        }
    }

    /// The lease is looked at once more just before a response leaves: effects may have waited (PROTOCOL 4.5).
    fn answer_gateway(&mut self, gateway: HostId, frame: &ClientFrame) {
        if let ClientFrame::Reply(reply) = frame
            && !self.host.may_answer(now(), reply.service)
        {
            return;
        }
        self.watched.send(frame.name(), || self.requests.send(gateway, &[], frame.to_bytes().into()));
    }

    /// Ends the sending of a stay's records, so that its thread is free for what comes next.
    fn stop_sending(&mut self, stay: Stay) {
        self.leaving.retain(|_, leaving| {
            if leaving.stay == stay {
                leaving.given_up.cancel();
            }
            leaving.stay != stay
        });
    }

    async fn persist(&mut self, seq: u64, entry: &Entry) {
        if self.journal.append(seq, entry.to_bytes()).await.is_err() {
            self.journal_gone();
        }
        self.watched.appended(seq, entry.name());
    }

    fn journal_gone(&self) {
        error!("the journal takes no more entries: this node stops");
        self.shutdown.cancel();
    }

    fn tell_registry(&mut self, registry: RegistryId, frame: &RegistryFrame) {
        let Ok(anchor) = self.bundle.anchor(registry) else { return };
        let send = || self.registry.send(anchor.host(), &anchor.addresses, frame.to_bytes().into());
        self.watched.send(frame.name(), send);
    }

    fn gossip(&self, bytes: Vec<u8>) {
        let net = self.net.clone();
        self.tracker.spawn(async move {
            if let Err(error) = net.publish(bytes).await {
                debug!(%error, "nobody to gossip to");
            }
        });
    }

    fn code(&self, service: ServiceId, digest: Digest, memory_bytes: u64) -> Code {
        Code {
            driver: Arc::clone(&self.driver),
            digest,
            prepared: self.prepared.get(&digest).cloned(),
            module: self.modules.get(&digest),
            modules: self.modules.dir().to_owned(),
            launch: bulk::launch(memory_bytes, self.logs.of(service)),
        }
    }

    fn start_instance(&mut self, stay: Stay, code: Digest, memory_bytes: u64) {
        let code = self.code(stay.0, code, memory_bytes);
        match Worker::start(stay, code, self.happened.clone()) {
            Ok(worker) => drop(self.workers.insert(stay, worker)),
            Err(error) => self.started(stay, Err(error.to_string())),
        }
    }

    fn started(&mut self, stay: Stay, result: Result<Vec<u8>, String>) {
        self.host.handle_started(now(), stay, result, &mut self.rng);
    }

    /// Images of no more use are in nobody's way: what cannot be deleted now is deleted later.
    fn keep_images(&self, ids: &[ImageId]) {
        if let Err(error) = self.images.keep(ids) {
            warn!(%error, "images of no more use cannot be deleted: the next start tries again");
        }
    }

    fn restore(&mut self, job: RestoreJob) {
        let stay = (job.service, job.epoch);
        let code = self.code(job.service, job.code, job.memory_bytes);
        match Worker::restore(job, code, self.images.clone(), self.happened.clone()) {
            Ok(worker) => drop(self.workers.insert(stay, worker)),
            Err(error) => self.host.handle_restored(now(), stay, Err(error.to_string()), &mut self.rng),
        }
    }

    fn restore_held(&mut self, job: &HeldJob) {
        let code = self.code(job.service, job.code, job.memory_bytes);
        match Worker::restore_held(job, code, self.images.clone(), self.happened.clone()) {
            Ok(worker) => drop(self.arrived.insert(job.mig, worker)),
            Err(error) => self.host.handle_held_restored(now(), job.mig, Err(error.to_string())),
        }
    }

    fn save(&mut self, stay: Stay, upto: u64, belongings: Vec<u8>) {
        let task = Task::Save { upto, belongings, images: self.images.clone() };
        if !self.workers.get(&stay).is_some_and(|worker| worker.send(task)) {
            self.host.handle_saved(now(), stay, upto, Err("the instance has ended".to_owned()));
        }
    }

    fn task(&mut self, stay: Stay, task: Task) {
        if !self.workers.get(&stay).is_some_and(|worker| worker.send(task)) {
            self.started(stay, Err("the instance has ended".to_owned()));
        }
    }

    fn capture(&mut self, job: CaptureJob) {
        let (mig, host, addresses) = (job.ids.mig, job.ids.host, job.addresses.clone());
        let stay = (job.ids.service, job.ids.epoch);
        let module = self.modules.get(&job.code);
        let (records, queue) = mpsc::channel(bulk::RECORDS_QUEUED_MAX);
        let (net, happened) = (self.net.clone(), self.happened.clone());
        let (ahead, given_up) = (self.ahead.remove(&mig), self.shutdown.child_token());
        self.watched.sending(RECORDS);
        self.leaving.insert(mig, Leaving { stay, given_up: given_up.clone(), captured: None, sent: false });
        self.tracker.spawn(async move {
            let result = bulk::send(ahead, net, host, addresses, mig, queue, given_up).await;
            let _ = happened.send(Happened::Sent { mig, result }).await;
        });
        self.task(stay, Task::Capture { job: Box::new(job), module, records });
    }

    fn fetch(&self, job: FetchJob) {
        self.watched.sending(MODULE);
        let code = self.code(job.service, job.code, job.memory_bytes);
        let (net, certificate, happened) = (self.net.clone(), self.certificate.clone(), self.happened.clone());
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            let (stay, order) = ((job.service, job.epoch), job.order);
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                result = fetch::bring(code, job, net, certificate) => result,
            };
            let _ = happened.send(Happened::Fetched { stay, order, result }).await;
        });
    }

    /// A host asks for a module. Too many at a time: it asks again.
    fn send_module(&mut self, peer: HostId, stream: Stream) {
        let Some(turn) = self.beginning.enter(peer) else { return self.host.count_reject(Reject::TooManyHalfOpen) };
        let (serving, net) = (Arc::clone(&self.serving), self.net.clone());
        let (bundle, modules) = (self.bundle.clone(), self.modules.dir().to_owned());
        let (happened, shutdown) = (self.happened.clone(), self.shutdown.clone());
        self.tracker.spawn(async move {
            let sent = tokio::select! {
                () = shutdown.cancelled() => return,
                sent = fetch::send(turn, stream, &bundle, modules, &serving, &net) => sent,
            };
            if let Err(reject) = sent {
                let _ = happened.send(Happened::StreamRejected(reject)).await;
            }
        });
    }

    fn update(&mut self, job: UpdateJob) {
        let (stay, order, image) = ((job.service, job.epoch), job.order, job.image);
        let code = self.code(job.service, job.code, job.memory_bytes);
        let task = Task::Update { job: Box::new(job), code: Box::new(code), images: self.images.clone() };
        if !self.workers.get(&stay).is_some_and(|worker| worker.send(task)) {
            let result = Err("broken: the instance has ended".to_owned());
            self.host.handle_updated(now(), stay, order, image, result);
        }
    }

    /// Opens the stream for the state while the target and the Registry do their part.
    fn open_ahead(&mut self, request: &RequestFrame, host: HostId, addresses: &[String]) {
        let Ok(request) = request.request.unverified() else { return };
        self.ahead.retain(|_, ahead| ahead.is_fresh());
        if self.ahead.len() < SERVICES_MAX {
            self.ahead.insert(request.ids.mig, bulk::Ahead::open(self.net.clone(), host, addresses.to_vec()));
        }
    }

    fn receive(&mut self, job: ReceiveJob) {
        if self.landing.len() < SERVICES_MAX {
            // While the source freezes the service and sends its state, what that goes into is made.
            let prepared = self.prepared.get(&job.code).filter(|_| !job.needs_module).cloned();
            let log = self.logs.of(job.ids.service);
            let opening = prepared.map(|prepared| bulk::open(&job, Arc::clone(&self.driver), prepared, log));
            self.landing.insert(job.ids.mig, Landing { job, opening, receiving: false });
        }
    }

    fn activate(&mut self, mig: MigrationId, stay: Stay) {
        self.landing.remove(&mig);
        match self.arrived.remove(&mig) {
            Some(worker) => {
                self.workers.insert(stay, worker);
                self.started(stay, Ok(Vec::new()));
            }
            None => self.started(stay, Err("the received state is gone".to_owned())),
        }
    }

    fn tell(&self, event: Event) {
        match &event {
            Event::Serving(service, epoch) => info!(%service, %epoch, "serving"),
            Event::Progress(service) => debug!(%service, "a migration goes on"),
            Event::MoveStarted(service, to, reason) => info!(%service, to = %format!("{to:#}"), reason, "moving"),
            Event::MovedAway(service, to) => info!(%service, to = %format!("{to:#}"), "moved away"),
            Event::MoveFailed(service, to, reason) => {
                warn!(%service, to = %format!("{to:#}"), reason, "not moved, serving on");
            }
            Event::DeployFailed(service, reason) => warn!(%service, reason, "not deployed"),
            Event::LeaseEnded(service) => {
                warn!(%service, "the lease ended: requests wait until the registry can be reached");
            }
            Event::Superseded(service, epoch) => {
                error!(%service, %epoch, "superseded without consent: the state is kept, sealed; ask the owner");
            }
            Event::Undecided(service, mig) => warn!(%service, %mig, "frozen: waiting for the registry's decision"),
            Event::Broken(service, reason) => error!(%service, reason, "the instance cannot run"),
            Event::Restoring(service, epoch, requests) => {
                info!(%service, %epoch, requests, "restoring after a restart: requests wait");
            }
            Event::Restored(service, epoch) => info!(%service, %epoch, "restored"),
            Event::Lost(service, epoch) => error!(
                %service, %epoch,
                "lost: its state was in memory only (durability = memory) when this node stopped; start with \
                 --forget-lost to give it up"
            ),
            Event::Ordered(service, action) => info!(%service, order = action.name(), "carried out its owner's order"),
            Event::OrderRefused(service, action, reason) => {
                warn!(%service, order = action.name(), reason, "cannot carry out its owner's order: nothing has changed");
            }
            Event::Removed(service) => info!(%service, "removed by its owner: nothing of it is left here"),
            Event::NotSaved(service, reason) => warn!(%service, reason, "no image was saved: the log stays, and grows"),
            Event::AttemptEnded(trace) => self.attempt_ended(trace),
        }
        // Without readers nobody wants to know.
        let _ = self.events.send(event);
    }

    /// One line with all there is to know, and this host's part of the migration's trace.
    fn attempt_ended(&self, trace: &Trace) {
        let (outcome, reason) = match &trace.ending {
            Ending::Failed(reason) => ("failed", Some(reason.as_str())),
            Ending::Moved | Ending::Running => ("moved", Some(trace.reason.as_str()).filter(|text| !text.is_empty())),
        };
        info!(
            service = %trace.service, name = trace.service_name, migration = trace.mig.map(tracing::field::display), epoch = %trace.epoch,
            role = trace.side.name(), other = %format!("{:#}", trace.other), outcome, reason, bytes = trace.bytes,
            downtime_ms = trace.downtime.map(Micros::as_millis_f64), "migration ended"
        );
        if self.spans.is_on() {
            let now = now();
            let [me, other] = [self.host.me(), trace.other].map(|host| self.host.host_name(now, host));
            self.spans.send(migration::of_host(trace, &me, &other, now.wall));
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::With(query) => query(&mut self.host, now(), &mut self.rng),
            Command::Numbers { reply } => {
                let streams = [&self.migrate, &self.requests, &self.registry].map(Pool::streams);
                let figures = self.host.figures(now());
                // Who asked may have given up.
                let _ = reply.send(Numbers { figures, rejects: self.host.rejects().clone(), streams });
            }
            Command::Ask(question) => {
                if let Some(frame) = self.questions.ask(question) {
                    self.tell_registry(self.home, &frame);
                }
            }
            Command::Events { reply } => drop(reply.send(self.events.subscribe())),
            Command::Deploy { manifest, module, prepared, reply } => {
                let result = self.deploy(&manifest, module, prepared);
                let _ = reply.send(result);
            }
        }
    }

    fn deploy(
        &mut self,
        manifest: &Signed<wayfare_protocol::manifest::Manifest>,
        module: Vec<u8>,
        prepared: Prepared,
    ) -> Result<ServiceId, DeployError> {
        let digest = self.modules.insert(module);
        self.prepared.insert(digest, prepared);
        self.host.handle_module(digest);
        Ok(self.host.deploy(now(), manifest, &mut self.rng)?)
    }

    fn handle_happened(&mut self, happened: Happened) {
        match happened {
            Happened::Started { stay, result } => self.started(stay, result),
            Happened::Executed { stay, client, sequence, response, inputs } => {
                self.host.handle_executed(now(), stay, client, sequence, response, inputs);
            }
            Happened::Restored { stay, result } => self.host.handle_restored(now(), stay, result, &mut self.rng),
            Happened::HeldRestored { mig, result } => {
                if result.is_err() {
                    self.arrived.remove(&mig);
                }
                self.host.handle_held_restored(now(), mig, result);
            }
            Happened::Saved { stay, upto, result } => self.host.handle_saved(now(), stay, upto, result),
            Happened::Fetched { stay, order, result } => {
                self.watched.sent(MODULE);
                let result = result.map(|(module, prepared)| {
                    let digest = self.modules.insert(module);
                    self.prepared.insert(digest, prepared);
                    self.host.handle_module(digest);
                });
                self.host.handle_fetched(now(), stay, order, result);
            }
            Happened::Updated { stay, order, image, result } => {
                self.host.handle_updated(now(), stay, order, image, result);
            }
            Happened::Prepared(prepared) => drop(self.prepared.insert(prepared.digest(), prepared)),
            Happened::Captured { mig, result: Ok(captured) } => {
                if let Some(leaving) = self.leaving.get_mut(&mig) {
                    leaving.captured = Some(captured);
                }
                self.captured_and_sent(mig);
            }
            Happened::Sent { mig, result: Ok(()) } => {
                self.watched.sent(RECORDS);
                if let Some(leaving) = self.leaving.get_mut(&mig) {
                    leaving.sent = true;
                }
                self.captured_and_sent(mig);
            }
            Happened::Captured { mig, result: Err(reason) } | Happened::Sent { mig, result: Err(reason) } => {
                if self.leaving.remove(&mig).is_some() {
                    self.host.handle_captured(now(), mig, Err(reason), &mut self.rng);
                }
            }
            Happened::StateStream { peer, mig, reply } => self.handle_state_stream(peer, mig, reply),
            Happened::StreamRejected(reject) => self.host.count_reject(reject),
            Happened::Rtt { host, rtt: Some(rtt) } => self.host.record_rtt(now(), host, rtt),
            Happened::Rtt { host, rtt: None } => self.host.record_loss(now(), host),
            Happened::Records { mig, next } => self.host.handle_records(now(), mig, next),
            Happened::Received { mig, result } => self.handle_received(mig, result),
        }
    }

    fn captured_and_sent(&mut self, mig: MigrationId) {
        let Some(Leaving { captured: Some(captured), sent: true, .. }) = self.leaving.get(&mig) else { return };
        let captured = *captured;
        self.leaving.remove(&mig);
        self.host.handle_captured(now(), mig, Ok(captured), &mut self.rng);
    }

    fn handle_state_stream(
        &mut self,
        peer: HostId,
        mig: MigrationId,
        reply: tokio::sync::oneshot::Sender<bulk::Receiving>,
    ) {
        let Some(landing) = self.landing.get_mut(&mig) else {
            self.host.count_reject(Reject::UnknownMigration);
            return;
        };
        if landing.job.from != peer {
            self.host.count_reject(Reject::WrongPeer);
            return;
        }
        if std::mem::replace(&mut landing.receiving, true) {
            self.host.count_reject(Reject::Reused);
            return;
        }
        let job = landing.job.clone();
        let receiving = bulk::Receiving {
            opening: landing.opening.take(),
            prepared: self.prepared.get(&job.code).cloned(),
            module: self.modules.get(&job.code),
            driver: Arc::clone(&self.driver),
            log: self.logs.of(job.ids.service),
            images: self.images.clone(),
            modules: self.modules.dir().to_owned(),
            job,
        };
        let _ = reply.send(receiving);
    }

    fn handle_received(&mut self, mig: MigrationId, result: Result<Arrived, Reject>) {
        if !self.landing.contains_key(&mig) {
            // It was given up while the last of it was written.
            self.images.drop_image(&ImageId::Held(mig));
            return;
        }
        if let Err(reject) = result.and_then(|arrived| self.land(mig, arrived)) {
            self.host.handle_receive_failed(now(), mig, reject);
        }
    }

    /// What arrived is whole: it gets its thread now, so that nothing can fail once it is promised to be held.
    fn land(&mut self, mig: MigrationId, arrived: Arrived) -> Result<(), Reject> {
        let Some(landing) = self.landing.get(&mig) else { return Ok(()) };
        let Arrived { instance, state, bytes, sessions, module, prepared } = arrived;
        let stay = (landing.job.ids.service, landing.job.ids.epoch.next_era());
        let worker = Worker::adopt(stay, landing.job.code, instance, self.happened.clone());
        self.arrived.insert(mig, worker.map_err(|_| Reject::NoResources)?);
        self.prepared.insert(prepared.digest(), prepared);
        if let Some(module) = module {
            let digest = self.modules.insert(module);
            self.host.handle_module(digest);
        }
        self.host.handle_received(now(), mig, state, bytes, sessions);
        Ok(())
    }

    fn handle_registry_event(&mut self, event: PoolEvent) {
        match event {
            PoolEvent::Opened { .. } => {}
            PoolEvent::Unsent { peer, version, needs } => unsent(peer, version, needs),
            PoolEvent::Frame { peer, id, bytes } => {
                if !self.registry.is_live(peer, id) {
                    return;
                }
                let Some(registry) = self.registry_at(peer) else { return };
                if RegistryFrame::from_bytes(&bytes).is_ok_and(|frame| self.questions.answered(&frame)) {
                    return;
                }
                let handled = self.host.handle_registry_frame(now(), registry, &bytes, &mut self.rng);
                if let Err(reject) = handled {
                    warn!(%reject, "the registry sent something unusable");
                }
            }
            PoolEvent::Closed { peer, id, reason, reject } => {
                if let Some(reject) = reject {
                    self.host.count_reject(reject);
                }
                if self.registry.handle_closed(peer, id) {
                    warn!(reason, "the stream to the registry ended");
                }
            }
        }
    }

    fn registry_at(&self, peer: HostId) -> Option<RegistryId> {
        self.bundle.anchors().iter().find(|anchor| anchor.host() == peer).map(|anchor| anchor.id)
    }

    fn handle_migrate_event(&mut self, event: PoolEvent) {
        match event {
            PoolEvent::Opened { .. } => {}
            PoolEvent::Unsent { peer, version, needs } => unsent(peer, version, needs),
            PoolEvent::Frame { peer, id, bytes } => {
                if !self.migrate.is_live(peer, id) {
                    return;
                }
                let handled = self.host.handle_migrate_frame(now(), peer, &bytes, &mut self.rng);
                if handled.is_ok() && self.host.receives_from(peer) {
                    self.net.vouch(peer);
                }
                if let Err(reject) = handled.or_else(newer) {
                    if let Some(left_out) = self.complaints.another(now().mono) {
                        warn!(peer = %format!("{peer:#}"), %reject, left_out, "a peer broke the migration protocol");
                    }
                    self.migrate.close(peer);
                    self.host.handle_peer_lost(now(), peer, "it broke the protocol", &mut self.rng);
                }
            }
            PoolEvent::Closed { peer, id, reason, reject } => {
                if let Some(reject) = reject {
                    self.host.count_reject(reject);
                }
                if self.migrate.handle_closed(peer, id) {
                    self.host.handle_peer_lost(now(), peer, &reason, &mut self.rng);
                }
            }
        }
    }

    fn handle_request_event(&mut self, event: PoolEvent) {
        match event {
            PoolEvent::Opened { .. } => {}
            PoolEvent::Unsent { peer, version, needs } => unsent(peer, version, needs),
            PoolEvent::Frame { peer, id, bytes } => {
                if !self.requests.is_live(peer, id) {
                    return;
                }
                let handled = self.host.handle_client_frame(now(), peer, &bytes);
                // A stranger's first frame is a HELLO, of whatever version.
                let handled = if self.requests.is_known(peer, id) { handled.or_else(newer) } else { handled };
                if let Err(reject) = handled {
                    if let Some(left_out) = self.complaints.another(now().mono) {
                        warn!(gateway = %format!("{peer:#}"), %reject, left_out, "a gateway broke the request protocol");
                    }
                    self.requests.close(peer);
                    self.host.handle_gateway_lost(peer);
                } else {
                    self.requests.raise_cap(peer, id);
                    self.net.vouch(peer);
                }
            }
            PoolEvent::Closed { peer, id, reject, .. } => {
                if let Some(reject) = reject {
                    self.host.count_reject(reject);
                }
                if self.requests.handle_closed(peer, id) {
                    self.host.handle_gateway_lost(peer);
                }
            }
        }
    }

    /// Measures one round trip, so that this host finds its place among the clouds.
    fn probe(&mut self) {
        let Some((host, addresses)) = self.host.probe_target(now(), &mut self.rng) else { return };
        let (net, happened, metrics) = (self.net.clone(), self.happened.clone(), Arc::clone(&self.metrics));
        metrics.mesh.probing();
        self.tracker.spawn(async move {
            let measured = net.probe(host, &addresses).await;
            metrics.mesh.probed(measured.as_ref().ok().copied());
            // Who does not answer is asked again some time.
            let rtt = measured.ok().map(|rtt| Micros(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)));
            let _ = happened.send(Happened::Rtt { host, rtt }).await;
        });
    }

    fn handle_net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Gossip { id, bytes, .. } => {
                let result = self.host.handle_gossip(now(), &bytes);
                if result.is_ok()
                    && let Ok(Gossip::Advert(advert)) = Gossip::from_bytes(&bytes)
                {
                    self.metrics.mesh.heard_advert();
                    vouch(&self.net, &advert);
                    meet(&self.net, &self.tracker, &advert);
                }
                let verdict = Verdict::on(&result);
                self.metrics.mesh.judged(verdict);
                self.net.judge(id, verdict);
            }
            NetEvent::PeerConnected(_) => self.host.handle_peer_connected(now()),
            NetEvent::PeerDisconnected(_) => {}
            NetEvent::Incompatible(_) => self.host.count_reject(Reject::NoCommonVersion),
        }
    }
}

/// The new addresses, once they change; never, if they do not.
async fn changed(addresses: &mut Option<watch::Receiver<Vec<String>>>) -> Option<Vec<String>> {
    match addresses {
        Some(watched) => {
            watched.changed().await.ok()?;
            Some(watched.borrow_and_update().clone())
        }
        None => std::future::pending().await,
    }
}
