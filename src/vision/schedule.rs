//! When a gate's detector looks, and whether its last look still counts.
//!
//! By default it looks at every picture, and then no picture passes unseen. With `every` = n it looks at each n-th
//! one and held masks cover the pictures in between. What can leak then: something that *appears* is seen up to
//! n - 1 pictures, or [`Schedule::max_age`], whichever is shorter, before its first mask; something already masked
//! is seen only if within that time it outruns its mask (see `track` for how masks grow).
//!
//! A failed look closes the gate for that picture, and the next picture is looked at again whatever `every` says.

use std::time::{Duration, Instant};

/// How often one gate detector looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// 1: every picture. 0 counts as 1.
    pub every: u32,
    /// How long after the picture reached the gate an answer may come.
    pub deadline: Duration,
    /// A look older than this is no look: the next picture is looked at even when it is not its turn.
    pub max_age: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { every: 1, deadline: Duration::from_millis(100), max_age: Duration::from_millis(500) }
    }
}

/// What to do with one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Look at it and be done before this instant.
    Look { deadline: Instant },
    /// The last look still counts.
    Rest,
}

/// Counts pictures and looks of one detector on one call.
#[derive(Clone, Debug)]
pub struct Turns {
    schedule: Schedule,
    /// Pictures since the last good look.
    since: u32,
    /// When the picture of the last good look reached the gate; `None` before the first and after a failed one.
    last_good: Option<Instant>,
}

impl Turns {
    pub fn new(schedule: Schedule) -> Self {
        Turns { schedule, since: 0, last_good: None }
    }

    /// Whose turn the picture of `now` is. Call once per picture; after `Look` tell how it went.
    pub fn next(&mut self, now: Instant) -> Turn {
        self.since = self.since.saturating_add(1);
        if self.since < self.schedule.every.max(1) && self.is_fresh(now) {
            return Turn::Rest;
        }
        Turn::Look { deadline: now + self.schedule.deadline }
    }

    /// The look at the picture of `now` was answered in time.
    pub fn looked(&mut self, now: Instant) {
        self.last_good = Some(now);
        self.since = 0;
    }

    /// The look failed, or what it saw no longer holds (the picture changed its size).
    pub fn forget(&mut self) {
        self.last_good = None;
    }

    /// Whether what was last seen still counts at `now`.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.last_good.is_some_and(|then| now.saturating_duration_since(then) <= self.schedule.max_age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of `count` pictures at `fps` are looked at when every look works.
    fn looks(every: u32, fps: u32, count: usize) -> Vec<usize> {
        let mut turns = Turns::new(Schedule { every, ..Schedule::default() });
        let start = Instant::now();
        let at = |index: usize| start + Duration::from_secs(1) * index as u32 / fps;
        (0..count)
            .filter(|index| {
                let look = turns.next(at(*index)) != Turn::Rest;
                if look {
                    turns.looked(at(*index));
                }
                look
            })
            .collect()
    }

    #[test]
    fn the_first_picture_and_then_every_nth_is_looked_at() {
        assert_eq!(looks(1, 15, 4), [0, 1, 2, 3]);
        assert_eq!(looks(0, 15, 3), [0, 1, 2]);
        assert_eq!(looks(3, 15, 9), [0, 3, 6]);
    }

    #[test]
    fn a_look_that_grew_too_old_is_repeated_before_its_turn() {
        // 4 pictures a second: the third picture after a look is 750 ms away.
        assert_eq!(looks(30, 4, 7), [0, 3, 6]);
    }

    #[test]
    fn after_a_failed_look_every_picture_is_looked_at_until_one_works() {
        let mut turns = Turns::new(Schedule { every: 5, ..Schedule::default() });
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(turns.next(now), Turn::Look { deadline: now + Duration::from_millis(100) });
            turns.forget();
            assert!(!turns.is_fresh(now));
        }
        turns.next(now);
        turns.looked(now);
        assert_eq!(turns.next(now), Turn::Rest);
        assert!(turns.is_fresh(now + Duration::from_millis(500)));
        assert!(!turns.is_fresh(now + Duration::from_millis(501)));
    }
}
