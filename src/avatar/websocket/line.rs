//! Our own sound beside the pictures a server made of it, given out at the pace of time in blocks of 20 ms.
//!
//! Pure. A server makes pictures in bursts, and knows no time; here every picture hangs on the sample it belongs to. Where
//! there is nothing to say there is silence and the face at rest. What is asked of the server, and when, is in `raw`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::avatar::{AvatarEvent, MediaTime, Picture, Turn};
use crate::media::audio::BLOCK_MS;
use crate::media::frame::{Frame, RawFrame};

const BLOCK: Duration = Duration::from_millis(BLOCK_MS as u64);
/// Blocks made up for at once; a session that was not polled for longer goes on later.
const LATE_BLOCKS: u64 = 25;
/// A face at rest is shown where sound stops, and so many blocks after the last picture.
const IDLE_BLOCKS: u64 = 10;
/// Pictures that wait for their sound.
const PICTURES_MOST: usize = 32;

/// A place in the sound of all turns, in samples.
pub type Place = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Begins(Turn),
    Ends(Turn),
}

/// See the module.
pub struct Line {
    rate: u32,
    begun: Option<Instant>,
    /// Blocks given out.
    blocks: u64,
    /// Sound not given out, its first sample at `given`, its last before `end`.
    samples: VecDeque<i16>,
    given: Place,
    /// Sound before this place has its pictures.
    ready: Place,
    pictures: VecDeque<(Place, Frame)>,
    marks: VecDeque<(Place, Mark)>,
    speaking: Option<Turn>,
    idle: Option<Frame>,
    /// The block of the last picture.
    shown: Option<u64>,
    /// The last block was no silence of ours.
    sounding: bool,
    /// Pictures that were not kept: too many.
    pub lost: u64,
}

impl Line {
    /// For sound of `rate` Hz.
    pub fn new(rate: u32) -> Self {
        Line {
            rate,
            begun: None,
            blocks: 0,
            samples: VecDeque::new(),
            given: 0,
            ready: 0,
            pictures: VecDeque::new(),
            marks: VecDeque::new(),
            speaking: None,
            idle: None,
            shown: None,
            sounding: false,
            lost: 0,
        }
    }

    pub fn start(&mut self, now: Instant, idle: Option<Frame>) {
        self.begun = Some(now);
        self.idle = idle;
    }

    /// Where the next sound will be.
    pub fn end(&self) -> Place {
        self.given + self.samples.len() as u64
    }

    /// Sound that may be given out and was not.
    pub fn ahead(&self) -> u64 {
        self.ready.saturating_sub(self.given)
    }

    pub fn begin_turn(&mut self, turn: Turn) {
        self.marks.push_back((self.end(), Mark::Begins(turn)));
    }

    pub fn end_turn(&mut self, turn: Turn) {
        self.marks.push_back((self.end(), Mark::Ends(turn)));
    }

    pub fn push(&mut self, samples: &[i16]) {
        self.samples.extend(samples);
    }

    /// A picture of the sound at `place`; later than all before it.
    pub fn show(&mut self, place: Place, picture: Frame) {
        if self.pictures.len() >= PICTURES_MOST {
            self.pictures.pop_front();
            self.lost += 1;
        }
        self.pictures.push_back((place, picture));
    }

    /// Sound before `place` waits for no more pictures.
    pub fn release(&mut self, place: Place) {
        self.ready = self.ready.max(place.min(self.end()));
    }

