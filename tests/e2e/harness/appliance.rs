//! The binary under test, started the way an operator starts it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{Process, output_of};
use super::{free_ports, root, wait_for};

/// A running `eyeline serve` with its own ports and folder.
pub struct Appliance {
    pub process: Process,
    pub sip: SocketAddr,
    pub console: SocketAddr,
    /// First and last RTP port.
    pub rtp_ports: (u16, u16),
    /// From starting the process to `/readyz` saying 200.
    pub ready_after: Duration,
    folder: TempDir,
}

/// The program `eyeline` of this build.
pub fn eyeline() -> Command {
    Command::new(env!("CARGO_BIN_EXE_eyeline"))
}

impl Appliance {
    /// Starts it with `KEY=VALUE` settings on top of the built-in defaults and waits until it is ready.
    pub fn start(settings: &[&str]) -> Appliance {
        Appliance::spawn(settings).until_ready()
    }

    fn until_ready(mut self) -> Appliance {
        let started = Instant::now();
        let ready = wait_for(Duration::from_secs(15), || {
            if !self.process.is_running() {
                return Some(false);
            }
            matches!(self.get("/readyz"), Some((200, _))).then_some(true)
        });
        assert!(ready == Some(true), "eyeline is not ready: {}", self.process.last_words());
        self.ready_after = started.elapsed();
        self
    }

    fn until_alive(mut self, name: &str) -> Appliance {
        let alive = wait_for(Duration::from_secs(15), || {
            if !self.process.is_running() {
                return Some(false);
            }
            matches!(self.get("/healthz"), Some((200, _))).then_some(true)
        });
        assert!(alive == Some(true), "{name}: {}", self.process.last_words());
        self
    }

    /// Starts it and waits until its process answers, ready or not.
    pub fn start_alive(settings: &[&str]) -> Appliance {
        Appliance::spawn(settings).until_alive("eyeline")
    }

    /// Starts it with further environment and waits until it is ready.
    pub fn start_in(environment: &[(&str, &str)], settings: &[&str]) -> Appliance {
        Appliance::spawn_in(environment, &[], &[], settings).until_ready()
    }

    /// Starts it with options of `serve` and waits until it is ready.
    pub fn start_with_options(options: &[&str], settings: &[&str]) -> Appliance {
        Appliance::spawn_in(&[], &[], options, settings).until_ready()
    }

    /// Starts it and does not wait.
    pub fn spawn(settings: &[&str]) -> Appliance {
        Appliance::spawn_in(&[], &[], &[], settings)
    }

    /// Starts it with a configuration file and waits until its process answers, ready or not: a model an example asks
    /// for may not be there.
    pub fn start_with_file(file: &Path, settings: &[&str]) -> Appliance {
        let arguments = [Path::new("--config"), file];
        Appliance::spawn_in(&[], &arguments, &[], settings).until_alive(&file.display().to_string())
    }

    fn spawn_in(
        environment: &[(&str, &str)],
        arguments: &[&Path],
        options: &[&str],
        settings: &[&str],
    ) -> Appliance {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = free_ports(64);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (sip, console, rtp_ports) = (address(ports), address(ports + 1), (ports + 2, ports + 63));
        let mut command = eyeline();
        command.current_dir(folder.path()).args(arguments).arg("serve").args(options);
        command.envs(environment.iter().copied());
        let own = [
            format!("sip.listen=[\"udp:{sip}\", \"tcp:{sip}\"]"),
            format!("console.listen=\"{console}\""),
            format!("media.rtp_ports=[{}, {}]", rtp_ports.0, rtp_ports.1),
            format!("appliance.data_dir=\"{}\"", folder.path().join("data").display()),
            format!("models.dir=\"{}\"", root().join("models").display()),
        ];
        if arguments.is_empty() {
            // Tests share their box with compilers: its load says nothing about what it could carry.
            command.args(["--set", "sip.max_calls=1000"]);
        }
        for setting in own.iter().map(String::as_str).chain(settings.iter().copied()) {
            command.args(["--set", setting]);
        }
        let process = Process::start("eyeline", &mut command, folder.path());
        Appliance { process, sip, console, rtp_ports, ready_after: Duration::ZERO, folder }
    }

    /// Where to call it.
    pub fn uri(&self) -> String {
        format!("sip:mirror@{}", self.sip)
    }

    /// Status and body of a GET to the console; `None` when nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.console, Duration::from_millis(300)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Status and JSON of a request to the API; a body is JSON.
    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let mut stream = TcpStream::connect(self.console).expect("the console listens");
        stream.set_read_timeout(Some(Duration::from_secs(8))).expect("a timeout above zero");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("the console takes requests");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("a whole answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// Live calls as the API shows them.
    pub fn live_calls(&self) -> Vec<serde_json::Value> {
        let (_, calls) = self.api("GET", "/api/v1/calls", "");
        calls["live"].as_array().cloned().unwrap_or_default()
    }

    /// The id of the only call that is up: one that is ending may be listed a while beside it.
    pub fn current_call(&self) -> String {
        let found = wait_for(Duration::from_secs(5), || {
            let up =
                |call: &serde_json::Value| matches!(call["state"].as_str(), Some("answered" | "established"));
            let mut calls = self.live_calls().into_iter().filter(up);
            let call = calls.next()?;
            calls.next().is_none().then(|| call["id"].as_str().expect("an id").to_owned())
        });
        found.unwrap_or_else(|| panic!("no call, or several: {:?}", self.live_calls()))
    }

    /// Recordings on disk, in order of their names.
    pub fn recordings(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.folder.path().join("data/recordings"), "mp4", &mut found);
        found.sort();
        found
    }

    /// The call record beside a recording, once the call has ended.
    pub fn call_record(&self, recording: &Path) -> serde_json::Value {
        let path = recording.with_extension("json");
        let text = wait_for(Duration::from_secs(5), || fs::read(&path).ok())
            .unwrap_or_else(|| panic!("no call record {}", path.display()));
        serde_json::from_slice(&text).expect("the call record is JSON")
    }

    /// The only recording, with its call record written: the call is over and the file is complete.
    pub fn finished_recording(&self) -> PathBuf {
        let found = wait_for(Duration::from_secs(12), || {
            self.recordings().into_iter().find(|recording| recording.with_extension("json").exists())
        });
        found.unwrap_or_else(|| panic!("no finished recording: {}", self.process.last_words()))
    }
}

fn collect(folder: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, extension, into);
        } else if path.extension().is_some_and(|found| found == extension) {
            into.push(path);
        }
    }
}

/// Seconds of media that `file` plays, by reading it to its end rather than believing its header.
pub fn playable_seconds(file: &Path) -> f64 {
    let text = output_of(
        Command::new("ffprobe")
            .args(["-v", "error", "-show_entries", "packet=pts_time,duration_time", "-of", "csv=p=0"])
            .arg(file),
    );
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.split(',').next()?.parse::<f64>().ok())
        .fold(0.0, f64::max)
}
