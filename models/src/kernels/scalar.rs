//! What every set of instructions must compute, to the bit.

use super::activations::Tile;
use super::pack::Panel;
use super::{BLOCK, PANEL_ROWS, Packing};

/// The products of a panel with one token.
pub(super) fn multiply(panel: Panel<'_>, tile: Tile<'_>, token: usize) -> [f32; PANEL_ROWS] {
    let mut sums = [0.0_f32; PANEL_ROWS];
    for block in 0..panel.blocks {
        let columns = block * BLOCK..(block + 1) * BLOCK;
        match panel.packing {
            Packing::F16 => {
                for (within, column) in columns.enumerate() {
                    let value = tile.float(token, column);
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = panel.half(block, lane, within).mul_add(value, *sum);
                    }
                }
            }
            Packing::Int8 | Packing::Int4 => {
                let scale = tile.scale(token, block);
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let products = columns.clone().enumerate();
                    let products = products.map(|(within, column)| {
                        panel.quantised(block, lane, within) * i32::from(tile.quantised(token, column))
                    });
                    *sum = (panel.scale(block, lane) * scale).mul_add(products.sum::<i32>() as f32, *sum);
                }
            }
        }
    }
    sums
}
