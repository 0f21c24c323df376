//! RTCP packets (RFC 3550 §6), feedback messages (RFC 4585 §6, RFC 5104 §4.3.1), read and written over `rtcp-types`.
//!
//! A compound is walked here and not by the crate: one bad packet must not hide the good ones before it, and
//! SDES values, which the crate reads beyond their item, are never opened. When to send what is `session`.

use bytes::Bytes;
use rtcp_types::prelude::*;
use rtcp_types::{
    Bye, CompoundBuilder, Fir, PayloadFeedback, Pli, ReceiverReport, ReportBlock, Sdes, SdesChunk, SdesItem,
    SenderReport, TransportFeedback,
};

use crate::rtp::feedback::{self, PathMessage};
use crate::rtp::xr::{self, VoipMetrics};

/// One message out of a received compound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'a> {
    SenderReport(SenderInfo),
    Report(Block),
    Bye {
        ssrc: u32,
    },
    /// A picture was lost: send a key picture.
    Pli {
        media_ssrc: u32,
    },
    /// Send a key picture; the same `sequence` again is the same request again.
    Fir {
        ssrc: u32,
        sequence: u8,
    },
    /// How a stream is heard at the peer (RFC 3611).
    VoipMetrics(VoipMetrics),
    /// About packets and the path they take.
    Path(PathMessage<'a>),
}

/// The sender's part of a sender report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    pub ssrc: u32,
    /// 32.32 seconds since 1900.
    pub ntp: u64,
    pub rtp_timestamp: u32,
    pub packets: u32,
    pub bytes: u32,
}

/// A reception report block, about `ssrc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub ssrc: u32,
    /// In 256ths since the previous report.
    pub fraction_lost: u8,
    /// Since the beginning; negative when duplicates outnumber losses.
    pub cumulative_lost: i32,
    pub highest_sequence: u32,
    /// In timestamp units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report, 0 when there was none.
    pub last_sender_report: u32,
    /// In 65536ths of a second.
    pub delay_since_last: u32,
}

/// Reads all messages of a compound. `false`: some of it was malformed.
pub fn read<'a>(bytes: &'a [u8], mut take: impl FnMut(Message<'a>)) -> bool {
    let mut rest = bytes;
    let mut sound = !rest.is_empty();
    while !rest.is_empty() {
        let [first, kind, high, low, ..] = *rest else {
            return false;
        };
        let len = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        if first >> 6 != 2 || len > rest.len() {
            return false;
        }
        let (packet, behind) = rest.split_at(len);
        sound &= read_one(packet, kind, &mut take).is_some();
        rest = behind;
    }
    sound
}

fn read_one<'a>(packet: &'a [u8], kind: u8, take: &mut impl FnMut(Message<'a>)) -> Option<()> {
    match kind {
        SenderReport::PACKET_TYPE => {
            let report = SenderReport::parse(packet).ok()?;
            take(Message::SenderReport(SenderInfo {
                ssrc: report.ssrc(),
                ntp: report.ntp_timestamp(),
                rtp_timestamp: report.rtp_timestamp(),
                packets: report.packet_count(),
                bytes: report.octet_count(),
            }));
            report.report_blocks().for_each(|block| take(Message::Report(Block::of(&block))));
        }
        ReceiverReport::PACKET_TYPE => {
            let report = ReceiverReport::parse(packet).ok()?;
            report.report_blocks().for_each(|block| take(Message::Report(Block::of(&block))));
        }
        Bye::PACKET_TYPE => Bye::parse(packet).ok()?.ssrcs().for_each(|ssrc| take(Message::Bye { ssrc })),
        PayloadFeedback::PACKET_TYPE => read_payload_feedback(packet, take)?,
        TransportFeedback::PACKET_TYPE => {
            feedback::read_transport(packet, |message| take(Message::Path(message)))?;
        }
        xr::PACKET_TYPE => xr::read(packet, |metrics| take(Message::VoipMetrics(metrics)))?,
        // SDES, APP and what else there is: nothing here needs them.
        _ => {}
    }
    Some(())
}

