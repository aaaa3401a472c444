//! The byte side of a session: one stream that flushes what is to be sent, hands over what was
//! routed here, and reads what the client says. The connection in it is replaceable.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::Sleep;
use topics::device::DeviceId;
use topics::session::Delivery;

use crate::stats::Stats;
use crate::store::{Store, Ticket};
use crate::switchboard::SessionHandle;

use super::waits::Waits;

/// Bytes to and from a client, whatever carries them.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// While more than this waits to be written, nothing more is taken from the outbox or read from
/// the client: a client that does not read its answers slows itself.
const HIGH_WATER_BYTES: usize = 256 * 1024;

/// Deliveries handed over at once.
const BATCH: usize = 256;

/// One read. Chunks of it are handed on without a copy; all sessions of an arbiter share it.
const READ_BYTES: usize = 64 * 1024;

/// How long a publisher waits for a session that makes no progress, before what finds that session's
/// outbox full is dropped instead.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a connection that ends may take to write its last words and see the client go.
const LINGER: Duration = Duration::from_secs(5);

/// How long a new connection waits for the reactor of the one before, at most: an arbiter that does not turn
/// for so long has worse troubles than a goodbye unheard.
const REACTOR_PATIENCE: Duration = Duration::from_secs(1);

/// A client that goes on sending after its end is not listened to for long.
const MAX_DRAINED_READS: usize = 256;

/// A connection as reception hands it over.
pub struct Connection {
    /// The bytes.
    pub stream: Box<dyn ByteStream>,
    /// Dropped when the connection is closed: whoever counts connections is told so.
    pub permit: Option<Box<dyn Send>>,
    /// Of the arbiter that watches the socket, which need not be the session's.
    pub reactor: Handle,
    /// The device that whatever carries the bytes has proven the client to be, by a certificate.
    pub certified: Option<DeviceId>,
}

/// What happened.
#[derive(Debug)]
pub(super) enum IoEvent {
    /// The client said something.
    Received(BytesMut),
    /// Messages for the client.
    Deliveries(VecDeque<Delivery>),
    /// The receivers of what the client publishes have room again.
    Relieved,
    /// The connection is gone.
    Closed(Option<io::Error>),
}

/// The connection, its write buffer and the outbox; shared by the actor and its stream.
pub(super) struct Io {
    handle: Arc<SessionHandle>,
    stats: Arc<Stats>,
    connection: Option<Connection>,
    out: BytesMut,
    waits: Waits,
    waker: Option<Waker>,
    read_first: bool,
    /// What is to be written waits for the receivers of what the client just published, who were woken before.
    pub(super) receivers_first: bool,
    /// While the session has enough to send, what is routed to it stays in the outbox, where publishers
    /// see that it is crowded.
    pub(super) deliveries_wait: bool,
    /// Where the next deliveries come in: the room of the last ones, while one batch comes after the other.
    pub(super) spare: VecDeque<Delivery>,
    held_back: Option<HeldBack>,
    /// The client published too fast.
    paused: Option<Pin<Box<Sleep>>>,
    /// While it is held back, what the client acknowledges is still read, up to a bound.
    pub(super) may_read_ahead: bool,
    /// What this client still says is its last, and waits for nobody.
    leaving: bool,
    broken: Option<Broken>,
}

/// Nothing more can be sent on the connection, and it is read to its end.
struct Broken {
    why: io::Error,
    until: Pin<Box<Sleep>>,
}

/// The client publishes to sessions that do not keep up.
struct HeldBack {
    by: Vec<Arc<SessionHandle>>,
    until: Pin<Box<Sleep>>,
}

