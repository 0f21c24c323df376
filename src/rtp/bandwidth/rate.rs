//! The rate that follows from what the path's queue does: cut below what got through when it grows, held while it
//! drains, raised carefully otherwise (draft-ietf-rmcat-gcc-02 §5.5).
//!
//! Rates are bits a second.

use std::time::{Duration, Instant};

use super::trend::Usage;

/// What is left of the received rate when the queue grows.
const CUT: f64 = 0.85;
/// Growth per second far from the limit that was found.
const GROWTH: f64 = 1.08;
/// Nothing is raised far beyond what is really sent.
const HEADROOM: f64 = 1.5;
/// Response time beside the round trip.
const RESPONSE: Duration = Duration::from_millis(100);
const PACKET_BITS: f64 = 1200.0 * 8.0;
/// Pause between two cuts.
const CUT_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(300));

/// A rate under control.
#[derive(Debug)]
pub struct Rate {
    bits: f64,
    bounds: (f64, f64),
    rises: bool,
    updated: Option<Instant>,
    cut_at: Option<Instant>,
    /// Mean and variance of the rates at which the queue began to grow.
    limit: Option<(f64, f64)>,
}

impl Rate {
    /// Begins at `start`, stays within `bounds`.
    pub fn new(start: f64, bounds: (f64, f64)) -> Self {
        Rate { bits: start, bounds, rises: true, updated: None, cut_at: None, limit: None }
    }

    pub fn bits(&self) -> f64 {
        self.bits
    }

    pub fn set_most(&mut self, most: f64) {
        self.bounds.1 = most;
        self.bits = self.bits.min(most);
    }

    /// `through`: what got through lately, once that is known.
    pub fn update(&mut self, now: Instant, usage: Usage, through: Option<f64>, round_trip: Duration) {
        let passed = self.updated.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.updated = Some(now);
        match usage {
            Usage::Over => self.cut(now, through, round_trip),
            Usage::Under => self.rises = false,
            Usage::Normal => {
                if std::mem::replace(&mut self.rises, true) {
                    self.raise(passed.min(Duration::from_secs(1)), through, round_trip);
                }
            }
        }
        self.bits = self.bits.clamp(self.bounds.0, self.bounds.1.max(self.bounds.0));
    }

    fn cut(&mut self, now: Instant, through: Option<f64>, round_trip: Duration) {
        self.rises = false;
        let pause = (round_trip + RESPONSE).clamp(CUT_PAUSE.0, CUT_PAUSE.1);
        if self.cut_at.is_some_and(|at| now.saturating_duration_since(at) < pause) {
            return;
        }
        self.cut_at = Some(now);
        let through = through.unwrap_or(self.bits);
        self.learn(through);
        self.bits = self.bits.min(CUT * through);
    }

    /// The queue grew at this rate: about so much is carried.
    fn learn(&mut self, through: f64) {
        self.limit = Some(match self.limit {
            Some((mean, variance)) if (through - mean).abs() <= 3.0 * variance.sqrt() => {
                let off = through - mean;
                (mean + 0.05 * off, (0.95 * variance + 0.05 * off * off).max(0.0004 * mean * mean))
            }
            Some(_) | None => (through, (0.05 * through) * (0.05 * through)),
        });
    }

    fn raise(&mut self, passed: Duration, through: Option<f64>, round_trip: Duration) {
        let most = through.map_or(f64::INFINITY, |through| HEADROOM * through + 10_000.0);
        if self.bits >= most {
            return;
        }
        let near = self.limit.filter(|(mean, variance)| {
            let through = through.unwrap_or(self.bits);
            (through - mean).abs() <= 3.0 * variance.sqrt()
        });
        if through.is_some_and(|through| self.limit.is_some_and(|(mean, _)| through > 1.3 * mean)) {
            // The path carries more than it did.
            self.limit = None;
        }
        let seconds = passed.as_secs_f64();
        let raised = match near {
            Some(_) => {
                self.bits + (PACKET_BITS / (round_trip + RESPONSE).as_secs_f64()).max(4000.0) * seconds
            }
            None => (self.bits * GROWTH.powf(seconds)).max(self.bits + 1000.0 * seconds),
        };
        self.bits = raised.min(most).max(self.bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_growing_queue_cuts_below_what_got_through_and_calm_raises_slowly() {
        let start = Instant::now();
        let mut rate = Rate::new(1_000_000.0, (50_000.0, 2_000_000.0));
        rate.update(start, Usage::Over, Some(600_000.0), MS(50));
        assert_eq!(rate.bits(), 510_000.0);
        rate.update(start + MS(50), Usage::Over, Some(500_000.0), MS(50));
        assert_eq!(rate.bits(), 510_000.0, "not twice within a round trip");
        for ms in (100..2_000).step_by(50) {
            rate.update(start + MS(ms), Usage::Under, Some(500_000.0), MS(50));
        }
        assert_eq!(rate.bits(), 510_000.0, "held while the queue drains");
        for ms in (2_000..12_000).step_by(50) {
            rate.update(start + MS(ms), Usage::Normal, Some(510_000.0), MS(50));
        }
        assert!((600_000.0..800_000.0).contains(&rate.bits()), "{}", rate.bits());
    }

    #[test]
    fn what_is_not_used_is_not_raised() {
        let start = Instant::now();
        let mut rate = Rate::new(500_000.0, (50_000.0, 2_000_000.0));
        for s in 0..60 {
            rate.update(start + MS(s * 1000), Usage::Normal, Some(300_000.0), MS(50));
        }
        assert_eq!(rate.bits(), 500_000.0);
    }
}
