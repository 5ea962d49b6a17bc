//! A service's state as records: what is captured here and applied elsewhere, and the hash that both sides compare.
//!
//! Records are canonical: one state chunk has one encoding. All numbers are little endian. A page record carries the
//! round that sent it, so that rounds before the freeze (pre-copy) and after it use the same format.

use std::borrow::Cow;
use std::fmt;

use wayfare_protocol::ids::Digest;

use super::limits::{CHUNK_BYTES, GLOBALS_MAX, MEMORIES_MAX};

/// One page (the transfer's `RecordKind::Page`).
pub const KIND_PAGE: u8 = 1;
/// What is kept beside the pages: layout, or globals and clock (the transfer's `RecordKind::Globals`).
pub const KIND_GLOBALS: u8 = 2;

/// First byte of a payload of [`KIND_GLOBALS`].
const TAG_LAYOUT: u8 = 0;
const TAG_GLOBALS: u8 = 1;

const PAGE_HEAD_BYTES: usize = 4 + 4 + 8;

/// The longest payload of any record.
pub const PAYLOAD_BYTES_MAX: usize = PAGE_HEAD_BYTES + CHUNK_BYTES;

/// Makes state hashes of different migrations incomparable, so that they reveal nothing of the state.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// The value of one mutable global: its type and bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in WebAssembly")]
pub enum GlobalValue {
    I32(u32),
    I64(u64),
    F32(u32),
    F64(u64),
    V128(u128),
}

impl GlobalValue {
    /// The type as one byte, and the bits.
    fn parts(self) -> (u8, u128) {
        match self {
            Self::I32(bits) => (0, bits.into()),
            Self::I64(bits) => (1, bits.into()),
            Self::F32(bits) => (2, bits.into()),
            Self::F64(bits) => (3, bits.into()),
            Self::V128(bits) => (4, bits),
        }
    }

    fn from_parts(kind: u8, bits: u128) -> Option<Self> {
        let narrow = u32::try_from(bits);
        let wide = u64::try_from(bits);
        match kind {
            0 => narrow.ok().map(Self::I32),
            1 => wide.ok().map(Self::I64),
            2 => narrow.ok().map(Self::F32),
            3 => wide.ok().map(Self::F64),
            4 => Some(Self::V128(bits)),
            _ => None,
        }
    }

    /// Whether both have one type.
    pub(crate) fn same_type(self, other: Self) -> bool {
        self.parts().0 == other.parts().0
    }
}

/// One record of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRecord<'a> {
    /// Sizes of all memories, in pages of 64 KiB. Comes first, and again whenever a memory has grown.
    Layout {
        /// By memory index.
        pages: Vec<u64>,
    },
    /// One page. A page that no record names is zero.
    Page {
        /// Which pass over the state sent it: a later one replaces an earlier one.
        round: u32,
        /// Index of the memory.
        memory: u32,
        /// Index of the page in it.
        index: u64,
        /// The page without its trailing zeros: empty if it is all zero.
        bytes: Cow<'a, [u8]>,
    },
    /// What the service holds outside its memories. Comes last.
    Globals {
        /// Mutable globals in the module's order.
        values: Vec<GlobalValue>,
        /// The last value of the monotonic clock that the service saw.
        monotonic_ns: u64,
    },
}

/// Why bytes are not a record. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant is its documentation")]
pub enum RecordError {
    #[error("unknown kind of state record {kind}")]
    UnknownKind { kind: u8 },
    #[error("a state record that is neither layout nor globals: tag {tag}")]
    UnknownTag { tag: u8 },
    #[error("a state record that ends early")]
    TooShort,
    #[error("a state record of more bytes than its contents take")]
    TooLong,
    #[error("a page that ends with zeros, which must be left out")]
    TrailingZeros,
    #[error("an unknown type, or bits that its type has no room for, in global {index}")]
    BadGlobal { index: usize },
}

impl StateRecord<'_> {
    /// What kind of record its payload is.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Page { .. } => KIND_PAGE,
            Self::Layout { .. } | Self::Globals { .. } => KIND_GLOBALS,
        }
    }

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Layout { pages } => {
                out.push(TAG_LAYOUT);
                pages.iter().for_each(|pages| out.extend(pages.to_le_bytes()));
            }
            Self::Page { round, memory, index, bytes } => {
                out.extend(round.to_le_bytes());
                out.extend(memory.to_le_bytes());
                out.extend(index.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Globals { values, monotonic_ns } => {
                out.push(TAG_GLOBALS);
                out.extend(monotonic_ns.to_le_bytes());
                for (kind, bits) in values.iter().map(|value| value.parts()) {
                    out.push(kind);
                    out.extend(bits.to_le_bytes());
                }
            }
        }
    }
}

