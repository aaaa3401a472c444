//! Packets that may be sent, of every type and version. The daemon's differential tests include this file.

use bytes::Bytes;
use bytestring::ByteString;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use topics::packet::*;

/// A packet of `version`, a CONNECT included.
pub(crate) fn packet(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    let v5 = version == ProtocolVersion::V5;
    let common = prop_oneof![
        2 => connect(version).prop_map(|connect| Packet::Connect(Box::new(connect))),
        2 => connack(version).prop_map(|connack| Packet::ConnAck(Box::new(connack))),
        4 => publish(version).prop_map(Packet::Publish),
        1 => ack(version, &PUBLISH_ANSWERS).prop_map(Packet::PubAck),
        1 => ack(version, &PUBLISH_ANSWERS).prop_map(Packet::PubRec),
        1 => ack(version, &RELEASE_ANSWERS).prop_map(Packet::PubRel),
        1 => ack(version, &RELEASE_ANSWERS).prop_map(Packet::PubComp),
        1 => subscribe(version).prop_map(Packet::Subscribe),
        1 => suback(version).prop_map(Packet::SubAck),
        1 => unsubscribe(version).prop_map(Packet::Unsubscribe),
        1 => unsuback(version).prop_map(Packet::UnsubAck),
        1 => Just(Packet::PingReq),
        1 => Just(Packet::PingResp),
        1 => disconnect(version).prop_map(Packet::Disconnect),
    ];
    if v5 {
        prop_oneof![16 => common, 1 => auth().prop_map(|auth| Packet::Auth(Box::new(auth)))].boxed()
    } else {
        common.boxed()
    }
}

const PUBLISH_ANSWERS: [ReasonCode; 4] = [
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::NotAuthorized,
    ReasonCode::QuotaExceeded,
];
const RELEASE_ANSWERS: [ReasonCode; 2] = [ReasonCode::Success, ReasonCode::PacketIdentifierNotFound];

fn text() -> impl Strategy<Value = ByteString> {
    "[ -~äß漢\u{2A6D4}\n]{0,12}".prop_map(ByteString::from)
}

fn name() -> impl Strategy<Value = ByteString> {
    "[ -~ä漢\u{2A6D4}]{0,12}".prop_map(ByteString::from)
}

fn topic() -> impl Strategy<Value = ByteString> {
    "[a-z/$ä漢]{1,12}".prop_map(ByteString::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    // Beyond 127 bytes the lengths need a second byte.
    prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 120..300)].prop_map(Bytes::from)
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}

fn subscription_identifier() -> impl Strategy<Value = u32> {
    prop_oneof![1..200_u32, 1..=268_435_455_u32]
}

/// What only MQTT 5 has: elsewhere it stays as it is by default.
fn only<T: Default + std::fmt::Debug + Clone + 'static>(
    condition: bool,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if condition {
        strategy.boxed()
    } else {
        Just(T::default()).boxed()
    }
}

fn message_properties(in_publish: bool) -> impl Strategy<Value = Option<Box<PublishProperties>>> {
    let fields = (
        of(any::<bool>()),
        of(any::<u32>()),
        only(in_publish, of(1..=u16::MAX)),
        of(topic()),
        of(binary()),
        only(in_publish, vec(subscription_identifier(), 0..3)),
        user_properties(),
        of(text()),
    );
    fields.prop_map(|fields| {
        let properties = PublishProperties {
            payload_format_is_utf8: fields.0,
            message_expiry_interval_s: fields.1,
            topic_alias: fields.2,
            response_topic: fields.3,
            correlation_data: fields.4,
            subscription_identifiers: fields.5,
            user_properties: fields.6,
            content_type: fields.7,
        };
        (!properties.is_empty()).then(|| Box::new(properties))
    })
}

fn publish(version: ProtocolVersion) -> impl Strategy<Value = Publish> {
    let properties = only(version == ProtocolVersion::V5, message_properties(true));
    (
        any::<bool>(),
        qos(),
        any::<bool>(),
        topic(),
        1..=u16::MAX,
        properties,
        binary(),
        any::<bool>(),
    )
        .prop_map(
            |(dup, qos, retain, topic, packet_id, properties, payload, prefers_alias)| {
                let has_alias = properties
                    .as_ref()
                    .is_some_and(|properties| properties.topic_alias.is_some());
                Publish {
                    dup: dup && qos > QoS::AtMostOnce,
                    qos,
                    retain,
                    topic: if has_alias && prefers_alias {
                        ByteString::new()
                    } else {
                        topic
                    },
                    packet_id: if qos > QoS::AtMostOnce { packet_id } else { 0 },
                    properties,
                    payload,
                }
            },
        )
}

