//! What Hugging Face's `config.json` says about a network, in the words that all families share.
//!
//! Keys and their defaults from transformers' `configuration_*.py` and `modeling_rope_utils.py`.

use serde_json::Value;

use super::rope::{RopeScaling, RopeSpec, long_magnitude, yarn_magnitude};
use super::spec::{
    Activation, LayerSpec, MAX_LAYERS, NetworkSpec, NormSpec, RopePairs, check_heads, head_size_of,
    unsupported,
};
use crate::error::Problem;

/// One model's configuration.
pub(super) struct JsonMetadata<'a> {
    json: &'a Value,
    pub(super) architecture: &'a str,
}

impl<'a> JsonMetadata<'a> {
    pub(super) fn new(json: &'a Value) -> Result<Self, Problem> {
        let Some(architecture) = json["model_type"].as_str() else {
            return Err(Problem::Configuration("model_type is missing".into()));
        };
        Ok(Self { json, architecture })
    }

    /// The same model, by another configuration.
    pub(super) fn with<'b>(&'b self, json: &'b Value) -> JsonMetadata<'b> {
        JsonMetadata {
            json,
            architecture: self.architecture,
        }
    }

    /// The configuration as it is in the file.
    pub(super) fn json(&self) -> &'a Value {
        self.json
    }

    /// A network of Llama's kind, from the keys that all families have. The families change what is theirs.
    pub(super) fn network(&self, tied_by_default: bool) -> Result<NetworkSpec, Problem> {
        for key in ["num_local_experts", "num_experts"] {
            if let Some(experts) = self.size(key)?.filter(|experts| *experts > 0) {
                return Err(unsupported(format!("a mixture of {experts} experts")));
            }
        }
        if self.flag("use_bidirectional_attention", false) {
            return Err(unsupported("attention in both directions".into()));
        }
        let hidden_size = self.required_size("hidden_size")?;
        let heads = self.required_size("num_attention_heads")?;
        let kv_heads = self.size("num_key_value_heads")?.unwrap_or(heads);
        let head_size = match self.size("head_dim")? {
            Some(size) => size,
            None => head_size_of(hidden_size, heads)?,
        };
        check_heads(heads, kv_heads, head_size)?;
        let layers = self.required_size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(Problem::Configuration(format!(
                "its number of layers is {layers}"
            )));
        }
        let attention_bias = self.flag("attention_bias", false);
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
            fused_qkv: false,
            fused_gate_up: false,
            qkv_bias: attention_bias,
            output_bias: attention_bias,
            feed_forward_bias: self.flag("mlp_bias", false),
        };
        let context_length = self.required_size("max_position_embeddings")?;
        Ok(NetworkSpec {
            architecture: self.architecture.to_owned(),
            context_length,
            vocabulary_size: self.size("vocab_size")?.unwrap_or(0),
            hidden_size,
            feed_forward_size: self.required_size("intermediate_size")?,
            layers: vec![layer; layers],
            ropes: vec![self.rope(head_size, context_length)?],
            rope_pairs: RopePairs::Halves,
            embedding_scale: 1.0,
            norm: NormSpec {
                epsilon: self.number("rms_norm_eps")?.unwrap_or(1e-6),
                weight_offset: 0.0,
            },
            activation: self.activation()?,
            tied_output: self.flag("tie_word_embeddings", tied_by_default),
            final_softcap: None,
        })
    }

    fn activation(&self) -> Result<Activation, Problem> {
        let names = ["hidden_activation", "hidden_act"].map(|key| self.json[key].as_str());
        match names.into_iter().flatten().next() {
            None | Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some(other) => Err(unsupported(format!("the activation {other:?}"))),
        }
    }

    fn rope(&self, head_size: usize, context_length: usize) -> Result<RopeSpec, Problem> {
        // Since transformers 5 base, kind and fraction are together, for each kind of layer where there are several.
        let newer = &self.json["rope_parameters"];
        let newer = match &newer["full_attention"] {
            Value::Null => newer,
            full => full,
        };
        let scaling = if newer.is_object() {
            newer
        } else {
            &self.json["rope_scaling"]
        };
        let either = |key: &str| match number_of(newer, key)? {
            Some(number) => Ok(Some(number)),
            None => self.number(key),
        };
        let fraction = either("partial_rotary_factor")?.unwrap_or(1.0);
        if !(fraction > 0.0 && fraction <= 1.0) {
            return Err(Problem::Configuration(format!(
                "partial_rotary_factor is {fraction}"
            )));
        }
        Ok(RopeSpec {
            theta: either("rope_theta")?.unwrap_or(10_000.0),
            // Between 0 and the head size, rounded down as transformers does.
            rotated: (head_size as f64 * fraction) as usize,
            scaling: self.rope_scaling(scaling, context_length)?,
        })
    }

    fn rope_scaling(&self, scaling: &Value, context_length: usize) -> Result<RopeScaling, Problem> {
        let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str());
        let kind = kind.unwrap_or("default");
        let missing =
            |key: &str| Problem::Configuration(format!("its RoPE scaling of the kind {kind:?} has no {key}"));
        let optional = |key: &str| number_of(scaling, key);
        let required = |key: &str| optional(key)?.ok_or_else(|| missing(key));
        let original = "original_max_position_embeddings";
        Ok(match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear {
                factor: required("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: required("factor")?,
                low_frequency_factor: required("low_freq_factor")?,
                high_frequency_factor: required("high_freq_factor")?,
                original_context: required(original)?,
            },
            // The first Phi-3 called it by other names.
            "longrope" | "su" | "yarn" if kind != "yarn" || !scaling["short_factor"].is_null() => {
                let list = |key: &str| {
                    let list = scaling[key].as_array().ok_or_else(|| missing(key))?;
                    let numbers = list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>();
                    numbers.ok_or_else(|| missing(key))
                };
                let own = match self.number(original)? {
                    Some(own) => Some(own),
                    None => optional(original)?,
                };
                // Without one the factor counts, of which no published model makes use.
                let original_context = own.ok_or_else(|| missing(original))?;
                RopeScaling::Long {
                    short: list("short_factor")?,
                    long: list("long_factor")?,
                    original_context: original_context as usize,
                    magnitude: optional("attention_factor")?
                        .unwrap_or_else(|| long_magnitude(context_length as f64, original_context)),
                }
            }
            "yarn" => {
                let factor = required("factor")?;
                let magnitude = match (optional("mscale")?, optional("mscale_all_dim")?) {
                    (Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => {
                        yarn_magnitude(factor, scale) / yarn_magnitude(factor, all)
                    }
                    _ => yarn_magnitude(factor, 1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                    original_context: optional(original)?.unwrap_or(context_length as f64),
                    truncate: scaling["truncate"].as_bool().unwrap_or(true),
                    magnitude: optional("attention_factor")?.unwrap_or(magnitude),
                }
            }
            other => return Err(unsupported(format!("RoPE scaling of the kind {other:?}"))),
        })
    }

    /// Which layers have the sliding window, where the file lists them.
    pub(super) fn windowed(&self, layers: usize) -> Result<Option<Vec<bool>>, Problem> {
        let Some(kinds) = self.json["layer_types"].as_array() else {
            return Ok(None);
        };
        if kinds.len() != layers {
            return Err(Problem::Configuration(format!(
                "layer_types has {} entries for {layers} layers",
                kinds.len()
            )));
        }
        let windowed = kinds.iter().map(|kind| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(unsupported(format!("layers of the kind {kind}"))),
        });
        let windowed = windowed.collect::<Result<Vec<_>, _>>()?;
        let without = self.json.get("sliding_window").is_some_and(Value::is_null);
        if without && windowed.contains(&true) {
            return Err(Problem::Configuration(
                "layer_types has sliding_attention, but sliding_window is null".into(),
            ));
        }
        Ok(Some(windowed))
    }

    /// The size under this key, if it is there and not null; something else under it is an error.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, Problem> {
        let value = &self.json[key];
        if value.is_null() {
            return Ok(None);
        }
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.map(Some)
            .ok_or_else(|| Problem::Configuration(format!("{key} is {value}, not a size")))
    }

    fn required_size(&self, key: &str) -> Result<usize, Problem> {
        self.size(key)?
            .ok_or_else(|| Problem::Configuration(format!("{key} is missing")))
    }

    /// Like [`size`](Self::size), where a missing key has a default and null means that there is none.
    pub(super) fn size_or_default(&self, key: &str, otherwise: usize) -> Result<Option<usize>, Problem> {
        match self.json.get(key) {
            None => Ok(Some(otherwise)),
            Some(_) => self.size(key),
        }
    }

    /// The number under this key, if it is there and not null; something else under it is an error.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Problem> {
        number_of(self.json, key)
    }

    pub(super) fn flag(&self, key: &str, otherwise: bool) -> bool {
        self.json[key].as_bool().unwrap_or(otherwise)
    }
}

fn number_of(json: &Value, key: &str) -> Result<Option<f64>, Problem> {
    let value = &json[key];
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_f64();
    number
        .map(Some)
        .ok_or_else(|| Problem::Configuration(format!("{key} is {value}, not a number")))
}
