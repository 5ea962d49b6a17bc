//! Requests with an `Idempotency-Key`: exactly once for a client whose gateway dies (PROTOCOL 5).
//!
//! The request is on disk, with its number, before it is sent; the response is on disk before the client has it, and
//! before the host is told that it may forget it. So a gateway that starts again sends what is unresolved under the old
//! number, on which the host executes it for the first time or answers what it answered then, and the client's next try
//! finds the response. A key is freed only if its request certainly was not executed; if nobody can know, the key says so.

use super::{
    effect::{Effect, Entry, Failure, Refuse, Ticket},
    keys::{IdempotencyKey, KEY_PENDING_MAX, KEY_RETENTION, Keyed, State},
    machine::Gateway,
    messages::request_hash,
    route::{Pending, Who},
};
use crate::{
    ids::ServiceId,
    limits::PENDING_REQUESTS_MAX,
    reject::{Guards, Rule},
    suite::Suite,
    time::{Instant, Micros, Now},
};

/// A journal smaller than this is not compacted, nor one that has grown by less since it last was.
pub const COMPACT_BYTES_MIN: u64 = 32 * 1024 * 1024;
/// A journal is compacted when it is so many times as large as what counts in it.
const COMPACT_FACTOR: u64 = 3;
/// What an entry takes up beside its request or response, roughly.
const ENTRY_OVERHEAD: u64 = 256;

/// How a request ends.
pub(super) enum End {
    /// With its response.
    Answered(Vec<u8>),
    /// It was certainly not executed.
    NotExecuted(Failure),
    /// It may have been executed.
    Unknown(Failure),
}

impl<S: Suite, G: Guards> Gateway<S, G> {
    /// Takes a request for a service with a route. The caller reserves numbers, and sends.
    pub(super) fn take(
        &mut self,
        now: Now,
        service: ServiceId,
        ticket: Ticket,
        deadline: Instant,
        request: Vec<u8>,
        key: Option<IdempotencyKey>,
    ) -> Result<(), Refuse> {
        if let Some(key) = key {
            return self.take_keyed(now, service, ticket, deadline, request, key);
        }
        let route = self.routes.get_mut(&service).ok_or(Refuse::UnknownService)?;
        if route.pending.len() >= PENDING_REQUESTS_MAX {
            return Err(Refuse::Full);
        }
        route.push(Who::Client(ticket), request, deadline, None);
        Ok(())
    }

    fn take_keyed(
        &mut self,
        now: Now,
        service: ServiceId,
        ticket: Ticket,
        deadline: Instant,
        request: Vec<u8>,
        key: IdempotencyKey,
    ) -> Result<(), Refuse> {
        let hash = request_hash(&request);
        if let Some(known) = self.keys.get(service, &key) {
            if known.hash != hash {
                return Err(Refuse::KeyReused);
            }
            return match &known.state {
                // It may have come just now: it leaves when it is on disk.
                State::Answered(response) => {
                    let response = response.clone();
                    self.outbox.promise(Effect::Answer { ticket, response });
                    Ok(())
                }
                State::Unknown => Err(Refuse::OutcomeUnknown),
                State::Pending { .. } if self.keys.waiting(service) < PENDING_REQUESTS_MAX => {
                    self.keys.wait(service, &key, deadline, ticket);
                    Ok(())
                }
                State::Pending { .. } | State::Restored(_) => Err(Refuse::Full),
            };
        }
        let route = self.routes.get(&service).ok_or(Refuse::UnknownService)?;
        if route.pending.len() >= PENDING_REQUESTS_MAX || self.full || !self.keys.make_room(service, request.len()) {
            return Err(Refuse::Full);
        }
        let (at, bytes, sequence) = (now.wall, request.len(), route.next());
        let entry =
            self.persist(Entry::Keyed { service, key: key.clone(), hash, sequence, at, request: request.clone() });
        let state = State::Pending { at, bytes, waiting: std::collections::BTreeSet::new() };
        self.keys.put(service, key.clone(), Keyed { hash, entry, state }, None);
        self.keys.wait(service, &key, deadline, ticket);
        let gate = self.gate(entry);
        if let Some(route) = self.routes.get_mut(&service) {
            route.push(Who::Key(key), request, now.mono + KEY_PENDING_MAX, gate);
        }
        Ok(())
    }

    /// The journal entry that something must wait for.
    pub(super) fn gate(&self, entry: u64) -> Option<u64> {
        G::keeps(Rule::SyncGate).then_some(entry)
    }

