//! What sessions of faces cost: a hundred SIP calls that end in every state leave none behind, and those of an appliance that
//! was killed are ended by the next one. The ledger is the vendor's.

use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;

use crate::face_pictures::room_face;
use crate::harness::appliance::Appliance;
use crate::harness::emulators::livekit::{LiveKit, WorkerSettings};
use crate::harness::uac::{Caller, Sending};
use crate::harness::{free_ports, turn, wait_for};

const CALLS: usize = 100;
/// At a time.
const LINES: usize = 10;
/// Calls that are up when the appliance is killed.
const AT_THE_KILL: usize = 6;
const PORTS: u16 = 400;

fn appliance(kit: &LiveKit, data: &std::path::Path) -> Appliance {
    let face = room_face("face", kit, "");
    let data = format!(r#"appliance.data_dir="{}""#, data.display());
    // The ports of a call rest when it is over.
    let first = free_ports(PORTS);
    // Those that are looked at next lie among them.
    for _ in 0..PORTS / 128 {
        free_ports(1);
    }
    let ports = format!("media.rtp_ports=[{first}, {}]", first + PORTS - 1);
    // It speaks from the beginning: calls end before, in and after its words.
    let greeting = "a".repeat(20);
    let agent = format!(
        r#"agent.a={{kind="pipeline", stt="mock", llm="mock", tts="mock", greeting="{greeting}", avatar="face"}}"#
    );
    Appliance::start(&[
        &data,
        &ports,
        &face,
        &agent,
        r#"tts.mock={provider="mock", options={tone_hz=440, letter_ms=40}}"#,
        r#"stt.mock={provider="mock", options={text="Stop."}}"#,
        r#"llm.mock={provider="mock", options={text="Yes."}}"#,
        r#"route=[{to="100", agent="a", detect=[], record=false}]"#,
        "sip.calls_per_second=0",
    ])
}

/// Call number `number` of all: how it goes, and that it ends.
fn short_call(appliance: &Appliance, number: usize) {
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let offer = caller.offer(Some(&Caller::h264_offer(1)));
    let answer = caller.invite(&offer);
    assert_eq!(answer.status, 200, "{answer:?}");
    let listen = |caller: &mut Caller, answer, millis: u64| {
        let time = Duration::from_millis(millis);
        caller.stream_as(answer, &Sending { time, sound: Some(&[]), ..Sending::default() }, |_, _| ());
    };
    match number % 10 {
        // Before anything was asked of the vendor, or just then.
        0 => {}
        // While its video has left.
        1 => {
            listen(&mut caller, &answer, 400);
            let answer = caller.reinvite(&caller.offer(Some("m=video 0 RTP/AVP 97\na=rtpmap:97 H264/90000")));
            listen(&mut caller, &answer, 300);
        }
        // Asked for, opened, joined, ready, speaking, silent again: 40 ms to 2 s.
        2..=8 => listen(&mut caller, &answer, 40 + (number as u64 * 137) % 800),
        _ => listen(&mut caller, &answer, 2_000),
    }
    caller.hang_up();
}

fn all_over(kit: &LiveKit, within: Duration) -> bool {
    wait_for(within, || (kit.sessions().0 == 0).then_some(())).is_some()
}

#[test]
fn a_hundred_calls_that_end_in_every_state_and_an_appliance_that_is_killed_leave_no_session_behind() {
    let _turn = turn();
    let kit = LiveKit::start();
    let data = tempfile::tempdir().expect("a folder");
    let own = appliance(&kit, data.path());
    let numbers = Mutex::new(0..CALLS);
    let next = || numbers.lock().expect("nobody panics while it is held").next();
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..LINES {
            scope.spawn(|| {
                while let Some(number) = next() {
                    // Workers that come at once, and such as come when nobody is there any more.
                    let late = Duration::from_millis((number as u64 * 61) % 600);
                    kit.workers(WorkerSettings { late, ..WorkerSettings::default() });
                    short_call(&own, number);
                }
            });
        }
    });
    println!("{CALLS} calls in {:.1} s: {:?} sessions", began.elapsed().as_secs_f64(), kit.sessions());
    assert!(all_over(&kit, Duration::from_secs(10)), "{:?} {}", kit.sessions(), own.process.last_words());
    let opened = kit.sessions().1;
    assert!(opened >= CALLS * 6 / 10, "{opened} sessions of {CALLS} calls");
    assert_eq!(kit.refused(), [""; 0]);
    let (_, faces) = own.api("GET", "/api/v1/avatars", "");
    assert!(faces.to_string().contains(r#""open":0"#), "{faces}");

    let mut callers: Vec<Caller> =
        (0..AT_THE_KILL).map(|_| Caller::new(&format!("sip:100@{}", own.sip))).collect();
    for caller in &mut callers {
        let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // In the journal when the vendor has answered.
    let journal = data.path().join("avatars.journal");
    let written = wait_for(Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&journal).ok()?;
        // A room without a session was only asked for.
        let answered = text.lines().filter(|line| !line.ends_with('/'));
        let count = |sign: &str| answered.clone().filter(|line| line.starts_with(sign)).count();
        (count("+") == count("-") + AT_THE_KILL).then_some(())
    });
    assert!(written.is_some(), "{:?}", std::fs::read_to_string(&journal));
    own.process.signal(Signal::KILL);
    drop(own);
    assert_eq!(kit.sessions().0, AT_THE_KILL, "nobody has ended them");
    let again = appliance(&kit, data.path());
    assert!(all_over(&kit, Duration::from_secs(10)), "{:?} {}", kit.sessions(), again.process.last_words());
    let reaped = format!(r#""reaped":{AT_THE_KILL}"#);
    let told = wait_for(Duration::from_secs(5), || {
        let (_, faces) = again.api("GET", "/api/v1/avatars", "");
        faces.to_string().contains(&reaped).then_some(())
    });
    assert!(told.is_some(), "{:?}", again.api("GET", "/api/v1/avatars", ""));
}
