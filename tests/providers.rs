//! Links to language models, voices and transcribers against strict emulators of their vendors' APIs on loopback: words,
//! tools, pictures and sound both ways, what goes wrong and how it is got over. The emulators are proved by the vendors'
//! own Python SDKs.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests run servers and real processes in real time"
)]
#![allow(dead_code, reason = "the emulators serve other tests too")]

#[path = "e2e/harness/mod.rs"]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use eyeline::codec::g711::{self, Law};
use eyeline::media::frame::Size;
use eyeline::talk::link::{
    AskFigures, Http, LinkSettings, Models, Sound, Transcribers, Transcript, Transcription, Voices,
};
use eyeline::talk::message::{
    Delta, Endpoint, Failure, Finish, Image, ImageType, Message, Part, Request, Role, ToolCall, ToolSpec,
    Usage, Vendor,
};
use harness::emulators::audio::{LETTER_MS, tone};
use harness::emulators::deepgram::coded;
use harness::emulators::models::{Quirks, Reply};
use harness::emulators::providers::Providers;
use harness::emulators::server::{Fault, Pace};
use harness::sdks;
use serde_json::json;

/// The three vendors of language models: their emulator's name and the root of their API.
const MODELS: [(Vendor, &str, &str); 3] = [
    (Vendor::OpenAi, "chat", "v1"),
    (Vendor::Gemini, "generate", "v1beta"),
    (Vendor::Anthropic, "messages", ""),
];

fn endpoint(providers: &Providers, vendor: Vendor, version: &str) -> Endpoint {
    Endpoint {
        base_url: providers.root(version),
        model: "emulated".to_owned(),
        api_key: "key-1".to_owned(),
        voice: "alloy".to_owned(),
        timeout_ms: 400,
        ..Endpoint::new(format!("{vendor:?}"), vendor)
    }
}

fn quick() -> LinkSettings {
    LinkSettings {
        back_off: Duration::from_millis(20),
        beside_after: Duration::from_millis(150),
        rest: Duration::from_millis(300),
        ..LinkSettings::default()
    }
}

fn models(providers: &Providers, vendor: Vendor, version: &str) -> Models {
    Models::new(&Http::new(), vec![endpoint(providers, vendor, version)], quick())
}

fn asked(words: &str) -> Arc<Request> {
    Arc::new(Request { messages: vec![Message::text(Role::User, words)], ..Request::default() })
}

#[derive(Debug, Default)]
struct Answered {
    words: String,
    calls: Vec<ToolCall>,
    usage: Usage,
    finish: Option<Finish>,
    failure: Option<Failure>,
    figures: AskFigures,
}

async fn ask(models: &Models, request: Arc<Request>) -> Answered {
    let (mut answer, mut answered) = (models.ask(request), Answered::default());
    while let Some(delta) = answer.next().await {
        assert!(answered.finish.is_none() && answered.failure.is_none(), "nothing follows the end");
        match delta {
            Ok(Delta::Text(text)) => answered.words.push_str(&text),
            Ok(Delta::Call(call)) => answered.calls.push(call),
            Ok(Delta::Usage(usage)) => answered.usage = usage,
            Ok(Delta::Finish(finish)) => answered.finish = Some(finish),
            Err(failure) => answered.failure = Some(failure),
        }
    }
    answered.figures = answer.figures().clone();
    answered
}

