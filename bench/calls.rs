//! Measures calls beside baresip in the same run: CPU, time to answer, memory, start, inference. Ratios are what counts;
//! the absolute numbers belong to the machine.
//!
//! Run by `bench/run`, which brings Python's ONNX Runtime as the yardstick for inference.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads clocks and drives processes"
)]

#[path = "../tests/e2e/harness/mod.rs"]
mod harness;

use std::process::Command;
use std::time::{Duration, Instant};

use harness::appliance::Appliance;
use harness::baresip::{Baresip, Settings};
use harness::process::{Usage, usage_of_tree};
use harness::uac::Caller;
use harness::{media, root};

/// A mirror that decodes and encodes, and does nothing else.
const BARE: [&str; 4] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false}]"#,
    r#"agent.mirror={kind="mirror", audio="echo"}"#,
    "overlay.boxes=false",
    r#"overlay.watermark="""#,
];
const CENSORED: [&str; 2] = [
    r#"route=[{to="*", agent="mirror", detect=[], record=false}]"#,
    r#"agent.mirror={kind="mirror", audio="echo"}"#,
];
const DEFAULTS: [&str; 0] = [];

const SETTLE: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(12);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One A/V call, 640x360 at 15 fps with G.711, always from the same kind of caller. CPU in percent of a core over a
/// steady window, memory at its end.
fn call_cost(pid: u32, uri: &str) -> Usage {
    let mut caller = Baresip::start(&Settings::default());
    caller.dial(uri);
    caller.talk(SETTLE);
    let (start, before) = (Instant::now(), usage_of_tree(pid));
    caller.talk(WINDOW);
    let (seconds, after) = (start.elapsed().as_secs_f64(), usage_of_tree(pid));
    caller.hang_up();
    Usage { cpu_s: (after.cpu_s - before.cpu_s) / seconds * 100.0, memory_mib: after.memory_mib }
}

fn baresip() -> Baresip {
    Baresip::start(&Settings {
        answers: true,
        clip: Some(media("scene.mp4")),
        echoes: true,
        ..Settings::default()
    })
}

/// Milliseconds from INVITE to 200, many short calls one after the other.
fn answer_ms(uri: &str, video: bool) -> Vec<f64> {
    let line = video.then(|| Caller::h264_offer(0));
    let one = |_| {
        let mut caller = Caller::new(uri);
        let answer = caller.invite(&caller.offer(line.as_deref()));
        assert_eq!(answer.status, 200, "{answer:?}");
        std::thread::sleep(Duration::from_millis(60));
        caller.hang_up();
        answer.after.as_secs_f64() * 1e3
    };
    (0..15).map(one).collect()
}

/// Milliseconds from starting the process to its first answer to OPTIONS.
fn start_ms(settings: &[&str]) -> f64 {
    let start = Instant::now();
    let appliance = Appliance::spawn(settings);
    let mut caller = Caller::new(&appliance.uri());
    while !caller.is_answered(Duration::from_millis(5)) {
        assert!(start.elapsed() < Duration::from_secs(15), "{}", appliance.process.last_words());
    }
    start.elapsed().as_secs_f64() * 1e3
}

/// Model and milliseconds of one inference, from the metrics of the running appliance.
fn inference_ms(metrics: &str) -> Vec<(String, f64)> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("eyeline_inference_seconds{"));
    lines
        .filter_map(|line| {
            let (labels, value) = line.rsplit_once("} ")?;
            let model = labels.split("model=\"").nth(1)?.split('"').next()?;
            Some((model.to_owned(), value.parse::<f64>().ok()? * 1e3))
        })
        .collect()
}

