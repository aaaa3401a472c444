//! MQTT over plain TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::ArbiterHandle;
use actors::device_session::Connection;
use actors::reception::Reception;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pause after a failed accept: when file descriptors ran out, trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop` is ready. Connections are dealt out over the arbiters in turn; one beyond
/// `permits` is closed without a word, since MQTT has none before CONNECT.
pub async fn serve(
    listener: TcpListener,
    permits: Arc<Semaphore>,
    arbiters: Vec<ArbiterHandle>,
    reception: Arc<Reception>,
    stop: impl Future<Output = ()>,
) {
    let mut next_arbiter = arbiters.iter().cycle();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the MQTT listener could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let stats = reception.switchboard.stats();
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            stats.connections_refused.add(1);
            tracing::warn!(%peer, "connection refused: mqtt.max_connections are open");
            continue;
        };
        stats.connections_accepted.add(1);
        if let Some(arbiter) = next_arbiter.next() {
            hand_over(stream, peer, permit, arbiter, reception.clone());
        }
    }
}

/// Moves a socket to its arbiter, whose reactor is to watch it from now on.
fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    arbiter: &ArbiterHandle,
    reception: Arc<Reception>,
) {
    // Small packets go out at once; batches are made by us, not by the kernel.
    let prepared = stream.set_nodelay(true).and_then(|()| stream.into_std());
    let stream = match prepared {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%peer, %error, "a connection broke before its first byte"),
    };
    arbiter.spawn_fn(move || match TcpStream::from_std(stream) {
        Ok(stream) => {
            let connection = Connection {
                stream: Box::new(stream),
                permit: Some(permit),
            };
            actix_rt::spawn(reception.receive(connection, Some(peer)));
        }
        Err(error) => tracing::debug!(%peer, %error, "a connection broke before its first byte"),
    });
}
