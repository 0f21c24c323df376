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
    /// After speech without known words the reply goes on after this.
    pub false_interruption_timeout: Duration,
    /// Speech longer than this is no backchannel, whatever its words turn out to be.
    pub backchannel_boundary: Duration,
    /// Backchannels besides the usual ones, in lower case.
    pub backchannels: Vec<String>,
    /// Our voice is turned down from this probability of speech on, and stands still from this one on (or when two
    /// judgements in a row say speech).
    pub duck_threshold: f32,
    pub pause_threshold: f32,
}

impl Default for InterruptionSettings {
    fn default() -> Self {
        InterruptionSettings {
            enabled: true,
            min_duration: Duration::from_millis(500),
            min_words: 0,
            resume_false_interruption: true,
            false_interruption_timeout: Duration::from_secs(2),
            backchannel_boundary: Duration::from_secs(1),
            backchannels: Vec::new(),
            duck_threshold: 0.3,
            pause_threshold: 0.7,
        }
    }
}

/// Speech that does not follow a first sign within this was none.
const DUCK_PATIENCE: Duration = Duration::from_millis(250);
/// Nor does a single judgement make speech.
const PAUSE_PATIENCE: Duration = Duration::from_millis(200);
/// After a loud sound that was no speech, loudness alone does not turn us down again for so long.
const JUMP_REST: Duration = Duration::from_secs(5);
/// Speech shorter than this, without words, is a cough.
const COUGH: Duration = Duration::from_millis(120);

#[derive(Clone, Copy, Debug)]
enum Hold {
    /// The reply is spoken as it is.
    Free,
    Ducked {
        until: Instant,
        by_loudness: bool,
    },
    Paused {
        /// When it goes on by itself; `None`: not while he speaks.
        until: Option<Instant>,
        words: Words,
    },
    /// Given up; what is still played of it is on its way out.
    Given,
}

/// One call's interruptions.
pub struct Interruption {
    settings: InterruptionSettings,
    hold: Hold,
    playing: bool,
    /// Judgements of speech in a row.
    streak: u32,
    rest: Option<Instant>,
    events: VecDeque<Heard>,
}

impl Interruption {
    pub fn new(settings: InterruptionSettings) -> Self {
        Interruption {
            settings,
            hold: Hold::Free,
            playing: false,
            streak: 0,
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
        match self.hold {
            Hold::Free if playing && speaks => self.pause(now),
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

    /// The latest sound is speech with this probability; `spoken`: how long there is speech, zero: there is none.
    pub fn handle_probability(&mut self, now: Instant, probability: f32, activation: f32, spoken: Duration) {
        self.streak = if probability >= activation { self.streak + 1 } else { 0 };
        if matches!(self.hold, Hold::Free | Hold::Ducked { .. }) {
            if !self.playing || !self.settings.enabled {
                return;
            }
            if probability >= self.settings.duck_threshold {
                self.duck(now, false);
            }
            if probability >= self.settings.pause_threshold || self.streak >= 2 {
                self.pause(now);
            }
        }
        let limit = self.limit();
        if let Hold::Paused { until, words } = &mut self.hold {
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
        self.streak = 0;
        let patience = self.settings.false_interruption_timeout;
        match &mut self.hold {
            Hold::Given => self.hold = Hold::Free,
            Hold::Paused { until, words } => {
                let words = *words;
                if words.significant >= self.settings.min_words.max(1) {
                    self.give_up();
                } else if words.is_backchannel() || words.all == 0 && spoken_for < COUGH {
                    self.release(true);
                } else {
                    *until = Some(now + patience);
                }
            }
            Hold::Free | Hold::Ducked { .. } => {}
        }
    }

    /// What he is understood to have said; `last`: for good. `speaks`: he has not ended.
    pub fn handle_words(&mut self, text: &str, last: bool, speaks: bool) {
        let heard = Words::of(text, &self.settings.backchannels);
        let Hold::Paused { words, .. } = &mut self.hold else { return };
        *words = heard;
        let enough = heard.significant >= self.settings.min_words.max(1);
        if enough && (last || !speaks) {
            self.give_up();
        } else if !speaks && (heard.is_backchannel() || last) {
            self.release(true);
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        match self.hold {
            Hold::Ducked { until, by_loudness } if now >= until => {
                if by_loudness {
                    self.rest = Some(now + JUMP_REST);
                }
                self.release(false);
            }
            Hold::Paused { until: Some(until), .. } if now >= until => self.release(true),
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
        if matches!(self.hold, Hold::Free) {
            self.events.push_back(Heard::Duck);
        }
        self.hold = Hold::Ducked { until: now + DUCK_PATIENCE, by_loudness };
    }

    fn pause(&mut self, now: Instant) {
        if self.settings.enabled {
            self.hold = Hold::Paused { until: Some(now + PAUSE_PATIENCE), words: Words::default() };
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
        self.streak = 0;
    }
}
