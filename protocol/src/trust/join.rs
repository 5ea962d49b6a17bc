//! Join tokens: what an operator hands to a new node so that it can enrol, as people know it from cluster tools.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Anchor, Role};
use crate::{
    ids::Digest,
    limits::{ADDRESSES_MAX, TEXT_BYTES_MAX},
    suite::{digest, fresh16},
    wire::{self, Wire},
};

/// What every token starts with; the number is the version of what follows.
pub const JOIN_PREFIX: &str = "wayfare-join-1:";
/// Characters of a token at most. Longer: refused before it is decoded (base58 takes quadratic time).
const TEXT_MAX: usize = 4096;
const CHECK_BYTES: usize = 4;

/// The secret of a join token: redacted in `Debug`, zeroed when dropped, compared in constant time. Only its hash ever travels, in
/// [`Enrol`](crate::migration::messages::Enrol).
#[derive(Clone, Hash, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "equal ones are the same bytes")]
pub struct JoinSecret([u8; 16]);

impl JoinSecret {
    /// A fresh one.
    pub fn fresh(rng: &mut dyn rand_core::Rng) -> Self {
        Self(fresh16(rng))
    }

    /// The name under which the Registry knows the token.
    pub fn hash(&self) -> Digest {
        digest("wayfare/1 join token", &[&self.0])
    }
}

impl PartialEq for JoinSecret {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

impl Eq for JoinSecret {}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// Permission for one node to enrol, once: whom to trust, where it is, and as what to join.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JoinToken {
    /// The Registry: its name, its key, its addresses.
    pub anchor: Anchor,
    /// The provider's name.
    pub name: String,
    /// What the node may do.
    pub role: Role,
    /// Proves the operator's permission.
    pub secret: JoinSecret,
}

impl Wire for JoinToken {
    const LIMIT: usize = TEXT_MAX;
}

/// Why a text is no join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It does not look like one.
    #[error("not a join token: one starts with `{JOIN_PREFIX}`; get one with `wayfare-registry join-token`")]
    NotAToken,
    /// It is of another version.
    #[error("this join token is of another version than this program: get one from a registry of the same version")]
    OtherVersion,
    /// Characters are missing, added or changed.
    #[error("this join token is damaged: copy the whole of it, without line breaks")]
    Damaged,
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = digest("wayfare/1 join token check", &[bytes]).0;
    [hash[0], hash[1], hash[2], hash[3]]
}

impl JoinToken {
    /// Reads the text form. Space around it is ignored.
    ///
    /// # Errors
    /// [`JoinTokenError`], which says what to do.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(JOIN_PREFIX) else {
            let other = text.starts_with("wayfare-join-") && text.contains(':');
            return Err(if other { JoinTokenError::OtherVersion } else { JoinTokenError::NotAToken });
        };
        if encoded.len() > TEXT_MAX {
            return Err(JoinTokenError::Damaged);
        }
        let bytes = Zeroizing::new(bs58::decode(encoded).into_vec().map_err(|_| JoinTokenError::Damaged)?);
        let (body, sum) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(JoinTokenError::Damaged)?;
        if check(body) != *sum {
            return Err(JoinTokenError::Damaged);
        }
        let token: Self = wire::decode(body).map_err(|_| JoinTokenError::Damaged)?;
        let fits = token.name.len() <= TEXT_BYTES_MAX && token.anchor.addresses.len() <= ADDRESSES_MAX;
        if fits { Ok(token) } else { Err(JoinTokenError::Damaged) }
    }

    /// The text form, [`JOIN_PREFIX`] and base58: a secret, to be handed over as one.
    pub fn to_text(&self) -> String {
        let mut bytes = Zeroizing::new(wire::encode(self));
        let sum = check(&bytes);
        bytes.extend_from_slice(&sum);
        format!("{JOIN_PREFIX}{}", bs58::encode(&*bytes).into_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RegistryId;

    fn token() -> JoinToken {
        let anchor =
            Anchor { id: RegistryId([1; 32]), key: [2; 32], addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()] };
        JoinToken { anchor, name: "fjord".to_owned(), role: Role::Cloud, secret: JoinSecret([3; 16]) }
    }

    #[test]
    fn a_token_reads_back_from_its_text() {
        let text = token().to_text();
        assert!(text.starts_with(JOIN_PREFIX));
        assert_eq!(JoinToken::parse(&format!("  {text}\n")), Ok(token()));
    }

    #[test]
    fn every_damaged_text_is_refused_with_what_to_do() {
        let text = token().to_text();
        assert_eq!(JoinToken::parse("hello"), Err(JoinTokenError::NotAToken));
        assert_eq!(JoinToken::parse(&text.replace("join-1", "join-2")), Err(JoinTokenError::OtherVersion));
        assert_eq!(JoinToken::parse(JOIN_PREFIX), Err(JoinTokenError::Damaged));
        assert_eq!(JoinToken::parse(&text[..text.len() - 1]), Err(JoinTokenError::Damaged));
        assert_eq!(JoinToken::parse(&format!("{text}1")), Err(JoinTokenError::Damaged));
        assert_eq!(JoinToken::parse(&format!("{text}0")), Err(JoinTokenError::Damaged));
        assert_eq!(JoinToken::parse(&format!("{JOIN_PREFIX}{}", "2".repeat(9000))), Err(JoinTokenError::Damaged));
        for at in JOIN_PREFIX.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'a' { b'b' } else { b'a' };
            assert!(JoinToken::parse(&String::from_utf8(other).unwrap()).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn the_secret_is_redacted() {
        insta::assert_snapshot!(format!("{:?}", token().secret), @"JoinSecret(..)");
    }
}
