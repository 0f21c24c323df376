//! Telephone events (RFC 4733): digits received once however often their packets come, and digits sent.
//!
//! In-band tones and SIP INFO are elsewhere; which payload type carries events is negotiated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A digit without packets for this long has ended, though its end was lost.
const SILENT_END: Duration = Duration::from_millis(150);
/// Packets of an end, each on its own tick (§2.5.1.4).
const END_PACKETS: u32 = 3;
/// Silence between two digits sent.
const PAUSE_MS: u32 = 60;
/// Digits waiting to be sent.
const QUEUE_MAX: usize = 64;
/// Power level of what we send, in -dBm0.
const VOLUME: u8 = 10;

/// A key as pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digit {
    /// `0` to `9`, `*`, `#`, `A` to `D`.
    pub digit: char,
    pub duration_ms: u32,
}

const DIGITS: &[u8; 16] = b"0123456789*#ABCD";

/// The event code of a digit.
pub fn code_of(digit: char) -> Option<u8> {
    let upper = u8::try_from(digit.to_ascii_uppercase()).ok()?;
    DIGITS.iter().position(|known| *known == upper).map(|at| at as u8)
}

#[derive(Clone, Copy, Debug)]
struct Pressed {
    code: u8,
    timestamp: u32,
    /// Of segments before this one (§2.5.1.3).
    before: u32,
    duration: u32,
    last: Instant,
}

/// Events of one stream.
#[derive(Debug)]
pub struct Receiver {
    clock_rate: u32,
    pressed: Option<Pressed>,
    /// Timestamp of the event that ended last.
    ended: Option<u32>,
}

impl Receiver {
    pub fn new(clock_rate: u32) -> Self {
        Receiver { clock_rate: clock_rate.max(1), pressed: None, ended: None }
    }

    /// The clock of the payload type that the next packets have.
    pub fn set_clock_rate(&mut self, clock_rate: u32) {
        self.clock_rate = clock_rate.max(1);
    }

    /// Takes one event packet. `Err`: malformed. `Ok(Some)`: a digit ended; when a new one began over one whose end
    /// was lost, the old one is given.
    pub fn push(
        &mut self,
        now: Instant,
        timestamp: u32,
        marker: bool,
        payload: &[u8],
    ) -> Result<Option<Digit>, Malformed> {
        let [code, flags, high, low, ..] = *payload else {
            return Err(Malformed);
        };
        let duration = u32::from(u16::from_be_bytes([high, low]));
        let end = flags & 0x80 != 0;
        if usize::from(code) >= DIGITS.len() || self.is_past(timestamp) {
            return Ok(None);
        }
        let mut finished = None;
        let mut pressed = match self.pressed {
            Some(pressed) if pressed.timestamp == timestamp => pressed,
            Some(pressed) if continues(&pressed, code, timestamp, marker) => {
                let before = pressed.before.saturating_add(timestamp.wrapping_sub(pressed.timestamp));
                Pressed { timestamp, before, duration: 0, ..pressed }
            }
            Some(pressed) => {
                finished = Some(self.digit(&pressed));
                Pressed { code, timestamp, before: 0, duration: 0, last: now }
            }
            None => Pressed { code, timestamp, before: 0, duration: 0, last: now },
        };
        pressed.duration = pressed.duration.max(duration);
        pressed.last = now;
        if end && finished.is_none() {
            self.pressed = None;
            self.ended = Some(timestamp);
            return Ok(Some(self.digit(&pressed)));
        }
        // An end that also reveals a lost end is reported by its repetitions or by silence.
        self.pressed = Some(pressed);
        Ok(finished)
    }

    /// Ends a digit whose packets stopped.
    pub fn handle_time(&mut self, now: Instant) -> Option<Digit> {
        let pressed = self.pressed.filter(|_| self.wake_at().is_some_and(|at| now >= at))?;
        self.pressed = None;
        self.ended = Some(pressed.timestamp);
        Some(self.digit(&pressed))
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.pressed.map(|pressed| pressed.last + SILENT_END)
    }

    /// A packet of an event that is over: repeated or overtaken.
    fn is_past(&self, timestamp: u32) -> bool {
        let behind = |other: u32| other.wrapping_sub(timestamp) < self.clock_rate.saturating_mul(10);
        let before_pressed = self.pressed.is_some_and(|p| p.timestamp != timestamp && behind(p.timestamp));
        before_pressed || self.ended.is_some_and(behind)
    }

    fn digit(&self, pressed: &Pressed) -> Digit {
        let ticks = u64::from(pressed.before) + u64::from(pressed.duration);
        let duration_ms = (ticks * 1000 / u64::from(self.clock_rate)) as u32;
        let digit = DIGITS.get(usize::from(pressed.code)).copied().unwrap_or(b'?');
        Digit { digit: char::from(digit), duration_ms }
    }
}

