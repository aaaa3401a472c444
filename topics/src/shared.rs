//! Shared subscriptions: of a group of subscribers, each message goes to one [MQTT5 4.8.2].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::filter::TopicFilter;
use crate::name::TopicName;
use crate::subscriptions::SubscriptionTree;

/// Groups by filter, found by topic; persistent, as the tree it is built on.
///
/// Group and filter together name a shared subscription: `$share/g/a/b` and `$share/g/a/+` have members
/// of their own, and a message on `a/b` goes to one of each [MQTT5 4.8.2].
pub struct SharedSubscriptions<K, V> {
    /// Filed by the whole filter, because the tree itself looks at the part behind the group only.
    groups: SubscriptionTree<Arc<TopicFilter>, Group<K, V>>,
    members: usize,
}

/// Who shares a subscription. Clones share the turn, so that it goes on from snapshot to snapshot.
pub struct Group<K, V> {
    members: Arc<Vec<(K, V)>>,
    turn: Arc<AtomicUsize>,
}

/// How well a member could take a message at this moment; the better comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Connected, with room.
    Ready,
    /// Connected, but so far behind that another had better take it.
    Crowded,
    /// Away, with a session that keeps it.
    Keeping,
    /// It would have to let the message go.
    Full,
}

impl<K: Clone + Eq, V: Clone> SharedSubscriptions<K, V> {
    /// No groups.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `key` a member of the group that `filter` names, or replaces its subscription and returns
    /// the old one.
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let share = Arc::new(filter.clone());
        let mut group = self.groups.get(filter, &share).cloned().unwrap_or_default();
        let members = Arc::make_mut(&mut group.members);
        let replaced = match members.iter_mut().find(|(member, _)| *member == key) {
            Some((_, known)) => Some(std::mem::replace(known, value)),
            None => {
                members.push((key, value));
                self.members += 1;
                None
            }
        };
        self.groups.insert(filter, share, group);
        replaced
    }

    /// Takes `key` out of the group that `filter` names; the last member takes the group with it.
    pub fn remove(&mut self, filter: &TopicFilter, key: &K) -> Option<V> {
        let share = Arc::new(filter.clone());
        let mut group = self.groups.get(filter, &share)?.clone();
        let at = group.members.iter().position(|(member, _)| member == key)?;
        let (_, removed) = Arc::make_mut(&mut group.members).remove(at);
        self.members -= 1;
        if group.members.is_empty() {
            self.groups.remove(filter, &share);
        } else {
            self.groups.insert(filter, share, group);
        }
        Some(removed)
    }

    /// The group that `share` names, if it has members.
    pub fn group(&self, share: &Arc<TopicFilter>) -> Option<&Group<K, V>> {
        self.groups.get(share, share)
    }

    /// Calls `visit` once for each group whose filter matches `topic`, in no particular order.
    pub fn matches<'a>(
        &'a self,
        topic: &TopicName,
        visit: &mut impl FnMut(&'a Arc<TopicFilter>, &'a Group<K, V>),
    ) {
        self.groups.matches(topic, visit);
    }
}

impl<K, V> SharedSubscriptions<K, V> {
    /// How many memberships there are.
    pub fn len(&self) -> usize {
        self.members
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }
}

impl<K, V> Group<K, V> {
    /// The member whose turn it is among those that can take a message best; None where nobody can at
    /// all, which a member says by having no readiness.
    ///
    /// The turn goes on from the member that was chosen and not by one each time: with a step of one,
    /// the neighbour of a member that is away would get its share as well. Publishers that choose at
    /// the same moment may choose the same member; the balance is kept over many messages.
    pub fn choose(&self, mut readiness: impl FnMut(&K, &V) -> Option<Readiness>) -> Option<(&K, &V)> {
        let turn = self.turn.load(Relaxed);
        let mut best: Option<(Readiness, usize)> = None;
        for at in (0..self.members.len()).map(|step| turn.wrapping_add(step) % self.members.len()) {
            let (key, value) = self.members.get(at)?;
            let Some(found) = readiness(key, value) else {
                continue;
            };
            if best.is_none_or(|(known, _)| found < known) {
                best = Some((found, at));
            }
            if found == Readiness::Ready {
                break;
            }
        }
        let (_, at) = best?;
        self.turn.store(at + 1, Relaxed);
        self.members.get(at).map(|(key, value)| (key, value))
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none; a group in [`SharedSubscriptions`] always has some.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members' subscriptions.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.members.iter().map(|(_, value)| value)
    }
}

impl<K, V> Clone for Group<K, V> {
    fn clone(&self) -> Self {
        Self {
            members: self.members.clone(),
            turn: self.turn.clone(),
        }
    }
}

impl<K, V> Default for Group<K, V> {
    fn default() -> Self {
        Self {
            members: Arc::default(),
            turn: Arc::default(),
        }
    }
}

