//! AVX2, FMA and F16C for attention: some queries with some keys in registers at a time.
//!
//! Each output's order is that of the twins in [`attention`](super::attention) and
//! [`attention_int8`](super::attention_int8).

use std::arch::x86_64::*;

use super::BLOCK;
use super::attention::Numbers;
use super::attention_int8::{Int8, blocks};

/// The products of each query with each key: those of a query lie `stride` behind those of the one before.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dots(
    head_size: usize,
    queries: &[f32],
    keys: Numbers<'_>,
    scores: &mut [f32],
    stride: usize,
) {
    // SAFETY: as for this function.
    unsafe {
        match keys {
            Numbers::Halves(keys) => all_dots(Halves::new(keys, head_size), queries, scores, stride),
            Numbers::Int8(keys) => all_dots(Bytes::new(keys, head_size), queries, scores, stride),
        }
    }
}

/// Adds to what each query has found each value, times its weight; weights lie as the products did.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn mix(
    head_size: usize,
    weights: &[f32],
    stride: usize,
    values: Numbers<'_>,
    into: &mut [f32],
) {
    // SAFETY: as for this function.
    unsafe {
        match values {
            Numbers::Halves(values) => mix_all(Halves::new(values, head_size), weights, stride, into),
            Numbers::Int8(values) => mix_all(Bytes::new(values, head_size), weights, stride, into),
        }
    }
}

/// See [`weigh`](super::attention::weigh), of which the compiler makes wider vectors here.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn weigh(scores: &mut [f32]) -> f32 {
    super::attention::weigh(scores)
}

/// Keys or values of some neighbouring tokens.
trait Rows: Copy {
    fn head_size(self) -> usize;

    fn tokens(self) -> usize;

    /// Eight of a token's numbers.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C; there are so many tokens, and eight numbers from `at`, a multiple of eight.
    unsafe fn eight(self, token: usize, at: usize) -> __m256;

    fn one(self, token: usize, at: usize) -> f32;
}

#[derive(Clone, Copy)]
struct Halves<'k> {
    numbers: &'k [half::f16],
    head_size: usize,
    tokens: usize,
}

impl<'k> Halves<'k> {
    fn new(numbers: &'k [half::f16], head_size: usize) -> Self {
        Self {
            numbers,
            head_size,
            tokens: numbers.len() / head_size,
        }
    }
}

impl Rows for Halves<'_> {
    fn head_size(self) -> usize {
        self.head_size
    }

    fn tokens(self) -> usize {
        self.tokens
    }

    #[inline(always)]
    unsafe fn eight(self, token: usize, at: usize) -> __m256 {
        // SAFETY: as for this function; a half is two bytes, and such a load needs no alignment.
        unsafe {
            let place = self.numbers.as_ptr().add(token * self.head_size + at);
            _mm256_cvtph_ps(_mm_loadu_si128(place.cast()))
        }
    }

    fn one(self, token: usize, at: usize) -> f32 {
        self.numbers[token * self.head_size + at].to_f32()
    }
}

#[derive(Clone, Copy)]
struct Bytes<'k> {
    numbers: Int8<'k>,
    head_size: usize,
    blocks: usize,
    tokens: usize,
}

impl<'k> Bytes<'k> {
    fn new(numbers: Int8<'k>, head_size: usize) -> Self {
        let blocks = blocks(head_size);
        Self {
            numbers,
            head_size,
            blocks,
            tokens: (numbers.values.len() / head_size).min(numbers.scales.len() / blocks),
        }
    }
}

impl Rows for Bytes<'_> {
    fn head_size(self) -> usize {
        self.head_size
    }

    fn tokens(self) -> usize {
        self.tokens
    }

    #[inline(always)]
    unsafe fn eight(self, token: usize, at: usize) -> __m256 {
        let Int8 { values, scales } = self.numbers;
        // SAFETY: as for this function; a token has a scale for each of its blocks, and such a load needs no alignment.
        unsafe {
            let scale = _mm256_broadcast_ss(&*scales.as_ptr().add(token * self.blocks + at / BLOCK));
            let place = values.as_ptr().add(token * self.head_size + at);
            let eight = _mm256_cvtepi8_epi32(_mm_loadl_epi64(place.cast()));
            _mm256_mul_ps(_mm256_cvtepi32_ps(eight), scale)
        }
    }

    fn one(self, token: usize, at: usize) -> f32 {
        let scale = self.numbers.scales[token * self.blocks + at / BLOCK];
        f32::from(self.numbers.values[token * self.head_size + at]) * scale
    }
}

