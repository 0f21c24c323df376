//! VP8 RTP payloads to frames, and those back to payloads and frames. Three bytes lead each payload, as in
//! `h264_payload`.

use eyeline::media::access_unit::VideoCodec;
use eyeline::rtp::payload::vp8::{Depacketizer, Descriptor, Packetizer};
use eyeline::rtp::reorder::Piece;

const MAX_PAYLOAD: usize = 100;

pub fn run(data: &[u8]) {
    let mut depacketizer = Depacketizer::default();
    let mut units = Vec::new();
    super::pieces(VideoCodec::Vp8, data, |piece| depacketizer.push(piece, |unit| units.push(unit)));
    units.extend(depacketizer.flush());
    let mut packetizer = Packetizer::new(MAX_PAYLOAD, 9);
    let mut again = Depacketizer::default();
    for unit in units {
        assert!(unit.data.len() <= data.len(), "a payload gives at most its own bytes");
        assert_eq!(unit.damaged, unit.data.is_empty(), "a frame with a hole is no frame");
        let mut payloads = Vec::new();
        packetizer.packetize(&unit.data, |payload| payloads.push((payload.parts().concat(), payload.marker)));
        let mut back = Vec::new();
        for (payload, marker) in &payloads {
            assert!(payload.len() <= MAX_PAYLOAD);
            assert!(Descriptor::parse(payload).is_some_and(|(read, _)| read.picture_id.is_some()));
            let piece = Piece { codec: VideoCodec::Vp8, marker: *marker, payload, ..Piece::default() };
            again.push(piece, |unit| back.push(unit.data));
        }
        assert!(unit.damaged || back == [unit.data]);
    }
}
