//! The codec: bincode 2.0.1 with fixed-width little-endian integers, behind this one module so that it can be replaced.
//!
//! Its rules (PROTOCOL 2): a size limit per type, checked before decoding; leftover bytes rejected; no zero-sized list
//! elements; a decoded value must re-encode to the same bytes. The bytes are pinned by `tests/vectors.rs`.
//!
//! A frame's content is `version: u8 ‖ kind: u8 ‖ body`; `wayfare-net` puts its length in front.
//!
//! How a mesh is upgraded node by node:
//! - The bytes of a message never change. A message that must say something else is a new kind, which says `since` which
//!   version of the protocol it exists; that version is the first byte of its frames.
//! - Two nodes agree on a version for each stream (`wayfare-net`): the highest that both speak. On it, only kinds of that
//!   version and below are sent.
//! - A kind that a receiver does not know is refused by name and counted, and the stream stays
//!   ([`Reject::is_of_newer_peer`]).

use bincode::config::{Configuration, Fixint, LittleEndian};
use serde::{Serialize, de::DeserializeOwned};

use crate::reject::Reject;

/// The version of every signature, and of the messages that were there from the first.
pub const VERSION: u8 = 1;

/// The versions of the protocol that this program speaks, newest first. 2: unknown kinds of message do not end a stream.
pub const VERSIONS: &[u8] = &[2, 1];

/// Caps what a length prefix can make the decoder allocate, however many bytes there are: see [`read`].
const DECODE_LIMIT: usize = 128 * 1024 * 1024;
const CONFIG: Configuration<LittleEndian, Fixint> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding();

/// A type with a wire form.
pub trait Wire: Serialize + DeserializeOwned {
    /// Longest encoding in bytes.
    const LIMIT: usize = crate::limits::FRAME_BYTES_MAX;
}

/// The canonical bytes of `value`.
///
/// # Panics
/// Never for the types of this crate: all are finite trees of integers, byte strings and lists.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, CONFIG).expect("wire types hold only encodable values")
}

/// Reads a `T` back.
///
/// # Errors
/// [`Reject::FrameTooLarge`] beyond `T::LIMIT`; [`Reject::Malformed`] if the bytes are no canonical encoding.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, Reject> {
    if bytes.len() > T::LIMIT {
        return Err(Reject::FrameTooLarge);
    }
    let (value, used): (T, usize) = read(bytes).map_err(|_| Reject::Malformed)?;
    if used != bytes.len() || encode(&value) != bytes {
        return Err(Reject::Malformed);
    }
    Ok(value)
}

/// Decodes from `bytes`. bincode makes room for a text or a string of bytes before it looks whether that many are there, so
/// few bytes must not be able to claim many: what they may claim goes with how many there are. Its limits are constants, hence
/// the steps.
fn read<T: Wire>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const { assert!(T::LIMIT <= DECODE_LIMIT) };
    match bytes.len() {
        ..=1024 => bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<1024>()),
        1025..=65_536 => bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<65_536>()),
        65_537..=1_048_576 => bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<1_048_576>()),
        _ => bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<DECODE_LIMIT>()),
    }
}

/// For `#[serde(with = "bytes")]` on what may be long: the same encoding as a list of bytes, copied at once instead of byte by
/// byte.
pub mod bytes {
    use std::fmt;

    use serde::{Deserializer, Serializer, de::Visitor};

    /// The length, and all bytes at once.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// See [`serialize`].
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
}

/// The content of a frame on one of the streams: an enum over the messages that may be sent there.
pub trait Frame: Sized {
    /// Longest content of any frame of this stream, in bytes.
    const BYTES_MAX: usize;

    /// `version ‖ kind ‖ body`; the version is that since which the kind exists.
    fn to_bytes(&self) -> Vec<u8>;

    /// Reads a frame's content.
    ///
    /// # Errors
    /// [`Reject::WrongVersion`] for a version that this program does not speak, or that is not the kind's;
    /// [`Reject::UnknownMessage`] for a kind that does not exist here; [`Reject::FrameTooLarge`] or [`Reject::Malformed`].
    fn from_bytes(bytes: &[u8]) -> Result<Self, Reject>;

    /// The message's name, for logs.
    fn name(&self) -> &'static str;
}

