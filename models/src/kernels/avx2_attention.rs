//! AVX2, FMA and F16C for keys and values in 8 bits.

use std::arch::x86_64::*;

use super::BLOCK;
use super::attention_int8::{Int8, blocks};

/// See [`attention_int8`](super::attention_int8), to whose twin it is equal.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dots_int8(query: &[f32], keys: Int8<'_>, into: &mut Vec<f32>) {
    let scales = keys.scales.chunks_exact(blocks(query.len()));
    for (key, scales) in keys.values.chunks_exact(query.len()).zip(scales) {
        let mut lanes = _mm256_setzero_ps();
        for ((query, key), scale) in query.chunks(BLOCK).zip(key.chunks(BLOCK)).zip(scales) {
            let whole = query.len() / 8 * 8;
            let mut sums = _mm256_setzero_ps();
            for at in (0..whole).step_by(8) {
                // SAFETY: query and key have eight values from `at` on.
                unsafe {
                    let key = eight(key.as_ptr().add(at));
                    sums = _mm256_fmadd_ps(_mm256_loadu_ps(query.as_ptr().add(at)), key, sums);
                }
            }
            if whole < query.len() {
                let mut each = [0.0_f32; 8];
                // SAFETY: there are eight floats.
                unsafe { _mm256_storeu_ps(each.as_mut_ptr(), sums) };
                for (sum, (query, key)) in each.iter_mut().zip(query[whole..].iter().zip(&key[whole..])) {
                    *sum = query.mul_add(f32::from(*key), *sum);
                }
                // SAFETY: there are eight floats.
                sums = unsafe { _mm256_loadu_ps(each.as_ptr()) };
            }
            lanes = _mm256_fmadd_ps(broadcast(*scale), sums, lanes);
        }
        let mut each = [0.0_f32; 8];
        // SAFETY: there are eight floats.
        unsafe { _mm256_storeu_ps(each.as_mut_ptr(), lanes) };
        into.push(each.iter().sum());
    }
}

/// See [`attention_int8`](super::attention_int8), to whose twin it is equal.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn mix_int8(weights: &[f32], values: Int8<'_>, into: &mut [f32]) {
    let (head_size, scales_each) = (into.len(), blocks(into.len()));
    let tokens = weights
        .len()
        .min(values.values.len() / head_size)
        .min(values.scales.len() / scales_each);
    let weights = &weights[..tokens];
    for (number, into) in into.chunks_mut(BLOCK).enumerate() {
        let at = number * BLOCK;
        let whole = into.len() / 8 * 8;
        if whole == BLOCK {
            // SAFETY: as for this function, and a block has 32 values.
            unsafe { mix_vectors::<4>(weights, values, [head_size, at], into) };
            continue;
        }
        for from in (0..whole).step_by(8) {
            // SAFETY: as for this function, and the block has eight values from there on.
            unsafe { mix_vectors::<1>(weights, values, [head_size, at + from], &mut into[from..]) };
        }
        for (token, weight) in weights.iter().enumerate() {
            let factor = weight * values.scales[token * scales_each + number].to_f32();
            let kept = &values.values[token * head_size + at..][..into.len()];
            for (into, value) in into[whole..].iter_mut().zip(&kept[whole..]) {
                *into = factor.mul_add(f32::from(*value), *into);
            }
        }
    }
}

/// `V` times eight columns of [`mix_int8`], from `at` on, all of one block: they stay in registers while all tokens are
/// added to them.
///
/// # Safety
/// The processor has AVX2, FMA and F16C. `into` has so many floats, and there are so many weights as tokens at most.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn mix_vectors<const V: usize>(
    weights: &[f32],
    values: Int8<'_>,
    [head_size, at]: [usize; 2],
    into: &mut [f32],
) {
    let into = &mut into[..V * 8];
    let mut sums = [_mm256_setzero_ps(); V];
    for (index, sum) in sums.iter_mut().enumerate() {
        // SAFETY: there are `V` times eight floats.
        *sum = unsafe { _mm256_loadu_ps(into.as_ptr().add(index * 8)) };
    }
    for (token, weight) in weights.iter().enumerate() {
        let scale = values.scales[token * blocks(head_size) + at / BLOCK];
        let factor = _mm256_mul_ps(_mm256_set1_ps(*weight), broadcast(scale));
        let kept = &values.values[token * head_size + at..][..V * 8];
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: there are `V` times eight values.
            let value = unsafe { eight(kept.as_ptr().add(index * 8)) };
            *sum = _mm256_fmadd_ps(factor, value, *sum);
        }
    }
    for (index, sum) in sums.iter().enumerate() {
        // SAFETY: there are `V` times eight floats.
        unsafe { _mm256_storeu_ps(into.as_mut_ptr().add(index * 8), *sum) };
    }
}

/// Eight values as floats.
///
/// # Safety
/// The processor has AVX2, and eight values can be read at `at`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight(at: *const i8) -> __m256 {
    // SAFETY: as for this function; such a load needs no alignment.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
}

/// A half, as a float in every lane.
#[target_feature(enable = "avx2,fma,f16c")]
fn broadcast(half: half::f16) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(half.to_bits().cast_signed()))
}
