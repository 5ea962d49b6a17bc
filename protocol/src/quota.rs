//! Rates: how much of something dear each party may use in a time, and all together.
//!
//! A [`Bucket`] is what is left of one [`Rate`]. A [`Quota`] gives every party a rate of its own, which nobody can take from it,
//! and beyond that a share of what is spare, first come first served. So whoever floods uses up its own rate and the spare one,
//! and the others notice nothing as long as they stay within theirs.
//!
//! What is counted is the caller's business: signatures to verify, handshakes, bytes. The caller charges *before* it does the
//! work, and either refuses ([`Quota::take`]) or lets the party wait ([`Quota::charge`]).

use std::collections::BTreeMap;

use crate::{
    limits::COMPLAINT_RATE,
    time::{Instant, Micros},
};

/// Nanoseconds of a second, in which buckets count: a byte of a fast rate is less than a microsecond.
const SECOND_NS: u64 = 1_000_000_000;
/// How often a full table looks for parties that it may forget.
const SWEEP: Micros = Micros::from_millis(500);

/// So many units a second in the long run, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Units a second; 0 counts as 1.
    pub per_s: u32,
    /// Units at once, after a pause that is long enough.
    pub burst: u32,
}

impl Rate {
    /// `per_s` units a second, `burst` at once.
    pub const fn new(per_s: u32, burst: u32) -> Self {
        Self { per_s, burst }
    }

    /// How long it takes to earn `units`.
    fn earning_ns(self, units: u32) -> u64 {
        u64::from(units) * SECOND_NS / u64::from(self.per_s.max(1))
    }
}

/// What is left of a rate: the generic cell rate algorithm, of which one number is the state. The default is a full one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// When everything that was taken will have been earned, in nanoseconds of the monotonic clock.
    earned_ns: u64,
}

impl Bucket {
    /// Takes `cost` units if they are there.
    pub fn take(&mut self, rate: Rate, now: Instant, cost: u32) -> bool {
        let fits = self.allows(rate, now, cost);
        if fits {
            self.charge(rate, now, cost);
        }
        fits
    }

    /// Takes `cost` units whether they are there or not. When the bucket is out of debt: until then the party is to wait.
    pub fn charge(&mut self, rate: Rate, now: Instant, cost: u32) -> Instant {
        self.earned_ns = self.after(rate, now, cost);
        Instant(self.earned_ns.saturating_sub(rate.earning_ns(rate.burst)).div_ceil(1000)).max(now)
    }

    /// Whether all of it is there: then it is as good as one that was never used.
    pub const fn is_full(&self, now: Instant) -> bool {
        self.earned_ns <= now.0.saturating_mul(1000)
    }

    fn allows(&self, rate: Rate, now: Instant, cost: u32) -> bool {
        let limit = now.0.saturating_mul(1000).saturating_add(rate.earning_ns(rate.burst));
        self.after(rate, now, cost) <= limit
    }

    fn after(&self, rate: Rate, now: Instant, cost: u32) -> u64 {
        self.earned_ns.max(now.0.saturating_mul(1000)).saturating_add(rate.earning_ns(cost))
    }
}

/// How much parties may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shares {
    /// What each party has for itself.
    pub own: Rate,
    /// What all share beyond that.
    pub spare: Rate,
    /// How much all may use together, whatever is left of the others; `None` where parties cannot be had for nothing.
    pub ceiling: Option<Rate>,
    /// Parties that are remembered. Beyond that, one that is new has the spare rate only.
    pub parties_max: usize,
}

/// What is left to each party, and to all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quota<K: Ord> {
    shares: Shares,
    own: BTreeMap<K, Bucket>,
    spare: Bucket,
    ceiling: Bucket,
    sweep_at: Instant,
}

impl<K: Ord + Clone> Quota<K> {
    /// Nobody has used anything yet.
    pub const fn new(shares: Shares) -> Self {
        Self {
            shares,
            own: BTreeMap::new(),
            spare: Bucket { earned_ns: 0 },
            ceiling: Bucket { earned_ns: 0 },
            sweep_at: Instant(0),
        }
    }

