//! What queries find among keys and values that are kept as halves, or in 8 bits
//! ([`attention_int8`](super::attention_int8)).
//!
//! As with products, the order of every sum is fixed: a dot product has eight lanes, value `i` goes to lane `i mod 8`,
//! and the lanes are added from the first to the last; so are the weights of a query's keys; values are added key after
//! key. Queries that look at the same keys are computed together, which changes none of that: a key is then read and
//! made a float once for all of them.

use std::ops::Range;

use half::f16;

use super::Instructions;
use super::attention_int8::{self as int8, Int8};
use super::math::{exp, soft_cap};

const LANES: usize = 8;

/// Keys and values of some neighbouring tokens.
#[derive(Clone, Copy)]
pub(crate) struct Span<'k> {
    pub(crate) keys: Numbers<'k>,
    pub(crate) values: Numbers<'k>,
}

/// Keys or values.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'k> {
    /// tokens × head size
    Halves(&'k [f16]),
    Int8(Int8<'k>),
}

impl Numbers<'_> {
    fn tokens(self, head_size: usize) -> usize {
        match self {
            Self::Halves(values) => values.len() / head_size,
            Self::Int8(Int8 { values, .. }) => values.len() / head_size,
        }
    }
}

/// Queries that look at keys of the same head: of the heads that share it, and of neighbouring tokens.
#[derive(Clone, Copy)]
pub(crate) struct Group<'g> {
    pub(crate) head_size: usize,
    /// One behind the other, scaled already.
    pub(crate) queries: &'g [f32],
    /// The positions that each of them sees, at least one.
    pub(crate) seen: &'g [Range<usize>],
}

/// Each query's attention: softmax of its products with the keys that it sees, times their values (Vaswani et al. 2017).
/// `spans` gives the keys and values of some positions; `scores` is room to work in.
pub(crate) fn attend<'k, S: Iterator<Item = Span<'k>>>(
    instructions: Instructions,
    group: Group<'_>,
    spans: impl Fn(Range<usize>) -> S,
    cap: Option<f32>,
    scores: &mut Vec<f32>,
    into: &mut [f32],
) {
    let Group {
        head_size,
        queries,
        seen,
    } = group;
    let start = seen.iter().map(|seen| seen.start).min().unwrap_or(0);
    let end = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
    let stride = end - start;
    scores.clear();
    scores.resize(seen.len() * stride, 0.0);
    let pieces = pieces(seen);
    for (who, positions) in &pieces {
        let queries = &queries[who.start * head_size..who.end * head_size];
        let mut at = who.start * stride + positions.start - start;
        for span in spans(positions.clone()) {
            instructions.all_dots(head_size, queries, span.keys, &mut scores[at..], stride);
            at += span.keys.tokens(head_size);
        }
    }
    let rows = scores.chunks_exact_mut(stride).zip(seen);
    let totals: Vec<f32> = rows
        .map(|(row, seen)| {
            let row = &mut row[seen.start - start..seen.end - start];
            if let Some(cap) = cap {
                row.iter_mut().for_each(|score| *score = soft_cap(*score, cap));
            }
            instructions.weigh(row)
        })
        .collect();
    into.fill(0.0);
    for (who, positions) in &pieces {
        let into = &mut into[who.start * head_size..who.end * head_size];
        let mut at = who.start * stride + positions.start - start;
        for span in spans(positions.clone()) {
            instructions.mix_all(head_size, &scores[at..], stride, span.values, into);
            at += span.values.tokens(head_size);
        }
    }
    for (into, total) in into.chunks_exact_mut(head_size).zip(totals) {
        let inverse = 1.0 / total;
        into.iter_mut().for_each(|value| *value *= inverse);
    }
}

/// Queries, and positions that all of them see; of each query the positions in their order.
fn pieces(seen: &[Range<usize>]) -> Vec<(Range<usize>, Range<usize>)> {
    let start = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
    let end = seen.iter().map(|seen| seen.end).min().unwrap_or(0);
    let each = || seen.iter().enumerate();
    let alone = |number: usize, positions| (number..number + 1, positions);
    let mut pieces: Vec<_> = if start < end {
        let before = each().map(|(number, seen)| alone(number, seen.start..start));
        let after = each().map(|(number, seen)| alone(number, end..seen.end));
        let all = (0..seen.len(), start..end);
        before.chain([all]).chain(after).collect()
    } else {
        each().map(|(number, seen)| alone(number, seen.clone())).collect()
    };
    pieces.retain(|(_, positions)| !positions.is_empty());
    pieces
}

