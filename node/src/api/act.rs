//! What the API does: deploys, moves, cordons.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
};
use data_encoding::BASE64;
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;
use wayfare_protocol::{
    host::Event,
    ids::{Epoch, HostId, ServiceId},
    manifest::{Durability, Manifest},
    placement::{Explanation, Verdict},
    reject::Reject,
    trust::Signed,
    wire::{self, Wire},
};

use super::{
    Api, MANIFEST_HEADER, Shared,
    error::{Failure, advice},
    shapes::{Cordoned, Deployed, MoveRequest, Moved, Outcome},
    show::{Answer, last_attempt, no_service},
    why::name_here,
};
use crate::words::{in_words, near};

/// The longest that a caller may wait.
pub(super) const TIMEOUT_MAX_S: u64 = 3600;
/// What owners of services without a log should know.
const MEMORY_WARNING: &str =
    "its state is kept in memory only (durability = memory): moves lose nothing, but a crash or stop of its host does";

#[derive(Deserialize)]
pub(super) struct DeployQuery {
    #[serde(default = "default_timeout")]
    timeout_s: u64,
}

fn default_timeout() -> u64 {
    MoveRequest::default().timeout_s
}

/// Waits for the event that `pick` is after. `None` when the time is up.
async fn wait<T>(
    events: &mut Receiver<Event>,
    timeout_s: u64,
    shutdown: &CancellationToken,
    pick: impl Fn(Event) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let found = async {
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return Ok(Some(found));
                    }
                }
                // So much happens that this may have been missed: then the time ends.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Err(Failure::stopping()),
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(Failure::stopping()),
        found = found => found,
        () = tokio::time::sleep(Duration::from_secs(timeout_s.min(TIMEOUT_MAX_S))) => Ok(None),
    }
}

/// What a header carries, base64.
pub(super) fn header<T: Wire>(headers: &HeaderMap, name: &str) -> Result<T, Failure> {
    let bad = |error: String| Failure::bad_request(error, "use the `wayfare` of the node's version");
    let header = headers.get(name).ok_or_else(|| bad(format!("no header `{name}`")))?;
    let bytes = BASE64.decode(header.as_bytes()).map_err(|error| bad(format!("header `{name}`: {error}")))?;
    wire::decode(&bytes).map_err(|reject| bad(format!("header `{name}`: {reject}")))
}

pub(super) async fn deploy(
    State(api): Api,
    Query(DeployQuery { timeout_s }): Query<DeployQuery>,
    headers: HeaderMap,
    module: Bytes,
) -> Answer<Deployed> {
    let signed: Signed<Manifest> = header(&headers, MANIFEST_HEADER)?;
    let claims = signed.unverified()?;
    let host = api.host()?;
    let mut events = host.events().await.ok_or_else(Failure::stopping)?;
    let deployed_as = host.deploy(signed, module.to_vec()).await;
    let service = deployed_as.map_err(|error| Failure::from(error).of(format!("`{}` is not deployed", claims.name)))?;
    api.names.learn(service.to_string(), claims.name.clone());
    let outcome = |event| match event {
        Event::Serving(started, epoch) if started == service => Some(Ok(epoch)),
        Event::DeployFailed(failed, reason) | Event::Broken(failed, reason) if failed == service => Some(Err(reason)),
        _ => None,
    };
    match wait(&mut events, timeout_s, &api.shutdown, outcome).await? {
        Some(Ok(epoch)) => Ok(Json(deployed(&api, &claims, service, epoch))),
        Some(Err(reason)) => {
            let error = format!("`{}` is not deployed: {}", claims.name, in_words(&reason));
            Err(Failure::new(StatusCode::CONFLICT, error, advice(&reason)))
        }
        None => Err(Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("`{}` does not run after {timeout_s} s: the registry has not answered", claims.name),
            "this node goes on asking: `wayfare services` shows it when it runs",
        )),
    }
}

fn deployed(api: &Shared, manifest: &Manifest, id: ServiceId, epoch: Epoch) -> Deployed {
    let certificate = &api.parts.certificate;
    let (durability, warning) = match manifest.durability {
        Durability::Log => ("log", None),
        Durability::Memory => ("memory", Some(MEMORY_WARNING.to_owned())),
    };
    Deployed {
        service: manifest.name.clone(),
        id: id.to_string(),
        epoch: epoch.to_string(),
        host: certificate.host.to_string(),
        cloud: certificate.name.clone(),
        durability: durability.to_owned(),
        warning,
    }
}

/// What a move starts from.
struct Plan {
    service: ServiceId,
    explanation: Explanation,
    /// The target, with its name.
    to: Option<(HostId, String)>,
}

