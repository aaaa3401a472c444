//! Packets from the client that ask for something: PUBLISH with its QoS 1 and 2 handshakes from
//! the receiver's side, SUBSCRIBE and UNSUBSCRIBE.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::time::Instant;

use bytestring::ByteString;

use crate::filter::{FilterError, TopicFilter};
use crate::message::Message;
use crate::name::TopicName;
use crate::packet::{Ack, Packet, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe, Unsubscribe};

use super::effect::{Effect, Wanted};
use super::packet_ids::PacketIdHasher;
use super::rate::Rate;
use super::{Session, SessionConfig};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// QoS 1, not yet in safe hands.
    Routing1,
    /// QoS 2, not yet in safe hands.
    Routing2,
    /// QoS 2, taken over; a repeated PUBLISH is a duplicate until PUBREL [MQTT-4.3.3-10].
    Received,
}

#[derive(Clone, Copy, Debug)]
struct Unfinished {
    progress: Progress,
    /// Whether it came on the connection at hand, and so counts against the Receive Maximum: the
    /// client's quota begins anew with each connection [MQTT5 4.9].
    counted: bool,
}

/// What of the client's publishes is under way.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// By packet identifier. Most often there is one for a moment, and a map that keeps its room for the next
    /// costs no allocation.
    unfinished: HashMap<u16, Unfinished, BuildHasherDefault<PacketIdHasher>>,
    counted: usize,
    aliases: Vec<Option<TopicName>>,
    rate: Rate,
    /// What was published to last, which most often comes again. Read by a `ClientDecoder` it holds no
    /// packet's buffer.
    last_topic: Option<TopicName>,
}

impl Inbound {
    /// PUBREL: the client will not send this packet identifier as a duplicate any more. False where it
    /// cannot know yet that we have the message.
    ///
    /// An unknown identifier is released as well as a known one: after a lost PUBCOMP the client repeats
    /// its PUBREL, and an error would make it report a message as failed that was delivered
    /// [MQTT5 3.7.2.1].
    pub(super) fn release(&mut self, packet_id: u16) -> bool {
        let progress = self.unfinished.get(&packet_id).map(|entry| entry.progress);
        if progress.is_none_or(|progress| progress == Progress::Received) {
            self.finish(packet_id);
            return true;
        }
        false
    }

    /// The acknowledgement for a publish whose routing has ended.
    pub(super) fn acknowledge(&mut self, packet_id: u16, reason: ReasonCode) -> Option<Packet> {
        let entry = self.unfinished.get_mut(&packet_id)?;
        match entry.progress {
            Progress::Routing1 => {
                self.finish(packet_id);
                Some(Packet::PubAck(Ack::new(packet_id, reason)))
            }
            Progress::Routing2 if reason.is_error() => {
                self.finish(packet_id);
                Some(Packet::PubRec(Ack::new(packet_id, reason)))
            }
            Progress::Routing2 => {
                entry.progress = Progress::Received;
                // That nobody subscribed may be said, and is of no use here [MQTT5 3.5.2.1]: a repeated
                // PUBLISH is answered without knowing it any more.
                Some(Packet::PubRec(Ack::new(packet_id, ReasonCode::Success)))
            }
            Progress::Received => None,
        }
    }

    /// Aliases live as long as the connection [MQTT-3.3.2-7]; a QoS 1 publish not acknowledged will
    /// be sent again, so it is forgotten.
    pub(super) fn connection_lost(&mut self) {
        self.aliases.clear();
        self.last_topic = None;
        self.unfinished.retain(|_, entry| {
            entry.counted = false;
            entry.progress != Progress::Routing1
        });
        self.unfinished.shrink_to_fit();
        self.counted = 0;
    }

    /// Identifiers that the client used at QoS 2 and did not release: what comes under them comes again.
    pub(super) fn restore(&mut self, received: impl IntoIterator<Item = u16>) {
        self.unfinished.extend(received.into_iter().map(|packet_id| {
            let entry = Unfinished {
                progress: Progress::Received,
                counted: false,
            };
            (packet_id, entry)
        }));
    }

