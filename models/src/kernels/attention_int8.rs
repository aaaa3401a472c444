//! Keys and values in 8 bits: a little more than half the bytes of halves, which long contexts are bound by.
//!
//! A head's values of one token are cut into blocks of 32, each with a scale, as weights and activations are; queries
//! and what comes out stay floats. A value times its scale takes the place of a half; the order of every sum is that of
//! [`attention`](super::attention).

use super::BLOCK;
use super::math::whole;

const LANES: usize = 8;

/// The numbers of some neighbouring tokens.
#[derive(Clone, Copy)]
pub(crate) struct Int8<'k> {
    /// tokens × head size
    pub(crate) values: &'k [i8],
    /// tokens × blocks of a head
    pub(crate) scales: &'k [f32],
}

/// How many scales a head of so many values has.
pub(crate) fn blocks(head_size: usize) -> usize {
    head_size.div_ceil(BLOCK)
}

/// Keeps one token's values of one head.
pub(crate) fn quantise(values: &[f32], into: &mut [i8], scales: &mut [f32]) {
    let blocks = values.chunks(BLOCK).zip(into.chunks_mut(BLOCK));
    for ((values, into), scale) in blocks.zip(scales) {
        let mut lanes = [0.0_f32; LANES];
        for values in values.chunks(LANES) {
            for (lane, value) in lanes.iter_mut().zip(values) {
                *lane = lane.max(value.abs());
            }
        }
        let largest = lanes.iter().fold(0.0_f32, |largest, lane| largest.max(*lane));
        let largest = largest.min(f32::MAX);
        *scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for (into, value) in into.iter_mut().zip(values) {
            *into = whole((value * inverse).clamp(-127.0, 127.0));
        }
    }
}

/// The products of a query with each key, put behind those that are there.
pub(super) fn dots(query: &[f32], keys: Int8<'_>, into: &mut Vec<f32>) {
    let scales = keys.scales.chunks_exact(blocks(query.len()));
    for (key, scales) in keys.values.chunks_exact(query.len()).zip(scales) {
        let mut lanes = [0.0_f32; LANES];
        for (index, (query, key)) in query.iter().zip(key).enumerate() {
            let lane = &mut lanes[index % LANES];
            *lane = query.mul_add(f32::from(*key) * scales[index / BLOCK], *lane);
        }
        into.push(lanes.iter().sum());
    }
}

/// Adds each value, times its weight.
pub(super) fn mix(weights: &[f32], values: Int8<'_>, into: &mut [f32]) {
    let scales = values.scales.chunks_exact(blocks(into.len()));
    let values = values.values.chunks_exact(into.len());
    for (weight, (values, scales)) in weights.iter().zip(values.zip(scales)) {
        for (index, (into, value)) in into.iter_mut().zip(values).enumerate() {
            *into = weight.mul_add(f32::from(*value) * scales[index / BLOCK], *into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys or values, and what they were made of.
    struct Made {
        floats: Vec<f32>,
        values: Vec<i8>,
        scales: Vec<f32>,
    }

    impl Made {
        fn of(head_size: usize, floats: Vec<f32>) -> Made {
            let tokens = floats.len() / head_size;
            let mut values = vec![0; floats.len()];
            let mut scales = vec![0.0; tokens * blocks(head_size)];
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

    #[test]
    fn a_value_comes_back_within_half_a_step() {
        for (head_size, exponent) in [(128, 0), (80, 6), (12, -8), (33, 2)] {
            let made = Made::of(head_size, noise(3, head_size * 4, exponent));
            let scales = made.scales.chunks(blocks(head_size));
            let values = made.values.chunks(head_size).zip(made.floats.chunks(head_size));
            for ((values, floats), scales) in values.zip(scales) {
                for (index, (value, float)) in values.iter().zip(floats).enumerate() {
                    let scale = scales[index / BLOCK];
                    let back = f32::from(*value) * scale;
                    assert!((back - float).abs() <= scale * 0.501, "{back} {float}");
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
        assert_eq!(made.values[24..], [127; 8]);
    }
}
