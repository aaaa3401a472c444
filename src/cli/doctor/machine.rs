//! What the daemon stands on: files, disk, memory, clock, ports, the model's file.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use actors::certificate_keeper::ServerCertificate;
use actors::policy::expiry::Standing;
use platform::{disk, memory};

use super::Patient;
use crate::backup;
use crate::cli::report::{Checked, Finding};
use crate::kept_certificate::lasts;
use crate::library::Library;
use crate::security::certificates::WatchedCertificate;
use crate::security::{DataDir, KeyError, MasterKeyPlace, keys as signing};
use crate::settings::StoreMode;
use crate::store::StorePlace;
use crate::telemetry::disk::probe;

/// The design's bound of what a write may take.
const SLOW_DISK: Duration = Duration::from_millis(20);
/// Pages that are written to see how long it takes.
const PROBES: usize = 9;
/// Less room than this, and the store soon takes nothing.
const LEAST_ROOM: u64 = 256 << 20;
/// Clocks that are kept by the network differ by less.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// When there is time left to renew a certificate by hand.
const ENDS_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn keys(patient: &Patient) -> Checked {
    let Some(dir) = &patient.dir else {
        return Ok("made at the first start".to_owned());
    };
    let hint = "see that they belong to the user who runs clawdbot and that nobody else may read them (chmod 600), or put \
        back a backup of them";
    let unusable =
        |error: &KeyError| Finding::misconfigured(error.to_string(), hint).about(dir.keys().display());
    if let Err(error) = dir.check_keys() {
        return Err(Finding::misconfigured(error.to_string(), hint).about(dir.keys().display()));
    }
    let signing = match signing::load(dir) {
        Ok(_) => "tokens can be signed",
        Err(KeyError::Missing { .. }) => "the signing key is made at the first start",
        Err(error) => return Err(unusable(&error)),
    };
    if patient.settings.store.mode == StoreMode::None {
        return Ok(signing.to_owned());
    }
    let master = MasterKeyPlace::of(dir, patient.settings.store.master_key.as_ref());
    match master.load() {
        Ok(_) => Ok(format!("{signing}, and the store can be opened")),
        Err(KeyError::Missing { .. }) if patient.settings.store.mode == StoreMode::Postgres => {
            let hint =
                "made at the first start where the server has no store yet; else put it back from a backup";
            Err(Finding::warning("there is no master key", hint).about(dir.master_key().display()))
        }
        Err(KeyError::Missing { .. }) if !dir.store().exists() => Ok(format!("{signing}; the store is new")),
        Err(error) => Err(unusable(&error)),
    }
}

pub(super) fn disk_space(patient: &Patient) -> Checked {
    let path = there(&patient.settings.data_dir);
    let sizes = disk::free_bytes(path).and_then(|free| Ok((free, disk::total_bytes(path)?)));
    let (free, total) = sizes.map_err(|error| {
        let hint = "see whether it is mounted";
        Finding::error(format!("the disk does not say what it has: {error}"), hint).about(path.display())
    })?;
    let told = format!("{} MB of {} MB are free", free >> 20, total >> 20);
    let hint = "make room (`clawdbot model list` and `clawdbot model remove`, old backups), or move data_dir to another disk";
    if free < LEAST_ROOM {
        Err(Finding::error(format!("the disk is full: {told}"), hint).about(path.display()))
    } else if free < total / 20 {
        Err(Finding::warning(format!("the disk is nearly full: {told}"), hint).about(path.display()))
    } else {
        Ok(told)
    }
}

/// The nearest directory that exists.
fn there(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"))
}

pub(super) fn disk_speed(patient: &Patient) -> Checked {
    let Some(dir) = &patient.dir else {
        return Ok("not tried: there is no data directory yet".to_owned());
    };
    let mut took = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        took.push(probe(dir.root()).map_err(|error| {
            let hint = "make room if the disk is full (df), mount it for writing, and see that the directory is the user's \
                who runs clawdbot";
            let message = format!("nothing can be written there: {error}");
            Finding::error(message, hint).about(dir.root().display())
        })?);
    }
    took.sort_unstable();
    let median = took.get(PROBES / 2).copied().unwrap_or_default();
    let told = format!(
        "writing a page and flushing it takes {:.1} ms (median of {PROBES})",
        median.as_secs_f64() * 1e3
    );
    if median > SLOW_DISK {
        let hint =
            "see what else uses the disk (iotop); a network share or a memory card is too slow for data_dir";
        return Err(Finding::warning(told, hint).about(dir.root().display()));
    }
    Ok(told)
}

