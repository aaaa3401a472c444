//! The broker, its clients and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use topics::filter::TopicFilter;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{
    Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode, SubscriptionOptions, Unsubscribe,
};
use topics::retained::{RetainedBounds, RetainedStore};
use topics::session::{Delivery, Detach, Effect, Session};
use topics::shared::SharedSubscriptions;
use topics::subscriptions::SubscriptionTree;

use super::groups::SHARES;
use super::place::{Place, Received, new_session};
use crate::harness::{lasting, packed, subscribe, v5, v311};

const PLACES: usize = 4;
pub(super) const PUBLISHERS: usize = 2;
const TOPICS: [&str; 5] = ["a", "a/b", "a/b/c", "b", "b/c"];
const FILTERS: [&str; 7] = ["#", "a", "a/#", "+/b", "a/+/c", "+", "b/#"];
const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// So few that the bound is met.
const MAX_RETAINED: usize = 3;
pub(super) const MAX_OUTBOX: usize = 4;

/// The reason to drop a copy before its session sees it.
#[derive(Debug)]
struct OutboxFull;

/// A session takes in no more from its outbox while so many wait in it for its client.
const AHEAD: usize = 5;

pub(super) struct Plane {
    pub(super) places: Vec<Place>,
    subscriptions: SubscriptionTree<usize, QoS>,
    pub(super) shared: SharedSubscriptions<usize, QoS>,
    retained: RetainedStore<Arc<Message>>,
    /// What the store should hold.
    kept: BTreeMap<&'static str, Arc<Message>>,
    published: [usize; PUBLISHERS],
    /// Copies of messages that somebody or some group was to have.
    pub(super) made: usize,
    /// Copies for groups of which no member could take them.
    pub(super) unwanted: usize,
    /// What clients had by shares, in the order of their having it, each with its place.
    pub(super) received_by_groups: Vec<(usize, Received)>,
    /// What has come up beside reasons to drop a message.
    pub(super) saw: BTreeSet<String>,
    now: Instant,
    random: u64,
    clients_answer: bool,
}

