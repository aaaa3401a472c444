//! What is said to people beside a reason code, and how every packet is made to fit what the client takes
//! [MQTT5 3.1.2.11.4, 3.1.2.11.7].

use bytestring::ByteString;

use crate::packet::{ConnAck, ConnAckProperties, Connect, Packet, ProtocolVersion, ReasonCode};

/// How much the client wants explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Explains {
    /// Request Problem Information is 0, or the protocol has no words.
    Nothing,
    /// The client did not say. Programs read the code; a text goes with what only our own rules and
    /// limits explain.
    OwnRules,
    /// Request Problem Information is 1 in so many words: somebody wants to know.
    Everything,
}

impl Explains {
    pub(super) fn to(connect: &Connect) -> Self {
        match (connect.protocol, connect.properties.request_problem_information) {
            (ProtocolVersion::V5, None) => Self::OwnRules,
            (ProtocolVersion::V5, Some(true)) => Self::Everything,
            _ => Self::Nothing,
        }
    }
}

/// The refusal of a CONNECT, as far as its client can be told: with `why` if it may be said and fits, None
/// where not even the code does [MQTT-3.1.2-24].
pub fn refusal(connect: &Connect, reason: ReasonCode, why: &str) -> Option<Packet> {
    let least = match reason {
        ReasonCode::BadAuthenticationMethod => Explains::Everything,
        _ => Explains::OwnRules,
    };
    let reason_string = (Explains::to(connect) >= least).then(|| ByteString::from(why));
    let refusal = Packet::ConnAck(Box::new(ConnAck {
        session_present: false,
        reason,
        properties: ConnAckProperties {
            reason_string,
            ..ConnAckProperties::default()
        },
    }));
    let max_packet_bytes = connect.properties.maximum_packet_size;
    fit(
        refusal,
        connect.protocol,
        max_packet_bytes.map_or(usize::MAX, |bytes| bytes as usize),
    )
}

/// The packet, if need be without what it can do without: the words for people [MQTT-3.2.2-19],
/// [MQTT-3.4.2-2], [MQTT-3.14.2-3] and so on, the offer of response topics. None where it is still too large.
pub(super) fn fit(mut packet: Packet, version: ProtocolVersion, max_packet_bytes: usize) -> Option<Packet> {
    let is_too_large =
        |packet: &Packet| max_packet_bytes < usize::MAX && packet.encoded_len(version) > max_packet_bytes;
    if !is_too_large(&packet) {
        return Some(packet);
    }
    match &mut packet {
        Packet::ConnAck(connack) => {
            connack.properties.reason_string = None;
            connack.properties.response_information = None;
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.reason_string = None;
        }
        Packet::SubAck(ack) => ack.reason_string = None,
        Packet::Disconnect(disconnect) => disconnect.reason_string = None,
        _ => {}
    }
    (!is_too_large(&packet)).then_some(packet)
}

/// What a PUBACK or PUBREC says beside its code: a refusal may come a thousand times a second, and so words
/// only to who wants them.
pub(super) fn of_publish(explains: Explains, reason: ReasonCode) -> Option<ByteString> {
    let why = match reason {
        ReasonCode::NotAuthorized => "this client may not publish to this topic, at this QoS or retained",
        ReasonCode::QuotaExceeded => {
            "whoever owns this topic takes no more at the moment; publish again later"
        }
        _ => return None,
    };
    (explains == Explains::Everything).then(|| ByteString::from_static(why))
}

/// What a SUBACK says about the first filter that it refuses.
pub(super) fn of_subscribe(
    explains: Explains,
    reasons: &[ReasonCode],
    max_subscriptions: usize,
) -> Option<ByteString> {
    if explains < Explains::OwnRules {
        return None;
    }
    let (number, reason) = (1..).zip(reasons).find(|(_, reason)| reason.is_error())?;
    let why = match reason {
        ReasonCode::NotAuthorized => {
            "the access rules do not allow this client all that it matches".to_owned()
        }
        ReasonCode::QuotaExceeded => format!("a client has at most {max_subscriptions} subscriptions"),
        ReasonCode::TopicFilterInvalid => "it has more levels than are taken here".to_owned(),
        _ => return None,
    };
    Some(format!("filter {number}: {why}").into())
}

/// What a DISCONNECT says beside its code.
pub(super) fn of_disconnect(explains: Explains, reason: ReasonCode) -> Option<ByteString> {
    let (least, why) = match reason {
        ReasonCode::NotAuthorized => (
            Explains::OwnRules,
            "the new token was not accepted; it must be valid, and the same device's",
        ),
        ReasonCode::MaximumConnectTime => (
            Explains::OwnRules,
            "the token has ended; come back with a new one, or renew it in time, by AUTH or by a publish to \
             clawdbot/{device_id}/token",
        ),
        ReasonCode::AdministrativeAction => (
            Explains::OwnRules,
            "the owner of this hub revoked the device; pair it again with a new code",
        ),
        ReasonCode::BadAuthenticationMethod => (
            Explains::Everything,
            "authenticate again by the method that CONNECT named",
        ),
        ReasonCode::KeepAliveTimeout => (
            Explains::Everything,
            "nothing was heard for one and a half times the keep-alive",
        ),
        ReasonCode::SessionTakenOver => (
            Explains::Everything,
            "another connection came with this client identifier",
        ),
        ReasonCode::ReceiveMaximumExceeded => (
            Explains::Everything,
            "more publishes without their acknowledgement than the CONNACK's Receive Maximum",
        ),
        ReasonCode::TopicAliasInvalid => (
            Explains::Everything,
            "a topic alias above the CONNACK's Topic Alias Maximum, or 0",
        ),
        ReasonCode::PacketTooLarge => (
            Explains::Everything,
            "an answer that is due is larger than this client's Maximum Packet Size",
        ),
        ReasonCode::ServerShuttingDown => (Explains::Everything, "the daemon stops; come back later"),
        _ => return None,
    };
    (explains >= least).then(|| ByteString::from_static(why))
}
