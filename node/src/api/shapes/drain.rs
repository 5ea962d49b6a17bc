//! The shapes of `wayfare drain`.

use serde::{Deserialize, Serialize};

/// `{timeout_s, stay}`, both optional.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainRequest {
    /// When to give up.
    pub timeout_s: u64,
    /// Do not stop the node when it is empty.
    pub stay: bool,
}

impl Default for DrainRequest {
    fn default() -> Self {
        Self { timeout_s: 300, stay: false }
    }
}

/// One line of a drain: `{event, …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DrainLine {
    /// The node takes no more services, and moves so many away.
    Started {
        /// How many are here.
        services: usize,
    },
    /// A service begins to move.
    Moving {
        /// Its name.
        service: String,
        /// Its id.
        id: String,
        /// Where to.
        to: String,
        /// Why there.
        reason: String,
    },
    /// A service has left.
    Moved {
        /// Its name.
        service: String,
        /// Its id.
        id: String,
        /// Where it is.
        to: String,
        /// Bytes of state.
        bytes: u64,
        /// From the freeze to the decision.
        downtime_ms: Option<f64>,
    },
    /// A move failed: another is tried.
    Refused {
        /// Its name.
        service: String,
        /// Its id.
        id: String,
        /// Where it did not go.
        to: String,
        /// Why not.
        reason: String,
    },
    /// A service cannot leave yet.
    Waits(StillHere),
    /// The last line.
    Ended(Drained),
}

/// `{service, id, reason, what_to_do}`: a service that has not left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillHere {
    /// Its name.
    pub service: String,
    /// Its id.
    pub id: String,
    /// What keeps it.
    pub reason: String,
    /// What to do about that.
    pub what_to_do: String,
}

/// `{drained, leaves, moved, seconds, why, left}`: how a drain ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    /// Whether the node is empty.
    pub drained: bool,
    /// Whether it stops now.
    pub leaves: bool,
    /// How many services have left.
    pub moved: usize,
    /// How long it took.
    pub seconds: f64,
    /// Why it ended, if not because the node is empty.
    pub why: Option<String>,
    /// What is still here.
    pub left: Vec<StillHere>,
}
