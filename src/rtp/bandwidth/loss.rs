//! The rate that follows from loss: cut when much is lost, held when some is, raised slowly when hardly any is
//! (draft-ietf-rmcat-gcc-02 §6). Loss that does not fall with the rate is the path's own, as on radio, and is left out.
//!
//! Rates are bits a second.

use std::time::{Duration, Instant};

/// Above this share the rate is cut, below the other it is raised.
const MUCH: f64 = 0.10;
const LITTLE: f64 = 0.02;
const GROWTH: f64 = 1.08;
/// Judged over at least so many packets and so much time.
const PACKETS_MIN: u64 = 40;
const TIME_MIN: Duration = Duration::from_millis(400);
/// Longer silence counts as this.
const TIME_MAX: Duration = Duration::from_secs(2);
/// After a cut to this share the loss must have fallen to this share, or it is no congestion.
const TRIED: f64 = 0.7;
const FALLEN: f64 = 0.7;
/// More than this is never the path's own.
const OWN_MAX: f64 = 0.3;
/// The path's own loss is forgotten in about so long.
const FORGET: Duration = Duration::from_secs(60);

/// A rate under control.
#[derive(Debug)]
pub struct Loss {
    bits: f64,
    bounds: (f64, f64),
    expected: u64,
    lost: u64,
    judged: Option<Instant>,
    /// Rate and loss when cutting began.
    episode: Option<(f64, f64)>,
    /// Loss that is there whatever is sent.
    own: f64,
    /// The last share judged, 0 to 1.
    share: f64,
}

impl Loss {
    /// Begins at the upper bound.
    pub fn new(bounds: (f64, f64)) -> Self {
        Loss {
            bits: bounds.1,
            bounds,
            expected: 0,
            lost: 0,
            judged: None,
            episode: None,
            own: 0.0,
            share: 0.0,
        }
    }

    pub fn bits(&self) -> f64 {
        self.bits
    }

    pub fn share(&self) -> f64 {
        self.share
    }

    pub fn set_bounds(&mut self, bounds: (f64, f64)) {
        if self.bits >= self.bounds.1 {
            self.bits = bounds.1;
        }
        self.bounds = bounds;
        self.bits = self.bits.clamp(bounds.0, bounds.1.max(bounds.0));
    }

    /// The peer tells of so many packets, so many of them lost, since it last did. `through`: what is really sent.
    pub fn told(&mut self, now: Instant, expected: u64, lost: u64, through: Option<f64>) {
        self.expected += expected;
        self.lost += lost.min(expected);
        let passed = now.saturating_duration_since(*self.judged.get_or_insert(now));
        if self.expected < PACKETS_MIN || passed < TIME_MIN {
            return;
        }
        self.judged = Some(now);
        self.share = self.lost as f64 / self.expected as f64;
        (self.expected, self.lost) = (0, 0);
        self.judge(passed.min(TIME_MAX), through);
    }

    fn judge(&mut self, passed: Duration, through: Option<f64>) {
        let share = self.share;
        self.own -= self.own * passed.as_secs_f64() / FORGET.as_secs_f64();
        let excess = (share - self.own).max(0.0);
        if excess > MUCH {
            let (began_at, began_with) = *self.episode.get_or_insert((self.bits, share));
            let tried = self.bits <= TRIED * began_at;
            if tried && share < OWN_MAX && share > FALLEN * began_with {
                self.own = share;
                self.episode = None;
                return;
            }
            // An encoder that sends less than it may must feel the cut too.
            let from = through.map_or(self.bits, |through| self.bits.min(HEADROOM * through));
            self.bits = from * (1.0 - 0.5 * share);
        } else if excess < LITTLE {
            self.episode = None;
            self.bits = (self.bits * GROWTH.powf(passed.as_secs_f64())) + 1000.0 * passed.as_secs_f64();
        }
        self.bits = self.bits.clamp(self.bounds.0, self.bounds.1.max(self.bounds.0));
    }
}

const HEADROOM: f64 = 1.5;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: (f64, f64) = (100_000.0, 1_000_000.0);

    /// A report a second for `seconds` on a path that carries `carried` bits a second and loses `own` of all packets.
    fn after(loss: &mut Loss, start: Instant, seconds: std::ops::Range<u64>, carried: f64, own: f64) -> f64 {
        let mut sum = 0.0;
        for second in seconds.clone() {
            let sent = loss.bits() / 8.0 / 1200.0;
            let arrived = sent.min(carried / 8.0 / 1200.0) * (1.0 - own);
            loss.told(
                start + Duration::from_secs(second),
                sent as u64,
                (sent - arrived).round() as u64,
                None,
            );
            sum += loss.bits();
        }
        sum / (seconds.end - seconds.start) as f64
    }

    #[test]
    fn a_bottleneck_is_found_and_left_again() {
        let start = Instant::now();
        let mut loss = Loss::new(BOUNDS);
        after(&mut loss, start, 0..30, 300_000.0, 0.0);
        let mean = after(&mut loss, start, 30..60, 300_000.0, 0.0);
        assert!((240_000.0..360_000.0).contains(&mean), "{mean}");
        after(&mut loss, start, 60..85, 5_000_000.0, 0.0);
        assert_eq!(loss.bits(), BOUNDS.1);
    }

    #[test]
    fn loss_of_the_path_itself_does_not_starve_the_picture() {
        let start = Instant::now();
        for (own, least) in [(0.01, 990_000.0), (0.05, 990_000.0), (0.13, 500_000.0)] {
            let mut loss = Loss::new(BOUNDS);
            let mean = after(&mut loss, start, 0..120, 5_000_000.0, own);
            assert!(mean > least, "{mean} at {own}");
        }
    }

    #[test]
    fn a_few_lost_packets_are_not_judged() {
        let start = Instant::now();
        let mut loss = Loss::new(BOUNDS);
        loss.told(start, 3, 3, None);
        loss.told(start + Duration::from_millis(100), 3, 3, None);
        assert_eq!(loss.bits(), BOUNDS.1);
    }
}
