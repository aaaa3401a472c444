//! Where the daemon listens, and what lets it listen farther.

use super::*;

#[test]
fn plain_tcp_beyond_loopback_needs_permission() {
    for address in ["0.0.0.0:1883", "192.168.1.2:1883", "[::]:1883"] {
        let setup = setup().file(&format!("[mqtt]\ntcp = \"{address}\"\n"));
        assert_says(
            &setup.message(),
            &[
                &setup.at_line(2),
                address,
                "allow_plaintext_beyond_loopback = true",
            ],
        );
        let allowed = setup
            .flag("--set", "mqtt.allow_plaintext_beyond_loopback", "true")
            .settings();
        assert_eq!(allowed.mqtt.tcp.to_string(), address);
    }
    assert!(
        setup()
            .flag("--set", "mqtt.tcp", "[::1]:1883")
            .settings()
            .mqtt
            .tcp
            .ip()
            .is_loopback()
    );
}

#[test]
fn metrics_beyond_loopback_need_permission() {
    let setup = setup().flag("--set", "metrics.listen", "0.0.0.0:9464");
    assert_says(
        &setup.message(),
        &[
            "flag --set: metrics.listen = 0.0.0.0:9464",
            "allow_beyond_loopback = true",
        ],
    );
    setup
        .flag("--set", "metrics.allow_beyond_loopback", "true")
        .settings();
}

#[test]
fn no_authentication_is_refused_with_any_listener_beyond_loopback_even_where_that_is_allowed() {
    let none = || setup().variable("CLAWDBOT__AUTH__MODE", "none");
    assert_eq!(none().settings().auth.mode, AuthMode::None);
    let mqtt = none().flag("--set", "mqtt.tcp", "0.0.0.0:1883").flag(
        "--set",
        "mqtt.allow_plaintext_beyond_loopback",
        "true",
    );
    assert_says(
        &mqtt.message(),
        &[
            "environment variable CLAWDBOT__AUTH__MODE",
            "mqtt.tcp = 0.0.0.0:1883",
        ],
    );
    let metrics = none().flag("--set", "metrics.listen", "0.0.0.0:9464").flag(
        "--set",
        "metrics.allow_beyond_loopback",
        "true",
    );
    assert_says(
        &metrics.message(),
        &[
            "environment variable CLAWDBOT__AUTH__MODE",
            "metrics.listen = 0.0.0.0:9464",
        ],
    );
}

#[test]
fn a_plain_websocket_beyond_loopback_needs_permission_and_an_empty_one_is_none() {
    let beyond = setup().flag("--set", "mqtt.websocket", "0.0.0.0:8083");
    assert_says(
        &beyond.message(),
        &[
            "flag --set: mqtt.websocket = 0.0.0.0:8083",
            "allow_plaintext_beyond_loopback = true",
        ],
    );
    beyond
        .flag("--set", "mqtt.allow_plaintext_beyond_loopback", "true")
        .settings();
    let none = setup().flag("--set", "mqtt.websocket", "").settings().mqtt;
    assert_eq!((none.websocket, none.websocket_by_default), (None, false));
}

#[test]
fn tls_is_there_with_a_certificate_and_its_key_and_neither_goes_without_the_other() {
    assert_eq!(setup().settings().mqtt.tls, None);
    let certificate = setup().flag("--set", "mqtt.tls_certificate", "c.pem");
    assert_says(
        &certificate.message(),
        &["mqtt.tls_key", "mqtt.tls_certificate is set"],
    );
    let key = setup().flag("--set", "mqtt.tls_key", "k.pem");
    assert_says(&key.message(), &["mqtt.tls_certificate", "mqtt.tls_key is set"]);
    let both = certificate.flag("--set", "mqtt.tls_key", "k.pem");
    let mqtt = both.settings().mqtt;
    let ports = [mqtt.tls, mqtt.secure_websocket].map(|address| address.unwrap().port());
    assert_eq!(ports, [8883, 8084]);
    // Encrypted, but still nobody would ask who is there.
    let none = both.flag("--set", "auth.mode", "none");
    assert_says(
        &none.message(),
        &["mqtt.tls = 0.0.0.0:8883", "mqtt.secure_websocket"],
    );
}
