//! How good a model is at each precision is measured on a fixed text and kept beside its packed weights.

use std::path::Path;

use models::{
    Engine, EngineOptions, Event, Feed, Kept, LoadOptions, Measured, Model, Precision, QualityTable,
    Sampling, kept_files, measure,
};

use crate::support::{STORIES_GGUF, STORIES_HF, architecture};

fn measured(path: &Path, precision: Precision) -> Measured {
    let model = Model::load_at(path, Some(precision), Some(2)).unwrap();
    let mut steps = Vec::new();
    let measured = measure(&model, &mut |done, of| steps.push((done, of))).unwrap();
    let (done, of) = *steps.last().unwrap();
    assert_eq!((done, steps.len()), (of, of));
    measured
}

#[test]
fn fewer_bits_foretell_a_little_worse_and_choose_mostly_alike() {
    let stories = shared!(STORIES_GGUF);
    let all = Precision::ALL.map(|precision| (precision, measured(&stories, precision)));
    let table = QualityTable::of(&all).unwrap();
    println!("{table:?}");
    assert_eq!(table.reference, Precision::F32);
    assert!(table.tokens > 500, "{table:?}");
    let [f32, f16, int8, int4] = table.rows.as_slice() else {
        panic!("{table:?}");
    };
    // The model was made for children's stories: letters, code and Chinese surprise it more than guessing would, but what
    // counts is that fewer bits do not add much to it.
    assert!(f32.perplexity > 1.0 && f32.perplexity < 2000.0, "{table:?}");
    assert!((f16.perplexity / f32.perplexity - 1.0).abs() < 0.005, "{table:?}");
    assert!((int8.perplexity / f32.perplexity - 1.0).abs() < 0.03, "{table:?}");
    assert!((int4.perplexity / f32.perplexity - 1.0).abs() < 0.3, "{table:?}");
    assert!(
        f16.agreement > 0.99 && int8.agreement > 0.9 && int4.agreement > 0.5,
        "{table:?}"
    );
}

/// What stays of weights as llama.cpp's Q4_0 keeps them: of 32 the one that is largest by magnitude becomes −8.
fn rounded_to_q4_0(row: &mut [f32]) {
    for block in row.chunks_mut(32) {
        let larger = |a: f32, b: f32| if b.abs() > a.abs() { b } else { a };
        let extreme = block.iter().copied().fold(0.0, larger);
        let inverse = if extreme == 0.0 { 0.0 } else { -8.0 / extreme };
        let scale = half::f16::from_f32(extreme / -8.0).to_f32();
        for value in block {
            *value = ((*value * inverse + 8.5).floor().min(15.0) - 8.0) * scale;
        }
    }
}

