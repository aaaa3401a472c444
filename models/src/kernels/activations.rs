//! Activations as products want them: padded to whole pairs of blocks, in floats or in 8 bits, in tiles of some tokens.

use super::math::whole;
use super::pack::{GROUP, INT4_OFFSET, INT8_OFFSET};
use super::shared::Shared;
use super::{BLOCK, Instructions, PADDING, Packing, Pool};

/// Rows of activations, one a token.
///
/// Quantised as llama.cpp's Q8_0 is: the scale of a block is its largest magnitude over 127, kept in f32.
///
/// Tokens lie in *tiles* of about as many as a kernel multiplies at once: what the tokens of a tile have in the same
/// columns lies together, so that a kernel reads on and on from one place.
#[derive(Debug)]
pub(crate) struct Activations {
    pub(crate) tokens: usize,
    /// Columns, rounded up to whole pairs of blocks; those beyond the real ones are zeros.
    pub(crate) columns: usize,
    /// The most tokens of a tile.
    tile: usize,
    /// Whether the weights that they meet are quantised, and so these as well.
    is_quantised: bool,
    /// Tiles × columns × tokens, where weights are floats.
    floats: Vec<f32>,
    /// Tiles × groups of columns × tokens × columns of a group.
    quantised: Vec<i8>,
    /// Tiles × blocks × tokens.
    scales: Vec<f32>,
    /// Tiles × blocks × tokens: what the sums of products have too much where 4-bit weights are kept without a sign.
    int4_offsets: Vec<i32>,
    /// The same where 8-bit weights are taken without a sign.
    int8_offsets: Vec<i32>,
}

/// Some tokens' activations. As in [`Activations`], without the tiles.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) tokens: usize,
    pub(super) columns: usize,
    pub(super) floats: &'a [f32],
    pub(super) quantised: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) int4_offsets: &'a [i32],
    #[allow(dead_code, reason = "not every processor's kernels need it")]
    pub(super) int8_offsets: &'a [i32],
}

impl Activations {
    /// For a kernel.
    pub(crate) fn new(instructions: Instructions) -> Self {
        Self {
            tokens: 0,
            columns: 0,
            tile: instructions.tile(),
            is_quantised: false,
            floats: Vec::new(),
            quantised: Vec::new(),
            scales: Vec::new(),
            int4_offsets: Vec::new(),
            int8_offsets: Vec::new(),
        }
    }

    /// Has `fill` write a row of `columns` values for each token, for a product with weights that are packed so. What was
    /// in it is forgotten, and its memory used again.
    pub(crate) fn fill(
        &mut self,
        pool: &mut Pool,
        packing: Packing,
        [tokens, columns]: [usize; 2],
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let padded = columns.next_multiple_of(PADDING);
        let blocks = padded / BLOCK;
        (self.tokens, self.columns) = (tokens, padded);
        self.is_quantised = packing != Packing::F16;
        let (floats, bytes) = if self.is_quantised {
            (0, padded)
        } else {
            (padded, 0)
        };
        let blocks = if self.is_quantised { blocks } else { 0 };
        self.floats.resize(tokens * floats, 0.0);
        self.quantised.resize(tokens * bytes, 0);
        for numbers in [&mut self.int4_offsets, &mut self.int8_offsets] {
            numbers.resize(tokens * blocks, 0);
        }
        self.scales.resize(tokens * blocks, 0.0);
        let (tile, is_quantised) = (self.tile, self.is_quantised);
        let (floats, quantised) = (Shared::new(&mut self.floats), Shared::new(&mut self.quantised));
        let scales = Shared::new(&mut self.scales);
        let int4_offsets = Shared::new(&mut self.int4_offsets);
        let int8_offsets = Shared::new(&mut self.int8_offsets);
        pool.run(tokens, &|token| {
            let (first, width) = tile_of(token, tokens, tile);
            let within = token - first;
            let mut row = vec![0.0; padded];
            fill(token, &mut row[..columns]);
            #[allow(unsafe_code, reason = "threads write to places of their own")]
            // SAFETY: each token is one part of the pool's work, and places of different tokens differ in `within` or
            // in the tile. They lie in the tile, and so in the slice: `number` is below the blocks or columns.
            unsafe {
                if !is_quantised {
                    for (column, value) in row.iter().enumerate() {
                        floats.put(first * padded + column * width + within, *value);
                    }
                    return;
                }
                for (number, block) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let Quantised { scale, values, sum } = quantise_quickly(block);
                    let at = first * blocks + number * width + within;
                    scales.put(at, scale);
                    int4_offsets.put(at, -INT4_OFFSET * sum);
                    int8_offsets.put(at, -INT8_OFFSET * sum);
                    for (group, values) in values.as_chunks::<GROUP>().0.iter().enumerate() {
                        let group = number * (BLOCK / GROUP) + group;
                        let at = first * padded + (group * width + within) * GROUP;
                        quantised.part(at, GROUP).copy_from_slice(values);
                    }
                }
            }
        });
    }

    /// Where the tile of a token begins, and how many tokens it has.
    pub(super) fn tile_at(&self, token: usize) -> (usize, usize) {
        tile_of(token, self.tokens, self.tile)
    }

    /// Whether they can meet weights that are packed so.
    pub(super) fn suit(&self, packing: Packing) -> bool {
        self.is_quantised == (packing != Packing::F16)
    }

    /// The tile whose first token is `first`.
    pub(super) fn tile(&self, first: usize) -> Tile<'_> {
        let (first, tokens) = self.tile_at(first);
        let blocks = self.columns / BLOCK;
        let (floats, bytes, blocks) = if self.is_quantised {
            (0, self.columns, blocks)
        } else {
            (self.columns, 0, 0)
        };
        let part = |each: usize| first * each..(first + tokens) * each;
        Tile {
            tokens,
            columns: self.columns,
            floats: &self.floats[part(floats)],
            quantised: &self.quantised[part(bytes)],
            scales: &self.scales[part(blocks)],
            int4_offsets: &self.int4_offsets[part(blocks)],
            int8_offsets: &self.int8_offsets[part(blocks)],
        }
    }
}

