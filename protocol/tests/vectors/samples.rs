//! One value of every message, frame and journal entry, and of every variant within them. All are fixed, none is
//! meant to make sense.

use wayfare_protocol::{
    advert::Advert,
    gateway::messages::{Call, Gone, Hello, LatencyReport, NotExecuted, Open, Opened, Reply},
    ids::{
        ClientId, CloudId, Digest, Epoch, HostId, MigrationId, MigrationIds, Nonce, OwnerKey, PlacementKey, RegistryId,
        ServiceId,
    },
    latency::Coordinate,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy},
    migration::messages::*,
    order::{Action, Order, OrderDone, OrderFrame, OrderState, Outcome as OrderOutcome, Tombstone},
    registry::{
        AbortCause,
        audit::{Act, Cause, Head, Noted, Placed},
    },
    suite::{Dalek, Secret},
    time::{Micros, Timestamp},
    transfer::{RecordKind, SealedRecord},
    trust::{Certificate, CoSigned, Message, Receiver, Role, Signed},
};

/// `N` bytes that count up from `first`, so that a swap of two fields or of two bytes shows.
pub(crate) fn count<const N: usize>(first: u8) -> [u8; N] {
    let mut next = first;
    [(); N].map(|()| {
        next = next.wrapping_add(1);
        next
    })
}

pub(crate) const REGISTRY: RegistryId = RegistryId([0xa1; 32]);
const TIME: Timestamp = Timestamp(1_800_000_000_123_456);

pub(crate) fn secret() -> Secret {
    Secret::new(count(0x30))
}

pub(crate) fn signed<T: Message>(message: &T) -> Signed<T> {
    Signed::sign::<Dalek>(&secret(), REGISTRY, Receiver::Host(HostId([0xb2; 32])), message)
}

pub(crate) fn co_signed<T: Message>(message: &T) -> CoSigned<T> {
    let host = Secret::new(count(0x60));
    CoSigned::sign::<Dalek>(&secret(), &host, REGISTRY, Receiver::Registry(REGISTRY), message)
}

pub(crate) fn ids() -> MigrationIds {
    MigrationIds {
        service: ServiceId { registry: REGISTRY, unique: count(0x10) },
        cloud: CloudId(count(0x20)),
        host: HostId(count(0x40)),
        mig: MigrationId(count(0x50)),
        epoch: Epoch { era: 0x0102_0304_0506_0708, hop: 0x090a_0b0c },
    }
}

fn key() -> PlacementKey {
    PlacementKey(count(0x70))
}

pub(crate) fn nonce() -> Nonce {
    Nonce(count(0x80))
}

fn hash() -> Digest {
    Digest(count(0x90))
}

fn resources() -> Resources {
    Resources { cpu_millicores: 1500, memory_bytes: 1 << 33, storage_bytes: 3, bandwidth_bps: u64::MAX }
}

pub(crate) fn certificate() -> Certificate {
    Certificate {
        cloud: CloudId(count(0x20)),
        name: "fjørd".to_owned(),
        host: HostId(count(0x40)),
        role: Role::Cloud,
        region: "eu-north".to_owned(),
        not_before: Timestamp(1),
        expiry: TIME,
    }
}

pub(crate) fn manifest() -> Manifest {
    Manifest {
        service: ids().service,
        name: "kv".to_owned(),
        owner: OwnerKey(count(0xc0)),
        version: 7,
        code: hash(),
        tos: ServiceType::Request,
        required: resources(),
        max_rtt: Micros(50_000),
        baseline: Some(Digest(count(0xd0))),
        allowed_clouds: vec![CloudId(count(1)), CloudId(count(2))],
        allowed_regions: vec!["eu".to_owned(), String::new()],
        allowed_domains: vec!["d".to_owned()],
        durability: Durability::Log,
        token_policy: TokenPolicy::Strict,
    }
}

