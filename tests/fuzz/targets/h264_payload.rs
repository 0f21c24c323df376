//! H.264 RTP payloads to access units, and those back to payloads. Three bytes lead each payload: what is wrong in
//! the sequence, and how long it is.

use eyeline::media::nal;
use eyeline::rtp::payload::h264::{Depacketizer, PacketizationMode, Packetizer};
use eyeline::rtp::reorder::Piece;

const MAX_PAYLOAD: usize = 100;

pub fn run(data: &[u8]) {
    let mut depacketizer = Depacketizer::new([]);
    let (mut rest, mut timestamp, mut units) = (data, 0, Vec::new());
    while let [flags, high, low, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(tail.len()));
        timestamp += u32::from(flags & 4);
        let (marker, after_gap) = (flags & 1 != 0, flags & 2 != 0);
        let piece = Piece { payload, timestamp, marker, after_gap, ..Piece::default() };
        depacketizer.push(piece, |unit| units.push(unit));
        rest = tail;
    }
    depacketizer.flush(|unit| units.push(unit));
    for unit in units {
        // A payload gives at most its own bytes, and a start code for each NAL unit of at least one byte.
        assert!(unit.data.len() <= 5 * data.len());
        assert!(unit.damaged || nal::units(&unit.data).count() > 0);
        let packetizer = Packetizer { mode: PacketizationMode::NonInterleaved, max_payload: MAX_PAYLOAD };
        let refused = packetizer.packetize(&unit.data, |payload| assert!(payload.len() <= MAX_PAYLOAD));
        assert_eq!(refused, 0, "mode 1 cuts everything");
    }
}
