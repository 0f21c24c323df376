//! Settings back to TOML: every key with the value in force, secrets as references or left out. Reading it again
//! gives the same settings.

use std::fmt::{Display, Write};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::avatar;
use super::decisions;
use super::settings::*;
use super::sip;
use super::source;
use super::talk;
use super::tools;
use crate::media::frame::Size;

/// The whole configuration as TOML.
pub fn print(config: &Config) -> String {
    let mut page = Page(String::new());
    appliance_and_sip(&mut page, config);
    media_and_video(&mut page, config);
    vision(&mut page, config);
    talk::print::talk(&mut page, config);
    tools::print::tools(&mut page, &config.tools);
    recordings(&mut page, config);
    agents_and_routes(&mut page, config);
    source::print(&mut page, &config.sources);
    avatar::print::avatars(&mut page, &config.avatars);
    decisions::print(&mut page, &config.decisions);
    page.section("console");
    page.text("listen", &config.console.listen.map(|address| address.to_string()).unwrap_or_default());
    page.text("password", config.console.password.shown());
    page.text("token", config.console.token.shown());
    page.0
}

/// TOML as it grows.
pub struct Page(String);

impl Page {
    pub(super) fn section(&mut self, header: impl Display) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}[{header}]"));
    }

    pub(super) fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("writing to a String cannot fail");
    }

    pub(super) fn raw(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key} = {value}"));
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.raw(key, quoted(value));
    }

    pub(super) fn word(&mut self, key: &str, value: impl Word) {
        self.text(key, value.word());
    }

    pub(super) fn list(&mut self, key: &str, items: impl IntoIterator<Item = impl Display>) {
        let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        self.raw(key, format_args!("[{}]", items.join(", ")));
    }

    pub(super) fn texts<T: AsRef<str>>(&mut self, key: &str, items: impl IntoIterator<Item = T>) {
        self.list(key, items.into_iter().map(|item| quoted(item.as_ref())));
    }

    pub(super) fn duration(&mut self, key: &str, value: Duration, unit: Duration) {
        self.raw(key, value.as_secs_f64() / unit.as_secs_f64());
    }

    /// Empty: none.
    pub(super) fn path(&mut self, key: &str, value: Option<&Path>) {
        self.text(key, &value.map_or("".into(), Path::to_string_lossy));
    }

    pub(super) fn seconds(&mut self, key: &str, value: Duration) {
        self.duration(key, value, Duration::from_secs(1));
    }
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A name as a key or a part of a header.
pub(super) fn key(name: &str) -> String {
    toml_edit::Key::new(name).to_string()
}

pub(super) fn networks(networks: &[IpNet]) -> impl Iterator<Item = String> {
    networks.iter().map(IpNet::to_string)
}

fn appliance_and_sip(page: &mut Page, config: &Config) {
    page.section("appliance");
    page.text("name", &config.appliance.name);
    page.text("data_dir", &config.appliance.data_dir.to_string_lossy());
    page.seconds("drain_s", config.appliance.drain);
    sip::print::sip(page, &config.sip);
}

fn media_and_video(page: &mut Page, config: &Config) {
    let media = &config.media;
    page.section("media");
    page.list("rtp_ports", [media.rtp_ports.0, media.rtp_ports.1]);
    page.texts("audio_codecs", media.audio_codecs.iter().map(|codec| codec.word()));
    page.texts("video_codecs", media.video_codecs.iter().map(|codec| codec.word()));
    page.word("srtp", media.srtp);
    page.word("srtp_offer", media.srtp_offer);
    page.seconds("rtp_start_timeout_s", media.rtp_start_timeout);
    page.seconds("rtp_timeout_s", media.rtp_timeout);
    page.seconds("hold_timeout_s", media.hold_timeout);
    page.section("video");
    page.raw("max_width", config.video.max_size.width);
    page.raw("max_height", config.video.max_size.height);
    page.raw("fps", config.video.fps);
    page.raw("bitrate_kbps", config.video.bitrate_kbps);
    page.word("encoder", config.video.encoder);
}

