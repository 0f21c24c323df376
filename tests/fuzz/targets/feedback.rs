//! RTCP about packets and the path they take: NACK, TMMBR, REMB and transport-wide feedback, from the bytes of a compound
//! to what a sender makes of them.

use std::time::{Duration, Instant};

use eyeline::rtp::bandwidth::Bandwidth;
use eyeline::rtp::feedback::{NegotiatedFeedback, PathMessage, arrivals};
use eyeline::rtp::rtcp::{self, Message};

pub fn run(data: &[u8]) {
    let feedback = NegotiatedFeedback {
        pli: true,
        fir: true,
        nack: true,
        tmmbr: true,
        remb: true,
        transport_cc: Some(3),
    };
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let now = Instant::now();
    let mut bandwidth = Bandwidth::new(now, feedback, 800);
    let mut at = now;
    rtcp::read(data, |message| {
        at += Duration::from_millis(50);
        match message {
            Message::Path(path) => {
                if let PathMessage::TransportWide(packet) = path {
                    let mut numbers = 0;
                    arrivals(packet, |_| numbers += 1);
                    assert!(numbers <= 2048, "{numbers} numbers");
                }
                bandwidth.heard(at, path, (1, None));
            }
            Message::Report(block) => bandwidth.reported(at, &block, 0),
            Message::SenderReport(_)
            | Message::VoipMetrics(_)
            | Message::Bye { .. }
            | Message::Pli { .. }
            | Message::Fir { .. } => {}
        }
    });
    assert!(bandwidth.target_kbps() <= 800 && bandwidth.target_kbps() >= 16);
}
