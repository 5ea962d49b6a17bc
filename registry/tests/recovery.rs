//! A Registry that was restored from a backup, over real sockets, with a hand-made home.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;
use wayfare_net::{DirectConnector, FrameReader, FrameWriter, Net, NetConfig, Protocol, Stream};
use wayfare_protocol::{
    ids::{Digest, HostId, Nonce, OwnerKey, PlacementKey},
    limits::{FRAME_BYTES_MAX, LEASE, recovery_window},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::*,
    suite::{Dalek, Secret, Suite as _},
    time::Micros,
    trust::{Anchor, Certificate, JoinToken, Message, Receiver, Role, Signed},
    wire::Frame as _,
};
use wayfare_registry::{RunningRegistry, StateDir, run};

const KEY: [u8; 32] = [3; 32];
/// The shortest lease there is: its window can be waited for.
const SHORT: Micros = Micros::from_secs(2);

struct Home {
    secret: Secret,
    anchor: Anchor,
    reader: FrameReader<ReadHalf<Stream>>,
    writer: FrameWriter<WriteHalf<Stream>>,
    _net: Net,
}

impl Home {
    async fn connect(anchor: &Anchor) -> Self {
        let seed = [1; 32];
        let net_config = NetConfig { gossip: false, listen: Vec::new(), ..NetConfig::local(seed) };
        let (net, _) = Net::start(net_config, CancellationToken::new()).await.unwrap();
        let stream = net.open(anchor.host(), &anchor.addresses, Protocol::Registry).await.unwrap();
        let (read, write) = tokio::io::split(stream);
        let (reader, writer) = (FrameReader::new(read, FRAME_BYTES_MAX), FrameWriter::new(write, FRAME_BYTES_MAX));
        Self { secret: Secret::new(seed), anchor: anchor.clone(), reader, writer, _net: net }
    }

    fn me(&self) -> HostId {
        HostId(Dalek::public_key(&self.secret))
    }

    fn sign<T: Message>(&self, secret: &Secret, message: &T) -> Signed<T> {
        Signed::sign::<Dalek>(secret, self.anchor.id, Receiver::Registry(self.anchor.id), message)
    }

    async fn hear(&mut self) -> RegistryFrame {
        let bytes =
            tokio::time::timeout(Duration::from_secs(20), self.reader.read()).await.expect("no answer").unwrap();
        RegistryFrame::from_bytes(&bytes).unwrap()
    }

    async fn ask(&mut self, frame: RegistryFrame) -> RegistryFrame {
        self.writer.send(&frame.to_bytes()).await.unwrap();
        self.hear().await
    }

    async fn enrol(&mut self, token: &JoinToken) -> Signed<Certificate> {
        let (host, nonce) = (self.me(), Nonce([1; 16]));
        let enrol = Enrol { host, role: Role::Home, region: String::new(), token: token.secret.hash(), nonce };
        let enrol = self.sign(&self.secret, &enrol);
        let RegistryFrame::Enrolled(enrolled) = self.ask(RegistryFrame::Enrol(enrol)).await else { panic!("no") };
        enrolled.certificate
    }

    async fn register(&mut self) -> (Signed<Placement>, Signed<Manifest>) {
        let owner = Secret::new([2; 32]);
        let owner_key = OwnerKey(Dalek::public_key(&owner));
        let manifest = Manifest {
            service: service_id(self.anchor.id, owner_key, "kv"),
            name: "kv".to_owned(),
            owner: owner_key,
            version: 1,
            code: Digest([7; 32]),
            tos: ServiceType::Request,
            required: Resources { cpu_millicores: 1, memory_bytes: 1 << 20, storage_bytes: 0, bandwidth_bps: 0 },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: Durability::Memory,
            token_policy: TokenPolicy::Refuse,
        };
        let signed = Signed::sign::<Dalek>(&owner, self.anchor.id, Receiver::Anyone, &manifest);
        let key = Secret::new(KEY);
        let register = Register {
            service: manifest.service,
            manifest: signed.hash(),
            key: PlacementKey(Dalek::public_key(&key)),
            host: self.me(),
            nonce: Nonce([2; 16]),
        };
        let register = self.sign(&key, &register);
        let frame = RegisterFrame { register, manifest: signed.clone(), addresses: vec![] };
        let RegistryFrame::Granted(granted) = self.ask(RegistryFrame::Register(frame)).await else { panic!("no") };
        (granted.placement, signed)
    }

    fn renew(&self, placement: &Signed<Placement>, nonce: u8) -> RegistryFrame {
        let ids = placement.unverified().unwrap().ids();
        RegistryFrame::Renew(self.sign(&Secret::new(KEY), &Renew { ids, nonce: Nonce([nonce; 16]) }))
    }
}

async fn start(state: &StateDir) -> RunningRegistry {
    run(state.load().unwrap(), Arc::new(DirectConnector), CancellationToken::new()).await.unwrap()
}

async fn stop(registry: RunningRegistry) {
    registry.stop();
    registry.stopped().await.unwrap();
}

