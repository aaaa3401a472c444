//! Certificates that clients show: the common name is the device, and no token is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{ask_openssl, initialised, launch, own_of, publisher, s_client};
use crate::support::daemon::Daemon;
use crate::support::process::{self, Finished};
use crate::support::wait_for;

/// An authority of clients, by OpenSSL.
struct ClientAuthority {
    directory: TempDir,
}

impl ClientAuthority {
    fn make() -> Option<ClientAuthority> {
        let directory = TempDir::with_prefix("clawdbot-clients-").expect("a temporary directory");
        let authority = ClientAuthority { directory };
        let arguments = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=devices -addext \
             basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout {} -out {}",
            authority.path("ca-key.pem").display(),
            authority.certificate().display()
        );
        ask_openssl(&arguments)?.assert_code(0);
        Some(authority)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate and its key, in one file, for this subject.
    fn sign(&self, subject: &str) -> PathBuf {
        let (request, signed, key) = (
            self.path("request.pem"),
            self.path("signed.pem"),
            self.path("key.pem"),
        );
        let ask = format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj {subject} -addext extendedKeyUsage=clientAuth \
             -keyout {} -out {}",
            key.display(),
            request.display()
        );
        ask_openssl(&ask).expect("it was there").assert_code(0);
        let sign = format!(
            "x509 -req -days 2 -copy_extensions copy -in {} -CA {} -CAkey {} -CAcreateserial -out {}",
            request.display(),
            self.certificate().display(),
            self.path("ca-key.pem").display(),
            signed.display()
        );
        ask_openssl(&sign).expect("it was there").assert_code(0);
        let both = self.path(&format!("{}.pem", subject.replace('/', "_")));
        let text = [fs::read(signed).expect("a file"), fs::read(key).expect("a file")].concat();
        fs::write(&both, text).expect("our own directory");
        both
    }
}

fn start(clients: &ClientAuthority, required: bool) -> Daemon {
    launch(initialised())
        .set("mqtt.tls_client_ca", clients.certificate().display())
        .set("mqtt.tls_require_client_certificate", required)
        .start()
}

fn publish(daemon: &Daemon, shown: Option<&Path>, more: &[&str]) -> Option<Finished> {
    let mut command: Command = publisher(daemon, "localhost", &own_of(daemon.home()).authority())?;
    if let Some(shown) = shown {
        command.arg("--cert").arg(shown).arg("--key").arg(shown);
    }
    Some(process::finish(command.args(more)))
}

#[test]
fn a_client_with_a_certificate_is_the_device_of_its_common_name_and_needs_no_token() {
    let Some(clients) = ClientAuthority::make() else {
        return;
    };
    let daemon = start(&clients, false);
    let (phone, tablet) = (clients.sign("/O=House/CN=phone"), clients.sign("/CN=tablet"));
    let received = || daemon.metric("clawdbot_mqtt_messages_received_total");
    let Some(published) = publish(&daemon, Some(&phone), &[]) else {
        return;
    };
    published.assert_code(0);
    assert_eq!(received(), Some(1.0));
    // With a token of its own as well, and without a certificate: as always.
    for shown in [Some(phone.as_path()), None] {
        publish(&daemon, shown, &["-u", "phone", "-P", &daemon.token("phone")])
            .expect("it was there")
            .assert_code(0);
    }
    assert_eq!(received(), Some(3.0));

    // Of another device: its topics are not phone's, and phone's token does not go with it.
    let denied = publish(&daemon, Some(&tablet), &[]).expect("it was there");
    assert!(
        denied.stderr.contains("Not authorized") || !denied.status.success(),
        "{denied:#?}"
    );
    assert_eq!(
        daemon.metric("clawdbot_mqtt_access_denied_publish_total"),
        Some(1.0)
    );
    let with_token = ["-u", "phone", "-P", &daemon.token("phone")];
    let refused = publish(&daemon, Some(&tablet), &with_token).expect("it was there");
    assert!(!refused.status.success(), "{refused:#?}");
    refused.assert_says(&["Not authorized"]);
    assert!(
        daemon
            .log()
            .contains("its certificate is of the device tablet, and what it shows beside it of phone")
    );
    // Neither: the old rules.
    let nobody = publish(&daemon, None, &[]).expect("it was there");
    assert!(!nobody.status.success(), "{nobody:#?}");
}

#[test]
fn certificates_of_others_or_of_no_device_do_not_let_in() {
    let (Some(clients), Some(others)) = (ClientAuthority::make(), ClientAuthority::make()) else {
        return;
    };
    let daemon = start(&clients, false);
    let failed = || {
        daemon
            .metric("clawdbot_mqtt_handshakes_failed_total")
            .unwrap_or_default()
    };
    let bad = [
        others.sign("/CN=phone"),
        clients.sign("/CN=a#b"),
        clients.sign("/O=House"),
        clients.sign("/CN=phone/CN=tablet"),
    ];
    for (number, shown) in bad.iter().enumerate() {
        let Some(refused) = publish(&daemon, Some(shown), &[]) else {
            return;
        };
        assert!(!refused.status.success(), "{refused:#?}");
        // The client hears of it before it is counted.
        wait_for("a failed handshake to be counted", || {
            (failed() >= (number + 1) as f64).then_some(())
        });
    }
    let log = daemon.log();
    for words in ["is no device id", "has 0 common names", "has 2 common names"] {
        assert!(log.contains(words), "{words:?} is missing in {log}");
    }
    assert_eq!(daemon.metric("clawdbot_mqtt_messages_received_total"), Some(0.0));
}

#[test]
fn where_certificates_are_required_nobody_comes_in_without_one() {
    let Some(clients) = ClientAuthority::make() else {
        return;
    };
    let daemon = start(&clients, true);
    let token = daemon.token("phone");
    let Some(refused) = publish(&daemon, None, &["-u", "phone", "-P", &token]) else {
        return;
    };
    assert!(!refused.status.success(), "{refused:#?}");
    let asked = s_client(daemon.listener("secure websocket"), "-tls1_2").expect("it was there");
    assert!(!asked.status.success(), "{asked:#?}");
    let phone = clients.sign("/CN=phone");
    publish(&daemon, Some(&phone), &[])
        .expect("it was there")
        .assert_code(0);
}

#[test]
fn an_authority_of_clients_that_is_none_is_refused_at_the_start() {
    let home = initialised();
    let own = own_of(&home);
    let mut command = home.command(&["check", "--set"]);
    command.arg(format!("mqtt.tls_client_ca={}", own.server().display()));
    process::finish(&mut command)
        .assert_code(2)
        .assert_says(&["flag --set: mqtt.tls_client_ca", "may not sign others"]);
}