    /// Nothing of this turn or one before it is given out any more. The turn that was being heard.
    pub fn cut(&mut self, turn: Turn) -> Option<Turn> {
        let later = |(_, mark): &&(Place, Mark)| matches!(mark, Mark::Begins(other) if *other > turn);
        let until = self.marks.iter().find(later).map_or(self.end(), |(place, _)| *place);
        let dropped = (until - self.given) as usize;
        self.samples.drain(..dropped.min(self.samples.len()));
        self.given = until;
        self.ready = self.ready.max(until);
        self.pictures.retain(|(place, _)| *place >= until);
        self.marks.retain(|(_, mark)| match mark {
            Mark::Begins(of) | Mark::Ends(of) => *of > turn,
        });
        self.speaking.take_if(|speaking| *speaking <= turn)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + BLOCK * self.blocks as u32)
    }

    /// Gives out what is due.
    pub fn handle_time(&mut self, now: Instant, mut tell: impl FnMut(AvatarEvent)) {
        let Some(begun) = self.begun.filter(|begun| *begun <= now) else { return };
        let due = ((now - begun).as_millis() / u128::from(BLOCK_MS)) as u64 + 1;
        self.blocks = self.blocks.max(due.saturating_sub(LATE_BLOCKS));
        while self.blocks < due {
            self.block(&mut tell);
            self.blocks += 1;
        }
    }

    fn block(&mut self, tell: &mut impl FnMut(AvatarEvent)) {
        let at = MediaTime((self.blocks * u64::from(BLOCK_MS) * 1_000) as i64);
        let whole = (self.rate * BLOCK_MS / 1_000) as usize;
        let sounding = whole.min(self.ahead() as usize);
        let (first, end) = (self.given, self.given + sounding as u64);
        let due = |&(place, mark): &(Place, Mark)| match mark {
            Mark::Begins(_) => place < end,
            Mark::Ends(_) => place < end || place <= first,
        };
        while let Some((_, mark)) = self.marks.front().copied().filter(due) {
            self.marks.pop_front();
            self.pass(mark, tell);
        }
        let mut samples: Vec<i16> = self.samples.drain(..sounding).collect();
        samples.resize(whole, 0);
        self.given = end;
        tell(AvatarEvent::Sound { at, rate: self.rate, samples: samples.into() });
        while self.pictures.front().is_some_and(|(place, _)| *place < end)
            && let Some((place, picture)) = self.pictures.pop_front()
        {
            let after = place.saturating_sub(first) * 1_000_000 / u64::from(self.rate);
            self.picture(MediaTime(at.0 + after as i64), picture, tell);
        }
        let still = self.shown.is_none_or(|shown| shown + IDLE_BLOCKS <= self.blocks);
        // The last picture of words has an open mouth.
        let stops = std::mem::replace(&mut self.sounding, sounding > 0) && sounding == 0;
        if (still || stops)
            && let Some(idle) = self.idle.clone()
        {
            self.picture(at, idle, tell);
        }
    }

    fn picture(&mut self, at: MediaTime, picture: Frame, tell: &mut impl FnMut(AvatarEvent)) {
        self.shown = Some(self.blocks);
        tell(AvatarEvent::Picture { at, picture: Picture::Plain(RawFrame::new(picture)) });
    }

    fn pass(&mut self, mark: Mark, tell: &mut impl FnMut(AvatarEvent)) {
        match mark {
            Mark::Begins(turn) => {
                self.speaking = Some(turn);
                tell(AvatarEvent::Speaking { turn });
            }
            Mark::Ends(turn) => {
                self.speaking = None;
                tell(AvatarEvent::Ended { turn, interrupted: false });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Size;
    use crate::media::pool::FramePool;

    const RATE: u32 = 16_000;

    #[derive(Debug, PartialEq, Eq)]
    enum Heard {
        /// Milliseconds, and the samples that are no silence.
        Sound(i64, usize),
        Picture(i64, usize),
        Speaking(Turn),
        Ended(Turn),
    }

    fn frame(pool: &FramePool, width: usize) -> Frame {
        pool.take_sized(Size::new(width, 2), Pts::ZERO).expect("room").freeze()
    }

    fn heard(line: &mut Line, now: Instant) -> Vec<Heard> {
        let mut heard = Vec::new();
        line.handle_time(now, |event| {
            heard.push(match event {
                AvatarEvent::Sound { at, samples, .. } => {
                    assert_eq!(samples.len(), 320);
                    Heard::Sound(at.0 / 1_000, samples.iter().filter(|sample| **sample != 0).count())
                }
                AvatarEvent::Picture { at, picture: Picture::Plain(picture) } => {
                    Heard::Picture(at.0 / 1_000, picture.size().width)
                }
                AvatarEvent::Speaking { turn } => Heard::Speaking(turn),
                AvatarEvent::Ended { turn, interrupted: false } => Heard::Ended(turn),
                other => panic!("{other:?}"),
            });
        });
        heard
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn sound_waits_for_its_pictures_and_both_leave_at_the_pace_of_time() {
        let (pool, now) = (FramePool::new(8), Instant::now());
        let mut line = Line::new(RATE);
        assert!(heard(&mut line, now).is_empty(), "not begun");
        line.start(now, Some(frame(&pool, 2)));
        assert_eq!(heard(&mut line, now), [Heard::Sound(0, 0), Heard::Picture(0, 2)]);
        line.begin_turn(1);
        line.push(&[1; 800]);
        line.end_turn(1);
        assert_eq!(heard(&mut line, now + ms(20)), [Heard::Sound(20, 0)], "no picture yet");
        for n in 0..2 {
            line.show(n * 640, frame(&pool, 4));
        }
        line.release(1_280);
        assert_eq!(line.ahead(), 800);
        assert_eq!(
            heard(&mut line, now + ms(100)),
            [
                Heard::Speaking(1),
                Heard::Sound(40, 320),
                Heard::Picture(40, 4),
                Heard::Sound(60, 320),
                Heard::Sound(80, 160),
                Heard::Picture(80, 4),
                Heard::Ended(1),
                Heard::Sound(100, 0),
                Heard::Picture(100, 2),
            ],
            "at rest where the words end"
        );
        let rest = heard(&mut line, now + ms(300));
        assert_eq!(rest.last(), Some(&Heard::Picture(300, 2)), "and still");
        assert_eq!(rest.len(), 11, "once: {rest:?}");
        assert_eq!(line.wake_at(), Some(now + ms(320)));
    }

    #[test]
    fn what_is_cut_is_not_heard_and_what_follows_it_is() {
        let (pool, now) = (FramePool::new(8), Instant::now());
        let mut line = Line::new(RATE);
        line.start(now, None);
        for turn in 1..=2 {
            line.begin_turn(turn);
            line.show(line.end(), frame(&pool, 2 * turn as usize));
            line.push(&[1; 640]);
            line.end_turn(turn);
        }
        line.release(u64::MAX);
        assert_eq!(heard(&mut line, now), [Heard::Speaking(1), Heard::Sound(0, 320), Heard::Picture(0, 2)]);
        assert_eq!(line.cut(1), Some(1));
        assert_eq!(
            heard(&mut line, now + ms(20)),
            [Heard::Speaking(2), Heard::Sound(20, 320), Heard::Picture(20, 4)]
        );
        assert_eq!((line.cut(7), line.cut(7)), (Some(2), None));
        assert_eq!(heard(&mut line, now + ms(40)), [Heard::Sound(40, 0)]);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_session_nobody_polled_does_not_talk_faster_and_pictures_are_bounded() {
        let (pool, now) = (FramePool::new(64), Instant::now());
        let mut line = Line::new(RATE);
        line.start(now, None);
        line.push(&[1; 320]);
        for n in 0..40 {
            line.show(n, frame(&pool, 2));
        }
        assert_eq!((pool.in_use(), line.lost), (PICTURES_MOST, 8));
        line.release(u64::MAX);
        let heard = heard(&mut line, now + Duration::from_secs(60));
        let sounds: Vec<&Heard> = heard.iter().filter(|heard| matches!(heard, Heard::Sound(..))).collect();
        assert_eq!((sounds.len(), sounds[0]), (25, &Heard::Sound(59_520, 320)));
    }
}