impl<'a> StateRecord<'a> {
    /// Reads a payload: strictly, and allocating no more than the payload's own length.
    ///
    /// # Errors
    /// Any other bytes than [`encode`](Self::encode) writes.
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, RecordError> {
        let mut rest = payload;
        match kind {
            KIND_PAGE => {
                let round = u32::from_le_bytes(take(&mut rest)?);
                let memory = u32::from_le_bytes(take(&mut rest)?);
                let index = u64::from_le_bytes(take(&mut rest)?);
                match rest {
                    _ if rest.len() > CHUNK_BYTES => Err(RecordError::TooLong),
                    [.., 0] => Err(RecordError::TrailingZeros),
                    bytes => Ok(Self::Page { round, memory, index, bytes: Cow::Borrowed(bytes) }),
                }
            }
            KIND_GLOBALS => match take(&mut rest)? {
                [TAG_LAYOUT] => Self::decode_layout(rest),
                [TAG_GLOBALS] => Self::decode_globals(rest),
                [tag] => Err(RecordError::UnknownTag { tag }),
            },
            kind => Err(RecordError::UnknownKind { kind }),
        }
    }

    fn decode_layout(mut rest: &[u8]) -> Result<Self, RecordError> {
        if rest.len() > MEMORIES_MAX * 8 {
            return Err(RecordError::TooLong);
        }
        let mut pages = Vec::new();
        while !rest.is_empty() {
            pages.push(u64::from_le_bytes(take(&mut rest)?));
        }
        Ok(Self::Layout { pages })
    }

    fn decode_globals(mut rest: &[u8]) -> Result<Self, RecordError> {
        let monotonic_ns = u64::from_le_bytes(take(&mut rest)?);
        if rest.len() > GLOBALS_MAX * 17 {
            return Err(RecordError::TooLong);
        }
        let mut values = Vec::new();
        while !rest.is_empty() {
            let [kind] = take(&mut rest)?;
            let bits = u128::from_le_bytes(take(&mut rest)?);
            let bad = RecordError::BadGlobal { index: values.len() };
            values.push(GlobalValue::from_parts(kind, bits).ok_or(bad)?);
        }
        Ok(Self::Globals { values, monotonic_ns })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (head, tail) = rest.split_first_chunk().ok_or(RecordError::TooShort)?;
    *rest = tail;
    Ok(*head)
}

/// `bytes` without trailing zeros.
pub(crate) fn trimmed(bytes: &[u8]) -> &[u8] {
    // Whole words first: most of a page is skipped, or kept, eight bytes at a time.
    let words = bytes.rchunks_exact(16).take_while(|word| **word == [0; 16]).count();
    let bytes = &bytes[..bytes.len() - words * 16];
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// The salted hash of one page without its trailing zeros; `None` for a page that is all zero.
pub(crate) type PageHash = Option<[u8; 32]>;

/// Hashes one page (without its trailing zeros).
pub(crate) fn page_hash(salt: &Salt, trimmed: &[u8]) -> PageHash {
    (!trimmed.is_empty()).then(|| *blake3::keyed_hash(&salt.0, trimmed).as_bytes())
}

/// `h(state)`: keyed by the salt, over the code's digest, each memory's size and non-zero pages by index, the globals
/// and the clock. Pages enter by their own hashes, so that both sides hash while they send and receive, and little is
/// left to do while the service stands still.
///
/// Every part has a fixed length or ends by a mark that no index can be, so no two states give the same input.
pub(crate) fn state_digest(
    salt: &Salt,
    code: &Digest,
    memories: &[(u64, Vec<PageHash>)],
    globals: &[GlobalValue],
    monotonic_ns: u64,
) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(&salt.0);
    hasher.update(b"wayfare state 1\0").update(&code.0);
    hasher.update(&(memories.len() as u64).to_le_bytes());
    for (pages, hashes) in memories {
        hasher.update(&pages.to_le_bytes());
        for (index, hash) in hashes.iter().enumerate() {
            if let Some(hash) = hash {
                hasher.update(&(index as u64).to_le_bytes()).update(hash);
            }
        }
        hasher.update(&u64::MAX.to_le_bytes());
    }
    hasher.update(&(globals.len() as u64).to_le_bytes());
    for (kind, bits) in globals.iter().map(|value| value.parts()) {
        hasher.update(&[kind]).update(&bits.to_le_bytes());
    }
    hasher.update(&monotonic_ns.to_le_bytes());
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = GlobalValue> {
        prop_oneof![
            any::<u32>().prop_map(GlobalValue::I32),
            any::<u64>().prop_map(GlobalValue::I64),
            any::<u32>().prop_map(GlobalValue::F32),
            any::<u64>().prop_map(GlobalValue::F64),
            any::<u128>().prop_map(GlobalValue::V128),
        ]
    }

    fn record() -> impl Strategy<Value = StateRecord<'static>> {
        prop_oneof![
            prop::collection::vec(any::<u64>(), 0..=MEMORIES_MAX).prop_map(|pages| StateRecord::Layout { pages }),
            (any::<u32>(), any::<u32>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
                |(round, memory, index, bytes)| {
                    let bytes = trimmed(&bytes).to_vec();
                    StateRecord::Page { round, memory, index, bytes: bytes.into() }
                }
            ),
            (prop::collection::vec(value(), 0..5), any::<u64>())
                .prop_map(|(values, monotonic_ns)| StateRecord::Globals { values, monotonic_ns }),
        ]
    }

