//! A directory with safetensors of which a part is missing, spoilt or contradicts another: the message names it.

use std::path::Path;

use models::Model;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::hostile_files::runs_or_is_refused;
use crate::support::{ARCHITECTURES, STORIES_HF, architecture};

/// A copy of the safetensors model, to be spoilt.
pub(crate) struct Copy {
    directory: tempfile::TempDir,
}

impl Copy {
    fn new(from: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            std::fs::write(
                directory.path().join(name),
                std::fs::read(from.join(name)).unwrap(),
            )
            .unwrap();
        }
        Self { directory }
    }

    /// One of the fixtures of `make_architectures.py`.
    pub(crate) fn of(architecture_name: &str) -> Self {
        let (directory, _) = architecture(architecture_name);
        Self { directory }
    }

    /// Puts a value into a JSON file, which may be new there.
    pub(crate) fn set(&self, name: &str, pointer: &str, value: Value) -> &Self {
        let mut json = self.json(name);
        match json.pointer_mut(pointer) {
            Some(old) => *old = value,
            None => {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                json.pointer_mut(parent).unwrap()[key] = value;
            }
        }
        self.write(name, json.to_string().as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Self {
        std::fs::write(self.directory.path().join(name), bytes).unwrap();
        self
    }

    fn remove(&self, name: &str) -> &Self {
        std::fs::remove_file(self.directory.path().join(name)).unwrap();
        self
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.directory.path().join(name)).unwrap()).unwrap()
    }

    pub(crate) fn refusal(&self) -> String {
        let error = Model::load(self.directory.path()).unwrap_err().to_string();
        assert_eq!(
            models::inspect(self.directory.path()).unwrap_err().to_string(),
            error
        );
        assert!(
            error.contains(&self.directory.path().display().to_string()),
            "{error}"
        );
        error
    }
}

#[test]
fn missing_files_of_a_directory_are_named() {
    let from = shared!(STORIES_HF);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let error = Copy::new(&from).remove(name).refusal();
        assert!(error.contains(name), "{error}");
    }
    let copy = Copy::new(&from);
    let error = copy
        .remove("model.safetensors")
        .write("model.safetensors.index.json", b"{}")
        .refusal();
    assert!(error.contains("weight_map"), "{error}");
    // Not needed: without it the beginning token is simply not known by name.
    Model::load(Copy::new(&from).remove("tokenizer_config.json").directory.path()).unwrap();
}

#[test]
fn a_spoilt_config_is_refused() {
    let copy = Copy::new(&shared!(STORIES_HF));
    let config = copy.json("config.json");
    let huge = [
        json!(0),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1 << 20),
        json!(-1),
        json!("64"),
        json!(null),
    ];
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    ] {
        for value in &huge {
            let mut config = config.clone();
            config[key] = value.clone();
            copy.write("config.json", config.to_string().as_bytes()).refusal();
        }
    }
    for (key, value, word) in [
        ("model_type", json!("gpt_neox"), "gpt_neox"),
        ("num_key_value_heads", json!(3), "3 key-value heads"),
        ("max_position_embeddings", json!(0), "context length"),
        ("rms_norm_eps", json!(-1.0), "epsilon"),
        ("rope_theta", json!(0.0), "RoPE"),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0}),
            "llama3",
        ),
        ("hidden_act", json!("gelu"), "gelu"),
        ("head_dim", json!(7), "rotated"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        let error = copy.write("config.json", config.to_string().as_bytes()).refusal();
        assert!(error.contains(word) && error.contains("config.json"), "{error}");
    }
    for garbage in ["", "{", "[]", "null", "\u{feff}{}", "{\"a\":1}"] {
        copy.write("config.json", garbage.as_bytes()).refusal();
    }
}

#[test]
fn a_config_that_contradicts_itself_is_refused() {
    for (name, pointer, value, words) in [
        (
            "qwen2",
            "/hidden_size",
            json!(30),
            "30 does not divide into 4 heads",
        ),
        ("llama", "/num_hidden_layers", json!(1025), "number of layers"),
        (
            "llama",
            "/rope_scaling/high_freq_factor",
            json!(1.0),
            "high_freq_factor is 0",
        ),
        (
            "llama",
            "/rope_scaling/factor",
            json!("8"),
            "factor is \"8\", not a number",
        ),
        (
            "llama_biases",
            "/rope_scaling/factor",
            json!(null),
            "has no factor",
        ),
        ("mistral", "/sliding_window", json!(0), "sliding window is 0"),
        (
            "mistral",
            "/sliding_window",
            json!("many"),
            "sliding_window is \"many\"",
        ),
        (
            "qwen2",
            "/rope_scaling/rope_type",
            json!("dynamic"),
            "\"dynamic\"",
        ),
        ("qwen2", "/rope_scaling/beta_fast", json!(-1.0), "beta_fast is -1"),
        (
            "qwen2_window",
            "/layer_types",
            json!(["full_attention"]),
            "layer_types has 1 entries for 2 layers",
        ),
        (
            "qwen2_window",
            "/layer_types",
            json!(["full_attention", "chunked_attention"]),
            "chunked_attention",
        ),
        ("qwen3", "/num_experts", json!(8), "a mixture of 8 experts"),
        (
            "smollm3",
            "/layer_types/0",
            json!("sliding_attention"),
            "sliding_window is null",
        ),
        (
            "smollm3",
            "/no_rope_layers",
            json!([1]),
            "no_rope_layers has 1 entries for 4 layers",
        ),
        (
            "phi3",
            "/rope_scaling/short_factor",
            json!([1.0]),
            "1 short RoPE factors for 4 pairs",
        ),
        (
            "phi3",
            "/rope_scaling/long_factor",
            json!([1.0, 1.0, 1.0, "x"]),
            "has no long_factor",
        ),
        (
            "phi3",
            "/original_max_position_embeddings",
            json!(1),
            "attention factor is inf",
        ),
        (
            "phi3_partial",
            "/partial_rotary_factor",
            json!(1.5),
            "partial_rotary_factor is 1.5",
        ),
        (
            "phi3_partial",
            "/partial_rotary_factor",
            json!(0.4),
            "3 values of heads of 8 values",
        ),
        (
            "gemma2",
            "/query_pre_attn_scalar",
            json!(0),
            "attention scale is inf",
        ),
        (
            "gemma2",
            "/final_logit_softcapping",
            json!(-1.0),
            "final soft-cap is -1",
        ),
        ("gemma2", "/hidden_activation", json!("relu"), "\"relu\""),
        ("gemma3", "/rope_local_base_freq", json!(0.0), "RoPE base is 0"),
        (
            "gemma3",
            "/use_bidirectional_attention",
            json!(true),
            "both directions",
        ),
    ] {
        let error = Copy::of(name).set("config.json", pointer, value).refusal();
        assert!(
            error.contains(words) && error.contains("config.json"),
            "{name} {pointer}: {error}"
        );
    }
}

