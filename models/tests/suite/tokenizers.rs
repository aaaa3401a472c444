//! Text splits into the very tokens that the reference implementations give, and comes back.

use std::path::Path;

use models::Tokenizer;
use serde_json::Value;

fn llama_cpp_vectors(gguf: &Path) {
    let tokenizer = Tokenizer::load(gguf).unwrap();
    let beside = |extension: &str| {
        let mut path = gguf.as_os_str().to_owned();
        path.push(extension);
        std::fs::read_to_string(path).unwrap()
    };
    let texts = beside(".inp");
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let expected = beside(".out");
    let expected: Vec<Vec<u32>> = expected
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
    let mut failures = Vec::new();
    for (index, expected) in expected.iter().enumerate() {
        let text = texts[index];
        let found = tokenizer.encode(text).unwrap();
        if found != *expected {
            failures.push(format!(
                "{index} {text:?}\n  found    {found:?}\n  expected {expected:?}"
            ));
        }
        assert_eq!(tokenizer.decode(expected), text, "decoding text {index}");
    }
    assert!(expected.len() >= 46, "only {} vectors", expected.len());
    assert!(
        failures.is_empty(),
        "{} of {} differ:\n{}",
        failures.len(),
        expected.len(),
        failures.join("\n")
    );
}

#[test]
fn sentence_piece_from_gguf() {
    llama_cpp_vectors(&shared!("tokenizers/llama.cpp/ggml-vocab-llama-spm.gguf"));
}

#[test]
fn byte_level_from_gguf() {
    llama_cpp_vectors(&shared!("tokenizers/llama.cpp/ggml-vocab-gpt-2.gguf"));
}

#[test]
fn smollm2_from_tokenizer_json() {
    let tokenizer = Tokenizer::load(&shared!("tokenizers/smollm2/tokenizer.json")).unwrap();
    let golden = std::fs::read(shared!("tokenizers/smollm2/golden_ids.json")).unwrap();
    let golden: Vec<Value> = serde_json::from_slice(&golden).unwrap();
    for case in &golden {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected), text);
    }
    assert!(golden.len() >= 40, "only {} cases", golden.len());
    assert_eq!(tokenizer.vocabulary_size(), 49_152);
}

#[test]
fn stories_splits_alike_from_both_files() {
    let golden = std::fs::read(shared!("models/stories260K/golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    for path in [
        "models/stories260K/stories260K-f32.gguf",
        "models/stories260K/hf/tokenizer.json",
    ] {
        let tokenizer = Tokenizer::load(&shared!(path)).unwrap();
        for (text, expected) in golden["tokenize"].as_object().unwrap() {
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{path}: {text:?}");
            let with_bos: Vec<u32> = std::iter::once(1).chain(expected).collect();
            assert_eq!(tokenizer.encode_prompt(text).unwrap(), with_bos);
        }
        assert!(tokenizer.is_end(2) && !tokenizer.is_end(1));
        assert_eq!(tokenizer.bos(), Some(1));
    }
}

#[test]
fn special_tokens_come_only_from_templates() {
    let tokenizer = Tokenizer::load(&shared!("tokenizers/smollm2/tokenizer.json")).unwrap();
    let [im_start, im_end] = [1, 2];
    let text = "<|im_start|>user\nhi<|im_end|>\n";
    assert!(!tokenizer.encode(text).unwrap().contains(&im_start));
    let tokens = tokenizer.encode_template(text).unwrap();
    assert_eq!(tokens[0], im_start);
    assert_eq!(
        tokens
            .iter()
            .filter(|token| [im_start, im_end].contains(token))
            .count(),
        2
    );
    let letters = tokenizer.encode(text).unwrap();
    assert_eq!(tokenizer.decode(&letters), text);
}

#[test]
fn the_post_processor_tells_which_token_begins_a_text() {
    let (_keep, path) = crate::support::file("tokenizer.json", include_bytes!("support/tokenizer.json"));
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!(tokenizer.bos(), Some(1));
    assert_eq!(tokenizer.encode_prompt("ab é").unwrap(), [1, 3, 6, 3, 8, 9]);
    assert_eq!(tokenizer.decode(&[1, 3, 6, 3, 8, 9]), "ab é");
}
