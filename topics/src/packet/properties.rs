//! Properties, which MQTT 5 added to nearly every packet [MQTT5 2.2.2].
//!
//! Each packet matches on the properties that it knows and refuses the rest, so that its own file shows
//! which they are.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, QoS, UserProperties};

/// Declares the properties once: number, type and name as in the specification's table.
macro_rules! properties {
    ($($id:literal $variant:ident($value:ty) $name:literal;)*) => {
        /// The number of a property [MQTT5 2.2.2.2].
        #[derive(Clone, Copy)]
        #[repr(u8)]
        pub(super) enum PropertyId {
            $($variant = $id,)*
        }

        /// A property with its value.
        pub(super) enum Property {
            $($variant($value),)*
        }

        impl Property {
            fn read(id: u32, reader: &mut Reader) -> Result<Self, DecodeError> {
                match id {
                    $($id => Ok(Property::$variant(<$value>::read(reader, $name)?)),)*
                    id => Err(DecodeError::UnknownProperty { id }),
                }
            }

            fn id(&self) -> PropertyId {
                match self {
                    $(Property::$variant(_) => PropertyId::$variant,)*
                }
            }

            pub(super) fn name(&self) -> &'static str {
                match self {
                    $(Property::$variant(_) => $name,)*
                }
            }
        }
    };
}

properties! {
    0x01 PayloadFormatIndicator(bool) "Payload Format Indicator";
    0x02 MessageExpiryInterval(u32) "Message Expiry Interval";
    0x03 ContentType(ByteString) "Content Type";
    0x08 ResponseTopic(ByteString) "Response Topic";
    0x09 CorrelationData(Bytes) "Correlation Data";
    0x0B SubscriptionIdentifier(VariableNotZero) "Subscription Identifier";
    0x11 SessionExpiryInterval(u32) "Session Expiry Interval";
    0x12 AssignedClientIdentifier(ByteString) "Assigned Client Identifier";
    0x13 ServerKeepAlive(u16) "Server Keep Alive";
    0x15 AuthenticationMethod(ByteString) "Authentication Method";
    0x16 AuthenticationData(Bytes) "Authentication Data";
    0x17 RequestProblemInformation(bool) "Request Problem Information";
    0x18 WillDelayInterval(u32) "Will Delay Interval";
    0x19 RequestResponseInformation(bool) "Request Response Information";
    0x1A ResponseInformation(ByteString) "Response Information";
    0x1C ServerReference(ByteString) "Server Reference";
    0x1F ReasonString(ByteString) "Reason String";
    0x21 ReceiveMaximum(NonZeroU16) "Receive Maximum";
    0x22 TopicAliasMaximum(u16) "Topic Alias Maximum";
    0x23 TopicAlias(u16) "Topic Alias";
    0x24 MaximumQoS(QoS) "Maximum QoS";
    0x25 RetainAvailable(bool) "Retain Available";
    0x26 UserProperty(UserProperty) "User Property";
    0x27 MaximumPacketSize(NonZeroU32) "Maximum Packet Size";
    0x28 WildcardSubscriptionAvailable(bool) "Wildcard Subscription Available";
    0x29 SubscriptionIdentifiersAvailable(bool) "Subscription Identifiers Available";
    0x2A SharedSubscriptionAvailable(bool) "Shared Subscription Available";
}

pub(super) type UserProperty = (ByteString, ByteString);

/// The variable byte integer of a subscription identifier.
pub(super) struct VariableNotZero(pub(super) u32);

/// Walks through a packet's properties.
pub(super) struct PropertyReader {
    section: Reader,
    packet: &'static str,
    /// A bit for each number that was there; they end at 0x2A.
    seen: u64,
}

impl PropertyReader {
    /// The properties at this place of the packet, which begin with their length [MQTT5 2.2.2.1].
    pub(super) fn new(reader: &mut Reader, packet: &'static str) -> Result<Self, DecodeError> {
        let length = reader.variable()? as usize;
        Ok(PropertyReader {
            section: reader.section(length)?,
            packet,
            seen: 0,
        })
    }

    /// The next property. Only user properties and subscription identifiers come more than once, and of
    /// the latter a SUBSCRIBE takes only one.
    pub(super) fn next(&mut self) -> Result<Option<Property>, DecodeError> {
        if self.section.is_empty() {
            return Ok(None);
        }
        let id = self.section.variable()?;
        let property = Property::read(id, &mut self.section)?;
        let bit = 1 << property.id() as u8;
        let may_repeat = matches!(
            property,
            Property::UserProperty(_) | Property::SubscriptionIdentifier(_)
        );
        if self.seen & bit != 0 && !may_repeat {
            return Err(DecodeError::DuplicateProperty {
                property: property.name(),
            });
        }
        self.seen |= bit;
        Ok(Some(property))
    }

