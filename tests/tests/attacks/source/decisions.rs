//! After consent: 9, 11, and what the Registry answers to RECLAIM.

use wayfare_protocol::{
    ids::{Digest, MigrationIds},
    migration::messages::*,
    reject::Reject,
    time::Micros,
    trust::{CoSigned, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free, Ignored},
        Table, ids, service,
    },
    hand::{claim, now},
    rows,
    shot::{Altered as _, Shot, misshapen},
};

use super::{Bench, ids_of};
use crate::coverage::{Covered, covers};

fn ack() -> Table<TransferAck> {
    rows!(TransferAck {
        transcript => Reject::WrongHash;
        nonce_a => Reject::WrongNonce;
        state => Reject::WrongState;
        consent => Reject::WrongConsent;
        completed => Free("by the target's clock: only statistics use it");
    })
    .nest("ids", |ack| &mut ack.ids, ids())
    .but("ids.mig", Reject::UnknownMigration)
    .raw("ids.mig", Reject::UnknownMigration)
}

fn placement() -> Table<Placement> {
    rows!(Placement {
        epoch.era => Reject::WrongEpoch;
        epoch.hop => Reject::WrongEpoch;
        cloud => Reject::WrongCloud;
        host => Reject::WrongCloud;
        key => Reject::WrongPlacementKey;
        mig => Reject::UnknownMigration, raw Reject::UnknownMigration;
        previous => Reject::WrongCloud;
        manifest => Reject::WrongManifest;
        issued => Free("by the registry's clock: clients compare it");
        lease => Free("as long as the registry says");
    })
    .nest("service", |placement| &mut placement.service, service(Reject::WrongService))
}

/// The placement that comes with ABORTED: it must be the one that A has.
fn ours() -> Table<Placement> {
    placement()
        .but("mig", Reject::WrongMigration)
        .but("epoch.hop", Free("a later epoch supersedes this one: the registry's to say"))
}

const STALE: Expect = Ignored("an answer to what is not asked any more");

fn aborted() -> Table<Aborted> {
    rows!(Aborted {
        answers => Reject::WrongHash;
        placement => Reject::WrongHash;
    })
    .nest("ids", |aborted| &mut aborted.ids, ids())
    .but("ids.mig", STALE)
}

/// WON, though the record has not moved: a later epoch would be needed.
fn outcome() -> Table<Outcome> {
    rows!(Outcome {
        answers => Reject::WrongHash;
        decision => Free("the registry's to say; both are sent with a record that does not bear them out");
        placement => Reject::WrongHash;
    })
    .nest("ids", |outcome| &mut outcome.ids, ids())
    .but("ids.mig", STALE)
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "source";
    vec![
        covers(to, &ack()),
        covers(to, &placement()),
        covers(to, &ours()),
        covers(to, &aborted()),
        covers(to, &outcome()),
    ]
}

/// 11 for an attempt, as the Registry would sign it.
fn eleven(
    bench: &Bench,
    ids: MigrationIds,
    manifest: Digest,
    new_key: wayfare_protocol::ids::PlacementKey,
) -> Placement {
    Placement {
        service: ids.service,
        epoch: ids.epoch.next_era(),
        cloud: ids.cloud,
        host: ids.host,
        key: new_key,
        mig: ids.mig,
        previous: bench.home.host(),
        manifest,
        issued: now().wall,
        lease: Micros::from_secs(30),
    }
}

/// An attempt that comes to consent, and that the Registry then decides against.
pub(crate) async fn reclaimed(bench: &mut Bench) {
    let home = bench.home.host();
    bench.begin().await;
    let (_calling, four) = bench.four().await;
    let ids = ids_of(&four);
    let answered = bench.target.answer(&bench.authority, home, &four).await;
    let early = eleven(bench, ids, claim(&four.request).manifest, answered.agreement.new_key);
    let early = RegistryFrame::Placement(bench.registry_tells().sign(&early));
    bench.fire_as_registry(vec![Shot::frame("11 before 8", &early, Reject::UnexpectedMessage)]).await;

    let mut line = bench.line().await;
    let seven = MigrateFrame::Response(answered.seven.clone());
    line.say(&seven).await;
    bench.target.records(home).await;
    let MigrateFrame::Transfer(consent) = line.hear().await else { panic!("no 8") };
    bench.range.accepted("7").await;
    // Whoever breaks the protocol now makes A ask the Registry, whose answer is held back.
    bench.registry().hold(&["Granted"]).await;
    bench.fire(vec![Shot::frame("7 again", &seven, Reject::UnexpectedMessage)]).await;
    nines(bench, &four, &consent).await;
    elevens(bench, &four, &answered.agreement.new_key).await;
    assert_eq!(bench.home.state_of(bench.service).await.as_deref(), Some("frozen"), "only the registry decides");
    reclaim(bench, ids).await;
}

