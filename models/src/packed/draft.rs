//! A packed file that is written matrix by matrix, so that no more than one of them is in memory. It appears as a whole or
//! not at all.
//!
//! The header comes first in the file and is known last, because checksums stand in it. Its longest form is: room for that
//! is left, and where the true one needs a page less, what follows is moved up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::file::{Entry, FRONT_BYTES, Header, MAGIC, VERSION, checksum};
use crate::format::PAGE_BYTES;
use crate::kernels::{PackedMatrix, Packing};

/// What is moved up at a time.
const MOVED_BYTES: usize = 1 << 20;

/// See the module. One that is not finished is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    /// Where it lies until it is whole; none once it has its name.
    draft: Option<PathBuf>,
    path: PathBuf,
    header: Header,
    /// Where matrices begin for now.
    start: usize,
    /// Matrices that are written.
    written: usize,
}

impl Draft {
    /// Begins a file of matrices of these shapes, in their order.
    pub(super) fn create(path: &Path, source: &str, shapes: &[([usize; 2], Packing)]) -> io::Result<Draft> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut header = Header {
            source: source.to_owned(),
            matrices: Vec::with_capacity(shapes.len()),
        };
        let mut offset = 0;
        for &([rows, columns], packing) in shapes {
            let bytes = PackedMatrix::bytes_of([rows, columns], packing)
                .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
            header.matrices.push(Entry {
                rows,
                columns,
                packing,
                offset,
                bytes,
                // The longest there is, for now.
                checksum: u64::MAX,
            });
            offset = (offset + bytes).next_multiple_of(PAGE_BYTES);
        }
        let start = start_behind(&serde_json::to_vec(&header)?);
        let draft = path.with_extension(format!("{}.part", std::process::id()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&draft)?;
        file.seek(SeekFrom::Start(start as u64))?;
        Ok(Draft {
            file,
            draft: Some(draft),
            path: path.to_owned(),
            header,
            start,
            written: 0,
        })
    }

    /// Writes the next matrix.
    pub(super) fn add(&mut self, matrix: &PackedMatrix) -> io::Result<()> {
        let is_it = |entry: &&mut Entry| {
            (entry.rows, entry.columns, entry.packing) == (matrix.rows, matrix.columns, matrix.packing)
        };
        let entry = self.header.matrices.get_mut(self.written).filter(is_it);
        let entry = entry.ok_or_else(|| io::Error::other("a matrix that was not foreseen"))?;
        let bytes = matrix.bytes();
        entry.checksum = checksum(bytes);
        self.file.write_all(bytes)?;
        pad(&mut self.file, bytes.len())?;
        self.written += 1;
        Ok(())
    }

    /// Writes what comes first, and gives the file its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.written != self.header.matrices.len() {
            return Err(io::Error::other("matrices are missing"));
        }
        let header = serde_json::to_vec(&self.header)?;
        let start = start_behind(&header);
        if start < self.start {
            move_up(&mut self.file, self.start as u64, start as u64)?;
        }
        let length = u32::try_from(header.len()).map_err(io::Error::other)?;
        let mut front = Vec::with_capacity(start);
        front.extend_from_slice(MAGIC);
        front.extend_from_slice(&VERSION.to_le_bytes());
        front.extend_from_slice(&length.to_le_bytes());
        front.extend_from_slice(&checksum(&header).to_le_bytes());
        front.extend_from_slice(&header);
        front.resize(start, 0);
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&front)?;
        self.file.sync_all()?;
        if let Some(draft) = &self.draft {
            fs::rename(draft, &self.path)?;
        }
        self.draft = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // Whatever there is of it is of no use.
            let _ = fs::remove_file(draft);
        }
    }
}

/// Where matrices begin behind this header.
pub(super) fn start_behind(header: &[u8]) -> usize {
    (FRONT_BYTES + header.len()).next_multiple_of(PAGE_BYTES)
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&vec![0; written.next_multiple_of(PAGE_BYTES) - written])
}

