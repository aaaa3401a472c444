//! The engine's accounts: whatever its owner does, bytes are counted right and bounded, no page is left behind, and every
//! sequence gets the tokens that it gets alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packed::{PAGE_TOKENS, Page};
use crate::request::FinishReason;

#[derive(Clone, Debug)]
enum Do {
    Begin {
        prompt: usize,
        max_tokens: usize,
    },
    /// And how long it is said to have taken.
    Step {
        took_ms: u64,
    },
    Pause {
        which: usize,
        cache: WhilePaused,
    },
    Resume {
        which: usize,
    },
    Cancel {
        which: usize,
    },
    Hurry {
        which: usize,
    },
    Budget {
        pages: Option<usize>,
    },
}

fn what_to_do() -> impl Strategy<Value = Do> {
    let cache = prop_oneof![Just(WhilePaused::Keep), Just(WhilePaused::Drop)];
    prop_oneof![
        4 => (0..24_usize, 1..40_usize).prop_map(|(prompt, max_tokens)| Do::Begin { prompt, max_tokens }),
        10 => prop_oneof![Just(1), Just(200), Just(5_000)].prop_map(|took_ms| Do::Step { took_ms }),
        2 => (any::<usize>(), cache).prop_map(|(which, cache)| Do::Pause { which, cache }),
        3 => any::<usize>().prop_map(|which| Do::Resume { which }),
        1 => any::<usize>().prop_map(|which| Do::Cancel { which }),
        1 => any::<usize>().prop_map(|which| Do::Hurry { which }),
        2 => prop::option::of(0..40_usize).prop_map(|pages| Do::Budget { pages }),
    ]
}

/// Three families, whose members begin alike for a while.
fn prompt(number: usize) -> Vec<u32> {
    let (family, member) = (number as u32 % 3, number as u32 / 3);
    let alike = 11 * (member % 5 + 1);
    let common = (0..alike).map(|n| (37 * n + 11 * n * n + family) % 96);
    let own = (0..(member * 7) % 30 + 1).map(|n| (5 * n + 13 * member + family) % 96);
    common.chain(own).collect()
}

fn engine(model: &str, precision: Precision, kv: KvPrecision) -> Engine {
    engine_in(None, model, precision, kv)
}

fn engine_in(packed: Option<&Path>, model: &str, precision: Precision, kv: KvPrecision) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/architectures")
        .join(model)
        .join("model.gguf");
    let options = EngineOptions {
        max_sequences: 12,
        precision: Some(precision),
        threads: Some(1),
        packed_directory: packed.map(Path::to_owned),
        kv,
        ..EngineOptions::default()
    };
    Engine::load(&path, options).unwrap()
}

/// What a request comes to, as far as it can be seen: its tokens but for the last, and its text.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    completion_tokens: usize,
    /// How long it could become, if that was shorter than was asked for.
    cut: Option<usize>,
}

/// An engine, and what was and is going on in it.
struct Watched {
    engine: Engine,
    pages: Vec<Weak<Page>>,
    /// What each running sequence is.
    running: BTreeMap<SequenceId, ([usize; 2], Answer)>,
    /// Those whose answers the budget cut shorter than was asked for.
    cut: HashMap<SequenceId, usize>,
    next_id: SequenceId,
    budget: Option<usize>,
    /// How often something came about that the tests are for.
    failed: usize,
    waited: usize,
    cached_tokens: usize,
}

impl Watched {
    fn new(engine: Engine) -> Self {
        Self {
            engine,
            pages: Vec::new(),
            running: BTreeMap::new(),
            cut: HashMap::new(),
            next_id: 0,
            budget: None,
            failed: 0,
            waited: 0,
            cached_tokens: 0,
        }
    }

