//! `stop`, `start`, `remove`: orders are made and signed here, so the owner's key never leaves the owner.

use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use hyper::Method;
use wayfare_protocol::{
    ids::OwnerKey,
    manifest::Manifest,
    order::{Action, Order},
    suite::{Dalek, Secret, Suite},
    time::Micros,
    trust::{Receiver, Signed},
    wire,
};

use super::{Context, Failure, args};
use crate::{
    api::{
        MANIFEST_HEADER, ORDER_HEADER,
        shapes::{OrderProgress, Ordered, Record},
    },
    clock::now,
    state::{self, StateError},
};

/// How long the registry takes an order: long enough for one that recovers from a backup, short enough that nobody finds it
/// of use later.
const LIFETIME: Micros = Micros::from_secs(600);

pub(super) async fn stop(context: &Context, args: args::Stop) -> Result<(), Failure> {
    give(context, &args.give, Action::Stop).await
}

pub(super) async fn start(context: &Context, args: args::Start) -> Result<(), Failure> {
    give(context, &args.give, Action::Start).await
}

pub(super) async fn remove(context: &Context, args: args::Remove) -> Result<(), Failure> {
    give(context, &args.give, Action::Remove).await
}

async fn give(context: &Context, args: &args::Give, action: Action) -> Result<(), Failure> {
    let (record, manifest) = record(context, &args.service).await?;
    let secret = owner_key(context, args.owner_key.as_deref(), &record)?;
    let ordered = send(context, &secret, &manifest, action, None, Bytes::new(), (args.timeout, !args.no_wait)).await?;
    context.print(&ordered, |ordered| said(ordered, action))
}

pub(super) fn said(ordered: &Ordered, action: Action) -> String {
    let name = &ordered.service;
    let text = match (ordered.outcome, action) {
        (OrderProgress::Running, _) => return format!("the registry has taken the {} of `{name}`\n", action.name()),
        (OrderProgress::Done, Action::Stop) => "is stopped: it keeps its state and its place, and executes nothing",
        (OrderProgress::Done, Action::Start) => "is started",
        (OrderProgress::Done, Action::Remove) => "is removed, and its name is free",
        (OrderProgress::Done, Action::Update { .. }) => "is updated: what it answers from now on is the new version's",
    };
    format!("`{name}` {text}\n")
}

/// What the registry has of a service.
pub(super) async fn record(context: &Context, service: &str) -> Result<(Record, Manifest), Failure> {
    let record: Record = context.client().get(&["records", service], "").await?;
    let garbled = || Failure::other("the registry's record is not understood: use the `wayfare` of the node's version");
    let bytes = BASE64.decode(record.manifest.as_bytes()).map_err(|_| garbled())?;
    let signed: Signed<Manifest> = wire::decode(&bytes).map_err(|_| garbled())?;
    let manifest = signed.unverified().map_err(|_| garbled())?;
    Ok((record, manifest))
}

/// The key that was named, or the directory's own: it must be the owner's.
pub(super) fn owner_key(context: &Context, named: Option<&Path>, record: &Record) -> Result<Secret, Failure> {
    let own = context.dir.owner_key_file();
    let path = named.unwrap_or(&own);
    let (name, owner) = (&record.name, &record.owner);
    let wanted =
        "name the owner's key file with --owner-key (it is owner.key in the directory of the node that deployed it)";
    let secret = match state::read_key(path) {
        Err(StateError::Missing { .. }) => {
            let error = format!("{} is missing, and only the owner of `{name}` may do that: {wanted}", path.display());
            return Err(Failure::setup(error));
        }
        other => other?,
    };
    let found = OwnerKey(Dalek::public_key(&secret)).to_string();
    if found != *owner {
        let error = format!("the key in {} is {found}, and the owner of `{name}` is {owner}: {wanted}", path.display());
        return Err(Failure::setup(error));
    }
    Ok(secret)
}

/// Signs an order and hands it to the node.
pub(super) async fn send(
    context: &Context,
    secret: &Secret,
    manifest: &Manifest,
    action: Action,
    successor: Option<&Signed<Manifest>>,
    module: Bytes,
    (timeout, wait): (u64, bool),
) -> Result<Ordered, Failure> {
    let (service, wall) = (manifest.service, now().wall);
    let order = Order { service, action, sequence: wall.0, expiry: wall + LIFETIME };
    let receiver = Receiver::Registry(service.registry);
    let signed = Signed::sign::<Dalek>(secret, service.registry, receiver, &order);
    let order = BASE64.encode(&wire::encode(&signed));
    let successor = successor.map(|signed| BASE64.encode(&wire::encode(signed)));
    let mut headers = vec![(ORDER_HEADER, order.as_str()), ("content-type", "application/wasm")];
    headers.extend(successor.as_deref().map(|text| (MANIFEST_HEADER, text)));
    let query = format!("timeout_s={timeout}&wait={wait}");
    let mut ordered: Ordered = context.client().call(Method::POST, &["orders"], &query, &headers, module).await?;
    ordered.service.clone_from(&manifest.name);
    Ok(ordered)
}