    proptest! {
        #[test]
        fn records_survive_encoding(record in record()) {
            let mut payload = Vec::new();
            record.encode(&mut payload);
            prop_assert_eq!(StateRecord::decode(record.kind(), &payload), Ok(record));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(kind in 0u8..6, payload in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(record) = StateRecord::decode(kind, &payload) {
                let mut again = Vec::new();
                record.encode(&mut again);
                prop_assert_eq!(again, payload);
            }
        }

        #[test]
        fn trimming_removes_zeros_at_the_end_only(bytes in prop::collection::vec(0u8..2, 0..100), zeros in 0usize..100) {
            let mut padded = bytes.clone();
            padded.resize(bytes.len() + zeros, 0);
            let kept = trimmed(&padded);
            prop_assert!(kept.last() != Some(&0));
            prop_assert_eq!(kept, trimmed(&bytes));
            prop_assert!(padded[kept.len()..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn each_malformed_record_has_its_name() {
        let decode = |kind, payload: &[u8]| StateRecord::decode(kind, payload).map(|_| ());
        assert_eq!(decode(9, &[]), Err(RecordError::UnknownKind { kind: 9 }));
        assert_eq!(decode(KIND_GLOBALS, &[9]), Err(RecordError::UnknownTag { tag: 9 }));
        assert_eq!(decode(KIND_GLOBALS, &[TAG_LAYOUT; 8]), Err(RecordError::TooShort));
        assert_eq!(decode(KIND_GLOBALS, &[TAG_LAYOUT; 1 + 8 * (MEMORIES_MAX + 1)]), Err(RecordError::TooLong));
        assert_eq!(decode(KIND_PAGE, &[0; PAGE_HEAD_BYTES - 1]), Err(RecordError::TooShort));
        assert_eq!(decode(KIND_PAGE, &[0; PAGE_HEAD_BYTES + 1]), Err(RecordError::TrailingZeros));
        assert_eq!(decode(KIND_PAGE, &[1; PAYLOAD_BYTES_MAX + 1]), Err(RecordError::TooLong));
        assert_eq!(decode(KIND_PAGE, &[1; PAYLOAD_BYTES_MAX]), Ok(()));
        let globals = |entry: &[u8]| decode(KIND_GLOBALS, &[[TAG_GLOBALS; 9].as_slice(), entry].concat());
        assert_eq!(globals(&[0; 16]), Err(RecordError::TooShort));
        assert_eq!(globals(&[9; 17]), Err(RecordError::BadGlobal { index: 0 }));
        assert_eq!(
            globals(&[0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(RecordError::BadGlobal { index: 0 })
        );
        assert_eq!(globals(&[0; 17 * (GLOBALS_MAX + 1)]), Err(RecordError::TooLong));
    }

    #[test]
    fn the_digest_tells_states_apart() {
        let salt = Salt([1; 32]);
        let page = page_hash(&salt, b"page");
        let code = Digest([2; 32]);
        let digests = [
            state_digest(&salt, &code, &[(2, vec![page, None])], &[], 0),
            state_digest(&salt, &code, &[(2, vec![None, page])], &[], 0),
            state_digest(&salt, &code, &[(3, vec![page])], &[], 0),
            state_digest(&salt, &code, &[(2, vec![page]), (0, vec![])], &[], 0),
            state_digest(&salt, &code, &[(2, vec![page])], &[GlobalValue::I32(0)], 0),
            state_digest(&salt, &code, &[(2, vec![page])], &[GlobalValue::F32(0)], 0),
            state_digest(&salt, &code, &[(2, vec![page])], &[], 1),
            state_digest(&salt, &Digest([3; 32]), &[(2, vec![page])], &[], 0),
            state_digest(&Salt([4; 32]), &code, &[(2, vec![page])], &[], 0),
        ];
        for (i, left) in digests.iter().enumerate() {
            assert!(digests[i + 1..].iter().all(|right| left != right), "digest {i} is not unique");
        }
    }
}
