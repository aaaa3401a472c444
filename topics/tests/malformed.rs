//! Each rule that a packet can break, with a packet that breaks this one only, and the reason to answer.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy.toml exempts tests, but sees none in an integration test's helpers"
)]

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use topics::packet::*;

const V31: ProtocolVersion = ProtocolVersion::V31;
const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

#[test]
fn only_a_connect_begins_a_connection() {
    let fault = refusal(None, &[0xC0, 0]);
    assert_eq!(fault, DecodeError::ConnectExpected { packet: "PINGREQ" });
    assert_eq!(fault.reason(), ReasonCode::ProtocolError);
}

#[test]
fn reserved_packet_types_are_refused_by_their_first_byte() {
    assert_eq!(
        refusal(Some(V5), &[0x00]),
        DecodeError::ReservedPacketType { packet_type: 0 }
    );
    assert_eq!(
        refusal(Some(V311), &[0xF0]),
        DecodeError::ReservedPacketType { packet_type: 15 }
    );
}

#[test]
fn a_server_refuses_what_only_servers_send() {
    for first_byte in [0x20, 0x90, 0xB0, 0xD0] {
        let fault = decode_from_client(&mut BytesMut::from(&[first_byte][..]), Some(V5), 100).unwrap_err();
        assert!(matches!(fault, DecodeError::ServerOnly { .. }), "{fault}");
        assert_eq!(fault.reason(), ReasonCode::ProtocolError);
    }
    assert_eq!(
        decode(&mut BytesMut::from(&[0xD0, 0][..]), Some(V5), 100),
        Ok(Some(Packet::PingResp))
    );
}

#[test]
fn fixed_header_flags_are_exact() {
    let refused = [
        0x21, 0x41, 0x58, 0x60, 0x63, 0x74, 0x80, 0x83, 0x92, 0xA0, 0xB8, 0xC1, 0xD2, 0xE4, 0xF8,
    ];
    for first_byte in refused {
        assert!(
            matches!(refusal(Some(V5), &[first_byte]), DecodeError::Flags { .. }),
            "{first_byte:02X}"
        );
    }
    let mut flagged = connect(b"MQTT", 4, 2);
    flagged[0] = 0x12;
    assert!(matches!(
        refusal(None, &flagged),
        DecodeError::Flags {
            packet: "CONNECT",
            flags: 2
        }
    ));
}

#[test]
fn what_is_sent_again_may_say_so_until_mqtt_3_1_1() {
    for packet in [
        &[0x6A, 2, 0, 1][..],
        &[0x8A, 6, 0, 1, 0, 1, b'a', 0],
        &[0xAA, 5, 0, 1, 0, 1, b'a'],
    ] {
        let decoded = decode_from_client(&mut BytesMut::from(packet), Some(V31), 100);
        assert!(decoded.unwrap().is_some(), "{packet:02X?}");
        for version in [V311, V5] {
            let refused = matches!(refusal(Some(version), packet), DecodeError::Flags { .. });
            assert!(refused, "{version:?} {packet:02X?}");
        }
    }
    let neither = refusal(Some(V31), &[0x4A, 2, 0, 1]);
    assert!(matches!(neither, DecodeError::Flags { .. }), "{neither}");
}

#[test]
fn a_length_of_five_bytes_is_refused_before_the_fifth_comes() {
    let fault = refusal(Some(V311), &[0x30, 0x80, 0x80, 0x80, 0x80]);
    assert_eq!(fault, DecodeError::RemainingLength);
    assert_eq!(fault.reason(), ReasonCode::MalformedPacket);
}

#[test]
fn a_length_that_is_none_is_told_before_what_only_servers_send() {
    let endless = [0x20, 0x80, 0x80, 0x80, 0x80];
    let fault = decode_from_client(&mut BytesMut::from(&endless[..]), Some(V5), 100).unwrap_err();
    assert_eq!(fault, DecodeError::RemainingLength);
}