fn read_payload_feedback<'a>(packet: &'a [u8], take: &mut impl FnMut(Message<'a>)) -> Option<()> {
    let feedback = PayloadFeedback::parse(packet).ok()?;
    match feedback.count() {
        // By its number alone: a padded one is as good.
        Pli::FCI_FORMAT => take(Message::Pli { media_ssrc: feedback.media_ssrc() }),
        Fir::FCI_FORMAT => {
            let fir = feedback.parse_fci::<Fir<'_>>().ok()?;
            let message =
                |entry: rtcp_types::FirEntry| Message::Fir { ssrc: entry.ssrc(), sequence: entry.sequence() };
            fir.entries().for_each(|entry| take(message(entry)));
        }
        15 => feedback::read_application(packet, |message| take(Message::Path(message)))?,
        _ => {}
    }
    Some(())
}

impl Block {
    fn of(block: &ReportBlock<'_>) -> Block {
        Block {
            ssrc: block.ssrc(),
            fraction_lost: block.fraction_lost(),
            // 24 bits, signed.
            cumulative_lost: (block.cumulative_lost() << 8) as i32 >> 8,
            highest_sequence: block.extended_sequence_number(),
            jitter: block.interarrival_jitter(),
            last_sender_report: block.last_sender_report_timestamp(),
            delay_since_last: block.delay_since_last_sender_report_timestamp(),
        }
    }

    fn builder(&self) -> rtcp_types::ReportBlockBuilder {
        let lost = self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
        ReportBlock::builder(self.ssrc)
            .fraction_lost(self.fraction_lost)
            .cumulative_lost(lost)
            .extended_sequence_number(self.highest_sequence)
            .interarrival_jitter(self.jitter)
            .last_sender_report_timestamp(self.last_sender_report)
            .delay_since_last_sender_report_timestamp(self.delay_since_last)
    }
}

/// What follows the report in a compound we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail<'a> {
    Nothing,
    Pli {
        media_ssrc: u32,
    },
    Fir {
        media_ssrc: u32,
        sequence: u8,
    },
    Bye,
    /// Packets already written: see [`feedback::PathWriter`].
    Path(&'a [u8]),
}

/// A compound: sender report (when we sent something) or receiver report, SDES with CNAME, and `tail`.
/// `cname` is at most 255 bytes. Empty when it cannot be written.
pub fn write(
    ssrc: u32,
    sender: Option<SenderInfo>,
    block: Option<Block>,
    cname: &str,
    tail: Tail<'_>,
) -> Bytes {
    let cname = SdesItem::builder(SdesItem::CNAME, cname);
    let sdes = Sdes::builder().add_chunk(SdesChunk::builder(ssrc).add_item(cname));
    let mut compound = CompoundBuilder::default();
    compound = match sender {
        Some(info) => {
            let report = SenderReport::builder(ssrc)
                .ntp_timestamp(info.ntp)
                .rtp_timestamp(info.rtp_timestamp)
                .packet_count(info.packets)
                .octet_count(info.bytes);
            compound.add_packet(match block {
                Some(block) => report.add_report_block(block.builder()),
                None => report,
            })
        }
        None => {
            let report = ReceiverReport::builder(ssrc);
            compound.add_packet(match block {
                Some(block) => report.add_report_block(block.builder()),
                None => report,
            })
        }
    };
    compound = compound.add_packet(sdes);
    compound = match tail {
        Tail::Nothing | Tail::Path(_) => compound,
        Tail::Pli { media_ssrc } => compound.add_packet(
            PayloadFeedback::builder_owned(Pli::builder()).sender_ssrc(ssrc).media_ssrc(media_ssrc),
        ),
        // RFC 5104 §4.3.1.2: the media source of the packet is 0, the one meant is in the entry.
        Tail::Fir { media_ssrc, sequence } => {
            let fir = Fir::builder().add_ssrc(media_ssrc, sequence);
            compound.add_packet(PayloadFeedback::builder_owned(fir).sender_ssrc(ssrc).media_ssrc(0))
        }
        Tail::Bye => compound.add_packet(Bye::builder().add_source(ssrc)),
    };
    let mut bytes = vec![0; compound.calculate_size().unwrap_or_default()];
    if compound.write_into(&mut bytes).is_err() {
        return Bytes::new();
    }
    if let Tail::Path(packets) = tail {
        bytes.extend_from_slice(packets);
    }
    bytes.into()
}

