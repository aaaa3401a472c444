//! Certificates that the program makes for itself: by OpenSSL's reading of them, on the wire, and while they
//! are renewed. What is said of configured ones that cannot be used is in `transports/certificates.rs`.

#[path = "certificates/clients.rs"]
mod clients;
#[path = "certificates/fields.rs"]
mod fields;
#[path = "certificates/renewal.rs"]
mod renewal;
#[path = "certificates/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use clawdbot::security::certificates::{Machine, OwnCertificates};

use crate::support::daemon::{Daemon, Home, Launch};
use crate::support::foreign::{mosquitto, openssl};
use crate::support::process::{self, Finished};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A home with certificates, as `clawdbot certs init` makes them.
fn initialised() -> Home {
    let home = Home::new();
    process::finish(&mut home.command(&["certs", "init"])).assert_code(0);
    home
}

/// Certificates of another time than now.
fn made_at(directory: PathBuf, time: SystemTime) -> OwnCertificates {
    let own = OwnCertificates::at(&directory);
    own.create(&Machine::here(), &[], false, time)
        .expect("certificates");
    own
}

fn own_of(home: &Home) -> OwnCertificates {
    OwnCertificates::at(&home.data_dir().join("certs"))
}

/// A daemon in a home, with TLS on any ports.
fn launch(home: Home) -> Launch {
    Daemon::launch_in(home)
        .set("mqtt.tls", "127.0.0.1:0")
        .set("mqtt.secure_websocket", "127.0.0.1:0")
        .set("mqtt.tls_check_interval_s", 1)
}

/// What `openssl` says with these arguments, split at white space.
fn ask_openssl(arguments: &str) -> Option<Finished> {
    Some(process::finish(openssl()?.args(arguments.split_whitespace())))
}

/// What `openssl s_client` says of a server.
fn s_client(address: SocketAddr, arguments: &str) -> Option<Finished> {
    ask_openssl(&format!("s_client -connect {address} {arguments}"))
}

/// The serial number of the certificate that a server shows now.
fn serial(address: SocketAddr) -> Option<String> {
    let shown = s_client(address, "")?.stdout;
    let serial = process::finish_with_input(openssl()?.args(["x509", "-noout", "-serial"]), &shown);
    serial.assert_code(0);
    Some(serial.stdout)
}

/// `mosquitto_pub` to a topic of the device `phone`, over TLS to a host by a name of its own.
fn publisher(daemon: &Daemon, host: &str, authority: &std::path::Path) -> Option<Command> {
    let mut command = mosquitto("mosquitto_pub")?;
    command
        .args([
            "-V",
            "5",
            "-h",
            host,
            "-q",
            "1",
            "-t",
            "clawdbot/phone/x",
            "-m",
            "x",
        ])
        .args(["-p", &daemon.listener("tls").port().to_string(), "--cafile"])
        .arg(authority);
    Some(command)
}
