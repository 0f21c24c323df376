//! One configuration of `examples/` for each use of an agent, as it stands there, with emulators in the place of its
//! models: `eyeline call` asks a question in it, the models get that question and what the caller shows, and the caller
//! hears the answer.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::emulators::anam::{self, Anam};
use crate::harness::emulators::models::{Quirks, Reply};
use crate::harness::emulators::providers::Providers;
use crate::harness::emulators::{gemini_live, openai_realtime};
use crate::harness::picture::{Clip, judge_face, read};
use crate::harness::process::output_of;
use crate::harness::sound::{self, level_db};
use crate::harness::{media, root, turn};
use crate::talk::{events, number, silence, spoken};
use crate::vendors::received;

/// What a caller asks, what transcribers make of it, and what models answer.
const QUESTION: &str = "What do you see in this picture right now?";
pub const HEARD: &str = "What do you see?";
pub const ANSWER: &str = "I see a person.";
/// The greeting is over then; the call is over then.
const ASKED_MS: usize = 6_000;
pub const CALL_S: usize = 13;

/// An example and the servers in the place of its providers: which section goes to which root.
struct Use {
    file: &'static str,
    behind: Behind,
    /// A censored picture goes with the question.
    sees: bool,
}

/// Three services of one vendor.
const OPENAI: Behind = Behind::Http {
    sections: &[("stt.openai", "v1"), ("llm.openai", "v1"), ("tts.openai", "v1")],
    keyless: false,
};

