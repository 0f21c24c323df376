//! The sound of one stream: put in order, decoded when it is due, gaps made up.
//!
//! Pure. A packet is due as long after the quickest of its kind as the slow ones needed lately. What is missing when it is
//! due is made up, for three packets at most; then it is silent until the stream goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec::opus::OpusDecoder;
use crate::media::codec::{AudioDecoder as _, CodecError};

pub use crate::codec::opus::RATE;

/// Packets that wait; one second of the usual length.
const WAITING_MAX: usize = 50;
/// Samples made up at a time.
const STEP: u64 = 960;
/// How often one after another sound is made up.
const MADE_UP_MAX: u32 = 3;
/// What has not come so long after it was due is made up.
const GRACE: Duration = Duration::from_millis(8);
/// Bounds of how long sound is held, where it begins, and how it comes down: 2.5 ms a second.
const HELD_MIN: i64 = 5_000_000;
const HELD_FIRST: i64 = 20_000_000;
const HELD_MAX: i64 = 120_000_000;
const HELD_LESS: i64 = 50_000;
/// A packet that is to be heard comes that much before it is due, in nanoseconds.
const AHEAD: i64 = 3_000_000;
/// Times this far from what was expected belong to another clock.
const JUMP: i64 = 1_000_000_000;
/// The quickest packet is looked for over so many, twice.
const WINDOW: u32 = 250;

/// A piece of decoded sound.
#[derive(Debug)]
pub struct Block {
    /// RTP time of its first sample.
    pub time: u64,
    pub samples: Arc<[i16]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitterCounters {
    pub concealed: u64,
    pub late: u64,
    pub broken: u64,
}

struct Waiting {
    time: u64,
    data: Arc<[u8]>,
}

/// One stream.
pub struct Jitter {
    decoder: OpusDecoder,
    waiting: VecDeque<Waiting>,
    started: Option<Instant>,
    /// Arrival less RTP time of the quickest packet, in nanoseconds: of this window and the one before.
    quickest: Option<(i64, i64)>,
    seen: u32,
    held: i64,
    /// What is to be heard next.
    next: Option<u64>,
    made_up: u32,
    scratch: Vec<i16>,
    counters: JitterCounters,
}

fn nanos(time: u64) -> i64 {
    i64::try_from(u128::from(time) * 1_000_000_000 / u128::from(RATE)).unwrap_or(i64::MAX)
}

impl Jitter {
    pub fn new() -> Result<Self, CodecError> {
        Ok(Jitter {
            decoder: OpusDecoder::new()?,
            waiting: VecDeque::with_capacity(WAITING_MAX),
            started: None,
            quickest: None,
            seen: 0,
            held: HELD_FIRST,
            next: None,
            made_up: 0,
            scratch: Vec::with_capacity(5_760),
            counters: JitterCounters::default(),
        })
    }

