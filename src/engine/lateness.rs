//! How late the beats of all calls come: one histogram for the process. Pure but for atomics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in seconds; the last one is open.
pub const BOUNDS_S: [f64; 9] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5];
const BUCKETS: usize = BOUNDS_S.len() + 1;

/// Written by the media thread, read by the console.
#[derive(Debug, Default)]
pub struct Lateness {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

/// What was counted so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatenessFigures {
    /// Beats in each bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    pub sum_s: f64,
}

impl Lateness {
    /// A beat came so late.
    pub fn note(&self, late: Duration) {
        let seconds = late.as_secs_f64();
        let bucket = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn read(&self) -> LatenessFigures {
        LatenessFigures {
            buckets: std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)),
            sum_s: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

impl LatenessFigures {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound in seconds that this share of all beats keeps, 0 to 1; `None`: there was none, or they keep no bound.
    pub fn bound_of(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        BOUNDS_S.get(bucket).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_fall_into_the_bucket_of_their_lateness() {
        let lateness = Lateness::default();
        assert_eq!(lateness.read().bound_of(0.5), None);
        for _ in 0..99 {
            lateness.note(Duration::from_micros(700));
        }
        lateness.note(Duration::from_secs(3));
        let figures = lateness.read();
        assert_eq!((figures.count(), figures.buckets[1], figures.buckets[9]), (100, 99, 1));
        assert_eq!((figures.bound_of(0.5), figures.bound_of(0.99)), (Some(0.001), Some(0.001)));
        assert_eq!(figures.bound_of(1.0), None, "one kept no bound");
        assert!((figures.sum_s - 3.0693).abs() < 1e-6);
    }
}
