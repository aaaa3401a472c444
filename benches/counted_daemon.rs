//! The daemon with an allocator that counts, for `HELD=1 benches/day.sh`: how many bytes it holds, which says what grows
//! where resident memory also says what the allocator keeps and which pages of the program were used.
//!
//! It takes what the program `clawdbot` takes. Each of its processes writes the number, once a second, into a file named by its
//! process id, in the directory that `CLAWDBOT_HELD` names. `cargo bench` runs every bench target; without that
//! directory this one has nothing to do and ends.

use std::alloc::System;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, process, thread};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let Some(directory) = env::var_os("CLAWDBOT_HELD") else {
        println!("counted_daemon: name a directory by CLAWDBOT_HELD; HELD=1 benches/day.sh does");
        return ExitCode::SUCCESS;
    };
    let file = Path::new(&directory).join(process::id().to_string());
    thread::spawn(move || {
        loop {
            let counted = ALLOCATOR.stats();
            let held = counted.bytes_allocated.saturating_sub(counted.bytes_deallocated);
            // Whoever reads it passes over an empty one, and one that is old: its process is gone, or counts no more.
            if let Err(error) = fs::write(&file, held.to_string()) {
                eprintln!("counted_daemon: {}: {error}", file.display());
                return;
            }
            thread::sleep(Duration::from_secs(1));
        }
    });
    clawdbot::cli::main()
}
