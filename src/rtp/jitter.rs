//! The audio playout buffer: packets in, one block of 20 ms out per tick, at a delay that follows the network.
//!
//! ```text
//! wait before playing ── target (10 to 200 ms, what 99 % of packets need, both ways adaptive)
//!                     └─ up to 20 ms until the next tick
//! ```
//! The delay is measured against the fastest packets of the last seconds, which also follows the sender's clock: a
//! drifting stream shows as a growing or shrinking wait and is corrected by a block left out or put in. Silence
//! (timestamps go on, numbers do not) is not loss. Concealment is the codec's; video waits in `reorder`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::rtp::delay::{TARGET_MIN_US, Timing};
use crate::rtp::sequence::Sequence;

/// Length of a block.
const BLOCK_US: i64 = 20_000;
/// A wait this far outside of `target..target + block` is corrected.
const ABOVE_US: i64 = 8_000;
const BELOW_US: i64 = 5_000;
/// Pauses between corrections: a long excess goes faster.
const CORRECT_SLOWLY: Duration = Duration::from_millis(500);
const CORRECT_FAST: Duration = Duration::from_millis(200);
const FAST_FROM_US: i64 = 60_000;
/// Too short a wait is lengthened when it stays too short: one odd packet raises the target for half a second.
const LENGTHEN_AFTER: Duration = Duration::from_secs(2);
/// An empty buffer is concealed for so many blocks, then it is silence.
const CONCEAL_MAX: u32 = 5;
/// Longer holes are not bridged block by block.
const HOLE_MAX: i64 = 10;
/// Bounds on what waits: 64 packets of a quarter second of G.711.
const PACKETS_MAX: usize = 64;
const PAYLOAD_MAX: usize = 2048;
/// Timestamps this far off both arrival and numbering have jumped.
const JUMP_US: i64 = 500_000;

/// One received packet.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub extended: u64,
    pub timestamp: u32,
    pub payload_type: u8,
    pub payload: &'a [u8],
    /// Bytes of 20 ms where packets can be cut anywhere (G.711, G.722); `None`: a packet is played whole.
    pub bytes_per_20ms: Option<usize>,
}

/// What to play in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The bytes are in [`JitterBuffer::block`].
    Block { payload_type: u8, timestamp: u32 },
    /// The packet played before lasts longer than a block.
    Held,
    /// Something is missing: conceal one block.
    Lost,
    /// Nobody speaks.
    Quiet,
}

/// Figures of the buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JitterCounters {
    pub played: u64,
    pub concealed: u64,
    /// Packets that came too late to be played.
    pub late: u64,
    pub overflow: u64,
    /// Blocks left out to shorten the delay.
    pub shortened: u64,
    /// Blocks concealed to lengthen it.
    pub lengthened: u64,
    pub timestamp_jumps: u64,
}

#[derive(Debug)]
struct Slot {
    extended: u64,
    timestamp: i64,
    payload_type: u8,
    payload: Vec<u8>,
    bytes_per_20ms: Option<usize>,
    samples: i64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Waiting for the first packet that is due.
    Idle,
    Playing {
        next: i64,
        /// Number of the packet played last.
        last: u64,
        /// Blocks concealed since the buffer ran empty.
        concealed: u32,
        /// Blocks the last packet still lasts.
        held: u32,
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
    block: Vec<u8>,
    newest: Option<Newest>,
    /// Length of a packet: from its bytes, or from the timestamps of two in a row.
    packet_samples: i64,
    /// The sender said it is busy with something else than audio.
    pausing: bool,
    timing: Timing,
    state: State,
    /// Smoothed wait of what is played, beyond the fastest packets.
    wait_us: i64,
    corrected: Instant,
    short_since: Option<Instant>,
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
            block: Vec::new(),
            newest: None,
            packet_samples: clock_rate * BLOCK_US / 1_000_000,
            pausing: false,
            timing: Timing::default(),
            state: State::Idle,
            wait_us: 0,
            corrected: now,
            short_since: None,
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
    }

