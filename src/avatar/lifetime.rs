//! How long a session may last, by our own watch: providers end sessions without a word.
//!
//! Pure.

use std::time::{Duration, Instant};

/// It is told so long before the end.
pub const NEAR: Duration = Duration::from_secs(15);

/// What the time says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hour {
    Near { left: Duration },
    Over,
}

/// The time a session has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifetime {
    over: Option<Instant>,
    near: Option<Instant>,
}

impl Lifetime {
    /// Counts from `now`, when the provider began to.
    pub fn new(now: Instant, longest: Option<Duration>) -> Self {
        let over = longest.map(|longest| now + longest);
        let near = longest.map(|longest| now + longest.saturating_sub(NEAR));
        Lifetime { over, near }
    }

    /// The provider says what is left: believed where it is less.
    pub fn left(&mut self, now: Instant, left: Duration) {
        let over = now + left;
        if self.over.is_none_or(|known| over < known) {
            self.over = Some(over);
            self.near = Some(now + left.saturating_sub(NEAR));
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.near.or(self.over)
    }

    /// Each is told once.
    pub fn handle_time(&mut self, now: Instant) -> Option<Hour> {
        let over = self.over?;
        if over <= now {
            *self = Lifetime::default();
            return Some(Hour::Over);
        }
        self.near.take_if(|near| *near <= now)?;
        Some(Hour::Near { left: over - now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_end_is_told_before_and_when_it_comes() {
        let now = Instant::now();
        let mut life = Lifetime::new(now, Some(MINUTE));
        assert_eq!(life.wake_at(), Some(now + Duration::from_secs(45)));
        assert_eq!(life.handle_time(now), None);
        let near = now + Duration::from_secs(46);
        assert_eq!(life.handle_time(near), Some(Hour::Near { left: Duration::from_secs(14) }));
        assert_eq!((life.handle_time(near), life.wake_at()), (None, Some(now + MINUTE)));
        assert_eq!(life.handle_time(now + MINUTE), Some(Hour::Over));
        assert_eq!((life.handle_time(now + 2 * MINUTE), life.wake_at()), (None, None));
    }

    #[test]
    fn a_provider_can_shorten_it_and_not_lengthen_it() {
        let now = Instant::now();
        let mut life = Lifetime::new(now, None);
        assert_eq!(life.wake_at(), None);
        life.left(now, MINUTE);
        life.left(now, 2 * MINUTE);
        assert_eq!(life.handle_time(now + MINUTE), Some(Hour::Over));
        let mut life = Lifetime::new(now, Some(2 * MINUTE));
        life.left(now, Duration::from_secs(5));
        assert_eq!(life.handle_time(now), Some(Hour::Near { left: Duration::from_secs(5) }));
    }
}
