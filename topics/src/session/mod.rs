//! The MQTT session as a pure state machine: packets and time come in, effects go out.
//!
//! A session is a client id's state on the broker [MQTT5 4.1]; the connection is a replaceable
//! part. The driver calls [`Session::attach`] for a new connection, [`Session::receive`] for each
//! packet, [`Session::deliver`] for each message, [`Session::detach`] when the connection is gone
//! and [`Session::tick`] when [`Session::next_timeout`] has come, and carries out the effects in
//! their order. No effect waits for another session.

mod aliases;
mod attach;
mod authentication;
mod effect;
mod explain;
mod inbound;
mod kept;
mod outbound;
mod packet_ids;
mod rate;
mod sharing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;

use crate::filter::TopicFilter;
use crate::message::Message;
use crate::name::{MAX_LEVELS, MAX_TOPIC_BYTES};
use crate::packet::{Ack, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode, SubAck, UnsubAck};

pub use attach::{Attached, Welcome};
pub use effect::{Effect, Forward, Secret, Wanted};
pub use explain::refusal;
pub use kept::{Grant, Kept, KeptSession, KeptWill, Stage};
pub use outbound::{Delivery, DropReason, Outcomes};
pub use rate::RateLimit;

use explain::Explains;
use inbound::Inbound;
use outbound::{Allowance, Outbound, QueueBounds, Step};

/// What the broker grants every session. Bounds, so that no client can take more than its share.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Unacknowledged QoS 1 and 2 publishes a client may have on the way to us [MQTT5 3.2.2.3.3].
    pub receive_maximum: u16,
    /// Unacknowledged QoS 1 and 2 messages we have on the way to a client, whatever it allows.
    pub max_inflight: u16,
    /// The largest packet we take [MQTT5 3.2.2.3.6].
    pub max_packet_bytes: usize,
    /// Topic aliases a client may set [MQTT5 3.2.2.3.8].
    pub topic_alias_maximum: u16,
    /// The longest keep-alive; 0 leaves it to the client [MQTT5 3.2.2.3.14].
    pub max_keep_alive_s: u16,
    /// The longest a session outlives its connection, in seconds.
    pub max_session_expiry_s: u32,
    /// Messages that wait for a client, in number.
    pub max_queued_messages: usize,
    /// Messages that wait for a client, in bytes.
    pub max_queued_bytes: usize,
    /// Subscriptions of one client.
    pub max_subscriptions: usize,
    /// How fast one client may publish.
    pub publish_rate: RateLimit,
    /// Levels of a topic that is published to or subscribed to.
    pub max_topic_levels: usize,
    /// Bytes of such a topic.
    pub max_topic_bytes: usize,
}

impl SessionConfig {
    /// Whether a topic or a filter is within the bounds.
    fn takes(&self, topic: &str) -> bool {
        topic.len() <= self.max_topic_bytes && topic.split('/').count() <= self.max_topic_levels
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            receive_maximum: 100,
            max_inflight: 100,
            max_packet_bytes: 1024 * 1024,
            topic_alias_maximum: 10,
            max_keep_alive_s: 0,
            max_session_expiry_s: 7 * 24 * 3600,
            max_queued_messages: 1000,
            max_queued_bytes: 4 * 1024 * 1024,
            max_subscriptions: 100,
            publish_rate: RateLimit::default(),
            max_topic_levels: MAX_LEVELS,
            max_topic_bytes: MAX_TOPIC_BYTES,
        }
    }
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Closed or broken, by whichever side: the will is due unless the client said goodbye.
    Lost,
    /// Another connection of the same client takes the session over.
    TakenOver,
}

/// One client id's session.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    client_id: ByteString,
    link: Option<Link>,
    /// Seconds the session outlives its connection; `u32::MAX` is forever [MQTT5 3.1.2.11.2].
    expiry_s: u32,
    subscriptions: HashMap<TopicFilter, Grant>,
    inbound: Inbound,
    outbound: Outbound,
    will: Option<Will>,
    ends_at: Option<Instant>,
}

#[derive(Debug)]
struct Will {
    message: Message,
    /// Kept apart: a will's expiry interval counts from its publication [MQTT5 3.1.3.2.4].
    expiry: Option<Duration>,
    delay: Duration,
    due_at: Option<Instant>,
}

