//! Pairing and tokens by HTTPS, as curl speaks it.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::support::{code_for, with_secret};
use crate::support::daemon::{Daemon, Home};
use crate::support::foreign;
use crate::support::process;
use crate::support::raw::RawClient;

struct Answer {
    status: String,
    body: Value,
}

/// Posts JSON to a URL, with these arguments besides.
fn post(mut curl: Command, url: &str, arguments: &[&str], body: &str) -> Answer {
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "30",
        "--write-out",
        "\n%{http_code}",
    ])
    .args([
        "--header",
        "Content-Type: application/json",
        "--data-binary",
        body,
    ])
    .args(arguments)
    .arg(url);
    let finished = process::finish(&mut curl);
    finished.assert_code(0);
    let (body, status) = finished.stdout.rsplit_once('\n').expect("a status");
    Answer {
        status: status.to_owned(),
        body: serde_json::from_str(body).unwrap_or_else(|_| json!(body)),
    }
}

/// A daemon with TLS, the port of its secure WebSocket and its authority's file.
fn secure() -> (Daemon, u16, String) {
    let home = Home::new();
    process::finish(&mut home.command(&["certs", "init"])).assert_code(0);
    let daemon = Daemon::launch_in(home)
        .set("mqtt.tls", "127.0.0.1:0")
        .set("mqtt.secure_websocket", "127.0.0.1:0")
        .start();
    let port = daemon.listener("secure websocket").port();
    let authority = daemon
        .home()
        .data_dir()
        .join("certs/ca.pem")
        .display()
        .to_string();
    (daemon, port, authority)
}

#[test]
fn a_device_is_paired_and_gets_its_tokens_by_https() {
    let (daemon, port, authority) = secure();
    let ask = |path: &str, body: &str| {
        let url = format!("https://localhost:{port}/{path}");
        foreign::curl().map(|curl| post(curl, &url, &["--cacert", &authority], body))
    };
    let code = code_for(&daemon, "phone");
    let Some(wrong) = ask("pair", r#"{"code": "2222-2222"}"#) else {
        return;
    };
    assert_eq!(
        (wrong.status.as_str(), &wrong.body["status"]),
        ("403", &json!("error"))
    );
    let paired = ask("pair", &json!({"code": code, "transaction": 7}).to_string()).expect("curl");
    assert_eq!(
        (paired.status.as_str(), &paired.body["transaction"]),
        ("200", &json!(7))
    );
    let secret = paired.body["data"]["secret"].as_str().expect("a secret");
    with_secret(&daemon, 5, "c", "phone", secret);

    let login = json!({"device": "phone", "secret": secret}).to_string();
    let token = ask("token", &login).expect("curl");
    assert_eq!(token.status, "200");
    RawClient::admitted(
        daemon.mqtt,
        4,
        "by-token",
        token.body["data"]["token"].as_str().expect("a token"),
    );

    let again = ask("pair", &json!({"code": code}).to_string()).expect("curl");
    assert_eq!(again.status, "403");
    for (body, status) in [
        (json!({"device": "phone", "secret": "A".repeat(43)}), "401"),
        (json!({"device": "nobody", "secret": secret}), "401"),
        (json!({"device": "bridge", "secret": secret}), "400"),
        (json!({"device": "phone"}), "400"),
    ] {
        let refused = ask("token", &body.to_string()).expect("curl");
        assert_eq!(refused.status, status, "{body}");
        assert!(!refused.body.to_string().contains(secret));
    }
    daemon.cli(&["device", "revoke", "phone"]).assert_code(0);
    assert_eq!(ask("token", &login).expect("curl").status, "401");
    let log = daemon.log();
    assert!(!log.contains(secret) && !log.contains(&code));
}

#[test]
fn plain_text_is_for_this_machine_and_web_pages_cannot_ask() {
    let Some(interface) = own_address() else {
        return crate::support::skip("this machine has no address but loopback");
    };
    let daemon = Daemon::launch()
        .set("mqtt.websocket", "0.0.0.0:0")
        .set("mqtt.allow_plaintext_beyond_loopback", "true")
        .set("mqtt.allow_beyond_private_network", "true")
        .start();
    let port = daemon.listener("websocket").port();
    let ask = |host: &str, path: &str, arguments: &[&str]| {
        let url = format!("http://{host}:{port}/{path}");
        foreign::curl().map(|curl| post(curl, &url, arguments, r#"{"code": "2222-2222"}"#))
    };
    code_for(&daemon, "phone");
    let Some(here) = ask("127.0.0.1", "pair", &[]) else {
        return;
    };
    assert_eq!(here.status, "403");
    assert_eq!(ask(&interface, "pair", &[]).expect("curl").status, "404");
    // What a page may send to another site without asking it first.
    let simple = ask("127.0.0.1", "pair", &["--header", "Content-Type: text/plain"]);
    assert_eq!(simple.expect("curl").status, "415");
    let asking = ask("127.0.0.1", "pair", &["--request", "OPTIONS"]).expect("curl");
    assert_eq!(asking.status, "405");
    assert_eq!(daemon.metric("clawdbot_pairing_wrong_codes_total"), Some(1.0));
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the system only says by which address it would be.
    socket.connect("192.0.2.1:9").ok()?;
    let address: SocketAddr = socket.local_addr().ok()?;
    (!address.ip().is_loopback() && !address.ip().is_unspecified()).then(|| address.ip().to_string())
}
