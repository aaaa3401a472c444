//! Waits for what takes long, and shows how far it is where somebody looks.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Failure;
use crate::admin::{self, AdminError, AdminRequest};
use crate::security::DataDir;
use crate::store::Progress;

const LOOK: Duration = Duration::from_millis(100);

/// Has the daemon do something that takes long, and waits for what comes of it.
pub(in crate::cli) fn job(dir: &DataDir, request: &AdminRequest) -> Result<Value, AdminError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AdminError::Io {
            action: "asking by",
            path: dir.socket(),
            source,
        })?;
    runtime.block_on(async {
        let begun = admin::ask(dir, request).await?;
        let mut look = AdminRequest::new("store-job");
        look.arguments
            .insert("job".to_owned(), begun.get("job").cloned().unwrap_or(json!(0)));
        let mut shown = Shown::default();
        loop {
            let state = admin::ask(dir, &look).await?;
            let number = |name: &str| state.get(name).and_then(Value::as_u64).unwrap_or(0);
            shown.show(number("done"), number("total"));
            match (state.get("result"), state.get("error")) {
                (_, Some(Value::String(error))) => return Err(AdminError::Refused(error.clone())),
                (Some(result), _) if !result.is_null() => return Ok(result.clone()),
                _ if state.get("running") == Some(&json!(true)) => tokio::time::sleep(LOOK).await,
                _ => {
                    let lost = "it does not know any more what came of it; ask again";
                    return Err(AdminError::Refused(lost.to_owned()));
                }
            }
        }
    })
}

/// Shows how far something is that another thread does, until it is dropped.
/// A service has a `/tmp` of its own, which is gone with it: what the daemon wrote there nobody finds.
pub(in crate::cli) fn must_be_here(file: &Path) -> Result<(), Failure> {
    match std::fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::AtRunTime(format!(
            "the daemon made {} where only it can see it, as services have a /tmp of their own; name a place in its data \
             directory, or backup.directory",
            file.display()
        ))),
        _ => Ok(()),
    }
}

pub(in crate::cli) struct Meter {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    pub(in crate::cli) fn watch(progress: Arc<Progress>) -> Meter {
        let ends = Arc::<AtomicBool>::default();
        let ends_there = ends.clone();
        // Without a thread it is done all the same, and not shown.
        let thread = std::thread::Builder::new().spawn(move || {
            let mut shown = Shown::default();
            while !ends_there.load(Relaxed) {
                shown.show(progress.done.load(Relaxed), progress.total.load(Relaxed));
                std::thread::sleep(LOOK);
            }
        });
        Meter {
            ends,
            thread: thread.ok(),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only shows something.
            let _ = thread.join();
        }
    }
}

/// A line on a terminal, which is gone in the end.
#[derive(Default)]
struct Shown {
    is_there: bool,
}

impl Shown {
    fn show(&mut self, done: u64, total: u64) {
        if total > 0 && io::stderr().is_terminal() {
            self.is_there = true;
            let percent = (done * 100 / total).min(100);
            // Nobody is hurt when it cannot be shown.
            let _ = write!(io::stderr(), "\r{percent:3} % of {total} values");
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.is_there {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
