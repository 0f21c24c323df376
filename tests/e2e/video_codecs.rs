//! Pictures that are not H.264: VP8 both ways with baresip and with our own client, VP9 and H.265 received from FFmpeg,
//! each looked at in what comes back and in what is recorded.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, Stream, streams_to};
use crate::harness::picture::{self, Clip, judge_face, median_psnr};
use crate::harness::process::Process;
use crate::harness::uac::Caller;
use crate::harness::{free_ports, media, turn};

/// Nothing hidden, nothing drawn.
const OPEN: [&str; 3] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[]}]"#,
    "overlay.boxes=false",
    r#"overlay.watermark="""#,
];

/// Calls with VP8 and this clip; the report, and the file of what came back.
fn call_with_vp8(appliance: &Appliance, clip: &str, folder: &Path) -> (serde_json::Value, PathBuf) {
    let output = eyeline()
        .current_dir(folder)
        .args(["call", &appliance.uri(), "--json", "--out", "received", "--duration", "5"])
        .args(["--video-codec", "vp8", "--kbps", "900", "--video"])
        .arg(media(clip))
        .output()
        .unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    let saved = std::fs::read_dir(folder.join("received")).unwrap().flatten().map(|entry| entry.path());
    let file = saved.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "mp4"));
    (serde_json::from_slice(&output.stdout).unwrap(), file.expect("what was received"))
}

