//! Driver. Starts a child process of this binary: little environment, a control socket as standard input.
//!
//! What is said over the socket, and what becomes of a child that dies, belongs to who starts it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::worker::control;

/// Pause before a new child: doubled from the first to the last, and back to the first after a good while.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
pub const BACK_OFF_LAST: Duration = Duration::from_secs(5);
pub const GOOD_WHILE: Duration = Duration::from_secs(30);

/// What a child may have of our environment. Secrets of the configuration are not its business.
const ENVIRONMENT: [&str; 5] = ["PATH", "LD_LIBRARY_PATH", "ORT_DYLIB_PATH", "RUST_BACKTRACE", "TMPDIR"];

/// Starts `executable` with `arguments`; gives our end of its socket. It asks the kernel to die with the thread that
/// calls this.
pub fn launch(
    executable: &Path,
    arguments: &[&str],
    environment: &[(String, String)],
) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = control::pair()?;
    let mut command = Command::new(executable);
    command.arg0("eyeline").args(arguments).stdin(Stdio::from(theirs)).stdout(Stdio::null()).env_clear();
    // A Ctrl-C at the terminal is for the program alone.
    command.process_group(0);
    command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    #[cfg(feature = "faults")]
    command.envs(std::env::var_os("EYELINE_FAULTS").map(|plan| ("EYELINE_FAULTS", plan)));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Ok((command.spawn()?, ours))
}

/// Kills the child unless it is gone, and takes its exit status.
pub fn end(mut child: Child, socket: &OwnedFd) -> String {
    // It may have ended by itself, which is what the status then says.
    if let Ok(None) = child.try_wait() {
        let _ = control::wait(&[socket], Some(Duration::from_millis(20)));
    }
    if let Ok(Some(status)) = child.try_wait() {
        return status.to_string();
    }
    let _ = child.kill();
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}
