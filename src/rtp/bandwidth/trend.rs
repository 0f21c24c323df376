//! Whether a queue grows on the path: the one-way delay of groups of packets sent together, followed by a line through
//! the last of them, against a threshold that adapts (the arrival-time filter and over-use detector of
//! draft-ietf-rmcat-gcc-02 §4, with a line fit in place of the Kalman filter).
//!
//! Times are microseconds of two clocks that need not agree. What rate follows from it is `rate`'s.

use std::collections::VecDeque;

/// Packets sent within this belong together.
const GROUP_MICROS: i64 = 5_000;
/// Groups the line is drawn through.
const WINDOW: usize = 20;
const SMOOTHING: f64 = 0.9;
/// How strongly the slope counts, and up to how many groups it grows.
const GAIN: f64 = 4.0;
const DELTAS_MAX: u32 = 60;
/// The threshold in ms: where it starts, its bounds, and how it follows per ms (down, up).
const THRESHOLD: f64 = 12.5;
const THRESHOLD_BOUNDS: (f64, f64) = (6.0, 600.0);
const FOLLOW: (f64, f64) = (0.039, 0.0087);
/// A slope so far above the threshold is a spike and moves nothing.
const SPIKE: f64 = 15.0;
/// Growing must last so long, in ms of sending time.
const OVER_MS: f64 = 10.0;
/// After such a pause what was known of the queue is void.
const PAUSE_MICROS: i64 = 3_000_000;

/// What the path's queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    #[default]
    Normal,
    /// It grows: more is sent than is carried.
    Over,
    /// It drains.
    Under,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: i64,
    last_sent: i64,
    first_arrived: i64,
    last_arrived: i64,
}

/// Follows one path.
#[derive(Debug)]
pub struct Trend {
    /// A group counts from when its first packet came: its others were spread by the sender.
    by_first: bool,
    current: Option<Group>,
    before: Option<Group>,
    deltas: u32,
    accumulated: f64,
    smoothed: f64,
    /// Arrival and smoothed delay, in ms.
    points: VecDeque<(f64, f64)>,
    origin: Option<i64>,
    threshold: f64,
    threshold_at: Option<f64>,
    over_ms: f64,
    over_count: u32,
    slope_before: f64,
    usage: Usage,
}

