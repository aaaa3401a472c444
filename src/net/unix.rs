//! A door for programs of the same user: MQTT on a Unix socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;

use super::entrance::{ACCEPT_PAUSE, Entrance, Layers};

/// Longest path that every system takes for a Unix socket: macOS has room for 103 bytes, Linux for
/// 107, and a few are needed for the name it has at first.
const MAX_PATH_BYTES: usize = 90;

/// Why there is no Unix socket.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// The system's own limit.
    #[error("mqtt.unix = {}: a socket's path has at most {MAX_PATH_BYTES} bytes; choose a shorter one", .0.display())]
    PathTooLong(PathBuf),
    /// Something else has the name.
    #[error("mqtt.unix = {}: there is a file of another kind; move it away, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Somebody answers there.
    #[error("mqtt.unix = {}: another program listens there; stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("mqtt.unix = {}: the socket cannot be made: {source}; check who may write to its directory", path.display())]
    Io {
        /// The setting.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The socket; its file goes with it.
pub(super) struct UnixDoor {
    listener: StdUnixListener,
    path: PathBuf,
    /// Device and inode, by which the file is known to be ours.
    file: (u64, u64),
}

impl UnixDoor {
    /// Opens the socket, for its owner alone. It is made under another name, so that it has its mode
    /// before anybody can find it, and so that it replaces a dead one's file in one step.
    pub(super) fn bind(path: &Path) -> Result<UnixDoor, UnixError> {
        let path = path.to_path_buf();
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(UnixError::PathTooLong(path));
        }
        refuse_what_is_alive(&path)?;
        let mut draft = path.clone().into_os_string();
        draft.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(draft);
        let made = open_private(&draft).and_then(|made| fs::rename(&draft, &path).map(|()| made));
        match made {
            Ok((listener, file)) => Ok(UnixDoor { listener, path, file }),
            Err(source) => {
                // Best effort: what cannot be removed could not be made either.
                let _ = fs::remove_file(&draft);
                Err(UnixError::Io { path, source })
            }
        }
    }

    /// Accepts in a room until `stop` is ready, then removes the socket.
    pub(super) async fn serve(
        self,
        entrance: Arc<Entrance>,
        here: usize,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the MQTT socket could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(permit) = entrance.admit(None) else {
                continue;
            };
            entrance.hand_over(here, stream, Layers::default(), permit, None);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        // Another daemon may have taken the name since. Best effort: a socket left behind is recognised
        // as dead by the next one.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open_private(path: &Path) -> io::Result<(StdUnixListener, (u64, u64))> {
    // Left by a daemon with our process number that was killed at this very point.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdUnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok((listener, identity(&fs::symlink_metadata(path)?)))
}

/// Only the socket of a daemon that is gone may be replaced.
fn refuse_what_is_alive(path: &Path) -> Result<(), UnixError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(UnixError::NotASocket(path.to_path_buf())),
        Ok(_) if StdUnixStream::connect(path).is_ok() => Err(UnixError::InUse(path.to_path_buf())),
        _ => Ok(()),
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_goes_when_the_door_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mqtt.sock");
        let door = UnixDoor::bind(&path).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "a draft was left"
        );
        assert!(matches!(UnixDoor::bind(&path), Err(UnixError::InUse(_))));
        drop(door);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_anything_else_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mqtt.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves it behind");
        drop(UnixDoor::bind(&path).unwrap());
        fs::write(&path, "mine").unwrap();
        assert!(matches!(UnixDoor::bind(&path), Err(UnixError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_socket_that_somebody_else_put_there_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mqtt.sock");
        let door = UnixDoor::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixDoor::bind(&path).unwrap();
        drop(door);
        assert!(path.exists());
    }
}
