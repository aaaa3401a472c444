//! The model families, one file each.

pub(crate) mod llama;

use crate::error::{ModelError, Problem};
use crate::format::Checkpoint;

/// Refuses the architectures that have no file here, by name.
pub(crate) fn check_known(architecture: &str) -> Result<(), Problem> {
    match architecture {
        "llama" => Ok(()),
        other => Err(Problem::UnknownArchitecture {
            architecture: other.to_owned(),
        }),
    }
}

/// Checks that the model's tensors are all there and fit its configuration; gives the vocabulary's size.
pub(crate) fn check(checkpoint: &Checkpoint) -> Result<usize, ModelError> {
    llama::Weights::check(checkpoint)
}
