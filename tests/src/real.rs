//! Real nodes: the product's own drivers, over loopback sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::{sync::DropGuard, task::TaskTracker};
use wayfare_net::{CancellationToken, DirectConnector, NetConfig, Protocol};
use wayfare_node::{
    gateway::{self, GatewayHandle, GatewayParts},
    host::{self, HostHandle, HostParts},
};
use wayfare_protocol::{
    gateway::GatewayConfig,
    host::{HostConfig, Identity},
    ids::{HostId, ServiceId},
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, RECOVERY_WINDOW},
    migration::messages::{Lookup, RegistryFrame},
    placement::{PlacementConfig, Policy},
    registry::StoreOp,
    reject::Strict,
    suite::{Dalek, Secret, fresh_secret},
    time::Micros,
    trust::{Certificate, JoinToken, Receiver, Role, Signed},
    wire::VERSIONS,
};
use wayfare_registry::{
    Config, RunningRegistry, StoreChoice, mark_restored, run,
    store::{MemoryStore, Row, Store as _},
};

use crate::{
    hand::{CAPACITY, Realm, entropy, now},
    peer::{PATIENCE, Peer, Whereabouts, until, within},
    puppet::registry::PuppetRegistry,
};

/// How long a host waits for the next message: longer than all the messages take that are fired meanwhile, on any machine.
const STEP_TIMEOUT: Micros = Micros::from_secs(120);

pub use sim_net::attack::source::{KV, KV_CODE, driver};

/// The product's registry.
pub struct RealRegistry {
    /// Its key and how others know it.
    pub realm: Realm,
    /// The registry.
    pub running: RunningRegistry,
    store: MemoryStore,
    stop: DropGuard,
}

impl RealRegistry {
    /// Starts one, whose key the test knows.
    pub async fn start(seed: u8) -> Self {
        Self::speaking(seed, VERSIONS).await
    }

    /// Starts one of these versions of the protocol.
    pub async fn speaking(seed: u8, versions: &[u8]) -> Self {
        Self::configured(seed, |config| config.versions = versions.to_vec()).await
    }

    /// Starts one with another configuration.
    pub async fn configured(seed: u8, edit: impl FnOnce(&mut Config)) -> Self {
        Self::on(MemoryStore::default(), Secret::new([seed; 32]), edit).await
    }

    /// Stops, and starts again with the same records, at another address.
    pub async fn moved(self) -> Self {
        let Self { realm, running, store, stop } = self;
        let before = running.addresses().to_vec();
        // The port stays taken until the other is chosen.
        let moved = Self::on(store.clone(), realm.secret.clone(), |_| ()).await;
        assert_ne!(before, moved.running.addresses());
        drop(stop);
        within("the registry to stop", running.stopped()).await.unwrap();
        moved
    }

    async fn on(store: MemoryStore, secret: Secret, edit: impl FnOnce(&mut Config)) -> Self {
        let choice = StoreChoice::Memory(store.clone());
        let mut config = Config { store: choice, ..Config::in_process(secret.clone()) };
        edit(&mut config);
        let stop = CancellationToken::new();
        let running = run(config, Arc::new(DirectConnector), stop.clone()).await.unwrap();
        let anchor = running.anchor().clone();
        Self { realm: Realm::new(anchor.id, secret, anchor), running, store, stop: stop.drop_guard() }
    }

