//! Build, run, stop. (Stub until the lead's daemon is in place.)

use crate::settings::Settings;

/// Why the daemon could not start, or ended badly.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is not built yet")]
pub struct DaemonError;

/// Runs until `shutdown` is ready.
pub async fn run(
    _settings: Settings,
    shutdown: impl Future<Output = ()> + 'static,
) -> Result<(), DaemonError> {
    shutdown.await;
    Err(DaemonError)
}
