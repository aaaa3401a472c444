//! Every architecture computes what Hugging Face's transformers computes, from both file formats.
//!
//! The fixtures are tiny models with random weights; `make_architectures.py` says how they came about. Prompts are
//! longer than windows and original contexts.

use std::path::Path;

use models::Model;
use safetensors::{SafeTensors, serialize};
use serde_json::{Value, json};

use crate::support::{ARCHITECTURES, architecture, architecture_fixture, architecture_gguf};

const VOCABULARY: usize = 96;
/// Of the largest logit of a position. Both sides compute in 32 bits, transformers its angles too.
const TOLERANCE: f32 = 1e-4;

/// As in `make_architectures.py`.
fn ids() -> Vec<u32> {
    (0..64)
        .map(|i| (37 * i + 11 * i * i + 5) % VOCABULARY as u32)
        .collect()
}

fn expected(name: &str, file: &str) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(architecture_fixture(name).join(file)).unwrap();
    let floats: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    floats.chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

/// The largest difference of any logit, in relation to the largest logit of its position.
fn worst(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let of_position = |(found, expected): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(found.len(), expected.len());
        let largest = expected
            .iter()
            .fold(0.0f32, |largest, logit| largest.max(logit.abs()));
        let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        differences.fold(0.0f32, |worst, difference| {
            if difference.is_nan() {
                f32::INFINITY
            } else {
                worst.max(difference)
            }
        }) / largest
    };
    found.iter().zip(expected).map(of_position).fold(0.0, f32::max)
}

/// Feeds the ids in chunks and gives the logits after each chunk.
fn logits(model: &Model, limit: usize, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache(limit);
    ids.chunks(chunk)
        .map(|ids| model.forward(&mut cache, ids).unwrap())
        .collect()
}

fn agrees(what: &str, model: &Path, expected: &[Vec<f32>], limit: usize) {
    let model = Model::load(model).unwrap();
    let ids = &ids()[..expected.len()];
    let error = worst(&logits(&model, limit, ids, 1), expected);
    println!("{what}: worst relative error {error:.2e}");
    assert!(error < TOLERANCE, "{what}: {error}");
    // Many at once see the same as one after the other.
    for chunk in [7, ids.len()] {
        let ends: Vec<Vec<f32>> = expected
            .chunks(chunk)
            .filter_map(|chunk| chunk.last().cloned())
            .collect();
        let error = worst(&logits(&model, limit, ids, chunk), &ends);
        assert!(error < TOLERANCE, "{what} in chunks of {chunk}: {error}");
    }
}

#[test]
fn safetensors_logits_agree_with_transformers() {
    for name in ARCHITECTURES {
        let (_keep, directory) = architecture(name);
        agrees(name, &directory, &expected(name, "logits.f32"), usize::MAX);
    }
}

#[test]
fn gguf_logits_agree_with_transformers() {
    let mut found = 0;
    for name in ARCHITECTURES {
        let Some(path) = architecture_gguf(name) else {
            continue;
        };
        found += 1;
        agrees(
            &format!("{name} (GGUF)"),
            &path,
            &expected(name, "logits.f32"),
            usize::MAX,
        );
    }
    assert_eq!(found, 7);
}

#[test]
fn long_rope_has_its_short_factors_where_a_sequence_stays_short() {
    let short = expected("phi3", "logits_short.f32");
    let (_keep, directory) = architecture("phi3");
    for path in [directory, architecture_gguf("phi3").unwrap()] {
        agrees("phi3, short", &path, &short, 32);
        let model = Model::load(&path).unwrap();
        let long = logits(&model, 33, &ids()[..short.len()], 1);
        assert!(worst(&long, &short) > 0.01, "the factors make no difference");
    }
}

#[test]
fn summaries_name_the_architecture() {
    for name in ARCHITECTURES {
        let (_keep, directory) = architecture(name);
        let summary = models::inspect(&directory).unwrap();
        assert!(
            name.starts_with(summary.architecture.trim_end_matches("_text")),
            "{name}: {}",
            summary.architecture
        );
        assert_eq!(
            (summary.context_length, summary.vocabulary_size),
            (128, VOCABULARY)
        );
        assert_eq!(summary.format, "safetensors f16");
        if let Some(path) = architecture_gguf(name) {
            let gguf = models::inspect(&path).unwrap();
            assert_eq!((gguf.context_length, gguf.vocabulary_size), (128, VOCABULARY));
        }
    }
}

#[test]
fn a_part_stands_for_the_whole_model() {
    let (_keep, directory) = architecture("llama_biases");
    let part = directory.join("model-00002-of-00002.safetensors");
    assert_eq!(
        models::inspect(&part).unwrap(),
        models::inspect(&directory).unwrap()
    );
    agrees(
        "llama_biases, by a part",
        &part,
        &expected("llama_biases", "logits.f32"),
        usize::MAX,
    );
}

/// Since version 5, transformers keeps all that concerns positions in `rope_parameters`.
#[test]
fn a_configuration_by_transformers_5_means_the_same() {
    for name in ARCHITECTURES {
        let (_keep, directory) = architecture(name);
        let newer = directory.join("config.transformers5.json");
        let text = std::fs::read_to_string(&newer).unwrap();
        assert!(text.contains("rope_parameters") && !text.contains("rope_scaling"));
        std::fs::rename(newer, directory.join("config.json")).unwrap();
        agrees(name, &directory, &expected(name, "logits.f32"), usize::MAX);
    }
}

/// Gemma 3 with eyes: its text part has a configuration and, in one of two places, weights of its own.
#[test]
fn the_text_part_of_a_model_that_also_sees_is_run() {
    let renamed: [fn(&str) -> String; 2] = [
        |name| format!("language_model.{name}"),
        |name| name.replacen("model.", "model.language_model.", 1),
    ];
    for (renamed, eyes) in renamed.into_iter().zip(["", "model."]) {
        let (_keep, directory) = architecture("gemma3");
        let parameters = models::inspect(&directory).unwrap().parameters;
        let path = directory.join("config.json");
        let text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let whole = json!({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}});
        std::fs::write(path, whole.to_string()).unwrap();
        let path = directory.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> = weights
            .tensors()
            .into_iter()
            .map(|(name, tensor)| (renamed(&name), tensor))
            .collect();
        let (_, any) = tensors[0].clone();
        for part in [
            "vision_tower.vision_model.post_layernorm.weight",
            "multi_modal_projector.x",
        ] {
            tensors.push((format!("{eyes}{part}"), any.clone()));
        }
        std::fs::write(&path, serialize(tensors, None).unwrap()).unwrap();
        agrees(
            "gemma3 that sees",
            &directory,
            &expected("gemma3", "logits.f32"),
            usize::MAX,
        );
        assert_eq!(models::inspect(&directory).unwrap().parameters, parameters);
    }
}
