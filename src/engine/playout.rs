//! Driver (queues). What an agent says, on its way from who makes it to the beat of the network task.
//!
//! ```text
//! talk task: Say ══ pieces, Fifo ══▶ Playout: every 20 ms a block is filled
//!            Say ◀═ where it is, how loud it was ═ Playout
//! with a face: Say ══ pieces, signs ══▶ Relay ══ pieces of the face ══▶ Playout
//! ```
//! The beat neither waits nor locks for longer than the queue's own moment: switches and positions are single words in
//! memory. Making speech, and deciding when it stops, is not done here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::avatar::MediaTime;
use crate::base::queue::{self, Fifo, Receiver, Sender, Taken};
use crate::base::time::Pts;
use crate::codec::resample::Resampler;
use crate::engine::face::lips::LipClock;

/// Pieces on their way; whoever says more than [`LONGEST_AHEAD`] ahead waits.
const PIECES: usize = 4096;
/// So much speech may be made before it is heard.
pub const LONGEST_AHEAD: Duration = Duration::from_secs(60);
/// A change of loudness takes so long: a step would click.
const RAMP_PER_SECOND: usize = 200;
/// While the caller may be interrupting: -15 dB.
const DUCKED: f32 = 0.178;
/// What is quieter than this is silence, in dB of full scale.
const SILENCE_DB: f32 = -70.0;

/// Some sound of one utterance.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Counts up from 1 within a call; everything of an utterance comes in one row.
    pub utterance: u32,
    /// Hz.
    pub rate: u32,
    pub samples: Arc<[i16]>,
    /// Nothing follows of this utterance.
    pub last: bool,
    /// `None`: the next sound of its utterance, as the agent made it.
    pub place: Option<Place>,
}

impl Piece {
    /// A face's own: it cannot wait, the picture that belongs to it does not.
    fn live(&self) -> Option<(&Piece, Place)> {
        let place = self.place.filter(|place| place.made.is_some() || self.samples.is_empty())?;
        Some((self, place))
    }
}

/// Where a piece belongs that does not simply follow the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Milliseconds of its utterance before it.
    pub from_ms: u32,
    /// When its first sample was made, if pictures belong to it.
    pub made: Option<MediaTime>,
}

/// What a face is told besides what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Nothing of this utterance or one before it is wanted any more.
    Cut(u32),
    /// The caller speaks or has stopped.
    CallerSpeaks(bool),
}

/// Signs nobody has taken yet.
const SIGNS: usize = 64;

/// How far the caller has heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub utterance: u32,
    pub ms: u32,
    /// It was played to its end.
    pub whole: bool,
}

#[derive(Default)]
struct Switches {
    /// Utterances before this one are not played any more.
    floor: AtomicU32,
    ducked: AtomicBool,
    held: AtomicBool,
    /// Something waits to be said.
    busy: AtomicBool,
    /// Somebody between both ends still has something to hand over.
    owed: AtomicBool,
    /// Pieces nobody has taken yet.
    waiting: AtomicU32,
    /// [`Position`] in one word.
    position: AtomicU64,
    /// Nanoseconds of the call at which its first block left.
    began: AtomicU64,
    /// Level of the last block in dB of full scale, as bits of an `f32`.
    level: AtomicU32,
}

/// The end of who speaks.
pub struct Say {
    pieces: Sender<Piece, Fifo>,
    /// `None`: nobody stands between both ends.
    signs: Option<Sender<Sign, Fifo>>,
    switches: Arc<Switches>,
}

/// Who stands between both ends: takes what is said, and hands over what is to be heard.
pub struct Relay {
    pieces: Receiver<Piece, Fifo>,
    signs: Receiver<Sign, Fifo>,
    onward: Sender<Piece, Fifo>,
    switches: Arc<Switches>,
}

/// The end of the beat.
pub struct Playout {
    pieces: Receiver<Piece, Fifo>,
    switches: Arc<Switches>,
    epoch: Instant,
    waiting: VecDeque<Piece>,
    /// Samples of the first waiting piece that were played.
    at: usize,
    gain: f32,
    /// The utterance being played and its samples so far, at `rate`.
    utterance: u32,
    played: u64,
    resampler: Option<(u32, u32, Resampler)>,
    /// The utterance whose end is still in it.
    converted: u32,
    /// Where it is told which sound pictures go with.
    lips: Option<Arc<LipClock>>,
}

