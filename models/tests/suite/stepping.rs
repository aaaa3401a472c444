//! Weights that step to another precision while sequences run: nobody's answer breaks, memory goes with the layers, and
//! in the end the engine is as one that was loaded so.

use std::path::{Path, PathBuf};

use models::{
    ChangeProgress, Engine, EngineOptions, Event, FinishReason, Kept, LoadOptions, Model, Precision, Problem,
    Sampling, SequenceId,
};
use proptest::prelude::*;

use crate::support::{ARCHITECTURES, STORIES_GGUF, architecture, shared};

const PACKED: [Precision; 3] = [Precision::F16, Precision::Int8, Precision::Int4];

/// A model and where it is packed, at all precisions.
struct Packed {
    /// Of the packed files, and of the model where it is made for the test.
    _directory: tempfile::TempDir,
    model: PathBuf,
    packed: PathBuf,
}

impl Packed {
    fn fixture(name: &str) -> Self {
        let (directory, model) = architecture(name);
        Self::new(directory, model)
    }

    /// Of five layers, with something to say.
    fn stories() -> Option<Self> {
        let model = shared(STORIES_GGUF)?;
        Some(Self::new(tempfile::tempdir().unwrap(), model))
    }

    fn new(directory: tempfile::TempDir, model: PathBuf) -> Self {
        let packed = directory.path().join("packed");
        let this = Self {
            _directory: directory,
            model,
            packed,
        };
        for precision in PACKED {
            this.load(precision);
        }
        this
    }

    fn load(&self, precision: Precision) -> Model {
        let options = LoadOptions {
            precision: Some(precision),
            threads: Some(1),
            packed_directory: Some(&self.packed),
        };
        Model::load_with(&self.model, options, &mut |_, _| {}).unwrap()
    }

    fn engine(&self, precision: Precision) -> Engine {
        let options = EngineOptions {
            precision: Some(precision),
            threads: Some(2),
            packed_directory: Some(self.packed.clone()),
            ..EngineOptions::default()
        };
        let engine = Engine::load(&self.model, options).unwrap();
        assert!(!engine.model().was_packed());
        engine
    }

    fn file(&self, precision: Precision) -> PathBuf {
        let kept = Kept::of(&self.model, &self.packed).unwrap().packed();
        let file = kept.into_iter().find(|file| file.precision == precision);
        file.unwrap().path
    }
}

fn prompt(count: u32, seed: u32) -> Vec<u32> {
    (0..count)
        .map(|n| (37 * n + 11 * n * n + 5 * seed) % 96)
        .collect()
}

fn begin(engine: &mut Engine, id: SequenceId, prompt: &[u32], max_tokens: usize) {
    engine
        .begin_tokens(id, prompt, max_tokens, &Sampling::greedy(), &[])
        .unwrap();
}

/// What came of each sequence: its text, and how it ended.
#[derive(Default)]
struct Answers(Vec<(String, Option<(FinishReason, usize)>)>);

impl Answers {
    fn step(&mut self, engine: &mut Engine) {
        for event in engine.step() {
            let (Event::Text { id, .. } | Event::Done { id, .. }) = event else {
                panic!("{event:?}");
            };
            let number = id as usize;
            self.0.resize((number + 1).max(self.0.len()), Default::default());
            match event {
                Event::Text { text, .. } => self.0[number].0.push_str(&text),
                Event::Done {
                    finish_reason,
                    completion_tokens,
                    ..
                } => self.0[number].1 = Some((finish_reason, completion_tokens)),
                _ => {}
            }
        }
        let stats = engine.stats();
        assert_eq!(engine.cache_bytes(), stats.running_bytes + stats.kept_bytes);
    }
}

fn change(engine: &mut Engine, to: Precision) {
    let begun = engine.begin_change(to).unwrap();
    assert_eq!((begun.to, begun.done), (to, 0));
    for done in 1..=begun.of {
        assert_eq!(engine.change().map(|change| change.done), Some(done - 1));
        let progress = engine.advance_change().unwrap().unwrap();
        assert_eq!(progress, ChangeProgress { done, ..begun });
    }
    assert!(engine.change().is_none() && engine.advance_change().is_none());
    assert_eq!(engine.summary().precision, to);
}

