//! From the tensors of a file to packed matrices, row by row: no matrix is ever whole in memory as floats.

use std::path::Path;
use std::sync::Mutex;

use super::file::Home;
use super::{Activations, Bench, Layer, PackedNetwork, Projection, file};
use crate::architecture::spec::{
    EMBEDDING, LayerSpec, NetworkSpec, OUTPUT, OUTPUT_NORM, RopePairs, tensor_name,
};
use crate::error::{ModelError, Problem};
use crate::format::{Checkpoint, Matrix};
use crate::kernels::{Instructions, PackedMatrix, Packing, Pool};

impl PackedNetwork {
    /// Maps the packed weights of a checked model where they are at home, and packs them where they are not. Without a
    /// home they are packed into memory.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        packing: Packing,
        threads: usize,
        home: Option<Home>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<PackedNetwork, ModelError> {
        let mut pool = Pool::new(threads).map_err(|error| checkpoint.error(Problem::from(error)))?;
        let Some(home) = home else {
            return Self::build(checkpoint, packing, pool, Vec::new(), progress);
        };
        let path = home.path(packing);
        let mut network = match file::open(&path, &home.source, &mut pool) {
            Some(ready) => Self::build(checkpoint, packing, pool, ready, progress)?,
            None => Self::pack(checkpoint, packing, pool, &path, &home.source, progress)?,
        };
        network.home = Some(home);
        Ok(network)
    }

    fn pack(
        checkpoint: &Checkpoint,
        packing: Packing,
        pool: Pool,
        path: &Path,
        source: &str,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<PackedNetwork, ModelError> {
        let threads = pool.threads();
        let mut network = Self::build(checkpoint, packing, pool, Vec::new(), progress)?;
        match file::write(path, source, &network.matrices()) {
            Ok(()) => {
                let mut pool = Pool::new(threads).map_err(|error| checkpoint.error(Problem::from(error)))?;
                // What is mapped the system may take back and read again; what was packed it may not.
                if let Some(ready) = file::open(path, source, &mut pool) {
                    drop(network);
                    return Self::build(checkpoint, packing, pool, ready, progress);
                }
            }
            Err(error) => network.not_kept = Some(error.to_string()),
        }
        Ok(network)
    }

    fn build(
        checkpoint: &Checkpoint,
        packing: Packing,
        pool: Pool,
        ready: Vec<PackedMatrix>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<PackedNetwork, ModelError> {
        let mut loader = Loader {
            checkpoint,
            spec: &checkpoint.spec,
            packing,
            pool,
            was_packed: ready.is_empty(),
            ready: ready.into_iter(),
        };
        let spec = loader.spec;
        let parts = spec.layers.len() + 1;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(loader.layer(index, layer)?);
            if loader.was_packed {
                progress(index + 1, parts);
            }
        }
        let embedding = loader.table(EMBEDDING)?;
        let output = (!spec.tied_output).then(|| loader.table(OUTPUT)).transpose()?;
        if loader.was_packed {
            progress(parts, parts);
        }
        Ok(PackedNetwork {
            spec: spec.clone(),
            was_packed: loader.was_packed,
            not_kept: None,
            home: None,
            change: None,
            embedding,
            output,
            layers,
            norm: loader.norm(OUTPUT_NORM, spec.hidden_size)?,
            instructions: Instructions::detect(),
            bench: Mutex::new(Bench {
                pool: loader.pool,
                activations: Activations::new(Instructions::detect()),
                hidden: Vec::new(),
                wide: Vec::new(),
                narrow: Vec::new(),
            }),
        })
    }
}

/// How the embedding and the output matrix of a network are packed: at 4 bits they would cost more than they save.
pub(super) fn of_tables(packing: Packing) -> Packing {
    match packing {
        Packing::Int4 => Packing::Int8,
        other => other,
    }
}

/// Bytes of a network's weights when they are packed so.
pub(crate) fn packed_bytes(spec: &NetworkSpec, packing: Packing) -> Option<u64> {
    let (hidden, size) = (spec.hidden_size, spec.feed_forward_size);
    let mut sum = 0_u64;
    let mut add = |shape: [usize; 2], packing| {
        let bytes = u64::try_from(PackedMatrix::bytes_of(shape, packing)?).ok()?;
        sum = sum.checked_add(bytes)?;
        Some(())
    };
    for layer in &spec.layers {
        let queries = layer.heads * layer.head_size;
        let keys = layer.kv_heads * layer.head_size;
        for shape in [
            [queries + 2 * keys, hidden],
            [hidden, queries],
            [2 * size, hidden],
            [hidden, size],
        ] {
            add(shape, packing)?;
        }
    }
    for _ in 0..1 + usize::from(!spec.tied_output) {
        add([spec.vocabulary_size, hidden], of_tables(packing))?;
    }
    Some(sum)
}

struct Loader<'c> {
    checkpoint: &'c Checkpoint,
    spec: &'c NetworkSpec,
    packing: Packing,
    pool: Pool,
    /// Matrices of a file, in the order in which they are asked for.
    ready: std::vec::IntoIter<PackedMatrix>,
    /// There were none.
    was_packed: bool,
}

/// A tensor of the file, and how its rows are ordered.
struct Part<'p> {
    name: &'p str,
    rows: usize,
    /// The head size, where pairs are neighbours in the file.
    neighbours: Option<usize>,
}

