use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const MACHINE: u64 = 16 << 30;

/// Files by their paths.
struct Files(HashMap<PathBuf, String>);

impl Files {
    /// What tells a process where it is, and nothing of any group.
    fn of(cgroup: &str, mountinfo: &str) -> Self {
        let files = [("/proc/self/cgroup", cgroup), ("/proc/self/mountinfo", mountinfo)];
        Self(
            files
                .map(|(path, text)| (path.into(), text.to_owned()))
                .into_iter()
                .collect(),
        )
    }

    fn with(mut self, directory: &str, files: &[(&str, &str)]) -> Self {
        for (name, text) in files {
            self.0.insert(Path::new(directory).join(name), (*text).to_owned());
        }
        self
    }

    fn limits(&self) -> Vec<MachineMemory> {
        limits(MACHINE, &|path| self.0.get(path).cloned())
    }
}

fn group(directory: &str, total_bytes: u64, available_bytes: u64, file_cache_bytes: u64) -> MachineMemory {
    MachineMemory {
        total_bytes,
        available_bytes,
        file_cache_bytes,
        limit: Limit::Group(directory.into()),
    }
}

#[test]
fn a_container_of_the_first_version_sees_its_own_group_at_the_mount_point() {
    let files = Files::of(
        include_str!("fixtures/v1_container/cgroup"),
        include_str!("fixtures/v1_container/mountinfo"),
    );
    assert_eq!(files.limits(), []);
    let files = files.with(
        "/sys/fs/cgroup/memory",
        &[
            ("memory.limit_in_bytes", "3221225472\n"),
            ("memory.usage_in_bytes", "2147483648\n"),
            ("memory.stat", include_str!("fixtures/v1_container/memory.stat")),
        ],
    );
    // Of 3 GiB 2 are used, of which 1.5 hold files.
    let expected = group("/sys/fs/cgroup/memory", 3072 * MIB, 2560 * MIB, 1536 * MIB);
    assert_eq!(files.limits(), [expected]);
}

#[test]
fn a_service_of_the_second_version_is_under_all_limits_above_it() {
    let stat = include_str!("fixtures/v2_service/memory.stat");
    let files = Files::of(
        include_str!("fixtures/v2_service/cgroup"),
        include_str!("fixtures/v2_service/mountinfo"),
    )
    .with(
        "/sys/fs/cgroup/system.slice/hub.slice/clawdbot.service",
        &[
            ("memory.max", "max\n"),
            ("memory.high", "4294967296\n"),
            ("memory.current", "2191523840\n"),
            ("memory.stat", stat),
        ],
    )
    .with(
        "/sys/fs/cgroup/system.slice/hub.slice",
        &[
            ("memory.max", "3221225472\n"),
            ("memory.high", "max\n"),
            ("memory.current", "3000000000\n"),
            ("memory.stat", "inactive_file 1000000000\nactive_file 0\n"),
        ],
    )
    .with("/sys/fs/cgroup/system.slice", &[("memory.max", "max\n")]);
    let cache = 1073741824 + 436207616;
    let service = "/sys/fs/cgroup/system.slice/hub.slice/clawdbot.service";
    assert_eq!(
        files.limits(),
        [
            group(service, 4 << 30, (4 << 30) - 2191523840 + cache, cache),
            group(
                "/sys/fs/cgroup/system.slice/hub.slice",
                3221225472,
                1221225472,
                1_000_000_000
            ),
        ]
    );
}

#[test]
fn a_hybrid_system_s_memory_is_in_the_first_version() {
    let own = "/sys/fs/cgroup/memory/process_api/3e64ce044fac1d8cec7fe2ff187d9596";
    let stat = include_str!("fixtures/hybrid/memory.stat");
    let files = Files::of(
        include_str!("fixtures/hybrid/cgroup"),
        include_str!("fixtures/hybrid/mountinfo"),
    );
    let unlimited = [
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.usage_in_bytes", "1000000000\n"),
        ("memory.stat", stat),
    ];
    let files = files.with(own, &unlimited);
    assert_eq!(files.limits(), [], "no limit is none");
    let files = files.with(own, &[("memory.limit_in_bytes", "2147483648\n")]);
    let cache = counter(stat, "total_inactive_file").unwrap() + counter(stat, "total_active_file").unwrap();
    assert!(cache > 0 && cache < 1_000_000_000, "{cache}");
    let expected = group(own, 2 << 30, (2 << 30) - 1_000_000_000 + cache, cache);
    assert_eq!(files.limits(), [expected]);
}