/// Moves all that is in a file from one place on to an earlier one.
fn move_up(file: &mut File, mut from: u64, mut to: u64) -> io::Result<()> {
    let mut buffer = vec![0; MOVED_BYTES];
    loop {
        file.seek(SeekFrom::Start(from))?;
        let count = file.read(&mut buffer)?;
        let read = buffer.get(..count).unwrap_or_default();
        if read.is_empty() {
            return file.set_len(to);
        }
        file.seek(SeekFrom::Start(to))?;
        file.write_all(read)?;
        (from, to) = (from + count as u64, to + count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Pool;

    /// The file as it is told in [`super::super::file`], made of all matrices at once.
    fn whole(source: &str, matrices: &[PackedMatrix]) -> Vec<u8> {
        let (mut offset, mut entries, mut body) = (0, Vec::new(), Vec::new());
        for matrix in matrices {
            let bytes = matrix.bytes();
            entries.push(Entry {
                rows: matrix.rows,
                columns: matrix.columns,
                packing: matrix.packing,
                offset,
                bytes: bytes.len(),
                checksum: checksum(bytes),
            });
            offset = (offset + bytes.len()).next_multiple_of(PAGE_BYTES);
            body.extend_from_slice(bytes);
            body.resize(offset, 0);
        }
        let header = serde_json::to_vec(&Header {
            source: source.to_owned(),
            matrices: entries,
        })
        .unwrap();
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&(header.len() as u32).to_le_bytes());
        file.extend_from_slice(&checksum(&header).to_le_bytes());
        file.extend_from_slice(&header);
        file.resize(file.len().next_multiple_of(PAGE_BYTES), 0);
        file.extend_from_slice(&body);
        file
    }

    fn matrices() -> Vec<PackedMatrix> {
        let mut pool = Pool::new(1).unwrap();
        let all = [
            (Packing::F16, 3, 5),
            (Packing::Int8, 40, 64),
            (Packing::Int4, 17, 700),
        ];
        let packed = all.map(|(packing, rows, columns)| {
            PackedMatrix::pack(&mut pool, packing, rows, columns, |row, into| {
                for (column, value) in into.iter_mut().enumerate() {
                    *value = ((row * 31 + column * 17) % 23) as f32 - 11.0;
                }
            })
        });
        packed.into()
    }

    fn shapes(matrices: &[PackedMatrix]) -> Vec<([usize; 2], Packing)> {
        let shape = |matrix: &PackedMatrix| ([matrix.rows, matrix.columns], matrix.packing);
        matrices.iter().map(shape).collect()
    }

    #[test]
    fn it_is_the_file_that_is_made_of_all_matrices_at_once_wherever_its_header_ends() {
        let (directory, matrices) = (tempfile::tempdir().unwrap(), matrices());
        let path = directory.path().join("new").join("a.packed");
        let mut moved = 0;
        // So many lengths of the header that for some the true one ends a page before the longest.
        for length in 0..PAGE_BYTES {
            let source = "s".repeat(length);
            let mut draft = Draft::create(&path, &source, &shapes(&matrices)).unwrap();
            let start = draft.start;
            for matrix in &matrices {
                draft.add(matrix).unwrap();
            }
            moved += usize::from(start_behind(&serde_json::to_vec(&draft.header).unwrap()) < start);
            // Each takes a flush of the disk: those around the end of a page tell all.
            if length % 97 == 0 || start_behind(&serde_json::to_vec(&draft.header).unwrap()) < start {
                draft.finish().unwrap();
                assert!(fs::read(&path).unwrap() == whole(&source, &matrices), "{length}");
            }
        }
        assert!((1..60).contains(&moved), "{moved}");
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing but the file: {left:?}");
    }

    #[test]
    fn what_is_not_whole_does_not_appear_and_leaves_nothing_behind() {
        let (directory, matrices) = (tempfile::tempdir().unwrap(), matrices());
        let path = directory.path().join("a.packed");
        let begin = || Draft::create(&path, "s", &shapes(&matrices)).unwrap();
        let mut draft = begin();
        draft.add(&matrices[0]).unwrap();
        assert!(draft.add(&matrices[0]).is_err(), "another one was foreseen");
        drop(draft);
        let mut draft = begin();
        draft.add(&matrices[0]).unwrap();
        assert!(draft.finish().is_err(), "two are missing");
        // What has its name already stays as it is.
        fs::create_dir(&path).unwrap();
        let mut draft = begin();
        for matrix in &matrices {
            draft.add(matrix).unwrap();
        }
        assert!(draft.finish().is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn much_is_moved_up_piece_by_piece() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * MOVED_BYTES + 5).map(|n| (n / 7) as u8).collect();
        file.write_all(&[0; 8192]).unwrap();
        file.write_all(&bytes).unwrap();
        move_up(&mut file, 8192, 4096).unwrap();
        let mut found = Vec::new();
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.read_to_end(&mut found).unwrap();
        assert!(found == bytes);
    }
}
