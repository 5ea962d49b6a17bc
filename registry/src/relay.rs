//! The Registry on the mesh: a peer whom every node knows, through which new nodes find each other. It passes on what
//! verifies, and decides nothing by it; a Registry that recovers finds hosts by what they advertise.

use tokio::sync::mpsc;
use wayfare_net::{Net, NetEvent, Verdict};
use wayfare_protocol::{
    advert::{Gossip, verify_advert},
    reject::{Reject, Strict},
    suite::Dalek,
    trust::{Receiver, TrustBundle},
    wire::Frame as _,
};

use crate::{clock, handle::Handle};

/// Judges gossip until the mesh stops.
pub(crate) async fn run(net: Net, bundle: TrustBundle, handle: Handle, mut events: mpsc::Receiver<NetEvent>) {
    while let Some(event) = events.recv().await {
        if let NetEvent::Gossip { id, bytes, .. } = event {
            let verdict = judge(&bundle, &bytes);
            if matches!(verdict, Verdict::Accept)
                && let Ok(Gossip::Advert(advert)) = Gossip::from_bytes(&bytes)
            {
                handle.heard(advert);
            }
            net.judge(id, verdict);
        }
    }
}

/// What an honest relay may pass on late, or of another Registry's realm, is not held against it.
fn judge(bundle: &TrustBundle, bytes: &[u8]) -> Verdict {
    match verify(bundle, bytes) {
        Ok(()) => Verdict::Accept,
        Err(
            Reject::Expired
            | Reject::CertificateExpired
            | Reject::NotYetValid
            | Reject::UnknownRegistry
            | Reject::BadCertificate,
        ) => Verdict::Ignore,
        Err(_) => Verdict::Reject,
    }
}

fn verify(bundle: &TrustBundle, bytes: &[u8]) -> Result<(), Reject> {
    match Gossip::from_bytes(bytes)? {
        Gossip::Advert(advert) => verify_advert::<Dalek, Strict>(&advert, bundle, clock::now().wall).map(|_| ()),
        Gossip::Placement(placement) => {
            let registry = placement.unverified()?.service.registry;
            bundle.verify::<Dalek, Strict, _>(&placement, registry, Receiver::Anyone).map(|_| ())
        }
    }
}
