//! Owners' orders: passed on to the Registry, and waited for.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
};
use data_encoding::BASE64;
use serde::Deserialize;
use tokio::time::Instant;
use wayfare_protocol::{
    ids::ServiceId,
    limits::ADDRESSES_MAX,
    manifest::Manifest,
    migration::messages::{Found, Lookup, RegistryFrame},
    order::{Action, Order, OrderFrame, Outcome},
    reject::Reject,
    trust::Signed,
    wire::{self, Wire},
};

use super::{
    Api, MANIFEST_HEADER, ORDER_HEADER, Shared,
    act::{TIMEOUT_MAX_S, header},
    error::{Failure, advice},
    shapes::{MoveRequest, OrderProgress, Ordered, Record},
    show::Answer,
};
use crate::{host::modules::module_digest, node::addresses, questions::Told, words::in_words};

/// How often the Registry is asked what became of an order.
const ASK_EVERY: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
pub(super) struct OrderQuery {
    #[serde(default = "default_timeout")]
    timeout_s: u64,
    #[serde(default = "waits")]
    wait: bool,
}

fn default_timeout() -> u64 {
    MoveRequest::default().timeout_s
}

const fn waits() -> bool {
    true
}

impl Shared {
    /// Asks this node's Registry until it answers or the time is up (`None`).
    async fn ask_registry(&self, frame: &RegistryFrame, until: Instant) -> Result<Option<Told>, Failure> {
        loop {
            if self.shutdown.is_cancelled() {
                return Err(Failure::stopping());
            }
            let told = match (&self.parts.host, &self.parts.gateway) {
                (Some(host), _) => host.ask(frame.clone()).await,
                (None, Some(gateway)) => gateway.ask(frame.clone()).await,
                (None, None) => return Err(Failure::stopping()),
            };
            if told.is_some() || Instant::now() >= until {
                return Ok(told);
            }
        }
    }

    /// What the Registry has of the service of this name or id.
    async fn found(&self, name: &str, until: Instant) -> Result<Found, Failure> {
        let unique = bs58_id(name).map(|unique| Lookup::Id(ServiceId { registry: self.parts.registry, unique }));
        for lookup in [Some(Lookup::Name(name.to_owned())), unique].into_iter().flatten() {
            match self.ask_registry(&RegistryFrame::Lookup(lookup), until).await? {
                Some(Told::Found(found)) if found.service.is_some() => return Ok(*found),
                Some(Told::Refused(reason)) => return Err(refused(&reason)),
                Some(Told::Found(_) | Told::Order(_)) => {}
                None => return Err(silent()),
            }
        }
        let error = format!("no service `{name}` is registered");
        Err(Failure::new(StatusCode::NOT_FOUND, error, "`wayfare services` on its node, or the registry, lists them"))
    }
}

fn bs58_id(text: &str) -> Option<[u8; 16]> {
    wayfare_protocol::ids::Nonce::parse(text).map(|id| id.0)
}

fn refused(reason: &str) -> Failure {
    Failure::new(StatusCode::CONFLICT, format!("the registry refuses: {}", in_words(reason)), advice(reason))
}

fn silent() -> Failure {
    Failure::new(
        StatusCode::GATEWAY_TIMEOUT,
        "the registry does not answer",
        "see whether it runs, and whether this node reaches it: the logs of both say",
    )
}

pub(super) async fn record(State(api): Api, Path(name): Path<String>) -> Answer<Record> {
    let until = Instant::now() + Duration::from_secs(default_timeout());
    let found = api.found(&name, until).await?;
    let (placement, manifest) = found.service.ok_or_else(silent)?;
    let (placement, claims) = (placement.unverified()?, manifest.unverified()?);
    Ok(Json(Record {
        name: claims.name,
        id: placement.service.to_string(),
        epoch: placement.epoch.to_string(),
        host: placement.host.to_string(),
        owner: claims.owner.to_string(),
        version: claims.version,
        manifest: BASE64.encode(&wire::encode(&manifest)),
    }))
}

fn signed<T: Wire>(headers: &HeaderMap, name: &str) -> Result<Option<T>, Failure> {
    if headers.contains_key(name) { header(headers, name).map(Some) } else { Ok(None) }
}