#[test]
fn tensors_that_do_not_fit_their_config_are_named() {
    for (name, pointer, value, words) in [
        (
            "llama",
            "/vocab_size",
            json!(97),
            "token_embd.weight has shape [96, 32]",
        ),
        (
            "llama",
            "/attention_bias",
            json!(true),
            "blk.0.attn_q.bias is missing",
        ),
        (
            "llama",
            "/tie_word_embeddings",
            json!(false),
            "output.weight is missing",
        ),
        (
            "llama",
            "/model_type",
            json!("qwen3"),
            "blk.0.attn_q_norm.weight is missing",
        ),
        (
            "llama",
            "/model_type",
            json!("phi3"),
            "blk.0.attn_qkv.weight is missing",
        ),
        ("qwen3", "/head_dim", json!(8), "blk.0.attn_q.weight"),
        (
            "gemma2",
            "/model_type",
            json!("llama"),
            "output.weight is missing",
        ),
    ] {
        let error = Copy::of(name).set("config.json", pointer, value).refusal();
        assert!(error.contains(words), "{name} {pointer}: {error}");
    }
}

#[test]
fn a_spoilt_index_of_parts_is_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    let name = "llama_biases";
    let error = Copy::of(name)
        .remove("model-00002-of-00002.safetensors")
        .refusal();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
    for file in [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "config.json",
    ] {
        let error = Copy::of(name)
            .set(INDEX, "/weight_map/lm_head.weight", json!(file))
            .refusal();
        assert!(
            error.contains("lm_head.weight") && error.contains(INDEX),
            "{error}"
        );
    }
    let copy = Copy::of(name);
    let elsewhere = copy.json(INDEX)["weight_map"]["lm_head.weight"] == "model-00001-of-00002.safetensors";
    let other = if elsewhere { 2 } else { 1 };
    let error = copy
        .set(
            INDEX,
            "/weight_map/lm_head.weight",
            json!(format!("model-0000{other}-of-00002.safetensors")),
        )
        .refusal();
    assert!(error.contains("\"lm_head.weight\" is not in the file"), "{error}");
    for (index, words) in [
        ("", "not JSON"),
        ("[]", "weight_map"),
        ("{\"weight_map\": {}}", "missing"),
    ] {
        let error = Copy::of(name).write(INDEX, index.as_bytes()).refusal();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn spoilt_safetensors_are_refused() {
    let from = shared!(STORIES_HF);
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let copy = Copy::new(&from);
    for length in [0, 7, 8, 500, bytes.len() / 2, bytes.len() - 1] {
        let error = copy.write("model.safetensors", &bytes[..length]).refusal();
        assert!(error.contains("model.safetensors"), "{error}");
    }
    let mut absurd = bytes.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    copy.write("model.safetensors", &absurd).refusal();
}

#[test]
fn a_spoilt_tokenizer_is_refused() {
    let copy = Copy::new(&shared!(STORIES_HF));
    let tokenizer = copy.json("tokenizer.json");
    for garbage in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"model\":{}}",
        "\0\0\0",
        "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\"}}",
    ] {
        copy.write("tokenizer.json", garbage.as_bytes()).refusal();
    }
    let spoil = |path: &str, value: Value| {
        let mut spoilt = tokenizer.clone();
        *spoilt.pointer_mut(path).unwrap() = value;
        let error = copy
            .write("tokenizer.json", spoilt.to_string().as_bytes())
            .refusal();
        assert!(error.contains("tokenizer"), "{error}");
    };
    spoil("/decoder", json!({"type": "CTC"}));
    spoil("/model/merges", json!([["no such", "pieces"]]));
    spoil("/model/merges", json!(["onepiece"]));
    spoil("/model/vocab", json!({}));
    spoil("/model/vocab", json!({"a": 4_000_000_000u32}));
    spoil("/model/type", json!("Nonsense"));
    spoil(
        "/normalizer",
        json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    );
    spoil("/model/continuing_subword_prefix", json!("##"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_config_loads_and_runs_or_is_refused(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[0-9a-z.,\"-]"), 1..4),
    ) {
        let copy = Copy::of(ARCHITECTURES[which.index(ARCHITECTURES.len())]);
        let mut config = copy.json("config.json").to_string().into_bytes();
        for (index, character) in changes {
            let at = index.index(config.len());
            config[at] = character.as_bytes()[0];
        }
        copy.write("config.json", &config);
        runs_or_is_refused(copy.directory.path())?;
    }
}
