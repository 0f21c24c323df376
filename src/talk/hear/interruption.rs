//! What becomes of our reply when the caller makes a sound while it is spoken.
//!
//! Pure. Hidden first, judged later: turned down at the first sign, silent and standing still at speech, given up once
//! it is more than a backchannel. What is more: words that say something, or speech longer than any backchannel.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::talk::hear::Heard;
use crate::talk::hear::words::Words;

/// How a caller interrupts.
#[derive(Clone, Debug, PartialEq)]
pub struct InterruptionSettings {
    pub enabled: bool,
    /// Speech of this length with words that say something gives the reply up before the words are final.
    pub min_duration: Duration,
    /// So many such words at least; above 0, speech alone gives nothing up.
    pub min_words: usize,
    /// A reply that stood still for nothing goes on. `false`: `min_duration` of speech gives it up for good.
    pub resume_false_interruption: bool,
    /// After speech without known words the reply goes on after this; after speech as short as backchannels are, sooner
    /// (words that say something still give it up when they come later).
    pub false_interruption_timeout: Duration,
    pub backchannel_timeout: Duration,
    /// Speech longer than this is no backchannel, whatever its words turn out to be.
    pub backchannel_boundary: Duration,
    /// Backchannels besides the usual ones, in lower case.
    pub backchannels: Vec<String>,
    /// Our voice is turned down from this probability of speech on.
    pub duck_threshold: f32,
    /// It stands still from this one on, or from this one when something loud began just before.
    pub pause_threshold: f32,
    pub pause_threshold_loud: f32,
}

impl Default for InterruptionSettings {
    fn default() -> Self {
        InterruptionSettings {
            enabled: true,
            min_duration: Duration::from_millis(500),
            min_words: 0,
            resume_false_interruption: true,
            false_interruption_timeout: Duration::from_secs(2),
            backchannel_timeout: Duration::from_millis(800),
            backchannel_boundary: Duration::from_secs(1),
            backchannels: Vec::new(),
            duck_threshold: 0.3,
            pause_threshold: 0.5,
            pause_threshold_loud: 0.35,
        }
    }
}

/// Speech that does not follow a first sign within this was none.
const DUCK_PATIENCE: Duration = Duration::from_millis(250);
/// A loud sound that lasts for so many blocks makes us stand still before anybody knows what it is: most words begin
/// with sounds no network takes for a voice.
const LOUD_BLOCKS: u32 = 4;
/// Nothing is decided by it, nor by a single judgement: without speech we go on after this.
const PAUSE_PATIENCE: Duration = Duration::from_millis(200);
/// The same where loudness alone began it: the network takes the hiss many words begin with for a voice only late, and
/// a reply that comes back for a moment is heard as one that does not listen.
const LOUD_PATIENCE: Duration = Duration::from_millis(350);
/// After a loud sound that was no speech, loudness alone does not turn us down again for so long.
const JUMP_REST: Duration = Duration::from_secs(5);
/// So short are most backchannels.
const SHORT: Duration = Duration::from_millis(700);
/// What is said so soon after the end of speech was noticed goes on with it.
const GAP: Duration = Duration::from_millis(500);
/// Speech shorter than this, without words, is a cough.
const COUGH: Duration = Duration::from_millis(120);

#[derive(Clone, Copy, Debug)]
enum Hold {
    /// The reply is spoken as it is.
    Free,
    Ducked {
        until: Instant,
        /// Blocks of the loud sound that began it, if one did.
        loud: Option<u32>,
    },
    Paused {
        /// When it goes on by itself; `None`: not while he speaks.
        until: Option<Instant>,
        words: Words,
        /// Nobody but loudness says that this is speech.
        by_loudness: bool,
        /// Speech of this pause that has ended, and when that was noticed.
        earlier: Duration,
        ended: Option<Instant>,
    },
    /// Given up; what is still played of it is on its way out.
    Given,
}

/// One call's interruptions.
pub struct Interruption {
    settings: InterruptionSettings,
    hold: Hold,
    playing: bool,
    /// The reply went on although nobody knows what was said.
    doubt: bool,
    rest: Option<Instant>,
    events: VecDeque<Heard>,
}

impl Interruption {
    pub fn new(settings: InterruptionSettings) -> Self {
        Interruption {
            settings,
            hold: Hold::Free,
            playing: false,
            doubt: false,
            rest: None,
            events: VecDeque::new(),
        }
    }

    /// Whether the reply that is spoken may be interrupted.
    pub fn enable(&mut self, enabled: bool) {
        self.settings.enabled = enabled;
    }

