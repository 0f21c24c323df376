//! A compound RTCP packet: every message in it, and no more of them than its bytes can hold.

use eyeline::rtp::rtcp;

pub fn run(data: &[u8]) {
    let mut messages = 0;
    rtcp::read(data, |_| messages += 1);
    // A NACK names 17 packets in 4 bytes.
    assert!(messages <= data.len() / 4 * 17, "{messages} messages in {} bytes", data.len());
}
