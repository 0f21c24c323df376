//! What agents that speak, and those they speak through, must be together.

use std::net::IpAddr;

use super::picture;
use super::read::known;
use super::settings::{Provider, Sees, Service, Sight, Speaking, Vendor};
use crate::app::config::section::{Reading, did_you_mean};
use crate::app::config::settings::{Agent, Config};
use crate::app::config::tools;
use crate::talk::link::address::is_near;

pub fn check(config: &Config, reading: &Reading) {
    picture::check(config, reading);
    for service in Service::ALL {
        for (name, provider) in config.providers.of(service) {
            check_provider(reading, &format!("{}.{name}", service.section()), provider);
        }
    }
    vision(config, reading);
    for (name, agent) in &config.agents {
        let path = format!("agent.{name}");
        match agent {
            Agent::Pipeline(agent) => pipeline(config, reading, &path, agent),
            Agent::Realtime(agent) => realtime(config, reading, &path, agent),
            Agent::Mirror { .. } | Agent::Record { .. } | Agent::Avatar(_) => {}
        }
        sight(config, reading, &format!("{path}.sight"), agent, agent.sight());
    }
    for (n, route) in config.routes.iter().enumerate() {
        let agent = config.agents.get(&route.agent);
        if let (Some(agent), Some(own)) = (agent, route.sight) {
            sight(config, reading, &format!("route[{n}].sight"), agent, own);
        }
    }
}

/// The model that describes.
fn vision(config: &Config, reading: &Reading) {
    let vision = &config.vision;
    check_url(reading, "vision", &vision.model);
    if vision.describes() && !vision.model.can_see() {
        let text = format!(
            "{:?} is not known to see, and is to describe pictures: another, or sees = true",
            vision.model.model
        );
        reading.problem("vision.model", text);
    }
    if vision.budget_usd <= 0.0 {
        return;
    }
    let priceless = |provider: &Provider| !provider.prices.are_known();
    if vision.describes() && priceless(&vision.model) {
        let text = "without a price the model that describes costs nothing of vision.budget_usd";
        reading.warning("vision.usd_per_million_in", text);
    }
    for (name, agent) in &config.agents {
        let (service, names) = match agent {
            Agent::Pipeline(agent) => (Service::Language, agent.llm.as_slice()),
            Agent::Realtime(agent) => (Service::Realtime, std::slice::from_ref(&agent.realtime)),
            Agent::Mirror { .. } | Agent::Record { .. } | Agent::Avatar(_) => continue,
        };
        let shown = matches!(agent.sight(), Sight::Turn | Sight::Live);
        let known = names.iter().filter_map(|name| config.providers.of(service).get(name));
        if shown && known.clone().any(priceless) {
            let text = format!(
                "its model has no usd_per_million_in: vision.budget_usd counts nothing of [agent.{name}]"
            );
            reading.warning(&format!("agent.{name}.sight"), text);
        }
    }
}

/// How an agent looks at its callers, by itself or on one route.
fn sight(config: &Config, reading: &Reading, key: &str, agent: &Agent, sight: Sight) {
    let known = |service: Service, names: &[String]| -> Vec<&Provider> {
        names.iter().filter_map(|name| config.providers.of(service).get(name)).collect()
    };
    let (models, pipeline) = match agent {
        Agent::Pipeline(agent) => (known(Service::Language, &agent.llm), true),
        Agent::Realtime(agent) => (known(Service::Realtime, std::slice::from_ref(&agent.realtime)), false),
        Agent::Mirror { .. } | Agent::Record { .. } | Agent::Avatar(_) => (Vec::new(), true),
    };
    match sight {
        Sight::Off => {}
        Sight::Live if pipeline => {
            let text = "\"live\" is for kind = \"realtime\"; write \"turn\", or \"continuous\" with a model in [vision]";
            reading.problem(key, text);
        }
        Sight::Turn | Sight::Live => blind(config, reading, key, &models),
        Sight::Continuous if !config.vision.describes() => {
            reading.problem(key, "\"continuous\" needs a model that looks: say which in vision.model");
        }
        Sight::Continuous if models.iter().any(|model| !pipeline && model.vendor == Vendor::Gemini) => {
            let text = "Gemini Live answers every word it is told, so nobody can tell it what there is to see: \
                        write \"live\", it sees by itself";
            reading.problem(key, text);
        }
        Sight::Continuous => {}
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
    check_address(reading, path, "base_url", &provider.base_url);
}

/// Whether plain http may go where a key says.
pub fn check_address(reading: &Reading, path: &str, key: &str, url: &str) {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")) else { return };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    if !is_near_host(bare) {
        reading.problem(
            &format!("{path}.{key}"),
            format!(
                "{bare} is not on this site: write https, plain http is for loopback and private addresses"
            ),
        );
    }
}

