//! What a network is, without anything that computes it: the one description that the f32 reference and the kernels
//! both run, and from which the list of tensors follows.

use super::rope::RopeSpec;
use crate::error::Problem;

/// A decoder-only transformer with RMS norms, rotary positions, grouped-query attention and gated feed-forward.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkSpec {
    /// As the file names it.
    pub(crate) architecture: String,
    /// The most tokens of a sequence.
    pub(crate) context_length: usize,
    /// Rows of the embedding; 0 until the tensors are known.
    pub(crate) vocabulary_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) feed_forward_size: usize,
    pub(crate) layers: Vec<LayerSpec>,
    /// The kinds of rotation that the layers point to.
    pub(crate) ropes: Vec<RopeSpec>,
    pub(crate) rope_pairs: RopePairs,
    /// Embeddings are multiplied by it.
    pub(crate) embedding_scale: f64,
    pub(crate) norm: NormSpec,
    pub(crate) activation: Activation,
    /// Whether the embedding serves as output matrix.
    pub(crate) tied_output: bool,
    /// Logits `x` become `cap × tanh(x / cap)`.
    pub(crate) final_softcap: Option<f64>,
}

/// One layer: attention, then feed-forward, each added to what came in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerSpec {
    pub(crate) heads: usize,
    /// Divides `heads`; key-value head `i` serves the `i`-th run of query heads.
    pub(crate) kv_heads: usize,
    /// Values of a head, for queries, keys and values alike.
    pub(crate) head_size: usize,
    /// Which of [`NetworkSpec::ropes`]; a layer without one knows no positions.
    pub(crate) rope: Option<usize>,
    /// A token sees itself and those before it, so many in all.
    pub(crate) window: Option<usize>,
    /// Products of queries and keys are multiplied by it.
    pub(crate) attention_scale: f64,
    /// Scores `x` become `cap × tanh(x / cap)`, before the mask.
    pub(crate) attention_softcap: Option<f64>,
    /// Whether each head's query and key is normed before it is turned.
    pub(crate) query_key_norms: bool,
    /// Whether attention and feed-forward are normed once more before they are added.
    pub(crate) post_norms: bool,
    /// Whether queries, keys and values are rows of one matrix, in this order.
    pub(crate) fused_qkv: bool,
    /// Whether gate and up are rows of one matrix, in this order.
    pub(crate) fused_gate_up: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) feed_forward_bias: bool,
}

/// `x / sqrt(mean(x²) + epsilon) × (weight + weight_offset)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormSpec {
    pub(crate) epsilon: f64,
    /// 1 for Gemma, but for its GGUF files, whose weights have it added already.
    pub(crate) weight_offset: f32,
}

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// Which rows of the query and key projections, as the file has them, a rotation turns against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RopePairs {
    /// Row `i` of a head with row `i + half`: Hugging Face's layout, and that of most GGUF files.
    Halves,
    /// Row `2i` with row `2i + 1`: the original layout, to which GGUF files of Llama and its like are permuted back.
    Neighbours,
}

pub(crate) const EMBEDDING: &str = "token_embd.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
pub(crate) const OUTPUT: &str = "output.weight";

/// The name of a layer's tensor.
pub(crate) fn tensor_name(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

impl NetworkSpec {
    /// The tensors that there must be, with their shapes, rows first (outputs × inputs).
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let table = vec![self.vocabulary_size, self.hidden_size];
        let output = (!self.tied_output).then(|| (OUTPUT.to_owned(), table.clone()));
        let whole = [
            (EMBEDDING.to_owned(), table),
            (OUTPUT_NORM.to_owned(), vec![self.hidden_size]),
        ];
        let layers = self.layers.iter().enumerate().flat_map(|(index, layer)| {
            let parts = layer.tensors(self.hidden_size, self.feed_forward_size);
            parts
                .into_iter()
                .map(move |(part, shape)| (tensor_name(index, part), shape))
        });
        whole.into_iter().chain(output).chain(layers)
    }

    /// What must hold before tensors are looked at, whose shapes then bound the sizes.
    pub(super) fn check(self) -> Result<Self, Problem> {
        check_sizes(&[
            ("context length", self.context_length),
            ("hidden size", self.hidden_size),
            ("feed-forward size", self.feed_forward_size),
            ("number of layers", self.layers.len()),
        ])?;
        check_positive(&[
            ("norm epsilon", self.norm.epsilon),
            ("embedding scale", self.embedding_scale),
            ("final soft-cap", self.final_softcap.unwrap_or(1.0)),
        ])?;
        for layer in &self.layers {
            layer.check()?;
            if let Some(rope) = layer.rope.and_then(|rope| self.ropes.get(rope)) {
                rope.check(layer.head_size)?;
                // Such files are permuted a whole head at a time, and norms would have to be as well.
                let whole = rope.rotated == layer.head_size && !layer.query_key_norms;
                if self.rope_pairs == RopePairs::Neighbours && !whole {
                    return Err(unsupported(
                        "heads that are permuted and turned only in part".into(),
                    ));
                }
            }
        }
        // The cache has one shape for all layers.
        let width = |layer: &LayerSpec| (layer.kv_heads, layer.head_size);
        if let Some(pair) = self
            .layers
            .windows(2)
            .find(|pair| width(&pair[0]) != width(&pair[1]))
        {
            return Err(unsupported(format!(
                "layers with {:?} and {:?} key-value heads and their sizes",
                width(&pair[0]),
                width(&pair[1])
            )));
        }
        Ok(self)
    }
}

