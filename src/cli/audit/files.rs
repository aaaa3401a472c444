//! Who else can read or change what the hub is made of, and where it is kept.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::tree::{Entry, Kind};
use super::{Subject, mount, quoted, there, unless, where_so};
use crate::cli::report::{Examined, Finding};
use crate::settings::{MasterKeySource, PasswordSource, Settings};

/// One after the other is mended alike; the rest is counted.
const MOST_NAMED: usize = 20;

/// Parts of the paths of folders that are copied to other people's machines, in lower case.
const SYNCED: [&str; 11] = [
    "mobile documents",
    "cloudstorage",
    "icloud drive",
    "icloud~",
    "dropbox",
    "onedrive",
    "google drive",
    "googledrive",
    "nextcloud",
    "owncloud",
    "syncthing",
];

/// File systems whose files are on another machine.
const REMOTE: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afpfs",
    "webdav",
    "9p",
    "ceph",
    "afs",
    "fuse.sshfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.davfs",
];

pub(super) fn data_dir(subject: &Subject) -> Examined {
    let Some(root) = subject.tree.entries.first() else {
        return Ok("there is none yet; it will be for its owner alone".to_owned());
    };
    let findings = wrong_modes(subject, Entry::is_root);
    unless(findings, format!("for its owner alone (mode {:03o})", root.mode))
}

pub(super) fn modes(subject: &Subject) -> Examined {
    let mut findings = wrong_modes(subject, |entry| !entry.is_root());
    let more = findings.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        findings.truncate(MOST_NAMED);
        let message = format!("{more} more are open to others");
        findings.push(Finding::warning(message, "`clawdbot audit --fix` mends them all"));
    }
    findings.extend(subject.tree.unread.iter().map(|(path, error)| {
        let hint = "run the audit as the user who runs clawdbot, or as root";
        Finding::info(format!("it could not be looked into: {error}"), hint).about(path.display())
    }));
    let count = subject.tree.entries.len();
    unless(
        findings,
        format!("{count} files and directories are as they should be"),
    )
}

fn wrong_modes(subject: &Subject, which: impl Fn(&Entry) -> bool) -> Vec<Finding> {
    let tree = &subject.tree;
    let wrong = tree
        .entries
        .iter()
        .filter(|entry| which(entry) && entry.excess() != 0);
    wrong
        .map(|entry| {
            let path = tree.path(entry);
            let can = match entry.excess() {
                excess if excess & 0o022 != 0 => "changed",
                _ if entry.kind == Kind::Directory => "entered or listed",
                _ => "read",
            };
            let message = format!("other users may have it {can} (mode {:03o})", entry.mode);
            let hint = format!("chmod {:03o} {}", entry.right_mode(), quoted(&path));
            // The daemon refuses to work with these.
            let is_refused = entry.is_key() || (entry.is_root() && entry.excess() & 0o022 != 0);
            let finding = if is_refused {
                Finding::misconfigured(message, hint)
            } else {
                Finding::warning(message, hint)
            };
            finding.about(path.display())
        })
        .collect()
}

pub(super) fn owners(subject: &Subject) -> Examined {
    let tree = &subject.tree;
    let Some((user, group)) = tree.owner() else {
        return Ok("there is no data directory yet".to_owned());
    };
    let others: Vec<&Entry> = tree.entries.iter().filter(|entry| entry.user != user).collect();
    let finding = others.first().map(|first| {
        let message = format!(
            "{} of its files and directories belong to somebody else than it does (user {user}): {} to user {}",
            others.len(),
            tree.path(first).display(),
            first.user
        );
        let hint = format!("sudo chown -R {user}:{group} {}", quoted(&tree.root));
        Finding::warning(message, hint).about(tree.root.display())
    });
    unless(
        finding.into_iter().collect(),
        format!("all belong to user {user}"),
    )
}

pub(super) fn config(subject: &Subject) -> Examined {
    let Some(path) = &subject.config else {
        return Ok("there is none: the defaults hold".to_owned());
    };
    let Ok(metadata) = fs::metadata(path) else {
        return Ok("it is not there".to_owned());
    };
    let mode = metadata.permissions().mode() & 0o777;
    let mut findings = Vec::new();
    if mode & 0o022 != 0 {
        let message = format!("other users may change the settings (mode {mode:03o})");
        findings.push(Finding::misconfigured(
            message,
            format!("chmod go-w {}", quoted(path)),
        ));
    }
    let owner = subject
        .tree
        .owner()
        .map_or_else(platform::files::effective_user, |(user, _)| user);
    if ![0, owner].contains(&metadata.uid()) {
        let message = format!(
            "user {} may change the settings, and does not run clawdbot",
            metadata.uid()
        );
        findings.push(Finding::warning(
            message,
            format!("sudo chown {owner} {}", quoted(path)),
        ));
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    if mode & 0o044 != 0 && has_secret(&text) {
        let message = format!("a password stands in it, and other users may read it (mode {mode:03o})");
        findings.push(Finding::warning(message, format!("chmod 600 {}", quoted(path))));
    }
    let findings = findings.into_iter().map(|finding| finding.about(path.display()));
    unless(
        findings.collect(),
        format!("{} (mode {mode:03o})", path.display()),
    )
}

/// Whether a text of settings has an address with a password, as no setting wants it.
fn has_secret(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        let in_address = line.split("://").skip(1).any(|rest| {
            let end = rest.find(['/', '"', '\'']).unwrap_or(rest.len());
            let authority = rest.get(..end).unwrap_or_default();
            authority
                .split_once('@')
                .is_some_and(|(who, _)| who.contains(':'))
        });
        !line.starts_with('#') && (in_address || line.contains("password="))
    })
}

