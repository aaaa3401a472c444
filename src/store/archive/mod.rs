//! Everything that is kept, in a file that goes to another machine: sealed under a secret of its own, because the master
//! key stays where it is.

pub(crate) mod frames;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroize;

use super::backend::{Batch, Reading, for_each};
use super::database::{DatabaseError, Name, SealedDatabase};
use super::integrity::Progress;
use super::record::{self, Moment, tables};
use super::vault::{KEY_BYTES, Vault};
use frames::{Form, Opener, Sealer};

const FORM: Form = Form {
    name: b"clawdbot store ",
    version: b'1',
};

/// Values are gathered into frames of about so much.
const FRAME_BYTES: usize = 64 * 1024;

/// Takes a frame.
pub(crate) type PutFrame<'p> = &'p mut dyn FnMut(Vec<u8>) -> Result<(), ArchiveError>;

/// Gives the next frame. It is told what was in those before, and says that there are no more only where that is all.
pub(crate) type NextFrame<'n> = &'n mut dyn FnMut(&Contents) -> Result<Option<Vec<u8>>, ArchiveError>;

/// What opens an archive. There is no Debug.
pub enum ArchiveSecret {
    /// What a person remembers.
    Passphrase(String),
    /// Random bytes.
    Key([u8; KEY_BYTES]),
}

impl ArchiveSecret {
    /// A new random key.
    pub fn random() -> Result<Self, ArchiveError> {
        let mut key = [0; KEY_BYTES];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| ArchiveError::NoRandomness)?;
        Ok(Self::Key(key))
    }
}

impl Drop for ArchiveSecret {
    fn drop(&mut self) {
        match self {
            Self::Passphrase(passphrase) => passphrase.zeroize(),
            Self::Key(key) => key.zeroize(),
        }
    }
}

/// Why there is no archive, or nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something else.
    #[error("it is no archive of `clawdbot store export`")]
    NoArchive,
    /// In a form of later.
    #[error("a newer Clawdbot made it, in a form that this one does not know; use that one, or a newer one")]
    Newer,
    /// The other kind.
    #[error("it was sealed under {0}; give it that")]
    OtherSecret(&'static str),
    /// Wrong from the beginning on.
    #[error("this key or passphrase does not open it; give it the one that it was made with")]
    WrongSecret,
    /// Changed later on.
    #[error("it was changed since it was made; use another copy of it")]
    Forged,
    /// Its end is missing.
    #[error("it is cut short; use another copy of it")]
    CutShort,
    /// A value has no room.
    #[error("a value is too large for an archive")]
    TooLarge,
    /// It was sealed as a whole, and is not what this program writes.
    #[error("what is in it cannot be understood: {0}; use the Clawdbot that made it, or a newer one")]
    Unknown(String),
    /// Something would be lost.
    #[error(
        "there is a store already that is not empty: {0}; move it away, or name another place for the new one"
    )]
    NotEmpty(String),
    /// Nothing is replaced.
    #[error("{} is there already; name another file, or remove it", .0.display())]
    Exists(PathBuf),
    /// It was told to end.
    #[error("it was stopped before its end; begin again")]
    Stopped,
    /// The system has no random numbers.
    #[error("the system gave no random numbers; try again when it has finished starting")]
    NoRandomness,
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] DatabaseError),
    /// The archive's disk.
    #[error("it cannot be read or written: {0}; check the path, and whether its disk has room")]
    Io(#[from] io::Error),
}

/// What went into an archive, or came out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Contents {
    /// Values of each table.
    pub values: BTreeMap<String, u64>,
    /// Values that were damaged, and are not in it.
    #[serde(default)]
    pub damaged: u64,
}

impl Contents {
    /// All values.
    pub fn total(&self) -> u64 {
        self.values.values().sum()
    }

