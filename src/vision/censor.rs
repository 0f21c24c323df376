//! The filter that hides people in remote pictures, and refuses the picture when it cannot.
//!
//! ```text
//! look: schedule ─▶ detector(s) ─▶ tracks ─▶ masks ─▶ Pass      draw: masks and zones on the picture
//!                       └─ late, down, failed, nonsense ─▶ Withhold (slate), or the whole picture blurred
//! ```
//! Every failure ends at the same place: `see` returns why, and nothing of the picture passes as it is. The slate
//! itself is in `slate`, the detectors in `worker/`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::media::codec::{DetectError, Detection, Detector, Rect};
use crate::media::filter::{Verdict, VideoFilter};
use crate::media::frame::{Frame, FrameMut};
use crate::vision::mask::{Brush, Style, Zone};
use crate::vision::paint::{Area, Color, fill};
use crate::vision::schedule::{Schedule, Turn, Turns};
use crate::vision::track::Tracks;

/// The part of a person's box, from its top, that is hidden when no face was found in it.
const HEAD_SHARE: f32 = 0.3;
/// A face seen longer ago no longer speaks for its person.
const FACE_SPEAKS: Duration = Duration::from_millis(250);

/// What is shown when a picture could not be cleared. There is no "pass".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    #[default]
    Slate,
    /// The whole picture, blurred beyond recognition. Before the first good look it is the slate all the same.
    BlurFrame,
}

/// What is hidden, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct CensorSettings {
    /// Classes to hide, as the detectors name them; upper and lower case are the same.
    pub targets: Vec<String>,
    pub style: Style,
    /// Growth of each box on every side, as a share of its size.
    pub margin: f32,
    /// How long something stays hidden after it was last seen.
    pub hold_ms: u64,
    /// Hidden in every picture.
    pub zones: Vec<Zone>,
    pub on_failure: OnFailure,
    /// Hide the head of a "person" in whom no "face" was found. Works when "face" is a target and a detector
    /// reports persons.
    pub heads: bool,
}

impl Default for CensorSettings {
    fn default() -> Self {
        CensorSettings {
            targets: vec!["face".into()],
            style: Style::Pixelate,
            margin: 0.3,
            hold_ms: 800,
            zones: Vec::new(),
            on_failure: OnFailure::Slate,
            heads: true,
        }
    }
}

/// Counted per call, read from any thread.
#[derive(Debug, Default)]
pub struct CensorCounters {
    /// Looks asked of the detectors.
    pub scans: AtomicU64,
    /// Pictures not cleared because the answer came too late.
    pub withheld_late: AtomicU64,
    /// … because the detector is not running, or there is none.
    pub withheld_down: AtomicU64,
    /// … because the detector failed or its answer made no sense.
    pub withheld_failed: AtomicU64,
    /// … because more was seen than can be held.
    pub withheld_crowded: AtomicU64,
    /// Uncleared pictures that were shown blurred instead of as the slate.
    pub blurred: AtomicU64,
    /// Boxes hidden.
    pub masks: AtomicU64,
}

