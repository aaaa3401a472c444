//! Sentences and what they mean, drawn from the pattern files of `models/embedded/patterns`: what the embedded model is trained
//! on. The same files and the same seed give the same sentences.

mod around;
mod chance;
mod noise;
mod numbers;
mod open;
mod patterns;
mod sample;
mod say;
mod slips;
#[cfg(test)]
mod tests;

pub use chance::Chance;
pub use patterns::{PatternError, Patterns};
pub use sample::Sampler;

use models::assistant::actions::Action;

/// What the assistant understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Chinese.
    Chinese,
}

impl Language {
    /// Both.
    pub const ALL: [Self; 2] = [Self::English, Self::Chinese];

    /// As directories and files are named.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }
}

/// A sentence and what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The sentence.
    pub text: String,
    /// What it means.
    pub actions: Vec<Action>,
    /// What is said to it.
    pub say: String,
}
