//! The clients, their sessions, the links between them, and a broker as small as can be.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use bytestring::ByteString;
use topics::filter::TopicFilter;
use topics::message::Message;
use topics::packet::{
    Packet, ProtocolVersion, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscriptionOptions, decode,
};
use topics::retained::{RetainedBounds, RetainedStore};
use topics::session::{Delivery, Detach, Effect, Session, SessionConfig, Welcome};
use topics::shared::{Readiness, SharedSubscriptions};
use topics::subscriptions::SubscriptionTree;

use super::client::{Client, Received};
use crate::harness::{lasting, packed, v311};

const TOPICS: [&str; 4] = ["t/0", "t/1", "u", SHARED_TOPIC];

/// All clients share a subscription to it, and no wildcard of theirs matches it.
const SHARED_TOPIC: &str = "$jobs";

/// A link carries packets as bytes in order and loses all of them when it breaks.
#[derive(Default)]
struct Link {
    up: VecDeque<BytesMut>,
    down: VecDeque<BytesMut>,
    open: bool,
}

struct Place {
    client: Client,
    session: Session,
    link: Link,
}

pub(super) struct World {
    places: Vec<Place>,
    subscriptions: SubscriptionTree<usize, QoS>,
    shared: SharedSubscriptions<usize, QoS>,
    retained: RetainedStore<Arc<Message>>,
    now: Instant,
    random: u64,
    /// Payloads in the order of publication, for each publisher, topic and QoS.
    published: BTreeMap<(usize, &'static str, QoS), Vec<String>>,
}

impl World {
    /// Three clients of mixed versions and windows, each subscribed to something.
    pub(super) fn random(seed: u64) -> Self {
        let mut world = Self::empty(seed);
        for place in 0..3 {
            let version = [ProtocolVersion::V311, ProtocolVersion::V5][world.below(2)];
            let window = 1 + world.below(4) as u16;
            world.add(version, window);
            let filter = ["t/+", "#", "t/0"][world.below(3)];
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][world.below(3)];
            world.subscribe(place, filter, qos);
            world.subscribe(place, &format!("$share/g/{SHARED_TOPIC}"), QoS::ExactlyOnce);
        }
        world
    }

    /// A publisher and a subscriber.
    pub(super) fn pair(version: ProtocolVersion) -> Self {
        let mut world = Self::empty(1);
        world.add(version, 10);
        world.add(version, 10);
        world.subscribe(1, "t/0", QoS::ExactlyOnce);
        world
    }

    fn empty(seed: u64) -> Self {
        Self {
            places: Vec::new(),
            subscriptions: SubscriptionTree::new(),
            shared: SharedSubscriptions::new(),
            retained: RetainedStore::new(RetainedBounds {
                max_messages: 100,
                max_bytes: 1 << 20,
            }),
            now: Instant::now(),
            random: seed,
            published: BTreeMap::new(),
        }
    }

    fn add(&mut self, version: ProtocolVersion, receive_maximum: u16) {
        let config = SessionConfig {
            receive_maximum: 4,
            max_queued_messages: 100_000,
            ..SessionConfig::default()
        };
        let name = ByteString::from(format!("client {}", self.places.len()));
        self.places.push(Place {
            client: Client::new(version, receive_maximum),
            session: Session::new(Arc::new(config), name),
            link: Link::default(),
        });
        self.connect(self.places.len() - 1);
    }

