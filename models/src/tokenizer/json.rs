//! A tokenizer from Hugging Face's `tokenizer.json`, with what its neighbours say about special tokens.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;
use tokenizers::ModelWrapper;

use super::{NO_CACHE, Parts, byte_level_bytes, sentence_piece_bytes};
use crate::error::{ModelError, Problem};
use crate::format::read_json;

pub(super) fn build(path: &Path) -> Result<Parts, ModelError> {
    let Some(json) = read_json(path)? else {
        let what = "it is missing; download tokenizer.json into the model's directory";
        return Err(ModelError::new(path, Problem::Tokenizer(what.into())));
    };
    let neighbour = |name: &str| read_json(&path.with_file_name(name)).map(Option::unwrap_or_default);
    let config = neighbour("tokenizer_config.json")?;
    let ends = [neighbour("config.json")?, neighbour("generation_config.json")?];
    parts(json, &config, &ends).map_err(|what| ModelError::new(path, Problem::Tokenizer(what)))
}

fn parts(json: Value, config: &Value, end_configs: &[Value]) -> Result<Parts, String> {
    let style = Style::of(&json)?;
    check_merges(&json["model"])?;
    let mut inner = load(json)?;
    // Made for training: a prompt is never cut or filled up here.
    inner.with_truncation(None).map_err(|error| error.to_string())?;
    inner.with_padding(None);
    // It is lent for reading only, so that a vocabulary is there twice for some milliseconds. The other kinds have no cache.
    if let ModelWrapper::BPE(_) | ModelWrapper::Unigram(_) = inner.get_model() {
        let mut model = inner.get_model().clone();
        model.resize_cache(NO_CACHE);
        inner.with_model(model);
    }

    let added = inner.get_added_tokens_decoder();
    let vocabulary = inner.get_vocab(true);
    let size = vocabulary
        .values()
        .chain(added.keys())
        .max()
        .map_or(0, |id| *id as usize + 1);
    // The table below is indexed by id, so that one absurd id would cost its worth of memory.
    if size == 0 || size > 2 * (vocabulary.len() + added.len()) + 1024 {
        return Err(format!(
            "it has {} tokens, but ids up to {size}; download the model again",
            vocabulary.len()
        ));
    }
    let mut pieces: Vec<Box<[u8]>> = vec![Box::default(); size];
    for (token, id) in &vocabulary {
        pieces[*id as usize] = match added.get(id) {
            Some(added) if added.special => Box::default(),
            Some(added) => added.content.clone().into_bytes().into(),
            None => style.bytes_of(token),
        };
    }
    let special = added.iter().filter(|(_, token)| token.special);
    let mut special: Vec<(String, u32)> = special.map(|(id, token)| (token.content.clone(), *id)).collect();

    let named = |key: &str| {
        let name = config[key].as_str().or_else(|| config[key]["content"].as_str())?;
        vocabulary.get(name).copied()
    };
    let first_added = first_added(&inner)?;
    let bos = named("bos_token").or(first_added);
    let eos = named("eos_token");
    for token in [bos, eos].into_iter().flatten() {
        let text = inner.id_to_token(token).unwrap_or_default();
        if !special.iter().any(|(_, id)| *id == token) {
            special.push((text, token));
        }
    }
    let adds_bos = config["add_bos_token"].as_bool().unwrap_or(first_added.is_some()) && bos.is_some();
    let ends = end_configs
        .iter()
        .flat_map(|config| ids(&config["eos_token_id"]))
        .collect();
    Ok(Parts {
        inner,
        pieces,
        special,
        leading_space: style.leading_space(),
        bos,
        adds_bos,
        eos,
        ends,
    })
}

fn load(json: Value) -> Result<tokenizers::Tokenizer, String> {
    // The library indexes and unwraps in places on what the file says. `check_merges` keeps away what is known; for
    // the rest a panic there shall be one model's error, not the end of the process.
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        serde_json::from_value::<tokenizers::Tokenizer>(json)
    }));
    match loaded {
        Ok(Ok(tokenizer)) => Ok(tokenizer),
        Ok(Err(error)) => Err(format!("{error}; download tokenizer.json again")),
        Err(_) => Err("it contradicts itself; download tokenizer.json again".into()),
    }
}

/// The token that the file's own post-processor puts before a text, if any.
fn first_added(inner: &tokenizers::Tokenizer) -> Result<Option<u32>, String> {
    let encode = |special| catch_unwind(AssertUnwindSafe(|| inner.encode("a", special)));
    match (encode(false), encode(true)) {
        (Ok(Ok(plain)), Ok(Ok(special))) => {
            let (plain, special) = (plain.get_ids(), special.get_ids());
            let added =
                special.len() > plain.len() && special[0] != plain.first().copied().unwrap_or(u32::MAX);
            Ok(added.then(|| special[0]))
        }
        _ => Err("it cannot split the text \"a\"; download tokenizer.json again".into()),
    }
}

/// How the pieces of a vocabulary are written.
enum Style {
    ByteLevel,
    SentencePiece { leading_space: bool },
}

impl Style {
    fn of(json: &Value) -> Result<Self, String> {
        let decoder = &json["decoder"];
        let steps = match decoder["decoders"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(decoder),
        };
        let step = |kind: &str| steps.iter().find(|step| step["type"] == kind);
        if step("ByteLevel").is_some() {
            Ok(Self::ByteLevel)
        } else if let Some(metaspace) = step("Metaspace") {
            Ok(Self::SentencePiece {
                leading_space: metaspace["prepend_scheme"] != "never",
            })
        } else if step("ByteFallback").is_some()
            || step("Replace").is_some_and(|step| step["pattern"]["String"] == "▁")
        {
            Ok(Self::SentencePiece {
                leading_space: step("Strip").is_some(),
            })
        } else {
            Err(format!(
                "its decoder {} is unknown, only ByteLevel, Metaspace and ByteFallback can be read so far; choose \
                 another model",
                decoder["type"]
            ))
        }
    }

    fn bytes_of(&self, token: &str) -> Box<[u8]> {
        match self {
            Self::ByteLevel => byte_level_bytes(token),
            Self::SentencePiece { .. } => sentence_piece_bytes(token),
        }
    }

    fn leading_space(&self) -> bool {
        matches!(self, Self::SentencePiece { leading_space: true })
    }
}

/// Refuses merges of pieces that are not in the vocabulary: the library (0.23) copies them into a buffer as long as
/// the longest token, and would panic.
fn check_merges(model: &Value) -> Result<(), String> {
    if model["continuing_subword_prefix"]
        .as_str()
        .is_some_and(|prefix| !prefix.is_empty())
    {
        return Err("it uses a subword prefix, which cannot be read so far; choose another model".into());
    }
    let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Ok(());
    };
    for merge in merges {
        let pair = match merge {
            Value::String(pair) => pair.split_once(' '),
            _ => merge[0].as_str().zip(merge[1].as_str()),
        };
        let known = pair.is_some_and(|(left, right)| {
            vocabulary.contains_key(left)
                && vocabulary.contains_key(right)
                && vocabulary.contains_key(&format!("{left}{right}"))
        });
        if !known {
            return Err(format!(
                "the merge {merge} is of unknown tokens; download tokenizer.json again"
            ));
        }
    }
    Ok(())
}

/// One id, or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value.as_array() {
        Some(list) => list.iter().filter_map(id).collect(),
        None => id(value).into_iter().collect(),
    }
}
