//! The data directory: what the daemon keeps between runs, for its owner alone.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::certificates::OwnCertificates;

/// A data directory that exists and that nobody else can write to.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It is not there, and this command does not create it.
    #[error(
        "the data directory {} does not exist; `clawdbot serve` creates it, or name another with --data-dir",
        .0.display()
    )]
    Missing(PathBuf),
    /// Something else has its name.
    #[error("{} is not a directory; name another data directory with --data-dir", .0.display())]
    NotADirectory(PathBuf),
    /// Others could exchange the keys in it.
    #[error(
        "{} can be {reach} by other users (mode {mode:03o}); run: chmod {remedy} '{}'",
        path.display(), path.display()
    )]
    TooOpen {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What others could do.
        reach: &'static str,
        /// The argument of chmod that helps.
        remedy: &'static str,
    },
    /// The system refused.
    #[error("{action} {} failed: {source}; check who owns it, or name another data directory with --data-dir", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl DataDir {
    /// Creates what is missing, owner-only, and checks what is there.
    pub fn prepare(root: &Path) -> Result<DataDir, DataDirError> {
        create_private(root)?;
        let dir = DataDir::open(root)?;
        create_private(&dir.keys())?;
        dir.check_keys()?;
        Ok(dir)
    }

    /// Checks the directory of the keys, if it exists already.
    pub fn check_keys(&self) -> Result<(), DataDirError> {
        match check(&self.keys(), 0o077, "entered", "700") {
            Err(DataDirError::Missing(_)) => Ok(()),
            other => other,
        }
    }

    /// Checks a directory that must exist already, without changing anything.
    pub fn open(root: &Path) -> Result<DataDir, DataDirError> {
        // Reading the directory's listing gives nothing away, because the keys have a directory of
        // their own and the socket its own mode; writing to it would let others put in their own.
        check(root, 0o022, "written to", "go-w")?;
        Ok(DataDir {
            root: root.to_path_buf(),
        })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where keys are: a directory that only the owner can enter.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The key that opens the store.
    pub fn master_key(&self) -> PathBuf {
        self.keys().join("master.key")
    }

    /// What outlives the daemon.
    pub fn store(&self) -> PathBuf {
        self.root.join("store.redb")
    }

    /// The key that signs tokens.
    pub fn token_signing_key(&self) -> PathBuf {
        self.keys().join("token-signing.key")
    }

    /// The key that seals backups.
    pub fn backup_key(&self) -> PathBuf {
        self.keys().join("backup.key")
    }

    /// The certificates that `clawdbot certs` makes.
    pub fn certificates(&self) -> OwnCertificates {
        DataDir::certificates_in(&self.root)
    }

    /// Those of a data directory that was not looked at.
    pub fn certificates_in(root: &Path) -> OwnCertificates {
        OwnCertificates::at(&root.join("certs"))
    }

    /// The socket that `clawdbot status` asks.
    pub fn socket(&self) -> PathBuf {
        self.root.join("clawdbot.sock")
    }

    /// The file whose lock says that a daemon runs on this directory.
    pub fn lock(&self) -> PathBuf {
        self.root.join("clawdbot.lock")
    }
}

fn create_private(path: &Path) -> Result<(), DataDirError> {
    if path.exists() {
        return Ok(());
    }
    let failed = |source| DataDirError::Io {
        action: "creating the directory",
        path: path.to_path_buf(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    // The umask may have taken the owner's own bits away.
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)
}

/// Refuses a directory that others can do more with than is good.
pub(super) fn check(
    path: &Path,
    forbidden: u32,
    reach: &'static str,
    remedy: &'static str,
) -> Result<(), DataDirError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DataDirError::Missing(path.to_path_buf()));
        }
        Err(source) => {
            return Err(DataDirError::Io {
                action: "looking at",
                path: path.to_path_buf(),
                source,
            });
        }
    };
    if !metadata.is_dir() {
        return Err(DataDirError::NotADirectory(path.to_path_buf()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(DataDirError::TooOpen {
            path: path.to_path_buf(),
            mode,
            reach,
            remedy,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_data_directory_and_its_keys_are_for_the_owner_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(&temp.path().join("a/b")).unwrap();
        assert_eq!((mode_of(dir.root()), mode_of(&dir.keys())), (0o700, 0o700));
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_with_the_command_that_helps() {
        let temp = tempfile::tempdir().unwrap();
        for mode in [0o720, 0o702, 0o777] {
            fs::set_permissions(temp.path(), Permissions::from_mode(mode)).unwrap();
            let message = DataDir::prepare(temp.path()).unwrap_err().to_string();
            assert!(
                message.contains(&format!("chmod go-w '{}'", temp.path().display())),
                "{message}"
            );
            assert!(message.contains(&format!("{mode:o}")), "{message}");
        }
    }

    #[test]
    fn a_keys_directory_that_others_can_enter_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let keys = DataDir::prepare(temp.path()).unwrap().keys();
        fs::set_permissions(&keys, Permissions::from_mode(0o750)).unwrap();
        let message = DataDir::prepare(temp.path()).unwrap_err().to_string();
        assert!(message.contains("chmod 700"), "{message}");
    }

    #[test]
    fn a_file_in_its_place_and_a_missing_directory_are_told_apart() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            DataDir::prepare(&file),
            Err(DataDirError::NotADirectory(_))
        ));
        assert!(matches!(
            DataDir::open(&temp.path().join("no")),
            Err(DataDirError::Missing(_))
        ));
    }
}
