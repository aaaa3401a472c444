//! How much memory the machine has, and how much of it could be had.

use std::io;

/// The machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineMemory {
    /// Physical memory.
    pub total_bytes: u64,
    /// What could be had without swapping.
    pub available_bytes: u64,
}

impl MachineMemory {
    /// The available share, 0 to 100.
    pub fn free_percent(self) -> u64 {
        self.available_bytes
            .saturating_mul(100)
            .checked_div(self.total_bytes)
            .unwrap_or(0)
    }
}

/// Measures it.
///
/// # Errors
/// When the system does not say, or says it in a form not known here.
pub fn machine() -> io::Result<MachineMemory> {
    system::machine()
}

/// What this process has in physical memory, mapped files among it.
///
/// # Errors
/// When the system does not say, or says it in a form not known here.
pub fn resident_bytes() -> io::Result<u64> {
    system::resident_bytes()
}

#[cfg(target_os = "linux")]
mod system {
    use super::{MachineMemory, field, io, parse_meminfo};

    pub(super) fn resident_bytes() -> io::Result<u64> {
        let text = std::fs::read_to_string("/proc/self/status")?;
        field(&text, "VmRSS")
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status has no VmRSS"))
    }

    pub(super) fn machine() -> io::Result<MachineMemory> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        parse_meminfo(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/meminfo has no MemTotal and MemAvailable",
            )
        })
    }
}

#[cfg(target_os = "macos")]
mod system {
    use super::{MachineMemory, io};

    /// `kern.memorystatus_level` is the share of memory, in percent, that the kernel counts as
    /// available; it is what the system's own memory pressure is derived from.
    pub(super) fn machine() -> io::Result<MachineMemory> {
        let total_bytes: u64 = sysctl("hw.memsize")?;
        let percent: u64 = sysctl("kern.memorystatus_level")?;
        Ok(MachineMemory {
            total_bytes,
            available_bytes: total_bytes / 100 * percent.min(100),
        })
    }

    /// Asks the `ps` program, for the reason that is given below.
    pub(super) fn resident_bytes() -> io::Result<u64> {
        let own = std::process::id().to_string();
        let output = std::process::Command::new("/bin/ps")
            .args(["-o", "rss=", "-p", &own])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let kibibytes: Option<u64> = text.trim().parse().ok();
        kibibytes
            .and_then(|kibibytes| kibibytes.checked_mul(1024))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("ps said {text:?}")))
    }

    /// Asks the `sysctl` program: a process a reading, but no foreign calls; the governor reads
    /// every few seconds.
    fn sysctl(name: &str) -> io::Result<u64> {
        let output = std::process::Command::new("/usr/sbin/sysctl")
            .args(["-n", name])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim()
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("sysctl {name} said {text:?}")))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    use super::{MachineMemory, io};

    pub(super) fn machine() -> io::Result<MachineMemory> {
        Err(unsupported())
    }

    pub(super) fn resident_bytes() -> io::Result<u64> {
        Err(unsupported())
    }

    fn unsupported() -> io::Error {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "memory is measured on Linux and macOS only",
        )
    }
}

/// A line such as `MemTotal:  16000 kB`, in bytes.
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "the parser is tested on every system")
)]
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "the parser is tested on every system")
)]
fn parse_meminfo(text: &str) -> Option<MachineMemory> {
    Some(MachineMemory {
        total_bytes: field(text, "MemTotal")?,
        available_bytes: field(text, "MemAvailable")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:       16000 kB\nMemFree:  1 kB\nMemAvailable:    4000 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!(
            memory,
            MachineMemory {
                total_bytes: 16_384_000,
                available_bytes: 4_096_000
            }
        );
        assert_eq!(memory.free_percent(), 25);
        assert_eq!(parse_meminfo("MemTotal: x kB"), None);
    }

    #[test]
    fn this_process_has_what_it_wrote_to() {
        let before = resident_bytes().unwrap();
        let written = vec![1_u8; 64 << 20];
        let after = resident_bytes().unwrap();
        assert!(after >= before + (60 << 20), "{before} {after} {}", written.len());
    }

    #[test]
    fn this_machine_has_memory_and_some_of_it_is_free() {
        let memory = machine().unwrap();
        assert!(memory.total_bytes >= memory.available_bytes && memory.available_bytes > 0);
    }
}
