//! Keys and values in 8 bits: a little more than half the bytes of halves, which long contexts are bound by.
//!
//! A head's values of one token are cut into blocks of 32, each with a scale, as weights and activations are; queries
//! and what comes out stay floats. The order of every sum is fixed as in [`attention`](super::attention): eight lanes in
//! a block, and the blocks' lanes, times their scales, added from the first to the last.

use half::f16;

use super::math::whole;
use super::{BLOCK, Instructions};

const LANES: usize = 8;

/// The numbers of some neighbouring tokens.
#[derive(Clone, Copy)]
pub(crate) struct Int8<'k> {
    /// tokens × head size
    pub(crate) values: &'k [i8],
    /// tokens × blocks of a head
    pub(crate) scales: &'k [f16],
}

/// How many scales a head of so many values has.
pub(crate) fn blocks(head_size: usize) -> usize {
    head_size.div_ceil(BLOCK)
}

/// Keeps one token's values of one head.
pub(crate) fn quantise(values: &[f32], into: &mut [i8], scales: &mut [f16]) {
    let blocks = values.chunks(BLOCK).zip(into.chunks_mut(BLOCK));
    for ((values, into), scale) in blocks.zip(scales) {
        let largest = values
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        // What is kept is what the values are divided by: its own rounding then costs nothing.
        *scale = f16::from_f32((largest / 127.0).min(f16::MAX.to_f32()));
        let divisor = scale.to_f32();
        let inverse = if divisor > 0.0 { 1.0 / divisor } else { 0.0 };
        for (into, value) in into.iter_mut().zip(values) {
            *into = whole((value * inverse).clamp(-127.0, 127.0));
        }
    }
}

impl Instructions {
    /// The products of a query with each key, put behind those that are there.
    pub(super) fn dots_int8(self, query: &[f32], keys: Int8<'_>, into: &mut Vec<f32>) {
        match self {
            Self::Scalar => dots(query, keys, into),
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: `detect` has found AVX2, FMA and F16C, or more than these.
            _ => unsafe { super::avx2_attention::dots_int8(query, keys, into) },
            #[cfg(not(target_arch = "x86_64"))]
            #[allow(unreachable_patterns, reason = "where there are no others")]
            _ => dots(query, keys, into),
        }
    }

    /// Adds each value, times its weight.
    pub(super) fn mix_int8(self, weights: &[f32], values: Int8<'_>, into: &mut [f32]) {
        match self {
            Self::Scalar => mix(weights, values, into),
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: `detect` has found AVX2, FMA and F16C, or more than these.
            _ => unsafe { super::avx2_attention::mix_int8(weights, values, into) },
            #[cfg(not(target_arch = "x86_64"))]
            #[allow(unreachable_patterns, reason = "where there are no others")]
            _ => mix(weights, values, into),
        }
    }
}

fn dots(query: &[f32], keys: Int8<'_>, into: &mut Vec<f32>) {
    let scales = keys.scales.chunks_exact(blocks(query.len()));
    for (key, scales) in keys.values.chunks_exact(query.len()).zip(scales) {
        let mut lanes = [0.0_f32; LANES];
        for ((query, key), scale) in query.chunks(BLOCK).zip(key.chunks(BLOCK)).zip(scales) {
            let mut sums = [0.0_f32; LANES];
            for (index, (query, key)) in query.iter().zip(key).enumerate() {
                let sum = &mut sums[index % LANES];
                *sum = query.mul_add(f32::from(*key), *sum);
            }
            let scale = scale.to_f32();
            for (lane, sum) in lanes.iter_mut().zip(sums) {
                *lane = scale.mul_add(sum, *lane);
            }
        }
        into.push(lanes.iter().sum());
    }
}