async fn command(dir: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare-registry"));
    command.args(arguments).arg("--dir").arg(dir);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}

struct Restored {
    _root: tempfile::TempDir,
    state: StateDir,
    registry: RunningRegistry,
    home: Home,
    placement: Signed<Placement>,
    shown: ShownFrame,
}

/// A service is registered after the backup (`false`), or before it; the backup is restored; the home renews, and has been
/// asked what it has.
async fn restored(known: bool, lease: Micros) -> Restored {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::new(root.path().join("state"));
    state.init("test", &["/ip4/127.0.0.1/tcp/0".to_owned()]).unwrap();
    let file = state.path().join("registry.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, after) = ("lease_s = 30\n", format!("lease_s = {}\n", lease.0 / 1_000_000));
    assert!(text.contains(before));
    std::fs::write(&file, text.replace(before, &after)).unwrap();
    let backup = root.path().join("backup");
    let backup = backup.to_str().unwrap();
    let registry = start(&state).await;
    let mut home = Home::connect(registry.anchor()).await;
    if !known {
        command(state.path(), &["backup", backup]).await;
    }
    let token = registry.handle().join_token("home", Role::Home, Duration::from_secs(3600)).await.unwrap();
    let certificate = home.enrol(&token).await;
    let (placement, manifest) = home.register().await;
    if known {
        command(state.path(), &["backup", backup]).await;
    }
    stop(registry).await;
    command(state.path(), &["restore", backup, "--force"]).await;

    let registry = start(&state).await;
    let mut home = Home::connect(registry.anchor()).await;
    let RegistryFrame::Recovering(Recovering { nonce }) = home.ask(home.renew(&placement, 1)).await else {
        panic!("not asked");
    };
    let RegistryFrame::Refused(refused) = home.hear().await else { panic!("not refused") };
    assert_eq!(refused.reason, if known { "recovering" } else { "not_enrolled" });
    let stays = vec![ShownStay { placement: placement.clone(), consent: None }];
    let shown = Shown { nonce, part: 0, parts: 1, stays, held: vec![], elsewhere: vec![] };
    let shown = home.sign(&home.secret, &shown);
    let shown = ShownFrame { shown, certificate, manifests: vec![manifest], addresses: vec![] };
    Restored { _root: root, state, registry, home, placement, shown }
}

#[tokio::test]
async fn nothing_is_decided_before_the_hosts_are_heard_and_the_window_is_over() {
    let Restored { registry, mut home, placement, shown, .. } = restored(true, LEASE).await;
    // What is known is told, as old as it is.
    let found = home.ask(RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
    let RegistryFrame::Found(Found { service: Some((told, _)), .. }) = found else { panic!("{found:?}") };
    assert_eq!(told, placement, "nothing is signed anew");
    let services = registry.handle().placements().await.unwrap();
    assert_eq!((services[0].state.as_str(), &services[0].waits_for), ("recovering", &Some(home.me().to_string())));
    home.writer.send(&RegistryFrame::Shown(shown).to_bytes()).await.unwrap();
    let RegistryFrame::Refused(refused) = home.ask(home.renew(&placement, 2)).await else { panic!("granted") };
    assert_eq!(refused.reason, "recovering");
    let services = registry.handle().placements().await.unwrap();
    assert_eq!((services[0].state.as_str(), &services[0].waits_for), ("recovering", &None));
    let recovery = registry.handle().recovery().await.unwrap().unwrap();
    assert_eq!((recovery.services, recovery.resumed, recovery.suspended), (1, 0, 1));
    stop(registry).await;
}

#[tokio::test]
async fn who_enrolled_and_what_was_registered_after_the_backup_is_learnt() {
    let Restored { registry, mut home, placement, shown, .. } = restored(false, LEASE).await;
    let RegistryFrame::Refused(refused) = home.ask(RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await else {
        panic!("it cannot know");
    };
    assert_eq!(refused.reason, "not_enrolled");
    home.writer.send(&RegistryFrame::Shown(shown).to_bytes()).await.unwrap();
    let found = home.ask(RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
    assert!(matches!(&found, RegistryFrame::Found(Found { service: Some((told, _)), .. }) if *told == placement));
    assert_eq!(registry.handle().enrolled().await.unwrap().len(), 1);
    stop(registry).await;
}

#[tokio::test]
async fn after_the_window_leases_are_given_again() {
    let Restored { _root, state, registry, mut home, placement, shown } = restored(true, SHORT).await;
    home.writer.send(&RegistryFrame::Shown(shown).to_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_micros(recovery_window(SHORT).0)).await;
    assert_eq!(registry.handle().placements().await.unwrap()[0].state, "placed");
    assert!(matches!(home.ask(home.renew(&placement, 3)).await, RegistryFrame::Granted(_)));
    stop(registry).await;
    // It is over for good.
    let registry = start(&state).await;
    let mut home = Home::connect(registry.anchor()).await;
    assert!(matches!(home.ask(home.renew(&placement, 4)).await, RegistryFrame::Granted(_)));
    stop(registry).await;
}
