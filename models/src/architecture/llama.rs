//! Llama: RMS norms, rotary positions, grouped-query attention, SwiGLU; no biases.
//!
//! The numeric reference of the crate: Burn modules in f32, one sequence at a time, so that what runs beside it cannot
//! change a sequence's result.
//!
//! Sources: Touvron et al. 2023 (Llama 2), Ainslie et al. 2023 (grouped queries), Su et al. 2021 (rotary positions);
//! tensor names and layouts from llama.cpp's `convert_hf_to_gguf.py`.

use burn::module::{Module, Param};
use burn::nn::{Linear, RmsNorm};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::error::ModelError;
use crate::format::{Checkpoint, ModelConfig, RopePairs};
use crate::kv_cache::KvCache;

/// The whole network.
#[derive(Module, Debug)]
pub(crate) struct Llama {
    /// vocabulary × hidden
    embedding: Param<Tensor<2>>,
    blocks: Vec<Block>,
    norm: RmsNorm,
    /// vocabulary × hidden; absent where the embedding serves for both.
    output: Option<Param<Tensor<2>>>,
    rope_theta: f64,
    head_size: usize,
}

#[derive(Module, Debug)]
struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

#[derive(Module, Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
}

#[derive(Module, Debug)]
struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Llama {
    /// Feeds tokens (at least one, all in the vocabulary, room for them in the cache's limit) and gives the logits
    /// after the last of them, one for each token of the vocabulary.
    pub(crate) fn forward(&self, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
        let device = self.embedding.device();
        cache.reserve(tokens.len());
        let positions = Positions::new(self, cache, tokens.len(), &device);

        let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [tokens.len()]), &device);
        let mut hidden = self.embedding.val().select(0, ids);
        for (layer, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(hidden, layer, cache, &positions);
        }
        cache.advance(tokens.len());

        let [tokens, width] = hidden.dims();
        let last = self.norm.forward(hidden.slice([tokens - 1..tokens, 0..width]));
        // Matrix × column, so that the embedding is used as it lies in memory.
        let output = self.output.as_ref().unwrap_or(&self.embedding).val();
        let logits = output.matmul(last.reshape([width, 1]));
        crate::backend::into_floats(logits)
    }
}

impl Block {
    fn forward(
        &self,
        hidden: Tensor<2>,
        layer: usize,
        cache: &mut KvCache,
        positions: &Positions,
    ) -> Tensor<2> {
        let attended = self.attention.forward(
            self.attention_norm.forward(hidden.clone()),
            layer,
            cache,
            positions,
        );
        let hidden = hidden + attended;
        let normed = self.feed_forward_norm.forward(hidden.clone());
        hidden + self.feed_forward.forward(normed)
    }
}

impl Attention {
    fn forward(
        &self,
        hidden: Tensor<2>,
        layer: usize,
        cache: &mut KvCache,
        positions: &Positions,
    ) -> Tensor<2> {
        let [tokens, _] = hidden.dims();
        let &Self {
            heads,
            kv_heads,
            head_size,
            ..
        } = self;
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
        let query = positions.rotate(query) * (head_size as f64).powf(-0.5);
        let (keys, values) = cache.append(layer, positions.rotate(key), value);
        let [_, _, capacity] = keys.dims();

        // All query heads that share a key head become rows of one matrix, so that the keys are not repeated.
        let query = query
            .reshape([tokens, kv_heads, shared, head_size])
            .permute([1, 2, 0, 3])
            .reshape([kv_heads, shared * tokens, head_size]);
        let scores = query.matmul(keys).reshape([kv_heads, shared, tokens, capacity]);
        let weights = softmax(scores + positions.mask.clone(), 3);
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
    fn forward(&self, hidden: Tensor<2>) -> Tensor<2> {
        let gate = silu(self.gate.forward(hidden.clone()));
        self.down.forward(gate * self.up.forward(hidden))
    }
}

/// What depends on where the new tokens stand, computed once and used by every layer.
struct Positions {
    /// tokens × 1 × head size
    cosines: Tensor<3>,
    /// tokens × 1 × head size
    sines: Tensor<3>,
    /// 1 × 1 × tokens × capacity: 0 where a token may look, minus infinity where it may not.
    mask: Tensor<4>,
}

impl Positions {
    fn new(model: &Llama, cache: &KvCache, tokens: usize, device: &Device) -> Self {
        let (start, capacity) = (cache.len(), cache.capacity());
        let half = model.head_size / 2;
        let mut cosines = Vec::with_capacity(tokens * model.head_size);
        let mut sines = Vec::with_capacity(tokens * model.head_size);
        let mut mask = Vec::with_capacity(tokens * capacity);
        for position in start..start + tokens {
            for column in 0..model.head_size {
                let exponent = (column % half) as f64 * 2.0 / model.head_size as f64;
                let angle = position as f64 * model.rope_theta.powf(-exponent);
                cosines.push(angle.cos() as f32);
                sines.push(angle.sin() as f32);
            }
            mask.extend((0..capacity).map(|other| if other <= position { 0.0 } else { f32::NEG_INFINITY }));
        }
        let table = |values| Tensor::from_data(TensorData::new(values, [tokens, 1, model.head_size]), device);
        let mask = Tensor::from_data(TensorData::new(mask, [1, 1, tokens, capacity]), device);
        Self {
            cosines: table(cosines),
            sines: table(sines),
            mask,
        }
    }