impl<K, V> Clone for SharedSubscriptions<K, V> {
    fn clone(&self) -> Self {
        Self {
            groups: self.groups.clone(),
            members: self.members,
        }
    }
}

impl<K, V> Default for SharedSubscriptions<K, V> {
    fn default() -> Self {
        Self {
            groups: SubscriptionTree::default(),
            members: 0,
        }
    }
}

impl<K, V> fmt::Debug for SharedSubscriptions<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSubscriptions")
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl<K, V> fmt::Debug for Group<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shares = SharedSubscriptions<u64, &'static str>;

    fn filter(text: &str) -> TopicFilter {
        text.parse().unwrap()
    }

    fn shares(entries: &[(&str, u64, &'static str)]) -> Shares {
        let mut shares = Shares::new();
        for (text, key, value) in entries {
            shares.insert(&filter(text), *key, value);
        }
        shares
    }

    /// Who gets a message, of each group.
    fn chosen(
        shares: &Shares,
        topic: &str,
        readiness: impl Fn(u64) -> Option<Readiness>,
    ) -> Vec<&'static str> {
        let mut chosen = Vec::new();
        shares.matches(&topic.parse().unwrap(), &mut |_, group| {
            chosen.extend(group.choose(|key, _| readiness(*key)).map(|(_, value)| *value));
        });
        chosen.sort_unstable();
        chosen
    }

    #[test]
    fn each_group_gives_a_message_to_one_member_in_turn() {
        let shares = shares(&[
            ("$share/g/a/+", 1, "one"),
            ("$share/g/a/+", 2, "two"),
            ("$share/h/a/b", 3, "other group"),
            ("$share/g/a/b", 4, "other filter"),
            ("$share/g/c", 5, "other topic"),
        ]);
        let ready = |_| Some(Readiness::Ready);
        assert_eq!(shares.len(), 5);
        for member in ["one", "two", "one", "two"] {
            let mut all = [member, "other filter", "other group"];
            all.sort_unstable();
            assert_eq!(chosen(&shares, "a/b", ready), all);
        }
    }

    #[test]
    fn members_that_are_away_give_their_share_to_all_others_alike() {
        let shares = shares(&[
            ("$share/g/a", 1, "one"),
            ("$share/g/a", 2, "away"),
            ("$share/g/a", 3, "three"),
        ]);
        let online = |key| {
            Some(if key == 2 {
                Readiness::Keeping
            } else {
                Readiness::Ready
            })
        };
        let got: Vec<_> = (0..6).flat_map(|_| chosen(&shares, "a", online)).collect();
        assert_eq!(got, ["one", "three", "one", "three", "one", "three"]);
    }

    #[test]
    fn the_best_member_is_chosen_and_one_that_cannot_take_it_never() {
        let shares = shares(&[
            ("$share/g/a", 1, "one"),
            ("$share/g/a", 2, "two"),
            ("$share/g/a", 3, "three"),
        ]);
        for (readiness, best) in [
            (
                [Some(Readiness::Crowded), Some(Readiness::Ready), None],
                Some("two"),
            ),
            (
                [Some(Readiness::Keeping), None, Some(Readiness::Crowded)],
                Some("three"),
            ),
            (
                [Some(Readiness::Full), Some(Readiness::Keeping), None],
                Some("two"),
            ),
            ([None, None, Some(Readiness::Full)], Some("three")),
            ([None, None, None], None),
        ] {
            let found = chosen(&shares, "a", |key| readiness[key as usize - 1]);
            assert_eq!(found.first().copied(), best, "{readiness:?}");
        }
    }

    #[test]
    fn a_member_that_subscribes_again_replaces_its_subscription() {
        let mut shares = shares(&[("$share/g/a", 1, "old")]);
        assert_eq!(shares.insert(&filter("$share/g/a"), 1, "new"), Some("old"));
        assert_eq!(shares.len(), 1);
        assert_eq!(chosen(&shares, "a", |_| Some(Readiness::Ready)), ["new"]);
    }

    #[test]
    fn a_snapshot_keeps_its_members_and_the_last_one_takes_the_group_along() {
        let mut shares = shares(&[("$share/g/a", 1, "one"), ("$share/g/a", 2, "two")]);
        let before = shares.clone();
        assert_eq!(shares.remove(&filter("$share/g/a"), &1), Some("one"));
        assert_eq!(shares.remove(&filter("$share/g/a"), &1), None);
        assert_eq!(shares.remove(&filter("$share/other/a"), &2), None);
        assert_eq!(before.len(), 2);
        assert_eq!(shares.remove(&filter("$share/g/a"), &2), Some("two"));
        assert!(shares.is_empty() && shares.groups.is_empty());
        assert!(shares.group(&Arc::new(filter("$share/g/a"))).is_none());
    }
}
