//! What can be seen from outside: log lines and metrics.

pub mod disk;
pub mod logging;
pub mod metrics;
pub mod observe;

pub use metrics::Metrics;