    pub fn counters(&self) -> JitterCounters {
        self.counters
    }

    /// The wait aimed at, beyond the fastest packets.
    pub fn target(&self) -> Duration {
        Duration::from_micros(self.timing.target_us().unsigned_abs())
    }

    /// The bytes of the last [`Next::Block`].
    pub fn block(&self) -> &[u8] {
        &self.block
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

    /// When the sample of this time arrived or would have, as fast as the fastest.
    pub fn arrival_of(&self, timestamp: u32) -> Option<Instant> {
        let newest = self.newest?;
        let unwrapped = newest.unwrapped + i64::from(timestamp.wrapping_sub(newest.unwrapped as u32) as i32);
        let us = self.timing.base_us().saturating_add(self.us(unwrapped));
        Some(self.start + Duration::from_micros(us.max(0).unsigned_abs()))
    }

    /// A packet of another kind took this place in the sequence (telephone-event, comfort noise).
    pub fn pause(&mut self, extended: u64) {
        if self.newest.is_some_and(|newest| extended > newest.extended) {
            self.pausing = true;
        }
    }

    /// Takes a packet that is no duplicate.
    pub fn push(&mut self, now: Instant, packet: Incoming<'_>) {
        let samples = match packet.bytes_per_20ms {
            Some(bytes) => packet.payload.len() as i64 * self.block_samples / bytes.max(1) as i64,
            None => self.packet_samples,
        };
        if packet.payload.is_empty() || samples == 0 {
            return;
        }
        if packet.payload.len() > PAYLOAD_MAX {
            self.counters.overflow += 1;
            return;
        }
        let arrival_us = self.now_us(now);
        let timestamp = self.unwrap(arrival_us, &packet);
        if packet.bytes_per_20ms.is_some() {
            self.packet_samples = samples;
            self.timing.floor_us =
                TARGET_MIN_US + self.us(self.block_samples - gcd(samples, self.block_samples));
        }
        self.timing.arrive(arrival_us - self.us(timestamp));
        if let State::Playing { next, .. } = self.state
            && timestamp + samples <= next
        {
            self.counters.late += 1;
            return;
        }
        if self.slots.len() >= PACKETS_MAX {
            self.counters.overflow += 1;
            self.drop_head();
        }
        let mut payload = self.spare.pop().unwrap_or_default();
        payload.clear();
        payload.extend_from_slice(packet.payload);
        let Incoming { extended, payload_type, bytes_per_20ms, .. } = packet;
        let slot = Slot { extended, timestamp, payload_type, payload, bytes_per_20ms, samples };
        let behind = self.slots.iter().rev().take_while(|other| other.extended > extended).count();
        self.slots.insert(self.slots.len() - behind, slot);
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
        if packet.bytes_per_20ms.is_none() && packets == 1 && (1..=6 * self.block_samples).contains(&step) {
            self.packet_samples = step;
        }
        let unwrapped = newest.unwrapped + step;
        if packets > 0 {
            self.pausing = false;
            self.newest = Some(Newest { timestamp, unwrapped, extended, arrival_us });
        }
        unwrapped
    }

    /// Decides what this tick plays; call once every 20 ms.
    pub fn tick(&mut self, now: Instant, sequence: &Sequence) -> Next {
        let next = self.decide(now, sequence);
        match next {
            Next::Block { .. } => self.counters.played += 1,
            Next::Lost => self.counters.concealed += 1,
            Next::Held | Next::Quiet => {}
        }
        next
    }

    fn decide(&mut self, now: Instant, sequence: &Sequence) -> Next {
        let State::Playing { next, last, concealed, held } = self.state else {
            return self.begin(now);
        };
        if held > 0 {
            self.state = State::Playing { next, last, concealed, held: held - 1 };
            return Next::Held;
        }
        if concealed > 0 {
            self.skip_stale(now);
        }
        self.discard_before(next);
        let Some(head) = self.slots.front() else {
            return self.starve(next, last, concealed);
        };
        let gap = head.timestamp - next;
        if gap <= 0 {
            return self.play_corrected(now, next.max(head.timestamp), last);
        }
        if sequence.seen_between(last, head.extended) {
            // The sender paused: its timestamps went on, its numbers did not.
            self.state = State::Idle;
            return self.begin(now);
        }
        // What was concealed while nothing came was this gap.
        let bridged = (i64::from(concealed) * self.block_samples).min(gap);
        let gap = gap - bridged;
        if gap == 0 {
            return self.play_corrected(now, next + bridged, last);
        }
        if gap > HOLE_MAX * self.block_samples {
            self.state = State::Idle;
            return self.begin(now);
        }
        let next = next + bridged + gap.min(self.block_samples);
        self.state = State::Playing { next, last, concealed: 0, held: 0 };
        Next::Lost
    }

    fn begin(&mut self, now: Instant) -> Next {
        self.skip_stale(now);
        let Some(head) = self.slots.front() else {
            return Next::Quiet;
        };
        let (timestamp, last) = (head.timestamp, head.extended.saturating_sub(1));
        self.wait_us = self.wait_of(now, timestamp);
        if self.wait_us < self.timing.target_us() {
            return Next::Quiet;
        }
        self.play(timestamp, last)
    }

    fn starve(&mut self, next: i64, last: u64, concealed: u32) -> Next {
        if self.pausing || concealed >= CONCEAL_MAX {
            self.state = State::Idle;
            return Next::Quiet;
        }
        self.state = State::Playing { next, last, concealed: concealed + 1, held: 0 };
        Next::Lost
    }

    /// While the packets behind it are due as well, the first of too many is left out.
    fn skip_stale(&mut self, now: Instant) {
        let target = self.timing.target_us();
        while let [Some(head), Some(second)] = [self.slots.front(), self.slots.get(1)] {
            let stale = self.wait_of(now, head.timestamp) > target + BLOCK_US + ABOVE_US;
            if !stale || self.wait_of(now, second.timestamp) < target {
                return;
            }
            self.counters.late += 1;
            self.drop_head();
            if let (State::Playing { next, .. }, Some(head)) = (&mut self.state, self.slots.front()) {
                *next = (*next).max(head.timestamp);
            }
        }
    }

    /// Plays at `next`, or leaves a block out or puts one in when the wait has drifted away.
    fn play_corrected(&mut self, now: Instant, next: i64, last: u64) -> Next {
        self.wait_us += (self.wait_of(now, next) - self.wait_us) / 16;
        let target = self.timing.target_us();
        let (above, below) = (self.wait_us - target - BLOCK_US, target - self.wait_us);
        let short_since = *self.short_since.get_or_insert(now);
        if below <= BELOW_US {
            self.short_since = None;
        }
        let pause = if above > FAST_FROM_US { CORRECT_FAST } else { CORRECT_SLOWLY };
        if now.saturating_duration_since(self.corrected) < pause {
            return self.play(next, last);
        }
        if above > ABOVE_US && self.continuous_from(next) >= 2 * self.block_samples {
            self.corrected = now;
            self.wait_us -= BLOCK_US;
            self.counters.shortened += 1;
            let next = next + self.block_samples;
            let last = self.discard_before(next).unwrap_or(last);
            return self.play(next, last);
        }
        if below > BELOW_US && now.saturating_duration_since(short_since) >= LENGTHEN_AFTER {
            self.corrected = now;
            self.short_since = None;
            self.wait_us += BLOCK_US;
            self.counters.lengthened += 1;
            self.state = State::Playing { next, last, concealed: 0, held: 0 };
            return Next::Lost;
        }
        self.play(next, last)
    }

    /// Samples buffered without a hole from `next` on, where packets can be cut.
    fn continuous_from(&self, next: i64) -> i64 {
        let mut end = next;
        for slot in &self.slots {
            if slot.timestamp > end || (slot.bytes_per_20ms.is_none() && slot.samples != self.block_samples) {
                break;
            }
            end = end.max(slot.timestamp + slot.samples);
        }
        end - next
    }

    /// Drops packets that end at or before `next`; the number of the last of them.
    fn discard_before(&mut self, next: i64) -> Option<u64> {
        let mut dropped = None;
        while self.slots.front().is_some_and(|slot| slot.timestamp + slot.samples <= next) {
            dropped = self.slots.front().map(|slot| slot.extended);
            self.drop_head();
        }
        dropped
    }

    fn play(&mut self, next: i64, last: u64) -> Next {
        let Some(head) = self.slots.front() else {
            return self.starve(next, last, 0);
        };
        let payload_type = head.payload_type;
        let whole = head.bytes_per_20ms.is_none();
        self.block.clear();
        if whole {
            self.play_whole()
        } else {
            self.play_cut(next, last)
        }
        Next::Block { payload_type, timestamp: next as u32 }
    }

    fn play_whole(&mut self) {
        let Some(slot) = self.slots.pop_front() else {
            return;
        };
        self.block.extend_from_slice(&slot.payload);
        let next = slot.timestamp + self.packet_samples;
        let held = (self.packet_samples / self.block_samples - 1).clamp(0, 5) as u32;
        self.state = State::Playing { next, last: slot.extended, concealed: 0, held };
        self.recycle(slot);
    }

    fn play_cut(&mut self, mut next: i64, mut last: u64) {
        let end = next + self.block_samples;
        let payload_type = self.slots.front().map(|slot| slot.payload_type);
        while let Some(slot) = self.slots.front() {
            let Some(bytes) = slot.bytes_per_20ms.filter(|_| Some(slot.payload_type) == payload_type) else {
                break;
            };
            if next >= end || slot.timestamp > next {
                break;
            }
            let byte_at = |sample: i64| (sample * bytes as i64 / self.block_samples).max(0) as usize;
            let to = end.min(slot.timestamp + slot.samples);
            let part = byte_at(next - slot.timestamp)..byte_at(to - slot.timestamp).min(slot.payload.len());
            self.block.extend_from_slice(slot.payload.get(part).unwrap_or_default());
            next = next.max(to);
            last = slot.extended;
            if slot.timestamp + slot.samples > next {
                break;
            }
            self.drop_head();
        }
        self.state = State::Playing { next, last, concealed: 0, held: 0 };
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

    struct Played {
        /// Milliseconds of the tick and what it gave.
        ticks: Vec<(u64, Next, usize)>,
        /// Milliseconds each first-block timestamp waited.
        waits: Vec<i64>,
        counters: JitterCounters,
    }

    impl Played {
        fn count(&self, what: Next) -> usize {
            self.ticks.iter().filter(|(_, next, _)| *next == what).count()
        }

        fn timestamps(&self) -> Vec<u32> {
            let timestamp = |(_, next, _): &(u64, Next, usize)| match next {
                Next::Block { timestamp, .. } => Some(*timestamp),
                _ => None,
            };
            self.ticks.iter().filter_map(timestamp).collect()
        }
    }

    /// Plays microsecond-exact arrivals of `packet_bytes` G.711 packets against ticks 7 ms off the sender's beat.
    fn play_us(mut arrivals: Vec<(u64, u16, u32)>, packet_bytes: usize, until_ms: u64) -> Played {
        arrivals.sort_by_key(|arrival| arrival.0);
        let start = Instant::now();
        let mut buffer = JitterBuffer::new(start, 8000);
        let mut sequence = Sequence::new(100);
        let sent: std::collections::HashMap<u32, u64> =
            arrivals.iter().map(|(at, _, timestamp)| (*timestamp, *at)).collect();
        let mut arrivals = arrivals.into_iter().peekable();
        let mut played = Played { ticks: Vec::new(), waits: Vec::new(), counters: JitterCounters::default() };
        let payload = vec![0x55; packet_bytes];
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
                        bytes_per_20ms: Some(160),
                    };
                    buffer.push(start + Duration::from_micros(at), packet);
                }
            }
            let next = buffer.tick(start + Duration::from_micros(tick_us), &sequence);
            if let Next::Block { timestamp, .. } = next
                && let Some(at) = sent.get(&timestamp)
            {
                played.waits.push((tick_us as i64 - *at as i64) / 1000);
            }
            played.ticks.push((tick_us / 1000, next, buffer.block().len()));
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
            assert_eq!(played.count(Next::Lost), 0, "offset {offset}");
            assert!(played.waits.iter().all(|wait| (8..=32).contains(wait)), "{:?}", &played.waits[..20]);
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
        assert_eq!(played.count(Next::Lost), 6);
        assert_eq!(played.timestamps().len(), 294);
        assert!(played.waits.iter().all(|wait| *wait <= 32));
    }

    #[test]
    fn a_burst_of_loss_is_bridged_block_by_block() {
        let mut arrivals = stream(200, |_| 0);
        arrivals.retain(|(_, number, _)| !(100..103).contains(number));
        let played = play(arrivals, 4_120);
        assert_eq!((played.count(Next::Lost), played.timestamps().len()), (3, 197));
    }

    #[test]
    fn silence_is_quiet_and_not_loss() {
        // Talk 1 s, silence 2 s with the timestamp going on, talk 1 s.
        let mut arrivals = stream(50, |_| 0);
        let talk = |n: u64| (3100 + n * 20, 50 + n as u16, (150 * 160 + n * 160) as u32);
        arrivals.extend((0..50).map(talk));
        let played = play(arrivals, 4_120);
        assert_eq!(played.timestamps().len(), 100);
        assert!(played.count(Next::Lost) <= CONCEAL_MAX as usize);
        assert!(played.count(Next::Quiet) >= 90);
        assert_eq!(played.counters.timestamp_jumps, 0);
    }

    #[test]
    fn the_delay_follows_jitter_up_and_down() {
        let mut random = StdRng::seed_from_u64(5);
        let late: Vec<u64> = (0..1500)
            .map(|n| if (250..750).contains(&n) { random.random_range(0..200) } else { 0 })
            .collect();
        let played = play(stream(1500, |n| late[n as usize]), 31_000);
        // Growing costs a concealed block for every 20 ms; after that almost nothing comes too late.
        let settled = &played.ticks[500..750];
        let lost = settled.iter().filter(|(_, next, _)| *next == Next::Lost).count();
        assert!(lost <= 3, "{lost} of 250 lost while jitter lasted");
        let growing = played.ticks[250..500].iter().filter(|(_, next, _)| *next == Next::Lost).count();
        assert!(growing <= 50, "{growing} of 250 lost while the delay grew");
        // Ten seconds after calm.
        let calm = &played.waits[played.waits.len() - 240..];
        assert!(median(calm) <= 40 && calm.iter().all(|wait| *wait <= 60), "{}", median(calm));
    }

    #[test]
    fn one_late_packet_costs_one_block_and_the_delay_stays() {
        let played = play(stream(300, |n| if n == 150 { 45 } else { 0 }), 6_120);
        assert!(played.count(Next::Lost) <= 3, "{}", played.count(Next::Lost));
        assert!(median(&played.waits[250..]) <= 40);
    }

    #[test]
    fn an_hour_of_drift_neither_grows_nor_starves() {
        for ppm in [200i64, -200] {
            let packets = 180_000u64;
            let at = |n: u64| (100_000 + n as i64 * 20_000 - n as i64 * 20_000 * ppm / 1_000_000) as u64;
            let arrivals = (0..packets).map(|n| (at(n), n as u16, (n * 160) as u32)).collect();
            let played = play_us(arrivals, 160, 3_600_000);
            let corrections = played.counters.shortened + played.counters.lengthened;
            assert!((30..=50).contains(&corrections), "{corrections} at {ppm}");
            assert!(played.count(Next::Lost) <= 45, "{} at {ppm}", played.count(Next::Lost));
            assert!(
                played.waits.iter().all(|wait| (0..=45).contains(wait)),
                "{:?}",
                played.waits.iter().max()
            );
        }
    }

    #[test]
    fn packets_of_any_length_give_blocks_of_20_ms() {
        for packet_ms in [10u64, 20, 30, 40, 60] {
            let count = 6000 / packet_ms;
            let arrivals = (0..count)
                .map(|n| ((100 + n * packet_ms) * 1000, n as u16, (n * packet_ms * 8) as u32))
                .collect();
            let played = play_us(arrivals, packet_ms as usize * 8, 6_000);
            let blocks = played.ticks.iter().filter(|(_, next, _)| matches!(next, Next::Block { .. }));
            let lengths: Vec<usize> = blocks.map(|(_, _, len)| *len).collect();
            assert!(
                lengths.len() >= 285 && lengths.iter().all(|len| *len == 160),
                "{packet_ms} ms: {lengths:?}"
            );
            assert_eq!(played.count(Next::Lost), 0, "{packet_ms} ms");
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
            assert_eq!(played.count(Next::Lost), 0);
        }
    }

    #[test]
    fn a_longer_path_is_followed_at_once() {
        let played = play(stream(500, |n| if n >= 200 { 400 } else { 0 }), 10_600);
        assert!(played.timestamps().len() >= 495, "{}", played.timestamps().len());
        let stalled = play(stream(500, |n| if (200..250).contains(&n) { (250 - n) * 20 } else { 0 }), 10_100);
        assert!(median(&stalled.waits[stalled.waits.len() - 100..]) <= 40);
    }

    #[test]
    fn whole_packets_are_held_for_their_length() {
        let start = Instant::now();
        let mut buffer = JitterBuffer::new(start, 48_000);
        let mut sequence = Sequence::new(100);
        let mut pattern = String::new();
        for tick in 0..60u64 {
            let now = start + MS(tick * 20);
            if tick % 3 == 0
                && let crate::rtp::sequence::Arrival::Counted(extended) = sequence.arrive(tick as u16 / 3)
            {
                let timestamp = (tick * 960) as u32;
                let packet = Incoming {
                    extended,
                    timestamp,
                    payload_type: 111,
                    payload: &[1, 2],
                    bytes_per_20ms: None,
                };
                buffer.push(now, packet);
            }
            pattern.push(match buffer.tick(now + MS(15), &sequence) {
                Next::Block { .. } => 'B',
                Next::Held => 'h',
                Next::Lost => 'L',
                Next::Quiet => 'q',
            });
        }
        assert!(pattern.ends_with("BhhBhhBhhBhhBhhBhh"), "{pattern}");
    }

    #[test]
    fn hostile_numbers_and_times_are_survived_in_bounded_memory() {
        let mut random = StdRng::seed_from_u64(9);
        let start = Instant::now();
        let mut buffer = JitterBuffer::new(start, 8000);
        let mut sequence = Sequence::new(100);
        let payload = [0u8; 1400];
        for step in 0..100_000u64 {
            let now = start + MS(step);
            use crate::rtp::sequence::Arrival::{Counted, Restarted};
            let number = if random.random() { step as u16 } else { random.random() };
            match sequence.arrive(number) {
                Counted(extended) | Restarted(extended) => {
                    let timestamp = if random.random() { (step * 8) as u32 } else { random.random() };
                    let bytes = if random.random() { Some(random.random_range(1..400)) } else { None };
                    let payload = &payload[..random.random_range(0..1400)];
                    let packet =
                        Incoming { extended, timestamp, payload_type: 0, payload, bytes_per_20ms: bytes };
                    buffer.push(now, packet);
                }
                _ => {}
            }
            if step % 20 == 0 {
                buffer.tick(now, &sequence);
                assert!(buffer.block().len() <= 4000);
            }
            assert!(buffer.slots.len() <= PACKETS_MAX);
        }
    }
}
