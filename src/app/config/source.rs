//! `[source.NAME]`: pictures besides those of callers, for agents that may look at them and for the console.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::print::{Page, key};
use super::secret::Secret;
use super::section::{Reading, Section, did_you_mean};
use super::settings::speech::{Sight, Speaking};
use super::settings::{Agent, Config, Word, words};
use crate::talk::tools::CALLER;

/// The longest description, characters.
const DESCRIPTION_MAX: usize = 300;
/// Each has a thread.
const SOURCES_MAX: usize = 32;

words! {
    /// What a source is.
    Kind {
        /// A file, over and over.
        File = "file",
        /// A camera of the network.
        Rtsp = "rtsp",
        /// A camera at the box (V4L2).
        Camera = "camera",
        /// The box's own screen (X11).
        Screen = "screen",
        /// The moving test card.
        Test = "test",
    }
}

/// `[source.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub kind: Kind,
    /// Of a file.
    pub path: PathBuf,
    /// Of a camera; it may hold its password.
    pub url: Secret,
    /// Of a camera at the box, or a screen; empty: the first.
    pub device: String,
    /// What it shows, for models and people.
    pub description: String,
    /// What `[censor]` hides is hidden in it.
    pub censor: bool,
}

impl Default for Source {
    fn default() -> Self {
        Source {
            kind: Kind::Test,
            path: PathBuf::new(),
            url: Secret::default(),
            device: String::new(),
            description: String::new(),
            censor: true,
        }
    }
}

impl Source {
    /// The device as it is named to FFmpeg.
    pub fn device(&self) -> &str {
        match (self.kind, self.device.as_str()) {
            (Kind::Camera, "") => "/dev/video0",
            (Kind::Screen, "") => ":0",
            (_, device) => device,
        }
    }
}

pub fn read(root: &Section, into: &mut BTreeMap<String, Source>) {
    for (name, section) in root.table("source").tables() {
        let mut source = Source::default();
        if !section.has("kind") {
            section.problem("kind", "write \"file\", \"rtsp\", \"camera\", \"screen\" or \"test\"");
        }
        section.word("kind", &mut source.kind);
        section.parsed("path", &mut source.path, |text| Ok(PathBuf::from(text)));
        section.secret("url", &mut source.url);
        section.text("device", &mut source.device);
        section.parsed("description", &mut source.description, |text| {
            let fits = text.chars().count() <= DESCRIPTION_MAX && !text.chars().any(char::is_control);
            if fits {
                Ok(text.to_owned())
            } else {
                Err(format!("one line of {DESCRIPTION_MAX} characters at most"))
            }
        });
        section.flag("censor", &mut source.censor);
        into.insert(name, source);
    }
}

pub fn check(config: &Config, reading: &Reading) {
    if config.sources.len() > SOURCES_MAX {
        reading.problem("source", format!("at most {SOURCES_MAX} sources"));
    }
    for (name, source) in &config.sources {
        let path = format!("source.{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if name == CALLER || name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            reading.problem(&path, "a name of letters, digits, - and _, and not \"caller\"");
        }
        let is_url = ["rtsp://", "rtsps://"].iter().any(|start| source.url.expose().starts_with(start));
        match source.kind {
            Kind::File if source.path.as_os_str().is_empty() => {
                reading.problem(&format!("{path}.path"), "say which file");
            }
            Kind::Rtsp if !is_url && !reading.only_looking() => {
                reading.problem(&format!("{path}.url"), "write rtsp://HOST/PATH");
            }
            // It is an argument of a program.
            Kind::Camera if !source.device().starts_with("/dev/") => {
                reading.problem(&format!("{path}.device"), "write /dev/video0");
            }
            Kind::Screen if !source.device().starts_with(':') => {
                reading.problem(&format!("{path}.device"), "write :0 (the display)");
            }
            Kind::File | Kind::Rtsp | Kind::Camera | Kind::Screen | Kind::Test => {}
        }
    }
    for (name, agent) in &config.agents {
        match agent {
            Agent::Pipeline(agent) | Agent::Realtime(agent) => of_agent(config, reading, name, agent),
            Agent::Mirror { .. } | Agent::Record { .. } | Agent::Avatar(_) => {}
        }
    }
}

