//! Speech on its way up: gathered into pieces a provider likes, thrown away with its turn.
//!
//! Pure. Tiny pieces move no lips, large ones delay the voice; each provider says what it likes in its
//! [`Limits`](super::Limits).

use std::time::Instant;

use super::{Limits, Turn};

/// What goes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Up {
    /// Sound at the provider's rate.
    Piece { turn: Turn, samples: Vec<i16> },
    /// The turn is complete.
    End { turn: Turn },
}

/// Gathers speech.
#[derive(Debug)]
pub struct Uplink {
    limits: Limits,
    turn: Turn,
    /// Turns up to this one were cut.
    cut: Turn,
    begun: bool,
    ended: bool,
    gathered: Vec<i16>,
    /// When the last sound came.
    at: Option<Instant>,
}

impl Uplink {
    pub fn new(limits: &Limits) -> Self {
        Uplink {
            limits: limits.clone(),
            turn: 0,
            cut: 0,
            begun: false,
            ended: true,
            gathered: Vec::new(),
            at: None,
        }
    }

    fn samples(&self, length: std::time::Duration) -> usize {
        (length.as_micros() as usize * self.limits.rate as usize / 1_000_000).max(1)
    }

    /// The most samples of one piece.
    fn most(&self) -> usize {
        (self.limits.largest_piece / 2).max(1)
    }

    /// Takes sound of a turn; sound of another turn than the last ends that. Sound of a turn that was cut is dropped.
    pub fn speak(&mut self, now: Instant, turn: Turn, samples: &[i16], mut up: impl FnMut(Up)) {
        if turn <= self.cut || samples.is_empty() {
            return;
        }
        if turn != self.turn {
            self.end(self.turn, &mut up);
            (self.turn, self.begun, self.ended) = (turn, false, false);
        }
        self.ended = false;
        self.at = Some(now);
        self.gathered.extend_from_slice(samples);
        loop {
            let wanted = if self.begun { self.limits.next_piece } else { self.limits.first_piece };
            let wanted = self.samples(wanted).min(self.most());
            if self.gathered.len() < wanted {
                return;
            }
            let piece = self.gathered.drain(..wanted).collect();
            self.begun = true;
            up(Up::Piece { turn, samples: piece });
        }
    }

    /// The turn is complete: what was gathered goes up, and its end. A turn of which nothing went up has none.
    pub fn end(&mut self, turn: Turn, mut up: impl FnMut(Up)) {
        if turn != self.turn || self.ended {
            return;
        }
        self.flush(&mut up);
        self.ended = true;
        if std::mem::take(&mut self.begun) {
            up(Up::End { turn });
        }
    }

    /// Turns up to this one are cut: what was gathered of them is gone. Whether something of them had gone up and was not
    /// ended.
    pub fn cut(&mut self, turn: Turn) -> bool {
        self.cut = self.cut.max(turn);
        if self.turn > self.cut {
            return false;
        }
        self.gathered.clear();
        self.at = None;
        let open = self.begun && !self.ended;
        (self.begun, self.ended) = (false, true);
        open
    }

    /// When [`Uplink::handle_time`] is due.
    pub fn wake_at(&self) -> Option<Instant> {
        let waiting = !self.gathered.is_empty() && !self.ended;
        self.at.filter(|_| waiting).map(|at| at + self.limits.flush_after)
    }

    /// A voice that pauses gets what it said so far sent.
    pub fn handle_time(&mut self, now: Instant, up: impl FnMut(Up)) {
        if self.wake_at().is_some_and(|due| due <= now) {
            self.flush(up);
        }
    }

    fn flush(&mut self, mut up: impl FnMut(Up)) {
        self.at = None;
        let most = self.most();
        while !self.gathered.is_empty() {
            let length = self.gathered.len().min(most);
            self.begun = true;
            up(Up::Piece { turn: self.turn, samples: self.gathered.drain(..length).collect() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn uplink() -> Uplink {
        let ms = Duration::from_millis;
        let limits = Limits {
            rate: 16_000,
            first_piece: ms(400),
            next_piece: ms(1_000),
            largest_piece: 24_000,
            ..Limits::default()
        };
        Uplink::new(&limits)
    }

    /// What went up: milliseconds of a piece, or 0 for an end.
    fn lengths(said: &[Up]) -> Vec<usize> {
        let length = |up: &Up| match up {
            Up::Piece { samples, .. } => samples.len() / 16,
            Up::End { .. } => 0,
        };
        said.iter().map(length).collect()
    }

    #[test]
    fn the_first_piece_is_short_the_next_are_long_none_is_too_large_and_the_rest_goes_with_the_end() {
        let (mut uplink, now, mut said) = (uplink(), Instant::now(), Vec::new());
        for _ in 0..120 {
            uplink.speak(now, 1, &[1; 320], |up| said.push(up));
        }
        uplink.end(1, |up| said.push(up));
        uplink.end(1, |up| said.push(up));
        // 750 ms are 24,000 bytes.
        assert_eq!(lengths(&said), [400, 750, 750, 500, 0]);
    }

    #[test]
    fn a_voice_that_pauses_is_not_held_back() {
        let (mut uplink, now, mut said) = (uplink(), Instant::now(), Vec::new());
        uplink.speak(now, 1, &[1; 1_600], |up| said.push(up));
        let due = uplink.wake_at().expect("something waits");
        assert_eq!(due, now + Duration::from_millis(200));
        uplink.handle_time(now, |up| said.push(up));
        assert!(said.is_empty());
        uplink.handle_time(due, |up| said.push(up));
        assert_eq!(lengths(&said), [100]);
        assert_eq!(uplink.wake_at(), None);
    }

    #[test]
    fn a_turn_that_is_cut_says_nothing_more_and_the_next_one_does() {
        let (mut uplink, now, mut said) = (uplink(), Instant::now(), Vec::new());
        uplink.speak(now, 3, &[1; 8_000], |up| said.push(up));
        assert!(uplink.cut(3), "something had gone up");
        assert!(!uplink.cut(3), "once");
        uplink.speak(now, 3, &[1; 8_000], |up| said.push(up));
        uplink.end(3, |up| said.push(up));
        assert_eq!(lengths(&said), [400]);
        uplink.speak(now, 4, &[1; 8_000], |up| said.push(up));
        uplink.speak(now, 5, &[1; 8_000], |up| said.push(up));
        // The next turn ends the one before.
        assert_eq!(lengths(&said), [400, 400, 100, 0, 400]);
    }
}
