//! 8: the records and the consent; and the whole of it, in order.

use wayfare_net::Protocol;
use wayfare_protocol::{
    ids::{Digest, MigrationId},
    limits::RECORD_BYTES_MAX,
    migration::messages::*,
    reject::Reject,
    suite::Dalek,
    transfer::{RecordKind, SealedRecord, Sealer, StateFrame},
    trust::CoSigned,
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table, ids,
    },
    hand::claim,
    puppet::source::PuppetSource,
    real::KV,
    rows,
    shot::{CoAltered as _, CoSigner, Shot, misshapen, oversized},
};

use super::{Agreed, Bench, offer, verdicts};
use crate::coverage::{Covered, covers};

fn transfer() -> Table<Transfer> {
    rows!(Transfer {
        new_key => Reject::WrongPlacementKey;
        transcript => Reject::WrongHash;
        nonce_b => Reject::WrongNonce;
        state => Free("compared when all records are here: an attempt of its own");
        mode => Reject::WrongMode;
    })
    .nest("ids", |transfer| &mut transfer.ids, ids())
    .but("ids.mig", Reject::UnknownMigration)
    .raw("ids.mig", Reject::UnknownMigration)
}

/// Each costs an attempt: a stream that is not what was agreed cannot go on.
fn record() -> Table<SealedRecord> {
    rows!(SealedRecord {
        number => Reject::RecordOutOfOrder;
        kind = |kind| *kind = RecordKind::Page => Reject::RecordForged;
        sealed => Reject::RecordForged;
        sealed = Vec::clear => Reject::RecordForged;
    })
}

