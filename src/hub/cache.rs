//! What other programs of the hub's left on this machine: a token, and files that need not be fetched twice.

use std::path::PathBuf;

use hf_hub::Cache;

/// Their folder, where there can be one.
pub(super) fn of_the_hub() -> Option<Cache> {
    // Without either of them the crate would end the process.
    let has_place = std::env::var_os("HF_HOME").is_some() || directories::BaseDirs::new().is_some();
    has_place.then(Cache::from_env)
}

/// Where a file of a repository would be, if it was fetched before. Whether it is the same is the caller's to check.
pub(crate) fn copy_of(repository: &str, file: &str) -> Option<PathBuf> {
    let path = of_the_hub()?.model(repository.to_owned()).get(file)?;
    // There it is a link to the content.
    path.canonicalize().ok().filter(|path| path.is_file())
}
