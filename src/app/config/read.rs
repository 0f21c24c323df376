//! The tree to settings, section by section. What one value must be on its own is said here; what values must be
//! together is in [`super::check`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::avatar;
use super::decisions;
use super::file::{Table, Value};
use super::section::{Reading, Section, did_you_mean, word};
use super::settings::*;
use super::sip;
use super::source;
use super::talk;
use super::tools;
use crate::media::frame::Size;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY_S: f64 = 86_400.0;
/// The largest side of a picture; H.264 level 5.1 ends here.
const SIDE_MAX: u32 = 4096;

/// Reads everything; what is wrong or missing keeps its default.
pub fn config(reading: &Reading, tree: &Table) -> Config {
    let root = Section::root(reading, tree);
    let mut config = Config::default();
    appliance(&root.table("appliance"), &mut config.appliance);
    sip::read::sip(&root.table("sip"), &mut config.sip);
    media(&root.table("media"), &mut config.media);
    video(&root.table("video"), &mut config.video);
    models(&root.table("models"), &mut config.models);
    detectors(&root.table("detector"), &mut config);
    censor(&root.table("censor"), &mut config.censor);
    filters(&root.table("filters"), &mut config.filters);
    overlay(&root.table("overlay"), &mut config.overlay);
    talk::read::vision(&root.table("vision"), &mut config.vision);
    talk::read::talk(&root.table("talk"), &mut config.talk);
    talk::read::providers(&root, &mut config);
    talk::picture::read(&root.table("picture"), &mut config);
    tools::read::tools(&root, &mut config.tools);
    source::read(&root, &mut config.sources);
    avatar::read::avatars(&root, &mut config.avatars);
    decisions::read(&root.table("decisions"), &mut config.decisions);
    recordings(&root.table("recording"), &mut config);
    agents(&root.table("agent"), &mut config);
    console(&root.table("console"), &mut config.console);
    let defaults = Route::defaults(&config);
    config.routes = match root.table_list("route") {
        Some(routes) => routes.iter().map(|section| route(section, &defaults)).collect(),
        None => vec![defaults],
    };
    config
}

