//! A model that describes what callers show: all the time for an agent that cannot see, when an application asks, and in
//! the place of an agent's own eyes. The model is an emulated server that speaks like OpenAI and takes strict schemas only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::appliance::Appliance;
use crate::harness::emulators::models::{Asked, Quirks, Reply};
use crate::harness::emulators::providers::Providers;
use crate::harness::emulators::server::Fault;
use crate::harness::picture::{Clip, judge_face, read};
use crate::harness::uac::{Answer, Caller, Packetized, Sending};
use crate::harness::{media, turn};
use crate::talk::{events, silence, spoken};

const NO_DISK: &str = "recording.min_free_gib=0";

fn says(text: impl Into<String>) -> Reply {
    Reply { text: text.into(), calls: Vec::new() }
}

fn seen(description: &str) -> Reply {
    let result = json!({ "description": description, "labels": ["person"], "text": "", "faces": 1, "confidence": 0.9 });
    says(result.to_string())
}

/// The model of `[vision]`, asked twice a second.
fn vision(root: &str) -> Vec<String> {
    vec![
        format!(r#"vision.base_url="{root}""#),
        r#"vision.model="eye""#.to_owned(),
        r#"vision.api_key="key""#.to_owned(),
        "vision.silent_fps=2.0".to_owned(),
        "vision.timeout_s=1.5".to_owned(),
        NO_DISK.to_owned(),
    ]
}

fn start(settings: Vec<String>) -> Appliance {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Appliance::start(&settings)
}

/// An agent with mock ears and voice, and a language model at `root`.
fn agent(root: &str, keys: &str) -> Vec<String> {
    vec![
        r#"stt.s={provider="mock", options={text="What do you see?"}}"#.to_owned(),
        r#"tts.t={provider="mock", options={tone_hz=440, letter_ms=20}}"#.to_owned(),
        format!(r#"llm.l={{base_url="{root}", model="words", api_key="key", sees={keys}"#),
        r#"talk.turn_detection="vad""#.to_owned(),
        r#"route=[{to="*", agent="a", detect=[]}]"#.to_owned(),
    ]
}

fn show(caller: &mut Caller, answer: &Answer, clip: &str, sound: Option<&[f64]>, seconds: f64) {
    let clip = Packetized::read(&media(clip), 1);
    let time = Duration::from_secs_f64(seconds);
    caller.stream_as(answer, &Sending { time, video: Some(&clip), sound, ..Sending::default() }, |_, _| ());
}

fn describe(appliance: &Appliance, body: &str) -> (u16, Value) {
    let call = appliance.current_call();
    appliance.api("POST", &format!("/api/v1/calls/{call}/describe"), body)
}

#[test]
fn an_agent_that_cannot_see_is_told_what_there_is_to_see_within_the_budget() {
    let _turn = turn();
    let providers = Providers::start();
    let number = AtomicUsize::new(0);
    providers.answer(move |asked: &Asked| match asked.structured.then(|| number.fetch_add(1, Ordering::Relaxed)) {
        None => says("I was told."),
        // Of no use, and asked about once more; then in a fence and with a comma too many.
        Some(0) => says("I see a man at a door."),
        Some(1) => says("```json\n{\"description\": \"A man at a door.\", \"labels\": [\"man\",], \"text\": \"\", \"faces\": 1, \"confidence\": 0.8}\n```"),
        Some(_) => seen("An empty hallway with a red chair."),
    });
    let root = providers.root("v1");
    let own = agent(&root, r#"false}"#);
    let keys = [
        r#"agent.a={kind="pipeline", stt="s", llm="l", tts="t", sight="continuous"}"#.to_owned(),
        "vision.budget_images=3".to_owned(),
        "vision.usd_per_million_in=100.0".to_owned(),
    ];
    let appliance = start([vision(&root), own, keys.to_vec()].concat());
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    show(&mut caller, &answer, "face.mp4", Some(&silence(2_500)), 2.5);
    show(&mut caller, &answer, "scene.mp4", Some(&silence(2_500)), 2.5);
    let before: Vec<bool> = providers.questions().iter().map(|question| question.structured).collect();
    assert_eq!(before, [true; 3], "pictures alone start no turn, and three are the budget");
    let (status, refused) = describe(&appliance, "{}");
    assert_eq!((status, &refused["error"]["code"]), (429, &json!("budget_spent")), "{refused}");
    let asks = [silence(300), spoken("What do you see in this picture right now?"), silence(3_000)].concat();
    show(&mut caller, &answer, "face.mp4", Some(&asks), asks.len() as f64 / 8_000.0);
    caller.hang_up();
    let questions = providers.questions();
    let (looks, words): (Vec<_>, Vec<_>) = questions.iter().partition(|question| question.structured);
    assert_eq!((looks.len(), words.len()), (3, 1), "{questions:?}");
    assert!(looks.iter().all(|look| look.pictures.len() == 1));
    assert!(words[0].pictures.is_empty(), "its own model gets no pictures");
    let told = "[what the camera shows now: An empty hallway with a red chair.]";
    assert!(
        words[0].said.starts_with(told) && words[0].said.ends_with("What do you see?"),
        "{}",
        words[0].said
    );
    let record = appliance.call_record(&appliance.finished_recording());
    let results = events(&record, "vision.result");
    assert_eq!(results.len(), 2, "{record:#}");
    assert_eq!(
        (&results[0]["description"], &results[0]["repaired"]),
        (&json!("A man at a door."), &json!(true))
    );
    assert_eq!((&results[1]["faces"], &results[1]["repaired"]), (&json!(1), &json!(false)));
    assert!(results[1]["age_ms"].as_u64().is_some_and(|age| age <= 1_500), "{record:#}");
    // 105 tokens a question, by the emulator; both answers of the first are paid.
    let costs: Vec<f64> = results.iter().filter_map(|result| result["cost_usd"].as_f64()).collect();
    assert!((costs[0] - 0.021).abs() < 1e-9 && (costs[1] - 0.0105).abs() < 1e-9, "{costs:?}");
    let spent = events(&record, "vision.budget_spent");
    assert_eq!((spent.len(), &spent[0]["images"]), (1, &json!(3)), "{record:#}");
    assert_eq!(events(&record, "agent.reply")[0]["text"], "I was told.");
}

#[test]
fn an_application_asks_what_there_is_to_see_of_any_call_and_always_has_an_answer() {
    let _turn = turn();
    let providers = Providers::start();
    providers.answer(|_| seen("A man in front of a shelf."));
    let routes = r#"route=[{to="off", agent="mirror", sight="off"}, {to="all", agent="mirror", sight="continuous", detect=[], censor=true},
        {to="*", agent="r", detect=[], censor=true}]"#;
    let more = [
        r#"agent.r={kind="record"}"#.to_owned(),
        routes.replace('\n', ""),
        r#"overlay.watermark="""#.to_owned(),
    ];
    let appliance = start([vision(&providers.root("v1")), more.to_vec()].concat());
    let sip = appliance.sip;
    let mut caller = Caller::new(&format!("sip:any@{sip}"));
    let answer = caller.invite(&caller.offer(None));
    caller.stream_as(&answer, &Sending { time: Duration::from_millis(300), ..Sending::default() }, |_, _| ());
    let (status, refused) = describe(&appliance, "{}");
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("no_picture")), "{refused}");
    caller.hang_up();
    for (to, seconds, status, code) in [("off", 0.5, 409, "no_vision"), ("all", 2.5, 200, "")] {
        let asked = providers.questions().len();
        let mut caller = Caller::new(&format!("sip:{to}@{sip}"));
        let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
        show(&mut caller, &answer, "face.mp4", None, seconds);
        assert_eq!(providers.questions().len() > asked, to == "all", "{to}");
        let (answered, body) = describe(&appliance, "{}");
        assert_eq!((answered, body["error"]["code"].as_str().unwrap_or_default()), (status, code), "{body}");
        caller.hang_up();
    }
    let mut caller = Caller::new(&format!("sip:any@{sip}"));
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    std::thread::scope(|scope| {
        let shows = scope.spawn(|| show(&mut caller, &answer, "face.mp4", None, 6.5));
        std::thread::sleep(Duration::from_millis(1_500));
        asks(&appliance, &providers);
        shows.join().expect("the call");
    });
    caller.hang_up();
    let told: Vec<Value> =
        appliance.recordings().iter().map(|recording| appliance.call_record(recording)).collect();
    let kinds = |kind: &str| told.iter().flat_map(|record| events(record, kind)).collect::<Vec<_>>();
    let asked = kinds("vision.result").into_iter().filter(|result| result["question"] == "Is there a shelf?");
    assert_eq!(asked.count(), 1, "{told:#?}");
    let failed = kinds("vision.failed").into_iter().filter(|failure| failure["code"] != "no_picture");
    assert_eq!(failed.count(), 2, "{told:#?}");
}

