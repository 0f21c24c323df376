//! SIPp scenarios of `tests/data/sipp`: the appliance called by SIPp, and SIPp called by `eyeline call`.

use std::time::{Duration, Instant};

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::process::Footprint;
use crate::harness::sipp::{Calls, Script, Sipp};
use crate::harness::uac::{Caller, Lines, Sending};
use crate::harness::{turn, wait_for};

/// No pictures are looked at here: nothing but signalling is to be waited for.
const PLAIN: [&str; 2] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false}]"#,
    r#"agent.mirror={kind="mirror", audio="echo"}"#,
];

/// Scenarios that any call can be.
const CALLED: [&str; 20] = [
    "hold",
    "video_added",
    "late_offer",
    "late_offer_audio",
    "late_offer_refused",
    "offer_in_reinvite_missing",
    "bad_codec",
    "codec_changed",
    "options",
    "options_in_call",
    "info",
    "unknown_method",
    "unknown_method_in_call",
    "unknown_extension",
    "cancel_too_late",
    "cancel_of_nothing",
    "old_cseq",
    "bye_of_nothing",
    "held_call",
    "short_call",
];

/// Plays every scenario once, and says at the end which of them failed and why.
fn play(appliance: &Appliance, scenarios: &[&str], patience: Duration) {
    let mut failed = Vec::new();
    for name in scenarios {
        let calls = Calls { patience, ..Calls::default() };
        if let Err(why) = Sipp::caller(Script::File(name), &appliance.uri(), calls).passed() {
            failed.push(format!("== {name}: {why}"));
        }
    }
    assert!(failed.is_empty(), "{}\n{}", failed.join("\n"), appliance.process.last_words());
}

/// Every call is forgotten, by the console's own figure.
fn assert_no_call_left(appliance: &Appliance) {
    let none = wait_for(Duration::from_secs(8), || {
        let (_, page) = appliance.get("/metrics")?;
        let mut lines = page
            .lines()
            .filter(|line| line.starts_with("eyeline_calls{") || line.starts_with("eyeline_calls "));
        lines.all(|line| line.ends_with(" 0")).then_some(())
    });
    assert!(none.is_some(), "a call is left: {:?}", appliance.get("/metrics"));
}

#[test]
fn the_appliance_is_called_by_every_scenario() {
    let _turn = turn();
    let appliance = Appliance::start(&PLAIN);
    play(&appliance, &CALLED, Duration::from_secs(6));
    assert_no_call_left(&appliance);
}

#[test]
fn a_ringing_call_can_be_taken_back() {
    let _turn = turn();
    let ringing = r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false, ring_s=5}]"#;
    let appliance = Appliance::start(&[ringing, PLAIN[1]]);
    play(&appliance, &["cancel"], Duration::from_secs(4));
    assert_no_call_left(&appliance);
}

/// The longest hole without sound after each resume, in seconds.
fn rounds_of_hold(appliance: &Appliance, rounds: u32) -> f64 {
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    assert_eq!(answer.status, 200, "{answer:?}");
    caller.stream(&answer, Duration::from_millis(500), None);
    let mut longest = 0.0_f64;
    for round in 0..rounds {
        let direction = if round % 2 == 0 { "a=sendonly" } else { "a=inactive" };
        let held = caller.reinvite(&caller.offer(None).replace("a=sendrecv", direction));
        let answered = if round % 2 == 0 { "a=recvonly" } else { "a=inactive" };
        assert!(held.status == 200 && held.sdp.contains(answered), "round {round}: {held:?}");
        let resumed = caller.reinvite(&caller.offer(None));
        assert!(resumed.status == 200 && !resumed.sdp.contains("a=inactive"), "round {round}: {resumed:?}");
        let sending = Sending { time: Duration::from_millis(160), ..Sending::default() };
        let heard = caller.stream_as(&resumed, &sending, |_, _| ()).audio.packets;
        longest = longest.max(heard.first().map_or(f64::INFINITY, |packet| packet.at));
        assert!(heard.len() >= 4, "round {round}: {} packets of sound in 160 ms", heard.len());
    }
    caller.hang_up();
    longest
}

#[test]
fn a_hundred_rounds_of_hold_while_another_caller_never_acknowledges() {
    let _turn = turn();
    let appliance = Appliance::start(&PLAIN);
    // T1 cannot be set: its 32 seconds pass beside the rounds.
    let patience = Duration::from_secs(38);
    let calls = Calls { patience, ..Calls::default() };
    let start = Instant::now();
    let silent = Sipp::caller(Script::File("no_ack"), &appliance.uri(), calls);
    let hole = rounds_of_hold(&appliance, 100);
    assert!(hole < 0.1, "{hole:.3} s without sound after a resume");
    silent.passed().unwrap_or_else(|why| panic!("no_ack: {why}"));
    let took = start.elapsed();
    assert!((31..36).contains(&took.as_secs()), "a BYE after 64 × T1, not after {took:?}");
    assert_no_call_left(&appliance);
}

