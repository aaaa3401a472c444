//! Whatever happens to a request, it gets the tokens that it gets alone: beside others, with a beginning that it shares,
//! paused and resumed, after its pages were let go of, and while the cache's budget shrinks and grows.

use std::collections::BTreeMap;
use std::time::Duration;

use models::{
    Engine, EngineOptions, Event, FinishReason, KvPrecision, Model, Precision, RequestError, Sampling,
    SequenceId, WhilePaused,
};

use crate::support::{ARCHITECTURES, STORIES_GGUF, architecture};

const PACKED: [Precision; 3] = [Precision::F16, Precision::Int8, Precision::Int4];

fn engine(path: &std::path::Path, precision: Precision, kv: KvPrecision) -> Engine {
    let options = EngineOptions {
        max_sequences: 16,
        precision: Some(precision),
        threads: Some(1),
        kv,
        ..EngineOptions::default()
    };
    Engine::load(path, options).unwrap()
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    text: String,
    completion_tokens: usize,
    cached_tokens: usize,
    failure: Option<String>,
    is_done: bool,
}

#[derive(Default)]
struct Answers(BTreeMap<SequenceId, Answer>);

impl Answers {
    /// One step, after which the cache must be within its budget.
    fn step(&mut self, engine: &mut Engine) {
        for event in engine.step() {
            match event {
                Event::Text { id, text, .. } => self.0.entry(id).or_default().text += &text,
                Event::Done {
                    id,
                    completion_tokens,
                    cached_tokens,
                    ..
                } => {
                    let answer = self.0.entry(id).or_default();
                    (answer.completion_tokens, answer.cached_tokens) = (completion_tokens, cached_tokens);
                    answer.is_done = true;
                }
                Event::Failed { id, message } => self.0.entry(id).or_default().failure = Some(message),
                Event::ToolCalls { .. } => panic!("nobody has tools here"),
            }
        }
        engine.took(Duration::from_millis(1));
        let stats = engine.stats();
        assert_eq!(engine.cache_bytes(), stats.running_bytes + stats.kept_bytes);
        assert!(engine.cache_bytes() <= stats.cache_budget_bytes.unwrap_or(usize::MAX));
    }

    fn run(&mut self, engine: &mut Engine) {
        while engine.has_work() {
            self.step(engine);
        }
    }

    fn text(&self, id: SequenceId) -> &str {
        &self.0[&id].text
    }
}

fn begin(engine: &mut Engine, id: SequenceId, prompt: &[u32], max_tokens: usize) {
    engine
        .begin_tokens(id, prompt, max_tokens, &Sampling::greedy(), &[])
        .unwrap();
}

/// The answer when nothing else is there, and nothing that was before.
fn alone(engine: &mut Engine, prompt: &[u32], max_tokens: usize) -> Answer {
    engine.set_cache_budget(Some(0));
    engine.set_cache_budget(None);
    let mut answers = Answers::default();
    begin(engine, 99, prompt, max_tokens);
    answers.run(engine);
    assert_eq!(answers.0[&99].cached_tokens, 0);
    answers.0.remove(&99).unwrap()
}

/// What a page takes.
fn page_bytes(engine: &Engine, kv: KvPrecision) -> usize {
    engine.model().new_cache_at(16, kv).bytes_for(16)
}

fn words(count: u32, seed: u32) -> Vec<u32> {
    (0..count).map(|n| 3 + (n * 31 + seed * 17) % 400).collect()
}

