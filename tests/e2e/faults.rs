//! The inference child breaks in mid-call, again and again: no face comes back, none is recorded, the sound goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::appliance::Appliance;
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, Stream, streams_to};
use crate::harness::picture::{self, Clip, Picture, judge_face};
use crate::harness::uac::{Caller, Packetized, Sending};
use crate::harness::{media, sound, turn};

const TALK: Duration = Duration::from_secs(8);
/// The scripted caller's pictures a second; baresip sends 15 beside it.
const FPS: u32 = 30;
const HERTZ: f64 = 700.0;

/// Judges pictures of the face clip: each is a slate or hides the face. Returns how many there are.
fn assert_no_face(place: &str, clip: &Clip, pictures: &[Picture]) -> usize {
    let report = judge_face(pictures, clip);
    assert_eq!(report.hidden, report.pictures, "{place}: a face is seen: {report:?}");
    println!("{place}: {report:?}, {} slates", pictures.iter().filter(|picture| picture.is_slate()).count());
    report.pictures
}

/// How often the picture was withheld and came back.
fn recoveries(pictures: &[Picture]) -> usize {
    let slates: Vec<bool> = pictures.iter().map(Picture::is_slate).collect();
    // What precedes the first picture is not a recovery.
    let shown = slates.iter().position(|slate| !slate).unwrap_or(slates.len());
    slates[shown..].windows(2).filter(|pair| pair[0] && !pair[1]).count()
}

/// The echoed tone has neither holes in its packets nor stretches of silence.
fn assert_unbroken(place: &str, audio: &Stream, hiccup: f64) {
    let pairs = || audio.packets.windows(2);
    assert!(audio.packets.len() > 300, "{place}: {} packets", audio.packets.len());
    let steps = pairs().map(|pair| {
        (pair[1].sequence.wrapping_sub(pair[0].sequence), pair[1].timestamp.wrapping_sub(pair[0].timestamp))
    });
    let odd: Vec<_> = steps.filter(|step| *step != (1, 160)).collect();
    assert!(odd.is_empty(), "{place}: numbers and times of the sound go on evenly: {odd:?}");
    let widest = pairs().map(|pair| pair[1].at - pair[0].at).fold(0.0, f64::max);
    let widest_ms = widest * 1e3;
    assert!(
        widest <= 0.060 + hiccup,
        "{place}: {widest_ms:.0} ms without sound, the machine itself {hiccup:.3} s"
    );
    // The jitter buffer fills and the first packets of the peer come later than ours.
    let heard: Vec<f64> = audio
        .packets
        .iter()
        .skip(50)
        .flat_map(|packet| packet.payload.iter().map(|byte| sound::from_mu_law(*byte)))
        .collect();
    let silent = sound::longest_silence_ms(&heard, -40.0);
    assert!(silent <= 60, "{place}: {silent} ms of silence in the echo");
    let share = sound::tone_share(&heard, HERTZ);
    assert!(share > 0.9, "{place}: {share:.3} of the echo is the tone that was sent");
    println!("{place}: widest gap {widest_ms:.1} ms, silence {silent} ms, tone {share:.3}");
}

/// How late this machine wakes a thread that only waits: what a busy neighbour costs is not the appliance's doing.
struct Hiccups {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<f64>,
}

impl Hiccups {
    fn watch() -> Hiccups {
        const STEP: Duration = Duration::from_millis(10);
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let watching = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let start = Instant::now();
                std::thread::sleep(STEP);
                worst = worst.max(start.elapsed().saturating_sub(STEP));
            }
            worst.as_secs_f64()
        });
        Hiccups { stop, watching }
    }

    /// Seconds.
    fn worst(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.join().expect("it only sleeps")
    }
}

/// Two calls at once, baresip's and a faster one, while the child breaks as `plan` says. `least`: recoveries each
/// call must see.
fn withstands(plan: &str, least: usize) {
    let _turn = turn();
    let clip = Clip::open("face.mp4");
    let packets = Packetized::read(&media("face.mp4"), 1);
    let settings = [r#"agent.mirror={kind="mirror", audio="echo"}"#];
    let appliance = Appliance::start_in(&[("EYELINE_FAULTS", plan)], &settings);
    let mut baresip = Baresip::start(&Settings { sound: media("tone700.wav"), ..Settings::default() });
    let capture = Capture::start(&[baresip.rtp_ports]);
    baresip.dial(&appliance.uri());
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let sending =
        Sending { time: TALK, video: Some(&packets), fps: FPS, tone: Some(HERTZ), ..Sending::default() };
    let machine = Hiccups::watch();
    let received = caller.stream_as(&answer, &sending, |_, _| ());
    let hiccup = machine.worst();
    caller.hang_up();
    baresip.hang_up();
    let restarts = metric(&appliance, "eyeline_worker_restarts_total");
    let withheld = metric(&appliance, "eyeline_censor_blocked_frames_total");
    let captured = streams_to(&capture.finish(), baresip.rtp_ports);
    println!("{plan}: {restarts} restarts of the child, {withheld} pictures withheld");
    assert!(withheld >= 5.0, "the plan {plan} does strike");

    let video = captured.iter().find(|stream| stream.is_video()).expect("pictures come back to baresip");
    let audio = captured.iter().find(|stream| !stream.is_video()).expect("sound comes back to baresip");
    assert_unbroken("to baresip", audio, hiccup);
    assert_unbroken("to the fast caller", &received.audio, hiccup);
    let mut seen = 0;
    for (place, stream) in [("to baresip", video), ("to the fast caller", &received.video)] {
        let pictures = picture::read_h264(&stream.h264());
        seen += assert_no_face(place, &clip, &pictures);
        let recoveries = recoveries(&pictures);
        assert!(recoveries >= least, "{place}: pictures come again: {recoveries} times");
    }
    // Four plans: a thousand pictures and more. The one that hangs gives fewest: its slates come at ten a second.
    println!("{plan}: {seen} pictures judged");
    let fewest = if plan.starts_with("stall") { 220 } else { 250 };
    assert!(seen >= fewest, "{seen} pictures were judged");

    appliance.finished_recording();
    let recordings = appliance.recordings();
    assert_eq!(recordings.len(), 2, "{recordings:?}");
    for recording in &recordings {
        assert_recording(&appliance, recording, &clip, least);
    }
}

fn assert_recording(appliance: &Appliance, recording: &Path, clip: &Clip, least: usize) {
    let record = appliance.call_record(recording);
    assert!(record["recording"]["error"].is_null(), "{record}");
    let pictures = picture::read(recording);
    assert!(assert_no_face("recorded", clip, &pictures) >= 90, "{} pictures recorded", pictures.len());
    assert!(recoveries(&pictures) >= least, "the recording shows pictures again");
    let voices = sound::read(recording, 2);
    // Both begin within the first second and end with the call.
    for voice in &voices {
        let middle = &voice[8000..voice.len().saturating_sub(4000)];
        let silent = sound::longest_silence_ms(middle, -40.0);
        assert!(silent <= 60, "{silent} ms of silence in the recording: {record}");
    }
}

fn metric(appliance: &Appliance, name: &str) -> f64 {
    let (_, page) = appliance.get("/metrics").expect("the console answers");
    let line =
        page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {page}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn a_detector_that_is_killed_again_and_again() {
    withstands("kill:50", 2);
}

#[test]
fn a_detector_that_hangs() {
    withstands("stall:60:2500", 1);
}

#[test]
fn a_detector_that_loses_requests() {
    withstands("drop:40", 1);
}

#[test]
fn a_detector_that_fails_every_fifth_time() {
    withstands("fail:5", 3);
}
