//! How many bytes the requests have that wait or are answered, without anybody's counting through them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request weighs, added to a sum for as long as this lives.
#[derive(Debug)]
pub struct Weight {
    sum: Arc<AtomicU64>,
    bytes: u64,
}

impl Weight {
    pub(super) fn of(sum: &Arc<AtomicU64>, bytes: usize) -> Self {
        let bytes = bytes as u64;
        sum.fetch_add(bytes, Relaxed);
        Self {
            sum: sum.clone(),
            bytes,
        }
    }

    /// It weighs this from now on.
    pub(crate) fn becomes(&mut self, bytes: usize) {
        *self = Self::of(&self.sum, bytes);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_those_that_live() {
        let sum = Arc::default();
        let (mut one, other) = (Weight::of(&sum, 10), Weight::of(&sum, 5));
        one.becomes(100);
        assert_eq!(sum.load(Relaxed), 105);
        drop(other);
        assert_eq!(sum.load(Relaxed), 100);
        drop(one);
        assert_eq!(sum.load(Relaxed), 0);
    }
}