#[tokio::test]
async fn each_vendors_model_sees_speaks_and_calls_tools() {
    for (vendor, api, version) in MODELS {
        let providers = Providers::start();
        // Every byte on its own: letters and JSON are cut in the middle.
        providers.pace(api, Pace { bytes: 1, ..Pace::default() });
        providers.answer(|asked| match asked.said.as_str() {
            "a red door" => Reply { text: "Grüße, eine rote Tür 🚪.".to_owned(), calls: vec![] },
            _ => Reply {
                text: "One moment.".to_owned(),
                calls: vec![("look".to_owned(), json!({ "at": "door" }))],
            },
        });
        let picture = [0xff, 0xd8, 1, 2, 3];
        let image =
            Arc::new(Image::given(1, ImageType::Jpeg, picture, Size { width: 8, height: 8 }, "a picture"));
        let user = Message {
            parts: vec![Part::Text("What is there?".to_owned()), Part::Image(image)],
            ..Message::text(Role::User, "")
        };
        let tool = ToolSpec {
            name: "look".to_owned(),
            description: "Looks.".to_owned(),
            parameters: json!({ "type": "object", "properties": { "at": { "type": "string" } } }),
        };
        let mut request = Request {
            instructions: "Be brief.".to_owned(),
            messages: vec![Message::text(Role::Assistant, "Hello."), user],
            tools: vec![tool],
            ..Request::default()
        };
        let models = models(&providers, vendor, version);
        let first = ask(&models, Arc::new(request.clone())).await;
        assert_eq!((first.words.as_str(), first.failure), ("One moment.", None), "{vendor:?}");
        assert_eq!(first.finish, Some(Finish::Tools), "{vendor:?}");
        assert_eq!(
            (first.calls[0].name.as_str(), first.calls[0].arguments.as_str()),
            ("look", "{\"at\":\"door\"}")
        );
        assert!(
            first.usage.input_tokens > 20 && first.usage.output_tokens == 7,
            "{vendor:?} {:?}",
            first.usage
        );
        let question = providers.questions().remove(0);
        assert_eq!(
            (question.said.as_str(), question.newest[0].bytes.as_slice()),
            ("What is there?", &picture[..])
        );

        let call = first.calls[0].clone();
        let answers = Some((call.id.clone(), call.name.clone()));
        request.messages.push(Message { calls: vec![call], ..Message::text(Role::Assistant, &first.words) });
        request.messages.push(Message { answers, ..Message::text(Role::Tool, "a red door") });
        let second = ask(&models, Arc::new(request)).await;
        assert_eq!((second.words.as_str(), second.failure), ("Grüße, eine rote Tür 🚪.", None), "{vendor:?}");
        assert_eq!(second.finish, Some(Finish::Stop), "{vendor:?}");
    }
}

#[tokio::test]
async fn what_goes_wrong_before_the_first_word_is_got_over() {
    for (vendor, api, version) in MODELS {
        for fault in [
            Fault::Status(429, Some("0.2".to_owned())),
            Fault::Status(500, None),
            Fault::Hang,
            Fault::GarbledAt(0),
            Fault::CutAfter(0),
            Fault::HangAfter(0),
        ] {
            let providers = Providers::start();
            providers.fault(api, fault.clone());
            let begin = Instant::now();
            let answered = ask(&models(&providers, vendor, version), asked("hi")).await;
            assert_eq!(
                answered.words, "You said hi with 0 pictures.",
                "{vendor:?} {fault:?} {:?}",
                answered.failure
            );
            assert_eq!(answered.figures.tries, 2, "{vendor:?} {fault:?}");
            let waited = begin.elapsed().as_millis();
            match fault {
                Fault::Status(429, _) => assert!((200..600).contains(&waited), "{waited} ms for Retry-After"),
                _ => assert!(waited < 1_000, "{vendor:?} {fault:?} {waited} ms"),
            }
        }
    }
}

#[tokio::test]
async fn what_goes_wrong_later_ends_the_answer_with_a_failure() {
    for (vendor, api, version) in MODELS {
        for (fault, failure) in [
            (Fault::CutAfter(4), Failure::Cut),
            (Fault::HangAfter(4), Failure::TooSlow(400)),
            (Fault::GarbledAt(4), Failure::Garbled(String::new())),
        ] {
            let providers = Providers::start();
            providers.fault(api, fault.clone());
            let answered = ask(&models(&providers, vendor, version), asked("hi")).await;
            assert!(
                "You said hi with 0 pictures.".starts_with(&answered.words) && !answered.words.is_empty()
            );
            match (answered.failure, failure) {
                (Some(Failure::Garbled(_)), Failure::Garbled(_)) => {}
                (found, wanted) => assert_eq!(found, Some(wanted), "{vendor:?} {fault:?}"),
            }
            assert_eq!(answered.figures.tries, 1, "what was said is not said again");
        }
    }
    // An end without its mark is an end.
    let providers = Providers::start();
    providers.fault("chat", Fault::NoEnd);
    let answered = ask(&models(&providers, Vendor::OpenAi, "v1"), asked("hi")).await;
    assert_eq!((answered.finish, answered.failure), (Some(Finish::Stop), None));
}

#[tokio::test]
async fn a_dead_provider_is_passed_over_left_alone_and_taken_back() {
    let (first, second) = (Providers::start(), Providers::start());
    let list = vec![endpoint(&first, Vendor::OpenAi, "v1"), endpoint(&second, Vendor::Anthropic, "")];
    let both = Models::new(&Http::new(), list, quick());
    first.fault_always("chat", Some(Fault::Hang));
    let begin = Instant::now();
    let answered = ask(&both, asked("hi")).await;
    assert_eq!((answered.figures.provider.as_str(), answered.failure), ("Anthropic", None));
    assert!(begin.elapsed() < Duration::from_millis(350), "asked beside it: {:?}", begin.elapsed());

    first.fault_always("chat", Some(Fault::Status(500, None)));
    for _ in 0..3 {
        assert_eq!(ask(&both, asked("hi")).await.figures.provider, "Anthropic");
    }
    let before = first.seen().len();
    assert_eq!(ask(&both, asked("hi")).await.figures.tries, 1, "it is left alone");
    assert_eq!(first.seen().len(), before);
    let alone = models(&first, Vendor::OpenAi, "v1");
    assert!(matches!(ask(&alone, asked("hi")).await.failure, Some(Failure::Failed { status: 500, .. })));
    first.fault_always("chat", None);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(ask(&both, asked("hi")).await.figures.provider, "OpenAi", "taken back after its rest");
}

