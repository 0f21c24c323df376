//! Packets that were sent and may be asked for again (RFC 4585 §6.2.1): the newest ones, bounded in number, bytes and
//! age. Each leaves again at most once per round trip, all of them together within a budget, so that requests cannot
//! make this box a flood.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

const PACKETS_MAX: usize = 2048;
const BYTES_MAX: usize = 2 << 20;
/// Whoever still misses an older one asks for a key picture.
const AGE_MAX: Duration = Duration::from_secs(1);
/// A round trip is taken to be at least this.
const AGAIN_MIN: Duration = Duration::from_millis(10);
/// Packets sent again take at most this share of the stream's bitrate, and so much of it at once.
const SHARE: f64 = 0.3;
const BURST: Duration = Duration::from_millis(800);

/// What came of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryCounters {
    /// Requests, each for one packet.
    pub asked: u64,
    /// Packets asked for at least once: they were lost.
    pub lost: u64,
    /// Sent again.
    pub sent: u64,
    /// Too old, never sent, asked for too soon again, or beyond the budget.
    pub refused: u64,
}

#[derive(Debug)]
struct Sent {
    packet: Bytes,
    at: Instant,
    asked: bool,
    again: Option<Instant>,
}

/// The newest packets of one stream.
#[derive(Debug)]
pub struct History {
    /// In sequence; the first has the number `first`.
    packets: VecDeque<Sent>,
    first: u16,
    bytes: usize,
    /// Bytes a second that may be sent again, and how many may leave now.
    rate: f64,
    credit: f64,
    refilled: Option<Instant>,
    counters: HistoryCounters,
}

impl History {
    /// `kbps`: the stream's bitrate.
    pub fn new(kbps: u32) -> Self {
        let mut history = History {
            packets: VecDeque::new(),
            first: 0,
            bytes: 0,
            rate: 0.0,
            credit: 0.0,
            refilled: None,
            counters: HistoryCounters::default(),
        };
        history.set_rate(kbps);
        history.credit = history.rate * BURST.as_secs_f64();
        history
    }

    pub fn set_rate(&mut self, kbps: u32) {
        self.rate = f64::from(kbps.max(64)) * 125.0 * SHARE;
    }

    pub fn counters(&self) -> HistoryCounters {
        self.counters
    }

    /// Remembers a packet as it was sent. Numbers come in sequence; after a jump everything before it is forgotten.
    pub fn keep(&mut self, now: Instant, sequence: u16, packet: &Bytes) {
        if self.first.wrapping_add(self.packets.len() as u16) != sequence {
            (self.first, self.bytes) = (sequence, 0);
            self.packets.clear();
        }
        self.bytes += packet.len();
        self.packets.push_back(Sent { packet: packet.clone(), at: now, asked: false, again: None });
        while self.packets.len() > PACKETS_MAX || self.bytes > BYTES_MAX || self.is_old(now) {
            let Some(oldest) = self.packets.pop_front() else { return };
            self.bytes -= oldest.packet.len();
            self.first = self.first.wrapping_add(1);
        }
    }

    fn is_old(&self, now: Instant) -> bool {
        self.packets.front().is_some_and(|sent| now.saturating_duration_since(sent.at) > AGE_MAX)
    }

    /// The packet to send again. `None`: it is not, and that is counted.
    pub fn again(&mut self, now: Instant, sequence: u16, round_trip: Duration) -> Option<Bytes> {
        self.counters.asked += 1;
        let found = self.find(now, sequence, round_trip);
        match found {
            Some(_) => self.counters.sent += 1,
            None => self.counters.refused += 1,
        }
        found
    }

    fn find(&mut self, now: Instant, sequence: u16, round_trip: Duration) -> Option<Bytes> {
        let passed = self.refilled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.refilled = Some(now);
        let most = self.rate * BURST.as_secs_f64();
        self.credit = (self.credit + self.rate * passed.as_secs_f64()).min(most);
        let sent = self.packets.get_mut(usize::from(sequence.wrapping_sub(self.first)))?;
        self.counters.lost += u64::from(!std::mem::replace(&mut sent.asked, true));
        let lately = |at: Instant| now.saturating_duration_since(at) < round_trip.max(AGAIN_MIN);
        if now.saturating_duration_since(sent.at) > AGE_MAX
            || sent.again.is_some_and(lately)
            || self.credit <= 0.0
        {
            return None;
        }
        self.credit -= sent.packet.len() as f64;
        sent.again = Some(now);
        Some(sent.packet.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn packet(number: u16) -> Bytes {
        [number.to_be_bytes().to_vec(), vec![0; 998]].concat().into()
    }

    /// Numbers from `first`, one every 5 ms.
    fn filled(start: Instant, first: u16, count: u16) -> History {
        let mut history = History::new(1600);
        for n in 0..count {
            let number = first.wrapping_add(n);
            history.keep(start + MS(u64::from(n) * 5), number, &packet(number));
        }
        history
    }

    #[test]
    fn what_was_sent_lately_is_sent_again_once_per_round_trip() {
        let start = Instant::now();
        let mut history = filled(start, 65_500, 100);
        let now = start + MS(500);
        for number in [65_510, 20] {
            assert_eq!(history.again(now, number, MS(40)), Some(packet(number)));
            assert_eq!(history.again(now + MS(30), number, MS(40)), None);
            assert_eq!(history.again(now + MS(40), number, MS(40)), Some(packet(number)));
        }
        assert_eq!(history.again(now, 70, MS(40)), None, "never sent");
        assert_eq!(history.again(start + MS(1600), 63, MS(40)), None, "too old");
        assert_eq!(history.counters(), HistoryCounters { asked: 8, lost: 3, sent: 4, refused: 4 });
    }

    #[test]
    fn a_storm_of_requests_stays_within_the_budget() {
        let start = Instant::now();
        let mut history = filled(start, 0, 1);
        let mut bytes = 0;
        for ms in 0..10_000u64 {
            let now = start + MS(ms);
            if ms % 5 == 0 {
                let number = (ms / 5 + 1) as u16;
                history.keep(now, number, &packet(number));
            }
            for back in 0..50 {
                let number = ((ms / 5 + 1) as u16).wrapping_sub(back);
                bytes += history.again(now, number, MS(10)).map_or(0, |packet| packet.len());
            }
        }
        let share = bytes as f64 / (10.0 * 1_600_000.0 / 8.0);
        assert!((0.25..0.36).contains(&share), "{share}");
    }

    #[test]
    fn memory_is_bounded_in_packets_bytes_and_age() {
        let start = Instant::now();
        let mut history = History::new(1000);
        for n in 0..20_000u32 {
            history.keep(start, n as u16, &packet(n as u16));
            assert!(history.packets.len() <= PACKETS_MAX && history.bytes <= BYTES_MAX);
        }
        history.keep(start + MS(3000), 20_000, &packet(1));
        assert_eq!(history.packets.len(), 1);
        history.keep(start + MS(3000), 5, &packet(5));
        assert_eq!((history.packets.len(), history.first), (1, 5), "a jump of the numbers begins anew");
    }
}
