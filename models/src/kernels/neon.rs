//! NEON: four rows in a register, four registers a panel.
//!
//! 8-bit products are summed by `sdot` where the processor has it (Armv8.2, every Apple chip), those of several tokens
//! by `smmla` where it has that (Armv8.6, Apple's from the M2 on), and in pairs elsewhere. Sums of whole numbers come out
//! the same in any order. Both are written in assembler because their intrinsics are not stable yet.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::{array, hint};

use super::activations::Tile;
use super::pack::{GROUP, Panel};
use super::{BLOCK, PANEL_ROWS, Packing};

/// Tokens that are multiplied at once: each has four of the 32 registers, and the weights take the rest.
pub(super) const TILE: usize = 6;
/// Bytes of a register.
const WIDE: usize = 16;
/// Registers that have a value for each row.
const QUARTERS: usize = PANEL_ROWS / 4;
/// Registers that have two values for each row.
const PAIRS: usize = PANEL_ROWS / 2;
const GROUPS: usize = BLOCK / GROUP;
/// How far ahead weights are asked for; they lie in one row, but a page's end stops the processor's own foresight.
const AHEAD: usize = 2048;

/// Proof that the processor was asked, and what it has beside NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neon(Products);

/// How products of 8-bit numbers are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Products {
    Pairs,
    Dots,
    Tiles,
}

impl Neon {
    /// What this processor has, the best last; nothing where bytes lie the other way round.
    pub(super) fn all() -> impl Iterator<Item = Neon> {
        let neon = cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon");
        let dots = neon && is_aarch64_feature_detected!("dotprod");
        let tiles = dots && is_aarch64_feature_detected!("i8mm");
        let all = [
            (neon, Products::Pairs),
            (dots, Products::Dots),
            (tiles, Products::Tiles),
        ];
        let there = all.into_iter().filter(|(is_there, _)| *is_there);
        there.map(|(_, products)| Neon(products))
    }

    pub(super) fn name(self) -> &'static str {
        match self.0 {
            Products::Pairs => "neon",
            Products::Dots => "neon-dotprod",
            Products::Tiles => "neon-i8mm",
        }
    }
}

/// The products of a panel with a tile's `T` tokens.
///
/// # Safety
/// The tile has `T` tokens, and as many columns as the panel.
pub(super) unsafe fn multiply<const T: usize>(
    neon: Neon,
    panel: Panel<'_>,
    tile: Tile<'_>,
) -> [[f32; PANEL_ROWS]; T] {
    debug_assert_eq!((tile.tokens, tile.columns), (T, panel.blocks * BLOCK));
    // So that the compiler spares itself the kernels for more.
    if const { T > TILE } {
        unreachable!("a tile has at most {TILE} tokens");
    }
    // One token would leave half of each tile of `smmla` empty.
    let products = match neon.0 {
        Products::Tiles if T == 1 => Products::Dots,
        products => products,
    };
    // SAFETY: `all` has found the instructions of every `Neon`, and the sizes are as for this function.
    let sums = unsafe {
        match (panel.packing, products) {
            (Packing::F16, _) => f16::<T>(panel, tile),
            (Packing::Int8, Products::Pairs) => quantised::<Pairs, false, T>(panel, tile),
            (Packing::Int4, Products::Pairs) => quantised::<Pairs, true, T>(panel, tile),
            (Packing::Int8, Products::Dots) => by_dots::<false, T>(panel, tile),
            (Packing::Int4, Products::Dots) => by_dots::<true, T>(panel, tile),
            (Packing::Int8, Products::Tiles) => by_tiles::<false, T>(panel, tile),
            (Packing::Int4, Products::Tiles) => by_tiles::<true, T>(panel, tile),
        }
    };
    let mut products = [[0.0; PANEL_ROWS]; T];
    for (products, sums) in products.iter_mut().zip(sums) {
        for (products, sum) in products.chunks_exact_mut(4).zip(sums) {
            // SAFETY: there are four floats in each.
            unsafe { vst1q_f32(products.as_mut_ptr(), sum) };
        }
    }
    products
}

type Sums<const T: usize> = [[float32x4_t; QUARTERS]; T];
type WholeSums<const T: usize> = [[int32x4_t; QUARTERS]; T];

