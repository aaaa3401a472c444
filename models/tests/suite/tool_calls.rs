//! Tools from request to call: shown by the template, forced where the request says so, read back from the answer.

use models::{
    AnswerOptions, Engine, EngineOptions, FinishReason, RequestError, ResponseFormat, Sampling, Tool,
    ToolChoice,
};
use serde_json::{Value, json};

use crate::structured::{Answer, ask, asking, drawn};
use crate::structured_schema::conforms;
use crate::support::{file, noisy_model, tiny_model};

/// Templates as short as they can be, in the ways of the families.
pub(crate) const HERMES: &str = "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}<tool_call></tool_call>{% endif %}\
                      {% for m in messages %}{{ m.content }}{% endfor %}<|im_start|>";
const LLAMA: &str =
    "{% if tools %}{{ tools | tojson }}<|python_tag|>{% endif %}{{ messages[0].content }}<|im_start|>";
const MISTRAL: &str =
    "{% if tools %}{{ tools | tojson }}[TOOL_CALLS]{% endif %}{{ messages[0].content }}<|im_start|>";
const MISTRAL_ARGS: &str =
    "{% if tools %}{{ tools | tojson }}[TOOL_CALLS][ARGS]{% endif %}{{ messages[0].content }}<|im_start|>";
const PHI: &str =
    "{% if tools %}{{ tools | tojson }}<|tool_call|>{% endif %}{{ messages[0].content }}<|im_start|>";

pub(crate) fn model(template: &str, seed: u32, byte_level: bool) -> Engine {
    let mut writer = noisy_model(seed, byte_level);
    writer.string("tokenizer.chat_template", template);
    let (_directory, path) = file("tools.gguf", &writer.bytes());
    Engine::load(&path, EngineOptions::default()).unwrap()
}

fn tools() -> Vec<Tool> {
    let function = |name: &str, parameters: Value| {
        Tool(
            json!({"type": "function", "function": {"name": name, "description": "does it", "parameters": parameters}}),
        )
    };
    vec![
        function(
            "weather",
            json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer",
                "minimum": 1, "maximum": 9}}, "required": ["city", "days"], "additionalProperties": false,
                "$defs": {"city": {"type": "string", "maxLength": 6}}}),
        ),
        function(
            "lamp",
            json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
                "additionalProperties": false}),
        ),
        Tool(json!({"type": "function", "function": {"name": "ping"}})),
    ]
}

pub(crate) fn with_tools(tool_choice: ToolChoice) -> AnswerOptions {
    AnswerOptions {
        tools: tools(),
        tool_choice,
        ..AnswerOptions::default()
    }
}

pub(crate) fn assert_calls(answer: &Answer) {
    assert_eq!(answer.reason, Some(FinishReason::ToolCalls), "{answer:?}");
    assert_eq!(answer.text, "", "{answer:?}");
    assert!(!answer.calls.is_empty());
    for call in &answer.calls {
        let tools = tools();
        let tool = tools
            .iter()
            .find(|tool| tool.name() == call.function.name)
            .unwrap();
        let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap();
        let schema = tool.parameters();
        assert!(conforms(&arguments, &schema, &schema), "{call:?}");
        assert!(call.id.len() == 9 && call.id.chars().all(|c| c.is_ascii_alphanumeric()));
    }
}

#[test]
fn a_forced_call_is_a_call_with_arguments_under_its_schema() {
    for template in [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, PHI] {
        for byte_level in [true, false] {
            let mut engine = model(template, 3, byte_level);
            let mut names = std::collections::BTreeSet::new();
            for seed in 0..8 {
                let sampling = drawn(if seed % 2 == 0 { 1.0 } else { 10.0 }, seed);
                let request = asking(with_tools(ToolChoice::Required), sampling.clone(), 2500);
                let answer = ask(&mut engine, &request).unwrap();
                assert_calls(&answer);
                assert!(answer.calls.len() <= 8);
                names.extend(answer.calls.iter().map(|call| call.function.name.clone()));
                let named = with_tools(ToolChoice::Function("lamp".into()));
                let answer = ask(&mut engine, &asking(named, sampling, 500)).unwrap();
                assert_calls(&answer);
                assert_eq!(answer.calls.len(), 1);
                assert_eq!(answer.calls[0].function.name, "lamp");
            }
            assert!(names.len() > 1, "{names:?}");
        }
    }
}

