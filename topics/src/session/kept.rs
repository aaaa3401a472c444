//! What of a session outlives the process: told to whoever keeps it, and taken up again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;

use crate::filter::TopicFilter;
use crate::message::Message;
use crate::packet::SubscriptionOptions;

use super::outbound::{Delivery, Outbound};
use super::{Session, SessionConfig, Will};

/// A message's place in a store. When it is dropped, whatever became of the message, the store lets it go.
pub trait Kept: fmt::Debug + Send + Sync {
    /// At QoS 2: it is about to be sent with this packet identifier, which must be known before the client sees it,
    /// or a client that has half of the handshake would take it twice [MQTT-4.3.3-2].
    fn sent(&self, packet_id: u16);

    /// At QoS 2: the client has taken it over. From the PUBREL on it may give the identifier to another message.
    fn taken_over(&self, packet_id: u16);
}

/// How far a kept message had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits, or was sent at QoS 1.
    Waiting,
    /// Sent at QoS 2 with this packet identifier.
    Sent(u16),
    /// The client has it: only the end of the handshake of this identifier is missing.
    TakenOver(u16),
}

/// What was asked for with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// As in SUBSCRIBE.
    pub options: SubscriptionOptions,
    /// As in SUBSCRIBE [MQTT5 3.8.2.1.2].
    pub identifier: Option<u32>,
}

/// A will as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptWill {
    /// Without its expiry, which begins when it is published.
    pub message: Message,
    /// Its Message Expiry Interval.
    pub expiry: Option<Duration>,
    /// Its Will Delay Interval.
    pub delay: Duration,
}

/// A session as it is kept, but for its messages.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptSession {
    /// Seconds it outlives its connection; `u32::MAX` is forever.
    pub expiry_s: u32,
    /// When it lost its connection; None where it had one.
    pub ends_at: Option<Instant>,
    /// What it subscribed to, in no order.
    pub subscriptions: Vec<(TopicFilter, Grant)>,
    /// What is to be published for it.
    pub will: Option<KeptWill>,
}

impl Session {
    /// What is to be kept of it; None where it ends with its connection.
    pub fn to_keep(&self) -> Option<KeptSession> {
        self.is_persistent().then(|| KeptSession {
            expiry_s: self.expiry_s,
            ends_at: self.ends_at,
            subscriptions: self
                .subscriptions
                .iter()
                .map(|(filter, grant)| (filter.clone(), *grant))
                .collect(),
            will: self.will.as_ref().map(|will| KeptWill {
                message: will.message.clone(),
                expiry: will.expiry,
                delay: will.delay,
            }),
        })
    }

    /// A session that was kept, without a connection. `received` are identifiers of QoS 2 messages that its client
    /// sent and did not release; the deliveries come in their order.
    pub fn restore(
        config: Arc<SessionConfig>,
        client_id: ByteString,
        now: Instant,
        kept: KeptSession,
        received: impl IntoIterator<Item = u16>,
        deliveries: impl IntoIterator<Item = (Delivery, Stage)>,
    ) -> Session {
        let mut session = Session::new(config, client_id);
        let lives_for = Duration::from_secs(u64::from(kept.expiry_s));
        session.expiry_s = kept.expiry_s;
        // Whoever was connected lost its connection with the process that had it.
        session.ends_at = (kept.expiry_s != u32::MAX).then(|| kept.ends_at.unwrap_or(now + lives_for));
        session.subscriptions = kept.subscriptions.into_iter().collect::<HashMap<_, _>>();
        session.will = kept.will.map(|will| Will {
            message: will.message,
            expiry: will.expiry,
            delay: will.delay,
            due_at: Some(now + will.delay.min(lives_for)),
        });
        session.inbound.restore(received);
        session.outbound = Outbound::restore(deliveries);
        session
    }
}