impl CensorCounters {
    /// Pictures that could not be cleared, for whatever reason.
    pub fn withheld(&self) -> u64 {
        let all = [&self.withheld_late, &self.withheld_down, &self.withheld_failed, &self.withheld_crowded];
        all.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why a picture could not be cleared.
enum Unclear {
    Late,
    Down,
    Failed,
    Crowded,
}

/// What `draw` has to do.
enum Plan {
    /// No look came before: nothing is known, nothing may be shown.
    Unknown,
    Masks,
    BlurAll,
}

/// One detector with its own rhythm.
struct Eye {
    detector: Box<dyn Detector>,
    turns: Turns,
    found: Vec<Detection>,
}

/// The censor of one call.
pub struct Censor {
    settings: CensorSettings,
    eyes: Vec<Eye>,
    tracks: Tracks,
    plan: Plan,
    masks: Vec<Rect>,
    boxes: Vec<Detection>,
    brush: Brush,
    blur: Brush,
    heads: Heads,
    /// Whether there has been a good look at all.
    looked: bool,
    counters: Arc<CensorCounters>,
}

impl Censor {
    /// A censor whose pictures are looked at by `detector` as `schedule` says.
    pub fn new(settings: CensorSettings, detector: Box<dyn Detector>, schedule: Schedule) -> Self {
        Censor::without_detector(settings).and(detector, schedule)
    }

    /// A censor of zones only. If the settings name targets, it withholds every picture.
    pub fn without_detector(settings: CensorSettings) -> Self {
        Censor {
            tracks: Tracks::new(Duration::from_millis(settings.hold_ms)),
            brush: Brush::new(settings.style),
            blur: Brush::new(Style::Blur),
            settings,
            eyes: Vec::new(),
            plan: Plan::Unknown,
            masks: Vec::new(),
            boxes: Vec::new(),
            heads: Heads::default(),
            looked: false,
            counters: Arc::default(),
        }
    }

    /// Adds a detector with its own rhythm, such as persons every third picture beside faces in every one. All
    /// must have looked for a picture to pass.
    pub fn and(mut self, detector: Box<dyn Detector>, schedule: Schedule) -> Self {
        self.eyes.push(Eye { detector, turns: Turns::new(schedule), found: Vec::new() });
        self
    }

    /// A handle to the counters that outlives the move into the gate.
    pub fn counters(&self) -> Arc<CensorCounters> {
        self.counters.clone()
    }

    /// Looks and plans the masks. The only way to `Ok` is through a good, fresh look of every detector.
    fn see(&mut self, now: Instant, picture: &Frame) -> Result<(), Unclear> {
        let pts = picture.pts();
        if self.tracks.resize(picture.size()) {
            self.eyes.iter_mut().for_each(|eye| eye.turns.forget());
        }
        self.tracks.expire(now, pts);
        if self.eyes.is_empty() && !self.settings.targets.is_empty() {
            return Err(Unclear::Down);
        }
        let mut news = false;
        for eye in &mut self.eyes {
            let Turn::Look { deadline } = eye.turns.next(now) else { continue };
            count(&self.counters.scans);
            eye.turns.forget();
            eye.found = look(eye.detector.as_mut(), picture, deadline)?;
            let settings = &self.settings;
            let wanted = eye.found.iter().filter(|found| settings.wants(&found.class));
            self.tracks.update(now, pts, wanted).map_err(|_| Unclear::Crowded)?;
            eye.turns.looked(now);
            news = true;
        }
        if news {
            self.boxes.clear();
            self.boxes.extend(self.eyes.iter().flat_map(|eye| eye.found.iter().cloned()));
        }
        self.looked = true;
        let held = self.tracks.held(now, pts).filter(|held| self.settings.is_target(held.class));
        self.masks.extend(held.map(|held| held.rect.grown(self.settings.margin)));
        if self.settings.watches_heads() {
            self.heads.find(&self.tracks, now, picture);
            self.masks.extend(self.heads.rects().map(|head| head.grown(self.settings.margin)));
        }
        Ok(())
    }
}

/// One look; an answer whose places make no sense cannot be masked and is a failure.
fn look(detector: &mut dyn Detector, picture: &Frame, deadline: Instant) -> Result<Vec<Detection>, Unclear> {
    let found = detector.detect(picture, deadline).map_err(|error| match error {
        DetectError::Late => Unclear::Late,
        DetectError::Down(_) => Unclear::Down,
        DetectError::Failed(_) => Unclear::Failed,
    })?;
    let sound = |r: &Rect| {
        [r.x1, r.y1, r.x2, r.y2].iter().all(|edge| edge.is_finite()) && r.x1 <= r.x2 && r.y1 <= r.y2
    };
    if found.iter().all(|detection| sound(&detection.rect)) { Ok(found) } else { Err(Unclear::Failed) }
}

impl CensorSettings {
    fn is_target(&self, class: &str) -> bool {
        self.targets.iter().any(|target| target.eq_ignore_ascii_case(class))
    }

    fn watches_heads(&self) -> bool {
        self.heads && self.is_target("face") && !self.is_target("person")
    }

    fn wants(&self, class: &str) -> bool {
        self.is_target(class) || (self.watches_heads() && class.eq_ignore_ascii_case("person"))
    }
}

impl VideoFilter for Censor {
    fn look(&mut self, now: Instant, picture: &Frame) -> Verdict {
        self.plan = Plan::Unknown;
        self.masks.clear();
        let Err(why) = self.see(now, picture) else {
            self.plan = Plan::Masks;
            return Verdict::Pass;
        };
        self.boxes.clear();
        count(match why {
            Unclear::Late => &self.counters.withheld_late,
            Unclear::Down => &self.counters.withheld_down,
            Unclear::Failed => &self.counters.withheld_failed,
            Unclear::Crowded => &self.counters.withheld_crowded,
        });
        match self.settings.on_failure {
            OnFailure::BlurFrame if self.looked => {
                count(&self.counters.blurred);
                self.plan = Plan::BlurAll;
                Verdict::Pass
            }
            OnFailure::BlurFrame | OnFailure::Slate => Verdict::Withhold,
        }
    }

    fn draw(&mut self, picture: &mut FrameMut) {
        match std::mem::replace(&mut self.plan, Plan::Unknown) {
            Plan::Unknown => fill(picture, Area::whole(picture.size()), Color::BLACK),
            Plan::BlurAll => self.blur.hide_all(picture),
            Plan::Masks => {
                for mask in &self.masks {
                    if self.brush.hide(picture, mask) {
                        count(&self.counters.masks);
                    }
                }
            }
        }
        for zone in &self.settings.zones {
            self.brush.hide_zone(picture, zone);
        }
    }

    fn found(&self) -> &[Detection] {
        &self.boxes
    }
}

/// Persons without a face: each face speaks for the one person whose head it fits best.
#[derive(Default)]
struct Heads {
    faces: Vec<Rect>,
    persons: Vec<(Rect, bool)>,
    pairs: Vec<(f32, usize, usize)>,
    spoken: Vec<bool>,
}

impl Heads {
    fn find(&mut self, tracks: &Tracks, now: Instant, picture: &Frame) {
        let held = || tracks.held(now, picture.pts());
        let class = |held: &str, name: &str| held.eq_ignore_ascii_case(name);
        self.faces.clear();
        self.faces.extend(
            held().filter(|held| class(held.class, "face") && held.age <= FACE_SPEAKS).map(|held| held.rect),
        );
        self.persons.clear();
        self.persons.extend(held().filter(|held| class(held.class, "person")).map(|held| (held.rect, false)));
        self.pairs.clear();
        for (p, (person, _)) in self.persons.iter().enumerate() {
            for (f, face) in self.faces.iter().enumerate() {
                if let Some(distance) = distance_from_head(person, face) {
                    self.pairs.push((distance, p, f));
                }
            }
        }
        self.pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.spoken.clear();
        self.spoken.resize(self.faces.len(), false);
        for (_, person, face) in &self.pairs {
            let has_face = &mut self.persons[*person].1;
            if !*has_face && !self.spoken[*face] {
                (*has_face, self.spoken[*face]) = (true, true);
            }
        }
    }

    /// The heads of persons for whom no face speaks.
    fn rects(&self) -> impl Iterator<Item = Rect> {
        let faceless = self.persons.iter().filter(|(_, has_face)| !has_face);
        faceless.map(|(person, _)| Rect { y2: person.y1 + person.height() * HEAD_SHARE, ..*person })
    }
}

/// How far a face is from where the person's head should be, in person sizes. `None`: not in its upper half.
fn distance_from_head(person: &Rect, face: &Rect) -> Option<f32> {
    let (x, y) = ((face.x1 + face.x2) / 2.0, (face.y1 + face.y2) / 2.0);
    let (width, height) = (person.width().max(1.0), person.height().max(1.0));
    let inside = x >= person.x1 && x <= person.x2 && y >= person.y1 && y <= person.y1 + height / 2.0;
    let across = (x - (person.x1 + person.x2) / 2.0) / width;
    let down = (y - (person.y1 + height * HEAD_SHARE / 2.0)) / height;
    inside.then_some(across.hypot(down))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::filter::{BlackSlate, Gate};
    use crate::media::frame::{CleanFrame, Plane, RawFrame, Size};
    use crate::media::pool::FramePool;

    const SIZE: Size = Size::new(160, 120);
    /// Chroma that occurs only in faces of raw pictures.
    const SKIN: u8 = 210;

    /// Answers from a script: one entry per look.
    struct Scripted<F>(F, usize);
    impl<F: FnMut(usize, &Frame) -> Result<Vec<Detection>, DetectError> + Send> Detector for Scripted<F> {
        fn detect(&mut self, picture: &Frame, _deadline: Instant) -> Result<Vec<Detection>, DetectError> {
            self.1 += 1;
            (self.0)(self.1 - 1, picture)
        }
    }

    fn scripted(
        script: impl FnMut(usize, &Frame) -> Result<Vec<Detection>, DetectError> + Send + 'static,
    ) -> Box<dyn Detector> {
        Box::new(Scripted(script, 0))
    }

    fn found(class: &str, x1: f32, y1: f32, x2: f32, y2: f32) -> Detection {
        Detection { class: class.into(), score: 0.9, rect: Rect { x1, y1, x2, y2 } }
    }

    /// A picture with a face of stripes at `x`, 40 pixels wide and high, 40 below the top.
    fn raw(pool: &FramePool, x: usize, pts: Pts) -> RawFrame {
        let mut picture = pool.take_sized(SIZE, pts).expect("room");
        picture.bytes_mut().fill(128);
        for y in 40..80 {
            for column in x..(x + 40).min(SIZE.width) {
                picture.plane_mut(Plane::Y)[y * SIZE.width + column] = if column % 4 < 2 { 40 } else { 220 };
            }
            for column in x / 2..(x / 2 + 20).min(SIZE.width / 2) {
                picture.plane_mut(Plane::V)[y / 2 * SIZE.width / 2 + column] = SKIN;
            }
        }
        RawFrame::new(picture.freeze())
    }

    /// Stripes of a raw face still in the picture.
    fn stripes(clean: &CleanFrame) -> usize {
        clean.frame().plane(Plane::Y).windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 150).count()
    }

    fn face_at(picture: &Frame) -> Vec<Detection> {
        let luma = &picture.plane(Plane::Y)[60 * SIZE.width..61 * SIZE.width];
        let first = luma.iter().position(|sample| *sample != 128);
        first.map(|x| found("face", x as f32, 40.0, x as f32 + 40.0, 80.0)).into_iter().collect()
    }

    struct Shown {
        clean: Vec<CleanFrame>,
        counters: Arc<CensorCounters>,
        withheld: u64,
    }

    /// Sends `count` pictures with a face moving to and fro by 2 pixels a picture, 15 a second, through a gate.
    fn show(censor: Censor, count: usize) -> Shown {
        let pool = FramePool::new(count + 1);
        let counters = censor.counters();
        let mut gate = Gate::filtering(vec![Box::new(censor)], Box::new(BlackSlate));
        let start = Instant::now();
        let clean = (0..count)
            .map(|index| {
                let after = Duration::from_secs(1) * index as u32 / 15;
                let x = (index * 2 % 240).min(240 - index * 2 % 240);
                let raw = raw(&pool, x, Pts::ZERO + after);
                gate.release(start + after, raw, &pool).expect("room")
            })
            .collect();
        Shown { clean, counters, withheld: gate.counters().withheld }
    }

    #[test]
    fn a_detector_that_fails_stalls_dies_and_recovers_lets_no_raw_face_out() {
        for (on_failure, every) in [
            (OnFailure::Slate, 1),
            (OnFailure::BlurFrame, 1),
            (OnFailure::Slate, 3),
            (OnFailure::BlurFrame, 4),
        ] {
            let mut random = 11u32;
            let detector = scripted(move |_, picture| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match random >> 29 {
                    0 => Err(DetectError::Late),
                    1 => Err(DetectError::Down("killed".into())),
                    2 => Err(DetectError::Failed("no output".into())),
                    3 => Ok(vec![found("face", f32::NAN, 0.0, 1.0, 1.0)]),
                    _ => Ok(face_at(picture)),
                }
            });
            let settings = CensorSettings { on_failure, ..CensorSettings::default() };
            let shown =
                show(Censor::new(settings, detector, Schedule { every, ..Schedule::default() }), 1000);
            let raw_faces = shown.clean.iter().filter(|clean| stripes(clean) > 0).count();
            assert_eq!(raw_faces, 0, "{on_failure:?} every {every}");
            let skin = |clean: &&CleanFrame| clean.frame().plane(Plane::V).contains(&SKIN);
            let black =
                shown.clean.iter().filter(|clean| clean.frame().plane(Plane::Y).iter().all(|y| *y == 16));
            let black = black.count() as u64;
            assert_eq!(black, shown.withheld);
            let failed = shown.counters.withheld();
            assert!(failed > 100 && failed < 900, "{failed}");
            match on_failure {
                OnFailure::Slate => assert_eq!(failed, black),
                OnFailure::BlurFrame => {
                    assert_eq!(failed - black, shown.counters.blurred.load(Ordering::Relaxed));
                    assert!(shown.clean.iter().filter(skin).count() < 1000);
                }
            }
        }
    }

