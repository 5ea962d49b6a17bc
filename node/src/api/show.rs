//! What people and programs can look at.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use wayfare_net::NetCounters;
use wayfare_protocol::{
    host::{Host, view::CloudView, view::RttView, view::ServiceView},
    ids::{HostId, ServiceId},
    migration::trace::{self, Ending, Trace},
    reject::RejectCounters,
    time::Now,
};

use super::{
    Api, Shared,
    error::Failure,
    gateway,
    names::Names,
    shapes::{Cloud, Counters, Incompatible, Line, Logs, Migration, NodeInfo, Outcome, Rtt, Service, Side, Step},
};
use crate::{host::HostHandle, runtime::LogStream, words::near};

pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// Characters of a migration's id that are enough.
const PREFIX_MIN: usize = 4;

impl Shared {
    pub(super) fn host(&self) -> Result<&HostHandle, Failure> {
        self.parts.host.as_ref().ok_or_else(Failure::not_a_host)
    }

    /// Asks the host's machine.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Host, Now) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.host()?.with(|host, now, _| query(host, now)).await.ok_or_else(Failure::stopping)
    }

    /// What `RunningNode` was when it started, and how many peers it has.
    async fn info(&self) -> Result<NodeInfo, Failure> {
        let cordoned = match &self.parts.host {
            Some(_) => self.ask(|host, _| host.is_cordoned()).await?,
            None => false,
        };
        let certificate = &self.parts.certificate;
        Ok(NodeInfo {
            name: certificate.name.clone(),
            role: certificate.role.name().to_owned(),
            host: certificate.host.to_string(),
            region: certificate.region.clone(),
            registry: self.parts.registry.to_string(),
            addresses: crate::node::addresses(&self.parts.net, &self.parts.advertised),
            peers: self.parts.net.connected(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cordoned,
        })
    }
}

pub(super) async fn node(State(api): Api) -> Answer<NodeInfo> {
    Ok(Json(api.info().await?))
}

pub(super) async fn clouds(State(api): Api) -> Answer<Vec<Cloud>> {
    if let Some(gateway) = &api.parts.gateway {
        return Ok(Json(gateway::clouds(gateway).await?));
    }
    let views = api.ask(|host, now| host.clouds(now)).await?;
    Ok(Json(views.into_iter().map(cloud).collect()))
}

fn cloud(view: CloudView) -> Cloud {
    let CloudView { name, host, region, resources, cordoned, addresses, expires_in_s } = view;
    Cloud { name, host, region, cordoned, resources, addresses, expires_in_s }
}

pub(super) async fn services(State(api): Api) -> Answer<Vec<Service>> {
    if let Some(gateway) = &api.parts.gateway {
        return Ok(Json(gateway::services(gateway).await?));
    }
    let views = api.ask(|host, now| host.services(now)).await?;
    let certificate = &api.parts.certificate;
    Ok(Json(views.into_iter().map(|view| service(view, certificate.host, &certificate.name)).collect()))
}

fn service(view: ServiceView, me: HostId, my_name: &str) -> Service {
    let ServiceView { name, service, epoch, state, lease_s, clients, queued, durability } = view;
    Service {
        name,
        id: Some(service),
        epoch: Some(epoch),
        state,
        host: Some(me.to_string()),
        cloud: Some(my_name.to_owned()),
        lease_s: Some(lease_s),
        clients: Some(clients),
        queued: Some(queued),
        durability: Some(durability),
        listen: None,
    }
}

pub(super) async fn rtt(State(api): Api) -> Answer<Vec<Rtt>> {
    if let Some(gateway) = &api.parts.gateway {
        return Ok(Json(gateway::rtts(gateway, &api.parts.certificate.name).await?));
    }
    let views = api.ask(|host, now| host.rtts(now)).await?;
    let me = &api.parts.certificate.name;
    Ok(Json(views.into_iter().map(|view| measured(view, me)).collect()))
}

fn measured(view: RttView, me: &str) -> Rtt {
    let RttView { service, client, cloud, host, rtt_ms, age_s, stale, answered_and_lost, here } = view;
    let from = if client.is_empty() { me.to_owned() } else { client.clone() };
    let (samples, lost) = answered_and_lost.unzip();
    Rtt { service, client, from, cloud, host, rtt_ms, age_s: Some(age_s), stale, samples, lost, here }
}

pub(super) async fn rejects(State(api): Api) -> Answer<Counters> {
    let rejects = match &api.parts.gateway {
        Some(gateway) => gateway::ask(gateway, |machine, _| by_name(machine.rejects())).await?,
        None => api.ask(|host, _| by_name(host.rejects())).await?,
    };
    let net = &api.parts.net;
    let incompatible = net.incompatible().iter().map(incompatible).collect();
    Ok(Json(Counters { rejects, net: net_counters(net.counters()), incompatible }))
}

fn incompatible(peer: &wayfare_net::Incompatible) -> Incompatible {
    let wayfare_net::Incompatible { host, agent, versions, .. } = peer;
    Incompatible { host: host.to_string(), agent: agent.clone(), versions: versions.clone(), text: peer.to_string() }
}

fn by_name(counters: &RejectCounters) -> BTreeMap<String, u64> {
    counters.iter().map(|(reject, count)| (reject.name().to_owned(), count)).collect()
}

