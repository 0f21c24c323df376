//! A library or a model that is not there: calls go on in sound, pictures that cannot be cleared stay away, and the
//! operator is told.

use std::time::Duration;

use crate::harness::appliance::Appliance;
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, Stream, streams_to};
use crate::harness::picture::{self, Clip, Picture, judge_face, median_psnr};
use crate::harness::{media, sound, turn, wait_for};

const ECHO: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;
const OPEN: &str = r#"route=[{to="*", agent="mirror", censor=false}]"#;

/// Calls with the face clip and the tone; what comes back in pictures, sound and words of the log.
fn call(appliance: &Appliance) -> (Vec<Picture>, Vec<f64>) {
    let settings = Settings { sound: media("tone700.wav"), ..Settings::default() };
    let mut baresip = Baresip::start(&settings);
    let capture = Capture::start(&[baresip.rtp_ports]);
    baresip.dial(&appliance.uri());
    baresip.talk(Duration::from_secs(4));
    baresip.hang_up();
    let streams = streams_to(&capture.finish(), baresip.rtp_ports);
    let video = streams.iter().find(|stream| stream.is_video()).map(Stream::h264).unwrap_or_default();
    (picture::read_h264(&video), sound::read(&baresip.heard(), 1).remove(0))
}

fn assert_only_slates_and_sound(settings: &[&str], reasons: &[&str]) {
    let _turn = turn();
    let appliance = Appliance::start_alive(&[settings, &[ECHO]].concat());
    // The console answers before the control loop has gone round for the first time.
    let page = wait_for(Duration::from_secs(5), || {
        let (status, page) = appliance.get("/readyz")?;
        assert_eq!(status, 503, "{page}");
        reasons.iter().all(|reason| page.contains(reason)).then_some(page)
    });
    let page =
        page.unwrap_or_else(|| panic!("the console names {reasons:?}: {:?}", appliance.get("/readyz")));
    let log = appliance.process.log();
    let loud = log.lines().find(|line| line.contains("ERROR")).unwrap_or_else(|| panic!("no error: {log}"));
    for reason in reasons {
        assert!(loud.contains(reason), "the log names {reason}: {loud}");
        assert!(page.contains(reason), "the console names {reason}: {page}");
    }
    let (pictures, heard) = call(&appliance);
    assert!(pictures.len() >= 45, "{} pictures come back", pictures.len());
    assert!(pictures.iter().all(Picture::is_slate), "only slates");
    assert!(sound::tone_share(&heard, 700.0) > 0.8, "the sound is echoed");
    let recorded = picture::read(&appliance.finished_recording());
    assert!(!recorded.is_empty() && recorded.iter().all(Picture::is_slate), "only slates are recorded");
    assert_eq!(appliance.get("/readyz").map(|(status, _)| status), Some(503));
}

/// Without a censor nothing needs a model: the picture comes back as it was.
fn assert_pictures_without_censor(settings: &[&str]) {
    let _turn = turn();
    let plain = [OPEN, ECHO, "overlay.boxes=false", r#"overlay.watermark="""#];
    let appliance = Appliance::start(&[settings, &plain].concat());
    let (pictures, _) = call(&appliance);
    let clip = Clip::open("face.mp4");
    let psnr = median_psnr(&pictures, &clip);
    assert!(psnr >= 30.0, "{psnr:.1} dB");
    let report = judge_face(&pictures, &clip);
    assert!(report.hidden * 20 <= report.pictures, "{report:?}");
}

#[test]
fn without_onnx_runtime_there_is_sound_and_a_slate() {
    let missing = r#"models.onnxruntime="/nonexistent/libonnxruntime.so""#;
    assert_only_slates_and_sound(&[missing], &["/nonexistent/libonnxruntime.so", "face"]);
    assert_pictures_without_censor(&[missing]);
}

#[test]
fn without_a_model_there_is_sound_and_a_slate() {
    let empty = tempfile::tempdir().expect("a folder");
    let missing = format!("models.dir=\"{}\"", empty.path().display());
    assert_only_slates_and_sound(&[&missing], &["eyeline models pull", "face"]);
    assert_pictures_without_censor(&[&missing]);
}
