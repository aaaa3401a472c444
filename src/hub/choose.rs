//! Which files of a repository are pulled: one model in GGUF, or everything that belongs to a model in safetensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::{HubError, Listing, RemoteFile};
use crate::library::is_file_name;

/// What is pulled.
#[derive(Debug, PartialEq)]
pub(crate) enum Choice {
    /// A file with everything in it, or its parts in their order, and the quantisation that the name tells.
    Gguf {
        quant: Option<String>,
        files: Vec<RemoteFile>,
    },
    /// A directory. Weights in several files are listed by the index, which must be fetched before they are known.
    Whole {
        small: Vec<RemoteFile>,
        weights: Weights,
    },
}

#[derive(Debug, PartialEq)]
pub(crate) enum Weights {
    One(RemoteFile),
    ByIndex,
}

/// What a model in safetensors may have beside its weights.
pub(crate) const SMALL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    INDEX,
];
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// What is taken where nobody says: 4 bits, which a small machine's memory is fast enough for, the better kinds first; then
/// those above, from the smallest on; then those below.
const PREFERRED: [&str; 17] = [
    "Q4_K_M", "Q4_K_S", "IQ4_NL", "Q4_0", "Q4_1", "Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1", "Q6_K", "Q8_0", "F16",
    "BF16", "F32", "Q3_K_M", "Q3_K_S", "Q2_K",
];

/// The quantisation that a file's name tells: the last part of it that looks like one.
fn quant_of(name: &str) -> Option<String> {
    let stem = name
        .len()
        .checked_sub(".gguf".len())
        .and_then(|end| name.get(..end))?;
    let starts = stem
        .char_indices()
        .filter(|(_, c)| matches!(c, '-' | '.' | '_'))
        .map(|(at, _)| at + 1)
        .chain([0]);
    let ends = |from: &usize| is_quant(&stem[*from..]);
    let mut starts: Vec<usize> = starts.collect();
    starts.sort_unstable();
    let from = starts.into_iter().find(ends)?;
    Some(stem[from..].to_ascii_uppercase())
}

fn is_quant(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    if matches!(text.as_str(), "F16" | "BF16" | "F32" | "FP16" | "FP32") {
        return true;
    }
    let bits = ["IQ", "TQ", "Q"]
        .into_iter()
        .find_map(|kind| text.strip_prefix(kind));
    let Some((bits, kind)) = bits.map(|rest| rest.split_once('_').unwrap_or((rest, ""))) else {
        return false;
    };
    let is_word = |part: &str| part.len() <= 3 && part.chars().all(|c| c.is_ascii_alphanumeric());
    bits.len() == 1 && bits.as_bytes()[0].is_ascii_digit() && kind.split('_').all(is_word)
}

/// A model in GGUF: one file, or all the parts of one that was split.
struct Gguf {
    /// As it would be called in one file.
    name: String,
    quant: Option<String>,
    files: Vec<RemoteFile>,
}

/// Chooses, by the quantisation that was asked for, if any.
pub(crate) fn choose(listing: &Listing, quant: Option<&str>) -> Result<Choice, HubError> {
    let ggufs = ggufs(listing);
    match (ggufs.is_empty(), quant) {
        (false, _) => choose_gguf(&ggufs, quant),
        (true, Some(quant)) => Err(HubError::NothingToRun(format!(
            "the repository has no GGUF files, and so none of {quant}; pull it without that, and choose the bits by `clawdbot \
             model quantize`"
        ))),
        (true, None) => choose_whole(listing),
    }
}

/// All that are whole.
fn ggufs(listing: &Listing) -> Vec<Gguf> {
    let mut sets: BTreeMap<(&str, u32), Vec<&RemoteFile>> = BTreeMap::new();
    for file in &listing.files {
        if has_ending(file, ".gguf") && is_model(file.name()) {
            let (stem, part) = part_of(&file.path);
            sets.entry((stem, part.map_or(1, |(_, of)| of)))
                .or_default()
                .push(file);
        }
    }
    let whole = sets.into_iter().filter_map(|((stem, of), mut files)| {
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let numbers = files
            .iter()
            .map(|file| part_of(&file.path).1.map_or(1, |(number, _)| number));
        if !numbers.eq(1..=of) {
            return None;
        }
        let name = format!("{}.gguf", stem.rsplit('/').next().unwrap_or(stem));
        Some(Gguf {
            quant: quant_of(&name),
            name,
            files: files.into_iter().cloned().collect(),
        })
    });
    whole.collect()
}

/// A path without the ending, and which part of how many it is: `NAME-00001-of-00003.gguf`.
fn part_of(path: &str) -> (&str, Option<(u32, u32)>) {
    let stem = path
        .get(..path.len().saturating_sub(".gguf".len()))
        .unwrap_or(path);
    let number = |text: &str| {
        let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| is_number && *number > 0)
    };
    let part = || {
        let (rest, of) = stem.rsplit_once("-of-")?;
        let (name, part) = rest.rsplit_once('-')?;
        Some((name, (number(part)?, number(of)?)))
    };
    match part() {
        Some((name, part)) => (name, Some(part)),
        None => (stem, None),
    }
}

/// The names of all parts, by that of one; none for what is no part.
pub(crate) fn all_parts(name: &str) -> Option<Vec<String>> {
    let (stem, part) = part_of(name);
    let (_, of) = part?;
    Some(
        (1..=of)
            .map(|number| format!("{stem}-{number:05}-of-{of:05}.gguf"))
            .collect(),
    )
}

