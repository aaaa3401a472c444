//! Answers in the bridge's form: `{"data": {…}, "status": "ok"}` or `{"data": {}, "status": "error", "error": "…"}`,
//! with the question's transaction.

use serde_json::{Map, Value, json};

/// A question as it came.
pub(super) struct Asked {
    /// The code, where one is asked for.
    pub(super) code: Option<String>,
    /// Echoed in the answer.
    pub(super) transaction: Option<Value>,
}

/// Reads a question: nothing, a code as it is, or a JSON object.
pub(super) fn parse(payload: &[u8]) -> Result<Asked, &'static str> {
    let text = str::from_utf8(payload)
        .map_err(|_| "the question is no text; send the code, or a JSON object with it")?;
    let text = text.trim();
    if !text.starts_with('{') {
        return Ok(Asked {
            code: (!text.is_empty()).then(|| text.to_owned()),
            transaction: None,
        });
    }
    // What serde_json says of a mistake shows a piece of the text, and that may be the code.
    let mut members: Map<String, Value> =
        serde_json::from_str(text).map_err(|_| "the question begins like a JSON object, and is none")?;
    let code = match members.remove("code") {
        None => None,
        Some(Value::String(code)) => Some(code),
        Some(_) => return Err("`code` is not a text in quotes"),
    };
    Ok(Asked {
        code,
        transaction: members.remove("transaction"),
    })
}

/// The answer as bytes.
pub(super) fn bytes(outcome: Result<Value, String>, transaction: Option<Value>) -> Vec<u8> {
    let mut answer = match outcome {
        Ok(data) => json!({"data": data, "status": "ok"}),
        Err(error) => json!({"data": {}, "status": "error", "error": error}),
    };
    if let (Some(transaction), Value::Object(members)) = (transaction, &mut answer) {
        members.insert("transaction".into(), transaction);
    }
    answer.to_string().into_bytes()
}
