//! Finds tool calls in an answer while it streams: what is, or may still become, a call is held back, the rest passes.

use super::call_style::CallStyle;
use super::tools::FunctionCall;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct CallReader {
    style: CallStyle,
    /// Names of the tools; what names another is no call, but what the model says.
    names: Vec<String>,
    state: State,
    held: String,
    calls: Vec<FunctionCall>,
    /// A call has ended, and only space has come since: line breaks that set calls apart are nobody's words.
    after_call: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but space has come.
    Beginning,
    /// Words.
    Outside,
    /// Behind what begins a call.
    Inside,
    /// In a call that begins without anything.
    Bare,
}

impl CallReader {
    pub(super) fn new(style: CallStyle, names: Vec<String>) -> Self {
        Self {
            style,
            names,
            state: State::Beginning,
            held: String::new(),
            calls: Vec::new(),
            after_call: false,
        }
    }

    /// Takes the next piece; gives what of the answer is certainly text.
    pub(super) fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let mut passed = String::new();
        while self.advance(&mut passed) {}
        passed
    }

    /// The end has come: the rest of the text, and the calls.
    pub(super) fn finish(&mut self) -> (String, Vec<FunctionCall>) {
        let mut rest = std::mem::take(&mut self.held);
        let body = match self.state {
            State::Inside | State::Bare => rest.as_str(),
            // Only space, or half of what begins a call.
            State::Beginning | State::Outside => "",
        };
        if let Some(calls) = self.read(body) {
            self.calls.extend(calls);
            rest.clear();
        } else if self.state == State::Inside {
            rest.insert_str(0, self.style.brackets().0);
        }
        if self.after_call && rest.trim().is_empty() {
            rest.clear();
        }
        self.state = State::Outside;
        (rest, std::mem::take(&mut self.calls))
    }

    /// One step; false if it takes more text to go on.
    fn advance(&mut self, passed: &mut String) -> bool {
        match self.state {
            State::Beginning => self.begin(),
            State::Outside => self.look_for_call(passed),
            State::Inside => self.look_for_end(passed),
            State::Bare => false,
        }
    }

    fn begin(&mut self) -> bool {
        let Some(first) = self.held.trim_start().chars().next() else {
            return false;
        };
        self.state = if first == '{' && self.style.is_bare() {
            State::Bare
        } else {
            State::Outside
        };
        true
    }

    fn look_for_call(&mut self, passed: &mut String) -> bool {
        let (open, _) = self.style.brackets();
        if let Some(at) = self.held.find(open) {
            let before = &self.held[..at];
            if !before.trim().is_empty() || !self.after_call {
                passed.push_str(before);
            }
            self.held.drain(..at + open.len());
            self.state = State::Inside;
            return true;
        }
        let certain = self.held.len() - possible_start(&self.held, open);
        if !self.after_call || !self.held[..certain].trim().is_empty() {
            passed.extend(self.held.drain(..certain));
            self.after_call = false;
        }
        false
    }

    fn look_for_end(&mut self, passed: &mut String) -> bool {
        let (open, close) = self.style.brackets();
        // Where nothing ends a call, the next one does.
        let Some(at) = self.held.find(close.unwrap_or(open)) else {
            return false;
        };
        let body = self.held[..at].to_owned();
        match self.read(&body) {
            Some(calls) => {
                self.calls.extend(calls);
                self.after_call = true;
            }
            None => {
                passed.push_str(open);
                passed.push_str(&body);
                passed.push_str(close.unwrap_or_default());
                self.after_call = false;
            }
        }
        self.held.drain(..at + close.map_or(0, str::len));
        self.state = State::Outside;
        true
    }

    fn read(&self, body: &str) -> Option<Vec<FunctionCall>> {
        let calls = self.style.read(body)?;
        let known = |call: &FunctionCall| self.names.contains(&call.name);
        calls.iter().all(known).then_some(calls)
    }
}

