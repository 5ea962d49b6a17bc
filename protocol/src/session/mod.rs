//! The client table of one service: each request is executed once and always answered with the same bytes (PROTOCOL 5).
//!
//! [`Sessions`] is part of the service's state: it is captured after the freeze, in the last record, and goes where the
//! service goes. What is *running* is not: a request that was admitted but not completed when the table was captured has
//! not been executed, and its gateway sends it again. `capture` has the bytes.
//!
//! A host's path for one Call: [`Sessions::admit`] when it arrives; [`Sessions::begin`] just before the guest runs it;
//! [`Sessions::complete`] with the response, in the same step as the guest's effects become part of the state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    ids::{ClientId, Digest, HostId},
    limits::{KEPT_BYTES_MAX, KEPT_RESPONSES_MAX, REQUEST_BYTES_MAX, SESSIONS_MAX},
    reject::{Guards, Reject, Rule},
    time::Micros,
};

mod capture;
#[cfg(test)]
mod tests;

/// Evicted clients that a table remembers. At the limit, the one evicted first is forgotten; see [`Sessions::sweep`].
pub const TOMBSTONES_MAX: usize = 4096;
/// Bytes of kept responses in one table, all sessions together. At the limit, whose gateway holds more than its share (an
/// equal part of this for each gateway with a session) is busy; the others go on, up to [`TABLE_BYTES_SLACK`] more.
pub const TABLE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How far those who hold no more than their share may take a table beyond [`TABLE_BYTES_MAX`]. From there on, the gateway
/// that holds most loses its oldest responses instead; see [`Sessions::begin`].
pub const TABLE_BYTES_SLACK: usize = 16 * 1024 * 1024;
/// What a kept response counts beside its bytes: its number, hash and lengths, as captured.
pub const KEPT_OVERHEAD: usize = 64;
/// What a table holds at most, as [`Sessions::kept_bytes`] counts: the response that runs when the slack is used up comes
/// on top. Captured, it is less than a MiB longer (sessions and tombstones, of fixed size), which a host's limit for what
/// travels beside the memory, 96 MiB, must exceed.
pub const TABLE_BYTES_HARD: usize = TABLE_BYTES_MAX + TABLE_BYTES_SLACK + KEPT_OVERHEAD + REQUEST_BYTES_MAX;
/// Sessions of one gateway. It uses one at a time, another after it lost its state. At the limit, the oldest that runs
/// nothing is evicted.
pub const GATEWAY_SESSIONS_MAX: usize = 8;
/// How often a host calls [`Sessions::sweep`]: a session that was not used for one to two of these is evicted.
pub const SESSION_SWEEP: Micros = Micros::from_secs(3600);

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Admit {
    /// New: execute it, then call [`Sessions::complete`].
    Execute,
    /// It was executed: this is the response, as it was sent then.
    Replay(Vec<u8>),
    /// It runs, or waits to: answer this duplicate together with the first.
    Join,
    /// Not admitted: the client must acknowledge responses first, then send it again.
    Busy,
}

/// A request that was executed, but for its bytes: what the table needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Executed {
    /// Whose.
    pub client: ClientId,
    /// Who spoke for the client.
    pub gateway: HostId,
    /// Its number.
    pub sequence: u64,
    /// Its hash.
    pub hash: Digest,
    /// The client's mark when it was admitted.
    pub acked_below: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kept {
    hash: Digest,
    response: Vec<u8>,
}

impl Kept {
    const fn cost(&self) -> usize {
        KEPT_OVERHEAD + self.response.len()
    }
}

/// Invariants: every key of `kept` is at least `acked_below` and below `u64::MAX`; `kept` and `running` have no key in common;
/// `kept_bytes` is the sum of the responses' costs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Session {
    /// Who speaks for the client.
    gateway: HostId,
    /// Orders the sessions by when they were opened.
    serial: u64,
    acked_below: u64,
    kept: BTreeMap<u64, Kept>,
    kept_bytes: usize,
    /// Admitted, not completed; not captured.
    running: BTreeMap<u64, Digest>,
    /// Used since the last sweep; not captured.
    used: bool,
    /// Requests completed since they were last asked for; not captured.
    completed: u32,
}

