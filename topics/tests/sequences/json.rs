//! As much JSON as the sequences need, so that this crate needs no parser of it.

/// A JSON value. Objects keep their order, and few have many keys.
pub(crate) enum Json {
    Null,
    Flag(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(crate) fn parse(text: &str) -> Json {
        let mut parser = Parser { rest: text };
        parser.value()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(entries) => entries
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        match self.get(key) {
            Some(Json::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        match self.get(key) {
            Some(Json::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Json::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn value(&mut self) -> Json {
        if self.skip("{") {
            let entry = |parser: &mut Self| {
                let key = parser.string();
                assert!(parser.skip(":"), "a colon before {:.40}", parser.rest);
                (key, parser.value())
            };
            Json::Object(self.list("}", entry))
        } else if self.skip("[") {
            Json::List(self.list("]", Self::value))
        } else if self.skip("true") {
            Json::Flag(true)
        } else if self.skip("false") {
            Json::Flag(false)
        } else if self.skip("null") {
            Json::Null
        } else if self.rest.starts_with('"') {
            Json::Text(self.string())
        } else {
            let end = self
                .rest
                .find(|c: char| c != '-' && !c.is_ascii_digit())
                .unwrap_or(self.rest.len());
            let (digits, rest) = self.rest.split_at(end);
            self.rest = rest;
            Json::Number(digits.parse().expect("a whole number"))
        }
    }

    fn list<T>(&mut self, end: &str, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        while !self.skip(end) {
            items.push(item(self));
            self.skip(",");
            self.trim();
        }
        items
    }

    fn string(&mut self) -> String {
        assert!(self.skip("\""), "a string before {:.40}", self.rest);
        let end = self.rest.find('"').expect("a closing quotation mark");
        let (text, rest) = self.rest.split_at(end);
        assert!(!text.contains('\\'), "the sequences use no escapes, but: {text}");
        self.rest = &rest[1..];
        text.to_owned()
    }

    fn skip(&mut self, expected: &str) -> bool {
        self.trim();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn trim(&mut self) {
        self.rest = self.rest.trim_start();
    }
}
