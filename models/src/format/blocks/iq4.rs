//! ggml's 4-bit type whose steps are not even: a quant is the number of a value in a table, which is denser around zero,
//! as weights are. llama.cpp falls back to it where rows are no whole blocks of 256.

use super::float;

pub(super) const VALUES: usize = 32;
pub(super) const IQ4_NL_BYTES: usize = 2 + VALUES / 2;

/// `kvalues_iq4nl` of `ggml-common.h`.
const TABLE: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

pub(super) fn iq4_nl(block: &[u8; IQ4_NL_BYTES], values: &mut [f32; VALUES]) {
    let [d0, d1, nibbles @ ..] = block;
    let scale = float(*d0, *d1);
    // The low nibbles are the first half of the values.
    let (first, second) = values.split_at_mut(VALUES / 2);
    for ((first, second), nibble) in first.iter_mut().zip(second).zip(nibbles) {
        *first = scale * f32::from(TABLE[usize::from(nibble & 0x0F)]);
        *second = scale * f32::from(TABLE[usize::from(nibble >> 4)]);
    }
}
