//! One service as a gateway sees it: where it is, how its requests are numbered, which are unanswered.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    effect::{Effect, Entry, Ticket},
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

/// A request that has no response yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) request: Vec<u8>,
    hash: Digest,
    pub(super) deadline: Instant,
    /// Whether any host may have it under the present incarnation.
    pub(super) ever_sent: bool,
    /// When it is sent again on the present stream; `None` while it is not sent there.
    resend_at: Option<Instant>,
    resend_pause: Micros,
}

/// Invariants: `unsent` and `resends` partition the keys of `pending`; a number at or above `durable_below` was never
/// sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub(super) service: ServiceId,
    pub(super) placement: Option<Verified<Placement>>,
    /// When the placement expires, the stated skew included, by this machine's monotonic clock.
    pub(super) valid_until: Instant,
    pub(super) highest: Option<Epoch>,
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
    resends: BTreeSet<(Instant, u64)>,
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
            found: None,
            asking: Asking::default(),
            next: reserved_below.max(1),
            durable_below: reserved_below.max(1),
            reserving: None,
            pending: BTreeMap::new(),
            unsent: BTreeSet::new(),
            resends: BTreeSet::new(),
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

    /// Reserves numbers well before they run out.
    pub(super) fn reserve(&mut self, outbox: &mut Outbox<Effect>) {
        if self.reserving.is_none() && self.next + BLOCK / 2 >= self.durable_below {
            let below = self.next.max(self.durable_below) + BLOCK;
            let service = self.service;
            outbox.persist(|seq| Effect::Persist { seq, entry: Entry::Reserved { service, below } });
            self.reserving = Some((outbox.last_appended(), below));
        }
    }

    /// Journal entries up to `seq` are on disk. Whether that frees numbers.
    pub(super) fn handle_synced(&mut self, seq: u64) -> bool {
        match self.reserving {
            Some((entry, below)) if entry <= seq => {
                self.durable_below = below;
                self.reserving = None;
                true
            }
            _ => false,
        }
    }

    /// What a snapshot of the journal says of the numbering.
    pub(super) fn reserved_below(&self) -> u64 {
        self.reserving.map_or(self.durable_below, |(_, below)| below)
    }

    /// Numbers a request.
    pub(super) fn push(&mut self, ticket: Ticket, request: Vec<u8>, deadline: Instant) {
        let sequence = self.next;
        self.next += 1;
        let hash = request_hash(&request);
        let pending =
            Pending { ticket, request, hash, deadline, ever_sent: false, resend_at: None, resend_pause: RESEND_AFTER };
        self.pending.insert(sequence, pending);
        self.unsent.insert(sequence);
    }

    /// Takes a request out: answered, or given up.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.pending.remove(&sequence)?;
        self.unsent.remove(&sequence);
        if let Some(at) = pending.resend_at {
            self.resends.remove(&(at, sequence));
        }
        Some(pending)
    }

    /// Takes every request out, oldest first.
    pub(super) fn remove_all(&mut self) -> Vec<Pending> {
        self.unsent.clear();
        self.resends.clear();
        std::mem::take(&mut self.pending).into_values().collect()
    }

    /// Numbers start anew under another client identity: so do those of the requests given back.
    pub(super) fn renumber(&mut self) -> Vec<Pending> {
        self.next = 1;
        self.durable_below = 1;
        self.reserving = None;
        self.opened = false;
        self.acked_told = 0;
        self.remove_all()
    }

    /// This request must be sent again.
    pub(super) fn unsend(&mut self, sequence: u64) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
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
            self.unsent.insert(*sequence);
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

    /// All below this have been answered to the client, one way or the other.
    pub(super) fn acked_below(&self) -> u64 {
        self.pending.keys().next().copied().unwrap_or(self.next)
    }

    /// Sends what is not sent, Open first and then by number; only what is numbered durably, and nothing during a pause.
    /// To be called only while a stream to [`Route::host`] is open.
    pub(super) fn flush(&mut self, now: Instant, client: ClientId, outbox: &mut Outbox<Effect>) {
        let Some(host) = self.host(now) else { return };
        if self.backoff.until.is_some() || (self.opened && self.unsent.is_empty()) {
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
        let deadline = self.pending.values().next().map(|pending| pending.deadline);
        let resend = self.resends.first().map(|(at, _)| *at);
        // Just after the placement's last instant, unless its expiry is being asked about already.
        let expiry = self.placement.as_ref().map(|_| self.valid_until + Micros(1));
        let expiry = expiry.filter(|_| self.asking.due.is_none());
        [deadline, resend, expiry, self.backoff.until, self.asking.due].into_iter().flatten().min()
    }
}
