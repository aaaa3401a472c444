//! Forms that are forced: whatever a model would say, its answer is JSON under the schema, a match, or a choice.

use std::path::Path;

use models::{
    AnswerOptions, Engine, EngineOptions, Event, FinishReason, GenerateRequest, NamedSchema, Prompt,
    RequestError, ResponseFormat, Sampling, TokenLogprob, ToolCall,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::structured_schema::conforms;
use crate::support::{STORIES_GGUF, file, noisy_model};

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) reason: Option<FinishReason>,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) tokens: usize,
}

pub(crate) fn engine(path: &Path) -> Engine {
    Engine::load(path, EngineOptions::default()).unwrap()
}

pub(crate) fn noisy(seed: u32, byte_level: bool) -> Engine {
    let (_directory, path) = file("noisy.gguf", &noisy_model(seed, byte_level).bytes());
    engine(&path)
}

pub(crate) fn asking(answer: AnswerOptions, sampling: Sampling, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Text("ab".into()),
        max_tokens,
        sampling,
        stop: vec![],
        answer,
        said: vec![],
        said_text: String::new(),
    }
}

pub(crate) fn ask(engine: &mut Engine, request: &GenerateRequest) -> Result<Answer, RequestError> {
    engine.begin(1, request)?;
    let mut answer = Answer::default();
    while engine.running() > 0 {
        for event in engine.step() {
            match event {
                Event::Text { text, logprobs, .. } => {
                    answer.text.push_str(&text);
                    answer.logprobs.extend(logprobs);
                }
                Event::ToolCalls { calls, .. } => answer.calls.extend(calls),
                Event::Done {
                    finish_reason,
                    completion_tokens,
                    ..
                } => {
                    answer.reason = Some(finish_reason);
                    answer.tokens = completion_tokens;
                }
                Event::Failed { message, .. } => panic!("failed: {message}; so far {:?}", answer.text),
            }
        }
    }
    Ok(answer)
}

fn form(response_format: ResponseFormat) -> AnswerOptions {
    AnswerOptions {
        response_format,
        ..AnswerOptions::default()
    }
}

fn under(schema: &Value) -> AnswerOptions {
    form(ResponseFormat::JsonSchema {
        json_schema: NamedSchema {
            name: "test".into(),
            description: None,
            schema: schema.clone(),
            strict: Some(true),
        },
    })
}

fn regex(pattern: &str) -> AnswerOptions {
    form(ResponseFormat::Regex {
        pattern: pattern.into(),
    })
}

fn choice(choices: &[&str]) -> AnswerOptions {
    form(ResponseFormat::Choice {
        choices: choices.iter().map(|choice| (*choice).to_owned()).collect(),
    })
}

pub(crate) fn drawn(temperature: f32, seed: u64) -> Sampling {
    Sampling {
        temperature,
        seed: Some(seed),
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        ..Sampling::default()
    }
}

/// Greedy, as usual, and as wild as it may be.
fn samplings(seeds: u64) -> impl Iterator<Item = Sampling> {
    let of_seed = |seed| [drawn(0.7, seed), drawn(1.0, seed), drawn(10.0, seed)];
    std::iter::once(Sampling::greedy()).chain((0..seeds).flat_map(of_seed))
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "größe": {"type": "number", "minimum": 0, "maximum": 3},
            "kind": {"enum": ["cat", "dog", "é", 1, null, "a\"b\\c"]},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 3}, "minItems": 1, "maxItems": 3},
            "home": {"$ref": "#/$defs/home"},
            "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 130}, {"type": "null"}]},
        },
        "required": ["name", "größe", "kind", "tags", "home", "age"],
        "additionalProperties": false,
        "$defs": {"home": {"type": "object", "properties": {"street": {"type": "string", "maxLength": 5},
            "ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false}},
    })
}

#[test]
fn json_is_under_its_schema_whatever_the_model_wants() {
    let schema = person();
    for byte_level in [true, false] {
        for weights in 0..3 {
            let mut engine = noisy(weights, byte_level);
            for sampling in samplings(4) {
                let answer = ask(&mut engine, &asking(under(&schema), sampling, 3000)).unwrap();
                assert_eq!(answer.reason, Some(FinishReason::Stop), "{}", answer.text);
                let value: Value = serde_json::from_str(&answer.text)
                    .unwrap_or_else(|error| panic!("{error}: {}", answer.text));
                assert!(conforms(&value, &schema, &schema), "{value}");
                assert!(answer.text.starts_with('{') && answer.text.ends_with('}'));
                // The order of the schema, which is the order in which a model was told to think.
                let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
                assert_eq!(keys, ["name", "größe", "kind", "tags", "home", "age"]);
            }
        }
    }
}

