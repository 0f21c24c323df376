//! Which way an utterance goes: up to the face, or straight to the caller while there is none.
//!
//! Pure. An utterance goes one way to its end, so that nobody hears a voice change in the middle of a word; only a face
//! that is lost gives it back. The first one that goes up waits until what was said directly is nearly over.

use std::time::{Duration, Instant};

/// An utterance goes up when so much of what is said directly is left: no face answers sooner.
const LEAD: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    Up,
    /// It has to wait.
    Later,
}

#[derive(Debug, Default)]
pub struct Switch {
    /// There is a face that speaks what goes up.
    ready: bool,
    /// What was cut may still be sounding there.
    hushing: bool,
    /// The utterance being said, and whether it goes up.
    current: Option<(u32, bool)>,
    /// When what was said directly is over.
    direct_until: Option<Instant>,
}

impl Switch {
    /// There is a face now, or none any more: then what it was saying goes on directly.
    pub fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
        self.hushing &= ready;
        if let (false, Some((_, up))) = (ready, &mut self.current) {
            *up = false;
        }
    }

    pub fn set_hushing(&mut self, hushing: bool) {
        self.hushing = hushing;
    }

    /// Which way a piece of this utterance goes now.
    pub fn way(&mut self, now: Instant, utterance: u32) -> Way {
        match self.current {
            Some((current, false)) if current == utterance => Way::Direct,
            Some((current, true)) if current == utterance && !self.hushing => Way::Up,
            _ if !self.ready => {
                self.current = Some((utterance, false));
                Way::Direct
            }
            _ if self.hushing || self.wake_at().is_some_and(|at| at > now) => Way::Later,
            _ => {
                self.current = Some((utterance, true));
                Way::Up
            }
        }
    }

    /// So much was said directly.
    pub fn passed(&mut self, now: Instant, length: Duration) {
        self.direct_until = Some(self.direct_until.map_or(now, |until| until.max(now)) + length);
    }

    /// Nothing of what was said so far is heard any more.
    pub fn cut(&mut self) {
        self.direct_until = None;
    }

    /// Utterances are counted anew.
    pub fn forget(&mut self) {
        self.current = None;
    }

    /// When what was said directly is nearly over.
    pub fn wake_at(&self) -> Option<Instant> {
        self.direct_until.and_then(|until| until.checked_sub(LEAD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_utterance_keeps_its_way_and_the_next_takes_the_face() {
        let (mut switch, now) = (Switch::default(), Instant::now());
        assert_eq!(switch.way(now, 1), Way::Direct);
        switch.passed(now, Duration::from_secs(2));
        switch.set_ready(true);
        assert_eq!(switch.way(now, 1), Way::Direct);
        assert_eq!(switch.way(now, 2), Way::Later, "the first is still heard");
        assert_eq!(switch.way(now + Duration::from_millis(1_700), 2), Way::Up);
    }

    #[test]
    fn what_a_lost_face_was_saying_goes_on_directly() {
        let (mut switch, now) = (Switch::default(), Instant::now());
        switch.set_ready(true);
        assert_eq!(switch.way(now, 1), Way::Up);
        switch.set_ready(false);
        assert_eq!(switch.way(now, 1), Way::Direct);
        switch.set_ready(true);
        assert_eq!(switch.way(now, 1), Way::Direct, "to its end");
    }

    #[test]
    fn nothing_goes_up_while_what_was_cut_may_still_sound() {
        let (mut switch, now) = (Switch::default(), Instant::now());
        switch.set_ready(true);
        switch.passed(now, Duration::from_secs(9));
        switch.cut();
        switch.set_hushing(true);
        assert_eq!(switch.way(now, 1), Way::Later);
        switch.set_hushing(false);
        assert_eq!(switch.way(now, 1), Way::Up);
        switch.set_hushing(true);
        switch.set_ready(false);
        assert_eq!(switch.way(now, 2), Way::Direct);
    }
}
