//! ggml's block types: a fixed number of values share their scales, and each is a few bits. Plain and exact; the
//! oracle of whatever computes on blocks without unpacking them.
//!
//! The numbers equal those of ggml's `dequantize_row_*` to the bit. Every product of a 16-bit scale, a scale of at most
//! 8 bits and a quant of at most 8 fits a 32-bit float's 24 bits, so that only the last addition rounds, and neither
//! the order of the products nor a fused multiply-add (which C compilers put in) can change anything.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c>, layouts in `ggml-common.h` beside it.

mod iq4;
mod k_quants;
mod legacy;

use half::f16;
use thiserror::Error;

use super::gguf::TensorType;

/// A type whose values come in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 8 bits and a scale.
    Q8_0,
    /// `Q2_K`: 2 bits, groups of 16 with scales and minima of 4 bits.
    Q2K,
    /// `Q3_K`: 3 bits, groups of 16 with scales of 6 bits.
    Q3K,
    /// `Q4_K`: 4 bits, groups of 32 with scales and minima of 6 bits.
    Q4K,
    /// `Q5_K`: 5 bits, groups of 32 with scales and minima of 6 bits.
    Q5K,
    /// `Q6_K`: 6 bits, groups of 16 with scales of 8 bits.
    Q6K,
    /// `IQ4_NL`: 4 bits that choose among 16 unevenly spaced values, and a scale.
    Iq4Nl,
}

/// Bytes and values that do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{bytes} bytes are not {values} values in whole blocks of {}", block_type.name())]
pub struct WrongLength {
    /// What the bytes should have been.
    pub block_type: BlockType,
    /// How many there were.
    pub bytes: usize,
    /// How many values they should have given.
    pub values: usize,
}

impl BlockType {
    /// Every type, in the order of ggml's numbers.
    pub const ALL: [Self; 11] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
    ];

    /// The block type that a tensor of this type has, if it has one that can be read.
    pub fn of(tensor_type: TensorType) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|block_type| block_type.tensor_type() == tensor_type)
    }

    /// Its number in a GGUF file.
    pub fn tensor_type(self) -> TensorType {
        TensorType(match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Iq4Nl => 20,
        })
    }

    /// ggml's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
        }
    }

    /// Values of a block.
    pub const fn block_values(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => legacy::VALUES,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => k_quants::VALUES,
            Self::Iq4Nl => iq4::VALUES,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => legacy::Q4_0_BYTES,
            Self::Q4_1 => legacy::Q4_1_BYTES,
            Self::Q5_0 => legacy::Q5_0_BYTES,
            Self::Q5_1 => legacy::Q5_1_BYTES,
            Self::Q8_0 => legacy::Q8_0_BYTES,
            Self::Q2K => k_quants::Q2_K_BYTES,
            Self::Q3K => k_quants::Q3_K_BYTES,
            Self::Q4K => k_quants::Q4_K_BYTES,
            Self::Q5K => k_quants::Q5_K_BYTES,
            Self::Q6K => k_quants::Q6_K_BYTES,
            Self::Iq4Nl => iq4::IQ4_NL_BYTES,
        }
    }

    /// Bytes of a row of so many values; `None` where they are not whole blocks.
    pub fn row_bytes(self, values: usize) -> Option<usize> {
        if !values.is_multiple_of(self.block_values()) {
            return None;
        }
        (values / self.block_values()).checked_mul(self.block_bytes())
    }
}

/// The values of whole blocks.
///
/// # Errors
/// [`WrongLength`] where the bytes are not whole blocks.
pub fn dequantise(block_type: BlockType, bytes: &[u8]) -> Result<Vec<f32>, WrongLength> {
    let blocks = bytes.len() / block_type.block_bytes();
    let mut values = vec![0.0; blocks * block_type.block_values()];
    dequantise_into(block_type, bytes, &mut values)?;
    Ok(values)
}

/// Writes the values of whole blocks, a row of a matrix for example; allocates nothing.
///
/// # Errors
/// [`WrongLength`] where the bytes are not whole blocks or `values` is not as long as they ask for; `values` is
/// untouched then.
pub fn dequantise_into(block_type: BlockType, bytes: &[u8], values: &mut [f32]) -> Result<(), WrongLength> {
    let lengths = (bytes.len(), values.len());
    let done = match block_type {
        BlockType::Q4_0 => each_block(bytes, values, legacy::q4_0),
        BlockType::Q4_1 => each_block(bytes, values, legacy::q4_1),
        BlockType::Q5_0 => each_block(bytes, values, legacy::q5_0),
        BlockType::Q5_1 => each_block(bytes, values, legacy::q5_1),
        BlockType::Q8_0 => each_block(bytes, values, legacy::q8_0),
        BlockType::Q2K => each_block(bytes, values, k_quants::q2_k),
        BlockType::Q3K => each_block(bytes, values, k_quants::q3_k),
        BlockType::Q4K => each_block(bytes, values, k_quants::q4_k),
        BlockType::Q5K => each_block(bytes, values, k_quants::q5_k),
        BlockType::Q6K => each_block(bytes, values, k_quants::q6_k),
        BlockType::Iq4Nl => each_block(bytes, values, iq4::iq4_nl),
    };
    done.ok_or(WrongLength {
        block_type,
        bytes: lengths.0,
        values: lengths.1,
    })
}

/// Arrays instead of slices, so that no index into a block can be out of bounds whatever the file holds.
fn each_block<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    values: &mut [f32],
    dequantise: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) -> Option<()> {
    let (blocks, bytes_left) = bytes.as_chunks::<BYTES>();
    let (groups, values_left) = values.as_chunks_mut::<VALUES>();
    if !bytes_left.is_empty() || !values_left.is_empty() || blocks.len() != groups.len() {
        return None;
    }
    for (block, values) in blocks.iter().zip(groups) {
        dequantise(block, values);
    }
    Some(())
}

fn float(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}
