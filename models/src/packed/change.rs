//! Another packing for a network that runs: a layer at a time is exchanged for that of another file, and between two of
//! them the network computes as ever. So memory is given back without a second network in it, and nobody has to begin anew.
//!
//! Each product goes by the packing of its own matrix, so that a network of which some layers are exchanged is as good as
//! any. The packed file is there already: nothing is packed here.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::PackedNetwork;
use super::file::Opened;
use super::sources::{OF_LAYER, of_tables};
use crate::error::{ModelError, Problem};
use crate::kernels::PackedMatrix;
use crate::precision::Precision;

/// A change that is under way.
#[derive(Debug)]
pub(super) struct Change {
    to: Precision,
    file: Opened,
    path: PathBuf,
    /// Layers that are exchanged; then comes the embedding, then the output.
    done: usize,
}

/// How far a model's weights are on their way to another precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeProgress {
    /// The precision they come to.
    pub to: Precision,
    /// Parts that have come to it.
    pub done: usize,
    /// All parts: the layers, the embedding, and the output matrix if there is one.
    pub of: usize,
}

impl PackedNetwork {
    /// Finds the packed file of this precision; nothing is exchanged yet. A change that is under way is given up where it
    /// stands.
    pub(crate) fn begin_change(&mut self, to: Precision) -> Result<ChangeProgress, Problem> {
        let missing = |why: &str| Problem::NotPacked {
            precision: to,
            why: why.to_owned(),
        };
        let packing = to
            .packing()
            .ok_or_else(|| missing("it runs on the model's own files"))?;
        let home = self.home.as_ref();
        let home = home.ok_or_else(|| missing("packed weights are kept nowhere"))?;
        let path = home.path(packing);
        let file = Opened::new(&path, &home.source).ok_or_else(|| {
            missing("there is no packed file, or it is damaged or of other files than the model's")
        })?;
        let matrices = self.matrices();
        let layers = self.layers.len() * OF_LAYER;
        let fits = |(number, matrix): (usize, &&PackedMatrix)| {
            let packing = if number < layers {
                packing
            } else {
                of_tables(packing)
            };
            file.shape(number) == Some(([matrix.rows, matrix.columns], packing))
        };
        if file.len() != matrices.len() || !matrices.iter().enumerate().all(fits) {
            return Err(missing("the packed file is of another network"));
        }
        self.change = Some(Change {
            to,
            file,
            path,
            done: 0,
        });
        Ok(self.progress(to, 0))
    }

    /// How far the change is, if one is under way.
    pub(crate) fn change(&self) -> Option<ChangeProgress> {
        let change = self.change.as_ref()?;
        Some(self.progress(change.to, change.done))
    }

    /// Exchanges one more part; none where no change is under way. The change is over with the last one, and with an
    /// error, which leaves the network with the parts that were exchanged before.
    pub(crate) fn advance_change(&mut self) -> Option<Result<ChangeProgress, ModelError>> {
        let mut change = self.change.take()?;
        if let Err(problem) = self.exchange(&change) {
            return Some(Err(ModelError::new(&change.path, problem)));
        }
        change.done += 1;
        let progress = self.progress(change.to, change.done);
        if progress.done < progress.of {
            self.change = Some(change);
        }
        Some(Ok(progress))
    }

    fn progress(&self, to: Precision, done: usize) -> ChangeProgress {
        ChangeProgress {
            to,
            done,
            of: self.layers.len() + 1 + usize::from(self.output.is_some()),
        }
    }

    /// The numbers of the matrices that a part has.
    fn part(&self, part: usize) -> std::ops::Range<usize> {
        let layers = self.layers.len();
        let start = part.min(layers) * OF_LAYER + part.saturating_sub(layers);
        start..start + if part < layers { OF_LAYER } else { 1 }
    }

    fn exchange(&mut self, change: &Change) -> Result<(), Problem> {
        let damaged =
            || Problem::Malformed("the packed weights are not what they were; pack them again".to_owned());
        let numbers = self.part(change.done);
        let mut matrices = Vec::with_capacity(numbers.len());
        for number in numbers {
            matrices.push((number, change.file.matrix(number).ok_or_else(damaged)?));
        }
        let mut present = self.matrices_mut();
        // What is packed so already is the same wherever it lies.
        matrices.retain(|(number, matrix)| {
            let present = present.get(*number);
            present.is_some_and(|present| present.packing != matrix.packing)
        });
        // What goes makes room for what comes. Should that be damaged, it is read again.
        for (number, _) in &matrices {
            if let Some(present) = present.get_mut(*number) {
                present.give_back()?;
            }
        }
        let bench = self.bench.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_whole = AtomicBool::new(true);
        bench.pool.run(matrices.len(), &|index| {
            let (number, matrix) = &matrices[index];
            if !change.file.is_whole(*number, matrix) {
                is_whole.store(false, Relaxed);
            }
        });
        if !is_whole.into_inner() {
            return Err(damaged());
        }
        let mut present = self.matrices_mut();
        for (number, matrix) in matrices {
            if let Some(present) = present.get_mut(number) {
                **present = matrix;
            }
        }
        self.prefetch(change);
        Ok(())
    }

    /// Has the system read what comes next while the network goes on.
    fn prefetch(&self, change: &Change) {
        let present = self.matrices();
        for number in self.part(change.done + 1) {
            let next = change.file.matrix(number);
            let next = next.filter(|next| {
                present
                    .get(number)
                    .is_some_and(|present| present.packing != next.packing)
            });
            if let Some(next) = next {
                next.prefetch();
            }
        }
    }
}
