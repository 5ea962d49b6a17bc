//! What a cloud or home counts.

use wayfare_protocol::{
    advert::Gossip,
    host::{Effect, Event, figures::Figures, hosted::Run},
    migration::{
        messages::RegistryFrame,
        trace::{Ending, Side, Trace},
    },
};
use wayfare_telemetry::{
    Mesh, Metrics, Spans,
    instruments::{
        Counter, Counters, Durations, DurationsBy, Gauge, GaugeF64, Gauges, Register as _, by, by_two, follow, set,
    },
};

use super::journal::JournalMetrics;

const SOURCE: &str = Side::Source.name();
const TARGET: &str = Side::Target.name();
/// The steps that a side waits for, and so knows how long they took.
const STEPS: [(Side, u8, &str); 8] = [
    (Side::Source, 3, "3_yes_cloud"),
    (Side::Source, 7, "7_response"),
    (Side::Source, 8, "8_transfer"),
    (Side::Source, 9, "9_transfer_ack"),
    (Side::Source, 11, "11_placement"),
    (Side::Target, 6, "6_yes_service"),
    (Side::Target, 8, "8_transfer"),
    (Side::Target, 11, "11_placement"),
];

/// A host's instruments. The owner's task bumps them.
#[derive(Debug)]
pub(crate) struct HostMetrics {
    pub(crate) mesh: Mesh,
    journal: JournalMetrics,
    spans: Spans,
    services: Gauges<1>,
    migrating: Gauges<1>,
    migrations: Counters<2>,
    steps: DurationsBy<2>,
    downtime: Durations,
    transferred: Counters<1>,
    executed: Counter,
    queued: Gauge,
    held: Gauge,
    holds: Counter,
    leases: Gauge,
    renewals: Counter,
    leases_ended: Counter,
    lease_left_min: GaugeF64,
    alarms: Counters<1>,
    restored: Counter,
    sessions: Gauge,
    gateways: Gauge,
    cordoned: Gauge,
}

impl HostMetrics {
    pub(crate) fn new(journal: JournalMetrics, spans: Spans) -> Self {
        let outcomes = [SOURCE, TARGET].into_iter().flat_map(|role| [[role, "moved"], [role, "failed"]]);
        Self {
            mesh: Mesh::default(),
            journal,
            spans,
            services: by("state", Run::NAMES),
            migrating: by("role", [SOURCE, TARGET]),
            migrations: by_two(["role", "outcome"], outcomes),
            steps: by_two(["role", "step"], STEPS.iter().map(|(side, _, label)| [side.name(), label])),
            downtime: Durations::default(),
            transferred: by("direction", ["sent", "received"]),
            executed: Counter::default(),
            queued: Gauge::default(),
            held: Gauge::default(),
            holds: Counter::default(),
            leases: Gauge::default(),
            renewals: Counter::default(),
            leases_ended: Counter::default(),
            lease_left_min: GaugeF64::default(),
            alarms: by("kind", ["superseded", "undecided", "broken", "lost", "not_saved", "not_deployed"]),
            restored: Counter::default(),
            sessions: Gauge::default(),
            gateways: Gauge::default(),
            cordoned: Gauge::default(),
        }
    }

    pub(crate) fn register(&self, metrics: &mut Metrics) {
        self.mesh.register(metrics);
        self.journal.register(metrics);
        self.spans.register(metrics);
        self.register_migrations(metrics);
        metrics.add(
            "wayfare_host_services",
            "Services on this host now, by what their instances are doing",
            &self.services,
        );
        metrics.add("wayfare_host_requests_executed", "A request was handed to a service's instance", &self.executed);
        metrics.add("wayfare_host_requests_queued", "Admitted requests that wait for their turn now", &self.queued);
        metrics.add(
            "wayfare_host_requests_held",
            "Requests that met a frozen service and wait now for what becomes of it",
            &self.held,
        );
        metrics.add("wayfare_host_holds", "A request met a frozen service and had to wait", &self.holds);
        metrics.add(
            "wayfare_host_leases",
            "Services whose lease is this host's to use and has not ended",
            &self.leases,
        );
        metrics.add("wayfare_host_lease_renewals", "RENEW was sent to a registry, repeats included", &self.renewals);
        metrics.add(
            "wayfare_host_leases_ended",
            "A lease ended before it was renewed: the service's requests wait until it is",
            &self.leases_ended,
        );
        metrics.add(
            "wayfare_host_lease_left_min_seconds",
            "Until the first lease ends, unless it is renewed; +Inf without leases",
            &self.lease_left_min,
        );
        metrics.add(
            "wayfare_host_alarms",
            "Somebody should look: a service was superseded without consent, is frozen and waits for its registry's decision, is \
             broken, was lost, could not be saved, or could not be deployed",
            &self.alarms,
        );
        metrics.add("wayfare_host_restores", "A service is as it was before a restart", &self.restored);
        metrics.add("wayfare_host_sessions", "Sessions of clients now", &self.sessions);
        metrics.add("wayfare_host_gateways", "Gateways with an open stream now", &self.gateways);
        metrics.add("wayfare_host_cordoned", "1 while this host takes no services", &self.cordoned);
    }

