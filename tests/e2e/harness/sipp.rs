//! SIPp: an independent stack's idea of SIP. As caller and as callee by the scenarios of `tests/data/sipp`, and with
//! its own caller many times a second.
//!
//! A scenario passes when every message it waits for came, in its order, and every expression in it matched; SIPp's
//! exit code says so. What was on the wire is kept for the message of a failed check.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::Process;
use super::{free_ports, root, wait_for};

/// What SIPp plays.
#[derive(Clone, Copy, Debug)]
pub enum Script<'a> {
    /// A file of `tests/data/sipp`, without its ending.
    File(&'a str),
    /// One that SIPp brings: `uac`, `uas`.
    Own(&'a str),
}

/// How a scenario is played; the default is one call, alone.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    pub count: u32,
    pub per_second: u32,
    /// Of `<pause/>` without a length.
    pub hold: Duration,
    /// The longest that one awaited message may take.
    pub patience: Duration,
}

impl Default for Calls {
    fn default() -> Self {
        let hold = Duration::from_millis(500);
        Calls { count: 1, per_second: 100, hold, patience: Duration::from_secs(6) }
    }
}

/// SIPp's own count of its calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub per_second: f64,
    pub successful: u32,
    pub failed: u32,
    /// Requests that SIPp had to send again.
    pub retransmissions: u32,
}

/// A running SIPp.
pub struct Sipp {
    pub process: Process,
    /// Where it listens.
    pub port: u16,
    folder: TempDir,
    started: Instant,
    limit: Duration,
}

impl Sipp {
    /// Calls `sip:USER@ADDRESS`.
    pub fn caller(script: Script<'_>, uri: &str, calls: Calls) -> Sipp {
        let (user, address) =
            uri.strip_prefix("sip:").and_then(|rest| rest.split_once('@')).expect("a SIP URI");
        let rate = calls.per_second.to_string();
        Sipp::start(script, calls, &["-s", user, "-r", &rate, address])
    }

    /// Takes calls on [`Sipp::uri`] and sends every media packet back.
    pub fn callee(script: Script<'_>, calls: Calls) -> Sipp {
        let sipp = Sipp::start(script, calls, &["-rtp_echo"]);
        let bound = wait_for(Duration::from_secs(5), || {
            std::net::UdpSocket::bind(("127.0.0.1", sipp.port)).is_err().then_some(())
        });
        assert!(bound.is_some(), "SIPp listens: {}", sipp.process.last_words());
        sipp
    }

    fn start(script: Script<'_>, calls: Calls, more: &[&str]) -> Sipp {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_ports(8);
        let patience = calls.patience;
        let limit = Duration::from_secs(u64::from(calls.count / calls.per_second.max(1)))
            + calls.hold
            + patience * 2
            + Duration::from_secs(10);
        let mut command = Command::new("sipp");
        command.current_dir(folder.path());
        match script {
            Script::File(name) => {
                let file: PathBuf = root().join("tests/data/sipp").join(format!("{name}.xml"));
                command.arg("-sf").arg(file);
            }
            Script::Own(name) => {
                command.args(["-sn", name]);
            }
        }
        let numbers = [
            ("-p", port.to_string()),
            ("-mp", (port + 2).to_string()),
            ("-d", calls.hold.as_millis().to_string()),
            ("-m", calls.count.to_string()),
            ("-recv_timeout", patience.as_millis().to_string()),
            ("-timeout", format!("{}s", limit.as_secs())),
        ];
        for (name, value) in numbers {
            command.args([name, &value]);
        }
        command.args(["-i", "127.0.0.1", "-mi", "127.0.0.1", "-nostdin", "-timeout_error"]);
        command.args([
            "-trace_err",
            "-error_file",
            "errors.log",
            "-trace_stat",
            "-stf",
            "figures.csv",
            "-fd",
            "1",
        ]);
        if calls.count <= 10 {
            command.args(["-trace_msg", "-message_file", "messages.log"]);
        }
        let process = Process::start("sipp", command.args(more), folder.path());
        Sipp { process, port, folder, started: Instant::now(), limit }
    }

    /// Where to call it.
    pub fn uri(&self) -> String {
        format!("sip:sipp@127.0.0.1:{}", self.port)
    }

    /// Waits for its end and says how its calls went.
    pub fn finish(mut self) -> Figures {
        let left = self.limit.saturating_sub(self.started.elapsed());
        self.process.wait(left + Duration::from_secs(5));
        let text = std::fs::read_to_string(self.folder.path().join("figures.csv")).unwrap_or_default();
        let mut rows = text.lines().map(|line| line.split(';').collect::<Vec<_>>());
        let names = rows.next().unwrap_or_default();
        let last = rows.next_back().unwrap_or_default();
        let figure = |name: &str| {
            let column = names.iter().position(|known| *known == name)?;
            last.get(column)?.parse::<f64>().ok()
        };
        Figures {
            per_second: figure("CallRate(C)").unwrap_or_default(),
            successful: figure("SuccessfulCall(C)").unwrap_or_default() as u32,
            failed: figure("FailedCall(C)").unwrap_or_default() as u32,
            retransmissions: figure("Retransmissions(C)").unwrap_or_default() as u32,
        }
    }

    /// Waits for its end. `Err`: what it missed and what was on the wire.
    pub fn passed(mut self) -> Result<(), String> {
        let left = self.limit.saturating_sub(self.started.elapsed());
        let ended = self.process.wait(left + Duration::from_secs(5));
        if ended.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        Err(format!(
            "{ended:?}\n{}\n{}\n{}",
            read("errors.log"),
            read("messages.log"),
            self.process.last_words()
        ))
    }
}

/// Makes `count` calls of half a second to `uri`, `per_second` of them a second, by SIPp's own scenario: sound is
/// offered but not sent. Panics with SIPp's statistics when any of them fails.
pub fn call(uri: &str, count: u32, per_second: u32) {
    let calls = Calls { count, per_second, ..Calls::default() };
    Sipp::caller(Script::Own("uac"), uri, calls).passed().unwrap_or_else(|why| panic!("{why}"));
}
