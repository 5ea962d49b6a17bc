//! The cryptography a machine uses, behind one trait: [`Dalek`] is the real one; the model checker brings a symbolic one.
//!
//! Public values are fixed-size bytes in both, so messages do not depend on the suite; only secrets are its own types.

use std::{fmt, hash::Hash};

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use ed25519_dalek::Signer;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ids::Digest;

/// A public signing key, ed25519. [`HostId`](crate::ids::HostId), [`PlacementKey`](crate::ids::PlacementKey) and
/// [`OwnerKey`](crate::ids::OwnerKey) hold such bytes.
pub type PublicKey = [u8; 32];

/// An ed25519 signature: its two halves `R ‖ s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Signature(pub [u8; 32], pub [u8; 32]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// 32 secret bytes: redacted in `Debug`, zeroed when dropped, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes the bytes over.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for what must really use them.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// For `#[serde(with = "stored_secret")]`, in a journal: a secret is not encoded by accident.
pub(crate) mod stored_secret {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use zeroize::Zeroizing;

    use super::Secret;

    pub(crate) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        secret.0.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        Ok(Secret(*Zeroizing::new(<[u8; 32]>::deserialize(deserializer)?)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

impl Eq for Secret {}

impl Hash for Secret {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Signatures, key agreement and sealing.
pub trait Suite: Clone + Eq + Hash + fmt::Debug + Default + Send + Sync + 'static {
    /// The public key of a signing secret (a 32-byte seed).
    fn public_key(secret: &Secret) -> PublicKey;
    /// Signs `message`.
    fn sign(secret: &Secret, message: &[u8]) -> Signature;
    /// Whether `signature` over `message` is `key`'s. Strict: no malleable or small-order form passes.
    fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
    /// The public share of a key-agreement secret.
    fn dh_public(secret: &Secret) -> [u8; 32];
    /// The key of a migration: HKDF-SHA256 over the shared secret, `info` = transcript hash. `None` for an all-zero secret.
    fn agree(secret: &Secret, share: &[u8; 32], info: &Digest) -> Option<Secret>;
    /// Seals record `number` under `key`. A number is sealed once per key.
    fn seal(key: &Secret, number: u64, ad: &[u8], plaintext: &[u8]) -> Vec<u8>;
    /// Opens record `number`; `None` if it was not sealed so.
    fn open(key: &Secret, number: u64, ad: &[u8], sealed: &[u8]) -> Option<Vec<u8>>;
}

/// ed25519 (strict), X25519, HKDF-SHA256, ChaCha20-Poly1305.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dalek;

fn nonce(number: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

impl Suite for Dalek {
    fn public_key(secret: &Secret) -> PublicKey {
        ed25519_dalek::SigningKey::from_bytes(secret.expose()).verifying_key().to_bytes()
    }

    fn sign(secret: &Secret, message: &[u8]) -> Signature {
        let signature = ed25519_dalek::SigningKey::from_bytes(secret.expose()).sign(message);
        Signature(*signature.r_bytes(), *signature.s_bytes())
    }

    fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(key) else { return false };
        let signature = ed25519_dalek::Signature::from_components(signature.0, signature.1);
        key.verify_strict(message, &signature).is_ok()
    }

    fn dh_public(secret: &Secret) -> [u8; 32] {
        x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret.expose())).to_bytes()
    }

    fn agree(secret: &Secret, share: &[u8; 32], info: &Digest) -> Option<Secret> {
        let shared =
            x25519_dalek::StaticSecret::from(*secret.expose()).diffie_hellman(&x25519_dalek::PublicKey::from(*share));
        if !shared.was_contributory() {
            return None;
        }
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"wayfare/1 migration key"), shared.as_bytes())
            .expand(&info.0, &mut *key)
            .expect("32 bytes are a valid HKDF-SHA256 output length");
        Some(Secret::new(*key))
    }

    fn seal(key: &Secret, number: u64, ad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        ChaCha20Poly1305::new(key.expose().into())
            .encrypt(&nonce(number).into(), Payload { msg: plaintext, aad: ad })
            .expect("a record is far below the cipher's limit of 256 GiB")
    }

    fn open(key: &Secret, number: u64, ad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        ChaCha20Poly1305::new(key.expose().into()).decrypt(&nonce(number).into(), Payload { msg: sealed, aad: ad }).ok()
    }
}

/// BLAKE3 over length-prefixed parts, under a domain label.
pub fn digest(label: &str, parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// 32 fresh secret bytes.
pub fn fresh_secret(rng: &mut dyn rand_core::Rng) -> Secret {
    let mut bytes = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *bytes);
    Secret::new(*bytes)
}

/// 16 fresh bytes, for a nonce or an identifier.
pub fn fresh16(rng: &mut dyn rand_core::Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_bind_key_and_message() {
        let (secret, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let signature = Dalek::sign(&secret, b"m");
        assert!(Dalek::verify(&Dalek::public_key(&secret), b"m", &signature));
        assert!(!Dalek::verify(&Dalek::public_key(&secret), b"n", &signature));
        assert!(!Dalek::verify(&Dalek::public_key(&other), b"m", &signature));
    }

    #[test]
    fn both_ends_agree_and_a_zero_share_is_refused() {
        let (a, b, info) = (Secret::new([3; 32]), Secret::new([4; 32]), Digest([9; 32]));
        let key = Dalek::agree(&a, &Dalek::dh_public(&b), &info);
        assert!(key.is_some());
        assert_eq!(key, Dalek::agree(&b, &Dalek::dh_public(&a), &info));
        assert_ne!(key, Dalek::agree(&b, &Dalek::dh_public(&a), &Digest([8; 32])));
        assert_eq!(Dalek::agree(&a, &[0; 32], &info), None);
    }

    #[test]
    fn a_record_opens_only_as_it_was_sealed() {
        let key = Secret::new([5; 32]);
        let sealed = Dalek::seal(&key, 7, b"ad", b"state");
        assert_eq!(Dalek::open(&key, 7, b"ad", &sealed).as_deref(), Some(&b"state"[..]));
        assert_eq!(Dalek::open(&key, 8, b"ad", &sealed), None);
        assert_eq!(Dalek::open(&key, 7, b"da", &sealed), None);
        assert_eq!(Dalek::open(&Secret::new([6; 32]), 7, b"ad", &sealed), None);
    }

    #[test]
    fn secrets_are_redacted() {
        assert_eq!(format!("{:?}", Secret::new([7; 32])), "Secret(..)");
    }
}
