//! A GGUF model in one file, or in several as `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on. The
//! first has the metadata, tensors are in any of them, and each says which of how many it is.

use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::gguf::{Gguf, TensorInfo};
use super::map;
use crate::error::{ModelError, Problem};

/// What all of a model's files hold, of which there is at least one.
pub(crate) struct Parts<'a> {
    pub(super) ggufs: &'a [Gguf<'a>],
    pub(super) files: &'a [Mmap],
}

impl<'a> Parts<'a> {
    /// The file with the metadata.
    pub(crate) fn first(&self) -> &'a Gguf<'a> {
        &self.ggufs[0]
    }

    /// Each tensor, with the number of its file.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (usize, &'a TensorInfo<'a>)> {
        let of = |(file, gguf): (usize, &'a Gguf<'a>)| gguf.tensors.iter().map(move |tensor| (file, tensor));
        self.ggufs.iter().enumerate().flat_map(of)
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&'a TensorInfo<'a>> {
        self.tensors()
            .map(|(_, tensor)| tensor)
            .find(|tensor| tensor.name == name)
    }

    /// A tensor's elements as the file has them.
    pub(crate) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let (file, tensor) = self.tensors().find(|(_, tensor)| tensor.name == name)?;
        self.files.get(file)?.get(tensor.data.clone())
    }
}

/// Which part a file says it is, counted from 0, and of how many; none where it is the whole model.
pub(super) fn place(gguf: &Gguf<'_>) -> Option<(u64, u64)> {
    let count = gguf.unsigned("split.count").filter(|count| *count > 1)?;
    // Without a number it is none of those that it could be.
    Some((gguf.unsigned("split.no").unwrap_or(u64::MAX), count))
}

/// The files of a model that is split.
pub(super) struct Split {
    /// What their names have in common.
    pub(super) name: String,
    pub(super) paths: Vec<PathBuf>,
    pub(super) files: Vec<Mmap>,
}

impl Split {
    /// All parts, by the path and the [`place`] of any of them.
    pub(super) fn open(path: &Path, (number, count): (u64, u64)) -> Result<Self, ModelError> {
        let nameless = || {
            let part = number.saturating_add(1);
            let problem = Problem::Unsupported {
                what: format!(
                    "the model is split into {count} files, and this one is not named as part {part}"
                ),
                remedy: "name them NAME-00001-of-00003.gguf and so on, as they were, or join them with \
                         `llama-gguf-split --merge`",
            };
            ModelError::new(path, problem)
        };
        let name = path.file_name().and_then(|name| name.to_str());
        // llama.cpp keeps the count in 16 bits.
        let known = number < count && count <= u64::from(u16::MAX);
        let name = name.filter(|_| known).ok_or_else(nameless)?;
        let prefix = name.strip_suffix(&ending(number, count)).ok_or_else(nameless)?;
        let (mut paths, mut files) = (Vec::new(), Vec::new());
        // The first one that is missing ends it: a count is believed only as far as there are files.
        for number in 0..count {
            let path = path.with_file_name(format!("{prefix}{}", ending(number, count)));
            files.push(map(&path)?);
            paths.push(path);
        }
        let name = prefix.to_owned();
        Ok(Self { name, paths, files })
    }

    /// Reads every part, and checks that they belong together.
    pub(super) fn parse(&self) -> Result<Vec<Gguf<'_>>, ModelError> {
        let mut ggufs = Vec::new();
        for (number, (path, file)) in self.paths.iter().zip(&self.files).enumerate() {
            let gguf = Gguf::parse(file).map_err(|problem| ModelError::new(path, problem))?;
            if place(&gguf) != Some((number as u64, self.files.len() as u64)) {
                let (part, parts) = (number + 1, self.files.len());
                let what = format!("it does not say that it is part {part} of {parts}, as its name does");
                return Err(ModelError::new(path, Problem::Malformed(what)));
            }
            ggufs.push(gguf);
        }
        check_tensors(&ggufs).map_err(|what| ModelError::new(&self.paths[0], Problem::Malformed(what)))?;
        Ok(ggufs)
    }
}

fn ending(number: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", number + 1)
}

fn check_tensors(ggufs: &[Gguf<'_>]) -> Result<(), String> {
    let tensors = ggufs.iter().flat_map(|gguf| &gguf.tensors);
    let mut names: Vec<&str> = tensors.map(|tensor| tensor.name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("tensor {:?} is in two of its parts", pair[0]));
    }
    let announced = ggufs
        .first()
        .and_then(|first| first.unsigned("split.tensors.count"));
    if announced != Some(names.len() as u64) {
        let announced = announced.map_or("an unknown number".into(), |count| count.to_string());
        let found = names.len();
        return Err(format!(
            "its parts have {found} tensors together, not {announced}"
        ));
    }
    Ok(())
}
