//! How long the disk takes: now and then a few bytes are written where the daemon's data is and flushed, whether or not anybody
//! keeps the store busy, and how long that took is recorded.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry::metrics::{Histogram, Meter};

/// The probe's file, in the data directory.
const FILE: &str = "disk-probe";
/// A page, as most writes of a store are.
const BYTES: usize = 4096;

/// Seconds that writing and flushing take: a solid-state disk's tenths of a millisecond, the 20 ms of the design, and a disk that
/// makes everybody wait.
pub const BOUNDARIES: [f64; 13] = [
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
];

/// A histogram of such times.
pub fn histogram(meter: &Meter, name: &'static str, description: &'static str) -> Histogram<f64> {
    meter
        .f64_histogram(name)
        .with_unit("s")
        .with_description(description)
        .with_boundaries(BOUNDARIES.to_vec())
        .build()
}

/// Writes a page into `directory` and flushes it to the disk.
///
/// # Errors
/// What the system says: no room, no permission, a broken disk.
pub fn probe(directory: &Path) -> io::Result<Duration> {
    let file = open(directory)?;
    write(&file)
}

fn open(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(FILE))
}

fn write(file: &File) -> io::Result<Duration> {
    let began = Instant::now();
    file.write_all_at(&[0x5A; BYTES], 0)?;
    file.sync_data()?;
    Ok(began.elapsed())
}

/// Probes until it is dropped.
#[derive(Debug)]
pub struct DiskProbe {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DiskProbe {
    /// Begins, on a thread of its own, which a disk may hold up as long as it likes.
    ///
    /// # Errors
    /// Where there can be no more threads.
    pub fn start(directory: PathBuf, interval: Duration, meter: &Meter) -> io::Result<Self> {
        let took = histogram(
            meter,
            "clawdbot.disk.probe.duration",
            "Writing a page into the data directory and flushing it",
        );
        let failures = meter
            .u64_counter("clawdbot.disk.probe.failures")
            .with_description("Times that the probe's page could not be written")
            .build();
        failures.add(0, &[]);
        let (stop, stopped) = mpsc::sync_channel(1);
        let probe = move || {
            let mut file = None;
            loop {
                let probed = match file.take() {
                    Some(file) => Ok(file),
                    None => open(&directory),
                };
                match probed.and_then(|file| Ok((write(&file)?, file))) {
                    Ok((duration, there)) => {
                        took.record(duration.as_secs_f64(), &[]);
                        file = Some(there);
                    }
                    Err(error) => {
                        failures.add(1, &[]);
                        tracing::warn!(%error, directory = %directory.display(),
                            "the disk could not be probed; see whether it is full (df) or read-only");
                    }
                }
                if !matches!(stopped.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("disk-probe".into())
            .spawn(probe)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for DiskProbe {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A disk that hangs holds up nobody else.
        drop(self.thread.take());
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider;

    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_probe_takes_some_time_and_a_place_that_is_not_there_is_an_error() {
        let there = tempfile::tempdir().unwrap();
        assert!(probe(there.path()).unwrap() > Duration::ZERO);
        assert!(probe(&there.path().join("nowhere")).is_err());
    }

    #[test]
    fn it_probes_again_and_again_and_counts_what_fails() {
        let there = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let meter = metrics.provider().meter("clawdbot");
        let probe =
            |directory: &Path| DiskProbe::start(directory.to_owned(), Duration::from_millis(1), &meter);
        let (_well, _ill) = (
            probe(there.path()).unwrap(),
            probe(&there.path().join("nowhere")).unwrap(),
        );
        let value = |name: &str| {
            let text = metrics.render().unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .map(str::to_owned);
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while value("clawdbot_disk_probe_duration_seconds_count").is_none_or(|count| count < 3.0)
            || value("clawdbot_disk_probe_failures_total").is_none_or(|count| count < 3.0)
        {
            assert!(Instant::now() < deadline, "{}", metrics.render().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
