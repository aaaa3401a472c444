//! What must outlive the daemon. Actors say what changes; how it is kept is the daemon's business.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use bytestring::ByteString;
use topics::message::Message;
use topics::name::TopicName;

/// A kind of record whose form is its owner's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Devices and what lets them in.
    Devices,
    /// What was said, a conversation a record.
    Conversations,
}

impl Table {
    /// Each of them.
    pub const ALL: [Table; 2] = [Self::Devices, Self::Conversations];

    /// As it is called in the store. Never changed: values are bound to it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Conversations => "conversations",
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

    /// Ready when the change and all before it would survive a power cut.
    fn poll_durable(&self, ticket: Ticket, cx: &mut Context<'_>) -> Poll<()>;
}
