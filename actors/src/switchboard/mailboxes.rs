//! How full the mailboxes of actors are that own topics, for metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Owner, Switchboard};

/// Those of one kind of actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mailboxes {
    /// Actors of this kind that take messages.
    pub actors: u64,
    /// Messages in the fullest of their mailboxes.
    pub deepest: u64,
    /// Messages that each of them holds.
    pub bound: u64,
    /// How often one of them took the place of one that had fallen.
    pub restarts: u64,
}

impl Switchboard {
    /// Those of each kind, from the newest snapshot. Takes as long as there are topics with an owner.
    pub fn mailboxes(&self) -> BTreeMap<&'static str, Mailboxes> {
        let routes = self.0.routes.load();
        let of_patterns = routes.patterns.iter().filter_map(|route| route.owner.as_ref());
        let mut kinds = BTreeMap::<_, Mailboxes>::new();
        let (mut seen, mut counted) = (BTreeSet::new(), BTreeSet::new());
        // A kind is there before its first actor is.
        for route in routes.patterns.iter() {
            let of = kinds.entry(route.actor).or_default();
            // One count for all patterns of a binding.
            if counted.insert(Arc::as_ptr(&route.restarts).addr()) {
                of.restarts += route.restarts.load(Relaxed);
            }
        }
        for owner in routes.owners.values().chain(of_patterns) {
            let Owner { actor, mailbox, .. } = &**owner;
            let of = kinds.entry(*actor).or_default();
            // One mailbox for all topics of an actor.
            if mailbox.is_open() && seen.insert(mailbox.identity()) {
                of.actors += 1;
                of.deepest = of.deepest.max(mailbox.depth() as u64);
                of.bound = mailbox.mailbox().bound as u64;
            }
        }
        kinds
    }
}
