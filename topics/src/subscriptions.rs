//! Who subscribed to what: a tree over the levels of topic filters [MQTT5 4.7].

mod small_map;

use std::fmt;
use std::hash::Hash;
use std::str::Split;
use std::sync::Arc;

use crate::filter::TopicFilter;
use crate::name::TopicName;
use small_map::SmallMap;

/// Subscriptions by filter, found by topic.
///
/// The tree is persistent: a clone costs one reference count and is a snapshot that later changes
/// leave alone. One writer can so publish a new snapshot after every change, and any number of
/// readers route messages without a lock. A change copies only the nodes on the way to it.
///
/// Filters are filed by [`TopicFilter::filter`], without their share group: a tree knows nothing
/// of groups. Shared subscriptions have a tree of their own, see [`crate::shared`], because one message
/// goes to every key found and to one member of a group.
///
/// A topic visits at most one node per distinct filter prefix that matches its own prefix, so the
/// cost is bounded by what was subscribed. Whoever admits subscriptions bounds their number.
pub struct SubscriptionTree<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

struct Node<K, V> {
    /// Subscribers of the filter that ends here.
    exact: SmallMap<K, V>,
    /// Subscribers of the filter that goes on with `#`.
    below: SmallMap<K, V>,
    /// The level `+`.
    any: Option<Arc<Node<K, V>>>,
    /// The literal levels. Their texts are copied out of the filters, because a piece of a packet
    /// would keep the packet's whole buffer alive.
    literal: SmallMap<Arc<str>, Arc<Node<K, V>>>,
}

impl<K: Clone + Hash + Eq, V: Clone> SubscriptionTree<K, V> {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Files `value` for `key` under `filter` and returns what it replaced: a client that
    /// subscribes again with the same filter replaces its subscription [MQTT-3.8.4-3].
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let replaced = subscribers_mut(&mut self.root, filter.levels()).insert(key, value);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Takes `key`'s subscription out from under `filter`, and with it the nodes that nothing else
    /// needs.
    pub fn remove(&mut self, filter: &TopicFilter, key: &K) -> Option<V> {
        // Looked up first, because walking down to change copies the way.
        self.get(filter, key)?;
        let removed = remove_below(&mut self.root, filter.levels(), key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// `key`'s subscription under exactly this filter.
    pub fn get(&self, filter: &TopicFilter, key: &K) -> Option<&V> {
        let mut node = &self.root;
        for level in filter.levels() {
            match level {
                "#" => return node.below.get(key),
                "+" => node = node.any.as_ref()?,
                literal => node = node.literal.get(literal)?,
            }
        }
        node.exact.get(key)
    }

    /// Calls `visit` once for each subscription whose filter matches `topic`, in no particular
    /// order. A key with several matching filters is met several times.
    pub fn matches<'a>(&'a self, topic: &TopicName, visit: &mut impl FnMut(&'a K, &'a V)) {
        let mut levels = topic.levels();
        if !topic.is_dollar() {
            visit_matches(&self.root, levels, visit);
        } else if let Some(child) = levels.next().and_then(|level| self.root.literal.get(level)) {
            // No leading wildcard matches a `$` topic [MQTT-4.7.2-1]: only the literal way is left.
            visit_matches(child, levels, visit);
        }
    }
}

impl<K, V> SubscriptionTree<K, V> {
    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K, V> Node<K, V> {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.any.is_none() && self.literal.is_empty()
    }
}

/// Walks the remaining levels of a topic down from `node`, in a loop along literal levels and
/// recursively at `+`: at most as deep as a topic has levels.
fn visit_matches<'a, K, V>(
    mut node: &'a Node<K, V>,
    mut levels: Split<'_, char>,
    visit: &mut impl FnMut(&'a K, &'a V),
) where
    K: Clone + Hash + Eq,
    V: Clone,
{
    loop {
        // `sport/#` matches `sport` as well [MQTT5 4.7.1.2].
        node.below.each(visit);
        let Some(level) = levels.next() else {
            return node.exact.each(visit);
        };
        if let Some(any) = &node.any {
            visit_matches(any, levels.clone(), visit);
        }
        match node.literal.get(level) {
            Some(child) => node = child,
            None => return,
        }
    }
}