    #[test]
    fn before_the_first_good_look_there_is_only_the_slate() {
        for on_failure in [OnFailure::Slate, OnFailure::BlurFrame] {
            let detector = scripted(
                |look, picture| if look < 5 { Err(DetectError::Late) } else { Ok(face_at(picture)) },
            );
            let settings = CensorSettings { on_failure, ..CensorSettings::default() };
            let shown = show(Censor::new(settings, detector, Schedule::default()), 8);
            let slates =
                shown.clean.iter().map(|clean| clean.frame().plane(Plane::Y).iter().all(|y| *y == 16));
            assert_eq!(slates.collect::<Vec<_>>(), [true, true, true, true, true, false, false, false]);
            assert_eq!(shown.counters.withheld_late.load(Ordering::Relaxed), 5);
        }
    }

    #[test]
    fn a_blurred_picture_after_a_failure_shows_nothing_sharp() {
        let detector =
            scripted(|look, picture| if look == 0 { Ok(face_at(picture)) } else { Err(DetectError::Late) });
        let settings = CensorSettings { on_failure: OnFailure::BlurFrame, ..CensorSettings::default() };
        let shown = show(Censor::new(settings, detector, Schedule::default()), 30);
        assert_eq!(shown.withheld, 0);
        for clean in &shown.clean[1..] {
            let steepest = clean.frame().plane(Plane::Y).chunks(SIZE.width);
            let steepest =
                steepest.flat_map(|row| row.windows(2)).map(|pair| pair[0].abs_diff(pair[1])).max();
            assert!(steepest < Some(6), "{steepest:?}");
        }
    }