/// A copy of a safetensors model whose matrices, but for the embedding, went through Q4_0. llama.cpp keeps the output
/// matrix, which is the embedding here, at more bits, and so do we.
fn through_q4_0(model: &Path, to: &Path) {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model.join(name), to.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(model.join("model.safetensors")).unwrap();
    let (length, rest) = bytes.split_first_chunk_mut::<8>().unwrap();
    let (header, data) = rest.split_at_mut(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).unwrap();
    let mut rounded = 0;
    for (name, tensor) in header.iter().filter(|(name, _)| name.contains("_proj")) {
        let number = |list: &str, at: usize| tensor[list][at].as_u64().unwrap() as usize;
        assert_eq!(tensor["dtype"], "F32", "{name}");
        let data = &mut data[number("data_offsets", 0)..number("data_offsets", 1)];
        for row in data.chunks_exact_mut(4 * number("shape", 1)) {
            let mut values: Vec<f32> = row
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            rounded_to_q4_0(&mut values);
            for (bytes, value) in row.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
        rounded += 1;
    }
    assert_eq!(rounded, 5 * 7, "all matrices of all layers");
    std::fs::write(to.join("model.safetensors"), bytes).unwrap();
}

/// What the model tells by itself: text of the kind that it knows, where a little more surprise means something.
fn stories_told_by(model: &Path) -> Vec<Vec<u32>> {
    let options = EngineOptions {
        max_sequences: 12,
        precision: Some(Precision::F16),
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(model, options).unwrap();
    for id in 0..12 {
        let sampling = Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(id),
            ..Sampling::default()
        };
        engine.begin_tokens(id, &[1], 300, &sampling, &[]).unwrap();
    }
    let mut texts = vec![String::new(); 12];
    while engine.has_work() {
        for event in engine.step() {
            if let Event::Text { id, text, .. } = event {
                texts[id as usize].push_str(&text);
            }
        }
    }
    let tokens = texts.iter().map(|text| {
        let mut tokens = engine.model().tokenizer().encode_prompt(text).unwrap();
        tokens.truncate(300);
        tokens
    });
    tokens.collect()
}

fn perplexity(model: &Path, precision: Precision, texts: &[Vec<u32>]) -> f64 {
    let model = Model::load_at(model, Some(precision), Some(1)).unwrap();
    let (mut surprise, mut count) = (0.0, 0);
    let mut caches: Vec<_> = texts.iter().map(|tokens| model.new_cache(tokens.len())).collect();
    for at in 0..texts.iter().map(Vec::len).max().unwrap() {
        let pairs = texts.iter().map(|tokens| tokens.get(at..at + 2));
        let (mut feeds, mut expected) = (Vec::new(), Vec::new());
        for (pair, cache) in pairs.zip(&mut caches) {
            let Some(pair) = pair else { continue };
            let (tokens, wants_logits) = (&pair[..1], true);
            feeds.push(Feed {
                cache,
                tokens,
                wants_logits,
            });
            expected.push(pair[1]);
        }
        for (logits, next) in model.step(&mut feeds).into_iter().zip(expected) {
            let logits = logits.unwrap().unwrap();
            let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            surprise += total.ln() - f64::from(logits[next as usize]);
            count += 1;
        }
    }
    (surprise / f64::from(count)).exp()
}

#[test]
fn four_bits_foretell_no_worse_than_q4_0_of_the_same_weights_and_eight_as_well_as_sixteen() {
    let stories = shared!(STORIES_HF);
    let directory = tempfile::tempdir().unwrap();
    through_q4_0(&stories, directory.path());
    let texts = stories_told_by(&stories);
    let of = |path, precision| perplexity(path, precision, &texts);
    let [f16, int8, int4] = [Precision::F16, Precision::Int8, Precision::Int4].map(|p| of(&stories, p));
    // Q4_0's weights are all that is rounded there, while int4 rounds activations, too.
    let q4_0 = of(directory.path(), Precision::F16);
    println!("perplexity: f16 {f16:.4}, int8 {int8:.4}, Q4_0 {q4_0:.4}, int4 {int4:.4}");
    assert!(f16 < q4_0 && int4 <= q4_0, "f16 {f16}, Q4_0 {q4_0}, int4 {int4}");
    assert!(int8 <= f16 * 1.005, "f16 {f16}, int8 {int8}");
}

#[test]
fn passages_side_by_side_give_what_each_gives_alone() {
    let (_keep, directory) = architecture("llama");
    let model = Model::load_at(&directory, Some(Precision::Int8), Some(2)).unwrap();
    let found = measure(&model, &mut |_, _| {}).unwrap();
    // By hand, from the model's public side.
    let (mut surprise, mut count) = (0.0, 0);
    let limit = model.summary().context_length.min(256);
    for passage in include_str!("../../src/quality.txt").split("\n%%\n") {
        let mut tokens = model.tokenizer().encode_prompt(passage.trim_end()).unwrap();
        tokens.truncate(limit);
        let mut cache = model.new_cache(limit);
        for pair in tokens.windows(2) {
            let logits = model.forward(&mut cache, &pair[..1]).unwrap();
            let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            surprise += total.ln() - f64::from(logits[pair[1] as usize]);
            count += 1;
        }
    }
    assert_eq!(found.tokens(), count);
    let expected = (surprise / count as f64).exp();
    assert!(
        (found.perplexity / expected - 1.0).abs() < 1e-6,
        "{} {expected}",
        found.perplexity
    );
}

#[test]
fn what_is_kept_is_found_again_and_known_to_be_stale() {
    let (_keep, directory) = architecture("llama");
    let packed = tempfile::tempdir().unwrap();
    let kept = Kept::of(&directory, packed.path()).unwrap();
    assert!(kept.packed().is_empty() && kept.quality().is_none());
    assert!(
        kept_files(&directory, &packed.path().join("none"))
            .unwrap()
            .is_empty()
    );

    let options = LoadOptions {
        precision: Some(Precision::Int4),
        threads: Some(1),
        packed_directory: Some(packed.path()),
    };
    Model::load_with(&directory, options, &mut |_, _| {}).unwrap();
    let all = [(Precision::Int4, measured(&directory, Precision::Int4))];
    let table = QualityTable::of(&all).unwrap();
    kept.keep_quality(&table).unwrap();
    let [file] = kept.packed().try_into().unwrap();
    assert_eq!((file.precision, file.is_stale), (Precision::Int4, false));
    assert_eq!(kept.quality(), Some((table.clone(), true)));
    let mut files = kept_files(&directory, packed.path()).unwrap();
    files.sort();
    assert_eq!(files.len(), 2);
    assert!(files.contains(&file.path));

    // The same place, another content.
    let weights = directory.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let changed = Kept::of(&directory, packed.path()).unwrap();
    assert!(changed.packed()[0].is_stale);
    assert_eq!(changed.quality(), Some((table, false)));
    // Nobody else's files are taken for its own, and its own are found when it cannot be read any more.
    std::fs::write(packed.path().join("other-0000000000000000-int4.packed"), "x").unwrap();
    std::fs::write(&weights, "spoilt").unwrap();
    assert_eq!(kept_files(&directory, packed.path()).unwrap().len(), 2);
    std::fs::write(&file.path, "spoilt").unwrap();
    assert!(changed.packed()[0].is_stale);
    for other in ["{}", "", "{\"version\": 0}"] {
        let path = files
            .iter()
            .find(|path| path.extension().unwrap() == "json")
            .unwrap();
        std::fs::write(path, other).unwrap();
        assert_eq!(changed.quality(), None);
    }
}
