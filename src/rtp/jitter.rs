//! The audio playout buffer: packets in, one block of 20 ms out per tick, at a delay that follows the network.
//!
//! ```text
//! wait before playing ── what 99 % of packets need (10 to 250 ms, both ways adaptive)
//!                     ├─ up to a packet, until the next tick that needs one
//!                     └─ decoded and not yet played: what stretching left over
//! ```
//! The delay is measured against the fastest packets of the last seconds, which also follows the sender's clock: a
//! drifting stream shows as a growing or shrinking wait. It is corrected by playing a little faster or slower
//! ([`Pace`]), never by leaving out packets that came in time. Silence (timestamps go on, numbers do not) is not loss.
//! Decoding, concealment and stretching are the codecs' work; video waits in `reorder`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::rtp::delay::Timing;
use crate::rtp::quality::{BurstFigures, Bursts};
use crate::rtp::sequence::Sequence;

/// Length of a block.
const BLOCK_US: i64 = 20_000;
/// A wait this far outside of its bounds is corrected.
const ABOVE_US: i64 = 5_000;
const BELOW_US: i64 = 5_000;
/// The shortest piece that can be left out: the period of a high voice.
const PIECE_US: i64 = 2_500;
/// Pauses between corrections: what is far off goes faster.
const CORRECT_LEISURELY: Duration = Duration::from_millis(200);
const CORRECT_SLOWLY: Duration = Duration::from_millis(100);
const CORRECT_FAST: Duration = Duration::from_millis(40);
const FAST_FROM_US: i64 = 40_000;
/// An empty buffer is concealed for so long, then it is silence.
const CONCEAL_MAX_US: i64 = 200_000;
/// Longer holes are not bridged.
const HOLE_MAX_US: i64 = 200_000;
/// While playing goes on, packets are given up only when they came this much too late.
const STALE_US: i64 = 120_000;
/// Bounds on what waits: 64 packets of a quarter second of G.711.
const PACKETS_MAX: usize = 64;
const PAYLOAD_MAX: usize = 2048;
/// Timestamps this far off both arrival and numbering have jumped.
const JUMP_US: i64 = 500_000;
/// A repaired packet that comes after all is known for one among so many.
const REPAIRS_KEPT: usize = 16;
/// Loss above this is worth waiting for the packet that repairs it.
const REPAIR_FROM: f32 = 0.01;

/// One received packet.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub extended: u64,
    pub timestamp: u32,
    pub payload_type: u8,
    pub payload: &'a [u8],
    /// Its length on the RTP clock; `None`: only timestamps tell.
    pub samples: Option<u32>,
    /// It carries the one before it once more, in lower quality (Opus in-band FEC).
    pub repairs: bool,
}

/// How a block is taken from what is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Steady,
    /// Leave out a piece that is not missed, at most so many samples of the RTP clock. `urgent`: even if it is heard.
    Faster {
        at_most: u32,
        urgent: bool,
    },
    /// Put in a piece.
    Slower,
}

/// What to do in this tick. All but the last two want to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Decode [`JitterBuffer::payload`], `samples` long on the RTP clock, and leave out the first `skip` of them.
    Packet { payload_type: u8, timestamp: u32, samples: u32, skip: u32 },
    /// Conceal so many samples of the RTP clock. `repairable`: the packet behind them ([`JitterBuffer::following`]) may
    /// hold them; if it did, say so ([`JitterBuffer::repaired`]).
    Lost { samples: u32, repairable: bool },
    /// Enough is decoded for a block.
    Play(Pace),
    /// Nobody speaks: play what is left, then silence.
    Quiet,
}

/// Figures of the buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JitterCounters {
    /// Packets.
    pub played: u64,
    /// Packets that were missing when the one behind them was played, late ones too.
    pub missing: u64,
    /// Runs of missing packets.
    pub gaps: u64,
    /// Of the missing, those whose sound was taken from the packet behind them, and runs of which nothing else missed.
    pub repaired: u64,
    pub gaps_repaired: u64,
    /// Of the repaired, those that came after all.
    pub repaired_late: u64,
    /// Microseconds made up, and those the packet behind them held.
    pub concealed_us: u64,
    pub repaired_us: u64,
    /// Packets that came too late to be played.
    pub late: u64,
    pub overflow: u64,
    pub timestamp_jumps: u64,
}

