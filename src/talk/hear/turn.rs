//! When the caller has finished: silence, what the end-of-turn network says of it, and how this caller pauses.
//!
//! Pure. The names and defaults are those of the field: `min_delay` after a turn that sounds finished, `max_delay`
//! after one that does not; `dynamic` learns both from the caller's own pauses.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::talk::hear::Heard;

/// Who says that a turn is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turns {
    /// We do.
    #[default]
    Automatic,
    /// Somebody else, by `commit_turn`.
    Manual,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointingMode {
    #[default]
    Fixed,
    /// The delays follow the caller's pauses, within the configured ones.
    Dynamic,
}

/// How long is waited after the last sound.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointingSettings {
    pub turns: Turns,
    pub mode: EndpointingMode,
    /// After a turn that sounds finished. `None`: 0.3 s with the network, 0.5 s without.
    pub min_delay: Option<Duration>,
    /// After one that does not. `None`: 2.5 s with the network, 3 s without.
    pub max_delay: Option<Duration>,
    /// How much of the old a learnt delay keeps at each pause, 0 to 1.
    pub alpha: f64,
    /// There is a network to ask.
    pub model: bool,
    /// From this probability on a turn sounds finished.
    pub threshold: f32,
    /// It is asked after so much silence, while the rest of the delay runs.
    pub ask_after: Duration,
    /// Its answer is waited for so long.
    pub model_timeout: Duration,
}

impl Default for EndpointingSettings {
    fn default() -> Self {
        EndpointingSettings {
            turns: Turns::Automatic,
            mode: EndpointingMode::Fixed,
            min_delay: None,
            max_delay: None,
            alpha: 0.9,
            model: true,
            threshold: 0.5,
            ask_after: Duration::from_millis(150),
            model_timeout: Duration::from_secs(1),
        }
    }
}

/// How finished the turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Asked, no answer yet.
    Pending {
        asked: Instant,
    },
    Finished,
    Unfinished,
    /// There is nobody to ask, or no answer came.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing was said since the last turn.
    Idle,
    Speaking,
    Silent {
        since: Instant,
        verdict: Option<Verdict>,
        /// Long enough to count as the end of speech.
        ended: bool,
    },
}

/// One caller's turns.
pub struct Turn {
    settings: EndpointingSettings,
    /// The network answered when it was asked last, or was not asked yet.
    answers: bool,
    state: State,
    /// When the present turn began.
    onset: Option<Instant>,
    /// The last sound of the turn before.
    last_end: Option<Instant>,
    /// Learnt, in seconds: pauses within turns, and between turns.
    within: Option<f64>,
    between: Option<f64>,
    unanswered: u64,
    events: VecDeque<Heard>,
}

impl Turn {
    pub fn new(settings: EndpointingSettings) -> Self {
        let answers = settings.model;
        Turn {
            settings,
            answers,
            state: State::Idle,
            onset: None,
            last_end: None,
            within: None,
            between: None,
            unanswered: 0,
            events: VecDeque::new(),
        }
    }

    /// Speech began at `at`.
    pub fn handle_start(&mut self, at: Instant) {
        let limit = self.limits().1;
        if let State::Silent { since, .. } = self.state {
            self.learn_within(at.saturating_duration_since(since));
        } else if let Some(end) = self.last_end.take() {
            let pause = at.saturating_duration_since(end);
            // He went on where we thought he had finished.
            if pause <= limit { self.learn_within(pause) } else { self.learn_between(pause) }
        }
        self.onset.get_or_insert(at);
        self.state = State::Speaking;
    }

    /// Speech goes on; a silence before was too short to end it.
    pub fn handle_speech(&mut self) {
        if let State::Silent { ended: false, .. } = self.state {
            self.state = State::Speaking;
        }
    }

    /// Silence since `since`, heard up to `until`, not long enough yet to end the speech.
    pub fn handle_silence(&mut self, now: Instant, since: Instant, until: Instant) {
        if !matches!(self.state, State::Silent { .. }) {
            self.state = State::Silent { since, verdict: None, ended: false };
        }
        if until.saturating_duration_since(since) >= self.settings.ask_after {
            self.ask(now);
        }
    }

    /// The speech ended at `at`.
    pub fn handle_end(&mut self, now: Instant, at: Instant) {
        match &mut self.state {
            State::Silent { ended, .. } => *ended = true,
            State::Idle | State::Speaking => {
                self.state = State::Silent { since: at, verdict: None, ended: true };
            }
        }
        self.ask(now);
        self.handle_time(now);
    }

    /// The network says how likely the speaker had finished.
    pub fn handle_answer(&mut self, now: Instant, probability: f32) {
        self.answers = true;
        let threshold = self.settings.threshold;
        if let State::Silent { verdict: Some(verdict @ Verdict::Pending { .. }), .. } = &mut self.state {
            *verdict = if probability >= threshold { Verdict::Finished } else { Verdict::Unfinished };
            self.handle_time(now);
        }
    }

