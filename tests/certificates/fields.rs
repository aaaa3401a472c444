//! `clawdbot certs`, and what OpenSSL reads in what it made.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{ask_openssl, initialised, own_of};
use crate::support::daemon::Home;
use crate::support::process;

#[test]
fn openssl_reads_in_the_certificates_what_was_meant() {
    let home = initialised();
    let own = own_of(&home);
    let (authority, server) = (own.authority(), own.server());
    let text = |path: &std::path::Path| {
        Some(ask_openssl(&format!("x509 -noout -text -in {}", path.display()))?.stdout)
    };
    let (Some(authority_text), Some(server_text)) = (text(&authority), text(&server)) else {
        return;
    };
    let both = [
        "Version: 3 (0x2)",
        "Signature Algorithm: sha256WithRSAEncryption",
        "Public-Key: (2048 bit)",
        "Exponent: 65537",
        "X509v3 Subject Key Identifier",
    ];
    for (text, parts) in [
        (
            &authority_text,
            &[
                "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0",
                "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign",
            ][..],
        ),
        (
            &server_text,
            &[
                "X509v3 Basic Constraints: critical\n                CA:FALSE",
                "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment",
                "X509v3 Extended Key Usage: \n                TLS Web Server Authentication",
                "X509v3 Authority Key Identifier",
                "DNS:localhost",
                "IP Address:127.0.0.1",
                "IP Address:0:0:0:0:0:0:0:1",
            ],
        ),
    ] {
        for part in both.iter().chain(parts) {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }
    for (purpose, name) in [
        ("sslserver", "-verify_hostname localhost"),
        ("sslserver", "-verify_ip 127.0.0.1"),
        ("sslserver", "-verify_ip ::1"),
    ] {
        let verify = format!(
            "verify -x509_strict -purpose {purpose} {name} -CAfile {} {}",
            authority.display(),
            server.display()
        );
        ask_openssl(&verify).expect("it was there").assert_code(0);
    }
    let as_client = format!(
        "verify -purpose sslclient -CAfile {} {}",
        authority.display(),
        server.display()
    );
    assert!(!ask_openssl(&as_client).expect("it was there").status.success());
    // Holds in 364 days, and does not in 366.
    let check_end = |days: u32| {
        let arguments = format!(
            "x509 -noout -checkend {} -in {}",
            days * 24 * 3600,
            server.display()
        );
        ask_openssl(&arguments).expect("it was there").status.success()
    };
    assert!(check_end(364) && !check_end(366));
    for key in [own.authority_key(), own.server_key()] {
        ask_openssl(&format!("pkey -check -noout -in {}", key.display()))
            .expect("it was there")
            .assert_code(0);
    }
}

#[test]
fn what_was_made_is_shown_with_the_fingerprint_that_openssl_computes() {
    let home = initialised();
    let shown = process::finish(&mut home.command(&["certs", "show"]));
    shown.assert_code(0);
    let own = own_of(&home);
    for part in [
        "364 days left",
        "localhost, 127.0.0.1, ::1",
        &own.server().display().to_string(),
    ] {
        assert!(shown.stdout.contains(part), "{part:?} is missing in {shown:#?}");
    }
    assert!(!shown.stdout.contains("missing"), "{shown:#?}");
    let arguments = format!(
        "x509 -noout -fingerprint -sha256 -in {}",
        own.authority().display()
    );
    let Some(fingerprint) = ask_openssl(&arguments) else {
        return;
    };
    let (_, fingerprint) = fingerprint.stdout.trim().split_once('=').expect("name=value");
    assert!(
        shown.stdout.contains(fingerprint),
        "{fingerprint} is missing in {shown:#?}"
    );
}

#[test]
fn further_names_are_taken_up_and_another_directory_too() {
    let home = Home::new();
    let place = home.path().join("elsewhere");
    let dir = place.to_str().expect("a path");
    let init = [
        "certs",
        "init",
        "--dir",
        dir,
        "--name",
        "Extra.example.org",
        "--name",
        "10.9.8.7",
    ];
    let made = process::finish(&mut home.command(&init));
    made.assert_code(0);
    for part in [
        "extra.example.org",
        "10.9.8.7",
        &place.join("ca.pem").display().to_string(),
    ] {
        assert!(made.stdout.contains(part), "{part:?} is missing in {made:#?}");
    }
    assert!(!home.data_dir().exists(), "the data directory was not wanted");
    let renewed =
        process::finish(&mut home.command(&["certs", "renew", "--dir", dir, "--name", "more.local"]));
    renewed.assert_code(0);
    assert!(
        renewed.stdout.contains("extra.example.org, 10.9.8.7, more.local"),
        "{renewed:#?}"
    );

    for (arguments, words) in [
        (&["certs", "init", "--dir", dir][..], "--force"),
        (
            &["certs", "init", "--name", "http://hub"],
            "neither a host name nor an IP address",
        ),
        (&["certs", "renew"], "`clawdbot certs init` makes them"),
        (&["certs", "show"], "`clawdbot certs init` makes them"),
    ] {
        process::finish(&mut home.command(arguments))
            .assert_code(2)
            .assert_says(&[words]);
    }
}

#[test]
fn with_certificates_of_its_own_the_daemon_means_to_offer_tls_to_private_networks() {
    let home = initialised();
    let checked = process::finish(&mut home.command(&["check"]));
    checked.assert_code(0);
    for part in [
        "valid until",
        "364 days left",
        "MQTT on 0.0.0.0:8883",
        "WebSocket on 0.0.0.0:8084",
    ] {
        assert!(
            checked.stdout.contains(part),
            "{part:?} is missing in {checked:#?}"
        );
    }
    let without = process::finish(&mut Home::new().command(&["check"]));
    assert!(
        without.stdout.contains("TLS: none") && without.stdout.contains("certs init"),
        "{without:#?}"
    );
}

#[test]
fn a_key_that_others_can_read_is_refused_at_the_start() {
    let home = initialised();
    let own = own_of(&home);
    let refused = |words: &[&str]| {
        for command in ["check", "serve"] {
            let mut command = home.command(&[command]);
            command
                .env("CLAWDBOT__MQTT__TLS", "127.0.0.1:0")
                .env("CLAWDBOT__MQTT__SECURE_WEBSOCKET", "127.0.0.1:0");
            process::finish(&mut command).assert_code(2).assert_says(words);
        }
    };
    for mode in [0o644, 0o640] {
        fs::set_permissions(own.server_key(), Permissions::from_mode(mode)).unwrap();
        refused(&["server-key.pem", "chmod 600"]);
    }
    fs::set_permissions(own.server_key(), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(own.authority_key(), Permissions::from_mode(0o644)).unwrap();
    process::finish(&mut home.command(&["certs", "renew"]))
        .assert_code(2)
        .assert_says(&["ca-key.pem", "chmod 600"]);
    fs::set_permissions(own.directory(), Permissions::from_mode(0o777)).unwrap();
    refused(&["chmod go-w", "certs"]);
}
