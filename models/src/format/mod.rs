//! Model files. Whatever the format, the rest of the crate sees one `Checkpoint`: a description of the network, a
//! tokenizer, a template, and tensors by one set of names.
//!
//! The names are GGUF's short ones (`blk.0.attn_q.weight`), shapes are rows first (outputs × inputs).

pub mod blocks;
pub mod gguf;
pub(crate) mod gguf_parts;
pub(crate) mod mapped;
mod matrix;
mod safetensors;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use serde_json::Value;

use self::blocks::{BlockType, dequantise};
use self::gguf_parts::Parts;
pub(crate) use self::matrix::Matrix;
use crate::architecture;
use crate::architecture::spec::NetworkSpec;
use crate::assistant::METADATA_KEY;
use crate::error::{ModelError, Problem};
use crate::packed::file::checksum;
use crate::precision::Precision;
use crate::summary::ModelSummary;
use crate::tokenizer::Tokenizer;

/// A model's files, opened and checked; weights are read only by [`Checkpoint::tensor`].
pub(crate) struct Checkpoint {
    pub(crate) name: String,
    pub(crate) spec: NetworkSpec,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<String>,
    /// See [`ModelSummary::assistant`].
    pub(crate) assistant: bool,
    /// The file that holds the weights, or lists those that do.
    path: PathBuf,
    format: &'static str,
    files: Vec<Mmap>,
    tensors: BTreeMap<String, Stored>,
}

/// The parts of packed files begin at multiples of this, which is most systems' page.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Of each end of a file.
const SAMPLE_BYTES: usize = 1 << 20;

/// A tensor in the file.
#[derive(Clone, Debug)]
struct Stored {
    shape: Vec<usize>,
    element: Element,
    /// Which of the checkpoint's files.
    file: usize,
    data: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    F32,
    F16,
    Bf16,
    /// In blocks, of which a row has a whole number: `gguf` checks it.
    Blocks(BlockType),
    /// Known by name only.
    Other(String),
}

