//! Weights in the order in which products read them.

use std::io;
use std::ops::Range;

use half::f16;

use super::math::{round, whole};
use super::shared::Shared;
use super::{BLOCK, PADDING, PANEL_ROWS, Packing, Pool};
use crate::format::mapped::MappedPart;

/// Columns of a block that one instruction multiplies and adds for each row.
pub(super) const GROUP: usize = 4;
const GROUPS: usize = BLOCK / GROUP;
/// Weights begin at such addresses, so that no load goes across two lines of a cache.
const LINE_BYTES: usize = 64;
/// What a 4-bit weight has added, so that it is not negative.
pub(super) const INT4_OFFSET: i32 = 8;
/// What an 8-bit weight gets added where instructions want it without a sign.
pub(super) const INT8_OFFSET: i32 = 128;

/// Half of a panel: what one 256-bit register has of four columns.
const HALF: usize = PANEL_ROWS / 2;

/// A matrix of outputs × inputs, packed. Panel after panel, in each block after block of columns:
///
/// - `f16`: for each column, the 16 rows' values.
/// - `int8`: for each group of 4 columns, first of rows 0–7, then of rows 8–15: a row's 4 values.
/// - `int4`: for each group of 4 columns: a byte for each of rows 0–7 and each of its 4 values, with that row's value in
///   the low half and that of the row 8 further on in the high half, both 8 more than they are.
///
/// Two blocks have their scales, for each block 16 as f16, in front of their weights. Rows and columns that are not
/// there, at the end, are zeros.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) packing: Packing,
    storage: Storage,
    /// Where it begins and ends in that.
    range: Range<usize>,
}

/// Where the bytes are.
#[derive(Debug)]
enum Storage {
    Memory(Vec<u8>),
    File(MappedPart),
}

/// What 16 rows have.
#[derive(Clone, Copy)]
pub(super) struct Panel<'p> {
    pub(super) packing: Packing,
    /// Blocks of columns; always pairs.
    pub(super) blocks: usize,
    pub(super) bytes: &'p [u8],
}

impl Packing {
    /// Bytes of a panel from the beginning of one pair of blocks to that of the next.
    pub(super) const fn pair_bytes(self) -> usize {
        2 * (self.weights_bytes() + self.scales_bytes())
    }

    /// Where in a panel the weights of a block begin.
    pub(super) const fn weights_at(self, block: usize) -> usize {
        block / 2 * self.pair_bytes() + 2 * self.scales_bytes() + block % 2 * self.weights_bytes()
    }

    /// Where in a panel its scales begin.
    pub(super) const fn scales_at(self, block: usize) -> usize {
        block / 2 * self.pair_bytes() + block % 2 * self.scales_bytes()
    }
}

impl<'p> Panel<'p> {
    /// The weights of one block.
    fn block(&self, block: usize) -> &'p [u8] {
        let start = self.packing.weights_at(block);
        &self.bytes[start..start + self.packing.weights_bytes()]
    }

    pub(super) fn scale(&self, block: usize, lane: usize) -> f32 {
        half_at(&self.bytes[self.packing.scales_at(block)..], lane)
    }

    /// One weight that is a half.
    pub(super) fn half(&self, block: usize, lane: usize, column: usize) -> f32 {
        half_at(self.block(block), column * PANEL_ROWS + lane)
    }

    /// One quantised weight.
    pub(super) fn quantised(&self, block: usize, lane: usize, column: usize) -> i32 {
        let weights = self.block(block);
        let (group, within) = (column / GROUP, column % GROUP);
        if self.packing == Packing::Int4 {
            let byte = weights[group * HALF * GROUP + lane % HALF * GROUP + within];
            let half = if lane < HALF { byte & 15 } else { byte >> 4 };
            return i32::from(half) - INT4_OFFSET;
        }
        let half = lane / HALF;
        i32::from(weights[(group * 2 + half) * HALF * GROUP + lane % HALF * GROUP + within] as i8)
    }
}

/// Blocks of so many columns.
fn blocks_of(columns: usize) -> usize {
    columns.div_ceil(PADDING) * (PADDING / BLOCK)
}

/// Bytes from the beginning of one panel to that of the next.
fn panel_bytes(packing: Packing, blocks: usize) -> usize {
    blocks / 2 * packing.pair_bytes()
}