    /// The network was asked, and nobody can say.
    pub fn handle_no_answer(&mut self, now: Instant) {
        if let State::Silent { verdict: Some(verdict @ Verdict::Pending { .. }), .. } = &mut self.state {
            self.unanswered += 1;
            self.answers = false;
            *verdict = Verdict::Unknown;
            self.handle_time(now);
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        if let State::Silent { verdict: Some(verdict), .. } = &mut self.state
            && let Verdict::Pending { asked } = *verdict
            && now >= asked + self.settings.model_timeout
        {
            self.unanswered += 1;
            self.answers = false;
            *verdict = Verdict::Unknown;
        }
        if let (Some(due), State::Silent { since, .. }) = (self.due(), self.state)
            && now >= due
        {
            self.end(now.saturating_duration_since(since), since);
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Silent { verdict: Some(Verdict::Pending { asked }), .. } => {
                Some(asked + self.settings.model_timeout)
            }
            State::Idle | State::Speaking | State::Silent { .. } => self.due(),
        }
    }

    /// The turn ends now.
    pub fn commit(&mut self, now: Instant) {
        match self.state {
            State::Silent { since, .. } => self.end(now.saturating_duration_since(since), since),
            State::Idle | State::Speaking => self.end(Duration::ZERO, now),
        }
    }

    /// What was said is forgotten.
    pub fn clear(&mut self) {
        self.state = State::Idle;
        self.onset = None;
    }

    /// Since when the caller is silent, with something said before.
    pub fn silent_since(&self) -> Option<Instant> {
        match self.state {
            State::Silent { since, .. } => Some(since),
            State::Idle | State::Speaking => None,
        }
    }

    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    pub fn poll(&mut self) -> Option<Heard> {
        self.events.pop_front()
    }

    fn ask(&mut self, now: Instant) {
        let wanted = self.settings.model && self.settings.turns == Turns::Automatic;
        let spoken = self.onset.map_or(Duration::ZERO, |onset| now.saturating_duration_since(onset));
        if let State::Silent { verdict: verdict @ None, .. } = &mut self.state {
            if wanted {
                *verdict = Some(Verdict::Pending { asked: now });
                self.events.push_back(Heard::AskFinished { spoken });
            } else {
                *verdict = Some(Verdict::Unknown);
            }
        }
    }

    fn end(&mut self, waited: Duration, last_sound: Instant) {
        self.state = State::Idle;
        self.onset = None;
        self.last_end = Some(last_sound);
        self.events.push_back(Heard::TurnEnded { waited });
    }

    /// When the turn is over, if nothing more is said and the network has answered.
    fn due(&self) -> Option<Instant> {
        let State::Silent { since, verdict: Some(verdict), ended: true } = self.state else { return None };
        if self.settings.turns == Turns::Manual {
            return None;
        }
        match verdict {
            Verdict::Pending { .. } => None,
            Verdict::Finished | Verdict::Unknown => Some(since + self.delays().0),
            Verdict::Unfinished => Some(since + self.delays().1),
        }
    }

    /// The configured delays.
    fn limits(&self) -> (Duration, Duration) {
        let usual = if self.answers { (300, 2_500) } else { (500, 3_000) };
        let min = self.settings.min_delay.unwrap_or(Duration::from_millis(usual.0));
        let max = self.settings.max_delay.unwrap_or(Duration::from_millis(usual.1));
        (min, max.max(min))
    }

    /// The delays in use.
    fn delays(&self) -> (Duration, Duration) {
        let (min, max) = self.limits();
        let learnt = |value: Option<f64>, usual: Duration| {
            let value = value.map_or(usual, Duration::from_secs_f64);
            value.clamp(min, max)
        };
        match self.settings.mode {
            EndpointingMode::Fixed => (min, max),
            EndpointingMode::Dynamic => {
                let within = learnt(self.within, min);
                (within, learnt(self.between, max).max(within))
            }
        }
    }

    fn learn_within(&mut self, pause: Duration) {
        let (min, max) = self.limits();
        self.within = Some(self.mixed(self.within.unwrap_or(min.as_secs_f64()), pause, max));
    }

    fn learn_between(&mut self, pause: Duration) {
        let max = self.limits().1;
        self.between = Some(self.mixed(self.between.unwrap_or(max.as_secs_f64()), pause, max));
    }

    /// `old` and a new pause as far as delays go, in seconds.
    fn mixed(&self, old: f64, pause: Duration, max: Duration) -> f64 {
        let alpha = self.settings.alpha.clamp(0.0, 1.0);
        alpha * old + (1.0 - alpha) * pause.min(max).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        turn: Turn,
        start: Instant,
    }

    impl Bench {
        fn new(change: impl FnOnce(&mut EndpointingSettings)) -> Self {
            let mut settings = EndpointingSettings::default();
            change(&mut settings);
            Bench { turn: Turn::new(settings), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// Speech from `from` to `to`, its end known 260 ms later.
        fn speak(&mut self, from: u64, to: u64) {
            let (from, to, known) = (self.at(from), self.at(to), self.at(to + 260));
            self.turn.handle_start(from);
            self.turn.handle_silence(
                self.start + (to - self.start) + Duration::from_millis(160),
                to,
                to + Duration::from_millis(160),
            );
            self.turn.handle_end(known, to);
        }

        /// When the turn ends by itself, in ms, and how long was waited.
        fn ends(&mut self) -> Option<(u64, u64)> {
            loop {
                while let Some(event) = self.turn.poll() {
                    if let Heard::TurnEnded { waited } = event {
                        let end = self.turn.last_end.expect("an end") + waited;
                        return Some(((end - self.start).as_millis() as u64, waited.as_millis() as u64));
                    }
                }
                let next = self.turn.wake_at()?;
                self.turn.handle_time(next);
            }
        }

        fn asked(&mut self) -> Option<Duration> {
            match self.turn.poll() {
                Some(Heard::AskFinished { spoken }) => Some(spoken),
                _ => None,
            }
        }
    }

    #[test]
    fn a_turn_that_sounds_finished_ends_soon_and_another_late() {
        for (probability, waited) in [(0.9, 300), (0.2, 2_500)] {
            let mut bench = Bench::new(|_| {});
            bench.speak(0, 1_000);
            assert_eq!(bench.asked(), Some(Duration::from_millis(1_160)));
            bench.turn.handle_answer(bench.at(1_270), probability);
            assert_eq!(bench.ends(), Some((1_000 + waited, waited)));
            assert_eq!(bench.turn.wake_at(), None);
        }
    }

    #[test]
    fn an_answer_that_comes_late_ends_the_turn_at_once_and_one_that_never_comes_is_not_waited_for() {
        let mut bench = Bench::new(|_| {});
        bench.speak(0, 1_000);
        bench.turn.handle_answer(bench.at(1_700), 0.9);
        assert_eq!(bench.ends(), Some((1_700, 700)));

        let mut bench = Bench::new(|_| {});
        bench.speak(0, 1_000);
        assert_eq!(bench.ends(), Some((2_160, 1_160)));
        assert_eq!(bench.turn.unanswered(), 1);
    }

    #[test]
    fn a_network_that_has_gone_is_asked_again_and_meanwhile_silence_decides() {
        let mut bench = Bench::new(|_| {});
        bench.speak(0, 1_000);
        assert!(bench.asked().is_some());
        bench.turn.handle_no_answer(bench.at(1_270));
        assert_eq!(bench.ends(), Some((1_500, 500)));
        bench.speak(5_000, 6_000);
        assert!(bench.asked().is_some());
        bench.turn.handle_answer(bench.at(6_270), 0.9);
        assert_eq!(bench.ends(), Some((6_300, 300)));
    }

    #[test]
    fn without_a_network_silence_alone_decides() {
        let mut bench = Bench::new(|settings| settings.model = false);
        bench.speak(0, 1_000);
        assert_eq!(bench.asked(), None);
        assert_eq!(bench.ends(), Some((1_500, 500)));
    }

    #[test]
    fn who_goes_on_has_not_finished_and_is_asked_about_again() {
        let mut bench = Bench::new(|_| {});
        bench.speak(0, 1_000);
        assert!(bench.asked().is_some());
        bench.turn.handle_answer(bench.at(1_300), 0.1);
        bench.speak(1_800, 2_500);
        // The whole turn, not its last piece.
        assert_eq!(bench.asked(), Some(Duration::from_millis(2_660)));
        bench.turn.handle_answer(bench.at(2_700), 0.9);
        assert_eq!(bench.ends(), Some((2_800, 300)));
    }

    #[test]
    fn dynamic_delays_follow_the_caller_within_the_limits() {
        let mut bench = Bench::new(|settings| {
            settings.model = false;
            settings.mode = EndpointingMode::Dynamic;
            settings.alpha = 0.5;
        });
        // He pauses for 1 s after everything he says; at first we take each for an end.
        let mut waits = Vec::new();
        for piece in 0..5 {
            bench.speak(piece * 2_000, piece * 2_000 + 1_000);
            waits.extend(bench.ends().map(|(_, waited)| waited));
        }
        assert_eq!(waits, [500, 750, 875, 937, 968]);
        // Pauses between turns never make it wait longer than allowed.
        let mut bench = Bench::new(|settings| settings.mode = EndpointingMode::Dynamic);
        for piece in 0..20 {
            bench.speak(piece * 60_000, piece * 60_000 + 1_000);
            bench.turn.handle_answer(bench.at(piece * 60_000 + 1_260), 0.1);
            assert_eq!(bench.ends().map(|(_, waited)| waited), Some(2_500));
        }
    }

    #[test]
    fn manual_turns_end_when_somebody_says_so_only() {
        let mut bench = Bench::new(|settings| settings.turns = Turns::Manual);
        bench.speak(0, 1_000);
        assert_eq!((bench.asked(), bench.ends()), (None, None));
        bench.speak(5_000, 6_000);
        bench.turn.commit(bench.at(9_000));
        assert_eq!(bench.turn.poll(), Some(Heard::TurnEnded { waited: Duration::from_secs(3) }));
        bench.speak(10_000, 11_000);
        bench.turn.clear();
        assert_eq!((bench.turn.silent_since(), bench.ends()), (None, None));
    }
}