impl Checkpoint {
    /// Opens a `.gguf` file, a directory with `config.json`, or a `.safetensors` file in such a directory.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let metadata = std::fs::metadata(path).map_err(|error| ModelError::new(path, error.into()))?;
        if metadata.is_dir() {
            return safetensors::open_directory(path);
        }
        let file = map(path)?;
        if is_gguf(&file) {
            return open_gguf(path, file);
        }
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            return safetensors::open(path, file);
        }
        let found = if file.is_empty() {
            "the file is empty"
        } else {
            "it is neither GGUF nor named .safetensors"
        };
        Err(ModelError::new(path, Problem::NotAModel(found.into())))
    }

    /// The file that holds the weights, or lists those that do.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn error(&self, problem: Problem) -> ModelError {
        ModelError::new(&self.path, problem)
    }

    /// Checks that a tensor is there, fits, and can be run; reads nothing of it.
    pub(crate) fn check(&self, name: &str, expected: &[usize]) -> Result<(), ModelError> {
        let stored = self.stored(name)?;
        if stored.shape != expected {
            return Err(self.error(Problem::WrongShape {
                tensor: name.to_owned(),
                found: stored.shape.clone(),
                expected: expected.to_vec(),
            }));
        }
        if let Element::Other(tensor_type) = &stored.element {
            return Err(self.error(Problem::UnsupportedTensorType {
                tensor: name.to_owned(),
                tensor_type: tensor_type.clone(),
            }));
        }
        Ok(())
    }

    /// What [`identity`](Self::identity) may be made of for a model at this path, whether it can be read or not.
    pub(crate) fn paths_of(path: &Path) -> Vec<PathBuf> {
        let in_directory = safetensors::PRINCIPAL.map(|name| path.join(name));
        let beside = safetensors::PRINCIPAL.map(|name| path.with_file_name(name));
        let mut paths = vec![path.to_owned()];
        if path.is_dir() {
            paths.extend(in_directory);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            paths.extend(beside);
        }
        paths
    }

    /// Tells this model's file from any other, whatever its content.
    pub(crate) fn identity(&self) -> String {
        let path = self.path.canonicalize();
        path.as_ref().unwrap_or(&self.path).display().to_string()
    }

    /// Tells this content from any other: of the files their length, when the first was changed, and what stands at their
    /// beginning and end. (To read all of them would take as long as packing.)
    pub(crate) fn fingerprint(&self) -> String {
        let modified = std::fs::metadata(&self.path)
            .and_then(|metadata| metadata.modified())
            .ok();
        let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let mut text = format!("{}", modified.unwrap_or_default().as_nanos());
        for file in &self.files {
            let ends = [
                &file[..file.len().min(SAMPLE_BYTES)],
                &file[file.len().saturating_sub(SAMPLE_BYTES)..],
            ];
            let [first, last] = ends.map(checksum);
            text += &format!(" {}:{first:016x}:{last:016x}", file.len());
        }
        text
    }

    /// A matrix of outputs × inputs, to be read row by row.
    pub(crate) fn matrix(&self, name: &str, [rows, columns]: [usize; 2]) -> Result<Matrix<'_>, ModelError> {
        self.check(name, &[rows, columns])?;
        let stored = self.stored(name)?;
        Ok(Matrix {
            bytes: &self.files[stored.file][stored.data.clone()],
            element: &stored.element,
            rows,
        })
    }

    /// A tensor's elements as 32-bit floats, rows first.
    pub(crate) fn tensor(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.check(name, expected)?;
        let stored = self.stored(name)?;
        let bytes = &self.files[stored.file][stored.data.clone()];
        Ok(match stored.element {
            Element::F32 => elements(bytes, f32::from_le_bytes),
            Element::F16 => elements(bytes, |pair| f16::from_le_bytes(pair).to_f32()),
            Element::Bf16 => elements(bytes, |pair| bf16::from_le_bytes(pair).to_f32()),
            Element::Blocks(block_type) => dequantise(block_type, bytes)
                .map_err(|wrong| self.error(Problem::Malformed(format!("tensor {name:?}: {wrong}"))))?,
            Element::Other(_) => Vec::new(),
        })
    }

    pub(crate) fn summary(&self) -> ModelSummary {
        let mut parameters = 0;
        let mut weights_bytes = 0;
        let mut bytes_of: BTreeMap<&str, usize> = BTreeMap::new();
        for stored in self.tensors.values() {
            // Shapes were checked against the file's length, so the product fits.
            parameters += stored
                .shape
                .iter()
                .map(|&dimension| dimension as u64)
                .product::<u64>();
            weights_bytes += stored.data.len() as u64;
            *bytes_of.entry(stored.element.name()).or_default() += stored.data.len();
        }
        let most = bytes_of
            .iter()
            .max_by_key(|(_, bytes)| **bytes)
            .map_or("empty", |(name, _)| name);
        ModelSummary {
            name: self.name.clone(),
            architecture: self.spec.architecture.clone(),
            parameters,
            weights_bytes,
            context_length: self.spec.context_length,
            vocabulary_size: self.spec.vocabulary_size,
            has_chat_template: self.template.is_some(),
            format: format!("{} {}", self.format, most.to_lowercase()),
            assistant: self.assistant,
            precision: Precision::automatic(parameters, weights_bytes),
        }
    }

    fn stored(&self, name: &str) -> Result<&Stored, ModelError> {
        self.tensors
            .get(name)
            .ok_or_else(|| self.error(Problem::MissingTensor(name.to_owned())))
    }
}

impl Element {
    fn name(&self) -> &str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Blocks(block_type) => block_type.name(),
            Self::Other(name) => name,
        }
    }
}

