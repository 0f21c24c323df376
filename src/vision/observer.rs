//! When a general detector is worth running, and how long its boxes may be shown.
//!
//! An observer hides nothing: it may skip pictures and lag behind. The driver that owns the thread takes the newest
//! clean picture, asks [`Observer::wants`], runs the detector, and tells [`Observer::saw`].

use std::time::{Duration, Instant};

use crate::base::time::Pts;
use crate::media::codec::Detection;
use crate::media::frame::{Frame, Plane, Size};

/// How a general detector is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObserverSettings {
    /// Looks per second at most.
    pub fps: f32,
    /// Do not look while nothing moves.
    pub motion_gate: bool,
    /// How long after the picture they were found in boxes may be shown.
    pub show_for: Duration,
    /// Look at least this often, even when nothing moves.
    pub look_again: Duration,
}

impl Default for ObserverSettings {
    fn default() -> Self {
        ObserverSettings {
            fps: 5.0,
            motion_gate: true,
            show_for: Duration::from_millis(700),
            look_again: Duration::from_secs(5),
        }
    }
}

/// Boxes and the picture they were found in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boxes {
    pub found: Vec<Detection>,
    /// Time of that picture.
    pub pts: Pts,
    /// Size of that picture.
    pub size: Option<Size>,
    /// The last moment at which they may be shown.
    pub until: Pts,
}

impl Boxes {
    /// What may be shown on a picture of `pts` and `size`.
    pub fn at(&self, pts: Pts, size: Size) -> &[Detection] {
        let valid = pts <= self.until && self.size == Some(size);
        if valid { &self.found } else { &[] }
    }
}

/// Counted per observer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObserverCounters {
    pub looks: u64,
    /// Pictures that came sooner than the next look was due.
    pub too_soon: u64,
    /// Pictures not looked at because nothing had moved.
    pub still: u64,
}

/// Decides for one general detector of one call.
#[derive(Debug)]
pub struct Observer {
    settings: ObserverSettings,
    motion: Motion,
    due: Option<Instant>,
    looked: Option<Instant>,
    boxes: Boxes,
    counters: ObserverCounters,
}

impl Observer {
    pub fn new(settings: ObserverSettings) -> Self {
        Observer {
            settings,
            motion: Motion::default(),
            due: None,
            looked: None,
            boxes: Boxes::default(),
            counters: ObserverCounters::default(),
        }
    }

    /// Whether to run the detector on `picture`. True counts as a look.
    pub fn wants(&mut self, now: Instant, picture: &Frame) -> bool {
        let period = Duration::from_secs_f32(1.0 / self.settings.fps.clamp(0.01, 1000.0));
        // Pictures do not come exactly on time; without slack every jitter would cost a whole picture.
        if self.due.is_some_and(|due| now + period / 8 < due) {
            self.counters.too_soon += 1;
            return false;
        }
        let stale =
            self.looked.is_none_or(|then| now.saturating_duration_since(then) >= self.settings.look_again);
        if self.settings.motion_gate && !self.motion.moved(picture) && !stale {
            // Nothing moved, so the boxes are still where they were.
            self.boxes.until = self.boxes.until.max(picture.pts() + self.settings.show_for);
            self.counters.still += 1;
            return false;
        }
        self.motion.remember(picture);
        self.due = Some(self.due.map_or(now + period, |due| (due + period).max(now + period / 2)));
        self.looked = Some(now);
        self.counters.looks += 1;
        true
    }

    /// The detector found `found` in the picture of `pts` and `size`.
    pub fn saw(&mut self, pts: Pts, size: Size, found: Vec<Detection>) {
        self.boxes = Boxes { found, pts, size: Some(size), until: pts + self.settings.show_for };
    }

    /// The detector could not look: the next picture is worth a look, boxes run out by themselves.
    pub fn failed(&mut self) {
        self.motion.forget();
        self.looked = None;
    }

    /// The boxes of the last look, with the time until which they may be shown.
    pub fn boxes(&self) -> &Boxes {
        &self.boxes
    }

    pub fn counters(&self) -> ObserverCounters {
        self.counters
    }
}

const COLUMNS: usize = 64;
const ROWS: usize = 36;
/// A point changed when its luma did by this much: above sensor noise and what an encoder adds.
const POINT_CHANGED: u8 = 14;
/// Points that must have changed: 0.4 % of the grid, a hand at the far end of a room.
const POINTS_MOVED: usize = COLUMNS * ROWS / 250;

/// Compares a picture with the last one looked at, on a coarse grid: the cost does not depend on the picture's size.
///
/// Comparing with the last *look* and not with the last picture also notices what moves slowly.
#[derive(Debug, Default)]
struct Motion {
    size: Option<Size>,
    grid: Vec<u8>,
}

impl Motion {
    fn moved(&self, picture: &Frame) -> bool {
        if self.size != Some(picture.size()) {
            return true;
        }
        let changed = grid(picture).zip(&self.grid).filter(|(new, old)| new.abs_diff(**old) >= POINT_CHANGED);
        changed.take(POINTS_MOVED).count() >= POINTS_MOVED
    }

