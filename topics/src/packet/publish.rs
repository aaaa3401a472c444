//! PUBLISH: a message on its way [MQTT5 3.3].

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Property, PropertyId, PropertyReader, PropertySink, VariableNotZero};
use super::wire::{self, Body, Reader, Sink, has_wildcards};
use super::{DecodeError, EncodeError, ProtocolVersion, QoS, UserProperties};

/// A message on its way, in either direction [MQTT5 3.3].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Possibly sent before; never with QoS 0 [MQTT5 3.3.1.1].
    pub dup: bool,
    /// [MQTT5 3.3.1.2]
    pub qos: QoS,
    /// [MQTT5 3.3.1.3]
    pub retain: bool,
    /// Without wildcards; empty only where `topic_alias` stands for it [MQTT5 3.3.2.1].
    pub topic: ByteString,
    /// 0 at QoS 0, otherwise never 0 [MQTT5 3.3.2.2].
    pub packet_id: u16,
    /// None where there are none, and always before MQTT 5: most messages pay one word for them.
    pub properties: Option<Box<PublishProperties>>,
    /// [MQTT5 3.3.3]
    pub payload: Bytes,
}

/// The properties of a PUBLISH, and of a will but for its delay [MQTT5 3.3.2.3].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// True promises a payload of UTF-8 text [MQTT5 3.3.2.3.2].
    pub payload_format_is_utf8: Option<bool>,
    /// The message's lifetime in seconds; here also a request's deadline [MQTT5 3.3.2.3.3].
    pub message_expiry_interval_s: Option<u32>,
    /// A number in the topic's place, for this connection only; never 0, never in a will [MQTT5 3.3.2.3.4].
    pub topic_alias: Option<u16>,
    /// Where an answer is awaited; without wildcards [MQTT5 3.3.2.3.5].
    pub response_topic: Option<ByteString>,
    /// Tells the asker which request an answer belongs to [MQTT5 3.3.2.3.6].
    pub correlation_data: Option<Bytes>,
    /// Only from server to client, one for each subscription that matched; never in a will
    /// [MQTT5 3.3.2.3.8].
    pub subscription_identifiers: Vec<u32>,
    /// [MQTT5 3.3.2.3.7]
    pub user_properties: UserProperties,
    /// [MQTT5 3.3.2.3.9]
    pub content_type: Option<ByteString>,
}

impl PublishProperties {
    /// Whether nothing would be written for these properties.
    pub fn is_empty(&self) -> bool {
        let PublishProperties {
            payload_format_is_utf8,
            message_expiry_interval_s,
            topic_alias,
            response_topic,
            correlation_data,
            subscription_identifiers,
            user_properties,
            content_type,
        } = self;
        payload_format_is_utf8.is_none()
            && message_expiry_interval_s.is_none()
            && topic_alias.is_none()
            && response_topic.is_none()
            && correlation_data.is_none()
            && subscription_identifiers.is_empty()
            && user_properties.is_empty()
            && content_type.is_none()
    }
}

impl Publish {
    /// Appends the packet to `out` as `version` has it: properties are left out before MQTT 5. Nothing is
    /// allocated but room in `out`.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        if self.qos > QoS::AtMostOnce && self.packet_id == 0 {
            return Err(EncodeError::PacketIdZero);
        }
        if self.topic.is_empty() && version < ProtocolVersion::V5 {
            return Err(EncodeError::NotInVersion {
                what: "a topic alias",
            });
        }
        match &self.properties {
            Some(_) if version == ProtocolVersion::V5 => wire::encode(self.first_byte(), self, version, out),
            _ => self.encode_plain(version, out),
        }
    }

    /// Writes a packet without properties, as most messages are, in as few pieces as it has.
    fn encode_plain(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        Plain {
            first_byte: self.first_byte(),
            topic: &self.topic,
            packet_id: if self.qos > QoS::AtMostOnce {
                self.packet_id
            } else {
                0
            },
            payload: &self.payload,
        }
        .encode(version, out)
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        wire::encoded_len(self, version)
    }

    pub(super) fn decode(
        mut reader: Reader,
        version: ProtocolVersion,
        flags: u8,
        known_topic: &ByteString,
    ) -> Result<Self, DecodeError> {
        let packet = PacketType::Publish.name();
        let qos = QoS::try_from(flags >> 1 & 0b11)?;
        let dup = flags & 0b1000 != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::DupAtQoS0);
        }
        let topic = reader.topic_or(known_topic)?;
        let packet_id = if qos == QoS::AtMostOnce {
            0
        } else {
            reader.packet_id(packet)?
        };
        let properties = match version {
            ProtocolVersion::V5 => PublishProperties::decode(&mut reader)?,
            _ => None,
        };
        let has_alias = properties
            .as_ref()
            .is_some_and(|properties| properties.topic_alias.is_some());
        if topic.is_empty() && !has_alias {
            return Err(DecodeError::TopicName);
        }
        let retain = flags & 0b0001 != 0;
        Ok(Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            properties,
            payload: reader.rest(),
        })
    }

    fn first_byte(&self) -> u8 {
        first_byte(self.dup, self.qos, self.retain)
    }
}

