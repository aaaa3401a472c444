//! What GGUF metadata says about a network, in the words that all families share.
//!
//! Keys and their defaults from llama.cpp's `llama-model.cpp` (`load_hparams`) and `gguf-py/gguf/constants.py`.

use super::rope::{RopeScaling, RopeSpec, long_magnitude, yarn_magnitude};
use super::spec::{
    Activation, EMBEDDING, LayerSpec, MAX_LAYERS, NetworkSpec, NormSpec, OUTPUT, RopePairs, check_heads,
    head_size_of, unsupported,
};
use crate::error::Problem;
use crate::format::gguf::{Gguf, TensorType, Value};
use crate::format::gguf_parts::Parts;

/// The metadata of one model, read under its architecture's prefix.
pub(super) struct GgufMetadata<'a> {
    parts: &'a Parts<'a>,
    gguf: &'a Gguf<'a>,
    pub(super) architecture: &'a str,
}

impl<'a> GgufMetadata<'a> {
    pub(super) fn new(parts: &'a Parts<'a>) -> Result<Self, Problem> {
        let gguf = parts.first();
        let Some(architecture) = gguf.string("general.architecture") else {
            return Err(Problem::Configuration("general.architecture is missing".into()));
        };
        Ok(Self {
            parts,
            gguf,
            architecture,
        })
    }

    /// A network of Llama's kind, from the keys that all families have: rotated with `pairs`, biases where the file
    /// has some. The families change what is theirs.
    pub(super) fn network(&self, rope_pairs: RopePairs) -> Result<NetworkSpec, Problem> {
        if let Some(experts) = self.size("expert_count")?.filter(|experts| *experts > 0) {
            return Err(unsupported(format!("a mixture of {experts} experts")));
        }
        if self.gguf.bool(&self.key("attention.causal")) == Some(false) {
            return Err(unsupported("attention in both directions".into()));
        }
        let hidden_size = self.required_size("embedding_length")?;
        let heads = self.required_size("attention.head_count")?;
        let kv_heads = self.size("attention.head_count_kv")?.unwrap_or(heads);
        let head_size = match self.size("attention.key_length")? {
            Some(size) => size,
            None => head_size_of(hidden_size, heads)?,
        };
        check_heads(heads, kv_heads, head_size)?;
        if self.size("attention.value_length")?.unwrap_or(head_size) != head_size {
            return Err(Problem::Configuration(
                "keys and values have different sizes".into(),
            ));
        }
        let layers = self.required_size("block_count")?;
        if layers > MAX_LAYERS {
            return Err(Problem::Configuration(format!(
                "its number of layers is {layers}"
            )));
        }
        let context_length = self.required_size("context_length")?;
        let epsilon = self.number("attention.layer_norm_rms_epsilon")?;
        let rotated = self.size("rope.dimension_count")?.unwrap_or(head_size);
        let layer = LayerSpec {
            heads,
            kv_heads,
            head_size,
            rope: Some(0),
            window: None,
            attention_scale: (head_size as f64).powf(-0.5),
            attention_softcap: None,
            query_key_norms: false,
            post_norms: false,
            fused_qkv: self.has("blk.0.attn_qkv.weight"),
            fused_gate_up: false,
            qkv_bias: self.has("blk.0.attn_q.bias"),
            output_bias: self.has("blk.0.attn_output.bias"),
            feed_forward_bias: self.has("blk.0.ffn_down.bias"),
        };
        let rows = || self.parts.tensor(EMBEDDING)?.shape.first().copied();
        Ok(NetworkSpec {
            architecture: self.architecture.to_owned(),
            context_length,
            // The key `vocab_size` only informs; llama.cpp goes by the tensor too.
            vocabulary_size: rows().unwrap_or(0),
            hidden_size,
            feed_forward_size: self.required_size("feed_forward_length")?,
            layers: vec![layer; layers],
            ropes: vec![self.rope(rotated, context_length)?],
            rope_pairs,
            embedding_scale: 1.0,
            norm: NormSpec {
                epsilon: epsilon.ok_or_else(|| {
                    Problem::Configuration("attention.layer_norm_rms_epsilon is missing".into())
                })?,
                weight_offset: 0.0,
            },
            activation: Activation::Silu,
            tied_output: !self.has(OUTPUT),
            final_softcap: None,
        })
    }