/// Whether plain text may go there, by its name; what the name resolves to is looked at again when it is asked.
pub fn is_near_host(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => is_near(address),
        Err(_) => {
            host == "localhost"
                || host.ends_with(".local")
                || host.ends_with(".internal")
                || !host.contains('.')
        }
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
    named(config, reading, path, Service::Language, &agent.llm);
    if !agent.realtime.is_empty() {
        reading.problem(&format!("{path}.realtime"), "only an agent of kind \"realtime\" has it");
    }
    tools::check::agent(config, reading, path, agent);
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
    named(config, reading, path, Service::Realtime, names);
    tools::check::agent(config, reading, path, agent);
}

/// A model that cannot see gets no pictures. Told for certain it is a mistake, by its name it is a warning, and where
/// `[vision]` has a model it is only good to know.
fn blind(config: &Config, reading: &Reading, key: &str, models: &[&Provider]) {
    for model in models.iter().filter(|model| !model.can_see()) {
        let told = model.sees == Sees::False;
        let name = &model.model;
        if config.vision.describes() {
            let text =
                format!("{name:?} cannot see: what it looks at is described to it by the model of [vision]");
            reading.warning(key, text);
        } else if told {
            reading.problem(key, format!("{name:?} cannot see (sees = false): write sight = \"off\""));
        } else {
            let text =
                format!("{name:?} is not known to see: it gets no pictures; say sees = true if it does");
            reading.warning(key, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::app::config::{Given, Loaded, load};

    const AGENTS: &str = r#"
        [stt.s]
        provider = "mock"
        [tts.t]
        provider = "mock"
        [llm.eye]
        provider = "mock"
        [llm.blind]
        provider = "mock"
        sees = false
        [realtime.live]
        provider = "gemini"
        model = "m"
        api_key = "key"
        [agent.r]
        kind = "realtime"
        realtime = "live"
        [agent.p]
        kind = "pipeline"
        stt = "s"
        tts = "t"
        llm = "LLM"
        sight = "SIGHT"
        [agent.m]
        kind = "mirror"
    "#;

    /// Problems and warnings, a line each.
    fn told(llm: &str, sight: &str, more: &str) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eyeline.toml");
        let text = AGENTS.replace("LLM", llm).replace("SIGHT", sight) + more;
        std::fs::write(&path, text).unwrap();
        let given = Given { files: vec![path], environment: Vec::new(), ..Given::default() };
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        match load(&given) {
            Ok(Loaded { warnings, .. }) => {
                (Vec::new(), warnings.iter().flat_map(|warning| lines(warning.to_string())).collect())
            }
            Err(problems) => (lines(problems.to_string()), Vec::new()),
        }
    }

    fn refuses(llm: &str, sight: &str, more: &str, words: &str) {
        let (problems, _) = told(llm, sight, more);
        assert!(problems.iter().any(|line| line.contains(words)), "{llm} {sight} {more}: {problems:?}");
    }

    const EYE: &str = "\n[vision]\nprovider = \"mock\"\n";

    #[test]
    fn sight_that_cannot_be_is_refused_on_agents_and_on_routes() {
        refuses("eye", "continuous", "", "needs a model that looks");
        refuses("eye", "live", EYE, "\"live\" is for kind = \"realtime\"");
        refuses("blind", "turn", "", "cannot see (sees = false)");
        let route =
            |agent: &str, sight: &str| format!("\n[[route]]\nagent = \"{agent}\"\nsight = \"{sight}\"\n");
        refuses("eye", "turn", &route("p", "live"), "\"live\" is for kind");
        refuses("eye", "turn", &route("m", "live"), "\"live\" is for kind");
        refuses("eye", "turn", &route("m", "continuous"), "needs a model that looks");
        refuses("blind", "off", &route("p", "turn"), "cannot see (sees = false)");
        refuses(
            "eye",
            "turn",
            &(EYE.to_owned() + &route("r", "continuous")),
            "Gemini Live answers every word",
        );
        refuses("eye", "turn", "\n[vision]\nmodel = \"gpt-3.5-turbo\"\n", "is not known to see");
        refuses("eye", "turn", "\n[vision]\nbase_url = \"http://93.184.216.34/v1\"\n", "is not on this site");
        for more in [
            route("p", "off"),
            EYE.to_owned() + &route("m", "continuous"),
            EYE.to_owned() + &route("p", "continuous"),
        ] {
            assert_eq!(told("eye", "turn", &more).0, [""; 0], "{more}");
        }
    }

    #[test]
    fn what_is_only_odd_is_a_warning() {
        let (problems, warnings) = told("blind", "turn", EYE);
        assert!(problems.is_empty(), "{problems:?}");
        assert!(warnings.iter().any(|line| line.contains("described to it")), "{warnings:?}");
        let (_, warnings) = told("eye", "turn", "\n[vision]\nprovider = \"mock\"\nbudget_usd = 1.0\n");
        assert!(warnings.iter().any(|line| line.contains("usd_per_million_in")), "{warnings:?}");
        assert!(warnings.iter().any(|line| line.contains("counts nothing of [agent.p]")), "{warnings:?}");
    }
}
