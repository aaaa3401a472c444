//! Bytes of the file that nothing refers to any more, and that would still open it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const CHUNK_BYTES: usize = 1024 * 1024;

/// Overwrites every copy of `secret` in a file. redb gives pages free as they are, and so a data key that the old
/// master key opens would lie in one. Only the thread that writes may do this, when no commit knows of it any more. (What
/// the disk itself keeps of overwritten blocks is beyond us.)
pub(super) fn wipe(path: &Path, secret: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let zeros = vec![0; secret.len()];
    let mut chunk = vec![0; CHUNK_BYTES + secret.len()];
    let mut offset = 0;
    loop {
        let read = fill(&file, &mut chunk, offset)?;
        let bytes = chunk.get(..read).unwrap_or_default();
        for (at, window) in bytes.windows(secret.len()).enumerate() {
            if window == secret {
                file.write_all_at(&zeros, offset + at as u64)?;
            }
        }
        if read < chunk.len() {
            break;
        }
        // Those that lie across the end are found with the next.
        offset += CHUNK_BYTES as u64;
    }
    file.sync_data()
}

fn fill(file: &std::fs::File, chunk: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = chunk.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_is_overwritten_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let secret = [7, 8, 9, 7, 8];
        for at in [0, 100, CHUNK_BYTES - 2, CHUNK_BYTES, 2 * CHUNK_BYTES + 3] {
            let mut bytes = vec![7; 2 * CHUNK_BYTES + 8];
            bytes[at..at + 5].copy_from_slice(&secret);
            std::fs::write(&path, &bytes).unwrap();
            wipe(&path, &secret).unwrap();
            bytes[at..at + 5].fill(0);
            assert!(std::fs::read(&path).unwrap() == bytes, "{at}");
        }
    }
}
