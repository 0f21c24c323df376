//! The agent's voice on its way through its face: what goes up, what comes back, what is heard.
//!
//! Pure. Sound comes in by [`Voice::say`] and [`Voice::handle_sound`]; what is to be done comes out of [`Voice::poll`].
//! Whoever carries it out owns the session and the relay. Without a session, everything is heard directly.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::avatar::{Limits, MediaTime, Turn};
use crate::base::time::Pts;
use crate::codec::resample::Resampler;
use crate::engine::face::account::{Account, Heard, is_silent};
use crate::engine::face::hush::{Hush, Hushed};
use crate::engine::face::lips::Pace;
use crate::engine::face::switch::{Switch, Way};
use crate::engine::playout::{Piece, Place};

/// So much may go up before it comes back.
const AHEAD: Duration = Duration::from_secs(20);
/// An agent that says nothing for so long has said what it wanted to: its turn ends.
const TURN_PAUSE: Duration = Duration::from_millis(500);
/// A face that stops in the middle of words for so long is lost: the voice is to go on within a second.
const STALLED: Duration = Duration::from_millis(800);
/// Silence after the last of what went up: the face has finished.
const FINISHED: Duration = Duration::from_millis(300);
/// Silence after which a face that speaks by itself has finished.
const OWN_FINISHED: Duration = Duration::from_millis(700);
/// How often it is looked at while there is something to look at.
const TICK: Duration = Duration::from_millis(40);

