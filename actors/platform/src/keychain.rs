//! Secrets in the System keychain of macOS, which is open without anybody logged in, as a login keychain is not.
//!
//! Read by the system's own `security`, whose access is what the owner of a keychain item is asked about; see its manual
//! page, `find-generic-password`.

use std::io;
use std::process::{Command, Stdio};

/// Where macOS has it.
const SECURITY: &str = "/usr/bin/security";
const SYSTEM_KEYCHAIN: &str = "/Library/Keychains/System.keychain";

/// Whether this system has such a keychain.
pub const IS_THERE: bool = cfg!(target_os = "macos");

/// What is kept there as the password of a service.
///
/// # Errors
/// What `security` says: that there is no such item, or that it may not be read.
pub fn system_password(service: &str) -> io::Result<Vec<u8>> {
    password_by(SECURITY, service)
}

fn password_by(program: &str, service: &str) -> io::Result<Vec<u8>> {
    let output = Command::new(program)
        .args(["find-generic-password", "-w", "-s", service, SYSTEM_KEYCHAIN])
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Its standard output might be the secret; what it complains of is not.
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    /// A program in the place of `security` that does this.
    fn program(name: &str, script: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("clawdbot-{name}-{}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn asked(path: &Path) -> io::Result<Vec<u8>> {
        loop {
            let answer = password_by(path.to_str().unwrap(), "hub key");
            // Another test may have forked while the script was open for writing here, and hold it open until its exec.
            match answer {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                answer => return answer,
            }
        }
    }

    #[test]
    fn the_password_of_a_service_is_asked_for_in_the_system_keychain() {
        let path = program("found", r#"printf '%s,' "$@""#);
        let found = asked(&path);
        fs::remove_file(path).unwrap();
        let expected = "find-generic-password,-w,-s,hub key,/Library/Keychains/System.keychain,";
        assert_eq!(found.unwrap(), expected.as_bytes());
    }

    #[test]
    fn a_refusal_is_told_in_the_system_s_own_words() {
        let path = program(
            "refused",
            "echo secret; echo 'item could not be found' >&2; exit 44",
        );
        let refused = asked(&path).unwrap_err().to_string();
        fs::remove_file(path).unwrap();
        assert_eq!(refused, "item could not be found");
        assert!(asked(Path::new("/nowhere")).is_err());
    }
}