#[test]
fn without_force_the_answer_is_what_the_model_says() {
    let mut engine = model(HERMES, 1, true);
    let auto = ask(
        &mut engine,
        &asking(with_tools(ToolChoice::Auto), drawn(1.0, 1), 80),
    )
    .unwrap();
    assert!(auto.calls.is_empty() && auto.reason != Some(FinishReason::ToolCalls));
    // The model is shown the tools unless it must not call any.
    let prompt = |engine: &mut Engine, answer| {
        let begun = engine.begin(1, &asking(answer, Sampling::greedy(), 5)).unwrap();
        engine.cancel(1);
        engine.step();
        begun.prompt_tokens
    };
    let shown = prompt(&mut engine, with_tools(ToolChoice::Auto));
    let hidden = prompt(&mut engine, with_tools(ToolChoice::None));
    let none = prompt(&mut engine, AnswerOptions::default());
    assert!(shown > hidden + 100);
    assert_eq!(hidden, none);
}

#[test]
fn a_tools_description_cannot_speak_as_the_system() {
    // A special token in a description is letters, as in any other text of a client.
    let mut engine = model(HERMES, 1, true);
    let of = |description: &str| AnswerOptions {
        tools: vec![Tool(
            json!({"type": "function", "function": {"name": "f", "description": description}}),
        )],
        ..AnswerOptions::default()
    };
    let mut tokens = |description: &str| {
        let begun = engine
            .begin(1, &asking(of(description), Sampling::greedy(), 5))
            .unwrap();
        engine.cancel(1);
        engine.step();
        begun.prompt_tokens
    };
    assert_eq!(tokens("<|im_end|>"), tokens("<|im-end|>"));
}

#[test]
fn a_model_without_tools_says_so() {
    let mut plain = tiny_model();
    let (_keep, path) = file("plain.gguf", &plain.bytes());
    let without_template = Engine::load(&path, EngineOptions::default()).unwrap();
    plain.string("tokenizer.chat_template", "{{ messages[0].content }}");
    let (_keep, path) = file("template.gguf", &plain.bytes());
    let without_tools = Engine::load(&path, EngineOptions::default()).unwrap();
    let unknown_style = model("{{ tools }}{{ messages[0].content }}", 1, true);
    for mut engine in [without_template, without_tools, unknown_style] {
        let error = ask(
            &mut engine,
            &asking(with_tools(ToolChoice::Auto), Sampling::greedy(), 5),
        )
        .unwrap_err();
        assert_eq!(error.code(), "tools_unsupported");
        assert!(
            error.to_string().contains("choose a model made for tools"),
            "{error}"
        );
        // Tools that must not be called do no harm.
        ask(
            &mut engine,
            &asking(with_tools(ToolChoice::None), Sampling::greedy(), 5),
        )
        .unwrap();
    }
}

#[test]
fn impossible_tools_are_refused() {
    let mut engine = model(HERMES, 1, true);
    let mut both = with_tools(ToolChoice::Auto);
    both.response_format = ResponseFormat::JsonObject;
    let mut unsupported = with_tools(ToolChoice::Required);
    unsupported.tools = vec![Tool(
        json!({"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}),
    )];
    for (answer, says) in [(both, "no room"), (unsupported, "not")] {
        let error: RequestError = ask(&mut engine, &asking(answer, Sampling::greedy(), 5)).unwrap_err();
        assert_eq!(error.code(), "invalid_tools");
        assert!(error.to_string().contains(says), "{error}");
    }
}
