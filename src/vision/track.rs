//! Masks held between looks: what was seen stays hidden for a while, where it was and where it was heading.
//!
//! Each look's detections are matched to the tracks of their class by overlap, then by distance. A track that is not
//! found again is held: its mask covers its last place *and* the place its motion leads to, and grows with time,
//! faster in the direction in which it moved. It ends once `hold` has passed by both the local clock and the media
//! clock, so that neither a burst of late pictures nor a jump of timestamps opens a hole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::time::Pts;
use crate::media::codec::{Detection, Rect};
use crate::media::frame::Size;

/// More than any model reports for one picture; the limit exists so that nonsense cannot grow without end.
const TRACKS_MAX: usize = 256;
/// Overlap from which a detection is the same thing as a track.
const SAME_IOU: f32 = 0.2;
/// Distance of centres, in box sizes, up to which a detection without overlap is still the same thing.
const SAME_DISTANCE: f32 = 1.0;
/// Growth of a held mask on each side, in box sizes per second.
const HELD_GROWTH: f32 = 0.75;
/// The same for something seen only once, whose motion is unknown; up to one box size.
const HELD_GROWTH_UNKNOWN: f32 = 2.0;
/// Further growth as a share of the way it could have gone at its recent top speed: it may turn round.
const HELD_TURN: f32 = 0.5;
/// What is left of the top speed from one sight to the next.
const PACE_DECAY: f32 = 0.8;
/// Speeds above this many box sizes per second are matching mistakes.
const SPEED_MAX: f32 = 6.0;

/// One thing that is being hidden.
#[derive(Clone, Debug)]
struct Track {
    class: Arc<str>,
    /// Where it was last seen.
    rect: Rect,
    /// Pixels per second of its centre; `None` until it was seen twice.
    speed: Option<(f32, f32)>,
    /// The recent top of its speed without sign.
    pace: (f32, f32),
    seen_now: Instant,
    seen_pts: Pts,
    /// Found by the look being worked in.
    matched: bool,
}

/// A place to hide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held<'a> {
    pub class: &'a str,
    /// Where the thing is, or may be: without margin.
    pub rect: Rect,
    /// Time since it was last seen.
    pub age: Duration,
}

/// More was seen than can be held: the picture cannot be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded;

/// All tracks of one call.
#[derive(Debug)]
pub struct Tracks {
    hold: Duration,
    tracks: Vec<Track>,
    size: Option<Size>,
    /// Pairs of detection and track by how well they fit; kept for its memory.
    pairs: Vec<(f32, usize, usize)>,
    taken: Vec<bool>,
}

impl Tracks {
    /// `hold`: how long something stays hidden after it was last seen.
    pub fn new(hold: Duration) -> Self {
        Tracks { hold, tracks: Vec::new(), size: None, pairs: Vec::new(), taken: Vec::new() }
    }

    /// Tells the size of the coming picture; tracks move along when it changes. True: it changed.
    pub fn resize(&mut self, size: Size) -> bool {
        let Some(old) = self.size.replace(size).filter(|old| *old != size) else { return false };
        let share = |new: usize, old: usize| new as f32 / old.max(1) as f32;
        let (sx, sy) = (share(size.width, old.width), share(size.height, old.height));
        for track in &mut self.tracks {
            let r = track.rect;
            track.rect = Rect { x1: r.x1 * sx, y1: r.y1 * sy, x2: r.x2 * sx, y2: r.y2 * sy };
            track.speed = track.speed.map(|(x, y)| (x * sx, y * sy));
            track.pace = (track.pace.0 * sx, track.pace.1 * sy);
        }
        true
    }

    /// Forgets what was last seen too long ago.
    pub fn expire(&mut self, now: Instant, pts: Pts) {
        let hold = self.hold;
        self.tracks.retain(|track| {
            now.saturating_duration_since(track.seen_now) <= hold || since(pts, track.seen_pts) <= hold
        });
    }

