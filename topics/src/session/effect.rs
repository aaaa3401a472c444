//! What a session wants done. The driver carries effects out in their order.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::filter::TopicFilter;
use crate::message::Message;
use crate::packet::{EncodeError, Packet, Plain, ProtocolVersion, Publish, QoS, SubscriptionOptions};

use super::outbound::{Delivery, DropReason};

/// One thing to do for a session.
#[derive(Debug)]
pub enum Effect {
    /// Send to the client on the connection at hand.
    Send(Packet),
    /// Send a message as it is to the client on the connection at hand.
    Forward(Forward),
    /// Route an accepted message. At QoS 1 and 2 (`packet_id` above 0) the driver answers with
    /// [`super::Session::routed`] once the message is in safe hands.
    Route {
        /// The message.
        message: Message,
        /// The client's packet identifier, 0 at QoS 0.
        packet_id: u16,
    },
    /// Subscribe, then answer with [`super::Session::subscribed`].
    Subscribe {
        /// The client's packet identifier.
        packet_id: u16,
        /// Each filter in the packet's order: what to subscribe, or why it cannot be.
        wanted: Vec<Wanted>,
    },
    /// Unsubscribe, then answer with [`super::Session::unsubscribed`].
    Unsubscribe {
        /// The client's packet identifier.
        packet_id: u16,
        /// Each filter in the packet's order; None where it was no filter at all.
        filters: Vec<Option<TopicFilter>>,
    },
    /// Judge what the client would renew its admission by, then answer with
    /// [`super::Session::authenticated`]. Until then the client's next packets wait.
    Authenticate {
        /// The Authentication Data.
        data: Secret,
    },
    /// The session begins anew: forget these subscriptions.
    Forget(Vec<TopicFilter>),
    /// Publish the will.
    PublishWill(Message),
    /// The session ends with messages that came by a shared subscription: another member is to have
    /// them [MQTT5 4.8.2].
    HandOn(Vec<Delivery>),
    /// A message for this client was let go.
    Dropped(DropReason),
    /// The client publishes faster than it may: take no publication from it before this instant.
    Pause(Instant),
    /// Close the connection once everything before this was sent.
    Close,
    /// The session is over: nothing of it is kept.
    End,
}

/// A message that goes to a client for the first time and as it is, as most do: nothing but the packet around it
/// is made for this receiver.
#[derive(Clone, Debug)]
pub struct Forward {
    pub(super) message: Arc<Message>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// 0 at QoS 0.
    pub(super) packet_id: u16,
}

impl Forward {
    /// Appends the PUBLISH to `out`.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let message = &self.message;
        Plain::new(
            self.qos,
            self.retain,
            message.topic.as_str(),
            self.packet_id,
            &message.payload,
        )
        .encode(version, out)
    }

    /// At which QoS it goes.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// How much of the PUBLISH is payload.
    pub fn payload_bytes(&self) -> usize {
        self.message.payload.len()
    }

    /// The PUBLISH that [`encode`](Self::encode) writes.
    pub fn to_packet(&self) -> Packet {
        Packet::Publish(Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.message.topic.as_byte_string().clone(),
            packet_id: self.packet_id,
            properties: None,
            payload: self.message.payload.clone(),
        })
    }
}

/// What may not be printed, and is not.
pub struct Secret(pub Bytes);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// A subscription as a client asked for it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The filter, or the reason code that refuses it.
    pub filter: Result<TopicFilter, crate::packet::ReasonCode>,
    /// As in the SUBSCRIBE packet.
    pub options: SubscriptionOptions,
    /// As in the SUBSCRIBE packet [MQTT5 3.8.2.1.2].
    pub identifier: Option<u32>,
    /// Whether the session had this very filter already [MQTT5 3.3.1.3, Retain Handling 1].
    pub existed: bool,
}
