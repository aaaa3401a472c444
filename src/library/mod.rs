//! The models folder, `models/` of the data directory: what was pulled and what was imported, each in a folder of its
//! own with a manifest beside the model's files.
//!
//! A model appears as a whole or not at all: it is put together in `.part/`, under the same folder's name, and renamed when all
//! of it is there and was found fit. What is in `.part/` is also where an interrupted pull goes on.

mod embedded;
mod manifest;
mod name;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use embedded::EMBEDDED;
pub use manifest::{KeptFile, Manifest, Source, is_file_name};
pub use name::{ModelName, NotAName, is_plain};

/// The models folder.
#[derive(Clone, Debug)]
pub struct Library {
    directory: PathBuf,
}

/// A model in it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is called.
    pub name: ModelName,
    /// The file or directory that the engine loads.
    pub model: PathBuf,
    /// What was written down of it.
    pub manifest: Manifest,
    folder: PathBuf,
}

/// A place where a model is put together. Nobody else works on it until this is dropped.
#[derive(Debug)]
pub struct Staging {
    library: PathBuf,
    folder: String,
    _lock: File,
}

/// What is wrong with the models folder, or with what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The system refused.
    #[error("{}: {source}; the models folder must be writable, with room on its disk", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No such model.
    #[error(
        "there is no model {name:?}; `clawdbot model list` shows what there is, `clawdbot model pull OWNER/NAME` brings one"
    )]
    Missing {
        /// As asked.
        name: String,
    },
    /// Several could be meant.
    #[error("{name:?} may be any of {}; write one of them", among.join(", "))]
    Ambiguous {
        /// As asked.
        name: String,
        /// All of them.
        among: Vec<String>,
    },
    /// Another process puts it together.
    #[error("another clawdbot is just working on {name}; wait for it")]
    Busy {
        /// The model.
        name: String,
    },
}

const PART: &str = ".part";
const MANIFEST: &str = "clawdbot.json";

