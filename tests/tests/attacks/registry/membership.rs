//! ENROL, REGISTER with the manifest, RENEW, lookups.

use std::time::Duration;

use wayfare_protocol::{
    ids::{CloudId, Digest},
    limits::{ADDRESSES_MAX, POLICY_ENTRIES_MAX, TEXT_BYTES_MAX},
    manifest::Manifest,
    migration::messages::*,
    reject::Reject,
    trust::{Receiver, Role, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Row, Table, ids, service,
    },
    hand::{nonce, placement_key},
    real::{Authority, KV_CODE},
    rows,
    shot::{Altered as _, Shot, misshapen, oversized, thief},
};

use super::Bench;
use crate::coverage::{Covered, covers};

fn long_text(text: &mut String) {
    *text = "x".repeat(TEXT_BYTES_MAX + 1);
}

fn enrol() -> Table<Enrol> {
    rows!(Enrol {
        host => Reject::WrongPeer;
        role => Reject::WrongRole;
        region = long_text => Reject::FieldTooLong;
        token => Reject::BadToken, raw Reject::BadToken;
        nonce => Free("the node's own: it recognises the answer by it");
    })
}

fn register() -> Table<Register> {
    rows!(Register {
        service.registry => Reject::UnknownRegistry, raw Reject::UnknownRegistry;
        service.unique => Reject::WrongService;
        manifest => Reject::WrongManifest;
        key => Reject::BadSignature;
        host => Reject::WrongPeer;
        nonce => Free("the host's own: it recognises the answer by it");
    })
}

pub(super) const OWNERS: Expect = Free("the owner's choice");

pub(super) fn manifest() -> Table<Manifest> {
    rows!(Manifest {
        name => Reject::WrongService;
        name = long_text => Reject::FieldTooLong;
        name = String::clear => Reject::FieldTooLong;
        owner => Reject::BadSignature;
        version => OWNERS;
        code => OWNERS;
        tos => OWNERS;
        required.cpu_millicores => OWNERS;
        required.memory_bytes => OWNERS;
        required.storage_bytes => OWNERS;
        required.bandwidth_bps => OWNERS;
        max_rtt => OWNERS;
        baseline => OWNERS;
        allowed_clouds = |clouds| clouds.push(CloudId([1; 16])) => Reject::PolicyForbids;
        allowed_clouds = |clouds| *clouds = vec![CloudId([1; 16]); POLICY_ENTRIES_MAX + 1] => Reject::FieldTooLong;
        allowed_regions = |regions| regions.push("elsewhere".to_owned()) => Reject::PolicyForbids;
        allowed_regions = |regions| regions.push("x".repeat(TEXT_BYTES_MAX + 1)) => Reject::FieldTooLong;
        allowed_domains = |domains| domains.push("x".repeat(TEXT_BYTES_MAX + 1)) => Reject::FieldTooLong;
        allowed_domains = |domains| *domains = vec![String::new(); POLICY_ENTRIES_MAX + 1] => Reject::FieldTooLong;
        durability = |durability| *durability = wayfare_protocol::manifest::Durability::Log => OWNERS;
        token_policy = |policy| *policy = wayfare_protocol::manifest::TokenPolicy::Allow => OWNERS;
    })
    .nest("service", |manifest| &mut manifest.service, service(Reject::WrongService))
}

fn register_frame() -> Table<RegisterFrame> {
    const SIGNED: Expect = Free("a table of its own");
    rows!(RegisterFrame {
        register = |_| () => SIGNED;
        manifest = |_| () => SIGNED;
        addresses = |list| *list = vec![String::new(); ADDRESSES_MAX + 1] => Reject::FieldTooLong;
        addresses = |list| list.push("x".repeat(TEXT_BYTES_MAX + 1)) => Reject::FieldTooLong;
    })
}

