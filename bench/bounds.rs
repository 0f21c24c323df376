//! Measures what the media plane bears: calls with sound at once on one core beside baresip, thousands of short calls,
//! and minutes of broken packets.
//!
//! `bounds capacity` | `churn [CALLS]` | `mutate [SECONDS]`; run by `bench/run`. The server has the first core for itself,
//! the callers the second. A part that misses its limit ends with code 1.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads clocks and drives processes"
)]

#[path = "../tests/e2e/harness/mod.rs"]
mod harness;
mod load;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::appliance::Appliance;
use harness::baresip::{Baresip, Settings};
use harness::endurance::{at_rest, many_calls, mutated_call};
use harness::media;
use harness::process::{Process, usage_of_tree};
use harness::uac::{Caller, Packetized};
use load::{Load, Window};

const SERVER_CORE: usize = 0;
const CALLER_CORE: usize = 1;
const ECHO: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;
/// RTP ports for all the calls there may be.
const PORTS: &str = "media.rtp_ports=[33000, 59999]";
const MANY: [&str; 3] = [PORTS, "sip.calls_per_second=0", "sip.max_calls=30000"];
const SOUND: &str = r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false, video=false}]"#;
const PICTURES: &str = r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false}]"#;

const WINDOW: Duration = Duration::from_secs(8);
const LATE_MS: f64 = 5.0;

fn row(what: &str, ours: f64, peer: Option<f64>, unit: &str, limit: &str) {
    let theirs = peer.map_or(String::new(), |peer| format!("{peer:.2}"));
    println!("| {what:<52} | {ours:>9.2} | {theirs:>9} | {unit:<12} | {limit:<28} |");
}

// -- Calls at once ------------------------------------------------------------------------------------------------

/// What one step of calls showed.
struct Step {
    calls: usize,
    window: Window,
    /// The server's share of a core.
    share: f64,
    memory_mib: f64,
}

impl Step {
    /// Nearly every packet came back, and the core is not full. More than were sent: the caller is the one that cannot.
    fn is_borne(&self) -> bool {
        self.window.returned > 0.995 && self.window.returned < 1.02 && self.share < 0.97
    }
}

/// More and more calls until the server does not bear them.
fn climb(name: &str, server: &Process, uri: &str, steps: &[usize]) -> Vec<Step> {
    server.pin(SERVER_CORE);
    let mut load = Load::new(uri);
    let mut done: Vec<Step> = Vec::new();
    for count in steps {
        if !load.grow(*count) {
            eprintln!("bench: {name}: call {} was not answered", load.calls() + 1);
            break;
        }
        let before = usage_of_tree(server.id()).cpu_s;
        let start = Instant::now();
        let window = load.talk(WINDOW);
        let after = usage_of_tree(server.id());
        let share = (after.cpu_s - before) / start.elapsed().as_secs_f64();
        let step = Step { calls: load.calls(), window, share, memory_mib: after.memory_mib };
        eprintln!(
            "bench: {name}, {count} calls: {:.0} % of a core, {:.2} % came back, late p50 {:.2} p99 {:.2} ms, {:.0} MiB; \
             the caller needed {:.0} %",
            share * 100.0,
            window.returned * 100.0,
            window.late_p50,
            window.late_p99,
            step.memory_mib,
            window.own_share * 100.0,
        );
        let borne = step.is_borne();
        done.push(step);
        if !borne {
            break;
        }
    }
    load.hang_up();
    done
}

fn most_borne(steps: &[Step]) -> f64 {
    steps.iter().filter(|step| step.is_borne()).map(|step| step.calls).max().unwrap_or(0) as f64
}

/// What so many calls on hold need: shares of a core.
fn held(appliance: &Appliance, calls: usize) -> f64 {
    let mut load = Load::new(&appliance.uri());
    load.direction = "inactive";
    assert!(load.grow(calls), "calls on hold are answered");
    std::thread::sleep(Duration::from_secs(2));
    let (start, before) = (Instant::now(), usage_of_tree(appliance.process.id()).cpu_s);
    std::thread::sleep(Duration::from_secs(5));
    let share = (usage_of_tree(appliance.process.id()).cpu_s - before) / start.elapsed().as_secs_f64();
    load.hang_up();
    share
}

