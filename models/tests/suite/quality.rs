//! How good a model is at each precision is measured on a fixed text and kept beside its packed weights.

use std::path::Path;

use models::{Kept, LoadOptions, Measured, Model, Precision, QualityTable, kept_files, measure};

use crate::support::{STORIES_GGUF, architecture};

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
