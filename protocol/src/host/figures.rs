//! How much of what a host has: numbers for gauges, read when somebody looks.

use std::collections::BTreeMap;

use super::{
    Host,
    hosted::{Hosted, Run},
};
use crate::{
    reject::Guards,
    suite::Suite,
    time::{Micros, Now},
};

/// A host's numbers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Services by [`Run::name`]; every name is there.
    pub services: BTreeMap<&'static str, usize>,
    /// Services that it is moving away.
    pub departing: usize,
    /// Services that are on their way here.
    pub arriving: usize,
    /// Services whose lease is this host's to use and has not ended.
    pub leases: usize,
    /// The shortest time that one of them has left, unless it is renewed.
    pub lease_left_min: Option<Micros>,
    /// Admitted requests that wait for their turn.
    pub queued: usize,
    /// Requests that met a frozen service and wait for what becomes of it.
    pub held: usize,
    /// All that ever did.
    pub held_total: u64,
    /// Sessions of clients.
    pub sessions: usize,
    /// Gateways with an open stream that have said who they are.
    pub gateways: usize,
    /// Clouds whose adverts are live.
    pub adverts: usize,
    /// Whether it takes no services now.
    pub cordoned: bool,
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// How much of what there is.
    pub fn figures(&self, now: Now) -> Figures {
        let mut services: BTreeMap<&'static str, usize> = Run::NAMES.iter().map(|name| (*name, 0)).collect();
        for hosted in self.services.values() {
            *services.entry(hosted.run.name()).or_default() += 1;
        }
        let leased = |hosted: &&Hosted| hosted.keeps_lease() && now.mono < hosted.lease.until;
        let left = self.services.values().filter(leased).map(|hosted| hosted.lease.until.since(now.mono));
        let sum = |of: fn(&Hosted) -> usize| self.services.values().map(of).sum();
        Figures {
            services,
            departing: sum(|hosted| hosted.attempt.is_some().into()),
            arriving: self.arrivals.len(),
            leases: left.clone().count(),
            lease_left_min: left.min(),
            queued: sum(|hosted| hosted.queue.len()),
            held: sum(|hosted| hosted.held.len()),
            held_total: self.held_total,
            sessions: sum(|hosted| hosted.sessions.len()),
            gateways: self.links.len(),
            adverts: self.adverts.live(now.wall).count(),
            cordoned: self.cordoned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_name_in_the_list_once() {
        let all = [
            Run::Starting,
            Run::Serving,
            Run::Freezing,
            Run::Frozen,
            Run::Resuming,
            Run::Restoring,
            Run::Updating,
            Run::Sealed,
            Run::Lost,
            Run::Broken,
        ];
        let names: std::collections::BTreeSet<_> = all.iter().map(|run| run.name()).collect();
        assert_eq!(names, Run::NAMES.into_iter().collect());
    }
}