/// Defines a stream's frames: kind number, variant, body type; `since N` if it came with a later version of the protocol.
macro_rules! frames {
    (
        $(#[$doc:meta])* $name:ident, max $max:expr,
        { $($(#[$vdoc:meta])* $kind:literal $variant:ident($body:ty) $(since $since:literal)?,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant($body),)*
        }

        impl $crate::wire::Frame for $name {
            const BYTES_MAX: usize = $max;

            fn to_bytes(&self) -> Vec<u8> {
                let (head, mut body): ([u8; 2], Vec<u8>) = match self {
                    $(Self::$variant(body) => {
                        ([$crate::wire::since!($($since)?), $kind], $crate::wire::encode(body))
                    })*
                };
                let mut bytes = Vec::with_capacity(body.len() + 2);
                bytes.extend_from_slice(&head);
                bytes.append(&mut body);
                bytes
            }

            fn from_bytes(bytes: &[u8]) -> Result<Self, $crate::reject::Reject> {
                use $crate::reject::Reject;
                if bytes.len() > Self::BYTES_MAX {
                    return Err(Reject::FrameTooLarge);
                }
                let (version, rest) = bytes.split_first().ok_or(Reject::Malformed)?;
                if !$crate::wire::VERSIONS.contains(version) {
                    return Err(Reject::WrongVersion);
                }
                let (kind, body) = rest.split_first().ok_or(Reject::Malformed)?;
                match kind {
                    $($kind if *version == $crate::wire::since!($($since)?) => {
                        Ok(Self::$variant($crate::wire::decode(body)?))
                    })*
                    $($kind => Err(Reject::WrongVersion),)*
                    _ => Err(Reject::UnknownMessage),
                }
            }

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)*
                }
            }
        }
    };
}
pub(crate) use frames;

/// The version since which a kind exists.
macro_rules! since {
    () => {
        $crate::wire::VERSION
    };
    ($since:literal) => {
        $since
    };
}
pub(crate) use since;

/// Makes types the bodies of frames, each with its limit in bytes: unsigned themselves, they carry signed messages or act on
/// the stream's peer alone.
macro_rules! bodies {
    ($($name:ident $limit:expr,)*) => {
        $(impl $crate::wire::Wire for $name {
            const LIMIT: usize = $limit;
        })*
    };
}
pub(crate) use bodies;

#[cfg(test)]
#[expect(unreachable_pub, reason = "frames are public, but for those of a test")]
mod tests {
    use super::*;

    frames! {
        /// A stream of which two versions were released.
        Talk, max 100, {
            1 Old(Lookup),
            2 New(Lookup) since 2,
        }
    }

    use crate::migration::messages::Lookup;

    #[test]
    fn a_frame_says_since_when_its_kind_exists() {
        let lookup = Lookup::Name("kv".to_owned());
        let (old, new) = (Talk::Old(lookup.clone()), Talk::New(lookup));
        assert_eq!((old.to_bytes()[..2].to_vec(), new.to_bytes()[..2].to_vec()), (vec![1, 1], vec![2, 2]));
        assert_eq!((old.name(), new.name()), ("Old", "New"));
        for frame in [old, new] {
            let mut bytes = frame.to_bytes();
            assert_eq!(Talk::from_bytes(&bytes), Ok(frame));
            // Each kind has one version, so each message one encoding.
            bytes[0] = 3 - bytes[0];
            assert_eq!(Talk::from_bytes(&bytes), Err(Reject::WrongVersion));
        }
    }

    #[test]
    fn an_unknown_kind_is_told_from_an_unknown_version() {
        assert_eq!(Talk::from_bytes(&[2, 9, 1]), Err(Reject::UnknownMessage));
        assert_eq!(Talk::from_bytes(&[1, 9]), Err(Reject::UnknownMessage));
        for bytes in [&[0, 1][..], &[3, 1], &[3, 9], &[3], &[255]] {
            assert_eq!(Talk::from_bytes(bytes), Err(Reject::WrongVersion), "{bytes:?}");
        }
        for bytes in [&[][..], &[1], &[2]] {
            assert_eq!(Talk::from_bytes(bytes), Err(Reject::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn versions_are_listed_newest_first() {
        assert!(VERSIONS.is_sorted_by(|newer, older| newer > older) && VERSIONS.contains(&VERSION));
    }
}
