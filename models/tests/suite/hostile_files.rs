//! Missing, damaged and foreign model files stop the start with a message that names the file and the remedy.

use std::path::Path;

use models::Model;
use models::format::blocks::BlockType;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::hostile_quantised::quantised_model;
use crate::support::{
    ARCHITECTURES, GgufWriter, STORIES_GGUF, STORIES_HF, architecture, architecture_gguf, file, tiny_model,
};

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

/// A copy of the safetensors model, to be spoilt.
struct Copy {
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
    fn of(architecture_name: &str) -> Self {
        let (directory, _) = architecture(architecture_name);
        Self { directory }
    }

    /// Puts a value into a JSON file, which may be new there.
    fn set(&self, name: &str, pointer: &str, value: Value) -> &Self {
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

    fn refusal(&self) -> String {
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
