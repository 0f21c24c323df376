//! Driver. One question to one language model over HTTP, in its vendor's words, and its answer as it is streamed.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderValue, InvalidHeaderValue};

use super::{address, http};
use crate::remote::http::{Http, Reply, send};
use crate::talk::message::{Delta, Endpoint, Failure, Request, Vendor};
use crate::talk::wire::chat::{self, Chat};
use crate::talk::wire::events::{Event, Events};
use crate::talk::wire::generate::{self, Generate};
use crate::talk::wire::messages::{self, Messages};
use crate::talk::wire::{Progress, Reader};

pub const OPENAI: &str = "https://api.openai.com/v1";
pub const GEMINI: &str = "https://generativelanguage.googleapis.com/v1beta";
pub const ANTHROPIC: &str = "https://api.anthropic.com/v1";
pub const DEEPGRAM: &str = "https://api.deepgram.com/v1";

/// A body that is no stream of events.
const WHOLE_MAX: usize = 4 << 20;
/// Text, calls and frames of one answer together.
const ANSWER_MAX: usize = 4 << 20;
/// The bytes that end a body mostly come with its last event; with them read the connection can be used again.
const END_LIMIT: Duration = Duration::from_millis(3);

/// Where questions of this endpoint go; `None`: its vendor answers none.
pub fn place(endpoint: &Endpoint) -> Option<Result<Url, Failure>> {
    let (vendors, version, path) = match endpoint.vendor {
        Vendor::OpenAi => (OPENAI, "", "chat/completions".to_owned()),
        Vendor::Gemini => (GEMINI, "v1beta", generate::path(endpoint)),
        Vendor::Anthropic => (ANTHROPIC, "v1", "messages".to_owned()),
        Vendor::Deepgram | Vendor::Espeak | Vendor::Mock => return None,
    };
    Some(address::root(&endpoint.base_url, vendors).map(|root| {
        let mut url = address::below(&root, version, &path);
        if endpoint.vendor == Vendor::Gemini {
            url.set_query(Some("alt=sse"));
        }
        url
    }))
}

/// A header's value that is shown nowhere.
pub fn secret(value: &str) -> Result<HeaderValue, Failure> {
    let refused = |_: InvalidHeaderValue| Failure::Refused {
        status: 0,
        text: "api_key: it has letters that cannot be sent".to_owned(),
    };
    let mut value = HeaderValue::from_str(value).map_err(refused)?;
    value.set_sensitive(true);
    Ok(value)
}

/// An answer being streamed.
pub struct Streamed {
    reply: Reply,
    reader: Box<dyn Reader>,
    events: Events,
    arrived: Vec<Event>,
    ready: VecDeque<Delta>,
    bytes: usize,
    over: bool,
}

impl Streamed {
    /// Asks; waits for the head of the answer.
    pub async fn begin(http: &Http, endpoint: &Endpoint, request: &Request) -> Result<Self, Failure> {
        let no_model =
            || Failure::Refused { status: 0, text: format!("{:?} has no language models", endpoint.vendor) };
        let url = place(endpoint).ok_or_else(no_model)??;
        let (body, reader): (_, Box<dyn Reader>) = match endpoint.vendor {
            Vendor::Gemini => (generate::body(endpoint, request), Box::<Generate>::default()),
            Vendor::Anthropic => (messages::body(endpoint, request), Box::<Messages>::default()),
            Vendor::OpenAi | Vendor::Deepgram | Vendor::Espeak | Vendor::Mock => {
                (chat::body(endpoint, request), Box::<Chat>::default())
            }
        };
        let mut asked = http.post(url)?.json(&body);
        if endpoint.vendor == Vendor::Anthropic {
            asked = asked.header("anthropic-version", messages::VERSION);
        }
        if !endpoint.api_key.is_empty() {
            let key = &endpoint.api_key;
            asked = match endpoint.vendor {
                Vendor::Gemini => asked.header("x-goog-api-key", secret(key)?),
                Vendor::Anthropic => asked.header("x-api-key", secret(key)?),
                Vendor::OpenAi | Vendor::Deepgram | Vendor::Espeak | Vendor::Mock => {
                    asked.header("authorization", secret(&format!("Bearer {key}"))?)
                }
            };
        }
        let reply = send(endpoint.timeout_ms, &endpoint.api_key, asked).await?;
        let mut streamed = Streamed {
            reply,
            reader,
            events: Events::default(),
            arrived: Vec::new(),
            ready: VecDeque::new(),
            bytes: 0,
            over: false,
        };
        if streamed.reply.content_type().starts_with("application/json") {
            streamed.read_whole().await?;
        }
        Ok(streamed)
    }

    /// Not every server streams.
    async fn read_whole(&mut self) -> Result<(), Failure> {
        let body = http::whole(&mut self.reply, WHOLE_MAX).await?;
        self.over = true;
        let data = String::from_utf8_lossy(&body).into_owned();
        self.reader.handle_event(&Event { name: String::new(), data }, &mut self.ready)?;
        self.reader.handle_end(&mut self.ready)
    }

    /// The next piece; `None`: there is no more.
    pub async fn next(&mut self) -> Result<Option<Delta>, Failure> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Ok(Some(delta));
            }
            if self.over {
                return Ok(None);
            }
            let bytes = match self.reader.progress() {
                Progress::Open => self.reply.chunk().await?,
                Progress::Said => self.reply.tail().await,
                Progress::Over => {
                    let rest = async { while self.reply.tail().await.is_some() {} };
                    // What is not here by now is not worth a caller's time.
                    let _ = tokio::time::timeout(END_LIMIT, rest).await;
                    None
                }
            };
            match bytes {
                Some(bytes) => {
                    self.bytes += bytes.len();
                    if self.bytes > ANSWER_MAX {
                        return Err(Failure::Garbled(format!("an answer of more than {ANSWER_MAX} bytes")));
                    }
                    self.events.push(&bytes, &mut self.arrived)?;
                }
                None => {
                    self.events.finish(&mut self.arrived);
                    self.over = true;
                }
            }
            for event in self.arrived.drain(..) {
                if self.reader.progress() != Progress::Over {
                    self.reader.handle_event(&event, &mut self.ready)?;
                }
            }
            if self.over {
                self.reader.handle_end(&mut self.ready)?;
            }
        }
    }
}
