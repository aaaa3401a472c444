//! The numbers are right: logits and greedy text of a real model against a numpy reference.

use std::path::Path;

use models::format::gguf::{Gguf, TensorType, Value};
use models::{KvCache, Model};
use serde_json::Value as Json;

use crate::support::{GgufWriter, STORIES_GGUF, STORIES_HF, file};

pub(crate) struct Golden {
    pub(crate) ids: Vec<u32>,
    /// Position and logits.
    logits: Vec<(usize, Vec<f32>)>,
}

pub(crate) fn golden(path: &Path) -> Golden {
    let json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ids = serde_json::from_value(json["ids"].clone()).unwrap();
    let logits = json["logits"].as_object().unwrap().iter();
    let logits = logits.map(|(position, logits)| {
        (
            position.parse().unwrap(),
            serde_json::from_value(logits.clone()).unwrap(),
        )
    });
    Golden {
        ids,
        logits: logits.collect(),
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn top(logits: &[f32]) -> u32 {
    (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

/// Feeds the golden ids one by one and gives the logits after each.
pub(crate) fn all_logits(model: &Model, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache(usize::MAX);
    ids.iter()
        .map(|id| model.forward(&mut cache, &[*id]).unwrap())
        .collect()
}

fn agrees_with_golden(model: &Path) {
    let golden = golden(&shared!("models/stories260K/golden.json"));
    assert_eq!(golden.logits.len(), 6);
    let model = Model::load(model).unwrap();
    let found = all_logits(&model, &golden.ids);
    for (position, expected) in &golden.logits {
        let difference = largest_difference(&found[*position], expected);
        assert!(difference < 1e-3, "position {position}: {difference}");
    }
    for (position, logits) in found.iter().enumerate().take(golden.ids.len() - 1) {
        assert_eq!(top(logits), golden.ids[position + 1], "after position {position}");
    }
}

#[test]
fn gguf_logits_agree_with_the_reference() {
    agrees_with_golden(&shared!(STORIES_GGUF));
}

#[test]
fn safetensors_logits_agree_with_the_reference() {
    agrees_with_golden(&shared!(STORIES_HF));
    agrees_with_golden(&shared!("models/stories260K/hf/model.safetensors"));
}

pub(crate) fn greedy_text(model: &Model, steps: usize) -> String {
    let bos = model.tokenizer().bos().unwrap();
    let mut cache = model.new_cache(usize::MAX);
    let mut token = bos;
    let mut tokens = Vec::new();
    for _ in 0..steps {
        token = top(&model.forward(&mut cache, &[token]).unwrap());
        tokens.push(token);
    }
    model.tokenizer().decode(&tokens)
}

#[test]
fn greedy_texts_are_as_expected_from_both_formats() {
    for model in [shared!(STORIES_GGUF), shared!(STORIES_HF)] {
        let model = Model::load(&model).unwrap();
        for steps in [200, 256] {
            let expected = shared!(&format!("models/stories260K/expected_greedy_{steps}.txt"));
            let expected = std::fs::read_to_string(expected).unwrap();
            assert_eq!(
                greedy_text(&model, steps),
                expected.trim_end_matches('\n'),
                "{steps} steps"
            );
        }
    }
}

#[test]
fn feeding_in_chunks_gives_the_same_logits() {
    let model = Model::load(&shared!(STORIES_GGUF)).unwrap();
    let ids = golden(&shared!("models/stories260K/golden.json")).ids;
    let one_by_one = all_logits(&model, &ids);
    for chunk in [2, 7, 64, 201] {
        let mut cache = model.new_cache(ids.len());
        let mut position = 0;
        for ids in ids.chunks(chunk) {
            let logits = model.forward(&mut cache, ids).unwrap();
            position += ids.len();
            let difference = largest_difference(&logits, &one_by_one[position - 1]);
            assert!(
                difference < 1e-3,
                "chunks of {chunk}, position {position}: {difference}"
            );
        }
        assert_eq!(cache.len(), ids.len());
    }
}

#[test]
fn a_cache_refuses_what_does_not_fit() {
    let model = Model::load(&shared!(STORIES_GGUF)).unwrap();
    let mut cache: KvCache = model.new_cache(3);
    assert_eq!(
        model.forward(&mut cache, &[1, 2, 3, 4]).unwrap_err().code(),
        "prompt_too_long"
    );
    assert_eq!(
        model.forward(&mut cache, &[512]).unwrap_err().code(),
        "unknown_token"
    );
    assert_eq!(model.forward(&mut cache, &[]).unwrap_err().code(), "empty_prompt");
    assert!(cache.is_empty());
    model.forward(&mut cache, &[1, 2, 3]).unwrap();
    assert_eq!(
        model.forward(&mut cache, &[4]).unwrap_err().code(),
        "prompt_too_long"
    );
    assert_eq!(model.new_cache(usize::MAX).limit(), 512);
}

/// A copy of the stories model whose matrices are stored otherwise: `store` gives type and bytes for a row's length
/// and the weights.
pub(crate) fn narrowed(path: &Path, store: impl Fn(usize, &[f32]) -> (TensorType, Vec<u8>)) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let mut writer = GgufWriter::default();
    let text = |key: &str| gguf.string(key).unwrap();
    writer.string("general.architecture", text("general.architecture"));
    for key in [
        "llama.context_length",
        "llama.embedding_length",
        "llama.block_count",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
    ] {
        writer.u32(key, gguf.unsigned(key).unwrap() as u32);
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    writer
        .f32(epsilon, gguf.float(epsilon).unwrap() as f32)
        .string("tokenizer.ggml.model", "llama");
    let values = |key: &str| gguf.array(key).unwrap().iter().collect::<Vec<_>>();
    let tokens = values("tokenizer.ggml.tokens");
    let tokens: Vec<&str> = tokens
        .iter()
        .map(|value| {
            if let Value::String(text) = value {
                *text
            } else {
                panic!()
            }
        })
        .collect();
    let scores: Vec<f32> = values("tokenizer.ggml.scores")
        .iter()
        .map(|value| {
            if let Value::Float(score) = value {
                *score as f32
            } else {
                panic!()
            }
        })
        .collect();
    let kinds: Vec<i32> = values("tokenizer.ggml.token_type")
        .iter()
        .map(|value| {
            if let Value::Unsigned(kind) = value {
                *kind as i32
            } else {
                panic!()
            }
        })
        .collect();
    writer
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds);
    for tensor in &gguf.tensors {
        let data = &bytes[tensor.data.clone()];
        if tensor.shape.len() == 1 {
            writer.tensor(tensor.name, &tensor.shape, 0, data);
            continue;
        }
        let floats = data
            .chunks_exact(4)
            .map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap()));
        let (tensor_type, narrow) = store(tensor.shape[1], &floats.collect::<Vec<f32>>());
        writer.tensor(tensor.name, &tensor.shape, tensor_type.0, &narrow);
    }
    writer.bytes()
}

pub(crate) fn f16(weights: &[f32]) -> (TensorType, Vec<u8>) {
    let bytes = weights
        .iter()
        .flat_map(|weight| half::f16::from_f32(*weight).to_le_bytes());
    (TensorType::F16, bytes.collect())
}

fn bf16(weights: &[f32]) -> (TensorType, Vec<u8>) {
    let bytes = weights
        .iter()
        .flat_map(|weight| half::bf16::from_f32(*weight).to_le_bytes());
    (TensorType::BF16, bytes.collect())
}

/// The largest difference of any logit, and at how many positions the top token is the same.
pub(crate) fn agreement(found: &[Vec<f32>], reference: &[Vec<f32>]) -> (f32, usize) {
    let pairs = || found.iter().zip(reference);
    let worst = pairs().map(|(a, b)| largest_difference(a, b)).fold(0.0, f32::max);
    (worst, pairs().filter(|(a, b)| top(a) == top(b)).count())
}

#[test]
fn sixteen_bit_weights_come_close() {
    let path = shared!(STORIES_GGUF);
    let ids = golden(&shared!("models/stories260K/golden.json")).ids;
    let reference = all_logits(&Model::load(&path).unwrap(), &ids);
    for (narrow, name, tolerance) in [
        (narrowed(&path, |_, weights| f16(weights)), "gguf f16", 0.05),
        (narrowed(&path, |_, weights| bf16(weights)), "gguf bf16", 0.5),
    ] {
        let (_directory, narrow) = file("narrow.gguf", &narrow);
        let model = Model::load(&narrow).unwrap();
        assert_eq!(model.summary().format, name);
        assert_eq!(model.summary().name, "narrow");
        let found = all_logits(&model, &ids);
        let (worst, same) = agreement(&found, &reference);
        println!(
            "{name}: largest difference {worst}, same top token at {same} of {} positions",
            ids.len()
        );
        assert!(worst < tolerance, "{name}: {worst}");
        assert!(
            same * 100 >= ids.len() * 95,
            "{name}: only {same} of {} agree",
            ids.len()
        );
    }
}

#[test]
fn a_summary_is_right_without_reading_weights() {
    let summary = models::inspect(&shared!(STORIES_GGUF)).unwrap();
    assert_eq!(summary.name, "stories260K");
    assert_eq!(summary.architecture, "llama");
    assert_eq!(summary.format, "gguf f32");
    assert_eq!((summary.context_length, summary.vocabulary_size), (512, 512));
    assert_eq!((summary.parameters, summary.weights_bytes), (260_032, 1_040_128));
    assert!(!summary.has_chat_template);
    let hf = models::inspect(&shared!(STORIES_HF)).unwrap();
    assert_eq!((hf.name.as_str(), hf.format.as_str()), ("hf", "safetensors f32"));
    assert_eq!(
        (hf.parameters, hf.weights_bytes),
        (summary.parameters, summary.weights_bytes)
    );
}
