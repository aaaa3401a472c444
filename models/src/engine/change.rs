//! Another precision while sequences run: part by part, and between two parts everybody goes on.
//!
//! What sequences have computed stays as it is, so that nobody waits for it to be computed again. Their next tokens are
//! those of neither precision; what begins after the last part is answered as by an engine that was loaded so. Therefore
//! pages are shared only among sequences that began under the same weights (the generation), and what ended ones
//! have left is let go of.

use super::Engine;
use crate::error::ModelError;
use crate::packed::ChangeProgress;
use crate::precision::Precision;

impl Engine {
    /// Begins to bring the weights to another precision that is packed already; nothing is packed here. Then
    /// [`advance_change`](Self::advance_change) exchanges part after part, and [`step`](Self::step) may come between any
    /// two. A change that is under way is given up where it stands, so that one can go back half way.
    ///
    /// # Errors
    /// [`Problem::NotPacked`](crate::Problem::NotPacked) where the packed file is not there, is stale, or the engine has no
    /// directory of them; everything stays as it was.
    pub fn begin_change(&mut self, to: Precision) -> Result<ChangeProgress, ModelError> {
        self.model.begin_change(to)
    }

    /// Exchanges one more part of the weights (a layer, the embedding, the output matrix) and gives the memory of the old
    /// one back at once, before the new one is read. None where no change is under way; with the last part
    /// [`summary`](Self::summary) says the new precision.
    ///
    /// # Errors
    /// A [`ModelError`] where the packed file turns out to be damaged. The change is over then; sequences go on with the
    /// parts that there are, until [`begin_change`](Self::begin_change) brings all of them to the end or back.
    pub fn advance_change(&mut self) -> Option<Result<ChangeProgress, ModelError>> {
        let progress = self.model.advance_change()?;
        self.generation += 1;
        self.prefixes.evict_all();
        Some(progress)
    }

    /// How far a change is, while one is under way.
    pub fn change(&self) -> Option<ChangeProgress> {
        self.model.change()
    }
}
