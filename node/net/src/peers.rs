//! What peers say of themselves (libp2p identify): the program, and the versions of the protocol that it speaks.
//!
//! A peer with which no version is in common is refused before anything is asked of it, for as long as the connection
//! lasts on which it said so; it is told of once, and stays listed. What a peer says here is believed only to its own
//! disadvantage.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use tokio::sync::watch;
use wayfare_protocol::ids::HostId;

use crate::limits::{AGENT_CHARS_MAX, INCOMPATIBLE_MAX, PEERS_DESCRIBED_MAX, VERSIONS_SHOWN_MAX};
use crate::stream::Spoken;

/// A peer that speaks no version that this node speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incompatible {
    /// The peer, authenticated.
    pub host: HostId,
    /// The program, as it says: `wayfare/0.1.0`.
    pub agent: String,
    /// The versions that it speaks, newest first; never none.
    pub versions: Vec<u8>,
    /// The versions that this node speaks, newest first.
    pub ours: Vec<u8>,
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, agent, versions, ours } = self;
        let older = if versions.first() < ours.first() { "it" } else { "this node" };
        write!(
            f,
            "{host:#} ({agent}) speaks version {} of the protocol, this node {}: upgrade {older}",
            list(versions),
            list(ours)
        )
    }
}

fn list(versions: &[u8]) -> String {
    let texts: Vec<String> = versions.iter().map(ToString::to_string).collect();
    texts.join(" and ")
}

/// A connected peer, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    agent: String,
    versions: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    connected: HashMap<HostId, Known>,
    /// Where each connection leads, oldest first: streams go over the oldest. Bounded by the limit of connections.
    routes: HashMap<HostId, Vec<(ConnectionId, String)>>,
    refused: VecDeque<Incompatible>,
}

/// Shared by the swarm's task, which writes, and by whoever opens streams.
#[derive(Debug)]
pub(crate) struct Peers {
    ours: Vec<u8>,
    inner: Mutex<Inner>,
    /// Counts what was heard, for those who wait for it.
    heard: watch::Sender<u64>,
}

impl Peers {
    pub(crate) fn new(ours: Vec<u8>) -> Self {
        Self { ours, inner: Mutex::default(), heard: watch::channel(0).0 }
    }

