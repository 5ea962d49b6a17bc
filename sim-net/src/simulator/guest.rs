//! The service that is moved about: a table of values, and the list of everything it ever did.
//!
//! Each request has a name of its own. A guest that is asked for the same name twice, or whose list lacks a name that was
//! acknowledged, is proof of a broken promise, and the hash chain over the list tells any two histories apart. It reads
//! a number from the outside on each call, which a replay must be given again to come to the same response.

use std::collections::{BTreeMap, BTreeSet};

use wayfare_protocol::{ids::Digest, suite::digest, transfer::RecordKind};

/// The name of one request: gateway, client and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(pub(super) u64);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.0 >> 48, (self.0 >> 32) & 0xffff, self.0 & 0xffff_ffff)
    }
}

/// One call as the guest remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) name: Name,
    key: u8,
    value: u64,
    outside: u64,
    /// Hash of all up to here.
    pub(super) chain: Digest,
}

/// Encoded length of one call.
const DONE_BYTES: usize = 25;
/// Plaintext of one page record: small, so that a transfer has many and can be cut anywhere.
const PAGE_BYTES: usize = 20 * DONE_BYTES;

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) name: Name,
    /// The call's place in the list.
    pub(super) index: u64,
    pub(super) chain: Digest,
    /// Which instance's history it is of.
    pub(super) birth: u64,
}

impl Response {
    /// Reads what [`Guest::call`] wrote.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (name, rest) = bytes.split_first_chunk::<8>()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let (chain, rest) = rest.split_first_chunk::<32>()?;
        let (birth, _) = rest.split_first_chunk::<8>()?;
        let (name, index) = (Name(u64::from_le_bytes(*name)), u64::from_le_bytes(*index));
        Some(Self { name, index, chain: Digest(*chain), birth: u64::from_le_bytes(*birth) })
    }
}

/// A request as bytes. `padding` makes it longer.
pub(super) fn request(name: Name, key: u8, value: u64, padding: usize) -> Vec<u8> {
    let mut bytes = name.0.to_le_bytes().to_vec();
    bytes.push(key);
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

/// A running, frozen or arriving instance's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    code: Digest,
    started: u64,
    list: Vec<Done>,
    names: BTreeSet<Name>,
    table: BTreeMap<u8, u64>,
}

impl Guest {
    /// A new one of `code`, which read `outside` as it started.
    pub(super) const fn start(code: Digest, outside: u64) -> Self {
        Self { code, started: outside, list: Vec::new(), names: BTreeSet::new(), table: BTreeMap::new() }
    }

    /// The hash of its module.
    pub(super) const fn code(&self) -> Digest {
        self.code
    }

    /// Its state under other code.
    pub(super) fn taken_over_by(&self, code: Digest) -> Self {
        Self { code, ..self.clone() }
    }

    /// What it read as it started: no other instance did.
    pub(super) const fn birth(&self) -> u64 {
        self.started
    }

    /// The same, for the log.
    pub(super) fn started(&self) -> Vec<u8> {
        self.started.to_le_bytes().to_vec()
    }

    /// Reads what the log has of a start or of a call.
    pub(super) fn outside(inputs: &[u8]) -> Option<u64> {
        inputs.try_into().ok().map(u64::from_le_bytes)
    }

    /// Everything it did, in order.
    pub(super) fn list(&self) -> &[Done] {
        &self.list
    }

    /// Whether it did this.
    pub(super) fn has(&self, name: Name) -> bool {
        self.names.contains(&name)
    }

    /// Executes a request, reading `outside`. `None` for bytes that are no request.
    pub(super) fn call(&mut self, request: &[u8], outside: u64) -> Option<Vec<u8>> {
        let (name, rest) = request.split_first_chunk::<8>()?;
        let ([key], rest) = rest.split_first_chunk::<1>()?;
        let (value, _) = rest.split_first_chunk::<8>()?;
        let (name, value) = (Name(u64::from_le_bytes(*name)), u64::from_le_bytes(*value));
        let index = self.list.len() as u64;
        let before = self.table.get(key).copied().unwrap_or_default();
        self.push(name, *key, value, outside);
        let chain = self.list.last().map_or(Digest([0; 32]), |done| done.chain);
        let mut response = name.0.to_le_bytes().to_vec();
        response.extend_from_slice(&index.to_le_bytes());
        response.extend_from_slice(&chain.0);
        response.extend_from_slice(&self.started.to_le_bytes());
        response.extend_from_slice(&before.to_le_bytes());
        response.extend_from_slice(&outside.to_le_bytes());
        Some(response)
    }

