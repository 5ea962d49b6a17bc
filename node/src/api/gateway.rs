//! What a gateway shows.

use wayfare_protocol::{
    gateway::Gateway, latency::Measured, migration::messages::Lookup, reject::Strict, suite::Dalek, time::Now,
};

use super::{
    error::Failure,
    shapes::{Cloud, Rtt, Service},
};
use crate::gateway::{GatewayHandle, Machine};

/// The name, or the short id, by which a service is looked up.
pub(crate) fn lookup_name(service: &Lookup) -> String {
    match service {
        Lookup::Name(name) => name.clone(),
        Lookup::Id(id) => format!("{id:#}"),
    }
}

pub(super) async fn ask<T: Send + 'static>(
    gateway: &GatewayHandle,
    query: impl FnOnce(&mut Machine, Now) -> T + Send + 'static,
) -> Result<T, Failure> {
    gateway.with(query).await.ok_or_else(Failure::stopping)
}

pub(super) async fn clouds(gateway: &GatewayHandle) -> Result<Vec<Cloud>, Failure> {
    let list = |machine: &mut Machine, now: Now| {
        let cloud = |known: &wayfare_protocol::advert::store::Entry| Cloud {
            name: known.certificate.name.clone(),
            host: known.advert.host.to_string(),
            region: known.certificate.region.clone(),
            cordoned: known.advert.cordoned,
            resources: known.advert.resources,
            addresses: known.advert.addresses.clone(),
            expires_in_s: known.advert.expiry.since(now.wall).as_secs_f64(),
        };
        machine.adverts().live(now.wall).map(cloud).collect()
    };
    ask(gateway, list).await
}

fn host_name(machine: &Gateway<Dalek, Strict>, now: Now, host: wayfare_protocol::ids::HostId) -> String {
    let known = machine.adverts().get(now.wall, host);
    known.map_or_else(|| format!("{host:#}"), |known| known.certificate.name.clone())
}

pub(super) async fn services(gateway: &GatewayHandle) -> Result<Vec<Service>, Failure> {
    let listening = gateway.listening().to_vec();
    let list = move |machine: &mut Machine, now: Now| {
        let service = |(lookup, listen): &(Lookup, std::net::SocketAddr)| {
            let id = machine.resolve(lookup);
            let placement = id.and_then(|id| machine.placement(id));
            Service {
                name: lookup_name(lookup),
                id: id.map(|id| id.to_string()),
                epoch: placement.map(|placement| placement.epoch.to_string()),
                state: if placement.is_some() { "placed" } else { "unknown" }.to_owned(),
                host: placement.map(|placement| placement.host.to_string()),
                cloud: placement.map(|placement| host_name(machine, now, placement.host)),
                lease_s: None,
                clients: None,
                queued: None,
                durability: None,
                listen: Some(listen.to_string()),
            }
        };
        listening.iter().map(service).collect()
    };
    ask(gateway, list).await
}

pub(super) async fn rtts(gateway: &GatewayHandle, name: &str) -> Result<Vec<Rtt>, Failure> {
    let name = name.to_owned();
    let list = move |machine: &mut Machine, now: Now| {
        let placed: Vec<_> =
            machine.services().filter_map(|id| machine.placement(id)).map(|placement| placement.host).collect();
        let client = format!("{:#}", machine.client());
        let shown = |Measured { host, rtt, age, is_fresh, answered, lost }| Rtt {
            service: String::new(),
            client: client.clone(),
            from: name.clone(),
            cloud: host_name(machine, now, host),
            host: host.to_string(),
            rtt_ms: rtt.as_millis_f64(),
            age_s: Some(age.as_secs_f64()),
            stale: !is_fresh,
            samples: Some(answered),
            lost: Some(lost),
            here: placed.contains(&host),
        };
        let mut rtts: Vec<Rtt> = machine.measurements(now).map(shown).collect();
        rtts.sort_by(|a, b| a.rtt_ms.total_cmp(&b.rtt_ms));
        rtts
    };
    ask(gateway, list).await
}
