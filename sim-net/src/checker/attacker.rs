//! The attacker: it hears every message, and says whatever its secrets let it make. Each message that it can make is tried
//! in every state, any number of times; what it can make grows with what it hears.
//!
//! It speaks as itself: the transport authenticates hosts. Towards hosts it also speaks in the Registry's name, as if that
//! stream were not authenticated, and repeats to each host what the Registry said to another. [`forgery`](super::forgery)
//! lists the messages.

use std::sync::Arc;

use wayfare_protocol::{
    ids::{HostId, MigrationIds},
    migration::messages::{
        Granted, MigrateFrame, Placement, RegistryFrame, RequestFrame, ResponseFrame, Transfer, YesCloud, YesService,
    },
    suite::{Secret, digest},
    trust::{CoSigned, Signed},
    wire::Frame as _,
};

use super::{
    forgery::Forger,
    message::{Body, Envelope, Party, REGISTRY},
    world::World,
};

/// What the attacker has.
#[derive(Clone, Debug)]
pub(super) struct Knowledge {
    pub(super) party: Party,
    pub(super) secret: Secret,
    pub(super) host: HostId,
    /// A placement key that is not its own.
    pub(super) stolen: Option<Secret>,
    /// One that is.
    pub(super) own: Secret,
}

/// What it has heard, by kind.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) ids: Vec<MigrationIds>,
    pub(super) verdicts: Vec<(MigrationIds, Signed<YesCloud>)>,
    pub(super) requests: Vec<(MigrationIds, RequestFrame)>,
    pub(super) pins: Vec<(MigrationIds, Signed<YesService>)>,
    pub(super) responses: Vec<(MigrationIds, ResponseFrame)>,
    pub(super) consents: Vec<(MigrationIds, CoSigned<Transfer>)>,
    pub(super) placements: Vec<(Placement, Signed<Placement>)>,
    pub(super) granted: Vec<Granted>,
    /// What answers name: RECLAIM, CANCEL and RENEW by hash.
    pub(super) asked: Vec<wayfare_protocol::ids::Digest>,
    /// What the Registry said to hosts: to whom, what.
    pub(super) told: Vec<(Party, Vec<u8>)>,
}

impl Knowledge {
    pub(super) fn new(party: Party, secret: Secret, host: HostId, stolen: Option<Secret>) -> Self {
        let own = Secret::new(digest("attacker's placement key", &[]).0);
        Self { party, secret, host, stolen, own }
    }

    /// All that it can say, having heard these.
    pub(super) fn messages(&self, world: &World, envelopes: &[Arc<Envelope>]) -> Vec<Envelope> {
        let mut heard = Heard::default();
        envelopes.iter().for_each(|envelope| heard.listen(envelope));
        let mut forger = Forger::new(world, self, &heard);
        forger.tell_registry();
        for party in world.scope.parties().filter(|party| *party != self.party) {
            forger.tell_host(party);
            forger.in_the_registrys_name(party);
        }
        forger.made
    }
}

impl Heard {
    fn listen(&mut self, envelope: &Envelope) {
        // What does not decode was never sent.
        match &envelope.body {
            Body::Registry(bytes) => {
                if envelope.from == REGISTRY {
                    self.told.push((envelope.to, bytes.clone()));
                }
                if let Ok(frame) = RegistryFrame::from_bytes(bytes) {
                    let _ = self.listen_to_registry(&frame);
                }
            }
            Body::Migrate(bytes) => {
                if let Ok(frame) = MigrateFrame::from_bytes(bytes) {
                    let _ = self.listen_to_host(frame);
                }
            }
            Body::State { .. } | Body::Call { .. } => {}
        }
    }

    fn learn(&mut self, ids: MigrationIds) {
        if !self.ids.contains(&ids) {
            self.ids.push(ids);
        }
    }

    fn listen_to_registry(&mut self, frame: &RegistryFrame) -> Result<(), wayfare_protocol::reject::Reject> {
        match frame {
            RegistryFrame::YesCloud(signed) => {
                let YesCloud { request, mig, .. } = signed.unverified()?;
                let (service, cloud, host, epoch) = (request.service, request.cloud, request.host, request.epoch);
                let ids = MigrationIds { service, cloud, host, mig, epoch };
                self.learn(ids);
                self.verdicts.push((ids, signed.clone()));
            }
            RegistryFrame::YesService(signed) => self.pins.push((signed.unverified()?.request.ids, signed.clone())),
            RegistryFrame::Placement(signed) => self.placements.push((signed.unverified()?, signed.clone())),
            RegistryFrame::Granted(granted) => {
                self.placements.push((granted.placement.unverified()?, granted.placement.clone()));
                self.granted.push(granted.clone());
            }
            RegistryFrame::Reclaim(signed) => self.asked.push(signed.hash()),
            RegistryFrame::Cancel(signed) => self.asked.push(signed.hash()),
            RegistryFrame::Complete(frame) => self.asked.push(frame.complete.hash()),
            _ => {}
        }
        Ok(())
    }

    fn listen_to_host(&mut self, frame: MigrateFrame) -> Result<(), wayfare_protocol::reject::Reject> {
        match frame {
            MigrateFrame::Request(frame) => self.requests.push((frame.request.unverified()?.ids, frame)),
            MigrateFrame::Response(frame) => self.responses.push((frame.response.unverified()?.ids, frame)),
            MigrateFrame::Transfer(consent) => self.consents.push((consent.unverified()?.ids, consent)),
            MigrateFrame::TransferAck(_)
            | MigrateFrame::Refused(_)
            | MigrateFrame::Abandon(_)
            | MigrateFrame::RecordsAcked(_) => {}
        }
        Ok(())
    }
}

/// The entry of this attempt.
pub(super) fn of<T>(entries: &[(MigrationIds, T)], ids: MigrationIds) -> impl Iterator<Item = &T> {
    entries.iter().filter(move |(of, _)| *of == ids).map(|(_, entry)| entry)
}
