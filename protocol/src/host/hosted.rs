//! A service as one host has it: its placement, lease, clients and the attempt to move it, if any.

use std::collections::VecDeque;

use super::{
    effect::ImageId,
    orders::{Ordered, Standing},
    queue,
};
use crate::{
    gateway::messages::Call,
    ids::{ClientId, Digest, Epoch, HostId, MigrationIds, ServiceId},
    limits::{RETRY_FIRST, RETRY_MAX, renew_interval},
    manifest::Manifest,
    migration::{
        messages::{Placement, Renew},
        source::{Agreement, Source},
        trace::Trace,
    },
    placement::Placer,
    reject::{Guards, Rule},
    session::{Executed, Sessions},
    suite::Secret,
    time::{Instant, Micros, Timestamp},
    trust::{Signed, Verified},
};

/// A service and the epoch under which it is here: it may come back while an older stay is still being settled.
pub type Stay = (ServiceId, Epoch);

/// What the instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Run {
    /// The driver was told to start it.
    Starting,
    /// It takes requests, under the lease.
    Serving,
    /// It finishes a last request before the capture.
    Freezing,
    /// It is captured; requests wait.
    Frozen,
    /// The driver was told to let it go on.
    Resuming,
    /// The driver rebuilds it from disk; requests wait.
    Restoring,
    /// Its code is being replaced, or waits to be on disk; requests wait.
    Updating,
    /// Superseded without consent: kept, not served.
    Sealed,
    /// A restart lost its state, which was in memory only.
    Lost,
    /// The instance cannot run.
    Broken,
}

impl Run {
    /// Every word shown to people.
    pub const NAMES: [&str; 9] =
        ["starting", "serving", "frozen", "resuming", "restoring", "updating", "sealed", "lost", "broken"];

    /// The word shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Freezing | Self::Frozen => "frozen",
            Self::Resuming => "resuming",
            Self::Restoring => "restoring",
            Self::Updating => "updating",
            Self::Lost => "lost",
            Self::Sealed => "sealed",
            Self::Broken => "broken",
        }
    }
}

/// Pauses that double from [`RETRY_FIRST`] to [`RETRY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retry {
    /// When to send again.
    pub at: Instant,
    pause: Micros,
}

impl Retry {
    /// The first sending is still to come, now.
    pub fn at_once(now: Instant) -> Self {
        Self { at: now, pause: RETRY_FIRST }
    }

    /// The first repeat after the first pause from `now`.
    pub fn from(now: Instant) -> Self {
        Self { at: now + RETRY_FIRST, pause: RETRY_FIRST }
    }

    /// Sent again at `now`.
    pub fn again(&mut self, now: Instant) {
        self.pause = self.pause.times(2).min(RETRY_MAX);
        self.at = now + self.pause;
    }
}

/// A RENEW that is out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Renewal {
    /// As sent.
    pub signed: Signed<Renew>,
    /// The new lease counts from here.
    pub first_sent: Instant,
    /// The next repeat.
    pub retry: Retry,
}

/// How long the placement may be served, by this host's clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseClock {
    /// Serve before this, not after.
    pub until: Instant,
    /// When to ask for more.
    pub renew_at: Instant,
    /// What was asked.
    pub renewal: Option<Renewal>,
    /// Whether people were told that it ended.
    pub reported: bool,
}

impl LeaseClock {
    /// A lease that was asked for at `asked`.
    pub fn granted(asked: Instant, lease: Micros) -> Self {
        Self { until: asked + lease, renew_at: asked + renew_interval(lease), renewal: None, reported: false }
    }
}

/// A request that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// Whose.
    pub client: ClientId,
    /// Who speaks for the client.
    pub gateway: HostId,
    /// Its number.
    pub sequence: u64,
    /// Its hash.
    pub hash: Digest,
    /// The client's mark when it was admitted.
    pub acked_below: u64,
    /// An HTTP/1.1 message.
    pub request: Vec<u8>,
}

/// What of a service is on this host's disk (durability = log).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    /// What the log builds on; a new instance if `None`.
    pub image: Option<ImageId>,
    /// The last journal entry that the image covers.
    pub covered: u64,
    /// The last journal entry of the service's log.
    pub last: u64,
    /// About the bytes of the log behind the image.
    pub log_bytes: u64,
    /// At how many of them to take the next image.
    pub next_image_at: u64,
    /// The image that is being taken: up to which entry, and the log's bytes then.
    pub saving: Option<(u64, u64)>,
    /// While restoring: the requests that are executed again.
    pub replaying: Vec<Executed>,
}

