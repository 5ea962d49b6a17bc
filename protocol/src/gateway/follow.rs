//! Where services are: placements and adverts, from wherever they come, and the Registry's answers.

use super::{
    effect::{Effect, Entry, Failure},
    keyed::End,
    machine::{Gateway, Waiting},
};
use crate::{
    advert::{Advert, store::Inserted, verify_advert},
    ids::{HostId, RegistryId, ServiceId},
    limits::CLOCK_SKEW,
    migration::messages::{Found, Lookup, Placement},
    reject::{Guards, Reject, Rule, ensure},
    suite::Suite,
    time::Now,
    trust::{Receiver, Signed},
};

impl<S: Suite, G: Guards> Gateway<S, G> {
    /// A placement from gossip. `Ok` for a genuine and current one of a service that this gateway does not follow, too:
    /// it is worth passing on.
    ///
    /// # Errors
    /// A named rejection, counted. Nothing changed, but that an expired placement of a higher epoch ends the use of the
    /// one known.
    pub fn handle_gossip_placement(&mut self, now: Now, placement: &Signed<Placement>) -> Result<(), Reject> {
        let result = match self.accept(now, placement) {
            Err(Reject::UnknownService) => self.genuine(now, placement),
            other => other.map(|_| ()),
        };
        self.counted(result)
    }

    fn genuine(&self, now: Now, placement: &Signed<Placement>) -> Result<(), Reject> {
        let registry = placement.unverified()?.service.registry;
        let placement = self.config.bundle.verify::<S, G, _>(placement, registry, Receiver::Anyone)?;
        ensure::<G>(placement.is_current(now.wall), Reject::Expired)
    }

    /// An advert from gossip.
    ///
    /// # Errors
    /// Those of [`verify_advert`] and of [`AdvertStore::insert`](crate::advert::AdvertStore::insert), counted. Nothing changed.
    pub fn handle_gossip_advert(&mut self, now: Now, advert: &Signed<Advert>) -> Result<Inserted, Reject> {
        let result = verify_advert::<S, G>(advert, &self.config.bundle, now.wall).and_then(|(advert, certificate)| {
            self.pace.admit::<G>(now.mono, advert.host)?;
            self.adverts.insert::<G>(now.wall, advert, certificate)
        });
        self.counted(result)
    }

    /// A Registry's answer, on the stream to `registry`.
    ///
    /// # Errors
    /// A named rejection, counted. Nothing changed; but if all that is wrong is the placement's age or epoch, the question is
    /// answered: where the service's host is reached is known from then on.
    pub fn handle_found(&mut self, now: Now, registry: RegistryId, found: &Found) -> Result<(), Reject> {
        let result = self.found(now, registry, found);
        self.counted(result)
    }

    fn found(&mut self, now: Now, registry: RegistryId, found: &Found) -> Result<(), Reject> {
        let asked = match &found.lookup {
            Lookup::Id(service) => {
                ensure::<G>(service.registry == registry, Reject::WrongPeer)?;
                self.routes.get_mut(service).map(|route| &mut route.asking)
            }
            Lookup::Name(name) => {
                ensure::<G>(registry == self.config.registry, Reject::WrongPeer)?;
                self.names.get_mut(name).map(|name| &mut name.asking)
            }
        };
        let asked = asked.ok_or(Reject::UnexpectedMessage)?;
        match &found.service {
            None => {
                asked.answered();
                self.not_found(now, &found.lookup);
            }
            Some((placement, manifest)) => {
                let claim = manifest.unverified()?;
                let manifest = manifest.verify::<S, G>(&claim.owner.0, claim.service.registry, Receiver::Anyone)?;
                manifest.check()?;
                let record = placement.unverified()?;
                let asked = match &found.lookup {
                    Lookup::Id(service) => manifest.service == *service,
                    Lookup::Name(name) => manifest.name == *name && manifest.service.registry == registry,
                };
                ensure::<G>(asked && record.service == manifest.service, Reject::WrongService)?;
                ensure::<G>(record.manifest == manifest.hash(), Reject::WrongManifest)?;
                self.located(now, found, placement, record.service, record.host)?;
            }
        }
        Ok(())
    }

    fn located(
        &mut self,
        now: Now,
        found: &Found,
        placement: &Signed<Placement>,
        service: ServiceId,
        host: HostId,
    ) -> Result<(), Reject> {
        // Anything refused before this leaves the question open: it is asked again.
        let route = self.route(now.mono, service).ok_or(Reject::Full)?;
        route.found = Some((host, found.addresses.clone()));
        route.asking.answered();
        if let Lookup::Name(name) = &found.lookup {
            self.resolved(now, name, service);
        }
        let accepted = self.accept(now, placement);
        if let Some(route) = self.routes.get_mut(&service)
            && route.host(now.mono).is_none()
        {
            route.asking.want(now.mono);
            self.ask(now.mono);
        }
        self.flush(now.mono, service);
        accepted.map(|_| ())
    }