impl Session {
    /// A new session counts as used.
    const fn new(gateway: HostId, serial: u64) -> Self {
        Self {
            gateway,
            serial,
            acked_below: 0,
            kept: BTreeMap::new(),
            kept_bytes: 0,
            running: BTreeMap::new(),
            used: true,
            completed: 0,
        }
    }

    const fn is_full(&self) -> bool {
        self.kept_bytes >= KEPT_BYTES_MAX
    }

    /// Forgets the responses that the client has acknowledged; returns how many bytes that freed.
    fn acknowledge(&mut self, below: u64) -> usize {
        let before = self.kept_bytes;
        self.acked_below = self.acked_below.max(below);
        while let Some(entry) = self.kept.first_entry()
            && *entry.key() < self.acked_below
        {
            self.kept_bytes -= entry.remove().cost();
        }
        before - self.kept_bytes
    }
}

/// The client table of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sessions {
    open: BTreeMap<ClientId, Session>,
    evicted: BTreeSet<ClientId>,
    /// The members of `evicted`, first evicted first.
    evictions: VecDeque<ClientId>,
    /// The sum over `open`.
    kept_bytes: usize,
}

impl Sessions {
    /// Opens a session for `client`, for whom `gateway` speaks. Opening an open one changes nothing but that it counts as
    /// used. One beyond [`GATEWAY_SESSIONS_MAX`] evicts the oldest of the same gateway that runs nothing.
    ///
    /// # Errors
    /// Nothing changed: [`Reject::Finished`] if the client's session was evicted: it must take a new incarnation, or a
    /// request of its old one might run twice. [`Reject::Full`] at [`SESSIONS_MAX`], or if each of the gateway's sessions
    /// runs something.
    pub fn open(&mut self, client: ClientId, gateway: HostId) -> Result<(), Reject> {
        if let Some(session) = self.open.get_mut(&client) {
            session.used = true;
            return Ok(());
        }
        if self.evicted.contains(&client) {
            return Err(Reject::Finished);
        }
        let own = || self.open.iter().filter(|(_, session)| session.gateway == gateway);
        if own().count() >= GATEWAY_SESSIONS_MAX {
            let idle = own().filter(|(_, session)| session.running.is_empty());
            let oldest = idle.min_by_key(|(client, session)| (session.serial, **client)).map(|(client, _)| *client);
            self.evict(oldest.ok_or(Reject::Full)?);
        } else if self.open.len() >= SESSIONS_MAX {
            return Err(Reject::Full);
        }
        let last = self.open.values().map(|session| session.serial).max().unwrap_or(0);
        self.open.insert(client, Session::new(gateway, last.saturating_add(1)));
        Ok(())
    }

    /// What each gateway holds. Only asked of a full table: it looks at every session.
    fn holdings(&self) -> BTreeMap<HostId, usize> {
        let mut holdings = BTreeMap::new();
        for session in self.open.values() {
            *holdings.entry(session.gateway).or_insert(0) += session.kept_bytes;
        }
        holdings
    }

    /// Whether the table is full and the client's gateway holds more than its share.
    fn is_over_share(&self, client: ClientId) -> bool {
        if self.kept_bytes < TABLE_BYTES_MAX {
            return false;
        }
        let holdings = self.holdings();
        let held = self.open.get(&client).and_then(|session| holdings.get(&session.gateway));
        held.is_some_and(|held| *held > TABLE_BYTES_MAX / holdings.len().max(1))
    }

    /// When the slack is used up: forgets the oldest responses of whoever holds most, until there is some again.
    fn make_room(&mut self) {
        let limit = TABLE_BYTES_MAX + TABLE_BYTES_SLACK;
        while self.kept_bytes >= limit {
            let most = self.holdings().into_iter().max_by_key(|(_, held)| *held).map(|(gateway, _)| gateway);
            let own = self.open.values_mut().filter(|session| Some(session.gateway) == most);
            let Some(session) = own.max_by_key(|session| session.kept_bytes) else { return };
            if session.kept.is_empty() {
                return;
            }
            // All that is needed from one session, so that many small responses do not mean as many searches.
            while self.kept_bytes >= limit
                && let Some(oldest) = session.kept.keys().next().copied()
            {
                self.kept_bytes -= session.acknowledge(oldest.saturating_add(1));
            }
        }
    }

