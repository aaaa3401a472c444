//! Which process the system ends first when there is no memory left.

use std::io;

/// From now on this process, and those that it starts, go before any other of the machine or of their control group,
/// however little they have. Nobody needs a permission for that; taking it back needs one. On other systems than Linux
/// nothing is done: none lets a process offer itself.
///
/// # Errors
/// The system's.
pub fn go_first() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    offer(std::path::Path::new("/proc/self/oom_score_adj"))?;
    Ok(())
}

#[cfg(target_os = "linux")]
fn offer(process: &std::path::Path) -> io::Result<()> {
    /// The highest there is: as if the process had all memory.
    const FIRST: &str = "1000";

    std::fs::write(process, FIRST)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;

    /// On a child, so that the tests themselves do not go first.
    #[test]
    fn a_process_that_offers_itself_goes_first() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let path = PathBuf::from(format!("/proc/{}/oom_score_adj", child.id()));
        let offered = offer(&path).and_then(|()| fs::read_to_string(&path));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(offered.unwrap().trim(), "1000");
        assert!(offer(&path).is_err(), "it is gone");
    }
}
