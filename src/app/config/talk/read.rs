//! The tables to settings. What one value must be on its own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Map;

use super::picture;
use super::settings::{
    Context, ContextRole, Prices, Prompts, Provider, Sees, Service, Sight, Speaking, Talk, Vendor, Vision,
};
use crate::app::config::file::{Node, Value};
use crate::app::config::read::{SECOND, display_name};
use crate::app::config::section::Section;
use crate::app::config::settings::{Config, Word};
use crate::app::config::tools;

/// The longest prompt, characters.
const PROMPT_MAX: usize = 100_000;
/// The longest sentence that is spoken as one.
const SPOKEN_MAX: usize = 2_000;

pub fn providers(root: &Section, config: &mut Config) {
    for service in Service::ALL {
        for (name, table) in root.table(service.section()).tables() {
            let mut provider = Provider::default();
            read_provider(&table, service, &mut provider);
            config.providers.of_mut(service).insert(name, provider);
        }
    }
}

fn read_provider(section: &Section, service: Service, into: &mut Provider) {
    common(section, into);
    let vendors = service.vendors();
    if !vendors.contains(&into.vendor) {
        let known: Vec<&str> = vendors.iter().map(|vendor| vendor.word()).collect();
        section.problem("provider", format!("{:?} is none of {}", into.vendor.word(), known.join(", ")));
    }
    section.text("voice", &mut into.voice);
    section.parsed("language", &mut into.language, language);
    if section.has("temperature") {
        let mut temperature = 0.0;
        section.number("temperature", &mut temperature, 0.0..=2.0);
        into.temperature = Some(temperature);
    } else {
        let _ = section.raw("temperature");
    }
    options(section, into);
    if service == Service::Language || service == Service::Realtime {
        sees(section, &mut into.sees);
        prices(section, &mut into.prices);
    }
}

fn options(section: &Section, into: &mut Provider) {
    if let Some(node) = section.raw("options") {
        match json(node) {
            serde_json::Value::Object(options) => into.options = options,
            _ => section.wrong_at("options", "a table"),
        }
    }
}

fn prices(section: &Section, into: &mut Prices) {
    for (key, price) in [
        ("usd_per_million_in", &mut into.input),
        ("usd_per_million_out", &mut into.output),
        ("usd_per_million_image", &mut into.image),
    ] {
        section.number(key, price, 0.0..=100_000.0);
    }
}

fn sees(section: &Section, into: &mut Sees) {
    match section.raw("sees").map(|node| &node.value) {
        Some(Value::Flag(sees)) => *into = if *sees { Sees::True } else { Sees::False },
        Some(Value::Text(text)) if text == "auto" => *into = Sees::Auto,
        Some(_) => section.wrong_at("sees", "true, false or \"auto\""),
        None => {}
    }
}

/// Where a provider is, and how long it is waited for.
fn common(section: &Section, into: &mut Provider) {
    section.word("provider", &mut into.vendor);
    section.parsed("base_url", &mut into.base_url, base_url);
    section.text("model", &mut into.model);
    section.secret("api_key", &mut into.api_key);
    section.duration("timeout_s", &mut into.timeout, SECOND, 0.1..=600.0);
}

pub fn base_url(text: &str) -> Result<String, String> {
    let known = ["http://", "https://", "ws://", "wss://"];
    if text.is_empty() || known.iter().any(|start| text.starts_with(start) && text.len() > start.len()) {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(format!("{text:?} is no URL; write \"http://127.0.0.1:8000/v1\", or \"\" for the vendor's own"))
    }
}

pub fn language(text: &str) -> Result<String, String> {
    let good = text.is_empty()
        || text == "auto"
        || (2..=8).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if good { Ok(text.to_owned()) } else { Err(format!("{text:?} is no language; write \"en\" or \"de\"")) }
}

/// A value as JSON, for what is passed on unread.
pub fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) => text.as_str().into(),
        Value::Whole(number) => (*number).into(),
        Value::Number(number) => (*number).into(),
        Value::Flag(flag) => (*flag).into(),
        Value::Items(items) => items.iter().map(json).collect(),
        Value::Table(table) => {
            let members: Map<_, _> = table.iter().map(|(name, node)| (name.clone(), json(node))).collect();
            members.into()
        }
        Value::Other(_) => serde_json::Value::Null,
    }
}

