//! What runs on packed weights is near the reference, and the same to the bit however it is cut and whatever runs beside
//! it.

use std::path::Path;

use models::{Engine, EngineOptions, Event, Footprint, KvPrecision, LoadOptions, Model, Precision, Sampling};

use crate::support::{ARCHITECTURES, architecture, architecture_gguf};

const PACKED: [Precision; 3] = [Precision::F16, Precision::Int8, Precision::Int4];

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| (37 * i + 11 * i * i + 5) % 96).collect()
}

fn load(path: &Path, precision: Precision, threads: usize) -> Model {
    let model = Model::load_at(path, Some(precision), Some(threads)).unwrap();
    assert_eq!(model.precision(), precision);
    model
}

/// The logits after each chunk.
fn logits(model: &Model, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache(64);
    let logits = ids
        .chunks(chunk)
        .map(|ids| model.forward(&mut cache, ids).unwrap())
        .collect();
    assert_eq!(cache.len(), ids.len());
    logits
}

/// The root of the mean squared difference, in relation to the logits.
fn distance(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let (found, expected) = (found.concat(), expected.concat());
    assert_eq!(found.len(), expected.len());
    let difference: f32 = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / expected.iter().map(|value| value * value).sum::<f32>()).sqrt()
}

#[test]
fn every_architecture_is_near_the_reference_at_every_precision() {
    let ids = ids(64);
    for name in ARCHITECTURES {
        let (_keep, directory) = architecture(name);
        let reference = logits(&Model::load(&directory).unwrap(), &ids, 1);
        let distances = PACKED.map(|precision| {
            let model = load(&directory, precision, 2);
            distance(&logits(&model, &ids, 1), &reference)
        });
        println!("{name}: {distances:?}");
        // Random weights have no structure that would survive 4 bits better than this.
        for (distance, most) in distances.into_iter().zip([0.005, 0.12, 0.8]) {
            assert!(distance < most, "{name}: {distances:?}");
        }
        if let Some(path) = architecture_gguf(name) {
            let found = logits(&load(&path, Precision::Int8, 1), &ids, 64);
            let expected = logits(&Model::load(&path).unwrap(), &ids, 64);
            assert!(distance(&found, &expected) < 0.05, "{name} (GGUF)");
        }
    }
}

#[test]
fn prefill_decode_and_any_number_of_threads_agree_to_the_bit() {
    let ids = ids(61);
    for name in ["llama", "gemma2", "qwen3", "phi3"] {
        let (_keep, directory) = architecture(name);
        for precision in PACKED {
            let one_by_one = logits(&load(&directory, precision, 1), &ids, 1);
            for (chunk, threads) in [(61, 1), (7, 2), (16, 3)] {
                let chunked = logits(&load(&directory, precision, threads), &ids, chunk);
                let ends: Vec<_> = one_by_one.chunks(chunk).filter_map(|part| part.last()).collect();
                for (found, expected) in chunked.iter().zip(ends) {
                    let bits =
                        |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                    assert!(
                        bits(found) == bits(expected),
                        "{name} {precision} in chunks of {chunk}"
                    );
                }
            }
        }
    }
}

/// The texts of some requests that begin one step after the other, the first of them first.
fn texts(engine: &mut Engine, requests: &[(Vec<u32>, Sampling)]) -> Vec<String> {
    let mut texts = vec![String::new(); requests.len()];
    let mut take = |engine: &mut Engine| {
        for event in engine.step() {
            match event {
                Event::Text { id, text, .. } => texts[id as usize].push_str(&text),
                Event::ToolCalls { .. } => unreachable!("nobody offered tools"),
                Event::Failed { message, .. } => panic!("{message}"),
                Event::Done { .. } => {}
            }
        }
    };
    for (id, (prompt, sampling)) in requests.iter().enumerate() {
        engine.begin_tokens(id as u64, prompt, 40, sampling, &[]).unwrap();
        take(engine);
    }
    while engine.running() > 0 {
        take(engine);
    }
    texts
}

#[test]
fn a_request_gets_the_same_answer_alone_and_among_fifteen_others() {
    let path = shared!("models/stories260K/stories260K-f32.gguf");
    for precision in PACKED {
        let options = EngineOptions {
            max_sequences: 16,
            precision: Some(precision),
            threads: Some(2),
            ..EngineOptions::default()
        };
        let mut engine = Engine::load(&path, options).unwrap();
        let request = |index: u32| {
            let prompt = (0..3 + index * 7)
                .map(|n| 3 + (n * 31 + index * 17) % 400)
                .collect();
            (
                prompt,
                Sampling {
                    seed: Some(u64::from(index)),
                    ..Sampling::default()
                },
            )
        };
        let requests: Vec<_> = (0..16).map(request).collect();
        let together = texts(&mut engine, &requests);
        for (index, request) in requests.iter().enumerate() {
            let alone = texts(&mut engine, std::slice::from_ref(request));
            assert_eq!(alone[0], together[index], "{precision}, request {index}");
        }
    }
}