    /// Tells whoever asked how the request ended that was taken out of the route: with a key, when that is on disk.
    pub(super) fn end(&mut self, now: Instant, service: ServiceId, sequence: u64, pending: Pending, end: End) {
        let key = match pending.who {
            Who::Key(key) => key,
            Who::Client(ticket) => {
                return self.outbox.now(match end {
                    End::Answered(response) => Effect::Answer { ticket, response },
                    End::NotExecuted(reason) | End::Unknown(reason) => Effect::Fail { ticket, reason },
                });
            }
        };
        let hash = pending.hash;
        let entry = match end {
            End::Answered(response) => {
                let told = Entry::Answered { service, key: key.clone(), hash, response: response.clone() };
                let entry = self.persist(told);
                let keyed = Keyed { hash, entry, state: State::Answered(response.clone()) };
                for ticket in self.keys.put(service, key, keyed, Some(now + KEY_RETENTION)) {
                    self.outbox.promise(Effect::Answer { ticket, response: response.clone() });
                }
                entry
            }
            End::NotExecuted(reason) => {
                let entry = self.persist(Entry::Freed { service, key: key.clone() });
                for ticket in self.keys.remove(service, &key) {
                    self.outbox.promise(Effect::Fail { ticket, reason: reason.clone() });
                }
                entry
            }
            End::Unknown(_) => {
                let entry = self.persist(Entry::Unknown { service, key: key.clone(), hash });
                let keyed = Keyed { hash, entry, state: State::Unknown };
                for ticket in self.keys.put(service, key, keyed, Some(now + KEY_RETENTION)) {
                    self.outbox.promise(Effect::Fail { ticket, reason: Failure::Refused(Refuse::OutcomeUnknown) });
                }
                entry
            }
        };
        if let Some(gate) = self.gate(entry)
            && let Some(route) = self.routes.get_mut(&service)
        {
            route.hold(gate, sequence);
        }
    }

    /// A request that no host has seen under its new number: on disk again before it is sent.
    pub(super) fn push_again(&mut self, service: ServiceId, pending: Pending) {
        let Some(sequence) = self.routes.get(&service).map(|route| route.next()) else { return };
        let mut gate = None;
        if let Who::Key(key) = &pending.who
            && let Some(Keyed { hash, state: State::Pending { at, .. }, .. }) = self.keys.get(service, key)
        {
            let (hash, at, request) = (*hash, *at, pending.request.clone());
            let entry = self.persist(Entry::Keyed { service, key: key.clone(), hash, sequence, at, request });
            self.keys.renumbered(service, key, entry);
            gate = self.gate(entry);
        }
        if let Some(route) = self.routes.get_mut(&service) {
            route.push(pending.who, pending.request, pending.deadline, gate);
        }
    }

    /// Takes up what the journal left unresolved, the first time that the gateway knows what time it is.
    pub(super) fn take_up(&mut self, now: Now) {
        if !std::mem::take(&mut self.restarted) {
            return;
        }
        for (service, key, restored) in self.keys.start_clock(now.mono + KEY_RETENTION) {
            let Some(hash) = self.keys.get(service, &key).map(|keyed| keyed.hash) else { continue };
            let left = Micros(KEY_PENDING_MAX.0.saturating_sub(now.wall.since(restored.at).0));
            let usable = !restored.void && left > Micros::ZERO && self.config.bundle.anchor(service.registry).is_ok();
            if usable && let Some(route) = self.route(now.mono, service) {
                let (at, bytes) = (restored.at, restored.request.len());
                route.restore(restored.sequence, key.clone(), restored.request, now.mono + left);
                let state = State::Pending { at, bytes, waiting: std::collections::BTreeSet::new() };
                if let Some(entry) = self.keys.get(service, &key).map(|keyed| keyed.entry) {
                    self.keys.put(service, key, Keyed { hash, entry, state }, None);
                }
            } else {
                let entry = self.persist(Entry::Unknown { service, key: key.clone(), hash });
                let keyed = Keyed { hash, entry, state: State::Unknown };
                self.keys.put(service, key, keyed, Some(now.mono + KEY_RETENTION));
            }
        }
        self.ask(now.mono);
    }

    /// The journal's file has so many bytes: replaces it ([`Effect::Compact`]) if most of them count no more.
    pub fn compact_if(&mut self, journal_bytes: u64) {
        if self.compacted_at.is_some_and(|then| journal_bytes < then) {
            self.compacted_at = None;
        }
        let entries = self.keys.len() + self.routes.len() + self.remembered.len();
        let live = self.keys.bytes() as u64 + entries as u64 * ENTRY_OVERHEAD;
        let from = self.compacted_at.map_or(0, |then| then.saturating_add(COMPACT_BYTES_MIN));
        if journal_bytes < COMPACT_BYTES_MIN.max(live * COMPACT_FACTOR).max(from) {
            return;
        }
        self.compacted_at = Some(journal_bytes);
        let (keep, entry) = (self.keys.entries(), self.snapshot());
        self.outbox.persist(|seq| Effect::Compact { seq, keep, entry });
    }

    /// What the journal says, but for the keys.
    fn snapshot(&self) -> Entry {
        let routes = self.routes.iter().map(|(id, route)| (*id, route.reserved_below(), route.highest));
        let remembered = self.remembered.iter().map(|(id, (below, highest))| (*id, *below, *highest));
        Entry::Snapshot { incarnation: self.incarnation, services: remembered.chain(routes).collect() }
    }

    /// Whether the journal's disk is nearly full: then no request with a key is taken, and what is left serves for numbers.
    pub const fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Keys that are remembered, unresolved or not.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}
