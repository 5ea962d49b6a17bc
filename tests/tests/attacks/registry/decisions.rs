//! 10 with the consent, 12, RECLAIM and CANCEL.

use wayfare_protocol::{
    ids::MigrationIds,
    manifest::ServiceType,
    migration::messages::*,
    reject::Reject,
    suite::Secret,
    time::Micros,
    trust::{CoSigned, Receiver, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table, ids,
    },
    hand::nonce,
    rows,
    shot::{Altered as _, CoAltered as _, CoSigner, Shot, misshapen, thief},
};

use super::{Bench, not_for_a_registry};
use crate::coverage::{Covered, covers};

const FIGURES: Expect = Free("a time by the signer's own clock: only statistics use it");

fn complete() -> Table<TransferComplete> {
    rows!(TransferComplete {
        tos = |tos| *tos = ServiceType::Cloud => Reject::WrongTos;
        new_key => Reject::WrongPlacementKey;
        transcript => Reject::WrongHash;
        state => Reject::WrongState;
        consent => Reject::WrongConsent;
        asked => FIGURES;
        answered => FIGURES;
        completed => FIGURES;
    })
    .nest("ids", |ten| &mut ten.ids, ids())
    // What says whose key to verify with is compared first.
    .but("ids.service.registry", Reject::UnknownRegistry)
    .raw("ids.service.registry", Reject::UnknownRegistry)
    .raw("ids.service.unique", Reject::WrongService)
    .but("ids.host", Reject::WrongPeer)
    .raw("ids.host", Reject::WrongPeer)
    .raw("ids.cloud", Reject::WrongCloud)
    .but("ids.mig", Reject::UnknownMigration)
    .raw("ids.epoch.era", Reject::WrongEpoch)
    .raw("ids.epoch.hop", Reject::WrongEpoch)
}

fn consent() -> Table<Transfer> {
    rows!(Transfer {
        new_key => Reject::WrongPlacementKey;
        transcript => Reject::WrongHash;
        nonce_b => Free("the target's: it has compared it");
        state => Reject::WrongState;
        mode => Reject::WrongMode;
    })
    .nest("ids", |transfer| &mut transfer.ids, ids())
}

fn complete_frame() -> Table<CompleteFrame> {
    const SIGNED: Expect = Free("a table of its own");
    rows!(CompleteFrame {
        complete = |_| () => SIGNED;
        consent = |_| () => SIGNED;
    })
}

fn released() -> Table<Released> {
    rows!(Released {
        response => FIGURES;
        transfer => FIGURES;
    })
    .nest("ids", |released| &mut released.ids, ids())
    .but("ids.mig", Reject::UnknownMigration)
}

macro_rules! give_back {
    ($name:ident $t:ident) => {
        fn $name() -> Table<$t> {
            rows!($t { nonce => Free("the host's own; a used one has a shot of its own"); })
                .nest("ids", |message| &mut message.ids, ids())
                .but("ids.service.registry", Reject::UnknownRegistry)
                .raw("ids.service.registry", Reject::UnknownRegistry)
                // Answered as well: while the epoch stands, an unknown attempt has not won and never will.
                .but("ids.mig", Reject::UnknownMigration)
        }
    };
}

give_back!(reclaim Reclaim);
give_back!(cancel Cancel);

