//! H.265 RTP payloads to access units. Three bytes lead each payload, as in `h264_payload`.

use eyeline::media::access_unit::VideoCodec;
use eyeline::media::{h265, nal};
use eyeline::rtp::payload::h265::Depacketizer;

pub fn run(data: &[u8]) {
    let mut depacketizer = Depacketizer::default();
    depacketizer.learn([data]);
    let mut units = Vec::new();
    super::pieces(VideoCodec::H265, data, |piece| depacketizer.push(piece, |unit| units.push(unit)));
    units.extend(depacketizer.flush());
    for unit in units {
        let kinds: Vec<_> = nal::units(&unit.data).map(|unit| h265::NalType::of(unit[0])).collect();
        assert!(unit.damaged || kinds.iter().any(|kind| kind.is_picture()));
        assert!(
            !unit.key || kinds.contains(&h265::NalType::Sps),
            "a key picture begins with its parameter sets"
        );
        let _ = h265::picture_size(&unit.data);
    }
}
