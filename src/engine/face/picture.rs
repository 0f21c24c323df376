//! Driver. The face's pictures on the thread of outgoing pictures: they leave with their sound, as they came where the
//! caller can decode them, else decoded, dressed and encoded anew. Until there is a face, and after one, a still.
//!
//! Where pictures come from is the face's task's; what is shown in place of them and written on them is the canvas's.

#![expect(clippy::disallowed_methods, reason = "pictures are paced by the clock")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::avatar::{MediaTime, Picture};
use crate::base::queue::{Coded, Gop, Latest, Offered, Receiver, Sender, Taken};
use crate::base::stop::Outcome;
use crate::base::time::{Clock, Pts};
use crate::codec::decoder::Decoder;
use crate::engine::face::FaceSettings;
use crate::engine::face::figures::FaceFigures;
use crate::engine::face::fit::fits;
use crate::engine::face::lips::{LipClock, Lips};
use crate::engine::plan::Label;
use crate::engine::video_out::{Painter, Sending};
use crate::media::access_unit::AccessUnit;
use crate::media::codec::VideoDecoder;
use crate::media::filter::Gate;
use crate::media::frame::{CleanFrame, RawFrame};
use crate::media::pool::FramePool;
use crate::vision::filters::Transforms;
use crate::vision::overlay::{Overlay, Stamp};

/// Coded pictures on their way to the thread.
pub const FEED: usize = 90;
/// Pictures that wait here for their sound.
const HELD: usize = 60;
/// Pictures that are not coded: they are large.
const HELD_PLAIN: usize = 12;
/// How long one waits at most.
const LONGEST: Duration = Duration::from_secs(1);
/// The steering is looked at so often.
const LOOK: Duration = Duration::from_millis(10);
/// The same while nothing may be sent.
const REST: Duration = Duration::from_millis(200);
/// A still is sent again so often.
const REPEAT: Duration = Duration::from_secs(1);
/// A picture somebody waits for a key picture of: how long the next one may take.
const PATIENCE: Duration = Duration::from_millis(80);
/// The provider is asked for a key picture so often at most.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// Without anything drawn for so long, pictures go as they come again, from the next key picture on.
const UNDRAWN: Duration = Duration::from_secs(2);
/// Without a picture for so long the provider is asked for one; after twice that it stands still.
const FROZEN: Duration = Duration::from_secs(2);
/// What is passed on may be so many times what the path carries, for so many seconds; then it is coded anew for so long.
const FAT: u64 = 2;
const FAT_SECONDS: u32 = 2;
const SLIM: Duration = Duration::from_secs(30);
/// Decoder 1, last 1, dressed 1, on their way into the encoder 2.
const POOL: usize = 5 + HELD_PLAIN;

/// What the face's task hands over.
#[derive(Debug)]
pub enum Shown {
    Picture {
        made: MediaTime,
        came: Instant,
        /// How long sound takes, as [`Pace::sound`](super::lips::Pace::sound) tells it.
        sound: Option<i64>,
        picture: Picture,
    },
    /// There is no face any more.
    Gone,
}

impl Coded for Shown {
    fn is_key(&self) -> bool {
        match self {
            Shown::Picture { picture: Picture::Coded(unit), .. } => unit.key,
            Shown::Picture { picture: Picture::Plain(_), .. } | Shown::Gone => true,
        }
    }
}

/// Everything the thread needs of a face.
pub struct FaceView {
    pub feed: Receiver<Shown, Gop>,
    /// A key picture is wanted of the provider.
    pub wish: Sender<(), Latest>,
    pub lips: Arc<LipClock>,
    pub settings: Arc<FaceSettings>,
    pub figures: Arc<FaceFigures>,
    pub label: Label,
    pub clock: Clock,
    /// Shown until there is a face.
    pub still: Box<dyn Painter>,
}

/// How the face's pictures go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// There are none, or none that anything can be made of before the next key picture.
    None,
    Passed,
    Decoded,
}

struct Held {
    made: MediaTime,
    came: Instant,
    picture: Picture,
}

