//! Enrolment: what a Registry says of a host, and the Registries that a node trusts.

use serde::{Deserialize, Serialize};

use super::{Message, Receiver, Signed, Verified};
use crate::{
    ids::{CloudId, HostId, RegistryId},
    limits::{CLOCK_SKEW, TEXT_BYTES_MAX},
    reject::{Guards, Reject, ensure},
    suite::{PublicKey, Suite, digest},
    time::Timestamp,
    wire::Wire,
};

/// What a node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Advertises, receives and hosts services.
    Cloud,
    /// Hosts the services that start on it; does not advertise.
    Home,
    /// Carries clients' requests.
    Gateway,
}

impl Role {
    /// The word used in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Home => "home",
            Self::Gateway => "gateway",
        }
    }

    /// Reads [`Role::name`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Cloud, Self::Home, Self::Gateway].into_iter().find(|role| role.name() == text)
    }
}

/// `sig_R(CERTIFICATE)`: this host key belongs to this provider, in this role, for this time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Certificate {
    /// The provider.
    pub cloud: CloudId,
    /// The provider's enrolled name.
    pub name: String,
    /// The host's key.
    pub host: HostId,
    /// What the host may do.
    pub role: Role,
    /// Where the provider says the host is; owners' policies may name it.
    pub region: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub expiry: Timestamp,
}

impl Wire for Certificate {
    const LIMIT: usize = 1024;
}

impl Message for Certificate {
    const LABEL: &'static str = "wayfare/1 CERTIFICATE";
}

/// The identifier of a provider: hash of its registry and its enrolled name.
pub fn cloud_id(registry: RegistryId, name: &str) -> CloudId {
    let digest = digest("wayfare/1 cloud id", &[&registry.0, name.as_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    CloudId(id)
}

/// The identifier of a Registry: hash of its first key.
pub fn registry_id(key: &PublicKey) -> RegistryId {
    RegistryId(digest("wayfare/1 registry id", &[key]).0)
}

/// A Registry that this node trusts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Anchor {
    /// Its name.
    pub id: RegistryId,
    /// Its signing key, which is also its key on the mesh.
    pub key: PublicKey,
    /// Where to reach it: multiaddrs.
    pub addresses: Vec<String>,
}

impl Anchor {
    /// The Registry as a node of the mesh.
    pub const fn host(&self) -> HostId {
        HostId(self.key)
    }
}

/// The Registries that a node trusts, each only for its own services and hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrustBundle(Vec<Anchor>);

impl TrustBundle {
    /// A bundle of these anchors.
    pub const fn new(anchors: Vec<Anchor>) -> Self {
        Self(anchors)
    }

    /// The anchor named `id`.
    ///
    /// # Errors
    /// [`Reject::UnknownRegistry`].
    pub fn anchor(&self, id: RegistryId) -> Result<&Anchor, Reject> {
        self.0.iter().find(|anchor| anchor.id == id).ok_or(Reject::UnknownRegistry)
    }

    /// All anchors.
    pub fn anchors(&self) -> &[Anchor] {
        &self.0
    }

    /// Verifies what `registry` signed for `receiver`. Its word counts in its own realm only.
    ///
    /// # Errors
    /// [`Reject::UnknownRegistry`] or those of [`Signed::verify`].
    pub fn verify<S: Suite, G: Guards, T: Message>(
        &self,
        signed: &Signed<T>,
        registry: RegistryId,
        receiver: Receiver,
    ) -> Result<Verified<T>, Reject> {
        signed.verify::<S, G>(&self.anchor(registry)?.key, registry, receiver)
    }

    /// Verifies `host`'s certificate: from one of the anchors, in date, for this key and one of `roles`.
    ///
    /// # Errors
    /// [`Reject::BadCertificate`], [`Reject::CertificateExpired`], [`Reject::WrongRole`] or a decoding error.
    pub fn verify_certificate<S: Suite, G: Guards>(
        &self,
        signed: &Signed<Certificate>,
        host: HostId,
        roles: &[Role],
        now: Timestamp,
    ) -> Result<(RegistryId, Verified<Certificate>), Reject> {
        let (registry, certificate) = self
            .0
            .iter()
            .find_map(|anchor| {
                let verified = signed.verify::<S, G>(&anchor.key, anchor.id, Receiver::Anyone).ok()?;
                Some((anchor.id, verified))
            })
            .ok_or(Reject::BadCertificate)?;
        ensure::<G>(certificate.host == host, Reject::BadCertificate)?;
        let in_date = certificate.not_before <= now + CLOCK_SKEW && now < certificate.expiry + CLOCK_SKEW;
        ensure::<G>(in_date, Reject::CertificateExpired)?;
        ensure::<G>(roles.contains(&certificate.role), Reject::WrongRole)?;
        Ok((registry, certificate))
    }
}

/// Whether a text of a message is short enough.
pub(crate) fn text_fits(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX
}