    /// Whether a reply is being spoken, and whether the caller speaks.
    pub fn handle_playing(&mut self, now: Instant, playing: bool, speaks: bool) {
        self.playing = playing;
        self.doubt &= playing;
        match self.hold {
            Hold::Free if playing && speaks => self.pause(now, false),
            Hold::Ducked { .. } | Hold::Given if !playing => self.release(false),
            Hold::Free | Hold::Ducked { .. } | Hold::Paused { .. } | Hold::Given => {}
        }
    }

    /// Something loud began.
    pub fn handle_jump(&mut self, now: Instant) {
        let rested = self.rest.is_none_or(|rest| now >= rest);
        if self.settings.enabled && self.playing && rested && matches!(self.hold, Hold::Free) {
            self.duck(now, true);
        }
    }

    /// It goes on, or does not.
    pub fn handle_loudness(&mut self, now: Instant, is_loud: bool) {
        if let Hold::Ducked { loud: Some(blocks), .. } = &mut self.hold {
            *blocks = if is_loud { *blocks + 1 } else { 0 };
            if *blocks >= LOUD_BLOCKS {
                self.pause(now, true);
            }
        }
    }

    /// The latest sound is speech with this probability; `spoken`: how long there is speech, zero: there is none.
    pub fn handle_probability(&mut self, now: Instant, probability: f32, activation: f32, spoken: Duration) {
        if matches!(self.hold, Hold::Free | Hold::Ducked { .. }) {
            if !self.playing || !self.settings.enabled {
                return;
            }
            if probability >= self.settings.duck_threshold {
                self.duck(now, false);
            }
            let loud = matches!(self.hold, Hold::Ducked { loud: Some(_), .. });
            let enough =
                if loud { self.settings.pause_threshold_loud } else { self.settings.pause_threshold };
            if probability >= enough {
                self.pause(now, false);
            }
        }
        let limit = self.limit();
        if let Hold::Paused { until, words, by_loudness, earlier, ended } = &mut self.hold {
            if !spoken.is_zero() && ended.take().is_some_and(|ended| now > ended + GAP) {
                *earlier = Duration::ZERO;
            }
            let spoken = spoken + *earlier;
            if probability >= self.settings.duck_threshold {
                *by_loudness = false;
            }
            if probability >= activation {
                *until = until.map(|until| until.max(now + PAUSE_PATIENCE));
            }
            let words = *words;
            let said = words.significant >= self.settings.min_words.max(1);
            let long = limit.is_some_and(|limit| spoken >= limit);
            if long || said && spoken >= self.settings.min_duration {
                self.give_up();
            }
        }
    }

    /// The caller speaks beyond doubt, and goes on.
    pub fn handle_speech(&mut self) {
        if let Hold::Paused { until, .. } = &mut self.hold {
            *until = None;
        }
    }

    /// The caller's speech ended after so much of it.
    pub fn handle_end(&mut self, now: Instant, spoken_for: Duration) {
        let InterruptionSettings { false_interruption_timeout, backchannel_timeout, .. } = self.settings;
        match &mut self.hold {
            Hold::Given => self.hold = Hold::Free,
            Hold::Paused { until, words, earlier, ended, .. } => {
                (*earlier, *ended) = (*earlier + spoken_for, Some(now));
                let words = *words;
                let short = *earlier <= SHORT;
                if words.significant >= self.settings.min_words.max(1) {
                    self.give_up();
                } else if words.is_backchannel() || words.all == 0 && spoken_for < COUGH {
                    self.release(true);
                } else {
                    *until = Some(now + if short { backchannel_timeout } else { false_interruption_timeout });
                }
            }
            Hold::Free | Hold::Ducked { .. } => {}
        }
    }

