//! `clawdbot model pull OWNER/NAME[:QUANT]`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Desk;
use crate::cli::bar::{Bar, Unit, size};
use crate::cli::{Failure, say};
use crate::hub::{Checksum, Choice, Download, Hub, HubError, Listing, RemoteFile, Weights};
use crate::hub::{INDEX, choose, copy_of, is_the_file, weights_of_index};
use crate::library::{Entry, KeptFile, Manifest, ModelName, Source, Staging, is_file_name, is_plain};

#[derive(Debug, Args)]
pub(super) struct PullFlags {
    /// The repository on the hub, and which of its GGUF files: OWNER/NAME or OWNER/NAME:Q4_K_M
    #[arg(value_name = "OWNER/NAME[:QUANT]")]
    model: String,
}

/// The largest index there is has some megabytes.
const MOST_INDEX_BYTES: u64 = 64 << 20;
/// Left free on the disk.
const SPARE_BYTES: u64 = 16 << 20;

pub(super) fn run(desk: &Desk, flags: &PullFlags) -> Result<(), Failure> {
    let asked: ModelName = flags.model.parse().map_err(Failure::misconfigured)?;
    let repository = asked.repository().ok_or_else(|| {
        Failure::Misconfigured(format!(
            "{:?} has no owner; write OWNER/NAME as on the hub",
            flags.model
        ))
    })?;
    let hub = Hub::of(&desk.settings.hub)?;
    let listing = hub.listing(&repository)?;
    if listing.left_out > 0 {
        eprintln!(
            "{} files of {repository} are left out, because their names could lead out of a folder",
            listing.left_out
        );
    }
    if let Some(Err(problem)) = listing.architecture.as_deref().map(models::check_architecture) {
        return Err(Failure::AtRunTime(format!("{repository}: {problem}")));
    }
    desk.prepare()?;
    let pull = Pull {
        desk,
        hub: &hub,
        repository: &repository,
        listing: &listing,
    };
    let entry = match choose(&listing, asked.quant.as_deref())? {
        Choice::Gguf { quant, files } => pull.gguf(&asked, quant, files)?,
        Choice::Whole { small, weights } => pull.whole(&asked, small, weights)?,
    };
    let Some(entry) = entry else { return Ok(()) };
    let summary = models::inspect(&entry.model).map_err(Failure::at_run_time)?;
    say(format!(
        "{}: {}, {}, {}; it runs as {}",
        entry.name,
        summary.architecture,
        summary.format,
        size(entry.bytes()),
        desk.settings.model.precision.unwrap_or(summary.precision),
    ))?;
    say(format!(
        "Use it by model.path = \"{}\" or --model {}; `clawdbot model quantize {}` packs it now instead of at the first \
         start.",
        entry.name, entry.name, entry.name
    ))
}

/// One model on its way.
struct Pull<'p> {
    desk: &'p Desk,
    hub: &'p Hub,
    repository: &'p str,
    listing: &'p Listing,
}

/// A file of which the length is known.
struct Known {
    file: RemoteFile,
    bytes: u64,
    name: String,
}

