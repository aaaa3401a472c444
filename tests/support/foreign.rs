//! Clients that others wrote: where they are, or a loud word that they are missing. `tests/run`
//! installs them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::finish;
use super::skip;

/// A program of Mosquitto's, if it is installed.
pub(crate) fn mosquitto(program: &str) -> Option<Command> {
    // Debian puts the broker where only root looks for programs.
    let places = [program.to_owned(), format!("/usr/sbin/{program}")];
    // Asked for its help it exits with an error; that it could be started is enough.
    let can_start = |place: &&String| {
        let mut help = Command::new(place);
        help.arg("--help").stdin(Stdio::null()).output().is_ok()
    };
    let found = places.iter().find(can_start);
    if found.is_none() {
        skip(&format!("{program} is not installed; `tests/run` installs it"));
    }
    found.map(Command::new)
}

/// curl, set up to heed nobody's settings.
pub(crate) fn curl() -> Option<Command> {
    let found = Command::new("curl")
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    if found.is_err() {
        skip("curl is not installed");
        return None;
    }
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--noproxy", "*"]);
    Some(curl)
}

/// A program of Prometheus'.
pub(crate) fn prometheus(program: &str) -> Option<Command> {
    let mut version = Command::new(program);
    let found = version.arg("--version").stdin(Stdio::null()).output();
    if found.is_err() {
        skip(&format!("{program} is not installed; `tests/run` installs it"));
        return None;
    }
    Some(Command::new(program))
}

/// OpenSSL's program.
pub(crate) fn openssl() -> Option<Command> {
    let mut version = Command::new("openssl");
    let found = version.arg("version").stdin(Stdio::null()).output();
    if found.is_err() {
        skip("openssl is not installed; `tests/run` installs it");
        return None;
    }
    Some(Command::new("openssl"))
}

/// `node`, set up to find MQTT.js.
pub(crate) fn node_with_mqtt_js() -> Option<Command> {
    let mut command = Command::new("node");
    if let Some(modules) = std::env::var_os("CLAWDBOT_TEST_MQTT_JS") {
        command.env("NODE_PATH", modules);
    }
    let found = command
        .args(["-e", "require('mqtt').connect"])
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        skip("no node with the package mqtt; `tests/run` installs that where there is npm");
        return None;
    }
    let mut again = Command::new("node");
    again.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    Some(again)
}

/// A Python that has OpenTelemetry's protobuf messages.
pub(crate) fn python_with_otlp() -> Option<PathBuf> {
    python_with(
        "import opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        "opentelemetry-proto",
    )
}

/// rotel, a collector of OpenTelemetry's protocol.
pub(crate) fn rotel() -> Option<Command> {
    let given = std::env::var_os("CLAWDBOT_TEST_ROTEL");
    if given.is_none() {
        skip("the collector rotel is missing; `tests/run` installs it");
    }
    given.map(Command::new)
}

/// A Python that reads property lists, as all of them do.
pub(crate) fn python_with_plistlib() -> Option<PathBuf> {
    python_with("import plistlib", "plistlib")
}

/// systemd's own check of units.
pub(crate) fn systemd_analyze() -> Option<Command> {
    let mut version = Command::new("systemd-analyze");
    let found = version.arg("--version").stdin(Stdio::null()).output();
    if found.is_err() {
        skip("systemd-analyze is not installed; it comes with systemd");
        return None;
    }
    Some(Command::new("systemd-analyze"))
}

/// A Python that has paho-mqtt.
pub(crate) fn python_with_paho() -> Option<PathBuf> {
    python_with(
        "import paho.mqtt.client as c; c.CallbackAPIVersion.VERSION2",
        "paho-mqtt 2",
    )
}

/// A Python that has what this script wants, and is called so.
fn python_with(script: &str, package: &str) -> Option<PathBuf> {
    let given = std::env::var_os("CLAWDBOT_TEST_PYTHON").map(PathBuf::from);
    let candidates = given.into_iter().chain([PathBuf::from("python3")]);
    for python in candidates {
        let check = Command::new(&python)
            .args(["-c", script])
            .stdin(Stdio::null())
            .output();
        if check.is_ok_and(|output| output.status.success()) {
            return Some(python);
        }
    }
    skip(&format!("no Python with {package}; `tests/run` makes one"));
    None
}

/// Mosquitto's source, which has the tests of its broker.
pub(crate) fn mosquitto_source() -> Option<PathBuf> {
    let given = std::env::var_os("CLAWDBOT_TEST_MOSQUITTO").map(PathBuf::from);
    // Where `tests/run` leaves it: beside the profile's folder in the target directory.
    let profile = Path::new(env!("CARGO_BIN_EXE_clawdbot")).parent()?;
    let fetched = profile.parent()?.join("test-clients/mosquitto-2.0.21");
    let found = given
        .into_iter()
        .chain([fetched])
        .find(|source| source.join("test/broker").is_dir());
    if found.is_none() {
        skip("Mosquitto's source, with the tests of its broker, is missing; `tests/run` fetches it");
    }
    found
}

/// A certificate that ends tomorrow and its key, made by openssl in this directory.
pub(crate) fn certificate_of_a_day(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut openssl = openssl()?;
    let (certificate, key) = (directory.join("hub.crt"), directory.join("hub.key"));
    let made =
        "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost";
    openssl.args(made.split(' ')).arg("-keyout").arg(&key);
    finish(openssl.arg("-out").arg(&certificate)).assert_code(0);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("permissions");
    Some((certificate, key))
}
