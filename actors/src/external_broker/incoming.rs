//! What the broker says to us: that we are let in, what it brings, and that it has a message of ours.

use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use actix::prelude::*;
use bytestring::ByteString;
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, PubAck, Publish, SubAck, SubscribeReasonCode};
use topics::access::AccessRules;
use topics::device::{BRIDGE, DeviceId};
use topics::filter::TopicFilter;
use topics::name::TopicName;
use topics::packet::QoS;

use super::receipt::Receipt;
use super::requests::Arrival;
use super::subscriptions::Question;
use super::verdict::{Allowed, refusal};
use super::{ExternalBroker, Stopping, wire};
use crate::outside;
use crate::served::LookForStopped;
use crate::switchboard::{Publisher, Routed};
use crate::topic_router::RouteRequest;

/// How long after the start a message waits for somebody to bind its topic: a broker that knows us brings
/// what it has as soon as we are there, and an application may bind some of its topics later.
const BINDING_GRACE: Duration = Duration::from_secs(30);

/// How long a refused subscription is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What may be published for whoever asked the bridge: the broker says who may ask, and that is all it says.
static BRIDGE_ASKER: LazyLock<Arc<AccessRules>> = LazyLock::new(|| {
    let answers = TopicFilter::parse(format!("clawdbot/{BRIDGE}/response/#").into());
    Arc::new(AccessRules::publish_only(answers))
});

/// What may be published for somebody of whom nothing is known.
static STRANGER: LazyLock<Arc<AccessRules>> = LazyLock::new(|| Arc::new(AccessRules::publish_only([])));

impl ExternalBroker {
    pub(super) fn admitted(&mut self, ack: &ConnAck, ctx: &mut Context<Self>) {
        if !ack.session_present {
            self.requests.session_lost();
        }
        let allowed = match Allowed::by(ack) {
            Ok(allowed) => allowed,
            Err(why) => return self.lost(why, ctx),
        };
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.allowed = Some(allowed);
        self.subscriptions.connected(ack.session_present);
        let expiry = ack.properties.as_ref().and_then(|p| p.session_expiry_interval);
        if let Some(granted) = expiry.filter(|granted| *granted < self.config.session_expiry_s) {
            tracing::warn!(
                granted_s = granted,
                "the broker keeps our session for less time than broker.session_expiry_s"
            );
        }
    }

    /// The broker granted what we asked for, or not.
    pub(super) fn subscribed(&mut self, ack: &SubAck) {
        let verdicts = ack.return_codes.iter().map(|code| match code {
            SubscribeReasonCode::Success(WireQoS::AtMostOnce) => Ok(QoS::AtMostOnce),
            SubscribeReasonCode::Success(_) => Ok(QoS::AtLeastOnce),
            refused => Err(format!("{refused:?}")),
        });
        for (filter, why) in self.subscriptions.answered(verdicts) {
            tracing::warn!(%filter, why, "the broker does not grant a subscription; it is asked for again after a while");
        }
    }

    /// A message came.
    pub(super) fn received(&mut self, publish: Publish, ctx: &mut Context<Self>) {
        let (packet_id, dup) = (publish.pkid, publish.dup);
        self.gauge.messages_received.add(1);
        if !matches!(self.stopping, Stopping::No) {
            // Not acknowledged: it is there when we are back.
            return;
        }
        let Some(message) = wire::message_of(publish, outside::now()).map(Arc::new) else {
            // Taken off the broker's hands, or it would come for ever.
            self.gauge.dropped_unusable.add(1);
            if packet_id != 0 {
                self.requests.of_no_use(packet_id);
            }
            return;
        };
        let mut receipt = None;
        if packet_id != 0 {
            match self.requests.received(packet_id, dup, &message) {
                Arrival::Known => return,
                Arrival::Hopeless => {
                    self.gauge.dropped_failed.add(1);
                    return tracing::error!(
                        topic = %message.topic,
                        "a message is dropped that its actor panicked over again and again; mend the actor"
                    );
                }
                Arrival::Work(key) => {
                    self.gauge.requests_received.add(1);
                    receipt = Some(Receipt::new(key, self.bell.clone()));
                }
            }
        }
        let request = RouteRequest {
            acceptance: None,
            from: publisher(&message.topic),
            message,
            receipt,
        };
        if request.receipt.is_some() && self.held.has(&request.message.topic) {
            self.hold(request);
        } else {
            self.hand_over(request, ctx);
        }
    }