/// One key as RFC 4733 sends it, in the place of the sound of the same moment: the caller's own packets of these numbers
/// come later and are repeats.
fn press(lines: &Lines<'_>, event: u8, at: Duration) {
    let block = (at.as_millis() / 20) as u32 + 1;
    let timestamp = (u32::MAX - 50_000).wrapping_add(block * 160);
    for number in 0..6_u16 {
        let (first, last) = (number == 0, number >= 3);
        let mut packet = vec![0x80, u8::from(first) << 7 | 101];
        packet.extend(65_500_u16.wrapping_add(block as u16).wrapping_add(number).to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(0x5eed_0000_u32.to_be_bytes());
        packet.extend([event, u8::from(last) << 7 | 10]);
        packet.extend(((number + 1).min(4) * 160).to_be_bytes());
        let (socket, to) = lines.audio;
        socket.send_to(&packet, to).unwrap();
    }
}

#[test]
fn keys_pressed_in_the_sound_are_written_down() {
    let _turn = turn();
    let recorded = r#"route=[{to="*", agent="mirror", censor=false, detect=[]}]"#;
    let appliance = Appliance::start(&[recorded, PLAIN[1]]);
    let mut caller = Caller::new(&appliance.uri());
    let offer =
        caller.offer(None).replace("RTP/AVP 0\r\n", "RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n");
    let answer = caller.invite(&offer);
    assert!(answer.sdp.contains("telephone-event/8000"), "{answer:?}");
    let mut keys = vec![(1600, 11), (1100, 5), (600, 0)];
    let sending = Sending { time: Duration::from_millis(2200), ..Sending::default() };
    caller.stream_as(&answer, &sending, |lines, at| {
        if let Some((_, event)) = keys.pop_if(|(due, _)| at >= Duration::from_millis(*due)) {
            press(lines, event, at);
        }
    });
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let heard: Vec<&str> =
        record["digits"].as_array().into_iter().flatten().filter_map(|key| key["digit"].as_str()).collect();
    assert_eq!(heard, ["0", "5", "#"], "{record}");
}

#[test]
fn a_storm_of_calls_leaves_nothing_behind() {
    let _turn = turn();
    let wide = ["media.rtp_ports=[33000, 34999]", "sip.calls_per_second=0"];
    let settings: Vec<&str> = PLAIN.into_iter().chain(wide).collect();
    let mut appliance = Appliance::start(&settings);
    appliance.rtp_ports = (30_000, 31_999);
    let calls = |count| Calls { count, per_second: 50, ..Calls::default() };
    let storm = |count| {
        let sipp = Sipp::caller(Script::File("short_call"), &appliance.uri(), calls(count));
        sipp.passed().unwrap_or_else(|why| panic!("{why}\n{}", appliance.process.last_words()));
        assert_no_call_left(&appliance);
    };
    // What is made for the first call and kept is no leak.
    storm(20);
    let before = Footprint::of(appliance.process.id());
    storm(200);
    let after = wait_for(Duration::from_secs(10), || {
        let now = Footprint::of(appliance.process.id());
        (now.files <= before.files && now.threads <= before.threads).then_some(now)
    });
    let after =
        after.unwrap_or_else(|| panic!("{before:?} became {:?}", Footprint::of(appliance.process.id())));
    assert!(after.udp_ports <= before.udp_ports, "{before:?} became {after:?}");
}

/// What `eyeline call` printed and how it ended.
fn call(callee: &Sipp, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let output = eyeline()
        .current_dir(folder.path())
        .args(["call", &callee.uri(), "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// Calls SIPp, which plays `name`: the scenario must pass, and the call end with this code for this reason.
fn calls(name: &str, arguments: &[&str], code: i32, reason: &str) -> serde_json::Value {
    let patience = Duration::from_secs(9);
    let callee = Sipp::callee(Script::File(name), Calls { patience, ..Calls::default() });
    let (exit, report) = call(&callee, arguments);
    callee.passed().unwrap_or_else(|why| panic!("{name}: {why}\n{report}"));
    assert_eq!((exit, report["end_reason"].as_str()), (Some(code), Some(reason)), "{name}: {report}");
    report
}

#[test]
fn callees_that_answer_in_many_ways_are_talked_with() {
    let _turn = turn();
    let report = calls("answers", &["--duration", "2"], 0, "hung-up");
    assert!(
        report["setup_ms"]["ringing"].is_number() && report["video"]["fps"].as_f64() > Some(5.0),
        "{report}"
    );
    // SIPp sends every packet back, so that the exit code tells of sound in both directions.
    let sound = ["--audio-only", "--duration", "1.2"];
    for name in ["answers_at_last", "answers_more", "early_media", "early_answer_only"] {
        let report = calls(name, &sound, 0, "hung-up");
        assert_eq!(report["status"], 200, "{name}: {report}");
    }
    let report = calls("answers_audio_only", &["--duration", "1.2"], 1, "hung-up");
    assert!(report["audio"]["packets_received"].as_u64() > Some(40) && report["video"].is_null(), "{report}");
    let report = calls("hangs_up", &["--audio-only", "--duration", "5"], 0, "peer-hung-up");
    assert!(report["duration_s"].as_f64() < Some(2.0), "{report}");
}

#[test]
fn callees_that_do_not_answer_are_given_up_with_a_reason() {
    let _turn = turn();
    let limit = ["--audio-only", "--duration", "1", "--ring-timeout", "2"];
    for (name, status, reason) in
        [("busy", 486, "rejected"), ("declines", 603, "rejected"), ("rings_for_ever", 480, "no-answer")]
    {
        let report = calls(name, &limit, 1, reason);
        assert_eq!(report["status"], status, "{name}: {report}");
    }
    // Nobody allowed the number it names.
    let report = calls("redirects", &limit, 1, "rejected");
    assert_eq!(report["status"], 302, "{report}");
}

#[test]
fn offers_that_cross_are_refused_on_both_sides_and_ours_is_tried_again() {
    let _turn = turn();
    let sound = ["--audio-only", "--duration", "8", "--hold-after", "0.3"];
    let patience = Duration::from_secs(9);
    let callee = Sipp::callee(Script::File("glare"), Calls { patience, ..Calls::default() });
    let (_, report) = call(&callee, &sound);
    callee.passed().unwrap_or_else(|why| panic!("{why}\n{report}"));
    assert_eq!(report["end_reason"], "hung-up", "{report}");
}
