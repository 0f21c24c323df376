//! Calls whose media is protected: with keys in the SDP, with a handshake on the media path, and by policy.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::browser::Browser;
use crate::harness::capture::{Capture, Stream, streams_to};
use crate::harness::picture::{self, Clip, median_psnr};
use crate::harness::uac::Caller;
use crate::harness::{media, sound, turn};

/// The caller's own picture and sound come back as they were.
const AS_IT_WAS: [&str; 4] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[]}]"#,
    r#"agent.mirror={kind="mirror", audio="echo"}"#,
    "overlay.boxes=false",
    r#"overlay.watermark="""#,
];

fn appliance(more: &[&str]) -> Appliance {
    let settings: Vec<&str> = AS_IT_WAS.iter().chain(more).copied().collect();
    Appliance::start(&settings)
}

fn protected(protection: &'static str) -> Settings {
    Settings { protection: Some(protection), sound: media("tone700.wav"), ..Settings::default() }
}

/// Calls the appliance; asserts that picture and sound came back, and came protected.
fn assert_call_is_protected(appliance: &Appliance, uri: &str, settings: &Settings, via: &str) {
    let mut baresip = Baresip::start(settings);
    let capture = Capture::start(&[baresip.rtp_ports]);
    baresip.dial(uri);
    baresip.talk(Duration::from_secs(5));
    let shown = baresip.snapshot();
    baresip.hang_up();
    let name = settings.protection.unwrap_or_default();

    let psnr = median_psnr(&picture::read(&shown), &Clip::open("face.mp4"));
    assert!(psnr >= 26.0, "{name}: {psnr:.1} dB");
    let heard = sound::read(&baresip.heard(), 1).remove(0);
    let share = sound::tone_share(&heard, 700.0);
    assert!(share > 0.8, "{name}: {share:.2} of what comes back is the tone that was said");

    let streams = streams_to(&capture.finish(), baresip.rtp_ports);
    let audio = streams.iter().find(|stream| !stream.is_video()).expect("sound comes back");
    assert!(audio.packets.iter().all(|packet| packet.payload.len() > 160), "{name}: each carries a tag");
    let video = streams.iter().find(|stream| stream.is_video()).expect("pictures come back");
    assert!(video.packets.iter().all(|packet| packet.payload.len() <= 1_216), "{name}: none is too long");

    let record = appliance.call_record(appliance.recordings().last().expect("a recording"));
    for line in ["audio", "video"] {
        assert_eq!(record[line]["srtp_via"], via, "{name}: {record}");
        assert!(record[line]["srtp"].is_string() && record[line]["srtp_auth_failures"].is_null(), "{record}");
    }
    assert_eq!(record["end_reason"], "peer-hung-up");
}

#[test]
fn baresip_calls_with_keys_in_its_offer() {
    let _turn = turn();
    let appliance = appliance(&[]);
    assert_call_is_protected(&appliance, &appliance.uri(), &protected("srtp"), "sdes");
    let uri = format!("{};transport=tcp", appliance.uri());
    assert_call_is_protected(&appliance, &uri, &protected("srtp-mand"), "sdes");
}

#[test]
fn baresip_calls_and_shakes_hands() {
    let _turn = turn();
    let appliance = appliance(&[r#"media.srtp="required""#]);
    let uri = format!("{};transport=tcp", appliance.uri());
    assert_call_is_protected(&appliance, &uri, &protected("dtls_srtp"), "dtls");
}

#[test]
fn baresip_is_called_with_keys_in_the_offer_and_with_a_handshake() {
    let _turn = turn();
    for (policy, protection, via) in [("optional", "srtp", "sdes"), ("required", "dtls_srtp", "dtls")] {
        let baresip = Baresip::start(&Settings { answers: true, ..protected(protection) });
        let folder = tempfile::tempdir().unwrap();
        let output = eyeline()
            .current_dir(folder.path())
            .args(["call", &baresip.uri(), "--json", "--out", "received", "--duration", "4", "--video"])
            .arg(media("scene.mp4"))
            .args(["--set", &format!("media.srtp=\"{policy}\"")])
            .args(["--set", &format!("media.srtp_offer=\"{via}\"")])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{policy}, {via}: {told} {problem}; {}",
            baresip.process.last_words()
        );
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        for line in ["audio", "video"] {
            assert_eq!(report[line]["srtp_via"], via, "{policy}: {report}");
            assert!(report[line]["srtp"].as_str().is_some_and(|suite| suite.starts_with("AE")), "{report}");
            assert!(report[line]["packets_received"].as_u64() > Some(50), "{policy}: {report}");
        }
        let saved = std::fs::read_dir(folder.path().join("received")).unwrap().flatten();
        let file =
            saved.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|kind| kind == "mp4"));
        let file = file.expect("what was received is saved");
        let psnr = median_psnr(&picture::read(&file), &Clip::open("face.mp4"));
        assert!(psnr >= 28.0, "{policy}: {psnr:.1} dB");
        let heard = sound::read(&file, 2).remove(0);
        assert!(sound::tone_share(&heard, 700.0) > 0.8, "{policy}: the tone is heard");
    }
}

