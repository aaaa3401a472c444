//! Who says nothing, half of something, or something else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Everywhere;
use super::wires::{ALL, Frames, tcp};
use crate::support::raw::connect;
use crate::support::wait_for;

const SILENT: usize = 100;

/// Connections that have begun a handshake and will not go on.
fn silent(everywhere: &Everywhere, count: usize) -> Vec<TcpStream> {
    let listeners = ["tls", "websocket", "secure websocket"].map(|name| everywhere.daemon.listener(name));
    (0..count)
        .map(|number| {
            let mut stream = tcp(listeners[number % listeners.len()]);
            // The beginning of a TLS record, or of an HTTP request; some do not even say that.
            let beginning: &[u8] = match number % 6 {
                0 => &[0x16, 0x03],
                1 => b"GET /mqtt HT",
                _ => b"",
            };
            stream.write_all(beginning).expect("the daemon listens");
            stream
        })
        .collect()
}

#[test]
fn handshakes_that_do_not_go_on_hold_nobody_up() {
    // Long enough that none of them is thrown out while others come in.
    let Some(everywhere) = Everywhere::start_with(|launch| launch.set("mqtt.connect_timeout_s", 3600)) else {
        return;
    };
    let silent = silent(&everywhere, SILENT);
    let token = everywhere.daemon.token("phone");
    for way in ALL {
        let mut client = everywhere.open(way);
        client.send(&connect(5, "phone", Some(&token)));
        assert_eq!(client.connack_code(), 0, "{way:?}");
    }
    for mut stream in silent {
        stream.set_nonblocking(true).expect("a socket");
        let still_waits = stream
            .read(&mut [0])
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(still_waits, "it was closed before its time");
    }
}

#[test]
fn who_does_not_finish_its_handshake_and_connect_in_time_is_closed_and_counted() {
    let Some(everywhere) = Everywhere::start_with(|launch| launch.set("mqtt.connect_timeout_s", 1)) else {
        return;
    };
    let silent = silent(&everywhere, 12);
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).expect("the daemon closes"), 0);
    }
    wait_for("all to be counted", || {
        let failed = everywhere.daemon.metric("clawdbot_mqtt_handshakes_failed_total");
        (failed == Some(12.0)).then_some(())
    });
    // A handshake alone is not enough.
    let mut frames = Frames::open(tcp(everywhere.daemon.listener("websocket")));
    assert!(!matches!(frames.read(&mut [0]), Ok(1..)));
}

#[test]
fn garbage_instead_of_tls_is_closed_and_others_go_on() {
    let Some(everywhere) = Everywhere::start() else {
        return;
    };
    let token = everywhere.daemon.token("phone");
    let mut bystander = everywhere.open(super::wires::Way::Tls);
    bystander.send(&connect(5, "phone", Some(&token)));
    assert_eq!(bystander.connack_code(), 0);
    let plain = connect(5, "plain", Some(&everywhere.daemon.token("phone")));
    for garbage in [
        &plain[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 1000],
        &[0x16, 3, 1, 255, 255],
    ] {
        for listener in ["tls", "secure websocket"] {
            let mut stream = tcp(everywhere.daemon.listener(listener));
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(garbage).unwrap();
            // An alert may come before the end; a reset is an end too.
            let _alert = stream.read_to_end(&mut Vec::new());
        }
    }
    wait_for("all to be counted", || {
        let failed = everywhere.daemon.metric("clawdbot_mqtt_handshakes_failed_total");
        (failed == Some(8.0)).then_some(())
    });
    bystander.send(&[0xC0, 0]);
    assert_eq!(bystander.packet().expect("a PINGRESP"), [0xD0, 0]);
}
