//! Messages on their way to the client: the queue, the inflight window and the QoS 1 and 2
//! handshakes from the sender's side [MQTT5 4.3, 4.4, 4.9].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::aliases::Aliases;
use super::effect::{Effect, Forward};
use super::kept::{Kept, Stage};
use crate::filter::TopicFilter;
use crate::message::Message;
use crate::packet::{Ack, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode};

/// A message for one session, as its subscription wants it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message; the same for every receiver.
    pub message: Arc<Message>,
    /// The lower of what was published and what was granted.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Identifiers of the subscriptions it matched [MQTT5 3.3.2.3.8].
    pub subscription_identifiers: Vec<u32>,
    /// The shared subscription that it came by: another member may have it instead.
    pub share: Option<Arc<TopicFilter>>,
    /// Where it is kept, if anywhere, until the client has it.
    pub kept: Option<Arc<dyn Kept>>,
}

/// Why a message accepted by the broker did not reach this session's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Its Message Expiry Interval passed.
    Expired,
    /// The session's queue is full; the newest message goes.
    QueueFull,
    /// QoS 0 is not kept for a client that is away.
    Offline,
    /// It is larger than the client's Maximum Packet Size [MQTT-3.1.2-24].
    TooLarge,
    /// The session ended while the message waited in it, or before the client had acknowledged it.
    SessionEnded,
}

/// What became of messages for a client, beside those that were let go (see [`DropReason`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Sent at QoS 0, acknowledged by PUBACK or PUBREC at QoS 1 and 2.
    pub delivered: u64,
    /// Refused by the client with an error in its PUBACK or PUBREC.
    pub refused: u64,
}

impl Outcomes {
    fn note(&mut self, acknowledged: ReasonCode) {
        if acknowledged.is_error() {
            self.refused += 1;
        } else {
            self.delivered += 1;
        }
    }
}

/// The acknowledgement that comes next: PUBACK, PUBREC or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Await {
    Ack,
    Rec,
    Comp,
}

#[derive(Debug)]
struct Inflight {
    /// Which of all identifiers given out in turn this is.
    step: u64,
    packet_id: u16,
    awaits: Await,
    /// Let go once the receiver has taken it over, at PUBREC.
    delivery: Option<Delivery>,
    /// Whether the connection at hand has it; the next one starts with all of them unsent.
    sent: bool,
    /// Let go when the handshake has ended.
    kept: Option<Arc<dyn Kept>>,
}

/// What a member of shared subscriptions leaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leaving<'a> {
    /// All of them: its connection is gone, or its session.
    Session,
    /// This one.
    Share(&'a TopicFilter),
}

/// What an acknowledgement from the client means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The handshake goes on with this answer, or has ended.
    Taken(Option<Ack>),
    /// Nothing by this packet identifier is under way. It may cross a session's end.
    Unknown,
    /// The packet identifier stands at another step of its handshake.
    OutOfTurn,
}

/// What the connection at hand allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Unacknowledged QoS 1 and 2 messages at once.
    pub(super) window: usize,
    pub(super) max_packet_bytes: usize,
    pub(super) version: ProtocolVersion,
}

/// Bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueBounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// In the order of their first sending, which is the order of sending again [MQTT-4.6.0-1].
    inflight: VecDeque<Inflight>,
    /// How many of `inflight`, from its front, the connection at hand has.
    on_the_wire: usize,
    /// How many of `inflight` the client has taken over: only the end of their handshakes is missing.
    taken_over: usize,
    outcomes: Outcomes,
    queue: VecDeque<Delivery>,
    queued_bytes: usize,
    /// No message in the queue expires before this.
    earliest_expiry: Option<Instant>,
    /// Packet identifiers given out so far.
    steps: u64,
    /// None for a client that takes none, as most do.
    aliases: Option<Box<Aliases>>,
}

