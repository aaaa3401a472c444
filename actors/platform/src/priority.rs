//! Which of our processes goes first where there is too little processor time for all.

use std::io;

/// Of 19, the most modest: on Linux about a tenth of the processor time beside one busy thread that has not
/// stepped back, and all of it where nobody else wants any.
const STEP: i32 = 10;

/// The most modest.
const FAR: i32 = 19;

/// This process has processor time that nobody else wants, and hardly any other: for work that nobody waits for. The same as
/// [`step_back`], further.
pub fn step_far_back() -> io::Result<()> {
    rustix::process::nice(FAR)?;
    Ok(())
}

/// This process steps back behind the others of its user. Nobody needs a permission for that, and nothing
/// takes it back. Not the background class of macOS: its threads are kept on the slow cores.
pub fn step_back() -> io::Result<()> {
    rustix::process::nice(STEP)?;
    Ok(())
}
