//! Who has the floor: when the caller speaks, pauses, has finished, wants to interrupt, or only says "mhm".
//!
//! Pure. Sound goes in as it is heard, with the level of what we send meanwhile; judgements of it come from two
//! networks that run elsewhere (`worker::ears`), or from its energy while they do not. Out comes [`Heard`]. What is
//! done about it (asking models, stopping the voice) belongs to the conversation.
//!
//! ```text
//! block ─ enhance ─┬─▶ copy for the networks and the transcriber
//!                  └─ history (pre-roll)          judgement ─ echo gate ─ voice ─┬─ turn ─────────▶ AskFinished, TurnEnded
//!  level of ours ─ echo                                            transcript ───┴─ interruption ─▶ Duck, Pause, Interrupt, Resume
//! ```
//!
//! **Interrupting.** A caller must be able to stop us in a tenth of a second, and a "mhm" must not. No sound says in so
//! short a time which of the two it is, so the reply is only hidden at first: turned down at the first sign, silent and
//! standing still as soon as it is speech, and given up once it is known to be more than a backchannel, by its words or
//! by its length. Otherwise it goes on where it stood.

mod echo;
mod energy;
mod enhance;
mod history;
mod interruption;
mod turn;
mod voice;
mod words;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use crate::media::audio::Judgement;

use crate::codec::resample::Resampler;
use crate::talk::hear::echo::EchoGate;
use crate::talk::hear::energy::Energy;
use crate::talk::hear::enhance::Enhance;
use crate::talk::hear::history::History;
use crate::talk::hear::interruption::Interruption;
use crate::talk::hear::turn::Turn;
use crate::talk::hear::voice::{Change, Voice};

pub use crate::talk::hear::echo::EchoSettings;
pub use crate::talk::hear::interruption::InterruptionSettings;
pub use crate::talk::hear::turn::{EndpointingMode, EndpointingSettings, Turns};
pub use crate::talk::hear::voice::VoiceSettings;

/// Events not fetched beyond this many: oldest out.
const EVENTS_MAX: usize = 64;
/// The longest wait that pauses are shortened by: two packets.
const WAIT_MAX: Duration = Duration::from_millis(40);
/// A network that is so far behind the sound is as good as gone.
const JUDGE_LAG: Duration = Duration::from_millis(400);

/// How a caller is listened to.
#[derive(Clone, Debug, PartialEq)]
pub struct HearingSettings {
    /// Hz of every block.
    pub rate: u32,
    pub voice: VoiceSettings,
    pub endpointing: EndpointingSettings,
    pub interruption: InterruptionSettings,
    pub echo: EchoSettings,
    /// Noise is taken out of the copy that is listened to; a quiet voice is brought up in it.
    pub noise: bool,
    pub agc: bool,
}

