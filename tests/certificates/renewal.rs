//! Certificates that end, are renewed, replaced and spoiled while the daemon runs.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{DAY, initialised, launch, made_at, own_of, serial};
use crate::support::daemon::{Daemon, Home};
use crate::support::raw::{connect, packet};
use crate::support::{PATIENCE, process, wait_for};

const EXPIRY: &str = "clawdbot_tls_certificate_expiry_timestamp_seconds";
const REPLACED: &str = "clawdbot_tls_certificate_replaced_total";
const TROUBLE: &str = "clawdbot_tls_certificate_trouble";

/// A connection of the device `phone` that is let in.
fn session(daemon: &Daemon) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = fs::read(own_of(daemon.home()).authority()).expect("a file");
    for certificate in CertificateDer::pem_slice_iter(&authority) {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let socket = TcpStream::connect(daemon.listener("tls")).expect("the daemon accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let session = ClientConnection::new(Arc::new(config), name).expect("a TLS client");
    let mut stream = StreamOwned::new(session, socket);
    stream
        .write_all(&connect(4, "phone-1", Some(&daemon.token("phone"))))
        .expect("the daemon listens");
    assert_eq!(read(&mut stream), [0x20, 2, 0, 0], "a CONNACK");
    stream
}

fn read<const LENGTH: usize>(stream: &mut impl Read) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes).expect("the daemon answers");
    bytes
}

fn ping(stream: &mut (impl Read + Write)) {
    stream.write_all(&packet(0xC0, &[])).expect("the daemon listens");
    assert_eq!(read(stream), [0xD0, 0], "a PINGRESP");
}

fn unix_s(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as f64
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections_while_the_old_ones_stay() {
    let daemon = launch(initialised()).start();
    let address = daemon.listener("tls");
    let Some(first) = serial(address) else { return };
    let mut session = session(&daemon);
    ping(&mut session);

    daemon.cli(&["certs", "renew"]).assert_code(0);
    wait_for("the new certificate", || {
        daemon.metric(REPLACED).filter(|times| *times >= 1.0)
    });
    let second = serial(address).expect("it was there");
    assert_ne!(first, second);
    assert_eq!(serial(daemon.listener("secure websocket")), Some(second));
    ping(&mut session);
    assert_eq!(
        daemon
            .metric("clawdbot_mqtt_connections_accepted_total")
            .map(|n| n >= 1.0),
        Some(true)
    );
    let mut another = self::session(&daemon);
    ping(&mut another);
    assert_eq!(daemon.metric(REPLACED), Some(1.0), "once");
    assert_eq!(daemon.metric(TROUBLE), Some(0.0));
}

#[test]
fn ours_is_renewed_by_itself_when_it_is_about_to_end() {
    let home = Home::new();
    let own = made_at(
        home.data_dir().join("certs"),
        SystemTime::now() - 340 * DAY - DAY / 2,
    );
    let authority = fs::read(own.authority()).unwrap();
    let daemon = launch(home).start();
    wait_for("the renewal", || {
        daemon.metric(REPLACED).filter(|times| *times == 1.0)
    });
    let end = daemon.metric(EXPIRY).expect("an end");
    let in_a_year = unix_s(SystemTime::now() + 365 * DAY);
    assert!((in_a_year - end).abs() < 3600.0, "{end} is not {in_a_year}");
    assert_eq!(fs::read(own.authority()).unwrap(), authority);
    let log = daemon.log();
    assert!(log.contains("the TLS certificate was renewed"), "{log}");
    assert!(!log.contains("ends soon"), "nobody needs to be warned: {log}");
    let status = daemon.status();
    assert_eq!(status["tls"]["days_left"], 364, "{status}");
    assert_eq!(status["tls"]["renewed_by"], "this daemon", "{status}");
    ping(&mut session(&daemon));
}

#[test]
fn ours_that_cannot_be_renewed_is_warned_of() {
    let home = Home::new();
    let own = made_at(
        home.data_dir().join("certs"),
        SystemTime::now() - 340 * DAY - DAY / 2,
    );
    fs::remove_file(own.authority_key()).unwrap();
    let daemon = launch(home).start();
    let log = wait_for("a warning", || {
        Some(daemon.log()).filter(|log| log.contains("ends soon"))
    });
    assert!(log.contains("\"days_left\":24"), "{log}");
    ping(&mut session(&daemon));
}

#[test]
fn a_configured_certificate_that_has_expired_is_shown_and_warned_of() {
    let home = Home::new();
    let elsewhere = made_at(
        home.path().join("elsewhere"),
        SystemTime::now() - 400 * DAY - DAY / 2,
    );
    let checked = process::finish(
        home.command(&["check"])
            .env("CLAWDBOT__MQTT__TLS_CERTIFICATE", elsewhere.server())
            .env("CLAWDBOT__MQTT__TLS_KEY", elsewhere.server_key()),
    );
    checked.assert_code(0);
    assert!(checked.stdout.contains("EXPIRED"), "{checked:#?}");
    let daemon = launch(home)
        .set("mqtt.tls_certificate", elsewhere.server().display())
        .set("mqtt.tls_key", elsewhere.server_key().display())
        .start();
    let log = wait_for("a warning", || {
        Some(daemon.log()).filter(|log| log.contains("has expired"))
    });
    assert!(log.contains("\"days_over\":3"), "{log}");
    let end = daemon.metric(EXPIRY).expect("an end");
    assert!(
        (unix_s(SystemTime::now() - 35 * DAY - DAY / 2) - end).abs() < 3600.0,
        "{end}"
    );
    let status = daemon.status();
    assert_eq!(status["tls"]["days_left"], -36, "{status}");
    assert_eq!(status["tls"]["renewed_by"], "its owner", "{status}");

    // Another takes its place, file by file.
    let newer = made_at(daemon.home().path().join("newer"), SystemTime::now());
    fs::copy(newer.server(), elsewhere.server()).unwrap();
    fs::copy(newer.server_key(), elsewhere.server_key()).unwrap();
    wait_for("the new one", || {
        daemon.metric(REPLACED).filter(|times| *times >= 1.0)
    });
    assert!(daemon.metric(EXPIRY).expect("an end") > unix_s(SystemTime::now()));
    assert_eq!(daemon.status()["tls"]["days_left"], 364);
    let warnings = daemon.log().matches("has expired").count();
    assert_eq!(warnings, 1, "{}", daemon.log());
}

#[test]
fn a_broken_certificate_leaves_the_one_before_and_is_complained_of_once() {
    let daemon = launch(initialised()).start();
    let (own, address) = (own_of(daemon.home()), daemon.listener("tls"));
    let Some(first) = serial(address) else { return };
    let good = fs::read(own.server()).unwrap();
    fs::write(own.server(), "nothing of use").unwrap();
    wait_for("trouble", || {
        daemon.metric(TROUBLE).filter(|trouble| *trouble == 1.0)
    });
    assert_eq!(serial(address), Some(first.clone()));
    let status = daemon.status();
    let trouble = status["tls"]["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains("there is no certificate in it"), "{status}");
    // A few more looks.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        daemon.log().matches("cannot be used").count(),
        1,
        "{}",
        daemon.log()
    );
    ping(&mut session(&daemon));

    fs::write(own.server(), good).unwrap();
    wait_for("no trouble", || {
        daemon.metric(TROUBLE).filter(|trouble| *trouble == 0.0)
    });
    assert_eq!(serial(address), Some(first));
}
