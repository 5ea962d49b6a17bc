//! What an owner says of a service, and what it needs.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CloudId, Digest, OwnerKey, RegistryId, ServiceId},
    limits::{POLICY_ENTRIES_MAX, TEXT_BYTES_MAX},
    reject::{Guards, Reject, ensure},
    suite::digest,
    time::Micros,
    trust::{Certificate, Message},
    wire::Wire,
};

/// Type of service (TOS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// A provider of hosts.
    Cloud,
    /// A service called by HTTP requests, one at a time (ABI `wayfare:request/1`).
    Request,
}

/// CPU in thousandths of a core, memory and storage in bytes, bandwidth in bits a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millicores: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes.
    pub storage_bytes: u64,
    /// Bits a second.
    pub bandwidth_bps: u64,
}

impl Resources {
    /// Whether each of these is at least what `needed` asks for.
    pub const fn cover(&self, needed: &Self) -> bool {
        self.cpu_millicores >= needed.cpu_millicores
            && self.memory_bytes >= needed.memory_bytes
            && self.storage_bytes >= needed.storage_bytes
            && self.bandwidth_bps >= needed.bandwidth_bps
    }

    /// What is left when `taken` is taken, `None` if it is not there.
    #[must_use]
    pub fn minus(&self, taken: &Self) -> Option<Self> {
        Some(Self {
            cpu_millicores: self.cpu_millicores.checked_sub(taken.cpu_millicores)?,
            memory_bytes: self.memory_bytes.checked_sub(taken.memory_bytes)?,
            storage_bytes: self.storage_bytes.checked_sub(taken.storage_bytes)?,
            bandwidth_bps: self.bandwidth_bps.checked_sub(taken.bandwidth_bps)?,
        })
    }
}

/// Whether an acknowledged write survives a crash of its host (PROTOCOL 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Durability {
    /// Each response waits for the synced request log.
    Log,
    /// A crash of the host loses the service; moves lose nothing.
    Memory,
}

/// Whether a service may move under tokens, the Registry off-line (PROTOCOL 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenPolicy {
    /// Only through the Registry.
    Refuse,
    /// Allowed.
    Allow,
    /// Allowed; on evidence of a fork neither branch is served.
    Strict,
}

/// `sig_O(MANIFEST)`: the owner's word on a service. R holds it, verdicts and placements carry its hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Manifest {
    /// [`service_id`] of the registry, the owner and the name.
    pub service: ServiceId,
    /// The service's name, unique at its registry.
    pub name: String,
    /// The owner.
    pub owner: OwnerKey,
    /// Rises with each new manifest.
    pub version: u32,
    /// BLAKE3 of the module.
    pub code: Digest,
    /// Type of service.
    pub tos: ServiceType,
    /// What a host must have free.
    pub required: Resources,
    /// The round trip that users are promised at most; zero: no promise.
    pub max_rtt: Micros,
    /// The platform baseline that a host must satisfy.
    pub baseline: Option<Digest>,
    /// Providers that may host it; empty: any.
    pub allowed_clouds: Vec<CloudId>,
    /// Regions that it may run in; empty: any.
    pub allowed_regions: Vec<String>,
    /// Domains that it may run in under tokens; empty: any.
    pub allowed_domains: Vec<String>,
    /// See [`Durability`].
    pub durability: Durability,
    /// See [`TokenPolicy`].
    pub token_policy: TokenPolicy,
}

impl Wire for Manifest {
    const LIMIT: usize = 16 * 1024;
}

impl Message for Manifest {
    const LABEL: &'static str = "wayfare/1 MANIFEST";
}

/// A service's identifier. Derived, so that the owner can sign it before the Registry has seen it.
pub fn service_id(registry: RegistryId, owner: OwnerKey, name: &str) -> ServiceId {
    let digest = digest("wayfare/1 service id", &[&registry.0, &owner.0, name.as_bytes()]);
    let mut unique = [0; 16];
    unique.copy_from_slice(&digest.0[..16]);
    ServiceId { registry, unique }
}

impl Manifest {
    /// Checks what a signature does not: lengths, and that the identifier is the owner's and the name's.
    ///
    /// # Errors
    /// [`Reject::FieldTooLong`] or [`Reject::WrongService`].
    pub fn check(&self) -> Result<(), Reject> {
        let short = |texts: &[String]| {
            texts.len() <= POLICY_ENTRIES_MAX && texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX)
        };
        let fits = !self.name.is_empty()
            && self.name.len() <= TEXT_BYTES_MAX
            && self.allowed_clouds.len() <= POLICY_ENTRIES_MAX
            && short(&self.allowed_regions)
            && short(&self.allowed_domains);
        if !fits {
            return Err(Reject::FieldTooLong);
        }
        if self.service != service_id(self.service.registry, self.owner, &self.name) {
            return Err(Reject::WrongService);
        }
        Ok(())
    }

    /// Checks whether this one may take the place of `before`. What is said of durability is decided once, at deployment.
    ///
    /// # Errors
    /// [`Reject::WrongManifest`] or [`Reject::OldVersion`].
    pub(crate) fn check_successor<G: Guards>(&self, before: &Self) -> Result<(), Reject> {
        self.check().map_err(|_| Reject::WrongManifest)?;
        let same = self.service == before.service && self.owner == before.owner && self.tos == before.tos;
        ensure::<G>(same && self.durability == before.durability, Reject::WrongManifest)?;
        ensure::<G>(self.version > before.version, Reject::OldVersion)
    }

    /// Whether the owner lets the service run on a host with this certificate.
    pub fn permits(&self, certificate: &Certificate) -> bool {
        (self.allowed_clouds.is_empty() || self.allowed_clouds.contains(&certificate.cloud))
            && (self.allowed_regions.is_empty() || self.allowed_regions.contains(&certificate.region))
    }
}
