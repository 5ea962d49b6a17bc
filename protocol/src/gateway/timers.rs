//! What a gateway does when nothing arrives.

use super::{
    effect::{Effect, Failure},
    keyed::End,
    machine::Gateway,
    route::Who,
};
use crate::{
    ids::{HostId, ServiceId},
    migration::messages::Lookup,
    reject::Guards,
    suite::Suite,
    time::{Instant, Now},
};

impl<S: Suite, G: Guards> Gateway<S, G> {
    /// When [`Gateway::handle_timeout`] is next due. Calling it earlier is harmless.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.restarted {
            return Some(Instant::default());
        }
        let names = self.names.values().flat_map(|name| {
            [name.waiting.front().map(|waiting| waiting.deadline), name.asking.due].into_iter().flatten()
        });
        let routes = self.routes.values().filter_map(|route| route.timeout());
        let report = self.links.connected().next().map(|_| self.report_at());
        names.chain(routes).chain(self.links.timeout()).chain(report).chain(self.keys.timeout()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.take_up(now);
        self.give_up(now.mono);
        self.keys.expire(now.mono);
        let services: Vec<ServiceId> = self.routes.keys().copied().collect();
        for service in services {
            if let Some(route) = self.routes.get_mut(&service) {
                route.wake(now.mono);
                if route.host(now.mono).is_none() {
                    route.asking.want(now.mono);
                }
            }
            self.flush(now.mono, service);
        }
        for host in self.links.redial(now.mono) {
            self.redial(now, host);
        }
        self.ask(now.mono);
        self.report(now);
        self.adverts.expire(now.wall);
    }

    fn redial(&mut self, now: Now, host: HostId) {
        let route = self.routes.values().find(|route| route.last_host() == Some(host));
        if let Some(service) = route.map(|route| route.service) {
            let addresses = self.addresses(now, service, host);
            self.outbox.now(Effect::Connect { host, addresses });
        }
    }

    /// Fails the requests that were held for too long. A request that some host may have executes perhaps: the client is
    /// told that its outcome is unknown. One with a key is tried for longer than its clients wait.
    fn give_up(&mut self, now: Instant) {
        let mut late = Vec::new();
        for name in self.names.values_mut() {
            while let Some(waiting) = name.waiting.front()
                && waiting.deadline <= now
            {
                late.extend(name.waiting.pop_front().map(|waiting| waiting.ticket));
            }
        }
        self.fail(late.into_iter(), &Failure::Timeout);
        let waited = self.keys.late(now);
        self.fail(waited.into_iter(), &Failure::StillTrying);
        let services: Vec<ServiceId> = self.routes.keys().copied().collect();
        for service in services {
            while let Some((sequence, pending)) = self.routes.get_mut(&service).and_then(|route| route.remove_late(now))
            {
                let never_sent = matches!(pending.who, Who::Key(_)) && !pending.ever_sent;
                let end = if never_sent { End::NotExecuted } else { End::Unknown };
                self.end(now, service, sequence, pending, end(Failure::Timeout));
            }
        }
    }

    /// Asks the Registries what is due to be asked.
    pub(super) fn ask(&mut self, now: Instant) {
        for (name, entry) in &mut self.names {
            if entry.service.is_none() && entry.asking.take(now) {
                let lookup = Lookup::Name(name.clone());
                self.outbox.now(Effect::Lookup { registry: self.config.registry, lookup });
            }
        }
        for (service, route) in &mut self.routes {
            if route.asking.take(now) {
                let lookup = Lookup::Id(*service);
                self.outbox.now(Effect::Lookup { registry: service.registry, lookup });
            }
        }
    }
}
