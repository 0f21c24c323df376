//! Telephone events in any order and of any length: keys that exist, no more of them than packets, all of them in the end.

use std::time::{Duration, Instant};

use eyeline::rtp::payload::dtmf::{Receiver, code_of};

/// One packet: milliseconds since the last, timestamp step, marker and length of the payload, payload.
pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let start = Instant::now();
    let (mut now, mut timestamp) = (start, 0_u32);
    let mut receiver = Receiver::new(8000);
    let (mut packets, mut digits) = (0, Vec::new());
    let mut rest = data;
    while let [ms, step, head, behind @ ..] = rest {
        now += Duration::from_millis(u64::from(*ms));
        digits.extend(receiver.handle_time(now));
        // Small steps, and now and then one over the whole range.
        timestamp = timestamp.wrapping_add(if *step == 255 { 0x9000_0000 } else { u32::from(*step) * 80 });
        let (payload, behind) = behind.split_at(usize::from(head & 7).min(behind.len()));
        packets += 1;
        if let Ok(digit) = receiver.push(now, timestamp, head & 0x80 != 0, payload) {
            digits.extend(digit);
        }
        rest = behind;
    }
    digits.extend(receiver.handle_time(now + Duration::from_secs(1)));
    assert!(receiver.wake_at().is_none(), "no key is held for ever");
    assert!(digits.len() <= packets, "{} keys of {packets} packets", digits.len());
    assert!(digits.iter().all(|digit| code_of(digit.digit).is_some()));
}