#[test]
fn a_ping_is_its_header_and_nothing_more() {
    for ping in [[0xC0, 1], [0xD0, 1]] {
        for version in [V31, V311, V5] {
            assert_eq!(refusal(Some(version), &ping), DecodeError::RemainingLength);
        }
        let fault = decode_from_client(&mut BytesMut::from(&ping[..]), Some(V5), 100).unwrap_err();
        assert_eq!(fault, DecodeError::RemainingLength);
    }
}

#[test]
fn a_padded_length_is_refused_since_mqtt_5_and_taken_before() {
    assert_eq!(
        refusal(Some(V5), &[0xC0, 0x80, 0x00]),
        DecodeError::RemainingLength
    );
    assert_eq!(accept(Some(V311), &[0xC0, 0x80, 0x00]), Packet::PingReq);
}

#[test]
fn an_oversized_packet_is_refused_without_making_room() {
    let mut header = BytesMut::from(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..]);
    let capacity = header.capacity();
    let fault = decode(&mut header, Some(V5), 1000).unwrap_err();
    assert_eq!(
        fault,
        DecodeError::PacketTooLarge {
            packet_bytes: 268_435_460,
            max_packet_bytes: 1000
        }
    );
    assert_eq!(fault.reason(), ReasonCode::PacketTooLarge);
    assert_eq!(header.capacity(), capacity);
}

#[test]
fn the_limit_itself_is_not_too_large() {
    let publish = [0x30, 0x04, 0, 1, b't', 0];
    assert!(decode(&mut BytesMut::from(&publish[..]), Some(V5), 6).is_ok());
    assert!(decode(&mut BytesMut::from(&publish[..]), Some(V5), 5).is_err());
}

#[test]
fn nothing_may_be_left_after_the_last_field() {
    assert_eq!(
        refusal(Some(V311), &[0x40, 3, 0, 1, 0]),
        DecodeError::TrailingBytes { bytes: 1 }
    );
    assert_eq!(
        refusal(Some(V5), &[0x40, 5, 0, 1, 0, 0, 9]),
        DecodeError::TrailingBytes { bytes: 1 }
    );
}

#[test]
fn strings_are_utf8_without_zero_and_names_without_control_characters() {
    let topics: [(&[u8], DecodeError); 6] = [
        (b"a\0b", DecodeError::Utf8),
        (b"\xED\xA0\x80", DecodeError::Utf8),
        (b"a\x01b", DecodeError::ControlCharacter),
        (b"a\x7Fb", DecodeError::ControlCharacter),
        (b"a\xC2\x9F", DecodeError::ControlCharacter),
        (b"\xEF\xBF\xBF", DecodeError::ControlCharacter),
    ];
    for (topic, fault) in topics {
        assert_eq!(refusal(Some(V311), &publish_to(topic)), fault);
        assert_eq!(fault.reason(), ReasonCode::MalformedPacket);
    }
    let with_line_break = [0x30, 0x0A, 0, 1, b't', 6, 0x26, 0, 1, b'\n', 0, 0];
    accept(Some(V5), &with_line_break);
}

#[test]
fn protocol_names_and_levels_go_together() {
    assert_eq!(refusal(None, &connect(b"MQT", 4, 2)), DecodeError::ProtocolName);
    let unsupported = |level, answer_in| DecodeError::UnsupportedProtocolVersion { level, answer_in };
    assert_eq!(refusal(None, &connect(b"MQTT", 3, 2)), unsupported(3, V311));
    assert_eq!(refusal(None, &connect(b"MQIsdp", 4, 2)), unsupported(4, V311));
    assert_eq!(refusal(None, &connect(b"MQTT", 6, 2)), unsupported(6, V5));
    assert_eq!(refusal(None, &connect(b"MQTT", 0x83, 2)), unsupported(0x83, V5));
    assert_eq!(refusal(None, &connect(b"MQTT", 0x85, 2)), unsupported(0x85, V5));
    assert_eq!(
        unsupported(6, V5).reason(),
        ReasonCode::UnsupportedProtocolVersion
    );
}

#[test]
fn the_highest_bit_of_an_old_level_marks_a_bridge() {
    for (name, level, version) in [(&b"MQIsdp"[..], 0x83, V31), (b"MQTT", 0x84, V311)] {
        let Packet::Connect(bridge) = accept(None, &connect(name, level, 2)) else {
            unreachable!()
        };
        assert_eq!((bridge.protocol, bridge.is_bridge), (version, true));
    }
    let Packet::Connect(client) = accept(None, &connect(b"MQTT", 4, 2)) else {
        unreachable!()
    };
    assert!(!client.is_bridge);
}

