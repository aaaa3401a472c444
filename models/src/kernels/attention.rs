//! What a query finds among keys and values that are kept as halves, or in 8 bits ([`attention_int8`](super::attention_int8)).
//!
//! As with products, the order of every sum is fixed: a dot product has eight lanes, value `i` goes to lane `i mod 8`,
//! and the lanes are added from the first to the last; values are added key after key.

use half::f16;

use super::Instructions;
use super::attention_int8::Int8;
use super::math::{exp, soft_cap};

const LANES: usize = 8;

/// Keys and values of some neighbouring tokens.
#[derive(Clone, Copy)]
pub(crate) enum Span<'k> {
    /// Each tokens × head size.
    Halves {
        keys: &'k [f16],
        values: &'k [f16],
    },
    Int8 {
        keys: Int8<'k>,
        values: Int8<'k>,
    },
}

impl Span<'_> {
    fn tokens(self, head_size: usize) -> usize {
        match self {
            Self::Halves { values, .. } => values.len() / head_size,
            Self::Int8 { values, .. } => values.values.len() / head_size,
        }
    }
}

/// One head's attention: softmax of the query's products with all keys, times the values (Vaswani et al. 2017). The
/// query is scaled already; there is at least one key. `scores` is room to work in.
pub(crate) fn attend<'k>(
    instructions: Instructions,
    query: &[f32],
    spans: impl Iterator<Item = Span<'k>> + Clone,
    cap: Option<f32>,
    scores: &mut Vec<f32>,
    into: &mut [f32],
) {
    scores.clear();
    for span in spans.clone() {
        match span {
            Span::Halves { keys, .. } => instructions.dots(query, keys, scores),
            Span::Int8 { keys, .. } => instructions.dots_int8(query, keys, scores),
        }
    }
    if let Some(cap) = cap {
        scores.iter_mut().for_each(|score| *score = soft_cap(*score, cap));
    }
    let largest = scores
        .iter()
        .fold(f32::NEG_INFINITY, |largest, score| largest.max(*score));
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
        total += *score;
    }
    into.fill(0.0);
    let mut weights = scores.as_slice();
    for span in spans {
        let (now, later) = weights.split_at(span.tokens(query.len()));
        match span {
            Span::Halves { values, .. } => instructions.mix(now, values, into),
            Span::Int8 { values, .. } => instructions.mix_int8(now, values, into),
        }
        weights = later;
    }
    let inverse = 1.0 / total;
    into.iter_mut().for_each(|value| *value *= inverse);
}

/// The products of a query with each key, put behind those that are there.
pub(super) fn dots(query: &[f32], keys: &[f16], into: &mut Vec<f32>) {
    for key in keys.chunks_exact(query.len()) {
        let mut lanes = [0.0_f32; LANES];
        for (index, (query, key)) in query.iter().zip(key).enumerate() {
            let lane = &mut lanes[index % LANES];
            *lane = query.mul_add(key.to_f32(), *lane);
        }
        into.push(lanes.iter().sum());
    }
}

/// Adds each value, times its weight.
pub(super) fn mix(weights: &[f32], values: &[f16], into: &mut [f32]) {
    for (weight, values) in weights.iter().zip(values.chunks_exact(into.len())) {
        for (into, value) in into.iter_mut().zip(values) {
            *into = weight.mul_add(value.to_f32(), *into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        (0..count)
            .map(|n| ((n as f32 + seed as f32) * 12.9898).sin() * 1.7)
            .collect()
    }

    fn halves(values: &[f32]) -> Vec<f16> {
        values.iter().map(|value| f16::from_f32(*value)).collect()
    }

    #[test]
    fn every_instruction_set_and_every_cut_into_spans_gives_the_same_to_the_bit() {
        for head_size in [8, 20, 64, 80, 96] {
            for tokens in [1, 2, 17, 40] {
                let query = noise(head_size, 1);
                let (keys, values) = (
                    halves(&noise(head_size * tokens, 2)),
                    halves(&noise(head_size * tokens, 3)),
                );
                let attended = |instructions, cut: usize, cap| {
                    let spans = keys.chunks(cut * head_size).zip(values.chunks(cut * head_size));
                    let spans = spans.map(|(keys, values)| Span::Halves { keys, values });
                    let mut into = vec![0.0; head_size];
                    attend(instructions, &query, spans, cap, &mut Vec::new(), &mut into);
                    into.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
                };
                for cap in [None, Some(5.0)] {
                    let twin = attended(Instructions::Scalar, tokens, cap);
                    for cut in [1, 7, 16] {
                        assert_eq!(
                            attended(Instructions::detect(), cut, cap),
                            twin,
                            "{head_size} {tokens} {cut}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn attention_is_what_its_formula_says() {
        let (head_size, tokens) = (16, 9);
        let query = noise(head_size, 4);
        let (keys, values) = (
            halves(&noise(head_size * tokens, 5)),
            halves(&noise(head_size * tokens, 6)),
        );
        let mut found = vec![0.0; head_size];
        let span = Span::Halves {
            keys: &keys,
            values: &values,
        };
        attend(
            Instructions::detect(),
            &query,
            std::iter::once(span),
            None,
            &mut Vec::new(),
            &mut found,
        );
        let scores: Vec<f64> = keys
            .chunks(head_size)
            .map(|key| {
                key.iter()
                    .zip(&query)
                    .map(|(k, q)| f64::from(k.to_f32()) * f64::from(*q))
                    .sum()
            })
            .collect();
        let total: f64 = scores.iter().map(|score: &f64| score.exp()).sum();
        for (index, found) in found.iter().enumerate() {
            let expected: f64 = scores
                .iter()
                .zip(values.chunks(head_size))
                .map(|(score, value)| score.exp() / total * f64::from(value[index].to_f32()))
                .sum();
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}
