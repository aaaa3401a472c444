//! What must outlive the daemon. Actors say what changes; how it is kept is the daemon's business.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, RwLockReadGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use bytestring::ByteString;
use topics::device::DeviceId;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;
use topics::session::{Delivery, Kept, KeptSession, Stage};

use crate::switchboard::Publisher;

/// A kind of record whose form is its owner's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Devices and what lets them in.
    Devices,
    /// What was said, a conversation a record.
    Conversations,
    /// To which client each token belongs.
    Tokens,
}

impl Table {
    /// Each of them.
    pub const ALL: [Table; 3] = [Self::Devices, Self::Conversations, Self::Tokens];

    /// As it is called in the store. Never changed: values are bound to it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Conversations => "conversations",
            Self::Tokens => "tokens",
        }
    }
}

/// A record as it was kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Of what kind.
    pub table: Table,
    /// Its name among its kind.
    pub name: ByteString,
    /// What its owner wrote. It may be secret: there is no Debug.
    pub value: Bytes,
}

/// A change to what is kept, made in memory already.
#[derive(Clone)]
pub enum Change {
    /// The last word on its topic from now on.
    Retain(Arc<Message>),
    /// The topic has no last word any more.
    Forget(TopicName),
    /// A record, in the place of one of the same name.
    Put(Record),
    /// The record is gone.
    Remove(Table, ByteString),
    /// A session that outlives its connection, as it is now.
    Session(Box<SessionRecord>),
    /// The session of this client identifier is over.
    EndSession(ByteString),
    /// A message on its way to the client of a session.
    Keep(Box<Keeping>),
    /// How far the message with this number is, with the packet identifier.
    Stage(u64, Stage),
    /// The message with this number has arrived, or was let go.
    Done {
        /// Its number.
        id: u64,
        /// Whether its stage was told.
        staged: bool,
    },
    /// A message for an actor that owns its topic.
    Accept(Box<Accepted>),
    /// The actor has let go of the message with this number.
    Handled(u64),
    /// The client used this identifier for a QoS 2 message that was taken, and must not be taken again.
    Received(ByteString, u16),
    /// The client has released the identifier.
    Released(ByteString, u16),
}

impl Change {
    /// Whether it only takes something away. There is always room for that: it was let in before.
    pub fn only_removes(&self) -> bool {
        matches!(
            self,
            Self::Forget(_)
                | Self::Remove(..)
                | Self::EndSession(_)
                | Self::Done { .. }
                | Self::Handled(_)
                | Self::Released(..)
        )
    }
}

/// A session that outlives its connection.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    /// Whose it is.
    pub client_id: ByteString,
    /// The device it was admitted for.
    pub device_id: Option<DeviceId>,
    /// The session itself.
    pub session: KeptSession,
}

/// A message on its way to the client of a session.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// Numbers grow in the order in which messages came.
    pub id: u64,
    /// Whose session has it.
    pub client_id: ByteString,
    /// The message, and how it goes.
    pub delivery: Delivery,
}

/// A message that a session is given back.
#[derive(Clone, Debug)]
pub struct RestoredDelivery {
    /// As it was kept.
    pub kept: Keeping,
    /// How far it had come.
    pub stage: Stage,
}

/// A message that an actor was given.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Numbers grow in the order in which messages came.
    pub id: u64,
    /// The message.
    pub message: Arc<Message>,
    /// Who published it.
    pub client_id: ByteString,
    /// The device of that client; None for the daemon itself.
    pub device_id: Option<DeviceId>,
    /// Whether its publisher may publish to its Response Topic.
    pub may_answer: bool,
    /// How many daemons were given it; 1 as long as it is the first.
    pub attempt: u32,
}

/// The place of a message for an actor. Let go of when the last of those is dropped who still have to do with it.
pub struct Acceptance {
    store: Arc<dyn Store>,
    id: u64,
    attempt: u32,
    stays: AtomicBool,
}

impl Acceptance {
    /// Hands a message in.
    pub(crate) fn take(
        store: &Arc<dyn Store>,
        message: &Arc<Message>,
        from: &Publisher,
    ) -> Option<(Arc<Self>, Ticket)> {
        let id = store.next_id();
        let may_answer = message.response_topic().is_some_and(|topic| {
            TopicName::parse(topic.clone()).is_ok_and(|topic| {
                from.rules
                    .may_publish(&topic, QoS::AtLeastOnce as u8, false)
                    .is_allowed()
            })
        });
        let accepted = Accepted {
            id,
            message: message.clone(),
            client_id: from.client_id.clone(),
            device_id: from.device_id.clone(),
            may_answer,
            attempt: 1,
        };
        let ticket = store.submit(Change::Accept(Box::new(accepted))).ok()?;
        Some((Self::of(store.clone(), id, 1), ticket))
    }

