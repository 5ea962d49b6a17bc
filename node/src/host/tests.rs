//! Hosts that crash and start again: real ones, over loopback sockets, with a real Registry, gateway and service.
//!
//! A crash here ends all tasks of a host wherever they are, without a word to anybody, as a killed process would.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};
use wayfare_journal::{Disk, JournalError, Space};
use wayfare_net::{DirectConnector, NetConfig, NetError};
use wayfare_protocol::{
    gateway::GatewayConfig,
    ids::{OwnerKey, RegistryId},
    limits::STEP_TIMEOUT,
    manifest::{Durability, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::Lookup,
    placement::{PlacementConfig, Policy},
    reject::Strict,
    suite::{Dalek, Secret, Suite, fresh_secret},
    time::Micros,
    trust::{Certificate, Receiver, Role},
};
use wayfare_registry::RunningRegistry;

use super::*;
use crate::{
    clock::{entropy, now},
    enrol::Candidate,
    gateway::{self, GatewayHandle, GatewayParts},
    runtime::wasm::WasmDriver,
    state::StateDir,
};

const KV: &[u8] = include_bytes!("../../../tests/guests/kv/kv.wasm");
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// One driver for all: the service is compiled once.
fn driver() -> Arc<dyn Driver> {
    static DRIVER: OnceLock<Arc<WasmDriver>> = OnceLock::new();
    DRIVER.get_or_init(|| Arc::new(WasmDriver::new())).clone()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Asks again and again until there is an answer.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, asking).await
}

struct World {
    registry: RunningRegistry,
    owner: Secret,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let config = wayfare_registry::Config::in_process(fresh_secret(&mut entropy()));
        let registry = wayfare_registry::run(config, Arc::new(DirectConnector), CancellationToken::new()).await;
        let dir = tempfile::tempdir().unwrap();
        Self { registry: registry.unwrap(), owner: fresh_secret(&mut entropy()), dir }
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.registry.anchor().clone()])
    }

    fn id(&self) -> RegistryId {
        self.registry.anchor().id
    }

    fn bootstrap(&self) -> Vec<String> {
        let anchor = self.registry.anchor();
        anchor.addresses.iter().map(|address| wayfare_net::with_host(address, &anchor.host())).collect()
    }

    async fn enrol(&self, name: &str, role: Role, secret: &Secret, net: &Net) -> (StateDir, Signed<Certificate>) {
        let token = self.registry.handle().join_token(name, role, PATIENCE).await.unwrap();
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let (dir, bundle) = (StateDir::new(dir), self.bundle());
        let candidate = Candidate { dir: &dir, net, secret, region: "", bundle: &bundle };
        let certificate = candidate.join(&token, &CancellationToken::new()).await.unwrap();
        (dir, certificate)
    }

    async fn node(&self, name: &'static str) -> Node {
        let secret = fresh_secret(&mut entropy());
        let stop = CancellationToken::new();
        let (net, _events) = Net::start(NetConfig::local(*secret.expose()), stop.clone()).await.unwrap();
        let (dir, certificate) = self.enrol(name, Role::Cloud, &secret, &net).await;
        let listen = net.listen_addresses();
        stop.cancel();
        net.stopped().await;
        let placement = PlacementConfig { policy: Policy::Never, ..PlacementConfig::default() };
        let capacity =
            Resources { cpu_millicores: 4000, memory_bytes: 1 << 30, storage_bytes: 1 << 30, bandwidth_bps: 1 << 30 };
        let config = HostConfig {
            capacity,
            price_micros: 0,
            placement,
            step_timeout: STEP_TIMEOUT,
            image_log_bytes: 16 * MIB,
            compact_journal_bytes: 8 * MIB,
        };
        let mut node = Node {
            secret,
            certificate,
            bundle: self.bundle(),
            registry: self.id(),
            listen,
            bootstrap: self.bootstrap(),
            dir: dir.path().to_owned(),
            config,
            forget_lost: false,
            disk: Crowded::default(),
            run: None,
        };
        node.start().await;
        node
    }

    async fn gateway(&self, service: &str) -> Gateway {
        let secret = fresh_secret(&mut entropy());
        let stop = CancellationToken::new();
        let config = NetConfig { bootstrap: self.bootstrap(), ..NetConfig::local(*secret.expose()) };
        let (net, net_events) = Net::start(config, stop.clone()).await.unwrap();
        let (dir, certificate) = self.enrol(&format!("user-of-{service}"), Role::Gateway, &secret, &net).await;
        let parts = GatewayParts {
            config: GatewayConfig::new(net.host_id(), certificate, self.bundle(), self.id()),
            net,
            net_events,
            services: vec![(Lookup::Name(service.to_owned()), SocketAddr::from(([127, 0, 0, 1], 0)))],
            probe_interval: PATIENCE,
            dir: dir.path().to_owned(),
            witness: None,
        };
        let handle = gateway::start(parts, &TaskTracker::new(), stop.clone()).await.unwrap();
        Gateway { handle, stop }
    }

    fn manifest(&self, name: &str, durability: Durability) -> Signed<Manifest> {
        let owner = OwnerKey(Dalek::public_key(&self.owner));
        let manifest = Manifest {
            service: service_id(self.id(), owner, name),
            name: name.to_owned(),
            owner,
            version: 1,
            code: modules::module_digest(KV),
            tos: ServiceType::Request,
            required: Resources { memory_bytes: 64 * MIB, ..Resources::default() },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: Vec::new(),
            allowed_regions: Vec::new(),
            allowed_domains: Vec::new(),
            durability,
            token_policy: TokenPolicy::Refuse,
        };
        Signed::sign::<Dalek>(&self.owner, self.id(), Receiver::Anyone, &manifest)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.registry.stop();
    }
}