    /// Waits until everything is decided about again after a restore.
    pub async fn until_resumed(&self) {
        let resumed = async {
            while self.running.handle().recovery().await.unwrap().is_none_or(|view| view.suspended > 0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let longest = Duration::from_micros(RECOVERY_WINDOW.0) + PATIENCE;
        tokio::time::timeout(longest, resumed).await.unwrap_or_else(|_| panic!("services wait for too long"));
    }

    /// What is on its disk.
    pub fn records(&self) -> Vec<Row> {
        self.store.clone().load().unwrap()
    }

    /// The disk is lost, and an operator has restored the registry from `backup`, on another machine: nobody who knew where
    /// it was finds it again.
    pub async fn restored(self, backup: &[Row]) -> Self {
        let Self { realm, running, stop, .. } = self;
        drop(stop);
        within("the registry to stop", running.stopped()).await.unwrap();
        let put = |(table, key, value): &Row| StoreOp { table: *table, key: key.clone(), value: Some(value.clone()) };
        let mut store = MemoryStore::default();
        store.commit(&backup.iter().map(put).collect::<Vec<_>>()).unwrap();
        mark_restored(&mut store, realm.id).unwrap();
        Self::on(store, realm.secret, |_| ()).await
    }

    /// Where it is.
    pub fn whereabouts(&self) -> Whereabouts {
        Whereabouts { host: self.realm.anchor.host(), addresses: self.running.addresses().to_vec() }
    }
}

/// Whoever decides.
pub enum Authority {
    /// The product's registry.
    Real(RealRegistry),
    /// A puppet.
    Puppet(PuppetRegistry),
}

impl Authority {
    /// Its key and how others know it.
    pub const fn realm(&self) -> &Realm {
        match self {
            Self::Real(registry) => &registry.realm,
            Self::Puppet(registry) => &registry.realm,
        }
    }

    /// The puppet.
    pub const fn puppet(&mut self) -> &mut PuppetRegistry {
        match self {
            Self::Puppet(registry) => registry,
            Self::Real(_) => panic!("a real registry"),
        }
    }

    /// Where it is.
    pub fn whereabouts(&self) -> Whereabouts {
        match self {
            Self::Real(registry) => registry.whereabouts(),
            Self::Puppet(registry) => registry.whereabouts(),
        }
    }

    /// Permission to join.
    pub async fn join_token(&self, name: &str, role: Role) -> JoinToken {
        match self {
            Self::Real(registry) => {
                registry.running.handle().join_token(name, role, Duration::from_secs(3600)).await.unwrap()
            }
            Self::Puppet(registry) => registry.join_token(name, role).await,
        }
    }

    /// Makes `peer` a member.
    pub async fn enrol(&self, peer: &Peer, name: &str, role: Role) -> Signed<Certificate> {
        let token = self.join_token(name, role).await;
        let realm = self.realm();
        let enrol = realm.hears(&peer.secret).sign(&realm.enrol(&peer.secret, role, token.secret.hash()));
        let mut line = peer.line(&self.whereabouts(), Protocol::Registry).await;
        line.say(&RegistryFrame::Enrol(enrol)).await;
        match line.hear().await {
            RegistryFrame::Enrolled(enrolled) => enrolled.certificate,
            other => panic!("{name} is not enrolled: {other:?}"),
        }
    }

    /// Where every service is: `service epoch host`, in order.
    pub async fn placements(&self) -> Vec<String> {
        match self {
            Self::Real(registry) => {
                let views = registry.running.handle().placements().await.unwrap();
                views.iter().map(|view| format!("{} {} {}", view.service, view.epoch, view.host)).collect()
            }
            Self::Puppet(registry) => {
                let mut lines = registry
                    .with(|machine, now| {
                        let line = |view: wayfare_protocol::registry::PlacementView<'_>| {
                            let placement = view.placement;
                            format!("{} {} {}", placement.service, placement.epoch, placement.host)
                        };
                        machine.placements(now).map(line).collect::<Vec<_>>()
                    })
                    .await;
                lines.sort();
                lines
            }
        }
    }
}

/// A cloud or a home, as the product runs it.
pub struct RealHost {
    /// Its name.
    pub name: &'static str,
    /// Its key.
    pub secret: Secret,
    /// Its certificate.
    pub certificate: Signed<Certificate>,
    /// The node.
    pub handle: HostHandle,
    /// Where it is.
    pub at: Whereabouts,
    /// Its place on the mesh.
    pub peer: Peer,
    stop: CancellationToken,
    _dir: TempDir,
}

impl RealHost {
    /// Joins and starts.
    pub async fn start(authority: &Authority, name: &'static str, role: Role, bootstrap: &[String]) -> Self {
        Self::speaking(authority, name, role, bootstrap, VERSIONS).await
    }

    /// Joins and starts, speaking these versions of the protocol.
    pub async fn speaking(
        authority: &Authority,
        name: &'static str,
        role: Role,
        bootstrap: &[String],
        versions: &[u8],
    ) -> Self {
        let seed = *fresh_secret(&mut entropy()).expose();
        let (bootstrap, versions) = (bootstrap.to_vec(), versions.to_vec());
        let config = NetConfig { bootstrap, versions, ..NetConfig::local(seed) };
        let mut peer = Peer::with(config).await;
        let certificate = authority.enrol(&peer, name, role).await;
        let realm = authority.realm();
        let (registry, verified) =
            realm.bundle().verify_certificate::<Dalek, Strict>(&certificate, peer.host, &[role], now().wall).unwrap();
        let placement = PlacementConfig { policy: Policy::Never, ..PlacementConfig::default() };
        let dir = tempfile::tempdir().unwrap();
        let unused = tokio::sync::mpsc::channel(1).1;
        let parts = HostParts {
            identity: Identity { secret: peer.secret.clone(), registry, certificate: verified },
            config: HostConfig {
                capacity: CAPACITY,
                price_micros: 0,
                placement,
                step_timeout: STEP_TIMEOUT,
                image_log_bytes: IMAGE_LOG_BYTES_MIN,
                compact_journal_bytes: COMPACT_JOURNAL_BYTES_MIN,
            },
            bundle: realm.bundle(),
            net: peer.net.clone(),
            net_events: std::mem::replace(&mut peer.events, unused),
            advertised: Vec::new(),
            dir: dir.path().to_owned(),
            driver: driver(),
            forget_lost: false,
            spans: Default::default(),
            witness: None,
        };
        let stop = CancellationToken::new();
        let handle = host::start(parts, &TaskTracker::new(), stop.clone()).unwrap();
        let at = peer.whereabouts();
        Self { name, secret: peer.secret.clone(), certificate, handle, at, peer, stop, _dir: dir }
    }

