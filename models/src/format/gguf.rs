//! The GGUF container, versions 2 and 3, little-endian: metadata, a table of tensors, aligned tensor data.
//!
//! [`Gguf::parse`] only borrows: strings and arrays stay in the (memory-mapped) file, every count, length and offset is
//! checked against what the file still holds before anything is allocated, and so the tables built here are at most a
//! small multiple of the bytes that describe them, whatever those bytes claim.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Problem;

/// A parsed file: what it says about itself and where its tensors lie.
#[derive(Debug)]
pub struct Gguf<'a> {
    /// Format version, 2 or 3.
    pub version: u32,
    /// Tensors in the file's order. Their data ranges lie inside the file and do not overlap.
    pub tensors: Vec<TensorInfo<'a>>,
    metadata: HashMap<&'a str, Value<'a>>,
}

/// One tensor of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo<'a> {
    /// Its name, unique in the file.
    pub name: &'a str,
    /// Rows first: ggml's own order reversed. One to four dimensions, none of them 0.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub tensor_type: TensorType,
    /// Bytes of the whole file that hold it.
    pub data: Range<usize>,
}

/// A metadata value; texts and arrays are views into the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any of the unsigned and the non-negative signed integer types.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// Either float type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    String(&'a str),
    /// Values of one type.
    Array(Array<'a>),
}

/// An array that is still in the file; its elements were checked by [`Gguf::parse`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element_type: u32,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in order; arrays of arrays give arrays.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let element_type = self.element_type;
        let mut reader = Reader {
            bytes: self.bytes,
            position: 0,
        };
        // The range was walked once already, so an error cannot come; if one did, the iteration would end early.
        (0..self.count).map_while(move |_| reader.value(element_type, 0).ok())
    }
}

impl<'a> Gguf<'a> {
    /// Reads header, metadata and tensor table, and checks that every tensor lies in the file.
    ///
    /// # Errors
    /// [`Problem::NotAModel`] without the magic number, [`Problem::Unsupported`] for another version or byte order,
    /// [`Problem::Malformed`] for everything that contradicts the format or the file's length.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Problem> {
        let mut reader = Reader { bytes, position: 0 };
        if bytes.get(..4) != Some(b"GGUF") {
            return Err(Problem::NotAModel(
                "it does not begin with the letters GGUF".into(),
            ));
        }
        reader.take(4)?;
        let version = reader.u32()?;
        check_version(version)?;
        let tensor_count = reader.u64()?;
        let metadata_count = reader.u64()?;

        let mut metadata = HashMap::new();
        for _ in 0..reader.count(metadata_count, MIN_METADATA_BYTES, "metadata entries")? {
            let key = reader.string()?;
            let value_type = reader.u32()?;
            let value = reader
                .value(value_type, 0)
                .map_err(|problem| within(key, problem))?;
            if metadata.insert(key, value).is_some() {
                return Err(malformed(format!("the metadata key {key:?} occurs twice")));
            }
        }

        let mut tensors = Vec::new();
        for _ in 0..reader.count(tensor_count, MIN_TENSOR_BYTES, "tensors")? {
            tensors.push(reader.tensor_info()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= MAX_ALIGNMENT => {
                *value as usize
            }
            Some(other) => {
                return Err(malformed(format!(
                    "general.alignment is {other:?}, not a power of two up to 1 MiB"
                )));
            }
        };
        place_tensors(&mut tensors, reader.position, alignment, bytes.len())?;
        Ok(Self {
            version,
            tensors,
            metadata,
        })
    }

    /// The value under this key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.metadata.get(key).copied()
    }

    /// The text under this key, if there is one.
    pub fn string(&self, key: &str) -> Option<&'a str> {
        match self.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The non-negative integer under this key, if there is one.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Unsigned(value)) => Some(value),
            _ => None,
        }
    }

    /// The number under this key, if there is one; integers are taken too.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.get(key) {
            Some(Value::Float(value)) => Some(value),
            Some(Value::Unsigned(value)) => Some(value as f64),
            _ => None,
        }
    }

    /// The truth value under this key, if there is one.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(value)) => Some(value),
            _ => None,
        }
    }

    /// The array under this key, if there is one.
    pub fn array(&self, key: &str) -> Option<Array<'a>> {
        match self.get(key) {
            Some(Value::Array(array)) => Some(array),
            _ => None,
        }
    }
}

const DEFAULT_ALIGNMENT: usize = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
/// An empty key (8), a type (4) and one byte of value.
const MIN_METADATA_BYTES: usize = 13;
/// An empty name (8), the number of dimensions (4), one dimension (8), the type (4), the offset (8).
const MIN_TENSOR_BYTES: usize = 32;
/// Arrays of arrays are legal though nobody writes them; the bound keeps the recursion off the stack's end.
const MAX_ARRAY_DEPTH: usize = 4;
/// ggml's own bound on the dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;

