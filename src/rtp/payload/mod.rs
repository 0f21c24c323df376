//! Payload formats: what a codec's data looks like inside packets.
//!
//! Every video codec has a machine that makes units of packets, and those we can encode one that makes packets of units;
//! here they stand behind one door each, so that nobody else asks which codec it is. Headers, order and loss are not known here; coding and decoding is
//! `codec`'s. G.711 needs no format: its bytes are the payload.

pub mod dtmf;
pub mod h264;
pub mod h265;
pub mod opus;
pub mod start;
pub mod vp8;
pub mod vp9;

use bytes::Bytes;

use crate::media::access_unit::VideoCodec;
use crate::rtp::payload::h264::PacketizationMode;
use crate::rtp::reorder::Piece;

/// Larger coded pictures are dropped whole.
pub const UNIT_MAX: usize = 4 << 20;

/// One coded picture as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub codec: VideoCodec,
    /// In the form of [`crate::media::access_unit::AccessUnit::data`]. Empty when nothing of it is of use; then it is
    /// damaged too.
    pub data: Bytes,
    pub timestamp: u32,
    /// Decoding can start here: a key picture with everything in front that it needs.
    pub key: bool,
    /// What decoding needs beforehand has been heard of: parameter sets, a first key picture.
    pub decodable: bool,
    /// Part of this very unit is missing.
    pub damaged: bool,
    /// Packets were missing in or before it.
    pub after_loss: bool,
}

/// Refused packets, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    pub malformed: u64,
    /// Well-formed, but of a form that was never negotiated: STAP-B, MTAP and FU-B of H.264, PACI of H.265.
    pub unsupported: u64,
    /// Parts of pictures, or pictures, beyond the limits.
    pub too_large: u64,
}

impl std::ops::Add for Refused {
    type Output = Refused;

    fn add(self, other: Refused) -> Refused {
        Refused {
            malformed: self.malformed + other.malformed,
            unsupported: self.unsupported + other.unsupported,
            too_large: self.too_large + other.too_large,
        }
    }
}

/// Packets in sequence to coded pictures, of whatever codec the peer sends at the moment.
#[derive(Debug, Default)]
pub struct Depacketizer {
    codec: VideoCodec,
    h264: h264::Depacketizer,
    vp8: vp8::Depacketizer,
    vp9: vp9::Depacketizer,
    h265: h265::Depacketizer,
}

impl Depacketizer {
    /// Parameter sets of the SDP, without start codes. Each codec knows its own by their headers.
    pub fn learn<'a>(&mut self, parameter_sets: impl IntoIterator<Item = &'a [u8]> + Clone) {
        self.h264.learn(parameter_sets.clone());
        self.h265.learn(parameter_sets);
    }

    /// Takes the next packet in sequence; gives the units it completes, at most the one before it and its own.
    pub fn push(&mut self, piece: Piece<'_>) -> [Option<Unit>; 2] {
        let mut done = if piece.codec == self.codec { Done::default() } else { Done([self.flush(), None]) };
        self.codec = piece.codec;
        match piece.codec {
            VideoCodec::H264 => {
                let mut units = [None, None];
                self.h264.push(piece, |unit| units[usize::from(units[0].is_some())] = Some(unit));
                units.into_iter().flatten().for_each(|unit| done.put(self.h264.whole(unit)));
            }
            VideoCodec::Vp8 => self.vp8.push(piece, |unit| done.put(unit)),
            VideoCodec::Vp9 => self.vp9.push(piece, |unit| done.put(unit)),
            VideoCodec::H265 => self.h265.push(piece, |unit| done.put(unit)),
        }
        done.0
    }

    /// The stream ends here: what is half built is handed on as damaged.
    pub fn flush(&mut self) -> Option<Unit> {
        let mut last = None;
        match self.codec {
            VideoCodec::H264 => {
                self.h264.flush(|unit| last = Some(unit));
                last.map(|unit| self.h264.whole(unit))
            }
            VideoCodec::Vp8 => self.vp8.flush(),
            VideoCodec::Vp9 => self.vp9.flush(),
            VideoCodec::H265 => self.h265.flush(),
        }
    }

    pub fn refused(&self) -> Refused {
        self.h264.refused() + self.vp8.refused() + self.vp9.refused() + self.h265.refused()
    }
}

