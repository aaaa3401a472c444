//! The GGUF reader takes any bytes: an error or a file whose tensors lie inside it, in whole blocks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use models::format::blocks::{BlockType, dequantise};
use models::format::gguf::{Gguf, Value};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    for tensor in &gguf.tensors {
        assert!(tensor.data.start < tensor.data.end && tensor.data.end <= bytes.len());
        if let Some(block_type) = BlockType::of(tensor.tensor_type) {
            let values = dequantise(block_type, &bytes[tensor.data.clone()]).expect("whole blocks");
            assert_eq!(values.len(), tensor.shape.iter().product::<usize>());
        }
    }
    for key in [
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.merges",
    ] {
        if let Some(array) = gguf.array(key) {
            assert_eq!(array.iter().count(), array.len());
            // Arrays of arrays are walked one level down; deeper ones are the same code.
            for value in array.iter() {
                if let Value::Array(inner) = value {
                    assert_eq!(inner.iter().count(), inner.len());
                }
            }
        }
    }
});
