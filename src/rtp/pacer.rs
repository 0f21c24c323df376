//! Spreads the packets of large pictures over time; small pictures leave at once.
//!
//! A bucket of credit in bytes: it holds a small picture's worth and fills at a multiple of the stream's bitrate,
//! faster when a backlog would otherwise take longer than [`DRAIN_MAX`]. Packets are written when they leave.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::base::time::Pts;
use crate::rtp::payload::Payload;

/// What may leave in one go.
const BURST_BYTES: f64 = 12_000.0;
/// Sending faster than the mean lets key pictures catch up.
const RATE_FACTOR: f64 = 2.5;
/// No picture takes longer than this to leave.
const DRAIN_MAX: Duration = Duration::from_millis(100);
/// How finely releases are spread.
const TICK: Duration = Duration::from_millis(4);
/// What may wait; more is refused by unit.
pub const QUEUE_MAX_BYTES: usize = 4 << 20;

/// A packet's payload with what its header needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paced {
    pub payload: Payload,
    pub timestamp: u32,
    pub pts: Pts,
}

/// The queue in front of the wire.
#[derive(Debug)]
pub struct Pacer {
    queue: VecDeque<Paced>,
    queued_bytes: usize,
    /// Bytes per second without a backlog.
    rate: f64,
    drain_rate: f64,
    credit: f64,
    refilled: Option<Instant>,
}

impl Pacer {
    /// `kbps`: the stream's mean bitrate.
    pub fn new(kbps: u32) -> Self {
        let mut pacer = Pacer {
            queue: VecDeque::new(),
            queued_bytes: 0,
            rate: 0.0,
            drain_rate: 0.0,
            credit: BURST_BYTES,
            refilled: None,
        };
        pacer.set_rate(kbps);
        pacer
    }

    pub fn set_rate(&mut self, kbps: u32) {
        self.rate = f64::from(kbps.max(64)) * 125.0 * RATE_FACTOR;
    }

    /// Whether a unit of so many bytes may still be queued.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.queued_bytes + bytes <= QUEUE_MAX_BYTES
    }

    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues one packet. Call [`Pacer::release`] after the last of a unit.
    pub fn push(&mut self, paced: Paced) {
        self.queued_bytes += paced.payload.len();
        self.drain_rate = self.drain_rate.max(self.queued_bytes as f64 / DRAIN_MAX.as_secs_f64());
        self.queue.push_back(paced);
    }

    /// Throws away what waits.
    pub fn clear(&mut self) {
        self.queue.clear();
        (self.queued_bytes, self.drain_rate) = (0, 0.0);
    }

    /// Hands on what may leave by `now`.
    pub fn release(&mut self, now: Instant, mut send: impl FnMut(Paced)) {
        let rate = self.rate.max(self.drain_rate);
        let passed = self.refilled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.refilled = Some(now);
        // A late call may catch up by what the burst allows and no more.
        let most = BURST_BYTES.max(rate * (2 * TICK).as_secs_f64());
        self.credit = (self.credit + rate * passed.as_secs_f64()).min(most);
        while self.credit > 0.0 {
            let Some(paced) = self.queue.pop_front() else {
                break;
            };
            self.credit -= paced.payload.len() as f64;
            self.queued_bytes -= paced.payload.len();
            send(paced);
        }
        if self.queue.is_empty() {
            self.drain_rate = 0.0;
        }
    }

    /// When to release again.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.queue.is_empty() {
            return None;
        }
        self.refilled.map(|at| at + TICK)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::nal;
    use crate::rtp::payload::h264::{PacketizationMode, Packetizer};

    /// Queues one slice and returns the milliseconds at which its packets left.
    fn leave(kbps: u32, slice_bytes: usize) -> Vec<u64> {
        let start = Instant::now();
        let mut pacer = Pacer::new(kbps);
        let mut unit = Vec::new();
        nal::push(&mut unit, &vec![0x65; slice_bytes]);
        let packetizer = Packetizer { mode: PacketizationMode::NonInterleaved, max_payload: 1200 };
        packetizer.packetize(&Bytes::from(unit), |payload| {
            pacer.push(Paced { payload, timestamp: 0, pts: Pts::ZERO });
        });
        let mut times = Vec::new();
        let mut now = start;
        loop {
            pacer.release(now, |_| times.push((now - start).as_millis() as u64));
            let Some(next) = pacer.wake_at() else {
                return times;
            };
            now = next;
        }
    }

    #[test]
    fn a_small_picture_leaves_at_once() {
        assert_eq!(leave(800, 9000), [0; 8]);
    }

    #[test]
    fn a_key_picture_is_spread_and_still_leaves_in_time() {
        for (kbps, bytes) in [(500, 60_000), (500, 1_190_000), (4000, 300_000)] {
            let times = leave(kbps, bytes);
            let most = (0..=200).map(|ms| times.iter().filter(|at| **at == ms).count()).max();
            assert!(
                most.is_some_and(|most| most <= 12 + times.len() / 10),
                "{most:?} of {} at once",
                times.len()
            );
            let last = times.last().copied().unwrap_or_default();
            assert!((20..=110).contains(&last), "{bytes} bytes took {last} ms");
        }
    }

    #[test]
    fn order_is_kept_and_the_queue_knows_its_limit() {
        let mut pacer = Pacer::new(100);
        assert!(pacer.has_room(QUEUE_MAX_BYTES) && !pacer.has_room(QUEUE_MAX_BYTES + 1));
        let unit: Vec<u8> = [[0, 0, 1, 0x41].to_vec(), vec![7; 1000]].concat().repeat(40);
        let packetizer = Packetizer { mode: PacketizationMode::SingleNal, max_payload: 1200 };
        let mut number = 0;
        packetizer.packetize(&Bytes::from(unit), |payload| {
            pacer.push(Paced { payload, timestamp: number, pts: Pts::ZERO });
            number += 1;
        });
        let (mut left, mut now) = (Vec::new(), Instant::now());
        while pacer.queued_bytes() > 0 {
            pacer.release(now, |paced| left.push(paced.timestamp));
            now += TICK;
        }
        assert_eq!(left, (0..40).collect::<Vec<u32>>());
    }
}
