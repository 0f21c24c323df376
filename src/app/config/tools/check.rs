//! What tools, doors, triggers and the agents that have them must be together. A door nobody guards is refused.

use crate::app::config::section::{Reading, did_you_mean};
use crate::app::config::settings::speech::Speaking;
use crate::app::config::settings::{Agent, Config};
use crate::talk::tools::unlock::UNLOCK;
use crate::talk::tools::{LIST_SOURCES, NAMES, http};

use super::settings::{HttpTool, Start, Trigger, Unlock, Via};

/// Tools with an argument that decides.
const CHOOSE: [&str; 4] = ["dtmf", "transfer", "show", "send_image"];
/// How an agent's list names one declared over HTTP, and one door of several.
pub const HTTP: &str = "http:";
pub const DOOR: &str = "unlock:";

pub fn check(config: &Config, reading: &Reading) {
    let tools = &config.tools;
    for (name, policy) in &tools.policies {
        let path = format!("tool.{name}");
        if !NAMES.contains(&name.as_str()) {
            let help = did_you_mean(name, NAMES);
            let text = format!("there is no tool {name:?} with a policy of this kind{help}");
            reading.problem(&path, text);
        } else if !policy.allow.is_empty() && !CHOOSE.contains(&name.as_str()) {
            let text = format!("only {} have values to choose from", CHOOSE.join(", "));
            reading.problem(&format!("{path}.allow"), text);
        }
    }
    for (name, tool) in &tools.http {
        http_tool(reading, &format!("http_tool.{name}"), name, tool);
    }
    for (name, door) in &tools.doors {
        unlock(config, reading, &format!("unlock.{name}"), door);
    }
    for (n, trigger) in tools.triggers.iter().enumerate() {
        let path = format!("trigger[{n}]");
        if tools.triggers[..n].iter().any(|other| other.name == trigger.name) {
            reading.problem(&format!("{path}.name"), format!("{:?} stands twice", trigger.name));
        }
        check_trigger(config, reading, &path, trigger);
    }
}

fn http_tool(reading: &Reading, path: &str, name: &str, tool: &HttpTool) {
    if NAMES.contains(&name) || name == UNLOCK || name == LIST_SOURCES {
        reading.problem(path, format!("{name:?} is a tool of its own: choose another name"));
    }
    let members = tool.schema["properties"].as_object();
    for hole in http::check_url(&tool.request.url).unwrap_or_default() {
        let required = tool.schema["required"].as_array();
        if !members.is_some_and(|members| members.contains_key(&hole)) {
            reading.problem(&format!("{path}.url"), format!("{{{hole}}} is no argument of its schema"));
        } else if !required.is_some_and(|names| names.iter().any(|name| *name == hole)) {
            let text = format!("{{{hole}}} stands in the address: write it into required of the schema");
            reading.problem(&format!("{path}.schema"), text);
        }
    }
}

fn unlock(config: &Config, reading: &Reading, path: &str, door: &Unlock) {
    let at = |key: &str| format!("{path}.{key}");
    match door.via {
        Via::Dtmf if door.digits.is_empty() => {
            reading.problem(&at("digits"), "say which keys open it, or via = \"http\"");
        }
        Via::Dtmf if !door.request.url.is_empty() => {
            reading.problem(&at("url"), "only with via = \"http\"");
        }
        Via::Http if door.request.url.is_empty() => {
            reading.problem(&at("url"), "say which request opens it");
        }
        Via::Http if !door.digits.is_empty() => {
            reading.problem(&at("digits"), "only with via = \"dtmf\"");
        }
        Via::Http if !http::check_url(&door.request.url).is_ok_and(|holes| holes.is_empty()) => {
            reading.problem(&at("url"), "a door's request has no holes");
        }
        Via::Dtmf | Via::Http => {}
    }
    if door.pin.is_empty() && door.present.is_empty() && door.callers.is_empty() {
        reading.problem(
            &at("pin"),
            "anybody who talks to the agent could open it: write pin, present or callers",
        );
    } else if door.pin.is_empty() && door.callers.is_empty() {
        reading.warning(
            &at("present"),
            "whoever is seen and asks gets in; write a pin or callers unless that is meant",
        );
    }
    if !door.present.is_empty() {
        watched(config, reading, &at("present"), &door.present, &[]);
    }
}