fn vision(page: &mut Page, config: &Config) {
    let auto = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or("auto".into(), |path| path.to_string_lossy().into_owned())
    };
    page.section("models");
    page.text("dir", &auto(&config.models.dir));
    page.text("onnxruntime", &auto(&config.models.onnxruntime));
    for (name, detector) in &config.detectors {
        page.section(format_args!("detector.{}", key(name)));
        page.text("model", &detector.model);
        page.raw("confidence", detector.confidence);
        page.raw("every", detector.every);
        page.texts("classes", &detector.classes);
        page.raw("iou", detector.iou.map_or(quoted("auto"), |iou| iou.to_string()));
        page.raw("fps", detector.fps);
        page.raw("motion_gate", detector.motion_gate);
    }
    let censor = &config.censor;
    page.section("censor");
    page.texts("targets", &censor.targets);
    page.word("style", censor.style);
    page.raw("margin", censor.margin);
    page.duration("hold_ms", censor.hold, Duration::from_millis(1));
    page.list("zones", censor.zones.iter().map(|zone| format!("{zone:?}")));
    page.word("on_failure", censor.on_failure);
    page.section("filters");
    page.texts("transforms", config.filters.transforms.iter().map(|transform| transform.word()));
    page.list("resize", config.filters.resize.into_iter().flat_map(|Size { width, height }| [width, height]));
    let overlay = &config.overlay;
    page.section("overlay");
    page.raw("boxes", overlay.boxes);
    page.text("watermark", &overlay.watermark);
    page.word("watermark_position", overlay.watermark_position);
    page.raw("watermark_size", overlay.watermark_size);
    let [red, green, blue] = overlay.watermark_color;
    page.text("watermark_color", &format!("#{red:02x}{green:02x}{blue:02x}"));
    page.raw("captions", overlay.captions);
}

fn recordings(page: &mut Page, config: &Config) {
    let (plain, others): (Vec<_>, Vec<_>) =
        config.recording.iter().partition(|(name, _)| *name == DEFAULT_RECORDING);
    for (name, recording) in plain.into_iter().chain(others) {
        match name.as_str() {
            DEFAULT_RECORDING => page.section("recording"),
            name => page.section(format_args!("recording.{}", key(name))),
        }
        page.raw("enabled", recording.enabled);
        page.path("dir", recording.dir.as_deref());
        page.word("video", recording.video);
        page.word("audio", recording.audio);
        page.word("encoder", recording.encoder);
        page.raw("min_free_gib", recording.min_free_gib);
    }
}

