//! Numbered packets that left, until the peer says when they came (transport-wide feedback): bounded in number and age.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::rtp::feedback;

const PACKETS_MAX: usize = 4096;
const AGE_MAX: Duration = Duration::from_secs(5);
/// The rate that got through is measured over this much time.
const WINDOW_MICROS: i64 = 500_000;

#[derive(Debug)]
struct Sent {
    at: Instant,
    bytes: usize,
    told: bool,
}

/// One packet that came: microseconds of our clock when it left, of the peer's when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    pub sent: i64,
    pub arrived: i64,
}

/// What one feedback said of packets it was the first to tell of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub expected: u64,
    pub lost: u64,
    pub sound: bool,
}

/// The packets on their way.
#[derive(Debug)]
pub struct Flight {
    epoch: Instant,
    /// Without gaps; the first has the number `first`.
    packets: VecDeque<Sent>,
    first: u16,
    /// Bytes that came, by the peer's clock.
    through: VecDeque<(i64, usize)>,
    since: Option<i64>,
}

impl Flight {
    /// `epoch`: zero of the times handed on.
    pub fn new(epoch: Instant) -> Self {
        Flight { epoch, packets: VecDeque::new(), first: 0, through: VecDeque::new(), since: None }
    }

    /// A packet left.
    pub fn sent(&mut self, now: Instant, number: u16, bytes: usize) {
        if self.first.wrapping_add(self.packets.len() as u16) != number {
            self.first = number;
            self.packets.clear();
        }
        self.packets.push_back(Sent { at: now, bytes, told: false });
        let old = |sent: &Sent| now.saturating_duration_since(sent.at) > AGE_MAX;
        while self.packets.len() > PACKETS_MAX || self.packets.front().is_some_and(old) {
            self.packets.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Takes a feedback and hands on every packet it is the first to tell of.
    pub fn told(&mut self, feedback: &[u8], mut take: impl FnMut(Came)) -> Told {
        let mut told = Told::default();
        let Flight { epoch, packets, first, through, since } = self;
        told.sound = feedback::arrivals(feedback, |arrival| {
            let place = usize::from(arrival.sequence.wrapping_sub(*first));
            let Some(sent) = packets.get_mut(place).filter(|sent| !sent.told) else { return };
            told.expected += 1;
            let Some(arrived) = arrival.micros else {
                // It may still come; a later feedback is believed then, but it counts as lost once.
                told.lost += 1;
                return;
            };
            sent.told = true;
            since.get_or_insert(arrived);
            through.push_back((arrived, sent.bytes));
            let left = sent.at.saturating_duration_since(*epoch).as_micros();
            take(Came { sent: i64::try_from(left).unwrap_or(i64::MAX), arrived });
        });
        if let Some(newest) = through.back().map(|(at, _)| *at) {
            // Also forward in time: the peer's clock may have jumped.
            through.retain(|(at, _)| (newest - at).abs() <= WINDOW_MICROS);
        }
        told
    }

    /// Bits a second that got through lately; `None` until enough came.
    pub fn through(&self) -> Option<f64> {
        let newest = self.through.back()?.0;
        let known = self.since.is_some_and(|since| newest - since >= WINDOW_MICROS);
        let bytes: usize = self.through.iter().map(|(_, bytes)| bytes).sum();
        known.then_some(bytes as f64 * 8.0 * 1e6 / WINDOW_MICROS as f64)
    }
}

#[cfg(test)]
mod tests {
    use rtcp_types::TwccPacketStatus;

    use super::*;
    use crate::rtp::feedback::PathWriter;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn packets_are_matched_once_and_losses_counted() {
        let start = Instant::now();
        let mut flight = Flight::new(start);
        for n in 0..4u16 {
            flight.sent(start + MS(u64::from(n) * 10), 65_534u16.wrapping_add(n), 1000);
        }
        let received = |delta| TwccPacketStatus::Received { delta };
        let mut writer = PathWriter::default();
        let statuses = [received(0), received(40), TwccPacketStatus::NotReceived, received(80)];
        writer.transport_wide((1, 2), (65_534, 100, 0), &statuses);
        let mut came = Vec::new();
        let told = flight.told(writer.bytes(), |packet| came.push((packet.sent, packet.arrived)));
        assert_eq!(told, Told { expected: 4, lost: 1, sound: true });
        assert_eq!(came, [(0, 6_400_000), (10_000, 6_410_000), (30_000, 6_430_000)]);
        let again = flight.told(writer.bytes(), |_| panic!("told before"));
        assert_eq!(again.expected, 1);
    }

    #[test]
    fn what_gets_through_is_measured_and_memory_is_bounded() {
        let start = Instant::now();
        let mut flight = Flight::new(start);
        for n in 0..200u64 {
            flight.sent(start + MS(n * 10), n as u16, 1000);
            let mut writer = PathWriter::default();
            let status = [TwccPacketStatus::Received { delta: (n * 40 % 256) as i16 }];
            let reference = (n * 10_000 / 64_000) as u32;
            writer.transport_wide((1, 2), (n as u16, reference, 0), &status);
            flight.told(writer.bytes(), |_| {});
        }
        let through = flight.through().expect("known");
        assert!((700_000.0..900_000.0).contains(&through), "{through}");
        for n in 0..20_000u64 {
            flight.sent(start + MS(n), 200 + n as u16, 1000);
            assert!(flight.packets.len() <= PACKETS_MAX);
        }
    }
}