fn renew() -> Table<Renew> {
    rows!(Renew {
        nonce => Free("the host's own: another nonce is another request");
    })
    .nest("ids", |renew| &mut renew.ids, ids())
    .but("ids.service.registry", Reject::UnknownRegistry)
    .raw("ids.service.registry", Reject::UnknownRegistry)
    .but("ids.service.unique", Reject::UnknownService)
    .raw("ids.service.unique", Reject::UnknownService)
    // An earlier epoch is looked up before its key is known.
    .raw("ids.epoch.era", Reject::WrongEpoch)
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "registry";
    // An enum: what it may hold has shots of its own.
    let lookup =
        Table(vec![Row::<Lookup>::new("", |_| (), Free("a name or an identifier, the asker's to choose"), None)]);
    vec![
        covers(to, &lookup),
        covers(to, &enrol()),
        covers(to, &register()),
        covers(to, &manifest()),
        covers(to, &register_frame()),
        covers(to, &renew()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolment_registration_and_renewal() {
    let mut bench = Bench::start(10).await;
    enrolment(&mut bench).await;
    registration(&mut bench).await;
    renewal(&mut bench).await;
    lookups(&mut bench).await;
    bench.close().await;
}

async fn enrolment(bench: &mut Bench) {
    let token = bench.authority.join_token("newcomer", Role::Cloud).await.secret.hash();
    let realm = bench.authority.realm().clone();
    let secret = bench.stranger.secret.clone();
    let signer = realm.hears(&secret);
    let base = || realm.enrol(&secret, Role::Cloud, token);
    let wrap = |signed| RegistryFrame::Enrol(signed).to_bytes();
    let mut shots = signer.shots(&enrol(), base, wrap, Reject::BadSignature);
    shots.extend(misshapen(&RegistryFrame::Enrol(signer.sign(&base())), <Signed<Enrol>>::LIMIT));
    // A token whose time is over, and one of a provider that was revoked with its invitations.
    let Authority::Real(registry) = &bench.authority else { panic!("a real registry") };
    let handle = registry.running.handle();
    let late = handle.join_token("late", Role::Cloud, Duration::ZERO).await.unwrap().secret.hash();
    let late = signer.sign(&realm.enrol(&secret, Role::Cloud, late));
    shots.push(Shot::frame("ENROL with an expired token", &RegistryFrame::Enrol(late), Reject::BadToken));
    bench.fire(|bench| &bench.stranger, shots).await;
    // Nobody else's lookups are answered yet.
    let lookup = RegistryFrame::Lookup(Lookup::Name("kv".to_owned()));
    let early = Shot::frame("a lookup of somebody not enrolled", &lookup, Reject::NotEnrolled);
    bench.fire(|bench| &bench.stranger, vec![early]).await;

    let honest = RegistryFrame::Enrol(signer.sign(&base()));
    let answer = bench.ask_twice(|bench| &bench.stranger, &honest).await;
    assert!(matches!(answer, RegistryFrame::Enrolled(_)), "{answer:?}");
    let again = RegistryFrame::Enrol(signer.sign(&base()));
    let stolen = RegistryFrame::Enrol(realm.hears(&bench.gateway.secret).sign(&realm.enrol(
        &bench.gateway.secret,
        Role::Cloud,
        token,
    )));
    let used = [Shot::frame("ENROL, other bytes with a used token", &again, Reject::BadToken)];
    bench.fire(|bench| &bench.stranger, used.to_vec()).await;
    let used = [Shot::frame("ENROL with another's token", &stolen, Reject::BadToken)];
    bench.fire(|bench| &bench.gateway, used.to_vec()).await;
    let other = bench.authority.join_token("elsewhere", Role::Cloud).await.secret.hash();
    let other = RegistryFrame::Enrol(signer.sign(&realm.enrol(&secret, Role::Cloud, other)));
    let moved = [Shot::frame("ENROL under another name", &other, Reject::Conflict)];
    bench.fire(|bench| &bench.stranger, moved.to_vec()).await;
}

async fn registration(bench: &mut Bench) {
    let base = bench.service.clone();
    let owner = base.realm.signer(&base.owner, Receiver::Anyone);
    let wrap = |register: Signed<Register>, manifest: Signed<Manifest>| {
        RegistryFrame::Register(RegisterFrame { register, manifest, addresses: vec![] }).to_bytes()
    };
    let signer = base.to_registry();
    let mut shots = signer.shots(
        &register(),
        || base.register(),
        |signed| wrap(signed, base.signed_manifest.clone()),
        Reject::BadSignature,
    );
    // The host goes along with whatever manifest it is given: the owner's signature must stop it.
    let with_manifest = |manifest: Signed<Manifest>| {
        let register = Register { manifest: manifest.hash(), ..base.register() };
        wrap(signer.sign(&register), manifest)
    };
    shots.extend(owner.shots(&manifest(), || base.manifest.clone(), with_manifest, Reject::BadSignature));
    for row in register_frame().0 {
        let RegistryFrame::Register(mut frame) = bench.register_frame(&base.register()) else { unreachable!() };
        (row.edit)(&mut frame);
        if let Expect::Refused(reject) = row.resigned {
            shots.push(Shot::frame(format!("REGISTER {}", row.field), &RegistryFrame::Register(frame), reject));
        }
    }
    shots.extend(misshapen(&bench.register_frame(&base.register()), RegisterFrame::LIMIT));
    bench.fire(|bench| &bench.home, shots).await;
    let elsewhere = Shot::frame("REGISTER by another", &bench.register_frame(&base.register()), Reject::WrongPeer);
    bench.fire(|bench| &bench.fjord, vec![elsewhere]).await;
    let at_gateway = Register { host: bench.gateway.host, ..base.register() };
    let gateway = Shot::frame("REGISTER by a gateway", &bench.register_frame(&at_gateway), Reject::WrongRole);
    bench.fire(|bench| &bench.gateway, vec![gateway]).await;

    bench.register().await;
    let again = Shot::frame("REGISTER, other bytes", &bench.register_frame(&base.register()), Reject::Conflict);
    // The name is taken, whoever owns the other service.
    let namesake = base.realm.manifest(&thief(), "kv", *KV_CODE);
    let manifest = base.realm.signer(&thief(), Receiver::Anyone).sign(&namesake);
    let register = Register {
        service: namesake.service,
        manifest: manifest.hash(),
        key: placement_key(&thief()),
        ..base.register()
    };
    let register = base.realm.hears(&thief()).sign(&register);
    let taken = RegistryFrame::Register(RegisterFrame { register, manifest, addresses: vec![] });
    let taken = Shot::frame("REGISTER under a name that is taken", &taken, Reject::NameTaken);
    bench.fire(|bench| &bench.home, vec![again, taken]).await;
}

async fn renewal(bench: &mut Bench) {
    let mut line = bench.line(|bench| &bench.home).await;
    line.say(&RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
    let RegistryFrame::Found(found) = line.hear().await else { panic!("not found") };
    let placement = found.service.unwrap().0.unverified().unwrap();
    let base = || Renew { ids: placement.ids(), nonce: nonce() };
    let signer = bench.service.to_registry();
    let wrap = |signed| RegistryFrame::Renew(signed).to_bytes();
    let mut shots = signer.shots(&renew(), base, wrap, Reject::BadSignature);
    let honest = RegistryFrame::Renew(signer.sign(&base()));
    shots.extend(misshapen(&honest, <Signed<Renew>>::LIMIT));
    bench.fire(|bench| &bench.home, shots).await;
    // The placement key without the host.
    let elsewhere = Shot::frame("RENEW by another", &honest, Reject::NotHostOfRecord);
    bench.fire(|bench| &bench.fjord, vec![elsewhere]).await;
    let answer = bench.ask_twice(|bench| &bench.home, &honest).await;
    assert!(matches!(answer, RegistryFrame::Granted(Granted { answer: Answer::Lease(_), .. })), "{answer:?}");
}

async fn lookups(bench: &mut Bench) {
    let lookup = |lookup| RegistryFrame::Lookup(lookup);
    let named = lookup(Lookup::Name("kv".to_owned()));
    let mut shots = misshapen(&named, Lookup::LIMIT);
    shots.push(oversized(&named));
    let long = lookup(Lookup::Name("x".repeat(TEXT_BYTES_MAX + 1)));
    shots.push(Shot::frame("a lookup of a long name", &long, Reject::FieldTooLong));
    let nobody = Digest([0; 32]);
    let refused = RegistryFrame::Refused(Refused { about: nobody, reason: "full".to_owned() });
    let found = RegistryFrame::Found(Found { lookup: Lookup::Name("kv".to_owned()), service: None, addresses: vec![] });
    let certificate = bench.certificate.clone();
    let enrolled = RegistryFrame::Enrolled(Enrolled { nonce: nonce(), certificate });
    shots.extend(super::not_for_a_registry(vec![refused, found, enrolled]));
    bench.fire(|bench| &bench.home, shots).await;
    assert!(matches!(bench.ask_twice(|bench| &bench.gateway, &named).await, RegistryFrame::Found(_)));
    // Who was revoked is told nothing.
    let Authority::Real(registry) = &bench.authority else { panic!("a real registry") };
    registry.running.handle().revoke("newcomer").await.unwrap();
    let revoked = Shot::frame("a lookup of somebody revoked", &named, Reject::Revoked);
    bench.fire(|bench| &bench.stranger, vec![revoked]).await;
}