impl Trend {
    /// `by_first`: sending times are those of whole pictures, whose packets are spread.
    pub fn new(by_first: bool) -> Self {
        Trend {
            by_first,
            current: None,
            before: None,
            deltas: 0,
            accumulated: 0.0,
            smoothed: 0.0,
            points: VecDeque::with_capacity(WINDOW),
            origin: None,
            threshold: THRESHOLD,
            threshold_at: None,
            over_ms: 0.0,
            over_count: 0,
            slope_before: 0.0,
            usage: Usage::Normal,
        }
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// One packet: when it was sent, when it came.
    pub fn packet(&mut self, sent: i64, arrived: i64) {
        let fresh =
            Group { first_sent: sent, last_sent: sent, first_arrived: arrived, last_arrived: arrived };
        let Some(group) = &mut self.current else {
            self.current = Some(fresh);
            return;
        };
        if (sent - group.last_sent).abs() > PAUSE_MICROS
            || (arrived - group.last_arrived).abs() > PAUSE_MICROS
        {
            *self = Trend { threshold: self.threshold, ..Trend::new(self.by_first) };
            self.current = Some(fresh);
            return;
        }
        if sent < group.first_sent {
            return;
        }
        let together = sent - group.first_sent <= GROUP_MICROS;
        // What waited somewhere comes in one go: it says nothing of the path.
        let (sent_by, came_by) = (sent - group.last_sent, arrived - group.last_arrived);
        let burst = came_by < sent_by && came_by <= GROUP_MICROS && arrived - group.first_arrived < 100_000;
        if together || (burst && !self.by_first) {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrived = group.last_arrived.max(arrived);
            return;
        }
        let done = std::mem::replace(group, fresh);
        if let Some(before) = self.before.replace(done) {
            self.group(&before, &done);
        }
    }

    fn group(&mut self, before: &Group, group: &Group) {
        let ms = |micros: i64| micros as f64 / 1000.0;
        let (sent, arrived) = if self.by_first {
            (group.first_sent - before.first_sent, group.first_arrived - before.first_arrived)
        } else {
            (group.last_sent - before.last_sent, group.last_arrived - before.last_arrived)
        };
        let origin = *self.origin.get_or_insert(group.last_arrived);
        self.deltas = (self.deltas + 1).min(DELTAS_MAX);
        self.accumulated += ms(arrived - sent);
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.accumulated;
        if self.points.len() >= WINDOW {
            self.points.pop_front();
        }
        let at = ms(group.last_arrived - origin);
        self.points.push_back((at, self.smoothed));
        let slope = if self.points.len() < WINDOW { self.slope_before } else { slope(&self.points) };
        self.detect(at, ms(sent), slope);
    }

    fn detect(&mut self, at: f64, sent_ms: f64, slope: f64) {
        let strength = f64::from(self.deltas) * slope * GAIN;
        if strength > self.threshold {
            self.over_ms += if self.over_count == 0 { sent_ms / 2.0 } else { sent_ms };
            self.over_count += 1;
            if self.over_ms > OVER_MS && self.over_count > 1 && slope >= self.slope_before {
                self.over_ms = 0.0;
                self.over_count = 0;
                self.usage = Usage::Over;
            }
        } else {
            self.over_ms = 0.0;
            self.over_count = 0;
            self.usage = if strength < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        self.slope_before = slope;
        let passed = self.threshold_at.map_or(0.0, |before| (at - before).clamp(0.0, 100.0));
        self.threshold_at = Some(at);
        if strength.abs() > self.threshold + SPIKE {
            return;
        }
        let follow = if strength.abs() < self.threshold { FOLLOW.0 } else { FOLLOW.1 };
        self.threshold += follow * (strength.abs() - self.threshold) * passed;
        self.threshold = self.threshold.clamp(THRESHOLD_BOUNDS.0, THRESHOLD_BOUNDS.1);
    }
}

/// Of the least-squares line through the points.
fn slope(points: &VecDeque<(f64, f64)>) -> f64 {
    let count = points.len() as f64;
    let sums = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let mean = (sums.0 / count, sums.1 / count);
    let parts = points.iter().fold((0.0, 0.0), |(both, own), (x, y)| {
        let dx = x - mean.0;
        (both + dx * (y - mean.1), own + dx * dx)
    });
    if parts.1 > 0.0 { parts.0 / parts.1 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// 60 packets a second with jitter up to `jitter` ms; each waits `growth` ms longer than the one before. How often
    /// each usage was seen in the last half.
    fn seen(jitter: i64, growth: f64) -> [usize; 3] {
        let mut random = StdRng::seed_from_u64(2);
        let mut trend = Trend::new(false);
        let mut counts = [0; 3];
        for n in 0..300i64 {
            let sent = n * 16_667;
            let queue = (n.max(150) - 150) as f64 * growth * 1000.0;
            trend.packet(sent, 5_000_000 + sent + queue as i64 + random.random_range(0..=jitter * 1000));
            if n > 160 {
                counts[trend.usage() as usize] += 1;
            }
        }
        counts
    }

    #[test]
    fn a_growing_queue_is_noticed_and_jitter_is_not_taken_for_one() {
        let [_, over, _] = seen(2, 3.0);
        assert!(over > 40, "{over}");
        for jitter in [1, 5, 10] {
            assert!(seen(jitter, 0.0)[1] <= 3, "{:?} at {jitter} ms", seen(jitter, 0.0));
        }
    }

    #[test]
    fn a_draining_queue_and_a_pause_are_told_apart() {
        let mut trend = Trend::new(true);
        for n in 0..200i64 {
            let queue = if n < 100 { n * 3000 } else { 300_000 - (n - 100) * 3000 };
            trend.packet(n * 40_000, n * 40_000 + queue);
        }
        assert_eq!(trend.usage(), Usage::Under);
        trend.packet(100_000_000, 100_000_000);
        assert_eq!(trend.usage(), Usage::Normal);
    }
}
