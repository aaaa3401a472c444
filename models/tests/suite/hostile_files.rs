//! Missing, damaged and foreign model files stop the start with a message that names the file and the remedy.

use std::path::Path;

use models::Model;
use models::format::blocks::BlockType;
use proptest::prelude::*;
use serde_json::json;

use crate::hostile_directories::Copy;
use crate::hostile_quantised::quantised_model;
use crate::support::{ARCHITECTURES, GgufWriter, STORIES_GGUF, architecture_gguf, file, tiny_model};

/// What loading says; `inspect`, which reads no weights, must already say the same.
fn refusal(path: &Path) -> String {
    let error = Model::load(path).unwrap_err().to_string();
    assert_eq!(models::inspect(path).unwrap_err().to_string(), error);
    assert!(
        error.contains(&path.file_name().unwrap().to_string_lossy().into_owned()),
        "{error} names no file"
    );
    error
}

pub(crate) fn says(path: &Path, words: &[&str]) {
    let error = refusal(path);
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn what_is_not_a_model() {
    let directory = tempfile::tempdir().unwrap();
    says(
        &directory.path().join("nowhere.gguf"),
        &["cannot be read", "check that the path"],
    );
    says(directory.path(), &["no model.safetensors", "give a .gguf file"]);
    let (_keep, path) = file("story.txt", b"Once upon a time");
    says(&path, &["not a model", "give a .gguf file"]);
    let (_keep, path) = file("empty.gguf", b"");
    says(&path, &["the file is empty"]);
}

#[test]
fn a_truncated_gguf_says_so() {
    let bytes = std::fs::read(shared!(STORIES_GGUF)).unwrap();
    for length in [100, 20_000, bytes.len() / 2, bytes.len() - 64] {
        let (_keep, path) = file("cut.gguf", &bytes[..length]);
        says(&path, &["damaged or cut short", "download or convert it again"]);
    }
}

#[test]
fn an_unknown_architecture_is_named() {
    let mut writer = GgufWriter::default();
    writer.string("general.architecture", "mamba");
    let (_keep, path) = file("m.gguf", &writer.bytes());
    says(&path, &["\"mamba\"", "architecture llama"]);
}

#[test]
fn architectures_that_we_lack_are_named_in_both_formats() {
    for name in ["gemma", "mixtral", "qwen3moe", "qwen3_moe", "deepseek2", "rwkv7"] {
        let mut writer = GgufWriter::default();
        writer.string("general.architecture", name);
        let (_keep, path) = file("a.gguf", &writer.bytes());
        says(&path, &[&format!("{name:?}"), "gemma2"]);
        let copy = Copy::of("llama");
        let error = copy.set("config.json", "/model_type", json!(name)).refusal();
        assert!(
            error.contains(&format!("{name:?}")) && error.contains("smollm3"),
            "{error}"
        );
    }
}

#[test]
fn a_gguf_network_that_contradicts_itself_is_refused() {
    type Change = fn(&mut GgufWriter) -> &mut GgufWriter;
    let changes: &[(Change, &str)] = &[
        (
            |model| model.u32("llama.expert_count", 8),
            "a mixture of 8 experts",
        ),
        (
            |model| model.bool("llama.attention.causal", false),
            "both directions",
        ),
        (
            |model| {
                model
                    .u32("llama.attention.key_length", 4)
                    .u32("llama.attention.value_length", 2)
            },
            "different sizes",
        ),
        (
            |model| model.string("llama.rope.scaling.type", "dynamic"),
            "\"dynamic\"",
        ),
        (
            |model| model.string("llama.rope.scaling.type", "longrope"),
            "rope_factors_long.weight",
        ),
        (
            |model| model.f32("llama.rope.scaling.factor", -2.0),
            "RoPE scaling factor is -2",
        ),
        (
            |model| model.f32("llama.rope.freq_base", f32::NAN),
            "RoPE base is NaN",
        ),
        (
            |model| model.string("llama.rope.freq_base", "10000"),
            "llama.rope.freq_base is not a number",
        ),
        (
            |model| model.u32("llama.rope.dimension_count", 6),
            "6 values of heads of 4 values",
        ),
        (
            |model| model.u32("llama.rope.dimension_count", 2),
            "turned only in part",
        ),
        (
            |model| model.i32s("llama.attention.sliding_window", &[4]),
            "for each layer",
        ),
        (
            |model| model.tensor("rope_freqs.weight", &[3], 0, &[0; 12]),
            "3 rope_freqs RoPE factors for 2 pairs",
        ),
        (
            |model| model.tensor("rope_freqs.weight", &[2], 0, &[0; 8]),
            "RoPE factor is 0",
        ),
        (|model| model.tensor("rope_freqs.weight", &[2], 1, &[0; 4]), "F16"),
        (
            |model| model.tensor("rope_factors_long.weight", &[2], 0, &[0; 8]),
            "does not fit its tensors",
        ),
        (
            |model| model.tensor("blk.0.attn_q.bias", &[8], 0, &[0; 32]),
            "blk.0.attn_k.bias",
        ),
    ];
    for (change, words) in changes {
        let mut model = tiny_model();
        change(&mut model);
        let (_keep, path) = file("n.gguf", &model.bytes());
        says(&path, &[words]);
    }
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    let rename = |from: &str, to: &str| {
        let mut bytes = tiny_model().bytes();
        let at = bytes
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let (_keep, path) = file("r.gguf", &rename("blk.0.ffn_up.weight", "blk.0.ffn_xx.weight"));
    says(&path, &["blk.0.ffn_up.weight", "missing"]);
    let mut writer = tiny_model();
    writer
        .u32("llama.attention.key_length", 2)
        .u32("llama.attention.value_length", 2);
    let (_keep, path) = file("w.gguf", &writer.bytes());
    says(&path, &["blk.0.attn_q.weight", "[8, 8]", "[4, 8]"]);
}

#[test]
fn an_impossible_gguf_configuration_is_refused() {
    for (key, value) in [
        ("llama.embedding_length", 0),
        ("llama.embedding_length", u32::MAX),
        ("llama.block_count", u32::MAX),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", 0),
        ("llama.attention.head_count_kv", 3),
        ("llama.feed_forward_length", u32::MAX),
        ("llama.context_length", 0),
    ] {
        let mut bytes = tiny_model().bytes();
        let at = bytes
            .windows(key.len() + 1)
            .position(|window| &window[..key.len()] == key.as_bytes() && window[key.len()] == 4);
        let at = at.unwrap() + key.len() + 4;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let (_keep, path) = file("c.gguf", &bytes);
        refusal(&path);
    }
}

#[test]
fn an_unknown_tokenizer_is_named() {
    for (model, pre, word) in [("t5", "", "\"t5\""), ("gpt2", "viking", "\"viking\"")] {
        let mut writer = GgufWriter::default();
        for (key, value) in [
            ("context_length", 8),
            ("embedding_length", 8),
            ("block_count", 1),
            ("feed_forward_length", 8),
            ("attention.head_count", 1),
        ] {
            writer.u32(&format!("llama.{key}"), value);
        }
        writer
            .string("general.architecture", "llama")
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .string("tokenizer.ggml.model", model)
            .string("tokenizer.ggml.pre", pre)
            .strings("tokenizer.ggml.tokens", &["a"])
            .strings("tokenizer.ggml.merges", &[]);
        let (_keep, path) = file("t.gguf", &writer.bytes());
        says(&path, &["tokenizer", word, "choose a model"]);
    }
}

pub(crate) fn runs_or_is_refused(path: &Path) -> Result<(), TestCaseError> {
    let inspected = models::inspect(path);
    match Model::load(path) {
        Err(error) => prop_assert_eq!(inspected.unwrap_err().to_string(), error.to_string()),
        Ok(model) => {
            prop_assert_eq!(&inspected.unwrap(), model.summary());
            let mut cache = model.new_cache(8);
            let tokens = model.tokenizer().encode_prompt("ab <s> é").unwrap_or_default();
            let tokens = &tokens[..tokens.len().min(cache.limit())];
            if let Ok(logits) = model.forward(&mut cache, tokens) {
                prop_assert_eq!(logits.len(), model.summary().vocabulary_size);
            }
            model.tokenizer().decode(tokens);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A file that loads in spite of its changes also runs.
    #[test]
    fn a_mutated_model_loads_and_runs_or_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        in_the_settings in any::<bool>(),
        quantised in any::<bool>(),
    ) {
        let model = if quantised { quantised_model(BlockType::Q5_1) } else { tiny_model() };
        let mut bytes = model.bytes();
        let range = if in_the_settings { 600 } else { bytes.len() };
        for (index, value) in changes {
            bytes[index.index(range)] = value;
        }
        let (_keep, path) = file("mutated.gguf", &bytes);
        runs_or_is_refused(&path)?;
    }

    /// As above, for the metadata of every architecture.
    #[test]
    fn a_mutated_architecture_loads_and_runs_or_is_refused(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let paths: Vec<_> = ARCHITECTURES.iter().filter_map(|name| architecture_gguf(name)).collect();
        let mut bytes = std::fs::read(which.get(&paths)).unwrap();
        for (index, value) in changes {
            bytes[index.index(1200)] = value;
        }
        let (_keep, path) = file("mutated.gguf", &bytes);
        runs_or_is_refused(&path)?;
    }

    #[test]
    fn a_mutated_tokenizer_json_loads_and_splits_or_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[ -~]"), 1..4),
    ) {
        let mut bytes = include_bytes!("support/tokenizer.json").to_vec();
        for (index, character) in changes {
            let at = index.index(bytes.len());
            bytes[at] = character.as_bytes()[0];
        }
        let (_keep, path) = file("tokenizer.json", &bytes);
        if let Ok(tokenizer) = models::Tokenizer::load(&path) {
            let tokens = tokenizer.encode("ab <s> é").unwrap_or_default();
            tokenizer.decode(&tokens);
            let _ = tokenizer.encode_template("<s>ab</s>");
        }
    }
}
