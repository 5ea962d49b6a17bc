//! The real cryptography, which remembers what it has verified: in a world on one thread, every node checks the same
//! certificates, adverts and placements. Each distinct signature is verified by [`Dalek`] once; everything else is its own.

use std::{cell::RefCell, collections::HashMap};

use wayfare_protocol::{
    ids::Digest,
    suite::{Dalek, PublicKey, Secret, Signature, Suite},
};

/// Signatures remembered. More: all are forgotten.
const REMEMBERED_MAX: usize = 20_000;

thread_local! {
    /// By hash of key, signature and message. Only looked up, never walked: its order means nothing.
    static VERIFIED: RefCell<HashMap<[u8; 32], bool>> = RefCell::new(HashMap::new());
}

/// [`Dalek`], with a memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Memo;

/// Forgets everything: a run owes nothing to those before it on its thread.
pub(super) fn forget() {
    VERIFIED.with_borrow_mut(HashMap::clear);
}

impl Suite for Memo {
    fn public_key(secret: &Secret) -> PublicKey {
        Dalek::public_key(secret)
    }

    fn sign(secret: &Secret, message: &[u8]) -> Signature {
        Dalek::sign(secret, message)
    }

    fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key).update(&signature.0).update(&signature.1).update(message);
        let name = *hasher.finalize().as_bytes();
        VERIFIED.with_borrow_mut(|verified| {
            if verified.len() >= REMEMBERED_MAX {
                verified.clear();
            }
            *verified.entry(name).or_insert_with(|| Dalek::verify(key, message, signature))
        })
    }

    fn dh_public(secret: &Secret) -> [u8; 32] {
        Dalek::dh_public(secret)
    }

    fn agree(secret: &Secret, share: &[u8; 32], info: &Digest) -> Option<Secret> {
        Dalek::agree(secret, share, info)
    }

    fn seal(key: &Secret, number: u64, ad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        Dalek::seal(key, number, ad, plaintext)
    }

    fn open(key: &Secret, number: u64, ad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        Dalek::open(key, number, ad, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_what_was_verified_and_believes_nothing_else() {
        let (secret, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let (key, wrong) = (Memo::public_key(&secret), Memo::public_key(&other));
        let signature = Memo::sign(&secret, b"m");
        for _ in 0..2 {
            assert!(Memo::verify(&key, b"m", &signature));
            assert!(!Memo::verify(&key, b"n", &signature));
            assert!(!Memo::verify(&wrong, b"m", &signature));
        }
        assert_eq!(VERIFIED.with_borrow(HashMap::len), 3);
        forget();
        assert!(VERIFIED.with_borrow(HashMap::is_empty));
    }
}
