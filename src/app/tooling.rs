//! What an agent has to act with, from the sections of the configuration: its tools as models are told of them, their
//! policies, doors, services, triggers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::app::config::settings::Config;
use crate::app::config::settings::speech::Speaking;
use crate::app::config::tools::check::{DOOR, HTTP};
use crate::app::config::tools::settings::{
    HttpTool, Method, Needs, Policy as PolicyConfig, Request, Start as StartConfig, Trigger as TriggerConfig,
    Unlock, Via,
};
use crate::engine::sources::Sources;
use crate::engine::talk::cues::Start;
use crate::engine::talk::toolbox::{SharedDoor, ToolSet};
use crate::talk::link::Services;
use crate::talk::message::ToolSpec;
use crate::talk::tools::http::{self, Service};
use crate::talk::tools::unlock::{self, Allowed, Door, Opening, Pin, Resting, UNLOCK};
use crate::talk::tools::{self, NAMES, Policy};
use crate::talk::trigger::{Action, Trigger, When};

/// What the calls of all agents share: the doors, and the connections to services.
#[derive(Default)]
pub struct Tooling {
    doors: BTreeMap<String, (Arc<Door>, Arc<Mutex<Resting>>)>,
    link: Services,
    pub sources: Sources,
}

impl Tooling {
    pub fn new(config: &Config, sources: Sources) -> Self {
        let door = |(name, unlock): (&String, &Unlock)| {
            (name.clone(), (Arc::new(door(name, unlock)), Arc::new(Mutex::new(Resting::default()))))
        };
        Tooling { doors: config.tools.doors.iter().map(door).collect(), link: Services::new(), sources }
    }

    /// The tools an agent's model is told of. `sees`: it gets pictures.
    pub fn specs(&self, config: &Config, agent: &Speaking, sees: bool) -> Vec<ToolSpec> {
        let mut specs: Vec<ToolSpec> = agent
            .tools
            .iter()
            .filter(|name| sees || *name != "look")
            .filter(|name| agent.sources.is_empty() || *name != "look")
            .filter_map(|name| match name.strip_prefix(HTTP) {
                Some(inner) => Some(service(inner, config.tools.http.get(inner)?).spec()),
                None => tools::spec(name),
            })
            .collect();
        let doors: Vec<Arc<Door>> =
            self.offered(agent).into_iter().map(|name| self.doors[name].0.clone()).collect();
        if !doors.is_empty() {
            specs.push(unlock::spec(&doors));
        }
        if !agent.sources.is_empty() {
            let caller = sees && agent.tools.iter().any(|tool| tool == "look");
            specs.extend([tools::look_at(caller, &agent.sources), tools::list_sources()]);
        }
        specs
    }

    /// The doors an agent's model may name.
    fn offered(&self, agent: &Speaking) -> Vec<&String> {
        let all = agent.tools.iter().any(|tool| tool == UNLOCK);
        let named =
            |name: &&String| agent.tools.iter().any(|tool| tool.strip_prefix(DOOR) == Some(name.as_str()));
        self.doors.keys().filter(|name| all || named(name)).collect()
    }

    /// What the calls of an agent act with.
    pub fn set(&self, config: &Config, name: &str, agent: &Speaking) -> ToolSet {
        let triggers: Vec<&TriggerConfig> = config
            .tools
            .triggers
            .iter()
            .filter(|trigger| trigger.agents.is_empty() || trigger.agents.iter().any(|agent| agent == name))
            .collect();
        let offered = self.offered(agent);
        let shared = |(name, (door, resting)): (&String, &(Arc<Door>, Arc<Mutex<Resting>>))| SharedDoor {
            door: door.clone(),
            resting: resting.clone(),
            offered: offered.contains(&name),
        };
        // A trigger may open a door the model cannot name. Those that neither knows are left out.
        let opens = |name: &str| {
            triggers.iter().any(|trigger| {
                let door = trigger.arguments["door"].as_str().unwrap_or_default();
                trigger.tool == UNLOCK && (door == name || door.is_empty())
            })
        };
        let doors = self.doors.iter().filter(|(name, _)| offered.contains(name) || opens(name)).map(shared);
        let uses = |tool: &str| {
            let prefixed = format!("{HTTP}{tool}");
            agent.tools.contains(&prefixed) || triggers.iter().any(|trigger| trigger.tool == prefixed)
        };
        let services = config.tools.http.iter().filter(|(name, _)| uses(name));
        ToolSet {
            policies: Arc::new(policies(config)),
            doors: doors.collect(),
            services: services.map(|(name, tool)| (name.clone(), Arc::new(service(name, tool)))).collect(),
            link: self.link.clone(),
            triggers: triggers.iter().map(|found| trigger(found, agent)).collect(),
            on_start: agent.on_start.iter().map(start).collect(),
            sources: self.sources.clone(),
            may_look: agent.sources.clone(),
        }
    }
}

