//! What went up to a face and has not come back yet, and which part of which utterance it is that comes back.
//!
//! Pure. A provider gives back sound without saying what it is. It follows what went up, with pauses of its own where it
//! waits for more and with silence cut short, so loud and silent blocks are held against each other: silence in the middle
//! of words is the provider's and counts for nothing, words where silence went up mean that the silence was left out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::avatar::Turn;

/// The root mean square of a block below which it is silent: -50 dB of full scale.
const SILENT: f64 = 104.0;
/// Sound is judged in blocks of this length.
const BLOCK_MS: u64 = 20;
/// Words for so long where silence went up: it was left out. Shorter is the end of a word drawn out.
const SKIPS_AFTER: Duration = Duration::from_millis(60);
/// What is left at the end of an utterance and is not worth saying.
const CRUMB: Duration = Duration::from_millis(120);

/// Whether there is nothing to hear in it.
pub fn is_silent(samples: &[i16]) -> bool {
    let energy: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    energy <= SILENT * SILENT * samples.len() as f64
}

/// An utterance on its way, or a part of it.
#[derive(Debug)]
struct Entry {
    turn: Turn,
    utterance: u32,
    rate: u32,
    samples: Vec<i16>,
    /// Samples that came back, and those before the first one here.
    at: usize,
    base_ms: u32,
    /// Nothing is added any more.
    whole: bool,
}

impl Entry {
    fn left(&self) -> &[i16] {
        &self.samples[self.at.min(self.samples.len())..]
    }

    fn length(&self, samples: usize) -> Duration {
        Duration::from_micros(samples as u64 * 1_000_000 / u64::from(self.rate.max(1)))
    }

    fn came_ms(&self) -> u32 {
        self.base_ms + u32::try_from(self.length(self.at).as_millis()).unwrap_or(u32::MAX / 2)
    }

    fn block(&self) -> usize {
        (u64::from(self.rate) * BLOCK_MS / 1_000).max(1) as usize
    }

    fn next_is_silent(&self) -> bool {
        let left = self.left();
        is_silent(&left[..left.len().min(self.block())])
    }
}

/// Where sound that came back belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub utterance: u32,
    /// Milliseconds of it that came back before.
    pub from_ms: u32,
    /// Nothing of it is left.
    pub last: bool,
}

/// Something that did not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    pub utterance: u32,
    pub from_ms: u32,
    pub rate: u32,
    pub samples: Vec<i16>,
    pub whole: bool,
}

/// What is owed.
#[derive(Debug, Default)]
pub struct Account {
    entries: VecDeque<Entry>,
    /// What came back last, for what comes behind it.
    last: Option<Heard>,
    /// Words where silence went up, so far.
    louder: Duration,
}

impl Account {
    /// Something went up.
    pub fn add(&mut self, turn: Turn, utterance: u32, rate: u32, samples: &[i16], whole: bool) {
        let open = self.entries.back_mut().filter(|entry| {
            (entry.turn, entry.utterance, entry.rate, entry.whole) == (turn, utterance, rate, false)
        });
        match open {
            Some(entry) => {
                entry.samples.extend_from_slice(samples);
                entry.whole = whole;
            }
            None => {
                let before = self.entries.back().filter(|entry| entry.utterance == utterance);
                let base_ms = before.map_or(0, |entry| entry.base_ms + ms(entry.length(entry.samples.len())));
                // Whoever goes on with another utterance has said this one.
                if let Some(before) = self.entries.back_mut().filter(|entry| entry.utterance != utterance) {
                    before.whole = true;
                }
                let samples = samples.to_vec();
                self.entries.push_back(Entry { turn, utterance, rate, samples, at: 0, base_ms, whole });
            }
        }
    }

    /// How much has not come back.
    pub fn ahead(&self) -> Duration {
        self.entries.iter().map(|entry| entry.length(entry.left().len())).sum()
    }