    #[test]
    fn a_face_stays_hidden_between_looks_and_through_missed_detections() {
        let detector =
            scripted(|look, picture| Ok(if look % 3 == 1 { Vec::new() } else { face_at(picture) }));
        let shown = show(
            Censor::new(CensorSettings::default(), detector, Schedule { every: 3, ..Schedule::default() }),
            55,
        );
        assert_eq!(shown.counters.scans.load(Ordering::Relaxed), 19);
        assert_eq!(shown.withheld, 0);
        assert!(shown.clean.iter().all(|clean| stripes(clean) == 0));
        assert!(shown.counters.masks.load(Ordering::Relaxed) >= 55);
    }

    #[test]
    fn what_is_no_target_is_shown_and_told_but_not_hidden() {
        let pool = FramePool::new(2);
        let detector = scripted(|_, picture| {
            let mut all = face_at(picture);
            all.push(found("dog", 0.0, 0.0, 20.0, 20.0));
            Ok(all)
        });
        let settings = CensorSettings { targets: vec!["Dog".into()], ..CensorSettings::default() };
        let censor = Censor::new(settings, detector, Schedule::default());
        let mut gate = Gate::filtering(vec![Box::new(censor)], Box::new(BlackSlate));
        let clean = gate.release(Instant::now(), raw(&pool, 100, Pts::ZERO), &pool).expect("room");
        assert!(stripes(&clean) > 100);
        assert_eq!(gate.found().map(|found| &*found.class).collect::<Vec<_>>(), ["face", "dog"]);
    }