#[derive(Debug)]
struct Slot {
    extended: u64,
    timestamp: i64,
    /// As the sender wrote it.
    written: u32,
    payload_type: u8,
    payload: Vec<u8>,
    samples: i64,
    repairs: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Waiting for the first packet that is due.
    Idle,
    Playing {
        /// Timestamp behind everything given out.
        next: i64,
        /// Number of the packet given out last.
        last: u64,
        /// Samples concealed since the buffer ran empty.
        concealed: i64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    timestamp: u32,
    unwrapped: i64,
    extended: u64,
    arrival_us: i64,
}

/// See the module.
#[derive(Debug)]
pub struct JitterBuffer {
    start: Instant,
    clock_rate: i64,
    block_samples: i64,
    slots: VecDeque<Slot>,
    spare: Vec<Vec<u8>>,
    payload: Vec<u8>,
    newest: Option<Newest>,
    /// Length of a packet: from its bytes, or from the timestamps of two in a row.
    packet_samples: i64,
    /// The sender said it is busy with something else than audio.
    pausing: bool,
    timing: Timing,
    state: State,
    /// How this tick's block is taken, once decided.
    pace: Option<Pace>,
    corrected: Instant,
    /// The packet played last and those since that came too late, for counting what is missing.
    last_played: Option<u64>,
    late_since: u64,
    /// Share of packets missing lately.
    missed: f32,
    bursts: Bursts,
    /// The packet before the next one was taken from that one.
    mended: bool,
    /// Numbers of the last packets that were.
    repairs: VecDeque<u64>,
    /// How long what is played waits, beyond the fastest packets; smoothed.
    wait_us: i64,
    /// How much less it could wait.
    spare_us: i64,
    /// What is played since when: the timestamp by the numbers of this buffer.
    playing: Option<(Instant, i64)>,
    counters: JitterCounters,
}

impl JitterBuffer {
    pub fn new(now: Instant, clock_rate: u32) -> Self {
        let clock_rate = i64::from(clock_rate.max(50));
        JitterBuffer {
            start: now,
            clock_rate,
            block_samples: clock_rate * BLOCK_US / 1_000_000,
            slots: VecDeque::new(),
            spare: Vec::new(),
            payload: Vec::new(),
            newest: None,
            packet_samples: clock_rate * BLOCK_US / 1_000_000,
            pausing: false,
            timing: Timing::default(),
            state: State::Idle,
            pace: None,
            corrected: now,
            last_played: None,
            late_since: 0,
            missed: 0.0,
            bursts: Bursts::default(),
            mended: false,
            repairs: VecDeque::with_capacity(REPAIRS_KEPT),
            wait_us: 0,
            spare_us: 0,
            playing: None,
            counters: JitterCounters::default(),
        }
    }

    /// Another stream begins: everything buffered belongs to the past.
    pub fn restart(&mut self) {
        while let Some(slot) = self.slots.pop_front() {
            self.recycle(slot);
        }
        self.newest = None;
        self.pausing = false;
        self.timing.rebase();
        self.state = State::Idle;
        self.last_played = None;
        self.late_since = 0;
        self.mended = false;
        self.repairs.clear();
    }

    pub fn counters(&self) -> JitterCounters {
        self.counters
    }

    /// How what is missing was spread.
    pub fn bursts(&self) -> BurstFigures {
        self.bursts.figures()
    }

    /// The wait aimed at, beyond the fastest packets.
    pub fn target(&self) -> Duration {
        Duration::from_micros(self.timing.target_us().unsigned_abs())
    }

    /// How long sound waits here from its arrival on the fastest path until it is played.
    pub fn delay(&self) -> Duration {
        Duration::from_micros(self.wait_us.max(0).unsigned_abs())
    }

    /// A moment, and the timestamp the sender gave to what was played in it; `None`: nothing is played now.
    pub fn playing(&self) -> Option<(Instant, u32)> {
        let (newest, (at, timestamp)) = (self.newest?, self.playing?);
        let behind = newest.unwrapped - timestamp;
        Some((at, newest.timestamp.wrapping_sub(behind as u32)))
    }

    /// The bytes of the last [`Next::Packet`].
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The bytes of the packet behind what is lost.
    pub fn following(&self) -> Option<&[u8]> {
        self.slots.front().map(|slot| slot.payload.as_slice())
    }

    fn us(&self, samples: i64) -> i64 {
        samples.saturating_mul(1_000_000) / self.clock_rate
    }

    fn now_us(&self, now: Instant) -> i64 {
        i64::try_from(now.saturating_duration_since(self.start).as_micros()).unwrap_or(i64::MAX / 4)
    }

    /// How long the sample of this time has waited or would have, had it come as fast as the fastest.
    fn wait_of(&self, now: Instant, timestamp: i64) -> i64 {
        self.now_us(now) - self.timing.base_us() - self.us(timestamp)
    }

    /// How much earlier ticks could come and packets still waited as long as they need: for whoever sets the beat.
    /// `None`: nothing is played now.
    pub fn spare(&self) -> Option<Duration> {
        self.playing?;
        Some(Duration::from_micros(self.spare_us.max(0).unsigned_abs()))
    }

    /// The sender pauses from this packet on: one of another kind (telephone-event, comfort noise) that took its place in
    /// the sequence, or one that says so itself (Opus).
    pub fn pause(&mut self, extended: u64) {
        if self.newest.is_some_and(|newest| extended >= newest.extended) {
            self.pausing = true;
        }
    }

