//! The key that signs tokens: 32 random bytes in a file that only the owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use super::{DataDir, TokenKey, random};

/// Bytes of a signing key: as many as HS256's hash has, what RFC 7518 asks at least.
pub const KEY_BYTES: usize = 32;

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none yet, and this command does not make one.
    #[error("there is no signing key at {} yet; `clawdbot serve` makes it at its first start", .0.display())]
    Missing(PathBuf),
    /// Others could sign tokens.
    #[error(
        "the signing key {} can be read by other users (mode {mode:03o}); run: chmod 600 '{}' – and delete the file \
         instead if somebody may have read it: a new key is made, and every token must be issued again",
        path.display(), path.display()
    )]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not what this program wrote.
    #[error(
        "the signing key {} has {found} bytes instead of {KEY_BYTES}; restore it from a backup, or delete it: a new \
         key is made, and every token must be issued again",
        path.display()
    )]
    WrongLength {
        /// The key file.
        path: PathBuf,
        /// Its length.
        found: u64,
    },
    /// The system has no random numbers.
    #[error("the system gave no random numbers for a signing key; try again when it has finished starting")]
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

/// Reads the signing key, and makes it first where there is none. Processes that start at the same
/// time agree on one key.
pub fn load_or_create(dir: &DataDir) -> Result<TokenKey, KeyError> {
    match load(dir) {
        Err(KeyError::Missing(path)) => {
            create(&path)?;
            load(dir)
        }
        other => other,
    }
}

/// Reads the signing key that must be there already.
pub fn load(dir: &DataDir) -> Result<TokenKey, KeyError> {
    let path = dir.token_signing_key();
    let failed = |source| KeyError::Io {
        action: "reading",
        path: path.clone(),
        source,
    };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeyError::Missing(path)),
        Err(source) => return Err(failed(source)),
    };
    // Asked of the open file, so that it cannot be exchanged between the question and the reading.
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen { path, mode });
    }
    if metadata.size() != KEY_BYTES as u64 {
        return Err(KeyError::WrongLength {
            path,
            found: metadata.size(),
        });
    }
    let mut secret = [0u8; KEY_BYTES];
    file.read_exact(&mut secret).map_err(failed)?;
    Ok(TokenKey::new(&secret))
}

/// Writes a whole key beside the final name and links it there: a link never replaces a file, so
/// the first of several processes wins, and none ever reads half a key.
fn create(path: &Path) -> Result<(), KeyError> {
    let mut secret = [0u8; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| KeyError::NoRandomness)?;
    let suffix = random::hex::<8>().ok_or(KeyError::NoRandomness)?;
    let draft = path.with_extension(format!("{suffix}.tmp"));

    let written = write_private(&draft, &secret).and_then(|()| fs::hard_link(&draft, path));
    // Best effort: a draft left behind is as private as the key, and never read.
    let _ = fs::remove_file(&draft);
    match written {
        Ok(()) => sync_directory(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(KeyError::Io {
            action: "writing",
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// After a power cut the name must be there too, or all tokens would be void.
fn sync_directory(path: &Path) -> Result<(), KeyError> {
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
        assert!(matches!(load(&dir), Err(KeyError::Missing(_))));
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
