//! The numeric reference of the crate: any network of a [`NetworkSpec`] as Burn modules in f32, one sequence at a
//! time, so that what runs beside it cannot change a sequence's result.
//!
//! The modules hold weights only; what is done with them is read from the description. Fused matrices were taken
//! apart, and norm offsets and row orders undone, when the weights were read.

use std::f64::consts::PI;

use burn::module::{Module, Param};
use burn::nn::{Linear, RmsNorm};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::spec::{Activation, LayerSpec, NetworkSpec};
use crate::kv_cache::KvCache;

/// The whole network.
#[derive(Module, Debug)]
pub(crate) struct Network {
    /// vocabulary × hidden
    pub(super) embedding: Param<Tensor<2>>,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: RmsNorm,
    /// vocabulary × hidden; absent where the embedding serves for both.
    pub(super) output: Option<Param<Tensor<2>>>,
}

#[derive(Module, Debug)]
pub(super) struct Block {
    pub(super) attention_norm: RmsNorm,
    pub(super) attention: Attention,
    pub(super) post_attention_norm: Option<RmsNorm>,
    pub(super) feed_forward_norm: RmsNorm,
    pub(super) feed_forward: FeedForward,
    pub(super) post_feed_forward_norm: Option<RmsNorm>,
}

#[derive(Module, Debug)]
pub(super) struct Attention {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) query_norm: Option<RmsNorm>,
    pub(super) key_norm: Option<RmsNorm>,
}

#[derive(Module, Debug)]
pub(super) struct FeedForward {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Network {
    /// Feeds tokens (at least one, all in the vocabulary, room for them in the cache's limit) and gives the logits
    /// after the last of them, one for each token of the vocabulary. `spec` is what the weights were read for.
    pub(crate) fn forward(&self, spec: &NetworkSpec, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
        let device = self.embedding.device();
        cache.reserve(tokens.len());
        let positions = Positions::new(spec, cache, tokens.len(), &device);

        let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [tokens.len()]), &device);
        let mut hidden = self.embedding.val().select(0, ids) * spec.embedding_scale;
        for (index, (block, layer)) in self.blocks.iter().zip(&spec.layers).enumerate() {
            let attended = block.attention.forward(
                layer,
                block.attention_norm.forward(hidden.clone()),
                index,
                cache,
                &positions,
            );
            hidden = hidden + normed(&block.post_attention_norm, attended);
            let inner = block.feed_forward_norm.forward(hidden.clone());
            let inner = block.feed_forward.forward(spec.activation, inner);
            hidden = hidden + normed(&block.post_feed_forward_norm, inner);
        }
        cache.advance(tokens.len());

        let [tokens, width] = hidden.dims();
        let last = self.norm.forward(hidden.slice([tokens - 1..tokens, 0..width]));
        // Matrix × column, so that the embedding is used as it lies in memory.
        let output = self.output.as_ref().unwrap_or(&self.embedding).val();
        let logits = output.matmul(last.reshape([width, 1]));
        crate::backend::into_floats(soft_capped(logits, spec.final_softcap))
    }
}

impl Attention {
    fn forward(
        &self,
        layer: &LayerSpec,
        hidden: Tensor<2>,
        index: usize,
        cache: &mut KvCache,
        positions: &Positions,
    ) -> Tensor<2> {
        let [tokens, _] = hidden.dims();
        let &LayerSpec {
            heads,
            kv_heads,
            head_size,
            ..
        } = layer;
        let shared = heads / kv_heads;

        let query = self
            .query
            .forward(hidden.clone())
            .reshape([tokens, heads, head_size]);
        let key = self
            .key
            .forward(hidden.clone())
            .reshape([tokens, kv_heads, head_size]);
        let value = self.value.forward(hidden).reshape([tokens, kv_heads, head_size]);
        let query = positions.rotate(layer, normed(&self.query_norm, query)) * layer.attention_scale;
        let key = positions.rotate(layer, normed(&self.key_norm, key));
        let (keys, values) = cache.append(index, key, value);
        let [_, _, capacity] = keys.dims();

        // All query heads that share a key head become rows of one matrix, so that the keys are not repeated.
        let query = query
            .reshape([tokens, kv_heads, shared, head_size])
            .permute([1, 2, 0, 3])
            .reshape([kv_heads, shared * tokens, head_size]);
        let scores = query.matmul(keys).reshape([kv_heads, shared, tokens, capacity]);
        let scores = positions.mask(layer, soft_capped(scores, layer.attention_softcap));
        let weights = softmax(scores, 3);
        let attended = weights
            .reshape([kv_heads, shared * tokens, capacity])
            .matmul(values);
        let attended = attended
            .reshape([kv_heads, shared, tokens, head_size])
            .permute([2, 0, 1, 3])
            .reshape([tokens, heads * head_size]);
        self.output.forward(attended)
    }
}

