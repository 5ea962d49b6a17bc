//! The table of requests that came with an `Idempotency-Key`: which are unresolved, what the others were answered.
//!
//! [`Keys`] is the table and its bounds; it journals nothing. `keyed` does, and decides.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::effect::Ticket;
use crate::{
    ids::{Digest, ServiceId},
    time::{Instant, Micros, Timestamp},
};

/// Longest key. Longer: 400 to the client.
pub const KEY_BYTES_MAX: usize = 128;
/// Keys of one service. At the limit, the one that was resolved first is forgotten.
pub const KEYS_MAX: usize = 1024;
/// Unresolved keys of one service. More: 503 to the client.
pub const KEYS_PENDING_MAX: usize = 256;
/// Bytes of the requests of one service's unresolved keys. More: 503 to the client.
pub const KEYS_PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of kept responses of one service. Beyond, the oldest is forgotten.
pub const KEYS_ANSWERED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of requests and responses of all services' keys. Beyond, the oldest response is forgotten; if there is none, 503.
pub const KEYS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// How long a request with a key is tried, over restarts too; then its outcome is unknown. Far less than a
/// [`SESSION_SWEEP`](crate::session::SESSION_SWEEP), so that its number means the same to the host all the while.
pub const KEY_PENDING_MAX: Micros = Micros::from_secs(600);
/// How long a resolved key is remembered, if there is room; a restart begins it anew.
pub const KEY_RETENTION: Micros = Micros::from_secs(600);

const _: () = assert!(KEYS_PENDING_MAX < KEYS_MAX && KEYS_PENDING_MAX < crate::limits::PENDING_REQUESTS_MAX);
const _: () = assert!(KEY_PENDING_MAX.0 < crate::session::SESSION_SWEEP.0);

/// What a client calls a request by, to repeat it without repeating its effect: 1 to [`KEY_BYTES_MAX`] visible ASCII
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(String);

/// No [`IdempotencyKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to {KEY_BYTES_MAX} visible ASCII characters, and no spaces")]
pub struct NotAKey;

impl IdempotencyKey {
    /// The characters of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<Self, NotAKey> {
        let fits = (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(NotAKey) }
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> Self {
        key.0
    }
}

/// A key and what became of its request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Keyed {
    /// Of the request: another one under the same key is refused.
    pub(super) hash: Digest,
    /// The journal entry that says so; what was said before counts no more.
    pub(super) entry: u64,
    pub(super) state: State,
}

/// What became of a request with a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Unresolved in the journal, and not looked at since.
    Restored(Restored),
    /// Unresolved: the request is in its route.
    Pending {
        /// When the request first came.
        at: Timestamp,
        /// The request's length.
        bytes: usize,
        /// Who waits, and until when.
        waiting: BTreeSet<(Instant, Ticket)>,
    },
    /// This was the response.
    Answered(Vec<u8>),
    /// Perhaps it ran, perhaps not.
    Unknown,
}

/// An unresolved request from the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Restored {
    pub(super) sequence: u64,
    pub(super) at: Timestamp,
    pub(super) request: Vec<u8>,
    /// Whether its number is of an incarnation that has ended.
    pub(super) void: bool,
}

impl State {
    const fn is_done(&self) -> bool {
        matches!(self, Self::Answered(_) | Self::Unknown)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Restored(restored) => restored.request.len(),
            Self::Pending { bytes, .. } => *bytes,
            Self::Answered(response) => response.len(),
            Self::Unknown => 0,
        }
    }
}

/// The keys of one service. Invariants: `done` holds the entry of each resolved key, with when to forget it (`None`: not
/// reckoned yet, after a restart); the sums are over `keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct OfService {
    keys: BTreeMap<IdempotencyKey, Keyed>,
    done: BTreeMap<u64, (Option<Instant>, IdempotencyKey)>,
    done_bytes: usize,
    pending_bytes: usize,
    waiting: usize,
}

impl OfService {
    const fn bytes(&self) -> usize {
        self.done_bytes + self.pending_bytes
    }
}

