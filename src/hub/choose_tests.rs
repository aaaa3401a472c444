use super::*;

fn listing(paths: &[&str]) -> Listing {
    let files = paths.iter().map(|path| RemoteFile {
        path: (*path).to_owned(),
        bytes: Some(1),
        checksum: None,
    });
    Listing {
        commit: "c".to_owned(),
        files: files.collect(),
        architecture: None,
        left_out: 0,
    }
}

fn chosen(paths: &[&str], quant: Option<&str>) -> (String, Option<String>) {
    match choose(&listing(paths), quant) {
        Ok(Choice::Gguf { quant, files }) if files.len() == 1 => (files[0].path.clone(), quant),
        other => panic!("{other:?}"),
    }
}

fn refusal(paths: &[&str], quant: Option<&str>) -> String {
    choose(&listing(paths), quant).unwrap_err().to_string()
}

#[test]
fn names_tell_their_quantisation() {
    for (name, quant) in [
        ("qwen2.5-3b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Llama-3.2-3B-Instruct-Q4_0.gguf", "Q4_0"),
        ("model.Q8_0.gguf", "Q8_0"),
        ("ggml-model-f16.gguf", "F16"),
        ("gemma-2-2b-it-Q6_K_L.gguf", "Q6_K_L"),
        ("phi3_mini_q4_k_m.gguf", "Q4_K_M"),
        ("SmolLM2-BF16.gguf", "BF16"),
        ("x-IQ4_XS.gguf", "IQ4_XS"),
        ("x-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("Q2_K.gguf", "Q2_K"),
    ] {
        assert_eq!(quant_of(name).as_deref(), Some(quant), "{name}");
    }
    for name in [
        "model.gguf",
        "qwen2.5-3b.gguf",
        "Q.gguf",
        ".gguf",
        "x-Q4_0-v2.gguf",
        "é.gguf",
        "q",
    ] {
        assert_eq!(quant_of(name), None, "{name}");
    }
}

#[test]
fn without_a_wish_four_bits_are_taken_and_with_one_that() {
    let paths = [
        "README.md",
        "m-Q8_0.gguf",
        "m-Q4_0.gguf",
        "m-Q4_K_M.gguf",
        "mmproj-F16.gguf",
        "m-IQ2_XS.gguf",
    ];
    assert_eq!(
        chosen(&paths, None),
        ("m-Q4_K_M.gguf".into(), Some("Q4_K_M".into()))
    );
    assert_eq!(chosen(&paths, Some("q8_0")).0, "m-Q8_0.gguf");
    assert_eq!(chosen(&paths, Some("M-q4_0.gguf")).0, "m-Q4_0.gguf");
    assert_eq!(chosen(&["only.gguf"], None), ("only.gguf".into(), None));
    assert_eq!(
        chosen(&["Q8_0/m-Q8_0.gguf", "F16/m-F16.gguf"], None).0,
        "Q8_0/m-Q8_0.gguf"
    );
}

#[test]
fn what_is_not_there_or_not_clear_lists_what_is() {
    let absent = refusal(&["m-Q8_0.gguf", "m-Q4_0.gguf"], Some("Q4_K_M"));
    assert!(
        absent.contains("there is no Q4_K_M") && absent.contains("Q4_0, Q8_0"),
        "{absent}"
    );
    let unclear = refusal(&["a-Q4_0.gguf", "b-Q4_0.gguf"], Some("Q4_0"));
    assert!(unclear.contains("a-Q4_0.gguf, b-Q4_0.gguf"), "{unclear}");
    let many = refusal(&["a.gguf", "b.gguf"], None);
    assert!(many.contains("a.gguf, b.gguf"), "{many}");
    let foreign = refusal(&["m-IQ4_XS.gguf", "m-Q8_0.gguf"], Some("IQ4_XS"));
    assert!(
        foreign.contains("cannot be run so far") && foreign.contains("there is: Q8_0."),
        "{foreign}"
    );
}

#[test]
fn a_model_that_was_split_is_pulled_with_all_of_its_parts_or_not_at_all() {
    let parts = [
        "Q8_0/m-Q8_0-00002-of-00002.gguf",
        "Q8_0/m-Q8_0-00001-of-00002.gguf",
        "m-F16-00002-of-00002.gguf",
    ];
    let Ok(Choice::Gguf { quant, files }) = choose(&listing(&parts), None) else {
        panic!("one is whole");
    };
    assert_eq!(quant.as_deref(), Some("Q8_0"));
    let names: Vec<&str> = files.iter().map(RemoteFile::name).collect();
    assert_eq!(
        names,
        ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    );
    assert_eq!(all_parts(names[1]).unwrap(), names);
    assert_eq!(all_parts("m-Q8_0.gguf"), None);
    assert!(refusal(&parts, Some("F16")).contains("there is no F16"));
    for odd in [
        "m-00000-of-00002.gguf",
        "m-1-of-2.gguf",
        "m-00002-of-00001.gguf",
        "-of-.gguf",
        "of.gguf",
    ] {
        assert!(
            choose(&listing(&[odd]), None).is_ok() || refusal(&[odd], None).contains("neither"),
            "{odd}"
        );
    }
}

#[test]
fn a_repository_of_safetensors_is_pulled_whole_and_one_of_neither_not_at_all() {
    let paths = [
        "README.md",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "onnx/model.onnx",
        "consolidated.safetensors",
    ];
    let Ok(Choice::Whole { small, weights }) = choose(&listing(&paths), None) else {
        panic!("it is whole");
    };
    let names: Vec<&str> = small.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["config.json", "tokenizer.json", "tokenizer_config.json"]);
    assert!(matches!(weights, Weights::One(file) if file.path == WEIGHTS));
    assert!(refusal(&paths, Some("Q4_0")).contains("no GGUF files"));
    let other = refusal(&["pytorch_model.bin", "config.json"], None);
    assert!(other.contains("bin, json"), "{other}");
    assert!(refusal(&["model.safetensors", "config.json"], None).contains("tokenizer.json"));
}

#[test]
fn an_index_brings_the_files_that_it_lists_and_no_others() {
    let listing = listing(&[
        "m-1.safetensors",
        "m-2.safetensors",
        "consolidated.safetensors",
        "x.bin",
    ]);
    let index =
        br#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-1.safetensors"}}"#;
    let files = weights_of_index(index, &listing).unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["m-1.safetensors", "m-2.safetensors"]);
    for spoilt in [
        "",
        "{}",
        r#"{"weight_map": {"a": "../m.safetensors"}}"#,
        r#"{"weight_map": {"a": "x.bin"}}"#,
        r#"{"weight_map": {"a": "m-3.safetensors"}}"#,
        r#"{"weight_map": {"a": 3}}"#,
    ] {
        assert!(weights_of_index(spoilt.as_bytes(), &listing).is_err(), "{spoilt}");
    }
}