fn alone(engine: &mut Engine, prompt: &[u32]) -> (String, usize) {
    begin(engine, 1, prompt, 40);
    let (mut text, mut cached) = (String::new(), 0);
    while engine.running() > 0 {
        for event in engine.step() {
            match event {
                Event::Text { text: piece, .. } => text.push_str(&piece),
                Event::Done { cached_tokens, .. } => cached = cached_tokens,
                other => panic!("{other:?}"),
            }
        }
    }
    (text, cached)
}

/// `stories!()` gives the packed stories or returns from the test.
macro_rules! stories {
    () => {
        match Packed::stories() {
            Some(packed) => packed,
            None => return,
        }
    };
}

#[test]
fn an_engine_that_stepped_is_as_one_that_was_loaded_so() {
    let packed = stories!();
    let prompt = prompt(40, 1);
    let expected = PACKED.map(|precision| alone(&mut packed.engine(precision), &prompt).0);
    let of = |precision| &expected[PACKED.iter().position(|known| *known == precision).unwrap()];
    assert_ne!(
        of(Precision::Int8),
        of(Precision::Int4),
        "there is something to see"
    );
    let mut engine = packed.engine(Precision::Int8);
    alone(&mut engine, &prompt);
    for to in [
        Precision::Int4,
        Precision::Int8,
        Precision::F16,
        Precision::Int4,
        Precision::F16,
        Precision::Int8,
        Precision::Int8,
    ] {
        assert!(engine.cache_bytes() > 0);
        change(&mut engine, to);
        assert_eq!(engine.cache_bytes(), 0, "nobody can use what was left");
        let (text, cached) = alone(&mut engine, &prompt);
        assert_eq!((&text, cached), (of(to), 0), "{to}");
        assert_eq!(engine.model().packed_bytes(), packed.load(to).packed_bytes());
        // What was computed since is shared again.
        assert_eq!(alone(&mut engine, &prompt), (text, 32), "{to}");
    }
}

fn ids() -> Vec<u32> {
    (0..33).map(|n| (37 * n + 11 * n * n + 5) % 96).collect()
}

fn logits(model: &Model, chunk: usize) -> Vec<f32> {
    let mut cache = model.new_cache(64);
    let ids = ids();
    let all = ids
        .chunks(chunk)
        .map(|ids| model.forward(&mut cache, ids).unwrap());
    all.last().unwrap()
}

#[test]
fn half_way_logits_are_on_the_way_and_the_same_however_they_are_cut() {
    for name in ARCHITECTURES {
        let packed = Packed::fixture(name);
        for (from, to) in [
            (Precision::F16, Precision::Int4),
            (Precision::Int4, Precision::Int8),
            (Precision::Int8, Precision::F16),
        ] {
            let mut model = packed.load(from);
            let mut seen = vec![logits(&model, 33)];
            let of = model.begin_change(to).unwrap().of;
            for _ in 0..of {
                model.advance_change().unwrap().unwrap();
                let whole = logits(&model, 33);
                assert_eq!(whole, logits(&model, 1), "{name}");
                assert_eq!(whole, logits(&model, 7), "{name}");
                if seen.last() != Some(&whole) {
                    seen.push(whole);
                }
            }
            assert_eq!(seen.last(), Some(&logits(&packed.load(to), 33)), "{name} to {to}");
            assert!(seen.len() > 2, "{name}: the layers went one by one");
        }
    }
}

#[test]
fn sequences_go_on_through_a_step_down_and_back_up() {
    let packed = stories!();
    for with_budget in [false, true] {
        let mut engine = packed.engine(Precision::Int8);
        let page = engine.model().new_cache(16).bytes_for(16);
        if with_budget {
            engine.set_cache_budget(Some(14 * page));
        }
        let mut answers = Answers::default();
        for id in 0..4 {
            begin(&mut engine, id, &prompt(30 + 9 * id as u32, 1), 50);
        }
        for _ in 0..4 {
            answers.step(&mut engine);
        }
        let before: Vec<String> = answers.0.iter().map(|(text, _)| text.clone()).collect();
        let mut steps = 0;
        for to in [Precision::Int4, Precision::Int8] {
            engine.begin_change(to).unwrap();
            while engine.change().is_some() {
                engine.advance_change().unwrap().unwrap();
                answers.step(&mut engine);
                steps += 1;
            }
            assert_eq!(engine.summary().precision, to);
        }
        assert!(steps >= 12 && engine.running() == 4);
        while engine.running() > 0 {
            answers.step(&mut engine);
        }
        for (number, (text, end)) in answers.0.iter().enumerate() {
            assert!(text.len() > before.get(number).map_or(0, String::len));
            let (reason, tokens) = end.unwrap();
            assert!(
                reason == FinishReason::Stop || tokens == 50,
                "{reason:?} after {tokens}"
            );
        }
        engine.set_cache_budget(Some(0));
        assert_eq!(engine.cache_bytes(), 0);
    }
}

