//! The eyes of one call: of all cleared pictures that come, those worth a still, and for whom.
//!
//! Pure. Pictures, speech and wishes go in with their time; [`Watch::poll`] says what to make a still of. It holds at
//! most [`HELD`] pictures of the call's pool.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::media::frame::CleanFrame;
use crate::talk::sight::sampler::{Sampler, SamplerSettings};
use crate::talk::sight::scene::{Look, sharpness};
use crate::talk::sight::{Reason, Track};

/// Pictures a [`Watch`] holds at most.
pub const HELD: usize = 3;

/// Wishes that wait for a picture at a time; more than the kinds there are is a caller's mistake.
pub const WANTS_MAX: usize = 16;

/// A track that is silent for so long does not show any more.
const TRACK_GONE: Duration = Duration::from_secs(5);

/// How pictures are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WatchSettings {
    pub sampler: SamplerSettings,
    /// The sharpest of so long is taken; this much a picture may be older than the newest.
    pub window: Duration,
    /// A wish waits so long for a new picture when the newest is older than the window.
    pub patience: Duration,
    /// Older pictures are not shown: better none.
    pub max_age: Duration,
    /// So many of the last stills are compared with, that none is sent twice.
    pub remembered: usize,
}

impl Default for WatchSettings {
    fn default() -> Self {
        WatchSettings {
            sampler: SamplerSettings::default(),
            window: Duration::from_millis(100),
            patience: Duration::from_millis(60),
            max_age: Duration::from_secs(5),
            remembered: 4,
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub enum Chosen {
    /// Make a still of it, and say [`Watch::made`].
    Take { picture: CleanFrame, track: Track, taken: Instant, look: Box<Look>, reasons: Vec<Reason> },
    /// What still `id` shows is still there to see, at `taken`.
    Same { id: u64, taken: Instant, reasons: Vec<Reason> },
    /// Nothing to see.
    Blind { reasons: Vec<Reason> },
}

/// Counted per call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounters {
    /// Pictures that came.
    pub seen: u64,
    /// Times a picture was due or wanted.
    pub sampled: u64,
    /// Of these, answered by a still there was already, or by nothing as nothing had changed.
    pub same: u64,
    /// Wishes without an answer as there was no picture.
    pub blind: u64,
}

struct Recent {
    picture: CleanFrame,
    taken: Instant,
    sharpness: u32,
}

/// Decides for one call.
pub struct Watch {
    settings: WatchSettings,
    sampler: Sampler,
    /// Of the track that is shown, newest last.
    recent: VecDeque<Recent>,
    track: Track,
    /// For each track, when its pictures began to come, and the last came.
    runs: [Option<(Instant, Instant)>; 2],
    wants: VecDeque<(Reason, Instant)>,
    /// Of the last stills, newest last.
    looks: VecDeque<(u64, Look)>,
    /// Samples are taken.
    open: bool,
    /// There was something to see when the last sample was due.
    shows: bool,
    counters: WatchCounters,
}

impl Watch {
    pub fn new(settings: WatchSettings) -> Self {
        Watch {
            sampler: Sampler::new(settings.sampler),
            settings,
            recent: VecDeque::with_capacity(HELD + 1),
            track: Track::Camera,
            runs: [None; 2],
            wants: VecDeque::new(),
            looks: VecDeque::new(),
            open: true,
            shows: false,
            counters: WatchCounters::default(),
        }
    }

    pub fn counters(&self) -> WatchCounters {
        self.counters
    }

    /// A picture of `track` was cleared at `now`.
    pub fn handle_picture(&mut self, now: Instant, track: Track, picture: CleanFrame) {
        self.counters.seen += 1;
        let run = &mut self.runs[track as usize];
        *run = match *run {
            Some((began, last)) if now.saturating_duration_since(last) < TRACK_GONE => Some((began, now)),
            _ => Some((now, now)),
        };
        let newest = self.newest_track(now);
        if newest != self.track {
            self.track = newest;
            self.recent.clear();
        }
        if track != self.track {
            return;
        }
        let sharpness = sharpness(picture.frame());
        if self.recent.back().is_some_and(|last| last.picture.size() != picture.size()) {
            self.recent.clear();
        }
        self.recent.push_back(Recent { picture, taken: now, sharpness });
        let window = self.settings.window;
        while self.recent.len() > HELD
            || self.recent.front().is_some_and(|first| now.saturating_duration_since(first.taken) > window)
        {
            self.recent.pop_front();
        }
    }

    /// The one that began to show last, of those that still do.
    fn newest_track(&self, now: Instant) -> Track {
        let began = |track: Track| {
            let run = self.runs[track as usize];
            run.filter(|(_, last)| now.saturating_duration_since(*last) < TRACK_GONE).map(|(began, _)| began)
        };
        if began(Track::Screen) > began(Track::Camera) { Track::Screen } else { Track::Camera }
    }

    /// The caller began or ceased to speak.
    pub fn handle_speaking(&mut self, speaking: bool) {
        self.sampler.handle_speaking(speaking);
    }

    /// The track ended or is on hold: what it showed is no answer any more.
    pub fn handle_dark(&mut self) {
        self.recent.clear();
        self.runs = [None; 2];
    }

    /// Samples may be taken, or may not; wishes are answered in any case.
    pub fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// A picture is wanted; exactly one [`Chosen`] will name `reason`.
    pub fn want(&mut self, now: Instant, reason: Reason) {
        if self.wants.len() < WANTS_MAX {
            self.wants.push_back((reason, now));
        }
    }

    /// A still of this look was made, and is called `id` from now on.
    pub fn made(&mut self, id: u64, look: Look) {
        while self.looks.len() >= self.settings.remembered.max(1) {
            self.looks.pop_front();
        }
        self.looks.push_back((id, look));
    }

    /// Whoever kept the stills keeps none: the next is new in any case.
    pub fn forget(&mut self) {
        self.looks.clear();
    }

    /// What is to be done at `now`; ask until nothing is.
    pub fn poll(&mut self, now: Instant) -> Option<Chosen> {
        let newest_age = self.recent.back().map(|newest| now.saturating_duration_since(newest.taken));
        let is_new = newest_age.is_some_and(|age| age <= self.settings.window);
        let usable = newest_age.is_some_and(|age| age <= self.settings.max_age);
        if self.open && self.shows && !usable {
            // Whoever follows the samples is to know that there is nothing to see any more.
            self.shows = false;
            self.looks.clear();
            return Some(Chosen::Blind { reasons: vec![Reason::Sample] });
        }
        let due = if is_new && self.open { self.sampler.due(now) } else { None };
        let patience = self.settings.patience;
        let overdue = |(_, since): &(Reason, Instant)| now.saturating_duration_since(*since) >= patience;
        let wanted = self.wants.iter().any(|want| is_new || overdue(want));
        if due.is_none() && !wanted {
            return None;
        }
        self.counters.sampled += 1;
        let mut reasons: Vec<Reason> = Vec::with_capacity(self.wants.len() + 1);
        if wanted {
            reasons.extend(self.wants.drain(..).map(|(reason, _)| reason));
        }
        let Some((picture, taken)) = self.sharpest().filter(|_| usable) else {
            self.counters.blind += reasons.len() as u64;
            return Some(Chosen::Blind { reasons });
        };
        self.sampler.taken(now);
        self.shows |= due == Some(Reason::Sample);
        let look = Look::of(picture.frame());
        let known = self.looks.iter().rev().find(|(_, known)| known.is_like(&look)).map(|(id, _)| *id);
        if let Some(id) = known {
            self.counters.same += 1;
            // Nobody waits for a sample that shows nothing new.
            reasons.extend(due.filter(|reason| *reason != Reason::Sample));
            return if reasons.is_empty() {
                self.poll(now)
            } else {
                Some(Chosen::Same { id, taken, reasons })
            };
        }
        reasons.extend(due);
        Some(Chosen::Take { picture, track: self.track, taken, look: Box::new(look), reasons })
    }

    /// The newest picture, unless one of the window is clearly sharper.
    fn sharpest(&self) -> Option<(CleanFrame, Instant)> {
        let newest = self.recent.back()?;
        let best = self.recent.iter().max_by_key(|recent| recent.sharpness)?;
        let clearly = u64::from(best.sharpness) * 8 > u64::from(newest.sharpness) * 9;
        let chosen = if clearly { best } else { newest };
        Some((chosen.picture.clone(), chosen.taken))
    }

    /// When to poll again although nothing came.
    pub fn wake_at(&self) -> Option<Instant> {
        self.wants.iter().map(|(_, since)| *since + self.settings.patience).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::{Plane, Size};
    use crate::media::pool::FramePool;

    /// Shows a scene, sharp or blurred: stripes of `shade`.
    fn picture(shade: u8, sharp: bool) -> CleanFrame {
        let size = Size::new(320, 180);
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
            let (x, up) = (at % size.width, if sharp { 40 } else { 8 });
            *luma = shade.saturating_add(if (x / 4).is_multiple_of(2) { up } else { 0 });
        }
        CleanFrame::drawn_here(picture)
    }

    struct Bench {
        watch: Watch,
        start: Instant,
        next: u64,
    }

    impl Bench {
        fn new(settings: WatchSettings) -> Self {
            Bench { watch: Watch::new(settings), start: Instant::now(), next: 1 }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn show(&mut self, ms: u64, shade: u8) {
            self.watch.handle_picture(self.at(ms), Track::Camera, picture(shade, true));
        }

        /// What comes of it: `new 1 [Onset]`, `same 1 [Turn]`, `blind [Look]`.
        fn poll(&mut self, ms: u64) -> Option<String> {
            Some(match self.watch.poll(self.at(ms))? {
                Chosen::Take { look, reasons, .. } => {
                    self.watch.made(self.next, *look);
                    self.next += 1;
                    format!("new {} {reasons:?}", self.next - 1)
                }
                Chosen::Same { id, reasons, .. } => format!("same {id} {reasons:?}"),
                Chosen::Blind { reasons } => format!("blind {reasons:?}"),
            })
        }
    }

    fn asked_only() -> WatchSettings {
        let sampler = SamplerSettings { speaking_fps: 0.0, silent_fps: 0.0, onset: true };
        WatchSettings { sampler, ..WatchSettings::default() }
    }

    #[test]
    fn a_still_scene_is_sent_once_however_often_it_is_looked_at() {
        let mut bench = Bench::new(WatchSettings::default());
        let mut told = Vec::new();
        for ms in (0..30_000).step_by(40) {
            bench.show(ms, if ms < 15_000 { 60 } else { 120 });
            told.extend(bench.poll(ms).map(|what| (ms, what)));
        }
        let (times, words): (Vec<u64>, Vec<String>) = told.into_iter().unzip();
        assert_eq!(words, ["new 1 [Sample]", "new 2 [Sample]"]);
        assert!(times[0] == 0 && (15_000..18_100).contains(&times[1]), "{times:?}");
        let counters = bench.watch.counters();
        assert!(counters.same >= 8 && counters.sampled == counters.same + 2, "{counters:?}");
    }

    #[test]
    fn the_turn_has_its_picture_at_once_and_an_unchanged_one_is_named_again() {
        let mut bench = Bench::new(asked_only());
        bench.show(0, 60);
        assert_eq!(bench.poll(0), None);
        bench.watch.handle_speaking(true);
        bench.show(40, 60);
        assert_eq!(bench.poll(40).as_deref(), Some("new 1 [Onset]"));
        bench.show(80, 60);
        bench.watch.want(bench.at(85), Reason::Turn);
        assert_eq!(bench.poll(85).as_deref(), Some("same 1 [Turn]"));
        bench.show(120, 160);
        bench.watch.want(bench.at(130), Reason::Turn);
        bench.watch.want(bench.at(130), Reason::Look);
        assert_eq!(bench.poll(130).as_deref(), Some("new 2 [Turn, Look]"));
        assert_eq!(bench.poll(131), None);
    }

    #[test]
    fn what_was_shown_before_is_known_again() {
        let mut bench = Bench::new(asked_only());
        for (ms, shade, expected) in
            [(0, 40, "new 1 [Look]"), (400, 90, "new 2 [Look]"), (800, 40, "same 1 [Look]")]
        {
            bench.show(ms, shade);
            bench.watch.want(bench.at(ms), Reason::Look);
            assert_eq!(bench.poll(ms).as_deref(), Some(expected));
        }
    }

    #[test]
    fn without_a_fresh_picture_it_waits_a_little_then_takes_the_last_and_none_that_is_old() {
        let mut bench = Bench::new(asked_only());
        bench.watch.want(bench.at(0), Reason::Look);
        assert_eq!(bench.poll(0), None);
        assert_eq!(bench.watch.wake_at(), Some(bench.at(60)));
        assert_eq!(bench.poll(60).as_deref(), Some("blind [Look]"));
        bench.show(100, 60);
        bench.watch.want(bench.at(1_000), Reason::Turn);
        assert_eq!(bench.poll(1_000), None);
        assert_eq!(bench.poll(1_060).as_deref(), Some("new 1 [Turn]"), "better an old one than none");
        bench.watch.want(bench.at(9_000), Reason::Turn);
        assert_eq!(bench.poll(9_060).as_deref(), Some("blind [Turn]"), "nobody answers about the past");
        bench.show(9_100, 60);
        bench.watch.handle_dark();
        bench.watch.want(bench.at(9_101), Reason::Turn);
        assert_eq!(bench.poll(9_200).as_deref(), Some("blind [Turn]"));
        assert_eq!(bench.watch.counters().blind, 3);
    }

    #[test]
    fn who_follows_samples_is_told_once_that_there_is_nothing_any_more() {
        let mut bench = Bench::new(WatchSettings::default());
        let mut told = Vec::new();
        for ms in (0..30_000).step_by(40) {
            // The camera is off from the fifth second to the twentieth.
            if !(5_000..20_000).contains(&ms) {
                bench.show(ms, 60);
            }
            told.extend(bench.poll(ms).map(|what| (ms / 1_000, what)));
        }
        let expected = [(0, "new 1 [Sample]"), (10, "blind [Sample]"), (20, "new 2 [Sample]")];
        assert_eq!(told, expected.map(|(at, what)| (at, what.to_owned())));
    }

    #[test]
    fn the_sharp_picture_of_the_window_is_taken_and_never_one_before_it() {
        let mut bench = Bench::new(asked_only());
        for (ms, sharp) in [(0, true), (100, false), (140, true), (180, false)] {
            bench.watch.handle_picture(bench.at(ms), Track::Camera, picture(60, sharp));
        }
        bench.watch.want(bench.at(181), Reason::Turn);
        let Some(Chosen::Take { taken, .. }) = bench.watch.poll(bench.at(181)) else { panic!("nothing") };
        assert_eq!(taken, bench.at(140));
        bench.watch.handle_picture(bench.at(300), Track::Camera, picture(160, false));
        bench.watch.want(bench.at(301), Reason::Turn);
        let Some(Chosen::Take { taken, .. }) = bench.watch.poll(bench.at(301)) else { panic!("nothing") };
        assert_eq!(taken, bench.at(300));
    }

    #[test]
    fn a_screen_that_is_shared_shows_until_it_ends() {
        let mut bench = Bench::new(asked_only());
        let mut track = |ms: u64, screen: bool| {
            bench.show(ms, 60);
            if screen {
                bench.watch.handle_picture(bench.at(ms), Track::Screen, picture(150, true));
            }
            bench.watch.forget();
            bench.watch.want(bench.at(ms), Reason::Look);
            match bench.watch.poll(bench.at(ms)) {
                Some(Chosen::Take { track, .. }) => track,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(track(0, false), Track::Camera);
        assert_eq!(track(1_000, true), Track::Screen);
        assert_eq!(track(1_080, true), Track::Screen);
        assert_eq!(track(7_000, false), Track::Camera);
    }

    #[test]
    fn it_holds_few_pictures_and_a_closed_watch_takes_no_samples() {
        let pool = FramePool::new(HELD + 1);
        let mut bench = Bench::new(WatchSettings::default());
        bench.watch.set_open(false);
        for ms in 0..500 {
            let picture = pool.take_sized(Size::new(320, 180), Pts::ZERO).expect("room for one more");
            bench.watch.handle_picture(bench.at(ms), Track::Camera, CleanFrame::drawn_here(picture));
            assert_eq!(bench.poll(ms), None);
        }
        assert!(pool.in_use() <= HELD);
    }
}
