//! An answer whose engine is gone goes on in another one, behind the tokens whose text was given out, and what its reader
//! has in the end is what an undisturbed answer says: the same pieces, the same end.

use std::path::Path;

use models::{
    AnswerOptions, Engine, EngineOptions, Event, FinishReason, GenerateRequest, KvPrecision, NamedSchema,
    Precision, Prompt, ResponseFormat, Sampling, SequenceId, TokenLogprob, ToolCall,
};
use proptest::prelude::*;
use serde_json::json;

use crate::structured::drawn;
use crate::support::{STORIES_GGUF, file, noisy_model};

/// One `Text`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) calls: Vec<ToolCall>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pieces: Vec<Piece>,
    pub(crate) end: End,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        self.pieces.iter().map(|piece| piece.text.as_str()).collect()
    }
}

fn said(pieces: &[Piece]) -> Vec<u32> {
    pieces.iter().flat_map(|piece| piece.tokens.clone()).collect()
}

pub(crate) fn engine(path: &Path, precision: Precision, kv: KvPrecision) -> Engine {
    let options = EngineOptions {
        max_sequences: 8,
        precision: Some(precision),
        threads: Some(1),
        kv,
        ..EngineOptions::default()
    };
    Engine::load(path, options).unwrap()
}

/// Two engines that know nothing of each other.
pub(crate) fn two(path: &Path, precision: Precision) -> [Engine; 2] {
    [(); 2].map(|()| engine(path, precision, KvPrecision::F16))
}

pub(crate) fn noisy(seed: u32, byte_level: bool, precision: Precision) -> [Engine; 2] {
    let (_directory, path) = file("noisy.gguf", &noisy_model(seed, byte_level).bytes());
    two(&path, precision)
}

/// Nothing that ended sequences have left.
fn forget(engine: &mut Engine) {
    engine.set_cache_budget(Some(0));
    engine.set_cache_budget(None);
}

pub(crate) const ID: SequenceId = 11;

/// The next pieces, until so many are there or the end is.
fn listen(engine: &mut Engine, most: usize) -> (Vec<Piece>, Option<End>) {
    let (mut pieces, mut calls_made) = (Vec::new(), Vec::new());
    for _ in 0..20_000 {
        if pieces.len() >= most {
            return (pieces, None);
        }
        for event in engine.step() {
            match event {
                Event::Text {
                    id: ID,
                    text,
                    tokens,
                    logprobs,
                } => pieces.push(Piece {
                    text,
                    tokens,
                    logprobs,
                }),
                Event::ToolCalls { id: ID, calls } => calls_made.extend(calls),
                Event::Done {
                    id: ID,
                    finish_reason,
                    prompt_tokens,
                    cached_tokens,
                    completion_tokens,
                } => {
                    assert!(cached_tokens <= prompt_tokens);
                    let end = End {
                        reason: finish_reason,
                        prompt_tokens,
                        completion_tokens,
                        calls: calls_made,
                    };
                    return (pieces, Some(end));
                }
                Event::Failed { id, message } => panic!("{id} failed: {message}"),
                _ => {}
            }
        }
    }
    panic!("it has no end");
}

pub(crate) fn answer(engine: &mut Engine, request: &GenerateRequest) -> Answer {
    let begun = engine.begin(ID, request).unwrap();
    let (pieces, end) = listen(engine, usize::MAX);
    let end = end.unwrap();
    assert_eq!(begun.prompt_tokens, end.prompt_tokens);
    if request.said_text.is_empty() {
        assert!(end.completion_tokens <= begun.max_tokens.max(request.said.len()));
    }
    assert!(request.said.len() + said(&pieces).len() <= end.completion_tokens);
    Answer { pieces, end }
}

pub(crate) fn asking(
    prompt: &str,
    max_tokens: usize,
    sampling: Sampling,
    options: AnswerOptions,
) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Text(prompt.into()),
        max_tokens,
        sampling,
        stop: vec![],
        answer: options,
        said: vec![],
        said_text: String::new(),
    }
}

/// Cuts the answer behind each of its pieces; the end of the last one's step is lost with the engine. Gives the answer.
fn cut_everywhere([first, second]: &mut [Engine; 2], request: &GenerateRequest) -> Answer {
    let whole = answer(first, request);
    for cut in 0..=whole.pieces.len() {
        let mut again = request.clone();
        again.said = said(&whole.pieces[..cut]);
        forget(second);
        let rest = answer(second, &again);
        assert_eq!(rest.pieces, whole.pieces[cut..], "cut at {cut} of {whole:?}");
        assert_eq!(rest.end, whole.end, "cut at {cut} of {whole:?}");
        assert_eq!(second.running(), 0);
    }
    whole
}