#[test]
fn a_container_with_a_view_of_its_own_has_its_limit_at_the_root() {
    let files = Files::of(
        "0::/\n",
        "749 741 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw\n",
    )
    .with(
        "/sys/fs/cgroup",
        &[("memory.max", "1073741824\n"), ("memory.current", "1073741824\n")],
    );
    assert_eq!(files.limits(), [group("/sys/fs/cgroup", 1 << 30, 0, 0)]);
}

#[test]
fn a_group_that_is_out_of_sight_is_taken_for_the_one_in_sight() {
    let mounts = "40 30 0:28 /kubepods/pod1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    for group in [
        "0::/kubepods/pod2/c\n",
        "0::/../../c\n",
        "0::/kubepods/pod1/../c\n",
    ] {
        let files = Files::of(group, mounts);
        let found = directories(Version::Two, &|path| files.0.get(path).cloned());
        assert_eq!(found, [Path::new("/sys/fs/cgroup")], "{group}");
    }
    let files = Files::of("0::/kubepods/pod1/c:1\n", mounts);
    let found = directories(Version::Two, &|path| files.0.get(path).cloned());
    assert_eq!(
        found,
        [Path::new("/sys/fs/cgroup/c:1"), Path::new("/sys/fs/cgroup")]
    );
}

#[test]
fn paths_with_blanks_are_read_as_they_are_meant() {
    assert_eq!(unescaped("/my\\040models\\134"), PathBuf::from("/my models\\"));
    assert_eq!(unescaped("/a\\04"), PathBuf::from("/a\\04"));
    let mounts = parse_mounts(include_str!("fixtures/v1_container/mountinfo"));
    assert_eq!(mounts.len(), 3);
}

proptest! {
    #[test]
    fn whatever_the_files_say_nothing_breaks(
        cgroup in prop_oneof![
            Just("4:memory:/a\n0::/a/b\n".to_owned()),
            "(0::|4:memory:|/a|/\\.\\.|[:/a-z\n]|\\PC)*",
        ],
        mountinfo in prop_oneof![
            Just("1 2 0:1 /a /b rw - cgroup2 c rw\n1 2 0:1 / /c rw - cgroup c rw,memory\n".to_owned()),
            "(1 2 0:1 |/ |/a |/b rw|\\\\[0-9]{0,3}| - cgroup2? | rw,memory|[a-z /\\-\n]|\\PC)*",
        ],
        texts in prop::collection::vec("(max|[0-9]{0,22}|total_active_file [0-9]{0,22}|inactive_file [0-9]{0,22}|\n|\\PC)*", 4),
    ) {
        let read = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            match name {
                "cgroup" => Some(cgroup.clone()),
                "mountinfo" => Some(mountinfo.clone()),
                "memory.max" | "memory.limit_in_bytes" => texts.first().cloned(),
                "memory.current" | "memory.usage_in_bytes" => texts.get(1).cloned(),
                "memory.high" => texts.get(2).cloned(),
                _ => texts.get(3).cloned(),
            }
        };
        for memory in limits(MACHINE, &read) {
            prop_assert!(memory.total_bytes < MACHINE);
            prop_assert!(memory.available_bytes <= memory.total_bytes);
            prop_assert!(memory.file_cache_bytes <= memory.available_bytes);
        }
    }

    #[test]
    fn what_a_group_has_left_is_its_limit_less_what_cannot_be_given_up(
        limit in 0..MACHINE, used in 0..2 * MACHINE, active in 0..MACHINE, inactive in 0..MACHINE,
    ) {
        let files = Files::of("0::/a\n", "1 2 0:1 / /c rw - cgroup2 cgroup2 rw\n").with(
            "/c/a",
            &[
                ("memory.max", limit.to_string().as_str()),
                ("memory.current", &used.to_string()),
                ("memory.stat", &format!("active_file {active}\ninactive_file {inactive}\n")),
            ],
        );
        let found = files.limits();
        let files = (active + inactive).min(used);
        let left = (limit + files).saturating_sub(used);
        prop_assert_eq!(found, [group("/c/a", limit, left, files.min(left))]);
    }
}
