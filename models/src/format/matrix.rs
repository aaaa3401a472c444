//! A matrix of a file, read row by row: it need not fit into memory as floats.

use half::{bf16, f16};

use super::Element;
use super::blocks::dequantise_into;

/// Outputs × inputs, in the file's own type.
pub(crate) struct Matrix<'c> {
    pub(super) bytes: &'c [u8],
    pub(super) element: &'c Element,
    pub(super) rows: usize,
}

impl Matrix<'_> {
    /// One row as floats; `into` has room for just that.
    pub(crate) fn row(&self, row: usize, into: &mut [f32]) {
        let size = self.bytes.len().checked_div(self.rows).unwrap_or(0);
        let Some(bytes) = self.bytes.get(row * size..(row + 1) * size) else {
            return;
        };
        match self.element {
            Element::F32 => each(bytes, into, f32::from_le_bytes),
            Element::F16 => each(bytes, into, |pair| f16::from_le_bytes(pair).to_f32()),
            Element::Bf16 => each(bytes, into, |pair| bf16::from_le_bytes(pair).to_f32()),
            Element::Blocks(block_type) => {
                let done = dequantise_into(*block_type, bytes, into);
                debug_assert!(done.is_ok(), "rows are whole blocks");
            }
            // Such a tensor was refused.
            Element::Other(_) => {}
        }
    }
}

fn each<const N: usize>(bytes: &[u8], into: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (into, chunk) in into.iter_mut().zip(chunks) {
        *into = element(*chunk);
    }
}
