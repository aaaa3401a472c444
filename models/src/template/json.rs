//! JSON in and out of templates: values as they are given, and `tojson` as Python's `json.dumps` writes it.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// A template can put values into each other as often as it likes.
const DEPTH: usize = 128;

/// A value for a template, with the keys in their order. `guard` is applied to every text.
pub(super) fn value(json: &serde_json::Value, guard: &dyn Fn(&str) -> String) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(yes) => Value::from(*yes),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(guard(text)),
        serde_json::Value::Array(values) => values.iter().map(|item| value(item, guard)).collect(),
        serde_json::Value::Object(fields) => Value::from_pairs(
            fields
                .iter()
                .map(|(key, field)| (guard(key), value(field, guard))),
        ),
    }
}

/// The filter of `transformers`: `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let named: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
    };
    let (between, behind_key) = match separators.as_deref() {
        Some([between, behind_key]) => (between.clone(), behind_key.clone()),
        Some(_) => return Err(wrong("separators are two texts")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        out: String::new(),
        ascii: named.or(ensure_ascii).unwrap_or(false),
        indent,
        between,
        behind_key,
        sort_keys: sort_keys.unwrap_or(false),
    };
    writer.write(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    between: String,
    behind_key: String,
    sort_keys: bool,
}

impl Writer {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(wrong("tojson was given a value that is nested too deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let number = number(value)?;
                self.out.push_str(&number);
            }
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.all(['[', ']'], items.len(), depth, |writer, at| {
                    writer.write(&items[at], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    pairs.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.all(['{', '}'], pairs.len(), depth, |writer, at| {
                    let (key, value) = &pairs[at];
                    writer.text(key);
                    let separator = writer.behind_key.clone();
                    writer.out.push_str(&separator);
                    writer.write(value, depth + 1)
                })?;
            }
            other => return Err(wrong(&format!("{other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn all(
        &mut self,
        [open, close]: [char; 2],
        count: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for at in 0..count {
            if at > 0 {
                let separator = self.between.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            item(self, at)?;
        }
        if count > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                control if control < ' ' => self.out.push_str(&format!("\\u{:04x}", u32::from(control))),
                other if self.ascii && other > '~' => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                other => self.out.push(other),
            }
        }
        self.out.push('"');
    }
}

/// Python turns keys that are no texts into some.
fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number => number(key)?,
        other => return Err(wrong(&format!("keys must be texts or numbers, not {other}"))),
    })
}

/// As Python's `repr` writes a number.
fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    if number.is_nan() {
        return Ok("NaN".to_owned());
    }
    if number.is_infinite() {
        return Ok(if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned());
    }
    // Both print the shortest digits that give the number back; they differ in when and how exponents are written.
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return Ok(format!("{digits}e{sign}{exponent:0>2}"));
    }
    let text = number.to_string();
    Ok(if text.contains('.') { text } else { text + ".0" })
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_owned())
}
