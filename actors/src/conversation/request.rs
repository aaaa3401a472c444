//! What a client asks: plain text, or JSON with options. Everything that is wrong with it is said
//! in words that tell what to change.

use std::time::Duration;

use models::{
    AnswerOptions, ChatMessage, GenerateRequest, Precision, Prompt, ResponseFormat, Sampling, Tool,
    ToolChoice,
};
use serde::Deserialize;
use serde_json::Value;

use crate::policy::priority::Priority;

/// Bounds and defaults from the settings.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// The longest prompt, all messages together.
    pub max_prompt_bytes: usize,
    /// Tokens generated where the request does not say.
    pub default_max_tokens: usize,
    /// The most a request may ask for.
    pub max_tokens_limit: usize,
}

/// A request that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// The client's own name for it, if it gave one.
    pub id: Option<String>,
    /// How much it matters.
    pub priority: Priority,
    /// What to generate.
    pub generate: GenerateRequest,
    /// Whether a prompt is the next turn of the device's conversation; otherwise it is asked without, and not
    /// remembered.
    pub history: bool,
    /// How long its answer may take.
    pub deadline: Option<Duration>,
    /// Fewer bits than these, and it had rather not be answered.
    pub min_precision: Option<Precision>,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// The client's own name for the request, as far as it could be read.
    pub id: Option<String>,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people: what to change.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    /// Read apart, so that an error in the rest can name it.
    #[serde(rename = "id")]
    _id: Option<Value>,
    prompt: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    #[serde(default)]
    priority: Priority,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    repetition_window: Option<usize>,
    seed: Option<u64>,
    #[serde(default)]
    stop: StopTexts,
    history: Option<bool>,
    response_format: Option<ResponseFormat>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoice>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    min_confidence: Option<f32>,
    deadline_ms: Option<u64>,
    min_precision: Option<Precision>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum StopTexts {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// Nobody waits longer for an answer, and instants do not go on for ever.
const LONGEST_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The longest id a client may give: it is echoed in every item.
const MAX_ID_BYTES: usize = 128;

/// Reads a command's payload. JSON is what begins with `{`; anything else is the prompt itself.
pub(super) fn parse(payload: &[u8], limits: &RequestLimits) -> Result<Request, Invalid> {
    let invalid = |id: Option<&str>, code, message: String| Invalid {
        id: id.map(str::to_owned),
        code,
        message,
    };
    let text = std::str::from_utf8(payload).map_err(|e| {
        let message = format!("the payload is not UTF-8 ({e}); send text or JSON encoded as UTF-8");
        invalid(None, "invalid_utf8", message)
    })?;
    if !text.trim_start().starts_with('{') {
        let raw = RawRequest::of_prompt(text.to_owned());
        return raw.check(None, limits);
    }
    let value: Value = serde_json::from_str(text).map_err(|e| {
        let message = format!("the payload begins like JSON but is none: {e}; mend it, or send plain text");
        invalid(None, "invalid_json", message)
    })?;
    let id = read_id(value.get("id")).map_err(|message| invalid(None, "invalid_request", message))?;
    let raw: RawRequest = serde_json::from_value(value).map_err(|e| {
        invalid(
            id.as_deref(),
            "invalid_request",
            format!("the request cannot be used: {e}"),
        )
    })?;
    raw.check(id, limits)
}

fn read_id(id: Option<&Value>) -> Result<Option<String>, String> {
    let id = match id {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        Some(_) => return Err("`id` must be a text or a number".into()),
    };
    if id.len() > MAX_ID_BYTES {
        return Err(format!(
            "`id` has {} bytes; at most {MAX_ID_BYTES} are allowed",
            id.len()
        ));
    }
    Ok(Some(id))
}

impl RawRequest {
    fn of_prompt(prompt: String) -> Self {
        Self {
            _id: None,
            prompt: Some(prompt),
            messages: None,
            priority: Priority::default(),
            max_tokens: None,
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            repetition_window: None,
            seed: None,
            stop: StopTexts::None,
            history: None,
            response_format: None,
            tools: None,
            tool_choice: None,
            logprobs: None,
            top_logprobs: None,
            min_confidence: None,
            deadline_ms: None,
            min_precision: None,
        }
    }

    fn check(self, id: Option<String>, limits: &RequestLimits) -> Result<Request, Invalid> {
        let invalid = |code, message: String| Invalid {
            id: id.clone(),
            code,
            message,
        };
        let prompt = match (self.prompt, self.messages) {
            (Some(text), None) => Prompt::Text(text),
            (None, Some(messages)) => Prompt::Messages(messages),
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "invalid_request",
                    "give `prompt` or `messages`, not both".into(),
                ));
            }
            (None, None) => {
                return Err(invalid(
                    "invalid_request",
                    "nothing is asked; give `prompt` or `messages`".into(),
                ));
            }
        };
        let blank = match &prompt {
            Prompt::Text(text) => text.trim().is_empty(),
            Prompt::Messages(messages) => messages
                .iter()
                .all(|m| m.content.trim().is_empty() && m.tool_calls.is_empty()),
        };
        if self.top_logprobs.is_some() && self.logprobs != Some(true) {
            let message = "`top_logprobs` needs `logprobs`: true; give both, or neither".to_owned();
            return Err(invalid("invalid_request", message));
        }
        let answer = AnswerOptions {
            response_format: self.response_format.unwrap_or_default(),
            tools: self.tools.unwrap_or_default(),
            tool_choice: self.tool_choice.unwrap_or_default(),
            logprobs: self
                .logprobs
                .filter(|wanted| *wanted)
                .map(|_| self.top_logprobs.unwrap_or(0)),
            min_confidence: self.min_confidence,
        };
        // Tools are part of what the model is told.
        let prompt_bytes = prompt.bytes() + answer.prompt_bytes();
        if blank {
            return Err(invalid(
                "empty_prompt",
                "the prompt is empty; say what you want".into(),
            ));
        }
        if prompt_bytes > limits.max_prompt_bytes {
            let message = format!(
                "the prompt has {prompt_bytes} bytes; at most {} are allowed (conversation.max_prompt_bytes)",
                limits.max_prompt_bytes
            );
            return Err(invalid("prompt_too_long", message));
        }
        let max_tokens = self.max_tokens.unwrap_or(limits.default_max_tokens);
        if max_tokens > limits.max_tokens_limit {
            let message = format!(
                "`max_tokens` is {max_tokens}; at most {} are allowed (conversation.max_tokens_limit)",
                limits.max_tokens_limit
            );
            return Err(invalid("invalid_request", message));
        }
        let default = Sampling::default();
        let generate = GenerateRequest {
            prompt,
            max_tokens,
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(default.temperature),
                top_k: self.top_k.unwrap_or(default.top_k),
                top_p: self.top_p.unwrap_or(default.top_p),
                min_p: self.min_p.unwrap_or(default.min_p),
                repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
                repetition_window: self.repetition_window.unwrap_or(default.repetition_window),
                seed: self.seed,
            },
            stop: match self.stop {
                StopTexts::None => Vec::new(),
                StopTexts::One(text) => vec![text],
                StopTexts::Many(texts) => texts,
            },
            answer,
            said: Vec::new(),
            said_text: String::new(),
        };
        generate
            .validate()
            .map_err(|e| invalid(e.code(), e.to_string()))?;
        Ok(Request {
            id,
            priority: self.priority,
            generate,
            history: self.history.unwrap_or(true),
            deadline: self
                .deadline_ms
                .map(|ms| Duration::from_millis(ms).min(LONGEST_DEADLINE)),
            min_precision: self.min_precision,
        })
    }
}

