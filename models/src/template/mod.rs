//! Chat templates: the model's own Jinja text that turns messages into a prompt.
//!
//! They are written for Python's Jinja with the settings and functions of Hugging Face's `transformers`
//! (`utils/chat_template_utils.py`); what is here gives the same text.

mod date;
mod json;
mod python;

use std::borrow::Cow;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};

pub use date::Date;

use crate::deep_stack::on_deep_stack;
use crate::error::{Problem, RequestError};
use crate::output::{CallStyle, Tool};
use crate::request::ChatMessage;

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    call_style: Option<CallStyle>,
}

/// What a template is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'g> {
    pub(crate) messages: &'g [ChatMessage],
    pub(crate) tools: &'g [Tool],
    /// Texts of the tokens that begin and end a text.
    pub(crate) bos_and_eos: [&'g str; 2],
    pub(crate) today: Option<Date>,
}

impl Template {
    /// Compiles it with the settings that Hugging Face's `transformers` uses.
    pub(crate) fn new(source: &str) -> Result<Self, Problem> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|error| Problem::Template(error.to_string()))?);
        environment.set_unknown_method_callback(python::method);
        // A template comes with the model from the network: it may loop, but not for ever.
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, without_generation_tags(source).into_owned())
            .map_err(|error| Problem::Template(error.to_string()))?;
        let call_style = mentions(source, "tools").then(|| CallStyle::of_template(source));
        Ok(Self {
            environment,
            call_style: call_style.flatten(),
        })
    }

    /// How the model writes tool calls, if its template shows tools to it and a way that is known.
    pub(crate) fn call_style(&self) -> Option<CallStyle> {
        self.call_style
    }

    /// The prompt for these messages, up to where the assistant's answer begins. `guard` makes a text harmless that is
    /// not the template's own.
    ///
    /// # Errors
    /// [`RequestError::Template`] with the template's own words where it refuses them.
    pub(crate) fn render(
        &self,
        given: Given<'_>,
        guard: &dyn Fn(&str) -> String,
    ) -> Result<String, RequestError> {
        let messages: Vec<Value> = given
            .messages
            .iter()
            .map(|message| message_value(message, guard))
            .collect();
        let [bos_token, eos_token] = given.bos_and_eos;
        let mut variables = context! { messages, bos_token, eos_token, add_generation_prompt => true };
        // Without tools the name stays undefined or none, either of which templates take.
        if !given.tools.is_empty() {
            let tools: Vec<Value> = given
                .tools
                .iter()
                .map(|tool| json::value(&tool.0, guard))
                .collect();
            variables = context! { tools, ..variables };
        }
        // Without a day `strftime_now` stays undefined, which templates test for before they call it.
        if let Some(today) = given.today {
            let strftime_now = Value::from_function(move |format: String| today.format(&format));
            variables = context! { strftime_now, ..variables };
        }
        let refused = |message: String| RequestError::Template { message };
        // A template can put values into each other as often as its fuel lasts. They are dropped level by level, those
        // that an error remembers too, so that it becomes text before it leaves.
        let render = || {
            let template = self.environment.get_template(NAME);
            let rendered = template.and_then(|template| template.render(variables));
            rendered.map_err(|error| error.detail().map_or_else(|| error.to_string(), str::to_owned))
        };
        on_deep_stack(render)
            .and_then(|rendered| rendered)
            .map_err(refused)
    }
}

const NAME: &str = "chat_template";
/// Instructions, and 64 bytes of text each; a long conversation through a large template takes some ten thousand.
const FUEL: u64 = 1_000_000;

/// A message with the fields that it has: templates ask which are there.
fn message_value(message: &ChatMessage, guard: &dyn Fn(&str) -> String) -> Value {
    let mut fields: Vec<(&str, Value)> = vec![
        ("role", guard(&message.role).into()),
        ("content", guard(&message.content).into()),
    ];
    if let Some(name) = &message.name {
        fields.push(("name", guard(name).into()));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter();
        let calls: Vec<Value> = calls
            .map(|call| json::value(&call.for_template(), guard))
            .collect();
        fields.push(("tool_calls", calls.into()));
    }
    if let Some(id) = &message.tool_call_id {
        fields.push(("tool_call_id", guard(id).into()));
    }
    Value::from_pairs(fields)
}