#[derive(Default)]
struct Done([Option<Unit>; 2]);

impl Done {
    fn put(&mut self, unit: Unit) {
        let place = usize::from(self.0[0].is_some());
        self.0[place] = Some(unit);
    }
}

/// The longest header a payload format puts in front of its part of a unit.
const HEADER_MAX: usize = 4;

/// One packet's payload: a few bytes of header and a part of a coded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    header: [u8; HEADER_MAX],
    header_len: u8,
    data: Bytes,
    /// The last packet of its picture.
    pub marker: bool,
}

impl Payload {
    /// Without the marker. What of `header` goes beyond the longest one is left out.
    fn new(header: &[u8], data: Bytes) -> Self {
        let header_len = header.len().min(HEADER_MAX);
        let mut kept = [0; HEADER_MAX];
        kept[..header_len].copy_from_slice(&header[..header_len]);
        Payload { header: kept, header_len: header_len as u8, data, marker: false }
    }

    /// To be put behind each other.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.header[..usize::from(self.header_len)], &self.data]
    }

    pub fn len(&self) -> usize {
        usize::from(self.header_len) + self.data.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How pictures we send are put into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFormat {
    H264(PacketizationMode),
    Vp8,
}

/// Coded pictures to packets. Shares their memory.
#[derive(Clone, Copy, Debug)]
pub enum Packetizer {
    H264(h264::Packetizer),
    Vp8(vp8::Packetizer),
}

impl Packetizer {
    /// `max_payload`: bytes per packet, at least 16. `seed`: for numbers that begin anywhere.
    pub fn new(format: SendFormat, max_payload: usize, seed: u64) -> Self {
        match format {
            SendFormat::H264(mode) => Packetizer::H264(h264::Packetizer { mode, max_payload }),
            SendFormat::Vp8 => Packetizer::Vp8(vp8::Packetizer::new(max_payload, seed as u16)),
        }
    }

    pub fn codec(&self) -> VideoCodec {
        match self {
            Packetizer::H264(_) => VideoCodec::H264,
            Packetizer::Vp8(_) => VideoCodec::Vp8,
        }
    }

    /// Cuts one unit into payloads, in order. Returns how many parts of it could not be sent.
    pub fn packetize(&mut self, unit: &Bytes, put: impl FnMut(Payload)) -> usize {
        match self {
            Packetizer::H264(packetizer) => packetizer.packetize(unit, put),
            Packetizer::Vp8(packetizer) => {
                packetizer.packetize(unit, put);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 10] = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00];

    fn piece(codec: VideoCodec, timestamp: u32, payload: &[u8]) -> Piece<'_> {
        Piece { codec, timestamp, payload, ..Piece::default() }
    }

    #[test]
    fn a_peer_may_change_its_codec_between_two_packets() {
        let mut depacketizer = Depacketizer::default();
        assert_eq!(depacketizer.push(piece(VideoCodec::H264, 1, &[0x41, 0x9a, 1, 2])), [None, None]);
        let vp8 = [&[0x10][..], &KEY].concat();
        let whole = Piece { marker: true, ..piece(VideoCodec::Vp8, 2, &vp8) };
        let [half, key] = depacketizer.push(whole).map(|unit| unit.expect("two units"));
        assert_eq!((half.codec, half.damaged, half.timestamp), (VideoCodec::H264, true, 1));
        assert_eq!((key.codec, key.key, key.damaged), (VideoCodec::Vp8, true, false));
        assert!(key.data == KEY[..]);
        let back = Piece { marker: true, ..piece(VideoCodec::H264, 3, &[0x41, 0x9a, 1, 2]) };
        let [unit, none] = depacketizer.push(back);
        assert_eq!((unit.map(|unit| unit.codec), none), (Some(VideoCodec::H264), None));
    }

    #[test]
    fn a_payload_is_its_header_and_its_part() {
        let payload = Payload::new(&[1, 2], Bytes::from_static(&[3]));
        assert_eq!((payload.parts().concat(), payload.len(), payload.is_empty()), (vec![1, 2, 3], 3, false));
    }
}
