//! Round trips: which hosts to measure, what to make of it, whom to tell.

use std::collections::BTreeSet;

use super::{
    effect::Effect,
    machine::Gateway,
    messages::{ClientFrame, LatencyReport},
};
use crate::{
    ids::HostId,
    latency::{Coordinate, Measured, Measurements, Vivaldi},
    limits::REPORT_ENTRIES_MAX,
    reject::Guards,
    suite::Suite,
    time::{Instant, Micros, Now},
};

/// Candidates probed because they are, or by their coordinates seem, the nearest (`reference/latency.md`, "Selection":
/// beyond 8 little is gained).
pub const PROBE_NEAREST: usize = 12;
/// Candidates probed because they have not been for longest: coordinates err, and this finds out.
pub const PROBE_EXPLORE: usize = 4;

/// What a gateway measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Probe {
    measurements: Measurements,
    vivaldi: Vivaldi,
    reported: Instant,
}

impl Probe {
    pub(super) fn new(me: HostId) -> Self {
        Self { measurements: Measurements::default(), vivaldi: Vivaldi::new(me), reported: Instant::default() }
    }
}

impl<S: Suite, G: Guards> Gateway<S, G> {
    /// Takes a measured round trip to `host`.
    pub fn record_rtt(&mut self, now: Now, host: HostId, rtt: Micros) {
        self.probe.measurements.record(now.mono, host, rtt);
        if let Some(entry) = self.adverts.get(now.wall, host) {
            // An advert with an impossible coordinate is of no use here, and does no harm.
            let _ = self.probe.vivaldi.update(host, &entry.advert.coordinate, rtt);
        }
    }

    /// A measurement of `host` failed: it did not answer.
    pub fn record_loss(&mut self, now: Now, host: HostId) {
        self.probe.measurements.record_loss(now.mono, host);
    }

    /// The filtered round trip to `host`, if it is fresh.
    pub fn rtt(&self, now: Now, host: HostId) -> Option<Micros> {
        self.probe.measurements.fresh(now.mono, host)
    }

    /// What this gateway measured lately, by host.
    pub fn measurements(&self, now: Now) -> impl Iterator<Item = Measured> + '_ {
        self.probe.measurements.iter(now.mono)
    }

    /// Where this gateway is in latency space.
    pub fn coordinate(&self) -> Coordinate {
        self.probe.vivaldi.coordinate()
    }

    /// Whom to probe now, each with its addresses: the hosts that serve, then candidates: the [`PROBE_NEAREST`] nearest,
    /// by measurement or else by coordinates, and the [`PROBE_EXPLORE`] not measured for longest.
    pub fn probe_targets(&self, now: Now) -> Vec<(HostId, Vec<String>)> {
        let mut targets: Vec<(HostId, Vec<String>)> = Vec::new();
        let mut chosen = BTreeSet::new();
        for route in self.routes.values() {
            if let Some(host) = route.host(now.mono)
                && chosen.insert(host)
            {
                targets.push((host, self.addresses(now, route.service, host)));
            }
        }
        let mut nearest: Vec<(Micros, HostId)> = self
            .adverts
            .live(now.wall)
            .map(|entry| {
                let estimate = || self.probe.vivaldi.distance(&entry.advert.coordinate);
                (self.rtt(now, entry.advert.host).unwrap_or_else(estimate), entry.advert.host)
            })
            .filter(|(_, host)| !chosen.contains(host))
            .collect();
        nearest.sort_unstable();
        let rest = nearest.split_off(nearest.len().min(PROBE_NEAREST));
        let age = |host: &HostId| self.probe.measurements.age(now.mono, *host).unwrap_or(Micros(u64::MAX));
        let mut longest: Vec<(Micros, HostId)> = rest.into_iter().map(|(_, host)| (age(&host), host)).collect();
        longest.sort_unstable_by(|a, b| b.cmp(a));
        for (_, host) in nearest.into_iter().chain(longest.into_iter().take(PROBE_EXPLORE)) {
            if let Some(entry) = self.adverts.get(now.wall, host) {
                targets.push((host, entry.advert.addresses.clone()));
            }
        }
        targets
    }

    pub(super) fn report_at(&self) -> Instant {
        self.probe.reported + self.config.report_interval
    }

    /// Tells the hosts of services what was measured, once an interval: each about itself first, then about candidates,
    /// nearest first, as many as fit; and which responses have come, so that none is kept for a client that is silent.
    /// Only where a session was asked for: a host listens to no one else.
    pub(super) fn report(&mut self, now: Now) {
        if now.mono < self.report_at() {
            return;
        }
        self.probe.reported = now.mono;
        let measured = self.measurements(now).filter(|measured| measured.is_fresh);
        let mut fresh: Vec<(Micros, HostId, Micros)> =
            measured.map(|Measured { host, rtt, age, .. }| (rtt, host, age)).collect();
        fresh.sort_unstable();
        let client = self.client();
        for route in self.routes.values_mut() {
            let connected = route.host(now.mono).filter(|host| self.links.is_connected(*host));
            let Some(host) = connected.filter(|_| route.opened) else { continue };
            let own = fresh.iter().filter(|(_, measured, _)| *measured == host);
            let candidates = fresh
                .iter()
                .filter(|(_, measured, _)| *measured != host && self.adverts.get(now.wall, *measured).is_some());
            let entries: Vec<(HostId, Micros, Micros)> = own
                .chain(candidates)
                .take(REPORT_ENTRIES_MAX)
                .map(|(rtt, measured, age)| (*measured, *rtt, *age))
                .collect();
            let acked_below = route.acked_below();
            if entries.is_empty() && route.acked_told == acked_below {
                continue;
            }
            route.acked_told = acked_below;
            let report = LatencyReport { service: route.service, client, acked_below, entries };
            self.outbox.now(Effect::Send { host, frame: ClientFrame::LatencyReport(report) });
        }
    }
}