#[test]
fn what_stands_before_a_step_is_not_shared_with_what_comes_behind_it() {
    let packed = stories!();
    let mut engine = packed.engine(Precision::Int8);
    let prompt = prompt(40, 3);
    let expected = alone(&mut packed.engine(Precision::Int4), &prompt).0;
    // One that runs through the step holds pages of the same tokens.
    begin(&mut engine, 9, &prompt, 60);
    for _ in 0..6 {
        engine.step();
    }
    change(&mut engine, Precision::Int4);
    begin(&mut engine, 1, &prompt, 40);
    let mut text = String::new();
    let mut cached = None;
    while engine.running() > 0 {
        for event in engine.step() {
            match event {
                Event::Text {
                    id: 1, text: piece, ..
                } => text.push_str(&piece),
                Event::Done {
                    id: 1, cached_tokens, ..
                } => cached = Some(cached_tokens),
                _ => {}
            }
        }
    }
    assert_eq!((text, cached), (expected, Some(0)));
}

#[test]
fn without_a_packed_file_everything_stays_as_it_was() {
    let packed = stories!();
    let prompt = prompt(40, 1);
    let expected = alone(&mut packed.engine(Precision::Int8), &prompt).0;
    let mut engine = packed.engine(Precision::Int8);
    let refused = |engine: &mut Engine, to, says: &str| {
        let kept = engine.cache_bytes();
        let error = engine.begin_change(to).unwrap_err();
        assert!(
            matches!(error.problem, Problem::NotPacked { precision, .. } if precision == to),
            "{error}"
        );
        assert!(error.to_string().contains(says), "{error}");
        assert!(engine.change().is_none() && engine.advance_change().is_none());
        assert_eq!(
            (engine.summary().precision, engine.cache_bytes()),
            (Precision::Int8, kept)
        );
        assert_eq!(alone(engine, &prompt).0, expected);
    };
    refused(&mut engine, Precision::F32, "own files");
    let file = packed.file(Precision::Int4);
    let whole = std::fs::read(&file).unwrap();
    // Another header, of another source, cut short, and not there at all.
    for damaged in [
        [&whole[..40], b"x", &whole[41..]].concat(),
        whole[..100].to_vec(),
        std::fs::read(Packed::fixture("llama").file(Precision::Int4)).unwrap(),
    ] {
        std::fs::write(&file, damaged).unwrap();
        refused(&mut engine, Precision::Int4, "model quantize");
    }
    std::fs::remove_file(&file).unwrap();
    refused(&mut engine, Precision::Int4, "model quantize");
    // Nor where packed weights are kept nowhere, nor on the reference.
    for (precision, says) in [(Precision::Int8, "nowhere"), (Precision::F32, "runs at f32")] {
        let mut model = Model::load_at(&packed.model, Some(precision), Some(1)).unwrap();
        let error = model.begin_change(Precision::F16).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(model.mapped_weights().is_empty());
    }
}

#[test]
fn a_file_that_is_damaged_half_way_leaves_an_engine_that_can_go_back() {
    let packed = stories!();
    let prompt = prompt(40, 1);
    let expected = alone(&mut packed.engine(Precision::Int8), &prompt).0;
    let file = packed.file(Precision::Int4);
    let mut whole = std::fs::read(&file).unwrap();
    // The embedding is packed alike in both and stays; the last layer comes before it.
    let mut engine = packed.engine(Precision::Int8);
    let parts = engine.begin_change(Precision::Int4).unwrap().of;
    let tables = engine
        .model()
        .mapped_weights()
        .iter()
        .rev()
        .take(1)
        .map(|part| part.len())
        .sum::<usize>();
    let at = whole.len() - tables.next_multiple_of(4096) - 4096;
    whole[at] ^= 64;
    std::fs::write(&file, &whole).unwrap();
    let mut answers = Answers::default();
    begin(&mut engine, 0, &prompt, 60);
    let error = loop {
        answers.step(&mut engine);
        match engine.advance_change().unwrap() {
            Ok(progress) => assert!(progress.done < parts),
            Err(error) => break error,
        }
    };
    assert!(matches!(error.problem, Problem::Malformed(_)), "{error}");
    assert_eq!(error.path.canonicalize().unwrap(), file.canonicalize().unwrap());
    assert!(engine.change().is_none());
    assert_eq!(engine.summary().precision, Precision::Int8);
    while engine.running() > 0 {
        answers.step(&mut engine);
    }
    assert!(answers.0[0].1.is_some());
    change(&mut engine, Precision::Int8);
    assert_eq!(alone(&mut engine, &prompt).0, expected);
}

