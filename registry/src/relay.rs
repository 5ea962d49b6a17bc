//! The Registry on the mesh: a peer whom every node knows, through which new nodes find each other. It passes on what
//! verifies, and decides nothing by it; a Registry that recovers finds hosts by what they advertise.

use tokio::sync::mpsc;
use wayfare_net::{Net, NetEvent};
use wayfare_protocol::{
    advert::{Gossip, Verdict, verify_advert},
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
    while let Some(event) = events.recv().await {
        if let NetEvent::Incompatible(_) = event {
            handle.count(Reject::NoCommonVersion);
        } else if let NetEvent::Gossip { id, bytes, .. } = event {
            let verified = verify(&bundle, &bytes);
            net.judge(id, Verdict::on(&verified));
            match verified {
                Ok(Gossip::Advert(advert)) => {
                    greeter.meet(&advert);
                    handle.heard(advert);
                }
                Err(reject @ (Reject::WrongVersion | Reject::UnknownMessage)) => handle.count(reject),
                Ok(Gossip::Placement(_)) | Err(_) => {}
            }
        }
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
