//! The task that owns the machine, and the thread that owns the store.
//!
//! Frames and commands go into the machine one by one; its effects are carried out in order. The thread commits all
//! batches that have come meanwhile in one go, so that many requests share a sync.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};
use wayfare_net::{Incoming, Net, Pool, PoolEvent, PoolEvents, Watched};
use wayfare_protocol::{
    ids::{Epoch, HostId, MigrationIds},
    migration::messages::{Answer as Decided, RegistryFrame},
    order::Outcome,
    quota::{Complaints, registry_weight},
    registry::{Effect, Event, RecoveryView, audit::Head, is_violation},
    reject::Reject,
    time::Micros,
    wire::Frame as _,
};
use wayfare_telemetry::{Spans, migration::About};

use crate::{
    clock,
    handle::{Answer, Command, Machine},
    metrics::RegistryMetrics,
    records::{Batch, Records},
    store::StoreError,
};

/// Batches that wait for the store. When full, the driver waits, and with it everybody who asks.
const BATCHES_MAX: usize = 1024;
/// Batches in one commit.
const GROUP_MAX: usize = 256;

/// The steps that are a Registry's.
const YES_CLOUD: u8 = 3;
const YES_SERVICE: u8 = 6;
const PLACEMENT: u8 = 11;

/// How far the store has come.
#[derive(Debug)]
enum Progress {
    /// Everything up to this batch is on disk.
    Synced(u64),
    /// The store failed, and is not used again.
    Failed,
}

/// The store's thread, as the driver sees it.
pub(crate) struct StoreThread {
    batches: mpsc::Sender<(u64, Batch)>,
    progress: watch::Receiver<Progress>,
}

impl StoreThread {
    /// Starts the thread. It ends when this value is dropped and everything has been committed, or with the first error,
    /// which goes to `failure`. Also tells the last entry of the audit log that is on disk.
    pub(crate) fn start(
        mut records: Records,
        tracker: &TaskTracker,
        failure: oneshot::Sender<StoreError>,
        metrics: &RegistryMetrics,
    ) -> (Self, watch::Receiver<Option<Head>>) {
        let (audited, head) = watch::channel(records.audited_to());
        let (commits, written) = metrics.committed();
        let (batches, mut queue) = mpsc::channel::<(u64, Batch)>(BATCHES_MAX);
        let (sender, progress) = watch::channel(Progress::Synced(0));
        tracker.spawn_blocking(move || {
            while let Some((mut last, mut group)) = queue.blocking_recv() {
                for _ in 1..GROUP_MAX {
                    let Ok((seq, batch)) = queue.try_recv() else { break };
                    last = seq;
                    group.append(batch);
                }
                let began = Instant::now();
                let changes = match records.commit(group) {
                    Ok(changes) => changes,
                    Err(error) => {
                        // Whoever started the registry may not care why it stopped.
                        let _ = failure.send(error);
                        sender.send_replace(Progress::Failed);
                        return;
                    }
                };
                commits.observe(began.elapsed());
                written.inc_by(changes as u64);
                audited.send_replace(records.audited_to());
                sender.send_replace(Progress::Synced(last));
            }
        });
        (Self { batches, progress }, head)
    }
}

/// Owner of the machine.
pub(crate) struct Driver {
    machine: Machine,
    net: Net,
    pool: Pool,
    store: StoreThread,
    complaints: Complaints,
    /// Answers to commands, each with the batch that it waits for.
    waiting: VecDeque<(u64, Answer)>,
    watched: Watched,
    metrics: Arc<RegistryMetrics>,
    spans: Spans,
}

/// The store has failed: nothing can be promised any more.
struct StoreLost;

impl Driver {
    pub(crate) fn new(
        machine: Machine,
        net: Net,
        mut pool: Pool,
        store: StoreThread,
        watched: Watched,
        metrics: Arc<RegistryMetrics>,
        spans: Spans,
    ) -> Self {
        pool.set_weight(registry_weight);
        let complaints = Complaints::default();
        Self { machine, net, pool, store, complaints, waiting: VecDeque::new(), watched, metrics, spans }
    }

