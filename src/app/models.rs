//! Driver. `eyeline models` and the hidden `eyeline worker`.

use std::process::ExitCode;

use super::cli::{FAILED, ModelsCommand};
use super::config::settings::Models;

/// Lists, fetches, verifies or imports models.
pub fn run(_command: &ModelsCommand, _settings: &Models) -> ExitCode {
    ExitCode::from(FAILED)
}

/// The inference child: serves its parent on the socket it has as standard input.
pub fn worker() -> ExitCode {
    ExitCode::from(FAILED)
}
