//! Plays steps to one broker, each to its end, and writes down what every client saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use topics::filter::TopicFilter;
use topics::name::TopicName;
use topics::packet::{
    Packet, ProtocolVersion, QoS, RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions,
    Unsubscribe,
};

use super::client::{Client, Delivery};
use super::steps::{CLIENTS, Connecting, Filter, MEMBERS, Publication, Step, version_of};

/// How many steps a client may be silent, so that what it owes stays within every broker's window.
const SILENT_STEPS: usize = 6;

/// What was seen in one step, by client.
pub(crate) type Seen = BTreeMap<String, Vec<String>>;

pub(crate) struct Player {
    broker: SocketAddr,
    clients: Vec<Client>,
    states: Vec<State>,
    members: Vec<Client>,
    /// Subscribed to everything and always there: it tells when a will has been published.
    watcher: Client,
    step: usize,
}

/// What a client needs to know of itself to stay within the law.
#[derive(Clone, Default)]
struct State {
    how: Option<Connecting>,
    /// Seconds that the session outlives the connection, as agreed last.
    expiry_s: u32,
    will_payload: String,
    /// With the options that these subscriptions were made with.
    subscribed: BTreeMap<&'static str, SubscriptionOptions>,
    silent_steps: usize,
}

impl State {
    fn get_it<'a>(&'a self, topic: &str) -> impl Iterator<Item = &'a SubscriptionOptions> {
        let topic: TopicName = topic.parse().expect("a topic");
        let matching = self.subscribed.iter().filter(move |(filter, _)| {
            let filter: TopicFilter = filter.parse().expect("a filter");
            filter.matches(&topic)
        });
        matching.map(|(_, options)| options)
    }

    /// While the client was away, a broker that makes a copy for each subscription drops those at QoS 0, and
    /// what these subscriptions asked for with them; one that makes a single copy has it all in that.
    fn leave_open_what_waited(&self, delivery: &mut Delivery) {
        if self
            .get_it(&delivery.topic)
            .any(|options| options.qos == QoS::AtMostOnce)
        {
            delivery.identifiers.clear();
            delivery.retain = false;
        }
    }
}

