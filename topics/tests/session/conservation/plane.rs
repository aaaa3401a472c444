//! The broker, its clients and what happens to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use topics::filter::TopicFilter;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{
    Ack, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode, SubscriptionOptions, Unsubscribe,
};
use topics::retained::{RetainedBounds, RetainedStore};
use topics::session::{Delivery, Detach, Effect, Session, SessionConfig};
use topics::subscriptions::SubscriptionTree;

use super::ledger::Ledger;
use crate::harness::{lasting, packed, subscribe, v5, v311};

const PLACES: usize = 4;
const PUBLISHERS: usize = 2;
const TOPICS: [&str; 5] = ["a", "a/b", "a/b/c", "b", "b/c"];
const FILTERS: [&str; 7] = ["#", "a", "a/#", "+/b", "a/+/c", "+", "b/#"];
const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// So few that the bound is met.
const MAX_RETAINED: usize = 3;

struct Place {
    session: Session,
    version: ProtocolVersion,
    ledger: Ledger,
    up: VecDeque<Packet>,
    down: VecDeque<Packet>,
    /// QoS 2, received and not released.
    held: BTreeSet<u16>,
    /// Publisher, topic, QoS and number, as the client had them; what it was sent as retained is apart.
    received: Vec<(usize, String, QoS, usize)>,
    /// What the tree should hold of this place.
    subscribed: BTreeMap<&'static str, QoS>,
}

pub(super) struct Plane {
    places: Vec<Place>,
    subscriptions: SubscriptionTree<usize, QoS>,
    retained: RetainedStore<Arc<Message>>,
    /// What the store should hold.
    kept: BTreeMap<&'static str, Arc<Message>>,
    published: [usize; PUBLISHERS],
    now: Instant,
    random: u64,
    clients_answer: bool,
}

impl Plane {
    pub(super) fn new(seed: u64) -> Self {
        let mut plane = Self {
            places: Vec::new(),
            subscriptions: SubscriptionTree::new(),
            retained: RetainedStore::new(RetainedBounds {
                max_messages: MAX_RETAINED,
                max_bytes: 1 << 20,
            }),
            kept: BTreeMap::new(),
            published: [0; PUBLISHERS],
            now: Instant::now(),
            random: seed,
            clients_answer: false,
        };
        for place in 0..PLACES {
            let version = [ProtocolVersion::V311, ProtocolVersion::V5][place % 2];
            plane.places.push(Place {
                session: new_session(place),
                version,
                ledger: Ledger::default(),
                up: VecDeque::new(),
                down: VecDeque::new(),
                held: BTreeSet::new(),
                received: Vec::new(),
                subscribed: BTreeMap::new(),
            });
        }
        plane
    }

    /// One random thing happens.
    pub(super) fn step(&mut self) {
        let place = self.below(PLACES);
        match self.below(24) {
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
            _ => {
                self.carry_one(place);
            }
        }
    }