/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "neon")]
unsafe fn f16<const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> Sums<T> {
    let mut sums = [[vdupq_n_f32(0.0); QUARTERS]; T];
    let (weights, values) = (panel.bytes.as_ptr(), tile.floats.as_ptr());
    for column in 0..tile.columns {
        // SAFETY: a panel has 32 bytes for each column, a tile `T` floats.
        unsafe {
            let at = weights.add(column * 2 * PANEL_ROWS);
            if column % 2 == 0 {
                ask_for(at.wrapping_add(AHEAD));
            }
            let weights = halves(at);
            for (token, sums) in sums.iter_mut().enumerate() {
                let value = *values.add(column * T + token);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = vfmaq_n_f32(*sum, weights, value);
                }
            }
        }
    }
    sums
}

/// 16 halves, a row each.
///
/// # Safety
/// 32 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(at: *const u8) -> [float32x4_t; QUARTERS] {
    // SAFETY: as for this function.
    let [[a, b], [c, d]] = unsafe { [eight_halves(at.cast()), eight_halves(at.add(WIDE).cast())] };
    [a, b, c, d]
}

/// # Safety
/// Eight halves can be read at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn eight_halves(at: *const u16) -> [float32x4_t; 2] {
    // SAFETY: as for this function.
    let halves = vreinterpretq_f16_u16(unsafe { vld1q_u16(at) });
    [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
}

/// Four rows' products with the same four neighbouring activations.
trait Dot {
    /// Adds them to the rows' sums.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add(sums: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t;
}

/// What every aarch64 processor has.
struct Pairs;

impl Dot for Pairs {
    #[inline(always)]
    unsafe fn add(sums: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
        // SAFETY: the processor has NEON.
        unsafe {
            let low = vmull_s8(vget_low_s8(weights), vget_low_s8(values));
            let high = vmull_high_s8(weights, values);
            // A sum of two products fits into 16 bits: no activation is −128.
            vpadalq_s16(sums, vpaddq_s16(low, high))
        }
    }
}

/// `sdot`.
struct Dots;

