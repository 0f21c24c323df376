//! Measures calls beside baresip in the same run: CPU, memory, delays, start, inference. Ratios are what counts; the
//! absolute numbers belong to the machine.
//!
//! Run by `bench/run`, which brings Python's ONNX Runtime as the yardstick for inference. `calls [ROUNDS] [PART...]`:
//! parts are `calls`, `answers`, `delays`, `memory`, `starts`, `inference`; without any, all of them.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads clocks and drives processes"
)]

#[path = "../tests/e2e/harness/mod.rs"]
mod harness;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use eyeline::base::time::Pts;
use eyeline::inference::store::{Sizing, Store};
use eyeline::media::frame::{FrameMut, Size};
use eyeline::media::pool::FramePool;
use eyeline::worker::client::{Worker, WorkerSettings};
use harness::appliance::Appliance;
use harness::baresip::{Baresip, Settings};
use harness::process::{Usage, output_of, usage_of_tree};
use harness::uac::{Caller, Packetized, Received};
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
const WINDOW: Duration = Duration::from_secs(8);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What baresip calls the codecs that are compared.
const G711: &str = "pcmu";
const OPUS: &str = "opus/48000/2";

/// One A/V call, 640x360 at 15 fps, always from the same kind of caller. CPU in percent of a core over a steady window,
/// memory at its end.
fn call_cost(pid: u32, uri: &str, audio_codecs: &'static str) -> Usage {
    let mut caller = Baresip::start(&Settings { audio_codecs, ..Settings::default() });
    caller.dial(uri);
    caller.talk(SETTLE);
    let (start, before) = (Instant::now(), usage_of_tree(pid));
    caller.talk(WINDOW);
    let (seconds, after) = (start.elapsed().as_secs_f64(), usage_of_tree(pid));
    caller.hang_up();
    Usage { cpu_s: (after.cpu_s - before.cpu_s) / seconds * 100.0, memory_mib: after.memory_mib }
}