#[test]
fn a_request_gets_its_tokens_whatever_happens_around_it() {
    let path = shared!(STORIES_GGUF);
    for precision in PACKED {
        for kv in KvPrecision::ALL {
            let what = format!("{precision}, keys and values {kv}");
            let mut engine = engine(&path, precision, kv);
            let prompt = words(85, 1);
            let expected = alone(&mut engine, &prompt, 70);
            assert_eq!(expected.completion_tokens, 70, "{what}");

            // With its own pages still there.
            let mut answers = Answers::default();
            begin(&mut engine, 0, &prompt, 70);
            answers.run(&mut engine);
            assert_eq!(answers.text(0), expected.text, "{what}, again");
            assert_eq!(answers.0[&0].cached_tokens, 80, "{what}");

            // Among fifteen others, some of which begin alike.
            for id in 0..16 {
                let prompt = match id {
                    7 => prompt.clone(),
                    _ => [&prompt[..id * 5], &words(10 + id as u32, 9)].concat(),
                };
                begin(&mut engine, id as SequenceId, &prompt, 70);
            }
            let mut answers = Answers::default();
            answers.run(&mut engine);
            assert_eq!(answers.text(7), expected.text, "{what}, among others");

            // Paused in the middle of its prompt and of its answer.
            for cache in [WhilePaused::Keep, WhilePaused::Drop] {
                engine.set_cache_budget(Some(0));
                engine.set_cache_budget(None);
                let mut answers = Answers::default();
                begin(&mut engine, 5, &words(40, 3), 100);
                begin(&mut engine, 0, &prompt, 70);
                for step in 0..60 {
                    answers.step(&mut engine);
                    match step {
                        0 | 20 | 41 => assert!(engine.pause(0, cache)),
                        3 | 30 => assert!(engine.resume(0) && !engine.resume(0)),
                        // What was let go of is really gone.
                        45 if cache == WhilePaused::Drop => {
                            engine.set_cache_budget(Some(engine.stats().running_bytes + 4096));
                            engine.set_cache_budget(None);
                        }
                        _ => {}
                    }
                }
                assert_eq!(engine.stats().paused, 1);
                assert!(engine.resume(0));
                answers.run(&mut engine);
                assert_eq!(answers.text(0), expected.text, "{what}, paused, {cache:?}");
            }

            // While the budget shrinks to what one alone needs, and grows.
            let page = page_bytes(&engine, kv);
            let mut answers = Answers::default();
            for id in 0..4 {
                let prompt = if id == 2 { prompt.clone() } else { words(60, id) };
                begin(&mut engine, u64::from(id), &prompt, 70);
            }
            let mut step = 0;
            while engine.has_work() {
                let pages = [100, 22, 40, 11, 17, 25][step / 7 % 6];
                engine.set_cache_budget(Some(pages * page));
                answers.step(&mut engine);
                step += 1;
            }
            assert_eq!(answers.text(2), expected.text, "{what}, with little room");
            assert!(answers.0.values().all(|answer| answer.is_done));
        }
    }
}

#[test]
fn a_request_gets_its_tokens_on_the_reference_as_well() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::F32, KvPrecision::F16);
    let prompt = words(85, 1);
    let expected = alone(&mut engine, &prompt, 60);
    for cache in [WhilePaused::Keep, WhilePaused::Drop] {
        let mut answers = Answers::default();
        begin(&mut engine, 5, &words(40, 3), 80);
        begin(&mut engine, 0, &prompt, 60);
        for step in 0..40 {
            answers.step(&mut engine);
            match step {
                0 | 20 => assert!(engine.pause(0, cache)),
                3 | 30 => assert!(engine.resume(0)),
                _ => {}
            }
        }
        answers.run(&mut engine);
        assert_eq!(answers.text(0), expected.text, "paused, {cache:?}");
        // It shares nothing and keeps nothing.
        assert_eq!((answers.0[&0].cached_tokens, engine.cache_bytes()), (0, 0));
    }
    let needed = engine.model().new_cache(145).bytes_for(144);
    let mut answers = Answers::default();
    for id in 0..3 {
        begin(&mut engine, id, &prompt, 60);
    }
    let mut step = 0;
    while engine.has_work() {
        engine.set_cache_budget(Some(needed * [1, 3, 2][step / 9 % 3]));
        answers.step(&mut engine);
        step += 1;
    }
    for id in 0..3 {
        assert_eq!(answers.text(id), expected.text, "with little room");
    }
}

#[test]
fn the_next_turn_of_a_conversation_computes_only_what_is_new() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::Int8, KvPrecision::F16);
    let first = words(100, 2);
    let mut answers = Answers::default();
    begin(&mut engine, 0, &first, 30);
    answers.run(&mut engine);
    let kept = engine.stats().kept_bytes;
    assert_eq!(kept, engine.cache_bytes());
    assert!(kept > 0);
    // Neither the same beginning with another token in its first page, nor the same tokens further on.
    let mut other = first.clone();
    other[15] += 1;
    begin(&mut engine, 1, &other, 1);
    begin(&mut engine, 2, &[&[7], &first[..]].concat(), 1);
    begin(&mut engine, 3, &[&first[..], &words(50, 7)].concat(), 1);
    // The last token of a prompt is always computed, because what follows it is to be known.
    begin(&mut engine, 4, &first[..96], 1);
    answers.run(&mut engine);
    let cached: Vec<_> = (0..5).map(|id| answers.0[&id].cached_tokens).collect();
    assert_eq!(cached, [0, 0, 0, 96, 80]);
}