impl Player {
    pub(crate) fn new(broker: SocketAddr) -> Self {
        let lasting = Connecting {
            clean_start: true,
            expiry_s: 0,
            receive_maximum: None,
            topic_alias_maximum: None,
            will: None,
        };
        let mut watcher = Client::new("watcher", ProtocolVersion::V5);
        watcher.connect(broker, &lasting, "");
        let everything = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            retain_handling: RetainHandling::SendAtSubscribe,
        };
        subscribe(&mut watcher, None, &[("#", everything)]);
        let mut player = Self {
            broker,
            clients: (0..CLIENTS)
                .map(|client| Client::new(&format!("client{client}"), version_of(client)))
                .collect(),
            states: vec![State::default(); CLIENTS],
            members: (0..MEMBERS)
                .map(|member| Client::new(&format!("member{member}"), ProtocolVersion::V5))
                .collect(),
            watcher,
            step: 0,
        };
        for member in &mut player.members {
            member.connect(broker, &lasting, "");
        }
        for client in player.members.iter_mut().chain([&mut player.watcher]) {
            follow_marker(client);
        }
        player
    }

    /// Takes a step, if it can be taken now, and waits until everything that comes of it has come.
    pub(crate) fn play(&mut self, step: &Step) -> Seen {
        self.step += 1;
        self.take(step);
        for client in 0..CLIENTS {
            if self.clients[client].silence.is_some() {
                self.states[client].silent_steps += 1;
                if self.states[client].silent_steps > SILENT_STEPS {
                    self.clients[client].speak_again();
                }
            }
        }
        self.settle();
        self.seen()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Connect { client, how } if !self.clients[*client].is_connected() => {
                self.connect(*client, how)
            }
            Step::TakeOver { client, how } if self.is_without_will(*client) => {
                // What it acknowledged last is read before the new connection is.
                self.clients[*client].ping();
                self.connect(*client, how);
            }
            Step::Disconnect {
                client,
                expiry_s,
                with_will,
            } if self.clients[*client].is_connected() => self.disconnect(*client, *expiry_s, *with_will),
            Step::Lose { client } if self.clients[*client].is_connected() => self.lose(*client),
            Step::Subscribe {
                client,
                identifier,
                filters,
            } if self.clients[*client].is_connected() => self.subscribe(*client, *identifier, filters),
            Step::Unsubscribe { client, filters } if self.clients[*client].is_connected() => {
                for filter in filters {
                    self.states[*client].subscribed.remove(filter);
                }
                unsubscribe(&mut self.clients[*client], filters);
            }
            Step::Publish { client, what } if self.clients[*client].is_connected() => {
                let payload = self.payload();
                self.clients[*client].publish(what, &payload);
            }
            Step::PublishTwice { client, what } if self.may_publish_twice(*client, what) => {
                self.publish_twice(*client, what);
            }
            Step::FallSilent { client, silence } if self.may_fall_silent(*client) => {
                self.clients[*client].silence = Some(*silence);
                self.states[*client].silent_steps = 0;
            }
            Step::SpeakAgain { client } if self.clients[*client].silence.is_some() => {
                self.clients[*client].speak_again();
            }
            Step::Join {
                member,
                group,
                filter,
            } => {
                let filter = format!("$share/{group}/{filter}");
                let options = SubscriptionOptions::new(QoS::ExactlyOnce);
                subscribe(&mut self.members[*member], None, &[(&filter, options)]);
            }
            Step::Part {
                member,
                group,
                filter,
            } => {
                unsubscribe(&mut self.members[*member], &[&format!("$share/{group}/{filter}")]);
            }
            _ => {}
        }
    }

    fn connect(&mut self, client: usize, how: &Connecting) {
        let payload = self.payload();
        let state = &mut self.states[client];
        if how.clean_start || state.expiry_s == 0 {
            state.subscribed.clear();
        }
        state.expiry_s = if self.clients[client].version == ProtocolVersion::V5 {
            how.expiry_s
        } else {
            u32::from(!how.clean_start)
        };
        state.how = Some(how.clone());
        self.clients[client].connect(self.broker, how, &payload);
        state.will_payload = payload;
        follow_marker(&mut self.clients[client]);
    }

    fn disconnect(&mut self, client: usize, expiry_s: Option<u32>, with_will: bool) {
        let is_v5 = self.clients[client].version == ProtocolVersion::V5;
        let state = &mut self.states[client];
        // A session that was to end with its connection may not be prolonged [MQTT5 3.14.2.2.2].
        let expiry_s = expiry_s.filter(|_| is_v5 && state.expiry_s > 0);
        state.expiry_s = expiry_s.unwrap_or(state.expiry_s);
        self.clients[client].disconnect(expiry_s, with_will);
        if is_v5 && with_will {
            self.see_will(client);
        }
    }

    fn lose(&mut self, client: usize) {
        self.clients[client].lose_connection();
        self.see_will(client);
    }

    /// Nobody says when a will has been published, so it is waited for wherever it must come: a broker that
    /// routes on several threads need not have told everybody when the first one hears of it.
    fn see_will(&mut self, client: usize) {
        let state = &self.states[client];
        if state.how.as_ref().is_none_or(|how| how.will.is_none()) {
            return;
        }
        let (topic, payload) = (self.clients[client].will_topic(), &state.will_payload);
        self.watcher.read_to_message(&topic, payload);
        for (client, state) in self.clients.iter_mut().zip(&self.states) {
            if client.is_connected() && state.get_it(&topic).next().is_some() {
                client.read_to_message(&topic, payload);
            }
        }
    }

    fn subscribe(&mut self, client: usize, identifier: Option<u32>, filters: &[Filter]) {
        let is_v5 = self.clients[client].version == ProtocolVersion::V5;
        let wanted: Vec<_> = filters
            .iter()
            .map(|filter| {
                let mut options = SubscriptionOptions::new(filter.qos);
                let known = self.states[client].subscribed.get(filter.filter);
                if is_v5 {
                    // Mosquitto 2.0.11 keeps these two from the first SUBSCRIBE instead of replacing them
                    // [MQTT-3.8.4-3], so nobody asks for others.
                    options.no_local = known.map_or(filter.no_local, |known| known.no_local);
                    options.retain_as_published =
                        known.map_or(filter.retain_as_published, |known| known.retain_as_published);
                    options.retain_handling = filter.retain_handling;
                }
                self.states[client].subscribed.insert(filter.filter, options);
                (filter.filter, options)
            })
            .collect();
        subscribe(&mut self.clients[client], identifier.filter(|_| is_v5), &wanted);
    }

    /// A client that gets its own message could see it before or after it lost its connection.
    fn may_publish_twice(&self, client: usize, what: &Publication) -> bool {
        self.clients[client].is_connected()
            && self.clients[client].silence.is_none()
            && self.states[client].expiry_s > 0
            && what.qos != QoS::AtMostOnce
            && self.states[client].get_it(what.topic).next().is_none()
    }

    fn publish_twice(&mut self, client: usize, what: &Publication) {
        let payload = self.payload();
        let again = self.clients[client].publish_and_lose_connection(what, &payload);
        self.see_will(client);
        let mut how = self.states[client].how.clone().expect("it was connected");
        how.clean_start = false;
        self.connect(client, &how);
        self.clients[client].publish_again(again);
    }

    fn may_fall_silent(&self, client: usize) -> bool {
        let has_full_window = |how: &Connecting| how.receive_maximum.is_none();
        self.clients[client].is_connected()
            && self.clients[client].silence.is_none()
            && self.states[client].how.as_ref().is_some_and(has_full_window)
    }

    fn is_without_will(&self, client: usize) -> bool {
        let has_none = |how: &Connecting| how.will.is_none();
        self.clients[client].is_connected() && self.states[client].how.as_ref().is_some_and(has_none)
    }

    fn payload(&self) -> String {
        format!("step {}", self.step)
    }

    /// Everybody who is there gets a marker at QoS 1, which comes after all that was sent to him before.
    fn settle(&mut self) {
        let payload = self.payload();
        let Self {
            clients,
            members,
            watcher,
            ..
        } = self;
        let mut present: Vec<&mut Client> = clients
            .iter_mut()
            .chain(members)
            .filter(|c| c.is_connected())
            .collect();
        let topics = present
            .iter()
            .map(|c| c.marker_topic())
            .chain([watcher.marker_topic()]);
        for topic in topics.collect::<Vec<_>>() {
            watcher.publish_marker(&topic, &payload);
        }
        for client in &mut present {
            client.read_to_marker(&payload);
        }
        watcher.read_to_marker(&payload);
    }

    fn seen(&mut self) -> Seen {
        let mut seen = Seen::new();
        for (at, client) in self.clients.iter_mut().chain([&mut self.watcher]).enumerate() {
            let mut lines = std::mem::take(&mut client.events);
            let mut deliveries = merged(std::mem::take(&mut client.deliveries));
            if let Some(state) = self.states.get(at).filter(|_| !lines.is_empty()) {
                for delivery in &mut deliveries {
                    state.leave_open_what_waited(delivery);
                }
            }
            lines.extend(described(deliveries));
            if !lines.is_empty() {
                seen.insert(client.name.clone(), lines);
            }
        }
        // Which member has a message is the broker's choice [MQTT5 4.8.2]; how many have it is not.
        let mut lines = Vec::new();
        for member in &mut self.members {
            lines.append(&mut member.events);
            lines.extend(described(std::mem::take(&mut member.deliveries)));
        }
        lines.sort();
        if !lines.is_empty() {
            seen.insert("members".to_owned(), lines);
        }
        seen
    }
}