impl PackedMatrix {
    /// Packs rows of `columns` values, each of which `row` writes.
    pub(crate) fn pack(
        pool: &mut Pool,
        packing: Packing,
        rows: usize,
        columns: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> PackedMatrix {
        let blocks = blocks_of(columns);
        let panel_bytes = panel_bytes(packing, blocks);
        let panels = rows.div_ceil(PANEL_ROWS);
        let mut bytes = vec![0_u8; panels * panel_bytes + LINE_BYTES];
        let start = bytes.as_ptr().align_offset(LINE_BYTES).min(LINE_BYTES);
        let padded = blocks * BLOCK;
        let packed = Shared::new(&mut bytes);
        pool.run(panels, &|panel| {
            #[allow(unsafe_code, reason = "threads write to places of their own")]
            // SAFETY: each panel is one part of the pool's work, and has bytes of its own.
            let packed = unsafe { packed.part(start + panel * panel_bytes, panel_bytes) };
            let mut values = vec![0.0; PANEL_ROWS * padded];
            for (lane, values) in values.chunks_exact_mut(padded.max(1)).enumerate() {
                let number = panel * PANEL_ROWS + lane;
                if number < rows {
                    row(number, &mut values[..columns]);
                }
            }
            for (pair, packed) in packed.chunks_exact_mut(packing.pair_bytes()).enumerate() {
                let (scales, weights) = packed.split_at_mut(2 * packing.scales_bytes());
                let (scale_bytes, weight_bytes) = (packing.scales_bytes(), packing.weights_bytes());
                for (half, weights) in weights.chunks_exact_mut(weight_bytes).enumerate() {
                    let of_lane = |lane: usize| {
                        let start = lane * padded + (pair * 2 + half) * BLOCK;
                        &values[start..start + BLOCK]
                    };
                    let scales = &mut scales[half * scale_bytes..(half + 1) * scale_bytes];
                    pack_block_quickly(packing, weights, scales, of_lane);
                }
            }
        });
        PackedMatrix {
            rows,
            columns,
            packing,
            storage: Storage::Memory(bytes),
            range: start..start + panels * panel_bytes,
        }
    }

    /// One that lies packed in a file; none where it cannot have so many bytes.
    pub(crate) fn mapped(
        part: MappedPart,
        [rows, columns]: [usize; 2],
        packing: Packing,
    ) -> Option<PackedMatrix> {
        let bytes = part.bytes().len();
        (Self::bytes_of([rows, columns], packing) == Some(bytes)).then_some(PackedMatrix {
            rows,
            columns,
            packing,
            storage: Storage::File(part),
            range: 0..bytes,
        })
    }

    /// What one of this shape takes; none where that is more than there is.
    pub(crate) fn bytes_of([rows, columns]: [usize; 2], packing: Packing) -> Option<usize> {
        let pairs = columns.div_ceil(PADDING);
        let panel_bytes = pairs.checked_mul(packing.pair_bytes())?;
        rows.div_ceil(PANEL_ROWS).checked_mul(panel_bytes)
    }

    /// All panels.
    pub(crate) fn bytes(&self) -> &[u8] {
        let all: &[u8] = match &self.storage {
            Storage::Memory(bytes) => bytes,
            Storage::File(part) => part.bytes(),
        };
        &all[self.range.clone()]
    }

    /// What of it lies in a file.
    pub(crate) fn mapped_bytes(&self) -> Option<&[u8]> {
        match &self.storage {
            Storage::Memory(_) => None,
            Storage::File(part) => Some(part.bytes()),
        }
    }

    /// Has the system read it in the background, if it lies in a file.
    pub(crate) fn prefetch(&self) {
        if let Storage::File(part) = &self.storage {
            part.prefetch();
        }
    }

    /// Gives the memory back at once, if it lies in a file; it is read again as it is used.
    ///
    /// # Errors
    /// The system's; nothing has changed then.
    pub(crate) fn give_back(&mut self) -> io::Result<()> {
        match &mut self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::File(part) => part.give_back(),
        }
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let blocks = blocks_of(self.columns);
        let size = panel_bytes(self.packing, blocks);
        Panel {
            packing: self.packing,
            blocks,
            bytes: &self.bytes()[panel * size..(panel + 1) * size],
        }
    }

    /// One row, as floats again.
    pub(crate) fn row(&self, row: usize, into: &mut [f32]) {
        let panel = self.panel(row / PANEL_ROWS);
        let lane = row % PANEL_ROWS;
        for (column, value) in into.iter_mut().enumerate() {
            let (block, column) = (column / BLOCK, column % BLOCK);
            *value = match self.packing {
                Packing::F16 => panel.half(block, lane, column),
                Packing::Int8 | Packing::Int4 => {
                    panel.scale(block, lane) * panel.quantised(block, lane, column) as f32
                }
            };
        }
    }
}

fn half_at(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[index * 2], bytes[index * 2 + 1]]).to_f32()
}

/// [`pack_block`] with wider instructions where there are some; the compiler fuses and reorders nothing, so that the
/// numbers stay the same.
fn pack_block_quickly<'v>(
    packing: Packing,
    weights: &mut [u8],
    scales: &mut [u8],
    lane: impl Fn(usize) -> &'v [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if super::avx2::is_there() {
        #[allow(unsafe_code, reason = "instructions that not every processor has")]
        // SAFETY: it was looked just now whether they are there.
        unsafe {
            super::avx2::pack_block(packing, weights, scales, lane);
        }
        return;
    }
    pack_block(packing, weights, scales, lane);
}

