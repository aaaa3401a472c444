//! Topic aliases on the way to the client [MQTT5 3.3.2.3.4].

use std::collections::HashMap;

use bytestring::ByteString;

use crate::packet::{Publish, PublishProperties};

/// Aliases given on one connection, whatever more the client would take: each costs it and us the memory
/// of a topic.
const MOST: u16 = 32;

/// An alias takes three bytes, and may make the length of the properties one byte longer.
const SHORTEST_TOPIC_BYTES: usize = 5;

/// The aliases of the connection at hand.
///
/// They are given to the first topics that are sent, and not taken back when there are no more: with more
/// topics in turn than aliases, reuse of the oldest would send nearly every topic in full, three bytes
/// longer than without.
#[derive(Debug)]
pub(super) struct Aliases {
    most: u16,
    given: HashMap<ByteString, u16>,
}

impl Aliases {
    /// None for a client that takes none.
    pub(super) fn up_to(client_maximum: u16) -> Option<Box<Self>> {
        let most = client_maximum.min(MOST);
        (most > 0).then(|| {
            Box::new(Self {
                most,
                given: HashMap::new(),
            })
        })
    }

    /// Puts the alias of its topic into a packet that is about to be sent: in the topic's place if the
    /// client knows it, beside the topic if it is new and the packet still `fits` with it.
    pub(super) fn shorten(&mut self, publish: &mut Publish, fits: impl Fn(&Publish) -> bool) {
        if publish.topic.len() < SHORTEST_TOPIC_BYTES {
            return;
        }
        if let Some(alias) = self.given.get(&publish.topic) {
            set(publish, Some(*alias));
            publish.topic = ByteString::new();
            return;
        }
        let next = self.given.len() as u16 + 1;
        if next > self.most {
            return;
        }
        set(publish, Some(next));
        if fits(publish) {
            // A name of its own: a slice would hold the buffer that the message came in.
            self.given
                .insert(ByteString::from(publish.topic.to_string()), next);
        } else {
            set(publish, None);
        }
    }
}

fn set(publish: &mut Publish, alias: Option<u16>) {
    publish
        .properties
        .get_or_insert_with(Box::<PublishProperties>::default)
        .topic_alias = alias;
}
