//! The log as files of bounded size: `clawdbot.log`, behind it `clawdbot.log.1`, and so on, the highest the oldest.
//!
//! Lines are handed to a thread, which alone waits for the disk. What the file does not take goes to stderr, so that a
//! full disk stops nobody and, where stderr is listened to, costs no line.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::service::MAY_NOT_WRITE;
use crate::settings::LogPlace;

/// Lines that wait for the disk; what finds them all there is dropped and counted.
const WAITING: usize = 4096;

/// Where lines are handed in. Nobody who does so waits.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Order {
    Line(Vec<u8>),
    /// To be answered when every line before it is written.
    Answer(SyncSender<()>),
}

/// The place of the log takes no line.
#[derive(Debug, thiserror::Error)]
#[error("log.file: lines cannot be written to {}: {source}; {}", .path.display(), what_helps(.source))]
pub struct LogFileError {
    path: PathBuf,
    source: io::Error,
    may_pass: bool,
}

fn what_helps(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => MAY_NOT_WRITE,
        _ => "name a file in a directory that this user may write to, or leave it empty for stderr",
    }
}

impl LogFileError {
    /// Whether another start may find the place well: a disk that is not there yet leaves a directory where nobody may write.
    pub fn may_pass(&self) -> bool {
        self.may_pass
    }
}

/// Looks at the place without making anything. Whether lines can be written there now.
///
/// # Errors
/// What keeps lines from there for good.
pub(super) fn look(place: &LogPlace) -> Result<bool, LogFileError> {
    let no_place = |says: &str| LogFileError {
        path: place.path.clone(),
        source: io::Error::other(says.to_owned()),
        may_pass: false,
    };
    if let Ok(metadata) = fs::metadata(&place.path) {
        // A directory cannot be put aside under another name, and a pipe would keep us waiting for a reader.
        return match metadata.is_file() {
            true => Ok(platform::files::may_write(&place.path)),
            false => Err(no_place("it is there and no regular file")),
        };
    }
    let nearest = |path: &Path| {
        fs::metadata(path)
            .ok()
            .map(|metadata| (path.to_owned(), metadata))
    };
    match place.path.ancestors().skip(1).find_map(nearest) {
        Some((_, metadata)) if !metadata.is_dir() => Err(no_place("what is named as its directory is none")),
        Some((directory, _)) => Ok(platform::files::may_write(&directory)),
        None => Ok(false),
    }
}

impl LogFile {
    /// # Errors
    /// What is wrong with the place. A disk that is full now is no reason not to start.
    pub(super) fn begin(place: &LogPlace) -> Result<LogFile, LogFileError> {
        look(place)?;
        let refused = |source: io::Error| LogFileError {
            path: place.path.clone(),
            source,
            may_pass: true,
        };
        let mut files = Files::at(place);
        if let Err(error) = files.prepare()
            && !is_of_a_full_disk(&error)
        {
            return Err(refused(error));
        }
        let (orders, waiting) = mpsc::sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_down(&waiting, files, &counted))
            .map_err(refused)?;
        Ok(LogFile { orders, lost })
    }

    /// Waits until what was handed in is written, though not for ever: the disk may be what hangs.
    pub(super) fn finish(&self, within: Duration) {
        let (answer, answered) = mpsc::sync_channel(1);
        let deadline = Instant::now() + within;
        let mut order = Order::Answer(answer);
        // Where as many lines wait as may, there is soon room for one more.
        while let Err(TrySendError::Full(back)) = self.orders.try_send(order) {
            if Instant::now() >= deadline {
                return;
            }
            order = back;
            thread::sleep(Duration::from_millis(10));
        }
        let _late = answered.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// A line comes in one piece, as `tracing_subscriber` has it.
impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.orders.try_send(Order::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = &'a LogFile;

    fn make_writer(&'a self) -> &'a LogFile {
        self
    }
}

fn write_down(orders: &Receiver<Order>, mut files: Files, lost: &AtomicU64) {
    let mut complained = false;
    for order in orders {
        match order {
            Order::Line(line) => match files.write(&line) {
                Ok(()) => complained = false,
                Err(error) => {
                    instead(&files, &error, &line, complained);
                    complained = true;
                }
            },
            Order::Answer(answer) => {
                // Who waited too long is gone.
                let _gone = answer.send(());
            }
        }
        let lines = lost.swap(0, Relaxed);
        if lines > 0 {
            tracing::warn!(
                lines,
                "lines of this log were lost: the disk was too slow for them"
            );
        }
    }
}

/// Says a line on stderr, and the first time why there. Where stderr is closed, nobody can be told anything.
fn instead(files: &Files, error: &io::Error, line: &[u8], complained: bool) {
    let mut stderr = io::stderr().lock();
    if !complained {
        let path = files.path.display();
        let _closed = writeln!(
            stderr,
            "clawdbot: the log file {path} takes nothing: {error}; its lines stand here until it does"
        );
    }
    let _closed = stderr.write_all(line);
}

fn is_of_a_full_disk(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// The files, as the thread has them.
struct Files {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    newest: Option<Newest>,
}

/// The file that is written to.
struct Newest {
    file: File,
    bytes: u64,
    inode: (u64, u64),
}

impl Files {
    fn at(place: &LogPlace) -> Files {
        Files {
            path: place.path.clone(),
            max_bytes: place.max_bytes,
            keep: place.keep,
            newest: None,
        }
    }

    /// Opens the file before anything is said, so that a place that cannot be is told at the start.
    fn prepare(&mut self) -> io::Result<()> {
        self.newest = Some(self.newest()?);
        // Fewer may be kept than before.
        let mut beyond = self.keep.saturating_add(1);
        while fs::remove_file(self.numbered(beyond)).is_ok() {
            beyond = beyond.saturating_add(1);
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        let mut newest = self.newest()?;
        if newest.bytes > 0 && newest.bytes.saturating_add(length) > self.max_bytes {
            self.put_aside(&newest);
            newest = self.newest()?;
        }
        // Where this fails the file is opened anew for the next line.
        newest.file.write_all(line).inspect_err(|_| {
            // Half a line would spoil the next one.
            let _refused = newest.file.set_len(newest.bytes);
        })?;
        newest.bytes = newest.bytes.saturating_add(length);
        self.newest = Some(newest);
        Ok(())
    }

    /// The open file, or another one where somebody took that away. To look costs a microsecond, of a thread that
    /// nobody waits for.
    fn newest(&mut self) -> io::Result<Newest> {
        let there = fs::metadata(&self.path).map(|metadata| inode(&metadata)).ok();
        match self.newest.take() {
            Some(newest) if there == Some(newest.inode) => Ok(newest),
            _ => self.open(),
        }
    }

    fn open(&self) -> io::Result<Newest> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            // From before, or made by somebody's tool: lines name devices and topics, which are nobody else's business.
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(Newest {
            bytes: metadata.len(),
            inode: inode(&metadata),
            file,
        })
    }

    /// Gives each file the next higher number, from the oldest on. One that is missing leaves a gap, which does no harm.
    fn put_aside(&self, newest: &Newest) {
        for number in (1..self.keep).rev() {
            let _missing = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        let is_moved = self.keep > 0 && fs::rename(&self.path, self.numbered(1)).is_ok();
        if !is_moved {
            // That the disk does not fill comes before what was said.
            let _refused = newest.file.set_len(0);
        }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
#[path = "log_file_tests.rs"]
mod tests;