fn open_gguf(path: &Path, file: Mmap) -> Result<Checkpoint, ModelError> {
    let gguf = gguf::Gguf::parse(&file).map_err(|problem| ModelError::new(path, problem))?;
    let Some(place) = gguf_parts::place(&gguf) else {
        let parts = Parts {
            ggufs: &[gguf],
            files: std::slice::from_ref(&file),
        };
        let checkpoint = from_gguf(path, &stem(path), &parts)?;
        let files = vec![file];
        return Ok(Checkpoint { files, ..checkpoint });
    };
    let split = gguf_parts::Split::open(path, place)?;
    let parts = Parts {
        ggufs: &split.parse()?,
        files: &split.files,
    };
    let checkpoint = from_gguf(&split.paths[0], &split.name, &parts)?;
    let files = split.files;
    Ok(Checkpoint { files, ..checkpoint })
}

/// A checkpoint of the file at `path`, or of several of which it is the first; they are still to be put into it.
fn from_gguf(path: &Path, file_name: &str, parts: &Parts<'_>) -> Result<Checkpoint, ModelError> {
    let error = |problem| ModelError::new(path, problem);
    let gguf = parts.first();
    let spec = architecture::from_gguf(parts).map_err(error)?;
    let tokenizer = Tokenizer::from_gguf(gguf).map_err(error)?;
    let template = gguf.string("tokenizer.chat_template").map(str::to_owned);
    let name = gguf.string("general.name").unwrap_or(file_name).to_owned();
    let stored = |(file, tensor): (usize, &gguf::TensorInfo<'_>)| {
        let element = match tensor.tensor_type {
            gguf::TensorType::F32 => Element::F32,
            gguf::TensorType::F16 => Element::F16,
            gguf::TensorType::BF16 => Element::Bf16,
            other => BlockType::of(other).map_or_else(|| Element::Other(other.name()), Element::Blocks),
        };
        let stored = Stored {
            shape: tensor.shape.clone(),
            element,
            file,
            data: tensor.data.clone(),
        };
        (tensor.name.to_owned(), stored)
    };
    Ok(Checkpoint {
        name,
        spec,
        tokenizer,
        template,
        assistant: gguf.unsigned(METADATA_KEY).is_some(),
        path: path.to_owned(),
        format: "gguf",
        files: Vec::new(),
        tensors: parts.tensors().map(stored).collect(),
    })
}

/// Whether a file claims to be GGUF.
pub(crate) fn is_gguf(file: &[u8]) -> bool {
    file.starts_with(b"GGUF")
}

/// Maps a file into memory, so that weights are neither copied nor counted as this process's own memory.
#[allow(
    unsafe_code,
    reason = "mapping a file is unsafe because others may change it; memmap2 offers no safe way"
)]
pub(crate) fn map(path: &Path) -> Result<Mmap, ModelError> {
    let error = |error: std::io::Error| ModelError::new(path, error.into());
    let file = File::open(path).map_err(error)?;
    if !file.metadata().map_err(error)?.is_file() {
        return Err(error(std::io::Error::other("it is not a file")));
    }
    // SAFETY: the mapping is read-only and private to this process. It must hold that nobody truncates or rewrites
    // the file while it is mapped, which no program can enforce: a truncated file ends this process with SIGBUS
    // (which is why the engine runs in a process of its own), a rewritten one gives wrong numbers. Nothing but
    // floats and already copied texts is read from it after it was checked.
    unsafe { Mmap::map(&file) }.map_err(error)
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, ModelError> {
    let error = |problem| ModelError::new(path, problem);
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_JSON_BYTES + 1).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(error(other.into())),
    }
    if text.len() as u64 > MAX_JSON_BYTES {
        return Err(error(Problem::Malformed(format!(
            "it is longer than {MAX_JSON_BYTES} bytes"
        ))));
    }
    let parsed = serde_json::from_slice(&text);
    parsed
        .map(Some)
        .map_err(|problem| error(Problem::Malformed(format!("it is not JSON: {problem}"))))
}

/// The largest known tokenizer.json has about 35 MB.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// The file's or directory's name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem()
        .map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned())
}

fn elements<const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| element(*chunk)).collect()
}