fn follow_marker(client: &mut Client) {
    let topic = client.marker_topic();
    subscribe(
        client,
        None,
        &[(&topic, SubscriptionOptions::new(QoS::AtLeastOnce))],
    );
}

fn subscribe(client: &mut Client, identifier: Option<u32>, filters: &[(&str, SubscriptionOptions)]) {
    let packet = Packet::Subscribe(Subscribe {
        packet_id: client.next_packet_id(),
        subscription_identifier: identifier,
        user_properties: Vec::new(),
        filters: filters
            .iter()
            .map(|(filter, options)| SubscribeFilter {
                filter: (*filter).into(),
                options: *options,
            })
            .collect(),
    });
    client.ask(&packet, |answer| match answer {
        Packet::SubAck(suback) => Some(format!("SUBACK {:?}", suback.reasons)),
        _ => None,
    });
}

fn unsubscribe(client: &mut Client, filters: &[&str]) {
    let packet = Packet::Unsubscribe(Unsubscribe {
        packet_id: client.next_packet_id(),
        user_properties: Vec::new(),
        filters: filters.iter().map(|filter| (*filter).into()).collect(),
    });
    // Where there was nothing to unsubscribe from, Mosquitto does not always say so [MQTT5 3.11.3].
    client.ask(&packet, |answer| match answer {
        Packet::UnsubAck(unsuback) => {
            let refused = unsuback.reasons.iter().filter(|reason| **reason as u8 >= 0x80);
            Some(format!("UNSUBACK with {} refusals", refused.count()))
        }
        _ => None,
    });
}

/// A message that matched several subscriptions may come once or once for each [MQTT5 3.3.4]: taken
/// together, the copies have the highest QoS and all identifiers.
fn merged(deliveries: Vec<Delivery>) -> Vec<Delivery> {
    let mut merged: Vec<Delivery> = Vec::new();
    for delivery in deliveries {
        let is_copy =
            |other: &&mut Delivery| other.topic == delivery.topic && other.payload == delivery.payload;
        match merged.iter_mut().find(is_copy) {
            Some(one) => {
                one.qos = one.qos.max(delivery.qos);
                one.retain |= delivery.retain;
                one.dup |= delivery.dup;
                one.identifiers.extend(delivery.identifiers);
            }
            None => merged.push(delivery),
        }
    }
    // The order of messages on different topics is nobody's promise [MQTT5 4.6].
    merged.sort_by(|one, other| one.topic.cmp(&other.topic));
    merged
}

fn described(deliveries: Vec<Delivery>) -> impl Iterator<Item = String> {
    deliveries.into_iter().map(|mut delivery| {
        // Seconds that it waited are taken off [MQTT-3.3.2-6].
        if let Some(left_s @ 800..900) = &mut delivery.properties.message_expiry_interval_s {
            *left_s = 900;
        }
        format!("{delivery:?}")
    })
}
