//! UNSUBSCRIBE: a client no longer wants topics [MQTT5 3.10].

use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Property, PropertyReader, PropertySink};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, UserProperties};

/// A client no longer wants topics [MQTT5 3.10].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Never 0 [MQTT5 3.10.2].
    pub packet_id: u16,
    /// [MQTT5 3.10.2.1.2]
    pub user_properties: UserProperties,
    /// At least one [MQTT5 3.10.3].
    pub filters: Vec<ByteString>,
}

impl Unsubscribe {
    pub(super) fn decode(mut reader: Reader, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet = PacketType::Unsubscribe.name();
        let packet_id = reader.packet_id(packet)?;
        let mut user_properties = UserProperties::new();
        if version == ProtocolVersion::V5 {
            let mut properties = PropertyReader::new(&mut reader, packet)?;
            while let Some(property) = properties.next()? {
                match property {
                    Property::UserProperty(value) => user_properties.push(value),
                    other => return Err(properties.refuse(&other)),
                }
            }
        }
        let mut filters = Vec::new();
        while !reader.is_empty() {
            filters.push(reader.topic_filter()?);
        }
        if filters.is_empty() {
            return Err(DecodeError::EmptyPayload { packet });
        }
        Ok(Unsubscribe {
            packet_id,
            user_properties,
            filters,
        })
    }
}

impl Body for Unsubscribe {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.u16(self.packet_id);
        if version == ProtocolVersion::V5 {
            sink.section(&UnsubscribeProperties(&self.user_properties), version);
        }
        for filter in &self.filters {
            sink.sized(filter.as_bytes());
        }
    }
}

struct UnsubscribeProperties<'a>(&'a UserProperties);

impl Body for UnsubscribeProperties<'_> {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        sink.user_properties(self.0);
    }
}
