//! What host and gateway alike do with the mesh: bear with peers of other versions, and get to know those who advertise.

use tokio_util::task::TaskTracker;
use tracing::warn;
use wayfare_net::{Net, furthest_first};
use wayfare_protocol::{advert::Advert, ids::HostId, limits::ADDRESSES_MAX, reject::Reject, trust::Signed};

/// Peers that a node connects to by itself, so that the mesh is no star round its bootstrap; more come by themselves.
const PEERS_WANTED: usize = 8;

/// A message of a kind that came with a newer version is counted where it was refused, and breaks nothing.
pub(crate) fn newer(reject: Reject) -> Result<(), Reject> {
    if reject.is_of_newer_peer() { Ok(()) } else { Err(reject) }
}

/// A message could not be told to a peer of an older version.
pub(crate) fn unsent(peer: HostId, version: u8, needs: u8) {
    warn!(peer = %format!("{peer:#}"), "a message was not sent: it needs version {needs} of the protocol, and this peer speaks {version}: upgrade it");
}

/// What to advertise of the addresses that a node listens on: as many as an advert may have, those first that reach furthest.
pub(crate) fn advertisable(addresses: Vec<String>) -> Vec<String> {
    let mut addresses = furthest_first(addresses);
    if addresses.len() > ADDRESSES_MAX {
        warn!(dropped = addresses.len() - ADDRESSES_MAX, "too many addresses: set node.advertise to those that matter");
        addresses.truncate(ADDRESSES_MAX);
    }
    addresses
}

/// A host whose advert was verified is no stranger.
pub(crate) fn vouch(net: &Net, advert: &Signed<Advert>) {
    if let Ok(advert) = advert.unverified() {
        net.vouch(advert.host);
    }
}

/// Connects to a host that advertises, while this node knows few.
pub(crate) fn meet(net: &Net, tracker: &TaskTracker, advert: &Signed<Advert>) {
    if net.connected() >= PEERS_WANTED {
        return;
    }
    let Ok(advert) = advert.unverified() else { return };
    if advert.host == net.host_id() {
        return;
    }
    let net = net.clone();
    tracker.spawn(async move {
        // Who cannot be reached now will be advertised again.
        let _ = net.connect(advert.host, &advert.addresses).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_furthest_is_advertised_first() {
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let found = text(&[
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/9.9.9.9/udp/1/quic-v1",
            "/ip4/9.9.9.9/tcp/1",
        ]);
        let sorted = text(&[
            "/ip4/9.9.9.9/tcp/1",
            "/ip4/9.9.9.9/udp/1/quic-v1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
        ]);
        assert_eq!(advertisable(found), sorted);
        assert_eq!(advertisable(vec!["/ip4/9.9.9.9/tcp/1".to_owned(); 20]).len(), ADDRESSES_MAX);
    }
}
