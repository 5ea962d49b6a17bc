//! Every vector: a name, the bytes that the program makes now, and how to read them back.

use wayfare_protocol::{
    advert::Gossip,
    gateway::{
        IdempotencyKey, effect,
        messages::{ClientFrame, client_id, request_hash},
    },
    host::{Entry, Logged, orders::Ordered},
    ids::Digest,
    migration::{messages::*, source::Consented, target::Held},
    order::Outcome,
    registry::audit::{self, Act, Chain, Head},
    reject::Reject,
    suite::Dalek,
    time::Timestamp,
    transfer::{RecordKind, StateFrame},
    trust::Role,
    wire::{self, Frame, Wire},
};

use super::samples::*;

/// How bytes are read: `Ok(true)` if they are the vector's value, `Ok(false)` if they are another one.
type Read = Box<dyn Fn(&[u8]) -> Result<bool, Reject>>;

/// A message on the wire or in a journal.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// Whether the bytes begin with version and kind.
    pub(crate) is_frame: bool,
    pub(crate) read: Read,
    /// What the bytes become when they are read and written again.
    pub(crate) rewrite: fn(&[u8]) -> Result<Vec<u8>, Reject>,
    /// Longest content in bytes.
    pub(crate) bytes_max: usize,
}

fn frame<F: Frame + PartialEq + 'static>(stream: &str, note: &str, value: F) -> Vector {
    let bytes = value.to_bytes();
    let mut name = format!("{stream}/{} {}", bytes[1], value.name());
    if !note.is_empty() {
        name = format!("{name} ({note})");
    }
    Vector {
        name,
        bytes,
        is_frame: true,
        read: Box::new(move |bytes| F::from_bytes(bytes).map(|read| read == value)),
        rewrite: |bytes| F::from_bytes(bytes).map(|read| read.to_bytes()),
        bytes_max: F::BYTES_MAX,
    }
}

fn plain<T: Wire + PartialEq + 'static>(name: &str, value: T) -> Vector {
    Vector {
        name: name.to_owned(),
        bytes: wire::encode(&value),
        is_frame: false,
        read: Box::new(move |bytes| wire::decode::<T>(bytes).map(|read| read == value)),
        rewrite: |bytes| wire::decode::<T>(bytes).map(|read| wire::encode(&read)),
        bytes_max: T::LIMIT,
    }
}

fn registry() -> Vec<Vector> {
    use RegistryFrame as F;
    let frame = |note: &str, value: F| frame("registry", note, value);
    let mut table = vec![
        frame("", F::VerifyCloud(VerifyCloudFrame { request: signed(&verify_cloud()), advert: signed(&advert()) })),
        frame("", F::YesCloud(signed(&yes_cloud()))),
        frame("", F::VerifyService(signed(&verify_service()))),
        frame("", F::YesService(signed(&yes_service()))),
        frame("", F::Complete(complete_frame())),
        frame("", F::Placement(signed(&placement()))),
        frame("", F::Released(signed(&released()))),
        frame("", F::NoService(signed(&no_service()))),
        frame("", F::Register(register_frame())),
        frame("", F::Renew(signed(&renew()))),
        frame("", F::Reclaim(signed(&reclaim()))),
        frame("", F::Cancel(signed(&cancel()))),
        frame("", F::Refused(Refused { about: Digest(count(0x90)), reason: "full".to_owned() })),
        frame("", F::Enrolled(Enrolled { nonce: enrol(Role::Home).nonce, certificate: signed(&certificate()) })),
        frame("by name", F::Lookup(Lookup::Name("kv".to_owned()))),
        frame("by identifier", F::Lookup(Lookup::Id(ids().service))),
        frame("", F::Found(found())),
        frame("nothing", F::Found(Found { lookup: Lookup::Id(ids().service), service: None, addresses: vec![] })),
        frame("", F::Recovering(Recovering { nonce: nonce() })),
        frame("", F::Shown(shown())),
        frame("nothing", F::Shown(shown_nothing())),
    ];
    let names = ["stop", "start", "remove", "update"];
    table.extend(names.into_iter().zip(order_frames()).map(|(name, order)| frame(name, F::Order(order))));
    let refused = || Outcome::Refused("bad_module: no memory".to_owned());
    table.extend([
        frame("done", F::OrderDone(signed(&order_done(Outcome::Done)))),
        frame("refused", F::OrderDone(signed(&order_done(refused())))),
        frame("stands", F::OrderState(order_state(None))),
        frame("done", F::OrderState(order_state(Some(Outcome::Done)))),
        frame("refused", F::OrderState(order_state(Some(refused())))),
        frame("", F::Removed(signed(&tombstone()))),
    ]);
    let reasons = [
        NoReason::NotEnrolled,
        NoReason::Revoked,
        NoReason::BadAdvert,
        NoReason::PolicyForbids,
        NoReason::NoResources,
        NoReason::NotOfRecord,
    ];
    table.extend(reasons.map(|reason| frame(&format!("{reason:?}"), F::NoCloud(signed(&no_cloud(reason))))));
    let roles = [Role::Cloud, Role::Home, Role::Gateway];
    table.extend(roles.map(|role| frame(role.name(), F::Enrol(signed(&enrol(role))))));
    let notes = ["lease", "aborted", "outcome won", "outcome aborted"];
    table.extend(answers().into_iter().zip(notes).map(|(answer, note)| frame(note, F::Granted(granted(answer)))));
    table
}

