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
            let verified = verify(&bundle, &bytes);
            net.judge(id, judge(&verified));
            if let Ok(Gossip::Advert(advert)) = verified {
                handle.heard(advert);
            }
        }
    }
}

/// What an honest relay may pass on late, or of another Registry's realm, is not held against it.
fn judge(verified: &Result<Gossip, Reject>) -> Verdict {
    match verified {
        Ok(_) => Verdict::Accept,
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

fn verify(bundle: &TrustBundle, bytes: &[u8]) -> Result<Gossip, Reject> {
    let gossip = Gossip::from_bytes(bytes)?;
    match &gossip {
        Gossip::Advert(advert) => verify_advert::<Dalek, Strict>(advert, bundle, clock::now().wall).map(|_| ()),
        Gossip::Placement(placement) => {
            let registry = placement.unverified()?.service.registry;
            bundle.verify::<Dalek, Strict, _>(placement, registry, Receiver::Anyone).map(|_| ())
        }
    }?;
    Ok(gossip)
}