    /// The place of a message that was kept before.
    pub(crate) fn of(store: Arc<dyn Store>, id: u64, attempt: u32) -> Arc<Self> {
        Arc::new(Self {
            store,
            id,
            attempt,
            stays: AtomicBool::new(false),
        })
    }

    /// How many daemons were given the message.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The next daemon is to have it.
    pub(crate) fn leave(&self) {
        self.stays.store(true, Relaxed);
    }
}

impl Drop for Acceptance {
    fn drop(&mut self) {
        // An actor that panics over it, or over another, has not handled it.
        if !self.stays.load(Relaxed) && !std::thread::panicking() {
            // There is always room for that, unless the store is closed.
            let _ = self.store.submit(Change::Handled(self.id));
        }
    }
}

impl fmt::Debug for Acceptance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptance({})", self.id)
    }
}

/// What was kept of sessions.
#[derive(Default)]
pub struct RestoredSessions {
    /// In no order.
    pub sessions: Vec<SessionRecord>,
    /// In the order in which they came.
    pub deliveries: Vec<RestoredDelivery>,
    /// Client identifiers with those of QoS 2 messages that they have not released.
    pub received: Vec<(ByteString, u16)>,
}

/// Stands for a change that was handed in, and for all that were before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The store takes nothing more before some of what it has is on disk. The policy is to refuse the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "what waits to be written fills its room; see whether the disk of the data directory is full or broken"
)]
pub struct StoreFull;

/// Keeps changes in the order in which they are handed in. Many are written together, so that none pays for a
/// flush of the disk alone.
pub trait Store: Send + Sync + 'static {
    /// Hands in a change. Returns at once; a full disk is waited for, not reported here.
    ///
    /// # Errors
    /// [`StoreFull`], and the change must then be undone in memory.
    fn submit(&self, change: Change) -> Result<Ticket, StoreFull>;

    /// The newest change that was handed in.
    fn newest(&self) -> Ticket;

    /// A number for a message, greater than any before.
    fn next_id(&self) -> u64;

    /// While this is held, what is handed in is written together with what follows: all of it or none survives. Held
    /// for a moment, not over an await, and never twice by one thread.
    fn together(&self) -> RwLockReadGuard<'_, ()>;

    /// Whether so much waits to be written that publishers should wait, too.
    fn is_crowded(&self) -> bool;

    /// Whether nothing more would be taken.
    fn is_full(&self) -> bool;

    /// Bytes of what waits to be written.
    fn waiting_bytes(&self) -> u64;

    /// Bytes of its file that it has in memory, as far as it counts them.
    fn cache_bytes(&self) -> u64;

    /// From now on nothing is taken any more: sessions that end because the daemon does take nothing with them.
    fn close(&self);

    /// Ready when the change and all before it would survive a power cut.
    fn poll_durable(&self, ticket: Ticket, cx: &mut Context<'_>) -> Poll<()>;
}

/// The place of one message in a store.
pub(crate) struct Place {
    store: Arc<dyn Store>,
    id: u64,
    staged: AtomicBool,
}

impl Place {
    /// The place of a message that was kept before.
    pub(crate) fn of(store: Arc<dyn Store>, id: u64, staged: bool) -> Arc<dyn Kept> {
        Arc::new(Self {
            store,
            id,
            staged: AtomicBool::new(staged),
        })
    }

    /// Hands a delivery in for the session of a client, and notes its place in it. Returns what must be on disk
    /// before its publisher hears that it is in safe hands.
    pub(crate) fn take(
        store: &Arc<dyn Store>,
        client_id: &ByteString,
        delivery: &mut Delivery,
    ) -> Option<Ticket> {
        if delivery.qos == QoS::AtMostOnce {
            return None;
        }
        let id = store.next_id();
        let keeping = Keeping {
            id,
            client_id: client_id.clone(),
            delivery: delivery.clone(),
        };
        let ticket = store.submit(Change::Keep(Box::new(keeping))).ok()?;
        delivery.kept = Some(Self::of(store.clone(), id, false));
        Some(ticket)
    }

    fn stage(&self, stage: Stage) {
        self.staged.store(true, Relaxed);
        // Without room it comes again under another identifier after a restart, which is all that can be done.
        let _ = self.store.submit(Change::Stage(self.id, stage));
    }
}

impl Kept for Place {
    fn sent(&self, packet_id: u16) {
        self.stage(Stage::Sent(packet_id));
    }

    fn taken_over(&self, packet_id: u16) {
        self.stage(Stage::TakenOver(packet_id));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Its session fell over something else; the message is there at the next start.
            return;
        }
        let done = Change::Done {
            id: self.id,
            staged: self.staged.load(Relaxed),
        };
        // There is always room for that, unless the store is closed.
        let _ = self.store.submit(done);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.id)
    }
}
