//! When recorded pictures and sounds are heard and seen in the file: gaps, order, rising times. Pure.
//!
//! All times are nanoseconds since the recording's origin, for both media. Coding and files do not belong here.

use std::collections::VecDeque;

use crate::base::time::Pts;

/// Blocks this close to where they were expected are joined without a seam: jitter of clocks, not a gap.
const SEAM_MS: i64 = 40;
/// Sound is held back this long for the other side's blocks to arrive.
const HOLD_MS: i64 = 300;
/// A block this far ahead of its neighbours has a broken time.
const AHEAD_MS: i64 = 60_000;
/// Pictures further apart than this leave a gap worth counting.
const PICTURE_GAP_NANOS: i64 = 1_000_000_000;
/// A fragment of the file holds about this much.
const FRAGMENT_NANOS: i64 = 1_000_000_000;

/// Whose sound it is: the left or the right channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Caller,
    Agent,
}

#[derive(Debug, Default)]
struct Channel {
    /// Samples not given yet; the first belongs to [`SoundTimeline::given`].
    waiting: VecDeque<i16>,
    started: bool,
}

/// What was missing or came too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoundGaps {
    /// Holes within one side's sound, filled with silence.
    pub gaps: u64,
    /// Blocks, or parts of them, that came after their time had been written, or had an impossible time.
    pub late: u64,
}

/// Two sides' blocks, each with its own time, to one run of stereo samples without holes.
#[derive(Debug)]
pub struct SoundTimeline {
    rate: i64,
    origin: Pts,
    channels: [Channel; 2],
    /// Samples of each channel given so far.
    given: i64,
    gaps: SoundGaps,
}

impl SoundTimeline {
    /// The first sample given belongs to `origin`.
    pub fn new(rate: u32, origin: Pts) -> Self {
        let channels = [Channel::default(), Channel::default()];
        SoundTimeline { rate: i64::from(rate), origin, channels, given: 0, gaps: SoundGaps::default() }
    }

    pub fn gaps(&self) -> SoundGaps {
        self.gaps
    }

    /// Takes one block of a side.
    pub fn add(&mut self, side: Side, pts: Pts, samples: &[i16]) {
        let channel = &mut self.channels[side as usize];
        let end = self.given + channel.waiting.len() as i64;
        let mut at = scaled(pts - self.origin, self.rate);
        if channel.started && (at - end).abs() <= SEAM_MS * self.rate / 1000 {
            at = end;
        }
        if at - end > AHEAD_MS * self.rate / 1000 {
            self.gaps.late += 1;
            return;
        }
        if at > end {
            self.gaps.gaps += u64::from(channel.started);
            channel.waiting.resize(channel.waiting.len() + (at - end) as usize, 0);
        }
        let overlap = usize::try_from(end - at).unwrap_or(0);
        // Before the origin there is nothing to be late for.
        self.gaps.late += u64::from(overlap > 0 && (channel.started || self.given > 0));
        channel.waiting.extend(samples.iter().skip(overlap));
        channel.started = true;
    }

    /// The time up to which samples were given.
    pub fn given_until(&self) -> i64 {
        (i128::from(self.given) * 1_000_000_000 / i128::from(self.rate)) as i64
    }

    /// Appends to `into`, left and right in turn, all samples whose time has come at `now`: both sides have them, or
    /// waiting for the other side has lasted long enough.
    pub fn take(&mut self, now: Pts, into: &mut Vec<i16>) {
        let both = self.channels.iter().map(|channel| channel.waiting.len()).min().unwrap_or(0) as i64;
        let held = scaled(now - self.origin - HOLD_MS * 1_000_000, self.rate) - self.given;
        self.give(both.max(held), into);
    }

    /// Appends everything there is.
    pub fn finish(&mut self, into: &mut Vec<i16>) {
        let longest = self.channels.iter().map(|channel| channel.waiting.len()).max().unwrap_or(0);
        self.give(longest as i64, into);
    }

    fn give(&mut self, count: i64, into: &mut Vec<i16>) {
        // A clock that jumps must not fill memory with silence at once.
        let count = count.clamp(0, 10 * self.rate);
        for _ in 0..count {
            into.extend(self.channels.iter_mut().map(|channel| channel.waiting.pop_front().unwrap_or(0)));
        }
        self.given += count;
    }
}

/// Nanoseconds to units of `rate` a second, rounded.
fn scaled(nanos: i64, rate: i64) -> i64 {
    let units = (i128::from(nanos) * i128::from(rate) + 500_000_000).div_euclid(1_000_000_000);
    i64::try_from(units).unwrap_or(if nanos < 0 { i64::MIN / 2 } else { i64::MAX / 2 })
}

/// Rising times for pictures, whatever their sender does.
#[derive(Debug)]
pub struct PictureTimeline {
    origin: Pts,
    last: Option<i64>,
    gaps: u64,
}

impl PictureTimeline {
    /// The smallest distance of two pictures: one tick of 90 kHz, so they stay apart in the file.
    const STEP: i64 = 11_112;