/// The other variants of what [`manifest`] holds.
pub(crate) fn plain_manifest() -> Manifest {
    Manifest {
        baseline: None,
        allowed_clouds: vec![],
        allowed_regions: vec![],
        allowed_domains: vec![],
        durability: Durability::Memory,
        token_policy: TokenPolicy::Refuse,
        tos: ServiceType::Cloud,
        ..manifest()
    }
}

pub(crate) fn advert() -> Advert {
    Advert {
        registry: REGISTRY,
        cloud: CloudId(count(0x20)),
        host: HostId(count(0x40)),
        tos: ServiceType::Cloud,
        resources: resources(),
        cordoned: true,
        price_micros: 42,
        addresses: vec!["/ip4/192.0.2.1/tcp/4740".to_owned(), "/dns/c.example/tcp/1".to_owned()],
        coordinate: Coordinate::default(),
        certificate: signed(&certificate()),
        serial: 9,
        expiry: TIME,
    }
}

pub(crate) fn verify_cloud() -> VerifyCloud {
    let MigrationIds { service, cloud, host, epoch, .. } = ids();
    VerifyCloud { service, epoch, key: key(), cloud, host, advert: hash(), counter: 3, nonce: nonce() }
}

pub(crate) fn yes_cloud() -> YesCloud {
    YesCloud { request: verify_cloud(), resources: resources(), manifest: hash(), mig: ids().mig, expiry: TIME }
}

pub(crate) fn no_cloud(reason: NoReason) -> NoCloud {
    NoCloud { request: verify_cloud(), reason }
}

pub(crate) fn request() -> Request {
    Request {
        ids: ids(),
        key: key(),
        tos: ServiceType::Request,
        nonce: nonce(),
        share: count(0xe0),
        verdict: hash(),
        asked: TIME,
        required: resources(),
        manifest: hash(),
        suites: vec![SuiteId::X25519ChaCha20Poly1305],
    }
}

pub(crate) fn verify_service() -> VerifyService {
    VerifyService { ids: ids(), key: key(), nonce: nonce(), request: hash(), new_key: PlacementKey(count(0x71)) }
}

pub(crate) fn yes_service() -> YesService {
    YesService { request: verify_service(), manifest: hash(), tos: ServiceType::Request, expiry: TIME }
}

pub(crate) fn no_service() -> NoService {
    NoService { request: verify_service(), reason: NoReason::Revoked }
}

pub(crate) fn response() -> Response {
    Response {
        ids: ids(),
        tos: ServiceType::Cloud,
        nonce_a: nonce(),
        nonce_b: Nonce(count(0x81)),
        share_a: count(0xe0),
        share_b: count(0xe1),
        request: hash(),
        new_key: key(),
        suite: SuiteId::X25519ChaCha20Poly1305,
        answered: TIME,
        granted: resources(),
        needs_module: true,
    }
}

pub(crate) fn transfer(mode: Mode) -> Transfer {
    Transfer { ids: ids(), new_key: key(), transcript: hash(), nonce_b: nonce(), state: Digest(count(0x91)), mode }
}

pub(crate) fn transfer_ack() -> TransferAck {
    TransferAck {
        ids: ids(),
        transcript: hash(),
        nonce_a: nonce(),
        state: Digest(count(0x91)),
        consent: Digest(count(0x92)),
        completed: TIME,
    }
}

pub(crate) fn transfer_complete() -> TransferComplete {
    TransferComplete {
        ids: ids(),
        tos: ServiceType::Request,
        new_key: key(),
        transcript: hash(),
        state: Digest(count(0x91)),
        consent: Digest(count(0x92)),
        asked: TIME,
        answered: Timestamp(TIME.0 + 1),
        completed: Timestamp(TIME.0 + 2),
    }
}

pub(crate) fn complete_frame() -> CompleteFrame {
    CompleteFrame { complete: co_signed(&transfer_complete()), consent: co_signed(&transfer(Mode::Registry)) }
}

