//! The daemon's own door: a Unix socket in the data directory that only the owner can open. One
//! JSON request a line, one JSON answer a line, in the form that the bridge uses over MQTT:
//! `{"command": "status"}` gives `{"status": "ok", "data": {…}}` or `{"status": "error", "error": "…"}`.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::security::DataDir;

/// Longest path that every system takes for a Unix socket: macOS has room for 103 bytes, Linux for 107.
const MAX_SOCKET_PATH_BYTES: usize = 100;
/// Longest line in either direction.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Conversations at the same time; more wait for their turn.
const MAX_CONNECTIONS: usize = 16;
/// Time in which a connected client must send its line, and take the answer.
const LINE_TIME: Duration = Duration::from_secs(10);
/// Time in which the daemon must answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Pause after a failed accept: when file descriptors ran out, trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A question to the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdminRequest {
    /// What to do: `status`, or what the bridge answers, as `topics`.
    pub command: String,
    /// Echoed in the answer where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<Value>,
    /// Everything else in the request.
    #[serde(flatten)]
    pub arguments: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AdminResponse {
    status: AdminStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transaction: Option<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AdminStatus {
    Ok,
    Error,
}

/// The open door. While it exists, no other daemon can have this data directory.
#[derive(Debug)]
pub struct AdminListener {
    socket: UnixListener,
    path: PathBuf,
    // The system frees the lock when the file is closed, even if the process is killed.
    _lock: File,
}

/// Why there is no door, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Two daemons, one directory.
    #[error(
        "another daemon{} already runs on the data directory {}; stop it, or give this one its own with --data-dir",
        .holder, .data_dir.display()
    )]
    AlreadyRunning {
        /// The directory in question.
        data_dir: PathBuf,
        /// ` (process N)`, or nothing where it could not be read.
        holder: String,
    },
    /// The system's own limit.
    #[error(
        "the path of the status socket, {}, is longer than the {MAX_SOCKET_PATH_BYTES} bytes that a socket may have; \
         choose a shorter data_dir (flag --data-dir)",
        .0.display()
    )]
    PathTooLong(PathBuf),
    /// Nobody there.
    #[error("no daemon runs on the data directory {}; start one with `clawdbot serve`, or name the right one with --data-dir", .0.display())]
    NotRunning(PathBuf),
    /// The daemon said no.
    #[error("the daemon refused: {0}")]
    Refused(String),
    /// Something answered that is no daemon of ours, or it was cut off.
    #[error("the daemon's answer could not be read: {0}; look into its log")]
    BadAnswer(String),
    /// It hangs.
    #[error("the daemon did not answer within {} s; look into its log", ANSWER_TIME.as_secs())]
    NoAnswer,
    /// The system refused.
    #[error("{action} {} failed: {source}; check who owns the data directory", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl AdminListener {
    /// Takes the data directory for this process and opens its socket. Needs a tokio runtime.
    pub fn bind(dir: &DataDir) -> Result<AdminListener, AdminError> {
        let path = socket_path(dir)?;
        let lock = take_lock(dir)?;
        let failed = |action| {
            let path = path.clone();
            move |source| AdminError::Io { action, path, source }
        };
        // We hold the lock, so whatever has the socket's name is a dead daemon's, unless something
        // answers on it: a daemon of a version without the lock, or a foreign program.
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(AdminError::AlreadyRunning {
                data_dir: dir.root().to_path_buf(),
                holder: String::new(),
            });
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing the old socket")(error));
            }
            _ => {}
        }
        let socket = UnixListener::bind(&path).map_err(failed("opening the socket"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed("protecting the socket"))?;
        Ok(AdminListener {
            socket,
            path,
            _lock: lock,
        })
    }

    /// Answers until `stop` is ready, then removes the socket. The handler's futures need not be
    /// `Send`, so this must run where `tokio::task::spawn_local` does: in an actix `System`, or in
    /// a `LocalSet`.
    pub async fn serve<H, F>(self, handler: H, stop: impl Future<Output = ()>)
    where
        H: Fn(AdminRequest) -> F + 'static,
        F: Future<Output = Result<Value, String>> + 'static,
    {
        let handler = Rc::new(handler);
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let room = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.socket.accept(), if room => match accepted {
                    Ok((stream, _)) => {
                        let handler = Rc::clone(&handler);
                        connections.spawn_local(async move {
                            if let Err(error) = converse(stream, handler.as_ref()).await {
                                tracing::debug!(%error, "a conversation on the status socket ended early");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the status socket could not accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        // Best effort: a socket left behind is recognised as dead by the next daemon.
        let _ = fs::remove_file(&self.path);
    }
}

/// Asks the daemon on this data directory one thing.
pub async fn ask(dir: &DataDir, request: &AdminRequest) -> Result<Value, AdminError> {
    let path = socket_path(dir)?;
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(AdminError::NotRunning(dir.root().to_path_buf()));
        }
        Err(source) => {
            return Err(AdminError::Io {
                action: "opening the socket",
                path,
                source,
            });
        }
    };
    let exchange = async {
        let mut stream = BufReader::new(stream);
        stream.write_all(&line_of(request)?).await?;
        read_line(&mut stream).await
    };
    let line = match timeout(ANSWER_TIME, exchange).await {
        Err(_) => return Err(AdminError::NoAnswer),
        Ok(Err(error)) => return Err(AdminError::BadAnswer(error.to_string())),
        Ok(Ok(None)) => return Err(AdminError::BadAnswer("it closed the connection".to_owned())),
        Ok(Ok(Some(line))) => line,
    };
    match serde_json::from_slice(&line) {
        Ok(AdminResponse {
            status: AdminStatus::Ok,
            data,
            ..
        }) => Ok(data.unwrap_or_default()),
        Ok(AdminResponse {
            status: AdminStatus::Error,
            error,
            ..
        }) => Err(AdminError::Refused(
            error.unwrap_or_else(|| "it gave no reason".to_owned()),
        )),
        Err(error) => Err(AdminError::BadAnswer(error.to_string())),
    }
}

async fn converse<H, F>(stream: UnixStream, handler: &H) -> io::Result<()>
where
    H: Fn(AdminRequest) -> F,
    F: Future<Output = Result<Value, String>>,
{
    require_owner(&stream)?;
    let mut stream = BufReader::new(stream);
    while let Some(line) = timeout(LINE_TIME, read_line(&mut stream)).await?? {
        let response = match serde_json::from_slice::<AdminRequest>(&line) {
            Ok(request) => {
                let transaction = request.transaction.clone();
                AdminResponse {
                    transaction,
                    ..AdminResponse::from(handler(request).await)
                }
            }
            Err(error) => AdminResponse::from(Err(format!(
                "the request is not a JSON object with a \"command\": {error}"
            ))),
        };
        timeout(LINE_TIME, stream.write_all(&line_of(&response)?)).await??;
    }
    Ok(())
}

/// The socket's mode keeps others out, but it is set a moment after the socket exists.
fn require_owner(stream: &UnixStream) -> io::Result<()> {
    let (ours, _) = UnixStream::pair()?;
    let own_uid = ours.peer_cred()?.uid();
    let peer_uid = stream.peer_cred()?.uid();
    if peer_uid != own_uid && peer_uid != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the client is another user's",
        ));
    }
    Ok(())
}

