//! What lasts: many calls one after the other, a call full of broken packets. Shared by tests, which have seconds, and
//! the benchmark, which has minutes.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::appliance::Appliance;
use super::mutate::Mutator;
use super::process::{Footprint, usage_of_tree};
use super::uac::{Caller, Packetized, Sending};
use super::wait_for;

/// How long one short call streams.
const TALK: Duration = Duration::from_millis(160);

/// Makes `count` short A/V calls to `uri`, `abreast` of them at a time. Panics when one is not answered. Returns how
/// many got a picture back.
pub fn many_calls(uri: &str, count: u32, abreast: u32, clip: &Packetized) -> u32 {
    let (begun, shown) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..abreast {
            scope.spawn(|| {
                while begun.fetch_add(1, Ordering::Relaxed) < count {
                    let mut caller = Caller::new(uri);
                    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let received = caller.stream(&answer, TALK, Some(clip));
                    caller.hang_up();
                    shown.fetch_add(u32::from(!received.video.packets.is_empty()), Ordering::Relaxed);
                }
            });
        }
    });
    shown.into_inner()
}

/// What an appliance holds when no call is there: waits until that is so, and until ports that rest are closed.
pub fn at_rest(appliance: &Appliance) -> (Footprint, f64) {
    let pid = appliance.process.id();
    let over = wait_for(Duration::from_secs(10), || appliance.live_calls().is_empty().then_some(()));
    assert!(over.is_some(), "calls are still there: {:?}", appliance.live_calls());
    // Transactions of a BYE live for 32 s, but hold nothing of the system; RTP ports rest for 2 s and are closed when the
    // box next counts them.
    let mut last = Footprint::of(pid);
    let mut since = Instant::now();
    wait_for(Duration::from_secs(12), || {
        let now = Footprint::of(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(4)).then_some(())
    });
    (last, usage_of_tree(pid).memory_mib)
}

/// What came of a call whose caller sent broken packets.
pub struct Ordeal {
    /// Datagrams that were spoilt.
    pub spoilt: u64,
    /// MiB of the appliance and its children, in equal steps over the time.
    pub memory: Vec<f64>,
}

/// Streams sound and pictures for `time` and spoils them on the way. Panics when the appliance hangs up.
pub fn mutated_call(
    appliance: &Appliance,
    caller: &mut Caller,
    answer: &super::uac::Answer,
    time: Duration,
    clip: &Packetized,
    seed: u64,
) -> Ordeal {
    let mutator = RefCell::new(Mutator::new(seed));
    let mut memory = Vec::new();
    const STEPS: u32 = 10;
    for _ in 0..STEPS {
        let sending = Sending {
            time: time / STEPS,
            video: Some(clip),
            tone: Some(700.0),
            mutates: Some(&mutator),
            ..Sending::default()
        };
        caller.stream_as(answer, &sending, |_, _| ());
        memory.push(usage_of_tree(appliance.process.id()).memory_mib);
    }
    Ordeal { spoilt: mutator.into_inner().spoilt, memory }
}
