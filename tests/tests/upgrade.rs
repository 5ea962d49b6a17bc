//! A mesh is upgraded node by node: whoever is of the release before takes part in everything, whatever the others are.
//!
//! The node of the release before is today's, speaking the versions that it spoke. That its bytes are the released ones, frozen, is
//! shown by the vectors (`protocol/tests/vectors/released.rs`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use wayfare_net::{NetConfig, NetError, Protocol};
use wayfare_protocol::{
    migration::messages::{Refused, RegistryFrame},
    registry::unknown_hash,
    reject::Reject,
    suite::fresh_secret,
    trust::Role,
    wire::VERSIONS,
};
use wayfare_tests::{
    hand::entropy,
    ledger::Watched,
    peer::Peer,
    range::Range,
    real::{Authority, RealGateway, RealHost, RealRegistry},
    shot::Shot,
};

/// What the release before speaks.
const BEFORE: &[u8] = &[1];

/// Joins, deploys, asks, moves there and back, and asks again: with `old` nodes of the release before.
async fn everything_works(seed: u8, old: &[&str]) {
    let versions = |who: &str| if old.contains(&who) { BEFORE } else { VERSIONS };
    let authority = Authority::Real(RealRegistry::speaking(seed, versions("registry")).await);
    let home = RealHost::speaking(&authority, "home", Role::Cloud, &[], versions("home")).await;
    let (realm, at_home) = (authority.realm().clone(), home.at.addresses.clone());
    let cloud = RealHost::speaking(&authority, "cloud", Role::Cloud, &at_home, versions("cloud")).await;
    let gateway = RealGateway::speaking(&authority, &["kv"], versions("gateway")).await;
    let service = home.deploy(&realm, "kv").await;
    assert_eq!(gateway.count("kv").await, 1, "{old:?}");
    home.until_meets(&[&cloud]).await;
    home.begin_move(service, cloud.host()).await;
    cloud.until_serving(service).await;
    assert_eq!(gateway.count("kv").await, 2, "{old:?}");
    cloud.until_meets(&[&home]).await;
    cloud.begin_move(service, home.host()).await;
    home.until_serving(service).await;
    assert_eq!(gateway.count("kv").await, 3, "{old:?}");
    let highest = VERSIONS[0];
    let between = |a: &str, b: &str| if old.contains(&a) || old.contains(&b) { BEFORE[0] } else { highest };
    let addresses = cloud.at.addresses.clone();
    let stream = home.peer.net.open(cloud.host(), &addresses, Protocol::Migrate).await.unwrap();
    assert_eq!(stream.version(), between("home", "cloud"), "{old:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_registry_serves_new_nodes() {
    everything_works(150, &["registry"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_source_moves_to_a_new_target() {
    everything_works(151, &["home"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_source_moves_to_an_old_target() {
    everything_works(152, &["cloud"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_gateway_follows_a_service_among_new_nodes() {
    everything_works(153, &["gateway"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_registry_serves_old_nodes() {
    everything_works(154, &["home", "cloud", "gateway"]).await;
}

/// What a newer node may say one day: it is refused by name, and the stream goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_an_unknown_kind_is_refused_and_the_stream_stays() {
    let registry = RealRegistry::start(155).await;
    let (handle, at) = (registry.running.handle().clone(), registry.whereabouts());
    let authority = Authority::Real(registry);
    let home = RealHost::start(&authority, "home", Role::Home, &[]).await;
    let peer = Peer::with(NetConfig::local(*fresh_secret(&mut entropy()).expose())).await;
    let token = authority.join_token("late", Role::Cloud).await;
    let realm = authority.realm().clone();

    let unknown = [VERSIONS[0], 250, 7, 7, 7];
    let mut line = peer.line(&at, Protocol::Registry).await;
    let mut range = Range::open(Watched::Registry(handle)).await;
    line.send(&unknown).await;
    let refused = Refused { about: unknown_hash(&unknown), reason: Reject::UnknownMessage.name().to_owned() };
    assert_eq!(line.hear::<RegistryFrame>().await, RegistryFrame::Refused(refused));
    range.judge(&Shot::new("an unknown kind", vec![], Reject::UnknownMessage)).await;
    // On the same stream.
    let enrol = realm.hears(&peer.secret).sign(&realm.enrol(&peer.secret, Role::Cloud, token.secret.hash()));
    line.say(&RegistryFrame::Enrol(enrol)).await;
    assert!(matches!(line.hear().await, RegistryFrame::Enrolled(_)));
    range.close();

    let mut line = peer.line(&home.at, Protocol::Migrate).await;
    let mut range = Range::open(Watched::Host(home.handle.clone())).await;
    for _ in 0..3 {
        line.send(&unknown).await;
        range.judge(&Shot::new("an unknown kind, on a stream that stays", vec![], Reject::UnknownMessage)).await;
    }
    // What is wrong at any version still ends it.
    line.send(&[1, 4]).await;
    range.judge(&Shot::new("4 without a body", vec![], Reject::Malformed)).await;
    assert!(line.receive().await.is_err());
    range.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_time_is_told_what_to_upgrade() {
    let authority = Authority::Real(RealRegistry::start(156).await);
    let late = Peer::with(NetConfig { versions: vec![9], ..NetConfig::local([157; 32]) }).await;
    let at = authority.whereabouts();
    let error = late.net.open(at.host, &at.addresses, Protocol::Registry).await.unwrap_err();
    assert!(matches!(error, NetError::NoCommonVersion { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("wayfare/") && text.ends_with("this node 9: upgrade it"), "{text}");
}