    /// Lets a message wait. There are no more than Receive Maximum, but for those of sessions that the broker
    /// forgot; of the newest beyond, the broker keeps some.
    fn hold(&mut self, request: RouteRequest) {
        if self.held.len() < 2 * usize::from(self.config.receive_maximum) {
            self.held.push(request);
        }
    }

    /// Tries again what no actor took.
    pub(super) fn hand_over_held(&mut self, ctx: &mut Context<Self>) {
        let mut held = mem::take(&mut self.held);
        let mut may_go_on = true;
        while let Some(request) = held.pop() {
            if may_go_on && !self.held.has(&request.message.topic) {
                may_go_on = self.hand_over(request, ctx);
            } else {
                self.held.push(request);
            }
        }
    }

    /// Gives a message to the actor that owns its topic. False where the router has to make that one first:
    /// until it has, the link does nothing else, so that nothing overtakes the message.
    fn hand_over(&mut self, request: RouteRequest, ctx: &mut Context<Self>) -> bool {
        let routed = self.switchboard.route_request(&request);
        if routed != Routed::First {
            self.handed_over(request, routed);
            return true;
        }
        let asked = self.switchboard.router().send(request.clone());
        ctx.wait(asked.into_actor(self).map(|routed, act, ctx| {
            // One that the router does not take any more drops its receipt, and comes again.
            if let Ok(routed) = routed {
                act.handed_over(request, routed);
            }
            act.hand_over_held(ctx);
            act.flush(ctx);
        }));
        false
    }

    fn handed_over(&mut self, request: RouteRequest, routed: Routed) {
        let RouteRequest { message, receipt, .. } = &request;
        match routed {
            Routed::Full if receipt.is_some() => return self.hold(request),
            Routed::To(0) if !self.switchboard.is_owned(&message.topic) => {
                if receipt.is_some() && outside::since(self.opened_at) < BINDING_GRACE {
                    return self.hold(request);
                }
                self.gauge.dropped_unusable.add(1);
                tracing::warn!(
                    topic = %message.topic,
                    "a message that no actor wants is dropped; a broker.client_id that served more before brings it"
                );
            }
            Routed::Gone => {
                tracing::warn!(topic = %message.topic, "a message is dropped: the actor that owned its topic has stopped");
                // A mailbox that is full looks soon enough by itself.
                let _ = self.switchboard.router().try_send(LookForStopped);
            }
            // The actor's now, and the receipt with it.
            Routed::To(1..) => return,
            // The router could not make the actor.
            Routed::First => match receipt {
                Some(receipt) => return receipt.fail(),
                None => self.gauge.dropped_unusable.add(1),
            },
            // Counted where it was refused, as the binding wants it.
            Routed::To(0) | Routed::Spared | Routed::Full | Routed::Malformed => {}
        }
        if let Some(receipt) = receipt {
            receipt.done();
        }
    }

    /// Looks at what is bound, and says what the broker does not know yet.
    pub(super) fn subscribe(&mut self, ctx: &mut Context<Self>) {
        if !matches!(self.stopping, Stopping::No) {
            return;
        }
        let routes = self.switchboard.routes();
        if !routes.served.ptr_eq(&self.served) {
            self.served = routes.served.clone();
            for (filter, error) in self.subscriptions.want(&self.served) {
                tracing::error!(%filter, %error, "a bound topic cannot be asked for at the broker");
            }
            // What waited for its topic to be bound need wait no more.
            self.hand_over_held(ctx);
        }
        let Some(connection) = self.connection.as_ref().filter(|c| c.allowed.is_some()) else {
            return;
        };
        if self.subscriptions.is_settled() {
            return;
        }
        if let Some(question) = self.subscriptions.next() {
            let asked = match &question {
                Question::Subscribe(filters) => connection.subscribe(filters),
                Question::Unsubscribe(filter) => connection.unsubscribe(filter),
            };
            if !asked {
                // rumqttc's channel is full for the moment; the next event asks again.
                self.subscriptions.not_asked();
            }
        }
        self.gauge.subscriptions.store(self.subscriptions.len(), Relaxed);
        if self.subscriptions.is_settled() {
            self.settled(ctx);
        }
    }

