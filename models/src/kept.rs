//! What is kept of a model beside its own files: its packed weights, a file for each precision, and how it did at each
//! of them ([`QualityTable`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::format::Checkpoint;
use crate::packed::file::{self, checksum};
use crate::precision::Precision;
use crate::quality::{QualityTable, VERSION};

/// A model's packed weights and its quality, in a directory of them.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
    name: String,
    identity: String,
    fingerprint: String,
}

/// Packed weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFile {
    /// How many bits a weight has in it.
    pub precision: Precision,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Whether it is of another content of the model's files, or of another version, and will be made anew.
    pub is_stale: bool,
}

/// As it stands in a file.
#[derive(Serialize, Deserialize)]
struct KeptQuality {
    version: u32,
    source: String,
    table: QualityTable,
}

/// Longer ones are none of ours.
const MAX_QUALITY_BYTES: u64 = 1 << 20;

impl Kept {
    /// What is kept of this model in this directory, which need not exist.
    ///
    /// # Errors
    /// As [`inspect`](crate::inspect).
    pub fn of(model: &Path, directory: &Path) -> Result<Kept, ModelError> {
        let checkpoint = Checkpoint::open(model)?;
        Ok(Kept {
            directory: directory.to_owned(),
            name: checkpoint.name.clone(),
            identity: checkpoint.identity(),
            fingerprint: checkpoint.fingerprint(),
        })
    }

    /// The packed files that there are.
    pub fn packed(&self) -> Vec<PackedFile> {
        let of_precision = |precision: Precision| {
            let path = file::path_in(&self.directory, &self.name, &self.identity, precision.packing()?);
            let bytes = fs::metadata(&path).ok()?.len();
            Some(PackedFile {
                precision,
                is_stale: !file::is_of(&path, &self.fingerprint),
                bytes,
                path,
            })
        };
        Precision::ALL.into_iter().filter_map(of_precision).collect()
    }

    /// How the model did, and whether that was the same content of its files. None where it was not measured, or in
    /// another way.
    pub fn quality(&self) -> Option<(QualityTable, bool)> {
        let path = self.quality_path();
        if fs::metadata(&path).ok()?.len() > MAX_QUALITY_BYTES {
            return None;
        }
        let kept: KeptQuality = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        (kept.version == VERSION).then(|| (kept.table, kept.source == self.measured_source()))
    }

    /// Keeps how the model did, in the place of what was kept before.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_quality(&self, table: &QualityTable) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let json = serde_json::to_vec_pretty(&KeptQuality {
            version: VERSION,
            source: self.measured_source(),
            table: table.clone(),
        })?;
        let path = self.quality_path();
        let draft = path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&draft, json)?;
        fs::rename(&draft, &path)
    }

    /// What a measurement is of: the files' content, and which numbers packing makes of it.
    fn measured_source(&self) -> String {
        format!("{} {}", file::VERSION, self.fingerprint)
    }

    fn quality_path(&self) -> PathBuf {
        file::quality_path_in(&self.directory, &self.name, &self.identity)
    }
}

/// Every file in the directory that is kept of the model at this path, also where the model cannot be read any more.
///
/// # Errors
/// The system's; a directory that does not exist has none.
pub fn kept_files(model: &Path, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let identities: Vec<String> = Checkpoint::paths_of(model)
        .iter()
        .map(|path| {
            let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
            format!("-{:016x}-", checksum(identity.display().to_string().as_bytes()))
        })
        .collect();
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| identities.iter().any(|identity| name.contains(identity))) {
            files.push(path);
        }
    }
    Ok(files)
}
