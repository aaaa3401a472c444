//! A Mosquitto that lets everybody in, to hold the daemon against.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};

use tempfile::TempDir;

use super::{foreign, wait_for};

/// It is ended when it is dropped.
pub(crate) struct Mosquitto {
    process: Child,
    pub(crate) address: SocketAddr,
    _directory: TempDir,
}

impl Mosquitto {
    /// With these lines in its configuration; nothing where it is not installed.
    pub(crate) fn start(options: &str) -> Option<Mosquitto> {
        let mut command = foreign::mosquitto("mosquitto")?;
        let directory = TempDir::with_prefix("mosquitto-").expect("a temporary directory");
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let configuration = directory.path().join("mosquitto.conf");
        let lines = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nlog_type none\n{options}\n",
            address.port()
        );
        fs::write(&configuration, lines).expect("a configuration");
        let process = command
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Mosquitto starts");
        let mosquitto = Mosquitto {
            process,
            address,
            _directory: directory,
        };
        wait_for("Mosquitto to listen", || TcpStream::connect(address).ok());
        Some(mosquitto)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}