#[test]
fn any_object_is_an_object() {
    let mut finished = 0;
    for weights in 0..4 {
        let mut engine = noisy(weights, true);
        for sampling in samplings(4) {
            let answer = ask(
                &mut engine,
                &asking(form(ResponseFormat::JsonObject), sampling, 600),
            )
            .unwrap();
            if answer.reason == Some(FinishReason::Length) {
                assert_eq!(answer.tokens, 600);
                assert!(answer.text.starts_with('{'));
                continue;
            }
            finished += 1;
            match serde_json::from_str::<Value>(&answer.text) {
                Ok(value) => assert!(value.is_object(), "{value}"),
                // 1e999 is JSON all the same.
                Err(error) => assert!(
                    error.to_string().contains("out of range"),
                    "{error}: {}",
                    answer.text
                ),
            }
        }
    }
    assert!(finished > 0, "none came to its end");
}

#[test]
fn a_choice_is_one_of_the_choices() {
    let choices = [
        "yes",
        "no",
        "no, thanks",
        " spaced ",
        "日本",
        "\"quoted\"\n",
        "a|b.*",
        "i",
    ];
    for byte_level in [true, false] {
        let mut seen = std::collections::BTreeSet::new();
        let mut engine = noisy(7, byte_level);
        for sampling in samplings(30) {
            let answer = ask(&mut engine, &asking(choice(&choices), sampling, 100)).unwrap();
            assert!(choices.contains(&answer.text.as_str()), "{answer:?}");
            assert_eq!(answer.reason, Some(FinishReason::Stop));
            seen.insert(answer.text);
        }
        assert!(seen.len() > 3, "{seen:?}");
    }
}

#[test]
fn a_regular_expression_is_matched_from_end_to_end() {
    let mut engine = noisy(3, true);
    for sampling in samplings(10) {
        let mut text = |pattern: &str| {
            let answer = ask(&mut engine, &asking(regex(pattern), sampling.clone(), 300)).unwrap();
            assert_eq!(answer.reason, Some(FinishReason::Stop), "{answer:?}");
            answer.text
        };
        let date = text(r"^[0-9]{4}-(0[1-9]|1[0-2])-[0-3]\d$");
        let parts: Vec<&str> = date.split('-').collect();
        assert!(
            parts.len() == 3 && parts[0].len() == 4 && date.len() == 10,
            "{date}"
        );
        assert!((1..=12).contains(&parts[1].parse::<u8>().unwrap()), "{date}");
        let path = text(r"/(home|tmp)/[a-c]{1,3}\$");
        assert!(path.starts_with('/') && path.ends_with('$'), "{path}");
        assert!(["", "a", "aa"].contains(&text("a{0,2}").as_str()));
        let umlauts = text("[äöü]{5}");
        assert_eq!(umlauts.chars().count(), 5, "{umlauts}");
    }
}

#[test]
fn an_answer_that_is_cut_says_length() {
    let mut engine = noisy(1, true);
    let answer = ask(&mut engine, &asking(regex("[a-z]{50}"), Sampling::greedy(), 20)).unwrap();
    assert_eq!((answer.reason, answer.tokens), (Some(FinishReason::Length), 20));
    assert_eq!(answer.text.len(), 20);
}

#[test]
fn a_form_holds_beside_others_and_the_same_whatever_runs_beside_it() {
    let mut engine = noisy(5, true);
    let schema = person();
    let requests: Vec<GenerateRequest> = (0..6)
        .map(|seed| match seed % 3 {
            0 => asking(under(&schema), drawn(1.0, seed), 1000),
            1 => asking(choice(&["left", "right"]), drawn(1.0, seed), 50),
            _ => asking(AnswerOptions::default(), drawn(1.0, seed), 200),
        })
        .collect();
    let alone: Vec<String> = requests
        .iter()
        .map(|request| ask(&mut engine, request).unwrap().text)
        .collect();
    let mut together = vec![String::new(); requests.len()];
    let mut again = noisy(5, true);
    for (id, request) in (0..).zip(&requests) {
        again.begin(id, request).unwrap();
    }
    while again.running() > 0 {
        for event in again.step() {
            if let Event::Text { id, text, .. } = event {
                together[id as usize].push_str(&text);
            }
        }
    }
    assert_eq!(together, alone);
}

#[test]
fn a_real_model_answers_in_any_form() {
    let mut engine = engine(&shared!(STORIES_GGUF));
    let schema = json!({"type": "object", "properties": {"hero": {"type": "string", "maxLength": 20}, "brave":
        {"type": "boolean"}}, "required": ["hero", "brave"], "additionalProperties": false});
    for sampling in samplings(3) {
        let mut request = asking(under(&schema), sampling, 200);
        request.prompt = Prompt::Text("Once upon a time, there was".into());
        let answer = ask(&mut engine, &request).unwrap();
        let value: Value = serde_json::from_str(&answer.text).unwrap();
        assert!(conforms(&value, &schema, &schema), "{value}");
        request.answer = choice(&["a girl", "a boy", "a big dog"]);
        let answer = ask(&mut engine, &request).unwrap();
        assert!(
            ["a girl", "a boy", "a big dog"].contains(&answer.text.as_str()),
            "{answer:?}"
        );
    }
}

