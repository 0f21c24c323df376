//! The protocol of MuseTalk-type servers as RoomKit speaks it: sound goes up in pieces, the pictures made of one come down
//! plain, and an empty message says that they are complete.
//!
//! Pure. One piece is on its way at a time. The server gives no sound back and knows no time: ours is given out with the
//! pictures made of it ([`Line`]). An empty message of ours has the server give what it still holds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::line::{Line, Place};
use super::machine::{Act, Beginning, Machine};
use super::wire::{bytes_of, read_picture};
use crate::avatar::uplink::{Up, Uplink};
use crate::avatar::{AvatarEvent, Cause, Limits, Lost, Turn};
use crate::base::time::Pts;
use crate::codec::rgb;
use crate::media::frame::{Frame as Pixels, Size};
use crate::media::pool::FramePool;
use crate::remote::websocket::{Bytes, Frame};

/// Pieces move lips from this length on.
const PIECE: Duration = Duration::from_millis(100);
/// Pictures are not made further ahead of what is heard: they are large.
const AHEAD: Duration = Duration::from_millis(400);
/// Sound waits so long for pictures a server does not make.
const HELD: Duration = Duration::from_millis(400);
/// Sound that waits to go up; more is lost. A voice is made faster than it is heard.
const WAITING: Duration = Duration::from_secs(120);
/// Pictures alive at a time.
const POOL: usize = 40;
const LARGEST: Size = Size::new(1920, 1080);
const FPS: u32 = 30;
const FPS_MOST: u32 = 60;

#[derive(Debug)]
enum Out {
    Piece {
        turn: Turn,
        samples: Vec<i16>,
    },
    /// The turn is complete, or cut.
    Flush {
        turn: Turn,
        cut: bool,
    },
}

/// What the server works on.
#[derive(Debug)]
struct Asked {
    since: Instant,
    /// The end of a turn; else a piece.
    flush: bool,
    /// Its pictures are of no use any more.
    cut: bool,
    /// An interruption is carried out with its answer.
    hush: bool,
}

/// The turn that is going up.
#[derive(Debug)]
struct Rising {
    turn: Turn,
    begin: Place,
    pictures: u64,
}

/// See the module.
pub struct Raw {
    limits: Limits,
    uplink: Uplink,
    answer_within: Duration,
    fps: u32,
    waiting: VecDeque<Out>,
    waiting_samples: usize,
    asked: Option<Asked>,
    rising: Option<Rising>,
    line: Line,
    pool: FramePool,
    ready: bool,
    acts: VecDeque<Act>,
    /// Messages that are none, pictures without room, sound beyond the bound.
    odd: u64,
}

impl Raw {
    pub fn new(limits: Limits, answer_within: Duration) -> Self {
        Raw {
            uplink: Uplink::new(&limits),
            line: Line::new(limits.rate),
            limits,
            answer_within,
            fps: FPS,
            waiting: VecDeque::new(),
            waiting_samples: 0,
            asked: None,
            rising: None,
            pool: FramePool::new(POOL),
            ready: false,
            acts: VecDeque::new(),
            odd: 0,
        }
    }

    /// The limits of a session before the server has said how many pictures it makes.
    pub fn limits(rate: u32, ready_within: Duration, longest: Option<Duration>) -> Limits {
        Limits {
            rate,
            first_piece: PIECE,
            next_piece: PIECE,
            largest_piece: 2 * rate as usize,
            ready_within,
            longest,
            returns_sound: false,
            ..Limits::default()
        }
    }

    fn samples(&self, length: Duration) -> u64 {
        (length.as_millis() * u128::from(self.limits.rate) / 1_000) as u64
    }

    fn odd(&mut self, what: &str) {
        self.odd += 1;
        if self.odd == 1 {
            self.acts.push_back(Act::Tell(AvatarEvent::Warning(format!("the avatar's server sent {what}"))));
        }
    }