impl Dot for Dots {
    #[inline(always)]
    unsafe fn add(mut sums: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
        // SAFETY: it touches nothing but these registers, and the processor has it.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {weights:v}.16b, {values:v}.16b",
                sums = inout(vreg) sums,
                weights = in(vreg) weights,
                values = in(vreg) values,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// # Safety
/// As for [`multiply`]; the processor has `sdot`.
#[target_feature(enable = "neon,dotprod")]
unsafe fn by_dots<const INT4: bool, const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> Sums<T> {
    // SAFETY: as for this function.
    unsafe { quantised::<Dots, INT4, T>(panel, tile) }
}

/// Always part of its caller, whose instructions it may then use.
///
/// # Safety
/// As for [`multiply`]; the processor has the instructions of `D`.
#[inline(always)]
unsafe fn quantised<D: Dot, const INT4: bool, const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> Sums<T> {
    // SAFETY: the panel has so many blocks, and the tile numbers for each of its tokens and of them.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); QUARTERS]; T];
        // The compiler would do all groups of a block at once if it knew how many there are, and run out of registers.
        let groups = hint::black_box(GROUPS);
        for number in 0..panel.blocks {
            let block = panel.bytes.as_ptr().add(packing::<INT4>().weights_at(number));
            let values = tile.quantised.as_ptr().add(number * BLOCK * T);
            let mut products: WholeSums<T> =
                array::from_fn(|token| [vdupq_n_s32(beginning::<INT4, T>(tile, number, token)); QUARTERS]);
            for group in 0..groups {
                let at = block.add(group * group_bytes::<INT4>());
                if !INT4 || group % 2 == 0 {
                    ask_for(at.wrapping_add(AHEAD));
                }
                let weights: [int8x16_t; QUARTERS] = array::from_fn(|quarter| {
                    vreinterpretq_s8_u8(if INT4 {
                        nibbles(vld1q_u8(at.add(quarter % 2 * WIDE)), quarter >= 2)
                    } else {
                        vld1q_u8(at.add(quarter * WIDE))
                    })
                });
                for (token, products) in products.iter_mut().enumerate() {
                    let four = values
                        .add((group * T + token) * GROUP)
                        .cast::<i32>()
                        .read_unaligned();
                    let four = vreinterpretq_s8_s32(vdupq_n_s32(four));
                    for (product, weights) in products.iter_mut().zip(weights) {
                        *product = D::add(*product, weights, four);
                    }
                }
            }
            add_scaled(panel, tile, number, products, &mut sums);
        }
        sums
    }
}

/// By squares of two rows and two tokens, which `smmla` sums over eight columns.
///
/// # Safety
/// As for [`multiply`]; the processor has `smmla`.
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn by_tiles<const INT4: bool, const T: usize>(panel: Panel<'_>, tile: Tile<'_>) -> Sums<T> {
    let mut sums = [[vdupq_n_f32(0.0); QUARTERS]; T];
    // Two tokens each, the last one twice where it is alone.
    let couples = T.div_ceil(2);
    let of_couple = |couple: usize| [couple * 2, (couple * 2 + 1).min(T - 1)];
    for number in 0..panel.blocks {
        // SAFETY: the panel has so many blocks, and the tile numbers for each of its tokens and of them.
        unsafe {
            let block = panel.bytes.as_ptr().add(packing::<INT4>().weights_at(number));
            let values = tile.quantised.as_ptr().add(number * BLOCK * T);
            // Of these the first `couples` are used.
            let mut squares: [[int32x4_t; PAIRS]; T] = array::from_fn(|couple| {
                let couple = of_couple(couple.min(couples - 1));
                let [one, other] = couple.map(|token| beginning::<INT4, T>(tile, number, token));
                [vzip1q_s32(vdupq_n_s32(one), vdupq_n_s32(other)); PAIRS]
            });
            for eight in 0..BLOCK / 8 {
                let at = block.add(eight * 2 * group_bytes::<INT4>());
                ask_for(at.wrapping_add(AHEAD));
                if !INT4 {
                    ask_for(at.wrapping_add(AHEAD + 64));
                }
                let values = values.add(eight * 2 * T * GROUP);
                let values: [int8x16_t; T] = array::from_fn(|couple| {
                    let [one, other] = of_couple(couple.min(couples - 1)).map(|token| {
                        let at = values.add(token * GROUP).cast::<i32>();
                        let next = vdup_n_s32(at.add(T).read_unaligned());
                        vzip1_s32(vdup_n_s32(at.read_unaligned()), next)
                    });
                    vreinterpretq_s8_s32(vcombine_s32(one, other))
                });
                for pair in 0..PAIRS {
                    let weights = eight_columns::<INT4>(at, pair);
                    for (squares, values) in squares[..couples].iter_mut().zip(values) {
                        squares[pair] = add_square(squares[pair], weights, values);
                    }
                }
            }
            let products: WholeSums<T> = array::from_fn(|token| {
                let squares = &squares[token / 2];
                array::from_fn(|quarter| {
                    let (upper, lower) = (squares[quarter * 2], squares[quarter * 2 + 1]);
                    if token % 2 == 0 {
                        vuzp1q_s32(upper, lower)
                    } else {
                        vuzp2q_s32(upper, lower)
                    }
                })
            });
            add_scaled(panel, tile, number, products, &mut sums);
        }
    }
    sums
}

/// Of the weights of two groups those of two rows.
///
/// # Safety
/// Two groups' weights are at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn eight_columns<const INT4: bool>(at: *const u8, pair: usize) -> int8x16_t {
    // With 4 bits, a byte has a row of the upper half, too.
    let place = if INT4 { pair % (PAIRS / 2) } else { pair };
    // SAFETY: each group has a register for every two places.
    let [one, other] = unsafe {
        let at = at.add(place / 2 * WIDE);
        [at, at.add(group_bytes::<INT4>())].map(|at| vreinterpretq_u32_u8(vld1q_u8(at)))
    };
    let rows = vreinterpretq_u8_u32(if place % 2 == 0 {
        vzip1q_u32(one, other)
    } else {
        vzip2q_u32(one, other)
    });
    vreinterpretq_s8_u8(if INT4 {
        nibbles(rows, pair >= PAIRS / 2)
    } else {
        rows
    })
}

/// # Safety
/// The processor has `smmla`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn add_square(mut square: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
    // SAFETY: it touches nothing but these registers, and the processor has it.
    unsafe {
        asm!(
            "smmla {square:v}.4s, {weights:v}.16b, {values:v}.16b",
            square = inout(vreg) square,
            weights = in(vreg) weights,
            values = in(vreg) values,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    square
}

/// Of bytes with two rows' 4-bit weights, those of rows 0–7, or those of the rows 8 further on.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(both: uint8x16_t, further_on: bool) -> uint8x16_t {
    if further_on {
        vshrq_n_u8::<4>(both)
    } else {
        vandq_u8(both, vdupq_n_u8(15))
    }
}

