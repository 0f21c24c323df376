//! When a turn begins and ends to be heard, told from the sound that comes down.
//!
//! Pure. The engine says neither in passthrough mode, and in microphone mode it says that a text is complete, early. So
//! the sound decides: a turn begins with the first that is no silence, and ends with the silence after it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::avatar::{AvatarEvent, Turn};

/// Mean of samples' amounts above which sound is no silence; what Opus makes of silence is far below.
const LOUD: u32 = 100;
/// Silence so long after an interruption: it was carried out.
const HUSHED_AFTER: Duration = Duration::from_millis(60);
/// Silence so long at the expected end of a turn, or anywhere where that is not known.
const ENDED_AFTER: Duration = Duration::from_millis(300);
const PAUSED_FOR: Duration = Duration::from_millis(1_500);
/// A turn may be shorter than what went up: engines cut silence off.
const SHORTER_BY: Duration = Duration::from_millis(500);
/// A turn may be heard so much longer than what went up.
const LONGER_BY: Duration = Duration::from_secs(2);
/// Turns that went up and are not over.
const OPEN_MAX: usize = 8;

/// A turn that went up.
#[derive(Debug)]
struct Up {
    turn: Turn,
    /// How much of it.
    sent: Duration,
    complete: bool,
}

/// What is heard of turns.
#[derive(Debug, Default)]
pub struct Turns {
    /// Microphone mode: turns begin by themselves.
    own: bool,
    /// The highest turn known.
    last: Turn,
    ups: VecDeque<Up>,
    /// The first of `ups` is heard, since when.
    heard_since: Option<Instant>,
    quiet_since: Option<Instant>,
    /// An interruption is not carried out yet: what is heard is the old voice, however long it goes on.
    hushing: bool,
    /// The turn that was heard when it was cut, until that is carried out: told sooner it would pass for an answer.
    cut: Option<Turn>,
    /// The voice of its own that was cut has not fallen silent since: what is heard is still the old one.
    unsettled: bool,
}

impl Turns {
    /// `own`: the engine speaks by itself.
    pub fn new(own: bool) -> Self {
        Turns { own, ..Turns::default() }
    }

    /// A piece of a turn went up.
    pub fn sent(&mut self, turn: Turn, length: Duration) {
        self.last = self.last.max(turn);
        if let Some(up) = self.ups.iter_mut().find(|up| up.turn == turn) {
            up.sent += length;
            up.complete = false;
            return;
        }
        if self.ups.len() == OPEN_MAX {
            self.ups.pop_front();
            self.heard_since = None;
        }
        self.ups.push_back(Up { turn, sent: length, complete: false });
    }

    /// All of a turn went up.
    pub fn complete(&mut self, turn: Turn) {
        for up in self.ups.iter_mut().filter(|up| up.turn <= turn) {
            up.complete = true;
        }
    }

    /// The engine says that it has said all.
    pub fn said_all(&mut self) {
        self.complete(self.last);
    }

    /// Turns up to this one are cut. Whether anything of them was or may still be heard.
    pub fn cut(&mut self, turn: Turn) -> bool {
        self.last = self.last.max(turn);
        let before = self.ups.len();
        if let Some(up) = self.ups.front().filter(|up| up.turn <= turn)
            && self.heard_since.take().is_some()
        {
            self.cut = Some(up.turn);
        }
        self.ups.retain(|up| up.turn > turn);
        let cut = self.ups.len() < before;
        if cut {
            self.hushing = true;
            self.unsettled = self.own;
            self.quiet_since = None;
        }
        cut
    }

    /// The engine says that it cut what it was saying.
    pub fn was_cut(&mut self, mut tell: impl FnMut(AvatarEvent)) {
        if let Some(up) = self.ups.front().filter(|_| self.heard_since.is_some()) {
            let turn = up.turn;
            self.cut(turn);
        }
        self.hushed(&mut tell);
    }

