//! A running Registry, over real sockets, with hand-made peers.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{sync::Arc, time::Duration};

use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;
use wayfare_net::{DirectConnector, FrameError, FrameReader, FrameWriter, Net, NetConfig, NetError, Protocol, Stream};
use wayfare_protocol::{
    ids::{HostId, Nonce},
    limits::FRAME_BYTES_MAX,
    migration::messages::{Enrol, Found, Lookup, Refused, RegistryFrame},
    suite::{Dalek, Secret, Suite as _},
    trust::{Anchor, JoinToken, Receiver, Role, Signed},
    wire::Frame as _,
};
use wayfare_registry::{Config, RunError, RunningRegistry, StoreChoice, run};

const HOUR: Duration = Duration::from_secs(3600);

fn config() -> Config {
    Config::in_process(Secret::new([250; 32]))
}

async fn start(config: Config) -> RunningRegistry {
    run(config, Arc::new(DirectConnector), CancellationToken::new()).await.unwrap()
}

struct Peer {
    secret: Secret,
    net: Net,
    reader: FrameReader<ReadHalf<Stream>>,
    writer: FrameWriter<WriteHalf<Stream>>,
}

impl Peer {
    async fn connect(seed: u8, anchor: &Anchor) -> Self {
        let net_config = NetConfig { gossip: false, listen: Vec::new(), ..NetConfig::local([seed; 32]) };
        let (net, _) = Net::start(net_config, CancellationToken::new()).await.unwrap();
        let (reader, writer) = Self::open(&net, anchor).await;
        Self { secret: Secret::new([seed; 32]), net, reader, writer }
    }

    async fn open(net: &Net, anchor: &Anchor) -> (FrameReader<ReadHalf<Stream>>, FrameWriter<WriteHalf<Stream>>) {
        let stream = net.open(anchor.host(), &anchor.addresses, Protocol::Registry).await.unwrap();
        let (read, write) = tokio::io::split(stream);
        (FrameReader::new(read, FRAME_BYTES_MAX), FrameWriter::new(write, FRAME_BYTES_MAX + 1))
    }

    async fn receive(&mut self) -> Result<RegistryFrame, FrameError> {
        let bytes = tokio::time::timeout(Duration::from_secs(20), self.reader.read()).await.expect("no answer")?;
        Ok(RegistryFrame::from_bytes(&bytes).unwrap())
    }

    async fn ask(&mut self, frame: &RegistryFrame) -> RegistryFrame {
        self.writer.send(&frame.to_bytes()).await.unwrap();
        self.receive().await.unwrap()
    }

    fn enrol(&self, token: &JoinToken) -> RegistryFrame {
        let enrol = Enrol {
            host: HostId(Dalek::public_key(&self.secret)),
            role: token.role,
            region: "eu-north".to_owned(),
            token: token.secret.hash(),
            nonce: Nonce([1; 16]),
        };
        let id = token.anchor.id;
        RegistryFrame::Enrol(Signed::sign::<Dalek>(&self.secret, id, Receiver::Registry(id), &enrol))
    }
}

fn lookup() -> RegistryFrame {
    RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))
}

#[tokio::test]
async fn a_node_joins_by_token_and_a_restart_remembers_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreChoice::Disk(dir.path().join("registry.journal"));
    let registry = start(Config { store: store.clone(), ..config() }).await;
    let token = registry.handle().join_token("fjord", Role::Cloud, HOUR).await.unwrap();
    assert_eq!(token.anchor, *registry.anchor());
    assert_eq!(token.anchor.addresses, registry.addresses());
    let mut peer = Peer::connect(1, &token.anchor).await;
    let answer = peer.ask(&peer.enrol(&token)).await;
    assert!(matches!(answer, RegistryFrame::Enrolled(_)));
    let found = peer.ask(&lookup()).await;
    assert!(matches!(found, RegistryFrame::Found(Found { service: None, .. })));
    registry.stop();
    registry.stopped().await.unwrap();
    assert!(peer.receive().await.is_err());

    let registry = start(Config { store, ..config() }).await;
    let hosts = registry.handle().enrolled().await.unwrap();
    assert_eq!((hosts.len(), hosts[0].cloud.as_str(), hosts[0].role.as_str()), (1, "fjord", "cloud"));
    let mut again = Peer::connect(1, registry.anchor()).await;
    assert_eq!(again.ask(&again.enrol(&token)).await, answer, "the same bytes get the same answer");
    let mut thief = Peer::connect(2, registry.anchor()).await;
    let RegistryFrame::Refused(Refused { about, reason }) = thief.ask(&thief.enrol(&token)).await else {
        panic!("a used token was taken");
    };
    assert_eq!((about, reason.as_str()), (token.secret.hash(), "bad_token"));
    assert_eq!(registry.handle().stats().await.unwrap().rejections["bad_token"], 1);
}