#[test]
fn of_two_that_begin_alike_at_the_same_moment_the_second_takes_over_what_the_first_computes() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::Int4, KvPrecision::F16);
    let common = words(150, 4);
    let prompts: Vec<Vec<u32>> = (0..3).map(|id| [&common[..], &words(9, id)].concat()).collect();
    let expected: Vec<_> = prompts
        .iter()
        .map(|prompt| alone(&mut engine, prompt, 20))
        .collect();
    engine.set_cache_budget(Some(0));
    engine.set_cache_budget(None);
    let mut answers = Answers::default();
    for (id, prompt) in (0..).zip(&prompts) {
        begin(&mut engine, id, prompt, 20);
    }
    answers.run(&mut engine);
    let cached: Vec<_> = (0..3).map(|id| answers.0[&id].cached_tokens).collect();
    assert_eq!(cached, [0, 144, 144]);
    for (id, expected) in (0..).zip(&expected) {
        assert_eq!(answers.text(id), expected.text);
    }
    // The one that waits for the first is not left behind when that one is stopped.
    engine.set_cache_budget(Some(0));
    engine.set_cache_budget(None);
    let mut answers = Answers::default();
    begin(&mut engine, 0, &prompts[0], 20);
    begin(&mut engine, 1, &prompts[1], 20);
    answers.step(&mut engine);
    assert!(engine.pause(0, WhilePaused::Drop));
    answers.run(&mut engine);
    assert!(answers.0[&1].is_done);
    assert_eq!(answers.text(1), expected[1].text);
    assert!(engine.cancel(0));
    answers.run(&mut engine);
    assert_eq!(engine.running(), 0);
}

#[test]
fn caches_that_are_turned_by_other_frequencies_share_nothing() {
    let (_keep, directory) = architecture("phi3");
    let mut engine = engine(&directory, Precision::F16, KvPrecision::F16);
    let prompt: Vec<u32> = (0..24).map(|n| (37 * n + 11 * n * n + 5) % 96).collect();
    // Up to 32 tokens the frequencies are the short ones.
    let expected = [8, 60].map(|max_tokens| alone(&mut engine, &prompt, max_tokens));
    engine.set_cache_budget(Some(0));
    engine.set_cache_budget(None);
    let mut answers = Answers::default();
    for (id, max_tokens) in [(0, 8), (1, 60), (2, 8), (3, 60)] {
        begin(&mut engine, id, &prompt, max_tokens);
        answers.run(&mut engine);
        let expected = &expected[id as usize % 2];
        assert_eq!(answers.text(id), expected.text);
    }
    let cached: Vec<_> = (0..4).map(|id| answers.0[&id].cached_tokens).collect();
    assert_eq!(cached, [0, 0, 16, 16]);
}

#[test]
fn what_can_never_fit_is_refused_and_answers_end_where_the_cache_does() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::Int8, KvPrecision::F16);
    let page = page_bytes(&engine, KvPrecision::F16);
    engine.set_cache_budget(Some(4 * page + 1));
    let error = engine
        .begin_tokens(0, &words(65, 1), 10, &Sampling::greedy(), &[])
        .unwrap_err();
    assert_eq!(error.code(), "cache_too_small");
    assert_eq!(
        error,
        RequestError::CacheTooSmall {
            tokens: 65,
            needed_bytes: 5 * page,
            budget_bytes: 4 * page + 1
        }
    );
    assert!(error.to_string().contains("model.cache_mib"), "{error}");
    // Sixty-four tokens fit; the last of the answer needs no room.
    let begun = engine
        .begin_tokens(0, &words(60, 1), 100, &Sampling::greedy(), &[])
        .unwrap();
    assert_eq!(begun.max_tokens, 5);
    let mut reasons = Vec::new();
    while engine.has_work() {
        for event in engine.step() {
            if let Event::Done {
                finish_reason,
                completion_tokens,
                ..
            } = event
            {
                reasons.push((finish_reason, completion_tokens));
            }
        }
        assert!(engine.cache_bytes() <= 4 * page);
    }
    assert_eq!(reasons, [(FinishReason::Length, 5)]);
}

