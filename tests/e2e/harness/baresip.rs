//! baresip as a peer: headless, loopback only, driven over its ctrl_tcp module (JSON in netstrings).
//!
//! Debian 12's baresip 1.0 speaks H.264 packetization-mode 0 only, crashes on clips that have sound, refuses `lo` as
//! an interface name (an address works), and answers only calls to its own user name.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::Process;
use super::{free_ports, media, wait_for};

/// What one baresip sends and how it behaves.
#[derive(Clone)]
pub struct Settings {
    /// 48 kHz mono 16-bit WAV that is sent.
    pub sound: PathBuf,
    /// Clip without sound, 640x360 at 15 fps; `None`: audio-only.
    pub clip: Option<PathBuf>,
    /// `h264` or `vp8`.
    pub video_codec: &'static str,
    /// In its own spelling: `pcmu`, `pcma`, `g722/16000`, `opus/48000/2`.
    pub audio_codecs: &'static str,
    /// Takes calls by itself.
    pub answers: bool,
    /// Sends back what it hears (through its jitter buffer and codecs) instead of `sound`.
    pub echoes: bool,
    /// Takes as many calls as come, sound only, and sends each its own back: by its `echo` application, at the codec's
    /// own rate. Its RTP ports are [`MANY_PORTS`].
    pub many: bool,
    /// `srtp`, `srtp-mand` or `dtls_srtp`; `None`: in the clear.
    pub protection: Option<&'static str>,
    /// Where it registers, and is then called.
    pub account: Option<Account>,
    /// Its certificate with key behind it, and whom it trusts: TLS on the port above its own.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// RTP ports of a baresip for many calls.
pub const MANY_PORTS: (u16, u16) = (40_000, 59_999);

/// One user of a registrar.
#[derive(Clone)]
pub struct Account {
    pub user: &'static str,
    pub password: &'static str,
    pub registrar: SocketAddr,
    /// Where its messages go instead.
    pub proxy: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sound: media("speech.wav"),
            clip: Some(media("face.mp4")),
            video_codec: "h264",
            audio_codecs: "pcmu",
            answers: false,
            echoes: false,
            many: false,
            protection: None,
            account: None,
            tls: None,
        }
    }
}

/// A running baresip.
pub struct Baresip {
    pub process: Process,
    pub sip: SocketAddr,
    /// First and last RTP port.
    pub rtp_ports: (u16, u16),
    control: Control,
    folder: TempDir,
}

impl Baresip {
    pub fn start(settings: &Settings) -> Baresip {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = free_ports(48);
        let rtp_ports = (ports + 4, ports + 47);
        fs::create_dir(folder.path().join("sound")).expect("a folder for what it hears");
        fs::write(folder.path().join("config"), config(settings, ports, folder.path())).expect("its config");
        fs::write(folder.path().join("accounts"), account(settings, ports)).expect("its account");
        fs::write(folder.path().join("contacts"), "").expect("its contacts");
        // Without a line end: it would stand in the middle of a Contact header.
        fs::write(folder.path().join("uuid"), format!("5b1f0a52-7c1c-4a0e-9d0c-{ports:012}"))
            .expect("its id");
        let mut command = Command::new("baresip");
        command.arg("-4").arg("-f").arg(folder.path()).arg("-v");
        let process = Process::start("baresip", &mut command, folder.path());
        let control = wait_for(Duration::from_secs(10), || Control::connect(ports + 2))
            .unwrap_or_else(|| panic!("baresip does not start: {}", process.last_words()));
        Baresip { process, sip: SocketAddr::from(([127, 0, 0, 1], ports)), rtp_ports, control, folder }
    }

    /// Waits for the end of its first registration. `Err`: why it was refused.
    pub fn registered(&mut self) -> Result<(), String> {
        // It registers before anybody listens to its events: its log tells all the same.
        let told = wait_for(Duration::from_secs(10), || {
            let log = self.process.log();
            let of_line = |line: &str| {
                // Warnings are coloured.
                let refused = line.split_once("reg: ").and_then(|(_, line)| line.rsplit_once(": "));
                line.split_once("/v4} ").or(refused).map(|(_, answer)| answer.to_owned())
            };
            log.lines().find_map(of_line)
        });
        match told {
            Some(answer) if answer.starts_with("200 ") => Ok(()),
            Some(answer) => Err(answer),
            None => panic!("no registration: {}", self.process.last_words()),
        }
    }

    /// Waits until a call it was called by is up.
    pub fn called(&mut self, limit: Duration) -> bool {
        self.control.wait_event(limit, &["CALL_ESTABLISHED"]).is_some()
    }

    /// Where it takes calls.
    pub fn uri(&self) -> String {
        format!("sip:peer@{}", self.sip)
    }