fn appliance(section: &Section, into: &mut Appliance) {
    section.parsed("name", &mut into.name, |text| match text.trim() {
        "" => Err("give the appliance a name".to_owned()),
        name if name.chars().any(char::is_control) => Err("no control characters in a name".to_owned()),
        name if name.chars().count() > 64 => Err("at most 64 characters".to_owned()),
        name => Ok(name.to_owned()),
    });
    section.parsed("data_dir", &mut into.data_dir, path);
    if let Some(state) = section.variable("STATE_DIRECTORY")
        && into.data_dir == Appliance::default().data_dir
    {
        // systemd lists several with colons; ours is the first.
        into.data_dir = PathBuf::from(state.split(':').next().unwrap_or(state));
    }
    section.duration("drain_s", &mut into.drain, SECOND, 0.0..=DAY_S);
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("a path must not be empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// `None` for `empty`.
pub(super) fn path_or(empty: &str) -> impl Fn(&str) -> Result<Option<PathBuf>, String> {
    move |text| if text == empty { Ok(None) } else { path(text).map(Some) }
}

/// One network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let parsed =
        text.parse::<IpNet>().or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
    match parsed {
        Ok(network) if network.addr() != network.network() => {
            Err(format!("{text:?} has bits beyond its prefix; did you mean \"{}\"?", network.trunc()))
        }
        Ok(network) => Ok(network),
        Err(_) => Err(format!("{text:?} is no network; write \"192.0.2.0/24\" or \"2001:db8::/32\"")),
    }
}

/// Networks in a list, or one alone.
pub(super) fn networks(section: &Section, key: &str, into: &mut Vec<IpNet>) {
    if section.is_text(key) {
        section.parsed(key, into, |text| network(text).map(|network| vec![network]));
    } else {
        section.list(key, into, network);
    }
}

/// It stands in quotes in a header.
pub(super) fn display_name(text: &str) -> Result<String, String> {
    if text.chars().count() > 64 || text.chars().any(char::is_control) {
        return Err("at most 64 characters, none of them control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn media(section: &Section, into: &mut Media) {
    if let Some(ports) = section.numbers("rtp_ports", 1024.0..=65_535.0) {
        match ports.iter().map(|port| *port as u16).collect::<Vec<_>>()[..] {
            [first, last] => into.rtp_ports = (first, last),
            _ => section.problem("rtp_ports", "write the first and the last port: [20000, 20999]"),
        }
    }
    section.words("audio_codecs", &mut into.audio_codecs);
    if into.audio_codecs.is_empty() {
        section.problem("audio_codecs", "at least one of opus, g722, pcma, pcmu");
    }
    section.words("video_codecs", &mut into.video_codecs);
    section.word("srtp", &mut into.srtp);
    section.word("srtp_offer", &mut into.srtp_offer);
    section.duration("rtp_start_timeout_s", &mut into.rtp_start_timeout, SECOND, 0.5..=DAY_S);
    section.duration("rtp_timeout_s", &mut into.rtp_timeout, SECOND, 0.5..=DAY_S);
    section.duration("hold_timeout_s", &mut into.hold_timeout, SECOND, 1.0..=DAY_S);
}

fn even_side(section: &Section, key: &str, into: &mut usize) {
    let before = u32::try_from(*into).unwrap_or(SIDE_MAX);
    let mut side = before;
    section.whole(key, &mut side, 64..=SIDE_MAX);
    if side % 2 == 1 {
        section.problem(key, format!("H.264 pictures have even sides; write {}", side - 1));
    } else if side != before {
        *into = side as usize;
    }
}

fn video(section: &Section, into: &mut Video) {
    even_side(section, "max_width", &mut into.max_size.width);
    even_side(section, "max_height", &mut into.max_size.height);
    section.whole("fps", &mut into.fps, 1..=60);
    section.whole("bitrate_kbps", &mut into.bitrate_kbps, 32..=50_000);
    section.word("encoder", &mut into.encoder);
}

fn models(section: &Section, into: &mut Models) {
    section.parsed("dir", &mut into.dir, path_or("auto"));
    section.parsed("onnxruntime", &mut into.onnxruntime, path_or("auto"));
}

fn detectors(section: &Section, config: &mut Config) {
    for name in built_in(config.detectors.keys()) {
        let detector = config.detectors.entry(name.clone()).or_insert_with(|| Detector::named(&name));
        read_detector(&section.table(&name), detector);
    }
    for (name, table) in section.tables() {
        let mut detector = Detector::named(&name);
        if !table.has("model") {
            table.problem("model", "say which model: a name of `eyeline models list` or a path");
        }
        read_detector(&table, &mut detector);
        config.detectors.insert(name, detector);
    }
}

fn built_in<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    names.cloned().collect()
}

fn read_detector(section: &Section, into: &mut Detector) {
    section.parsed("model", &mut into.model, |text| match text {
        "" => Err("a name of `eyeline models list` or a path".to_owned()),
        text => Ok(text.to_owned()),
    });
    section.share("confidence", &mut into.confidence, 0.01..=1.0);
    section.whole("every", &mut into.every, 1..=100);
    section.list("classes", &mut into.classes, class);
    match section.raw("iou").map(|node| &node.value) {
        Some(Value::Text(text)) if text == "auto" => into.iou = None,
        Some(Value::Whole(_) | Value::Number(_)) => {
            let mut iou = into.iou.unwrap_or_default();
            section.share("iou", &mut iou, 0.0..=1.0);
            into.iou = Some(iou);
        }
        Some(_) => section.wrong_at("iou", "a number from 0 to 1 or \"auto\""),
        None => {}
    }
    section.share("fps", &mut into.fps, 0.1..=60.0);
    section.flag("motion_gate", &mut into.motion_gate);
}

fn class(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("a class has a name".to_owned()) } else { Ok(text.to_owned()) }
}

fn censor(section: &Section, into: &mut Censor) {
    section.list("targets", &mut into.targets, class);
    section.word("style", &mut into.style);
    section.share("margin", &mut into.margin, 0.0..=2.0);
    section.duration("hold_ms", &mut into.hold, Duration::from_millis(1), 0.0..=60_000.0);
    if let Some(items) = section.items("zones") {
        let zones = items.iter().map(|(node, path)| zone(section, node, path));
        into.zones = zones.collect::<Option<Vec<Zone>>>().unwrap_or_default();
    }
    section.word("on_failure", &mut into.on_failure);
}

/// One polygon; `None` after a problem.
fn zone<'a>(section: &Section<'a>, node: &'a super::file::Node, path: &str) -> Option<Zone> {
    const SHAPE: &str = "a zone is at least three corners [x, y] as shares of width and height: \
                         [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]]";
    let mut zone = Zone::new();
    let corners = section.items_of(node, path)?;
    for (node, path) in &corners {
        match section.numbers_of(node, path, 0.0..=1.0)?[..] {
            [x, y] => zone.push([x as f32, y as f32]),
            _ => {
                section.problem_of(path, SHAPE);
                return None;
            }
        }
    }
    if zone.len() < 3 {
        section.problem_of(path, SHAPE);
        return None;
    }
    Some(zone)
}

