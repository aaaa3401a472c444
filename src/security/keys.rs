//! Keys: 32 random bytes each, in a file that only the owner can read. One signs tokens; the master key opens the
//! store; one seals backups.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use super::{DataDir, TokenKey, random};

/// Bytes of a key: as many as HS256's hash has, what RFC 7518 asks at least, and as AES-256 takes.
pub const KEY_BYTES: usize = 32;

/// Which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Signs tokens.
    Signing,
    /// Opens the store.
    Master,
    /// Seals backups.
    Backup,
}

impl Which {
    fn path(self, dir: &DataDir) -> PathBuf {
        match self {
            Self::Signing => dir.token_signing_key(),
            Self::Master => dir.master_key(),
            Self::Backup => dir.backup_key(),
        }
    }

    /// What it means to lose it.
    fn loss(self) -> &'static str {
        match self {
            Self::Signing => "a new key is made, and every token must be issued again",
            Self::Master => "a new key is made, which opens a new store only: move store.redb away as well",
            Self::Backup => {
                "`clawdbot backup init` makes a new one, which opens no backup that was made before"
            }
        }
    }

    /// What makes it.
    fn maker(self) -> &'static str {
        match self {
            Self::Signing | Self::Master => "`clawdbot serve` makes it at its first start",
            Self::Backup => "`clawdbot backup init` makes it",
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signing => "signing key",
            Self::Master => "master key",
            Self::Backup => "backup key",
        })
    }
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none yet, and this command does not make one.
    #[error("there is no {which} at {} yet; {}", path.display(), which.maker())]
    Missing {
        /// Which key.
        which: Which,
        /// Where it would be.
        path: PathBuf,
    },
    /// There is none, and what it opens is there.
    #[error(
        "the master key {} is gone, and the store cannot be opened without it; put it back from a backup, or move \
         store.redb away to begin anew",
        .0.display()
    )]
    Lost(PathBuf),
    /// There is none where a setting says.
    #[error(
        "store.master_key_file = {}: there is no such file; write 64 hexadecimal digits into it, for example what \
         `openssl rand -hex 32` prints, and let only its owner read it (chmod 600)",
        .0.display()
    )]
    NotThere(PathBuf),
    /// Others could use it.
    #[error(
        "the {which} {} can be read by other users (mode {mode:03o}); run: chmod 600 '{}' – and delete the file \
         instead if somebody may have read it: {}",
        path.display(), path.display(), which.loss()
    )]
    TooOpen {
        /// Which key.
        which: Which,
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not what this program wrote.
    #[error(
        "the {which} {} has {found} bytes instead of {KEY_BYTES}; restore it from a backup, or delete it: {}",
        path.display(), which.loss()
    )]
    WrongLength {
        /// Which key.
        which: Which,
        /// The key file.
        path: PathBuf,
        /// Its length.
        found: u64,
    },
    /// The variable that should hold it does not.
    #[error(
        "store.master_key_variable = {0}: there is no such environment variable with 64 hexadecimal digits in it; set \
         it, for example to what `openssl rand -hex 32` prints"
    )]
    NoVariable(String),
    /// The keychain gave none.
    #[error(
        "store.master_key_keychain = {service}: the System keychain does not give it: {source}; put it there with `sudo \
         security add-generic-password -a clawdbot -s {service} -w KEY /Library/Keychains/System.keychain`, where KEY is \
         what `openssl rand -hex 32` prints, and run the daemon as root or let it read that item"
    )]
    Keychain {
        /// The item.
        service: String,
        /// What the system said.
        source: io::Error,
    },
    /// The keychain's item is something else.
    #[error(
        "store.master_key_keychain = {0}: what the System keychain has there is not 64 hexadecimal digits"
    )]
    NotInKeychain(String),
    /// It is not ours to write.
    #[error(
        "the master key comes from {0}, which cannot be changed from here; have it in a file \
         (store.master_key_file) first, and then rotate it"
    )]
    NotAFile(String),
    /// The system has no random numbers.
    #[error("the system gave no random numbers for a key; try again when it has finished starting")]
    NoRandomness,
    /// The system refused.
    #[error("{action} {} failed: {source}; check who owns the data directory and that its disk has room", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl KeyError {
    /// The system's answer to something that was tried with a file.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Reads the signing key, and makes it first where there is none. Processes that start at the same
/// time agree on one key.
pub fn load_or_create(dir: &DataDir) -> Result<TokenKey, KeyError> {
    Ok(TokenKey::new(&read_or_create(Which::Signing, dir)?))
}

/// Reads the signing key that must be there already.
pub fn load(dir: &DataDir) -> Result<TokenKey, KeyError> {
    Ok(TokenKey::new(&read(Which::Signing, dir)?))
}

/// Reads the key that seals backups.
pub fn load_backup_key(dir: &DataDir) -> Result<[u8; KEY_BYTES], KeyError> {
    read(Which::Backup, dir)
}

/// Reads the key that seals backups, and makes it first where there is none. Returns whether it was made.
pub fn load_or_create_backup_key(dir: &DataDir) -> Result<([u8; KEY_BYTES], bool), KeyError> {
    match read(Which::Backup, dir) {
        Err(KeyError::Missing { .. }) => {
            let key = read_or_create(Which::Backup, dir)?;
            leave_to_owner(dir, &Which::Backup.path(dir));
            Ok((key, true))
        }
        other => Ok((other?, false)),
    }
}