fn check_version(version: u32) -> Result<(), Problem> {
    match version {
        2 | 3 => Ok(()),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(Problem::Unsupported {
            what: "the GGUF file is big-endian".into(),
            remedy: "convert the model again without --bigendian, or download the little-endian file",
        }),
        _ => Err(Problem::Unsupported {
            what: format!("GGUF version {version} is unknown, only 2 and 3 can be read"),
            remedy: "convert the model again with a current convert_hf_to_gguf.py",
        }),
    }
}

/// Turns the tensors' offsets, so far relative to the data section, into ranges of the file.
fn place_tensors(
    tensors: &mut [TensorInfo<'_>],
    table_end: usize,
    alignment: usize,
    file_length: usize,
) -> Result<(), Problem> {
    let data_start = table_end
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| malformed("the tensor table has no end".into()))?;
    for tensor in tensors.iter_mut() {
        let TensorInfo {
            name,
            data: Range { start, end },
            ..
        } = tensor;
        if !start.is_multiple_of(alignment) {
            return Err(malformed(format!(
                "tensor {name:?} is not aligned to {alignment} bytes"
            )));
        }
        let placed = start.checked_add(data_start).zip(end.checked_add(data_start));
        let Some((placed_start, placed_end)) = placed.filter(|&(_, end)| end <= file_length) else {
            return Err(malformed(format!(
                "tensor {name:?} ends beyond the file, which has {file_length} bytes"
            )));
        };
        tensor.data = placed_start..placed_end;
    }
    // Tensors that share bytes could make a small file ask for any amount of memory when it is loaded.
    let mut by_position: Vec<&TensorInfo<'_>> = tensors.iter().collect();
    by_position.sort_unstable_by_key(|tensor| tensor.data.start);
    if let Some(pair) = by_position
        .windows(2)
        .find(|pair| pair[0].data.end > pair[1].data.start)
    {
        return Err(malformed(format!(
            "tensors {:?} and {:?} overlap",
            pair[0].name, pair[1].name
        )));
    }
    let mut by_name: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
    by_name.sort_unstable();
    if let Some(pair) = by_name.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(malformed(format!("tensor {:?} occurs twice", pair[0])));
    }
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let taken = self
            .position
            .checked_add(length)
            .and_then(|end| self.bytes.get(self.position..end));
        let Some(taken) = taken else {
            return Err(malformed(format!(
                "byte {} should begin {length} bytes, but the file ends at {}",
                self.position,
                self.bytes.len()
            )));
        };
        self.position += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A claimed number of things of at least `min_bytes` each, believed only if the file can hold them.
    fn count(&self, claimed: u64, min_bytes: usize, what: &str) -> Result<usize, Problem> {
        let left = self.bytes.len() - self.position;
        usize::try_from(claimed)
            .ok()
            .filter(|count| count.checked_mul(min_bytes).is_some_and(|bytes| bytes <= left))
            .ok_or_else(|| {
                malformed(format!(
                    "it claims {claimed} {what}, but only {left} bytes are left"
                ))
            })
    }

    fn string(&mut self) -> Result<&'a str, Problem> {
        let claimed = self.u64()?;
        let length = self.count(claimed, 1, "bytes of text")?;
        let start = self.position;
        std::str::from_utf8(self.take(length)?)
            .map_err(|_| malformed(format!("the text at byte {start} is not UTF-8")))
    }

    fn value(&mut self, value_type: u32, depth: usize) -> Result<Value<'a>, Problem> {
        let signed = |value: i64| u64::try_from(value).map_or(Value::Negative(value), Value::Unsigned);
        Ok(match value_type {
            0 => Value::Unsigned(u64::from(u8::from_le_bytes(self.array()?))),
            1 => signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(malformed(format!("{other} is not a truth value"))),
            },
            8 => Value::String(self.string()?),
            9 => Value::Array(self.nested(depth)?),
            10 => Value::Unsigned(self.u64()?),
            11 => signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(malformed(format!("{other} is not a metadata type"))),
        })
    }

    fn nested(&mut self, depth: usize) -> Result<Array<'a>, Problem> {
        if depth >= MAX_ARRAY_DEPTH {
            return Err(malformed(format!(
                "arrays are nested deeper than {MAX_ARRAY_DEPTH}"
            )));
        }
        let element_type = self.u32()?;
        let claimed = self.u64()?;
        let min_bytes = match element_type {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return Err(malformed(format!("{other} is not a metadata type"))),
        };
        let count = self.count(claimed, min_bytes, "array elements")?;
        let start = self.position;
        for _ in 0..count {
            self.value(element_type, depth + 1)?;
        }
        Ok(Array {
            element_type,
            count,
            bytes: &self.bytes[start..self.position],
        })
    }

    /// Name, shape and type; the data range is still relative to the data section.
    fn tensor_info(&mut self) -> Result<TensorInfo<'a>, Problem> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(malformed(format!("tensor {name:?} has {dimensions} dimensions")));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let dimension = self.u64()?;
            match usize::try_from(dimension) {
                Ok(dimension) if dimension > 0 => shape.push(dimension),
                _ => {
                    return Err(malformed(format!(
                        "tensor {name:?} has a dimension of {dimension}"
                    )));
                }
            }
        }
        let tensor_type = TensorType(self.u32()?);
        let offset = self.u64()?;
        let row = shape[0];
        shape.reverse();
        let bytes = tensor_type
            .bytes_of(row, &shape)
            .map_err(|problem| within(name, problem))?;
        let start = usize::try_from(offset).ok();
        let Some((start, end)) = start.and_then(|start| Some((start, start.checked_add(bytes)?))) else {
            return Err(malformed(format!("tensor {name:?} has the offset {offset}")));
        };
        Ok(TensorInfo {
            name,
            shape,
            tensor_type,
            data: start..end,
        })
    }
}

