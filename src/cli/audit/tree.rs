//! What is in the data directory, and what others may do with it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// More than ever are there; what is beyond is somebody else's.
const MAX_ENTRIES: usize = 20_000;
const MAX_DEPTH: usize = 12;

/// All that others could do.
const ANYTHING: u32 = 0o077;
const WRITING: u32 = 0o022;
const OTHERS: u32 = 0o007;
const ENTERING: u32 = 0o001;

/// What models are made of, and what devices are given, is no secret.
const PUBLIC: [&str; 4] = ["models", "packed", "certs/ca.pem", "certs/server.pem"];

/// The data directory and all below it; nothing where there is none.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    /// The directory itself first, each directory before what is in it.
    pub(super) entries: Vec<Entry>,
    /// What could not be looked into.
    pub(super) unread: Vec<(PathBuf, io::Error)>,
}

/// A file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the data directory on; empty for itself.
    pub(super) below: PathBuf,
    pub(super) kind: Kind,
    /// Its permission bits.
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    /// Whether other users can come to where it is.
    pub(super) is_reachable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    /// Sockets and pipes.
    Other,
}

impl Tree {
    /// Links are not followed: what they lead to is not kept here.
    pub(super) fn of(root: &Path) -> Tree {
        let mut tree = Tree {
            root: root.to_path_buf(),
            entries: Vec::new(),
            unread: Vec::new(),
        };
        if let Ok(metadata) = fs::metadata(root) {
            tree.take(PathBuf::new(), &metadata, true, 0);
        }
        tree
    }

    /// In whose name the daemon runs, as far as its files tell.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        self.entries.first().map(|root| (root.user, root.group))
    }

    pub(super) fn path(&self, entry: &Entry) -> PathBuf {
        if entry.below.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(&entry.below)
        }
    }

    fn take(&mut self, below: PathBuf, metadata: &fs::Metadata, is_reachable: bool, depth: usize) {
        if metadata.is_symlink() || self.entries.len() >= MAX_ENTRIES {
            return;
        }
        let entry = Entry {
            kind: match metadata.file_type() {
                kind if kind.is_dir() => Kind::Directory,
                kind if kind.is_file() => Kind::File,
                _ => Kind::Other,
            },
            below,
            mode: metadata.permissions().mode() & 0o777,
            user: metadata.uid(),
            group: metadata.gid(),
            is_reachable,
        };
        let can_enter = is_reachable && entry.mode & ENTERING != 0;
        let (is_directory, path) = (entry.kind == Kind::Directory, self.path(&entry));
        let below = entry.below.clone();
        self.entries.push(entry);
        if !is_directory || depth >= MAX_DEPTH {
            return;
        }
        let listed = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        match listed {
            Ok(mut listed) => {
                // In an order of their own, so that two audits say the same.
                listed.sort_by_key(fs::DirEntry::file_name);
                for inner in listed {
                    // What is gone since is no trouble.
                    if let Ok(metadata) = inner.metadata() {
                        self.take(below.join(inner.file_name()), &metadata, can_enter, depth + 1);
                    }
                }
            }
            Err(error) => self.unread.push((path, error)),
        }
    }
}

impl Entry {
    pub(super) fn is_root(&self) -> bool {
        self.below.as_os_str().is_empty()
    }

    /// Whoever reads it is the hub, or one of its devices; the daemon itself does not start where that could be.
    pub(super) fn is_key(&self) -> bool {
        let name = self.below.file_name().unwrap_or_default().to_string_lossy();
        self.below.starts_with("keys") || (self.below.starts_with("certs") && name.contains("key"))
    }

    fn is_secret(&self) -> bool {
        let name = self.below.to_string_lossy();
        self.is_root() || self.is_key() || self.kind == Kind::Other || name.starts_with("store.redb")
    }

    /// What of its mode must go.
    pub(super) fn excess(&self) -> u32 {
        let forbidden = if self.is_secret() {
            ANYTHING
        } else if self.is_reachable && !PUBLIC.iter().any(|public| self.below.starts_with(public)) {
            WRITING | OTHERS
        } else {
            WRITING
        };
        self.mode & forbidden
    }

    /// What it should be.
    pub(super) fn right_mode(&self) -> u32 {
        self.mode & !self.excess()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(below: &str, kind: Kind, mode: u32, is_reachable: bool) -> Entry {
        Entry {
            below: PathBuf::from(below),
            kind,
            mode,
            user: 1000,
            group: 1000,
            is_reachable,
        }
    }

    #[test]
    fn secrets_are_for_their_owner_and_the_rest_is_only_not_to_be_written_by_others() {
        for (below, kind, mode, is_reachable, right) in [
            ("", Kind::Directory, 0o755, true, 0o700),
            ("", Kind::Directory, 0o700, true, 0o700),
            ("keys", Kind::Directory, 0o750, true, 0o700),
            ("keys/master.key", Kind::File, 0o644, false, 0o600),
            ("certs/ca-key.pem", Kind::File, 0o640, false, 0o600),
            ("certs/server-key.next.pem", Kind::File, 0o604, false, 0o600),
            ("certs/ca.pem", Kind::File, 0o644, true, 0o644),
            ("certs/ca.pem", Kind::File, 0o664, true, 0o644),
            ("store.redb", Kind::File, 0o644, false, 0o600),
            ("clawdbot.sock", Kind::Other, 0o666, false, 0o600),
            ("models/a/model.gguf", Kind::File, 0o644, true, 0o644),
            ("packed", Kind::Directory, 0o777, true, 0o755),
            ("clawdbot.toml", Kind::File, 0o644, false, 0o644),
            ("clawdbot.toml", Kind::File, 0o644, true, 0o640),
            ("clawdbot.toml", Kind::File, 0o666, false, 0o644),
            ("backups", Kind::Directory, 0o755, true, 0o750),
        ] {
            let entry = entry(below, kind, mode, is_reachable);
            assert_eq!(entry.right_mode(), right, "{entry:?} {:o}", entry.right_mode());
        }
    }

    #[test]
    fn what_is_behind_a_closed_directory_cannot_be_reached_and_links_are_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        fs::create_dir_all(root.join("open/inner")).unwrap();
        fs::create_dir_all(root.join("closed")).unwrap();
        fs::write(root.join("closed/file"), "").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        set(&root.join("open"), 0o755);
        set(&root.join("closed"), 0o750);
        set(&root, 0o711);
        let reachable = |tree: &Tree, below: &str| {
            let mut entries = tree.entries.iter();
            entries
                .find(|entry| entry.below == Path::new(below))
                .map(|entry| entry.is_reachable)
        };
        let tree = Tree::of(&root);
        assert!(tree.entries[0].is_root());
        assert_eq!(reachable(&tree, "open/inner"), Some(true));
        assert_eq!(reachable(&tree, "closed"), Some(true));
        assert_eq!(reachable(&tree, "closed/file"), Some(false));
        assert_eq!(reachable(&tree, "link"), None);
        set(&root, 0o700);
        assert_eq!(reachable(&Tree::of(&root), "open/inner"), Some(false));
        assert!(Tree::of(&temp.path().join("nothing")).entries.is_empty());
    }
}
