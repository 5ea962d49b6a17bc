//! The Registry on the mesh: a peer whom every node knows, through which new nodes find each other. It passes on what
//! verifies, and decides nothing by it; a Registry that recovers finds hosts by what they advertise.

use tokio::sync::mpsc;
use wayfare_net::{Net, NetEvent};
use wayfare_protocol::{
    advert::{Gossip, Pace, Verdict, verify_advert},
    reject::{Reject, Strict},
    suite::Dalek,
    trust::{Receiver, TrustBundle},
    wire::Frame as _,
};

use crate::{clock, handle::Handle, reach::Greeter};

/// Judges gossip until the mesh stops.
pub(crate) async fn run(
    net: Net,
    bundle: TrustBundle,
    handle: Handle,
    greeter: Greeter,
    mut events: mpsc::Receiver<NetEvent>,
) {
    let mut pace = Pace::default();
    while let Some(event) = events.recv().await {
        if let NetEvent::Incompatible(_) = event {
            handle.count(Reject::NoCommonVersion);
        } else if let NetEvent::PeerConnected(host) = event {
            handle.vouch(host);
        } else if let NetEvent::Gossip { id, bytes, .. } = event {
            let verified = verify(&bundle, &mut pace, &bytes);
            net.judge(id, Verdict::on(&verified));
            match verified {
                Ok(Gossip::Advert(advert)) => {
                    greeter.meet(&advert);
                    handle.heard(advert);
                }
                Err(reject @ (Reject::WrongVersion | Reject::UnknownMessage | Reject::TooOften)) => {
                    handle.count(reject)
                }
                Ok(Gossip::Placement(_)) | Err(_) => {}
            }
        }
    }
}

fn verify(bundle: &TrustBundle, pace: &mut Pace, bytes: &[u8]) -> Result<Gossip, Reject> {
    let (gossip, now) = (Gossip::from_bytes(bytes)?, clock::now());
    match &gossip {
        Gossip::Advert(advert) => {
            let (advert, _) = verify_advert::<Dalek, Strict>(advert, bundle, now.wall)?;
            pace.admit::<Strict>(now.mono, advert.host)
        }
        Gossip::Placement(placement) => {
            let registry = placement.unverified()?.service.registry;
            bundle.verify::<Dalek, Strict, _>(placement, registry, Receiver::Anyone).map(|_| ())
        }
    }?;
    Ok(gossip)
}
