//! A deep stack for work that calls itself as often as somebody else's data says.

use std::thread;

/// Untouched pages of it cost nothing.
const BYTES: usize = 256 << 20;

/// Runs something on a thread of its own with a deep stack, and waits for it.
///
/// # Errors
/// In words, if there is no such thread, or if it panicked.
pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("no thread could be started for it: {error}"))?;
        thread.join().map_err(|_| "it contradicts itself".to_owned())
    })
}