#[tokio::test]
async fn who_breaks_the_protocol_is_cut_off_and_nobody_else() {
    let registry = start(config()).await;
    let token = registry.handle().join_token("fjord", Role::Cloud, HOUR).await.unwrap();
    let mut honest = Peer::connect(1, registry.anchor()).await;
    honest.ask(&honest.enrol(&token)).await;
    for (bytes, name) in [
        (vec![9, 9, 9], "wrong_version"),
        (vec![1, 48], "malformed"),
        (vec![1; FRAME_BYTES_MAX + 1], "frame_too_large"),
    ] {
        let mut rude = Peer::connect(2, registry.anchor()).await;
        rude.writer.send(&bytes).await.unwrap();
        assert!(rude.receive().await.is_err(), "{name}: the stream stays");
        let stats = registry.handle().stats().await.unwrap();
        assert_eq!(stats.rejections.get(name), Some(&1), "{name}: {stats:?}");
    }
    assert!(matches!(honest.ask(&lookup()).await, RegistryFrame::Found(_)));
    // A mistake that an honest peer can make is answered, and the stream stays.
    let mut stranger = Peer::connect(3, registry.anchor()).await;
    for _ in 0..2 {
        assert!(matches!(stranger.ask(&lookup()).await, RegistryFrame::Refused(_)));
    }
    // So is a message of a later version of the protocol.
    stranger.writer.send(&[1, 200]).await.unwrap();
    assert!(matches!(stranger.receive().await, Ok(RegistryFrame::Refused(_))));
    let stats = registry.handle().stats().await.unwrap();
    assert_eq!(stats.rejections.get("unknown_message"), Some(&1), "{stats:?}");
}

#[tokio::test]
async fn the_newest_stream_of_a_peer_gets_the_answers() {
    let registry = start(config()).await;
    let mut peer = Peer::connect(1, registry.anchor()).await;
    assert!(matches!(peer.ask(&lookup()).await, RegistryFrame::Refused(_)));
    let (reader, writer) = Peer::open(&peer.net, registry.anchor()).await;
    let (old_reader, _old_writer) =
        (std::mem::replace(&mut peer.reader, reader), std::mem::replace(&mut peer.writer, writer));
    assert!(matches!(peer.ask(&lookup()).await, RegistryFrame::Refused(_)));
    drop(old_reader);
}

#[tokio::test]
async fn a_port_or_a_file_in_use_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreChoice::Disk(dir.path().join("registry.journal"));
    let first = start(Config { store: store.clone(), ..config() }).await;
    let second = Config { store, ..config() };
    let error = run(second, Arc::new(DirectConnector), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, RunError::Store(_)), "{error}");
    assert!(error.to_string().contains("stop that one first"), "{error}");
    let second = Config { listen: first.addresses().to_vec(), ..config() };
    let error = run(second, Arc::new(DirectConnector), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, RunError::Net(NetError::AddressInUse { .. })), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn commands_fail_cleanly_once_it_has_stopped() {
    let registry = start(config()).await;
    let handle = registry.handle().clone();
    assert!(handle.revoke("nobody").await.is_err());
    registry.stop();
    registry.stopped().await.unwrap();
    assert_eq!(handle.stats().await.unwrap_err().to_string(), "the registry has stopped");
}