    pub(super) fn received(&self) -> impl Iterator<Item = u16> {
        let received = |entry: &Unfinished| entry.progress == Progress::Received;
        self.unfinished
            .iter()
            .filter(move |(_, entry)| received(entry))
            .map(|(packet_id, _)| *packet_id)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn begin(&mut self, packet_id: u16, progress: Progress) {
        self.unfinished.insert(
            packet_id,
            Unfinished {
                progress,
                counted: true,
            },
        );
        self.counted += 1;
    }

    fn finish(&mut self, packet_id: u16) {
        if self
            .unfinished
            .remove(&packet_id)
            .is_some_and(|entry| entry.counted)
        {
            self.counted -= 1;
        }
    }

    fn read_topic(&mut self, topic: ByteString, config: &SessionConfig) -> Result<TopicName, ReasonCode> {
        if let Some(last) = &self.last_topic
            && *last.as_byte_string() == topic
        {
            return Ok(last.clone());
        }
        let topic = parse(topic, config)?;
        self.last_topic = Some(topic.clone());
        Ok(topic)
    }

    fn resolve(
        &mut self,
        topic: ByteString,
        alias: Option<u16>,
        config: &SessionConfig,
    ) -> Result<TopicName, ReasonCode> {
        let Some(alias) = alias else {
            return self.read_topic(topic, config);
        };
        if alias == 0 || alias > config.topic_alias_maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let slot = usize::from(alias) - 1;
        if topic.is_empty() {
            return self
                .aliases
                .get(slot)
                .cloned()
                .flatten()
                .ok_or(ReasonCode::ProtocolError);
        }
        // Kept beyond the packet it came in, so it must not hold that buffer.
        let name = parse(topic, config)?.detached();
        if self.aliases.len() <= slot {
            self.aliases.resize(slot + 1, None);
        }
        if let Some(entry) = self.aliases.get_mut(slot) {
            *entry = Some(name.clone());
        }
        Ok(name)
    }
}

fn parse(topic: ByteString, config: &SessionConfig) -> Result<TopicName, ReasonCode> {
    let name = TopicName::parse(topic).map_err(|_| ReasonCode::TopicNameInvalid)?;
    if config.takes(name.as_str()) {
        Ok(name)
    } else {
        Err(ReasonCode::TopicNameInvalid)
    }
}

impl Session {
    pub(super) fn publish(&mut self, now: Instant, publish: Publish, effects: &mut Vec<Effect>) {
        let alias = publish.properties.as_ref().and_then(|p| p.topic_alias);
        let topic = match self.inbound.resolve(publish.topic, alias, &self.config) {
            Ok(topic) => topic,
            Err(reason) => return self.fail(reason, effects),
        };
        // Only a server sends subscription identifiers [MQTT-3.3.4-6].
        if publish
            .properties
            .as_ref()
            .is_some_and(|p| !p.subscription_identifiers.is_empty())
        {
            return self.fail(ReasonCode::ProtocolError, effects);
        }
        let bytes = topic.as_str().len() + publish.payload.len();
        if let Some(until) = self.inbound.rate.take(now, bytes, self.config.publish_rate) {
            effects.push(Effect::Pause(until));
        }
        let is_v5 = self.version() == Some(ProtocolVersion::V5);
        let packet_id = publish.packet_id;
        if publish.qos != QoS::AtMostOnce {
            match self
                .inbound
                .unfinished
                .get(&packet_id)
                .map(|entry| entry.progress)
            {
                Some(Progress::Received) if publish.qos == QoS::ExactlyOnce => {
                    let ack = Ack::new(packet_id, ReasonCode::Success);
                    return self.send(Packet::PubRec(ack), effects);
                }
                // The identifier is in use until its PUBREL [MQTT-2.2.1-3].
                Some(Progress::Received) => return self.fail(ReasonCode::ProtocolError, effects),
                // Still being routed: its acknowledgement will come.
                Some(Progress::Routing1 | Progress::Routing2) => return,
                None => {}
            }
            // Older clients were never told of a limit; packet identifiers are theirs.
            if is_v5 && self.inbound.counted >= usize::from(self.config.receive_maximum) {
                return self.fail(ReasonCode::ReceiveMaximumExceeded, effects);
            }
            let qos1 = publish.qos == QoS::AtLeastOnce;
            self.inbound.begin(
                packet_id,
                if qos1 {
                    Progress::Routing1
                } else {
                    Progress::Routing2
                },
            );
        }
        let mut message = Message::new(topic, publish.payload, publish.qos);
        message.retain = publish.retain;
        let message = message.with_properties(publish.properties, now);
        effects.push(Effect::Route { message, packet_id });
    }

    pub(super) fn subscribe(&mut self, subscribe: Subscribe, effects: &mut Vec<Effect>) {
        let identifier = subscribe.subscription_identifier;
        let is_bridge = self.link.as_ref().is_some_and(|link| link.is_bridge);
        let mut wanted = Vec::with_capacity(subscribe.filters.len());
        for asked in subscribe.filters {
            let Ok(filter) = self.read_filter(asked.filter) else {
                return self.fail(ReasonCode::MalformedPacket, effects);
            };
            let mut options = asked.options;
            options.no_local |= is_bridge;
            options.retain_as_published |= is_bridge;
            wanted.push(Wanted {
                filter,
                options,
                identifier,
                existed: false,
            });
        }
        let mut room = self
            .config
            .max_subscriptions
            .saturating_sub(self.subscriptions.len());
        let mut new = HashSet::new();
        for wanted in &mut wanted {
            let Ok(filter) = &wanted.filter else { continue };
            // Each filter as if it had come in a SUBSCRIBE of its own [MQTT-3.8.4-5].
            wanted.existed = self.subscriptions.contains_key(filter) || new.contains(filter);
            if !wanted.existed {
                match room.checked_sub(1) {
                    Some(left) => {
                        room = left;
                        new.insert(filter.clone());
                    }
                    None => wanted.filter = Err(ReasonCode::QuotaExceeded),
                }
            }
        }
        effects.push(Effect::Subscribe {
            packet_id: subscribe.packet_id,
            wanted,
        });
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: Unsubscribe, effects: &mut Vec<Effect>) {
        let mut filters = Vec::with_capacity(unsubscribe.filters.len());
        for asked in unsubscribe.filters {
            let Ok(filter) = self.read_filter(asked) else {
                return self.fail(ReasonCode::MalformedPacket, effects);
            };
            filters.push(filter.ok());
        }
        effects.push(Effect::Unsubscribe {
            packet_id: unsubscribe.packet_id,
            filters,
        });
    }

    /// The filter, or why it is refused. A misplaced wildcard is no refusal but a malformed packet
    /// [MQTT-4.7.1-1], [MQTT-4.8.2-2]: 0x8F is for filters that are well-formed [MQTT5 3.9.3].
    fn read_filter(&self, text: ByteString) -> Result<Result<TopicFilter, ReasonCode>, FilterError> {
        match TopicFilter::parse(text) {
            // Our own limits, which no specification names.
            Ok(filter) if !self.config.takes(filter.as_str()) => Ok(Err(ReasonCode::TopicFilterInvalid)),
            Ok(filter) => Ok(Ok(filter.detached())),
            Err(FilterError::TooManyLevels { .. }) => Ok(Err(ReasonCode::TopicFilterInvalid)),
            Err(error) => Err(error),
        }
    }
}
