//! How far something has come, on the standard error, which is where nobody's pipe goes: a line that is written over on a
//! terminal, and elsewhere, as in a log, a line for every tenth.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Something that takes a while.
pub(super) struct Bar {
    what: String,
    unit: Unit,
    is_terminal: bool,
    began: Instant,
    /// Where it stood when it began.
    first: Option<u64>,
    shown: Option<Instant>,
    tenths: u64,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Unit {
    Bytes,
    /// Parts, of which only the share is said.
    Parts,
}

/// A terminal is written to no more often.
const INTERVAL: Duration = Duration::from_millis(100);
const WIDTH: usize = 24;

impl Bar {
    pub(super) fn new(what: impl Into<String>, unit: Unit) -> Bar {
        Bar {
            what: what.into(),
            unit,
            is_terminal: io::stderr().is_terminal(),
            began: Instant::now(),
            first: None,
            shown: None,
            tenths: 0,
        }
    }

    /// So much is done, of so much.
    pub(super) fn show(&mut self, done: u64, of: u64) {
        let first = *self.first.get_or_insert(done);
        let is_whole = done >= of;
        let now = Instant::now();
        let passed = (now - self.began).as_secs_f64();
        let line = line(&self.what, self.unit, [first, done, of], passed);
        if !self.is_terminal {
            let tenths = share(done, of) / 10;
            if tenths > self.tenths {
                self.tenths = tenths;
                let _nobody_looks = writeln!(io::stderr(), "{line}");
            }
            return;
        }
        if is_whole || self.shown.is_none_or(|shown| now - shown >= INTERVAL) {
            self.shown = Some(now);
            let _nobody_looks = write!(io::stderr(), "\r{line}\x1b[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // What comes next begins on a line of its own.
        if self.is_terminal && self.shown.is_some() {
            let _nobody_looks = writeln!(io::stderr());
        }
    }
}

fn share(done: u64, of: u64) -> u64 {
    (u128::from(done.min(of)) * 100)
        .checked_div(u128::from(of))
        .map_or(100, |share| share as u64)
}

fn line(what: &str, unit: Unit, [first, done, of]: [u64; 3], passed: f64) -> String {
    let share = share(done, of);
    let full = share as usize * WIDTH / 100;
    let mut line = format!(
        "{what} [{}{}] {share:3} %",
        "#".repeat(full),
        "-".repeat(WIDTH - full)
    );
    if unit == Unit::Bytes {
        let pace = done.saturating_sub(first) as f64 / passed.max(1e-3);
        line += &format!("  {} of {}", size(done), size(of));
        if passed > 0.5 && pace > 0.0 {
            line += &format!("  {}/s", size(pace as u64));
            let left = of.saturating_sub(done) as f64 / pace;
            if done < of && left < 360_000.0 {
                line += &format!("  {} left", duration(left as u64));
            }
        }
    }
    line
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// As disks and networks count.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long_still() {
        let line = line(
            "model.gguf",
            Unit::Bytes,
            [1_000_000_000, 1_500_000_000, 2_000_000_000],
            10.0,
        );
        assert_eq!(
            line,
            "model.gguf [##################------]  75 %  1.5 GB of 2.0 GB  50.0 MB/s  10 s left"
        );
        assert_eq!(
            super::line("packing", Unit::Parts, [0, 0, 0], 0.0),
            format!("packing [{}] 100 %", "#".repeat(24))
        );
    }

    #[test]
    fn no_numbers_are_too_large() {
        assert_eq!(share(u64::MAX, u64::MAX), 100);
        assert_eq!(share(3, 0), 100);
        assert!(line("x", Unit::Bytes, [0, u64::MAX, u64::MAX], 1.0).contains("TB"));
        assert_eq!(
            [size(999), size(1_000), size(4_100_000_000)],
            ["999 B", "1.0 kB", "4.1 GB"]
        );
    }
}