pub(crate) fn placement() -> Placement {
    let MigrationIds { service, cloud, host, mig, epoch } = ids();
    Placement {
        service,
        epoch,
        cloud,
        host,
        key: key(),
        mig,
        previous: HostId(count(0x41)),
        manifest: hash(),
        issued: TIME,
        lease: Micros(30_000_000),
    }
}

pub(crate) fn released() -> Released {
    Released { ids: ids(), response: Micros(1), transfer: Micros(u64::MAX) }
}

pub(crate) fn register() -> Register {
    Register { service: ids().service, manifest: hash(), key: key(), host: ids().host, nonce: nonce() }
}

pub(crate) fn register_frame() -> RegisterFrame {
    let addresses = vec!["/dns/home.example/tcp/1".to_owned()];
    RegisterFrame { register: signed(&register()), manifest: signed(&manifest()), addresses }
}

pub(crate) fn enrol(role: Role) -> Enrol {
    Enrol { host: ids().host, role, region: "eu-north".to_owned(), token: hash(), nonce: nonce() }
}

pub(crate) fn renew() -> Renew {
    Renew { ids: ids(), nonce: nonce() }
}

pub(crate) fn reclaim() -> Reclaim {
    Reclaim { ids: ids(), nonce: nonce() }
}

pub(crate) fn cancel() -> Cancel {
    Cancel { ids: ids(), nonce: nonce() }
}

pub(crate) fn granted(answer: Answer) -> Granted {
    Granted { answer, placement: signed(&placement()) }
}

pub(crate) fn answers() -> Vec<Answer> {
    let (answers, placement) = (hash(), Digest(count(0x93)));
    vec![
        Answer::Lease(signed(&Lease { answers, placement })),
        Answer::Aborted(signed(&Aborted { ids: ids(), answers, placement })),
        Answer::Outcome(signed(&Outcome { ids: ids(), answers, decision: Decision::Won, placement })),
        Answer::Outcome(signed(&Outcome { ids: ids(), answers, decision: Decision::Aborted, placement })),
    ]
}

pub(crate) fn found() -> Found {
    Found {
        lookup: Lookup::Name("kv".to_owned()),
        service: Some((signed(&placement()), signed(&manifest()))),
        addresses: vec!["/ip4/192.0.2.1/tcp/4740".to_owned()],
    }
}

pub(crate) fn shown() -> ShownFrame {
    let shown = Shown {
        nonce: nonce(),
        part: 1,
        parts: 3,
        stays: vec![
            ShownStay { placement: signed(&placement()), consent: Some(ids()) },
            ShownStay { placement: signed(&placement()), consent: None },
        ],
        held: vec![ids()],
        elsewhere: vec![signed(&placement())],
    };
    ShownFrame {
        shown: signed(&shown),
        certificate: signed(&certificate()),
        manifests: vec![signed(&plain_manifest())],
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".to_owned()],
    }
}

pub(crate) fn shown_nothing() -> ShownFrame {
    let shown = Shown { nonce: nonce(), part: 0, parts: 1, stays: vec![], held: vec![], elsewhere: vec![] };
    ShownFrame { shown: signed(&shown), certificate: signed(&certificate()), manifests: vec![], addresses: vec![] }
}

pub(crate) fn order(action: Action) -> Order {
    Order { service: ids().service, action, sequence: 0x0102_0304, expiry: Timestamp(0x0506_0708) }
}

pub(crate) fn order_frames() -> Vec<OrderFrame> {
    let update = Action::Update { manifest: hash(), keep: true, from: ids().host };
    let frame = |action| OrderFrame { order: signed(&order(action)), manifest: None, addresses: vec![] };
    let addresses = vec!["/ip4/192.0.2.1/tcp/4001".to_owned()];
    vec![
        frame(Action::Stop),
        frame(Action::Start),
        frame(Action::Remove),
        OrderFrame { order: signed(&order(update)), manifest: Some(signed(&plain_manifest())), addresses },
    ]
}