struct Showing<'a> {
    sending: &'a mut Sending,
    view: FaceView,
    lips: Lips,
    held: VecDeque<Held>,
    way: Way,
    decoder: Option<Decoder>,
    gate: Gate,
    pool: FramePool,
    transforms: Transforms,
    overlay: Overlay,
    /// What is shown while nothing comes.
    last: Option<CleanFrame>,
    /// The last key picture that was passed on: what is made of it if the face is lost.
    key: Option<AccessUnit>,
    /// When a picture last left, on the call's clock and on ours.
    left: (Pts, Instant),
    came: Option<Instant>,
    asked: Option<Instant>,
    /// When something was last drawn.
    drawn: Option<Instant>,
    drawings: u64,
    load: Load,
}

/// How much is passed on, against what the path carries.
#[derive(Default)]
struct Load {
    since: Option<Instant>,
    bytes: u64,
    /// Seconds in a row that were too much.
    over: u32,
    /// Nothing is passed on until then.
    until: Option<Instant>,
}

impl Load {
    fn add(&mut self, now: Instant, bytes: usize, kbps: u32) {
        let since = *self.since.get_or_insert(now);
        self.bytes += bytes as u64;
        if now < since + Duration::from_secs(1) {
            return;
        }
        let over = self.bytes * 8 / 1_000 > FAT * u64::from(kbps);
        self.over = if over { self.over + 1 } else { 0 };
        if self.over >= FAT_SECONDS {
            (self.over, self.until) = (0, Some(now + SLIM));
        }
        (self.since, self.bytes) = (Some(now), 0);
    }

