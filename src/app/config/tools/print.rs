//! The settings back to TOML.

use std::collections::BTreeMap;

use super::settings::{Policy, Request, Start, Tools, Trigger, Via};
use crate::app::config::print::{Page, key, quoted};
use crate::app::config::secret::Secret;
use crate::app::config::talk::print::toml_of;

pub fn tools(page: &mut Page, tools: &Tools) {
    for (name, policy) in &tools.policies {
        page.section(format_args!("tool.{}", key(name)));
        print_policy(page, policy);
        page.texts("allow", &policy.allow);
    }
    for (name, tool) in &tools.http {
        page.section(format_args!("http_tool.{}", key(name)));
        page.text("description", &tool.description);
        print_request(page, &tool.request);
        page.raw("schema", toml_of(&tool.schema));
        page.raw("max_bytes", tool.max_bytes);
        print_policy(page, &tool.policy);
    }
    for (name, door) in &tools.doors {
        page.section(format_args!("unlock.{}", key(name)));
        page.text("description", &door.description);
        page.word("via", door.via);
        match door.via {
            Via::Dtmf => page.text("digits", &door.digits),
            Via::Http => print_request(page, &door.request),
        }
        page.text("pin", door.pin.shown());
        page.raw("max_tries", door.max_tries);
        page.seconds("pin_timeout_s", door.pin_timeout);
        page.text("present", &door.present);
        page.seconds("present_within_s", door.present_within);
        page.texts("callers", &door.callers);
        print_policy(page, &door.policy);
    }
    tools.triggers.iter().for_each(|trigger| print_trigger(page, trigger));
}

fn print_policy(page: &mut Page, policy: &Policy) {
    page.raw("max_per_call", policy.max_per_call);
    page.seconds("min_interval_s", policy.min_interval);
    page.word("needs", policy.needs);
}

fn print_request(page: &mut Page, request: &Request) {
    page.word("method", request.method);
    page.text("url", &request.url);
    page.raw("headers", headers(&request.headers));
    page.text("body", &request.body);
    page.seconds("timeout_s", request.timeout);
    page.raw("near", request.near);
}

fn headers(headers: &BTreeMap<String, Secret>) -> String {
    if headers.is_empty() {
        return "{}".to_owned();
    }
    let one = |(name, value): (&String, &Secret)| format!("{} = {}", key(name), quoted(value.shown()));
    format!("{{ {} }}", headers.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn print_trigger(page: &mut Page, trigger: &Trigger) {
    page.section("[trigger]");
    page.text("name", &trigger.name);
    page.texts("agents", &trigger.agents);
    if !trigger.class.is_empty() {
        page.text("class", &trigger.class);
        page.seconds("for_s", trigger.lasting);
    }
    for (name, time) in [("every_s", trigger.every), ("after_s", trigger.after)] {
        if let Some(time) = time {
            page.seconds(name, time);
        }
    }
    page.seconds("cooldown_s", trigger.cooldown);
    page.raw("max_per_call", trigger.max_per_call);
    if trigger.tool.is_empty() {
        page.text("ask", &trigger.ask);
    } else {
        page.text("tool", &trigger.tool);
        page.raw("arguments", toml_of(&trigger.arguments));
    }
}

/// `on_start` of an agent.
pub fn on_start(page: &mut Page, starts: &[Start]) {
    page.list(
        "on_start",
        starts.iter().map(|start| match start {
            Start::Say(text) => format!("{{ say = {} }}", quoted(text)),
            Start::Show(what) => format!("{{ show = {} }}", quoted(what)),
            Start::Trigger(name) => format!("{{ trigger = {} }}", quoted(name)),
        }),
    );
}
