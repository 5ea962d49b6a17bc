//! LEASE: the answers to REGISTER and RENEW.

use wayfare_protocol::{
    migration::messages::*,
    reject::Reject,
    suite::fresh_secret,
    trust::Receiver,
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free, Ignored},
        Table, service,
    },
    hand::{claim, entropy},
    real::{KV, KV_CODE},
    rows,
    shot::{Altered as _, Shot, misshapen},
};

use super::Bench;
use crate::coverage::{Covered, covers};

fn lease() -> Table<Lease> {
    rows!(Lease {
        answers => Reject::WrongHash;
        placement => Reject::WrongHash;
    })
}

const REGISTRYS: Expect = Free("the registry's to say");

/// The first placement, with the lease that answers REGISTER.
fn first() -> Table<Placement> {
    rows!(Placement {
        epoch.era => REGISTRYS;
        epoch.hop => REGISTRYS;
        cloud => Reject::WrongCloud;
        host => Reject::WrongCloud;
        key => Reject::WrongPlacementKey;
        mig => REGISTRYS;
        previous => Reject::WrongCloud;
        manifest => Reject::WrongManifest;
        issued => REGISTRYS;
        lease => REGISTRYS;
    })
    .nest("service", |placement| &mut placement.service, service(Reject::UnknownService))
    // It says whose word counts.
    .but("service.registry", Reject::UnknownRegistry)
    .raw("service.registry", Reject::UnknownRegistry)
}

/// A placement that is served, with another lease.
fn renewed() -> Table<Placement> {
    first()
        .but("epoch.era", Reject::UnknownService)
        .but("epoch.hop", Reject::UnknownService)
        .but("cloud", Reject::WrongMigration)
        .but("host", Reject::WrongMigration)
        .but("mig", Reject::WrongMigration)
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "source";
    let refused = rows!(Refused {
        about => Ignored("a refusal of what was not asked");
        reason => Free("for people");
    });
    vec![covers(to, &refused), covers(to, &lease()), covers(to, &first()), covers(to, &renewed())]
}

/// LEASE, altered itself and with the placement altered.
fn shots(bench: &Bench, honest: &Granted, table: &Table<Placement>) -> Vec<Shot> {
    let Answer::Lease(signed) = &honest.answer else { panic!("no lease: {honest:?}") };
    let (says, tells, base) = (bench.registry_says(), bench.registry_tells(), claim(signed));
    let wrap = |answer, placement| RegistryFrame::Granted(Granted { answer, placement }).to_bytes();
    let with = |signed| wrap(Answer::Lease(signed), honest.placement.clone());
    let mut shots = says.shots(&lease(), || base.clone(), with, Reject::BadSignature);
    let with = |placement: wayfare_protocol::trust::Signed<Placement>| {
        let answer = says.sign(&Lease { placement: placement.hash(), ..base.clone() });
        wrap(Answer::Lease(answer), placement)
    };
    shots.extend(tells.shots(table, || claim(&honest.placement), with, Reject::BadSignature));
    shots.extend(misshapen(&RegistryFrame::Granted(honest.clone()), Granted::LIMIT));
    shots
}

/// A service is deployed: the answer to REGISTER.
pub(crate) async fn registration(bench: &mut Bench) {
    bench.registry().hold(&["Granted"]).await;
    let realm = bench.authority.realm().clone();
    let owner = fresh_secret(&mut entropy());
    let manifest = realm.signer(&owner, Receiver::Anyone).sign(&realm.manifest(&owner, "kv", *KV_CODE));
    bench.service = bench.home.handle.deploy(manifest, KV.to_vec()).await.unwrap();
    let RegistryFrame::Granted(honest) = bench.held().await else { panic!("no lease") };
    let refused = Refused { about: wayfare_protocol::ids::Digest([9; 32]), reason: "full".to_owned() };
    let refused = RegistryFrame::Refused(refused);
    let mut shots = shots(bench, &honest, &first());
    shots.push(Shot::ignored("a refusal of nothing", refused.to_bytes()));
    shots.extend(misshapen(&refused, Refused::LIMIT));
    bench.fire_as_registry(shots).await;
    assert_eq!(bench.home.state_of(bench.service).await, None, "nothing is served without a lease");
    bench.registry().hold(&[]).await;
    bench.tell(RegistryFrame::Granted(honest)).await;
    bench.home.until_serving(bench.service).await;
    bench.range.accepted("LEASE").await;
}

/// The service goes on: the answer to RENEW.
pub(crate) async fn renewal(bench: &mut Bench) {
    bench.registry().hold(&["Granted"]).await;
    let honest = loop {
        match bench.held().await {
            RegistryFrame::Granted(granted) if matches!(granted.answer, Answer::Lease(_)) => break granted,
            // A RECLAIM was sent twice.
            other => bench.tell(other).await,
        }
    };
    let shots = shots(bench, &honest, &renewed());
    bench.fire_as_registry(shots).await;
    bench.registry().hold(&[]).await;
    bench.tell(RegistryFrame::Granted(honest)).await;
    bench.answers().await;
    bench.range.accepted("another LEASE").await;
}