    /// Nothing more will be said of anything that is owed.
    pub fn is_whole(&self) -> bool {
        self.entries.iter().all(|entry| entry.whole)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether something worth hearing is owed: more than a crumb that is not silence.
    pub fn owes_words(&self) -> bool {
        self.ahead() > CRUMB && self.entries.iter().any(|entry| !is_silent(entry.left()))
    }

    /// Whether more than a crumb has not come back.
    pub fn owes(&self) -> bool {
        self.ahead() > CRUMB
    }

    /// A block came back; at most 20 ms. `None`: it belongs to nothing.
    pub fn heard(&mut self, length: Duration, silent: bool) -> Option<Heard> {
        self.drop_done();
        let Some(entry) = self.entries.front_mut() else { return self.last };
        if entry.left().is_empty() {
            // Everything so far has come back; the provider waits for more as we do.
            return Some(Heard { utterance: entry.utterance, from_ms: entry.came_ms(), last: false });
        }
        let mut heard = Heard { utterance: entry.utterance, from_ms: entry.came_ms(), last: false };
        match (silent, entry.next_is_silent()) {
            (true, false) => {
                self.last = Some(heard);
                return self.last;
            }
            (false, true) => {
                self.louder += length;
                if self.louder >= SKIPS_AFTER {
                    self.louder = Duration::ZERO;
                    while !entry.left().is_empty() && entry.next_is_silent() {
                        entry.at += entry.block();
                    }
                    heard.from_ms = entry.came_ms();
                }
            }
            (true, true) | (false, false) => self.louder = Duration::ZERO,
        }
        entry.at += (length.as_micros() as u64 * u64::from(entry.rate) / 1_000_000) as usize;
        entry.at = entry.at.min(entry.samples.len());
        heard.last = entry.whole && entry.left().is_empty();
        self.last = Some(Heard { last: false, from_ms: entry.came_ms(), ..heard });
        self.drop_done();
        Some(heard)
    }

    /// What comes back next, if anything is owed.
    pub fn next(&self) -> Option<Heard> {
        let entry = self.entries.front()?;
        Some(Heard { utterance: entry.utterance, from_ms: entry.came_ms(), last: false })
    }

    fn drop_done(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.whole && entry.left().is_empty()) {
            self.entries.pop_front();
        }
    }

    /// Nothing of these utterances is wanted. The last turn of which something was owed.
    pub fn drop_through(&mut self, utterance: u32) -> Option<Turn> {
        let dropped = self.entries.iter().filter(|entry| entry.utterance <= utterance);
        let turn = dropped.map(|entry| entry.turn).max();
        self.entries.retain(|entry| entry.utterance > utterance);
        self.louder = Duration::ZERO;
        self.last = self.last.filter(|last| last.utterance > utterance);
        turn
    }

    /// Turns up to this one are over, however much came back: which utterances end with it, and how far they came.
    pub fn end(&mut self, turn: Turn) -> Vec<Heard> {
        let mut ended = Vec::new();
        while let Some(entry) = self.entries.front().filter(|entry| entry.turn <= turn) {
            if entry.whole {
                let from_ms = entry.came_ms() + ms(entry.length(entry.left().len()));
                ended.push(Heard { utterance: entry.utterance, from_ms, last: true });
            }
            self.entries.pop_front();
        }
        ended
    }

    /// Everything that did not come back, in order; nothing is owed any more.
    pub fn take_rest(&mut self) -> Vec<Rest> {
        self.last = None;
        let rest = |entry: Entry| Rest {
            utterance: entry.utterance,
            from_ms: entry.came_ms(),
            rate: entry.rate,
            samples: entry.left().to_vec(),
            whole: entry.whole,
        };
        self.entries.drain(..).map(rest).collect()
    }
}

