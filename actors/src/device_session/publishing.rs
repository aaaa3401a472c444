//! What the client publishes, its will included: judged, routed, counted.

use std::sync::Arc;

use actix::prelude::*;
use topics::confidential::Confidential;
use topics::message::Message as AppMessage;
use topics::name::TopicName;
use topics::packet::{QoS, ReasonCode};

use super::DeviceSession;
use crate::denials::Denied;
use crate::switchboard::{Aftermath, Routed};
use crate::topic_router::{MakeOwner, RouteFirst};

/// How often the owner of a topic is made for one message, which finds it stopped each time.
const OWNER_MAKINGS: usize = 3;

impl DeviceSession {
    pub(super) fn route(&mut self, message: AppMessage, packet_id: u16, ctx: &mut Context<Self>) {
        self.switchboard.stats().messages_accepted.add(1);
        if Confidential::of(message.topic.as_str()).is_some() {
            return self.confide(message, packet_id, ctx);
        }
        if !self.may_publish(&message) {
            self.switchboard.stats().messages_rejected.add(1);
            return self.routed(packet_id, ReasonCode::NotAuthorized, ctx);
        }
        if packet_id > 0 && self.store_is_full() {
            self.switchboard.stats().messages_rejected.add(1);
            return self.turn_away(ctx);
        }
        self.hand_in(Arc::new(message), packet_id, OWNER_MAKINGS, ctx);
    }

    fn hand_in(&mut self, message: Arc<AppMessage>, packet_id: u16, makings: usize, ctx: &mut Context<Self>) {
        let mut after = Aftermath::default();
        let switchboard = self.switchboard.clone();
        // That a QoS 2 message was received survives with what became of it, or neither does.
        let notes = switchboard
            .store()
            .filter(|_| message.qos == QoS::ExactlyOnce && self.session.is_persistent());
        let together = notes.map(|store| store.together());
        let routed = switchboard.route_gently(&message, &self.publisher, &mut self.last_route, &mut after);
        if let (Some(_), Routed::To(_) | Routed::Spared) = (notes, routed) {
            after.await_ticket(self.note_received(packet_id));
        }
        drop(together);
        if !after.crowded.is_empty() {
            self.io.borrow_mut().hold_back(after.crowded);
        }
        if packet_id > 0 {
            self.send_after(after.durable);
        }
        self.pause_for_the_store();
        match routed {
            // Routed here once there is an owner, and not by the router: what must be on disk before it is
            // acknowledged is then known.
            Routed::First if makings > 0 => {
                let topic = message.topic.clone();
                self.ask_router(MakeOwner { topic }, ctx, move |act, _, ctx| {
                    act.hand_in(message, packet_id, makings - 1, ctx);
                });
            }
            routed => {
                self.count_routed(routed);
                self.io.borrow_mut().receivers_first |= matches!(routed, Routed::To(1..));
                if message.qos == QoS::AtLeastOnce {
                    self.deliver_own(ctx);
                }
                self.routed(packet_id, routed.reason(), ctx);
            }
        }
    }

    /// Hands over what was published and waits for more that goes the same way. To be called before anything that
    /// must not overtake it.
    pub(super) fn hand_over(&mut self) {
        let mut after = Aftermath::default();
        self.switchboard.hand_over(&mut self.last_route, &mut after);
        if !after.crowded.is_empty() {
            self.io.borrow_mut().hold_back(after.crowded);
        }
    }

    fn count_routed(&self, routed: Routed) {
        let stats = self.switchboard.stats();
        match routed {
            Routed::To(0) | Routed::Spared => &stats.messages_without_receiver,
            Routed::To(_) => &stats.messages_routed,
            Routed::Full | Routed::Malformed | Routed::Gone | Routed::First => &stats.messages_rejected,
        }
        .add(1);
    }

    /// Judges a publication by the access rules; what was allowed lately is not judged again.
    fn may_publish(&mut self, message: &AppMessage) -> bool {
        let (topic, qos, retain) = (&message.topic, message.qos as u8, message.retain);
        if self.judgements.know(topic, qos, retain) {
            return true;
        }
        let allowed = self.is_allowed(Denied::Publish, message);
        if allowed {
            let rules = &self.admission.rules;
            self.judgements.remember(rules, topic, qos, retain);
        }
        allowed
    }

    fn is_allowed(&self, denied: Denied, message: &AppMessage) -> bool {
        let topic = message.topic.as_str();
        if is_for_the_server_only(&message.topic) || Confidential::of(topic).is_some() {
            let rule = "only the hub publishes there, whatever the rules say";
            self.switchboard.denied(denied, &self.publisher, topic, &rule);
            return false;
        }
        let rules = &self.admission.rules;
        let decision = rules.may_publish(&message.topic, message.qos as u8, message.retain);
        if !decision.is_allowed() {
            self.switchboard.denied(denied, &self.publisher, topic, &decision);
        }
        decision.is_allowed()
    }

    pub(super) fn publish_will(&mut self, will: AppMessage) {
        if !self.is_allowed(Denied::Will, &will) {
            return;
        }
        self.hand_over();
        let message = Arc::new(will);
        if self.switchboard.route(&message, &self.publisher) == Routed::First {
            let asked = self.switchboard.router().send(RouteFirst {
                message,
                from: self.publisher.clone(),
            });
            actix_rt::spawn(async move {
                let _ = asked.await;
            });
        }
    }
}

/// Statistics are the server's to publish [MQTT5 4.7.2], and a share name is part of a filter, never of
/// a topic somebody could receive from [MQTT5 4.8.2].
fn is_for_the_server_only(topic: &TopicName) -> bool {
    let name = topic.as_str();
    name.starts_with("$share/") || (name.starts_with("$SYS/") && !tells_the_state_of_a_bridge(topic))
}

/// Where a bridge tells whether it is connected, by its will in the end. Mosquitto takes it there, and so a
/// bridge of Mosquitto's sends it to whatever broker it is connected to.
fn tells_the_state_of_a_bridge(topic: &TopicName) -> bool {
    topic.levels().count() == 5
        && topic.as_str().starts_with("$SYS/broker/connection/")
        && topic.as_str().ends_with("/state")
}
