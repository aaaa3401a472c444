//! Shared subscriptions, carried out as `actors/src/sharing.rs` and `device_session/sharing.rs` do it: of each
//! group one member gets a message, and what a member leaves goes to another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use topics::filter::TopicFilter;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;
use topics::session::{Delivery, DropReason};
use topics::shared::{Group, Readiness};

use super::place::Received;
use super::plane::{MAX_OUTBOX, Plane};

pub(super) const SHARES: [&str; 5] = [
    "$share/g/a/#",
    "$share/h/a/#",
    "$share/g/+/b",
    "$share/g/#",
    "$share/g/b/c",
];

/// Which members may take what another leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heirs {
    Online,
    Any,
}

impl Plane {
    /// Hands a message to one member of each group that wants it.
    pub(super) fn hand_to_groups(&mut self, message: &Arc<Message>, publisher: usize, number: usize) {
        for (share, group) in self.groups(&message.topic) {
            self.made += 1;
            // A copy that tells which share it belongs to, wherever it goes from here.
            let mut copy = (**message).clone();
            copy.payload = Bytes::from(format!("{publisher} {number} {share}"));
            if let Err(why) = self.give(&share, &group, &Arc::new(copy), Heirs::Any, None) {
                self.unwanted += 1;
                self.saw.insert(why.to_owned());
            }
        }
    }

    /// The connection is gone, and the session may go on without it.
    pub(super) fn hand_on_what_waits(&mut self, place: usize) {
        self.hand_on_from_session(place, None);
    }

    /// What was routed to a client that is away by now.
    pub(super) fn hand_on_what_came_late(&mut self, place: usize, batch: &mut Vec<Delivery>) {
        batch.retain(|delivery| !self.hand_on(place, delivery, Heirs::Online));
    }

    /// The client has unsubscribed: what others do not take it still gets.
    pub(super) fn leave_shares(&mut self, place: usize, filters: &[Option<TopicFilter>]) {
        for share in filters.iter().flatten().filter(|f| f.share_group().is_some()) {
            self.hand_on_from_session(place, Some(share));
            let outbox = std::mem::take(&mut self.places[place].outbox);
            let (of_it, others) = outbox
                .into_iter()
                .partition(|delivery| delivery.share.as_deref() == Some(share));
            self.places[place].outbox = others;
            let mut of_it: Vec<_> = Vec::from(of_it);
            self.hand_on_what_came_late(place, &mut of_it);
            self.take_in(place, of_it);
        }
    }

    /// The session has ended, or begins anew.
    pub(super) fn bequeath(&mut self, place: usize, deliveries: impl IntoIterator<Item = Delivery>) {
        for delivery in deliveries {
            if self.hand_on(place, &delivery, Heirs::Any) {
                self.saw.insert("Bequeathed".to_owned());
            } else {
                self.places[place].ledger.drop_one(DropReason::SessionEnded);
            }
        }
    }

    /// Of all copies by shares: none came twice, to whomever, unless it was sent at QoS 1 before.
    pub(super) fn check_received_by_groups(&self) {
        let mut before: BTreeMap<_, &Received> = BTreeMap::new();
        for (place, message) in &self.received_by_groups {
            let copy = (&message.share, message.publisher, message.number);
            if let Some(before) = before.insert(copy, message) {
                assert_eq!(
                    before.qos,
                    QoS::AtLeastOnce,
                    "{message:?} came to place {place}, and before it {before:?}"
                );
            }
        }
    }

