//! Programs that are run to their end, and processes that are only watched.

use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    /// What it said on the standard error, each part of which must be there.
    #[track_caller]
    pub(crate) fn assert_says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is missing in {self:#?}");
        }
        self
    }
}

/// Runs a program to its end, without standard input. One that takes too long is killed.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Finished {
    finish_with_input(command, "")
}

/// Runs a program to its end with a standard input.
#[track_caller]
pub(crate) fn finish_with_input(command: &mut Command, input: &str) -> Finished {
    let child = command
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
    collect(child, input, &format!("{command:?}"))
}

/// Waits for the end of a program that was started with its output piped.
#[track_caller]
pub(crate) fn collect(mut child: Child, input: &str, name: &str) -> Finished {
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .expect("the program reads its input");
    }
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match receiver.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("the program's output is readable"),
        Err(_) => {
            signal(pid, Signal::KILL);
            let output = receiver.recv_timeout(PATIENCE);
            panic!("{name} did not end within {PATIENCE:?}: {output:?}");
        }
    };
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Sends a signal to a process that may be gone already.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    let _gone = kill_process(pid, signal);
}

/// Whether a process runs; one that is dead and only waits to be collected does not.
pub(crate) fn is_running(pid: u32) -> bool {
    let state = if cfg!(target_os = "linux") {
        // Small systems have no `ps`. The state follows the name, which stands in parentheses.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default()
    } else {
        let ps = Command::new("ps")
            .args(["-o", "stat=", "-p", &pid.to_string()])
            .output();
        String::from_utf8_lossy(&ps.expect("ps runs").stdout)
            .trim()
            .to_owned()
    };
    !matches!(state.chars().next(), None | Some('Z'))
}

/// The exit status of a child, if it comes within this time.
pub(crate) fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