fn filters(section: &Section, into: &mut Filters) {
    section.words("transforms", &mut into.transforms);
    match section.numbers("resize", 16.0..=f64::from(SIDE_MAX)).as_deref() {
        Some([]) => into.resize = None,
        Some([width, height]) => into.resize = Some(Size::new(*width as usize, *height as usize)),
        Some(_) => section.problem("resize", "write [width, height], or [] to keep the size"),
        None => {}
    }
}

fn overlay(section: &Section, into: &mut Overlay) {
    section.flag("boxes", &mut into.boxes);
    section.parsed("watermark", &mut into.watermark, watermark);
    section.word("watermark_position", &mut into.watermark_position);
    section.share("watermark_size", &mut into.watermark_size, 0.01..=0.25);
    section.parsed("watermark_color", &mut into.watermark_color, color);
    section.flag("captions", &mut into.captions);
}

pub fn watermark(text: &str) -> Result<String, String> {
    let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(" ");
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let inner = rest[at..].strip_prefix('{').and_then(|after| after.split_once('}'));
        match inner {
            Some((name, after)) if PLACEHOLDERS.contains(&name) => rest = after,
            Some((name, _)) => {
                let help = did_you_mean(name, PLACEHOLDERS);
                return Err(format!("there is no {{{name}}}; known are {known}{help}"));
            }
            None => return Err(format!("a brace without its other half; known are {known}")),
        }
    }
    Ok(text.to_owned())
}

fn color(text: &str) -> Result<[u8; 3], String> {
    let number =
        text.strip_prefix('#').filter(|hex| hex.len() == 6 && hex.bytes().all(|c| c.is_ascii_hexdigit()));
    match number.and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
        Some(number) => Ok([(number >> 16) as u8, (number >> 8) as u8, number as u8]),
        None => Err(format!("{text:?} is no colour; write \"#rrggbb\", for example \"#ffffff\"")),
    }
}

fn recordings(section: &Section, config: &mut Config) {
    let mut plain = Recording::default();
    read_recording(section, &mut plain);
    for (name, table) in section.tables() {
        let mut profile = plain.clone();
        read_recording(&table, &mut profile);
        if name == DEFAULT_RECORDING {
            section.problem(&name, "this name is [recording] itself; choose another");
        }
        config.recording.insert(name, profile);
    }
    config.recording.insert(DEFAULT_RECORDING.to_owned(), plain);
}

fn read_recording(section: &Section, into: &mut Recording) {
    section.flag("enabled", &mut into.enabled);
    section.parsed("dir", &mut into.dir, path_or(""));
    section.word("video", &mut into.video);
    section.word("audio", &mut into.audio);
    section.word("encoder", &mut into.encoder);
    section.number("min_free_gib", &mut into.min_free_gib, 0.0..=1_000_000.0);
    if into.video == RecordVideo::None && into.audio == RecordAudio::None && into.enabled {
        section.problem("audio", "nothing is left to record; write enabled = false instead");
    }
}

