//! Driver. The outbound picture thread of one call: source → fit to the peer → encode → network.
//!
//! Sources are the cleared inbound picture (mirror), a test card, a file or a still. An IDR picture follows a key
//! request with the next picture; the first picture goes out at once, as a slate when nothing has come yet. While
//! nothing may be sent (hold), nothing is drawn or encoded. What is shown in place of the source's picture, and written on
//! it, is the canvas's.

#![expect(clippy::disallowed_methods, reason = "own pictures are paced by the clock")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::queue::{Gop, Sender, Taken};
use crate::base::stop::Outcome;
use crate::base::time::Pts;
use crate::engine::canvas::Canvas;
use crate::engine::coding::{Coder, Coding};
use crate::engine::face::picture::{self, FaceView};
use crate::engine::paint::{FIRST_SLATE, Still};
use crate::engine::report::Gauges;
use crate::engine::steering::Steered;
use crate::media::access_unit::AccessUnit;
use crate::media::frame::CleanFrame;
use crate::media::pool::FramePool;

/// A picture that nobody renews is sent again this often, so the peer keeps something to show.
const REPEAT: Duration = Duration::from_secs(1);
/// What is to be shown or written is looked for at least this often.
const LOOK: Duration = Duration::from_millis(200);
/// How long the first real picture may take before a slate goes out in its place, and a picture that a peer who asked
/// for a key picture is waiting for.
const FIRST_WAIT: Duration = Duration::from_millis(80);

/// Draws the pictures of a source that is not the caller's own picture.
pub trait Painter: Send {
    /// The picture number `n`, at `pts`. `None`: no buffer is free.
    fn paint(&mut self, n: u64, pts: Pts, pool: &FramePool) -> Option<CleanFrame>;
}

/// Where the pictures come from.
pub enum Source {
    /// What comes in at the steering's feed.
    Mirror {
        slate: Box<dyn Painter>,
    },
    Own {
        painter: Box<dyn Painter>,
        fps: u32,
    },
    /// The face of an agent.
    Face(Box<FaceView>),
}

/// Everything the thread owns.
pub struct VideoOut {
    pub source: Source,
    pub steered: Steered,
    pub coder: Coder,
    pub units: Sender<AccessUnit, Gop>,
    pub pool: FramePool,
    pub epoch: Instant,
    /// Of the appliance, for slates.
    pub name: String,
    pub gauges: Arc<Gauges>,
    pub canvas: Canvas,
}

impl VideoOut {
    /// Runs until the network is gone.
    pub fn run(self) -> Outcome {
        let VideoOut { source, steered, coder, units, pool, epoch, name, gauges, canvas } = self;
        let coding = Coding::new(coder, units, pool.clone(), gauges);
        let mut running = Sending { steered, coding, pool, epoch, canvas };
        match source {
            Source::Mirror { slate } => running.mirror(slate, &name),
            Source::Own { painter, fps } => running.own(painter, fps),
            Source::Face(view) => picture::show(&mut running, *view),
        }
    }
}

/// What every kind of source sends with.
pub struct Sending {
    pub steered: Steered,
    pub coding: Coding,
    pub pool: FramePool,
    pub epoch: Instant,
    pub canvas: Canvas,
}

impl Sending {
    pub fn now(&self) -> Pts {
        Pts::at(self.epoch, Instant::now())
    }

    /// Whether there is something new to be shown or written; a cut is a key picture.
    pub fn look(&mut self, now: Instant) -> bool {
        self.canvas.set_live(self.steered.sends());
        let news = self.canvas.look(now, &self.pool);
        if news.picture {
            self.steered.want_key();
        }
        news.any()
    }

    /// `false`: the network is gone.
    pub fn put_out(&mut self, now: Instant, picture: CleanFrame) -> bool {
        let written = self.canvas.write(now, picture, &self.pool);
        self.coding.send(&written, &self.steered)
    }

    fn mirror(&mut self, mut slate: Box<dyn Painter>, name: &str) -> Outcome {
        let mut last: Option<CleanFrame> = None;
        let mut blind = false;
        let mut repeat_at = Instant::now();
        loop {
            let waited_for = self.steered.sends() && (last.is_none() || self.steered.wants_key());
            let patience = if waited_for { FIRST_WAIT } else { LOOK };
            let fresh = match self.steered.picture_within(patience) {
                Taken::Item(picture) => Some(picture),
                Taken::Empty => None,
                Taken::Closed => return Outcome::Done,
            };
            if self.steered.is_blind() && !blind {
                blind = true;
                let size = last.as_ref().map_or(FIRST_SLATE, CleanFrame::size);
                slate = Box::new(Still::new("your picture cannot be shown", name, size));
                last = None;
                repeat_at = Instant::now();
            }
            let now = Instant::now();
            let news = self.look(now);
            if !self.steered.sends() {
                last = fresh.or(last);
                continue;
            }
            if let Some(shown) = self.canvas.instead(self.now()) {
                last = fresh.or(last);
                let due = news || self.steered.wants_key() || self.canvas.is_due(now);
                if due && !self.put_out(now, shown) {
                    return Outcome::Done;
                }
                continue;
            }
            let picture = match (fresh, &last) {
                (Some(picture), _) => Some(picture),
                // Nothing came, and nobody waits for it to be sent again.
                (None, Some(_)) if !news && !self.steered.wants_key() && now < repeat_at => continue,
                (None, Some(last)) => Some(last.at(self.now())),
                (None, None) => slate.paint(0, self.now(), &self.pool),
            };
            let Some(picture) = picture else { continue };
            repeat_at = now + REPEAT;
            last = Some(picture.clone());
            if !self.put_out(now, picture) {
                return Outcome::Done;
            }
        }
    }

    fn own(&mut self, mut painter: Box<dyn Painter>, fps: u32) -> Outcome {
        let period = Duration::from_secs(1) / fps.max(1);
        let start = Instant::now();
        let mut n = 0_u64;
        loop {
            let due = start + period * u32::try_from(n).unwrap_or(u32::MAX);
            let wait =
                if self.steered.sends() { due.saturating_duration_since(Instant::now()) } else { LOOK };
            if matches!(self.steered.picture_within(wait), Taken::Closed) {
                return Outcome::Done;
            }
            let now = Instant::now();
            let news = self.look(now);
            // Nudged: the picture is not due yet, unless somebody waits for it.
            if !self.steered.sends() || (now < due && !self.steered.wants_key()) {
                continue;
            }
            // A box too slow for its own pictures leaves some out rather than falling behind for ever; so does a hold.
            let behind = now.saturating_duration_since(due).as_nanos() / period.as_nanos().max(1);
            n += u64::try_from(behind).unwrap_or(0);
            let shown = self.canvas.instead(Pts::at(self.epoch, now));
            if shown.is_some() && !news && !self.steered.wants_key() && !self.canvas.is_due(now) {
                n += 1;
                continue;
            }
            let picture = shown.or_else(|| painter.paint(n, Pts::at(self.epoch, now), &self.pool));
            n += 1;
            let Some(picture) = picture else { continue };
            if !self.put_out(now, picture) {
                return Outcome::Done;
            }
        }
    }
}