pub(super) fn memory(patient: &Patient) -> Checked {
    let limits = memory::limits().map_err(|error| {
        let hint = "nothing is done when memory runs short; see the log";
        Finding::warning(format!("memory cannot be measured: {error}"), hint)
    })?;
    let share = |of: &memory::MachineMemory| of.available_bytes * 100 / of.total_bytes.max(1);
    let Some(tightest) = limits.iter().min_by_key(|limit| share(limit)) else {
        return Ok("there is no limit".to_owned());
    };
    let told = format!(
        "{} MB of {} MB can be had ({} %)",
        tightest.available_bytes >> 20,
        tightest.total_bytes >> 20,
        share(tightest)
    );
    let keep = u64::from(patient.settings.memory.keep_free_percent);
    if share(tightest) < keep {
        let hint = "stop what else takes memory (`clawdbot top` says what is ours), or use a smaller model (`clawdbot model fit`)";
        let message = format!("memory is short: {told}, and {keep} % are to stay free");
        return Err(Finding::warning(message, hint).about("memory.keep_free_percent"));
    }
    Ok(told)
}

pub(super) fn clock(patient: &Patient) -> Checked {
    let hint = "set the clock, by the network if possible (timedatectl, or Date & Time): tokens and certificates hold for a time, \
        and then restart the daemon";
    let now = SystemTime::now();
    let unix_s = |at: SystemTime| {
        at.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    };
    if let Some(status) = &patient.status {
        let number = |name: &str| status.get(name).and_then(serde_json::Value::as_u64);
        if let (Some(started), Some(uptime)) = (number("started_at_s"), number("uptime_s")) {
            let should_be = started + uptime;
            let apart = unix_s(now).abs_diff(should_be);
            if apart > CLOCK_TOLERANCE.as_secs() {
                // The daemon's own clock stands still while the machine sleeps.
                return Err(if unix_s(now) > should_be {
                    let message = format!(
                        "it was set forward by {apart} s while the daemon ran, or the machine slept so long"
                    );
                    Finding::info(message, hint)
                } else {
                    Finding::warning(format!("it was set back by {apart} s while the daemon ran"), hint)
                });
            }
            return Ok("it went on evenly since the daemon's start".to_owned());
        }
    }
    // What was written last was not written later than now.
    let newest = patient.dir.as_ref().and_then(newest);
    match newest.and_then(|newest| newest.duration_since(now).ok()) {
        Some(ahead) if ahead > CLOCK_TOLERANCE => {
            let message = format!(
                "it was set back, or a file's time was: the newest of the data directory is {} s ahead of now",
                ahead.as_secs()
            );
            Err(Finding::warning(message, hint))
        }
        _ => Ok("no sign that it is wrong".to_owned()),
    }
}

fn newest(dir: &DataDir) -> Option<SystemTime> {
    let entries = std::fs::read_dir(dir.root()).ok()?;
    let written = entries.filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok());
    written.max()
}

pub(super) fn certificate(patient: &Patient) -> Checked {
    let Some(files) = &patient.settings.mqtt.certificate else {
        return Ok("none; `clawdbot certs init` makes one, for devices on the network".to_owned());
    };
    let path = files.certificate.path.display();
    let renew = match files.own {
        Some(_) => "`clawdbot certs renew` makes a new one; a running daemon does so by itself",
        None => "have it renewed by who issued it; the daemon takes the new files up by itself",
    };
    let certificate = WatchedCertificate::open(files.clone())
        .map_err(|error| Finding::misconfigured(error.to_string(), renew).about(path.to_string()))?;
    let (validity, now) = (certificate.validity(), SystemTime::now());
    let told = lasts(&validity, now);
    match validity.standing(now) {
        Standing::Valid(left) if left > ENDS_SOON => Ok(told),
        Standing::Valid(_) => Err(Finding::warning(told, renew).about(path)),
        _ => Err(Finding::error(told, renew).about(path)),
    }
}

