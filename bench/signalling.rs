//! Measures signalling beside SIPp and baresip in the same run: calls a second on one core, times of the answer, memory
//! of a dialog, and what strangers' messages cost. Ratios are what counts; the absolute numbers belong to the machine.
//!
//! `signalling [PART...]`: parts are `rate`, `times`, `dialogs`, `flood`; without any, all of them. No call here has
//! media: every offer is of sound that nobody sends, and nothing is recorded. The server has the first core for itself,
//! SIPp the second.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads clocks and drives processes"
)]

#[path = "../tests/e2e/harness/mod.rs"]
mod harness;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::appliance::Appliance;
use harness::baresip::{Baresip, Settings};
use harness::process::{Process, usage_of_tree};
use harness::sipp::{Calls, Figures, Script, Sipp};

/// Signalling and nothing else. Ports rest after each call, so that many calls a second need many of them.
const BARE: [&str; 5] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false, video=false}]"#,
    r#"agent.mirror={kind="mirror", audio="silence"}"#,
    "media.rtp_ports=[33000, 59999]",
    "sip.calls_per_second=0",
    "sip.max_calls=30000",
];

const SERVER_CORE: usize = 0;
const CALLER_CORE: usize = 1;

fn row(what: &str, ours: f64, theirs: Option<(&str, f64)>, unit: &str, limit: &str) {
    let peer = theirs.map_or(String::new(), |(name, value)| format!("{value:.2} {name}"));
    let ratio = theirs.map_or(String::new(), |(_, value)| format!("{:.2}", ours / value));
    println!("| {what:<52} | {ours:>9.2} | {peer:>16} | {ratio:>5} | {unit:<9} | {limit:<22} |");
}

/// The value below which `share` of them lie.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

// -- Calls a second -----------------------------------------------------------------------------------------------

const STEP: Duration = Duration::from_secs(8);

/// One step: SIPp calls `per_second` times a second; what came of it, and the server's share of a core.
fn step(server: &Process, uri: &str, per_second: u32) -> (Figures, f64) {
    let count = per_second * STEP.as_secs() as u32;
    let calls = Calls { count, per_second, hold: Duration::ZERO, patience: Duration::from_secs(10) };
    let (start, before) = (Instant::now(), usage_of_tree(server.id()).cpu_s);
    let sipp = Sipp::caller(Script::File("short_call"), uri, calls);
    sipp.process.pin(CALLER_CORE);
    let figures = sipp.finish();
    let share = (usage_of_tree(server.id()).cpu_s - before) / start.elapsed().as_secs_f64();
    (figures, share * 100.0)
}

/// The highest rate at which no call failed and SIPp repeated at most one request in a hundred calls.
fn highest(name: &str, server: &Process, uri: &str) -> f64 {
    server.pin(SERVER_CORE);
    let mut best = 0.0_f64;
    for per_second in [500, 1000, 1500, 2000, 2500, 3000, 4000] {
        let (figures, share) = step(server, uri, per_second);
        let Figures { per_second: reached, successful, failed, retransmissions } = figures;
        eprintln!(
            "bench: {name} at {per_second}/s: {reached:.0}/s, {successful} good, {failed} failed, {retransmissions} \
             repeated, {share:.0} % of a core"
        );
        let clean = failed == 0 && retransmissions * 100 <= successful;
        if !clean || reached < f64::from(per_second) * 0.9 {
            break;
        }
        best = reached;
        // Ports and transactions of the step before are given back.
        thread::sleep(Duration::from_secs(3));
    }
    best
}

fn rate() {
    let sipp = {
        let patience = Duration::from_secs(600);
        let forever = Calls { count: u32::MAX / 2, per_second: u32::MAX / 2, patience, ..Calls::default() };
        let callee = Sipp::callee(Script::Own("uas"), forever);
        highest("SIPp", &callee.process, &callee.uri())
    };
    let appliance = Appliance::start(&BARE);
    let ours = highest("eyeline", &appliance.process, &appliance.uri());
    row(
        "calls a second without a failure, one core",
        ours,
        Some(("SIPp", sipp)),
        "calls/s",
        "1500, ratio 0.8",
    );
}

// -- Times of the answer ------------------------------------------------------------------------------------------

/// A caller that does nothing but look at the clock.
struct Watch {
    socket: UdpSocket,
    local: SocketAddr,
    server: SocketAddr,
    uri: String,
}