impl Library {
    /// That of a data directory, which need not exist.
    pub fn of(data_dir: &Path) -> Library {
        Library {
            directory: data_dir.join("models"),
        }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All models, by name. Folders without a manifest are somebody else's and are passed over.
    pub fn entries(&self) -> Result<Vec<Entry>, LibraryError> {
        let listed = match fs::read_dir(&self.directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(at(&self.directory, source)),
        };
        let mut entries = Vec::new();
        for one in listed {
            let folder = one.map_err(|source| at(&self.directory, source))?.path();
            entries.extend(Entry::read(&folder));
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// The model of this name. A repository's name does where only one of its models is here, and letters may be small
    /// or large.
    pub fn find(&self, name: &str) -> Result<Entry, LibraryError> {
        let missing = || LibraryError::Missing {
            name: name.chars().take(200).collect(),
        };
        let asked: ModelName = name.parse().map_err(|_| missing())?;
        let mut fitting = self.entries()?;
        let is = |entry: &Entry| entry.name.to_string().eq_ignore_ascii_case(name);
        if let Some(at) = fitting.iter().position(is) {
            return Ok(fitting.swap_remove(at));
        }
        let whole = asked.to_string();
        fitting.retain(|entry| entry.name.whole().to_string().eq_ignore_ascii_case(&whole));
        match fitting.len() {
            0 => Err(missing()),
            1 => Ok(fitting.swap_remove(0)),
            _ => Err(LibraryError::Ambiguous {
                name: name.to_owned(),
                among: fitting.iter().map(|entry| entry.name.to_string()).collect(),
            }),
        }
    }

    /// What a setting or flag means: the assistant that comes with the program ([`EMBEDDED`]), a path where there is something, else a
    /// model's name, else a path all the same, so that whoever opens it says that nothing is there.
    pub fn resolve(&self, text: &str) -> Result<PathBuf, LibraryError> {
        if text == EMBEDDED {
            return Ok(self.embedded());
        }
        let path = PathBuf::from(text);
        if path.exists() {
            return Ok(path);
        }
        match self.find(text) {
            Ok(entry) => Ok(entry.model),
            Err(LibraryError::Missing { .. }) => Ok(path),
            Err(other) => Err(other),
        }
    }

    /// A place to put a model together; what an earlier attempt left there is still there.
    pub fn stage(&self, name: &ModelName) -> Result<Staging, LibraryError> {
        let folder = name.folder();
        let place = self.directory.join(PART).join(&folder);
        fs::create_dir_all(&place).map_err(|source| at(&place, source))?;
        let lock_path = self.directory.join(PART).join(format!("{folder}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = lock.map_err(|source| at(&lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Staging {
                library: self.directory.clone(),
                folder,
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(LibraryError::Busy {
                name: name.to_string(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(at(&lock_path, source)),
        }
    }

    /// Models that a pull was interrupted over, and the bytes that are there of each.
    pub fn unfinished(&self) -> Vec<(ModelName, u64)> {
        let folders = fs::read_dir(self.directory.join(PART))
            .into_iter()
            .flatten()
            .flatten();
        let mut unfinished: Vec<(ModelName, u64)> = folders
            .filter(|folder| folder.path().is_dir())
            .filter_map(|folder| {
                let name = ModelName::of_folder(folder.file_name().to_str()?)?;
                Some((name, bytes_below(&folder.path())))
            })
            .filter(|(_, bytes)| *bytes > 0)
            .collect();
        unfinished.sort();
        unfinished
    }

    /// Takes a model out, with its files.
    pub fn remove(&self, entry: &Entry) -> Result<(), LibraryError> {
        discard(&self.directory, &entry.folder)
    }
}

impl Entry {
    fn read(folder: &Path) -> Option<Entry> {
        let manifest = Manifest::read(&folder.join(MANIFEST))?;
        let name: ModelName = manifest.name.parse().ok()?;
        // Else it was renamed by hand, and would be found under a name that it does not have.
        if folder.file_name()?.to_str()? != name.folder() {
            return None;
        }
        Some(Entry {
            model: folder.join(&manifest.model),
            name,
            manifest,
            folder: folder.to_owned(),
        })
    }

    /// Bytes of all of its files.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether this is the model at that path.
    pub fn is_at(&self, path: &Path) -> bool {
        path == self.model
            || match (path.canonicalize(), self.model.canonicalize()) {
                (Ok(one), Ok(own)) => one == own || one.starts_with(&own),
                _ => false,
            }
    }
}

impl Staging {
    /// Where its files belong.
    pub fn path(&self) -> PathBuf {
        self.library.join(PART).join(&self.folder)
    }

    /// Makes a model of what is there, in the place of one that may have had the name before.
    pub fn finish(self, manifest: &Manifest) -> Result<Entry, LibraryError> {
        let (from, to) = (self.path(), self.library.join(&self.folder));
        let path = from.join(MANIFEST);
        manifest.write(&path).map_err(|source| at(&path, source))?;
        if to.exists() {
            discard(&self.library, &to)?;
        }
        fs::rename(&from, &to).map_err(|source| at(&to, source))?;
        self.unlock();
        Entry::read(&to).ok_or_else(|| LibraryError::Missing {
            name: manifest.name.clone(),
        })
    }

    /// Throws away what is there.
    pub fn abandon(self) -> Result<(), LibraryError> {
        let path = self.path();
        fs::remove_dir_all(&path).map_err(|source| at(&path, source))?;
        self.unlock();
        Ok(())
    }

    fn unlock(self) {
        // Whoever waits for it finds a file without a name, and nothing in the way of a new one.
        let _gone = fs::remove_file(self.library.join(PART).join(format!("{}.lock", self.folder)));
    }
}

/// Models have at most one folder in theirs.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Removes a model's folder. It loses its name first, so that no half of it is ever taken for a model.
fn discard(library: &Path, folder: &Path) -> Result<(), LibraryError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let doomed = library
        .join(PART)
        .join(format!("{name}.{}.gone", std::process::id()));
    fs::create_dir_all(library.join(PART)).map_err(|source| at(library, source))?;
    fs::rename(folder, &doomed).map_err(|source| at(folder, source))?;
    fs::remove_dir_all(&doomed).map_err(|source| at(&doomed, source))
}

fn at(path: &Path, source: io::Error) -> LibraryError {
    LibraryError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
