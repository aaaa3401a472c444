//! The ways in: plain TCP, TLS, WebSocket, secure WebSocket, Unix socket. What a session does is the
//! same on each; what belongs to each is tried alone.

#[path = "transports/certificates.rs"]
mod certificates;
#[path = "transports/foreign_clients.rs"]
mod foreign_clients;
#[path = "transports/goodbyes.rs"]
mod goodbyes;
#[path = "transports/limits.rs"]
mod limits;
#[path = "transports/same_session.rs"]
mod same_session;
#[path = "transports/strangers.rs"]
mod strangers;
#[path = "transports/websocket.rs"]
mod websocket;
#[path = "transports/wires.rs"]
mod wires;

use std::path::PathBuf;

use self::certificates::Pair;
use crate::support::daemon::{Daemon, Launch};

/// Every way in, open.
struct Everywhere {
    daemon: Daemon,
    pair: Pair,
}

impl Everywhere {
    fn start() -> Option<Everywhere> {
        Everywhere::start_with(|launch| launch)
    }

    fn start_with(settings: impl FnOnce(Launch) -> Launch) -> Option<Everywhere> {
        let pair = Pair::make("pkcs8")?;
        let launch = Daemon::launch()
            .set("mqtt.unix", pair.directory().join("mqtt.sock").display())
            .set("mqtt.tls", "127.0.0.1:0")
            .set("mqtt.secure_websocket", "127.0.0.1:0")
            .set("mqtt.tls_certificate", pair.certificate.display())
            .set("mqtt.tls_key", pair.key.display());
        Some(Everywhere {
            daemon: settings(launch).start(),
            pair,
        })
    }

    fn unix(&self) -> PathBuf {
        self.pair.directory().join("mqtt.sock")
    }
}
