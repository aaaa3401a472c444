//! The engine: sequences beside each other, their ends, their limits, and what it refuses.

use std::collections::BTreeMap;

use models::{
    AnswerOptions, Begun, Engine, EngineOptions, Event, FinishReason, GenerateRequest, Prompt, RequestError,
    Sampling, SequenceId,
};

use crate::support::{STORIES_GGUF, file, tiny_model};

fn request(prompt: &str, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Text(prompt.into()),
        max_tokens,
        sampling: Sampling::greedy(),
        stop: vec![],
        answer: AnswerOptions::default(),
        said: vec![],
        said_text: String::new(),
    }
}

fn options(max_sequences: usize) -> EngineOptions {
    EngineOptions {
        max_sequences,
        ..EngineOptions::default()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    text: String,
    tokens_told: usize,
    finish_reason: Option<FinishReason>,
    prompt_tokens: usize,
    completion_tokens: usize,
}

/// Steps until nothing runs, holding the engine to its order of events.
fn run(engine: &mut Engine, answers: &mut BTreeMap<SequenceId, Answer>) {
    while engine.running() > 0 {
        take(engine, answers);
    }
    assert!(engine.step().is_empty());
}

fn take(engine: &mut Engine, answers: &mut BTreeMap<SequenceId, Answer>) {
    for event in engine.step() {
        match event {
            Event::Text { id, text, tokens, .. } => {
                let answer = answers.entry(id).or_default();
                assert!(!text.is_empty() && answer.finish_reason.is_none());
                answer.text.push_str(&text);
                answer.tokens_told += tokens.len();
            }
            Event::Done {
                id,
                finish_reason,
                prompt_tokens,
                completion_tokens,
                ..
            } => {
                let answer = answers.entry(id).or_default();
                assert_eq!(answer.finish_reason.replace(finish_reason), None);
                answer.prompt_tokens = prompt_tokens;
                answer.completion_tokens = completion_tokens;
                assert!(answer.tokens_told <= completion_tokens);
            }
            Event::ToolCalls { id, calls } => panic!("{id} calls {calls:?}"),
            Event::Failed { id, message } => panic!("{id} failed: {message}"),
        }
    }
}

fn alone(engine: &mut Engine, request: &GenerateRequest) -> Answer {
    let mut answers = BTreeMap::new();
    engine.begin(7, request).unwrap();
    run(engine, &mut answers);
    answers.remove(&7).unwrap()
}

#[test]
fn the_expected_story_streams() {
    let mut engine = Engine::load(&shared!(STORIES_GGUF), options(1)).unwrap();
    let expected = std::fs::read_to_string(shared!("models/stories260K/expected_greedy_256.txt")).unwrap();
    let begun = engine
        .begin_tokens(1, &[1], 256, &Sampling::greedy(), &[])
        .unwrap();
    assert_eq!(
        begun,
        Begun {
            prompt_tokens: 1,
            max_tokens: 256
        }
    );
    let mut answers = BTreeMap::new();
    run(&mut engine, &mut answers);
    let answer = &answers[&1];
    assert_eq!(answer.text, expected.trim_end_matches('\n'));
    assert_eq!(answer.finish_reason, Some(FinishReason::Length));
    assert_eq!(
        (answer.prompt_tokens, answer.completion_tokens, answer.tokens_told),
        (1, 256, 256)
    );
    // From a text: "Once upon a time" is what the model would say itself, so the story goes on in the same words.
    let continued = alone(&mut engine, &request("Once upon a time", 100));
    assert!(
        expected.starts_with(&format!("Once upon a time{}", continued.text)),
        "{}",
        continued.text
    );
    assert!(continued.text.starts_with(", there was"));
}

#[test]
fn company_changes_no_token() {
    let mut engine = Engine::load(&shared!(STORIES_GGUF), options(8)).unwrap();
    let long = "Lily and Tom went to the park. ".repeat(8);
    let prompts = [
        "Once upon a time",
        "The cat",
        "She said",
        "A",
        "One day, a big",
        "Tom",
        "The sun",
        long.as_str(),
    ];
    let mut requests: Vec<GenerateRequest> = prompts.iter().map(|prompt| request(prompt, 48)).collect();
    requests[3].sampling = Sampling {
        seed: Some(5),
        ..Sampling::default()
    };
    let alone: Vec<Answer> = requests
        .iter()
        .map(|request| alone(&mut engine, request))
        .collect();
    // They join two steps apart, so that each is at another place of its story.
    let mut answers = BTreeMap::new();
    for (id, request) in (0..).zip(&requests) {
        engine.begin(id, request).unwrap();
        take(&mut engine, &mut answers);
        take(&mut engine, &mut answers);
    }
    assert_eq!(engine.running(), 8);
    assert!(engine.cache_bytes() > 0);
    run(&mut engine, &mut answers);
    assert_eq!(answers.into_values().collect::<Vec<_>>(), alone);
    assert_eq!((engine.running(), engine.cache_bytes()), (0, 0));
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_in_it() {
    let mut engine = Engine::load(&shared!(STORIES_GGUF), options(1)).unwrap();
    let mut request = request("Once upon a time", 100);
    let whole = alone(&mut engine, &request).text;
    request.stop = vec!["girl named".into(), "never said".into()];
    let answer = alone(&mut engine, &request);
    assert_eq!(answer.finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.text, whole[..whole.find("girl named").unwrap()]);
    // One that never completes only delays.
    request.stop = vec!["girl namer".into()];
    assert_eq!(alone(&mut engine, &request).text, whole);
}

#[test]
fn a_seed_repeats_itself() {
    let mut engine = Engine::load(&shared!(STORIES_GGUF), options(1)).unwrap();
    let with_seed = |seed| GenerateRequest {
        sampling: Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(seed),
            ..Sampling::default()
        },
        ..request("Once upon a time", 40)
    };
    let first = alone(&mut engine, &with_seed(1));
    assert_eq!(alone(&mut engine, &with_seed(1)), first);
    assert_ne!(alone(&mut engine, &with_seed(2)).text, first.text);
}

#[test]
fn a_cancelled_sequence_ends_and_its_id_is_free() {
    let mut engine = Engine::load(&shared!(STORIES_GGUF), options(2)).unwrap();
    let mut answers = BTreeMap::new();
    engine.begin(1, &request("Once", 200)).unwrap();
    engine.begin(2, &request("Once", 20)).unwrap();
    for _ in 0..5 {
        take(&mut engine, &mut answers);
    }
    assert!(engine.cancel(1) && !engine.cancel(1) && !engine.cancel(9));
    // Until a step has said so, the sequence counts and keeps its id.
    assert_eq!(engine.running(), 2);
    assert_eq!(
        engine.begin(1, &request("Once", 1)),
        Err(RequestError::DuplicateSequence { id: 1 })
    );
    take(&mut engine, &mut answers);
    assert_eq!(engine.running(), 1);
    assert_eq!(answers[&1].finish_reason, Some(FinishReason::Cancelled));
    assert_eq!((answers[&1].completion_tokens, answers[&1].tokens_told), (5, 5));
    // A sequence that never had a step is cancelled all the same.
    engine.begin(3, &request("Once", 1)).unwrap();
    assert!(engine.cancel(3));
    run(&mut engine, &mut answers);
    assert_eq!(
        (answers[&3].finish_reason, answers[&3].completion_tokens),
        (Some(FinishReason::Cancelled), 0)
    );
    assert_eq!(
        (answers[&2].finish_reason, answers[&2].completion_tokens),
        (Some(FinishReason::Length), 20)
    );
}

#[test]
fn the_context_bounds_the_answer() {
    let limited = EngineOptions {
        max_sequences: 1,
        max_context_tokens: Some(40),
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(&shared!(STORIES_GGUF), limited).unwrap();
    assert_eq!(engine.context_tokens(), 40);
    let begun = engine.begin(1, &request("Once upon a time", usize::MAX)).unwrap();
    assert_eq!(begun.prompt_tokens + begun.max_tokens, 40);
    let mut answers = BTreeMap::new();
    run(&mut engine, &mut answers);
    assert_eq!(answers[&1].finish_reason, Some(FinishReason::Length));
    assert_eq!(answers[&1].completion_tokens, begun.max_tokens);
    let long = "word ".repeat(40);
    let error = engine.begin(1, &request(&long, 1)).unwrap_err();
    assert!(
        matches!(error, RequestError::PromptTooLong { limit: 39, .. }),
        "{error}"
    );
    assert_eq!(error.code(), "prompt_too_long");
    // Far too long a text is refused by its length alone.
    let error = engine
        .begin(1, &request(&"word ".repeat(1 << 20), 1))
        .unwrap_err();
    assert!(matches!(error, RequestError::PromptTooLong { .. }), "{error}");
    assert_eq!(engine.running(), 0);
}

#[test]
fn impossible_requests_are_refused_by_name() {
    let (_keep, path) = file("tiny.gguf", &tiny_model().bytes());
    let mut engine = Engine::load(&path, options(2)).unwrap();
    let with = |change: fn(&mut GenerateRequest)| {
        let mut request = request("a", 4);
        change(&mut request);
        request
    };
    let cases = [
        (
            with(|request| request.prompt = Prompt::Text(String::new())),
            "empty_prompt",
        ),
        (
            with(|request| request.prompt = Prompt::Messages(vec![])),
            "empty_prompt",
        ),
        (with(|request| request.max_tokens = 0), "invalid_max_tokens"),
        (with(|request| request.stop = vec![String::new()]), "invalid_stop"),
        (
            with(|request| request.stop = vec!["x".repeat(257)]),
            "invalid_stop",
        ),
        (
            with(|request| request.stop = vec!["x".into(); 17]),
            "invalid_stop",
        ),
        (
            with(|request| request.sampling.temperature = -0.1),
            "invalid_sampling",
        ),
        (
            with(|request| request.sampling.temperature = f32::NAN),
            "invalid_sampling",
        ),
        (with(|request| request.sampling.top_p = 0.0), "invalid_sampling"),
        (with(|request| request.sampling.min_p = 1.5), "invalid_sampling"),
        (
            with(|request| request.sampling.repetition_penalty = f32::INFINITY),
            "invalid_sampling",
        ),
    ];
    for (request, code) in cases {
        let error = engine.begin(1, &request).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let error = engine
        .begin(1, &with(|request| request.sampling.top_p = 2.0))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "top_p is 2; it must be above 0, up to 1");
    engine.begin(1, &request("a", 4)).unwrap();
    assert_eq!(
        engine.begin(1, &request("a", 4)),
        Err(RequestError::DuplicateSequence { id: 1 })
    );
    engine.begin(2, &request("a", 4)).unwrap();
    assert_eq!(
        engine.begin(3, &request("a", 4)),
        Err(RequestError::TooManySequences { limit: 2 })
    );
    assert_eq!(engine.running(), 2);
}

#[test]
fn requests_and_events_travel_as_json() {
    let sent = request("hi", 3);
    let json = serde_json::to_string(&sent).unwrap();
    assert_eq!(serde_json::from_str::<GenerateRequest>(&json).unwrap(), sent);
    let short: GenerateRequest = serde_json::from_str(r#"{"prompt":{"text":"hi"},"max_tokens":3}"#).unwrap();
    assert_eq!(short.sampling, Sampling::default());
    let done = Event::Done {
        id: 1,
        finish_reason: FinishReason::Length,
        prompt_tokens: 1,
        cached_tokens: 0,
        completion_tokens: 2,
    };
    let json = serde_json::to_string(&done).unwrap();
    assert!(json.contains(r#""finish_reason":"length""#), "{json}");
    assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), done);
}

/// The worker hands the engine to the thread that steps it.
#[test]
fn an_engine_can_move_to_another_thread() {
    fn movable<T: Send>() {}
    movable::<Engine>();
    movable::<models::Model>();
}

/// Orientation, not a test: `cargo test --release -p models -- --ignored --nocapture speed`.
#[test]
#[ignore = "prints a measurement"]
fn speed() {
    let mut engine = Engine::load(&shared!(STORIES_GGUF), options(8)).unwrap();
    for sequences in [1, 8] {
        for id in 0..sequences {
            engine
                .begin_tokens(id, &[1], 400, &Sampling::greedy(), &[])
                .unwrap();
        }
        let start = std::time::Instant::now();
        let mut tokens = 0;
        while engine.running() > 0 {
            for event in engine.step() {
                if let Event::Done {
                    completion_tokens, ..
                } = event
                {
                    tokens += completion_tokens;
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{sequences} sequences: {tokens} tokens in {seconds:.3} s, {:.0} tokens/s",
            tokens as f64 / seconds
        );
    }
}