/// Questions about a call that nobody looks at otherwise.
fn asks(appliance: &Appliance, providers: &Providers) {
    let before = providers.questions().len();
    let (status, result) = describe(appliance, r#"{"question": "Is there a shelf?"}"#);
    assert_eq!((status, &result["description"]), (200, &json!("A man in front of a shelf.")), "{result}");
    assert_eq!((&result["faces"], &result["labels"]), (&json!(1), &json!(["person"])), "{result}");
    assert!(result["age_ms"].as_u64().is_some_and(|age| age <= 150), "{result}");
    let asked = providers.questions();
    assert_eq!(asked.len(), before + 1, "nobody looks unless somebody asks");
    let asked = asked.last().expect("a question");
    assert!(asked.said.starts_with("Is there a shelf?"), "{}", asked.said);
    is_censored(&asked.pictures[0].bytes);
    assert_eq!(describe(appliance, r#"{"what": 1}"#).0, 400);
    for (fault, code) in [(Fault::Hang, "model_too_slow"), (Fault::Status(500, None), "model_failed")] {
        providers.fault_always("chat", Some(fault));
        let began = Instant::now();
        let (status, failed) = describe(appliance, "{}");
        // A failing server may be tried until the time is over.
        let known = [code, "model_too_slow"].map(Value::from);
        assert!(status == 502 && known.contains(&failed["error"]["code"]), "{status} {failed}");
        assert!(began.elapsed() <= Duration::from_millis(2_500), "{:?}", began.elapsed());
    }
}

/// What left for the model hides the face.
fn is_censored(jpeg: &[u8]) {
    let file = tempfile::Builder::new().suffix(".jpg").tempfile().expect("a temporary file");
    std::fs::write(file.path(), jpeg).expect("a file");
    let report = judge_face(&read(file.path()), &Clip::open("face.mp4"));
    assert_eq!((report.pictures, report.hidden), (1, 1), "the face is hidden: {report:?}");
}

#[test]
fn a_model_that_refuses_pictures_is_asked_without_and_looks_through_another() {
    let _turn = turn();
    let (blind, eye) = (Providers::start(), Providers::start());
    blind.quirks(Quirks { blind: true, ..Quirks::default() });
    blind.answer(|asked| match asked.said.strip_prefix("The caller's camera shows now: ") {
        Some(shown) => says(format!("I am told: {shown}")),
        None => Reply { text: String::new(), calls: vec![("look".to_owned(), json!({}))] },
    });
    eye.answer(|_| seen("A man in front of a shelf."));
    let keys = [r#"agent.a={kind="pipeline", stt="s", llm="l", tts="t"}"#.to_owned()];
    let appliance =
        start([vision(&eye.root("v1")), agent(&blind.root("v1"), "true}"), keys.to_vec()].concat());
    let asks =
        [silence(1_200), spoken("What do you see in this picture right now?"), silence(3_500)].concat();
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    show(&mut caller, &answer, "face.mp4", Some(&asks), asks.len() as f64 / 8_000.0);
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    assert_eq!(
        events(&record, "agent.reply")[0]["text"],
        "I am told: A man in front of a shelf.",
        "{record:#}"
    );
    let unsupported = events(&record, "vision.unsupported");
    assert_eq!((unsupported.len(), &unsupported[0]["instead"]), (1, &json!("described")), "{record:#}");
    assert!(events(&record, "agent.failed").is_empty(), "{record:#}");
    assert_eq!(eye.questions().len(), 1, "once, by the tool");
}
