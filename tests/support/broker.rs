//! Somebody else's broker: Mosquitto, set up by the files in `config/external-broker`.

use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::client::{Client, Login};
use super::daemon::{Daemon, Launch};
use super::{foreign, process, wait_for};

/// The user of the daemons.
pub(crate) const HUB: &str = "clawdbot";

/// Every user's password is made of its name.
pub(crate) fn password_of(user: &str) -> String {
    format!("secret of {user}")
}

/// A Mosquitto with accounts for the daemons and two devices, that keeps its sessions on disk.
pub(crate) struct Broker {
    directory: TempDir,
    process: Child,
    pub(crate) address: SocketAddr,
    tls: bool,
}

impl Broker {
    /// By plain TCP; nothing where Mosquitto is not installed.
    pub(crate) fn start() -> Option<Broker> {
        Broker::start_with(false)
    }

    /// By TLS, with a certificate for `localhost` by an authority of its own.
    pub(crate) fn start_with_tls() -> Option<Broker> {
        Broker::start_with(true)
    }

    fn start_with(tls: bool) -> Option<Broker> {
        foreign::mosquitto("mosquitto")?;
        let directory = TempDir::with_prefix("mosquitto-").expect("a temporary directory");
        if tls {
            make_certificates(directory.path());
        }
        for user in [HUB, "phone", "tablet"] {
            set_password(directory.path(), user, &password_of(user));
        }
        let acl = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/external-broker/mosquitto.acl");
        fs::copy(acl, directory.path().join("acl")).expect("the access list in config/");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        write_config(directory.path(), address, tls);
        let process = spawn(directory.path(), address);
        Some(Broker {
            directory,
            process,
            address,
            tls,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Ends it as the system would; it writes down what it holds.
    pub(crate) fn stop(&mut self) {
        process::signal(self.process.id(), Signal::TERM);
        self.process.wait().expect("it ends");
    }

    /// Loses what it wrote down, while it is stopped.
    pub(crate) fn forget(&self) {
        fs::remove_file(self.path("mosquitto.db")).expect("what it wrote down");
    }

    /// Starts it again, with all that it wrote down.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.directory.path(), self.address);
    }

    /// Does nothing until it is sent on.
    pub(crate) fn pause(&self) {
        process::signal(self.process.id(), Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        process::signal(self.process.id(), Signal::CONT);
    }

    /// Gives a user another password, and lets the broker know.
    pub(crate) fn change_password(&self, user: &str, password: &str) {
        set_password(self.directory.path(), user, password);
        process::signal(self.process.id(), Signal::HUP);
    }

    /// A daemon that serves this broker under a client id.
    pub(crate) fn daemon(&self, client_id: &str) -> Launch {
        let (scheme, host) = if self.tls {
            ("mqtts", "localhost")
        } else {
            ("mqtt", "127.0.0.1")
        };
        let password = self.path("hub-password");
        fs::write(&password, password_of(HUB)).expect("a file for the password");
        let launch = Daemon::launch()
            .set("broker.mode", "external")
            .set(
                "broker.address",
                format!("{scheme}://{host}:{}", self.address.port()),
            )
            .set("broker.client_id", client_id)
            .set("broker.username", HUB)
            .set("broker.password_file", password.display());
        if self.tls {
            launch.set("broker.ca_certificate", self.path("ca.pem").display())
        } else {
            launch
        }
    }

    /// A login of a device's client, without TLS.
    pub(crate) fn login(&self, device: &str, client_id: &str) -> Login {
        Login::elsewhere(device, &password_of(device), client_id)
    }

    /// A client of a device.
    pub(crate) async fn client(&self, device: &str) -> Client {
        Client::connect(self.address, self.login(device, &format!("{device}-client")))
            .await
            .expect("admitted")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("--- the broker's log ---\n{log}--- its end ---");
        }
    }
}

fn write_config(directory: &Path, address: SocketAddr, tls: bool) {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut config = String::new();
    let mut line = |line: String| writeln!(config, "{line}").expect("a text grows");
    // Started by root it would become somebody who cannot read these files.
    line("user root".to_owned());
    line(format!("listener {} {}", address.port(), address.ip()));
    if tls {
        line(format!("certfile {}", path("server.pem")));
        line(format!("keyfile {}", path("server.key")));
    }
    line("allow_anonymous false".to_owned());
    line(format!("password_file {}", path("passwords")));
    line(format!("acl_file {}", path("acl")));
    // As many as a daemon takes by its Receive Maximum, as in `config/external-broker/mosquitto.conf`.
    line("max_inflight_messages 0".to_owned());
    line("persistence true".to_owned());
    line(format!("persistence_location {}/", directory.display()));
    line("log_type all".to_owned());
    line(format!("log_dest file {}", path("log")));
    fs::write(directory.join("mosquitto.conf"), config).expect("a configuration");
}

fn spawn(directory: &Path, address: SocketAddr) -> Child {
    let mut process = foreign::mosquitto("mosquitto")
        .expect("it was there before")
        .arg("-c")
        .arg(directory.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the broker starts");
    wait_for("the broker to listen", || {
        if let Some(status) = process.try_wait().expect("a child") {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            panic!("the broker ended at its start with {status}: {log}");
        }
        TcpStream::connect(address).ok()
    });
    process
}

fn set_password(directory: &Path, user: &str, password: &str) {
    let file = directory.join("passwords");
    let mut command = Command::new("mosquitto_passwd");
    if !file.exists() {
        command.arg("-c");
    }
    process::finish(command.arg("-b").arg(&file).args([user, password])).assert_code(0);
}

/// `ca.pem`, `other-ca.pem`, and `server.pem` with `server.key`, which `ca` signed for `localhost`.
pub(crate) fn make_certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        process::finish(command.args(arguments).current_dir(directory)).assert_code(0);
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    for authority in ["ca", "other-ca"] {
        let (key_file, file) = (format!("{authority}.key"), format!("{authority}.pem"));
        let subject = format!("/CN={authority}");
        let own = [
            "-x509", "-days", "2", "-keyout", &key_file, "-out", &file, "-subj", &subject,
        ];
        openssl(&[&["req"][..], &key, &own].concat());
    }
    let request = [
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
        "-subj",
        "/CN=localhost",
    ];
    openssl(&[&["req"][..], &key, &request].concat());
    fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n").expect("a file");
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ]);
}
