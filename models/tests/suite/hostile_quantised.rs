//! Quantised tensors that are cut short, of absurd shapes or of types that cannot be read, and what is said of them.

use models::Model;
use models::format::blocks::BlockType;

use crate::gguf_reader::peak_of;
use crate::hostile_files::says;
use crate::support::{GgufWriter, file, model_of, tiny_model, tiny_tensors};

#[test]
fn an_unsupported_tensor_type_is_named() {
    let bytes = tiny_model().bytes();
    let gguf = models::format::gguf::Gguf::parse(&bytes).unwrap();
    let vocabulary = gguf.tensors[0].shape[0];
    // The table's entry of a tensor: its name, then dimensions, then the type.
    let (name, shape) = &tiny_tensors(vocabulary)[3];
    let at = bytes
        .windows(name.len())
        .position(|window| window == name.as_bytes())
        .unwrap();
    let at = at + name.len() + 4 + 8 * shape.len();
    let mut changed = bytes.clone();
    changed[at] = 26; // I32: as long as F32
    let (_keep, path) = file("i.gguf", &changed);
    says(
        &path,
        &[
            "blk.0.attn_q.weight",
            "I32",
            "F32, F16, BF16, Q4_0",
            "--outtype q8_0",
        ],
    );
}

#[test]
fn quantised_types_that_cannot_be_read_are_named() {
    for (name, tensor_type, values, bytes) in [
        ("Q8_1", 9, 32, 36),
        ("IQ4_XS", 23, 256, 136),
        ("IQ1_M", 29, 256, 56),
        ("TQ2_0", 35, 256, 66),
        ("MXFP4", 39, 32, 17),
        ("NVFP4", 40, 64, 36),
        ("Q1_0", 41, 128, 18),
        ("Q2_0", 42, 64, 18),
    ] {
        let model = model_of([256, 256], |shape| match shape {
            &[width] => (0, vec![0; 4 * width]),
            shape => (
                tensor_type,
                vec![0; shape.iter().product::<usize>() / values * bytes],
            ),
        });
        let (_keep, path) = file("q.gguf", &model.bytes());
        says(
            &path,
            &["token_embd.weight", name, "Q2_K to Q6_K", "--outtype q8_0"],
        );
    }
}

/// A model of one row size that whole blocks of any type fit, its weights all zeros.
pub(crate) fn quantised_model(block_type: BlockType) -> GgufWriter {
    let size = block_type.block_values();
    model_of([size, size], |shape| {
        let values = shape.iter().product();
        let bytes = block_type.row_bytes(values).unwrap();
        (block_type.tensor_type().0, vec![0; bytes])
    })
}

#[test]
fn quantised_tensors_that_are_cut_short_say_so() {
    for block_type in BlockType::ALL {
        let bytes = quantised_model(block_type).bytes();
        let (_keep, path) = file("whole.gguf", &bytes);
        Model::load(&path).unwrap();
        let gguf = models::format::gguf::Gguf::parse(&bytes).unwrap();
        let end = gguf.tensors.iter().map(|tensor| tensor.data.end).max().unwrap();
        for length in [end - 1, end - block_type.block_bytes(), end / 2] {
            let (_keep, path) = file("cut.gguf", &bytes[..length]);
            says(
                &path,
                &[
                    "damaged or cut short",
                    "beyond the file",
                    "download or convert it again",
                ],
            );
        }
    }
}

#[test]
fn quantised_rows_are_whole_blocks() {
    for block_type in BlockType::ALL {
        let (number, block) = (block_type.tensor_type().0, block_type.block_values());
        // As many values as some blocks have, but not in each row.
        for shape in [
            vec![8, block / 8],
            vec![2, block + block / 2],
            vec![block, 1],
            vec![1],
        ] {
            let mut writer = GgufWriter::default();
            writer.tensor("t", &shape, number, &vec![0; 4 * block_type.block_bytes()]);
            let (_keep, path) = file("rows.gguf", &writer.bytes());
            says(
                &path,
                &[
                    "damaged or cut short",
                    "\"t\"",
                    &format!("do not divide into {} blocks", block_type.name()),
                ],
            );
        }
    }
}

#[test]
fn absurd_shapes_of_quantised_tensors_cost_no_memory() {
    for block_type in BlockType::ALL {
        let number = block_type.tensor_type().0;
        for (shape, word) in [
            (vec![1 << 40, 256], "beyond the file"),
            (vec![1 << 20, 1 << 30], "beyond the file"),
            (vec![usize::MAX, 256], "too large"),
            (vec![1 << 40, 1 << 16, 256], "too large"),
            (vec![usize::MAX - 255], "\"t\""),
        ] {
            let mut writer = tiny_model();
            writer.entry("t", &shape, number, 0);
            let (_keep, path) = file("absurd.gguf", &writer.bytes());
            says(&path, &["damaged or cut short", "\"t\"", word]);
            let (_, peak) = peak_of(|| models::inspect(&path).map(drop));
            assert!(peak < 1 << 20, "{peak} bytes for {shape:?}");
        }
    }
}
