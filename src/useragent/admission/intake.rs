//! Whether a new call is taken: draining, the rate over all callers, the number of calls (of the box and of one peer),
//! and the measured capacity.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::bucket::{Bucket, Rate};
use super::capacity::{Capacity, Figures};

/// Seconds in Retry-After; random, so that those who were refused together do not come back together.
const RETRY_AFTER: std::ops::RangeInclusive<u32> = 5..=30;

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// 0: as many as the box was measured to carry.
    pub max_calls: usize,
    /// New calls over all callers; 0: no limit.
    pub calls_per_second: u32,
    /// The status over the number of calls: 503 or 486.
    pub busy: u16,
}

/// How a call is refused: status and words.
pub type Refusal = (u16, &'static str);

/// The door.
pub struct Intake {
    limits: Limits,
    arrivals: Option<Bucket>,
    capacity: Capacity,
    rng: StdRng,
}

impl Intake {
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        Intake { limits, arrivals: None, capacity: Capacity::default(), rng: StdRng::from_seed(seed) }
    }

    /// The figures of a second in which `calls` were running.
    pub fn observe(&mut self, figures: Figures, calls: usize) {
        self.capacity.observe(figures, calls);
    }

    /// Judges a new call beside `calls` that run, `of_peer.0` of them of its peer, which may have `of_peer.1`
    /// (0: any number).
    ///
    /// # Errors
    /// How it is refused.
    pub fn admit(
        &mut self,
        now: Instant,
        is_draining: bool,
        calls: usize,
        of_peer: (usize, usize),
    ) -> Result<(), Refusal> {
        if is_draining {
            return Err((503, "Service Unavailable"));
        }
        let per_second = f64::from(self.limits.calls_per_second);
        if per_second > 0.0 {
            let rate = Rate { per_second, burst: per_second };
            if !self.arrivals.get_or_insert_with(|| Bucket::full(now, rate)).take(now, rate) {
                return Err((503, "Too Many Calls A Second"));
            }
        }
        let (running, most) = of_peer;
        if most > 0 && running >= most {
            return Err(self.busy());
        }
        let fits = match self.limits.max_calls {
            0 => self.capacity.admit(calls),
            limit => calls < limit,
        };
        if fits { Ok(()) } else { Err(self.busy()) }
    }

    /// Calls that could still be taken beside `calls`, and all together: for `X-Capacity`.
    pub fn room(&self, calls: usize) -> (usize, usize) {
        let free = match self.limits.max_calls {
            0 => self.capacity.free(calls),
            limit => limit.saturating_sub(calls),
        };
        (free, free + calls)
    }

    /// Seconds for Retry-After.
    pub fn retry_after(&mut self) -> u32 {
        self.rng.random_range(RETRY_AFTER)
    }

    fn busy(&self) -> Refusal {
        match self.limits.busy {
            486 => (486, "Busy Here"),
            _ => (503, "Too Many Calls"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn intake(max_calls: usize, calls_per_second: u32, busy: u16) -> Intake {
        Intake::new(Limits { max_calls, calls_per_second, busy }, [7; 32])
    }

    #[test]
    fn calls_over_the_rate_are_told_to_come_back_at_different_times() {
        let (mut door, now) = (intake(0, 30, 503), Instant::now());
        let refused: Vec<Refusal> =
            (0..100).filter_map(|_| door.admit(now, false, 0, (0, 0)).err()).collect();
        assert_eq!(refused.len(), 70);
        assert!(refused.iter().all(|(status, _)| *status == 503));
        let later: std::collections::BTreeSet<u32> = (0..70).map(|_| door.retry_after()).collect();
        assert!(later.len() > 10 && later.iter().all(|seconds| RETRY_AFTER.contains(seconds)), "{later:?}");
        let second = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| door.admit(second, false, 0, (0, 0)).is_ok()).count(), 30);
        let mut open = intake(0, 0, 503);
        assert!((0..5000).all(|_| open.admit(now, false, 0, (0, 0)).is_ok()));
    }

    #[test]
    fn the_number_of_calls_is_limited_over_all_and_by_peer() {
        let now = Instant::now();
        let status = |door: &mut Intake, calls, of_peer| {
            door.admit(now, false, calls, of_peer).err().map(|(status, _)| status)
        };
        let mut door = intake(2, 0, 503);
        assert_eq!(status(&mut door, 1, (0, 0)), None);
        assert_eq!(status(&mut door, 2, (0, 0)), Some(503));
        assert_eq!(status(&mut door, 1, (1, 1)), Some(503));
        assert_eq!(status(&mut door, 1, (1, 2)), None);
        assert_eq!(status(&mut intake(2, 0, 486), 2, (0, 0)), Some(486));
        assert_eq!(door.room(1), (1, 2));
        assert_eq!(door.room(5), (0, 5));
    }

    #[test]
    fn draining_refuses_before_anything_else() {
        let refusal = intake(2, 30, 486).admit(Instant::now(), true, 0, (0, 0));
        assert_eq!(refusal, Err((503, "Service Unavailable")));
    }
}