impl Plane {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            places: (0..PLACES).map(Place::new).collect(),
            subscriptions: SubscriptionTree::new(),
            shared: SharedSubscriptions::new(),
            retained: RetainedStore::new(RetainedBounds {
                max_messages: MAX_RETAINED,
                max_bytes: 1 << 20,
            }),
            kept: BTreeMap::new(),
            published: [0; PUBLISHERS],
            made: 0,
            unwanted: 0,
            received_by_groups: Vec::new(),
            saw: BTreeSet::new(),
            now: Instant::now(),
            random: seed,
            clients_answer: false,
        }
    }

    /// One random thing happens.
    pub(super) fn step(&mut self) {
        let place = self.below(PLACES);
        match self.below(32) {
            0..=5 => self.publish(),
            6 | 7 => self.subscribe(place),
            8 => self.unsubscribe(place),
            9 => self.lose(place, Detach::Lost),
            10 => {
                self.lose(place, Detach::TakenOver);
                self.connect(place);
            }
            11 | 12 => self.connect(place),
            13 => {
                let passed_ms = self.below(12_000) as u64;
                self.now += Duration::from_millis(passed_ms);
                for place in 0..PLACES {
                    self.apply(place, |session, now, effects| session.tick(now, effects));
                }
            }
            14 if self.below(4) == 0 => {
                for place in 0..PLACES {
                    self.lose(place, Detach::Lost);
                }
                self.publish();
            }
            15..=20 => {
                let most = 1 + self.below(MAX_OUTBOX);
                self.drain(place, most);
            }
            _ => {
                self.carry_one(place);
            }
        }
    }

    pub(super) fn check(&self) {
        let places = self.places.iter().enumerate();
        let kept: usize = places
            .map(|(at, place)| place.ledger.check(at, place.waiting()))
            .sum();
        assert_eq!(self.made, kept + self.unwanted, "the copies that were made");
        let stored: BTreeMap<_, _> = self
            .retained
            .matching(&"#".parse().expect("a filter"))
            .into_iter()
            .map(|(topic, message)| (topic.to_string(), message.payload.clone()))
            .collect();
        let kept = self
            .kept
            .iter()
            .map(|(topic, m)| ((*topic).to_owned(), m.payload.clone()));
        assert_eq!(stored, kept.collect(), "the retained messages");
    }

    /// Everybody comes back to what is left of the session, and answers everything.
    pub(super) fn settle(&mut self) {
        self.clients_answer = true;
        for place in 0..PLACES {
            // Whatever was not answered is sent again only on a new connection.
            self.lose(place, Detach::Lost);
            self.attach(place, true);
        }
        while (0..PLACES).any(|place| self.carry_one(place) || self.drain(place, MAX_OUTBOX)) {}
        for (at, place) in self.places.iter().enumerate() {
            assert_eq!(place.waiting(), 0, "place {at}");
        }
    }

    pub(super) fn check_received(&self) {
        self.check_received_by_groups();
        for (at, place) in self.places.iter().enumerate() {
            place.check_received(at);
        }
    }

    /// Why messages were dropped, and what else has come up.
    pub(super) fn saw(&self) -> impl Iterator<Item = String> {
        let dropped = self.places.iter().flat_map(|place| place.ledger.dropped.keys());
        let handed_on = self.places.iter().any(|place| place.ledger.handed_on > 0);
        let handed_on = handed_on.then(|| "HandedOn".to_owned());
        dropped.chain(&self.saw).cloned().chain(handed_on)
    }

    fn publish(&mut self) {
        let publisher = self.below(PUBLISHERS);
        let number = self.published[publisher];
        self.published[publisher] += 1;
        let topic = TOPICS[self.below(TOPICS.len())];
        let is_cleared = self.below(12) == 0;
        let payload = if is_cleared {
            String::new()
        } else {
            format!("{publisher} {number}")
        };
        let mut message = Message::new(
            topic.parse().expect("a topic"),
            Bytes::from(payload),
            ALL_QOS[self.below(3)],
        );
        message.retain = is_cleared || self.below(4) == 0;
        let expires = self.below(3) == 0;
        let properties = PublishProperties {
            message_expiry_interval_s: expires.then(|| 1 + self.below(15) as u32),
            ..Default::default()
        };
        let message = Arc::new(message.with_properties(Some(Box::new(properties)), self.now));
        if message.retain {
            self.retain(topic, &message);
        }
        self.hand_to_groups(&message, publisher, number);
        for (place, qos) in self.receivers(&message.topic) {
            self.deliver(place, &message, qos, false);
        }
    }

    fn retain(&mut self, topic: &'static str, message: &Arc<Message>) {
        let name = &message.topic;
        if message.payload.is_empty() {
            self.retained.remove(name);
            self.kept.remove(topic);
        } else {
            let has_room = self.kept.contains_key(topic) || self.kept.len() < MAX_RETAINED;
            let stored = self
                .retained
                .insert(name, message.clone(), message.queued_bytes());
            assert_eq!(stored.is_ok(), has_room, "there is room for {MAX_RETAINED}");
            if has_room {
                self.kept.insert(topic, message.clone());
            }
        }
    }

    /// One copy for each place, at the highest QoS of its matching subscriptions [MQTT5 3.3.4]; the tree
    /// against a search through all of them.
    fn receivers(&self, topic: &TopicName) -> BTreeMap<usize, QoS> {
        let mut found: BTreeMap<usize, QoS> = BTreeMap::new();
        self.subscriptions.matches(topic, &mut |place, qos| {
            let highest = found.entry(*place).or_default();
            *highest = (*highest).max(*qos);
        });
        let mut expected: BTreeMap<usize, QoS> = BTreeMap::new();
        for (at, place) in self.places.iter().enumerate() {
            for (filter, qos) in &place.subscribed {
                let parsed: TopicFilter = filter.parse().expect("a filter");
                if parsed.share_group().is_none() && parsed.matches(topic) {
                    let highest = expected.entry(at).or_default();
                    *highest = (*highest).max(*qos);
                }
            }
        }
        assert_eq!(found, expected, "the subscriptions to {topic}");
        found
    }

    fn deliver(&mut self, place: usize, message: &Arc<Message>, granted: QoS, retain: bool) {
        self.made += 1;
        let delivery = Delivery {
            qos: message.qos.min(granted),
            message: message.clone(),
            retain,
            ..crate::harness::delivery("", QoS::AtMostOnce)
        };
        self.push(place, delivery);
    }

    /// Hands a copy to a session, which takes it in some other time.
    pub(super) fn push(&mut self, place: usize, delivery: Delivery) {
        let Place { ledger, outbox, .. } = &mut self.places[place];
        ledger.accept();
        if outbox.len() < MAX_OUTBOX {
            outbox.push_back(delivery);
        } else {
            ledger.drop_one(OutboxFull);
        }
    }

    /// Lets a session take in what was routed to it; false when there is nothing.
    fn drain(&mut self, place: usize, most: usize) -> bool {
        let Place { session, outbox, .. } = &mut self.places[place];
        if outbox.is_empty() || (session.is_connected() && session.waiting() >= AHEAD) {
            return false;
        }
        let mut batch: Vec<_> = outbox.drain(..most.min(outbox.len())).collect();
        if !session.is_connected() {
            self.hand_on_what_came_late(place, &mut batch);
        }
        self.take_in(place, batch);
        true
    }

    pub(super) fn take_in(&mut self, place: usize, batch: Vec<Delivery>) {
        for delivery in batch {
            self.apply(place, |session, now, effects| {
                session.deliver(now, delivery, effects)
            });
        }
    }

    fn any_filter(&mut self) -> &'static str {
        let filters = [&FILTERS[..], &SHARES].concat();
        filters[self.below(filters.len())]
    }

    fn subscribe(&mut self, place: usize) {
        let filter = self.any_filter();
        let packet = subscribe(filter, SubscriptionOptions::new(ALL_QOS[self.below(3)]));
        self.receive(place, packet);
    }

    fn unsubscribe(&mut self, place: usize) {
        let subscribed = &self.places[place].subscribed;
        let all: Vec<_> = subscribed.keys().map(|filter| (*filter).into()).collect();
        let filters = if all.is_empty() || self.below(3) > 0 {
            vec![self.any_filter().into()]
        } else {
            all
        };
        self.receive(
            place,
            Packet::Unsubscribe(Unsubscribe {
                packet_id: 1,
                user_properties: Vec::new(),
                filters,
            }),
        );
    }

    fn receive(&mut self, place: usize, packet: Packet) {
        self.apply(place, |session, now, effects| {
            session.receive(now, packet, effects)
        });
    }

    fn lose(&mut self, place: usize, cause: Detach) {
        let Place { up, down, .. } = &mut self.places[place];
        up.clear();
        down.clear();
        self.apply(place, |session, now, effects| session.detach(now, cause, effects));
        if cause == Detach::Lost {
            self.hand_on_what_waits(place);
        }
    }

    fn connect(&mut self, place: usize) {
        if !self.places[place].session.is_connected() {
            let keeps = self.below(4) > 0;
            self.attach(place, keeps);
        }
    }

    fn attach(&mut self, place: usize, keeps: bool) {
        let connect = match (self.places[place].version, keeps) {
            (ProtocolVersion::V5, true) => lasting(20),
            (ProtocolVersion::V5, false) => v5(),
            (_, keeps) => v311(!keeps),
        };
        let mut effects = Vec::new();
        let at = &mut self.places[place];
        let attached = at
            .session
            .attach(self.now, &connect, Default::default(), &mut effects);
        if !attached.expect("a CONNECT in order").session_present {
            at.begin_anew(self.published);
            let outbox = std::mem::take(&mut at.outbox);
            self.bequeath(place, outbox);
        }
        for effect in effects {
            self.carry_out(place, effect);
        }
    }

    /// Carries one packet; false when there is none.
    fn carry_one(&mut self, place: usize) -> bool {
        let answers = self.clients_answer || self.below(6) > 0;
        let at = &mut self.places[place];
        if let Some(packet) = at.up.pop_front() {
            at.ledger.answered(&packet);
            self.receive(place, packet);
        } else if let Some(packet) = at.down.pop_front() {
            if let Some(message) = at.hear(packet, answers) {
                let is_late = message.number < at.begun_at[message.publisher];
                assert!(
                    message.share.is_some() || !is_late,
                    "place {place}: {message:?} is of a session before"
                );
                at.received.push(message.clone());
                if message.share.is_some() {
                    self.received_by_groups.push((place, message));
                }
            }
        } else {
            return false;
        }
        true
    }

    /// Lets a session act and carries out what it wants.
    fn apply(&mut self, place: usize, act: impl FnOnce(&mut Session, Instant, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        act(&mut self.places[place].session, self.now, &mut effects);
        for effect in effects {
            self.carry_out(place, effect);
        }
    }

    fn carry_out(&mut self, place: usize, effect: Effect) {
        let at = &mut self.places[place];
        match packed(effect) {
            Effect::Send(packet) => {
                if let Packet::Publish(publish) = &packet {
                    at.ledger.send(publish);
                }
                at.down.push_back(packet);
            }
            Effect::Dropped(reason) => at.ledger.drop_one(reason),
            Effect::Subscribe { packet_id, wanted } => {
                for wanted in &wanted {
                    let filter = wanted.filter.as_ref().expect("a filter in order");
                    let (name, qos) = (known(filter), wanted.options.qos);
                    self.places[place].subscribed.insert(name, qos);
                    if filter.share_group().is_some() {
                        self.shared.insert(filter, place, qos);
                        continue;
                    }
                    self.subscriptions.insert(filter, place, qos);
                    let retained: Vec<_> = self
                        .retained
                        .matching(filter)
                        .into_iter()
                        .map(|(_, m)| m.clone())
                        .collect();
                    for message in retained {
                        self.deliver(place, &message, wanted.options.qos, true);
                    }
                }
                let granted = vec![ReasonCode::Success; wanted.len()];
                self.apply(place, |session, _, effects| {
                    session.subscribed(packet_id, &wanted, granted, effects);
                });
            }
            Effect::Unsubscribe { packet_id, filters } => {
                for filter in filters.iter().flatten() {
                    self.forget(place, filter);
                }
                self.apply(place, |session, _, effects| {
                    session.unsubscribed(packet_id, &filters, effects);
                });
                self.leave_shares(place, &filters);
            }
            Effect::Forget(filters) => filters.iter().for_each(|filter| self.forget(place, filter)),
            Effect::HandOn(deliveries) => self.bequeath(place, deliveries),
            Effect::End => {
                let outbox = std::mem::take(&mut at.outbox);
                self.bequeath(place, outbox);
                let at = &mut self.places[place];
                at.begin_anew(self.published);
                assert_eq!(at.waiting(), 0, "nothing waits in a session that has ended");
                at.session = new_session(place);
            }
            other => panic!("place {place}: {other:?}"),
        }
    }

    fn forget(&mut self, place: usize, filter: &TopicFilter) {
        if filter.share_group().is_some() {
            self.shared.remove(filter, &place);
        } else {
            self.subscriptions.remove(filter, &place);
        }
        self.places[place].subscribed.remove(known(filter));
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn known(filter: &TopicFilter) -> &'static str {
    let is_it = |known: &&str| known.parse::<TopicFilter>().as_ref() == Ok(filter);
    let mut all = FILTERS.into_iter().chain(SHARES);
    all.find(is_it).expect("one of those that are asked for")
}