pub fn talk(section: &Section, into: &mut Talk) {
    section.word("turn_detection", &mut into.turn_detection);
    section.word("endpointing", &mut into.endpointing);
    auto(section, "min_delay_s", &mut into.min_delay, 10.0);
    auto(section, "max_delay_s", &mut into.max_delay, 30.0);
    section.share("vad_threshold", &mut into.vad_threshold, 0.05..=0.95);
    section.duration("min_silence_s", &mut into.min_silence, SECOND, 0.05..=5.0);
    section.flag("interruptions", &mut into.interruptions);
    section.duration("min_interruption_s", &mut into.min_interruption, SECOND, 0.0..=5.0);
    section.whole("min_words", &mut into.min_words, 0..=20);
    section.flag("resume_false_interruption", &mut into.resume_false_interruption);
    section.duration(
        "false_interruption_timeout_s",
        &mut into.false_interruption_timeout,
        SECOND,
        0.1..=20.0,
    );
    section.flag("preemptive", &mut into.preemptive);
    section.flag("noise", &mut into.noise);
    section.flag("agc", &mut into.agc);
    if into.max_delay.zip(into.min_delay).is_some_and(|(most, least)| most < least) {
        section.problem("max_delay_s", "shorter than talk.min_delay_s");
    }
}

/// Seconds, or `auto`.
fn auto(section: &Section, key: &str, into: &mut Option<Duration>, most: f64) {
    if section.is_text(key) {
        section.parsed(key, into, |text| match text {
            "auto" => Ok(None),
            _ => Err("a number of seconds, or \"auto\"".to_owned()),
        });
    } else {
        let mut time = Duration::MAX;
        section.duration(key, &mut time, SECOND, 0.0..=most);
        *into = Some(time).filter(|time| *time != Duration::MAX);
    }
}

pub fn vision(section: &Section, into: &mut Vision) {
    common(section, &mut into.model);
    let vendors = Service::Language.vendors();
    if !vendors.contains(&into.model.vendor) {
        let known: Vec<&str> = vendors.iter().map(|vendor| vendor.word()).collect();
        section
            .problem("provider", format!("{:?} is none of {}", into.model.vendor.word(), known.join(", ")));
    }
    options(section, &mut into.model);
    sees(section, &mut into.model.sees);
    prices(section, &mut into.model.prices);
    section.parsed("prompt", &mut into.prompt, prompt);
    section.whole("budget_images", &mut into.budget_images, 0..=1_000_000);
    section.whole("budget_tokens", &mut into.budget_tokens, 0..=1_000_000_000);
    section.number("budget_usd", &mut into.budget_usd, 0.0..=10_000.0);
    section.share("speaking_fps", &mut into.speaking_fps, 0.0..=10.0);
    section.share("silent_fps", &mut into.silent_fps, 0.0..=10.0);
    section.flag("onset_frame", &mut into.onset_frame);
    section.whole("max_width", &mut into.max_width, 0..=4096);
    section.whole("max_height", &mut into.max_height, 0..=4096);
    section.word("resize", &mut into.resize);
    section.word("format", &mut into.format);
    section.whole("quality", &mut into.quality, 1..=100);
    section.word("detail", &mut into.detail);
}

pub fn prompt(text: &str) -> Result<String, String> {
    match text.chars().count() {
        0..=PROMPT_MAX => Ok(text.to_owned()),
        _ => Err(format!("at most {PROMPT_MAX} characters")),
    }
}

pub fn spoken(text: &str) -> Result<String, String> {
    match text.chars().count() {
        0..=SPOKEN_MAX => Ok(text.to_owned()),
        _ => Err(format!("at most {SPOKEN_MAX} characters are spoken at once")),
    }
}

