//! Driver (a lock). When a call is not to be recorded: shared by whoever pauses it and the recorder's thread.
//!
//! What was said and shown meanwhile is not in the file: its sound is silence there, its picture the last one before,
//! and the file's clock goes on. The call record says when it was paused and resumed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::time::Pts;

/// Pauses of one call; one more is not begun.
const PAUSES: usize = 200;

/// One pause; `None`: it goes on.
type Pause = (Pts, Option<Pts>);

/// The pauses of one call's recording.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    list: Arc<Mutex<Vec<Pause>>>,
}

impl Pauses {
    /// From `now` on nothing is kept. `false`: there were too many.
    pub fn pause(&self, now: Pts) -> bool {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.last().is_some_and(|(_, to)| to.is_none()) {
            return true;
        }
        let room = list.len() < PAUSES;
        if room {
            list.push((now, None));
        }
        room
    }

    /// From `now` on everything is kept again.
    pub fn resume(&self, now: Pts) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, to @ None)) = list.last_mut() {
            *to = Some(now);
        }
    }

    /// Whether anything of `at` and `length` after it is of a pause, or `now` is, when it is to be written.
    pub fn cover(&self, at: Pts, length: Duration, now: Pts) -> bool {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().rev().any(|(from, to)| match to {
            Some(to) => at + length > *from && at < *to,
            None => now >= *from || at + length > *from,
        })
    }

    /// How long all of them were, up to `now`.
    pub fn length(&self, now: Pts) -> Duration {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = list.iter().map(|(from, to)| to.unwrap_or(now) - *from).sum::<i64>();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_a_pause_is_not_kept() {
        let (pauses, block) = (Pauses::default(), Duration::from_millis(20));
        let at = Pts::from_millis;
        let kept = |ms: i64, now: i64| !pauses.cover(at(ms), block, at(now));
        assert!(kept(0, 0));
        assert!(pauses.pause(at(1_000)) && pauses.pause(at(1_500)));
        // What waits in a queue when the pause begins is dropped as well: better too much than too little.
        assert_eq!(
            [kept(900, 950), kept(900, 1_000), kept(990, 999), kept(1_000, 1_000)],
            [true, false, false, false]
        );
        pauses.resume(at(3_000));
        pauses.resume(at(4_000));
        assert_eq!([kept(2_999, 3_100), kept(3_000, 3_020), kept(970, 3_100)], [false, true, true]);
        assert_eq!(pauses.length(at(9_000)), Duration::from_secs(2));
    }

    #[test]
    fn they_are_bounded() {
        let pauses = Pauses::default();
        let begun = (0..1_000).filter(|ms| {
            let begun = pauses.pause(Pts::from_millis(*ms));
            pauses.resume(Pts::from_millis(*ms));
            begun
        });
        assert_eq!(begun.count(), PAUSES);
    }
}
