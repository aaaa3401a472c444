//! The form that an answer is to have.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;
use crate::error::RequestError;

/// What a request may ask of its answer, in OpenAI's words where there are some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", from = "Written")]
pub enum ResponseFormat {
    /// Anything.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON under a schema.
    JsonSchema {
        /// The schema, with its name.
        json_schema: NamedSchema,
    },
    /// A text that a regular expression matches from its beginning to its end.
    Regex {
        /// In the syntax of Rust's crate `regex`: no references back, no looking around; `\d` and
        /// `\w` are ASCII.
        pattern: String,
    },
    /// One of these texts.
    Choice {
        /// None empty.
        choices: Vec<String>,
    },
}

/// The same, for reading: serde refuses unknown fields only of variants that could have some.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Written {
    Text {},
    JsonObject {},
    JsonSchema { json_schema: NamedSchema },
    Regex { pattern: String },
    Choice { choices: Vec<String> },
}

impl From<Written> for ResponseFormat {
    fn from(written: Written) -> Self {
        match written {
            Written::Text {} => Self::Text,
            Written::JsonObject {} => Self::JsonObject,
            Written::JsonSchema { json_schema } => Self::JsonSchema { json_schema },
            Written::Regex { pattern } => Self::Regex { pattern },
            Written::Choice { choices } => Self::Choice { choices },
        }
    }
}

/// A schema as OpenAI wraps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSchema {
    /// For the caller; nothing here depends on it.
    #[serde(default)]
    pub name: String,
    /// For the caller, too: the model does not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema.
    pub schema: Value,
    /// Always so here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// The longest regular expression in bytes.
const PATTERN_BYTES: usize = 4096;
/// The most choices, and the bytes of all together.
const CHOICES: usize = 1024;
const CHOICES_BYTES: usize = 32 * 1024;

impl ResponseFormat {
    pub(super) fn validate(&self) -> Result<(), RequestError> {
        let wrong = |problem: String| Err(RequestError::InvalidResponseFormat { problem });
        match self {
            Self::Text | Self::JsonObject => Ok(()),
            Self::JsonSchema { json_schema } => schema::check(&json_schema.schema).or_else(wrong),
            Self::Regex { pattern } if pattern.is_empty() || pattern.len() > PATTERN_BYTES => wrong(format!(
                "the pattern has {} bytes; give one of 1 to {PATTERN_BYTES}",
                pattern.len()
            )),
            Self::Regex { .. } => Ok(()),
            Self::Choice { choices } => {
                let bytes: usize = choices.iter().map(String::len).sum();
                if choices.is_empty() || choices.len() > CHOICES || bytes > CHOICES_BYTES {
                    return wrong(format!(
                        "there are {} choices of {bytes} bytes; give 1 to {CHOICES}, of at most {CHOICES_BYTES} \
                         bytes together",
                        choices.len()
                    ));
                }
                if choices.iter().any(String::is_empty) {
                    return wrong("a choice is empty; leave it out, or give it a text".to_owned());
                }
                Ok(())
            }
        }
    }
}
