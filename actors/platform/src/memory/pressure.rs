//! How hard it is to get memory: the kernel's own word for it, and the pages that were given up too early.

#[cfg(any(target_os = "linux", test))]
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(any(target_os = "linux", test))]
use super::groups::{Read, Version, directories};

/// How hard it is to get memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryPressure {
    /// Linux: the time that tasks lost by waiting for memory: those of this process' control group where groups tell it, else
    /// those of the machine. A neighbour that is at odds with a limit of its own is not our concern.
    Stalls {
        /// Some task waited.
        some: Stall,
        /// No task did anything but wait.
        full: Stall,
    },
    /// macOS: its judgement.
    Level(PressureLevel),
}

/// Time lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Share of the last ten seconds, in percent.
    pub avg10_percent: f32,
    /// All since the start.
    pub total: Duration,
}

/// The levels of macOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PressureLevel {
    /// Nothing is wrong.
    Normal,
    /// Programs are asked to give back what they can do without.
    Warning,
    /// Programs will be ended.
    Critical,
}

/// The pressure of now. None where the kernel does not tell it.
pub fn pressure() -> Option<MemoryPressure> {
    system::pressure()
}

/// Bytes of files that were given up and had to be read again, since the start: what grows when mapped weights do not fit.
/// Those of this process' control group where groups tell it, else those of the machine. None where the kernel does not
/// count them.
pub fn refaulted_bytes() -> Option<u64> {
    system::refaulted_bytes()
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::path::Path;

    use super::super::groups::Read;
    use super::{MemoryPressure, refaulted_pages, stalls};

    const READ: Read<'static> = &|path: &Path| fs::read_to_string(path).ok();

    pub(super) fn pressure() -> Option<MemoryPressure> {
        stalls(READ)
    }

    pub(super) fn refaulted_bytes() -> Option<u64> {
        refaulted_pages(READ)?.checked_mul(rustix::param::page_size() as u64)
    }
}

#[cfg(target_os = "macos")]
mod system {
    use super::super::system::sysctl;
    use super::{MemoryPressure, level};

    pub(super) fn pressure() -> Option<MemoryPressure> {
        let number = sysctl("kern.memorystatus_vm_pressure_level").ok()?;
        level(number).map(MemoryPressure::Level)
    }

    pub(super) fn refaulted_bytes() -> Option<u64> {
        None
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    use super::MemoryPressure;

    pub(super) fn pressure() -> Option<MemoryPressure> {
        None
    }

    pub(super) fn refaulted_bytes() -> Option<u64> {
        None
    }
}

#[cfg(any(target_os = "linux", test))]
fn stalls(read: Read<'_>) -> Option<MemoryPressure> {
    let of_group = || parse_stalls(&read(&own_group(Version::Two, read)?.join("memory.pressure"))?);
    let of_machine = || parse_stalls(&read(Path::new("/proc/pressure/memory"))?);
    let (some, full) = of_group().or_else(of_machine)?;
    Some(MemoryPressure::Stalls { some, full })
}

#[cfg(any(target_os = "linux", test))]
fn refaulted_pages(read: Read<'_>) -> Option<u64> {
    let of_group = |version| parse_refaults(&read(&own_group(version, read)?.join("memory.stat"))?, version);
    // Of all groups, and by the key of the second version as well.
    let of_machine = || parse_refaults(&read(Path::new("/proc/vmstat"))?, Version::Two);
    of_group(Version::Two)
        .or_else(|| of_group(Version::One))
        .or_else(of_machine)
}

#[cfg(any(target_os = "linux", test))]
fn own_group(version: Version, read: Read<'_>) -> Option<PathBuf> {
    directories(version, read).into_iter().next()
}

/// The two lines of a pressure file, `some` and `full`.
#[cfg(any(target_os = "linux", test))]
fn parse_stalls(text: &str) -> Option<(Stall, Stall)> {
    let stall = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let value = |key: &str| {
            line.split_whitespace()
                .find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
        };
        let avg10_percent: f32 = value("avg10")?.parse().ok()?;
        Some(Stall {
            avg10_percent: Some(avg10_percent).filter(|percent| percent.is_finite())?,
            total: Duration::from_micros(value("total")?.parse().ok()?),
        })
    };
    Some((stall("some")?, stall("full")?))
}

/// Pages of files, by the name of newer kernels, which count those of the swap beside them, or of older ones. Groups of
/// the first version count those below them in a line of its own.
#[cfg(any(target_os = "linux", test))]
fn parse_refaults(text: &str, version: Version) -> Option<u64> {
    let names = match version {
        Version::One => ["total_workingset_refault_file", "total_workingset_refault"],
        Version::Two => ["workingset_refault_file", "workingset_refault"],
    };
    names.into_iter().find_map(|name| super::counter(text, name))
}

