//! Driver. Where log lines go: standard error as text or JSON, or the journal with fields.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::cli::{Global, LogFormat};

/// Libraries that speak too much at our levels.
const QUIET: [&str; 5] = ["ort=warn", "hyper=warn", "hyper_util=warn", "ureq=warn", "rtc_dtls=error"];

/// Starts logging for the rest of the process. `default`: the level when none was asked for by `--log-level` or
/// `RUST_LOG`.
///
/// # Errors
/// A filter that cannot be read, or no journal to write to.
pub fn start(options: &Global, default: &str) -> Result<(), String> {
    let written = options.log_level.clone().or_else(|| std::env::var("RUST_LOG").ok());
    let filter = filter(written.as_deref().unwrap_or(default))?;
    let registry = tracing_subscriber::registry().with(filter);
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match options.log_format.unwrap_or_default() {
        LogFormat::Text => registry.with(stderr.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(stderr.json().with_target(true).flatten_event(true)).try_init(),
        LogFormat::Journald => {
            let journal = tracing_journald::layer()
                .map_err(|error| format!("no journal to log to: {error}; use --log-format text"))?;
            registry.with(journal.with_field_prefix(None)).try_init()
        }
    }
    .map_err(|error| error.to_string())
}

/// What the user wrote, after the levels of libraries so that it wins over them.
fn filter(written: &str) -> Result<EnvFilter, String> {
    let all = format!("{},{written}", QUIET.join(","));
    EnvFilter::try_new(all)
        .map_err(|error| format!("--log-level {written}: {error}; write info or info,eyeline::sip=debug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_read_and_nonsense_is_refused() {
        for good in ["info", "debug", "warn,eyeline::sip=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert!(filter("eyeline=loud").is_err());
        assert!(filter("info").unwrap().to_string().contains("ort=warn"));
    }
}
