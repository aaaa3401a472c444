//! A packet of ours as rumqttd has it: the same fields under its names, so that its own `PartialEq` decides.

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;
use rumqttd::protocol as theirs;
use topics::packet::*;

/// What rumqttd has no words for.
#[derive(Debug)]
pub(super) enum Untranslatable {
    /// It lacks the packet.
    Auth,
    /// Passwords are text to it.
    BinaryPassword,
}

pub(super) fn translate(packet: &Packet, version: ProtocolVersion) -> Result<theirs::Packet, Untranslatable> {
    Ok(match packet {
        Packet::Connect(packet) => connect(packet)?,
        Packet::ConnAck(packet) => connack(packet, version),
        Packet::Publish(packet) => theirs::Packet::Publish(
            publish(packet),
            packet.properties.as_deref().map(publish_properties),
        ),
        Packet::PubAck(ack) => theirs::Packet::PubAck(
            theirs::PubAck {
                pkid: ack.packet_id,
                reason: puback_reason(ack.reason),
            },
            explained(ack).map(|(reason_string, user_properties)| theirs::PubAckProperties {
                reason_string,
                user_properties,
            }),
        ),
        Packet::PubRec(ack) => theirs::Packet::PubRec(
            theirs::PubRec {
                pkid: ack.packet_id,
                reason: pubrec_reason(ack.reason),
            },
            explained(ack).map(|(reason_string, user_properties)| theirs::PubRecProperties {
                reason_string,
                user_properties,
            }),
        ),
        Packet::PubRel(ack) => theirs::Packet::PubRel(
            theirs::PubRel {
                pkid: ack.packet_id,
                reason: match ack.reason {
                    ReasonCode::Success => theirs::PubRelReason::Success,
                    _ => theirs::PubRelReason::PacketIdentifierNotFound,
                },
            },
            explained(ack).map(|(reason_string, user_properties)| theirs::PubRelProperties {
                reason_string,
                user_properties,
            }),
        ),
        Packet::PubComp(ack) => theirs::Packet::PubComp(
            theirs::PubComp {
                pkid: ack.packet_id,
                reason: match ack.reason {
                    ReasonCode::Success => theirs::PubCompReason::Success,
                    _ => theirs::PubCompReason::PacketIdentifierNotFound,
                },
            },
            explained(ack).map(|(reason_string, user_properties)| theirs::PubCompProperties {
                reason_string,
                user_properties,
            }),
        ),
        Packet::Subscribe(packet) => subscribe(packet),
        Packet::SubAck(packet) => suback(packet, version),
        Packet::Unsubscribe(packet) => theirs::Packet::Unsubscribe(
            theirs::Unsubscribe {
                pkid: packet.packet_id,
                filters: packet.filters.iter().map(ByteString::to_string).collect(),
            },
            (!packet.user_properties.is_empty()).then(|| theirs::UnsubscribeProperties {
                user_properties: pairs(&packet.user_properties),
            }),
        ),
        Packet::UnsubAck(packet) => unsuback(packet),
        Packet::PingReq => theirs::Packet::PingReq(theirs::PingReq),
        Packet::PingResp => theirs::Packet::PingResp(theirs::PingResp),
        Packet::Disconnect(packet) => disconnect(packet),
        Packet::Auth(_) => return Err(Untranslatable::Auth),
    })
}

fn connect(connect: &Connect) -> Result<theirs::Packet, Untranslatable> {
    let password = connect.password.as_deref().unwrap_or_default().to_vec();
    let password = String::from_utf8(password).map_err(|_| Untranslatable::BinaryPassword)?;
    let username = connect.username.as_deref().unwrap_or_default().to_owned();
    let has_login = !username.is_empty() || !password.is_empty();
    Ok(theirs::Packet::Connect(
        theirs::Connect {
            keep_alive: connect.keep_alive_s,
            client_id: connect.client_id.to_string(),
            clean_session: connect.clean_start,
        },
        connect_properties(&connect.properties),
        connect.will.as_ref().map(|will| theirs::LastWill {
            topic: will.topic.as_bytes().clone(),
            message: will.payload.clone(),
            qos: qos(will.qos),
            retain: will.retain,
        }),
        connect.will.as_ref().and_then(will_properties),
        has_login.then_some(theirs::Login { username, password }),
    ))
}

