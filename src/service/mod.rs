//! The daemon as a service of the system: one description, from which systemd's unit and launchd's property list are written,
//! and what the running daemon tells those who watch over it.

mod launchd;
mod systemd;
mod watchdog;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::settings::Settings;

pub(crate) use watchdog::{Watch, takes_long};

/// What launchd calls it.
pub(crate) const LABEL: &str = "local.clawdbot";
/// What systemd calls it.
pub(crate) const UNIT: &str = "clawdbot.service";

/// What helps where a file system can only be read: so it looks where systemd has given a service no leave to write.
pub(crate) const MAY_NOT_WRITE: &str =
    "a service of systemd writes there only after `sudo clawdbot service install` was run with that setting";

/// Open files beside those of connections: the store, the model, logs, and what a later version may want.
const FURTHER_FILES: u64 = 1024;
/// Saving what is kept may take a little longer than the daemon gives itself.
const LAST_MOMENTS: Duration = Duration::from_secs(15);

/// Who starts services on this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Manager {
    /// Linux
    Systemd,
    /// macOS
    Launchd,
}

/// The service, whoever starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// The binary.
    pub(crate) program: PathBuf,
    /// All that it keeps; nothing else can be written to.
    pub(crate) data_dir: PathBuf,
    /// The settings, where they are not in the data directory.
    pub(crate) config: Option<PathBuf>,
    /// Further directories that it writes to.
    pub(crate) writable: Vec<PathBuf>,
    /// Who runs it.
    pub(crate) user: String,
    /// That user's group.
    pub(crate) group: String,
    /// The share of the machine's memory from which on the system takes back what can be had again.
    pub(crate) memory_high_percent: u8,
    /// Files that may be open at once.
    pub(crate) open_files: u64,
    /// Without a sign of life for so long it is started anew.
    pub(crate) watchdog: Duration,
    /// The wait before it is started again.
    pub(crate) restart_after: Duration,
    /// The least time between two starts.
    pub(crate) starts_apart: Duration,
    /// How long it may take to end.
    pub(crate) stops_within: Duration,
    /// Where the system keeps no journal: the directory of its logs, which is the user's own.
    pub(crate) log_directory: PathBuf,
    /// Whether the settings say themselves which file the log goes to.
    pub(crate) has_log_file: bool,
}

impl Service {
    /// The service that has these settings.
    pub(crate) fn of(
        settings: &Settings,
        program: PathBuf,
        data_dir: PathBuf,
        user: &str,
        group: &str,
    ) -> Self {
        let socket = settings.mqtt.unix.as_deref().and_then(Path::parent);
        let log = settings.log.file.as_ref().and_then(|file| file.path.parent());
        let written = [socket, log, settings.backup.directory.as_deref()];
        let is_writable = |directory: &Path| {
            directory.starts_with(&data_dir) || directory.starts_with(systemd::RUNTIME_DIRECTORY)
        };
        Self {
            program,
            config: None,
            writable: written
                .into_iter()
                .flatten()
                .filter(|directory| !is_writable(directory))
                .map(Path::to_path_buf)
                .collect(),
            data_dir,
            user: user.to_owned(),
            group: group.to_owned(),
            // The governor begins to give things up earlier, at memory.keep_free_percent: this is for what it cannot see.
            memory_high_percent: 90,
            open_files: (settings.mqtt.max_connections as u64).saturating_add(FURTHER_FILES),
            watchdog: Duration::from_secs(30),
            restart_after: Duration::from_secs(5),
            starts_apart: Duration::from_secs(10),
            stops_within: settings.shutdown.timeout + LAST_MOMENTS,
            log_directory: PathBuf::from(launchd::LOG_DIRECTORY),
            has_log_file: settings.log.file.is_some(),
        }
    }

    /// What is started, word by word.
    fn command(&self) -> Vec<String> {
        let mut words = vec![
            self.program.display().to_string(),
            "serve".to_owned(),
            "--data-dir".to_owned(),
            self.data_dir.display().to_string(),
        ];
        if let Some(config) = &self.config {
            words.extend(["--config".to_owned(), config.display().to_string()]);
        }
        words
    }
}

impl Manager {
    /// That of this system.
    pub(crate) fn here() -> Self {
        if cfg!(target_os = "macos") {
            Self::Launchd
        } else {
            Self::Systemd
        }
    }

    /// The file that describes the service.
    pub(crate) fn file(self) -> &'static Path {
        Path::new(match self {
            Self::Systemd => "/etc/systemd/system/clawdbot.service",
            Self::Launchd => "/Library/LaunchDaemons/local.clawdbot.plist",
        })
    }

    /// The user that the service has unless another is named. On macOS users of the system begin with an underscore.
    pub(crate) fn user(self) -> &'static str {
        match self {
            Self::Systemd => "clawdbot",
            Self::Launchd => "_clawdbot",
        }
    }

    /// Where its data is unless another place is named. Not below /Library/Application Support: that has a blank in its name,
    /// which breaks the scripts of whoever forgets a quotation mark.
    pub(crate) fn data_dir(self) -> &'static Path {
        Path::new(match self {
            Self::Systemd => "/var/lib/clawdbot",
            Self::Launchd => "/usr/local/var/clawdbot",
        })
    }

    /// The text of the file.
    pub(crate) fn describe(self, service: &Service) -> String {
        match self {
            Self::Systemd => systemd::unit(service),
            Self::Launchd => launchd::property_list(service),
        }
    }

    /// The data directory that the text of such a file names.
    pub(crate) fn data_dir_in(self, text: &str) -> Option<PathBuf> {
        match self {
            Self::Systemd => systemd::data_dir_in(text),
            Self::Launchd => launchd::data_dir_in(text),
        }
    }

    /// The settings file that the text of such a file names.
    pub(crate) fn config_in(self, text: &str) -> Option<PathBuf> {
        match self {
            Self::Systemd => systemd::config_in(text),
            Self::Launchd => launchd::config_in(text),
        }
    }

    /// The user that the text of such a file names.
    pub(crate) fn user_in(self, text: &str) -> Option<String> {
        match self {
            Self::Systemd => systemd::user_in(text),
            Self::Launchd => launchd::user_in(text),
        }
    }
}

#[cfg(test)]
mod tests;
