//! The order in which requests are taken up: urgent before interactive before background, oldest
//! first inside a class. Bounded; what finds it full is refused.

use std::collections::VecDeque;

pub use super::priority::Priority;

/// The queue is full. Policy: the newest is refused, and told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// The bound it met.
    pub bound: usize,
}

/// See the module.
#[derive(Debug)]
pub struct PriorityQueue<T> {
    classes: [VecDeque<T>; 3],
    bound: usize,
}

impl<T> PriorityQueue<T> {
    /// An empty queue for at most `bound` entries in all.
    pub fn new(bound: usize) -> Self {
        Self {
            classes: Default::default(),
            bound,
        }
    }

    /// Adds at the tail of its class.
    pub fn push(&mut self, priority: Priority, entry: T) -> Result<(), QueueFull> {
        if self.len() >= self.bound {
            return Err(QueueFull { bound: self.bound });
        }
        self.classes[priority as usize].push_back(entry);
        Ok(())
    }

    /// Takes the next one up.
    pub fn pop(&mut self) -> Option<T> {
        self.classes.iter_mut().find_map(VecDeque::pop_front)
    }

    /// Takes out the entries that `unwanted` names.
    pub fn remove_if(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for class in &mut self.classes {
            let (gone, kept): (VecDeque<_>, _) = class.drain(..).partition(&mut unwanted);
            removed.extend(gone);
            *class = kept;
        }
        removed
    }

    /// Entries in all.
    pub fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries of one class.
    pub fn waiting(&self, priority: Priority) -> usize {
        self.classes[priority as usize].len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urgent_goes_before_interactive_before_background_and_old_before_new() {
        let mut queue = PriorityQueue::new(10);
        for (priority, name) in [
            (Priority::Background, "b1"),
            (Priority::Interactive, "i1"),
            (Priority::Urgent, "u1"),
            (Priority::Interactive, "i2"),
            (Priority::Urgent, "u2"),
        ] {
            queue.push(priority, name).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["u1", "u2", "i1", "i2", "b1"]);
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_nothing_is_lost(ops in prop::collection::vec((0usize..3, any::<bool>()), 0..200)) {
            let mut queue = PriorityQueue::new(16);
            let (mut accepted, mut taken) = (0usize, 0usize);
            for (class, push) in ops {
                if push {
                    let full = queue.len() == 16;
                    let result = queue.push(Priority::ALL[class], ());
                    prop_assert_eq!(result.is_err(), full);
                    accepted += usize::from(result.is_ok());
                } else {
                    taken += usize::from(queue.pop().is_some());
                }
                prop_assert!(queue.len() <= 16);
                prop_assert_eq!(accepted, taken + queue.len());
            }
        }
    }
}