fn connect_properties(properties: &ConnectProperties) -> Option<theirs::ConnectProperties> {
    (*properties != ConnectProperties::default()).then(|| theirs::ConnectProperties {
        session_expiry_interval: properties.session_expiry_interval_s,
        receive_maximum: properties.receive_maximum,
        max_packet_size: properties.maximum_packet_size,
        topic_alias_max: properties.topic_alias_maximum,
        request_response_info: properties.request_response_information.map(u8::from),
        request_problem_info: properties.request_problem_information.map(u8::from),
        user_properties: pairs(&properties.user_properties),
        authentication_method: text(&properties.authentication_method),
        authentication_data: properties.authentication_data.clone(),
    })
}

fn will_properties(will: &Will) -> Option<theirs::LastWillProperties> {
    if will.delay_interval_s == 0 && will.properties.is_none() {
        return None;
    }
    let properties = will.properties.as_deref().cloned().unwrap_or_default();
    Some(theirs::LastWillProperties {
        delay_interval: (will.delay_interval_s > 0).then_some(will.delay_interval_s),
        payload_format_indicator: properties.payload_format_is_utf8.map(u8::from),
        message_expiry_interval: properties.message_expiry_interval_s,
        content_type: text(&properties.content_type),
        response_topic: text(&properties.response_topic),
        correlation_data: properties.correlation_data,
        user_properties: pairs(&properties.user_properties),
    })
}

fn connack(connack: &ConnAck, version: ProtocolVersion) -> theirs::Packet {
    let properties = &connack.properties;
    let translated = theirs::ConnAckProperties {
        session_expiry_interval: properties.session_expiry_interval_s,
        receive_max: properties.receive_maximum,
        max_qos: properties.maximum_qos.map(|qos| qos as u8),
        retain_available: properties.retain_available.map(u8::from),
        max_packet_size: properties.maximum_packet_size,
        assigned_client_identifier: text(&properties.assigned_client_identifier),
        topic_alias_max: properties.topic_alias_maximum,
        reason_string: text(&properties.reason_string),
        user_properties: pairs(&properties.user_properties),
        wildcard_subscription_available: properties.wildcard_subscription_available.map(u8::from),
        subscription_identifiers_available: properties.subscription_identifiers_available.map(u8::from),
        shared_subscription_available: properties.shared_subscription_available.map(u8::from),
        server_keep_alive: properties.server_keep_alive_s,
        response_information: text(&properties.response_information),
        server_reference: text(&properties.server_reference),
        authentication_method: text(&properties.authentication_method),
        authentication_data: properties.authentication_data.clone(),
    };
    let has_properties = *properties != ConnAckProperties::default();
    theirs::Packet::ConnAck(
        theirs::ConnAck {
            session_present: connack.session_present,
            code: connect_code(connack.reason, version),
        },
        has_properties.then_some(translated),
    )
}

