//! A tokenizer from GGUF metadata, under `tokenizer.ggml.`.

use std::cmp::Reverse;
use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::{NO_CACHE, Parts, byte_level_bytes, sentence_piece_bytes};
use crate::error::Problem;
use crate::format::gguf::{Gguf, Value};

pub(super) fn build(gguf: &Gguf<'_>) -> Result<Parts, Problem> {
    let Some(model) = gguf.string("tokenizer.ggml.model") else {
        return Err(unusable(
            "the file has none (tokenizer.ggml.model); convert the model again, with its tokenizer",
        ));
    };
    let vocabulary = Vocabulary::read(gguf)?;
    let flag = |key: &str, otherwise| gguf.bool(&format!("tokenizer.ggml.{key}")).unwrap_or(otherwise);
    let (inner, leading_space, adds_bos) = match model {
        "llama" => {
            let leading_space = flag("add_space_prefix", true);
            (
                sentence_piece(gguf, &vocabulary, leading_space)?,
                leading_space,
                flag("add_bos_token", true),
            )
        }
        "gpt2" => {
            let split = PreSplit::of(gguf.string("tokenizer.ggml.pre").unwrap_or("default"))?;
            let adds_bos = flag("add_bos_token", split.adds_bos);
            (byte_level(gguf, &vocabulary, &split)?, false, adds_bos)
        }
        other => {
            return Err(unusable(&format!(
                "its kind {other:?} is unknown, only \"llama\" and \"gpt2\" can be read so far; choose a model with \
                 one of these, or use its safetensors files with tokenizer.json"
            )));
        }
    };
    let inner = vocabulary.add_special(inner)?;
    let pieces = vocabulary.pieces(if model == "llama" {
        sentence_piece_bytes
    } else {
        byte_level_bytes
    });
    let id = |key: &str| {
        let id = gguf.unsigned(&format!("tokenizer.ggml.{key}_token_id"))?;
        u32::try_from(id)
            .ok()
            .filter(|&id| (id as usize) < vocabulary.tokens.len())
    };
    let bos = id("bos");
    let eos = id("eos");
    // A file may leave its beginning and end tokens untyped; templates must recognise them all the same.
    let mut special = vocabulary.of_kind(CONTROL);
    for token in [bos, eos].into_iter().flatten() {
        if !special.iter().any(|(_, id)| *id == token) {
            special.push((vocabulary.tokens[token as usize].to_owned(), token));
        }
    }
    let ends = ["eot", "eom"].into_iter().filter_map(id).collect();
    Ok(Parts {
        inner,
        pieces,
        special,
        leading_space,
        bos,
        adds_bos: adds_bos && bos.is_some(),
        eos,
        ends,
    })
}