/// The architecture that a file names, read from the file's beginning alone: enough to refuse one before all of it is
/// there. None where the beginning does not tell.
pub fn architecture_of(beginning: &[u8]) -> Option<&str> {
    let mut reader = Reader {
        bytes: beginning,
        position: 0,
    };
    if reader.take(4).ok()? != b"GGUF" {
        return None;
    }
    check_version(reader.u32().ok()?).ok()?;
    reader.u64().ok()?;
    // Files have it first, or nearly so.
    for _ in 0..reader.u64().ok()? {
        let key = reader.string().ok()?;
        let value_type = reader.u32().ok()?;
        let value = reader.value(value_type, 0).ok()?;
        if key == "general.architecture" {
            return match value {
                Value::String(name) => Some(name),
                _ => None,
            };
        }
    }
    None
}

/// How ggml stores a tensor's elements, by ggml's own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType(pub u32);

impl TensorType {
    /// 32-bit floats.
    pub const F32: Self = Self(0);
    /// 16-bit IEEE floats.
    pub const F16: Self = Self(1);
    /// The upper half of a 32-bit float.
    pub const BF16: Self = Self(30);

    /// ggml's name for it, `unknown type 99` where there is none.
    pub fn name(self) -> String {
        match self.known() {
            Some((_, name, _, _)) => (*name).to_owned(),
            None => format!("unknown type {}", self.0),
        }
    }

    fn known(self) -> Option<&'static (u32, &'static str, usize, usize)> {
        TENSOR_TYPES.iter().find(|(number, ..)| *number == self.0)
    }

    fn bytes_of(self, row: usize, shape: &[usize]) -> Result<usize, Problem> {
        let Some(&(_, name, block_elements, block_bytes)) = self.known() else {
            return Err(Problem::Unsupported {
                what: format!("it has the unknown type {}", self.0),
                remedy: "download the model as F16, or convert it again",
            });
        };
        if !row.is_multiple_of(block_elements) {
            return Err(malformed(format!(
                "rows of {row} elements do not divide into {name} blocks"
            )));
        }
        shape
            .iter()
            .try_fold(1usize, |product, &dimension| product.checked_mul(dimension))
            .and_then(|elements| (elements / block_elements).checked_mul(block_bytes))
            .ok_or_else(|| malformed(format!("a shape of {shape:?} is too large")))
    }
}

/// Number, name, elements of a block, bytes of a block (ggml.h and ggml-common.h; 4, 5, 31–33 and 36–38 were removed).
const TENSOR_TYPES: &[(u32, &str, usize, usize)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

fn malformed(what: String) -> Problem {
    Problem::Malformed(what)
}

/// Says in which entry a problem was found.
fn within(name: &str, problem: Problem) -> Problem {
    match problem {
        Problem::Malformed(what) => Problem::Malformed(format!("{name:?}: {what}")),
        Problem::Unsupported { what, remedy } => Problem::Unsupported {
            what: format!("{name:?}: {what}"),
            remedy,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::format::blocks::BlockType;

    #[test]
    fn block_types_have_the_sizes_of_the_table() {
        for block_type in BlockType::ALL {
            let known = block_type.tensor_type().known();
            let (_, name, values, bytes) = known.copied().unwrap_or_default();
            assert_eq!((name, values), (block_type.name(), block_type.block_values()));
            assert_eq!(bytes, block_type.block_bytes());
        }
    }
}
