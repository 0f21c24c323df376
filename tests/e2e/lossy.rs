//! Video over a bad network, as a viewer sees it: packets lost in bursts, overtaken, doubled; and a peer that asks for key
//! pictures and lost packets a thousand times a second.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::impaired::{Impaired, Impairment};
use crate::harness::picture::{Clip, Likeness, times_of};
use crate::harness::process::usage_of_tree;
use crate::harness::uac::{Caller, Packetized, Sending};
use crate::harness::{media, picture, turn};

/// A mirror that hides and draws nothing and records what came as it came.
const BARE: [&str; 5] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=true}]"#,
    r#"agent.mirror={kind="mirror", audio="echo"}"#,
    "overlay.boxes=false",
    r#"overlay.watermark="""#,
    "recording.min_free_gib=0",
];

/// One call of `eyeline call` through the network; its report and what the appliance received, in one file.
fn call_through(impairment: Impairment, seconds: u32) -> (Value, Likeness) {
    let appliance = Appliance::start(&BARE);
    let network = Impaired::before(appliance.sip, impairment);
    let folder = tempfile::tempdir().unwrap();
    let output = eyeline()
        .current_dir(folder.path())
        .args(["call", &format!("sip:mirror@{}", network.address), "--json", "--out", "received"])
        .args(["--video", media("face.mp4").to_str().unwrap(), "--kbps", "800"])
        .args(["--duration", &seconds.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let recording = appliance.finished_recording();
    // Lost packets do not make another stream of it, which another file would have to hold.
    assert_eq!(appliance.recordings().len(), 1, "{recording:?} and no other");
    let likeness = judged(&recording);
    (serde_json::from_str(&text).expect("JSON"), likeness)
}

fn judged(file: &Path) -> Likeness {
    Likeness::of(&picture::read(file), &times_of(file), &Clip::open("face.mp4"))
}

#[test]
fn with_retransmissions_loss_of_five_percent_is_hardly_seen() {
    let _turn = turn();
    let (report, likeness) = call_through(Impairment { loss: 0.05, ..Impairment::default() }, 8);
    let number = |name: &str| report["video"][name].as_f64().unwrap_or(-1.0);
    assert!(likeness.median_db >= 40.0 && likeness.longest_bad_s <= 0.8, "{likeness:?}");
    // Eight seconds are some ten bursts, both ways together: how many there were is chance, that they were mended is not.
    let (asked, repeated, lost) =
        (number("packets_asked"), number("packets_repeated"), number("packets_lost"));
    assert!(asked + repeated >= 3.0 && (0.0..=5.0).contains(&lost), "{report:#}");
}

#[test]
fn after_bursts_the_picture_is_clean_again_by_key_requests_alone() {
    let _turn = turn();
    let bursts = Some(Duration::from_millis(1700));
    let (report, likeness) =
        call_through(Impairment { bursts, without_nack: true, ..Impairment::default() }, 9);
    let number = |name: &str| report["video"][name].as_f64().unwrap_or(-1.0);
    println!("{likeness:.2?}, {:#}", report["video"]);
    // Five or so, each way, every one of which costs a key picture.
    assert!(number("key_requests_sent") >= 3.0 && number("packets_repeated") <= 0.0, "{report:#}");
    assert!(likeness.longest_bad_s > 0.0 && likeness.longest_bad_s <= 0.8, "{likeness:?}");
}

/// The clip without one of the two parameter sets in front of each key picture but the first, as if its packet had been
/// lost: now the one, now the other.
fn without_a_set(mut clip: Packetized) -> Packetized {
    let is = |packet: &Vec<u8>, kind: u8| packet[0] & 31 == kind;
    let keys = clip.units.iter_mut().filter(|unit| unit.iter().any(|packet| is(packet, 7)));
    for (number, unit) in keys.enumerate().skip(1) {
        assert!(unit.iter().any(|packet| is(packet, 8)), "sets go in packets of their own");
        let lost = if number.is_multiple_of(2) { 7 } else { 8 };
        unit.retain(|packet| !is(packet, lost));
    }
    clip
}

#[test]
fn a_parameter_set_that_is_lost_does_not_begin_another_file() {
    let _turn = turn();
    let clip = without_a_set(Packetized::read(&media("face.mp4"), 1));
    let appliance = Appliance::start(&BARE);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let sending = Sending { time: Duration::from_secs(4), video: Some(&clip), fps: 30, ..Sending::default() };
    caller.stream_as(&answer, &sending, |_, _| ());
    caller.hang_up();
    let recording = appliance.finished_recording();
    assert_eq!(appliance.recordings().len(), 1, "{recording:?} and no other");
    let pictures = picture::read(&recording).len();
    assert!(pictures > 100, "{pictures} pictures of four key pictures and those behind them");
}

#[test]
fn packets_overtaken_and_doubled_have_no_effect_on_the_picture() {
    let _turn = turn();
    let network = Impairment { overtaken: 0.05, doubled: 0.05, ..Impairment::default() };
    let (report, likeness) = call_through(network, 5);
    assert!(likeness.low_db >= 36.0 && likeness.longest_bad_s <= 0.25, "{likeness:?}");
    assert!(report["video"]["key_requests_sent"].as_u64() <= Some(1), "{report:#}");
}

/// Feedback of a peer that wants a key picture by PLI and FIR and misses everything, three messages at a time.
fn storm(number: u32) -> Vec<u8> {
    let mut packets = vec![0x80, 201, 0, 1, 0, 0, 0, 7];
    packets.extend([0x81, 206, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0]);
    packets.extend([0x84, 206, 0, 4, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, number as u8, 0, 0, 0]);
    packets.extend([0x81, 205, 0, 3, 0, 0, 0, 7, 0, 0, 0, 0]);
    packets.extend([(number >> 8) as u8, number as u8, 0xff, 0xff]);
    packets
}

/// How long one of these calls sends.
const STORM: Duration = Duration::from_secs(5);

/// One call of a scripted caller; CPU seconds it cost, and key pictures that came after the first second.
fn scripted(clip: &Packetized, per_second: u32) -> (f64, usize) {
    let appliance = Appliance::start(&[
        BARE[0].replace("record=true", "record=false").as_str(),
        BARE[1],
        BARE[2],
        BARE[3],
    ]);
    let mut caller = Caller::new(&appliance.uri());
    let line = format!("{}\na=rtcp-fb:97 nack\na=rtcp-fb:97 ccm fir", Caller::h264_offer(1));
    let answer = caller.invite(&caller.offer(Some(&line)));
    let sending = Sending { time: STORM, video: Some(clip), ..Sending::default() };
    let (mut sent, before) = (0, usage_of_tree(appliance.process.id()));
    let received = caller.stream_as(&answer, &sending, |lines, at| {
        let (socket, mut to) = lines.video;
        to.set_port(to.port() + 1);
        while f64::from(sent) < at.as_secs_f64() * f64::from(per_second) {
            let _ = socket.send_to(&storm(sent), to);
            sent += 1;
        }
    });
    let cpu = usage_of_tree(appliance.process.id()).cpu_s - before.cpu_s;
    caller.hang_up();
    let is_key = |payload: &[u8]| match payload {
        [first, header, ..] => first & 31 == 5 || (first & 31 == 28 && header & 0x9f == 0x85),
        _ => false,
    };
    // Not those of the first second: the stream begins with one.
    let mut keys: Vec<u32> = received
        .video
        .packets
        .iter()
        .filter(|packet| packet.at > 1.0 && is_key(&packet.payload))
        .map(|packet| packet.timestamp)
        .collect();
    keys.dedup();
    (cpu, keys.len())
}

#[test]
fn a_storm_of_requests_costs_a_key_picture_a_second_and_hardly_any_time() {
    let _turn = turn();
    let clip = Packetized::read(&media("face.mp4"), 1);
    let (calm, _) = scripted(&clip, 0);
    let (stormy, keys) = scripted(&clip, 1000);
    // Four seconds, of which either end may have one.
    assert!((3..=5).contains(&keys), "{keys} key pictures in four seconds");
    // A key picture a second costs the encoder something of its own.
    let most = calm * 1.3 + 0.05 * STORM.as_secs_f64();
    assert!(stormy < most, "{calm:.2} s without, {stormy:.2} s with a storm");
}

#[test]
fn a_picture_that_stands_still_is_told_in_the_call_record() {
    let _turn = turn();
    let clip = Packetized::read(&media("face.mp4"), 1);
    let appliance = Appliance::start(&BARE);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    for (ms, video) in [(2000, Some(&clip)), (2000, None), (1500, Some(&clip))] {
        caller.stream(&answer, Duration::from_millis(ms), video);
    }
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let events = record["events"].as_array().expect("events");
    let of = |kind: &str| events.iter().find(|event| event["kind"] == kind).cloned().unwrap_or_default();
    assert_eq!(of("video.stalled")["data"]["packets"], "none", "{record:#}");
    let after = of("video.resumed")["data"]["after_ms"].as_u64();
    assert!(after.is_some_and(|ms| (1500..3500).contains(&ms)), "{record:#}");
    assert_eq!(record["video"]["pictures"]["stalls"], 1, "{record:#}");
}
