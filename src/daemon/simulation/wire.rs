//! A connection that is made up: what goes in comes out later, in other pieces, unless it is cut.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

use super::world::{Chance, World};

/// The client's end.
pub(super) struct Wire {
    pub(super) stream: DuplexStream,
    cut: Arc<Notify>,
}

impl Wire {
    /// With the daemon's end.
    pub(super) fn new(world: &World) -> (Wire, DuplexStream) {
        let (ours, near) = tokio::io::duplex(8 * 1024);
        let (far, theirs) = tokio::io::duplex(8 * 1024);
        let cut = Arc::<Notify>::default();
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        let (up, down) = (world.chance(), world.chance());
        let until = cut.clone();
        actix_rt::spawn(async move {
            tokio::select! {
                biased;
                () = until.notified() => {}
                () = carry(near_read, far_write, up) => {}
                () = carry(far_read, near_write, down) => {}
            }
        });
        (Wire { stream: ours, cut }, theirs)
    }

    /// What is on its way is lost.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut chance: Chance) {
    let mut piece = [0; 1024];
    loop {
        let length = if chance.one_in(4) { 7 } else { piece.len() };
        let Some(room) = piece.get_mut(..length) else {
            return;
        };
        let Ok(count @ 1..) = from.read(room).await else {
            return;
        };
        if chance.one_in(3) {
            tokio::time::sleep(chance.pause(0, 30)).await;
        }
        if to
            .write_all(piece.get(..count).unwrap_or_default())
            .await
            .is_err()
        {
            return;
        }
    }
}
