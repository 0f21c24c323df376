//! The harness itself, proven between two baresips: what it says of a peer must be true before it judges Eyeline.

use std::time::Duration;

use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, streams_to};
use crate::harness::picture::{self, Clip, judge_face, median_psnr};
use crate::harness::process::usage_of_tree;
use crate::harness::sipp;
use crate::harness::uac::{Caller, Packetized};
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

#[test]
fn the_scripted_caller_talks_with_baresip() {
    let _turn = turn();
    let callee = Baresip::start(&Settings { answers: true, ..Settings::default() });
    let before = usage_of_tree(callee.process.id());
    let mut caller = Caller::new(&callee.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(0))));
    assert_eq!((answer.status, answer.ports().len()), (200, 2), "{answer:?}");
    let clip = Packetized::read(&media("scene.mp4"), 0);
    let received = caller.stream(&answer, Duration::from_secs(3), Some(&clip));
    caller.hang_up();
    assert!((received.audio.per_second() - 50.0).abs() < 3.0, "{}", received.audio.per_second());
    assert!(received.video.per_second() > 13.5, "{}", received.video.per_second());
    let report = judge_face(&picture::read_h264(&received.video.h264()), &Clip::open("face.mp4"));
    assert!(report.pictures > 35 && report.hidden == 0, "{report:?}");
    let used = usage_of_tree(callee.process.id());
    assert!(used.cpu_s > before.cpu_s && used.memory_mib > 5.0, "{used:?}");

    // Debian's baresip knows no fragmentation: its video line comes back with port 0, the sound goes on.
    let mut caller = Caller::new(&callee.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    assert_eq!((answer.status, answer.ports().last()), (200, Some(&0)), "{answer:?}");
    assert!(caller.stream(&answer, Duration::from_secs(1), None).audio.packets.len() > 40);
    caller.hang_up();
}

#[test]
fn sipp_calls_baresip() {
    let _turn = turn();
    let callee = Baresip::start(&Settings { answers: true, clip: None, ..Settings::default() });
    sipp::call(&callee.uri(), 5, 5);
}