#[test]
fn a_real_model_tells_the_same_story_at_eight_bits_and_a_sensible_one_at_four() {
    let path = shared!("models/stories260K/stories260K-f32.gguf");
    let story = |precision| {
        let options = EngineOptions {
            precision: Some(precision),
            ..EngineOptions::default()
        };
        let mut engine = Engine::load(&path, options).unwrap();
        engine
            .begin_tokens(0, &[1], 60, &Sampling::greedy(), &[])
            .unwrap();
        let mut text = String::new();
        while engine.running() > 0 {
            for event in engine.step() {
                if let Event::Text { text: piece, .. } = event {
                    text.push_str(&piece);
                }
            }
        }
        text
    };
    let exact = story(Precision::F32);
    assert_eq!(story(Precision::F16), exact);
    for precision in [Precision::Int8, Precision::Int4] {
        let text = story(precision);
        println!("{precision}: {text}");
        assert_eq!(text[..16], exact[..16], "{precision}: {text}");
    }
}

#[test]
fn weights_take_what_their_bits_take() {
    let path = shared!("models/stories260K/stories260K-f32.gguf");
    let bytes = |precision| load(&path, precision, 1).packed_bytes().unwrap() as f64;
    let f16 = bytes(Precision::F16);
    assert!(bytes(Precision::Int8) / f16 < 0.54);
    assert!(bytes(Precision::Int4) / f16 < 0.36);
    assert_eq!(Model::load(&path).unwrap().packed_bytes(), None);
}

#[test]
fn what_a_model_takes_is_known_before_it_is_loaded() {
    for name in ARCHITECTURES {
        let (_keep, directory) = architecture(name);
        let footprint = Footprint::of(&directory).unwrap();
        for precision in PACKED {
            let model = load(&directory, precision, 1);
            let bytes = footprint.weights_bytes(precision);
            assert_eq!(Some(bytes as usize), model.packed_bytes(), "{name} {precision}");
            for (kv, tokens) in [
                (KvPrecision::F16, 0),
                (KvPrecision::F16, 40),
                (KvPrecision::Int8, 16),
            ] {
                let cache = model.new_cache_at(64, kv);
                assert_eq!(
                    footprint.cache_bytes(tokens, kv) as usize,
                    cache.bytes_for(tokens),
                    "{name}"
                );
            }
        }
        let parameters = models::inspect(&directory).unwrap().parameters;
        assert_eq!(footprint.weights_bytes(Precision::F32), 4 * parameters, "{name}");
    }
}

#[test]
fn weights_are_packed_once_and_again_where_the_file_is_stale_damaged_or_cut_short() {
    let model = shared!("models/stories260K/stories260K-f32.gguf");
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("model.gguf");
    std::fs::copy(model, &copy).unwrap();
    let packed = directory.path().join("packed");
    let load = |precision| {
        let mut parts = Vec::new();
        let options = LoadOptions {
            precision: Some(precision),
            threads: Some(2),
            packed_directory: Some(&packed),
        };
        let model = Model::load_with(&copy, options, &mut |done, of| parts.push((done, of))).unwrap();
        assert_eq!(model.not_kept(), None);
        (parts, logits(&model, &ids(20), 20))
    };
    for precision in PACKED {
        let (parts, first) = load(precision);
        assert_eq!(
            parts,
            (1..=6).map(|done| (done, 6)).collect::<Vec<_>>(),
            "{precision}"
        );
        let again = |what: &str, is_packed: bool| {
            let (parts, found) = load(precision);
            assert_eq!(!parts.is_empty(), is_packed, "{precision}, {what}");
            assert_eq!(found, first, "{precision}, {what}");
        };
        again("unchanged", false);
        let is_it = |path: &std::path::PathBuf| path.to_string_lossy().contains(&format!("-{precision}."));
        let mut files = std::fs::read_dir(&packed)
            .unwrap()
            .flatten()
            .map(|file| file.path());
        let file = files.find(is_it).unwrap();
        // Whatever is padded with, pages begin with weights.
        let whole = std::fs::read(&file).unwrap();
        for at in [
            3,
            9,
            13,
            20,
            40,
            4096,
            whole.len() / 8192 * 4096,
            whole.len() - 4096,
        ] {
            let mut damaged = whole.clone();
            damaged[at] ^= 16;
            std::fs::write(&file, damaged).unwrap();
            again(&format!("damaged at {at}"), true);
            again("mended", false);
        }
        for length in [0, 10, 100, whole.len() / 2] {
            std::fs::write(&file, &whole[..length]).unwrap();
            again(&format!("cut to {length}"), true);
        }
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options()
            .write(true)
            .open(&copy)
            .unwrap()
            .set_modified(later)
            .unwrap();
        again("of a changed model", true);
        again("unchanged since", false);
    }
}