    /// Takes a packet that is no duplicate.
    pub fn push(&mut self, now: Instant, packet: Incoming<'_>) {
        let samples = packet.samples.map_or(self.packet_samples, i64::from);
        if packet.payload.is_empty() || samples == 0 {
            return;
        }
        if packet.payload.len() > PAYLOAD_MAX {
            self.counters.overflow += 1;
            return;
        }
        let arrival_us = self.now_us(now);
        let timestamp = self.unwrap(arrival_us, &packet);
        if packet.samples.is_some() {
            self.packet_samples = samples;
        }
        let repair = packet.repairs && self.missed > REPAIR_FROM;
        self.timing.more_us =
            self.us(self.block_samples - self.grid()) + if repair { self.us(samples) } else { 0 };
        self.timing.arrive(arrival_us - self.us(timestamp));
        if let State::Playing { next, .. } = self.state
            && timestamp + samples <= next
        {
            self.counters.late += 1;
            self.counters.repaired_late += u64::from(self.repairs.contains(&packet.extended));
            // Behind a packet that was played it was missed already.
            self.late_since += u64::from(self.last_played.is_none_or(|last| packet.extended > last));
            return;
        }
        if self.slots.len() >= PACKETS_MAX {
            self.counters.overflow += 1;
            self.drop_head();
        }
        let mut payload = self.spare.pop().unwrap_or_default();
        payload.clear();
        payload.extend_from_slice(packet.payload);
        let Incoming { extended, payload_type, repairs, timestamp: written, .. } = packet;
        let slot = Slot { extended, timestamp, written, payload_type, payload, samples, repairs };
        let behind = self.slots.iter().rev().take_while(|other| other.extended > extended).count();
        self.slots.insert(self.slots.len() - behind, slot);
    }

    /// Packets and ticks meet again after so many samples.
    fn grid(&self) -> i64 {
        gcd(self.packet_samples, self.block_samples).max(1)
    }

    /// 64-bit timestamps without wraps and jumps.
    fn unwrap(&mut self, arrival_us: i64, packet: &Incoming<'_>) -> i64 {
        let Incoming { extended, timestamp, .. } = *packet;
        let Some(newest) = self.newest else {
            let unwrapped = i64::from(timestamp);
            self.newest = Some(Newest { timestamp, unwrapped, extended, arrival_us });
            return unwrapped;
        };
        let mut step = i64::from(timestamp.wrapping_sub(newest.timestamp) as i32);
        let packets = extended as i64 - newest.extended as i64;
        let by_number = packets * self.packet_samples;
        let by_arrival = arrival_us - newest.arrival_us;
        let off_arrival = (self.us(step) - by_arrival).abs() > JUMP_US;
        if off_arrival && self.us(step - by_number).abs() > JUMP_US {
            self.counters.timestamp_jumps += 1;
            step = by_number;
        }
        if packet.samples.is_none() && packets == 1 && (1..=6 * self.block_samples).contains(&step) {
            self.packet_samples = step;
        }
        let unwrapped = newest.unwrapped + step;
        if packets > 0 {
            self.pausing = false;
            self.newest = Some(Newest { timestamp, unwrapped, extended, arrival_us });
        }
        unwrapped
    }

    /// Decides what comes next in this tick; ticks come every 20 ms. `buffered`: what is decoded and not played yet,
    /// in samples of the RTP clock.
    pub fn next(&mut self, now: Instant, buffered: u32, sequence: &Sequence) -> Next {
        let next = self.decide(now, i64::from(buffered), sequence);
        match next {
            Next::Lost { samples, .. } => {
                self.counters.concealed_us += self.us(i64::from(samples)).unsigned_abs();
            }
            Next::Play(_) => self.pace = None,
            Next::Quiet => (self.pace, self.playing) = (None, None),
            Next::Packet { .. } => {}
        }
        next
    }

    fn decide(&mut self, now: Instant, buffered: i64, sequence: &Sequence) -> Next {
        let State::Playing { next, last, concealed } = self.state else {
            return self.begin(now, sequence);
        };
        let pace = match self.pace {
            Some(pace) => pace,
            None => self.choose_pace(now, next - buffered, buffered),
        };
        self.pace = Some(pace);
        if buffered >= self.wanted(pace) {
            return Next::Play(pace);
        }
        if concealed > 0 {
            self.skip_stale(now, STALE_US);
        }
        self.discard_before(next);
        let Some(head) = self.slots.front() else {
            return self.starve(buffered, next, last, concealed);
        };
        let gap = head.timestamp - next;
        if gap <= 0 {
            return self.give(sequence);
        }
        if sequence.seen_between(last, head.extended) {
            // The sender paused: its timestamps went on, its numbers did not.
            self.state = State::Idle;
            return self.begin(now, sequence);
        }
        // What was concealed while nothing came was this gap.
        let bridged = concealed.min(gap);
        let (next, gap) = (next + bridged, gap - bridged);
        self.state = State::Playing { next, last, concealed: 0 };
        if gap == 0 {
            return self.give(sequence);
        }
        if self.us(gap) > HOLE_MAX_US {
            self.state = State::Idle;
            return self.begin(now, sequence);
        }
        self.lose(next, last, gap)
    }

