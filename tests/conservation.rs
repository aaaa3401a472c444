//! Every fate that a message can have, and the sum of them. That the sum holds after every other test too is
//! seen to where a daemon is dropped (`support/daemon.rs`).

use bytes::BytesMut;
use bytestring::ByteString;
use topics::packet::{
    Ack, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode,
    Subscribe, SubscribeFilter, SubscriptionOptions, Unsubscribe,
};

use crate::support::daemon::Daemon;
use crate::support::raw::RawClient;
use crate::support::wait_for;

const V5: ProtocolVersion = ProtocolVersion::V5;

fn send(client: &mut RawClient, packet: &Packet) {
    let mut bytes = BytesMut::new();
    packet.encode(V5, &mut bytes).expect("a packet of MQTT 5");
    client.send(&bytes);
}

fn connect(daemon: &Daemon, name: &str, properties: ConnectProperties) -> RawClient {
    connect_with(daemon, name, false, properties)
}

fn connect_with(daemon: &Daemon, name: &str, clean_start: bool, properties: ConnectProperties) -> RawClient {
    let mut client = RawClient::open(daemon.mqtt);
    let connect = Connect {
        protocol: V5,
        is_bridge: false,
        clean_start,
        keep_alive_s: 0,
        client_id: name.into(),
        username: None,
        password: None,
        will: None,
        properties,
    };
    send(&mut client, &Packet::Connect(Box::new(connect)));
    assert_eq!(client.connack_code(), 0);
    client
}

/// A session that outlives its connection.
fn kept() -> ConnectProperties {
    ConnectProperties {
        session_expiry_interval_s: Some(600),
        ..ConnectProperties::default()
    }
}

fn subscribe(client: &mut RawClient, filter: &str) {
    let filter = SubscribeFilter {
        filter: filter.into(),
        options: SubscriptionOptions::new(QoS::ExactlyOnce),
    };
    let subscribe = Subscribe {
        packet_id: 1,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![filter],
    };
    send(client, &Packet::Subscribe(subscribe));
    assert_eq!(client.packet().expect("a SUBACK")[0], 0x90);
}

fn publish(
    client: &mut RawClient,
    topic: &str,
    qos: QoS,
    payload_bytes: usize,
    expires_after_s: Option<u32>,
) {
    let properties = expires_after_s.map(|seconds| {
        Box::new(PublishProperties {
            message_expiry_interval_s: Some(seconds),
            ..PublishProperties::default()
        })
    });
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: ByteString::from(topic),
        packet_id: u16::from(qos > QoS::AtMostOnce) * 7,
        properties,
        payload: vec![b'x'; payload_bytes].into(),
    };
    send(client, &Packet::Publish(publish));
    match qos {
        QoS::AtMostOnce => {}
        QoS::AtLeastOnce => assert_eq!(client.packet().expect("a PUBACK")[0], 0x40),
        QoS::ExactlyOnce => {
            assert_eq!(client.packet().expect("a PUBREC")[0], 0x50);
            send(client, &Packet::PubRel(Ack::new(7, ReasonCode::Success)));
            assert_eq!(client.packet().expect("a PUBCOMP")[0], 0x70);
        }
    }
}

/// The packet identifier of the next PUBLISH, which is at QoS 1 or 2.
fn delivered(client: &mut RawClient) -> u16 {
    let packet = client.packet().expect("a PUBLISH");
    assert_eq!(packet[0] >> 4, 3, "{packet:02x?}");
    let topic_bytes = usize::from(packet[3]);
    u16::from_be_bytes([packet[4 + topic_bytes], packet[5 + topic_bytes]])
}

fn counted(daemon: &Daemon, name: &str, count: f64) {
    let name = format!("clawdbot_mqtt_{name}");
    wait_for(&format!("{name} = {count}"), || {
        (daemon.metric(&name) == Some(count)).then_some(())
    });
}

fn daemon() -> Daemon {
    Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.max_queued_messages", 3)
        .start()
}

#[test]
fn what_a_client_takes_is_completed_and_what_it_refuses_is_said_so() {
    let daemon = daemon();
    let mut reader = connect(&daemon, "reader", kept());
    subscribe(&mut reader, "t");
    let mut writer = connect(&daemon, "writer", ConnectProperties::default());
    publish(&mut writer, "t", QoS::AtMostOnce, 1, None);
    assert!(reader.packet().is_some());
    counted(&daemon, "deliveries_completed_total", 1.0);

    publish(&mut writer, "t", QoS::AtLeastOnce, 1, None);
    let id = delivered(&mut reader);
    counted(&daemon, "deliveries_waiting", 1.0);
    send(&mut reader, &Packet::PubAck(Ack::new(id, ReasonCode::Success)));
    counted(&daemon, "deliveries_completed_total", 2.0);

    publish(&mut writer, "t", QoS::ExactlyOnce, 1, None);
    let id = delivered(&mut reader);
    send(&mut reader, &Packet::PubRec(Ack::new(id, ReasonCode::Success)));
    counted(&daemon, "deliveries_completed_total", 3.0);
    // The end of the handshake is still missing, but the message is the client's.
    counted(&daemon, "deliveries_waiting", 0.0);

    for (qos, refuse) in [
        (QoS::AtLeastOnce, Packet::PubAck as fn(Ack) -> Packet),
        (QoS::ExactlyOnce, Packet::PubRec as fn(Ack) -> Packet),
    ] {
        publish(&mut writer, "t", qos, 1, None);
        let mut id = delivered_or_released(&mut reader);
        while id.is_none() {
            id = delivered_or_released(&mut reader);
        }
        let ack = Ack::new(id.expect("a PUBLISH"), ReasonCode::ImplementationSpecificError);
        send(&mut reader, &refuse(ack));
    }
    counted(&daemon, "messages_dropped_refused_total", 2.0);
    counted(&daemon, "deliveries_waiting", 0.0);
}