/// The connection at hand, as far as the protocol cares.
#[derive(Debug)]
struct Link {
    version: ProtocolVersion,
    is_bridge: bool,
    /// One and a half times the keep-alive [MQTT-3.1.2-22].
    patience: Option<Duration>,
    last_heard: Instant,
    window: usize,
    client_max_packet_bytes: usize,
    explains: Explains,
    /// As CONNECT named it.
    authentication_method: Option<ByteString>,
    /// Until when the client is let in; None for as long as it likes.
    until: Option<Instant>,
    /// Set by DISCONNECT or by us: whatever comes after is not looked at.
    closing: bool,
    /// The longest expiry a DISCONNECT may still ask for is bound to what CONNECT said.
    connect_expiry_s: u32,
}

impl Session {
    /// A session nobody is attached to yet.
    pub fn new(config: Arc<SessionConfig>, client_id: ByteString) -> Self {
        Self {
            config,
            client_id,
            link: None,
            expiry_s: 0,
            subscriptions: HashMap::new(),
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            will: None,
            ends_at: None,
        }
    }

    /// Handles one packet from the client.
    pub fn receive(&mut self, now: Instant, packet: Packet, effects: &mut Vec<Effect>) {
        let Some(link) = self.link.as_mut().filter(|link| !link.closing) else {
            return;
        };
        link.last_heard = now;
        match packet {
            Packet::Publish(publish) => self.publish(now, publish, effects),
            Packet::PubAck(ack) => {
                let step = self.outbound.puback(ack.packet_id, ack.reason);
                self.go_on(now, step, effects);
            }
            Packet::PubRec(ack) => {
                let step = self.outbound.pubrec(ack.packet_id, ack.reason);
                self.go_on(now, step, effects);
            }
            Packet::PubRel(ack) => {
                if !self.inbound.release(ack.packet_id) {
                    return self.fail(ReasonCode::ProtocolError, effects);
                }
                self.send(
                    Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)),
                    effects,
                );
            }
            Packet::PubComp(ack) => {
                let step = self.outbound.pubcomp(ack.packet_id);
                self.go_on(now, step, effects);
            }
            Packet::Subscribe(subscribe) => self.subscribe(subscribe, effects),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe, effects),
            Packet::PingReq => self.send(Packet::PingResp, effects),
            Packet::Disconnect(disconnect) => self.goodbye(disconnect, effects),
            Packet::Auth(auth) => self.authenticate(*auth, effects),
            // A second CONNECT is an error [MQTT-3.1.0-2], and the rest only a server may send.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.fail(ReasonCode::ProtocolError, effects),
        }
    }

    /// Takes a message for the client: sends it, queues it, or says why it is let go.
    pub fn deliver(&mut self, now: Instant, delivery: Delivery, effects: &mut Vec<Effect>) {
        let mut at_once = None;
        self.deliver_at_once(now, delivery, effects, &mut |forward| at_once = Some(forward));
        effects.extend(at_once.map(Effect::Forward));
    }

    /// As [`deliver`](Self::deliver), for a driver that can send a message that goes as it is right away. It is
    /// an effect nevertheless where others come before it.
    pub fn deliver_at_once(
        &mut self,
        now: Instant,
        delivery: Delivery,
        effects: &mut Vec<Effect>,
        forward: &mut impl FnMut(Forward),
    ) {
        let Some(allowance) = self.allowance() else {
            return self.keep(now, delivery, effects);
        };
        // QoS 0 has no window, and no promise to keep its place behind queued QoS 1: order is kept for
        // the same topic and QoS [MQTT-4.6.0-5].
        if delivery.qos == QoS::AtMostOnce || self.outbound.has_room(allowance) {
            let result = self
                .outbound
                .send(now, delivery, allowance, &mut |effect| match effect {
                    Effect::Forward(message) if effects.is_empty() => forward(message),
                    effect => effects.push(effect),
                });
            if let Err(reason) = result {
                effects.push(Effect::Dropped(reason));
            }
        } else {
            self.enqueue(now, delivery, effects);
        }
    }

    /// Answers an [`Effect::Route`] of QoS 1 or 2: the message is in safe hands, or refused.
    pub fn routed(&mut self, packet_id: u16, reason: ReasonCode, effects: &mut Vec<Effect>) {
        // 3.1.1 has no refusal: a publish is acknowledged even where nobody may have it
        // [MQTT-3.3.5-2].
        let reason = if self.version() == Some(ProtocolVersion::V5) {
            reason
        } else {
            ReasonCode::Success
        };
        // Noted even where nobody can be told any more: a repeated PUBLISH is then known as one.
        if let Some(mut packet) = self.inbound.acknowledge(packet_id, reason) {
            if let (true, Packet::PubAck(ack) | Packet::PubRec(ack)) = (reason.is_error(), &mut packet) {
                ack.reason_string = explain::of_publish(self.explains(), reason);
            }
            self.send(packet, effects);
        }
    }

    /// Answers an [`Effect::Subscribe`]: one reason code for each wanted filter, in order.
    pub fn subscribed(
        &mut self,
        packet_id: u16,
        wanted: &[Wanted],
        reasons: Vec<ReasonCode>,
        effects: &mut Vec<Effect>,
    ) {
        for (wanted, reason) in wanted.iter().zip(&reasons) {
            if let (Ok(filter), false) = (&wanted.filter, reason.is_error()) {
                let grant = Grant {
                    options: wanted.options,
                    identifier: wanted.identifier,
                };
                self.subscriptions.insert(filter.clone(), grant);
            }
        }
        let answer = SubAck {
            packet_id,
            reason_string: explain::of_subscribe(self.explains(), &reasons, self.config.max_subscriptions),
            user_properties: Vec::new(),
            reasons,
        };
        self.send(Packet::SubAck(answer), effects);
    }

    /// Answers an [`Effect::Unsubscribe`].
    pub fn unsubscribed(
        &mut self,
        packet_id: u16,
        filters: &[Option<TopicFilter>],
        effects: &mut Vec<Effect>,
    ) {
        let reasons = filters
            .iter()
            .map(|filter| match filter {
                None => ReasonCode::TopicFilterInvalid,
                Some(filter) if self.subscriptions.remove(filter).is_some() => ReasonCode::Success,
                Some(_) => ReasonCode::NoSubscriptionExisted,
            })
            .collect();
        let answer = UnsubAck {
            packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reasons,
        };
        self.send(Packet::UnsubAck(answer), effects);
    }

    /// The connection is gone. Where it was taken over, no [`Effect::End`] comes: what ends here goes on
    /// as a new session with the connection that follows.
    pub fn detach(&mut self, now: Instant, cause: Detach, effects: &mut Vec<Effect>) {
        if self.link.take().is_none() {
            return;
        }
        self.inbound.connection_lost();
        self.outbound.connection_lost();
        let lives_for = Duration::from_secs(u64::from(self.expiry_s));
        if let Some(will) = &mut self.will {
            // A session that ends takes its will's delay with it [MQTT-3.1.3-9].
            will.due_at = Some(now + will.delay.min(lives_for));
        }
        // With u32::MAX the session never expires [MQTT5 3.1.2.11.2].
        self.ends_at = (self.expiry_s != u32::MAX).then(|| now + lives_for);
        match cause {
            Detach::Lost => self.tick(now, effects),
            Detach::TakenOver => {
                self.expire(now, effects);
            }
        }
    }

    /// Says until when the client on the connection at hand is let in; None is for as long as it likes.
    pub fn admit_until(&mut self, until: Option<Instant>) {
        if let Some(link) = &mut self.link {
            link.until = until;
        }
    }

    /// The session ends now, and nothing of it is kept. A client that is connected hears the reason.
    pub fn abandon(&mut self, now: Instant, reason: ReasonCode, effects: &mut Vec<Effect>) {
        self.expiry_s = 0;
        if self.link.is_some() {
            self.fail(reason, effects);
        } else {
            self.ends_at = Some(now);
            self.tick(now, effects);
        }
    }

    /// Does what is due: the end of what the client was let in by, keep-alive, will, the session's end.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(link) = &self.link {
            if link.until.is_some_and(|until| now >= until) {
                // The specification's own word for it. EMQX says Not authorized, which some clients take for
                // final; with a new token this one is welcome at once.
                self.fail(ReasonCode::MaximumConnectTime, effects);
            } else if link
                .patience
                .is_some_and(|patience| now >= link.last_heard + patience)
            {
                self.fail(ReasonCode::KeepAliveTimeout, effects);
            }
        } else if self.expire(now, effects) {
            effects.push(Effect::End);
        }
    }

    /// Publishes the will of a session without a connection and forgets the session, each when its
    /// time has come. True when the session is over.
    fn expire(&mut self, now: Instant, effects: &mut Vec<Effect>) -> bool {
        let ended = self.ends_at.is_some_and(|at| at <= now);
        if self
            .will
            .as_ref()
            .is_some_and(|w| ended || w.due_at.is_some_and(|at| at <= now))
        {
            self.publish_will(now, effects);
        }
        if ended {
            self.ends_at = None;
            self.expiry_s = 0;
            self.forget(effects);
        }
        ended
    }

    /// Nothing was read of the client, so that its silence is no fault of its own [MQTT-3.1.2-22].
    pub fn not_listened_to(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            link.last_heard = now;
        }
    }

    /// When [`Session::tick`] has something to do next.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.link {
            Some(link) if link.closing => None,
            Some(link) => {
                let silence = link.patience.map(|patience| link.last_heard + patience);
                silence.into_iter().chain(link.until).min()
            }
            None => [self.will.as_ref().and_then(|w| w.due_at), self.ends_at]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    /// Ends the connection from our side with a reason the client can read, where its protocol
    /// has one.
    pub fn fail(&mut self, reason: ReasonCode, effects: &mut Vec<Effect>) {
        self.part(reason, explain::of_disconnect(self.explains(), reason), effects);
    }

    /// As [`Session::fail`], for a fault of the client's that has words of its own.
    pub fn fail_because(&mut self, reason: ReasonCode, why: impl ToString, effects: &mut Vec<Effect>) {
        let why = (self.explains() == Explains::Everything).then(|| why.to_string().into());
        self.part(reason, why, effects);
    }

    fn part(&mut self, reason: ReasonCode, why: Option<ByteString>, effects: &mut Vec<Effect>) {
        if self.version() == Some(ProtocolVersion::V5) {
            let mut disconnect = Disconnect::new(reason);
            disconnect.reason_string = why;
            self.send(Packet::Disconnect(disconnect), effects);
        }
        self.hang_up(effects);
    }

    /// Ends the connection from our side without a word.
    pub fn hang_up(&mut self, effects: &mut Vec<Effect>) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.closing) {
            link.closing = true;
            effects.push(Effect::Close);
        }
    }

    /// Whether a connection is attached.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Whether the session outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// Identifiers of the client's QoS 2 publications that were taken over and not released.
    pub fn received(&self) -> impl Iterator<Item = u16> {
        self.inbound.received()
    }

    /// The protocol version of the connection at hand.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.link.as_ref().map(|link| link.version)
    }

    /// Whose session it is.
    pub fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    /// Messages that wait for the client, unacknowledged ones included.
    pub fn waiting(&self) -> usize {
        self.outbound.len()
    }

    /// Messages that are not yet the client's: queued, or sent and not acknowledged.
    pub fn undelivered(&self) -> usize {
        self.outbound.undelivered()
    }

    /// What the messages weigh that are queued and were not sent yet.
    pub fn queued_bytes(&self) -> usize {
        self.outbound.queued_bytes()
    }

    /// What became of messages for the client since this was asked last.
    pub fn take_outcomes(&mut self) -> Outcomes {
        self.outbound.take_outcomes()
    }

    /// Filters subscribed at the moment.
    pub fn subscriptions(&self) -> impl Iterator<Item = &TopicFilter> {
        self.subscriptions.keys()
    }

    /// Ends the subscriptions that are not allowed any more, and names them. MQTT has no word for it that the
    /// client could be told.
    pub fn withdraw(&mut self, mut is_allowed: impl FnMut(&TopicFilter, QoS) -> bool) -> Vec<TopicFilter> {
        let refused = self
            .subscriptions
            .extract_if(|filter, grant| !is_allowed(filter, grant.options.qos));
        refused.map(|(filter, _)| filter).collect()
    }

    /// Lets go of everything but the connection and the will.
    fn forget(&mut self, effects: &mut Vec<Effect>) {
        self.inbound.clear();
        let filters: Vec<_> = self.subscriptions.drain().map(|(filter, _)| filter).collect();
        if !filters.is_empty() {
            effects.push(Effect::Forget(filters));
        }
        let shared = self
            .outbound
            .end(&mut |reason| effects.push(Effect::Dropped(reason)));
        if !shared.is_empty() {
            effects.push(Effect::HandOn(shared));
        }
    }

    fn publish_will(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(will) = self.will.take() {
            let mut message = will.message;
            message.expires_at = will.expiry.map(|after| now + after);
            effects.push(Effect::PublishWill(message));
        }
    }

    fn goodbye(&mut self, disconnect: Disconnect, effects: &mut Vec<Effect>) {
        let Some(link) = &self.link else { return };
        if let Some(expiry_s) = disconnect.session_expiry_interval_s {
            // What CONNECT set to 0 cannot be raised at the end [MQTT5 3.14.2.2.2].
            if link.connect_expiry_s == 0 && expiry_s != 0 {
                return self.fail(ReasonCode::ProtocolError, effects);
            }
            self.expiry_s = expiry_s.min(self.config.max_session_expiry_s);
        }
        // Any other reason leaves the will to be published [MQTT-3.14.4-3].
        if disconnect.reason == ReasonCode::Success {
            self.will = None;
        }
        self.hang_up(effects);
    }

    /// Sends a packet, unless the connection is gone or about to go. Where the client takes no packet as
    /// large as the one that is due [MQTT-3.1.2-24], nothing can go on: an acknowledgement left out would
    /// be waited for, and one cut short would be wrong.
    fn send(&mut self, packet: Packet, effects: &mut Vec<Effect>) {
        let Some(link) = self.link.as_ref().filter(|link| !link.closing) else {
            return;
        };
        let is_last = matches!(packet, Packet::Disconnect(_));
        match explain::fit(packet, link.version, link.client_max_packet_bytes) {
            Some(packet) => effects.push(Effect::Send(packet)),
            None if is_last => {}
            None => self.fail(ReasonCode::PacketTooLarge, effects),
        }
    }

    fn explains(&self) -> Explains {
        self.link.as_ref().map_or(Explains::Nothing, |link| link.explains)
    }

    /// What follows an acknowledgement from the client.
    fn go_on(&mut self, now: Instant, step: Step, effects: &mut Vec<Effect>) {
        match step {
            Step::OutOfTurn => return self.fail(ReasonCode::ProtocolError, effects),
            Step::Taken(Some(answer)) => self.send(Packet::PubRel(answer), effects),
            Step::Taken(None) | Step::Unknown => {}
        }
        self.pump(now, effects);
    }

    /// Keeps a message for a client that is away.
    fn keep(&mut self, now: Instant, mut delivery: Delivery, effects: &mut Vec<Effect>) {
        if delivery.qos == QoS::AtMostOnce {
            return effects.push(Effect::Dropped(DropReason::Offline));
        }
        delivery.detach();
        self.enqueue(now, delivery, effects);
    }

    fn enqueue(&mut self, now: Instant, delivery: Delivery, effects: &mut Vec<Effect>) {
        let bounds = self.queue_bounds();
        self.outbound
            .enqueue(now, delivery, bounds, &mut |r| effects.push(Effect::Dropped(r)));
    }

    fn pump(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(allowance) = self.allowance() else { return };
        let mut dropped = Vec::new();
        self.outbound
            .pump(now, allowance, &mut |effect| effects.push(effect), &mut |r| {
                dropped.push(r)
            });
        effects.extend(dropped.into_iter().map(Effect::Dropped));
    }

    fn allowance(&self) -> Option<Allowance> {
        let link = self.link.as_ref().filter(|link| !link.closing)?;
        Some(Allowance {
            window: link.window,
            max_packet_bytes: link.client_max_packet_bytes,
            version: link.version,
        })
    }

    fn queue_bounds(&self) -> QueueBounds {
        QueueBounds {
            messages: self.config.max_queued_messages,
            bytes: self.config.max_queued_bytes,
        }
    }
}
