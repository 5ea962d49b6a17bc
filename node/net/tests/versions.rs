//! Nodes of different versions of the protocol, on real streams.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Node, within};
use tokio_util::task::TaskTracker;
use wayfare_net::{
    FrameReader, FrameWriter, NetConfig, NetError, NetEvent, Pool, PoolEvent, PoolEvents, Protocol, Stream,
};
use wayfare_protocol::{reject::Reject, wire::VERSIONS};

const CAP: usize = 1000;

async fn speaking(seed: u8, versions: &[u8]) -> Node {
    Node::start(NetConfig { versions: versions.to_vec(), ..NetConfig::local([seed; 32]) }).await
}

/// A stream from `a` to `b`: what each end says of its version.
async fn agreed(a: &Node, b: &Node) -> (u8, u8) {
    let mut incoming = b.net.accept(Protocol::Migrate).unwrap();
    let addresses = b.addresses();
    let opening = a.net.open(b.host(), &addresses, Protocol::Migrate);
    let (opened, accepted) = tokio::join!(within("a stream", opening), within("a stream", incoming.recv()));
    (opened.unwrap().version(), accepted.unwrap().1.version())
}

#[tokio::test]
async fn the_highest_version_that_both_speak_is_spoken() {
    let ours = VERSIONS[0];
    let cases: &[(&[u8], &[u8], u8)] = &[
        (VERSIONS, VERSIONS, ours),
        (VERSIONS, &[1], 1),
        (&[1], VERSIONS, 1),
        (&[3, 2, 1], &[4, 2], 2),
        (&[9], &[9, 1], 9),
    ];
    for (n, (a, b, version)) in cases.iter().enumerate() {
        let n = u8::try_from(n).unwrap() * 2;
        let (a, b) = (speaking(n + 1, a).await, speaking(n + 2, b).await);
        assert_eq!(agreed(&a, &b).await, (*version, *version), "case {n}");
        assert_eq!((a.net.incompatible(), b.net.incompatible()), (vec![], vec![]));
    }
}