/// What root makes in somebody's data directory is of use to the daemon only if it is that user's. Where it cannot be, the daemon
/// says so when it wants it.
fn leave_to_owner(dir: &DataDir, path: &Path) {
    if let Ok(owner) = fs::metadata(dir.root()) {
        let _refused = std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()));
    }
}

fn read_or_create(which: Which, dir: &DataDir) -> Result<[u8; KEY_BYTES], KeyError> {
    match read(which, dir) {
        Err(KeyError::Missing { path, .. }) => {
            create(&path)?;
            read(which, dir)
        }
        other => other,
    }
}

fn read(which: Which, dir: &DataDir) -> Result<[u8; KEY_BYTES], KeyError> {
    read_at(which, &which.path(dir))
}

/// Reads a key in a file of another name.
pub(super) fn read_at(which: Which, path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let path = path.to_path_buf();
    let failed = |source| KeyError::Io {
        action: "reading",
        path: path.clone(),
        source,
    };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KeyError::Missing { which, path });
        }
        Err(source) => return Err(failed(source)),
    };
    // Asked of the open file, so that it cannot be exchanged between the question and the reading.
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen { which, path, mode });
    }
    if metadata.size() != KEY_BYTES as u64 {
        return Err(KeyError::WrongLength {
            which,
            path,
            found: metadata.size(),
        });
    }
    let mut secret = [0u8; KEY_BYTES];
    file.read_exact(&mut secret).map_err(failed)?;
    Ok(secret)
}

/// Writes a whole key beside the final name and links it there: a link never replaces a file, so
/// the first of several processes wins, and none ever reads half a key.
pub(super) fn create(path: &Path) -> Result<(), KeyError> {
    write_new(path, |draft| {
        let linked = fs::hard_link(draft, path);
        // Best effort: a draft left behind is as private as the key, and never read.
        let _ = fs::remove_file(draft);
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })
}

/// Puts a new key in the place of one. Whoever reads meanwhile has the one or the other.
pub(super) fn replace(path: &Path) -> Result<(), KeyError> {
    write_new(path, |draft| fs::rename(draft, path))
}

/// Writes a whole new key beside its final name, where `place` then puts it.
fn write_new(path: &Path, place: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), KeyError> {
    let mut secret = [0u8; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| KeyError::NoRandomness)?;
    let suffix = random::hex::<8>().ok_or(KeyError::NoRandomness)?;
    let draft = path.with_extension(format!("{suffix}.tmp"));

    match write_private(&draft, &secret).and_then(|()| place(&draft)) {
        Ok(()) => sync_directory(path),
        Err(source) => Err(KeyError::Io {
            action: "writing",
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Writes a new file, its owner's alone from its first byte on, and flushes it.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// After a power cut the name must be there too, or all tokens would be void.
pub(super) fn sync_directory(path: &Path) -> Result<(), KeyError> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| KeyError::Io {
            action: "writing",
            path: directory.to_path_buf(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::sync::Barrier;
    use std::thread;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn dir() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_found_again() {
        let (_temp, dir) = dir();
        assert!(matches!(load(&dir), Err(KeyError::Missing { .. })));
        let token = load_or_create(&dir)
            .unwrap()
            .issue("a", SystemTime::now(), Duration::from_secs(9))
            .unwrap();
        let again = load_or_create(&dir).unwrap();
        assert_eq!(
            again
                .verify(token.as_bytes(), SystemTime::now())
                .unwrap()
                .device_id,
            "a"
        );
        let metadata = fs::metadata(dir.token_signing_key()).unwrap();
        assert_eq!(
            (metadata.permissions().mode() & 0o777, metadata.len()),
            (0o600, 32)
        );
        assert_eq!(
            fs::read_dir(dir.keys()).unwrap().count(),
            1,
            "a draft was left behind"
        );
    }

    #[test]
    fn processes_that_start_at_once_agree_on_one_key() {
        let (_temp, dir) = dir();
        let barrier = Barrier::new(8);
        let keys: Vec<TokenKey> = thread::scope(|scope| {
            let start = || {
                barrier.wait();
                load_or_create(&dir).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let token = keys[0]
            .issue("a", SystemTime::now(), Duration::from_secs(9))
            .unwrap();
        for key in &keys {
            key.verify(token.as_bytes(), SystemTime::now()).unwrap();
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
        let (_temp, dir) = dir();
        load_or_create(&dir).unwrap();
        for mode in [0o640, 0o604] {
            fs::set_permissions(dir.token_signing_key(), Permissions::from_mode(mode)).unwrap();
            let message = load_or_create(&dir).unwrap_err().to_string();
            assert!(message.contains("chmod 600"), "{message}");
        }
    }

    #[test]
    fn a_truncated_key_is_refused_and_not_replaced() {
        let (_temp, dir) = dir();
        load_or_create(&dir).unwrap();
        fs::write(dir.token_signing_key(), [7; 31]).unwrap();
        assert!(matches!(
            load_or_create(&dir),
            Err(KeyError::WrongLength { found: 31, .. })
        ));
        assert_eq!(fs::read(dir.token_signing_key()).unwrap().len(), 31);
    }
}
