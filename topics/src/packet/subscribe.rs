//! SUBSCRIBE: a client asks for topics [MQTT5 3.8].

use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Property, PropertyId, PropertyReader, PropertySink, VariableNotZero};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, QoS, UserProperties};

/// A client asks for topics [MQTT5 3.8].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Never 0 [MQTT5 3.8.2].
    pub packet_id: u16,
    /// Comes back with every message that these subscriptions match; never 0 [MQTT5 3.8.2.1.2].
    pub subscription_identifier: Option<u32>,
    /// [MQTT5 3.8.2.1.3]
    pub user_properties: UserProperties,
    /// At least one [MQTT5 3.8.3].
    pub filters: Vec<SubscribeFilter>,
}

/// One filter with its options [MQTT5 3.8.3].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// A UTF-8 string that is not empty; whether its wildcards stand where they may is for the filter
    /// parser to say.
    pub filter: ByteString,
    /// Only the QoS before MQTT 5.
    pub options: SubscriptionOptions,
}

/// How a subscription is to be served [MQTT5 3.8.3.1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// The highest QoS at which the client wants messages.
    pub qos: QoS,
    /// Leave out what this client published itself; never with a shared subscription.
    pub no_local: bool,
    /// Pass the retain flag on as it was published.
    pub retain_as_published: bool,
    /// Which retained messages come with the subscription.
    pub retain_handling: RetainHandling,
}

/// Which retained messages come with a subscription [MQTT5 3.8.3.1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match, at every SUBSCRIBE; the only way before MQTT 5.
    #[default]
    SendAtSubscribe = 0,
    /// All that match, unless the subscription was there already.
    SendIfNew = 1,
    /// None.
    DoNotSend = 2,
}

impl SubscriptionOptions {
    /// The options that a subscription before MQTT 5 has: a QoS and nothing else.
    pub fn new(qos: QoS) -> Self {
        SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAtSubscribe,
        }
    }
}

impl Subscribe {
    pub(super) fn decode(mut reader: Reader, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet = PacketType::Subscribe.name();
        let mut subscribe = Subscribe {
            packet_id: reader.packet_id(packet)?,
            subscription_identifier: None,
            user_properties: UserProperties::new(),
            filters: Vec::new(),
        };
        if version == ProtocolVersion::V5 {
            subscribe.decode_properties(&mut reader)?;
        }
        while !reader.is_empty() {
            let filter = reader.topic_filter()?;
            let options = SubscriptionOptions::from_byte(reader.u8()?, version)?;
            if options.no_local && filter.starts_with("$share/") {
                return Err(DecodeError::NoLocalOnShared);
            }
            subscribe.filters.push(SubscribeFilter { filter, options });
        }
        if subscribe.filters.is_empty() {
            return Err(DecodeError::EmptyPayload { packet });
        }
        Ok(subscribe)
    }

    fn decode_properties(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader, PacketType::Subscribe.name())?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SubscriptionIdentifier(_) if self.subscription_identifier.is_some() => {
                    return Err(DecodeError::DuplicateProperty {
                        property: property.name(),
                    });
                }
                Property::SubscriptionIdentifier(VariableNotZero(value)) => {
                    self.subscription_identifier = Some(value);
                }
                Property::UserProperty(value) => self.user_properties.push(value),
                other => return Err(properties.refuse(&other)),
            }
        }
        Ok(())
    }
}

impl SubscriptionOptions {
    /// From the byte of a SUBSCRIBE.
    ///
    /// # Errors
    /// Where a bit is set that this version reserves.
    pub fn from_byte(options: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let qos = QoS::try_from(options & 0b11)?;
        let reserved = if version == ProtocolVersion::V5 {
            0b1100_0000
        } else {
            0b1111_1100
        };
        if options & reserved != 0 {
            return Err(DecodeError::SubscriptionOptions { options });
        }
        let retain_handling = match options >> 4 & 0b11 {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::SubscriptionOptions { options }),
        };
        Ok(SubscriptionOptions {
            qos,
            no_local: options & 0b0100 != 0,
            retain_as_published: options & 0b1000 != 0,
            retain_handling,
        })
    }

    /// The byte of a SUBSCRIBE. Before MQTT 5 it has room for the QoS alone.
    pub fn to_byte(self, version: ProtocolVersion) -> u8 {
        let qos = self.qos as u8;
        if version < ProtocolVersion::V5 {
            return qos;
        }
        qos | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }
}

impl Body for Subscribe {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.u16(self.packet_id);
        if version == ProtocolVersion::V5 {
            sink.section(&SubscribeProperties(self), version);
        }
        for SubscribeFilter { filter, options } in &self.filters {
            sink.sized(filter.as_bytes());
            sink.u8(options.to_byte(version));
        }
    }
}

struct SubscribeProperties<'a>(&'a Subscribe);

impl Body for SubscribeProperties<'_> {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        if let Some(value) = self.0.subscription_identifier {
            sink.property_variable(PropertyId::SubscriptionIdentifier, value);
        }
        sink.user_properties(&self.0.user_properties);
    }
}