    fn pixels(&mut self, message: &Bytes) -> Option<Pixels> {
        let (size, pixels) = read_picture(message)?;
        let fits = size.width * size.height <= LARGEST.width * LARGEST.height;
        let picture = rgb::picture(&pixels, size, &self.pool, Pts::ZERO);
        picture.filter(|_| fits).map(|picture| picture.freeze())
    }

    fn take(&mut self, up: Up) {
        match up {
            Up::Piece { turn, samples } => {
                self.waiting_samples += samples.len();
                if self.waiting_samples as u64 > self.samples(WAITING) {
                    self.waiting_samples -= samples.len();
                    self.odd += 1;
                    return;
                }
                self.waiting.push_back(Out::Piece { turn, samples });
            }
            Up::End { turn } => self.waiting.push_back(Out::Flush { turn, cut: false }),
        }
    }

    /// Asks for the next piece's pictures, unless there are enough of them.
    fn ask(&mut self, now: Instant) {
        if !self.ready || self.asked.is_some() || self.line.ahead() >= self.samples(AHEAD) {
            return;
        }
        let (message, flush, hush) = match self.waiting.pop_front() {
            None => return,
            Some(Out::Piece { turn, samples }) => {
                self.waiting_samples -= samples.len();
                if self.rising.as_ref().is_none_or(|rising| rising.turn != turn) {
                    self.line.begin_turn(turn);
                    self.rising = Some(Rising { turn, begin: self.line.end(), pictures: 0 });
                }
                self.line.push(&samples);
                (Bytes::from(bytes_of(&samples)), false, false)
            }
            Some(Out::Flush { turn, cut }) => {
                if !cut {
                    self.line.end_turn(turn);
                }
                (Bytes::new(), true, cut)
            }
        };
        self.asked = Some(Asked { since: now, flush, cut: hush, hush });
        self.acts.push_back(Act::Send(Frame::Binary(message)));
    }

    fn picture(&mut self, message: &Bytes) {
        let Some(picture) = self.pixels(message) else {
            return self.odd("a picture that is none, or for which there is no room");
        };
        let rate = u64::from(self.limits.rate);
        let Some(rising) = &mut self.rising else { return };
        let place = rising.begin + rising.pictures * rate / u64::from(self.fps);
        rising.pictures += 1;
        // Beyond the last sample: the mouth is closed again.
        if place < self.line.end() {
            self.line.show(place, picture);
        }
    }

    /// Everything made of what was asked has come.
    fn complete(&mut self, asked: &Asked) {
        if asked.hush {
            self.acts.push_back(Act::Tell(AvatarEvent::Hushed));
        }
        if asked.cut {
            return;
        }
        if asked.flush {
            self.line.release(self.line.end());
            self.rising = None;
            return;
        }
        let unseen = self.line.end().saturating_sub(self.samples(HELD));
        let (rate, fps) = (u64::from(self.limits.rate), u64::from(self.fps));
        if let Some(rising) = &mut self.rising {
            // Some servers round up in every piece: that must not add up.
            rising.pictures = rising.pictures.min((self.line.end() - rising.begin) * fps / rate);
            let seen = rising.begin + rising.pictures * rate / fps;
            self.line.release(seen.max(unseen));
        }
    }
}

impl Machine for Raw {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn handle_open(&mut self, now: Instant, beginning: Beginning) {
        if (1..=FPS_MOST).contains(&beginning.fps) {
            self.fps = beginning.fps;
        }
        // A whole number of pictures, so that none waits for the next piece.
        let pictures = (PIECE.as_millis() as u32 * self.fps).div_ceil(1_000);
        let piece = Duration::from_micros(u64::from(pictures) * 1_000_000 / u64::from(self.fps));
        self.uplink = Uplink::new(&Limits { first_piece: piece, next_piece: piece, ..self.limits.clone() });
        let idle = self.pixels(&beginning.idle);
        if idle.is_none() && !beginning.idle.is_empty() {
            self.odd("a picture of the face at rest that is none");
        }
        self.line.start(now, idle);
        self.ready = true;
        self.acts.push_back(Act::Tell(AvatarEvent::Opened { session: beginning.session }));
        self.acts.push_back(Act::Tell(AvatarEvent::Ready));
    }