impl FeedForward {
    fn forward(&self, activation: Activation, hidden: Tensor<2>) -> Tensor<2> {
        let gate = self.gate.forward(hidden.clone());
        let gate = match activation {
            Activation::Silu => silu(gate),
            Activation::GeluTanh => gelu_tanh(gate),
        };
        self.down.forward(gate * self.up.forward(hidden))
    }
}

/// Hendrycks and Gimpel 2016, as PyTorch computes it with `approximate="tanh"`.
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let cubic = x.clone() * x.clone() * x.clone() * 0.044_715;
    let inner = (x.clone() + cubic) * (2.0 / PI).sqrt();
    x * 0.5 * (inner.tanh() + 1.0)
}

fn soft_capped<const D: usize>(values: Tensor<D>, cap: Option<f64>) -> Tensor<D> {
    match cap {
        Some(cap) => (values / cap).tanh() * cap,
        None => values,
    }
}

fn normed<const D: usize>(norm: &Option<RmsNorm>, values: Tensor<D>) -> Tensor<D> {
    match norm {
        Some(norm) => norm.forward(values),
        None => values,
    }
}

/// What depends on where the new tokens stand, computed once and used by every layer.
struct Positions {
    /// As [`NetworkSpec::ropes`].
    turns: Vec<Turns>,
    /// For each width of window, 1 × 1 × tokens × capacity: 0 where a token may look, minus infinity where it may not.
    masks: Vec<(Option<usize>, Tensor<4>)>,
}

struct Turns {
    /// tokens × 1 × rotated
    cosines: Tensor<3>,
    /// tokens × 1 × rotated
    sines: Tensor<3>,
}

impl Positions {
    fn new(spec: &NetworkSpec, cache: &KvCache, tokens: usize, device: &Device) -> Self {
        let (start, capacity) = (cache.len(), cache.capacity());
        let turns = spec.ropes.iter().map(|rope| {
            let table = rope.table(cache.limit());
            let pairs = table.inverse_frequencies.len();
            let mut cosines = Vec::with_capacity(tokens * 2 * pairs);
            let mut sines = Vec::with_capacity(tokens * 2 * pairs);
            for position in start..start + tokens {
                for column in 0..2 * pairs {
                    let angle = position as f64 * table.inverse_frequencies[column % pairs];
                    cosines.push((angle.cos() * table.magnitude) as f32);
                    sines.push((angle.sin() * table.magnitude) as f32);
                }
            }
            let tensor = |values| Tensor::from_data(TensorData::new(values, [tokens, 1, 2 * pairs]), device);
            Turns {
                cosines: tensor(cosines),
                sines: tensor(sines),
            }
        });
        let mut windows: Vec<Option<usize>> = spec.layers.iter().map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        let masks = windows.into_iter().map(|window| {
            let window_tokens = window.unwrap_or(usize::MAX);
            let mut mask = Vec::with_capacity(tokens * capacity);
            for position in start..start + tokens {
                mask.extend((0..capacity).map(|other| {
                    let seen = other <= position && position - other < window_tokens;
                    if seen { 0.0 } else { f32::NEG_INFINITY }
                }));
            }
            let mask = Tensor::from_data(TensorData::new(mask, [1, 1, tokens, capacity]), device);
            (window, mask)
        });
        Self {
            turns: turns.collect(),
            masks: masks.collect(),
        }
    }

    /// Turns each value against the one half the rotated part further on, by the angle of the token's position.
    fn rotate(&self, layer: &LayerSpec, heads: Tensor<3>) -> Tensor<3> {
        let Some(turns) = layer.rope.and_then(|rope| self.turns.get(rope)) else {
            return heads;
        };
        let [tokens, count, head_size] = heads.dims();
        let [_, _, rotated] = turns.cosines.dims();
        let part = |columns| heads.clone().slice([0..tokens, 0..count, columns]);
        let half = rotated / 2;
        let crossed = Tensor::cat(vec![part(half..rotated).neg(), part(0..half)], 2);
        let turned = part(0..rotated) * turns.cosines.clone() + crossed * turns.sines.clone();
        if rotated == head_size {
            return turned;
        }
        Tensor::cat(vec![turned, part(rotated..head_size)], 2)
    }

    fn mask(&self, layer: &LayerSpec, scores: Tensor<4>) -> Tensor<4> {
        match self.masks.iter().find(|(window, _)| *window == layer.window) {
            Some((_, mask)) => scores + mask.clone(),
            None => scores,
        }
    }
}