    /// Decides what happens to request `sequence` with this hash, and forgets what `acked_below` acknowledges.
    ///
    /// # Errors
    /// Nothing changed: [`Reject::NoSession`]; [`Reject::BelowAcked`] if the number is below the mark, this call's own
    /// included, or is the last there is, above which no mark can rise; [`Reject::OtherRequest`] if the number was used
    /// for another request.
    pub fn admit<G: Guards>(
        &mut self,
        client: ClientId,
        sequence: u64,
        hash: Digest,
        acked_below: u64,
    ) -> Result<Admit, Reject> {
        let session = self.open.get_mut(&client).ok_or(Reject::NoSession)?;
        let is_acked = sequence < session.acked_below.max(acked_below) && G::keeps(Rule::RefuseAcked);
        if is_acked || sequence == u64::MAX {
            return Err(Reject::BelowAcked);
        }
        let known = session.kept.get(&sequence).map(|kept| kept.hash);
        if known.or(session.running.get(&sequence).copied()).is_some_and(|known| known != hash) {
            return Err(Reject::OtherRequest);
        }
        session.used = true;
        self.kept_bytes -= session.acknowledge(acked_below);
        if let Some(kept) = session.kept.get(&sequence).filter(|_| G::keeps(Rule::Deduplicate)) {
            return Ok(Admit::Replay(kept.response.clone()));
        }
        if session.running.contains_key(&sequence) {
            return Ok(Admit::Join);
        }
        if session.kept.len() + session.running.len() >= KEPT_RESPONSES_MAX
            || session.is_full()
            || self.is_over_share(client)
        {
            return Ok(Admit::Busy);
        }
        if let Some(session) = self.open.get_mut(&client) {
            session.running.insert(sequence, hash);
        }
        Ok(Admit::Execute)
    }

    /// Asks, just before the guest runs an admitted request, whether there is room for its response. So no matter how many
    /// requests wait, the caps are exceeded by one response at most.
    ///
    /// A table that is full for those who hold more than their share has [`TABLE_BYTES_SLACK`] for the others. When that is
    /// used up too, the gateway that holds most (more than its share, then) loses its oldest responses, as if it had
    /// acknowledged them: none of them is executed again, but neither is it answered again.
    ///
    /// # Errors
    /// [`Reject::Full`]: the request must not run, it is no longer admitted, and its gateway is told so.
    /// [`Reject::UnexpectedMessage`] if it was not admitted.
    pub fn begin(&mut self, client: ClientId, sequence: u64) -> Result<(), Reject> {
        let session = self.open.get_mut(&client).ok_or(Reject::UnexpectedMessage)?;
        if !session.running.contains_key(&sequence) {
            return Err(Reject::UnexpectedMessage);
        }
        if session.is_full() || self.is_over_share(client) {
            self.forget(client, sequence);
            return Err(Reject::Full);
        }
        self.make_room();
        Ok(())
    }

    /// The client has the responses below `below`: they are forgotten, and their requests refused. Its gateway says so
    /// though it has nothing to ask for.
    pub fn acknowledge(&mut self, client: ClientId, below: u64) {
        if let Some(session) = self.open.get_mut(&client) {
            session.used = true;
            self.kept_bytes -= session.acknowledge(below);
        }
    }

    /// Requests of `client` completed here since this was last asked: its weight, as the host itself saw it.
    pub fn take_completed(&mut self, client: ClientId) -> u32 {
        self.open.get_mut(&client).map_or(0, |session| std::mem::take(&mut session.completed))
    }

