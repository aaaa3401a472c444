//! A control group with little memory, and something in it that takes most of that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::say;

/// It is taken away when it is dropped, for which everything in it must have ended.
#[derive(Debug)]
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// One that may have so much. Where this user may make none, that is said and the test is over, also under CI: it is
    /// nothing that could be installed.
    pub(crate) fn of(mib: u64) -> Option<MemoryGroup> {
        let (parent, limit) = if Path::new("/sys/fs/cgroup/memory").is_dir() {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            ("/sys/fs/cgroup", "memory.max")
        };
        let made = tempfile::Builder::new()
            .prefix("clawdbot-test-")
            .tempdir_in(parent)
            .and_then(|directory| {
                // What is in it are the kernel's files, which go with it alone.
                let group = MemoryGroup(directory.keep());
                fs::write(group.0.join(limit), (mib << 20).to_string())?;
                Ok(group)
            });
        made.inspect_err(|error| {
            say(&format!(
                "SKIPPED: an alert of a machine that is short of memory: no control group can be made in {parent}: {error}"
            ));
        })
        .ok()
    }

    /// What a shell does to be in it, with all that it starts.
    pub(crate) fn join(&self) -> String {
        format!("echo $$ > {}", self.0.join("cgroup.procs").display())
    }

    /// A process that takes so much of it until it is dropped.
    pub(crate) fn hog(&self, mib: u64) -> Hog {
        // It has read all of it before it writes, and nobody reads.
        let script = format!("{}; exec dd if=/dev/zero bs={mib}M count=1", self.join());
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Hog(command.spawn().expect("a shell"))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The daemon's own processes end when it has.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        say(&format!("{} is left", self.0.display()));
    }
}

/// See [`MemoryGroup::hog`].
#[derive(Debug)]
pub(crate) struct Hog(Child);

impl Drop for Hog {
    fn drop(&mut self) {
        // One that ended by itself is gone, too.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