    fn handle_frame(&mut self, now: Instant, frame: Frame) {
        let message = match frame {
            Frame::Binary(message) => message,
            Frame::Text(_) => return self.odd("text"),
        };
        let Some(asked) = self.asked.take() else { return self.odd("pictures nobody asked for") };
        if message.is_empty() {
            self.complete(&asked);
            self.ask(now);
            return;
        }
        if !asked.cut {
            self.picture(&message);
        }
        self.asked = Some(asked);
    }

    fn wake_at(&self) -> Option<Instant> {
        let answer = self.asked.as_ref().map(|asked| asked.since + self.answer_within);
        [answer, self.uplink.wake_at(), self.line.wake_at()].into_iter().flatten().min()
    }

    fn handle_time(&mut self, now: Instant) {
        let mut ups = Vec::new();
        self.uplink.handle_time(now, |up| ups.push(up));
        ups.into_iter().for_each(|up| self.take(up));
        let acts = &mut self.acts;
        self.line.handle_time(now, |event| acts.push_back(Act::Tell(event)));
        if self.asked.as_ref().is_some_and(|asked| asked.since + self.answer_within <= now) {
            let why = format!("no pictures within {} ms", self.answer_within.as_millis());
            self.asked = None;
            self.acts.push_back(Act::Tell(AvatarEvent::Lost(Lost::new(Cause::Connection, why))));
        }
        self.ask(now);
    }

    fn speak(&mut self, now: Instant, turn: Turn, samples: &[i16]) {
        if !self.ready {
            return;
        }
        let mut ups = Vec::new();
        self.uplink.speak(now, turn, samples, |up| ups.push(up));
        ups.into_iter().for_each(|up| self.take(up));
        self.ask(now);
    }

    fn end(&mut self, turn: Turn) {
        let mut ups = Vec::new();
        self.uplink.end(turn, |up| ups.push(up));
        ups.into_iter().for_each(|up| self.take(up));
    }

    fn interrupt(&mut self, turn: Turn) {
        self.uplink.cut(turn);
        let of = |out: &Out| match out {
            Out::Piece { turn, .. } | Out::Flush { turn, .. } => *turn,
        };
        self.waiting.retain(|out| of(out) > turn || matches!(out, Out::Flush { cut: true, .. }));
        let samples = |out: &Out| match out {
            Out::Piece { samples, .. } => samples.len(),
            Out::Flush { .. } => 0,
        };
        self.waiting_samples = self.waiting.iter().map(samples).sum();
        let heard = self.line.cut(turn);
        let rising = self.rising.take_if(|rising| rising.turn <= turn).is_some();
        if let Some(asked) = self.asked.as_mut().filter(|_| rising) {
            asked.cut = true;
        }
        if let Some(turn) = heard {
            self.acts.push_back(Act::Tell(AvatarEvent::Ended { turn, interrupted: true }));
        }
        if rising {
            // Before anything of a later turn.
            self.waiting.push_front(Out::Flush { turn, cut: true });
        } else {
            self.acts.push_back(Act::Tell(AvatarEvent::Hushed));
        }
    }

    fn next_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avatar::Picture;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A server in virtual time: pictures a piece of 100 ms makes, 10 a second make one.
    struct World {
        raw: Raw,
        began: Instant,
        now: Instant,
        per_piece: usize,
        asked: Vec<usize>,
        answering: bool,
        seen: Vec<AvatarEvent>,
    }

    fn message(width: u16) -> Frame {
        let head = [width.to_be_bytes(), 2_u16.to_be_bytes()].concat();
        Frame::Binary([head, vec![200; 6 * usize::from(width)]].concat().into())
    }

