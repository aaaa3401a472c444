//! AVX-512 with VNNI: a panel's 16 rows in one register.

use std::arch::x86_64::*;

use super::activations::Tile;
use super::pack::Panel;
use super::{BLOCK, PANEL_ROWS, Packing};

const GROUPS: usize = BLOCK / 4;
/// How far ahead weights are asked for; they lie in one row, but a page's end stops the processor's own foresight.
const AHEAD: usize = 2048;
/// Tokens that are multiplied at once: each has two of the 32 registers.
pub(super) const TILE: usize = 12;

/// Whether this processor has what [`multiply`] needs, and what [`avx2`](super::avx2) does, which computes the rest.
pub(super) fn is_there() -> bool {
    super::avx2::is_there()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// The products of a panel with a tile's `T` tokens.
///
/// # Safety
/// The processor has these instructions ([`is_there`]). The tile has `T` tokens, and as many columns as the panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply<const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> [[f32; PANEL_ROWS]; T] {
    debug_assert_eq!((tile.tokens, tile.columns), (T, panel.blocks * BLOCK));
    let sums = match panel.packing {
        // SAFETY: as for this function.
        Packing::F16 => unsafe { f16::<T>(panel, tile) },
        // SAFETY: as for this function.
        Packing::Int8 => unsafe { quantised::<T, false>(panel, tile) },
        // SAFETY: as for this function.
        Packing::Int4 => unsafe { quantised::<T, true>(panel, tile) },
    };
    let mut products = [[0.0; PANEL_ROWS]; T];
    for (products, sums) in products.iter_mut().zip(sums) {
        // SAFETY: there are 16 floats in each.
        unsafe { _mm512_storeu_ps(products.as_mut_ptr(), sums) };
    }
    products
}

/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn f16<const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> [__m512; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    let weights = panel.bytes.as_ptr();
    let values = tile.floats.as_ptr();
    for column in 0..tile.columns {
        // SAFETY: a panel has 32 bytes for each column, a tile `T` floats. To ask for what lies beyond the end does
        // nothing.
        unsafe {
            let at = weights.add(column * 2 * PANEL_ROWS);
            if column % 2 == 0 {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            }
            let weights = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
            for (token, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*values.add(column * T + token));
                *sum = _mm512_fmadd_ps(weights, value, *sum);
            }
        }
    }
    sums
}

/// Int4 or int8.
///
/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn quantised<const T: usize, const IS_INT4: bool>(panel: Panel<'_>, tile: Tile<'_>) -> [__m512; T] {
    let packing = if IS_INT4 { Packing::Int4 } else { Packing::Int8 };
    let offsets = if IS_INT4 {
        tile.int4_offsets
    } else {
        tile.int8_offsets
    }
    .as_ptr();
    let mut sums = [_mm512_setzero_ps(); T];
    let nibble = _mm512_set1_epi8(15);
    let sign = _mm512_set1_epi8(-128);
    // The high half of a byte belongs to the rows of the upper half.
    let shifts = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi32(4));
    for block in 0..panel.blocks {
        // SAFETY: the panel has so many blocks, and the tile numbers for each of its tokens and of them. To ask for what
        // lies beyond the end does nothing.
        unsafe {
            let weights = panel.bytes.as_ptr().add(packing.weights_at(block));
            let values = tile.quantised.as_ptr().add(block * BLOCK * T);
            // What they have too much is taken away first.
            let mut products: [__m512i; T] =
                std::array::from_fn(|token| _mm512_set1_epi32(*offsets.add(block * T + token)));
            for group in 0..GROUPS {
                let weights = if IS_INT4 {
                    let at = weights.add(group * 32);
                    if group % 2 == 0 {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                    }
                    let both = _mm512_broadcast_i64x4(_mm256_loadu_si256(at.cast()));
                    _mm512_and_si512(_mm512_srlv_epi32(both, shifts), nibble)
                } else {
                    let at = weights.add(group * 64);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                    _mm512_xor_si512(_mm512_loadu_si512(at.cast()), sign)
                };
                for (token, product) in products.iter_mut().enumerate() {
                    let four = values.add((group * T + token) * 4).cast::<i32>();
                    *product =
                        _mm512_dpbusd_epi32(*product, weights, _mm512_set1_epi32(four.read_unaligned()));
                }
            }
            let scales = panel.bytes.as_ptr().add(packing.scales_at(block));
            let scales = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
            for (token, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                let scale = _mm512_set1_ps(*tile.scales.as_ptr().add(block * T + token));
                *sum = _mm512_fmadd_ps(_mm512_mul_ps(scales, scale), _mm512_cvtepi32_ps(product), *sum);
            }
        }
    }
    sums
}
