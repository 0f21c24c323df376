//! Audio codecs beyond G.711 with real peers: what is heard at both ends and on disk, and keys at their clock.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::capture::{Capture, streams_to};
use crate::harness::{media, sound, turn, wait_for};

fn keys(record: &Value) -> String {
    let keys = record["digits"].as_array().into_iter().flatten();
    keys.filter_map(|key| key["digit"].as_str()).collect()
}

/// The record of the newest call.
fn newest(appliance: &Appliance, calls: usize) -> (std::path::PathBuf, Value) {
    let known = |recording: &std::path::PathBuf| recording.with_extension("json").exists();
    let found = wait_for(Duration::from_secs(12), || {
        let recordings = appliance.recordings();
        let written = |file: &std::path::PathBuf| file.metadata().and_then(|data| data.modified()).ok();
        (recordings.iter().filter(|file| known(file)).count() == calls)
            .then(|| recordings.into_iter().max_by_key(written))
            .flatten()
    });
    let recording =
        found.unwrap_or_else(|| panic!("no recording {calls}: {}", appliance.process.last_words()));
    let record = appliance.call_record(&recording);
    (recording, record)
}

#[test]
fn opus_and_g722_carry_a_tone_and_keys_both_ways() {
    let _turn = turn();
    let appliance = Appliance::start(&[r#"agent.mirror={kind="mirror", audio="echo"}"#]);
    for (calls, (spelled, name, clock)) in
        [("opus/48000/2", "opus", 48_000.0), ("g722/16000", "G722", 8_000.0)].into_iter().enumerate()
    {
        let settings = Settings {
            clip: None,
            sound: media("tone700.wav"),
            audio_codecs: spelled,
            ..Settings::default()
        };
        let mut baresip = Baresip::start(&settings);
        let capture = Capture::start(&[baresip.rtp_ports]);
        baresip.dial(&appliance.uri());
        baresip.talk(Duration::from_secs(2));
        baresip.press("7");
        let live = appliance.live_calls();
        assert_eq!(live[0]["audio"]["codec"], name, "{live:?}");
        let path = format!("/api/v1/calls/{}/dtmf", live[0]["id"].as_str().unwrap());
        assert_eq!(appliance.api("POST", &path, &json!({ "digits": "#" }).to_string()).0, 200);
        let pressed = baresip.event(Duration::from_secs(4), &["CALL_DTMF_START"]);
        assert_eq!(pressed.map(|(_, key)| key).as_deref(), Some("#"), "{name}");
        baresip.talk(Duration::from_secs(2));
        baresip.hang_up();

        let streams = streams_to(&capture.finish(), baresip.rtp_ports);
        let stream = streams.first().expect("sound comes back");
        let of_sound: Vec<_> =
            stream.packets.iter().filter(|packet| packet.payload_type == stream.payload_type()).collect();
        let (first, last) = (of_sound[10], of_sound[of_sound.len() - 1]);
        let ticks = f64::from(last.timestamp.wrapping_sub(first.timestamp)) / (last.at - first.at);
        assert!((ticks / clock - 1.0).abs() < 0.03, "{name}: {ticks:.0} ticks of the clock a second");

        let (recording, record) = newest(&appliance, calls + 1);
        assert_eq!(record["audio"]["codec"], name);
        assert_eq!(keys(&record), "7", "{name}");
        let [caller, agent] = <[Vec<f64>; 2]>::try_from(sound::read(&recording, 2)).expect("two channels");
        for (what, samples) in [
            ("heard by the caller", &sound::read(&baresip.heard(), 1)[0]),
            ("caller", &caller),
            ("agent", &agent),
        ] {
            let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
            let (share, level) = (sound::tone_share(middle, 700.0), sound::level_db(middle));
            assert!(share > 0.85 && level > -30.0, "{name}, {what}: {share:.2} of {level:.1} dB is the tone");
        }
    }
}

#[test]
fn the_client_offers_and_reports_the_codec_and_presses_keys_at_its_clock() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    for (calls, (word, name)) in [("opus", "opus"), ("g722", "G722")].into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let output = eyeline()
            .current_dir(folder.path())
            .args(["call", &appliance.uri(), "--json", "--out", "received", "--audio-only"])
            .args(["--codec", word, "--dtmf", "12#", "--duration", "3"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["audio"]["codec"], name, "{report}");
        let (recording, record) = newest(&appliance, calls + 1);
        assert_eq!((record["audio"]["codec"].as_str(), keys(&record).as_str()), (Some(name), "12#"));
        assert!(sound::level_db(&sound::read(&recording, 2)[1]) > -45.0, "{name}: the greeting is heard");
    }
}
