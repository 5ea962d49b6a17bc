//! What a host remembers of an attempt, for people: the steps with their times, and how it ended.

use serde::Serialize;

use crate::{
    ids::{Epoch, HostId, MigrationId, ServiceId},
    time::{Micros, Timestamp},
};

/// Which side of the attempt this host was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The service was here.
    Source,
    /// The service was to come here.
    Target,
}

impl Side {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// How an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Not decided yet.
    Running,
    /// The service moved.
    Moved,
    /// It did not, for this reason.
    Failed(String),
}

/// One attempt as this host saw it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trace {
    /// The attempt; unknown before 3.
    pub mig: Option<MigrationId>,
    /// The service.
    pub service: ServiceId,
    /// Its name.
    pub service_name: String,
    /// The epoch that it was to leave.
    pub epoch: Epoch,
    /// The other host.
    pub other: HostId,
    /// Which side this host was.
    pub side: Side,
    /// Why it was begun (source only).
    pub reason: String,
    /// (step 1–12, wall clock): sent or received, whichever this host did.
    pub steps: Vec<(u8, Timestamp)>,
    /// When the service stopped (source) or started (target).
    pub switched: Option<Timestamp>,
    /// From the freeze to the decision (source), by its monotonic clock.
    pub downtime: Option<Micros>,
    /// Bytes of state records.
    pub bytes: u64,
    /// How it ended.
    pub ending: Ending,
}

impl Trace {
    /// A trace that begins now.
    pub const fn new(
        service: ServiceId,
        service_name: String,
        epoch: Epoch,
        other: HostId,
        side: Side,
        reason: String,
    ) -> Self {
        Self {
            mig: None,
            service,
            service_name,
            epoch,
            other,
            side,
            reason,
            steps: Vec::new(),
            switched: None,
            downtime: None,
            bytes: 0,
            ending: Ending::Running,
        }
    }

    /// Notes that `step` happened; the first time counts.
    pub fn step(&mut self, step: u8, at: Timestamp) {
        if !self.steps.iter().any(|(known, _)| *known == step) {
            self.steps.push((step, at));
        }
    }
}

/// The name of a step of Algorithm 1.
pub const fn step_name(step: u8) -> &'static str {
    match step {
        1 => "advertisement",
        2 => "verify cloud",
        3 => "yes cloud",
        4 => "request",
        5 => "verify service",
        6 => "yes service",
        7 => "response",
        8 => "transfer",
        9 => "transfer ack",
        10 => "transfer complete",
        11 => "placement",
        12 => "released",
        _ => "unknown",
    }
}