    /// Takes `cost` units for `party`, of its own rate or else of the spare one. False, and nothing is taken: it has used up
    /// both, or all together have used up theirs.
    pub fn take(&mut self, now: Instant, party: &K, cost: u32) -> bool {
        let Shares { own, spare, ceiling, .. } = self.shares;
        if ceiling.is_some_and(|rate| !self.ceiling.allows(rate, now, cost)) {
            return false;
        }
        let taken = self.bucket(now, party).is_some_and(|bucket| bucket.take(own, now, cost))
            || self.spare.take(spare, now, cost);
        if let Some(rate) = ceiling.filter(|_| taken) {
            self.ceiling.charge(rate, now, cost);
        }
        taken
    }

    /// Takes `cost` units for `party` in any case. When it may use them: now, or once its own rate has earned them.
    pub fn charge(&mut self, now: Instant, party: &K, cost: u32) -> Instant {
        let Shares { own, spare, ceiling, .. } = self.shares;
        let all = ceiling.map_or(now, |rate| self.ceiling.charge(rate, now, cost));
        if self.bucket(now, party).is_some_and(|bucket| bucket.take(own, now, cost))
            || self.spare.take(spare, now, cost)
        {
            return all;
        }
        let each = match self.bucket(now, party) {
            Some(bucket) => bucket.charge(own, now, cost),
            None => self.spare.charge(spare, now, cost),
        };
        all.max(each)
    }

    /// Parties that are remembered: those that have used something which they have not earned again, and some more.
    pub fn parties(&self) -> usize {
        self.own.len()
    }

    fn bucket(&mut self, now: Instant, party: &K) -> Option<&mut Bucket> {
        if !self.own.contains_key(party) {
            if self.own.len() >= self.shares.parties_max && self.sweep_at <= now {
                self.sweep_at = now + SWEEP;
                self.own.retain(|_, bucket| !bucket.is_full(now));
            }
            if self.own.len() >= self.shares.parties_max {
                return None;
            }
        }
        Some(self.own.entry(party.clone()).or_default())
    }
}

/// Lines for people that others can provoke at will: a few a second, and how many were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Complaints {
    bucket: Bucket,
    left_out: u64,
}

impl Complaints {
    /// Whether to write another line: how many were left out since the last one. `None`: leave it out.
    pub fn another(&mut self, now: Instant) -> Option<u64> {
        if self.bucket.take(COMPLAINT_RATE, now, 1) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out = self.left_out.saturating_add(1);
        None
    }
}

/// What a frame that a node sends to a Registry costs it: about as many signatures as it verifies and makes for it. Known
/// before anything is decoded.
pub fn registry_weight(frame: &[u8]) -> u32 {
    by_length(frame, 1024)
        + match kind(frame) {
            // REQUEST, advert and certificate are verified, 3 is signed.
            2 => 4,
            5 => 2,
            // Completion and consent with two signatures each, 11 and an answer.
            10 => 6,
            12 => 2,
            40 => 4,
            41..=43 | 46 => 3,
            // Each placement that is shown has a signature.
            54 => 4 + by_length(frame, 256),
            55 => 4,
            56 => 2,
            _ => 1,
        }
}

/// As [`registry_weight`], for what a host is sent by another host: key agreement counts as two signatures.
pub fn migrate_weight(frame: &[u8]) -> u32 {
    by_length(frame, 1024)
        + match kind(frame) {
            // 3, 4 and the manifest are verified, 5 is signed, and a key is made.
            4 => 6,
            7 => 6,
            8 | 9 => 3,
            _ => 1,
        }
}

/// As [`registry_weight`], for what a gateway sends to a host. Requests are free here: those of a gateway that has said who it
/// is are bounded where they wait.
pub fn client_weight(frame: &[u8]) -> u32 {
    match kind(frame) {
        60 => 2,
        63 => 0,
        _ => 1,
    }
}

/// The kind of a frame: its second byte.
fn kind(frame: &[u8]) -> u8 {
    frame.get(1).copied().unwrap_or_default()
}