/// A disk that others fill and empty.
#[derive(Clone, Debug, Default)]
struct Crowded(Arc<AtomicBool>);

impl Space for Crowded {
    fn reserve(&self, path: &Path, file: &fs::File, end: u64) -> io::Result<bool> {
        if self.0.load(Ordering::SeqCst) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Disk.reserve(path, file, end)
        }
    }
}

struct Node {
    secret: Secret,
    certificate: Signed<Certificate>,
    bundle: TrustBundle,
    registry: RegistryId,
    listen: Vec<String>,
    bootstrap: Vec<String>,
    dir: PathBuf,
    config: HostConfig,
    forget_lost: bool,
    disk: Crowded,
    run: Option<(Runtime, HostHandle)>,
}

impl Node {
    async fn start(&mut self) {
        until("to start", async || match self.try_start().await {
            Ok(()) => Some(()),
            // What crashed is still being taken apart.
            Err(HostError::Journal { source: JournalError::Locked { .. }, .. })
            | Err(HostError::Net(NetError::AddressInUse { .. })) => None,
            Err(error) => panic!("{}", describe(&error)),
        })
        .await;
    }

    async fn try_start(&mut self) -> Result<(), HostError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let net_config = NetConfig {
            listen: self.listen.clone(),
            bootstrap: self.bootstrap.clone(),
            ..NetConfig::local(*self.secret.expose())
        };
        let (_, certificate) = self
            .bundle
            .verify_certificate::<Dalek, Strict>(
                &self.certificate,
                HostId(Dalek::public_key(&self.secret)),
                &[Role::Cloud],
                now().wall,
            )
            .unwrap();
        let identity = Identity { secret: self.secret.clone(), registry: self.registry, certificate };
        let (config, bundle, dir) = (self.config.clone(), self.bundle.clone(), self.dir.clone());
        let (forget_lost, disk) = (self.forget_lost, self.disk.clone());
        let started = runtime.spawn(async move {
            let stop = CancellationToken::new();
            let (net, net_events) = Net::start(net_config, stop.clone()).await?;
            let advertised = net.listen_addresses();
            let driver = driver();
            let parts = HostParts {
                identity,
                config,
                bundle,
                net,
                net_events,
                advertised,
                dir,
                driver,
                forget_lost,
                witness: None,
            };
            let handle = start_on(Box::new(disk), parts, &TaskTracker::new(), stop.clone())?;
            // For as long as the runtime lives.
            std::mem::forget(stop);
            Ok::<_, HostError>(handle)
        });
        match started.await.unwrap() {
            Ok(handle) => {
                self.run = Some((runtime, handle));
                Ok(())
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn crash(&mut self) {
        if let Some((runtime, _)) = self.run.take() {
            runtime.shutdown_background();
        }
    }

    fn handle(&self) -> &HostHandle {
        &self.run.as_ref().expect("it runs").1
    }

    fn host(&self) -> HostId {
        HostId(Dalek::public_key(&self.secret))
    }

    /// What the host says of its only service.
    async fn view(&self) -> Option<wayfare_protocol::host::view::ServiceView> {
        self.handle().with(|host, now, _| host.services(now)).await.expect("it runs").pop()
    }

    async fn until_state(&self, state: &str) {
        until(state, async || self.view().await.filter(|view| view.state == state).map(|_| ())).await;
    }

    async fn deploy(&self, world: &World, durability: Durability) -> ServiceId {
        let service = self.handle().deploy(world.manifest("kv", durability), KV.to_vec()).await.unwrap();
        self.until_state("serving").await;
        service
    }

    fn images(&self) -> Vec<PathBuf> {
        fs::read_dir(self.dir.join("images")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn journal_bytes(&self) -> u64 {
        fs::metadata(self.dir.join("journal")).unwrap().len()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.crash();
    }
}

struct Gateway {
    handle: GatewayHandle,
    stop: CancellationToken,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Gateway {
    fn port(&self) -> SocketAddr {
        self.handle.listening()[0].1
    }

    /// One request; again if the gateway or the host says that it was not executed.
    async fn ask(&self, what: &str, body: &[u8]) -> String {
        until(what, async || {
            let (status, text) = http(self.port(), what, body).await;
            match status {
                200 | 201 | 204 => Some(text),
                502..=504 => None,
                _ => panic!("{what}: {status} {text}"),
            }
        })
        .await
    }

    async fn count(&self) -> u64 {
        self.ask("POST /count", b"").await.trim().parse().unwrap()
    }
}

async fn http(address: SocketAddr, what: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{what} HTTP/1.1\r\nhost: kv\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut response = Vec::new();
    within(what, stream.read_to_end(&mut response)).await.unwrap();
    let text = String::from_utf8_lossy(&response);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {text}")), body.to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_crash() {
    let world = World::new().await;
    let (mut node, gateway) = (world.node("fjord").await, world.gateway("kv").await);
    node.deploy(&world, Durability::Log).await;
    assert_eq!(node.view().await.unwrap().durability, "log");
    for expected in 1..=10 {
        assert_eq!(gateway.count().await, expected);
    }
    gateway.ask("PUT /k/name", b"wayfare").await;
    let digest = gateway.ask("GET /digest", b"").await;
    for _ in 0..2 {
        node.crash();
        node.start().await;
        node.until_state("serving").await;
        assert_eq!(gateway.ask("GET /digest", b"").await, digest);
    }
    assert_eq!(gateway.ask("GET /k/name", b"").await, "wayfare");
    assert_eq!(gateway.count().await, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_count_is_acknowledged_once_whenever_the_host_crashes() {
    let world = World::new().await;
    let (mut node, gateway) = (world.node("fjord").await, world.gateway("kv").await);
    // Images and compactions all the time.
    node.crash();
    (node.config.image_log_bytes, node.config.compact_journal_bytes) = (16 << 10, 32 << 10);
    node.start().await;
    node.deploy(&world, Durability::Log).await;
    let (done, counted) = (AtomicBool::new(false), AtomicU64::new(0));
    let client = async {
        let (mut last, filler) = (0, vec![b'f'; 30 << 10]);
        while !done.load(Ordering::SeqCst) {
            gateway.ask("PUT /k/filler", &filler).await;
            let count = gateway.count().await;
            assert_eq!(count, last + 1, "lost or executed twice");
            last = count;
            counted.store(count, Ordering::SeqCst);
        }
        last
    };
    let crashes = async {
        for pause_ms in [300, 50, 150, 400, 1, 77] {
            let before = counted.load(Ordering::SeqCst);
            until("progress", async || (counted.load(Ordering::SeqCst) > before).then_some(())).await;
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            node.crash();
            node.start().await;
        }
        node.until_state("serving").await;
        let before = counted.load(Ordering::SeqCst);
        until("progress", async || (counted.load(Ordering::SeqCst) > before).then_some(())).await;
        done.store(true, Ordering::SeqCst);
    };
    let (last, ()) = tokio::join!(client, crashes);
    assert!(node.journal_bytes() < MIB && !node.images().is_empty(), "{} bytes", node.journal_bytes());
    assert_eq!(gateway.count().await, last + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_replace_the_log_and_the_journal_stays_small() {
    let world = World::new().await;
    let (mut node, gateway) = (world.node("fjord").await, world.gateway("kv").await);
    node.crash();
    (node.config.image_log_bytes, node.config.compact_journal_bytes) = (64 << 10, 128 << 10);
    node.start().await;
    // One that asks for little: its log is not worth an image, and outlives every compaction.
    let quiet = world.gateway("quiet").await;
    node.handle().deploy(world.manifest("quiet", Durability::Log), KV.to_vec()).await.unwrap();
    node.until_state("serving").await;
    assert_eq!((quiet.count().await, quiet.count().await), (1, 2));
    let service = node.handle().deploy(world.manifest("kv", Durability::Log), KV.to_vec()).await.unwrap();
    until("both to be served", async || {
        let views = node.handle().with(|host, now, _| host.services(now)).await.unwrap();
        (views.len() == 2 && views.iter().all(|view| view.state == "serving")).then_some(())
    })
    .await;
    // An image is taken when the log has as many bytes as the last image: some MiB of them do.
    let value = vec![b'v'; 200 << 10];
    for key in 0..100 {
        gateway.ask(&format!("PUT /k/{}", key % 10), &value).await;
        gateway.count().await;
    }
    let digest = gateway.ask("GET /digest", b"").await;
    until("an image", async || (node.images().len() == 1).then_some(())).await;
    let image = node.images().remove(0);
    let name = image.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with(&service.to_string()) && name.ends_with(".image"), "{name}");
    assert_eq!((mode(&image), mode(&node.dir.join("images"))), (0o600, 0o700));
    assert!(node.journal_bytes() < 12 * MIB, "{} bytes", node.journal_bytes());
    assert_eq!(quiet.count().await, 3);
    // A stranger, and what a crash left.
    fs::write(node.dir.join("images/old.image"), b"old").unwrap();
    fs::write(node.dir.join("images/old.00.part"), b"old").unwrap();
    for _ in 0..2 {
        node.crash();
        node.start().await;
        node.until_state("serving").await;
        assert_eq!(gateway.ask("GET /digest", b"").await, digest);
        assert_eq!(node.images().len(), 1);
    }
    assert_eq!(quiet.count().await, 4);
    assert_eq!(gateway.count().await, 101);
    // Without its journal the host knows nothing of the image, and does not delete it either.
    node.crash();
    let (journal, aside) = (node.dir.join("journal"), node.dir.join("aside"));
    until("the end", async || Journal::open(&journal).ok().map(|_| ())).await;
    fs::rename(&journal, &aside).unwrap();
    let refused = until("to be refused", async || match node.try_start().await {
        Err(HostError::Net(NetError::AddressInUse { .. })) => None,
        other => Some(other),
    });
    assert!(matches!(refused.await, Err(HostError::NoJournal { .. })));
    assert_eq!(node.images().len(), 1);
    fs::rename(&aside, &journal).unwrap();
    node.start().await;
    node.until_state("serving").await;
    assert_eq!(gateway.count().await, 102);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_has_moved_here_survives_a_crash_from_its_first_image() {
    let world = World::new().await;
    let (a, mut b) = (world.node("a").await, world.node("b").await);
    let gateway = world.gateway("kv").await;
    let service = a.deploy(&world, Durability::Log).await;
    gateway.ask("PUT /k/name", b"wayfare").await;
    assert_eq!(gateway.count().await, 1);
    let to = b.host();
    until("an advert", async || {
        b.handle().with(|host, _, _| host.set_cordoned(false)).await.unwrap();
        let begun = a.handle().with(move |host, now, rng| host.begin_move(now, service, to, "asked", rng)).await;
        begun.unwrap().ok()
    })
    .await;
    b.until_state("serving").await;
    assert_eq!(b.images().len(), 1);
    assert!(b.images()[0].file_name().unwrap().to_string_lossy().starts_with("held-"));
    assert_eq!(gateway.count().await, 2);
    b.crash();
    b.start().await;
    b.until_state("serving").await;
    assert_eq!(gateway.count().await, 3);
    assert_eq!(gateway.ask("GET /k/name", b"").await, "wayfare");
    until("nothing to be left at the source", async || {
        (a.view().await.is_none() && a.images().is_empty()).then_some(())
    })
    .await;
    // The module came along, and is there after the crash.
    assert!(b.dir.join("modules").join(format!("{}.wasm", modules::module_digest(KV))).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_in_memory_is_lost_and_stays_in_sight_until_it_is_given_up() {
    let world = World::new().await;
    let (mut node, gateway) = (world.node("fjord").await, world.gateway("kv").await);
    node.deploy(&world, Durability::Memory).await;
    assert_eq!(gateway.count().await, 1);
    assert!(node.images().is_empty());
    for _ in 0..2 {
        node.crash();
        node.start().await;
        node.until_state("lost").await;
    }
    node.crash();
    node.forget_lost = true;
    node.start().await;
    until("it to be given up", async || node.view().await.is_none().then_some(())).await;
    // For good.
    node.crash();
    node.forget_lost = false;
    node.start().await;
    assert!(node.view().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_rebuilt_is_broken_and_comes_back_with_what_was_missing() {
    let world = World::new().await;
    let (mut node, gateway) = (world.node("fjord").await, world.gateway("kv").await);
    node.deploy(&world, Durability::Log).await;
    assert_eq!(gateway.count().await, 1);
    node.crash();
    let module = node.dir.join("modules").join(format!("{}.wasm", modules::module_digest(KV)));
    let aside = node.dir.join("aside");
    // The crashed host may still be at its end.
    node.start().await;
    node.until_state("serving").await;
    node.crash();
    fs::rename(&module, &aside).unwrap();
    node.start().await;
    node.until_state("broken").await;
    node.crash();
    fs::rename(&aside, &module).unwrap();
    node.start().await;
    node.until_state("serving").await;
    assert_eq!(gateway.count().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_another_version_stops_the_host_and_is_left_alone() {
    let world = World::new().await;
    let mut node = world.node("fjord").await;
    node.crash();
    let path = node.dir.join("journal");
    let opened = until("the journal", async || Journal::open(&path).ok()).await;
    let mut journal = opened.journal;
    let seq = journal.last_seq() + 1;
    journal.append([(seq, [9, 9].as_slice())]).unwrap();
    drop(journal);
    let error = describe(&node.try_start().await.unwrap_err());
    assert!(error.contains(&format!("entry {seq}")) && error.contains("run the version that wrote it"), "{error}");
    assert_eq!(Journal::open(&path).unwrap().entries.len(), opened.entries.len() + 1);
}

/// How often the host refused for this reason.
async fn rejected(node: &Node, reject: Reject) -> u64 {
    let of = move |host: &mut Host, _, _: &mut _| {
        host.rejects().iter().find(|(known, _)| *known == reject).map_or(0, |(_, count)| count)
    };
    node.handle().with(of).await.unwrap()
}

async fn move_to(from: &Node, to: &Node, service: ServiceId) {
    let target = to.host();
    until("an advert", async || {
        to.handle().with(|host, _, _| host.set_cordoned(false)).await.unwrap();
        let begun = from.handle().with(move |host, now, rng| host.begin_move(now, service, target, "asked", rng)).await;
        begun.unwrap().ok()
    })
    .await;
}

/// The last attempt has ended: why it failed, if it did.
async fn ending(node: &Node) -> Option<String> {
    use wayfare_protocol::migration::trace::Ending;
    until("an attempt to end", async || {
        let last = |host: &mut Host, _, _: &mut _| host.history().last().map(|trace| trace.ending.clone());
        match node.handle().with(last).await.unwrap()? {
            Ending::Running => None,
            Ending::Moved => Some(None),
            Ending::Failed(reason) => Some(Some(reason)),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_takes_nothing_new_and_lets_services_leave() {
    let world = World::new().await;
    let (full, other) = (world.node("full").await, world.node("other").await);
    let gateway = world.gateway("kv").await;
    let service = full.deploy(&world, Durability::Log).await;
    assert_eq!(gateway.count().await, 1);
    full.disk.0.store(true, Ordering::SeqCst);
    // Noticed when the reserve is to be renewed: a few MiB later.
    let value = vec![b'v'; (1 << 20) - 1];
    let writes = async {
        for _ in 0..20 {
            gateway.ask("PUT /k/big", &value).await;
        }
    };
    let watch = async {
        until("a refusal", async || (rejected(&full, Reject::Full).await > 0).then_some(())).await;
        let refused = full.handle().deploy(world.manifest("another", Durability::Memory), KV.to_vec()).await;
        assert!(matches!(refused, Err(DeployError::Refused(Reject::NoResources))), "{refused:?}");
        // Renewals, too, go on.
        assert_eq!(full.view().await.unwrap().state, "serving");
        full.disk.0.store(false, Ordering::SeqCst);
    };
    // Once there is space again, the gateway's requests that were refused are executed.
    within("writes", async { tokio::join!(writes, watch) }).await;
    full.disk.0.store(true, Ordering::SeqCst);
    assert_eq!(gateway.count().await, 2);
    // What is there can leave; nothing can come.
    move_to(&full, &other, service).await;
    other.until_state("serving").await;
    assert_eq!(gateway.count().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_cannot_write_the_state_refuses_it_and_the_source_serves_on() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let gateway = world.gateway("kv").await;
    let service = a.deploy(&world, Durability::Log).await;
    assert_eq!(gateway.count().await, 1);
    fs::remove_dir(b.dir.join("images")).unwrap();
    move_to(&a, &b, service).await;
    // The refusal may cross the consent; then the registry decides.
    assert!(ending(&a).await.is_some(), "it failed");
    assert_eq!(rejected(&b, Reject::NoResources).await, 1);
    a.until_state("serving").await;
    assert_eq!(gateway.count().await, 2);
    fs::create_dir(b.dir.join("images")).unwrap();
    move_to(&a, &b, service).await;
    b.until_state("serving").await;
    assert_eq!(gateway.count().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_written_leaves_the_log_as_it_is() {
    let world = World::new().await;
    let (mut node, gateway) = (world.node("fjord").await, world.gateway("kv").await);
    node.crash();
    (node.config.image_log_bytes, node.config.compact_journal_bytes) = (4 << 10, 8 << 10);
    node.start().await;
    fs::remove_dir(node.dir.join("images")).unwrap();
    let mut events = node.handle().events().await.unwrap();
    node.deploy(&world, Durability::Log).await;
    for expected in 1..=50 {
        assert_eq!(gateway.count().await, expected);
    }
    let not_saved = async { while !matches!(events.recv().await.unwrap(), Event::NotSaved(..)) {} };
    within("an image to fail", not_saved).await;
    node.crash();
    node.start().await;
    node.until_state("serving").await;
    assert_eq!(gateway.count().await, 51);
}

#[test]
fn a_log_that_leads_elsewhere_is_told_of_by_its_request() {
    use wayfare_protocol::{
        host::{Base, Logged, RestoreJob},
        ids::{Epoch, HostId, OwnerKey},
    };
    let code = restore::Code {
        driver: driver(),
        digest: modules::module_digest(KV),
        prepared: None,
        module: Some(KV.into()),
        modules: PathBuf::from("modules"),
        launch: bulk::launch(64 * MIB, LogTail::default()),
    };
    let prepared = code.prepare().unwrap();
    let (mut instance, inputs) = code.driver.start(&prepared, code.launch.clone(), None).unwrap();
    let request = b"POST /count HTTP/1.1\r\n\r\n".to_vec();
    let outcome = instance.call(&request).unwrap();
    let logged = |sequence, inputs: Vec<u8>| Logged {
        client: ClientId([1; 32]),
        gateway: HostId([2; 32]),
        sequence,
        hash: Digest([3; 32]),
        acked_below: 0,
        request: request.clone(),
        inputs,
    };
    let mut job = RestoreJob {
        service: service_id(RegistryId([1; 32]), OwnerKey([2; 32]), "kv"),
        epoch: Epoch::FIRST,
        code: code.digest,
        memory_bytes: 64 * MIB,
        base: Base::Fresh { inputs: inputs.to_bytes() },
        log: vec![logged(1, outcome.inputs.to_bytes()), logged(2, outcome.inputs.to_bytes())],
    };
    let temp = tempfile::tempdir().unwrap();
    let images = images::Images::open(temp.path()).unwrap();
    let restored = |job: &_| restore::restore(&code, &prepared, &images, job, &|| false);
    let (_, found) = restored(&job).unwrap();
    assert_eq!((found.responses.len(), &found.responses[0], found.image_bytes), (2, &outcome.response, 0));
    // What `_initialize` read is no record of a count.
    job.log[1].inputs = inputs.to_bytes();
    let error = restored(&job).map(|_| ()).unwrap_err();
    assert!(error.starts_with("request 2 of 2 in the log, number 2 of client "), "{error}");
    job.log[1].inputs = vec![9];
    let error = restored(&job).map(|_| ()).unwrap_err();
    assert!(error.contains("inputs of version 9"), "{error}");
    let error = restore::restore(&code, &prepared, &images, &job, &|| true).map(|_| ()).unwrap_err();
    assert!(error.contains("not wanted"), "{error}");
}
