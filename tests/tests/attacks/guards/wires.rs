//! Attacks on what protects bytes under way: without encryption and keys, the wire's owner decides what arrives.

use std::net::SocketAddr;

use sim_net::attack::{
    keys_that_open,
    wire::{Mode, Wire},
};
use tokio::net::{TcpListener, TcpStream};
use wayfare_net::{FrameReader, FrameWriter, Protocol};
use wayfare_protocol::{
    gateway::messages::{Call, ClientFrame},
    ids::{ClientId, Digest, RegistryId, ServiceId},
    limits::CLIENT_FRAME_BYTES_MAX,
    migration::messages::RegistryFrame,
    order::{Action, Order, OrderFrame},
    reject::{Reject, Strict},
    suite::{Dalek, Secret, Signature, Suite},
    time::Timestamp,
    transfer::{Opener, RecordKind, Sealer},
    trust::{Receiver, Signed},
    wire::Frame,
};
use wayfare_tests::peer::{Line, Peer, Whereabouts, until, within};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A request to count, with something to alter at its end.
fn call() -> Vec<u8> {
    let service = ServiceId { registry: RegistryId([1; 32]), unique: [2; 16] };
    let request = b"PUT /k/amount HTTP/1.1\r\ncontent-length: 1\r\n\r\n0".to_vec();
    let hash = Digest([3; 32]);
    ClientFrame::Call(Call { service, client: ClientId([4; 32]), sequence: 0, hash, acked_below: 0, request })
        .to_bytes()
}

/// On a wire without encryption, an altered request is as good as the honest one.
#[tokio::test]
pub(crate) async fn a_frame_altered_on_a_bare_wire() {
    let server = TcpListener::bind(LOOPBACK).await.unwrap();
    let wire = Wire::start(LOOPBACK, server.local_addr().unwrap()).await.unwrap();
    wire.set(Mode::FlipLate);
    let client = TcpStream::connect(wire.address()).await.unwrap();
    let (server, _) = within("a connection", server.accept()).await.unwrap();
    let mut writer = FrameWriter::new(client, CLIENT_FRAME_BYTES_MAX);
    let mut reader = FrameReader::new(server, CLIENT_FRAME_BYTES_MAX);
    let (honest, mut altered) = (call(), None);
    for _ in 0..100 {
        writer.send(&honest).await.unwrap();
        let heard = within("a frame", reader.read()).await.unwrap();
        if heard != honest {
            altered = Some(heard);
            break;
        }
    }
    let Ok(ClientFrame::Call(call)) = ClientFrame::from_bytes(&altered.expect("something was altered")) else {
        panic!("what arrived is no request")
    };
    assert!(call.request.ends_with(b"\r\n\r\n1"), "another amount");
    // And what was recorded can be said again, to the same effect.
    assert!(wire.recorded().windows(honest.len()).any(|window| window == honest));
}

/// Who takes whoever answers for the home speaks to the wire's owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn a_key_that_nobody_compares() {
    let (gateway, home, mallory) = (Peer::start(1).await, Peer::start(2).await, Peer::start(3).await);
    let socket = |peer: &Peer| -> SocketAddr {
        let address = peer.whereabouts().addresses.remove(0);
        let mut parts = address.split('/').skip(2);
        let (ip, port) = (parts.next().unwrap(), parts.nth(1).unwrap());
        format!("{ip}:{port}").parse().unwrap()
    };
    let (_at_home, mut at_mallory) = (home.accept(Protocol::Request), mallory.accept(Protocol::Request));
    let wire = Wire::start(LOOPBACK, socket(&home)).await.unwrap();
    wire.set(Mode::Divert(socket(&mallory)));
    let address = format!("/ip4/127.0.0.1/tcp/{}", wire.address().port());
    let honest = gateway.net.open(home.host, std::slice::from_ref(&address), Protocol::Request).await;
    assert!(honest.is_err(), "with the key it is refused");
    // The check left out: any key will do, this one's say.
    let anybody = Whereabouts { host: mallory.host, addresses: vec![address] };
    let mut line = Line::open(&gateway, &anybody, Protocol::Request).await;
    line.send(&call()).await;
    let (_, mut stolen) = within("a stream", at_mallory.next()).await.unwrap();
    assert_eq!(stolen.receive().await.unwrap(), call(), "the request is the attacker's to read");
    until("the wire to be used", async || (wire.connections() > 1).then_some(())).await;
}

