//! 2 with the advert (1) and the certificate in it, and 5.

use std::cell::RefCell;

use wayfare_protocol::{
    advert::Advert,
    ids::{MigrationIds, PlacementKey},
    limits::{ADDRESSES_MAX, ADVERT_LIFETIME_MAX, CLOCK_SKEW, TEXT_BYTES_MAX},
    migration::messages::*,
    reject::Reject,
    suite::{Secret, fresh_secret},
    time::Timestamp,
    trust::{Certificate, Receiver, Role, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table, ids, service, too_little,
    },
    hand::{Realm, Service, claim, entropy, nonce, placement_key},
    real::{Authority, KV_CODE},
    rows,
    shot::{Altered as _, Shot, misshapen, thief},
};

use super::{Bench, not_for_a_registry};
use crate::coverage::{Covered, covers};

fn two() -> Table<VerifyCloud> {
    rows!(VerifyCloud {
        epoch.era => Reject::WrongEpoch;
        epoch.hop => Reject::WrongEpoch;
        // vkS signs, but names another key: then that key's signature is wanted.
        key => Reject::BadSignature;
        cloud => Reject::WrongCloud;
        host => Reject::NotEnrolled;
        advert => Reject::WrongHash;
        counter = |counter| *counter = 0 => Reject::OldCounter;
        nonce => Free("the host's own: it recognises the answer by it; a used one has a shot of its own");
    })
    .nest("service", |two| &mut two.service, service(Reject::UnknownService))
    .but("service.registry", Reject::UnknownRegistry)
    .raw("service.registry", Reject::UnknownRegistry)
}

const CLOUDS: Expect = Free("the cloud's own word");

fn long_list(list: &mut Vec<String>) {
    *list = vec![String::new(); ADDRESSES_MAX + 1];
}

fn advert() -> Table<Advert> {
    rows!(Advert {
        registry => Reject::BadCertificate, raw Reject::BadCertificate;
        cloud => Reject::WrongCloud;
        host => Reject::BadCertificate, raw Reject::BadCertificate;
        tos => Reject::WrongTos;
        cordoned => Reject::Cordoned;
        price_micros => CLOUDS;
        addresses = long_list => Reject::FieldTooLong, raw Reject::FieldTooLong;
        addresses = |list| list.push("x".repeat(TEXT_BYTES_MAX + 1)) => Reject::FieldTooLong, raw Reject::FieldTooLong;
        coordinate.position = |position| position[0] ^= 1 => CLOUDS;
        coordinate.height => CLOUDS;
        coordinate.error_ppm => CLOUDS;
        serial => Free("rises with each advert; the mesh compares it, the registry needs not");
        expiry = |expiry| *expiry = Timestamp(1) => Reject::Expired;
        expiry = |expiry| *expiry = *expiry + ADVERT_LIFETIME_MAX + CLOCK_SKEW.times(2) => Reject::NotYetValid;
    })
    .nest("resources", |advert| &mut advert.resources, too_little(Reject::NoResources))
}

/// The certificate in an advert: altered by the Registry itself, in an advert that the cloud signs anew.
fn certificate() -> Table<Certificate> {
    rows!(Certificate {
        cloud => Reject::WrongCloud;
        name => Free("the registry's own word; it reads its own records instead");
        host => Reject::BadCertificate;
        role => Reject::WrongRole;
        region => Free("the registry's own word; it reads its own records instead");
        not_before = |from| *from = Timestamp(u64::MAX / 2) => Reject::CertificateExpired;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::CertificateExpired;
    })
}

/// Before anything is pinned.
fn five() -> Table<VerifyService> {
    rows!(VerifyService {
        key => Reject::WrongPlacementKey;
        nonce => Free("the host's own until it is pinned");
        request => Free("compared by the source, which gets this verdict with 7");
        new_key => Free("the host's own until it is pinned");
    })
    .nest("ids", |five| &mut five.ids, ids())
    .but("ids.host", Reject::WrongPeer)
    .but("ids.mig", Reject::UnknownMigration)
}

