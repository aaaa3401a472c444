//! Packed matrices in a file of their own, so that weights are quantised once and later starts only map them.
//!
//! Eight bytes of magic, the version, the header's length and its checksum, the header as JSON, and each matrix at the
//! beginning of a page. A file that is stale, of another version, damaged or cut short is made anew.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::draft::start_behind;
use crate::format::Checkpoint;
use crate::format::mapped::MappedPart;
use crate::kernels::{PackedMatrix, Packing, Pool};

pub(super) const MAGIC: &[u8; 8] = b"CLAWPACK";
/// Another one whenever packing changes: how weights are ordered, or which numbers they become.
pub(crate) const VERSION: u32 = 2;
pub(super) const FRONT_BYTES: usize = 24;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    /// What they were packed from.
    pub(super) source: String,
    pub(super) matrices: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) packing: Packing,
    /// From the first page behind the header on.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    pub(super) checksum: u64,
}

/// Where the packed form of a model lies.
pub(crate) fn path_in(directory: &Path, name: &str, source: &str, packing: Packing) -> PathBuf {
    directory.join(format!("{}-{packing:?}.packed", stem(name, source)).to_lowercase())
}

/// Where it is kept how the model did.
pub(crate) fn quality_path_in(directory: &Path, name: &str, source: &str) -> PathBuf {
    directory.join(format!("{}-quality.json", stem(name, source)).to_lowercase())
}

/// The beginning of the names of all that is kept of a model.
fn stem(name: &str, source: &str) -> String {
    let stem: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '.' {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    format!("{stem}-{:016x}", checksum(source.as_bytes()))
}

/// Where the packed forms of a model are kept.
#[derive(Debug)]
pub(crate) struct Home {
    directory: PathBuf,
    name: String,
    identity: String,
    /// What they are packed from.
    pub(super) source: String,
}

impl Home {
    pub(crate) fn of(checkpoint: &Checkpoint, directory: &Path) -> Home {
        Home {
            directory: directory.to_owned(),
            name: checkpoint.name.clone(),
            identity: checkpoint.identity(),
            source: checkpoint.fingerprint(),
        }
    }

    /// Where the file of this packing is, if it is there.
    pub(super) fn path(&self, packing: Packing) -> PathBuf {
        path_in(&self.directory, &self.name, &self.identity, packing)
    }
}

/// Whether a file's header is whole, of this version and of this source; its matrices are not looked at.
pub(crate) fn is_of(path: &Path, source: &str) -> bool {
    Opened::new(path, source).is_some()
}

/// Maps the matrices of a file; none where there is no file, or none that is whole and of this source.
pub(super) fn open(path: &Path, source: &str, pool: &mut Pool) -> Option<Vec<PackedMatrix>> {
    let file = Opened::new(path, source)?;
    let matrices: Option<Vec<PackedMatrix>> = (0..file.len()).map(|number| file.matrix(number)).collect();
    let matrices = matrices?;
    let is_whole = AtomicBool::new(true);
    pool.run(matrices.len(), &|number| {
        if !file.is_whole(number, &matrices[number]) {
            is_whole.store(false, Relaxed);
        }
    });
    is_whole.into_inner().then_some(matrices)
}

/// A file whose header is whole, of this version and of the source that was asked for.
#[derive(Debug)]
pub(super) struct Opened {
    file: Arc<File>,
    matrices: Vec<Entry>,
    /// Where they begin.
    start: usize,
}

impl Opened {
    /// None where there is no such file.
    pub(super) fn new(path: &Path, source: &str) -> Option<Opened> {
        let mut file = File::open(path).ok()?;
        let mut front = [0; FRONT_BYTES];
        file.read_exact(&mut front).ok()?;
        let number = |at: usize| Some(u32::from_le_bytes(*front.get(at..)?.first_chunk()?));
        if front.get(..8)? != MAGIC || number(8)? != VERSION {
            return None;
        }
        let length = usize::try_from(number(12)?).ok()?;
        let mut json = Vec::new();
        (&mut file).take(length as u64).read_to_end(&mut json).ok()?;
        let expected = u64::from_le_bytes(*front.get(16..)?.first_chunk()?);
        if json.len() != length || checksum(&json) != expected {
            return None;
        }
        let header: Header = serde_json::from_slice(&json).ok()?;
        (header.source == source).then(|| Opened {
            file: Arc::new(file),
            matrices: header.matrices,
            start: start_behind(&json),
        })
    }

    /// How many matrices it has.
    pub(super) fn len(&self) -> usize {
        self.matrices.len()
    }

    /// Shape and packing of one of them.
    pub(super) fn shape(&self, number: usize) -> Option<([usize; 2], Packing)> {
        let entry = self.matrices.get(number)?;
        Some(([entry.rows, entry.columns], entry.packing))
    }

    /// Maps one of them; whether it is whole shows [`is_whole`](Self::is_whole).
    pub(super) fn matrix(&self, number: usize) -> Option<PackedMatrix> {
        let entry = self.matrices.get(number)?;
        let at = self.start.checked_add(entry.offset)?;
        let part = MappedPart::new(self.file.clone(), at as u64, entry.bytes).ok()?;
        PackedMatrix::mapped(part, [entry.rows, entry.columns], entry.packing)
    }

    /// Reads one of them and compares it with its checksum.
    pub(super) fn is_whole(&self, number: usize, matrix: &PackedMatrix) -> bool {
        let entry = self.matrices.get(number);
        entry.is_some_and(|entry| checksum(matrix.bytes()) == entry.checksum)
    }
}

/// Finds what a disk or a crash does to a file, not what a person does on purpose. In lanes, so that it takes no longer
/// than reading.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9E37_79B1_85EB_CA87;
    let mut lanes = [1_u64, 2, 3, 4, 5, 6, 7, 8];
    let mut chunks = bytes.chunks_exact(64);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *lane = (*lane ^ u64::from_le_bytes(*word))
                .wrapping_mul(PRIME)
                .rotate_left(29);
        }
    }
    let mut sum = bytes.len() as u64;
    for word in lanes
        .into_iter()
        .chain(chunks.remainder().iter().map(|byte| u64::from(*byte)))
    {
        sum = (sum ^ word).wrapping_mul(PRIME).rotate_left(31);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_tells_every_bit_and_every_length() {
        let bytes: Vec<u8> = (0..200).map(|n| (n * 7) as u8).collect();
        let whole = checksum(&bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_ne!(checksum(&changed), whole);
            }
            assert_ne!(checksum(&bytes[..at]), whole);
        }
        assert_ne!(checksum(&[]), checksum(&[0]));
    }
}
