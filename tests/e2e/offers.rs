//! Offers no softphone at hand makes, by the scripted caller.

use std::time::Duration;

use crate::harness::appliance::Appliance;
use crate::harness::capture::Stream;
use crate::harness::picture::{self, Clip, judge_face};
use crate::harness::sipp;
use crate::harness::uac::{Caller, Packetized};
use crate::harness::{media, turn};

fn assert_audio(stream: &Stream) {
    let rate = stream.per_second();
    assert!(!stream.packets.is_empty() && (rate - 50.0).abs() < 2.0, "{rate:.1} packets of sound a second");
    assert_eq!(stream.payload_type(), 0);
}

fn one_mode_only(mode: u8) {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let clip = Packetized::read(&media("face.mp4"), mode);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(mode))));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.ports().len() == 2 && answer.ports().iter().all(|port| *port > 0), "{answer:?}");
    let format = answer.sdp.lines().find(|line| line.starts_with("a=fmtp:97 ")).unwrap_or_default();
    let says_one = format.contains("packetization-mode=1");
    assert_eq!(says_one, mode == 1, "the answer keeps the offered mode: {format:?}");

    let received = caller.stream(&answer, Duration::from_secs(6), Some(&clip));
    caller.hang_up();
    assert_audio(&received.audio);
    assert!(received.video.per_second() >= 14.0, "{:.2} fps", received.video.per_second());
    let kinds = received.video.packet_kinds();
    if mode == 0 {
        assert!(kinds.iter().all(|kind| *kind < 24), "mode 0 knows only whole NAL units: {kinds:?}");
    } else {
        assert!(kinds.iter().all(|kind| *kind <= 24 || *kind == 28), "{kinds:?}");
    }
    assert!(received.video.largest() <= 1300, "{} bytes in one packet", received.video.largest());
    let report = judge_face(&picture::read_h264(&received.video.h264()), &Clip::open("face.mp4"));
    assert!(report.pictures > 60 && report.hidden == report.pictures, "{report:?}");
    assert!(report.scene_kept * 10 >= report.pictures * 9, "{report:?}");
}

#[test]
fn an_offer_of_single_nal_mode_only() {
    one_mode_only(0);
}

#[test]
fn an_offer_of_fragmenting_mode_only() {
    one_mode_only(1);
}

#[test]
fn an_unusable_video_line_is_refused_with_port_0_and_sound_flows() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let unusable = [
        "m=video PORT RTP/AVP 98\na=rtpmap:98 H263-1998/90000\na=sendrecv",
        "m=video PORT UDP/TLS/RTP/SAVPF 97\na=rtpmap:97 H264/90000\na=sendrecv",
        "m=video 0 RTP/AVP 97\na=rtpmap:97 H264/90000",
    ];
    for line in unusable {
        let mut caller = Caller::new(&appliance.uri());
        let answer = caller.invite(&caller.offer(Some(line)));
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        let media: Vec<&str> = answer.media_lines().collect();
        assert!(
            media.len() == 2 && media[0].starts_with("audio ") && media[1].starts_with("video 0 "),
            "{answer:?}"
        );
        let received = caller.stream(&answer, Duration::from_secs(2), None);
        caller.hang_up();
        assert_audio(&received.audio);
        assert!(received.video.packets.is_empty(), "{line}");
    }
}

#[test]
fn bad_bodies_are_refused_and_nothing_is_left_of_them() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    for (body, status) in
        [("this is no SDP", 400), ("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n", 488)]
    {
        let mut caller = Caller::new(&appliance.uri());
        let answer = caller.invite(body);
        assert!((400..500).contains(&answer.status), "{status} expected: {answer:?}");
    }
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    assert_eq!(answer.status, 200, "good offers are still answered");
    assert_audio(&caller.stream(&answer, Duration::from_secs(2), None).audio);
    caller.hang_up();
    appliance.finished_recording();
    assert_eq!(appliance.recordings().len(), 1, "refused calls leave no file");
}

#[test]
fn every_call_of_sipps_own_scenario_succeeds() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    sipp::call(&appliance.uri(), 40, 10);
    let (status, _) = appliance.get("/readyz").expect("an answer");
    assert_eq!(status, 200, "ready for more after 40 calls");
}
