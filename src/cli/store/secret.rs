//! What opens an archive: read from a file, so that it stands in no list of processes and no shell's history.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroize;

use super::super::Failure;
use crate::security::master_key::from_hex;
use crate::store::{ArchiveSecret, KEY_BYTES};

/// Longer than anybody's passphrase.
const MAX_LINE_BYTES: u64 = 4096;

#[derive(Debug, Args)]
pub(in crate::cli) struct PassphraseFlag {
    /// File whose first line is the passphrase, only its owner's to read; - for the standard input
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) passphrase_file: Option<PathBuf>,
}

impl PassphraseFlag {
    pub(in crate::cli) fn read(&self) -> Result<Option<ArchiveSecret>, Failure> {
        let Some(path) = &self.passphrase_file else {
            return Ok(None);
        };
        let line = first_line(path)?;
        if line.is_empty() {
            return Err(Failure::Misconfigured(format!(
                "{}: its first line is empty; write the passphrase there",
                path.display()
            )));
        }
        Ok(Some(ArchiveSecret::Passphrase(line)))
    }
}

/// The key that `clawdbot store export` or `clawdbot backup` printed.
/// The file that the program keeps one in will do, too.
pub(in crate::cli) fn read_key(path: &Path) -> Result<ArchiveSecret, Failure> {
    if let Some(key) = raw_key(path)? {
        return Ok(ArchiveSecret::Key(key));
    }
    let mut line = first_line(path)?;
    let mut digits = line.replace('-', "");
    let key = from_hex(&digits);
    line.zeroize();
    digits.zeroize();
    key.map(ArchiveSecret::Key).ok_or_else(|| {
        Failure::Misconfigured(format!(
            "{}: its first line is not the key as `clawdbot store export` or `clawdbot backup` printed it",
            path.display()
        ))
    })
}

/// The key as it is shown, in groups that can be read aloud.
pub(in crate::cli) fn show(key: &[u8]) -> String {
    let groups: Vec<String> = key
        .chunks(4)
        .map(|group| group.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    groups.join("-")
}

/// Nothing where it is no file of just so many bytes.
fn raw_key(path: &Path) -> Result<Option<[u8; KEY_BYTES]>, Failure> {
    if path == Path::new("-") {
        return Ok(None);
    }
    let mut file = open_private(path)?;
    let mut key = [0; KEY_BYTES];
    let is_one = file
        .metadata()
        .is_ok_and(|metadata| metadata.len() == KEY_BYTES as u64);
    Ok((is_one && file.read_exact(&mut key).is_ok()).then_some(key))
}

fn open_private(path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| {
        Failure::Misconfigured(format!(
            "{} cannot be read: {error}; correct the path",
            path.display()
        ))
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Failure::Misconfigured(format!(
            "{} can be read by other users (mode {mode:03o}); run: chmod 600 '{}'",
            path.display(),
            path.display()
        )));
    }
    Ok(file)
}

fn first_line(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") {
        line_of(io::stdin().lock())
    } else {
        line_of(BufReader::new(open_private(path)?))
    };
    read.map_err(|error| {
        Failure::Misconfigured(format!(
            "{} cannot be read: {error}; its first line must be text",
            path.display()
        ))
    })
}

fn line_of(input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(MAX_LINE_BYTES).read_line(&mut line)?;
    while line.ends_with(['\n', '\r']) {
        line.pop();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_shown_and_only_from_a_private_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = [0xab; 32];
        fs::write(&path, format!("{}\n", show(&key))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_key(&path), Err(Failure::Misconfigured(why)) if why.contains("chmod 600")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read_key(&path), Ok(ArchiveSecret::Key(ref read)) if *read == key));
        fs::write(&path, key).unwrap();
        assert!(matches!(read_key(&path), Ok(ArchiveSecret::Key(ref read)) if *read == key));
        fs::write(&path, "no key").unwrap();
        assert!(matches!(read_key(&path), Err(Failure::Misconfigured(why)) if !why.contains("no key")));
    }
}
