//! Packing a model's weights into their file, a matrix at a time: so it takes little more memory than the largest of them,
//! and fits beside whatever runs.

use std::io;
use std::path::Path;

use super::draft::Draft;
use super::file::{self, Home};
use super::sources::{self, OF_LAYER};
use crate::error::{ModelError, Problem};
use crate::format::Checkpoint;
use crate::kernels::{Packing, Pool};

/// Why a file is not kept that was written without an error.
pub(super) const READ_DIFFERENTLY: &str = "they cannot be read back as they were written; check the disk";

/// Writes the packed file of a checked model; as a whole or not at all. An error inside is the disk's.
pub(super) fn write(
    checkpoint: &Checkpoint,
    packing: Packing,
    pool: &mut Pool,
    path: &Path,
    source: &str,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<io::Result<()>, ModelError> {
    let matrices = sources::of_network(&checkpoint.spec, packing);
    let shapes: Vec<_> = matrices.iter().map(|matrix| matrix.shape()).collect();
    let mut draft = match Draft::create(path, source, &shapes) {
        Ok(draft) => draft,
        Err(error) => return Ok(Err(error)),
    };
    let layers = checkpoint.spec.layers.len();
    let parts = layers + 1;
    for (number, matrix) in matrices.iter().enumerate() {
        if let Err(error) = draft.add(&matrix.pack(checkpoint, pool)?) {
            return Ok(Err(error));
        }
        let done = (number + 1) / OF_LAYER;
        if (number + 1).is_multiple_of(OF_LAYER) && done <= layers {
            progress(done, parts);
        }
    }
    progress(parts, parts);
    Ok(draft.finish())
}

/// Sees to it that the packed file of a checked model is there and whole, and says whether it had to be made.
pub(crate) fn keep_packed(
    checkpoint: &Checkpoint,
    packing: Packing,
    threads: usize,
    home: &Home,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<bool, ModelError> {
    let mut pool = Pool::new(threads).map_err(|error| checkpoint.error(Problem::from(error)))?;
    let path = home.path(packing);
    if file::open(&path, &home.source, &mut pool).is_some() {
        return Ok(false);
    }
    let not_kept = |why: String| ModelError::new(&path, Problem::NotKept(why));
    write(checkpoint, packing, &mut pool, &path, &home.source, progress)?
        .map_err(|error| not_kept(error.to_string()))?;
    match file::open(&path, &home.source, &mut pool) {
        Some(_) => Ok(true),
        None => Err(not_kept(READ_DIFFERENTLY.to_owned())),
    }
}
