//! Cryptography that is perfect by construction: what a checker of protocols assumes of it, and no more.
//!
//! Keys, signatures and shares are hashes of what they are made of. Whoever verifies needs only public values, so in
//! principle anybody could compute a signature; that nobody does who lacks the secret is kept by the types: all code in
//! this folder signs, agrees and seals through [`Suite`], which takes a [`Secret`], and the attacker has only the secrets
//! that its scope hands it. Records are sealed, not hidden: secrecy is the business of the formal models.

use wayfare_protocol::{
    ids::Digest,
    suite::{PublicKey, Secret, Signature, Suite, digest},
};

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Symbolic;

/// Length of a record's tag.
const TAG_BYTES: usize = 32;

fn tag(key: &Secret, number: u64, ad: &[u8], plaintext: &[u8]) -> Digest {
    digest("symbolic seal", &[key.expose(), &number.to_le_bytes(), ad, plaintext])
}

impl Suite for Symbolic {
    fn public_key(secret: &Secret) -> PublicKey {
        digest("symbolic key", &[secret.expose()]).0
    }

    fn sign(secret: &Secret, message: &[u8]) -> Signature {
        let key = Self::public_key(secret);
        Signature(key, digest("symbolic signature", &[&key, message]).0)
    }

    fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        signature.0 == *key && signature.1 == digest("symbolic signature", &[key, message]).0
    }

    fn dh_public(secret: &Secret) -> [u8; 32] {
        digest("symbolic share", &[secret.expose()]).0
    }

    fn agree(secret: &Secret, share: &[u8; 32], info: &Digest) -> Option<Secret> {
        let own = Self::dh_public(secret);
        let (low, high) = if own < *share { (own, *share) } else { (*share, own) };
        (*share != [0; 32]).then(|| Secret::new(digest("symbolic agreement", &[&low, &high, &info.0]).0))
    }

    fn seal(key: &Secret, number: u64, ad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        [&tag(key, number, ad, plaintext).0, plaintext].concat()
    }

    fn open(key: &Secret, number: u64, ad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (first, plaintext) = sealed.split_at_checked(TAG_BYTES)?;
        (tag(key, number, ad, plaintext).0 == first).then(|| plaintext.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_the_trait_promises() {
        let [a, b] = [1, 2].map(|seed| Secret::new([seed; 32]));
        let signature = Symbolic::sign(&a, b"m");
        assert!(Symbolic::verify(&Symbolic::public_key(&a), b"m", &signature));
        assert!(!Symbolic::verify(&Symbolic::public_key(&a), b"n", &signature));
        assert!(!Symbolic::verify(&Symbolic::public_key(&b), b"m", &signature));
        let info = Digest([3; 32]);
        let key = Symbolic::agree(&a, &Symbolic::dh_public(&b), &info);
        assert_eq!(key, Symbolic::agree(&b, &Symbolic::dh_public(&a), &info));
        assert_ne!(key, Symbolic::agree(&b, &Symbolic::dh_public(&a), &Digest([4; 32])));
        assert_eq!(Symbolic::agree(&a, &[0; 32], &info), None);
        let sealed = Symbolic::seal(&a, 7, b"ad", b"state");
        assert_eq!(Symbolic::open(&a, 7, b"ad", &sealed).as_deref(), Some(&b"state"[..]));
        assert_eq!(Symbolic::open(&a, 8, b"ad", &sealed), None);
        assert_eq!(Symbolic::open(&a, 7, b"da", &sealed), None);
        assert_eq!(Symbolic::open(&b, 7, b"ad", &sealed), None);
        assert_eq!(Symbolic::open(&b, 7, b"ad", b"short"), None);
    }
}
