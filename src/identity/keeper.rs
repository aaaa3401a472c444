//! Where records of devices are kept, as far as the register needs to know.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use actors::store::{Change, Record, Store, Table};

use super::bindings::{Mark, Notes};

/// Ready when a record would survive a power cut.
pub(crate) type Durable = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A record was not taken, and so must not be acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store takes nothing more at the moment; see whether the disk of the data directory is full or broken"
)]
pub(crate) struct NotKept;

/// Keeps records of devices by name, in the order in which they are handed in.
pub(crate) trait Keeper: Send + Sync {
    /// Hands in a record, in the place of one of the same name. Returns at once.
    fn put(&self, name: &str, value: Vec<u8>) -> Result<Durable, NotKept>;

    /// Hands in to which client a token belongs, and which belong to nobody any more. Nobody waits for it: what a full
    /// store does not take holds as long as the daemon.
    fn note_tokens(&self, token: Mark, notes: Notes);
}

/// Keeps nothing: what happens to devices is forgotten with the daemon.
pub(crate) struct Forgetful;

impl Keeper for Forgetful {
    fn put(&self, _: &str, _: Vec<u8>) -> Result<Durable, NotKept> {
        Ok(Box::pin(std::future::ready(())))
    }

    fn note_tokens(&self, _: Mark, _: Notes) {}
}

/// The name of a token's record.
fn name_of(token: Mark) -> String {
    format!("{:032x}", u128::from_be_bytes(token))
}

/// The token of a record.
pub(crate) fn token_of(name: &str) -> Option<Mark> {
    u128::from_str_radix(name, 16).ok().map(u128::to_be_bytes)
}

/// Keeps records in the store.
pub(crate) struct InStore(pub(crate) Arc<dyn Store>);

impl Keeper for InStore {
    fn put(&self, name: &str, value: Vec<u8>) -> Result<Durable, NotKept> {
        let record = Record {
            table: Table::Devices,
            name: name.into(),
            value: value.into(),
        };
        let ticket = self.0.submit(Change::Put(record)).map_err(|_| NotKept)?;
        let store = self.0.clone();
        Ok(Box::pin(poll_fn(move |cx| store.poll_durable(ticket, cx))))
    }

    fn note_tokens(&self, token: Mark, notes: Notes) {
        let bound = notes.bound.map(|value| {
            Change::Put(Record {
                table: Table::Tokens,
                name: name_of(token).into(),
                value: value.into(),
            })
        });
        let ended = notes.ended.into_iter();
        let ended = ended.map(|token| Change::Remove(Table::Tokens, name_of(token).into()));
        for change in bound.into_iter().chain(ended) {
            let _ = self.0.submit(change);
        }
    }
}