/// Both ends. `epoch`: from where [`Say::began`] counts.
pub fn playout(epoch: Instant) -> (Say, Playout) {
    let (pieces, playout) = beat(epoch, None);
    (Say { pieces, signs: None, switches: playout.switches.clone() }, playout)
}

/// The same with somebody in between.
pub fn relayed(epoch: Instant, lips: Arc<LipClock>) -> (Say, Relay, Playout) {
    let (onward, playout) = beat(epoch, Some(lips));
    let (pieces, taken) = queue::queue(Fifo { depth: PIECES });
    let (signs, seen) = queue::queue(Fifo { depth: SIGNS });
    let switches = &playout.switches;
    let say = Say { pieces, signs: Some(signs), switches: switches.clone() };
    let relay = Relay { pieces: taken, signs: seen, onward, switches: switches.clone() };
    (say, relay, playout)
}

fn beat(epoch: Instant, lips: Option<Arc<LipClock>>) -> (Sender<Piece, Fifo>, Playout) {
    let (pieces, taken) = queue::queue(Fifo { depth: PIECES });
    let switches = Arc::new(Switches::default());
    switches.level.store(f32::NEG_INFINITY.to_bits(), Ordering::Relaxed);
    let playout = Playout {
        pieces: taken,
        switches,
        epoch,
        waiting: VecDeque::new(),
        at: 0,
        gain: 1.0,
        utterance: 0,
        played: 0,
        resampler: None,
        converted: 0,
        lips,
    };
    (pieces, playout)
}

impl Say {
    /// Adds a piece behind what waits.
    pub fn say(&self, piece: Piece) {
        self.switches.busy.store(true, Ordering::Release);
        self.switches.waiting.fetch_add(1, Ordering::AcqRel);
        self.pieces.offer(piece);
    }

    /// Pieces on their way.
    pub fn waiting(&self) -> u32 {
        self.switches.waiting.load(Ordering::Acquire)
    }

    /// Quieter, or as loud as it was.
    pub fn duck(&self, ducked: bool) {
        self.switches.ducked.store(ducked, Ordering::Release);
    }

    /// Stops where it is, or goes on from there.
    pub fn hold(&self, held: bool) {
        self.switches.held.store(held, Ordering::Release);
    }

    /// Nothing of this utterance or one before it is heard any more.
    pub fn drop_through(&self, utterance: u32) {
        self.switches.floor.store(utterance + 1, Ordering::Release);
        self.switches.held.store(false, Ordering::Release);
        self.switches.ducked.store(false, Ordering::Release);
        self.sign(Sign::Cut(utterance));
    }

    /// The caller speaks or has stopped: how a face looks meanwhile.
    pub fn caller_speaks(&self, speaks: bool) {
        self.sign(Sign::CallerSpeaks(speaks));
    }

    fn sign(&self, sign: Sign) {
        if let Some(signs) = &self.signs {
            signs.offer(sign);
        }
    }

    /// Whether everything was said.
    pub fn is_idle(&self) -> bool {
        let Switches { busy, owed, .. } = &*self.switches;
        let waits = self.signs.is_some() && (self.waiting() > 0 || owed.load(Ordering::Acquire));
        !waits && !busy.load(Ordering::Acquire)
    }

    pub fn position(&self) -> Position {
        let word = self.switches.position.load(Ordering::Acquire);
        Position { utterance: (word >> 32) as u32, ms: (word as u32) >> 1, whole: word & 1 == 1 }
    }

    /// When the first block of the utterance being played left, from the epoch on.
    pub fn began(&self) -> Duration {
        Duration::from_nanos(self.switches.began.load(Ordering::Acquire))
    }

    /// How loud the last block was, in dB of full scale; `None`: silent.
    pub fn level_db(&self) -> Option<f32> {
        let level = f32::from_bits(self.switches.level.load(Ordering::Relaxed));
        (level > SILENCE_DB).then_some(level)
    }
}

impl Relay {
    /// The next piece said, wanted or not; until [`Relay::owe`] it is owed. Cancel-safe. `None`: nobody speaks any more.
    pub async fn piece(&self) -> Option<Piece> {
        let piece = self.pieces.recv().await?;
        // Before it is not waiting any more: somebody may look just now whether all was said.
        self.owe(true);
        self.switches.waiting.fetch_sub(1, Ordering::AcqRel);
        Some(piece)
    }

