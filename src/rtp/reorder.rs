//! Video packets back in sequence: what is in order passes without a copy, what came early waits for what is
//! missing, bounded in time, packets and bytes. What does not come in time is a gap.
//!
//! Audio does not wait here: its playout (`jitter`) orders by time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::media::access_unit::VideoCodec;
use crate::rtp::payload::start::begins_key;

/// Bounds on what waits. A key picture of 1,000 packets fits twice.
const PACKETS_MAX: usize = 2048;
const BYTES_MAX: usize = 4 << 20;
/// Buffers kept for the next disorder.
const SPARE_MAX: usize = 64;

/// The part of a packet that payload formats need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What its payload type stands for.
    pub codec: VideoCodec,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: &'a [u8],
    /// Packets are missing directly before this one; found out here.
    pub after_gap: bool,
}

#[derive(Debug)]
struct Waiting {
    extended: u64,
    codec: VideoCodec,
    timestamp: u32,
    marker: bool,
    /// Empty: the packet only holds its place.
    payload: Vec<u8>,
    since: Instant,
}

/// Sorts one stream.
#[derive(Debug)]
pub struct Reorder {
    wait: Duration,
    next: Option<u64>,
    /// A gap was given up and nothing was handed on since.
    gap: bool,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    late: u64,
}

impl Reorder {
    /// `wait`: how long an early packet is held for those before it.
    pub fn new(wait: Duration) -> Self {
        Reorder {
            wait,
            next: None,
            gap: false,
            waiting: VecDeque::new(),
            bytes: 0,
            spare: Vec::new(),
            late: 0,
        }
    }

    /// Gaps wait so long from now on.
    pub fn set_wait(&mut self, wait: Duration) {
        self.wait = wait;
    }

