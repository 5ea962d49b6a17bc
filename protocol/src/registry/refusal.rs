//! What is said, and done, about messages that are refused.

use crate::{
    ids::Digest,
    migration::messages::{Lookup, RegistryFrame},
    reject::Reject,
    suite::digest,
    wire,
};

/// Why a message was refused, and what the peer is told beyond the plain [`Refused`](crate::migration::messages::Refused).
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reject: Reject,
    pub(super) answer: Option<Box<RegistryFrame>>,
}

impl Refusal {
    pub(super) fn answered(reject: Reject, answer: RegistryFrame) -> Self {
        Self { reject, answer: Some(Box::new(answer)) }
    }
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self { reject, answer: None }
    }
}

/// What a [`Refused`](crate::migration::messages::Refused) is about.
pub(super) fn about(frame: &RegistryFrame) -> Digest {
    match frame {
        RegistryFrame::VerifyCloud(frame) => frame.request.hash(),
        RegistryFrame::VerifyService(signed) => signed.hash(),
        RegistryFrame::Complete(frame) => frame.complete.hash(),
        RegistryFrame::Released(signed) => signed.hash(),
        RegistryFrame::Register(frame) => frame.register.hash(),
        RegistryFrame::Renew(signed) => signed.hash(),
        RegistryFrame::Reclaim(signed) => signed.hash(),
        RegistryFrame::Cancel(signed) => signed.hash(),
        RegistryFrame::Enrol(signed) => signed.unverified().map_or(Digest([0; 32]), |enrol| enrol.token),
        RegistryFrame::Lookup(lookup) => lookup_hash(lookup),
        RegistryFrame::Shown(frame) => frame.shown.hash(),
        RegistryFrame::Order(frame) => frame.order.hash(),
        RegistryFrame::OrderDone(signed) => signed.hash(),
        RegistryFrame::Removed(signed) => signed.hash(),
        RegistryFrame::YesCloud(_)
        | RegistryFrame::NoCloud(_)
        | RegistryFrame::YesService(_)
        | RegistryFrame::NoService(_)
        | RegistryFrame::Placement(_)
        | RegistryFrame::Granted(_)
        | RegistryFrame::Refused(_)
        | RegistryFrame::Enrolled(_)
        | RegistryFrame::Found(_)
        | RegistryFrame::OrderState(_)
        | RegistryFrame::Recovering(_) => Digest([0; 32]),
    }
}

/// What a [`Refused`](crate::migration::messages::Refused) lookup is known by, since lookups are not signed.
pub fn lookup_hash(lookup: &Lookup) -> Digest {
    digest("wayfare/1 LOOKUP", &[&wire::encode(lookup)])
}

/// What a [`Refused`](crate::migration::messages::Refused) message is known by whose kind the Registry does not know.
pub fn unknown_hash(frame: &[u8]) -> Digest {
    digest("wayfare/1 UNKNOWN", &[frame])
}

/// Whether only a faulty or hostile peer provokes this rejection: the driver closes its stream. The others can happen
/// to an honest peer that is late, stale or not permitted; it is told, and the stream stays.
pub const fn is_violation(reject: Reject) -> bool {
    !matches!(
        reject,
        Reject::UnknownMessage
            | Reject::NotEnrolled
            | Reject::Revoked
            | Reject::WrongRole
            | Reject::CertificateExpired
            | Reject::BadToken
            | Reject::WrongEpoch
            | Reject::NotHostOfRecord
            | Reject::Expired
            | Reject::NotYetValid
            | Reject::OldCounter
            | Reject::OldSerial
            | Reject::UnknownAdvert
            | Reject::UnknownService
            | Reject::UnknownMigration
            | Reject::Finished
            | Reject::Conflict
            | Reject::NameTaken
            | Reject::PolicyForbids
            | Reject::NoResources
            | Reject::WrongOwner
            | Reject::OldVersion
            | Reject::Removed
            | Reject::NotFree
            | Reject::Stopped
            | Reject::SelfMove
            | Reject::Cordoned
            | Reject::Full
            | Reject::Recovering
    )
}