impl Pull<'_> {
    fn gguf(
        &self,
        asked: &ModelName,
        quant: Option<String>,
        files: Vec<RemoteFile>,
    ) -> Result<Option<Entry>, Failure> {
        let files = files
            .into_iter()
            .map(|file| self.known(file))
            .collect::<Result<Vec<_>, _>>()?;
        // The first of several names all of them.
        let model = files.first().map(|known| known.name.clone()).unwrap_or_default();
        let stem = || model.rsplit_once('.').map(|(stem, _)| stem.to_owned());
        let name = ModelName {
            quant: quant
                .or_else(stem)
                .filter(|quant| is_plain(quant))
                .or(asked.quant.clone()),
            ..asked.clone()
        };
        if self.is_here(&name, &files)? {
            return Ok(None);
        }
        let staging = self.desk.library.stage(&name)?;
        self.fetch(&staging.path(), &files.iter().collect::<Vec<_>>(), &[])?;
        self.finish(staging, &name, &model, files)
    }

    fn whole(
        &self,
        asked: &ModelName,
        small: Vec<RemoteFile>,
        weights: Weights,
    ) -> Result<Option<Entry>, Failure> {
        let name = asked.whole();
        let small = small
            .into_iter()
            .map(|file| self.known(file))
            .collect::<Result<Vec<_>, _>>()?;
        let staging = self.desk.library.stage(&name)?;
        // In a folder of the repository's name, because that is what the model is then called.
        let folder = staging.path().join(&name.name);
        fs::create_dir_all(&folder).map_err(Failure::at_run_time)?;
        let weights = match weights {
            Weights::One(file) => vec![self.known(file)?],
            Weights::ByIndex => {
                // Which weights there are stands in a file that must be here first.
                let index = small.iter().find(|known| known.name == INDEX);
                let index = index.ok_or_else(|| Failure::AtRunTime(format!("there is no {INDEX}")))?;
                if index.bytes > MOST_INDEX_BYTES {
                    return Err(Failure::AtRunTime(format!("{INDEX} has {}", size(index.bytes))));
                }
                self.fetch(&folder, &[index], &[])?;
                let index = fs::read(folder.join(INDEX)).map_err(Failure::at_run_time)?;
                let listed = weights_of_index(&index, self.listing)?;
                listed
                    .into_iter()
                    .map(|file| self.known(file))
                    .collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut files = small;
        let first_weights = files.len();
        files.extend(weights);
        if self.is_here(&name, &files)? {
            staging.abandon()?;
            return Ok(None);
        }
        let (small, weights) = files.split_at(first_weights);
        let [small, weights] = [small, weights].map(|files| files.iter().collect::<Vec<_>>());
        self.fetch(&folder, &small, &weights)?;
        refuse_what_cannot_be_run(&folder)?;
        self.fetch(&folder, &weights, &[])?;
        let model = name.name.clone();
        self.finish(staging, &name, &model, files)
    }

    /// Asks the hub for what it did not say yet.
    fn known(&self, mut file: RemoteFile) -> Result<Known, HubError> {
        self.hub.complete_by_headers(self.repository, &mut file)?;
        let is_weights = [".gguf", ".safetensors"]
            .iter()
            .any(|ending| file.path.to_ascii_lowercase().ends_with(ending));
        if file.checksum.is_none() {
            if is_weights {
                return Err(HubError::NoChecksum { file: file.path });
            }
            eprintln!(
                "the hub gave no checksum for {}; only its length is looked at",
                file.path
            );
        }
        let bytes = file.bytes.ok_or_else(|| {
            HubError::NothingToRun(format!(
                "the hub does not say how long {} is; name another mirror by hub.endpoint",
                file.path
            ))
        })?;
        let name = file.name().to_owned();
        if !is_file_name(&name) {
            return Err(HubError::NothingToRun(format!("{name:?} is no name for a file")));
        }
        Ok(Known { file, bytes, name })
    }

    /// Whether this very content is here under this name, which is then said.
    fn is_here(&self, name: &ModelName, files: &[Known]) -> Result<bool, Failure> {
        let entries = self.desk.library.entries()?;
        let Some(entry) = entries.iter().find(|entry| entry.name == *name) else {
            return Ok(false);
        };
        let is_kept = |known: &Known| {
            let checksum = known.file.checksum.map(|checksum| checksum.to_string());
            checksum.is_some()
                && entry
                    .manifest
                    .files
                    .iter()
                    .any(|kept| kept.name == known.name && kept.checksum == checksum)
        };
        let is_there = files.iter().all(is_kept) && models::inspect(&entry.model).is_ok();
        if is_there {
            say(format!("{name} is here already, as it is on the hub"))?;
        } else {
            eprintln!("{name} is here in another state than on the hub, and is fetched anew");
        }
        Ok(is_there)
    }

    /// Brings files into a folder, of which others are to follow.
    fn fetch(&self, folder: &Path, files: &[&Known], to_follow: &[&Known]) -> Result<(), Failure> {
        let downloads = |files: &[&Known]| -> u64 {
            let left = |known: &&Known| known.bytes - self.download(known).bytes_there(folder);
            files.iter().map(left).fold(0, u64::saturating_add)
        };
        let needed = downloads(files).saturating_add(downloads(to_follow));
        let free = platform::disk::free_bytes(folder).map_err(Failure::at_run_time)?;
        if needed > 0 && needed.saturating_add(SPARE_BYTES) > free {
            return Err(Failure::AtRunTime(format!(
                "{} are still to come, and the disk of {} has {} free; make room, or set data_dir to another disk",
                size(needed),
                self.desk.library.directory().display(),
                size(free)
            )));
        }
        for known in files {
            self.fetch_one(folder, known)?;
        }
        Ok(())
    }

    fn fetch_one(&self, folder: &Path, known: &Known) -> Result<(), Failure> {
        let target = folder.join(&known.name);
        // An earlier attempt may have got so far.
        if is_the_file(&target, known.bytes, known.file.checksum).unwrap_or(false) {
            return Ok(());
        }
        if let Some(checksum) = known.file.checksum
            && self.take_copy(known, checksum, &target)
        {
            return Ok(());
        }
        let mut bar = Bar::new(&*known.name, Unit::Bytes);
        let download = self.download(known);
        download.run(self.hub, folder, &mut |done| bar.show(done, known.bytes))?;
        Ok(())
    }

    /// What another program of the hub's has fetched already.
    fn take_copy(&self, known: &Known, checksum: Checksum, target: &Path) -> bool {
        let Some(copy) = copy_of(self.repository, &known.file.path) else {
            return false;
        };
        let draft = target.with_extension("copy");
        let taken = is_the_file(&copy, known.bytes, Some(checksum)).unwrap_or(false)
            && (fs::hard_link(&copy, &draft).is_ok() || fs::copy(&copy, &draft).is_ok())
            && fs::rename(&draft, target).is_ok();
        if taken {
            eprintln!("{} is taken from {}", known.name, copy.display());
        } else {
            let _was_none = fs::remove_file(&draft);
        }
        taken
    }

    fn download<'d>(&'d self, known: &'d Known) -> Download<'d> {
        Download {
            repository: self.repository,
            path: &known.file.path,
            name: &known.name,
            bytes: known.bytes,
            checksum: known.file.checksum,
        }
    }

    /// Looks whether it can be run, and gives it its place.
    fn finish(
        &self,
        staging: Staging,
        name: &ModelName,
        model: &str,
        files: Vec<Known>,
    ) -> Result<Option<Entry>, Failure> {
        if let Err(error) = models::inspect(&staging.path().join(model)) {
            // The path that it has now is nobody's business.
            let problem = error.problem;
            staging.abandon()?;
            return Err(Failure::AtRunTime(format!(
                "{name} came as the hub has it, but cannot be run and was thrown away: {problem}"
            )));
        }
        clear_others(&folder_of(&staging.path().join(model)), &files)?;
        let kept = |known: Known| KeptFile {
            name: known.name,
            bytes: known.bytes,
            checksum: known.file.checksum.map(|checksum| checksum.to_string()),
        };
        let manifest = Manifest {
            name: name.to_string(),
            model: model.to_owned(),
            source: Some(Source {
                endpoint: self.hub.endpoint().to_owned(),
                repository: self.repository.to_owned(),
                commit: self.listing.commit.clone(),
            }),
            files: files.into_iter().map(kept).collect(),
        };
        Ok(Some(staging.finish(&manifest)?))
    }
}

/// The folder that a model's files are in.
fn folder_of(model: &Path) -> PathBuf {
    match model.is_dir() {
        true => model.to_owned(),
        false => model.parent().map_or_else(|| model.to_owned(), Path::to_owned),
    }
}

/// Parts of what the repository had at an earlier attempt.
fn clear_others(folder: &Path, files: &[Known]) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).map_err(Failure::at_run_time)? {
        let path = entry.map_err(Failure::at_run_time)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_file() && !files.iter().any(|known| Some(known.name.as_str()) == name) {
            fs::remove_file(&path).map_err(Failure::at_run_time)?;
        }
    }
    Ok(())
}

/// The configuration tells before the weights are there.
fn refuse_what_cannot_be_run(folder: &Path) -> Result<(), Failure> {
    let text = fs::read(folder.join("config.json")).map_err(Failure::at_run_time)?;
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    match config["model_type"].as_str().map(models::check_architecture) {
        Some(Err(problem)) => Err(Failure::AtRunTime(format!("the model cannot be run: {problem}"))),
        _ => Ok(()),
    }
}