impl Watch {
    fn new(uri: &str) -> Watch {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let server = uri.rsplit('@').next().unwrap().parse().unwrap();
        Watch { local: socket.local_addr().unwrap(), socket, server, uri: uri.to_owned() }
    }

    fn send(&self, method: &str, number: usize, to_tag: &str, body: &str) {
        let (local, uri) = (self.local, &self.uri);
        let cseq = if method == "BYE" { 2 } else { 1 };
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bK{method}{number}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:watch@{local}>;tag=w{number}\r\nTo: <{uri}>{to_tag}\r\n\
             Call-ID: {number}-{local}\r\nCSeq: {cseq} {method}\r\nContact: <sip:watch@{local}>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.send_to(text.as_bytes(), self.server).unwrap();
    }

    /// The next response of call `number`: its status and To tag.
    fn hear(&self, number: usize) -> Option<(u16, String)> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).ok()?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            if !text.contains(&format!("{number}-{}", self.local)) {
                continue;
            }
            let status = text.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()?;
            let tag =
                text.lines().find(|line| line.starts_with("To:")).and_then(|line| line.split(";tag=").nth(1));
            return Some((status, tag.map(|tag| format!(";tag={tag}")).unwrap_or_default()));
        }
    }

    /// One call: milliseconds from INVITE to its 180 and its 200.
    fn call(&self, number: usize) -> Option<(f64, f64)> {
        let body = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
            m=audio 9 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";
        let start = Instant::now();
        let passed = || start.elapsed().as_secs_f64() * 1e3;
        self.send("INVITE", number, "", body);
        let mut ringing = None;
        let tag = loop {
            match self.hear(number)? {
                (180, _) => ringing = ringing.or(Some(passed())),
                (100..=199, _) => {}
                (200, tag) => break tag,
                _ => return None,
            }
        };
        let answered = passed();
        self.send("ACK", number, &tag, "");
        self.send("BYE", number, &tag, "");
        self.hear(number)?;
        Some((ringing.unwrap_or(answered), answered))
    }
}

/// Ten calls a second: milliseconds to 180 and to 200 of those that went well, and how many did not.
fn times_of(uri: &str, calls: usize) -> (Vec<f64>, Vec<f64>, usize) {
    let watch = Watch::new(uri);
    let (mut ringing, mut answered) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for number in 0..calls {
        let due = start + Duration::from_millis(100) * number as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Some((rang, took)) = watch.call(number) {
            ringing.push(rang);
            answered.push(took);
        }
    }
    let failed = calls - answered.len();
    (ringing, answered, failed)
}

fn times() {
    const CALLS: usize = 200;
    let theirs = {
        let baresip = Baresip::start(&Settings { answers: true, clip: None, ..Settings::default() });
        times_of(&baresip.uri(), CALLS)
    };
    let appliance = Appliance::start(&BARE);
    let ours = times_of(&appliance.uri(), CALLS);
    eprintln!("bench: of {CALLS} calls {} failed, with baresip {}", ours.2, theirs.2);
    for (what, ours, theirs, limit) in [
        ("INVITE to 180 at 10 calls/s", &ours.0, &theirs.0, 5.0),
        ("INVITE to 200 at 10 calls/s", &ours.1, &theirs.1, 25.0),
    ] {
        let peer = |share| Some(("baresip", percentile(theirs, share)));
        row(&format!("{what}, median"), percentile(ours, 0.5), peer(0.5), "ms", "ratio 1");
        row(&format!("{what}, p99"), percentile(ours, 0.99), peer(0.99), "ms", &format!("{limit}"));
    }
}

// -- Memory of a dialog -------------------------------------------------------------------------------------------

fn dialogs() {
    const MANY: u32 = 1000;
    let appliance = Appliance::start(&BARE);
    let memory = || usage_of_tree(appliance.process.id()).memory_mib;
    // What the first calls make and keep belongs to no dialog.
    Sipp::caller(
        Script::File("short_call"),
        &appliance.uri(),
        Calls { count: 50, per_second: 50, ..Calls::default() },
    )
    .finish();
    thread::sleep(Duration::from_secs(1));
    let before = memory();
    let hold = Duration::from_secs(20);
    let calls = Calls { count: MANY, per_second: 200, hold, patience: Duration::from_secs(10) };
    let sipp = Sipp::caller(Script::File("held_call"), &appliance.uri(), calls);
    thread::sleep(Duration::from_secs(9));
    let with = memory();
    let figures = sipp.finish();
    eprintln!(
        "bench: {} held calls, {} failed; {before:.1} MiB before, {with:.1} with them",
        MANY, figures.failed
    );
    let each = (with - before) * 1024.0 / f64::from(MANY);
    row("memory of an established call on hold", each, None, "KiB", "1024 (a call with sound)");
}