/// Who looks must be able to see.
fn of_agent(config: &Config, reading: &Reading, name: &str, agent: &Speaking) {
    let models = agent.llm.iter().filter_map(|name| config.providers.llm.get(name));
    let models = models.chain(config.providers.realtime.get(&agent.realtime));
    if !agent.sources.is_empty() {
        let key = format!("agent.{name}.sources");
        if agent.sight == Sight::Off {
            reading.problem(&key, "needs an agent that sees: write another sight than \"off\"");
        }
        if let Some(blind) = models.into_iter().find(|model| !model.can_see()) {
            reading
                .problem(&key, format!("{:?} is not known to see; say sees = true if it does", blind.model));
        }
    }
    for (n, source) in agent.sources.iter().enumerate() {
        if !config.sources.contains_key(source) {
            let help = did_you_mean(source, config.sources.keys().map(String::as_str));
            reading.problem(
                &format!("agent.{name}.sources[{n}]"),
                format!("there is no [source.{source}]{help}"),
            );
        }
    }
}

pub(super) fn print(page: &mut Page, sources: &BTreeMap<String, Source>) {
    for (name, source) in sources {
        page.section(format_args!("source.{}", key(name)));
        page.word("kind", source.kind);
        page.text("path", &source.path.display().to_string());
        page.text("url", source.url.shown());
        page.text("device", &source.device);
        page.text("description", &source.description);
        page.raw("censor", source.censor);
    }
}

#[cfg(test)]
mod tests {
    use crate::app::config::{Given, load, print};

    const TALKS: &str = r#"
        [stt.m]
        provider = "mock"
        [llm.m]
        provider = "mock"
        [tts.m]
        provider = "mock"
        [[route]]
        agent = "a"
        [agent.a]
        kind = "pipeline"
        stt = "m"
        llm = "m"
        tts = "m"
    "#;

    fn given(toml: &str) -> (tempfile::TempDir, Given) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eyeline.toml");
        std::fs::write(&path, format!("{TALKS}{toml}")).unwrap();
        (folder, Given { files: vec![path], ..Given::default() })
    }

    #[test]
    fn sources_read_back_as_they_are_printed() {
        let toml = "sources = [\"yard\", \"card\"]\n[source.yard]\nkind = \"file\"\npath = \"/srv/yard.mp4\"\n\
                    description = \"the yard\"\n[source.card]\nkind = \"test\"\ncensor = false\n";
        let (_folder, first) = given(toml);
        let loaded = load(&first).unwrap_or_else(|problems| panic!("{problems}"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("printed.toml");
        std::fs::write(&path, print::print(&loaded.config)).unwrap();
        let again = load(&Given { files: vec![path], ..Given::default() });
        assert_eq!(again.unwrap_or_else(|problems| panic!("{problems}")).config, loaded.config);
    }

    #[test]
    fn sources_that_cannot_work_are_refused() {
        for (toml, why) in [
            ("sources = [\"yrd\"]\n[source.yard]\nkind = \"test\"", "did you mean \"yard\"?"),
            ("sources = [\"y\"]\nsight = \"off\"\n[source.y]\nkind = \"test\"", "an agent that sees"),
            ("[source.y]\nkind = \"file\"", "say which file"),
            ("[source.y]\nkind = \"rtsp\"\nurl = \"http://a.example/\"", "rtsp://HOST/PATH"),
            ("[source.y]\nkind = \"websocket\"", "not in this version"),
            ("[source.y]\nkind = \"camera\"\ndevice = \"concat:/etc/passwd\"", "write /dev/video0"),
            ("[source.y]\nkind = \"screen\"\ndevice = \"-i\"", "write :0"),
            ("[source.y]\ncensor = true", "write \"file\""),
            ("[source.caller]\nkind = \"test\"", "not \"caller\""),
        ] {
            let said = load(&given(toml).1).map_or_else(|problems| problems.to_string(), |_| String::new());
            assert!(said.contains(why), "{toml}: {said}");
        }
    }
}
