//! ggml's K types: 256 values in groups of 16 or 32, whose scales (and minima) are small integers under one 16-bit
//! scale for all.
//!
//! Where quants lie: a run of 32 bytes holds neighbouring values in the same bits of its bytes, so that SIMD code
//! unpacks a run at once. A group is a run's upper or lower half, or a whole run.

use super::float;

pub(super) const VALUES: usize = 256;
pub(super) const Q2_K_BYTES: usize = 16 + VALUES / 4 + 4;
pub(super) const Q3_K_BYTES: usize = VALUES / 8 + VALUES / 4 + 12 + 2;
pub(super) const Q4_K_BYTES: usize = 4 + 12 + VALUES / 2;
pub(super) const Q5_K_BYTES: usize = 4 + 12 + VALUES / 8 + VALUES / 2;
pub(super) const Q6_K_BYTES: usize = VALUES / 2 + VALUES / 4 + 16 + 2;

pub(super) fn q2_k(block: &[u8; Q2_K_BYTES], values: &mut [f32; VALUES]) {
    let [front @ .., d0, d1, m0, m1] = block;
    let (scales, quants) = front.split_at(16);
    let (all_scale, all_minimum) = (float(*d0, *d1), float(*m0, *m1));
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = all_scale * f32::from(scales[group] & 0x0F);
        let minimum = all_minimum * f32::from(scales[group] >> 4);
        let (quants, shift) = two_bits(quants, group);
        for (value, quant) in values.iter_mut().zip(quants) {
            *value = scale * f32::from(quant >> shift & 3) - minimum;
        }
    }
}

pub(super) fn q3_k(block: &[u8; Q3_K_BYTES], values: &mut [f32; VALUES]) {
    let [front @ .., d0, d1] = block;
    let (third_bits, rest) = front.split_at(VALUES / 8);
    let (quants, scales) = rest.split_at(VALUES / 4);
    let all_scale = float(*d0, *d1);
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 0x0F;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = all_scale * (f32::from(low | high << 4) - 32.0);
        let (quants, shift) = two_bits(quants, group);
        let third_bits = &third_bits[group % 2 * 16..][..16];
        let third_shift = group / 2;
        for ((value, quant), third) in values.iter_mut().zip(quants).zip(third_bits) {
            let quant = quant >> shift & 3 | (third >> third_shift & 1) << 2;
            *value = scale * (f32::from(quant) - 4.0);
        }
    }
}

pub(super) fn q4_k(block: &[u8; Q4_K_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, nibbles) = rest.split_at(12);
    let (all_scale, all_minimum) = (float(*d0, *d1), float(*m0, *m1));
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, group);
        let (scale, minimum) = (all_scale * scale, all_minimum * minimum);
        let nibbles = &nibbles[group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        for (value, nibble) in values.iter_mut().zip(nibbles) {
            *value = scale * f32::from(nibble >> shift & 0x0F) - minimum;
        }
    }
}

pub(super) fn q5_k(block: &[u8; Q5_K_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, rest) = rest.split_at(12);
    let (fifth_bits, nibbles) = rest.split_at(VALUES / 8);
    let (all_scale, all_minimum) = (float(*d0, *d1), float(*m0, *m1));
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, group);
        let (scale, minimum) = (all_scale * scale, all_minimum * minimum);
        let nibbles = &nibbles[group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        for ((value, nibble), fifth) in values.iter_mut().zip(nibbles).zip(fifth_bits) {
            let quant = nibble >> shift & 0x0F | (fifth >> group & 1) << 4;
            *value = scale * f32::from(quant) - minimum;
        }
    }
}

pub(super) fn q6_k(block: &[u8; Q6_K_BYTES], values: &mut [f32; VALUES]) {
    let [front @ .., d0, d1] = block;
    let (nibbles, rest) = front.split_at(VALUES / 2);
    let (upper_bits, scales) = rest.split_at(VALUES / 4);
    let all_scale = float(*d0, *d1);
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = all_scale * f32::from(scales[group].cast_signed());
        // Two runs of nibbles for 128 values: both runs' low nibbles come first.
        let nibbles = &nibbles[group / 8 * 64 + group % 4 * 16..][..16];
        let shift = group % 8 / 4 * 4;
        let (upper_bits, upper_shift) = two_bits(upper_bits, group);
        for ((value, nibble), upper) in values.iter_mut().zip(nibbles).zip(upper_bits) {
            let quant = nibble >> shift & 0x0F | (upper >> upper_shift & 3) << 4;
            *value = scale * (f32::from(quant) - 32.0);
        }
    }
}

/// The 16 bytes that hold two bits of each value of a group of 16, and how far to shift them down: a run of 32 bytes
/// serves 128 values.
fn two_bits(runs: &[u8], group: usize) -> (&[u8], usize) {
    let start = group / 8 * 32 + group % 2 * 16;
    (&runs[start..][..16], group % 8 / 2 * 2)
}

/// Eight scales and eight minima of 6 bits in 12 bytes: the first four of each lie in one byte each, the last four in
/// two nibbles whose upper two bits are what those bytes have left.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 0x3F, packed[group + 4] & 0x3F)
    } else {
        let low = packed[group + 4];
        (
            low & 0x0F | packed[group - 4] >> 6 << 4,
            low >> 4 | packed[group] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}
