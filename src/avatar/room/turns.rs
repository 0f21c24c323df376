//! What a worker in a room was given to say, and what it tells of it.
//!
//! Pure. Workers tell late, twice or never; nothing here waits for them longer than it is told to.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::avatar::{AvatarEvent, Turn};

/// Turns given and not told over; older ones are forgotten.
const TURNS_MAX: usize = 8;
/// Louder than this is speech.
const LOUD: u16 = 600;

/// The turns of one session.
#[derive(Debug)]
pub struct Turns {
    given: VecDeque<Turn>,
    /// The first of these is heard.
    speaking: bool,
    /// What was cut is over by then, told or not.
    hush_by: Option<Instant>,
    cut: Turn,
    clear_within: Duration,
    /// The worker tells when it begins.
    tells: bool,
}

impl Turns {
    pub fn new(clear_within: Duration) -> Self {
        Turns { given: VecDeque::new(), speaking: false, hush_by: None, cut: 0, clear_within, tells: false }
    }

    /// The first sound of a turn went up.
    pub fn given(&mut self, turn: Turn) {
        if self.given.back() != Some(&turn) {
            self.given.push_back(turn);
        }
        if self.given.len() > TURNS_MAX {
            self.given.pop_front();
            self.speaking = false;
        }
    }

    fn speak(&mut self) -> Option<AvatarEvent> {
        let turn = *self.given.front().filter(|_| !self.speaking && self.hush_by.is_none())?;
        self.speaking = true;
        Some(AvatarEvent::Speaking { turn })
    }

    /// The worker says that it is heard.
    pub fn told_started(&mut self) -> Option<AvatarEvent> {
        self.tells = true;
        self.speak()
    }

    /// Sound of the avatar came: what a worker does not tell is seen from it.
    pub fn heard(&mut self, samples: &[i16]) -> Option<AvatarEvent> {
        if self.tells || self.speaking || self.given.is_empty() {
            return None;
        }
        samples.iter().any(|sample| sample.unsigned_abs() > LOUD).then(|| self.speak()).flatten()
    }

    /// The worker says that it has finished.
    pub fn told_finished(&mut self, interrupted: bool) -> Vec<AvatarEvent> {
        if self.hush_by.is_some() {
            return self.hushed();
        }
        // What was cut is over since long.
        if interrupted {
            return Vec::new();
        }
        self.speaking = false;
        let ended = self.given.pop_front();
        ended.map(|turn| AvatarEvent::Ended { turn, interrupted: false }).into_iter().collect()
    }

    fn hushed(&mut self) -> Vec<AvatarEvent> {
        self.hush_by = None;
        self.speaking = false;
        let mut told = Vec::new();
        while let Some(turn) = self.given.front().copied().filter(|turn| *turn <= self.cut) {
            self.given.pop_front();
            told.push(AvatarEvent::Ended { turn, interrupted: true });
        }
        told.push(AvatarEvent::Hushed);
        told
    }

    /// Turns up to this one are cut. `true`: the worker is to be told; else there is nothing it could say.
    pub fn interrupt(&mut self, now: Instant, turn: Turn) -> bool {
        self.cut = self.cut.max(turn);
        let says = self.given.front().is_some_and(|first| *first <= self.cut);
        if says && self.hush_by.is_none() {
            self.hush_by = Some(now + self.clear_within);
        }
        says
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.hush_by
    }

    pub fn handle_time(&mut self, now: Instant) -> Vec<AvatarEvent> {
        if self.hush_by.is_some_and(|due| due <= now) { self.hushed() } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(events: impl IntoIterator<Item = AvatarEvent>) -> Vec<String> {
        events.into_iter().map(|event| format!("{event:?}")).collect()
    }

    fn turns() -> (Turns, Instant) {
        (Turns::new(Duration::from_secs(2)), Instant::now())
    }

    #[test]
    fn a_turn_is_given_begun_and_over() {
        let (mut turns, _) = turns();
        turns.given(1);
        turns.given(1);
        assert_eq!(words(turns.told_started()), ["Speaking { turn: 1 }"]);
        assert!(turns.told_started().is_none(), "told twice");
        assert_eq!(words(turns.told_finished(false)), ["Ended { turn: 1, interrupted: false }"]);
        assert!(turns.told_finished(false).is_empty());
    }

    #[test]
    fn an_interruption_is_over_when_the_worker_says_so_or_after_two_seconds() {
        let (mut turns, now) = turns();
        assert!(!turns.interrupt(now, 1), "it says nothing");
        turns.given(2);
        turns.told_started();
        assert!(turns.interrupt(now, 2));
        turns.given(3);
        assert_eq!(words(turns.told_finished(true)), ["Ended { turn: 2, interrupted: true }", "Hushed"]);
        assert_eq!(words(turns.told_started()), ["Speaking { turn: 3 }"]);

        assert!(turns.interrupt(now, 3));
        assert!(turns.handle_time(now + Duration::from_millis(1_999)).is_empty());
        let due = turns.wake_at().expect("waited for");
        assert_eq!(words(turns.handle_time(due)), ["Ended { turn: 3, interrupted: true }", "Hushed"]);
        turns.given(4);
        assert!(turns.told_finished(true).is_empty(), "the late report of what was cut ends nothing else");
        assert_eq!(words(turns.told_finished(false)), ["Ended { turn: 4, interrupted: false }"]);
    }

    #[test]
    fn a_worker_that_tells_nothing_is_heard() {
        let (mut turns, _) = turns();
        assert!(turns.heard(&[9_000; 9]).is_none());
        turns.given(1);
        assert!(turns.heard(&[10; 480]).is_none(), "silence");
        assert_eq!(words(turns.heard(&[9_000; 480])), ["Speaking { turn: 1 }"]);
    }

    #[test]
    fn turns_that_are_never_told_over_are_bounded() {
        let (mut turns, _) = turns();
        (1..100).for_each(|turn| turns.given(turn));
        assert_eq!(turns.given.len(), TURNS_MAX);
    }
}