    fn rope(&self, rotated: usize, context_length: usize) -> Result<RopeSpec, Problem> {
        let original_context = self.size("rope.scaling.original_context_length")?;
        let original_context = original_context.unwrap_or(context_length);
        // The second is the name of old files. llama.cpp takes 0 for none.
        let factor = self.first_number(["rope.scaling.factor", "rope.scale_linear"])?;
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        let kind = self.gguf.string(&self.key("rope.scaling.type"));
        let kind = kind.unwrap_or("linear");
        let divisors = self.floats(DIVISORS)?;
        let (long, short) = (self.floats(LONG_FACTORS)?, self.floats(SHORT_FACTORS)?);
        let scaling = match (divisors, long, short, kind) {
            (Some(divisors), None, None, kind) if kind == "none" || factor == 1.0 => {
                RopeScaling::Divisors(divisors)
            }
            (None, Some(long), Some(short), _) => RopeScaling::Long {
                short,
                long,
                original_context,
                magnitude: self
                    .number("rope.scaling.attn_factor")?
                    .unwrap_or_else(|| long_magnitude(context_length as f64, original_context as f64)),
            },
            (None, None, None, "none") => RopeScaling::None,
            (None, None, None, "linear") if factor == 1.0 => RopeScaling::None,
            (None, None, None, "linear") => RopeScaling::Linear { factor },
            (None, None, None, "yarn") => self.yarn(factor, original_context as f64)?,
            (None, None, None, other) if other != "longrope" => {
                return Err(unsupported(format!("RoPE scaling of the kind {other:?}")));
            }
            _ => {
                return Err(Problem::Configuration(format!(
                    "its RoPE scaling (kind {kind:?}, factor {factor}) does not fit its tensors {DIVISORS}, \
                     {LONG_FACTORS} and {SHORT_FACTORS}"
                )));
            }
        };
        Ok(RopeSpec {
            theta: self.number("rope.freq_base")?.unwrap_or(10_000.0),
            rotated,
            scaling,
        })
    }

    fn yarn(&self, factor: f64, original_context: f64) -> Result<RopeScaling, Problem> {
        let extrapolation = self.number("rope.scaling.yarn_ext_factor")?;
        if extrapolation.is_some_and(|factor| factor != 1.0) {
            return Err(unsupported("YaRN with an extrapolation factor".into()));
        }
        // llama.cpp multiplies what the file says with YaRN's own choice.
        let extra = self.first_number(["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"])?;
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            original_context,
            truncate: true,
            magnitude: yarn_magnitude(factor, 1.0) * extra.unwrap_or(1.0),
        })
    }

    /// The sliding window, if there is one.
    pub(super) fn window(&self) -> Result<Option<usize>, Problem> {
        let window = self.size("attention.sliding_window")?;
        Ok(window.filter(|window| *window > 0))
    }

    /// Which layers have the sliding window: all but each `period`-th, unless the file says another period or lists
    /// the layers.
    pub(super) fn windowed(&self, layers: usize, period: usize) -> Result<Vec<bool>, Problem> {
        let key = self.key("attention.sliding_window_pattern");
        let period = match self.gguf.get(&key) {
            None => period,
            Some(Value::Unsigned(period)) => usize::try_from(period).unwrap_or(usize::MAX),
            Some(Value::Array(list)) if list.len() == layers => {
                return Ok(list
                    .iter()
                    .map(|windowed| matches!(windowed, Value::Bool(true) | Value::Unsigned(1..)))
                    .collect());
            }
            Some(_) => {
                return Err(Problem::Configuration(format!(
                    "{key} is neither a number nor a list of {layers}"
                )));
            }
        };
        // A period of 0 means that no layer sees everything.
        Ok((1..=layers)
            .map(|layer| period == 0 || !layer.is_multiple_of(period))
            .collect())
    }

    /// The size under this key; something else under it is an error.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, Problem> {
        let key = self.key(key);
        let Some(value) = self.gguf.get(&key) else {
            return Ok(None);
        };
        let size = self
            .gguf
            .unsigned(&key)
            .and_then(|size| usize::try_from(size).ok());
        size.map(Some).ok_or_else(|| match value {
            Value::Array(_) => unsupported(format!("{key} for each layer")),
            _ => Problem::Configuration(format!("{key} is not a size")),
        })
    }

    fn required_size(&self, key: &str) -> Result<usize, Problem> {
        self.size(key)?
            .ok_or_else(|| Problem::Configuration(format!("{} is missing or not a number", self.key(key))))
    }

    /// The number under this key; something else under it is an error.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Problem> {
        let key = self.key(key);
        if self.gguf.get(&key).is_none() {
            return Ok(None);
        }
        let number = self.gguf.float(&key);
        number
            .map(Some)
            .ok_or_else(|| Problem::Configuration(format!("{key} is not a number")))
    }

    fn first_number(&self, keys: [&str; 2]) -> Result<Option<f64>, Problem> {
        let [first, second] = keys.map(|key| self.number(key));
        Ok(first?.or(second?))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.parts.tensor(tensor).is_some()
    }

    /// The elements of a small tensor that belongs to the description rather than to the weights.
    fn floats(&self, name: &str) -> Result<Option<Vec<f64>>, Problem> {
        let Some(tensor) = self.parts.tensor(name) else {
            return Ok(None);
        };
        let bytes = self.parts.bytes(name).unwrap_or_default();
        if tensor.tensor_type != TensorType::F32 {
            return Err(Problem::UnsupportedTensorType {
                tensor: name.to_owned(),
                tensor_type: tensor.tensor_type.name(),
            });
        }
        let (chunks, _) = bytes.as_chunks::<4>();
        Ok(Some(
            chunks
                .iter()
                .map(|chunk| f64::from(f32::from_le_bytes(*chunk)))
                .collect(),
        ))
    }
}

const DIVISORS: &str = "rope_freqs.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";
const SHORT_FACTORS: &str = "rope_factors_short.weight";