#[test]
fn credentials_are_valid_strings_and_there() {
    let with = |flags: u8, credentials: &[u8]| {
        let mut packet = connect(b"MQTT", 4, flags);
        packet.extend_from_slice(credentials);
        packet[1] = (packet.len() - 2) as u8;
        packet
    };
    for (flags, credentials) in [
        (0b1000_0010, &b""[..]),
        (0b1000_0010, b"\0\x02u"),
        (0b1000_0010, b"\0\x02u\0"),
        (0b1000_0010, b"\0\x02u\x01"),
        (0b1100_0010, b"\0\x01u\0\x02p"),
    ] {
        let fault = refusal(None, &with(flags, credentials));
        assert_eq!(fault, DecodeError::Credentials, "{credentials:?}");
        assert_eq!(fault.reason(), ReasonCode::MalformedPacket);
    }
    accept(None, &with(0b1100_0010, b"\0\x01u\0\x01\0"));
}

#[test]
fn connect_flags_do_not_contradict_each_other() {
    for flags in [0b0000_0011, 0b0000_1010, 0b0010_0010] {
        assert_eq!(
            refusal(None, &connect(b"MQTT", 4, flags)),
            DecodeError::ConnectFlags { flags }
        );
    }
    assert_eq!(
        refusal(None, &connect(b"MQTT", 4, 0b0100_0010)),
        DecodeError::PasswordWithoutUsername
    );
    // MQTT 3.1 says of the lowest bit only that it is not used.
    accept(None, &connect(b"MQIsdp", 3, 0b0000_0011));
}

#[test]
fn a_password_without_a_user_name_is_accepted_since_mqtt_5() {
    let connect = [
        0x10,
        16,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        5,
        0b0100_0010,
        0,
        9,
        0,
        0,
        0,
        0,
        1,
        b'p',
    ];
    let Packet::Connect(connect) = accept(None, &connect) else {
        panic!("a CONNECT")
    };
    assert_eq!(connect.password, Some(Bytes::from_static(b"p")));
}

#[test]
fn a_broken_client_identifier_is_named_as_such() {
    let mut bytes = connect(b"MQTT", 4, 2);
    *bytes.last_mut().unwrap() = 1;
    let fault = refusal(None, &bytes);
    assert_eq!(fault.reason(), ReasonCode::ClientIdentifierNotValid);
}

#[test]
fn packet_identifiers_are_not_zero() {
    for (bytes, reason) in [
        (&[0x32, 5, 0, 1, b't', 0, 0][..], ReasonCode::ProtocolError),
        (&[0x40, 2, 0, 0], ReasonCode::ProtocolError),
        (&[0x62, 2, 0, 0], ReasonCode::ProtocolError),
        (&[0x82, 6, 0, 0, 0, 1, b't', 0], ReasonCode::MalformedPacket),
        (&[0xA2, 5, 0, 0, 0, 1, b't'], ReasonCode::MalformedPacket),
    ] {
        let fault = refusal(Some(V311), bytes);
        assert!(matches!(fault, DecodeError::PacketIdZero { .. }), "{fault}");
        assert_eq!(fault.reason(), reason);
    }
}

#[test]
fn publish_flags_and_topics_are_judged() {
    assert_eq!(
        refusal(Some(V311), &[0x36, 5, 0, 1, b't', 0, 1]),
        DecodeError::QoS { value: 3 }
    );
    assert_eq!(
        refusal(Some(V311), &[0x38, 3, 0, 1, b't']),
        DecodeError::DupAtQoS0
    );
    assert_eq!(refusal(Some(V311), &publish_to(b"a/+")), DecodeError::TopicName);
    assert_eq!(refusal(Some(V311), &publish_to(b"#")), DecodeError::TopicName);
    assert_eq!(refusal(Some(V5), &[0x30, 3, 0, 0, 0]), DecodeError::TopicName);
    let Packet::Publish(by_alias) = accept(Some(V5), &[0x30, 6, 0, 0, 3, 0x23, 0, 1]) else {
        panic!("a PUBLISH")
    };
    assert_eq!(by_alias.properties.unwrap().topic_alias, Some(1));
}