impl Tile<'_> {
    pub(super) fn float(&self, token: usize, column: usize) -> f32 {
        self.floats[column * self.tokens + token]
    }

    pub(super) fn quantised(&self, token: usize, column: usize) -> i8 {
        let (group, within) = (column / GROUP, column % GROUP);
        self.quantised[(group * self.tokens + token) * GROUP + within]
    }

    pub(super) fn scale(&self, token: usize, block: usize) -> f32 {
        self.scales[block * self.tokens + token]
    }
}

/// Where the tile of a token begins, and how many tokens it has: of tiles with at most `most` tokens as few as possible,
/// and those of nearly the same width, since a kernel is the slower for each token the fewer there are.
fn tile_of(token: usize, tokens: usize, most: usize) -> (usize, usize) {
    let tiles = tokens.div_ceil(most);
    let (narrow, wider) = (tokens / tiles, tokens % tiles);
    let in_wider = wider * (narrow + 1);
    if token < in_wider {
        (token / (narrow + 1) * (narrow + 1), narrow + 1)
    } else {
        (in_wider + (token - in_wider) / narrow * narrow, narrow)
    }
}

/// A block in 8 bits.
pub(super) struct Quantised {
    scale: f32,
    values: [i8; BLOCK],
    sum: i32,
}

/// [`quantise`] with wider instructions where there are some: the numbers are the same.
fn quantise_quickly(block: &[f32; BLOCK]) -> Quantised {
    #[cfg(target_arch = "x86_64")]
    if super::avx2::is_there() {
        #[allow(unsafe_code, reason = "instructions that not every processor has")]
        // SAFETY: it was looked just now whether they are there.
        return unsafe { super::avx2::quantise(block) };
    }
    quantise(block)
}

#[inline(always)]
pub(super) fn quantise(block: &[f32; BLOCK]) -> Quantised {
    let mut lanes = [0.0_f32; 8];
    for chunk in block.as_chunks::<8>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(value.abs());
        }
    }
    let largest = lanes.iter().fold(0.0_f32, |largest, lane| largest.max(*lane));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut values = [0; BLOCK];
    for (quantised, value) in values.iter_mut().zip(block) {
        *quantised = whole((value * inverse).clamp(-127.0, 127.0));
    }
    Quantised {
        scale: largest / 127.0,
        values,
        sum: values.iter().map(|value| i32::from(*value)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_follow_each_other_and_are_of_nearly_the_same_width() {
        for tokens in 1..100 {
            let mut next = 0;
            let mut widths = Vec::new();
            while next < tokens {
                let (first, width) = tile_of(next, tokens, 12);
                assert_eq!(first, next);
                assert!((first..first + width).all(|token| tile_of(token, tokens, 12) == (first, width)));
                widths.push(width);
                next += width;
            }
            assert_eq!(next, tokens);
            let (least, most) = (widths.iter().min().unwrap(), widths.iter().max().unwrap());
            assert!(*most <= 12 && most - least <= 1, "{widths:?}");
        }
    }

    #[test]
    fn a_row_is_padded_with_zeros_and_loses_at_most_half_a_step() {
        for tokens in [1, 2, 9] {
            let rows: Vec<f32> = (0..tokens * 40).map(|n| (n as f32 * 0.37).sin() * 3.0).collect();
            let mut pool = Pool::new(2).unwrap();
            let mut both = [Packing::Int8, Packing::F16]
                .map(|packing| (packing, Activations::new(Instructions::Scalar)));
            for (packing, activations) in &mut both {
                activations.fill(&mut pool, *packing, [tokens, 40], |token, row| {
                    row.copy_from_slice(&rows[token * 40..(token + 1) * 40]);
                });
                assert_eq!((activations.tokens, activations.columns), (tokens, 64));
            }
            let both = both.map(|(_, activations)| activations);
            for token in 0..tokens {
                let (first, _) = both[0].tile_at(token);
                let (quantised, exact) = (both[0].tile(first), both[1].tile(first));
                let within = token - first;
                for column in 0..64 {
                    let value = rows
                        .get(token * 40 + column)
                        .filter(|_| column < 40)
                        .unwrap_or(&0.0);
                    let scale = quantised.scale(within, column / BLOCK);
                    let back = f32::from(quantised.quantised(within, column)) * scale;
                    assert!((back - value).abs() <= scale * 0.501, "{back} {value}");
                    assert_eq!(exact.float(within, column), *value);
                }
                let sum: i32 = (0..BLOCK)
                    .map(|n| i32::from(quantised.quantised(within, n)))
                    .sum();
                assert_eq!(quantised.int4_offsets[within], -8 * sum);
                assert_eq!(quantised.int8_offsets[within], -128 * sum);
            }
        }
    }
}