/// What a cancel names: one request by its id, or all of the device's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CancelTarget {
    /// Every request of the device.
    All,
    /// The one the client named so.
    Id(String),
}

/// Reads a cancel's payload: nothing for all, an id as plain text, or `{"id": …}`.
pub(super) fn parse_cancel(payload: &[u8]) -> Result<CancelTarget, Invalid> {
    let invalid = |message: String| Invalid {
        id: None,
        code: "invalid_request",
        message,
    };
    let text = std::str::from_utf8(payload)
        .map_err(|_| invalid("a cancel is an id as UTF-8 text, {\"id\": …}, or empty for all".into()))?;
    let text = text.trim();
    if text.is_empty() {
        return Ok(CancelTarget::All);
    }
    if !text.starts_with('{') {
        return Ok(CancelTarget::Id(text.to_owned()));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| invalid(format!("not JSON: {e}")))?;
    match read_id(value.get("id")).map_err(invalid)? {
        Some(id) => Ok(CancelTarget::Id(id)),
        None => Ok(CancelTarget::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: RequestLimits = RequestLimits {
        max_prompt_bytes: 100,
        default_max_tokens: 7,
        max_tokens_limit: 50,
    };

    #[test]
    fn plain_text_is_the_prompt_as_it_is() {
        let request = parse(b" Once upon a time", &LIMITS).unwrap();
        assert_eq!(request.generate.prompt, Prompt::Text(" Once upon a time".into()));
        assert_eq!(request.generate.max_tokens, 7);
        assert_eq!(request.priority, Priority::Interactive);
    }

    #[test]
    fn json_carries_the_options() {
        let json = br#"{"id": 5, "messages": [{"role": "user", "content": "hi"}], "priority": "urgent",
            "max_tokens": 3, "temperature": 0, "stop": "."}"#;
        let request = parse(json, &LIMITS).unwrap();
        assert_eq!(request.id.as_deref(), Some("5"));
        assert_eq!(request.priority, Priority::Urgent);
        assert_eq!(request.generate.sampling.temperature, 0.0);
        assert_eq!(request.generate.stop, ["."]);
    }

    #[test]
    fn forms_tools_and_log_probabilities_are_read_as_openai_writes_them() {
        let json = br#"{"messages": [
                {"role": "assistant", "content": null, "tool_calls": [{"id": "123456789", "type": "function",
                    "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "123456789", "content": "4"}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": "required", "logprobs": true, "top_logprobs": 2}"#;
        let limits = RequestLimits {
            max_prompt_bytes: 1000,
            ..LIMITS
        };
        let answer = parse(json, &limits).unwrap().generate.answer;
        assert_eq!(
            (answer.tools[0].name(), answer.tool_choice, answer.logprobs),
            ("f", ToolChoice::Required, Some(2))
        );
        let json = br#"{"prompt": "x", "response_format": {"type": "json_schema", "json_schema":
            {"name": "n", "strict": true, "schema": {"type": "object", "properties": {"z": {}, "a": {}}}}}}"#;
        let ResponseFormat::JsonSchema { json_schema } =
            parse(json, &LIMITS).unwrap().generate.answer.response_format
        else {
            panic!("no schema");
        };
        // The order of properties is the order in which they are written.
        assert_eq!(json_schema.schema["properties"].to_string(), r#"{"z":{},"a":{}}"#);
        let deep = format!(
            r#"{{"prompt": "x", "response_format": {{"type": "json_schema", "json_schema": {{"schema": {}{}}}}}}}"#,
            "{\"items\":".repeat(100),
            "{}".to_owned() + &"}".repeat(100)
        );
        for (payload, code, says) in [
            (
                r#"{"prompt": "x", "response_format": {"type": "yaml"}}"#,
                "invalid_request",
                "json_schema",
            ),
            (
                r#"{"prompt": "x", "response_format": {"type": "choice"}}"#,
                "invalid_request",
                "choices",
            ),
            (
                r#"{"prompt": "x", "response_format": {"type": "choice", "choices": []}}"#,
                "invalid_response_format",
                "give 1 to",
            ),
            (
                r#"{"prompt": "x", "response_format": {"type": "text", "pattern": "a"}}"#,
                "invalid_request",
                "pattern",
            ),
            (
                r#"{"prompt": "x", "tool_choice": "always"}"#,
                "invalid_request",
                "tool_choice must be",
            ),
            (
                r#"{"prompt": "x", "tools": [{}]}"#,
                "invalid_tools",
                "no function",
            ),
            (
                r#"{"prompt": "x", "top_logprobs": 1}"#,
                "invalid_request",
                "needs `logprobs`",
            ),
            (
                r#"{"prompt": "x", "logprobs": true, "top_logprobs": 21}"#,
                "invalid_sampling",
                "0 to 20",
            ),
            (r#"{"prompt": "x", "logprobs": 1}"#, "invalid_request", "boolean"),
            (&deep, "invalid_response_format", "nested deeper"),
        ] {
            let invalid = parse(payload.as_bytes(), &LIMITS).unwrap_err();
            assert_eq!(invalid.code, code, "{payload}: {invalid:?}");
            assert!(invalid.message.contains(says), "{payload}: {invalid:?}");
        }
        let long = format!(
            r#"{{"prompt": "x", "tools": [{{"type": "function", "function": {{"name": "f", "description": "{}"}}}}]}}"#,
            "x".repeat(100)
        );
        assert_eq!(
            parse(long.as_bytes(), &LIMITS).unwrap_err().code,
            "prompt_too_long"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_the_id_it_concerns() {
        let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(101));
        for (payload, code, says) in [
            (r#"{"prompt": "#, "invalid_json", "mend it"),
            (
                r#"{"id": "a", "prompt": "x", "tempratur": 1}"#,
                "invalid_request",
                "tempratur",
            ),
            (r#"{"id": "a"}"#, "invalid_request", "prompt"),
            (
                r#"{"prompt": "x", "messages": []}"#,
                "invalid_request",
                "not both",
            ),
            (r#"{"prompt": "  "}"#, "empty_prompt", "empty"),
            ("", "empty_prompt", "empty"),
            (
                r#"{"prompt": "x", "max_tokens": 51}"#,
                "invalid_request",
                "max_tokens",
            ),
            (
                r#"{"prompt": "x", "priority": "now"}"#,
                "invalid_request",
                "urgent",
            ),
            (r#"{"prompt": "x", "id": []}"#, "invalid_request", "id"),
            (&long, "prompt_too_long", "100"),
        ] {
            let invalid = parse(payload.as_bytes(), &LIMITS).unwrap_err();
            assert_eq!(invalid.code, code, "{payload}: {invalid:?}");
            assert!(invalid.message.contains(says), "{payload}: {invalid:?}");
            assert_eq!(
                invalid.id.is_some(),
                payload.contains(r#""id": "a""#),
                "{payload}"
            );
        }
        assert_eq!(parse(b"\xff\xfe", &LIMITS).unwrap_err().code, "invalid_utf8");
    }

    #[test]
    fn a_cancel_names_one_or_all() {
        assert_eq!(parse_cancel(b"").unwrap(), CancelTarget::All);
        assert_eq!(parse_cancel(b" r-1 ").unwrap(), CancelTarget::Id("r-1".into()));
        assert_eq!(
            parse_cancel(br#"{"id": 7}"#).unwrap(),
            CancelTarget::Id("7".into())
        );
        assert!(parse_cancel(b"{").is_err());
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..300), text in "[{}\\[\\]\":,a-z0-9 ]{0,80}") {
            let _ = (parse(&payload, &LIMITS), parse_cancel(&payload));
            let _ = (parse(text.as_bytes(), &LIMITS), parse_cancel(text.as_bytes()));
        }
    }
}
