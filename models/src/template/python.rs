//! The methods of Python's strings, lists and dictionaries that templates call.

use minijinja::value::{Tuple, Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Those that minijinja's own collection lacks or does otherwise than Python; then that collection.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match method {
            "title" => {
                let () = from_args(args)?;
                return Ok(Value::from(title(text)));
            }
            "split" | "rsplit" => return split(text, method == "rsplit", args),
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                return partition(text, separator, method == "rpartition");
            }
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// Each word's first letter in upper case, its others in lower case.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        if in_word {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        in_word = character.is_alphabetic();
    }
    titled
}

fn split(text: &str, from_end: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok());
    let mut parts: Vec<&str> = match (separator, most) {
        (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        (Some(separator), None) => text.split(separator).collect(),
        (Some(separator), Some(most)) if from_end => {
            text.rsplitn(most.saturating_add(1), separator).collect()
        }
        (Some(separator), Some(most)) => text.splitn(most.saturating_add(1), separator).collect(),
        (None, None) => text.split_whitespace().collect(),
        (None, Some(most)) => split_space(text, most, from_end),
    };
    if from_end && most.is_some() {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// At any run of space, so many times; the rest keeps the space within it. From the end the parts come in that order.
fn split_space(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    // Only on the side where it begins to split.
    let mut rest = if from_end {
        text.trim_end()
    } else {
        text.trim_start()
    };
    while !rest.is_empty() {
        let at = if from_end {
            rest.rfind(char::is_whitespace)
        } else {
            rest.find(char::is_whitespace)
        };
        let Some(at) = at.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        let (before, after) = rest.split_at(at);
        let (part, left) = match from_end {
            true => (after.trim_start(), before.trim_end()),
            false => (before, after.trim_start()),
        };
        parts.push(part);
        rest = left;
    }
    parts
}

fn partition(text: &str, separator: &str, from_end: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let found = if from_end {
        text.rsplit_once(separator)
    } else {
        text.split_once(separator)
    };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}