    /// Conceals some of a gap; the part the next packet can repair on its own.
    fn lose(&mut self, next: i64, last: u64, gap: i64) -> Next {
        let repairable = self.slots.front().filter(|head| head.repairs).map_or(0, |head| head.samples);
        let whole = gap <= repairable;
        let samples = if whole { gap } else { (gap - repairable).min(self.block_samples) };
        self.state = State::Playing { next: next + samples, last, concealed: 0 };
        Next::Lost { samples: samples as u32, repairable: whole }
    }

    fn begin(&mut self, now: Instant, sequence: &Sequence) -> Next {
        self.skip_stale(now, BLOCK_US + ABOVE_US);
        let Some(head) = self.slots.front() else {
            return Next::Quiet;
        };
        let (timestamp, last) = (head.timestamp, head.extended.saturating_sub(1));
        let wait = self.wait_of(now, timestamp);
        if wait < self.timing.target_us() {
            return Next::Quiet;
        }
        self.wait_us = wait;
        self.state = State::Playing { next: timestamp, last, concealed: 0 };
        self.pace = Some(Pace::Steady);
        self.give(sequence)
    }

    fn starve(&mut self, buffered: i64, next: i64, last: u64, concealed: i64) -> Next {
        if buffered >= self.block_samples {
            return Next::Play(Pace::Steady);
        }
        if self.pausing || self.us(concealed) >= CONCEAL_MAX_US {
            self.state = State::Idle;
            return Next::Quiet;
        }
        // No more than this block needs: what comes next may be there in the next tick.
        let samples = self.block_samples - buffered;
        self.state = State::Playing { next, last, concealed: concealed + samples };
        Next::Lost { samples: samples as u32, repairable: false }
    }

    /// While the packets behind it are due as well, the first of too many is left out.
    fn skip_stale(&mut self, now: Instant, beyond_us: i64) {
        let target = self.timing.target_us();
        while let [Some(head), Some(second)] = [self.slots.front(), self.slots.get(1)] {
            let stale = self.wait_of(now, head.timestamp) > target + beyond_us;
            if !stale || self.wait_of(now, second.timestamp) < target {
                return;
            }
            self.counters.late += 1;
            self.late_since += 1;
            self.drop_head();
            if let (State::Playing { next, .. }, Some(head)) = (&mut self.state, self.slots.front()) {
                *next = (*next).max(head.timestamp);
            }
        }
    }

    /// Whether the wait of what is played now suits the network.
    fn choose_pace(&mut self, now: Instant, position: i64, buffered: i64) -> Pace {
        let (grid, rest) = (self.grid(), buffered % self.grid());
        let wait = self.wait_of(now, position);
        self.wait_us += (wait - self.wait_us) / 16;
        self.playing = Some((now, position));
        // Negative: packets come too late too often. A grid or more: even a packet later they would come in time.
        let spare = wait - self.us(rest) - self.timing.target_us();
        self.spare_us = spare;
        let grid_us = self.us(grid);
        let pause = now.saturating_duration_since(self.corrected);
        if spare < -BELOW_US {
            // A drifting clock has time; jitter that grows has none.
            if pause < if spare < -2 * BELOW_US { CORRECT_FAST } else { CORRECT_LEISURELY } {
                return Pace::Steady;
            }
            self.corrected = now;
            return Pace::Slower;
        }
        let whole = if spare >= grid_us + ABOVE_US { spare / grid_us } else { 0 };
        let at_most = (rest + whole * grid).min(self.block_samples);
        let wanted = match whole {
            0 => CORRECT_LEISURELY,
            _ if spare > FAST_FROM_US => CORRECT_FAST,
            _ => CORRECT_SLOWLY,
        };
        if self.us(at_most) < PIECE_US || pause < wanted {
            return Pace::Steady;
        }
        self.corrected = now;
        Pace::Faster { at_most: at_most as u32, urgent: spare > FAST_FROM_US + grid_us }
    }

    /// What must be decoded for a block: leaving something out takes more.
    fn wanted(&self, pace: Pace) -> i64 {
        match pace {
            Pace::Faster { at_most, .. } if i64::from(at_most) >= self.grid() => {
                self.block_samples + i64::from(at_most)
            }
            Pace::Faster { .. } | Pace::Steady | Pace::Slower => self.block_samples,
        }
    }

    /// Drops packets that end at or before `next`.
    fn discard_before(&mut self, next: i64) {
        while self.slots.front().is_some_and(|slot| slot.timestamp + slot.samples <= next) {
            self.counters.late += 1;
            self.late_since += 1;
            self.drop_head();
        }
    }

