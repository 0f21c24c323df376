//! RTCP feedback beyond key pictures: what was negotiated of it, and its messages on the wire: generic NACK (RFC 4585
//! §6.2.1), TMMBR and TMMBN (RFC 5104 §4.2.1, §4.2.2), REMB (draft-alvestrand-rmcat-remb §2.2) and transport-wide
//! feedback (draft-holmer-rmcat-transport-wide-cc-extensions §3.1).
//!
//! Compounds are `rtcp`'s; when to send what is `repair`'s and `bandwidth`'s.

use rtcp_types::prelude::*;
use rtcp_types::{Nack, PayloadFeedback, TransportFeedback, Twcc, TwccPacketStatus};

/// RTCP feedback that may be sent and will be obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NegotiatedFeedback {
    pub pli: bool,
    pub fir: bool,
    /// Lost packets are asked for again.
    pub nack: bool,
    /// A receiver may name the most it takes.
    pub tmmbr: bool,
    /// A receiver tells what it estimates the path to carry.
    pub remb: bool,
    /// A receiver tells when each packet came: the id of the header extension that numbers them.
    pub transport_cc: Option<u8>,
}

/// Payload types in which packets are sent again (RFC 4588).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retransmission {
    /// Ours; `None`: lost packets are sent again as they were.
    pub send: Option<u8>,
    /// Theirs, each with the payload type it stands for (`apt`).
    pub receive: Vec<(u8, u8)>,
}

/// Most packets one transport-wide feedback is read for; more is more than a peer sends in a second.
const STATUSES_MAX: usize = 2048;
/// Number of each message among those of its packet type.
const TMMBR: u8 = 3;
const TMMBN: u8 = 4;
const APPLICATION: u8 = 15;
const REMB_NAME: &[u8; 4] = b"REMB";
/// Kernel time of a transport-wide feedback: its reference counts these, its deltas a 256th.
const REFERENCE_MICROS: i64 = 64_000;
const DELTA_MICROS: i64 = 250;

/// One message about the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMessage<'a> {
    /// This packet is missing at the peer.
    Nack { sequence: u16 },
    /// The peer takes at most this, its overhead per packet included.
    Tmmbr { ssrc: u32, sender: u32, limit: Limit },
    /// The peer's answer to a TMMBR of ours.
    Tmmbn,
    /// What the peer believes the path carries, in bits a second.
    Remb { bits: u64 },
    /// When each packet came; opened by [`arrivals`].
    TransportWide(&'a [u8]),
}

/// The limit in a TMMBR or TMMBN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bits a second.
    pub bits: u64,
    /// Bytes of headers per packet that are counted in it.
    pub overhead: u16,
}

/// A packet in a transport-wide feedback: its number and when it came, in microseconds of the peer's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathArrival {
    pub sequence: u16,
    /// `None`: it has not come.
    pub micros: Option<i64>,
}

/// Reads a transport-layer feedback packet (RFC 4585 §6.2). `None`: malformed.
pub fn read_transport<'a>(packet: &'a [u8], mut take: impl FnMut(PathMessage<'a>)) -> Option<()> {
    let feedback = TransportFeedback::parse(packet).ok()?;
    match feedback.count() {
        Nack::FCI_FORMAT => {
            let nack = feedback.parse_fci::<Nack<'_>>().ok()?;
            nack.entries().for_each(|sequence| take(PathMessage::Nack { sequence }));
        }
        TMMBR => {
            let sender = feedback.sender_ssrc();
            for entry in control_of(packet)?.chunks_exact(8) {
                let [ssrc, word] = [word_at(entry, 0)?, word_at(entry, 4)?];
                take(PathMessage::Tmmbr { ssrc, sender, limit: Limit::read(word) });
            }
        }
        TMMBN => take(PathMessage::Tmmbn),
        Twcc::FCI_FORMAT => {
            feedback.parse_fci::<Twcc<'_>>().ok()?;
            take(PathMessage::TransportWide(packet));
        }
        // Other feedback is not for us.
        _ => {}
    }
    Some(())
}

/// Reads an application-layer feedback packet (RFC 4585 §6.4): REMB, or nothing we know. `None`: malformed.
pub fn read_application<'a>(packet: &'a [u8], mut take: impl FnMut(PathMessage<'a>)) -> Option<()> {
    let control = control_of(packet)?;
    if control.get(..4) == Some(REMB_NAME) {
        // One byte counts SSRCs, 6 bits exponent, 18 bits mantissa.
        let word = word_at(control, 4)?;
        let bits = scaled(word & 0x3_ffff, word >> 18 & 0x3f);
        take(PathMessage::Remb { bits });
    }
    Some(())
}