fn agents(section: &Section, config: &mut Config) {
    for name in built_in(config.agents.keys()) {
        let table = section.table(&name);
        if let Some(agent) = agent(&table, Some(AgentKind::Mirror)) {
            config.agents.insert(name, agent);
        }
    }
    for (name, table) in section.tables() {
        // A broken agent still exists, so that its routes are not reported as well.
        config
            .agents
            .insert(name, agent(&table, None).unwrap_or(Agent::Record { sight: speech::Sight::Off }));
    }
}

fn agent(section: &Section, default: Option<AgentKind>) -> Option<Agent> {
    let mut kind = default;
    section.parsed("kind", &mut kind, |text| word(text, &section.path_of("kind")).map(Some));
    let Some(kind) = kind else {
        if !section.has("kind") {
            section.problem(
                "kind",
                "say what it does: kind = \"mirror\", \"record\", \"pipeline\", \"realtime\" or \"avatar\"",
            );
        }
        section.texts();
        return None;
    };
    match kind {
        AgentKind::Mirror => {
            let (mut audio, mut greeting) = (MirrorAudio::Greeting, GREETING.to_owned());
            section.word("audio", &mut audio);
            section.parsed("greeting", &mut greeting, |text| match text.chars().count() {
                0..=500 => Ok(text.to_owned()),
                _ => Err("at most 500 characters are spoken".to_owned()),
            });
            let sight = watching(section);
            Some(Agent::Mirror { audio, greeting, sight })
        }
        AgentKind::Record => {
            for key in ["audio", "greeting"] {
                if section.raw(key).is_some() {
                    section.problem(key, "only an agent of kind \"mirror\" has it");
                }
            }
            Some(Agent::Record { sight: watching(section) })
        }
        AgentKind::Pipeline => Some(Agent::Pipeline(Box::new(talk::read::speaking(section, false)))),
        AgentKind::Realtime => Some(Agent::Realtime(Box::new(talk::read::speaking(section, true)))),
        AgentKind::Avatar => Some(Agent::Avatar(Box::new(talk::read::avatar(section)))),
    }
}

/// Of an agent that does not talk: a picture when somebody asks, or all the time.
fn watching(section: &Section) -> speech::Sight {
    let mut sight = speech::Sight::Turn;
    section.word("sight", &mut sight);
    sight
}

fn route(section: &Section, defaults: &Route) -> Route {
    let mut route = defaults.clone();
    section.text("to", &mut route.to);
    section.text("from", &mut route.from);
    networks(section, "source", &mut route.source);
    route.headers = section.table("header").texts();
    section.text("agent", &mut route.agent);
    match section.raw("record").map(|node| &node.value) {
        Some(Value::Flag(record)) => route.record = record.then(|| DEFAULT_RECORDING.to_owned()),
        Some(Value::Text(name)) => route.record = Some(name.clone()),
        Some(_) => section.wrong_at("record", "true, false or the name of a [recording.NAME]"),
        None => {}
    }
    section.list("detect", &mut route.detect, |text| Ok(text.to_owned()));
    section.flag("censor", &mut route.censor);
    section.flag("video", &mut route.video);
    section.parsed("sight", &mut route.sight, |text| match text {
        "" => Ok(None),
        _ => word(text, &section.path_of("sight")).map(Some),
    });
    section.parsed("language", &mut route.language, talk::read::language);
    section.duration("ring_s", &mut route.ring, SECOND, 0.0..=180.0);
    section.flag("early_media", &mut route.early_media);
    section.flag("slides", &mut route.slides);
    section.parsed("display_name", &mut route.display_name, display_name);
    section.flag("trust_images", &mut route.trust_images);
    route
}

fn console(section: &Section, into: &mut Console) {
    section.parsed("listen", &mut into.listen, |text| match text.parse::<SocketAddr>() {
        _ if text.is_empty() => Ok(None),
        Ok(address) => Ok(Some(address)),
        Err(_) => {
            Err(format!("{text:?} is no address and port; write \"127.0.0.1:8080\", or \"\" for no console"))
        }
    });
    section.secret("password", &mut into.password);
    section.secret("token", &mut into.token);
}
