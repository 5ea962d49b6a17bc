//! That the tables forget nothing: no field, no frame, no rejection.

use serde::de::DeserializeOwned;
use wayfare_protocol::{
    advert::Gossip,
    gateway::messages::ClientFrame,
    migration::messages::{MigrateFrame, RegistryFrame},
    reject::Reject,
    transfer::StateFrame,
    wire::{Frame, VERSION},
};
use wayfare_tests::{alter::Table, fields::fields_of};

/// One message at one receiver, and the fields that its table alters.
pub(crate) struct Covered {
    message: &'static str,
    receiver: &'static str,
    expected: Vec<String>,
    altered: Vec<String>,
}

/// What `table` covers at `receiver`.
pub(crate) fn covers<T: DeserializeOwned + 'static>(receiver: &'static str, table: &Table<T>) -> Covered {
    let message = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
    Covered { message, receiver, expected: fields_of::<T>(), altered: table.fields() }
}

fn all() -> Vec<Covered> {
    [
        crate::registry::covered(),
        crate::target::covered(),
        crate::source::covered(),
        crate::clients::covered(),
        crate::gateway::covered(),
        crate::mesh::covered(),
        crate::joining::covered(),
        crate::recovery::covered(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_field_of_every_message_is_altered() {
    let mut missing = Vec::new();
    for Covered { message, receiver, expected, altered } in all() {
        let forgotten = expected.iter().filter(|field| !altered.contains(field));
        missing.extend(forgotten.map(|field| format!("{message}.{field} at {receiver}: no row")));
        let unknown = altered.iter().filter(|field| !expected.contains(field));
        missing.extend(unknown.map(|field| format!("{message}.{field} at {receiver}: no such field")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What every kind of frame carries: each has a table.
const FRAMES: &[(&str, u8, &[&str])] = &[
    ("registry", 2, &["VerifyCloudFrame", "VerifyCloud", "Advert", "Certificate"]),
    ("registry", 3, &["YesCloud"]),
    ("registry", 5, &["VerifyService"]),
    ("registry", 6, &["YesService"]),
    ("registry", 10, &["CompleteFrame", "TransferComplete", "Transfer"]),
    ("registry", 11, &["Placement"]),
    ("registry", 12, &["Released"]),
    ("registry", 33, &["NoCloud"]),
    ("registry", 36, &["NoService"]),
    ("registry", 40, &["RegisterFrame", "Register", "Manifest"]),
    ("registry", 41, &["Renew"]),
    ("registry", 42, &["Reclaim"]),
    ("registry", 43, &["Cancel"]),
    ("registry", 44, &["Granted", "Lease", "Aborted", "Outcome"]),
    ("registry", 45, &["Refused"]),
    ("registry", 46, &["Enrol"]),
    ("registry", 47, &["Enrolled"]),
    ("registry", 48, &["Lookup"]),
    ("registry", 49, &["Found"]),
    ("registry", 53, &["Recovering"]),
    ("registry", 54, &["ShownFrame", "Shown"]),
    ("registry", 55, &["OrderFrame", "Order"]),
    ("registry", 56, &["OrderDone"]),
    ("registry", 57, &["OrderState"]),
    ("registry", 58, &["Tombstone"]),
    ("migrate", 4, &["RequestFrame", "Request"]),
    ("migrate", 7, &["ResponseFrame", "Response"]),
    ("migrate", 8, &["Transfer"]),
    ("migrate", 9, &["TransferAck"]),
    ("migrate", 50, &["MigrateRefused"]),
    ("migrate", 51, &["MigrationRef"]),
    ("migrate", 52, &["RecordsAcked"]),
    ("state", 70, &["MigrationRef"]),
    ("state", 71, &["SealedRecord"]),
    ("client", 60, &["Hello"]),
    ("client", 61, &["Open"]),
    ("client", 62, &["Opened"]),
    ("client", 63, &["Call"]),
    ("client", 64, &["Reply"]),
    ("client", 65, &["NotExecuted"]),
    ("client", 66, &["Placement"]),
    ("client", 67, &["Placement"]),
    ("client", 68, &["LatencyReport"]),
    ("client", 69, &["Gone"]),
    ("gossip", 1, &["Advert"]),
    ("gossip", 11, &["Placement"]),
];

/// Which kinds a stream knows.
fn kinds<F: Frame>(stream: &'static str) -> impl Iterator<Item = (&'static str, u8)> {
    let known = |kind: &u8| F::from_bytes(&[VERSION, *kind]).err() != Some(Reject::UnknownMessage);
    (0..=u8::MAX).filter(known).map(move |kind| (stream, kind))
}

#[test]
fn every_kind_of_frame_has_its_tables() {
    let known: Vec<_> = kinds::<RegistryFrame>("registry")
        .chain(kinds::<MigrateFrame>("migrate"))
        .chain(kinds::<StateFrame>("state"))
        .chain(kinds::<ClientFrame>("client"))
        .chain(kinds::<Gossip>("gossip"))
        .collect();
    let listed: Vec<_> = FRAMES.iter().map(|(stream, kind, _)| (*stream, *kind)).collect();
    assert_eq!(known, listed);
    let tables = all();
    for (stream, kind, messages) in FRAMES {
        for message in *messages {
            assert!(tables.iter().any(|table| table.message == *message), "{stream}/{kind}: no table for {message}");
        }
    }
}

/// Rejections that no attack here provokes, and where they are provoked instead.
const ELSEWHERE: &[(Reject, &str)] = &[
    (Reject::Full, "needs as many sessions, services or adverts as a table holds: tests of the machines"),
    (Reject::TooOften, "needs more adverts than an honest cloud sends in ten seconds: tests of the machines"),
    (Reject::Stopped, "needs a client of a service that is stopped: tests of the host, and of processes"),
    (Reject::Broken, "needs an instance that cannot run: tests of the host"),
];

/// The tables and shots, as text.
const SOURCES: &[&str] = &[
    include_str!("clients.rs"),
    include_str!("gateway.rs"),
    include_str!("joining.rs"),
    include_str!("mesh.rs"),
    include_str!("recovery.rs"),
    include_str!("registry/decisions.rs"),
    include_str!("registry/membership.rs"),
    include_str!("registry/mod.rs"),
    include_str!("registry/orders.rs"),
    include_str!("registry/restored.rs"),
    include_str!("registry/verdicts.rs"),
    include_str!("source/decisions.rs"),
    include_str!("source/leases.rs"),
    include_str!("source/offers.rs"),
    include_str!("target/offer.rs"),
    include_str!("target/records.rs"),
    include_str!("target/verdicts.rs"),
    include_str!("../../src/alter.rs"),
    include_str!("../../src/shot.rs"),
];

#[test]
fn every_rejection_is_provoked() {
    let mentioned = |reject: &Reject| {
        let name = format!("Reject::{reject:?}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
        SOURCES.iter().any(|text| text.match_indices(&name).any(|(at, _)| ends(&text[at + name.len()..])))
    };
    let elsewhere = |reject: &Reject| ELSEWHERE.iter().any(|(other, _)| other == reject);
    let forgotten: Vec<_> = Reject::ALL.iter().filter(|reject| !mentioned(reject) && !elsewhere(reject)).collect();
    assert!(forgotten.is_empty(), "no row provokes {forgotten:?}");
    let provoked: Vec<_> = ELSEWHERE.iter().filter(|(reject, _)| mentioned(reject)).collect();
    assert!(provoked.is_empty(), "provoked here after all: {provoked:?}");
}
