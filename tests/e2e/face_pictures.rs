//! The pictures of a face over real SIP calls, from a worker in a room: key pictures in time, what is coded anew because the
//! caller could not show it as it is, video that joins and leaves a call while a face speaks.

use std::time::Duration;

use serde_json::Value;

use crate::harness::appliance::Appliance;
use crate::harness::capture::{Rtp, Stream};
use crate::harness::emulators::face::Coding;
use crate::harness::emulators::livekit::{API_KEY, KEY, LiveKit, SECRET, WorkerSettings};
use crate::harness::face_measures::{LOUD_DB, edges, face_of, levels, listen, lit, mouths, offsets};
use crate::harness::picture::{self, Area};
use crate::harness::uac::{Caller, Sending};
use crate::harness::{turn, wait_for};
use crate::talk::{events, number};

/// A second of speech: 25 letters.
const VOICE: &str = r#"tts.mock={provider="mock", options={tone_hz=440, letter_ms=40}}"#;

/// `[avatar.NAME]` of a worker of this vendor, and more of it.
pub fn room_face(name: &str, kit: &LiveKit, more: &str) -> String {
    format!(
        r#"avatar.{name}={{provider="livekit", vendor="bey", base_url="http://{}", api_key="{API_KEY}", avatar_id="a-1", livekit_url="{}", livekit_api_key="{KEY}", livekit_api_secret="{SECRET}"{more}}}"#,
        kit.vendor.address,
        kit.url()
    )
}