fn by_length(frame: &[u8], each: usize) -> u32 {
    u32::try_from(frame.len() / each).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate::new(10, 5);
    const START: Instant = Instant(1_000_000_000);

    fn at(millis: u64) -> Instant {
        START + Micros::from_millis(millis)
    }

    fn shares(ceiling: Option<Rate>) -> Shares {
        Shares { own: RATE, spare: Rate::new(20, 4), ceiling, parties_max: 3 }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        assert!((0..5).all(|_| bucket.take(RATE, START, 1)));
        assert!(!bucket.take(RATE, START, 1) && !bucket.is_full(START));
        assert!(!bucket.take(RATE, at(99), 1));
        assert!(bucket.take(RATE, at(100), 1) && !bucket.take(RATE, at(100), 1));
        // No more than the burst is saved up.
        assert!(bucket.is_full(at(10_000)));
        assert!(bucket.take(RATE, at(10_000), 5) && !bucket.take(RATE, at(10_000), 1));
    }

    #[test]
    fn who_is_in_debt_waits_until_it_is_earned() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.charge(RATE, START, 5), START);
        assert_eq!(bucket.charge(RATE, START, 2), at(200));
        assert_eq!(bucket.charge(RATE, START, 1), at(300));
        assert_eq!(bucket.charge(RATE, at(300), 0), at(300));
    }

    #[test]
    fn who_floods_takes_nothing_from_the_others() {
        let mut quota = Quota::new(shares(None));
        let flood = (0..1000).filter(|_| quota.take(START, &"flood", 1)).count();
        assert_eq!(flood, 5 + 4, "its own and the spare");
        assert!((0..5).all(|_| quota.take(START, &"honest", 1)));
        assert!(!quota.take(START, &"honest", 1));
        assert_eq!(quota.charge(START, &"flood", 1), at(100));
        assert_eq!(quota.charge(START, &"other", 1), START);
    }

    #[test]
    fn a_ceiling_bounds_parties_that_cost_nothing() {
        let mut quota = Quota::new(shares(Some(Rate::new(1, 7))));
        let taken = (0..3).flat_map(|party| [party; 5]).filter(|party| quota.take(START, party, 1)).count();
        assert_eq!(taken, 7);
        assert_eq!(quota.charge(START, &0, 1), at(1000));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_those_with_nothing_to_earn_make_room() {
        let mut quota = Quota::new(shares(None));
        for party in 0..3 {
            assert!(quota.take(START, &party, 5));
        }
        // The fourth has the spare rate only.
        assert!(quota.take(START, &3, 4) && !quota.take(START, &3, 1));
        assert_eq!(quota.parties(), 3);
        assert!(quota.charge(START, &3, 1) > START);
        assert!(quota.take(at(600), &3, 5) && quota.take(at(600), &4, 5));
        assert!(quota.parties() <= 3, "{quota:?}");
    }

    #[test]
    fn what_costs_more_weighs_more_and_nothing_of_a_registry_is_free() {
        let frame = |kind: u8, len: usize| [&[1, kind][..], &vec![0; len]].concat();
        assert_eq!((registry_weight(&frame(2, 0)), registry_weight(&frame(48, 0)), registry_weight(&[])), (4, 1, 1));
        assert_eq!(registry_weight(&frame(54, 4094)), 4 + 4 + 16);
        assert_eq!((migrate_weight(&frame(4, 0)), migrate_weight(&frame(52, 0))), (6, 1));
        assert_eq!((client_weight(&frame(60, 0)), client_weight(&frame(63, 5000))), (2, 0));
    }

    #[test]
    fn lines_that_are_left_out_are_counted() {
        let mut complaints = Complaints::default();
        let written = (0..100).filter(|_| complaints.another(START).is_some()).count();
        assert_eq!(written, COMPLAINT_RATE.burst as usize);
        assert_eq!(complaints.another(START + Micros::from_secs(60)), Some(100 - written as u64));
        assert_eq!(complaints.another(START + Micros::from_secs(60)), Some(0));
    }

    proptest! {
        #[test]
        fn over_any_time_a_party_gets_no_more_than_burst_and_rate(
            steps in prop::collection::vec((0_u64..50_000, 1_u32..4), 1..300)
        ) {
            let (mut bucket, mut now, mut taken) = (Bucket::default(), START, 0_u64);
            for (pause, cost) in steps {
                now = now + Micros(pause);
                if bucket.take(RATE, now, cost) {
                    taken += u64::from(cost);
                }
                let earned = now.since(START).0 * u64::from(RATE.per_s) / 1_000_000;
                prop_assert!(taken <= u64::from(RATE.burst) + earned, "{taken} after {now:?}");
            }
        }
    }
}
