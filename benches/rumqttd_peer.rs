//! rumqttd with the settings of its own `rumqttd.toml`, for `benches/brokers.sh` to measure against.
//!
//! `cargo bench` runs every bench target; without a port this one has nothing to do and ends.

#![allow(
    clippy::expect_used,
    reason = "a bench that cannot make its fixture should stop at once"
)]

use serde_json::json;

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "--port").skip(1);
    let Some(port) = args.next() else {
        println!("rumqttd_peer: give it `--port N`; benches/brokers.sh does");
        return;
    };
    let config = json!({
        "id": 0,
        "router": {
            "id": 0,
            "max_connections": 10010,
            "max_outgoing_packet_count": 200,
            "max_segment_size": 104_857_600,
            "max_segment_count": 10,
        },
        "v4": {
            "1": {
                "name": "v4-1",
                "listen": format!("127.0.0.1:{port}"),
                "next_connection_delay_ms": 1,
                "connections": {
                    "connection_timeout_ms": 60_000,
                    "max_payload_size": 20_480,
                    "max_inflight_count": 100,
                    "dynamic_filters": true,
                },
            },
        },
    });
    let config: rumqttd::Config = serde_json::from_value(config).expect("settings that rumqttd reads");
    rumqttd::Broker::new(config).start().expect("rumqttd starts");
}
