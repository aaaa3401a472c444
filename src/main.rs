//! The binary: everything it can do is in the library, where tests can call it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    clawdbot::cli::main()
}
