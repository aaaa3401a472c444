//! The system's own programs, asked what the machine is like.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// None of them has more to think about.
const PATIENCE: Duration = Duration::from_secs(5);
/// None of them has more to say that is read here.
const MAX_BYTES: u64 = 1 << 20;

/// Where programs of the system are that are in nobody's search path.
const USUAL: [&str; 5] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/libexec/ApplicationFirewall",
];

/// Where programs are looked for.
pub(super) struct Programs {
    places: Vec<PathBuf>,
}

/// What one said on its standard output.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) is_success: bool,
    pub(super) text: String,
}

impl Programs {
    /// First where this process looks for programs, then where they usually are.
    pub(super) fn of_this_process() -> Programs {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = USUAL.iter().map(PathBuf::from);
        Programs::at(std::env::split_paths(&path).chain(usual).collect())
    }

    pub(super) fn at(places: Vec<PathBuf>) -> Programs {
        Programs { places }
    }

    /// What a program says; nothing where it is not there, or says nothing in time.
    pub(super) fn ask(&self, name: &str, arguments: &[&str]) -> Option<Said> {
        let program = self
            .places
            .iter()
            // A relative place would be another one from each directory that somebody stands in.
            .filter(|place| place.is_absolute())
            .map(|place| place.join(name))
            .find(|program| program.is_file())?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let output = child.stdout.take()?;
        let (said, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(MAX_BYTES).read_to_end(&mut bytes);
            // Nobody waits any more where it took too long.
            let _ = said.send(read.map(|_| bytes));
        });
        let bytes = heard.recv_timeout(PATIENCE);
        if bytes.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().ok()?;
        Some(Said {
            is_success: status.success(),
            text: String::from_utf8_lossy(&bytes.ok()?.ok()?).into_owned(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A place with programs that do this.
    pub(crate) fn stand_ins(programs: &[(&str, &str)]) -> (tempfile::TempDir, Programs) {
        let temp = tempfile::tempdir().unwrap();
        for (name, script) in programs {
            let path = temp.path().join(name);
            // Renamed into its place: another test that forks meanwhile holds the file open for writing, and a file that
            // is written cannot be run.
            let draft = temp.path().join("draft");
            fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o700)).unwrap();
            // A copy made by a process of its own is open for writing in nobody else.
            let copied = Command::new("cp")
                .arg("-p")
                .args([&draft, &path])
                .status()
                .unwrap();
            assert!(copied.success());
        }
        let programs = Programs::at(vec![temp.path().to_path_buf()]);
        (temp, programs)
    }

    #[test]
    fn a_program_is_found_asked_and_heard() {
        let (_temp, programs) = stand_ins(&[("say", r#"echo "$@"; exit 3"#)]);
        let said = programs.ask("say", &["a", "b"]).unwrap();
        assert_eq!((said.is_success, said.text.as_str()), (false, "a b\n"));
        assert!(programs.ask("nothing", &[]).is_none());
        let here = Programs::at(vec![PathBuf::from(".")]);
        assert!(here.ask("Cargo.toml", &[]).is_none());
    }
}
