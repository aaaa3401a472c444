//! `clawdbot serve`: settings, logs, then the daemon until a signal comes.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, GlobalFlags};
use crate::application::{ApplicationError, Hub};
use crate::settings::Flag;
use crate::{daemon, telemetry};

#[derive(Debug, Args)]
pub(super) struct ServeFlags {
    /// The model: a name of `clawdbot model list`, a GGUF file, a directory with safetensors, or "embedded" (setting model.path)
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,
}

/// `given` are the flags before and behind the word `serve`; the later ones are stronger.
pub(super) fn run<F>(
    global: &GlobalFlags,
    given: &[ServeFlags],
    application: impl FnOnce(Hub) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), ApplicationError>>,
{
    let settings = global.settings(given.iter().flat_map(ServeFlags::settings).collect())?;
    let logs = telemetry::logging::install(&settings.log, &settings.telemetry).map_err(|error| {
        if error.may_pass() {
            Failure::at_run_time(error)
        } else {
            Failure::misconfigured(error)
        }
    })?;
    for notice in &settings.former {
        tracing::warn!("{notice}");
    }
    let system = actix::System::new();
    let ended = system.block_on(async {
        let run = daemon::run_with(settings, stop_signal()?, application);
        run.await.map_err(|error| {
            if error.is_configuration() {
                Failure::misconfigured(error)
            } else {
                Failure::at_run_time(error)
            }
        })
    });
    // The last lines, too.
    drop(logs);
    ended
}

/// Ready at SIGTERM (from the system) or SIGINT (Ctrl-C). The handlers are in place when this
/// returns, so a signal during the start is not lost.
fn stop_signal() -> Result<impl Future<Output = ()> + 'static, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Failure::AtRunTime(format!("signals cannot be received: {error}; start it again"))
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
    })
}

impl ServeFlags {
    pub(super) fn is_given(&self) -> bool {
        self.model.is_some()
    }

    pub(super) fn settings(&self) -> Option<Flag> {
        let value = self.model.clone()?;
        Some(Flag {
            name: "--model",
            key: "model.path".to_owned(),
            value,
        })
    }
}
