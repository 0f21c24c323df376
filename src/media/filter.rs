//! The gate between remote pictures and everything that consumes pictures. It fails closed.
//!
//! ```text
//! RawFrame ──▶ Gate: filter, filter, … ──Pass──▶ CleanFrame (the picture, censored)
//!                         └──────────── Withhold ▶ CleanFrame (the slate)
//! ```
//! Detectors and drawing live in `vision/`; here is only the rule that nothing uncleared leaves.

use std::time::Instant;

use crate::media::frame::{CleanFrame, FrameMut, Plane, RawFrame, Size};
use crate::media::pool::FramePool;

/// What one filter says of one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything this filter must hide is hidden.
    Pass,
    /// It cannot say so: show the slate.
    Withhold,
}

/// A step that must clear every picture.
pub trait VideoFilter: Send {
    /// Hides in `picture` what must not be seen. `now` is when the picture reached the gate.
    fn apply(&mut self, now: Instant, picture: &mut FrameMut) -> Verdict;
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
}

impl Gate {
    /// For routes without a censor: every picture passes as it is.
    pub fn open() -> Self {
        Gate { state: State::Open, slate: Box::new(BlackSlate), counters: GateCounters::default() }
    }

    /// Every picture must pass all `filters`, in order.
    pub fn filtering(filters: Vec<Box<dyn VideoFilter>>, slate: Box<dyn Slate>) -> Self {
        Gate { state: State::Filtering(filters), slate, counters: GateCounters::default() }
    }

    /// For routes whose censor cannot work: nothing but the slate.
    pub fn closed(slate: Box<dyn Slate>) -> Self {
        Gate { state: State::Closed, slate, counters: GateCounters::default() }
    }

    pub fn counters(&self) -> GateCounters {
        self.counters
    }

    /// Clears one picture or replaces it by the slate. `None`: no buffer is free, the picture is dropped.
    pub fn release(&mut self, now: Instant, raw: RawFrame, pool: &FramePool) -> Option<CleanFrame> {
        let filters = match &mut self.state {
            State::Open => {
                self.counters.passed += 1;
                return Some(CleanFrame(raw.0));
            }
            State::Filtering(filters) => Some(filters),
            State::Closed => None,
        };
        let Some(mut picture) = raw.0.edit(pool) else {
            self.counters.dropped += 1;
            return None;
        };
        let passed = filters.is_some_and(|filters| {
            filters.iter_mut().all(|filter| filter.apply(now, &mut picture) == Verdict::Pass)
        });
        if passed {
            self.counters.passed += 1;
        } else {
            self.counters.withheld += 1;
            self.slate.paint(&mut picture);
        }
        Some(CleanFrame(picture.freeze()))
    }

    /// A slate of `size`, for the time before the first picture.
    pub fn slate(&mut self, size: Size, pts: crate::base::time::Pts, pool: &FramePool) -> Option<CleanFrame> {
        let mut picture = pool.take_sized(size, pts)?;
        self.slate.paint(&mut picture);
        Some(CleanFrame::drawn_here(picture))
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

    struct Says(Verdict);
    impl VideoFilter for Says {
        fn apply(&mut self, _now: Instant, _picture: &mut FrameMut) -> Verdict {
            self.0
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
    }

    #[test]
    fn a_closed_gate_shows_only_the_slate_and_an_open_one_the_picture() {
        assert_eq!(luma_through(Gate::closed(Box::new(BlackSlate))), 16);
        assert_eq!(luma_through(Gate::open()), 235);
    }
}