const fn packing<const INT4: bool>() -> Packing {
    if INT4 { Packing::Int4 } else { Packing::Int8 }
}

/// Bytes of four columns' weights.
const fn group_bytes<const INT4: bool>() -> usize {
    packing::<INT4>().weights_bytes() / GROUPS
}

/// What the sums of a block begin at: what they will have too much is taken away first.
///
/// # Safety
/// There are so many blocks and tokens.
#[inline(always)]
unsafe fn beginning<const INT4: bool, const T: usize>(tile: Tile<'_>, block: usize, token: usize) -> i32 {
    if !INT4 {
        return 0;
    }
    // SAFETY: as for this function.
    unsafe { *tile.int4_offsets.get_unchecked(block * T + token) }
}

/// Adds the sums of a block, times its scales.
///
/// # Safety
/// The panel has so many blocks, and the tile as well.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_scaled<const T: usize>(
    panel: Panel<'_>,
    tile: Tile<'_>,
    block: usize,
    products: WholeSums<T>,
    sums: &mut Sums<T>,
) {
    // SAFETY: the panel has 16 scales for each block.
    let weights_scales = unsafe { halves(panel.bytes.as_ptr().add(panel.packing.scales_at(block))) };
    for (token, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
        // SAFETY: there are so many blocks and tokens.
        let scale = unsafe { *tile.scales.get_unchecked(block * T + token) };
        for ((sum, product), weights_scale) in sums.iter_mut().zip(products).zip(weights_scales) {
            *sum = vfmaq_f32(*sum, vmulq_n_f32(weights_scale, scale), vcvtq_f32_s32(product));
        }
    }
}

/// Has the line of a cache brought that holds this place, if there is such a place.
#[inline(always)]
fn ask_for(at: *const u8) {
    // SAFETY: it changes nothing that a program could see, wherever it points.
    unsafe {
        asm!("prfm pldl1keep, [{at}]", at = in(reg) at.addr(), options(nomem, nostack, preserves_flags));
    }
}

/// See [`attention::dots`](super::attention::dots).
///
/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn dots(query: &[f32], keys: &[half::f16], into: &mut Vec<f32>) {
    let whole = query.len() / 8 * 8;
    for key in keys.chunks_exact(query.len()) {
        let (mut low, mut high) = (vdupq_n_f32(0.0), vdupq_n_f32(0.0));
        for at in (0..whole).step_by(8) {
            // SAFETY: query and key have eight values from `at` on.
            unsafe {
                let [key_low, key_high] = eight_halves(key.as_ptr().add(at).cast());
                let query = query.as_ptr().add(at);
                low = vfmaq_f32(low, vld1q_f32(query), key_low);
                high = vfmaq_f32(high, vld1q_f32(query.add(4)), key_high);
            }
        }
        let mut sums = [0.0_f32; 8];
        // SAFETY: there are eight floats.
        unsafe {
            vst1q_f32(sums.as_mut_ptr(), low);
            vst1q_f32(sums.as_mut_ptr().add(4), high);
        }
        for (sum, (query, key)) in sums.iter_mut().zip(query[whole..].iter().zip(&key[whole..])) {
            *sum = query.mul_add(key.to_f32(), *sum);
        }
        into.push(sums.iter().sum());
    }
}

/// See [`attention::mix`](super::attention::mix).
///
/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn mix(weights: &[f32], values: &[half::f16], into: &mut [f32]) {
    let whole = into.len() / 8 * 8;
    for (weight, values) in weights.iter().zip(values.chunks_exact(into.len())) {
        for at in (0..whole).step_by(8) {
            // SAFETY: the value and the place have eight values from `at` on.
            unsafe {
                let [low, high] = eight_halves(values.as_ptr().add(at).cast());
                let place = into.as_mut_ptr().add(at);
                vst1q_f32(place, vfmaq_n_f32(vld1q_f32(place), low, *weight));
                let place = place.add(4);
                vst1q_f32(place, vfmaq_n_f32(vld1q_f32(place), high, *weight));
            }
        }
        for (into, value) in into[whole..].iter_mut().zip(&values[whole..]) {
            *into = weight.mul_add(value.to_f32(), *into);
        }
    }
}