/// A message of version 2 says the same wherever it comes: only the stream's version keeps it from an old one.
#[test]
pub(crate) fn a_new_message_on_an_old_stream() {
    let service = ServiceId { registry: RegistryId([1; 32]), unique: [2; 16] };
    let order = Order { service, action: Action::Stop, sequence: 1, expiry: Timestamp(1) };
    let order = Signed::sign::<Dalek>(&Secret::new([1; 32]), service.registry, Receiver::Anyone, &order);
    let frame = RegistryFrame::Order(OrderFrame { order, manifest: None, addresses: vec![] });
    let bytes = frame.to_bytes();
    assert_eq!((bytes[0], RegistryFrame::from_bytes(&bytes)), (2, Ok(frame)));
}

/// As the protocol is printed: the state is sealed to the cloud's own key, and whoever gets that later reads it.
#[test]
pub(crate) fn a_recorded_move_and_a_static_key() {
    let (cloud, source, transcript) = (Secret::new([1; 32]), Secret::new([2; 32]), Digest([5; 32]));
    let shares = [Dalek::dh_public(&source), Dalek::dh_public(&cloud)];
    let record = |secret: &Secret, share: &[u8; 32]| {
        let key = Dalek::agree(secret, share, &transcript).unwrap();
        Sealer::new(key, transcript).seal::<Dalek>(RecordKind::Page, b"the state").unwrap()
    };
    let printed = record(&source, &shares[1]);
    assert_eq!(keys_that_open(std::slice::from_ref(&cloud), &shares, transcript, &printed), 1);
    let (ephemeral, fresh) = (Secret::new([3; 32]), Secret::new([4; 32]));
    let shares = [Dalek::dh_public(&fresh), Dalek::dh_public(&ephemeral)];
    let hardened = record(&fresh, &shares[1]);
    assert_eq!(keys_that_open(&[cloud, source], &shares, transcript, &hardened), 0);
}

/// The real suite, but that records are encrypted and not authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Tagless;

impl Suite for Tagless {
    fn public_key(secret: &Secret) -> [u8; 32] {
        Dalek::public_key(secret)
    }

    fn sign(secret: &Secret, message: &[u8]) -> Signature {
        Dalek::sign(secret, message)
    }

    fn verify(key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
        Dalek::verify(key, message, signature)
    }

    fn dh_public(secret: &Secret) -> [u8; 32] {
        Dalek::dh_public(secret)
    }

    fn agree(secret: &Secret, share: &[u8; 32], info: &Digest) -> Option<Secret> {
        Dalek::agree(secret, share, info)
    }

    fn seal(key: &Secret, _: u64, _: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let keystream = key.expose().iter().cycle();
        plaintext.iter().zip(keystream).map(|(byte, key)| byte ^ key).collect()
    }

    fn open(key: &Secret, number: u64, ad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        Some(Self::seal(key, number, ad, sealed))
    }
}

/// What becomes of a record with one bit changed.
fn altered<S: Suite>() -> Result<Vec<u8>, Reject> {
    let (key, transcript) = (Secret::new([1; 32]), Digest([2; 32]));
    let mut record = Sealer::new(key.clone(), transcript).seal::<S>(RecordKind::Page, b"balance: 0").unwrap();
    record.sealed[9] ^= 1;
    Opener::new(key, transcript).open::<S, Strict>(&record)
}

#[test]
pub(crate) fn a_record_that_is_not_authenticated() {
    assert_eq!(altered::<Dalek>(), Err(Reject::RecordForged));
    assert_eq!(altered::<Tagless>().as_deref(), Ok(&b"balance: 1"[..]), "another state");
}
