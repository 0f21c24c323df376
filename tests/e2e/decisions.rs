//! Turns the operator's application has a word in, over real calls: a text by SIP MESSAGE, amended or vetoed before a
//! model's answer to it is heard.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::appliance::Appliance;
use crate::harness::emulators::providers::Providers;
use crate::harness::emulators::server::{Api, Exchange, Seen, Server};
use crate::harness::turn;
use crate::harness::uac::{Caller, Sending};
use crate::talk::{events, silence};

const PLAIN: &str = "Content-Type: text/plain\r\n";

/// The operator's application.
#[derive(Default)]
struct Application(Mutex<Vec<(Value, String, String)>>);

impl Api for Application {
    fn name(&self, _seen: &Seen) -> &'static str {
        "decisions"
    }

    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>) {
        let question = seen.json();
        let header = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        self.0.lock().expect("nobody panics").push((
            question.clone(),
            header("x-eyeline-timestamp"),
            header("x-eyeline-signature"),
        ));
        let verdict = match question["data"]["text"].as_str().unwrap_or_default() {
            "What do I owe?" => json!({"action": "amend", "text": "What do I owe? [12 euros]"}),
            "My card is 4111." => json!({"action": "veto", "reason": "payment"}),
            // This one comes too late to count.
            "Slow, please." => {
                std::thread::sleep(Duration::from_millis(600));
                json!({"action": "veto"})
            }
            _ => json!({"action": "proceed"}),
        };
        exchange.json(200, &verdict, &[]);
    }
}

#[test]
fn a_text_by_message_is_a_turn_that_the_application_may_amend_or_veto() {
    let _turn = turn();
    let (providers, application) = (Providers::start(), Arc::new(Application::default()));
    let decider = Server::start(application.clone());
    let root = providers.root("v1");
    let appliance = Appliance::start(&[
        &format!(r#"stt.s={{base_url="{root}", model="whisper-1", api_key="key"}}"#),
        &format!(r#"llm.l={{base_url="{root}", model="m", api_key="key"}}"#),
        r#"tts.t={provider="mock", options={letter_ms=5}}"#,
        r#"agent.a={kind="pipeline", stt="s", llm="l", tts="t", sight="off"}"#,
        &format!(r#"decisions={{url="http://{}/decide", secret="shared", timeout_ms=300}}"#, decider.address),
        r#"route=[{to="*", agent="a", detect=[]}]"#,
        "recording.min_free_gib=0",
    ]);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    for text in ["What do I owe?", "My card is 4111.", "Slow, please."] {
        assert!(caller.ask("MESSAGE", PLAIN, text).starts_with("SIP/2.0 200"));
        let quiet = silence(1_200);
        let sending =
            Sending { time: Duration::from_millis(1_200), sound: Some(&quiet), ..Sending::default() };
        caller.stream_as(&answer, &sending, |_, _| ());
    }
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let replies: Vec<&Value> = events(&record, "agent.reply").iter().map(|event| &event["text"]).collect();
    let expected =
        ["You said What do I owe? [12 euros] with 0 pictures.", "You said Slow, please. with 0 pictures."];
    assert_eq!(replies, expected, "{record:#}");
    assert_eq!(events(&record, "turn.vetoed")[0]["reason"], "payment");
    assert_eq!(events(&record, "decision.failed").len(), 1, "one came too late: {record:#}");
    // The model was asked ahead with the words as they came, and again with those of the application.
    let asked: Vec<String> = providers.questions().into_iter().map(|question| question.said).collect();
    assert!(asked.contains(&"What do I owe? [12 euros]".to_owned()), "{asked:?}");
    let questions = application.0.lock().expect("nobody panics");
    let (first, timestamp, signature) = &questions[0];
    assert_eq!((&first["kind"], &first["data"]["agent"]), (&json!("turn.completed"), &json!("a")));
    assert!(first["call"] == record["id"] && !timestamp.is_empty() && signature.starts_with("sha256="));
}