fn mix(weights: &[f32], values: Int8<'_>, into: &mut [f32]) {
    let scales = values.scales.chunks_exact(blocks(into.len()));
    let values = values.values.chunks_exact(into.len());
    for (weight, (values, scales)) in weights.iter().zip(values.zip(scales)) {
        for ((into, values), scale) in into.chunks_mut(BLOCK).zip(values.chunks(BLOCK)).zip(scales) {
            let factor = weight * scale.to_f32();
            for (into, value) in into.iter_mut().zip(values) {
                *into = factor.mul_add(f32::from(*value), *into);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys or values, and what they were made of.
    struct Made {
        floats: Vec<f32>,
        values: Vec<i8>,
        scales: Vec<f16>,
    }

    impl Made {
        fn of(head_size: usize, floats: Vec<f32>) -> Made {
            let tokens = floats.len() / head_size;
            let mut values = vec![0; floats.len()];
            let mut scales = vec![f16::ZERO; tokens * blocks(head_size)];
            let places = values
                .chunks_mut(head_size)
                .zip(scales.chunks_mut(blocks(head_size)));
            for (floats, (values, scales)) in floats.chunks(head_size).zip(places) {
                quantise(floats, values, scales);
            }
            Made {
                floats,
                values,
                scales,
            }
        }

        fn kept(&self) -> Int8<'_> {
            Int8 {
                values: &self.values,
                scales: &self.scales,
            }
        }
    }

    fn noise(seed: u64, count: usize, exponent: i32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 2_f32.powi(exponent)
        };
        (0..count).map(|_| next()).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn every_instruction_set_agrees_with_the_scalar_twin_to_the_bit(
            head_size in 1..140_usize,
            tokens in 1..20_usize,
            seed in any::<u64>(),
            exponent in -30..20_i32,
        ) {
            let query = noise(seed, head_size, 0);
            let kept = Made::of(head_size, noise(seed ^ 9, head_size * tokens, exponent));
            let weights = noise(seed ^ 5, tokens, 0);
            let (mut twin, mut fast) = (vec![1.5], vec![1.5]);
            dots(&query, kept.kept(), &mut twin);
            Instructions::detect().dots_int8(&query, kept.kept(), &mut fast);
            prop_assert_eq!(bits(&twin), bits(&fast));
            prop_assert_eq!(twin.len(), 1 + tokens);
            let (mut twin, mut fast) = (query.clone(), query);
            mix(&weights, kept.kept(), &mut twin);
            Instructions::detect().mix_int8(&weights, kept.kept(), &mut fast);
            prop_assert_eq!(bits(&twin), bits(&fast));
        }
    }

    #[test]
    fn a_value_comes_back_within_half_a_step() {
        for (head_size, exponent) in [(128, 0), (80, 6), (12, -8), (33, 2)] {
            let made = Made::of(head_size, noise(3, head_size * 4, exponent));
            let scales = made.scales.chunks(blocks(head_size));
            let values = made.values.chunks(head_size).zip(made.floats.chunks(head_size));
            for ((values, floats), scales) in values.zip(scales) {
                for (index, (value, float)) in values.iter().zip(floats).enumerate() {
                    let scale = scales[index / BLOCK].to_f32();
                    let back = f32::from(*value) * scale;
                    // Rounding the scale down may cost the largest value a little more.
                    assert!((back - float).abs() <= scale * 0.6, "{back} {float}");
                }
            }
        }
    }

    #[test]
    fn extreme_values_are_kept_as_well_as_they_can_be() {
        let made = Made::of(
            8,
            [
                [0.0; 8],
                [f32::NAN; 8],
                [
                    f32::MAX,
                    1.0,
                    0.0,
                    0.0,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                    -1.0,
                    0.0,
                ],
                [1e-30; 8],
            ]
            .concat(),
        );
        assert!(made.scales.iter().all(|scale| scale.is_finite()));
        assert_eq!(made.values[..16], [0; 16]);
        assert_eq!(made.values[16..24], [127, 0, 0, 0, 127, -127, 0, 0]);
        assert_eq!(made.values[24..], [0; 8]);
    }
}
