//! All HTTP APIs of the providers on one port: a server in whose place the vendors' would stand.
//!
//! | API | name | path |
//! |---|---|---|
//! | OpenAI chat completions | `chat` | `/v1/chat/completions` |
//! | Gemini | `generate` | `/v1beta/models/…`, `/v1/models/…` |
//! | Anthropic | `messages` | `/v1/messages` |
//! | OpenAI transcription, speech | `transcriptions`, `speech` | `/v1/audio/…` |
//! | Deepgram | `listen`, `speak` | `/v1/listen`, `/v1/speak` |

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::deepgram::Session;
use super::models::{Asked, Picture, Quirks, Refusal, Reply};
use super::server::{Api, Exchange, Seen, Server};
use super::{audio, deepgram, models};

/// A question a model was asked, with the time it was complete.
#[derive(Clone, Debug)]
pub struct Question {
    pub at: Instant,
    /// `chat`, `generate` or `messages`.
    pub api: &'static str,
    pub said: String,
    pub newest: Vec<Picture>,
    pub pictures: Vec<Picture>,
    /// The answer had to be JSON of a schema.
    pub structured: bool,
}

type Answers = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;

struct Script {
    answers: Mutex<Answers>,
    texts: Mutex<VecDeque<String>>,
    quirks: Mutex<Quirks>,
    questions: Mutex<Vec<Question>>,
    heard: Mutex<Vec<audio::Heard>>,
    spoken: Mutex<Vec<String>>,
    sessions: Mutex<Vec<Session>>,
}

/// The running server.
pub struct Providers {
    server: Server,
    script: Arc<Script>,
}

impl Deref for Providers {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Providers {
    /// Models say what they were asked and how many pictures came with it; transcribers hear "hello".
    pub fn start() -> Providers {
        let answers: Answers = Box::new(|asked| Reply {
            text: format!("You said {} with {} pictures.", asked.said, asked.newest.len()),
            calls: Vec::new(),
        });
        let script = Arc::new(Script {
            answers: Mutex::new(answers),
            texts: Mutex::default(),
            quirks: Mutex::default(),
            questions: Mutex::default(),
            heard: Mutex::default(),
            spoken: Mutex::default(),
            sessions: Mutex::default(),
        });
        Providers { server: Server::start(script.clone()), script }
    }

    /// The root of an API: `v1`, `v1beta` or nothing.
    pub fn root(&self, version: &str) -> String {
        format!("http://{}/{version}", self.address).trim_end_matches('/').to_owned()
    }

    pub fn answer(&self, answers: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        *lock(&self.script.answers) = Box::new(answers);
    }

    /// What transcribers hear next, turn by turn; the last text stays.
    pub fn hear(&self, texts: &[&str]) {
        *lock(&self.script.texts) = texts.iter().map(|text| (*text).to_owned()).collect();
    }

    pub fn quirks(&self, quirks: Quirks) {
        *lock(&self.script.quirks) = quirks;
    }

    pub fn questions(&self) -> Vec<Question> {
        lock(&self.script.questions).clone()
    }

    /// Files that were transcribed.
    pub fn heard(&self) -> Vec<audio::Heard> {
        lock(&self.script.heard).clone()
    }

    /// Sentences that were spoken over HTTP.
    pub fn spoken(&self) -> Vec<String> {
        lock(&self.script.spoken).clone()
    }

    /// What web sockets were sent: once for each time it changed.
    pub fn sessions(&self) -> Vec<Session> {
        lock(&self.script.sessions).clone()
    }
}

impl Script {
    fn next_text(&self) -> String {
        let mut texts = lock(&self.texts);
        let next = if texts.len() > 1 { texts.pop_front() } else { texts.front().cloned() };
        next.unwrap_or_else(|| "hello".to_owned())
    }

    fn handle(&self, api: &'static str, seen: &Seen, exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let quirks = *lock(&self.quirks);
        // A name that is sent without a key behind it is still refused.
        let keyed = (quirks.keyless && seen.header("authorization").is_none()).then(|| {
            let mut keyed = seen.clone();
            keyed.headers.push(("authorization".to_owned(), "Bearer none".to_owned()));
            keyed
        });
        let seen = keyed.as_ref().unwrap_or(seen);
        let asked = match api {
            "chat" => models::check_chat(seen, quirks)?,
            "generate" => models::check_generate(seen, quirks)?,
            "messages" => models::check_messages(seen, quirks)?,
            "transcriptions" => {
                let heard = audio::check_transcription(seen)?;
                lock(&self.heard).push(heard.clone());
                audio::answer_transcription(&heard, &self.next_text(), exchange);
                return Ok(());
            }
            "speech" => {
                let words = audio::check_speech(seen)?;
                lock(&self.spoken).push(words.clone());
                audio::answer_speech(seen, &words, exchange);
                return Ok(());
            }
            "listen" if seen.header("upgrade").is_none() => {
                return deepgram::answer_file(seen, &self.next_text(), exchange);
            }
            _ => {
                deepgram::check(seen, api == "speak")?;
                let tell = |session: &Session| lock(&self.sessions).push(session.clone());
                match api {
                    "speak" => deepgram::speak(seen, exchange, &tell),
                    _ => deepgram::listen(seen, exchange, &|| self.next_text(), &tell),
                }
                return Ok(());
            }
        };
        let (said, newest, pictures) = (asked.said.clone(), asked.newest.clone(), asked.pictures.clone());
        let structured = asked.structured;
        lock(&self.questions).push(Question { at: seen.at, api, said, newest, pictures, structured });
        let reply = lock(&self.answers)(&asked);
        match api {
            "chat" => models::answer_chat(seen, &reply, &asked, quirks, exchange),
            "generate" => models::answer_generate(seen, &reply, &asked, exchange),
            _ => models::answer_messages(seen, &reply, &asked, exchange),
        }
        Ok(())
    }
}

/// Both versions there are: the SDK of today asks the one, older ones and we the other.
fn is_gemini(path: &str) -> bool {
    ["/v1/models/", "/v1beta/models/"].iter().any(|start| path.starts_with(start))
        && path.contains("enerateContent")
}

impl Api for Script {
    fn name(&self, seen: &Seen) -> &'static str {
        match seen.path.as_str() {
            "/v1/chat/completions" => "chat",
            "/v1/messages" => "messages",
            "/v1/audio/transcriptions" => "transcriptions",
            "/v1/audio/speech" => "speech",
            "/v1/listen" => "listen",
            "/v1/speak" => "speak",
            path if is_gemini(path) => "generate",
            _ => "none",
        }
    }

    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>) {
        let name = self.name(seen);
        let known = seen.method == "POST" || matches!(name, "listen" | "speak") && seen.method == "GET";
        let refusal = Refusal(404, format!("Invalid URL ({} {})", seen.method, seen.path), String::new());
        let result = if name == "none" || !known { Err(refusal) } else { self.handle(name, seen, exchange) };
        if let Err(refusal) = result {
            models::refuse_as(name, &refusal, exchange);
        }
    }
}