    /// Its key as a name.
    pub const fn host(&self) -> HostId {
        self.at.host
    }

    /// Takes a service on, and waits until it serves.
    pub async fn deploy(&self, realm: &Realm, name: &str) -> ServiceId {
        let owner = fresh_secret(&mut entropy());
        let manifest = realm.manifest(&owner, name, *KV_CODE);
        let signed = realm.signer(&owner, Receiver::Anyone).sign(&manifest);
        let service = self.handle.deploy(signed, KV.to_vec()).await.unwrap();
        self.until_serving(service).await;
        service
    }

    /// What the host says of a service: serving, frozen, …; `None` if it is not here.
    pub async fn state_of(&self, service: ServiceId) -> Option<String> {
        let name = service.to_string();
        let find = move |host: &mut wayfare_protocol::host::Host, now, _: &mut _| {
            let views = host.services(now);
            views.into_iter().find(|view| view.service == name).map(|view| view.state)
        };
        self.handle.with(find).await.unwrap()
    }

    /// Waits until the service is served here.
    pub async fn until_serving(&self, service: ServiceId) {
        until("the service to be served", async || {
            self.state_of(service).await.filter(|state| state == "serving").map(|_| ())
        })
        .await;
    }

    /// Hears of a gossiped message, as if a peer had passed it on.
    pub async fn hear(&self, gossip: Vec<u8>) {
        self.handle.with(move |host, now, _| host.handle_gossip(now, &gossip)).await.unwrap().unwrap();
    }

    /// Begins to move a service.
    pub async fn begin_move(&self, service: ServiceId, to: HostId) {
        let begun = self.handle.with(move |host, now, rng| host.begin_move(now, service, to, "asked", rng));
        begun.await.unwrap().unwrap_or_else(|reject| panic!("{} cannot begin a move: {reject}", self.name));
    }

    /// Waits until these clouds' adverts are here.
    pub async fn until_meets(&self, clouds: &[&Self]) {
        until("the clouds to meet", async || {
            for cloud in clouds {
                // To be cordoned or not is news: it advertises at once.
                cloud.handle.with(|host, _, _| host.set_cordoned(false)).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let known: Vec<String> = self
                .handle
                .with(|host, now, _| host.clouds(now).into_iter().map(|cloud| cloud.host).collect())
                .await
                .unwrap();
            clouds.iter().all(|cloud| known.contains(&cloud.host().to_string())).then_some(())
        })
        .await;
    }
}

impl Drop for RealHost {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A gateway, as the product runs it.
pub struct RealGateway {
    /// The node.
    pub handle: GatewayHandle,
    /// Where it is.
    pub at: Whereabouts,
    stop: CancellationToken,
    _dir: TempDir,
    _peer: Peer,
}

impl RealGateway {
    /// Joins and starts; carries requests for services of these names.
    pub async fn start(authority: &Authority, services: &[&str]) -> Self {
        Self::speaking(authority, services, VERSIONS).await
    }

    /// As [`start`](Self::start), speaking these versions of the protocol.
    pub async fn speaking(authority: &Authority, services: &[&str], versions: &[u8]) -> Self {
        let seed = *fresh_secret(&mut entropy()).expose();
        let mut peer = Peer::with(NetConfig { versions: versions.to_vec(), ..NetConfig::local(seed) }).await;
        let certificate = authority.enrol(&peer, "user", Role::Gateway).await;
        let realm = authority.realm();
        let dir = tempfile::tempdir().unwrap();
        let unused = tokio::sync::mpsc::channel(1).1;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let parts = GatewayParts {
            config: GatewayConfig::new(peer.host, certificate, realm.bundle(), realm.id),
            net: peer.net.clone(),
            net_events: std::mem::replace(&mut peer.events, unused),
            services: services.iter().map(|name| (Lookup::Name((*name).to_owned()), any)).collect(),
            probe_interval: Duration::from_secs(3600),
            dir: dir.path().to_owned(),
            witness: None,
        };
        let stop = CancellationToken::new();
        let handle = gateway::start(parts, &TaskTracker::new(), stop.clone()).await.unwrap();
        Self { handle, at: peer.whereabouts(), stop, _dir: dir, _peer: peer }
    }

    /// The address for the clients of the service of this name.
    pub fn port(&self, service: &str) -> SocketAddr {
        let of = |(lookup, _): &&(Lookup, SocketAddr)| *lookup == Lookup::Name(service.to_owned());
        self.handle.listening().iter().find(of).unwrap().1
    }

    /// Counts one up, and reads the new count.
    pub async fn count(&self, service: &str) -> u64 {
        let text = within("a response", http(self.port(service), "POST /count")).await;
        text.trim().parse().unwrap_or_else(|_| panic!("no count: {text}"))
    }
}

impl Drop for RealGateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One HTTP request without a body; the response's body, if it is 200.
pub async fn http(address: SocketAddr, what: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{what} HTTP/1.1\r\nhost: kv\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{what}: {text}");
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}
