//! Measures agents that wear a face, as their caller hears and sees them: how fast one that is interrupted is quiet and that
//! nothing of its reply is heard afterwards, what the way through this box adds to the avatar's own delay, what a call
//! costs whose pictures go through as they came, beside those that are coded anew. Real calls; the avatar is a worker in
//! a room (WebRTC) whose delays are known.
//!
//! `face [CYCLES] [interruptions] [delays] [cost]`, run by `bench/run face`. Ends with code 1 where a limit is missed.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads clocks and drives processes"
)]

#[path = "../tests/e2e/harness/mod.rs"]
mod harness;
mod turns;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::appliance::Appliance;
use harness::emulators::face::Coding;
use harness::emulators::livekit::{API_KEY, KEY, LiveKit, SECRET, WorkerSettings};
use harness::emulators::providers::Providers;
use harness::face_measures::{edges, face_of, lit, mouths, say, voices};
use harness::process::usage_of_tree;
use harness::uac::{Caller, Sending};
use harness::{root, wait_for};
use turns::{PAUSE_MS, Sight, TTS_MS, agents, calls, providers, row};

/// Calls at once, and interruptions of each.
const CALLS: usize = 2;
const CYCLES: usize = 24;
/// What the avatar takes from its first sound to speaking, but for the next picture of 25 a second.
const AVATAR_MS: u64 = 60;
/// Utterances whose delays are measured.
const SAID: usize = 12;
/// How long the cost of a call is looked at.
const LOOK: Duration = Duration::from_secs(8);

/// `[avatar.face]`: a vendor's worker in a room, and more of it.
fn face(kit: &LiveKit, more: &str) -> String {
    format!(
        r#"avatar.face={{provider="livekit", vendor="bey", base_url="http://{}", api_key="{API_KEY}", avatar_id="a-1", livekit_url="{}", livekit_api_key="{KEY}", livekit_api_secret="{SECRET}"{more}}}"#,
        kit.vendor.address,
        kit.url()
    )
}