/// A long event goes on in a new segment, directly behind the longest duration a packet can state.
fn continues(pressed: &Pressed, code: u8, timestamp: u32, marker: bool) -> bool {
    let distance = timestamp.wrapping_sub(pressed.timestamp);
    code == pressed.code && !marker && pressed.duration > 0xf000 && distance <= 0x1_0000
}

/// An event payload shorter than four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// One event packet to send in place of audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPacket {
    pub marker: bool,
    /// Of the beginning of the digit.
    pub timestamp: u32,
    pub payload: [u8; 4],
}

#[derive(Clone, Copy, Debug)]
enum Sending {
    Nothing,
    Digit { code: u8, timestamp: u32, sent: u32, length: u32 },
    Ending { code: u8, timestamp: u32, length: u32, left: u32 },
    Pause { left: u32 },
}

/// Digits sent in the rhythm of the audio they replace.
#[derive(Debug)]
pub struct Sender {
    clock_rate: u32,
    queue: VecDeque<(u8, u32)>,
    sending: Sending,
}

impl Sender {
    pub fn new(clock_rate: u32) -> Self {
        Sender { clock_rate, queue: VecDeque::new(), sending: Sending::Nothing }
    }

    /// The clock in which durations are told, from the next digit on.
    pub fn set_clock_rate(&mut self, clock_rate: u32) {
        if clock_rate != self.clock_rate {
            for (_, length) in &mut self.queue {
                let ticks = u64::from(*length) * u64::from(clock_rate) / u64::from(self.clock_rate.max(1));
                *length = (ticks as u32).min(0xffff);
            }
            self.clock_rate = clock_rate.max(1);
        }
    }

    /// Queues a digit. `false`: not a digit, or too many wait.
    pub fn press(&mut self, digit: Digit) -> bool {
        let Some(code) = code_of(digit.digit).filter(|_| self.queue.len() < QUEUE_MAX) else {
            return false;
        };
        let ticks = u64::from(digit.duration_ms.clamp(40, 6000)) * u64::from(self.clock_rate) / 1000;
        self.queue.push_back((code, (ticks as u32).min(0xffff)));
        true
    }

    /// Whether digits are going out or waiting.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !matches!(self.sending, Sending::Nothing)
    }

    /// Called for every audio packet about to leave, of `samples` at `timestamp`; what is returned leaves instead.
    pub fn tick(&mut self, timestamp: u32, samples: u32) -> Option<EventPacket> {
        if let Sending::Nothing = self.sending {
            let (code, length) = self.queue.pop_front()?;
            self.sending = Sending::Digit { code, timestamp, sent: 0, length };
        }
        match self.sending {
            Sending::Nothing => None,
            Sending::Digit { code, timestamp, sent, length } => {
                let now = sent.saturating_add(samples).min(length);
                self.sending = if now < length {
                    Sending::Digit { code, timestamp, sent: now, length }
                } else {
                    Sending::Ending { code, timestamp, length, left: END_PACKETS }
                };
                Some(EventPacket { marker: sent == 0, timestamp, payload: payload(code, false, now) })
            }
            Sending::Ending { code, timestamp, length, left } => {
                self.sending = if left > 1 {
                    Sending::Ending { code, timestamp, length, left: left - 1 }
                } else {
                    Sending::Pause { left: PAUSE_MS * self.clock_rate / 1000 }
                };
                Some(EventPacket { marker: false, timestamp, payload: payload(code, true, length) })
            }
            Sending::Pause { left } => {
                let left = left.saturating_sub(samples.max(1));
                self.sending = if left == 0 { Sending::Nothing } else { Sending::Pause { left } };
                None
            }
        }
    }
}

