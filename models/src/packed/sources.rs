//! Which matrices a network has, and of which tensors of the model's files each is made: row by row, so that none is ever
//! whole in memory as floats.

use crate::architecture::spec::{EMBEDDING, LayerSpec, NetworkSpec, OUTPUT, RopePairs, tensor_name};
use crate::error::ModelError;
use crate::format::{Checkpoint, Matrix};
use crate::kernels::{PackedMatrix, Packing, Pool};

/// Matrices of a layer.
pub(super) const OF_LAYER: usize = 4;

/// What a matrix is made of.
#[derive(Debug)]
pub(super) struct Source {
    /// One below the other.
    parts: Vec<Part>,
    columns: usize,
    packing: Packing,
    has_bias: bool,
}

/// A tensor of the files, and how its rows are ordered.
#[derive(Debug)]
struct Part {
    /// Without `.weight` or `.bias`.
    name: String,
    rows: usize,
    /// The head size, where pairs are neighbours in the file.
    neighbours: Option<usize>,
}

/// All matrices of a network that is packed so, in the order in which files have them.
pub(super) fn of_network(spec: &NetworkSpec, packing: Packing) -> Vec<Source> {
    let layers = spec.layers.iter().enumerate();
    let layers = layers.flat_map(|(index, layer)| of_layer(spec, index, layer, packing));
    let output = (!spec.tied_output).then(|| of_output(spec, packing));
    layers
        .chain([of_embedding(spec, packing)])
        .chain(output)
        .collect()
}

/// Queries, keys and values; the output of attention; gate and up; down.
pub(super) fn of_layer(
    spec: &NetworkSpec,
    index: usize,
    layer: &LayerSpec,
    packing: Packing,
) -> [Source; OF_LAYER] {
    let (hidden, size) = (spec.hidden_size, spec.feed_forward_size);
    let queries = layer.heads * layer.head_size;
    let keys = layer.kv_heads * layer.head_size;
    let turned = (spec.rope_pairs == RopePairs::Neighbours).then_some(layer.head_size);
    let part = |name, rows, neighbours| Part {
        name: tensor_name(index, name),
        rows,
        neighbours,
    };
    let query_key_value = if layer.fused_qkv {
        vec![part("attn_qkv", queries + 2 * keys, None)]
    } else {
        vec![
            part("attn_q", queries, turned),
            part("attn_k", keys, turned),
            part("attn_v", keys, None),
        ]
    };
    let gate_up = if layer.fused_gate_up {
        vec![part("ffn_up", 2 * size, None)]
    } else {
        vec![part("ffn_gate", size, None), part("ffn_up", size, None)]
    };
    let source = |parts, columns, has_bias| Source {
        parts,
        columns,
        packing,
        has_bias,
    };
    [
        source(query_key_value, hidden, layer.qkv_bias),
        source(
            vec![part("attn_output", hidden, None)],
            queries,
            layer.output_bias,
        ),
        source(gate_up, hidden, layer.feed_forward_bias),
        source(
            vec![part("ffn_down", hidden, None)],
            size,
            layer.feed_forward_bias,
        ),
    ]
}

pub(super) fn of_embedding(spec: &NetworkSpec, packing: Packing) -> Source {
    of_table(spec, EMBEDDING, packing)
}

pub(super) fn of_output(spec: &NetworkSpec, packing: Packing) -> Source {
    of_table(spec, OUTPUT, packing)
}

fn of_table(spec: &NetworkSpec, tensor: &str, packing: Packing) -> Source {
    let name = tensor.strip_suffix(WEIGHT).unwrap_or(tensor).to_owned();
    let part = Part {
        name,
        rows: spec.vocabulary_size,
        neighbours: None,
    };
    Source {
        parts: vec![part],
        columns: spec.hidden_size,
        packing: of_tables(packing),
        has_bias: false,
    }
}

/// How the embedding and the output matrix of a network are packed: at 4 bits they would cost more than they save.
pub(super) fn of_tables(packing: Packing) -> Packing {
    match packing {
        Packing::Int4 => Packing::Int8,
        other => other,
    }
}

const WEIGHT: &str = ".weight";
const BIAS: &str = ".bias";

/// Bytes of a network's weights when they are packed so.
pub(crate) fn packed_bytes(spec: &NetworkSpec, packing: Packing) -> Option<u64> {
    of_network(spec, packing).iter().try_fold(0_u64, |sum, source| {
        let (shape, packing) = source.shape();
        sum.checked_add(u64::try_from(PackedMatrix::bytes_of(shape, packing)?).ok()?)
    })
}

impl Source {
    /// What it becomes: rows and columns, and how they are packed.
    pub(super) fn shape(&self) -> ([usize; 2], Packing) {
        let rows = self.parts.iter().map(|part| part.rows).sum();
        ([rows, self.columns], self.packing)
    }

    /// Packs it.
    pub(super) fn pack(&self, checkpoint: &Checkpoint, pool: &mut Pool) -> Result<PackedMatrix, ModelError> {
        let mut tensors: Vec<(Matrix<'_>, &Part)> = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let name = format!("{}{WEIGHT}", part.name);
            tensors.push((checkpoint.matrix(&name, [part.rows, self.columns])?, part));
        }
        let ([rows, columns], packing) = self.shape();
        Ok(PackedMatrix::pack(pool, packing, rows, columns, |row, into| {
            let mut row = row;
            for (tensor, part) in &tensors {
                if row < part.rows {
                    return tensor.row(part.source(row), into);
                }
                row -= part.rows;
            }
        }))
    }

    /// What is added to its products, if anything is.
    pub(super) fn bias(&self, checkpoint: &Checkpoint) -> Result<Option<Vec<f32>>, ModelError> {
        if !self.has_bias {
            return Ok(None);
        }
        let mut bias = Vec::new();
        for part in &self.parts {
            let values = checkpoint.tensor(&format!("{}{BIAS}", part.name), &[part.rows])?;
            bias.extend((0..part.rows).map(|row| values[part.source(row)]));
        }
        Ok(Some(bias))
    }
}

impl Part {
    /// Which row of the file comes to stand here, so that pairs lie half a head apart.
    fn source(&self, row: usize) -> usize {
        let Some(head_size) = self.neighbours else {
            return row;
        };
        let (head, within, half) = (row / head_size, row % head_size, head_size / 2);
        head * head_size
            + if within < half {
                2 * within
            } else {
                2 * (within - half) + 1
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_come_of_neighbours() {
        let part = Part {
            name: "attn_q".to_owned(),
            rows: 8,
            neighbours: Some(4),
        };
        let sources: Vec<usize> = (0..8).map(|row| part.source(row)).collect();
        assert_eq!(sources, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