#[inline(always)]
pub(super) fn pack_block<'v>(
    packing: Packing,
    weights: &mut [u8],
    scales: &mut [u8],
    lane: impl Fn(usize) -> &'v [f32],
) {
    if packing == Packing::F16 {
        for row in 0..PANEL_ROWS {
            for (column, value) in lane(row).iter().enumerate() {
                let at = (column * PANEL_ROWS + row) * 2;
                weights[at..at + 2].copy_from_slice(&f16::from_f32(*value).to_le_bytes());
            }
        }
        return;
    }
    for row in 0..PANEL_ROWS {
        let values = lane(row);
        let (scale, quantised) = match packing {
            Packing::Int4 => int4(values),
            _ => int8(values),
        };
        scales[row * 2..row * 2 + 2].copy_from_slice(&scale.to_le_bytes());
        for group in 0..GROUPS {
            for within in 0..GROUP {
                let value = quantised[group * GROUP + within];
                let lane_at = row % HALF * GROUP + within;
                if packing == Packing::Int4 {
                    let byte = &mut weights[group * HALF * GROUP + lane_at];
                    let half = (i32::from(value) + INT4_OFFSET) as u8;
                    *byte |= if row < HALF { half } else { half << 4 };
                } else {
                    weights[(group * 2 + row / HALF) * HALF * GROUP + lane_at] = value as u8;
                }
            }
        }
    }
}

/// Symmetric, −127 to 127.
#[inline(always)]
fn int8(values: &[f32]) -> (f16, [i8; BLOCK]) {
    let largest = values
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    // Rounded up, so that the largest value still fits.
    let scale = f16::from_f32(largest / 127.0);
    (scale, quantised(values, scale, [-127.0, 127.0]))
}

/// −8 to 7. Q4_0 takes the value that is largest by magnitude for −8; here also scales beside that one are tried, and
/// the one with the least squared error is taken.
#[inline(always)]
fn int4(values: &[f32]) -> (f16, [i8; BLOCK]) {
    let extreme = values.iter().fold(0.0_f32, |extreme, value| {
        if value.abs() > extreme.abs() {
            *value
        } else {
            extreme
        }
    });
    let (mut best, mut least) = (f16::ZERO, f32::INFINITY);
    for step in 0..SCALES_TRIED {
        // The divisor goes from −8.9 to −6.8, −8 among them, and its mirror image.
        let divisor = -8.9 + 0.3 * (step / 2) as f32;
        let divisor = if step % 2 == 0 { divisor } else { -divisor };
        let scale = f16::from_f32(extreme / divisor);
        let error = squared_error(values, scale, INT4_RANGE);
        if error < least {
            (least, best) = (error, scale);
        }
    }
    (best, quantised(values, best, INT4_RANGE))
}

const INT4_RANGE: [f32; 2] = [-8.0, 7.0];

/// What values lose at this scale. In lanes, so that the compiler makes vectors of it.
#[inline(always)]
fn squared_error(values: &[f32], scale: f16, [least, most]: [f32; 2]) -> f32 {
    let (scale, inverse) = with_inverse(scale);
    let mut lanes = [0.0_f32; 8];
    for values in values.as_chunks::<8>().0 {
        let whole = values.map(|value| round((value * inverse).max(least).min(most)));
        for ((lane, value), whole) in lanes.iter_mut().zip(values).zip(whole) {
            let error = value - whole * scale;
            *lane += error * error;
        }
    }
    lanes.iter().sum()
}

const SCALES_TRIED: usize = 16;

#[inline(always)]
fn quantised(values: &[f32], scale: f16, [least, most]: [f32; 2]) -> [i8; BLOCK] {
    let (_, inverse) = with_inverse(scale);
    let mut quantised = [0; BLOCK];
    for (quantised, value) in quantised.iter_mut().zip(values) {
        *quantised = whole((value * inverse).clamp(least, most));
    }
    quantised
}

/// A scale and what to multiply with instead of dividing by it.
#[inline(always)]
fn with_inverse(scale: f16) -> (f32, f32) {
    let scale = scale.to_f32();
    let has_inverse = scale != 0.0 && scale.is_finite();
    (scale, if has_inverse { 1.0 / scale } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a block loses as llama.cpp's Q4_0 has it: the value that is largest by magnitude becomes −8.
    fn lost_by_q4_0(values: &[f32]) -> f32 {
        let extreme = values
            .iter()
            .copied()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()))
            .unwrap();
        let scale = f16::from_f32(extreme / -8.0).to_f32();
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let lost =
            |value: &f32| (value - ((value * inverse + 8.5).floor().clamp(0.0, 15.0) - 8.0) * scale).powi(2);
        values.iter().map(lost).sum()
    }

    proptest! {
        #[test]
        fn four_bits_lose_no_more_than_llama_cpps_q4_0(
            values in prop::collection::vec(-1.0..1.0_f32, BLOCK),
            exponent in -10..10_i32,
        ) {
            let values: Vec<f32> = values.iter().map(|value| value * 2_f32.powi(exponent)).collect();
            let (scale, quantised) = int4(&values);
            let lost = values.iter().zip(quantised);
            let lost: f32 = lost
                .map(|(value, quantised)| (value - f32::from(quantised) * scale.to_f32()).powi(2))
                .sum();
            let q4_0 = lost_by_q4_0(&values);
            // Values half way between two steps go to the other side here, where Q4_0 rounds up.
            prop_assert!(lost <= q4_0 * 1.01, "{lost} {q4_0}");
        }
    }
}
