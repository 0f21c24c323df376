//! Packets of sound with any numbers, times and lengths: every tick ends, and what waits is bounded.

use std::time::{Duration, Instant};

use eyeline::rtp::jitter::{Incoming, JitterBuffer, Next, Pace};
use eyeline::rtp::sequence::{Arrival, Sequence};

const BLOCK: u32 = 160;

/// One packet: milliseconds since the last, step of the number, step of the timestamp, length.
pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let start = Instant::now();
    let mut buffer = JitterBuffer::new(start, 8000);
    let mut sequence = Sequence::new(100);
    let (mut at_ms, mut ticked_ms) = (0_u64, 0_u64);
    let (mut number, mut timestamp, mut buffered) = (0_u16, 0_u32, 0_u32);
    for script in data.chunks_exact(4).take(2000) {
        let [ms, step, samples, length] = *script else { continue };
        at_ms += u64::from(ms % 64);
        number = number.wrapping_add(if step > 250 { u16::from(step) << 8 } else { u16::from(step % 5) });
        timestamp = timestamp.wrapping_add(if samples > 250 {
            u32::from(samples) << 20
        } else {
            u32::from(samples) * 8
        });
        while ticked_ms + 20 <= at_ms {
            ticked_ms += 20;
            tick(&mut buffer, start + Duration::from_millis(ticked_ms), &mut buffered, &sequence);
        }
        if let Arrival::Counted(extended) | Arrival::Restarted(extended) = sequence.arrive(number) {
            let packet = Incoming {
                extended,
                timestamp,
                payload_type: length & 1,
                payload: &vec![0; usize::from(length) * 8],
                samples: (length & 3 != 0).then(|| u32::from(length) * 8),
                repairs: length & 4 != 0,
            };
            buffer.push(start + Duration::from_millis(at_ms), packet);
        }
    }
}

fn tick(buffer: &mut JitterBuffer, now: Instant, buffered: &mut u32, sequence: &Sequence) {
    for asked in 0.. {
        assert!(asked < 300, "a tick ends");
        match buffer.next(now, *buffered, sequence) {
            Next::Packet { samples, skip, .. } => {
                assert!(skip <= samples, "{skip} of {samples}");
                *buffered += samples - skip;
            }
            Next::Lost { samples, .. } => *buffered += samples,
            Next::Play(pace) => {
                assert!(*buffered >= BLOCK, "a whole block");
                *buffered -= BLOCK;
                match pace {
                    Pace::Faster { at_most, .. } => *buffered -= at_most.min(*buffered),
                    Pace::Slower => *buffered += 60,
                    Pace::Steady => {}
                }
                break;
            }
            Next::Quiet => {
                *buffered = 0;
                break;
            }
        }
    }
    assert!(*buffered <= 16_000, "{buffered} samples wait");
}