/// Bytes at the end of `text` that are a proper beginning of `marker`.
fn possible_start(text: &str, marker: &str) -> usize {
    let starts = (1..marker.len()).rev();
    starts
        .filter(|&length| marker.is_char_boundary(length))
        .find(|&length| text.ends_with(&marker[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STYLES: [CallStyle; 5] = [
        CallStyle::Hermes,
        CallStyle::Llama,
        CallStyle::Mistral,
        CallStyle::MistralArgs,
        CallStyle::Phi,
    ];

    fn call(name: &str, arguments: &str) -> FunctionCall {
        FunctionCall {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        }
    }

    /// Text and calls of an answer that comes in pieces of so many characters.
    fn read(style: CallStyle, answer: &str, piece: usize) -> (String, Vec<FunctionCall>) {
        let mut reader = CallReader::new(style, vec!["f".into(), "get".into()]);
        let characters: Vec<char> = answer.chars().collect();
        let mut text: String = characters
            .chunks(piece)
            .map(|piece| reader.push(&piece.iter().collect::<String>()))
            .collect();
        let (rest, calls) = reader.finish();
        text.push_str(&rest);
        (text, calls)
    }

    #[test]
    fn each_familys_calls_are_found() {
        let f = call("f", r#"{"a":1}"#);
        let get = call("get", r#"{"b":"x"}"#);
        for (style, answer, text, calls) in [
            (
                CallStyle::Hermes,
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
                "",
                vec![&f],
            ),
            (
                CallStyle::Hermes,
                "Let me see.\n<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\n<tool_call>{\"name\": \
                 \"get\", \"arguments\": \"{\\\"b\\\": \\\"x\\\"}\"}</tool_call>\n",
                "Let me see.\n",
                vec![&f, &get],
            ),
            (
                CallStyle::Llama,
                "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"get\", \"parameters\": {\"b\": \"x\"}}",
                "",
                vec![&f, &get],
            ),
            (
                CallStyle::Llama,
                "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
                "",
                vec![&f],
            ),
            (
                CallStyle::Mistral,
                "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"get\", \"arguments\": \
                 {\"b\": \"x\"}, \"id\": \"abcdefghi\"}]",
                "",
                vec![&f, &get],
            ),
            (
                CallStyle::MistralArgs,
                "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]get[ARGS]{\"b\": \"x\"}",
                "",
                vec![&f, &get],
            ),
            (
                CallStyle::Phi,
                "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]<|/tool_call|>",
                "",
                vec![&f],
            ),
        ] {
            for piece in [1, 2, 7, 1000] {
                let (found_text, found) = read(style, answer, piece);
                assert_eq!(found_text, text, "{style:?} {answer}");
                assert_eq!(found.iter().collect::<Vec<_>>(), calls, "{style:?} {answer}");
            }
        }
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for (style, answer) in [
            (CallStyle::Hermes, "<tool_call>soon</tool_call> no"),
            (CallStyle::Hermes, "<tool_call>{\"name\": \"f\", "),
            (
                CallStyle::Hermes,
                "<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>",
            ),
            (
                CallStyle::Hermes,
                "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
            ),
            (CallStyle::Llama, "{\"answer\": 42}"),
            (CallStyle::Llama, "  {}"),
            (CallStyle::Llama, "f {\"name\": \"f\", \"parameters\": {}}"),
            (CallStyle::Mistral, "[TOOL_CALLS] what"),
            (CallStyle::MistralArgs, "[TOOL_CALLS]f[ARGS]{"),
            (CallStyle::Phi, "a < b <|tool"),
        ] {
            for piece in [1, 3, 1000] {
                assert_eq!(
                    read(style, answer, piece),
                    (answer.to_owned(), vec![]),
                    "{style:?}"
                );
            }
        }
    }

    #[test]
    fn text_that_begins_no_call_is_not_held_back() {
        let mut reader = CallReader::new(CallStyle::Hermes, vec![]);
        assert_eq!(reader.push("Hello <"), "Hello ");
        assert_eq!(reader.push("b>"), "<b>");
    }

    #[test]
    fn templates_tell_their_style() {
        for (source, style) in [
            ("…<tool_call></tool_call>…", Some(CallStyle::Hermes)),
            (
                "{{ '<|python_tag|>' }} Environment: ipython",
                Some(CallStyle::Llama),
            ),
            ("{{- '[TOOL_CALLS] [' }}", Some(CallStyle::Mistral)),
            ("'[TOOL_CALLS]' '[ARGS]'", Some(CallStyle::MistralArgs)),
            ("<|tool|> <|tool_call|>", Some(CallStyle::Phi)),
            ("<|im_start|>", None),
        ] {
            assert_eq!(CallStyle::of_template(source), style, "{source}");
        }
    }

    proptest! {
        /// How the answer is cut changes nothing, and nothing is lost: what is not in a call is in the text.
        #[test]
        fn cuts_change_nothing(
            style in prop::sample::select(&STYLES),
            parts in prop::collection::vec(prop::sample::select(&[
                "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<|/tool_call|>",
                "<|python_tag|>", "{\"name\": \"f\", \"arguments\": {}}", "[{\"name\": \"f\", \"parameters\": {}}]",
                "f", "{\"a\": 1}", "{", "\n", " ", "é", "hello", ";", "<", "[",
            ][..]), 0..12),
            piece in 1usize..9,
        ) {
            let answer = parts.concat();
            let whole = read(style, &answer, usize::MAX);
            prop_assert_eq!(&read(style, &answer, piece), &whole);
            let (text, calls) = whole;
            if calls.is_empty() {
                prop_assert_eq!(text, answer);
            } else {
                prop_assert!(text.len() < answer.len());
            }
        }

        /// What the grammar of a style would write is read back as it was meant.
        #[test]
        fn calls_of_any_arguments_are_read_back(
            style in prop::sample::select(&STYLES),
            key in "\\PC{0,8}",
            value in "\\PC{0,12}",
            piece in 1usize..9,
        ) {
            let (open, close) = style.brackets();
            let arguments = serde_json::json!({key: value});
            let (name, item) = ("get", |key: &str| serde_json::json!({"name": "get", key: arguments}).to_string());
            let answer = match style {
                CallStyle::Hermes => format!("{open}\n{}\n{}", item("arguments"), close.unwrap()),
                CallStyle::Llama => item("parameters"),
                CallStyle::Mistral => format!("{open}[{}]", item("arguments")),
                CallStyle::MistralArgs => format!("{open}{name}[ARGS]{arguments}"),
                CallStyle::Phi => format!("{open}[{}]{}", item("arguments"), close.unwrap()),
            };
            // A text in the arguments that is itself a bracket would end the call: no model's parser tells them apart.
            prop_assume!(!style.markers().iter().any(|marker| arguments.to_string().contains(marker)));
            prop_assert_eq!(read(style, &answer, piece), (String::new(), vec![call(name, &arguments.to_string())]));
        }
    }
}