fn connect(protocol: ProtocolVersion) -> impl Strategy<Value = Connect> {
    let v5 = protocol == ProtocolVersion::V5;
    let will = (
        topic(),
        binary(),
        qos(),
        any::<bool>(),
        only(v5, any::<u32>()),
        only(v5, message_properties(false)),
    );
    let will = will.prop_map(
        |(topic, payload, qos, retain, delay_interval_s, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval_s,
            properties,
        },
    );
    let fields = (
        any::<bool>(),
        any::<u16>(),
        name(),
        of(name()),
        of(binary()),
        of(will),
    );
    let is_bridge = any::<bool>().prop_map(move |is_bridge| is_bridge && !v5);
    (fields, is_bridge, only(v5, connect_properties())).prop_map(move |(fields, is_bridge, properties)| {
        let (clean_start, keep_alive_s, client_id, username, password, will) = fields;
        let password = password.filter(|_| v5 || username.is_some());
        Connect {
            protocol,
            is_bridge,
            clean_start,
            keep_alive_s,
            client_id,
            username,
            password,
            will,
            properties,
        }
    })
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    let numbers = (
        of(any::<u32>()),
        of(1..=u16::MAX),
        of(1..=u32::MAX),
        of(any::<u16>()),
    );
    let flags = (of(any::<bool>()), of(any::<bool>()));
    (numbers, flags, user_properties(), of((text(), of(binary())))).prop_map(
        |(numbers, flags, user_properties, authentication)| ConnectProperties {
            session_expiry_interval_s: numbers.0,
            receive_maximum: numbers.1,
            maximum_packet_size: numbers.2,
            topic_alias_maximum: numbers.3,
            request_response_information: flags.0,
            request_problem_information: flags.1,
            user_properties,
            authentication_method: authentication.clone().map(|(method, _)| method),
            authentication_data: authentication.and_then(|(_, data)| data),
        },
    )
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = ConnAck> {
    let reasons = [
        ReasonCode::Success,
        ReasonCode::UnsupportedProtocolVersion,
        ReasonCode::ClientIdentifierNotValid,
        ReasonCode::ServerUnavailable,
        ReasonCode::BadUserNameOrPassword,
        ReasonCode::NotAuthorized,
    ];
    let properties = only(version == ProtocolVersion::V5, connack_properties());
    (any::<bool>(), select(reasons.to_vec()), properties).prop_map(move |(present, reason, properties)| {
        ConnAck {
            session_present: present && !reason.is_error() && version > ProtocolVersion::V31,
            reason,
            properties,
        }
    })
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties> {
    let qos = select(vec![QoS::AtMostOnce, QoS::AtLeastOnce]);
    let numbers = (
        of(any::<u32>()),
        of(1..=u16::MAX),
        of(1..=u32::MAX),
        of(any::<u16>()),
        of(any::<u16>()),
    );
    let flags = (
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
        of(qos),
    );
    let texts = (of(text()), of(text()), of(text()), of(text()), user_properties());
    (numbers, flags, texts, of((text(), of(binary())))).prop_map(|(numbers, flags, texts, authentication)| {
        ConnAckProperties {
            session_expiry_interval_s: numbers.0,
            receive_maximum: numbers.1,
            maximum_packet_size: numbers.2,
            topic_alias_maximum: numbers.3,
            server_keep_alive_s: numbers.4,
            retain_available: flags.0,
            wildcard_subscription_available: flags.1,
            subscription_identifiers_available: flags.2,
            shared_subscription_available: flags.3,
            maximum_qos: flags.4,
            assigned_client_identifier: texts.0,
            reason_string: texts.1,
            response_information: texts.2,
            server_reference: texts.3,
            user_properties: texts.4,
            authentication_method: authentication.clone().map(|(method, _)| method),
            authentication_data: authentication.and_then(|(_, data)| data),
        }
    })
}

fn ack(version: ProtocolVersion, reasons: &[ReasonCode]) -> impl Strategy<Value = Ack> + use<> {
    let v5 = version == ProtocolVersion::V5;
    let reason = if v5 {
        select(reasons.to_vec()).boxed()
    } else {
        Just(ReasonCode::Success).boxed()
    };
    (
        1..=u16::MAX,
        reason,
        only(v5, of(text())),
        only(v5, user_properties()),
    )
        .prop_map(|(packet_id, reason, reason_string, user_properties)| Ack {
            packet_id,
            reason,
            reason_string,
            user_properties,
        })
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe> {
    let v5 = version == ProtocolVersion::V5;
    let retain_handling = select(vec![
        RetainHandling::SendAtSubscribe,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    let options = (
        qos(),
        only(v5, any::<bool>()),
        only(v5, any::<bool>()),
        only(v5, retain_handling),
    );
    let filter = ("[a-z/+#]{1,12}", options).prop_map(|(filter, options)| SubscribeFilter {
        filter: ByteString::from(filter),
        options: SubscriptionOptions {
            qos: options.0,
            no_local: options.1,
            retain_as_published: options.2,
            retain_handling: options.3,
        },
    });
    let identifier = only(v5, of(subscription_identifier()));
    (
        1..=u16::MAX,
        identifier,
        only(v5, user_properties()),
        vec(filter, 1..4),
    )
        .prop_map(
            |(packet_id, subscription_identifier, user_properties, filters)| Subscribe {
                packet_id,
                subscription_identifier,
                user_properties,
                filters,
            },
        )
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = SubAck> {
    let v5 = version == ProtocolVersion::V5;
    let mut reasons = vec![
        ReasonCode::Success,
        ReasonCode::GrantedQoS1,
        ReasonCode::GrantedQoS2,
        ReasonCode::UnspecifiedError,
    ];
    if v5 {
        reasons.extend([
            ReasonCode::NotAuthorized,
            ReasonCode::WildcardSubscriptionsNotSupported,
        ]);
    }
    (
        1..=u16::MAX,
        only(v5, of(text())),
        only(v5, user_properties()),
        vec(select(reasons), 1..5),
    )
        .prop_map(|(packet_id, reason_string, user_properties, reasons)| SubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        })
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe> {
    let filters = vec("[a-z/+#]{1,12}".prop_map(ByteString::from), 1..4);
    (
        1..=u16::MAX,
        only(version == ProtocolVersion::V5, user_properties()),
        filters,
    )
        .prop_map(|(packet_id, user_properties, filters)| Unsubscribe {
            packet_id,
            user_properties,
            filters,
        })
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = UnsubAck> {
    let v5 = version == ProtocolVersion::V5;
    let reasons = select(vec![
        ReasonCode::Success,
        ReasonCode::NoSubscriptionExisted,
        ReasonCode::NotAuthorized,
    ]);
    (
        1..=u16::MAX,
        only(v5, of(text())),
        only(v5, user_properties()),
        only(v5, vec(reasons, 1..4)),
    )
        .prop_map(|(packet_id, reason_string, user_properties, reasons)| UnsubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        })
}

fn disconnect(version: ProtocolVersion) -> impl Strategy<Value = Disconnect> {
    if version < ProtocolVersion::V5 {
        return Just(Disconnect::new(ReasonCode::Success)).boxed();
    }
    let reasons = select(vec![
        ReasonCode::Success,
        ReasonCode::DisconnectWithWill,
        ReasonCode::ServerShuttingDown,
    ]);
    let fields = (
        reasons,
        of(any::<u32>()),
        of(text()),
        user_properties(),
        of(text()),
    );
    let disconnect = fields.prop_map(|fields| Disconnect {
        reason: fields.0,
        session_expiry_interval_s: fields.1,
        reason_string: fields.2,
        user_properties: fields.3,
        server_reference: fields.4,
    });
    disconnect.boxed()
}

fn auth() -> impl Strategy<Value = Auth> {
    let reasons = select(vec![
        ReasonCode::Success,
        ReasonCode::ContinueAuthentication,
        ReasonCode::ReAuthenticate,
    ]);
    (reasons, of((text(), of(binary()))), of(text()), user_properties()).prop_map(
        |(reason, authentication, reason_string, user_properties)| Auth {
            reason,
            authentication_method: authentication.clone().map(|(method, _)| method),
            authentication_data: authentication.and_then(|(_, data)| data),
            reason_string,
            user_properties,
        },
    )
}
