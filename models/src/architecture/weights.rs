//! From the tensors of a file to the modules of the reference.

use std::ops::Range;

use burn::module::Param;
use burn::nn::{Linear, RmsNorm};
use burn::tensor::{Device, TensorData};

use super::network::{Attention, Block, FeedForward, Network};
use super::spec::{EMBEDDING, LayerSpec, NetworkSpec, OUTPUT, OUTPUT_NORM, RopePairs, tensor_name};
use crate::error::ModelError;
use crate::format::Checkpoint;

/// Checks every tensor's presence, shape and type. Reads no weights.
pub(crate) fn check(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    checkpoint
        .spec
        .tensors()
        .try_for_each(|(name, shape)| checkpoint.check(&name, &shape))
}

/// Checks the tensors and reads the weights.
pub(crate) fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Network, ModelError> {
    check(checkpoint)?;
    let weights = Weights {
        checkpoint,
        spec: &checkpoint.spec,
        device,
    };
    let spec = weights.spec;
    let table = |name| {
        let shape = [spec.vocabulary_size, spec.hidden_size];
        let values = checkpoint.tensor(name, &shape)?;
        Ok(Param::from_data(TensorData::new(values, shape), device))
    };
    let blocks = spec.layers.iter().enumerate();
    Ok(Network {
        embedding: table(EMBEDDING)?,
        blocks: blocks
            .map(|(index, layer)| weights.block(index, layer))
            .collect::<Result<_, _>>()?,
        norm: weights.norm(OUTPUT_NORM, spec.hidden_size)?,
        output: (!spec.tied_output).then(|| table(OUTPUT)).transpose()?,
    })
}

struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a NetworkSpec,
    device: &'a Device,
}

/// One matrix of the network: some rows of one of the file's.
struct Rows<'a> {
    part: &'a str,
    biased: bool,
    /// Rows of the whole matrix in the file.
    of: usize,
    range: Range<usize>,
    inputs: usize,
    /// The head size, where pairs are neighbours in the file.
    neighbours: Option<usize>,
}

impl Weights<'_> {
    fn block(&self, index: usize, layer: &LayerSpec) -> Result<Block, ModelError> {
        let hidden = self.spec.hidden_size;
        let norm = |part: &str, width| self.norm(&tensor_name(index, part), width);
        let optional = |wanted: bool, part, width| wanted.then(|| norm(part, width)).transpose();
        Ok(Block {
            attention_norm: norm("attn_norm.weight", hidden)?,
            attention: self.attention(index, layer)?,
            post_attention_norm: optional(layer.post_norms, "post_attention_norm.weight", hidden)?,
            feed_forward_norm: norm("ffn_norm.weight", hidden)?,
            feed_forward: self.feed_forward(index, layer)?,
            post_feed_forward_norm: optional(layer.post_norms, "post_ffw_norm.weight", hidden)?,
        })
    }

    fn attention(&self, index: usize, layer: &LayerSpec) -> Result<Attention, ModelError> {
        let hidden = self.spec.hidden_size;
        let queries = layer.heads * layer.head_size;
        let keys = layer.kv_heads * layer.head_size;
        let neighbours = self.spec.rope_pairs == RopePairs::Neighbours;
        let projection = |part, start: usize, rows, rotated: bool| {
            let fused = layer.fused_qkv;
            let start = if fused { start } else { 0 };
            let rows = Rows {
                part: if fused { "attn_qkv" } else { part },
                biased: layer.qkv_bias,
                of: if fused { queries + 2 * keys } else { rows },
                range: start..start + rows,
                inputs: hidden,
                neighbours: (rotated && neighbours).then_some(layer.head_size),
            };
            self.linear(index, &rows)
        };
        let norm = |part: &str| {
            let wanted = layer.query_key_norms;
            wanted
                .then(|| self.norm(&tensor_name(index, part), layer.head_size))
                .transpose()
        };
        Ok(Attention {
            query: projection("attn_q", 0, queries, true)?,
            key: projection("attn_k", queries, keys, true)?,
            value: projection("attn_v", queries + keys, keys, false)?,
            output: self.linear(
                index,
                &Rows {
                    part: "attn_output",
                    biased: layer.output_bias,
                    of: hidden,
                    range: 0..hidden,
                    inputs: queries,
                    neighbours: None,
                },
            )?,
            query_norm: norm("attn_q_norm.weight")?,
            key_norm: norm("attn_k_norm.weight")?,
        })
    }

    fn feed_forward(&self, index: usize, layer: &LayerSpec) -> Result<FeedForward, ModelError> {
        let hidden = self.spec.hidden_size;
        let size = self.spec.feed_forward_size;
        let matrix = |part, of, range, inputs| {
            let rows = Rows {
                part,
                biased: layer.feed_forward_bias,
                of,
                range,
                inputs,
                neighbours: None,
            };
            self.linear(index, &rows)
        };
        let (gate, up) = if layer.fused_gate_up {
            (
                matrix("ffn_up", 2 * size, 0..size, hidden)?,
                matrix("ffn_up", 2 * size, size..2 * size, hidden)?,
            )
        } else {
            (
                matrix("ffn_gate", size, 0..size, hidden)?,
                matrix("ffn_up", size, 0..size, hidden)?,
            )
        };
        Ok(FeedForward {
            gate,
            up,
            down: matrix("ffn_down", hidden, 0..hidden, size)?,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, ModelError> {
        let mut values = self.checkpoint.tensor(name, &[width])?;
        let offset = self.spec.norm.weight_offset;
        values.iter_mut().for_each(|value| *value += offset);
        Ok(RmsNorm {
            gamma: Param::from_data(TensorData::new(values, [width]), self.device),
            epsilon: self.spec.norm.epsilon,
        })
    }

    /// Files hold outputs × inputs, Burn's `Linear` wants inputs × outputs: turned over once, here, since a
    /// transposed view would be copied at every product.
    fn linear(&self, layer: usize, rows: &Rows<'_>) -> Result<Linear, ModelError> {
        let &Rows { inputs, of, .. } = rows;
        let outputs = rows.range.len();
        let place = |row| match rows.neighbours {
            Some(head_size) => halves_row(row, head_size),
            None => row,
        };
        let name = tensor_name(layer, &format!("{}.weight", rows.part));
        let values = self.checkpoint.tensor(&name, &[of, inputs])?;
        let mut turned = vec![0.0; outputs * inputs];
        let chosen = values[rows.range.start * inputs..rows.range.end * inputs].chunks_exact(inputs);
        for (row, weights) in chosen.enumerate() {
            let output = place(row);
            for (input, weight) in weights.iter().enumerate() {
                turned[input * outputs + output] = *weight;
            }
        }
        let weight = Param::from_data(TensorData::new(turned, [inputs, outputs]), self.device);
        let bias = rows.biased.then(|| {
            let name = tensor_name(layer, &format!("{}.bias", rows.part));
            let values = self.checkpoint.tensor(&name, &[of])?;
            let mut placed = vec![0.0; outputs];
            for (row, value) in values[rows.range.clone()].iter().enumerate() {
                placed[place(row)] = *value;
            }
            Ok(Param::from_data(TensorData::new(placed, [outputs]), self.device))
        });
        Ok(Linear {
            weight,
            bias: bias.transpose()?,
        })
    }
}

/// Where a row of a projection with neighbouring pairs goes so that its pairs lie half a head apart.
fn halves_row(row: usize, head_size: usize) -> usize {
    let (head, within) = (row / head_size, row % head_size);
    let half = if within.is_multiple_of(2) {
        0
    } else {
        head_size / 2
    };
    head * head_size + within / 2 + half
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
