//! `clawdbot audit`: what this machine shows to others, and how its files, keys and settings are kept. Each finding has an
//! id that stays, and says what mends it; nothing is changed without `--fix`, and with it only what is safe.

mod auth;
mod files;
mod keys;
mod machine;
mod mend;
mod mount;
mod programs;
mod reach;
mod sockets;
mod tree;
mod weak;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use serde_json::Value;

use self::programs::Programs;
use self::tree::Tree;
use super::report::{Examined, Finding, Report};
use super::{Failure, GlobalFlags, block_on};
use crate::admin::{self, AdminError, AdminRequest};
use crate::security::DataDir;
use crate::service::Manager;
use crate::settings::{self, Settings, Sources};

#[derive(Debug, Args)]
pub(super) struct AuditFlags {
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
    /// Mend what is safe to mend: modes and owners in the data directory, and a certificate of ours that ends soon
    #[arg(long)]
    fix: bool,
    /// With --fix: say what it would do, and do nothing
    #[arg(long, requires = "fix")]
    dry_run: bool,
}

/// What is looked at.
struct Subject {
    settings: Settings,
    /// The settings file, if there is one.
    config: Option<PathBuf>,
    /// None where there is none yet, or it cannot be used.
    dir: Option<DataDir>,
    /// What is in the data directory.
    tree: Tree,
    /// What the daemon says of itself; None where none answers.
    status: Option<Value>,
    /// What it says of devices.
    devices: Option<Value>,
    /// Why it does not answer, if it runs.
    trouble: Option<String>,
    programs: Programs,
    now: SystemTime,
}

pub(super) fn run(global: &GlobalFlags, flags: &AuditFlags) -> Result<(), Failure> {
    let mut sources = global.sources(Vec::new());
    if platform::user::is_root()
        && is_unnamed(&sources)
        && let Ok(text) = fs::read_to_string(Manager::here().file())
        && let Some(data_dir) = Manager::here().data_dir_in(&text)
    {
        sources = Sources::of_service(&data_dir, Manager::here().config_in(&text));
        eprintln!(
            "clawdbot: this is about the installed service, in {}; --data-dir names another",
            data_dir.display()
        );
    }
    let mut report = Report::default();
    match settings::load(&sources) {
        Ok(settings) => {
            report.note_settings(&settings);
            audit(settings, sources.file(), flags, &mut report)?;
        }
        Err(error) => report.note_wrong_settings(&error),
    }
    report.conclude(flags.json, "something is open that must not be; see above")
}

/// Whether nobody has said what is asked about. Root's own data directory is not what runs on this machine: they ask about the service.
fn is_unnamed(sources: &Sources) -> bool {
    sources.config_file.is_none()
        && sources.flags.is_empty()
        && !sources.environment.contains_key("CLAWDBOT__DATA_DIR")
}

fn audit(
    settings: Settings,
    config: Option<PathBuf>,
    flags: &AuditFlags,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut subject = Subject::look(settings, config)?;
    if flags.fix {
        let mended = mend::mend(&subject, flags.dry_run);
        report.note_all("fix", mend::judge(&mended));
        report.mended = Some(mended);
        if !flags.dry_run {
            // What was mended is looked at anew, as everything else.
            subject = Subject::look(subject.settings, subject.config)?;
        }
    }
    for (name, check) in CHECKS {
        report.note_all(name, check(&subject));
    }
    Ok(())
}

/// Every check by its id, which programs know it by.
type Check = fn(&Subject) -> Examined;
const CHECKS: &[(&str, Check)] = &[
    ("daemon", daemon),
    ("reach", reach::reach),
    ("public_address", reach::public_address),
    ("allow_plaintext_beyond_loopback", reach::plaintext_allowed),
    ("allow_beyond_private_network", reach::strangers_allowed),
    ("metrics_beyond_loopback", reach::metrics_allowed),
    ("broker_link", reach::broker_link),
    ("unix_socket", reach::unix_socket),
    ("forgotten_listener", reach::forgotten),
    ("auth_none", auth::nobody_is_asked),
    ("token_lifetime", auth::token_lifetime),
    ("access_everything", auth::access_to_everything),
    ("access_others", auth::access_to_others),
    ("devices_unseen", auth::unseen),
    ("wrong_codes", auth::wrong_codes),
    ("flapping_off", auth::flapping),
    ("data_dir_mode", files::data_dir),
    ("file_mode", files::modes),
    ("file_owner", files::owners),
    ("config_file", files::config),
    ("secret_file", files::secrets),
    ("parent_directory", files::parents),
    ("program_file", files::program),
    ("synced_folder", files::synced),
    ("network_mount", files::mounted),
    ("signing_key_age", keys::signing_key),
    ("master_key_age", keys::master_key),
    ("master_key_place", keys::master_key_place),
    ("certificate_end", keys::certificate),
    ("authority_end", keys::authority),
    ("other_certificates", keys::others),
    ("key_size", keys::size),
    ("log_level", weak::log_level),
    ("capture_content", weak::content),
    ("telemetry_plaintext", weak::telemetry),
    ("hub_plaintext", weak::hub),
    ("store_none", weak::store),
    ("store_unchecked", weak::store_checks),
    ("memory_unguarded", weak::memory),
    ("connections_of_one_address", weak::connections),
    ("root_user", machine::root),
    ("firewall", machine::firewall),
    ("disk_encryption", machine::disk_encryption),
    ("clock_sync", machine::clock),
];