fn choose_gguf(ggufs: &[Gguf], quant: Option<&str>) -> Result<Choice, HubError> {
    let chosen = |gguf: &Gguf| {
        Ok(Choice::Gguf {
            quant: gguf.quant.clone(),
            files: gguf.files.clone(),
        })
    };
    let Some(quant) = quant else {
        for preferred in PREFERRED {
            let mut of_it = ggufs
                .iter()
                .filter(|gguf| gguf.quant.as_deref() == Some(preferred));
            match (of_it.next(), of_it.next()) {
                (Some(gguf), None) => return chosen(gguf),
                (Some(_), Some(_)) => return Err(nothing("several files could be meant", ggufs)),
                (None, _) => {}
            }
        }
        return match ggufs {
            [only] => chosen(only),
            _ => Err(nothing("none of the GGUF files is an obvious choice", ggufs)),
        };
    };
    let is_meant = |gguf: &&Gguf| {
        let file = gguf.name.trim_end_matches(".gguf");
        gguf.quant
            .as_ref()
            .is_some_and(|own| own.eq_ignore_ascii_case(quant))
            || gguf.name.eq_ignore_ascii_case(quant)
            || file.eq_ignore_ascii_case(quant)
    };
    let meant: Vec<&Gguf> = ggufs.iter().filter(is_meant).collect();
    match meant.as_slice() {
        [gguf] if gguf.quant.as_deref().is_none_or(can_be_run) => chosen(gguf),
        [_] => Err(nothing(
            &format!("{quant} is of a type that cannot be run so far"),
            ggufs,
        )),
        [] => Err(nothing(&format!("there is no {quant}"), ggufs)),
        _ => Err(nothing(&format!("several files are {quant}"), ggufs)),
    }
}

/// Says what there is.
fn nothing(why: &str, ggufs: &[Gguf]) -> HubError {
    let there: BTreeSet<&str> = ggufs
        .iter()
        .filter(|gguf| gguf.quant.as_deref().is_none_or(can_be_run))
        .map(|gguf| match &gguf.quant {
            Some(quant) if ggufs.iter().filter(|other| other.quant == gguf.quant).count() == 1 => quant,
            _ => gguf.name.as_str(),
        })
        .collect();
    let there = match there.is_empty() {
        true => "nothing that can be run".to_owned(),
        false => there.into_iter().collect::<Vec<_>>().join(", "),
    };
    HubError::NothingToRun(format!(
        "{why}; there is: {there}. Choose one by OWNER/NAME:QUANT"
    ))
}

/// Whether the types that such a file mostly has are among those that are read.
fn can_be_run(quant: &str) -> bool {
    let kinds = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];
    PREFERRED.contains(&quant)
        || matches!(quant, "FP16" | "FP32")
        || kinds.iter().any(|kind| {
            quant
                .strip_prefix(kind)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
}

fn choose_whole(listing: &Listing) -> Result<Choice, HubError> {
    let named = |name: &str| listing.files.iter().find(|file| file.path == name);
    let weights = match (named(WEIGHTS), named(INDEX)) {
        (Some(file), _) => Weights::One(file.clone()),
        (None, Some(_)) => Weights::ByIndex,
        (None, None) => {
            let kinds: BTreeSet<&str> = listing
                .files
                .iter()
                .filter_map(|file| Path::new(&file.path).extension()?.to_str())
                .collect();
            return Err(HubError::NothingToRun(format!(
                "the repository has neither GGUF files nor {WEIGHTS}, and nothing else can be run; it has files of these \
                 kinds: {}. Look for a repository with -GGUF in its name",
                kinds.into_iter().collect::<Vec<_>>().join(", ")
            )));
        }
    };
    for needed in ["config.json", "tokenizer.json"] {
        if named(needed).is_none() {
            return Err(HubError::NothingToRun(format!(
                "the repository has no {needed}, without which its weights cannot be run; look for a repository with -GGUF in \
                 its name"
            )));
        }
    }
    let has_one_file = matches!(weights, Weights::One(_));
    let small = SMALL_FILES
        .iter()
        .filter(|name| !(has_one_file && **name == INDEX))
        .filter_map(|name| named(name).cloned())
        .collect();
    Ok(Choice::Whole { small, weights })
}

/// The files that an index lists, of those that the repository has.
pub(crate) fn weights_of_index(index: &[u8], listing: &Listing) -> Result<Vec<RemoteFile>, HubError> {
    let json: Value = serde_json::from_slice(index).unwrap_or_default();
    let names: BTreeSet<&str> = json["weight_map"]
        .as_object()
        .map(|map| map.values().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let fault = |what: String| HubError::NothingToRun(format!("{INDEX} {what}; the repository is not whole"));
    if names.is_empty() {
        return Err(fault("lists no weights".to_owned()));
    }
    names
        .into_iter()
        .map(|name| {
            let is_weights = is_file_name(name) && name.ends_with(".safetensors");
            let file = listing.files.iter().find(|file| is_weights && file.path == name);
            file.cloned().ok_or_else(|| {
                fault(format!(
                    "lists {:?}, which is not there",
                    name.chars().take(100).collect::<String>()
                ))
            })
        })
        .collect()
}

fn has_ending(file: &RemoteFile, ending: &str) -> bool {
    file.path.to_ascii_lowercase().ends_with(ending)
}

/// Beside models there are files for what they see, and for those who quantise.
fn is_model(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !["mmproj", "imatrix"].iter().any(|other| name.contains(other))
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
