//! Tools that a model may call, as OpenAI writes them.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::schema;
use crate::error::RequestError;

/// One tool, as the request gives it and the model's template is given it:
/// `{"type": "function", "function": {"name", "description", "parameters"}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tool(pub Value);

/// Which tools may or must be called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None, and the model is shown none.
    None,
    /// At least one.
    Required,
    /// This one, once.
    Function(String),
}

/// A call that the model makes, or made in an earlier turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Nine letters and digits, which is what the strictest templates take.
    #[serde(default)]
    pub id: String,
    /// Always a function.
    #[serde(default, rename = "type")]
    pub kind: FunctionKind,
    /// What is called.
    pub function: FunctionCall,
}

/// The only kind of tool there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionKind {
    /// A function.
    #[default]
    Function,
}

/// A function's name and arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Which.
    pub name: String,
    /// A JSON object as text; an object itself is taken, too.
    #[serde(deserialize_with = "text_or_json")]
    pub arguments: String,
}

fn text_or_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        value => value.to_string(),
    })
}

impl ToolCall {
    pub(crate) fn bytes(&self) -> usize {
        self.id.len() + self.function.name.len() + self.function.arguments.len()
    }

    /// As templates want it: the arguments as an object, where they are one.
    pub(crate) fn for_template(&self) -> Value {
        let arguments = serde_json::from_str(&self.function.arguments).ok();
        let arguments = arguments
            .filter(Value::is_object)
            .unwrap_or_else(|| Value::from(self.function.arguments.as_str()));
        json!({
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments},
        })
    }
}

impl TryFrom<Value> for ToolChoice {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value.as_str() {
            Some("auto") => return Ok(Self::Auto),
            Some("none") => return Ok(Self::None),
            Some("required") => return Ok(Self::Required),
            _ => {}
        }
        match (value["type"].as_str(), value["function"]["name"].as_str()) {
            (Some("function"), Some(name)) => Ok(Self::Function(name.to_owned())),
            _ => Err(
                "tool_choice must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": \
                 {\"name\": …}}"
                    .to_owned(),
            ),
        }
    }
}

impl From<ToolChoice> for Value {
    fn from(choice: ToolChoice) -> Value {
        match choice {
            ToolChoice::Auto => "auto".into(),
            ToolChoice::None => "none".into(),
            ToolChoice::Required => "required".into(),
            ToolChoice::Function(name) => json!({"type": "function", "function": {"name": name}}),
        }
    }
}

/// The most tools of one request.
const TOOLS: usize = 128;
/// As in OpenAI's.
const NAME_BYTES: usize = 64;

impl Tool {
    /// The function's name.
    pub fn name(&self) -> &str {
        self.0["function"]["name"].as_str().unwrap_or_default()
    }

    /// The JSON schema of its arguments; that of an empty object where there is none.
    pub fn parameters(&self) -> Value {
        match &self.0["function"]["parameters"] {
            Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
            parameters => parameters.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.to_string().len()
    }

    fn check(&self) -> Result<(), String> {
        let example = "write {\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": …}}";
        if self.0["type"] != "function" || !self.0["function"].is_object() {
            return Err(format!("one is no function; {example}"));
        }
        let name = self.name();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(legal) {
            return Err(format!(
                "the name {name:?} is not possible; give 1 to {NAME_BYTES} of the letters a–z, digits, _, - and ."
            ));
        }
        if schema::depth(&self.0, schema::DEPTH) > schema::DEPTH {
            return Err(format!("{name} is nested too deep; make its parameters flatter"));
        }
        schema::check(&self.parameters()).map_err(|problem| format!("the parameters of {name}: {problem}"))
    }
}

pub(super) fn check(tools: &[Tool], choice: &ToolChoice) -> Result<(), RequestError> {
    let wrong = |problem: String| Err(RequestError::InvalidTools { problem });
    if tools.len() > TOOLS {
        return wrong(format!("there are {}; at most {TOOLS} are possible", tools.len()));
    }
    for tool in tools {
        if let Err(problem) = tool.check() {
            return wrong(problem);
        }
        if tools.iter().filter(|other| other.name() == tool.name()).count() > 1 {
            return wrong(format!("two are named {:?}; rename one", tool.name()));
        }
    }
    match choice {
        ToolChoice::Required if tools.is_empty() => {
            wrong("tool_choice is \"required\", but there are none; give `tools`".to_owned())
        }
        ToolChoice::Function(name) if !tools.iter().any(|tool| tool.name() == name) => wrong(format!(
            "tool_choice names {name:?}, which is not among the tools"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Tool {
        Tool(json!({"type": "function", "function": {"name": name}}))
    }

    #[test]
    fn choices_are_read_as_openai_writes_them() {
        for (text, choice) in [
            ("\"auto\"", ToolChoice::Auto),
            ("\"none\"", ToolChoice::None),
            ("\"required\"", ToolChoice::Required),
            (
                r#"{"type":"function","function":{"name":"f"}}"#,
                ToolChoice::Function("f".into()),
            ),
        ] {
            assert_eq!(serde_json::from_str::<ToolChoice>(text).unwrap(), choice);
            assert_eq!(serde_json::to_string(&choice).unwrap(), text);
        }
        for text in ["\"always\"", "1", "{}", r#"{"type":"function"}"#] {
            let error = serde_json::from_str::<ToolChoice>(text).unwrap_err();
            assert!(error.to_string().contains("tool_choice"), "{error}");
        }
    }

    #[test]
    fn arguments_are_a_text_or_an_object() {
        for text in [
            r#"{"id":"a","type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":2}"}}"#,
            r#"{"id":"a","function":{"name":"f","arguments":{"b":1,"a":2}}}"#,
        ] {
            let call: ToolCall = serde_json::from_str(text).unwrap();
            assert_eq!(call.function.arguments, r#"{"b":1,"a":2}"#);
            assert_eq!(call.for_template()["function"]["arguments"]["b"], 1);
        }
    }

    #[test]
    fn what_is_wrong_with_tools_is_named() {
        let deep = (0..70).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
        for (tools, choice, says) in [
            (vec![Tool(json!({}))], ToolChoice::Auto, "no function"),
            (vec![tool("a b")], ToolChoice::Auto, "\"a b\""),
            (vec![tool("a"), tool("a")], ToolChoice::Auto, "two are named"),
            (vec![], ToolChoice::Required, "give `tools`"),
            (
                vec![tool("a")],
                ToolChoice::Function("b".into()),
                "not among the tools",
            ),
            (vec![tool("a"); 129], ToolChoice::Auto, "at most 128"),
            (
                vec![Tool(
                    json!({"type": "function", "function": {"name": "a", "parameters": deep}}),
                )],
                ToolChoice::Auto,
                "too deep",
            ),
        ] {
            let error = check(&tools, &choice).unwrap_err();
            assert_eq!(error.code(), "invalid_tools");
            assert!(error.to_string().contains(says), "{error}");
        }
        check(&[tool("a"), tool("b")], &ToolChoice::Function("b".into())).unwrap();
    }
}
