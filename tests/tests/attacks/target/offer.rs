//! 4, and what comes with it: 3 and the manifest.

use wayfare_net::Protocol;
use wayfare_protocol::{
    ids::{CloudId, Digest, MigrationId},
    limits::{HALF_OPEN_PER_PEER_MAX, POLICY_ENTRIES_MAX, SUITES_MAX, TEXT_BYTES_MAX},
    manifest::{Durability, Manifest, TokenPolicy},
    migration::messages::*,
    reject::Reject,
    suite::fresh16,
    time::Timestamp,
    trust::{Receiver, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table, ids, service, too_little,
    },
    hand::{CAPACITY, claim, entropy, nonce},
    puppet::source::Attempt,
    rows,
    shot::{Altered as _, Shot, misshapen, oversized},
};

use super::Bench;
use crate::coverage::{Covered, covers};

fn request() -> Table<Request> {
    rows!(Request {
        key => Reject::WrongPlacementKey;
        tos => Reject::WrongTos;
        nonce => Free("the source's own");
        share => Free("the source's own; an all-zero one has an attempt of its own");
        verdict => Reject::WrongHash;
        asked = |at| *at = Timestamp(u64::MAX / 2) => Reject::NotYetValid;
        required.cpu_millicores => Reject::BadResources;
        required.memory_bytes => Reject::BadResources;
        required.storage_bytes => Reject::BadResources;
        required.bandwidth_bps => Reject::BadResources;
        manifest => Reject::WrongManifest;
        suites = Vec::clear => Reject::WrongSuite;
        suites = |suites| *suites = vec![SuiteId::X25519ChaCha20Poly1305; SUITES_MAX + 1] => Reject::WrongSuite;
    })
    .nest("ids", |request| &mut request.ids, ids())
    // It says in whose realm to verify.
    .but("ids.service.registry", Reject::UnknownRegistry)
    .raw("ids.service.registry", Reject::UnknownRegistry)
}

const SOURCES: Expect = Free("what the source asked: it has compared it");

/// 3, altered by the Registry itself, with a 4 that names what it became.
fn yes_cloud() -> Table<YesCloud> {
    rows!(YesCloud {
        request.epoch.era => Reject::WrongEpoch;
        request.epoch.hop => Reject::WrongEpoch;
        request.key => Reject::BadSignature;
        request.cloud => Reject::WrongCloud;
        request.host => Reject::WrongCloud;
        request.advert => Reject::UnknownAdvert;
        request.counter => SOURCES;
        request.nonce => SOURCES;
        manifest => Reject::WrongManifest;
        mig => Reject::WrongMigration;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::Expired;
    })
    .nest("request.service", |yes| &mut yes.request.service, service(Reject::WrongService))
    .nest("resources", |yes| &mut yes.resources, too_little(Reject::NoResources))
}

/// The manifest, altered by the owner, while the Registry's verdict names another.
fn manifest() -> Table<Manifest> {
    const OTHER: Reject = Reject::WrongManifest;
    rows!(Manifest {
        name => Reject::WrongService;
        name = |name| *name = "x".repeat(TEXT_BYTES_MAX + 1) => Reject::FieldTooLong;
        owner => Reject::BadSignature;
        version => OTHER;
        code => OTHER;
        tos => OTHER;
        required.cpu_millicores => OTHER;
        required.memory_bytes => OTHER;
        required.storage_bytes => OTHER;
        required.bandwidth_bps => OTHER;
        max_rtt => OTHER;
        baseline => OTHER;
        allowed_clouds = |clouds| clouds.push(CloudId([1; 16])) => OTHER;
        allowed_clouds = |clouds| *clouds = vec![CloudId([1; 16]); POLICY_ENTRIES_MAX + 1] => Reject::FieldTooLong;
        allowed_regions = |regions| regions.push("elsewhere".to_owned()) => OTHER;
        allowed_regions = |regions| regions.push("x".repeat(TEXT_BYTES_MAX + 1)) => Reject::FieldTooLong;
        allowed_domains = |domains| domains.push("elsewhere".to_owned()) => OTHER;
        allowed_domains = |domains| *domains = vec![String::new(); POLICY_ENTRIES_MAX + 1] => Reject::FieldTooLong;
        durability = |durability| *durability = Durability::Log => OTHER;
        token_policy = |policy| *policy = TokenPolicy::Allow => OTHER;
    })
    .nest("service", |manifest| &mut manifest.service, service(Reject::WrongService))
}

