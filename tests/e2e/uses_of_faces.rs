//! The examples whose agents wear a face, as they stand there, with emulators in the place of vendors and models:
//! `eyeline call` asks a question, and the answer comes back through the face.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::avatars;
use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::emulators::models::{Quirks, Reply};
use crate::harness::emulators::providers::Providers;
use crate::harness::emulators::raw_avatar::RawAvatar;
use crate::harness::face_measures::face_of;
use crate::harness::{root, turn, wait_for};
use crate::talk::{events, number};
use crate::uses::{ANSWER, CALL_S, HEARD, heard_after_the_question, make_media};
use crate::vendors::{Vendor, received};

/// Who shows the face.
enum Shows {
    Timed(avatars::Server),
    Raw(RawAvatar),
    Vendor(Vendor),
}

struct Use {
    file: &'static str,
    shows: fn() -> Shows,
    /// Sections of its models; those on the own network want no key.
    models: &'static [&'static str],
    keyless: bool,
}

const OWN: &[&str] = &["stt.local", "llm.local"];
const VENDORS: &[&str] = &["stt.deepgram", "llm.openai", "tts.deepgram"];

const USES: [Use; 4] = [
    Use {
        file: "avatar-websocket.toml",
        shows: || Shows::Timed(avatars::Server::start(0, &[])),
        models: OWN,
        keyless: true,
    },
    Use { file: "avatar-raw.toml", shows: || Shows::Raw(RawAvatar::start()), models: OWN, keyless: true },
    Use {
        file: "liveavatar.toml",
        shows: || Shows::Vendor(Vendor::liveavatar()),
        models: VENDORS,
        keyless: false,
    },
    Use {
        file: "livekit-room.toml",
        shows: || Shows::Vendor(Vendor::room()),
        models: VENDORS,
        keyless: false,
    },
];

impl Shows {
    /// Nothing but addresses, keys and whose face it is is set over the example.
    fn settings(&self) -> Vec<String> {
        let keys = match self {
            Shows::Timed(server) => vec![("base_url", format!("\"ws://127.0.0.1:{}/avatar\"", server.port))],
            Shows::Raw(server) => vec![("base_url", format!("{:?}", server.url()))],
            Shows::Vendor(vendor) => vendor.keys(),
        };
        keys.into_iter().map(|(key, text)| format!("avatar.face.{key}={text}")).collect()
    }

    fn assert_over(&self, file: &str) {
        match self {
            Shows::Timed(_) => {}
            Shows::Raw(server) => {
                let over =
                    wait_for(std::time::Duration::from_secs(5), || (server.ledger() == (1, 1)).then_some(()));
                assert!(over.is_some(), "{file}: {:?}", server.ledger());
                assert_eq!(server.state().violations, [""; 0], "{file}");
            }
            Shows::Vendor(vendor) => vendor.assert_clean(file),
        }
    }
}

fn call(file: &str, appliance: &Appliance, media: &Path, folder: &Path) -> Vec<Vec<f64>> {
    let mut command = eyeline();
    command.current_dir(folder).args(["call", &format!("sip:100@{}", appliance.sip), "--json"]);
    command.args(["--out", "received", "--duration", &CALL_S.to_string(), "--codec", "pcmu", "--audio"]);
    command.arg(media.join("question.wav")).arg("--video").arg(media.join("face.mp4"));
    let output = command.output().expect("eyeline call runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}: {text}\n{problem}");
    let report: Value = serde_json::from_str(&text).expect("a report");
    assert_eq!((&report["result"], &report["end_reason"]), (&"ok".into(), &"hung-up".into()), "{report:#}");
    received(folder, &report)
}

fn judge(used: &Use, media: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, shows, providers) = (used.file, (used.shows)(), Providers::start());
    providers.hear(&[HEARD]);
    providers.quirks(Quirks { keyless: used.keyless, ..Quirks::default() });
    providers.answer(|_| Reply { text: ANSWER.to_owned(), calls: Vec::new() });
    let mut settings = shows.settings();
    for section in used.models {
        settings.push(format!("{section}.base_url={:?}", providers.root("v1")));
        settings.extend((!used.keyless).then(|| format!("{section}.api_key=\"key\"")));
    }
    // A box on which tests run may be nearly full.
    settings.push("recording.min_free_gib=0".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let appliance = Appliance::start_with_file(&root().join("examples").join(file), &settings);
    let channels = call(file, &appliance, media, folder.path());
    let record = appliance.call_record(&appliance.finished_recording());
    let transcripts: Vec<&Value> =
        events(&record, "transcript.final").iter().map(|event| &event["text"]).collect();
    assert_eq!(transcripts, [HEARD], "{file}: {record:#}");
    let replies = events(&record, "agent.reply");
    assert_eq!(replies.last().map(|reply| &reply["text"]), Some(&ANSWER.into()), "{file}: {record:#}");
    let heard = heard_after_the_question(&channels);
    let first = heard.first().copied().unwrap_or(f64::INFINITY);
    assert!(first < 5.0 && heard.len() >= 25, "{file}: {first} s, {} blocks: {record:#}", heard.len());
    let figures = &face_of(&record)["figures"];
    // Plain pictures are coded here, and what a disclosure stands on is coded anew.
    let shown = number(figures, "passed_through") + number(figures, "encoded");
    assert!(shown > 60.0, "{file}: {shown} pictures of the face: {record:#}");
    assert!(!events(&record, "avatar.connected").is_empty(), "{file}: {record:#}");
    assert!(number(figures, "turns") >= 1.0, "{file}: the answer came through the face: {record:#}");
    shows.assert_over(file);
    println!("{file}: answered {first:.2} s after the question, {shown} pictures of the face");
}

#[test]
fn every_example_with_a_face_answers_through_it() {
    let _turn = turn();
    let started = Instant::now();
    let media = tempfile::tempdir().expect("a temporary folder");
    make_media(media.path());
    for together in USES.chunks(2) {
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                together.iter().map(|used| scope.spawn(|| judge(used, media.path()))).collect();
            for call in calls {
                call.join().unwrap_or_else(|reason| std::panic::resume_unwind(reason));
            }
        });
    }
    println!("{} uses in {:.1} s", USES.len(), started.elapsed().as_secs_f64());
}
