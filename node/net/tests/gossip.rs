//! Gossip between real nodes on loopback sockets.

mod common;

use std::time::Instant;

use common::{Node, rehearse, within};
use wayfare_net::limits::GOSSIP_BYTES_MAX;
use wayfare_net::{NetConfig, NetError, NetEvent, Verdict};

/// A bootstrap node and `count` others that know only it.
async fn star(count: u8) -> (Node, Vec<Node>) {
    let hub = Node::local(100).await;
    let mut others = Vec::new();
    for seed in 1..=count {
        others.push(Node::joining(seed, &hub).await);
    }
    hub.until_connected(usize::from(count)).await;
    (hub, others)
}

#[tokio::test]
async fn an_advert_reaches_everybody_but_only_once_it_is_accepted() {
    let (mut hub, mut others) = star(4).await;
    rehearse(&mut hub, &mut others).await;
    let mut author = others.remove(0);
    author.publish(b"first").await;
    let (first, bytes) = hub.advert().await;
    assert_eq!(bytes, b"first");
    author.publish(b"second").await;
    let (second, bytes) = hub.advert().await;
    assert_eq!(bytes, b"second");
    hub.net.judge(second, Verdict::Accept);
    // Streams keep their order: had the hub forwarded `first` before its verdict, it would come first.
    for node in &mut others {
        let (id, bytes) = node.advert().await;
        assert_eq!(bytes, b"second");
        node.net.judge(id, Verdict::Accept);
    }
    hub.net.judge(first, Verdict::Accept);
    for node in &mut others {
        assert_eq!(node.advert().await.1, b"first");
    }
    // What a node published itself does not come back to it.
    while let Ok(event) = author.events.try_recv() {
        assert!(matches!(event, NetEvent::PeerConnected(_)), "{event:?}");
    }
}

#[tokio::test]
async fn a_rejected_advert_is_not_forwarded_and_its_forwarder_is_soon_not_heard() {
    let (mut hub, mut others) = star(2).await;
    let (author, mut witness) = (others.remove(0), others.remove(0));
    for n in 0..5_u8 {
        author.publish(&[n; 100]).await;
        let (id, _) = hub.advert().await;
        hub.net.judge(id, Verdict::Reject);
    }
    // The hub now ignores the author, and still hears the witness.
    author.publish(b"unheard").await;
    witness.publish(b"heard").await;
    assert_eq!(hub.advert().await.1, b"heard");
    while let Ok(event) = witness.events.try_recv() {
        assert!(matches!(event, NetEvent::PeerConnected(_)), "{event:?}");
    }
}

/// gossipsub compares all that it has buffered with its limit, so that a tight one would end streams in a burst.
#[tokio::test]
async fn a_burst_of_adverts_arrives_whatever_their_length() {
    let (mut hub, mut others) = star(2).await;
    rehearse(&mut hub, &mut others).await;
    let adverts: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; GOSSIP_BYTES_MAX >> (n % 8)]).collect();
    let published = adverts.iter().map(|advert| others[0].net.publish(advert.clone()));
    for result in futures::future::join_all(published).await {
        result.unwrap();
    }
    for advert in &adverts {
        assert_eq!(&hub.advert().await.1, advert);
    }
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_by_name() {
    let (_hub, others) = star(1).await;
    let node = &others[0];
    let long = node.net.publish(vec![0; GOSSIP_BYTES_MAX + 1]).await;
    assert!(matches!(long, Err(NetError::TooLarge { len, cap: GOSSIP_BYTES_MAX }) if len == GOSSIP_BYTES_MAX + 1));
    node.publish(b"once").await;
    assert!(matches!(node.net.publish(b"once".to_vec()).await, Err(NetError::AlreadyPublished)));
    let lonely = Node::local(50).await;
    assert!(matches!(lonely.net.publish(b"alone".to_vec()).await, Err(NetError::NoGossipPeers)));
    let registry = Node::start(NetConfig { gossip: false, ..NetConfig::local([51; 32]) }).await;
    assert!(matches!(registry.net.publish(b"no".to_vec()).await, Err(NetError::GossipOff)));
    // A node without gossip is reachable all the same.
    within("a probe", node.net.probe(registry.host(), &registry.addresses())).await.unwrap();
}

#[tokio::test]
async fn events_that_nobody_reads_are_dropped_and_counted() {
    let (mut hub, others) = star(1).await;
    for n in 0..400_u32 {
        others[0].publish(&n.to_le_bytes()).await;
    }
    let dropped = async {
        while hub.net.counters().gossip_dropped == 0 {
            tokio::task::yield_now().await;
        }
    };
    within("drops", dropped).await;
    // Read what is there: the node goes on, and tells of peers too.
    while hub.events.try_recv().is_ok() {}
    others[0].publish(b"after").await;
    let after = async { while hub.advert().await.1 != b"after" {} };
    within("the advert after", after).await;
}

/// Ten nodes form a mesh in about a second on idle cores; the assertion leaves room for busy ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_ten_forms_quickly() {
    let start = Instant::now();
    let (mut hub, mut others) = star(9).await;
    rehearse(&mut hub, &mut others).await;
    let elapsed = start.elapsed();
    println!("a mesh of ten formed and delivered in {elapsed:?}");
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
}
