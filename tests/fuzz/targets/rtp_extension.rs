//! Header extensions of one RTP packet (RFC 8285), looked through for every id.

use eyeline::rtp::extension;

pub fn run(data: &[u8]) {
    for id in 0..=255 {
        let _ = extension::number(data, id);
    }
}
