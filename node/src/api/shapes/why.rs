//! The shapes of `wayfare why` and `wayfare migrations --watch`.

use serde::{Deserialize, Serialize};
use wayfare_protocol::placement::{Change, Explanation};

use super::{Migration, Step};

/// `{service, id, cloud, host, state, cordoned, draining, since_us, now, changes, decisions, moves}`: why a service is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// Its name.
    pub service: String,
    /// Its id.
    pub id: String,
    /// This node's name.
    pub cloud: String,
    /// This node's id.
    pub host: String,
    /// As [`Service`](super::Service) has it.
    pub state: String,
    /// Whether this node takes no services.
    pub cordoned: bool,
    /// Whether every service is to leave this node.
    pub draining: bool,
    /// Since when it has been here, or since the node's start, if that is later.
    pub since_us: Option<u64>,
    /// What would be decided now.
    pub now: Explanation,
    /// For each candidate, what would move the service there.
    pub changes: Vec<Change>,
    /// The last decisions, oldest first; those in a row with the same verdict are one.
    pub decisions: Vec<Decided>,
    /// The last attempts to move it that this node took part in, oldest first.
    pub moves: Vec<Migration>,
}

/// `{first_us, last_us, times, explanation}`: decisions in a row with the same verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// When it was first decided so.
    pub first_us: u64,
    /// When it was last decided so.
    pub last_us: u64,
    /// How often.
    pub times: u32,
    /// The last of them, with its inputs; of the candidates, the nearest.
    pub explanation: Explanation,
}

/// What happened to a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Happening {
    /// It began.
    Started,
    /// A step was taken.
    Step,
    /// It is over, well or not.
    Ended,
}

/// `{at_us, event, step, migration}`: one line of `wayfare migrations --watch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationEvent {
    /// When.
    pub at_us: u64,
    /// What happened.
    pub event: Happening,
    /// The step that was taken.
    pub step: Option<Step>,
    /// The migration as it stood when this was told.
    pub migration: Migration,
}
