//! What is read from a payload and a topic's levels, and what nobody can slip in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
struct Telemetry {
    device_id: String,
    celsius: f64,
}

fn levels(pairs: &[(&str, &str)]) -> Params {
    Params::new(pairs.iter().copied()).unwrap()
}

fn kitchen() -> Params {
    levels(&[("device_id", "kitchen")])
}

fn telemetry(payload: &str) -> Result<Telemetry, String> {
    decode(payload.as_bytes(), &kitchen()).map_err(|error| error.to_string())
}

#[test]
fn levels_become_fields_beside_those_of_the_payload() {
    let expected = Telemetry {
        device_id: "kitchen".into(),
        celsius: 19.5,
    };
    assert_eq!(telemetry(r#"{"celsius": 19.5}"#).unwrap(), expected);
    assert_eq!(
        telemetry(r#"{"celsius": 19.5, "more": [1, {"x": null}]}"#).unwrap(),
        expected
    );
}

#[test]
fn a_payload_cannot_forge_a_level() {
    for payload in [
        r#"{"device_id": "cellar", "celsius": 1}"#,
        r#"{"celsius": 1, "device_id": "cellar"}"#,
        r#"{"celsius": 1, "device_id": {"deep": ["cellar"]}, "device_id": 3}"#,
        r#"{"celsius": 1, "device\u005fid": "cellar"}"#,
    ] {
        assert_eq!(telemetry(payload).unwrap().device_id, "kitchen", "{payload}");
    }
    let error = telemetry(r#"["cellar", 1.0]"#).unwrap_err();
    assert!(error.contains("sequence"), "fields by their place: {error}");
}

#[test]
fn a_map_and_a_value_get_the_levels_too_and_cannot_be_forged_either() {
    let payload = br#"{"device_id": "cellar", "n": 1}"#;
    let expected = json!({"device_id": "kitchen", "n": 1});
    assert_eq!(decode::<Value>(payload, &kitchen()).unwrap(), expected);
    let map = decode::<BTreeMap<String, Value>>(payload, &kitchen()).unwrap();
    assert_eq!(map["device_id"], "kitchen");
    assert!(decode::<Value>(b"[1]", &kitchen()).is_err());
}

#[test]
fn flattened_and_tagged_types_cannot_be_forged() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        n: u8,
        #[serde(flatten)]
        inner: Telemetry,
    }
    let payload = br#"{"n": 1, "device_id": "cellar", "celsius": 2}"#;
    let outer: Outer = decode(payload, &kitchen()).unwrap();
    assert_eq!((outer.n, outer.inner.device_id.as_str()), (1, "kitchen"));

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    enum Tagged {
        Reading { device_id: String },
    }
    let payload = br#"{"device_id": "cellar", "kind": "reading"}"#;
    let Tagged::Reading { device_id } = decode(payload, &kitchen()).unwrap();
    assert_eq!(device_id, "kitchen");

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Reading { device_id: String, celsius: f64 },
    }
    assert!(decode::<Untagged>(br#"["cellar", 1.0]"#, &kitchen()).is_err());
    let Untagged::Reading { device_id, .. } = decode(payload_with_celsius(), &kitchen()).unwrap();
    assert_eq!(device_id, "kitchen");
}

fn payload_with_celsius() -> &'static [u8] {
    br#"{"device_id": "cellar", "celsius": 1.0}"#
}

#[test]
fn a_level_is_read_as_what_its_field_is() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Side {
        Left,
        Right,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Window {
        floor: u8,
        side: Side,
        open: Option<bool>,
        name: Option<String>,
    }
    let at = levels(&[("floor", "3"), ("side", "left"), ("name", "n")]);
    let window: Window = decode(br#"{"open": true}"#, &at).unwrap();
    let expected = Window {
        floor: 3,
        side: Side::Left,
        open: Some(true),
        name: Some("n".into()),
    };
    assert_eq!(window, expected);
    let error = decode::<Window>(b"{}", &levels(&[("floor", "cellar")])).unwrap_err();
    assert!(error.to_string().contains("\"cellar\", expected u8"), "{error}");
}

#[test]
fn an_empty_payload_is_an_empty_object_and_a_plain_value_needs_no_object() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Ping {
        device_id: String,
    }
    assert_eq!(decode::<Ping>(b"", &kitchen()).unwrap().device_id, "kitchen");
    assert_eq!(decode::<f64>(b" 21.5 ", &kitchen()).unwrap(), 21.5);
    assert_eq!(decode::<String>(br#""on""#, &Params::default()).unwrap(), "on");
}

#[test]
fn garbage_is_refused_with_a_reason() {
    for (payload, reason) in [
        ("{", "EOF"),
        ("{}", "missing field `celsius`"),
        (r#"{"celsius": "warm"}"#, "invalid type"),
        (r#"{"celsius": 1} {}"#, "trailing"),
        ("\u{0}", "expected value"),
        ("null", "null"),
    ] {
        let error = telemetry(payload).unwrap_err();
        assert!(error.contains(reason), "{payload}: {error}");
    }
    assert!(decode::<Telemetry>(b"{\"celsius\": 1, \"x\": \"\xff\"}", &kitchen()).is_ok());
    assert!(decode::<Telemetry>(b"{\"\xff\": 1}", &kitchen()).is_err());
}

#[test]
fn a_type_tells_what_it_is_read_from() {
    #[derive(Deserialize)]
    struct New(#[allow(dead_code)] Telemetry);
    assert_eq!(shape::<Telemetry>(), Shape::Fields(&["device_id", "celsius"]));
    assert_eq!(shape::<New>(), Shape::Fields(&["device_id", "celsius"]));
    assert_eq!(shape::<Value>(), Shape::Open);
    assert_eq!(shape::<f64>(), Shape::Open);
    assert!(matches!(shape::<Option<Telemetry>>(), Shape::Closed(_)));
    assert!(matches!(shape::<Vec<Telemetry>>(), Shape::Closed(_)));
    assert!(matches!(shape::<(String, f64)>(), Shape::Closed(_)));
}
