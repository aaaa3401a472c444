//! An independent look at whether a value is under a schema, for the few keywords that the tests use.

use serde_json::Value;

/// Panics at a keyword that it does not know: a test must not pass because nobody looked.
pub(crate) fn conforms(value: &Value, schema: &Value, root: &Value) -> bool {
    let Value::Object(keywords) = schema else {
        return schema == &Value::Bool(true);
    };
    keywords.iter().all(|(keyword, expected)| {
        let number = || expected.as_f64().unwrap();
        let count = || expected.as_u64().unwrap() as usize;
        match keyword.as_str() {
            "$defs" | "description" => true,
            "$ref" => {
                let target = root.pointer(expected.as_str().unwrap().strip_prefix('#').unwrap());
                conforms(value, target.unwrap(), root)
            }
            "type" => match expected {
                Value::Array(types) => types.iter().any(|name| is_of_type(value, name.as_str().unwrap())),
                name => is_of_type(value, name.as_str().unwrap()),
            },
            "enum" => expected.as_array().unwrap().contains(value),
            "const" => value == expected,
            "anyOf" => {
                let options = expected.as_array().unwrap();
                options.iter().any(|option| conforms(value, option, root))
            }
            "properties" => value.as_object().is_none_or(|fields| {
                let known = expected.as_object().unwrap();
                fields.iter().all(|(key, field)| {
                    known
                        .get(key)
                        .is_none_or(|property| conforms(field, property, root))
                })
            }),
            "required" => value.as_object().is_none_or(|fields| {
                let names = expected.as_array().unwrap();
                names
                    .iter()
                    .all(|name| fields.contains_key(name.as_str().unwrap()))
            }),
            "additionalProperties" => {
                assert_eq!(expected, &Value::Bool(false));
                let known = &schema["properties"];
                value
                    .as_object()
                    .is_none_or(|fields| fields.keys().all(|key| known.get(key).is_some()))
            }
            "items" => value
                .as_array()
                .is_none_or(|items| items.iter().all(|item| conforms(item, expected, root))),
            "minItems" => value.as_array().is_none_or(|items| items.len() >= count()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() <= count()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= count()),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= count()),
            "minimum" => value.as_f64().is_none_or(|value| value >= number()),
            "maximum" => value.as_f64().is_none_or(|value| value <= number()),
            unknown => panic!("the checker does not know {unknown}"),
        }
    })
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        unknown => panic!("no type {unknown}"),
    }
}

#[test]
fn the_checker_tells_right_from_wrong() {
    use serde_json::json;
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "maximum": 3},
        "b": {"type": "array", "items": {"enum": ["x"]}, "maxItems": 1}}, "required": ["a"],
        "additionalProperties": false});
    for (value, right) in [
        (json!({"a": 1}), true),
        (json!({"a": 1, "b": ["x"]}), true),
        (json!({"b": []}), false),
        (json!({"a": 4}), false),
        (json!({"a": 1.5}), false),
        (json!({"a": 1, "c": 1}), false),
        (json!({"a": 1, "b": ["y"]}), false),
        (json!({"a": 1, "b": ["x", "x"]}), false),
        (json!([]), false),
    ] {
        assert_eq!(conforms(&value, &schema, &schema), right, "{value}");
    }
}
