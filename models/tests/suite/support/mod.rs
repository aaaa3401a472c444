//! Where the shared data lies, and how tests make model files of their own.

use std::path::{Path, PathBuf};

/// A file of the shared data, or `None` with a loud line where there is none. In CI a missing file is a failure.
pub(crate) fn shared(relative: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(relative);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing, and this is CI",
        path.display()
    );
    // Past libtest's capture, which hides what passing tests print.
    let line = format!("SKIPPED: {} not found\n", path.display());
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    None
}

/// `shared!("path")` gives the path or returns from the test.
#[macro_export]
macro_rules! shared {
    ($path:expr) => {
        match $crate::support::shared($path) {
            Some(path) => path,
            None => return,
        }
    };
}

pub(crate) const STORIES_GGUF: &str = "models/stories260K/stories260K-f32.gguf";
pub(crate) const STORIES_HF: &str = "models/stories260K/hf";

/// The fixtures of `make_architectures.py`.
pub(crate) const ARCHITECTURES: &[&str] = &[
    "llama",
    "llama_biases",
    "mistral",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "smollm3",
    "phi3",
    "phi3_partial",
    "gemma2",
    "gemma3",
];

/// Where a fixture's files are.
pub(crate) fn architecture_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/architectures")
        .join(name)
}

/// A fixture as a directory that can be loaded and spoilt: with the tokenizer, which the fixtures share.
pub(crate) fn architecture(name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(architecture_fixture(name)).unwrap() {
        let entry = entry.unwrap().path();
        let extension = entry.extension().unwrap().to_str().unwrap();
        if ["json", "safetensors"].contains(&extension) {
            std::fs::copy(&entry, directory.path().join(entry.file_name().unwrap())).unwrap();
        }
    }
    let tokenizer = include_str!("tokenizer.json");
    std::fs::write(directory.path().join("tokenizer.json"), tokenizer).unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

/// The same model as GGUF, where there is one.
pub(crate) fn architecture_gguf(name: &str) -> Option<PathBuf> {
    let path = architecture_fixture(name).join("model.gguf");
    path.exists().then_some(path)
}

/// Writes GGUF files, good and bad.
#[derive(Clone, Default)]
pub(crate) struct GgufWriter {
    metadata: Vec<u8>,
    metadata_count: u64,
    table: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl GgufWriter {
    fn key(&mut self, key: &str, value_type: u32) {
        self.metadata_count += 1;
        put_string(&mut self.metadata, key);
        self.metadata.extend(value_type.to_le_bytes());
    }

    pub(crate) fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.key(key, 2);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.key(key, 4);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.key(key, 6);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key, 7);
        self.metadata.push(value.into());
        self
    }

    pub(crate) fn string(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key, 8);
        put_string(&mut self.metadata, value);
        self
    }

    pub(crate) fn strings(&mut self, key: &str, values: &[&str]) -> &mut Self {
        self.array(key, 8, values.len(), |out| {
            values.iter().for_each(|value| put_string(out, value))
        })
    }

    pub(crate) fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.array(key, 6, values.len(), |out| {
            values.iter().for_each(|value| out.extend(value.to_le_bytes()))
        })
    }

    pub(crate) fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.array(key, 5, values.len(), |out| {
            values.iter().for_each(|value| out.extend(value.to_le_bytes()))
        })
    }

    fn array(
        &mut self,
        key: &str,
        element: u32,
        count: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> &mut Self {
        self.key(key, 9);
        self.metadata.extend(element.to_le_bytes());
        self.metadata.extend((count as u64).to_le_bytes());
        write(&mut self.metadata);
        self
    }

    /// The same metadata alone.
    pub(crate) fn without_tensors(&self) -> Self {
        Self {
            metadata: self.metadata.clone(),
            metadata_count: self.metadata_count,
            ..Self::default()
        }
    }

    /// `shape` is rows first; `bytes` as the type stores them.
    pub(crate) fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        tensor_type: u32,
        bytes: &[u8],
    ) -> &mut Self {
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.entry(name, shape, tensor_type, offset)
    }

    /// Only the table's entry.
    pub(crate) fn entry(&mut self, name: &str, shape: &[usize], tensor_type: u32, offset: u64) -> &mut Self {
        self.tensor_count += 1;
        put_string(&mut self.table, name);
        self.table.extend((shape.len() as u32).to_le_bytes());
        for dimension in shape.iter().rev() {
            self.table.extend((*dimension as u64).to_le_bytes());
        }
        self.table.extend(tensor_type.to_le_bytes());
        self.table.extend(offset.to_le_bytes());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.metadata_count.to_le_bytes());
        bytes.extend(&self.metadata);
        bytes.extend(&self.table);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A whole Llama model of a few kilobytes with weights from a fixed sequence, to be written by [`GgufWriter::bytes`]
/// after what a test wants to add. Its vocabulary: `<unk>`, `<s>`, `</s>`, 256 bytes, space and the letters a–z,
/// and two words.
pub(crate) fn tiny_model() -> GgufWriter {
    let mut state = 1u32;
    model_of(TINY, |shape| {
        let weights = (0..shape.iter().product()).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let uniform = (state >> 8) as f32 / (1 << 24) as f32;
            let weight = if shape.len() == 1 { 1.0 } else { uniform - 0.5 };
            weight.to_le_bytes()
        });
        (0, weights.collect())
    })
}