    fn remember(&mut self, picture: &Frame) {
        self.size = Some(picture.size());
        self.grid.clear();
        self.grid.extend(grid(picture));
    }

    fn forget(&mut self) {
        self.size = None;
    }
}

/// The mean of four neighbouring pixels at each point of the grid.
fn grid(picture: &Frame) -> impl Iterator<Item = u8> {
    let size = picture.size();
    let luma = picture.plane(Plane::Y);
    let place = |step: usize, steps: usize, length: usize| step * length.saturating_sub(1) / steps;
    (0..COLUMNS * ROWS).map(move |point| {
        let (x, y) = (place(point % COLUMNS, COLUMNS, size.width), place(point / COLUMNS, ROWS, size.height));
        let at = |x: usize, y: usize| luma.get(y * size.width + x).map_or(0, |sample| u32::from(*sample));
        let (right, below) =
            ((x + 1).min(size.width.saturating_sub(1)), (y + 1).min(size.height.saturating_sub(1)));
        ((at(x, y) + at(right, y) + at(x, below) + at(right, below)) / 4) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::Rect;
    use crate::media::pool::FramePool;

    const SIZE: Size = Size::new(640, 360);

    /// A grey picture with noise of ±4 and a light square at `x`.
    fn picture(x: usize, noise: u32, pts: Pts) -> Frame {
        let mut picture = FramePool::new(1).take_sized(SIZE, pts).expect("room");
        let mut random = noise;
        for luma in picture.plane_mut(Plane::Y) {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *luma = 96 + (random >> 29) as u8;
        }
        for y in 100..160 {
            picture.plane_mut(Plane::Y)[y * 640 + x..y * 640 + x + 60].fill(200);
        }
        picture.freeze()
    }

    fn settings(fps: f32, motion_gate: bool) -> ObserverSettings {
        ObserverSettings { fps, motion_gate, ..ObserverSettings::default() }
    }

    /// How many of `count` pictures at 15 a second are looked at, the square moving by `step`.
    fn looks(settings: ObserverSettings, count: usize, step: usize) -> u64 {
        let mut observer = Observer::new(settings);
        let start = Instant::now();
        for index in 0..count {
            let after = Duration::from_secs(1) * index as u32 / 15;
            // Pictures come up to 8 ms early or late.
            let jitter = Duration::from_millis((index as u64 * 7) % 9);
            observer.wants(start + after + jitter, &picture(index * step, index as u32, Pts::ZERO + after));
        }
        observer.counters().looks
    }

    #[test]
    fn the_rate_of_looks_is_kept_whatever_the_rate_of_pictures() {
        assert!(
            (49..=51).contains(&looks(settings(5.0, false), 150, 0)),
            "{}",
            looks(settings(5.0, false), 150, 0)
        );
        assert_eq!(looks(settings(100.0, false), 30, 0), 30);
        assert_eq!(looks(settings(0.0, false), 30, 0), 1);
    }

    #[test]
    fn a_still_scene_is_looked_at_once_and_then_rarely_despite_noise() {
        assert_eq!(looks(settings(5.0, true), 70, 0), 1);
        assert_eq!(looks(settings(5.0, true), 150, 0), 2);
    }

    #[test]
    fn slow_motion_is_noticed_too() {
        // One pixel a picture: never much from one picture to the next.
        assert!(looks(settings(15.0, true), 150, 1) >= 10);
        assert!(looks(settings(5.0, true), 100, 4) >= 25);
    }

    #[test]
    fn boxes_are_shown_for_a_while_and_longer_while_nothing_moves() {
        let found = vec![Detection { class: "dog".into(), score: 0.7, rect: Rect::default() }];
        let mut observer = Observer::new(ObserverSettings::default());
        let start = Instant::now();
        assert!(observer.boxes().at(Pts::ZERO, SIZE).is_empty());
        assert!(observer.wants(start, &picture(0, 1, Pts::ZERO)));
        observer.saw(Pts::ZERO, SIZE, found.clone());
        let shown = |observer: &Observer, ms: i64| observer.boxes().at(Pts::from_millis(ms), SIZE).len();
        assert_eq!([shown(&observer, 0), shown(&observer, 700), shown(&observer, 701)], [1, 1, 0]);
        assert!(!observer.wants(start + Duration::from_millis(600), &picture(0, 2, Pts::from_millis(600))));
        assert_eq!([shown(&observer, 1300), shown(&observer, 1301)], [1, 0]);
        assert!(observer.wants(start + Duration::from_millis(900), &picture(300, 3, Pts::from_millis(900))));
        assert!(observer.boxes().at(Pts::from_millis(10), Size::new(320, 180)).is_empty());
    }

    #[test]
    fn after_a_failure_the_next_due_picture_is_worth_a_look() {
        let mut observer = Observer::new(ObserverSettings::default());
        let start = Instant::now();
        assert!(observer.wants(start, &picture(0, 1, Pts::ZERO)));
        observer.failed();
        assert!(!observer.wants(start + Duration::from_millis(66), &picture(0, 2, Pts::ZERO)));
        assert!(observer.wants(start + Duration::from_millis(200), &picture(0, 3, Pts::ZERO)));
    }
}