#[test]
fn where_protection_is_required_a_plain_call_is_refused() {
    let _turn = turn();
    let appliance = appliance(&[r#"media.srtp="required""#]);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    assert_eq!(answer.status, 488, "{answer:?}");
    assert!(appliance.recordings().is_empty());
}

/// What a third party can send: plain packets, packets of a wrong key, the first message of a handshake, a check.
fn disturb(to: (u16, u16)) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    let mut hello =
        vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 54, 1, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 42];
    hello.extend([0xfe, 0xfd]);
    hello.extend([7; 32]);
    hello.extend([0, 0, 0, 2, 0, 0, 1, 0]);
    for sequence in 0..30_u8 {
        let mut packet = vec![0x80, 0, 0, sequence, 0, 0, 0, sequence, 1, 2, 3, 4];
        packet.resize(182, sequence);
        for port in to.0..=to.1 {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            for datagram in [&packet, &hello, &vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3]] {
                let _ = socket.send_to(datagram, to);
            }
        }
    }
}

#[test]
fn a_third_party_neither_ends_the_call_nor_is_heard() {
    let _turn = turn();
    let appliance = appliance(&[]);
    for protection in ["srtp-mand", "dtls_srtp"] {
        let mut baresip = Baresip::start(&Settings { clip: None, ..protected(protection) });
        baresip.dial(&appliance.uri());
        baresip.talk(Duration::from_secs(1));
        for _ in 0..5 {
            disturb(appliance.rtp_ports);
            baresip.talk(Duration::from_millis(400));
        }
        baresip.talk(Duration::from_secs(1));
        let (_, metrics) = appliance.get("/metrics").expect("metrics");
        let counted = |name: &str| {
            let of_name = metrics.lines().filter(|line| line.starts_with(name));
            of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        assert!(counted("eyeline_srtp_auth_failures_total") >= 100.0, "{protection}: {metrics}");
        baresip.hang_up();
        let heard = sound::read(&baresip.heard(), 1).remove(0);
        let share = sound::tone_share(&heard, 700.0);
        assert!(share > 0.8, "{protection}: {share:.2} of what comes back is the tone that was said");
    }
}

#[test]
fn a_peer_that_never_shakes_hands_is_hung_up_on() {
    let _turn = turn();
    let appliance = appliance(&[]);
    let mut caller = Caller::new(&appliance.uri());
    let offer = caller.offer(None).replace("RTP/AVP", "UDP/TLS/RTP/SAVP");
    let hash = vec!["AB"; 32].join(":");
    let answer = caller.invite(&format!("{offer}a=setup:active\r\na=fingerprint:sha-256 {hash}\r\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!caller.is_hung_up(Duration::from_secs(4)), "it has five seconds");
    assert!(caller.is_hung_up(Duration::from_secs(4)), "then the call ends");
    let record = appliance.call_record(&appliance.finished_recording());
    let reason = record["end_reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("protection-failed"), "{record}");
    assert_eq!(record["audio"]["packets_sent"], 0, "{record}");
}

#[test]
fn a_browser_is_checked_shakes_hands_and_may_change_its_network() {
    let _turn = turn();
    let appliance = appliance(&[]);
    for setup in ["actpass", "active"] {
        let (mut caller, mut browser) = (Caller::new(&appliance.uri()), Browser::new());
        let answer = caller.invite(&browser.offer(setup));
        assert_eq!(answer.status, 200, "{answer:?}");
        browser.take_answer(&answer.sdp);
        browser.talk(Duration::from_secs(3), 600.0);
        caller.overhear();
        let keyed = browser.keyed_after.expect("a handshake");
        assert!(keyed < Duration::from_millis(1_500), "{setup}: keys after {keyed:?}");
        assert_heard(&browser.heard, setup);
        browser.move_away();
        browser.talk(Duration::from_millis(300), 600.0);
        browser.talk(Duration::from_secs(2), 600.0);
        assert_heard(&browser.heard, setup);
        assert!(browser.checks_passed > 4 && browser.clear == 0, "{setup}: {} in the clear", browser.clear);
        caller.hang_up();
    }
}

/// The echo of 600 Hz, without a hole.
fn assert_heard(heard: &Stream, setup: &str) {
    let rate = heard.per_second();
    assert!((rate - 50.0).abs() < 3.0, "{setup}: {rate} packets a second");
    let bytes = heard.packets.iter().skip(20).flat_map(|packet| &packet.payload);
    let samples: Vec<f64> = bytes.map(|byte| sound::from_mu_law(*byte)).collect();
    let share = sound::tone_share(&samples, 600.0);
    assert!(share > 0.8, "{setup}: {share:.2} of what comes back is the tone that was said");
}

#[test]
fn a_call_that_renews_its_offer_keeps_its_keys() {
    let _turn = turn();
    let appliance = appliance(&[]);
    let mut baresip = Baresip::start(&Settings { clip: None, ..protected("srtp-mand") });
    baresip.dial(&appliance.uri());
    for _ in 0..3 {
        baresip.hold();
        baresip.talk(Duration::from_millis(700));
        baresip.resume();
        baresip.talk(Duration::from_millis(1_500));
    }
    baresip.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    assert_eq!(record["audio"]["srtp_auth_failures"], Value::Null, "{record}");
    let packets = |name: &str| record["audio"][name].as_u64().unwrap_or_default();
    assert!(packets("packets_received") > 200 && packets("packets_lost") < 10, "{record}");
}