fn start(settings: &[String]) -> Appliance {
    Appliance::start(&settings.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Callers that interrupt an agent with a face, again and again.
fn interruptions(cycles: usize) -> bool {
    eprintln!("bench: face, interruptions");
    let kit = LiveKit::start();
    let servers: Vec<Providers> = (0..CALLS).map(|_| providers()).collect();
    let mut settings = agents(&servers, |_| r#"sight="off", avatar="face""#.to_owned());
    settings.push(face(&kit, ""));
    let appliance = start(&settings);
    let injected = PAUSE_MS + TTS_MS + AVATAR_MS;
    let figures = calls(CALLS, cycles, injected, |n| (format!("sip:{n}@{}", appliance.sip), Sight::Looks));
    row("our share of a turn", &figures.turns, [None; 3]);
    let ducked = row("interrupted to ducked", &figures.ducked, [Some(80.0), None, None]);
    let silent = row("interrupted to silent", &figures.silent, [Some(120.0), None, Some(200.0)]);
    println!("  {} cycles missed, {} late blocks heard", figures.missed, figures.late);
    ducked && silent && figures.missed * 20 <= figures.turns.len() && figures.late == 0
}

/// An appliance whose agent says what it is told to; `greeting`: by itself.
fn teller(more: &[String], agent: &str, greeting: &str) -> Appliance {
    let mut settings = vec![
        r#"tts.mock={provider="mock", options={tone_hz=440, letter_ms=40}}"#.to_owned(),
        r#"stt.mock={provider="mock", options={text="Stop."}}"#.to_owned(),
        r#"llm.mock={provider="mock", options={text="Yes."}}"#.to_owned(),
        format!(
            r#"agent.a={{kind="pipeline", stt="mock", llm="mock", tts="mock", greeting="{greeting}"{agent}}}"#
        ),
        r#"route=[{to="100", agent="a", detect=[]}]"#.to_owned(),
        "recording.min_free_gib=0".to_owned(),
        "sip.calls_per_second=0".to_owned(),
    ];
    settings.extend_from_slice(more);
    start(&settings)
}

/// From the avatar's sending its first sound, and the first picture of it, to the caller's having both.
fn delays() -> bool {
    eprintln!("bench: face, delays");
    let kit = LiveKit::start();
    let appliance = teller(&[face(&kit, "")], r#", avatar="face""#, "");
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let id = appliance.current_call();
    let (mut began, mut said) = (None, Vec::new());
    let time = Duration::from_secs(2 * SAID as u64 + 3);
    let sending = Sending { time, sound: Some(&[]), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, |_, at| {
        began.get_or_insert_with(|| Instant::now() - at);
        let due = 2.0 + 2.0 * said.len() as f64 + (said.len() * 7 % 20) as f64 / 500.0;
        if said.len() < SAID && at.as_secs_f64() >= due {
            said.push(at.as_secs_f64());
            say(&appliance, &id, &"a".repeat(20));
        }
    });
    let lips = kit.heard().lips;
    caller.hang_up();
    let began = began.expect("it went on for a while");
    let sent = |open: bool| -> Vec<f64> {
        let own = lips.iter().filter(|(_, lit)| *lit == open);
        own.map(|(at, _)| at.saturating_duration_since(began).as_secs_f64()).collect()
    };
    let of = |edges: Vec<(f64, bool)>, open: bool| -> Vec<f64> {
        edges.into_iter().filter(|(_, own)| *own == open).map(|(at, _)| at).collect()
    };
    let after = |from: &[f64], to: &[f64]| -> Vec<f64> {
        let next = |at: &f64| to.iter().find(|came| *came > at).filter(|came| **came < at + 1.0);
        from.iter().filter_map(|at| Some((next(at)? - at) * 1_000.0)).collect()
    };
    let shown = edges(&mouths(&received.video, lit));
    let heard = edges(&voices(&received.audio));
    let sound = after(&sent(true), &of(heard.clone(), true));
    let pictures = after(&sent(true), &of(shown, true));
    let first = after(&said, &of(heard, true));
    let whole = [&sound, &pictures, &first].iter().all(|all| all.len() + 1 >= SAID);
    let sound = row("the avatar's first sound, its way through", &sound, [None, Some(100.0), None]);
    let pictures = row("the avatar's first picture, its way through", &pictures, [None, Some(100.0), None]);
    row(&format!("words to first sound (avatar: {AVATAR_MS} to {})", AVATAR_MS + 40), &first, [None; 3]);
    let record = appliance.call_record(&appliance.finished_recording());
    println!("  of its own: {}", face_of(&record)["figures"]);
    whole && sound && pictures
}

/// Milliseconds of CPU a second of a call, of calls whose agent speaks all the time.
fn cost_of(worker: WorkerSettings, more: Option<&str>, level: &str) -> f64 {
    let kit = LiveKit::start();
    kit.workers(worker);
    let agent = if more.is_some() { r#", avatar="face""# } else { "" };
    let route = r#"route=[{to="100", agent="a", detect=[], record=false}]"#.to_owned();
    let settings: Vec<String> = more.map(|more| face(&kit, more)).into_iter().chain([route]).collect();
    let appliance = teller(&settings, agent, &"a".repeat(500));
    let line = Caller::h264_offer(1).replace("42e01f", level);
    let mut used = f64::NAN;
    std::thread::scope(|scope| {
        for _ in 0..CALLS {
            scope.spawn(|| {
                let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
                let answer = caller.invite(&caller.offer(Some(&line)));
                let time = LOOK + Duration::from_secs(4);
                let sending = Sending { time, sound: Some(&[]), ..Sending::default() };
                let received = caller.stream_as(&answer, &sending, |_, _| ());
                caller.hang_up();
                let pictures = received.video.per_second();
                if more.is_some() && pictures < 20.0 {
                    eprintln!("bench: {pictures:.1} pictures a second");
                }
            });
        }
        let _ = wait_for(Duration::from_secs(3), || (kit.sessions().0 == CALLS).then_some(()));
        std::thread::sleep(Duration::from_secs(1));
        let id = appliance.process.id();
        let (before, began) = (usage_of_tree(id).cpu_s, Instant::now());
        std::thread::sleep(LOOK);
        used = (usage_of_tree(id).cpu_s - before) / began.elapsed().as_secs_f64();
    });
    used * 1_000.0 / CALLS as f64
}

fn cost() -> bool {
    eprintln!("bench: face, cost");
    let usual = WorkerSettings::default();
    let vp8 = WorkerSettings { coding: Coding::Vp8, ..usual.clone() };
    let large = WorkerSettings { size: (1280, 720), ..usual.clone() };
    let usual_level = "42e01f";
    let none = cost_of(usual.clone(), None, usual_level);
    let passed = cost_of(usual.clone(), Some(""), usual_level);
    println!("| {:<46} | ms of CPU a second of a call | to passed through |", "face of 640x360, 25 a second");
    println!("|{}|----:|----:|", "-".repeat(48));
    let line = |what: &str, own: f64| println!("| {what:<46} | {own:>6.1} | {:>5.2} |", own / passed);
    line("no face: the agent's voice and a still", none);
    line("passed through", passed);
    // 396 macroblocks: 352x288.
    for (what, worker, more, level) in [
        ("VP8 to H.264", vp8, "", usual_level),
        ("1280x720 to a caller of 352x288", large, "", "42e00d"),
        ("with a watermark", usual, r#", watermark="{name} {time}""#, usual_level),
    ] {
        line(what, cost_of(worker, Some(more), level));
    }
    passed.is_finite()
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let cycles = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(CYCLES);
    if !root().join("models/silero_vad.onnx").exists() {
        eprintln!("bench: face needs the model silero-vad: run `make setup`");
        return ExitCode::FAILURE;
    }
    let parts = ["interruptions", "delays", "cost"];
    let named = arguments.iter().any(|argument| parts.contains(&argument.as_str()));
    let wanted = |part: &str| !named || arguments.iter().any(|argument| argument == part);
    turns::head();
    let kept = [
        !wanted("interruptions") || interruptions(cycles),
        !wanted("delays") || delays(),
        !wanted("cost") || cost(),
    ];
    if kept.iter().all(|kept| *kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