impl Instructions {
    /// The products of each query with each key: those of a query lie `stride` behind those of the one before.
    fn all_dots(
        self,
        head_size: usize,
        queries: &[f32],
        keys: Numbers<'_>,
        scores: &mut [f32],
        stride: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if self != Self::Scalar {
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: `detect` has found AVX2, FMA and F16C, or more than these.
            unsafe {
                super::avx2_attention::dots(head_size, queries, keys, scores, stride);
            }
            return;
        }
        let mut products = Vec::with_capacity(keys.tokens(head_size));
        for (query, scores) in queries.chunks_exact(head_size).zip(scores.chunks_mut(stride)) {
            products.clear();
            match keys {
                Numbers::Halves(keys) => self.dots(query, keys, &mut products),
                Numbers::Int8(keys) => int8::dots(query, keys, &mut products),
            }
            scores[..products.len()].copy_from_slice(&products);
        }
    }

    /// Adds to what each query has found each value, times its weight; weights lie as the products did.
    fn mix_all(
        self,
        head_size: usize,
        weights: &[f32],
        stride: usize,
        values: Numbers<'_>,
        into: &mut [f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if self != Self::Scalar {
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: `detect` has found AVX2, FMA and F16C, or more than these.
            unsafe {
                super::avx2_attention::mix(head_size, weights, stride, values, into);
            }
            return;
        }
        let tokens = values.tokens(head_size);
        for (weights, into) in weights.chunks(stride).zip(into.chunks_exact_mut(head_size)) {
            match values {
                Numbers::Halves(values) => self.mix(&weights[..tokens], values, into),
                Numbers::Int8(values) => int8::mix(&weights[..tokens], values, into),
            }
        }
    }

    /// See [`weigh`].
    fn weigh(self, scores: &mut [f32]) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self != Self::Scalar {
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: `detect` has found AVX2, FMA and F16C, or more than these.
            return unsafe { super::avx2_attention::weigh(scores) };
        }
        weigh(scores)
    }
}