    /// Takes in what a look at the picture of `now` and `pts` found. Coordinates must be finite.
    pub fn update<'a>(
        &mut self,
        now: Instant,
        pts: Pts,
        found: impl Iterator<Item = &'a Detection> + Clone,
    ) -> Result<(), Crowded> {
        self.tracks.iter_mut().for_each(|track| track.matched = false);
        self.pair(pts, found.clone());
        self.taken.clear();
        self.taken.resize(found.clone().count(), false);
        for at in 0..self.pairs.len() {
            let (_, detection, track) = self.pairs[at];
            if self.taken[detection] || self.tracks[track].matched {
                continue;
            }
            self.taken[detection] = true;
            if let Some(seen) = found.clone().nth(detection) {
                self.tracks[track].see(now, pts, seen.rect);
            }
        }
        for (detection, taken) in found.zip(&self.taken) {
            if *taken {
                continue;
            }
            if self.tracks.len() >= TRACKS_MAX {
                return Err(Crowded);
            }
            self.tracks.push(Track {
                class: detection.class.clone(),
                rect: detection.rect,
                speed: None,
                pace: (0.0, 0.0),
                seen_now: now,
                seen_pts: pts,
                matched: true,
            });
        }
        Ok(())
    }

    /// Every place where something is or may be at `now` and `pts`.
    pub fn held(&self, now: Instant, pts: Pts) -> impl Iterator<Item = Held<'_>> {
        self.tracks.iter().map(move |track| Held {
            class: &track.class,
            rect: track.reach(pts, self.hold),
            age: now.saturating_duration_since(track.seen_now),
        })
    }

    pub fn len(&self) -> usize {
        self.tracks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// Fills `pairs` with every detection and track that may be the same thing, best first.
    fn pair<'a>(&mut self, pts: Pts, found: impl Iterator<Item = &'a Detection>) {
        self.pairs.clear();
        for (d, detection) in found.enumerate() {
            for (t, track) in self.tracks.iter().enumerate() {
                if *track.class == *detection.class
                    && let Some(fit) = track.fit(pts, self.hold, &detection.rect)
                {
                    self.pairs.push((fit, d, t));
                }
            }
        }
        self.pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    }
}

impl Track {
    fn see(&mut self, now: Instant, pts: Pts, rect: Rect) {
        let elapsed = since(pts, self.seen_pts).as_secs_f32();
        // Pictures closer together than this say nothing about speed.
        if elapsed >= 0.005 {
            let (old, new) = (centre(&self.rect), centre(&rect));
            let limit = (SPEED_MAX * rect.width(), SPEED_MAX * rect.height());
            let speed = |from: f32, to: f32, limit: f32| ((to - from) / elapsed).clamp(-limit, limit);
            let measured = (speed(old.0, new.0, limit.0), speed(old.1, new.1, limit.1));
            let pace = |old: f32, new: f32| (old * PACE_DECAY).max(new.abs());
            self.pace = (pace(self.pace.0, measured.0), pace(self.pace.1, measured.1));
            let before = self.speed.unwrap_or(measured);
            self.speed = Some(((before.0 + measured.0) / 2.0, (before.1 + measured.1) / 2.0));
        }
        (self.rect, self.seen_now, self.seen_pts, self.matched) = (rect, now, pts, true);
    }

    /// How far it may have gone by `pts`.
    fn way(&self, pts: Pts, hold: Duration) -> (f32, f32, f32) {
        let elapsed = since(pts, self.seen_pts).min(hold).as_secs_f32();
        let (x, y) = self.speed.unwrap_or_default();
        (x * elapsed, y * elapsed, elapsed)
    }

    fn expected(&self, pts: Pts, hold: Duration) -> Rect {
        let (dx, dy, _) = self.way(pts, hold);
        let r = self.rect;
        Rect { x1: r.x1 + dx, y1: r.y1 + dy, x2: r.x2 + dx, y2: r.y2 + dy }
    }

    /// Every place where it may be: its last place, its expected place and all between, grown by time.
    fn reach(&self, pts: Pts, hold: Duration) -> Rect {
        let (dx, dy, elapsed) = self.way(pts, hold);
        let r = self.rect;
        let growth = match self.speed {
            Some(_) => HELD_GROWTH * elapsed,
            None => (HELD_GROWTH_UNKNOWN * elapsed).min(1.0),
        };
        let gx = growth * r.width() + HELD_TURN * self.pace.0 * elapsed;
        let gy = growth * r.height() + HELD_TURN * self.pace.1 * elapsed;
        Rect {
            x1: r.x1 + dx.min(0.0) - gx,
            y1: r.y1 + dy.min(0.0) - gy,
            x2: r.x2 + dx.max(0.0) + gx,
            y2: r.y2 + dy.max(0.0) + gy,
        }
    }