    fn subscribe(&mut self, place: usize, filter: &str, qos: QoS) {
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: 1000,
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters: vec![SubscribeFilter {
                filter: filter.into(),
                options: SubscriptionOptions::new(qos),
            }],
        });
        self.send_up(place, vec![subscribe]);
        self.carry(usize::MAX);
    }

    /// One random thing happens.
    pub(super) fn step(&mut self) {
        let place = self.below(self.places.len());
        match self.below(20) {
            0..=3 => {
                let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.below(3)];
                let topic = TOPICS[self.below(TOPICS.len())];
                self.publish(place, topic, qos);
            }
            4 => self.cut(place),
            5 => self.take_over(place),
            6 => {
                self.connect(place);
            }
            7 => {
                let seconds = self.below(100) as u64;
                self.now += Duration::from_secs(seconds);
                self.apply(place, |session, now, effects| session.tick(now, effects));
            }
            _ => {
                self.carry_one(place);
            }
        }
    }

    pub(super) fn publish(&mut self, place: usize, topic: &'static str, qos: QoS) {
        let entry = self.published.entry((place, topic, qos)).or_default();
        let payload = format!("{} {}", series(place, qos), entry.len());
        entry.push(payload.clone());
        let client = &mut self.places[place].client;
        client.publish(topic, qos, payload);
        let packets = client.next_publishes();
        self.send_up(place, packets);
    }

    /// Carries this many packets, or until nothing is left to be carried.
    pub(super) fn carry(&mut self, most: usize) {
        let mut carried = 0;
        while carried < most {
            let before = carried;
            for place in 0..self.places.len() {
                if carried < most && self.carry_one(place) {
                    carried += 1;
                }
            }
            if carried == before {
                return;
            }
        }
    }

    pub(super) fn cut(&mut self, place: usize) {
        let Place { client, link, .. } = &mut self.places[place];
        *link = Link::default();
        client.lose_connection();
        self.apply(place, |session, now, effects| {
            session.detach(now, Detach::Lost, effects)
        });
        self.hand_on(place);
    }

    /// What waits in the group for a client that is gone goes to the others, if any is there.
    fn hand_on(&mut self, leaving: usize) {
        let connected: Vec<bool> = self.places.iter().map(|place| place.link.open).collect();
        let shared = self.shared.clone();
        let mut taken = Vec::new();
        self.places[leaving].session.hand_on(&mut |delivery| {
            let group = shared.group(delivery.share.as_ref().expect("a share"));
            let heir = group
                .expect("a group")
                .choose(|place, _| connected[*place].then_some(Readiness::Ready));
            taken.extend(heir.map(|(heir, _)| (*heir, delivery.clone())));
            heir.is_some()
        });
        for (heir, delivery) in taken {
            self.deliver(heir, delivery);
        }
    }

    /// Everybody is connected and everything is carried to its end.
    pub(super) fn settle(&mut self) {
        for place in 0..self.places.len() {
            self.connect(place);
        }
        self.carry(usize::MAX);
    }

    /// Holds what was received against what was published.
    pub(super) fn check(&self) {
        for (at, place) in self.places.iter().enumerate() {
            assert!(place.client.is_done(), "client {at} has handshakes left");
            assert_eq!(
                place.session.waiting(),
                0,
                "the session of client {at} has messages left"
            );
            for ((publisher, topic, qos), published) in &self.published {
                if *topic == SHARED_TOPIC {
                    continue;
                }
                let Some(granted) = self.granted(at, topic) else {
                    assert!(
                        place.client.received.iter().all(|r| r.topic != *topic),
                        "client {at}: {topic}"
                    );
                    continue;
                };
                let received = received_of(&place.client.received, topic, &series(*publisher, *qos));
                let what = format!("client {at} from {publisher} on {topic}, sent at {qos:?}");
                check_series(&what, *qos, granted, published, &received);
            }
        }
        self.check_shared();
    }

    /// One member or another has each message, and of QoS 2 only one has it, once. Order is kept by a
    /// member that stays, not between members.
    fn check_shared(&self) {
        for ((publisher, topic, qos), published) in &self.published {
            if *topic != SHARED_TOPIC {
                continue;
            }
            let series = series(*publisher, *qos);
            let received = self
                .places
                .iter()
                .flat_map(|place| received_of(&place.client.received, topic, &series));
            let mut received: Vec<&str> = received.collect();
            received.sort_unstable();
            let mut published: Vec<&str> = published.iter().map(String::as_str).collect();
            published.sort_unstable();
            let what = format!("the group from {publisher}, sent at {qos:?}");
            if *qos == QoS::AtLeastOnce {
                received.dedup();
            }
            if *qos == QoS::AtMostOnce {
                let in_all = received.iter().filter(|payload| published.contains(payload));
                assert_eq!(in_all.count(), received.len(), "{what}");
                assert!(received.is_sorted_by(|one, other| one < other), "{what}: twice");
            } else {
                assert_eq!(received, published, "{what}");
            }
        }
    }

    fn granted(&self, place: usize, topic: &str) -> Option<QoS> {
        let mut granted = None;
        let topic = topic.parse().expect("a topic");
        self.subscriptions.matches(&topic, &mut |key, qos| {
            if *key == place {
                granted = Some(*qos);
            }
        });
        granted
    }

    fn take_over(&mut self, place: usize) {
        let Place { client, link, .. } = &mut self.places[place];
        if link.open {
            *link = Link::default();
            client.lose_connection();
            self.apply(place, |session, now, effects| {
                session.detach(now, Detach::TakenOver, effects)
            });
            self.connect(place);
        }
    }

    fn connect(&mut self, place: usize) {
        let Place { client, link, .. } = &mut self.places[place];
        if link.open {
            return;
        }
        link.open = true;
        let mut connect = match client.version {
            ProtocolVersion::V5 => lasting(100_000),
            _ => v311(false),
        };
        if client.version == ProtocolVersion::V5 {
            connect.properties.receive_maximum = Some(client.receive_maximum);
        }
        self.apply(place, |session, now, effects| {
            session
                .attach(now, &connect, Welcome::default(), effects)
                .expect("a CONNECT in order");
        });
    }

    /// Carries one packet to or from a client; false when there is none.
    fn carry_one(&mut self, place: usize) -> bool {
        let upwards_first = self.below(2) == 0;
        let Place { client, link, .. } = &mut self.places[place];
        let first = if upwards_first { link.up.pop_front() } else { None };
        if let Some(bytes) = first.or_else(|| {
            if link.down.is_empty() {
                link.up.pop_front()
            } else {
                None
            }
        }) {
            let packet = read(bytes, client.version);
            self.apply(place, |session, now, effects| {
                session.receive(now, packet, effects)
            });
        } else if let Some(bytes) = link.down.pop_front() {
            let packet = read(bytes, client.version);
            let answers = client.receive(packet);
            self.send_up(place, answers);
        } else {
            return false;
        }
        true
    }

    fn send_up(&mut self, place: usize, packets: Vec<Packet>) {
        let Place { client, link, .. } = &mut self.places[place];
        if link.open {
            link.up
                .extend(packets.iter().map(|packet| written(packet, client.version)));
        }
    }

    /// Lets a session act and carries out what it wants.
    fn apply(&mut self, place: usize, act: impl FnOnce(&mut Session, Instant, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        act(&mut self.places[place].session, self.now, &mut effects);
        self.carry_out(place, effects);
    }

    /// The broker.
    fn carry_out(&mut self, place: usize, effects: Vec<Effect>) {
        for effect in effects {
            let mut then = Vec::new();
            match packed(effect) {
                Effect::Send(packet) => {
                    let Place { client, link, .. } = &mut self.places[place];
                    link.down.push_back(written(&packet, client.version));
                }
                Effect::Route { message, packet_id } => {
                    self.route(Arc::new(message));
                    if packet_id > 0 {
                        self.places[place]
                            .session
                            .routed(packet_id, ReasonCode::Success, &mut then);
                    }
                }
                Effect::Subscribe { packet_id, wanted } => {
                    for wanted in &wanted {
                        let filter: &TopicFilter = wanted.filter.as_ref().expect("a filter in order");
                        if filter.share_group().is_some() {
                            self.shared.insert(filter, place, wanted.options.qos);
                            continue;
                        }
                        self.subscriptions.insert(filter, place, wanted.options.qos);
                        for (_, message) in self.retained.matching(filter) {
                            self.deliver(place, copy(message, wanted.options.qos, true));
                        }
                    }
                    let granted = vec![ReasonCode::Success; wanted.len()];
                    self.places[place]
                        .session
                        .subscribed(packet_id, &wanted, granted, &mut then);
                }
                other => panic!("client {place}: {other:?}"),
            }
            self.carry_out(place, then);
        }
    }

    fn route(&mut self, message: Arc<Message>) {
        if message.retain {
            let _ = self
                .retained
                .insert(&message.topic, message.clone(), message.queued_bytes());
        }
        let mut receivers = Vec::new();
        self.subscriptions.matches(&message.topic, &mut |place, qos| {
            receivers.push((*place, copy(message.clone(), *qos, false)));
        });
        let places = &self.places;
        self.shared.matches(&message.topic, &mut |share, group| {
            let chosen = group.choose(|place, _| match places[*place].link.open {
                true => Some(Readiness::Ready),
                false => (message.qos > QoS::AtMostOnce).then_some(Readiness::Keeping),
            });
            if let Some((place, qos)) = chosen {
                let mut delivery = copy(message.clone(), *qos, false);
                delivery.share = Some(share.clone());
                receivers.push((*place, delivery));
            }
        });
        for (place, delivery) in receivers {
            self.deliver(place, delivery);
        }
    }

    fn deliver(&mut self, place: usize, delivery: Delivery) {
        let qos = delivery.qos;
        let mut effects = Vec::new();
        self.places[place]
            .session
            .deliver(self.now, delivery, &mut effects);
        // Of all that may become of a delivery, only QoS 0 for somebody away is let go here.
        effects.retain(|effect| qos != QoS::AtMostOnce || !matches!(effect, Effect::Dropped(_)));
        let Place { client, link, .. } = &mut self.places[place];
        for effect in effects {
            match packed(effect) {
                Effect::Send(packet) => link.down.push_back(written(&packet, client.version)),
                other => panic!("client {place}: {other:?}"),
            }
        }
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

fn copy(message: Arc<Message>, granted: QoS, retain: bool) -> Delivery {
    Delivery {
        qos: message.qos.min(granted),
        message,
        retain,
        subscription_identifiers: Vec::new(),
        share: None,
        kept: None,
    }
}

/// What the payloads of one publisher at one QoS begin with: order is kept among them.
fn series(publisher: usize, qos: QoS) -> String {
    format!("{publisher} {qos:?}")
}

fn received_of<'a>(all: &'a [Received], topic: &str, series: &str) -> Vec<&'a str> {
    let received = all
        .iter()
        .filter(|r| r.topic == topic && r.payload.starts_with(series));
    received.map(|r| r.payload.as_str()).collect()
}

