//! Who may do what with a file, changed without being led astray: what is below a directory may belong to somebody
//! who could put a link in a file's place while root is about to change it.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Component, Path};

use rustix::fs::{Access, Mode, OFlags, access, openat};

/// The number of the user in whose name this process acts; 0 is root.
pub fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this user may write there now, for people: what is done about it is to try.
pub fn may_write(path: &Path) -> bool {
    access(path, Access::WRITE_OK).is_ok()
}

/// Sets the permission bits of what is below a directory, or of the directory itself where `below` is empty.
///
/// # Errors
/// The system's; and of what is a link, or has a second name somewhere.
pub fn set_mode(root: &Path, below: &Path, mode: u32) -> io::Result<()> {
    open_below(root, below)?.set_permissions(Permissions::from_mode(mode))
}

/// Gives what is below a directory to a user and a group.
///
/// # Errors
/// As [`set_mode`].
pub fn set_owner(root: &Path, below: &Path, user: u32, group: u32) -> io::Result<()> {
    fchown(open_below(root, below)?, Some(user), Some(group))
}

/// Level by level, through no link.
fn open_below(root: &Path, below: &Path) -> io::Result<File> {
    // A named pipe would wait for somebody at its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::open(root)?;
    for level in below.components() {
        let Component::Normal(name) = level else {
            return Err(io::Error::other("the path leads out of the directory"));
        };
        file = File::from(openat(&file, name, flags, Mode::empty())?);
    }
    let metadata = file.metadata()?;
    if !metadata.is_dir() && metadata.nlink() != 1 {
        return Err(io::Error::other("the file has another name somewhere else"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("clawdbot-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn modes_and_owners_of_files_and_directories_are_changed() {
        let root = Directory::new("files");
        let (directory, file) = (root.0.join("a"), root.0.join("a/b"));
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "").unwrap();
        set_mode(&root.0, Path::new("a/b"), 0o600).unwrap();
        set_mode(&root.0, Path::new("a"), 0o700).unwrap();
        set_mode(&root.0, Path::new(""), 0o711).unwrap();
        assert_eq!(
            [mode(&file), mode(&directory), mode(&root.0)],
            [0o600, 0o700, 0o711]
        );
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.uid(), effective_user());
        set_owner(&root.0, Path::new("a/b"), metadata.uid(), metadata.gid()).unwrap();
    }

    #[test]
    fn a_link_on_the_way_or_a_second_name_is_refused() {
        let (root, elsewhere) = (Directory::new("links"), Directory::new("elsewhere"));
        let other = elsewhere.0.join("other");
        fs::write(&other, "").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
        symlink(&other, root.0.join("link")).unwrap();
        symlink(&elsewhere.0, root.0.join("way")).unwrap();
        fs::hard_link(&other, root.0.join("second")).unwrap();
        for below in [
            "link",
            "way/other",
            "second",
            "../other",
            "/etc/passwd",
            "nothing",
        ] {
            assert!(set_mode(&root.0, Path::new(below), 0o600).is_err(), "{below}");
        }
        assert_eq!(mode(&other), 0o644);
    }
}
