//! Reads memory as fast as it goes: what a token's time is measured against, since it is that of reading all weights.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::kernels::Pool;

/// Memory and the threads that read it.
#[derive(Debug)]
pub struct MemoryReader {
    pool: Pool,
    memory: Vec<u64>,
}

impl MemoryReader {
    /// So many threads, the caller among them, and so many bytes, which should be far more than caches hold.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn new(threads: usize, bytes: usize) -> io::Result<Self> {
        Ok(Self {
            pool: Pool::new(threads)?,
            // Not zeros, of which the system has one page for all.
            memory: vec![1; bytes / size_of::<u64>()],
        })
    }

    /// Bytes that [`read`](Self::read) reads.
    pub fn bytes(&self) -> usize {
        self.memory.len() * size_of::<u64>()
    }

    /// Reads all of it once. The sum is there so that nobody leaves the reading out.
    pub fn read(&mut self) -> u64 {
        let parts = self.pool.threads() * 8;
        let (memory, total) = (&self.memory, AtomicU64::new(0));
        self.pool.run(parts, &|part| {
            let of = |part| memory.len() * part / parts;
            let sum = memory[of(part)..of(part + 1)]
                .iter()
                .fold(0_u64, |sum, word| sum.wrapping_add(*word));
            total.fetch_add(sum, Relaxed);
        });
        total.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        for threads in [1, 3] {
            let mut reader = MemoryReader::new(threads, 1001 * 8).unwrap();
            assert_eq!((reader.read(), reader.bytes()), (1001, 8008));
        }
    }
}