    pub fn new(origin: Pts) -> Self {
        PictureTimeline { origin, last: None, gaps: 0 }
    }

    /// The picture's time in the file.
    pub fn place(&mut self, pts: Pts) -> i64 {
        let wanted = (pts - self.origin).max(0);
        let time = match self.last {
            None => wanted,
            Some(last) => {
                self.gaps += u64::from(wanted - last > PICTURE_GAP_NANOS);
                wanted.max(last + Self::STEP)
            }
        };
        self.last = Some(time);
        time
    }

    pub fn gaps(&self) -> u64 {
        self.gaps
    }
}

/// Something with a time in the file.
pub trait Timed {
    fn time(&self) -> i64;
}

/// What comes next into the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<V, S> {
    Picture(V),
    Sound(S),
}

/// Pictures and sound in one order: a picture waits for the sound before it, sound a moment for pictures.
#[derive(Debug)]
pub struct Interleave<V, S> {
    pictures: VecDeque<V>,
    sound: VecDeque<S>,
    /// `None`: there is no sound to wait for.
    sound_until: Option<i64>,
    pictures_open: bool,
}

impl<V: Timed, S: Timed> Interleave<V, S> {
    pub fn new(with_pictures: bool, with_sound: bool) -> Self {
        let sound_until = with_sound.then_some(0);
        let pictures_open = with_pictures;
        Interleave { pictures: VecDeque::new(), sound: VecDeque::new(), sound_until, pictures_open }
    }

    pub fn picture(&mut self, picture: V) {
        self.pictures.push_back(picture);
    }

    pub fn sound(&mut self, packet: S) {
        self.sound.push_back(packet);
    }

    /// All sound before `time` has been handed over.
    pub fn sound_is_complete_until(&mut self, time: i64) {
        self.sound_until = self.sound_until.map(|until| until.max(time));
    }

    /// No more sound will come.
    pub fn sound_is_over(&mut self) {
        self.sound_until = None;
    }

    /// No more pictures will come.
    pub fn pictures_are_over(&mut self) {
        self.pictures_open = false;
    }

    pub fn first_picture(&self) -> Option<&V> {
        self.pictures.front()
    }

    pub fn has_sound(&self) -> bool {
        !self.sound.is_empty()
    }

    /// The next one whose turn it is for sure; `now` is the recording's time.
    pub fn take(&mut self, now: i64) -> Option<Next<V, S>> {
        let picture = self.pictures.front().map(Timed::time);
        let sound = self.sound.front().map(Timed::time);
        let first = match (picture, sound) {
            (Some(picture), Some(sound)) => picture < sound,
            (Some(picture), None) if self.sound_until.is_none_or(|until| picture < until) => true,
            (None, Some(sound)) if !self.pictures_open || now - sound >= HOLD_MS * 1_000_000 => false,
            _ => return None,
        };
        if first {
            self.pictures.pop_front().map(Next::Picture)
        } else {
            self.sound.pop_front().map(Next::Sound)
        }
    }
}

/// When to end a fragment: after a second of media, or a second in which anything was written.
#[derive(Debug, Default)]
pub struct Fragments {
    /// First time in the present fragment, and when it was written.
    began: Option<(i64, Pts)>,
}

impl Fragments {
    /// Something with `time` is about to be written at `now`. `true`: end the fragment before it.
    pub fn cut_before(&mut self, time: i64, now: Pts) -> bool {
        match self.began {
            None => {
                self.began = Some((time, now));
                false
            }
            Some((began, _)) if time - began >= FRAGMENT_NANOS => {
                self.began = Some((time, now));
                true
            }
            Some(_) => false,
        }
    }