/// # Safety
/// As for [`dots`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all_dots<R: Rows>(keys: R, queries: &[f32], scores: &mut [f32], stride: usize) {
    let size = keys.head_size();
    let count = queries.len() / size;
    assert!(count == 0 || scores.len() >= (count - 1) * stride + keys.tokens());
    let mut first = 0;
    while first < count {
        let (queries, scores) = (&queries[first * size..], &mut scores[first * stride..]);
        // SAFETY: as for this function, and there are so many queries.
        unsafe {
            first += match count - first {
                1 => dots_of::<R, 1, 8>(keys, queries, scores, stride),
                2 => dots_of::<R, 2, 4>(keys, queries, scores, stride),
                3 => dots_of::<R, 3, 2>(keys, queries, scores, stride),
                _ => dots_of::<R, 4, 2>(keys, queries, scores, stride),
            };
        }
    }
}

/// The products of `Q` queries with all keys, `K` at a time. `Q`.
///
/// # Safety
/// As for [`dots`]; there are so many queries, and places for all products.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots_of<R: Rows, const Q: usize, const K: usize>(
    keys: R,
    queries: &[f32],
    scores: &mut [f32],
    stride: usize,
) -> usize {
    let mut token = 0;
    while token < keys.tokens() {
        // SAFETY: as for this function, and there are so many tokens.
        unsafe {
            token += if token + K <= keys.tokens() {
                tile::<R, Q, K>(keys, token, queries, scores, stride)
            } else {
                tile::<R, Q, 1>(keys, token, queries, scores, stride)
            };
        }
    }
    Q
}

/// The products of `Q` queries with `K` keys, at most eight in all. `K`.
///
/// # Safety
/// As for [`dots`]; there are so many queries and keys, and places for all products.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<R: Rows, const Q: usize, const K: usize>(
    keys: R,
    token: usize,
    queries: &[f32],
    scores: &mut [f32],
    stride: usize,
) -> usize {
    let size = keys.head_size();
    let queries = &queries[..Q * size];
    let whole = size / 8 * 8;
    let mut lanes = [[_mm256_setzero_ps(); K]; Q];
    for at in (0..whole).step_by(8) {
        let mut eights = [_mm256_setzero_ps(); Q];
        for (number, eight) in eights.iter_mut().enumerate() {
            // SAFETY: there are `Q` queries of at least `whole` numbers.
            *eight = unsafe { _mm256_loadu_ps(queries.as_ptr().add(number * size + at)) };
        }
        for index in 0..K {
            // SAFETY: there are so many keys, of at least `whole` numbers.
            let key = unsafe { keys.eight(token + index, at) };
            for (query, lanes) in eights.iter().zip(&mut lanes) {
                lanes[index] = _mm256_fmadd_ps(*query, key, lanes[index]);
            }
        }
    }
    let mut all = [_mm256_setzero_ps(); 8];
    for (number, lanes) in lanes.into_iter().enumerate() {
        for (index, mut lane) in lanes.into_iter().enumerate() {
            if whole < size {
                let mut each = [0.0_f32; 8];
                // SAFETY: there are eight floats.
                unsafe { _mm256_storeu_ps(each.as_mut_ptr(), lane) };
                for (at, sum) in (whole..size).zip(&mut each) {
                    *sum = queries[number * size + at].mul_add(keys.one(token + index, at), *sum);
                }
                // SAFETY: there are eight floats.
                lane = unsafe { _mm256_loadu_ps(each.as_ptr()) };
            }
            all[number * K + index] = lane;
        }
    }
    let mut sums = [0.0_f32; 8];
    // SAFETY: there are eight floats.
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), sums_of_lanes(all)) };
    for (number, sums) in sums.chunks_exact(K).take(Q).enumerate() {
        scores[number * stride + token..][..K].copy_from_slice(sums);
    }
    K
}