    /// What to say of a property that this packet does not know.
    pub(super) fn refuse(&self, property: &Property) -> DecodeError {
        DecodeError::PropertyNotAllowed {
            property: property.name(),
            packet: self.packet,
        }
    }
}

/// The two properties that every answer has: a text for people, and what the application adds.
#[derive(Default)]
pub(super) struct Explanation {
    pub(super) reason_string: Option<ByteString>,
    pub(super) user_properties: UserProperties,
}

impl Explanation {
    pub(super) fn read(reader: &mut Reader, packet: &'static str) -> Result<Self, DecodeError> {
        let mut explanation = Explanation::default();
        let mut properties = PropertyReader::new(reader, packet)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::ReasonString(value) => explanation.reason_string = Some(value),
                Property::UserProperty(value) => explanation.user_properties.push(value),
                other => return Err(properties.refuse(&other)),
            }
        }
        Ok(explanation)
    }
}

/// The same two for writing.
pub(super) struct ExplanationOf<'a> {
    pub(super) reason_string: &'a Option<ByteString>,
    pub(super) user_properties: &'a UserProperties,
}

impl ExplanationOf<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

impl Body for ExplanationOf<'_> {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        sink.property_text(PropertyId::ReasonString, self.reason_string);
        sink.user_properties(self.user_properties);
    }
}

/// A type of value that a property can have.
trait Value: Sized {
    fn read(reader: &mut Reader, property: &'static str) -> Result<Self, DecodeError>;
}

impl Value for bool {
    fn read(reader: &mut Reader, property: &'static str) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::PropertyValue { property }),
        }
    }
}

impl Value for QoS {
    fn read(reader: &mut Reader, property: &'static str) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            // A maximum of 2 is no limit, and is said by saying nothing [MQTT5 3.2.2.3.4].
            _ => Err(DecodeError::PropertyValue { property }),
        }
    }
}

impl Value for u16 {
    fn read(reader: &mut Reader, _property: &'static str) -> Result<Self, DecodeError> {
        reader.u16()
    }
}

impl Value for u32 {
    fn read(reader: &mut Reader, _property: &'static str) -> Result<Self, DecodeError> {
        reader.u32()
    }
}

impl Value for NonZeroU16 {
    fn read(reader: &mut Reader, property: &'static str) -> Result<Self, DecodeError> {
        NonZeroU16::new(reader.u16()?).ok_or(DecodeError::PropertyValue { property })
    }
}

impl Value for NonZeroU32 {
    fn read(reader: &mut Reader, property: &'static str) -> Result<Self, DecodeError> {
        NonZeroU32::new(reader.u32()?).ok_or(DecodeError::PropertyValue { property })
    }
}

impl Value for VariableNotZero {
    fn read(reader: &mut Reader, property: &'static str) -> Result<Self, DecodeError> {
        match reader.variable()? {
            0 => Err(DecodeError::PropertyValue { property }),
            value => Ok(VariableNotZero(value)),
        }
    }
}

impl Value for ByteString {
    fn read(reader: &mut Reader, _property: &'static str) -> Result<Self, DecodeError> {
        reader.text()
    }
}

impl Value for Bytes {
    fn read(reader: &mut Reader, _property: &'static str) -> Result<Self, DecodeError> {
        reader.binary()
    }
}

impl Value for UserProperty {
    fn read(reader: &mut Reader, _property: &'static str) -> Result<Self, DecodeError> {
        Ok((reader.text()?, reader.text()?))
    }
}

/// Writes properties; an absent one leaves no trace.
pub(super) trait PropertySink: Sink {
    fn property_bool(&mut self, id: PropertyId, value: Option<bool>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u8(u8::from(value));
        }
    }

    fn property_u16(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u16(value);
        }
    }

    fn property_u32(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u32(value);
        }
    }

    fn property_variable(&mut self, id: PropertyId, value: u32) {
        self.u8(id as u8);
        self.variable(value);
    }

    fn property_text(&mut self, id: PropertyId, value: &Option<ByteString>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.sized(value.as_bytes());
        }
    }

    fn property_binary(&mut self, id: PropertyId, value: &Option<Bytes>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.sized(value);
        }
    }

    fn user_properties(&mut self, user_properties: &UserProperties) {
        for (name, value) in user_properties {
            self.u8(PropertyId::UserProperty as u8);
            self.sized(name.as_bytes());
            self.sized(value.as_bytes());
        }
    }
}

impl<S: Sink> PropertySink for S {}
