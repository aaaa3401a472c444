//! The hot path: products of packed weights with the activations of one or many tokens, on plain slices.
//!
//! A matrix is packed in *panels* of 16 rows, which lie interleaved: what 16 rows have in the same columns is read
//! together, a row a lane, so that weights stream from memory in one direction and no sum is taken across lanes.
//! Activations are quantised to 8 bits in blocks of 32, each with its scale, before they meet 4- or 8-bit weights.
//!
//! **Every output is one chain of operations whose order depends on nothing but the columns**: not on how many tokens
//! there are, which thread computes it, or which instructions are used. So prefill, decode and any batch agree to the
//! bit, and every instruction set agrees with [`scalar`].

mod activations;
pub(crate) mod attention;
pub(crate) mod attention_int8;
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "instructions that not every processor has, and reads past what slices can say"
)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "instructions that not every processor has, and reads past what slices can say"
)]
mod avx2_attention;
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "instructions that not every processor has, and reads past what slices can say"
)]
mod avx512;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
#[allow(
    unsafe_code,
    reason = "instructions that not every processor has, and reads past what slices can say"
)]
mod neon;
mod pack;
mod pool;
mod product;
mod scalar;
mod shared;

use serde::{Deserialize, Serialize};

pub(crate) use activations::Activations;
pub(crate) use pack::PackedMatrix;
pub(crate) use pool::Pool;
pub(crate) use product::{Instructions, multiply};
pub(crate) use shared::Shared;

/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;
/// Columns that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Columns come in as many as make whole lines of a cache with their scales, so that panels are read from one end to
/// the other and no load goes across two lines.
pub(crate) const PADDING: usize = 2 * BLOCK;

/// How packed weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Packing {
    /// Half-packing floats.
    F16,
    /// 8 bits and a scale for 32 of them.
    Int8,
    /// 4 bits and a scale for 32 of them.
    Int4,
}

impl Packing {
    /// Each of them, the best first.
    #[cfg(test)]
    pub(crate) const ALL: [Packing; 3] = [Self::F16, Self::Int8, Self::Int4];

    /// Bytes that the weights of a block of columns of one panel take.
    pub(crate) const fn weights_bytes(self) -> usize {
        match self {
            Self::F16 => PANEL_ROWS * BLOCK * 2,
            Self::Int8 => PANEL_ROWS * BLOCK,
            Self::Int4 => PANEL_ROWS * BLOCK / 2,
        }
    }

    /// Bytes that the scales of such a block take.
    pub(crate) const fn scales_bytes(self) -> usize {
        match self {
            Self::F16 => 0,
            Self::Int8 | Self::Int4 => PANEL_ROWS * 2,
        }
    }
}
