//! Nodes on loopback sockets, and waiting without sleeping blindly.
#![allow(dead_code)]

use std::time::Duration;

use tokio::sync::mpsc;
use wayfare_net::{CancellationToken, Net, NetConfig, NetEvent, Verdict};
use wayfare_protocol::ids::HostId;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the adverts of [`rehearse`] start with.
const REHEARSAL: &[u8] = b"rehearsal";

pub(crate) struct Node {
    pub(crate) net: Net,
    pub(crate) events: mpsc::Receiver<NetEvent>,
    pub(crate) stop: CancellationToken,
}

impl Node {
    pub(crate) async fn start(config: NetConfig) -> Self {
        let stop = CancellationToken::new();
        let (net, events) = Net::start(config, stop.clone()).await.expect("the node starts");
        Self { net, events, stop }
    }

    pub(crate) async fn local(seed: u8) -> Self {
        Self::start(NetConfig::local([seed; 32])).await
    }

    pub(crate) async fn joining(seed: u8, bootstrap: &Self) -> Self {
        let bootstrap = bootstrap.net.listen_addresses();
        Self::start(NetConfig { bootstrap, ..NetConfig::local([seed; 32]) }).await
    }

    pub(crate) fn host(&self) -> HostId {
        self.net.host_id()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.net.listen_addresses()
    }

    pub(crate) async fn until_connected(&self, peers: usize) {
        let mut connected = self.net.watch_connected();
        within("connections", connected.wait_for(|count| *count >= peers)).await.expect("the node runs");
    }

    /// Publishes as soon as somebody is subscribed.
    pub(crate) async fn publish(&self, bytes: &[u8]) {
        let published = async {
            while let Err(error) = self.net.publish(bytes.to_vec()).await {
                assert!(matches!(error, wayfare_net::NetError::NoGossipPeers), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("a subscriber", published).await;
    }

    /// The next advert that is not a rehearsal's.
    pub(crate) async fn advert(&mut self) -> (wayfare_net::GossipId, Vec<u8>) {
        let next = async {
            loop {
                let event = self.events.recv().await.expect("the node runs");
                if let NetEvent::Gossip { id, bytes, .. } = event
                    && !bytes.starts_with(REHEARSAL)
                {
                    return (id, bytes);
                }
            }
        };
        within("an advert", next).await
    }

    pub(crate) async fn event(&mut self) -> NetEvent {
        within("an event", self.events.recv()).await.expect("the node runs")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Returns once adverts of the first node reach all others through the hub. A peer hears an advert only if it was in
/// the hub's mesh when that was forwarded, which takes a moment after the connection: nodes repeat their adverts.
pub(crate) async fn rehearse(hub: &mut Node, nodes: &mut [Node]) {
    let (author, others) = nodes.split_first_mut().expect("some node");
    let mut deaf: Vec<&mut Node> = others.iter_mut().collect();
    for n in 0_u32.. {
        author.publish(&[REHEARSAL, &n.to_le_bytes()].concat()).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        while let Ok(event) = hub.events.try_recv() {
            if let NetEvent::Gossip { id, .. } = event {
                hub.net.judge(id, Verdict::Accept);
            }
        }
        deaf.retain_mut(|node| {
            std::iter::from_fn(|| node.events.try_recv().ok()).all(|event| !matches!(event, NetEvent::Gossip { .. }))
        });
        if deaf.is_empty() {
            return;
        }
        assert!(n < 1000, "{} nodes heard nothing", deaf.len());
    }
}

/// Fails, saying what was waited for, rather than hanging.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect(what)
}