    /// A connected peer has described itself. `Some` if it is incompatible and that is news.
    pub(crate) fn identified<'a>(
        &self,
        host: HostId,
        agent: &str,
        protocols: impl Iterator<Item = &'a str>,
    ) -> Option<Incompatible> {
        let mut versions: Vec<u8> = protocols.filter_map(Spoken::version_in).collect();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        versions.dedup();
        versions.truncate(VERSIONS_SHOWN_MAX);
        let agent = agent.chars().filter(|c| !c.is_control()).take(AGENT_CHARS_MAX).collect();
        let mut inner = self.lock();
        if inner.connected.len() < PEERS_DESCRIBED_MAX || inner.connected.contains_key(&host) {
            inner.connected.insert(host, Known { agent, versions });
        }
        let found = self.incompatible_in(&inner, host);
        let news = found.filter(|found| !inner.refused.contains(found));
        if let Some(found) = &news {
            inner.refused.retain(|known| known.host != host);
            if inner.refused.len() >= INCOMPATIBLE_MAX {
                inner.refused.pop_front();
            }
            inner.refused.push_back(found.clone());
        }
        drop(inner);
        self.heard.send_modify(|count| *count = count.wrapping_add(1));
        news
    }

    /// A connection was made.
    pub(crate) fn opened(&self, host: HostId, id: ConnectionId, address: &Multiaddr) {
        self.lock().routes.entry(host).or_default().push((id, address.to_string()));
    }

    /// A connection ended. With the last one goes what the peer said: when it comes back, it may be another program.
    pub(crate) fn closed(&self, host: HostId, id: ConnectionId) {
        let mut inner = self.lock();
        let Some(routes) = inner.routes.get_mut(&host) else { return };
        routes.retain(|(other, _)| *other != id);
        if routes.is_empty() {
            inner.routes.remove(&host);
            inner.connected.remove(&host);
        }
    }

    /// The other ends of the connections with `host`, oldest first.
    pub(crate) fn routes(&self, host: HostId) -> Vec<String> {
        let inner = self.lock();
        inner.routes.get(&host).into_iter().flatten().map(|(_, address)| address.clone()).collect()
    }

    /// Why no stream to this peer can be opened, if that is known.
    pub(crate) fn incompatible(&self, host: HostId) -> Option<Incompatible> {
        self.incompatible_in(&self.lock(), host)
    }

    /// As [`incompatible`](Self::incompatible), once the peer has described itself, or `patience` is over.
    pub(crate) async fn wait_incompatible(&self, host: HostId, patience: Duration) -> Option<Incompatible> {
        let mut heard = self.heard.subscribe();
        let described = heard.wait_for(|_| self.lock().connected.contains_key(&host));
        // Whatever ends the wait: what is known then counts.
        let _ = tokio::time::timeout(patience, described).await;
        self.incompatible(host)
    }

    /// Those that were refused, oldest first, connected or not.
    pub(crate) fn refused(&self) -> Vec<Incompatible> {
        self.lock().refused.iter().cloned().collect()
    }

    /// The programs of the peers connected now.
    pub(crate) fn agents(&self) -> Vec<(HostId, String)> {
        self.lock().connected.iter().map(|(host, known)| (*host, known.agent.clone())).collect()
    }

    /// A peer that names none of our protocols, at any version, is not incompatible but something else.
    fn incompatible_in(&self, inner: &Inner, host: HostId) -> Option<Incompatible> {
        let Known { agent, versions } = inner.connected.get(&host)?;
        if versions.is_empty() || versions.iter().any(|version| self.ours.contains(version)) {
            return None;
        }
        Some(Incompatible { host, agent: agent.clone(), versions: versions.clone(), ours: self.ours.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId([1; 32]);

    fn disconnect(peers: &Peers, host: HostId) {
        let address: Multiaddr = "/ip4/192.0.2.7/tcp/1".parse().unwrap();
        let (one, two) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        peers.opened(host, one, &address);
        peers.opened(host, two, &address);
        peers.closed(host, one);
        assert_eq!((peers.routes(host).len(), peers.lock().connected.len()), (1, 1));
        peers.closed(host, two);
        assert!(peers.routes(host).is_empty());
    }

    #[test]
    fn a_peer_is_incompatible_only_if_it_speaks_our_protocols_at_other_versions_only() {
        let peers = Peers::new(vec![2, 1]);
        let says = |protocols: &[&str]| {
            peers.identified(HOST, "wayfare/9.0.0", protocols.iter().copied());
            peers.incompatible(HOST)
        };
        assert_eq!(says(&[]), None);
        assert_eq!(says(&["/meshsub/1.1.0", "/wayfare/other/7", "/wayfare/probe/", "/wayfare/probe/x"]), None);
        assert_eq!(says(&["/wayfare/probe/3", "/wayfare/probe/2", "/wayfare/migrate/3"]), None);
        let found = says(&["/wayfare/probe/3", "/wayfare/probe/4", "/wayfare/migrate/4"]).unwrap();
        assert_eq!(found.versions, [4, 3]);
        let text = found.to_string();
        assert!(
            text.ends_with("speaks version 4 and 3 of the protocol, this node 2 and 1: upgrade this node"),
            "{text}"
        );
        disconnect(&peers, HOST);
        assert_eq!(peers.incompatible(HOST), None);
        assert_eq!(peers.refused(), [found]);
    }

    #[test]
    fn news_is_told_once_and_the_list_is_bounded() {
        let peers = Peers::new(vec![2]);
        let meets = |n: u16, agent: &str| {
            let mut host = [0; 32];
            host[..2].copy_from_slice(&n.to_le_bytes());
            let news = peers.identified(HostId(host), agent, ["/wayfare/probe/1"].into_iter());
            disconnect(&peers, HostId(host));
            news
        };
        assert!(meets(0, "wayfare/0.1.0").is_some());
        assert!(meets(0, "wayfare/0.1.0").is_none(), "the same peer again");
        let changed = meets(0, &format!("wayfare/0.1.1\u{1b}{}", "x".repeat(10_000))).unwrap();
        assert!(changed.agent.len() == AGENT_CHARS_MAX && !changed.agent.contains('\u{1b}'), "{changed:?}");
        for n in 1..500 {
            assert!(meets(n, "wayfare/0.1.0").is_some());
        }
        assert_eq!(peers.refused().len(), INCOMPATIBLE_MAX);
    }
}