fn connect_code(reason: ReasonCode, version: ProtocolVersion) -> theirs::ConnectReturnCode {
    use theirs::ConnectReturnCode as Code;
    match (reason, version) {
        (ReasonCode::Success, _) => Code::Success,
        (ReasonCode::ClientIdentifierNotValid, _) => Code::ClientIdentifierNotValid,
        (ReasonCode::BadUserNameOrPassword, _) => Code::BadUserNamePassword,
        (ReasonCode::NotAuthorized, _) => Code::NotAuthorized,
        (ReasonCode::UnsupportedProtocolVersion, ProtocolVersion::V5) => Code::UnsupportedProtocolVersion,
        (ReasonCode::UnsupportedProtocolVersion, _) => Code::RefusedProtocolVersion,
        (ReasonCode::ServerUnavailable, ProtocolVersion::V5) => Code::ServerUnavailable,
        (ReasonCode::ServerUnavailable, _) => Code::ServiceUnavailable,
        (ReasonCode::MalformedPacket, _) => Code::MalformedPacket,
        (ReasonCode::ProtocolError, _) => Code::ProtocolError,
        (ReasonCode::ImplementationSpecificError, _) => Code::ImplementationSpecificError,
        (ReasonCode::ServerBusy, _) => Code::ServerBusy,
        (ReasonCode::Banned, _) => Code::Banned,
        (ReasonCode::BadAuthenticationMethod, _) => Code::BadAuthenticationMethod,
        (ReasonCode::TopicNameInvalid, _) => Code::TopicNameInvalid,
        (ReasonCode::PacketTooLarge, _) => Code::PacketTooLarge,
        (ReasonCode::QuotaExceeded, _) => Code::QuotaExceeded,
        (ReasonCode::PayloadFormatInvalid, _) => Code::PayloadFormatInvalid,
        (ReasonCode::RetainNotSupported, _) => Code::RetainNotSupported,
        (ReasonCode::QoSNotSupported, _) => Code::QoSNotSupported,
        (ReasonCode::UseAnotherServer, _) => Code::UseAnotherServer,
        (ReasonCode::ServerMoved, _) => Code::ServerMoved,
        (ReasonCode::ConnectionRateExceeded, _) => Code::ConnectionRateExceeded,
        _ => Code::UnspecifiedError,
    }
}

/// Most fields of theirs are private; their own serialization, which is not MQTT's, is the way in.
fn publish(publish: &Publish) -> theirs::Publish {
    let mut bytes = BytesMut::new();
    bytes.put_u8(u8::from(publish.retain) | (publish.qos as u8) << 1 | u8::from(publish.dup) << 3);
    bytes.put_u16(publish.packet_id);
    bytes.put_u16(publish.topic.len() as u16);
    bytes.put_slice(publish.topic.as_bytes());
    bytes.put_slice(&publish.payload);
    theirs::Publish::deserialize(bytes.freeze())
}

fn publish_properties(properties: &PublishProperties) -> theirs::PublishProperties {
    theirs::PublishProperties {
        payload_format_indicator: properties.payload_format_is_utf8.map(u8::from),
        message_expiry_interval: properties.message_expiry_interval_s,
        topic_alias: properties.topic_alias,
        response_topic: text(&properties.response_topic),
        correlation_data: properties.correlation_data.clone(),
        user_properties: pairs(&properties.user_properties),
        subscription_identifiers: properties
            .subscription_identifiers
            .iter()
            .map(|&id| id as usize)
            .collect(),
        content_type: text(&properties.content_type),
    }
}

fn subscribe(subscribe: &Subscribe) -> theirs::Packet {
    let has_properties = subscribe.subscription_identifier.is_some() || !subscribe.user_properties.is_empty();
    let filters = subscribe.filters.iter().map(|wanted| theirs::Filter {
        path: wanted.filter.to_string(),
        qos: qos(wanted.options.qos),
        nolocal: wanted.options.no_local,
        preserve_retain: wanted.options.retain_as_published,
        retain_forward_rule: match wanted.options.retain_handling {
            RetainHandling::SendAtSubscribe => theirs::RetainForwardRule::OnEverySubscribe,
            RetainHandling::SendIfNew => theirs::RetainForwardRule::OnNewSubscribe,
            RetainHandling::DoNotSend => theirs::RetainForwardRule::Never,
        },
    });
    theirs::Packet::Subscribe(
        theirs::Subscribe {
            pkid: subscribe.packet_id,
            filters: filters.collect(),
        },
        has_properties.then(|| theirs::SubscribeProperties {
            id: subscribe.subscription_identifier.map(|id| id as usize),
            user_properties: pairs(&subscribe.user_properties),
        }),
    )
}

