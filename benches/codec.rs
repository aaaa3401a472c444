//! What a PUBLISH costs to read and to write, ours and rumqttd's side by side: 100 bytes and 4 KiB of
//! payload, MQTT 3.1.1 and 5.0. Both read from a buffer that holds one packet, and both write into one
//! that has room.

#![allow(
    clippy::expect_used,
    reason = "a bench that cannot make its fixture should stop at once"
)]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rumqttd::protocol as theirs;
use rumqttd::protocol::Protocol;
use topics::packet::{Packet, ProtocolVersion, Publish, QoS, decode_from_client};

const MAX_PACKET_BYTES: usize = 1 << 20;

fn cases() -> impl Iterator<Item = (ProtocolVersion, usize, String)> {
    let versions = [(ProtocolVersion::V311, "v4"), (ProtocolVersion::V5, "v5")];
    versions.into_iter().flat_map(|(version, name)| {
        [100, 4096].map(|payload_bytes| (version, payload_bytes, format!("{name}/{payload_bytes}B")))
    })
}

fn publish(payload_bytes: usize) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: ByteString::from_static("clawdbot/mobile/telemetry/temperature"),
        packet_id: 7,
        properties: None,
        payload: Bytes::from(vec![0x55; payload_bytes]),
    })
}

fn written(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    packet
        .encode(version, &mut out)
        .expect("a packet that can be written");
    out
}

fn they_read(bytes: &mut BytesMut, version: ProtocolVersion) -> theirs::Packet {
    let read = match version {
        ProtocolVersion::V5 => theirs::v5::V5.read_mut(bytes, MAX_PACKET_BYTES),
        _ => theirs::v4::V4.read_mut(bytes, MAX_PACKET_BYTES),
    };
    read.expect("a packet they read")
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (version, payload_bytes, name) in cases() {
        let bytes = written(&publish(payload_bytes), version);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("clawdbot", &name), |b| {
            let read = |mut bytes: BytesMut| {
                decode_from_client(black_box(&mut bytes), Some(version), MAX_PACKET_BYTES)
            };
            b.iter_batched(|| bytes.clone(), read, BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("rumqttd", &name), |b| {
            let read = |mut bytes: BytesMut| they_read(black_box(&mut bytes), version);
            b.iter_batched(|| bytes.clone(), read, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (version, payload_bytes, name) in cases() {
        let packet = publish(payload_bytes);
        let their_packet = they_read(&mut written(&packet, version), version);
        let mut out = BytesMut::with_capacity(2 * payload_bytes);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("clawdbot", &name), |b| {
            b.iter(|| {
                out.clear();
                black_box(&packet)
                    .encode(version, &mut out)
                    .expect("a packet that can be written");
                out.len()
            });
        });
        // Their writer takes the packet: the clone that every receiver costs belongs to it.
        group.bench_function(BenchmarkId::new("rumqttd", &name), |b| {
            b.iter(|| {
                out.clear();
                let packet = black_box(&their_packet).clone();
                match version {
                    ProtocolVersion::V5 => theirs::v5::V5.write(packet, &mut out),
                    _ => theirs::v4::V4.write(packet, &mut out),
                }
            });
        });
    }
    group.finish();
}

criterion_group!(codec, decode, encode);
criterion_main!(codec);
