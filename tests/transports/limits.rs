//! Limits at the door: who may come at all, how many, how often.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::Everywhere;
use super::wires::{Way, tcp};
use crate::support::daemon::{Daemon, Home, start};
use crate::support::raw::{RawClient, connect};
use crate::support::{say, wait_for};

const NOT_AUTHORIZED_V4: u8 = 5;
const BANNED_V5: u8 = 0x8A;

/// An address of this machine that is not loopback, if it has a network at all.
fn own_address() -> Option<IpAddr> {
    // Nothing is sent: connecting a datagram socket only chooses the route.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.77:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn on_all_interfaces() -> crate::support::daemon::Launch {
    Daemon::launch()
        .set("mqtt.tcp", "0.0.0.0:0")
        .set("mqtt.allow_plaintext_beyond_loopback", true)
}

fn is_answered(address: SocketAddr, client_id: &str, token: &str) -> bool {
    let mut client = RawClient::open(address);
    client.send(&connect(5, client_id, Some(token)));
    client.packet().is_some()
}

#[test]
fn who_comes_from_beyond_the_private_networks_is_closed_and_counted_unless_that_is_allowed() {
    let Some(address) = own_address() else {
        return say("this machine has no network, so that the ranges are tried by unit tests alone");
    };
    let private = match address {
        IpAddr::V4(address) => address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    };
    for allowed in [false, true] {
        let daemon = on_all_interfaces()
            .set("mqtt.allow_beyond_private_network", allowed)
            .start();
        let token = daemon.token("phone");
        let from_there = SocketAddr::new(address, daemon.mqtt.port());
        let from_here = SocketAddr::from(([127, 0, 0, 1], daemon.mqtt.port()));
        assert_eq!(is_answered(from_there, "there", &token), allowed || private);
        assert!(is_answered(from_here, "here", &daemon.token("phone")));
        let refused = daemon.metric("clawdbot_mqtt_connections_refused_beyond_private_network_total");
        let expected = if allowed || private { 0.0 } else { 1.0 };
        assert_eq!(refused, Some(expected), "{address}");
    }
}

#[test]
fn one_address_has_its_number_of_connections_and_this_machine_as_many_as_there_are() {
    let Some(address) = own_address() else {
        return say("this machine has no network, so that the limit is tried by unit tests alone");
    };
    let daemon = on_all_interfaces()
        .set("mqtt.allow_beyond_private_network", true)
        .set("mqtt.max_connections_per_address", 3)
        .set("mqtt.max_connections", 8)
        .start();
    let from_there = SocketAddr::new(address, daemon.mqtt.port());
    let from_here = SocketAddr::from(([127, 0, 0, 1], daemon.mqtt.port()));
    let admitted =
        |address, client_id: &str| RawClient::admitted(address, 5, client_id, &daemon.token("phone"));
    let mut clients: Vec<_> = (0..3)
        .map(|number| admitted(from_there, &format!("there{number}")))
        .collect();
    assert!(!is_answered(from_there, "there3", &daemon.token("phone")));
    clients.extend((0..5).map(|number| admitted(from_here, &format!("here{number}"))));
    assert!(!is_answered(from_here, "here5", &daemon.token("phone")));
    assert_eq!(
        daemon.metric("clawdbot_mqtt_connections_refused_address_limit_total"),
        Some(1.0)
    );
    assert_eq!(
        daemon.metric("clawdbot_mqtt_connections_refused_total"),
        Some(1.0)
    );
    // One that goes makes room for the next from there.
    clients.remove(0);
    wait_for("room", || {
        is_answered(from_there, "there4", &daemon.token("phone")).then_some(())
    });
}

/// Connects, is let in, and goes.
fn come_and_go(daemon: &Daemon, level: u8, client_id: &str, token: &str) {
    let mut client = RawClient::admitted(daemon.mqtt, level, client_id, token);
    client.send(&[0xE0, 0]);
    client.assert_closed();
}

