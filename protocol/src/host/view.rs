//! What a host shows to people and programs.

use serde::Serialize;

use super::{
    Host,
    hosted::{Hosted, Run},
};
use crate::{
    ids::{HostId, ServiceId},
    latency::Measured,
    limits::{RTT_FRESH, RTT_SHOWN},
    manifest::Resources,
    migration::trace::Trace,
    placement::Decision,
    reject::Guards,
    suite::Suite,
    time::{Now, Timestamp},
};

/// A cloud as this host knows it.
#[derive(Clone, Debug, Serialize)]
pub struct CloudView {
    /// The provider's name.
    pub name: String,
    /// The host's identifier, base58.
    pub host: String,
    /// Where the provider says it is.
    pub region: String,
    /// What it offers now.
    pub resources: Resources,
    /// Whether it takes no services now.
    pub cordoned: bool,
    /// Multiaddrs.
    pub addresses: Vec<String>,
    /// Time until its advert expires, s.
    pub expires_in_s: f64,
}

/// A service on this host.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its identifier, base58.
    pub service: String,
    /// `era.hop`.
    pub epoch: String,
    /// What it is doing.
    pub state: String,
    /// Time until the lease ends unless it is renewed, s.
    pub lease_s: f64,
    /// Clients with a session.
    pub clients: usize,
    /// Requests that wait.
    pub queued: usize,
    /// What it must not lose, and what it may.
    pub durability: String,
}

/// A measured round trip: from a service's client to a host, as its gateway reported; or from this host to another.
#[derive(Clone, Debug, Serialize)]
pub struct RttView {
    /// The service's name; empty if this host measured.
    pub service: String,
    /// Who measured: the client's short identifier; empty if this host did.
    pub client: String,
    /// The measured cloud's name, or its identifier if it does not advertise.
    pub cloud: String,
    /// The measured host, base58.
    pub host: String,
    /// Filtered, ms.
    pub rtt_ms: f64,
    /// Since the measurement, s.
    pub age_s: f64,
    /// Whether it is too old to be decided on.
    pub stale: bool,
    /// Pings that were answered, and that were not; `None` if another node counted them.
    pub answered_and_lost: Option<(u64, u64)>,
    /// Whether the service is there now.
    pub here: bool,
}