    /// Dials and waits until the call is up; returns how long that took.
    pub fn dial(&mut self, uri: &str) -> Duration {
        let start = Instant::now();
        self.control.send("dial", uri);
        let answered = self.control.wait_event(Duration::from_secs(10), &["CALL_ESTABLISHED", "CALL_CLOSED"]);
        match answered {
            Some((kind, _)) if kind == "CALL_ESTABLISHED" => start.elapsed(),
            other => panic!("the call to {uri} is not up: {other:?}; {}", self.process.last_words()),
        }
    }

    /// Lets the call run; panics when the other side ends it before.
    pub fn talk(&mut self, time: Duration) {
        if let Some((_, why)) = self.control.wait_event(time, &["CALL_CLOSED"]) {
            panic!("the call ended early: {why}; {}", self.process.last_words());
        }
    }

    /// Waits for the other side to end the call; says why it did.
    pub fn closed(&mut self, limit: Duration) -> Option<String> {
        self.control.wait_event(limit, &["CALL_CLOSED"]).map(|(_, why)| why)
    }

    /// The next event of one of these kinds (`CALL_ESTABLISHED`, `CALL_CLOSED`, …) and its parameter.
    pub fn event(&mut self, limit: Duration, kinds: &[&str]) -> Option<(String, String)> {
        self.control.wait_event(limit, kinds)
    }

    pub fn hang_up(&mut self) {
        self.control.send("hangup", "");
        let _ = self.control.wait_event(Duration::from_secs(3), &["CALL_CLOSED"]);
    }

    /// Presses a key, as telephone event.
    pub fn press(&mut self, key: &str) {
        self.control.send("sndcode", key);
    }

    pub fn hold(&mut self) {
        self.control.send("hold", "");
    }

    pub fn resume(&mut self) {
        self.control.send("resume", "");
    }

    /// The next picture it decodes, as its own display would show it.
    pub fn snapshot(&mut self) -> PathBuf {
        let path = self.folder.path().join("snapshot.png");
        let _ = fs::remove_file(&path);
        self.control.send("snapshot_recv", &path.display().to_string());
        let complete = |path: &Path| fs::read(path).ok().filter(|bytes| bytes.ends_with(b"IEND\xaeB`\x82"));
        wait_for(Duration::from_secs(3), || complete(&path))
            .unwrap_or_else(|| panic!("baresip shows no picture: {}", self.process.last_words()));
        path
    }

    /// Everything it heard in its last call, once the call is over.
    pub fn heard(&self) -> PathBuf {
        let found = wait_for(Duration::from_secs(3), || {
            let entries = fs::read_dir(self.folder.path().join("sound")).ok()?;
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.to_string_lossy().ends_with("-dec.wav"))
                .max()
        });
        found.unwrap_or_else(|| panic!("baresip heard nothing: {}", self.process.last_words()))
    }
}

fn config(settings: &Settings, ports: u16, folder: &Path) -> String {
    let mut text = String::new();
    let mut line = |text_of_line: &str| writeln!(text, "{text_of_line}").expect("writing to a string");
    line("poll_method epoll");
    line(&format!("sip_listen 127.0.0.1:{ports}"));
    line("net_interface 127.0.0.1");
    if let Some((certificate, ca)) = &settings.tls {
        line(&format!("sip_certificate {}", certificate.display()));
        line(&format!("sip_cafile {}", ca.display()));
    }
    line("call_local_timeout 60");
    line(&format!("call_max_calls {}", if settings.many { 5000 } else { 8 }));
    let rtp_ports = if settings.many { MANY_PORTS } else { (ports + 4, ports + 47) };
    line(&format!("rtp_ports {}-{}", rtp_ports.0, rtp_ports.1));
    line("rtcp_mux no");
    line("rtp_stats yes");
    line("jitter_buffer_delay 5-10");
    line("audio_buffer 20-160");
    for direction in ["ausrc", "auplay"] {
        line(&format!("{direction}_srate {}", if settings.many { 8000 } else { 48_000 }));
        line(&format!("{direction}_channels 1"));
        line(&format!("{direction}_format s16"));
    }
    line("auenc_format s16");
    line("audec_format s16");
    line(&format!("audio_player aubridge,{}", if settings.echoes { "loop" } else { "heard" }));
    if settings.echoes || settings.many {
        line("audio_source aubridge,loop");
    } else {
        line(&format!("audio_source aufile,{}", settings.sound.display()));
    }
    line("audio_alert aubridge,alert");
    line("ringback_disabled yes");
    line("module_path /usr/lib/baresip/modules");
    for module in ["opus", "g711", "g722", "aufile", "aubridge", "sndfile"] {
        line(&format!("module {module}.so"));
    }
    for module in settings.protection.map_or(&[][..], |_| &["srtp", "dtls_srtp"]) {
        line(&format!("module {module}.so"));
    }
    line(&format!("snd_path {}", folder.join("sound").display()));
    if let Some(clip) = &settings.clip {
        for module in ["avcodec", "avformat", "fakevideo", "snapshot"] {
            line(&format!("module {module}.so"));
        }
        if settings.video_codec == "vp8" {
            line("module vp8.so");
        }
        line(&format!("video_source avformat,{}", clip.display()));
        line("video_display fakevideo,nil");
        line("video_size 640x360");
        line("video_fps 15.00");
        line("video_bitrate 800000");
        line("videnc_format yuv420p");
        line("avcodec_h264enc libx264");
        line("avcodec_h264dec h264");
    }
    for module in ["uuid", "account"] {
        line(&format!("module_tmp {module}.so"));
    }
    // Both would answer.
    let answering = if settings.many { "echo" } else { "menu" };
    for module in [answering, "ctrl_tcp", "debug_cmd"] {
        line(&format!("module_app {module}.so"));
    }
    line(&format!("ctrl_tcp_listen 127.0.0.1:{}", ports + 2));
    text
}