    /// How well `rect` fits; overlap always beats distance. `None`: it is something else.
    fn fit(&self, pts: Pts, hold: Duration, rect: &Rect) -> Option<f32> {
        let expected = self.expected(pts, hold);
        let overlap = expected.iou(rect).max(self.rect.iou(rect));
        if overlap >= SAME_IOU {
            return Some(1.0 + overlap);
        }
        let (a, b) = (centre(&expected), centre(rect));
        let wide = expected.width().max(rect.width()).max(1.0);
        let high = expected.height().max(rect.height()).max(1.0);
        let distance = ((a.0 - b.0) / wide).hypot((a.1 - b.1) / high);
        (distance <= SAME_DISTANCE).then_some(1.0 - distance)
    }
}

fn centre(rect: &Rect) -> (f32, f32) {
    ((rect.x1 + rect.x2) / 2.0, (rect.y1 + rect.y2) / 2.0)
}

/// Media time from `earlier` to `later`; zero when it runs backwards.
fn since(later: Pts, earlier: Pts) -> Duration {
    Duration::from_nanos(u64::try_from(later - earlier).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_millis(800);

    fn face(x: f32, y: f32, side: f32) -> Detection {
        let rect = Rect { x1: x - side / 2.0, y1: y - side / 2.0, x2: x + side / 2.0, y2: y + side / 2.0 };
        Detection { class: "face".into(), score: 0.9, rect }
    }

    fn covers(mask: &Rect, rect: &Rect) -> bool {
        mask.x1 <= rect.x1 && mask.y1 <= rect.y1 && mask.x2 >= rect.x2 && mask.y2 >= rect.y2
    }

    /// Time of picture `index` at 15 pictures a second.
    fn at(start: Instant, index: usize) -> (Instant, Pts) {
        let after = Duration::from_secs(1) * index as u32 / 15;
        (start + after, Pts::ZERO + after)
    }

    #[test]
    fn a_moving_face_with_missed_detections_is_covered_in_every_picture() {
        let start = Instant::now();
        for (seed, pixels_per_picture) in [(1u32, 0.0f32), (2, 3.0), (3, 8.0), (4, 12.0), (5, -10.0)] {
            let mut tracks = Tracks::new(HOLD);
            let mut random = seed;
            let mut missed_in_a_row = 0;
            let mut missed = 0;
            let (mut x, mut step) = (320.0, pixels_per_picture);
            for index in 0..600 {
                x += step;
                if !(80.0..560.0).contains(&x) {
                    step = -step;
                }
                let now_face = face(x, 180.0 + (index as f32 / 9.0).sin() * 30.0, 64.0);
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let found = index == 0 || random >> 24 < 128 || missed_in_a_row >= 6;
                missed_in_a_row = if found { 0 } else { missed_in_a_row + 1 };
                missed += u32::from(!found);
                let (now, pts) = at(start, index);
                tracks.expire(now, pts);
                let seen: Vec<Detection> = found.then(|| now_face.clone()).into_iter().collect();
                tracks.update(now, pts, seen.iter()).expect("room");
                let covered = tracks.held(now, pts).any(|held| covers(&held.rect.grown(0.3), &now_face.rect));
                assert!(covered, "picture {index} at {pixels_per_picture} px: {:?}", tracks.tracks);
            }
            assert!(missed > 150, "the test missed only {missed}");
        }
    }

    #[test]
    fn a_face_that_stops_dead_or_goes_on_is_covered_by_the_same_mask() {
        let start = Instant::now();
        let mut tracks = Tracks::new(HOLD);
        for index in 0..10 {
            let (now, pts) = at(start, index);
            tracks.update(now, pts, [face(100.0 + 20.0 * index as f32, 50.0, 40.0)].iter()).expect("room");
        }
        for later in 1..=11 {
            let (now, pts) = at(start, 9 + later);
            let mask = tracks.held(now, pts).next().expect("held").rect;
            assert!(covers(&mask, &face(280.0, 50.0, 40.0).rect), "stopped, {later} pictures ago");
            assert!(
                covers(&mask, &face(280.0 + 20.0 * later as f32, 50.0, 40.0).rect),
                "went on {later} pictures"
            );
        }
    }

    #[test]
    fn a_face_gone_longer_than_its_hold_is_forgotten_but_not_a_picture_earlier() {
        let start = Instant::now();
        let mut tracks = Tracks::new(HOLD);
        let (now, pts) = at(start, 0);
        tracks.update(now, pts, [face(50.0, 50.0, 20.0)].iter()).expect("room");
        let masks = |tracks: &mut Tracks, index: usize| {
            let (now, pts) = at(start, index);
            tracks.expire(now, pts);
            tracks.update(now, pts, [].iter()).expect("room");
            tracks.held(now, pts).count()
        };
        assert!((1..=12).all(|index| masks(&mut tracks, index) == 1));
        assert_eq!(masks(&mut tracks, 13), 0);
    }

    #[test]
    fn a_jump_of_either_clock_alone_opens_no_hole() {
        let start = Instant::now();
        let mut tracks = Tracks::new(HOLD);
        tracks.update(start, Pts::ZERO, [face(50.0, 50.0, 20.0)].iter()).expect("room");
        tracks.expire(start + Duration::from_millis(60), Pts::from_millis(3_600_000));
        assert_eq!(tracks.len(), 1);
        tracks.expire(start + Duration::from_secs(60), Pts::from_millis(-5_000));
        assert_eq!(tracks.len(), 1);
        let mask = tracks.held(start, Pts::from_millis(3_600_000)).next().expect("held").rect;
        assert!(covers(&mask, &face(50.0, 50.0, 20.0).rect));
        tracks.expire(start + Duration::from_secs(60), Pts::from_millis(60_000));
        assert!(tracks.is_empty());
    }

    #[test]
    fn one_thing_keeps_one_track_and_classes_never_mix() {
        let start = Instant::now();
        let mut tracks = Tracks::new(HOLD);
        for index in 0..20 {
            let (now, pts) = at(start, index);
            let mut plate = face(100.0 + 9.0 * index as f32, 50.0, 30.0);
            plate.class = "plate".into();
            let found = [face(100.0 + 9.0 * index as f32, 50.0, 30.0), plate, face(400.0, 50.0, 30.0)];
            tracks.update(now, pts, found.iter()).expect("room");
            assert_eq!(tracks.len(), 3);
        }
        assert_eq!(tracks.held(start, Pts::ZERO).filter(|held| held.class == "plate").count(), 1);
    }

    #[test]
    fn a_seen_thing_is_masked_exactly_where_it_was_seen() {
        let start = Instant::now();
        let mut tracks = Tracks::new(HOLD);
        for index in 0..5 {
            let (now, pts) = at(start, index);
            let here = face(100.0 + 20.0 * index as f32, 50.0, 40.0);
            tracks.update(now, pts, [here.clone()].iter()).expect("room");
            assert_eq!(tracks.held(now, pts).map(|held| held.rect).collect::<Vec<_>>(), [here.rect]);
        }
    }

    #[test]
    fn tracks_follow_a_change_of_the_picture_size() {
        let start = Instant::now();
        let mut tracks = Tracks::new(HOLD);
        assert!(!tracks.resize(Size::new(640, 360)));
        tracks.update(start, Pts::ZERO, [face(320.0, 180.0, 64.0)].iter()).expect("room");
        assert!(!tracks.resize(Size::new(640, 360)));
        assert!(tracks.resize(Size::new(1280, 720)));
        let mask = tracks.held(start, Pts::ZERO).next().expect("held").rect;
        assert_eq!(mask, face(640.0, 360.0, 128.0).rect);
    }

    #[test]
    fn more_things_than_can_be_held_are_reported_not_forgotten() {
        let start = Instant::now();
        let mut tracks = Tracks::new(HOLD);
        let crowd: Vec<Detection> = (0..300).map(|n| face(100.0 * n as f32, 0.0, 10.0)).collect();
        assert_eq!(tracks.update(start, Pts::ZERO, crowd[..256].iter()), Ok(()));
        assert_eq!(tracks.update(start, Pts::ZERO, crowd.iter()), Err(Crowded));
    }
}
