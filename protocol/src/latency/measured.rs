//! What a node has measured: one filter for each host, and how often the host did not answer.

use std::collections::BTreeMap;

use super::RttFilter;
use crate::{
    ids::HostId,
    limits::{ADVERTS_MAX, RTT_SHOWN},
    time::{Instant, Micros},
};

/// A host's pings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Pings {
    filter: RttFilter,
    answered: u64,
    lost: u64,
    /// The last ping, answered or lost.
    tried: Instant,
}

/// What a node measured of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The host.
    pub host: HostId,
    /// Filtered.
    pub rtt: Micros,
    /// Since the last answer.
    pub age: Micros,
    /// Whether the age is within [`RTT_FRESH`](crate::limits::RTT_FRESH): an older figure is decided on no more.
    pub is_fresh: bool,
    /// Pings that were answered.
    pub answered: u64,
    /// Pings that were not.
    pub lost: u64,
}

/// A node's measurements, at most [`ADVERTS_MAX`] hosts: the one tried longest ago makes room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Measurements {
    hosts: BTreeMap<HostId, Pings>,
}

impl Measurements {
    /// `host` answered after `rtt`.
    pub fn record(&mut self, now: Instant, host: HostId, rtt: Micros) {
        let pings = self.of(now, host);
        pings.answered = pings.answered.saturating_add(1);
        pings.filter.record(now, rtt);
    }

    /// `host` did not answer.
    pub fn record_loss(&mut self, now: Instant, host: HostId) {
        let pings = self.of(now, host);
        pings.lost = pings.lost.saturating_add(1);
    }

    /// The round trip to `host`, if it is fresh.
    pub fn fresh(&self, now: Instant, host: HostId) -> Option<Micros> {
        self.hosts.get(&host)?.filter.fresh(now)
    }

    /// Since the last answer of `host`.
    pub fn age(&self, now: Instant, host: HostId) -> Option<Micros> {
        self.hosts.get(&host)?.filter.age(now)
    }

    /// What was measured, by host: fresh or not, up to the age of [`RTT_SHOWN`]. A host that never answered is not there.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = Measured> + '_ {
        let measured = move |(host, pings): (&HostId, &Pings)| {
            let Pings { filter, answered, lost, .. } = pings;
            Some(Measured {
                host: *host,
                rtt: filter.value()?,
                age: filter.age(now)?,
                is_fresh: filter.fresh(now).is_some(),
                answered: *answered,
                lost: *lost,
            })
        };
        self.hosts.iter().filter_map(measured).filter(|measured| measured.age <= RTT_SHOWN)
    }

    fn of(&mut self, now: Instant, host: HostId) -> &mut Pings {
        if self.hosts.len() >= ADVERTS_MAX && !self.hosts.contains_key(&host) {
            let oldest = self.hosts.iter().min_by_key(|(_, pings)| pings.tried).map(|(host, _)| *host);
            oldest.and_then(|oldest| self.hosts.remove(&oldest));
        }
        let pings = self.hosts.entry(host).or_default();
        pings.tried = now;
        pings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RTT_FRESH;

    fn host(n: usize) -> HostId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        HostId(bytes)
    }

    const RTT: Micros = Micros::from_millis(20);

    #[test]
    fn what_is_shown_was_measured_and_says_how_old_it_is() {
        let (mut measurements, start) = (Measurements::default(), Instant(1_000_000));
        measurements.record_loss(start, host(1));
        assert_eq!(measurements.iter(start).count(), 0, "it never answered");
        measurements.record(start, host(1), RTT);
        measurements.record(start, host(1), RTT);
        let shown = |now| measurements.iter(now).next();
        let fresh = Measured { host: host(1), rtt: RTT, age: Micros::ZERO, is_fresh: true, answered: 2, lost: 1 };
        assert_eq!(shown(start), Some(fresh));
        let late = start + RTT_FRESH + Micros(1);
        assert_eq!(shown(late), Some(Measured { age: Micros(RTT_FRESH.0 + 1), is_fresh: false, ..fresh }));
        assert_eq!(measurements.fresh(late, host(1)), None);
        assert_eq!(shown(start + RTT_SHOWN + Micros(1)), None);
    }

    #[test]
    fn at_the_limit_the_one_tried_longest_ago_makes_room() {
        let mut measurements = Measurements::default();
        for n in 0..ADVERTS_MAX {
            measurements.record(Instant(n as u64), host(n), RTT);
        }
        measurements.record_loss(Instant(ADVERTS_MAX as u64), host(0));
        measurements.record(Instant(ADVERTS_MAX as u64), host(ADVERTS_MAX), RTT);
        let now = Instant(ADVERTS_MAX as u64);
        assert_eq!(measurements.iter(now).count(), ADVERTS_MAX);
        assert!(measurements.age(now, host(0)).is_some() && measurements.age(now, host(1)).is_none());
    }
}