fn account(settings: &Settings, ports: u16) -> String {
    let mode = if settings.answers { "auto" } else { "manual" };
    let video =
        settings.clip.as_ref().map_or(String::new(), |_| format!(";video_codecs={}", settings.video_codec));
    let protection = settings.protection.map_or(String::new(), |name| format!(";mediaenc={name}"));
    let codecs = settings.audio_codecs;
    let Some(Account { user, password, registrar, proxy }) = &settings.account else {
        return format!(
            "<sip:peer@127.0.0.1:{ports}>;regint=0;answermode={mode};audio_codecs={codecs}{video}{protection}\n"
        );
    };
    let proxy = proxy.map_or(String::new(), |proxy| format!(";outbound=\"sip:{proxy}\""));
    format!(
        "<sip:{user}@{registrar}>;auth_user={user};auth_pass={password};regint=60{proxy};answermode={mode};\
         audio_codecs={codecs}{video}{protection}\n"
    )
}

/// The control connection: commands out, events in.
struct Control {
    stream: TcpStream,
    unread: Vec<u8>,
    events: VecDeque<Value>,
}

impl Control {
    fn connect(port: u16) -> Option<Control> {
        let stream =
            TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_millis(300));
        Some(Control { stream: stream.ok()?, unread: Vec::new(), events: VecDeque::new() })
    }

    fn send(&mut self, command: &str, parameters: &str) {
        let mut message = json!({ "command": command, "token": command });
        if !parameters.is_empty() {
            message["params"] = parameters.into();
        }
        let message = message.to_string();
        write!(self.stream, "{}:{message},", message.len()).expect("baresip takes commands");
    }

    /// The first event of one of these kinds and its parameter; other events before it are forgotten.
    fn wait_event(&mut self, limit: Duration, kinds: &[&str]) -> Option<(String, String)> {
        let end = Instant::now() + limit;
        loop {
            while let Some(event) = self.events.pop_front() {
                let kind = event["type"].as_str().unwrap_or_default();
                if kinds.contains(&kind) {
                    return Some((kind.to_owned(), event["param"].as_str().unwrap_or_default().to_owned()));
                }
            }
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.read(left);
        }
    }

    fn read(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a timeout above zero");
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("baresip closed its control connection"),
            Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("control connection: {error}"),
        }
        while let Some(message) = netstring(&mut self.unread) {
            // Answers to commands may hold bytes that are not JSON (terminal colours); only events matter.
            if let Ok(value) = serde_json::from_slice::<Value>(&message)
                && value["type"].is_string()
            {
                self.events.push_back(value);
            }
        }
    }
}

/// Takes one complete netstring (`LENGTH:BYTES,`) off the front.
fn netstring(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let colon = unread.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&unread[..colon]).ok()?.parse().expect("a netstring's length");
    if unread.len() < colon + length + 2 {
        return None;
    }
    let message = unread[colon + 1..colon + 1 + length].to_vec();
    unread.drain(..colon + length + 2);
    Some(message)
}

#[test]
fn netstrings_wait_for_their_last_byte() {
    let mut unread = b"5:hello,3:ab".to_vec();
    assert_eq!(netstring(&mut unread).as_deref(), Some(&b"hello"[..]));
    assert_eq!(netstring(&mut unread), None);
    unread.extend_from_slice(b"c,");
    assert_eq!(netstring(&mut unread).as_deref(), Some(&b"abc"[..]));
    assert!(unread.is_empty());
}