/// A PUBLISH without properties, of which nothing is owned.
pub(crate) struct Plain<'a> {
    first_byte: u8,
    topic: &'a str,
    packet_id: u16,
    payload: &'a [u8],
}

impl<'a> Plain<'a> {
    /// A packet identifier of 0 at QoS 0, and of none else.
    pub(crate) fn new(qos: QoS, retain: bool, topic: &'a str, packet_id: u16, payload: &'a [u8]) -> Self {
        Self {
            first_byte: first_byte(false, qos, retain),
            topic,
            packet_id,
            payload,
        }
    }

    pub(crate) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let topic_bytes = u16::try_from(self.topic.len()).map_err(|_| EncodeError::FieldTooLong)?;
        let packet_id = self.packet_id.to_be_bytes();
        let after_topic = match (self.packet_id != 0, version == ProtocolVersion::V5) {
            (false, false) => &[][..],
            (true, false) => &packet_id[..],
            (false, true) => &[0][..],
            (true, true) => &[packet_id[0], packet_id[1], 0][..],
        };
        let remaining_bytes = 2 + self.topic.len() + after_topic.len() + self.payload.len();
        wire::begin(self.first_byte, remaining_bytes, topic_bytes, out)?;
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(after_topic);
        out.extend_from_slice(self.payload);
        Ok(())
    }
}

fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    PacketType::Publish.first_byte() | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(retain)
}

impl Body for Publish {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.sized(self.topic.as_bytes());
        if self.qos > QoS::AtMostOnce {
            sink.u16(self.packet_id);
        }
        if version == ProtocolVersion::V5 {
            match &self.properties {
                Some(properties) => sink.section(&**properties, version),
                None => sink.variable(0),
            }
        }
        sink.raw(&self.payload);
    }
}

impl PublishProperties {
    fn decode(reader: &mut Reader) -> Result<Option<Box<Self>>, DecodeError> {
        let mut found: Option<Box<Self>> = None;
        let mut properties = PropertyReader::new(reader, PacketType::Publish.name())?;
        while let Some(property) = properties.next()? {
            let publish = found.get_or_insert_default();
            match property {
                Property::TopicAlias(0) => return Err(DecodeError::TopicAliasZero),
                Property::TopicAlias(value) => publish.topic_alias = Some(value),
                Property::SubscriptionIdentifier(VariableNotZero(value)) => {
                    publish.subscription_identifiers.push(value);
                }
                other => publish.take(other, &properties)?,
            }
        }
        Ok(found)
    }

    /// Takes what describes a message, in a PUBLISH as in a will, and refuses the rest.
    pub(super) fn take(
        &mut self,
        property: Property,
        properties: &PropertyReader,
    ) -> Result<(), DecodeError> {
        match property {
            Property::PayloadFormatIndicator(value) => self.payload_format_is_utf8 = Some(value),
            Property::MessageExpiryInterval(value) => self.message_expiry_interval_s = Some(value),
            Property::ContentType(value) => self.content_type = Some(value),
            Property::ResponseTopic(value) if value.is_empty() || has_wildcards(&value) => {
                return Err(DecodeError::ResponseTopic);
            }
            Property::ResponseTopic(value) => self.response_topic = Some(value),
            Property::CorrelationData(value) => self.correlation_data = Some(value),
            Property::UserProperty(value) => self.user_properties.push(value),
            other => return Err(properties.refuse(&other)),
        }
        Ok(())
    }
}

impl Body for PublishProperties {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        sink.property_bool(PropertyId::PayloadFormatIndicator, self.payload_format_is_utf8);
        sink.property_u32(PropertyId::MessageExpiryInterval, self.message_expiry_interval_s);
        sink.property_u16(PropertyId::TopicAlias, self.topic_alias);
        sink.property_text(PropertyId::ResponseTopic, &self.response_topic);
        sink.property_binary(PropertyId::CorrelationData, &self.correlation_data);
        for &value in &self.subscription_identifiers {
            sink.property_variable(PropertyId::SubscriptionIdentifier, value);
        }
        sink.property_text(PropertyId::ContentType, &self.content_type);
        sink.user_properties(&self.user_properties);
    }
}