    /// The luma at a place of a picture in which only what the censor hides is not grey.
    fn hidden(detections: Vec<Detection>, heads: bool, places: &[(usize, usize)]) -> Vec<bool> {
        let pool = FramePool::new(1);
        let detector = scripted(move |_, _| Ok(detections.clone()));
        let settings =
            CensorSettings { style: Style::Black, margin: 0.0, heads, ..CensorSettings::default() };
        let censor = Censor::new(settings, detector, Schedule::default());
        let mut gate = Gate::filtering(vec![Box::new(censor)], Box::new(BlackSlate));
        let clean = gate.release(Instant::now(), raw(&pool, 0, Pts::ZERO), &pool).expect("room");
        places.iter().map(|(x, y)| clean.frame().plane(Plane::Y)[y * SIZE.width + x] == 16).collect()
    }

    #[test]
    fn a_person_without_a_face_is_hidden_at_the_head() {
        let turned_away = || vec![found("person", 60.0, 10.0, 100.0, 110.0)];
        let places = [(80, 15), (80, 38), (80, 42), (80, 100)];
        assert_eq!(hidden(turned_away(), true, &places), [true, true, false, false]);
        assert_eq!(hidden(turned_away(), false, &places), [false; 4]);
        let facing = [turned_away(), vec![found("face", 74.0, 16.0, 86.0, 30.0)]].concat();
        assert_eq!(hidden(facing, true, &[(80, 20), (62, 12), (80, 38)]), [true, false, false]);
    }

