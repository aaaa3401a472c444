//! Makes a data directory of a backup: in a directory that is empty or not there yet, and whole or not at all.
//!
//! Everything is put together in `.restore` there, and moved up when all of it was read. The keys come last: to a daemon that
//! started after an interrupted move, the master key of the store's file would be missing, which it refuses.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufReader};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::BackupError;
use super::format::{Member, Part, Reader, SETTINGS, Summary, is_member_name, verify};
use crate::admin;
use crate::security::DataDir;
use crate::security::keys::write_private;
use crate::store::{ArchiveContents, ArchiveError, ArchiveSecret, Masters, Progress, StillStore};

const STAGING: &str = ".restore";
/// What may be moved up, in this order.
const PARTS: [&str; 4] = ["store.redb", "certs", SETTINGS, "keys"];

/// Restores a backup into a directory. `store_of` is shown where everything but the store's values is, and says where these go
/// and what seals them; None where nothing is to be kept.
pub fn restore<E: From<BackupError>>(
    backup: &Path,
    secret: &ArchiveSecret,
    target: &Path,
    progress: &Progress,
    store_of: impl FnOnce(&DataDir) -> Result<Option<(StillStore, Masters)>, E>,
) -> Result<Summary, E> {
    let open = || -> Result<BufReader<File>, BackupError> {
        let file = File::open(backup).map_err(ArchiveError::from)?;
        Ok(BufReader::new(file))
    };
    // Nothing is made of one that is not whole.
    let summary = verify(open()?, secret, progress).map_err(BackupError::from)?;
    let restoration = Restoration::begin(target)?;
    let mut reader = Reader::open(open()?, secret).map_err(BackupError::from)?;
    let mut waiting = loop {
        match reader.next_part().map_err(BackupError::from)? {
            Some(Part::Member(member)) => restoration.put(&member)?,
            other => break other,
        }
    };
    let store = store_of(&restoration.staging)?;
    if summary.head.has_store {
        let (store, masters) = store.ok_or(BackupError::NoStoreHere)?;
        // The reader counts and compares by itself.
        let mut next = |_: &ArchiveContents| {
            let part = match waiting.take() {
                Some(part) => Some(part),
                None => reader.next_part()?,
            };
            match part {
                Some(Part::Values(frame)) => Ok(Some(frame)),
                Some(Part::End(_)) => Ok(None),
                Some(Part::Member(_)) | None => Err(ArchiveError::CutShort),
            }
        };
        store
            .import_frames(&masters, progress, &mut next)
            .map_err(BackupError::from)?;
    }
    restoration.finish()?;
    Ok(summary)
}

/// What is put together. Dropped before its end, it leaves nothing.
struct Restoration {
    target: PathBuf,
    staging: DataDir,
    was_made: bool,
    moved: Vec<PathBuf>,
    is_finished: bool,
    _lock: File,
}

impl Restoration {
    fn begin(target: &Path) -> Result<Self, BackupError> {
        let was_made = make_or_find_empty(target)?;
        let begun = DataDir::open(target).map_err(BackupError::from).and_then(|dir| {
            let lock = admin::take_lock(&dir)?;
            let staging = target.join(STAGING);
            if let Err(error) = fs::remove_dir_all(&staging)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(BackupError::io("removing", &staging, error));
            }
            Ok((DataDir::prepare(&staging)?, lock))
        });
        match begun {
            Ok((staging, lock)) => Ok(Self {
                target: target.to_path_buf(),
                staging,
                was_made,
                moved: Vec::new(),
                is_finished: false,
                _lock: lock,
            }),
            Err(error) => {
                if was_made {
                    // There is nothing in it but a lock, if that.
                    let _ = fs::remove_dir_all(target);
                }
                Err(error)
            }
        }
    }

    fn put(&self, member: &Member) -> Result<(), BackupError> {
        let path = self.staging.root().join(&member.name);
        let written = is_member_name(&member.name)
            .then_some(())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
            .and_then(|()| private_directory(path.parent().unwrap_or(self.staging.root())))
            .and_then(|()| write(&path, &member.bytes, mode_of(member)));
        written.map_err(|source| BackupError::io("writing", &path, source))
    }

    fn finish(mut self) -> Result<(), BackupError> {
        for name in ["certs", "keys", ""] {
            let directory = self.staging.root().join(name);
            if directory.exists() {
                sync(&directory)?;
            }
        }
        for name in PARTS {
            let (from, to) = (self.staging.root().join(name), self.target.join(name));
            if from.exists() {
                fs::rename(&from, &to).map_err(|source| BackupError::io("writing", &to, source))?;
                self.moved.push(to);
            }
        }
        sync(&self.target)?;
        self.is_finished = true;
        // Best effort: there is nothing in it any more, and the next restoration would begin with this.
        let _ = fs::remove_dir_all(self.staging.root());
        Ok(())
    }
}