/// Each of the two hops makes its own promise: a QoS 1 publication may be repeated to the broker and so
/// come twice even to a subscriber at QoS 0.
fn check_series(what: &str, sent: QoS, granted: QoS, published: &[String], received: &[&str]) {
    let may_repeat = sent == QoS::AtLeastOnce || (sent == QoS::ExactlyOnce && granted == QoS::AtLeastOnce);
    let mut firsts: Vec<&str> = Vec::new();
    for payload in received {
        if !may_repeat || !firsts.contains(payload) {
            firsts.push(payload);
        }
    }
    if sent == QoS::AtLeastOnce && granted == QoS::AtMostOnce {
        // What was let go the first time may come by its repetition, after younger ones.
        assert!(
            firsts
                .iter()
                .all(|payload| published.iter().any(|p| p == payload)),
            "{what}: {received:?}"
        );
    } else if sent.min(granted) == QoS::AtMostOnce {
        let mut rest = published.iter();
        let in_order = firsts.iter().all(|payload| rest.any(|p| p == payload));
        assert!(in_order, "{what}: {received:?} out of {published:?}");
    } else {
        assert_eq!(firsts, published, "{what}: all of it, in order");
    }
}

fn written(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet
        .encode(version, &mut bytes)
        .expect("a packet that can be written");
    bytes
}

fn read(mut bytes: BytesMut, version: ProtocolVersion) -> Packet {
    decode(&mut bytes, Some(version), 1 << 20)
        .expect("a packet in order")
        .expect("a whole packet")
}
