//! How many bits a weight has while a model runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::kernels::Packing;

/// How many bits a weight has while a model runs, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats, by Burn: the reference.
    F32,
    /// 16-bit floats.
    F16,
    /// 8 bits, and a scale for 32 of them.
    Int8,
    /// 4 bits, and a scale for 32 of them.
    Int4,
}

impl Precision {
    /// Each of them, the best first.
    pub const ALL: [Precision; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// So many bits has a weight, its share of a scale left out.
    pub fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// As settings and reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// What suits a model of so many parameters, whose file has so many bytes of them: as good as the file is, up to 8
    /// bits, because a token's time is that of reading all weights. Small models are computed exactly.
    pub fn automatic(parameters: u64, weights_bytes: u64) -> Precision {
        let bits = (weights_bytes as f64 * 8.0) / parameters.max(1) as f64;
        if parameters <= SMALL {
            Self::F32
        } else if bits > MOST_BITS_OF_INT4 {
            Self::Int8
        } else {
            Self::Int4
        }
    }

    pub(crate) fn packing(self) -> Option<Packing> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(Packing::F16),
            Self::Int8 => Some(Packing::Int8),
            Self::Int4 => Some(Packing::Int4),
        }
    }
}

/// Parameters of which the reference takes no time that anybody would notice.
const SMALL: u64 = 1_000_000;
/// Files of 4-bit types have up to 5.5, with their scales and the 6 or 8 bits of their embeddings.
const MOST_BITS_OF_INT4: f64 = 5.6;

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the keys and values of the tokens that a sequence has seen are kept, where the kernels compute a model; the
/// reference keeps 32-bit floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvPrecision {
    /// 16-bit floats.
    #[default]
    F16,
    /// 8 bits, and a scale for 32 of them: a little more than half the memory.
    Int8,
}

impl KvPrecision {
    /// Each of them, the best first.
    pub const ALL: [KvPrecision; 2] = [Self::F16, Self::Int8];

    /// As settings and reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for KvPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Keys and values cannot be kept so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("keys and values are kept as f16 or int8")]
pub struct UnknownKvPrecision;

impl FromStr for KvPrecision {
    type Err = UnknownKvPrecision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or(UnknownKvPrecision)
    }
}

/// There is no such precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are the precisions f32, f16, int8 and int4")]
pub struct UnknownPrecision;

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or(UnknownPrecision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_runs_as_well_as_its_file_has_it_up_to_8_bits() {
        let billion = 1_000_000_000;
        for (parameters, bytes, expected) in [
            (260_000, 1_040_000, Precision::F32),
            (1_000_000, 1_062_500, Precision::F32),
            (6_160_000, 6_545_000, Precision::Int8),
            (billion, 2 * billion, Precision::Int8),
            (billion, billion * 17 / 16, Precision::Int8),
            (billion, billion * 9 / 16, Precision::Int4),
            (0, 0, Precision::F32),
        ] {
            assert_eq!(Precision::automatic(parameters, bytes), expected);
        }
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse(), Ok(precision));
        }
        assert!("int5".parse::<Precision>().is_err());
        for precision in KvPrecision::ALL {
            assert_eq!(precision.name().parse(), Ok(precision));
        }
        assert!("f32".parse::<KvPrecision>().is_err());
    }
}
