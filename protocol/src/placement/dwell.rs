//! How long the nearest cloud stays the nearest, and how much longer it will.

use std::collections::VecDeque;

use super::{Instant, Micros};
use crate::ids::HostId;

/// Past dwells that count, the latest of those longer than the present one.
pub const DWELLS_COUNTED: usize = 16;
/// Dwells, in slots, that are assumed to have happened besides: they keep a new service from believing its first few.
pub const PRIOR_SLOTS: [u64; 5] = [2, 4, 8, 16, 32];
/// Past dwells kept. More than [`DWELLS_COUNTED`], because short ones drop out as the present one lasts. The oldest goes.
pub(super) const DWELLS_KEPT: usize = 64;
/// Longest dwell taken from another host.
pub(super) const DWELL_MAX: Micros = Micros::from_secs(24 * 3600);

/// The dwell that lasts now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Present {
    nearest: HostId,
    since: Instant,
}

/// A dwell is the time for which the nearest cloud stays the same, jitter below the tie aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Dwells {
    present: Option<Present>,
    past: VecDeque<Micros>,
}

impl Dwells {
    /// Past dwells, and one that has been lasting for some time, as another host says: the last [`DWELLS_KEPT`], none longer
    /// than [`DWELL_MAX`].
    pub(super) fn resumed(past: &[Micros], present: Option<(HostId, Micros)>, now: Instant) -> Self {
        let skip = past.len().saturating_sub(DWELLS_KEPT);
        Self {
            present: present.map(|(nearest, elapsed)| Present { nearest, since: now - elapsed.min(DWELL_MAX) }),
            past: past.iter().skip(skip).map(|dwell| (*dwell).min(DWELL_MAX)).collect(),
        }
    }

    /// Takes note of the nearest host and its round trip, given what is known of any host. Nothing known ends the present
    /// dwell unrecorded: how long it really lasted is not known either.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        nearest: Option<(HostId, Micros)>,
        rtt_of: impl Fn(HostId) -> Option<Micros>,
        tie: Micros,
    ) {
        let Some((host, rtt)) = nearest else {
            self.present = None;
            return;
        };
        let Some(present) = self.present else {
            self.present = Some(Present { nearest: host, since: now });
            return;
        };
        let still = host == present.nearest || rtt_of(present.nearest).is_some_and(|old| old.0 <= rtt.0 + tie.0);
        if !still {
            if self.past.len() >= DWELLS_KEPT {
                self.past.pop_front();
            }
            self.past.push_back(now.since(present.since));
            self.present = Some(Present { nearest: host, since: now });
        }
    }

    /// How long the present dwell has lasted; zero if there is none.
    pub(super) fn elapsed(&self, now: Instant) -> Micros {
        self.present.map_or(Micros::ZERO, |present| now.since(present.since))
    }

    /// E[remaining | elapsed]: the mean residual of the last [`DWELLS_COUNTED`] dwells longer than the present one, and of
    /// the priors that are. A dwell longer than all of them is expected to last once more as long as it has: the mean
    /// residual of the heavy tail (Pareto, α = 2) that the priors stand for. It makes the rule ski rental there: a gap too
    /// small to move for at first is moved for once the regret exceeds the cost.
    pub(super) fn expected_remaining(&self, now: Instant, slot: Micros) -> Micros {
        let elapsed = self.elapsed(now);
        let longer = |dwell: &Micros| *dwell > elapsed;
        let past = self.past.iter().rev().copied().filter(longer).take(DWELLS_COUNTED);
        let priors = PRIOR_SLOTS.iter().map(|slots| slot.times(*slots)).filter(longer);
        let (sum, count) = past
            .chain(priors)
            .fold((0u128, 0u128), |(sum, count), dwell| (sum + u128::from(dwell.0 - elapsed.0), count + 1));
        match sum.checked_div(count) {
            Some(mean) => Micros(u64::try_from(mean).unwrap_or(u64::MAX)),
            None => elapsed,
        }
    }

    pub(super) fn past(&self) -> impl Iterator<Item = Micros> + '_ {
        self.past.iter().copied()
    }

    pub(super) fn present(&self, now: Instant) -> Option<(HostId, Micros)> {
        self.present.map(|present| (present.nearest, now.since(present.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Micros = Micros::from_secs(1);

    fn at(secs: u64) -> Instant {
        Instant(secs * 1_000_000)
    }

    fn lasting(past: &[u64], elapsed: u64) -> Dwells {
        let past: Vec<Micros> = past.iter().map(|secs| Micros::from_secs(*secs)).collect();
        Dwells::resumed(&past, Some((HostId([1; 32]), Micros::from_secs(elapsed))), at(1000))
    }

    #[test]
    fn without_a_past_the_priors_speak() {
        assert_eq!(lasting(&[], 0).expected_remaining(at(1000), SLOT), Micros(12_400_000));
        // Of the priors 8, 16 and 32 exceed 4 s: (4 + 12 + 28) / 3.
        assert_eq!(lasting(&[], 4).expected_remaining(at(1000), SLOT), Micros(14_666_666));
    }

    #[test]
    fn only_the_last_sixteen_longer_dwells_count() {
        let mut past = vec![500; 10];
        past.extend([10; 16]);
        past.extend([1; 5]);
        // 16 × (10 − 3) and the priors 1, 5, 13, 29.
        let expected = Micros((16 * 7 + 48) * 1_000_000 / 20);
        let prior_slots: u64 = PRIOR_SLOTS.iter().filter(|slots| **slots > 3).map(|slots| slots - 3).sum();
        assert_eq!(prior_slots, 48);
        assert_eq!(lasting(&past, 3).expected_remaining(at(1000), SLOT), expected);
    }

    #[test]
    fn a_dwell_longer_than_any_is_expected_to_double() {
        assert_eq!(lasting(&[5, 20], 100).expected_remaining(at(1000), SLOT), Micros::from_secs(100));
    }

    #[test]
    fn the_tie_keeps_a_dwell_going() {
        let (a, b) = (HostId([1; 32]), HostId([2; 32]));
        let tie = Micros::from_millis(3);
        let mut dwells = Dwells::default();
        dwells.observe(at(0), Some((a, Micros::from_millis(20))), |_| None, tie);
        dwells.observe(at(5), Some((b, Micros::from_millis(18))), |_| Some(Micros::from_millis(20)), tie);
        assert_eq!(dwells.elapsed(at(9)), Micros::from_secs(9));
        dwells.observe(at(10), Some((b, Micros::from_millis(5))), |_| Some(Micros::from_millis(20)), tie);
        assert_eq!(dwells.present(at(12)), Some((b, Micros::from_secs(2))));
        assert_eq!(dwells.past().collect::<Vec<_>>(), [Micros::from_secs(10)]);
        dwells.observe(at(13), None, |_| None, tie);
        assert_eq!(dwells.present(at(14)), None);
        assert_eq!(dwells.past().count(), 1);
    }
}