impl Drop for Restoration {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // Best effort, all of it: what is left over is in nobody's way but a next restoration's, which says so.
        for moved in &self.moved {
            let _ = if moved.is_dir() {
                fs::remove_dir_all(moved)
            } else {
                fs::remove_file(moved)
            };
        }
        let _ = fs::remove_dir_all(self.staging.root());
        let _ = fs::remove_file(self.target.join("clawdbot.lock"));
        if self.was_made {
            let _ = fs::remove_dir(&self.target);
        }
    }
}

/// Returns whether it was made. What an interrupted restoration left counts as nothing.
fn make_or_find_empty(target: &Path) -> Result<bool, BackupError> {
    let failed = |source| BackupError::io("looking at", target, source);
    let entries = match fs::read_dir(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            private_directory(target)
                .map_err(|source| BackupError::io("creating the directory", target, source))?;
            return Ok(true);
        }
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if name != STAGING && name != "clawdbot.lock" {
            return Err(BackupError::NotEmpty(target.to_path_buf()));
        }
    }
    Ok(false)
}

fn private_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // The umask may have taken the owner's own bits away.
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Keys are their owner's alone, whatever a backup says; of everything else nobody but its owner writes.
fn mode_of(member: &Member) -> u32 {
    if member.name.starts_with("keys/") || member.name.ends_with("key.pem") {
        0o600
    } else {
        member.mode & 0o644 | 0o600
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_private(path, bytes)?;
    // Should a power cut take that back, it is its owner's alone all the same.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn sync(directory: &Path) -> Result<(), BackupError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| BackupError::io("writing to", directory, source))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::backup::{Subject, Target, Values, create};
    use crate::security::{MasterKeyPlace, keys};
    use crate::settings::Settings;
    use crate::store::{DurableStore, StorePlace};

    const SECRET: [u8; 32] = [7; 32];

    /// A data directory with a store that has something in it, and a backup of it.
    fn backed_up(temp: &Path) -> (DataDir, PathBuf) {
        let (root, backup) = (temp.join("from"), temp.join("backup"));
        let dir = DataDir::prepare(&root).unwrap();
        keys::load_or_create(&dir).unwrap();
        fs::create_dir(root.join("certs")).unwrap();
        fs::write(root.join("certs/ca.pem"), "authority").unwrap();
        fs::write(root.join("certs/ca-key.pem"), "its key").unwrap();
        fs::write(root.join(SETTINGS), "[log]\nlevel = \"info\"\n").unwrap();
        let (store, masters) = still(&dir).unwrap();
        let place = StorePlace::File(dir.store());
        let (durable, _) = DurableStore::open(&place, masters, std::sync::Arc::default()).unwrap();
        durable.finish();
        drop(durable);
        let mut settings = Settings::default_for_tests(&root);
        settings.file = Some(root.join(SETTINGS));
        let (_, masters) = still(&dir).unwrap();
        create(
            &Subject::of(&settings, dir.clone()),
            &Values::Still(&store, &masters),
            &ArchiveSecret::Key(SECRET),
            &Target::File(backup.clone()),
            SystemTime::now(),
            &Progress::default(),
        )
        .unwrap();
        (dir, backup)
    }

    fn still(dir: &DataDir) -> Result<(StillStore, Masters), BackupError> {
        let place = StorePlace::File(dir.store());
        let masters = MasterKeyPlace::of(dir, None).load_or_create(&place)?;
        Ok((StillStore::at(place), masters))
    }

    fn restored(backup: &Path, target: &Path) -> Result<Summary, BackupError> {
        let secret = ArchiveSecret::Key(SECRET);
        restore(backup, &secret, target, &Progress::default(), |dir| {
            still(dir).map(Some)
        })
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn everything_is_there_again_with_its_mode_and_a_master_key_of_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let (from, backup) = backed_up(temp.path());
        let target = temp.path().join("a/to");
        let summary = restored(&backup, &target).unwrap();
        assert!(summary.store.is_some());
        let to = DataDir::open(&target).unwrap();
        let read = |path: PathBuf| fs::read(path).unwrap();
        assert_eq!(read(to.token_signing_key()), read(from.token_signing_key()));
        assert_ne!(read(to.master_key()), read(from.master_key()));
        assert_eq!(read(target.join("certs/ca-key.pem")), b"its key");
        for (path, expected) in [
            ("", 0o700),
            ("keys", 0o700),
            ("certs", 0o700),
            ("keys/token-signing.key", 0o600),
            ("keys/master.key", 0o600),
            ("store.redb", 0o600),
            ("certs/ca-key.pem", 0o600),
            (SETTINGS, mode(&from.root().join(SETTINGS)) & 0o644 | 0o600),
        ] {
            assert_eq!(mode(&target.join(path)), expected, "{path}");
        }
        assert!(!target.join(STAGING).exists());
        let (_, masters) = still(&to).unwrap();
        let place = StorePlace::File(to.store());
        DurableStore::open(&place, masters, std::sync::Arc::default()).unwrap();
        // And nothing is put over it.
        let again = restored(&backup, &target);
        assert!(matches!(again, Err(BackupError::NotEmpty(_))));
    }

    #[test]
    fn an_empty_directory_and_what_an_interrupted_restoration_left_will_do() {
        let temp = tempfile::tempdir().unwrap();
        let (_, backup) = backed_up(temp.path());
        let target = temp.path().join("to");
        fs::create_dir_all(target.join(STAGING).join("keys")).unwrap();
        fs::write(target.join("clawdbot.lock"), "1").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o700)).unwrap();
        restored(&backup, &target).unwrap();
        assert!(target.join("store.redb").exists() && !target.join(STAGING).exists());
    }

    #[test]
    fn of_a_backup_that_is_damaged_or_not_to_be_kept_nothing_is_left() {
        let temp = tempfile::tempdir().unwrap();
        let (_, backup) = backed_up(temp.path());
        let target = temp.path().join("to");
        let whole = fs::read(&backup).unwrap();
        let broken = temp.path().join("broken");
        for at in (0..whole.len()).step_by(997) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&broken, bytes).unwrap();
            assert!(restored(&broken, &target).is_err(), "byte {at}");
            fs::write(&broken, &whole[..at]).unwrap();
            assert!(restored(&broken, &target).is_err(), "cut at {at}");
            assert!(!target.exists(), "{at}");
        }
        let secret = ArchiveSecret::Key(SECRET);
        let refused = restore(&backup, &secret, &target, &Progress::default(), |_| {
            Ok::<_, BackupError>(None)
        });
        assert!(matches!(refused, Err(BackupError::NoStoreHere)));
        assert!(!target.exists());
        fs::create_dir(&target).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o700)).unwrap();
        assert!(restored(&broken, &target).is_err());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
}
