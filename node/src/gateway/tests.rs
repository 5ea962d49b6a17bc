//! A gateway on real sockets and a real disk, and a peer that is Registry and host to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};
use wayfare_net::{FrameReader, FrameWriter, NetConfig, Protocol};
use wayfare_protocol::{
    gateway::{
        COMPACT_BYTES_MIN,
        messages::{ClientFrame, NotExecuted, Opened, Reply},
    },
    ids::{Digest, Epoch, HostId, MigrationId, OwnerKey, PlacementKey, ServiceId},
    limits::{CLIENT_FRAME_BYTES_MAX, FRAME_BYTES_MAX, LEASE},
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{Found, Placement, RegistryFrame},
    session::{Admit, Sessions},
    suite::{Secret, Suite},
    time::{Micros, Timestamp},
    trust::{
        Anchor, Certificate, Receiver, Role, Signed, TrustBundle,
        certificate::{cloud_id, registry_id},
    },
    wire::Frame,
};

use super::*;
use crate::clock::now;

const PATIENCE: Duration = Duration::from_secs(20);

fn secret(seed: u8) -> Secret {
    Secret::new([seed; 32])
}

fn host(seed: u8) -> HostId {
    HostId(Dalek::public_key(&secret(seed)))
}

const PEER: u8 = 1;
const GATEWAY: u8 = 2;

/// The Registry and the host of a service that counts.
struct Peer {
    net: Net,
    bundle: TrustBundle,
    service: ServiceId,
    manifest: Signed<Manifest>,
    sessions: std::sync::Mutex<(Sessions, u32)>,
    /// Whether it keeps its replies to itself.
    silent: AtomicBool,
    /// One permit for each request that it executed.
    executed: Semaphore,
}

impl Peer {
    async fn start(stop: CancellationToken) -> Arc<Self> {
        let (net, events) =
            Net::start(NetConfig { gossip: false, ..NetConfig::local([PEER; 32]) }, stop).await.unwrap();
        drop(events);
        let key = Dalek::public_key(&secret(PEER));
        let id = registry_id(&key);
        let bundle = TrustBundle::new(vec![Anchor { id, key, addresses: net.listen_addresses() }]);
        let owner = OwnerKey(Dalek::public_key(&secret(9)));
        let service = service_id(id, owner, "counter");
        let manifest = Manifest {
            service,
            name: "counter".to_owned(),
            owner,
            version: 1,
            code: Digest([1; 32]),
            tos: ServiceType::Request,
            required: Resources::default(),
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: Durability::Log,
            token_policy: TokenPolicy::Refuse,
        };
        let manifest = Signed::sign::<Dalek>(&secret(9), id, Receiver::Anyone, &manifest);
        let peer = Arc::new(Self {
            bundle,
            service,
            manifest,
            sessions: std::sync::Mutex::default(),
            silent: AtomicBool::new(false),
            executed: Semaphore::new(0),
            net,
        });
        for protocol in [Protocol::Registry, Protocol::Request] {
            let (peer, mut incoming) = (Arc::clone(&peer), peer.net.accept(protocol).unwrap());
            tokio::spawn(async move {
                while let Some((_, stream)) = incoming.recv().await {
                    tokio::spawn(Arc::clone(&peer).serve(protocol, stream));
                }
            });
        }
        peer
    }

    async fn serve(self: Arc<Self>, protocol: Protocol, stream: wayfare_net::Stream) {
        let (read, write) = tokio::io::split(stream);
        let cap = if protocol == Protocol::Registry { FRAME_BYTES_MAX } else { CLIENT_FRAME_BYTES_MAX };
        let (mut reader, mut writer) = (FrameReader::new(read, cap), FrameWriter::new(write, cap));
        while let Ok(bytes) = reader.read().await {
            let answer = match protocol {
                Protocol::Registry => self.found(&bytes),
                _ => self.answer(&bytes),
            };
            if let Some(answer) = answer
                && writer.send(&answer).await.is_err()
            {
                return;
            }
        }
    }

    fn found(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let RegistryFrame::Lookup(lookup) = RegistryFrame::from_bytes(bytes).unwrap() else { return None };
        let registry = self.service.registry;
        let placement = Placement {
            service: self.service,
            epoch: Epoch::FIRST,
            cloud: cloud_id(registry, "cloud"),
            host: host(PEER),
            key: PlacementKey([1; 32]),
            mig: MigrationId([1; 16]),
            previous: host(PEER),
            manifest: self.manifest.hash(),
            issued: now().wall,
            lease: LEASE,
        };
        let placement = Signed::sign::<Dalek>(&secret(PEER), registry, Receiver::Anyone, &placement);
        let addresses = self.net.listen_addresses();
        let found = Found { lookup, service: Some((placement, self.manifest.clone())), addresses };
        Some(RegistryFrame::Found(found).to_bytes())
    }

    fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut guard = self.sessions.lock().unwrap();
        let (sessions, count) = &mut *guard;
        let service = self.service;
        let frame = match ClientFrame::from_bytes(bytes).unwrap() {
            ClientFrame::Open(open) => {
                sessions.open(open.client, host(GATEWAY)).unwrap();
                ClientFrame::Opened(Opened { service, client: open.client })
            }
            ClientFrame::Call(call) => {
                let (client, sequence) = (call.client, call.sequence);
                match sessions.admit::<Strict>(client, sequence, call.hash, call.acked_below) {
                    Ok(Admit::Execute) => {
                        *count += 1;
                        let response = format!("HTTP/1.1 200 OK\r\n\r\ncount {count}").into_bytes();
                        sessions.complete(client, sequence, response.clone()).unwrap();
                        self.executed.add_permits(1);
                        ClientFrame::Reply(Reply { service, client, sequence, response })
                    }
                    Ok(Admit::Replay(response)) => ClientFrame::Reply(Reply { service, client, sequence, response }),
                    Ok(Admit::Join | Admit::Busy) => return None,
                    Err(reject) => {
                        let reason = reject.name().to_owned();
                        ClientFrame::NotExecuted(NotExecuted { service, client, sequence, reason })
                    }
                }
            }
            _ => return None,
        };
        (!self.silent.load(Ordering::Relaxed)).then(|| frame.to_bytes())
    }

    fn config(&self) -> GatewayConfig {
        let id = self.service.registry;
        let certificate = Certificate {
            cloud: cloud_id(id, "gate"),
            name: "gate".to_owned(),
            host: host(GATEWAY),
            role: Role::Gateway,
            region: String::new(),
            not_before: Timestamp(0),
            expiry: Timestamp(u64::MAX / 2),
        };
        let certificate = Signed::sign::<Dalek>(&secret(PEER), id, Receiver::Anyone, &certificate);
        GatewayConfig::new(host(GATEWAY), certificate, self.bundle.clone(), id)
    }
}

/// A gateway that runs until it is told to die.
struct Running {
    handle: GatewayHandle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    async fn start(peer: &Peer, dir: &std::path::Path) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let config = NetConfig { gossip: false, ..NetConfig::local([GATEWAY; 32]) };
        let (net, net_events) = Net::start(config, stop.clone()).await.unwrap();
        let parts = GatewayParts {
            config: peer.config(),
            net,
            net_events,
            services: vec![(Lookup::Name("counter".to_owned()), "127.0.0.1:0".parse().unwrap())],
            probe_interval: Duration::from_secs(60),
            dir: dir.to_owned(),
            witness: None,
        };
        let handle = start(parts, &tracker, stop.clone()).await.unwrap();
        Self { handle, tracker, stop }
    }

    async fn die(self) {
        self.stop.cancel();
        drop(self.handle);
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.unwrap();
    }

    /// Sends a request; returns the connection, on which the response will come.
    async fn send(&self, key: &str, body: &str) -> TcpStream {
        let (_, address) = self.handle.listening()[0];
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /count HTTP/1.1\r\nhost: s\r\nidempotency-key: {key}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    async fn ask(&self, key: &str, body: &str) -> String {
        text(self.send(key, body).await).await
    }
}

async fn text(mut client: TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, client.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn executed(peer: &Peer) {
    tokio::time::timeout(PATIENCE, peer.executed.acquire()).await.unwrap().unwrap().forget();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_with_a_keyed_request_executed_answers_it_after_its_restart() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let peer = Peer::start(stop.clone()).await;
    let gateway = Running::start(&peer, dir.path()).await;
    let first = gateway.ask("one", "a").await;
    assert!(first.starts_with("HTTP/1.1 200") && first.ends_with("count 1"), "{first}");
    executed(&peer).await;

    // The request is executed, and the gateway does not learn of it.
    peer.silent.store(true, Ordering::Relaxed);
    let client = gateway.send("\"two\"", "b").await;
    executed(&peer).await;
    gateway.die().await;
    drop(client);
    peer.silent.store(false, Ordering::Relaxed);

    let gateway = Running::start(&peer, dir.path()).await;
    let again = gateway.ask("two", "b").await;
    assert!(again.contains("HTTP/1.1 422"), "the header is of the request: {again}");
    let again = gateway.ask("\"two\"", "b").await;
    assert!(again.ends_with("count 2"), "{again}");
    let first_again = gateway.ask("one", "a").await;
    assert!(first_again.ends_with("count 1"), "{first_again}");
    let other = gateway.ask("one", "c").await;
    assert!(other.starts_with("HTTP/1.1 422"), "{other}");
    let bad = gateway.ask("o n e", "a").await;
    assert!(bad.starts_with("HTTP/1.1 400") && bad.contains("Idempotency-Key"), "{bad}");
    let third = gateway.ask("three", "c").await;
    assert!(third.ends_with("count 3"), "{third}");
    gateway.die().await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_is_compacted_and_forgets_nothing_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let peer = Peer::start(stop.clone()).await;
    let gateway = Running::start(&peer, dir.path()).await;
    for number in 1..=10 {
        let answer = gateway.ask(&format!("{number}"), "body").await;
        assert!(answer.ends_with(&format!("count {number}")), "{answer}");
    }
    // As if it had grown by now.
    gateway.handle.with(|machine, _| machine.compact_if(COMPACT_BYTES_MIN)).await.unwrap();
    let answer = gateway.ask("11", "body").await;
    assert!(answer.ends_with("count 11"), "{answer}");
    gateway.die().await;
    let opened = Journal::open(&dir.path().join("journal")).unwrap();
    let numbers: Vec<u64> = opened.entries.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers.len(), 10 + 1 + 2, "answers, the rest in one, and what came after: {numbers:?}");
    drop(opened);
    let gateway = Running::start(&peer, dir.path()).await;
    for number in 1..=11 {
        let answer = gateway.ask(&format!("{number}"), "body").await;
        assert!(answer.ends_with(&format!("count {number}")), "{answer}");
    }
    let answer = gateway.ask("more", "").await;
    assert!(answer.ends_with("count 12"), "{answer}");
    gateway.die().await;
    stop.cancel();
}
