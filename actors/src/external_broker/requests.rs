//! The messages at QoS 1 that an external broker brought and that are not acknowledged yet: requests, and what
//! the actors of an application are to handle. Pure.
//!
//! Acknowledgements go out in the order in which the messages came, as the protocol wants it
//! [MQTT-4.6.0-2]: one that is done early waits for those before it. A message that comes again
//! after a lost connection while it is still in work is not worked on twice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use topics::message::Message;

use super::receipt::Ending;

/// How often a message may end the actor that handles it, before it is taken off the broker's hands: it
/// would go on for ever otherwise, and hold up the acknowledgements of all others.
const MAX_FAILURES: u32 = 3;

/// See the module. At most Receive Maximum at a time came with this connection, and at most as
/// many are left over from those before.
#[derive(Default)]
pub(super) struct Requests {
    next_key: u64,
    entries: HashMap<u64, Entry>,
    /// As they came with this connection.
    order: VecDeque<u64>,
}

struct Entry {
    packet_id: u16,
    /// None where it could not be one.
    message: Option<Arc<Message>>,
    state: State,
    /// It is in the order of this connection.
    came: bool,
    failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    InWork,
    /// To be acknowledged when the broker has our messages up to this number.
    Done {
        after: u64,
    },
    /// Nobody works on it any more; the broker must bring it again.
    GivenUp,
}

/// What a message that came is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Work, by this key.
    Work(u64),
    /// One that came again and is in work, or was done when its acknowledgement had not got through.
    Known,
    /// One that its actor has failed at too often: it is acknowledged, and done no more.
    Hopeless,
}

impl Requests {
    /// Takes a message in.
    pub(super) fn received(&mut self, packet_id: u16, dup: bool, message: &Arc<Message>) -> Arrival {
        let mut entries = self.entries.iter_mut();
        let known = entries.find(|(_, entry)| {
            let is_same = |known: &Arc<Message>| same(known, message);
            dup && !entry.came && entry.packet_id == packet_id && entry.message.as_ref().is_some_and(is_same)
        });
        if let Some((key, entry)) = known {
            self.order.push_back(*key);
            entry.came = true;
            if entry.state != State::GivenUp {
                return Arrival::Known;
            }
            if entry.failures >= MAX_FAILURES {
                entry.state = State::Done { after: 0 };
                return Arrival::Hopeless;
            }
            entry.state = State::InWork;
            return Arrival::Work(*key);
        }
        Arrival::Work(self.insert(packet_id, Some(message.clone()), State::InWork))
    }

    /// Takes in what can be no message. It is acknowledged when its turn comes.
    pub(super) fn of_no_use(&mut self, packet_id: u16) {
        self.insert(packet_id, None, State::Done { after: 0 });
    }

    fn insert(&mut self, packet_id: u16, message: Option<Arc<Message>>, state: State) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        let entry = Entry {
            packet_id,
            message,
            state,
            came: true,
            failures: 0,
        };
        self.entries.insert(key, entry);
        self.order.push_back(key);
        key
    }

    /// The receipt of a message ended, when `sent` was the number of our last message for the broker.
    pub(super) fn ended(&mut self, key: u64, ending: Ending, sent: u64) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.failures += u32::from(ending == Ending::Failed);
        entry.state = match ending {
            Ending::Paid => State::Done { after: sent },
            Ending::Dropped | Ending::Failed => State::GivenUp,
        };
    }

    /// The packet identifier of the next message to acknowledge, where the broker has our messages up to the
    /// one of this number.
    pub(super) fn acknowledge(&mut self, settled: u64) -> Option<u16> {
        let key = *self.order.front()?;
        match self.entries.get(&key)?.state {
            State::Done { after } if after <= settled => {}
            _ => return None,
        }
        self.order.pop_front();
        Some(self.entries.remove(&key)?.packet_id)
    }

    /// A connection is lost on which the broker could have brought what was not acknowledged; it will bring
    /// it again with the next.
    pub(super) fn connection_lost(&mut self) {
        self.order.clear();
        self.entries.retain(|_, entry| {
            // One that did not come again with this connection will not with the next.
            entry.state == State::InWork || entry.came
        });
        for entry in self.entries.values_mut() {
            entry.came = false;
        }
    }

    /// The broker forgot the session, and with it which messages are ours.
    pub(super) fn session_lost(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// Messages somebody works on.
    pub(super) fn in_work(&self) -> usize {
        self.count(|entry| entry.state == State::InWork)
    }

    /// Messages that came with this connection and that only another one brings back.
    pub(super) fn given_up(&self) -> usize {
        self.count(|entry| entry.came && entry.state == State::GivenUp)
    }

    /// Messages that somebody works on or that wait for their acknowledgement.
    pub(super) fn unacknowledged(&self) -> usize {
        self.count(|entry| entry.came || entry.state == State::InWork)
    }

    fn count(&self, counts: impl Fn(&Entry) -> bool) -> usize {
        self.entries.values().filter(|entry| counts(entry)).count()
    }
}

/// The time left to a message is counted down while it waits, so it is not compared.
fn same(one: &Message, other: &Message) -> bool {
    one.topic == other.topic && one.payload == other.payload && one.properties == other.properties
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
