//! The end of the appliance: at once when idle, patient with running calls, and never a file left open.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::appliance::{Appliance, playable_seconds};
use crate::harness::uac::{Answer, Caller, Packetized, Sending};
use crate::harness::{media, turn, wait_for};

const ECHO: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;

fn in_call(appliance: &Appliance) -> (Caller, Answer) {
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    assert_eq!(answer.status, 200, "{answer:?}");
    (caller, answer)
}

fn seconds(time: u64, clip: &Packetized) -> Sending<'_> {
    Sending { time: Duration::from_secs(time), video: Some(clip), ..Sending::default() }
}

#[test]
fn an_idle_appliance_ends_at_once() {
    let _turn = turn();
    let mut appliance = Appliance::start(&[]);
    let start = Instant::now();
    appliance.process.signal(Signal::TERM);
    let ended = appliance.process.wait(Duration::from_secs(5)).expect("it ends");
    let after = start.elapsed();
    assert_eq!(ended.code(), Some(0), "{}", appliance.process.last_words());
    assert!(after <= Duration::from_millis(500), "ended after {after:?}");
}

#[test]
fn the_first_signal_drains_and_the_second_hangs_up() {
    let _turn = turn();
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut appliance = Appliance::start(&[ECHO]);
    let (mut caller, answer) = in_call(&appliance);
    caller.stream_as(&answer, &seconds(2, &clip), |_, _| ());
    appliance.process.signal(Signal::TERM);
    let draining = caller.stream_as(&answer, &seconds(2, &clip), |_, _| ());
    assert!(draining.audio.packets.len() > 80 && draining.video.per_second() >= 13.0, "the call goes on");
    assert_eq!(appliance.get("/readyz").map(|(status, _)| status), Some(503));
    let mut late = Caller::new(&appliance.uri());
    let refused = late.invite(&late.offer(None));
    assert_eq!(refused.status, 503, "{refused:?}");

    let start = Instant::now();
    appliance.process.signal(Signal::TERM);
    assert!(caller.is_hung_up(Duration::from_secs(3)), "a BYE comes");
    let ended = appliance.process.wait(Duration::from_secs(10)).expect("it ends");
    assert_eq!(ended.code(), Some(0), "{}", appliance.process.last_words());
    assert!(start.elapsed() < Duration::from_secs(3), "ended after {:?}", start.elapsed());
    assert_closed(&appliance, 3.0);
}

fn assert_closed(appliance: &Appliance, least: f64) {
    let recordings = appliance.recordings();
    assert_eq!(recordings.len(), 1, "{recordings:?}");
    let seconds = playable_seconds(&recordings[0]);
    assert!(seconds >= least, "{seconds:.2} s of the call play");
    let record = appliance.call_record(&recordings[0]);
    assert!(record["recording"]["error"].is_null() && record["ended"].is_number(), "{record}");
    let duration = record["recording"]["duration_s"].as_f64().unwrap_or_default();
    assert!((duration - seconds).abs() < 0.3, "{duration} s by the record, {seconds} s play");
}

#[test]
fn a_draining_appliance_ends_with_its_last_call() {
    let _turn = turn();
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut appliance = Appliance::start(&[ECHO]);
    let (mut caller, answer) = in_call(&appliance);
    caller.stream_as(&answer, &seconds(2, &clip), |_, _| ());
    appliance.process.signal(Signal::TERM);
    caller.stream_as(&answer, &seconds(1, &clip), |_, _| ());
    assert!(appliance.process.is_running());
    caller.hang_up();
    let ended = appliance.process.wait(Duration::from_secs(5)).expect("it ends with its last call");
    assert_eq!(ended.code(), Some(0), "{}", appliance.process.last_words());
    assert_closed(&appliance, 2.0);
}

#[test]
fn a_peer_that_is_gone_does_not_hold_up_the_end() {
    let _turn = turn();
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut appliance = Appliance::start(&[ECHO, "appliance.drain_s=1"]);
    let (mut caller, answer) = in_call(&appliance);
    caller.stream_as(&answer, &seconds(2, &clip), |_, _| ());
    drop(caller);
    let start = Instant::now();
    appliance.process.signal(Signal::TERM);
    let ended = wait_for(Duration::from_secs(20), || appliance.process.wait(Duration::ZERO));
    let ended = ended.unwrap_or_else(|| panic!("it ends: {}", appliance.process.last_words()));
    assert_eq!(ended.code(), Some(0), "{}", appliance.process.last_words());
    assert!(start.elapsed() < Duration::from_secs(12), "ended after {:?}", start.elapsed());
    assert_closed(&appliance, 1.0);
}
