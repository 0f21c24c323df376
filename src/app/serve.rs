//! Driver. `eyeline serve`.

use std::process::ExitCode;

use super::cli::FAILED;
use super::config::Loaded;

/// Runs the appliance until it is told to stop.
pub fn run(_loaded: Loaded) -> ExitCode {
    ExitCode::from(FAILED)
}
