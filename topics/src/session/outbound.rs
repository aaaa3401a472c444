//! Messages on their way to the client: the queue, the inflight window and the QoS 1 and 2
//! handshakes from the sender's side [MQTT5 4.3, 4.4, 4.9].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::message::Message;
use crate::packet::{Ack, Packet, Publish, PublishProperties, QoS, ReasonCode};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Await {
    PubAck,
    PubRec,
    PubComp,
}

#[derive(Debug)]
struct Inflight {
    packet_id: u16,
    awaits: Await,
    /// Let go once the receiver has taken it over, at PUBREC.
    delivery: Option<Delivery>,
}

/// What the connection at hand allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Unacknowledged QoS 1 and 2 messages at once.
    pub(super) window: usize,
    pub(super) max_packet_bytes: usize,
    pub(super) version: crate::packet::ProtocolVersion,
}

/// Bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueBounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Outbound {
    inflight: VecDeque<Inflight>,
    queue: VecDeque<Delivery>,
    queued_bytes: usize,
    last_packet_id: u16,
}

impl Outbound {
    /// Takes a delivery in, to be sent by `pump` when the window allows.
    pub(super) fn enqueue(&mut self, delivery: Delivery, bounds: QueueBounds) -> Result<(), DropReason> {
        let bytes = delivery.message.queued_bytes();
        if self.queue.len() >= bounds.messages || self.queued_bytes + bytes > bounds.bytes {
            return Err(DropReason::QueueFull);
        }
        self.queued_bytes += bytes;
        self.queue.push_back(delivery);
        Ok(())
    }

    /// Whether a delivery may overtake nothing by being sent at once.
    pub(super) fn has_room(&self, allowance: Allowance) -> bool {
        self.queue.is_empty() && self.inflight.len() < allowance.window
    }

    /// Sends from the queue's head while the window has room.
    pub(super) fn pump(
        &mut self,
        now: Instant,
        allowance: Allowance,
        send: &mut impl FnMut(Packet),
        dropped: &mut impl FnMut(DropReason),
    ) {
        while self.inflight.len() < allowance.window {
            let Some(delivery) = self.queue.pop_front() else { break };
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
        send: &mut impl FnMut(Packet),
    ) -> Result<(), DropReason> {
        if delivery.message.is_expired(now) {
            return Err(DropReason::Expired);
        }
        let mut publish = to_packet(now, &delivery, 0, false);
        if Packet::Publish(publish.clone()).encoded_len(allowance.version) > allowance.max_packet_bytes {
            return Err(DropReason::TooLarge);
        }
        if delivery.qos != QoS::AtMostOnce {
            publish.packet_id = self.next_packet_id();
            let awaits = if delivery.qos == QoS::AtLeastOnce { Await::PubAck } else { Await::PubRec };
            self.inflight.push_back(Inflight {
                packet_id: publish.packet_id,
                awaits,
                delivery: Some(delivery),
            });
        }
        send(Packet::Publish(publish));
        Ok(())
    }

    /// Sends again, in the original order, whatever the last connection left unacknowledged
    /// [MQTT-4.4.0-1], [MQTT-4.6.0-1].
    pub(super) fn resend(&mut self, now: Instant, send: &mut impl FnMut(Packet)) {
        for entry in &self.inflight {
            match &entry.delivery {
                Some(delivery) => send(Packet::Publish(to_packet(now, delivery, entry.packet_id, true))),
                None => send(Packet::PubRel(Ack::new(entry.packet_id, ReasonCode::Success))),
            }
        }
    }

    /// PUBACK: true when it answered something.
    pub(super) fn puback(&mut self, packet_id: u16) -> bool {
        self.take(packet_id, Await::PubAck).is_some()
    }

    /// PUBREC: the answer to send, if any.
    pub(super) fn pubrec(&mut self, packet_id: u16, reason: ReasonCode) -> Option<Ack> {
        if reason.is_error() {
            self.take(packet_id, Await::PubRec)?;
            return None;
        }
        let entry = self
            .inflight
            .iter_mut()
            .find(|e| e.packet_id == packet_id && matches!(e.awaits, Await::PubRec | Await::PubComp));
        let Some(entry) = entry else {
            return Some(Ack::new(packet_id, ReasonCode::PacketIdentifierNotFound));
        };
        entry.awaits = Await::PubComp;
        entry.delivery = None;
        Some(Ack::new(packet_id, ReasonCode::Success))
    }

    /// PUBCOMP: true when it answered something.
    pub(super) fn pubcomp(&mut self, packet_id: u16) -> bool {
        self.take(packet_id, Await::PubComp).is_some()
    }

    /// Messages waiting, inflight ones included.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.inflight.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, packet_id: u16, awaits: Await) -> Option<Inflight> {
        // Acknowledgements come in the order of sending, so this nearly always finds the front.
        let at = self.inflight.iter().position(|e| e.packet_id == packet_id && e.awaits == awaits)?;
        self.inflight.remove(at)
    }

    fn next_packet_id(&mut self) -> u16 {
        // The window is far smaller than the 65,535 identifiers, so a free one is always near.
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if self.inflight.iter().all(|e| e.packet_id != self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }
}

fn to_packet(now: Instant, delivery: &Delivery, packet_id: u16, dup: bool) -> Publish {
    let message = &delivery.message;
    let mut properties = message.properties.clone();
    if message.expires_at.is_some() || !delivery.subscription_identifiers.is_empty() {
        let p = properties.get_or_insert_with(Box::<PublishProperties>::default);
        p.subscription_identifiers.clone_from(&delivery.subscription_identifiers);
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