#[test]
fn when_room_gets_short_the_youngest_waits_and_the_oldest_comes_back_first() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::Int8, KvPrecision::F16);
    let page = page_bytes(&engine, KvPrecision::F16);
    let expected: Vec<_> = (0..3)
        .map(|seed| alone(&mut engine, &words(60, seed), 60))
        .collect();
    let mut answers = Answers::default();
    for id in 0..3 {
        begin(&mut engine, id, &words(60, id as u32), 60);
    }
    for _ in 0..10 {
        answers.step(&mut engine);
    }
    assert_eq!(engine.stats().waiting, 0);
    // Room for one and a half.
    engine.set_cache_budget(Some(9 * page));
    assert!(engine.cache_bytes() <= 9 * page);
    let said = |answers: &Answers| [0, 1, 2].map(|id| answers.text(id).len());
    let before = said(&answers);
    for _ in 0..10 {
        answers.step(&mut engine);
    }
    let after = said(&answers);
    assert!(
        after[0] > before[0] && after[1..] == before[1..],
        "{before:?} {after:?}"
    );
    assert_eq!(engine.stats().waiting, 2);
    // A newcomer stands behind them.
    begin(&mut engine, 3, &words(5, 5), 2);
    let mut ended = Vec::new();
    while engine.has_work() {
        answers.step(&mut engine);
        for (id, answer) in &answers.0 {
            if answer.is_done && !ended.contains(id) {
                ended.push(*id);
            }
        }
    }
    assert_eq!(ended[..2], [0, 1], "{ended:?}");
    for id in 0..3 {
        assert_eq!(answers.text(id), expected[id as usize].text);
    }
}

#[test]
fn one_that_outgrows_a_budget_that_shrank_fails_and_says_what_to_do() {
    for precision in [Precision::Int8, Precision::F32] {
        let mut engine = engine(&shared!(STORIES_GGUF), precision, KvPrecision::F16);
        let mut answers = Answers::default();
        begin(&mut engine, 0, &words(60, 1), 60);
        begin(&mut engine, 1, &words(30, 2), 10);
        begin(&mut engine, 2, &words(70, 3), 10);
        answers.step(&mut engine);
        // A paused one is not asked.
        assert!(engine.pause(2, WhilePaused::Keep));
        let room = engine.model().new_cache(100).bytes_for(48);
        let room = if precision == Precision::F32 {
            room / 2
        } else {
            room
        };
        engine.set_cache_budget(Some(room));
        assert!(engine.cache_bytes() <= room);
        answers.run(&mut engine);
        let failure = answers.0[&0].failure.as_ref().unwrap();
        assert!(failure.contains("allow the cache more memory"), "{failure}");
        if precision == Precision::Int8 {
            assert!(answers.0[&1].is_done, "{:?}", answers.0[&1]);
        }
        assert_eq!((engine.running(), engine.stats().paused), (1, 1));
        engine.set_cache_budget(None);
        assert!(engine.resume(2));
        answers.run(&mut engine);
        assert!(answers.0[&2].is_done);
    }
}

#[test]
fn an_engine_whose_sequences_are_paused_has_nothing_to_do() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::Int8, KvPrecision::F16);
    let mut answers = Answers::default();
    begin(&mut engine, 0, &words(30, 1), 10);
    answers.step(&mut engine);
    assert!(!engine.pause(1, WhilePaused::Keep) && !engine.resume(0));
    assert!(engine.pause(0, WhilePaused::Keep) && engine.pause(0, WhilePaused::Keep));
    assert!(!engine.has_work() && engine.step().is_empty());
    assert_eq!((engine.running(), engine.stats().paused), (1, 1));
    assert!(engine.stats().running_bytes > 0);
    // Kept at first, let go of after all.
    assert!(engine.pause(0, WhilePaused::Drop));
    assert_eq!(engine.stats().running_bytes, 0);
    // Its end is told though it does not move.
    assert!(engine.cancel(0) && !engine.resume(0) && engine.has_work());
    answers.step(&mut engine);
    assert!(answers.0[&0].is_done && engine.running() == 0);
}