// -- Strangers ----------------------------------------------------------------------------------------------------

/// Sends 1,000 messages a second from an address nobody trusts, until told to stop: bytes sent and bytes that came back.
fn strangers(to: SocketAddr, stop: &AtomicBool) -> (u64, u64, u64) {
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let local = socket.local_addr().unwrap();
    let (mut messages, mut out, mut back) = (0_u64, 0_u64, 0_u64);
    let mut buffer = [0; 4096];
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        while start.elapsed() > Duration::from_millis(messages) {
            let method = ["INVITE", "REGISTER", "OPTIONS", "BYE", "NONSENSE"][(messages % 5) as usize];
            let text = format!(
                "{method} sip:100@{to} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKx{messages}\r\n\
                 From: <sip:x@{local}>;tag={messages}\r\nTo: <sip:100@{to}>\r\nCall-ID: {messages}@{local}\r\n\
                 CSeq: 1 {method}\r\nContact: <sip:x@{local}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
            );
            out += socket.send_to(text.as_bytes(), to).unwrap_or(0) as u64;
            messages += 1;
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            back += length as u64;
        }
        thread::sleep(Duration::from_millis(1));
    }
    (messages, out, back)
}

fn flood() {
    for policy in ["drop", "reject", "challenge"] {
        let trusted = r#"sip.trusted=["127.0.0.1/32"]"#;
        let strangers_are = format!("sip.strangers=\"{policy}\"");
        // Who challenges needs somebody who could answer.
        let user = r#"sip.user=[{name="door", password="a long password"}]"#;
        let settings: Vec<&str> = BARE.into_iter().chain([trusted, user, strangers_are.as_str()]).collect();
        let appliance = Appliance::start(&settings);
        appliance.process.pin(SERVER_CORE);
        let stop = Arc::new(AtomicBool::new(false));
        let (to, told) = (appliance.sip, stop.clone());
        let before = usage_of_tree(appliance.process.id()).cpu_s;
        let (start, flooding) = (Instant::now(), thread::spawn(move || strangers(to, &told)));
        let calls = Calls { count: 200, per_second: 20, ..Calls::default() };
        let good = Sipp::caller(Script::File("short_call"), &appliance.uri(), calls).finish();
        stop.store(true, Ordering::Relaxed);
        let (messages, out, back) = flooding.join().unwrap();
        let share =
            (usage_of_tree(appliance.process.id()).cpu_s - before) / start.elapsed().as_secs_f64() * 100.0;
        eprintln!(
            "bench: {policy}: {messages} messages of strangers, {out} bytes in, {back} bytes out, {share:.1} % of a core, \
             {} of the good peer's calls failed, {} requests repeated",
            good.failed, good.retransmissions
        );
        let done = f64::from(good.successful) * 100.0 / f64::from(good.successful + good.failed).max(1.0);
        row(&format!("good peer's calls beside 1000 messages/s, {policy}"), done, None, "%", "99");
        row(
            &format!("bytes to strangers for each of theirs, {policy}"),
            back as f64 / out as f64,
            None,
            "",
            "1.0",
        );
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!(
        "| {:<52} | {:>9} | {:>16} | {:>5} | {:<9} | {:<22} |",
        "what", "eyeline", "peer", "ratio", "unit", "limit"
    );
    println!(
        "|{}|----------:|-----------------:|------:|-----------|------------------------|",
        "-".repeat(54)
    );
    let parts: [(&str, fn()); 4] = [("rate", rate), ("times", times), ("dialogs", dialogs), ("flood", flood)];
    let named = arguments.iter().any(|argument| parts.iter().any(|(name, _)| name == argument));
    for (name, part) in parts {
        if !named || arguments.iter().any(|argument| argument == name) {
            part();
        }
    }
}
