//! What the Registry knows of how clouds behave: T_B − T_A, T_comp − T_B, failures (PROTOCOL 9, last paragraph).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::records::{Record, Table};
use crate::{ids::CloudId, time::Micros, wire::Wire};

/// Each power of two is cut into this many buckets: percentiles are exact to about 3 %.
const SUB_BUCKETS: u64 = 16;
/// Two clocks' figures for one migration disagree when they differ by more than this and by more than half the greater.
const TOLERANCE: Micros = Micros::from_millis(500);
/// A cloud is flagged when at least one in this many of its migrations has figures that disagree.
const FLAG_ONE_IN: u64 = 4;

/// How a duration is distributed: count, sum and a histogram of at most about a thousand buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Distribution {
    count: u64,
    sum_us: u64,
    buckets: BTreeMap<u16, u64>,
}

/// Log-linear: exact below [`SUB_BUCKETS`], then sixteen buckets for each power of two.
fn bucket(value: u64) -> u16 {
    if value < SUB_BUCKETS {
        return value as u16;
    }
    let exponent = u64::from(value.ilog2());
    let shift = exponent - u64::from(SUB_BUCKETS.ilog2());
    ((shift + 1) * SUB_BUCKETS + ((value >> shift) - SUB_BUCKETS)) as u16
}

/// The middle of a bucket.
fn representative(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < SUB_BUCKETS {
        return bucket;
    }
    let shift = (bucket / SUB_BUCKETS - 1).min(59);
    let low = (SUB_BUCKETS + bucket % SUB_BUCKETS) << shift;
    low + ((1 << shift) >> 1)
}

impl Distribution {
    /// Adds one.
    pub fn record(&mut self, duration: Micros) {
        self.count = self.count.saturating_add(1);
        self.sum_us = self.sum_us.saturating_add(duration.0);
        let count = self.buckets.entry(bucket(duration.0)).or_default();
        *count = count.saturating_add(1);
    }

    /// How many there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The arithmetic mean; `None` without any.
    pub fn mean(&self) -> Option<Micros> {
        self.sum_us.checked_div(self.count).map(Micros)
    }

    /// The duration that `percent` of them do not exceed, to about 3 %; `None` without any.
    pub fn percentile(&self, percent: u8) -> Option<Micros> {
        let rank = self.count.saturating_mul(u64::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0_u64;
        self.buckets
            .iter()
            .find(|(_, count)| {
                seen = seen.saturating_add(**count);
                seen >= rank
            })
            .map(|(bucket, _)| Micros(representative(*bucket)))
    }
}

/// One cloud's record as a target of migrations. Key: [`CloudId`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CloudStats {
    /// The provider.
    pub cloud: CloudId,
    /// Its enrolled name.
    pub name: String,
    /// T_B − T_A, from 10.
    pub response: Distribution,
    /// T_comp − T_B, from 10.
    pub transfer: Distribution,
    /// The first as the sources measured it, each by its own clock, from 12.
    pub response_by_source: Distribution,
    /// The second as the sources measured it.
    pub transfer_by_source: Distribution,
    /// Migrations to this cloud that ended without a placement there.
    pub failures: u64,
    /// Migrations whose two sets of figures disagree.
    pub disagreements: u64,
}

impl Wire for CloudStats {
    const LIMIT: usize = 64 * 1024;
}

impl Record for CloudStats {
    const TABLE: Table = Table::Stats;
    type Key = CloudId;

    fn key(&self) -> CloudId {
        self.cloud
    }
}

fn disagree(one: Micros, other: Micros) -> bool {
    let apart = Micros(one.0.abs_diff(other.0));
    apart > TOLERANCE && apart.0 > one.0.max(other.0) / 2
}

impl CloudStats {
    /// A cloud without any migrations yet.
    pub fn new(cloud: CloudId, name: String) -> Self {
        Self {
            cloud,
            name,
            response: Distribution::default(),
            transfer: Distribution::default(),
            response_by_source: Distribution::default(),
            transfer_by_source: Distribution::default(),
            failures: 0,
            disagreements: 0,
        }
    }

    /// Completed migrations.
    pub const fn count(&self) -> u64 {
        self.response.count()
    }

    /// Whether its clock, or what it says of its speed, is doubtful.
    pub const fn is_flagged(&self) -> bool {
        self.disagreements > 0 && self.disagreements.saturating_mul(FLAG_ONE_IN) >= self.response_by_source.count()
    }

    pub(super) fn completed(&mut self, response: Micros, transfer: Micros) {
        self.response.record(response);
        self.transfer.record(transfer);
    }

    /// Takes the source's figures beside those of the target for the same migration.
    pub(super) fn reported(&mut self, by_target: (Micros, Micros), by_source: (Micros, Micros)) {
        self.response_by_source.record(by_source.0);
        self.transfer_by_source.record(by_source.1);
        if disagree(by_target.0, by_source.0) || disagree(by_target.1, by_source.1) {
            self.disagreements = self.disagreements.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_close_and_the_mean_is_exact() {
        let mut durations = Distribution::default();
        assert_eq!((durations.mean(), durations.percentile(50)), (None, None));
        for value in 1..=1000 {
            durations.record(Micros(value * 1000));
        }
        assert_eq!(durations.mean(), Some(Micros(500_500)));
        for (percent, exact) in [(0, 1_000.0), (50, 500_000.0), (99, 990_000.0), (100, 1_000_000.0)] {
            let found = durations.percentile(percent).unwrap().0 as f64;
            assert!((found / exact - 1.0).abs() < 0.035, "p{percent}: {found}");
        }
    }

    #[test]
    fn a_cloud_whose_clock_is_off_is_flagged() {
        let mut stats = CloudStats::new(CloudId([1; 16]), "fjord".to_owned());
        for _ in 0..8 {
            stats.reported((Micros(30_000), Micros(90_000)), (Micros(50_000), Micros(110_000)));
        }
        assert!(!stats.is_flagged());
        for _ in 0..4 {
            stats.reported((Micros(0), Micros(90_000)), (Micros(3_000_000), Micros(90_000)));
        }
        assert_eq!(stats.disagreements, 4);
        assert!(stats.is_flagged());
    }

    proptest! {
        #[test]
        fn every_value_has_a_bucket_near_it(value in any::<u64>()) {
            let near = representative(bucket(value));
            prop_assert!(near.abs_diff(value) <= value / 32 + 1, "{value} became {near}");
            prop_assert_eq!(bucket(near), bucket(value));
        }
    }
}
