//! Instruments that cost an atomic operation or two, and the few shapes of them that Wayfare has.
//!
//! Labels are always of a small, fixed set of words. Each combination exists from the start, so that a rate can be taken over
//! what has not happened yet, and an alarm on it set up.

use std::{
    array,
    fmt::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric, counter, family::Family, gauge},
    registry::Registry,
};

/// A count that only rises.
pub type Counter = counter::Counter;
/// A number of things now.
pub type Gauge = gauge::Gauge;
/// A gauge of a fraction, such as of seconds.
pub type GaugeF64 = gauge::Gauge<f64, AtomicU64>;
/// Names of labels with their values.
pub type Labels<const N: usize> = [(&'static str, &'static str); N];
/// Counters that differ by `N` labels.
pub type Counters<const N: usize> = Family<Labels<N>, Counter>;
/// Gauges that differ by `N` labels.
pub type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
/// Durations that differ by `N` labels.
pub type DurationsBy<const N: usize> = Family<Labels<N>, Durations>;

/// Upper bounds of the buckets of every histogram of durations, in microseconds; beyond the last is +Inf.
const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
const BUCKETS: usize = BOUNDS_US.len() + 1;

/// A histogram of durations, from 0.1 ms to a minute. Lock-free: three relaxed additions for each observation. Clones share it.
#[derive(Clone, Debug)]
pub struct Durations(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    /// Not cumulative.
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        let buckets = array::from_fn(|_| AtomicU64::new(0));
        Self(Arc::new(Cells { buckets, sum_us: AtomicU64::new(0) }))
    }
}

impl Durations {
    /// Adds one, in microseconds.
    pub fn observe_us(&self, us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(cell) = self.0.buckets.get(bucket) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn observe(&self, duration: Duration) {
        self.observe_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A family in which every value of `label` exists from the start.
pub fn by<M: Default + Clone>(
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Family<Labels<1>, M> {
    let family = Family::<Labels<1>, M>::default();
    values.into_iter().for_each(|value| drop(family.get_or_create(&[(label, value)])));
    family
}

/// A family of two labels in which these combinations exist from the start.
pub fn by_two<M: Default + Clone>(
    labels: [&'static str; 2],
    values: impl IntoIterator<Item = [&'static str; 2]>,
) -> Family<Labels<2>, M> {
    let family = Family::<Labels<2>, M>::default();
    let [first, second] = labels;
    values.into_iter().for_each(|[one, other]| drop(family.get_or_create(&[(first, one), (second, other)])));
    family
}

/// Makes a counter stand where somebody else, who also only counts up, has it.
pub fn follow(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

/// A number of things.
pub fn set(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Registers what an instrument is called and what it says, in one line each.
pub trait Register {
    /// `name` without `_total`, which counters get; `help` without a full stop at its end.
    fn add(&mut self, name: &str, help: &str, instrument: &(impl EncodeMetric + TypedMetric + Clone + Shared));
}

/// What may be in a [`Registry`].
pub trait Shared: Send + Sync + std::fmt::Debug + 'static {}

impl<T: Send + Sync + std::fmt::Debug + 'static> Shared for T {}

impl Register for Registry {
    fn add(&mut self, name: &str, help: &str, instrument: &(impl EncodeMetric + TypedMetric + Clone + Shared)) {
        self.register(name, help, instrument.clone());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_of_its_bound() {
        let (mut registry, durations) = (Registry::default(), Durations::default());
        registry.add("d_seconds", "Help", &durations);
        for us in [0, 100, 101, 60_000_000, 60_000_001] {
            durations.observe_us(us);
        }
        durations.observe(Duration::from_millis(1));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE d_seconds histogram",
            "d_seconds_count 6",
            "d_seconds_sum 120.001202",
            "d_seconds_bucket{le=\"0.0001\"} 2",
            "d_seconds_bucket{le=\"0.00025\"} 3",
            "d_seconds_bucket{le=\"0.001\"} 4",
            "d_seconds_bucket{le=\"30.0\"} 4",
            "d_seconds_bucket{le=\"60.0\"} 5",
            "d_seconds_bucket{le=\"+Inf\"} 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_label_exists_before_anything_has_happened() {
        let mut registry = Registry::default();
        let counters: Counters<2> = by_two(["role", "outcome"], [["source", "moved"], ["target", "failed"]]);
        registry.add("moves", "Help", &counters);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("moves_total{role=\"target\",outcome=\"failed\"} 0\n"), "{text}");
        follow(&counters.get_or_create(&[("role", "target"), ("outcome", "failed")]), 7);
        text.clear();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("moves_total{role=\"target\",outcome=\"failed\"} 7\n"), "{text}");
    }
}
