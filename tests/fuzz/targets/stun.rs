//! STUN messages to the answering half of ICE. Two bytes lead each: where it comes from, and how long it is.
//!
//! One responder has the password of RFC 5769, which kept inputs know, another one has a password nobody knows: whom
//! the second one takes for the peer is a stranger.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eyeline::secure::ice::{Check, Responder};

const UFRAG: &str = "evtj";
const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
/// Answers a second to those who know the password, and to those who do not.
const MOST: [usize; 2] = [100, 20];
/// The longest answer: header, address of IPv6, or an error and what was not understood, proof, checksum.
const LONGEST: usize = 20 + 24 + 24 + 8;

pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let start = Instant::now();
    let mut now = start;
    let mut peer = Responder::new(now, UFRAG, PASSWORD);
    let mut stranger = Responder::new(now, UFRAG, "a password that stands nowhere else");
    let mut answers = [0, 0];
    let mut reply = Vec::new();
    let mut rest = data;
    while let [head, length, tail @ ..] = rest {
        let (message, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        now += Duration::from_millis(u64::from(head >> 1));
        let source: SocketAddr = match head & 1 {
            0 => ([192, 0, 2, 1], 32_853).into(),
            _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 32_853).into(),
        };
        let check = peer.handle(now, source, message, &mut reply);
        answers[0] += usize::from(!reply.is_empty());
        assert!(reply.len() <= LONGEST && reply.len().is_multiple_of(4));
        assert!(check != Check::Ignored || reply.is_empty());
        assert!(reply.is_empty() || reply[8..20] == message[8..20], "another transaction");
        let check = stranger.handle(now, source, message, &mut reply);
        answers[1] += usize::from(!reply.is_empty());
        assert!(!matches!(check, Check::Passed { .. }));
        assert!(reply.len() <= message.len(), "a stranger gets more than they sent");
    }
    let seconds = (now - start).as_secs() as usize + 1;
    for (answers, most) in answers.into_iter().zip(MOST) {
        assert!(answers <= most * (seconds + 1), "{answers} answers in {seconds} s");
    }
}