    /// Turns each value against the one half a head further on, by the angle of the token's position.
    fn rotate(&self, heads: Tensor<3>) -> Tensor<3> {
        let [tokens, count, head_size] = heads.dims();
        let half = head_size / 2;
        let first = heads.clone().slice([0..tokens, 0..count, 0..half]);
        let second = heads.clone().slice([0..tokens, 0..count, half..head_size]);
        let turned = Tensor::cat(vec![second.neg(), first], 2);
        heads * self.cosines.clone() + turned * self.sines.clone()
    }
}

/// Which tensors there must be, and how they become modules.
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    vocabulary_size: usize,
    device: Device,
}

impl<'a> Weights<'a> {
    /// Checks every tensor's presence, shape and type; gives the vocabulary's size. Reads no weights.
    pub(crate) fn check(checkpoint: &Checkpoint) -> Result<usize, ModelError> {
        let config = &checkpoint.config;
        let vocabulary_size = checkpoint.shape(EMBEDDING)?.first().copied().unwrap_or(0);
        let matrices = [(EMBEDDING, [vocabulary_size, config.hidden_size])].into_iter();
        let output = checkpoint
            .has(OUTPUT)
            .then_some((OUTPUT, [vocabulary_size, config.hidden_size]));
        for (name, shape) in matrices.chain(output) {
            checkpoint.check(name, &shape)?;
        }
        checkpoint.check(OUTPUT_NORM, &[config.hidden_size])?;
        // The first missing block ends the loop, so an absurd number of layers costs nothing.
        for layer in 0..config.layers {
            for part in NORMS {
                checkpoint.check(&tensor_name(layer, part), &[config.hidden_size])?;
            }
            for (part, shape) in matrices_of(config) {
                checkpoint.check(&tensor_name(layer, part), &shape)?;
            }
        }
        Ok(vocabulary_size)
    }

    /// Reads the weights of a checked model.
    pub(crate) fn load(checkpoint: &'a Checkpoint, device: &Device) -> Result<Llama, ModelError> {
        let vocabulary_size = Self::check(checkpoint)?;
        let weights = Self {
            checkpoint,
            config: &checkpoint.config,
            vocabulary_size,
            device: device.clone(),
        };
        let config = weights.config;
        Ok(Llama {
            embedding: weights.table(EMBEDDING)?,
            blocks: (0..config.layers)
                .map(|layer| weights.block(layer))
                .collect::<Result<_, _>>()?,
            norm: weights.norm(OUTPUT_NORM)?,
            output: checkpoint
                .has(OUTPUT)
                .then(|| weights.table(OUTPUT))
                .transpose()?,
            rope_theta: config.rope_theta,
            head_size: config.head_size,
        })
    }

