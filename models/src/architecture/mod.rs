//! The model families: what a file's metadata says becomes one description of a network ([`spec`]), which the f32
//! reference ([`network`]) runs.
//!
//! Every family is Llama with differences. A family's file knows them and their names in both formats; what the
//! formats say in the same words for all families is read by [`gguf_metadata`] and [`json_metadata`].

mod gemma;
mod gguf_metadata;
mod json_metadata;
mod llama;
pub(crate) mod network;
mod phi3;
mod qwen;
pub(crate) mod rope;
mod smollm3;
pub(crate) mod spec;
mod weights;

use gguf_metadata::GgufMetadata;
use json_metadata::JsonMetadata;
use serde_json::Value;
use spec::NetworkSpec;

pub(crate) use weights::{check, load};

use crate::error::Problem;
use crate::format::gguf::Gguf;

/// One family, by its names in files.
pub(crate) struct Family {
    /// GGUF's `general.architecture` and Hugging Face's `model_type`.
    names: &'static [&'static str],
    gguf: fn(&GgufMetadata<'_>) -> Result<NetworkSpec, Problem>,
    json: fn(&JsonMetadata<'_>) -> Result<NetworkSpec, Problem>,
}

const FAMILIES: &[Family] = &[
    Family {
        names: &["llama"],
        gguf: llama::from_gguf,
        json: llama::from_json,
    },
    // In GGUF files it is a llama.
    Family {
        names: &["mistral"],
        gguf: llama::from_gguf,
        json: llama::mistral_from_json,
    },
    Family {
        names: &["qwen2"],
        gguf: qwen::qwen2_from_gguf,
        json: qwen::qwen2_from_json,
    },
    Family {
        names: &["qwen3"],
        gguf: qwen::qwen3_from_gguf,
        json: qwen::qwen3_from_json,
    },
    Family {
        names: &["smollm3"],
        gguf: smollm3::from_gguf,
        json: smollm3::from_json,
    },
    Family {
        names: &["phi3"],
        gguf: phi3::from_gguf,
        json: phi3::from_json,
    },
    Family {
        names: &["gemma2"],
        gguf: gemma::gemma2_from_gguf,
        json: gemma::gemma2_from_json,
    },
    Family {
        names: &["gemma3", "gemma3_text"],
        gguf: gemma::gemma3_from_gguf,
        json: gemma::gemma3_from_json,
    },
];

/// The network that a GGUF file describes; `file` is all of it.
///
/// # Errors
/// [`Problem::UnknownArchitecture`], [`Problem::Configuration`] where the metadata contradicts itself, and
/// [`Problem::Unsupported`].
pub(crate) fn from_gguf(gguf: &Gguf<'_>, file: &[u8]) -> Result<NetworkSpec, Problem> {
    let metadata = GgufMetadata::new(gguf, file)?;
    (family(metadata.architecture)?.gguf)(&metadata)?.check()
}

/// The network that a `config.json` describes.
///
/// # Errors
/// As [`from_gguf`].
pub(crate) fn from_json(json: &Value) -> Result<NetworkSpec, Problem> {
    let metadata = JsonMetadata::new(json)?;
    (family(metadata.architecture)?.json)(&metadata)?.check()
}

/// Refuses the architectures that have no file here, by name.
pub(crate) fn family(architecture: &str) -> Result<&'static Family, Problem> {
    let family = FAMILIES
        .iter()
        .find(|family| family.names.contains(&architecture));
    family.ok_or_else(|| Problem::UnknownArchitecture {
        architecture: architecture.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_an_architecture_names_all_that_can_be_run() {
        let Err(refusal) = family("mamba") else {
            panic!("mamba is no family");
        };
        let refusal = refusal.to_string();
        assert!(refusal.contains("\"mamba\""));
        for family in FAMILIES {
            assert!(refusal.contains(family.names[0]), "{refusal}");
        }
    }
}