    /// So many samples of the RTP clock of the last [`Next::Lost`] were in the packet behind it: the listener missed
    /// nothing but a little quality.
    pub fn repaired(&mut self, samples: u32) {
        let us = self.us(i64::from(samples)).unsigned_abs().min(self.counters.concealed_us);
        self.counters.concealed_us -= us;
        self.counters.repaired_us += us;
        self.mended = true;
    }

    /// Gives the first packet out.
    fn give(&mut self, sequence: &Sequence) -> Next {
        let (Some(mut slot), State::Playing { next, .. }) = (self.slots.pop_front(), self.state) else {
            return Next::Quiet;
        };
        self.count_missing(slot.extended, sequence);
        std::mem::swap(&mut self.payload, &mut slot.payload);
        let skip = (next - slot.timestamp).max(0);
        let end = slot.timestamp + slot.samples;
        self.state = State::Playing { next: end, last: slot.extended, concealed: 0 };
        let next = Next::Packet {
            payload_type: slot.payload_type,
            timestamp: slot.written,
            samples: slot.samples as u32,
            skip: skip as u32,
        };
        self.recycle(slot);
        next
    }

    fn count_missing(&mut self, extended: u64, sequence: &Sequence) {
        let since = self.last_played.map_or(0, |last| extended.saturating_sub(last + 1));
        let unseen = (extended.saturating_sub(since.min(512))..extended).filter(|at| !sequence.seen(*at));
        let missing = unseen.count() as u64 + std::mem::take(&mut self.late_since);
        let mended = std::mem::take(&mut self.mended) && missing > 0;
        self.counters.missing += missing;
        self.counters.gaps += u64::from(missing > 0);
        self.counters.played += 1;
        if mended {
            // The one before this one, as good as received.
            self.counters.repaired += 1;
            self.counters.gaps_repaired += u64::from(missing == 1);
            if self.repairs.len() >= REPAIRS_KEPT {
                self.repairs.pop_front();
            }
            self.repairs.push_back(extended.saturating_sub(1));
            self.bursts.note(missing - 1);
            self.bursts.note(0);
        } else {
            self.bursts.note(missing);
        }
        for _ in 0..missing.min(32) {
            self.missed += (1.0 - self.missed) * Timing::WEIGHT;
        }
        self.missed -= self.missed * Timing::WEIGHT;
        self.last_played = self.last_played.max(Some(extended));
    }

    fn drop_head(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.recycle(slot);
        }
    }