#[test]
fn no_special_token_is_ever_text() {
    let mut engine = noisy(2, true);
    for sampling in samplings(20) {
        let answer = ask(&mut engine, &asking(regex("(<\\|im_end\\|>){3}"), sampling, 200)).unwrap();
        // It was written letter by letter: the special token is an end, and would have ended it.
        assert_eq!(answer.text, "<|im_end|>".repeat(3));
        assert!(answer.tokens >= 30, "{answer:?}");
    }
}

/// Small schemas of every kind that the checker knows.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        (-50i32..50, 0i32..50)
            .prop_map(|(low, span)| json!({"type": "integer", "minimum": low, "maximum": low + span})),
        (0u32..4, 0u32..6)
            .prop_map(|(low, more)| json!({"type": "string", "minLength": low, "maxLength": low + more})),
        prop::collection::vec("\\PC{0,4}", 1..4).prop_map(|texts| json!({"enum": texts})),
        "\\PC{0,4}".prop_map(|text| json!({"const": text})),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let object = prop::collection::btree_map("[a-zé\"\\\\ ]{1,3}", (inner.clone(), any::<bool>()), 0..4);
        prop_oneof![
            object.prop_map(|fields| {
                let required: Vec<&String> = fields
                    .iter()
                    .filter(|(_, (_, required))| *required)
                    .map(|(name, _)| name)
                    .collect();
                let properties: serde_json::Map<String, Value> = fields
                    .iter()
                    .map(|(name, (schema, _))| (name.clone(), schema.clone()))
                    .collect();
                json!({"type": "object", "properties": properties, "required": required,
                    "additionalProperties": false})
            }),
            (inner.clone(), 0usize..2, 0usize..3).prop_map(|(items, low, more)| {
                json!({"type": "array", "items": items, "minItems": low, "maxItems": low + more})
            }),
            prop::collection::vec(inner, 1..3).prop_map(|options| json!({"anyOf": options})),
        ]
    })
}

