//! Where log lines go, and which.

use std::path::Path;

use super::check::{Checker, MILLION};
use super::raw::{Given, RawLog};
use super::{Log, LogFormat, LogPlace};
use crate::telemetry::logging;

impl Checker<'_> {
    pub(super) fn log(&mut self, raw: RawLog, data_dir: &Path) -> Log {
        let format = self.choice(
            "log.format",
            raw.format,
            &[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)],
            LogFormat::Pretty,
        );
        let level = self.log_level(raw.level);
        let path = self.optional("log.file", raw.file);
        let max_mib: u64 = self.number("log.max_mib", raw.max_mib, 1..=MILLION);
        let keep = self.number("log.keep", raw.keep, 0..=1000);
        Log {
            format,
            level,
            file: path.map(|path| LogPlace {
                // One that begins with a slash stays as it is.
                path: data_dir.join(path),
                max_bytes: max_mib << 20,
                keep,
            }),
        }
    }

    fn log_level(&mut self, given: Given<String>) -> String {
        let level = self.text("log.level", given);
        if let Err(error) = logging::check_level(&level) {
            let reason =
                format!("not a log filter: {error}; write for example \"info\" or \"info,clawdbot=debug\"");
            self.refuse("log.level", format!("{level:?}"), &reason);
        }
        level
    }
}