fn suback(suback: &SubAck, version: ProtocolVersion) -> theirs::Packet {
    use theirs::SubscribeReasonCode as Code;
    let v5 = version == ProtocolVersion::V5;
    let return_codes = suback.reasons.iter().map(|reason| match reason {
        ReasonCode::Success if v5 => Code::QoS0,
        ReasonCode::GrantedQoS1 if v5 => Code::QoS1,
        ReasonCode::GrantedQoS2 if v5 => Code::QoS2,
        ReasonCode::Success => Code::Success(theirs::QoS::AtMostOnce),
        ReasonCode::GrantedQoS1 => Code::Success(theirs::QoS::AtLeastOnce),
        ReasonCode::GrantedQoS2 => Code::Success(theirs::QoS::ExactlyOnce),
        ReasonCode::ImplementationSpecificError => Code::ImplementationSpecific,
        ReasonCode::NotAuthorized => Code::NotAuthorized,
        ReasonCode::TopicFilterInvalid => Code::TopicFilterInvalid,
        ReasonCode::PacketIdentifierInUse => Code::PkidInUse,
        ReasonCode::QuotaExceeded => Code::QuotaExceeded,
        ReasonCode::SharedSubscriptionsNotSupported => Code::SharedSubscriptionsNotSupported,
        ReasonCode::SubscriptionIdentifiersNotSupported => Code::SubscriptionIdNotSupported,
        ReasonCode::WildcardSubscriptionsNotSupported => Code::WildcardSubscriptionsNotSupported,
        _ if v5 => Code::Unspecified,
        _ => Code::Failure,
    });
    let properties = explanation(&suback.reason_string, &suback.user_properties);
    theirs::Packet::SubAck(
        theirs::SubAck {
            pkid: suback.packet_id,
            return_codes: return_codes.collect(),
        },
        properties.map(|(reason_string, user_properties)| theirs::SubAckProperties {
            reason_string,
            user_properties,
        }),
    )
}

fn unsuback(unsuback: &UnsubAck) -> theirs::Packet {
    use theirs::UnsubAckReason as Reason;
    let reasons = unsuback.reasons.iter().map(|reason| match reason {
        ReasonCode::Success => Reason::Success,
        ReasonCode::NoSubscriptionExisted => Reason::NoSubscriptionExisted,
        ReasonCode::ImplementationSpecificError => Reason::ImplementationSpecificError,
        ReasonCode::NotAuthorized => Reason::NotAuthorized,
        ReasonCode::TopicFilterInvalid => Reason::TopicFilterInvalid,
        ReasonCode::PacketIdentifierInUse => Reason::PacketIdentifierInUse,
        _ => Reason::UnspecifiedError,
    });
    let properties = explanation(&unsuback.reason_string, &unsuback.user_properties);
    theirs::Packet::UnsubAck(
        theirs::UnsubAck {
            pkid: unsuback.packet_id,
            reasons: reasons.collect(),
        },
        properties.map(|(reason_string, user_properties)| theirs::UnsubAckProperties {
            reason_string,
            user_properties,
        }),
    )
}

fn disconnect(disconnect: &Disconnect) -> theirs::Packet {
    let has_properties = *disconnect != Disconnect::new(disconnect.reason);
    theirs::Packet::Disconnect(
        theirs::Disconnect {
            reason_code: disconnect_reason(disconnect.reason),
        },
        has_properties.then(|| theirs::DisconnectProperties {
            session_expiry_interval: disconnect.session_expiry_interval_s,
            reason_string: text(&disconnect.reason_string),
            user_properties: pairs(&disconnect.user_properties),
            server_reference: text(&disconnect.server_reference),
        }),
    )
}