pub(super) fn secrets(subject: &Subject) -> Examined {
    let named = secret_files(&subject.settings);
    let mut findings = Vec::new();
    for (setting, path, is_refused) in &named {
        // What is in the data directory was looked at there.
        let Ok(metadata) = fs::metadata(path) else {
            continue;
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 == 0 || path.starts_with(&subject.tree.root) {
            continue;
        }
        let message = format!("other users may read or change what {setting} names (mode {mode:03o})");
        let hint = format!("chmod 600 {}", quoted(path));
        let finding = if *is_refused {
            Finding::misconfigured(message, hint)
        } else {
            Finding::warning(message, hint)
        };
        findings.push(finding.about(path.display()));
    }
    unless(
        findings,
        format!("{} named by settings are for their owner alone", named.len()),
    )
}

/// Files with secrets by the settings that name them, and whether the daemon refuses them where others may read them.
fn secret_files(settings: &Settings) -> Vec<(&'static str, PathBuf, bool)> {
    let file = |source: &Option<PasswordSource>| match source {
        Some(PasswordSource::File(path)) => Some(path.clone()),
        _ => None,
    };
    let certificate = settings.mqtt.certificate.as_ref();
    let tls_key = certificate
        .filter(|files| files.own.is_none())
        .map(|files| files.key.path.clone());
    let master_key = match &settings.store.master_key {
        Some(MasterKeySource::File(path)) => Some(path.clone()),
        _ => None,
    };
    let client_key = settings
        .broker
        .client_certificate
        .as_ref()
        .map(|(_, key)| key.clone());
    let postgres = settings.store.postgres.as_ref();
    let all = [
        ("mqtt.tls_key", tls_key, true),
        ("store.master_key_file", master_key, true),
        ("broker.client_key", client_key, false),
        ("broker.password_file", file(&settings.broker.password), false),
        (
            "store.postgres_password_file",
            postgres.and_then(|server| file(&server.password)),
            false,
        ),
        ("hub.token_file", settings.hub.token_file.clone(), false),
    ];
    let all = all.into_iter();
    all.filter_map(|(setting, path, is_refused)| Some((setting, path?, is_refused)))
        .collect()
}

pub(super) fn parents(subject: &Subject) -> Examined {
    let mut path = there(&subject.settings.data_dir);
    if !subject.settings.data_dir.exists() {
        // It will be made below that.
        path.push("data");
    }
    unless(
        open_parents(&path),
        "nobody else can put another directory in its place",
    )
}

/// Directories in which everybody may rename what is somebody else's.
fn open_parents(path: &Path) -> Vec<Finding> {
    let above = path.ancestors().skip(1);
    let open = above.filter(|path| {
        let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
        mode & 0o002 != 0 && mode & 0o1000 == 0
    });
    open.map(|path| {
        let message = "everybody may rename what is in it, the data directory too";
        Finding::warning(message, format!("chmod o-w {}", quoted(path))).about(path.display())
    })
    .collect()
}

pub(super) fn program(_: &Subject) -> Examined {
    let Ok(path) = std::env::current_exe() else {
        return Ok("the system does not say where it is".to_owned());
    };
    let mode = fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode());
    let open = |path: &Path| {
        let hint = format!("chmod o-w {}", quoted(path));
        Finding::error("everybody may exchange this program", hint).about(path.display())
    };
    let mut findings: Vec<Finding> = (mode & 0o002 != 0).then(|| open(&path)).into_iter().collect();
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mode = fs::metadata(directory).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        findings.push(open(directory));
    }
    unless(
        findings,
        format!("{} cannot be exchanged by everybody", path.display()),
    )
}

pub(super) fn synced(subject: &Subject) -> Examined {
    let path = there(&subject.settings.data_dir);
    let folder = synced_by(&path);
    where_so(
        folder.is_some(),
        || {
            let message = format!(
                "it is in a folder that looks as if it were copied elsewhere ({}): keys would leave this machine, and the \
                 store be changed under the daemon",
                folder.as_deref().unwrap_or_default()
            );
            let hint = "stop the daemon, move the directory out of that folder, and set data_dir to where it is then";
            Finding::warning(message, hint).about(path.display())
        },
        "it is in no folder that is copied elsewhere, by its name",
    )
}

fn synced_by(path: &Path) -> Option<String> {
    let mut levels = path.components().map(|level| level.as_os_str().to_string_lossy());
    let is_synced = |level: &str| {
        let level = level.to_lowercase();
        SYNCED.iter().any(|name| level.starts_with(name))
    };
    levels
        .find(|level| is_synced(level))
        .map(|level| level.into_owned())
}