/// Once it is pinned.
fn five_again() -> Table<VerifyService> {
    five().but("nonce", Reject::Reused).but("request", Reject::Reused).but("new_key", Reject::Reused)
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "registry";
    let mut adverts = advert();
    adverts.0.extend(rows!(Advert { certificate = |_| () => Free("a table of its own"); }).0);
    const SIGNED: Expect = Free("a table of its own");
    let frame = rows!(VerifyCloudFrame { request = |_| () => SIGNED; advert = |_| () => SIGNED; });
    vec![
        covers(to, &frame),
        covers(to, &two()),
        covers(to, &adverts),
        covers(to, &certificate()),
        covers(to, &five()),
        covers(to, &five_again()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts() {
    let mut bench = Bench::start(30).await;
    let early = bench.five_frame(&bench.service.five(ids_of_nothing(&bench), &thief()));
    bench.register().await;
    // 5 before 2.
    let early = Shot::frame("5 for no migration", &early, Reject::UnknownMigration);
    bench.fire(|bench| &bench.fjord, vec![early]).await;
    bench.allowed().await;
    twos(&mut bench).await;
    adverts(&mut bench).await;
    certificates(&mut bench).await;
    let ids = bench.allowed().await;
    fives(&mut bench, ids).await;
    revocation(&mut bench).await;
    bench.close().await;
}

fn ids_of_nothing(bench: &Bench) -> MigrationIds {
    let mig = wayfare_protocol::ids::MigrationId([9; 16]);
    bench.service.ids(bench.cloud(), bench.fjord.host, mig)
}

async fn twos(bench: &mut Bench) {
    let advert = bench.signed_advert();
    let signer = bench.service.to_registry();
    let (cloud, host, hash) = (bench.cloud(), bench.fjord.host, advert.hash());
    let wrap = |request| RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert: advert.clone() }).to_bytes();
    let mut service = bench.service.clone();
    let mut shots = signer.shots(&two(), || service.two(cloud, host, hash), wrap, Reject::BadSignature);
    let last = service.two(cloud, host, hash);
    shots.extend(misshapen(&bench.two_frame(&last, advert.clone()), VerifyCloudFrame::LIMIT));
    bench.fire(|bench| &bench.home, shots).await;
    // The placement key without the host, the host without the placement key.
    let elsewhere = Shot::frame("2 by another", &bench.two_frame(&last, advert.clone()), Reject::NotHostOfRecord);
    bench.fire(|bench| &bench.fjord, vec![elsewhere]).await;
    let stolen = VerifyCloud { key: placement_key(&thief()), ..service.two(cloud, host, hash) };
    let request = bench.authority.realm().hears(&thief()).sign(&stolen);
    let stolen = RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert: advert.clone() });
    let stolen = Shot::frame("2 under another placement key", &stolen, Reject::WrongPlacementKey);
    bench.fire(|bench| &bench.home, vec![stolen]).await;

    // Used numbers: whatever was answered stays answered.
    bench.service = service;
    let first = bench.service.two(cloud, host, hash);
    let answer = bench.ask_twice(|bench| &bench.home, &bench.two_frame(&first, advert.clone())).await;
    assert!(matches!(answer, RegistryFrame::YesCloud(_)), "{answer:?}");
    let same_counter = VerifyCloud { nonce: nonce(), ..first.clone() };
    let same_nonce = VerifyCloud { counter: first.counter + 1, ..first.clone() };
    let shots = vec![
        Shot::frame("2, a used counter", &bench.two_frame(&same_counter, advert.clone()), Reject::Reused),
        Shot::frame("2, a used nonce", &bench.two_frame(&same_nonce, advert.clone()), Reject::Reused),
    ];
    bench.fire(|bench| &bench.home, shots).await;
    let later = bench.service.two(cloud, host, hash);
    bench.ask_twice(|bench| &bench.home, &bench.two_frame(&later, advert.clone())).await;
    let replayed =
        Shot::frame("2 replayed after a later one", &bench.two_frame(&first, advert.clone()), Reject::OldCounter);
    bench.fire(|bench| &bench.home, vec![replayed]).await;
    bench.fire(|bench| &bench.home, not_for_a_registry(vec![answer])).await;
}

async fn adverts(bench: &mut Bench) {
    let realm = bench.authority.realm().clone();
    let signer = realm.signer(&bench.fjord.secret, Receiver::Anyone);
    let (cloud, host) = (bench.cloud(), bench.fjord.host);
    let base = bench.advert();
    let service = RefCell::new(bench.service.clone());
    let to_registry = bench.service.to_registry();
    let wrap = |advert: Signed<Advert>| {
        let request = to_registry.sign(&service.borrow_mut().two(cloud, host, advert.hash()));
        RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert }).to_bytes()
    };
    let mut shots = signer.shots(&advert(), || base.clone(), wrap, Reject::BadSignature);
    // Another host's advert, and one with another host's certificate.
    let delta = realm.advert(bench.delta.host, &bench.delta_certificate, &[]);
    let delta = realm.signer(&bench.delta.secret, Receiver::Anyone).sign(&delta);
    shots.push(Shot::new("2 with another host's advert", wrap(delta), Reject::WrongCloud));
    let odd = signer.sign(&Advert { certificate: bench.delta_certificate.clone(), ..base.clone() });
    shots.push(Shot::new("2 with another host's certificate", wrap(odd), Reject::BadCertificate));
    let service = service.into_inner();
    bench.fire(|bench| &bench.home, shots).await;
    bench.service = service;
    self_move(bench, &realm).await;
}