fn check_trigger(config: &Config, reading: &Reading, path: &str, trigger: &Trigger) {
    for (n, name) in trigger.agents.iter().enumerate() {
        let key = format!("{path}.agents[{n}]");
        match config.agents.get(name) {
            Some(Agent::Pipeline(_) | Agent::Realtime(_)) => {}
            Some(Agent::Mirror { .. } | Agent::Record { .. } | Agent::Avatar(_)) => {
                reading.problem(&key, "this agent does not talk with tools")
            }
            None => {
                let help = did_you_mean(name, config.agents.keys().map(String::as_str));
                reading.problem(&key, format!("there is no [agent.{name}]{help}"));
            }
        }
    }
    if !trigger.tool.is_empty() {
        let door = trigger.arguments["door"].as_str().unwrap_or_default();
        let name = match trigger.tool.as_str() {
            UNLOCK if !door.is_empty() => format!("{DOOR}{door}"),
            name => name.to_owned(),
        };
        exists(config, reading, &format!("{path}.tool"), &name);
    }
    if !trigger.class.is_empty() {
        watched(config, reading, &format!("{path}.class"), &trigger.class, &trigger.agents);
    }
}

/// Something has to look for what is waited for, on a route of these agents; empty: of any that talks.
fn watched(config: &Config, reading: &Reading, key: &str, class: &str, agents: &[String]) {
    let talks = |name: &String| match config.agents.get(name) {
        Some(Agent::Pipeline(_) | Agent::Realtime(_)) => agents.is_empty() || agents.contains(name),
        _ => false,
    };
    let mut routes = config.routes.iter().filter(|route| route.video && talks(&route.agent));
    let finds = |name: &String| {
        let detector = config.detectors.get(name);
        detector.is_some_and(|found| found.classes.is_empty() || found.classes.iter().any(|one| one == class))
    };
    if !routes.any(|route| route.detect.iter().any(finds)) {
        let text =
            format!("no detector of a route to these agents looks for {class:?}: nothing will be seen");
        reading.warning(key, text);
    }
}

/// The tools and the start of an agent.
pub fn agent(config: &Config, reading: &Reading, path: &str, agent: &Speaking) {
    for (n, tool) in agent.tools.iter().enumerate() {
        exists(config, reading, &format!("{path}.tools[{n}]"), tool);
    }
    for (n, start) in agent.on_start.iter().enumerate() {
        let at = |key: &str| format!("{path}.on_start[{n}].{key}");
        match start {
            Start::Trigger(name) if !config.tools.triggers.iter().any(|trigger| trigger.name == *name) => {
                let names = config.tools.triggers.iter().map(|trigger| trigger.name.as_str());
                let help = did_you_mean(name, names);
                reading
                    .problem(&at("trigger"), format!("there is no [[trigger]] of the name {name:?}{help}"));
            }
            Start::Show(name) if !config.pictures.contains_key(name) && !is_of_call(name) => {
                let names = config.pictures.keys().map(String::as_str);
                let help = did_you_mean(name, names);
                reading.problem(&at("show"), format!("there is no [picture.{name}]{help}"));
            }
            Start::Say(_) | Start::Show(_) | Start::Trigger(_) => {}
        }
    }
}

/// Pictures every call has.
fn is_of_call(name: &str) -> bool {
    name == "snapshot" || name.starts_with("context-")
}

fn exists(config: &Config, reading: &Reading, key: &str, name: &str) {
    let (section, known): (_, Vec<&str>) = if name.starts_with(HTTP) {
        ("http_tool", config.tools.http.keys().map(String::as_str).collect())
    } else {
        (UNLOCK, config.tools.doors.keys().map(String::as_str).collect())
    };
    if let Some(inner) = name.strip_prefix(HTTP).or_else(|| name.strip_prefix(DOOR)) {
        if !known.contains(&inner) {
            let help = did_you_mean(inner, known);
            reading.problem(key, format!("there is no [{section}.{inner}]{help}"));
        }
    } else if name == UNLOCK {
        if known.is_empty() {
            reading.problem(key, "there is no door: write [unlock.NAME]");
        }
    } else if !NAMES.contains(&name) {
        let help = did_you_mean(name, NAMES.into_iter().chain([UNLOCK, "http:NAME"]));
        reading.problem(key, format!("there is no tool {name:?}{help}"));
    }
}