/// The keys of an agent that speaks.
pub fn speaking(section: &Section, realtime: bool) -> Speaking {
    let mut agent = Speaking::default();
    section.parsed("display_name", &mut agent.display_name, display_name);
    section.parsed("instructions", &mut agent.instructions, prompt);
    for (key, into) in [
        ("greeting", &mut agent.greeting),
        ("disclosure", &mut agent.disclosure),
        ("fallback", &mut agent.fallback),
    ] {
        section.parsed(key, into, spoken);
    }
    for (key, into) in [("stt", &mut agent.stt), ("llm", &mut agent.llm), ("tts", &mut agent.tts)] {
        names(section, key, into);
    }
    section.text("realtime", &mut agent.realtime);
    if realtime && agent.realtime.is_empty() && !section.has("realtime") {
        section.problem("realtime", "say which [realtime.NAME] it speaks through");
    }
    section.text("voice", &mut agent.voice);
    section.parsed("language", &mut agent.language, language);
    section.word("sight", &mut agent.sight);
    section.list("tools", &mut agent.tools, |text| Ok(text.to_owned()));
    section.list("sources", &mut agent.sources, |text| Ok(text.to_owned()));
    agent.on_start = tools::read::on_start(section);
    section.whole("keep_images", &mut agent.keep_images, 0..=100);
    section.whole("max_tool_steps", &mut agent.max_tool_steps, 0..=20);
    section.text("avatar", &mut agent.avatar);
    for table in section.table_list("context").into_iter().flatten() {
        agent.context.push(context(&table));
    }
    for (name, table) in section.table("prompts").tables() {
        match language(&name) {
            Ok(name) if name != "auto" => {
                agent.prompts.insert(name, prompts(&table));
            }
            Ok(_) | Err(_) => section.problem("prompts", format!("{name:?} is no language; write \"de\"")),
        }
    }
    agent
}

/// The keys of an agent that is its avatar; those of other agents are read to be refused.
pub fn avatar(section: &Section) -> Speaking {
    let mut agent = Speaking { tools: Vec::new(), sight: Sight::Off, ..Speaking::default() };
    section.parsed("display_name", &mut agent.display_name, display_name);
    for (key, into) in [("greeting", &mut agent.greeting), ("disclosure", &mut agent.disclosure)] {
        section.parsed(key, into, spoken);
    }
    for (key, into) in [("stt", &mut agent.stt), ("llm", &mut agent.llm), ("tts", &mut agent.tts)] {
        names(section, key, into);
    }
    section.text("realtime", &mut agent.realtime);
    section.list("tools", &mut agent.tools, |text| Ok(text.to_owned()));
    section.list("sources", &mut agent.sources, |text| Ok(text.to_owned()));
    section.parsed("fallback", &mut agent.fallback, spoken);
    section.parsed("language", &mut agent.language, language);
    section.text("avatar", &mut agent.avatar);
    agent
}

fn prompts(section: &Section) -> Prompts {
    let mut prompts = Prompts::default();
    let some = |read: fn(&str) -> Result<String, String>| move |text: &str| read(text).map(Some);
    section.parsed("instructions", &mut prompts.instructions, some(prompt));
    section.parsed("greeting", &mut prompts.greeting, some(spoken));
    section.parsed("disclosure", &mut prompts.disclosure, some(spoken));
    section.parsed("fallback", &mut prompts.fallback, some(spoken));
    section.parsed("voice", &mut prompts.voice, some(|text| Ok(text.to_owned())));
    prompts
}

fn context(section: &Section) -> Context {
    let mut context = Context { role: ContextRole::User, text: String::new(), image: None };
    section.word("role", &mut context.role);
    section.parsed("text", &mut context.text, prompt);
    section.parsed("image", &mut context.image, |text| picture::place(text).map(Some));
    if context.text.is_empty() && context.image.is_none() && !section.has("image") {
        section.problem("text", "write what the agent is to know");
    }
    if context.image.is_some() && context.role != ContextRole::User {
        section.problem("image", "models take pictures of the user only: role = \"user\"");
    }
    context
}

/// One name or several.
fn names(section: &Section, key: &str, into: &mut Vec<String>) {
    if section.is_text(key) {
        section.parsed(key, into, |text| {
            Ok(Some(text.to_owned()).filter(|text| !text.is_empty()).into_iter().collect())
        });
    } else {
        section.list(key, into, |text| Ok(text.to_owned()));
    }
}

/// The environment variable a vendor's own tools read.
pub fn usual_variable(vendor: Vendor) -> Option<&'static str> {
    match vendor {
        Vendor::Openai => Some("OPENAI_API_KEY"),
        Vendor::Gemini => Some("GEMINI_API_KEY"),
        Vendor::Anthropic => Some("ANTHROPIC_API_KEY"),
        Vendor::Deepgram => Some("DEEPGRAM_API_KEY"),
        Vendor::Espeak | Vendor::Mock => None,
    }
}

/// What is waited for, in milliseconds.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The providers of one service that exist, for a message.
pub fn known(providers: &BTreeMap<String, Provider>) -> impl Iterator<Item = &str> {
    providers.keys().map(String::as_str)
}
