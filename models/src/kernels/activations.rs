//! Activations as products want them: padded to whole blocks, and in 8 bits.

use super::BLOCK;

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
    /// Takes rows of `columns` values. What was in it is forgotten, and its memory used again.
    pub(crate) fn set(&mut self, rows: &[f32], columns: usize) {
        self.tokens = rows.len().checked_div(columns).unwrap_or(0);
        self.columns = columns.next_multiple_of(BLOCK);
        self.floats.clear();
        self.floats.resize(self.tokens * self.columns, 0.0);
        for (padded, row) in self
            .floats
            .chunks_exact_mut(self.columns.max(1))
            .zip(rows.chunks_exact(columns.max(1)))
        {
            padded[..columns].copy_from_slice(row);
        }
        self.quantise();
    }

    fn quantise(&mut self) {
        let blocks = self.floats.len() / BLOCK;
        self.quantised.resize(self.floats.len(), 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0);
        let quantised = self.quantised.chunks_exact_mut(BLOCK);
        let numbers = self.scales.iter_mut().zip(&mut self.sums);
        for ((block, quantised), (scale, sum)) in self.floats.chunks_exact(BLOCK).zip(quantised).zip(numbers)
        {
            let largest = block
                .iter()
                .fold(0.0_f32, |largest, value| largest.max(value.abs()));
            *scale = largest / 127.0;
            let inverse = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
            *sum = 0;
            for (quantised, value) in quantised.iter_mut().zip(block) {
                // A value that is no number becomes 0 here; its block's scale carries it on.
                *quantised = (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
                *sum += i32::from(*quantised);
            }
        }
    }

    /// Blocks of a row.
    pub(crate) fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    pub(crate) fn floats_of(&self, token: usize) -> &[f32] {
        &self.floats[token * self.columns..(token + 1) * self.columns]
    }

    pub(crate) fn quantised_of(&self, token: usize) -> &[i8] {
        &self.quantised[token * self.columns..(token + 1) * self.columns]
    }

    pub(crate) fn scales_of(&self, token: usize) -> &[f32] {
        &self.scales[token * self.blocks()..(token + 1) * self.blocks()]
    }

    pub(crate) fn sums_of(&self, token: usize) -> &[i32] {
        &self.sums[token * self.blocks()..(token + 1) * self.blocks()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_padded_with_zeros_and_loses_at_most_half_a_step() {
        let rows: Vec<f32> = (0..2 * 40).map(|n| (n as f32 * 0.37).sin() * 3.0).collect();
        let mut activations = Activations::default();
        activations.set(&rows, 40);
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