    impl World {
        fn new(fps: u32, per_piece: usize) -> World {
            let now = Instant::now();
            let mut raw = Raw::new(Raw::limits(16_000, ms(30_000), None), ms(5_000));
            let Frame::Binary(idle) = message(2) else { panic!("binary") };
            raw.handle_open(now, Beginning { session: "raw".to_owned(), fps, idle });
            let (asked, seen) = (vec![], vec![]);
            let mut world = World { raw, began: now, now, per_piece, asked, answering: true, seen };
            world.acts();
            world
        }

        fn acts(&mut self) {
            while let Some(act) = self.raw.next_act() {
                match act {
                    Act::Tell(event) => self.seen.push(event),
                    Act::Send(Frame::Binary(piece)) => {
                        self.asked.push(piece.len());
                        if self.answering {
                            self.answer(!piece.is_empty());
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        fn answer(&mut self, pictures: bool) {
            for _ in 0..if pictures { self.per_piece } else { 0 } {
                self.raw.handle_frame(self.now, message(4));
            }
            self.raw.handle_frame(self.now, Frame::Binary(Bytes::new()));
            self.acts();
        }

        fn run(&mut self, length: Duration) {
            let until = self.now + length;
            while let Some(due) = self.raw.wake_at().filter(|due| *due <= until) {
                self.now = self.now.max(due);
                self.raw.handle_time(self.now);
                self.acts();
            }
            self.now = until;
        }

        fn speak(&mut self, turn: Turn, millis: usize) {
            for _ in 0..millis / 20 {
                self.raw.speak(self.now, turn, &[1; 320]);
            }
            self.acts();
        }

        /// When sound that is not silence was given out, of all of it, and pictures of a talking face.
        fn spoken(&self) -> (Option<i64>, usize, Vec<i64>) {
            let (mut first, mut spoken, mut shown) = (None, 0, vec![]);
            for event in &self.seen {
                match event {
                    AvatarEvent::Sound { at, samples, .. } => {
                        let loud = samples.iter().filter(|sample| **sample != 0).count();
                        first = first.or((loud > 0).then_some(at.0 / 1_000));
                        spoken += loud;
                    }
                    AvatarEvent::Picture { at, picture: Picture::Plain(picture) }
                        if picture.size().width == 4 =>
                    {
                        shown.push(at.0 / 1_000);
                    }
                    _ => {}
                }
            }
            (first, spoken / 16, shown)
        }

        fn turns(&self) -> Vec<String> {
            let told = self.seen.iter().filter_map(|event| match event {
                AvatarEvent::Speaking { turn } => Some(format!("speaking {turn}")),
                AvatarEvent::Ended { turn, interrupted } => Some(format!("ended {turn} {interrupted}")),
                AvatarEvent::Hushed => Some("hushed".to_owned()),
                AvatarEvent::Lost(lost) => Some(format!("{:?}", lost.cause)),
                _ => None,
            });
            told.collect()
        }
    }

    #[test]
    fn one_piece_at_a_time_goes_up_and_its_pictures_leave_with_its_sound() {
        let mut world = World::new(30, 3);
        assert!(matches!(world.seen[..2], [AvatarEvent::Opened { .. }, AvatarEvent::Ready]));
        world.run(ms(100));
        world.answering = false;
        world.speak(1, 1_000);
        world.raw.end(1);
        world.run(ms(50));
        assert_eq!(world.asked, [3_200], "the others wait for the answer");
        assert_eq!(world.spoken().1, 0, "no sound without its pictures");
        world.answering = true;
        world.answer(true);
        assert!(world.asked.len() <= 6, "no further ahead than need be: {:?}", world.asked);
        world.run(ms(1_500));
        assert_eq!(world.asked, [&[3_200; 10][..], &[0]].concat());
        let (first, spoken, shown) = world.spoken();
        let first = first.expect("sound");
        assert!((140..=180).contains(&first), "{first}");
        assert_eq!((spoken, shown.len()), (1_000, 30));
        for (n, at) in shown.iter().enumerate() {
            let wanted = first + n as i64 * 100 / 3;
            assert!((wanted - 1..=wanted + 1).contains(at), "picture {n} at {at}, not {wanted}");
        }
        assert_eq!(world.turns(), ["speaking 1", "ended 1 false"]);
    }

    #[test]
    fn a_server_that_rounds_up_in_every_piece_does_not_run_ahead_of_the_voice() {
        let mut world = World::new(30, 4);
        world.speak(1, 1_000);
        world.raw.end(1);
        world.run(ms(1_500));
        let (first, spoken, shown) = world.spoken();
        assert_eq!((spoken, shown.len()), (1_000, 30));
        let last = first.expect("sound") + 29 * 100 / 3;
        assert!((last - 1..=last + 1).contains(&shown[29]), "{} at the end, not {last}", shown[29]);
    }

    #[test]
    fn pieces_hold_whole_pictures() {
        for (fps, bytes) in [(25, 3_840), (30, 3_200), (24, 4_000), (0, 3_200), (9_999, 3_200)] {
            let mut world = World::new(fps, 3);
            world.speak(1, 140);
            assert_eq!(world.asked, [bytes], "{fps}");
        }
    }

    #[test]
    fn a_server_that_makes_pictures_late_or_not_at_all_does_not_keep_the_voice_back_for_ever() {
        let mut world = World::new(30, 0);
        world.speak(1, 2_000);
        world.run(ms(3_000));
        let (first, spoken, _) = world.spoken();
        assert!((0..=700).contains(&first.expect("sound")), "{first:?}");
        assert!(spoken >= 1_500, "{spoken}");
        world.raw.end(1);
        world.run(ms(1_000));
        assert_eq!(world.spoken().1, 2_000, "the end of the turn gives the rest");
    }

    #[test]
    fn an_interruption_is_silent_at_once_and_the_next_turn_is_whole() {
        let mut world = World::new(30, 3);
        world.speak(1, 5_000);
        world.run(ms(1_000));
        world.answering = false;
        world.run(ms(130));
        let before = world.spoken().1;
        assert!((900..1_200).contains(&before), "{before}");
        world.raw.interrupt(1);
        world.speak(1, 200);
        world.raw.end(1);
        world.speak(2, 400);
        world.raw.end(2);
        world.run(ms(300));
        assert_eq!(world.spoken().1, before, "not a sample of it");
        // What was asked for is still answered; then the server is emptied; then the next turn is made.
        world.answering = true;
        world.answer(true);
        world.run(ms(1_000));
        assert_eq!(world.spoken().1 - before, 400);
        assert_eq!(world.asked[world.asked.len() - 6..], [0, 3_200, 3_200, 3_200, 3_200, 0]);
        let told = ["speaking 1", "ended 1 true", "hushed", "speaking 2", "ended 2 false"];
        assert_eq!(world.turns(), told);
    }

    #[test]
    fn a_server_that_does_not_answer_is_lost_and_nonsense_is_told_once() {
        let mut world = World::new(30, 3);
        world.answering = false;
        world.raw.handle_frame(world.now, Frame::Text("hello".into()));
        world.raw.handle_frame(world.now, Frame::Binary(Bytes::new()));
        world.speak(1, 100);
        world.raw.handle_frame(world.now, Frame::Binary(Bytes::from_static(&[0, 4, 0, 4, 1])));
        world.acts();
        let warned = world.seen.iter().filter(|event| matches!(event, AvatarEvent::Warning(_))).count();
        assert_eq!((warned, world.raw.odd), (1, 3));
        world.run(ms(4_900));
        assert!(world.turns().is_empty());
        world.run(ms(200));
        assert_eq!(world.turns(), ["Connection"]);
        assert!(world.now - world.began < ms(6_000));
    }

    #[test]
    fn what_waits_to_go_up_is_bounded() {
        let mut world = World::new(30, 3);
        world.answering = false;
        world.speak(1, 300_000);
        assert_eq!(world.raw.waiting_samples, 120 * 16_000);
    }
}
