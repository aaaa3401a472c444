//! What a model takes of memory, before it is loaded or packed.

use std::path::Path;

use crate::architecture;
use crate::architecture::spec::NetworkSpec;
use crate::error::ModelError;
use crate::format::Checkpoint;
use crate::packed;
use crate::precision::{KvPrecision, Precision};
use crate::summary::ModelSummary;
use crate::template::Template;

/// The sizes of a model. What a step works in comes beside them: some vectors for each token of it.
#[derive(Debug)]
pub struct Footprint {
    spec: NetworkSpec,
    pub(crate) summary: ModelSummary,
}

impl Footprint {
    /// Looks at a model's files without reading its weights.
    ///
    /// # Errors
    /// As [`inspect`](crate::inspect).
    pub fn of(path: &Path) -> Result<Footprint, ModelError> {
        let checkpoint = Checkpoint::open(path)?;
        if let Some(source) = &checkpoint.template {
            Template::new(source).map_err(|problem| checkpoint.error(problem))?;
        }
        architecture::check(&checkpoint)?;
        Ok(Footprint {
            summary: checkpoint.summary(),
            spec: checkpoint.spec,
        })
    }

    /// What else is known of the model.
    pub fn summary(&self) -> &ModelSummary {
        &self.summary
    }

    /// Bytes of the weights at this precision, whether they are packed yet or not. (Norms and biases, which are little,
    /// are counted at f32 only.)
    pub fn weights_bytes(&self, precision: Precision) -> u64 {
        let Some(packing) = precision.packing() else {
            let weights = |shape: Vec<usize>| shape.iter().map(|&size| size as u64).product::<u64>();
            let weights: u64 = self.spec.tensors().map(|(_, shape)| weights(shape)).sum();
            return weights.saturating_mul(size_of::<f32>() as u64);
        };
        packed::packed_bytes(&self.spec, packing).unwrap_or(u64::MAX)
    }

    /// Bytes that the keys and values of a sequence of so many tokens take where the kernels compute it.
    pub fn cache_bytes(&self, tokens: usize, kv: KvPrecision) -> u64 {
        packed::cache_bytes(&self.spec, tokens, kv)
    }
}