impl LayerSpec {
    /// Its tensors without the layer's prefix, with their shapes.
    pub(crate) fn tensors(&self, hidden: usize, feed_forward: usize) -> Vec<(&'static str, Vec<usize>)> {
        // Sizes were checked: products and sums fit.
        let queries = self.heads * self.head_size;
        let keys = self.kv_heads * self.head_size;
        let mut tensors = vec![
            ("attn_norm.weight", vec![hidden]),
            ("ffn_norm.weight", vec![hidden]),
        ];
        let mut matrix = |weight, bias, [rows, columns]: [usize; 2], biased: bool| {
            tensors.push((weight, vec![rows, columns]));
            tensors.extend(biased.then(|| (bias, vec![rows])));
        };
        let biased = self.qkv_bias;
        if self.fused_qkv {
            let rows = queries + 2 * keys;
            matrix("attn_qkv.weight", "attn_qkv.bias", [rows, hidden], biased);
        } else {
            matrix("attn_q.weight", "attn_q.bias", [queries, hidden], biased);
            matrix("attn_k.weight", "attn_k.bias", [keys, hidden], biased);
            matrix("attn_v.weight", "attn_v.bias", [keys, hidden], biased);
        }
        let (weight, bias) = ("attn_output.weight", "attn_output.bias");
        matrix(weight, bias, [hidden, queries], self.output_bias);
        let biased = self.feed_forward_bias;
        if self.fused_gate_up {
            matrix("ffn_up.weight", "ffn_up.bias", [2 * feed_forward, hidden], biased);
        } else {
            matrix("ffn_gate.weight", "ffn_gate.bias", [feed_forward, hidden], biased);
            matrix("ffn_up.weight", "ffn_up.bias", [feed_forward, hidden], biased);
        }
        matrix("ffn_down.weight", "ffn_down.bias", [hidden, feed_forward], biased);
        if self.query_key_norms {
            tensors.push(("attn_q_norm.weight", vec![self.head_size]));
            tensors.push(("attn_k_norm.weight", vec![self.head_size]));
        }
        if self.post_norms {
            tensors.push(("post_attention_norm.weight", vec![hidden]));
            tensors.push(("post_ffw_norm.weight", vec![hidden]));
        }
        tensors
    }

    fn check(&self) -> Result<(), Problem> {
        check_heads(self.heads, self.kv_heads, self.head_size)?;
        if self.window == Some(0) {
            return Err(Problem::Configuration("its sliding window is 0".into()));
        }
        check_positive(&[
            ("attention scale", self.attention_scale),
            ("attention soft-cap", self.attention_softcap.unwrap_or(1.0)),
        ])
    }
}

/// Far above any known model, and low enough that a number out of thin air costs nothing.
pub(super) const MAX_LAYERS: usize = 1024;
/// As above, for the number of heads and for their size: it keeps their products small.
const MAX_HEADS: usize = 1 << 16;

pub(super) fn check_heads(heads: usize, kv_heads: usize, head_size: usize) -> Result<(), Problem> {
    for (what, size) in [
        ("number of heads", heads),
        ("number of key-value heads", kv_heads),
        ("head size", head_size),
    ] {
        if size == 0 || size > MAX_HEADS {
            return Err(Problem::Configuration(format!("its {what} is {size}")));
        }
    }
    if !heads.is_multiple_of(kv_heads) {
        return Err(Problem::Configuration(format!(
            "{heads} heads cannot share {kv_heads} key-value heads"
        )));
    }
    Ok(())
}

/// The heads' size where the metadata leaves it to be divided out.
pub(super) fn head_size_of(hidden_size: usize, heads: usize) -> Result<usize, Problem> {
    match hidden_size.checked_rem(heads) {
        Some(0) => Ok(hidden_size / heads),
        None => Err(Problem::Configuration("its number of heads is 0".into())),
        Some(_) => Err(Problem::Configuration(format!(
            "a hidden size of {hidden_size} does not divide into {heads} heads"
        ))),
    }
}

fn check_sizes(sizes: &[(&str, usize)]) -> Result<(), Problem> {
    let wrong = sizes
        .iter()
        .find(|(_, size)| *size == 0 || *size > u32::MAX as usize);
    match wrong {
        Some((what, size)) => Err(Problem::Configuration(format!("its {what} is {size}"))),
        None => Ok(()),
    }
}

/// Refuses the first number that is not finite and above 0.
pub(super) fn check_positive(numbers: &[(&str, f64)]) -> Result<(), Problem> {
    let wrong = numbers
        .iter()
        .find(|(_, number)| !(number.is_finite() && *number > 0.0));
    match wrong {
        Some((what, number)) => Err(Problem::Configuration(format!("its {what} is {number}"))),
        None => Ok(()),
    }
}

pub(super) fn unsupported(what: String) -> Problem {
    Problem::Unsupported {
        what: format!("the model has {what}, which cannot be run so far"),
        remedy: "choose a model without it",
    }
}
