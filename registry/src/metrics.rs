//! What a Registry counts. The task that owns the machine bumps the counters, as its effects come out, and the store's thread
//! times its commits; what is a state is read off the machine when somebody scrapes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wayfare_net::Net;
use wayfare_protocol::{
    migration::messages::{Answer, NoReason, RegistryFrame},
    order::{Action, Outcome},
    registry::{AbortCause, Event},
    reject::RejectCounters,
    time::{Micros, Now},
};
use wayfare_telemetry::{
    Endpoint, Metrics, NetMetrics, Process, Rejections, Spans,
    instruments::{Counter, Counters, Durations, Gauge, GaugeF64, Gauges, Register as _, by, set},
};

use crate::handle::{Handle, Machine};

/// The pool of streams to nodes.
const POOL: &str = "registry";

/// A Registry's instruments.
#[derive(Debug)]
pub(crate) struct RegistryMetrics {
    spans: Spans,
    verdicts: Counters<1>,
    denials: Counters<1>,
    registered: Counter,
    placements: Counter,
    aborts: Counters<1>,
    orders: Counters<1>,
    orders_reported: Counters<1>,
    released: Counter,
    renewals: Counter,
    enrolled: Counter,
    revocations: Counter,
    adopted: Counter,
    contradicted: Counter,
    commits: Durations,
    changes: Counter,
    services: Gauges<1>,
    moving: Gauge,
    leases: Gauge,
    lease_left_min: GaugeF64,
    hosts: Gauges<1>,
    recovering: Gauge,
    window_left: GaugeF64,
    streams: AtomicUsize,
}

impl RegistryMetrics {
    pub(crate) fn new(spans: Spans) -> Self {
        Self {
            spans,
            verdicts: by("verdict", ["yes_cloud", "no_cloud", "yes_service", "no_service"]),
            denials: by("reason", NoReason::ALL.map(NoReason::name)),
            registered: Counter::default(),
            placements: Counter::default(),
            aborts: by("cause", AbortCause::ALL.map(AbortCause::name)),
            orders: by("action", Action::ALL.map(Action::name)),
            orders_reported: by("outcome", ["done", "refused"]),
            released: Counter::default(),
            renewals: Counter::default(),
            enrolled: Counter::default(),
            revocations: Counter::default(),
            adopted: Counter::default(),
            contradicted: Counter::default(),
            commits: Durations::default(),
            changes: Counter::default(),
            services: by("state", ["placed", "suspended"]),
            moving: Gauge::default(),
            leases: Gauge::default(),
            lease_left_min: GaugeF64::default(),
            hosts: by("state", ["enrolled", "revoked"]),
            recovering: Gauge::default(),
            window_left: GaugeF64::default(),
            streams: AtomicUsize::new(0),
        }
    }

    fn register(&self, metrics: &mut Metrics) {
        self.spans.register(metrics);
        metrics.add(
            "wayfare_registry_verdicts",
            "A verdict (3 or 6) was sent; repeats of the same are counted",
            &self.verdicts,
        );
        metrics.add(
            "wayfare_registry_denials",
            "A move was not allowed (3), for this reason; repeats are not counted",
            &self.denials,
        );
        metrics.add("wayfare_registry_registrations", "A service was registered", &self.registered);
        metrics.add(
            "wayfare_registry_placements",
            "A placement was recorded (11): a service moved, or was registered",
            &self.placements,
        );
        metrics.add(
            "wayfare_registry_aborts",
            "A migration that was allowed ended without a placement, for this cause",
            &self.aborts,
        );
        metrics.add("wayfare_registry_orders", "An owner's order was taken", &self.orders);
        metrics.add(
            "wayfare_registry_orders_reported",
            "A host reported what became of an order: done, or refused",
            &self.orders_reported,
        );
        metrics.add("wayfare_registry_releases", "A source said that it has deleted its copy (12)", &self.released);
        metrics.add(
            "wayfare_registry_leases_granted",
            "A lease was granted or renewed; repeats are counted",
            &self.renewals,
        );
        metrics.add("wayfare_registry_enrolments", "A host joined, or joined again", &self.enrolled);
        metrics.add("wayfare_registry_revocations", "An operator revoked a host or a cloud", &self.revocations);
        metrics.add(
            "wayfare_registry_adoptions",
            "After a restore from a backup: a host showed a placement that was decided after the backup, and it was adopted",
            &self.adopted,
        );
        metrics.add(
            "wayfare_registry_contradictions",
            "A host showed a genuine placement that contradicts the record: an operator must look",
            &self.contradicted,
        );
        metrics.add(
            "wayfare_registry_commit_duration_seconds",
            "A commit of the store, synced: once for each commit, which several decisions may share",
            &self.commits,
        );
        metrics.add("wayfare_registry_changes", "A changed record is on disk", &self.changes);
        metrics.add(
            "wayfare_registry_services",
            "Registered services now: placed, or suspended since a restore from a backup",
            &self.services,
        );
        metrics.add(
            "wayfare_registry_moving",
            "Services with a migration that is allowed and not decided now",
            &self.moving,
        );
        metrics.add(
            "wayfare_registry_leases",
            "Services whose host may be serving now, as this registry counts: its lease has not ended",
            &self.leases,
        );
        metrics.add(
            "wayfare_registry_lease_left_min_seconds",
            "Until the first of these leases ends, unless it is renewed; +Inf without leases",
            &self.lease_left_min,
        );
        metrics.add("wayfare_registry_hosts", "Hosts that ever enrolled, and are enrolled or revoked now", &self.hosts);
        metrics.add(
            "wayfare_registry_recovering",
            "1 while something waits since a restore from a backup: for the longest lease to end, or for a host to show what it has",
            &self.recovering,
        );
        metrics.add(
            "wayfare_registry_recovery_window_left_seconds",
            "How much longer nothing at all is decided after a restore from a backup; else 0",
            &self.window_left,
        );
    }