    /// The requests that waited for the name's service are numbered, in the order in which they came.
    fn resolved(&mut self, now: Now, name: &str, service: ServiceId) {
        let Some(name) = self.names.get_mut(name) else { return };
        name.service = Some(service);
        name.asking.answered();
        for Waiting { ticket, request, key, deadline } in std::mem::take(&mut name.waiting) {
            if let Err(refuse) = self.take(now, service, ticket, deadline, request, key) {
                self.fail(std::iter::once(ticket), &Failure::Refused(refuse));
            }
        }
        if let Some(route) = self.routes.get_mut(&service) {
            route.reserve(&mut self.outbox, G::keeps(Rule::SyncGate));
        }
    }

    fn not_found(&mut self, now: Now, lookup: &Lookup) {
        let mut failed = Vec::new();
        match lookup {
            Lookup::Name(name) => {
                if let Some(name) = self.names.get_mut(name) {
                    // It is asked again at the next request only: soon, for it may be deployed by then.
                    name.asking.reset();
                    failed.extend(name.waiting.drain(..).map(|waiting| waiting.ticket));
                }
            }
            Lookup::Id(service) => {
                if let Some(route) = self.routes.get_mut(service) {
                    route.placement = None;
                    for (sequence, pending) in route.remove_all() {
                        let end = if pending.ever_sent { End::Unknown } else { End::NotExecuted };
                        self.end(now.mono, *service, sequence, pending, end(Failure::NoSuchService));
                    }
                }
                // The name may be another service's by now.
                self.names
                    .values_mut()
                    .filter(|name| name.service == Some(*service))
                    .for_each(|name| name.service = None);
                self.prune();
            }
        }
        self.fail(failed.into_iter(), &Failure::NoSuchService);
    }

    /// Takes a placement over if it is newer than the one known: of the service's own Registry, unexpired, of no lower
    /// epoch than the highest seen (PROTOCOL 4, 5). Whether it was newer.
    pub(super) fn accept(&mut self, now: Now, signed: &Signed<Placement>) -> Result<bool, Reject> {
        let service = signed.unverified()?.service;
        let route = self.routes.get_mut(&service).ok_or(Reject::UnknownService)?;
        if route.placement.as_ref().is_some_and(|known| known.signed() == signed) {
            return Ok(false);
        }
        let placement = self.config.bundle.verify::<S, G, _>(signed, service.registry, Receiver::Anyone)?;
        ensure::<G>(placement.issued <= now.wall + CLOCK_SKEW, Reject::NotYetValid)?;
        ensure::<G>(route.highest.is_none_or(|highest| placement.epoch >= highest), Reject::WrongEpoch)?;
        let same_epoch = route.placement.as_ref().filter(|known| known.epoch == placement.epoch);
        if let Some(known) = same_epoch {
            ensure::<G>(known.ids() == placement.ids() && known.key == placement.key, Reject::Conflict)?;
            if placement.issued <= known.issued {
                return Ok(false);
            }
        }
        let moved = same_epoch.is_none();
        let lapsed = route.host(now.mono).is_none();
        if route.highest != Some(placement.epoch) {
            route.highest = Some(placement.epoch);
            let entry = Entry::Seen { service, epoch: placement.epoch };
            self.outbox.persist(|seq| Effect::Persist { seq, entry });
            route.highest_gate = G::keeps(Rule::SyncGate).then(|| self.outbox.last_appended());
        }
        if ensure::<G>(placement.is_current(now.wall), Reject::Expired).is_err() {
            // Even so it says that the service has left the host known so far.
            if moved {
                route.placement = None;
                route.restart();
            }
            route.asking.want(now.mono);
            self.ask(now.mono);
            self.prune();
            return Err(Reject::Expired);
        }
        route.valid_until = now.mono + (placement.issued + placement.lease + CLOCK_SKEW).since(now.wall);
        route.placement = Some(placement);
        route.asking.answered();
        if moved || lapsed {
            // What was sent to the former host is held there, or was; what came while the placement was expired was
            // dropped. Either way it is sent again.
            route.restart();
            route.backoff.until = None;
        }
        self.follow(now, service);
        Ok(true)
    }

    /// Wants a stream to where the service is, and closes those that no service needs.
    fn follow(&mut self, now: Now, service: ServiceId) {
        if let Some(host) = self.routes.get(&service).and_then(|route| route.host(now.mono)) {
            let addresses = self.addresses(now, service, host);
            self.links.want(host, addresses, &mut self.outbox);
        }
        self.prune();
        self.flush(now.mono, service);
    }

    fn prune(&mut self) {
        let routes = &self.routes;
        let wanted = |host| routes.values().any(|route| route.last_host() == Some(host));
        self.links.prune(wanted, &mut self.outbox);
    }

    /// Where `host` is reached: as it advertises, else as the Registry said; empty if neither is known.
    pub(super) fn addresses(&self, now: Now, service: ServiceId, host: HostId) -> Vec<String> {
        if let Some(entry) = self.adverts.get(now.wall, host) {
            return entry.advert.addresses.clone();
        }
        let found = self.routes.get(&service).and_then(|route| route.found.as_ref());
        found.filter(|(known, _)| *known == host).map(|(_, addresses)| addresses.clone()).unwrap_or_default()
    }
}
