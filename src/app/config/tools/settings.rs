//! The settings themselves, with their defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::app::config::secret::Secret;
use crate::app::config::settings::{Word, words};

words! {
    /// What must have happened before a tool is used.
    Needs {
        Nothing = "nothing",
        /// The caller has spoken in this call.
        Speech = "speech",
    }
}

words! {
    Method { Get = "GET", Post = "POST", Put = "PUT", Patch = "PATCH", Delete = "DELETE" }
}

words! {
    /// How a door opens.
    Via {
        /// Keys pressed on the caller's line: the caller is the door station.
        Dtmf = "dtmf",
        Http = "http",
    }
}

/// The keys every tool has.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// 0: as often as it likes.
    pub max_per_call: u32,
    pub min_interval: Duration,
    pub needs: Needs,
    /// Of `dtmf` and `transfer`: the values that may be used, `*` at the end for any rest; empty: any.
    pub allow: Vec<String>,
}

impl Policy {
    /// The policy of a tool of this name where nothing is written.
    pub fn of(name: &str) -> Self {
        let (max_per_call, seconds) = match name {
            "look" | "hang_up" => (0, 0),
            "transfer" => (3, 2),
            "unlock" => (5, 2),
            _ => (50, 0),
        };
        Policy {
            max_per_call,
            min_interval: Duration::from_secs(seconds),
            needs: Needs::Nothing,
            allow: Vec::new(),
        }
    }
}

/// Where a request goes: the keys that `[http_tool.NAME]` and `[unlock.NAME]` share.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub method: Method,
    pub url: String,
    pub headers: BTreeMap<String, Secret>,
    /// Empty: of a tool the arguments as JSON, of a door nothing.
    pub body: String,
    pub timeout: Duration,
    /// Over https the host may be one of the own network; plain http goes nowhere else.
    pub near: bool,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            method: Method::Get,
            url: String::new(),
            headers: BTreeMap::new(),
            body: String::new(),
            timeout: Duration::from_secs(5),
            near: false,
        }
    }
}

/// `[http_tool.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct HttpTool {
    pub description: String,
    pub request: Request,
    /// JSON Schema of the arguments.
    pub schema: Value,
    /// Of an answer.
    pub max_bytes: u32,
    pub policy: Policy,
}

impl Default for HttpTool {
    fn default() -> Self {
        HttpTool {
            description: String::new(),
            request: Request::default(),
            schema: json!({"type": "object", "properties": Map::new()}),
            max_bytes: 4096,
            policy: Policy::of("http"),
        }
    }
}

/// `[unlock.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Unlock {
    pub description: String,
    pub via: Via,
    /// Of `via = "dtmf"`.
    pub digits: String,
    /// Of `via = "http"`.
    pub request: Request,
    /// Typed by the caller; empty: none.
    pub pin: Secret,
    pub max_tries: u32,
    pub pin_timeout: Duration,
    /// A class that must have been seen; empty: none.
    pub present: String,
    pub present_within: Duration,
    /// Empty: anybody.
    pub callers: Vec<String>,
    pub policy: Policy,
}

impl Default for Unlock {
    fn default() -> Self {
        Unlock {
            description: String::new(),
            via: Via::Dtmf,
            digits: String::new(),
            request: Request::default(),
            pin: Secret::default(),
            max_tries: 3,
            pin_timeout: Duration::from_secs(30),
            present: String::new(),
            present_within: Duration::from_secs(10),
            callers: Vec::new(),
            policy: Policy::of("unlock"),
        }
    }
}

/// `[[trigger]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    pub name: String,
    /// Empty: every agent that talks.
    pub agents: Vec<String>,
    /// A detector's class; empty: time.
    pub class: String,
    pub lasting: Duration,
    pub every: Option<Duration>,
    pub after: Option<Duration>,
    pub cooldown: Duration,
    pub max_per_call: u32,
    /// For the agent's model; empty: a tool.
    pub ask: String,
    pub tool: String,
    pub arguments: Value,
}

impl Default for Trigger {
    fn default() -> Self {
        Trigger {
            name: String::new(),
            agents: Vec::new(),
            class: String::new(),
            lasting: Duration::from_secs(1),
            every: None,
            after: None,
            cooldown: Duration::from_secs(60),
            max_per_call: 0,
            ask: String::new(),
            tool: String::new(),
            arguments: Value::Object(Map::new()),
        }
    }
}

/// One step of an agent's `on_start`.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    Say(String),
    Show(String),
    /// Begins a trigger, which does not begin by itself then.
    Trigger(String),
}

/// All sections of tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// By the tool's name; one that is not here has [`Policy::of`] it.
    pub policies: BTreeMap<String, Policy>,
    pub http: BTreeMap<String, HttpTool>,
    pub doors: BTreeMap<String, Unlock>,
    pub triggers: Vec<Trigger>,
}
