//! How often a host may be heard of. A genuine advert is passed on by every node to every node, so that a cloud which advertises
//! without a pause would have the whole mesh verify it.

use crate::{
    ids::HostId,
    limits::{ADVERT_RATE, ADVERTS_MAX},
    quota::{Quota, Rate, Shares},
    reject::{Guards, Reject, ensure},
    time::Instant,
};

/// Hosts, and how often each was heard of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pace(Quota<HostId>);

impl Default for Pace {
    fn default() -> Self {
        // What is spare is for hosts that find no room in the table, and next to nothing.
        let shares = Shares { own: ADVERT_RATE, spare: Rate::new(1, 1), ceiling: None, parties_max: ADVERTS_MAX };
        Self(Quota::new(shares))
    }
}

impl Pace {
    /// A verified advert of `host`, charged to it: whoever passed it on has nothing to do with it.
    ///
    /// # Errors
    /// [`Reject::TooOften`].
    pub fn admit<G: Guards>(&mut self, now: Instant, host: HostId) -> Result<(), Reject> {
        ensure::<G>(self.0.take(now, &host, 1), Reject::TooOften)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::ADVERT_INTERVAL, reject::Strict};

    const START: Instant = Instant(1_000_000_000);

    #[test]
    fn who_advertises_without_a_pause_is_not_passed_on_and_others_are() {
        let (mut pace, one, two) = (Pace::default(), HostId([1; 32]), HostId([2; 32]));
        let heard = (0..1000).filter(|_| pace.admit::<Strict>(START, one).is_ok()).count();
        assert_eq!(heard, ADVERT_RATE.burst as usize + 1, "its own, and the spare one");
        assert_eq!(pace.admit::<Strict>(START, one), Err(Reject::TooOften));
        assert_eq!(pace.admit::<Strict>(START, two), Ok(()));
        assert_eq!(pace.admit::<Strict>(START + ADVERT_INTERVAL, one), Ok(()));
    }
}
