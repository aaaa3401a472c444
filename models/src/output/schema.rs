//! What is looked at in a JSON schema before a grammar is made of it: whether it is small enough.
//!
//! The grammar's own limits count what was made; these keep away what would take long, or a deep stack, to make.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// The longest schema, written without spaces.
const BYTES: usize = 64 * 1024;
/// How deep objects and arrays may lie in each other. It travels in a frame, whose reader stops at 128.
pub(super) const DEPTH: usize = 64;
/// The largest `minItems`, `maxLength` and so on: each may become as many rules.
const COUNT: u64 = 4096;
/// How many schemas there may be once every combination of `allOf`, `anyOf`, `oneOf` and a `$ref` with siblings is
/// written out.
const COMBINATIONS: u64 = 20_000;

const COUNTS: [&str; 6] = [
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minProperties",
    "maxProperties",
];

/// Says what is wrong with a schema, if anything.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let Value::Object(_) = schema else {
        return Err("the schema is no object; give one such as {\"type\": \"object\", …}".to_owned());
    };
    if depth(schema, DEPTH) > DEPTH {
        return Err(format!(
            "the schema is nested deeper than {DEPTH} levels; make it flatter"
        ));
    }
    let bytes = schema.to_string().len();
    if bytes > BYTES {
        return Err(format!(
            "the schema has {bytes} bytes; at most {BYTES} are allowed"
        ));
    }
    check_counts(schema)?;
    let mut combinations = Combinations {
        root: schema,
        known: HashMap::new(),
    };
    if combinations.of(schema) > COMBINATIONS {
        return Err(
            "the schema has too many combinations of allOf, anyOf and oneOf; write fewer alternatives"
                .to_owned(),
        );
    }
    Ok(())
}

/// How deep a value is; looks no deeper than just beyond `limit`.
pub(super) fn depth(value: &Value, limit: usize) -> usize {
    let deepest = |values: &mut dyn Iterator<Item = &Value>| {
        if limit == 0 {
            return 1;
        }
        1 + values.map(|value| depth(value, limit - 1)).max().unwrap_or(0)
    };
    match value {
        Value::Array(values) => deepest(&mut values.iter()),
        Value::Object(values) => deepest(&mut values.values()),
        _ => 0,
    }
}

/// A property may have such a name, too, but then its value is a schema and no number.
fn check_counts(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Array(values) => values.iter().try_for_each(check_counts),
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            if COUNTS.contains(&key.as_str()) && value.as_f64().is_some_and(|count| count > COUNT as f64) {
                return Err(format!("{key} is {value}; at most {COUNT} is possible"));
            }
            check_counts(value)
        }),
        _ => Ok(()),
    }
}

struct Combinations<'s> {
    root: &'s Value,
    /// By the text of a `$ref`; 1 while it is being counted, as a cycle is not followed.
    known: HashMap<&'s str, u64>,
}

impl<'s> Combinations<'s> {
    /// An estimate from above of how many schemas come of this one.
    fn of(&mut self, schema: &'s Value) -> u64 {
        match schema {
            Value::Object(fields) => self.of_object(fields),
            Value::Array(values) => self.sum(&mut values.iter()),
            _ => 1,
        }
    }

    fn of_object(&mut self, fields: &'s Map<String, Value>) -> u64 {
        let (mut plain, mut product) = (1u64, 1u64);
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("anyOf" | "oneOf", Value::Array(values)) => {
                    product = product.saturating_mul(self.sum(&mut values.iter()));
                }
                ("allOf", Value::Array(values)) => {
                    for value in values {
                        product = product.saturating_mul(self.of(value));
                    }
                }
                ("$ref", Value::String(name)) if fields.len() > 1 => {
                    product = product.saturating_mul(self.of_reference(name));
                }
                // An enumeration is one alternative each, but of constants, which are cheap.
                ("enum" | "examples", Value::Array(_)) => {}
                _ => plain = plain.saturating_add(self.of(value)),
            }
        }
        plain.saturating_mul(product)
    }

    fn sum(&mut self, values: &mut dyn Iterator<Item = &'s Value>) -> u64 {
        values
            .fold(0u64, |sum, value| sum.saturating_add(self.of(value)))
            .max(1)
    }

    fn of_reference(&mut self, name: &'s str) -> u64 {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        self.known.insert(name, 1);
        let target = name.strip_prefix('#').and_then(|path| self.root.pointer(path));
        let count = target.map_or(1, |target| self.of(target));
        self.known.insert(name, count);
        count
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usual_schemas_pass() {
        let address =
            json!({"type": "object", "properties": {"street": {"type": "string", "maxLength": 100}}});
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "maxItems": {"type": "integer"},
                "home": {"$ref": "#/$defs/address", "description": "where"},
                "kind": {"enum": (0..500).collect::<Vec<_>>()},
                "either": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/address"}]},
            },
            "$defs": {"address": address},
        });
        assert_eq!(check(&schema), Ok(()));
    }

    #[test]
    fn what_would_take_too_much_is_named() {
        let mut deep = json!({"type": "string"});
        for _ in 0..40 {
            deep = json!({"type": "object", "properties": {"a": deep}});
        }
        let options: Vec<Value> = (0..200).map(|n| json!({"required": [n.to_string()]})).collect();
        let product = json!({"allOf": [{"anyOf": options}, {"anyOf": options}, {"anyOf": options}]});
        let cyclic = json!({"$defs": {"a": {"$ref": "#/$defs/a", "anyOf": options}}, "$ref": "#/$defs/a",
            "anyOf": options});
        for (schema, says) in [
            (deep, "deeper"),
            (json!({"enum": vec!["x".repeat(1000); 100]}), "bytes"),
            (json!({"minItems": 1_000_000_000u64}), "minItems is 1000000000"),
            (json!({"items": {"maxLength": 1e30}}), "maxLength"),
            (product, "combinations"),
            (cyclic, "combinations"),
            (json!([]), "object"),
            (json!(true), "object"),
        ] {
            let error = check(&schema).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn depth_counts_levels() {
        assert_eq!(depth(&json!(1), 9), 0);
        assert_eq!(depth(&json!({"a": [1, {}]}), 9), 3);
        assert_eq!(depth(&json!([[[[]]]]), 2), 3);
    }
}
