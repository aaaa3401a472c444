//! Makes a backup: the file appears as a whole or not at all, and only after it was read again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::format::{FORM, Writer, verify};
use super::retention::{self, DRAFT};
use super::{BackupError, Subject, Summary};
use crate::store::{
    ArchiveContents, ArchiveError, ArchiveSecret, DurableStore, Masters, Progress, PutFrame, StillStore,
};

/// Where a backup goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file that must not be there yet.
    File(PathBuf),
    /// A directory, under a name of ours; so many of them are kept.
    Directory(PathBuf, usize),
}

/// Where the store's values come from.
pub enum Values<'s> {
    /// A store that is used.
    Running(&'s DurableStore),
    /// One that is not, and what opens it. Whoever gives it holds the daemon's lock.
    Still(&'s StillStore, &'s Masters),
    /// There is none.
    None,
}

/// A backup that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    /// Where it is.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// What is in it.
    pub summary: Summary,
    /// Older ones that were removed.
    pub removed: usize,
    /// Why there are more than should be kept.
    pub trouble: Option<String>,
}

impl Target {
    /// It, for people.
    pub fn display(&self) -> std::path::Display<'_> {
        match self {
            Self::File(path) | Self::Directory(path, _) => path.display(),
        }
    }

    fn path(&self, now: u64) -> Result<PathBuf, BackupError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Directory(directory, _) => {
                let name = retention::file_name(now).ok_or(BackupError::NoTime)?;
                Ok(directory.join(name))
            }
        }
    }
}

impl Values<'_> {
    fn export(
        &self,
        progress: &Progress,
        put: PutFrame<'_>,
    ) -> Result<Option<ArchiveContents>, ArchiveError> {
        match self {
            Self::Running(store) => store.export_frames(progress, put).map(Some),
            Self::Still(store, masters) => store.export_frames(masters, progress, put).map(Some),
            Self::None => Ok(None),
        }
    }
}

/// Makes one.
pub fn create(
    subject: &Subject,
    values: &Values<'_>,
    secret: &ArchiveSecret,
    target: &Target,
    now: SystemTime,
    progress: &Progress,
) -> Result<Made, BackupError> {
    let now = unix_s(now)?;
    let path = target.path(now)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let place = File::open(&directory)
        .map_err(|source| BackupError::io("opening the directory", &directory, source))?;
    let is_locked = lock(&place, &directory)?;
    if path.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(path).into());
    }
    let draft = draft_of(&path);
    if is_locked {
        match target {
            Target::File(_) => clear(&draft),
            Target::Directory(..) => retention::clear_drafts(&directory),
        }
    }
    let file = create_new(&draft)?;
    let made = write(file, subject, values, secret, now, progress)
        .and_then(|()| read_again(&draft, secret, progress))
        .and_then(|read| {
            put_in_place(&draft, &path)?;
            sync(&place, &directory)?;
            Ok(read)
        });
    if made.is_err() {
        // What it has of the draft is worth nothing.
        let _ = fs::remove_file(&draft);
    }
    let (summary, bytes) = made?;
    let thinned = match target {
        Target::File(_) => Ok(0),
        Target::Directory(directory, keep) => retention::thin_out(directory, now, *keep),
    };
    let (removed, trouble) = match thinned {
        Ok(removed) => (removed, None),
        Err(error) => (0, Some(error.to_string())),
    };
    Ok(Made {
        file: path,
        bytes,
        summary,
        removed,
        trouble,
    })
}

pub(super) fn unix_s(now: SystemTime) -> Result<u64, BackupError> {
    let since = now.duration_since(UNIX_EPOCH).map_err(|_| BackupError::NoTime)?;
    Ok(since.as_secs())
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DRAFT);
    PathBuf::from(name)
}

/// One backup at a time in a directory, so that a draft which is there belongs to nobody. Where a file system locks nothing, it
/// is not known whose it is, and it stays.
fn lock(place: &File, directory: &Path) -> Result<bool, BackupError> {
    match place.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Err(BackupError::Busy(directory.to_path_buf())),
        Err(TryLockError::Error(_)) => Ok(false),
    }
}

/// Removes the draft of somebody who was killed, and no other file of that name.
fn clear(draft: &Path) {
    // Opening something else, such as a pipe, may wait for ever.
    if !fs::symlink_metadata(draft).is_ok_and(|found| found.is_file()) {
        return;
    }
    let mut begin = Vec::new();
    let read = File::open(draft).and_then(|file| file.take(FORM.name.len() as u64).read_to_end(&mut begin));
    if read.is_ok() && (begin.is_empty() || begin == FORM.name) {
        // What cannot be removed is told of in a moment.
        let _ = fs::remove_file(draft);
    }
}

fn create_new(draft: &Path) -> Result<File, BackupError> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft);
    created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ArchiveError::Exists(draft.to_path_buf()).into(),
        _ => BackupError::io("creating", draft, error),
    })
}

fn write(
    file: File,
    subject: &Subject,
    values: &Values<'_>,
    secret: &ArchiveSecret,
    now: u64,
    progress: &Progress,
) -> Result<(), BackupError> {
    let head = subject.head(now, !matches!(values, Values::None))?;
    let mut writer = Writer::begin(BufWriter::new(file), secret, &head)?;
    for member in subject.members()? {
        writer.member(&member)?;
    }
    let store = values.export(progress, &mut |frame| writer.values(&frame))?;
    let output = writer.end(store)?;
    let file = output
        .into_inner()
        .map_err(|error| ArchiveError::from(io::Error::from(error)))?;
    file.sync_all().map_err(ArchiveError::from)?;
    Ok(())
}