/// How full a host's tables are: each has its bound in [`limits`](crate::limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Services here, on their way here, and being registered.
    pub services: usize,
    /// Those on their way here.
    pub arrivals: usize,
    /// Requests that wait for the service for which most do.
    pub waiting: usize,
    /// Departures remembered.
    pub departed: usize,
    /// Ended migrations remembered.
    pub finished: usize,
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// How full its tables are.
    pub fn sizes(&self) -> Sizes {
        let waiting = |hosted: &Hosted| hosted.queue.len() + hosted.held.len();
        Sizes {
            services: self.services.len() + self.arrivals.len() + self.registering.len(),
            arrivals: self.arrivals.len(),
            waiting: self.services.values().map(waiting).max().unwrap_or(0),
            departed: self.departed.len(),
            finished: self.finished.len(),
        }
    }

    /// The clouds whose adverts are live.
    pub fn clouds(&self, now: Now) -> Vec<CloudView> {
        self.adverts
            .live(now.wall)
            .map(|known| CloudView {
                name: known.certificate.name.clone(),
                host: known.advert.host.to_string(),
                region: known.certificate.region.clone(),
                resources: known.advert.resources,
                cordoned: known.advert.cordoned,
                addresses: known.advert.addresses.clone(),
                expires_in_s: known.advert.expiry.since(now.wall).as_secs_f64(),
            })
            .collect()
    }

    /// The host of the cloud with this name or base58 identifier.
    pub fn find_cloud(&self, now: Now, name: &str) -> Option<HostId> {
        self.adverts
            .live(now.wall)
            .find(|known| known.certificate.name == name || known.advert.host.to_string() == name)
            .map(|known| known.advert.host)
    }

    /// The services here.
    pub fn services(&self, now: Now) -> Vec<ServiceView> {
        let view = |hosted: &Hosted| ServiceView {
            name: hosted.manifest.name.clone(),
            service: hosted.placement.service.to_string(),
            epoch: hosted.placement.epoch.to_string(),
            state: match hosted.run {
                Run::Serving if hosted.stopped => "stopped",
                run => run.name(),
            }
            .to_owned(),
            lease_s: hosted.lease.until.since(now.mono).as_secs_f64(),
            clients: hosted.sessions.len(),
            queued: hosted.queue.len(),
            durability: format!("{:?}", hosted.manifest.durability).to_lowercase(),
        };
        self.services.values().map(view).collect()
    }

    /// Since when `service` has been here, or since when this process has had it, if that is later.
    pub fn since(&self, service: ServiceId) -> Option<Timestamp> {
        let stay = self.current(service)?;
        self.services.get(&stay).map(|hosted| hosted.since)
    }

    /// The last decisions on where `service` should be, oldest first.
    pub fn decisions(&self, service: ServiceId) -> Vec<Decision> {
        let hosted = self.current(service).and_then(|stay| self.services.get(&stay));
        hosted.map(|hosted| hosted.placer.decisions().cloned().collect()).unwrap_or_default()
    }

    /// The service here with this name or base58 identifier.
    pub fn find_service(&self, name: &str) -> Option<ServiceId> {
        self.services
            .values()
            .find(|hosted| hosted.manifest.name == name || hosted.placement.service.to_string() == name)
            .map(|hosted| hosted.placement.service)
    }

    /// The name of the host that a service went to from here, by the service's base58 identifier.
    pub fn went_to(&self, now: Now, service: &str) -> Option<String> {
        let departed = self.departed.iter().find(|departed| departed.service.to_string() == service)?;
        let placement = departed.placement.unverified().ok()?;
        Some(self.host_name(now, placement.host))
    }

    /// The name of `host`, as its certificate has it; its short identifier if it does not advertise.
    pub fn host_name(&self, now: Now, host: HostId) -> String {
        if host == self.me() {
            return self.identity.certificate.name.clone();
        }
        match self.adverts.get(now.wall, host) {
            Some(known) => known.certificate.name.clone(),
            None => format!("{host:#}"),
        }
    }

    /// The name of a service that is or was here.
    pub fn service_name(&self, service: ServiceId) -> String {
        let here = self.services.values().find(|hosted| hosted.placement.service == service);
        here.map_or_else(|| format!("{service:#}"), |hosted| hosted.manifest.name.clone())
    }

    /// Round trips as the services' clients measured them.
    pub fn rtts(&self, now: Now) -> Vec<RttView> {
        let mut views = Vec::new();
        for hosted in self.services.values() {
            for (client, host, rtt, age) in hosted.placer.measurements(now) {
                views.push(RttView {
                    service: hosted.manifest.name.clone(),
                    client: format!("{client:#}"),
                    cloud: self.host_name(now, host),
                    host: host.to_string(),
                    rtt_ms: rtt.as_millis_f64(),
                    age_s: age.as_secs_f64(),
                    stale: age > RTT_FRESH,
                    answered_and_lost: None,
                    here: host == self.me(),
                });
            }
        }
        views.retain(|view| view.age_s <= RTT_SHOWN.as_secs_f64());
        views.extend(self.measurements.iter(now.mono).map(|Measured { host, rtt, age, is_fresh, answered, lost }| {
            RttView {
                service: String::new(),
                client: String::new(),
                cloud: self.host_name(now, host),
                host: host.to_string(),
                rtt_ms: rtt.as_millis_f64(),
                age_s: age.as_secs_f64(),
                stale: !is_fresh,
                answered_and_lost: Some((answered, lost)),
                here: false,
            }
        }));
        views
    }

    /// Whether a service is on its way from or to this host, or is being started.
    pub fn is_moving(&self) -> bool {
        let unsettled =
            |hosted: &Hosted| hosted.attempt.is_some() || matches!(hosted.run, Run::Starting | Run::Restoring);
        !self.arrivals.is_empty() || self.services.values().any(unsettled)
    }

    /// Attempts that this host takes part in, on either side, oldest first, running ones last.
    pub fn history(&self) -> impl Iterator<Item = &Trace> {
        let leaving = self.services.values().filter_map(|hosted| hosted.attempt.as_ref()).map(|attempt| &attempt.trace);
        let arriving = self.arrivals.values().map(|arrival| &arrival.trace);
        self.history.iter().chain(leaving).chain(arriving)
    }
}
