//! Whether what is kept can still be read: every seal is opened, every value must be in its place, and what it refers
//! to must be there. The walk goes in steps, each a transaction of its own: one that lasted would make the file grow
//! under a daemon that writes.

mod report;
mod suspect;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use report::{Finding, Report};

use super::backend::{Damaged, PageSize, Place, Reading};
use super::database::{DatabaseError, Name};
use super::record::{self, Moment, tables};
use super::vault::Vault;
use suspect::{References, Suspect};

/// What a value costs beside its bytes, roughly.
const VALUE_BYTES: usize = 32;

/// Values with something amiss that are looked at once more in the end. Of more the rest counts without that.
const MAX_SUSPECTS: usize = 10_000;

/// A message may be let go of a moment after its session: only what stays alone is one.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a store that was closed is waited for, as its disk may be back.
const CLOSED_PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// How far something is, and whether it is to end.
#[derive(Debug, Default)]
pub struct Progress {
    /// Values done with.
    pub done: AtomicU64,
    /// Values there were at the beginning.
    pub total: AtomicU64,
    /// Set to end it early.
    pub stop: AtomicBool,
}

impl Progress {
    /// Begins anew.
    pub fn begin(&self) {
        self.done.store(0, Relaxed);
        self.total.store(0, Relaxed);
    }
}

/// Takes damaged values out of the way.
pub(super) type SetAside<'a> = &'a mut dyn FnMut(Vec<Damaged>) -> Result<(), DatabaseError>;

/// One walk over everything.
pub(super) struct Walk<'a, 'd> {
    /// Begins to read.
    pub(super) begin: &'a dyn Fn() -> Result<Box<dyn Reading + 'd>, DatabaseError>,
    pub(super) vault: &'a Vault,
    /// Nothing is changed meanwhile.
    pub(super) is_still: bool,
    /// Bytes a second; None for as fast as it goes.
    pub(super) bytes_per_s: Option<u64>,
    pub(super) progress: &'a Progress,
}

#[derive(Default)]
struct Step {
    last: Option<Place>,
    values: u64,
    bytes: u64,
    is_end: bool,
    damaged: Vec<(Damaged, String)>,
    suspects: Vec<Suspect>,
}

impl Walk<'_, '_> {
    /// Looks at every value. None if it was stopped.
    pub(super) fn run(&self, set_aside: SetAside<'_>) -> Result<Option<Report>, DatabaseError> {
        let (started, mut report) = (Instant::now(), Report::default());
        let mut suspects = Vec::new();
        self.progress.begin();
        self.progress.total.store(self.count()?, Relaxed);
        for table in tables() {
            let mut after = None;
            report.values.insert(table.to_owned(), 0);
            loop {
                if self.progress.stop.load(Relaxed) {
                    return Ok(None);
                }
                let step = match self.patiently(|| self.step(table, after)) {
                    Ok(step) => step,
                    Err(error) if error.is_corruption() => {
                        report.broken(table, &error);
                        break;
                    }
                    Err(error) => return Err(error),
                };
                after = step.last.or(after);
                self.progress.done.fetch_add(step.values, Relaxed);
                *report.values.entry(table.to_owned()).or_default() += step.values;
                report.checked_bytes += step.bytes;
                let room = MAX_SUSPECTS.saturating_sub(suspects.len());
                for suspect in step.suspects.iter().skip(room) {
                    suspect.count(&mut report);
                }
                suspects.extend(step.suspects.into_iter().take(room));
                let mut damaged = Vec::new();
                for (value, what) in step.damaged {
                    report.damaged(value.table, &value.name, what);
                    damaged.push(value);
                }
                if !damaged.is_empty() {
                    set_aside(damaged)?;
                }
                if step.is_end {
                    break;
                }
                self.keep_pace(started, report.checked_bytes);
            }
            self.count_missing(table, &mut report)?;
        }
        self.settle(&suspects, &mut report)?;
        report.checked_values = report.values.values().sum();
        report.set_aside = self.patiently(|| (self.begin)()?.set_aside())?;
        report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.finished_at_unix_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Ok(Some(report))
    }