/// Turns scores into weights that are not yet divided by their sum, which it gives.
#[inline(always)]
pub(super) fn weigh(scores: &mut [f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(*score);
        }
    }
    let all = lanes.iter().chain(rest);
    let largest = all.fold(f32::NEG_INFINITY, |largest, score| largest.max(*score));
    let mut sums = [0.0_f32; LANES];
    let mut chunks = scores.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - largest);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(chunks.into_remainder()) {
        *score = exp(*score - largest);
        *sum += *score;
    }
    sums.iter().sum()
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
    use proptest::prelude::*;

    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        (0..count)
            .map(|n| ((n as f32 + seed as f32) * 12.9898).sin() * 1.7)
            .collect()
    }

    /// Keys or values of one head, as halves and in 8 bits.
    struct Kept {
        head_size: usize,
        halves: Vec<f16>,
        bytes: Vec<i8>,
        scales: Vec<f32>,
    }

    impl Kept {
        fn of(head_size: usize, floats: &[f32]) -> Kept {
            let blocks = int8::blocks(head_size);
            let mut kept = Kept {
                head_size,
                halves: floats.iter().map(|value| f16::from_f32(*value)).collect(),
                bytes: vec![0; floats.len()],
                scales: vec![0.0; floats.len() / head_size * blocks],
            };
            let places = kept
                .bytes
                .chunks_mut(head_size)
                .zip(kept.scales.chunks_mut(blocks));
            for (floats, (bytes, scales)) in floats.chunks(head_size).zip(places) {
                int8::quantise(floats, bytes, scales);
            }
            kept
        }

        fn numbers(&self, is_int8: bool, positions: Range<usize>) -> Numbers<'_> {
            let (size, blocks) = (self.head_size, int8::blocks(self.head_size));
            let at = positions.start * size..positions.end * size;
            if is_int8 {
                return Numbers::Int8(Int8 {
                    values: &self.bytes[at],
                    scales: &self.scales[positions.start * blocks..positions.end * blocks],
                });
            }
            Numbers::Halves(&self.halves[at])
        }
    }

    struct Case {
        keys: Kept,
        values: Kept,
        is_int8: bool,
        /// How many tokens lie in one piece.
        cut: usize,
        cap: Option<f32>,
    }

    impl Case {
        fn attend(&self, instructions: Instructions, queries: &[f32], seen: &[Range<usize>]) -> Vec<f32> {
            let spans = |positions: Range<usize>| {
                let cuts = positions.start / self.cut..=(positions.end - 1) / self.cut;
                cuts.map(move |cut| {
                    let from = positions.start.max(cut * self.cut);
                    let to = positions.end.min((cut + 1) * self.cut);
                    Span {
                        keys: self.keys.numbers(self.is_int8, from..to),
                        values: self.values.numbers(self.is_int8, from..to),
                    }
                })
            };
            let group = Group {
                head_size: self.keys.head_size,
                queries,
                seen,
            };
            let mut into = vec![f32::NAN; queries.len()];
            attend(instructions, group, spans, self.cap, &mut Vec::new(), &mut into);
            into
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]
        #[test]
        fn every_instruction_set_group_and_cut_gives_what_the_scalar_twin_gives_each_alone_to_the_bit(
            head_size in prop_oneof![Just(8_usize), Just(64), Just(80), Just(96), Just(128), 1..140_usize],
            tokens in 1..70_usize,
            ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..14),
            are_alike in any::<bool>(),
            is_int8 in any::<bool>(),
            is_capped in any::<bool>(),
            cut in 1..20_usize,
            seed in 0..1000_u32,
        ) {
            let floats = |seed| noise(head_size * tokens, seed);
            let mut case = Case {
                keys: Kept::of(head_size, &floats(seed)),
                values: Kept::of(head_size, &floats(seed + 7)),
                is_int8,
                cut: tokens,
                cap: is_capped.then_some(5.0),
            };
            // As neighbouring tokens see them, or at random.
            let seen: Vec<Range<usize>> = ranges
                .iter()
                .enumerate()
                .map(|(number, (from, count))| {
                    if are_alike {
                        return 0..tokens.saturating_sub(number / 3).max(1);
                    }
                    let from = from.index(tokens);
                    from..from + 1 + count.index(tokens - from)
                })
                .collect();
            let queries = noise(head_size * seen.len(), seed + 13);
            let each = queries.chunks(head_size).zip(&seen);
            let twin: Vec<f32> = each
                .flat_map(|(query, seen)| case.attend(Instructions::Scalar, query, std::slice::from_ref(seen)))
                .collect();
            case.cut = cut;
            for instructions in Instructions::all() {
                let found = case.attend(instructions, &queries, &seen);
                prop_assert_eq!(bits(&found), bits(&twin), "{:?}", instructions);
            }
        }
    }

    #[test]
    fn attention_is_what_its_formula_says() {
        for (is_int8, most) in [(false, 1e-5), (true, 0.02)] {
            let (head_size, tokens) = (16, 9);
            let query = noise(head_size, 4);
            let (keys, values) = (noise(head_size * tokens, 5), noise(head_size * tokens, 6));
            let halves = |values: &[f32]| -> Vec<f64> {
                values
                    .iter()
                    .map(|value| f16::from_f32(*value).to_f64())
                    .collect()
            };
            let case = Case {
                keys: Kept::of(head_size, &keys),
                values: Kept::of(head_size, &values),
                is_int8,
                cut: 4,
                cap: None,
            };
            let found = case.attend(Instructions::detect(), &query, std::slice::from_ref(&(2..tokens)));
            let (keys, values) = (halves(&keys), halves(&values));
            let scores: Vec<f64> = keys
                .chunks(head_size)
                .skip(2)
                .map(|key| key.iter().zip(&query).map(|(k, q)| k * f64::from(*q)).sum())
                .collect();
            let total: f64 = scores.iter().map(|score: &f64| score.exp()).sum();
            for (index, found) in found.iter().enumerate() {
                let expected: f64 = scores
                    .iter()
                    .zip(values.chunks(head_size).skip(2))
                    .map(|(score, value)| score.exp() / total * value[index])
                    .sum();
                assert!((f64::from(*found) - expected).abs() < most, "{found} {expected}");
            }
        }
    }
}