fn ms(length: Duration) -> u32 {
    u32::try_from(length.as_millis()).unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Duration = Duration::from_millis(20);

    /// `L` is 20 ms of words, `S` of silence, at 8000 Hz.
    fn sound(pattern: &str) -> Vec<i16> {
        pattern.chars().flat_map(|kind| [if kind == 'L' { 3_000 } else { 0 }; 160]).collect()
    }

    fn account(utterances: &[&str]) -> Account {
        let mut account = Account::default();
        for (n, pattern) in (1..).zip(utterances) {
            account.add(1, n, 8_000, &sound(pattern), true);
        }
        account
    }

    /// Which utterance comes back where, for each block of what comes back.
    fn hear(account: &mut Account, pattern: &str) -> Vec<(u32, u32)> {
        let heard = pattern.chars().map(|kind| account.heard(BLOCK, kind != 'L'));
        heard.map(|heard| heard.map_or((0, 0), |heard| (heard.utterance, heard.from_ms))).collect()
    }

    #[test]
    fn what_comes_back_as_it_went_up_is_known_to_the_block() {
        let mut account = account(&["LLL", "LL"]);
        assert_eq!(account.ahead(), 5 * BLOCK);
        assert_eq!(hear(&mut account, "LLLLL"), [(1, 0), (1, 20), (1, 40), (2, 0), (2, 20)]);
        assert!(account.is_empty());
        // What follows belongs to the end.
        assert_eq!(hear(&mut account, "L"), [(2, 40)]);
    }

    #[test]
    fn the_last_block_of_an_utterance_ends_it() {
        let mut account = account(&["LL", "L"]);
        let last: Vec<bool> =
            (0..3).map(|_| account.heard(BLOCK, false).expect("it belongs to something").last).collect();
        assert_eq!(last, [false, true, true]);
    }

    #[test]
    fn a_pause_of_the_providers_own_counts_for_nothing() {
        let mut account = account(&["LLLL"]);
        assert_eq!(
            hear(&mut account, "LLSSSSSSLL"),
            [(1, 0), (1, 20), (1, 40), (1, 40), (1, 40), (1, 40), (1, 40), (1, 40), (1, 40), (1, 60)]
        );
        assert!(account.is_empty());
    }

    #[test]
    fn silence_that_is_left_out_is_skipped_and_a_word_drawn_out_is_not_taken_for_that() {
        let mut skipping = account(&["LLSSSSSSSSSSLLLL"]);
        let heard = hear(&mut skipping, "LLLLLL");
        assert_eq!(heard.last(), Some(&(1, 260)), "{heard:?}");
        let mut drawn = account(&["LLSSSSSSSSSSLLLL"]);
        let heard = hear(&mut drawn, "LLLSSSSSSSSSLL");
        assert_eq!(heard.last(), Some(&(1, 260)), "{heard:?}");
    }

    #[test]
    fn more_may_go_up_while_it_comes_back_and_waiting_for_it_counts_for_nothing() {
        let mut account = Account::default();
        account.add(1, 7, 8_000, &sound("LL"), false);
        assert_eq!(hear(&mut account, "LLSS"), [(7, 0), (7, 20), (7, 40), (7, 40)]);
        assert!(!account.is_empty() && !account.owes_words());
        account.add(1, 7, 8_000, &sound("LL"), true);
        assert_eq!(hear(&mut account, "SLL"), [(7, 40), (7, 40), (7, 60)]);
        assert!(account.is_empty());
    }

    #[test]
    fn what_did_not_come_back_is_left_from_where_it_stopped() {
        let mut account = account(&["LLLLLLLLLL", "LL"]);
        hear(&mut account, "LLL");
        assert!(account.owes_words());
        let rest = account.take_rest();
        let told: Vec<_> =
            rest.iter().map(|rest| (rest.utterance, rest.from_ms, rest.samples.len())).collect();
        assert_eq!(told, [(1, 60, 7 * 160), (2, 0, 320)]);
        assert!(account.is_empty());
    }

    #[test]
    fn a_cut_says_which_turn_and_leaves_what_comes_after() {
        let mut account = Account::default();
        account.add(1, 1, 8_000, &sound("LL"), true);
        account.add(2, 2, 8_000, &sound("LL"), true);
        assert_eq!(account.drop_through(1), Some(1));
        assert_eq!(account.drop_through(1), None);
        assert_eq!(hear(&mut account, "L"), [(2, 0)]);
    }

    #[test]
    fn a_turn_that_ends_early_ends_its_utterances_where_they_would_have() {
        let mut account = account(&["LLLLLLLL", "LL"]);
        hear(&mut account, "LLL");
        let ended = account.end(1);
        assert_eq!(
            ended.iter().map(|e| (e.utterance, e.from_ms, e.last)).collect::<Vec<_>>(),
            [(1, 160, true), (2, 40, true)]
        );
        assert!(account.is_empty());
    }
}
