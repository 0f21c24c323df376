//! How long packets of an audio stream take: the fastest of late, and what nearly all others need beyond it.
//!
//! Microseconds on the receiver's clock. What to do about it is `jitter`.

/// Bounds of the target.
const TARGET_MIN_US: i64 = 10_000;
const TARGET_MAX_US: i64 = 250_000;
/// This late, several times in a row, is a new path and not jitter.
const FAR_US: i64 = 300_000;
const FAR_RUN: u32 = 5;
const BUCKETS: usize = 120;
const BUCKET_US: i64 = 2_500;
/// The last 100 packets, in parts so that the oldest can be forgotten.
const PARTS: usize = 4;
const PART_PACKETS: u32 = 25;

/// What is remembered of one part of the last packets.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// The smallest difference between arrival and timestamp.
    fastest: Option<i64>,
    /// How late the latest came, and the second latest.
    latest: [i64; 2],
}

/// How fast packets come: the fastest of the last 100, and how much longer the others take.
#[derive(Debug)]
pub struct Timing {
    parts: [Part; PARTS],
    part: usize,
    in_part: u32,
    /// Share of packets by how much later than the fastest they came, newer ones weighing more.
    late: [f32; BUCKETS],
    target_us: i64,
    /// Waited beyond that: a block may need two packets, or the packet that repairs it.
    pub more_us: i64,
    far_run: u32,
    far_fastest: i64,
}

impl Default for Timing {
    fn default() -> Self {
        let mut late = [0.0; BUCKETS];
        late[0] = 1.0;
        Timing {
            parts: [Part::default(); PARTS],
            part: 0,
            in_part: 0,
            late,
            target_us: TARGET_MIN_US,
            more_us: 0,
            far_run: 0,
            far_fastest: 0,
        }
    }
}

impl Timing {
    /// Weight of one packet against all before: one alone is not yet the hundredth that counts.
    pub const WEIGHT: f32 = 0.006;
    /// The same while the last packets all came much sooner than expected: calm is believed within seconds.
    const CALM_WEIGHT: f32 = 0.03;
    /// Share of packets that may come later than the target.
    const MISSED: f32 = 0.01;

    /// The smallest difference between arrival and timestamp lately.
    pub fn base_us(&self) -> i64 {
        self.parts.iter().filter_map(|part| part.fastest).min().unwrap_or(0)
    }

    /// How long to wait beyond the fastest packets.
    pub fn target_us(&self) -> i64 {
        self.target_us.clamp(TARGET_MIN_US, TARGET_MAX_US) + self.more_us
    }

    /// Forgets how fast packets were, not how much they vary.
    pub fn rebase(&mut self) {
        self.parts.iter_mut().for_each(|part| part.fastest = None);
        self.in_part = 0;
        self.far_run = 0;
    }

    /// Notes one packet by arrival minus timestamp.
    pub fn arrive(&mut self, transit_us: i64) {
        let known = self.parts.iter().any(|part| part.fastest.is_some());
        let late = if known { transit_us - self.base_us() } else { 0 };
        if late > FAR_US {
            self.far_fastest = if self.far_run == 0 { transit_us } else { self.far_fastest.min(transit_us) };
            self.far_run += 1;
            if self.far_run < FAR_RUN {
                return;
            }
            let fastest = self.far_fastest;
            self.rebase();
            self.begin_part();
            return self.note_fastest(fastest);
        }
        self.far_run = 0;
        self.begin_part();
        self.note_fastest(transit_us);
        self.note_late(late.max(0));
    }

    fn begin_part(&mut self) {
        if self.in_part >= PART_PACKETS {
            self.in_part = 0;
            self.part = (self.part + 1) % PARTS;
            self.parts[self.part] = Part::default();
        }
        self.in_part += 1;
    }

    fn note_fastest(&mut self, transit_us: i64) {
        let fastest = &mut self.parts[self.part].fastest;
        *fastest = Some(fastest.map_or(transit_us, |fastest| fastest.min(transit_us)));
    }

    fn note_late(&mut self, late_us: i64) {
        let [first, second] = &mut self.parts[self.part].latest;
        (*first, *second) = ((*first).max(late_us), (*second).max(late_us.min(*first)));
        let latest = self.parts.iter().map(|part| part.latest[0]).max().unwrap_or(0);
        let weight = if latest < self.target_us / 2 { Self::CALM_WEIGHT } else { Self::WEIGHT };
        self.late.iter_mut().for_each(|share| *share *= 1.0 - weight);
        let bucket = (late_us / BUCKET_US).clamp(0, BUCKETS as i64 - 1) as usize;
        self.late[bucket] += weight;
        let mut missed = 0.0;
        let highest = (0..BUCKETS).rev().find(|bucket| {
            missed += self.late[*bucket];
            missed > Self::MISSED
        });
        let nearly_all = (highest.unwrap_or(0) as i64 + 1) * BUCKET_US;
        self.target_us = nearly_all.max(self.repeated_us());
    }

    /// How late two of the last packets came: twice is no accident, and waiting for a hundredth would take long.
    fn repeated_us(&self) -> i64 {
        let before = (self.part + PARTS - 1) % PARTS;
        let ([first, second], [other, another]) = (self.parts[self.part].latest, self.parts[before].latest);
        first.min(other).max(second).max(another)
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
    fn one_late_packet_is_an_accident_and_two_are_jitter() {
        let calm = std::iter::repeat_n(0, 500);
        assert_eq!(after(calm.clone().chain([90_000])).target_us(), TARGET_MIN_US);
        assert!(after(calm.clone().chain([90_000, 0, 0, 95_000])).target_us() >= 90_000);
        let long_ago = calm.clone().chain([90_000, 95_000]).chain(calm);
        assert_eq!(after(long_ago).target_us(), TARGET_MIN_US);
    }

    #[test]
    fn calm_is_believed_within_six_seconds() {
        let wild = (0..1500).map(|n| n * 37 % 201 * 1000);
        assert!(after(wild.clone()).target_us() >= 195_000);
        let mut timing = after(wild.chain(std::iter::repeat_n(0, 300)));
        assert!(timing.target_us() <= 30_000, "{}", timing.target_us());
        timing.more_us = 5_000;
        assert!(timing.target_us() >= 15_000);
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