    fn begin(&mut self, [number, max_tokens]: [usize; 2]) {
        let id = self.next_id;
        self.next_id += 1;
        let begun = self
            .engine
            .begin_tokens(id, &prompt(number), max_tokens, &Sampling::greedy(), &[]);
        match begun {
            Ok(begun) => {
                let answer = Answer {
                    tokens: prompt(number),
                    ..Answer::default()
                };
                let cut = (begun.max_tokens < max_tokens).then_some(begun.max_tokens);
                self.running.insert(id, ([number, max_tokens], answer));
                self.cut.extend(cut.map(|tokens| (id, tokens)));
            }
            Err(RequestError::TooManySequences { .. }) => assert_eq!(self.engine.running(), 12),
            Err(RequestError::CacheTooSmall { needed_bytes, .. }) => {
                assert!(needed_bytes > self.budget.unwrap());
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// What ended in this step, unless it was cancelled.
    fn step(&mut self) -> Vec<([usize; 2], Answer)> {
        let mut ended = Vec::new();
        let events = self.engine.step();
        for sequence in &self.engine.sequences {
            let (_, answer) = self.running.get_mut(&sequence.id).unwrap();
            let tokens = sequence.context.tokens();
            assert!(tokens.starts_with(&answer.tokens), "what was said stays said");
            answer.tokens = tokens.to_vec();
        }
        for event in events {
            match event {
                Event::Text { id, text, .. } => self.running.get_mut(&id).unwrap().1.text += &text,
                Event::Done {
                    id,
                    finish_reason,
                    prompt_tokens,
                    cached_tokens,
                    completion_tokens,
                } => {
                    assert!(cached_tokens < prompt_tokens && cached_tokens % PAGE_TOKENS == 0);
                    self.cached_tokens += cached_tokens;
                    let (request, mut answer) = self.running.remove(&id).unwrap();
                    answer.completion_tokens = completion_tokens;
                    answer.cut = self.cut.remove(&id);
                    if finish_reason != FinishReason::Cancelled {
                        ended.push((request, answer));
                    }
                }
                Event::Failed { id, message } => {
                    assert!(message.contains("allow the cache more memory"), "{message}");
                    assert!(self.budget.is_some());
                    self.running.remove(&id).unwrap();
                    self.cut.remove(&id);
                    self.failed += 1;
                }
                Event::ToolCalls { .. } => panic!("nobody has tools here"),
            }
        }
        assert_eq!(self.running.len(), self.engine.running());
        self.waited += self.engine.stats().waiting;
        ended
    }

    /// Counts everything anew and compares.
    fn audit(&mut self) {
        let engine = &self.engine;
        let mut held: HashMap<*const Page, usize> = HashMap::new();
        let (mut reference_bytes, mut page_bytes) = (0, 0);
        for sequence in &engine.sequences {
            let cache = sequence.context.cache();
            assert!(sequence.context.fed() < sequence.context.len());
            let Some(cache) = cache.pages() else {
                reference_bytes += cache.bytes();
                continue;
            };
            page_bytes = cache.page_bytes();
            for number in 0.. {
                let Some(page) = cache.page(number) else {
                    assert_eq!(number, cache.len().div_ceil(PAGE_TOKENS), "no page too many");
                    break;
                };
                *held.entry(Arc::as_ptr(page)).or_default() += 1;
                self.pages.push(Arc::downgrade(page));
            }
        }
        let mut all: HashSet<*const Page> = held.keys().copied().collect();
        let mut kept = 0;
        for (page, holders) in engine.prefixes.pages() {
            let holding = held.get(&Arc::as_ptr(page)).copied().unwrap_or(0);
            assert_eq!(holding, holders, "who holds a page is counted");
            kept += usize::from(holding == 0);
            all.insert(Arc::as_ptr(page));
            self.pages.push(Arc::downgrade(page));
        }
        // The same pages come by again and again.
        self.pages.sort_by_key(Weak::as_ptr);
        self.pages.dedup_by_key(|page| page.as_ptr());
        self.pages.retain(|page| page.strong_count() > 0);
        let alive = self.pages.len();
        assert_eq!(alive, all.len(), "every page that is alive belongs to somebody");
        let stats = engine.stats();
        let bytes = engine.page_bytes * all.len() + reference_bytes;
        assert!(page_bytes == 0 || page_bytes == engine.page_bytes);
        assert_eq!(engine.cache_bytes(), bytes);
        assert_eq!(stats.kept_bytes, engine.page_bytes * kept);
        assert_eq!(stats.running_bytes, bytes - stats.kept_bytes);
        assert!(bytes <= self.budget.unwrap_or(usize::MAX), "{bytes} {stats:?}");
    }

    fn do_it(&mut self, what: &Do, unit_bytes: usize) -> Vec<([usize; 2], Answer)> {
        let pick = |which: usize| {
            let ids: Vec<_> = self.running.keys().copied().collect();
            (!ids.is_empty()).then(|| ids[which % ids.len()])
        };
        match *what {
            Do::Begin { prompt, max_tokens } => self.begin([prompt, max_tokens]),
            Do::Step { took_ms } => {
                let ended = self.step();
                self.engine.took(Duration::from_millis(took_ms));
                return ended;
            }
            Do::Pause { which, cache } => {
                if let Some(id) = pick(which) {
                    let can = self.engine.sequences.iter().any(|s| s.id == id && !s.cancelled);
                    assert_eq!(self.engine.pause(id, cache), can);
                }
            }
            Do::Resume { which } => {
                if let Some(id) = pick(which) {
                    self.engine.resume(id);
                }
            }
            Do::Cancel { which } => {
                if let Some(id) = pick(which) {
                    self.engine.cancel(id);
                }
            }
            Do::Hurry { which } => {
                if let Some(id) = pick(which) {
                    assert!(self.engine.hurry(id));
                }
            }
            Do::Budget { pages } => {
                self.budget = pages.map(|pages| pages * unit_bytes);
                self.engine.set_cache_budget(self.budget);
            }
        }
        Vec::new()
    }
}

/// What requests come to when nothing else runs and nothing bounds the cache.
struct Alone {
    engine: Watched,
    known: HashMap<[usize; 2], Answer>,
}

impl Alone {
    fn answer(&mut self, request: [usize; 2]) -> &Answer {
        let engine = &mut self.engine;
        self.known.entry(request).or_insert_with(|| {
            engine.begin(request);
            let answer = std::iter::from_fn(|| Some(engine.step())).flatten().next();
            // Nothing may be taken over from the one before.
            engine.engine.set_cache_budget(Some(0));
            engine.engine.set_cache_budget(None);
            answer.unwrap().1
        })
    }
}

fn whatever_happens(model: &str, precision: Precision, kv: KvPrecision, cases: u32) {
    let mut alone = Alone {
        engine: Watched::new(engine(model, precision, kv)),
        known: HashMap::new(),
    };
    let mut watched = Watched::new(engine(model, precision, kv));
    // About a page's worth for the reference, too.
    let unit_bytes = watched.engine.model.new_cache_at(16, kv).bytes_for(16);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let (alone, watched) = (
        std::cell::RefCell::new(&mut alone),
        std::cell::RefCell::new(&mut watched),
    );
    let strategy = prop::collection::vec(what_to_do(), 1..120);
    let outcome = runner.run(&strategy, |all| {
        let (mut alone, mut watched) = (alone.borrow_mut(), watched.borrow_mut());
        let mut ended = Vec::new();
        for what in &all {
            ended.extend(watched.do_it(what, unit_bytes));
            watched.audit();
        }
        // Then everybody may finish.
        watched.do_it(&Do::Budget { pages: None }, unit_bytes);
        let ids: Vec<_> = watched.running.keys().copied().collect();
        for id in ids {
            watched.engine.resume(id);
        }
        let mut steps = 0;
        while watched.engine.has_work() {
            ended.extend(watched.step());
            watched.audit();
            steps += 1;
            prop_assert!(steps < 2_000, "every step brings somebody on");
        }
        prop_assert_eq!(watched.engine.running(), 0);
        for (request, answer) in ended {
            let expected = alone.answer(request);
            if let Some(most) = answer.cut {
                prop_assert!(answer.completion_tokens <= most);
                prop_assert!(expected.tokens.starts_with(&answer.tokens), "{:?}", request);
            } else {
                prop_assert_eq!(&answer, expected, "{:?}", request);
            }
        }
        // What is left is let go of for the asking, and nothing else has hold of it.
        watched.do_it(&Do::Budget { pages: Some(0) }, unit_bytes);
        watched.audit();
        prop_assert_eq!(watched.engine.cache_bytes(), 0);
        prop_assert!(watched.pages.iter().all(|page| page.strong_count() == 0));
        watched.do_it(&Do::Budget { pages: None }, unit_bytes);
        Ok(())
    });
    outcome.unwrap();
    let watched = watched.into_inner();
    assert!(
        watched.failed > 0 && watched.waited > 0,
        "budgets were too small at times"
    );
    let shares = precision != Precision::F32;
    assert_eq!(
        watched.cached_tokens > 0,
        shares,
        "beginnings were shared at times"
    );
}

#[test]
fn tokens_and_accounts_are_right_whatever_happens_on_eight_bit_weights() {
    whatever_happens("llama", Precision::Int8, KvPrecision::F16, 96);
}

#[test]
fn tokens_and_accounts_are_right_whatever_happens_with_long_positions_and_eight_bit_keys() {
    whatever_happens("phi3", Precision::F16, KvPrecision::Int8, 96);
}

#[test]
fn tokens_and_accounts_are_right_whatever_happens_with_windows_and_four_bit_weights() {
    whatever_happens("gemma2", Precision::Int4, KvPrecision::Int8, 48);
}

#[test]
fn tokens_and_accounts_are_right_whatever_happens_on_the_reference() {
    whatever_happens("llama", Precision::F32, KvPrecision::F16, 24);
}

#[test]
fn accounts_are_right_while_weights_step() {
    let packed = tempfile::tempdir().unwrap();
    let load = |precision| engine_in(Some(packed.path()), "llama", precision, KvPrecision::F16);
    drop(load(Precision::Int4));
    let mut watched = Watched::new(load(Precision::Int8));
    let unit_bytes = watched.engine.page_bytes;
    let mut changes = 0;
    for round in 0..240 {
        let what = match round % 12 {
            0 | 3 | 7 => Do::Begin {
                prompt: round * 5 % 24,
                max_tokens: 30,
            },
            5 => Do::Pause {
                which: round,
                cache: [WhilePaused::Drop, WhilePaused::Keep][round / 12 % 2],
            },
            8 => Do::Resume { which: round - 3 },
            9 => Do::Cancel { which: round * 7 },
            11 => Do::Budget {
                pages: [None, Some(40), Some(22)][round / 12 % 3],
            },
            _ => Do::Step { took_ms: 1 },
        };
        watched.do_it(&what, unit_bytes);
        if let Do::Begin { prompt, max_tokens } = what {
            // Of the same family, and under the same weights.
            watched.begin([prompt + 15, max_tokens]);
        }
        watched.audit();
        match watched.engine.advance_change() {
            Some(progress) => {
                let progress = progress.unwrap();
                changes += usize::from(progress.done == progress.of);
                assert_eq!(watched.engine.stats().kept_bytes, 0, "nobody would find it");
            }
            None => {
                let to = [Precision::Int4, Precision::Int8][changes % 2];
                watched.engine.begin_change(to).unwrap();
            }
        }
        watched.audit();
    }
    assert!(changes > 20 && watched.waited > 0, "{changes} {}", watched.waited);
    assert!(watched.cached_tokens > 0);
    watched.do_it(&Do::Budget { pages: None }, unit_bytes);
    let ids: Vec<_> = watched.running.keys().copied().collect();
    for id in &ids {
        watched.engine.resume(*id);
    }
    while watched.engine.has_work() {
        watched.step();
        watched.audit();
    }
    watched.do_it(&Do::Budget { pages: Some(0) }, unit_bytes);
    watched.audit();
    assert!(watched.pages.iter().all(|page| page.strong_count() == 0));
}