#[test]
fn answers_are_under_random_schemas() {
    let engine = std::cell::RefCell::new(noisy(11, true));
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let cases = (
        schemas(),
        any::<u64>(),
        prop::sample::select(&[0.0f32, 0.5, 1.0, 5.0]),
    );
    runner
        .run(&cases, |(schema, seed, temperature)| {
            let request = asking(under(&schema), drawn(temperature, seed), 2000);
            let answer = ask(&mut engine.borrow_mut(), &request)
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(answer.reason, Some(FinishReason::Stop), "{}", answer.text);
            let value: Value = serde_json::from_str(&answer.text)
                .map_err(|error| TestCaseError::fail(format!("{error}: {}", answer.text)))?;
            prop_assert!(
                conforms(&value, &schema, &schema),
                "{} is not under {}",
                value,
                schema
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn hostile_forms_end_with_an_error_that_names_what_is_wrong() {
    let mut engine = noisy(1, true);
    let chain: serde_json::Map<String, Value> = (0..1500)
        .map(|n| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)})))
        .chain([("d1500".to_owned(), json!({"type": "null"}))])
        .collect();
    // A long chain is no error, only deep.
    let schema = json!({"$ref": "#/$defs/d0", "$defs": chain});
    let answer = ask(&mut engine, &asking(under(&schema), Sampling::greedy(), 20)).unwrap();
    assert_eq!(answer.text, "null");

    let mut deep = json!({"type": "null"});
    for _ in 0..70 {
        deep = json!({"items": deep});
    }
    let mut failures = Vec::new();
    let many = |n: usize| {
        (0..n)
            .map(|n| json!({"required": [n.to_string()]}))
            .collect::<Vec<_>>()
    };
    for (answer, says) in [
        (under(&json!({"items": {"items": deep}})), "flatter"),
        (under(&json!({"enum": (0..20_000).collect::<Vec<_>>()})), "bytes"),
        (
            under(&json!({"allOf": [{"anyOf": many(99)}, {"anyOf": many(99)}, {"anyOf": many(99)}]})),
            "combinations",
        ),
        (
            under(&json!({"type": "array", "minItems": 1_000_000_000})),
            "minItems",
        ),
        (
            under(&json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a", "minLength": 1}}})),
            "circular",
        ),
        (under(&json!({"$ref": "https://example.com/schema"})), "$ref"),
        (under(&json!({"$ref": "#/$defs/missing"})), "missing"),
        (
            under(&json!({"type": "object", "not": {"required": ["a"]}})),
            "not",
        ),
        (
            under(&json!({"type": "array", "uniqueItems": true})),
            "uniqueItems",
        ),
        (
            under(&json!({"if": {"type": "null"}, "then": {"const": 1}})),
            "if",
        ),
        (under(&json!({"type": "string", "format": "color"})), "color"),
        (under(&json!({"type": "strange"})), "strange"),
        (
            under(&json!({"oneOf": [{"type": "integer"}, {"minimum": 3}]})),
            "oneOf",
        ),
        (
            under(&json!({"type": "string", "pattern": "(a)\\1"})),
            "backreference",
        ),
        (under(&json!({"type": "string", "pattern": "("})), "unclosed"),
        (
            under(&json!({"type": "integer", "minimum": 3, "maximum": 2})),
            "minimum",
        ),
        (
            under(&json!({"allOf": [{"type": "string"}, {"type": "null"}]})),
            "nsatisfiable",
        ),
        (regex("(a)\\1"), "backreference"),
        (regex("a(?=b)"), "look"),
        (regex("["), "unclosed"),
        (regex(&"(".repeat(1000)), "unclosed"),
        (regex(&"x".repeat(5000)), "bytes"),
        (choice(&["a", ""]), "empty"),
        (choice(&vec!["x"; 2000]), "choices"),
    ] {
        let text = match ask(&mut engine, &asking(answer.clone(), Sampling::greedy(), 10)) {
            Ok(answer) => format!("no error: {answer:?}"),
            Err(error) => format!("{}: {error}", error.code()),
        };
        if !text.starts_with("invalid_response_format: ")
            || !text.contains(says)
            || text.len() > 600
            || text.contains("backtrace")
            || text.contains("<non")
        {
            failures.push(format!("{says:?}: {text}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Whether these are too much is the library's to say; none of them may hang, and what it takes must hold.
    for pattern in [
        "(a*)*b",
        "((a{0,100}){0,100}){0,100}",
        "(x+x+)+y",
        "(.*a){20}",
        "a{4000}",
        "\\p{L}{500}",
    ] {
        let mut request = asking(regex(pattern), Sampling::greedy(), 30);
        request.sampling = drawn(1.0, 1);
        let begun = engine.begin(1, &request);
        while begun.is_ok() && engine.running() > 0 {
            engine.step();
        }
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    let mut engine = noisy(4, true);
    let plain = ask(&mut engine, &asking(AnswerOptions::default(), drawn(1.0, 9), 60)).unwrap();
    assert!(plain.logprobs.is_empty());
    let told = AnswerOptions {
        logprobs: Some(5),
        ..AnswerOptions::default()
    };
    let answer = ask(&mut engine, &asking(told, drawn(1.0, 9), 60)).unwrap();
    assert_eq!(answer.text, plain.text);
    let bytes: Vec<u8> = answer
        .logprobs
        .iter()
        .flat_map(|token| token.bytes.clone())
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), answer.text);
    for token in &answer.logprobs {
        assert_eq!(token.top_logprobs.len(), 5);
        assert!(token.logprob <= 0.0 && token.logprob <= token.top_logprobs[0].logprob);
        assert!(token.top_logprobs.is_sorted_by(|a, b| a.logprob >= b.logprob));
        let sum: f32 = token.top_logprobs.iter().map(|other| other.logprob.exp()).sum();
        assert!(sum > 0.0 && sum < 1.0001, "{sum}");
    }
    let told = AnswerOptions {
        logprobs: Some(20),
        response_format: ResponseFormat::Choice {
            choices: vec!["é".into()],
        },
        ..AnswerOptions::default()
    };
    let mut request = asking(told, Sampling::greedy(), 10);
    let model = engine.model();
    let tokens = model.tokenizer().encode("ab").unwrap();
    assert_eq!(tokens.len(), 2);
    let mut cache = model.new_cache(8);
    let logits = model.forward(&mut cache, &tokens).unwrap();
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let mut expected: Vec<f64> = logits
        .iter()
        .map(|logit| (f64::from(*logit).exp() / total).ln())
        .collect();
    let answer = ask(&mut engine, &request).unwrap();
    assert_eq!(answer.text, "é");
    let first = &answer.logprobs[0];
    expected.sort_by(|a, b| b.total_cmp(a));
    for (told, expected) in first.top_logprobs.iter().zip(&expected) {
        assert!(
            (f64::from(told.logprob) - expected).abs() < 1e-4,
            "{told:?} {expected}"
        );
    }
    // A form changes what is chosen, not how likely the model found it.
    assert!(first.logprob < first.top_logprobs[0].logprob);
    request.answer.logprobs = Some(21);
    assert_eq!(ask(&mut engine, &request).unwrap_err().code(), "invalid_sampling");
}