/// The subscribers of a filter, with the nodes on the way made or copied as needed.
fn subscribers_mut<'a, K: Clone + Hash + Eq, V: Clone>(
    root: &'a mut Arc<Node<K, V>>,
    levels: Split<'_, char>,
) -> &'a mut SmallMap<K, V> {
    let mut node = Arc::make_mut(root);
    for level in levels {
        let child = match level {
            "#" => return &mut node.below,
            "+" => node.any.get_or_insert_default(),
            literal => node.literal.get_or_insert(literal, Arc::default),
        };
        node = Arc::make_mut(child);
    }
    &mut node.exact
}

fn remove_below<K: Clone + Hash + Eq, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    mut levels: Split<'_, char>,
    key: &K,
) -> Option<V> {
    let node = Arc::make_mut(node);
    match levels.next() {
        None => node.exact.remove(key),
        Some("#") => node.below.remove(key),
        Some("+") => {
            let child = node.any.as_mut()?;
            let removed = remove_below(child, levels, key);
            if child.is_empty() {
                node.any = None;
            }
            removed
        }
        Some(literal) => {
            let child = node.literal.get_mut(literal)?;
            let removed = remove_below(child, levels, key);
            if child.is_empty() {
                node.literal.remove(literal);
            }
            removed
        }
    }
}

impl<K, V> Clone for SubscriptionTree<K, V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            len: self.len,
        }
    }
}

impl<K, V> Default for SubscriptionTree<K, V> {
    fn default() -> Self {
        Self {
            root: Arc::default(),
            len: 0,
        }
    }
}

