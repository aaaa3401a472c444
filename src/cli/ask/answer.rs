//! The items of an answer, one after the other.

use std::io::{self, Write};

use serde::Deserialize;
use serde_json::Value;

use crate::cli::Failure;

/// Writes what has come so far and knows when it was the last.
#[derive(Debug)]
pub(super) struct Answer<W> {
    out: W,
    json: bool,
    next_seq: u64,
    text_is_open: bool,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    delta: String,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    error: Option<ItemError>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    tool_calls: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct ItemError {
    code: String,
    message: String,
}

/// What an item meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More is to come.
    Continues,
    /// That was all.
    Finished,
}

impl<W: Write> Answer<W> {
    pub(super) fn new(out: W, json: bool) -> Answer<W> {
        Answer {
            out,
            json,
            next_seq: 0,
            text_is_open: false,
        }
    }

    /// Takes an item in. An error is the answer's own, a gap, or that nobody reads what we write.
    pub(super) fn take(&mut self, payload: &[u8]) -> Result<Step, Failure> {
        let item: Item = serde_json::from_slice(payload).map_err(|error| {
            Failure::AtRunTime(format!("the daemon sent something that is no answer: {error}"))
        })?;
        if let Some(seq) = item.seq {
            // QoS 1 may deliver twice; it may not leave out.
            if seq < self.next_seq {
                return Ok(Step::Continues);
            }
            if seq > self.next_seq {
                let lost = format!(
                    "items {} to {} of the answer are missing; ask again",
                    self.next_seq,
                    seq - 1
                );
                return Err(Failure::AtRunTime(lost));
            }
        }
        self.next_seq += 1;
        self.write(&item, payload).map_err(|error| {
            Failure::AtRunTime(format!(
                "the answer could not be written to standard output: {error}"
            ))
        })?;
        if let Some(error) = item.error {
            return Err(Failure::AtRunTime(format!("{} ({})", error.message, error.code)));
        }
        if item.done && item.finish_reason.as_deref() == Some("cancelled") {
            return Err(Failure::AtRunTime(
                "the answer was cancelled before its end".to_owned(),
            ));
        }
        Ok(if item.done {
            Step::Finished
        } else {
            Step::Continues
        })
    }

    /// Ends a line that was begun, so that a message or the next prompt does not hang on to it.
    pub(super) fn close(&mut self) {
        if self.text_is_open {
            let _nobody_reads = writeln!(self.out);
            self.text_is_open = false;
        }
    }

    fn write(&mut self, item: &Item, payload: &[u8]) -> io::Result<()> {
        if self.json {
            self.out.write_all(payload)?;
            self.out.write_all(b"\n")?;
        } else if !item.delta.is_empty() {
            self.out.write_all(item.delta.as_bytes())?;
            self.text_is_open = !item.delta.ends_with('\n');
        }
        if !self.json && !item.tool_calls.is_empty() {
            self.close();
            for call in &item.tool_calls {
                writeln!(self.out, "{call}")?;
            }
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written, and how it ended.
    fn answer(json: bool, items: &[&str]) -> (String, Result<Step, String>) {
        let mut out = Vec::new();
        let mut answer = Answer::new(&mut out, json);
        let mut last = Ok(Step::Continues);
        for item in items {
            last = answer
                .take(item.as_bytes())
                .map_err(|failure| format!("{failure:?}"));
            if last.is_err() {
                break;
            }
        }
        answer.close();
        (String::from_utf8(out).unwrap(), last)
    }

    const FIRST: &str = r#"{"id":"x","seq":0,"delta":"Once"}"#;
    const SECOND: &str = r#"{"id":"x","seq":1,"delta":" upon"}"#;
    const LAST: &str =
        r#"{"id":"x","seq":2,"delta":"","done":true,"finish_reason":"stop","usage":{"prompt_tokens":1}}"#;

    #[test]
    fn deltas_are_joined_and_the_line_is_ended() {
        assert_eq!(
            answer(false, &[FIRST, SECOND, LAST]),
            ("Once upon\n".to_owned(), Ok(Step::Finished))
        );
    }

    #[test]
    fn calls_are_lines_of_their_own() {
        let last = r#"{"id":"x","seq":1,"delta":"","done":true,"finish_reason":"tool_calls","tool_calls":[{"id":"1"},{"id":"2"}]}"#;
        assert_eq!(
            answer(false, &[FIRST, last]),
            (
                "Once\n{\"id\":\"1\"}\n{\"id\":\"2\"}\n".to_owned(),
                Ok(Step::Finished)
            )
        );
    }

    #[test]
    fn an_item_that_comes_twice_is_written_once() {
        assert_eq!(
            answer(false, &[FIRST, FIRST, SECOND, SECOND, LAST]).0,
            "Once upon\n"
        );
    }

    #[test]
    fn a_missing_item_ends_it_with_a_message() {
        let (text, end) = answer(false, &[FIRST, LAST]);
        assert_eq!(text, "Once\n");
        assert!(end.unwrap_err().contains("items 1 to 1"));
    }

    #[test]
    fn raw_items_stay_as_they_came() {
        assert_eq!(
            answer(true, &[FIRST, SECOND, LAST]).0,
            format!("{FIRST}\n{SECOND}\n{LAST}\n")
        );
    }

    #[test]
    fn an_error_item_is_a_failure_that_says_what_the_daemon_said() {
        let item = r#"{"id":"x","seq":0,"done":true,"finish_reason":"error","error":{"code":"no_model","message":"load one"}}"#;
        let (text, end) = answer(false, &[item]);
        assert_eq!(text, "");
        assert!(end.unwrap_err().contains("load one (no_model)"));
    }

    #[test]
    fn something_else_than_an_item_is_a_failure() {
        assert!(answer(false, &["online"]).1.is_err());
    }
}
