//! Addresses that change: of the Registry, of nodes; and peers that are found on a LAN.
//!
//! The tests that need a LAN run within a network namespace of their own, so that nothing is announced on a real one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{net::IpAddr, process::Command, sync::Arc};

use futures::TryStreamExt as _;
use rtnetlink::{LinkBridge, LinkUnspec};
use tempfile::TempDir;
use wayfare_net::{CancellationToken, DirectConnector, NetConfig, Protocol};
use wayfare_node::{
    config::Config,
    node::{self, NodeOptions, RunningNode},
    state::StateDir,
};
use wayfare_protocol::{
    ids::HostId,
    suite::fresh_secret,
    trust::{JoinToken, Role},
};
use wayfare_tests::{
    hand::entropy,
    peer::{Peer, until},
    real::{Authority, RealGateway, RealHost, RealRegistry, driver},
};

/// Where nobody listens: the port was free a moment ago, and is of no use to anybody else.
fn nobody() -> Vec<String> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    vec![format!("/ip4/127.0.0.1/tcp/{}", socket.local_addr().unwrap().port())]
}

/// A cloud as `wayfare run` starts it.
async fn cloud(token: JoinToken, edit: impl FnOnce(&mut Config)) -> (RunningNode, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    edit(&mut config);
    let mut options = NodeOptions::joining(StateDir::new(dir.path()), token, config);
    options.driver = Some(driver());
    let node = node::start(options, Arc::new(DirectConnector), CancellationToken::new()).await.unwrap();
    (node, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_moved_is_found_again_and_decides() {
    let authority = Authority::Real(RealRegistry::start(160).await);
    let home = RealHost::start(&authority, "home", Role::Cloud, &[]).await;
    let at_home = home.at.addresses.clone();
    let cloud = RealHost::start(&authority, "cloud", Role::Cloud, &at_home).await;
    let realm = authority.realm().clone();
    let service = home.deploy(&realm, "kv").await;
    home.until_meets(&[&cloud]).await;

    let Authority::Real(registry) = authority else { unreachable!() };
    let registry = registry.moved().await;
    let at = registry.whereabouts();
    // The home is told, since its address is on the Registry's disk; the cloud, once it advertises.
    until("both to be connected with the registry, where it is now", async || {
        cloud.handle.with(|host, _, _| host.set_cordoned(false)).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let connected = |host: &RealHost| !host.peer.net.routes(at.host).is_empty();
        (connected(&home) && connected(&cloud)).then_some(())
    })
    .await;
    home.begin_move(service, cloud.host()).await;
    cloud.until_serving(service).await;
    let authority = Authority::Real(registry);
    let gateway = RealGateway::start(&authority, &["kv"]).await;
    assert_eq!(gateway.count("kv").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_a_dead_address_joins_through_its_bootstrap() {
    let authority = Authority::Real(RealRegistry::start(161).await);
    let mut token = authority.join_token("late", Role::Cloud).await;
    token.anchor.addresses = nobody();
    let bootstrap = authority.whereabouts().addresses;
    let (node, _dir) = cloud(token, |config| config.node.bootstrap = bootstrap).await;
    assert_eq!(node.certificate.name, "late");
    assert!(node.stop().await);
}

/// Who answers at the Registry's address, and is somebody else, gets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_the_registry_is_only_a_hint() {
    let authority = Authority::Real(RealRegistry::start(162).await);
    let impostor = Peer::start(163).await;
    let mut asked = impostor.net.accept(Protocol::Registry).unwrap();
    let mut token = authority.join_token("wary", Role::Cloud).await;
    token.anchor.addresses = impostor.net.listen_addresses();
    let bootstrap = [impostor.net.listen_addresses(), authority.whereabouts().addresses].concat();
    let (node, _dir) = cloud(token, |config| config.node.bootstrap = bootstrap).await;
    assert_eq!(node.certificate.name, "wary");
    assert!(asked.try_recv().is_err(), "the impostor was asked to enrol it");
    assert!(node.stop().await);
}

/// Runs an ignored test of this file in a network namespace of its own.
fn alone(test: &str) {
    let mut unshare = Command::new("unshare");
    if rustix::process::geteuid().is_root() {
        unshare.arg("--net");
    } else {
        unshare.args(["--user", "--map-root-user", "--net"]);
    }
    unshare.arg("--").arg(std::env::current_exe().unwrap()).args(["--exact", test, "--ignored", "--nocapture"]);
    let status =
        unshare.env(ALONE, "1").status().unwrap_or_else(|error| panic!("`unshare` (util-linux) is needed: {error}"));
    assert!(status.success(), "{test} failed, or network namespaces are forbidden here ({status})");
}

/// Says that the process is in a namespace of its own.
const ALONE: &str = "WAYFARE_TEST_ALONE";

/// The network of this process's own namespace.
struct Lan {
    handle: rtnetlink::Handle,
    index: u32,
}

impl Lan {
    /// The loopback, and a bridge with the address 10.9.0.1/24.
    async fn make() -> Self {
        assert!(std::env::var_os(ALONE).is_some(), "runs within another test");
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
        handle.link().add(LinkBridge::new("wf0").up().build()).execute().await.unwrap();
        let found = handle.link().get().match_name("wf0".to_owned()).execute().try_next().await.unwrap();
        let lan = Self { handle, index: found.unwrap().header.index };
        lan.add([10, 9, 0, 1]).await;
        lan
    }

    async fn add(&self, address: [u8; 4]) {
        self.handle.address().add(self.index, IpAddr::from(address), 24).execute().await.unwrap();
    }

    async fn remove(&self, address: [u8; 4]) {
        let mut addresses = self.handle.address().get().set_address_filter(IpAddr::from(address)).execute();
        let found = addresses.try_next().await.unwrap().unwrap();
        self.handle.address().del(found).execute().await.unwrap();
    }
}

fn on_all_interfaces() -> Vec<String> {
    vec!["/ip4/0.0.0.0/tcp/0".to_owned(), "/ip4/0.0.0.0/udp/0/quic-v1".to_owned()]
}

#[test]
fn peers_on_a_lan_find_each_other_by_mdns_if_they_want_to() {
    alone("within_a_lan_peers_find_each_other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs within peers_on_a_lan_find_each_other_by_mdns_if_they_want_to"]
async fn within_a_lan_peers_find_each_other() {
    let _lan = Lan::make().await;
    let start = async |mdns| {
        let config =
            NetConfig { mdns, listen: on_all_interfaces(), ..NetConfig::local(*fresh_secret(&mut entropy()).expose()) };
        Peer::with(config).await
    };
    let shy = start(false).await;
    let (a, b) = (start(true).await, start(true).await);
    until("both to be connected", async || {
        (!a.net.routes(b.host).is_empty() && !b.net.routes(a.host).is_empty()).then_some(())
    })
    .await;
    // By a key alone, with an address at which nobody is.
    a.net.probe(b.host, &nobody()).await.unwrap();
    // Who did not ask to be found was not, and has found nobody.
    assert_eq!((shy.net.connected(), a.net.connected(), b.net.connected()), (0, 1, 1));
}

#[test]
fn a_node_finds_its_registry_on_the_lan_and_its_new_addresses_become_known() {
    alone("within_a_lan_the_registry_is_found_and_new_addresses_are_told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs within a_node_finds_its_registry_on_the_lan_and_its_new_addresses_become_known"]
async fn within_a_lan_the_registry_is_found_and_new_addresses_are_told() {
    let lan = Lan::make().await;
    let registry = RealRegistry::configured(164, |config| {
        config.listen = on_all_interfaces();
        config.mdns = true;
    });
    let authority = Authority::Real(registry.await);
    let mut token = authority.join_token("fjord", Role::Cloud).await;
    token.anchor.addresses = nobody();
    let (node, _dir) = cloud(token, |config| {
        config.node.listen = on_all_interfaces();
        config.node.mdns = true;
    })
    .await;
    let gateway = RealGateway::start(&authority, &["kv"]).await;
    let host = node.net.host_id();

    assert!(node.addresses().iter().any(|address| address.starts_with("/ip4/10.9.0.1/tcp/")));
    lan.add([10, 9, 0, 2]).await;
    for expected in ["/ip4/10.9.0.2/tcp/", "/ip4/10.9.0.2/udp/"] {
        until("the gateway to hear of the new address", async || {
            advertised(&gateway, host).await.iter().any(|address| address.starts_with(expected)).then_some(())
        })
        .await;
    }
    assert!(node.addresses().iter().any(|address| address.starts_with("/ip4/10.9.0.2/tcp/")));
    lan.remove([10, 9, 0, 2]).await;
    until("the gateway to hear that it is gone", async || {
        advertised(&gateway, host).await.iter().all(|address| !address.contains("10.9.0.2")).then_some(())
    })
    .await;
    assert!(node.stop().await);
}

/// The addresses at which a gateway would look for a host.
async fn advertised(gateway: &RealGateway, host: HostId) -> Vec<String> {
    let known = move |machine: &mut wayfare_node::gateway::Machine, now: wayfare_protocol::time::Now| {
        machine.adverts().get(now.wall, host).map(|known| known.advert.addresses.clone()).unwrap_or_default()
    };
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    gateway.handle.with(known).await.unwrap()
}