#[tokio::test]
async fn a_wrong_key_is_said_once_and_without_the_key() {
    for (vendor, api, version) in MODELS {
        let providers = Providers::start();
        let wrong = Endpoint { api_key: "wrong".to_owned(), ..endpoint(&providers, vendor, version) };
        let answered = ask(&Models::new(&Http::new(), vec![wrong], quick()), asked("hi")).await;
        let Some(Failure::Refused { status: 401, text }) = answered.failure else {
            panic!("{api}: {:?}", answered.failure);
        };
        assert!(text.ends_with("provided: ***.") && providers.seen().len() == 1, "{text}");
    }
}

#[tokio::test]
async fn servers_of_the_lan_that_know_less_are_understood() {
    let providers = Providers::start();
    providers.quirks(Quirks { whole: true, ..Quirks::default() });
    let local = models(&providers, Vendor::OpenAi, "v1");
    assert_eq!(ask(&local, asked("hi")).await.words, "You said hi with 0 pictures.");
    providers.quirks(Quirks { blind: true, ..Quirks::default() });
    let image = Image::given(1, ImageType::Jpeg, [0xff, 0xd8], Size { width: 8, height: 8 }, "");
    let message = Message { parts: vec![Part::Image(Arc::new(image))], ..Message::text(Role::User, "") };
    let request = Arc::new(Request { messages: vec![message], ..Request::default() });
    assert!(matches!(ask(&local, request).await.failure, Some(Failure::Refused { status: 400, .. })));
}