impl Outbound {
    /// What an earlier process had, in its order. What was begun at QoS 2 goes on under its identifier; the rest begins
    /// anew.
    pub(super) fn restore(deliveries: impl IntoIterator<Item = (Delivery, Stage)>) -> Self {
        let mut outbound = Self::default();
        for (mut delivery, stage) in deliveries {
            let (packet_id, awaits) = match stage {
                Stage::Waiting => {
                    outbound.queued_bytes += delivery.message.queued_bytes();
                    outbound.earliest_expiry = earlier(outbound.earliest_expiry, delivery.message.expires_at);
                    outbound.queue.push_back(delivery);
                    continue;
                }
                Stage::Sent(packet_id) => (packet_id, Await::Rec),
                Stage::TakenOver(packet_id) => (packet_id, Await::Comp),
            };
            // The next step at which the identifier would have been given out.
            let behind = (PACKET_IDS + u64::from(packet_id) - 1 - outbound.steps % PACKET_IDS) % PACKET_IDS;
            outbound.steps += behind + 1;
            outbound.taken_over += usize::from(awaits == Await::Comp);
            outbound.inflight.push_back(Inflight {
                step: outbound.steps,
                packet_id,
                awaits,
                kept: delivery.kept.take(),
                delivery: (awaits == Await::Rec).then_some(delivery),
                sent: false,
            });
        }
        outbound
    }