impl Disk {
    /// Nothing but `image`, if there is one.
    pub const fn new(image: Option<ImageId>, next_image_at: u64) -> Self {
        Self { image, covered: 0, last: 0, log_bytes: 0, next_image_at, saving: None, replaying: Vec::new() }
    }
}

/// An attempt to move the service away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The protocol's side of it.
    pub source: Source,
    /// Hash of 2, to recognise a refusal.
    pub asked: Digest,
    /// What 7 agreed on, until the capture begins.
    pub agreement: Option<Agreement>,
    /// What people see.
    pub trace: Trace,
    /// Before consent: when to give up. After it: when to ask R.
    pub deadline: Instant,
    /// The highest record number that the target acknowledged.
    pub acked: u64,
    /// When RECLAIM was first sent, and its next repeat.
    pub reclaiming: Option<(Instant, Retry)>,
    /// When the service froze.
    pub frozen_at: Option<Instant>,
}

/// A service on this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hosted {
    /// The record.
    pub placement: Verified<Placement>,
    /// The owner's word.
    pub manifest: Verified<Manifest>,
    /// vkS's secret.
    pub secret: Secret,
    /// What the instance is doing.
    pub run: Run,
    /// Until when it may be served.
    pub lease: LeaseClock,
    /// Its clients.
    pub sessions: Sessions,
    /// Where it should be.
    pub placer: Placer,
    /// The request that the instance is working on; its bytes are kept only if they are to be logged.
    pub running: Option<Waiting>,
    /// Admitted requests that wait for their turn.
    pub queue: VecDeque<Waiting>,
    /// Whose request was the last to have its turn.
    pub served: Option<HostId>,
    /// Calls that met a frozen service: admitted if it thaws, sent again by their gateways if it moves.
    pub held: VecDeque<(HostId, Call)>,
    /// The attempt to move it.
    pub attempt: Option<Attempt>,
    /// The last counter of a 2.
    pub counter: u64,
    /// When it came here, or when this process took it up again.
    pub since: Timestamp,
    /// What of it is on disk; `None`: durability = memory.
    pub disk: Option<Disk>,
    /// Whether its owner has stopped it: it executes nothing.
    pub stopped: bool,
    /// The last order that was carried out.
    pub ordered: Ordered,
    /// The order that is to be carried out.
    pub order: Option<Standing>,
    /// When 7 left for the source, until the instance runs here: the downtime of this arrival, from above.
    pub arriving_since: Option<Instant>,
}

impl Hosted {
    /// Its key in the host's table.
    pub fn stay(&self) -> Stay {
        (self.placement.service, self.placement.epoch)
    }

    /// The identifiers of the attempt, from 3 on.
    pub fn attempt_ids(&self) -> Option<MigrationIds> {
        self.attempt.as_ref().and_then(|attempt| attempt.source.ids())
    }

    /// Whether a request of `len` bytes from `gateway`, one of so many, may wait here.
    pub fn has_room(&self, gateway: HostId, len: usize, gateways: usize) -> bool {
        let queued = self.queue.iter().map(|waiting| (waiting.gateway, waiting.request.len()));
        let held = self.held.iter().map(|(gateway, call)| (*gateway, call.request.len()));
        queue::has_room(queued.chain(held), gateway, len, gateways)
    }

    /// The next request to execute.
    pub fn next_in_turn(&mut self) -> Option<Waiting> {
        queue::next_in_turn(&mut self.queue, &mut self.served)
    }

    /// Whether the Registry's record names the manifest that is served. It follows an update, and no move begins before.
    pub fn is_confirmed(&self) -> bool {
        self.placement.manifest == self.manifest.hash()
    }

    /// Whether the lease is this host's to use: it was not released by consent.
    pub fn keeps_lease(&self) -> bool {
        !matches!(self.run, Run::Sealed | Run::Broken | Run::Lost)
            && !self.attempt.as_ref().is_some_and(|attempt| attempt.source.has_consented())
    }

    /// Whether a request may be executed or a response leave at `now`.
    pub fn may_serve<G: Guards>(&self, now: Instant) -> bool {
        self.run == Run::Serving && self.is_leased::<G>(now)
    }

    /// Whether the lease holds at `now`.
    pub fn is_leased<G: Guards>(&self, now: Instant) -> bool {
        now < self.lease.until || !G::keeps(Rule::LeaseChecked)
    }
}