    fn count(&self) -> Result<u64, DatabaseError> {
        self.patiently(|| {
            let reading = (self.begin)()?;
            tables().map(|table| reading.len(table)).sum()
        })
    }

    /// redb trusts its file, and may panic over one that something else has written to.
    fn step(&self, table: &'static str, after: Option<Place>) -> Result<Step, DatabaseError> {
        catch_unwind(AssertUnwindSafe(|| self.step_in(table, after)))
            .unwrap_or_else(|_| Err(DatabaseError::corrupted("a page of it makes no sense")))
    }

    fn step_in(&self, table: &'static str, after: Option<Place>) -> Result<Step, DatabaseError> {
        let (reading, now) = ((self.begin)()?, Moment::now());
        let references = References {
            vault: self.vault,
            reading: &*reading,
        };
        // So much is read before another may write over what it freed.
        let page = reading.page(table, after, PageSize::STEP)?;
        let mut step = Step {
            is_end: page.is_end,
            ..Step::default()
        };
        for (name, sealed) in page.values {
            step.last = Some(name);
            step.values += 1;
            step.bytes += (sealed.len() + VALUE_BYTES) as u64;
            match self.read(table, &name, &sealed, now) {
                Ok(value) => {
                    let suspect = value.as_ref().and_then(Suspect::of);
                    if let Some(suspect) = suspect
                        && suspect.is_alone(&references)?
                    {
                        step.suspects.push(suspect);
                    }
                }
                Err(what) => step.damaged.push((Damaged { table, name, sealed }, what)),
            }
        }
        Ok(step)
    }

    fn read(
        &self,
        table: &str,
        name: &Place,
        sealed: &[u8],
        now: Moment,
    ) -> Result<Option<record::Value>, String> {
        let bytes = self.vault.open(table, name, sealed).map_err(|e| e.to_string())?;
        let value = record::decode(table, bytes, now).map_err(|e| e.to_string())?;
        if let Some(value) = &value
            && Name::of(value).in_table(table, self.vault) != *name
        {
            return Err("it lies under the name of another value".to_owned());
        }
        Ok(value)
    }

    /// Where nothing changes, a table has as many values as it says.
    fn count_missing(&self, table: &'static str, report: &mut Report) -> Result<(), DatabaseError> {
        if self.is_still {
            let there = (self.begin)()?.len(table)?;
            let found = report.values.get(table).copied().unwrap_or(0);
            report.missing(table, there.saturating_sub(found));
        }
        Ok(())
    }

    fn settle(&self, suspects: &[Suspect], report: &mut Report) -> Result<(), DatabaseError> {
        if suspects.is_empty() {
            return Ok(());
        }
        if !self.is_still {
            std::thread::sleep(SETTLE);
        }
        self.patiently(|| {
            let reading = (self.begin)()?;
            let references = References {
                vault: self.vault,
                reading: &*reading,
            };
            for suspect in suspects {
                if suspect.is_alone(&references)? {
                    suspect.count(report);
                }
            }
            Ok(())
        })
    }

    /// The writer opens the store anew when its disk takes something again.
    fn patiently<T>(&self, mut work: impl FnMut() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
        let deadline = Instant::now() + CLOSED_PATIENCE;
        loop {
            match work() {
                Err(error) if !error.is_corruption() && !self.is_still && Instant::now() < deadline => {
                    if self.progress.stop.load(Relaxed) {
                        return Err(error);
                    }
                    std::thread::sleep(LOOK);
                }
                other => return other,
            }
        }
    }

    fn keep_pace(&self, started: Instant, bytes: u64) {
        let Some(bytes_per_s) = self.bytes_per_s.filter(|rate| *rate > 0) else {
            return;
        };
        let due = started + Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
        while Instant::now() < due && !self.progress.stop.load(Relaxed) {
            std::thread::sleep(LOOK.min(due.saturating_duration_since(Instant::now())));
        }
    }
}
