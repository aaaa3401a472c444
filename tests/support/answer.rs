//! An answer as a client sees it, item by item.

use serde_json::Value;

/// The items of one answer, in the order they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) items: Vec<Value>,
}

impl Answer {
    /// Takes the next item in. `seq` counts from 0 without a gap, and nothing comes after `done`.
    #[track_caller]
    pub(crate) fn take(&mut self, item: Value) {
        assert_eq!(
            item["seq"].as_u64(),
            Some(self.items.len() as u64),
            "{item} after {:?}",
            self.items.last()
        );
        assert!(!self.is_complete(), "{item} after the end of {self:?}");
        assert!(
            self.items.first().is_none_or(|first| first["id"] == item["id"]),
            "{item} in {self:?}"
        );
        self.items.push(item);
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.items.last().is_some_and(|item| item["done"] == true)
    }

    pub(crate) fn text(&self) -> String {
        self.items
            .iter()
            .filter_map(|item| item["delta"].as_str())
            .collect()
    }

    /// The last item.
    pub(crate) fn end(&self) -> &Value {
        self.items.last().expect("an answer has an end")
    }

    pub(crate) fn finish_reason(&self) -> &str {
        self.end()["finish_reason"]
            .as_str()
            .expect("an end has a finish_reason")
    }

    /// The error's code and message.
    #[track_caller]
    pub(crate) fn error(&self) -> (&str, &str) {
        assert_eq!(self.finish_reason(), "error", "{self:?}");
        let error = &self.end()["error"];
        let text = |name: &str| {
            error[name]
                .as_str()
                .unwrap_or_else(|| panic!("no {name} in {error}"))
        };
        (text("code"), text("message"))
    }

    /// Panics unless the whole of an answer came.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        assert!(
            matches!(self.finish_reason(), "stop" | "length"),
            "{:?}",
            self.end()
        );
    }

    /// From lines with an item each.
    #[track_caller]
    pub(crate) fn of_lines(lines: &str) -> Answer {
        let mut answer = Answer::default();
        for line in lines.lines() {
            answer.take(
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no item: {error}")),
            );
        }
        answer
    }
}
