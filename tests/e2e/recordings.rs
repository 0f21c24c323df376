//! What lies on disk: after a power cut, and when two calls run at once.

use std::time::{Duration, Instant};

use crate::harness::appliance::{Appliance, playable_seconds};
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, Stream, streams_to};
use crate::harness::picture::{self, Clip, Picture, judge_face};
use crate::harness::{media, sound, turn};

#[test]
fn a_recording_plays_to_within_two_seconds_of_kill_9() {
    let _turn = turn();
    let mut appliance = Appliance::start(&[]);
    let mut baresip = Baresip::start(&Settings::default());
    baresip.dial(&appliance.uri());
    let answered = Instant::now();
    baresip.talk(Duration::from_secs(8));
    appliance.process.signal(rustix::process::Signal::KILL);
    let lived = answered.elapsed().as_secs_f64();
    appliance.process.wait(Duration::from_secs(3)).expect("killed");

    let recordings = appliance.recordings();
    assert_eq!(recordings.len(), 1, "{recordings:?}");
    let seconds = playable_seconds(&recordings[0]);
    assert!(seconds >= lived - 2.0, "{seconds:.2} s of {lived:.2} s play");
    // Decodable to the end, not only listed: 15 pictures a second, a few at the start may be missing.
    let pictures = picture::read(&recordings[0]);
    assert!(pictures.len() as f64 >= (lived - 2.0) * 14.0, "{} pictures in {lived:.2} s", pictures.len());
    let report = judge_face(&pictures, &Clip::open("face.mp4"));
    assert_eq!(report.hidden, report.pictures, "{report:?}");
    assert_eq!(sound::read(&recordings[0], 2).len(), 2);
}

/// One of the two calls: what it sends and what its tone is.
struct Side {
    clip: &'static str,
    hertz: f64,
}

const SIDES: [Side; 2] = [Side { clip: "face.mp4", hertz: 700.0 }, Side { clip: "scene.mp4", hertz: 1100.0 }];

/// How many pictures look more like the other call's clip than like the own one. The slate before the first picture
/// looks like neither.
fn foreign_pictures(pictures: &[Picture], own: &Clip, other: &Clip) -> usize {
    let foreign = |picture: &&Picture| {
        let likeness = other.best(picture).1;
        likeness > LIKE_NOTHING_DB && own.best(picture).1 <= likeness
    };
    pictures.iter().filter(foreign).count()
}

/// Pictures of another scene, and the slate, are less alike than this.
const LIKE_NOTHING_DB: f64 = 15.0;

fn assert_own_sound(samples: &[f64], own: f64, other: f64, place: &str) {
    let (own, other) = (sound::tone_share(samples, own), sound::tone_share(samples, other));
    assert!(own > 0.5 && other < 0.001, "{place}: own tone {own:.3}, the other call's {other:.5}");
}

#[test]
fn two_calls_at_once_share_nothing() {
    let _turn = turn();
    let appliance = Appliance::start(&[r#"agent.mirror={kind="mirror", audio="echo"}"#]);
    let mut callers: Vec<Baresip> = SIDES
        .iter()
        .map(|side| {
            let sound = media(if side.hertz == 700.0 { "tone700.wav" } else { "tone1100.wav" });
            Baresip::start(&Settings { clip: Some(media(side.clip)), sound, ..Settings::default() })
        })
        .collect();
    let capture = Capture::start(&[callers[0].rtp_ports, callers[1].rtp_ports]);
    for caller in &mut callers {
        caller.dial(&appliance.uri());
    }
    callers[0].talk(Duration::from_secs(7));
    for caller in &mut callers {
        caller.hang_up();
    }
    let packets = capture.finish();
    let clips = SIDES.map(|side| Clip::open(side.clip));

    for (index, caller) in callers.iter().enumerate() {
        let (own, other) = (&clips[index], &clips[1 - index]);
        let video = streams_to(&packets, caller.rtp_ports).into_iter().find(Stream::is_video);
        let pictures = picture::read_h264(&video.expect("pictures come back").h264());
        assert!(pictures.len() >= 70, "{} pictures", pictures.len());
        assert_eq!(foreign_pictures(&pictures, own, other), 0, "caller {index} sees only the own clip");
        let heard = sound::read(&caller.heard(), 1).remove(0);
        assert_own_sound(&heard, SIDES[index].hertz, SIDES[1 - index].hertz, "heard");
        if index == 1 {
            // The face is masked in the other call; nothing may be masked here.
            let clear = pictures
                .iter()
                .filter(|picture| picture.psnr(&own.pictures[own.best(picture).0], None) > 24.0);
            assert!(clear.count() * 10 >= pictures.len() * 9, "no mask of the other call's face");
        } else {
            let report = judge_face(&pictures, own);
            assert_eq!(report.hidden, report.pictures, "{report:?}");
        }
    }

    appliance.finished_recording();
    let recordings = appliance.recordings();
    assert_eq!(recordings.len(), 2, "{recordings:?}");
    let mut found = [0, 0];
    for recording in &recordings {
        appliance.call_record(recording);
        let pictures = picture::read(recording);
        let index = usize::from(foreign_pictures(&pictures, &clips[0], &clips[1]) > pictures.len() / 2);
        found[index] += 1;
        assert_eq!(foreign_pictures(&pictures, &clips[index], &clips[1 - index]), 0, "{recording:?}");
        for channel in sound::read(recording, 2) {
            assert_own_sound(&channel, SIDES[index].hertz, SIDES[1 - index].hertz, "recorded");
        }
    }
    assert_eq!(found, [1, 1], "one recording of each call");
}
