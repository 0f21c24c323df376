//! baresip calls the appliance: what comes back in picture and sound, over each transport and codec.

use std::time::Duration;

use crate::harness::appliance::Appliance;
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, Packet, Stream, streams_to};
use crate::harness::picture::{self, Clip, judge_face, median_psnr};
use crate::harness::{sound, turn};

/// Everything seen of one call of baresip to the appliance.
struct Call {
    setup: Duration,
    packets: Vec<Packet>,
    audio: Stream,
    video: Option<Stream>,
    heard: Vec<f64>,
    /// What baresip's display shows in mid-call.
    shown: Option<std::path::PathBuf>,
    _baresip: Baresip,
}

fn call(appliance: &Appliance, uri: &str, settings: &Settings, seconds: u64) -> Call {
    let mut baresip = Baresip::start(settings);
    let capture = Capture::start(&[baresip.rtp_ports, (appliance.sip.port(), appliance.sip.port())]);
    let setup = baresip.dial(uri);
    baresip.talk(Duration::from_secs(seconds));
    let shown = settings.clip.is_some().then(|| baresip.snapshot());
    baresip.hang_up();
    let packets = capture.finish();
    let streams = streams_to(&packets, baresip.rtp_ports);
    let audio = streams.iter().find(|stream| !stream.is_video()).expect("sound comes back").clone();
    let video = streams.into_iter().find(Stream::is_video);
    let heard = sound::read(&baresip.heard(), 1).remove(0);
    Call { setup, packets, audio, video, heard, shown, _baresip: baresip }
}

fn assert_sound_flows(call: &Call, payload_type: u8) {
    assert_eq!(call.audio.payload_type(), payload_type);
    let rate = call.audio.per_second();
    assert!((rate - 50.0).abs() < 2.0, "{rate} packets of sound a second");
    let level = sound::level_db(&call.heard);
    assert!(level > -45.0, "something is heard: {level:.1} dB");
}

#[test]
fn the_caller_sees_the_own_picture_with_boxes_and_the_face_hidden() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let call = call(&appliance, &appliance.uri(), &Settings::default(), 8);

    assert!(call.setup < Duration::from_secs(2), "answered after {:?}", call.setup);
    assert_sound_flows(&call, 0);
    let video = call.video.as_ref().expect("pictures come back");
    assert!(video.per_second() >= 14.0, "{:.2} fps", video.per_second());
    assert!(video.packet_kinds().iter().all(|kind| *kind < 24), "mode 0: {:?}", video.packet_kinds());

    let clip = Clip::open("face.mp4");
    let returned = judge_face(&picture::read_h264(&video.h264()), &clip);
    assert!(returned.pictures >= 100, "{returned:?}");
    assert_eq!(returned.hidden, returned.pictures, "no picture shows the face: {returned:?}");
    // The first pictures may be slates, until the first scan.
    assert!(returned.scene_kept * 10 >= returned.pictures * 9, "the scene is there: {returned:?}");
    assert!(returned.outlined * 10 >= returned.pictures * 7, "boxes are drawn: {returned:?}");
    let shown = judge_face(&picture::read(call.shown.as_ref().expect("a snapshot")), &clip);
    assert_eq!((shown.pictures, shown.hidden), (1, 1), "what baresip itself shows: {shown:?}");

    let recording = appliance.finished_recording();
    let recorded = judge_face(&picture::read(&recording), &clip);
    assert!(recorded.pictures >= 100, "{recorded:?}");
    assert_eq!(recorded.hidden, recorded.pictures, "no recorded picture shows the face: {recorded:?}");
    assert!(recorded.scene_kept * 10 >= recorded.pictures * 9, "{recorded:?}");
    let [caller, agent] = <[Vec<f64>; 2]>::try_from(sound::read(&recording, 2)).expect("two channels");
    let (caller, agent) = (sound::level_db(&caller), sound::level_db(&agent));
    assert!(caller > -45.0 && agent > -45.0, "caller left {caller:.1} dB, agent right {agent:.1} dB");
    assert!(appliance.call_record(&recording).is_object());
}

#[test]
fn without_censor_the_picture_comes_back_as_it_was() {
    let _turn = turn();
    let appliance = Appliance::start(&[
        r#"route=[{to="*", agent="mirror", censor=false, detect=[]}]"#,
        "overlay.boxes=false",
        r#"overlay.watermark="""#,
    ]);
    let call = call(&appliance, &appliance.uri(), &Settings::default(), 6);

    let video = call.video.as_ref().expect("pictures come back");
    assert!(video.per_second() >= 14.0, "{:.2} fps", video.per_second());
    let clip = Clip::open("face.mp4");
    let pictures = picture::read_h264(&video.h264());
    let psnr = median_psnr(&pictures, &clip);
    assert!(psnr >= 30.0, "{psnr:.1} dB");
    let report = judge_face(&pictures, &clip);
    assert!(report.hidden * 20 <= report.pictures, "the face is there when nothing hides it: {report:?}");
}

#[test]
fn the_first_picture_back_can_be_decoded_at_once() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let call = call(&appliance, &appliance.uri(), &Settings::default(), 2);
    let video = call.video.as_ref().expect("pictures come back");
    let kinds = video.packets.iter().map(|packet| packet.payload[0] & 31);
    let before_slice: Vec<u8> = kinds.clone().take_while(|kind| !matches!(kind, 1 | 5)).collect();
    assert!(before_slice.contains(&7) && before_slice.contains(&8), "parameter sets first: {before_slice:?}");
    assert_eq!(kinds.clone().find(|kind| matches!(kind, 1 | 5)), Some(5), "then a key picture");
    let first_sound = call.audio.packets[0].at;
    let wait = video.packets[0].at - first_sound;
    assert!(wait < 1.0, "first picture {wait:.2} s after the first sound");
}

#[test]
fn audio_only_calls_flow_in_mu_law_and_a_law() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    for (codec, payload_type) in [("pcmu", 0), ("pcma", 8)] {
        let settings = Settings { clip: None, audio_codecs: codec, ..Settings::default() };
        let call = call(&appliance, &appliance.uri(), &settings, 4);
        assert_sound_flows(&call, payload_type);
        assert!(call.video.is_none(), "{codec}: no video was offered, none comes");
    }
    let recordings = appliance.recordings();
    assert_eq!(recordings.len(), 2);
}

#[test]
fn an_audio_video_call_over_tcp_in_a_law() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let settings = Settings { audio_codecs: "pcma", ..Settings::default() };
    let call = call(&appliance, &format!("{};transport=tcp", appliance.uri()), &settings, 4);
    assert_sound_flows(&call, 8);
    assert!(call.video.as_ref().expect("pictures come back").per_second() >= 14.0);
    let port = appliance.sip.port();
    let signalling: Vec<&Packet> = call
        .packets
        .iter()
        .filter(|packet| packet.source.port() == port || packet.destination.port() == port)
        .collect();
    assert!(!signalling.is_empty() && signalling.iter().all(|packet| packet.is_tcp), "SIP stays on TCP");
}

#[test]
fn echo_returns_the_callers_own_voice() {
    let _turn = turn();
    let appliance = Appliance::start(&[r#"agent.mirror={kind="mirror", audio="echo"}"#]);
    let settings =
        Settings { clip: None, sound: crate::harness::media("tone700.wav"), ..Settings::default() };
    let call = call(&appliance, &appliance.uri(), &settings, 3);
    let share = sound::tone_share(&call.heard, 700.0);
    assert!(share > 0.8, "{share:.2} of what is heard is the tone that was sent");
}
