//! Signed messages: signatures over the exact received bytes, under a label, a registry and a receiver (PROTOCOL 2).

use std::{
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    ops::Deref,
};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Digest, HostId, RegistryId},
    reject::{Guards, Reject, ensure},
    suite::{PublicKey, Secret, Signature, Suite, digest},
    wire::{self, VERSION, Wire},
};

/// A message that is signed end to end. Every type has its own label, so no signature serves for another type.
pub trait Message: Wire {
    /// The domain label.
    const LABEL: &'static str;
}

/// Whom a signature is meant for: part of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// One host.
    Host(HostId),
    /// The Registry itself.
    Registry(RegistryId),
    /// Everyone (1, 11, certificates, manifests, tokens).
    Anyone,
}

impl Receiver {
    fn bytes(self) -> [u8; 32] {
        match self {
            Self::Host(host) => host.0,
            Self::Registry(registry) => registry.0,
            Self::Anyone => [0; 32],
        }
    }
}

fn signing_input(label: &str, registry: RegistryId, receiver: Receiver, bytes: &[u8]) -> Vec<u8> {
    let mut input = Vec::with_capacity(label.len() + bytes.len() + 80);
    input.extend_from_slice(&(label.len() as u64).to_le_bytes());
    input.extend_from_slice(label.as_bytes());
    input.push(VERSION);
    input.extend_from_slice(&registry.0);
    input.extend_from_slice(&receiver.bytes());
    input.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    input.extend_from_slice(bytes);
    input
}

/// A `T` as its signer encoded it, with the signature. Not yet believed: see [`Signed::verify`].
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    #[serde(with = "crate::wire::bytes")]
    bytes: Vec<u8>,
    signature: Signature,
    #[serde(skip)]
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), signature: self.signature, of: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T> Hash for Signed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.bytes, self.signature).hash(state);
    }
}

impl<T: Message + fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unverified() {
            Ok(message) => write!(f, "Signed({message:?})"),
            Err(_) => f.write_str("Signed(malformed)"),
        }
    }
}

impl<T: Message> Signed<T> {
    /// Signs `message` for `receiver` in the realm of `registry`.
    pub fn sign<S: Suite>(secret: &Secret, registry: RegistryId, receiver: Receiver, message: &T) -> Self {
        let bytes = wire::encode(message);
        let signature = S::sign(secret, &signing_input(T::LABEL, registry, receiver, &bytes));
        Self { bytes, signature, of: PhantomData }
    }

    /// Checks the signature over the bytes as received, then decodes them.
    ///
    /// # Errors
    /// [`Reject::BadSignature`], [`Reject::Malformed`] or [`Reject::FrameTooLarge`].
    pub fn verify<S: Suite, G: Guards>(
        &self,
        key: &PublicKey,
        registry: RegistryId,
        receiver: Receiver,
    ) -> Result<Verified<T>, Reject> {
        let input = signing_input(T::LABEL, registry, receiver, &self.bytes);
        ensure::<G>(S::verify(key, &input, &self.signature), Reject::BadSignature)?;
        Ok(Verified { message: self.unverified()?, signed: self.clone() })
    }

    /// What the bytes say, unproved: to find out whose key to verify with, or to show it.
    ///
    /// # Errors
    /// [`Reject::Malformed`] or [`Reject::FrameTooLarge`].
    pub fn unverified(&self) -> Result<T, Reject> {
        wire::decode(&self.bytes)
    }

    /// The message's hash, `h()` of PROTOCOL 3: over label, bytes and signature.
    pub fn hash(&self) -> Digest {
        digest("wayfare/1 message", &[T::LABEL.as_bytes(), &self.bytes, &self.signature.0, &self.signature.1])
    }
}

impl<T: Message> Wire for Signed<T> {
    const LIMIT: usize = T::LIMIT + 128;
}

/// A `T` signed by a placement key, and the whole again by the host that speaks for it: consent (8) and completion (10).
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct CoSigned<T> {
    inner: Signed<T>,
    host_signature: Signature,
}

impl<T> Clone for CoSigned<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), host_signature: self.host_signature }
    }
}

impl<T> PartialEq for CoSigned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner && self.host_signature == other.host_signature
    }
}

impl<T> Eq for CoSigned<T> {}

impl<T> Hash for CoSigned<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.inner, self.host_signature).hash(state);
    }
}

impl<T: Message + fmt::Debug> fmt::Debug for CoSigned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Co{:?}", self.inner)
    }
}

impl<T: Message> CoSigned<T> {
    fn host_input(inner: &Signed<T>, registry: RegistryId, receiver: Receiver) -> Vec<u8> {
        let label = format!("{} co-signed by host", T::LABEL);
        signing_input(&label, registry, receiver, &wire::encode(inner))
    }

    /// Signs with the placement's key, then with the host's.
    pub fn sign<S: Suite>(
        placement: &Secret,
        host: &Secret,
        registry: RegistryId,
        receiver: Receiver,
        message: &T,
    ) -> Self {
        let inner = Signed::sign::<S>(placement, registry, receiver, message);
        let host_signature = S::sign(host, &Self::host_input(&inner, registry, receiver));
        Self { inner, host_signature }
    }

    /// Checks both signatures, outer first.
    ///
    /// # Errors
    /// [`Reject::BadCoSignature`] for the host's, [`Reject::BadSignature`] for the placement's, or a decoding error.
    pub fn verify<S: Suite, G: Guards>(
        &self,
        placement: &PublicKey,
        host: HostId,
        registry: RegistryId,
        receiver: Receiver,
    ) -> Result<Verified<T>, Reject> {
        let input = Self::host_input(&self.inner, registry, receiver);
        ensure::<G>(S::verify(&host.0, &input, &self.host_signature), Reject::BadCoSignature)?;
        self.inner.verify::<S, G>(placement, registry, receiver)
    }

    /// What the bytes say, unproved.
    ///
    /// # Errors
    /// [`Reject::Malformed`] or [`Reject::FrameTooLarge`].
    pub fn unverified(&self) -> Result<T, Reject> {
        self.inner.unverified()
    }

    /// The hash of the whole, both signatures included.
    pub fn hash(&self) -> Digest {
        digest("wayfare/1 co-signed message", &[&self.inner.hash().0, &self.host_signature.0, &self.host_signature.1])
    }
}

impl<T: Message> Wire for CoSigned<T> {
    const LIMIT: usize = T::LIMIT + 192;
}

/// A message whose signature was checked. Only this module can make one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Verified<T> {
    message: T,
    signed: Signed<T>,
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({:?})", self.message)
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.message
    }
}

impl<T: Message> Verified<T> {
    /// The envelope, to pass on or to store.
    pub const fn signed(&self) -> &Signed<T> {
        &self.signed
    }

    /// See [`Signed::hash`].
    pub fn hash(&self) -> Digest {
        self.signed.hash()
    }
}