#[test]
fn mapped_weights_are_those_of_one_precision_when_the_step_is_over() {
    let packed = stories!();
    let mut engine = packed.engine(Precision::F16);
    let bytes = |engine: &Engine| {
        engine
            .model()
            .mapped_weights()
            .iter()
            .map(|part| part.len())
            .sum::<usize>()
    };
    assert_eq!(Some(bytes(&engine)), engine.model().packed_bytes());
    engine.begin_change(Precision::Int4).unwrap();
    let mut before = bytes(&engine);
    while engine.change().is_some() {
        engine.advance_change().unwrap().unwrap();
        let now = bytes(&engine);
        assert!(
            now < before,
            "each part is smaller than the one in whose place it is"
        );
        before = now;
        // They lie where the system can be asked about them.
        assert!(
            engine
                .model()
                .mapped_weights()
                .iter()
                .all(|part| part.as_ptr().addr().is_multiple_of(4096))
        );
    }
    assert_eq!(Some(before), packed.load(Precision::Int4).packed_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is begun, given up half way and turned round: once it has come to a precision, it is that.
    #[test]
    fn any_way_to_a_precision_leads_there(
        from in prop::sample::select(&PACKED[..]),
        ways in prop::collection::vec((prop::sample::select(&PACKED[..]), 0..6_usize, 0..4_usize), 0..6),
        to in prop::sample::select(&PACKED[..]),
    ) {
        thread_local! {
            static STORIES: (Option<Packed>, Vec<u32>) = (Packed::stories(), prompt(40, 1));
        }
        STORIES.with(|(packed, prompt)| {
            let Some(packed) = packed else {
                return Ok(());
            };
            let mut engine = packed.engine(from);
            let mut ids = 10..;
            for (way, parts, steps) in ways {
                if engine.running() < 6 {
                    begin(&mut engine, ids.next().unwrap(), prompt, 20);
                }
                engine.begin_change(way).unwrap();
                for _ in 0..parts {
                    if let Some(progress) = engine.advance_change() {
                        progress.unwrap();
                    }
                    for _ in 0..steps {
                        engine.step();
                    }
                }
            }
            change(&mut engine, to);
            while engine.running() > 0 {
                engine.step();
            }
            let expected = alone(&mut packed.engine(to), prompt).0;
            prop_assert_eq!(alone(&mut engine, prompt), (expected, 0));
            Ok(())
        })?;
    }
}

/// What this process has mapped of a file, and how much of that is in memory, by the kernel's own list.
#[cfg(target_os = "linux")]
fn mapped_kib(file: &Path) -> [usize; 2] {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let name = file.canonicalize().unwrap().display().to_string();
    let mut ours = false;
    let mut sums = [0, 0];
    for line in maps.lines() {
        let (first, rest) = line.split_once(' ').unwrap();
        match first {
            "Size:" | "Rss:" if ours => {
                let kib: usize = rest.trim().trim_end_matches(" kB").parse().unwrap();
                sums[usize::from(first == "Rss:")] += kib;
            }
            _ if first.contains('-') => ours = line.ends_with(&name),
            _ => {}
        }
    }
    sums
}

#[cfg(target_os = "linux")]
#[test]
fn memory_goes_with_the_layers() {
    let packed = stories!();
    let [from, to] = [Precision::F16, Precision::Int4].map(|precision| packed.file(precision));
    let mut engine = packed.engine(Precision::F16);
    alone(&mut engine, &[1]);
    let [first, resident] = mapped_kib(&from);
    assert!(first * 1024 >= engine.model().packed_bytes().unwrap() && resident > 0);
    engine.begin_change(Precision::Int4).unwrap();
    let mut before = first;
    while engine.change().is_some() {
        engine.advance_change().unwrap().unwrap();
        alone(&mut engine, &[1]);
        let [now, resident] = mapped_kib(&from);
        assert!(now < before && resident <= now, "{now} of {first} KiB");
        before = now;
    }
    assert_eq!(before, 0);
    assert!(mapped_kib(&to)[1] > 0);
}