/// All keys. Invariants: `waits` holds whoever waits in a [`State::Pending`]; `bytes` is the sum over `services`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Keys {
    services: BTreeMap<ServiceId, OfService>,
    waits: BTreeMap<(Instant, Ticket), (ServiceId, IdempotencyKey)>,
    bytes: usize,
}

impl Keys {
    pub(super) fn get(&self, service: ServiceId, key: &IdempotencyKey) -> Option<&Keyed> {
        self.services.get(&service)?.keys.get(key)
    }

    /// Whether there is room for another unresolved request of so many bytes; makes it, if forgetting helps.
    pub(super) fn make_room(&mut self, service: ServiceId, bytes: usize) -> bool {
        if let Some(of) = self.services.get(&service) {
            let pending = of.keys.len() - of.done.len();
            if pending >= KEYS_PENDING_MAX || of.pending_bytes + bytes > KEYS_PENDING_BYTES_MAX {
                return false;
            }
        }
        while self.bytes + bytes > KEYS_BYTES_MAX {
            if !self.forget_oldest() {
                return false;
            }
        }
        true
    }

    /// Says what became of a key's request; what was said before is forgotten. Returns who waited for it. `until` is when
    /// to forget a resolved one.
    pub(super) fn put(
        &mut self,
        service: ServiceId,
        key: IdempotencyKey,
        keyed: Keyed,
        until: Option<Instant>,
    ) -> Vec<Ticket> {
        let waited = self.remove(service, &key);
        let of = self.services.entry(service).or_default();
        let bytes = keyed.state.bytes();
        self.bytes += bytes;
        if keyed.state.is_done() {
            of.done_bytes += bytes;
            of.done.insert(keyed.entry, (until, key.clone()));
        } else {
            of.pending_bytes += bytes;
        }
        of.keys.insert(key, keyed);
        self.shrink(service);
        waited
    }

    /// Forgets a key. Returns who waited.
    pub(super) fn remove(&mut self, service: ServiceId, key: &IdempotencyKey) -> Vec<Ticket> {
        let Some(of) = self.services.get_mut(&service) else { return Vec::new() };
        let Some(keyed) = of.keys.remove(key) else { return Vec::new() };
        let bytes = keyed.state.bytes();
        self.bytes -= bytes;
        if keyed.state.is_done() {
            of.done_bytes -= bytes;
            of.done.remove(&keyed.entry);
        } else {
            of.pending_bytes -= bytes;
        }
        let mut waited = Vec::new();
        if let State::Pending { waiting, .. } = keyed.state {
            of.waiting -= waiting.len();
            for (deadline, ticket) in waiting {
                self.waits.remove(&(deadline, ticket));
                waited.push(ticket);
            }
        }
        if of.keys.is_empty() {
            self.services.remove(&service);
        }
        waited
    }

    /// The request was numbered anew, in this journal entry. Who waits goes on waiting.
    pub(super) fn renumbered(&mut self, service: ServiceId, key: &IdempotencyKey, entry: u64) {
        if let Some(keyed) = self.services.get_mut(&service).and_then(|of| of.keys.get_mut(key)) {
            keyed.entry = entry;
        }
    }

    /// Lets a client wait for an unresolved request until `deadline`.
    pub(super) fn wait(&mut self, service: ServiceId, key: &IdempotencyKey, deadline: Instant, ticket: Ticket) {
        let Some(of) = self.services.get_mut(&service) else { return };
        if let Some(Keyed { state: State::Pending { waiting, .. }, .. }) = of.keys.get_mut(key) {
            waiting.insert((deadline, ticket));
            of.waiting += 1;
            self.waits.insert((deadline, ticket), (service, key.clone()));
        }
    }

    /// How many clients wait for requests to `service`.
    pub(super) fn waiting(&self, service: ServiceId) -> usize {
        self.services.get(&service).map_or(0, |of| of.waiting)
    }