/// Opens a transport-wide feedback: every packet it speaks of, in order. `false`: its end was malformed.
pub fn arrivals(packet: &[u8], mut take: impl FnMut(PathArrival)) -> bool {
    let feedback = TransportFeedback::parse(packet).ok();
    let Some(twcc) = feedback.as_ref().and_then(|feedback| feedback.parse_fci::<Twcc<'_>>().ok()) else {
        return false;
    };
    let mut micros = i64::from(twcc.reference_time()) * REFERENCE_MICROS;
    for status in twcc.packets().take(STATUSES_MAX) {
        let Ok((sequence, status)) = status else { return false };
        let came = match status {
            TwccPacketStatus::NotReceived => None,
            TwccPacketStatus::Received { delta } => {
                micros += i64::from(delta) * DELTA_MICROS;
                Some(micros)
            }
        };
        take(PathArrival { sequence, micros: came });
    }
    true
}

/// The feedback control information of a packet without its padding.
fn control_of(packet: &[u8]) -> Option<&[u8]> {
    let padded = packet.first()? & 0x20 != 0;
    let padding = if padded { usize::from(*packet.last()?) } else { 0 };
    packet.get(12..packet.len().checked_sub(padding)?)
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Limit {
    fn read(word: u32) -> Limit {
        Limit { bits: scaled(word >> 9 & 0x1_ffff, word >> 26), overhead: (word & 0x1ff) as u16 }
    }

    fn write(self) -> u32 {
        let (exponent, mantissa) = float(self.bits, 17);
        exponent << 26 | mantissa << 9 | u32::from(self.overhead & 0x1ff)
    }
}

fn scaled(mantissa: u32, exponent: u32) -> u64 {
    let number = u128::from(mantissa) << exponent.min(63);
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Exponent and mantissa of so many bits, never more than the number.
fn float(number: u64, bits: u32) -> (u32, u32) {
    let exponent = (u64::BITS - number.leading_zeros()).saturating_sub(bits);
    (exponent, (number >> exponent) as u32)
}

/// What is asked for or told in a compound we send; each appends one packet to `out`.
#[derive(Debug, Default)]
pub struct PathWriter {
    out: Vec<u8>,
}

impl PathWriter {
    /// The packets written so far, to be put behind a report.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Asks for packets again. Nothing when there are none.
    pub fn nack(&mut self, sender: u32, media: u32, sequences: &[u16]) {
        if sequences.is_empty() {
            return;
        }
        let add = |nack: rtcp_types::NackBuilder, sequence: &u16| nack.add_rtp_sequence(*sequence);
        let nack = sequences.iter().fold(Nack::builder(), add);
        self.push(&TransportFeedback::builder_owned(nack).sender_ssrc(sender).media_ssrc(media));
    }

    /// When packets came: `first` and those behind it, with the reference time of the feedback. Says how many of the
    /// statuses fitted in.
    pub fn transport_wide(
        &mut self,
        (sender, media): (u32, u32),
        (first, reference, count): (u16, u32, u8),
        statuses: &[TwccPacketStatus],
    ) -> usize {
        let twcc = Twcc::builder(first, reference & 0xff_ffff, count, statuses, Some(1000));
        let fitted = twcc.packet_status_count();
        if fitted > 0 {
            self.push(&TransportFeedback::builder_owned(twcc).sender_ssrc(sender).media_ssrc(media));
        }
        fitted
    }

    /// What we estimate the path to carry.
    pub fn remb(&mut self, sender: u32, media: u32, bits: u64) {
        let (exponent, mantissa) = float(bits, 18);
        let mut control = REMB_NAME.to_vec();
        control.extend((1 << 24 | (exponent & 0x3f) << 18 | mantissa).to_be_bytes());
        control.extend(media.to_be_bytes());
        self.raw(PayloadFeedback::PACKET_TYPE, APPLICATION, (sender, 0), &control);
    }

    /// Says whose limit binds us (RFC 5104 §4.2.2.1).
    pub fn tmmbn(&mut self, sender: u32, owner: u32, limit: Limit) {
        let mut control = owner.to_be_bytes().to_vec();
        control.extend(limit.write().to_be_bytes());
        self.raw(TransportFeedback::PACKET_TYPE, TMMBN, (sender, 0), &control);
    }

    /// Names the most we take of a stream.
    pub fn tmmbr(&mut self, sender: u32, media: u32, limit: Limit) {
        let mut control = media.to_be_bytes().to_vec();
        control.extend(limit.write().to_be_bytes());
        self.raw(TransportFeedback::PACKET_TYPE, TMMBR, (sender, 0), &control);
    }

    fn raw(&mut self, kind: u8, format: u8, (sender, media): (u32, u32), control: &[u8]) {
        self.out.extend([0x80 | format, kind]);
        self.out.extend((2 + control.len() as u16 / 4).to_be_bytes());
        self.out.extend(sender.to_be_bytes());
        self.out.extend(media.to_be_bytes());
        self.out.extend_from_slice(control);
    }

    fn push(&mut self, packet: &impl RtcpPacketWriter) {
        let begin = self.out.len();
        self.out.resize(begin + packet.calculate_size().unwrap_or(0), 0);
        if packet.write_into(&mut self.out[begin..]).is_err() {
            self.out.truncate(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn transport(bytes: &[u8]) -> Vec<PathMessage<'_>> {
        let mut all = Vec::new();
        read_transport(bytes, |message| all.push(message));
        all
    }

    #[test]
    fn every_message_reads_back_as_written() {
        let mut nack = PathWriter::default();
        nack.nack(1, 2, &[65_535, 0, 3, 700]);
        let numbers: Vec<u16> = transport(nack.bytes())
            .iter()
            .filter_map(|message| match message {
                PathMessage::Nack { sequence } => Some(*sequence),
                _ => None,
            })
            .collect();
        assert_eq!(numbers, [0, 3, 700, 65_535]);
        let mut limit = PathWriter::default();
        limit.tmmbr(1, 9, Limit { bits: 800_000, overhead: 40 });
        let [PathMessage::Tmmbr { ssrc: 9, sender: 1, limit: read }] = transport(limit.bytes())[..] else {
            panic!("one limit");
        };
        assert!(read.bits <= 800_000 && read.bits > 799_000 && read.overhead == 40, "{read:?}");
        let mut remb = PathWriter::default();
        remb.remb(1, 2, 1_234_567);
        let mut bits = 0;
        read_application(remb.bytes(), |message| {
            if let PathMessage::Remb { bits: read } = message {
                bits = read;
            }
        });
        assert!((1_234_000..=1_234_567).contains(&bits), "{bits}");
        assert_eq!(remb.bytes().len(), 24);
    }

    #[test]
    fn transport_wide_feedback_tells_when_each_packet_came() {
        let received = |delta| TwccPacketStatus::Received { delta };
        let statuses = [received(4), TwccPacketStatus::NotReceived, received(40), received(-8)];
        let mut writer = PathWriter::default();
        assert_eq!(writer.transport_wide((1, 2), (65_534, 10, 3), &statuses), 4);
        let mut came = Vec::new();
        assert!(arrivals(writer.bytes(), |arrival| came.push((arrival.sequence, arrival.micros))));
        let at = |quarters: i64| Some(640_000 + quarters * 250);
        assert_eq!(came, [(65_534, at(4)), (65_535, None), (0, at(44)), (1, at(36))]);
    }

    #[test]
    fn mutated_messages_never_panic_and_cost_little() {
        let mut random = StdRng::seed_from_u64(9);
        let statuses = vec![TwccPacketStatus::Received { delta: 7 }; 60];
        let mut seeds: Vec<PathWriter> = (0..4).map(|_| PathWriter::default()).collect();
        seeds[0].nack(1, 2, &[5, 6, 90]);
        seeds[1].transport_wide((1, 2), (5, 6, 7), &statuses);
        seeds[2].remb(1, 2, 500_000);
        seeds[3].tmmbr(1, 2, Limit { bits: 90_000, overhead: 20 });
        for round in 0..40_000 {
            let mut bytes = seeds[round % 4].bytes().to_vec();
            if round % 5 == 0 {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
            for _ in 0..random.random_range(1..5) {
                if !bytes.is_empty() {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
            let mut count = 0;
            read_transport(&bytes, |_| count += 1);
            read_application(&bytes, |_| count += 1);
            arrivals(&bytes, |_| count += 1);
            assert!(count <= STATUSES_MAX + bytes.len() * 5);
        }
    }
}
