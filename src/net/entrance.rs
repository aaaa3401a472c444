//! What every door has in common: who is let in, the layers between the socket and MQTT, and the way
//! to a session arbiter.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use actix_rt::ArbiterHandle;
use actors::device_session::{ByteStream, Connection};
use actors::gatekeeper::Gatekeeper;
use actors::reception::Reception;
use actors::stats::Stats;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::time::Instant;
use topics::device::DeviceId;

use super::peers::Reach;
use super::permits::{Full, Permit, Permits};
use super::websocket::{self, Origins};
use crate::security::certificates::{ServerTls, tls};

/// Pause after a failed accept: when file descriptors ran out, trying at once would only spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One for the daemon, shared by its doors.
pub struct Entrance {
    permits: Arc<Permits>,
    reach: Reach,
    rooms: Vec<Room>,
    next_room: AtomicUsize,
    stats: Arc<Stats>,
}

/// A session arbiter. What a connection asks on its way in is answered on the same thread: a word to another
/// and back would take longer than all the rest.
pub struct Room {
    /// Where sessions live, and where doors are watched.
    pub arbiter: ArbiterHandle,
    /// Receives its connections.
    pub reception: Arc<Reception>,
}

impl Entrance {
    /// Connections are dealt out over the rooms in turn.
    pub fn new(permits: Arc<Permits>, reach: Reach, rooms: Vec<Room>, stats: Arc<Stats>) -> Arc<Entrance> {
        Arc::new(Entrance {
            permits,
            reach,
            rooms,
            next_room: AtomicUsize::new(0),
            stats,
        })
    }

    /// The room in which the doors of this number are watched, and its own number.
    pub(super) fn room_for_door(&self, door: usize) -> Option<(usize, &Room)> {
        let at = door.checked_rem(self.rooms.len())?;
        self.rooms.get(at).map(|room| (at, room))
    }

    /// Whether a peer may come in. Who may not is closed without a word, since neither MQTT nor TLS has
    /// one before the client has spoken.
    pub(super) fn admit(&self, peer: Option<IpAddr>) -> Option<Permit> {
        let stats = &self.stats;
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

    /// Gives a socket to the next room in turn, whose reactor is to watch it from now on; `here` is the room
    /// that accepted it.
    pub(super) fn hand_over<S: Socket>(
        &self,
        here: usize,
        stream: S,
        layers: Layers,
        permit: Permit,
        peer: Option<SocketAddr>,
    ) {
        let turn = self.next_room.fetch_add(1, Relaxed) % self.rooms.len().max(1);
        let Some(room) = self.rooms.get(turn) else { return };
        let reception = room.reception.clone();
        let deadline = Instant::now() + reception.connect_timeout;
        if turn == here {
            actix_rt::spawn(receive(stream, layers, permit, peer, deadline, reception));
            return;
        }
        let lost = move |error: io::Error| {
            tracing::debug!(?peer, %error, "a connection broke before its first byte");
        };
        match stream.leave() {
            Ok(socket) => {
                room.arbiter.spawn_fn(move || match S::join(socket) {
                    Ok(stream) => {
                        actix_rt::spawn(receive(stream, layers, permit, peer, deadline, reception));
                    }
                    Err(error) => lost(error),
                });
            }
            Err(error) => lost(error),
        }
    }
}

/// An accepted socket, which may be moved from one reactor to another.
pub(super) trait Socket: ByteStream + Sized + 'static {
    /// Watched by none.
    type Unwatched: Send + 'static;

    /// Leaves the reactor that watches it.
    fn leave(self) -> io::Result<Self::Unwatched>;

    /// Is watched by the reactor of this thread.
    fn join(socket: Self::Unwatched) -> io::Result<Self>;
}

impl Socket for TcpStream {
    type Unwatched = std::net::TcpStream;

    fn leave(self) -> io::Result<Self::Unwatched> {
        self.into_std()
    }

    fn join(socket: Self::Unwatched) -> io::Result<Self> {
        Self::from_std(socket)
    }
}

impl Socket for UnixStream {
    type Unwatched = std::os::unix::net::UnixStream;

    fn leave(self) -> io::Result<Self::Unwatched> {
        self.into_std()
    }

    fn join(socket: Self::Unwatched) -> io::Result<Self> {
        Self::from_std(socket)
    }
}

/// What lies between the socket and MQTT.
#[derive(Clone, Default)]
pub(super) struct Layers {
    pub(super) tls: Option<ServerTls>,
    pub(super) websocket: Option<Origins>,
}

impl Layers {
    /// The bytes of MQTT, and the device that the client proved to be below them; None where a question was answered
    /// and nothing more comes. Secrets are told over TLS, and to this machine.
    async fn shake_hands<S: ByteStream + 'static>(
        &self,
        stream: S,
        peer: Option<SocketAddr>,
        gate: Option<&Arc<dyn Gatekeeper>>,
    ) -> io::Result<Option<(Box<dyn ByteStream>, Option<DeviceId>)>> {
        let Some(tls) = &self.tls else {
            let gate = gate.filter(|_| peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()));
            return Ok(self.upgrade(stream, gate).await?.map(|stream| (stream, None)));
        };
        let stream = tls.acceptor().accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let device = certificate.map(tls::device_of).transpose();
        let device = device.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(self.upgrade(stream, gate).await?.map(|stream| (stream, device)))
    }

    async fn upgrade<S: ByteStream + 'static>(
        &self,
        stream: S,
        gate: Option<&Arc<dyn Gatekeeper>>,
    ) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(match self.websocket {
            Some(origins) => {
                let accepted = websocket::accept(stream, origins, gate).await?;
                accepted.map(|stream| Box::new(stream) as Box<dyn ByteStream>)
            }
            None => Some(Box::new(stream)),
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
    let shaken = layers.shake_hands(stream, peer, reception.gate.as_ref());
    let (stream, certified) = match tokio::time::timeout_at(deadline, shaken).await {
        Ok(Ok(Some(open))) => open,
        Ok(Ok(None)) => return tracing::debug!(?peer, "a question was answered by HTTP"),
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
        certified,
    };
    reception.receive(connection, peer, deadline).await;
}
