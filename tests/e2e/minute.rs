//! Every kind of face at once, each in a call of its own, for a minute: at its end lips and voice are as near to each other
//! as at its beginning, and pictures that fit went through as they came.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::avatars::Server;
use crate::harness::appliance::Appliance;
use crate::harness::emulators::anam::{Anam, KEY};
use crate::harness::emulators::raw_avatar::RawAvatar;
use crate::harness::face_measures::{Mouth, drawn, edges, face_of, in_the_middle, lit, mouths, say, voices};
use crate::harness::process::usage_of_tree;
use crate::harness::uac::{Answer, Caller, Received, Sending};
use crate::harness::{turn, wait_for};
use crate::talk::number;
use crate::vendors::{Vendor, id_of};

const SECONDS: f64 = 63.0;
/// When each agent says a second and a half.
const SAID: [f64; 8] = [3.0, 11.0, 19.0, 27.0, 35.0, 43.0, 51.0, 59.0];
const LETTERS: usize = 38;
const LETTER_MS: usize = 40;
/// By how much lips may be away from the voice.
const APART_MS: f64 = 45.0;

/// One of the faces, and how its mouth is told.
pub struct Face {
    pub name: &'static str,
    /// `[avatar.NAME]`
    avatar: String,
    /// It speaks with a voice of its own.
    pub turnkey: bool,
    mouth: Mouth,
}

/// A server for each kind of face.
pub struct Cast {
    timed: Server,
    pub raw: RawAvatar,
    /// Of both modes.
    pub anam: Anam,
    pub liveavatar: Vendor,
    pub room: Vendor,
}

impl Cast {
    pub fn start() -> Cast {
        Cast {
            timed: Server::start(0, &[]),
            raw: RawAvatar::start(),
            anam: Anam::start(),
            liveavatar: Vendor::liveavatar(),
            room: Vendor::room(),
        }
    }

