//! The gate between remote pictures and everything that consumes pictures. It fails closed.
//!
//! ```text
//! RawFrame ─▶ Gate: every filter looks ──all Pass──▶ every filter draws ─▶ CleanFrame (the picture, censored)
//!                        └──────────one Withholds──▶ the slate is painted ▶ CleanFrame (the slate)
//! ```
//! Detectors and drawing live in `vision/`; here is only the rule that nothing uncleared leaves.

use std::time::Instant;

use crate::media::codec::Detection;
use crate::media::frame::{CleanFrame, Frame, FrameMut, Plane, RawFrame};
use crate::media::pool::FramePool;

/// What one filter says of one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that this filter must hide is known; its `draw` will hide it.
    Pass,
    /// It cannot say so: show the slate.
    Withhold,
}

/// A step that must clear every picture, in two phases: it looks at the picture as it came, then draws on it.
///
/// Looking is apart from drawing so that every filter sees the picture untouched by the others, and so that nothing
/// is drawn on a picture that becomes the slate anyway.
pub trait VideoFilter: Send {
    /// Finds what must be hidden. `now` is when the picture reached the gate. Keep no clone of `picture`.
    fn look(&mut self, now: Instant, picture: &Frame) -> Verdict;

    /// Hides what the last `look` found, in that same picture. Called once, and only when every filter passed.
    fn draw(&mut self, picture: &mut FrameMut);

    /// What the last `look` found, for overlays. Empty for filters that find nothing.
    fn found(&self) -> &[Detection] {
        &[]
    }
}

/// Draws the picture shown instead of one that could not be cleared.
pub trait Slate: Send {
    /// Paints over every pixel of `picture`.
    fn paint(&mut self, picture: &mut FrameMut);
}

/// Pictures that went through one gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateCounters {
    pub passed: u64,
    /// Replaced by the slate.
    pub withheld: u64,
    /// No buffer was free: nothing left the gate.
    pub dropped: u64,
}

enum State {
    /// The route asks for no filter.
    Open,
    Filtering(Vec<Box<dyn VideoFilter>>),
    /// A filter the route asks for cannot exist (no model, no worker).
    Closed,
}

/// The only place where a [`RawFrame`] is opened.
pub struct Gate {
    state: State,
    slate: Box<dyn Slate>,
    counters: GateCounters,
    /// Whether the last picture was released as itself.
    shown: bool,
}

impl Gate {
    /// For routes without a censor: every picture passes as it is.
    pub fn open() -> Self {
        Gate::in_state(State::Open, Box::new(BlackSlate))
    }

    /// Every picture must pass all `filters`, in order.
    pub fn filtering(filters: Vec<Box<dyn VideoFilter>>, slate: Box<dyn Slate>) -> Self {
        Gate::in_state(State::Filtering(filters), slate)
    }

    /// For routes whose censor cannot work: nothing but the slate.
    pub fn closed(slate: Box<dyn Slate>) -> Self {
        Gate::in_state(State::Closed, slate)
    }

    fn in_state(state: State, slate: Box<dyn Slate>) -> Self {
        Gate { state, slate, counters: GateCounters::default(), shown: false }
    }

    pub fn counters(&self) -> GateCounters {
        self.counters
    }

    /// What the filters found in the last picture released; empty when that was the slate.
    pub fn found(&self) -> impl Iterator<Item = &Detection> {
        let filters: &[Box<dyn VideoFilter>] = match &self.state {
            State::Filtering(filters) if self.shown => filters,
            State::Open | State::Filtering(_) | State::Closed => &[],
        };
        filters.iter().flat_map(|filter| filter.found())
    }

    /// Clears one picture or replaces it by the slate. `None`: no buffer is free, the picture is dropped.
    pub fn release(&mut self, now: Instant, raw: RawFrame, pool: &FramePool) -> Option<CleanFrame> {
        self.shown = false;
        let cleared: Option<&mut [Box<dyn VideoFilter>]> = match &mut self.state {
            State::Open => {
                self.counters.passed += 1;
                self.shown = true;
                return Some(CleanFrame(raw.0));
            }
            State::Filtering(filters) => {
                let passed = filters.iter_mut().all(|filter| filter.look(now, &raw.0) == Verdict::Pass);
                passed.then_some(filters.as_mut_slice())
            }
            State::Closed => None,
        };
        let Some(mut picture) = raw.0.edit(pool) else {
            self.counters.dropped += 1;
            return None;
        };
        if let Some(filters) = cleared {
            filters.iter_mut().for_each(|filter| filter.draw(&mut picture));
            self.counters.passed += 1;
            self.shown = true;
        } else {
            self.slate.paint(&mut picture);
            self.counters.withheld += 1;
        }
        Some(CleanFrame(picture.freeze()))
    }

    /// A picture of a file the operator named, through an open gate, which needs neither time nor pool. `None`: the
    /// gate is not open.
    pub fn open_file_picture(&mut self, raw: RawFrame) -> Option<CleanFrame> {
        match self.state {
            State::Open => {
                self.counters.passed += 1;
                Some(CleanFrame(raw.0))
            }
            State::Filtering(_) | State::Closed => None,
        }
    }
}

/// Plain black, limited range.
pub struct BlackSlate;

