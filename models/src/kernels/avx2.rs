//! AVX2, FMA and F16C: eight rows in a register, two registers a panel.

use std::arch::x86_64::*;
use std::hint;

use super::activations::{Quantised, Tile};
use super::pack::Panel;
use super::{BLOCK, PANEL_ROWS, Packing};

const GROUPS: usize = BLOCK / 4;
/// How far ahead weights are asked for; they lie in one row, but a page's end stops the processor's own foresight.
const AHEAD: usize = 2048;

/// Tokens that are multiplied at once: each has four of the 16 registers.
pub(super) const TILE: usize = 4;

/// Whether this processor has what [`multiply`] needs.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// See [`pack::pack_block`](super::pack::pack_block), which the compiler translates here for these instructions.
///
/// # Safety
/// The processor has AVX2, FMA and F16C ([`is_there`]).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn pack_block<'v>(
    packing: Packing,
    weights: &mut [u8],
    scales: &mut [u8],
    lane: impl Fn(usize) -> &'v [f32],
) {
    super::pack::pack_block(packing, weights, scales, lane);
}

/// Has functions of [`math::plain`](super::math::plain) translated for these instructions.
macro_rules! translated {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            /// # Safety
            /// The processor has AVX2, FMA and F16C ([`is_there`]).
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) unsafe fn $name($($argument: $type),*) {
                super::math::plain::$name($($argument),*);
            }
        )*
    };
}

translated! {
    rms_norm(values: &[f32], weight: &[f32], epsilon: f32, into: &mut [f32]);
    rms_norm_in_place(values: &mut [f32], weight: &[f32], epsilon: f32);
    silu_gate(gate: &[f32], up: &[f32], into: &mut [f32]);
    gelu_gate(gate: &[f32], up: &[f32], into: &mut [f32]);
}

/// See [`activations::quantise`](super::activations::quantise), which the compiler translates here for these
/// instructions.
///
/// # Safety
/// The processor has AVX2, FMA and F16C ([`is_there`]).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantise(block: &[f32; BLOCK]) -> Quantised {
    super::activations::quantise(block)
}

/// The products of a panel with a tile's `T` tokens.
///
/// # Safety
/// The processor has AVX2, FMA and F16C ([`is_there`]). The tile has `T` tokens, and as many columns as the panel.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> [[f32; PANEL_ROWS]; T] {
    debug_assert_eq!((tile.tokens, tile.columns), (T, panel.blocks * BLOCK));
    let sums = match panel.packing {
        // SAFETY: as for this function.
        Packing::F16 => unsafe { f16::<T>(panel, tile) },
        // SAFETY: as for this function.
        Packing::Int8 => unsafe { int8::<T>(panel, tile) },
        // SAFETY: as for this function.
        Packing::Int4 => unsafe { int4::<T>(panel, tile) },
    };
    let mut products = [[0.0; PANEL_ROWS]; T];
    for (products, [low, high]) in products.iter_mut().zip(sums) {
        // SAFETY: there are 16 floats in each.
        unsafe {
            _mm256_storeu_ps(products.as_mut_ptr(), low);
            _mm256_storeu_ps(products.as_mut_ptr().add(8), high);
        }
    }
    products
}

type Sums<const T: usize> = [[__m256; 2]; T];

/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16<const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> Sums<T> {
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    let weights = panel.bytes.as_ptr();
    let floats = tile.floats.as_ptr();
    for column in 0..tile.columns {
        // SAFETY: a panel has 32 bytes for each column, a tile `T` floats. To ask for what lies beyond the end does
        // nothing.
        unsafe {
            let at = weights.add(column * 2 * PANEL_ROWS);
            if column % 2 == 0 {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            }
            let low = _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
            let high = _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()));
            for (token, [sum_low, sum_high]) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*floats.add(column * T + token));
                *sum_low = _mm256_fmadd_ps(low, value, *sum_low);
                *sum_high = _mm256_fmadd_ps(high, value, *sum_high);
            }
        }
    }
    sums
}

/// The scales of a block's 16 rows.
///
/// # Safety
/// 32 bytes can be read at `block`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales(block: *const u8) -> [__m256; 2] {
    // SAFETY: as for this function.
    unsafe {
        [
            _mm256_cvtph_ps(_mm_loadu_si128(block.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(block.add(16).cast())),
        ]
    }
}

