//! What is mounted where, and whether the disk beneath is encrypted.

use std::fs;
use std::path::{Path, PathBuf};

use super::programs::Programs;

/// How many layers (logical volumes on RAID on encryption) are looked through.
const MAX_LAYERS: usize = 8;

/// A file system that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    at: PathBuf,
    /// As the system calls it: `ext4`, `apfs`, `nfs4`.
    pub(super) kind: String,
    /// What is mounted.
    pub(super) source: String,
    /// The number of its device, on Linux.
    device: String,
}

/// The one that a path is on. On macOS the program `mount` says it, by the form that its manual page tells of.
pub(super) fn of(programs: &Programs, path: &Path) -> Option<Mount> {
    let mounts = if cfg!(target_os = "macos") {
        of_program(&programs.ask("mount", &[])?.text)
    } else {
        of_mountinfo(&fs::read_to_string("/proc/self/mountinfo").ok()?)
    };
    holding(mounts, path)
}

/// The deepest, and of several at one place the last, which hides the others.
fn holding(mounts: Vec<Mount>, path: &Path) -> Option<Mount> {
    let mounts = mounts.into_iter().filter(|mount| path.starts_with(&mount.at));
    mounts.max_by_key(|mount| mount.at.components().count())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, see proc_pid_mountinfo(5).
fn of_mountinfo(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (place, system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(2);
        let (device, at) = (place.next()?, place.nth(1)?);
        let mut system = system.split(' ');
        Some(Mount {
            at: PathBuf::from(unescaped(at)),
            kind: system.next()?.to_owned(),
            source: unescaped(system.next()?),
            device: device.to_owned(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// `//anna@nas/share on /Volumes/share (smbfs, nodev, nosuid, mounted by anna)`.
fn of_program(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (rest, options) = line.rsplit_once(" (")?;
        let (source, at) = rest.split_once(" on ")?;
        Some(Mount {
            at: PathBuf::from(at),
            kind: options.split([',', ')']).next()?.trim().to_owned(),
            source: source.to_owned(),
            device: String::new(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Blanks and the like stand there as `\040`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..3);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                plain.extend(part.as_bytes().iter().skip(3));
            }
            None => {
                plain.push(b'\\');
                plain.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Whether a device is one of dm-crypt's, or lies on nothing but such; nothing where it is no disk of this system.
pub(super) fn is_encrypted(sys: &Path, mount: &Mount) -> Option<bool> {
    let by_number = sys.join("dev/block").join(&mount.device);
    // Some file systems (btrfs, ZFS) have a device of their own, which is none.
    let by_name = || {
        let real = fs::canonicalize(&mount.source).ok()?;
        Some(sys.join("class/block").join(real.file_name()?))
    };
    let device = Some(by_number).filter(|device| device.exists());
    let device = device.or_else(|| by_name().filter(|device| device.exists()))?;
    Some(is_on_crypt(&device, MAX_LAYERS))
}

fn is_on_crypt(device: &Path, layers: usize) -> bool {
    let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if uuid.starts_with("CRYPT-") {
        return true;
    }
    let beneath: Vec<PathBuf> = fs::read_dir(device.join("slaves"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    layers > 0 && !beneath.is_empty() && beneath.iter().all(|device| is_on_crypt(device, layers - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:22 / /proc rw,nosuid - proc proc rw
40 21 0:50 / /mnt/my\\040share rw,relatime shared:9 - nfs4 nas:/export rw,vers=4.2
41 21 8:1 / /mnt rw - xfs /dev/sda1 rw
";

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let kind = |path: &str| holding(of_mountinfo(MOUNTINFO), Path::new(path)).unwrap().kind;
        assert_eq!(kind("/home/anna"), "ext4");
        assert_eq!(kind("/mnt"), "xfs");
        assert_eq!(kind("/mnt/my share/data"), "nfs4");
        assert_eq!(kind("/mnt/my shared"), "xfs");
    }

    #[test]
    fn what_the_program_of_macos_says_is_read() {
        let said = "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n\
            /dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled)\n\
            //anna@nas._smb._tcp.local/My%20Share on /Volumes/My Share (smbfs, nodev, nosuid, mounted by anna)\n";
        let held = holding(of_program(said), Path::new("/Volumes/My Share/hub")).unwrap();
        assert_eq!(held.kind, "smbfs");
        let held = holding(of_program(said), Path::new("/Users/anna")).unwrap();
        assert_eq!(
            (held.kind.as_str(), held.source.as_str()),
            ("apfs", "/dev/disk3s1s1")
        );
    }

    #[test]
    fn encryption_is_found_beneath_other_layers() {
        let sys = tempfile::tempdir().unwrap();
        let device = |number: &str, uuid: &str, beneath: &[&str]| {
            let path = sys.path().join("dev/block").join(number);
            fs::create_dir_all(path.join("dm")).unwrap();
            fs::create_dir_all(path.join("slaves")).unwrap();
            fs::write(path.join("dm/uuid"), uuid).unwrap();
            for other in beneath {
                let target = sys.path().join("dev/block").join(other);
                std::os::unix::fs::symlink(target, path.join("slaves").join(other)).unwrap();
            }
        };
        device("8:1", "", &[]);
        device("253:0", "CRYPT-LUKS2-abc-root\n", &["8:1"]);
        device("253:1", "LVM-xyz\n", &["253:0"]);
        device("253:2", "LVM-xyz\n", &["253:0", "8:1"]);
        let on = |number: &str| {
            let line = format!("21 1 {number} / / rw - ext4 /nowhere rw\n");
            let mount = of_mountinfo(&line).pop().unwrap();
            is_encrypted(sys.path(), &mount)
        };
        assert_eq!(on("8:1"), Some(false));
        assert_eq!(on("253:0"), Some(true));
        assert_eq!(on("253:1"), Some(true));
        assert_eq!(on("253:2"), Some(false));
        assert_eq!(on("0:50"), None);
    }
}
