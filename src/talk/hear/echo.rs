//! Which sound can be our own coming back: told from the level of what we send, without a moment of deafness.
//!
//! Pure. A line that returns our voice does so within a limited time and weakened by some decibels. Nothing is subtracted; sound that is no louder than our own can make it does not count as a voice. How much the line weakens is
//! learnt from what does *not* come back: for every loud moment of ours the loudest of the caller's sound in the time
//! after it is an upper bound of the echo. Whoever speaks over us loosens one bound and not the others.

use std::collections::VecDeque;
use std::time::Duration;

use crate::talk::hear::time_samples;

/// The level of silence, in dB below full scale.
pub const SILENT_DB: f32 = -100.0;
/// What we send below this makes no echo worth learning from.
const TELLING_DB: f32 = -45.0;
/// Forgotten of what was learnt, a second: paths change, when a hand moves or a canceller starts anew.
const FORGET_DB_S: f32 = 0.5;
/// Blocks kept of either side.
const BLOCKS_MAX: usize = 256;

/// How echo is told from a caller.
#[derive(Clone, Debug, PartialEq)]
pub struct EchoSettings {
    /// `false`: every sound counts.
    pub gate: bool,
    /// How much weaker than ours an echo is before anything is known, in dB.
    pub return_loss_db: f32,
    /// How much louder than an echo could be a voice must be, in dB.
    pub margin_db: f32,
    /// The longest time an echo takes, jitter buffers both ways included.
    pub path: Duration,
}

