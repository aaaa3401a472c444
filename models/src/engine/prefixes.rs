//! What sequences have computed, by the tokens that it was computed of: a tree whose nodes are full pages.
//!
//! A page's keys and values depend on all tokens before it, so that a node is found by its parent and its own tokens,
//! which are compared themselves, never only by their hash. A sequence *holds* the nodes on the way to its last full
//! page; what nobody holds is kept for later sequences until its memory is wanted, the least recently used first. Whoever holds a
//! node holds all above it, and therefore what is let go of is always a leaf.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::packed::PAGE_TOKENS;

/// The tokens of a page.
pub(super) type PageTokens = [u32; PAGE_TOKENS];

/// A node, as long as it is there; numbers are not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(u64);

/// The tree. `P` is a handle to a page.
#[derive(Debug)]
pub(super) struct PrefixIndex<P> {
    nodes: HashMap<NodeId, Node<P>>,
    children: HashMap<(NodeId, PageTokens), NodeId>,
    /// The nodes that nobody holds, in the order in which they are let go of: when they were last used, and those
    /// further down first.
    unheld: BTreeSet<(u64, Reverse<usize>, NodeId)>,
    next: u64,
    /// Counts releases.
    time: u64,
}

#[derive(Debug)]
struct Node<P> {
    parent: NodeId,
    tokens: PageTokens,
    page: P,
    depth: usize,
    holders: usize,
    last_used: u64,
}

/// Roots have numbers below this: one for each kind of page.
const FIRST: u64 = 1 << 48;

impl<P> Default for PrefixIndex<P> {
    fn default() -> Self {
        Self {
            nodes: HashMap::new(),
            children: HashMap::new(),
            unheld: BTreeSet::new(),
            next: FIRST,
            time: 0,
        }
    }
}

impl<P: Clone> PrefixIndex<P> {
    /// Where sequences begin whose pages are of this kind; no page is shared between two.
    pub(super) fn root(kind: u64) -> NodeId {
        NodeId(kind % FIRST)
    }

    /// All pages.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Pages that nobody holds.
    pub(super) fn unheld(&self) -> usize {
        self.unheld.len()
    }

    /// What was computed of these tokens behind `parent`, which is held from now on.
    pub(super) fn hold(&mut self, parent: NodeId, tokens: &PageTokens) -> Option<(NodeId, P)> {
        let id = *self.children.get(&(parent, *tokens))?;
        let node = self.nodes.get_mut(&id)?;
        if node.holders == 0 {
            self.unheld.remove(&(node.last_used, Reverse(node.depth), id));
        }
        node.holders += 1;
        Some((id, node.page.clone()))
    }

    /// Puts in what was just computed and holds it. Where somebody else was quicker, theirs is given back, to be used
    /// instead: the same tokens give the same numbers. `parent` is a root or held.
    pub(super) fn insert(&mut self, parent: NodeId, tokens: &PageTokens, page: P) -> (NodeId, Option<P>) {
        if let Some((id, theirs)) = self.hold(parent, tokens) {
            return (id, Some(theirs));
        }
        let id = NodeId(self.next);
        self.next += 1;
        let node = Node {
            parent,
            tokens: *tokens,
            page,
            depth: self.nodes.get(&parent).map_or(0, |parent| parent.depth + 1),
            holders: 1,
            last_used: 0,
        };
        self.nodes.insert(id, node);
        self.children.insert((parent, *tokens), id);
        (id, None)
    }

    /// Holds these no more: all that one sequence holds, and only together.
    pub(super) fn release(&mut self, held: &mut Vec<NodeId>) {
        self.time += 1;
        for id in held.drain(..) {
            let Some(node) = self.nodes.get_mut(&id) else {
                debug_assert!(false, "what is held is there");
                continue;
            };
            node.holders -= 1;
            if node.holders == 0 {
                node.last_used = self.time;
                self.unheld.insert((node.last_used, Reverse(node.depth), id));
            }
        }
    }

    /// Lets go of the page that was not used for the longest time and that nobody holds. Whether there was one.
    pub(super) fn evict(&mut self) -> bool {
        let Some((_, _, id)) = self.unheld.pop_first() else {
            return false;
        };
        if let Some(node) = self.nodes.remove(&id) {
            self.children.remove(&(node.parent, node.tokens));
        }
        true
    }

    /// Lets go of all that nobody holds.
    pub(super) fn evict_all(&mut self) {
        while self.evict() {}
    }

