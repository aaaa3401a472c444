//! The requests that an external broker brought and that are not acknowledged yet. Pure.
//!
//! Acknowledgements go out in the order in which the requests came, as the protocol wants it
//! [MQTT-4.6.0-2]: one that is answered early waits for those before it. A request that comes again
//! after a lost connection while it is still in work is not worked on twice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use topics::message::Message;

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
    message: Arc<Message>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    InWork,
    Answered,
    /// Nobody works on it any more; the broker must bring it again.
    GivenUp,
}

impl Requests {
    /// Takes a request in. The key is for work still to be done; there is none where it came again
    /// and is in work, or was answered when its acknowledgement had not got through.
    pub(super) fn received(&mut self, packet_id: u16, dup: bool, message: &Arc<Message>) -> Option<u64> {
        let known = dup
            .then(|| {
                self.entries
                    .iter()
                    .find(|(key, entry)| {
                        entry.packet_id == packet_id
                            && same(&entry.message, message)
                            && !self.order.contains(key)
                    })
                    .map(|(key, _)| *key)
            })
            .flatten();
        if let Some(key) = known {
            self.order.push_back(key);
            return None;
        }
        let key = self.next_key;
        self.next_key += 1;
        let entry = Entry {
            packet_id,
            message: message.clone(),
            state: State::InWork,
        };
        self.entries.insert(key, entry);
        self.order.push_back(key);
        Some(key)
    }

    /// The receipt of a request ended.
    pub(super) fn ended(&mut self, key: u64, answered: bool) {
        if !answered && !self.order.contains(&key) {
            // The broker is away, or has not brought it again yet: then it begins anew.
            self.entries.remove(&key);
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.state = if answered { State::Answered } else { State::GivenUp };
        }
    }

    /// The packet identifier of the next request to acknowledge.
    pub(super) fn acknowledge(&mut self) -> Option<u16> {
        let key = *self.order.front()?;
        if self.entries.get(&key)?.state != State::Answered {
            return None;
        }
        self.order.pop_front();
        Some(self.entries.remove(&key)?.packet_id)
    }

    /// The connection is lost: the broker will bring again what was not acknowledged.
    pub(super) fn connection_lost(&mut self) {
        let order = std::mem::take(&mut self.order);
        self.entries.retain(|key, entry| match entry.state {
            State::InWork => true,
            // One that did not come again with this connection will not with the next.
            State::Answered => order.contains(key),
            State::GivenUp => false,
        });
    }

    /// The broker forgot the session, and with it which requests are ours.
    pub(super) fn session_lost(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// Requests somebody works on.
    pub(super) fn in_work(&self) -> usize {
        self.count(State::InWork)
    }

    /// Requests that came with this connection and that only another one brings back.
    pub(super) fn given_up(&self) -> usize {
        self.count(State::GivenUp)
    }

    /// Requests that somebody works on or that wait for their acknowledgement.
    pub(super) fn unacknowledged(&self) -> usize {
        let counts = |(key, entry): &(&u64, &Entry)| entry.state == State::InWork || self.order.contains(key);
        self.entries.iter().filter(counts).count()
    }

    fn count(&self, state: State) -> usize {
        self.entries.values().filter(|entry| entry.state == state).count()
    }
}

/// The time left to a message is counted down while it waits, so it is not compared.
fn same(one: &Message, other: &Message) -> bool {
    one.topic == other.topic && one.payload == other.payload && one.properties == other.properties
}

#[cfg(test)]
mod tests {
    use topics::name::TopicName;
    use topics::packet::QoS;

    use super::*;

    fn ask(text: &'static str) -> Arc<Message> {
        let topic = TopicName::parse("clawdbot/phone/command".into()).unwrap();
        Arc::new(Message::new(topic, text, QoS::AtLeastOnce))
    }

    fn acknowledged(requests: &mut Requests) -> Vec<u16> {
        std::iter::from_fn(|| requests.acknowledge()).collect()
    }

    #[test]
    fn acknowledgements_keep_the_order_of_the_requests() {
        let mut requests = Requests::default();
        let keys: Vec<_> = (1..=3)
            .map(|id| requests.received(id, false, &ask("x")).unwrap())
            .collect();
        requests.ended(keys[1], true);
        assert_eq!(acknowledged(&mut requests), [0u16; 0]);
        requests.ended(keys[0], true);
        assert_eq!(acknowledged(&mut requests), [1, 2]);
        requests.ended(keys[2], true);
        assert_eq!(acknowledged(&mut requests), [3]);
        assert_eq!(requests.unacknowledged(), 0);
    }

    #[test]
    fn what_comes_again_while_it_is_in_work_is_not_begun_twice() {
        let mut requests = Requests::default();
        let slow = requests.received(1, false, &ask("slow")).unwrap();
        let quick = requests.received(2, false, &ask("quick")).unwrap();
        requests.ended(quick, true);
        requests.connection_lost();
        assert_eq!(requests.received(1, true, &ask("slow")), None);
        assert_eq!(requests.received(2, true, &ask("quick")), None);
        requests.ended(slow, true);
        assert_eq!(acknowledged(&mut requests), [1, 2]);
    }

    #[test]
    fn the_same_words_asked_anew_are_another_request() {
        let mut requests = Requests::default();
        requests.received(1, false, &ask("x")).unwrap();
        requests.connection_lost();
        assert!(
            requests.received(1, false, &ask("x")).is_some(),
            "not a duplicate"
        );
        assert!(requests.received(2, true, &ask("x")).is_some(), "another packet");
    }

    #[test]
    fn what_was_given_up_is_begun_again_with_the_next_connection() {
        let mut requests = Requests::default();
        let first = requests.received(1, false, &ask("x")).unwrap();
        requests.ended(first, false);
        assert_eq!((requests.given_up(), requests.in_work()), (1, 0));
        assert_eq!(acknowledged(&mut requests), [0u16; 0]);
        requests.connection_lost();
        let second = requests.received(1, true, &ask("x")).unwrap();
        requests.ended(second, true);
        assert_eq!(acknowledged(&mut requests), [1]);
    }

    #[test]
    fn what_was_given_up_while_the_broker_was_away_is_begun_again_when_it_comes() {
        let mut requests = Requests::default();
        let first = requests.received(1, false, &ask("x")).unwrap();
        requests.connection_lost();
        requests.ended(first, false);
        assert_eq!((requests.given_up(), requests.unacknowledged()), (0, 0));
        assert!(requests.received(1, true, &ask("x")).is_some());
    }

    #[test]
    fn an_answer_to_a_session_that_is_gone_acknowledges_nothing() {
        let mut requests = Requests::default();
        let key = requests.received(1, false, &ask("x")).unwrap();
        requests.session_lost();
        requests.received(1, false, &ask("y")).unwrap();
        requests.ended(key, true);
        assert_eq!(acknowledged(&mut requests), [0u16; 0]);
    }

    #[test]
    fn what_the_broker_gave_to_others_is_forgotten_in_the_end() {
        let mut requests = Requests::default();
        let key = requests.received(1, false, &ask("x")).unwrap();
        requests.connection_lost();
        requests.ended(key, true);
        assert_eq!(requests.unacknowledged(), 0);
        requests.connection_lost();
        assert!(requests.entries.is_empty());
    }
}
