//! What every door has in common: who is let in, the layers between the socket and MQTT, and the way
//! to a session arbiter.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use actix_rt::ArbiterHandle;
use actors::device_session::{ByteStream, Connection};
use actors::reception::Reception;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::peers::Reach;
use super::permits::{Full, Permit, Permits};
use super::websocket::{self, Origins};

/// Pause after a failed accept: when file descriptors ran out, trying at once would only spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One for the daemon, shared by its doors.
pub struct Entrance {
    permits: Arc<Permits>,
    reach: Reach,
    arbiters: Vec<ArbiterHandle>,
    next_arbiter: AtomicUsize,
    reception: Arc<Reception>,
}

impl Entrance {
    /// Connections are dealt out over the arbiters in turn.
    pub fn new(
        permits: Arc<Permits>,
        reach: Reach,
        arbiters: Vec<ArbiterHandle>,
        reception: Arc<Reception>,
    ) -> Arc<Entrance> {
        Arc::new(Entrance {
            permits,
            reach,
            arbiters,
            next_arbiter: AtomicUsize::new(0),
            reception,
        })
    }

    /// Whether a peer may come in. Who may not is closed without a word, since neither MQTT nor TLS has
    /// one before the client has spoken.
    pub(super) fn admit(&self, peer: Option<IpAddr>) -> Option<Permit> {
        let stats = self.reception.switchboard.stats();
        if peer.is_some_and(|peer| !self.reach.includes(peer)) {
            stats.connections_refused_network.add(1);
            tracing::info!(
                ?peer,
                "connection refused: it comes from beyond the private networks, and \
                 mqtt.allow_beyond_private_network is false"
            );
            return None;
        }
        match self.permits.take(peer) {
            Ok(permit) => {
                stats.connections_accepted.add(1);
                Some(permit)
            }
            Err(Full::Everywhere) => {
                stats.connections_refused.add(1);
                tracing::warn!(?peer, "connection refused: mqtt.max_connections are open");
                None
            }
            Err(Full::FromItsAddress) => {
                stats.connections_refused_address.add(1);
                tracing::warn!(
                    ?peer,
                    "connection refused: mqtt.max_connections_per_address are open"
                );
                None
            }
        }
    }

    /// Moves a socket to the next arbiter, whose reactor is to watch it from now on. `open` makes the
    /// stream there.
    pub(super) fn hand_over<S: ByteStream + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<S> + Send + 'static,
        layers: Layers,
        permit: Permit,
        peer: Option<SocketAddr>,
    ) {
        let turn = self.next_arbiter.fetch_add(1, Relaxed);
        let Some(arbiter) = self.arbiters.get(turn % self.arbiters.len().max(1)) else {
            return;
        };
        let reception = self.reception.clone();
        let deadline = Instant::now() + reception.connect_timeout;
        arbiter.spawn_fn(move || match open() {
            Ok(stream) => {
                actix_rt::spawn(receive(stream, layers, permit, peer, deadline, reception));
            }
            Err(error) => tracing::debug!(?peer, %error, "a connection broke before its first byte"),
        });
    }
}

/// What lies between the socket and MQTT.
#[derive(Clone, Default)]
pub(super) struct Layers {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) websocket: Option<Origins>,
}

impl Layers {
    async fn shake_hands<S: ByteStream + 'static>(&self, stream: S) -> io::Result<Box<dyn ByteStream>> {
        match &self.tls {
            Some(tls) => self.upgrade(tls.accept(stream).await?).await,
            None => self.upgrade(stream).await,
        }
    }

    async fn upgrade<S: ByteStream + 'static>(&self, stream: S) -> io::Result<Box<dyn ByteStream>> {
        Ok(match self.websocket {
            Some(origins) => Box::new(websocket::accept(stream, origins).await?),
            None => Box::new(stream),
        })
    }
}

async fn receive<S: ByteStream + 'static>(
    stream: S,
    layers: Layers,
    permit: Permit,
    peer: Option<SocketAddr>,
    deadline: Instant,
    reception: Arc<Reception>,
) {
    let stream = match tokio::time::timeout_at(deadline, layers.shake_hands(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            reception.switchboard.stats().handshakes_failed.add(1);
            return tracing::info!(?peer, %error, "handshake failed");
        }
        Err(_) => {
            reception.switchboard.stats().handshakes_failed.add(1);
            return tracing::debug!(?peer, "no whole handshake in time");
        }
    };
    let connection = Connection {
        stream,
        permit: Some(Box::new(permit)),
        reactor: Handle::current(),
    };
    reception.receive(connection, peer, deadline).await;
}
