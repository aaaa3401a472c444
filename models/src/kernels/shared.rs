//! A slice into which the threads of a pool write, each where no other does.

use std::marker::PhantomData;

/// See the module.
pub(crate) struct Shared<'s, T> {
    start: *mut T,
    length: usize,
    slice: PhantomData<&'s mut [T]>,
}

#[allow(unsafe_code, reason = "threads write to places of their own")]
// SAFETY: it stands for a `&mut [T]` of plain numbers, and `part` says who may have which of them.
unsafe impl<T: Copy + Send> Sync for Shared<'_, T> {}

impl<'s, T: Copy> Shared<'s, T> {
    pub(crate) fn new(slice: &'s mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            slice: PhantomData,
        }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// As long as what is returned lives, nobody else has a part that overlaps it.
    #[allow(unsafe_code, reason = "threads write to places of their own")]
    #[allow(clippy::mut_from_ref, reason = "that is what the safety rule is about")]
    pub(crate) unsafe fn part(&self, at: usize, count: usize) -> &mut [T] {
        assert!(
            at.checked_add(count).is_some_and(|end| end <= self.length),
            "a part of the slice"
        );
        // SAFETY: it lies inside the slice, which this borrows alone, and nobody else has any of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }

    /// Sets one value.
    ///
    /// # Safety
    /// `at` is below the slice's length, and nobody else reads or writes this value meanwhile.
    #[allow(unsafe_code, reason = "threads write to places of their own")]
    pub(crate) unsafe fn put(&self, at: usize, value: T) {
        debug_assert!(at < self.length, "a place of the slice");
        // SAFETY: as for this function.
        unsafe { self.start.add(at).write(value) }
    }
}
