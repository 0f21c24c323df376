//! The harness itself, proven between two baresips: what it says of a peer must be true before it judges Eyeline.

use std::time::Duration;

use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, streams_to};
use crate::harness::picture::{self, Clip, judge_face, median_psnr};
use crate::harness::{media, sound, turn};

#[test]
fn a_call_between_two_baresips_is_seen_as_it_is() {
    let _turn = turn();
    let callee =
        Baresip::start(&Settings { answers: true, sound: media("tone700.wav"), ..Settings::default() });
    let mut caller = Baresip::start(&Settings { clip: Some(media("scene.mp4")), ..Settings::default() });
    let capture = Capture::start(&[callee.rtp_ports, caller.rtp_ports]);

    let setup = caller.dial(&callee.uri());
    caller.talk(Duration::from_secs(4));
    let shown = caller.snapshot();
    caller.hang_up();
    let packets = capture.finish();

    assert!(setup < Duration::from_secs(2), "{setup:?}");
    let face = Clip::open("face.mp4");
    let streams = streams_to(&packets, caller.rtp_ports);
    let video = streams.iter().find(|stream| stream.is_video()).expect("video to the caller");
    assert!(video.per_second() > 13.5, "{} fps", video.per_second());
    assert!(video.packet_kinds().iter().all(|kind| *kind < 24), "single NAL units only");
    let pictures = picture::read_h264(&video.h264());
    let report = judge_face(&pictures, &face);
    assert!(pictures.len() > 50 && report.hidden == 0 && report.outlined == 0, "{report:?}");
    assert!(median_psnr(&pictures, &face) > 30.0, "{}", median_psnr(&pictures, &face));
    assert_eq!(judge_face(&picture::read(&shown), &face).hidden, 0);

    let audio = streams.iter().find(|stream| !stream.is_video()).expect("sound to the caller");
    assert!(audio.payload_type() == 0 && (audio.per_second() - 50.0).abs() < 3.0, "{}", audio.per_second());
    let heard = sound::read(&caller.heard(), 1).remove(0);
    assert!(sound::tone_share(&heard, 700.0) > 0.9, "{}", sound::tone_share(&heard, 700.0));

    let scene = Clip::open("scene.mp4");
    let to_callee = streams_to(&packets, callee.rtp_ports);
    let video = to_callee.iter().find(|stream| stream.is_video()).expect("video to the callee");
    assert!(median_psnr(&picture::read_h264(&video.h264()), &scene) > 30.0);
}
