//! Names of parties and of attempts: fixed-size newtypes that cannot be mistaken for each other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Defines an opaque identifier of `$len` bytes, displayed as base58 (a short prefix under `{:#}`).
macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes on the wire.
            pub const LEN: usize = $len;

            /// Parses the base58 form that `Display` prints.
            pub fn parse(text: &str) -> Option<Self> {
                bs58::decode(text).into_vec().ok()?.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = bs58::encode(&self.0).into_string();
                if f.alternate() { f.write_str(text.get(..8).unwrap_or(&text)) } else { f.write_str(&text) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self:#})", stringify!($name))
            }
        }
    };
}

opaque_id!(
    /// A trust anchor: the hash of its first signing key, so that the name survives a key rotation.
    RegistryId, 32
);
opaque_id!(
    /// A provider (PROTOCOL 1 `CloudId`): hash of the registry and the provider's enrolled name.
    CloudId, 16
);
opaque_id!(
    /// A node: its ed25519 public key. The libp2p `PeerId` is the multihash of the same key, and the `vkB` of the paper's
    /// messages *is* this value: a message that named both could only disagree with itself.
    HostId, 32
);
opaque_id!(
    /// One attempt to move one service (`mig`), single use, made by the Registry.
    MigrationId, 16
);
opaque_id!(
    /// A client of a service: hash of the gateway's key and its incarnation.
    ClientId, 32
);
opaque_id!(
    /// A 32-byte BLAKE3 hash.
    Digest, 32
);
opaque_id!(
    /// The public key of a placement (`vkS`): a fresh one for each epoch.
    PlacementKey, 32
);
opaque_id!(
    /// The public key of a service's owner.
    OwnerKey, 32
);
opaque_id!(
    /// A single-use number that makes an answer fresh.
    Nonce, 16
);

/// A service's name. It contains its Registry, whose word alone counts for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceId {
    /// The Registry that the service is registered with.
    pub registry: RegistryId,
    /// Hash of the owner's key and the service's name.
    pub unique: [u8; 16],
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = bs58::encode(&self.unique).into_string();
        if f.alternate() { f.write_str(text.get(..8).unwrap_or(&text)) } else { f.write_str(&text) }
    }
}

impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceId({self:#})")
    }
}

/// How often a service has moved: compared by `era`, then `hop`. A move through the Registry raises `era` and resets `hop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised only by the Registry.
    pub era: u64,
    /// Raised by a move under tokens, with the Registry off-line.
    pub hop: u32,
}

impl Epoch {
    /// The epoch of a newly registered service.
    pub const FIRST: Self = Self { era: 1, hop: 0 };

    /// The epoch that a move through the Registry leads to.
    pub const fn next_era(self) -> Self {
        Self { era: self.era.saturating_add(1), hop: 0 }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.era, self.hop)
    }
}

/// The five fields that name one attempt in every message of the handshake (PROTOCOL 3 `ids`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MigrationIds {
    /// The service that moves.
    pub service: ServiceId,
    /// The provider that it moves to.
    pub cloud: CloudId,
    /// The provider's host, by its key.
    pub host: HostId,
    /// The attempt.
    pub mig: MigrationId,
    /// The epoch that the move starts from.
    pub epoch: Epoch,
}