/// llama.cpp's `llama_token_type`.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const BYTE: u64 = 6;

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    /// As long as `tokens`, or empty: all normal.
    kinds: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &Gguf<'a>) -> Result<Self, Problem> {
        let tokens: Vec<&str> = match gguf.array("tokenizer.ggml.tokens") {
            Some(array) => texts(array.iter()),
            None => Vec::new(),
        };
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(unusable(
                "it has no tokens; convert the model again, with its tokenizer",
            ));
        }
        let kinds: Vec<u64> = gguf
            .array("tokenizer.ggml.token_type")
            .map_or_else(Vec::new, |array| {
                array
                    .iter()
                    .map(|kind| if let Value::Unsigned(kind) = kind { kind } else { 0 })
                    .collect()
            });
        if !kinds.is_empty() && kinds.len() != tokens.len() {
            return Err(Problem::Malformed(format!(
                "{} token types for {} tokens",
                kinds.len(),
                tokens.len()
            )));
        }
        Ok(Self { tokens, kinds })
    }

    fn kind(&self, id: usize) -> u64 {
        self.kinds.get(id).copied().unwrap_or(1)
    }

    fn of_kind(&self, kind: u64) -> Vec<(String, u32)> {
        let ids = (0u32..)
            .zip(&self.tokens)
            .filter(|(id, _)| self.kind(*id as usize) == kind);
        ids.map(|(id, token)| ((*token).to_owned(), id)).collect()
    }

    /// The first of several equal tokens counts, as in llama.cpp's own table the text must lead to one id.
    fn ids(&self) -> HashMap<&'a str, u32> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, token) in (0u32..).zip(&self.tokens) {
            ids.entry(*token).or_insert(id);
        }
        ids
    }

    fn pieces(&self, bytes_of: fn(&str) -> Box<[u8]>) -> Vec<Box<[u8]>> {
        let piece = |(id, token): (usize, &&str)| match self.kind(id) {
            CONTROL | UNKNOWN => Box::default(),
            USER_DEFINED => sentence_piece_bytes(token),
            _ => bytes_of(token),
        };
        self.tokens.iter().enumerate().map(piece).collect()
    }

    /// Tokens that are matched in the text before it is split: the control tokens, to which the tokenizer is blind,
    /// must be known to it all the same, so that it never splits a text into one.
    fn add_special(&self, mut inner: tokenizers::Tokenizer) -> Result<tokenizers::Tokenizer, Problem> {
        let added = |kind, special| {
            let tokens = self
                .of_kind(kind)
                .into_iter()
                .filter(|(text, _)| !text.is_empty());
            tokens
                .map(|(text, _)| AddedToken::from(text, special).normalized(false))
                .collect::<Vec<_>>()
        };
        inner.add_special_tokens(added(CONTROL, true)).map_err(library)?;
        inner.add_tokens(added(USER_DEFINED, false)).map_err(library)?;
        Ok(inner)
    }
}

/// SentencePiece's BPE as llama.cpp runs it: neighbours merge in the order of their pieces' scores.
fn sentence_piece(
    gguf: &Gguf<'_>,
    vocabulary: &Vocabulary<'_>,
    leading_space: bool,
) -> Result<tokenizers::Tokenizer, Problem> {
    let scores: Vec<f64> = match gguf.array("tokenizer.ggml.scores") {
        Some(array) => array
            .iter()
            .map(|score| {
                if let Value::Float(score) = score {
                    score
                } else {
                    0.0
                }
            })
            .collect(),
        None => Vec::new(),
    };
    if scores.len() != vocabulary.tokens.len() {
        return Err(Problem::Malformed(format!(
            "{} scores for {} tokens",
            scores.len(),
            vocabulary.tokens.len()
        )));
    }
    let ids = vocabulary.ids();
    let merges = merges_by_score(vocabulary, &ids, &scores);
    let mut builder = BPE::builder()
        .vocab_and_merges(owned(&ids), merges)
        .fuse_unk(true)
        .byte_fallback(true)
        .cache_capacity(NO_CACHE);
    if let Some(unknown) = (0..vocabulary.tokens.len()).find(|&id| vocabulary.kind(id) == UNKNOWN) {
        builder = builder.unk_token(vocabulary.tokens[unknown].to_owned());
    }
    let mut inner = tokenizers::Tokenizer::new(builder.build().map_err(library)?);
    let mut normalizers = Vec::new();
    if leading_space {
        normalizers.push(Prepend::new("▁".into()).into());
    }
    normalizers.push(Replace::new(" ", "▁").map_err(library)?.into());
    inner
        .with_normalizer(Some(NormalizerSequence::new(normalizers)))
        .map_err(library)?;
    Ok(inner)
}

/// Every pair of pieces that makes a third one, best score first; among equals in the order that Hugging Face's
/// converter (`generate_merges`) gives.
fn merges_by_score(vocabulary: &Vocabulary<'_>, ids: &HashMap<&str, u32>, scores: &[f64]) -> Merges {
    let mut merges: Vec<(f64, &str, &str)> = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        // What must not come out of a text must not come out of a merge either.
        if token.len() > MAX_MERGED_BYTES || matches!(vocabulary.kind(id), UNKNOWN | CONTROL | BYTE) {
            continue;
        }
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut pairs: Vec<(u32, u32, &str, &str)> = splits
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        pairs.sort_unstable();
        merges.extend(
            pairs
                .into_iter()
                .map(|(_, _, left, right)| (scores[id], left, right)),
        );
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then_with(|| {
            let lengths = |merge: &(f64, &str, &str)| Reverse((length(merge.1), length(merge.2)));
            lengths(a).cmp(&lengths(b))
        })
    });
    merges
        .into_iter()
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}