    /// What the store's thread times.
    pub(crate) fn committed(&self) -> (Durations, Counter) {
        (self.commits.clone(), self.changes.clone())
    }

    /// Streams that are open now.
    pub(crate) fn set_streams(&self, streams: usize) {
        self.streams.store(streams, Ordering::Relaxed);
    }

    /// A message is sent to a node.
    pub(crate) fn sent(&self, frame: &RegistryFrame) {
        let verdict = match frame {
            RegistryFrame::YesCloud(_) => "yes_cloud",
            RegistryFrame::NoCloud(_) => "no_cloud",
            RegistryFrame::YesService(_) => "yes_service",
            RegistryFrame::NoService(_) => "no_service",
            RegistryFrame::Granted(granted) => {
                if matches!(granted.answer, Answer::Lease(_)) {
                    self.renewals.inc();
                }
                return;
            }
            _ => return,
        };
        self.verdicts.get_or_create(&[("verdict", verdict)]).inc();
    }

    /// Something was decided, and is on disk.
    pub(crate) fn event(&self, event: &Event) {
        let counter = match event {
            Event::Denied { reason, .. } => &self.denials.get_or_create_owned(&[("reason", reason.name())]),
            Event::Aborted { cause, .. } => &self.aborts.get_or_create_owned(&[("cause", cause.name())]),
            Event::Registered { .. } => &self.registered,
            Event::Placed { .. } => &self.placements,
            Event::Ordered { action, .. } => &self.orders.get_or_create_owned(&[("action", action)]),
            Event::CarriedOut { outcome, .. } => {
                let outcome = if *outcome == Outcome::Done { "done" } else { "refused" };
                &self.orders_reported.get_or_create_owned(&[("outcome", outcome)])
            }
            Event::Released { .. } => &self.released,
            Event::Enrolled { .. } => &self.enrolled,
            Event::HostRevoked { .. } | Event::CloudRevoked { .. } => &self.revocations,
            Event::Adopted { .. } => &self.adopted,
            Event::Contradicted { .. } => &self.contradicted,
            Event::TokenCreated { .. }
            | Event::Allowed { .. }
            | Event::Pinned { .. }
            | Event::NotPinned { .. }
            | Event::Resumed { .. }
            | Event::Removed { .. }
            | Event::WindowOver { .. } => return,
        };
        counter.inc();
    }

    fn refresh(&self, numbers: &Numbers) {
        let count = |family: &Gauges<1>, state, value| set(&family.get_or_create(&[("state", state)]), value);
        count(&self.services, "placed", numbers.services - numbers.suspended);
        count(&self.services, "suspended", numbers.suspended);
        count(&self.hosts, "enrolled", numbers.hosts - numbers.revoked);
        count(&self.hosts, "revoked", numbers.revoked);
        set(&self.moving, numbers.moving);
        set(&self.leases, numbers.leases);
        self.lease_left_min.set(numbers.lease_left_min.map_or(f64::INFINITY, Micros::as_secs_f64));
        self.recovering.set((numbers.window_left > Micros::ZERO || numbers.suspended > 0).into());
        self.window_left.set(numbers.window_left.as_secs_f64());
    }
}

/// A Registry's numbers at one moment.
struct Numbers {
    services: usize,
    suspended: usize,
    moving: usize,
    leases: usize,
    lease_left_min: Option<Micros>,
    hosts: usize,
    revoked: usize,
    window_left: Micros,
    rejects: RejectCounters,
}

impl Numbers {
    fn of(machine: &Machine, now: Now) -> Self {
        let (mut services, mut suspended, mut moving) = (0, 0, 0);
        let mut leases = Vec::new();
        for view in machine.placements(now) {
            services += 1;
            suspended += usize::from(view.suspended.is_some());
            moving += usize::from(view.moving);
            leases.extend(Some(view.lease_left).filter(|left| *left > Micros::ZERO));
        }
        Self {
            services,
            suspended,
            moving,
            leases: leases.len(),
            lease_left_min: leases.into_iter().min(),
            hosts: machine.enrolled().count(),
            revoked: machine.enrolled().filter(|host| host.revoked).count(),
            window_left: machine.recovery(now).map_or(Micros::ZERO, |view| view.window_left),
            rejects: machine.rejects().clone(),
        }
    }
}

/// Serves a Registry's metrics until `shutdown`.
pub(crate) fn serve(
    endpoint: Endpoint,
    counted: Arc<RegistryMetrics>,
    handle: Handle,
    net: Net,
    tracker: &TaskTracker,
    shutdown: CancellationToken,
) {
    let mut metrics = Metrics::default();
    let process = Process::register(&mut metrics, "wayfare-registry", "registry", env!("CARGO_PKG_VERSION"));
    let net = NetMetrics::register(&mut metrics, net, &[POOL]);
    let rejections = Rejections::register(&mut metrics);
    counted.register(&mut metrics);
    let refreshed = Arc::new((process, net, rejections, counted, handle));
    let refresh: wayfare_telemetry::Refresh = Arc::new(move || {
        let refreshed = Arc::clone(&refreshed);
        Box::pin(async move {
            let (process, net, rejections, counted, handle) = &*refreshed;
            let Ok(numbers) = handle.call(|machine, now| Numbers::of(machine, now)).await else { return false };
            process.refresh();
            net.refresh(&[(POOL, counted.streams.load(Ordering::Relaxed))]);
            rejections.refresh(&numbers.rejects);
            counted.refresh(&numbers);
            true
        })
    });
    endpoint.serve(metrics, refresh, tracker, shutdown);
}
