//! VP9 RTP payloads to pictures. Three bytes lead each payload, as in `h264_payload`.

use eyeline::media::access_unit::VideoCodec;
use eyeline::media::vp9;
use eyeline::rtp::payload::vp9::Depacketizer;

pub fn run(data: &[u8]) {
    let mut depacketizer = Depacketizer::default();
    let mut units = Vec::new();
    super::pieces(VideoCodec::Vp9, data, |piece| depacketizer.push(piece, |unit| units.push(unit)));
    units.extend(depacketizer.flush());
    for unit in units {
        // A superframe names up to eight frames with four bytes each between two marks.
        assert!(unit.data.len() <= data.len() + 34);
        assert_eq!(unit.damaged, unit.data.is_empty(), "a picture with a hole is no picture");
        assert_eq!(unit.key, vp9::picture_size(&unit.data).is_some());
    }
}
