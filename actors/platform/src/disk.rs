//! How much a disk still takes.

use std::io;
use std::path::Path;

/// Bytes that this user may still write where the path is.
///
/// # Errors
/// The system's.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes of the disk where the path is, whatever is on it.
///
/// # Errors
/// The system's.
pub fn total_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_blocks.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_and_what_is_not_there_has_none() {
        let (free, total) = (
            free_bytes(Path::new("/")).unwrap(),
            total_bytes(Path::new("/")).unwrap(),
        );
        assert!(free <= total && total < 1 << 60, "{free} of {total}");
        assert!(free_bytes(Path::new("/nowhere/at/all")).is_err());
    }
}
