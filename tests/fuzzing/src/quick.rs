//! Cryptography that costs next to nothing, so that a machine takes thousands of steps a second.
//!
//! Everything is a hash of what it must depend on. Nothing here is secret from who reads the code, and nothing needs to be:
//! the harness signs for whom it says, and random bytes do not hit a hash.

use wayfare_protocol::{
    ids::Digest,
    suite::{PublicKey, Secret, Signature, Suite, digest},
};

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quick;

fn mac(key: &PublicKey, message: &[u8]) -> Signature {
    Signature(digest("quick signature", &[key, message]).0, *key)
}

fn tag(key: &Secret, number: u64, ad: &[u8], plaintext: &[u8]) -> [u8; 32] {
    digest("quick seal", &[key.expose(), &number.to_le_bytes(), ad, plaintext]).0
}

impl Suite for Quick {
    fn public_key(secret: &Secret) -> PublicKey {
        digest("quick key", &[secret.expose()]).0
    }

    fn sign(secret: &Secret, message: &[u8]) -> Signature {
        mac(&Self::public_key(secret), message)
    }

    fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        mac(key, message) == *signature
    }

    fn dh_public(secret: &Secret) -> [u8; 32] {
        digest("quick share", &[secret.expose()]).0
    }

    fn agree(secret: &Secret, share: &[u8; 32], info: &Digest) -> Option<Secret> {
        let mut both = Self::dh_public(secret);
        both.iter_mut().zip(share).for_each(|(mine, theirs)| *mine ^= theirs);
        (*share != [0; 32]).then(|| Secret::new(digest("quick agreement", &[&both, &info.0]).0))
    }

    fn seal(key: &Secret, number: u64, ad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        [plaintext, &tag(key, number, ad, plaintext)].concat()
    }

    fn open(key: &Secret, number: u64, ad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (plaintext, sum) = sealed.split_last_chunk::<32>()?;
        (tag(key, number, ad, plaintext) == *sum).then(|| plaintext.to_vec())
    }
}
