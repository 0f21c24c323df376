//! The tables to settings. What one value must be on its own.

use std::time::Duration;

use serde_json::Value as Json;

use super::settings::{HttpTool, Policy, Request, Start, Tools, Trigger, Unlock};
use crate::app::config::file::Value;
use crate::app::config::read::SECOND;
use crate::app::config::section::Section;
use crate::app::config::talk::read::{json, prompt, spoken};
use crate::talk::tools::unlock::Allowed;
use crate::talk::tools::{http, schema};

/// A name models know: what all of their APIs take.
const NAME_MAX: usize = 48;
/// Keys that open a door.
const DIGITS_MAX: usize = 32;
/// Of a PIN: shorter ones are guessed.
const PIN: std::ops::RangeInclusive<usize> = 4..=16;

pub fn tools(root: &Section, into: &mut Tools) {
    for (name, table) in root.table("tool").tables() {
        let mut policy = Policy::of(&name);
        read_policy(&table, &mut policy);
        table.list("allow", &mut policy.allow, named("a value that is allowed"));
        into.policies.insert(name, policy);
    }
    for (name, table) in root.table("http_tool").tables() {
        check_name(&table, &name);
        into.http.insert(name, http_tool(&table));
    }
    for (name, table) in root.table("unlock").tables() {
        check_name(&table, &name);
        into.doors.insert(name, unlock(&table));
    }
    if let Some(triggers) = root.table_list("trigger") {
        into.triggers = triggers.iter().map(trigger).collect();
    }
}

fn check_name(section: &Section, name: &str) {
    let good = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !good || name.is_empty() || name.len() > NAME_MAX {
        section.problem("description", format!("a name of letters, digits, - and _, at most {NAME_MAX}"));
    }
}

fn named(what: &'static str) -> impl Fn(&str) -> Result<String, String> {
    move |text| if text.trim().is_empty() { Err(format!("write {what}")) } else { Ok(text.to_owned()) }
}

fn read_policy(section: &Section, into: &mut Policy) {
    section.whole("max_per_call", &mut into.max_per_call, 0..=10_000);
    section.duration("min_interval_s", &mut into.min_interval, SECOND, 0.0..=86_400.0);
    section.word("needs", &mut into.needs);
}

fn request(section: &Section, into: &mut Request) {
    section.word("method", &mut into.method);
    section.parsed("url", &mut into.url, |text| {
        http::check_url(text).map(|_| text.to_owned()).map_err(|why| format!("{text:?}: {why}"))
    });
    into.headers = section.table("headers").secrets();
    for (name, value) in &into.headers {
        let good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !good || value.expose().chars().any(char::is_control) {
            section.problem(&format!("headers.{name}"), "no header of HTTP can be this");
        }
    }
    section.text("body", &mut into.body);
    section.duration("timeout_s", &mut into.timeout, SECOND, 0.1..=30.0);
    section.flag("near", &mut into.near);
}

fn http_tool(section: &Section) -> HttpTool {
    let mut tool = HttpTool::default();
    section.parsed("description", &mut tool.description, prompt);
    if tool.description.trim().is_empty() {
        section.problem("description", "say what it is for: the model decides by it");
    }
    request(section, &mut tool.request);
    if tool.request.url.is_empty() && !section.has("url") {
        section.problem("url", "say where it goes");
    }
    if let Some(node) = section.raw("schema") {
        let written = json(node);
        match schema::check(&written) {
            Ok(()) => tool.schema = written,
            Err(why) => section.problem("schema", why),
        }
    }
    section.whole("max_bytes", &mut tool.max_bytes, 1..=65_536);
    read_policy(section, &mut tool.policy);
    tool
}

fn unlock(section: &Section) -> Unlock {
    let mut door = Unlock::default();
    section.text("description", &mut door.description);
    section.word("via", &mut door.via);
    section.parsed("digits", &mut door.digits, |text| {
        let good = text.len() <= DIGITS_MAX && text.chars().all(|key| "0123456789*#ABCD".contains(key));
        if good { Ok(text.to_owned()) } else { Err(format!("at most {DIGITS_MAX} of 0-9, *, #, A-D")) }
    });
    request(section, &mut door.request);
    section.secret("pin", &mut door.pin);
    let pin = door.pin.expose();
    let good = pin.bytes().all(|byte| byte.is_ascii_digit()) && PIN.contains(&pin.len());
    if !good && !pin.is_empty() {
        // Not what it is.
        section.problem("pin", format!("{} to {} digits", PIN.start(), PIN.end()));
    }
    section.whole("max_tries", &mut door.max_tries, 1..=10);
    section.duration("pin_timeout_s", &mut door.pin_timeout, SECOND, 5.0..=300.0);
    section.text("present", &mut door.present);
    section.duration("present_within_s", &mut door.present_within, SECOND, 1.0..=300.0);
    section.list("callers", &mut door.callers, |text| Allowed::parse(text).map(|_| text.to_owned()));
    read_policy(section, &mut door.policy);
    door
}

fn trigger(section: &Section) -> Trigger {
    let mut trigger = Trigger::default();
    section.parsed("name", &mut trigger.name, named("a name"));
    section.list("agents", &mut trigger.agents, named("an agent's name"));
    section.text("class", &mut trigger.class);
    section.duration("for_s", &mut trigger.lasting, SECOND, 0.0..=3_600.0);
    for (key, into) in [("every_s", &mut trigger.every), ("after_s", &mut trigger.after)] {
        let mut time = Duration::MAX;
        section.duration(key, &mut time, SECOND, 1.0..=86_400.0);
        *into = Some(time).filter(|time| *time != Duration::MAX);
    }
    section.duration("cooldown_s", &mut trigger.cooldown, SECOND, 0.0..=86_400.0);
    section.whole("max_per_call", &mut trigger.max_per_call, 0..=10_000);
    section.parsed("ask", &mut trigger.ask, prompt);
    section.text("tool", &mut trigger.tool);
    match section.raw("arguments").map(|node| (&node.value, json(node))) {
        Some((Value::Table(_), arguments)) => trigger.arguments = arguments,
        Some(_) => section.wrong_at("arguments", "a table"),
        None => {}
    }
    if trigger.name.is_empty() {
        section.problem("name", "give it a name");
    }
    let whens = [!trigger.class.is_empty(), trigger.every.is_some(), trigger.after.is_some()];
    if whens.into_iter().filter(|when| *when).count() != 1 {
        section.problem("class", "say when, by one of class, every_s and after_s");
    }
    if trigger.ask.is_empty() == trigger.tool.is_empty() {
        section.problem("ask", "say what then, by one of ask and tool");
    }
    if trigger.arguments != Json::Object(serde_json::Map::new()) && trigger.tool.is_empty() {
        section.problem("arguments", "only a tool has arguments");
    }
    trigger
}

/// `on_start` of an agent.
pub fn on_start(section: &Section) -> Vec<Start> {
    let mut starts = Vec::new();
    for table in section.table_list("on_start").into_iter().flatten() {
        let (mut say, mut show, mut trigger) = (String::new(), String::new(), String::new());
        table.parsed("say", &mut say, spoken);
        table.text("show", &mut show);
        table.text("trigger", &mut trigger);
        match (say.is_empty(), show.is_empty(), trigger.is_empty()) {
            (false, true, true) => starts.push(Start::Say(say)),
            (true, false, true) => starts.push(Start::Show(show)),
            (true, true, false) => starts.push(Start::Trigger(trigger)),
            _ => table.problem("say", "one of say, show and trigger"),
        }
    }
    starts
}
