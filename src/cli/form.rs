//! Flags that force an answer's form, for the commands that ask a model.

use std::path::{Path, PathBuf};

use clap::Args;
use models::{AnswerOptions, NamedSchema, ResponseFormat};
use serde::de::DeserializeOwned;

use super::Failure;

/// At most one of them.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub(super) struct FormFlags {
    /// Force an answer that is JSON under the schema in this file
    #[arg(long, value_name = "FILE")]
    pub(super) json_schema: Option<PathBuf>,
    /// Force an answer that this regular expression matches as a whole
    #[arg(long, value_name = "PATTERN")]
    pub(super) regex: Option<String>,
    /// Force one of these answers; to be repeated
    #[arg(long, value_name = "TEXT")]
    pub(super) choice: Vec<String>,
}

impl FormFlags {
    /// The form, where one was asked for.
    pub(super) fn response_format(self) -> Result<Option<ResponseFormat>, Failure> {
        if let Some(path) = self.json_schema {
            let json_schema = NamedSchema {
                name: "answer".to_owned(),
                description: None,
                schema: read_json("--json-schema", &path)?,
                strict: None,
            };
            return Ok(Some(ResponseFormat::JsonSchema { json_schema }));
        }
        if let Some(pattern) = self.regex {
            return Ok(Some(ResponseFormat::Regex { pattern }));
        }
        let choices = self.choice;
        Ok((!choices.is_empty()).then_some(ResponseFormat::Choice { choices }))
    }

    /// What a request is to be answered with.
    pub(super) fn answer(self, logprobs: Option<usize>) -> Result<AnswerOptions, Failure> {
        Ok(AnswerOptions {
            response_format: self.response_format()?.unwrap_or_default(),
            logprobs,
            ..AnswerOptions::default()
        })
    }
}

/// Reads a file that a flag names.
pub(super) fn read_json<T: DeserializeOwned>(flag: &str, path: &Path) -> Result<T, Failure> {
    let wrong =
        |why: String| Failure::Misconfigured(format!("{flag} {}: {why}; give a JSON file", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
}