    pub fn faces(&self) -> [Face; 6] {
        let of_anam = |more: &str| {
            format!(r#"provider="anam", base_url="{}", api_key="{KEY}", {more}"#, self.anam.root())
        };
        let face = |name, avatar, mouth| Face { name, avatar, turnkey: false, mouth };
        let timed = format!(r#"provider="websocket", base_url="ws://127.0.0.1:{}/avatar""#, self.timed.port);
        let raw =
            format!(r#"provider="websocket", protocol="raw", base_url="{}", rate=16000"#, self.raw.url());
        let own = of_anam(r#"mode="microphone", persona_id="p-1""#);
        [
            face("timed", timed, drawn),
            face("raw", raw, in_the_middle),
            face("liveavatar", with_keys(r#"provider="liveavatar", avatar_id="own""#, &self.liveavatar), lit),
            face("room", with_keys(r#"provider="livekit", vendor="bey""#, &self.room), lit),
            face("anam", of_anam(r#"avatar_id="a-1""#), lit),
            Face { turnkey: true, ..face("turnkey", own, lit) },
        ]
    }
}

/// Lips after the voice in milliseconds, at each beginning and end of words from this second on.
fn offsets(received: &Received, mouth: Mouth) -> Vec<(f64, f64)> {
    let lips = edges(&mouths(&received.video, mouth));
    let nearest = |(at, opens): &(f64, bool)| {
        let same = lips.iter().filter(|(_, open)| open == opens).map(|(lip, _)| (lip - at) * 1_000.0);
        Some((*at, same.min_by(|a, b| a.abs().total_cmp(&b.abs()))?))
    };
    edges(&voices(&received.audio)).iter().filter_map(nearest).collect()
}

/// At the end as at the beginning.
fn judge(face: &Face, received: &Received, record: &Value) {
    let name = face.name;
    let all = offsets(received, face.mouth);
    let told: Vec<String> = all.iter().map(|(at, apart)| format!("{at:.0} s: {apart:.0}")).collect();
    println!("{name}: lips after the voice in ms: {}", told.join(", "));
    assert_eq!(all.len(), 2 * SAID.len(), "{name}: {record:#}");
    let late: Vec<f64> = all.iter().filter(|(at, _)| *at > 50.0).map(|(_, apart)| apart.abs()).collect();
    assert!(late.len() >= 4 && median(late) <= APART_MS, "{name}: {told:?}");
    assert!(median(all.iter().map(|(_, apart)| apart.abs()).collect()) <= APART_MS, "{name}: {told:?}");
    let figures = &face_of(record)["figures"];
    if name == "raw" {
        // It sends pictures while it speaks.
        assert!(
            number(figures, "encoded") > 400.0 && number(figures, "pictures") > 400.0,
            "{name}: {figures:#}"
        );
    } else {
        assert!(number(figures, "passed_through") > 1_000.0, "{name}: {figures:#}");
        assert_eq!((&figures["decoded"], &figures["encoded"]), (&0.into(), &0.into()), "{name}: {figures:#}");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn appliance(faces: &[Face]) -> Appliance {
    let mut settings = vec![
        format!(r#"tts.mock={{provider="mock", options={{tone_hz=440, letter_ms={LETTER_MS}}}}}"#),
        r#"stt.mock={provider="mock", options={text="Stop."}}"#.to_owned(),
        r#"llm.mock={provider="mock", options={text="Yes."}}"#.to_owned(),
        "recording.min_free_gib=0".to_owned(),
    ];
    let mut routes = Vec::new();
    for Face { name, avatar, turnkey, .. } in faces {
        settings.push(format!("avatar.{name}={{{avatar}}}"));
        let parts = if *turnkey {
            r#"kind="avatar""#
        } else {
            r#"kind="pipeline", stt="mock", llm="mock", tts="mock""#
        };
        settings.push(format!(r#"agent.{name}={{{parts}, greeting="", avatar="{name}"}}"#));
        routes.push(format!(r#"{{to="{name}", agent="{name}", detect=[]}}"#));
    }
    settings.push(format!("route=[{}]", routes.join(", ")));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Appliance::start(&settings)
}

#[test]
fn after_a_minute_lips_and_voice_of_every_face_are_together() {
    let _turn = turn();
    let cast = Cast::start();
    let faces = cast.faces();
    let appliance = appliance(&faces);
    let mut calls: Vec<(Caller, Answer, String)> = Vec::new();
    for Face { name, .. } in &faces {
        let mut caller = Caller::new(&format!("sip:{name}@{}", appliance.sip));
        let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
        calls.push((caller, answer, id_of(&appliance, name)));
    }
    let ids: Vec<String> = calls.iter().map(|(_, _, id)| id.clone()).collect();
    let (begun, before) = (Instant::now(), usage_of_tree(appliance.process.id()).cpu_s);
    let received: Vec<Received> = std::thread::scope(|scope| {
        let streams: Vec<_> =
            calls.iter_mut().map(|(caller, answer, _)| scope.spawn(move || listen(caller, answer))).collect();
        let letters = "a".repeat(LETTERS);
        for due in SAID {
            std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(begun.elapsed()));
            for (face, id) in faces.iter().zip(&ids) {
                if face.turnkey { ask(&appliance, id) } else { say(&appliance, id, &letters) }
            }
        }
        streams.into_iter().map(|stream| stream.join().expect("it streamed")).collect()
    });
    let share = (usage_of_tree(appliance.process.id()).cpu_s - before) / begun.elapsed().as_secs_f64();
    for (caller, ..) in &mut calls {
        caller.hang_up();
    }
    println!("{:.0} % of a core", share * 100.0);
    // Nothing spins: a session that woke itself took a core for itself.
    assert!(share < 0.9, "{:.0} % of a core", share * 100.0);
    for (face, (received, id)) in faces.iter().zip(received.iter().zip(&ids)) {
        judge(face, received, &record_of(&appliance, id));
    }
}

fn with_keys(provider: &str, vendor: &Vendor) -> String {
    let keys = vendor.keys().into_iter().map(|(key, text)| format!(", {key}={text}"));
    std::iter::once(provider.to_owned()).chain(keys).collect()
}

fn listen(caller: &mut Caller, answer: &Answer) -> Received {
    let time = Duration::from_secs_f64(SECONDS);
    caller.stream_as(answer, &Sending { time, sound: Some(&[]), ..Sending::default() }, |_, _| ())
}

/// Has the provider answer something by itself.
pub fn ask(appliance: &Appliance, id: &str) {
    let (status, answer) =
        appliance.api("POST", &format!("/api/v1/calls/{id}/text"), r#"{"text":"What time is it?"}"#);
    assert_eq!(status, 202, "{answer}");
}

/// The record of a call that has ended.
fn record_of(appliance: &Appliance, id: &str) -> Value {
    let found = wait_for(Duration::from_secs(8), || {
        let records = appliance.recordings().into_iter().map(|recording| recording.with_extension("json"));
        let read =
            records.filter_map(|record| serde_json::from_slice::<Value>(&std::fs::read(record).ok()?).ok());
        read.into_iter().find(|record| record["call_id"] == id || record["id"] == id)
    });
    found.unwrap_or_else(|| panic!("no record of {id}"))
}
