//! `clawdbot model import PATH`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::Desk;
use crate::cli::bar::size;
use crate::cli::{Failure, say};
use crate::hub::{INDEX, SMALL_FILES, WEIGHTS, all_parts};
use crate::library::{KeptFile, Manifest, ModelName, Staging, is_file_name};

#[derive(Debug, Args)]
pub(super) struct ImportFlags {
    /// A GGUF file, or a directory with safetensors, config.json and tokenizer.json
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// What it will be called [default: as the file or directory]
    #[arg(long)]
    name: Option<ModelName>,
    /// Copy the files also where a second name for them would do
    #[arg(long)]
    copy: bool,
}

pub(super) fn run(desk: &Desk, flags: &ImportFlags) -> Result<(), Failure> {
    models::inspect(&flags.path).map_err(Failure::misconfigured)?;
    // Elsewhere files may be links to others; here they are not.
    let path = flags.path.canonicalize().map_err(Failure::at_run_time)?;
    let is_weights = path
        .extension()
        .is_some_and(|extension| extension == "safetensors");
    let directory = match (path.is_dir(), is_weights) {
        (true, _) => Some(path.clone()),
        (_, true) => path.parent().map(Path::to_owned),
        _ => None,
    };
    let name = match &flags.name {
        Some(name) => name.clone(),
        None => name_of(&flags.path, directory.as_deref())?,
    };
    if desk.library.entries()?.iter().any(|entry| entry.name == name) {
        return Err(Failure::Misconfigured(format!(
            "there is a model {name} already; choose another name by --name, or remove that one by `clawdbot model rm {name}`"
        )));
    }
    desk.prepare()?;
    let staging = desk.library.stage(&name)?;
    let taken = take(&staging, &path, directory.as_deref(), &name, flags.copy);
    let manifest = match taken {
        Ok(manifest) => manifest,
        Err(failure) => {
            // What failed counts, not what is left of it.
            let _may_stay = staging.abandon();
            return Err(failure);
        }
    };
    let entry = staging.finish(&manifest)?;
    say(format!(
        "{}: {}; use it by model.path = \"{}\" or --model {}",
        entry.name,
        size(entry.bytes()),
        entry.name,
        entry.name
    ))
}

fn take(
    staging: &Staging,
    path: &Path,
    directory: Option<&Path>,
    name: &ModelName,
    copies: bool,
) -> Result<Manifest, Failure> {
    let (sources, model, folder) = match directory {
        Some(directory) => (
            files_of(directory)?,
            name.name.clone(),
            staging.path().join(&name.name),
        ),
        None => {
            let sources = parts_of(path, &name.name);
            let model = sources.first().map(|(_, name)| name.clone()).unwrap_or_default();
            (sources, model, staging.path())
        }
    };
    fs::create_dir_all(&folder).map_err(Failure::at_run_time)?;
    let mut files = Vec::new();
    for (source, name) in sources {
        let target = folder.join(&name);
        let _left_by_an_earlier_attempt = fs::remove_file(&target);
        // On another disk there can be no second name for it.
        if copies || fs::hard_link(&source, &target).is_err() {
            copy(&source, &target)?;
        }
        let bytes = fs::metadata(&target).map_err(Failure::at_run_time)?.len();
        files.push(KeptFile {
            name,
            bytes,
            checksum: None,
        });
    }
    models::inspect(&staging.path().join(&model)).map_err(Failure::at_run_time)?;
    Ok(Manifest {
        name: name.to_string(),
        model,
        source: None,
        files,
    })
}

fn copy(source: &Path, target: &Path) -> Result<(), Failure> {
    let needed = fs::metadata(source).map_err(Failure::at_run_time)?.len();
    let folder = target.parent().unwrap_or(target);
    let free = platform::disk::free_bytes(folder).map_err(Failure::at_run_time)?;
    if needed > free {
        return Err(Failure::AtRunTime(format!(
            "{} has {}, and the disk of {} has {} free; make room, or set data_dir to another disk",
            source.display(),
            size(needed),
            folder.display(),
            size(free)
        )));
    }
    fs::copy(source, target).map(drop).map_err(|error| {
        Failure::AtRunTime(format!(
            "{} could not be copied to {}: {error}",
            source.display(),
            target.display()
        ))
    })
}

/// A GGUF file, or all that were split from one, with the names that they will have.
fn parts_of(path: &Path, otherwise: &str) -> Vec<(PathBuf, String)> {
    let file_name = path.file_name().and_then(|name| name.to_str());
    let Some(file_name) = file_name.filter(|name| is_file_name(name)) else {
        return vec![(path.to_owned(), format!("{otherwise}.gguf"))];
    };
    let beside = |name: &String| path.with_file_name(name);
    // A file may be called like a part and be none.
    let all = all_parts(file_name).filter(|names| names.iter().all(|name| beside(name).exists()));
    let all = all.unwrap_or_else(|| vec![file_name.to_owned()]);
    all.into_iter().map(|name| (beside(&name), name)).collect()
}

/// What belongs to a model in safetensors, with the names that it has there.
fn files_of(directory: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut names: Vec<String> = SMALL_FILES.map(str::to_owned).to_vec();
    if directory.join(WEIGHTS).exists() {
        names.retain(|name| name != INDEX);
        names.push(WEIGHTS.to_owned());
    } else {
        let index = fs::read(directory.join(INDEX)).map_err(Failure::at_run_time)?;
        let index: Value = serde_json::from_slice(&index).unwrap_or_default();
        let listed = index["weight_map"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.values());
        let mut listed: Vec<String> = listed.filter_map(Value::as_str).map(str::to_owned).collect();
        listed.sort_unstable();
        listed.dedup();
        names.extend(listed.into_iter().filter(|name| is_file_name(name)));
    }
    let mut files = Vec::new();
    for name in names {
        let path = directory.join(&name);
        if path.exists() {
            files.push((path.canonicalize().map_err(Failure::at_run_time)?, name));
        }
    }
    Ok(files)
}

/// As the file or directory is called, as far as a name may be so.
fn name_of(path: &Path, directory: Option<&Path>) -> Result<ModelName, Failure> {
    let own = match directory {
        Some(directory) => directory.file_name(),
        None => path.file_stem(),
    };
    let own = own
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let plain: String = own
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let parts = plain
        .split('-')
        .map(|part| part.trim_matches('.'))
        .filter(|part| !part.is_empty());
    let plain = parts.collect::<Vec<_>>().join("-");
    plain
        .parse()
        .map_err(|_| Failure::Misconfigured(format!("no name can be made of {own:?}; give one by --name")))
}
