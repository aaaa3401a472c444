//! Python's paho-mqtt against our broker, with MQTT 3.1.1 and 5.0: `tests/clients/paho_client.py`
//! does the talking, a scenario at a time.

use std::path::Path;
use std::process::Command;

use crate::support::daemon::Daemon;
use crate::support::data::stories;
use crate::support::foreign::python_with_paho;
use crate::support::process;

const BOTH: [&str; 2] = ["3.1.1", "5"];

/// Runs a scenario of the script with both versions of the protocol.
fn scenario(name: &str, daemon: &Daemon) {
    scenario_over("tcp", daemon.mqtt.port(), name, daemon, &BOTH);
}

fn scenario_over(transport: &str, port: u16, name: &str, daemon: &Daemon, versions: &[&str]) {
    let Some(python) = python_with_paho() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/paho_client.py");
    for version in versions {
        let mut command = Command::new(&python);
        command
            .arg(&script)
            .args([
                name,
                version,
                &port.to_string(),
                &daemon.tokens("phone"),
                transport,
            ])
            .env("PYTHONDONTWRITEBYTECODE", "1");
        process::finish(&mut command).assert_code(0);
    }
}

#[test]
fn qos_2_both_ways() {
    scenario("qos2", &Daemon::launch().start());
}

#[test]
fn over_breaking_connections_qos_2_loses_and_repeats_nothing() {
    scenario("qos2_over_breaking_connections", &Daemon::launch().start());
}

#[test]
fn a_kept_session_has_all_that_came_meanwhile_in_order() {
    scenario("session", &Daemon::launch().start());
}

#[test]
fn what_mqtt_5_says_with_messages_subscriptions_and_wills_arrives() {
    let daemon = Daemon::launch().start();
    scenario_over("tcp", daemon.mqtt.port(), "properties", &daemon, &["5"]);
}

#[test]
fn a_will_is_told_when_the_socket_breaks_and_not_after_a_goodbye() {
    scenario("will", &Daemon::launch().start());
}

#[test]
fn the_newer_connection_of_a_client_id_takes_over() {
    scenario("takeover", &Daemon::launch().start());
}

#[test]
fn a_short_keep_alive_is_kept_by_pings_and_missed_by_silence() {
    scenario("keepalive", &Daemon::launch().start());
}

#[test]
fn retained_messages_come_with_the_subscription_and_go_when_cleared() {
    scenario("retained", &Daemon::launch().start());
}

#[test]
fn after_unsubscribing_nothing_comes() {
    scenario("unsubscribe", &Daemon::launch().start());
}

#[test]
fn over_websocket_it_is_all_the_same() {
    let daemon = Daemon::launch().start();
    let port = daemon.listener("websocket").port();
    for name in ["qos2", "takeover", "keepalive", "retained", "unsubscribe"] {
        scenario_over("websockets", port, name, &daemon, &BOTH);
    }
}

#[test]
fn a_request_is_answered() {
    let Some(model) = stories() else { return };
    scenario("ask", &Daemon::with_model(&model));
}