impl Slate for BlackSlate {
    fn paint(&mut self, picture: &mut FrameMut) {
        picture.plane_mut(Plane::Y).fill(16);
        picture.plane_mut(Plane::U).fill(128);
        picture.plane_mut(Plane::V).fill(128);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Size;

    struct Says(Verdict);
    impl VideoFilter for Says {
        fn look(&mut self, _now: Instant, picture: &Frame) -> Verdict {
            assert!(picture.plane(Plane::Y).iter().all(|luma| *luma == 235), "another filter drew first");
            self.0
        }
        fn draw(&mut self, picture: &mut FrameMut) {
            picture.plane_mut(Plane::Y)[0] += 1;
        }
    }

    fn white(pool: &FramePool) -> RawFrame {
        let mut picture = pool.take_sized(Size::new(4, 4), Pts::ZERO).expect("room");
        picture.plane_mut(Plane::Y).fill(235);
        RawFrame::new(picture.freeze())
    }

    fn luma_through(mut gate: Gate) -> u8 {
        let pool = FramePool::new(2);
        let clean = gate.release(Instant::now(), white(&pool), &pool).expect("a picture");
        clean.frame().plane(Plane::Y)[5]
    }

    #[test]
    fn one_withholding_filter_makes_it_a_slate() {
        let gate = |verdicts: &[Verdict]| {
            let filters = verdicts.iter().map(|v| Box::new(Says(*v)) as Box<dyn VideoFilter>).collect();
            Gate::filtering(filters, Box::new(BlackSlate))
        };
        assert_eq!(luma_through(gate(&[Verdict::Pass, Verdict::Pass])), 235);
        assert_eq!(luma_through(gate(&[Verdict::Pass, Verdict::Withhold])), 16);
        assert_eq!(luma_through(gate(&[Verdict::Withhold, Verdict::Pass])), 16);
    }

    #[test]
    fn whatever_the_filters_say_a_withheld_picture_never_looks_like_what_came_in() {
        struct Blind(Verdict);
        impl VideoFilter for Blind {
            fn look(&mut self, _now: Instant, _picture: &Frame) -> Verdict {
                self.0
            }
            fn draw(&mut self, _picture: &mut FrameMut) {}
        }
        for count in 1..=4u32 {
            for said in 0..1u32 << count {
                let verdict = |at| if said >> at & 1 == 1 { Verdict::Withhold } else { Verdict::Pass };
                let filters = (0..count).map(|at| Box::new(Blind(verdict(at))) as Box<dyn VideoFilter>);
                let luma = luma_through(Gate::filtering(filters.collect(), Box::new(BlackSlate)));
                assert_eq!(luma == 235, said == 0, "{count} filters, {said:b}");
            }
        }
    }

    #[test]
    fn a_shared_raw_picture_is_copied_before_it_is_drawn_on_and_dropped_when_there_is_no_room() {
        let pool = FramePool::new(2);
        let raw = white(&pool);
        let kept = raw.0.clone();
        let mut gate = Gate::closed(Box::new(BlackSlate));
        let clean = gate.release(Instant::now(), raw, &pool).expect("a picture");
        assert_eq!((clean.frame().plane(Plane::Y)[5], kept.plane(Plane::Y)[5]), (16, 235));
        assert!(gate.release(Instant::now(), RawFrame::new(kept.clone()), &pool).is_none());
        assert_eq!(gate.counters(), GateCounters { passed: 0, withheld: 1, dropped: 1 });
    }

    #[test]
    fn every_filter_looks_at_the_untouched_picture_and_then_every_filter_draws() {
        let pool = FramePool::new(1);
        let filters = (0..3).map(|_| Box::new(Says(Verdict::Pass)) as Box<dyn VideoFilter>).collect();
        let mut gate = Gate::filtering(filters, Box::new(BlackSlate));
        let clean = gate.release(Instant::now(), white(&pool), &pool).expect("a picture");
        assert_eq!(clean.frame().plane(Plane::Y)[0], 238);
    }

    #[test]
    fn what_was_found_in_a_withheld_picture_is_not_told() {
        struct Finds(Vec<Detection>, Verdict);
        impl VideoFilter for Finds {
            fn look(&mut self, _now: Instant, _picture: &Frame) -> Verdict {
                self.1
            }
            fn draw(&mut self, _picture: &mut FrameMut) {}
            fn found(&self) -> &[Detection] {
                &self.0
            }
        }
        let pool = FramePool::new(1);
        let told = |verdict| {
            let found = vec![Detection { class: "face".into(), score: 0.5, rect: Default::default() }];
            let mut gate = Gate::filtering(vec![Box::new(Finds(found, verdict))], Box::new(BlackSlate));
            gate.release(Instant::now(), white(&pool), &pool).expect("a picture");
            gate.found().count()
        };
        assert_eq!(told(Verdict::Pass), 1);
        assert_eq!(told(Verdict::Withhold), 0);
    }

    #[test]
    fn a_closed_gate_shows_only_the_slate_and_an_open_one_the_picture() {
        assert_eq!(luma_through(Gate::closed(Box::new(BlackSlate))), 16);
        assert_eq!(luma_through(Gate::open()), 235);
    }
}