    /// Cancel-safe. `None`: nobody speaks any more.
    pub async fn sign(&self) -> Option<Sign> {
        self.signs.recv().await
    }

    /// Whether this utterance may still be heard.
    pub fn wants(&self, utterance: u32) -> bool {
        utterance >= self.switches.floor.load(Ordering::Acquire)
    }

    /// Hands a piece to the beat.
    pub fn pass(&self, piece: Piece) {
        self.switches.busy.store(true, Ordering::Release);
        self.switches.waiting.fetch_add(1, Ordering::AcqRel);
        self.onward.offer(piece);
    }

    /// Whether something that was said is still to be handed over.
    pub fn owe(&self, owes: bool) {
        self.switches.owed.store(owes, Ordering::Release);
    }
}

impl Playout {
    /// Fills one block at `rate` with what is said now; leaves it alone where nothing is.
    pub fn fill(&mut self, now: Instant, rate: u32, block: &mut [i16]) {
        let floor = self.switches.floor.load(Ordering::Acquire);
        self.take(floor);
        let cut = self.waiting.front().is_some_and(|piece| piece.utterance < floor);
        let held = cut || self.switches.held.load(Ordering::Acquire);
        let target = match (held, self.switches.ducked.load(Ordering::Acquire)) {
            (true, _) => 0.0,
            (false, true) => DUCKED,
            (false, false) => 1.0,
        };
        if self.waiting.is_empty() {
            self.switches.busy.store(!self.pieces.is_empty(), Ordering::Release);
            self.gain = target;
            self.switches.level.store(f32::NEG_INFINITY.to_bits(), Ordering::Relaxed);
            return;
        }
        let ramp = (rate as usize / RAMP_PER_SECOND).clamp(1, block.len().max(1));
        let wanted = match (held, self.gain > 0.0) {
            (false, _) => block.len(),
            // Fades out, and what is behind that stays for later.
            (true, true) => ramp,
            (true, false) => 0,
        };
        if let (Some(lips), Some(made), false) = (&self.lips, self.made(), cut) {
            lips.publish(made, Pts::at(self.epoch, now));
        }
        let filled = self.copy(now, rate, floor, &mut block[..wanted]);
        self.shape(&mut block[..filled], ramp, target);
        if cut {
            while self.waiting.front().is_some_and(|piece| piece.utterance < floor) {
                self.waiting.pop_front();
                self.at = 0;
            }
            self.gain = 1.0;
        }
        self.tell(rate, &block[..filled]);
    }

    /// While nothing is sent: what a face says in this moment passes unheard, or it would all be heard late. What waits
    /// to be said without one goes on where it was.
    pub fn pass_by(&mut self) {
        self.take(self.switches.floor.load(Ordering::Acquire));
        while let Some((piece, place)) = self.waiting.front().and_then(Piece::live) {
            self.utterance = piece.utterance;
            let passed = piece.samples.len() as u64 * 1_000 / u64::from(piece.rate.max(1));
            // In milliseconds.
            self.played = u64::from(place.from_ms) + passed;
            let last = piece.last;
            self.waiting.pop_front();
            self.at = 0;
            self.publish(1_000, last);
            // The end of what was heard before is not heard after.
            self.resampler = None;
        }
        self.switches.busy.store(!self.waiting.is_empty() || !self.pieces.is_empty(), Ordering::Release);
    }

    /// Takes what has come; what is not wanted any more at once, but for the piece being played: it fades out.
    fn take(&mut self, floor: u32) {
        let playing = self.at > 0;
        let mut first = true;
        self.waiting.retain(|piece| {
            let fades = std::mem::take(&mut first) && playing;
            fades || piece.utterance >= floor
        });
        // A few at a time: a burst of an hour of speech must not hold up the beat.
        while self.waiting.len() < 64
            && let Taken::Item(piece) = self.pieces.try_take()
        {
            self.switches.waiting.fetch_sub(1, Ordering::AcqRel);
            if piece.utterance >= floor {
                self.waiting.push_back(piece);
            }
        }
    }