#[test]
fn a_directory_that_takes_nothing_costs_only_the_next_start() {
    let model = shared!("models/stories260K/stories260K-f32.gguf");
    let directory = tempfile::tempdir().unwrap();
    let in_the_way = directory.path().join("a file");
    std::fs::write(&in_the_way, "").unwrap();
    let options = LoadOptions {
        precision: Some(Precision::Int8),
        packed_directory: Some(&in_the_way),
        ..LoadOptions::default()
    };
    let model = Model::load_with(&model, options, &mut |_, _| {}).unwrap();
    assert!(model.not_kept().is_some());
    assert!(model.forward(&mut model.new_cache(4), &[1]).is_ok());
}

/// The one file of this precision in a directory.
fn packed_file(directory: &Path, precision: Precision) -> std::path::PathBuf {
    let mut files = std::fs::read_dir(directory).unwrap().flatten();
    let ending = format!("-{precision}.packed");
    let file = files.find(|file| file.file_name().to_string_lossy().ends_with(&ending));
    file.unwrap().path()
}

#[test]
fn what_is_packed_into_its_file_matrix_by_matrix_is_what_is_packed_into_memory() {
    for name in ["llama", "gemma2", "phi3", "qwen2"] {
        let (_keep, directory) = architecture(name);
        let packed = tempfile::tempdir().unwrap();
        for precision in PACKED {
            let mut parts = Vec::new();
            let pack = |parts: &mut Vec<(usize, usize)>| {
                models::pack(&directory, precision, 2, packed.path(), &mut |done, of| {
                    parts.push((done, of))
                })
            };
            assert!(pack(&mut parts).unwrap(), "{name} {precision}");
            let of = parts.len();
            assert_eq!(
                parts,
                (1..=of).map(|done| (done, of)).collect::<Vec<_>>(),
                "{name}"
            );
            parts.clear();
            assert!(
                !pack(&mut parts).unwrap() && parts.is_empty(),
                "{name}: it is there"
            );
            let options = LoadOptions {
                precision: Some(precision),
                threads: Some(1),
                packed_directory: Some(packed.path()),
            };
            let mapped = Model::load_with(&directory, options, &mut |_, _| panic!("packed again")).unwrap();
            let in_memory = load(&directory, precision, 1);
            assert_eq!(
                Some(mapped.mapped_weights().concat().len()),
                in_memory.packed_bytes()
            );
            assert_eq!(
                logits(&mapped, &ids(40), 40),
                logits(&in_memory, &ids(40), 40),
                "{name} {precision}"
            );
        }
    }
    let (_keep, directory) = architecture("llama");
    let refused = models::pack(&directory, Precision::F32, 1, &directory, &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("nothing to pack"), "{refused}");
}

#[test]
fn a_file_that_cannot_be_finished_is_packed_into_memory_and_is_an_error_for_whoever_only_packs() {
    let model = shared!("models/stories260K/stories260K-f32.gguf");
    let directory = tempfile::tempdir().unwrap();
    let (precision, place) = (Precision::Int4, directory.path());
    models::pack(&model, precision, 1, place, &mut |_, _| {}).unwrap();
    // Where the file should have its name there is something that cannot be replaced.
    let file = packed_file(place, precision);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let error = models::pack(&model, precision, 1, place, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("could not be kept"), "{error}");
    let options = LoadOptions {
        precision: Some(precision),
        threads: Some(1),
        packed_directory: Some(place),
    };
    let loaded = Model::load_with(&model, options, &mut |_, _| {}).unwrap();
    assert!(loaded.not_kept().is_some() && loaded.mapped_weights().is_empty());
    assert_eq!(
        logits(&loaded, &ids(20), 20),
        logits(&load(&model, precision, 1), &ids(20), 20)
    );
    assert_eq!(
        std::fs::read_dir(place).unwrap().count(),
        1,
        "no draft is left behind"
    );
}