impl Loader<'_> {
    fn layer(&mut self, index: usize, layer: &LayerSpec) -> Result<Layer, ModelError> {
        let hidden = self.spec.hidden_size;
        let size = self.spec.feed_forward_size;
        let queries = layer.heads * layer.head_size;
        let keys = layer.kv_heads * layer.head_size;
        let turned = (self.spec.rope_pairs == RopePairs::Neighbours).then_some(layer.head_size);
        let part = |name, rows, neighbours| Part {
            name,
            rows,
            neighbours,
        };
        let query_key_value: &[Part<'_>] = if layer.fused_qkv {
            &[part("attn_qkv", queries + 2 * keys, None)]
        } else {
            &[
                part("attn_q", queries, turned),
                part("attn_k", keys, turned),
                part("attn_v", keys, None),
            ]
        };
        let gate_up: &[Part<'_>] = if layer.fused_gate_up {
            &[part("ffn_up", 2 * size, None)]
        } else {
            &[part("ffn_gate", size, None), part("ffn_up", size, None)]
        };
        Ok(Layer {
            attention_norm: self.norm(&tensor_name(index, "attn_norm.weight"), hidden)?,
            query_key_value: self.projection(index, query_key_value, hidden, layer.qkv_bias)?,
            query_norm: self.optional(
                index,
                layer.query_key_norms,
                "attn_q_norm.weight",
                layer.head_size,
            )?,
            key_norm: self.optional(
                index,
                layer.query_key_norms,
                "attn_k_norm.weight",
                layer.head_size,
            )?,
            attention_output: self.projection(
                index,
                &[part("attn_output", hidden, None)],
                queries,
                layer.output_bias,
            )?,
            post_attention_norm: self.optional(
                index,
                layer.post_norms,
                "post_attention_norm.weight",
                hidden,
            )?,
            feed_forward_norm: self.norm(&tensor_name(index, "ffn_norm.weight"), hidden)?,
            gate_up: self.projection(index, gate_up, hidden, layer.feed_forward_bias)?,
            down: self.projection(
                index,
                &[part("ffn_down", hidden, None)],
                size,
                layer.feed_forward_bias,
            )?,
            post_feed_forward_norm: self.optional(index, layer.post_norms, "post_ffw_norm.weight", hidden)?,
        })
    }

    fn optional(
        &self,
        index: usize,
        wanted: bool,
        part: &str,
        width: usize,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        wanted
            .then(|| self.norm(&tensor_name(index, part), width))
            .transpose()
    }

    fn norm(&self, name: &str, width: usize) -> Result<Vec<f32>, ModelError> {
        let mut values = self.checkpoint.tensor(name, &[width])?;
        let offset = self.spec.norm.weight_offset;
        values.iter_mut().for_each(|value| *value += offset);
        Ok(values)
    }

    /// The embedding or the output matrix.
    fn table(&mut self, name: &str) -> Result<PackedMatrix, ModelError> {
        let (rows, columns) = (self.spec.vocabulary_size, self.spec.hidden_size);
        let matrix = self.checkpoint.matrix(name, [rows, columns])?;
        let packing = of_tables(self.packing);
        Ok(self.matrix(packing, rows, columns, |row, into| matrix.row(row, into)))
    }

    /// The next one of the file, or one packed from rows.
    fn matrix(
        &mut self,
        packing: Packing,
        rows: usize,
        columns: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> PackedMatrix {
        let is_it =
            |matrix: &PackedMatrix| (matrix.rows, matrix.columns, matrix.packing) == (rows, columns, packing);
        match self.ready.next().filter(is_it) {
            Some(matrix) => matrix,
            None => PackedMatrix::pack(&mut self.pool, packing, rows, columns, row),
        }
    }

    /// Parts one below the other.
    fn projection(
        &mut self,
        index: usize,
        parts: &[Part<'_>],
        inputs: usize,
        biased: bool,
    ) -> Result<Projection, ModelError> {
        let mut matrices: Vec<(Matrix<'_>, &Part<'_>)> = Vec::with_capacity(parts.len());
        let mut bias = Vec::new();
        for part in parts {
            let name = tensor_name(index, &format!("{}.weight", part.name));
            matrices.push((self.checkpoint.matrix(&name, [part.rows, inputs])?, part));
            if biased {
                let name = tensor_name(index, &format!("{}.bias", part.name));
                let values = self.checkpoint.tensor(&name, &[part.rows])?;
                bias.extend((0..part.rows).map(|row| values[part.source(row)]));
            }
        }
        let rows = parts.iter().map(|part| part.rows).sum();
        let matrix = self.matrix(self.packing, rows, inputs, |row, into| {
            let mut row = row;
            for (matrix, part) in &matrices {
                if row < part.rows {
                    return matrix.row(part.source(row), into);
                }
                row -= part.rows;
            }
        });
        Ok(Projection {
            matrix,
            bias: biased.then_some(bias),
        })
    }
}

impl Part<'_> {
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
            name: "attn_q",
            rows: 8,
            neighbours: Some(4),
        };
        let sources: Vec<usize> = (0..8).map(|row| part.source(row)).collect();
        assert_eq!(sources, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
