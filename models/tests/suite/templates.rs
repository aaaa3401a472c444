//! Chat templates: the real ones, with a conversation that llama.cpp knows the answer for.

use std::fmt::Write as _;

use models::{AnswerOptions, ChatMessage, Engine, EngineOptions, GenerateRequest, Prompt, Sampling};

use crate::support::{file, tiny_model};

fn prompt_tokens(template: Option<&str>, prompt: Prompt) -> Result<usize, models::RequestError> {
    let mut writer = tiny_model();
    if let Some(template) = template {
        writer.string("tokenizer.chat_template", template);
    }
    let (_directory, path) = file("tiny.gguf", &writer.bytes());
    let mut engine = Engine::load(&path, EngineOptions::default()).unwrap();
    assert_eq!(engine.summary().has_chat_template, template.is_some());
    let request = GenerateRequest {
        prompt,
        max_tokens: 1,
        sampling: Sampling::greedy(),
        stop: vec![],
        answer: AnswerOptions::default(),
        said: vec![],
        said_text: String::new(),
    };
    engine.begin(1, &request).map(|begun| begun.prompt_tokens)
}

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage::new(role, content)
}

#[test]
fn a_template_decides_what_the_model_is_given() {
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    // <s>, the space that begins a text, "x", </s>: special tokens are one token each, and <s> is not added twice.
    assert_eq!(prompt_tokens(Some(template), Prompt::Text("x".into())), Ok(4));
    // A user who writes </s> has written four characters.
    assert_eq!(prompt_tokens(Some(template), Prompt::Text("</s>".into())), Ok(7));
    let two = Prompt::Messages(vec![message("user", "x"), message("assistant", "y")]);
    assert_eq!(prompt_tokens(Some(template), two.clone()), Ok(7));
    // Without a template: <s>, space, x, newline, y.
    assert_eq!(prompt_tokens(None, two), Ok(5));
    assert_eq!(prompt_tokens(None, Prompt::Text("x".into())), Ok(3));
}

#[test]
fn a_refused_conversation_says_why() {
    let template =
        "{% if messages[0].role != 'user' %}{{ raise_exception('the user speaks first') }}{% endif %}x";
    let prompt = Prompt::Messages(vec![message("assistant", "x")]);
    let error = prompt_tokens(Some(template), prompt).unwrap_err();
    assert_eq!(error.code(), "template_refused");
    let mut text = String::new();
    write!(text, "{error}").unwrap();
    assert!(text.contains("the user speaks first"), "{text}");
}

#[test]
fn a_template_that_does_not_compile_stops_the_start() {
    let mut writer = tiny_model();
    writer.string("tokenizer.chat_template", "{% for %}");
    let (_directory, path) = file("tiny.gguf", &writer.bytes());
    let error = models::inspect(&path).unwrap_err().to_string();
    assert!(
        error.contains("tiny.gguf") && error.contains("chat template"),
        "{error}"
    );
}