fn bare_inference_ms(model: &str, width: u32, height: u32) -> Option<f64> {
    let file = root().join("models").join(model);
    if !file.exists() {
        return None;
    }
    let output = Command::new("python3")
        .arg(root().join("bench/bare_inference.py"))
        .arg(file)
        .args([width.to_string(), height.to_string()])
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

fn row(what: &str, ours: f64, theirs: Option<f64>, unit: &str, limit: &str) {
    let ratio = theirs.map_or(String::from("-"), |theirs| format!("{:.2}", ours / theirs));
    let theirs = theirs.map_or(String::from("-"), |theirs| format!("{theirs:.2}"));
    println!("| {what:<44} | {ours:>8.2} | {theirs:>8} | {ratio:>5} | {unit:<12} | {limit:<12} |");
}

fn calls(rounds: usize) {
    let mut costs: [Vec<Usage>; 4] = Default::default();
    for round in 1..=rounds {
        eprintln!("bench: calls, round {round} of {rounds}");
        let callee = baresip();
        costs[0].push(call_cost(callee.process.id(), &callee.uri()));
        drop(callee);
        for (index, settings) in [(1, &BARE[..]), (2, &CENSORED), (3, &DEFAULTS)] {
            let appliance = Appliance::start(settings);
            costs[index].push(call_cost(appliance.process.id(), &appliance.uri()));
        }
    }
    let cpu = costs.each_ref().map(|costs| median(costs.iter().map(|cost| cost.cpu_s).collect()));
    let memory = costs.each_ref().map(|costs| median(costs.iter().map(|cost| cost.memory_mib).collect()));
    row("A/V mirror call, decoded and encoded", cpu[1], Some(cpu[0]), "% of a core", "ratio 0.50");
    row("  with every face hidden", cpu[2], Some(cpu[0]), "% of a core", "");
    row("  with faces, objects, boxes, recording", cpu[3], Some(cpu[0]), "% of a core", "");
    row("memory in that call, decoded and encoded", memory[1], Some(memory[0]), "MiB", "");
    row("  with every face hidden", memory[2], Some(memory[0]), "MiB", "");
    row("  with faces, objects, boxes, recording", memory[3], Some(memory[0]), "MiB", "");
}

fn answers() {
    eprintln!("bench: time to answer");
    let callee = baresip();
    let appliance = Appliance::start(&BARE);
    let idle = usage_of_tree(appliance.process.id()).memory_mib;
    for (what, video) in
        [("INVITE to 200, sound only (median)", false), ("INVITE to 200, sound and video (median)", true)]
    {
        let (ours, theirs) = (answer_ms(&appliance.uri(), video), answer_ms(&callee.uri(), video));
        row(what, median(ours), Some(median(theirs)), "ms", "ratio 1.00");
    }
    row("memory when idle, no models", idle, None, "MiB", "35");
}

fn starts() {
    eprintln!("bench: start");
    let times = |settings: &[&str]| median((0..5).map(|_| start_ms(settings)).collect());
    row("start to first SIP answer, no models", times(&BARE), None, "ms", "300");
    row("start to first SIP answer, default models", times(&DEFAULTS), None, "ms", "1000");
}

fn inference() {
    eprintln!("bench: inference");
    let appliance = Appliance::start(&DEFAULTS);
    let mut caller = Baresip::start(&Settings::default());
    caller.dial(&appliance.uri());
    caller.talk(Duration::from_secs(10));
    let metrics = appliance.get("/metrics").map(|(_, text)| text).unwrap_or_default();
    caller.hang_up();
    drop(appliance);
    // The models' files and the size they run at on pictures of 640x360.
    let bare = [
        ("yunet", "yunet_n_dynamic.onnx", 640, 384),
        ("yolox", "yolox_nano_416.onnx", 416, 416),
        ("centerface", "centerface.onnx", 320, 192),
    ];
    for (model, ours) in inference_ms(&metrics) {
        let theirs = bare.iter().find(|(name, ..)| model.contains(name));
        let theirs = theirs.and_then(|(_, file, width, height)| bare_inference_ms(file, *width, *height));
        row(&format!("inference, {model}"), ours, theirs, "ms", "ratio 1.05");
    }
}

fn main() {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(3);
    println!(
        "| {:<44} | {:>8} | {:>8} | {:>5} | {:<12} | {:<12} |",
        "what", "eyeline", "peer", "ratio", "unit", "limit"
    );
    println!("|{}|---------:|---------:|------:|--------------|--------------|", "-".repeat(46));
    calls(rounds);
    answers();
    starts();
    inference();
}
