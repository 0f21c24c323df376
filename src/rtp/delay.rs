//! How long packets of an audio stream take: the fastest of late, and what nearly all others need beyond it.
//!
//! Microseconds on the receiver's clock. What to do about it is `jitter`.

/// Bounds of the target.
pub const TARGET_MIN_US: i64 = 10_000;
pub const TARGET_MAX_US: i64 = 200_000;
/// This late, several times in a row, is a new path and not jitter.
const FAR_US: i64 = 300_000;
const FAR_RUN: u32 = 5;
const BUCKETS: usize = 80;
const BUCKET_US: i64 = 5_000;
const PARTS: usize = 4;
const PART_PACKETS: u32 = 25;

/// How fast packets come: the fastest of the last 100, and how much longer the others take.
#[derive(Debug)]
pub struct Timing {
    parts: [Option<i64>; PARTS],
    part: usize,
    in_part: u32,
    /// Share of packets by how much later than the fastest they came, newer ones weighing more.
    late: [f32; BUCKETS],
    target_us: i64,
    /// The least target; more where a block needs two packets.
    pub floor_us: i64,
    far_run: u32,
    far_fastest: i64,
}

impl Default for Timing {
    fn default() -> Self {
        let mut late = [0.0; BUCKETS];
        late[0] = 1.0;
        Timing {
            parts: [None; PARTS],
            part: 0,
            in_part: 0,
            late,
            target_us: TARGET_MIN_US,
            floor_us: TARGET_MIN_US,
            far_run: 0,
            far_fastest: 0,
        }
    }
}

impl Timing {
    /// Weight of one packet against all before: what it says is forgotten in about 1.3 s.
    const WEIGHT: f32 = 0.015;
    /// Share of packets that may come later than the target.
    const MISSED: f32 = 0.01;

    /// The smallest difference between arrival and timestamp lately.
    pub fn base_us(&self) -> i64 {
        self.parts.iter().flatten().min().copied().unwrap_or(0)
    }

    /// What nearly all packets need beyond the fastest.
    pub fn target_us(&self) -> i64 {
        self.target_us.clamp(self.floor_us, TARGET_MAX_US)
    }

    /// Forgets how fast packets were, not how much they vary.
    pub fn rebase(&mut self) {
        self.parts = [None; PARTS];
        self.in_part = 0;
        self.far_run = 0;
    }

    /// Notes one packet by arrival minus timestamp.
    pub fn arrive(&mut self, transit_us: i64) {
        let known = self.parts.iter().any(Option::is_some);
        let late = if known { transit_us - self.base_us() } else { 0 };
        if late > FAR_US {
            self.far_fastest = if self.far_run == 0 { transit_us } else { self.far_fastest.min(transit_us) };
            self.far_run += 1;
            if self.far_run < FAR_RUN {
                return;
            }
            let fastest = self.far_fastest;
            self.rebase();
            return self.note_fastest(fastest);
        }
        self.far_run = 0;
        self.note_fastest(transit_us);
        self.note_late(late.max(0));
    }

    fn note_fastest(&mut self, transit_us: i64) {
        if self.in_part >= PART_PACKETS {
            self.in_part = 0;
            self.part = (self.part + 1) % PARTS;
            self.parts[self.part] = None;
        }
        self.in_part += 1;
        let fastest = &mut self.parts[self.part];
        *fastest = Some(fastest.map_or(transit_us, |fastest| fastest.min(transit_us)));
    }

    fn note_late(&mut self, late_us: i64) {
        self.late.iter_mut().for_each(|share| *share *= 1.0 - Self::WEIGHT);
        let bucket = (late_us / BUCKET_US).clamp(0, BUCKETS as i64 - 1) as usize;
        self.late[bucket] += Self::WEIGHT;
        let mut missed = 0.0;
        let highest = (0..BUCKETS).rev().find(|bucket| {
            missed += self.late[*bucket];
            missed > Self::MISSED
        });
        self.target_us = (highest.unwrap_or(0) as i64 + 2) * BUCKET_US;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lates: impl IntoIterator<Item = i64>) -> Timing {
        let mut timing = Timing::default();
        lates.into_iter().for_each(|late| timing.arrive(1_000_000 + late));
        timing
    }

    #[test]
    fn the_target_covers_nearly_all_packets() {
        assert_eq!(after((0..1000).map(|n| n % 4 * 1000)).target_us(), 10_000);
        let spread = after((0..1000).map(|n| n * 37 % 101 * 1000));
        assert!((95_000..=110_000).contains(&spread.target_us()), "{}", spread.target_us());
        assert_eq!(after((0..1000).map(|n| n * 37 % 280 * 1000)).target_us(), TARGET_MAX_US);
    }

    #[test]
    fn one_late_packet_counts_for_half_a_second_only() {
        let calm = std::iter::repeat_n(0, 500);
        assert!(after(calm.clone().chain([90_000])).target_us() >= 90_000);
        assert_eq!(after(calm.chain([90_000]).chain(std::iter::repeat_n(0, 30))).target_us(), TARGET_MIN_US);
    }

    #[test]
    fn the_fastest_follows_the_path_both_ways() {
        assert_eq!(after(std::iter::repeat_n(0, 50).chain([-30_000])).base_us(), 970_000);
        assert_eq!(
            after(std::iter::repeat_n(0, 50).chain(std::iter::repeat_n(500_000, 5))).base_us(),
            1_500_000
        );
        assert_eq!(
            after(std::iter::repeat_n(0, 50).chain(std::iter::repeat_n(80_000, 101))).base_us(),
            1_080_000
        );
    }
}