pub(super) async fn order(
    State(api): Api,
    Query(OrderQuery { timeout_s, wait }): Query<OrderQuery>,
    headers: HeaderMap,
    module: Bytes,
) -> Answer<Ordered> {
    let order: Signed<Order> = header(&headers, ORDER_HEADER)?;
    let manifest: Option<Signed<Manifest>> = signed(&headers, MANIFEST_HEADER)?;
    let claims = order.unverified()?;
    if claims.service.registry != api.parts.registry {
        return Err(Reject::UnknownRegistry.into());
    }
    let mut addresses = Vec::new();
    if matches!(claims.action, Action::Update { .. }) {
        addresses = keep_module(&api, claims.action, manifest.as_ref(), module).await?;
    }
    let until = Instant::now() + Duration::from_secs(timeout_s.min(TIMEOUT_MAX_S));
    let mut ordered = Ordered {
        service: api.names.of(claims.service),
        id: claims.service.to_string(),
        action: claims.action.name().to_owned(),
        order: order.hash().to_string(),
        outcome: OrderProgress::Running,
    };
    let frame = RegistryFrame::Order(OrderFrame { order, manifest, addresses });
    let mut taken = false;
    loop {
        match api.ask_registry(&frame, until).await? {
            Some(Told::Order(state)) => match state.outcome {
                Some(Outcome::Done) => {
                    ordered.outcome = OrderProgress::Done;
                    return Ok(Json(ordered));
                }
                Some(Outcome::Refused(reason)) => return Err(not_done(&ordered, &reason)),
                None if !wait => return Ok(Json(ordered)),
                None => taken = true,
            },
            Some(Told::Refused(reason)) if reason == Reject::Recovering.name() && Instant::now() < until => {}
            Some(Told::Refused(reason)) => return Err(refused(&reason)),
            Some(Told::Found(_)) | None => {}
        }
        if Instant::now() >= until {
            return Err(if taken { late(&ordered, timeout_s) } else { silent() });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The module of an update stays at this node until the service's host has fetched it.
async fn keep_module(
    api: &Shared,
    action: Action,
    manifest: Option<&Signed<Manifest>>,
    module: Bytes,
) -> Result<Vec<String>, Failure> {
    const USE: &str = "use the `wayfare` of the node's version";
    let manifest = manifest.ok_or_else(|| Failure::bad_request("an update without its manifest", USE))?.unverified()?;
    if module.is_empty() {
        // The code stays: its host has it.
        return Ok(Vec::new());
    }
    let host = api.parts.host.as_ref().ok_or_else(|| {
        let error = "a gateway keeps no modules, and the service's host fetches the module from the node that passes the update on";
        Failure::new(StatusCode::CONFLICT, error, "pass the update on by a cloud or home: --dir")
    })?;
    if module_digest(&module) != manifest.code {
        return Err(Failure::bad_request("the module is not the one that the manifest names", USE));
    }
    if !matches!(action, Action::Update { from, .. } if from == api.parts.certificate.host) {
        return Err(Failure::bad_request("the order names another node than this one as the one with the module", USE));
    }
    let kept = host.keep_module(module.to_vec(), manifest.required.memory_bytes).await;
    kept.map_err(|error| Failure::from(error).of(format!("`{}` is not updated", manifest.name)))?;
    let addresses = addresses(&api.parts.net, &api.parts.advertised);
    Ok(addresses.into_iter().take(ADDRESSES_MAX).collect())
}

fn not_done(ordered: &Ordered, reason: &str) -> Failure {
    let (action, service) = (&ordered.action, &ordered.service);
    let error = format!("{action} of `{service}` is not done, nothing has changed: {}", in_words(reason));
    Failure::new(StatusCode::CONFLICT, error, advice(reason))
}

fn late(ordered: &Ordered, timeout_s: u64) -> Failure {
    let (action, service) = (&ordered.action, &ordered.service);
    let what = if action == Action::Remove.name() {
        "nobody gets it any more; its name is free when its host has deleted it, or its lease has ended"
    } else {
        "the registry goes on telling its host, also when that was away; ask again with the same command, or look at \
         `wayfare-registry placements`"
    };
    let error =
        format!("the registry has taken the {action} of `{service}`, but its host has not done it in {timeout_s} s");
    Failure::new(StatusCode::GATEWAY_TIMEOUT, error, what)
}
