//! Log lines, to stderr: stdout belongs to what a command answers.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::{Log, LogFormat};

/// What is said below a warning there concerns the metrics library's own affairs. It comes first, so
/// that a setting naming the same target replaces it.
const QUIET: &str = "opentelemetry=warn";

/// Installs the process-wide subscriber. A second call changes nothing, so that tests may each ask.
pub fn install(log: &Log) {
    // The level was checked with the settings; should the two ever disagree, a log at the default
    // level is worth more than a daemon that does not start.
    let filter =
        EnvFilter::try_new(format!("{QUIET},{}", log.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let _already_installed = match log.format {
        LogFormat::Pretty => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
}

/// Says what is wrong with a filter, if anything.
pub fn check_level(level: &str) -> Result<(), String> {
    if level.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    EnvFilter::try_new(level)
        .map(|_| ())
        .map_err(|error| error.to_string())
}
