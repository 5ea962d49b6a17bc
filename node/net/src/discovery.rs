//! mDNS: finding peers on the LAN. Off unless asked for, since it tells everybody on the LAN that this node is there.
//!
//! What it finds is an address at which to try a key. Nothing is trusted because of it: the transport checks the key at the
//! other end, and the Registry's certificate says what its holder may do.

use std::collections::BTreeSet;

use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, mdns};
use wayfare_protocol::ids::HostId;

use crate::error::NetError;
use crate::identity::{host_id, peer_id};
use crate::limits::{MDNS_INTERVAL, MDNS_PEERS_WANTED};
use crate::target::Target;

/// Asks and answers on every interface but the loopback, by IPv4.
pub(crate) fn build(keypair: &Keypair) -> Result<mdns::tokio::Behaviour, NetError> {
    let config = mdns::Config { query_interval: MDNS_INTERVAL, ..mdns::Config::default() };
    mdns::tokio::Behaviour::new(config, keypair.public().to_peer_id())
        .map_err(|error| NetError::Setup(format!("mDNS cannot be used: {error}")))
}

/// Whom to connect to, of those who are found.
#[derive(Debug)]
pub(crate) struct Seeker {
    /// Always: this node's Registries.
    seek: BTreeSet<PeerId>,
}

impl Seeker {
    pub(crate) fn new(seek: &[HostId]) -> Self {
        Self { seek: seek.iter().map(peer_id).collect() }
    }

    /// The dials to make, one for each peer, while `connected` peers are connected.
    pub(crate) fn dials(
        &self,
        found: Vec<(PeerId, Multiaddr)>,
        connected: usize,
        is_connected: impl Fn(&PeerId) -> bool,
    ) -> Vec<DialOpts> {
        let mut room = MDNS_PEERS_WANTED.saturating_sub(connected);
        let mut chosen: Vec<(PeerId, Vec<Multiaddr>)> = Vec::new();
        for (peer, address) in found {
            if is_connected(&peer) || host_id(&peer).is_none() || Target::of(&address).is_none() {
                continue;
            }
            if let Some((_, addresses)) = chosen.iter_mut().find(|(other, _)| *other == peer) {
                addresses.push(address);
            } else if self.seek.contains(&peer) {
                chosen.push((peer, vec![address]));
            } else if room > 0 {
                room -= 1;
                chosen.push((peer, vec![address]));
            }
        }
        let opts = |(peer, addresses)| {
            DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses).build()
        };
        chosen.into_iter().map(opts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_strangers_are_dialled_and_the_registry_always() {
        let host = |n: u8| {
            let mut seed = [n; 32];
            crate::identity::keypair(&mut seed).unwrap().public().to_peer_id()
        };
        let registry = host(200);
        let seeker = Seeker::new(&[host_id(&registry).unwrap()]);
        let address = |port: u16| -> Multiaddr { format!("/ip4/192.0.2.7/tcp/{port}").parse().unwrap() };
        let mut found: Vec<_> = (1..100).map(|n| (host(n), address(n.into()))).collect();
        found.push((host(1), "/ip4/192.0.2.7/udp/1/quic-v1".parse().unwrap()));
        found.push((registry, address(4730)));
        let count = |connected, found: Vec<(PeerId, Multiaddr)>| seeker.dials(found, connected, |_| false).len();
        assert_eq!(count(0, found.clone()), MDNS_PEERS_WANTED + 1);
        assert_eq!(count(MDNS_PEERS_WANTED - 1, found.clone()), 2);
        let only: Vec<_> = seeker.dials(found, 1000, |_| false).iter().map(|dial| dial.get_peer_id()).collect();
        assert_eq!(only, [Some(registry)]);
        assert!(seeker.dials(vec![(registry, address(1))], 0, |peer| *peer == registry).is_empty());
        assert_eq!(count(0, vec![(registry, "/ip4/192.0.2.7/tcp/1/ws".parse().unwrap())]), 0);
    }
}
