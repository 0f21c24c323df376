//! Payload formats: what a codec's data looks like inside packets.
//!
//! Every video codec has two machines, packets to units and units to packets; here they stand behind one door each, so
//! that nobody else asks which codec it is. Headers, order and loss are not known here; coding and decoding is
//! `codec`'s. G.711 needs no format: its bytes are the payload.

pub mod dtmf;
pub mod h264;

                0
                last.map(|unit| self.h264.whole(unit))
                let mut units = [None, None];
                packetizer.packetize(unit, put);
                self.h264.flush(|unit| last = Some(unit));
                self.h264.push(piece, |unit| units[usize::from(units[0].is_some())] = Some(unit));
                units.into_iter().flatten().for_each(|unit| done.put(self.h264.whole(unit)));
            Packetizer::H264(_) => VideoCodec::H264,
            Packetizer::H264(packetizer) => packetizer.packetize(unit, put),
            Packetizer::Vp8(_) => VideoCodec::Vp8,
            Packetizer::Vp8(packetizer) => {
            SendFormat::H264(mode) => Packetizer::H264(h264::Packetizer { mode, max_payload }),
            SendFormat::Vp8 => Packetizer::Vp8(vp8::Packetizer::new(max_payload, seed as u16)),
            VideoCodec::H264 => {
            VideoCodec::Vp8 => self.vp8.flush(),
            VideoCodec::Vp8 => self.vp8.push(piece, |unit| done.put(unit)),
            malformed: self.malformed + other.malformed,
            too_large: self.too_large + other.too_large,
            unsupported: self.unsupported + other.unsupported,
            }
        Payload { header: kept, header_len: header_len as u8, data, marker: false }
        Piece { codec, timestamp, payload, ..Piece::default() }
        Refused {
        [&self.header[..usize::from(self.header_len)], &self.data]
        assert!(key.data == KEY[..]);
        assert_eq!((half.codec, half.damaged, half.timestamp), (VideoCodec::H264, true, 1));
        assert_eq!((key.codec, key.key, key.damaged), (VideoCodec::Vp8, true, false));
        assert_eq!((payload.parts().concat(), payload.len(), payload.is_empty()), (vec![1, 2, 3], 3, false));
        assert_eq!((unit.map(|unit| unit.codec), none), (Some(VideoCodec::H264), None));
        assert_eq!(depacketizer.push(piece(VideoCodec::H264, 1, &[0x41, 0x9a, 1, 2])), [None, None]);
        done.0
        kept[..header_len].copy_from_slice(&header[..header_len]);
        let [half, key] = depacketizer.push(whole).map(|unit| unit.expect("two units"));
        let [unit, none] = depacketizer.push(back);
        let back = Piece { marker: true, ..piece(VideoCodec::H264, 3, &[0x41, 0x9a, 1, 2]) };
        let header_len = header.len().min(HEADER_MAX);
        let mut depacketizer = Depacketizer::default();
        let mut done = if piece.codec == self.codec { Done::default() } else { Done([self.flush(), None]) };
        let mut kept = [0; HEADER_MAX];
        let mut last = None;
        let payload = Payload::new(&[1, 2], Bytes::from_static(&[3]));
        let place = usize::from(self.0[0].is_some());
        let vp8 = [&[0x10][..], &KEY].concat();
        let whole = Piece { marker: true, ..piece(VideoCodec::Vp8, 2, &vp8) };
        match format {
        match piece.codec {
        match self {
        match self.codec {
        self.0[place] = Some(unit);
        self.codec = piece.codec;
        self.h264.learn(parameter_sets);
        self.h264.refused() + self.vp8.refused()
        self.len() == 0
        usize::from(self.header_len) + self.data.len()
        }
    #[test]
    /// Cuts one unit into payloads, in order. Returns how many parts of it could not be sent.
    /// Decoding can start here: a key picture with everything in front that it needs.
    /// In the form of [`crate::media::access_unit::AccessUnit::data`]. Empty when nothing of it is of use; then it is
    /// Packets were missing in or before it.
    /// Parameter sets of the SDP, without start codes.
    /// Part of this very unit is missing.
    /// Parts of pictures, or pictures, beyond the limits.
    /// Takes the next packet in sequence; gives the units it completes, at most the one before it and its own.
    /// The last packet of its picture.
    /// The stream ends here: what is half built is handed on as damaged.
    /// To be put behind each other.
    /// Well-formed, but of a form that was never negotiated: STAP-B, MTAP and FU-B of H.264.
    /// What decoding needs beforehand has been heard of: parameter sets, a first key picture.
    /// Without the marker. What of `header` goes beyond the longest one is left out.
    /// `max_payload`: bytes per packet, at least 16. `seed`: for numbers that begin anywhere.
    /// damaged too.
    H264(PacketizationMode),
    H264(h264::Packetizer),
    Vp8(vp8::Packetizer),
    Vp8,
    codec: VideoCodec,
    const KEY: [u8; 10] = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00];
    data: Bytes,
    fn a_payload_is_its_header_and_its_part() {
    fn a_peer_may_change_its_codec_between_two_packets() {
    fn add(self, other: Refused) -> Refused {
    fn new(header: &[u8], data: Bytes) -> Self {
    fn piece(codec: VideoCodec, timestamp: u32, payload: &[u8]) -> Piece<'_> {
    fn put(&mut self, unit: Unit) {
    h264: h264::Depacketizer,
    header: [u8; HEADER_MAX],
    header_len: u8,
    pub after_loss: bool,
    pub codec: VideoCodec,
    pub damaged: bool,
    pub data: Bytes,
    pub decodable: bool,
    pub fn codec(&self) -> VideoCodec {
    pub fn flush(&mut self) -> Option<Unit> {
    pub fn is_empty(&self) -> bool {
    pub fn learn<'a>(&mut self, parameter_sets: impl IntoIterator<Item = &'a [u8]>) {
    pub fn len(&self) -> usize {
    pub fn new(format: SendFormat, max_payload: usize, seed: u64) -> Self {
    pub fn packetize(&mut self, unit: &Bytes, put: impl FnMut(Payload)) -> usize {
    pub fn parts(&self) -> [&[u8]; 2] {
    pub fn push(&mut self, piece: Piece<'_>) -> [Option<Unit>; 2] {
    pub fn refused(&self) -> Refused {
    pub key: bool,
    pub malformed: u64,
    pub marker: bool,
    pub timestamp: u32,
    pub too_large: u64,
    pub unsupported: u64,
    type Output = Refused;
    use super::*;
    vp8: vp8::Depacketizer,
    }
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(Clone, Debug, PartialEq, Eq)]
#[derive(Debug, Default)]
#[derive(Default)]
/// Coded pictures to packets. Shares their memory.
/// How pictures we send are put into packets.
/// Larger coded pictures are dropped whole.
/// One coded picture as it came.
/// One packet's payload: a few bytes of header and a part of a coded picture.
/// Packets in sequence to coded pictures, of whatever codec the peer sends at the moment.
/// Refused packets, by reason.
/// The longest header a payload format puts in front of its part of a unit.
const HEADER_MAX: usize = 4;
impl Depacketizer {
impl Done {
impl Packetizer {
impl Payload {
impl std::ops::Add for Refused {
mod tests {
pub const UNIT_MAX: usize = 4 << 20;
pub enum Packetizer {
pub enum SendFormat {
pub mod opus;
pub mod vp8;
pub struct Depacketizer {
pub struct Payload {
pub struct Refused {
pub struct Unit {
struct Done([Option<Unit>; 2]);
use bytes::Bytes;
use crate::media::access_unit::VideoCodec;
use crate::rtp::payload::h264::PacketizationMode;
use crate::rtp::reorder::Piece;
}