#[test]
fn a_topic_alias_of_zero_is_invalid() {
    let fault = refusal(Some(V5), &[0x30, 7, 0, 1, b't', 3, 0x23, 0, 0]);
    assert_eq!(fault.reason(), ReasonCode::TopicAliasInvalid);
}

#[test]
fn a_response_topic_is_a_topic_name() {
    for topic in [b'+', b'#'] {
        let fault = refusal(Some(V5), &[0x30, 8, 0, 1, b't', 4, 0x08, 0, 1, topic]);
        assert_eq!(fault, DecodeError::ResponseTopic);
        assert_eq!(fault.reason(), ReasonCode::ProtocolError);
    }
    assert_eq!(
        refusal(Some(V5), &[0x30, 7, 0, 1, b't', 3, 0x08, 0, 0]),
        DecodeError::ResponseTopic
    );
}

#[test]
fn properties_are_known_single_in_place_and_in_range() {
    use DecodeError::*;
    let cases: [(&[u8], DecodeError); 9] = [
        (&[0x04, 0], UnknownProperty { id: 4 }),
        (&[0x80, 0x00], VariableByteInteger),
        (
            &[0x11, 0, 0, 0, 1],
            PropertyNotAllowed {
                property: "Session Expiry Interval",
                packet: "PUBLISH",
            },
        ),
        (&[0x11, 0, 0], Truncated),
        (
            &[0x01, 1, 0x01, 1],
            DuplicateProperty {
                property: "Payload Format Indicator",
            },
        ),
        (
            &[0x01, 2],
            PropertyValue {
                property: "Payload Format Indicator",
            },
        ),
        (
            &[0x0B, 0],
            PropertyValue {
                property: "Subscription Identifier",
            },
        ),
        (&[0x0B, 0x80, 0x00], VariableByteInteger),
        (&[0x26, 0, 1, b'k'], Truncated),
    ];
    for (properties, fault) in cases {
        let mut bytes = vec![
            0x30,
            4 + properties.len() as u8,
            0,
            1,
            b't',
            properties.len() as u8,
        ];
        bytes.extend_from_slice(properties);
        assert_eq!(refusal(Some(V5), &bytes), fault);
    }
}

#[test]
fn connect_maxima_are_not_zero() {
    for properties in [&[0x21, 0, 0][..], &[0x27, 0, 0, 0, 0], &[0x16, 0, 0]] {
        let fault = refusal(None, &connect_v5_with(properties));
        assert_eq!(fault.reason(), ReasonCode::ProtocolError, "{fault}");
    }
    accept(None, &connect_v5_with(&[0x22, 0, 0]));
}

#[test]
fn subscription_options_are_judged() {
    let with_options = |options| [0x82, 7, 0, 1, 0, 0, 1, b't', options];
    assert_eq!(refusal(Some(V5), &with_options(3)), DecodeError::QoS { value: 3 });
    for options in [0x30, 0x40, 0x80] {
        assert_eq!(
            refusal(Some(V5), &with_options(options)),
            DecodeError::SubscriptionOptions { options }
        );
    }
    let before_v5 = [0x82, 6, 0, 1, 0, 1, b't', 4];
    assert_eq!(
        refusal(Some(V311), &before_v5),
        DecodeError::SubscriptionOptions { options: 4 }
    );
}

#[test]
fn a_shared_subscription_takes_its_own_messages_too() {
    let mut bytes = vec![0x82, 16, 0, 1, 0, 0, 10];
    bytes.extend_from_slice(b"$share/g/t\x04");
    let fault = refusal(Some(V5), &bytes);
    assert_eq!(fault, DecodeError::NoLocalOnShared);
    assert_eq!(fault.reason(), ReasonCode::ProtocolError);
}