#[test]
fn a_client_that_flaps_is_banned_with_the_protocols_own_word_and_let_in_again_later() {
    let daemon = Daemon::launch().set("flapping.ban_s", 2).start();
    let (phone, tablet) = (daemon.token("phone"), daemon.token("tablet"));
    let answer = |level, token: &str| {
        let mut client = RawClient::open(daemon.mqtt);
        client.send(&connect(level, "flapping", Some(token)));
        client.connack_code()
    };
    for _ in 0..15 {
        come_and_go(&daemon, 5, "flapping", &phone);
    }
    wait_for("the ban", || {
        (daemon.metric("clawdbot_mqtt_clients_banned_total") == Some(1.0)).then_some(())
    });
    assert_eq!(answer(5, &phone), BANNED_V5);
    assert_eq!(answer(4, &phone), NOT_AUTHORIZED_V4);
    // Not the device is banned but its client, and nobody else's of the same name.
    come_and_go(&daemon, 5, "other", &daemon.token("phone"));
    come_and_go(&daemon, 5, "flapping", &tablet);
    let refused = daemon.metric("clawdbot_mqtt_connections_refused_banned_total");
    assert_eq!(refused, Some(2.0));
    wait_for("the ban's end", || (answer(5, &phone) == 0).then_some(()));
}

#[test]
fn clients_that_take_a_session_from_each_other_all_the_time_flap_too() {
    let daemon = Daemon::launch().set("flapping.max_disconnects", 3).start();
    let token = daemon.token("phone");
    let mut both = Vec::new();
    for _ in 0..4 {
        both.push(RawClient::admitted(daemon.mqtt, 5, "twin", &token));
    }
    both.iter_mut().take(3).for_each(|client| {
        assert_eq!(client.disconnect_reason(), 0x8E, "session taken over");
    });
    wait_for("the ban", || {
        (daemon.metric("clawdbot_mqtt_clients_banned_total") == Some(1.0)).then_some(())
    });
    let mut late = RawClient::open(daemon.mqtt);
    late.send(&connect(5, "twin", Some(&token)));
    assert_eq!(late.connack_code(), BANNED_V5);
}

#[test]
fn nobody_is_banned_where_that_is_switched_off() {
    let daemon = Daemon::launch().set("flapping.max_disconnects", 0).start();
    let token = daemon.token("phone");
    for _ in 0..40 {
        come_and_go(&daemon, 4, "often", &token);
    }
}

/// `serve` with a limit on open files.
fn with_open_files(limit: &str, max_connections: usize) -> Daemon {
    let home = Home::new();
    let daemon = home.command(&["serve"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" serve")])
        .arg(daemon.get_program());
    for (name, value) in daemon.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("CLAWDBOT__MQTT__MAX_CONNECTIONS", max_connections.to_string());
    start(home, command)
}

#[test]
fn too_few_open_files_are_said_at_the_start_and_the_rest_is_refused_at_once() {
    const COMPLAINT: &str = "too few open files for mqtt.max_connections";
    let daemon = with_open_files("-n 160", 1000);
    let log = daemon.log();
    assert!(
        log.contains(COMPLAINT) && log.contains("\"possible\":32"),
        "{log}"
    );
    let _clients: Vec<_> = (0..32)
        .map(|number| RawClient::admitted(daemon.mqtt, 5, &format!("client{number}"), &daemon.token("phone")))
        .collect();
    assert!(!is_answered(daemon.mqtt, "one more", &daemon.token("phone")));

    // A soft limit alone is raised.
    let raised = with_open_files("-S -n 100", 200);
    assert!(!raised.log().contains(COMPLAINT), "{}", raised.log());
}

#[test]
fn the_unix_socket_is_the_owners_and_a_daemon_that_was_killed_does_not_block_the_next() {
    let Some(everywhere) = Everywhere::start() else {
        return;
    };
    let mode = std::fs::metadata(everywhere.unix()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let path = everywhere.unix();
    let Everywhere { daemon, pair } = everywhere;
    // Dropped, it is killed.
    drop(daemon);
    assert!(path.exists(), "killed, it left its socket");
    let again = Everywhere {
        daemon: Daemon::launch().set("mqtt.unix", path.display()).start(),
        pair,
    };
    let mut client = again.open(Way::Unix);
    client.send(&connect(5, "phone", Some(&again.daemon.token("phone"))));
    assert_eq!(client.connack_code(), 0);
}

#[test]
fn without_authentication_pages_of_other_places_are_refused_a_websocket() {
    use std::io::Write;
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let mut stream = tcp(daemon.listener("websocket"));
    let request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nOrigin: https://example.org\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}