fn net_counters(counters: NetCounters) -> BTreeMap<String, u64> {
    counters.by_name().into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// `trace` for people: `name_of` knows hosts.
pub(super) fn attempt(trace: &Trace, me: HostId, name_of: impl Fn(HostId) -> String, names: &Names) -> Migration {
    let (side, from, to) = match trace.side {
        trace::Side::Source => (Side::Source, me, trace.other),
        trace::Side::Target => (Side::Target, trace.other, me),
    };
    let (outcome, failure) = match &trace.ending {
        Ending::Running => (Outcome::Running, None),
        Ending::Moved => (Outcome::Moved, None),
        Ending::Failed(reason) => (Outcome::Failed, Some(reason.clone())),
    };
    let mut steps: Vec<Step> = trace
        .steps
        .iter()
        .map(|(step, at)| Step { step: *step, name: trace::step_name(*step).to_owned(), at_us: at.0 })
        .collect();
    steps.sort_by_key(|step| (step.at_us, step.step));
    Migration {
        id: trace.mig.map(|mig| mig.to_string()),
        service: names.of(trace.service),
        service_id: trace.service.to_string(),
        from: name_of(from),
        to: name_of(to),
        from_host: from.to_string(),
        to_host: to.to_string(),
        side,
        reason: trace.reason.clone(),
        outcome,
        failure,
        bytes: trace.bytes,
        downtime_ms: trace.downtime.map(wayfare_protocol::time::Micros::as_millis_f64),
        steps,
    }
}

pub(super) async fn history(api: &Shared) -> Result<Vec<Migration>, Failure> {
    let names = api.names.clone();
    let describe = move |host: &mut Host, now: Now| {
        let me = host.me();
        let one = |trace: &Trace| attempt(trace, me, |of| host.host_name(now, of), &names);
        host.history().map(one).collect()
    };
    api.ask(describe).await
}

pub(super) async fn migrations(State(api): Api) -> Answer<Vec<Migration>> {
    Ok(Json(history(&api).await?))
}

pub(super) async fn migration(State(api): Api, Path(wanted): Path<String>) -> Answer<Migration> {
    let mut found = history(&api).await?;
    if wanted == "last" {
        let none =
            || Failure::new(StatusCode::NOT_FOUND, "no migration yet", "move a service, or wait for one to move");
        return found.pop().map(Json).ok_or_else(none);
    }
    if wanted.len() < PREFIX_MIN {
        let error = format!("`{wanted}` is too short for a migration's id");
        return Err(Failure::bad_request(error, format!("give at least {PREFIX_MIN} characters")));
    }
    found.retain(|migration| migration.id.as_ref().is_some_and(|id| id.starts_with(&wanted)));
    match (found.pop(), found.is_empty()) {
        (Some(migration), true) => Ok(Json(migration)),
        (Some(_), false) => {
            let error = format!("several migrations begin with `{wanted}`");
            Err(Failure::new(StatusCode::CONFLICT, error, "give more characters"))
        }
        (None, _) => {
            let error = format!("this node knows no migration `{wanted}`");
            let advice = "`wayfare migrations` lists those it took part in; both sides keep the last ones, in memory";
            Err(Failure::new(StatusCode::NOT_FOUND, error, advice))
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Since {
    #[serde(default)]
    since: u64,
}

/// The service with this name or id, here now or formerly.
async fn find(api: &Shared, wanted: &str) -> Result<ServiceId, Failure> {
    let (name, names) = (wanted.to_owned(), api.names.clone());
    let find = move |host: &mut Host, now: Now| {
        let former = names.find(&name);
        let is = |service: &ServiceId| {
            let id = service.to_string();
            id == name || former.as_ref() == Some(&id)
        };
        let here = host.find_service(&name);
        let found = here.or_else(|| host.history().map(|trace| trace.service).find(is));
        found.ok_or_else(|| no_service(host, now, &names, &name))
    };
    api.ask(find).await?
}

/// Why there is no such service here, and where it may be.
pub(super) fn no_service(host: &Host, now: Now, names: &Names, wanted: &str) -> Failure {
    let id = names.find(wanted).unwrap_or_else(|| wanted.to_owned());
    if let Some(to) = host.went_to(now, &id) {
        let error = format!("service `{wanted}` is not on this node any more: it moved to {to}");
        return Failure::new(StatusCode::NOT_FOUND, error, "name the --dir of the node that has it now");
    }
    let here = host.services(now).into_iter().map(|service| service.name);
    let advice = "`wayfare services` lists those that are; `wayfare-registry placements` says where each service is";
    let advice = match near(wanted, here) {
        Some(name) => format!("did you mean `{name}`? {advice}"),
        None => advice.to_owned(),
    };
    Failure::new(StatusCode::NOT_FOUND, format!("no service `{wanted}` is on this node"), advice)
}

pub(super) async fn logs(
    State(api): Api,
    Path(wanted): Path<String>,
    Query(Since { since }): Query<Since>,
) -> Answer<Logs> {
    let service = find(&api, &wanted).await?;
    let kept = api.host()?.log(service).since(since);
    let next = kept.last().map_or(since, |line| line.number.saturating_add(1));
    let line = |line: crate::runtime::LogLine| Line {
        number: line.number,
        at_us: line.at_ns / 1000,
        stream: match line.stream {
            LogStream::Stdout => "stdout".to_owned(),
            LogStream::Stderr => "stderr".to_owned(),
        },
        text: line.text,
    };
    Ok(Json(Logs { service: api.names.of(service), lines: kept.into_iter().map(line).collect(), next }))
}

/// Of the attempts to move `service` to `to`, the last.
pub(super) async fn last_attempt(
    api: &Arc<Shared>,
    service: ServiceId,
    to: HostId,
) -> Result<Option<Migration>, Failure> {
    let (id, to) = (service.to_string(), to.to_string());
    let ours =
        |migration: &Migration| migration.service_id == id && migration.to_host == to && migration.side == Side::Source;
    Ok(history(api).await?.into_iter().rfind(ours))
}