impl Subject {
    fn look(settings: Settings, config: Option<PathBuf>) -> Result<Subject, Failure> {
        let dir = DataDir::open(&settings.data_dir).ok();
        let (mut status, mut devices, mut trouble) = (None, None, None);
        if let Some(dir) = &dir {
            let ask = |command| block_on(async { Ok(admin::ask(dir, &AdminRequest::new(command)).await) });
            match ask("status")? {
                Ok(answer) => {
                    status = Some(answer);
                    // A daemon that is about to stop may not answer a second time.
                    devices = ask("device-list")?.ok();
                }
                Err(AdminError::NotRunning(_)) => {}
                Err(error) => trouble = Some(error.to_string()),
            }
        }
        Ok(Subject {
            tree: Tree::of(&settings.data_dir),
            settings,
            config,
            dir,
            status,
            devices,
            trouble,
            programs: Programs::of_this_process(),
            now: SystemTime::now(),
        })
    }

    /// The daemon's process.
    fn pid(&self) -> Option<u32> {
        let pid = self.status.as_ref()?.get("pid")?.as_u64()?;
        u32::try_from(pid).ok()
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.status.as_ref().and_then(|status| status.get("counters"));
        let counter = counters.and_then(|counters| counters.get(name));
        counter.and_then(Value::as_u64).unwrap_or(0)
    }

    #[cfg(test)]
    fn for_tests(data_dir: &Path) -> Subject {
        Subject {
            settings: Settings::default_for_tests(data_dir),
            config: None,
            dir: DataDir::open(data_dir).ok(),
            tree: Tree::of(data_dir),
            status: None,
            devices: None,
            trouble: None,
            programs: Programs::at(Vec::new()),
            now: SystemTime::now(),
        }
    }
}

fn daemon(subject: &Subject) -> Examined {
    if let Some(trouble) = &subject.trouble {
        let hint = "look into its log, and restart it if it hangs";
        return Err(vec![Finding::warning(trouble.clone(), hint)]);
    }
    match subject.pid() {
        Some(pid) => Ok(format!("process {pid} is looked at as it runs")),
        None => {
            let hint = "`clawdbot serve` starts it; with a daemon what it really listens on is looked at, and its devices";
            let message = "no daemon runs on this data directory: it is judged by its settings and files";
            Err(vec![Finding::info(message, hint)])
        }
    }
}

/// All is well where nothing was found.
fn unless(findings: Vec<Finding>, line: impl Into<String>) -> Examined {
    if findings.is_empty() {
        Ok(line.into())
    } else {
        Err(findings)
    }
}

/// One finding where something is so.
fn where_so(is_so: bool, finding: impl FnOnce() -> Finding, line: &str) -> Examined {
    unless(is_so.then(finding).into_iter().collect(), line)
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The nearest directory that exists, by its real name.
fn there(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|path| path.canonicalize().ok());
    found.unwrap_or_else(|| PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_an_id_of_its_own() {
        let mut ids: Vec<&str> = CHECKS.iter().map(|(id, _)| *id).collect();
        ids.extend(["settings", "fix"]);
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(
            ids.iter()
                .all(|id| id.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        );
    }

    #[test]
    fn who_names_a_place_asks_about_that() {
        assert!(is_unnamed(&Sources::default()));
        let of_flag = Sources::of_service(Path::new("/srv/hub"), None);
        assert!(!is_unnamed(&of_flag));
        let of_file = Sources {
            config_file: Some(PathBuf::from("/etc/hub.toml")),
            ..Sources::default()
        };
        assert!(!is_unnamed(&of_file));
        let mut of_variable = Sources::default();
        of_variable
            .environment
            .insert("CLAWDBOT__DATA_DIR".to_owned(), "/srv/hub".into());
        assert!(!is_unnamed(&of_variable));
    }

    #[test]
    fn a_path_is_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/a b")), "'/a b'");
        assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
    }

    /// That each holds alone is tested beside it; here, that none contradicts the defaults.
    #[test]
    fn a_new_data_directory_with_the_defaults_has_no_errors_and_no_warnings() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(&temp.path().join("data")).unwrap();
        let subject = Subject::for_tests(dir.root());
        // Of the machine that the tests run on.
        let machine = [
            "root_user",
            "firewall",
            "clock_sync",
            "program_file",
            "parent_directory",
        ];
        for (name, check) in CHECKS.iter().filter(|(name, _)| !machine.contains(name)) {
            for finding in check(&subject).err().unwrap_or_default() {
                assert_eq!(
                    finding.severity,
                    super::super::report::Severity::Info,
                    "{name}: {finding:?}"
                );
            }
        }
    }
}
