//! How models write tool calls: each family in its own way, which its chat template tells.

use serde_json::Value;

use super::tools::{FunctionCall, Tool};

/// A way to write calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallStyle {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, one for each call: Hermes, Qwen, SmolLM3.
    Hermes,
    /// `{"name": …, "parameters": …}` and nothing else, perhaps behind `<|python_tag|>`: Llama 3.1 to 3.3.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}, …]`: Mistral up to its tokenizer's version 7.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`, one for each call: Mistral from version 11 on.
    MistralArgs,
    /// `<|tool_call|>[{"name": …, "arguments": …}, …]<|/tool_call|>`: Phi-4-mini, Granite.
    Phi,
}

/// The most calls of one forced answer.
const MOST_CALLS: usize = 8;

impl CallStyle {
    /// What a template's text shows.
    pub(crate) fn of_template(source: &str) -> Option<Self> {
        let has = |text: &str| source.contains(text);
        if has("[TOOL_CALLS]") {
            Some(if has("[ARGS]") {
                Self::MistralArgs
            } else {
                Self::Mistral
            })
        } else if has("<|tool_call|>") {
            Some(Self::Phi)
        } else if has("<tool_call>") {
            Some(Self::Hermes)
        } else if has("<|python_tag|>") || (has("ipython") && has("\"parameters\"")) {
            Some(Self::Llama)
        } else {
            None
        }
    }

    /// What begins a call, and what ends it, if anything does.
    pub(super) fn brackets(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Hermes => ("<tool_call>", Some("</tool_call>")),
            Self::Llama => ("<|python_tag|>", None),
            Self::Mistral | Self::MistralArgs => ("[TOOL_CALLS]", None),
            Self::Phi => ("<|tool_call|>", Some("<|/tool_call|>")),
        }
    }

    /// Everything that may be a special token of the model.
    pub(super) fn markers(self) -> Vec<&'static str> {
        let (open, close) = self.brackets();
        let arguments = (self == Self::MistralArgs).then_some("[ARGS]");
        [Some(open), close, arguments].into_iter().flatten().collect()
    }

    /// Whether a call may stand there without anything that begins it, if it is the whole answer.
    pub(super) fn is_bare(self) -> bool {
        self == Self::Llama
    }

    /// The calls in what stands between the brackets; None if there is anything else.
    pub(super) fn read(self, body: &str) -> Option<Vec<FunctionCall>> {
        if self == Self::MistralArgs
            && let Some((name, arguments)) = body.split_once("[ARGS]")
        {
            let arguments: Value = serde_json::from_str(arguments).ok()?;
            return Some(vec![FunctionCall {
                name: name.trim().to_owned(),
                arguments: arguments.is_object().then(|| arguments.to_string())?,
            }]);
        }
        // Llama separates several calls by semicolons, which are not JSON; a stream of values is read as far as it is.
        let mut calls = Vec::new();
        let mut rest = body.trim();
        while !rest.is_empty() {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            match values.next()?.ok()? {
                Value::Array(list) => {
                    for value in list {
                        calls.push(call(&value)?);
                    }
                }
                value => calls.push(call(&value)?),
            }
            rest = rest[values.byte_offset()..].trim_start();
            if self == Self::Llama {
                rest = rest.strip_prefix(';').unwrap_or(rest).trim_start();
            }
        }
        (!calls.is_empty()).then_some(calls)
    }

    /// A Lark grammar of an answer that is calls and nothing else, one or several. `marker` gives what a bracket is in the
    /// grammar; the arguments of the tool with the number n are the grammar `@arguments_n`.
    pub(super) fn grammar(self, tools: &[&Tool], several: bool, marker: impl Fn(&str) -> String) -> String {
        let text = |text: &str| Value::from(text).to_string();
        let object = |key: &str| {
            let calls = tools.iter().enumerate().map(|(number, tool)| {
                let head = format!("{{\"name\": {}, \"{key}\": ", text(tool.name()));
                format!("{} @arguments_{number} \"}}\"", text(&head))
            });
            calls.collect::<Vec<_>>().join(" | ")
        };
        let more = |separator: &str| match several {
            true => format!(" ({separator} call){{0,{}}}", MOST_CALLS - 1),
            false => String::new(),
        };
        let (open, close) = self.brackets();
        let open = marker(open);
        let close = close.map(&marker).unwrap_or_default();
        match self {
            Self::Hermes => format!(
                "answer: call{}\ncall: {open} \"\\n\" body \"\\n\" {close}\nbody: {}\n",
                more("\"\\n\""),
                object("arguments")
            ),
            Self::Llama => format!("answer: call\ncall: {}\n", object("parameters")),
            Self::Mistral | Self::Phi => format!(
                "answer: {open} \"[\" call{} \"]\" {close}\ncall: {}\n",
                more("\", \""),
                object("arguments")
            ),
            Self::MistralArgs => {
                let calls = tools.iter().enumerate().map(|(number, tool)| {
                    format!(
                        "{open} {} {} @arguments_{number}",
                        text(tool.name()),
                        marker("[ARGS]")
                    )
                });
                format!(
                    "answer: call{}\ncall: {}\n",
                    more(""),
                    calls.collect::<Vec<_>>().join(" | ")
                )
            }
        }
    }
}

fn call(value: &Value) -> Option<FunctionCall> {
    let name = value["name"].as_str()?.to_owned();
    let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::Object(arguments)) => Value::Object(arguments.clone()).to_string(),
        // Some models write the object as a text once more.
        Some(Value::String(text)) => serde_json::from_str::<Value>(text)
            .ok()
            .filter(Value::is_object)?
            .to_string(),
        Some(_) => return None,
    };
    Some(FunctionCall { name, arguments })
}
