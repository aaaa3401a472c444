//! Text splits into the very tokens that the reference implementations give, and comes back.

use std::path::Path;

use models::Tokenizer;
use serde_json::Value;

use crate::gguf_reader::kept_by;
use crate::support::{GgufWriter, file};

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
    let mut expected: Vec<Vec<u32>> = expected
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
    // The file ends with a separator: the text behind it is empty, and has no line of its own.
    assert_eq!((texts.len(), texts.last(), expected.len()), (47, Some(&""), 46));
    expected.push(Vec::new());
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
fn no_memory_is_kept_of_the_texts_that_were_encoded() {
    for path in [
        shared!("tokenizers/llama.cpp/ggml-vocab-llama-spm.gguf"),
        shared!("tokenizers/llama.cpp/ggml-vocab-gpt-2.gguf"),
        shared!("tokenizers/smollm2/tokenizer.json"),
    ] {
        let tokenizer = Tokenizer::load(&path).unwrap();
        let encode = |number: u32| {
            let text = format!("Words that were never there before: w{number}, x{number}x, {number}.");
            assert!(!tokenizer.encode(&text).unwrap().is_empty());
        };
        // What the library makes once.
        (0..10).for_each(encode);
        let kept = kept_by(|| (10..500).for_each(encode));
        assert!(kept < 1024, "{kept} bytes, {}", path.display());
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
    let (_keep, path) = file("tokenizer.json", include_bytes!("support/tokenizer.json"));
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!(tokenizer.bos(), Some(1));
    assert_eq!(tokenizer.encode_prompt("ab é").unwrap(), [1, 3, 6, 3, 8, 9]);
    assert_eq!(tokenizer.decode(&[1, 3, 6, 3, 8, 9]), "ab é");
}

/// SmolLM2's vocabulary as a GGUF file, cut in the named way.
fn smollm2_as_gguf(pre: &str) -> Option<Tokenizer> {
    let json = std::fs::read(crate::support::shared("tokenizers/smollm2/tokenizer.json")?).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let vocabulary = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![""; vocabulary.len()];
    for (token, id) in vocabulary {
        tokens[id.as_u64().unwrap() as usize] = token;
    }
    let mut kinds = vec![1; tokens.len()];
    for added in json["added_tokens"].as_array().unwrap() {
        kinds[added["id"].as_u64().unwrap() as usize] = 3;
    }
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Value::String(merge) => merge.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let mut writer = GgufWriter::default();
    writer
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .strings("tokenizer.ggml.merges", &merges)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    let (_keep, path) = file("smollm2.gguf", &writer.bytes());
    Some(Tokenizer::load(&path).unwrap())
}

#[test]
fn smollm2_from_gguf() {
    let Some(tokenizer) = smollm2_as_gguf("smollm") else {
        return;
    };
    let golden = std::fs::read(shared!("tokenizers/smollm2/golden_ids.json")).unwrap();
    let golden: Vec<Value> = serde_json::from_slice(&golden).unwrap();
    for case in &golden {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected), text);
    }
    let chat = tokenizer.encode_template("<|im_start|>user").unwrap();
    assert_eq!(chat[0], 1);
    assert!(
        tokenizer.is_end(2) && tokenizer.is_end(0),
        "<|im_end|> and <|endoftext|> end an answer"
    );
}

#[test]
fn the_ways_to_cut_text_differ_where_they_should() {
    let pieces = |pre: &str, text: &str| -> Option<Vec<String>> {
        let tokenizer = smollm2_as_gguf(pre)?;
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&tokens), text);
        Some(tokens.iter().map(|token| tokenizer.decode(&[*token])).collect())
    };
    let Some(gpt2) = pieces("gpt-2", "x'S 2024 a\n\n b") else {
        return;
    };
    let llama = pieces("llama-bpe", "x'S 2024 a\n\n b").unwrap();
    let qwen = pieces("qwen2", "x'S 2024 a\n\n b").unwrap();
    // The merges are SmolLM2's, which never join digits, so that only the spaces and line ends can tell.
    assert!(gpt2.iter().any(|piece| piece == " "), "{gpt2:?}");
    assert!(llama.iter().any(|piece| piece == "\n\n"), "{llama:?}");
    assert_eq!(llama, qwen);
    pieces("default", "x'S 2024 a\n\n b").unwrap();
}