    /// `true`: what was written must reach the disk although nothing follows it.
    pub fn cut_now(&mut self, now: Pts) -> bool {
        let due = self.began.is_some_and(|(_, written)| now - written >= FRAGMENT_NANOS);
        if due {
            self.began = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 160;

    fn at(ms: i64) -> Pts {
        Pts::from_millis(ms)
    }

    fn left_and_right(timeline: &mut SoundTimeline, now: Pts) -> (Vec<i16>, Vec<i16>) {
        let mut samples = Vec::new();
        timeline.take(now, &mut samples);
        samples.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip()
    }

    #[test]
    fn two_sides_come_out_together_as_soon_as_both_are_there() {
        let mut timeline = SoundTimeline::new(8_000, at(1_000));
        timeline.add(Side::Caller, at(1_000), &[1; BLOCK]);
        assert_eq!(left_and_right(&mut timeline, at(1_010)).0.len(), 0);
        timeline.add(Side::Agent, at(1_000), &[2; BLOCK]);
        assert_eq!(left_and_right(&mut timeline, at(1_010)), (vec![1; BLOCK], vec![2; BLOCK]));
        assert_eq!(timeline.given_until(), 20_000_000);
    }

    #[test]
    fn a_silent_side_does_not_hold_the_other_back_for_long() {
        let mut timeline = SoundTimeline::new(8_000, Pts::ZERO);
        for block in 0..50 {
            timeline.add(Side::Caller, at(20 * block), &[5; BLOCK]);
        }
        let (left, right) = left_and_right(&mut timeline, at(1_000));
        assert_eq!((left.len(), right.len()), (5_600, 5_600));
        assert!(left.iter().all(|s| *s == 5) && right.iter().all(|s| *s == 0));
        assert_eq!(timeline.gaps(), SoundGaps::default());
    }

    #[test]
    fn a_gap_is_silence_of_its_length_and_jitter_is_none() {
        let mut timeline = SoundTimeline::new(8_000, Pts::ZERO);
        for ms in [0, 23, 37, 160] {
            timeline.add(Side::Caller, at(ms), &[5; BLOCK]);
        }
        let mut samples = Vec::new();
        timeline.finish(&mut samples);
        let left: Vec<i16> = samples.chunks_exact(2).map(|pair| pair[0]).collect();
        assert_eq!(left.len(), 180 * 8);
        assert!(left[..480].iter().all(|s| *s == 5));
        assert!(left[480..1_280].iter().all(|s| *s == 0));
        assert!(left[1_280..].iter().all(|s| *s == 5));
        assert_eq!(timeline.gaps(), SoundGaps { gaps: 1, late: 0 });
    }

    #[test]
    fn what_comes_after_its_time_is_counted_and_moves_nothing() {
        let mut timeline = SoundTimeline::new(8_000, Pts::ZERO);
        timeline.add(Side::Caller, at(0), &[5; BLOCK]);
        assert_eq!(left_and_right(&mut timeline, at(1_000)).0.len(), 5_600);
        timeline.add(Side::Agent, at(0), &[9; BLOCK]);
        timeline.add(Side::Agent, at(700), &[7; BLOCK]);
        timeline.add(Side::Agent, at(10_000_000), &[8; BLOCK]);
        let mut samples = Vec::new();
        timeline.finish(&mut samples);
        assert_eq!(samples.chunks_exact(2).map(|pair| pair[1]).collect::<Vec<_>>(), [7; BLOCK]);
        assert_eq!(timeline.gaps().late, 2);
    }

    #[test]
    fn sound_from_before_the_origin_is_left_out() {
        let mut timeline = SoundTimeline::new(8_000, at(10));
        timeline.add(Side::Caller, at(0), &[5; BLOCK]);
        let mut samples = Vec::new();
        timeline.finish(&mut samples);
        assert_eq!(samples.len(), BLOCK);
        assert_eq!(timeline.gaps(), SoundGaps::default());
    }

    #[test]
    fn picture_times_rise_whatever_the_sender_does() {
        let mut timeline = PictureTimeline::new(at(100));
        let times: Vec<i64> = [50, 140, 140, 120, 2_000].map(|ms| timeline.place(at(ms))).to_vec();
        assert_eq!((times[0], times[1], times[4]), (0, 40_000_000, 1_900_000_000));
        assert!(times.windows(2).all(|w| w[0] < w[1]), "{times:?}");
        assert_eq!(timeline.gaps(), 1);
    }

    impl Timed for i64 {
        fn time(&self) -> i64 {
            *self
        }
    }

    #[test]
    fn a_picture_waits_for_the_sound_before_it() {
        let mut interleave: Interleave<i64, i64> = Interleave::new(true, true);
        interleave.picture(30);
        assert_eq!(interleave.take(0), None);
        interleave.sound(10);
        interleave.sound_is_complete_until(20);
        assert_eq!(interleave.take(0), Some(Next::Sound(10)));
        assert_eq!(interleave.take(0), None);
        interleave.sound_is_complete_until(50);
        assert_eq!(interleave.take(0), Some(Next::Picture(30)));
        interleave.picture(60);
        assert_eq!(interleave.take(0), None);
        interleave.sound_is_over();
        assert_eq!(interleave.take(0), Some(Next::Picture(60)));
    }

    #[test]
    fn sound_waits_for_pictures_a_moment_and_not_for_ever() {
        let mut interleave: Interleave<i64, i64> = Interleave::new(true, true);
        interleave.sound(10);
        assert_eq!(interleave.take(HOLD_MS * 1_000_000), None);
        assert_eq!(interleave.take(HOLD_MS * 1_000_000 + 10), Some(Next::Sound(10)));
        interleave.sound(20);
        interleave.pictures_are_over();
        assert_eq!(interleave.take(0), Some(Next::Sound(20)));
    }

    #[test]
    fn a_fragment_ends_after_a_second_of_media_or_of_waiting() {
        let mut fragments = Fragments::default();
        let second = 1_000_000_000;
        assert!(!fragments.cut_before(0, at(0)));
        assert!(!fragments.cut_before(second - 1, at(0)));
        assert!(fragments.cut_before(second, at(0)));
        assert!(!fragments.cut_now(at(999)));
        assert!(fragments.cut_now(at(1_000)));
        assert!(!fragments.cut_now(at(9_000)));
    }
}
