//! What agents that speak, and those they speak through, must be together.

use std::net::IpAddr;

use super::picture;
use super::read::known;
use super::settings::{Provider, Service, Sight, Speaking, Vendor};
use crate::app::config::section::{Reading, did_you_mean};
use crate::app::config::settings::{Agent, Config};
use crate::talk::link::address::is_near;
use crate::talk::tools::NAMES;

pub fn check(config: &Config, reading: &Reading) {
    picture::check(config, reading);
    for service in Service::ALL {
        for (name, provider) in config.providers.of(service) {
            check_provider(reading, &format!("{}.{name}", service.section()), provider);
        }
    }
    for (name, agent) in &config.agents {
        let path = format!("agent.{name}");
        match agent {
            Agent::Pipeline(agent) => pipeline(config, reading, &path, agent),
            Agent::Realtime(agent) => realtime(config, reading, &path, agent),
            Agent::Mirror { .. } | Agent::Record => {}
        }
    }
}

fn check_provider(reading: &Reading, path: &str, provider: &Provider) {
    check_url(reading, path, provider);
    let needs_model = match provider.vendor {
        Vendor::Openai | Vendor::Gemini | Vendor::Anthropic => true,
        Vendor::Deepgram | Vendor::Espeak | Vendor::Mock => false,
    };
    // A server on the site may have one model only.
    if needs_model && provider.model.is_empty() && provider.base_url.is_empty() {
        reading.problem(&format!("{path}.model"), "say which model");
    }
}

/// Plain http shows keys, voices and faces to whoever is on the way.
fn check_url(reading: &Reading, path: &str, provider: &Provider) {
    let url = &provider.base_url;
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")) else { return };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let near = match bare.parse::<IpAddr>() {
        Ok(address) => is_near(address),
        Err(_) => {
            bare == "localhost"
                || bare.ends_with(".local")
                || bare.ends_with(".internal")
                || !bare.contains('.')
        }
    };
    if !near {
        reading.problem(
            &format!("{path}.base_url"),
            format!(
                "{bare} is not on this site: write https, plain http is for loopback and private addresses"
            ),
        );
    }
}

fn named<'a>(
    config: &'a Config,
    reading: &Reading,
    path: &str,
    service: Service,
    names: &[String],
) -> Vec<&'a Provider> {
    let providers = config.providers.of(service);
    let mut found = Vec::new();
    for name in names {
        match providers.get(name) {
            Some(provider) => found.push(provider),
            None => {
                let section = service.section();
                let help = did_you_mean(name, known(providers));
                reading
                    .problem(&format!("{path}.{section}"), format!("there is no [{section}.{name}]{help}"));
            }
        }
    }
    found
}

fn pipeline(config: &Config, reading: &Reading, path: &str, agent: &Speaking) {
    for (service, names) in
        [(Service::Transcription, &agent.stt), (Service::Language, &agent.llm), (Service::Speech, &agent.tts)]
    {
        if names.is_empty() {
            let section = service.section();
            reading.problem(&format!("{path}.{section}"), format!("name one of [{section}.NAME]"));
        }
    }
    named(config, reading, path, Service::Transcription, &agent.stt);
    named(config, reading, path, Service::Speech, &agent.tts);
    let models = named(config, reading, path, Service::Language, &agent.llm);
    if !agent.realtime.is_empty() {
        reading.problem(&format!("{path}.realtime"), "only an agent of kind \"realtime\" has it");
    }
    if agent.sight == Sight::Live {
        reading.problem(&format!("{path}.sight"), "\"live\" is for kind = \"realtime\"; write \"turn\"");
    }
    blind(reading, path, agent, &models);
    tools(reading, path, agent);
}

fn realtime(config: &Config, reading: &Reading, path: &str, agent: &Speaking) {
    for (key, names) in [("stt", &agent.stt), ("llm", &agent.llm), ("tts", &agent.tts)] {
        if !names.is_empty() {
            reading.problem(
                &format!("{path}.{key}"),
                "a realtime model hears, thinks and speaks itself: leave it out",
            );
        }
    }
    let names = [agent.realtime.clone()];
    let names = if agent.realtime.is_empty() { &[][..] } else { &names[..] };
    let models = named(config, reading, path, Service::Realtime, names);
    blind(reading, path, agent, &models);
    tools(reading, path, agent);
}

/// A model that cannot see gets no pictures. Told for certain it is a mistake, by its name it is a warning.
fn blind(reading: &Reading, path: &str, agent: &Speaking, models: &[&Provider]) {
    if agent.sight == Sight::Off {
        return;
    }
    for model in models.iter().filter(|model| !model.can_see()) {
        let key = format!("{path}.sight");
        if model.sees == super::settings::Sees::False {
            reading
                .problem(&key, format!("{:?} cannot see (sees = false): write sight = \"off\"", model.model));
        } else {
            let text = format!(
                "{:?} is not known to see: it gets no pictures; say sees = true if it does",
                model.model
            );
            reading.warning(&key, text);
        }
    }
}

fn tools(reading: &Reading, path: &str, agent: &Speaking) {
    for (n, tool) in agent.tools.iter().enumerate() {
        if !NAMES.contains(&tool.as_str()) {
            let help = did_you_mean(tool, NAMES);
            reading.problem(&format!("{path}.tools[{n}]"), format!("there is no tool {tool:?}{help}"));
        }
    }
}
