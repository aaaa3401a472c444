//! Activations as products want them: padded to whole blocks, and in 8 bits.

use super::math::whole;
use super::shared::Shared;
use super::{BLOCK, Pool};

/// Rows of activations, one a token.
///
/// Quantised as llama.cpp's Q8_0 is: the scale of a block is its largest magnitude over 127, kept in f32.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    pub(crate) tokens: usize,
    /// Columns, rounded up to whole blocks; those beyond the real ones are zeros.
    pub(crate) columns: usize,
    /// tokens × columns
    pub(crate) floats: Vec<f32>,
    /// tokens × columns
    pub(crate) quantised: Vec<i8>,
    /// tokens × blocks
    pub(crate) scales: Vec<f32>,
    /// tokens × blocks: the sums of the quantised values.
    pub(crate) sums: Vec<i32>,
}

impl Activations {
    /// Has `fill` write a row of `columns` values for each token. What was in it is forgotten, and its memory used
    /// again.
    pub(crate) fn fill(
        &mut self,
        pool: &mut Pool,
        tokens: usize,
        columns: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let padded = columns.next_multiple_of(BLOCK);
        let blocks = padded / BLOCK;
        (self.tokens, self.columns) = (tokens, padded);
        self.floats.resize(tokens * padded, 0.0);
        self.quantised.resize(tokens * padded, 0);
        self.scales.resize(tokens * blocks, 0.0);
        self.sums.resize(tokens * blocks, 0);
        let (floats, quantised) = (Shared::new(&mut self.floats), Shared::new(&mut self.quantised));
        let (scales, sums) = (Shared::new(&mut self.scales), Shared::new(&mut self.sums));
        pool.run(tokens, &|token| {
            #[allow(unsafe_code, reason = "threads write to places of their own")]
            // SAFETY: each token is one part of the pool's work, and has rows of its own in all four.
            let (floats, quantised, scales, sums) = unsafe {
                (
                    floats.part(token * padded, padded),
                    quantised.part(token * padded, padded),
                    scales.part(token * blocks, blocks),
                    sums.part(token * blocks, blocks),
                )
            };
            let (row, padding) = floats.split_at_mut(columns);
            fill(token, row);
            padding.fill(0.0);
            quantise(floats, quantised, scales, sums);
        });
    }

    /// Blocks of a row.
    pub(crate) fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    pub(super) fn floats_of(&self, token: usize) -> &[f32] {
        &self.floats[token * self.columns..(token + 1) * self.columns]
    }

    pub(super) fn quantised_of(&self, token: usize) -> &[i8] {
        &self.quantised[token * self.columns..(token + 1) * self.columns]
    }

    pub(super) fn scales_of(&self, token: usize) -> &[f32] {
        &self.scales[token * self.blocks()..(token + 1) * self.blocks()]
    }

    #[cfg(test)]
    pub(super) fn sums_of(&self, token: usize) -> &[i32] {
        &self.sums[token * self.blocks()..(token + 1) * self.blocks()]
    }
}

fn quantise(floats: &[f32], quantised: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let numbers = scales.iter_mut().zip(sums);
    let quantised = quantised.chunks_exact_mut(BLOCK);
    for ((block, quantised), (scale, sum)) in floats.chunks_exact(BLOCK).zip(quantised).zip(numbers) {
        let mut lanes = [0.0_f32; 8];
        for chunk in block.chunks_exact(8) {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = lane.max(value.abs());
            }
        }
        let largest = lanes.iter().fold(0.0_f32, |largest, lane| largest.max(*lane));
        *scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let mut total = 0;
        for (quantised, value) in quantised.iter_mut().zip(block) {
            *quantised = whole((value * inverse).clamp(-127.0, 127.0));
            total += i32::from(*quantised);
        }
        *sum = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_padded_with_zeros_and_loses_at_most_half_a_step() {
        let rows: Vec<f32> = (0..2 * 40).map(|n| (n as f32 * 0.37).sin() * 3.0).collect();
        let mut activations = Activations::default();
        let mut pool = Pool::new(2).unwrap();
        activations.fill(&mut pool, 2, 40, |token, row| {
            row.copy_from_slice(&rows[token * 40..(token + 1) * 40]);
        });
        assert_eq!((activations.tokens, activations.columns), (2, 64));
        for token in 0..2 {
            for column in 0..64 {
                let value = rows
                    .get(token * 40 + column)
                    .filter(|_| column < 40)
                    .unwrap_or(&0.0);
                let scale = activations.scales_of(token)[column / BLOCK];
                let back = f32::from(activations.quantised_of(token)[column]) * scale;
                assert!((back - value).abs() <= scale * 0.501, "{back} {value}");
            }
        }
        let sum: i32 = activations.quantised_of(1)[..32]
            .iter()
            .map(|q| i32::from(*q))
            .sum();
        assert_eq!(activations.sums_of(1)[0], sum);
    }
}
