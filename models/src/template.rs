//! Chat templates: the model's own Jinja text that turns messages into a prompt.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context};

use crate::error::{Problem, RequestError};
use crate::request::ChatMessage;

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
}

/// A day, for templates that mention it; this crate has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Gregorian.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
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
        environment.set_unknown_method_callback(python_method);
        // A template comes with the model from the network: it may loop, but not for ever.
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| Problem::Template(error.to_string()))?;
        Ok(Self { environment })
    }

    /// The prompt for these messages, up to where the assistant's answer begins.
    ///
    /// # Errors
    /// [`RequestError::Template`] with the template's own words where it refuses them.
    pub(crate) fn render(
        &self,
        messages: &[ChatMessage],
        [bos_token, eos_token]: [&str; 2],
        today: Option<Date>,
    ) -> Result<String, RequestError> {
        // Without a day `strftime_now` stays undefined, which templates test for before they call it.
        let strftime_now =
            today.map(|today| Value::from_function(move |format: String| today.format(&format)));
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => &message.role, content => &message.content })
            .collect();
        let mut variables = context! { messages, bos_token, eos_token, add_generation_prompt => true };
        if let Some(strftime_now) = strftime_now {
            variables = context! { strftime_now, ..variables };
        }
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(variables));
        rendered.map_err(|error| {
            let message = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            RequestError::Template { message }
        })
    }
}

const NAME: &str = "chat_template";
/// Instructions; a long conversation through a large template takes some ten thousand.
const FUEL: u64 = 10_000_000;

impl Date {
    fn format(self, format: &str) -> Result<String, Error> {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            match characters.next() {
                Some('Y') => text.push_str(&format!("{:04}", self.year)),
                Some('m') => text.push_str(&format!("{:02}", self.month)),
                Some('d') => text.push_str(&format!("{:02}", self.day)),
                Some('B') => text.push_str(month),
                Some('b') => text.push_str(&month[..3]),
                Some('%') => text.push('%'),
                other => {
                    let what = format!("strftime_now knows %Y, %m, %d, %B and %b, not {other:?}");
                    return Err(Error::new(ErrorKind::InvalidOperation, what));
                }
            }
        }
        Ok(text)
    }
}

/// The methods of Python's strings and dictionaries that templates call.
fn python_method(_: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map {
        return dictionary_method(value, method, args);
    }
    let Some(text) = value.as_str() else {
        return Err(Error::from(ErrorKind::UnknownMethod));
    };
    let characters = |args: &[Value]| from_args::<(Option<String>,)>(args).map(|(characters,)| characters);
    let in_set = |set: &Option<String>, character: char| match set {
        Some(set) => set.contains(character),
        None => character.is_whitespace(),
    };
    Ok(match method {
        "strip" => characters(args).map(|set| Value::from(text.trim_matches(|c| in_set(&set, c))))?,
        "lstrip" => characters(args).map(|set| Value::from(text.trim_start_matches(|c| in_set(&set, c))))?,
        "rstrip" => characters(args).map(|set| Value::from(text.trim_end_matches(|c| in_set(&set, c))))?,
        "startswith" => from_args(args).map(|(start,): (&str,)| Value::from(text.starts_with(start)))?,
        "endswith" => from_args(args).map(|(end,): (&str,)| Value::from(text.ends_with(end)))?,
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "title" => Value::from(title(text)),
        "replace" => from_args(args).map(|(from, to): (&str, &str)| Value::from(text.replace(from, to)))?,
        "split" => {
            let (separator, most): (Option<&str>, Option<usize>) = from_args(args)?;
            match (separator, most) {
                (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                (Some(separator), Some(most)) => text.splitn(most.saturating_add(1), separator).collect(),
                (Some(separator), None) => text.split(separator).collect(),
                (None, _) => text.split_whitespace().collect(),
            }
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
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

fn dictionary_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let pairs = || -> Result<Vec<[Value; 2]>, Error> {
        value
            .try_iter()?
            .map(|key| Ok([key.clone(), value.get_item(&key)?]))
            .collect()
    };
    match method {
        "get" => {
            let (key, otherwise): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() {
                otherwise.unwrap_or(Value::from(()))
            } else {
                found
            })
        }
        "items" => Ok(pairs()?
            .into_iter()
            .map(|pair| Value::from(pair.to_vec()))
            .collect()),
        "keys" => Ok(pairs()?.into_iter().map(|[key, _]| key).collect()),
        "values" => Ok(pairs()?.into_iter().map(|[_, value]| value).collect()),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> ChatMessage {
        ChatMessage {
            role: role.into(),
            content: content.into(),
        }
    }

    #[test]
    fn chatml_renders_with_the_answer_begun() {
        let source = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'].strip() + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let rendered = Template::new(source)
            .unwrap()
            .render(&[message("user", " hi ")], ["", ""], None)
            .unwrap();
        assert_eq!(
            rendered,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_refusal_carries_the_templates_words() {
        let template = Template::new("{{ raise_exception('roles must alternate') }}").unwrap();
        let error = template
            .render(&[message("user", "hi")], ["", ""], None)
            .unwrap_err();
        assert_eq!(
            error,
            RequestError::Template {
                message: "roles must alternate".into()
            }
        );
    }

    #[test]
    fn the_day_is_given_or_absent() {
        let template = Template::new(
            "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}no day{% endif %}",
        )
        .unwrap();
        let today = Date {
            year: 2026,
            month: 7,
            day: 4,
        };
        assert_eq!(
            template.render(&[], ["", ""], Some(today)).unwrap(),
            "04 Jul 2026"
        );
        assert_eq!(template.render(&[], ["", ""], None).unwrap(), "no day");
    }

    #[test]
    fn a_template_cannot_loop_for_ever() {
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{{ c }}{% endfor %}{% endfor %}{% endfor %}";
        assert!(
            Template::new(endless)
                .unwrap()
                .render(&[], ["", ""], None)
                .is_err()
        );
        assert!(Template::new("{% for %}").is_err());
    }

    /// Published models' templates, where llama.cpp's expectation is also what Python's Jinja gives.
    #[test]
    fn published_templates_render_as_expected() {
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
            return;
        };
        let cases: serde_json::Value = serde_json::from_slice(&cases).unwrap();
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
                    let tokens = [text("bos_token"), text("eos_token")];
                    template
                        .render(&messages, tokens, None)
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