/// What is to be done.
#[derive(Debug)]
pub enum Act {
    /// Sound of a turn at the provider's rate.
    Up {
        turn: Turn,
        samples: Vec<i16>,
    },
    End(Turn),
    Interrupt(Turn),
    /// To the beat.
    Pass(Piece),
    /// A turn begins to be heard, so long after the first of it went up, where that is known.
    /// `wait`: for the pictures that go with it.
    Speaking {
        utterance: u32,
        after: Option<Duration>,
        wait: Duration,
    },
    /// A face that speaks by itself has finished its utterance.
    Spoken {
        utterance: u32,
    },
    /// The session is of no use any more.
    Broken(&'static str),
}

/// Up.
#[derive(Default)]
struct Rising {
    resampler: Option<(u32, Resampler)>,
    turn: Turn,
    open: bool,
    /// When the last of it went up.
    at: Option<Instant>,
    /// Since when the face has something to say; `None`: everything has come back.
    since: Option<Instant>,
}

/// Down.
#[derive(Default)]
struct Falling {
    /// A turn is being heard.
    sounding: bool,
    /// What must wait for its pictures, and until when.
    starting: VecDeque<Piece>,
    release: Option<Instant>,
    /// The block before the first one with words in it: words begin softly.
    before: Option<(MediaTime, u32, Arc<[i16]>)>,
    quiet: Duration,
    /// When the account last went down, since it last was empty.
    advanced: Option<Instant>,
    loud: Option<Instant>,
    /// The provider has said that this turn is over.
    ended: Turn,
    /// The turn the provider has begun to speak.
    speaking: Turn,
    /// Utterances of a face that speaks by itself, and how much of the last one was heard, in microseconds.
    own: u32,
    own_us: u64,
}

pub struct Voice {
    epoch: Instant,
    buffer: Duration,
    limits: Limits,
    account: Account,
    switch: Switch,
    pace: Pace,
    hush: Option<Hush>,
    rising: Rising,
    falling: Falling,
    waiting: Option<Piece>,
    /// When it was last looked at.
    looked: Instant,
    /// Utterances up to this one were cut.
    cut: u32,
    acts: VecDeque<Act>,
}

impl Voice {
    /// `buffer`: how long sound may wait for pictures.
    pub fn new(epoch: Instant, buffer: Duration) -> Self {
        Voice {
            epoch,
            buffer,
            limits: Limits::default(),
            account: Account::default(),
            switch: Switch::default(),
            pace: Pace::default(),
            hush: None,
            rising: Rising::default(),
            falling: Falling::default(),
            waiting: None,
            looked: epoch,
            cut: 0,
            acts: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Whether no more should be said just now.
    pub fn is_full(&self) -> bool {
        self.waiting.is_some() || self.account.ahead() >= AHEAD
    }

    /// Whether something that was said is still to be handed to the beat.
    pub fn owes(&self) -> bool {
        self.waiting.is_some() || !self.account.is_empty() || !self.falling.starting.is_empty()
    }

    /// By how much pictures come later than sound.
    pub fn lag(&self) -> Duration {
        self.pace.lag()
    }

    /// How long sound takes to come, as [`Pace::sound`] tells it.
    pub fn sound(&self) -> Option<i64> {
        self.pace.sound()
    }

    /// A face of these limits speaks from now on.
    pub fn ready(&mut self, limits: &Limits) {
        self.limits = limits.clone();
        self.rising.resampler = None;
        self.rising.open = false;
        self.pace = Pace::default();
        self.hush = None;
        self.switch.set_ready(!limits.listens);
    }

    /// There is no face any more: what it still owed is said directly.
    pub fn lost(&mut self, now: Instant) {
        self.switch.set_ready(false);
        self.hush = None;
        self.rising = Rising { turn: self.rising.turn, ..Rising::default() };
        self.hand_over();
        if self.limits.listens {
            self.finish_own();
        }
        let Falling { own, ended, .. } = self.falling;
        self.falling = Falling { own, ended, ..Falling::default() };
        for rest in self.account.take_rest() {
            let place = Some(Place { from_ms: rest.from_ms, made: None });
            let samples: Arc<[i16]> = rest.samples.into();
            let (utterance, rate) = (rest.utterance, rest.rate);
            self.pass_directly(now, Piece { utterance, rate, samples, last: rest.whole, place });
        }
        self.retry(now);
    }

    /// Another line: what the old one was owed is of no use on it, and its utterances are counted from the start.
    pub fn restart(&mut self, now: Instant) {
        self.cut(now, u32::MAX);
        self.cut = 0;
        self.switch.forget();
    }

    /// Something is said.
    pub fn say(&mut self, now: Instant, piece: Piece) {
        if piece.utterance <= self.cut {
            return;
        }
        // One that speaks by itself counts on from what is said beside it.
        self.falling.own = self.falling.own.max(piece.utterance);
        match self.switch.way(now, piece.utterance) {
            Way::Direct => self.pass_directly(now, piece),
            Way::Up => self.raise(now, &piece),
            Way::Later => self.waiting = Some(piece),
        }
    }

    fn pass_directly(&mut self, now: Instant, piece: Piece) {
        let length = length(piece.samples.len(), piece.rate);
        self.switch.passed(now, length);
        self.acts.push_back(Act::Pass(piece));
    }

    fn retry(&mut self, now: Instant) {
        if let Some(piece) = self.waiting.take() {
            self.say(now, piece);
        }
    }

    fn raise(&mut self, now: Instant, piece: &Piece) {
        if !self.rising.open {
            self.rising.turn += 1;
            self.rising.open = true;
            self.rising.resampler = None;
        }
        let turn = self.rising.turn;
        if self.account.ahead().is_zero() && !piece.samples.is_empty() {
            self.rising.since = Some(now);
            self.falling.advanced = None;
            let over = self.falling.loud.is_none_or(|loud| now >= loud + FINISHED);
            self.falling.sounding &= !(over && self.account.is_empty());
        }
        self.rising.at = Some(now);
        self.account.add(turn, piece.utterance, piece.rate, &piece.samples, piece.last);
        self.convert(turn, piece.rate, &piece.samples);
    }

    fn convert(&mut self, turn: Turn, rate: u32, samples: &[i16]) {
        let known = self.rising.resampler.as_ref().is_some_and(|(from, _)| *from == rate);
        if !known {
            self.rising.resampler = Resampler::new(rate, self.limits.rate).ok().map(|made| (rate, made));
        }
        let Some((_, resampler)) = &mut self.rising.resampler else { return };
        let mut converted = Vec::new();
        // Rates were checked as it was made; what cannot be converted is not said by the face.
        let _ = resampler.process(samples, &mut converted);
        if !converted.is_empty() {
            self.acts.push_back(Act::Up { turn, samples: converted });
        }
    }

    /// The agent has nothing more to say for now.
    fn end_turn(&mut self) {
        if !std::mem::take(&mut self.rising.open) {
            return;
        }
        let turn = self.rising.turn;
        // The last words are still in the resampler.
        if let Some((rate, resampler)) = self.rising.resampler.take()
            && resampler.delay() > 0
        {
            let rest = vec![0; rate as usize / 50];
            self.rising.resampler = Some((rate, resampler));
            self.convert(turn, rate, &rest);
        }
        self.acts.push_back(Act::End(turn));
    }

    /// Nothing of this utterance or one before it is heard any more.
    pub fn cut(&mut self, now: Instant, utterance: u32) {
        self.cut = self.cut.max(utterance);
        self.switch.cut();
        self.waiting.take_if(|piece| piece.utterance <= utterance);
        let sounding = std::mem::take(&mut self.falling.sounding);
        let pending = !self.falling.starting.is_empty();
        self.falling.starting.clear();
        self.falling.release = None;
        let owed = self.account.drop_through(utterance);
        let speaks = self.limits.listens && (sounding || pending);
        if owed.is_none() && !speaks {
            return;
        }
        // What was cut began the turn: it is over as a whole.
        let turn = if self.limits.listens { self.falling.speaking } else { self.rising.turn };
        self.rising.open = false;
        self.rising.resampler = None;
        self.rising.since = None;
        self.acts.push_back(Act::Interrupt(turn));
        self.hush = Some(Hush::new(now, turn, sounding));
        self.switch.set_hushing(true);
    }

    /// The provider has carried out an interruption.
    pub fn handle_hushed(&mut self, now: Instant) {
        if let Some(hush) = &mut self.hush {
            hush.acknowledge(now);
        }
        self.follow_hush(now);
    }

    /// The provider begins a turn.
    pub fn handle_speaking(&mut self, now: Instant, turn: Turn) {
        self.falling.speaking = turn;
        let newer = self.hush.as_ref().is_some_and(|hush| turn > hush.turn() || self.limits.listens);
        if newer {
            self.end_hush(now);
        }
    }

    /// The provider has ended a turn, says it.
    pub fn handle_ended(&mut self, now: Instant, turn: Turn, interrupted: bool) {
        self.falling.ended = self.falling.ended.max(turn);
        if self.hush.as_ref().is_some_and(|hush| turn >= hush.turn() && (interrupted || !self.limits.listens))
        {
            self.handle_hushed(now);
        }
    }

    fn follow_hush(&mut self, now: Instant) {
        let Some(hush) = &self.hush else { return };
        match hush.state(now) {
            Hushed::Waiting => {}
            Hushed::Stopped => {
                self.switch.set_hushing(false);
                self.retry(now);
            }
            Hushed::Over => self.end_hush(now),
            Hushed::Disobeyed => {
                self.hush = None;
                self.acts.push_back(Act::Broken("it does not stop when it is interrupted"));
            }
        }
    }

    fn end_hush(&mut self, now: Instant) {
        self.hush = None;
        self.falling.before = None;
        self.switch.set_hushing(false);
        self.retry(now);
    }

    /// A picture has come; made then.
    pub fn handle_picture(&mut self, now: Instant, made: MediaTime) {
        self.pace.saw(Pts::at(self.epoch, now), made);
    }

    /// Sound has come back.
    pub fn handle_sound(&mut self, now: Instant, made: MediaTime, rate: u32, samples: &Arc<[i16]>) {
        self.pace.heard(Pts::at(self.epoch, now), made);
        let block = (rate as usize / 50).max(1);
        for (n, part) in samples.chunks(block).enumerate() {
            let made = MediaTime(made.0 + length(n * block, rate).as_micros() as i64);
            let shared = if part.len() == samples.len() { samples.clone() } else { part.into() };
            self.block(now, made, rate, shared);
        }
    }

    fn block(&mut self, now: Instant, made: MediaTime, rate: u32, samples: Arc<[i16]>) {
        let (length, silent) = (length(samples.len(), rate), is_silent(&samples));
        if let Some(hush) = &mut self.hush {
            hush.sound(now, silent);
            self.follow_hush(now);
            return;
        }
        if !silent {
            self.falling.loud = Some(now);
        }
        self.falling.quiet = if silent { self.falling.quiet + length } else { Duration::ZERO };
        if !self.falling.sounding {
            let owed = self.limits.listens || !self.account.is_empty();
            if silent || !owed {
                self.falling.before = Some((made, rate, samples));
                return;
            }
            self.begin(now, made);
        }
        let Some(heard) = self.attribute(now, length, silent) else { return };
        let place = Some(Place { from_ms: heard.from_ms, made: Some(made) });
        self.hear(Piece { utterance: heard.utterance, rate, samples, last: heard.last, place });
        self.look_for_end();
    }

    /// Which utterance a block belongs to.
    fn attribute(&mut self, now: Instant, length: Duration, silent: bool) -> Option<Heard> {
        if self.limits.listens {
            return Some(Heard { utterance: self.falling.own, from_ms: 0, last: false });
        }
        let before = self.account.ahead();
        let heard = self.account.heard(length, silent);
        if self.account.ahead() < before {
            self.falling.advanced = Some(now);
        }
        heard
    }

    /// The first words of a turn.
    fn begin(&mut self, now: Instant, made: MediaTime) {
        let falling = &mut self.falling;
        falling.sounding = true;
        let before = falling.before.take().filter(|(_, rate, samples)| {
            // Only what came just before.
            *rate > 0 && samples.len() <= *rate as usize / 25
        });
        let first = before.as_ref().map_or(made, |(made, ..)| *made);
        let wait = self.pace.release(Pts::at(self.epoch, now), first, self.buffer);
        falling.release = Some(now + wait);
        let utterance = if self.limits.listens {
            (falling.own, falling.own_us) = (falling.own + 1, 0);
            falling.own
        } else {
            self.account.next().map_or(0, |heard| heard.utterance)
        };
        let after = self.rising.since.map(|since| now.saturating_duration_since(since));
        let after = after.filter(|_| !self.limits.listens);
        self.acts.push_back(Act::Speaking { utterance, after, wait });
        if let Some((made, rate, samples)) = before.filter(|(before, ..)| made.0 - before.0 <= 40_000) {
            let from_ms = self.account.next().map_or(0, |heard| heard.from_ms);
            let place = Some(Place { from_ms, made: Some(made) });
            self.hear(Piece { utterance, rate, samples, last: false, place });
        }
    }

    fn hear(&mut self, mut piece: Piece) {
        if self.limits.listens
            && let Some(place) = &mut piece.place
        {
            // One that speaks by itself is counted as it is played.
            place.from_ms = u32::try_from(self.falling.own_us / 1_000).unwrap_or(u32::MAX);
            self.falling.own_us += length(piece.samples.len(), piece.rate).as_micros() as u64;
        }
        if self.falling.release.is_some() {
            self.falling.starting.push_back(piece);
        } else {
            self.acts.push_back(Act::Pass(piece));
        }
    }

    fn look_for_end(&mut self) {
        let own = self.limits.listens;
        let finished = if own { OWN_FINISHED } else { FINISHED };
        if self.falling.quiet >= finished && (own || self.account.is_empty()) {
            if own {
                self.hand_over();
                self.finish_own();
            }
            self.falling.sounding = false;
        }
    }

    fn finish_own(&mut self) {
        if self.falling.sounding {
            self.falling.sounding = false;
            let utterance = self.falling.own;
            let piece = Piece { utterance, rate: 8_000, samples: Arc::from([]), last: true, place: None };
            self.acts.push_back(Act::Pass(piece));
            self.acts.push_back(Act::Spoken { utterance });
        }
    }

    fn hand_over(&mut self) {
        self.falling.release = None;
        self.acts.extend(self.falling.starting.drain(..).map(Act::Pass));
    }

    /// When [`Voice::handle_time`] is due, whatever happens until then: sound comes more often than that.
    pub fn wake_at(&self) -> Option<Instant> {
        let busy = self.owes() || self.rising.open || self.hush.is_some();
        let tick = busy.then(|| self.looked + TICK);
        [self.falling.release, tick].into_iter().flatten().min()
    }

    pub fn handle_time(&mut self, now: Instant) {
        self.looked = now;
        if self.falling.release.is_some_and(|at| at <= now) {
            self.hand_over();
        }
        self.follow_hush(now);
        self.retry(now);
        let silent = self.rising.at.is_some_and(|at| now >= at + TURN_PAUSE);
        if silent && self.waiting.is_none() && self.account.is_whole() {
            self.end_turn();
        }
        self.close_account(now);
        self.look_for_stall(now);
    }

    /// What is left of a turn that is over is not waited for.
    fn close_account(&mut self, now: Instant) {
        if self.account.is_empty() || !self.account.is_whole() || self.rising.open {
            return;
        }
        let quiet = self.falling.loud.max(self.falling.advanced);
        let Some(quiet) = quiet.filter(|_| self.falling.advanced.is_some()) else { return };
        let since = now.saturating_duration_since(quiet);
        let turn = self.rising.turn;
        let told = self.falling.ended >= turn && since >= FINISHED;
        let rest = !self.account.owes() && since >= FINISHED;
        let believed = !self.account.owes_words() && since >= self.limits.ends_within;
        if !(told || rest || believed) {
            return;
        }
        self.hand_over();
        for ended in self.account.end(turn) {
            let place = Some(Place { from_ms: ended.from_ms, made: None });
            let (utterance, samples) = (ended.utterance, Arc::from([]));
            self.acts.push_back(Act::Pass(Piece { utterance, rate: 8_000, samples, last: true, place }));
        }
        self.falling.sounding = false;
    }

    /// A face that owes words and says none.
    fn look_for_stall(&mut self, now: Instant) {
        if self.hush.is_some() || !self.account.owes_words() {
            return;
        }
        let Some(since) = self.rising.since else { return };
        // Where the provider likes large pieces, a small rest may wait for more.
        let gathered = self.rising.open && self.account.ahead() < self.limits.next_piece + STALLED;
        let deadline = match self.falling.advanced {
            Some(advanced) if !gathered => advanced + STALLED,
            Some(advanced) => advanced + self.limits.speaks_within,
            None => since + self.limits.speaks_within,
        };
        if now >= deadline {
            self.rising.since = None;
            self.acts.push_back(Act::Broken(match self.falling.advanced {
                Some(_) => "it stopped in the middle of words",
                None => "it does not say what it is given",
            }));
        }
    }
}

fn length(samples: usize, rate: u32) -> Duration {
    Duration::from_micros(samples as u64 * 1_000_000 / u64::from(rate.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Duration = Duration::from_millis(20);

    /// A provider that says what it is given, a while later and at its own pace, and silence else.
    struct Scripted {
        latency: Duration,
        /// Blocks to be said, and from when on.
        queue: VecDeque<(Instant, bool)>,
        turn: Turn,
        acknowledges: bool,
        obeys: bool,
        alive: bool,
        interrupted: Vec<Turn>,
        ended: Vec<Turn>,
    }

    /// A call in virtual time: 20 ms a step.
    struct Bench {
        voice: Voice,
        /// What the agent has said and nobody has taken.
        line: VecDeque<Piece>,
        provider: Scripted,
        epoch: Instant,
        now: Instant,
        /// What was handed to the beat: when, and what.
        heard: Vec<(Instant, Piece)>,
        broken: Vec<&'static str>,
        speaking: Vec<(u32, Option<Duration>)>,
    }

    const SOUND: i16 = 3_000;

    impl Bench {
        fn new() -> Bench {
            let epoch = Instant::now();
            let provider = Scripted {
                latency: Duration::from_millis(300),
                queue: VecDeque::new(),
                turn: 0,
                acknowledges: true,
                obeys: true,
                alive: true,
                interrupted: Vec::new(),
                ended: Vec::new(),
            };
            Bench {
                voice: Voice::new(epoch, Duration::from_secs(1)),
                line: VecDeque::new(),
                provider,
                epoch,
                now: epoch,
                heard: Vec::new(),
                broken: Vec::new(),
                speaking: Vec::new(),
            }
        }

        fn with_face() -> Bench {
            let mut bench = Bench::new();
            bench.voice.ready(&Limits { rate: 16_000, ..Limits::default() });
            bench
        }

        /// As a voice makes it: all at once.
        fn say(&mut self, utterance: u32, ms: usize) {
            for n in 0..ms / 20 {
                let last = n + 1 == ms / 20;
                let samples = Arc::from([SOUND; 160]);
                self.line.push_back(Piece { utterance, rate: 8_000, samples, last, place: None });
            }
            self.take();
        }

        fn take(&mut self) {
            while !self.voice.is_full()
                && let Some(piece) = self.line.pop_front()
            {
                self.voice.say(self.now, piece);
            }
        }

        fn carry_out(&mut self) {
            while let Some(act) = self.voice.poll() {
                match act {
                    Act::Up { turn, samples } => {
                        self.provider.turn = turn;
                        for block in samples.chunks(320) {
                            let words = block.iter().any(|sample| sample.abs() > 500);
                            self.provider.queue.push_back((self.now + self.provider.latency, words));
                        }
                    }
                    Act::End(turn) => self.provider.ended.push(turn),
                    Act::Interrupt(turn) => {
                        self.provider.interrupted.push(turn);
                        if self.provider.obeys {
                            self.provider.queue.clear();
                        }
                        if self.provider.acknowledges {
                            self.voice.handle_hushed(self.now + BLOCK);
                        }
                    }
                    Act::Pass(piece) => self.heard.push((self.now, piece)),
                    Act::Speaking { utterance, after, .. } => self.speaking.push((utterance, after)),
                    Act::Spoken { .. } => {}
                    Act::Broken(why) => self.broken.push(why),
                }
            }
        }

        fn step(&mut self) {
            self.now += BLOCK;
            if self.provider.alive {
                let due = self.provider.queue.front().is_some_and(|(from, _)| *from <= self.now);
                let words = due && self.provider.queue.pop_front().is_some_and(|(_, words)| words);
                let samples: Arc<[i16]> = [if words { SOUND } else { 0 }; 480].into();
                let made = MediaTime(self.now.duration_since(self.epoch).as_micros() as i64);
                self.voice.handle_sound(self.now, made, 24_000, &samples);
            }
            // As its task does: not before it is due.
            if self.voice.wake_at().is_some_and(|at| at <= self.now) {
                self.voice.handle_time(self.now);
            }
            self.take();
            self.carry_out();
        }

        fn run(&mut self, ms: u64) {
            for _ in 0..ms / 20 {
                self.step();
            }
        }

        /// Milliseconds of words of this utterance that were handed over.
        fn words(&self, utterance: u32) -> u64 {
            let pieces = self.heard.iter().filter(|(_, piece)| piece.utterance == utterance);
            let words = pieces.filter(|(_, piece)| piece.samples.iter().any(|sample| *sample != 0));
            words.map(|(_, piece)| piece.samples.len() as u64 * 1_000 / u64::from(piece.rate)).sum()
        }

        fn ends(&self, utterance: u32) -> usize {
            self.heard.iter().filter(|(_, piece)| piece.utterance == utterance && piece.last).count()
        }
    }

    #[test]
    fn without_a_face_the_agent_is_heard_directly_and_the_next_utterance_takes_the_face() {
        let mut bench = Bench::new();
        bench.say(1, 1_000);
        bench.carry_out();
        assert_eq!(bench.words(1), 1_000);
        bench.voice.ready(&Limits::default());
        bench.say(2, 400);
        assert!(bench.voice.is_full(), "the first is still heard");
        bench.run(600);
        assert_eq!(bench.words(2), 0);
        bench.run(1_500);
        assert!(bench.words(2) >= 380, "{}", bench.words(2));
        let place =
            bench.heard.iter().find(|(_, piece)| piece.utterance == 2).and_then(|(_, piece)| piece.place);
        assert!(place.is_some_and(|place| place.made.is_some()), "it comes from the face");
    }

    #[test]
    fn utterances_in_a_row_are_one_turn_each_is_ended_and_the_next_turn_is_another() {
        let mut bench = Bench::with_face();
        bench.say(1, 600);
        bench.say(2, 400);
        bench.run(3_000);
        assert_eq!((bench.ends(1), bench.ends(2)), (1, 1));
        assert!((580..=640).contains(&bench.words(1)), "{}", bench.words(1));
        assert!((360..=440).contains(&bench.words(2)), "{}", bench.words(2));
        assert_eq!(bench.provider.ended, [1]);
        assert!(!bench.voice.owes());
        assert_eq!(bench.voice.wake_at(), None, "nothing to look at");
        bench.say(3, 400);
        bench.run(2_000);
        assert_eq!(bench.provider.ended, [1, 2]);
        assert_eq!(bench.speaking.iter().map(|(utterance, _)| *utterance).collect::<Vec<_>>(), [1, 3]);
        let after = bench.speaking[0].1.expect("known");
        assert!((300..=400).contains(&(after.as_millis() as u64)), "{after:?}");
    }

    #[test]
    fn nothing_of_a_cut_reply_is_heard_and_the_next_one_is_whole() {
        for acknowledges in [true, false] {
            let mut bench = Bench::with_face();
            bench.provider.acknowledges = acknowledges;
            bench.say(1, 5_000);
            bench.run(1_000);
            let before = bench.words(1);
            assert!(before > 500);
            bench.voice.cut(bench.now, 1);
            bench.carry_out();
            assert_eq!(bench.provider.interrupted, [1]);
            bench.say(2, 1_000);
            bench.run(5_000);
            assert_eq!(bench.words(1), before, "acknowledged: {acknowledges}");
            assert!(bench.words(2) >= 960, "{}", bench.words(2));
            assert!(bench.broken.is_empty() && bench.ends(2) == 1);
        }
    }

    #[test]
    fn a_face_that_neither_acknowledges_nor_stops_is_given_up_and_nothing_of_it_is_heard() {
        let mut bench = Bench::with_face();
        (bench.provider.acknowledges, bench.provider.obeys) = (false, false);
        bench.say(1, 10_000);
        bench.run(1_000);
        let before = bench.words(1);
        bench.voice.cut(bench.now, 1);
        bench.say(2, 1_000);
        bench.run(2_100);
        assert_eq!(bench.broken, ["it does not stop when it is interrupted"]);
        bench.voice.lost(bench.now);
        bench.run(5_000);
        assert_eq!((bench.words(1), bench.words(2)), (before, 1_000));
    }

    #[test]
    fn a_face_lost_in_the_middle_of_words_is_taken_over_within_a_second() {
        let mut bench = Bench::with_face();
        bench.say(1, 4_000);
        bench.say(2, 1_000);
        bench.run(1_500);
        let (before, at) = (bench.words(1), bench.now);
        bench.provider.alive = false;
        while bench.broken.is_empty() && bench.now < at + Duration::from_secs(3) {
            bench.step();
        }
        assert!(bench.now <= at + Duration::from_millis(900), "{:?}", bench.now - at);
        bench.voice.lost(bench.now);
        bench.carry_out();
        let rest = bench.words(1) + bench.words(2);
        assert!((4_940..=5_060).contains(&rest), "{rest} with {before} before");
        assert_eq!((bench.ends(1), bench.ends(2)), (1, 1));
        let place =
            bench.heard.iter().rev().find(|(_, piece)| piece.utterance == 1).and_then(|(_, p)| p.place);
        let from = u64::from(place.map_or(0, |place| place.from_ms));
        assert!(from.abs_diff(before) <= 40, "goes on at {from} after {before}");
    }

    #[test]
    fn a_face_that_never_says_what_it_is_given_is_given_up() {
        let mut bench = Bench::with_face();
        bench.provider.latency = Duration::from_secs(60);
        bench.say(1, 1_000);
        bench.run(3_900);
        assert!(bench.broken.is_empty());
        bench.run(200);
        assert_eq!(bench.broken, ["it does not say what it is given"]);
    }

    #[test]
    fn a_voice_slower_than_the_face_is_waited_for() {
        let mut bench = Bench::with_face();
        bench.say(1, 400);
        // The rest of the utterance is made a second later.
        let piece =
            |last| Piece { utterance: 2, rate: 8_000, samples: [SOUND; 160].into(), last, place: None };
        for _ in 0..20 {
            bench.voice.say(bench.now, piece(false));
        }
        bench.run(1_800);
        for n in 0..20 {
            bench.voice.say(bench.now, piece(n == 19));
        }
        bench.run(2_500);
        assert!(bench.broken.is_empty(), "{:?}", bench.broken);
        assert!((760..=860).contains(&bench.words(2)), "{}", bench.words(2));
        assert_eq!(bench.ends(2), 1);
    }

    #[test]
    fn the_first_sound_waits_for_pictures_that_come_later() {
        let mut bench = Bench::with_face();
        for n in 0..50 {
            bench.step();
            // Each is 100 ms late.
            let made = MediaTime((20_000 * n - 100_000).max(0));
            bench.voice.handle_picture(bench.now, made);
        }
        bench.say(1, 400);
        bench.run(1_500);
        let first = bench.heard.first().expect("it is heard");
        let made = first.1.place.and_then(|place| place.made).expect("known");
        let waited = first.0.duration_since(bench.epoch).as_micros() as i64 - made.0;
        assert!((100_000..=180_000).contains(&waited), "{waited}");
    }

    #[test]
    fn a_face_that_speaks_by_itself_is_heard_as_utterances_and_can_be_cut() {
        let mut bench = Bench::new();
        bench.voice.ready(&Limits { listens: true, ..Limits::default() });
        let say = |bench: &mut Bench, ms: usize| {
            bench.provider.queue.extend((0..ms / 20).map(|_| (bench.now, true)));
        };
        say(&mut bench, 600);
        bench.run(2_000);
        assert_eq!((bench.words(1), bench.ends(1)), (600, 1));
        bench.voice.handle_speaking(bench.now, 2);
        say(&mut bench, 5_000);
        bench.run(500);
        bench.voice.cut(bench.now, 2);
        let before = bench.words(2);
        bench.run(500);
        assert_eq!((bench.words(2), &bench.provider.interrupted[..]), (before, &[2][..]));
        say(&mut bench, 400);
        bench.run(1_500);
        assert_eq!(bench.words(3), 400);
    }
}
