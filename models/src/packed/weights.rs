//! From a model's files to its network on packed weights.

use std::path::Path;
use std::sync::Mutex;

use super::file::Home;
use super::sources::{self, Source};
use super::{Activations, Bench, Layer, PackedNetwork, Projection, file, packing};
use crate::architecture::spec::{LayerSpec, OUTPUT_NORM, tensor_name};
use crate::error::{ModelError, Problem};
use crate::format::Checkpoint;
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

    /// Packs them into their file and maps that; where it cannot be had, into memory.
    fn pack(
        checkpoint: &Checkpoint,
        packing: Packing,
        mut pool: Pool,
        path: &Path,
        source: &str,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<PackedNetwork, ModelError> {
        let not_kept = match packing::write(checkpoint, packing, &mut pool, path, source, progress)? {
            // What is mapped the system may take back and read again; what was packed it may not.
            Ok(()) => match file::open(path, source, &mut pool) {
                Some(ready) => return Self::build(checkpoint, packing, pool, ready, progress),
                None => packing::READ_DIFFERENTLY.to_owned(),
            },
            Err(error) => error.to_string(),
        };
        let mut network = Self::build(checkpoint, packing, pool, Vec::new(), progress)?;
        network.not_kept = Some(not_kept);
        Ok(network)
    }

    fn build(
        checkpoint: &Checkpoint,
        packing: Packing,
        pool: Pool,
        ready: Vec<PackedMatrix>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<PackedNetwork, ModelError> {
        let spec = &checkpoint.spec;
        let was_packed = ready.is_empty();
        let mut loader = Loader {
            checkpoint,
            packing,
            pool,
            ready: ready.into_iter(),
        };
        let parts = spec.layers.len() + 1;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(loader.layer(index, layer)?);
            if was_packed {
                progress(index + 1, parts);
            }
        }
        let embedding = loader.matrix(&sources::of_embedding(spec, packing))?;
        let output = (!spec.tied_output).then(|| loader.matrix(&sources::of_output(spec, packing)));
        let output = output.transpose()?;
        if was_packed {
            progress(parts, parts);
        }
        Ok(PackedNetwork {
            spec: spec.clone(),
            was_packed,
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

struct Loader<'c> {
    checkpoint: &'c Checkpoint,
    packing: Packing,
    pool: Pool,
    /// Matrices of a file, in the order in which they are asked for.
    ready: std::vec::IntoIter<PackedMatrix>,
}

impl Loader<'_> {
    fn layer(&mut self, index: usize, layer: &LayerSpec) -> Result<Layer, ModelError> {
        let spec = &self.checkpoint.spec;
        let (hidden, head_size) = (spec.hidden_size, layer.head_size);
        let [query_key_value, attention_output, gate_up, down] =
            &sources::of_layer(spec, index, layer, self.packing);
        let name = |part| tensor_name(index, part);
        Ok(Layer {
            attention_norm: self.norm(&name("attn_norm.weight"), hidden)?,
            query_key_value: self.projection(query_key_value)?,
            query_norm: self.optional(layer.query_key_norms, &name("attn_q_norm.weight"), head_size)?,
            key_norm: self.optional(layer.query_key_norms, &name("attn_k_norm.weight"), head_size)?,
            attention_output: self.projection(attention_output)?,
            post_attention_norm: self.optional(
                layer.post_norms,
                &name("post_attention_norm.weight"),
                hidden,
            )?,
            feed_forward_norm: self.norm(&name("ffn_norm.weight"), hidden)?,
            gate_up: self.projection(gate_up)?,
            down: self.projection(down)?,
            post_feed_forward_norm: self.optional(layer.post_norms, &name("post_ffw_norm.weight"), hidden)?,
        })
    }

    fn optional(&self, wanted: bool, name: &str, width: usize) -> Result<Option<Vec<f32>>, ModelError> {
        wanted.then(|| self.norm(name, width)).transpose()
    }

    fn norm(&self, name: &str, width: usize) -> Result<Vec<f32>, ModelError> {
        let mut values = self.checkpoint.tensor(name, &[width])?;
        let offset = self.checkpoint.spec.norm.weight_offset;
        values.iter_mut().for_each(|value| *value += offset);
        Ok(values)
    }

    fn projection(&mut self, source: &Source) -> Result<Projection, ModelError> {
        Ok(Projection {
            matrix: self.matrix(source)?,
            bias: source.bias(self.checkpoint)?,
        })
    }

    /// The next one of the file, or one that is packed now.
    fn matrix(&mut self, source: &Source) -> Result<PackedMatrix, ModelError> {
        let is_it = |matrix: &PackedMatrix| ([matrix.rows, matrix.columns], matrix.packing) == source.shape();
        match self.ready.next().filter(is_it) {
            Some(matrix) => Ok(matrix),
            None => source.pack(self.checkpoint, &mut self.pool),
        }
    }
}