    /// Takes a delivery in, to be sent by `pump` when the window allows. A full queue first lets go of
    /// what nobody wants any more.
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        delivery: Delivery,
        bounds: QueueBounds,
        dropped: &mut impl FnMut(DropReason),
    ) {
        let bytes = delivery.message.queued_bytes();
        if !self.fits(bytes, bounds) {
            self.drop_expired(now, dropped);
        }
        if !self.fits(bytes, bounds) {
            return dropped(DropReason::QueueFull);
        }
        self.queued_bytes += bytes;
        self.earliest_expiry = earlier(self.earliest_expiry, delivery.message.expires_at);
        self.queue.push_back(delivery);
    }

    /// Whether a delivery may overtake nothing by being sent at once.
    pub(super) fn has_room(&self, allowance: Allowance) -> bool {
        self.queue.is_empty() && self.inflight.len() < allowance.window
    }

    /// Sends while the window has room: first again, in the original order, what the last connection
    /// left unacknowledged [MQTT-4.4.0-1], [MQTT-4.6.0-1], then from the queue's head.
    pub(super) fn pump(
        &mut self,
        now: Instant,
        allowance: Allowance,
        send: &mut impl FnMut(Effect),
        dropped: &mut impl FnMut(DropReason),
    ) {
        self.resend(now, allowance, send, dropped);
        while self.inflight.len() < allowance.window {
            let Some(delivery) = self.queue.pop_front() else {
                break;
            };
            self.queued_bytes -= delivery.message.queued_bytes();
            if let Err(reason) = self.send(now, delivery, allowance, send) {
                dropped(reason);
            }
        }
    }

    /// Sends one delivery now; at QoS 1 and 2 it becomes inflight.
    pub(super) fn send(
        &mut self,
        now: Instant,
        delivery: Delivery,
        allowance: Allowance,
        send: &mut impl FnMut(Effect),
    ) -> Result<(), DropReason> {
        if delivery.message.is_expired(now) {
            if delivery.qos != QoS::AtMostOnce {
                // Its identifier is used up, as by Mosquitto, which gives it when the message comes: there
                // are programs that count on it.
                self.next_step();
            }
            return Err(DropReason::Expired);
        }
        // Goes as it is, unless this client's subscription, aliases or bounds want something of it.
        let mut made = None;
        if !self.goes_as_it_is(&delivery, allowance) {
            let mut publish = to_packet(now, &delivery, 0, false);
            shorten(&mut self.aliases, &mut publish, allowance);
            if is_too_large(&publish, allowance) {
                return Err(DropReason::TooLarge);
            }
            made = Some(publish);
        }
        let (qos, retain) = (delivery.qos, delivery.retain);
        let (packet_id, message) = if qos == QoS::AtMostOnce {
            self.outcomes.delivered += 1;
            (0, delivery.message)
        } else {
            let message = delivery.message.clone();
            (self.begin(delivery), message)
        };
        send(match made {
            Some(publish) => Effect::Send(Packet::Publish(Publish { packet_id, ..publish })),
            None => Effect::Forward(Forward {
                message,
                qos,
                retain,
                packet_id,
            }),
        });
        Ok(())
    }

    /// A message that is sent now and must be acknowledged; returns its packet identifier.
    fn begin(&mut self, mut delivery: Delivery) -> u16 {
        let step = self.next_step();
        let packet_id = packet_id_of(step);
        let awaits = if delivery.qos == QoS::AtLeastOnce {
            Await::Ack
        } else {
            Await::Rec
        };
        let kept = delivery.kept.take();
        if let (Some(kept), Await::Rec) = (&kept, awaits) {
            kept.sent(packet_id);
        }
        self.inflight.push_back(Inflight {
            step,
            packet_id,
            awaits,
            delivery: Some(delivery),
            sent: true,
            kept,
        });
        self.on_the_wire += 1;
        packet_id
    }

    fn goes_as_it_is(&self, delivery: &Delivery, allowance: Allowance) -> bool {
        let message = &delivery.message;
        self.aliases.is_none()
            && allowance.max_packet_bytes == usize::MAX
            && message.properties.is_none()
            && message.expires_at.is_none()
            && delivery.subscription_identifiers.is_empty()
    }

    /// A connection whose client takes so many topic aliases.
    pub(super) fn connected(&mut self, topic_alias_maximum: u16) {
        self.aliases = Aliases::up_to(topic_alias_maximum);
    }

    /// The next connection may allow less than this one did, so nothing counts as sent on it.
    pub(super) fn connection_lost(&mut self) {
        self.on_the_wire = 0;
        self.aliases = None;
        for entry in &mut self.inflight {
            entry.sent = false;
            if let Some(delivery) = &mut entry.delivery {
                delivery.detach();
            }
        }
        self.queue.iter_mut().for_each(Delivery::detach);
    }

    /// PUBACK.
    pub(super) fn puback(&mut self, packet_id: u16, reason: ReasonCode) -> Step {
        match self.position(packet_id) {
            None => Step::Unknown,
            Some((at, Await::Ack)) => {
                self.outcomes.note(reason);
                self.finish(at)
            }
            Some(_) => Step::OutOfTurn,
        }
    }

    /// PUBREC. A repeated one is answered again: its PUBREL may have been lost.
    pub(super) fn pubrec(&mut self, packet_id: u16, reason: ReasonCode) -> Step {
        match self.position(packet_id) {
            // The sender of an error keeps nothing that a PUBREL would have to release.
            None if reason.is_error() => Step::Unknown,
            // Answering would make the client forget what it is about to be sent again.
            None if self.inflight.iter().any(|e| e.packet_id == packet_id) => Step::Unknown,
            // The client gets its identifier back; it may have outlived a session of ours [MQTT5 4.3.3].
            None => Step::Taken(Some(Ack::new(packet_id, ReasonCode::Success))),
            Some((_, Await::Ack)) => Step::OutOfTurn,
            // Refused: the handshake is over, and the message is not sent again [MQTT5 4.3.3].
            Some((at, Await::Rec)) if reason.is_error() => {
                self.outcomes.note(reason);
                self.finish(at)
            }
            Some((at, _)) => {
                if let Some(entry) = self.inflight.get_mut(at)
                    && entry.delivery.take().is_some()
                {
                    entry.awaits = Await::Comp;
                    if let Some(kept) = &entry.kept {
                        kept.taken_over(packet_id);
                    }
                    self.taken_over += 1;
                    self.outcomes.note(ReasonCode::Success);
                }
                Step::Taken(Some(Ack::new(packet_id, ReasonCode::Success)))
            }
        }
    }

    /// PUBCOMP.
    pub(super) fn pubcomp(&mut self, packet_id: u16) -> Step {
        match self.position(packet_id) {
            None => Step::Unknown,
            Some((at, Await::Comp)) => {
                self.taken_over -= 1;
                self.finish(at)
            }
            Some(_) => Step::OutOfTurn,
        }
    }

    /// What became of messages since this was asked last.
    pub(super) fn take_outcomes(&mut self) -> Outcomes {
        std::mem::take(&mut self.outcomes)
    }

    /// Messages that are not yet the client's: queued, or sent and not acknowledged.
    pub(super) fn undelivered(&self) -> usize {
        self.len() - self.taken_over
    }

    /// What the queue weighs; what is inflight comes beside.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Messages waiting, inflight ones included.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.inflight.len()
    }

    /// Lets go of everything: gives what came by a share and was never begun to be sent at QoS 2, counts
    /// the rest.
    pub(super) fn end(&mut self, dropped: &mut impl FnMut(DropReason)) -> Vec<Delivery> {
        let mut shared = Vec::new();
        self.hand_on(Leaving::Session, &mut |delivery| {
            shared.push(delivery.clone());
            true
        });
        let unfinished = self.inflight.iter().filter(|entry| entry.delivery.is_some());
        (0..self.queue.len() + unfinished.count()).for_each(|_| dropped(DropReason::SessionEnded));
        *self = Self {
            outcomes: self.outcomes,
            ..Self::default()
        };
        shared
    }

    /// Lets `take` have, in their order, the messages that another member of their share may get now;
    /// what it takes is gone from here. A QoS 2 message that was sent stays with its client for good
    /// [MQTT-4.8.2-4], [MQTT-4.8.2-5].
    pub(super) fn hand_on(&mut self, leaving: Leaving<'_>, take: &mut dyn FnMut(&Delivery) -> bool) {
        // What was begun to be sent is finished after an UNSUBSCRIBE [MQTT-3.10.4-3].
        if matches!(leaving, Leaving::Session) {
            let on_the_wire = &mut self.on_the_wire;
            self.inflight.retain(|entry| {
                let goes = entry.awaits == Await::Ack
                    && entry
                        .delivery
                        .as_ref()
                        .is_some_and(|d| d.share.is_some() && take(d));
                *on_the_wire -= usize::from(goes && entry.sent);
                !goes
            });
        }
        let bytes = &mut self.queued_bytes;
        self.queue.retain(|delivery| {
            let is_of_it = match leaving {
                Leaving::Session => delivery.share.is_some(),
                Leaving::Share(filter) => delivery.share.as_deref() == Some(filter),
            };
            let goes = is_of_it && take(delivery);
            if goes {
                *bytes -= delivery.message.queued_bytes();
            }
            !goes
        });
    }

    /// The entry and its step. What was not sent again yet is as unknown to the client as if it were
    /// not there: an acknowledgement of it is one of the last connection's.
    fn position(&self, packet_id: u16) -> Option<(usize, Await)> {
        // Acknowledgements come in the order of sending, so this nearly always finds the front.
        let at = self
            .inflight
            .iter()
            .position(|e| e.packet_id == packet_id && e.sent)?;
        Some((at, self.inflight.get(at)?.awaits))
    }

    fn finish(&mut self, at: usize) -> Step {
        self.inflight.remove(at);
        self.on_the_wire -= 1;
        Step::Taken(None)
    }

    fn resend(
        &mut self,
        now: Instant,
        allowance: Allowance,
        send: &mut impl FnMut(Effect),
        dropped: &mut impl FnMut(DropReason),
    ) {
        while self.on_the_wire < self.inflight.len() && self.on_the_wire < allowance.window {
            let Some(entry) = self.inflight.get_mut(self.on_the_wire) else {
                break;
            };
            let packet = match &entry.delivery {
                None => Packet::PubRel(Ack::new(entry.packet_id, ReasonCode::Success)),
                Some(delivery) => {
                    // Not let go when expired: the client may hold half a handshake of this identifier,
                    // and would take the next message under it for a repetition.
                    let mut publish = to_packet(now, delivery, entry.packet_id, true);
                    shorten(&mut self.aliases, &mut publish, allowance);
                    if is_too_large(&publish, allowance) {
                        // As if it had been sent and acknowledged [MQTT-3.1.2-25].
                        self.inflight.remove(self.on_the_wire);
                        dropped(DropReason::TooLarge);
                        continue;
                    }
                    Packet::Publish(publish)
                }
            };
            entry.sent = true;
            self.on_the_wire += 1;
            send(Effect::Send(packet));
        }
    }

    fn fits(&self, bytes: usize, bounds: QueueBounds) -> bool {
        self.queue.len() < bounds.messages && self.queued_bytes + bytes <= bounds.bytes
    }

    fn drop_expired(&mut self, now: Instant, dropped: &mut impl FnMut(DropReason)) {
        if self.earliest_expiry.is_none_or(|at| at > now) {
            return;
        }
        self.earliest_expiry = None;
        let (bytes, earliest) = (&mut self.queued_bytes, &mut self.earliest_expiry);
        self.queue.retain(|delivery| {
            let expired = delivery.message.is_expired(now);
            if expired {
                *bytes -= delivery.message.queued_bytes();
                dropped(DropReason::Expired);
            } else {
                *earliest = earlier(*earliest, delivery.message.expires_at);
            }
            !expired
        });
    }

    /// The next identifier in turn that nothing inflight has.
    fn next_step(&mut self) -> u64 {
        // The window is far smaller than the 65,535 identifiers, so a free one is always near.
        loop {
            self.steps += 1;
            let oldest = self.inflight.front().map_or(self.steps, |entry| entry.step);
            // Until the identifiers have gone round once since the oldest, none comes again: nearly always
            // nothing need be looked through.
            if self.steps - oldest < PACKET_IDS
                || (self.inflight.iter()).all(|e| e.packet_id != packet_id_of(self.steps))
            {
                return self.steps;
            }
        }
    }
}