fn baresip(audio_codecs: &'static str) -> Baresip {
    Baresip::start(&Settings {
        answers: true,
        clip: Some(media("scene.mp4")),
        echoes: true,
        audio_codecs,
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

fn row(what: &str, ours: f64, theirs: Option<f64>, unit: &str, limit: &str) {
    let ratio = theirs.map_or(String::from("-"), |theirs| format!("{:.2}", ours / theirs));
    let theirs = theirs.map_or(String::from("-"), |theirs| format!("{theirs:.2}"));
    println!("| {what:<44} | {ours:>8.2} | {theirs:>8} | {ratio:>5} | {unit:<12} | {limit:<12} |");
}

fn calls(rounds: usize) {
    let mut costs: [Vec<Usage>; 6] = Default::default();
    for round in 1..=rounds {
        eprintln!("bench: calls, round {round} of {rounds}");
        for (index, codec) in [(0, G711), (4, OPUS)] {
            let callee = baresip(codec);
            costs[index].push(call_cost(callee.process.id(), &callee.uri(), codec));
        }
        for (index, settings, codec) in
            [(1, &BARE[..], G711), (2, &CENSORED, G711), (3, &DEFAULTS, G711), (5, &BARE, OPUS)]
        {
            // What is looked for costs the same again and again; what is compared with a limit is measured every round.
            if matches!(index, 1 | 5) || round == 1 {
                let appliance = Appliance::start(settings);
                costs[index].push(call_cost(appliance.process.id(), &appliance.uri(), codec));
            }
        }
    }
    let cpu = costs.each_ref().map(|costs| median(costs.iter().map(|cost| cost.cpu_s).collect()));
    row("CPU of an A/V mirror call, G.711, 640x360@15", cpu[1], Some(cpu[0]), "% of a core", "ratio 0.50");
    row("  with every face hidden", cpu[2], Some(cpu[0]), "% of a core", "");
    row("  with faces, objects, boxes, recording", cpu[3], Some(cpu[0]), "% of a core", "");
    row("CPU of an A/V mirror call, Opus, 640x360@15", cpu[5], Some(cpu[4]), "% of a core", "ratio 0.60");
}

fn answers() {
    eprintln!("bench: time to answer");
    let callee = baresip(G711);
    let appliance = Appliance::start(&BARE);
    for (what, video) in
        [("INVITE to 200, sound only (median)", false), ("INVITE to 200, sound and video (median)", true)]
    {
        let (ours, theirs) = (answer_ms(&appliance.uri(), video), answer_ms(&callee.uri(), video));
        row(what, median(ours), Some(median(theirs)), "ms", "ratio 1.00");
    }
}

/// From the packet in which a click goes out to the one in which it comes back, in milliseconds.
fn click_delays(received: &Received) -> Vec<f64> {
    // PCMU counts loudness down; all clicks are louder than 0x60 and silence is 0x7f.
    let loud = |payload: &[u8]| payload.iter().any(|byte| byte & 0x7f < 0x60);
    let blocks = received.audio.packets.iter().map(|packet| (packet.at, loud(&packet.payload)));
    let mut before = false;
    let mut delays = Vec::new();
    for (at, is_loud) in blocks {
        if is_loud && !before {
            delays.push((at - at.floor()) * 1e3);
        }
        before = is_loud;
    }
    // The jitter buffer settles in the first second.
    delays.drain(..delays.len().min(1));
    delays
}

fn click_calls(uri: &str) -> Vec<f64> {
    let one = |_| {
        let mut caller = Caller::new(uri);
        let answer = caller.invite(&caller.offer(None));
        let received = caller.stream(&answer, Duration::from_millis(10_300), None);
        caller.hang_up();
        click_delays(&received)
    };
    (0..3).flat_map(one).collect()
}

/// Milliseconds from the 200 to the first key picture.
fn first_key_ms(uri: &str, clip: &Packetized) -> f64 {
    let one = |_| {
        let mut caller = Caller::new(uri);
        let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
        let received = caller.stream(&answer, Duration::from_millis(700), Some(clip));
        caller.hang_up();
        // An IDR slice, or the first fragment of one (RFC 6184 §5.8).
        let is_key = |payload: &[u8]| match payload {
            [first, header, ..] => first & 31 == 5 || (first & 31 == 28 && header & 0x9f == 0x85),
            _ => false,
        };
        let key = received.video.packets.iter().find(|packet| is_key(&packet.payload));
        key.map_or(f64::NAN, |packet| packet.at * 1e3)
    };
    median((0..5).map(one).collect())
}

fn delays() {
    eprintln!("bench: delays");
    let callee = baresip(G711);
    let appliance = Appliance::start(&BARE);
    let (ours, theirs) = (click_calls(&appliance.uri()), click_calls(&callee.uri()));
    eprintln!("bench: {} clicks came back from eyeline, {} from baresip", ours.len(), theirs.len());
    let high = highest(&theirs);
    row("mouth to ear, RTP in to RTP out (median)", median(ours.clone()), Some(median(theirs)), "ms", "40");
    row("  95th percentile", highest(&ours), Some(high), "ms", "55");
    let clip = Packetized::read(&media("face.mp4"), 1);
    row("200 to the first key picture", first_key_ms(&appliance.uri(), &clip), None, "ms", "200");
}

/// The 95th percentile of few values is nearly their highest.
fn highest(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A 720p clip at 15 fps, made once.
fn large_clip() -> Packetized {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("scene-720p.mp4");
    if !path.exists() {
        let mut command = Command::new("ffmpeg");
        command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-i"]).arg(media("scene.mp4"));
        command.args([
            "-vf",
            "scale=1280:720",
            "-frames:v",
            "90",
            "-c:v",
            "libx264",
            "-profile:v",
            "baseline",
        ]);
        command.args(["-preset", "veryfast", "-b:v", "1500k", "-g", "30"]);
        output_of(command.arg(&path));
    }
    Packetized::read(&path, 1)
}

/// MiB of an idle appliance, and what one 720p call adds.
fn memory_of(settings: &[&str], clip: &Packetized) -> (f64, f64) {
    let appliance = Appliance::start(settings);
    let pid = appliance.process.id();
    let idle = usage_of_tree(pid).memory_mib;
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let received = caller.stream(&answer, Duration::from_secs(5), Some(clip));
    let busy = usage_of_tree(pid).memory_mib;
    assert!(received.video.packets.len() > 100, "pictures came back");
    caller.hang_up();
    (idle, busy - idle)
}

fn memory() {
    eprintln!("bench: memory");
    let clip = large_clip();
    let (idle, call) = memory_of(&BARE, &clip);
    row("memory when idle, no models", idle, None, "MiB", "35");
    row("memory of a 720p call", call, None, "MiB", "48");
    let (_, call) = memory_of(&DEFAULTS, &clip);
    row("  hidden faces, objects, boxes, recording", call, None, "MiB", "72 + models");
}

fn starts() {
    eprintln!("bench: start");
    let times = |settings: &[&str]| median((0..5).map(|_| start_ms(settings)).collect());
    row("start to first SIP answer, no models", times(&BARE), None, "ms", "300");
    row("start to first SIP answer, default models", times(&DEFAULTS), None, "ms", "1000");
}

/// Milliseconds of single runs of a model in the inference process, each right after the other.
fn worker_runs(worker: &Worker, model: &str, store: &Store) -> Option<(PathBuf, Size, Vec<f64>)> {
    let spec = store.spec(model, Sizing::Live).ok()?;
    let (path, picture) = (spec.path.clone(), Size::new(640, 360));
    let size = spec.contract.tensor_size(picture, spec.live);
    let handle = worker.load(spec).ok()?;
    let options = handle.options();
    let mut detector = worker.detector(vec![(handle, options)]);
    let pool = FramePool::new(1);
    let frame = pool.take_sized(picture, Pts::ZERO).map(FrameMut::freeze)?;
    let total = || {
        let status = worker.status();
        let found = status.models.into_iter().find(|found| found.name == model);
        found.map_or((0, 0.0), |found| (found.count, found.mean_run_ms * found.count as f64))
    };
    let mut runs = Vec::new();
    let mut before = total();
    for number in 0..55 {
        detector.detect(&frame, Instant::now() + Duration::from_secs(5)).ok()?;
        let after = total();
        if number >= 5 {
            runs.push(after.1 - before.1);
        }
        before = after;
    }
    Some((path, size, runs))
}

fn bare_run_ms(model: &std::path::Path, size: Size) -> Option<f64> {
    let output = Command::new("python3")
        .arg(root().join("bench/bare_inference.py"))
        .arg(model)
        .args([size.width.to_string(), size.height.to_string()])
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

fn inference() {
    eprintln!("bench: inference");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_eyeline"));
    // The child runs as /proc/self/exe would: from the program's folder, where the library lies.
    let settings = WorkerSettings { executable: program, ..WorkerSettings::default() };
    let (worker, store) = match (Worker::start(settings), Store::open(Some(&root().join("models")))) {
        (Ok(worker), Ok(store)) => (worker, store),
        _ => return eprintln!("bench: no inference: run `make setup`"),
    };
    for model in ["yunet-dyn", "yunet-n-dyn", "yolox-nano", "centerface"] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let Some((path, size, runs)) = worker_runs(&worker, model, &store) else { break };
            ours.push(median(runs));
            theirs.extend(bare_run_ms(&path, size));
        }
        if !ours.is_empty() {
            row(&format!("inference, {model}"), median(ours), Some(median(theirs)), "ms", "ratio 1.05");
        }
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(3);
    println!(
        "| {:<44} | {:>8} | {:>8} | {:>5} | {:<12} | {:<12} |",
        "what", "eyeline", "peer", "ratio", "unit", "limit"
    );
    println!("|{}|---------:|---------:|------:|--------------|--------------|", "-".repeat(46));
    let parts: [(&str, &dyn Fn()); 6] = [
        ("calls", &|| calls(rounds)),
        ("answers", &answers),
        ("delays", &delays),
        ("memory", &memory),
        ("starts", &starts),
        ("inference", &inference),
    ];
    let named = arguments.iter().any(|argument| parts.iter().any(|(name, _)| name == argument));
    for (name, part) in parts {
        if !named || arguments.iter().any(|argument| argument == name) {
            part();
        }
    }
}