pub(crate) fn covered() -> Vec<Covered> {
    let to = "registry";
    vec![
        covers(to, &complete()),
        covers(to, &consent()),
        covers(to, &complete_frame()),
        covers(to, &released()),
        covers(to, &reclaim()),
        covers(to, &cancel()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions() {
    let mut bench = Bench::start(50).await;
    bench.register().await;
    give_backs(&mut bench).await;
    completion(&mut bench).await;
    bench.close().await;
}

/// Who completes a move to B.
fn completes(bench: &Bench, new_key: &Secret) -> CoSigner {
    let realm = bench.authority.realm();
    let (registry, receiver) = (realm.id, Receiver::Registry(realm.id));
    CoSigner { placement: new_key.clone(), host: bench.fjord.secret.clone(), registry, receiver }
}

async fn completion(bench: &mut Bench) {
    // 10 before 5.
    let ids = bench.allowed().await;
    let frame = ten_frame(bench, ids, &thief());
    let early = Shot::frame("10 before 5", &frame, Reject::UnexpectedMessage);
    bench.fire(|bench| &bench.fjord, vec![early]).await;

    let (ids, new_key) = bench.pinned().await;
    let (service, completes) = (bench.service.clone(), completes(bench, &new_key));
    let (consents, transfer) = (service.consents(bench.fjord.host), service.consent(ids, &new_key));
    let signed = consents.sign(&transfer);
    let honest = service.ten(&transfer, &signed);
    let wrap = |complete| RegistryFrame::Complete(CompleteFrame { complete, consent: signed.clone() }).to_bytes();
    let mut shots = completes.shots(&complete(), || honest.clone(), wrap);
    // The target goes along with whatever consent it is given: the source's signatures must stop it.
    let with_consent = |consent: CoSigned<Transfer>| {
        let complete = completes.sign(&service.ten(&transfer, &consent));
        RegistryFrame::Complete(CompleteFrame { complete, consent }).to_bytes()
    };
    shots.extend(consents.shots(&consent(), || transfer.clone(), with_consent));
    let frame = RegistryFrame::Complete(CompleteFrame { complete: completes.sign(&honest), consent: signed.clone() });
    shots.extend(misshapen(&frame, CompleteFrame::LIMIT));
    let early = bench.authority.realm().hears(&bench.home.secret).sign(&twelve(ids));
    bench.fire(|bench| &bench.fjord, shots).await;
    let shots = vec![
        Shot::frame("10 over another's stream", &frame, Reject::WrongPeer),
        Shot::frame("12 before 10", &RegistryFrame::Released(early), Reject::UnexpectedMessage),
    ];
    bench.fire(|bench| &bench.home, shots).await;

    // 11, to both.
    let mut source = bench.line(|bench| &bench.home).await;
    source.say(&RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
    assert!(matches!(source.hear().await, RegistryFrame::Found(_)));
    let eleven = bench.ask(|bench| &bench.fjord, &frame).await;
    let heard: RegistryFrame = source.hear().await;
    assert_eq!(eleven, heard, "both sides hear the same");
    let RegistryFrame::Placement(placement) = &eleven else { panic!("not placed: {eleven:?}") };
    let placement = placement.unverified().unwrap();
    assert_eq!((placement.host, placement.epoch, placement.mig), (bench.fjord.host, ids.epoch.next_era(), ids.mig));
    assert_eq!(bench.ask(|bench| &bench.fjord, &frame).await, eleven, "the same bytes get the same answer");
    after(bench, ids, &new_key, eleven).await;
    releases(bench, ids).await;
}

/// What no longer counts once the record has moved.
async fn after(bench: &mut Bench, ids: MigrationIds, new_key: &Secret, eleven: RegistryFrame) {
    let (service, completes) = (bench.service.clone(), completes(bench, new_key));
    let transfer = service.consent(ids, new_key);
    let consent = service.consents(bench.fjord.host).sign(&transfer);
    let later = TransferComplete { completed: bench_time(), ..service.ten(&transfer, &consent) };
    let other = RegistryFrame::Complete(CompleteFrame { complete: completes.sign(&later), consent });
    bench.fire(|bench| &bench.fjord, vec![Shot::frame("10, other bytes", &other, Reject::Reused)]).await;
    bench.fire(|bench| &bench.fjord, not_for_a_registry(vec![eleven])).await;
    // Attack 8: the old placement key is worth nothing any more, not even with its host.
    let advert = bench.signed_advert();
    let (cloud, host) = (bench.cloud(), bench.fjord.host);
    let two = bench.service.two(cloud, host, advert.hash());
    let two = bench.two_frame(&two, advert);
    bench.fire(|bench| &bench.home, vec![Shot::frame("2 by the former host", &two, Reject::NotHostOfRecord)]).await;
    bench.fire(|bench| &bench.fjord, vec![Shot::frame("2 of the former epoch", &two, Reject::WrongEpoch)]).await;
    // RENEW and RECLAIM of the former epoch are told how it ended.
    for frame in [
        RegistryFrame::Renew(service.to_registry().sign(&Renew { ids, nonce: nonce() })),
        RegistryFrame::Reclaim(service.to_registry().sign(&Reclaim { ids, nonce: nonce() })),
        RegistryFrame::Cancel(service.to_registry().sign(&Cancel { ids, nonce: nonce() })),
    ] {
        let answer = bench.ask(|bench| &bench.home, &frame).await;
        let RegistryFrame::Granted(Granted { answer: Answer::Outcome(outcome), .. }) = &answer else {
            panic!("no outcome: {answer:?}")
        };
        assert_eq!(outcome.unverified().unwrap().decision, Decision::Won);
        bench.fire(|bench| &bench.home, not_for_a_registry(vec![answer])).await;
    }
}

fn bench_time() -> wayfare_protocol::time::Timestamp {
    wayfare_protocol::time::Timestamp(77)
}

fn twelve(ids: MigrationIds) -> Released {
    Released { ids, response: Micros::from_millis(60), transfer: Micros::from_millis(62) }
}

async fn releases(bench: &mut Bench, ids: MigrationIds) {
    let signer = bench.authority.realm().hears(&bench.home.secret);
    let wrap = |signed| RegistryFrame::Released(signed).to_bytes();
    let mut shots = signer.shots(&released(), || twelve(ids), wrap, Reject::BadSignature);
    let honest = RegistryFrame::Released(signer.sign(&twelve(ids)));
    shots.extend(misshapen(&honest, <Signed<Released>>::LIMIT));
    bench.fire(|bench| &bench.home, shots).await;
    let elsewhere = bench.authority.realm().hears(&bench.delta.secret).sign(&twelve(ids));
    let elsewhere = Shot::frame("12 by another", &RegistryFrame::Released(elsewhere), Reject::NotHostOfRecord);
    bench.fire(|bench| &bench.delta, vec![elsewhere]).await;
    // 12 has no answer: a lookup behind it shows that it was taken.
    let mut line = bench.line(|bench| &bench.home).await;
    for _ in 0..2 {
        line.say(&honest).await;
    }
    line.say(&RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
    assert!(matches!(line.hear().await, RegistryFrame::Found(_)));
    bench.range.accepted("12, twice").await;
    let other = Released { response: Micros(1), ..twelve(ids) };
    let other = Shot::frame("12, other bytes", &RegistryFrame::Released(signer.sign(&other)), Reject::Reused);
    bench.fire(|bench| &bench.home, vec![other]).await;
}

pub(super) fn ten_frame(bench: &Bench, ids: MigrationIds, new_key: &Secret) -> RegistryFrame {
    let transfer = bench.service.consent(ids, new_key);
    let consent = bench.service.consents(bench.fjord.host).sign(&transfer);
    let complete = completes(bench, new_key).sign(&bench.service.ten(&transfer, &consent));
    RegistryFrame::Complete(CompleteFrame { complete, consent })
}

async fn give_backs(bench: &mut Bench) {
    let signer = bench.service.to_registry();
    // RECLAIM of an attempt that a 10 will come late for.
    let (ids, new_key) = bench.pinned().await;
    let base = || Reclaim { ids, nonce: nonce() };
    let wrap = |signed| RegistryFrame::Reclaim(signed).to_bytes();
    let mut shots = signer.shots(&reclaim(), base, wrap, Reject::BadSignature);
    let honest = RegistryFrame::Reclaim(signer.sign(&base()));
    shots.extend(misshapen(&honest, <Signed<Reclaim>>::LIMIT));
    bench.fire(|bench| &bench.home, shots).await;
    let elsewhere = Shot::frame("RECLAIM by the target", &honest, Reject::NotHostOfRecord);
    bench.fire(|bench| &bench.fjord, vec![elsewhere]).await;
    aborted(bench, &honest).await;
    let RegistryFrame::Reclaim(signed) = &honest else { unreachable!() };
    let same_nonce = Cancel { ids, nonce: signed.unverified().unwrap().nonce };
    let same_nonce = RegistryFrame::Cancel(signer.sign(&same_nonce));
    let reused = Shot::frame("CANCEL with the nonce of a RECLAIM", &same_nonce, Reject::Reused);
    bench.fire(|bench| &bench.home, vec![reused]).await;
    // The loser hears that it lost, however often it asks.
    let late = bench.ask_twice(|bench| &bench.fjord, &ten_frame(bench, ids, &new_key)).await;
    let RegistryFrame::Granted(Granted { answer: Answer::Outcome(outcome), .. }) = &late else {
        panic!("no outcome: {late:?}")
    };
    assert_eq!(outcome.unverified().unwrap().decision, Decision::Aborted);

    let ids = bench.allowed().await;
    let base = || Cancel { ids, nonce: nonce() };
    let wrap = |signed| RegistryFrame::Cancel(signed).to_bytes();
    let mut shots = signer.shots(&cancel(), base, wrap, Reject::BadSignature);
    let honest = RegistryFrame::Cancel(signer.sign(&base()));
    shots.extend(misshapen(&honest, <Signed<Cancel>>::LIMIT));
    bench.fire(|bench| &bench.home, shots).await;
    aborted(bench, &honest).await;
}

async fn aborted(bench: &mut Bench, frame: &RegistryFrame) {
    let answer = bench.ask_twice(|bench| &bench.home, frame).await;
    let is_aborted = matches!(&answer, RegistryFrame::Granted(Granted { answer: Answer::Aborted(_), .. }));
    assert!(is_aborted, "{answer:?}");
    bench.fire(|bench| &bench.home, not_for_a_registry(vec![answer])).await;
}
