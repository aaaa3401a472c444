//! What is written down of a model when it comes into the folder.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A model's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What it is called.
    pub name: String,
    /// The file or directory beside the manifest that the engine loads.
    pub model: String,
    /// Where it was pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// All of its files.
    pub files: Vec<KeptFile>,
}

/// Where a model was pulled from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The hub.
    pub endpoint: String,
    /// `OWNER/NAME`.
    pub repository: String,
    /// The commit that it was of, as the hub says.
    pub commit: String,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What the hub's checksum was, with its kind before it; none for what was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// The index of the largest model has a few hundred files.
const MAX_BYTES: u64 = 1 << 20;

impl Manifest {
    /// None where there is none, or none of ours.
    pub(super) fn read(path: &Path) -> Option<Manifest> {
        let mut text = Vec::new();
        File::open(path)
            .ok()?
            .take(MAX_BYTES)
            .read_to_end(&mut text)
            .ok()?;
        let manifest: Manifest = serde_json::from_slice(&text).ok()?;
        // It must not point out of its folder.
        is_file_name(&manifest.model).then_some(manifest)
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
    }
}

/// Whether something is the name of a file and nothing more: names of files are freer than those of models, but lead
/// nowhere, are not hidden, and need no quoting in a path or an address.
pub fn is_file_name(name: &str) -> bool {
    (1..=MOST_NAME_BYTES).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'))
}

/// With what is added to a part of it, still below what file systems take.
const MOST_NAME_BYTES: usize = 200;