fn with_logprobs(logprobs: usize) -> AnswerOptions {
    AnswerOptions {
        logprobs: Some(logprobs),
        ..AnswerOptions::default()
    }
}

/// Greedy; drawn with a seed; and without one, with a penalty for what was said.
fn samplings(seed: u64) -> [Sampling; 3] {
    let penalised = Sampling {
        repetition_penalty: 1.4,
        repetition_window: 24,
        ..Sampling::default()
    };
    [Sampling::greedy(), drawn(1.0, seed), penalised]
}

fn forms() -> Vec<AnswerOptions> {
    let schema = json!({
        "type": "object",
        "properties": {
            "größe": {"type": "number", "minimum": 0, "maximum": 3},
            "kind": {"enum": ["cat", "é", 1, null, "a\"b\\c"]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 2},
        },
        "required": ["größe", "kind", "tags"],
        "additionalProperties": false,
    });
    let formats = [
        ResponseFormat::JsonSchema {
            json_schema: NamedSchema {
                name: "test".into(),
                description: None,
                schema,
                strict: Some(true),
            },
        },
        ResponseFormat::Regex {
            pattern: "(ab|[é🦙]{2}|\\d{3} )+!".into(),
        },
        ResponseFormat::Choice {
            choices: ["yes", "no", "no, thanks", "日本"].map(str::to_owned).to_vec(),
        },
    ];
    let of_format = |response_format| AnswerOptions {
        response_format,
        logprobs: Some(2),
        ..AnswerOptions::default()
    };
    formats.into_iter().map(of_format).collect()
}

#[test]
fn a_story_goes_on_wherever_it_was_cut() {
    let path = shared!(STORIES_GGUF);
    let prompt = "Once upon a time, there was a little girl who had a big red ball and a small dog";
    for precision in Precision::ALL {
        let mut engines = two(&path, precision);
        for sampling in samplings(4) {
            let request = asking(prompt, 24, sampling, with_logprobs(1));
            let whole = cut_everywhere(&mut engines, &request);
            assert_eq!(whole.end.completion_tokens, 24);
        }
    }
}

#[test]
fn a_long_answer_takes_over_pages_of_its_prompt_and_says_the_same() {
    let path = shared!(STORIES_GGUF);
    let prompt = "Lily and Tom went to the park. They saw a big dog and a small cat. ".repeat(3);
    for kv in KvPrecision::ALL {
        let mut first = engine(&path, Precision::Int8, kv);
        let mut second = engine(&path, Precision::Int8, kv);
        let request = asking(&prompt, 120, drawn(0.8, 9), AnswerOptions::default());
        let whole = answer(&mut first, &request);
        // The second has seen the prompt, and the beginning of another answer to it.
        answer(
            &mut second,
            &asking(&prompt, 40, drawn(0.8, 5), AnswerOptions::default()),
        );
        for cut in [1, 17, 60, whole.pieces.len()] {
            let mut again = request.clone();
            again.said = said(&whole.pieces[..cut]);
            let rest = answer(&mut second, &again);
            assert_eq!(
                (&rest.pieces[..], &rest.end),
                (&whole.pieces[cut..], &whole.end),
                "{cut}"
            );
        }
    }
}

#[test]
fn half_characters_and_ends_of_all_kinds_survive_a_cut() {
    let (mut halves, mut reasons) = (0, Vec::new());
    for precision in Precision::ALL {
        for byte_level in [true, false] {
            for weights in 0..2 {
                let mut engines = noisy(weights, byte_level, precision);
                for sampling in samplings(u64::from(weights)) {
                    let request = asking("ab", 30, sampling, with_logprobs(0));
                    let whole = cut_everywhere(&mut engines, &request);
                    halves += whole.pieces.iter().filter(|piece| piece.tokens.len() > 1).count();
                    reasons.push(whole.end.reason);
                }
            }
        }
    }
    assert!(halves > 0, "some pieces took several tokens");
    for reason in [FinishReason::Stop, FinishReason::Length] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
}

