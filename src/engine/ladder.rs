//! Which size and how many pictures a second suit a bitrate: a small clean picture is better than a large one of
//! blocks. Down at once when the rate is too low for the size, up again only when it was enough for a while.
//!
//! Pure; what the peer can take at all is `coding`'s.

use std::time::Duration;

use crate::base::time::Pts;
use crate::media::frame::Size;

/// Bits per pixel below which a picture of an encoder in a hurry falls apart, and above which the next size up holds.
const LEAN: f64 = 0.035;
const RICH: f64 = 0.060;
/// Every rung is a new key picture: they are so far apart, and so long must the rate have been rich.
const PAUSE: Duration = Duration::from_secs(2);
const CALM: Duration = Duration::from_secs(6);
/// No picture gets smaller than this on its shorter side.
const SMALLEST: usize = 120;

/// Parts of the size in eighths, and every how many pictures one is sent.
const RUNGS: [(usize, u32); 6] = [(8, 1), (6, 1), (4, 1), (4, 2), (3, 2), (2, 2)];

/// Where one stream stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ladder {
    rung: usize,
    changed: Option<Pts>,
    rich_since: Option<Pts>,
    /// Mean distance of pictures in seconds, and the last one.
    distance: Option<f64>,
    last: Option<Pts>,
    number: u32,
}

impl Ladder {
    /// A picture of `size` at `pts` comes up with `kbps` for all of them: the size it is sent in, and whether it is sent
    /// at all.
    pub fn place(&mut self, pts: Pts, size: Size, kbps: u32, fps: u32) -> (Size, bool) {
        self.follow(pts);
        let fps = self.distance.map_or(f64::from(fps), |distance| (1.0 / distance).min(f64::from(fps)));
        self.step(pts, size, f64::from(kbps) * 1000.0, fps.max(1.0));
        let (_, every) = RUNGS[self.rung];
        self.number = self.number.wrapping_add(1);
        (scaled(size, self.rung), self.number.is_multiple_of(every))
    }

    fn follow(&mut self, pts: Pts) {
        let before = self.last.replace(pts);
        let passed = before.map(|before| (pts - before) as f64 / 1e9);
        // A pause of the source says nothing of its rate.
        if let Some(passed) = passed.filter(|passed| (0.005..1.0).contains(passed)) {
            self.distance = Some(self.distance.map_or(passed, |mean| mean + (passed - mean) / 16.0));
        }
    }

    fn step(&mut self, pts: Pts, size: Size, bits: f64, fps: f64) {
        let since = |at: Pts| u64::try_from(pts - at).map_or(Duration::ZERO, Duration::from_nanos);
        let last = usable(size);
        let fits = |rung: usize, per_pixel: f64| bits >= per_pixel * pixels_a_second(size, rung, fps);
        if self.rung > last {
            self.rung = last;
        }
        if !fits(self.rung, LEAN) {
            self.rich_since = None;
            if self.rung < last && self.changed.is_none_or(|at| since(at) >= PAUSE) {
                self.rung = (self.rung..=last).find(|rung| fits(*rung, LEAN)).unwrap_or(last);
                self.changed = Some(pts);
            }
            return;
        }
        if self.rung == 0 || !fits(self.rung - 1, RICH) {
            self.rich_since = None;
        } else if since(*self.rich_since.get_or_insert(pts)) >= CALM {
            self.rung = (0..self.rung).find(|rung| fits(*rung, RICH)).unwrap_or(self.rung - 1);
            (self.changed, self.rich_since) = (Some(pts), None);
        }
    }
}

/// The last rung whose picture is not too small.
fn usable(size: Size) -> usize {
    (0..RUNGS.len()).rev().find(|rung| shorter(scaled(size, *rung)) >= SMALLEST).unwrap_or(0)
}

fn shorter(size: Size) -> usize {
    size.width.min(size.height)
}

fn scaled(size: Size, rung: usize) -> Size {
    let (eighths, _) = RUNGS[rung];
    if eighths == 8 {
        return size;
    }
    let even = |side: usize| (side * eighths / 8) & !1;
    Size::new(even(size.width), even(size.height))
}

fn pixels_a_second(size: Size, rung: usize, fps: f64) -> f64 {
    let (scaled, (_, every)) = (scaled(size, rung), RUNGS[rung]);
    (scaled.width * scaled.height) as f64 * fps / f64::from(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VGA: Size = Size::new(640, 360);

    /// Plays `(seconds, kbps)` at 15 pictures a second; sizes with the second they were first seen at.
    fn play(ladder: &mut Ladder, parts: &[(i64, u32)]) -> Vec<(i64, String)> {
        let (mut seen, mut ms) = (Vec::new(), 0);
        for (seconds, kbps) in parts {
            let end = ms + seconds * 1000;
            while ms < end {
                let pts = Pts::from_millis(ms);
                if let (size, true) = ladder.place(pts, VGA, *kbps, 15)
                    && seen.last().is_none_or(|(_, last)| *last != size.to_string())
                {
                    seen.push((ms / 1000, size.to_string()));
                }
                ms += 66;
            }
        }
        seen
    }

    #[test]
    fn a_rate_too_low_for_the_size_gives_a_smaller_picture_and_a_rich_one_the_larger_again() {
        let seen = play(&mut Ladder::default(), &[(10, 800), (20, 60), (20, 300)]);
        let sizes: Vec<&str> = seen.iter().map(|(_, size)| size.as_str()).collect();
        assert_eq!(sizes, ["640x360", "320x180", "640x360"]);
        assert!(seen[1].0 == 10 && (36..=38).contains(&seen[2].0), "{seen:?}");
    }

    #[test]
    fn a_rate_that_swings_does_not_make_the_size_swing() {
        let parts: Vec<(i64, u32)> = (0..30).map(|n| (3, if n % 2 == 0 { 70 } else { 130 })).collect();
        let seen = play(&mut Ladder::default(), &parts);
        assert!(seen.len() <= 3, "{seen:?}");
    }

    #[test]
    fn pictures_are_left_out_before_they_become_stamps() {
        let mut ladder = Ladder::default();
        let sent = |ladder: &mut Ladder, ms: std::ops::Range<i64>| {
            let pictures = ms.step_by(66).map(|ms| ladder.place(Pts::from_millis(ms), VGA, 20, 15));
            pictures.filter(|(_, sent)| *sent).map(|(size, _)| size.height).collect::<Vec<_>>()
        };
        sent(&mut ladder, 0..3000);
        let heights = sent(&mut ladder, 3000..6000);
        assert!(heights.len() <= 24 && heights.iter().all(|height| *height >= SMALLEST), "{heights:?}");
        let mut small = Ladder::default();
        assert_eq!(small.place(Pts::ZERO, Size::new(96, 64), 16, 30), (Size::new(96, 64), true));
    }
}