fn migrate() -> Vec<Vector> {
    use MigrateFrame as F;
    let frame = |note: &str, value: F| frame("migrate", note, value);
    let mig = ids().mig;
    let four = |manifest| RequestFrame { request: signed(&request()), verdict: signed(&yes_cloud()), manifest };
    vec![
        frame("", F::Request(four(signed(&manifest())))),
        frame("plain manifest", F::Request(four(signed(&plain_manifest())))),
        frame("", F::Response(ResponseFrame { response: signed(&response()), verdict: signed(&yes_service()) })),
        frame("registry", F::Transfer(co_signed(&transfer(Mode::Registry)))),
        frame("token", F::Transfer(co_signed(&transfer(Mode::Token)))),
        frame("", F::TransferAck(signed(&transfer_ack()))),
        frame("", F::Refused(MigrateRefused { mig, reason: "cordoned".to_owned() })),
        frame("", F::Abandon(MigrationRef { mig })),
        frame("", F::RecordsAcked(RecordsAcked { mig, next: 64 })),
    ]
}

fn state() -> Vec<Vector> {
    let kinds = [
        RecordKind::Module,
        RecordKind::Page,
        RecordKind::Globals,
        RecordKind::Sessions,
        RecordKind::Log,
        RecordKind::End,
    ];
    let begin = frame("state", "", StateFrame::Begin(MigrationRef { mig: ids().mig }));
    let records = kinds.map(|kind| frame("state", &format!("{kind:?}"), StateFrame::Record(record(kind))));
    std::iter::once(begin).chain(records).collect()
}

fn client() -> Vec<Vector> {
    use ClientFrame as F;
    let frames = [
        F::Hello(hello()),
        F::Open(open()),
        F::Opened(opened()),
        F::Call(call()),
        F::Reply(reply()),
        F::NotExecuted(not_executed()),
        F::Moved(signed(&placement())),
        F::Placement(signed(&placement())),
        F::LatencyReport(latency_report()),
        F::Gone(gone()),
    ];
    frames.into_iter().map(|value| frame("client", "", value)).collect()
}

fn gossip() -> Vec<Vector> {
    vec![
        frame("gossip", "", Gossip::Advert(signed(&advert()))),
        frame("gossip", "", Gossip::Placement(signed(&placement()))),
    ]
}

