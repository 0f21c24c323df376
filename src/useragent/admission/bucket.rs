//! A token bucket: so many at once, so many a second after that.

use std::time::Instant;

/// What a bucket allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    /// At once, and after a pause.
    pub burst: f64,
}

/// One source's tokens.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub fn full(now: Instant, rate: Rate) -> Self {
        Bucket { tokens: rate.burst, at: now }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.at = self.at.max(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_a_rate() {
        let rate = Rate { per_second: 8.0, burst: 32.0 };
        let start = Instant::now();
        let mut bucket = Bucket::full(start, rate);
        assert_eq!((0..1000).filter(|_| bucket.take(start, rate)).count(), 32);
        let of_a_second = (1..=1000).filter(|n| bucket.take(start + Duration::from_millis(*n), rate)).count();
        assert_eq!(of_a_second, 8);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| bucket.take(later, rate)).count(), 32);
        // Time that runs backwards gives nothing.
        assert!(!bucket.take(start, rate));
    }
}
