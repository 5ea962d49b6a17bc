//! Latencies and counts of one run: a histogram over all of it, and one line per second for the live view.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency that is told from longer ones, in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// The most seconds of a run that get a line of their own: a day. Later ones count in the totals only.
pub const SERIES_SECONDS_MAX: usize = 86_400;
/// The most kinds of failure that are told apart; further ones count as `other`.
const REASONS_MAX: usize = 32;

/// What completed within one second of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// Counted from the start of the run.
    pub second: u64,
    /// Requests answered as they should be.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The median latency of those answered, in milliseconds; 0 if there are none.
    pub p50_ms: f64,
    /// Their mean latency, in milliseconds.
    pub mean_ms: f64,
    /// Their longest latency, in milliseconds.
    pub max_ms: f64,
}

/// Latencies in milliseconds, from the intended time of sending to the end of the answer, of requests that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub mean: f64,
    pub max: f64,
}

/// The counts and latencies so far.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) sent: u64,
    pub(super) ok: u64,
    pub(super) failed: u64,
    pub(super) reasons: BTreeMap<String, u64>,
    pub(super) series: Vec<Second>,
    pub(super) max_gap: Duration,
    latency_us: Histogram<u64>,
    last_ok: Duration,
    current: Second,
    /// The latencies of the current second; bounded by the rate and what was in flight.
    current_us: Vec<u64>,
}

impl Stats {
    /// `None` never happens: the histogram's bounds are constants that it accepts, as the tests show.
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            sent: 0,
            ok: 0,
            failed: 0,
            reasons: BTreeMap::new(),
            series: Vec::new(),
            max_gap: Duration::ZERO,
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).ok()?,
            last_ok: Duration::ZERO,
            current: Second::default(),
            current_us: Vec::new(),
        })
    }

    /// A request was answered, `at` after the start of the run.
    pub(super) fn ok(&mut self, at: Duration, latency: Duration) {
        self.advance(at);
        let latency_us = latency.as_micros().min(u128::from(LATENCY_US_MAX)) as u64;
        self.latency_us.saturating_record(latency_us.max(1));
        self.current_us.push(latency_us);
        self.current.ok += 1;
        self.ok += 1;
        self.max_gap = self.max_gap.max(at.saturating_sub(self.last_ok));
        self.last_ok = self.last_ok.max(at);
    }

    /// A request failed, `at` after the start of the run.
    pub(super) fn failed(&mut self, at: Duration, reason: &str) {
        self.advance(at);
        self.current.failed += 1;
        self.failed += 1;
        let known = self.reasons.contains_key(reason) || self.reasons.len() < REASONS_MAX;
        *self.reasons.entry(if known { reason } else { "other" }.to_owned()).or_default() += 1;
    }

    /// Closes every second that is over `at` after the start.
    pub(super) fn advance(&mut self, at: Duration) {
        while self.current.second < at.as_secs() && self.series.len() < SERIES_SECONDS_MAX {
            self.close();
        }
    }

    /// Closes the second under way if it holds anything. Idempotent.
    pub(super) fn finish(&mut self) {
        if self.current.ok + self.current.failed > 0 && self.series.len() < SERIES_SECONDS_MAX {
            self.close();
        }
    }

    pub(super) fn latency(&self) -> Latency {
        if self.latency_us.is_empty() {
            return Latency::default();
        }
        let ms = |us: u64| us as f64 / 1_000.0;
        Latency {
            p50: ms(self.latency_us.value_at_quantile(0.5)),
            p99: ms(self.latency_us.value_at_quantile(0.99)),
            mean: self.latency_us.mean() / 1_000.0,
            max: ms(self.latency_us.max()),
        }
    }

    fn close(&mut self) {
        let mut us = std::mem::take(&mut self.current_us);
        us.sort_unstable();
        let ms = |us: u64| us as f64 / 1_000.0;
        let mut second = std::mem::take(&mut self.current);
        self.current.second = second.second + 1;
        if let Some(&max) = us.last() {
            second.p50_ms = ms(us[us.len() / 2]);
            second.mean_ms = ms(us.iter().sum()) / us.len() as f64;
            second.max_ms = ms(max);
        }
        self.series.push(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_seconds_and_the_whole() {
        let ms = Duration::from_millis;
        let mut stats = Stats::new().unwrap();
        stats.ok(ms(100), ms(10));
        stats.ok(ms(200), ms(30));
        stats.failed(ms(900), "timeout");
        stats.ok(ms(3_100), ms(2_000));
        stats.finish();
        stats.finish();
        let shown: Vec<_> = stats.series.iter().map(|s| (s.second, s.ok, s.failed, s.p50_ms, s.mean_ms)).collect();
        let expected = [(0, 2, 1, 30.0, 20.0), (1, 0, 0, 0.0, 0.0), (2, 0, 0, 0.0, 0.0), (3, 1, 0, 2_000.0, 2_000.0)];
        assert_eq!(shown, expected);
        assert_eq!((stats.ok, stats.failed, stats.max_gap), (3, 1, ms(2_900)));
        let latency = stats.latency();
        assert!((latency.p50 - 30.0).abs() < 0.1 && (latency.p99 - 2_000.0).abs() < 2.0, "{latency:?}");
        assert!((latency.mean - 680.0).abs() < 1.0, "{latency:?}");
    }

    #[test]
    fn failures_of_many_kinds_stay_bounded() {
        let mut stats = Stats::new().unwrap();
        for status in 0..1_000 {
            stats.failed(Duration::ZERO, &format!("status {status}"));
        }
        assert_eq!((stats.reasons.len(), stats.reasons["other"]), (REASONS_MAX + 1, 1_000 - REASONS_MAX as u64));
        assert_eq!(stats.latency(), Latency::default());
    }
}