    fn push(&mut self, name: Name, key: u8, value: u64, outside: u64) {
        let last = self.list.last().map_or(Digest([0; 32]), |done| done.chain);
        let parts = [&last.0[..], &self.started.to_le_bytes(), &name.0.to_le_bytes(), &[key], &value.to_le_bytes()];
        let chain = digest("simulated guest", &[&parts.concat(), &outside.to_le_bytes()]);
        self.list.push(Done { name, key, value, outside, chain });
        self.names.insert(name);
        self.table.insert(key, value);
    }

    /// Hash of the whole state under `salt`.
    pub(super) fn digest(&self, salt: &Digest) -> Digest {
        let last = self.list.last().map_or(Digest([0; 32]), |done| done.chain);
        let table: Vec<u8> =
            self.table.iter().flat_map(|(key, value)| [u64::from(*key), *value]).flat_map(u64::to_le_bytes).collect();
        let sizes = [self.started, self.list.len() as u64].map(u64::to_le_bytes).concat();
        digest("simulated state", &[&salt.0, &sizes, &last.0, &table])
    }

    /// The state in pieces, as they travel.
    pub(super) fn records(&self) -> Vec<(RecordKind, Vec<u8>)> {
        let mut bytes = Vec::with_capacity(self.list.len() * DONE_BYTES);
        for done in &self.list {
            bytes.extend_from_slice(&done.name.0.to_le_bytes());
            bytes.push(done.key);
            bytes.extend_from_slice(&done.value.to_le_bytes());
            bytes.extend_from_slice(&done.outside.to_le_bytes());
        }
        let globals = (RecordKind::Globals, self.started());
        let pages = bytes.chunks(PAGE_BYTES).map(|page| (RecordKind::Page, page.to_vec()));
        std::iter::once(globals).chain(pages).collect()
    }

    /// Takes one piece in. A piece that comes twice is done twice: that must not happen.
    pub(super) fn apply(&mut self, kind: RecordKind, plaintext: &[u8]) -> Option<()> {
        if kind == RecordKind::Globals {
            self.started = Self::outside(plaintext)?;
            return Some(());
        }
        for done in plaintext.chunks(DONE_BYTES) {
            let (name, rest) = done.split_first_chunk::<8>()?;
            let ([key], rest) = rest.split_first_chunk::<1>()?;
            let (value, outside) = rest.split_first_chunk::<8>()?;
            let outside = Self::outside(outside)?;
            self.push(Name(u64::from_le_bytes(*name)), *key, u64::from_le_bytes(*value), outside);
        }
        Some(())
    }
}

/// What an image file holds: a state, and what travels beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) guest: Guest,
    pub(super) belongings: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: Digest = Digest([3; 32]);

    fn busy() -> Guest {
        let mut guest = Guest::start(CODE, 7);
        for n in 0..100 {
            guest.call(&request(Name(n), n as u8 % 5, n, 3), n * n).unwrap();
        }
        guest
    }

    #[test]
    fn state_arrives_as_it_left() {
        let guest = busy();
        let mut landed = Guest::start(CODE, 0);
        for (kind, piece) in guest.records() {
            landed.apply(kind, &piece).unwrap();
        }
        assert_eq!(landed, guest);
        let salt = Digest([1; 32]);
        assert_eq!(landed.digest(&salt), guest.digest(&salt));
    }

    #[test]
    fn replay_with_the_same_inputs_gives_the_same_response_and_no_other_does() {
        let (mut one, mut same, mut other) = (busy(), busy(), busy());
        let bytes = request(Name(1000), 1, 2, 0);
        let response = one.call(&bytes, 55);
        assert_eq!(response, same.call(&bytes, 55));
        assert_ne!(response, other.call(&bytes, 56));
        let read = Response::read(&response.unwrap()).unwrap();
        assert_eq!((read.name, read.index, read.chain), (Name(1000), 100, one.list()[100].chain));
        assert!(one.has(Name(1000)) && !one.has(Name(1001)));
    }

    #[test]
    fn nonsense_is_no_request() {
        assert_eq!(Guest::start(CODE, 0).call(b"short", 1), None);
        assert_eq!(Response::read(b"short"), None);
    }
}