#[tokio::test]
async fn an_answer_that_is_dropped_is_not_paid_to_its_end() {
    let providers = Providers::start();
    providers.pace("chat", Pace { gap: Duration::from_millis(30), ..Pace::default() });
    let models = models(&providers, Vendor::OpenAi, "v1");
    let mut answer = models.ask(asked("hi"));
    assert!(matches!(answer.next().await, Some(Ok(Delta::Text(_)))));
    drop(answer);
    for _ in 0..100 {
        if providers.left() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(providers.left(), 1, "the server sees that nobody listens");
}

/// Milliseconds we add to a provider's own delay until the first piece, of 20 questions over a warm connection: the
/// median and the worst.
#[tokio::test]
async fn our_share_of_the_first_word_is_small() {
    let providers = Providers::start();
    providers.pace("chat", Pace { delay: Duration::from_millis(40), ..Pace::default() });
    let models = models(&providers, Vendor::OpenAi, "v1");
    models.warm().await;
    let mut ours = Vec::new();
    for _ in 0..20 {
        let figures = ask(&models, asked("hi")).await.figures;
        ours.push(figures.first.as_secs_f64() * 1_000.0 - 40.0);
    }
    ours.sort_by(f64::total_cmp);
    println!("first word, our share: median {:.1} ms, worst {:.1} ms", ours[10], ours[19]);
    assert!(ours[10] < 15.0, "{ours:?}");
    assert_eq!(providers.connections(), 1);
}

async fn say(voices: &Voices, words: &str, sound: impl Into<Sound>) -> (Vec<i16>, Option<Failure>) {
    let (mut speech, mut all) = (voices.say(words, sound), Vec::new());
    loop {
        match speech.next().await {
            Ok(Some(samples)) => all.extend_from_slice(&samples),
            Ok(None) => return (all, None),
            Err(failure) => return (all, Some(failure)),
        }
    }
}

fn voices(providers: &Providers, vendor: Vendor) -> Voices {
    Voices::new(&Http::new(), vec![endpoint(providers, vendor, "v1")], quick())
}

#[tokio::test]
async fn a_voice_over_http_is_heard_at_the_calls_rate_whatever_pieces_it_comes_in() {
    let providers = Providers::start();
    let voices = voices(&providers, Vendor::OpenAi);
    let words = "Good morning to you.";
    for bytes in [0, 1, 333] {
        providers.pace("speech", Pace { bytes, ..Pace::default() });
        for rate in [8_000, 16_000, 24_000, 48_000] {
            let (samples, failure) = say(&voices, words, rate).await;
            let wanted = words.len() * LETTER_MS * rate as usize / 1_000;
            assert!(
                failure.is_none() && samples.len().abs_diff(wanted) < rate as usize / 20,
                "{} {wanted}",
                samples.len()
            );
            let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
            let crossings = middle.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count() as f64;
            let hz = crossings / 2.0 * f64::from(rate) / middle.len() as f64;
            assert!((hz - 440.0).abs() < 10.0, "{hz} Hz at {rate}, {bytes} bytes a piece");
        }
    }
    assert_eq!(say(&voices, words, 24_000).await.0, tone(words, 24_000), "its own rate is not converted");
    assert_eq!(providers.spoken()[0], words);
    assert_eq!(providers.connections(), 1, "one connection for all");
}

#[tokio::test]
async fn a_voice_that_fails_is_replaced_before_its_first_sound_only() {
    for fault in [Fault::Status(500, None), Fault::Hang, Fault::CutAfter(0)] {
        let providers = Providers::start();
        providers.fault_always("speech", Some(fault.clone()));
        let list = vec![endpoint(&providers, Vendor::OpenAi, "v1"), Endpoint::new("canned", Vendor::Mock)];
        let (samples, failure) = say(&Voices::new(&Http::new(), list, quick()), "hello", 8_000).await;
        assert!(failure.is_none() && samples.len() == 5 * 60 * 8, "{fault:?} {failure:?} {}", samples.len());
    }
    let providers = Providers::start();
    providers.fault("speech", Fault::CutAfter(3));
    let (samples, failure) = say(&voices(&providers, Vendor::OpenAi), "Good morning to you.", 24_000).await;
    assert!(failure == Some(Failure::Cut) && samples.len() == 7_201, "{failure:?} {}", samples.len());
}

#[tokio::test]
async fn deepgram_speaks_the_calls_own_law_over_one_socket() {
    let providers = Providers::start();
    let voices = voices(&providers, Vendor::Deepgram);
    for (law, name) in [(Law::Mu, "mulaw"), (Law::A, "alaw")] {
        for words in ["One.", "And two."] {
            let (samples, failure) = say(&voices, words, Sound { rate: 8_000, law: Some(law) }).await;
            let (mut bytes, mut again) = (coded(words, name, 8_000), Vec::new());
            g711::encode(law, &samples, &mut again);
            // Both zeros of the µ-law are one.
            bytes.iter_mut().filter(|byte| law == Law::Mu && **byte == 0x7f).for_each(|byte| *byte = 0xff);
            assert!(failure.is_none() && again == bytes, "{name}: to the byte");
        }
    }
    assert_eq!(providers.connections(), 2, "one socket for each coding, used twice");
    let (samples, failure) = say(&voices, "linear", 16_000).await;
    assert_eq!((samples, failure), (tone("linear", 16_000), None), "odd pieces at the call's own rate");
    providers.fault("speak", Fault::CutAfter(0));
    let retried = say(&voices, "Again.", 24_000).await;
    assert_eq!(retried, (tone("Again.", 24_000), None), "a cut before the first sound is got over");
    // The next sentence goes over the socket that is kept; a cut of it later is a failure.
    providers.fault("speak", Fault::CutAfter(1));
    let (samples, failure) = say(&voices, "A sentence that breaks off", 32_000).await;
    assert!(!samples.is_empty() && failure == Some(Failure::Cut), "{failure:?}");
}

fn speech_like(count: usize) -> Vec<i16> {
    (0..count).map(|n| ((n as f64 * 0.3).sin() * 6_000.0 * (n as f64 * 0.001).sin()) as i16).collect()
}

async fn next_final(ears: &mut Transcription) -> (Vec<String>, Result<String, Failure>) {
    let mut partials = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(5), ears.next()).await.expect("an answer") {
            Ok(Transcript::Partial(text)) => partials.push(text),
            Ok(Transcript::Final(text)) => return (partials, Ok(text)),
            Err(failure) => return (partials, Err(failure)),
        }
    }
}