    pub fn counters(&self) -> JitterCounters {
        self.counters
    }

    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.held.unsigned_abs())
    }

    /// Another stream: another clock.
    pub fn restart(&mut self) {
        self.flush();
        self.quickest = None;
    }

    /// What waits is not heard.
    pub fn flush(&mut self) {
        self.waiting.clear();
        (self.next, self.made_up) = (None, 0);
    }

    /// Takes a packet, in any order.
    pub fn push(&mut self, at: Instant, time: u64, data: Arc<[u8]>) {
        let started = *self.started.get_or_insert(at);
        let since = i64::try_from(at.saturating_duration_since(started).as_nanos()).unwrap_or(i64::MAX);
        self.measure(since.saturating_sub(nanos(time)));
        if self.next.is_some_and(|next| time < next) {
            self.counters.late += 1;
            return;
        }
        let place = self.waiting.partition_point(|other| other.time < time);
        if self.waiting.get(place).is_some_and(|other| other.time == time) {
            return;
        }
        self.waiting.insert(place, Waiting { time, data });
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            self.counters.late += 1;
            self.next = self.waiting.front().map(|first| first.time);
        }
    }

    /// Learns how uneven arrival is.
    fn measure(&mut self, offset: i64) {
        let known = self.quickest.map(|(now, before)| now.min(before));
        let late = known.map(|known| offset.saturating_sub(known));
        if late.is_none_or(|late| late.abs() > JUMP) {
            self.flush();
            (self.quickest, self.seen) = (Some((offset, offset)), 0);
            return;
        }
        let Some((now, before)) = &mut self.quickest else { return };
        self.seen += 1;
        if self.seen.is_multiple_of(WINDOW) {
            (*now, *before) = (offset, *now);
        } else {
            *now = offset.min(*now);
        }
        let needed = late.unwrap_or(0).max(0) + AHEAD;
        self.held = if needed > self.held { needed } else { self.held - HELD_LESS };
        self.held = self.held.clamp(HELD_MIN, HELD_MAX);
    }

    fn due(&self, time: u64) -> Option<Instant> {
        let (now, before) = self.quickest?;
        let after = nanos(time).saturating_add(now.min(before)).saturating_add(self.held);
        let after = Duration::from_nanos(u64::try_from(after).unwrap_or(0));
        self.started.map(|started| started + after)
    }

    /// The next piece, if it is due.
    pub fn poll(&mut self, now: Instant) -> Option<Block> {
        loop {
            let Some(first) = self.waiting.front() else { return self.make_up_for_nothing(now) };
            let time = first.time;
            let next = self.next.filter(|next| self.made_up < MADE_UP_MAX || time < *next).unwrap_or(time);
            let gap = time.saturating_sub(next);
            if time < next {
                self.counters.late += 1;
                self.waiting.pop_front();
                continue;
            }
            let far = gap > u64::from(RATE);
            let next = if far { time } else { next };
            if self.due(next).is_none_or(|due| now < due) {
                return None;
            }
            if next < time {
                return Some(self.fill(next, gap));
            }
            if let Some(block) = self.decode(time) {
                return Some(block);
            }
        }
    }

    fn decode(&mut self, time: u64) -> Option<Block> {
        let packet = self.waiting.pop_front()?;
        self.scratch.clear();
        if self.decoder.decode(&packet.data, &mut self.scratch).is_err() || self.scratch.is_empty() {
            self.counters.broken += 1;
            self.scratch.clear();
            self.decoder.conceal(STEP as usize, None, &mut self.scratch);
        }
        self.made_up = 0;
        Some(self.block(time))
    }

    /// Part of a gap behind which a packet stands.
    fn fill(&mut self, time: u64, gap: u64) -> Block {
        let samples = gap.min(STEP);
        let behind = self.waiting.front().filter(|_| gap <= STEP).map(|packet| packet.data.clone());
        self.scratch.clear();
        self.decoder.conceal(samples as usize, behind.as_deref(), &mut self.scratch);
        self.counters.concealed += samples;
        self.block(time)
    }

    /// Nothing has come: made up, for a while.
    fn make_up_for_nothing(&mut self, now: Instant) -> Option<Block> {
        let time = self.next.filter(|_| self.made_up < MADE_UP_MAX)?;
        if self.due(time).is_none_or(|due| now < due + GRACE) {
            return None;
        }
        self.scratch.clear();
        self.made_up += 1;
        if self.made_up == MADE_UP_MAX {
            // Fades out, so that the silence that follows does not click.
            self.decoder.quiet(STEP as usize, &mut self.scratch);
        } else {
            self.decoder.conceal(STEP as usize, None, &mut self.scratch);
        }
        self.counters.concealed += STEP;
        Some(self.block(time))
    }

    fn block(&mut self, time: u64) -> Block {
        self.next = Some(time.saturating_add(self.scratch.len() as u64));
        Block { time, samples: Arc::from(self.scratch.as_slice()) }
    }

    /// When [`Jitter::poll`] is due.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.waiting.front() {
            Some(first) => {
                let next = self.next.filter(|_| self.made_up < MADE_UP_MAX).unwrap_or(first.time);
                let far = first.time.saturating_sub(next) > u64::from(RATE);
                self.due(if far { first.time } else { next.min(first.time) })
            }
            None => self
                .next
                .filter(|_| self.made_up < MADE_UP_MAX)
                .and_then(|next| self.due(next))
                .map(|due| due + GRACE),
        }
    }
}
