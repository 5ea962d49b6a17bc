//! 1, the advertisement: a cloud's signed word on what it offers, gossiped to all. [`store`] keeps the newest of each host.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CloudId, HostId, RegistryId},
    latency::Coordinate,
    limits::{ADDRESSES_MAX, ADVERT_BYTES_MAX, ADVERT_LIFETIME_MAX, CLOCK_SKEW},
    manifest::{Resources, ServiceType},
    migration::messages::Placement,
    reject::{Guards, Reject, ensure},
    suite::Suite,
    time::Timestamp,
    trust::{Certificate, Message, Receiver, Role, Signed, TrustBundle, Verified, certificate::text_fits},
    wire::{Wire, frames},
};

pub mod pace;
pub mod store;

pub use pace::Pace;
pub use store::AdvertStore;

/// `sig_B(ADV)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Advert {
    /// Whose realm the certificate is of.
    pub registry: RegistryId,
    /// The provider.
    pub cloud: CloudId,
    /// The host.
    pub host: HostId,
    /// Always [`ServiceType::Cloud`].
    pub tos: ServiceType,
    /// What is free.
    pub resources: Resources,
    /// Whether the host takes no services now.
    pub cordoned: bool,
    /// Millionths of the mesh's unit of account, per core and hour.
    pub price_micros: u64,
    /// Multiaddrs.
    pub addresses: Vec<String>,
    /// Where the host is in latency space.
    pub coordinate: Coordinate,
    /// The host's certificate.
    pub certificate: Signed<Certificate>,
    /// Rises with each advert of this host.
    pub serial: u64,
    /// End of validity.
    pub expiry: Timestamp,
}

impl Advert {
    /// Whether the host says with it that it leaves the mesh: it is over as it is made, so nobody goes there by it, and it
    /// replaces what the host said before. To who does not know farewells it is an advert that expires.
    pub const fn is_farewell(&self) -> bool {
        self.expiry.0 <= self.serial
    }
}

impl Wire for Advert {
    const LIMIT: usize = ADVERT_BYTES_MAX - 256;
}

impl Message for Advert {
    const LABEL: &'static str = "wayfare/1 1 ADV";
}

/// Verifies an advert: lengths, the certificate under its registry, the signature under the host's key, the dates.
/// It does not look at the serial: see [`AdvertStore`].
///
/// # Errors
/// A named rejection for whatever does not hold.
pub fn verify_advert<S: Suite, G: Guards>(
    signed: &Signed<Advert>,
    bundle: &TrustBundle,
    now: Timestamp,
) -> Result<(Verified<Advert>, Verified<Certificate>), Reject> {
    let claim = signed.unverified()?;
    if claim.addresses.len() > ADDRESSES_MAX || !claim.addresses.iter().all(|address| text_fits(address)) {
        return Err(Reject::FieldTooLong);
    }
    let (registry, certificate) =
        bundle.verify_certificate::<S, G>(&claim.certificate, claim.host, &[Role::Cloud], now)?;
    ensure::<G>(registry == claim.registry, Reject::BadCertificate)?;
    let advert = signed.verify::<S, G>(&claim.host.0, registry, Receiver::Anyone)?;
    ensure::<G>(advert.cloud == certificate.cloud, Reject::WrongCloud)?;
    ensure::<G>(advert.tos == ServiceType::Cloud, Reject::WrongTos)?;
    ensure::<G>(now < advert.expiry + CLOCK_SKEW, Reject::Expired)?;
    ensure::<G>(advert.expiry <= now + ADVERT_LIFETIME_MAX + CLOCK_SKEW, Reject::NotYetValid)?;
    Ok((advert, certificate))
}

frames! {
    /// What is gossiped.
    Gossip, max ADVERT_BYTES_MAX, {
        1 Advert(Signed<Advert>),
        11 Placement(Signed<Placement>),
    }
}

/// What the mesh is to do with a gossiped message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on.
    Accept,
    /// Drop it. An honest relay may pass it on late, or may know of a Registry, a service or a version of the protocol that
    /// this node does not know.
    Ignore,
    /// Drop it, and hold it against who passed it on.
    Reject,
}

impl Verdict {
    /// What becomes of a message that was handled with `result`: the same at every node, whatever its part.
    pub const fn on<T>(result: &Result<T, Reject>) -> Self {
        match result {
            Ok(_) => Self::Accept,
            Err(
                Reject::OldSerial
                | Reject::WrongEpoch
                | Reject::Expired
                | Reject::CertificateExpired
                | Reject::NotYetValid
                | Reject::UnknownRegistry
                | Reject::UnknownService
                | Reject::BadCertificate
                | Reject::Full
                | Reject::TooOften
                | Reject::WrongVersion
                | Reject::UnknownMessage,
            ) => Self::Ignore,
            Err(_) => Self::Reject,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Frame;

    #[test]
    fn only_what_is_provably_bad_is_held_against_a_relay() {
        assert_eq!(Verdict::on(&Ok(())), Verdict::Accept);
        for honest in [Reject::OldSerial, Reject::Full, Reject::UnknownRegistry, Reject::WrongVersion] {
            assert_eq!(Verdict::on::<()>(&Err(honest)), Verdict::Ignore);
        }
        for bad in [Reject::BadSignature, Reject::Malformed, Reject::FrameTooLarge, Reject::WrongCloud] {
            assert_eq!(Verdict::on::<()>(&Err(bad)), Verdict::Reject);
        }
    }

    #[test]
    fn gossip_of_another_version_or_kind_is_ignored_by_name() {
        for (bytes, reject) in [([9, 1], Reject::WrongVersion), ([2, 99], Reject::UnknownMessage)] {
            let result = Gossip::from_bytes(&bytes);
            assert_eq!(result, Err(reject));
            assert_eq!(Verdict::on(&result), Verdict::Ignore);
        }
    }
}
