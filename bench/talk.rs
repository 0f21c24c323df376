//! Measures a conversation as its caller hears it: how long our part of a turn takes, how fast an agent that is
//! interrupted is quiet, how old the pictures are that its model is shown, and that nothing of a reply that was given
//! up is ever heard. Real calls to emulated providers whose delays are known.
//!
//! `talk [CYCLES]`, run by `bench/run talk`. In each cycle a caller asks; after the reply has begun, the next cycle's
//! question interrupts it. Times are those of packets: speech begins and ends with the packet that carries its first
//! and its last sound; a reply, or its end, is there when a packet has brought it. Ends with code 1 where a limit is
//! missed.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads clocks and drives processes"
)]

#[path = "../tests/e2e/harness/mod.rs"]
mod harness;
mod turns;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::appliance::Appliance;
use harness::emulators::openai_realtime::{self, Answer};
use harness::emulators::providers::Providers;
use harness::sound::to_mu_law;
use harness::uac::Packetized;
use harness::{media, root};
use serde_json::Value;
use turns::{Figures, PAUSE_MS, Sight, TONES, TTS_MS, agents, calls, providers, row};

/// The same of a model that hears and speaks itself.
const THINK_MS: u64 = 150;
const SILENCE_MS: u64 = 400;
/// Calls at once to each kind of agent, and cycles of each.
const CALLS: usize = 4;
const REALTIME_CALLS: usize = 2;
const CYCLES: usize = 30;
fn report(name: &str, figures: &Figures) -> bool {
    let turn = row(&format!("{name}: our share of a turn"), &figures.turns, [Some(25.0), None, Some(60.0)]);
    let ducked = row(&format!("{name}: interrupted to ducked"), &figures.ducked, [Some(80.0), None, None]);
    let silent =
        row(&format!("{name}: interrupted to silent"), &figures.silent, [Some(120.0), None, Some(200.0)]);
    let aged = figures.ages.is_empty()
        || row(&format!("{name}: age of pictures"), &figures.ages, [None, Some(150.0), None]);
    println!("  {name}: {} cycles missed, {} late blocks heard", figures.missed, figures.late);
    turn && ducked && silent && aged && figures.missed * 50 <= figures.turns.len() && figures.late == 0
}

/// Ages of the pictures that went with the turns of all calls.
fn ages(appliance: &Appliance) -> Vec<f64> {
    appliance.finished_recording();
    let mut ages = Vec::new();
    for recording in appliance.recordings() {
        let record = appliance.call_record(&recording);
        let events = record["events"].as_array().cloned().unwrap_or_default();
        let texts = events.iter().filter(|event| event["kind"] == "transcript.final");
        for age in texts.map(|event| &event["data"]["picture_age_ms"]) {
            ages.extend(
                age.as_array()
                    .map_or(std::slice::from_ref(age), Vec::as_slice)
                    .iter()
                    .filter_map(Value::as_f64),
            );
        }
    }
    ages
}

fn pipeline(cycles: usize) -> bool {
    eprintln!("bench: talk, three models");
    let servers: Vec<Providers> = (0..CALLS).map(|_| providers()).collect();
    let settings = agents(&servers, |n| format!(r#"sight="{}""#, if n == 0 { "turn" } else { "off" }));
    let appliance = Appliance::start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    let clip = Packetized::read(&media("face.mp4"), 1);
    let injected = PAUSE_MS + TTS_MS;
    let sight = |n| if n == 0 { Sight::Sends(&clip) } else { Sight::None };
    let mut figures = calls(CALLS, cycles, injected, |n| (format!("sip:{n}@{}", appliance.sip), sight(n)));
    figures.ages = ages(&appliance);
    report("three models", &figures)
}

/// A reply of a model that speaks itself: a tone of ten seconds.
fn spoken_tone(number: usize) -> Answer {
    let step = std::f64::consts::TAU * TONES[number % TONES.len()] / 8_000.0;
    let sound = (0..80_000).map(|n| to_mu_law((f64::from(n) * step).sin() * 0.3)).collect();
    Answer::Bytes { sound, words: format!("Reply {number}.") }
}

fn realtime(cycles: usize) -> bool {
    eprintln!("bench: talk, one model that hears and speaks itself");
    let mut servers = Vec::new();
    let mut settings = vec!["recording.min_free_gib=0".to_owned(), "sip.calls_per_second=0".to_owned()];
    let mut routes = Vec::new();
    for n in 0..REALTIME_CALLS {
        let rules = openai_realtime::Rules {
            think: Duration::from_millis(THINK_MS),
            silence_ms: SILENCE_MS,
            // What it has made already still comes after it was told to stop.
            trailing: 20,
            answers: (0..cycles * 2).map(spoken_tone).collect(),
            keep_sound: false,
            ..openai_realtime::Rules::default()
        };
        let rules = Arc::new(Mutex::new(rules));
        let (server, url) = openai_realtime::start(&rules);
        servers.push(server);
        settings.push(format!(
            r#"realtime.m{n}={{provider="openai", base_url="{url}", model="m", api_key="key"}}"#
        ));
        settings
            .push(format!(r#"agent.a{n}={{kind="realtime", realtime="m{n}", greeting="", sight="off"}}"#));
        routes.push(format!(r#"{{to="{n}", agent="a{n}", detect=[]}}"#));
    }
    settings.push(format!("route=[{}]", routes.join(", ")));
    let appliance = Appliance::start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    let injected = SILENCE_MS + THINK_MS;
    let figures =
        calls(REALTIME_CALLS, cycles, injected, |n| (format!("sip:{n}@{}", appliance.sip), Sight::None));
    report("one model", &figures)
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let cycles = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(CYCLES);
    if !root().join("models/silero_vad.onnx").exists() {
        eprintln!("bench: talk needs the model silero-vad: run `make setup`");
        return ExitCode::FAILURE;
    }
    turns::head();
    let wanted = |part: &str| {
        let named = arguments.iter().any(|argument| matches!(argument.as_str(), "pipeline" | "realtime"));
        !named || arguments.iter().any(|argument| argument == part)
    };
    let kept = [!wanted("pipeline") || pipeline(cycles), !wanted("realtime") || realtime(cycles)];
    if kept.iter().all(|kept| *kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