    pub(super) fn check(&self) {
        for (at, place) in self.places.iter().enumerate() {
            place.ledger.check(at, place.session.waiting());
        }
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
            while self.carry_one(place) {}
            assert_eq!(self.places[place].session.waiting(), 0, "place {place}");
        }
    }

    pub(super) fn check_received(&self) {
        for (at, place) in self.places.iter().enumerate() {
            let mut last = BTreeMap::new();
            let mut seen = BTreeSet::new();
            for (publisher, topic, qos, number) in &place.received {
                if !seen.insert((publisher, topic, number)) {
                    let what = format!("place {at}: number {number} of {publisher} on {topic} came twice");
                    assert_eq!(*qos, QoS::AtLeastOnce, "{what}");
                    continue;
                }
                let last = last.entry((publisher, topic, qos)).or_insert(*number);
                assert!(
                    *last <= *number,
                    "place {at}: {number} on {topic} came after {last}"
                );
                *last = *number;
            }
        }
    }

    pub(super) fn drop_reasons(&self) -> impl Iterator<Item = String> {
        self.places
            .iter()
            .flat_map(|place| place.ledger.dropped.keys().cloned())
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
                if filter.parse::<TopicFilter>().expect("a filter").matches(topic) {
                    let highest = expected.entry(at).or_default();
                    *highest = (*highest).max(*qos);
                }
            }
        }
        assert_eq!(found, expected, "the subscriptions to {topic}");
        found
    }

    fn deliver(&mut self, place: usize, message: &Arc<Message>, granted: QoS, retain: bool) {
        self.places[place].ledger.accept();
        let delivery = Delivery {
            qos: message.qos.min(granted),
            message: message.clone(),
            retain,
            ..crate::harness::delivery("", QoS::AtMostOnce)
        };
        self.apply(place, |session, now, effects| {
            session.deliver(now, delivery, effects)
        });
    }

    fn subscribe(&mut self, place: usize) {
        let filter = FILTERS[self.below(FILTERS.len())];
        let packet = subscribe(filter, SubscriptionOptions::new(ALL_QOS[self.below(3)]));
        self.receive(place, packet);
    }

    fn unsubscribe(&mut self, place: usize) {
        let filter = FILTERS[self.below(FILTERS.len())];
        self.receive(
            place,
            Packet::Unsubscribe(Unsubscribe {
                packet_id: 1,
                user_properties: Vec::new(),
                filters: vec![filter.into()],
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
            at.ledger.forget_handshakes();
            at.held.clear();
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
            at.hear(packet, answers);
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
                    let name = known(filter);
                    self.subscriptions.insert(filter, place, wanted.options.qos);
                    self.places[place].subscribed.insert(name, wanted.options.qos);
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
            }
            Effect::Forget(filters) => filters.iter().for_each(|filter| self.forget(place, filter)),
            Effect::End => {
                at.ledger.forget_handshakes();
                at.held.clear();
                assert_eq!(
                    at.session.waiting(),
                    0,
                    "nothing waits in a session that has ended"
                );
                at.session = new_session(place);
            }
            other => panic!("place {place}: {other:?}"),
        }
    }

    fn forget(&mut self, place: usize, filter: &TopicFilter) {
        self.subscriptions.remove(filter, &place);
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

impl Place {
    /// The client takes a packet, and may owe the acknowledgement of a message until its next connection.
    fn hear(&mut self, packet: Packet, answers: bool) {
        match packet {
            Packet::Publish(publish) => {
                let is_new = publish.qos != QoS::ExactlyOnce || self.held.insert(publish.packet_id);
                let payload = str::from_utf8(&publish.payload).expect("text");
                if let (true, false, Some((publisher, number))) =
                    (is_new, publish.retain, payload.split_once(' '))
                {
                    self.received.push((
                        publisher.parse().expect("a number"),
                        publish.topic.to_string(),
                        publish.qos,
                        number.parse().expect("a number"),
                    ));
                }
                let ack = Ack::new(publish.packet_id.max(1), ReasonCode::Success);
                match publish.qos {
                    QoS::AtLeastOnce if answers => self.up.push_back(Packet::PubAck(ack)),
                    QoS::ExactlyOnce if answers => self.up.push_back(Packet::PubRec(ack)),
                    _ => {}
                }
            }
            Packet::PubRel(ack) => {
                self.held.remove(&ack.packet_id);
                self.up
                    .push_back(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            _ => {}
        }
    }
}

fn new_session(place: usize) -> Session {
    let config = SessionConfig {
        max_inflight: 3,
        max_queued_messages: 6,
        max_queued_bytes: 1000,
        ..SessionConfig::default()
    };
    Session::new(Arc::new(config), ByteString::from(format!("place {place}")))
}

fn known(filter: &TopicFilter) -> &'static str {
    let is_it = |known: &&&str| known.parse::<TopicFilter>().as_ref() == Ok(filter);
    FILTERS
        .iter()
        .find(is_it)
        .expect("one of those that are asked for")
}