enum Behind {
    /// Sections, and the part of the path that belongs to `base_url`.
    Http {
        sections: &'static [(&'static str, &'static str)],
        keyless: bool,
    },
    OpenAiRealtime(&'static str),
    GeminiLive(&'static str),
    /// The section of a face of Anam, and those of the agent's models; without any the face does it all.
    Anam(&'static str, &'static [(&'static str, &'static str)]),
}

const USES: [Use; 9] = [
    Use {
        file: "voice-agent.toml",
        behind: Behind::Http {
            sections: &[("stt.deepgram", "v1"), ("llm.openai", "v1"), ("tts.deepgram", "v1")],
            keyless: false,
        },
        sees: false,
    },
    Use {
        file: "seeing-agent.toml",
        behind: Behind::Http {
            sections: &[
                ("stt.openai", "v1"),
                ("llm.openai", "v1"),
                ("llm.gemini", "v1beta"),
                ("tts.openai", "v1"),
            ],
            keyless: false,
        },
        sees: true,
    },
    Use {
        file: "local-models.toml",
        behind: Behind::Http {
            sections: &[("stt.local", "v1"), ("llm.local", "v1"), ("tts.local", "v1")],
            keyless: true,
        },
        sees: true,
    },
    Use { file: "realtime-openai.toml", behind: Behind::OpenAiRealtime("realtime.openai"), sees: true },
    Use { file: "realtime-gemini.toml", behind: Behind::GeminiLive("realtime.gemini"), sees: true },
    Use { file: "parcel-watcher.toml", behind: OPENAI, sees: true },
    Use { file: "door-with-unlock.toml", behind: OPENAI, sees: true },
    Use {
        file: "anam.toml",
        behind: Behind::Anam(
            "avatar.face",
            &[("stt.deepgram", "v1"), ("llm.openai", "v1"), ("tts.deepgram", "v1")],
        ),
        sees: false,
    },
    Use { file: "avatar-agent.toml", behind: Behind::Anam("avatar.guide", &[]), sees: false },
];

/// The servers of one use while it runs.
enum Servers {
    Http(Providers),
    OpenAiRealtime(openai_realtime::Shared, #[expect(dead_code, reason = "runs")] Box<dyn Send>),
    GeminiLive(gemini_live::Shared, #[expect(dead_code, reason = "runs")] Box<dyn Send>),
    Anam(Anam, Option<Providers>),
}

/// Models of vendors and what leads there.
fn models(sections: &[(&str, &str)], keyless: bool) -> (Providers, Vec<String>) {
    let providers = Providers::start();
    providers.hear(&[HEARD]);
    providers.quirks(Quirks { keyless, ..Quirks::default() });
    providers.answer(|_| Reply { text: ANSWER.to_owned(), calls: Vec::new() });
    let settings = sections.iter().flat_map(|(section, root)| {
        let [url, key] = keyed(section, &providers.root(root), "key");
        [Some(url), (!keyless).then_some(key)].into_iter().flatten()
    });
    let settings = settings.collect();
    (providers, settings)
}

fn keyed(section: &str, url: &str, key: &str) -> [String; 2] {
    [format!(r#"{section}.base_url="{url}""#), format!(r#"{section}.api_key="{key}""#)]
}

impl Behind {
    /// Starts them; the settings that lead there. Nothing but addresses and keys is set over the example.
    fn start(&self) -> (Servers, Vec<String>) {
        match self {
            Behind::Http { sections, keyless } => {
                let (providers, settings) = models(sections, *keyless);
                (Servers::Http(providers), settings)
            }
            Behind::OpenAiRealtime(section) => {
                let rules = Arc::new(Mutex::new(openai_realtime::Rules::default()));
                let say = |ms, words: &str| openai_realtime::Answer::Speak { ms, words: words.to_owned() };
                openai_realtime::lock(&rules).answers.extend([say(2_000, "Hello."), say(1_000, ANSWER)]);
                let (server, url) = openai_realtime::start(&rules);
                (Servers::OpenAiRealtime(rules, Box::new(server)), keyed(section, &url, "key").into())
            }
            Behind::GeminiLive(section) => {
                let rules = Arc::new(Mutex::new(gemini_live::Rules::default()));
                let say = |ms, words: &str| gemini_live::Answer::Speak { ms, words: words.to_owned() };
                gemini_live::lock(&rules).answers.extend([say(2_000, "Hello."), say(1_000, ANSWER)]);
                let (server, url) = gemini_live::start(&rules);
                (Servers::GeminiLive(rules, Box::new(server)), keyed(section, &url, "key").into())
            }
            Behind::Anam(section, sections) => {
                let anam = Anam::start();
                anam.rules(|rules| {
                    (rules.understands, rules.reply) = (HEARD.to_owned(), ANSWER.to_owned());
                });
                let mut settings = keyed(section, &anam.root(), anam::KEY).to_vec();
                let providers = (!sections.is_empty()).then(|| {
                    let (providers, more) = models(sections, false);
                    settings.extend(more);
                    providers
                });
                (Servers::Anam(anam, providers), settings)
            }
        }
    }
}

/// The question in a file as long as the call, and the clip at a pace that leaves room for the other calls.
pub fn make_media(folder: &Path) {
    let question = spoken(QUESTION);
    let rest = CALL_S * 1_000 - ASKED_MS - question.len() / 8 + 1_000;
    sound::write(&folder.join("question.wav"), &[silence(ASKED_MS), question, silence(rest)].concat());
    output_of(
        Command::new("ffmpeg")
            .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-i"])
            .arg(media("face.mp4"))
            .args(["-an", "-r", "5", "-c:v", "libx264", "-preset", "ultrafast", "-qp", "16"])
            .arg(folder.join("face.mp4")),
    );
}

/// `eyeline call`: its report, and what it heard and said.
fn call(used: &Use, appliance: &Appliance, media: &Path, folder: &Path) -> (Value, Vec<Vec<f64>>) {
    let mut command = eyeline();
    command.current_dir(folder).args(["call", &format!("sip:100@{}", appliance.sip), "--json"]);
    command.args(["--out", "received", "--duration", &CALL_S.to_string(), "--codec", "pcmu", "--audio"]);
    command.arg(media.join("question.wav"));
    if used.sees || matches!(used.behind, Behind::Anam(..)) {
        command.arg("--video").arg(media.join("face.mp4"));
    } else {
        command.arg("--audio-only");
    }
    let output = command.output().expect("eyeline call runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}\n{problem}", used.file);
    let report: Value = serde_json::from_str(&text).expect("a report");
    // A picture of another kind, as when a face comes in, begins another file.
    let channels = received(folder, &report);
    (report, channels)
}

/// Seconds, from the end of the question, in which something is heard.
pub fn heard_after_the_question(channels: &[Vec<f64>]) -> Vec<f64> {
    let loud = |block: &[f64]| level_db(block) > -40.0;
    let blocks = |channel: &[f64]| -> Vec<bool> { channel.chunks_exact(160).map(loud).collect() };
    let (heard, said) = (blocks(&channels[0]), blocks(&channels[1]));
    let Some(end) = said.iter().rposition(|loud| *loud) else {
        let loud = heard.iter().filter(|loud| **loud).count();
        panic!("the question is in the recording: {} blocks, {} heard, {loud} loud", said.len(), heard.len());
    };
    let at = |n: usize| (n - end) as f64 * 0.02;
    heard.iter().enumerate().skip(end).filter(|(_, loud)| **loud).map(|(n, _)| at(n)).collect()
}

/// The picture shows the caller's room and not their face.
fn assert_censored(file: &str, jpeg: &[u8]) {
    let still = tempfile::Builder::new().suffix(".jpg").tempfile().expect("a temporary file");
    std::fs::write(still.path(), jpeg).expect("a file");
    let report = judge_face(&read(still.path()), &Clip::open("face.mp4"));
    assert_eq!((report.pictures, report.hidden, report.scene_kept), (1, 1, 1), "{file}: {report:?}");
}

/// The bytes of a picture in base64, from wherever it stands in an event.
fn jpeg_in(event: &Value) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let text = event.to_string();
    let from = text.find("/9j/")?;
    let data = text[from..].split('"').next()?;
    base64::engine::general_purpose::STANDARD.decode(data).ok()
}

fn is_loud(samples: &[i16]) -> bool {
    samples.iter().any(|sample| sample.unsigned_abs() > 3_000)
}

fn judge_models(used: &Use, providers: &Providers, record: &Value) {
    let file = used.file;
    let questions = providers.questions();
    let asked = questions.last().unwrap_or_else(|| panic!("{file}: no question: {record:#}"));
    assert_eq!(asked.said, HEARD, "{file}");
    assert_eq!(asked.newest.len(), usize::from(used.sees), "{file}: {record:#}");
    for picture in &asked.newest {
        assert_eq!(picture.media_type, "image/jpeg", "{file}");
        assert_censored(file, &picture.bytes);
    }
    let files = providers.heard();
    let streamed = providers.sessions().iter().map(|session| session.sound.len()).max();
    assert!(
        files.iter().any(|heard| is_loud(&heard.samples)) || streamed > Some(8_000),
        "{file}: the question was not heard: {} files, {streamed:?} bytes",
        files.len()
    );
}

/// What the servers got is what was asked and shown.
fn judge_servers(used: &Use, servers: &Servers, record: &Value) {
    let file = used.file;
    match servers {
        Servers::Http(providers) => judge_models(used, providers, record),
        Servers::Anam(anam, providers) => {
            if let Some(providers) = providers {
                judge_models(used, providers, record);
            }
            assert_eq!(anam.refused(), [""; 0], "{file}");
            let session = anam.sessions().into_iter().next().unwrap_or_else(|| panic!("{file}: {record:#}"));
            let heard = if providers.is_some() { &session.log.heard } else { &session.log.microphone };
            assert!(is_loud(heard), "{file}: {} samples: {record:#}", heard.len());
            assert!(session.ended.is_some_and(|(_, who)| who == "client"), "{file}: {:?}", session.ended);
            let figures = &record["conversation"]["avatar"]["figures"];
            // What is shown beside it, such as a disclosure, is drawn on it.
            assert!(number(figures, "pictures") > 250.0, "{file}: {record:#}");
        }
        Servers::OpenAiRealtime(rules, _) => {
            let rules = openai_realtime::lock(rules);
            assert_eq!(rules.refused, [""; 0], "{file}");
            let heard: usize = rules.seen.iter().map(|seen| seen.sound.len()).sum();
            assert!(heard > 8_000 * ASKED_MS / 1_000, "{file}: {heard} bytes of sound");
            let pictures: Vec<Vec<u8>> = rules.seen.iter().filter_map(|seen| jpeg_in(&seen.event)).collect();
            assert_censored(file, pictures.last().unwrap_or_else(|| panic!("{file}: {record:#}")));
        }
        Servers::GeminiLive(rules, _) => {
            let rules = gemini_live::lock(rules);
            assert_eq!(rules.refused, [""; 0], "{file}");
            let count = |kind: &str| rules.seen.iter().filter(|seen| seen.kind == kind).count();
            assert!(
                count("audio") > 200 && count("video") >= 3,
                "{file}: {} {}",
                count("audio"),
                count("video")
            );
        }
    }
}

fn judge(used: &Use, media: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (servers, mut settings) = used.behind.start();
    // A box on which tests run may be nearly full.
    settings.push("recording.min_free_gib=0".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let appliance = Appliance::start_with_file(&root().join("examples").join(used.file), &settings);
    let (report, channels) = call(used, &appliance, media, folder.path());
    assert_eq!((&report["result"], &report["end_reason"]), (&"ok".into(), &"hung-up".into()), "{report:#}");
    let record = appliance.call_record(&appliance.finished_recording());
    judge_servers(used, &servers, &record);
    let file = used.file;
    let transcripts: Vec<&Value> =
        events(&record, "transcript.final").iter().map(|event| &event["text"]).collect();
    assert_eq!(transcripts, [HEARD], "{file}: {record:#}");
    let replies = events(&record, "agent.reply");
    assert_eq!(replies.last().map(|reply| &reply["text"]), Some(&ANSWER.into()), "{file}: {record:#}");
    let heard = heard_after_the_question(&channels);
    let first = heard.first().copied().unwrap_or(f64::INFINITY);
    assert!(first < 4.0 && heard.len() >= 25, "{file}: {first} s, {} blocks: {record:#}", heard.len());
    println!("{file}: answered {first:.2} s after the question");
}

#[test]
fn every_use_of_an_agent_is_asked_and_answers() {
    let _turn = turn();
    let started = Instant::now();
    let media = tempfile::tempdir().expect("a temporary folder");
    make_media(media.path());
    // On a small box more at once come too late for the gate, and a model sees the slate.
    for together in USES.chunks(3) {
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