    fn block(&self, layer: usize) -> Result<Block, ModelError> {
        let norm = |part| self.norm(&tensor_name(layer, part));
        let [query, key, value, output, gate, up, down] = matrices_of(self.config);
        let linear = |(part, shape): (&str, [usize; 2]), rotated| {
            self.linear(&tensor_name(layer, part), shape, rotated)
        };
        let rotated = self.config.rope_pairs == RopePairs::Neighbours;
        Ok(Block {
            attention_norm: norm(NORMS[0])?,
            attention: Attention {
                query: linear(query, rotated)?,
                key: linear(key, rotated)?,
                value: linear(value, false)?,
                output: linear(output, false)?,
                heads: self.config.heads,
                kv_heads: self.config.kv_heads,
                head_size: self.config.head_size,
            },
            feed_forward_norm: norm(NORMS[1])?,
            feed_forward: FeedForward {
                gate: linear(gate, false)?,
                up: linear(up, false)?,
                down: linear(down, false)?,
            },
        })
    }

    fn norm(&self, name: &str) -> Result<RmsNorm, ModelError> {
        let width = self.config.hidden_size;
        let values = self.checkpoint.tensor(name, &[width])?;
        let gamma = Param::from_data(TensorData::new(values, [width]), &self.device);
        Ok(RmsNorm {
            gamma,
            epsilon: self.config.norm_epsilon,
        })
    }

    fn table(&self, name: &str) -> Result<Param<Tensor<2>>, ModelError> {
        let shape = [self.vocabulary_size, self.config.hidden_size];
        let values = self.checkpoint.tensor(name, &shape)?;
        Ok(Param::from_data(TensorData::new(values, shape), &self.device))
    }

    /// Files hold outputs × inputs, Burn's `Linear` wants inputs × outputs: turned over once, here, since a
    /// transposed view would be copied at every product.
    fn linear(
        &self,
        name: &str,
        [outputs, inputs]: [usize; 2],
        pair_halves: bool,
    ) -> Result<Linear, ModelError> {
        let values = self.checkpoint.tensor(name, &[outputs, inputs])?;
        let mut turned = vec![0.0; values.len()];
        for (row, weights) in values.chunks_exact(inputs).enumerate() {
            let output = if pair_halves {
                halves_row(row, self.config.head_size)
            } else {
                row
            };
            for (input, weight) in weights.iter().enumerate() {
                turned[input * outputs + output] = *weight;
            }
        }
        let weight = Param::from_data(TensorData::new(turned, [inputs, outputs]), &self.device);
        Ok(Linear { weight, bias: None })
    }
}

/// Where a row of a projection with neighbouring pairs goes so that its pairs lie half a head apart.
fn halves_row(row: usize, head_size: usize) -> usize {
    let (head, within) = (row / head_size, row % head_size);
    head * head_size
        + within / 2
        + if within.is_multiple_of(2) {
            0
        } else {
            head_size / 2
        }
}

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT_NORM: &str = "output_norm.weight";
const OUTPUT: &str = "output.weight";
const NORMS: [&str; 2] = ["attn_norm.weight", "ffn_norm.weight"];

/// Outputs × inputs.
fn matrices_of(config: &ModelConfig) -> [(&'static str, [usize; 2]); 7] {
    let &ModelConfig {
        hidden_size,
        heads,
        kv_heads,
        head_size,
        feed_forward_size,
        ..
    } = config;
    // Sizes are at most 32 bits each, so the products fit.
    let (queries, keys) = (heads * head_size, kv_heads * head_size);
    [
        ("attn_q.weight", [queries, hidden_size]),
        ("attn_k.weight", [keys, hidden_size]),
        ("attn_v.weight", [keys, hidden_size]),
        ("attn_output.weight", [hidden_size, queries]),
        ("ffn_gate.weight", [feed_forward_size, hidden_size]),
        ("ffn_up.weight", [feed_forward_size, hidden_size]),
        ("ffn_down.weight", [hidden_size, feed_forward_size]),
    ]
}

fn tensor_name(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_halves() {
        let rows: Vec<usize> = (0..8).map(|row| halves_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
