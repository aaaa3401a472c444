//! How much a request matters.

use serde::{Deserialize, Serialize};

/// How much a request matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Taken up before everything else.
    Urgent,
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// Whenever nothing else is waiting.
    Background,
}

impl Priority {
    /// From the most to the least important.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Interactive, Self::Background];

    /// As in requests and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Interactive => "interactive",
            Self::Background => "background",
        }
    }
}