/// SentencePiece itself stops at 16 characters. Looking for every split of one huge "token" would take quadratic time.
const MAX_MERGED_BYTES: usize = 512;

/// GPT-2's BPE over bytes written as characters; the merges are in the file.
fn byte_level(
    gguf: &Gguf<'_>,
    vocabulary: &Vocabulary<'_>,
    split: &PreSplit,
) -> Result<tokenizers::Tokenizer, Problem> {
    let Some(merges) = gguf.array("tokenizer.ggml.merges") else {
        return Err(unusable("it has no merges; convert the model again"));
    };
    let ids = vocabulary.ids();
    let mut pairs = Merges::with_capacity(merges.len());
    let mut joined = String::new();
    for merge in texts(merges.iter()) {
        // The space is the separator unless it begins the left piece.
        let separator = merge
            .char_indices()
            .skip(1)
            .find(|(_, character)| *character == ' ');
        let Some((left, right)) = separator.map(|(at, _)| (&merge[..at], &merge[at + 1..])) else {
            return Err(Problem::Malformed(format!(
                "the merge {merge:?} is not two tokens"
            )));
        };
        // The library indexes by these without looking.
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if ![left, right, &joined].iter().all(|text| ids.contains_key(text)) {
            return Err(Problem::Malformed(format!(
                "the merge {merge:?} is of unknown tokens"
            )));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let model = BPE::builder()
        .vocab_and_merges(owned(&ids), pairs)
        .ignore_merges(split.whole_words_first)
        .cache_capacity(NO_CACHE)
        .build()
        .map_err(library)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in split.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let step = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(library)?;
        steps.push(step.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    inner.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(inner)
}

/// How a text is cut before its parts are split into tokens: what `tokenizer.ggml.pre` names.
struct PreSplit {
    /// Applied one after the other, each to what the one before left.
    patterns: &'static [&'static str],
    /// A part that is a token as a whole is that token, whatever the merges say.
    whole_words_first: bool,
    adds_bos: bool,
}

impl PreSplit {
    // Patterns as in llama.cpp, src/llama-vocab.cpp, and the tokenizer.json files that those were made from.
    fn of(name: &str) -> Result<Self, Problem> {
        let patterns: &[&str] = match name {
            "default" => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
            "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "jais" => &[GPT2],
            "llama-bpe" | "llama3" | "llama-v3" => &[LLAMA3],
            "qwen2" | "deepseek-r1-qwen" => &[QWEN2],
            "clawdbot" => &[CLAWDBOT],
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => &[r"\p{N}", GPT2],
            other => {
                return Err(unusable(&format!(
                    "its way to cut text, {other:?}, is unknown; known are default, gpt-2, llama-bpe, qwen2 and \
                     smollm: choose a model with one of these, or use its safetensors files with tokenizer.json"
                )));
            }
        };
        let llama3 = patterns == [LLAMA3];
        Ok(Self {
            patterns,
            whole_words_first: llama3,
            adds_bos: llama3,
        })
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Of the embedded assistant (`models/training`): words, blanks, single digits and single Chinese characters stay apart.
const CLAWDBOT: &str = r"\p{Han}|\p{N}|(?:(?!\p{Han})\p{L})+|\s|[^\s\p{L}\p{N}]";

fn texts<'a>(values: impl Iterator<Item = Value<'a>>) -> Vec<&'a str> {
    values
        .map(|value| if let Value::String(text) = value { text } else { "" })
        .collect()
}

fn owned(ids: &HashMap<&str, u32>) -> Vocab {
    ids.iter().map(|(token, id)| ((*token).to_owned(), *id)).collect()
}

fn unusable(what: &str) -> Problem {
    Problem::Tokenizer(what.to_owned())
}

fn library(error: tokenizers::Error) -> Problem {
    Problem::Tokenizer(format!("{error}; convert the model again"))
}
