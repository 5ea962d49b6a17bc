//! One service as a gateway sees it: where it is, how its requests are numbered, which are unanswered.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    effect::{Effect, Entry, Ticket},
    keys::IdempotencyKey,
    messages::{Call, ClientFrame, Open, request_hash},
};
use crate::{
    ids::{ClientId, Digest, Epoch, HostId, ServiceId},
    limits::{RETRY_FIRST, RETRY_MAX},
    migration::messages::Placement,
    outbox::Outbox,
    time::{Instant, Micros},
    trust::Verified,
};

/// Numbers reserved in the journal at a time: one sync for so many requests. At least twice as many as can be pending.
pub(super) const BLOCK: u64 = 4096;
/// First and longest pause after a host said "not now".
const BACKOFF_FIRST: Micros = Micros::from_millis(50);
const BACKOFF_MAX: Micros = Micros::from_secs(2);
/// When a request that a connected host has not answered is sent again: a host that froze dropped it, and if it then
/// thaws, nobody says so. A duplicate costs nothing but its bytes.
const RESEND_AFTER: Micros = Micros::from_secs(2);
const RESEND_MAX: Micros = Micros::from_secs(16);

/// A pause that doubles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Backoff {
    /// When it ends, if one is on.
    pub(super) until: Option<Instant>,
    pause: Micros,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { until: None, pause: BACKOFF_FIRST }
    }
}

impl Backoff {
    fn start(&mut self, now: Instant) {
        if self.until.is_none() {
            self.until = Some(now + self.pause);
            self.pause = Micros(self.pause.times(2).0.min(BACKOFF_MAX.0));
        }
    }
}

/// When to ask the Registry, and how often again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    /// When to ask; `None`: there is nothing to ask.
    pub(super) due: Option<Instant>,
    not_before: Instant,
    pause: Micros,
}

impl Default for Asking {
    fn default() -> Self {
        Self { due: None, not_before: Instant::default(), pause: RETRY_FIRST }
    }
}

impl Asking {
    /// There is a question.
    pub(super) fn want(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(now.max(self.not_before));
        }
    }

    /// Whether to ask now; if so, the question stays until it is answered.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let ask = self.due.is_some_and(|due| due <= now);
        if ask {
            self.not_before = now + self.pause;
            self.due = Some(self.not_before);
            self.pause = Micros(self.pause.times(2).0.min(RETRY_MAX.0));
        }
        ask
    }

    /// An answer has come.
    pub(super) const fn answered(&mut self) {
        self.due = None;
    }

    /// All is well: the next question need not wait long.
    pub(super) const fn reset(&mut self) {
        self.pause = RETRY_FIRST;
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// One client.
    Client(Ticket),
    /// Whoever has this key, be it nobody at present.
    Key(IdempotencyKey),
}

/// A request that has no response yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub(super) who: Who,
    pub(super) request: Vec<u8>,
    pub(super) hash: Digest,
    pub(super) deadline: Instant,
    /// Whether any host may have it under the present incarnation.
    pub(super) ever_sent: bool,
    /// Whether it was sent before it was last sent: then a host that refuses it need not know whether it was executed.
    pub(super) earlier: bool,
    /// Whether it is from the journal: how long ago it was sent is not known.
    pub(super) restored: bool,
    /// The journal entry that must be on disk before it is sent.
    gate: Option<u64>,
    /// When it is sent again on the present stream; `None` while it is not sent there.
    resend_at: Option<Instant>,
    resend_pause: Micros,
}

/// Invariants: `unsent`, `gated` and `resends` partition the keys of `pending`, and `deadlines` has each of them; a number
/// at or above `durable_below` was never sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub(super) service: ServiceId,
    pub(super) placement: Option<Verified<Placement>>,
    /// When the placement expires, the stated skew included, by this machine's monotonic clock.
    pub(super) valid_until: Instant,
    pub(super) highest: Option<Epoch>,
    /// The journal entry that says so, until it is on disk.
    pub(super) highest_gate: Option<u64>,
    /// What the Registry said of the host of record.
    pub(super) found: Option<(HostId, Vec<String>)>,
    pub(super) asking: Asking,

    /// The next request's number, from 1: 0 in a NotExecuted means the Open.
    next: u64,
    durable_below: u64,
    /// The reservation on its way to disk: journal number and bound.
    reserving: Option<(u64, u64)>,

    pub(super) pending: BTreeMap<u64, Pending>,
    unsent: BTreeSet<u64>,
    /// Those that wait for a journal entry.
    gated: BTreeSet<(u64, u64)>,
    resends: BTreeSet<(Instant, u64)>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Numbers whose outcome is in a journal entry that is not on disk yet: the host must not forget them.
    held: BTreeSet<(u64, u64)>,
    /// Whether Open was sent on the present stream to the present host.
    pub(super) opened: bool,
    pub(super) backoff: Backoff,
    /// The mark that the present host was told last.
    pub(super) acked_told: u64,
}