/// What cannot be read is no backup, and that had better be known now.
fn read_again(
    draft: &Path,
    secret: &ArchiveSecret,
    progress: &Progress,
) -> Result<(Summary, u64), BackupError> {
    let file = File::open(draft).map_err(ArchiveError::from)?;
    let bytes = file.metadata().map_err(ArchiveError::from)?.len();
    Ok((verify(BufReader::new(file), secret, progress)?, bytes))
}

/// Not by a link, which the file systems of many disks that backups go to do not have.
fn put_in_place(draft: &Path, path: &Path) -> Result<(), BackupError> {
    if path.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(path.to_path_buf()).into());
    }
    fs::rename(draft, path).map_err(|source| BackupError::io("renaming", draft, source))
}

/// After a power cut the name must be there too. Some network file systems know no such wish.
fn sync(place: &File, directory: &Path) -> Result<(), BackupError> {
    match place.sync_all() {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Err(BackupError::io("writing to", directory, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::security::{DataDir, keys};
    use crate::settings::Settings;

    const SECRET: [u8; 32] = [7; 32];

    struct Setup {
        _temp: tempfile::TempDir,
        subject: Subject,
        place: PathBuf,
    }

    fn setup() -> Setup {
        let temp = tempfile::tempdir().unwrap();
        let (root, place) = (temp.path().join("data"), temp.path().join("backups"));
        let dir = DataDir::prepare(&root).unwrap();
        keys::load_or_create(&dir).unwrap();
        fs::create_dir(&place).unwrap();
        Setup {
            subject: Subject::of(&Settings::default_for_tests(&root), dir),
            place,
            _temp: temp,
        }
    }

    impl Setup {
        fn create(&self, target: &Target, at: u64) -> Result<Made, BackupError> {
            create(
                &self.subject,
                &Values::None,
                &ArchiveSecret::Key(SECRET),
                target,
                UNIX_EPOCH + Duration::from_secs(at),
                &Progress::default(),
            )
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(&self.place)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_backup_is_for_its_owner_alone_and_never_put_over_something() {
        let setup = setup();
        let path = setup.place.join("mine");
        let target = Target::File(path.clone());
        let made = setup.create(&target, 1_800_000_000).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(made.bytes, metadata.len());
        assert_eq!(made.summary.members.len(), 1);
        let before = fs::read(&path).unwrap();
        let again = setup.create(&target, 1_800_000_001).unwrap_err();
        assert!(again.to_string().contains("is there already"), "{again}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(setup.names(), ["mine"]);
    }

    #[test]
    fn what_somebody_who_was_killed_had_begun_is_cleared_and_a_strangers_file_is_not() {
        let setup = setup();
        let target = Target::File(setup.place.join("mine"));
        fs::write(setup.place.join("mine.part"), b"clawdbot backup1 and half of it").unwrap();
        setup.create(&target, 1_800_000_000).unwrap();
        assert_eq!(setup.names(), ["mine"]);
        let target = Target::File(setup.place.join("other"));
        fs::write(setup.place.join("other.part"), b"somebody's letter").unwrap();
        let refused = setup.create(&target, 1_800_000_000).unwrap_err();
        assert!(refused.to_string().contains("other.part"), "{refused}");
        assert_eq!(setup.names(), ["mine", "other.part"]);
    }

    #[test]
    fn of_a_directory_the_newest_are_kept_and_a_missing_one_is_not_made() {
        let setup = setup();
        fs::write(setup.place.join("foreign.backup"), "x").unwrap();
        let target = Target::Directory(setup.place.clone(), 2);
        let removed: Vec<usize> = (0..4)
            .map(|hour| {
                setup
                    .create(&target, 1_800_000_000 + 3600 * hour)
                    .unwrap()
                    .removed
            })
            .collect();
        assert_eq!(removed, [0, 0, 1, 1]);
        assert_eq!(
            setup.names(),
            [
                "clawdbot-20270115T100000Z.backup",
                "clawdbot-20270115T110000Z.backup",
                "foreign.backup"
            ]
        );
        let missing = setup.place.join("not mounted");
        let refused = setup.create(&Target::Directory(missing.clone(), 2), 1_800_000_000);
        assert!(matches!(refused, Err(BackupError::Io { .. })));
        assert!(!missing.exists());
    }

    #[test]
    fn two_at_once_in_a_directory_are_one_and_one_that_is_told_to_wait() {
        let setup = setup();
        let other = File::open(&setup.place).unwrap();
        other.lock().unwrap();
        let target = Target::File(setup.place.join("mine"));
        let refused = setup.create(&target, 1_800_000_000);
        assert!(matches!(refused, Err(BackupError::Busy(_))));
        drop(other);
        setup.create(&target, 1_800_000_000).unwrap();
    }

    #[test]
    fn one_that_is_stopped_leaves_nothing() {
        let setup = setup();
        let progress = Progress::default();
        progress.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let stopped = create(
            &setup.subject,
            &Values::None,
            &ArchiveSecret::Key(SECRET),
            &Target::File(setup.place.join("mine")),
            SystemTime::now(),
            &progress,
        );
        assert!(matches!(
            stopped,
            Err(BackupError::Archive(ArchiveError::Stopped))
        ));
        assert!(setup.names().is_empty());
    }
}
