//! A part of a file in memory, mapped by itself, so that its memory can be given back while other parts stay.

use std::fs::File;
use std::io;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

/// See the module. When it is dropped it is unmapped, and the system may keep its pages for whoever reads them next.
#[derive(Debug)]
pub(crate) struct MappedPart {
    map: Mmap,
    file: Arc<File>,
    at: u64,
    bytes: usize,
}

impl MappedPart {
    /// So many bytes of a file, from `at` on.
    ///
    /// # Errors
    /// The system's; or the file has not as many.
    pub(crate) fn new(file: Arc<File>, at: u64, bytes: usize) -> io::Result<Self> {
        let end = u64::try_from(bytes).ok().and_then(|bytes| at.checked_add(bytes));
        if end.is_none_or(|end| file.metadata().map_or(true, |metadata| metadata.len() < end)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self {
            map: map(&file, at, bytes)?,
            file,
            at,
            bytes,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Has the system read it in the background, because it is needed soon.
    pub(crate) fn prefetch(&self) {
        #[cfg(unix)]
        // Advice: if it is not taken, what follows takes longer.
        let _ = self.map.advise(memmap2::Advice::WillNeed);
    }

    /// Gives its memory back at once, also what the system keeps of the file; whoever reads it has it read again.
    ///
    /// # Errors
    /// The system's; nothing has changed then.
    pub(crate) fn give_back(&mut self) -> io::Result<()> {
        // Only pages that nobody has mapped can be given back, and those of a new mapping are not there yet.
        self.map = map(&self.file, self.at, self.bytes)?;
        // Whole pages: a file of parts has nothing between one part's end and the next page.
        #[cfg(target_os = "linux")]
        if let Some(bytes) = std::num::NonZero::new(self.bytes.next_multiple_of(super::PAGE_BYTES) as u64) {
            // Advice: if it is not taken, these are pages of a file that the system has to spare.
            let _ = rustix::fs::fadvise(&self.file, self.at, Some(bytes), rustix::fs::Advice::DontNeed);
        }
        Ok(())
    }
}

#[allow(unsafe_code, reason = "a file that is mapped can be changed by others")]
fn map(file: &File, at: u64, bytes: usize) -> io::Result<Mmap> {
    // SAFETY: as in `super::map`: the mapping is read-only, and nobody may cut the file short or rewrite it while it is
    // mapped, which no program can enforce. Packed files are replaced by renaming, and never written to.
    unsafe { MmapOptions::new().offset(at).len(bytes).map(file) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[test]
    fn a_part_is_its_part_also_after_its_memory_was_given_back() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|number| (number * 7 % 251) as u8).collect();
        let file = file(&bytes);
        for (at, length) in [(0, 20_000), (4096, 5000), (8192, 0), (12_288, 7712)] {
            let mut part = MappedPart::new(file.clone(), at as u64, length).unwrap();
            part.prefetch();
            assert_eq!(part.bytes(), &bytes[at..at + length]);
            part.give_back().unwrap();
            assert_eq!(part.bytes(), &bytes[at..at + length]);
        }
    }

    #[test]
    fn what_a_file_has_not_is_no_part_of_it() {
        let file = file(&[1; 5000]);
        for (at, length) in [(0, 5001), (4096, 905), (u64::MAX, 1), (8192, 1)] {
            assert!(MappedPart::new(file.clone(), at, length).is_err());
        }
    }
}
