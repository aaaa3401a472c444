//! Where inference processes run: how one is started, ended and waited for, and what is packed for it. [`OwnProgram`] is this
//! machine; a simulation has another.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};

use actix::prelude::*;
use models::{Kept, PackedFile};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::policy::failover::Cause;

/// See the module.
pub trait Host: fmt::Debug + Send + Sync + 'static {
    /// Starts a process. It waits for what it is to load.
    ///
    /// # Errors
    /// What there is no process for, with what was to be started.
    fn start(&self) -> io::Result<Hosted>;

    /// Looks up what is packed of a model in a directory, beside all else: splitting its vocabulary takes a while. None of one
    /// that cannot be read, which is not loaded either, as is said elsewhere.
    fn shelf(&self, model: PathBuf, directory: PathBuf) -> ResponseFuture<Option<Box<dyn Shelf>>>;
}

/// Where a model's packed weights are.
pub trait Shelf {
    /// Those that are there now.
    fn packed(&self) -> Vec<PackedFile>;
}

impl Shelf for Kept {
    fn packed(&self) -> Vec<PackedFile> {
        Kept::packed(self)
    }
}

/// A process and the stream that leads to it.
pub struct Hosted {
    /// What it says.
    pub read: Box<dyn AsyncRead + Unpin>,
    /// What it is told. The process ends when this does.
    pub write: Box<dyn AsyncWrite + Unpin>,
    /// The process.
    pub process: Box<dyn Process>,
}

/// A process that was started.
pub trait Process {
    /// Its number, while it lives.
    fn id(&self) -> Option<u32>;

    /// Begins to end it. It may have ended by itself meanwhile; its end is seen all the same.
    fn start_kill(&mut self);

    /// Ready when it has ended: why, as far as that can be told, and in words.
    fn wait(&mut self) -> Pin<Box<dyn Future<Output = (Cause, String)> + '_>>;
}

/// A program on this machine, the daemon's own as a rule. Its standard input is one end of a socket pair.
#[derive(Clone, Debug)]
pub struct OwnProgram {
    /// The binary.
    pub program: PathBuf,
    /// The hidden subcommand.
    pub arguments: Vec<OsString>,
}

impl Host for OwnProgram {
    fn start(&self) -> io::Result<Hosted> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.program.display())))?;
        let (read, write) = UnixStream::from_std(ours)?.into_split();
        Ok(Hosted {
            read: Box::new(read),
            write: Box::new(write),
            process: Box::new(child),
        })
    }

    fn shelf(&self, model: PathBuf, directory: PathBuf) -> ResponseFuture<Option<Box<dyn Shelf>>> {
        Box::pin(async move {
            let found = actix_rt::task::spawn_blocking(move || Kept::of(&model, &directory)).await;
            let kept = found.ok().and_then(Result::ok)?;
            Some(Box::new(kept) as Box<dyn Shelf>)
        })
    }
}

impl Process for Child {
    fn id(&self) -> Option<u32> {
        Child::id(self)
    }

    fn start_kill(&mut self) {
        let _ended = Child::start_kill(self);
    }

    fn wait(&mut self) -> Pin<Box<dyn Future<Output = (Cause, String)> + '_>> {
        Box::pin(async move {
            let status = Child::wait(self).await;
            status.map_or_else(|error| (Cause::Other, error.to_string()), describe)
        })
    }
}

/// The exit code of a program of Rust's that panicked.
const PANICKED: i32 = 101;
/// `SIGABRT`, by which a program ends that was refused memory.
const ABORTED: i32 = 6;
/// `SIGKILL`, by which the system takes memory back.
const KILLED: i32 = 9;

fn describe(status: ExitStatus) -> (Cause, String) {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(PANICKED), _) => (Cause::Other, "it panicked; the lines above say where".to_owned()),
        (Some(code), _) => (Cause::Other, format!("exit code {code}")),
        (None, Some(KILLED)) => {
            let reason = "killed by signal 9; if nobody did it, the system was short of memory";
            (Cause::Memory, reason.to_owned())
        }
        (None, Some(ABORTED)) => {
            let reason = "it aborted (signal 6), as it does when it is refused memory";
            (Cause::Memory, reason.to_owned())
        }
        (None, Some(signal)) => (Cause::Other, format!("killed by signal {signal}")),
        (None, None) => (Cause::Other, status.to_string()),
    }
}