impl HeldBack {
    /// Ready when everybody has room again, or was waited for long enough.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.by.retain(|session| session.outbox.is_crowded(cx.waker()));
        if self.by.is_empty() {
            return Poll::Ready(());
        }
        if self.until.as_mut().poll(cx).is_ready() {
            for session in self.by.drain(..) {
                session.outbox.give_up_waiting();
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Io {
    pub(super) fn new(
        handle: Arc<SessionHandle>,
        stats: Arc<Stats>,
        store: Option<Arc<dyn Store>>,
    ) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            handle,
            stats,
            connection: None,
            out: BytesMut::new(),
            waits: Waits::new(store),
            waker: None,
            read_first: false,
            receivers_first: false,
            deliveries_wait: false,
            spare: VecDeque::new(),
            held_back: None,
            paused: None,
            may_read_ahead: true,
            leaving: false,
            broken: None,
        }))
    }

    /// Where packets for the client are written to.
    pub(super) fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out = write_buffer::take();
        }
        &mut self.out
    }

    /// What is written from now on is sent when the store has something on disk.
    pub(super) fn send_after(&mut self, ticket: Ticket) {
        self.waits.add(self.out.len(), ticket);
    }

    /// Puts a connection in the place of none.
    pub(super) fn connect(&mut self, connection: Connection) {
        self.connection = Some(connection);
        self.leaving = false;
        self.wake();
    }

    /// Sends what is left and closes, without holding up the session.
    pub(super) fn close(&mut self) {
        let (out, waits) = (std::mem::take(&mut self.out), self.waits.take());
        self.broken = None;
        self.stop_holding_back();
        let Some(Connection {
            mut stream, permit, ..
        }) = self.connection.take()
        else {
            return;
        };
        let stats = self.stats.clone();
        actix_rt::spawn(async move {
            // What fails here fails for a client that is gone already.
            let _ = tokio::time::timeout(LINGER, async {
                waits.write_all(&out, &mut stream).await?;
                stats.sent_bytes.add(out.len() as u64);
                stream.shutdown().await?;
                drain(&mut stream).await
            })
            .await;
            drop(permit);
        });
    }

    /// Reads nothing more from the client until these sessions have room again.
    pub(super) fn hold_back(&mut self, crowded: Vec<Arc<SessionHandle>>) {
        // The next connection must not wait for what was published on this one.
        if self.leaving || self.connection.is_none() {
            return;
        }
        match &mut self.held_back {
            Some(held_back) => held_back.by.extend(crowded),
            none => {
                *none = Some(HeldBack {
                    by: crowded,
                    until: Box::pin(tokio::time::sleep(PATIENCE)),
                });
            }
        }
        self.wake();
    }

    /// Takes no publication from the client before an instant.
    pub(super) fn pause(&mut self, until: Instant) {
        if self.leaving {
            return;
        }
        let until = tokio::time::Instant::from_std(until);
        match &mut self.paused {
            Some(sleep) => sleep.as_mut().reset(until),
            none => *none = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.wake();
    }

    /// Nobody is waited for any more.
    pub(super) fn stop_holding_back(&mut self) {
        self.held_back = None;
        self.paused = None;
        self.may_read_ahead = true;
    }

    /// The client leaves, and what it has said it said before: nothing holds it back any more, or a goodbye
    /// at the end of it would come too late.
    pub(super) fn see_off(&mut self) {
        self.stop_holding_back();
        self.leaving = true;
    }

    /// Whether the client's next packets must wait.
    pub(super) fn is_held_back(&self) -> bool {
        self.held_back.is_some() || self.paused.is_some()
    }

    /// Whether nothing at all is read: what the client says now is heard later.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_held_back() && !self.may_read_ahead
    }

    /// Makes the stream look again: there is something to write.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// A client that closes its socket with bytes of ours unread resets the connection, and our writing may
    /// learn of it first. A reset takes nothing away that has arrived before it (on Linux, and a write that
    /// fails does not either), so there may be a goodbye to be read.
    fn cannot_write(&mut self, why: io::Error) {
        self.see_off();
        self.broken = Some(Broken {
            why,
            until: Box::pin(tokio::time::sleep(LINGER)),
        });
    }

    /// What the client said before the connection broke, and then its end. That comes at once for a socket
    /// that was reset, but what a socket is to tell may have to wait for its reactor; and there are others,
    /// whose client stopped reading and goes on writing.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<IoEvent> {
        // Nobody will read answers.
        self.out.clear();
        self.waits.clear();
        let in_time = self
            .broken
            .as_mut()
            .is_some_and(|broken| broken.until.as_mut().poll(cx).is_pending());
        if in_time {
            self.poll_read(cx)
        } else {
            Poll::Ready(self.end(None))
        }
    }

    fn end(&mut self, error: Option<io::Error>) -> IoEvent {
        self.connection = None;
        self.out = BytesMut::new();
        self.waits.clear();
        let broken = self.broken.take().map(|broken| broken.why);
        IoEvent::Closed(broken.or(error))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        while !self.out.is_empty() {
            let open = self.waits.open(self.out.len(), cx);
            if open == 0 {
                break;
            }
            let now = self.out.get(..open).unwrap_or_default();
            match Pin::new(&mut connection.stream).poll_write(cx, now) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.stats.sent_bytes.add(written as u64);
                    self.out.advance(written);
                    self.waits.sent(written);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.out.is_empty() {
            // An idle session holds no buffer.
            write_buffer::give_back(std::mem::take(&mut self.out));
        }
        match Pin::new(&mut connection.stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ready when the receivers have room again and the client's pause is over.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let receivers = self.held_back.as_mut().map_or(Poll::Ready(()), |h| h.poll(cx));
        let pause = self
            .paused
            .as_mut()
            .map_or(Poll::Ready(()), |p| p.as_mut().poll(cx));
        if receivers.is_ready() {
            self.held_back = None;
        }
        if pause.is_ready() {
            self.paused = None;
        }
        if receivers.is_ready() && pause.is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<IoEvent> {
        if self.is_held_back() {
            if self.poll_held_back(cx).is_pending() {
                if !self.may_read_ahead {
                    return Poll::Pending;
                }
            } else {
                self.stop_holding_back();
                return Poll::Ready(IoEvent::Relieved);
            }
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Pending;
        };
        match poll_read_chunk(&mut connection.stream, cx) {
            Poll::Ready(Ok(chunk)) if !chunk.is_empty() => {
                self.stats.received_bytes.add(chunk.len() as u64);
                Poll::Ready(IoEvent::Received(chunk))
            }
            Poll::Ready(end) => Poll::Ready(self.end(end.err())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ready when the reactor of the connection has seen everything that lies in its socket by now. Tokio
    /// tries no read before that, so a socket can seem empty that is not.
    pub(super) fn reactor_turn(&self) -> impl Future<Output = ()> + use<> {
        let reactor = self
            .connection
            .as_ref()
            .map(|connection| connection.reactor.clone());
        async move {
            if let Some(reactor) = reactor {
                // A task of its own goes on after the reactor's turn and never before; a future among those of
                // an actor is polled whenever the actor is. What fails is a runtime that ends.
                let turn = reactor.spawn(tokio::task::yield_now());
                let _ = tokio::time::timeout(REACTOR_PATIENCE, turn).await;
            }
        }
    }

    /// What can be read without waiting, as the last thing before the connection is closed.
    pub(super) fn read_now(&mut self) -> Option<IoEvent> {
        // Without the task's budget: when that is spent, every socket seems empty.
        let read = pin!(tokio::task::unconstrained(poll_fn(|cx| self.poll_read(cx))));
        match read.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        }
    }

    fn poll_deliveries(&mut self, cx: &mut Context<'_>) -> Poll<IoEvent> {
        if self.deliveries_wait && self.connection.is_some() {
            return Poll::Pending;
        }
        let mut batch = std::mem::take(&mut self.spare);
        match self.handle.outbox.poll_drain(cx, BATCH, &mut batch) {
            Poll::Ready(()) => Poll::Ready(IoEvent::Deliveries(batch)),
            // An idle session keeps no room for a burst.
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Write buffers go round among the sessions of an arbiter, so that a busy one finds it in the cache and an
/// idle one holds none.
mod write_buffer {
    use std::cell::RefCell;

    use bytes::BytesMut;

    const FIRST_BYTES: usize = 16 * 1024;
    const MAX_SPARE: usize = 4;
    const MAX_SPARE_BYTES: usize = 128 * 1024;

    thread_local! {
        static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn take() -> BytesMut {
        SPARE
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| BytesMut::with_capacity(FIRST_BYTES))
    }

    pub(super) fn give_back(mut buffer: BytesMut) {
        buffer.clear();
        if (1..=MAX_SPARE_BYTES).contains(&buffer.capacity()) {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MAX_SPARE {
                    spare.push(buffer);
                }
            });
        }
    }
}

/// Reads to the end what the client is still sending. A socket that is closed with bytes unread resets
/// the connection, and the client may never see the reason it was just told.
pub(crate) async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut ignored = [0; 1024];
    for _ in 0..MAX_DRAINED_READS {
        if stream.read(&mut ignored).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads once into the arbiter's buffer and splits off what came; empty at the end of the stream.
pub(crate) fn poll_read_chunk(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<BytesMut>> {
    thread_local! {
        static ARENA: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    }
    ARENA.with_borrow_mut(|arena| {
        if arena.capacity() < READ_BYTES / 4 {
            arena.reserve(READ_BYTES);
        }
        let read = pin!(stream.read_buf(arena)).poll(cx);
        read.map_ok(|_| arena.split())
    })
}

/// The session's side of [`Io`] as a stream that never ends.
pub(super) struct IoStream(pub(super) Rc<RefCell<Io>>);

impl Stream for IoStream {
    type Item = IoEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<IoEvent>> {
        let io = &mut *self.0.borrow_mut();
        if std::mem::take(&mut io.receivers_first) {
            // Tasks run in the order of their waking.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if io.broken.is_none()
            && let Err(error) = io.poll_write(cx)
        {
            io.cannot_write(error);
        }
        match &mut io.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        if io.broken.is_some() {
            return io.poll_rest(cx).map(Some);
        }
        if io.out.len() >= HIGH_WATER_BYTES {
            return Poll::Pending;
        }
        // Turn about, so that neither a busy client nor a busy outbox starves the other.
        io.read_first = !io.read_first;
        let event = if io.read_first {
            match io.poll_read(cx) {
                Poll::Pending => io.poll_deliveries(cx),
                ready => ready,
            }
        } else {
            match io.poll_deliveries(cx) {
                Poll::Pending => io.poll_read(cx),
                ready => ready,
            }
        };
        event.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Outbox;

    #[actix::test]
    async fn what_was_published_on_a_connection_that_is_gone_holds_nobody_back() {
        let handle = SessionHandle::new("client".into(), Outbox::new(1, 1));
        let io = Io::new(handle.clone(), Arc::default(), None);
        io.borrow_mut().hold_back(vec![handle]);
        assert!(!io.borrow().is_held_back());
    }
}