#[test]
fn stop_texts_are_seen_across_a_cut() {
    let path = shared!(STORIES_GGUF);
    for precision in Precision::ALL {
        let mut engines = two(&path, precision);
        let mut request = asking("Once upon a time", 28, Sampling::greedy(), with_logprobs(0));
        let whole = cut_everywhere(&mut engines, &request);
        let text = whole.text();
        // Pieces of it, and such as begin like it and are held back for nothing.
        for start in [8, 15] {
            let until = start + 9;
            let stop = text[start..until].to_owned();
            request.stop = vec![
                format!("{stop}~"),
                text[start - 2..until - 1].to_owned() + "~",
                stop,
            ];
            let stopped = cut_everywhere(&mut engines, &request);
            assert_eq!(stopped.end.reason, FinishReason::Stop);
            assert!(text.starts_with(&stopped.text()) && stopped.text().len() <= start);
            request.stop.pop();
            assert_eq!(cut_everywhere(&mut engines, &request).text(), text);
        }
        // What is held back at the end, as far as it came, is said with the last token and not again.
        let last = &text[text.len() - 6..];
        request.stop = vec![format!("{last} and more")];
        let held = cut_everywhere(&mut engines, &request);
        assert_eq!(
            (held.text(), held.end.reason),
            (text.clone(), FinishReason::Length)
        );
    }
}

#[test]
fn forms_are_kept_across_a_cut() {
    for precision in [Precision::F32, Precision::Int8] {
        for byte_level in [true, false] {
            let mut engines = noisy(3, byte_level, precision);
            for form in forms() {
                for sampling in samplings(2) {
                    cut_everywhere(&mut engines, &asking("ab", 60, sampling, form.clone()));
                }
            }
        }
    }
}

#[test]
fn others_and_a_small_cache_change_nothing() {
    let path = shared!(STORIES_GGUF);
    let story = |seed, max_tokens| {
        asking(
            "One day, a boy named Tim went to the big park to play with his new ball",
            max_tokens,
            drawn(0.9, seed),
            AnswerOptions::default(),
        )
    };
    for precision in Precision::ALL {
        let [mut first, mut second] = two(&path, precision);
        let request = story(7, 60);
        let whole = answer(&mut first, &request);
        let page = second.model().new_cache(64).bytes_for(64) / 4;
        for (cut, pages) in [(5, None), (20, Some(12)), (41, Some(8))] {
            second.set_cache_budget(pages.map(|pages| pages * page));
            let mut others = Vec::new();
            for id in 0..3 {
                second.begin(id, &story(id, 30)).unwrap();
                for event in second.step() {
                    others.push(event);
                }
            }
            let mut again = request.clone();
            again.said = said(&whole.pieces[..cut]);
            let rest = answer(&mut second, &again);
            assert_eq!(
                (&rest.pieces[..], &rest.end),
                (&whole.pieces[cut..], &whole.end),
                "{precision} {cut}"
            );
            while second.running() > 0 {
                second.step();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// The engine is lost again and again, also before anything was said, and others run beside it.
    #[test]
    fn any_number_of_cuts_leave_the_answer_as_it_was(
        weights in 0..3_u32,
        byte_level: bool,
        precision in prop::sample::select(&Precision::ALL[..]),
        seed in 0..50_u64,
        sampling in 0..3_usize,
        form in 0..4_usize,
        stop in prop::option::of("[a-z]{1,2}"),
        cuts in prop::collection::vec(0..6_usize, 1..8),
        others in 0..3_u64,
    ) {
        let mut engines = noisy(weights, byte_level, precision);
        let options = forms().into_iter().nth(form).unwrap_or_else(|| with_logprobs(1));
        let mut request = asking("ab", 40, samplings(seed)[sampling].clone(), options);
        request.stop = stop.into_iter().collect();
        let whole = answer(&mut engines[0], &request);
        let (mut pieces, mut end) = (Vec::new(), None);
        for (attempt, cut) in cuts.into_iter().map(Some).chain([None]).enumerate() {
            let engine = &mut engines[1 - attempt % 2];
            for id in 0..others {
                let beside = asking("ab", 20, drawn(1.0, id + seed), AnswerOptions::default());
                prop_assert!(engine.begin(id, &beside).is_ok());
            }
            request.said = said(&pieces);
            prop_assert_eq!(engine.begin(ID, &request).map(|begun| begun.max_tokens), Ok(40));
            let (more, ended) = listen(engine, cut.unwrap_or(usize::MAX));
            pieces.extend(more);
            end = ended;
            for id in (0..others).chain([ID]) {
                engine.cancel(id);
            }
            engine.step();
            prop_assert_eq!(engine.running(), 0);
        }
        // The ends of those that were cut were lost, as far as they had come so far.
        prop_assert_eq!(Answer { pieces, end: end.unwrap() }, whole);
    }
}