impl Route {
    /// A service whose numbers below `reserved_below` may have been used before a restart.
    pub(super) fn new(service: ServiceId, reserved_below: u64, highest: Option<Epoch>) -> Self {
        Self {
            service,
            placement: None,
            valid_until: Instant::default(),
            highest,
            highest_gate: None,
            found: None,
            asking: Asking::default(),
            next: reserved_below.max(1),
            durable_below: reserved_below.max(1),
            reserving: None,
            pending: BTreeMap::new(),
            unsent: BTreeSet::new(),
            gated: BTreeSet::new(),
            resends: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            held: BTreeSet::new(),
            opened: false,
            backoff: Backoff::default(),
            acked_told: 0,
        }
    }

    /// The host to talk to: that of the newest placement, while it is unexpired.
    pub(super) fn host(&self, now: Instant) -> Option<HostId> {
        self.placement.as_ref().filter(|_| now <= self.valid_until).map(|placement| placement.host)
    }

    /// The host of the newest placement, expired or not.
    pub(super) fn last_host(&self) -> Option<HostId> {
        self.placement.as_ref().map(|placement| placement.host)
    }

    /// Reserves numbers well before they run out; they may be used once the entry is on disk, if it is a `gate`.
    pub(super) fn reserve(&mut self, outbox: &mut Outbox<Effect>, gate: bool) {
        if self.reserving.is_none() && self.next + BLOCK / 2 >= self.durable_below {
            let below = self.next.max(self.durable_below) + BLOCK;
            let service = self.service;
            outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Reserved { service, below } });
            if gate {
                self.reserving = Some((outbox.last_appended(), below));
            } else {
                self.durable_below = below;
            }
        }
    }

    /// Journal entries up to `seq` are on disk. Whether that lets anything be sent.
    pub(super) fn handle_synced(&mut self, seq: u64) -> bool {
        let mut freed = self.highest_gate.take_if(|entry| *entry <= seq).is_some();
        if let Some((_, below)) = self.reserving.take_if(|(entry, _)| *entry <= seq) {
            self.durable_below = below;
            freed = true;
        }
        while let Some((entry, sequence)) = self.gated.first().copied()
            && entry <= seq
        {
            self.gated.pop_first();
            self.unsent.insert(sequence);
            if let Some(pending) = self.pending.get_mut(&sequence) {
                pending.gate = None;
            }
            freed = true;
        }
        while self.held.first().is_some_and(|(entry, _)| *entry <= seq) {
            self.held.pop_first();
        }
        freed
    }

    /// The number of the next request.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// What a snapshot of the journal says of the numbering.
    pub(super) fn reserved_below(&self) -> u64 {
        self.reserving.map_or(self.durable_below, |(_, below)| below)
    }

    /// Numbers a request; it is not sent before journal entry `gate` is on disk.
    pub(super) fn push(&mut self, who: Who, request: Vec<u8>, deadline: Instant, gate: Option<u64>) {
        let sequence = self.next;
        self.next += 1;
        self.insert(sequence, who, request, deadline, gate);
    }

    /// Takes up a request that the journal left unresolved, under its old number: some host may have executed it.
    pub(super) fn restore(&mut self, sequence: u64, key: IdempotencyKey, request: Vec<u8>, deadline: Instant) {
        self.insert(sequence, Who::Key(key), request, deadline, None);
        if let Some(pending) = self.pending.get_mut(&sequence) {
            (pending.ever_sent, pending.earlier, pending.restored) = (true, true, true);
        }
    }

    fn insert(&mut self, sequence: u64, who: Who, request: Vec<u8>, deadline: Instant, gate: Option<u64>) {
        let hash = request_hash(&request);
        let (ever_sent, earlier, restored) = (false, false, false);
        let (resend_at, resend_pause) = (None, RESEND_AFTER);
        let pending =
            Pending { who, request, hash, deadline, ever_sent, earlier, restored, gate, resend_at, resend_pause };
        self.pending.insert(sequence, pending);
        self.deadlines.insert((deadline, sequence));
        match gate {
            Some(entry) => self.gated.insert((entry, sequence)),
            None => self.unsent.insert(sequence),
        };
    }

    /// The outcome of a request is in journal entry `gate`: until that is on disk, the host must keep its response.
    pub(super) fn hold(&mut self, gate: u64, sequence: u64) {
        self.held.insert((gate, sequence));
    }

    /// Under another incarnation the host's responses to the old numbers are of no use.
    pub(super) fn forget_held(&mut self) {
        self.held.clear();
    }

    /// Takes out a request that was held for too long.
    pub(super) fn remove_late(&mut self, now: Instant) -> Option<(u64, Pending)> {
        let (_, sequence) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now)?;
        self.remove(sequence).map(|pending| (sequence, pending))
    }

    /// Takes a request out: answered, or given up.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.pending.remove(&sequence)?;
        self.unsent.remove(&sequence);
        self.deadlines.remove(&(pending.deadline, sequence));
        if let Some(entry) = pending.gate {
            self.gated.remove(&(entry, sequence));
        }
        if let Some(at) = pending.resend_at {
            self.resends.remove(&(at, sequence));
        }
        Some(pending)
    }

    /// Takes every request out, oldest first.
    pub(super) fn remove_all(&mut self) -> BTreeMap<u64, Pending> {
        self.unsent.clear();
        self.gated.clear();
        self.resends.clear();
        self.deadlines.clear();
        std::mem::take(&mut self.pending)
    }

    /// Numbers start anew under another client identity: so do those of the requests given back.
    pub(super) fn renumber(&mut self) -> BTreeMap<u64, Pending> {
        self.next = 1;
        self.durable_below = 1;
        self.reserving = None;
        self.opened = false;
        self.acked_told = 0;
        self.remove_all()
    }

    /// The key of a request that was sent before it was last sent: another host, or another session, may have executed it.
    pub(super) fn may_have_run(&self, sequence: u64) -> Option<&IdempotencyKey> {
        match self.pending.get(&sequence) {
            Some(Pending { who: Who::Key(key), earlier: true, .. }) => Some(key),
            Some(_) | None => None,
        }
    }

    /// This request must be sent again.
    pub(super) fn unsend(&mut self, sequence: u64) {
        // Whatever a host says: not before it is on disk.
        if let Some(pending) = self.pending.get_mut(&sequence).filter(|pending| pending.gate.is_none()) {
            if let Some(at) = pending.resend_at.take() {
                self.resends.remove(&(at, sequence));
            }
            self.unsent.insert(sequence);
        }
    }

    /// The stream or the host is another: Open and every unanswered request must be sent again, in order.
    pub(super) fn restart(&mut self) {
        self.opened = false;
        self.acked_told = 0;
        self.resends.clear();
        for (sequence, pending) in &mut self.pending {
            pending.resend_at = None;
            pending.resend_pause = RESEND_AFTER;
            pending.earlier |= pending.ever_sent;
            if pending.gate.is_none() {
                self.unsent.insert(*sequence);
            }
        }
    }

    /// The host asked for patience, or is not the right one.
    pub(super) fn back_off(&mut self, now: Instant) {
        self.backoff.start(now);
    }

    /// The host serves: pauses begin short again.
    pub(super) fn progress(&mut self) {
        self.backoff.pause = BACKOFF_FIRST;
        self.asking.reset();
    }

    /// Takes up what is due: the end of a pause, requests that got no answer for long.
    pub(super) fn wake(&mut self, now: Instant) {
        if self.backoff.until.is_some_and(|until| until <= now) {
            self.backoff.until = None;
        }
        while let Some((at, sequence)) = self.resends.first().copied()
            && at <= now
        {
            self.unsend(sequence);
        }
    }

    /// All below this have been answered to the client, one way or the other, or their answers are on disk.
    pub(super) fn acked_below(&self) -> u64 {
        let pending = self.pending.keys().next().copied().unwrap_or(self.next);
        self.held.iter().map(|(_, sequence)| *sequence).min().map_or(pending, |held| held.min(pending))
    }

    /// Sends what is not sent, Open first and then by number; only what is numbered durably, and nothing during a pause
    /// or before the epoch is on disk.
    /// To be called only while a stream to [`Route::host`] is open.
    pub(super) fn flush(&mut self, now: Instant, client: ClientId, outbox: &mut Outbox<Effect>) {
        let Some(host) = self.host(now) else { return };
        let paused = self.backoff.until.is_some() || self.highest_gate.is_some();
        if paused || (self.opened && self.unsent.is_empty()) {
            return;
        }
        let service = self.service;
        if !self.opened {
            self.opened = true;
            outbox.now(Effect::Send { host, frame: ClientFrame::Open(Open { service, client }) });
        }
        let acked_below = self.acked_below();
        while let Some(sequence) = self.unsent.first().copied()
            && sequence < self.durable_below
        {
            self.unsent.remove(&sequence);
            let Some(pending) = self.pending.get_mut(&sequence) else { continue };
            let at = now + pending.resend_pause;
            pending.resend_pause = Micros(pending.resend_pause.times(2).0.min(RESEND_MAX.0));
            pending.resend_at = Some(at);
            pending.earlier |= pending.ever_sent;
            pending.ever_sent = true;
            self.resends.insert((at, sequence));
            self.acked_told = acked_below;
            let (hash, request) = (pending.hash, pending.request.clone());
            let call = Call { service, client, sequence, hash, acked_below, request };
            outbox.now(Effect::Send { host, frame: ClientFrame::Call(call) });
        }
    }

    /// When this route next needs attention.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        let resend = self.resends.first().map(|(at, _)| *at);
        // Just after the placement's last instant, unless its expiry is being asked about already.
        let expiry = self.placement.as_ref().map(|_| self.valid_until + Micros(1));
        let expiry = expiry.filter(|_| self.asking.due.is_none());
        [deadline, resend, expiry, self.backoff.until, self.asking.due].into_iter().flatten().min()
    }
}
