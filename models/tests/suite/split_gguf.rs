//! A GGUF model in several files is the same model; parts that do not belong together are told apart.

use std::path::{Path, PathBuf};

use models::Model;
use models::format::gguf::Gguf;
use proptest::prelude::*;

use crate::gguf_reader::peak_of;
use crate::hostile_files::runs_or_is_refused;
use crate::numerics::all_logits;
use crate::support::{GgufWriter, file, tiny_model};

const PARTS: usize = 3;
const TOKENS: [u32; 4] = [1, 260, 270, 265];

/// What `llama-gguf-split` makes of a model: metadata in the first part, and tensor after tensor in the parts from
/// `first` on in turn.
fn split(model: &GgufWriter, first: usize) -> [GgufWriter; PARTS] {
    let bytes = model.bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let mut parts = [
        model.without_tensors(),
        GgufWriter::default(),
        GgufWriter::default(),
    ];
    for (number, part) in parts.iter_mut().enumerate() {
        part.u16("split.no", number as u16)
            .u16("split.count", PARTS as u16)
            .u32("split.tensors.count", gguf.tensors.len() as u32);
    }
    for (number, tensor) in gguf.tensors.iter().enumerate() {
        let part = &mut parts[first + number % (PARTS - first)];
        let data = &bytes[tensor.data.clone()];
        part.tensor(tensor.name, &tensor.shape, tensor.tensor_type.0, data);
    }
    parts
}

/// The parts' bytes, before they are written.
fn tiny_parts() -> [Vec<u8>; PARTS] {
    split(&tiny_model(), 0).map(|part| part.bytes())
}

/// A directory with the parts; it lives as long as the first of the pair.
fn written(parts: &[Vec<u8>]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (1..=parts.len())
        .map(|part| {
            directory
                .path()
                .join(format!("tiny-{part:05}-of-{PARTS:05}.gguf"))
        })
        .collect();
    for (path, part) in paths.iter().zip(parts) {
        std::fs::write(path, part).unwrap();
    }
    (directory, paths)
}

fn refusal(path: &Path) -> String {
    let error = Model::load(path).unwrap_err().to_string();
    assert_eq!(models::inspect(path).unwrap_err().to_string(), error);
    error
}

#[test]
fn any_part_stands_for_the_whole_model() {
    let mut model = tiny_model();
    // What describes the network may be in any part, too.
    let divisors: Vec<u8> = [1.0f32, 3.0].into_iter().flat_map(f32::to_le_bytes).collect();
    model
        .tensor("rope_freqs.weight", &[2], 0, &divisors)
        .tensor("blk.0.ffn_down.bias", &[8], 0, &0.25f32.to_le_bytes().repeat(8))
        .tensor("blk.0.ffn_up.bias", &[12], 0, &0.5f32.to_le_bytes().repeat(12))
        .tensor("blk.0.ffn_gate.bias", &[12], 0, &0.5f32.to_le_bytes().repeat(12));
    let (_keep, path) = file("tiny.gguf", &model.bytes());
    let whole = Model::load(&path).unwrap();
    assert_eq!(whole.summary().name, "tiny");
    for first in [0, 1] {
        let (_keep, paths) = written(&split(&model, first).map(|part| part.bytes()));
        for path in paths {
            let model = Model::load(&path).unwrap();
            assert_eq!(model.summary(), whole.summary());
            assert_eq!(&models::inspect(&path).unwrap(), whole.summary());
            assert_eq!(all_logits(&model, &TOKENS), all_logits(&whole, &TOKENS));
        }
    }
}

#[test]
fn a_missing_part_is_named() {
    for missing in 0..PARTS {
        let (_keep, paths) = written(&tiny_parts());
        std::fs::remove_file(&paths[missing]).unwrap();
        let error = refusal(&paths[(missing + 1) % PARTS]);
        assert!(
            error.starts_with(&format!("{}: cannot be read", paths[missing].display())),
            "{error}"
        );
    }
}

#[test]
fn a_part_under_another_name_says_how_it_should_be_named() {
    let parts = tiny_parts();
    for name in [
        "tiny.gguf",
        "tiny-00002-of-00003.gguf",
        "tiny-00001-of-00004.gguf",
        "-1-of-3.gguf",
    ] {
        let (_keep, path) = file(name, &parts[0]);
        let error = refusal(&path);
        assert!(
            error.contains("split into 3 files, and this one is not named as part 1")
                && error.contains("llama-gguf-split --merge"),
            "{error}"
        );
    }
}

#[test]
fn parts_that_do_not_belong_together_are_told_apart() {
    let whole = tiny_model().bytes();
    for (place, bytes) in [
        (1, tiny_parts()[2].clone()),
        (2, tiny_parts()[1].clone()),
        (1, whole),
    ] {
        let mut parts = tiny_parts();
        parts[place] = bytes;
        let (_keep, paths) = written(&parts);
        let error = refusal(&paths[0]);
        let words = format!("it does not say that it is part {} of 3", place + 1);
        assert!(
            error.contains(&words) && error.contains(&paths[place].display().to_string()),
            "{error}"
        );
    }
    let mut twice = split(&tiny_model(), 0);
    twice[2].tensor("blk.0.ffn_up.weight", &[12, 8], 0, &[0; 384]);
    let (_keep, paths) = written(&twice.map(|part| part.bytes()));
    assert!(refusal(&paths[0]).contains("\"blk.0.ffn_up.weight\" is in two of its parts"));
    let mut more = split(&tiny_model(), 0);
    more[2].tensor("more", &[1], 0, &[0; 4]);
    let (_keep, paths) = written(&more.map(|part| part.bytes()));
    assert!(refusal(&paths[0]).contains("its parts have 12 tensors together, not 11"));
}

#[test]
fn a_part_that_is_cut_short_says_so() {
    for place in 0..PARTS {
        let mut parts = tiny_parts();
        let length = parts[place].len();
        parts[place].truncate(length / 2);
        let (_keep, paths) = written(&parts);
        let error = refusal(&paths[0]);
        assert!(
            error.contains("damaged or cut short") && error.contains(&paths[place].display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn an_absurd_number_of_parts_costs_no_memory() {
    for (count, words) in [
        (u32::from(u16::MAX), "tiny-00002-of-65535.gguf"),
        (u32::MAX, "not named"),
    ] {
        let mut writer = tiny_model();
        writer.u32("split.no", 0).u32("split.count", count);
        let (_keep, path) = file(&format!("tiny-00001-of-{count:05}.gguf"), &writer.bytes());
        let (error, peak) = peak_of(|| refusal(&path));
        assert!(error.contains(words), "{error}");
        assert!(peak < 1 << 20, "{peak} bytes for {count} parts");
    }
}

proptest! {
    #[test]
    fn a_mutated_part_loads_and_runs_or_is_refused(
        part in 0..PARTS,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut parts = tiny_parts();
        let bytes = &mut parts[part];
        for (index, value) in changes {
            let at = index.index(bytes.len().min(600));
            bytes[at] = value;
        }
        let (_keep, paths) = written(&parts);
        runs_or_is_refused(&paths[0])?;
    }
}