    /// Runs until `shutdown`, or until the store fails; then cancels `shutdown`, so that everything else stops too.
    pub(crate) async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Incoming>,
        mut events: PoolEvents,
        mut commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) {
        self.report_recovery();
        loop {
            let timer = self.machine.poll_timeout().map(|at| Duration::from_micros(at.since(clock::now().mono).0));
            // Every branch is cancel safe: it only receives.
            let result = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = self.store.progress.changed() => match changed {
                    Ok(()) => self.handle_progress(),
                    Err(_) => Err(StoreLost),
                },
                // Only a registry that was restored from a backup has timers.
                () = tokio::time::sleep(timer.unwrap_or_default()), if timer.is_some() => {
                    self.machine.handle_timeout(clock::now(), &mut clock::entropy());
                    Ok(())
                }
                Some(command) = commands.recv() => self.handle_command(command),
                // Before the frames: who floods the one must not keep others from opening the other.
                Some(stream) = incoming.recv() => {
                    self.pool.accept(stream);
                    Ok(())
                }
                Some(event) = events.recv() => self.handle_event(event),
            };
            let result = match result {
                Ok(()) => self.carry_out().await,
                lost => lost,
            };
            self.metrics.set_streams(self.pool.streams());
            if result.is_err() {
                tracing::error!("the store failed: the registry stops");
                shutdown.cancel();
            }
        }
    }

    fn handle_progress(&mut self) -> Result<(), StoreLost> {
        let synced = match *self.store.progress.borrow_and_update() {
            Progress::Synced(seq) => seq,
            Progress::Failed => return Err(StoreLost),
        };
        self.machine.handle_synced(synced);
        while self.waiting.front().is_some_and(|(needs, _)| *needs <= synced) {
            if let Some((_, answer)) = self.waiting.pop_front() {
                answer();
            }
        }
        Ok(())
    }

    fn handle_command(&mut self, command: Command) -> Result<(), StoreLost> {
        let answer = command(&mut self.machine, clock::now());
        let needs = self.machine.last_appended();
        let synced = matches!(*self.store.progress.borrow(), Progress::Synced(seq) if seq >= needs);
        if synced {
            answer()
        } else {
            self.waiting.push_back((needs, answer))
        }
        Ok(())
    }

    fn handle_event(&mut self, event: PoolEvent) -> Result<(), StoreLost> {
        match event {
            PoolEvent::Opened { peer, .. } => {
                debug!(peer = %peer, "stream opened");
                self.vouch(peer);
            }
            PoolEvent::Unsent { peer, version, needs } => {
                warn!(peer = %peer, "not told: it speaks version {version}, and this needs {needs}: upgrade it");
            }
            PoolEvent::Frame { peer, id, bytes } => {
                if self.pool.is_live(peer, id) {
                    let result = self.machine.handle_frame(clock::now(), &mut clock::entropy(), peer, &bytes);
                    match result {
                        Ok(()) => self.vouch(peer),
                        Err(reject) => self.handle_reject(peer, reject),
                    }
                }
            }
            PoolEvent::Closed { peer, id, reason, reject } => {
                if let Some(reject) = reject {
                    self.machine.count_reject(reject);
                }
                debug!(peer = %peer, reason, "stream closed");
                self.pool.handle_closed(peer, id);
            }
        }
        Ok(())
    }

    /// Who has enrolled is no stranger.
    fn vouch(&self, peer: HostId) {
        if self.machine.is_member(peer) {
            self.net.vouch(peer);
        }
    }

    fn handle_reject(&mut self, peer: HostId, reject: Reject) {
        let violation = is_violation(reject);
        if violation {
            self.pool.close(peer);
        }
        // Anybody can provoke one: the counter has them all.
        let Some(left_out) = self.complaints.another(clock::now().mono) else { return };
        if violation {
            warn!(peer = %peer, rejection = reject.name(), left_out, "{reject}: stream closed");
        } else {
            info!(peer = %peer, rejection = reject.name(), left_out, "refused: {reject}");
        }
    }

    async fn carry_out(&mut self) -> Result<(), StoreLost> {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Persist { seq, batch, audit } => {
                    self.store.batches.send((seq, Batch { changes: batch, audit })).await.map_err(|_| StoreLost)?;
                }
                Effect::Reply { to, frame } => {
                    self.metrics.sent(&frame);
                    debug!(peer = %to, message = frame.name(), "answered");
                    self.watched.send(name(&frame), || self.pool.send(to, &[], frame.to_bytes().into()));
                }
                Effect::Ask { to, addresses, frame } => {
                    debug!(peer = %to, message = frame.name(), "asked");
                    self.watched.send(name(&frame), || self.pool.send(to, &addresses, frame.to_bytes().into()));
                }
                Effect::Event(event) => {
                    self.watched.written(event.name());
                    self.metrics.event(&event);
                    self.export(&event);
                    log(&event);
                    if matches!(event, Event::WindowOver { .. } | Event::Resumed { .. }) {
                        self.report_recovery();
                    }
                }
            }
        }
        Ok(())
    }

    /// This Registry's part of a migration's trace: what it answered, and from when to when.
    fn export(&self, event: &Event) {
        if !self.spans.is_on() {
            return;
        }
        let now = clock::now().wall;
        let span = match event {
            Event::Allowed { ids, source, at } => {
                self.about(*ids, Some(*source), |about| about.answer(YES_CLOUD, *at, now))
            }
            Event::Pinned { ids, at } => self.about(*ids, None, |about| about.answer(YES_SERVICE, *at, now)),
            Event::Aborted { ids, cause } => self.about(*ids, None, |about| about.aborted(cause.name(), now)),
            Event::Placed { placement } => {
                let Ok(placement) = placement.unverified() else { return };
                // Registered, and not moved.
                if placement.epoch == Epoch::FIRST {
                    return;
                }
                let ids = self.machine.migration(placement.mig).map_or_else(|| placement.ids(), |record| record.ids);
                self.about(ids, Some(placement.previous), |about| about.answer(PLACEMENT, placement.issued, now))
            }
            _ => return,
        };
        self.spans.send([span]);
    }

    fn about<T>(&self, ids: MigrationIds, source: Option<HostId>, make: impl FnOnce(About<'_>) -> T) -> T {
        let name = |host: HostId| self.machine.host_name(host);
        make(About {
            mig: ids.mig,
            service: ids.service,
            service_name: self.machine.service_name(ids.service).unwrap_or_default(),
            epoch: ids.epoch,
            role: "registry",
            source: source.and_then(name),
            target: name(ids.host),
        })
    }

    /// The state of recovery, for whoever reads the log.
    fn report_recovery(&self) {
        let Some(view) = self.machine.recovery(clock::now()) else { return };
        let RecoveryView { services, resumed, suspended, window_left, .. } = view;
        if window_left > Micros::ZERO {
            let seconds = window_left.as_secs_f64().ceil();
            info!(
                "restored from a backup: {services} services; nothing is decided for {seconds} s, until the longest lease has ended"
            );
        } else {
            info!("restored from a backup: {services} services, {resumed} resumed, {suspended} wait");
        }
    }
}

