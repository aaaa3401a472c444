//! What can be seen from outside: metrics, what a collector is told, the log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Health and metrics over HTTP.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// How often the disk is probed; none for never.
    pub disk_probe_interval: Option<Duration>,
    /// Address and port of `/health` and `/metrics`.
    pub listen: SocketAddr,
    /// Whether `listen` may leave the machine although nothing there asks who is reading.
    pub allow_beyond_loopback: bool,
}

/// What is sent to an OpenTelemetry collector.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Who gets it; none where nothing is sent.
    pub collector: Option<Collector>,
    /// So many of a hundred requests are traced, where the client has not decided.
    pub trace_percent: u8,
    /// Whether traces have the words of requests and answers.
    pub capture_content: bool,
}

/// An OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Where it takes OTLP, as in `http://127.0.0.1:4318`, without a slash at the end.
    pub endpoint: String,
    /// How.
    pub protocol: OtlpProtocol,
}

/// Transports of OTLP, as OpenTelemetry names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// `http/protobuf`.
    HttpProtobuf,
    /// `grpc`.
    Grpc,
}

/// Log output.
#[derive(Clone, Debug)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines appear, in tracing's `EnvFilter` syntax; parses, since it was checked.
    pub level: String,
    /// Where lines go instead of stderr, if there is such a place.
    pub file: Option<LogPlace>,
}

/// A log file, and what is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The newest one; those before it have a number behind the name.
    pub path: PathBuf,
    /// Bytes after which the next one begins.
    pub max_bytes: u64,
    /// How many are kept beside it.
    pub keep: u32,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people at a terminal.
    Pretty,
    /// One JSON object a line, for collectors.
    Json,
}