/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int8<const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> Sums<T> {
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    let ones = _mm256_set1_epi16(1);
    for number in 0..panel.blocks {
        // SAFETY: the panel has so many blocks.
        let block = unsafe { panel.bytes.as_ptr().add(Packing::Int8.weights_at(number)) };
        let mut products = [[_mm256_setzero_si256(); 2]; T];
        for group in 0..GROUPS {
            // SAFETY: a block has 64 bytes for each group, a tile 4 for each token and group.
            unsafe {
                let at = block.add(group * 64);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                let low = _mm256_loadu_si256(at.cast());
                let high = _mm256_loadu_si256(at.add(32).cast());
                for (token, [product_low, product_high]) in products.iter_mut().enumerate() {
                    let value = four_values::<T>(tile, number * GROUPS + group, token);
                    // One factor must not be negative: the sign goes over to the other one. Neither is −128.
                    let magnitude = _mm256_abs_epi8(value);
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(low, value));
                    *product_low = _mm256_add_epi32(*product_low, _mm256_madd_epi16(pairs, ones));
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(high, value));
                    *product_high = _mm256_add_epi32(*product_high, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        // SAFETY: the panel has 16 scales for each block.
        let [scale_low, scale_high] =
            unsafe { scales(panel.bytes.as_ptr().add(Packing::Int8.scales_at(number))) };
        for (token, [product_low, product_high]) in products.into_iter().enumerate() {
            // SAFETY: there are so many tokens and blocks.
            let scale = _mm256_set1_ps(unsafe { *tile.scales.get_unchecked(number * T + token) });
            let [sum_low, sum_high] = &mut sums[token];
            let product_low = _mm256_cvtepi32_ps(product_low);
            let product_high = _mm256_cvtepi32_ps(product_high);
            *sum_low = _mm256_fmadd_ps(_mm256_mul_ps(scale_low, scale), product_low, *sum_low);
            *sum_high = _mm256_fmadd_ps(_mm256_mul_ps(scale_high, scale), product_high, *sum_high);
        }
    }
    sums
}

/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int4<const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> Sums<T> {
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    let ones = _mm256_set1_epi16(1);
    // The compiler would do all groups of a block at once if it knew how many there are, and run out of registers.
    let groups = hint::black_box(GROUPS);
    let nibble = _mm256_set1_epi8(15);
    for number in 0..panel.blocks {
        // SAFETY: the panel has so many blocks.
        let block = unsafe { panel.bytes.as_ptr().add(Packing::Int4.weights_at(number)) };
        // A pair's sum is at most 2 × 15 × 127, and eight of them fit into 16 bits.
        let mut products = [[_mm256_setzero_si256(); 2]; T];
        for group in 0..groups {
            // SAFETY: a block has 32 bytes for each group, a tile 4 for each token and group.
            unsafe {
                let at = block.add(group * 32);
                if group % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                }
                let both = _mm256_loadu_si256(at.cast());
                let low = _mm256_and_si256(both, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble);
                for (token, [product_low, product_high]) in products.iter_mut().enumerate() {
                    let value = four_values::<T>(tile, number * GROUPS + group, token);
                    *product_low = _mm256_add_epi16(*product_low, _mm256_maddubs_epi16(low, value));
                    *product_high = _mm256_add_epi16(*product_high, _mm256_maddubs_epi16(high, value));
                }
            }
        }
        // SAFETY: the panel has 16 scales for each block.
        let [scale_low, scale_high] =
            unsafe { scales(panel.bytes.as_ptr().add(Packing::Int4.scales_at(number))) };
        for (token, [product_low, product_high]) in products.into_iter().enumerate() {
            let at = number * T + token;
            // SAFETY: there are so many tokens and blocks.
            let (scale, offset) = unsafe {
                (
                    *tile.scales.get_unchecked(at),
                    *tile.int4_offsets.get_unchecked(at),
                )
            };
            let (scale, offset) = (_mm256_set1_ps(scale), _mm256_set1_epi32(offset));
            let whole = |pairs| {
                let product = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), offset);
                _mm256_cvtepi32_ps(product)
            };
            let [sum_low, sum_high] = &mut sums[token];
            *sum_low = _mm256_fmadd_ps(_mm256_mul_ps(scale_low, scale), whole(product_low), *sum_low);
            *sum_high = _mm256_fmadd_ps(_mm256_mul_ps(scale_high, scale), whole(product_high), *sum_high);
        }
    }
    sums
}

/// Four neighbouring activations in every lane.
///
/// # Safety
/// The tile has `T` tokens, and so many groups.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn four_values<const T: usize>(tile: Tile<'_>, group: usize, token: usize) -> __m256i {
    // SAFETY: as for this function; four bytes need no alignment here.
    let four = unsafe {
        tile.quantised
            .as_ptr()
            .add((group * T + token) * 4)
            .cast::<i32>()
            .read_unaligned()
    };
    _mm256_set1_epi32(four)
}
