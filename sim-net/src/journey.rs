//! A client's journey in time, and what the same journey would have cost without moves and with perfect ones.

use std::time::Duration;

use crate::layout::Layout;
use crate::matrix::{LatencyMatrix, MatrixError};

/// One stay of the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stop {
    /// The matrix row.
    pub row: usize,
    /// How long the client stays.
    pub dwell: Duration,
}

/// The client's stays, one after another, without travelling time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Itinerary {
    stops: Vec<Stop>,
}

impl Itinerary {
    /// The same stay on every row of the layout's path.
    pub fn even(layout: &Layout, dwell: Duration) -> Self {
        Self { stops: layout.path.iter().map(|&row| Stop { row, dwell }).collect() }
    }

    /// Stays of any length.
    pub fn new(stops: Vec<Stop>) -> Self {
        Self { stops }
    }

    /// The stays in order.
    pub fn stops(&self) -> &[Stop] {
        &self.stops
    }

    /// How long the whole journey takes.
    pub fn duration(&self) -> Duration {
        self.stops.iter().map(|stop| stop.dwell).sum()
    }

    /// The index of the stop where the client is so long after its start: the last one once the journey is over, `None`
    /// if there are no stops.
    pub fn stop_at(&self, elapsed: Duration) -> Option<usize> {
        let mut left = Duration::ZERO;
        let here = self.stops.iter().position(|stop| {
            left += stop.dwell;
            elapsed < left
        });
        here.or(self.stops.len().checked_sub(1))
    }
}

/// What a journey costs by the matrix alone: pure round trips, no request handling and no moves. In milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The mean round trip over the journey's time if the service stays at home.
    pub mean_if_stayed_ms: f64,
    /// The mean round trip over the journey's time if the service is on the nearest cloud throughout, from the first
    /// moment of each stop.
    pub mean_if_always_nearest_ms: f64,
}

/// Scores a journey: `Σ dwell(stop) · RTT(stop, host) / Σ dwell(stop)`. A journey without time scores 0.
///
/// # Errors
/// The matrix lacks the link from a stop to home or to all clouds.
pub fn score(matrix: &LatencyMatrix, layout: &Layout, itinerary: &Itinerary) -> Result<Score, MatrixError> {
    let (mut stayed, mut nearest) = (0.0, 0.0);
    for stop in itinerary.stops() {
        let nearest_us = match layout.nearest_cloud(matrix, stop.row) {
            Some((_, rtt_us)) => rtt_us,
            None => matrix.require(stop.row, layout.cloud_rows.first().copied().unwrap_or(layout.home))?,
        };
        stayed += stop.dwell.as_secs_f64() * f64::from(matrix.require(stop.row, layout.home)?);
        nearest += stop.dwell.as_secs_f64() * f64::from(nearest_us);
    }
    let total_s = itinerary.duration().as_secs_f64();
    let mean_ms = |sum_us_s: f64| if total_s > 0.0 { sum_us_s / total_s / 1_000.0 } else { 0.0 };
    Ok(Score { mean_if_stayed_ms: mean_ms(stayed), mean_if_always_nearest_ms: mean_ms(nearest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (LatencyMatrix, Layout) {
        let matrix = LatencyMatrix::parse("m.csv", "0,100,200,\n100,0,30,7\n200,30,0,9\n,1,2,0\n").unwrap();
        (matrix, Layout { home: 0, registry: 0, cloud_rows: vec![2, 3], path: vec![1, 2] })
    }

    #[test]
    fn weighs_round_trips_by_time() {
        let (matrix, layout) = fixture();
        let even = Itinerary::even(&layout, Duration::from_secs(15));
        let expected = Score { mean_if_stayed_ms: 150.0, mean_if_always_nearest_ms: 4.0 };
        assert_eq!(score(&matrix, &layout, &even).unwrap(), expected);
        let (a, b) = (Duration::from_secs(3), Duration::from_secs(1));
        let uneven = Itinerary::new(vec![Stop { row: 1, dwell: a }, Stop { row: 2, dwell: b }]);
        let expected = Score { mean_if_stayed_ms: 125.0, mean_if_always_nearest_ms: 5.5 };
        assert_eq!(score(&matrix, &layout, &uneven).unwrap(), expected);
        let nowhere = score(&matrix, &layout, &Itinerary::new(Vec::new())).unwrap();
        assert_eq!(nowhere, Score { mean_if_stayed_ms: 0.0, mean_if_always_nearest_ms: 0.0 });
    }

    #[test]
    fn refuses_a_link_that_is_missing() {
        let (matrix, layout) = fixture();
        let stop = Stop { row: 3, dwell: Duration::from_secs(1) };
        let refusal = score(&matrix, &layout, &Itinerary::new(vec![stop])).unwrap_err().to_string();
        assert!(refusal.starts_with("m.csv, line 4, column 1: the round trip from row 3 to row 0"), "{refusal}");
    }

    #[test]
    fn finds_the_stop_in_time() {
        let (_, layout) = fixture();
        let itinerary = Itinerary::even(&layout, Duration::from_secs(15));
        let at = |s| itinerary.stop_at(Duration::from_secs(s));
        assert_eq!([at(0), at(14), at(15), at(29), at(30), at(99)], [0, 0, 1, 1, 1, 1].map(Some));
        assert_eq!(itinerary.duration(), Duration::from_secs(30));
        assert_eq!(Itinerary::new(Vec::new()).stop_at(Duration::ZERO), None);
    }
}