pub(crate) fn covered() -> Vec<Covered> {
    const SIGNED: Expect = Free("a table of its own");
    let frame = rows!(RequestFrame {
        request = |_| () => SIGNED;
        verdict = |_| () => SIGNED;
        manifest = |_| () => SIGNED;
    });
    let to = "target";
    vec![covers(to, &request()), covers(to, &yes_cloud()), covers(to, &manifest()), covers(to, &frame)]
}

/// 4 with a verdict and a manifest that may be others than A was given; 4 names them.
fn four(bench: &Bench, attempt: &Attempt, verdict: Signed<YesCloud>, manifest: Signed<Manifest>) -> RequestFrame {
    let request = Request { verdict: verdict.hash(), ..claim(&attempt.four.request) };
    RequestFrame { request: bench.to_cloud().sign(&request), verdict, manifest }
}

fn bytes(frame: RequestFrame) -> Vec<u8> {
    MigrateFrame::Request(frame).to_bytes()
}

/// All of it, before an honest 4.
pub(crate) async fn offers(bench: &mut Bench) {
    let attempt = bench.attempt().await;
    let honest = attempt.four.clone();
    let base = claim(&honest.request);
    let wrap = |request| bytes(RequestFrame { request, ..honest.clone() });
    let mut shots = bench.to_cloud().shots(&request(), || base.clone(), wrap, Reject::BadSignature);

    let realm = bench.authority.realm().clone();
    let says = realm.says(Receiver::Host(bench.source.peer.host));
    let yes = claim(&honest.verdict);
    let wrap = |verdict| bytes(four(bench, &attempt, verdict, honest.manifest.clone()));
    shots.extend(says.shots(&yes_cloud(), || yes.clone(), wrap, Reject::BadSignature));
    let to_another = realm.says(Receiver::Host(bench.delta.host)).sign(&yes);
    shots.push(Shot::new("3 that was given to another source", wrap(to_another), Reject::BadSignature));

    let owner = realm.signer(&bench.source.service.owner, Receiver::Anyone);
    let word = bench.source.service.manifest.clone();
    let wrap = |manifest| bytes(four(bench, &attempt, honest.verdict.clone(), manifest));
    shots.extend(owner.shots(&manifest(), || word.clone(), wrap, Reject::BadSignature));
    shots.extend(misshapen(&MigrateFrame::Request(honest.clone()), RequestFrame::LIMIT));
    shots.push(oversized(&MigrateFrame::Request(honest.clone())));
    shots.extend(forbidden(bench, &attempt));
    bench.fire(shots).await;
    // 3 proves nothing of another's stream.
    let stolen = Shot::new("4 over another's stream", bytes(honest.clone()), Reject::BadSignature);
    bench.fire_from_delta(vec![stolen]).await;
    out_of_order(bench, &attempt).await;
    cordoned(bench, &attempt).await;
    half_open(bench, &attempt).await;
}

/// What the Registry allows by mistake, the owner or the machine does not.
fn forbidden(bench: &Bench, attempt: &Attempt) -> Vec<Shot> {
    let realm = bench.authority.realm();
    let says = realm.says(Receiver::Host(bench.source.peer.host));
    let owner = realm.signer(&bench.source.service.owner, Receiver::Anyone);
    let with = |name: &str, edit: &dyn Fn(&mut Manifest), reject| {
        let mut word = bench.source.service.manifest.clone();
        edit(&mut word);
        let manifest = owner.sign(&word);
        let mut yes = YesCloud { manifest: manifest.hash(), ..claim(&attempt.four.verdict) };
        yes.resources.memory_bytes = u64::MAX;
        let verdict = says.sign(&yes);
        let request = Request {
            verdict: verdict.hash(),
            manifest: manifest.hash(),
            required: word.required,
            ..claim(&attempt.four.request)
        };
        let request = bench.to_cloud().sign(&request);
        Shot::new(name, bytes(RequestFrame { request, verdict, manifest }), reject)
    };
    let elsewhere = |word: &mut Manifest| word.allowed_clouds = vec![CloudId([1; 16])];
    let abroad = |word: &mut Manifest| word.allowed_regions = vec!["elsewhere".to_owned()];
    let huge = |word: &mut Manifest| word.required.memory_bytes = CAPACITY.memory_bytes + 1;
    vec![
        with("4 that the owner forbids by cloud", &elsewhere, Reject::PolicyForbids),
        with("4 that the owner forbids by region", &abroad, Reject::PolicyForbids),
        with("4 for more than the cloud has", &huge, Reject::NoResources),
    ]
}

