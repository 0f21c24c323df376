//! A conversation in the words shared by every model: what was said, shown and asked, and what comes back.
//!
//! Pure. How each provider writes it is in `talk::wire`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use crate::codec::still::encode::Still;
use crate::media::frame::Size;

pub use crate::codec::still::ImageType;
pub use crate::remote::failure::Failure;

/// Whose words these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    /// The answer to a [`ToolCall`].
    Tool,
}

/// How closely a model is asked to look; not every server knows the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    #[default]
    Auto,
    Low,
    High,
    /// The word is left out.
    Omit,
}

/// A picture as it is sent to a model. It has two makers: [`Image::of`] takes a [`Still`], which is made of cleared
/// pictures only, and [`Image::given`] says in so many words that whoever gave it is trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Unique within the call.
    pub id: u64,
    pub kind: ImageType,
    pub bytes: Arc<[u8]>,
    pub size: Size,
    pub detail: Detail,
    /// When it was taken; its age is counted from here. `None`: it has none, as a document.
    pub taken: Option<Instant>,
    /// What stands in its place once it is forgotten: `a picture of 12:03:05`.
    pub note: String,
    /// Never forgotten.
    pub pinned: bool,
    origin: Origin,
}

/// Why a picture may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A gate has cleared it.
    Cleared,
    /// It came from someone the route trusts, and nobody here has looked at it.
    Given,
}

impl Image {
    /// What a cleared picture became.
    pub fn of(still: &Still, id: u64, note: impl Into<String>) -> Self {
        let (kind, size) = (still.kind(), still.size());
        Image::new(id, kind, still.bytes().clone(), size, note.into(), Origin::Cleared)
    }

    /// Bytes of someone the route trusts with sending pictures uncleared: the operator's own file, an application
    /// that was given that right.
    pub fn given(
        id: u64,
        kind: ImageType,
        bytes: impl Into<Arc<[u8]>>,
        size: Size,
        note: impl Into<String>,
    ) -> Self {
        Image::new(id, kind, bytes.into(), size, note.into(), Origin::Given)
    }

    fn new(id: u64, kind: ImageType, bytes: Arc<[u8]>, size: Size, note: String, origin: Origin) -> Self {
        Image { id, kind, bytes, size, detail: Detail::Auto, taken: None, note, pinned: false, origin }
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }
}

/// Without the bytes: they are of people, and logs are not for them.
impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Image { id, kind, bytes, size, note, .. } = self;
        write!(f, "Image({id} {kind:?} {size} {} bytes, {note:?})", bytes.len())
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Image(Arc<Image>),
    /// A picture the model fetches itself.
    Url(String),
}

/// A model wants something done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON as the model wrote it; it may be broken.
    pub arguments: String,
    /// What some providers want back unread with the call (Gemini's thought signature).
    pub signature: Option<String>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub parts: Vec<Part>,
    /// What an assistant wanted done.
    pub calls: Vec<ToolCall>,
    /// Of [`Role::Tool`]: the call this answers, and its name.
    pub answers: Option<(String, String)>,
}

impl Message {
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Message { role, parts: vec![Part::Text(text.into())], calls: Vec::new(), answers: None }
    }

    /// The text of all its parts.
    pub fn words(&self) -> String {
        let mut words = String::new();
        for part in &self.parts {
            if let Part::Text(text) = part {
                if !words.is_empty() {
                    words.push('\n');
                }
                words.push_str(text);
            }
        }
        words
    }

    pub fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Image(image) => Some(image),
            Part::Text(_) | Part::Url(_) => None,
        })
    }
}

/// A tool as a model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSpec {
    pub name: String,
    pub description: String,
    /// JSON Schema of the arguments: an object.
    pub parameters: Value,
}

/// One question to a language model, in every provider's terms at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The system prompt; empty: none.
    pub instructions: String,
    pub messages: Vec<Message>,
    pub tools: Vec<ToolSpec>,
    /// The answer must be JSON of this schema: its name and itself.
    pub schema: Option<(String, Value)>,
    pub max_tokens: Option<u32>,
}

impl Request {
    /// How many pictures it carries.
    pub fn image_count(&self) -> usize {
        self.messages.iter().map(|message| message.images().count()).sum()
    }
}

/// What a model used up, as it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    /// Of these, read from its cache; and those that are pictures, where it says.
    pub cached_tokens: u64,
    pub image_tokens: u64,
    pub output_tokens: u64,
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    Stop,
    /// It wants tools called.
    Tools,
    /// It ran into the limit of its answer.
    Length,
    /// It would not answer.
    Refused,
}

/// A piece of an answer, as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    Text(String),
    /// Complete: pieces of arguments are put together in `wire`.
    Call(ToolCall),
    Usage(Usage),
    /// Nothing follows.
    Finish(Finish),
}

/// Where and how a provider is reached. Read from `[stt.NAME]`, `[llm.NAME]`, `[tts.NAME]`, `[realtime.NAME]`,
/// `[vision]`.
#[derive(Clone, PartialEq)]
pub struct Endpoint {
    /// The section's name, for logs and figures.
    pub name: String,
    pub vendor: Vendor,
    /// The API's root as its vendor writes it; empty: the vendor's own.
    pub base_url: String,
    pub model: String,
    /// Empty: none is sent.
    pub api_key: String,
    pub voice: String,
    pub language: String,
    pub temperature: Option<f64>,
    /// Put into the request's JSON as they are, over what stands there.
    pub options: Map<String, Value>,
    /// Milliseconds without a byte until a question is given up.
    pub timeout_ms: u64,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({} {:?} {} {})", self.name, self.vendor, self.base_url, self.model)
    }
}

impl Endpoint {
    pub fn new(name: impl Into<String>, vendor: Vendor) -> Self {
        Endpoint {
            name: name.into(),
            vendor,
            base_url: String::new(),
            model: String::new(),
            api_key: String::new(),
            voice: String::new(),
            language: String::new(),
            temperature: None,
            options: Map::new(),
            timeout_ms: 10_000,
        }
    }
}

/// Whose API a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// OpenAI, and every server that speaks like it.
    OpenAi,
    Gemini,
    Anthropic,
    Deepgram,
    /// espeak-ng on this box.
    Espeak,
    /// Built in: canned answers after stated times, in `options`.
    Mock,
}
