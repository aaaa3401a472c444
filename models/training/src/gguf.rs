//! The learnt network as a GGUF file (ggml's specification, version 3): matrices in Q8_0, norms in f32.

use std::io::{self, Write};

/// A value of the metadata.
pub enum Meta {
    /// A text.
    Text(String),
    /// A number.
    Number(u32),
    /// A number with a fraction.
    Float(f32),
    /// Yes or no.
    Flag(bool),
    /// Texts.
    Texts(Vec<String>),
    /// Numbers with a sign, 32 bits each.
    Numbers(Vec<i32>),
}

/// A tensor, as the file has it: the fastest dimension first.
pub struct FileTensor {
    /// Its name.
    pub name: String,
    /// Fastest first.
    pub shape: Vec<usize>,
    /// In row order.
    pub values: Vec<f32>,
    /// Q8_0, not f32.
    pub quantised: bool,
}

const ALIGNMENT: usize = 32;
const BLOCK: usize = 32;

/// Writes a file.
///
/// # Errors
/// The writer's.
pub fn write(out: &mut impl Write, metadata: &[(String, Meta)], tensors: &[FileTensor]) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3_u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        meta(&mut head, value);
    }
    let bodies: Vec<Vec<u8>> = tensors.iter().map(body).collect();
    let mut offset = 0;
    for (tensor, body) in tensors.iter().zip(&bodies) {
        text(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for size in &tensor.shape {
            head.extend((*size as u64).to_le_bytes());
        }
        head.extend(if tensor.quantised { 8_u32 } else { 0 }.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += body.len().next_multiple_of(ALIGNMENT);
    }
    pad(&mut head);
    out.write_all(&head)?;
    for mut body in bodies {
        pad(&mut body);
        out.write_all(&body)?;
    }
    Ok(())
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn meta(out: &mut Vec<u8>, value: &Meta) {
    match value {
        Meta::Number(number) => {
            out.extend(4_u32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Meta::Float(number) => {
            out.extend(6_u32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Meta::Flag(flag) => {
            out.extend(7_u32.to_le_bytes());
            out.push(u8::from(*flag));
        }
        Meta::Text(value) => {
            out.extend(8_u32.to_le_bytes());
            text(out, value);
        }
        Meta::Texts(values) => {
            out.extend(9_u32.to_le_bytes());
            out.extend(8_u32.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| text(out, value));
        }
        Meta::Numbers(values) => {
            out.extend(9_u32.to_le_bytes());
            out.extend(5_u32.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}

fn body(tensor: &FileTensor) -> Vec<u8> {
    if !tensor.quantised {
        return tensor
            .values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
    }
    let mut bytes = Vec::with_capacity(tensor.values.len() / BLOCK * (BLOCK + 2));
    // A row is a whole number of blocks, since every width here is a multiple of 32.
    for block in tensor.values.chunks(BLOCK) {
        let largest = block
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        bytes.extend(half(scale).to_le_bytes());
        bytes.extend(
            block
                .iter()
                .map(|value| (value * inverse).round().clamp(-127.0, 127.0) as i8 as u8),
        );
    }
    bytes
}

/// The nearest number of 16 bits (IEEE 754 binary16), for the scales of blocks: positive, and neither huge nor tiny.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xFF) as i32 - 127 + 15;
    let mantissa = bits & 0x007F_FFFF;
    if exponent <= 0 {
        // Subnormal, or nothing.
        let steps = value * 16_777_216.0;
        return steps.round().clamp(0.0, 1023.0) as u16;
    }
    let rounded = ((exponent as u32) << 10 | mantissa >> 13) + (mantissa >> 12 & 1);
    u16::try_from(rounded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_the_nearest_that_16_bits_have() {
        for (value, bits) in [
            (1.0, 0x3C00),
            (0.5, 0x3800),
            (0.1, 0x2E66),
            (0.0, 0),
            (6.0e-5, 0x03EF),
            (1.0e-4, 0x068E),
        ] {
            assert_eq!(half(value), bits, "{value}");
        }
    }
}
