//! A node's two clocks. Their differences stay within what the protocol states: wall clocks within
//! [`CLOCK_SKEW`](wayfare_protocol::limits::CLOCK_SKEW) of each other, monotonic ones drifting apart by less than the
//! Registry's [`LEASE_DRIFT`](wayfare_protocol::limits::LEASE_DRIFT) over a lease.

use wayfare_protocol::{
    limits::{CLOCK_SKEW, LEASE, LEASE_DRIFT},
    time::{Instant, Now, Timestamp},
};

use super::rng::Rng;

/// Where wall clocks begin.
const START_OF_TIME_US: u64 = 1_800_000_000_000_000;
const MILLION: i128 = 1_000_000;
/// How fast or slow a monotonic clock runs at most, ppm: two that differ by twice this keep within the drift that the
/// Registry allows for, with a fifth to spare.
const DRIFT_PPM_MAX: i64 = (LEASE_DRIFT.0 * 1_000_000 / LEASE.0) as i64 * 2 / 5;
/// How far a wall clock is off at most.
const SKEW_US_MAX: i64 = CLOCK_SKEW.0 as i64 / 2 - 1_000;

/// The clocks of one node, from one boot to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    booted: u64,
    mono_at_boot: u64,
    rate: i128,
    skew: i64,
}

impl Clock {
    /// Clocks that are exact.
    pub(super) const fn exact() -> Self {
        Self { booted: 0, mono_at_boot: 1_000_000, rate: MILLION, skew: 0 }
    }

    /// Clocks of a machine that boots at `time`; exact ones unless `loose`.
    pub(super) fn boot(rng: &mut Rng, time: u64, loose: bool) -> Self {
        let mono_at_boot = 1_000_000 + rng.below(1 << 40);
        let mut clock = Self { booted: time, mono_at_boot, rate: MILLION, skew: 0 };
        if loose {
            clock.rate = MILLION + i128::from(rng.between(-DRIFT_PPM_MAX, DRIFT_PPM_MAX));
            clock.step(rng);
        }
        clock
    }

    /// Somebody sets the wall clock.
    pub(super) fn step(&mut self, rng: &mut Rng) {
        self.skew = rng.between(-SKEW_US_MAX, SKEW_US_MAX);
    }

    /// What the clocks show at true time `time`, µs.
    pub(super) fn now(&self, time: u64) -> Now {
        let since = i128::from(time.saturating_sub(self.booted)) * self.rate / MILLION;
        let wall = START_OF_TIME_US.saturating_add(time).saturating_add_signed(self.skew);
        Now { mono: Instant(self.mono_at_boot + since as u64), wall: Timestamp(wall) }
    }

    /// The true time at which the monotonic clock shows at least `at`.
    pub(super) fn true_time(&self, at: Instant) -> u64 {
        let since = i128::from(at.0.saturating_sub(self.mono_at_boot)).min(1 << 60);
        let since = (since * MILLION + self.rate - 1) / self.rate;
        self.booted.saturating_add(since as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_when_it_is_due_and_not_before() {
        let mut rng = Rng::new(1);
        for _ in 0..200 {
            let clock = Clock::boot(&mut rng, 5_000_000, true);
            let due = clock.now(5_000_000).mono + wayfare_protocol::time::Micros(rng.below(100_000_000));
            let at = clock.true_time(due);
            assert!(clock.now(at).mono >= due);
            assert!(at == 5_000_000 || clock.now(at - 1).mono < due);
        }
    }

    #[test]
    fn a_holder_s_lease_ends_before_the_registry_s_count_of_it() {
        let mut rng = Rng::new(2);
        for _ in 0..200 {
            let (holder, registry) = (Clock::boot(&mut rng, 0, true), Clock::boot(&mut rng, 0, true));
            let (asked, answered) = (holder.now(1_000), registry.now(1_000));
            let ends = holder.true_time(asked.mono + LEASE);
            assert!(ends < registry.true_time(answered.mono + LEASE + LEASE_DRIFT));
        }
    }
}
