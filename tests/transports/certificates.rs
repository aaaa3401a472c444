//! Certificates for tests, made by the system's `openssl`, and what the daemon says of bad ones.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::daemon::Home;
use crate::support::foreign;
use crate::support::process::{self, Finished};

/// A certificate for `localhost` that signs itself, and its key.
pub(super) struct Pair {
    directory: TempDir,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pair {
    /// With a key in this form; nothing where there is no `openssl`.
    pub(super) fn make(form: &str) -> Option<Pair> {
        foreign::openssl()?;
        let directory = TempDir::with_prefix("clawdbot-tls-").expect("a temporary directory");
        let path = |name| directory.path().join(name);
        let (certificate, key) = (path("certificate.pem"), path("key.pem"));
        let ec = "ecparam -name prime256v1 -genkey -noout";
        let make_key = match form {
            "pkcs8" => "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            "sec1" => ec,
            "pkcs1" => "genrsa -traditional",
            "ed25519" => "genpkey -algorithm ED25519",
            other => panic!("no key of the form {other}"),
        };
        openssl(make_key, &["-out".as_ref(), &key]);
        let request = "req -x509 -subj /CN=localhost -days 2 -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
                       -addext basicConstraints=critical,CA:FALSE";
        openssl(request, &["-key".as_ref(), &key, "-out".as_ref(), &certificate]);
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("our own file");
        Some(Pair {
            directory,
            certificate,
            key,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn openssl(arguments: &str, paths: &[&Path]) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).args(paths);
    process::finish(&mut command).assert_code(0);
}

/// Runs `check` and `serve` with these files; both must say the same, so `check` speaks for both.
fn refused(certificate: &Path, key: &Path) -> Finished {
    let run = |command| {
        let home = Home::new();
        let mut command = home.command(&[command]);
        command
            .env("CLAWDBOT__MQTT__TLS", "127.0.0.1:0")
            .env("CLAWDBOT__MQTT__SECURE_WEBSOCKET", "127.0.0.1:0")
            .env("CLAWDBOT__MQTT__TLS_CERTIFICATE", certificate)
            .env("CLAWDBOT__MQTT__TLS_KEY", key);
        let finished = process::finish(&mut command);
        finished.assert_code(2);
        finished
    };
    let (checked, served) = (run("check"), run("serve"));
    assert_eq!(checked.stderr, served.stderr);
    checked
}

#[test]
fn keys_of_all_forms_are_taken() {
    for form in ["pkcs8", "sec1", "pkcs1", "ed25519"] {
        let Some(pair) = Pair::make(form) else { return };
        let home = Home::new();
        let mut command = home.command(&["check"]);
        command
            .env("CLAWDBOT__MQTT__TLS_CERTIFICATE", &pair.certificate)
            .env("CLAWDBOT__MQTT__TLS_KEY", &pair.key);
        let finished = process::finish(&mut command);
        finished.assert_code(0);
        assert!(finished.stdout.contains("TLS: "), "{form}: {finished:#?}");
        assert!(finished.stdout.contains("0.0.0.0:8883"), "{form}: {finished:#?}");
    }
}

#[test]
fn what_is_wrong_with_a_certificate_or_its_key_is_said_with_the_remedy() {
    let (Some(pair), Some(other)) = (Pair::make("pkcs8"), Pair::make("pkcs1")) else {
        return;
    };
    let missing = pair.directory().join("missing.pem");
    refused(&missing, &pair.key).assert_says(&["mqtt.tls_certificate", "missing.pem", "cannot be read"]);
    refused(&pair.certificate, &missing).assert_says(&["mqtt.tls_key", "missing.pem", "cannot be read"]);
    refused(&pair.key, &pair.key).assert_says(&["mqtt.tls_certificate", "no certificate in it"]);
    refused(&pair.certificate, &other.key).assert_says(&["mqtt.tls_key", "not the key of the certificate"]);

    let no_key = pair.directory().join("no-key.pem");
    fs::copy(&pair.certificate, &no_key).unwrap();
    fs::set_permissions(&no_key, Permissions::from_mode(0o600)).unwrap();
    refused(&pair.certificate, &no_key).assert_says(&["mqtt.tls_key", "no private key in it"]);

    let garbage = pair.directory().join("garbage.pem");
    fs::write(
        &garbage,
        "-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    refused(&garbage, &pair.key).assert_says(&["mqtt.tls_certificate", "garbage.pem"]);

    for mode in [0o640, 0o604] {
        fs::set_permissions(&pair.key, Permissions::from_mode(mode)).unwrap();
        refused(&pair.certificate, &pair.key).assert_says(&["mqtt.tls_key", "chmod 600"]);
    }
}