    #[cfg(test)]
    pub(super) fn pages(&self) -> impl Iterator<Item = (&P, usize)> {
        self.nodes.values().map(|node| (&node.page, node.holders))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Index = PrefixIndex<Vec<u32>>;

    fn tokens(seed: u32) -> PageTokens {
        [seed; PAGE_TOKENS]
    }

    /// Holds what is there of a text and computes the rest. A page is the way to it.
    fn begin(index: &mut Index, kind: u64, text: &[u32]) -> (Vec<NodeId>, usize) {
        let (mut held, mut found) = (Vec::new(), 0);
        for (number, seed) in text.iter().enumerate() {
            let parent = held.last().copied().unwrap_or(Index::root(kind));
            if let Some((id, page)) = index.hold(parent, &tokens(*seed)) {
                assert_eq!(page, text[..=number], "what was computed of other tokens");
                assert_eq!(found, number, "the beginning is there as well");
                held.push(id);
                found += 1;
            } else {
                let (id, theirs) = index.insert(parent, &tokens(*seed), text[..=number].to_vec());
                assert_eq!(theirs, None);
                held.push(id);
            }
        }
        (held, found)
    }

    #[test]
    fn what_began_alike_is_found_as_far_as_it_is_alike() {
        let mut index = Index::default();
        let (mut first, found) = begin(&mut index, 0, &[1, 2, 3]);
        assert_eq!((found, index.len(), index.unheld()), (0, 3, 0));
        let (mut second, found) = begin(&mut index, 0, &[1, 2, 4]);
        assert_eq!((found, index.len()), (2, 4));
        // The same tokens behind other ones, and pages of another kind, are not the same.
        assert_eq!(begin(&mut index, 0, &[2, 3]).1, 0);
        assert_eq!(begin(&mut index, 1, &[1, 2, 3]).1, 0);
        index.release(&mut first);
        assert_eq!(index.unheld(), 1);
        index.release(&mut second);
        assert_eq!((index.unheld(), index.len()), (4, 9));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_leaves_go_before_what_they_stand_on() {
        let mut index = Index::default();
        let (mut old, _) = begin(&mut index, 0, &[1, 2]);
        let (mut new, _) = begin(&mut index, 0, &[5, 6]);
        index.release(&mut old);
        index.release(&mut new);
        let (mut again, found) = begin(&mut index, 0, &[1, 2, 3]);
        assert_eq!(found, 2);
        index.release(&mut again);
        for (text, left) in [([5, 6], 1), ([5, 6], 0), ([1, 2], 2), ([1, 2], 1)] {
            assert!(index.evict());
            let found = text
                .iter()
                .scan(Index::root(0), |parent, seed| {
                    *parent = *index.children.get(&(*parent, tokens(*seed)))?;
                    Some(())
                })
                .count();
            assert_eq!(found, left, "{text:?}");
        }
        assert!(index.evict());
        assert!(!index.evict() && index.len() == 0);
    }

    #[test]
    fn of_two_who_computed_the_same_one_page_is_left() {
        let mut index = Index::default();
        let root = Index::root(0);
        let (first, theirs) = index.insert(root, &tokens(1), vec![1]);
        assert_eq!(theirs, None);
        let (second, theirs) = index.insert(root, &tokens(1), vec![2]);
        assert_eq!((second, theirs), (first, Some(vec![1])));
        index.release(&mut vec![first]);
        assert!(!index.evict());
        index.release(&mut vec![second]);
        assert!(index.evict());
    }

    proptest! {
        #[test]
        fn what_is_held_stays_and_nothing_is_left_behind(
            steps in prop::collection::vec((0..4_u8, prop::collection::vec(0..3_u32, 1..5)), 1..60),
        ) {
            let mut index = Index::default();
            let mut holders: Vec<(Vec<NodeId>, Vec<u32>)> = Vec::new();
            for (what, text) in steps {
                match what {
                    0 | 1 => {
                        let (held, _) = begin(&mut index, 0, &text);
                        holders.push((held, text));
                    }
                    2 if !holders.is_empty() => {
                        let number = text.len() % holders.len();
                        index.release(&mut holders.swap_remove(number).0);
                    }
                    _ => {
                        index.evict();
                    }
                }
                for (held, text) in &holders {
                    for (number, id) in held.iter().enumerate() {
                        prop_assert_eq!(&index.nodes[id].page, &text[..=number]);
                    }
                }
                // Each node's parent is there: nobody was left without the way to it.
                for node in index.nodes.values() {
                    prop_assert!(node.parent.0 < FIRST || index.nodes.contains_key(&node.parent));
                }
                prop_assert_eq!(index.children.len(), index.nodes.len());
                prop_assert_eq!(
                    index.unheld.len(),
                    index.nodes.values().filter(|node| node.holders == 0).count()
                );
            }
            holders.iter_mut().for_each(|(held, _)| index.release(held));
            while index.evict() {}
            prop_assert_eq!((index.len(), index.children.len(), index.unheld()), (0, 0, 0));
        }
    }
}
