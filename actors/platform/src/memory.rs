//! How much memory there is, how much of it could be had, and how hard it is to get some.

#[cfg(any(target_os = "linux", test))]
mod groups;
mod mapped;
mod pressure;
mod process;

use std::io;
use std::path::PathBuf;

pub use mapped::resident_bytes_of;
pub use pressure::{MemoryPressure, PressureLevel, Stall, pressure, refaulted_bytes};
pub use process::{ProcessMemory, process};

/// Memory inside a limit: the machine's own, or that of a control group which this process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineMemory {
    /// All that there is inside the limit: physical memory, or what the group may have.
    pub total_bytes: u64,
    /// What could be had without swapping.
    pub available_bytes: u64,
    /// How much of the available memory holds pages of files now. Whoever needs such pages all the time, as the engine
    /// needs its mapped weights, has to take them off what is available.
    pub file_cache_bytes: u64,
    /// Whose limit it is.
    pub limit: Limit,
}

/// What bounds memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The machine has no more.
    Machine,
    /// A control group of Linux, this process' own or one above it, by its directory.
    Group(PathBuf),
}

impl MachineMemory {
    /// The available share, 0 to 100.
    pub fn free_percent(&self) -> u64 {
        let percent = u128::from(self.available_bytes) * 100;
        let percent = percent.checked_div(u128::from(self.total_bytes));
        percent.map_or(0, |percent| percent.try_into().unwrap_or(u64::MAX))
    }
}

/// Memory inside the limit that leaves least of it, the machine's own or a control group's.
///
/// # Errors
/// When the system does not say, or says it in a form not known here.
pub fn machine() -> io::Result<MachineMemory> {
    let least = limits()?.into_iter().min_by_key(|memory| memory.available_bytes);
    least.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no limit of memory was found"))
}

/// Memory inside each of the limits that hold for this process, the machine's own first, then those of control groups,
/// from its own up. What is taken is taken from all of them; which one is hit first depends on how much each must keep
/// free, and so whoever decides looks at all.
///
/// # Errors
/// When the system does not say how much the machine has, or in a form not known here. A group that does not say is
/// left out: its limit holds all the same, but nothing can be done before it is met.
pub fn limits() -> io::Result<Vec<MachineMemory>> {
    system::limits()
}

/// What this process has in physical memory, mapped files among it.
///
/// # Errors
/// When the system does not say, or says it in a form not known here.
pub fn resident_bytes() -> io::Result<u64> {
    process(std::process::id()).map(|memory| memory.resident_bytes())
}

#[cfg(target_os = "linux")]
mod system {
    use super::{MachineMemory, groups, io, parse_meminfo};

    pub(super) fn limits() -> io::Result<Vec<MachineMemory>> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        let machine = parse_meminfo(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/meminfo has no MemTotal and MemAvailable",
            )
        })?;
        let groups = groups::limits(machine.total_bytes, &|path| std::fs::read_to_string(path).ok());
        Ok(std::iter::once(machine).chain(groups).collect())
    }
}

#[cfg(target_os = "macos")]
mod system {
    use super::{Limit, MachineMemory, io};

    /// `kern.memorystatus_level` is the share of memory, in percent, that the kernel counts as
    /// available; it is what the system's own memory pressure is derived from. Pages of files are
    /// among it, how many of them it does not say.
    pub(super) fn limits() -> io::Result<Vec<MachineMemory>> {
        let total_bytes: u64 = sysctl("hw.memsize")?;
        let percent: u64 = sysctl("kern.memorystatus_level")?;
        let available_bytes = total_bytes / 100 * percent.min(100);
        Ok(vec![MachineMemory {
            total_bytes,
            available_bytes,
            file_cache_bytes: available_bytes,
            limit: Limit::Machine,
        }])
    }

    /// Asks the `sysctl` program: a process a reading, but no foreign calls; the governor reads
    /// every few seconds.
    pub(super) fn sysctl(name: &str) -> io::Result<u64> {
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
    use super::{MachineMemory, io, unsupported};

    pub(super) fn limits() -> io::Result<Vec<MachineMemory>> {
        Err(unsupported())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "memory is measured on Linux and macOS only",
    )
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

/// A line such as `active_file 4096`.
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "the parser is tested on every system")
)]
fn counter(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "the parser is tested on every system")
)]
fn parse_meminfo(text: &str) -> Option<MachineMemory> {
    let file = |name| field(text, name).unwrap_or(0);
    Some(MachineMemory {
        total_bytes: field(text, "MemTotal")?,
        available_bytes: field(text, "MemAvailable")?,
        file_cache_bytes: file("Active(file)").saturating_add(file("Inactive(file)")),
        limit: Limit::Machine,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn linux_meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:       16000 kB\nMemFree:  1 kB\nMemAvailable:    4000 kB\n\
            Active(file):   2000 kB\nInactive(file):   1000 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!(
            memory,
            MachineMemory {
                total_bytes: 16_384_000,
                available_bytes: 4_096_000,
                file_cache_bytes: 3_072_000,
                limit: Limit::Machine,
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
        let limits = limits().unwrap();
        assert_eq!(limits.first().map(|memory| &memory.limit), Some(&Limit::Machine));
        for memory in limits {
            assert!(memory.total_bytes >= memory.available_bytes, "{memory:?}");
        }
        assert!(machine().unwrap().available_bytes > 0);
    }

    proptest! {
        #[test]
        fn whatever_the_system_says_is_read_without_harm(text in "(MemTotal|MemAvailable|\\PC|[:0-9 kB\n])*") {
            parse_meminfo(&text);
            counter(&text, "MemTotal");
        }

        #[test]
        fn a_share_is_a_share_of_any_memory(total_bytes: u64, available_bytes: u64) {
            let available_bytes = available_bytes.min(total_bytes);
            let memory = MachineMemory { total_bytes, available_bytes, file_cache_bytes: 0, limit: Limit::Machine };
            prop_assert!(memory.free_percent() <= 100);
        }
    }
}
