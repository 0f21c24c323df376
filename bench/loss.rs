//! Measures video over a network that loses packets beside baresip in the same run, with the same seeds: how near the
//! received picture is to the clip that was sent, and how long it was not clean.
//!
//! Run by `bench/run loss [SECONDS]`.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads clocks and drives processes"
)]

#[path = "../tests/e2e/harness/mod.rs"]
mod harness;

use std::time::Duration;

use harness::appliance::{Appliance, eyeline};
use harness::baresip::{Baresip, Settings};
use harness::capture::Stream;
use harness::impaired::{Impaired, Impairment, Toward};
use harness::media;
use harness::picture::{Clip, Likeness, read, read_h264, times_of};

const BARE: [&str; 4] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=true}]"#,
    r#"agent.mirror={kind="mirror", audio="echo"}"#,
    "overlay.boxes=false",
    r#"overlay.watermark="""#,
];

/// What a peer's own decoder would have shown of the packets it received: pictures as FFmpeg conceals them.
fn of_stream(stream: &Stream, clip: &Clip) -> Likeness {
    let pictures = read_h264(&stream.h264());
    let mut times: Vec<(u32, f64)> = Vec::new();
    for packet in &stream.packets {
        match times.last_mut() {
            Some((timestamp, at)) if *timestamp == packet.timestamp => *at = packet.at,
            _ => times.push((packet.timestamp, packet.at)),
        }
    }
    times.dedup_by_key(|(timestamp, _)| *timestamp);
    let times: Vec<f64> = times.into_iter().map(|(_, at)| at).collect();
    Likeness::of(&pictures, &times, clip)
}

fn baresip(clip: &str, answers: bool) -> Baresip {
    Baresip::start(&Settings { answers, clip: Some(media(clip)), ..Settings::default() })
}

/// `eyeline call` through the network; what it received.
fn client_to(network: &Impaired, user: &str, seconds: u32, clip: &Clip) -> Likeness {
    let folder = tempfile::tempdir().unwrap();
    let output = eyeline()
        .current_dir(folder.path())
        .args(["call", &format!("sip:{user}@{}", network.address), "--json", "--out", "received"])
        .args(["--video", media("face.mp4").to_str().unwrap(), "--kbps", "800"])
        .args(["--duration", &seconds.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let file = folder.path().join("received/received.mp4");
    Likeness::of(&read(&file), &times_of(&file), clip)
}

/// Both baresips; what the caller and the callee received.
fn baresip_to_baresip(impairment: Impairment, seconds: u32, clip: &Clip) -> Likeness {
    let callee = baresip("face.mp4", true);
    let network = Impaired::before(callee.sip, impairment);
    let mut caller = baresip("scene.mp4", false);
    caller.dial(&format!("sip:peer@{}", network.address));
    caller.talk(Duration::from_secs(seconds.into()));
    caller.hang_up();
    of_stream(&network.video(Toward::Caller), clip)
}

/// A baresip that calls the appliance; what it received of its own picture's way through the appliance, and what the
/// appliance received.
fn baresip_to_eyeline(impairment: Impairment, seconds: u32, clip: &Clip) -> Likeness {
    let appliance = Appliance::start(&BARE);
    let network = Impaired::before(appliance.sip, impairment);
    let mut caller = baresip("face.mp4", false);
    caller.dial(&format!("sip:mirror@{}", network.address));
    caller.talk(Duration::from_secs(seconds.into()));
    caller.hang_up();
    let file = appliance.finished_recording();
    Likeness::of(&read(&file), &times_of(&file), clip)
}

fn eyeline_to_baresip(impairment: Impairment, seconds: u32, clip: &Clip) -> (Likeness, Likeness) {
    let callee = baresip("face.mp4", true);
    let network = Impaired::before(callee.sip, impairment);
    let received = client_to(&network, "peer", seconds, clip);
    (received, of_stream(&network.video(Toward::Callee), clip))
}

fn eyeline_to_eyeline(impairment: Impairment, seconds: u32, clip: &Clip) -> Likeness {
    let appliance = Appliance::start(&BARE);
    let network = Impaired::before(appliance.sip, impairment);
    let mirrored = client_to(&network, "mirror", seconds, clip);
    eprintln!("bench: mirrored back {mirrored:.2?}");
    let file = appliance.finished_recording();
    Likeness::of(&read(&file), &times_of(&file), clip)
}

fn row(loss: f64, what: &str, likeness: Likeness) {
    let Likeness { pictures, median_db, low_db, longest_bad_s, bad_share } = likeness;
    println!(
        "| {:>4.0} | {what:<44} | {pictures:>8} | {median_db:>9.1} | {low_db:>6.1} | {longest_bad_s:>11.2} | {:>9.1} |",
        loss * 100.0,
        bad_share * 100.0
    );
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(12);
    let clip = Clip::open("face.mp4");
    println!(
        "| loss | picture received, seconds without a clean one | pictures | median dB | p5 dB | longest bad | bad share |"
    );
    println!("|-----:|{}|---------:|----------:|-------:|------------:|----------:|", "-".repeat(46));
    for loss in [0.0, 0.02, 0.05] {
        eprintln!("bench: loss of {:.0} %", loss * 100.0);
        let impairment =
            Impairment { loss, burst: 1.0, delay: Duration::from_millis(30), ..Impairment::default() };
        row(loss, "baresip's, by baresip (key requests)", baresip_to_baresip(impairment, seconds, &clip));
        row(
            loss,
            "baresip's, by the appliance (key requests)",
            baresip_to_eyeline(impairment, seconds, &clip),
        );
        let (received, sent) = eyeline_to_baresip(impairment, seconds, &clip);
        row(loss, "baresip's, by eyeline call (key requests)", received);
        row(loss, "eyeline's, by baresip (key requests)", sent);
        row(loss, "eyeline's, by the appliance (NACK)", eyeline_to_eyeline(impairment, seconds, &clip));
    }
}
