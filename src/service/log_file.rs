//! The file that launchd has the daemon's lines written to, kept from filling the disk. launchd opens it, for appending, and
//! would go on writing into one that was renamed: so what is in it is copied aside, and the file itself emptied.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes that it grows to, about.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// Files beside it, `.1` the newest.
const KEPT: u32 = 5;

/// Copies it aside and empties it, if it has grown too far.
pub(super) fn keep_short(log: &Path) -> io::Result<bool> {
    keep_within(log, MOST_BYTES, KEPT)
}

/// Lines that are written between the copy's end and the emptying are lost.
fn keep_within(log: &Path, most_bytes: u64, kept: u32) -> io::Result<bool> {
    if fs::metadata(log)?.len() <= most_bytes {
        return Ok(false);
    }
    for number in (1..kept).rev() {
        match fs::rename(aside(log, number), aside(log, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::copy(log, aside(log, 1))?;
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    Ok(true)
}

fn aside(log: &Path, number: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_has_grown_too_far_is_moved_aside_and_the_oldest_goes() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("log");
        // As launchd has it open.
        let mut appended = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        for round in 1..=4 {
            appended.write_all(b"short").unwrap();
            assert!(!keep_within(&log, 8, 2).unwrap());
            appended.write_all(format!(" line {round}").as_bytes()).unwrap();
            assert!(keep_within(&log, 8, 2).unwrap());
            assert_eq!(read(&log), "");
            assert_eq!(read(&aside(&log, 1)), format!("short line {round}"));
        }
        assert_eq!(read(&aside(&log, 2)), "short line 3");
        assert!(!aside(&log, 3).exists());
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        assert!(keep_short(&temp.path().join("log")).is_err());
    }
}
