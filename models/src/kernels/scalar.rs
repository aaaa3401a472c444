//! What every set of instructions must compute, to the bit.

use super::activations::Activations;
use super::pack::Panel;
use super::{BLOCK, PANEL_ROWS, Packing};

/// The products of a panel with one token.
pub(super) fn multiply(panel: Panel<'_>, activations: &Activations, token: usize) -> [f32; PANEL_ROWS] {
    let mut sums = [0.0_f32; PANEL_ROWS];
    for block in 0..panel.blocks {
        let columns = block * BLOCK..(block + 1) * BLOCK;
        match panel.packing {
            Packing::F16 => {
                for (column, value) in activations.floats_of(token)[columns].iter().enumerate() {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = panel.half(block, lane, column).mul_add(*value, *sum);
                    }
                }
            }
            Packing::Int8 | Packing::Int4 => {
                let values = &activations.quantised_of(token)[columns];
                let scale = activations.scales_of(token)[block];
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let products = values.iter().enumerate();
                    let products = products
                        .map(|(column, value)| panel.quantised(block, lane, column) * i32::from(*value));
                    *sum = (panel.scale(block, lane) * scale).mul_add(products.sum::<i32>() as f32, *sum);
                }
            }
        }
    }
    sums
}
