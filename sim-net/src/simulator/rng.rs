//! The one source of chance in a run: [`SplitMix64`] behind the trait that machines take.

use std::convert::Infallible;

use rand_core::TryRng;

use crate::rng::SplitMix64;

/// Everything random comes from here, in the order in which it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Rng(SplitMix64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to `bound - 1`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 to `bound - 1`.
    pub(super) fn index(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// From `low` to `high`, both included.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low.saturating_add_unsigned(self.below(high.abs_diff(low).saturating_add(1)))
    }

    /// From `low` to `high`, both included.
    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `ppm` of a million cases.
    pub(super) fn chance(&mut self, ppm: u64) -> bool {
        ppm > 0 && self.below(1_000_000) < ppm
    }

    /// True in one of `n` cases.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A length with this mean, exponentially distributed.
    pub(super) fn wait(&mut self, mean: u64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        // A logarithm that is the same on every machine: the series of the standard library is not specified to be.
        let wait = -ln(1.0 - unit) * mean as f64;
        (wait as u64).clamp(1, mean.saturating_mul(8).max(1))
    }

    /// Between `low` and `high`, each order of magnitude as likely as the other.
    pub(super) fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let (low_bits, high_bits) = (low.max(1).ilog2(), high.max(1).ilog2());
        let bits = self.range(u64::from(low_bits), u64::from(high_bits));
        (1u64 << bits).saturating_add(self.below(1 << bits)).clamp(low, high)
    }

    /// One of `items`, if there is any.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.index(items.len()))
    }
}

/// The natural logarithm of `x` in (0, 1], by basic arithmetic alone, to about nine digits.
fn ln(x: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let (mut x, mut halvings) = (x.max(f64::MIN_POSITIVE), 0.0);
    while x < 0.75 {
        x *= 2.0;
        halvings += 1.0;
    }
    let y = (x - 1.0) / (x + 1.0);
    let (square, mut power, mut sum) = (y * y, y, 0.0);
    for n in 0..12 {
        sum += power / f64::from(2 * n + 1);
        power *= square;
    }
    2.0 * sum - halvings * LN_2
}

impl TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for x in [1e-9, 0.001, 0.3, 0.5, 0.75, 0.99, 1.0] {
            assert!((ln(x) - f64::ln(x)).abs() < 1e-8, "{x}");
        }
    }

    #[test]
    fn draws_keep_their_bounds() {
        let mut rng = Rng::new(3);
        for _ in 0..1000 {
            assert!((-5..=5).contains(&rng.between(-5, 5)));
            assert!((10..=1000).contains(&rng.magnitude(10, 1000)));
            assert!((1..=8000).contains(&rng.wait(1000)));
            assert!(rng.range(3, 3) == 3);
        }
        assert!(!rng.chance(0));
        assert!(rng.chance(1_000_000));
    }
}
