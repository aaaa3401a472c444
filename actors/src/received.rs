//! A message as an actor of one's own gets it: the payload decoded, the levels in braces filled in,
//! and everything that came with it at hand.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;

use crate::denials::Denied;
use crate::hub::{Hub, PublishError, PublishOptions};
use crate::switchboard::{Inbound, Publisher, Switchboard};

/// A message of the type that an actor asked for; reads like that type.
///
/// It takes up its place in the actor's mailbox until it is dropped: an actor that keeps it while it
/// works on it in the background is still bounded.
#[derive(Debug)]
pub struct Received<T> {
    body: T,
    inbound: Inbound,
    hub: Hub,
}

impl<T: 'static> actix::Message for Received<T> {
    type Result = ();
}

impl<T> Deref for Received<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

impl<T> Received<T> {
    pub(crate) fn new(body: T, inbound: Inbound, hub: Hub) -> Self {
        Self { body, inbound, hub }
    }

    /// What was read, by itself.
    pub fn into_body(self) -> T {
        self.body
    }

    /// The hub it came through, to publish by.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Who published it: the client, its device and what it may do. The device is the one that logged
    /// in, whatever the topic's levels say; an access rule may have let it publish for another.
    pub fn publisher(&self) -> &Arc<Publisher> {
        &self.inbound.from
    }

    /// Where it was published to.
    pub fn topic(&self) -> &TopicName {
        &self.message().topic
    }

    /// What stands at a level in braces of the pattern.
    pub fn level(&self, name: &str) -> Option<&str> {
        self.inbound.params.get(name)
    }

    /// The quality of service it was published with.
    pub fn qos(&self) -> QoS {
        self.message().qos
    }

    /// Where the publisher wants the answer [MQTT5 3.3.2.3.5].
    pub fn response_topic(&self) -> Option<&ByteString> {
        self.message().response_topic()
    }

    /// What the publisher wants echoed in the answer [MQTT5 3.3.2.3.6].
    pub fn correlation_data(&self) -> Option<&Bytes> {
        self.message().correlation_data()
    }

    /// All of it as it came, user properties and expiry too.
    pub fn message(&self) -> &Arc<Message> {
        &self.inbound.message
    }

    /// Answers on the message's Response Topic, with its correlation data.
    ///
    /// # Errors
    /// When there is no Response Topic, or the publisher may not publish to it: a device cannot have
    /// another's topic written to by asking for it.
    pub fn reply(&self, body: &impl Serialize) -> Result<(), PublishError> {
        let topic =
            response_topic(self.hub.switchboard(), &self.inbound)?.ok_or(PublishError::NoResponseTopic)?;
        let options = PublishOptions {
            correlation_data: own(self.correlation_data()),
            ..PublishOptions::default()
        };
        self.hub.publish_with(&topic, body, options)
    }
}

/// The Response Topic, if there is one and its publisher may publish there.
pub(crate) fn response_topic(
    switchboard: &Switchboard,
    inbound: &Inbound,
) -> Result<Option<TopicName>, PublishError> {
    let Some(asked) = inbound.message.response_topic() else {
        return Ok(None);
    };
    let refused = || PublishError::ResponseTopic {
        topic: asked.to_string(),
    };
    let topic = TopicName::parse(asked.clone()).map_err(|_| refused())?;
    if !may_answer_on(switchboard, &inbound.from, &topic) {
        return Err(refused());
    }
    Ok(Some(topic.detached()))
}

/// Whether an answer may be published where this publisher wants it.
pub(crate) fn may_answer_on(switchboard: &Switchboard, from: &Publisher, topic: &TopicName) -> bool {
    let decision = from.rules.may_publish(topic, QoS::AtLeastOnce as u8, false);
    if !decision.is_allowed() {
        switchboard.denied(Denied::ResponseTopic, from, topic.as_str(), &decision);
    }
    // An answer into an actor's mailbox would be the next request.
    decision.is_allowed() && !switchboard.is_owned(topic)
}

/// A copy that does not hold the buffer it came in.
pub(crate) fn own(data: Option<&Bytes>) -> Option<Bytes> {
    data.map(|data| Bytes::copy_from_slice(data))
}