/// What a message is, also where one frame carries several kinds.
fn name(frame: &RegistryFrame) -> &'static str {
    match frame {
        RegistryFrame::Granted(granted) => match granted.answer {
            Decided::Lease(_) => "Lease",
            Decided::Aborted(_) => "Aborted",
            Decided::Outcome(_) => "Outcome",
        },
        frame => frame.name(),
    }
}

/// For whoever reads along. By the time an event gets here, it is on disk, and so is its entry in the audit log.
fn log(event: &Event) {
    match event {
        Event::TokenCreated { name, role } => info!(cloud = name, role = role.name(), "join token created"),
        Event::Enrolled { host, name, role } => info!(host = %host, cloud = name, role = role.name(), "enrolled"),
        Event::HostRevoked { host } => info!(host = %host, "host revoked"),
        Event::CloudRevoked { name } => info!(cloud = name, "cloud revoked"),
        Event::Registered { service, name, host } => info!(service = %service, name, host = %host, "registered"),
        Event::Allowed { ids, source, .. } => {
            debug!(service = %ids.service, migration = %ids.mig, epoch = %ids.epoch, %source, target = %ids.host, "allowed");
        }
        Event::Denied { service, epoch, host, by, reason } => {
            info!(service = %service, epoch = %epoch, target = %host, source = %by, ?reason, "denied");
        }
        Event::Pinned { ids, .. } => {
            debug!(service = %ids.service, migration = %ids.mig, epoch = %ids.epoch, target = %ids.host, "pinned");
        }
        Event::NotPinned { ids, by, reason } => {
            info!(service = %ids.service, migration = %ids.mig, epoch = %ids.epoch, target = %by, ?reason, "not authorised");
        }
        Event::Placed { placement } => match placement.unverified() {
            Ok(placement) => info!(
                service = %placement.service,
                migration = %placement.mig,
                epoch = %placement.epoch,
                host = %placement.host,
                previous = %placement.previous,
                "placed"
            ),
            Err(reject) => warn!(%reject, "placed"),
        },
        Event::Aborted { ids, cause } => {
            info!(service = %ids.service, migration = %ids.mig, epoch = %ids.epoch, cause = cause.name(), "aborted");
        }
        Event::Released { ids } => {
            info!(service = %ids.service, migration = %ids.mig, epoch = %ids.epoch, "released");
        }
        Event::Adopted { placement } => match placement.unverified() {
            Ok(placement) => info!(
                service = %placement.service,
                migration = %placement.mig,
                epoch = %placement.epoch,
                host = %placement.host,
                "adopted: decided after the backup"
            ),
            Err(reject) => warn!(%reject, "adopted"),
        },
        Event::Resumed { service, epoch, host } => {
            info!(service = %service, epoch = %epoch, host = %host, "resumed");
        }
        Event::WindowOver { services, waiting } => {
            if *waiting > 0 {
                warn!(
                    services,
                    waiting,
                    "services wait for their hosts: `wayfare-registry placements` says for which; a host that is gone for ever \
                     needs its owner's order"
                );
            }
        }
        Event::Ordered { service, action, by } => info!(service = %service, action, by = %by, "ordered by its owner"),
        Event::CarriedOut { service, action, outcome: Outcome::Done } => {
            info!(service = %service, action, "carried out");
        }
        Event::CarriedOut { service, action, outcome: Outcome::Refused(reason) } => {
            warn!(service = %service, action, reason, "its host cannot carry it out");
        }
        Event::Removed { service, host } => {
            let host = host.map_or_else(|| "unknown".to_owned(), |host| host.to_string());
            info!(service = %service, host, "removed by its owner");
        }
        Event::Contradicted { placement, by } => match placement.unverified() {
            Ok(placement) => tracing::error!(
                service = %placement.service,
                epoch = %placement.epoch,
                host = %placement.host,
                shown_by = %by,
                "a genuine placement contradicts the record: a host lied or lost its disk, and writes may be lost"
            ),
            Err(reject) => warn!(%reject, "contradicted"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use wayfare_protocol::registry::{StoreOp, Table};

    use super::*;
    use crate::store::{MemoryStore, Row, Store};

    fn batch(n: u64) -> (u64, Batch) {
        let change = StoreOp { table: Table::Hosts, key: n.to_le_bytes().to_vec(), value: Some(vec![1]) };
        (n, Batch { changes: vec![change], audit: Vec::new() })
    }

    /// Records the size of each commit; fails at the commit that contains batch `fails_at`.
    struct Slow {
        commits: Arc<Mutex<Vec<usize>>>,
        fails_at: u64,
        inner: MemoryStore,
    }

    impl Store for Slow {
        fn load(&mut self) -> Result<Vec<Row>, StoreError> {
            self.inner.load()
        }

        fn commit(&mut self, changes: &[StoreOp]) -> Result<(), StoreError> {
            std::thread::sleep(Duration::from_millis(20));
            self.commits.lock().unwrap().push(changes.len());
            if changes.iter().any(|change| change.key == self.fails_at.to_le_bytes()) {
                return Err(StoreError::Failed("for the test".into()));
            }
            self.inner.commit(changes)
        }
    }

    fn slow(fails_at: u64) -> (Box<Slow>, Arc<Mutex<Vec<usize>>>, MemoryStore) {
        let (commits, inner) = (Arc::new(Mutex::new(Vec::new())), MemoryStore::default());
        (Box::new(Slow { commits: Arc::clone(&commits), fails_at, inner: inner.clone() }), commits, inner)
    }

    #[tokio::test]
    async fn batches_that_come_together_share_a_commit_and_none_is_lost_at_the_end() {
        let (store, commits, mut inner) = slow(u64::MAX);
        let tracker = TaskTracker::new();
        let (failure, _) = oneshot::channel();
        let (mut thread, _) =
            StoreThread::start(Records::unaudited(store), &tracker, failure, &RegistryMetrics::new(Spans::default()));
        for n in 1..=50 {
            thread.batches.send(batch(n)).await.unwrap();
        }
        thread.progress.wait_for(|progress| matches!(progress, Progress::Synced(50))).await.unwrap();
        assert!(commits.lock().unwrap().len() < 10, "{commits:?}");
        thread.batches.send(batch(51)).await.unwrap();
        drop(thread);
        tracker.close();
        tracker.wait().await;
        assert_eq!(inner.load().unwrap().len(), 51);
        assert_eq!(commits.lock().unwrap().iter().sum::<usize>(), 51);
    }

    #[tokio::test]
    async fn a_store_that_fails_is_not_used_again() {
        let (store, _, mut inner) = slow(2);
        let tracker = TaskTracker::new();
        let (failure, failed) = oneshot::channel();
        let (mut thread, _) =
            StoreThread::start(Records::unaudited(store), &tracker, failure, &RegistryMetrics::new(Spans::default()));
        thread.batches.send(batch(1)).await.unwrap();
        thread.progress.wait_for(|progress| matches!(progress, Progress::Synced(1))).await.unwrap();
        thread.batches.send(batch(2)).await.unwrap();
        thread.progress.wait_for(|progress| matches!(progress, Progress::Failed)).await.unwrap();
        assert!(matches!(failed.await, Ok(StoreError::Failed(_))));
        thread.batches.closed().await;
        assert_eq!(inner.load().unwrap().len(), 1);
    }
}
