//! Log lines, to stderr or to a file: stdout belongs to what a command answers; and to a collector, where one is set.

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::InstrumentationScope;
use opentelemetry::logs::{LogRecord, Severity};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::LogExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, LogProcessor, SdkLogRecord, SdkLoggerProvider,
};
use tracing_subscriber::filter::{dynamic_filter_fn, filter_fn};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::log_file::{self, LogFile, LogFileError};
use super::otlp::{exporter, resource};
use crate::settings::{Collector, Log, LogFormat, Telemetry};

/// What is said below a warning there concerns the metrics library's own affairs. It comes first, so
/// that a setting naming the same target replaces it.
const QUIET: &str = "opentelemetry=warn";

/// What is said there is said about sending what is said.
const OF_THE_EXPORTER: [&str; 7] = ["opentelemetry", "ureq", "rustls", "tonic", "tower", "hyper", "h2"];

/// Panics and the like of years.
const LONGEST_STDERR: u64 = 4 << 20;

/// A collector that is away for a day is not worth tens of thousands of lines.
const EXPORTERS_LINES_A_MINUTE: u32 = 3;

/// Lines that wait for a collector; what finds them all there is dropped.
const WAITING: usize = 4096;
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the end waits for a collector, and for the disk.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What goes to a collector and to a file. Dropping it sends and writes what waits.
#[derive(Debug)]
pub struct Logs {
    provider: Option<SdkLoggerProvider>,
    file: Option<LogFile>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// What the exporter says of the collector's place.
    #[error("{0}")]
    Collector(String),
    /// What the system says of the file's.
    #[error(transparent)]
    File(#[from] LogFileError),
}

impl LogError {
    /// Whether another start may succeed with this configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Collector(_) => false,
            Self::File(error) => error.may_pass(),
        }
    }
}

/// Says where lines go, if that is a file, without making anything.
///
/// # Errors
/// As [`install`], where it is nothing that may pass.
pub fn look(log: &Log) -> Result<Option<String>, LogError> {
    let Some(place) = &log.file else { return Ok(None) };
    let note = match log_file::look(place)? {
        true => "",
        false => " (where this user may not write now)",
    };
    Ok(Some(format!("log: {}{note}", place.path.display())))
}

/// Installs the process-wide subscriber. A second call changes nothing, so that tests may each ask.
///
/// # Errors
/// What is wrong with the place that lines are sent or written to.
pub fn install(log: &Log, telemetry: &Telemetry) -> Result<Logs, LogError> {
    let provider = telemetry
        .collector
        .as_ref()
        .map(to_collector)
        .transpose()
        .map_err(LogError::Collector)?;
    let bridge = provider.as_ref().map(|provider| {
        let is_ours = |target: &str| !OF_THE_EXPORTER.iter().any(|other| target.starts_with(other));
        OpenTelemetryTracingBridge::new(provider)
            .with_filter(filter_fn(move |metadata| is_ours(metadata.target())))
    });
    // The level was checked with the settings; should the two ever disagree, a log at the default
    // level is worth more than a daemon that does not start.
    let filter =
        EnvFilter::try_new(format!("{QUIET},{}", log.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let file = log.file.as_ref().map(LogFile::begin).transpose()?;
    if file.is_some() {
        shorten_stderr();
    }
    if let Some(place) = log.file.as_ref().filter(|_| io::stderr().is_terminal()) {
        // Silence would be taken for a daemon that does nothing.
        eprintln!("clawdbot: the log goes to {}", place.path.display());
    }
    let writer = match &file {
        Some(file) => BoxMakeWriter::new(file.clone()),
        None => BoxMakeWriter::new(io::stderr),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(SystemTime)
        .with_ansi(file.is_none() && io::stderr().is_terminal())
        .with_writer(writer);
    let lines = match log.format {
        LogFormat::Pretty => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let few = Few::default();
    let lines = lines.with_filter(dynamic_filter_fn(move |metadata, _| {
        !metadata.target().starts_with("opentelemetry") || few.may_speak(Instant::now())
    }));
    let subscriber = tracing_subscriber::registry()
        .with(lines)
        .with(bridge)
        .with(filter);
    let _already_installed = subscriber.try_init();
    Ok(Logs { provider, file })
}

/// What launchd writes a daemon's stderr to, it never moves aside. Only the end of the daemon's own life is of interest there.
fn shorten_stderr() {
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned().map(File::from) else {
        return;
    };
    let is_long = |found: Metadata| found.is_file() && found.len() > LONGEST_STDERR;
    if stderr.metadata().is_ok_and(is_long) {
        // One that cannot be shortened grows as before.
        let _refused = stderr.set_len(0);
    }
}

fn to_collector(collector: &Collector) -> Result<SdkLoggerProvider, String> {
    let exporter = exporter!(LogExporter, "logs", collector)?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(WAITING)
        .with_scheduled_delay(INTERVAL)
        .build();
    let processor = BatchLogProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    Ok(SdkLoggerProvider::builder()
        .with_log_processor(Completed)
        .with_log_processor(processor)
        .with_resource(resource())
        .build())
}

/// What the bridge from `tracing` leaves out, and what it makes up.
#[derive(Debug)]
struct Completed;

impl LogProcessor for Completed {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        if let (None, Some(observed)) = (record.timestamp(), record.observed_timestamp()) {
            // Without one a line is of 1970 for whoever looks no further.
            record.set_timestamp(observed);
        }
        // It names a place in the source. A name says that the record is an event with attributes of its own.
        record.set_event_name("");
    }

    /// Whether somebody wants it is for those to say who send it.
    fn event_enabled(&self, _: Severity, _: &str, _: Option<&str>) -> bool {
        false
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // Nobody is left whom a failure could be told.
            let _lost = provider.shutdown_with_timeout(LAST_WORDS);
        }
        if let Some(file) = &self.file {
            file.finish(LAST_WORDS);
        }
    }
}

/// So many lines a minute and no more.
#[derive(Debug, Default)]
struct Few(Mutex<Option<(Instant, u32)>>);

impl Few {
    fn may_speak(&self, now: Instant) -> bool {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, said) = minute.get_or_insert((now, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(60) {
            (*since, *said) = (now, 0);
        }
        *said = said.saturating_add(1);
        *said <= EXPORTERS_LINES_A_MINUTE
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_complains_without_end_is_heard_a_few_times_a_minute() {
        let (few, start) = (Few::default(), Instant::now());
        let heard = (0..600).filter(|second| few.may_speak(start + Duration::from_secs(*second)));
        assert_eq!(heard.count(), 10 * EXPORTERS_LINES_A_MINUTE as usize);
    }
}