    /// An interruption was carried out, if there was one.
    fn hushed(&mut self, tell: &mut impl FnMut(AvatarEvent)) {
        if !std::mem::take(&mut self.hushing) {
            return;
        }
        if let Some(turn) = self.cut.take() {
            tell(AvatarEvent::Ended { turn, interrupted: true });
        }
        tell(AvatarEvent::Hushed);
    }

    /// Sound that is about to be heard.
    pub fn sound(&mut self, now: Instant, samples: &[i16], mut tell: impl FnMut(AvatarEvent)) {
        if is_loud(samples) {
            self.quiet_since = None;
            self.loud(now, &mut tell);
        } else {
            let quiet = now.saturating_duration_since(*self.quiet_since.get_or_insert(now));
            if quiet >= HUSHED_AFTER {
                self.unsettled = false;
                self.hushed(&mut tell);
            }
            self.end_if_over(now, Some(quiet), &mut tell);
        }
    }

    fn loud(&mut self, now: Instant, tell: &mut impl FnMut(AvatarEvent)) {
        if self.hushing || self.unsettled {
            return;
        }
        self.end_if_over(now, None, tell);
        if self.own && self.ups.is_empty() {
            self.last += 1;
            self.ups.push_back(Up { turn: self.last, sent: Duration::ZERO, complete: false });
        }
        if let Some(up) = self.ups.front().filter(|_| self.heard_since.is_none()) {
            tell(AvatarEvent::Speaking { turn: up.turn });
            self.heard_since = Some(now);
        }
    }

    /// `quiet`: for how long there has been silence.
    fn end_if_over(&mut self, now: Instant, quiet: Option<Duration>, tell: &mut impl FnMut(AvatarEvent)) {
        let (Some(up), Some(since)) = (self.ups.front(), self.heard_since) else { return };
        let heard = now.saturating_duration_since(since);
        let over = match (self.own, quiet) {
            (true, Some(quiet)) => quiet >= if up.complete { ENDED_AFTER } else { PAUSED_FOR },
            (true, None) => false,
            (false, Some(quiet)) => {
                up.complete && quiet >= ENDED_AFTER && heard + SHORTER_BY >= up.sent
                    || up.complete && heard >= up.sent + LONGER_BY
            }
            // The voice goes on: the next turn's, or more of this one.
            (false, None) => {
                let slack = if self.ups.len() > 1 { Duration::ZERO } else { LONGER_BY };
                up.complete && heard >= up.sent + slack
            }
        };
        if over {
            tell(AvatarEvent::Ended { turn: up.turn, interrupted: false });
            self.ups.pop_front();
            self.heard_since = None;
        }
    }
}