#[test]
fn kept_prefixes_leave_room_for_what_runs_and_go_when_memory_is_wanted() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::Int8, KvPrecision::F16);
    let page = page_bytes(&engine, KvPrecision::F16);
    engine.set_cache_budget(Some(10 * page));
    let mut answers = Answers::default();
    for id in 0..6 {
        begin(&mut engine, id, &words(60, id as u32), 20);
        answers.run(&mut engine);
    }
    assert!(engine.stats().kept_bytes > 5 * page && engine.cache_bytes() <= 10 * page);
    // The last one is still there, the first is not.
    begin(&mut engine, 10, &words(60, 5), 1);
    answers.run(&mut engine);
    begin(&mut engine, 11, &words(60, 0), 1);
    answers.run(&mut engine);
    assert_eq!(
        (answers.0[&10].cached_tokens, answers.0[&11].cached_tokens),
        (48, 0)
    );
    engine.set_cache_budget(Some(page));
    assert_eq!(engine.cache_bytes(), page);
}

#[test]
fn keys_and_values_of_eight_bits_take_less_room_and_change_little() {
    let ids: Vec<u32> = (0..64).map(|i| (37 * i + 11 * i * i + 5) % 96).collect();
    for name in ARCHITECTURES {
        let (_keep, directory) = architecture(name);
        let model = Model::load_at(&directory, Some(Precision::F16), Some(1)).unwrap();
        let [halves, bytes] = KvPrecision::ALL.map(|kv| {
            let mut cache = model.new_cache_at(64, kv);
            let logits: Vec<_> = ids
                .iter()
                .flat_map(|id| model.forward(&mut cache, &[*id]).unwrap())
                .collect();
            (logits, cache.bytes())
        });
        let error: f32 = halves.0.iter().zip(&bytes.0).map(|(a, b)| (a - b).powi(2)).sum();
        let distance = (error / halves.0.iter().map(|logit| logit * logit).sum::<f32>()).sqrt();
        println!("{name}: {distance}, {} of {} bytes", bytes.1, halves.1);
        assert!(distance > 0.0 && distance < 0.03, "{name}: {distance}");
        // Heads of these models are short: a scale is for 8 to 16 values here, not for 32.
        assert!(bytes.1 * 4 <= halves.1 * 3, "{name}");
    }
}

#[test]
fn while_the_prompt_of_one_in_a_hurry_is_computed_all_others_wait_and_say_the_same_afterwards() {
    let mut engine = engine(&shared!(STORIES_GGUF), Precision::Int8, KvPrecision::F16);
    let greedy = Sampling::greedy();
    let begin = |engine: &mut Engine, id, prompt: &[u32]| {
        engine.begin_tokens(id, prompt, 20, &greedy, &[]).unwrap();
    };
    let (talker, urgent) = (words(20, 1), words(90, 2));
    let mut alone = Answers::default();
    for (id, prompt) in [(0, &talker), (1, &urgent)] {
        begin(&mut engine, id, prompt);
        while engine.has_work() {
            alone.step(&mut engine);
        }
    }
    let mut answers = Answers::default();
    begin(&mut engine, 0, &talker);
    while answers.0.get(&0).is_none_or(|answer| answer.text.is_empty()) {
        answers.step(&mut engine);
    }
    begin(&mut engine, 1, &urgent);
    assert!(engine.hurry(1) && !engine.hurry(2));
    let said = answers.0[&0].text.len();
    let mut steps = 0;
    while !answers.0.contains_key(&1) {
        answers.step(&mut engine);
        steps += 1;
    }
    assert!(steps < 10, "{steps} steps");
    // In the step that gave the first word of the urgent one, or after it, others had their turn again at the earliest.
    let since = answers.0[&0].text.len() - said;
    assert!(since <= 8, "{since} bytes were said by the other one");
    while engine.has_work() {
        answers.step(&mut engine);
    }
    for id in [0, 1] {
        assert_eq!(answers.0[&id].text, alone.0[&id].text);
    }
}