#[test]
fn empty_lists_and_empty_filters_are_refused() {
    assert_eq!(
        refusal(Some(V311), &[0x82, 2, 0, 1]),
        DecodeError::EmptyPayload { packet: "SUBSCRIBE" }
    );
    assert_eq!(
        refusal(Some(V311), &[0xA2, 2, 0, 1]),
        DecodeError::EmptyPayload {
            packet: "UNSUBSCRIBE"
        }
    );
    assert_eq!(
        refusal(Some(V311), &[0x90, 2, 0, 1]),
        DecodeError::EmptyPayload { packet: "SUBACK" }
    );
    assert_eq!(
        refusal(Some(V311), &[0xA2, 4, 0, 1, 0, 0]),
        DecodeError::EmptyTopicFilter
    );
}

#[test]
fn reason_codes_belong_to_their_packets() {
    for bytes in [
        &[0x40, 3, 0, 1, 0x92][..],
        &[0x62, 3, 0, 1, 0x87],
        &[0x70, 3, 0, 1, 0x10],
        &[0xE0, 1, 0x01],
        &[0xE0, 1, 0x86],
        &[0xF0, 2, 0x80, 0],
        &[0x20, 3, 0, 0x8D, 0],
        &[0x90, 4, 0, 1, 0, 0x11],
        &[0xB0, 4, 0, 1, 0, 0x01],
        &[0x40, 3, 0, 1, 0xFF],
    ] {
        let fault = refusal(Some(V5), bytes);
        assert!(
            matches!(fault, DecodeError::ReasonCode { .. }),
            "{bytes:02X?}: {fault}"
        );
        assert_eq!(fault.reason(), ReasonCode::ProtocolError);
    }
}

#[test]
fn a_refusal_promises_no_session() {
    assert_eq!(
        refusal(Some(V311), &[0x20, 2, 1, 5]),
        DecodeError::ConnAckFlags { flags: 1 }
    );
    assert_eq!(
        refusal(Some(V311), &[0x20, 2, 2, 0]),
        DecodeError::ConnAckFlags { flags: 2 }
    );
}

#[test]
fn the_short_forms_of_mqtt_5_mean_success() {
    assert_eq!(
        accept(Some(V5), &[0x40, 2, 0, 7]),
        Packet::PubAck(Ack::new(7, ReasonCode::Success))
    );
    assert_eq!(
        accept(Some(V5), &[0x62, 3, 0, 7, 0x92]),
        Packet::PubRel(Ack::new(7, ReasonCode::PacketIdentifierNotFound))
    );
    assert_eq!(
        accept(Some(V5), &[0xE0, 0]),
        Packet::Disconnect(Disconnect::new(ReasonCode::Success))
    );
    assert_eq!(
        accept(Some(V5), &[0xE0, 1, 0x8B]),
        Packet::Disconnect(Disconnect::new(ReasonCode::ServerShuttingDown))
    );
    assert!(matches!(accept(Some(V5), &[0xF0, 0]), Packet::Auth(auth) if auth.reason == ReasonCode::Success));
}

#[test]
fn older_versions_are_given_what_they_can_read() {
    let written = |packet: Packet, version| {
        let mut out = BytesMut::new();
        packet.encode(version, &mut out).map(|()| out.to_vec())
    };
    let refused = ConnAck {
        reason: ReasonCode::NotAuthorized,
        ..ConnAck::default()
    };
    assert_eq!(
        written(Packet::ConnAck(Box::new(refused)), V311),
        Ok(vec![0x20, 2, 0, 5])
    );
    let resumed = ConnAck {
        session_present: true,
        ..ConnAck::default()
    };
    assert_eq!(
        written(Packet::ConnAck(Box::new(resumed)), V31),
        Ok(vec![0x20, 2, 0, 0])
    );
    let suback = SubAck {
        packet_id: 1,
        reason_string: Some(ByteString::from("no")),
        user_properties: vec![],
        reasons: vec![ReasonCode::NotAuthorized, ReasonCode::GrantedQoS2],
    };
    assert_eq!(
        written(Packet::SubAck(suback), V311),
        Ok(vec![0x90, 4, 0, 1, 0x80, 2])
    );
    let rejected = Ack::new(1, ReasonCode::QuotaExceeded);
    assert_eq!(written(Packet::PubAck(rejected), V311), Ok(vec![0x40, 2, 0, 1]));
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let mut out = BytesMut::new();
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: ByteString::from("t"),
        packet_id: 0,
        properties: None,
        payload: Bytes::new(),
    };
    assert_eq!(publish.encode(V5, &mut out), Err(EncodeError::PacketIdZero));
    let long_topic = Publish {
        qos: QoS::AtMostOnce,
        topic: "t".repeat(65_536).into(),
        ..publish.clone()
    };
    assert_eq!(long_topic.encode(V5, &mut out), Err(EncodeError::FieldTooLong));
    let no_topic = Publish {
        qos: QoS::AtMostOnce,
        topic: ByteString::new(),
        ..publish
    };
    assert!(matches!(
        no_topic.encode(V311, &mut out),
        Err(EncodeError::NotInVersion { .. })
    ));
    let subscribe = Subscribe {
        packet_id: 1,
        subscription_identifier: None,
        user_properties: vec![],
        filters: vec![],
    };
    assert_eq!(
        Packet::Subscribe(subscribe).encode(V5, &mut out),
        Err(EncodeError::EmptyPayload)
    );
    assert!(out.is_empty());
}