/// A service that is at a cloud already does not move there.
async fn self_move(bench: &mut Bench, realm: &Realm) {
    let mut local = Service::new(realm, &bench.fjord.secret, "local", *KV_CODE);
    let register = RegistryFrame::Register(RegisterFrame {
        register: local.to_registry().sign(&local.register()),
        manifest: local.signed_manifest.clone(),
        addresses: vec![],
    });
    bench.ask(|bench| &bench.fjord, &register).await;
    let advert = bench.signed_advert();
    let request = local.to_registry().sign(&local.two(bench.cloud(), bench.fjord.host, advert.hash()));
    let frame = RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert });
    bench.fire(|bench| &bench.fjord, vec![Shot::frame("2 to where it is", &frame, Reject::SelfMove)]).await;
    // A service whose owner allows only its home.
    let home = bench.authority.realm().certificate("home", bench.home.host, Role::Home).cloud;
    let mut picky = Service::new(realm, &bench.home.secret, "picky", *KV_CODE);
    picky.manifest.allowed_clouds = vec![home];
    picky.signed_manifest = realm.signer(&picky.owner, Receiver::Anyone).sign(&picky.manifest);
    let register = RegistryFrame::Register(RegisterFrame {
        register: picky.to_registry().sign(&picky.register()),
        manifest: picky.signed_manifest.clone(),
        addresses: vec![],
    });
    bench.ask(|bench| &bench.home, &register).await;
    let advert = bench.signed_advert();
    let request = picky.to_registry().sign(&picky.two(bench.cloud(), bench.fjord.host, advert.hash()));
    let frame = RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert });
    bench
        .fire(|bench| &bench.home, vec![Shot::frame("2 to where the owner forbids", &frame, Reject::PolicyForbids)])
        .await;
}

async fn certificates(bench: &mut Bench) {
    let realm = bench.authority.realm().clone();
    let cloud_signer = realm.signer(&bench.fjord.secret, Receiver::Anyone);
    let (cloud, host) = (bench.cloud(), bench.fjord.host);
    let (base, honest) = (claim(&bench.certificate), bench.advert());
    let service = RefCell::new(bench.service.clone());
    let to_registry = bench.service.to_registry();
    let wrap = |certificate: Signed<Certificate>| {
        let advert = cloud_signer.sign(&Advert { certificate, ..honest.clone() });
        let request = to_registry.sign(&service.borrow_mut().two(cloud, host, advert.hash()));
        RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert }).to_bytes()
    };
    let says = realm.says(Receiver::Anyone);
    let shots = says.shots(&certificate(), || base.clone(), wrap, Reject::BadCertificate);
    let service = service.into_inner();
    bench.fire(|bench| &bench.home, shots).await;
    bench.service = service;
}

async fn fives(bench: &mut Bench, ids: MigrationIds) {
    let new_key: Secret = fresh_secret(&mut entropy());
    let signer = bench.authority.realm().hears(&bench.fjord.secret);
    let honest = bench.service.five(ids, &new_key);
    let wrap = |signed| RegistryFrame::VerifyService(signed).to_bytes();
    let mut shots = signer.shots(&five(), || honest.clone(), wrap, Reject::BadSignature);
    shots.extend(misshapen(&bench.five_frame(&honest), <Signed<VerifyService>>::LIMIT));
    // A placement key serves one epoch.
    let old: PlacementKey = placement_key(&bench.service.key);
    let old = VerifyService { new_key: old, ..honest.clone() };
    shots.push(Shot::frame("5 with the old placement key", &bench.five_frame(&old), Reject::Reused));
    bench.fire(|bench| &bench.fjord, shots).await;
    let elsewhere = Shot::frame("5 over another's stream", &bench.five_frame(&honest), Reject::BadSignature);
    bench.fire(|bench| &bench.delta, vec![elsewhere]).await;
    let delta = bench.authority.realm().hears(&bench.delta.secret).sign(&honest);
    let thief = Shot::frame("5 by another host", &RegistryFrame::VerifyService(delta), Reject::WrongPeer);
    bench.fire(|bench| &bench.delta, vec![thief]).await;

    let answer = bench.ask_twice(|bench| &bench.fjord, &bench.five_frame(&honest)).await;
    assert!(matches!(answer, RegistryFrame::YesService(_)), "{answer:?}");
    let shots = signer.shots(&five_again(), || honest.clone(), wrap, Reject::BadSignature);
    bench.fire(|bench| &bench.fjord, shots).await;
    bench.fire(|bench| &bench.fjord, not_for_a_registry(vec![answer])).await;
    // A newer attempt ends this one.
    bench.allowed().await;
    let late = Shot::frame("5 for a migration that has ended", &bench.five_frame(&honest), Reject::Finished);
    bench.fire(|bench| &bench.fjord, vec![late]).await;
}

/// A cloud that was revoked: no verdict for it, and none to it.
async fn revocation(bench: &mut Bench) {
    let ids = bench.allowed().await;
    let Authority::Real(registry) = &bench.authority else { panic!("a real registry") };
    registry.running.handle().revoke("fjord").await.unwrap();
    let five = bench.five_frame(&bench.service.five(ids, &fresh_secret(&mut entropy())));
    bench.fire(|bench| &bench.fjord, vec![Shot::frame("5 by a revoked host", &five, Reject::Revoked)]).await;
    let advert = bench.signed_advert();
    let (cloud, host) = (bench.cloud(), bench.fjord.host);
    let two = bench.service.two(cloud, host, advert.hash());
    let two = bench.two_frame(&two, advert);
    bench.fire(|bench| &bench.home, vec![Shot::frame("2 about a revoked host", &two, Reject::Revoked)]).await;
}