/// The middle 32 bits of an NTP timestamp: the form in report blocks.
pub fn middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn messages(bytes: &[u8]) -> Vec<Message<'_>> {
        let mut all = Vec::new();
        read(bytes, |message| all.push(message));
        all
    }

    fn block() -> Block {
        Block {
            ssrc: 9,
            fraction_lost: 12,
            cumulative_lost: -3,
            highest_sequence: 70_000,
            jitter: 80,
            last_sender_report: 5,
            delay_since_last: 6,
        }
    }

    #[test]
    fn reports_and_feedback_read_back_as_written() {
        let info = SenderInfo { ssrc: 1, ntp: 7 << 32, rtp_timestamp: 8, packets: 9, bytes: 10 };
        for (tail, message) in [
            (Tail::Pli { media_ssrc: 9 }, Message::Pli { media_ssrc: 9 }),
            (Tail::Fir { media_ssrc: 9, sequence: 200 }, Message::Fir { ssrc: 9, sequence: 200 }),
            (Tail::Bye, Message::Bye { ssrc: 1 }),
        ] {
            let bytes = write(1, Some(info), Some(block()), "eyeline@host", tail);
            assert_eq!(messages(&bytes), [Message::SenderReport(info), Message::Report(block()), message]);
        }
        let bytes = write(1, None, None, "", Tail::Nothing);
        assert!(read(&bytes, |_| {}) && messages(&bytes).is_empty() && bytes.len().is_multiple_of(4));
    }

    #[test]
    fn negative_acknowledgements_name_each_packet() {
        // Base 100, mask: 101 and 116; then 65535 and 0.
        let mut bytes = vec![0x81, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2];
        bytes.extend([0, 100, 0x80, 0x01, 0xff, 0xff, 0, 1]);
        let numbers = [100, 101, 116, 65535, 0].map(|sequence| Message::Path(PathMessage::Nack { sequence }));
        assert_eq!(messages(&bytes), numbers);
    }

    #[test]
    fn a_bad_packet_does_not_hide_the_ones_before_it() {
        let mut bytes = write(1, None, None, "c", Tail::Pli { media_ssrc: 9 }).to_vec();
        bytes.extend([0x81, 206, 0, 200]);
        assert_eq!(messages(&bytes), [Message::Pli { media_ssrc: 9 }]);
        assert!(!read(&bytes, |_| {}));
    }

    #[test]
    fn a_lone_feedback_packet_and_a_padded_one_are_taken() {
        assert_eq!(messages(&[0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]), [Message::Pli { media_ssrc: 2 }]);
        let padded = [0xa1, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4];
        assert_eq!(messages(&padded), [Message::Pli { media_ssrc: 2 }]);
    }

    #[test]
    fn mutated_compounds_never_panic() {
        let mut random = StdRng::seed_from_u64(3);
        let info = SenderInfo { ssrc: 1, ntp: 7 << 32, rtp_timestamp: 8, packets: 9, bytes: 10 };
        let seeds = [
            write(1, Some(info), Some(block()), "eyeline@host", Tail::Fir { media_ssrc: 9, sequence: 1 })
                .to_vec(),
            write(1, None, Some(block()), "eyeline@host", Tail::Bye).to_vec(),
            vec![0x81, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 100, 0x80, 0x01, 0xff, 0xff, 0, 1],
        ];
        for round in 0..60_000 {
            let mut bytes = seeds[round % seeds.len()].clone();
            if round % 7 == 0 {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
            for _ in 0..random.random_range(1..6) {
                if !bytes.is_empty() {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
            let mut count = 0;
            read(&bytes, |_| count += 1);
            assert!(count <= bytes.len() * 17 / 4, "every message costs bytes");
        }
    }
}