/// Whether there is anything to hear.
fn is_loud(samples: &[i16]) -> bool {
    let sum: u64 = samples.iter().map(|sample| u64::from(sample.unsigned_abs())).sum();
    sum > u64::from(LOUD) * samples.len().max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_millis(20);

    struct Ear {
        turns: Turns,
        now: Instant,
        told: Vec<String>,
    }

    impl Ear {
        fn new(own: bool) -> Self {
            Ear { turns: Turns::new(own), now: Instant::now(), told: Vec::new() }
        }

        /// So many milliseconds of voice or silence.
        fn hear(&mut self, ms: u64, loud: bool) {
            let samples = [if loud { 3_000 } else { 2 }; 960];
            for _ in 0..ms / 20 {
                let told = &mut self.told;
                self.turns.sound(self.now, &samples, |event| told.push(format!("{event:?}")));
                self.now += BEAT;
            }
        }

        fn cut(&mut self, turn: Turn) -> bool {
            self.turns.cut(turn)
        }

        fn told(&mut self) -> Vec<String> {
            std::mem::take(&mut self.told)
        }
    }

    fn speaking(turn: Turn) -> String {
        format!("{:?}", AvatarEvent::Speaking { turn })
    }

    fn ended(turn: Turn, interrupted: bool) -> String {
        format!("{:?}", AvatarEvent::Ended { turn, interrupted })
    }

    #[test]
    fn a_turn_begins_with_its_first_sound_and_ends_with_the_silence_after_all_of_it() {
        let mut ear = Ear::new(false);
        ear.hear(1_000, false);
        ear.turns.sent(1, Duration::from_secs(2));
        ear.turns.complete(1);
        ear.hear(400, false);
        assert_eq!(ear.told(), [""; 0], "silence is no turn");
        ear.hear(600, true);
        assert_eq!(ear.told(), [speaking(1)]);
        ear.hear(600, false);
        assert_eq!(ear.told(), [""; 0], "a pause within it");
        ear.hear(800, true);
        ear.hear(400, false);
        assert_eq!(ear.told(), [ended(1, false)]);
        ear.hear(400, true);
        assert_eq!(ear.told(), [""; 0], "nothing went up");
    }

    #[test]
    fn a_turn_without_an_end_marker_does_not_end_by_itself() {
        let mut ear = Ear::new(false);
        ear.turns.sent(1, Duration::from_millis(500));
        ear.hear(500, true);
        ear.hear(5_000, false);
        assert_eq!(ear.told(), [speaking(1)]);
        ear.turns.complete(1);
        ear.hear(20, false);
        assert_eq!(ear.told(), [ended(1, false)]);
    }

    #[test]
    fn two_turns_without_a_pause_are_two() {
        let mut ear = Ear::new(false);
        for turn in [1, 2] {
            ear.turns.sent(turn, Duration::from_secs(1));
            ear.turns.complete(turn);
        }
        ear.hear(2_000, true);
        ear.hear(400, false);
        assert_eq!(ear.told(), [speaking(1), ended(1, false), speaking(2), ended(2, false)]);
    }

    #[test]
    fn what_is_still_heard_of_a_cut_turn_is_not_the_next_one() {
        let mut ear = Ear::new(false);
        ear.turns.sent(1, Duration::from_secs(4));
        ear.hear(500, true);
        assert!(ear.cut(1));
        assert!(!ear.cut(1), "once");
        ear.turns.sent(2, Duration::from_secs(1));
        ear.hear(300, true);
        assert_eq!(ear.told(), [speaking(1)], "it is not over before it is silent");
        ear.hear(100, false);
        ear.hear(200, true);
        assert_eq!(ear.told(), [ended(1, true), "Hushed".to_owned(), speaking(2)]);
    }

    #[test]
    fn an_engine_that_never_hushes_never_begins_another_turn() {
        let mut ear = Ear::new(false);
        ear.turns.sent(1, Duration::from_secs(60));
        ear.hear(500, true);
        ear.cut(1);
        ear.turns.sent(2, Duration::from_secs(1));
        ear.hear(5_000, true);
        assert_eq!(ear.told(), [speaking(1)]);
    }

    #[test]
    fn an_engine_with_a_voice_of_its_own_begins_turns_by_itself() {
        let mut ear = Ear::new(true);
        ear.hear(500, true);
        ear.hear(600, false);
        ear.hear(500, true);
        assert_eq!(ear.told(), [speaking(1)], "a pause of its thinking");
        ear.turns.said_all();
        ear.hear(400, false);
        assert_eq!(ear.told(), [ended(1, false)]);
        ear.hear(500, true);
        let told = &mut ear.told;
        ear.turns.was_cut(|event| told.push(format!("{event:?}")));
        assert_eq!(ear.told(), [speaking(2), ended(2, true), "Hushed".to_owned()]);
        ear.hear(60, true);
        assert_eq!(ear.told(), [""; 0], "the rest of the old voice, behind the engine's word");
        ear.hear(100, false);
        ear.hear(100, true);
        assert_eq!(ear.told(), [speaking(3)]);
        // One that never obeys begins no turn: the old one is never taken for a new one.
        assert!(ear.cut(3));
        ear.hear(5_000, true);
        assert_eq!(ear.told(), [""; 0]);
        ear.cut(7);
        ear.hear(100, false);
        ear.hear(100, true);
        assert_eq!(
            ear.told(),
            [ended(3, true), "Hushed".to_owned(), speaking(8)],
            "turns count on from what was cut"
        );
    }
}
