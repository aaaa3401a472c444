//! One of something for each priority.

use std::ops::{Index, IndexMut};

use crate::policy::priority::Priority;

/// One `T` for each priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerPriority<T> {
    /// For urgent requests.
    pub urgent: T,
    /// For interactive ones.
    pub interactive: T,
    /// For background ones.
    pub background: T,
}

impl<T> PerPriority<T> {
    /// From the most to the least important.
    pub fn iter(&self) -> impl Iterator<Item = (Priority, &T)> {
        Priority::ALL
            .into_iter()
            .map(|priority| (priority, &self[priority]))
    }
}

impl<T> Index<Priority> for PerPriority<T> {
    type Output = T;

    fn index(&self, priority: Priority) -> &T {
        match priority {
            Priority::Urgent => &self.urgent,
            Priority::Interactive => &self.interactive,
            Priority::Background => &self.background,
        }
    }
}

impl<T> IndexMut<Priority> for PerPriority<T> {
    fn index_mut(&mut self, priority: Priority) -> &mut T {
        match priority {
            Priority::Urgent => &mut self.urgent,
            Priority::Interactive => &mut self.interactive,
            Priority::Background => &mut self.background,
        }
    }
}
