//! Doors on a TCP port, with whatever layers lie above.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};

use super::entrance::{ACCEPT_PAUSE, Entrance, Layers};

/// Connections that the kernel keeps until they are accepted, as far as its own bound lets it: when a
/// whole house comes back after a power cut, nobody is to wait for a second SYN.
const BACKLOG: u32 = 4096;

/// Opens a port, whose connections the kernel keeps until somebody accepts them.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A daemon that is started again need not wait for the last connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Accepts in a room until `stop` is ready.
pub(super) async fn serve(
    listener: TcpListener,
    layers: Layers,
    entrance: Arc<Entrance>,
    here: usize,
    stop: impl Future<Output = ()>,
) {
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
        let Some(permit) = entrance.admit(Some(peer.ip())) else {
            continue;
        };
        // Small packets go out at once; batches are made by us, not by the kernel.
        match stream.set_nodelay(true) {
            Ok(()) => entrance.hand_over(here, stream, layers.clone(), permit, Some(peer)),
            Err(error) => tracing::debug!(%peer, %error, "a connection broke before its first byte"),
        }
    }
}