pub(crate) fn order_done(outcome: OrderOutcome) -> OrderDone {
    OrderDone { ids: ids(), order: hash(), outcome }
}

pub(crate) fn order_state(outcome: Option<OrderOutcome>) -> OrderState {
    OrderState { order: hash(), outcome }
}

pub(crate) fn tombstone() -> Tombstone {
    Tombstone { service: ids().service, epoch: ids().epoch, version: 7, order: hash(), at: Timestamp(0x0102_0304) }
}

pub(crate) fn record(kind: RecordKind) -> SealedRecord {
    SealedRecord { number: 0x0102, kind, sealed: count::<24>(0xf0).to_vec() }
}

pub(crate) fn hello() -> Hello {
    Hello { certificate: signed(&certificate()), incarnation: 5 }
}

fn client() -> ClientId {
    ClientId(count(0x11))
}

pub(crate) fn open() -> Open {
    Open { service: ids().service, client: client() }
}

pub(crate) fn opened() -> Opened {
    Opened { service: ids().service, client: client() }
}

pub(crate) fn call() -> Call {
    Call {
        service: ids().service,
        client: client(),
        sequence: 8,
        hash: hash(),
        acked_below: 6,
        request: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    }
}

pub(crate) fn reply() -> Reply {
    let response = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    Reply { service: ids().service, client: client(), sequence: 8, response }
}

pub(crate) fn not_executed() -> NotExecuted {
    NotExecuted { service: ids().service, client: client(), sequence: 8, reason: "full".to_owned() }
}

pub(crate) fn latency_report() -> LatencyReport {
    let entries = vec![(ids().host, Micros(1), Micros(2)), (HostId(count(0x42)), Micros(3), Micros(4))];
    LatencyReport { service: ids().service, client: client(), entries, acked_below: 11 }
}

pub(crate) fn gone() -> Gone {
    Gone { service: ids().service }
}

/// Every kind of entry of the audit log.
pub(crate) fn noted() -> Vec<Noted> {
    let ids = ids();
    let MigrationIds { service, host, mig, epoch, .. } = ids;
    let (by, name, reason) = (HostId(count(0x80)), "fjord".to_owned(), NoReason::Revoked);
    let placed = Placed { service, epoch, mig, host, previous: by };
    let (stop, records) = ("stop".to_owned(), Head { sequence: 7, hash: hash() });
    let acts = vec![
        Act::Begun { key: host },
        Act::Started { version: "0.1.0".to_owned() },
        Act::Continued { cause: Cause::RecordsOld, records },
        Act::TokenCreated { name: name.clone(), role: Role::Gateway },
        Act::Enrolled { host, name: name.clone(), role: Role::Cloud },
        Act::HostRevoked { host },
        Act::CloudRevoked { name: name.clone() },
        Act::Registered { service, name, host },
        Act::CloudAllowed { ids, source: by },
        Act::CloudDenied { service, epoch, host, by, reason },
        Act::ServiceAllowed { ids },
        Act::ServiceDenied { ids, by, reason },
        Act::Placed(placed),
        Act::Aborted { ids, cause: AbortCause::Removed },
        Act::Released { ids },
        Act::Adopted(placed),
        Act::Resumed { service, epoch, host },
        Act::WindowOver { services: 3, waiting: 2 },
        Act::Contradicted { shown: placed, by },
        Act::Ordered { service, action: stop.clone(), by },
        Act::CarriedOut { service, action: stop.clone(), outcome: OrderOutcome::Done },
        Act::CarriedOut { service, action: stop, outcome: OrderOutcome::Refused("no_resources".to_owned()) },
        Act::Removed { service, host: Some(host) },
        Act::Removed { service, host: None },
    ];
    (0..).zip(acts).map(|(n, act)| Noted { at: Timestamp(TIME.0 + n), act }).collect()
}
