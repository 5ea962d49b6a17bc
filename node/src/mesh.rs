//! What host and gateway alike do with the mesh: judge gossip, and get to know those who advertise.

use tokio_util::task::TaskTracker;
use wayfare_net::{Net, Verdict};
use wayfare_protocol::{advert::Advert, reject::Reject, trust::Signed};

/// Peers that a node connects to by itself, so that the mesh is no star round its bootstrap; more come by themselves.
const PEERS_WANTED: usize = 8;

/// What to tell the mesh of a gossiped message. What an honest relay may pass on late, or cannot know, is not held
/// against it.
pub(crate) fn judge<T>(result: &Result<T, Reject>) -> Verdict {
    match result {
        Ok(_) => Verdict::Accept,
        Err(
            Reject::OldSerial
            | Reject::WrongEpoch
            | Reject::Expired
            | Reject::CertificateExpired
            | Reject::NotYetValid
            | Reject::UnknownRegistry
            | Reject::UnknownService
            | Reject::BadCertificate
            | Reject::Full,
        ) => Verdict::Ignore,
        Err(_) => Verdict::Reject,
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
