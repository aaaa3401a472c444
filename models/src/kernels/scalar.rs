//! What every set of instructions must compute, to the bit.

use super::activations::Activations;
use super::pack::{half_at, quantised_of};
use super::{BLOCK, PANEL_ROWS, Packing};

/// The products of a panel with one token.
pub(super) fn multiply(
    packing: Packing,
    panel: &[u8],
    activations: &Activations,
    token: usize,
) -> [f32; PANEL_ROWS] {
    let mut sums = [0.0_f32; PANEL_ROWS];
    let blocks = panel.chunks_exact(packing.block_bytes());
    for (number, block) in blocks.enumerate() {
        let columns = number * BLOCK..(number + 1) * BLOCK;
        match packing {
            Packing::F16 => {
                for (column, value) in activations.floats_of(token)[columns].iter().enumerate() {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = half_at(block, column * PANEL_ROWS + lane).mul_add(*value, *sum);
                    }
                }
            }
            Packing::Int8 | Packing::Int4 => {
                let values = &activations.quantised_of(token)[columns];
                let scale = activations.scales_of(token)[number];
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let product: i32 = values
                        .iter()
                        .enumerate()
                        .map(|(column, value)| quantised_of(packing, block, lane, column) * i32::from(*value))
                        .sum();
                    *sum = (half_at(block, lane) * scale).mul_add(product as f32, *sum);
                }
            }
        }
    }
    sums
}