fn capacity() -> bool {
    if let Err(error) = load::pin(CALLER_CORE) {
        eprintln!("bench: the callers run where they like: {error}");
    }
    let theirs = {
        let baresip = Baresip::start(&Settings { many: true, clip: None, ..Settings::default() });
        climb(
            "baresip",
            &baresip.process,
            &baresip.uri(),
            &[25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 700],
        )
    };
    let appliance = Appliance::start(&[&[SOUND, ECHO], &MANY[..]].concat());
    let idle = usage_of_tree(appliance.process.id()).memory_mib;
    let steps = [250, 500, 750, 1000, 1250, 1500, 2000, 2500, 3000];
    let ours = climb("eyeline", &appliance.process, &appliance.uri(), &steps);
    let (most, peer) = (most_borne(&ours), most_borne(&theirs));
    row("G.711 echo calls on one core", most, Some(peer), "calls", "500, and 4 x baresip");
    let of = |calls: usize| ours.iter().find(|step| step.calls == calls);
    let late = of(500).map_or(f64::NAN, |step| step.window.late_p99);
    let at_most = theirs.iter().rfind(|step| step.is_borne()).map(|step| step.window.late_p99);
    row("a packet leaves late, p99, at 500 calls (baresip's most)", late, at_most, "ms", "5");
    let share = of(500).map_or(f64::NAN, |step| step.share * 100.0);
    row("  CPU of it", share, None, "% of a core", "100");
    let memory = of(500).map_or(f64::NAN, |step| (step.memory_mib - idle) / 500.0);
    row("  memory of each call", memory, None, "MiB", "1");
    // The calls of before are over, their ports have rested.
    std::thread::sleep(Duration::from_secs(5));
    row("  CPU of 1000 calls on hold", held(&appliance, 1000) * 100.0, None, "% of a core", "");
    most >= 500.0 && most >= 4.0 * peer && late <= LATE_MS && memory <= 1.0
}

// -- One after the other ------------------------------------------------------------------------------------------

/// The longest a transaction is kept (RFC 3261 §17.2, Timers H and J).
const TRANSACTIONS: Duration = Duration::from_secs(33);

fn churn(count: u32) -> bool {
    let appliance = Appliance::start(&[&[PICTURES, ECHO], &MANY[..]].concat());
    let clip = Packetized::read(&media("face.mp4"), 1);
    // What the first calls make and keep belongs to none of them; transactions outlive their calls by half a minute.
    many_calls(&appliance.uri(), count.min(500), 8, &clip);
    std::thread::sleep(TRANSACTIONS);
    let (before, memory_before) = at_rest(&appliance);
    let start = Instant::now();
    let mut shown = 0;
    let mut left = count;
    while left > 0 {
        let now = left.min(1000);
        shown += many_calls(&appliance.uri(), now, 8, &clip);
        left -= now;
        let memory = usage_of_tree(appliance.process.id()).memory_mib;
        eprintln!("bench: {} of {count} calls, {memory:.1} MiB", count - left);
    }
    let took = start.elapsed().as_secs_f64();
    std::thread::sleep(TRANSACTIONS);
    let (after, memory) = at_rest(&appliance);
    eprintln!(
        "bench: {before:?}, {memory_before:.1} MiB before; {after:?}, {memory:.1} MiB after {took:.0} s"
    );
    row("short A/V calls", f64::from(count), None, "calls", "10000");
    row("  with a picture", f64::from(shown) * 100.0 / f64::from(count), None, "%", "");
    row("  UDP ports left", after.udp_ports as f64 - before.udp_ports as f64, None, "", "0");
    row("  files left", after.files as f64 - before.files as f64, None, "", "0");
    row("  threads left", after.threads as f64 - before.threads as f64, None, "", "0");
    row("  memory left", memory - memory_before, None, "MiB", "8, whatever the count");
    after.udp_ports == before.udp_ports
        && after.files <= before.files
        && after.threads <= before.threads
        && memory - memory_before < 8.0
}

// -- Broken packets -----------------------------------------------------------------------------------------------

fn mutate(seconds: u32) -> bool {
    let appliance = Appliance::start(&[PICTURES, ECHO]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let time = Duration::from_secs(u64::from(seconds));
    let seed = 20_261_120;
    let ordeal = mutated_call(&appliance, &mut caller, &answer, time, &clip, seed);
    let after = caller.stream(&answer, Duration::from_secs(3), Some(&clip));
    caller.hang_up();
    let log = appliance.process.log();
    let growth = ordeal.memory[9] - ordeal.memory[1];
    eprintln!("bench: {} packets were spoilt, MiB over the time: {:.1?}", ordeal.spoilt, ordeal.memory);
    row("broken media into a call", f64::from(seconds), None, "s", "600");
    row("  memory it grew by", growth, None, "MiB", "8");
    row("  pictures a second, once it is over", after.video.per_second(), None, "", "13");
    !log.contains("panicked") && growth < 8.0 && after.video.per_second() > 13.0
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let number = |otherwise| arguments.get(1).and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    println!("| {:<52} | {:>9} | {:>9} | {:<12} | {:<28} |", "what", "eyeline", "baresip", "unit", "limit");
    println!("|{}|----------:|----------:|--------------|------------------------------|", "-".repeat(54));
    let held = match arguments.first().map(String::as_str) {
        Some("capacity") => capacity(),
        Some("churn") => churn(number(10_000)),
        Some("mutate") => mutate(number(600)),
        _ => {
            eprintln!("bench: capacity, churn [CALLS] or mutate [SECONDS]");
            return ExitCode::from(2);
        }
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