async fn refused(node: &mut Node) -> String {
    loop {
        match node.event().await {
            NetEvent::Incompatible(peer) => return peer.to_string(),
            NetEvent::PeerConnected(_) => {}
            other => unreachable!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn without_a_version_in_common_both_sides_say_so_by_name() {
    let (mut old, mut new) = (speaking(1, &[1]).await, speaking(2, &[4, 3]).await);
    let _incoming = (old.net.accept(Protocol::Migrate).unwrap(), new.net.accept(Protocol::Migrate).unwrap());
    let addresses = new.addresses();
    let error = within("an answer", old.net.open(new.host(), &addresses, Protocol::Migrate)).await.unwrap_err();
    let NetError::NoCommonVersion { peer } = &error else { unreachable!("{error:?}") };
    assert_eq!((peer.host, peer.versions.as_slice(), peer.ours.as_slice()), (new.host(), &[4, 3][..], &[1][..]));
    let told = format!(
        "{:#} (wayfare/{}) speaks version 4 and 3 of the protocol, this node 1: upgrade this node",
        new.host(),
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(error.to_string(), told);
    assert_eq!(refused(&mut old).await, told);
    let its_view = refused(&mut new).await;
    assert!(its_view.ends_with("speaks version 1 of the protocol, this node 4 and 3: upgrade it"), "{its_view}");
    assert_eq!((old.net.incompatible().len(), new.net.incompatible().len()), (1, 1));
    assert_eq!(old.net.counters().versions_refused, 1);

    // Whoever tries again and again asks nothing of the peer: neither a dial nor a stream.
    for _ in 0..100 {
        let again = new.net.open(old.host(), &[], Protocol::Migrate).await;
        assert!(matches!(again, Err(NetError::NoCommonVersion { .. })), "{again:?}");
    }
    assert_eq!((new.net.counters().versions_refused, new.net.connected()), (100, 1));
    let told_once = tokio::time::timeout(Duration::from_millis(50), old.events.recv()).await;
    assert!(told_once.is_err(), "{told_once:?}");
}

#[tokio::test]
async fn a_peer_that_was_upgraded_is_spoken_to_again() {
    let mut a = speaking(1, &[2, 1]).await;
    let new = speaking(2, &[3]).await;
    let (host, addresses) = (new.host(), new.addresses());
    assert!(matches!(a.net.probe(host, &addresses).await, Err(NetError::NoCommonVersion { .. })));
    refused(&mut a).await;
    new.stop.cancel();
    within("the end", new.net.stopped()).await;
    within("news of it", a.net.watch_connected().wait_for(|count| *count == 0)).await.unwrap();
    let config = NetConfig { versions: vec![3, 2], listen: addresses.clone(), ..NetConfig::local([2; 32]) };
    let _again = Node::start(config).await;
    within("a probe", a.net.probe(host, &addresses)).await.unwrap();
}

#[tokio::test]
async fn what_a_peer_does_not_offer_is_no_matter_of_versions() {
    let (a, b) = (speaking(1, &[2]).await, speaking(2, &[2]).await);
    let addresses = b.addresses();
    let error = within("an answer", a.net.open(b.host(), &addresses, Protocol::State)).await.unwrap_err();
    assert!(matches!(error, NetError::Unsupported { .. }), "{error:?}");
    assert_eq!(a.net.counters().versions_refused, 0);
}

/// A pool of a node that speaks versions 2 and 1, and the other end of its stream.
async fn pool_and_peer(peer_speaks: &[u8]) -> (Node, Pool, PoolEvents, Node, Stream) {
    let (node, peer) = (speaking(1, &[2, 1]).await, speaking(2, peer_speaks).await);
    let (mut pool, mut events) =
        Pool::new(node.net.clone(), Protocol::Request, CAP, TaskTracker::new(), node.stop.child_token());
    let mut incoming = peer.net.accept(Protocol::Request).unwrap();
    pool.connect(peer.host(), &peer.addresses());
    let (_, stream) = within("a stream", incoming.recv()).await.unwrap();
    let opened = within("the stream", events.recv()).await;
    assert!(matches!(opened, Some(PoolEvent::Opened { .. })), "{opened:?}");
    (node, pool, events, peer, stream)
}

#[tokio::test]
async fn an_older_peer_is_not_sent_what_it_would_not_understand() {
    let (node, mut pool, mut events, peer, mut stream) = pool_and_peer(&[1]).await;
    for frame in [&[1, 60][..], &[2, 200], &[1, 61], &[2, 201], &[1, 62]] {
        pool.send(peer.host(), &[], Bytes::copy_from_slice(frame));
    }
    let mut reader = FrameReader::new(&mut stream, CAP);
    for frame in [[1, 60], [1, 61], [1, 62]] {
        assert_eq!(within("a frame", reader.read()).await.unwrap(), frame[..]);
    }
    for _ in 0..2 {
        let event = within("news", events.recv()).await;
        assert!(matches!(event, Some(PoolEvent::Unsent { version: 1, needs: 2, .. })), "{event:?}");
    }
    assert_eq!(node.net.counters().frames_unsent, 2);
    assert!(pool.has(peer.host()), "the stream goes on");
}

#[tokio::test]
async fn a_peer_of_the_same_version_gets_everything() {
    let (_node, mut pool, _events, peer, mut stream) = pool_and_peer(&[3, 2, 1]).await;
    assert_eq!(stream.version(), 2);
    pool.send(peer.host(), &[], Bytes::from_static(&[2, 200]));
    assert_eq!(within("a frame", FrameReader::new(&mut stream, CAP).read()).await.unwrap(), [2, 200][..]);
}

#[tokio::test]
async fn a_frame_later_than_the_version_agreed_on_ends_the_stream() {
    let (_node, _pool, mut events, _peer, mut stream) = pool_and_peer(&[1]).await;
    let mut writer = FrameWriter::new(&mut stream, CAP);
    writer.send(&[1, 60]).await.unwrap();
    writer.send(&[2, 60]).await.unwrap();
    let frame = within("a frame", events.recv()).await;
    assert!(matches!(frame, Some(PoolEvent::Frame { .. })), "{frame:?}");
    let end = within("the end", events.recv()).await;
    assert!(matches!(end, Some(PoolEvent::Closed { reject: Some(Reject::WrongVersion), .. })), "{end:?}");
}