impl HearingSettings {
    pub fn new(rate: u32) -> Self {
        HearingSettings {
            rate,
            voice: VoiceSettings::default(),
            endpointing: EndpointingSettings::default(),
            interruption: InterruptionSettings::default(),
            echo: EchoSettings::default(),
            noise: false,
            agc: true,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Heard {
    /// The caller speaks, since `at`. [`Hearing::pre_roll`] has the sound from before that.
    SpeechStarted { at: Instant },
    /// The caller is silent since `at`, after having spoken for `spoken_for`.
    SpeechEnded { at: Instant, spoken_for: Duration },
    /// The network that knows ends of turns is to be asked about what was heard so far
    /// (`worker::ears::Listener::ask_finished`); `spoken`: how long the turn is by now, with its pre-roll.
    AskFinished { spoken: Duration },
    /// The caller's turn is over, `waited` after the last sound of it.
    TurnEnded { waited: Duration },
    /// Our voice should be turned down by 15 dB.
    Duck,
    /// Our voice should be silent and stand still; nothing of the reply is thrown away.
    Pause,
    /// The reply is given up; what has not been heard of it never will be.
    Interrupt,
    /// Our voice goes on at its full level. `false_interruption`: it stood still, for nothing.
    Resume { false_interruption: bool },
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HearingFigures {
    pub blocks: u64,
    /// Blocks judged by their energy because the network was gone or late.
    pub blocks_by_energy: u64,
    /// Times the network went away or fell behind.
    pub judges_lost: u64,
    /// Judgements not counted as speech because our own echo explains them.
    pub echoes: u64,
    pub turns: u64,
    /// Ends of turns decided without an answer of the network that was asked.
    pub unanswered: u64,
    pub ducks: u64,
    pub pauses: u64,
    pub interruptions: u64,
    pub false_interruptions: u64,
    /// Events nobody fetched.
    pub events_lost: u64,
}

/// One caller's ears.
pub struct Hearing {
    /// Hz of the copy.
    rate: u32,
    /// `None`: sound comes at the copy's rate.
    resampler: Option<Resampler>,
    plain: Vec<i16>,
    enhance: Enhance,
    copy: Vec<i16>,
    /// The last judgement.
    probability: f32,
    prefix: u64,
    history: History,
    energy: Energy,
    echo: EchoGate,
    voice: Voice,
    turn: Turn,
    interruption: Interruption,
    /// Samples heard, and when the last of them came.
    heard: u64,
    last_block: Option<Instant>,
    /// How long sound waits between its arrival and this ear.
    wait: Duration,
    /// Up to where sound has been judged.
    judged: u64,
    judge: Judge,
    figures: HearingFigures,
    events: VecDeque<Heard>,
}

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    Network,
    Energy,
}

/// What the networks take without another conversion.
fn copy_rate(rate: u32) -> u32 {
    if rate == 8_000 { 8_000 } else { 16_000 }
}

/// A moment in samples and on the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    rate: u32,
    heard: u64,
    at: Instant,
}

impl Moments {
    /// When the sample at `position` was heard.
    fn of(&self, position: u64) -> Instant {
        let since = samples_time(self.heard.saturating_sub(position), self.rate);
        self.at.checked_sub(since).unwrap_or(self.at)
    }
}

fn samples_time(samples: u64, rate: u32) -> Duration {
    Duration::from_nanos(samples.saturating_mul(1_000_000_000) / u64::from(rate.max(1)))
}

fn time_samples(time: Duration, rate: u32) -> u64 {
    (time.as_micros() as u64).saturating_mul(u64::from(rate)) / 1_000_000
}

impl Hearing {
    pub fn new(settings: HearingSettings) -> Self {
        let HearingSettings { rate: of_sound, voice, endpointing, interruption, echo, noise, agc } = settings;
        let rate = copy_rate(of_sound);
        // Rates beyond all sense are taken as they are: nothing in them would be speech.
        let resampler = if rate == of_sound { None } else { Resampler::new(of_sound, rate).ok() };
        let prefix = time_samples(voice.prefix_padding, rate);
        // The onset is told late by what it takes to be sure of it.
        let kept = prefix + u64::from(rate);
        Hearing {
            rate,
            resampler,
            plain: Vec::new(),
            enhance: Enhance::new(rate, noise, agc),
            copy: Vec::new(),
            probability: 0.0,
            prefix,
            history: History::new(kept as usize),
            energy: Energy::default(),
            echo: EchoGate::new(echo, rate),
            voice: Voice::new(&voice, rate),
            turn: Turn::new(endpointing),
            interruption: Interruption::new(interruption),
            heard: 0,
            last_block: None,
            wait: Duration::ZERO,
            judged: 0,
            judge: Judge::Network,
            figures: HearingFigures::default(),
            events: VecDeque::new(),
        }
    }

    /// The caller's sound as it is heard, normally in blocks of 20 ms. `playing`: a reply is being spoken, and this is
    /// the level in dBFS of what we sent during this block (-100 in a pause between its words); `None`: no reply.
    ///
    /// The result is the copy for [`Judgement`]s and transcribers, at [`Hearing::copy_rate`].
    pub fn handle_block(&mut self, now: Instant, block: &[i16], playing: Option<f32>) -> &[i16] {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        match &mut self.resampler {
            // It fails for rates it was not made for only.
            Some(resampler) => resampler.process(block, &mut plain).unwrap_or_default(),
            None => plain.extend_from_slice(block),
        }
        self.hear(now, &plain, playing);
        self.plain = plain;
        &self.copy
    }

    fn hear(&mut self, now: Instant, block: &[i16], playing: Option<f32>) {
        let from = self.heard;
        self.heard += block.len() as u64;
        self.last_block = Some(now);
        self.figures.blocks += 1;
        let level = self.energy.handle_block(block, from, self.voice.is_speaking());
        self.echo.handle_block(self.heard, level, playing);
        if self.enhance.does_nothing() {
            self.copy.clear();
            self.copy.extend_from_slice(block);
        } else {
            let noise = self.energy.noise();
            self.enhance.process(block, self.probability, noise, &mut self.copy);
        }
        self.history.push(&self.copy);
        let playing = playing.is_some();
        self.interruption.handle_playing(now, playing, self.voice.is_speaking());
        let loud = playing && self.energy.is_loud() && self.echo.passes(from, self.heard, false);
        if loud && self.energy.has_jumped() {
            self.interruption.handle_jump(now);
        }
        self.interruption.handle_loudness(now, loud);
        if self.judge == Judge::Network && self.heard - self.judged > time_samples(JUDGE_LAG, self.rate) {
            self.lose_judge(now);
        }
        if self.judge == Judge::Energy {
            self.figures.blocks_by_energy += 1;
            self.judge(now, self.energy.probability(), self.heard);
        }
        self.collect();
    }

    /// How long sound waits between its arrival and [`Hearing::handle_block`]: the caller spoke, and fell silent, so much
    /// earlier. Counted up to [`WAIT_MAX`]; what has arrived and was not heard yet may be speech.
    pub fn set_wait(&mut self, wait: Duration) {
        self.wait = wait.min(WAIT_MAX);
    }

    /// Hz of the copy: 8000 for sound of 8000 Hz, 16000 for all other.
    pub fn copy_rate(&self) -> u32 {
        self.rate
    }

    pub fn handle_judgement(&mut self, now: Instant, judgement: Judgement) {
        match judgement {
            // A position not heard yet is nonsense.
            Judgement::Speech { until, .. } if until > self.heard => {}
            Judgement::Speech { probability, until } => {
                if self.heard - until <= time_samples(JUDGE_LAG, self.rate) / 2 {
                    self.judge = Judge::Network;
                }
                // What energy has judged already stays judged.
                if until > self.judged && self.judge == Judge::Network {
                    self.judge(now, probability, until);
                }
            }
            Judgement::Finished { probability, until } => {
                if self.moments(now).of(until) >= self.turn.silent_since().unwrap_or(now) {
                    self.turn.handle_answer(now, probability);
                }
            }
            Judgement::Unanswered => self.turn.handle_no_answer(now),
            Judgement::Gone => self.lose_judge(now),
        }
        self.collect();
    }

    /// What the caller is understood to have said since the last onset; `last`: it will not change any more.
    pub fn handle_transcript(&mut self, text: &str, last: bool) {
        self.interruption.handle_words(text, last, self.voice.is_speaking());
        self.collect();
    }

    pub fn handle_time(&mut self, now: Instant) {
        self.turn.handle_time(now);
        self.interruption.handle_time(now);
        self.collect();
    }

    /// When [`Hearing::handle_time`] has something to do.
    pub fn wake_at(&self) -> Option<Instant> {
        [self.turn.wake_at(), self.interruption.wake_at()].into_iter().flatten().min()
    }

    pub fn poll(&mut self) -> Option<Heard> {
        self.events.pop_front()
    }

    /// The turn ends here because somebody says so, spoken out or not.
    pub fn commit_turn(&mut self, now: Instant) {
        self.turn.commit(now);
        self.collect();
    }

    /// What was said since the last turn is forgotten.
    pub fn clear_turn(&mut self) {
        self.turn.clear();
    }

    /// Whether the reply that is being spoken may be interrupted; it may unless said otherwise.
    pub fn allow_interruptions(&mut self, allowed: bool) {
        self.interruption.enable(allowed);
    }

    pub fn is_speaking(&self) -> bool {
        self.voice.is_speaking()
    }

    pub fn figures(&self) -> HearingFigures {
        self.figures
    }

    /// Replaces `into` by the copy of the sound from before the last onset (`prefix_padding` of it) up to now.
    pub fn pre_roll(&self, into: &mut Vec<i16>) {
        let from = self.voice.onset().unwrap_or(self.heard).saturating_sub(self.prefix);
        self.history.last((self.heard - from) as usize, into);
    }

    fn moments(&self, now: Instant) -> Moments {
        let at = self.last_block.unwrap_or(now);
        Moments { rate: self.rate, heard: self.heard, at: at.checked_sub(self.wait).unwrap_or(at) }
    }

    fn lose_judge(&mut self, now: Instant) {
        if self.judge == Judge::Network {
            self.judge = Judge::Energy;
            self.judged = self.heard;
            self.figures.judges_lost += 1;
            self.turn.handle_no_answer(now);
        }
    }

    fn judge(&mut self, now: Instant, probability: f32, until: u64) {
        let from = std::mem::replace(&mut self.judged, until);
        let mut probability = if probability.is_finite() { probability.clamp(0.0, 1.0) } else { 0.0 };
        if !self.echo.passes(from, until, self.voice.is_speaking()) {
            self.figures.echoes += u64::from(probability >= self.voice.activation());
            probability = 0.0;
        }
        self.probability = probability;
        let moments = self.moments(now);
        let change = self.voice.judge(probability, from, until, self.energy.last_loud());
        let spoken = samples_time(self.voice.spoken(), self.rate);
        self.interruption.handle_probability(now, probability, self.voice.activation(), spoken);
        if self.voice.is_speaking() {
            self.interruption.handle_speech();
        }
        match change {
            Some(Change::Started { at }) => {
                let at = moments.of(at);
                self.turn.handle_start(at);
                self.tell(Heard::SpeechStarted { at });
            }
            Some(Change::Ended { at, samples }) => {
                let spoken_for = samples_time(samples, self.rate);
                let at = moments.of(at);
                self.tell(Heard::SpeechEnded { at, spoken_for });
                self.turn.handle_end(now, at);
                self.interruption.handle_end(now, spoken_for);
            }
            None => {
                if let Some(silent) = self.voice.silent_since() {
                    self.turn.handle_silence(now, moments.of(silent), moments.of(until));
                } else if self.voice.is_speaking() {
                    self.turn.handle_speech();
                }
            }
        }
    }

    /// Brings the parts' own events into one order.
    fn collect(&mut self) {
        while let Some(event) = self.interruption.poll().or_else(|| self.turn.poll()) {
            let prefix = samples_time(self.prefix, self.rate);
            self.tell(match event {
                Heard::AskFinished { spoken } => Heard::AskFinished { spoken: spoken + prefix },
                Heard::SpeechStarted { .. }
                | Heard::SpeechEnded { .. }
                | Heard::TurnEnded { .. }
                | Heard::Duck
                | Heard::Pause
                | Heard::Interrupt
                | Heard::Resume { .. } => event,
            });
        }
    }

    fn tell(&mut self, event: Heard) {
        match event {
            Heard::Duck => self.figures.ducks += 1,
            Heard::Pause => self.figures.pauses += 1,
            Heard::Interrupt => self.figures.interruptions += 1,
            Heard::Resume { false_interruption: true } => self.figures.false_interruptions += 1,
            Heard::TurnEnded { .. } => {
                self.figures.turns += 1;
                self.figures.unanswered = self.turn.unanswered();
            }
            Heard::SpeechStarted { .. }
            | Heard::SpeechEnded { .. }
            | Heard::AskFinished { .. }
            | Heard::Resume { .. } => {}
        }
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.figures.events_lost += 1;
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of 20 ms at 8 kHz, too quiet for a voice, each judged at once unless `judged` is `None`.
    fn blocks(hearing: &mut Hearing, at: &mut Instant, count: u64, judged: Option<f32>) -> Vec<Heard> {
        let mut events = Vec::new();
        for _ in 0..count {
            *at += Duration::from_millis(20);
            hearing.handle_block(*at, &[50; 160], None);
            if let Some(probability) = judged {
                let until = hearing.heard;
                hearing.handle_judgement(*at, Judgement::Speech { probability, until });
            }
            hearing.handle_time(*at);
            events.extend(std::iter::from_fn(|| hearing.poll()));
        }
        events
    }

    #[test]
    fn a_network_that_went_away_is_believed_again_when_it_is_back() {
        let (mut hearing, mut at) = (Hearing::new(HearingSettings::new(8_000)), Instant::now());
        assert!(blocks(&mut hearing, &mut at, 50, Some(0.1)).is_empty());
        // Energy hears nothing in it, whatever the network last said.
        assert!(blocks(&mut hearing, &mut at, 50, None).is_empty());
        let figures = hearing.figures();
        assert!(figures.judges_lost == 1 && figures.blocks_by_energy >= 29, "{figures:?}");
        let events = blocks(&mut hearing, &mut at, 20, Some(0.9));
        assert!(matches!(events[0], Heard::SpeechStarted { .. }), "{events:?}");
        assert_eq!(
            hearing.figures().blocks_by_energy,
            figures.blocks_by_energy + 1,
            "the one before it was back"
        );
        // Told that it is gone, nobody waits for it to be late.
        hearing.handle_judgement(at, Judgement::Gone);
        let events = blocks(&mut hearing, &mut at, 20, None);
        let ended = events.iter().filter(|event| matches!(event, Heard::SpeechEnded { .. })).count();
        assert_eq!(ended, 1, "{events:?}");
    }

    #[test]
    fn a_pause_counts_from_when_its_sound_arrived() {
        let turn_over = |wait_ms: u64| {
            let mut settings = HearingSettings::new(8_000);
            settings.endpointing.model = false;
            let (mut hearing, start) = (Hearing::new(settings), Instant::now());
            let mut at = start;
            hearing.set_wait(Duration::from_millis(wait_ms));
            hearing.handle_judgement(at, Judgement::Gone);
            let mut over = None;
            for number in 0..200_u64 {
                at += Duration::from_millis(20);
                let level = if (50..100).contains(&number) { 8_000 } else { 0 };
                let block: Vec<i16> = (0..160).map(|n| if n / 8 % 2 == 0 { level } else { -level }).collect();
                hearing.handle_block(at, &block, None);
                while let Some(wake) = hearing.wake_at().filter(|wake| *wake < at + Duration::from_millis(20))
                {
                    hearing.handle_time(wake);
                    let ended = |event| matches!(event, Heard::TurnEnded { .. });
                    if std::iter::from_fn(|| hearing.poll()).any(ended) {
                        over.get_or_insert(wake - start);
                    }
                }
            }
            over.expect("the turn ends")
        };
        assert_eq!(turn_over(0) - turn_over(30), Duration::from_millis(30));
        assert_eq!(turn_over(0) - turn_over(500), WAIT_MAX, "what is on its way is not lost from sight");
    }

    #[test]
    fn judgements_that_make_no_sense_change_nothing() {
        let (mut hearing, mut at) = (Hearing::new(HearingSettings::new(8_000)), Instant::now());
        blocks(&mut hearing, &mut at, 10, Some(0.0));
        for until in [0, 1, u64::MAX, 1_000_000] {
            hearing.handle_judgement(at, Judgement::Speech { probability: 1.0, until });
            hearing.handle_judgement(at, Judgement::Finished { probability: f32::NAN, until });
        }
        hearing.handle_judgement(at, Judgement::Unanswered);
        for _ in 0..5 {
            assert!(blocks(&mut hearing, &mut at, 1, Some(f32::NAN)).is_empty());
        }
        assert!(!hearing.is_speaking() && hearing.wake_at().is_none());
    }

    #[test]
    fn events_nobody_fetches_are_bounded() {
        let (mut hearing, at) = (Hearing::new(HearingSettings::new(8_000)), Instant::now());
        (0..200).for_each(|_| hearing.commit_turn(at));
        assert_eq!(hearing.figures().events_lost, 200 - EVENTS_MAX as u64);
        assert_eq!(std::iter::from_fn(|| hearing.poll()).count(), EVENTS_MAX);
    }
}