    fn recycle(&mut self, slot: Slot) {
        if self.spare.len() < 8 {
            self.spare.push(slot.payload);
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// One packet of the script: when it arrives, its number, its timestamp.
    type Arrival = (u64, u16, u32);

    /// A period of the voice of these tests, in samples.
    const PERIOD: u32 = 60;

    struct Played {
        /// Milliseconds of the tick, what it decoded and concealed, and how it ended.
        ticks: Vec<(u64, Vec<Next>)>,
        /// Milliseconds each packet's first sample waited, by the timestamp's packet number.
        waits: Vec<(u32, i64)>,
        /// Pieces left out and put in.
        pieces: (u32, u32),
        counters: JitterCounters,
    }

    impl Played {
        /// Ticks in which something was concealed.
        fn lost(&self) -> usize {
            self.lost_in(0..self.ticks.len())
        }

        fn lost_in(&self, range: std::ops::Range<usize>) -> usize {
            let is_lost = |next: &Next| matches!(next, Next::Lost { .. });
            self.ticks[range].iter().filter(|(_, all)| all.iter().any(is_lost)).count()
        }

        fn quiet(&self) -> usize {
            self.ticks.iter().filter(|(_, all)| all.last() == Some(&Next::Quiet)).count()
        }

        fn timestamps(&self) -> Vec<u32> {
            let timestamp = |next: &Next| match next {
                Next::Packet { timestamp, .. } => Some(*timestamp),
                _ => None,
            };
            self.ticks.iter().flat_map(|(_, all)| all.iter().filter_map(timestamp)).collect()
        }

        fn waited(&self) -> Vec<i64> {
            self.waits.iter().map(|(_, wait)| *wait).collect()
        }
    }

    /// Plays microsecond-exact arrivals of `packet_bytes` G.711 packets against ticks 7 ms off the sender's beat.
    /// Pieces of [`PERIOD`] are left out and put in as asked.
    fn play_us(mut arrivals: Vec<(u64, u16, u32)>, packet_bytes: usize, until_ms: u64) -> Played {
        arrivals.sort_by_key(|arrival| arrival.0);
        let start = Instant::now();
        let mut buffer = JitterBuffer::new(start, 8000);
        let mut sequence = Sequence::new(100);
        let sent: std::collections::HashMap<u32, u64> =
            arrivals.iter().map(|(at, _, timestamp)| (*timestamp, *at)).collect();
        let mut arrivals = arrivals.into_iter().peekable();
        let mut played = Played {
            ticks: Vec::new(),
            waits: Vec::new(),
            pieces: (0, 0),
            counters: JitterCounters::default(),
        };
        let payload = vec![0x55; packet_bytes];
        let mut buffered = 0;
        for tick in 0..until_ms / 20 {
            let tick_us = tick * 20_000 + 7_000;
            while let Some((at, number, timestamp)) = arrivals.next_if(|arrival| arrival.0 <= tick_us) {
                use crate::rtp::sequence::Arrival::Counted;
                if let Counted(extended) = sequence.arrive(number) {
                    let packet = Incoming {
                        extended,
                        timestamp,
                        payload_type: 8,
                        payload: &payload,
                        samples: Some(payload.len() as u32),
                        repairs: false,
                    };
                    buffer.push(start + Duration::from_micros(at), packet);
                }
            }
            let mut all = Vec::new();
            loop {
                let next = buffer.next(start + Duration::from_micros(tick_us), buffered, &sequence);
                all.push(next);
                match next {
                    Next::Packet { timestamp, samples, skip, .. } => {
                        let wait =
                            (tick_us as i64 - sent[&timestamp] as i64) / 1000 + i64::from(buffered / 8);
                        played.waits.push((timestamp, wait));
                        buffered += samples - skip;
                    }
                    Next::Lost { samples, .. } => buffered += samples,
                    Next::Play(pace) => {
                        assert!(buffered >= 160, "a whole block");
                        buffered -= 160;
                        match pace {
                            Pace::Faster { at_most, .. } if at_most >= PERIOD && buffered >= PERIOD => {
                                buffered -= PERIOD;
                                played.pieces.0 += 1;
                            }
                            Pace::Slower => {
                                buffered += PERIOD;
                                played.pieces.1 += 1;
                            }
                            Pace::Faster { .. } | Pace::Steady => {}
                        }
                        break;
                    }
                    Next::Quiet => {
                        buffered = 0;
                        break;
                    }
                }
                assert!(all.len() < 40, "a tick ends");
            }
            played.ticks.push((tick_us / 1000, all));
        }
        played.counters = buffer.counters();
        played
    }

    fn play(arrivals: Vec<Arrival>, until_ms: u64) -> Played {
        play_us(arrivals.into_iter().map(|(ms, n, t)| (ms * 1000, n, t)).collect(), 160, until_ms)
    }

    /// Packets of 20 ms from 100 ms on, `late` milliseconds later than their beat.
    fn stream(packets: u64, late: impl Fn(u64) -> u64) -> Vec<Arrival> {
        (0..packets).map(|n| (100 + n * 20 + late(n), n as u16, (n * 160) as u32)).collect()
    }

    fn median(values: &[i64]) -> i64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    }

    #[test]
    fn a_clean_network_costs_about_a_packet() {
        for offset in 0..20 {
            let mut arrivals = stream(500, |n| n * 7 % 3);
            arrivals.iter_mut().for_each(|arrival| arrival.0 += offset);
            let played = play(arrivals, 9_000);
            assert_eq!(played.lost(), 0, "offset {offset}");
            let waits = played.waited();
            assert!(waits.iter().all(|wait| (8..=32).contains(wait)), "{:?}", &waits[..20]);
            assert_eq!(played.pieces, (0, 0), "nothing to correct");
        }
    }

    #[test]
    fn order_is_restored_and_every_packet_plays_once() {
        let mut arrivals = stream(300, |_| 0);
        for at in (10..290).step_by(20) {
            let (early, late) = (arrivals[at].0, arrivals[at + 1].0);
            arrivals[at].0 = late + 1;
            arrivals[at + 1].0 = early;
        }
        let again = arrivals[50];
        arrivals.push((again.0 + 5, again.1, again.2));
        let played = play(arrivals, 7_000);
        let timestamps = played.timestamps();
        assert!(timestamps.windows(2).all(|pair| pair[1] > pair[0]));
        assert!(timestamps.len() >= 298, "{}", timestamps.len());
    }

    #[test]
    fn a_lost_packet_is_one_concealed_block_and_no_more_delay() {
        let mut arrivals = stream(300, |_| 0);
        arrivals.retain(|(_, number, _)| number % 50 != 25);
        let played = play(arrivals, 6_120);
        assert_eq!(played.lost(), 6);
        assert_eq!(played.timestamps().len(), 294);
        assert_eq!((played.counters.missing, played.counters.gaps, played.counters.late), (6, 6, 0));
        assert!(played.waited().iter().all(|wait| *wait <= 32));
    }

    #[test]
    fn a_burst_of_loss_is_bridged_block_by_block() {
        let mut arrivals = stream(200, |_| 0);
        arrivals.retain(|(_, number, _)| !(100..103).contains(number));
        let played = play(arrivals, 4_120);
        assert_eq!((played.lost(), played.timestamps().len()), (3, 197));
        assert_eq!((played.counters.missing, played.counters.gaps), (3, 1));
        assert_eq!(played.counters.concealed_us, 60_000);
    }

    #[test]
    fn silence_is_quiet_and_not_loss() {
        // Talk 1 s, silence 2 s with the timestamp going on, talk 1 s.
        let mut arrivals = stream(50, |_| 0);
        let talk = |n: u64| (3100 + n * 20, 50 + n as u16, (150 * 160 + n * 160) as u32);
        arrivals.extend((0..50).map(talk));
        let played = play(arrivals, 4_120);
        assert_eq!(played.timestamps().len(), 100);
        assert!(played.lost() <= 10);
        assert!(played.quiet() >= 85);
        assert_eq!((played.counters.missing, played.counters.timestamp_jumps), (0, 0));
    }

    #[test]
    fn the_delay_follows_jitter_up_and_down() {
        for seed in 0..5 {
            let mut random = StdRng::seed_from_u64(seed);
            let late: Vec<u64> = (0..4000)
                .map(|n| if (250..3250).contains(&n) { random.random_range(0..200) } else { 0 })
                .collect();
            let played = play(stream(4000, |n| late[n as usize]), 80_100);
            let share = played.counters.late as f64 / 3000.0;
            assert!(share < 0.01, "{} of 3000 came too late, seed {seed}", played.counters.late);
            // Beyond the fastest, packets wait so long; 198 ms is what 99 of 100 need.
            let beyond = |(timestamp, wait): &(u32, i64)| wait + late[(*timestamp / 160) as usize] as i64;
            let jittery: Vec<i64> =
                played.waits.iter().filter(|(at, _)| (500..3250).contains(&(at / 160))).map(beyond).collect();
            assert!(median(&jittery) <= 218, "{} seed {seed}", median(&jittery));
            // Ten seconds after calm.
            let calm: Vec<i64> =
                played.waits.iter().filter(|(at, _)| *at >= 3750 * 160).map(|(_, wait)| *wait).collect();
            assert!(calm.iter().all(|wait| *wait <= 60), "{:?} seed {seed}", calm.iter().max());
            assert!(median(&calm) <= 35, "{} seed {seed}", median(&calm));
        }
    }

    #[test]
    fn one_late_packet_costs_a_moment_and_the_delay_stays() {
        let played = play(stream(300, |n| if n == 150 { 45 } else { 0 }), 6_120);
        assert!(played.lost() <= 3, "{}", played.lost());
        let waits = played.waited();
        assert!(median(&waits[250..]) <= 32, "{:?}", &waits[250..]);
    }

    #[test]
    fn an_hour_of_drift_neither_grows_nor_starves() {
        for ppm in [200i64, -200] {
            let packets = 180_000u64;
            let at = |n: u64| (100_000 + n as i64 * 20_000 - n as i64 * 20_000 * ppm / 1_000_000) as u64;
            let arrivals = (0..packets).map(|n| (at(n), n as u16, (n * 160) as u32)).collect();
            let played = play_us(arrivals, 160, 3_600_000);
            // 720 ms in pieces of 7.5 ms, and some to put packets and ticks together again.
            let (fewer, more) = played.pieces;
            let balance = (i64::from(fewer) - i64::from(more)) * 75 / 10;
            assert!((balance - ppm * 36 / 10).abs() <= 45, "{balance} ms at {ppm}");
            assert!(fewer + more <= 400, "{fewer} and {more} at {ppm}");
            assert!(played.lost() <= 11, "{} at {ppm}: the end of the stream and no more", played.lost());
            assert_eq!((played.counters.late, played.counters.missing), (0, 0));
            let waits = played.waited();
            assert!(waits.iter().all(|wait| (0..=45).contains(wait)), "{:?}", waits.iter().max());
        }
    }

    #[test]
    fn packets_of_any_length_play_without_a_gap() {
        for packet_ms in [10u64, 20, 30, 40, 60] {
            let count = 6000 / packet_ms;
            let arrivals = (0..count)
                .map(|n| ((100 + n * packet_ms) * 1000, n as u16, (n * packet_ms * 8) as u32))
                .collect();
            let played = play_us(arrivals, packet_ms as usize * 8, 6_000);
            let blocks = played.ticks.iter().filter(|(_, all)| matches!(all.last(), Some(Next::Play(_))));
            assert!(blocks.count() >= 285, "{packet_ms} ms");
            assert_eq!(played.lost(), 0, "{packet_ms} ms");
            let waits = played.waited();
            assert!(waits.iter().all(|wait| *wait <= 42), "{packet_ms} ms: {:?}", waits.iter().max());
        }
    }

    #[test]
    fn timestamp_jumps_leave_no_silence() {
        for jump in [80_000u32, 0u32.wrapping_sub(80_000), 1 << 31] {
            let mut arrivals = stream(200, |_| 0);
            arrivals
                .iter_mut()
                .skip(100)
                .for_each(|(_, _, timestamp)| *timestamp = timestamp.wrapping_add(jump));
            let played = play(arrivals, 4_120);
            assert_eq!((played.timestamps().len(), played.counters.timestamp_jumps), (200, 1));
            assert_eq!(played.lost(), 0);
        }
    }

    #[test]
    fn a_longer_path_is_followed_at_once() {
        let played = play(stream(500, |n| if n >= 200 { 400 } else { 0 }), 10_600);
        assert!(played.timestamps().len() >= 495, "{}", played.timestamps().len());
        let stalled = play(stream(500, |n| if (200..250).contains(&n) { (250 - n) * 20 } else { 0 }), 10_100);
        assert!(median(&stalled.waited()[stalled.waits.len() - 100..]) <= 40);
    }

    #[test]
    fn packets_that_repair_are_waited_for_where_packets_are_lost() {
        let start = Instant::now();
        let mut buffer = JitterBuffer::new(start, 48_000);
        let mut sequence = Sequence::new(100);
        let (mut buffered, mut repaired, mut concealed) = (0, 0, 0);
        for tick in 0..1000u64 {
            let now = start + MS(tick * 20);
            if tick % 10 != 5
                && let crate::rtp::sequence::Arrival::Counted(extended) = sequence.arrive(tick as u16)
            {
                let packet = Incoming {
                    extended,
                    timestamp: (tick * 960) as u32,
                    payload_type: 111,
                    payload: &[(tick % 10) as u8, 2],
                    samples: Some(960),
                    repairs: true,
                };
                buffer.push(now, packet);
            }
            loop {
                match buffer.next(now + MS(12), buffered, &sequence) {
                    Next::Packet { samples, skip, .. } => buffered += samples - skip,
                    Next::Lost { samples, repairable: yes } => {
                        buffered += samples;
                        *(if yes { &mut repaired } else { &mut concealed }) += u32::from(tick > 500);
                        if yes {
                            assert_eq!(buffer.following().map(|bytes| bytes[0]), Some(6));
                            // What the first half of them held could not be used.
                            if tick >= 500 {
                                buffer.repaired(samples);
                            }
                        }
                    }
                    Next::Play(Pace::Slower) => {
                        buffered = buffered + 300 - 960;
                        break;
                    }
                    Next::Play(_) => {
                        buffered -= 960;
                        break;
                    }
                    Next::Quiet => {
                        buffered = 0;
                        break;
                    }
                }
            }
        }
        assert!(repaired >= 45 && concealed <= 4, "{repaired} repaired, {concealed} concealed");
        let counters = buffer.counters();
        let told = u64::from(repaired);
        assert_eq!(
            (counters.repaired, counters.gaps_repaired, counters.repaired_us),
            (told, told, told * 20_000)
        );
        assert!(counters.missing >= 98 && counters.concealed_us >= 45 * 20_000, "{counters:?}");
        // One that was repaired comes after all: it is late, and was not missed.
        let crate::rtp::sequence::Arrival::Counted(extended) = sequence.arrive(995) else {
            panic!("it is new")
        };
        let packet = Incoming {
            extended,
            timestamp: 995 * 960,
            payload_type: 111,
            payload: &[5, 2],
            samples: Some(960),
            repairs: true,
        };
        buffer.push(start + MS(1000 * 20), packet);
        let after = buffer.counters();
        assert_eq!((after.late, after.repaired_late), (counters.late + 1, 1));
    }

    #[test]
    fn hostile_numbers_and_times_are_survived_in_bounded_memory() {
        let mut random = StdRng::seed_from_u64(9);
        let start = Instant::now();
        let mut buffer = JitterBuffer::new(start, 8000);
        let mut sequence = Sequence::new(100);
        let payload = [0u8; 1400];
        let mut buffered: u32 = 0;
        for step in 0..100_000u64 {
            let now = start + MS(step);
            use crate::rtp::sequence::Arrival::{Counted, Restarted};
            let number = if random.random() { step as u16 } else { random.random() };
            match sequence.arrive(number) {
                Counted(extended) | Restarted(extended) => {
                    let timestamp = if random.random() { (step * 8) as u32 } else { random.random() };
                    let payload = &payload[..random.random_range(0..1400)];
                    let samples = if random.random() { Some(random.random_range(0..2000)) } else { None };
                    let repairs = random.random();
                    let packet = Incoming { extended, timestamp, payload_type: 0, payload, samples, repairs };
                    buffer.push(now, packet);
                }
                _ => {}
            }
            if step % 20 == 0 {
                for asked in 0.. {
                    assert!(asked <= PACKETS_MAX + 20, "a tick ends");
                    match buffer.next(now, buffered, &sequence) {
                        Next::Packet { samples, skip, .. } => buffered += samples.saturating_sub(skip),
                        Next::Lost { samples, .. } => {
                            assert!(samples <= 2000);
                            buffered += samples;
                        }
                        Next::Play(_) => {
                            buffered = buffered.saturating_sub(160);
                            break;
                        }
                        Next::Quiet => {
                            buffered = 0;
                            break;
                        }
                    }
                }
                assert!(buffered <= 8000, "{buffered} samples wait");
            }
            assert!(buffer.slots.len() <= PACKETS_MAX);
        }
    }
}