    /// The number handed on next; packets before it are over.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// Packets that came after their gap was given up.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Takes a packet by its extended number and hands on everything that is now in order. One without payload
    /// (padding, another payload type) only holds its place.
    pub fn push(&mut self, now: Instant, extended: u64, piece: Piece<'_>, mut take: impl FnMut(Piece<'_>)) {
        let next = *self.next.get_or_insert(extended);
        if extended < next {
            self.late += 1;
            return;
        }
        if extended == next {
            self.next = Some(next + 1);
            if !piece.payload.is_empty() {
                take(Piece { after_gap: std::mem::take(&mut self.gap), ..piece });
            }
            self.drain(&mut take);
            return;
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(piece.payload);
        self.bytes += kept.len();
        let Piece { codec, timestamp, marker, .. } = piece;
        let packet = Waiting { extended, codec, timestamp, marker, payload: kept, since: now };
        let behind = self.waiting.iter().rev().take_while(|other| other.extended > extended).count();
        let place = self.waiting.len() - behind;
        self.waiting.insert(place, packet);
        // A key picture is whole when its last packet comes, or one that was missing in it.
        if marker || behind > 0 {
            self.skip_to_key(place, &mut take);
        }
        while self.waiting.len() > PACKETS_MAX || self.bytes > BYTES_MAX {
            self.give_up_gap(&mut take);
        }
        self.handle_time(now, take);
    }

    /// Gives up gaps that waited long enough.
    pub fn handle_time(&mut self, now: Instant, mut take: impl FnMut(Piece<'_>)) {
        while self.wake_at().is_some_and(|at| now >= at) {
            self.give_up_gap(&mut take);
        }
    }

    /// When a gap will be given up: counted from the oldest packet behind it.
    pub fn wake_at(&self) -> Option<Instant> {
        // Arrival order is nearly sequence order, and a later one behind the first only waits shorter.
        self.waiting.front().map(|packet| packet.since + self.wait)
    }

    /// The stream begins anew at whatever comes next.
    pub fn restart(&mut self, mut take: impl FnMut(Piece<'_>)) {
        while !self.waiting.is_empty() {
            self.give_up_gap(&mut take);
        }
        self.next = None;
        self.gap = false;
    }

    fn give_up_gap(&mut self, take: &mut impl FnMut(Piece<'_>)) {
        if let Some(packet) = self.waiting.pop_front() {
            self.gap = true;
            self.hand_on(packet, take);
            self.drain(take);
        }
    }

    /// Where the packet at `place` completes a key picture, nothing before that is waited for.
    fn skip_to_key(&mut self, place: usize, take: &mut impl FnMut(Piece<'_>)) {
        let follows = |before: &Waiting, after: &Waiting| {
            before.extended + 1 == after.extended && before.timestamp == after.timestamp
        };
        let mut last = place;
        while self.waiting.get(last + 1).is_some_and(|next| follows(&self.waiting[last], next)) {
            last += 1;
        }
        if !self.waiting.get(last).is_some_and(|packet| packet.marker) {
            return;
        }
        let mut first = place;
        while first > 0 && follows(&self.waiting[first - 1], &self.waiting[first]) {
            first -= 1;
        }
        if !self.waiting.get(first).is_some_and(|packet| begins_key(packet.codec, &packet.payload)) {
            return;
        }
        for packet in self.waiting.drain(..first) {
            self.bytes -= packet.payload.len();
        }
        self.give_up_gap(take);
    }

    fn drain(&mut self, take: &mut impl FnMut(Piece<'_>)) {
        while self.waiting.front().is_some_and(|packet| Some(packet.extended) == self.next) {
            if let Some(packet) = self.waiting.pop_front() {
                self.hand_on(packet, take);
            }
        }
    }

    fn hand_on(&mut self, packet: Waiting, take: &mut impl FnMut(Piece<'_>)) {
        let Waiting { extended, codec, timestamp, marker, payload, .. } = packet;
        self.next = Some(extended + 1);
        self.bytes -= payload.len();
        if !payload.is_empty() {
            let after_gap = std::mem::take(&mut self.gap);
            take(Piece { codec, timestamp, marker, payload: &payload, after_gap });
        }
        if self.spare.len() < SPARE_MAX {
            self.spare.push(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Pushes `(milliseconds, number)` and returns `number` of everything handed on, `!` behind it after a gap.
    fn play(packets: &[(u64, u64)]) -> (String, Reorder) {
        let start = Instant::now();
        let mut reorder = Reorder::new(MS(50));
        let mut out = String::new();
        for (ms, number) in packets {
            let bytes = [*number as u8];
            reorder.push(start + MS(*ms), *number, Piece { payload: &bytes, ..Piece::default() }, |piece| {
                out += &format!("{}{} ", piece.payload[0], if piece.after_gap { "!" } else { "" });
            });
        }
        (out.trim_end().to_owned(), reorder)
    }

    #[test]
    fn order_is_restored_and_loss_is_a_gap() {
        let check =
            |packets: &[(u64, u64)], expected: &str| assert_eq!(play(packets).0, expected, "{packets:?}");
        check(&[(0, 1), (1, 2), (2, 3)], "1 2 3");
        check(&[(0, 1), (1, 3), (2, 2), (3, 4)], "1 2 3 4");
        check(&[(0, 1), (1, 5), (2, 4), (3, 3), (4, 2)], "1 2 3 4 5");
        check(&[(0, 1), (1, 3), (20, 4), (51, 5)], "1 3! 4 5");
        check(&[(0, 1), (1, 3), (51, 5), (60, 2), (101, 6)], "1 3! 5! 6");
    }

    #[test]
    fn packets_without_payload_only_hold_their_place() {
        let start = Instant::now();
        let mut reorder = Reorder::new(MS(50));
        let mut out = Vec::new();
        for (number, payload) in [(1, &[1u8][..]), (2, &[]), (3, &[3]), (5, &[]), (6, &[6])] {
            let piece = Piece { payload, ..Piece::default() };
            reorder.push(start + MS(number * 30), number, piece, |piece| {
                out.push((piece.payload[0], piece.after_gap));
            });
        }
        reorder.handle_time(start + MS(300), |piece| out.push((piece.payload[0], piece.after_gap)));
        assert_eq!(out, [(1, false), (3, false), (6, true)]);
    }

    #[test]
    fn late_packets_are_counted_and_memory_is_bounded() {
        let (_, reorder) = play(&[(0, 1), (1, 3), (51, 4), (52, 2)]);
        assert_eq!((reorder.late(), reorder.wake_at()), (1, None));
        let flood: Vec<(u64, u64)> = (0..10_000).map(|n| (0, 10 + n * 2)).collect();
        let (_, reorder) = play(&flood);
        assert!(reorder.waiting.len() <= PACKETS_MAX);
    }

    #[test]
    fn behind_a_whole_key_picture_nothing_older_is_waited_for() {
        let start = Instant::now();
        let mut reorder = Reorder::new(MS(500));
        let mut out = Vec::new();
        // 2 never comes; 3 is a lone part of a picture, 4 to 6 are a key picture of which 5 comes last, 7 follows.
        let packets: [(u64, u32, &[u8]); 6] = [
            (1, 1, &[0x41, 0x9a, 1]),
            (3, 2, &[0x41, 0x9a, 3]),
            (4, 3, &[0x7c, 0x85, 0x88, 4]),
            (6, 3, &[0x7c, 0x45, 6]),
            (7, 4, &[0x41, 0x9a, 7]),
            (5, 3, &[0x7c, 0x05, 5]),
        ];
        for (number, timestamp, payload) in packets {
            let marker = !matches!(number, 4 | 5);
            let piece = Piece { timestamp, marker, payload, ..Piece::default() };
            reorder.push(start + MS(number), number, piece, |piece| {
                out.push((*piece.payload.last().expect("bytes"), piece.after_gap));
            });
        }
        assert_eq!(out, [(1, false), (4, true), (5, false), (6, false), (7, false)]);
        assert!(reorder.waiting.is_empty() && reorder.bytes == 0 && reorder.next() == Some(8));
    }

    #[test]
    fn a_key_picture_of_a_thousand_packets_waits_for_its_first() {
        let mut packets: Vec<(u64, u64)> = vec![(0, 1)];
        packets.extend((3..1003).map(|n| (1 + n / 50, n)));
        packets.push((30, 2));
        let (out, reorder) = play(&packets);
        assert!(!out.contains('!') && out.split(' ').count() == 1002);
        assert!(reorder.waiting.is_empty() && reorder.bytes == 0);
    }
}
