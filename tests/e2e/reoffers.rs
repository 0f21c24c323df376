//! What a call becomes while it runs: video that comes and goes, hold and resume.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::appliance::{Appliance, playable_seconds};
use crate::harness::capture::Stream;
use crate::harness::picture::{self, Clip, judge_face};
use crate::harness::process::output_of;
use crate::harness::uac::{Answer, Caller, Packetized, Received};
use crate::harness::{media, turn, wait_for};

fn audio_and(caller: &Caller, video: Option<&str>, direction: &str) -> String {
    caller.offer(video).replace("a=sendrecv", &format!("a={direction}"))
}

/// All the time, without a hole.
fn assert_sound(stream: &Stream, seconds: f64, when: &str) {
    let due = seconds * 50.0;
    let count = stream.packets.len() as f64;
    assert!((count - due).abs() < 0.04 * due + 5.0, "{when}: {count} of {due} packets of sound");
    let hole = stream.packets.windows(2).map(|pair| pair[1].at - pair[0].at).fold(0.0, f64::max);
    assert!(hole < 0.1, "{when}: {hole:.2} s without sound");
}

fn first_picture(received: &Received) -> f64 {
    received.video.packets.first().map_or(f64::INFINITY, |packet| packet.at)
}

/// The kinds of tracks a file has.
fn tracks(file: &Path) -> String {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-show_entries", "stream=codec_type", "-of", "csv=p=0"]).arg(file);
    let text = output_of(&mut command);
    let mut kinds: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    kinds.sort();
    kinds.join(" ")
}

fn assert_accepted(answer: &Answer, ports: &[bool]) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let open: Vec<bool> = answer.ports().iter().map(|port| *port > 0).collect();
    assert_eq!(open, ports, "{answer:?}");
}

#[test]
fn video_joins_a_running_call_and_leaves_it_again() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    assert_accepted(&answer, &[true]);
    let before = caller.stream(&answer, Duration::from_secs(2), None);
    assert_sound(&before.audio, 2.0, "sound alone");

    let line = Caller::h264_offer(1);
    let answer = caller.reinvite(&caller.offer(Some(&line)));
    assert_accepted(&answer, &[true, true]);
    let video_port = answer.ports()[1];
    let with = caller.stream(&answer, Duration::from_secs(5), Some(&clip));
    assert_sound(&with.audio, 5.0, "with pictures");
    assert!(first_picture(&with) < 1.0, "first picture after {:.2} s", first_picture(&with));
    assert!(with.video.per_second() >= 13.0, "{:.2} fps", with.video.per_second());

    let answer = caller.reinvite(&caller.offer(Some("m=video 0 RTP/AVP 97\na=rtpmap:97 H264/90000")));
    assert_accepted(&answer, &[true, false]);
    // The last packets were on their way.
    caller.stream(&answer, Duration::from_millis(300), None);
    let after = caller.stream(&answer, Duration::from_secs(2), None);
    assert_sound(&after.audio, 2.0, "sound alone again");
    assert!(after.video.packets.is_empty(), "no picture after the video line was closed");
    let closed =
        wait_for(Duration::from_secs(4), || std::net::UdpSocket::bind(("127.0.0.1", video_port)).ok());
    assert!(closed.is_some(), "the video port is closed after its rest");
    caller.hang_up();
    let seen = judge_face(&picture::read_h264(&with.video.h264()), &Clip::open("face.mp4"));
    assert!(seen.pictures > 45 && seen.hidden == seen.pictures, "{seen:?}");

    let first = appliance.finished_recording();
    let record = appliance.call_record(&first);
    let name = first.file_name().and_then(|name| name.to_str()).expect("a name");
    let second = first.with_file_name(name.replace(".mp4", "-2.mp4"));
    let files = serde_json::json!([name, second.file_name().and_then(|name| name.to_str())]);
    assert_eq!(record["recording"]["files"], files, "{record}");
    assert_eq!((tracks(&first).as_str(), tracks(&second).as_str()), ("audio", "audio video"));
    let seconds = (playable_seconds(&first), playable_seconds(&second));
    assert!((1.5..3.5).contains(&seconds.0) && (6.0..9.0).contains(&seconds.1), "{seconds:?}");
    let kept = judge_face(&picture::read(&second), &Clip::open("face.mp4"));
    assert!(kept.pictures > 45 && kept.hidden == kept.pictures, "{kept:?}");
}

#[test]
fn three_rounds_of_hold_and_resume_with_sound_and_pictures_after_each() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let line = Caller::h264_offer(1);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&line)));
    assert_accepted(&answer, &[true, true]);
    caller.stream(&answer, Duration::from_secs(2), Some(&clip));
    let mut shown = Vec::new();
    for round in ["sendonly", "inactive", "inactive"] {
        let answer = caller.reinvite(&audio_and(&caller, Some(&line), round));
        assert_accepted(&answer, &[true, true]);
        let direction = if round == "sendonly" { "a=recvonly" } else { "a=inactive" };
        assert_eq!(answer.sdp.matches(direction).count(), 2, "{round} is answered: {answer:?}");
        let music = (round == "sendonly").then_some(&clip);
        caller.stream(&answer, Duration::from_millis(200), music);
        let held = caller.stream(&answer, Duration::from_secs(1), music);
        assert!(held.audio.packets.is_empty() && held.video.packets.is_empty(), "{round}: nothing comes");

        let answer = caller.reinvite(&caller.offer(Some(&line)));
        assert_accepted(&answer, &[true, true]);
        let resumed = caller.stream(&answer, Duration::from_secs(2), Some(&clip));
        assert_sound(&resumed.audio, 2.0, round);
        assert!(first_picture(&resumed) < 0.5, "{round}: {:.2} s to a picture", first_picture(&resumed));
        let video = &resumed.video;
        assert!(video.per_second() >= 12.0, "{round}: {:.2} fps", video.per_second());
        shown.push(video.h264());
    }
    caller.hang_up();
    for pictures in shown.iter().map(|stream| picture::read_h264(stream)) {
        assert!(pictures.len() > 20, "{} pictures can be decoded after a resume", pictures.len());
    }
    let recording = appliance.finished_recording();
    let seconds = playable_seconds(&recording);
    assert!(seconds > 10.0, "one file of the whole call: {seconds:.1} s");
    assert_eq!(appliance.recordings().len(), 1);
    assert_eq!(appliance.call_record(&recording)["end_reason"], "peer-hung-up");
}
