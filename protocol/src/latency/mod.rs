//! Round trips: how raw measurements become a figure to decide on, and network coordinates.
//!
//! [`RttFilter`] turns the pings of one host into one figure, [`Measurements`] keeps those of many; [`Vivaldi`] places this node in latency space, so that hosts
//! never pinged can be ranked. Figures and sources: `reference/latency.md`.

use serde::{Deserialize, Serialize};

use crate::time::Micros;

mod filter;
mod measured;
mod vivaldi;

pub use filter::RttFilter;
pub use measured::{Measured, Measurements};
pub use vivaldi::Vivaldi;

/// Two round trips that differ by less are equally good: below it, the jitter of an access link decides which is smaller.
pub const RTT_TIE: Micros = Micros::from_millis(3);
/// A longer round trip is no measurement of a path (Serf's `maxRTT`): it is left out.
pub const RTT_MAX: Micros = Micros::from_secs(10);

/// A position in latency space: 8 dimensions and a height, in microseconds (integers, so that a coordinate has one
/// encoding), with the estimated relative error in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Coordinate {
    /// Euclidean part, µs.
    pub position: [i64; 8],
    /// Height above it, µs: the access link.
    pub height: u64,
    /// Estimated relative error, ppm.
    pub error_ppm: u32,
}

impl Default for Coordinate {
    /// Where every node begins: the origin, at the least height and the greatest error.
    fn default() -> Self {
        Self { position: [0; 8], height: vivaldi::HEIGHT_MIN_US, error_ppm: vivaldi::ERROR_MAX_PPM }
    }
}

impl Coordinate {
    /// The estimated round trip between two nodes: distance in the plane plus both heights (Serf's `rawDistanceTo`).
    pub fn distance(&self, other: &Self) -> Micros {
        let square = |(a, b): (&i64, &i64)| {
            let gap = *a as f64 - *b as f64;
            gap * gap
        };
        let plane = self.position.iter().zip(&other.position).map(square).sum::<f64>().sqrt();
        // A float to integer cast saturates; coordinates of peers may be absurd.
        Micros((plane as u64).saturating_add(self.height).saturating_add(other.height))
    }

    /// Whether a node could honestly be there: no part is longer than [`RTT_MAX`] and the error is in Serf's bounds.
    pub fn is_plausible(&self) -> bool {
        self.position.iter().all(|axis| axis.unsigned_abs() <= RTT_MAX.0)
            && (vivaldi::HEIGHT_MIN_US..=RTT_MAX.0).contains(&self.height)
            && self.error_ppm <= vivaldi::ERROR_MAX_PPM
    }
}