    /// The groups against a search through all subscriptions.
    fn groups(&self, topic: &TopicName) -> Vec<(Arc<TopicFilter>, Group<usize, QoS>)> {
        let mut groups = Vec::new();
        self.shared.matches(topic, &mut |share, group| {
            groups.push((share.clone(), group.clone()));
        });
        let mut found: BTreeMap<String, BTreeSet<(usize, QoS)>> = BTreeMap::new();
        for (share, group) in &groups {
            let members = found.entry(share.to_string()).or_default();
            let nobody = group.choose(|place, qos| {
                members.insert((*place, *qos));
                None
            });
            assert_eq!((nobody, group.len()), (None, members.len()));
        }
        let mut expected: BTreeMap<String, BTreeSet<(usize, QoS)>> = BTreeMap::new();
        for (at, place) in self.places.iter().enumerate() {
            for (filter, qos) in &place.subscribed {
                let parsed: TopicFilter = filter.parse().expect("a filter");
                if parsed.share_group().is_some() && parsed.matches(topic) {
                    let members = expected.entry((*filter).to_owned()).or_default();
                    members.insert((at, *qos));
                }
            }
        }
        assert_eq!(found, expected, "the groups that want {topic}");
        groups
    }

    /// Offers what waits in a session to others: all of its shares, or one.
    fn hand_on_from_session(&mut self, place: usize, share: Option<&TopicFilter>) {
        // The session is out of its place meanwhile, since it is the others that are asked.
        let mut session =
            std::mem::replace(&mut self.places[place].session, super::place::new_session(place));
        let mut take = |delivery: &Delivery| self.hand_on(place, delivery, Heirs::Online);
        match share {
            Some(share) => session.hand_on_share(share, &mut take),
            None => session.hand_on(&mut take),
        }
        self.places[place].session = session;
    }

    fn hand_on(&mut self, leaving: usize, delivery: &Delivery, heirs: Heirs) -> bool {
        let Some(share) = &delivery.share else {
            return false;
        };
        let Some(group) = self.shared.group(share).cloned() else {
            return false;
        };
        let taken = self
            .give(share, &group, &delivery.message, heirs, Some(leaving))
            .is_ok();
        if taken {
            self.places[leaving].ledger.hand_on(delivery);
        }
        taken
    }

    fn give(
        &mut self,
        share: &Arc<TopicFilter>,
        group: &Group<usize, QoS>,
        message: &Arc<Message>,
        heirs: Heirs,
        leaving: Option<usize>,
    ) -> Result<(), &'static str> {
        let readiness = |place: usize, granted: QoS| {
            let may = leaving != Some(place);
            may.then(|| self.readiness(place, granted, message, heirs))
                .flatten()
        };
        let mut best = None;
        let nobody = group.choose(|place, granted| {
            let found = readiness(*place, *granted);
            best = [best, found].into_iter().flatten().min();
            None
        });
        assert_eq!(nobody, None);
        let chosen = group.choose(|place, granted| readiness(*place, *granted));
        let found = chosen.and_then(|(place, granted)| readiness(*place, *granted));
        assert_eq!(found, best, "whoever can take it best");
        let Some((place, granted)) = chosen else {
            return Err("NobodyThere");
        };
        if found == Some(Readiness::Full) {
            return Err("GroupFull");
        }
        if found == Some(Readiness::Keeping) {
            self.saw.insert("Kept".to_owned());
        }
        let (place, qos) = (*place, message.qos.min(*granted));
        self.push(
            place,
            Delivery {
                qos,
                message: message.clone(),
                share: Some(share.clone()),
                ..crate::harness::delivery("", QoS::AtMostOnce)
            },
        );
        Ok(())
    }

    fn readiness(&self, place: usize, granted: QoS, message: &Message, heirs: Heirs) -> Option<Readiness> {
        let at = &self.places[place];
        let has_room = at.outbox.len() < MAX_OUTBOX;
        if at.session.is_connected() {
            return match at.outbox.len() {
                little if little <= MAX_OUTBOX / 2 => Some(Readiness::Ready),
                _ if has_room => Some(Readiness::Crowded),
                _ => (heirs == Heirs::Any).then_some(Readiness::Full),
            };
        }
        if heirs == Heirs::Online || message.qos.min(granted) == QoS::AtMostOnce {
            return None;
        }
        Some(if has_room {
            Readiness::Keeping
        } else {
            Readiness::Full
        })
    }
}
