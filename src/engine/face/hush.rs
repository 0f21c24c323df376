//! A turn that was cut: what still comes of it is not heard, until the provider has stopped.
//!
//! Pure. The provider's word comes another way than its sound, which may be behind it; some never give their word. Then
//! silence is waited for, and a face that goes on speaking is of no use.

use std::time::{Duration, Instant};

use crate::avatar::Turn;

/// How long the provider's word is waited for.
const UNANSWERED: Duration = Duration::from_secs(2);
/// Silence that means the end, then.
const STOPPED: Duration = Duration::from_millis(200);
/// Sound that is behind the word is on its way for no longer; silence ends it sooner.
const ON_ITS_WAY: Duration = Duration::from_millis(300);
const ENDED: Duration = Duration::from_millis(60);

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hushed {
    /// Nothing is heard, nothing new is said.
    Waiting,
    /// The provider has stopped; what is still on its way is not heard.
    Stopped,
    Over,
    /// It goes on as if nothing were.
    Disobeyed,
}

#[derive(Debug)]
pub struct Hush {
    turn: Turn,
    since: Instant,
    acknowledged: Option<Instant>,
    /// Silence so far, without a break.
    silent: Duration,
}

impl Hush {
    pub fn new(now: Instant, turn: Turn) -> Self {
        Hush { turn, since: now, acknowledged: None, silent: STOPPED }
    }

    /// The turn that was cut, and those before it.
    pub fn turn(&self) -> Turn {
        self.turn
    }

    pub fn acknowledge(&mut self, now: Instant) {
        self.acknowledged.get_or_insert(now);
    }

    /// A block that is not heard.
    pub fn sound(&mut self, length: Duration, silent: bool) {
        self.silent = if silent { self.silent + length } else { Duration::ZERO };
    }

    pub fn state(&self, now: Instant) -> Hushed {
        match self.acknowledged {
            Some(_) if self.silent >= ENDED => Hushed::Over,
            Some(at) if now >= at + ON_ITS_WAY => Hushed::Over,
            Some(_) => Hushed::Stopped,
            None if now < self.since + UNANSWERED => Hushed::Waiting,
            None if self.silent >= STOPPED => Hushed::Over,
            None => Hushed::Disobeyed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Duration = Duration::from_millis(20);

    #[test]
    fn sound_behind_the_word_is_not_heard_and_silence_ends_it() {
        let now = Instant::now();
        let mut hush = Hush::new(now, 3);
        hush.sound(BLOCK, false);
        assert_eq!(hush.state(now), Hushed::Waiting);
        hush.acknowledge(now + BLOCK);
        assert_eq!(hush.state(now + BLOCK), Hushed::Stopped);
        (0..3).for_each(|_| hush.sound(BLOCK, true));
        assert_eq!(hush.state(now + 4 * BLOCK), Hushed::Over);
        let mut noisy = Hush::new(now, 3);
        noisy.sound(BLOCK, false);
        noisy.acknowledge(now);
        assert_eq!(noisy.state(now + ON_ITS_WAY), Hushed::Over);
    }

    #[test]
    fn without_a_word_silence_is_waited_for_and_a_face_that_goes_on_has_disobeyed() {
        let now = Instant::now();
        let mut hush = Hush::new(now, 3);
        hush.sound(BLOCK, false);
        assert_eq!(hush.state(now + Duration::from_millis(1_999)), Hushed::Waiting);
        assert_eq!(hush.state(now + UNANSWERED), Hushed::Disobeyed);
        (0..10).for_each(|_| hush.sound(BLOCK, true));
        assert_eq!(hush.state(now + UNANSWERED), Hushed::Over);
        // One that sends nothing at all is silent.
        assert_eq!(Hush::new(now, 1).state(now + UNANSWERED), Hushed::Over);
    }
}