/// The sums of the lanes of each of eight, from the first lane to the last.
#[target_feature(enable = "avx2,fma,f16c")]
fn sums_of_lanes(all: [__m256; 8]) -> __m256 {
    let [a, b, c, d, e, f, g, h] = all;
    // Four by four within the halves of a register, then the halves: lane `n` of each in one.
    let four = |a, b, c, d| {
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    };
    let (first, second) = (four(a, b, c, d), four(e, f, g, h));
    let mut sum = _mm256_permute2f128_ps::<0x20>(first[0], second[0]);
    for index in 1..4 {
        sum = _mm256_add_ps(sum, _mm256_permute2f128_ps::<0x20>(first[index], second[index]));
    }
    for index in 0..4 {
        sum = _mm256_add_ps(sum, _mm256_permute2f128_ps::<0x31>(first[index], second[index]));
    }
    sum
}

/// # Safety
/// As for [`mix`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn mix_all<R: Rows>(values: R, weights: &[f32], stride: usize, into: &mut [f32]) {
    let size = values.head_size();
    let count = into.len() / size;
    assert!(count == 0 || weights.len() >= (count - 1) * stride + values.tokens());
    let mut first = 0;
    while first < count {
        let (weights, into) = (&weights[first * stride..], &mut into[first * size..]);
        // SAFETY: as for this function, and there are so many queries.
        unsafe {
            first += match count - first {
                1 => mix_of::<R, 1, 8>(values, weights, stride, into),
                2 => mix_of::<R, 2, 4>(values, weights, stride, into),
                3 => mix_of::<R, 3, 2>(values, weights, stride, into),
                _ => mix_of::<R, 4, 2>(values, weights, stride, into),
            };
        }
    }
}

/// Adds all values to what `Q` queries have found, `V` times eight columns at a time. `Q`.
///
/// # Safety
/// As for [`mix`]; there are so many queries, with weights for all values.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn mix_of<R: Rows, const Q: usize, const V: usize>(
    values: R,
    weights: &[f32],
    stride: usize,
    into: &mut [f32],
) -> usize {
    let size = values.head_size();
    let into = &mut into[..Q * size];
    let mut at = 0;
    while at + 8 <= size {
        // SAFETY: as for this function, and there are so many columns.
        unsafe {
            at += if at + 8 * V <= size {
                strip::<R, Q, V>(values, at, weights, stride, into)
            } else {
                strip::<R, Q, 1>(values, at, weights, stride, into)
            };
        }
    }
    for (number, into) in into.chunks_exact_mut(size).enumerate() {
        for (index, weight) in weights[number * stride..][..values.tokens()].iter().enumerate() {
            for (at, into) in (at..size).zip(&mut into[at..]) {
                *into = weight.mul_add(values.one(index, at), *into);
            }
        }
    }
    Q
}

/// Adds `V` times eight columns of all values to what `Q` queries have found, which stays in registers. How many columns.
///
/// # Safety
/// As for [`mix`]; there are so many queries and columns from `at`, and weights for all values.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strip<R: Rows, const Q: usize, const V: usize>(
    values: R,
    at: usize,
    weights: &[f32],
    stride: usize,
    into: &mut [f32],
) -> usize {
    let size = values.head_size();
    let mut sums = [[_mm256_setzero_ps(); V]; Q];
    for (number, sums) in sums.iter_mut().enumerate() {
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: there are `Q` queries, and `V` times eight columns from `at`.
            *sum = unsafe { _mm256_loadu_ps(into.as_ptr().add(number * size + at + index * 8)) };
        }
    }
    for token in 0..values.tokens() {
        let mut factors = [_mm256_setzero_ps(); Q];
        for (number, factor) in factors.iter_mut().enumerate() {
            // SAFETY: each query has a weight for each value.
            *factor = unsafe { _mm256_broadcast_ss(&*weights.as_ptr().add(number * stride + token)) };
        }
        for index in 0..V {
            // SAFETY: there are so many tokens and columns.
            let value = unsafe { values.eight(token, at + index * 8) };
            for (factor, sums) in factors.iter().zip(&mut sums) {
                sums[index] = _mm256_fmadd_ps(*factor, value, sums[index]);
            }
        }
    }
    for (number, sums) in sums.iter().enumerate() {
        for (index, sum) in sums.iter().enumerate() {
            // SAFETY: there are `Q` queries, and `V` times eight columns from `at`.
            unsafe { _mm256_storeu_ps(into.as_mut_ptr().add(number * size + at + index * 8), *sum) };
        }
    }
    V * 8
}