    /// What he is understood to have said; `last`: for good. `speaks`: he has not ended.
    pub fn handle_words(&mut self, text: &str, last: bool, speaks: bool) {
        let heard = Words::of(text, &self.settings.backchannels);
        let enough = heard.significant >= self.settings.min_words.max(1);
        let Hold::Paused { words, .. } = &mut self.hold else {
            if std::mem::take(&mut self.doubt) && enough && last && self.settings.enabled {
                self.give_up();
            }
            return;
        };
        *words = heard;
        if enough && (last || !speaks) {
            self.give_up();
        } else if !speaks && (heard.is_backchannel() || last) {
            self.release(true);
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        match self.hold {
            Hold::Ducked { until, loud } if now >= until => {
                if loud.is_some() {
                    self.rest = Some(now + JUMP_REST);
                }
                self.release(false);
            }
            Hold::Paused { until: Some(until), by_loudness, .. } if now >= until => {
                if by_loudness {
                    self.rest = Some(now + JUMP_REST);
                }
                self.release(true);
                self.doubt = true;
            }
            Hold::Free | Hold::Ducked { .. } | Hold::Paused { .. } | Hold::Given => {}
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match self.hold {
            Hold::Ducked { until, .. } => Some(until),
            Hold::Paused { until, .. } => until,
            Hold::Free | Hold::Given => None,
        }
    }

    pub fn poll(&mut self) -> Option<Heard> {
        self.events.pop_front()
    }

    /// Speech of this length is an interruption by itself.
    fn limit(&self) -> Option<Duration> {
        if self.settings.min_words > 0 {
            return None;
        }
        if !self.settings.resume_false_interruption {
            return Some(self.settings.min_duration);
        }
        let known = matches!(self.hold, Hold::Paused { words, .. } if words.is_backchannel());
        Some(self.settings.backchannel_boundary * if known { 2 } else { 1 })
    }

    fn duck(&mut self, now: Instant, by_loudness: bool) {
        let loud = match self.hold {
            Hold::Ducked { loud, .. } => loud,
            Hold::Free | Hold::Paused { .. } | Hold::Given => {
                self.events.push_back(Heard::Duck);
                by_loudness.then_some(1)
            }
        };
        self.hold = Hold::Ducked { until: now + DUCK_PATIENCE, loud };
    }

    fn pause(&mut self, now: Instant, by_loudness: bool) {
        if self.settings.enabled {
            self.doubt = false;
            let until = Some(now + if by_loudness { LOUD_PATIENCE } else { PAUSE_PATIENCE });
            let (words, earlier) = (Words::default(), Duration::ZERO);
            self.hold = Hold::Paused { until, words, by_loudness, earlier, ended: None };
            self.events.push_back(Heard::Pause);
        }
    }

    fn give_up(&mut self) {
        self.hold = Hold::Given;
        self.events.push_back(Heard::Interrupt);
    }

    fn release(&mut self, false_interruption: bool) {
        if !matches!(self.hold, Hold::Given) {
            self.events.push_back(Heard::Resume { false_interruption });
        }
        self.hold = Hold::Free;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 32 ms of a caller, while a reply is spoken.
    struct Bench {
        interruption: Interruption,
        start: Instant,
        ms: u64,
        spoken: u64,
        log: Vec<(u64, Heard)>,
    }

    impl Bench {
        fn new(change: impl FnOnce(&mut InterruptionSettings)) -> Self {
            let mut settings = InterruptionSettings::default();
            change(&mut settings);
            let mut interruption = Interruption::new(settings);
            let start = Instant::now();
            interruption.handle_playing(start, true, false);
            Bench { interruption, start, ms: 0, spoken: 0, log: Vec::new() }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_millis(self.ms)
        }

        fn fetch(&mut self) {
            while let Some(event) = self.interruption.poll() {
                self.log.push((self.ms, event));
            }
        }

        fn windows(&mut self, count: u64, probability: f32) {
            for _ in 0..count {
                self.ms += 32;
                self.interruption.handle_time(self.now());
                self.spoken = if probability >= 0.5 { self.spoken + 32 } else { 0 };
                let spoken = Duration::from_millis(self.spoken);
                self.interruption.handle_probability(self.now(), probability, 0.5, spoken);
                if self.spoken > 50 {
                    self.interruption.handle_speech();
                }
                self.fetch();
            }
        }

        /// The speech ended, known a quarter of a second later.
        fn end(&mut self) {
            let spoken = Duration::from_millis(self.spoken);
            self.windows(8, 0.05);
            self.interruption.handle_end(self.now(), spoken);
            self.fetch();
        }

        fn words(&mut self, text: &str, last: bool, speaks: bool) {
            self.interruption.handle_words(text, last, speaks);
            self.fetch();
        }

        fn wait(&mut self, ms: u64) {
            let end = self.ms + ms;
            while let Some(wake) = self.interruption.wake_at() {
                let at = (wake - self.start).as_millis() as u64;
                if at > end {
                    break;
                }
                self.ms = self.ms.max(at);
                self.interruption.handle_time(self.now());
                self.fetch();
            }
            self.ms = end;
        }

        fn events(&self) -> Vec<Heard> {
            self.log.iter().map(|(_, event)| *event).collect()
        }
    }

    const FALSE: Heard = Heard::Resume { false_interruption: true };
    const LOUDER: Heard = Heard::Resume { false_interruption: false };

    #[test]
    fn long_speech_silences_at_once_and_gives_up_after_a_second() {
        let mut bench = Bench::new(|_| {});
        bench.windows(40, 0.9);
        assert_eq!(bench.log, [(32, Heard::Duck), (32, Heard::Pause), (1_024, Heard::Interrupt)]);
    }

    #[test]
    fn a_sign_that_leads_nowhere_turns_us_up_again() {
        let mut bench = Bench::new(|_| {});
        bench.windows(1, 0.4);
        bench.windows(10, 0.05);
        assert_eq!(bench.log, [(32, Heard::Duck), (288, LOUDER)]);
    }

    #[test]
    fn a_backchannel_is_known_by_its_words_and_a_command_too() {
        let mut bench = Bench::new(|_| {});
        bench.windows(12, 0.9);
        bench.end();
        bench.words("Mm-hmm.", true, false);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause, FALSE]);

        let mut bench = Bench::new(|_| {});
        bench.windows(12, 0.9);
        bench.end();
        bench.words("stop", true, false);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause, Heard::Interrupt]);