/// An agent for each of these faces, under its number.
fn appliance(faces: &[(&str, String)]) -> Appliance {
    let mut settings = vec![
        VOICE.to_owned(),
        r#"stt.mock={provider="mock", options={text="Stop."}}"#.to_owned(),
        r#"llm.mock={provider="mock", options={text="Yes."}}"#.to_owned(),
        "recording.min_free_gib=0".to_owned(),
    ];
    let mut routes = Vec::new();
    for (name, face) in faces {
        settings.push(face.clone());
        settings.push(format!(
            r#"agent.{name}={{kind="pipeline", stt="mock", llm="mock", tts="mock", greeting="", avatar="{name}"}}"#
        ));
        routes.push(format!(r#"{{to="{name}", agent="{name}", detect=[]}}"#));
    }
    settings.push(format!("route=[{}]", routes.join(", ")));
    Appliance::start(&settings.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The record of the last of so many calls.
fn record_of(appliance: &Appliance, calls: usize) -> Value {
    let done = wait_for(Duration::from_secs(12), || {
        let done: Vec<_> =
            appliance.recordings().into_iter().filter(|file| file.with_extension("json").exists()).collect();
        (done.len() >= calls).then(|| done.last().cloned()).flatten()
    });
    appliance.call_record(&done.unwrap_or_else(|| panic!("{}", appliance.process.last_words())))
}

/// When key pictures came, in seconds.
fn keys(video: &Stream) -> Vec<f64> {
    let is_key = |packet: &&Rtp| match packet.payload.as_slice() {
        [first, header, ..] => first & 31 == 5 || (first & 31 == 28 && header & 0x9f == 0x85),
        _ => false,
    };
    let mut keys: Vec<&Rtp> = video.packets.iter().filter(is_key).collect();
    keys.dedup_by_key(|packet| packet.timestamp);
    keys.iter().map(|packet| packet.at).collect()
}

/// RFC 4585 §6.3.1.
const PICTURE_LOSS: [u8; 12] = [0x81, 206, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0];

/// RFC 5104 §4.3.1.
fn full_intra(number: u8) -> [u8; 20] {
    [0x84, 206, 0, 4, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, number, 0, 0, 0]
}

#[test]
fn the_first_picture_comes_at_once_and_a_wished_one_is_asked_of_the_provider() {
    let _turn = turn();
    let kit = LiveKit::start();
    kit.workers(WorkerSettings { late: Duration::from_millis(1_200), ..WorkerSettings::default() });
    let appliance = appliance(&[("100", room_face("100", &kit, ""))]);
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let line = format!("{}\na=rtcp-fb:97 ccm fir", Caller::h264_offer(1));
    let answer = caller.invite(&caller.offer(Some(&line)));
    // The first two while there is no face, the others while it is passed through.
    let wishes = [0.6, 1.0, 3.3, 4.2, 5.1, 6.0];
    let (mut sent, mut before) = (0, 0);
    let sending = Sending { time: Duration::from_secs(7), sound: Some(&[]), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, |lines, at| {
        if wishes.get(sent).is_none_or(|due| at.as_secs_f64() < *due) {
            return;
        }
        if sent == 2 {
            before = kit.heard().key_wishes;
        }
        let (socket, mut to) = lines.video;
        to.set_port(to.port() + 1);
        let mut feedback = vec![0x80, 201, 0, 1, 0, 0, 0, 7];
        if sent % 2 == 0 {
            feedback.extend(PICTURE_LOSS);
        } else {
            feedback.extend(full_intra(sent as u8));
        }
        let _ = socket.send_to(&feedback, to);
        sent += 1;
    });
    let asked = kit.heard().key_wishes - before;
    caller.hang_up();
    let keys = keys(&received.video);
    let first = keys.first().expect("a key picture");
    assert!(*first <= 0.2, "the first key picture after {first:.3} s");
    for wish in wishes {
        let met = keys.iter().find(|at| **at > wish).map_or(f64::INFINITY, |at| at - wish);
        println!("wished at {wish:.1} s, there {:.0} ms later", met * 1_000.0);
        assert!(met <= 0.5, "{met:.3} s after the wish at {wish}: {keys:.3?}");
    }
    assert!((4..=6).contains(&asked), "{asked} were asked of the provider for four wishes");
    let record = record_of(&appliance, 1);
    let figures = &face_of(&record)["figures"];
    assert_eq!((&figures["decoded"], &figures["encoded"]), (&0.into(), &0.into()), "{record:#}");
    assert!(number(figures, "passed_through") > 80.0, "{record:#}");
    assert!(number(figures, "keys") >= 4.0, "{record:#}");
}

/// What is shown where FFmpeg is told to keep pictures for a look.
fn keep(video: &Stream, name: &str) {
    if let Some(folder) = std::env::var_os("EYELINE_KEEP_PICTURES") {
        std::fs::write(std::path::Path::new(&folder).join(name), video.h264()).expect("a writable folder");
    }
}

/// Neither lips nor the bar that moves, nor letters.
const GROUND: Area = Area { left: 100, top: 120, right: 200, bottom: 200 };

#[test]
fn a_face_the_caller_could_not_show_as_it_is_or_that_is_drawn_on_is_coded_anew_in_step() {
    let _turn = turn();
    let kit = LiveKit::start();
    let marked = r#", watermark="NOBODY IS HERE", transforms=["invert"]"#;
    let appliance = appliance(&[
        ("100", room_face("100", &kit, "")),
        ("200", room_face("200", &kit, "")),
        ("300", room_face("300", &kit, marked)),
    ]);
    let text = "a".repeat(30);
    let texts = [(1.6, text.as_str())];
    let (usual, mut ground) = (WorkerSettings::default(), f64::NAN);
    let cases = [
        ("100", "42e01f", WorkerSettings { coding: Coding::Vp8, ..usual.clone() }),
        // 396 macroblocks: 352x288.
        ("200", "42e00d", usual.clone()),
        ("300", "42e01f", usual),
    ];
    for (number_of_call, (name, level, worker)) in cases.into_iter().enumerate() {
        kit.workers(worker);
        let mut caller = Caller::new(&format!("sip:{name}@{}", appliance.sip));
        let line = Caller::h264_offer(1).replace("42e01f", level);
        let answer = caller.invite(&caller.offer(Some(&line)));
        let sending = Sending { time: Duration::from_millis(4_500), sound: Some(&[]), ..Sending::default() };
        let received = listen(&appliance, &mut caller, &answer, &sending, &texts, |_| ());
        caller.hang_up();
        keep(&received.video, &format!("face-{name}.h264"));
        let record = record_of(&appliance, number_of_call + 1);
        let figures = &face_of(&record)["figures"];
        let shown = picture::read_h264(&received.video.h264());
        if name == "300" {
            // What was dark is bright.
            let inverted = shown.last().expect("a picture").mean(GROUND);
            println!("300: {ground:.0} has become {inverted:.0}, {figures}");
            assert!((inverted - (251.0 - ground)).abs() < 30.0, "{ground:.0} has become {inverted:.0}");
        } else {
            ground = shown.last().expect("a picture").mean(GROUND);
            let apart = offsets(&received, lit);
            println!("{name}: lips later by {apart:.0?} ms, {figures}");
            assert_eq!(apart.len(), 2, "{name}: {apart:?} {record:#}");
            // Two single edges, to a picture of 40 ms and a block of 20 ms, coded on a machine that does other things.
            assert!(apart.iter().all(|apart| apart.abs() <= 80.0), "{name}: {apart:?} {record:#}");
        }
        let (decoded, encoded) = (number(figures, "decoded"), number(figures, "encoded"));
        assert!(decoded > 60.0 && encoded > 50.0, "{name}: {record:#}");
        assert_eq!(number(figures, "passed_through"), 0.0, "{name}: {record:#}");
    }
}

#[test]
fn video_joins_and_leaves_a_call_while_its_agent_speaks_and_not_a_word_is_lost() {
    let _turn = turn();
    let kit = LiveKit::start();
    let appliance = appliance(&[("100", room_face("100", &kit, ""))]);
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let sending =
        |millis| Sending { time: Duration::from_millis(millis), sound: Some(&[]), ..Sending::default() };
    let (short, long) = ("a".repeat(60), "a".repeat(100));
    // Sound alone: no session, a voice all the same; it goes on while video joins.
    let answer = caller.invite(&caller.offer(None));
    let alone = listen(&appliance, &mut caller, &answer, &sending(1_500), &[(0.3, &short)], |_| ());
    assert_eq!(kit.sessions(), (0, 0), "nobody could see a face");
    let answer = caller.reinvite(&caller.offer(Some(&Caller::h264_offer(1))));
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = listen(&appliance, &mut caller, &answer, &sending(4_500), &[(2.5, &long)], |_| ());
    assert_eq!(kit.sessions(), (1, 1), "{:?}", kit.refused());
    let answer = caller.reinvite(&caller.offer(Some("m=video 0 RTP/AVP 97\na=rtpmap:97 H264/90000")));
    assert_eq!(answer.status, 200, "{answer:?}");
    let after = listen(&appliance, &mut caller, &answer, &sending(4_000), &[], |_| ());
    let given_back = wait_for(Duration::from_secs(3), || (kit.sessions().0 == 0).then_some(()));
    assert!(given_back.is_some(), "the session ends with the picture: {:?}", kit.sessions());
    caller.hang_up();
    let loud = [&alone, &seen, &after]
        .map(|part| levels(&part.audio).iter().filter(|(_, level)| *level > LOUD_DB).count() as f64 * 0.02);
    println!("{loud:.2?} s of voice");
    let whole: f64 = loud.iter().sum();
    let record = record_of(&appliance, 1);
    assert!((6.3..=6.6).contains(&whole), "{whole:.2} of 6.4 s: {loud:?} {record:#}");
    let first = seen.video.packets.first().expect("a picture").at;
    assert!(first <= 0.3, "the first picture {first:.3} s after video joined");
    let mouth = edges(&mouths(&seen.video, lit));
    let opened: Vec<f64> = mouth.iter().filter(|(_, open)| *open).map(|(at, _)| *at).collect();
    assert!(opened.len() == 1 && (2.5..3.8).contains(&opened[0]), "{mouth:?} {record:#}");
    assert_eq!(events(&record, "avatar.lost").len(), 0, "{record:#}");
}
