//! The matrices of a network one after the other.

use super::PackedNetwork;
use crate::kernels::PackedMatrix;

impl PackedNetwork {
    /// Bytes of all weights.
    pub(crate) fn bytes(&self) -> usize {
        self.matrices().iter().map(|matrix| matrix.bytes().len()).sum()
    }

    /// Those that lie in files, a part for each matrix.
    pub(crate) fn mapped_weights(&self) -> Vec<&[u8]> {
        let matrices = self.matrices().into_iter();
        matrices.filter_map(PackedMatrix::mapped_bytes).collect()
    }

    /// In the order in which they are built, and in which files have them.
    pub(super) fn matrices(&self) -> Vec<&PackedMatrix> {
        let layers = self.layers.iter().flat_map(|layer| {
            [
                &layer.query_key_value.matrix,
                &layer.attention_output.matrix,
                &layer.gate_up.matrix,
                &layer.down.matrix,
            ]
        });
        layers.chain([&self.embedding]).chain(&self.output).collect()
    }

    /// The same.
    pub(super) fn matrices_mut(&mut self) -> Vec<&mut PackedMatrix> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.query_key_value.matrix,
                &mut layer.attention_output.matrix,
                &mut layer.gate_up.matrix,
                &mut layer.down.matrix,
            ]
        });
        let tables = [&mut self.embedding].into_iter().chain(&mut self.output);
        layers.chain(tables).collect()
    }
}
