//! Faces in calls of wide codecs: the agent's voice, or the caller's, is at its pitch where the face is made, and what the
//! caller hears of it as well. Calls of G.711 are in the other tests of faces.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::emulators::anam::OWN_HZ;
use crate::harness::emulators::face::frequency;
use crate::harness::face_measures::say;
use crate::harness::sound::{self, level_db, tone_share};
use crate::harness::{turn, wait_for};
use crate::minute::{Cast, Face, appliance, ask};
use crate::talk::silence;
use crate::vendors::{id_of, received};

/// As `eyeline call` and the API spell them.
const CODECS: [(&str, &str); 2] = [("opus", "opus"), ("g722", "G722")];
/// Said by an agent with a voice, and by a caller to one that hears by itself.
const AGENT_HZ: f64 = 440.0;
const CALLER_HZ: f64 = 600.0;

/// `eyeline call` with this codec, to the face of this name: how much of what it hears is the tone it should be.
fn call(appliance: &Appliance, face: &Face, (codec, spelt): (&str, &str)) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let spoken = folder.path().join("spoken.wav");
    let mut samples = silence(1_500);
    if face.turnkey {
        let step = CALLER_HZ * std::f64::consts::TAU / f64::from(sound::RATE);
        samples.extend((0..8_000).map(|n| (f64::from(n) * step).sin() * 0.5));
    }
    samples.extend(silence(7_000));
    sound::write(&spoken, &samples);
    let mut command = eyeline();
    command.current_dir(folder.path()).args([
        "call",
        &format!("sip:{}@{}", face.name, appliance.sip),
        "--json",
    ]);
    command.args([
        "--codec",
        codec,
        "--duration",
        "6",
        "--out",
        "received",
        "--size",
        "320x180",
        "--fps",
        "5",
    ]);
    command.arg("--audio").arg(spoken).stdout(Stdio::piped());
    let client = command.spawn().expect("eyeline call runs");
    let id = id_of(appliance, face.name);
    let there = wait_for(Duration::from_secs(5), || {
        let (_, call) = appliance.api("GET", &format!("/api/v1/calls/{id}"), "");
        (call["audio"]["codec"] == spelt
            && call["events"].as_array()?.iter().any(|event| event["kind"] == "avatar.connected"))
        .then_some(())
    });
    assert!(there.is_some(), "{}, {codec}: {:?}", face.name, appliance.live_calls());
    if face.turnkey {
        ask(appliance, &id)
    } else {
        say(appliance, &id, &"a".repeat(60))
    }
    let output = client.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_default();
    assert_eq!((&report["result"], &report["audio"]["codec"]), (&"ok".into(), &spelt.into()), "{text}");
    let heard = received(folder.path(), &report).swap_remove(0);
    let loud: Vec<f64> =
        heard.chunks_exact(800).filter(|block| level_db(block) > -30.0).flatten().copied().collect();
    assert!(loud.len() > 8_000, "{}, {codec}: {} samples of a voice", face.name, loud.len());
    tone_share(&loud, if face.turnkey { OWN_HZ } else { AGENT_HZ })
}

/// Hz that arrived where each face is made, as far as its server tells.
fn there(cast: &Cast) -> Vec<(&'static str, f64, f64)> {
    let (cloud, room) = (cast.liveavatar.heard(), cast.room.heard());
    let sessions = cast.anam.sessions();
    let heard = sessions.iter().find(|session| !session.log.heard.is_empty()).expect("a voice at Anam's");
    let hears =
        sessions.iter().find(|session| !session.log.microphone.is_empty()).expect("a caller at Anam's");
    // The tone of the caller alone, in the middle of it.
    let caller = &hears.log.microphone;
    let begin = caller.iter().position(|sample| sample.unsigned_abs() > 2_000).expect("the caller's tone");
    vec![
        ("raw", frequency(&cast.raw.state().heard, 16_000), AGENT_HZ),
        ("liveavatar", frequency(&cloud.0, cloud.1), AGENT_HZ),
        ("room", frequency(&room.0, room.1), AGENT_HZ),
        ("anam", frequency(&heard.log.heard, heard.log.rate), AGENT_HZ),
        ("turnkey", frequency(&caller[begin + 2_400..begin + 40_000], 48_000), CALLER_HZ),
    ]
}

#[test]
fn every_face_hears_and_is_heard_at_its_pitch_in_calls_of_wide_codecs() {
    let _turn = turn();
    for codec in CODECS {
        let cast = Cast::start();
        let faces = cast.faces();
        let appliance = appliance(&faces);
        let shares: Vec<f64> = std::thread::scope(|scope| {
            let appliance = &appliance;
            let calls: Vec<_> =
                faces.iter().map(|face| scope.spawn(move || call(appliance, face, codec))).collect();
            calls
                .into_iter()
                .map(|call| call.join().unwrap_or_else(|why| std::panic::resume_unwind(why)))
                .collect()
        });
        for (face, share) in faces.iter().zip(shares) {
            println!("{}, {}: {share:.2} of what comes back is the tone", face.name, codec.0);
            assert!(share > 0.85, "{}, {}: {share:.2} of what comes back is the tone", face.name, codec.0);
        }
        for (name, hz, wanted) in there(&cast) {
            println!("{name}, {}: {hz:.1} Hz there", codec.0);
            assert!((hz - wanted).abs() < 6.0, "{name}, {}: {hz:.1} Hz there", codec.0);
        }
        cast.liveavatar.assert_clean("liveavatar");
        cast.room.assert_clean("room");
    }
}