/// What belongs to later steps.
async fn out_of_order(bench: &mut Bench, attempt: &Attempt) {
    let mig = Bench::ids(attempt).mig;
    let early = MigrateFrame::RecordsAcked(RecordsAcked { mig, next: 1 });
    let mut shots = vec![Shot::frame("records acknowledged before 4", &early, Reject::UnknownMigration)];
    let new_key = wayfare_tests::shot::thief();
    let transfer = bench.source.service.consent(Bench::ids(attempt), &new_key);
    let consent = bench.source.service.consents(bench.cloud.host()).sign(&transfer);
    shots.push(Shot::frame("8 before 4", &MigrateFrame::Transfer(consent), Reject::UnknownMigration));
    let ack = TransferAck {
        ids: Bench::ids(attempt),
        transcript: Digest([1; 32]),
        nonce_a: nonce(),
        state: Digest([1; 32]),
        consent: Digest([1; 32]),
        completed: Timestamp(1),
    };
    let ack = bench.to_cloud().sign(&ack);
    shots.push(Shot::frame("9 to a target", &MigrateFrame::TransferAck(ack), Reject::UnknownMigration));
    let refused = MigrateFrame::Refused(MigrateRefused { mig, reason: "full".to_owned() });
    shots.push(Shot::ignored("a refusal of nothing", refused.to_bytes()));
    let abandon = MigrateFrame::Abandon(MigrationRef { mig });
    shots.push(Shot::ignored("an end of nothing", abandon.to_bytes()));
    shots.extend(misshapen(&refused, MigrateRefused::LIMIT));
    shots.extend(misshapen(&abandon, MigrationRef::LIMIT));
    shots.extend(misshapen(&early, RecordsAcked::LIMIT));
    bench.fire(shots).await;
    let begin = wayfare_protocol::transfer::StateFrame::Begin(MigrationRef { mig });
    let early = Shot::frame("records before 4", &begin, Reject::UnknownMigration);
    bench.range.fire(&bench.source.peer, &bench.cloud.at, Protocol::State, vec![early]).await;
}

async fn cordoned(bench: &mut Bench, attempt: &Attempt) {
    bench.cloud.handle.with(|host, _, _| host.set_cordoned(true)).await.unwrap();
    let honest = bytes(attempt.four.clone());
    bench.fire(vec![Shot::new("4 to a cordoned cloud", honest, Reject::Cordoned)]).await;
    bench.cloud.handle.with(|host, _, _| host.set_cordoned(false)).await.unwrap();
    // A home takes no services at all.
    let honest = bytes(attempt.four.clone());
    let home = bench.bystander.home_range().await;
    let shots = vec![Shot::new("4 to a home", honest, Reject::WrongRole)];
    bench.bystander.fire(home, &bench.source.peer, shots).await;
}

/// Attack 6: sessions that are begun and left.
async fn half_open(bench: &mut Bench, attempt: &Attempt) {
    let realm = bench.authority.realm().clone();
    let says = realm.says(Receiver::Host(bench.source.peer.host));
    let mut fours = Vec::new();
    for _ in 0..=HALF_OPEN_PER_PEER_MAX {
        let mig = MigrationId(fresh16(&mut entropy()));
        let verdict = says.sign(&YesCloud { mig, ..claim(&attempt.four.verdict) });
        let base = claim(&attempt.four.request);
        let ids = wayfare_protocol::ids::MigrationIds { mig, ..base.ids };
        let request = bench.to_cloud().sign(&Request { ids, verdict: verdict.hash(), ..base });
        fours.push(RequestFrame { request, verdict, manifest: attempt.four.manifest.clone() });
    }
    bench.registry().hold(&["NoService"]).await;
    let cloud = bench.cloud.host();
    let last = fours.pop().unwrap();
    let (mut line, mut verdicts) = (bench.migrate_line().await, Vec::new());
    for four in fours {
        line.say(&MigrateFrame::Request(four)).await;
        verdicts.push(bench.registry().held(cloud).await);
    }
    let many = Shot::new("4 beyond the limit for one peer", bytes(last), Reject::TooManyHalfOpen);
    bench.fire(vec![many]).await;
    // The Registry knows none of them: B lets them go.
    let mut line = bench.migrate_line().await;
    for verdict in verdicts {
        bench.registry().send(cloud, verdict.to_bytes()).await;
        let MigrateFrame::Refused(refused) = line.hear().await else { panic!("not refused") };
        assert_eq!(refused.reason, Reject::NotHostOfRecord.name());
    }
    bench.registry().hold(&[]).await;
    bench.range.accepted("verdicts that say no").await;
}