        // Words that come while he speaks count once he has spoken long enough for them.
        let mut bench = Bench::new(|_| {});
        bench.windows(5, 0.9);
        bench.words("wait a", false, true);
        bench.windows(20, 0.9);
        assert_eq!(bench.log[2], (512, Heard::Interrupt));
    }

    #[test]
    fn what_nobody_understands_is_forgotten_after_two_seconds_and_sooner_if_it_was_short() {
        let mut bench = Bench::new(|_| {});
        bench.windows(12, 0.9);
        bench.end();
        bench.wait(900);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause, FALSE]);
        // It was a word after all.
        bench.words("stop", true, false);
        assert_eq!(bench.events().last(), Some(&Heard::Interrupt));

        let mut bench = Bench::new(|_| {});
        bench.windows(25, 0.9);
        bench.end();
        bench.wait(1_900);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause]);
        bench.wait(200);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause, FALSE]);
    }

    #[test]
    fn two_pieces_of_one_sentence_are_one_interruption_and_two_backchannels_are_none() {
        let mut bench = Bench::new(|_| {});
        bench.windows(20, 0.9);
        bench.end();
        bench.windows(20, 0.9);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause, Heard::Interrupt]);

        let mut bench = Bench::new(|_| {});
        bench.windows(20, 0.9);
        bench.end();
        bench.windows(17, 0.05);
        bench.windows(20, 0.9);
        bench.end();
        assert!(!bench.events().contains(&Heard::Interrupt), "{:?}", bench.log);
    }

    #[test]
    fn known_backchannels_may_take_twice_as_long() {
        let mut bench = Bench::new(|_| {});
        bench.windows(10, 0.9);
        bench.words("yeah okay", false, true);
        bench.windows(40, 0.9);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause]);
        bench.windows(20, 0.9);
        assert_eq!(bench.events(), [Heard::Duck, Heard::Pause, Heard::Interrupt]);
    }

    #[test]
    fn a_loud_sound_that_lasts_makes_us_wait_once_and_not_again_soon() {
        let mut bench = Bench::new(|_| {});
        let bang = |bench: &mut Bench| {
            let before = bench.log.len();
            for block in 0..10 {
                if block == 0 {
                    bench.interruption.handle_jump(bench.now());
                }
                bench.interruption.handle_loudness(bench.now(), true);
                bench.fetch();
                bench.wait(20);
            }
            bench.wait(300);
            bench.log[before..].iter().map(|(_, event)| *event).collect::<Vec<_>>()
        };
        assert_eq!(bang(&mut bench), [Heard::Duck, Heard::Pause, FALSE]);
        assert!(bang(&mut bench).is_empty());
        bench.wait(5_000);
        assert_eq!(bang(&mut bench).len(), 3);
    }

    #[test]
    fn the_settings_are_obeyed() {
        let mut off = Bench::new(|settings| settings.enabled = false);
        off.windows(60, 0.9);
        assert!(off.log.is_empty());

        let mut words = Bench::new(|settings| settings.min_words = 2);
        words.windows(60, 0.9);
        words.words("stop", false, true);
        words.windows(5, 0.9);
        assert_eq!(words.events(), [Heard::Duck, Heard::Pause]);
        words.words("stop it now", false, true);
        words.windows(5, 0.9);
        assert_eq!(words.events(), [Heard::Duck, Heard::Pause, Heard::Interrupt]);

        let mut strict = Bench::new(|settings| settings.resume_false_interruption = false);
        strict.windows(30, 0.9);
        assert_eq!(strict.log[2], (512, Heard::Interrupt));
    }

    #[test]
    fn a_reply_that_begins_while_he_speaks_waits() {
        let mut bench = Bench::new(|_| {});
        bench.interruption.handle_playing(bench.now(), false, false);
        bench.windows(5, 0.9);
        assert!(bench.log.is_empty());
        bench.interruption.handle_playing(bench.now(), true, true);
        bench.windows(30, 0.9);
        assert_eq!(bench.events(), [Heard::Pause, Heard::Interrupt]);
    }

    #[test]
    fn a_reply_that_ends_is_not_held_any_more() {
        let mut bench = Bench::new(|_| {});
        bench.windows(1, 0.4);
        bench.interruption.handle_playing(bench.now(), false, false);
        bench.fetch();
        assert_eq!(bench.events(), [Heard::Duck, LOUDER]);
        assert_eq!(bench.interruption.wake_at(), None);
    }
}