impl<K, V> fmt::Debug for SubscriptionTree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionTree")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        Self {
            exact: self.exact.clone(),
            below: self.below.clone(),
            any: self.any.clone(),
            literal: self.literal.clone(),
        }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self {
            exact: SmallMap::default(),
            below: SmallMap::default(),
            any: None,
            literal: SmallMap::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Tree = SubscriptionTree<u32, u8>;

    fn filter(text: &str) -> TopicFilter {
        text.parse().unwrap()
    }

    fn found(tree: &Tree, topic: &str) -> Vec<(u32, u8)> {
        let mut found = Vec::new();
        tree.matches(&topic.parse().unwrap(), &mut |key, value| {
            found.push((*key, *value))
        });
        found.sort_unstable();
        found
    }

    #[test]
    fn each_matching_filter_of_a_key_is_met() {
        let mut tree = Tree::new();
        for (text, qos) in [
            ("sport/#", 0),
            ("sport/+/player1", 1),
            ("sport/tennis/player1", 2),
            ("finance", 2),
        ] {
            assert_eq!(tree.insert(&filter(text), 7, qos), None);
        }
        assert_eq!(found(&tree, "sport/tennis/player1"), [(7, 0), (7, 1), (7, 2)]);
        assert_eq!(found(&tree, "sport"), [(7, 0)]);
        assert_eq!(found(&tree, "other"), []);
        assert_eq!(tree.len(), 4);
    }

    #[test]
    fn a_repeated_filter_replaces_its_subscription() {
        let mut tree = Tree::new();
        assert_eq!(tree.insert(&filter("a/+"), 1, 0), None);
        assert_eq!(tree.insert(&filter("a/+"), 1, 2), Some(0));
        assert_eq!(tree.len(), 1);
        assert_eq!(found(&tree, "a/b"), [(1, 2)]);
        assert_eq!(tree.get(&filter("a/+"), &1), Some(&2));
        assert_eq!(tree.get(&filter("a/b"), &1), None);
    }

    #[test]
    fn leading_wildcards_do_not_see_dollar_topics() {
        let mut tree = Tree::new();
        for (key, text) in ["#", "+/x", "$SYS/#", "$SYS/+", "$SYS/x"].into_iter().enumerate() {
            tree.insert(&filter(text), key as u32, 0);
        }
        assert_eq!(found(&tree, "$SYS/x"), [(2, 0), (3, 0), (4, 0)]);
        assert_eq!(found(&tree, "$SYS"), [(2, 0)]);
        assert_eq!(found(&tree, "$other/x"), []);
        assert_eq!(found(&tree, "a/x"), [(0, 0), (1, 0)]);
    }

    #[test]
    fn a_snapshot_keeps_what_it_saw() {
        let mut tree = Tree::new();
        tree.insert(&filter("a/b"), 1, 0);
        let before = tree.clone();
        tree.insert(&filter("a/b"), 2, 0);
        tree.remove(&filter("a/b"), &1);
        assert_eq!(found(&before, "a/b"), [(1, 0)]);
        assert_eq!(found(&tree, "a/b"), [(2, 0)]);
    }

    #[test]
    fn an_emptied_tree_has_no_nodes_left() {
        let mut tree = Tree::new();
        let texts = ["a/b/c/d", "a/+/c", "a/b/#", "#", "+", "a"];
        for text in texts {
            tree.insert(&filter(text), 1, 0);
        }
        for text in texts {
            tree.remove(&filter(text), &1);
        }
        assert!(tree.is_empty());
        assert!(tree.root.is_empty());
    }

    #[test]
    fn removing_what_is_not_there_copies_nothing() {
        let mut tree = Tree::new();
        tree.insert(&filter("a/b"), 1, 0);
        let before = tree.clone();
        assert_eq!(tree.remove(&filter("a/b"), &2), None);
        assert_eq!(tree.remove(&filter("a/+"), &1), None);
        assert!(Arc::ptr_eq(&before.root, &tree.root));
    }

    #[test]
    fn a_change_shares_the_untouched_branches_with_the_snapshot() {
        let mut tree = Tree::new();
        tree.insert(&filter("a/b"), 1, 0);
        tree.insert(&filter("c/d"), 1, 0);
        let before = tree.clone();
        tree.insert(&filter("a/x"), 1, 0);
        let branch = |tree: &Tree, level: &str| Arc::clone(tree.root.literal.get(level).unwrap());
        assert!(Arc::ptr_eq(&branch(&before, "c"), &branch(&tree, "c")));
        assert!(!Arc::ptr_eq(&branch(&before, "a"), &branch(&tree, "a")));
    }

    #[test]
    fn ten_thousand_snapshots_under_one_parent_stay_cheap() {
        let mut tree = Tree::new();
        let snapshots: Vec<Tree> = (0..10_000)
            .map(|key| {
                tree.insert(&filter(&format!("clawdbot/device{key}/#")), key, 0);
                tree.insert(&filter("clawdbot/all"), key, 1);
                tree.clone()
            })
            .collect();
        assert_eq!(
            found(&snapshots[4_999], "clawdbot/device4999/command"),
            [(4_999, 0)]
        );
        assert_eq!(found(&snapshots[4_998], "clawdbot/device4999/command"), []);
        assert_eq!(found(&snapshots[99], "clawdbot/all").len(), 100);
        assert_eq!(snapshots[9_999].len(), 20_000);
    }

    /// Single letters, so that filters meet and part often, and more of them than fit into the
    /// small form of a node.
    fn levels() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[ab]",
            2 => "[a-m]",
            2 => Just("+".to_owned()),
            1 => Just(String::new()),
            1 => Just("$c".to_owned()),
        ]
    }

    fn filters() -> impl Strategy<Value = TopicFilter> {
        (prop::collection::vec(levels(), 0..=3), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#".into());
                }
                levels.join("/")
            })
            .prop_map(|text| text.parse().unwrap_or_else(|_| filter("a")))
    }

    fn topics() -> impl Strategy<Value = TopicName> {
        prop::collection::vec(levels(), 1..=4)
            .prop_map(|levels| levels.join("/").replace('+', "z"))
            .prop_map(|text| text.parse().unwrap_or_else(|_| "a".parse().unwrap()))
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_list_of_filters_finds(
            steps in prop::collection::vec((prop::bool::weighted(0.7), filters(), 0..3_u32, any::<u8>()), 0..80),
            topics in prop::collection::vec(topics(), 1..20),
        ) {
            let mut tree = Tree::new();
            let mut list: Vec<(TopicFilter, u32, u8)> = Vec::new();
            for (insert, filter, key, value) in steps {
                let place = list.iter().position(|(f, k, _)| *f == filter && *k == key);
                let previous = place.map(|index| list.swap_remove(index).2);
                if insert {
                    list.push((filter.clone(), key, value));
                    prop_assert_eq!(tree.insert(&filter, key, value), previous);
                } else {
                    prop_assert_eq!(tree.remove(&filter, &key), previous);
                }
                prop_assert_eq!(tree.len(), list.len());
            }
            for topic in &topics {
                let matching = list.iter().filter(|(filter, ..)| filter.matches(topic));
                let mut expected: Vec<_> = matching.map(|(_, key, value)| (*key, *value)).collect();
                expected.sort_unstable();
                prop_assert_eq!(found(&tree, topic.as_str()), expected, "{}", topic);
            }
            for (filter, key, value) in &list {
                prop_assert_eq!(tree.remove(filter, key), Some(*value));
            }
            prop_assert!(tree.root.is_empty());
        }
    }
}