    /// The clients that have waited for long enough; the requests stay unresolved.
    pub(super) fn late(&mut self, now: Instant) -> Vec<Ticket> {
        let mut late = Vec::new();
        while let Some(((deadline, ticket), _)) = self.waits.first_key_value()
            && *deadline <= now
        {
            let (deadline, ticket) = (*deadline, *ticket);
            let Some((service, key)) = self.waits.remove(&(deadline, ticket)) else { continue };
            late.push(ticket);
            if let Some(of) = self.services.get_mut(&service)
                && let Some(Keyed { state: State::Pending { waiting, .. }, .. }) = of.keys.get_mut(&key)
            {
                waiting.remove(&(deadline, ticket));
                of.waiting -= 1;
            }
        }
        late
    }

    /// The clients that wait for a request: they are to wait no longer, and it stays unresolved.
    pub(super) fn dismiss(&mut self, service: ServiceId, key: &IdempotencyKey) -> Vec<Ticket> {
        let Some(of) = self.services.get_mut(&service) else { return Vec::new() };
        let Some(Keyed { state: State::Pending { waiting, .. }, .. }) = of.keys.get_mut(key) else { return Vec::new() };
        let dismissed = std::mem::take(waiting);
        of.waiting -= dismissed.len();
        for wait in &dismissed {
            self.waits.remove(wait);
        }
        dismissed.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// Forgets what was resolved long ago.
    pub(super) fn expire(&mut self, now: Instant) {
        let oldest = |of: &OfService| of.done.first_key_value().map(|(_, (until, key))| (*until, key.clone()));
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        for service in services {
            while let Some((Some(until), key)) = self.services.get(&service).and_then(oldest)
                && until <= now
            {
                self.remove(service, &key);
            }
        }
    }

    /// When a client has waited long enough, or a key is forgotten.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let wait = self.waits.first_key_value().map(|((deadline, _), _)| *deadline);
        let oldest = |of: &OfService| of.done.first_key_value().and_then(|(_, (until, _))| *until);
        self.services.values().filter_map(oldest).chain(wait).min()
    }

    /// After a restart: from now on resolved keys are remembered for a while; returns the unresolved ones.
    pub(super) fn start_clock(&mut self, until: Instant) -> Vec<(ServiceId, IdempotencyKey, Restored)> {
        let mut unresolved = Vec::new();
        for (service, of) in &mut self.services {
            of.done.values_mut().for_each(|(known, _)| *known = Some(known.unwrap_or(until)));
            for (key, keyed) in &of.keys {
                if let State::Restored(restored) = &keyed.state {
                    unresolved.push((*service, key.clone(), restored.clone()));
                }
            }
        }
        unresolved
    }

    /// A new incarnation: the numbers of unresolved requests mean nothing any more. Only while a journal is read.
    pub(super) fn void(&mut self) {
        for keyed in self.services.values_mut().flat_map(|of| of.keys.values_mut()) {
            if let State::Restored(restored) = &mut keyed.state {
                restored.void = true;
            }
        }
    }

    /// The journal entries that count.
    pub(super) fn entries(&self) -> BTreeSet<u64> {
        self.services.values().flat_map(|of| of.keys.values()).map(|keyed| keyed.entry).collect()
    }

    /// Bytes of requests and responses.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.services.values().map(|of| of.keys.len()).sum()
    }

    /// Keeps the bounds of one service, and the common one.
    fn shrink(&mut self, service: ServiceId) {
        while let Some(of) = self.services.get(&service)
            && (of.keys.len() > KEYS_MAX || of.done_bytes > KEYS_ANSWERED_BYTES_MAX)
            && let Some((_, (_, key))) = of.done.first_key_value()
        {
            let key = key.clone();
            self.remove(service, &key);
        }
        while self.bytes > KEYS_BYTES_MAX && self.forget_oldest() {}
    }

    /// Forgets what was resolved first, of the services whose keys take up any bytes.
    fn forget_oldest(&mut self) -> bool {
        let oldest = |(service, of): (&ServiceId, &OfService)| {
            let (entry, (_, key)) = of.done.first_key_value().filter(|_| of.bytes() > 0)?;
            Some((*entry, *service, key.clone()))
        };
        let Some((_, service, key)) = self.services.iter().filter_map(oldest).min() else { return false };
        self.remove(service, &key);
        true
    }
}
