//! The binary: everything it can do is in the library, where tests can call it too.

use std::process::ExitCode;

/// Gives memory back to the system after a burst of messages, which glibc's allocator does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    clawdbot::cli::main()
}
