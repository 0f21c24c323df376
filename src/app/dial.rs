//! Driver. `eyeline call`.

use std::process::ExitCode;

use super::cli::{CallArguments, FAILED};
use super::config::settings::Config;

/// Makes one call and reports.
pub fn run(_arguments: &CallArguments, _config: &Config) -> ExitCode {
    ExitCode::from(FAILED)
}
