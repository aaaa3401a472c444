//! A map that is small while it holds little and stays cheap to copy when it holds much.

use std::borrow::Borrow;
use std::hash::Hash;

/// Up to this many entries are kept in a plain vector.
///
/// A node of `imbl`'s hash map has room for 16 or 32 entries, a kilobyte or more, and nearly all
/// nodes of a subscription tree have one child or one subscriber. Comparing so few keys is no
/// slower than hashing one.
const FEW: usize = 8;

/// A persistent map: a copy costs at most [`FEW`] entries, whatever the size.
#[derive(Clone)]
pub(super) enum SmallMap<K, V> {
    Few(Vec<(K, V)>),
    Many(imbl::HashMap<K, V>),
}

impl<K, V> SmallMap<K, V> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(entries) => entries.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn each<'a>(&'a self, visit: &mut impl FnMut(&'a K, &'a V)) {
        match self {
            Self::Few(entries) => entries.iter().for_each(|(key, value)| visit(key, value)),
            Self::Many(map) => map.iter().for_each(|(key, value)| visit(key, value)),
        }
    }
}

impl<K: Clone + Hash + Eq, V: Clone> SmallMap<K, V> {
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        match self {
            Self::Few(entries) => entries
                .iter()
                .find(|(other, _)| other.borrow() == key)
                .map(|(_, value)| value),
            Self::Many(map) => map.get(key),
        }
    }

    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        match self {
            Self::Few(entries) => entries
                .iter_mut()
                .find(|(other, _)| (*other).borrow() == key)
                .map(|(_, value)| value),
            Self::Many(map) => map.get_mut(key),
        }
    }

    /// The value of `key`, made first if there is none.
    pub(super) fn get_or_insert<Q>(&mut self, key: &Q, make: impl FnOnce() -> V) -> &mut V
    where
        for<'q> K: Borrow<Q> + From<&'q Q>,
        Q: Hash + Eq + ?Sized,
    {
        let missing = self.get(key).is_none();
        if missing {
            self.grow_if_full();
        }
        match self {
            Self::Few(entries) => {
                let found = entries.iter().position(|(other, _)| other.borrow() == key);
                let index = found.unwrap_or(entries.len());
                if missing {
                    entries.push((K::from(key), make()));
                }
                &mut entries[index].1
            }
            Self::Many(map) => map.entry(K::from(key)).or_insert_with(make),
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(present) = self.get_mut(&key) {
            return Some(std::mem::replace(present, value));
        }
        self.grow_if_full();
        match self {
            Self::Few(entries) => entries.push((key, value)),
            Self::Many(map) => {
                map.insert(key, value);
            }
        }
        None
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let removed = match self {
            Self::Few(entries) => {
                let index = entries.iter().position(|(other, _)| other.borrow() == key)?;
                Some(entries.swap_remove(index).1)
            }
            Self::Many(map) => map.remove(key),
        };
        self.shrink_if_sparse();
        removed
    }

    fn grow_if_full(&mut self) {
        if let Self::Few(entries) = self
            && entries.len() >= FEW
        {
            *self = Self::Many(entries.drain(..).collect());
        }
    }

    /// Half of [`FEW`] leaves room, so that a key that comes and goes does not rebuild the map
    /// each time.
    fn shrink_if_sparse(&mut self) {
        if let Self::Many(map) = self
            && map.len() <= FEW / 2
        {
            *self = Self::Few(
                map.iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            );
        }
    }
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_holds_what_an_ordinary_map_holds(steps in prop::collection::vec((any::<bool>(), 0..24_u8), 0..200)) {
            let (mut map, mut model) = (SmallMap::default(), HashMap::new());
            for (step, (insert, key)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(map.insert(key, step), model.insert(key, step));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.get(&key), model.get(&key));
                let mut seen = HashMap::new();
                map.each(&mut |key, value| assert_eq!(seen.insert(*key, *value), None));
                prop_assert_eq!(&seen, &model);
            }
        }
    }
}
