//! The limits of control groups, of both versions of them, and of both at once: a hybrid system has the memory
//! controller in the first and a second without one, or with it. Each file that is not there is a limit that is not
//! there.
//!
//! Files are read through a function, so that whole trees of them can be tested.

use std::path::{Component, Path, PathBuf};

use super::{Limit, MachineMemory, counter};

/// Gives a file's text, if it can be read.
pub(super) type Read<'r> = &'r dyn Fn(&Path) -> Option<String>;

/// Which of the two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// A hierarchy for each controller.
    One,
    /// One for all.
    Two,
}

/// A hierarchy of groups as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group that is seen at the mount point.
    root: PathBuf,
    point: PathBuf,
    /// Controllers, among other options; the second version does not name its own there.
    options: String,
}

/// Memory inside each group, from this process' own up, whose limit is lower than what the machine has.
pub(super) fn limits(machine_bytes: u64, read: Read<'_>) -> Vec<MachineMemory> {
    let of_version = |version| {
        let inside = move |directory: &PathBuf| inside(version, directory, machine_bytes, read);
        directories(version, read)
            .into_iter()
            .filter_map(move |directory| inside(&directory))
    };
    of_version(Version::One).chain(of_version(Version::Two)).collect()
}

/// The directories of this process' group and of those above it, up to where they are seen.
pub(super) fn directories(version: Version, read: Read<'_>) -> Vec<PathBuf> {
    let found = || {
        let group = own_group(&read(Path::new("/proc/self/cgroup"))?, version)?;
        let mounts = parse_mounts(&read(Path::new("/proc/self/mountinfo"))?);
        let mount = mounts
            .into_iter()
            .find(|mount| mount.version == version && (version == Version::Two || mount.has("memory")))?;
        Some(mount.directories_of(&group))
    };
    found().unwrap_or_default()
}

fn inside(version: Version, directory: &Path, machine_bytes: u64, read: Read<'_>) -> Option<MachineMemory> {
    let number = |name: &str| -> Option<u64> { read(&directory.join(name))?.trim().parse().ok() };
    let (limit, used, prefix) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        Version::Two => ("memory.max", "memory.current", ""),
    };
    // Above `memory.high` a group is made to wait and its pages are taken: nobody is killed there, but nothing goes on.
    let soft = || number("memory.high").filter(|_| version == Version::Two);
    let total_bytes = number(limit).into_iter().chain(soft()).min()?;
    if total_bytes >= machine_bytes {
        return None;
    }
    let used_bytes = number(used)?;
    // Both lists of file pages, as the kernel does it for MemAvailable: pages that are in use, such as mapped weights, are
    // found on the active one, and they are given up in need all the same.
    let stat = read(&directory.join("memory.stat")).unwrap_or_default();
    let file = |list: &str| counter(&stat, &format!("{prefix}{list}_file")).unwrap_or(0);
    let file_bytes = file("active").saturating_add(file("inactive")).min(used_bytes);
    let available_bytes = total_bytes.saturating_sub(used_bytes - file_bytes);
    Some(MachineMemory {
        total_bytes,
        available_bytes,
        // Less than all of them only where a limit was set below what is used.
        file_cache_bytes: file_bytes.min(available_bytes),
        limit: Limit::Group(directory.to_owned()),
    })
}

/// The group that `/proc/self/cgroup` names, for the memory controller or for all.
fn own_group(text: &str, version: Version) -> Option<PathBuf> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = match version {
            Version::One => controllers.split(',').any(|controller| controller == "memory"),
            Version::Two => hierarchy == "0" && controllers.is_empty(),
        };
        (wanted && path.starts_with('/')).then(|| PathBuf::from(path))
    };
    text.lines().find_map(of_line)
}

/// The hierarchies that `/proc/self/mountinfo` names.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let of_line = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => return None,
        };
        Some(Mount {
            version,
            root: unescaped(place.next()?),
            point: unescaped(place.next()?),
            options: kind.nth(1)?.to_owned(),
        })
    };
    text.lines().filter_map(of_line).collect()
}

impl Mount {
    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    /// In a container the group may be named from outside it, where its directory is not seen; what is seen then at the
    /// mount point is the container's own group, as near as one gets.
    fn directories_of(&self, group: &Path) -> Vec<PathBuf> {
        let leaves = |component| component == Component::ParentDir;
        let below = group
            .strip_prefix(&self.root)
            .ok()
            .filter(|below| !below.components().any(leaves));
        let own = below.map_or_else(|| self.point.clone(), |below| self.point.join(below));
        let seen = own
            .ancestors()
            .take_while(|directory| directory.starts_with(&self.point));
        // Joined with nothing a path gets a slash at its end, which its ancestors do not have.
        seen.map(|directory| directory.components().collect()).collect()
    }
}

/// Blanks and the like are written there as three octal digits behind a backslash.
fn unescaped(path: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
