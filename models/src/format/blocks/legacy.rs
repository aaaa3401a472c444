//! ggml's first block types: 32 values with one scale, and perhaps one minimum.

use super::float;

pub(super) const VALUES: usize = 32;
pub(super) const Q4_0_BYTES: usize = 2 + VALUES / 2;
pub(super) const Q4_1_BYTES: usize = 2 + Q4_0_BYTES;
pub(super) const Q5_0_BYTES: usize = Q4_0_BYTES + VALUES / 8;
pub(super) const Q5_1_BYTES: usize = Q4_1_BYTES + VALUES / 8;
pub(super) const Q8_0_BYTES: usize = 2 + VALUES;

pub(super) fn q4_0(block: &[u8; Q4_0_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, nibbles @ ..] = block;
    let scale = float(*d0, *d1);
    for (value, quant) in values.iter_mut().zip(quants(nibbles, 0)) {
        *value = (f32::from(quant) - 8.0) * scale;
    }
}

pub(super) fn q4_1(block: &[u8; Q4_1_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, m0, m1, nibbles @ ..] = block;
    let (scale, minimum) = (float(*d0, *d1), float(*m0, *m1));
    for (value, quant) in values.iter_mut().zip(quants(nibbles, 0)) {
        *value = f32::from(quant) * scale + minimum;
    }
}

pub(super) fn q5_0(block: &[u8; Q5_0_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, h0, h1, h2, h3, nibbles @ ..] = block;
    let scale = float(*d0, *d1);
    let fifth_bits = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    for (value, quant) in values.iter_mut().zip(quants(nibbles, fifth_bits)) {
        *value = (f32::from(quant) - 16.0) * scale;
    }
}

pub(super) fn q5_1(block: &[u8; Q5_1_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, nibbles @ ..] = block;
    let (scale, minimum) = (float(*d0, *d1), float(*m0, *m1));
    let fifth_bits = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    for (value, quant) in values.iter_mut().zip(quants(nibbles, fifth_bits)) {
        *value = f32::from(quant) * scale + minimum;
    }
}

pub(super) fn q8_0(block: &[u8; Q8_0_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, quants @ ..] = block;
    let scale = float(*d0, *d1);
    for (value, quant) in values.iter_mut().zip(quants) {
        *value = f32::from(quant.cast_signed()) * scale;
    }
}

/// The low nibbles are the first half of the values, the high ones the second; a fifth bit comes from a word of its
/// own, the first value's from its lowest bit.
fn quants(nibbles: &[u8; VALUES / 2], fifth_bits: u32) -> [u8; VALUES] {
    std::array::from_fn(|index| {
        let shift = if index < VALUES / 2 { 0 } else { 4 };
        let nibble = nibbles[index % (VALUES / 2)] >> shift & 0x0F;
        let fifth = if fifth_bits >> index & 1 == 0 { 0 } else { 0x10 };
        nibble | fifth
    })
}