/// By the numbers of `kern.memorystatus_vm_pressure_level`, which are those of the kernel's dispatch source.
#[cfg(any(target_os = "macos", test))]
fn level(number: u64) -> Option<PressureLevel> {
    match number {
        1 => Some(PressureLevel::Normal),
        2 => Some(PressureLevel::Warning),
        4 => Some(PressureLevel::Critical),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUIET: &str =
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    const BUSY: &str = "some avg10=12.34 avg60=5.00 avg300=1.10 total=98765432\n\
        full avg10=3.50 avg60=1.00 avg300=0.20 total=1500000\n";

    fn busy() -> MemoryPressure {
        let stall = |avg10_percent, micros| Stall {
            avg10_percent,
            total: Duration::from_micros(micros),
        };
        MemoryPressure::Stalls {
            some: stall(12.34, 98_765_432),
            full: stall(3.5, 1_500_000),
        }
    }

    /// A process in a group of the second version, and what the machine and the group say.
    fn reader(files: [(&'static str, &'static str); 2]) -> impl Fn(&Path) -> Option<String> {
        const PLACE: [(&str, &str); 2] = [
            ("/proc/self/cgroup", "0::/hub.slice/hub.service\n"),
            (
                "/proc/self/mountinfo",
                "29 22 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
        ];
        move |path| {
            let mut all = PLACE.into_iter().chain(files);
            all.find_map(|(of, text)| (path == Path::new(of)).then(|| text.to_owned()))
        }
    }

    #[test]
    fn stalls_are_the_group_s_where_it_tells_them_and_else_the_machine_s() {
        let group = "/sys/fs/cgroup/hub.slice/hub.service/memory.pressure";
        let reader = |machine, in_group| reader([("/proc/pressure/memory", machine), (group, in_group)]);
        assert_eq!(stalls(&reader(QUIET, BUSY)), Some(busy()));
        assert_eq!(stalls(&reader(BUSY, "")), Some(busy()));
        assert_ne!(stalls(&reader(BUSY, QUIET)), Some(busy()));
        assert_eq!(stalls(&|_| None), None);
    }

    #[test]
    fn refaults_are_found_by_their_new_and_their_old_name() {
        let new = "workingset_nodes 7\nworkingset_refault_anon 1\nworkingset_refault_file 89880\n";
        assert_eq!(parse_refaults(new, Version::Two), Some(89_880));
        assert_eq!(parse_refaults("workingset_refault 12\n", Version::Two), Some(12));
        assert_eq!(parse_refaults("workingset_refault_anon 1\n", Version::Two), None);
        let stat = include_str!("fixtures/hybrid/memory.stat");
        assert_eq!(parse_refaults(stat, Version::One), Some(11_380));
    }

    #[test]
    fn refaults_are_the_group_s_where_it_tells_them_and_else_the_machine_s() {
        let group = "/sys/fs/cgroup/hub.slice/hub.service/memory.stat";
        let reader = |machine, in_group| reader([("/proc/vmstat", machine), (group, in_group)]);
        let (machine, in_group) = (
            "workingset_refault_file 9\n",
            "anon 1\nworkingset_refault_file 2\n",
        );
        assert_eq!(refaulted_pages(&reader(machine, in_group)), Some(2));
        assert_eq!(refaulted_pages(&reader(machine, "anon 1\n")), Some(9));
        assert_eq!(refaulted_pages(&reader("", "")), None);
    }

    #[test]
    fn the_levels_of_macos_are_known_and_in_order() {
        assert_eq!(
            [1, 2, 4].map(level),
            [
                PressureLevel::Normal,
                PressureLevel::Warning,
                PressureLevel::Critical
            ]
            .map(Some)
        );
        assert!(
            [0, 3, 5, u64::MAX]
                .into_iter()
                .all(|number| level(number).is_none())
        );
        assert!(
            PressureLevel::Normal < PressureLevel::Warning
                && PressureLevel::Warning < PressureLevel::Critical
        );
    }

    proptest! {
        #[test]
        fn whatever_a_kernel_writes_is_read_without_harm(text in "(some|full|avg10=|total=|workingset_refault|[0-9.\\- \n]|\\PC)*") {
            if let Some((some, full)) = parse_stalls(&text) {
                prop_assert!(some.avg10_percent.is_finite() && full.avg10_percent.is_finite());
            }
            parse_refaults(&text, Version::Two);
        }

        #[test]
        fn stalls_are_read_as_they_were_written(some in 0_u32..10_000, full in 0_u32..10_000, total: u32) {
            let line = |name, share: u32| {
                format!("{name} avg10={}.{:02} avg60=0.00 avg300=0.00 total={total}\n", share / 100, share % 100)
            };
            let (read_some, read_full) = parse_stalls(&(line("some", some) + &line("full", full))).unwrap();
            for (read, written) in [(read_some, some), (read_full, full)] {
                prop_assert!((read.avg10_percent * 100.0 - written as f32).abs() < 0.01);
                prop_assert_eq!(read.total, Duration::from_micros(total.into()));
            }
        }
    }
}