impl Default for EchoSettings {
    fn default() -> Self {
        EchoSettings { gate: true, return_loss_db: 15.0, margin_db: 6.0, path: Duration::from_millis(400) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Block {
    from: u64,
    until: u64,
    /// Caller's level, and ours.
    heard_db: f32,
    sent_db: f32,
    /// What the caller's level had to exceed.
    gate_db: f32,
}

/// One call's echo.
pub struct EchoGate {
    settings: EchoSettings,
    rate: u32,
    path: u64,
    blocks: VecDeque<Block>,
    /// Upper bound of the echo over what we send, in dB.
    coupling_db: f32,
    /// Blocks before this position have told what they know.
    learnt: u64,
}

impl EchoGate {
    pub fn new(settings: EchoSettings, rate: u32) -> Self {
        let (path, coupling_db) = (time_samples(settings.path, rate), -settings.return_loss_db);
        EchoGate { settings, rate, path, blocks: VecDeque::new(), coupling_db, learnt: 0 }
    }

    /// The caller's sound up to `until` had `heard_db`; `playing`: what we sent meanwhile.
    pub fn handle_block(&mut self, until: u64, heard_db: f32, playing: Option<f32>) {
        let last = self.blocks.back().map_or(0, |block| block.until);
        let seconds = until.saturating_sub(last) as f32 / self.rate.max(1) as f32;
        self.coupling_db = (self.coupling_db + FORGET_DB_S * seconds).min(-self.settings.return_loss_db);
        let sent_db = playing.unwrap_or(SILENT_DB);
        while self.blocks.len() >= BLOCKS_MAX
            || self.blocks.front().is_some_and(|block| block.until + 2 * self.path < until)
        {
            self.blocks.pop_front();
        }
        self.blocks.push_back(Block { from: last, until, heard_db, sent_db, gate_db: SILENT_DB });
        self.learn(until);
        let loudest = self.within_path(until).map(|block| block.sent_db).fold(SILENT_DB, f32::max);
        let gate_db = if loudest > TELLING_DB - 15.0 {
            loudest + self.coupling_db + self.settings.margin_db
        } else {
            SILENT_DB
        };
        if let Some(block) = self.blocks.back_mut() {
            block.gate_db = gate_db;
        }
    }

    fn within_path(&self, until: u64) -> impl Iterator<Item = &Block> {
        self.blocks.iter().rev().take_while(move |block| block.until + self.path >= until)
    }

    /// Takes the bound of the moment one path ago, now that all of its echo has been heard.
    fn learn(&mut self, until: u64) {
        let ripe = until.saturating_sub(self.path);
        let mut coupling = self.coupling_db;
        for (at, block) in self.blocks.iter().enumerate() {
            if block.until > ripe {
                break;
            }
            if block.until <= self.learnt || block.sent_db < TELLING_DB {
                continue;
            }
            let end = block.until + self.path;
            let after = self.blocks.iter().skip(at).take_while(|later| later.until <= end);
            let loudest = after.map(|later| later.heard_db).fold(SILENT_DB, f32::max);
            coupling = coupling.min(loudest - block.sent_db);
        }
        self.coupling_db = coupling;
        self.learnt = self.learnt.max(ripe);
    }

    /// Whether the sound from `from` to `until` is more than an echo. While somebody `speaks` his softer sounds pass
    /// too.
    pub fn passes(&self, from: u64, until: u64, speaks: bool) -> bool {
        if !self.settings.gate {
            return true;
        }
        let allowance = if speaks { self.settings.margin_db } else { 0.0 };
        let mut overlapping = self.blocks.iter().rev().take_while(|block| block.until > from);
        overlapping.any(|block| block.from < until && block.heard_db + allowance > block.gate_db)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 160;

    /// Our voice: words of 300 ms with pauses of 100 ms.
    fn ours(number: u64) -> f32 {
        if number % 20 < 15 { -18.0 - (number % 3) as f32 } else { SILENT_DB }
    }

    /// Runs blocks `numbers` with echo of `return_db` after `delay` blocks, or the caller's level; gives the passes.
    fn run(
        gate: &mut EchoGate,
        numbers: std::ops::Range<u64>,
        echo: Option<(u64, f32)>,
        caller: f32,
    ) -> usize {
        let mut passed = 0;
        for number in numbers {
            let returned = echo.map_or(SILENT_DB, |(delay, db)| ours(number.saturating_sub(delay)) + db);
            gate.handle_block((number + 1) * BLOCK, returned.max(caller).max(-70.0), Some(ours(number)));
            passed += usize::from(gate.passes(number * BLOCK, (number + 1) * BLOCK, false));
        }
        passed
    }

    #[test]
    fn our_own_voice_is_never_the_callers_and_the_caller_is_heard_from_the_first_block() {
        for (delay, db) in [(0, -16.0), (3, -20.0), (10, -25.0), (19, -40.0)] {
            let mut gate = EchoGate::new(EchoSettings::default(), 8_000);
            // A block of noise below our softest echo passes nowhere either.
            assert_eq!(run(&mut gate, 0..500, Some((delay, db)), SILENT_DB), 0, "{delay} {db}");
            let heard = run(&mut gate, 500..520, Some((delay, db)), ours(0) + db + 10.0);
            assert!(heard >= 15, "{delay} {db}: {heard}");
        }
        let mut gate = EchoGate::new(EchoSettings::default(), 8_000);
        assert_eq!(run(&mut gate, 0..20, None, -26.0), 20, "a caller of usual loudness over our first word");
    }

    #[test]
    fn on_a_line_without_echo_a_whisper_is_heard_after_a_second() {
        let mut gate = EchoGate::new(EchoSettings::default(), 8_000);
        run(&mut gate, 0..50, None, SILENT_DB);
        assert_eq!(run(&mut gate, 50..70, None, -45.0), 20);
        // Somebody who keeps talking over us does not make the gate believe in an echo.
        run(&mut gate, 70..570, None, -20.0);
        assert_eq!(run(&mut gate, 570..590, None, -40.0), 20);
    }

    #[test]
    fn what_is_silent_has_no_echo_and_a_gate_can_be_left_open() {
        let mut gate = EchoGate::new(EchoSettings::default(), 8_000);
        for number in 0..100 {
            gate.handle_block((number + 1) * BLOCK, -60.0, None);
            assert!(gate.passes(number * BLOCK, (number + 1) * BLOCK, false));
        }
        let mut open = EchoGate::new(EchoSettings { gate: false, ..EchoSettings::default() }, 8_000);
        assert_eq!(run(&mut open, 0..100, Some((5, -16.0)), SILENT_DB), 100);
    }
}