fn agents_and_routes(page: &mut Page, config: &Config) {
    for (name, agent) in &config.agents {
        page.section(format_args!("agent.{}", key(name)));
        page.word("kind", agent.kind());
        match agent {
            Agent::Mirror { audio, greeting, sight } => {
                page.word("audio", *audio);
                page.text("greeting", greeting);
                page.word("sight", *sight);
            }
            Agent::Record { sight } => page.word("sight", *sight),
            Agent::Pipeline(agent) => talk::print::speaking(page, name, agent, false),
            Agent::Realtime(agent) => talk::print::speaking(page, name, agent, true),
            Agent::Avatar(agent) => talk::print::avatar(page, agent),
        }
    }
    if config.routes.is_empty() {
        // Before the first header would be needed for a plain key, so the empty list goes to the top.
        page.0.insert_str(0, "route = []\n\n");
    }
    for route in &config.routes {
        page.section("[route]");
        page.text("to", &route.to);
        page.text("from", &route.from);
        page.texts("source", networks(&route.source));
        for (name, glob) in &route.headers {
            page.text(&format!("header.{}", key(name)), glob);
        }
        page.text("agent", &route.agent);
        match route.record.as_deref() {
            None => page.raw("record", false),
            Some(DEFAULT_RECORDING) => page.raw("record", true),
            Some(name) => page.text("record", name),
        }
        page.texts("detect", &route.detect);
        page.raw("censor", route.censor);
        page.raw("video", route.video);
        page.text("sight", route.sight.map_or("", |sight| sight.word()));
        page.text("language", &route.language);
        page.seconds("ring_s", route.ring);
        page.raw("early_media", route.early_media);
        page.raw("slides", route.slides);
        page.text("display_name", &route.display_name);
        page.raw("trust_images", route.trust_images);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Given, Loaded, load};
    use super::*;

    fn loaded(toml: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eyeline.toml");
        std::fs::write(&path, toml).unwrap();
        let environment = vec![("TOKEN".to_owned(), "hunter2".to_owned())];
        match load(&Given { files: vec![path], environment, ..Given::default() }) {
            Ok(Loaded { config, .. }) => config,
            Err(problems) => panic!("{problems}\n{toml}"),
        }
    }

    /// Something of everything.
    const ALL_KINDS: &str = r##"
            [appliance]
            name = "a \"quoted\" näme"
            drain_s = 0.5
            [sip]
            listen = ["udp:[::1]:5070", "tcp:127.0.0.1:0"]
            advertise = "192.0.2.7"
            busy = 486
            strangers = "challenge"
            realm = "door"
            calls_per_second = 0
            min_se_s = 4
            session_expires_s = 90
            dial_allow = ["sip:+4930*@*", "tel:112"]
            dial_max_s = 60
            [sip.tls]
            certificate = "Cargo.toml"
            private_key = "Cargo.lock"
            [[sip.user]]
            name = "door1"
            password = "${env:TOKEN}"
            [[sip.user]]
            name = "door2"
            password = "${env:TOKEN}"
            display_name = "Back \"door\""
            [[sip.peer]]
            name = "office"
            source = ["192.0.2.0/24", "2001:db8::/48"]
            networks = "198.51.100.0/24"
            srtp = "required"
            srtp_offer = "dtls"
            uri = "sips:pbx.example.com:5071;transport=tcp"
            username = "eyeline"
            password = "${env:TOKEN}"
            realm = "example"
            max_calls = 3
            identity = false
            tls_name = "pbx.example.com"
            ice = true
            [[sip.account]]
            name = "pbx"
            registrar = "sip:pbx.example.com"
            username = "200"
            password = "${env:TOKEN}"
            display_name = "Reception"
            expires_s = 60
            outbound_proxy = "sip:[2001:db8::1]:5080;transport=tcp"
            srtp = "off"
            srtp_offer = "dtls"
            [media]
            srtp = "off"
            srtp_offer = "dtls"
            [detector."number plates"]
            model = "./plates.onnx"
            iou = 0.3
            [censor]
            zones = [[[0, 0], [0.25, 0], [0.25, 1.0]], [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.1, 0.9]]]
            hold_ms = 1500
            [filters]
            transforms = ["grayscale", "edges"]
            resize = [320, 240]
            [overlay]
            watermark_color = "#0a1b2c"
            [recording]
            enabled = false
            min_free_gib = 0.25
            [recording.night]
            enabled = true
            video = "none"
            [agent.tape]
            kind = "record"
            [[route]]
            to = "1??"
            source = "10.0.0.0/8"
            header.X-Door = "front*"
            agent = "tape"
            record = "night"
            detect = ["number plates"]
            ring_s = 1.5
            early_media = true
            slides = true
            display_name = "Front door"
            [[route]]
            [console]
            listen = "0.0.0.0:8080"
            token = "${env:TOKEN}"
            "##;

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let config = Config::default();
        assert_eq!(loaded(&print(&config)), config);
        let config = loaded(ALL_KINDS);
        let printed = print(&config);
        assert_eq!(loaded(&printed), config, "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn plain_secrets_are_left_out() {
        let config = loaded(
            "[console]\npassword = \"hunter2\"\n[[sip.user]]\nname = \"a\"\npassword = \"hunter2\"\n\
             [[sip.peer]]\nname = \"b\"\nsource = \"192.0.2.1\"\nusername = \"b\"\npassword = \"hunter2\"\n\
             [[sip.account]]\nname = \"c\"\nregistrar = \"sip:d\"\nusername = \"e\"\npassword = \"hunter2\"\n",
        );
        assert!(!print(&config).contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn no_routes_stay_no_routes() {
        assert_eq!(loaded(&print(&loaded("route = []\n"))).routes, []);
    }
}