    /// When the next sample was made.
    fn made(&self) -> Option<MediaTime> {
        let piece = self.waiting.front()?;
        let made = piece.place?.made?;
        Some(MediaTime(made.0 + self.at as i64 * 1_000_000 / i64::from(piece.rate.max(1))))
    }

    /// Copies what waits; how much it was.
    fn copy(&mut self, now: Instant, rate: u32, floor: u32, block: &mut [i16]) -> usize {
        let mut filled = 0;
        while let Some(piece) = self.waiting.front_mut() {
            if piece.rate != rate {
                let before = std::mem::replace(&mut self.converted, piece.utterance);
                if before != piece.utterance && before < floor {
                    // The end of what was cut is not heard before the next.
                    self.resampler = None;
                }
                convert(&mut self.resampler, piece, rate);
            }
            if piece.utterance != self.utterance && filled < block.len() {
                // A cut utterance does not lead over into the next.
                if filled > 0 && self.utterance < floor {
                    break;
                }
                self.utterance = piece.utterance;
                self.played = 0;
                let since = now.saturating_duration_since(self.epoch).as_nanos();
                self.switches.began.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Release);
            }
            if let (0, Some(place)) = (self.at, piece.place) {
                self.played = u64::from(place.from_ms) * u64::from(rate) / 1000;
            }
            let rest = &piece.samples[self.at.min(piece.samples.len())..];
            let length = rest.len().min(block.len() - filled);
            block[filled..filled + length].copy_from_slice(&rest[..length]);
            filled += length;
            self.at += length;
            self.played += length as u64;
            if self.at < piece.samples.len() {
                break;
            }
            let last = piece.last;
            self.waiting.pop_front();
            self.at = 0;
            self.publish(rate, last);
            if filled == block.len() {
                break;
            }
        }
        filled
    }

    fn publish(&self, rate: u32, whole: bool) {
        let ms =
            u32::try_from(self.played * 1000 / u64::from(rate.max(1))).unwrap_or(u32::MAX) & (u32::MAX >> 1);
        // What a face adds behind the last word does not make the utterance less whole.
        let known = self.switches.position.load(Ordering::Relaxed);
        let whole = whole || (known >> 32 == u64::from(self.utterance) && known & 1 == 1);
        let word = u64::from(self.utterance) << 32 | u64::from(ms) << 1 | u64::from(whole);
        self.switches.position.store(word, Ordering::Release);
    }

    /// From the loudness of the block before to `target` within the ramp.
    fn shape(&mut self, block: &mut [i16], ramp: usize, target: f32) {
        if self.gain != target || target != 1.0 {
            let step = (target - self.gain) / ramp as f32;
            for (n, sample) in block.iter_mut().enumerate() {
                let gain = if n < ramp { self.gain + step * (n + 1) as f32 } else { target };
                *sample = (f32::from(*sample) * gain) as i16;
            }
        }
        self.gain = target;
    }

    fn tell(&self, rate: u32, said: &[i16]) {
        if !self.at_end_of_utterance() {
            self.publish(rate, false);
        }
        let energy: f64 = said.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        let level = if energy > 0.0 {
            (10.0 * (energy / said.len() as f64 / (32_768.0 * 32_768.0)).log10()) as f32
        } else {
            f32::NEG_INFINITY
        };
        self.switches.level.store(level.to_bits(), Ordering::Relaxed);
    }

    /// What was played last ended with its utterance: that stands in the position already.
    fn at_end_of_utterance(&self) -> bool {
        self.switches.position.load(Ordering::Relaxed) & 1 == 1 && self.at == 0
    }
}