/// A line without its end; nothing where the other side has closed. Never more than the bound.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a line was too long or has no end",
        ));
    }
    Ok(Some(line))
}

fn line_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

fn socket_path(dir: &DataDir) -> Result<PathBuf, AdminError> {
    let path = dir.socket();
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(AdminError::PathTooLong(path));
    }
    Ok(path)
}

/// Takes the data directory for this process, as long as the file is open: no daemon starts on it meanwhile.
pub(crate) fn take_lock(dir: &DataDir) -> Result<File, AdminError> {
    let path = dir.lock();
    let failed = |source| AdminError::Io {
        action: "locking",
        path: path.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(AdminError::AlreadyRunning {
                data_dir: dir.root().to_path_buf(),
                holder: holder(&path),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The number only makes the second daemon's message better; the lock is what counts.
    file.set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| write!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

fn holder(lock: &Path) -> String {
    let mut text = String::new();
    let read = File::open(lock).and_then(|file| file.take(20).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(process)) => format!(" (process {process})"),
        _ => String::new(),
    }
}

impl AdminRequest {
    /// A command without arguments.
    pub fn new(command: &str) -> AdminRequest {
        AdminRequest {
            command: command.to_owned(),
            transaction: None,
            arguments: Map::new(),
        }
    }
}

impl From<Result<Value, String>> for AdminResponse {
    fn from(outcome: Result<Value, String>) -> AdminResponse {
        let (status, data, error) = match outcome {
            Ok(data) => (AdminStatus::Ok, Some(data), None),
            Err(error) => (AdminStatus::Error, None, Some(error)),
        };
        AdminResponse {
            status,
            data,
            error,
            transaction: None,
        }
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
