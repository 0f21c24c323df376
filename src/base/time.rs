//! Media time and the one pair of clocks of the process.
//!
//! `Pts` is what every picture, packet of sound and recorded sample carries. Wall time is only ever
//! derived from a monotonic instant through [`Clock`]; nothing else reads it.

use std::ops::{Add, Sub};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Presentation time in nanoseconds since the call's media epoch, for both directions and both media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pts(i64);

impl Pts {
    pub const ZERO: Pts = Pts(0);

    pub const fn from_nanos(nanos: i64) -> Self {
        Pts(nanos)
    }

    pub const fn from_millis(millis: i64) -> Self {
        Pts(millis * 1_000_000)
    }

    /// The time of `now` on a media clock that started at `epoch`. Earlier instants are negative.
    pub fn at(epoch: Instant, now: Instant) -> Self {
        match now.checked_duration_since(epoch) {
            Some(after) => Pts(nanos_of(after)),
            None => Pts(-nanos_of(epoch.duration_since(now))),
        }
    }

    pub const fn nanos(self) -> i64 {
        self.0
    }

    pub const fn millis(self) -> i64 {
        self.0 / 1_000_000
    }
}

fn nanos_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Pts {
    type Output = Pts;
    fn add(self, duration: Duration) -> Pts {
        Pts(self.0.saturating_add(nanos_of(duration)))
    }
}

impl Sub<Duration> for Pts {
    type Output = Pts;
    fn sub(self, duration: Duration) -> Pts {
        Pts(self.0.saturating_sub(nanos_of(duration)))
    }
}

/// The distance in nanoseconds, negative when `other` is later.
impl Sub<Pts> for Pts {
    type Output = i64;
    fn sub(self, other: Pts) -> i64 {
        self.0.saturating_sub(other.0)
    }
}

/// One monotonic and one wall reading taken together at start: the only way to wall time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    system: SystemTime,
}

impl Clock {
    /// Pairs two readings taken at the same moment by the caller.
    pub fn new(instant: Instant, system: SystemTime) -> Self {
        Clock { instant, system }
    }

    /// The wall time of a monotonic instant.
    pub fn wall(&self, now: Instant) -> SystemTime {
        match now.checked_duration_since(self.instant) {
            Some(after) => self.system + after,
            None => self.system - self.instant.duration_since(now),
        }
    }

    /// The 64-bit NTP timestamp of RTCP sender reports (RFC 3550 §4): seconds since 1900 and a binary fraction.
    pub fn ntp(&self, now: Instant) -> u64 {
        const UNIX_TO_NTP_S: u64 = 2_208_988_800;
        let since = self.wall(now).duration_since(UNIX_EPOCH).unwrap_or_default();
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        ((since.as_secs() + UNIX_TO_NTP_S) << 32) | fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pts_counts_from_its_epoch_in_both_directions() {
        let epoch = Instant::now();
        assert_eq!(Pts::at(epoch, epoch + Duration::from_millis(20)).millis(), 20);
        assert_eq!(Pts::at(epoch + Duration::from_millis(20), epoch).millis(), -20);
        assert_eq!(Pts::from_millis(30) - Pts::from_millis(10), 20_000_000);
    }

    #[test]
    fn ntp_counts_from_1900_with_a_binary_fraction() {
        let instant = Instant::now();
        let clock = Clock::new(instant, UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(clock.ntp(instant) >> 32, 2_208_988_801);
        assert_eq!(clock.ntp(instant) as u32, 1 << 31);
    }
}
