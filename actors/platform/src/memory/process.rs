//! What a process has in memory.

use std::io;

/// What a process has in memory, by what would become of it in need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Resident and its own: there again only if it is swapped out or the process ends. On macOS all that is resident,
    /// pages of files with it, because the program that is asked there does not tell them apart.
    pub anonymous_bytes: u64,
    /// Resident pages of files: the program's own, and what it has mapped, such as packed weights. Others may have the
    /// same pages. 0 on macOS.
    pub file_bytes: u64,
    /// Swapped out. 0 on macOS.
    pub swapped_bytes: u64,
}

impl ProcessMemory {
    /// All that it has in physical memory.
    pub fn resident_bytes(self) -> u64 {
        self.anonymous_bytes.saturating_add(self.file_bytes)
    }

    /// What nobody else could have in need: its own pages, wherever they are.
    pub fn private_bytes(self) -> u64 {
        self.anonymous_bytes.saturating_add(self.swapped_bytes)
    }
}

/// Measures a process, by its id.
///
/// # Errors
/// When there is none, or the system says it in a form not known here.
pub fn process(id: u32) -> io::Result<ProcessMemory> {
    system::process(id)
}

#[cfg(target_os = "linux")]
mod system {
    use super::{ProcessMemory, io, parse_status};

    pub(super) fn process(id: u32) -> io::Result<ProcessMemory> {
        let path = format!("/proc/{id}/status");
        let text = std::fs::read_to_string(&path)?;
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("{path} has no RssAnon"));
        parse_status(&text).ok_or_else(unknown)
    }
}

#[cfg(target_os = "macos")]
mod system {
    use super::{ProcessMemory, io, parse_ps};

    /// Asks the `ps` program, for the same reason as `sysctl`.
    pub(super) fn process(id: u32) -> io::Result<ProcessMemory> {
        let output = std::process::Command::new("/bin/ps")
            .args(["-o", "rss=", "-p", &id.to_string()])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse_ps(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("ps said {text:?}")))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    use super::{ProcessMemory, io};

    pub(super) fn process(_: u32) -> io::Result<ProcessMemory> {
        Err(super::super::unsupported())
    }
}

/// A process that has ended and was not waited for yet has none of these lines.
#[cfg(any(target_os = "linux", test))]
fn parse_status(text: &str) -> Option<ProcessMemory> {
    let field = |name| super::field(text, name);
    // Shared memory has no file to which it could go.
    let anonymous_bytes = field("RssAnon")?.saturating_add(field("RssShmem").unwrap_or(0));
    Some(ProcessMemory {
        anonymous_bytes,
        file_bytes: field("RssFile").unwrap_or(0),
        swapped_bytes: field("VmSwap").unwrap_or(0),
    })
}

/// A number of KiB.
#[cfg(any(target_os = "macos", test))]
fn parse_ps(text: &str) -> Option<ProcessMemory> {
    let kibibytes: u64 = text.trim().parse().ok()?;
    Some(ProcessMemory {
        anonymous_bytes: kibibytes.checked_mul(1024)?,
        ..ProcessMemory::default()
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_is_split_by_what_would_become_of_it() {
        let text = "Name:\tclawdbot\nVmRSS:\t  104448 kB\nRssAnon:\t   51200 kB\nRssFile:\t   52224 kB\n\
            RssShmem:\t    1024 kB\nVmSwap:\t     512 kB\nThreads:\t9\n";
        let memory = parse_status(text).unwrap();
        assert_eq!(
            memory,
            ProcessMemory {
                anonymous_bytes: 52_224 << 10,
                file_bytes: 52_224 << 10,
                swapped_bytes: 512 << 10,
            }
        );
        assert_eq!(memory.resident_bytes(), 104_448 << 10);
        assert_eq!(memory.private_bytes(), 52_736 << 10);
        assert_eq!(parse_status("Name:\tclawdbot\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn ps_tells_kibibytes() {
        assert_eq!(
            parse_ps("  5120\n").map(ProcessMemory::resident_bytes),
            Some(5 << 20)
        );
        assert_eq!(parse_ps(""), None);
    }

    #[test]
    fn another_process_is_measured_and_one_that_is_gone_is_not() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = child.id();
        let memory = process(id).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(
            memory.resident_bytes() > 0 && memory.private_bytes() < 1 << 30,
            "{memory:?}"
        );
        assert!(process(id).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_said_of_a_process_is_read_without_harm(text in "(RssAnon|RssFile|VmSwap|[:0-9 kB\n]|\\PC)*") {
            parse_status(&text).map(ProcessMemory::resident_bytes);
            parse_ps(&text);
        }
    }
}
