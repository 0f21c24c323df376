//! RTCP extended reports with the VoIP metrics block (RFC 3611 §2, §4.7): what a receiver says of a call's quality.
//!
//! Read and written here; when one is sent is [`super::session`]'s to say, and what the figures are [`super::audio`]'s.
//! Other blocks are passed over.

/// RTCP packet type of extended reports.
pub const PACKET_TYPE: u8 = 207;
const VOIP_METRICS: u8 = 7;
/// Length of the block without its header, in 32-bit words.
const WORDS: usize = 8;
/// A rating that is not known.
const UNKNOWN: u8 = 127;

/// One VoIP metrics block. Shares are 0 to 1; delays are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VoipMetrics {
    /// The stream it is about.
    pub ssrc: u32,
    pub loss: f64,
    /// Came too late or too early to be played.
    pub discard: f64,
    /// Share of packets lost within bursts and outside of them, and how long both last.
    pub burst_density: f64,
    pub gap_density: f64,
    pub burst_ms: u16,
    pub gap_ms: u16,
    pub round_trip_ms: u16,
    /// From the network to the ear and from the mouth to the network.
    pub end_system_ms: u16,
    /// R, 0 to 100.
    pub rating: Option<f64>,
    /// Mean opinion scores of listening and conversation, 1 to 5.
    pub listening: Option<f64>,
    pub conversation: Option<f64>,
    /// How long packets wait now, and at most, for those that come later.
    pub buffer_ms: u16,
    pub buffer_max_ms: u16,
}

/// Reads one whole RTCP packet of type 207. `None`: it is malformed.
pub fn read(packet: &[u8], mut take: impl FnMut(VoipMetrics)) -> Option<()> {
    let padding = match packet.first()? & 0x20 {
        0 => 0,
        _ => usize::from(*packet.last()?),
    };
    let mut rest = packet.get(8..packet.len().checked_sub(padding)?)?;
    while !rest.is_empty() {
        let [kind, _, high, low, ..] = *rest else { return None };
        let words = usize::from(u16::from_be_bytes([high, low]));
        let block = rest.get(4..4 + words * 4)?;
        if kind == VOIP_METRICS {
            take(VoipMetrics::of(block.first_chunk()?));
        }
        rest = &rest[4 + words * 4..];
    }
    Some(())
}

/// The RTCP packet of reporter `ssrc`.
pub fn write(ssrc: u32, metrics: &VoipMetrics) -> [u8; 44] {
    let mut out = [0; 44];
    out[..4].copy_from_slice(&[0x80, PACKET_TYPE, 0, 10]);
    out[4..8].copy_from_slice(&ssrc.to_be_bytes());
    out[8..12].copy_from_slice(&[VOIP_METRICS, 0, 0, WORDS as u8]);
    out[12..].copy_from_slice(&metrics.bytes());
    out
}

impl VoipMetrics {
    fn of(block: &[u8; 4 * WORDS]) -> Self {
        let share = |at: usize| f64::from(block[at]) / 256.0;
        let ms = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
        let score = |at: usize| (10..=50).contains(&block[at]).then(|| f64::from(block[at]) / 10.0);
        VoipMetrics {
            ssrc: u32::from_be_bytes([block[0], block[1], block[2], block[3]]),
            loss: share(4),
            discard: share(5),
            burst_density: share(6),
            gap_density: share(7),
            burst_ms: ms(8),
            gap_ms: ms(10),
            round_trip_ms: ms(12),
            end_system_ms: ms(14),
            rating: (block[20] <= 100).then(|| f64::from(block[20])),
            listening: score(22),
            conversation: score(23),
            buffer_ms: ms(26),
            buffer_max_ms: ms(28),
        }
    }

    fn bytes(&self) -> [u8; 4 * WORDS] {
        let share = |share: f64| (share.clamp(0.0, 1.0) * 256.0).min(255.0) as u8;
        let score = |score: Option<f64>| score.map_or(UNKNOWN, |score| (score * 10.0).round() as u8);
        let mut block = [0; 4 * WORDS];
        block[..4].copy_from_slice(&self.ssrc.to_be_bytes());
        block[4] = share(self.loss);
        block[5] = share(self.discard);
        block[6] = share(self.burst_density);
        block[7] = share(self.gap_density);
        for (at, ms) in [
            (8, self.burst_ms),
            (10, self.gap_ms),
            (12, self.round_trip_ms),
            (14, self.end_system_ms),
            (26, self.buffer_ms),
            (28, self.buffer_max_ms),
            // The most it could be is what it may grow to.
            (30, self.buffer_max_ms),
        ] {
            block[at..at + 2].copy_from_slice(&ms.to_be_bytes());
        }
        // Levels of signal, noise and echo return loss are not measured; Gmin is the usual 16.
        block[16..20].copy_from_slice(&[UNKNOWN, UNKNOWN, UNKNOWN, 16]);
        block[20] = self.rating.map_or(UNKNOWN, |rating| rating.round().clamp(0.0, 100.0) as u8);
        block[21] = UNKNOWN;
        block[22] = score(self.listening);
        block[23] = score(self.conversation);
        // Receiver configuration: enhanced concealment, adaptive buffer.
        block[24] = 0b1111_0000;
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> VoipMetrics {
        VoipMetrics {
            ssrc: 9,
            loss: 0.05078125,
            discard: 0.0078125,
            burst_density: 0.5,
            gap_density: 0.00390625,
            burst_ms: 120,
            gap_ms: 3000,
            round_trip_ms: 42,
            end_system_ms: 60,
            rating: Some(81.0),
            listening: Some(4.1),
            conversation: Some(4.0),
            buffer_ms: 20,
            buffer_max_ms: 250,
        }
    }

    fn all(packet: &[u8]) -> (Option<()>, Vec<VoipMetrics>) {
        let mut all = Vec::new();
        (read(packet, |metrics| all.push(metrics)), all)
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(all(&write(1, &metrics())), (Some(()), vec![metrics()]));
        let unknown = VoipMetrics { rating: None, listening: None, conversation: None, ..metrics() };
        assert_eq!(all(&write(1, &unknown)).1, [unknown]);
        assert_eq!(write(1, &metrics()).len(), (usize::from(write(1, &metrics())[3]) + 1) * 4);
    }

    #[test]
    fn other_blocks_are_passed_over_and_broken_ones_end_it() {
        let mut packet = vec![0x80, PACKET_TYPE, 0, 13, 0, 0, 0, 1];
        // Receiver reference time (block type 4), then ours.
        packet.extend([4, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
        packet.extend(&write(1, &metrics())[8..]);
        assert_eq!(all(&packet), (Some(()), vec![metrics()]));
        // A block that is longer than the packet, and one too short for what it says it is.
        assert_eq!(all(&[&packet[..8], &[4, 0, 0, 9, 1, 2, 3, 4]].concat()).0, None);
        assert_eq!(all(&[&packet[..8], &[7, 0, 0, 1, 1, 2, 3, 4]].concat()), (None, vec![]));
        assert_eq!(all(&packet[..7]).0, None);
        let mut padded = packet.clone();
        padded[0] |= 0x20;
        padded.extend([0, 0, 0, 4]);
        assert_eq!(all(&padded), (Some(()), vec![metrics()]));
        padded[0] = 0xa0;
        *padded.last_mut().expect("bytes") = 255;
        assert_eq!(all(&padded).0, None);
    }
}