#[tokio::test]
async fn a_turn_is_transcribed_over_http_sample_for_sample() {
    let providers = Providers::start();
    providers.hear(&["what is this", "thank you"]);
    let endpoint = Endpoint { language: "en".to_owned(), ..endpoint(&providers, Vendor::OpenAi, "v1") };
    let mut ears = Transcribers::new(&Http::new(), vec![endpoint], quick()).open(8_000);
    let sound = speech_like(8_000);
    ears.begin(&sound[..4_000]);
    sound[4_000..].chunks(160).for_each(|block| ears.push(block));
    ears.commit();
    assert_eq!(next_final(&mut ears).await.1, Ok("what is this".to_owned()));
    let heard = providers.heard().remove(0);
    assert_eq!((heard.rate, heard.samples), (8_000, sound.clone()));
    assert!(heard.fields.contains(&("language".to_owned(), "en".to_owned())));
    for fault in [
        Fault::Status(429, Some("0.1".to_owned())),
        Fault::Status(500, None),
        Fault::Hang,
        Fault::GarbledAt(0),
        Fault::CutAfter(0),
    ] {
        providers.fault("transcriptions", fault.clone());
        ears.begin(&sound);
        ears.commit();
        assert_eq!(next_final(&mut ears).await.1, Ok("thank you".to_owned()), "{fault:?}");
        assert_eq!(ears.figures().tries, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn deepgram_hears_while_it_is_spoken_and_gets_the_calls_own_bytes() {
    let providers = Providers::start();
    providers.hear(&["please open the red door now", "thanks a lot", "goodbye"]);
    let list = vec![endpoint(&providers, Vendor::Deepgram, "v1")];
    let mut ears =
        Transcribers::new(&Http::new(), list, quick()).open(Sound { rate: 8_000, law: Some(Law::Mu) });
    let sound = speech_like(16_000);
    ears.begin(&sound[..1_600]);
    let mut partials = Vec::new();
    for block in sound[1_600..].chunks(160) {
        ears.push(block);
        if let Ok(Ok(Transcript::Partial(text))) =
            tokio::time::timeout(Duration::from_millis(4), ears.next()).await
        {
            partials.push(text);
        }
    }
    ears.commit();
    let (more, text) = next_final(&mut ears).await;
    assert_eq!(text, Ok("please open the red door now".to_owned()));
    partials.extend(more);
    assert!(
        partials.len() >= 3 && partials.iter().all(|text| "please open the red door now".starts_with(text)),
        "{partials:?}"
    );
    // A turn that was none leaves no words, and the next has only its own.
    ears.begin(&sound[..1_600]);
    ears.discard();
    ears.begin(&sound[..3_200]);
    ears.commit();
    assert_eq!(next_final(&mut ears).await.1, Ok("goodbye".to_owned()));
    drop(ears);
    std::thread::sleep(Duration::from_millis(60));
    let session = providers.sessions().pop().expect("a session");
    let mut bytes = Vec::new();
    g711::encode(Law::Mu, &[&sound[..], &sound[..1_600], &sound[..3_200]].concat(), &mut bytes);
    assert!(session.sound == bytes, "to the byte");
    assert_eq!(session.messages, ["Finalize", "Finalize", "Finalize"]);
    assert_eq!(providers.connections(), 1);
}

#[tokio::test]
async fn a_deepgram_socket_that_breaks_in_a_turn_costs_no_word() {
    for fault in [Fault::CutAfter(0), Fault::HangAfter(0), Fault::GarbledAt(0), Fault::Status(500, None)] {
        let providers = Providers::start();
        providers.hear(&["every word"]);
        providers.fault("listen", fault.clone());
        let list = vec![endpoint(&providers, Vendor::Deepgram, "v1")];
        let mut ears = Transcribers::new(&Http::new(), list, quick()).open(8_000);
        for turn in 0..2 {
            ears.begin(&speech_like(8_000));
            ears.commit();
            let begin = Instant::now();
            assert_eq!(next_final(&mut ears).await.1, Ok("every word".to_owned()), "{fault:?}, turn {turn}");
            assert!(begin.elapsed() < Duration::from_millis(1_500), "{fault:?} {:?}", begin.elapsed());
        }
    }
}

/// The emulators are what the vendors' own clients expect.
#[test]
fn the_vendors_sdks_are_content_with_the_emulators() {
    let providers = Providers::start();
    providers.answer(|asked| match asked.said.as_str() {
        "use a tool" => {
            Reply { text: String::new(), calls: vec![("look".to_owned(), json!({ "at": "door" }))] }
        }
        said => Reply { text: format!("Echo: {said} 🙂 {}", asked.pictures.len()), calls: vec![] },
    });
    providers.hear(&["hello from the emulator"]);
    let mut failed = Vec::new();
    for vendor in ["openai", "gemini", "anthropic", "deepgram"] {
        if vendor == "openai" {
            providers.fault("chat", Fault::Status(429, Some("0.1".to_owned())));
        }
        if let Err(error) = sdks::content("providers.py", &[vendor, &providers.address.to_string()]) {
            failed.push(format!("{vendor}:\n{error}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