#[test]
fn secrets_are_not_printed() {
    let bytes = [
        0x10, 20, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xC2, 0, 9, 0, 0, 0, 1, b'u', 0, 3, b'x', b'y', b'z',
    ];
    let printed = format!("{:?}", accept(None, &bytes));
    assert!(printed.contains("password: Some(redacted)"), "{printed}");
    assert!(!printed.contains("xyz"), "{printed}");
    let printed = format!(
        "{:?}",
        accept(Some(V5), &[0xF0, 10, 0x18, 8, 0x15, 0, 1, b'm', 0x16, 0, 1, b'x'])
    );
    assert!(
        printed.contains("authentication_data: Some(redacted)"),
        "{printed}"
    );
}

#[test]
fn a_payload_is_a_slice_of_what_was_received() {
    let mut received = BytesMut::from(&[0x30, 6, 0, 1, b't', 1, 2, 3][..]);
    let payload_at = received[5..].as_ptr();
    let Ok(Some(Packet::Publish(publish))) = decode(&mut received, Some(V311), 100) else {
        panic!("a PUBLISH")
    };
    assert_eq!(publish.payload.as_ptr(), payload_at);
}

#[test]
fn reason_codes_have_their_numbers_and_names() {
    for &reason in ReasonCode::ALL {
        assert_eq!(ReasonCode::try_from(reason as u8), Ok(reason));
        assert_eq!(reason.is_error(), reason as u8 >= 0x80);
    }
    assert_eq!(ReasonCode::ALL.len(), 43);
    assert!(ReasonCode::try_from(0x03).is_err());
    assert_eq!(ReasonCode::TopicAliasInvalid.to_string(), "Topic Alias invalid");
}

fn refusal(version: Option<ProtocolVersion>, bytes: &[u8]) -> DecodeError {
    decode(&mut BytesMut::from(bytes), version, 1 << 20).expect_err("a packet that breaks a rule")
}

fn accept(version: Option<ProtocolVersion>, bytes: &[u8]) -> Packet {
    let packet = decode(&mut BytesMut::from(bytes), version, 1 << 20);
    packet
        .expect("a packet that breaks no rule")
        .expect("a whole packet")
}

/// A CONNECT before MQTT 5 with a client identifier of one letter.
fn connect(name: &[u8], level: u8, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0x10, name.len() as u8 + 9, 0, name.len() as u8];
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&[level, flags, 0, 60, 0, 1, b'c']);
    bytes
}

fn connect_v5_with(properties: &[u8]) -> Vec<u8> {
    let length = properties.len() as u8;
    let mut bytes = vec![
        0x10,
        13 + length,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        5,
        2,
        0,
        60,
        length,
    ];
    bytes.extend_from_slice(properties);
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// A QoS 0 PUBLISH before MQTT 5, without a payload.
fn publish_to(topic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x30, topic.len() as u8 + 2, 0, topic.len() as u8];
    bytes.extend_from_slice(topic);
    bytes
}
