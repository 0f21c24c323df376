//! SIPp with its own caller scenario: an independent stack's idea of INVITE, ACK and BYE, many times a second.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::free_ports;
use super::process::Process;

/// Makes `calls` calls of half a second to `sip:USER@ADDRESS`, `per_second` of them a second, sound offered but not sent.
/// Panics with SIPp's statistics when any of them fails.
pub fn call(uri: &str, calls: u32, per_second: u32) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (user, address) = uri.strip_prefix("sip:").and_then(|rest| rest.split_once('@')).expect("a SIP URI");
    let ports = free_ports(8);
    let mut command = Command::new("sipp");
    command.current_dir(folder.path()).args(["-sn", "uac", "-nostdin", "-s", user, "-i", "127.0.0.1"]);
    command.args([
        "-p",
        &ports.to_string(),
        "-mp",
        &(ports + 2).to_string(),
        "-d",
        "500",
        "-recv_timeout",
        "5000",
    ]);
    command.args(["-m", &calls.to_string(), "-r", &per_second.to_string(), address]);
    let mut sipp = Process::start("sipp", &mut command, Path::new(folder.path()));
    let limit = Duration::from_secs(u64::from(calls / per_second) + 20);
    let ended = sipp.wait(limit);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", sipp.last_words());
}