async fn nines(bench: &mut Bench, four: &RequestFrame, consent: &CoSigned<Transfer>) {
    let transfer = consent.unverified().unwrap();
    let honest = TransferAck {
        ids: transfer.ids,
        transcript: transfer.transcript,
        nonce_a: claim(&four.request).nonce,
        state: transfer.state,
        consent: consent.hash(),
        completed: now().wall,
    };
    let says = bench.target_says();
    let wrap = |signed| MigrateFrame::TransferAck(signed).to_bytes();
    let mut shots = says.shots(&ack(), || honest.clone(), wrap, Reject::BadSignature);
    let nine = MigrateFrame::TransferAck(says.sign(&honest));
    shots.extend(misshapen(&nine, <Signed<TransferAck>>::LIMIT));
    bench.fire(shots).await;
    bench.fire_from_delta(vec![Shot::frame("9 by another", &nine, Reject::WrongPeer)]).await;
    // B holds the state, or says so. A waits for the Registry all the same, however often it hears it.
    let mut line = bench.line().await;
    line.say(&nine).await;
    line.say(&nine).await;
    let unknown = MigrateFrame::Refused(MigrateRefused {
        mig: wayfare_protocol::ids::MigrationId([9; 16]),
        reason: String::new(),
    });
    line.say(&unknown).await;
    bench.range.accepted("9, twice").await;
    std::mem::forget(line);
}

async fn elevens(bench: &mut Bench, four: &RequestFrame, new_key: &wayfare_protocol::ids::PlacementKey) {
    let honest = eleven(bench, ids_of(four), claim(&four.request).manifest, *new_key);
    let tells = bench.registry_tells();
    let wrap = |signed| RegistryFrame::Placement(signed).to_bytes();
    let mut shots = tells.shots(&placement(), || honest.clone(), wrap, Reject::BadSignature);
    shots.extend(misshapen(&RegistryFrame::Placement(tells.sign(&honest)), <Signed<Placement>>::LIMIT));
    bench.fire_as_registry(shots).await;
}

/// B takes it back: A asks the Registry, and believes only the answer to what it asked.
async fn reclaim(bench: &mut Bench, ids: MigrationIds) {
    let mut line = bench.line().await;
    line.say(&MigrateFrame::Refused(MigrateRefused { mig: ids.mig, reason: "full".to_owned() })).await;
    let honest = loop {
        match bench.held().await {
            RegistryFrame::Granted(granted) if matches!(granted.answer, Answer::Aborted(_)) => break granted,
            // The answer to a RENEW that was out before the consent.
            other => bench.tell(other).await,
        }
    };
    let Answer::Aborted(signed) = &honest.answer else { unreachable!() };
    let (says, tells, base) = (bench.registry_says(), bench.registry_tells(), claim(signed));
    let wrap = |answer, placement| RegistryFrame::Granted(Granted { answer, placement }).to_bytes();
    let with = |signed| wrap(Answer::Aborted(signed), honest.placement.clone());
    let mut shots = says.shots(&aborted(), || base.clone(), with, Reject::BadSignature);
    let won = Outcome { ids, answers: base.answers, decision: Decision::Won, placement: base.placement };
    let with = |signed| wrap(Answer::Outcome(signed), honest.placement.clone());
    shots.extend(says.shots(&outcome(), || won.clone(), with, Reject::BadSignature));
    // WON with the record as it is, ABORTED with a later one: neither is an answer (PROTOCOL 4, 2).
    shots.push(Shot::new("OUTCOME won without a later epoch", with(says.sign(&won)), Reject::WrongEpoch));
    for row in ours().0 {
        let Expect::Refused(reject) = row.resigned else { continue };
        let mut altered = claim(&honest.placement);
        (row.edit)(&mut altered);
        let placement = tells.sign(&altered);
        let answer = says.sign(&Aborted { placement: placement.hash(), ..base.clone() });
        shots.push(Shot::new(
            format!("ABORTED with 11 {}", row.field),
            wrap(Answer::Aborted(answer), placement),
            reject,
        ));
    }
    let lease = Lease { answers: base.answers, placement: base.placement };
    let lease = wrap(Answer::Lease(says.sign(&lease)), honest.placement.clone());
    // As the second of two answers to a RENEW would be.
    shots.push(Shot::ignored("LEASE for a RECLAIM", lease));
    shots.extend(misshapen(&RegistryFrame::Granted(honest.clone()), Granted::LIMIT));
    bench.fire_as_registry(shots).await;
    assert_eq!(bench.home.state_of(bench.service).await.as_deref(), Some("frozen"), "only the registry decides");
    bench.registry().hold(&[]).await;
    bench.tell(RegistryFrame::Granted(honest)).await;
    bench.home.until_serving(bench.service).await;
    bench.range.accepted("ABORTED").await;
}