    fn register_migrations(&self, metrics: &mut Metrics) {
        metrics.add(
            "wayfare_host_migrations",
            "An attempt to move a service from here (source) or to here (target) ended: the service moved, or it did not",
            &self.migrations,
        );
        metrics.add(
            "wayfare_host_migrations_running",
            "Attempts that are not decided now, by this host's role in them",
            &self.migrating,
        );
        metrics.add(
            "wayfare_host_step_duration_seconds",
            "From the step before, as this host knows it, to this step of the protocol, by this host's wall clock; observed when \
             the attempt has ended",
            &self.steps,
        );
        metrics.add(
            "wayfare_host_downtime_seconds",
            "From freezing a service to the decision where it goes on, by the source's monotonic clock; observed by the source \
             when an attempt that froze the service has ended",
            &self.downtime,
        );
        metrics.add(
            "wayfare_host_transfer_bytes",
            "Bytes of sealed state records that were sent or received; counted when the attempt has ended",
            &self.transferred,
        );
    }

    /// An effect is about to be executed.
    pub(crate) fn effect(&self, effect: &Effect) {
        match effect {
            Effect::Execute { .. } => {
                self.executed.inc();
            }
            Effect::Gossip(Gossip::Advert(_)) => self.mesh.advertised(),
            Effect::ToRegistry(_, RegistryFrame::Renew(_)) => {
                self.renewals.inc();
            }
            Effect::Event(event) => self.event(event),
            _ => {}
        }
    }

    fn event(&self, event: &Event) {
        let alarm = match event {
            Event::AttemptEnded(trace) => return self.attempt_ended(trace),
            Event::LeaseEnded(_) => {
                self.leases_ended.inc();
                return;
            }
            Event::Restored(..) => {
                self.restored.inc();
                return;
            }
            Event::Superseded(..) => "superseded",
            Event::Undecided(..) => "undecided",
            Event::Broken(..) => "broken",
            Event::Lost(..) => "lost",
            Event::NotSaved(..) => "not_saved",
            Event::DeployFailed(..) => "not_deployed",
            Event::Serving(..)
            | Event::MoveStarted(..)
            | Event::MovedAway(..)
            | Event::MoveFailed(..)
            | Event::Progress(_)
            | Event::Ordered(..)
            | Event::OrderRefused(..)
            | Event::Removed(_)
            | Event::Restoring(..) => return,
        };
        self.alarms.get_or_create(&[("kind", alarm)]).inc();
    }

    fn attempt_ended(&self, trace: &Trace) {
        let outcome = if trace.ending == Ending::Moved { "moved" } else { "failed" };
        self.migrations.get_or_create(&[("role", trace.side.name()), ("outcome", outcome)]).inc();
        let direction = if trace.side == Side::Source { "sent" } else { "received" };
        self.transferred.get_or_create(&[("direction", direction)]).inc_by(trace.bytes);
        if let Some(downtime) = trace.downtime {
            self.downtime.observe_us(downtime.0);
        }
        for (before, after) in trace.steps.iter().zip(trace.steps.iter().skip(1)) {
            let known = STEPS.iter().find(|(side, step, _)| (*side, *step) == (trace.side, after.0));
            if let Some((side, _, label)) = known {
                self.steps
                    .get_or_create(&[("role", side.name()), ("step", label)])
                    .observe_us(after.1.since(before.1).0);
            }
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn refresh(&self, figures: &Figures) {
        for (state, services) in &figures.services {
            set(&self.services.get_or_create(&[("state", state)]), *services);
        }
        set(&self.migrating.get_or_create(&[("role", SOURCE)]), figures.departing);
        set(&self.migrating.get_or_create(&[("role", TARGET)]), figures.arriving);
        set(&self.queued, figures.queued);
        set(&self.held, figures.held);
        follow(&self.holds, figures.held_total);
        set(&self.leases, figures.leases);
        self.lease_left_min.set(figures.lease_left_min.map_or(f64::INFINITY, |left| left.as_secs_f64()));
        set(&self.sessions, figures.sessions);
        set(&self.gateways, figures.gateways);
        self.mesh.set_live(figures.adverts);
        self.cordoned.set(figures.cordoned.into());
    }
}

#[cfg(test)]
mod tests {
    use wayfare_protocol::migration::trace::step_name;

    use super::*;

    #[test]
    fn the_labels_of_steps_are_their_numbers_and_names() {
        for (_, step, label) in STEPS {
            assert_eq!(label, format!("{step}_{}", step_name(step).replace(' ', "_")));
        }
    }
}
