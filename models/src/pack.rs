//! Packing a model's weights without loading it.

use std::path::Path;

use crate::architecture;
use crate::error::{ModelError, Problem};
use crate::format::Checkpoint;
use crate::packed::file::Home;
use crate::packed::keep_packed;
use crate::precision::Precision;

/// Packs a model's weights at a precision into the directory where [`LoadOptions`](crate::LoadOptions) finds them, unless
/// they are there already, and tells how many parts are done, and of how many. Says whether anything had to be done. It
/// takes little more memory than the largest matrix.
///
/// # Errors
/// A [`ModelError`]: of the model's files; [`Problem::NotKept`] where the packed file could not be written, which is not
/// there then; [`Problem::Unsupported`] for f32, which is not packed.
pub fn pack(
    path: &Path,
    precision: Precision,
    threads: usize,
    directory: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<bool, ModelError> {
    let checkpoint = Checkpoint::open(path)?;
    architecture::check(&checkpoint)?;
    let packing = precision.packing().ok_or_else(|| {
        checkpoint.error(Problem::Unsupported {
            what: format!("{precision} runs on the model's own files, and there is nothing to pack"),
            remedy: "choose f16, int8 or int4",
        })
    })?;
    let home = Home::of(&checkpoint, directory);
    keep_packed(&checkpoint, packing, threads, &home, progress)
}
