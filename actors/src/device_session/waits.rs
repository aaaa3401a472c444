//! What a client is told only when it is on disk: the acknowledgement of what it asked to be kept, and, since packets
//! keep their order, all that comes behind it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::store::{Store, Ticket};

/// See the module. It goes with a buffer of bytes to be sent.
#[derive(Default)]
pub(super) struct Waits {
    store: Option<Arc<dyn Store>>,
    /// How many bytes of the buffer go without waiting for a ticket; in order.
    until: VecDeque<(usize, Ticket)>,
}

impl Waits {
    pub(super) fn new(store: Option<Arc<dyn Store>>) -> Self {
        Self {
            store,
            until: VecDeque::new(),
        }
    }

    /// Whatever comes behind so many bytes waits for a ticket.
    pub(super) fn add(&mut self, bytes: usize, ticket: Ticket) {
        // Whatever an earlier byte waits for, later ones wait for as well.
        if self.until.back().is_none_or(|(_, before)| *before < ticket) {
            self.until.push_back((bytes, ticket));
        }
    }

    /// So many bytes left the front of the buffer.
    pub(super) fn sent(&mut self, bytes: usize) {
        for (until, _) in &mut self.until {
            *until = until.saturating_sub(bytes);
        }
    }

    /// The buffer was emptied.
    pub(super) fn clear(&mut self) {
        self.until.clear();
    }

    /// These waits for a buffer that is taken away; none are left here.
    pub(super) fn take(&mut self) -> Self {
        Self {
            store: self.store.clone(),
            until: std::mem::take(&mut self.until),
        }
    }

    /// How many of `length` bytes may be sent now. Where it is not all of them, the task is woken when there are
    /// more.
    pub(super) fn open(&mut self, length: usize, cx: &mut Context<'_>) -> usize {
        while let Some((until, ticket)) = self.until.front() {
            let durable = self
                .store
                .as_ref()
                .is_none_or(|store| store.poll_durable(*ticket, cx).is_ready());
            if !durable {
                return (*until).min(length);
            }
            self.until.pop_front();
        }
        length
    }

    /// Writes a whole buffer, each part when it may be sent.
    pub(super) async fn write_all(
        mut self,
        buffer: &[u8],
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut rest = buffer;
        while !rest.is_empty() {
            let open = poll_fn(|cx| match self.open(rest.len(), cx) {
                0 => Poll::Pending,
                open => Poll::Ready(open),
            });
            let open = open.await;
            let (now, later) = rest.split_at_checked(open).unwrap_or((rest, &[]));
            stream.write_all(now).await?;
            self.sent(open);
            rest = later;
        }
        Ok(())
    }
}