pub(crate) fn covered() -> Vec<Covered> {
    const NAME: Expect = Free("has shots of its own: unknown, another peer's");
    let to = "target";
    vec![
        covers(to, &transfer()),
        covers(to, &record()),
        covers(to, &rows!(MigrationRef { mig => NAME; })),
        covers(to, &rows!(RecordsAcked { mig => NAME; next => Free("how far, for the timer only"); })),
        covers(to, &rows!(MigrateRefused { mig => NAME; reason => Free("for people"); })),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target() {
    let mut bench = Bench::start(70).await;
    for _ in 0..5 {
        bench.source.count();
    }
    offer::offers(&mut bench).await;
    failing_attempts(&mut bench).await;
    arrival(&mut bench).await;
    bench.close(5).await;
}

/// A consents to a move of its service to B.
fn consents(bench: &Bench) -> CoSigner {
    bench.source.service.consents(bench.cloud.host())
}

/// One attempt from 4 to 11, with everything in between.
async fn arrival(bench: &mut Bench) {
    let mut attempt = bench.attempt().await;
    let cloud = bench.cloud.host();
    let four = MigrateFrame::Request(attempt.four.clone());
    bench.registry().hold(&["YesService"]).await;
    let mut line = bench.migrate_line().await;
    line.say(&four).await;
    let RegistryFrame::YesService(six) = bench.registry().held(cloud).await else { panic!("no 6") };
    bench.registry().hold(&[]).await;
    before_six(bench, &attempt.four).await;
    verdicts::sixes(bench, &six).await;
    let mut line = bench.migrate_line().await;
    bench.registry().send(cloud, RegistryFrame::YesService(six.clone()).to_bytes()).await;
    let seven: MigrateFrame = line.hear().await;
    // The same 4 again: the same 7.
    line.say(&four).await;
    assert_eq!(line.hear::<MigrateFrame>().await, seven);
    bench.range.accepted("6, and 4 again").await;
    let again = Shot::frame("6 again", &RegistryFrame::YesService(six), Reject::UnexpectedMessage);
    bench.fire_as_registry(vec![again]).await;
    let MigrateFrame::Response(seven) = seven else { panic!("no 7") };
    let agreement = bench.source.agree(&mut attempt, &seven);
    let mut agreed = Agreed { attempt, agreement, line };
    strange_streams(bench, &agreed).await;

    let (records, state) = bench.source.records(&agreed.agreement);
    let transfer = bench.source.consent(&mut agreed.attempt, state);
    let consent = consent_shots(bench, &transfer).await;
    held(bench, agreed, records, &transfer, consent).await;
}

/// While 6 is awaited.
async fn before_six(bench: &mut Bench, honest: &RequestFrame) {
    let base = claim(&honest.request);
    let other = bench.to_cloud().sign(&Request { nonce: wayfare_tests::hand::nonce(), ..base.clone() });
    let other = MigrateFrame::Request(RequestFrame { request: other, ..honest.clone() });
    let transfer = bench.source.service.consent(base.ids, &wayfare_tests::shot::thief());
    let early = MigrateFrame::Transfer(consents(bench).sign(&transfer));
    let shots = vec![
        Shot::frame("4, other bytes", &other, Reject::Reused),
        Shot::frame("8 before 6", &early, Reject::UnexpectedMessage),
    ];
    bench.fire(shots).await;
    let abandon = MigrateFrame::Abandon(MigrationRef { mig: base.ids.mig });
    let shots = vec![
        Shot::frame("4 repeated by another", &MigrateFrame::Request(honest.clone()), Reject::Reused),
        Shot::frame("8 by another", &early, Reject::WrongPeer),
        Shot::frame("an end by another", &abandon, Reject::WrongPeer),
    ];
    bench.fire_from_delta(shots).await;
}

/// State streams that are not the attempt's, and do it no harm.
async fn strange_streams(bench: &mut Bench, agreed: &Agreed) {
    let mig = Bench::ids(&agreed.attempt).mig;
    let begin = |mig| StateFrame::Begin(MigrationRef { mig });
    let record = StateFrame::Record(SealedRecord { number: 0, kind: RecordKind::Page, sealed: vec![1; 32] });
    let mut shots = misshapen(&begin(mig), MigrationRef::LIMIT);
    shots.extend(misshapen(&record, SealedRecord::LIMIT));
    shots.push(oversized(&begin(mig)));
    shots.push(Shot::frame("a record before its migration is named", &record, Reject::UnexpectedMessage));
    let unknown = begin(MigrationId([9; 16]));
    shots.push(Shot::frame("records for no migration", &unknown, Reject::UnknownMigration));
    bench.range.fire(&bench.source.peer, &bench.cloud.at, Protocol::State, shots).await;
    let stolen = Shot::frame("records by another", &begin(mig), Reject::WrongPeer);
    bench.range.fire(&bench.delta, &bench.cloud.at, Protocol::State, vec![stolen]).await;
}

/// Before an honest consent; returns that.
async fn consent_shots(bench: &mut Bench, honest: &Transfer) -> CoSigned<Transfer> {
    let consents = consents(bench);
    let wrap = |signed| MigrateFrame::Transfer(signed).to_bytes();
    let mut shots = consents.shots(&transfer(), || honest.clone(), wrap);
    let consent = consents.sign(honest);
    let frame = MigrateFrame::Transfer(consent.clone());
    shots.extend(misshapen(&frame, <CoSigned<Transfer>>::LIMIT));
    shots.push(oversized(&frame));
    bench.fire(shots).await;
    // A consent to a move elsewhere.
    let elsewhere = bench.source.service.consents(bench.delta.host).sign(honest);
    let elsewhere = Shot::frame("8 for another", &MigrateFrame::Transfer(elsewhere), Reject::BadCoSignature);
    bench.fire(vec![elsewhere]).await;
    bench.fire_from_delta(vec![Shot::frame("8 by another", &frame, Reject::WrongPeer)]).await;
    consent
}

/// Consent and records, 9 and 10, 11.
async fn held(
    bench: &mut Bench,
    agreed: Agreed,
    records: Vec<SealedRecord>,
    transfer: &Transfer,
    consent: CoSigned<Transfer>,
) {
    let cloud = bench.cloud.host();
    bench.registry().hold(&["Placement", "Granted"]).await;
    let mut line = bench.migrate_line().await;
    let eight = MigrateFrame::Transfer(consent);
    line.say(&eight).await;
    let mut other = transfer.clone();
    other.state.0[0] ^= 1;
    let other = Shot::frame("8, other bytes", &MigrateFrame::Transfer(consents(bench).sign(&other)), Reject::Reused);
    bench.fire(vec![other.clone()]).await;
    let mut line = bench.migrate_line().await;
    // Twice: the second is the same, and changes nothing.
    line.say(&eight).await;
    let mut state = bench.source.state_line(&bench.cloud.at, &agreed.attempt).await;
    state.say(&StateFrame::Record(records[0].clone())).await;
    second_stream(bench, transfer.ids.mig).await;
    for record in records.into_iter().skip(1) {
        state.say(&StateFrame::Record(record)).await;
    }
    state.finish().await;
    let nine: MigrateFrame = line.hear().await;
    let MigrateFrame::TransferAck(_) = &nine else { panic!("no 9: {nine:?}") };
    let RegistryFrame::Placement(eleven) = bench.registry().held(cloud).await else { panic!("no 11") };
    line.say(&eight).await;
    assert_eq!(line.hear::<MigrateFrame>().await, nine, "the same bytes get the same answer");
    bench.range.accepted("8 and the records").await;
    bench.fire(vec![other]).await;
    // Nothing but the Registry's word ends what is held.
    let mig = transfer.ids.mig;
    let abandon = MigrateFrame::Abandon(MigrationRef { mig });
    bench.fire(vec![Shot::ignored("an end after 9", abandon.to_bytes())]).await;
    let complete = bench.registry().with(move |machine, _| machine.migration(mig).cloned()).await.unwrap();
    let wayfare_protocol::registry::MigrationState::Won { complete, .. } = complete.state else { panic!("not won") };
    verdicts::elevens(bench, &eleven, complete).await;
    // B asks again, on a new stream, and is told again.
    let RegistryFrame::Placement(again) = bench.registry().held(cloud).await else { panic!("no 11") };
    assert_eq!(again, eleven);
    assert_eq!(bench.cloud.state_of(transfer.ids.service).await, None, "nothing runs before 11");

    let frame = RegistryFrame::Placement(eleven.clone());
    bench.registry().send(cloud, frame.to_bytes()).await;
    bench.cloud.until_serving(transfer.ids.service).await;
    bench.registry().hold(&[]).await;
    bench.range.accepted("11").await;
    afterwards(bench, &agreed, &eight, &frame).await;
}

/// While a state stream is read, a second one is not.
async fn second_stream(bench: &mut Bench, mig: MigrationId) {
    let begin = StateFrame::Begin(MigrationRef { mig });
    let second = Shot::frame("a second state stream", &begin, Reject::Reused);
    bench.range.fire(&bench.source.peer, &bench.cloud.at, Protocol::State, vec![second]).await;
}

/// Once it serves: what was said before says nothing any more.
async fn afterwards(bench: &mut Bench, agreed: &Agreed, eight: &MigrateFrame, eleven: &RegistryFrame) {
    let four = MigrateFrame::Request(agreed.attempt.four.clone());
    let mut shots =
        vec![Shot::frame("4 after 11", &four, Reject::Finished), Shot::frame("8 after 11", eight, Reject::Finished)];
    let mig = Bench::ids(&agreed.attempt).mig;
    let abandon = MigrateFrame::Abandon(MigrationRef { mig });
    shots.push(Shot::ignored("an end after 11", abandon.to_bytes()));
    bench.fire(shots).await;
    let begin = StateFrame::Begin(MigrationRef { mig });
    let late = Shot::frame("records after 11", &begin, Reject::UnknownMigration);
    bench.range.fire(&bench.source.peer, &bench.cloud.at, Protocol::State, vec![late]).await;
    bench.fire_as_registry(vec![Shot::ignored("11 again", eleven.to_bytes())]).await;
}

/// Attempts that must end: each is refused by name, A is told, and the next can begin.
async fn failing_attempts(bench: &mut Bench) {
    for row in record().0 {
        let Expect::Refused(reject) = row.resigned else { continue };
        let edit = row.edit;
        let bend = move |records: &mut Vec<SealedRecord>, _: &Agreed| edit(records.last_mut().unwrap());
        failing(bench, &format!("record {}", row.field), reject, bend).await;
    }
    failing(bench, "a record twice", Reject::RecordOutOfOrder, |records, _| records.insert(1, records[0].clone()))
        .await;
    failing(bench, "a record left out", Reject::RecordOutOfOrder, |records, _| drop(records.remove(1))).await;
    failing(bench, "no end", Reject::RecordOutOfOrder, |records, _| drop(records.pop())).await;
    // Sealed as it should be, but no part of a state.
    for (name, kind, bytes) in [
        ("a page of nothing", RecordKind::Page, vec![7; 3]),
        ("globals of nothing", RecordKind::Globals, vec![7; 3]),
        ("a client table of nothing", RecordKind::Sessions, vec![7; 3]),
        ("a log", RecordKind::Log, vec![]),
        ("a module that was not asked for", RecordKind::Module, vec![0; 8]),
        ("an end before the state", RecordKind::End, vec![]),
    ] {
        let expect = if kind == RecordKind::Sessions { Reject::Malformed } else { Reject::RecordInvalid };
        let bend = move |records: &mut Vec<SealedRecord>, agreed: &Agreed| {
            let mut sealer = Sealer::new(agreed.agreement.key.clone(), agreed.agreement.transcript);
            let at = if kind == RecordKind::Sessions { records.len() - 2 } else { 0 };
            for _ in 0..at {
                sealer.seal::<Dalek>(RecordKind::Log, &[]).unwrap();
            }
            records.truncate(at);
            records.push(sealer.seal::<Dalek>(kind, &bytes).unwrap());
            records.push(sealer.seal::<Dalek>(RecordKind::End, &[]).unwrap());
        };
        failing(bench, name, expect, bend).await;
    }
    long_record(bench).await;
    another_code(bench).await;
    another_state(bench).await;
    weak_share(bench).await;
}

async fn failing(bench: &mut Bench, name: &str, reject: Reject, bend: impl FnOnce(&mut Vec<SealedRecord>, &Agreed)) {
    let mut agreed = bench.agreed().await;
    let (mut records, _) = bench.source.records(&agreed.agreement);
    bend(&mut records, &agreed);
    bench.source.send_records(&bench.cloud.at, &agreed.attempt, records).await;
    ends(bench, &mut agreed, name, reject).await;
}

/// B has counted the rejection, and told A that the attempt is over.
async fn ends(bench: &mut Bench, agreed: &mut Agreed, name: &str, reject: Reject) {
    bench.range.judge(&Shot::new(name, vec![], reject)).await;
    let refused = agreed.line.wait_for(|frame| match frame {
        MigrateFrame::Refused(refused) => Some(refused.reason),
        _ => None,
    });
    bench.range.check(refused.await == reject.name(), &format!("{name}: the source is told another reason"));
}

async fn long_record(bench: &mut Bench) {
    let mut agreed = bench.agreed().await;
    let mut line = bench.source.state_line(&bench.cloud.at, &agreed.attempt).await;
    line.send(&vec![1; RECORD_BYTES_MAX + 1025]).await;
    ends(bench, &mut agreed, "a record longer than its stream allows", Reject::FrameTooLarge).await;
    let mut agreed = bench.agreed().await;
    let mut line = bench.source.state_line(&bench.cloud.at, &agreed.attempt).await;
    line.say(&StateFrame::Begin(MigrationRef { mig: Bench::ids(&agreed.attempt).mig })).await;
    ends(bench, &mut agreed, "a migration named twice", Reject::UnexpectedMessage).await;
    let mut agreed = bench.agreed().await;
    let mut line = bench.source.state_line(&bench.cloud.at, &agreed.attempt).await;
    line.send(&[1, 71, 0]).await;
    ends(bench, &mut agreed, "a record cut short", Reject::Malformed).await;
}

/// A module that is not the one that the manifest names is not compiled.
async fn another_code(bench: &mut Bench) {
    let odd = PuppetSource::with_code(&bench.authority, 69, "odd", Digest([9; 32])).await;
    let kv = std::mem::replace(&mut bench.source, odd);
    bench.source.register().await;
    failing(bench, "a state without its module", Reject::WrongCode, |_, _| ()).await;
    failing(bench, "a state with another module", Reject::WrongCode, |records, agreed| {
        let mut sealer = Sealer::new(agreed.agreement.key.clone(), agreed.agreement.transcript);
        records[0] = sealer.seal::<Dalek>(RecordKind::Module, &KV[..1000]).unwrap();
        records[1] = sealer.seal::<Dalek>(RecordKind::Globals, &[0]).unwrap();
        records.truncate(2);
    })
    .await;
    bench.source = kv;
}

/// Records that are another state than the one that A consents to.
async fn another_state(bench: &mut Bench) {
    let mut agreed = bench.agreed().await;
    let (records, mut state) = bench.source.records(&agreed.agreement);
    state.0[0] ^= 1;
    let transfer = bench.source.consent(&mut agreed.attempt, state);
    bench.source.send_records(&bench.cloud.at, &agreed.attempt, records).await;
    agreed.line.say(&MigrateFrame::Transfer(consents(bench).sign(&transfer))).await;
    bench.range.judge(&Shot::new("8 for another state", vec![], Reject::WrongState)).await;
}

/// A key share that leads to a key that everybody knows.
async fn weak_share(bench: &mut Bench) {
    let attempt = bench.attempt().await;
    let request = bench.to_cloud().sign(&Request { share: [0; 32], ..claim(&attempt.four.request) });
    let mut line = bench.migrate_line().await;
    line.say(&MigrateFrame::Request(RequestFrame { request, ..attempt.four.clone() })).await;
    bench.range.judge(&Shot::new("4 with an all-zero share", vec![], Reject::WeakDhShare)).await;
    line.say(&MigrateFrame::Abandon(MigrationRef { mig: Bench::ids(&attempt).mig })).await;
}
