//! What a gateway counts. Requests pass by the thousands each second: nothing here locks or allocates for one.

use std::time::Instant;

use hyper::StatusCode;
use wayfare_protocol::gateway::{Failure, figures::Figures};
use wayfare_telemetry::{
    Mesh, Metrics,
    instruments::{Counter, Counters, Durations, Gauge, Gauges, Register as _, by, set},
};

use super::journal::JournalMetrics;

/// How a client's request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The service's response.
    Answered,
    /// Not taken: malformed, too large, no room, a key that cannot be used.
    Refused,
    /// Held for as long as allowed.
    Expired,
    /// No response, for another reason.
    Failed,
    /// The client went away first.
    Abandoned,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Answered, Self::Refused, Self::Expired, Self::Failed, Self::Abandoned];

    const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }

    /// What a request comes to that the machine gave up.
    pub(crate) const fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Timeout | Failure::StillTrying => Self::Expired,
            Failure::Refused(_) | Failure::Stopped => Self::Refused,
            Failure::NotExecuted(_) | Failure::NoSuchService | Failure::SessionLost => Self::Failed,
        }
    }
}

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// A gateway's instruments.
#[derive(Debug)]
pub(crate) struct GatewayMetrics {
    pub(crate) mesh: Mesh,
    journal: JournalMetrics,
    services: Gauges<1>,
    requests: Counters<1>,
    responses: Counters<1>,
    /// Those of `requests` and `responses`, at hand without looking them up.
    outcomes: [Counter; 5],
    classes: [Counter; 4],
    durations: Durations,
    pending: Gauge,
    held: Gauge,
    connections: Gauge,
    hosts: Gauge,
    keys: Gauge,
}

impl GatewayMetrics {
    pub(crate) fn new(journal: JournalMetrics) -> Self {
        let requests: Counters<1> = by("outcome", Outcome::ALL.map(Outcome::name));
        let responses: Counters<1> = by("class", CLASSES);
        Self {
            mesh: Mesh::default(),
            journal,
            services: by("state", ["placed", "unknown"]),
            outcomes: Outcome::ALL.map(|outcome| requests.get_or_create_owned(&[("outcome", outcome.name())])),
            classes: CLASSES.map(|class| responses.get_or_create_owned(&[("class", class)])),
            requests,
            responses,
            durations: Durations::default(),
            pending: Gauge::default(),
            held: Gauge::default(),
            connections: Gauge::default(),
            hosts: Gauge::default(),
            keys: Gauge::default(),
        }
    }

    pub(crate) fn register(&self, metrics: &mut Metrics) {
        self.mesh.register(metrics);
        self.journal.register(metrics);
        metrics.add(
            "wayfare_gateway_services",
            "Services that this gateway carries now, by whether it knows where they are",
            &self.services,
        );
        metrics.add(
            "wayfare_gateway_requests",
            "A client's request ended: answered by the service; refused by the gateway, untried; expired, since it was held for \
             as long as allowed; failed otherwise; or abandoned by its client",
            &self.requests,
        );
        metrics.add(
            "wayfare_gateway_responses",
            "A response was given to a client, by class of its status",
            &self.responses,
        );
        metrics.add(
            "wayfare_gateway_request_duration_seconds",
            "From a request's head to its response, of the requests that services answered",
            &self.durations,
        );
        metrics.add("wayfare_gateway_requests_pending", "Requests without a response now", &self.pending);
        metrics.add(
            "wayfare_gateway_requests_held",
            "Pending requests that no host can be working on now, since the service's place is not known or no stream to it is \
             open",
            &self.held,
        );
        metrics.add("wayfare_gateway_connections", "HTTP connections of clients now", &self.connections);
        metrics.add("wayfare_gateway_hosts", "Hosts with an open stream now", &self.hosts);
        metrics.add("wayfare_gateway_keys", "Idempotency keys that are remembered now", &self.keys);
    }

    /// A client's request has begun.
    pub(crate) fn request(&self) -> Request<'_> {
        Request { metrics: self, began: Instant::now(), outcome: Outcome::Abandoned }
    }

    /// A client is connected, until this is dropped.
    pub(crate) fn connection(&self) -> Connection<'_> {
        self.connections.inc();
        Connection(&self.connections)
    }

    /// Brings the gauges up to date.
    pub(crate) fn refresh(&self, figures: &Figures) {
        set(&self.services.get_or_create(&[("state", "placed")]), figures.placed);
        set(&self.services.get_or_create(&[("state", "unknown")]), figures.unplaced);
        set(&self.pending, figures.pending);
        set(&self.held, figures.held);
        set(&self.hosts, figures.hosts);
        set(&self.keys, figures.keys);
        self.mesh.set_live(figures.adverts);
    }
}

/// A request under way. Dropped before it [ended](Self::ended), it was abandoned.
pub(crate) struct Request<'a> {
    metrics: &'a GatewayMetrics,
    began: Instant,
    outcome: Outcome,
}

impl Request<'_> {
    /// The client gets a response of this status.
    pub(crate) fn ended(mut self, outcome: Outcome, status: StatusCode) {
        self.outcome = outcome;
        if let Some(class) = self.metrics.classes.get(usize::from(status.as_u16() / 100).saturating_sub(2)) {
            class.inc();
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if let Some(counter) = self.metrics.outcomes.get(self.outcome as usize) {
            counter.inc();
        }
        if self.outcome == Outcome::Answered {
            self.metrics.durations.observe(self.began.elapsed());
        }
    }
}

/// See [`GatewayMetrics::connection`].
pub(crate) struct Connection<'a>(&'a Gauge);

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_counted_once_by_how_it_ended() {
        let metrics = GatewayMetrics::new(JournalMetrics::default());
        metrics.request().ended(Outcome::Answered, StatusCode::OK);
        metrics.request().ended(Outcome::Answered, StatusCode::INTERNAL_SERVER_ERROR);
        metrics.request().ended(Outcome::Expired, StatusCode::GATEWAY_TIMEOUT);
        drop(metrics.request());
        let counted = |outcome: Outcome| metrics.requests.get_or_create(&[("outcome", outcome.name())]).get();
        assert_eq!(Outcome::ALL.map(counted), [2, 0, 1, 0, 1]);
        let responses = CLASSES.map(|class| metrics.responses.get_or_create(&[("class", class)]).get());
        assert_eq!(responses, [1, 0, 0, 2]);
    }
}