    fn count(&mut self, values: &[(&'static str, Vec<u8>)]) {
        for (table, _) in values {
            *self.values.entry((*table).to_owned()).or_default() += 1;
        }
    }

    /// Whether all that an archive says it has was there.
    pub(crate) fn is_all_of(&self, said: &Contents) -> Result<(), ArchiveError> {
        if self.values == said.values {
            return Ok(());
        }
        Err(ArchiveError::Unknown(
            "it has not as many values as it says".to_owned(),
        ))
    }
}

/// Writes an archive of what was committed last. The file appears as a whole or not at all.
pub(super) fn export(
    reading: &dyn Reading,
    vault: &Vault,
    path: &Path,
    secret: &ArchiveSecret,
    progress: &Progress,
) -> Result<Contents, ArchiveError> {
    if path.exists() {
        return Err(ArchiveError::Exists(path.to_path_buf()));
    }
    let draft = with_suffix(path, ".part");
    let written = export_to(reading, vault, &draft, secret, progress).and_then(|contents| {
        // A link replaces nothing.
        fs::hard_link(&draft, path)?;
        sync_directory(path)?;
        Ok(contents)
    });
    if !matches!(written, Err(ArchiveError::Exists(_))) {
        // Whole or in part, it is not needed under this name.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn export_to(
    reading: &dyn Reading,
    vault: &Vault,
    draft: &Path,
    secret: &ArchiveSecret,
    progress: &Progress,
) -> Result<Contents, ArchiveError> {
    let file = create_new(draft)?;
    let mut sealer = Sealer::new(BufWriter::new(file), FORM, secret)?;
    let contents = export_frames(reading, vault, progress, &mut |frame| sealer.frame(frame, false))?;
    let summary = serde_json::to_vec(&contents).map_err(|error| ArchiveError::Unknown(error.to_string()))?;
    sealer.frame(summary, true)?;
    let file = sealer.into_inner().into_inner().map_err(io::Error::from)?;
    file.sync_all()?;
    Ok(contents)
}

/// Hands over what was committed last, a frame at a time.
pub(super) fn export_frames(
    reading: &dyn Reading,
    vault: &Vault,
    progress: &Progress,
    put: PutFrame<'_>,
) -> Result<Contents, ArchiveError> {
    let (mut contents, mut frame) = (Contents::default(), Vec::new());
    progress.begin();
    let mut total = 0;
    for table in tables() {
        total += reading.len(table)?;
    }
    progress.total.store(total, Relaxed);
    for table in tables() {
        let mut failed = None;
        let walked = for_each(reading, table, |name, sealed| {
            progress.done.fetch_add(1, Relaxed);
            let Ok(value) = vault.open(table, &name, &sealed) else {
                contents.damaged += 1;
                return Ok(());
            };
            let added = if progress.stop.load(Relaxed) {
                Err(ArchiveError::Stopped)
            } else {
                push(&mut frame, table, &value)
            };
            *contents.values.entry(table.to_owned()).or_default() += 1;
            let added = added.and_then(|()| match frame.len() {
                0..FRAME_BYTES => Ok(()),
                _ => put(std::mem::take(&mut frame)),
            });
            added.map_err(|error| stop_with(&mut failed, error))
        });
        ended(walked, failed)?;
    }
    put(frame)?;
    Ok(contents)
}

/// Puts an archive into a database in which nothing is: all of it, when all of it was read and found whole, or nothing.
pub(super) fn import(
    archive: &Path,
    secret: &ArchiveSecret,
    database: &SealedDatabase,
    progress: &Progress,
) -> Result<Contents, ArchiveError> {
    let mut opener = Opener::new(BufReader::new(File::open(archive)?), FORM, secret)?;
    let mut damaged = 0;
    let mut next = |before: &Contents| match opener.frame()? {
        None => Err(ArchiveError::CutShort),
        Some((frame, false)) => Ok(Some(frame)),
        Some((frame, true)) => {
            let summary: Contents =
                serde_json::from_slice(&frame).map_err(|error| ArchiveError::Unknown(error.to_string()))?;
            damaged = summary.damaged;
            before.is_all_of(&summary).map(|()| None)
        }
    };
    let mut contents = import_frames(&mut next, database, progress)?;
    contents.damaged = damaged;
    Ok(contents)
}

/// The same of frames that come from elsewhere.
pub(super) fn import_frames(
    next: NextFrame<'_>,
    database: &SealedDatabase,
    progress: &Progress,
) -> Result<Contents, ArchiveError> {
    progress.begin();
    let (mut contents, mut failed) = (Contents::default(), None);
    let imported = database.transact(&mut |writing| {
        let mut put_all = || -> Result<(), ArchiveError> {
            while let Some(frame) = next(&contents)? {
                let values = split(&frame)?;
                contents.count(&values);
                progress.done.fetch_add(values.len() as u64, Relaxed);
                writing.apply(&sealed_anew(database, &values)?)?;
            }
            Ok(())
        };
        put_all().map_err(|error| stop_with(&mut failed, error))
    });
    ended(imported, failed)?;
    Ok(contents)
}

/// Looks at a frame as an import would, and counts what is in it.
pub(crate) fn look_at(frame: &[u8], contents: &mut Contents) -> Result<(), ArchiveError> {
    let (values, now) = (split(frame)?, Moment::now());
    contents.count(&values);
    for (table, bytes) in values {
        record::decode(table, bytes, now).map_err(|error| ArchiveError::Unknown(error.to_string()))?;
    }
    Ok(())
}

/// Every value is sealed for its place in this store.
fn sealed_anew(database: &SealedDatabase, values: &[(&'static str, Vec<u8>)]) -> Result<Batch, ArchiveError> {
    let now = Moment::now();
    let mut batch = Batch::default();
    for (table, bytes) in values {
        let value = record::decode(table, bytes.clone(), now);
        let value = value.map_err(|error| ArchiveError::Unknown(error.to_string()))?;
        // One whose time is over is not needed any more.
        if let Some(value) = value {
            let name = Name::of(&value).in_table(table, &database.vault);
            let sealed = database
                .vault
                .seal(table, &name, bytes)
                .map_err(DatabaseError::from)?;
            batch.values.insert((*table, name), Some(sealed));
        }
    }
    Ok(batch)
}

/// Ends work in a database for a reason that is not the database's.
fn stop_with(failed: &mut Option<ArchiveError>, error: ArchiveError) -> DatabaseError {
    *failed = Some(error);
    DatabaseError::Closed
}

/// What came of it: the reason that was given, before what the database made of it.
fn ended(outcome: Result<(), DatabaseError>, failed: Option<ArchiveError>) -> Result<(), ArchiveError> {
    match failed {
        Some(error) => Err(error),
        None => Ok(outcome?),
    }
}

/// The length of the table's name, the name, the length of the value, the value.
fn push(frame: &mut Vec<u8>, table: &str, value: &[u8]) -> Result<(), ArchiveError> {
    let table_length = u8::try_from(table.len()).map_err(|_| ArchiveError::TooLarge)?;
    let length = u32::try_from(value.len()).map_err(|_| ArchiveError::TooLarge)?;
    frame.push(table_length);
    frame.extend_from_slice(table.as_bytes());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(value);
    Ok(())
}

fn split(mut frame: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>, ArchiveError> {
    let mut values = Vec::new();
    let cut_short = || ArchiveError::Unknown("a value of it is cut short".to_owned());
    while let Some((length, rest)) = frame.split_first() {
        let (name, rest) = rest
            .split_at_checked(usize::from(*length))
            .ok_or_else(cut_short)?;
        let table = tables().find(|table| table.as_bytes() == name);
        let table =
            table.ok_or_else(|| ArchiveError::Unknown("a table of it is not known here".to_owned()))?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_short)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut_short())?;
        let (value, rest) = rest.split_at_checked(length).ok_or_else(cut_short)?;
        values.push((table, value.to_vec()));
        frame = rest;
    }
    Ok(values)
}

pub(super) fn create_new(path: &Path) -> Result<File, ArchiveError> {
    let created = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ArchiveError::Exists(path.to_path_buf()),
        _ => error.into(),
    })
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
