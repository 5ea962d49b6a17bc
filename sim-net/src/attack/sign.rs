//! Signatures as they should be, and as a thief would make them.

use wayfare_protocol::{
    ids::RegistryId,
    reject::Reject,
    suite::{Dalek, Secret},
    trust::{CoSigned, Message, Receiver, Signed},
    wire,
};

/// Bytes of a signature, at the end of each envelope.
const SIGNATURE_BYTES: usize = 64;

/// A key of nobody.
pub fn thief() -> Secret {
    Secret::new([66; 32])
}

/// How a message is signed when it is honest.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The legitimate key.
    pub secret: Secret,
    /// In whose realm.
    pub registry: RegistryId,
    /// For whom.
    pub receiver: Receiver,
}

impl Signer {
    /// Signs as it should be.
    pub fn sign<T: Message>(&self, message: &T) -> Signed<T> {
        Signed::sign::<Dalek>(&self.secret, self.registry, self.receiver, message)
    }

    /// The same, with a key of nobody.
    #[must_use]
    pub fn stolen(&self) -> Self {
        Self { secret: thief(), ..self.clone() }
    }
}

/// How a consent or a completion is signed when it is honest.
#[derive(Clone, Debug)]
pub struct CoSigner {
    /// The placement's key.
    pub placement: Secret,
    /// The host's key.
    pub host: Secret,
    /// In whose realm.
    pub registry: RegistryId,
    /// For whom.
    pub receiver: Receiver,
}

impl CoSigner {
    /// Signs as it should be.
    pub fn sign<T: Message>(&self, message: &T) -> CoSigned<T> {
        CoSigned::sign::<Dalek>(&self.placement, &self.host, self.registry, self.receiver, message)
    }
}

/// `altered` in the envelope of `honest`: the signature is of what was there before.
///
/// # Errors
/// The two do not fit together: a bug of whoever calls.
pub fn unsigned<T: Message>(honest: &Signed<T>, altered: &T) -> Result<Signed<T>, Reject> {
    let (envelope, body) = (wire::encode(honest), wire::encode(altered));
    let signature = envelope.len().checked_sub(SIGNATURE_BYTES).and_then(|at| envelope.get(at..));
    let mut bytes = (body.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(signature.ok_or(Reject::Malformed)?);
    wire::decode(&bytes)
}
