//! Which backups of a directory are ours, whether it is time for another, and which are too many.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use der::DateTime;
use serde::Serialize;

use super::BackupError;

const PREFIX: &str = "clawdbot-";
const SUFFIX: &str = ".backup";
/// What one is called while it is written.
pub(super) const DRAFT: &str = ".part";

/// A backup that seems to come from further ahead was made under a clock that was wrong, or the clock is wrong now.
const FUTURE_S: u64 = 24 * 3600;

/// A backup in a directory; nobody has looked into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Where it is.
    pub file: PathBuf,
    /// When it was made, as its name says, in Unix time.
    pub made_at_unix_s: u64,
    /// Its length.
    pub bytes: u64,
}

/// The name of a backup of a time, as in `clawdbot-20261128T083000Z.backup`; none where no name can say it.
pub(super) fn file_name(unix_s: u64) -> Option<String> {
    let time = DateTime::from_unix_duration(Duration::from_secs(unix_s)).ok()?;
    let digits = time.to_string().replace(['-', ':'], "");
    Some(format!("{PREFIX}{digits}{SUFFIX}"))
}

/// The time in a name that is one of ours.
pub(super) fn made_at(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let part = |from: usize, to: usize| digits.get(from..to);
    let time = format!(
        "{}-{}-{}:{}:{}",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 11)?,
        part(11, 13)?,
        part(13, 16)?
    );
    let unix_s = DateTime::from_str(&time).ok()?.unix_duration().as_secs();
    // Exactly as we write it.
    (file_name(unix_s)? == name).then_some(unix_s)
}

/// The newest backup, as far as the clock can be believed.
pub(super) fn newest(times: &[u64], now: u64) -> Option<u64> {
    let believed = times.iter().filter(|time| is_believed(**time, now));
    believed.max().copied()
}

/// Whether it is time for another.
pub(super) fn is_due(times: &[u64], now: u64, interval: Duration) -> bool {
    newest(times, now).is_none_or(|newest| now.saturating_sub(newest) >= interval.as_secs())
}

/// Those that are too many, the oldest. What seems to come from the future is neither counted nor among them: otherwise a
/// clock that was wrong for a day would push out all others.
pub(super) fn surplus(times: &[u64], now: u64, keep: usize) -> Vec<u64> {
    let mut believed: Vec<u64> = times
        .iter()
        .copied()
        .filter(|time| is_believed(*time, now))
        .collect();
    believed.sort_unstable();
    believed.dedup();
    believed.truncate(believed.len().saturating_sub(keep));
    believed
}

fn is_believed(time: u64, now: u64) -> bool {
    time <= now.saturating_add(FUTURE_S)
}

/// The backups of a directory, the oldest first: regular files with a name of ours, and nothing else.
pub fn list(directory: &Path) -> Result<Vec<Listed>, BackupError> {
    let failed = |source| BackupError::io("listing the directory", directory, source);
    let mut listed = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(made_at_unix_s) = entry.file_name().to_str().and_then(made_at) else {
            continue;
        };
        // One that somebody takes away meanwhile is not there.
        if let Ok(metadata) = entry.metadata()
            && metadata.is_file()
        {
            listed.push(Listed {
                file: entry.path(),
                made_at_unix_s,
                bytes: metadata.len(),
            });
        }
    }
    listed.sort_by_key(|backup| backup.made_at_unix_s);
    Ok(listed)
}

/// Removes those that are too many, and returns how many.
pub(super) fn thin_out(directory: &Path, now: u64, keep: usize) -> Result<usize, BackupError> {
    let listed = list(directory)?;
    let times: Vec<u64> = listed.iter().map(|backup| backup.made_at_unix_s).collect();
    let surplus = surplus(&times, now, keep);
    for backup in &listed {
        if surplus.contains(&backup.made_at_unix_s) {
            fs::remove_file(&backup.file)
                .map_err(|source| BackupError::io("removing", &backup.file, source))?;
        }
    }
    Ok(surplus.len())
}