/// There is no identifier 0 [MQTT5 2.2.1].
const PACKET_IDS: u64 = 65_535;

fn packet_id_of(step: u64) -> u16 {
    u16::try_from((step - 1) % PACKET_IDS + 1).unwrap_or(1)
}

impl Delivery {
    /// Lets go of the read buffer that the message came in.
    pub(super) fn detach(&mut self) {
        self.message = Arc::new(self.message.detached());
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn shorten(aliases: &mut Option<Box<Aliases>>, publish: &mut Publish, allowance: Allowance) {
    if let Some(aliases) = aliases {
        aliases.shorten(publish, |publish| !is_too_large(publish, allowance));
    }
}

/// [MQTT-3.1.2-24]
fn is_too_large(publish: &Publish, allowance: Allowance) -> bool {
    allowance.max_packet_bytes < usize::MAX
        && publish.encoded_len(allowance.version) > allowance.max_packet_bytes
}

fn to_packet(now: Instant, delivery: &Delivery, packet_id: u16, dup: bool) -> Publish {
    let message = &delivery.message;
    let mut properties = message.properties.clone();
    if message.expires_at.is_some() || !delivery.subscription_identifiers.is_empty() {
        let p = properties.get_or_insert_with(Box::<PublishProperties>::default);
        p.subscription_identifiers
            .clone_from(&delivery.subscription_identifiers);
        // What is left of its time, rounded up: it goes out alive [MQTT-3.3.2-6].
        p.message_expiry_interval_s = message.expires_at.map(|at| {
            let left = at.saturating_duration_since(now);
            u32::try_from(left.as_secs() + u64::from(left.subsec_nanos() > 0)).unwrap_or(u32::MAX)
        });
    }
    Publish {
        dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: message.topic.as_byte_string().clone(),
        packet_id,
        properties,
        payload: message.payload.clone(),
    }
}