fn disconnect_reason(reason: ReasonCode) -> theirs::DisconnectReasonCode {
    use theirs::DisconnectReasonCode as Code;
    match reason {
        ReasonCode::Success => Code::NormalDisconnection,
        ReasonCode::DisconnectWithWill => Code::DisconnectWithWillMessage,
        ReasonCode::MalformedPacket => Code::MalformedPacket,
        ReasonCode::ProtocolError => Code::ProtocolError,
        ReasonCode::ImplementationSpecificError => Code::ImplementationSpecificError,
        ReasonCode::NotAuthorized => Code::NotAuthorized,
        ReasonCode::ServerBusy => Code::ServerBusy,
        ReasonCode::ServerShuttingDown => Code::ServerShuttingDown,
        ReasonCode::KeepAliveTimeout => Code::KeepAliveTimeout,
        ReasonCode::SessionTakenOver => Code::SessionTakenOver,
        ReasonCode::TopicFilterInvalid => Code::TopicFilterInvalid,
        ReasonCode::TopicNameInvalid => Code::TopicNameInvalid,
        ReasonCode::ReceiveMaximumExceeded => Code::ReceiveMaximumExceeded,
        ReasonCode::TopicAliasInvalid => Code::TopicAliasInvalid,
        ReasonCode::PacketTooLarge => Code::PacketTooLarge,
        ReasonCode::MessageRateTooHigh => Code::MessageRateTooHigh,
        ReasonCode::QuotaExceeded => Code::QuotaExceeded,
        ReasonCode::AdministrativeAction => Code::AdministrativeAction,
        ReasonCode::PayloadFormatInvalid => Code::PayloadFormatInvalid,
        ReasonCode::RetainNotSupported => Code::RetainNotSupported,
        ReasonCode::QoSNotSupported => Code::QoSNotSupported,
        ReasonCode::UseAnotherServer => Code::UseAnotherServer,
        ReasonCode::ServerMoved => Code::ServerMoved,
        ReasonCode::SharedSubscriptionsNotSupported => Code::SharedSubscriptionNotSupported,
        ReasonCode::ConnectionRateExceeded => Code::ConnectionRateExceeded,
        ReasonCode::MaximumConnectTime => Code::MaximumConnectTime,
        ReasonCode::SubscriptionIdentifiersNotSupported => Code::SubscriptionIdentifiersNotSupported,
        ReasonCode::WildcardSubscriptionsNotSupported => Code::WildcardSubscriptionsNotSupported,
        _ => Code::UnspecifiedError,
    }
}

/// Both acknowledgements of a PUBLISH have the same reasons, and they have a type for each.
macro_rules! publish_reason {
    ($name:ident, $type:ident) => {
        fn $name(reason: ReasonCode) -> theirs::$type {
            match reason {
                ReasonCode::Success => theirs::$type::Success,
                ReasonCode::NoMatchingSubscribers => theirs::$type::NoMatchingSubscribers,
                ReasonCode::ImplementationSpecificError => theirs::$type::ImplementationSpecificError,
                ReasonCode::NotAuthorized => theirs::$type::NotAuthorized,
                ReasonCode::TopicNameInvalid => theirs::$type::TopicNameInvalid,
                ReasonCode::PacketIdentifierInUse => theirs::$type::PacketIdentifierInUse,
                ReasonCode::QuotaExceeded => theirs::$type::QuotaExceeded,
                ReasonCode::PayloadFormatInvalid => theirs::$type::PayloadFormatInvalid,
                _ => theirs::$type::UnspecifiedError,
            }
        }
    };
}

publish_reason!(puback_reason, PubAckReason);
publish_reason!(pubrec_reason, PubRecReason);

/// A reason string and user properties, which six packets have and they have a type for each.
type Explanation = (Option<String>, Vec<(String, String)>);

fn explained(ack: &Ack) -> Option<Explanation> {
    explanation(&ack.reason_string, &ack.user_properties)
}

fn explanation(reason_string: &Option<ByteString>, user_properties: &UserProperties) -> Option<Explanation> {
    (reason_string.is_some() || !user_properties.is_empty())
        .then(|| (text(reason_string), pairs(user_properties)))
}

fn qos(qos: QoS) -> theirs::QoS {
    match qos {
        QoS::AtMostOnce => theirs::QoS::AtMostOnce,
        QoS::AtLeastOnce => theirs::QoS::AtLeastOnce,
        QoS::ExactlyOnce => theirs::QoS::ExactlyOnce,
    }
}

fn text(text: &Option<ByteString>) -> Option<String> {
    text.as_ref().map(ByteString::to_string)
}

fn pairs(properties: &UserProperties) -> Vec<(String, String)> {
    properties
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}