    /// Keeps the response of an executed request, unless the client acknowledged (gave up) its number meanwhile.
    ///
    /// # Errors
    /// Nothing changed: [`Reject::UnexpectedMessage`] if it was not admitted; [`Reject::FrameTooLarge`] beyond
    /// [`REQUEST_BYTES_MAX`]: the host turns such a response into an error response first.
    pub fn complete(&mut self, client: ClientId, sequence: u64, response: Vec<u8>) -> Result<(), Reject> {
        if response.len() > REQUEST_BYTES_MAX {
            return Err(Reject::FrameTooLarge);
        }
        let session = self.open.get_mut(&client).ok_or(Reject::UnexpectedMessage)?;
        let hash = session.running.remove(&sequence).ok_or(Reject::UnexpectedMessage)?;
        session.completed = session.completed.saturating_add(1);
        if sequence >= session.acked_below {
            let kept = Kept { hash, response };
            session.kept_bytes += kept.cost();
            self.kept_bytes += kept.cost();
            session.kept.insert(sequence, kept);
        }
        Ok(())
    }

    /// Takes up a request that was executed before a restart, with the response that it led to: its session is opened if it
    /// is not, and its gateway's oldest responses make room, as they did then.
    pub fn replay(&mut self, executed: Executed, response: Vec<u8>) {
        let Executed { client, gateway, sequence, hash, acked_below } = executed;
        let last = self.open.values().map(|session| session.serial).max().unwrap_or(0);
        self.open.entry(client).or_insert_with(|| Session::new(gateway, last.saturating_add(1)));
        self.acknowledge(client, acked_below);
        self.make_room();
        let Some(session) = self.open.get_mut(&client).filter(|session| sequence >= session.acked_below) else {
            return;
        };
        let kept = Kept { hash, response };
        let (cost, before) = (kept.cost(), session.kept.insert(sequence, kept).map_or(0, |before| before.cost()));
        session.kept_bytes += cost - before.min(cost);
        self.kept_bytes += cost - before.min(cost);
    }

    /// Un-admits one request that did not run.
    pub fn forget(&mut self, client: ClientId, sequence: u64) {
        if let Some(session) = self.open.get_mut(&client) {
            session.running.remove(&sequence);
        }
    }

    /// Un-admits every request that did not run: on a freeze that will not thaw, or when a restart lost the queue. Their
    /// gateways send them again.
    pub fn forget_running(&mut self) {
        for session in self.open.values_mut() {
            session.running.clear();
        }
    }

    /// Marks a session as used: its gateway is there, though it sends no requests.
    pub fn touch(&mut self, client: ClientId) {
        if let Some(session) = self.open.get_mut(&client) {
            session.used = true;
        }
    }

    /// Evicts the sessions that were not used since the last sweep and run nothing; returns them. Each leaves a tombstone.
    /// A tombstone that runs out early, because some gateway opens one session after the other, harms only that gateway:
    /// what was swept has executed nothing for a [`SESSION_SWEEP`], far beyond
    /// [`KEY_PENDING_MAX`](crate::gateway::keys::KEY_PENDING_MAX), after which no gateway sends a request again.
    pub fn sweep(&mut self) -> Vec<ClientId> {
        let idle: Vec<ClientId> = self
            .open
            .iter()
            .filter(|(_, session)| !session.used && session.running.is_empty())
            .map(|(client, _)| *client)
            .collect();
        for client in &idle {
            self.evict(*client);
        }
        for session in self.open.values_mut() {
            session.used = false;
        }
        idle
    }

    fn evict(&mut self, client: ClientId) {
        let Some(session) = self.open.remove(&client) else { return };
        self.kept_bytes -= session.kept_bytes;
        self.bury(client);
    }

    fn bury(&mut self, client: ClientId) {
        while self.evictions.len() >= TOMBSTONES_MAX {
            if let Some(oldest) = self.evictions.pop_front() {
                self.evicted.remove(&oldest);
            }
        }
        if self.evicted.insert(client) {
            self.evictions.push_back(client);
        }
    }

    /// Whether `client` has a session.
    pub fn is_open(&self, client: ClientId) -> bool {
        self.open.contains_key(&client)
    }

    /// Who has a session.
    pub fn clients(&self) -> BTreeSet<ClientId> {
        self.open.keys().copied().collect()
    }

    /// Open sessions.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Requests admitted and not completed.
    pub fn running(&self) -> usize {
        self.open.values().map(|session| session.running.len()).sum()
    }

    /// Bytes of kept responses, with [`KEPT_OVERHEAD`] for each.
    pub const fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }
}
