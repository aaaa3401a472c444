//! Whether another user can reach what the service needs: mistakes here show only when the service fails to start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::settings::{MasterKeySource, PasswordSource, Settings};

/// Directories of people. The service sees nothing of them, whatever their permissions.
const HOMES: [&str; 5] = ["/home", "/root", "/Users", "/var/root", "/run/user"];

/// Whether a path is somebody's own.
pub(super) fn is_private(path: &Path) -> bool {
    HOMES.iter().any(|home| path.starts_with(home))
}

/// What a data directory has; one of these is in it from its first use on.
const OF_A_DATA_DIR: [&str; 5] = ["keys", "certs", "clawdbot.toml", "models", "store.redb"];

/// Why a directory cannot be given to the service's user, with all that is in it: it is somebody else's.
pub(super) fn check_data_dir(directory: &Path) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    // A disk of one's own has that.
    let names = entries.flatten().map(|entry| entry.file_name());
    let names: Vec<_> = names.filter(|name| name != "lost+found").collect();
    let is_ours = |name: &&str| names.iter().any(|there| there == *name);
    if names.is_empty() || OF_A_DATA_DIR.iter().any(is_ours) {
        return Ok(());
    }
    Err(format!(
        "{} has other things in it, which would become the service's: name a directory of its own with --data-dir, an empty \
         one or one that is not there yet",
        directory.display()
    ))
}

/// Why another user cannot run a program, with what helps.
pub(super) fn check_program(root: &Path, program: &Path) -> Result<(), String> {
    check_program_itself(root, program).map_err(|reason| {
        format!(
            "{} cannot be the program of a service: {reason}; put it where everybody may run it (sudo install -m 755 {} \
             /usr/local/bin/clawdbot) and run /usr/local/bin/clawdbot service install",
            program.display(),
            program.display()
        )
    })
}

fn check_program_itself(root: &Path, program: &Path) -> Result<(), String> {
    if is_private(program) {
        return Err("it lies in somebody's home directory".to_owned());
    }
    if is_build(program) {
        return Err("the next build replaces it".to_owned());
    }
    let mut path = root.to_path_buf();
    let mut parts = program
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let metadata = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (wanted, doing) = match parts.peek() {
            Some(_) => (0o001, "enter"),
            None if !metadata.is_file() => return Err("it is no file".to_owned()),
            None => (0o005, "read and run"),
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & wanted != wanted {
            return Err(format!(
                "others may not {doing} {} (mode {mode:o})",
                path.display()
            ));
        }
    }
    Ok(())
}

/// Whether cargo put it there.
fn is_build(program: &Path) -> bool {
    let profile = program.parent();
    let made_by_cargo = profile
        .and_then(Path::parent)
        .map(|target| target.join("CACHEDIR.TAG"));
    let names: Vec<_> = profile
        .iter()
        .flat_map(|profile| profile.components().rev().take(2))
        .collect();
    let is = |part: Option<&Component<'_>>, name: &str| part.is_some_and(|part| part.as_os_str() == name);
    let named_so = is(names.get(1), "target") && (is(names.first(), "debug") || is(names.first(), "release"));
    named_so || made_by_cargo.is_some_and(|tag| tag.exists())
}

/// What the settings name beside the data directory, with the setting.
pub(super) fn named_in(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let mqtt = &settings.mqtt;
    let certificate = mqtt.certificate.as_ref();
    let master_key = match &settings.store.master_key {
        Some(MasterKeySource::File(path)) => Some(path.clone()),
        _ => None,
    };
    let password = match &settings.broker.password {
        Some(PasswordSource::File(path)) => Some(path.clone()),
        _ => None,
    };
    [
        ("model.path", settings.model.path.clone()),
        ("model.fallback", settings.model.fallback.clone()),
        ("mqtt.unix", mqtt.unix.clone()),
        (
            "mqtt.tls_certificate",
            certificate.map(|files| files.certificate.path.clone()),
        ),
        ("mqtt.tls_key", certificate.map(|files| files.key.path.clone())),
        ("store.master_key_file", master_key),
        ("broker.password_file", password),
    ]
    .into_iter()
    .filter_map(|(setting, path)| Some((setting, path?)))
    .collect()
}

/// The variables that secrets are in, which the service is not given by itself.
pub(super) fn variables_in(settings: &Settings) -> Vec<String> {
    let master_key = match &settings.store.master_key {
        Some(MasterKeySource::Variable(name)) => Some(name.clone()),
        _ => None,
    };
    let password = match &settings.broker.password {
        Some(PasswordSource::Variable(name)) => Some(name.clone()),
        _ => None,
    };
    master_key.into_iter().chain(password).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn made(root: &Path, path: &str, mode: u32) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    fn refused(root: &Path, program: &str) -> String {
        check_program(root, Path::new(program)).unwrap_err()
    }

    #[test]
    fn a_program_that_everybody_may_run_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        made(temp.path(), "usr/local/bin/clawdbot", 0o755);
        assert_eq!(
            check_program(temp.path(), Path::new("/usr/local/bin/clawdbot")),
            Ok(())
        );
    }

    #[test]
    fn one_that_another_user_cannot_run_is_refused_with_the_place_for_it() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for (program, reason) in [
            ("/root/clawdbot", "home directory"),
            ("/Users/anna/clawdbot", "home directory"),
            ("/src/target/release/clawdbot", "next build"),
            ("/opt/none", "No such file"),
        ] {
            let message = refused(root, program);
            assert!(
                message.contains(reason) && message.contains("sudo install -m 755"),
                "{message}"
            );
        }
        made(root, "opt/own", 0o700);
        assert!(refused(root, "/opt/own").contains("others may not read and run"));
        made(root, "opt/in/side", 0o755);
        fs::set_permissions(root.join("opt/in"), Permissions::from_mode(0o750)).unwrap();
        assert!(refused(root, "/opt/in/side").contains("others may not enter"));
        assert!(refused(root, "/opt").contains("no file"));
    }

    #[test]
    fn one_that_cargo_made_under_another_name_is_known_by_its_mark() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("built");
        made(&target, "dist/clawdbot", 0o755);
        made(&target, "CACHEDIR.TAG", 0o644);
        assert!(is_build(&target.join("dist/clawdbot")));
        assert!(!is_build(Path::new("/usr/local/bin/clawdbot")));
    }

    #[test]
    fn what_settings_name_is_told_with_the_setting() {
        let mut settings = Settings::default_for_tests(Path::new("/srv"));
        settings.model.path = Some(PathBuf::from("/home/anna/model.gguf"));
        settings.store.master_key = Some(MasterKeySource::Variable("KEY".to_owned()));
        assert_eq!(variables_in(&settings), ["KEY"]);
        let named = named_in(&settings);
        assert!(
            named.contains(&("model.path", PathBuf::from("/home/anna/model.gguf"))),
            "{named:?}"
        );
        assert!(is_private(Path::new("/home/anna/model.gguf")));
        assert!(!is_private(Path::new("/homes/anna")) && !is_private(Path::new("/var/lib/clawdbot")));
    }
}