    #[test]
    fn one_face_speaks_for_one_person_only() {
        // Two persons overlap; the face belongs to the right one.
        let both = vec![
            found("person", 40.0, 10.0, 100.0, 110.0),
            found("person", 70.0, 10.0, 110.0, 110.0),
            found("face", 84.0, 16.0, 96.0, 30.0),
        ];
        assert_eq!(hidden(both, true, &[(50, 15), (90, 20), (106, 15)]), [true, true, false]);
    }

    #[test]
    fn zones_are_hidden_without_any_detector_and_targets_are_not_guessed() {
        let zone = Zone::new(vec![(0.0, 0.0), (0.25, 0.0), (0.25, 0.25), (0.0, 0.25)]).expect("a polygon");
        let settings = CensorSettings {
            targets: Vec::new(),
            zones: vec![zone],
            style: Style::Black,
            ..CensorSettings::default()
        };
        let shown = show(Censor::without_detector(settings.clone()), 1);
        assert_eq!(shown.clean[0].frame().plane(Plane::Y)[0], 16);
        assert_eq!(shown.clean[0].frame().plane(Plane::Y)[100], 128);
        let blind = Censor::without_detector(CensorSettings { targets: vec!["face".into()], ..settings });
        let shown = show(blind, 3);
        assert_eq!((shown.withheld, shown.counters.withheld_down.load(Ordering::Relaxed)), (3, 3));
    }

    #[test]
    fn every_detector_must_have_looked() {
        let faces = scripted(|_, picture| Ok(face_at(picture)));
        let persons = scripted(|look, _| if look == 1 { Err(DetectError::Late) } else { Ok(Vec::new()) });
        let every = |every| Schedule { every, ..Schedule::default() };
        let censor = Censor::new(CensorSettings::default(), faces, every(1)).and(persons, every(3));
        let shown = show(censor, 7);
        let slates = shown.clean.iter().map(|clean| clean.frame().plane(Plane::Y).iter().all(|y| *y == 16));
        assert_eq!(slates.collect::<Vec<_>>(), [false, false, false, true, false, false, false]);
    }

    #[test]
    fn a_crowd_beyond_counting_is_withheld() {
        let crowd = |_: usize, _: &Frame| {
            Ok((0..400).map(|n| found("face", n as f32 * 50.0, 0.0, n as f32 * 50.0 + 5.0, 5.0)).collect())
        };
        let shown = show(Censor::new(CensorSettings::default(), scripted(crowd), Schedule::default()), 2);
        assert_eq!(shown.counters.withheld_crowded.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_picture_of_another_size_is_looked_at_out_of_turn() {
        let pool = FramePool::new(8);
        let every = Schedule { every: 10, ..Schedule::default() };
        let censor = Censor::new(CensorSettings::default(), scripted(|_, _| Ok(Vec::new())), every);
        let counters = censor.counters();
        let mut gate = Gate::filtering(vec![Box::new(censor)], Box::new(BlackSlate));
        let now = Instant::now();
        let scans = [(64, 48), (64, 48), (80, 60), (80, 60), (64, 48)].map(|(width, height)| {
            let picture = pool.take_sized(Size::new(width, height), Pts::ZERO).expect("room");
            gate.release(now, RawFrame::new(picture.freeze()), &pool).expect("room");
            counters.scans.load(Ordering::Relaxed)
        });
        assert_eq!(scans, [1, 1, 2, 2, 3]);
    }

    #[test]
    fn drawing_without_a_look_hides_everything() {
        let pool = FramePool::new(1);
        let mut picture = pool.take_sized(SIZE, Pts::ZERO).expect("room");
        picture.bytes_mut().fill(200);
        Censor::without_detector(CensorSettings::default()).draw(&mut picture);
        assert!(picture.plane(Plane::Y).iter().all(|luma| *luma == 16));
    }
}
