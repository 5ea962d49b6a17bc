//! When and where a service moves: pure, and every choice explained.
//!
//! [`Placer`] is the state kept for one service by the host that runs it: what its clients measured, how long the nearest
//! cloud has been staying the same (`dwell`), what moves have cost. [`Placer::decide`] weighs them by Sardis's rule
//! (`reference/latency.md`, "Migration"): move iff `(rtt_now − rtt_best) × E[remaining dwell | dwell so far] > C`.
//! Its answer is an [`Explanation`] that lists every candidate, for the machine and for people alike.

use crate::{
    ids::HostId,
    limits::RTT_FRESH,
    manifest::Resources,
    time::{Instant, Micros, Now},
};

mod change;
mod choose;
mod dwell;
mod explain;
mod placer;
mod refuge;
#[cfg(test)]
mod tests;

pub use change::Change;
pub use dwell::{DWELLS_COUNTED, PRIOR_SLOTS};
pub use explain::{Explanation, Row, RuledOut, Stay, Thousandths, Verdict};
pub use placer::{DOWNTIME_MAX, Decision, Memory, Placer};
pub use refuge::{Refuge, Stranded};

/// How eagerly a service moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// When the gain over the expected stay exceeds the cost of moving.
    #[default]
    Sardis,
    /// Whenever another cloud is nearer by more than the tie.
    Nearest,
    /// Not by itself.
    Never,
}

impl Policy {
    /// The word used in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sardis => "sardis",
            Self::Nearest => "nearest",
            Self::Never => "never",
        }
    }

    /// Reads [`Policy::name`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Sardis, Self::Nearest, Self::Never].into_iter().find(|policy| policy.name() == text)
    }
}

/// The knobs of placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlacementConfig {
    /// See [`Policy`].
    pub policy: Policy,
    /// The unit of the dwell priors ([`PRIOR_SLOTS`]), and the pause between two decisions.
    pub slot: Micros,
    /// Round trips that differ by less are equal.
    pub tie: Micros,
    /// What a second of downtime costs, ms·s: so many seconds of a round trip one millisecond shorter pay for it.
    pub downtime_weight_ms_s: u64,
    /// The downtime that a move is expected to have before any was measured.
    pub downtime_default: Micros,
    /// The share of the traffic that must have measured a host before it counts, ppm.
    pub coverage_ppm: u32,
    /// How long a host is left alone after a move to it failed; doubles with each failure in a row.
    pub failed_first: Micros,
    /// The longest such pause.
    pub failed_max: Micros,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            slot: Micros::from_secs(1),
            tie: crate::latency::RTT_TIE,
            downtime_weight_ms_s: 1000,
            downtime_default: Micros::from_millis(500),
            coverage_ppm: 900_000,
            failed_first: Micros::from_secs(10),
            failed_max: Micros::from_secs(300),
        }
    }
}

/// A host that a service might run on, as its advert and its owner's manifest have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The host.
    pub host: HostId,
    /// The provider's enrolled name.
    pub cloud: String,
    /// What is free there.
    pub free: Resources,
    /// Millionths of the mesh's unit of account, per core and hour.
    pub price_micros: u64,
    /// Whether the manifest permits it.
    pub permitted: bool,
    /// Whether it takes services at all.
    pub cordoned: bool,
}
