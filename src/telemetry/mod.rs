//! What can be seen from outside: log lines and metrics.

pub mod disk;
mod log_file;
pub mod logging;
pub mod metrics;
pub mod observe;
mod otlp;
pub mod panics;
pub mod traces;

pub use metrics::Metrics;
