//! One RTP packet, and telling it from RTCP on a shared port.

use eyeline::rtp::packet::{self, Packet};

pub fn run(data: &[u8]) {
    if let Some(read) = Packet::parse(data) {
        assert!(read.payload.len() + packet::HEADER_LEN <= data.len());
        assert!(read.payload_type < 128);
    }
    let _ = packet::is_rtcp(data);
}
