//! What is wrong with the settings, all of it at once.

use std::fmt;

use super::Origin;

/// One fault: which key, what stands there, where it was written, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as `section.key`; empty where a whole file cannot be read.
    pub key: String,
    /// The value as found.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong with it and what helps.
    pub reason: String,
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// At least one, in the order of the keys in `config/default.toml`.
    pub problems: Vec<Problem>,
}

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [problem] => write!(formatter, "the settings have a fault: {problem}"),
            problems => {
                write!(formatter, "the settings have {} faults:", problems.len())?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(formatter, "\n  {problem}"))
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(formatter, "{} = {}: ", self.key, self.value)?;
        }
        formatter.write_str(&self.reason)
    }
}