/// Hidden and feed-forward size of [`tiny_model`].
const TINY: [usize; 2] = [8, 12];

/// The same model in other sizes; `weights` gives each tensor's type and bytes for its shape.
pub(crate) fn model_of(sizes: [usize; 2], weights: impl FnMut(&[usize]) -> (u32, Vec<u8>)) -> GgufWriter {
    let (vocabulary, mut writer) = sentence_piece_vocabulary();
    network(&mut writer, vocabulary, 64, sizes, weights);
    writer
}

/// A model whose tokenizer is byte-level, with control tokens as chat models have them and pieces as JSON has them, and
/// whose weights follow from a seed. Its answers are noise of any kind, which is what a grammar must cope with.
pub(crate) fn noisy_model(seed: u32, byte_level: bool) -> GgufWriter {
    let (vocabulary, mut writer) = match byte_level {
        true => byte_level_vocabulary(),
        false => sentence_piece_vocabulary(),
    };
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    network(&mut writer, vocabulary, 4096, TINY, |shape| {
        let weights = (0..shape.iter().product()).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let uniform = (state >> 8) as f32 / (1 << 24) as f32;
            let weight = if shape.len() == 1 {
                1.0
            } else {
                4.0 * (uniform - 0.5)
            };
            weight.to_le_bytes()
        });
        (0, weights.collect())
    });
    writer
}

/// Special tokens of [`noisy_model`]'s byte-level kind, from id 0 on; the first ends an answer.
pub(crate) const CONTROL_TOKENS: [&str; 7] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_call|>",
    "<|/tool_call|>",
];

fn byte_level_vocabulary() -> (usize, GgufWriter) {
    // GPT-2's alphabet of bytes.
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let alphabet: Vec<String> = (0..=255u8)
        .map(|byte| {
            let code = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    let mut tokens: Vec<String> = CONTROL_TOKENS.map(str::to_owned).to_vec();
    let mut kinds = vec![3; tokens.len()];
    tokens.extend(alphabet);
    let pieces = [
        "{\"", "\":", "\",\"", "\"}", "}}", "}]", "[\"", "\"]", "Ġ\"", "Ġ{", "true", "false", "null", "ĊĠĠ",
        "<tool", "_call>", "</tool", "name", "Ġa", "12", "-1", "Ã©", "\\u00",
    ];
    tokens.extend(pieces.map(str::to_owned));
    kinds.resize(tokens.len(), 1);
    let texts: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut writer = GgufWriter::default();
    writer
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .strings("tokenizer.ggml.merges", &["Ġ a"])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 0);
    (texts.len(), writer)
}

fn sentence_piece_vocabulary() -> (usize, GgufWriter) {
    let mut writer = GgufWriter::default();
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let mut kinds = vec![2, 3, 3];
    kinds.resize(tokens.len(), 6);
    tokens.push("▁".into());
    tokens.extend(('a'..='z').map(String::from));
    tokens.extend(["▁a", "ab"].map(str::to_owned));
    kinds.resize(tokens.len(), 1);
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let texts: Vec<&str> = tokens.iter().map(String::as_str).collect();
    writer
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &texts)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    (texts.len(), writer)
}

fn network(
    writer: &mut GgufWriter,
    vocabulary: usize,
    context: u32,
    sizes: [usize; 2],
    mut weights: impl FnMut(&[usize]) -> (u32, Vec<u8>),
) {
    writer
        .string("general.architecture", "llama")
        .u32("llama.context_length", context)
        .u32("llama.embedding_length", sizes[0] as u32)
        .u32("llama.block_count", 1)
        .u32("llama.feed_forward_length", sizes[1] as u32)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    for (name, shape) in tensors_of(vocabulary, sizes) {
        let (tensor_type, bytes) = weights(&shape);
        writer.tensor(name, &shape, tensor_type, &bytes);
    }
}

/// Names and shapes of the tiny model's tensors, in its order.
pub(crate) fn tiny_tensors(vocabulary: usize) -> Vec<(&'static str, Vec<usize>)> {
    tensors_of(vocabulary, TINY)
}

fn tensors_of(vocabulary: usize, [hidden, feed_forward]: [usize; 2]) -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("token_embd.weight", vec![vocabulary, hidden]),
        ("output_norm.weight", vec![hidden]),
        ("blk.0.attn_norm.weight", vec![hidden]),
        ("blk.0.attn_q.weight", vec![hidden, hidden]),
        ("blk.0.attn_k.weight", vec![hidden / 2, hidden]),
        ("blk.0.attn_v.weight", vec![hidden / 2, hidden]),
        ("blk.0.attn_output.weight", vec![hidden, hidden]),
        ("blk.0.ffn_norm.weight", vec![hidden]),
        ("blk.0.ffn_gate.weight", vec![feed_forward, hidden]),
        ("blk.0.ffn_up.weight", vec![feed_forward, hidden]),
        ("blk.0.ffn_down.weight", vec![hidden, feed_forward]),
    ]
}

/// Writes bytes into a temporary directory, which lives as long as the first of the pair.
pub(crate) fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}