/// `{% generation %}` and its end mark the assistant's words for training; here they only open a scope, as they do in
/// `transformers`.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end + 2);
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
        let name = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => result.push_str(&tag.replace("generation", "with")),
            "endgeneration" => result.push_str(&tag.replace("endgeneration", "endwith")),
            _ => result.push_str(tag),
        }
        rest = after;
        if rest.is_empty() {
            return Cow::Owned(result);
        }
    }
    result.push_str(rest);
    Cow::Owned(result)
}

/// Whether a name stands in a template.
fn mentions(source: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    source.match_indices(name).any(|(at, _)| {
        let before = source[..at].chars().next_back();
        let after = source[at + name.len()..].chars().next();
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, messages: &[ChatMessage], today: Option<Date>) -> Result<String, RequestError> {
        let given = Given {
            messages,
            tools: &[],
            bos_and_eos: ["", ""],
            today,
        };
        Template::new(source).unwrap().render(given, &str::to_owned)
    }

    #[test]
    fn chatml_renders_with_the_answer_begun() {
        let source = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'].strip() + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        assert_eq!(
            rendered(source, &[ChatMessage::new("user", " hi ")], None).unwrap(),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_refusal_carries_the_templates_words() {
        let error = rendered("{{ raise_exception('roles must alternate') }}", &[], None).unwrap_err();
        assert_eq!(
            error,
            RequestError::Template {
                message: "roles must alternate".into()
            }
        );
    }

    #[test]
    fn the_day_is_given_or_absent() {
        let source =
            "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}no day{% endif %}";
        let today = Date {
            year: 2026,
            month: 7,
            day: 4,
        };
        assert_eq!(rendered(source, &[], Some(today)).unwrap(), "04 Jul 2026");
        assert_eq!(rendered(source, &[], None).unwrap(), "no day");
    }

    #[test]
    fn a_template_cannot_take_for_ever_nor_all_memory_nor_the_stack() {
        for hostile in [
            "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{{ c }}{% endfor %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(10000) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(10000) %}{% set ns.x = ns.x.replace('a', 'aaaaaaaaaa') %}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
            "{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ raise_exception('deep') }}",
            "{{ 'a' * 100000000000 }}",
        ] {
            assert!(rendered(hostile, &[], None).is_err(), "{hostile}");
        }
        assert!(Template::new("{% for %}").is_err());
    }

    #[test]
    fn generation_marks_only_open_a_scope() {
        let source = "{% set a = 1 %}\n{%- generation -%}\n {% set a = 2 %}{{ a }}\n{%- endgeneration %}\n{{ a }} {% raw %}generation{% endraw %}";
        assert_eq!(rendered(source, &[], None).unwrap(), "21 generation");
        assert!(Template::new("generation {% generation %}").is_err());
    }

    #[test]
    fn calls_and_tools_are_given_as_they_are() {
        let call = |arguments: &str| crate::output::ToolCall {
            id: "abc".into(),
            kind: Default::default(),
            function: crate::output::FunctionCall {
                name: "f".into(),
                arguments: arguments.into(),
            },
        };
        let mut assistant = ChatMessage::new("assistant", "");
        assistant.tool_calls = vec![call(r#"{"z": 1, "a": [true, null, 1.5]}"#), call("not JSON")];
        let mut answer = ChatMessage::new("tool", "42");
        answer.tool_call_id = Some("abc".into());
        answer.name = Some("f".into());
        let tool =
            serde_json::json!({"type": "function", "function": {"name": "f", "description": "<b>é</b>"}});
        let source = "{% for m in messages %}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}{{ c.id }} \
                      {{ c.function.name }} {{ c.function.arguments | tojson }};{% endfor %}{% endif %}\
                      {% if m.tool_call_id %}{{ m.tool_call_id }} {{ m.name }} {{ m.content }}{% endif %}{% endfor %}\
                      {{ tools | tojson }}";
        let given = Given {
            messages: &[assistant, answer],
            tools: &[Tool(tool)],
            bos_and_eos: ["", ""],
            today: None,
        };
        assert_eq!(
            Template::new(source)
                .unwrap()
                .render(given, &str::to_owned)
                .unwrap(),
            "abc f {\"z\": 1, \"a\": [true, null, 1.5]};abc f \"not JSON\";abc f 42[{\"type\": \"function\", \
             \"function\": {\"name\": \"f\", \"description\": \"<b>é</b>\"}}]"
        );
    }

    #[test]
    fn only_a_template_that_shows_tools_has_a_way_to_call_them() {
        let style = |source: &str| Template::new(source).unwrap().call_style();
        assert_eq!(
            style("{% if tools %}<tool_call>{% endif %}"),
            Some(CallStyle::Hermes)
        );
        assert_eq!(style("{{ mytools }}<tool_call>"), None);
        assert_eq!(style("{{ tools }}"), None);
    }

    /// Small templates for each thing that published ones use, rendered by Python's Jinja (`tests/make_templates.py`).
    #[test]
    fn templates_give_what_pythons_jinja_gives() {
        let cases = include_str!("../../tests/fixtures/templates/python.json");
        let cases: serde_json::Value = serde_json::from_str(cases).unwrap();
        let given = &cases["given"];
        let messages: Vec<ChatMessage> = serde_json::from_value(given["messages"].clone()).unwrap();
        let tools: Vec<Tool> = serde_json::from_value(given["tools"].clone()).unwrap();
        let mut failures = Vec::new();
        for case in cases["cases"].as_array().unwrap() {
            let given = Given {
                messages: &messages,
                tools: &tools,
                bos_and_eos: ["<s>", "</s>"],
                today: None,
            };
            let rendered = Template::new(case["source"].as_str().unwrap())
                .map_err(|problem| problem.to_string())
                .and_then(|template| {
                    template
                        .render(given, &str::to_owned)
                        .map_err(|error| error.to_string())
                });
            if rendered.as_deref().ok() != case["expected"].as_str() {
                failures.push(format!(
                    "{}: {rendered:?}\n  expected {:?}",
                    case["name"], case["expected"]
                ));
            }
        }
        assert!(
            failures.is_empty(),
            "{} fail:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }

    fn shared_cases() -> Option<serde_json::Value> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../shared/data/templates/chat_template_cases.json"
        );
        let Ok(cases) = std::fs::read(path) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "{path} is missing, and this is CI"
            );
            eprintln!("SKIPPED: {path} not found");
            return None;
        };
        Some(serde_json::from_slice(&cases).unwrap())
    }

    /// Published models' templates, where llama.cpp's expectation is also what Python's Jinja gives.
    #[test]
    fn published_templates_render_as_expected() {
        let Some(cases) = shared_cases() else { return };
        let messages: Vec<ChatMessage> = serde_json::from_value(cases["messages"].clone()).unwrap();
        let mut failures = Vec::new();
        for case in cases["cases"].as_array().unwrap() {
            if case["jinja2_python_matches"] != true {
                continue;
            }
            let text = |key: &str| case[key].as_str().unwrap_or_default();
            let expected = match text("expected_output_jinja") {
                "" => text("expected_output"),
                expected => expected,
            };
            let rendered = Template::new(text("template_str"))
                .map_err(|problem| problem.to_string())
                .and_then(|template| {
                    let given = Given {
                        messages: &messages,
                        tools: &[],
                        bos_and_eos: [text("bos_token"), text("eos_token")],
                        today: None,
                    };
                    template
                        .render(given, &str::to_owned)
                        .map_err(|error| error.to_string())
                });
            if rendered.as_deref() != Ok(expected) {
                failures.push(format!("{}: {rendered:?}\n  expected {expected:?}", text("name")));
            }
        }
        assert!(
            failures.is_empty(),
            "{} fail:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
}
