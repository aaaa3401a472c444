//! Clients that we did not write, over TLS and WebSocket: Mosquitto's and MQTT.js. Paho has a file of
//! its own.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Everywhere;
use crate::support::foreign::{mosquitto, node_with_mqtt_js};
use crate::support::{process, wait_for};

/// One of Mosquitto's programs as the device `phone`, over TLS of one version.
fn over_tls(everywhere: &Everywhere, program: &str, tls: &str, arguments: &[&str]) -> Option<Command> {
    let mut command = mosquitto(program)?;
    let port = everywhere.daemon.listener("tls").port().to_string();
    let token = everywhere.daemon.token("phone");
    command
        .args(["-h", "localhost", "-p", &port, "-u", "phone", "-P", &token])
        .args(["--tls-version", tls, "--cafile"])
        .arg(&everywhere.pair.certificate)
        .args(arguments)
        .stdin(Stdio::null());
    Some(command)
}

#[test]
fn mosquittos_clients_talk_over_both_versions_of_tls() {
    let Some(everywhere) = Everywhere::start() else {
        return;
    };
    for tls in ["tlsv1.2", "tlsv1.3"] {
        let topic = format!("clawdbot/phone/{tls}");
        // That of the client before is on its way out.
        wait_for("no subscription", || {
            (everywhere.daemon.metric("clawdbot_mqtt_subscriptions") == Some(0.0)).then_some(())
        });
        let arguments = ["-q", "2", "-C", "1", "-W", "60", "-t", &topic];
        let subscriber = over_tls(&everywhere, "mosquitto_sub", tls, &arguments);
        let arguments = ["-q", "2", "-m", "sealed", "-t", &topic];
        let publisher = over_tls(&everywhere, "mosquitto_pub", tls, &arguments);
        let (Some(mut subscriber), Some(mut publisher)) = (subscriber, publisher) else {
            return;
        };
        let subscriber = subscriber
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        wait_for("the subscription", || {
            (everywhere.daemon.metric("clawdbot_mqtt_subscriptions") == Some(1.0)).then_some(())
        });
        process::finish(&mut publisher).assert_code(0);
        let received = process::collect(subscriber, "", "mosquitto_sub");
        received.assert_code(0);
        assert_eq!(received.stdout, "sealed\n", "{tls}");
    }
}

#[test]
fn a_client_that_does_not_know_the_certificate_goes_away() {
    let Some(everywhere) = Everywhere::start() else {
        return;
    };
    let Some(stranger) = super::certificates::Pair::make("pkcs8") else {
        return;
    };
    let arguments = ["-t", "clawdbot/phone/x", "-m", "x", "--cafile"];
    let Some(mut publisher) = over_tls(&everywhere, "mosquitto_pub", "tlsv1.3", &arguments) else {
        return;
    };
    let finished = process::finish(publisher.arg(&stranger.certificate));
    assert!(!finished.status.success(), "{finished:#?}");
    assert_eq!(
        everywhere.daemon.metric("clawdbot_mqtt_messages_received_total"),
        Some(0.0)
    );
}

#[test]
fn mqtt_js_talks_over_websocket_secure_websocket_tcp_and_tls() {
    let Some(everywhere) = Everywhere::start() else {
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mqtt_js_client.js");
    let port = |listener| everywhere.daemon.listener(listener).port();
    for url in [
        format!("ws://localhost:{}/mqtt", port("websocket")),
        format!("wss://localhost:{}/mqtt", port("secure websocket")),
        format!("mqtt://localhost:{}", port("mqtt")),
        format!("mqtts://localhost:{}", port("tls")),
    ] {
        for version in ["4", "5"] {
            let Some(mut command) = node_with_mqtt_js() else {
                return;
            };
            command
                .arg(&script)
                .args([&url, version, &everywhere.daemon.tokens("phone")])
                .arg(&everywhere.pair.certificate);
            eprintln!("{url}, version {version}");
            process::finish(&mut command).assert_code(0);
        }
    }
}