/// Removes what a process that was killed had begun. Whoever does this has the directory's lock.
pub(super) fn clear_drafts(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_draft = name
            .to_str()
            .and_then(|name| name.strip_suffix(DRAFT))
            .is_some_and(|name| made_at(name).is_some());
        if is_draft && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // Best effort: it only takes room.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3600;
    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_name_says_when_a_backup_was_made_and_no_other_name_is_ours() {
        let name = file_name(1_795_854_600).unwrap();
        assert_eq!(name, "clawdbot-20261128T083000Z.backup");
        assert_eq!(made_at(&name), Some(1_795_854_600));
        for name in [
            "clawdbot-20261128T083000Z.backup.part",
            "clawdbot-20261128T083000Z.backup ",
            "clawdbot-2026-11-28T08:30:00Z.backup",
            "clawdbot-20261328T083000Z.backup",
            "clawdbot-20261128T083000.backup",
            "clawdbot-.backup",
            "clawdbot-ääääääää.backup",
            "my clawdbot-20261128T083000Z.backup",
            "clawdbot.toml",
            "",
        ] {
            assert_eq!(made_at(name), None, "{name}");
        }
        assert_eq!(file_name(u64::MAX), None);
    }

    #[test]
    fn another_is_due_when_the_newest_is_old_and_a_wrong_clock_delays_none_for_long() {
        let day = Duration::from_secs(DAY);
        assert!(is_due(&[], NOW, day));
        assert!(is_due(&[NOW - DAY], NOW, day));
        assert!(!is_due(&[NOW - DAY, NOW - DAY + 1], NOW, day));
        // The clock was set back a little.
        assert!(!is_due(&[NOW + 60], NOW, day));
        // It was wrong by years when that one was made.
        assert!(is_due(&[NOW + 1000 * DAY], NOW, day));
        assert!(!is_due(&[NOW + 1000 * DAY, NOW - 5], NOW, day));
    }

    #[test]
    fn only_regular_files_with_our_names_are_listed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut names = Vec::new();
        for day in 0..5 {
            let name = file_name(NOW - day * DAY).unwrap();
            fs::write(at(&name), "x").unwrap();
            names.push(name);
        }
        let (folder, link) = (file_name(1000).unwrap(), file_name(2000).unwrap());
        fs::create_dir(at(&folder)).unwrap();
        fs::write(at("precious"), "x").unwrap();
        std::os::unix::fs::symlink(at("precious"), at(&link)).unwrap();
        let draft = format!("{}{DRAFT}", names[0]);
        fs::write(at(&draft), "x").unwrap();
        assert_eq!(thin_out(directory.path(), NOW, 2).unwrap(), 3);
        clear_drafts(directory.path());
        let there = |name: &str| at(name).symlink_metadata().is_ok();
        let left: Vec<bool> = names.iter().map(|name| there(name)).collect();
        assert_eq!(left, [true, true, false, false, false]);
        assert!(there(&folder) && there(&link) && there("precious") && !there(&draft));
        assert!(list(&at("nowhere")).is_err());
    }

    proptest! {
        #[test]
        fn a_name_and_its_time_are_the_same(unix_s in 0_u64..253_402_300_800) {
            prop_assert_eq!(file_name(unix_s).and_then(|name| made_at(&name)), Some(unix_s));
        }

        #[test]
        fn any_text_is_a_name_of_ours_or_none(name in ".{0,40}") {
            let _ = made_at(&name);
        }

        #[test]
        fn the_newest_are_kept_and_the_one_of_now_always(
            mut times in prop::collection::btree_set(NOW - 100 * DAY..NOW + 100 * DAY, 0..30),
            keep in 1_usize..10,
        ) {
            times.insert(NOW);
            let times: Vec<u64> = times.into_iter().collect();
            let gone = surplus(&times, NOW, keep);
            // Those of a clock that was ahead by less than a day may stand before it.
            let ahead = times.iter().filter(|time| **time > NOW && is_believed(**time, NOW)).count();
            if ahead < keep {
                prop_assert!(!gone.contains(&NOW));
            }
            let (believed, strange): (Vec<u64>, Vec<u64>) = times.iter().copied().partition(|time| is_believed(*time, NOW));
            prop_assert!(strange.iter().all(|time| !gone.contains(time)));
            prop_assert_eq!(believed.len() - gone.len(), believed.len().min(keep));
            let oldest_kept = believed.iter().find(|time| !gone.contains(time));
            prop_assert!(gone.iter().all(|time| Some(time) < oldest_kept));
            // Once is enough.
            let left: Vec<u64> = times.iter().copied().filter(|time| !gone.contains(time)).collect();
            prop_assert!(surplus(&left, NOW, keep).is_empty());
        }
    }
}
