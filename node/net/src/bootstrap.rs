//! Keeps this node connected to its bootstrap addresses: dials each as long as it is not connected, with a growing wait.
//!
//! Pure: the time comes in, dials go out.

use std::time::Duration;

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use crate::limits::{REDIAL_MAX, REDIAL_MIN};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be dialled at this time.
    Due(Instant),
    Dialling(ConnectionId),
    Connected(PeerId),
    /// The address is our own: a list that is the same on every node contains it.
    Own,
}

#[derive(Debug)]
struct Entry {
    /// Ways to one node; several only if all name the same peer.
    addresses: Vec<Multiaddr>,
    /// The peer that the configuration names, if it names one.
    expected: Option<PeerId>,
    state: State,
    wait: Duration,
}

#[derive(Debug)]
pub(crate) struct Bootstrap {
    entries: Vec<Entry>,
}

impl Bootstrap {
    pub(crate) fn new(addresses: Vec<(Multiaddr, Option<PeerId>)>, now: Instant) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for (address, expected) in addresses {
            let same = entries.iter_mut().find(|entry| expected.is_some() && entry.expected == expected);
            match same {
                Some(entry) => entry.addresses.push(address),
                None => {
                    entries.push(Entry {
                        addresses: vec![address],
                        expected,
                        state: State::Due(now),
                        wait: REDIAL_MIN,
                    });
                }
            }
        }
        Self { entries }
    }

    /// When to call [`dials`](Self::dials) next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = |entry: &Entry| match entry.state {
            State::Due(at) => Some(at),
            State::Dialling(_) | State::Connected(_) | State::Own => None,
        };
        self.entries.iter().filter_map(due).min()
    }

    /// The dials that are due; each is then under way.
    pub(crate) fn dials(&mut self, now: Instant, is_connected: impl Fn(&PeerId) -> bool) -> Vec<DialOpts> {
        let mut dials = Vec::new();
        for entry in &mut self.entries {
            let State::Due(at) = entry.state else { continue };
            if at > now {
                continue;
            }
            if let Some(peer) = entry.expected.filter(&is_connected) {
                entry.state = State::Connected(peer);
                continue;
            }
            let opts = match entry.expected {
                Some(peer) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(entry.addresses.clone())
                    .extend_addresses_through_behaviour()
                    .build(),
                None => {
                    let Some(address) = entry.addresses.first() else { continue };
                    DialOpts::unknown_peer_id().address(address.clone()).build()
                }
            };
            entry.state = State::Dialling(opts.connection_id());
            dials.push(opts);
        }
        dials
    }

    pub(crate) fn on_connected(&mut self, peer: PeerId, id: ConnectionId) {
        for entry in &mut self.entries {
            if entry.state == State::Dialling(id) || entry.expected == Some(peer) {
                entry.state = State::Connected(peer);
                entry.wait = REDIAL_MIN;
            }
        }
    }

    /// The last connection with `peer` has ended.
    pub(crate) fn on_disconnected(&mut self, peer: PeerId, now: Instant) {
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Connected(peer)) {
            entry.state = State::Due(now + entry.wait);
        }
    }

    pub(crate) fn on_dial_failed(&mut self, id: ConnectionId, error: &DialError, now: Instant) {
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Dialling(id)) {
            match error {
                // libp2p leaves out the addresses that it listens on itself, after which none is left.
                DialError::LocalPeerId { .. } | DialError::NoAddresses => entry.state = State::Own,
                DialError::WrongPeerId { obtained, .. } => {
                    tracing::warn!(addresses = ?entry.addresses, found = %obtained, "bootstrap address has another key");
                    entry.retry(now);
                }
                _ => entry.retry(now),
            }
        }
    }
}

impl Entry {
    fn retry(&mut self, now: Instant) {
        self.state = State::Due(now + self.wait);
        self.wait = (self.wait * 2).min(REDIAL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(now: Instant) -> Bootstrap {
        Bootstrap::new(vec![("/ip4/127.0.0.1/tcp/4001".parse().unwrap(), None)], now)
    }

    #[test]
    fn the_wait_doubles_up_to_its_cap_and_starts_over_after_a_connection() {
        let mut now = Instant::now();
        let mut bootstrap = one(now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let dials = bootstrap.dials(now, |_| false);
            assert_eq!((dials.len(), bootstrap.next_due()), (1, None));
            bootstrap.on_dial_failed(dials[0].connection_id(), &DialError::Aborted, now);
            let due = bootstrap.next_due().unwrap();
            assert!(bootstrap.dials(due - Duration::from_millis(1), |_| false).is_empty());
            waits.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
        let dials = bootstrap.dials(now, |_| false);
        let peer = PeerId::random();
        bootstrap.on_connected(peer, dials[0].connection_id());
        assert_eq!(bootstrap.next_due(), None);
        bootstrap.on_disconnected(peer, now);
        assert_eq!(bootstrap.next_due(), Some(now + REDIAL_MIN));
    }

    #[test]
    fn addresses_that_name_one_peer_are_ways_to_one_connection() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let addresses = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1/tcp/2"];
        let named = addresses.map(|text| (text.parse().unwrap(), Some(peer)));
        assert_eq!(Bootstrap::new(named.to_vec(), now).dials(now, |_| false).len(), 1);
        let unnamed = addresses.map(|text| (text.parse().unwrap(), None));
        assert_eq!(Bootstrap::new(unnamed.to_vec(), now).dials(now, |_| false).len(), 3);
    }

    #[test]
    fn our_own_address_is_dialled_once() {
        let now = Instant::now();
        let mut bootstrap = one(now);
        let dials = bootstrap.dials(now, |_| false);
        bootstrap.on_dial_failed(dials[0].connection_id(), &DialError::NoAddresses, now);
        assert_eq!(bootstrap.next_due(), None);
    }

    #[test]
    fn a_named_peer_that_is_connected_is_not_dialled() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut bootstrap = Bootstrap::new(vec![("/ip4/127.0.0.1/tcp/4001".parse().unwrap(), Some(peer))], now);
        assert!(bootstrap.dials(now, |other| *other == peer).is_empty());
        bootstrap.on_disconnected(peer, now);
        assert!(bootstrap.next_due().is_some());
    }
}
