//! Models and texts that lie beside the repository.

use std::path::{Path, PathBuf};

use super::skip;

/// A file or folder under `../shared/data`; where it is missing, that is said and the test is over.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/data")
        .join(path);
    if full.exists() {
        return Some(full);
    }
    skip(&format!("{} is missing", full.display()));
    None
}

/// A small model that tells stories.
pub(crate) fn stories() -> Option<PathBuf> {
    shared("models/stories260K/stories260K-f32.gguf")
}

/// What the small model says at temperature 0, [`PROMPT`] included.
pub(crate) fn expected_story() -> Option<String> {
    let path = shared("models/stories260K/expected_greedy_256.txt")?;
    Some(
        std::fs::read_to_string(path)
            .expect("the expected story is readable")
            .trim_end()
            .to_owned(),
    )
}

/// How the expected story begins.
pub(crate) const PROMPT: &str = "Once upon a time";