/// Brings a piece to another rate in place; a whole one, so that it happens once.
fn convert(resampler: &mut Option<(u32, u32, Resampler)>, piece: &mut Piece, rate: u32) {
    if resampler.as_ref().is_none_or(|(from, to, _)| (*from, *to) != (piece.rate, rate)) {
        *resampler = Resampler::new(piece.rate, rate).ok().map(|made| (piece.rate, rate, made));
    }
    let mut converted =
        Vec::with_capacity(piece.samples.len() * rate as usize / piece.rate.max(1) as usize + 1);
    if let Some((_, _, used)) = resampler {
        let _ = used.process(&piece.samples, &mut converted);
    }
    // What comes out was put in a moment ago.
    if let (Some((_, _, used)), Some(Place { made: Some(made), .. })) = (resampler, &mut piece.place) {
        made.0 -= used.delay() as i64 * 1_000_000 / i64::from(rate.max(1));
    }
    piece.samples = converted.into();
    piece.rate = rate;
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 8_000;
    const BLOCK: usize = 160;

    struct Line {
        say: Say,
        playout: Playout,
        epoch: Instant,
        blocks: u32,
    }

    impl Line {
        fn new() -> Line {
            let epoch = Instant::now();
            let (say, playout) = playout(epoch);
            Line { say, playout, epoch, blocks: 0 }
        }

        fn say(&self, utterance: u32, ms: usize, level: i16, last: bool) {
            let samples = vec![level; ms * 8].into();
            self.say.say(Piece { utterance, rate: RATE, samples, last, place: None });
        }

        fn block(&mut self) -> Vec<i16> {
            let mut block = vec![0; BLOCK];
            let now = self.epoch + Duration::from_millis(20) * self.blocks;
            self.blocks += 1;
            self.playout.fill(now, RATE, &mut block);
            block
        }
    }

    /// No two neighbours are further apart than a ramp allows.
    fn is_smooth(blocks: &[Vec<i16>]) -> bool {
        let all: Vec<i16> = blocks.concat();
        all.windows(2).all(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs() <= 10_000 / 40 + 10)
    }

    #[test]
    fn an_utterance_is_played_to_its_end_and_its_place_is_known() {
        let mut line = Line::new();
        assert_eq!(line.block(), [0; BLOCK]);
        line.say(1, 30, 1000, false);
        line.say(1, 20, 1000, true);
        assert_eq!(line.block(), [1000; BLOCK]);
        assert_eq!(line.say.position(), Position { utterance: 1, ms: 20, whole: false });
        assert_eq!(line.say.began(), Duration::from_millis(20));
        assert!(line.say.level_db().is_some_and(|db| (-31.0..-30.0).contains(&db)));
        line.block();
        let last = line.block();
        assert!(last[..80] == [1000; 80] && last[80..] == [0; 80]);
        assert_eq!(line.say.position(), Position { utterance: 1, ms: 50, whole: true });
        line.block();
        assert_eq!(line.say.position(), Position { utterance: 1, ms: 50, whole: true });
        assert!(line.say.level_db().is_none() && line.say.is_idle());
    }

    #[test]
    fn utterances_follow_one_another_and_an_empty_piece_ends_one() {
        let mut line = Line::new();
        line.say(1, 10, 100, false);
        line.say(1, 0, 0, true);
        line.say(2, 30, 200, true);
        let block = line.block();
        assert!(block[..80] == [100; 80] && block[80..] == [200; 80]);
        assert_eq!(line.say.position(), Position { utterance: 2, ms: 10, whole: false });
        line.block();
        assert_eq!(line.say.position(), Position { utterance: 2, ms: 30, whole: true });
    }

    #[test]
    fn ducking_is_fifteen_decibels_and_makes_no_click() {
        let mut line = Line::new();
        line.say(1, 200, 10_000, true);
        let before = line.block();
        line.say.duck(true);
        let ducked = [line.block(), line.block()];
        line.say.duck(false);
        let after = line.block();
        let level = 20.0 * (f32::from(ducked[1][0]) / 10_000.0).log10();
        assert!((-15.5..-14.5).contains(&level), "{level}");
        assert_eq!(after[BLOCK - 1], 10_000);
        assert!(is_smooth(&[before, ducked[0].clone(), ducked[1].clone(), after]));
    }

    #[test]
    fn what_a_face_says_while_nothing_is_sent_is_not_heard_later_and_what_is_said_without_one_waits() {
        let mut line = Line::new();
        let say = |line: &Line, n: u32, made, last| {
            let place = Some(Place { from_ms: n * 20, made });
            line.say.say(Piece { utterance: 1, rate: RATE, samples: [5_000; BLOCK].into(), last, place });
        };
        for n in 0..50 {
            say(&line, n, Some(MediaTime(i64::from(n) * 20_000)), n == 49);
        }
        assert_eq!(line.block()[BLOCK - 1], 5_000);
        line.playout.pass_by();
        assert_eq!(line.say.position(), Position { utterance: 1, ms: 1_000, whole: true });
        assert_eq!((line.block(), line.say.waiting()), (vec![0; BLOCK], 0));
        assert!(line.say.is_idle());
        line.say(2, 40, 5_000, true);
        line.playout.pass_by();
        assert!(!line.say.is_idle());
        assert_eq!((line.block()[0], line.block()[BLOCK - 1], line.block()[0]), (5_000, 5_000, 0));
        assert_eq!(line.say.position(), Position { utterance: 2, ms: 40, whole: true });
    }

    #[test]
    fn what_is_held_goes_on_where_it_was() {
        let mut line = Line::new();
        let ramp: Vec<i16> = (0..4000).collect();
        line.say.say(Piece { utterance: 1, rate: RATE, samples: ramp.into(), last: true, place: None });
        line.block();
        line.say.hold(true);
        let fading = line.block();
        assert!(fading[39] == 0 && fading[40..] == [0; 120]);
        assert_eq!(line.block(), [0; BLOCK]);
        assert_eq!(line.say.position(), Position { utterance: 1, ms: 25, whole: false });
        line.say.hold(false);
        assert_eq!(line.block()[159], 359);
    }

    #[test]
    fn what_is_dropped_fades_at_once_and_never_comes_back() {
        let mut line = Line::new();
        line.say(1, 500, 10_000, false);
        let before = line.block();
        line.say.drop_through(1);
        line.say(1, 100, 9_000, true);
        let cut = line.block();
        assert!(cut[40..] == [0; 120] && is_smooth(&[before, cut]));
        assert_eq!(line.block(), [0; BLOCK], "late sound of it is not heard either");
        let position = line.say.position();
        assert!(position.utterance == 1 && position.ms == 25 && !position.whole, "{position:?}");
        line.say(2, 20, 5_000, true);
        assert_eq!(line.block(), [5_000; BLOCK], "the next is as loud as ever");
    }

    #[test]
    fn nothing_of_what_is_dropped_is_left_in_the_converter() {
        for (blocks, rate) in [(1, 48_000), (3, 48_000), (2, 24_000), (2, 16_000)] {
            let mut line = Line::new();
            let say = |line: &Line, utterance, level, last| {
                // In pieces of one block, as a face gives them.
                let samples: Arc<[i16]> = vec![level; rate as usize / 50].into();
                line.say.say(Piece { utterance, rate, samples, last, place: None });
            };
            for _ in 0..blocks {
                say(&line, 1, 10_000, false);
                line.block();
            }
            line.say.drop_through(1);
            line.block();
            say(&line, 2, 0, false);
            say(&line, 2, 0, true);
            assert_eq!((line.block(), line.block()), (vec![0; BLOCK], vec![0; BLOCK]), "{rate} Hz");
        }
    }

    #[test]
    fn nothing_of_what_passes_unheard_is_left_in_the_converter() {
        let mut line = Line::new();
        let say = |line: &Line, level, made| {
            let place = Some(Place { from_ms: 0, made: Some(MediaTime(made)) });
            let samples: Arc<[i16]> = vec![level; 960].into();
            line.say.say(Piece { utterance: 1, rate: 48_000, samples, last: false, place });
        };
        for made in 0..3 {
            say(&line, 10_000, made * 20_000);
            line.block();
        }
        say(&line, 10_000, 60_000);
        line.playout.pass_by();
        say(&line, 0, 80_000);
        say(&line, 0, 100_000);
        assert_eq!((line.block(), line.block()), (vec![0; BLOCK], vec![0; BLOCK]));
    }

    #[test]
    fn what_was_never_begun_leaves_no_sound_when_dropped() {
        let mut line = Line::new();
        line.say(3, 500, 10_000, true);
        line.say.drop_through(3);
        assert_eq!(line.block(), [0; BLOCK]);
        assert_eq!(line.say.position().utterance, 0);
    }

    #[test]
    fn sound_of_another_rate_is_brought_to_that_of_the_call() {
        let mut line = Line::new();
        let sine = crate::source::tone::sine(24_000, 400.0, 1000, 0.4);
        for piece in sine.chunks(480) {
            line.say.say(Piece {
                utterance: 1,
                rate: 24_000,
                samples: piece.into(),
                last: false,
                place: None,
            });
        }
        let heard: Vec<i16> = (0..45).flat_map(|_| line.block()).collect();
        let share = crate::source::tone::share(&heard[800..], RATE, 400.0);
        assert!(share > 0.98, "{share}");
    }
}