fn payload(code: u8, end: bool, duration: u32) -> [u8; 4] {
    let [high, low] = (duration.min(0xffff) as u16).to_be_bytes();
    [code, u8::from(end) << 7 | VOLUME, high, low]
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// What the packets of one sender look like, `(tick, packet)`.
    fn send(digits: &[(char, u32)]) -> Vec<(u64, EventPacket)> {
        let mut sender = Sender::new(8000);
        digits.iter().for_each(|(digit, duration_ms)| {
            assert!(sender.press(Digit { digit: *digit, duration_ms: *duration_ms }));
        });
        (0..500u64).filter_map(|tick| Some((tick, sender.tick(tick as u32 * 160, 160)?))).collect()
    }

    fn receive(packets: &[(u64, EventPacket)]) -> Vec<Digit> {
        let start = Instant::now();
        let mut receiver = Receiver::new(8000);
        let mut digits = Vec::new();
        for (tick, packet) in packets {
            let now = start + Duration::from_millis(tick * 20);
            digits.extend(receiver.handle_time(now));
            let got = receiver.push(now, packet.timestamp, packet.marker, &packet.payload);
            digits.extend(got.expect("well formed"));
        }
        digits.extend(receiver.handle_time(start + Duration::from_secs(60)));
        digits
    }

    #[test]
    fn digits_arrive_once_with_their_duration() {
        let packets = send(&[('1', 100), ('1', 100), ('#', 200)]);
        let digits = receive(&packets);
        let expected =
            [('1', 100), ('1', 100), ('#', 200)].map(|(digit, duration_ms)| Digit { digit, duration_ms });
        assert_eq!(digits, expected);
    }

    #[test]
    fn an_end_is_sent_three_times_and_only_the_first_packet_is_marked() {
        let packets = send(&[('5', 100)]);
        assert_eq!(packets.len(), 5 + 3);
        assert_eq!(packets.iter().filter(|(_, packet)| packet.payload[1] & 0x80 != 0).count(), 3);
        assert_eq!(packets.iter().filter(|(_, packet)| packet.marker).count(), 1);
        assert!(packets.iter().all(|(_, packet)| packet.timestamp == packets[0].1.timestamp));
    }

    #[test]
    fn duplicates_reordering_and_lost_ends_change_nothing() {
        let packets = send(&[('1', 100), ('2', 100), ('3', 100)]);
        let names =
            |packets: &[(u64, EventPacket)]| receive(packets).iter().map(|d| d.digit).collect::<String>();
        let doubled: Vec<_> = packets.iter().flat_map(|packet| [*packet, *packet]).collect();
        assert_eq!(names(&doubled), "123");
        let mut swapped = packets.clone();
        swapped.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        assert_eq!(names(&swapped), "123");
        let endless: Vec<_> = packets.iter().filter(|(_, p)| p.payload[1] & 0x80 == 0).copied().collect();
        assert_eq!(names(&endless), "123");
        let only_ends: Vec<_> = packets.iter().filter(|(_, p)| p.payload[1] & 0x80 != 0).copied().collect();
        assert_eq!(names(&only_ends), "123");
        let late_repeat: Vec<_> = packets.iter().copied().chain([packets[7]]).collect();
        assert_eq!(names(&late_repeat), "123");
    }

    #[test]
    fn a_key_held_for_long_is_one_digit() {
        let start = Instant::now();
        let mut receiver = Receiver::new(8000);
        let mut digits = Vec::new();
        for tick in 0..600u64 {
            let total = (tick as u32 + 1) * 160;
            let (segment, duration) = ((total - 1) / 0xffff, (total - 1) % 0xffff + 1);
            let mut packet = [7, 10, 0, 0];
            packet[2..].copy_from_slice(&(duration as u16).to_be_bytes());
            packet[1] |= u8::from(tick == 599) << 7;
            let now = start + Duration::from_millis(tick * 20);
            digits.extend(receiver.push(now, segment * 0xffff, tick == 0, &packet).expect("well formed"));
        }
        assert_eq!(digits, [Digit { digit: '7', duration_ms: 12_000 }]);
    }

    #[test]
    fn short_packets_are_malformed_and_other_events_no_digits() {
        let mut receiver = Receiver::new(8000);
        assert_eq!(receiver.push(Instant::now(), 1, true, &[1, 2, 3]), Err(Malformed));
        assert_eq!(receiver.push(Instant::now(), 1, true, &[16, 0x80, 0, 9]), Ok(None));
        assert_eq!(code_of('d'), Some(15));
        assert_eq!(code_of('x'), None);
    }

    #[test]
    fn mutated_events_never_panic_and_never_count_twice_for_one_timestamp() {
        let mut random = StdRng::seed_from_u64(2);
        let start = Instant::now();
        let mut receiver = Receiver::new(8000);
        for round in 0..100_000u64 {
            let length = random.random_range(0..7);
            let payload: Vec<u8> = (0..length).map(|_| random.random()).collect();
            let timestamp = if random.random() { round as u32 } else { random.random() };
            let now = start + Duration::from_millis(round);
            let _ = receiver.push(now, timestamp, random.random(), &payload);
            let _ = receiver.handle_time(now);
        }
        for _ in 0..10 {
            let _ = receiver.push(start, 5, true, &[1, 0x80, 0, 9]);
        }
        assert_eq!(receiver.push(start, 5, true, &[1, 0x80, 0, 9]), Ok(None));
    }
}
