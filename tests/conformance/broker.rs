//! A daemon for one lane of sequences.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    process: Child,
    _data_dir: TempDir,
}

impl Broker {
    pub(crate) fn start() -> Self {
        let data_dir = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let process = Command::new(env!("CARGO_BIN_EXE_clawdbot"))
            .arg("serve")
            .env("CLAWDBOT__DATA_DIR", data_dir.path())
            .env("CLAWDBOT__MQTT__TCP", address.to_string())
            .env("CLAWDBOT__METRICS__LISTEN", free_address().to_string())
            .env("CLAWDBOT__AUTH__MODE", "none")
            .env("CLAWDBOT__MODEL__PATH", "")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a daemon");
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                begun.elapsed() < START_LIMIT,
                "the daemon listens on {address} in time"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Self {
            address,
            process,
            _data_dir: data_dir,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nothing is left to be said goodbye to; the directory goes with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}
