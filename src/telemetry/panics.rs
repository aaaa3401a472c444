//! Panics, counted: each is a fault of the program, and only its part of it falls.

use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts from the first call on, beside what is printed on stderr anyway.
pub fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(hook);
}

fn hook() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Relaxed);
        print(panic);
        // What it says may be of anybody's words; where it happened is not.
        let place = panic.location().map(ToString::to_string);
        tracing::error!(
            place,
            "a part of the daemon panicked; please report it with what stderr has"
        );
    }));
}

/// How many there were.
pub fn count() -> u64 {
    PANICS.load(Relaxed)
}