/// Where they are made by themselves: whether the newest is as new as it should be.
pub(super) fn backups(patient: &Patient) -> Checked {
    let settings = &patient.settings.backup;
    let Some(directory) = &settings.directory else {
        return Ok("none are made by themselves (backup.directory)".to_owned());
    };
    let hint = "`clawdbot backup create` makes one now, or says why it cannot; a service of systemd writes there only after \
        `sudo clawdbot service install` was run with that setting";
    let listed = backup::list(directory)
        .map_err(|error| Finding::warning(error.to_string(), hint).about(directory.display()))?;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since_1970.map_or(0, |since| since.as_secs());
    let ages = listed.iter().map(|one| now.saturating_sub(one.made_at_unix_s));
    let Some(age) = ages.min() else {
        return Err(Finding::warning("there is no backup yet", hint).about(directory.display()));
    };
    if age > 2 * settings.interval.as_secs() {
        let message = format!("the newest backup is {} hours old", age / 3600);
        return Err(Finding::warning(message, hint).about(directory.display()));
    }
    Ok(format!(
        "{}, the newest is {} hours old",
        listed.len(),
        age / 3600
    ))
}

pub(super) fn store(patient: &Patient) -> Checked {
    let settings = &patient.settings;
    if settings.store.mode != StoreMode::Postgres {
        return Ok("in the data directory".to_owned());
    }
    let place = StorePlace::of(&settings.store, settings.data_dir.clone());
    place.reach().map_err(|error| {
        let hint = "see that the server runs and lets this user in, and the settings store.postgres_…";
        Finding::error(error.to_string(), hint).about("store.postgres_url")
    })
}

pub(super) fn ports(patient: &Patient) -> Checked {
    let listeners = patient.settings.opened();
    let mut free = Vec::new();
    for (setting, address) in listeners {
        TcpListener::bind(address).map_err(|error| {
            let hint = format!(
                "stop what uses it (`lsof -i :{}` names it), or set {setting} to another port",
                address.port()
            );
            let message = format!("{address} cannot be listened on: {error}");
            Finding::misconfigured(message, hint).about(setting)
        })?;
        free.push(address.to_string());
    }
    Ok(format!("{} can be listened on", free.join(", ")))
}

pub(super) fn model(patient: &Patient) -> Checked {
    let settings = &patient.settings;
    let Some(path) = &settings.model.path else {
        let hint = "set model.path to \"embedded\" for the assistant that comes with the program, or to a model that `clawdbot model \
            pull` brings";
        let message = "there is none: requests are answered with an explanation";
        return Err(Finding::info(message, hint).about("model.path"));
    };
    if *path == Library::of(&settings.data_dir).embedded() {
        return Ok("the assistant that comes with the program".to_owned());
    }
    let found = models::inspect(path).map_err(|error| {
        let hint = "`clawdbot model list` shows what is there, `clawdbot model pull` fetches it anew";
        Finding::misconfigured(error.to_string(), hint).about("model.path")
    })?;
    Ok(format!(
        "{} ({}, {} million parameters)",
        found.name,
        found.format,
        found.parameters / 1_000_000
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::Settings;

    fn patient(data_dir: &Path, status: Option<serde_json::Value>) -> Patient {
        Patient {
            settings: Settings::default_for_tests(data_dir),
            dir: DataDir::open(data_dir).ok(),
            status,
        }
    }

    #[test]
    fn a_clock_that_was_set_while_the_daemon_ran_is_noticed() {
        let there = tempfile::tempdir().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        let day = 24 * 3600;
        let told = |started: u64| {
            let status = json!({"started_at_s": started, "uptime_s": 100});
            clock(&patient(there.path(), Some(status))).map_err(|finding| finding.message)
        };
        assert!(told(now - 100).is_ok());
        assert!(told(now - 100 - day).unwrap_err().contains("set forward by 864"));
        assert!(told(now - 100 + day).unwrap_err().contains("set back by 86"));
    }

    #[test]
    fn what_is_not_there_yet_is_measured_where_it_will_be() {
        let there = tempfile::tempdir().unwrap();
        let nowhere = there.path().join("not/yet");
        assert_eq!(super::there(&nowhere), there.path());
        assert!(disk_space(&patient(&nowhere, None)).is_ok());
    }
}
