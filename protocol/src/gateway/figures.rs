//! How much of what a gateway has: numbers for gauges, read when somebody looks.

use super::Gateway;
use crate::{reject::Guards, suite::Suite, time::Now};

/// A gateway's numbers at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Services that it carries and knows the place of, by a placement that is in date.
    pub placed: usize,
    /// Services that it carries and does not know the place of.
    pub unplaced: usize,
    /// Requests without a response.
    pub pending: usize,
    /// Those of them that no host can be working on: the service's place is not known, or no stream to it is open.
    pub held: usize,
    /// Clouds whose adverts are live.
    pub adverts: usize,
    /// Hosts with an open stream.
    pub hosts: usize,
    /// Idempotency keys that are remembered.
    pub keys: usize,
}

impl<S: Suite, G: Guards> Gateway<S, G> {
    /// How much of what there is.
    pub fn figures(&self, now: Now) -> Figures {
        let unfound: usize = self.names.values().map(|name| name.waiting.len()).sum();
        let unnamed = self.names.values().filter(|name| name.service.is_none()).count();
        let placed = self.routes.values().filter(|route| route.host(now.mono).is_some()).count();
        let unreachable = self
            .routes
            .values()
            .filter(|route| !route.host(now.mono).is_some_and(|host| self.links.is_connected(host)))
            .map(|route| route.pending.len());
        Figures {
            placed,
            unplaced: self.routes.len() - placed + unnamed,
            pending: self.pending(),
            held: unfound + unreachable.sum::<usize>(),
            adverts: self.adverts.live(now.wall).count(),
            hosts: self.links.connected().count(),
            keys: self.keys(),
        }
    }
}