/// By the names the toolbox knows: of a tool, of a service, `unlock:` and a door's.
fn policies(config: &Config) -> BTreeMap<String, Policy> {
    let built_in = NAMES.iter().map(|name| {
        let written = config.tools.policies.get(*name).cloned();
        ((*name).to_owned(), policy(&written.unwrap_or_else(|| PolicyConfig::of(name))))
    });
    let http = config.tools.http.iter().map(|(name, tool)| (name.clone(), policy(&tool.policy)));
    let doors = config.tools.doors.iter().map(|(name, door)| (format!("{DOOR}{name}"), policy(&door.policy)));
    built_in.chain(http).chain(doors).collect()
}

fn policy(written: &PolicyConfig) -> Policy {
    Policy {
        max_per_call: written.max_per_call,
        min_interval: written.min_interval,
        needs: match written.needs {
            Needs::Nothing => tools::Needs::Nothing,
            Needs::Speech => tools::Needs::Speech,
        },
        allow: written.allow.clone(),
    }
}

fn service(name: &str, tool: &HttpTool) -> Service {
    Service {
        description: tool.description.clone(),
        schema: tool.schema.clone(),
        max_bytes: tool.max_bytes as usize,
        ..request(name, &tool.request)
    }
}

fn request(name: &str, request: &Request) -> Service {
    let header = |(name, value): (&String, &_)| {
        let value: &crate::app::config::secret::Secret = value;
        (name.clone(), value.expose().to_owned())
    };
    Service {
        name: name.to_owned(),
        description: String::new(),
        method: match request.method {
            Method::Get => http::Method::Get,
            Method::Post => http::Method::Post,
            Method::Put => http::Method::Put,
            Method::Patch => http::Method::Patch,
            Method::Delete => http::Method::Delete,
        },
        url: request.url.clone(),
        headers: request.headers.iter().map(header).collect(),
        body: Some(request.body.clone()).filter(|body| !body.is_empty()),
        schema: HttpTool::default().schema,
        timeout: request.timeout,
        max_bytes: HttpTool::default().max_bytes as usize,
        near: request.near,
    }
}

fn door(name: &str, unlock: &Unlock) -> Door {
    Door {
        name: name.to_owned(),
        description: unlock.description.clone(),
        opening: match unlock.via {
            Via::Dtmf => Opening::Digits(unlock.digits.clone()),
            Via::Http => Opening::Request(request(name, &unlock.request)),
        },
        pin: Some(unlock.pin.expose()).filter(|pin| !pin.is_empty()).map(Pin::new),
        max_tries: unlock.max_tries,
        pin_timeout: unlock.pin_timeout,
        present: Some(unlock.present.clone())
            .filter(|class| !class.is_empty())
            .map(|class| (class, unlock.present_within)),
        // Each was read before.
        callers: unlock.callers.iter().filter_map(|text| Allowed::parse(text).ok()).collect(),
    }
}

fn trigger(found: &TriggerConfig, agent: &Speaking) -> Trigger {
    let started = |start: &StartConfig| matches!(start, StartConfig::Trigger(name) if *name == found.name);
    Trigger {
        name: found.name.clone(),
        when: match (found.every, found.after) {
            (Some(every), _) => When::Every(every),
            (None, Some(after)) => When::After(after),
            (None, None) => When::Seen { class: found.class.clone(), lasting: found.lasting },
        },
        // Time has a pace of its own.
        cooldown: if found.class.is_empty() { std::time::Duration::ZERO } else { found.cooldown },
        max_per_call: found.max_per_call,
        action: if found.tool.is_empty() {
            Action::Ask(found.ask.clone())
        } else {
            let name = found.tool.strip_prefix(HTTP).unwrap_or(&found.tool).to_owned();
            Action::Tool { name, arguments: found.arguments.to_string() }
        },
        at_answer: !agent.on_start.iter().any(started),
    }
}

fn start(start: &StartConfig) -> Start {
    match start {
        StartConfig::Say(text) => Start::Say(text.clone()),
        StartConfig::Show(what) => Start::Show(what.clone()),
        StartConfig::Trigger(name) => Start::Trigger(name.clone()),
    }
}