fn delivered_or_released(client: &mut RawClient) -> Option<u16> {
    let packet = client.packet().expect("a packet");
    let topic_bytes = usize::from(packet[3]);
    (packet[0] >> 4 == 3).then(|| u16::from_be_bytes([packet[4 + topic_bytes], packet[5 + topic_bytes]]))
}

#[test]
fn what_does_not_reach_a_client_is_counted_by_its_reason() {
    let daemon = daemon();
    let mut away = connect(&daemon, "away", kept());
    subscribe(&mut away, "t/#");
    drop(away);
    counted(&daemon, "connections", 0.0);
    let mut writer = connect(&daemon, "writer", ConnectProperties::default());
    publish(&mut writer, "t/offline", QoS::AtMostOnce, 1, None);
    counted(&daemon, "messages_dropped_offline_total", 1.0);

    publish(&mut writer, "t/expired", QoS::AtLeastOnce, 1, Some(1));
    publish(&mut writer, "t/large", QoS::AtLeastOnce, 1000, None);
    publish(&mut writer, "t/kept", QoS::AtLeastOnce, 1, None);
    counted(&daemon, "deliveries_waiting", 3.0);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    publish(&mut writer, "t/kept", QoS::ExactlyOnce, 1, None);
    // The expired one made room for the last.
    counted(&daemon, "messages_dropped_expired_total", 1.0);
    publish(&mut writer, "t/too much", QoS::AtLeastOnce, 1, None);
    counted(&daemon, "messages_dropped_queue_full_total", 1.0);

    let small = ConnectProperties {
        maximum_packet_size: Some(100),
        session_expiry_interval_s: Some(0),
        ..ConnectProperties::default()
    };
    let mut back = connect(&daemon, "away", small);
    counted(&daemon, "messages_dropped_too_large_total", 1.0);
    assert!(delivered(&mut back) > 0);
    assert!(delivered(&mut back) > 0);
    drop(back);
    counted(&daemon, "messages_dropped_session_ended_total", 2.0);
    counted(&daemon, "deliveries_waiting", 0.0);
    counted(&daemon, "deliveries_total", 6.0);

    publish(&mut writer, "nobody", QoS::AtLeastOnce, 1, None);
    counted(&daemon, "messages_without_receiver_total", 1.0);
}

#[test]
fn a_session_that_begins_anew_has_nothing_of_what_waited_for_the_one_before() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let mut reader = connect(&daemon, "reader", kept());
    subscribe(&mut reader, "t");
    let mut writer = connect(&daemon, "writer", ConnectProperties::default());
    // More than a session takes in while its client acknowledges nothing.
    for _ in 0..400 {
        publish(&mut writer, "t", QoS::AtLeastOnce, 1, None);
    }
    let unsubscribe = Unsubscribe {
        packet_id: 1,
        user_properties: Vec::new(),
        filters: vec!["t".into()],
    };
    send(&mut reader, &Packet::Unsubscribe(unsubscribe));
    while reader.packet().expect("an UNSUBACK")[0] != 0xB0 {}

    let mut anew = connect_with(&daemon, "reader", true, kept());
    for _ in 0..2 {
        send(&mut anew, &Packet::PingReq);
        assert_eq!(anew.packet().expect("a PINGRESP")[0], 0xD0, "and no PUBLISH");
    }
    counted(&daemon, "messages_dropped_session_ended_total", 400.0);
}

#[test]
fn once_a_clean_start_is_answered_nothing_comes_by_what_was_subscribed_before() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let mut writer = connect(&daemon, "writer", ConnectProperties::default());
    for _ in 0..100 {
        let mut before = connect(&daemon, "reader", kept());
        subscribe(&mut before, "t");
        let mut anew = connect_with(&daemon, "reader", true, kept());
        publish(&mut writer, "t", QoS::AtLeastOnce, 1, None);
        send(&mut anew, &Packet::PingReq);
        assert_eq!(anew.packet().expect("a PINGRESP")[0], 0xD0, "and no PUBLISH");
    }
}
