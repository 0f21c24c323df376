//! The settings back to TOML.

use std::time::Duration;

use serde_json::Value;

use super::settings::{Prices, Provider, Sees, Service, Speaking, Talk, Vision};
use crate::app::config::print::{Page, key, quoted};
use crate::app::config::settings::Config;
use crate::app::config::tools;

const SECOND: Duration = Duration::from_secs(1);

pub fn talk(page: &mut Page, config: &Config) {
    for (name, place) in &config.pictures {
        page.section(format_args!("picture.{}", key(name)));
        page.text("file", &place.to_string());
    }
    print_vision(page, &config.vision);
    print_talk(page, &config.talk);
    for service in Service::ALL {
        for (name, provider) in config.providers.of(service) {
            page.section(format_args!("{}.{}", service.section(), key(name)));
            common(page, provider);
            page.text("voice", &provider.voice);
            page.text("language", &provider.language);
            if let Some(temperature) = provider.temperature {
                page.raw("temperature", temperature);
            }
            options(page, provider);
            if matches!(service, Service::Language | Service::Realtime) {
                sees(page, provider.sees);
                prices(page, provider.prices);
            }
        }
    }
}

fn options(page: &mut Page, provider: &Provider) {
    if !provider.options.is_empty() {
        page.raw("options", toml_of(&Value::Object(provider.options.clone())));
    }
}

fn sees(page: &mut Page, sees: Sees) {
    match sees {
        Sees::Auto => page.text("sees", "auto"),
        Sees::True => page.raw("sees", true),
        Sees::False => page.raw("sees", false),
    }
}

fn prices(page: &mut Page, prices: Prices) {
    page.raw("usd_per_million_in", prices.input);
    page.raw("usd_per_million_out", prices.output);
    page.raw("usd_per_million_image", prices.image);
}

fn common(page: &mut Page, provider: &Provider) {
    page.word("provider", provider.vendor);
    page.text("base_url", &provider.base_url);
    page.text("model", &provider.model);
    page.text("api_key", provider.api_key.shown());
    page.duration("timeout_s", provider.timeout, SECOND);
}

fn print_vision(page: &mut Page, vision: &Vision) {
    page.section("vision");
    common(page, &vision.model);
    options(page, &vision.model);
    sees(page, vision.model.sees);
    prices(page, vision.model.prices);
    page.text("prompt", &vision.prompt);
    page.raw("budget_images", vision.budget_images);
    page.raw("budget_tokens", vision.budget_tokens);
    page.raw("budget_usd", vision.budget_usd);
    page.raw("speaking_fps", vision.speaking_fps);
    page.raw("silent_fps", vision.silent_fps);
    page.raw("onset_frame", vision.onset_frame);
    page.raw("max_width", vision.max_width);
    page.raw("max_height", vision.max_height);
    page.word("resize", vision.resize);
    page.word("format", vision.format);
    page.raw("quality", vision.quality);
    page.word("detail", vision.detail);
}

fn print_talk(page: &mut Page, talk: &Talk) {
    page.section("talk");
    page.word("turn_detection", talk.turn_detection);
    page.word("endpointing", talk.endpointing);
    auto(page, "min_delay_s", talk.min_delay);
    auto(page, "max_delay_s", talk.max_delay);
    page.raw("vad_threshold", talk.vad_threshold);
    page.duration("min_silence_s", talk.min_silence, SECOND);
    page.raw("interruptions", talk.interruptions);
    page.duration("min_interruption_s", talk.min_interruption, SECOND);
    page.raw("min_words", talk.min_words);
    page.raw("resume_false_interruption", talk.resume_false_interruption);
    page.duration("false_interruption_timeout_s", talk.false_interruption_timeout, SECOND);
    page.raw("preemptive", talk.preemptive);
    page.raw("noise", talk.noise);
    page.raw("agc", talk.agc);
}

fn auto(page: &mut Page, key: &str, value: Option<Duration>) {
    match value {
        Some(value) => page.duration(key, value, SECOND),
        None => page.text(key, "auto"),
    }
}

/// The keys of an agent that speaks, behind its `kind`.
pub fn speaking(page: &mut Page, name: &str, agent: &Speaking, realtime: bool) {
    page.text("display_name", &agent.display_name);
    page.text("instructions", &agent.instructions);
    page.text("greeting", &agent.greeting);
    page.text("disclosure", &agent.disclosure);
    page.text("fallback", &agent.fallback);
    if realtime {
        page.text("realtime", &agent.realtime);
    } else {
        page.texts("stt", &agent.stt);
        page.texts("llm", &agent.llm);
        page.texts("tts", &agent.tts);
    }
    page.text("voice", &agent.voice);
    page.text("language", &agent.language);
    page.word("sight", agent.sight);
    page.texts("tools", &agent.tools);
    page.texts("sources", &agent.sources);
    tools::print::on_start(page, &agent.on_start);
    page.raw("keep_images", agent.keep_images);
    page.raw("max_tool_steps", agent.max_tool_steps);
    page.text("avatar", &agent.avatar);
    for (language, prompts) in &agent.prompts {
        page.section(format_args!("agent.{}.prompts.{}", key(name), key(language)));
        for (key, text) in [
            ("instructions", &prompts.instructions),
            ("greeting", &prompts.greeting),
            ("disclosure", &prompts.disclosure),
            ("fallback", &prompts.fallback),
            ("voice", &prompts.voice),
        ] {
            if let Some(text) = text {
                page.text(key, text);
            }
        }
    }
    for context in &agent.context {
        page.section(format_args!("[agent.{}.context]", key(name)));
        page.word("role", context.role);
        page.text("text", &context.text);
        if let Some(image) = &context.image {
            page.text("image", &image.to_string());
        }
    }
}

/// The keys of an agent that is its avatar.
pub fn avatar(page: &mut Page, agent: &Speaking) {
    page.text("display_name", &agent.display_name);
    page.text("greeting", &agent.greeting);
    page.text("disclosure", &agent.disclosure);
    page.text("fallback", &agent.fallback);
    page.text("language", &agent.language);
    page.text("avatar", &agent.avatar);
}

/// JSON as a TOML value in one line.
pub fn toml_of(value: &Value) -> String {
    match value {
        // TOML has no null; what is null was written as something no key takes.
        Value::Null => quoted(""),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{} = {}", key(name), toml_of(value));
            format!("{{ {} }}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
    }
}