fn journals() -> Vec<Vector> {
    let (ids, secret) = (ids(), secret());
    let consent = co_signed(&transfer(Mode::Registry));
    let Transfer { new_key, transcript, state, .. } = transfer(Mode::Registry);
    let consented = Consented { consent, new_key, transcript, state, nonce_a: nonce() };
    let held = Held { ack: signed(&transfer_ack()), complete: complete_frame(), state };
    let word = signed(&manifest());
    let (service, epoch) = (ids.service, ids.epoch);
    let ordered = Ordered { sequence: 9, order: Digest([0x33; 32]) };
    let updated =
        Entry::Updated { service, epoch, manifest: signed(&plain_manifest()), ordered, image: Some(9), upto: 7 };
    let (hash, at) = (Digest([0x21; 32]), Timestamp(1_700_000_000_000_000));
    let key = || IdempotencyKey::try_from("8e03978e".to_owned()).unwrap();
    let request = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let logged = Logged {
        client: client_id(ids.host, 5),
        gateway: ids.host,
        sequence: 9,
        hash: request_hash(&request),
        acked_below: 8,
        request,
        inputs: vec![3, 4],
    };
    let placed = Entry::Placed {
        placement: signed(&placement()),
        manifest: signed(&manifest()),
        secret: secret.clone(),
        received: true,
    };
    vec![
        plain("host journal Placed", placed),
        plain("host journal Registering", Entry::Registering { frame: register_frame(), secret: secret.clone() }),
        plain("host journal KeyMade", Entry::KeyMade { ids, secret }),
        plain(
            "host journal Consented",
            Entry::Consented { ids, consented, addresses: vec!["/ip4/192.0.2.7/tcp/4740".to_owned()] },
        ),
        plain("host journal Held", Entry::Held { ids, from: ids.host, held, manifest: word }),
        plain("host journal Released", Entry::Released { ids, placement: signed(&placement()) }),
        plain("host journal Aborted", Entry::Aborted { ids }),
        plain("host journal Dropped", Entry::Dropped { ids }),
        plain("host journal Sealed", Entry::Sealed { service, epoch, by: signed(&placement()) }),
        plain("host journal Started", Entry::Started { service, epoch, inputs: vec![1, 2] }),
        plain("host journal Executed", Entry::Executed { service, epoch, logged }),
        plain("host journal Imaged", Entry::Imaged { service, epoch, upto: 7 }),
        plain("host journal Forgotten", Entry::Forgotten { service, epoch }),
        plain("host journal Departed", Entry::Departed { placement: signed(&placement()) }),
        plain("host journal Finished", Entry::Finished { migs: vec![ids.mig] }),
        plain("host journal Snapshot", Entry::Snapshot(vec![Entry::Dropped { ids }])),
        plain("host journal Ordered", Entry::Ordered { service, epoch, ordered, stopped: true }),
        plain("host journal Removed", Entry::Removed { tombstone: signed(&tombstone()) }),
        plain("host journal Updated", updated),
        plain("gateway journal Incarnation", effect::Entry::Incarnation(5)),
        plain("gateway journal Reserved", effect::Entry::Reserved { service, below: 1024 }),
        plain("gateway journal Seen", effect::Entry::Seen { service, epoch }),
        plain(
            "gateway journal Keyed",
            effect::Entry::Keyed { service, key: key(), hash, sequence: 7, at, request: b"POST /pay".to_vec() },
        ),
        plain(
            "gateway journal Answered",
            effect::Entry::Answered { service, key: key(), hash, response: b"HTTP/1.1 200 OK".to_vec() },
        ),
        plain("gateway journal Unknown", effect::Entry::Unknown { service, key: key(), hash }),
        plain("gateway journal Freed", effect::Entry::Freed { service, key: key() }),
        plain(
            "gateway journal Snapshot",
            effect::Entry::Snapshot { incarnation: 5, services: vec![(service, 1024, Some(epoch))] },
        ),
    ]
}

/// The Registry's audit log.
fn audit() -> Vec<Vector> {
    let block = Chain::new(REGISTRY, Head::NONE)
        .seal::<Dalek>(&secret(), Timestamp(1_800_000_000_000_000), noted())
        .swap_remove(0);
    let entries = block.entries.clone().into_iter();
    let mut table: Vec<Vector> = entries.map(|entry| plain(&format!("audit entry {}", name(&entry)), entry)).collect();
    table.push(plain("audit block", block));
    table
}

fn name(entry: &audit::Entry) -> String {
    let what = match &entry.act {
        Act::CarriedOut { outcome: Outcome::Done, .. } => " (done)",
        Act::Removed { host: None, .. } => " (host unknown)",
        _ => "",
    };
    format!("{}{what}", entry.act.kind())
}

/// All of them, in the order of the file.
pub(crate) fn vectors() -> Vec<Vector> {
    [registry(), migrate(), state(), client(), gossip(), journals(), audit()].into_iter().flatten().collect()
}