async fn plan(api: &Shared, name: &str, request: &MoveRequest) -> Result<Plan, Failure> {
    let (name, wanted, names) = (name.to_owned(), request.to.clone(), api.names.clone());
    let plan = move |host: &mut wayfare_protocol::host::Host, now| {
        let service = host.find_service(&name).ok_or_else(|| no_service(host, now, &names, &name))?;
        let mut explanation = host.explain(now, service)?;
        name_here(host, now, &mut explanation);
        let to = match wanted {
            Some(cloud) => Some(find_target(host, now, &cloud)?),
            None => explanation.chosen(),
        };
        let to = to.map(|to| (to, host.host_name(now, to)));
        Ok(Plan { service, explanation, to })
    };
    api.ask(plan).await?
}

fn find_target(
    host: &wayfare_protocol::host::Host,
    now: wayfare_protocol::time::Now,
    cloud: &str,
) -> Result<HostId, Failure> {
    if let Some(found) = host.find_cloud(now, cloud) {
        return Ok(found);
    }
    if cloud == host.host_name(now, host.me()) || cloud == host.me().to_string() {
        return Err(Reject::SelfMove.into());
    }
    let error = format!("no cloud `{cloud}` advertises to this node");
    let advice = advice(Reject::UnknownAdvert.name());
    let advice = match near(cloud, host.clouds(now).into_iter().map(|known| known.name)) {
        Some(name) => format!("did you mean `{name}`? {advice}"),
        None => advice.to_owned(),
    };
    Err(Failure::new(StatusCode::NOT_FOUND, error, advice))
}

pub(super) async fn move_service(State(api): Api, Path(name): Path<String>, body: Bytes) -> Answer<Moved> {
    let request: MoveRequest = match body.is_empty() {
        true => MoveRequest::default(),
        false => serde_json::from_slice(&body)
            .map_err(|error| Failure::bad_request(format!("the request: {error}"), "see the API's description"))?,
    };
    let Plan { service, explanation, to } = plan(&api, &name, &request).await?;
    let mut moved = Moved {
        service: api.names.of(service),
        id: service.to_string(),
        from: api.parts.certificate.name.clone(),
        to: to.as_ref().map(|(_, name)| name.clone()),
        outcome: None,
        migration: None,
        explanation,
    };
    if request.dry_run {
        return Ok(Json(moved));
    }
    let Some((to, _)) = to else {
        let reason = match &moved.explanation.verdict {
            Verdict::Stay(stay) => stay.to_string(),
            Verdict::Move(_) => String::new(),
        };
        let error = format!("`{}` is where it should be: {reason}", moved.service);
        return Err(Failure::new(StatusCode::CONFLICT, error, "name a cloud with --to, or see why with --dry-run"));
    };
    moved.outcome = Some(carry_out(&api, service, to, &request).await?);
    moved.migration = last_attempt(&api, service, to).await?;
    Ok(Json(moved))
}

async fn carry_out(
    api: &Arc<Shared>,
    service: ServiceId,
    to: HostId,
    request: &MoveRequest,
) -> Result<Outcome, Failure> {
    let host = api.host()?;
    let mut events = host.events().await.ok_or_else(Failure::stopping)?;
    let begun = host.with(move |host, now, rng| host.begin_move(now, service, to, "asked for", rng)).await;
    let begun = begun.ok_or_else(Failure::stopping)?;
    begun.map_err(|reject| Failure::from(reject).of(format!("`{}` does not move", api.names.of(service))))?;
    if !request.wait {
        return Ok(Outcome::Running);
    }
    let ended = |event| match event {
        Event::MovedAway(moved, target) if (moved, target) == (service, to) => Some(Ok(())),
        Event::MoveFailed(moved, target, reason) if (moved, target) == (service, to) => Some(Err(reason)),
        _ => None,
    };
    match wait(&mut events, request.timeout_s, &api.shutdown, ended).await? {
        Some(Ok(())) => Ok(Outcome::Moved),
        Some(Err(reason)) => {
            let error = format!("not moved, it serves on: {}", in_words(&reason));
            Err(Failure::new(StatusCode::CONFLICT, error, "`wayfare trace last` shows how far it came"))
        }
        None => Err(Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("not decided after {} s", request.timeout_s),
            "it goes on: `wayfare migrations` shows how it ends",
        )),
    }
}

async fn set_cordoned(api: &Shared, cordoned: bool) -> Answer<Cordoned> {
    api.ask(move |host, _| host.set_cordoned(cordoned)).await?;
    Ok(Json(Cordoned { cordoned }))
}

pub(super) async fn cordon(State(api): Api) -> Answer<Cordoned> {
    set_cordoned(&api, true).await
}

pub(super) async fn uncordon(State(api): Api) -> Answer<Cordoned> {
    set_cordoned(&api, false).await
}