    /// The broker has answered all that we asked of it.
    fn settled(&mut self, ctx: &mut Context<Self>) {
        let trouble = self.subscriptions.refused().map(|(filter, why)| {
            format!("the broker does not let us subscribe to {filter} ({why}); allow it to this user")
        });
        if trouble.is_some() && !mem::replace(&mut self.asks_again, true) {
            ctx.run_later(ASK_AGAIN, |act, ctx| {
                act.asks_again = false;
                act.subscriptions.retry_refused();
                act.flush(ctx);
            });
        }
        self.gauge.set_trouble(trouble);
        if self.gauge.is_connected() {
            return;
        }
        self.backoff.started(outside::now());
        self.gauge.up();
        tracing::info!(
            host = self.config.host,
            port = self.config.port,
            client_id = self.config.client_id,
            "connected to the broker"
        );
        self.say("online");
    }

    /// The broker has a message of ours, or will not have it.
    pub(super) fn taken(&mut self, ack: &PubAck) {
        let sent = self.connection.as_mut().and_then(|c| c.acknowledged(ack.pkid));
        let Some(sent) = sent else { return };
        if let Some(refusal) = refusal(ack) {
            self.gauge.rejected.add(1);
            tracing::warn!(
                topic = %sent.message.topic, reason = refusal,
                "the broker did not take a message; allow this user to publish to clawdbot/#"
            );
        }
        // Refused or not: asked once more it would end the same way.
        if let Some(receipt) = sent.receipt {
            receipt.done();
        }
    }
}

/// Who published to a topic, as far as the topic tells: below `clawdbot/{device_id}/` it is the device, for
/// the broker let nobody else publish there. What a publisher names as its Response Topic must be its own,
/// for the broker does not know on whose behalf we publish.
fn publisher(topic: &TopicName) -> Arc<Publisher> {
    let mut levels = topic.levels();
    let (device_id, rules) = match (levels.next(), levels.next(), levels.next()) {
        (Some("clawdbot"), Some(BRIDGE), _) => (None, BRIDGE_ASKER.clone()),
        (Some("clawdbot"), Some(level), Some(_)) => match DeviceId::parse(level.into()) {
            Ok(device) => {
                let rules = Arc::new(AccessRules::device_default(&device));
                (Some(device), rules)
            }
            Err(_) => (None, STRANGER.clone()),
        },
        _ => (None, STRANGER.clone()),
    };
    Arc::new(Publisher {
        client_id: ByteString::from_static("external broker"),
        device_id,
        rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_published_may_have_its_answer_where_the_topic_says_that_it_belongs() {
        for (published, device, allowed, refused) in [
            (
                "clawdbot/phone/telemetry",
                Some("phone"),
                Some("clawdbot/phone/answer"),
                "clawdbot/tablet/answer",
            ),
            (
                "clawdbot/bridge/request/topics",
                None,
                Some("clawdbot/bridge/response/mine"),
                "clawdbot/bridge/state/hub",
            ),
            ("home/kitchen/door", None, None, "home/kitchen/answer"),
            ("clawdbot/$x/door", None, None, "clawdbot/$x/answer"),
            ("clawdbot/door", None, None, "clawdbot/door/answer"),
        ] {
            let topic = |text: &str| TopicName::parse(text.into()).unwrap();
            let from = publisher(&topic(published));
            assert_eq!(
                from.device_id.as_ref().map(DeviceId::as_str),
                device,
                "{published}"
            );
            let may = |text: &str| from.rules.may_publish(&topic(text), 1, false).is_allowed();
            assert!(allowed.is_none_or(may), "{published}");
            assert!(!may(refused), "{published}");
        }
    }
}
