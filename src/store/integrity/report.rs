//! What a check found.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::database::DatabaseError;

/// Findings that are told one by one; all are counted.
const MAX_FINDINGS: usize = 100;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Values of each table.
    pub values: BTreeMap<String, u64>,
    /// All of them together.
    pub checked_values: u64,
    /// With their names.
    pub checked_bytes: u64,
    /// Values that cannot be read.
    pub damaged: u64,
    /// Values that a table should have and that cannot be reached.
    pub missing: u64,
    /// Tables, or the whole file, whose pages make no sense.
    pub broken: u64,
    /// The first of these.
    pub findings: Vec<Finding>,
    /// Values of each table that were set aside, now or by an earlier check or start.
    pub set_aside: BTreeMap<String, u64>,
    /// Values that stand alone.
    pub orphans: Orphans,
    /// How long it took.
    pub duration_ms: u64,
    /// When it was over.
    pub finished_at_unix_s: u64,
}

/// Values whose other half is gone. They harm nobody, and the next start lets go of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// Messages for sessions that are gone.
    pub deliveries: u64,
    /// Stages of messages that are gone.
    pub stages: u64,
    /// Identifiers that sessions received which are gone.
    pub received: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where.
    pub table: String,
    /// The keyed hash under which the value lies; it tells nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl Orphans {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.deliveries + self.stages + self.received
    }
}

impl Report {
    /// Whether everything can be read, and could before.
    pub fn is_sound(&self) -> bool {
        self.damaged + self.missing + self.broken == 0 && self.set_aside.is_empty()
    }

    pub(super) fn damaged(&mut self, table: &str, name: &[u8; 16], what: String) {
        self.damaged += 1;
        let name = name.iter().map(|byte| format!("{byte:02x}")).collect();
        self.find(table, Some(name), what);
    }

    pub(super) fn missing(&mut self, table: &str, values: u64) {
        if values > 0 {
            self.missing += values;
            self.find(table, None, format!("{values} values cannot be reached"));
        }
    }

    pub(super) fn broken(&mut self, table: &str, error: &DatabaseError) {
        self.broken += 1;
        self.find(table, None, format!("it cannot be read to its end: {error}"));
    }

    /// The file as a whole is not as redb wrote it.
    pub(in crate::store) fn broken_file(&mut self, what: String) {
        self.broken += 1;
        self.find("", None, what);
    }

    fn find(&mut self, table: &str, name: Option<String>, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            let table = table.to_owned();
            self.findings.push(Finding { table, name, what });
        }
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<String> = self
            .values
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(table, count)| format!("{table} {count}"))
            .collect();
        writeln!(
            f,
            "{} values, {} bytes, in {} ms{}{}",
            self.checked_values,
            self.checked_bytes,
            self.duration_ms,
            if tables.is_empty() { "" } else { ": " },
            tables.join(", ")
        )?;
        for finding in &self.findings {
            writeln!(f, "damaged: {finding}")?;
        }
        let told = self.findings.len() as u64;
        let all = self.damaged + u64::from(self.missing > 0) + self.broken;
        if all > told {
            writeln!(f, "damaged: {} more", all - told)?;
        }
        for (table, count) in &self.set_aside {
            writeln!(f, "set aside: {table} {count}")?;
        }
        if self.orphans.total() > 0 {
            writeln!(
                f,
                "left over, and let go of at the next start: {} messages, {} stages, {} identifiers",
                self.orphans.deliveries, self.orphans.stages, self.orphans.received
            )?;
        }
        f.write_str(if self.is_sound() {
            "everything can be read"
        } else {
            "there is damage: everything else is served; what is named above is lost, unless a backup has it"
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.table.as_str(), &self.name) {
            ("", _) => write!(f, "the file: {}", self.what),
            (table, Some(name)) => write!(f, "{table} {name}: {}", self.what),
            (table, None) => write!(f, "{table}: {}", self.what),
        }
    }
}
