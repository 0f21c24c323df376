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
const ENDED: Duration = Duration::from_millis(100);

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
    /// When words were last heard.
    loud: Option<Instant>,
}

impl Hush {
    /// `sounding`: words were being heard.
    pub fn new(now: Instant, turn: Turn, sounding: bool) -> Self {
        Hush { turn, since: now, acknowledged: None, loud: sounding.then_some(now) }
    }

    /// The turn that was cut, and those before it.
    pub fn turn(&self) -> Turn {
        self.turn
    }

    pub fn acknowledge(&mut self, now: Instant) {
        self.acknowledged.get_or_insert(now);
    }

    /// A block that is not heard.
    pub fn sound(&mut self, now: Instant, silent: bool) {
        if !silent {
            self.loud = Some(now);
        }
    }

    pub fn state(&self, now: Instant) -> Hushed {
        let silent = |for_so_long: Duration| self.loud.is_none_or(|loud| now >= loud + for_so_long);
        match self.acknowledged {
            Some(_) if silent(ENDED) => Hushed::Over,
            Some(at) if now >= at + ON_ITS_WAY => Hushed::Over,
            Some(_) => Hushed::Stopped,
            None if now < self.since + UNANSWERED => Hushed::Waiting,
            None if silent(STOPPED) => Hushed::Over,
            None => Hushed::Disobeyed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn sound_behind_the_word_is_not_heard_and_silence_ends_it() {
        let now = Instant::now();
        let mut hush = Hush::new(now, 3, true);
        assert_eq!(hush.state(now + ms(150)), Hushed::Waiting, "silence alone may be a pause");
        hush.sound(now + ms(180), false);
        hush.acknowledge(now + ms(200));
        assert_eq!(hush.state(now + ms(200)), Hushed::Stopped);
        hush.sound(now + ms(220), true);
        assert_eq!(hush.state(now + ms(280)), Hushed::Over);
        let mut noisy = Hush::new(now, 3, true);
        noisy.acknowledge(now);
        (0..15).for_each(|n| noisy.sound(now + ms(20 * n), false));
        assert_eq!(noisy.state(now + ms(290)), Hushed::Stopped);
        assert_eq!(noisy.state(now + ON_ITS_WAY), Hushed::Over);
    }

    #[test]
    fn without_a_word_silence_is_waited_for_and_a_face_that_goes_on_has_disobeyed() {
        let now = Instant::now();
        let mut hush = Hush::new(now, 3, true);
        hush.sound(now + ms(1_900), false);
        assert_eq!(hush.state(now + ms(1_999)), Hushed::Waiting);
        assert_eq!(hush.state(now + UNANSWERED), Hushed::Disobeyed);
        assert_eq!(hush.state(now + ms(2_100)), Hushed::Over);
        // One that sends nothing at all is silent.
        assert_eq!(Hush::new(now, 1, false).state(now + UNANSWERED), Hushed::Over);
    }
}