#[test]
fn our_client_and_the_appliance_show_each_other_vp8() {
    let _turn = turn();
    let appliance = Appliance::start(&OPEN);
    let folder = tempfile::tempdir().unwrap();
    let (report, received) = call_with_vp8(&appliance, "scene.mp4", folder.path());
    assert_eq!(report["video"]["codec"], "VP8", "{report}");
    let recording = appliance.finished_recording();
    let record = appliance.call_record(&recording);
    assert_eq!(record["video"]["codec"], "VP8", "{record}");
    let (_, calls) = appliance.get("/api/v1/calls").unwrap_or_default();
    assert!(calls.contains(r#""codec":"VP8""#), "the console names the codec: {calls}");
    let clip = Clip::open("scene.mp4");
    for (what, file) in [("what came back", received), ("the recording", recording)] {
        let pictures = picture::read(&file);
        let psnr = median_psnr(&pictures, &clip);
        println!("{what}: {} pictures, {psnr:.1} dB", pictures.len());
        assert!(pictures.len() > 50 && psnr >= 28.0, "{what}: {} pictures, {psnr:.1} dB", pictures.len());
    }
}

#[test]
fn faces_are_hidden_in_vp8_too() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (_, received) = call_with_vp8(&appliance, "face.mp4", folder.path());
    let clip = Clip::open("face.mp4");
    for file in [received, appliance.finished_recording()] {
        let report = judge_face(&picture::read(&file), &clip);
        assert!(report.pictures > 50 && report.hidden == report.pictures, "{}: {report:?}", file.display());
        assert!(report.scene_kept * 10 >= report.pictures * 8, "{}: {report:?}", file.display());
    }
}

#[test]
fn baresip_sees_itself_in_vp8() {
    let _turn = turn();
    let appliance = Appliance::start(&OPEN);
    let mut baresip = Baresip::start(&Settings {
        video_codec: "vp8",
        clip: Some(media("scene.mp4")),
        ..Settings::default()
    });
    let capture = Capture::start(&[baresip.rtp_ports]);
    baresip.dial(&appliance.uri());
    baresip.talk(Duration::from_secs(5));
    let shown = baresip.snapshot();
    baresip.hang_up();
    let packets = capture.finish();
    let video = streams_to(&packets, baresip.rtp_ports).into_iter().find(Stream::is_video);
    let video = video.expect("pictures come back");
    // On a slow machine its libvpx does not keep up with its camera: as many come back as it sends.
    let (first, last) = baresip.rtp_ports;
    let elsewhere = [(0, first - 1), (last + 1, u16::MAX)];
    let sent = elsewhere.iter().flat_map(|ports| streams_to(&packets, *ports)).find(Stream::is_video);
    let (sent, back) = (sent.expect("pictures are sent").per_second(), video.per_second());
    assert!(sent >= 3.0 && back >= sent * 0.9, "{back:.2} of {sent:.2} fps");
    assert!(video.largest() <= 1200, "{} bytes", video.largest());
    let first = &video.packets[0].payload;
    assert!(first[0] == 0x90 && first[4] & 1 == 0, "it begins with a key frame: {:02x?}", &first[..8]);

    let clip = Clip::open("scene.mp4");
    let psnr = median_psnr(&picture::read(&shown), &clip);
    assert!(psnr >= 28.0, "what baresip shows: {psnr:.1} dB");
    let recording = appliance.finished_recording();
    let pictures = picture::read(&recording);
    let psnr = median_psnr(&pictures, &clip);
    assert!(pictures.len() as f64 > sent * 4.0 && psnr >= 28.0, "{} pictures, {psnr:.1} dB", pictures.len());
    assert_eq!(appliance.call_record(&recording)["video"]["codec"], "VP8");
}

/// FFmpeg sending a clip over RTP in real time, from a port of its own.
fn sender(clip: &str, encoder: &[&str], from: u16, to: u16, folder: &Path) -> Process {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-i"]).arg(media(clip));
    command.args(["-an", "-g", "15", "-b:v", "900k", "-t", "6"]).args(encoder);
    command.args(["-strict", "experimental", "-payload_type", "97", "-f", "rtp"]);
    command.arg(format!("rtp://127.0.0.1:{to}?localrtpport={from}&localrtcpport={}&pkt_size=1200", from + 1));
    Process::start("ffmpeg", &mut command, folder)
}

#[test]
fn vp9_and_h265_are_seen_and_recorded_while_nothing_is_sent() {
    let _turn = turn();
    let vp9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-lag-in-frames", "0"];
    let x265 = "repeat-headers=1:keyint=15:bframes=0:log-level=none";
    let h265 = ["-c:v", "libx265", "-preset", "ultrafast", "-tune", "zerolatency", "-x265-params", x265];
    let clip = Clip::open("scene.mp4");
    for (codec, encoder) in [("VP9", vp9), ("H265", h265)] {
        let appliance = Appliance::start(&OPEN);
        let folder = tempfile::tempdir().unwrap();
        let from = free_ports(2);
        let mut caller = Caller::new(&appliance.uri());
        let line = format!("m=video {from} RTP/AVP 97\na=rtpmap:97 {codec}/90000\na=sendrecv");
        let answer = caller.invite(&caller.offer(Some(&line)));
        assert_eq!((answer.status, answer.ports().len()), (200, 2), "{codec}: {answer:?}");
        let (_, video) = answer.sdp.rsplit_once("m=video").unwrap();
        assert!(video.contains("a=recvonly") && video.contains(&format!("97 {codec}/90000")), "{answer:?}");
        let ffmpeg = sender("scene.mp4", &encoder, from, answer.ports()[1], folder.path());
        let received = caller.stream(&answer, Duration::from_secs(6), None);
        caller.hang_up();
        assert!((received.audio.per_second() - 50.0).abs() < 3.0, "{codec}: sound goes on");
        let recording = appliance.finished_recording();
        let pictures = picture::read(&recording);
        let psnr = median_psnr(&pictures, &clip);
        println!("{codec}: {} pictures, {psnr:.1} dB", pictures.len());
        let few = || format!("{codec}: {} pictures, {psnr:.1} dB; {}", pictures.len(), ffmpeg.last_words());
        assert!(pictures.len() > 40 && psnr >= 28.0, "{}", few());
        let record = appliance.call_record(&recording);
        assert_eq!(
            (&record["video"]["codec"], &record["video"]["packets_sent"]),
            (&codec.into(), &0.into()),
            "{record}"
        );
    }
}