    fn is_too_much(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Shows a face until the network is gone.
pub fn show(sending: &mut Sending, view: FaceView) -> Outcome {
    let now = Instant::now();
    let mut showing = Showing {
        lips: Lips::default(),
        held: VecDeque::new(),
        way: Way::None,
        decoder: None,
        gate: Gate::open(),
        pool: FramePool::new(POOL),
        transforms: Transforms::new(view.settings.transforms.clone()),
        overlay: Overlay::new(view.settings.overlay.clone()),
        last: None,
        key: None,
        left: (Pts::from_millis(-1), now),
        came: None,
        asked: None,
        drawn: None,
        drawings: 0,
        load: Load::default(),
        sending,
        view,
    };
    while showing.round() {}
    Outcome::Done
}

impl Showing<'_> {
    /// `false`: the network is gone.
    fn round(&mut self) -> bool {
        if !self.wait() {
            return false;
        }
        let now = Instant::now();
        let news = self.sending.look(now);
        if self.sending.coding.renew(&self.sending.steered) {
            self.restart();
        }
        let pts = self.sending.now();
        self.lips.follow(pts, self.view.lips.read());
        if !self.sending.steered.sends() {
            self.held.clear();
            self.restart();
            return true;
        }
        if let Some(shown) = self.sending.canvas.instead(pts) {
            self.skip(now, pts);
            let due = news || self.sending.steered.wants_key() || self.sending.canvas.is_due(now);
            return !due || self.put_out(now, shown);
        }
        if self.sending.canvas.writes() || self.view.settings.draws() {
            self.drawn = Some(now);
        }
        self.release(now, pts) && self.stand(now, pts, news)
    }

    /// Waits for a picture, or until one is due. `false`: the network is gone.
    fn wait(&mut self) -> bool {
        let sends = self.sending.steered.sends();
        let wait = match self.next_due() {
            _ if !sends => REST,
            Some(due) => {
                let nanos = due.nanos() - self.sending.now().nanos();
                Duration::from_nanos(nanos.max(0) as u64).min(LOOK)
            }
            None => LOOK,
        };
        match self.view.feed.take_within(wait) {
            Taken::Item(shown) => {
                self.arrive(shown);
                while let Taken::Item(shown) = self.view.feed.try_take() {
                    self.arrive(shown);
                }
                !matches!(self.sending.steered.picture_within(Duration::ZERO), Taken::Closed)
            }
            Taken::Empty => !matches!(self.sending.steered.picture_within(Duration::ZERO), Taken::Closed),
            // The face's task has ended before the thread; nobody wakes it but the steering.
            Taken::Closed => !matches!(self.sending.steered.picture_within(wait), Taken::Closed),
        }
    }

    fn arrive(&mut self, shown: Shown) {
        match shown {
            Shown::Picture { made, came, sound, picture } => {
                self.lips.arrived(Pts::at(self.sending.epoch, came), made, sound);
                self.came = Some(came);
                self.held.push_back(Held { made, came, picture });
            }
            Shown::Gone => self.lose(),
        }
    }

    /// The face is gone: its last picture stays.
    fn lose(&mut self) {
        self.held.clear();
        self.lips.reset();
        self.came = None;
        self.stand_still();
    }

    /// What was passed on leaves its last key picture behind as a still.
    fn stand_still(&mut self) {
        if self.way == Way::Passed {
            let pts = self.sending.now();
            self.last =
                self.key.take().and_then(|unit| self.decode(AccessUnit { pts, ..unit })).or(self.last.take());
        }
        self.restart();
    }

    /// The next coded picture of use is a key picture; what is encoded here begins with one.
    fn restart(&mut self) {
        if self.way == Way::Passed {
            self.sending.steered.want_key();
        }
        (self.way, self.decoder) = (Way::None, None);
    }

    fn next_due(&self) -> Option<Pts> {
        let first = self.held.front()?;
        let latest = Pts::at(self.sending.epoch, first.came + LONGEST.min(self.view.settings.buffer));
        let plain = matches!(first.picture, Picture::Plain(_));
        let full = self.held.len() > if plain { HELD_PLAIN } else { HELD };
        let due = self.lips.due(first.made);
        Some(if full { Pts::ZERO } else { due.min(latest) })
    }

    /// Something else is shown: what is due is thrown away.
    fn skip(&mut self, now: Instant, pts: Pts) {
        while self.next_due().is_some_and(|due| due <= pts) {
            self.held.pop_front();
            self.view.figures.dropped.add(1);
        }
        self.drawn = Some(now);
        self.restart();
    }

    /// Sends what is due. `false`: the network is gone.
    fn release(&mut self, now: Instant, pts: Pts) -> bool {
        let (mut newest, mut newest_came) = (None, now);
        while self.next_due().is_some_and(|due| due <= pts) {
            let Some(Held { made, came, picture }) = self.held.pop_front() else { break };
            let due = self.lips.due(made);
            if self.lips.is_sounding() {
                let late = u64::try_from(pts.nanos() - due.nanos()).unwrap_or(0);
                self.view.figures.apart.add(Duration::from_nanos(late));
            }
            // Not before what has left, not after now, and never so long ago that it would be thrown away.
            let floor = Pts::from_millis(self.left.0.millis().max(pts.millis() - 500) + 1);
            let stamp = due.clamp(floor, pts.max(floor));
            match picture {
                Picture::Coded(unit) => {
                    if !self.coded(now, AccessUnit { pts: stamp, ..unit }, &mut newest) {
                        return false;
                    }
                }
                Picture::Plain(raw) => {
                    self.view.figures.pictures.add(1);
                    self.restart();
                    self.way = Way::Decoded;
                    newest = self.clear(now, raw).map(|picture| picture.at(stamp)).or(newest);
                }
            }
            if self.way == Way::Passed {
                self.view.figures.picture.add(came.elapsed());
            }
            newest_came = came;
        }
        let Some(picture) = newest else { return true };
        let before = self.sending.coding.gauges.encoded.value();
        let going = self.put_out(now, picture);
        self.view.figures.encoded.add(self.sending.coding.gauges.encoded.value() - before);
        self.view.figures.picture.add(newest_came.elapsed());
        going
    }

    /// `false`: the network is gone.
    fn coded(&mut self, now: Instant, unit: AccessUnit, newest: &mut Option<CleanFrame>) -> bool {
        self.view.figures.pictures.add(1);
        let drawn = self.drawn.is_some_and(|drawn| now < drawn + UNDRAWN) || self.load.is_too_much(now);
        if unit.key {
            let passes = !drawn && fits(&unit, &self.sending.coding.coder);
            let way = if passes { Way::Passed } else { Way::Decoded };
            if self.way == Way::Passed && way == Way::Decoded {
                self.restart();
            }
            self.way = way;
        }
        match self.way {
            Way::None => {
                self.view.figures.dropped.add(1);
                self.ask(now);
                true
            }
            Way::Passed => {
                if drawn {
                    // What is drawn goes on what is decoded, and that begins with a key picture.
                    self.ask(now);
                }
                self.pass(now, unit)
            }
            Way::Decoded => {
                let idle = !drawn && !self.view.settings.draws();
                if idle && self.asked.is_none_or(|at| now >= at + 25 * ASK_AGAIN) {
                    // Once in a while it is tried whether pictures can go as they come.
                    self.ask(now);
                }
                if let Some(picture) = self.decode(unit) {
                    *newest = Some(picture);
                }
                true
            }
        }
    }

    fn pass(&mut self, now: Instant, unit: AccessUnit) -> bool {
        if unit.damaged {
            self.ask(now);
        }
        if unit.key {
            self.sending.steered.take_key();
            self.key = Some(unit.clone());
        }
        self.left = (unit.pts, now);
        let limit = self.sending.coding.coder.limits.kbps;
        let carried = self.sending.steered.rate().unwrap_or(limit);
        self.load.add(now, unit.data.len(), carried);
        match self.sending.coding.units.offer(unit) {
            Offered::Queued | Offered::Replaced(_) => {
                self.view.figures.passed.add(1);
                true
            }
            Offered::Refused => {
                self.way = Way::None;
                self.sending.steered.want_key();
                self.ask(now);
                true
            }
            Offered::Closed => false,
        }
    }

    fn decode(&mut self, unit: AccessUnit) -> Option<CleanFrame> {
        let (now, pts) = (Instant::now(), unit.pts);
        if self.decoder.is_none() {
            self.decoder = Decoder::new(unit.codec, Decoder::MAX).ok();
        }
        let decoded = self.decoder.as_mut()?.decode(&unit, &self.pool);
        let raw = match decoded {
            Ok(raw) => raw?,
            Err(error) => {
                tracing::debug!("a picture of the face: {error}");
                self.ask(now);
                return None;
            }
        };
        if unit.damaged {
            self.ask(now);
        }
        self.view.figures.decoded.add(1);
        self.clear(now, raw).map(|picture| picture.at(pts))
    }

    /// A picture of the face, dressed.
    fn clear(&mut self, now: Instant, raw: RawFrame) -> Option<CleanFrame> {
        let clean = self.gate.release(now, raw, &self.pool)?;
        if !self.view.settings.draws() {
            return Some(clean);
        }
        self.drawings += 1;
        let Label { name, call, from, to, .. } = &self.view.label;
        let stamp =
            Stamp { name, time: self.view.clock.wall(now).into(), call, from, to, frame: self.drawings };
        let (transforms, overlay) = (&mut self.transforms, &mut self.overlay);
        clean.edit(&self.pool, |picture| {
            transforms.apply(picture);
            if overlay.draws(false) {
                overlay.draw(picture, &[], &stamp);
            }
        })
    }

    /// Asks the provider for a key picture, not too often.
    fn ask(&mut self, now: Instant) {
        if self.asked.is_none_or(|at| now >= at + ASK_AGAIN) {
            self.asked = Some(now);
            self.view.figures.keys.add(1);
            self.view.wish.offer(());
        }
    }

    fn put_out(&mut self, now: Instant, picture: CleanFrame) -> bool {
        let floor = Pts::from_millis(self.left.0.millis() + 1);
        let picture = if picture.pts() < floor { picture.at(floor) } else { picture };
        self.left = (picture.pts(), now);
        self.last = Some(picture.clone());
        self.sending.put_out(now, picture)
    }

    /// What the caller sees while no picture comes. `false`: the network is gone.
    fn stand(&mut self, now: Instant, pts: Pts, news: bool) -> bool {
        let silent = now.saturating_duration_since(self.came.unwrap_or(self.left.1));
        if self.came.is_some() && silent >= FROZEN {
            self.ask(now);
            if self.way == Way::Passed && silent >= 2 * FROZEN {
                self.stand_still();
            }
        }
        let wanted = self.sending.steered.wants_key();
        let since = now.saturating_duration_since(self.left.1);
        match self.way {
            Way::Passed => {
                if wanted {
                    self.ask(now);
                }
                return true;
            }
            // The next picture is coming: it will be what somebody waits for.
            Way::Decoded if since < PATIENCE => return true,
            Way::Decoded | Way::None => {}
        }
        if self.last.is_some() && !wanted && !news && since < REPEAT {
            return true;
        }
        let picture = match &self.last {
            Some(last) => Some(last.at(pts)),
            None => self.view.still.paint(0, pts, &self.sending.pool),
        };
        picture.is_none_or(|picture| self.put_out(now, picture))
    }
}