pub(super) fn mounted(subject: &Subject) -> Examined {
    let path = there(&subject.settings.data_dir);
    let Some(mount) = mount::of(&subject.programs, &path) else {
        return Ok("not known: the system does not say what is mounted".to_owned());
    };
    where_so(
        REMOTE.contains(&mount.kind.as_str()),
        || {
            let message = format!(
                "it is on another machine ({} of {}): what is flushed there may be lost, and locks do not hold",
                mount.kind, mount.source
            );
            let hint = "stop the daemon, move the directory to a disk of this machine, and set data_dir to where it is then";
            Finding::warning(message, hint).about(path.display())
        },
        &format!("on a disk of this machine ({})", mount.kind),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Severity;
    use crate::security::DataDir;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn each_file_that_is_open_is_named_with_the_command_that_closes_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(&temp.path().join("data")).unwrap();
        fs::write(dir.store(), "").unwrap();
        fs::write(dir.master_key(), "").unwrap();
        set(&dir.store(), 0o644);
        set(&dir.master_key(), 0o640);
        set(dir.root(), 0o750);
        let subject = Subject::for_tests(dir.root());
        let root = data_dir(&subject).unwrap_err();
        assert_eq!((root.len(), root[0].severity), (1, Severity::Warning));
        assert_eq!(root[0].fix_hint, format!("chmod 700 '{}'", dir.root().display()));
        let mut found = modes(&subject).unwrap_err();
        found.sort_by_key(|finding| finding.severity);
        let hints: Vec<_> = found
            .iter()
            .map(|finding| (finding.severity, finding.fix_hint.as_str()))
            .collect();
        let (store, key) = (dir.store(), dir.master_key());
        let expected = [
            (Severity::Warning, format!("chmod 600 '{}'", store.display())),
            (Severity::Error, format!("chmod 600 '{}'", key.display())),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(severity, hint)| (*severity, hint.as_str()))
            .collect();
        assert_eq!(hints, expected);
    }

    #[test]
    fn a_settings_file_that_others_may_change_or_that_has_a_password_for_all_to_read_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("clawdbot.toml");
        let subject = Subject {
            config: Some(path.clone()),
            ..Subject::for_tests(temp.path())
        };
        let found = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            set(&path, mode);
            config(&subject).err().unwrap_or_default().len()
        };
        assert_eq!(found("", 0o644), 0);
        assert_eq!(found("", 0o664), 1);
        let secret = "[hub]\nendpoint = \"https://me:secret@hub.example\"";
        assert_eq!(found(secret, 0o644), 1);
        assert_eq!(found(secret, 0o600), 0);
    }

    #[test]
    fn passwords_in_addresses_are_told_from_ports() {
        for (text, expected) in [
            ("otlp_endpoint = \"http://127.0.0.1:4318\"", false),
            ("address = \"mqtts://broker.example:8883\"", false),
            ("postgres_url = \"postgresql://clawdbot@db.example/x\"", false),
            ("postgres_url = \"postgresql://clawdbot:x@db.example/x\"", true),
            ("# postgres_url = \"postgresql://clawdbot:x@db.example/x\"", false),
            ("postgres_url = \"host=db password=x\"", true),
            ("password_file = \"/x\"", false),
        ] {
            assert_eq!(has_secret(text), expected, "{text}");
        }
    }

    #[test]
    fn folders_that_are_synced_are_known_by_their_names() {
        for (path, expected) in [
            ("/Users/a/Library/Mobile Documents/com~apple~CloudDocs/hub", true),
            ("/Users/a/Library/CloudStorage/OneDrive-Home/hub", true),
            ("/home/a/Dropbox/hub", true),
            ("/home/a/Nextcloud2/hub", true),
            ("/home/a/.local/share/clawdbot", false),
            ("/Users/a/Library/Application Support/clawdbot", false),
        ] {
            assert_eq!(synced_by(Path::new(path)).is_some(), expected, "{path}");
        }
    }

    #[test]
    fn a_parent_that_everybody_may_change_is_named_and_a_sticky_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let (parent, child) = (temp.path().join("parent"), temp.path().join("parent/data"));
        fs::create_dir_all(&child).unwrap();
        let count = |mode| {
            set(&parent, mode);
            let parent = parent.display().to_string();
            open_parents(&child)
                .iter()
                .filter(|finding| finding.path.as_ref() == Some(&parent))
                .count()
        };
        assert_eq!([count(0o777), count(0o1777), count(0o755)], [1, 0, 0]);
    }

    #[test]
    fn a_secret_that_a_setting_names_is_looked_at_where_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let (data, token) = (temp.path().join("data"), temp.path().join("token"));
        fs::write(&token, "hf_x").unwrap();
        let mut subject = Subject::for_tests(&data);
        subject.settings.hub.token_file = Some(token.clone());
        set(&token, 0o644);
        let found = secrets(&subject).unwrap_err();
        assert!(found[0].message.contains("hub.token_file"), "{found:?}");
        set(&token, 0o600);
        assert!(secrets(&subject).is_ok());
    }
}
