//! Packets from the client that ask for something: PUBLISH with its QoS 1 and 2 handshakes from
//! the receiver's side, and SUBSCRIBE.

use std::collections::BTreeMap;
use std::time::Instant;

use bytestring::ByteString;

use crate::filter::TopicFilter;
use crate::message::Message;
use crate::name::TopicName;
use crate::packet::{Ack, Packet, Publish, QoS, ReasonCode, Subscribe};

use super::effect::{Effect, Wanted};
use super::Session;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// QoS 1, not yet in safe hands.
    Routing1,
    /// QoS 2, not yet in safe hands.
    Routing2,
    /// QoS 2, taken over; a repeated PUBLISH is a duplicate until PUBREL [MQTT-4.3.3-10].
    Received,
}

/// What of the client's publishes is under way.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    unfinished: BTreeMap<u16, Progress>,
    aliases: Vec<Option<TopicName>>,
}

impl Inbound {
    /// PUBREL: the client will not send this packet identifier as a duplicate any more.
    pub(super) fn release(&mut self, packet_id: u16) -> ReasonCode {
        match self.unfinished.remove(&packet_id) {
            Some(_) => ReasonCode::Success,
            None => ReasonCode::PacketIdentifierNotFound,
        }
    }

    /// The acknowledgement for a publish whose routing has ended.
    pub(super) fn acknowledge(&mut self, packet_id: u16, reason: ReasonCode) -> Option<Packet> {
        match self.unfinished.get(&packet_id)? {
            Progress::Routing1 => {
                self.unfinished.remove(&packet_id);
                Some(Packet::PubAck(Ack::new(packet_id, reason)))
            }
            Progress::Routing2 => {
                if reason.is_error() {
                    self.unfinished.remove(&packet_id);
                } else {
                    self.unfinished.insert(packet_id, Progress::Received);
                }
                Some(Packet::PubRec(Ack::new(packet_id, reason)))
            }
            Progress::Received => None,
        }
    }

    /// Aliases live as long as the connection [MQTT-3.3.2-7]; a QoS 1 publish not acknowledged will
    /// be sent again, so it is forgotten.
    pub(super) fn connection_lost(&mut self) {
        self.aliases.clear();
        self.unfinished.retain(|_, progress| *progress != Progress::Routing1);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn resolve(&mut self, topic: ByteString, alias: Option<u16>, maximum: u16) -> Result<TopicName, ReasonCode> {
        let Some(alias) = alias else {
            return TopicName::parse(topic).map_err(|_| ReasonCode::TopicNameInvalid);
        };
        if alias == 0 || alias > maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let slot = usize::from(alias) - 1;
        if topic.is_empty() {
            return self.aliases.get(slot).cloned().flatten().ok_or(ReasonCode::ProtocolError);
        }
        // Kept beyond the packet it came in, so it must not hold that buffer.
        let name = TopicName::parse(topic).map_err(|_| ReasonCode::TopicNameInvalid)?.detached();
        if self.aliases.len() <= slot {
            self.aliases.resize(slot + 1, None);
        }
        if let Some(entry) = self.aliases.get_mut(slot) {
            *entry = Some(name.clone());
        }
        Ok(name)
    }
}

impl Session {
    pub(super) fn publish(&mut self, now: Instant, publish: Publish, effects: &mut Vec<Effect>) {
        let alias = publish.properties.as_ref().and_then(|p| p.topic_alias);
        let topic = match self.inbound.resolve(publish.topic, alias, self.config.topic_alias_maximum) {
            Ok(topic) => topic,
            Err(reason) => return self.fail(reason, effects),
        };
        // Only a server sends subscription identifiers [MQTT-3.3.4-6].
        if publish.properties.as_ref().is_some_and(|p| !p.subscription_identifiers.is_empty()) {
            return self.fail(ReasonCode::ProtocolError, effects);
        }
        let packet_id = publish.packet_id;
        if publish.qos != QoS::AtMostOnce {
            match self.inbound.unfinished.get(&packet_id) {
                Some(Progress::Received) if publish.qos == QoS::ExactlyOnce => {
                    let ack = Ack::new(packet_id, ReasonCode::Success);
                    return effects.push(Effect::Send(Packet::PubRec(ack)));
                }
                // Still being routed: its acknowledgement will come.
                Some(Progress::Routing1 | Progress::Routing2) => return,
                _ => {}
            }
            if self.inbound.unfinished.len() >= usize::from(self.config.receive_maximum) {
                return self.fail(ReasonCode::ReceiveMaximumExceeded, effects);
            }
            let progress =
                if publish.qos == QoS::AtLeastOnce { Progress::Routing1 } else { Progress::Routing2 };
            self.inbound.unfinished.insert(packet_id, progress);
        }
        let mut message = Message::new(topic, publish.payload, publish.qos);
        message.retain = publish.retain;
        let message = message.with_properties(publish.properties, now);
        effects.push(Effect::Route { message, packet_id });
    }

    pub(super) fn subscribe(&mut self, subscribe: Subscribe, effects: &mut Vec<Effect>) {
        let mut room = self.config.max_subscriptions.saturating_sub(self.subscriptions.len());
        let identifier = subscribe.subscription_identifier;
        let wanted = subscribe
            .filters
            .into_iter()
            .map(|asked| {
                let filter = TopicFilter::parse(asked.filter)
                    .map(|filter| filter.detached())
                    .map_err(|_| ReasonCode::TopicFilterInvalid);
                let existed = filter.as_ref().is_ok_and(|f| self.subscriptions.contains_key(f));
                let filter = filter.and_then(|filter| {
                    if filter.share_group().is_some() {
                        // Said in CONNACK too; they come with the complete message plane.
                        return Err(ReasonCode::SharedSubscriptionsNotSupported);
                    }
                    if !existed {
                        room = room.checked_sub(1).ok_or(ReasonCode::QuotaExceeded)?;
                    }
                    Ok(filter)
                });
                Wanted { filter, options: asked.options, identifier, existed }
            })
            .collect();
        effects.push(Effect::Subscribe { packet_id: subscribe.packet_id, wanted });
    }
}
