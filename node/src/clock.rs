//! Time and randomness for the machines: read here, passed on as data.

use rustix::time::{ClockId, clock_gettime};
use wayfare_protocol::time::{Instant, Now, Timestamp};

/// Both clocks, now. The monotonic one runs in suspend, so a lease ends on a sleeping machine too.
pub(crate) fn now() -> Now {
    let micros = |clock| {
        let time = clock_gettime(clock);
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000
    };
    Now { mono: Instant(micros(ClockId::Boottime)), wall: Timestamp(micros(ClockId::Realtime)) }
}

/// The operating system's random numbers. Panics if the system has none, which Linux rules out after boot.
pub(crate) type Entropy = rand_core::UnwrapErr<getrandom::SysRng>;

/// See [`Entropy`].
pub(crate) fn entropy() -> Entropy {
    rand_core::UnwrapErr(getrandom::SysRng)
}
